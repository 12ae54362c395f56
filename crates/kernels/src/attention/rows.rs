//! The inner loops: some rows against one tile.
//!
//! Everything here is inlined into a function that enables an instruction set; so there are loops where closures
//! would read better, because a closure that is not inlined would call every instruction as a function. How many rows
//! and vectors are computed together changes registers and speed, never a chain.

#![expect(unsafe_code, reason = "vector instructions, and loads at offsets that are asserted once")]
#![expect(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and by vector")]

use std::ops::Range;

use super::TILE;
use super::part::Part;
use super::source::{Keys, Source, Values, prefetch};
use super::tile::N_GROUPS;
use crate::kv::QUANT_BLOCK;
use crate::lanes::{self, Lanes, N_LANES, Work};

/// Most rows that are computed together with any instruction set.
pub(super) const ROWS_MAX: usize = 12;

/// How many of `left` rows are computed together next: as many as registers hold sums for, with two vectors of sixteen
/// sums for each row with AVX-512 (24 of 32 registers), one with AVX2 (12 of 16). Rows that are converted as they are
/// read (see [`super::tile::DIRECT_ROWS`]) are never more than 8.
pub(super) fn block_rows<V: Lanes>(left: usize) -> usize {
    let sizes: &[usize] = match V::REGISTERS {
        1 => &[12, 8, 6, 4, 3, 2, 1],
        2 => &[6, 4, 3, 2, 1],
        _ => &[2, 1],
    };
    sizes.iter().copied().find(|&n| n <= left).unwrap_or(0)
}

/// Vectors of sixteen sums that each of `n_rows` rows has in registers at a time.
const fn vectors(n_rows: usize, registers: usize) -> usize {
    match (registers, n_rows) {
        (1, 1..=6) | (2, 1) => 4,
        (1, _) | (_, 1 | 2) => 2,
        _ => 1,
    }
}

/// One tile as the rows see it.
pub(super) struct Tile<'a, S: Source> {
    pub(super) k_dim: usize,
    pub(super) v_padded: usize,
    pub(super) softcap: Option<f32>,
    pub(super) keys: Keys<'a, S>,
    pub(super) values: Values<'a, S>,
}

