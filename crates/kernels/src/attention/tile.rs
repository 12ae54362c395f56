//! The loop over the tiles of one part of a claim, written once over [`Lanes`] and [`Source`].
//!
//! Everything here is inlined into a function that enables an instruction set, as in [`super::rows`].

#![expect(unsafe_code, reason = "calls of the vector loops")]

use std::ops::Range;

use bytemuck::cast_slice;
use half::f16;
use ingle_step::KvType;

use super::part::Part;
use super::rows::{self, ROWS_MAX};
use super::source::*;
use super::{AttentionJob, Scratch, TILE, Task};
use crate::kv::QUANT_BLOCK;
use crate::lanes::{Lanes, N_LANES};

/// Groups of sixteen slots in a tile.
pub(super) const N_GROUPS: usize = TILE / N_LANES;
/// Claims of at most this many query rows times heads convert what they read in registers, as often as they have blocks
/// of rows; others make floats of a tile once.
pub(super) const DIRECT_ROWS: usize = 8;

/// One part of a claim.
pub(super) struct Tiles<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) job: &'a AttentionJob<'a>,
    pub(super) kv_head: usize,
    /// Query rows of the job.
    pub(super) rows: Range<usize>,
    /// The part.
    pub(super) positions: Range<usize>,
    /// Where the caller will not go on reading.
    pub(super) read_end: usize,
}

