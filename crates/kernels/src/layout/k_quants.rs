//! Q4_K and Q6_K: super-blocks of 256 columns.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::words::{Blocks, Halves, full_blocks, put_bytes, put_halves};
use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 16 rows of a Q4_K super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q4KGroup {
    /// `[pair of sub-blocks][columns / 4]`: low nibbles are the pair's first 32 columns, high nibbles its second.
    pub quads: [[Quads; 8]; 4],
    /// `[sub-block][row]`
    pub scales: [[u8; ROWS]; 8],
    /// `[pair of sub-blocks][row][sub-block of the pair]`
    pub mins: [[[u8; 2]; ROWS]; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// 16 rows of a Q6_K super-block, without `d` (see [`Paired`]).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KGroup {
    /// `[half][ql byte / 4]`, ql as in the file.
    pub low: [[Quads; 16]; 2],
    /// `[half][qh byte / 4]`, qh as in the file.
    pub high: [[Quads; 8]; 2],
    /// `[sub-block of 16 columns][row]`
    pub scales: [[i8; ROWS]; 16],
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
                packed.scales[sub][lane] = scale;
                packed.mins[sub / 2][lane][sub % 2] = min;
            }
            put_quads(packed.quads.as_flattened_mut(), lane, &block[16..]);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q4KGroup] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(256)) {
            let (d, dmin) = (half_to_f32(block.d[lane]), half_to_f32(block.dmin[lane]));
            for (sub, out) in out.chunks_exact_mut(32).enumerate() {
                let scale = d * f32::from(block.scales[sub][lane]);
                let min = dmin * f32::from(block.mins[sub / 2][lane][sub % 2]);
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
            put_quads(packed.low.as_flattened_mut(), lane, &block[..128]);
            put_quads(packed.high.as_flattened_mut(), lane, &block[128..192]);
            for (scales, &scale) in packed.scales.iter_mut().zip(&block[192..208]) {
                scales[lane] = scale as i8;
            }
            Q6KGroup::scales_mut(group, b)[lane] = u16_at(block, 208);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(256).enumerate() {
            let (block, scales) = Q6KGroup::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (sub, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = d * f32::from(block.scales[sub][lane]);
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
        for (sub, out) in self.scales.iter_mut().enumerate() {
            put_bytes(&scales[sub / 4], sub % 4, out);
        }
        for (pair, out) in self.mins.iter_mut().enumerate() {
            let mut halves: Halves = [0; ROWS];
            put_halves(&mins[pair / 2], pair % 2, &mut halves);
            for (out, half) in out.iter_mut().zip(halves) {
                *out = half.to_le_bytes();
            }
        }
        blocks.put(self.quads.as_flattened_mut(), 16);
    }

    /// The weight (0 to 15) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (col / 64, col % 64);
        nibble(self.quads[pair][rest % 32 / 4][lane][rest % 4], rest / 32)
    }
}

impl Q6KGroup {
    /// A block of each row, without `d`.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 210>) {
        blocks.put(self.low.as_flattened_mut(), 0);
        blocks.put(self.high.as_flattened_mut(), 128);
        let words = blocks.words(192);
        for (sub, out) in self.scales.iter_mut().enumerate() {
            put_bytes(&words[sub / 4], sub % 4, bytemuck::cast_mut(out));
        }
    }

    /// The weight (0 to 63, to be lowered by 32) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        // A half has four runs of 32 columns. Low bits: runs 0 and 1 are the low nibbles of ql, 2 and 3 the high
        // ones. High bits: run `n` is at bits `2n` of qh.
        let (half, rest) = (col / 128, col % 128);
        let low = nibble(self.low[half][rest % 64 / 4][lane][rest % 4], rest / 64);
        let high = self.high[half][rest % 32 / 4][lane][rest % 4] >> (rest / 32 * 2) & 3;
        low | i32::from(high) << 4
    }
}

/// Scale and minimum of a sub-block from the 12 bytes that hold eight of each in 6 bits.
pub(super) fn six_bit_pair(bytes: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (bytes[sub] & 63, bytes[sub + 4] & 63)
    } else {
        (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4)
    }
}
