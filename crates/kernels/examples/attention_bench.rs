//! Measures attention: decode in GB/s of K/V read, prefill in GFLOP/s and as a share of the FMA limit measured beside
//! it.
//!
//! `cargo run --release -p ingle-kernels --example attention_bench [threads] [type]`
//!
//! Bytes: each K/V element of the context once per decoded token. Operations: `4 * dim` per visible (row, position,
//! head). The FMA limit is that of one thread that does nothing else, times threads.

use std::time::{Duration, Instant};

use ingle_kernels::{AttentionJob, AttentionParams, ClaimOrder, Isa, KvLayer, KvLayout, Pool, attention};
use ingle_step::KvType;

const RUN_FOR: Duration = Duration::from_millis(400);

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let isa = Isa::detect();
    let pool = Pool::with(n_threads, isa, ClaimOrder::Forward);
    let empty = best_of(|| pool.run(2 * n_threads, &|_| {}));
    println!("{} threads, {}, an empty loop takes {:.2} us", n_threads, isa.name(), empty * 1e6);
    let limit = fma_limit() * n_threads as f64;
    println!("limit: {limit:.0} GFLOP/s of f32 FMA");
    let only = std::env::args().nth(2).and_then(|name| KvType::from_name(&name));
    for kv_type in [KvType::F16, KvType::Q8_0, KvType::F32] {
        if only.is_some_and(|only| only != kv_type) {
            continue;
        }
        for (n_heads, n_kv_heads, dim) in [(32, 8, 64), (16, 8, 128), (24, 8, 128)] {
            let shape = format!("{:4} {n_heads:2}/{n_kv_heads} heads of {dim:3}", kv_type.name());
            for (start, n_rows) in [(511, 1), (4095, 1), (0, 512), (0, 2048), (1536, 512)] {
                let (seconds, bytes, flops) =
                    measure(&pool, kv_type, n_heads, n_kv_heads, dim, start, n_rows);
                println!(
                    "{shape}, {n_rows:4} rows from {start:4}: {:9.1} us, {:6.1} GB/s, {:6.1} GFLOP/s, {:3.0} %",
                    seconds * 1e6,
                    bytes / seconds / 1e9,
                    flops / seconds / 1e9,
                    flops / seconds / 1e9 / limit * 100.0
                );
            }
        }
    }
}

fn measure(
    pool: &Pool,
    kv_type: KvType,
    n_heads: usize,
    n_kv_heads: usize,
    dim: usize,
    start: usize,
    n_rows: usize,
) -> (f64, f64, f64) {
    let len = start + n_rows;
    let layout = KvLayout { kv_type, n_kv_heads, k_dim: dim, v_dim: dim, block_size: 16 };
    // As many layers as a model has, so that decode reads memory and not the cache.
    let n_layers = if n_rows == 1 { 16 } else { 1 };
    let numbers = |n: usize| (0..n).map(|i| (i as f32 * 0.618_034).fract() * 2.0 - 1.0).collect::<Vec<f32>>();
    let (k, q) = (numbers(len * n_kv_heads * dim), numbers(n_rows * n_heads * dim));
    let table: Vec<u32> = (0..len.div_ceil(16) as u32).collect();
    let slots: Vec<(u32, u32)> = (0..len as u32).map(|p| (p / 16, p % 16)).collect();
    let layers: Vec<KvLayer> = (0..n_layers)
        .map(|_| {
            let mut layer = KvLayer::new(layout, table.len());
            layer.store(pool, &k, &k, &slots);
            layer
        })
        .collect();
    let params = AttentionParams { n_heads, scale: 1.0 / (dim as f32).sqrt(), softcap: None, window: None };
    let jobs = [AttentionJob { block_table: &table, start, n_rows, first_row: 0, causal: true }];
    let mut out = vec![0.0; q.len()];
    let seconds = best_of(|| {
        for layer in &layers {
            attention(pool, layer, params, &jobs, &q, &mut out);
        }
    }) / n_layers as f64;
    let visible = (start + 1..=len).sum::<usize>();
    let bytes = (layout.block_bytes() * table.len()) as f64;
    (seconds, bytes, (4 * dim * n_heads * visible) as f64)
}

/// Seconds of the fastest run.
fn best_of(mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < RUN_FOR {
        let start = now();
        run();
        best = best.min(now() - start);
    }
    best
}

/// Seconds: of this thread's own time when it works alone, so that a busy machine does not blur the figures.
fn now() -> f64 {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[cfg(target_os = "linux")]
    if std::env::args().nth(1).is_none_or(|n| n == "1") {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the clock exists on Linux and `time` is writable.
        #[expect(unsafe_code, reason = "a system call")]
        unsafe {
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time)
        };
        return time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    }
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// What one thread reaches with independent FMA chains in registers.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a function that needs an instruction set")]
fn fma_limit() -> f64 {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    const N: usize = 1_000_000;

    #[target_feature(enable = "avx512f")]
    fn avx512(x: f32) -> f32 {
        let mut sums = [_mm512_set1_ps(x); 12];
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        for _ in 0..N {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(x: f32) -> f32 {
        let mut sums = [_mm256_set1_ps(x); 12];
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        for _ in 0..N {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
    }

    match Isa::detect() {
        Isa::Avx512 => {
            // SAFETY: detected.
            let seconds = best_of(|| _ = black_box(unsafe { avx512(black_box(1.0)) }));
            (N * 12 * 32) as f64 / seconds / 1e9
        }
        Isa::Avx2 | Isa::AvxVnni => {
            // SAFETY: detected.
            let seconds = best_of(|| _ = black_box(unsafe { avx2(black_box(1.0)) }));
            (N * 12 * 16) as f64 / seconds / 1e9
        }
        Isa::Scalar => f64::NAN,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fma_limit() -> f64 {
    f64::NAN
}
