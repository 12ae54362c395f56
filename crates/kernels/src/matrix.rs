//! Weights, repacked once at load: 16 rows interleaved, lane = row.

use ingle_gguf::TensorType;

use crate::{ActKinds, Pool};

/// Why weights cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// There are no kernels for this type yet.
    #[error("weights of type {0} are not supported yet (F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K are)")]
    UnsupportedType(TensorType),
    /// The bytes are not what type and shape need.
    #[error("{n_bytes} bytes do not hold {n_rows} rows of {n_cols} {ty} weights")]
    WrongSize {
        /// The type.
        ty: TensorType,
        /// Rows (outputs).
        n_rows: usize,
        /// Columns (inputs).
        n_cols: usize,
        /// What was given.
        n_bytes: usize,
    },
}

/// A weight matrix `(n_rows, n_cols)`: `n_rows` outputs from `n_cols` inputs.
#[derive(Debug)]
pub struct Matrix {}

impl Matrix {
    /// Repacks GGUF rows. Rows that do not fill the last group of 16 are padded with zeros inside.
    ///
    /// # Errors
    /// If the type has no kernels, or the size does not fit.
    pub fn from_gguf(
        _ty: TensorType,
        _n_rows: usize,
        _n_cols: usize,
        _data: &[u8],
        _pool: &Pool,
    ) -> Result<Self, KernelError> {
        todo!()
    }

    /// Outputs.
    pub fn n_rows(&self) -> usize {
        todo!()
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        todo!()
    }

    /// The type in the file.
    pub fn ty(&self) -> TensorType {
        todo!()
    }

    /// Bytes the weights have in the file: what decode speed is counted in.
    pub fn file_bytes(&self) -> usize {
        todo!()
    }

    /// Bytes held in memory, padding included.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }

    /// Which form of the inputs this matrix multiplies.
    pub fn act_kind(&self) -> ActKinds {
        todo!()
    }

    /// Row `row` as floats into `out` `(n_cols,)`: for embeddings that are tied to this matrix. Gives exactly what
    /// dequantizing the file's row gives.
    pub fn dequantize_row(&self, _row: usize, _out: &mut [f32]) {
        todo!()
    }
}