impl Tiles<'_> {
    /// What a row sees of `positions`, counted from their start.
    fn visible(&self, row: usize, positions: &Range<usize>) -> Range<usize> {
        let visible = self.task.visible_to(self.job, row);
        let start = visible.start.clamp(positions.start, positions.end);
        let end = visible.end.clamp(start, positions.end);
        start - positions.start..end - positions.start
    }

    /// Computes the part into `scratch.part`.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn run<V: Lanes>(&self, scratch: &mut Scratch<'_>) {
        self.pack_queries::<V>(scratch.q);
        let direct = self.rows.len() * self.task.group <= DIRECT_ROWS;
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.task.layer.layout().kv_type {
                KvType::F32 => self.run_from::<V, F32>(scratch),
                KvType::F16 if direct => self.run_from::<V, F16>(scratch),
                KvType::BF16 if direct => self.run_from::<V, Bf16>(scratch),
                KvType::Q8_0 if direct => self.run_from::<V, Q8>(scratch),
                KvType::Q4_0 if direct => self.run_from::<V, Q4>(scratch),
                KvType::F16 => self.run_converted::<V, F16>(scratch),
                KvType::BF16 => self.run_converted::<V, Bf16>(scratch),
                KvType::Q8_0 => self.run_converted::<V, Q8>(scratch),
                KvType::Q4_0 => self.run_converted::<V, Q4>(scratch),
            }
        }
    }

    /// Puts the queries times `scale` into `packed`: block after block of rows `[k_dim][rows]`, so that what a step
    /// of the chains needs lies together.
    #[inline(always)]
    fn pack_queries<V: Lanes>(&self, packed: &mut [f32]) {
        let (k_dim, group, scale) = (self.task.layer.layout().k_dim, self.task.group, self.task.params.scale);
        let n_rows = self.rows.len() * group;
        let mut m = 0;
        while m < n_rows {
            let n = rows::block_rows::<V>(n_rows - m);
            let block = &mut packed[m * k_dim..(m + n) * k_dim];
            for i in 0..n {
                let row = self.job.first_row + self.rows.start + (m + i) / group;
                let head = self.kv_head * group + (m + i) % group;
                let q = &self.task.q[(row * self.task.params.n_heads + head) * k_dim..][..k_dim];
                for (packed, q) in block[i..].iter_mut().step_by(n).zip(q) {
                    *packed = q * scale;
                }
            }
            m += n;
        }
    }

    /// The starts of the tiles, and what all rows together see.
    fn starts(&self) -> (impl Iterator<Item = usize> + use<>, Range<usize>) {
        let visible = self.task.visible(self.job, &self.rows);
        let first = visible.start.max(self.positions.start) / TILE * TILE;
        let end = visible.end.min(self.positions.end);
        ((first..end).step_by(TILE), visible.start.max(self.positions.start)..end)
    }

    /// [`Tiles::run`] on what is stored.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn run_from<V: Lanes, S: Source>(&self, scratch: &mut Scratch<'_>) {
        let layout = self.task.layer.layout();
        let mut part = Part::of(self.task.shape(self.rows.len()), scratch.part);
        part.clear();
        let (starts, seen) = self.starts();
        for start in starts {
            let (keys, values) = self.stored::<S>(start, &seen);
            let scales = scratch.value_scales.as_chunks_mut::<N_LANES>().0;
            if S::SCALED {
                for (scales, group) in scales.chunks_exact_mut(scales.len() / N_GROUPS).zip(values.scales) {
                    for (scales, stored) in scales.iter_mut().zip(group.as_chunks::<N_LANES>().0) {
                        // SAFETY: arrays of 16; the caller has the instruction set.
                        unsafe { V::load_f16(stored.as_ptr()).store(scales.as_mut_ptr()) };
                    }
                }
            }
            let values = Values { codes: values.codes, scales: scratch.value_scales, next: values.next };
            let tile = rows::Tile {
                k_dim: layout.k_dim,
                v_padded: layout.v_padded(),
                softcap: self.task.params.softcap,
                keys,
                values,
            };
            // SAFETY: the caller has the instruction set.
            unsafe { self.rows::<V, S>(start, &tile, scratch.q, scratch.scores, &mut part) };
        }
    }

    /// [`Tiles::run`] on floats made of each tile.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn run_converted<V: Lanes, S: Source>(&self, scratch: &mut Scratch<'_>) {
        let layout = self.task.layer.layout();
        let (k_group, v_group) = (layout.k_dim * N_LANES, layout.v_padded() * N_LANES);
        let mut part = Part::of(self.task.shape(self.rows.len()), scratch.part);
        part.clear();
        let (starts, seen) = self.starts();
        for start in starts {
            let (stored_keys, stored_values) = self.stored::<S>(start, &seen);
            // SAFETY: the caller has the instruction set.
            unsafe {
                for g in groups(start, &seen) {
                    convert_keys::<V, S>(&stored_keys, g, &mut scratch.keys[g * k_group..][..k_group]);
                    convert_values::<V, S>(&stored_values, g, &mut scratch.values[g * v_group..][..v_group]);
                }
            }
            let (keys, values) = (&*scratch.keys, &*scratch.values);
            // The next tile was asked for above: here "next" are lines that are there already.
            let tile = rows::Tile::<F32> {
                k_dim: layout.k_dim,
                v_padded: layout.v_padded(),
                softcap: self.task.params.softcap,
                keys: Keys {
                    codes: std::array::from_fn(|g| &keys[g * k_group..][..k_group]),
                    scales: [&[]; N_GROUPS],
                    next: std::array::from_fn(|g| keys[g * k_group..].as_ptr().cast()),
                },
                values: Values {
                    codes: std::array::from_fn(|g| &values[g * v_group..][..v_group]),
                    scales: &[],
                    next: std::array::from_fn(|g| values[g * v_group..].as_ptr().cast()),
                },
            };
            // SAFETY: the caller has the instruction set.
            unsafe { self.rows::<V, F32>(start, &tile, scratch.q, scratch.scores, &mut part) };
        }
    }

    /// Where the tile at `start` is stored, of which `seen` is visible, and the tile after it.
    #[inline(always)]
    fn stored<S: Source>(&self, start: usize, seen: &Range<usize>) -> (Keys<'_, S>, StoredValues<'_, S>) {
        let layer = self.task.layer;
        let block_size = layer.layout().block_size;
        let mut keys =
            Keys { codes: [&[]; N_GROUPS], scales: [&[]; N_GROUPS], next: [std::ptr::null(); N_GROUPS] };
        let mut values = StoredValues {
            codes: [&[]; N_GROUPS],
            scales: [&[]; N_GROUPS],
            next: [std::ptr::null(); N_GROUPS],
        };
        let visible = groups(start, seen);
        for g in 0..N_GROUPS {
            // Of what nobody sees there may be no block: then any other.
            let position = start + g.clamp(visible.start, visible.end - 1) * N_LANES;
            let block = self.job.block_table[position / block_size];
            let stored_keys = layer.keys(block, self.kv_head, position % block_size / N_LANES);
            let stored_values = layer.values(block, self.kv_head, position % block_size / N_LANES);
            (keys.codes[g], keys.scales[g]) = (cast_slice(stored_keys.codes), stored_keys.scales);
            (values.codes[g], values.scales[g]) = (cast_slice(stored_values.codes), stored_values.scales);
            let next = position + TILE;
            // Without a next tile these are lines that are there already.
            let next = if next < self.read_end { next } else { position };
            let block = self.job.block_table[next / block_size];
            keys.next[g] = layer.keys(block, self.kv_head, next % block_size / N_LANES).codes.as_ptr();
            values.next[g] = layer.values(block, self.kv_head, next % block_size / N_LANES).codes.as_ptr();
        }
        (keys, values)
    }

    /// All rows against one tile.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn rows<V: Lanes, S: Source>(
        &self,
        start: usize,
        tile: &rows::Tile<'_, S>,
        q: &[f32],
        scores: &mut [f32],
        part: &mut Part<'_>,
    ) {
        let group = self.task.group;
        let n_rows = self.rows.len() * group;
        let positions = start..start + TILE;
        let scores = scores.as_chunks_mut::<TILE>().0;
        let mut m = 0;
        while m < n_rows {
            let n = rows::block_rows::<V>(n_rows - m);
            let mut visible: [Range<usize>; ROWS_MAX] = [const { 0..0 }; ROWS_MAX];
            for (i, visible) in visible[..n].iter_mut().enumerate() {
                *visible = self.visible(self.rows.start + (m + i) / group, &positions);
            }
            let q = &q[m * tile.k_dim..(m + n) * tile.k_dim];
            let visible = &visible[..n];
            // SAFETY: the caller has the instruction set.
            unsafe {
                // Constants, so that only forms that are used are compiled.
                match n {
                    12 if const { V::REGISTERS == 1 && size_of::<S::Code>() == 4 } => {
                        tile.call_rows::<V, 12>(m, q, visible, scores, part);
                    }
                    8 if const { V::REGISTERS == 1 } => tile.call_rows::<V, 8>(m, q, visible, scores, part),
                    6 if const { V::REGISTERS <= 2 } => tile.call_rows::<V, 6>(m, q, visible, scores, part),
                    4 if const { V::REGISTERS <= 2 } => tile.call_rows::<V, 4>(m, q, visible, scores, part),
                    3 if const { V::REGISTERS <= 2 } => tile.call_rows::<V, 3>(m, q, visible, scores, part),
                    2 => tile.call_rows::<V, 2>(m, q, visible, scores, part),
                    1 => tile.call_rows::<V, 1>(m, q, visible, scores, part),
                    _ => unreachable!("a number of rows that `block_rows` gives"),
                }
            }
            m += n;
        }
    }
}

