//! Q2_K and Q3_K: per super-block of 256 columns everything under the scales of 16 bits is exact in integers
//! (3 * 15 * 127 * 256 and 4 * 32 * 127 * 256 fit in 31 bits); then one or two fused multiply-adds.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X256;
use crate::layout::{Paired, Q2KGroup, Q3KGroup, half_to_f32};

/// For each super-block `acc = fma(d * dx, sum(scale * sum(w * q)), acc)`, then
/// `acc = fma(dmin * dx, -sum(min * sum(q)), acc)`.
pub(crate) fn q2_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[Q2KGroup] = bytemuck::cast_slice(input.w);
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            let x = &x[token];
            let (mut products, mut minimums) = (0, 0);
            for sub in 0..16 {
                let cols = sub * 16..(sub + 1) * 16;
                let dot: i32 = cols.clone().map(|k| w.weight(k, lane) * i32::from(x.q[k])).sum();
                let (scale, min) = w.scale_and_min(sub, lane);
                products += scale * dot;
                minimums -= min * cols.map(|k| i32::from(x.q[k])).sum::<i32>();
            }
            let acc = (half_to_f32(w.d[lane]) * x.d).mul_add(products as f32, acc);
            (half_to_f32(w.dmin[lane]) * x.d).mul_add(minimums as f32, acc)
        })
    });
}

/// For each super-block `acc = fma(d * dx, sum(scale * sum(w * q)), acc)`.
pub(crate) fn q3_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        x.iter().enumerate().fold(0.0, |acc, (b, x)| {
            let (w, scales) = Q3KGroup::read(input.w, b);
            let x = &x[token];
            let mut products = 0;
            for sub in 0..16 {
                let cols = sub * 16..(sub + 1) * 16;
                let dot: i32 = cols.map(|k| w.weight(k, lane) * i32::from(x.q[k])).sum();
                products += w.scale(sub, lane) * dot;
            }
            (half_to_f32(scales[lane]) * x.d).mul_add(products as f32, acc)
        })
    });
}
