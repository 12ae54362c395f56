//! Q5_K: as Q4_K. Per super-block of 256 columns everything under the scales of 16 bits is exact in integers
//! (31 * 127 * 32 * 63 * 8 fits in 31 bits); then two fused multiply-adds.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X256;
use crate::layout::{Q5KGroup, half_to_f32};

/// For each super-block `acc = fma(d * dx, sum(scale * sum(w * q)), acc)`, then
/// `acc = fma(-(dmin * dx), sum(min * sum(q)), acc)`.
pub(crate) fn q5_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[Q5KGroup] = bytemuck::cast_slice(input.w);
    let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            let x = &x[token];
            let (mut products, mut minimums) = (0, 0);
            for sub in 0..8 {
                let cols = sub * 32..(sub + 1) * 32;
                let dot: i32 = cols.map(|k| w.weight(k, lane) * i32::from(x.q[k])).sum();
                products += i32::from(w.scales[sub][lane]) * dot;
                minimums += i32::from(w.mins[sub / 2][lane][sub % 2]) * i32::from(x.sums[sub]);
            }
            let acc = (half_to_f32(w.d[lane]) * x.d).mul_add(products as f32, acc);
            (-(half_to_f32(w.dmin[lane]) * x.d)).mul_add(minimums as f32, acc)
        })
    });
}
