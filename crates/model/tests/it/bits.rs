//! A token's logits and hidden state are a function of its own sequence alone, bit for bit: whatever runs beside it, however the
//! text is cut into steps, on any number of threads, in any order of work and on any instruction set.

use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorType};
use ingle_kernels::{ClaimOrder, Isa, Pool};
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_step::{Executor, KvType, SeqStep, Want};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

use crate::support::{run, seq_step};

/// Beyond the fixed positions at which attention splits long contexts.
const N_LONG: usize = 2100;
/// Rows at the end that are decoded one by one where a schedule says so.
const N_DECODED: usize = 12;
/// Blocks in the cache: for the long sequence and seven beside it.
const N_BLOCKS: usize = 128;
const BLOCK_SIZE: usize = 32;
const N_SEQS: usize = 8;

/// How a text is run.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    isa: Isa,
    n_threads: usize,
    order: ClaimOrder,
    /// Rows in a step, in turn; the last steps are single rows. Empty: the whole text in one step.
    chunks: &'static [usize],
    /// Whether seven other sequences share each step.
    in_batch: bool,
    /// How much of the text is run.
    n_tokens: usize,
}

impl Schedule {
    /// All at once, alone, on one thread.
    fn plain(n_tokens: usize) -> Self {
        let isa = Isa::available().last().expect("scalar is always there");
        Self { isa, n_threads: 1, order: ClaimOrder::Forward, chunks: &[], in_batch: false, n_tokens }
    }

    fn all() -> Vec<Self> {
        let plain = Self::plain(N_LONG);
        let mut out = vec![
            Self { chunks: &[512, 1, 33, 700, 100], in_batch: true, ..plain },
            Self { n_threads: 2, order: ClaimOrder::Shuffled(7), chunks: &[300, 1000], ..plain },
            Self { n_threads: 2, order: ClaimOrder::Reverse, chunks: &[640], in_batch: true, ..plain },
        ];
        for isa in Isa::available().filter(|&isa| isa != plain.isa) {
            out.push(Self { isa, n_threads: 2, chunks: &[97, 400], in_batch: true, ..plain });
        }
        out
    }
}

fn text(seed: u64, n: usize, n_vocab: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(n_vocab) as u32).collect()
}

/// Which rows are compared: some of the whole text, all near the ends.
fn is_compared(position: usize) -> bool {
    let ends = [0..4, 140..150, N_LONG - N_DECODED..N_LONG];
    position.is_multiple_of(61) || ends.iter().any(|end| end.contains(&position))
}

/// The bits of the logits of each compared row, and of its hidden state.
fn bits(file: &Arc<GgufFile>, kv_type: KvType, schedule: Schedule) -> Vec<(usize, Vec<u32>)> {
    let pool = Arc::new(Pool::with(schedule.n_threads, schedule.isa, schedule.order));
    let options = LoadOptions {
        kv_type,
        kv_tokens: N_BLOCKS * BLOCK_SIZE,
        block_size: BLOCK_SIZE,
        ..LoadOptions::default()
    };
    let mut executor =
        CpuExecutor::load(file.clone(), pool, &options, &mut |_, _| {}).expect("a valid model");
    let mut seqs = sequences(executor.info().n_vocab, schedule);
    let mut chunks = schedule.chunks.iter().copied().cycle();
    let mut out = Vec::new();
    while seqs[0].at < schedule.n_tokens {
        let left = schedule.n_tokens - seqs[0].at;
        let n = match chunks.next() {
            None => left,
            Some(_) if left <= N_DECODED => 1,
            Some(chunk) => chunk.min(left - N_DECODED),
        };
        let mut steps = vec![seqs[0].step(n)];
        for (i, seq) in seqs.iter_mut().enumerate().skip(1) {
            // The others come and go with a few rows each, and keep to their own text.
            let n = (i + out.len()) % 5;
            if n > 0 && seq.at + n <= seq.text.len() {
                steps.push(seq.step(n));
            }
        }
        // The order within a batch must not matter either.
        let main = steps.len() / 2;
        steps.swap(0, main);
        collect(&mut executor, steps, main, &mut out);
    }
    out
}

