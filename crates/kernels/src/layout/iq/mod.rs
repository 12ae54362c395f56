//! The IQ types with codebooks: super-blocks of 256 columns, in which an index stands for 8 or 4 weights.
//!
//! Registers of indices hold 4 indices of each row, low 8 bits. What is beyond 8 bits, and the signs, are masks: one
//! bit per byte of a register. Indices and scales keep the file's bits; where the file has 7 bits for the signs of 8
//! weights, the eighth is spelled out, and scales of 3 bits take 4.

pub(crate) mod codebooks;
mod one_bit;
mod three_bits;
mod two_bits;

use super::{Format, Paired, Quads, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
pub(super) use one_bit::{IQ1_M, IQ1_S};
pub(crate) use one_bit::{Iq1MGroup, Iq1SGroup};
pub(super) use three_bits::{IQ3_S, IQ3_XXS};
pub(crate) use three_bits::{IQ3_S_LEVELS, IQ3_XXS_LEVELS, Iq3SGroup, Iq3XxsGroup};
pub(crate) use two_bits::{IQ2_LEVELS, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup};
pub(super) use two_bits::{IQ2_S, IQ2_XS, IQ2_XXS};

/// A bit per byte of a register: bit `4 * row + byte`.
pub(crate) type Mask = u64;

/// Vector kernels raise weights by this, so that they are unsigned: magnitudes reach 62.
pub(crate) const RAISE: i8 = 64;

/// 16 rows of a super-block whose weights come from a codebook, without `d` (see [`Paired`]).
pub(crate) trait Grid: Paired {
    /// What `d` is multiplied by; the scales are odd integers.
    const FACTOR: f32;

    /// Sub-blocks with a scale: 16 of 16 columns or 8 of 32.
    const N_SUBS: usize;

    /// The bits of a nibble that are scale `s`, which stands for `2 * s + 1`.
    const SCALE_BITS: u8;

    /// `[sub-block / 8]`: a nibble per sub-block, the first in the lowest bits.
    fn scales(&self) -> &[Quads];

    /// The weights of columns `4 * i..`.
    fn quad(&self, i: usize, lane: usize) -> [i8; 4];

    /// The scale of columns `16 * i..`.
    fn scale(&self, i: usize, lane: usize) -> i32 {
        let sub = i * Self::N_SUBS / 16;
        let bits = nibble(self.scales()[sub / 8][lane][sub % 8 / 2], sub % 2);
        2 * (bits & i32::from(Self::SCALE_BITS)) + 1
    }
}

/// Bytes of a group with so many columns.
fn group_bytes<G: Grid>(n_cols: usize) -> usize {
    G::n_bytes(n_cols / 256)
}

/// One row as floats. All products are exact, so their order does not matter.
fn unpack<G: Grid>(group: &[u8], lane: usize, out: &mut [f32]) {
    for (b, out) in out.chunks_exact_mut(256).enumerate() {
        let (block, scales) = G::read(group, b);
        let d = half_to_f32(scales[lane]) * G::FACTOR;
        for (i, out) in out.chunks_exact_mut(4).enumerate() {
            let scale = d * block.scale(i / 4, lane) as f32;
            for (out, weight) in out.iter_mut().zip(block.quad(i, lane)) {
                *out = scale * f32::from(weight);
            }
        }
    }
}

/// Sets a row's four bits of a mask of zeros.
fn put_bits(mask: &mut Mask, lane: usize, bits: usize) {
    *mask |= (bits as Mask & 15) << (4 * lane);
}

/// A row's bit for byte `byte`.
fn bit(mask: Mask, lane: usize, byte: usize) -> usize {
    (mask >> (4 * lane + byte) & 1) as usize
}

/// Index `n` of a row, from its low 8 bits and the masks of the higher ones.
fn index<const R: usize>(low: &[Quads; R], high: &[[Mask; R]], n: usize, lane: usize) -> usize {
    let (register, byte) = (n / 4, n % 4);
    let low = usize::from(low[register][lane][byte]);
    high.iter().enumerate().fold(low, |index, (i, masks)| index | bit(masks[register], lane, byte) << (8 + i))
}

/// The signs of 8 weights from a code of 7 bits: the number of negative ones is even.
fn eight_signs(code: usize) -> usize {
    code | (code.count_ones() as usize & 1) << 7
}

/// Weights with the signs that the low four bits say.
fn signed(weights: [i8; 4], signs: usize) -> [i8; 4] {
    std::array::from_fn(|k| if signs >> k & 1 == 1 { -weights[k] } else { weights[k] })
}
