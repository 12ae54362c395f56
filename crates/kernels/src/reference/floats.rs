//! F32, F16 and BF16: one fused multiply-add per column.

use half::bf16;

use super::{TileInput, TileOut, for_each_output};
use crate::layout::{ROWS, half_to_f32};

/// `acc = fma(w, x, acc)` for each column.
pub(crate) fn f32_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[[f32; ROWS]] = bytemuck::cast_slice(input.w);
    let x: &[[f32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| w[lane].mul_add(x[token], acc))
    });
}

/// The same, weights widened (exact).
pub(crate) fn f16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[[u16; ROWS]] = bytemuck::cast_slice(input.w);
    let x: &[[f32; N]] = bytemuck::cast_slice(input.x);
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| half_to_f32(w[lane]).mul_add(x[token], acc))
    });
}

/// Pairs of columns, the odd one first, as `vdpbf16ps` adds them: denormal inputs and results are zero.
pub(crate) fn bf16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let w: &[[[u16; 2]; ROWS]] = bytemuck::cast_slice(input.w);
    let x: &[[[u16; 2]; N]] = bytemuck::cast_slice(input.x);
    let widen = |bits| flush(bf16::from_bits(bits).to_f32());
    for_each_output(N, out, |lane, token| {
        w.iter().zip(x).fold(0.0, |acc, (w, x)| {
            let (w, x) = (w[lane], x[token]);
            let acc = flush(widen(w[1]).mul_add(widen(x[1]), acc));
            flush(widen(w[0]).mul_add(widen(x[0]), acc))
        })
    });
}

/// Denormals as zeros of their sign.
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}
