//! Hidden states to a vector: pooled, cut, normalized. Pure.
//!
//! Rows are added in the order of their tokens, in double precision, so that the bits of a vector depend on its text
//! alone and not on how the text was cut into steps.

use ingle_chat::Pooling;

/// What the vectors of a request are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorSpec {
    /// How rows become one.
    pub pooling: Pooling,
    /// Only the first so many numbers.
    pub dimensions: Option<usize>,
    /// Whether the length is 1.
    pub normalize: bool,
}

/// One text's vector in the making.
#[derive(Clone, Debug)]
pub struct Pooler {
    spec: VectorSpec,
    /// Tokens of the text.
    n_tokens: usize,
    /// `(n_embd,)` once there is a row.
    sum: Vec<f64>,
    /// Rows in the sum.
    n_rows: usize,
}

impl Pooler {
    /// Nothing pooled yet of a text of `n_tokens`.
    pub fn new(spec: VectorSpec, n_tokens: usize) -> Self {
        Self { spec, n_tokens, sum: Vec::new(), n_rows: 0 }
    }

    /// Takes the hidden state `(n_embd,)` of the token at `position`.
    pub fn row(&mut self, position: usize, hidden: &[f32]) {
        let counts = match self.spec.pooling {
            Pooling::Mean => {
                assert_eq!(position, self.n_rows, "rows come once and in order");
                true
            }
            // Of a pair, what comes is the score.
            Pooling::Cls | Pooling::Rank => position == 0,
            Pooling::Last => position + 1 == self.n_tokens,
        };
        if !counts {
            return;
        }
        self.n_rows += 1;
        self.sum.resize(hidden.len(), 0.0);
        for (sum, x) in self.sum.iter_mut().zip(hidden) {
            *sum += f64::from(*x);
        }
    }

    /// The vector, once all rows have come. One without direction stays zero.
    pub fn finish(&self) -> Vec<f32> {
        let n = self.spec.dimensions.unwrap_or(self.sum.len()).min(self.sum.len());
        let n_rows = self.n_rows.max(1) as f64;
        let mut vector: Vec<f64> = self.sum[..n].iter().map(|sum| sum / n_rows).collect();
        if self.spec.normalize {
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|x| *x /= length);
            }
        }
        vector.into_iter().map(|x| x as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[f32; 3]; 3] = [[3.0, 4.0, 0.0], [1.0, 0.0, -6.0], [2.0, 2.0, 3.0]];

    fn check(spec: VectorSpec, expected: &[f32]) {
        let mut pooler = Pooler::new(spec, ROWS.len());
        for (position, row) in ROWS.iter().enumerate() {
            pooler.row(position, row);
        }
        assert_eq!(pooler.finish(), expected, "{spec:?}");
    }

    #[test]
    fn poolings() {
        let raw = |pooling| VectorSpec { pooling, dimensions: None, normalize: false };
        check(raw(Pooling::Rank), &[3.0, 4.0, 0.0]);
        check(raw(Pooling::Mean), &[2.0, 2.0, -1.0]);
        check(raw(Pooling::Cls), &[3.0, 4.0, 0.0]);
        check(raw(Pooling::Last), &[2.0, 2.0, 3.0]);
        let unit = |pooling| VectorSpec { normalize: true, ..raw(pooling) };
        check(unit(Pooling::Cls), &[0.6, 0.8, 0.0]);
        check(unit(Pooling::Mean), &[2.0 / 3.0, 2.0 / 3.0, -1.0 / 3.0]);
        // What is cut is normalized as if the rest had never been.
        check(VectorSpec { dimensions: Some(1), ..unit(Pooling::Last) }, &[1.0]);
        check(VectorSpec { dimensions: Some(2), ..raw(Pooling::Last) }, &[2.0, 2.0]);
    }

    #[test]
    fn no_direction_is_no_number_less() {
        let spec = VectorSpec { pooling: Pooling::Last, dimensions: None, normalize: true };
        let mut pooler = Pooler::new(spec, 1);
        pooler.row(0, &[0.0, 0.0]);
        assert_eq!(pooler.finish(), [0.0, 0.0]);
    }
}
