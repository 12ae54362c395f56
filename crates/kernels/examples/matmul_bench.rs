//! How fast products are, as shares of what the machine can do at most, measured in the same run.
//!
//! `cargo run --release -p ingle-kernels --example matmul_bench -- [threads] [cache|memory|all] [types...]`
//!
//! "cache": one 2048 x 2048 matrix. "memory": the matrices of a model of 1B parameters without its embedding (16
//! layers: 2048 to 3072, 2048 to 2048, 2048 to 2 x 8192, 8192 to 2048), one step after the other as a model does it,
//! loading of activations included.

use std::time::Instant;

use half::f16;
use ingle_gguf::TensorType;
use ingle_kernels::{
    ActKinds, Activations, ClaimOrder, Isa, Matrix, Pool, Product, limits, matmul, matmul_swiglu,
};

const N_LAYERS: usize = 16;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let n_threads = args.first().map_or(1, |n| n.parse().expect("first argument: a number of threads"));
    let which = args.get(1).map_or("all", String::as_str);
    let wanted = |ty: TensorType| args.len() <= 2 || args[2..].iter().any(|name| name == ty.name());
    let pool = Pool::with(n_threads, Isa::detect(), ClaimOrder::Forward);
    let limits = Limits::measure(&pool);
    println!(
        "{n_threads} threads, {}: int8 {:.0} Gop/s, bf16 {:.0}, f32 {:.0}, read {:.1} GB/s",
        pool.isa().name(),
        limits.int8,
        limits.bf16,
        limits.f32,
        limits.read
    );
    let types = [
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
        TensorType::Q8_0,
        TensorType::Q4_0,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::IQ4_NL,
        TensorType::IQ4_XS,
        TensorType::MXFP4,
        TensorType::IQ3_XXS,
        TensorType::IQ3_S,
        TensorType::IQ2_XXS,
        TensorType::IQ2_XS,
        TensorType::IQ2_S,
        TensorType::IQ1_S,
        TensorType::IQ1_M,
        TensorType::F16,
        TensorType::BF16,
        TensorType::F32,
    ];
    for ty in types.into_iter().filter(|&ty| wanted(ty)) {
        if which != "memory" {
            in_cache(ty, &pool, &limits);
        }
        if which != "cache" {
            from_memory(ty, &pool, &limits);
        }
    }
}

struct Limits {
    int8: f64,
    bf16: f64,
    f32: f64,
    read: f64,
}

impl Limits {
    fn measure(pool: &Pool) -> Self {
        Self {
            int8: limits::int8_gops(pool),
            bf16: limits::bf16_gops(pool).unwrap_or_else(|| limits::f32_gops(pool)),
            f32: limits::f32_gops(pool),
            read: limits::read_gbs(pool),
        }
    }

    fn gops(&self, kind: ActKinds) -> f64 {
        match kind {
            ActKinds::F32 => self.f32,
            ActKinds::BF16 => self.bf16,
            _ => self.int8,
        }
    }
}

fn in_cache(ty: TensorType, pool: &Pool, limits: &Limits) {
    let matrix = random_matrix(ty, 2048, 2048, pool);
    for n_tokens in [1, 2, 3, 4, 8, 16, 64, 512] {
        let mut acts = Activations::default();
        acts.load(pool, &random_floats(n_tokens * 2048), 2048, None, matrix.act_kind());
        let mut out = vec![0.0; n_tokens * 2048];
        let seconds = best(pool, if n_tokens > 16 { 10 } else { 100 }, || {
            let product = Product { weights: &matrix, bias: None, accumulate: false, out: &mut out };
            matmul(pool, &acts, &mut [product]);
        });
        let gops = 2.0 * 2048.0 * 2048.0 * n_tokens as f64 / seconds / 1e9;
        println!(
            "{:5} cache  {n_tokens:4} tokens: {gops:7.1} Gop/s {:3.0} %, {:6.1} GB/s of the file",
            ty.name(),
            100.0 * gops / limits.gops(matrix.act_kind()),
            matrix.file_bytes() as f64 / seconds / 1e9,
        );
    }
}

