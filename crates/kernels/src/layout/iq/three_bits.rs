//! IQ3_XXS and IQ3_S: an index for 4 magnitudes, and 4 signs.
//!
//! A register of indices has those of 16 columns, and looking up the first weight of each gives columns 0, 4, 8 and 12,
//! then 1, 5, 9 and 13, and so on: signs are masks of such registers.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::codebooks;
use super::{
    Format, Grid, Mask, Paired, Quads, bit, eight_signs, group_bytes, index, pack_blocks, put_bits,
    put_quads, signed, u16_at, unpack,
};
use crate::ActKinds;

/// What the codes of IQ3_XXS mean.
pub(crate) const IQ3_XXS_LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

/// What the codes of IQ3_S mean.
pub(crate) const IQ3_S_LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// 16 rows of an IQ3_XXS super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq3XxsGroup {
    /// `[columns / 16]`: a byte is the index of 4 columns.
    pub indices: [Quads; 16],
    /// `[columns / 16][column % 4]`, a bit for each of four columns: set where weights are negative.
    pub signs: [[Mask; 4]; 16],
    pub scales: [Quads; 1],
}

/// 16 rows of an IQ3_S super-block: see [`Iq3XxsGroup`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq3SGroup {
    pub indices: [Quads; 16],
    /// `[columns / 16]`: the ninth bits of the indices.
    pub high: [[Mask; 16]; 1],
    pub signs: [[Mask; 4]; 16],
    pub scales: [Quads; 1],
}

const _: () = assert!(size_of::<Iq3XxsGroup>() == 25 * 64);
const _: () = assert!(size_of::<Iq3SGroup>() == 27 * 64);

impl Paired for Iq3XxsGroup {}
impl Paired for Iq3SGroup {}

impl Grid for Iq3XxsGroup {
    const FACTOR: f32 = 0.25;
    const N_SUBS: usize = 8;
    const SCALE_BITS: u8 = 15;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        let entry = codebooks::IQ3_XXS[index(&self.indices, &[], i, lane)];
        weights(entry, &IQ3_XXS_LEVELS, &self.signs, i, lane)
    }
}

impl Grid for Iq3SGroup {
    const FACTOR: f32 = 1.0;
    const N_SUBS: usize = 8;
    const SCALE_BITS: u8 = 15;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        let entry = codebooks::IQ3_S[index(&self.indices, &self.high, i, lane)];
        weights(entry, &IQ3_S_LEVELS, &self.signs, i, lane)
    }
}

pub(in crate::layout) const IQ3_XXS: Format = Format {
    ty: TensorType::IQ3_XXS,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq3XxsGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<98>(rows, row_bytes, |b, lane, block| {
            let packed = Iq3XxsGroup::block_mut(group, b);
            put_quads(&mut packed.indices, lane, &block[2..66]);
            // Per 32 columns: four sign codes of 7 bits and the scale.
            for (i, rest) in block[66..].as_chunks::<4>().0.iter().enumerate() {
                let rest = u32::from_le_bytes(*rest);
                for j in 0..4 {
                    let code = rest as usize >> (7 * j) & 127;
                    put_signs(&mut packed.signs, i * 4 + j, lane, eight_signs(code));
                }
                packed.scales[0][lane][i / 2] |= ((rest >> 28) << (4 * (i % 2))) as u8;
            }
            Iq3XxsGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq3XxsGroup>,
};

pub(in crate::layout) const IQ3_S: Format = Format {
    ty: TensorType::IQ3_S,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq3SGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<110>(rows, row_bytes, |b, lane, block| {
            let packed = Iq3SGroup::block_mut(group, b);
            put_quads(&mut packed.indices, lane, &block[2..66]);
            for (register, masks) in packed.high[0].iter_mut().enumerate() {
                put_bits(masks, lane, usize::from(block[66 + register / 2]) >> (4 * (register % 2)));
            }
            for n in 0..32 {
                put_signs(&mut packed.signs, n, lane, usize::from(block[74 + n]));
            }
            put_quads(&mut packed.scales, lane, &block[106..]);
            Iq3SGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq3SGroup>,
};

/// Sets the signs of columns `8 * n..`.
fn put_signs(signs: &mut [[Mask; 4]; 16], n: usize, lane: usize, bits: usize) {
    for k in 0..8 {
        let byte = n % 2 * 2 + k / 4;
        put_bits(&mut signs[n / 2][k % 4], lane, (bits >> k & 1) << byte);
    }
}

/// The weights of columns `4 * i..`: a codebook entry with signs.
fn weights(entry: u16, levels: &[i8; 8], signs: &[[Mask; 4]; 16], i: usize, lane: usize) -> [i8; 4] {
    let magnitudes = std::array::from_fn(|k| levels[usize::from(entry >> (3 * k) & 7)]);
    let signs = signs[i / 4].iter().enumerate().map(|(k, &mask)| bit(mask, lane, i % 4) << k);
    signed(magnitudes, signs.sum())
}
