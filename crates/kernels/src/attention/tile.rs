//! The loops over one part of a claim, written once over [`Lanes`].
//!
//! Everything here is inlined into a function that enables an instruction set; so there are loops where closures
//! would read better, because a closure that is not inlined would call every instruction as a function. How many rows and vectors are computed
//! together changes registers and speed, never a chain.

use std::ops::Range;

use half::{bf16, f16};
use ingle_step::KvType;

use super::part::Part;
use super::{AttentionJob, Scratch, TILE, Task};
use crate::kv::Q8_BLOCK;
use crate::lanes::{self, Lanes, N_LANES};

const N_GROUPS: usize = TILE / N_LANES;

/// One part of a claim.
pub(super) struct Tiles<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) job: &'a AttentionJob<'a>,
    pub(super) kv_head: usize,
    /// Query rows of the job.
    pub(super) rows: Range<usize>,
    /// The part.
    pub(super) positions: Range<usize>,
}

/// One tile and the memory that goes with it.
struct Tile<'a> {
    k_dim: usize,
    v_padded: usize,
    softcap: Option<f32>,
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scores: &'a mut [f32],
}

impl Tiles<'_> {
    /// What a row sees of `positions`, counted from their start.
    fn visible(&self, row: usize, positions: &Range<usize>) -> Range<usize> {
        let visible = self.task.visible_to(self.job, row);
        let start = visible.start.max(positions.start);
        let end = visible.end.min(positions.end).max(start);
        start - positions.start..end - positions.start
    }

    /// Computes the part into `scratch.part`.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn run<V: Lanes>(&self, scratch: &mut Scratch<'_>) {
        let layout = self.task.layer.layout();
        let group = self.task.group;
        let mut part = Part::of(self.task.shape(self.rows.len()), scratch.part);
        part.clear();
        let visible = self.task.visible(self.job, &self.rows);
        let first = visible.start.max(self.positions.start) / TILE * TILE;
        let end = visible.end.min(self.positions.end);
        for start in (first..end).step_by(TILE) {
            let positions = start..start + TILE;
            let seen = visible.start.max(start) - start..visible.end.min(positions.end) - start;
            // Rows see ranges that move forward, so those that see something of this tile follow each other.
            let mut active =
                self.rows.clone().skip_while(|&row| self.visible(row, &positions).is_empty()).peekable();
            let Some(&first_row) = active.peek() else { continue };
            let n_active = active.take_while(|&row| !self.visible(row, &positions).is_empty()).count();
            // SAFETY: the caller has the instruction set.
            unsafe { self.load::<V>(start, &seen, end, scratch.keys, scratch.values) };
            let mut tile = Tile {
                k_dim: layout.k_dim,
                v_padded: layout.v_padded(),
                softcap: self.task.params.softcap,
                q: scratch.q,
                keys: scratch.keys,
                values: scratch.values,
                scores: scratch.scores,
            };
            let mut m = (first_row - self.rows.start) * group;
            let last = m + n_active * group;
            let range_of = |m: usize| self.visible(self.rows.start + m / group, &positions);
            while m < last {
                // SAFETY: the caller has the instruction set.
                unsafe {
                    if V::REGISTERS == 1 && m + 4 <= last {
                        tile.rows::<V, 4>(m, [0, 1, 2, 3].map(|i| range_of(m + i)), &mut part);
                        m += 4;
                    } else if m + 2 <= last {
                        tile.rows::<V, 2>(m, [0, 1].map(|i| range_of(m + i)), &mut part);
                        m += 2;
                    } else {
                        tile.rows::<V, 1>(m, [range_of(m)], &mut part);
                        m += 1;
                    }
                }
            }
        }
    }

    /// Converts the groups of 16 slots of the tile at `start` that hold something of `seen` (offsets from `start`), and
    /// asks for the memory of the next tile: with few rows, attention waits for nothing but memory.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn load<V: Lanes>(
        &self,
        start: usize,
        seen: &Range<usize>,
        end: usize,
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let layer = self.task.layer;
        let layout = layer.layout();
        let place = |position: usize| {
            let block = self.job.block_table[position / layout.block_size];
            (block, position % layout.block_size / N_LANES)
        };
        let n_scales = layout.v_padded().div_ceil(Q8_BLOCK);
        for group in seen.start / N_LANES..seen.end.div_ceil(N_LANES) {
            let position = start + group * N_LANES;
            let (block, in_block) = place(position);
            let stored_keys = layer.keys(block, self.kv_head, in_block);
            let stored_values = layer.values(block, self.kv_head, in_block);
            let (next_keys, next_values) = if position + TILE < end {
                let (block, in_block) = place(position + TILE);
                let (keys, values) =
                    (layer.keys(block, self.kv_head, in_block), layer.values(block, self.kv_head, in_block));
                (keys.codes, values.codes)
            } else {
                (&[][..], &[][..])
            };
            let keys = &mut keys[group * layout.k_dim * N_LANES..][..layout.k_dim * N_LANES];
            let keys = keys.as_chunks_mut::<N_LANES>().0;
            let values = &mut values[group * layout.v_padded() * N_LANES..][..layout.v_padded() * N_LANES];
            // SAFETY: arrays of 16; the caller has the instruction set.
            unsafe {
                prefetch(next_keys);
                convert::<V>(layout.kv_type, stored_keys.codes, keys);
                prefetch(next_values);
                convert::<V>(layout.kv_type, stored_values.codes, values.as_chunks_mut::<N_LANES>().0);
                if layout.kv_type == KvType::Q8_0 {
                    let scales = stored_keys.scales.as_chunks::<N_LANES>().0;
                    for (keys, scales) in keys.chunks_mut(Q8_BLOCK).zip(scales) {
                        multiply(V::load_f16(scales.as_ptr()), keys);
                    }
                    let rows = values.chunks_exact_mut(layout.v_padded());
                    for (row, scales) in rows.zip(stored_values.scales.chunks_exact(n_scales)) {
                        let blocks = row.as_chunks_mut::<N_LANES>().0.chunks_mut(Q8_BLOCK / N_LANES);
                        for (block, &scale) in blocks.zip(scales) {
                            // The same conversion as of the keys' scales; sixteen times the same.
                            multiply(V::load_f16([scale; N_LANES].as_ptr()), block);
                        }
                    }
                }
            }
        }
    }
}

