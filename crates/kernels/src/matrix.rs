//! Weights, repacked once at load: 16 rows interleaved, lane = row.
#![expect(unsafe_code, reason = "threads repack disjoint groups of one buffer")]

use ingle_gguf::TensorType;

use crate::layout::{self, Format, ROWS};
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
    format: &'static Format,
    n_rows: usize,
    n_cols: usize,
    /// Bytes of a group of 16 rows.
    group_bytes: usize,
    /// `(ceil(n_rows / 16), group_bytes)`: see `layout`.
    groups: AlignedBytes,
}

impl Matrix {
    /// The types that have kernels.
    pub const TYPES: [TensorType; layout::FORMATS.len()] = {
        let mut types = [TensorType::F32; layout::FORMATS.len()];
        let mut i = 0;
        while i < types.len() {
            types[i] = layout::FORMATS[i].ty;
            i += 1;
        }
        types
    };

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
        let format = layout::format(ty).ok_or(KernelError::UnsupportedType(ty))?;
        let row_bytes = ty.row_bytes(n_cols as u64).and_then(|n| usize::try_from(n).ok());
        let row_bytes = match row_bytes {
            Some(n) if n > 0 && n_rows > 0 && n_rows.checked_mul(n) == Some(data.len()) => n,
            _ => return Err(wrong_size),
        };
        // The bytes are there, so the packed size, at most 33 times as large (one row in a group, and its scales),
        // can be computed without overflow.
        let group_bytes = (format.group_bytes)(n_cols);
        let n_groups = n_rows.div_ceil(ROWS);
        let mut groups = AlignedBytes::zeroed(n_groups * group_bytes);
        let out = Disjoint::new(&mut groups);
        let per_claim = (REPACK_CLAIM_BYTES / group_bytes).max(1);
        pool.run(n_groups.div_ceil(per_claim), &|claim| {
            for group in claim * per_claim..n_groups.min((claim + 1) * per_claim) {
                // SAFETY: each group belongs to one claim.
                let packed = unsafe { out.range(group * group_bytes, group_bytes) };
                let rows = &data[group * ROWS * row_bytes..data.len().min((group + 1) * ROWS * row_bytes)];
                (format.pack)(rows, row_bytes, packed);
            }
        });
        Ok(Self { format, n_rows, n_cols, group_bytes, groups })
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
        self.format.ty
    }

    /// Bytes the weights have in the file: what decode speed is counted in.
    pub fn file_bytes(&self) -> usize {
        let ty = self.format.ty;
        self.n_cols / ty.block_len() * ty.block_bytes() * self.n_rows
    }

    /// Bytes held in memory, padding included.
    pub fn memory_bytes(&self) -> usize {
        self.groups.len()
    }

    /// Which form of the inputs this matrix multiplies.
    pub fn act_kind(&self) -> ActKinds {
        self.format.act_kind
    }

    /// Row `row` as floats into `out` `(n_cols,)`: for embeddings that are tied to this matrix. Gives exactly what
    /// dequantizing the file's row gives.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of a matrix with {} rows", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "one float per column");
        (self.format.unpack)(self.group(row / ROWS), row % ROWS, out);
    }

    /// The type's layout.
    pub(crate) fn format(&self) -> &'static Format {
        self.format
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

/// One row of a file, `bytes` of `out.len()` elements of type `ty`, as floats: exactly what the type's format says.
/// `false` if the type has no kernels, then `out` is untouched.
///
/// # Panics
/// If the number of bytes is not what `out` needs.
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> bool {
    let Some(format) = layout::format(ty) else { return false };
    let expected = ty.row_bytes(out.len() as u64);
    assert_eq!(Some(bytes.len() as u64), expected, "bytes of {} elements of type {ty}", out.len());
    let mut group = AlignedBytes::zeroed((format.group_bytes)(out.len()));
    (format.pack)(bytes, bytes.len(), &mut group);
    (format.unpack)(&group, 0, out);
    true
}