/// One sequence on its way.
struct Sequence {
    id: u64,
    text: Vec<u32>,
    /// How much of it is in the cache.
    at: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    fn step(&mut self, n: usize) -> SeqStep {
        let start = self.at;
        self.at += n;
        let wants = |row: usize| self.id == 0 && is_compared(start + row);
        let mut step = seq_step(self.id, &self.text[start..self.at], start, &self.blocks, wants);
        step.wants =
            step.wants.iter().flat_map(|&(row, _)| [(row, Want::Logits), (row, Want::Hidden)]).collect();
        step
    }
}

/// The sequence that is compared, first, and seven more; their blocks are scattered.
fn sequences(n_vocab: usize, schedule: Schedule) -> Vec<Sequence> {
    let mut blocks: Vec<u32> = (0..N_BLOCKS as u32).collect();
    let mut rng = Rng::new(u64::from(schedule.in_batch) + schedule.n_threads as u64);
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, rng.below(i + 1));
    }
    let n_seqs = if schedule.in_batch { N_SEQS } else { 1 };
    let sequence = |id: usize| {
        let n_tokens = if id == 0 { N_LONG } else { 40 * id };
        let n_blocks = n_tokens.div_ceil(BLOCK_SIZE);
        let text = text(100 + id as u64, n_tokens, n_vocab);
        Sequence { id: id as u64, text, at: 0, blocks: blocks.split_off(blocks.len() - n_blocks) }
    };
    (0..n_seqs).map(sequence).collect()
}

fn collect(executor: &mut CpuExecutor, steps: Vec<SeqStep>, main: usize, out: &mut Vec<(usize, Vec<u32>)>) {
    let start = steps[main].start as usize;
    let result = run(executor, steps);
    for row in &result.seqs[main].rows {
        assert!(row.is_finite(), "values are finite");
        out.push((start + row.row as usize, row.values.iter().map(|l| l.to_bits()).collect()));
    }
}

fn check(spec: &TinySpec, kv_type: KvType, schedules: &[Schedule]) {
    let file = Arc::new(GgufFile::from_bytes(spec.bytes()).expect("a valid file"));
    let expected = bits(&file, kv_type, Schedule::plain(N_LONG));
    for &schedule in schedules {
        let found = bits(&file, kv_type, schedule);
        let n = expected.iter().take_while(|(position, _)| *position < schedule.n_tokens).count();
        assert_eq!(found.len(), n, "{schedule:?} gives all rows");
        for ((position, found), (_, expected)) in found.iter().zip(&expected) {
            let ty = spec.weight_type;
            assert!(found == expected, "{ty}, {kv_type:?} K/V: position {position} differs in {schedule:?}");
        }
    }
}

fn spec(arch: Arch, ty: TensorType) -> TinySpec {
    TinySpec { n_ctx: 4096, n_vocab: 300, ..TinySpec::new(arch).wide().weight_type(ty) }
}

#[test]
fn f16() {
    check(&spec(Arch::Llama, TensorType::F16), KvType::F16, &Schedule::all());
}

#[test]
fn bf16() {
    check(&spec(Arch::Llama, TensorType::BF16), KvType::F16, &Schedule::all());
}

#[test]
fn q8_0() {
    check(&spec(Arch::Qwen2, TensorType::Q8_0), KvType::F16, &Schedule::all());
}

#[test]
fn q4_k() {
    check(&spec(Arch::Llama, TensorType::Q4_K), KvType::F16, &Schedule::all());
}

#[test]
fn q6_k() {
    check(&spec(Arch::Qwen3, TensorType::Q6_K), KvType::F16, &Schedule::all());
}

#[test]
fn other_types_of_weights_and_keys() {
    let schedules = Schedule::all();
    let few = [schedules[0], schedules[2]];
    check(&spec(Arch::Qwen3, TensorType::Q4_0), KvType::Q8_0, &few);
    check(&spec(Arch::Qwen2, TensorType::F32), KvType::BF16, &few);
    check(&spec(Arch::Qwen2, TensorType::Q8_0), KvType::Q4_0, &few);
}
