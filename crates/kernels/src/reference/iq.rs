//! The IQ types with codebooks: per super-block of 256 columns everything under the scales is exact in integers
//! (weights reach 62, raised by 64 in the vector kernels: 126 * 127 * 256 * 31 fits in 31 bits), then one fused
//! multiply-add.

use super::{TileInput, TileOut, for_each_output};
use crate::activations::X256;
use crate::layout::{Grid, half_to_f32};

/// The twins of a codebook type.
pub(crate) trait GridTwin: Grid {
    /// For each super-block `acc = fma(d * factor * dx, sum(scale * sum(w * q)), acc)`; `d * factor` is exact.
    fn tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let x: &[[X256; N]] = bytemuck::cast_slice(input.x);
        for_each_output(N, out, |lane, token| {
            x.iter().enumerate().fold(0.0, |acc, (b, x)| {
                let (block, scales) = Self::read(input.w, b);
                let mut products = 0;
                for (i, q) in x[token].q.as_chunks::<4>().0.iter().enumerate() {
                    let quad = block.quad(i, lane);
                    let dot: i32 = quad.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
                    products += block.scale(i / 4, lane) * dot;
                }
                let d = half_to_f32(scales[lane]) * Self::FACTOR;
                (d * x[token].d).mul_add(products as f32, acc)
            })
        });
    }
}

impl<G: Grid> GridTwin for G {}
