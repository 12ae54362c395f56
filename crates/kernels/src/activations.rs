//! Inputs of a matrix product, in the forms that the weight types multiply, made once per row.
#![expect(unsafe_code, reason = "threads write disjoint rows of one buffer")]

use bytemuck::{Pod, Zeroable};

use crate::memory::{AlignedBytes, Disjoint};
use crate::norm::{RowNorm, norm_row};
use crate::quantize::{quantize_32, quantize_256, round_to_bf16};
use crate::{Isa, Pool};

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

    /// Bytes of a row in this (single) form.
    pub(crate) fn row_bytes(self, n_cols: usize) -> usize {
        let form = FORMS.iter().find(|form| form.kind == self).expect("one form, not a set of them");
        form.row_bytes(n_cols)
    }
}

/// Rows of activations. Reused from step to step: memory is kept.
///
/// Rows lie in tiles of up to [`TILE`], and within a tile block by block: `[tile][block][row of the tile]`. So a
/// kernel that multiplies a tile reads one ascending stream, at constant offsets. A block is 1 float (`F32`), 2
/// bf16 (`BF16`), [`X32`] (`Q8_32`) or [`X256`] (`Q8_256`).
#[derive(Debug, Default)]
pub struct Activations {
    n_rows: usize,
    n_cols: usize,
    kinds: ActKinds,
    f32: AlignedBytes,
    bf16: AlignedBytes,
    q8_32: AlignedBytes,
    q8_256: AlignedBytes,
}

/// Rows (tokens) of a full tile: as many as a kernel holds in registers.
pub(crate) const TILE: usize = 8;

/// 32 activations as int8.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct X32 {
    pub q: [i8; 32],
    /// The sum of `q` times -8 and times -128: what a product with weights raised by 8 or 128 has too much.
    pub times_neg8: i32,
    pub times_neg128: i32,
    /// The scale.
    pub d: f32,
}

/// 256 activations as int8.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct X256 {
    pub q: [i8; 256],
    /// The sums of 16 times -32: what a product with weights raised by 32 has too much.
    pub times_neg32: [i32; 16],
    /// The sums of 32.
    pub sums: [i16; 8],
    /// The scale.
    pub d: f32,
}

const _: () = assert!(size_of::<X32>() == 44);
const _: () = assert!(size_of::<X256>() == 340);

impl Activations {
    /// Takes in rows `x` `(n_rows, n_cols)`, normed if asked, in every form of `kinds`. In parallel over rows.
    ///
    /// # Panics
    /// If `x` is no whole number of rows, or `n_cols` no whole number of the blocks that `kinds` has.
    pub fn load(
        &mut self,
        pool: &Pool,
        x: &[f32],
        n_cols: usize,
        norm: Option<RowNorm<'_>>,
        kinds: ActKinds,
    ) {
        assert!(n_cols > 0 && x.len().is_multiple_of(n_cols), "{} floats in rows of {n_cols}", x.len());
        let n_rows = x.len() / n_cols;
        if let Some(norm) = norm {
            assert_eq!(norm.n_cols(), n_cols, "the norm has one weight per column");
        }
        for form in FORMS {
            let fits = !kinds.contains(form.kind) || n_cols.is_multiple_of(form.cols_multiple);
            assert!(fits, "{n_cols} columns are no multiple of {}", form.cols_multiple);
        }
        (self.n_rows, self.n_cols, self.kinds) = (n_rows, n_cols, kinds);
        for form in FORMS {
            if kinds.contains(form.kind) {
                self.bytes_mut(form.kind).reserve_discarding(n_rows * form.row_bytes(n_cols));
            }
        }

        let isa = Isa::usable(pool.isa());
        let outs = Outs {
            f32: Disjoint::new(&mut self.f32),
            bf16: Disjoint::new(&mut self.bf16),
            q8_32: Disjoint::new(&mut self.q8_32),
            q8_256: Disjoint::new(&mut self.q8_256),
        };
        // Whole tiles where there are enough of them: rows of one tile share cache lines.
        let n_tiles = n_rows.div_ceil(TILE);
        let rows_per_claim = if n_tiles >= 2 * pool.n_threads() { TILE } else { 1 };
        pool.run(n_rows.div_ceil(rows_per_claim), &|claim| {
            let mut normed = vec![0.0; if norm.is_some() { n_cols } else { 0 }];
            for row in claim * rows_per_claim..n_rows.min((claim + 1) * rows_per_claim) {
                let mut source = &x[row * n_cols..][..n_cols];
                if let Some(norm) = norm {
                    norm_row(isa, source, norm, &mut normed);
                    source = &normed;
                }
                let place = Place { row, n_rows };
                // SAFETY: each row belongs to one claim, and rows have no bytes in common.
                unsafe { outs.put_row(isa, kinds, source, place) };
            }
        });
    }

    /// Rows held.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns of each.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The forms held.
    pub(crate) fn kinds(&self) -> ActKinds {
        self.kinds
    }

