//! Rotary position embedding.

use crate::Pool;

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(2i, 2i + 1)`: Llama in GGUF.
    Norm,
    /// Halves `(i, i + n_rot / 2)`: Qwen, Phi, Gemma.
    Neox,
}

/// Angles per position: frequency `i` is `base^(-2i / n_rot) / factors[i]`, scaled as configured.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Elements of a head that rotate.
    pub n_rot: usize,
    /// Which rotate together.
    pub style: RopeStyle,
    /// `(n_rot / 2,)` radians per position.
    pub freqs: Vec<f64>,
    /// Multiplies sine and cosine (YaRN and longrope attention factor).
    pub magnitude: f32,
}

/// Sine and cosine of all frequencies at one position.
#[derive(Clone, Debug, Default)]
pub struct RopeRow {
    /// `(n_rot / 2,)` pairs (cos, sin), magnitude included.
    pub cos_sin: Vec<(f32, f32)>,
}

impl RopeTable {
    /// The angles of a position.
    pub fn row(&self, _position: usize) -> RopeRow {
        todo!()
    }
}

/// Rotates each head of each row of `x (n_rows, n_heads * head_dim)` in place; `rows[i]` belongs to row `i`.
pub fn rope_rows(_pool: &Pool, _table: &RopeTable, _rows: &[RopeRow], _head_dim: usize, _x: &mut [f32]) {
    todo!()
}
