//! IQ4_NL and MXFP4: per block of 32 columns an exact integer sum, then one fused multiply-add. IQ4_XS: the same per
//! super-block of 256, everything under the scales of 32 being exact (127 * 127 * 32 * 32 * 8 fits in 31 bits).

use super::{TileInput, TileOut, for_each_output};
use crate::activations::{X32, X256};
use crate::layout::{
    IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, MXFP4_VALUES, Mxfp4Group, Nibbles, Paired, half_power, half_to_f32,
};

/// `acc = fma(d * dx, sum(w * q), acc)` for each block.
pub(crate) fn iq4_nl_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, scales) = Iq4NlGroup::read(input.w, b);
            let sum = block_sum(block, &IQ4_VALUES, lane, &x[token].q);
            (half_to_f32(scales[lane]) * x[token].d).mul_add(sum as f32, acc)
        })
    });
}

/// The same, `d` being half the power of two that the block names, and the values being doubled.
pub(crate) fn mxfp4_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, exponents) = Mxfp4Group::read(input.w, b);
            let sum = block_sum(block, &MXFP4_VALUES, lane, &x[token].q);
            (half_power(exponents[lane]) * x[token].d).mul_add(sum as f32, acc)
        })
    });
}

/// For each super-block `acc = fma(d * dx, sum(scale * sum(w * q)), acc)`.
pub(crate) fn iq4_xs_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, scales) = Iq4XsGroup::read(input.w, b);
            let subs = x[token].q.as_chunks::<32>().0.iter().enumerate();
            let products: i32 = subs
                .map(|(sub, q)| block.scale(sub, lane) * block_sum(block.nibbles(sub), &IQ4_VALUES, lane, q))
                .sum();
            (half_to_f32(scales[lane]) * x[token].d).mul_add(products as f32, acc)
        })
    });
}

fn block_sum(block: &Nibbles, values: &[i8; 16], lane: usize, q: &[i8; 32]) -> i32 {
    q.iter().enumerate().map(|(k, &q)| block.weight(values, k, lane) * i32::from(q)).sum()
}
