//! IQ4_NL, IQ4_XS and MXFP4: nibbles that stand for one of 16 values.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::{Format, Paired, Quads, ROWS, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// What the nibbles of IQ4_NL and IQ4_XS stand for.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the nibbles of MXFP4 stand for, doubled: 4-bit floats, sign bit first.
pub(crate) const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 16 rows of 32 columns as nibbles.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Nibbles {
    /// `[columns / 4]`: low nibbles are columns 0 to 15, high nibbles 16 to 31.
    pub quads: [Quads; 4],
}

/// 16 rows of an IQ4_NL block, without `d`.
pub(crate) type Iq4NlGroup = Nibbles;

/// 16 rows of an IQ4_XS super-block, without `d` (see [`Paired`]), in the order in which it is read.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq4XsGroup {
    pub halves: [Iq4XsHalf; 2],
}

/// Four sub-blocks of 32 columns.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq4XsHalf {
    /// `[pair of sub-blocks][row][sub-block of the pair]`: from -32 to 31.
    pub scales: [[[i8; 2]; ROWS]; 2],
    /// `[sub-block]`
    pub nibbles: [Nibbles; 4],
}

/// Four MXFP4 blocks of 16 rows. The last of a row may have fewer: then the group ends with the last block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Mxfp4Group {
    /// `[block][row]`: exponents, 127 being 1.
    pub exponents: [[u8; ROWS]; 4],
    /// `[block]`
    pub nibbles: [Nibbles; 4],
}

const _: () = assert!(size_of::<Nibbles>() == 256);
const _: () = assert!(size_of::<Iq4XsGroup>() == 2176);
const _: () = assert!(size_of::<Mxfp4Group>() == 64 + 4 * 256);

impl Paired for Nibbles {}
impl Paired for Iq4XsGroup {}

pub(super) const IQ4_NL: Format = Format {
    ty: TensorType::IQ4_NL,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| Iq4NlGroup::n_bytes(n_cols / 32),
    pack: |rows, row_bytes, group| {
        pack_blocks::<18>(rows, row_bytes, |b, lane, block| {
            put_quads(&mut Iq4NlGroup::block_mut(group, b).quads, lane, &block[2..]);
            Iq4NlGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (block, scales) = Iq4NlGroup::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (k, out) in out.iter_mut().enumerate() {
                *out = d * block.weight(&IQ4_VALUES, k, lane) as f32;
            }
        }
    },
};

pub(super) const IQ4_XS: Format = Format {
    ty: TensorType::IQ4_XS,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| Iq4XsGroup::n_bytes(n_cols / 256),
    pack: |rows, row_bytes, group| {
        pack_blocks::<136>(rows, row_bytes, |b, lane, block| {
            let packed = Iq4XsGroup::block_mut(group, b);
            let high = u16_at(block, 2);
            for sub in 0..8 {
                // Four low bits in a nibble, two high bits in `high`.
                let low = nibble(block[4 + sub / 2], sub % 2) as u8;
                let scale = low | ((high >> (2 * sub) & 3) << 4) as u8;
                packed.halves[sub / 4].scales[sub / 2 % 2][lane][sub % 2] = scale as i8 - 32;
            }
            for (sub, bytes) in block[8..].chunks_exact(16).enumerate() {
                put_quads(&mut packed.halves[sub / 4].nibbles[sub % 4].quads, lane, bytes);
            }
            Iq4XsGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(256).enumerate() {
            let (block, scales) = Iq4XsGroup::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (sub, out) in out.chunks_exact_mut(32).enumerate() {
                let scale = d * block.scale(sub, lane) as f32;
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * block.nibbles(sub).weight(&IQ4_VALUES, k, lane) as f32;
                }
            }
        }
    },
};

pub(super) const MXFP4: Format = Format {
    ty: TensorType::MXFP4,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| Mxfp4Group::block_at(n_cols / 32 - 1) + size_of::<Nibbles>(),
    pack: |rows, row_bytes, group| {
        pack_blocks::<17>(rows, row_bytes, |b, lane, block| {
            group[Mxfp4Group::exponents_at(b) + lane] = block[0];
            let nibbles = &mut group[Mxfp4Group::block_at(b)..][..size_of::<Nibbles>()];
            let nibbles: &mut Nibbles = bytemuck::from_bytes_mut(nibbles);
            put_quads(&mut nibbles.quads, lane, &block[1..]);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (block, exponents) = Mxfp4Group::read(group, b);
            let d = half_power(exponents[lane]);
            for (k, out) in out.iter_mut().enumerate() {
                *out = block.weight(&MXFP4_VALUES, k, lane) as f32 * d;
            }
        }
    },
};

impl Nibbles {
    /// The value of a column of the block.
    pub(crate) fn weight(&self, values: &[i8; 16], col: usize, lane: usize) -> i32 {
        i32::from(values[nibble(self.quads[col % 16 / 4][lane][col % 4], col / 16) as usize])
    }
}

impl Iq4XsGroup {
    /// The scale of a sub-block.
    pub(crate) fn scale(&self, sub: usize, lane: usize) -> i32 {
        i32::from(self.halves[sub / 4].scales[sub / 2 % 2][lane][sub % 2])
    }

    /// The weights of a sub-block.
    pub(crate) fn nibbles(&self, sub: usize) -> &Nibbles {
        &self.halves[sub / 4].nibbles[sub % 4]
    }
}

impl Mxfp4Group {
    /// Offset of block `b`'s exponents.
    pub(crate) fn exponents_at(b: usize) -> usize {
        b / 4 * size_of::<Self>() + b % 4 * ROWS
    }

    /// Offset of block `b`.
    pub(crate) fn block_at(b: usize) -> usize {
        b / 4 * size_of::<Self>() + size_of::<[[u8; ROWS]; 4]>() + b % 4 * size_of::<Nibbles>()
    }

    /// Block `b` of a group and its exponents.
    pub(crate) fn read(group: &[u8], b: usize) -> (&Nibbles, &[u8; ROWS]) {
        (
            bytemuck::from_bytes(&group[Self::block_at(b)..][..size_of::<Nibbles>()]),
            bytemuck::from_bytes(&group[Self::exponents_at(b)..][..ROWS]),
        )
    }
}

/// `2^(e - 128)`: half of what the exponent says, because the values are doubled. The two smallest are denormal.
pub(crate) fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}