    /// Tiles of up to [`TILE`] rows.
    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(TILE)
    }

    /// How many rows a tile has, and its bytes in the given (single) form.
    pub(crate) fn tile(&self, kind: ActKinds, tile: usize) -> (usize, &[u8]) {
        let n = (self.n_rows - tile * TILE).min(TILE);
        let row_bytes = self.row_bytes(kind);
        (n, &self.bytes(kind)[tile * TILE * row_bytes..][..n * row_bytes])
    }

    /// Bytes of a row in the given (single) form.
    pub(crate) fn row_bytes(&self, kind: ActKinds) -> usize {
        kind.row_bytes(self.n_cols)
    }

    fn bytes(&self, kind: ActKinds) -> &AlignedBytes {
        match kind {
            ActKinds::F32 => &self.f32,
            ActKinds::BF16 => &self.bf16,
            ActKinds::Q8_32 => &self.q8_32,
            _ => &self.q8_256,
        }
    }

    fn bytes_mut(&mut self, kind: ActKinds) -> &mut AlignedBytes {
        match kind {
            ActKinds::F32 => &mut self.f32,
            ActKinds::BF16 => &mut self.bf16,
            ActKinds::Q8_32 => &mut self.q8_32,
            _ => &mut self.q8_256,
        }
    }
}

/// The shape of a form.
struct Form {
    kind: ActKinds,
    /// Columns of a block.
    block_cols: usize,
    block_bytes: usize,
    /// Rows must have a multiple of this many columns; a part of a block is filled up with zeros otherwise.
    cols_multiple: usize,
}

impl Form {
    fn row_bytes(&self, n_cols: usize) -> usize {
        n_cols.div_ceil(self.block_cols) * self.block_bytes
    }
}

const FORMS: [Form; 4] = [
    Form { kind: ActKinds::F32, block_cols: 1, block_bytes: 4, cols_multiple: 1 },
    Form { kind: ActKinds::BF16, block_cols: 2, block_bytes: 4, cols_multiple: 1 },
    Form { kind: ActKinds::Q8_32, block_cols: 32, block_bytes: size_of::<X32>(), cols_multiple: 32 },
    Form { kind: ActKinds::Q8_256, block_cols: 256, block_bytes: size_of::<X256>(), cols_multiple: 256 },
];

/// Where a row goes.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    n_rows: usize,
}

impl Place {
    /// The byte at which block `block` of this row lies; a row has `n_blocks` of `block_bytes`.
    fn block_at(self, block: usize, n_blocks: usize, block_bytes: usize) -> usize {
        let first = self.row / TILE * TILE;
        let in_tile = (self.n_rows - first).min(TILE);
        (first * n_blocks + block * in_tile + self.row - first) * block_bytes
    }
}

/// The buffers while rows are being written.
struct Outs<'a> {
    f32: Disjoint<'a, u8>,
    bf16: Disjoint<'a, u8>,
    q8_32: Disjoint<'a, u8>,
    q8_256: Disjoint<'a, u8>,
}

impl Outs<'_> {
    /// Writes a row in all forms.
    ///
    /// # Safety
    /// No other thread may write the same row at the same time.
    unsafe fn put_row(&self, isa: Isa, kinds: ActKinds, x: &[f32], place: Place) {
        let n = x.len();
        if kinds.contains(ActKinds::F32) {
            for (k, &v) in x.iter().enumerate() {
                // SAFETY: places of different rows and blocks do not overlap, here and below.
                let out = unsafe { self.f32.range(place.block_at(k, n, 4), 4) };
                out.copy_from_slice(&v.to_ne_bytes());
            }
        }
        if kinds.contains(ActKinds::BF16) {
            for (b, pair) in x.chunks(2).enumerate() {
                // SAFETY: as above.
                let out = unsafe { self.bf16.range(place.block_at(b, n.div_ceil(2), 4), 4) };
                let high = pair.get(1).map_or(0, |&v| round_to_bf16(v));
                let bits = u32::from(round_to_bf16(pair[0])) | u32::from(high) << 16;
                out.copy_from_slice(&bits.to_ne_bytes());
            }
        }
        if kinds.contains(ActKinds::Q8_32) {
            for (b, block) in x.as_chunks::<32>().0.iter().enumerate() {
                let bytes = size_of::<X32>();
                // SAFETY: as above.
                let out = unsafe { self.q8_32.range(place.block_at(b, n / 32, bytes), bytes) };
                quantize_32(isa, block, bytemuck::from_bytes_mut(out));
            }
        }
        if kinds.contains(ActKinds::Q8_256) {
            for (b, block) in x.as_chunks::<256>().0.iter().enumerate() {
                let bytes = size_of::<X256>();
                // SAFETY: as above.
                let out = unsafe { self.q8_256.range(place.block_at(b, n / 256, bytes), bytes) };
                quantize_256(isa, block, bytemuck::from_bytes_mut(out));
            }
        }
    }
}
