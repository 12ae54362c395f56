//! Q5_0, Q5_1 and Q4_1: per block of 32 columns an exact integer sum, then fused multiply-adds.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X32;
use crate::layout::{Paired, Q41Group, Q50Group, Q51Group, half_to_f32};

/// `acc = fma(d * dx, sum((w - 16) * q), acc)` for each block.
pub(crate) fn q5_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (block, scales) = Q50Group::read(input.w, b);
            let x = &x[token];
            let sum: i32 = (0..32).map(|k| (block.weight(k, lane) - 16) * i32::from(x.q[k])).sum();
            (half_to_f32(scales[lane]) * x.d).mul_add(sum as f32, acc)
        })
    });
}

/// See [`with_minimum`].
pub(crate) fn q5_1_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[Q51Group] = bytemuck::cast_slice(input.w);
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            with_minimum(|k| w.weights.weight(k, lane), w.d[lane], w.m[lane], &x[token], acc)
        })
    });
}

/// See [`with_minimum`].
pub(crate) fn q4_1_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[Q41Group] = bytemuck::cast_slice(input.w);
    let x: &[[X32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            with_minimum(|k| w.weight(k, lane), w.d[lane], w.m[lane], &x[token], acc)
        })
    });
}

/// A block of a type with a minimum: `acc = fma(dx, fma(m / -8, -8 * sum(q), d * sum(w * q)), acc)`. Activations hold
/// their sum times -8; dividing `m` by -8 is exact.
fn with_minimum(weight: impl Fn(usize) -> i32, d: u16, m: u16, x: &X32, acc: f32) -> f32 {
    let dot: i32 = (0..32).map(|k| weight(k) * i32::from(x.q[k])).sum();
    let minimum = (half_to_f32(m) * -0.125).mul_add(x.times_neg8 as f32, half_to_f32(d) * dot as f32);
    x.d.mul_add(minimum, acc)
}
