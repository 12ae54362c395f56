//! The estimate against the truth: the model is loaded, its K/V memory filled and a step computed, and what the process
//! took is set beside what was said.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_gguf::GgufFile;
use ingle_kernels::Pool;
use ingle_model::sizing::{BLOCK_SIZE, Demand, Needs};
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_runtime::Source;
use ingle_step::{BlockId, Executor, Input, SeqId, SeqStep, StepBatch, TokenId, Want};
use ingle_tokenizer::Tokenizer;
use serde_json::json;

use super::subject::Subject;
use crate::process::anon_bytes;

/// What was said, and what was taken.
pub(super) struct Comparison {
    said: Needs,
    /// By the executor's own account.
    weights: u64,
    kv: u64,
    /// Anonymous memory of the process: before, with header and tokenizer, with weights, with keys and values, and after a
    /// step.
    anon: [u64; 5],
}

impl Comparison {
    fn taken(&self, from: usize, to: usize) -> u64 {
        self.anon[to].saturating_sub(self.anon[from])
    }

    /// How far all of it is from what was said for it, in parts of that; buffers, which are a bound, not counted.
    fn difference(&self) -> f64 {
        let said = (self.said.text + self.said.weights + self.said.kv) as f64;
        (self.taken(0, 3) as f64 - said) / said
    }
}

pub(super) fn check(subject: &Subject, demand: &Demand) -> Result<Comparison> {
    let Some(file) = &subject.file else { bail!("--check loads a model: name a GGUF file") };
    let own = match &subject.summary.own {
        Ok(own) => own,
        Err(why) => bail!("--check loads a model, and Ingle does not run this one: {why}"),
    };
    let said = Needs { text: subject.text, ..own.needs_for(demand) };
    let size = |n: u64| usize::try_from(n).context("that is more than this system addresses");
    let n_ctx = size(demand.n_ctx)?;
    let options = LoadOptions {
        n_ctx: Some(n_ctx),
        kv_type: demand.kv_type,
        kv_tokens: size(demand.n_ctx.saturating_mul(demand.n_seqs))?.max(n_ctx + BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        ..LoadOptions::default()
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Arc::new(Pool::new(n_threads));
    let anon = || anon_bytes().context("the system does not say what memory this process has");
    let before = anon()?;
    let file = Arc::new(match file.paths() {
        [] => Source::Shipped.open()?,
        [only] => GgufFile::open(only)?,
        parts => GgufFile::open_parts(parts)?,
    });
    // A model that Ingle runs may still have a tokenizer that it does not.
    let _tokenizer = Tokenizer::from_metadata(file.metadata());
    let with_text = anon()?;
    let mut executor = CpuExecutor::load(file, pool, &options, &mut |_, _| ())?;
    let with_weights = anon()?;
    let info = executor.info().clone();
    // Memory that nobody has written to is not there yet.
    let block = vec![0x3c; info.block_bytes];
    for id in 0..info.n_blocks {
        executor.import_block(BlockId(id as u32), &block)?;
    }
    let with_kv = anon()?;
    let n_rows = if info.causal { n_ctx.min(size(demand.n_rows)?) } else { n_ctx };
    executor.submit(step(n_rows, info.causal, info.has_logits))?;
    executor.wait()?;
    let anon = [before, with_text, with_weights, with_kv, anon()?];
    Ok(Comparison { said, weights: info.weight_bytes, kv: info.kv_bytes, anon })
}

/// A prompt of `n_rows` rows.
fn step(n_rows: usize, causal: bool, has_logits: bool) -> StepBatch {
    let want = if has_logits { Want::Logits } else { Want::Hidden };
    let seq = SeqStep {
        seq: SeqId(0),
        inputs: vec![Input::Token(TokenId(1)); n_rows],
        start: 0,
        block_table: (0..n_rows.div_ceil(BLOCK_SIZE)).map(|id| BlockId(id as u32)).collect(),
        causal,
        wants: vec![(n_rows as u32 - 1, want)],
        adapters: Vec::new(),
    };
    StepBatch { step: 1, seqs: vec![seq], ..StepBatch::default() }
}

pub(super) fn print(c: &Comparison, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let difference = c.difference();
    if as_json {
        let report = json!({
            "said": { "text_bytes": c.said.text, "weights_bytes": c.said.weights, "kv_bytes": c.said.kv, "buffer_bytes_max": c.said.buffers },
            "accounted": { "weights_bytes": c.weights, "kv_bytes": c.kv },
            "resident": {
                "text_bytes": c.taken(0, 1), "weights_bytes": c.taken(1, 2), "kv_bytes": c.taken(2, 3),
                "buffer_bytes": c.taken(3, 4), "total_bytes": c.taken(0, 4),
            },
            "difference": difference,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let mib = |n: u64| format!("{:.1}", n as f64 / f64::from(1 << 20));
        writeln!(out, "{:16} {:>12} {:>12} {:>12}", "MiB", "said", "accounted", "resident")?;
        for (what, said, accounted, resident) in [
            ("tokenizer", c.said.text, String::new(), c.taken(0, 1)),
            ("weights", c.said.weights, mib(c.weights), c.taken(1, 2)),
            ("keys and values", c.said.kv, mib(c.kv), c.taken(2, 3)),
            ("buffers", c.said.buffers, "at most".to_owned(), c.taken(3, 4)),
        ] {
            writeln!(out, "{what:16} {:>12} {accounted:>12} {:>12}", mib(said), mib(resident))?;
        }
        writeln!(out, "tokenizer, weights, keys and values: {:+.2} % of what was said", 100.0 * difference)?;
    }
    if (c.weights, c.kv) != (c.said.weights, c.said.kv) {
        bail!("the executor accounts for other sizes than were said: that is an error of the estimate");
    }
    Ok(())
}
