//! IQ2_XXS, IQ2_XS and IQ2_S: an index for 8 magnitudes, and 8 signs.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::codebooks;
use super::{
    Format, Grid, Mask, Paired, Quads, eight_signs, group_bytes, index, pack_blocks, put_bits, put_quads,
    signed, u16_at, unpack,
};
use crate::ActKinds;

/// What the codes of the codebooks mean.
pub(crate) const IQ2_LEVELS: [i8; 3] = [8, 25, 43];

/// 16 rows of an IQ2_XXS super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq2XxsGroup {
    /// `[columns / 32]`: a byte is the index of 8 columns.
    pub indices: [Quads; 8],
    /// `[columns / 4]`: set where weights are negative.
    pub signs: [Mask; 64],
    pub scales: [Quads; 1],
}

/// 16 rows of an IQ2_XS super-block: see [`Iq2XxsGroup`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq2XsGroup {
    pub indices: [Quads; 8],
    /// `[bit of the index, from the ninth][columns / 32]`
    pub high: [[Mask; 8]; 1],
    pub signs: [Mask; 64],
    pub scales: [Quads; 2],
}

/// 16 rows of an IQ2_S super-block: see [`Iq2XsGroup`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq2SGroup {
    pub indices: [Quads; 8],
    pub high: [[Mask; 8]; 2],
    pub signs: [Mask; 64],
    pub scales: [Quads; 2],
}

const _: () = assert!(size_of::<Iq2XxsGroup>() == 17 * 64);
const _: () = assert!(size_of::<Iq2XsGroup>() == 19 * 64);
const _: () = assert!(size_of::<Iq2SGroup>() == 20 * 64);

impl Paired for Iq2XxsGroup {}
impl Paired for Iq2XsGroup {}
impl Paired for Iq2SGroup {}

impl Grid for Iq2XxsGroup {
    const FACTOR: f32 = 0.125;
    const N_SUBS: usize = 8;
    const SCALE_BITS: u8 = 15;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        weights(codebooks::IQ2_XXS[index(&self.indices, &[], i / 2, lane)], &self.signs, i, lane)
    }
}

impl Grid for Iq2XsGroup {
    const FACTOR: f32 = 0.125;
    const N_SUBS: usize = 16;
    const SCALE_BITS: u8 = 15;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        weights(codebooks::IQ2_XS[index(&self.indices, &self.high, i / 2, lane)], &self.signs, i, lane)
    }
}

impl Grid for Iq2SGroup {
    const FACTOR: f32 = 0.125;
    const N_SUBS: usize = 16;
    const SCALE_BITS: u8 = 15;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        weights(codebooks::IQ2_S[index(&self.indices, &self.high, i / 2, lane)], &self.signs, i, lane)
    }
}

pub(in crate::layout) const IQ2_XXS: Format = Format {
    ty: TensorType::IQ2_XXS,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq2XxsGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<66>(rows, row_bytes, |b, lane, block| {
            let packed = Iq2XxsGroup::block_mut(group, b);
            // Per 32 columns: four indices, then four sign codes of 7 bits and the scale.
            for (register, bytes) in block[2..].chunks_exact(8).enumerate() {
                put_quads(&mut packed.indices[register..], lane, &bytes[..4]);
                let rest = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                for j in 0..4 {
                    let code = rest as usize >> (7 * j) & 127;
                    put_signs(&mut packed.signs, register * 4 + j, lane, eight_signs(code));
                }
                packed.scales[0][lane][register / 2] |= ((rest >> 28) << (4 * (register % 2))) as u8;
            }
            Iq2XxsGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq2XxsGroup>,
};

pub(in crate::layout) const IQ2_XS: Format = Format {
    ty: TensorType::IQ2_XS,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq2XsGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<74>(rows, row_bytes, |b, lane, block| {
            let packed = Iq2XsGroup::block_mut(group, b);
            for n in 0..32 {
                // An index of 9 bits and a sign code of 7.
                let code = usize::from(u16_at(block, 2 + 2 * n));
                packed.indices[n / 4][lane][n % 4] = code as u8;
                put_bits(&mut packed.high[0][n / 4], lane, (code >> 8 & 1) << (n % 4));
                put_signs(&mut packed.signs, n, lane, eight_signs(code >> 9));
            }
            put_quads(&mut packed.scales, lane, &block[66..]);
            Iq2XsGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq2XsGroup>,
};

pub(in crate::layout) const IQ2_S: Format = Format {
    ty: TensorType::IQ2_S,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq2SGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<82>(rows, row_bytes, |b, lane, block| {
            let packed = Iq2SGroup::block_mut(group, b);
            put_quads(&mut packed.indices, lane, &block[2..34]);
            for n in 0..32 {
                put_signs(&mut packed.signs, n, lane, usize::from(block[34 + n]));
                // Two high bits of each index.
                let high = usize::from(block[66 + n / 4]) >> (2 * (n % 4));
                for (i, masks) in packed.high.iter_mut().enumerate() {
                    put_bits(&mut masks[n / 4], lane, (high >> i & 1) << (n % 4));
                }
            }
            put_quads(&mut packed.scales, lane, &block[74..]);
            Iq2SGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq2SGroup>,
};

/// Sets the signs of columns `8 * n..`.
fn put_signs(signs: &mut [Mask; 64], n: usize, lane: usize, bits: usize) {
    put_bits(&mut signs[2 * n], lane, bits);
    put_bits(&mut signs[2 * n + 1], lane, bits >> 4);
}

/// The weights of columns `4 * i..`: one half of a codebook entry, with signs.
fn weights(entry: u16, signs: &[Mask; 64], i: usize, lane: usize) -> [i8; 4] {
    let codes = entry >> (8 * (i % 2));
    let magnitudes = std::array::from_fn(|k| IQ2_LEVELS[usize::from(codes >> (2 * k) & 3)]);
    signed(magnitudes, (signs[i] >> (4 * lane)) as usize)
}