/// Asks for memory that will be read soon.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, at an address inside a slice; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn multiply<V: Lanes>(factor: V, x: &mut [[f32; N_LANES]]) {
    for x in x {
        // SAFETY: arrays of 16; the caller has the instruction set.
        unsafe { V::load(x.as_ptr()).mul(factor).store(x.as_mut_ptr()) }
    }
}

/// Widens stored codes to floats, without scales.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn convert<V: Lanes>(kv_type: KvType, codes: &[u8], out: &mut [[f32; N_LANES]]) {
    // SAFETY: chunks of 16 elements; the caller has the instruction set.
    unsafe {
        match kv_type {
            KvType::F32 => {
                let codes = bytemuck::cast_slice::<u8, f32>(codes).as_chunks::<N_LANES>().0;
                for (out, codes) in out.iter_mut().zip(codes) {
                    V::load(codes.as_ptr()).store(out.as_mut_ptr());
                }
            }
            KvType::F16 => {
                let codes = bytemuck::cast_slice::<u8, f16>(codes).as_chunks::<N_LANES>().0;
                for (out, codes) in out.iter_mut().zip(codes) {
                    V::load_f16(codes.as_ptr()).store(out.as_mut_ptr());
                }
            }
            KvType::BF16 => {
                let codes = bytemuck::cast_slice::<u8, bf16>(codes).as_chunks::<N_LANES>().0;
                for (out, codes) in out.iter_mut().zip(codes) {
                    V::load_bf16(codes.as_ptr()).store(out.as_mut_ptr());
                }
            }
            KvType::Q8_0 => {
                let codes = bytemuck::cast_slice::<u8, i8>(codes).as_chunks::<N_LANES>().0;
                for (out, codes) in out.iter_mut().zip(codes) {
                    V::load_i8(codes.as_ptr()).store(out.as_mut_ptr());
                }
            }
        }
    }
}

