//! Weights, repacked once at load: 16 rows interleaved, lane = row.
#![expect(unsafe_code, reason = "threads repack disjoint groups of one buffer")]

use ingle_gguf::TensorType;

use crate::layout::{self, ROWS};
use crate::memory::{AlignedBytes, Disjoint};
use crate::{ActKinds, Pool};

/// Repacking is claimed in pieces of about this size.
const REPACK_CLAIM_BYTES: usize = 256 << 10;

/// Why weights cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// There are no kernels for this type yet.
    #[error("weights of type {0} are not supported yet (supported: {types})", types = Matrix::TYPES.map(TensorType::name).join(", "))]
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
pub struct Matrix {
    ty: TensorType,
    n_rows: usize,
    n_cols: usize,
    /// Bytes of a group of 16 rows.
    group_bytes: usize,
    /// `(ceil(n_rows / 16), group_bytes)`: see `layout`.
    groups: AlignedBytes,
}

impl Matrix {
    /// The types that have kernels.
    pub const TYPES: [TensorType; 7] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q8_0,
        TensorType::Q4_0,
        TensorType::Q4_K,
        TensorType::Q6_K,
    ];

    /// Repacks GGUF rows, in parallel. Rows that do not fill the last group of 16 are padded with zeros inside.
    ///
    /// # Errors
    /// If the type has no kernels, or the size does not fit.
    pub fn from_gguf(
        ty: TensorType,
        n_rows: usize,
        n_cols: usize,
        data: &[u8],
        pool: &Pool,
    ) -> Result<Self, KernelError> {
        let wrong_size = KernelError::WrongSize { ty, n_rows, n_cols, n_bytes: data.len() };
        // Types without kernels are refused first: their block sizes say nothing to us.
        layout::group_bytes(ty, 0).ok_or(KernelError::UnsupportedType(ty))?;
        let row_bytes = ty.row_bytes(n_cols as u64).and_then(|n| usize::try_from(n).ok());
        let row_bytes = match row_bytes {
            Some(n) if n > 0 && n_rows > 0 && n_rows.checked_mul(n) == Some(data.len()) => n,
            _ => return Err(wrong_size),
        };
        // The bytes are there, so the packed size, at most 33 times as large (one row in a group, and its scales),
        // can be computed without overflow.
        let group_bytes = layout::group_bytes(ty, n_cols).ok_or(KernelError::UnsupportedType(ty))?;
        let n_groups = n_rows.div_ceil(ROWS);
        let mut groups = AlignedBytes::zeroed(n_groups * group_bytes);
        let out = Disjoint::new(&mut groups);
        let per_claim = (REPACK_CLAIM_BYTES / group_bytes).max(1);
        pool.run(n_groups.div_ceil(per_claim), &|claim| {
            for group in claim * per_claim..n_groups.min((claim + 1) * per_claim) {
                // SAFETY: each group belongs to one claim.
                let packed = unsafe { out.range(group * group_bytes, group_bytes) };
                let rows = &data[group * ROWS * row_bytes..];
                for (lane, row) in rows.chunks_exact(row_bytes).take(ROWS).enumerate() {
                    layout::pack_row(ty, row, lane, packed);
                }
            }
        });
        Ok(Self { ty, n_rows, n_cols, group_bytes, groups })
    }

    /// Outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The type in the file.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Bytes the weights have in the file: what decode speed is counted in.
    pub fn file_bytes(&self) -> usize {
        self.n_cols / self.ty.block_len() * self.ty.block_bytes() * self.n_rows
    }

    /// Bytes held in memory, padding included.
    pub fn memory_bytes(&self) -> usize {
        self.groups.len()
    }

    /// Which form of the inputs this matrix multiplies.
    pub fn act_kind(&self) -> ActKinds {
        match self.ty {
            TensorType::BF16 => ActKinds::BF16,
            TensorType::Q8_0 | TensorType::Q4_0 => ActKinds::Q8_32,
            TensorType::Q4_K | TensorType::Q6_K => ActKinds::Q8_256,
            _ => ActKinds::F32,
        }
    }

    /// Row `row` as floats into `out` `(n_cols,)`: for embeddings that are tied to this matrix. Gives exactly what
    /// dequantizing the file's row gives.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of a matrix with {} rows", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "one float per column");
        layout::unpack_row(self.ty, self.group(row / ROWS), row % ROWS, out);
    }

    /// Groups of 16 rows.
    pub(crate) fn n_groups(&self) -> usize {
        self.n_rows.div_ceil(ROWS)
    }

    /// Bytes of a group.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// The packed rows `16 * group..`.
    pub(crate) fn group(&self, group: usize) -> &[u8] {
        &self.groups[group * self.group_bytes..][..self.group_bytes]
    }
}
