//! Q5_0 and Q5_1: blocks of 32 columns with weights of 5 bits; Q4_1: Q5_1 without the fifth bit.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::{Format, Paired, Quads, ROWS, fifth_bit, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 16 rows of a Q5_0 block, without `d`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q50Group {
    /// `[columns / 4]`: low nibbles are columns 0 to 15, high nibbles 16 to 31.
    pub quads: [Quads; 4],
    /// The fifth bits, see [`fifth_bit`].
    pub high: Quads,
}

/// 16 rows of a Q5_1 block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q51Group {
    /// `[columns / 4]`: low nibbles are columns 0 to 15, high nibbles 16 to 31.
    pub quads: [Quads; 4],
    /// The fifth bits, see [`fifth_bit`].
    pub high: Quads,
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
            let packed = Q50Group::block_mut(group, b);
            packed.high[lane] = fifth_bits([block[2], block[3], block[4], block[5]]);
            put_quads(&mut packed.quads, lane, &block[6..]);
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
            packed.high[lane] = fifth_bits([block[4], block[5], block[6], block[7]]);
            put_quads(&mut packed.quads, lane, &block[8..]);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q51Group] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(32)) {
            let (d, m) = (half_to_f32(block.d[lane]), half_to_f32(block.m[lane]));
            for (k, out) in out.iter_mut().enumerate() {
                *out = block.weight(k, lane) as f32 * d + m;
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

impl Q50Group {
    /// The weight (0 to 31, to be lowered by 16) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        four_bits(&self.quads, col, lane) | fifth_bit(&self.high, col, lane) << 4
    }
}

impl Q51Group {
    /// The weight (0 to 31) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        four_bits(&self.quads, col, lane) | fifth_bit(&self.high, col, lane) << 4
    }
}

impl Q41Group {
    /// The weight (0 to 15) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        four_bits(&self.quads, col, lane)
    }
}

fn four_bits(quads: &[Quads; 4], col: usize, lane: usize) -> i32 {
    nibble(quads[col % 16 / 4][lane][col % 4], col / 16)
}

/// The file's bits of 32 columns, one after the other, in the order that [`fifth_bit`] describes.
fn fifth_bits(bits: [u8; 4]) -> [u8; 4] {
    let bits = u32::from_le_bytes(bits);
    std::array::from_fn(|col| {
        // Every fourth bit, moved together.
        let bits = bits >> col & 0x1111_1111;
        let bits = (bits | bits >> 3) & 0x0303_0303;
        let bits = (bits | bits >> 6) & 0x000F_000F;
        ((bits | bits >> 12) as u8).rotate_left(4)
    })
}
