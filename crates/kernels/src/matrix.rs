//! Weights, repacked once at load: 16 rows interleaved, lane = row.
#![expect(unsafe_code, reason = "threads repack disjoint groups of one buffer")]

use std::ops::Range;

use ingle_gguf::TensorType;

use crate::layout::{self, Format, ROWS};
use crate::memory::{AlignedBytes, Disjoint};
use crate::{ActKinds, Pool};

/// Repacking is claimed in pieces of about this size: huge pages, so that two threads seldom touch the same fresh one
/// at the same time (the system would zero it twice and give one back).
const REPACK_CLAIM_BYTES: usize = 2 << 20;
/// Pieces per thread that there should be at least, for smaller matrices.
const REPACK_CLAIMS_PER_THREAD: usize = 2;

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
    /// The system has no memory for them.
    #[error("no memory for {n_bytes} bytes of weights: close other programs or use a smaller model")]
    NoMemory {
        /// What was asked for.
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
    /// If the type has no kernels, the size does not fit, or there is no memory.
    pub fn from_gguf(
        ty: TensorType,
        n_rows: usize,
        n_cols: usize,
        data: &[u8],
        pool: &Pool,
    ) -> Result<Self, KernelError> {
        let mut packing = Packing::new(ty, n_rows, n_cols, data.len())?;
        packing.rows(data, pool);
        Ok(packing.finish())
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
        self.groups(group..group + 1)
    }

    /// The packed rows of several groups.
    pub(crate) fn groups(&self, groups: Range<usize>) -> &[u8] {
        &self.groups[groups.start * self.group_bytes..groups.end * self.group_bytes]
    }
}

/// A matrix that is being repacked, some rows at a time.
///
/// Making it takes the memory, but touches nothing of it: the system commits, and zeroes, each page when a thread packs
/// into it. So packing reads the file's bytes once, from the page cache, and writes each packed byte twice: as a zero
/// and as itself.
///
/// Measured with the 4.92 GB of an 8B Q4_K_M model in the page cache, on two cores of Zen 4: 1.3 to 1.5 s from the
/// start of the process to the first token, of some 2 s of processor time. A third of that is the system's zeroing
/// of 4.7 GB of fresh huge pages, a fifth the packing itself, a fifth getting at the file's pages (they were mapped
/// then, and are read now), and an eighth the first token. (Copying the file into memory that is there already takes the two cores 0.5 s.)
#[derive(Debug)]
pub struct Packing {
    matrix: Matrix,
    row_bytes: usize,
    /// Rows that are packed: whole groups, until all are.
    n_done: usize,
}

impl Packing {
    /// Takes memory for a matrix whose rows have `n_bytes` in the file, all together.
    ///
    /// # Errors
    /// If the type has no kernels, the size does not fit, or there is no memory.
    pub fn new(ty: TensorType, n_rows: usize, n_cols: usize, n_bytes: usize) -> Result<Self, KernelError> {
        // Types without kernels are refused first: their block sizes say nothing to us.
        let format = layout::format(ty).ok_or(KernelError::UnsupportedType(ty))?;
        let row_bytes = ty.row_bytes(n_cols as u64).and_then(|n| usize::try_from(n).ok());
        let row_bytes = match row_bytes {
            Some(n) if n > 0 && n_rows > 0 && n_rows.checked_mul(n) == Some(n_bytes) => n,
            _ => return Err(KernelError::WrongSize { ty, n_rows, n_cols, n_bytes }),
        };
        // So many bytes are in a file, so the packed size, at most 33 times as large (one row in a group, and its
        // scales), can be computed without overflow.
        let group_bytes = (format.group_bytes)(n_cols);
        let n_bytes = n_rows.div_ceil(ROWS) * group_bytes;
        let groups = AlignedBytes::try_zeroed(n_bytes).ok_or(KernelError::NoMemory { n_bytes })?;
        Ok(Self { matrix: Matrix { format, n_rows, n_cols, group_bytes, groups }, row_bytes, n_done: 0 })
    }

