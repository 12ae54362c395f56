//! Rotary position embedding.

#![expect(unsafe_code, reason = "calls of functions that need an instruction set")]

use crate::{Isa, Pool, sin_cos};

/// Elements that are worth a claim.
const ELEMENTS_PER_CLAIM: usize = 8192;

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
    pub fn row(&self, position: usize) -> RopeRow {
        let mut row = RopeRow::default();
        self.row_into(position, &mut row);
        row
    }

    /// The angles of a position, in the memory of an older row.
    pub fn row_into(&self, position: usize, row: &mut RopeRow) {
        row.cos_sin.clear();
        row.cos_sin.extend(self.freqs.iter().map(|freq| {
            let (sin, cos) = sin_cos(position as f64 * freq);
            (cos as f32 * self.magnitude, sin as f32 * self.magnitude)
        }));
    }
}

/// Rotates each head of each row of `x (n_rows, n_heads * head_dim)` in place; `rows[i]` belongs to row `i`.
/// Elements of a head beyond `n_rot` stay as they are. In parallel if there are many rows.
///
/// # Panics
/// If `x` is not `rows.len()` rows of whole heads, or a row's angles are not the table's.
pub fn rope_rows(pool: &Pool, table: &RopeTable, rows: &[RopeRow], head_dim: usize, x: &mut [f32]) {
    if rows.is_empty() || x.is_empty() {
        assert!(x.is_empty(), "no rows of angles for {} elements", x.len());
        return;
    }
    let n_cols = x.len() / rows.len();
    let half = table.n_rot / 2;
    assert!(
        x.len().is_multiple_of(rows.len()) && n_cols.is_multiple_of(head_dim),
        "whole rows of whole heads"
    );
    assert!(2 * half <= head_dim, "a head of {head_dim} cannot rotate {}", table.n_rot);
    assert!(rows.iter().all(|row| row.cos_sin.len() == half), "angles of this table");
    let rows_per_claim = (ELEMENTS_PER_CLAIM / n_cols).max(1);
    pool.run_chunks(x, rows_per_claim * n_cols, &|claim, x| {
        for (x, row) in x.chunks_exact_mut(n_cols).zip(&rows[claim * rows_per_claim..]) {
            rotate_heads(pool.isa(), table.style, &row.cos_sin, head_dim, x);
        }
    });
}

/// Rotates each head of a row.
fn rotate_heads(isa: Isa, style: RopeStyle, cos_sin: &[(f32, f32)], head_dim: usize, x: &mut [f32]) {
    #[inline(always)]
    fn any(style: RopeStyle, cos_sin: &[(f32, f32)], head_dim: usize, x: &mut [f32]) {
        for head in x.chunks_exact_mut(head_dim) {
            rotate(style, cos_sin, &mut head[..2 * cos_sin.len()]);
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(style: RopeStyle, cos_sin: &[(f32, f32)], head_dim: usize, x: &mut [f32]) {
        any(style, cos_sin, head_dim, x);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(style: RopeStyle, cos_sin: &[(f32, f32)], head_dim: usize, x: &mut [f32]) {
        any(style, cos_sin, head_dim, x);
    }
    match isa {
        // SAFETY: an `Isa` above scalar exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(style, cos_sin, head_dim, x) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(style, cos_sin, head_dim, x) },
        _ => any(style, cos_sin, head_dim, x),
    }
}

/// Products and sums are rounded one by one, so plain loops have the same bits however they are vectorized.
#[inline(always)]
fn rotate(style: RopeStyle, cos_sin: &[(f32, f32)], x: &mut [f32]) {
    match style {
        RopeStyle::Norm => {
            for ([a, b], &(cos, sin)) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos_sin) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
        RopeStyle::Neox => {
            let (first, second) = x.split_at_mut(cos_sin.len());
            for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(cos_sin) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

#[cfg(test)]
mod tests;
