//! A loaded model whose executor is driven without an engine: what `ingle bench` measures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ingle_gguf::{GgufFile, TensorType};
use ingle_kernels::{Pool, limits};
use ingle_model::{AdapterLease, CpuExecutor, LoadOptions};
use ingle_step::{
    AdapterUse, BlockId, Executor, Input, KvType, RowOut, SeqId, SeqStep, StepBatch, StepOut, TokenId, Want,
};
use serde_json::{Map, Value, json};

use super::Plan;
use crate::progress::LoadProgress;
use crate::settings::Settings;

const BLOCK_SIZE: usize = 32;

/// What was computed in which time.
pub(super) struct Run {
    pub(super) n_tokens: usize,
    pub(super) seconds: f64,
}

impl Run {
    pub(super) fn tokens_per_s(&self) -> f64 {
        self.n_tokens as f64 / self.seconds
    }
}

/// What a token costs, from the file's tensors.
pub(super) struct Weights {
    pub(super) n_vocab: usize,
    /// Bytes of all matrices that a decoded token multiplies, the output matrix included.
    pub(super) bytes_per_token: u64,
    /// Operations (a multiply and an add are two) of the matrices outside the output matrix.
    pub(super) ops_per_prompt_token: f64,
    /// How the layers' matrices are multiplied.
    pub(super) products: Products,
}

/// What products are made of, and so which limit they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Products {
    /// Blocks, as int8.
    Int8,
    /// BF16, where the processor multiplies that.
    Bf16,
    /// Anything else.
    F32,
}

impl Products {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// The key of its limit, in billions of operations a second.
    fn key(self) -> &'static str {
        match self {
            Self::Int8 => "int8_gops",
            Self::Bf16 => "bf16_gops",
            Self::F32 => "f32_gops",
        }
    }
}

/// How many billions of operations a second this machine does at most, of each kind.
pub(super) fn compute_limits(pool: &Pool) -> Map<String, Value> {
    let mut found = Map::new();
    found.insert(Products::Int8.key().into(), json!(limits::int8_gops(pool)));
    found.insert(Products::F32.key().into(), json!(limits::f32_gops(pool)));
    found.extend(limits::bf16_gops(pool).map(|gops| (Products::Bf16.key().into(), json!(gops))));
    found
}

impl Weights {
    fn of(file: &GgufFile, pool: &Pool) -> Self {
        let tied = file.tensor("output.weight").is_none();
        let matrices = || file.tensors().iter().filter(|t| t.dims.len() > 1);
        let is_head = |name: &str| name == "output.weight" || (tied && name == "token_embd.weight");
        let n_vocab = file.tensor("token_embd.weight").map_or(1, |t| t.n_rows());
        let inner = || matrices().filter(|t| t.name.starts_with("blk."));
        Self {
            n_vocab,
            bytes_per_token: matrices()
                .filter(|t| t.name.starts_with("blk.") || is_head(&t.name))
                .map(|t| t.n_bytes() as u64)
                .sum(),
            ops_per_prompt_token: inner().map(|t| 2.0 * t.n_elements() as f64).sum(),
            products: if inner().any(|t| t.ty.block_len() > 1) {
                Products::Int8
            } else if inner().all(|t| t.ty == TensorType::BF16) && limits::bf16_gops(pool).is_some() {
                Products::Bf16
            } else {
                Products::F32
            },
        }
    }
}

/// A model and its K/V memory. Sequence `i` has its own run of blocks.
pub(super) struct Session {
    name: String,
    file: Arc<GgufFile>,
    pool: Arc<Pool>,
    executor: CpuExecutor,
    weights: Weights,
    kv_type: KvType,
    load_s: f64,
    /// What every sequence has, and how strongly.
    adapters: Vec<(AdapterLease, f32)>,
    step_tokens: usize,
    step: u64,
    /// Number of sequences and tokens in each that the K/V memory holds, for decodes at the same depth.
    held: Option<(usize, usize)>,
}