impl Tile<'_> {
    /// Rows `m..m + R`: scores, weights, values. None of `visible` is empty.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(
        &mut self,
        m: usize,
        visible: [Range<usize>; R],
        part: &mut Part<'_>,
    ) {
        let groups = visible[0].start / N_LANES..visible[R - 1].end.div_ceil(N_LANES);
        let mut alphas;
        // SAFETY: the caller has the instruction set.
        unsafe {
            if groups.len() < N_GROUPS {
                for group in groups {
                    self.scores::<V, R, 1>(m, group);
                }
            } else if V::REGISTERS == 1 {
                self.scores::<V, R, 4>(m, 0);
            } else {
                self.scores::<V, R, 2>(m, 0);
                self.scores::<V, R, 2>(m, 2);
            }
            alphas = self.weigh::<V, R>(m, &visible, part);
        }
        // Positions that all rows see are added together; the few others row by row, in their place in the order.
        let common = visible.iter().fold(0..TILE, |c, v| c.start.max(v.start)..c.end.min(v.end));
        // SAFETY: the caller has the instruction set.
        unsafe {
            if common.is_empty() {
                for (i, (visible, alpha)) in visible.into_iter().zip(alphas).enumerate() {
                    self.add::<V, 1>(m + i, [alpha], visible, part);
                }
                return;
            }
            for (i, (visible, alpha)) in visible.iter().zip(&mut alphas).enumerate() {
                if visible.start < common.start {
                    self.add::<V, 1>(m + i, [*alpha], visible.start..common.start, part);
                    *alpha = 1.0;
                }
            }
            self.add::<V, R>(m, alphas, common.clone(), part);
            for (i, visible) in visible.iter().enumerate() {
                if visible.end > common.end {
                    self.add::<V, 1>(m + i, [1.0], common.end..visible.end, part);
                }
            }
        }
    }

    /// Scores of rows `m..m + R` with groups `group..group + G`: one chain over `k_dim` each.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn scores<V: Lanes, const R: usize, const G: usize>(&mut self, m: usize, group: usize) {
        let k_dim = self.k_dim;
        let q: [&[f32]; R] = std::array::from_fn(|i| &self.q[(m + i) * k_dim..][..k_dim]);
        let keys: [&[[f32; N_LANES]]; G] =
            std::array::from_fn(|g| &self.keys.as_chunks::<N_LANES>().0[(group + g) * k_dim..][..k_dim]);
        // SAFETY: `d < k_dim`, the length of all these slices; arrays of 16; the caller has the instruction set.
        unsafe {
            let mut sums = [[V::splat(0.0); G]; R];
            for d in 0..k_dim {
                let mut k = [sums[0][0]; G];
                for (k, keys) in k.iter_mut().zip(&keys) {
                    *k = V::load(keys.get_unchecked(d).as_ptr());
                }
                for i in 0..R {
                    let q = V::splat(*q[i].get_unchecked(d));
                    for g in 0..G {
                        sums[i][g] = q.fma(k[g], sums[i][g]);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let out = &mut self.scores[(m + i) * TILE + group * N_LANES..][..G * N_LANES];
                for (out, sum) in out.as_chunks_mut::<N_LANES>().0.iter_mut().zip(sums) {
                    sum.store(out.as_mut_ptr());
                }
            }
        }
    }

    /// Turns the scores of rows `m..m + R` into weights against their new maxima, and adds them to their sums. Returns
    /// the factors that bring what the rows have so far to those maxima. Step by step for all rows, because each
    /// row alone is one long wait for its own maximum.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn weigh<V: Lanes, const R: usize>(
        &mut self,
        m: usize,
        visible: &[Range<usize>; R],
        part: &mut Part<'_>,
    ) -> [f32; R] {
        let scores = self.scores[m * TILE..(m + R) * TILE].as_chunks_mut::<TILE>().0;
        let old_max: &mut [f32; R] = (&mut part.max[m..m + R]).try_into().expect("a slice of this length");
        let sums: &mut [[f32; N_LANES]; R] =
            (&mut part.sums[m..m + R]).try_into().expect("a slice of this length");
        // SAFETY: arrays of 16 or of 64; the caller has the instruction set.
        unsafe {
            if let Some(cap) = self.softcap {
                let (cap, inverse) = (V::splat(cap), V::splat(1.0 / cap));
                for scores in scores.as_flattened_mut().as_chunks_mut::<N_LANES>().0 {
                    let score = V::load(scores.as_ptr());
                    lanes::tanh(score.mul(inverse)).mul(cap).store(scores.as_mut_ptr());
                }
            }
            // One lane per row; the others hold e^0.
            let mut alphas = [0.0; N_LANES];
            for i in 0..R {
                // What is not visible may be anything: it becomes a weight of exactly 0.
                if visible[i].len() < TILE {
                    scores[i][..visible[i].start].fill(f32::NEG_INFINITY);
                    scores[i][visible[i].end..].fill(f32::NEG_INFINITY);
                }
                let at = scores[i].as_ptr();
                let mut max = V::load(at);
                for g in 1..N_GROUPS {
                    max = max.max(V::load(at.add(g * N_LANES)));
                }
                let tile_max = max.max_lane();
                let raised = tile_max > old_max[i];
                alphas[i] = if raised { old_max[i] - tile_max } else { 0.0 };
                old_max[i] = if raised { tile_max } else { old_max[i] };
            }
            lanes::exp(V::load(alphas.as_ptr())).store(alphas.as_mut_ptr());
            for i in 0..R {
                let at = scores[i].as_mut_ptr();
                let max = V::splat(old_max[i]);
                let mut sum = V::load(sums[i].as_ptr()).mul(V::splat(alphas[i]));
                let mut weights = [sum; N_GROUPS];
                for (g, weights) in weights.iter_mut().enumerate() {
                    *weights = lanes::exp(V::load(at.add(g * N_LANES)).sub(max));
                }
                for (g, weights) in weights.into_iter().enumerate() {
                    weights.store(at.add(g * N_LANES));
                    sum = sum.add(weights);
                }
                sum.store(sums[i].as_mut_ptr());
            }
            std::array::from_fn(|i| alphas[i])
        }
    }

    /// Scales the values of rows `m..m + R` by `alphas`, and adds the weighted values of `positions`.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn add<V: Lanes, const R: usize>(
        &self,
        m: usize,
        alphas: [f32; R],
        positions: Range<usize>,
        part: &mut Part<'_>,
    ) {
        let n_vectors = self.v_padded / N_LANES;
        let mut vector = 0;
        while vector < n_vectors {
            let left = n_vectors - vector;
            // SAFETY: the caller has the instruction set.
            unsafe {
                if left >= 4 && V::REGISTERS == 1 {
                    self.add_vectors::<V, R, 4>(m, alphas, positions.clone(), vector, part);
                    vector += 4;
                } else if left >= 2 {
                    self.add_vectors::<V, R, 2>(m, alphas, positions.clone(), vector, part);
                    vector += 2;
                } else {
                    self.add_vectors::<V, R, 1>(m, alphas, positions.clone(), vector, part);
                    vector += 1;
                }
            }
        }
    }

    /// [`Tile::add`] for vectors `vector..vector + N` of the values.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn add_vectors<V: Lanes, const R: usize, const N: usize>(
        &self,
        m: usize,
        alphas: [f32; R],
        positions: Range<usize>,
        vector: usize,
        part: &mut Part<'_>,
    ) {
        let v_padded = self.v_padded;
        let first = vector * N_LANES;
        let weights: [&[f32]; R] =
            std::array::from_fn(|i| &self.scores[(m + i) * TILE..][..TILE][positions.clone()]);
        let values = &self.values[positions.start * v_padded..positions.end * v_padded];
        assert!(first + N * N_LANES <= v_padded && (m + R) * v_padded <= part.values.len());
        let out: [*mut f32; R] =
            std::array::from_fn(|i| part.values[(m + i) * v_padded + first..].as_mut_ptr());
        // SAFETY: `first + 16 N <= v_padded`, so all N vectors lie in their row, of `out` (asserted above) as of
        // `values`, whose `positions.len()` rows are sliced above as the weights are; the caller has the instruction
        // set.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; R];
            for ((sums, out), &alpha) in sums.iter_mut().zip(&out).zip(&alphas) {
                let alpha = V::splat(alpha);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(out.add(n * N_LANES)).mul(alpha);
                }
            }
            for p in 0..positions.len() {
                let row = values.as_ptr().add(p * v_padded + first);
                let mut v = [sums[0][0]; N];
                for (n, v) in v.iter_mut().enumerate() {
                    *v = V::load(row.add(n * N_LANES));
                }
                for i in 0..R {
                    let weight = V::splat(*weights[i].get_unchecked(p));
                    for n in 0..N {
                        sums[i][n] = weight.fma(v[n], sums[i][n]);
                    }
                }
            }
            for (sums, out) in sums.into_iter().zip(out) {
                for (n, sum) in sums.into_iter().enumerate() {
                    sum.store(out.add(n * N_LANES));
                }
            }
        }
    }
}