    /// How many bytes of the file should be packed at a time to have about `n_bytes`: rows of whole groups.
    pub fn piece_bytes(&self, n_bytes: usize) -> usize {
        let group_bytes = ROWS * self.row_bytes;
        (n_bytes / group_bytes).max(1) * group_bytes
    }

    /// Packs the next rows, in parallel.
    ///
    /// # Panics
    /// If they are not whole groups, or the rest.
    pub fn rows(&mut self, data: &[u8], pool: &Pool) {
        let Self { matrix, row_bytes, n_done } = self;
        let (row_bytes, group_bytes, pack) = (*row_bytes, matrix.group_bytes, matrix.format.pack);
        let n_rows = data.len() / row_bytes;
        assert_eq!(data.len() % row_bytes, 0, "whole rows are packed");
        assert!(
            n_rows <= matrix.n_rows - *n_done
                && (n_rows.is_multiple_of(ROWS) || n_rows == matrix.n_rows - *n_done),
            "{n_rows} rows are neither whole groups nor the rest"
        );
        let n_groups = n_rows.div_ceil(ROWS);
        let groups = &mut matrix.groups[n_done.div_ceil(ROWS) * group_bytes..][..n_groups * group_bytes];
        let out = Disjoint::new(groups);
        let per_claim = (REPACK_CLAIM_BYTES / group_bytes)
            .min(n_groups.div_ceil(pool.n_threads() * REPACK_CLAIMS_PER_THREAD))
            .max(1);
        pool.run(n_groups.div_ceil(per_claim), &|claim| {
            for group in claim * per_claim..n_groups.min((claim + 1) * per_claim) {
                // SAFETY: each group belongs to one claim.
                let packed = unsafe { out.range(group * group_bytes, group_bytes) };
                let rows = &data[group * ROWS * row_bytes..data.len().min((group + 1) * ROWS * row_bytes)];
                pack(rows, row_bytes, packed);
            }
        });
        *n_done += n_rows;
    }

    /// Bytes that the matrix holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.matrix.memory_bytes()
    }

    /// The matrix.
    ///
    /// # Panics
    /// If rows are missing.
    pub fn finish(self) -> Matrix {
        assert_eq!(self.n_done, self.matrix.n_rows, "every row is packed");
        self.matrix
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces, by any number of threads, a matrix has the bytes of one that is packed group by group.
    #[test]
    fn pieces_have_the_bytes_of_the_whole() {
        for ty in Matrix::TYPES {
            for n_rows in [1, 15, 16, 17, 33, 100] {
                let n_cols = 3 * ty.block_len();
                let row_bytes = 3 * ty.block_bytes();
                let data: Vec<u8> = (0..n_rows * row_bytes).map(|i| (i * 167 % 251) as u8).collect();
                let format = layout::format(ty).expect("it has kernels");
                let group_bytes = (format.group_bytes)(n_cols);
                let mut expected = AlignedBytes::zeroed(n_rows.div_ceil(ROWS) * group_bytes);
                let rows = data.chunks(ROWS * row_bytes);
                for (rows, group) in rows.zip(expected.chunks_exact_mut(group_bytes)) {
                    (format.pack)(rows, row_bytes, group);
                }
                for n_threads in [1, 3] {
                    let pool = Pool::new(n_threads);
                    let mut packing = Packing::new(ty, n_rows, n_cols, data.len()).expect("it fits");
                    for piece in data.chunks(packing.piece_bytes(40 * row_bytes)) {
                        packing.rows(piece, &pool);
                    }
                    let matrix = packing.finish();
                    assert_eq!(&matrix.groups[..], &expected[..], "{ty}, {n_rows} rows");
                }
            }
        }
        let no_memory =
            Packing::new(TensorType::F32, 1 << 22, 1 << 32, 1 << 56).expect_err("no machine has that");
        assert_eq!(no_memory, KernelError::NoMemory { n_bytes: 1 << 56 });
    }
}
