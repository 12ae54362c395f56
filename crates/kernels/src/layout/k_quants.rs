//! Q4_K and Q6_K: super-blocks of 256 columns.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::words::{Blocks, Halves, Words, full_blocks, put_bytes, put_halves};
use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at, u32_at};
use crate::ActKinds;

/// 16 rows of a Q4_K super-block, in the order in which it is read: hardware that asks for memory ahead keeps up with one
/// ascending stream, not with one that jumps between weights and scales.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q4KGroup {
    pub pairs: [Q4KPair; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// Two sub-blocks of 32 columns, whose weights share bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q4KPair {
    /// `[columns / 4]`: low nibbles are the first 32 columns, high nibbles the second.
    pub quads: [Quads; 8],
    pub scales: PairScales,
}

/// Of each row the first sub-block's minimum and scale, then the second's, a byte each: of a register of 16 words, a
/// shift or a mask makes a scale in every lane, or a minimum in each half.
pub(crate) type PairScales = [[u8; 4]; ROWS];

/// 16 rows of a Q6_K super-block, without `d` (see [`Paired`]): `[half][part]`, in the order in which it is read.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KGroup {
    pub parts: [[Q6KPart; 2]; 2],
}

/// Of a half's four runs of 32 columns the first or last 16 each: four sub-blocks.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KPart {
    /// `[columns / 4]`, then a register each for runs 0, 1 and 2 in the lower six bits. The upper two bits of the three
    /// are run 3's, from the top down.
    pub quads: [[Quads; 3]; 4],
    /// `[run][row]`
    pub scales: [[i8; ROWS]; 4],
}

const _: () = assert!(size_of::<Q4KGroup>() == 2368);
const _: () = assert!(size_of::<Q6KGroup>() == 3328);

impl Paired for Q6KGroup {}

pub(super) const Q4_K: Format = Format {
    ty: TensorType::Q4_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| n_cols / 256 * size_of::<Q4KGroup>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q4KGroup] = bytemuck::cast_slice_mut(group);
        if let Some(full) = full_blocks::<144>(rows, row_bytes) {
            for (blocks, packed) in full.zip(group) {
                packed.put_all(blocks);
            }
            return;
        }
        pack_blocks::<144>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            packed.d[lane] = u16_at(block, 0);
            packed.dmin[lane] = u16_at(block, 2);
            let scales = pair_scales(u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
            for (i, pair) in packed.pairs.iter_mut().enumerate() {
                pair.scales[lane] = scales[i].to_le_bytes();
                put_quads(&mut pair.quads, lane, &block[16 + 32 * i..][..32]);
            }
        });
    },
    unpack: unpack::<Q4KGroup>,
};

pub(super) const Q6_K: Format = Format {
    ty: TensorType::Q6_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| Q6KGroup::n_bytes(n_cols / 256),
    pack: |rows, row_bytes, group| {
        if let Some(full) = full_blocks::<210>(rows, row_bytes) {
            for (b, blocks) in full.enumerate() {
                Q6KGroup::block_mut(group, b).put_all(blocks);
                blocks.halves(208, Q6KGroup::scales_mut(group, b));
            }
            return;
        }
        pack_blocks::<210>(rows, row_bytes, |b, lane, block| {
            let packed = Q6KGroup::block_mut(group, b);
            for (part, out) in packed.parts.as_flattened_mut().iter_mut().enumerate() {
                for (i, quads) in out.quads.iter_mut().enumerate() {
                    let [even, odd, high] = six_bits_at(part).map(|at| u32_at(block, at + 4 * i));
                    for (quads, word) in quads.iter_mut().zip(four_in_three(even, odd, high)) {
                        quads[lane] = word.to_le_bytes();
                    }
                }
            }
            for (sub, &scale) in block[192..208].iter().enumerate() {
                packed.sub_scales_mut(sub)[lane] = scale as i8;
            }
            Q6KGroup::scales_mut(group, b)[lane] = u16_at(block, 208);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(256).enumerate() {
            let (block, scales) = Q6KGroup::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (sub, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = d * f32::from(block.sub_scales(sub)[lane]);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * (block.weight(sub * 16 + k, lane) - 32) as f32;
                }
            }
        }
    },
};

/// Super-blocks of eight sub-blocks that have a scale and a minimum each: Q4_K and Q5_K.
pub(crate) trait SubBlocks: Pod {
    /// What a row's scales and minimums are multiplied with.
    fn d_dmin(&self, lane: usize) -> (f32, f32);

    /// The scales of a pair of sub-blocks.
    fn pair_scales(&self, pair: usize) -> &PairScales;

    /// The unsigned weight of a column of the super-block.
    fn weight(&self, col: usize, lane: usize) -> i32;

    /// Scale and minimum of a sub-block.
    fn scale_min(&self, sub: usize, lane: usize) -> (u8, u8) {
        let [first_min, first, second_min, second] = self.pair_scales(sub / 2)[lane];
        if sub.is_multiple_of(2) { (first, first_min) } else { (second, second_min) }
    }
}

impl SubBlocks for Q4KGroup {
    fn d_dmin(&self, lane: usize) -> (f32, f32) {
        (half_to_f32(self.d[lane]), half_to_f32(self.dmin[lane]))
    }

    fn pair_scales(&self, pair: usize) -> &PairScales {
        &self.pairs[pair].scales
    }

    fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (col / 64, col % 64);
        nibble(self.pairs[pair].quads[rest % 32 / 4][lane][rest % 4], rest / 32)
    }
}

