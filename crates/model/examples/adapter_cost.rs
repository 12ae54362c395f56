//! What adapters cost a step, beside the same step without them. Usage: `adapter_cost`, in a release build.
//!
//! The model has the shape of a billion parameters' layers, four of them. The variants take turns, so that what else the
//! machine does is in all of them; each figure is a median, and its share of the first variant's.

use std::sync::Arc;
use std::time::Instant;

use ingle_gguf::{GgufFile, TensorType};
use ingle_kernels::Pool;
use ingle_model::{AdapterLease, CpuExecutor, LoadOptions};
use ingle_step::{AdapterUse, BlockId, Executor, Input, SeqId, SeqStep, StepBatch, TokenId, Want};
use ingle_testkit::lora::TinyLora;
use ingle_testkit::tiny::{Arch, TinySpec};

const N_SEQS: usize = 8;
const ROUNDS: usize = 30;

fn load(file: &Arc<GgufFile>, pool: &Arc<Pool>) -> CpuExecutor {
    let options = LoadOptions { kv_tokens: 4096, ..LoadOptions::default() };
    CpuExecutor::load(file.clone(), pool.clone(), &options, &mut |_, _| {}).expect("a valid model")
}

/// Milliseconds of a step of `n` rows in each of the sequences.
fn step(executor: &mut CpuExecutor, n: usize, adapters: &[Vec<AdapterUse>]) -> f64 {
    let seqs = adapters.iter().enumerate().map(|(i, adapters)| SeqStep {
        seq: SeqId(i as u64),
        inputs: (0..n).map(|row| Input::Token(TokenId((row * 7 + i) as u32 % 256))).collect(),
        start: 0,
        block_table: (0..n.div_ceil(32)).map(|b| BlockId((i * 16 + b) as u32)).collect(),
        causal: true,
        wants: vec![(n as u32 - 1, Want::Logits)],
        adapters: adapters.clone(),
    });
    let batch = StepBatch { seqs: seqs.collect(), ..StepBatch::default() };
    let began = Instant::now();
    executor.submit(batch).expect("a valid batch");
    let out = executor.wait().expect("a result");
    let took = began.elapsed().as_secs_f64() * 1000.0;
    executor.recycle(out);
    took
}

fn main() {
    let shape = TinySpec {
        n_layers: 4,
        n_embd: 2048,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        n_ff: 8192,
        ..TinySpec::new(Arch::Llama)
    };
    let shape = shape.weight_type(TensorType::Q4_K);
    let file = Arc::new(GgufFile::from_bytes(shape.bytes()).expect("a valid file"));
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Arc::new(Pool::new(n_threads));
    let (mut plain, mut adapted) = (load(&file, &pool), load(&file, &pool));
    let folder = tempfile::TempDir::new().expect("a folder");
    let leases: Vec<AdapterLease> = (0..5)
        .map(|seed| {
            let path = folder.path().join(format!("{seed}.gguf"));
            let lora = TinyLora { rank: 16, embeddings: false, ..TinyLora::new(seed) };
            std::fs::write(&path, lora.gguf(&shape).to_bytes()).expect("written");
            let file = adapted.adapters().read(&path).expect("a valid adapter");
            adapted.adapters().load(&file).expect("there is memory")
        })
        .collect();
    let used = |i: usize| vec![AdapterUse { adapter: leases[i % leases.len()].id(), scale: 1.0 }];
    let variants: [(&str, Vec<Vec<AdapterUse>>); 5] = [
        ("none loaded", vec![vec![]; N_SEQS]),
        ("five loaded, none used", vec![vec![]; N_SEQS]),
        ("one sequence of eight", (0..N_SEQS).map(|i| if i == 3 { used(0) } else { vec![] }).collect()),
        ("eight sequences, one adapter", (0..N_SEQS).map(|_| used(0)).collect()),
        ("eight sequences, five adapters", (0..N_SEQS).map(used).collect()),
    ];
    for (what, n) in [("decode, 8 x 1 rows", 1), ("prefill, 8 x 64 rows", 64)] {
        let mut times = vec![Vec::new(); variants.len()];
        for round in 0..ROUNDS {
            for (i, (_, adapters)) in variants.iter().enumerate() {
                let took = step(if i == 0 { &mut plain } else { &mut adapted }, n, adapters);
                if round > 2 {
                    times[i].push(took);
                }
            }
        }
        let medians: Vec<f64> = times
            .into_iter()
            .map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            })
            .collect();
        println!("{what}, {n_threads} threads:");
        for ((name, _), median) in variants.iter().zip(&medians) {
            println!("  {name:32} {median:8.3} ms  {:6.1} %", 100.0 * median / medians[0]);
        }
    }
}
