use ingle_step::KvType;

use super::*;
use crate::kv::tests::read;
use crate::{ClaimOrder, KvLayout};

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mut z = i.wrapping_add(seed.wrapping_mul(0x85EB_CA6B)).wrapping_mul(0x9E37_79B9);
            z = (z ^ (z >> 15)).wrapping_mul(0x85EB_CA6B);
            ((z ^ (z >> 13)) >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// A cache of one layer with one sequence in blocks scattered by `shuffle`; every slot that is not its own is NaN (as
/// far as the type has one).
struct Case {
    layout: KvLayout,
    params: AttentionParams,
    len: usize,
    layer: KvLayer,
    table: Vec<u32>,
    /// `(len, n_heads, k_dim)`
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(layout: KvLayout, params: AttentionParams, len: usize, shuffle: usize) -> Self {
        let n_used = len.div_ceil(layout.block_size);
        let n_blocks = n_used + 3;
        // Steps that have no common factor with the number of blocks visit each once.
        let step = (1..)
            .map(|i| shuffle * 2 + i)
            .find(|s| (2..=*s).all(|d| !s.is_multiple_of(d) || !n_blocks.is_multiple_of(d)));
        let step = step.expect("1 has no factors");
        let table: Vec<u32> = (0..n_used).map(|i| ((i * step + shuffle) % n_blocks) as u32).collect();
        let q = numbers(len * params.n_heads * layout.k_dim, 1).iter().map(|x| x * 3.0).collect();
        let k = numbers(len * layout.n_kv_heads * layout.k_dim, 2);
        let v = numbers(len * layout.n_kv_heads * layout.v_dim, 3);
        let mut layer = KvLayer::new(layout, n_blocks);
        let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
        let everything: Vec<(u32, u32)> =
            (0..n_blocks as u32).flat_map(|b| (0..layout.block_size as u32).map(move |s| (b, s))).collect();
        let nans = |dim: usize| vec![f32::NAN; everything.len() * layout.n_kv_heads * dim];
        layer.store(&pool, &nans(layout.k_dim), &nans(layout.v_dim), &everything);
        let slots: Vec<(u32, u32)> =
            (0..len).map(|p| (table[p / layout.block_size], (p % layout.block_size) as u32)).collect();
        layer.store(&pool, &k, &v, &slots);
        Self { layout, params, len, layer, table, q, k, v }
    }

    fn job(&self, start: usize, n_rows: usize, first_row: usize, causal: bool) -> AttentionJob<'_> {
        AttentionJob { block_table: &self.table, start, n_rows, first_row, causal }
    }

    /// Rows `start..start + n_rows` in one call.
    fn run(&self, pool: &Pool, start: usize, n_rows: usize, causal: bool) -> Vec<f32> {
        let q_cols = self.params.n_heads * self.layout.k_dim;
        let mut out = vec![f32::NAN; n_rows * self.params.n_heads * self.layout.v_dim];
        let job = self.job(start, n_rows, 0, causal);
        attention(
            pool,
            &self.layer,
            self.params,
            &[job],
            &self.q[start * q_cols..][..n_rows * q_cols],
            &mut out,
        );
        out
    }

    /// The twin's row.
    fn reference(&self, row: usize, causal: bool) -> Vec<f32> {
        let job = if causal { self.job(row, 1, 0, true) } else { self.job(0, self.len, 0, false) };
        (0..self.params.n_heads)
            .flat_map(|head| {
                let q =
                    &self.q[(row * self.params.n_heads + head) * self.layout.k_dim..][..self.layout.k_dim];
                let row_of_job = if causal { 0 } else { row };
                reference::attend(&self.layer, self.params, &job, row_of_job, head, q, read)
            })
            .collect()
    }

    /// Softmax attention in f64 over the numbers before rounding.
    fn exact(&self, row: usize, causal: bool) -> Vec<f64> {
        let KvLayout { n_kv_heads, k_dim, v_dim, .. } = self.layout;
        let end = if causal { row + 1 } else { self.len };
        let start = self.params.window.map_or(0, |w| (row + 1).saturating_sub(w));
        let mut out = Vec::new();
        for head in 0..self.params.n_heads {
            let kv_head = head / (self.params.n_heads / n_kv_heads);
            let q = &self.q[(row * self.params.n_heads + head) * k_dim..][..k_dim];
            let scores: Vec<f64> = (start..end)
                .map(|p| {
                    let k = &self.k[(p * n_kv_heads + kv_head) * k_dim..][..k_dim];
                    let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let score = dot * f64::from(self.params.scale);
                    self.params.softcap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for d in 0..v_dim {
                let value = |i: usize| f64::from(self.v[((start + i) * n_kv_heads + kv_head) * v_dim + d]);
                out.push(
                    scores.iter().enumerate().map(|(i, s)| (s - max).exp() * value(i)).sum::<f64>() / total,
                );
            }
        }
        out
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// How far a type's rounding may move an output, for inputs within 1.
fn tolerance(kv_type: KvType) -> f64 {
    match kv_type {
        KvType::F32 => 2e-6,
        KvType::F16 => 1e-3,
        KvType::BF16 => 1e-2,
        KvType::Q8_0 => 4e-2,
        KvType::Q4_0 => 4e-1,
    }
}

fn layout(kv_type: KvType, n_kv_heads: usize, k_dim: usize, v_dim: usize, block_size: usize) -> KvLayout {
    KvLayout { kv_type, n_kv_heads, k_dim, v_dim, block_size }
}

fn params(n_heads: usize, softcap: Option<f32>, window: Option<usize>) -> AttentionParams {
    AttentionParams { n_heads, scale: 0.3, softcap, window }
}

fn check(layout: KvLayout, params: AttentionParams, len: usize, causal: bool) {
    let case = Case::new(layout, params, len, len % 5);
    let row_len = params.n_heads * layout.v_dim;
    let what = format!("{layout:?} {params:?} len {len} causal {causal}");
    let whole = case.run(&Pool::with(2, Isa::detect(), ClaimOrder::Forward), 0, len, causal);
    assert!(whole.iter().all(|x| x.is_finite()), "what is not visible does not leak: {what}");

    // A few rows against the twin, bit for bit, and against exact arithmetic.
    for row in [0, 1, len / 3, len / 2, len - 1].into_iter().filter(|&row| row < len) {
        let got = &whole[row * row_len..][..row_len];
        assert_eq!(bits(got), bits(&case.reference(row, causal)), "row {row} of {what}");
        for (got, exact) in got.iter().zip(case.exact(row, causal)) {
            assert!((f64::from(*got) - exact).abs() < tolerance(layout.kv_type), "row {row} of {what}");
        }
    }
    for isa in Isa::available() {
        for (n_threads, order) in
            [(1, ClaimOrder::Forward), (3, ClaimOrder::Reverse), (2, ClaimOrder::Shuffled(9))]
        {
            let pool = Pool::with(n_threads, isa, order);
            assert_eq!(bits(&case.run(&pool, 0, len, causal)), bits(&whole), "{pool:?} {what}");
        }
        if !causal {
            continue;
        }
        // In chunks, and in blocks that lie elsewhere.
        let pool = Pool::with(2, isa, ClaimOrder::Forward);
        let moved = Case::new(layout, params, len, len % 5 + 1);
        for chunk in [1, 7, 64, 100] {
            // Row by row over the end only: the whole would take long.
            let first = if chunk == 1 { len.saturating_sub(5) } else { 0 };
            for start in (first..len).step_by(chunk) {
                let n_rows = chunk.min(len - start);
                let expected = bits(&whole[start * row_len..][..n_rows * row_len]);
                assert_eq!(bits(&moved.run(&pool, start, n_rows, true)), expected, "{pool:?} {start} {what}");
            }
        }
    }
}

#[test]
fn every_type_and_awkward_dimensions() {
    for kv_type in KvType::ALL {
        check(layout(kv_type, 2, 64, 64, 16), params(8, None, None), 150, true);
        check(layout(kv_type, 1, 40, 72, 32), params(3, None, None), 97, true);
        check(layout(kv_type, 3, 80, 96, 16), params(3, None, None), 70, true);
        check(layout(kv_type, 2, 128, 128, 64), params(4, None, None), 130, true);
        check(layout(kv_type, 1, 5, 3, 16), params(5, None, None), 33, true);
    }
}

#[test]
fn every_short_length() {
    for len in (1..20).chain([63, 64, 65, 127, 128, 129]) {
        check(layout(KvType::F16, 1, 32, 16, 16), params(2, None, None), len, true);
    }
}

#[test]
fn windows_softcaps_and_bidirectional_rows() {
    for window in [1, 5, 16, 64, 100] {
        check(layout(KvType::F16, 2, 48, 64, 32), params(4, None, Some(window)), 200, true);
    }
    check(layout(KvType::F16, 2, 64, 64, 16), params(4, Some(2.5), None), 140, true);
    check(layout(KvType::BF16, 1, 64, 80, 16), params(8, Some(30.0), Some(40)), 140, true);
    check(layout(KvType::F32, 2, 64, 64, 16), params(2, None, None), 140, false);
    check(layout(KvType::F16, 2, 64, 64, 16), params(2, None, Some(30)), 100, false);
}

#[test]
fn long_contexts_are_split_the_same_way_whoever_computes_them() {
    for window in [None, Some(1100)] {
        let layout = layout(KvType::F16, 1, 16, 16, 32);
        let case = Case::new(layout, params(2, None, window), 2500, 1);
        let whole = case.run(&Pool::with(1, Isa::detect(), ClaimOrder::Forward), 0, 2500, true);
        for row in [1023, 1024, 1100, 2048, 2499] {
            let expected = bits(&whole[row * 32..][..32]);
            assert_eq!(expected, bits(&case.reference(row, true)), "row {row}");
            for isa in Isa::available() {
                // One thread goes through the parts in a row; several take them apart.
                for n_threads in [1, 3] {
                    let pool = Pool::with(n_threads, isa, ClaimOrder::Shuffled(row as u64));
                    assert_eq!(bits(&case.run(&pool, row, 1, true)), expected, "{pool:?} row {row}");
                }
            }
        }
    }
}

#[test]
fn several_sequences_do_not_meet() {
    let layout = layout(KvType::F16, 2, 64, 64, 16);
    let params = params(4, None, None);
    let case = Case::new(layout, params, 120, 2);
    let pool = Pool::with(2, Isa::detect(), ClaimOrder::Shuffled(2));
    let q_cols = 4 * 64;
    // The same sequence three times at different points, in rows of its own each, with a row between that is no one's.
    let spans = [(100usize, 20usize, 0usize), (7, 1, 21), (30, 50, 22)];
    let mut q = vec![f32::NAN; 72 * q_cols];
    for (start, n, first_row) in spans {
        q[first_row * q_cols..][..n * q_cols].copy_from_slice(&case.q[start * q_cols..][..n * q_cols]);
    }
    let jobs = spans.map(|(start, n, first_row)| case.job(start, n, first_row, true));
    let mut out = vec![7.0; 72 * q_cols];
    attention(&pool, &case.layer, params, &jobs, &q, &mut out);
    for (start, n, first_row) in spans {
        assert_eq!(bits(&out[first_row * q_cols..][..n * q_cols]), bits(&case.run(&pool, start, n, true)));
    }
    assert!(out[20 * q_cols..21 * q_cols].iter().all(|&x| x == 7.0), "a row that is no one's stays");
}

#[test]
fn what_later_rows_hold_does_not_reach_earlier_ones() {
    // A row whose keys and values overflowed must spoil itself and what follows, not what came before it.
    let layout = layout(KvType::F32, 1, 16, 16, 16);
    let params = params(2, None, None);
    let clean = Case::new(layout, params, 80, 0);
    let mut spoiled = Case::new(layout, params, 80, 0);
    let pool = Pool::with(2, Isa::detect(), ClaimOrder::Forward);
    let slot = (spoiled.table[50 / 16], 50 % 16);
    spoiled.layer.store(&pool, &[f32::NAN; 16], &[f32::INFINITY; 16], &[slot]);
    let (a, b) = (clean.run(&pool, 0, 80, true), spoiled.run(&pool, 0, 80, true));
    assert_eq!(bits(&a[..50 * 32]), bits(&b[..50 * 32]));
    assert!(b[50 * 32..].iter().all(|x| x.is_nan()));
}

#[test]
#[should_panic(expected = "each row belongs to one job")]
fn jobs_that_share_rows_are_refused() {
    let case = Case::new(layout(KvType::F32, 1, 16, 16, 16), params(1, None, None), 20, 0);
    let jobs = [case.job(0, 10, 0, true), case.job(5, 10, 9, true)];
    let mut out = vec![0.0; 20 * 16];
    let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
    attention(&pool, &case.layer, case.params, &jobs, &case.q, &mut out);
}

#[test]
#[should_panic(expected = "a block table covers its job")]
fn tables_that_are_too_short_are_refused() {
    let case = Case::new(layout(KvType::F32, 1, 16, 16, 16), params(1, None, None), 20, 0);
    let mut job = case.job(0, 20, 0, true);
    job.block_table = &job.block_table[..1];
    let mut out = vec![0.0; 20 * 16];
    let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
    attention(&pool, &case.layer, case.params, &[job], &case.q, &mut out);
}
