//! What the tests share: executors over tiny models, and sequences to run through them.

use std::sync::Arc;

use ingle_gguf::{GgufFile, GgufWriter, Value};
use ingle_kernels::Pool;
use ingle_model::{CpuExecutor, LoadOptions, ModelError};
use ingle_step::{BlockId, Executor, Input, KvType, SeqId, SeqStep, StepBatch, StepOut, TokenId, Want};

/// Loads a model from bytes.
pub fn try_load(bytes: Vec<u8>, pool: Arc<Pool>, options: &LoadOptions) -> Result<CpuExecutor, ModelError> {
    let file = Arc::new(GgufFile::from_bytes(bytes).expect("the test made a valid file"));
    CpuExecutor::load(file, pool, options, &mut |_, _| {})
}

/// Loads a model with one thread and F32 K/V: for comparisons with references.
pub fn load_exact(bytes: Vec<u8>, n_ctx: Option<usize>) -> CpuExecutor {
    let options = LoadOptions { n_ctx, kv_type: KvType::F32, kv_tokens: 1024, ..LoadOptions::default() };
    try_load(bytes, Arc::new(Pool::new(1)), &options).expect("the test made a valid model")
}

/// One step of one sequence: `tokens` from `start` on, logits for the rows that `wants` picks.
pub fn seq_step(
    id: u64,
    tokens: &[u32],
    start: usize,
    blocks: &[u32],
    wants: impl Fn(usize) -> bool,
) -> SeqStep {
    SeqStep {
        seq: SeqId(id),
        inputs: tokens.iter().map(|&t| Input::Token(TokenId(t))).collect(),
        start: start as u32,
        block_table: blocks.iter().map(|&b| BlockId(b)).collect(),
        causal: true,
        wants: (0..tokens.len()).filter(|&row| wants(row)).map(|row| (row as u32, Want::Logits)).collect(),
        adapters: Vec::new(),
    }
}

/// Runs a batch.
pub fn run(executor: &mut CpuExecutor, seqs: Vec<SeqStep>) -> StepOut {
    executor.submit(StepBatch { step: 7, seqs, ..StepBatch::default() }).expect("the batch is well formed");
    let out = executor.wait().expect("a step was submitted");
    assert_eq!(out.step, 7);
    out
}

/// The logits of every position of a text, in one step.
pub fn all_logits(executor: &mut CpuExecutor, tokens: &[u32]) -> Vec<Vec<f32>> {
    let n_blocks = tokens.len().div_ceil(executor.info().block_size) as u32;
    let blocks: Vec<u32> = (0..n_blocks).collect();
    let mut out = run(executor, vec![seq_step(1, tokens, 0, &blocks, |_| true)]);
    out.seqs.remove(0).rows.into_iter().map(|row| row.values).collect()
}

/// The log-probability of `token`.
pub fn log_prob(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(logits[token as usize] - max) - sum.ln()
}

/// The most likely token, the lowest among equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The numbers of a list in a file of goldens.
pub fn numbers(list: &serde_json::Value) -> Vec<f64> {
    list.as_array().expect("an array").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// The largest; NaN counts as larger than any.
pub fn largest(errors: &[f64]) -> f64 {
    errors.iter().copied().fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

/// The file with one change: a tensor of floats with other numbers, or a key with another value.
pub fn mutated(file: &GgufFile, tensor: Option<&str>, key: Option<(&str, Value)>) -> Vec<u8> {
    let mut metadata = file.metadata().clone();
    if let Some((key, value)) = key {
        metadata.set(key, value);
    }
    let mut out = GgufWriter::with_metadata(metadata);
    for info in file.tensors() {
        let mut data = file.tensor_data(info).expect("it is in memory").into_owned();
        if tensor == Some(&info.name) {
            // One element in eight is 5 % larger: less than any mistake of reading it.
            for number in data.chunks_exact_mut(4).step_by(8) {
                let x = f32::from_le_bytes(number.try_into().expect("4 bytes"));
                number.copy_from_slice(&(1.05 * x).to_le_bytes());
            }
        }
        out.tensor(&info.name, info.ty, &info.dims, data);
    }
    out.to_bytes()
}
