//! Q2_K and Q3_K: super-blocks of 256 columns with a scale per 16.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::words::{Blocks, Words, full_blocks, put_halves};
use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 16 rows of a Q2_K super-block, in the order in which it is read.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q2KGroup {
    /// `[half][part]`
    pub parts: [[Q2KPart; 2]; 2],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// Of a half's four runs of 32 columns the first or last 16 each: four sub-blocks.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q2KPart {
    /// `[row][run]`: scale in the low nibble, minimum in the high.
    pub scales: Quads,
    /// `[columns / 4]`, qs as in the file: bits `2n` are run `n`.
    pub quads: [Quads; 4],
}

/// 16 rows of a Q3_K super-block, without `d` (see [`Paired`]): two halves of 128 columns.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q3KGroup {
    pub halves: [Q3KHalf; 2],
}

/// Eight sub-blocks of 16 columns, `j` and `j + 4` side by side: pairs of sub-blocks, in the order 0, 2, 1, 3 of `j`.
///
/// A weight of -4 to 3 is held as 0 to 7. A byte has three bits of a weight of the pair's first sub-block at bit 0 and
/// of its second at bit 4. Bits 3 and 7 of three such bytes are the fourth pair's: its weights' high bits in those of
/// the first pair, the middle bits in the second's, the low bits in the third's.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q3KHalf {
    /// `[pair][columns / 4]`
    pub quads: [[Quads; 4]; 3],
    /// `[pair / 2][row][2 * (which of the pair) + pair % 2]`: -32 to 31, twice that in the first three pairs. Kernels
    /// get the fourth pair's weights doubled.
    pub scales: [[[i8; 4]; ROWS]; 2],
}

// Q2_K is as large as in the file. With half of a line of `d` Q3_K has 1,824 bytes, 1,760 in the file.
const _: () = assert!(size_of::<Q2KGroup>() == 1344);
const _: () = assert!(size_of::<Q3KGroup>() == 1792);

impl Paired for Q3KGroup {}

pub(super) const Q2_K: Format = Format {
    ty: TensorType::Q2_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| n_cols / 256 * size_of::<Q2KGroup>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q2KGroup] = bytemuck::cast_slice_mut(group);
        if let Some(full) = full_blocks::<84>(rows, row_bytes) {
            for (blocks, packed) in full.zip(group) {
                packed.put_all(blocks);
            }
            return;
        }
        pack_blocks::<84>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            for (i, part) in packed.parts.as_flattened_mut().iter_mut().enumerate() {
                part.scales[lane] = std::array::from_fn(|run| block[i / 2 * 8 + run * 2 + i % 2]);
                put_quads(&mut part.quads, lane, &block[16 + i * 16..][..16]);
            }
            packed.d[lane] = u16_at(block, 80);
            packed.dmin[lane] = u16_at(block, 82);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q2KGroup] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(256)) {
            let (d, dmin) = (half_to_f32(block.d[lane]), half_to_f32(block.dmin[lane]));
            for (sub, out) in out.chunks_exact_mut(16).enumerate() {
                let (scale, min) = block.scale_and_min(sub, lane);
                let (scale, min) = (d * scale as f32, dmin * min as f32);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * block.weight(sub * 16 + k, lane) as f32 - min;
                }
            }
        }
    },
};