impl<S: Source> Tile<'_, S> {
    /// [`Tile::rows`] in a function of its own.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn call_rows<V: Lanes, const R: usize>(
        &self,
        m: usize,
        q: &[f32],
        visible: &[Range<usize>],
        scores: &mut [[f32; TILE]],
        part: &mut Part<'_>,
    ) {
        struct Rows<'a, 'b, S: Source, const R: usize> {
            tile: &'a Tile<'a, S>,
            m: usize,
            q: &'a [f32],
            visible: &'a [Range<usize>],
            scores: &'a mut [[f32; TILE]],
            part: &'a mut Part<'b>,
        }
        impl<S: Source, const R: usize> Work for Rows<'_, '_, S, R> {
            #[inline(always)]
            unsafe fn run<V: Lanes>(self) {
                // SAFETY: by this function's contract.
                unsafe { self.tile.rows::<V, R>(self.m, self.q, self.visible, self.scores, self.part) }
            }
        }
        // SAFETY: the caller has the instruction set.
        unsafe { V::call(Rows::<S, R> { tile: self, m, q, visible, scores, part }) }
    }

    /// Rows `m..m + R` of a part: scores, weights, values. `q` is `[k_dim][R]`, `visible` what each row sees of the
    /// tile, in ranges whose ends never go back from row to row; `scores` is working memory.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(
        &self,
        m: usize,
        q: &[f32],
        visible: &[Range<usize>],
        scores: &mut [[f32; TILE]],
        part: &mut Part<'_>,
    ) {
        let visible: &[Range<usize>; R] = visible.try_into().expect("a range per row");
        let scores = scores.first_chunk_mut::<R>().expect("scores of a block of rows");
        let (mut seen_start, mut seen_end) = (TILE, 0);
        for visible in visible.iter().filter(|visible| !visible.is_empty()) {
            (seen_start, seen_end) = (seen_start.min(visible.start), seen_end.max(visible.end));
        }
        if seen_start >= seen_end {
            return;
        }
        let mut alphas;
        // SAFETY: the caller has the instruction set.
        unsafe {
            // Constants, so that only the form that is used is compiled.
            let step = const { vectors(R, V::REGISTERS) };
            for group in (0..N_GROUPS).step_by(step) {
                if (group + step) * N_LANES <= seen_start || group * N_LANES >= seen_end {
                    continue;
                }
                if const { vectors(R, V::REGISTERS) == 4 } {
                    self.scores::<V, R, 4>(q, group, scores);
                } else if const { vectors(R, V::REGISTERS) == 2 } {
                    self.scores::<V, R, 2>(q, group, scores);
                } else {
                    self.scores::<V, R, 1>(q, group, scores);
                }
            }
            alphas = weigh::<V, R>(m, self.softcap, visible, scores, part);
        }
        // Positions that all rows see are added together; the few others row by row, in their place in the order.
        let mut common = 0..TILE;
        for visible in visible {
            common = common.start.max(visible.start)..common.end.min(visible.end);
        }
        if common.is_empty() {
            common = TILE..TILE;
        }
        for after in [false, true] {
            if after {
                // SAFETY: the caller has the instruction set.
                unsafe { self.add::<V, R>(m, scores, alphas, common.clone(), part) };
                alphas = if common.is_empty() { alphas } else { [1.0; R] };
            }
            for i in 0..R {
                let visible = &visible[i];
                let rest = if after {
                    visible.start.max(common.end)..visible.end
                } else {
                    visible.start..visible.end.min(common.start)
                };
                if !rest.is_empty() {
                    // SAFETY: the caller has the instruction set.
                    unsafe {
                        V::call(AddRow {
                            tile: self,
                            m: m + i,
                            weights: &scores[i],
                            alpha: alphas[i],
                            positions: rest,
                            part,
                        })
                    };
                    alphas[i] = 1.0;
                }
            }
        }
    }

    /// Scores of `R` rows with groups `group..group + G`: one chain over `k_dim` each.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn scores<V: Lanes, const R: usize, const G: usize>(
        &self,
        q: &[f32],
        group: usize,
        scores: &mut [[f32; TILE]; R],
    ) {
        let k_dim = self.k_dim;
        let mut keys = [std::ptr::null(); G];
        let mut key_scales = [std::ptr::null(); G];
        for g in 0..G {
            assert_eq!(self.keys.codes[group + g].len(), S::n_codes(k_dim), "a group of keys");
            keys[g] = self.keys.codes[group + g].as_ptr();
            if S::SCALED {
                assert_eq!(
                    self.keys.scales[group + g].len(),
                    k_dim.div_ceil(QUANT_BLOCK) * N_LANES,
                    "its scales"
                );
                key_scales[g] = self.keys.scales[group + g].as_ptr();
            }
        }
        assert!(q.len() == k_dim * R && group + G <= N_GROUPS, "queries of {R} rows");
        let q = q.as_ptr();
        let block = if S::SCALED { QUANT_BLOCK } else { k_dim };
        // SAFETY: `d < k_dim`, and the lengths are asserted above; the caller has the instruction set.
        unsafe {
            let mut sums = [[V::splat(0.0); G]; R];
            let mut d = 0;
            while d < k_dim {
                let mut factors = [sums[0][0]; G];
                if S::SCALED {
                    for g in 0..G {
                        factors[g] = V::load_f16(key_scales[g].add(d / QUANT_BLOCK * N_LANES));
                    }
                }
                let end = k_dim.min(d + block);
                while d < end {
                    let mut k = factors;
                    for g in 0..G {
                        k[g] = S::vector(keys[g], d);
                        if S::SCALED {
                            k[g] = k[g].mul(factors[g]);
                        }
                        let bytes = N_LANES * size_of::<S::Code>() / S::PACKED;
                        prefetch(self.keys.next[group + g].wrapping_add(d * bytes), bytes);
                    }
                    for i in 0..R {
                        let q = V::splat(*q.add(d * R + i));
                        for g in 0..G {
                            sums[i][g] = q.fma(k[g], sums[i][g]);
                        }
                    }
                    d += 1;
                }
            }
            for i in 0..R {
                for g in 0..G {
                    sums[i][g].store(scores[i].as_mut_ptr().add((group + g) * N_LANES));
                }
            }
        }
    }

    /// Scales the values of rows `m..m + R` by `alphas`, and adds the weighted values of `positions`: one chain over
    /// positions per element.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn add<V: Lanes, const R: usize>(
        &self,
        m: usize,
        weights: &[[f32; TILE]; R],
        alphas: [f32; R],
        positions: Range<usize>,
        part: &mut Part<'_>,
    ) {
        if positions.is_empty() {
            return;
        }
        let n_vectors = self.v_padded / N_LANES;
        let mut vector = 0;
        while vector < n_vectors {
            let left = n_vectors - vector;
            // SAFETY: the caller has the instruction set.
            unsafe {
                if const { vectors(R, V::REGISTERS) == 4 } && left >= 4 {
                    self.add_vectors::<V, R, 4>(m, weights, alphas, positions.clone(), vector, part);
                    vector += 4;
                } else if const { vectors(R, V::REGISTERS) >= 2 } && left >= 2 {
                    self.add_vectors::<V, R, 2>(m, weights, alphas, positions.clone(), vector, part);
                    vector += 2;
                } else {
                    self.add_vectors::<V, R, 1>(m, weights, alphas, positions.clone(), vector, part);
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
        weights: &[[f32; TILE]; R],
        alphas: [f32; R],
        positions: Range<usize>,
        vector: usize,
        part: &mut Part<'_>,
    ) {
        let v_padded = self.v_padded;
        let first = vector * N_LANES;
        let n_scales = v_padded.div_ceil(QUANT_BLOCK);
        assert!(positions.end <= TILE && first + N * N_LANES <= v_padded, "vectors of a row of the tile");
        assert!((m + R) * v_padded <= part.values.len(), "rows of the part");
        assert!(!S::SCALED || self.values.scales.len() == TILE * n_scales, "a scale per block");
        let weights = weights.as_flattened().as_ptr();
        // SAFETY: `first + 16 N <= v_padded`, so all N vectors lie in their row, of the part (asserted above) as of
        // `codes`, whose length is asserted below; positions are below TILE, the length of a row of weights and the
        // number of rows of scales; the caller has the instruction set.
        unsafe {
            let out = part.values.as_mut_ptr().add(m * v_padded + first);
            let mut sums = [[V::splat(0.0); N]; R];
            for i in 0..R {
                let alpha = V::splat(alphas[i]);
                for n in 0..N {
                    sums[i][n] = V::load(out.add(i * v_padded + n * N_LANES)).mul(alpha);
                }
            }
            let row = S::n_codes(v_padded / N_LANES);
            let mut position = positions.start;
            while position < positions.end {
                let group = position / N_LANES;
                let codes = self.values.codes[group];
                assert_eq!(codes.len(), N_LANES * row, "a group of values");
                let end = positions.end.min((group + 1) * N_LANES);
                let next = self.values.next[group];
                let mut at = position % N_LANES * row;
                while position < end {
                    let mut v = [sums[0][0]; N];
                    for n in 0..N {
                        v[n] = S::vector(codes.as_ptr().add(at), vector + n);
                        if S::SCALED {
                            let block = (vector + n) / (QUANT_BLOCK / N_LANES);
                            let scale = *self.values.scales.get_unchecked(position * n_scales + block);
                            v[n] = v[n].mul(V::splat(scale));
                        }
                    }
                    let bytes = size_of::<S::Code>();
                    prefetch(
                        next.wrapping_add((at + first / S::PACKED) * bytes),
                        N * N_LANES * bytes / S::PACKED,
                    );
                    for i in 0..R {
                        let weight = V::splat(*weights.add(i * TILE + position));
                        for n in 0..N {
                            sums[i][n] = weight.fma(v[n], sums[i][n]);
                        }
                    }
                    at += row;
                    position += 1;
                }
            }
            for i in 0..R {
                for n in 0..N {
                    sums[i][n].store(out.add(i * v_padded + n * N_LANES));
                }
            }
        }
    }
}

/// [`Tile::add`] of one row, in a function of its own.
struct AddRow<'a, 'b, S: Source> {
    tile: &'a Tile<'a, S>,
    m: usize,
    weights: &'a [f32; TILE],
    alpha: f32,
    positions: Range<usize>,
    part: &'a mut Part<'b>,
}

impl<S: Source> Work for AddRow<'_, '_, S> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let weights = std::array::from_ref(self.weights);
        // SAFETY: by this function's contract.
        unsafe { self.tile.add::<V, 1>(self.m, weights, [self.alpha], self.positions, self.part) }
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
    m: usize,
    softcap: Option<f32>,
    visible: &[Range<usize>; R],
    scores: &mut [[f32; TILE]; R],
    part: &mut Part<'_>,
) -> [f32; R] {
    let old_max: &mut [f32; R] = (&mut part.max[m..m + R]).try_into().expect("a slice of this length");
    let sums: &mut [[f32; N_LANES]; R] =
        (&mut part.sums[m..m + R]).try_into().expect("a slice of this length");
    // SAFETY: arrays of 16 or of 64; the caller has the instruction set.
    unsafe {
        if let Some(cap) = softcap {
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
            // A row that sees nothing here stays as it is.
            if visible[i].is_empty() {
                continue;
            }
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
        let mut factors = [1.0; R];
        factors.copy_from_slice(&alphas[..R]);
        factors
    }
}