impl Session {
    /// Loads a model with K/V memory for the plan's sizes.
    pub(super) fn load(name: &str, file: Arc<GgufFile>, settings: &Settings, plan: &Plan) -> Result<Self> {
        let n_threads = settings.threads.0.map_or_else(
            || std::thread::available_parallelism().map_or(1, usize::from),
            |n| n.max(1) as usize,
        );
        let n_ctx = (plan.n_prompt).max(plan.depth + plan.n_gen + 1).max(BLOCK_SIZE);
        let kv_type = settings.kv_type.unwrap_or(KvType::F16);
        let options = LoadOptions {
            n_ctx: Some(n_ctx),
            kv_type,
            kv_tokens: (n_ctx + BLOCK_SIZE) * plan.n_seqs,
            block_size: BLOCK_SIZE,
            ..LoadOptions::default()
        };
        let pool = Arc::new(Pool::new(n_threads));
        let started = Instant::now();
        let executor = {
            let progress = LoadProgress::new(name);
            CpuExecutor::load(Arc::clone(&file), Arc::clone(&pool), &options, &mut |done, total| {
                progress.report(done, total);
            })?
        };
        let mut adapters = Vec::new();
        for source in crate::adapters::sources(settings)?.iter().filter(|source| source.scale != 0.0) {
            let path = &source.path;
            let registry = executor.adapters();
            let lease = registry.read(path).and_then(|file| registry.load(&file));
            adapters.push((lease.with_context(|| format!("adapter {}", path.display()))?, source.scale));
        }
        Ok(Self {
            adapters,
            name: name.into(),
            weights: Weights::of(&file, &pool),
            file,
            pool,
            executor,
            kv_type,
            load_s: started.elapsed().as_secs_f64(),
            step_tokens: plan.step_tokens,
            step: 0,
            held: None,
        })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The share that `gops` billions of operations a second are of what these weights' products allow.
    pub(super) fn share(&self, gops: f64, limits: &Map<String, Value>) -> Option<f64> {
        Some(gops / limits.get(self.weights.products.key())?.as_f64()?)
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What was loaded, and how.
    pub(super) fn description(&self) -> Map<String, Value> {
        let mut report = Map::new();
        report.insert("model".into(), json!(self.name));
        report.insert("file_bytes".into(), json!(self.file.n_bytes()));
        report.insert("bytes_per_token".into(), json!(self.weights.bytes_per_token));
        report.insert("threads".into(), json!(self.pool.n_threads()));
        report.insert("isa".into(), json!(self.pool.isa().name()));
        report.insert("kv_type".into(), json!(self.kv_type.name()));
        report.insert("prefill_limit".into(), json!(self.weights.products.key()));
        report.insert("load_s".into(), json!(self.load_s));
        report.insert("weight_bytes_in_memory".into(), json!(self.executor.info().weight_bytes));
        report
    }

    /// Computes a prompt in one sequence, with logits for its last token.
    pub(super) fn prefill(&mut self, n_tokens: usize) -> Result<Run> {
        self.check_room(1, n_tokens)?;
        self.held = None;
        let started = Instant::now();
        self.fill(0, n_tokens)?;
        Ok(Run { n_tokens, seconds: started.elapsed().as_secs_f64() })
    }

    /// Decodes `n_tokens` in each of `n_seqs` sequences together, after `depth` tokens, with logits for each; stops
    /// early when `time` is up.
    pub(super) fn decode(
        &mut self,
        n_seqs: usize,
        depth: usize,
        n_tokens: usize,
        time: Option<Duration>,
    ) -> Result<Run> {
        self.check_room(n_seqs, depth + n_tokens)?;
        self.hold(n_seqs, depth)?;
        let started = Instant::now();
        let mut done = 0;
        while done < n_tokens && time.is_none_or(|time| done == 0 || started.elapsed() < time) {
            let seqs =
                (0..n_seqs).map(|s| self.seq_step(s, depth + done, 1, vec![(0, Want::Logits)])).collect();
            self.run(seqs)?;
            done += 1;
        }
        Ok(Run { n_tokens: done * n_seqs, seconds: started.elapsed().as_secs_f64() })
    }

    /// Sees to it that so many tokens are in each sequence's K/V memory.
    pub(super) fn hold(&mut self, n_seqs: usize, depth: usize) -> Result<()> {
        if self.held != Some((n_seqs, depth)) {
            self.held = None;
            if depth > 0 {
                for seq in 0..n_seqs {
                    self.fill(seq, depth)?;
                }
            }
            self.held = Some((n_seqs, depth));
        }
        Ok(())
    }

    /// Computes tokens of the first sequence behind `start` others. `meanwhile` is called while they are computed, and
    /// `then` with the logits of the last.
    pub(super) fn say<T>(
        &mut self,
        start: usize,
        tokens: &[TokenId],
        meanwhile: impl FnOnce() -> Result<()>,
        then: impl FnOnce(&[f32]) -> T,
    ) -> Result<T> {
        self.check_room(1, start + tokens.len())?;
        let mut step = self.seq_step(0, start, tokens.len(), vec![(tokens.len() as u32 - 1, Want::Logits)]);
        step.inputs = tokens.iter().map(|&token| Input::Token(token)).collect();
        let out = self.compute(vec![step], meanwhile)?;
        let given = then(out.seqs.last().and_then(|seq| seq.rows.last()).map_or(&[], |row| &row.values));
        self.executor.recycle(out);
        Ok(given)
    }

    fn check_room(&self, n_seqs: usize, n_tokens: usize) -> Result<()> {
        let n_ctx = self.executor.info().n_ctx;
        if n_tokens > n_ctx || n_seqs > self.executor.info().n_blocks / self.blocks_per_seq() {
            bail!(
                "{n_seqs} sequences of {n_tokens} tokens are more than was loaded for (-p, -n, --batch, --depth)"
            );
        }
        Ok(())
    }

    fn blocks_per_seq(&self) -> usize {
        let info = self.executor.info();
        info.n_ctx.div_ceil(info.block_size)
    }

    fn fill(&mut self, seq: usize, n_tokens: usize) -> Result<()> {
        let mut start = 0;
        while start < n_tokens {
            let n = self.step_tokens.min(n_tokens - start);
            let last = start + n == n_tokens;
            let wants = if last { vec![(n as u32 - 1, Want::Logits)] } else { Vec::new() };
            let step = self.seq_step(seq, start, n, wants);
            self.run(vec![step])?;
            start += n;
        }
        Ok(())
    }

    fn seq_step(&self, seq: usize, start: usize, n: usize, wants: Vec<(u32, Want)>) -> SeqStep {
        let per_seq = self.blocks_per_seq();
        let n_blocks = (start + n).div_ceil(self.executor.info().block_size);
        // Any fixed walk through the vocabulary will do: speed does not depend on which tokens they are.
        let token = |i: usize| {
            Input::Token(TokenId(((seq * 7919 + (start + i) * 104_729 + 1) % self.weights.n_vocab) as u32))
        };
        SeqStep {
            seq: SeqId(seq as u64),
            inputs: (0..n).map(token).collect(),
            start: start as u32,
            block_table: (0..n_blocks).map(|b| BlockId((seq * per_seq + b) as u32)).collect(),
            causal: true,
            wants,
            adapters: self
                .adapters
                .iter()
                .map(|(lease, scale)| AdapterUse { adapter: lease.id(), scale: *scale })
                .collect(),
        }
    }

    fn run(&mut self, seqs: Vec<SeqStep>) -> Result<()> {
        let out = self.compute(seqs, || Ok(()))?;
        self.executor.recycle(out);
        Ok(())
    }

    fn compute(&mut self, seqs: Vec<SeqStep>, meanwhile: impl FnOnce() -> Result<()>) -> Result<StepOut> {
        self.step += 1;
        self.executor.submit(StepBatch { step: self.step, copies: Vec::new(), seqs })?;
        meanwhile()?;
        let out = self.executor.wait()?;
        if !out.seqs.iter().flat_map(|s| &s.rows).all(RowOut::is_finite) {
            bail!("the model gives a logit that is not finite: its weights are damaged");
        }
        Ok(out)
    }
}
