//! What an online softmax carries along: a running maximum, sixteen sums of weights, and weighted sums of values.

use crate::exp;
use crate::lanes::{N_LANES, sum_tree};

/// How many rows (query rows times heads) and elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartShape {
    pub(super) n_rows: usize,
    pub(super) v_padded: usize,
}

impl PartShape {
    /// Floats that a part takes: whole lanes.
    pub(super) fn len(self) -> usize {
        self.n_rows * (self.v_padded + N_LANES) + self.n_rows.next_multiple_of(N_LANES)
    }
}

/// A view of floats as the state of `n_rows` rows.
pub(super) struct Part<'a> {
    /// `(n_rows, v_padded)`
    pub(super) values: &'a mut [f32],
    /// `(n_rows, 16)`
    pub(super) sums: &'a mut [[f32; N_LANES]],
    /// `(n_rows,)`; minus infinity as long as nothing was seen.
    pub(super) max: &'a mut [f32],
    v_padded: usize,
}

impl<'a> Part<'a> {
    pub(super) fn of(shape: PartShape, floats: &'a mut [f32]) -> Self {
        let (values, rest) = floats.split_at_mut(shape.n_rows * shape.v_padded);
        let (sums, max) = rest.split_at_mut(shape.n_rows * N_LANES);
        Self { values, sums: sums.as_chunks_mut().0, max: &mut max[..shape.n_rows], v_padded: shape.v_padded }
    }

    /// Nothing seen yet.
    pub(super) fn clear(&mut self) {
        self.values.fill(0.0);
        self.sums.fill([0.0; N_LANES]);
        self.max.fill(f32::NEG_INFINITY);
    }

    /// Adds the part that follows in position.
    pub(super) fn merge(&mut self, next: &Part<'_>) {
        for row in 0..self.max.len() {
            let values = row * self.v_padded..(row + 1) * self.v_padded;
            merge_row(
                (&mut self.max[row], &mut self.sums[row], &mut self.values[values.clone()]),
                (next.max[row], &next.sums[row], &next.values[values]),
            );
        }
    }

    /// The weighted mean of a row.
    pub(super) fn finish(&self, row: usize, out: &mut [f32]) {
        let factor = 1.0 / sum_tree(self.sums[row]);
        for (out, x) in out.iter_mut().zip(&self.values[row * self.v_padded..]) {
            *out = x * factor;
        }
    }
}

/// One row's `(maximum, sums, values)`, and the same of the part that follows. Plain products and sums, which have the
/// same bits however they are vectorized.
pub(super) fn merge_row(
    (max, sums, values): (&mut f32, &mut [f32; N_LANES], &mut [f32]),
    (next_max, next_sums, next_values): (f32, &[f32; N_LANES], &[f32]),
) {
    // A part outside of the row's window has seen nothing, and must not change a bit.
    if is_empty(next_max, next_sums) {
        return;
    }
    if is_empty(*max, sums) {
        *max = next_max;
        *sums = *next_sums;
        values.copy_from_slice(next_values);
        return;
    }
    let larger = if next_max > *max { next_max } else { *max };
    let (a, b) = (exp(*max - larger), exp(next_max - larger));
    *max = larger;
    for (sum, next) in sums.iter_mut().zip(next_sums) {
        *sum = *sum * a + next * b;
    }
    for (value, next) in values.iter_mut().zip(next_values) {
        *value = *value * a + next * b;
    }
}

fn is_empty(max: f32, sums: &[f32; N_LANES]) -> bool {
    max == f32::NEG_INFINITY && sums.iter().all(|&sum| sum == 0.0)
}