pub(super) const Q3_K: Format = Format {
    ty: TensorType::Q3_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| Q3KGroup::n_bytes(n_cols / 256),
    pack: |rows, row_bytes, group| {
        if let Some(full) = full_blocks::<110>(rows, row_bytes) {
            for (b, blocks) in full.enumerate() {
                Q3KGroup::block_mut(group, b).put_all(blocks);
                blocks.halves(108, Q3KGroup::scales_mut(group, b));
            }
            return;
        }
        pack_blocks::<110>(rows, row_bytes, |b, lane, block| {
            Q3KGroup::block_mut(group, b).put(lane, block);
            Q3KGroup::scales_mut(group, b)[lane] = u16_at(block, 108);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(256).enumerate() {
            let (block, scales) = Q3KGroup::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (sub, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = d * block.scale(sub, lane) as f32;
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * block.weight(sub * 16 + k, lane) as f32;
                }
            }
        }
    },
};

impl Q2KGroup {
    /// A block of each row.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 84>) {
        let scales = blocks.words(0);
        for (half, parts) in self.parts.iter_mut().enumerate() {
            for (i, part) in parts.iter_mut().enumerate() {
                let mut both: Words = [0; ROWS];
                for (lane, both) in both.iter_mut().enumerate() {
                    *both = every_other(scales[2 * half][lane], scales[2 * half + 1][lane], i).to_le();
                }
                part.scales = bytemuck::cast(both);
                blocks.transpose(16 + half * 32 + i * 16, &mut part.quads);
            }
        }
        let [.., d_dmin] = blocks.words(68);
        put_halves(&d_dmin, 0, &mut self.d);
        put_halves(&d_dmin, 1, &mut self.dmin);
    }

    /// The weight (0 to 3) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (half, run, k) = (col / 128, col % 128 / 32, col % 32);
        i32::from(self.parts[half][k / 16].quads[k % 16 / 4][lane][k % 4] >> (2 * run) & 3)
    }

    /// Scale and minimum (0 to 15) of a sub-block.
    pub(crate) fn scale_and_min(&self, sub: usize, lane: usize) -> (i32, i32) {
        let both = self.parts[sub / 8][sub % 2].scales[lane][sub % 8 / 2];
        (nibble(both, 0), nibble(both, 1))
    }
}

impl Q3KGroup {
    /// A block of each row, without `d`.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 110>) {
        let thirds = [blocks.words(0), blocks.words(16)];
        for (half, out) in self.halves.iter_mut().enumerate() {
            let lows = [blocks.words(32 + half * 32), blocks.words(48 + half * 32)];
            for i in 0..4 {
                let mut quads: [Words; 3] = [[0; ROWS]; 3];
                for lane in 0..ROWS {
                    let part = |part: usize| (lows[part][i][lane], thirds[part][i][lane] >> (4 * half));
                    let packed = pack_pairs(part(0), part(1));
                    for (quads, packed) in quads.iter_mut().zip(packed) {
                        quads[lane] = packed.to_le();
                    }
                }
                for (out, quads) in out.quads.iter_mut().zip(quads) {
                    out[i] = bytemuck::cast(quads);
                }
            }
        }
        let [_, first, second, high] = blocks.words(92);
        for (half, out) in self.halves.iter_mut().enumerate() {
            let mut scales: [Words; 2] = [[0; ROWS]; 2];
            for lane in 0..ROWS {
                let words = [first[lane], second[lane], high[lane]];
                let [a, b] = [2 * half, 2 * half + 1].map(|four| four_scales(words, four));
                let [twice_a, twice_b] = [a, b].map(|scales| (scales & 0x7f7f_7f7f) << 1);
                let odd = every_other(twice_a, twice_b, 1) & 0x00ff_00ff | every_other(a, b, 1) & 0xff00_ff00;
                scales[0][lane] = every_other(twice_a, twice_b, 0).to_le();
                scales[1][lane] = odd.to_le();
            }
            out.scales = bytemuck::cast(scales);
        }
    }

    /// Puts in a block of the file, without its `d`.
    fn put(&mut self, lane: usize, block: &[u8; 110]) {
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        for (half, out) in self.halves.iter_mut().enumerate() {
            for i in 0..4 {
                let part = |part: usize| {
                    let at = part * 16 + i * 4;
                    (word(32 + half * 32 + at), word(at) >> (4 * half))
                };
                for (out, packed) in out.quads.iter_mut().zip(pack_pairs(part(0), part(1))) {
                    out[i][lane] = packed.to_le_bytes();
                }
            }
            for (pair, first) in FIRST_OF_PAIR.into_iter().enumerate() {
                for second in 0..2 {
                    let scale = six_bit_scale(&block[96..108], half * 8 + first + 4 * second);
                    out.scales[pair / 2][lane][2 * second + pair % 2] =
                        if pair < 3 { 2 * scale } else { scale };
                }
            }
        }
    }

    /// The weight (-4 to 3) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (sub, i, k) = (col % 128 / 16, col % 16 / 4, col % 4);
        let (pair, second) = pair_of(sub);
        let quads = self.halves[col / 128].quads.map(|quads| quads[i][lane][k] >> (4 * second));
        let held = match quads.get(pair) {
            Some(quad) => quad & 7,
            None => (quads[0] & 8) >> 1 | (quads[1] & 8) >> 2 | (quads[2] & 8) >> 3,
        };
        i32::from(held) - 4
    }

    /// The scale (-32 to 31) of a sub-block.
    pub(crate) fn scale(&self, sub: usize, lane: usize) -> i32 {
        let (pair, second) = pair_of(sub % 8);
        let held = i32::from(self.halves[sub / 8].scales[pair / 2][lane][2 * second + pair % 2]);
        if pair < 3 { held / 2 } else { held }
    }
}

