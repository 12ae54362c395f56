//! The product: rows of activations times repacked weights.

use crate::{Activations, Matrix, Pool};

/// One matrix of a product and where its outputs go.
#[derive(Debug)]
pub struct Product<'a> {
    /// `(n_out, n_in)`
    pub weights: &'a Matrix,
    /// `(n_out,)`, added to the sum.
    pub bias: Option<&'a [f32]>,
    /// Add to what `out` holds (residual) instead of replacing it.
    pub accumulate: bool,
    /// `(n_rows of x, n_out)`
    pub out: &'a mut [f32],
}

/// Multiplies all rows of `x` by each matrix: one parallel loop (one barrier) for all of them.
pub fn matmul(_pool: &Pool, _x: &Activations, _products: &mut [Product<'_>]) {
    todo!()
}

/// `out = silu(gate · x) * (up · x)`, `(n_rows of x, n_ff)`: one parallel loop.
pub fn matmul_swiglu(_pool: &Pool, _x: &Activations, _gate: &Matrix, _up: &Matrix, _out: &mut [f32]) {
    todo!()
}
