//! Measures what a step does beside products with weights: attention, and the loading of rows, rope and the KV store.
//!
//! `cargo run --release -p ingle-kernels --example attention_bench [threads] [type | ops | all]`
//!
//! Attention is stated as a share of what bounds it: the time that the larger of two needs at its limit, over the time
//! taken. Bytes: each K/V element of the context once per decoded token, against the read probe. Operations: `4 * dim`
//! per visible (row, position, head), against the FMA probe. With several threads the share of prefill says how the
//! work divides, too.

use ingle_kernels::limits::{self, Stopwatch};
use ingle_kernels::{
    ActKinds, Activations, AttentionJob, AttentionParams, KvLayer, KvLayout, Pool, RopeStyle, RopeTable,
    RowNorm, attention, powf, rope_rows,
};
use ingle_step::KvType;

/// Seconds per figure.
const RUN_FOR: f64 = 0.25;
/// More K/V than caches hold.
const COLD_BYTES: usize = 128 << 20;
/// Slots of a block.
const BLOCK: usize = 16;

struct Limits {
    f32_gops: f64,
    read_gbs: f64,
}

/// One sequence or several of one length, or a prompt.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    n_seqs: usize,
    /// Positions before the rows.
    start: usize,
    n_rows: usize,
}

const fn case(name: &'static str, n_seqs: usize, start: usize, n_rows: usize) -> Case {
    Case { name, n_seqs, start, n_rows }
}

const CASES: [Case; 10] = [
    case("decode", 1, 511, 1),
    case("decode", 1, 4095, 1),
    case("decode", 1, 8191, 1),
    case("decode", 1, 32767, 1),
    case("decode", 8, 1023, 1),
    case("decode", 32, 511, 1),
    case("prefill", 1, 0, 512),
    case("prefill", 1, 0, 2048),
    case("prefill", 1, 3584, 512),
    case("prefill", 1, 7680, 512),
];

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let what = std::env::args().nth(2).unwrap_or_else(|| "all".to_owned());
    let pool = Pool::new(n_threads);
    let limits = Limits { f32_gops: limits::f32_gops(&pool), read_gbs: limits::read_gbs(&pool) };
    println!(
        "{n_threads} threads, {}: at most {:.0} GFLOP/s of f32 FMA, {:.1} GB/s",
        pool.isa().name(),
        limits.f32_gops,
        limits.read_gbs
    );
    for kv_type in [KvType::F16, KvType::BF16, KvType::Q8_0, KvType::F32] {
        if what == "all" || KvType::from_name(&what) == Some(kv_type) {
            for (n_heads, dim) in [(32, 64), (32, 128), (24, 128)] {
                for case in CASES {
                    measure_attention(&pool, &limits, kv_type, n_heads, dim, case);
                }
            }
        }
    }
    if what == "all" || what == "ops" {
        for n_rows in [1, 8, 512] {
            measure_ops(&pool, n_rows);
        }
    }
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.618_034).fract() * 2.0 - 1.0).collect()
}

fn measure_attention(pool: &Pool, limits: &Limits, kv_type: KvType, n_heads: usize, dim: usize, case: Case) {
    const N_KV_HEADS: usize = 8;
    let Case { name, n_seqs, start, n_rows } = case;
    let len = start + n_rows;
    let layout = KvLayout { kv_type, n_kv_heads: N_KV_HEADS, k_dim: dim, v_dim: dim, block_size: BLOCK };
    let n_blocks = len.div_ceil(BLOCK) * n_seqs;
    let bytes = layout.block_bytes() * n_blocks;
    // Decode reads layer after layer, so that it meets memory and not the cache.
    let n_layers = if n_rows == 1 { COLD_BYTES.div_ceil(bytes).min(16) } else { 1 };
    let (kv, q) = (numbers(BLOCK * N_KV_HEADS * dim), numbers(n_seqs * n_rows * n_heads * dim));
    let tables: Vec<Vec<u32>> =
        (0..n_seqs).map(|s| (0..n_blocks / n_seqs).map(|i| (i * n_seqs + s) as u32).collect()).collect();
    let layers: Vec<KvLayer> = (0..n_layers)
        .map(|_| {
            let mut layer = KvLayer::new(layout, n_blocks);
            for block in 0..n_blocks as u32 {
                let slots: Vec<(u32, u32)> = (0..BLOCK as u32).map(|slot| (block, slot)).collect();
                layer.store(pool, &kv, &kv, &slots);
            }
            layer
        })
        .collect();
    let params = AttentionParams { n_heads, scale: 1.0 / (dim as f32).sqrt(), softcap: None, window: None };
    let jobs: Vec<AttentionJob<'_>> = tables
        .iter()
        .enumerate()
        .map(|(s, table)| AttentionJob {
            block_table: table,
            start,
            n_rows,
            first_row: s * n_rows,
            causal: true,
        })
        .collect();
    let mut out = vec![0.0; q.len()];
    let seconds = best_of(pool, || {
        for layer in &layers {
            attention(pool, layer, params, &jobs, &q, &mut out);
        }
    }) / n_layers as f64;
    let visible = (start + 1..=len).sum::<usize>() * n_seqs;
    let (gbs, gops) = (bytes as f64 / seconds / 1e9, (4 * dim * n_heads * visible) as f64 / seconds / 1e9);
    let (memory, fma) = (gbs / limits.read_gbs, gops / limits.f32_gops);
    let (share, bound) = if memory > fma { (memory, "reading") } else { (fma, "FMA") };
    println!(
        "{:4} {n_heads}/{N_KV_HEADS} heads of {dim:3}, {name:7} {n_seqs:2} x {n_rows:4} rows from {start:5}: {:9.1} us, \
         {gbs:5.1} GB/s, {gops:5.1} GFLOP/s, {:3.0} % of {bound}",
        kv_type.name(),
        seconds * 1e6,
        share * 100.0
    );
}

