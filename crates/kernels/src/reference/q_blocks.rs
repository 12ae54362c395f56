//! Q8_0 and Q4_0: per block of 32 columns an exact integer sum, then one fused multiply-add.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X32;
use crate::layout::{Paired, Q40Group, Q80Group, half_to_f32};

/// `acc = fma(d * dx, sum((w - 128) * q), acc)` for each block.
pub(crate) fn q8_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, scales) = Q80Group::read(input.w, b);
            let x = &x[token];
            let sum =
                (0..32).map(|k| block.weight(k, lane) * i32::from(x.q[k])).sum::<i32>() + x.times_neg128;
            (half_to_f32(scales[lane]) * x.d).mul_add(sum as f32, acc)
        })
    });
}

/// `acc = fma(d * dx, sum((w - 8) * q), acc)` for each block.
pub(crate) fn q4_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, scales) = Q40Group::read(input.w, b);
            let x = &x[token];
            let sum = (0..32).map(|k| block.weight(k, lane) * i32::from(x.q[k])).sum::<i32>() + x.times_neg8;
            (half_to_f32(scales[lane]) * x.d).mul_add(sum as f32, acc)
        })
    });
}