/// The [`Format::unpack`] of super-blocks with minimums.
pub(super) fn unpack<G: SubBlocks>(group: &[u8], lane: usize, out: &mut [f32]) {
    let group: &[G] = bytemuck::cast_slice(group);
    for (block, out) in group.iter().zip(out.chunks_exact_mut(256)) {
        let (d, dmin) = block.d_dmin(lane);
        for (sub, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = block.scale_min(sub, lane);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for (k, out) in out.iter_mut().enumerate() {
                *out = scale * block.weight(sub * 32 + k, lane) as f32 - min;
            }
        }
    }
}

/// A row's [`PairScales`], from the 12 bytes that hold eight scales and eight minimums in 6 bits.
#[inline(always)]
pub(super) fn pair_scales(low: u32, mid: u32, high: u32) -> [u32; 4] {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TOP: u32 = 0x3030_3030;
    // Bytes: sub-blocks.
    let scales = [low & SIX, high & FOUR | low >> 2 & TOP];
    let mins = [mid & SIX, high >> 4 & FOUR | mid >> 2 & TOP];
    std::array::from_fn(|pair| {
        let [scales, mins] = [scales, mins].map(|bytes| {
            let bytes = bytes[pair / 2] >> (16 * (pair % 2));
            bytes & 0xff | (bytes & 0xff00) << 8
        });
        mins | scales << 8
    })
}

/// Takes apart what a block of Q4_K or Q5_K of each row begins with: `d`, `dmin` and the scales.
#[inline(always)]
pub(super) fn put_head(
    head: [Words; 4],
    d: &mut Halves,
    dmin: &mut Halves,
    mut scales: [&mut PairScales; 4],
) {
    let [d_dmin, low, mid, high] = head;
    put_halves(&d_dmin, 0, d);
    put_halves(&d_dmin, 1, dmin);
    for lane in 0..ROWS {
        for (out, scales) in scales.iter_mut().zip(pair_scales(low[lane], mid[lane], high[lane])) {
            out[lane] = scales.to_le_bytes();
        }
    }
}

impl Q4KGroup {
    /// A block of each row.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 144>) {
        let scales = self.pairs.each_mut().map(|pair| &mut pair.scales);
        put_head(blocks.words(0), &mut self.d, &mut self.dmin, scales);
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            blocks.put(&mut pair.quads, 16 + 32 * i);
        }
    }
}

impl Q6KGroup {
    /// A block of each row, without `d`.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 210>) {
        for (part, out) in self.parts.as_flattened_mut().iter_mut().enumerate() {
            let [even, odd, high] = six_bits_at(part).map(|at| blocks.words(at));
            for (i, quads) in out.quads.iter_mut().enumerate() {
                for lane in 0..ROWS {
                    let words = four_in_three(even[i][lane], odd[i][lane], high[i][lane]);
                    for (quads, word) in quads.iter_mut().zip(words) {
                        quads[lane] = word.to_le_bytes();
                    }
                }
            }
        }
        let words = blocks.words(192);
        for sub in 0..16 {
            put_bytes(&words[sub / 4], sub % 4, bytemuck::cast_mut(self.sub_scales_mut(sub)));
        }
    }

    /// The scales of a sub-block of 16 columns.
    pub(crate) fn sub_scales(&self, sub: usize) -> &[i8; ROWS] {
        &self.parts[sub / 8][sub % 2].scales[sub % 8 / 2]
    }

    fn sub_scales_mut(&mut self, sub: usize) -> &mut [i8; ROWS] {
        &mut self.parts[sub / 8][sub % 2].scales[sub % 8 / 2]
    }

    /// The weight (0 to 63, to be lowered by 32) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (half, rest) = (col / 128, col % 128);
        let (run, in_run) = (rest / 32, rest % 32);
        let quads = &self.parts[half][in_run / 16].quads[in_run % 16 / 4];
        let [a, b, c] = quads.each_ref().map(|quad| quad[lane][in_run % 4]);
        i32::from(match run {
            0 => a & 63,
            1 => b & 63,
            2 => c & 63,
            _ => a >> 6 << 4 | b >> 6 << 2 | c >> 6,
        })
    }
}

/// Where the 16 bytes each begin that hold the weights of part `part` of a Q6_K block: the low bits of runs 0 and 2, in
/// low and high nibbles, those of runs 1 and 3, and the high bits of all runs.
fn six_bits_at(part: usize) -> [usize; 3] {
    let (half, part) = (part / 2, part % 2 * 16);
    [half * 64 + part, half * 64 + 32 + part, 128 + half * 32 + part]
}

/// Four bytes' weights of four runs as [`Q6KPart`] has them.
#[inline(always)]
fn four_in_three(even: u32, odd: u32, high: u32) -> [u32; 3] {
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x0303_0303;
    let run = |low: u32, i: u32| low >> (i / 2 * 4) & FOUR | (high >> (2 * i) & TWO) << 4;
    let last = run(odd, 3);
    [
        run(even, 0) | (last >> 4 & TWO) << 6,
        run(odd, 1) | (last >> 2 & TWO) << 6,
        run(even, 2) | (last & TWO) << 6,
    ]
}
