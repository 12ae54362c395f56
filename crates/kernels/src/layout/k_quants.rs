//! Q4_K and Q6_K: super-blocks of 256 columns.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::words::{Blocks, Halves, full_blocks, put_bytes, put_halves};
use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
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
    /// `[sub-block][row]`
    pub scales: [[u8; ROWS]; 2],
    /// `[row][sub-block]`
    pub mins: [[u8; 2]; ROWS],
}

/// 16 rows of a Q6_K super-block, without `d` (see [`Paired`]): `[half][part]`, in the order in which it is read.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KGroup {
    pub parts: [[Q6KPart; 2]; 2],
}

/// Of a half's four runs of 32 columns the first or last 16 each. Register `i` has bytes `4 i` to `4 i + 3` of 16 of the
/// file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KPart {
    /// Low bits, `ql` as in the file: runs 0 and 2.
    pub low_even: [Quads; 4],
    /// High bits, `qh` as in the file: all runs.
    pub high: [Quads; 4],
    /// Low bits of runs 1 and 3.
    pub low_odd: [Quads; 4],
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
            for sub in 0..8 {
                let (scale, min) = six_bit_pair(&block[4..16], sub);
                let pair = &mut packed.pairs[sub / 2];
                pair.scales[sub % 2][lane] = scale;
                pair.mins[lane][sub % 2] = min;
            }
            for (pair, weights) in packed.pairs.iter_mut().zip(block[16..].chunks_exact(32)) {
                put_quads(&mut pair.quads, lane, weights);
            }
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q4KGroup] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(256)) {
            let (d, dmin) = (half_to_f32(block.d[lane]), half_to_f32(block.dmin[lane]));
            for (sub, out) in out.chunks_exact_mut(32).enumerate() {
                let scale = d * f32::from(block.pairs[sub / 2].scales[sub % 2][lane]);
                let min = dmin * f32::from(block.pairs[sub / 2].mins[lane][sub % 2]);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * block.weight(sub * 32 + k, lane) as f32 - min;
                }
            }
        }
    },
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
            for (i, part) in packed.parts.as_flattened_mut().iter_mut().enumerate() {
                put_quads(&mut part.low_even, lane, &block[low_at(i)..][..16]);
                put_quads(&mut part.low_odd, lane, &block[low_at(i) + 32..][..16]);
                put_quads(&mut part.high, lane, &block[high_at(i)..][..16]);
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

impl Q4KGroup {
    /// A block of each row. The 6-bit scales and minimums of 16 rows are put together in words of four.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 144>) {
        const SIX: u32 = 0x3f3f_3f3f;
        const FOUR: u32 = 0x0f0f_0f0f;
        const TOP: u32 = 0x3030_3030;
        let [d_dmin, low, mid, high] = blocks.words(0);
        put_halves(&d_dmin, 0, &mut self.d);
        put_halves(&d_dmin, 1, &mut self.dmin);
        let (mut scales, mut mins) = ([[0; ROWS]; 2], [[0; ROWS]; 2]);
        for lane in 0..ROWS {
            let (low, mid, high) = (low[lane], mid[lane], high[lane]);
            scales[0][lane] = low & SIX;
            scales[1][lane] = high & FOUR | low >> 2 & TOP;
            mins[0][lane] = mid & SIX;
            mins[1][lane] = high >> 4 & FOUR | mid >> 2 & TOP;
        }
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            for (high, out) in pair.scales.iter_mut().enumerate() {
                put_bytes(&scales[i / 2], i % 2 * 2 + high, out);
            }
            let mut halves: Halves = [0; ROWS];
            put_halves(&mins[i / 2], i % 2, &mut halves);
            for (out, half) in pair.mins.iter_mut().zip(halves) {
                *out = half.to_le_bytes();
            }
            blocks.put(&mut pair.quads, 16 + 32 * i);
        }
    }

    /// The weight (0 to 15) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (col / 64, col % 64);
        nibble(self.pairs[pair].quads[rest % 32 / 4][lane][rest % 4], rest / 32)
    }
}

impl Q6KGroup {
    /// A block of each row, without `d`.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 210>) {
        for (i, part) in self.parts.as_flattened_mut().iter_mut().enumerate() {
            blocks.transpose(low_at(i), &mut part.low_even);
            blocks.transpose(high_at(i), &mut part.high);
            blocks.transpose(low_at(i) + 32, &mut part.low_odd);
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
        // A half has four runs of 32 columns. Low bits: runs 0 and 1 are the low nibbles of ql, 2 and 3 the high
        // ones. High bits: run `n` is at bits `2n` of qh.
        let (half, rest) = (col / 128, col % 128);
        let (run, in_run) = (rest / 32, rest % 32);
        let part = &self.parts[half][in_run / 16];
        let low = if run % 2 == 0 { &part.low_even } else { &part.low_odd };
        let (i, byte) = (in_run % 16 / 4, in_run % 4);
        let low = nibble(low[i][lane][byte], run / 2);
        let high = part.high[i][lane][byte] >> (run * 2) & 3;
        low | i32::from(high) << 4
    }
}

/// Where the low bits of part `i` of a Q6_K block begin: 16 bytes of runs 0 and 2, and 32 bytes on of runs 1 and 3.
fn low_at(i: usize) -> usize {
    i / 2 * 64 + i % 2 * 16
}

/// Where the 16 bytes of high bits of part `i` begin.
fn high_at(i: usize) -> usize {
    128 + i / 2 * 32 + i % 2 * 16
}

/// Scale and minimum of a sub-block from the 12 bytes that hold eight of each in 6 bits.
pub(super) fn six_bit_pair(bytes: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (bytes[sub] & 63, bytes[sub + 4] & 63)
    } else {
        (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4)
    }
}
