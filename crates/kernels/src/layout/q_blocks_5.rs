//! Q5_0 and Q5_1: blocks of 32 columns with weights of 5 bits; Q4_1: Q5_1 without the fifth bit.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 32 columns of 16 rows in 5 bits, in the order in which they are read. Weights 0 to 15 need one operation to unpack, a
/// mask; 16 to 31 three, and come out times 8: a shift of the pair, a mask, and one that joins it to the upper three bits.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct FiveBits {
    /// Bits `2 * i` and `2 * i + 1` of byte `j` are the lower two bits of column `16 + 4 * i + j`.
    pub pairs: Quads,
    /// `[columns / 4]`: the lower five bits are columns 0 to 15, the upper three are the upper three bits of columns 16
    /// to 31.
    pub quads: [Quads; 4],
}

/// 16 rows of a Q5_0 block, without `d`.
pub(crate) type Q50Group = FiveBits;

/// 16 rows of a Q5_1 block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q51Group {
    pub weights: FiveBits,
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub m: [u16; ROWS],
}

/// 16 rows of a Q4_1 block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q41Group {
    /// `[columns / 4]`: low nibbles are columns 0 to 15, high nibbles 16 to 31.
    pub quads: [Quads; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub m: [u16; ROWS],
}

// As large as in the file.
const _: () = assert!(size_of::<Q50Group>() == 320);
const _: () = assert!(size_of::<Q51Group>() == 384);
const _: () = assert!(size_of::<Q41Group>() == 320);

impl Paired for Q50Group {}

pub(super) const Q5_0: Format = Format {
    ty: TensorType::Q5_0,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| Q50Group::n_bytes(n_cols / 32),
    pack: |rows, row_bytes, group| {
        pack_blocks::<22>(rows, row_bytes, |b, lane, block| {
            Q50Group::block_mut(group, b).put(lane, &block[2..]);
            Q50Group::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (block, scales) = Q50Group::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (k, out) in out.iter_mut().enumerate() {
                *out = (block.weight(k, lane) - 16) as f32 * d;
            }
        }
    },
};

pub(super) const Q5_1: Format = Format {
    ty: TensorType::Q5_1,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| n_cols / 32 * size_of::<Q51Group>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q51Group] = bytemuck::cast_slice_mut(group);
        pack_blocks::<24>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            packed.d[lane] = u16_at(block, 0);
            packed.m[lane] = u16_at(block, 2);
            packed.weights.put(lane, &block[4..]);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q51Group] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(32)) {
            let (d, m) = (half_to_f32(block.d[lane]), half_to_f32(block.m[lane]));
            for (k, out) in out.iter_mut().enumerate() {
                *out = block.weights.weight(k, lane) as f32 * d + m;
            }
        }
    },
};

pub(super) const Q4_1: Format = Format {
    ty: TensorType::Q4_1,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| n_cols / 32 * size_of::<Q41Group>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q41Group] = bytemuck::cast_slice_mut(group);
        pack_blocks::<20>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            packed.d[lane] = u16_at(block, 0);
            packed.m[lane] = u16_at(block, 2);
            put_quads(&mut packed.quads, lane, &block[4..]);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q41Group] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(32)) {
            let (d, m) = (half_to_f32(block.d[lane]), half_to_f32(block.m[lane]));
            for (k, out) in out.iter_mut().enumerate() {
                *out = block.weight(k, lane) as f32 * d + m;
            }
        }
    },
};

impl FiveBits {
    /// The weight (0 to 31) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (i, byte) = (col % 16 / 4, col % 4);
        let packed = self.quads[i][lane][byte];
        i32::from(if col < 16 {
            packed & 0x1F
        } else {
            packed >> 5 << 2 | self.pairs[lane][byte] >> (2 * i) & 3
        })
    }

    /// Puts a row's columns into a block of zeros: `bytes` are the file's, a word of fifth bits, one column after the
    /// other, and 16 bytes of nibbles, whose low ones are columns 0 to 15.
    fn put(&mut self, lane: usize, bytes: &[u8]) {
        let (fifth_bits, nibbles) = bytes.split_first_chunk().expect("a word of fifth bits");
        let fifth_bits = u32::from_le_bytes(*fifth_bits);
        let mut pairs = 0;
        for (i, (quad, nibbles)) in self.quads.iter_mut().zip(nibbles.as_chunks().0).enumerate() {
            let nibbles = u32::from_le_bytes(*nibbles);
            let first = nibbles & 0x0F0F_0F0F | fifth_of_bytes(fifth_bits >> (4 * i));
            let second = nibbles >> 4 & 0x0F0F_0F0F | fifth_of_bytes(fifth_bits >> (16 + 4 * i));
            quad[lane] = (first | (second & 0x1C1C_1C1C) << 3).to_le_bytes();
            pairs |= (second & 0x0303_0303) << (2 * i);
        }
        self.pairs[lane] = pairs.to_le_bytes();
    }
}

/// The four lowest bits, each as bit 4 of a byte.
fn fifth_of_bytes(bits: u32) -> u32 {
    (((bits & 15) * 0x0020_4081) & 0x0101_0101) << 4
}

impl Q41Group {
    /// The weight (0 to 15) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        nibble(self.quads[col % 16 / 4][lane][col % 4], col / 16)
    }
}
