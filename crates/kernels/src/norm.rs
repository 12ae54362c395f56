//! Norms and row arithmetic outside of products.

use crate::{Pool, RmsNorm};

/// Norms rows `x (n_rows, n_cols)` into `out`.
pub fn rms_norm_rows(_pool: &Pool, _x: &[f32], _norm: RmsNorm<'_>, _out: &mut [f32]) {
    todo!()
}

/// Norms each head of `x (n_rows, n_heads * head_dim)` in place with the same weight `(head_dim,)`: Qwen3's Q and
/// K norms.
pub fn rms_norm_heads(_pool: &Pool, _x: &mut [f32], _norm: RmsNorm<'_>) {
    todo!()
}

/// `x += y`, element by element.
pub fn add_rows(_x: &mut [f32], _y: &[f32]) {
    todo!()
}
pub(crate) fn rms_norm_row(_isa: crate::Isa, x: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
    let ss: f32 = x.iter().map(|v| v * v).sum();
    let s = 1.0 / (ss / x.len() as f32 + norm.eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(norm.weight) { *o = x * s * w; }
}