/// The small steps of a layer of Llama-3.2-1B: `n_embd` 2048, `n_ff` 8192, 32 heads of 64, 8 K/V heads.
fn measure_ops(pool: &Pool, n_rows: usize) {
    let (n_embd, n_ff, head_dim) = (2048, 8192, 64);
    let mut total = 0.0;
    let mut report = |what: &str, seconds: f64| {
        if !what.starts_with("store q8_0") {
            total += seconds;
        }
        println!("{n_rows:4} rows, {what:30}: {:8.2} us", seconds * 1e6);
    };
    let weight = numbers(n_embd);
    let norm = RowNorm::Rms { weight: &weight, eps: 1e-5 };
    let mut acts = Activations::default();
    let x = numbers(n_rows * n_ff);
    let embd = &x[..n_rows * n_embd];
    for norm in [Some(norm), Some(norm), None] {
        let what = if norm.is_some() { "norm and quantize n_embd" } else { "quantize n_embd" };
        report(what, best_of(pool, || acts.load(pool, embd, n_embd, norm, ActKinds::Q8_256)));
    }
    report("quantize n_ff", best_of(pool, || acts.load(pool, &x, n_ff, None, ActKinds::Q8_256)));

    let freqs = (0..head_dim / 2).map(|i| powf(5e5, -2.0 * i as f64 / head_dim as f64)).collect();
    let table = RopeTable { n_rot: head_dim, style: RopeStyle::Norm, freqs, magnitude: 1.0 };
    let angles: Vec<_> = (0..n_rows).map(|p| table.row(p)).collect();
    let (mut q, mut k) = (numbers(n_rows * n_embd), numbers(n_rows * 512));
    let v = k.clone();
    report(
        "rope of queries and keys",
        best_of(pool, || {
            // Several times: one row takes less than the clock tells apart.
            for _ in 0..16 {
                rope_rows(pool, &table, &angles, head_dim, &mut q);
                rope_rows(pool, &table, &angles, head_dim, &mut k);
            }
        }) / 16.0,
    );
    for kv_type in [KvType::Q8_0, KvType::F16] {
        let layout = KvLayout { kv_type, n_kv_heads: 8, k_dim: head_dim, v_dim: head_dim, block_size: BLOCK };
        let n_blocks = COLD_BYTES / 16 / layout.block_bytes();
        let mut layers: Vec<KvLayer> = (0..16).map(|_| KvLayer::new(layout, n_blocks)).collect();
        let mut first = 0;
        let seconds = best_of(pool, || {
            // Somewhere else each time, as cold as between two steps.
            first = (first + 1237 * BLOCK + 1) % ((n_blocks * BLOCK) - n_rows);
            let slots: Vec<(u32, u32)> =
                (first..first + n_rows).map(|i| ((i / BLOCK) as u32, (i % BLOCK) as u32)).collect();
            for layer in &mut layers {
                layer.store(pool, &k, &v, &slots);
            }
        });
        report(&format!("store {} (mean of 16 layers)", kv_type.name()), seconds / 16.0);
    }
    println!("{n_rows:4} rows, 16 layers with store f16       : {:8.2} us", total * 16.0 * 1e6);
}

/// Seconds of the fastest run.
fn best_of(pool: &Pool, mut run: impl FnMut()) -> f64 {
    let (mut spent, mut best) = (0.0, f64::INFINITY);
    while spent < RUN_FOR {
        let watch = Stopwatch::start(pool);
        run();
        let seconds = watch.seconds();
        best = f64::min(best, seconds);
        spent += seconds;
    }
    best
}
