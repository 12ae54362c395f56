//! Inputs of a matrix product, in the forms that the weight types multiply, made once per row.

use crate::Pool;

/// A set of forms of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActKinds(u8);

impl ActKinds {
    /// As they are: for F32 and F16 weights.
    pub const F32: Self = Self(1);
    /// Rounded to bf16: for BF16 weights.
    pub const BF16: Self = Self(2);
    /// int8 with one scale per 32, and sums: for types with blocks of 32.
    pub const Q8_32: Self = Self(4);
    /// int8 with one scale per 256, and sums of 16 and 32: for K-quants.
    pub const Q8_256: Self = Self(8);

    /// Both sets together.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A norm to apply to rows on their way in.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `(n_cols,)`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Rows of activations. Reused from step to step: memory is kept.
#[derive(Debug, Default)]
pub struct Activations {}

impl Activations {
    /// Takes in rows `x` `(n_rows, n_cols)`, normed if asked, in every form of `kinds`. In parallel over rows.
    pub fn load(
        &mut self,
        _pool: &Pool,
        _x: &[f32],
        _n_cols: usize,
        _norm: Option<RmsNorm<'_>>,
        _kinds: ActKinds,
    ) {
        todo!()
    }

    /// Rows held.
    pub fn n_rows(&self) -> usize {
        todo!()
    }

    /// Columns of each.
    pub fn n_cols(&self) -> usize {
        todo!()
    }
}
