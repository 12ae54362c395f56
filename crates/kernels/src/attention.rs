//! Attention over paged K/V, block by block with an online softmax.

use crate::{KvLayer, Pool};

/// One sequence's query rows.
#[derive(Clone, Debug)]
pub struct AttentionJob<'a> {
    /// The sequence's blocks in order.
    pub block_table: &'a [u32],
    /// Position of the first query row.
    pub start: usize,
    /// How many query rows.
    pub n_rows: usize,
    /// The first row's index in `q` and `out`.
    pub first_row: usize,
    /// Causal: row `i` sees positions up to `start + i`. Otherwise all rows see `start + n_rows` positions.
    pub causal: bool,
}

/// What is the same for all jobs.
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams {
    /// Query heads; a multiple of the layer's K/V heads.
    pub n_heads: usize,
    /// Factor on scores, usually `1 / sqrt(k_dim)`.
    pub scale: f32,
    /// Scores pass through `cap * tanh(score / cap)` if set.
    pub softcap: Option<f32>,
    /// A row sees only this many latest positions, itself included.
    pub window: Option<usize>,
}

/// `out (n, n_heads * v_dim) = softmax(scale * q · Kᵀ) · V` for the query rows `q (n, n_heads * k_dim)` of all jobs.
/// K and V of the rows themselves are in the cache already (stored and rounded). One parallel loop.
pub fn attention(
    _pool: &Pool,
    _layer: &KvLayer,
    _params: AttentionParams,
    _jobs: &[AttentionJob<'_>],
    _q: &[f32],
    _out: &mut [f32],
) {
    todo!()
}