fn from_memory(ty: TensorType, pool: &Pool, limits: &Limits) {
    struct Layer {
        qkv: Matrix,
        o: Matrix,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
    }
    let start = Instant::now();
    let layers: Vec<_> = (0..N_LAYERS)
        .map(|_| Layer {
            qkv: random_matrix(ty, 3072, 2048, pool),
            o: random_matrix(ty, 2048, 2048, pool),
            gate: random_matrix(ty, 8192, 2048, pool),
            up: random_matrix(ty, 8192, 2048, pool),
            down: random_matrix(ty, 2048, 8192, pool),
        })
        .collect();
    let matrices = || layers.iter().flat_map(|l| [&l.qkv, &l.o, &l.gate, &l.up, &l.down]);
    let bytes: usize = matrices().map(Matrix::file_bytes).sum();
    let held: usize = matrices().map(Matrix::memory_bytes).sum();
    let n_weights: usize = matrices().map(|m| m.n_rows() * m.n_cols()).sum();
    println!(
        "{:5} memory: {:.2} GB in the file, {:.3} times that held, made in {:.2} s",
        ty.name(),
        bytes as f64 / 1e9,
        held as f64 / bytes as f64,
        start.elapsed().as_secs_f64()
    );
    for n_tokens in [1, 2, 4, 8, 16, 512] {
        let mut acts = Activations::default();
        let x = random_floats(n_tokens * 2048);
        let mut qkv = vec![0.0; n_tokens * 3072];
        let mut residual = vec![0.0; n_tokens * 2048];
        let mut ff = vec![0.0; n_tokens * 8192];
        let seconds = best(pool, if n_tokens > 16 { 2 } else { 12 }, || {
            for layer in &layers {
                acts.load(pool, &x, 2048, None, layer.qkv.act_kind());
                matmul(pool, &acts, &mut [product(&layer.qkv, false, &mut qkv)]);
                matmul(pool, &acts, &mut [product(&layer.o, true, &mut residual)]);
                matmul_swiglu(pool, &acts, &layer.gate, &layer.up, &mut ff);
                acts.load(pool, &ff, 8192, None, layer.down.act_kind());
                matmul(pool, &acts, &mut [product(&layer.down, true, &mut residual)]);
            }
        });
        let gops = 2.0 * n_weights as f64 * n_tokens as f64 / seconds / 1e9;
        let gbs = bytes as f64 / seconds / 1e9;
        println!(
            "{:5} memory {n_tokens:4} tokens: {gops:7.1} Gop/s {:3.0} %, {gbs:6.1} GB/s of the file {:3.0} %, {:.2} ms",
            ty.name(),
            100.0 * gops / limits.gops(layers[0].qkv.act_kind()),
            100.0 * gbs / limits.read,
            seconds * 1e3
        );
    }
}

fn product<'a>(weights: &'a Matrix, accumulate: bool, out: &'a mut [f32]) -> Product<'a> {
    Product { weights, bias: None, accumulate, out }
}

/// Seconds of the fastest try.
fn best(pool: &Pool, n_tries: usize, mut run: impl FnMut()) -> f64 {
    let tries = (0..n_tries).map(|_| {
        let watch = limits::Stopwatch::start(pool);
        run();
        watch.seconds()
    });
    tries.fold(f64::INFINITY, f64::min)
}

fn random_floats(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..n).map(|_| (next(&mut state) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

fn random_matrix(ty: TensorType, n_rows: usize, n_cols: usize, pool: &Pool) -> Matrix {
    let mut state = 7u64;
    let mut bytes = vec![0u8; n_rows * n_cols / ty.block_len() * ty.block_bytes()];
    for chunk in bytes.chunks_mut(8) {
        let random = next(&mut state).to_le_bytes();
        let n = chunk.len();
        chunk.copy_from_slice(&random[..n]);
    }
    // Floats of usual sizes: denormals and infinities would be another benchmark.
    let small = f16::from_f32(0.001).to_le_bytes();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            TensorType::F32 => block[3] = 0x3C,
            TensorType::F16 | TensorType::BF16 => block[1] = 0x3C,
            TensorType::MXFP4 => block[0] = 115,
            // Its scale is in the top bits of the last four words.
            TensorType::IQ1_M => block[55] = 0x10,
            TensorType::Q6_K => block[208..].copy_from_slice(&small),
            TensorType::Q3_K => block[108..].copy_from_slice(&small),
            TensorType::Q2_K => {
                block[80..82].copy_from_slice(&small);
                block[82..].copy_from_slice(&small);
            }
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => {
                block[..2].copy_from_slice(&small);
                block[2..4].copy_from_slice(&small);
            }
            _ => block[..2].copy_from_slice(&small),
        }
    }
    Matrix::from_gguf(ty, n_rows, n_cols, &bytes, pool).expect("the bytes fit the shape")
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