/// The first sub-block of each pair of a half of Q3_K.
pub(crate) const FIRST_OF_PAIR: [usize; 4] = [0, 2, 1, 3];

/// The pair of a sub-block of a half, and whether (0 or 1) it is the second in it. (Exchanging 1 and 2 is its own inverse.)
fn pair_of(sub: usize) -> (usize, usize) {
    (FIRST_OF_PAIR[sub % 4], sub / 4)
}

/// Four columns of the eight sub-blocks of a half as [`Q3KHalf`] holds them. Given for either part of the runs of 32
/// columns: two bits of four runs a byte, and in the low nibble of each byte the third bits of the runs.
#[inline(always)]
fn pack_pairs(first: (u32, u32), second: (u32, u32)) -> [u32; 3] {
    // Runs 0 and 2, then runs 1 and 3.
    let pairs = |(low, third): (u32, u32)| {
        let even = low & 0x3333_3333 | third << 2 & 0x0404_0404 | third << 4 & 0x4040_4040;
        let odd = low >> 2 & 0x3333_3333 | third << 1 & 0x0404_0404 | third << 3 & 0x4040_4040;
        [even, odd]
    };
    let ([a, b], [c, spread]) = (pairs(first), pairs(second));
    [a | spread << 1 & 0x8888_8888, b | spread << 2 & 0x8888_8888, c | spread << 3 & 0x8888_8888]
}

/// A scale from the 12 bytes that hold 16 of them in 6 bits, raised by 32: first the low nibbles, then the high bits.
fn six_bit_scale(bytes: &[u8], sub: usize) -> i8 {
    let low = bytes[sub % 8] >> (sub / 8 * 4) & 15;
    let high = bytes[8 + sub % 4] >> (sub / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// Scales `4 * four` and the three that follow, a byte each, from the three words that hold 16: [`six_bit_scale`].
#[inline(always)]
fn four_scales([first, second, high]: [u32; 3], four: usize) -> u32 {
    let low = if four.is_multiple_of(2) { first } else { second } >> (4 * (four / 2));
    let raised = low & 0x0f0f_0f0f | (high >> (2 * four) & 0x0303_0303) << 4;
    // Lowered by 32: the sixth bit changes and is the sign.
    let scales = raised ^ 0x2020_2020;
    let sign = scales & 0x2020_2020;
    scales | sign << 1 | sign << 2
}

/// Bytes `i` and `i + 2` of two words.
#[inline(always)]
fn every_other(first: u32, second: u32, i: usize) -> u32 {
    let two = |word: u32| word >> (8 * i) & 0xff | word >> (8 * i + 8) & 0xff00;
    two(first) | two(second) << 16
}