/// The groups of the tile at `start` that hold something of `seen`.
fn groups(start: usize, seen: &Range<usize>) -> Range<usize> {
    let first = seen.start.max(start) - start;
    let end = seen.end.min(start + TILE) - start;
    first / N_LANES..end.div_ceil(N_LANES)
}

/// The values of a tile as stored.
struct StoredValues<'a, S: Source> {
    codes: [&'a [S::Code]; N_GROUPS],
    /// Per group `[16][v_padded / 32]`, empty unless scaled.
    scales: [&'a [f16]; N_GROUPS],
    next: [*const u8; N_GROUPS],
}

/// Makes floats of a group of keys, and asks for the same group of the next tile.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn convert_keys<V: Lanes, S: Source>(keys: &Keys<'_, S>, group: usize, out: &mut [f32]) {
    prefetch(keys.next[group], size_of_val(keys.codes[group]));
    let codes = keys.codes[group];
    let scales = keys.scales[group].as_chunks::<N_LANES>().0;
    let out = out.as_chunks_mut::<N_LANES>().0;
    assert_eq!(codes.len(), S::n_codes(out.len()), "a group of keys");
    for (d, out) in out.iter_mut().enumerate() {
        // SAFETY: `d` is below the number of vectors, whose codes are there; arrays of 16; the caller has the
        // instruction set.
        unsafe {
            let mut k: V = S::vector(codes.as_ptr(), d);
            if S::SCALED {
                k = k.mul(V::load_f16(scales[d / QUANT_BLOCK].as_ptr()));
            }
            k.store(out.as_mut_ptr());
        }
    }
}

/// Makes floats of a group of values, and asks for the same group of the next tile.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn convert_values<V: Lanes, S: Source>(values: &StoredValues<'_, S>, group: usize, out: &mut [f32]) {
    prefetch(values.next[group], size_of_val(values.codes[group]));
    let codes = values.codes[group];
    let out = out.as_chunks_mut::<N_LANES>().0;
    let n_vectors = out.len() / N_LANES;
    let n_codes = S::n_codes(n_vectors);
    assert_eq!(codes.len(), N_LANES * n_codes, "a group of values");
    let scales = values.scales[group];
    let n_scales = scales.len() / N_LANES;
    for (slot, (out, codes)) in out.chunks_exact_mut(n_vectors).zip(codes.chunks_exact(n_codes)).enumerate() {
        for (n, out) in out.iter_mut().enumerate() {
            // SAFETY: `n` is below the number of vectors, whose codes are there; arrays of 16; the caller has the
            // instruction set.
            unsafe {
                let mut v: V = S::vector(codes.as_ptr(), n);
                if S::SCALED {
                    // Sixteen times the same, converted as the keys' scales are.
                    let scale = [scales[slot * n_scales + n / (QUANT_BLOCK / N_LANES)]; N_LANES];
                    v = v.mul(V::load_f16(scale.as_ptr()));
                }
                v.store(out.as_mut_ptr());
            }
        }
    }
}
