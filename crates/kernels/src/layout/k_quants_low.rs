//! Q2_K and Q3_K: super-blocks of 256 columns with a scale per 16.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 16 rows of a Q2_K super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q2KGroup {
    /// `[half][qs byte / 4]`, qs as in the file: bits `2n` are run `n` of 32 columns of the half.
    pub quads: [[Quads; 8]; 2],
    /// `[pair of sub-blocks of 16 columns][row][sub-block of the pair]`: scale in the low nibble, minimum in the high.
    pub scales: [[[u8; 2]; ROWS]; 8],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// 16 rows of a Q3_K super-block, without `d` (see [`Paired`]).
///
/// A weight `w` of -4 to 3 under a scale `s` is held as `v = w + 4`, and where `s` is negative as `v = 3 - w`: both are
/// 0 to 7, and `s * w = |s| * v - offset(s)`. So kernels multiply weights by scales in unsigned bytes: 7 * 32 fits.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q3KGroup {
    /// `[half][qs byte / 4]`: the low two bits, in the file's order.
    pub low: [[Quads; 8]; 2],
    /// `[half][part of 16 of each run of 32 columns][register / 2]`: the third bits. Those that a byte of an even
    /// register of `low` needs are bits 2, 3, 6, 7 for its runs 0, 1, 2, 3; an odd register's are bits 0, 1, 4, 5.
    pub high: [[[Quads; 2]; 2]; 2],
    /// `[pair of sub-blocks of 16 columns][row][sub-block of the pair]`: -32 to 31.
    pub scales: [[[i8; 2]; ROWS]; 8],
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
        pack_blocks::<84>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            for (scales, &pair) in packed.scales.iter_mut().zip(block[..16].as_chunks::<2>().0) {
                scales[lane] = pair;
            }
            put_quads(packed.quads.as_flattened_mut(), lane, &block[16..80]);
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
    /// The weight (0 to 3) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (half, run, k) = (col / 128, col % 128 / 32, col % 32);
        i32::from(self.quads[half][k / 4][lane][k % 4] >> (2 * run) & 3)
    }

    /// Scale and minimum (0 to 15) of a sub-block.
    pub(crate) fn scale_and_min(&self, sub: usize, lane: usize) -> (i32, i32) {
        let both = self.scales[sub / 2][lane][sub % 2];
        (nibble(both, 0), nibble(both, 1))
    }
}

impl Q3KGroup {
    /// Puts in a block of the file, without its `d`.
    fn put(&mut self, lane: usize, block: &[u8; 110]) {
        let (third_bits, low_bits) = (&block[..32], &block[32..96]);
        for sub in 0..16 {
            self.scales[sub / 2][lane][sub % 2] = six_bit_scale(&block[96..108], sub);
        }
        for half in 0..2 {
            for part in 0..2 {
                // A bit per run of 32 columns: whether its scale is negative.
                let is_negative = |&run: &usize| self.scale(half * 8 + run * 2 + part, lane) < 0;
                let negative: u8 = (0..4).filter(is_negative).map(|run| 1 << run).sum();
                let flip = each_twice(negative);
                for i in 0..4 {
                    let at = part * 16 + i * 4;
                    for k in 0..4 {
                        self.low[half][at / 4][lane][k] = low_bits[half * 32 + at + k] ^ flip;
                        let bits = (third_bits[at + k] >> (4 * half) & 15) ^ negative;
                        let bits = bits & 3 | (bits & 12) << 2;
                        self.high[half][part][i / 2][lane][k] |= if i % 2 == 0 { bits << 2 } else { bits };
                    }
                }
            }
        }
    }

    /// The weight (-4 to 3) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (half, run, k) = (col / 128, col % 128 / 32, col % 32);
        let low = self.low[half][k / 4][lane][k % 4] >> (2 * run) & 3;
        let high = self.high[half][k / 16][k % 16 / 8][lane][k % 4];
        let high = high >> ([2, 3, 6, 7][run] - k % 8 / 4 * 2) & 1;
        let held = i32::from(low | high << 2);
        if self.scale(col / 16, lane) < 0 { 3 - held } else { held - 4 }
    }

    /// The scale (-32 to 31) of a sub-block.
    pub(crate) fn scale(&self, sub: usize, lane: usize) -> i32 {
        i32::from(self.scales[sub / 2][lane][sub % 2])
    }
}

/// A scale from the 12 bytes that hold 16 of them in 6 bits, raised by 32: first the low nibbles, then the high bits.
fn six_bit_scale(bytes: &[u8], sub: usize) -> i8 {
    let low = bytes[sub % 8] >> (sub / 8 * 4) & 15;
    let high = bytes[8 + sub % 4] >> (sub / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// Each of four bits twice.
fn each_twice(bits: u8) -> u8 {
    let bits = (bits | bits << 2) & 0x33;
    let bits = (bits | bits << 1) & 0x55;
    bits * 3
}
