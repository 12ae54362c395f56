//! Q4_K, Q5_K and Q6_K: per super-block of 256 columns everything under the scales of 16 bits is exact in integers
//! (31 * 127 * 32 * 63 * 8 and 63 * 127 * 16 * 128 * 16 fit in 31 bits); then one or two fused multiply-adds.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q5KGroup, Q6KGroup, SubBlocks, half_to_f32};

/// See [`with_minimums`].
pub(crate) fn q4_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    with_minimums::<Q4KGroup, N>(input, out);
}

/// See [`with_minimums`].
pub(crate) fn q5_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    with_minimums::<Q5KGroup, N>(input, out);
}

/// For each super-block `acc = fma(d * dx, sum(scale * sum(w * q)), acc)`, then
/// `acc = fma(-(dmin * dx), sum(min * sum(q)), acc)`.
fn with_minimums<G: SubBlocks, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[G] = bytemuck::cast_slice(input.w);
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            let x = &x[token];
            let (mut products, mut minimums) = (0, 0);
            for sub in 0..8 {
                let cols = sub * 32..(sub + 1) * 32;
                let dot: i32 = cols.map(|k| w.weight(k, lane) * i32::from(x.q[k])).sum();
                let (scale, min) = w.scale_min(sub, lane);
                products += i32::from(scale) * dot;
                minimums += i32::from(min) * i32::from(x.sums[sub]);
            }
            let (d, dmin) = w.d_dmin(lane);
            let acc = (d * x.d).mul_add(products as f32, acc);
            (-(dmin * x.d)).mul_add(minimums as f32, acc)
        })
    });
}

/// For each super-block `acc = fma(d * dx, sum(scale * sum((w - 32) * q)), acc)`.
pub(crate) fn q6_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (w, scales) = Q6KGroup::read(input.w, b);
            let x = &x[token];
            let mut products = 0;
            for sub in 0..16 {
                let cols = sub * 16..(sub + 1) * 16;
                let dot: i32 = cols.map(|k| w.weight(k, lane) * i32::from(x.q[k])).sum();
                products += i32::from(w.sub_scales(sub)[lane]) * (dot + x.times_neg32[sub]);
            }
            (half_to_f32(scales[lane]) * x.d).mul_add(products as f32, acc)
        })
    });
}
