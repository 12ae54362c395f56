//! `ingle bench`: prefill and decode, beside this machine's limits measured in the same run.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, value_parser};
use ingle_gguf::GgufFile;
use ingle_kernels::{Pool, limits};
use ingle_model::synthetic::Synthetic;
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_step::{BlockId, Executor, Input, KvType, SeqId, SeqStep, StepBatch, TokenId, Want};
use serde_json::json;

use crate::commands::bytes;
use crate::process;
use crate::progress::LoadProgress;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

const USAGE: Usage = Usage {
    name: "bench",
    about: "Measure prefill and decode of a model, beside this machine's limits measured in the same run.\n\n\
            Figures are medians over the repetitions. GB/s count the file's bytes that a decoded token reads.",
    command: Commands::BENCH,
    positional: &[("MODEL", "GGUF file to measure [default: the model that ships with Ingle]")],
};

const BLOCK_SIZE: usize = 32;
const STEP_TOKENS_DEFAULT: u32 = 512;

/// What to measure.
struct Plan {
    n_prompt: usize,
    n_gen: usize,
    n_seqs: usize,
    depth: usize,
    repetitions: usize,
    step_tokens: usize,
}

pub fn main(args: &[OsString]) -> Result<()> {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(u32))
            .help(help)
    };
    let extra = [
        Arg::new("synthetic").long("synthetic").value_name("SHAPE:TYPE").help(format!(
            "Make a model of random weights instead of loading one, such as llama-1b:Q4_K_M (shapes: {})",
            Synthetic::shapes().collect::<Vec<_>>().join(", ")
        )),
        Arg::new("save")
            .long("save")
            .value_name("FILE")
            .requires("synthetic")
            .help("Write the model of --synthetic to a file, and measure nothing"),
        number("n-prompt", "512", "Prompt tokens to prefill").short('p'),
        number("n-gen", "128", "Tokens to decode").short('n'),
        number("batch", "1", "Sequences that decode together"),
        number("depth", "0", "Tokens in each sequence before decoding is measured"),
        number("repetitions", "5", "Runs of each measurement").short('r'),
    ];
    let (parsed, m) = parse(USAGE, &extra, args, &Facts::default())?;
    let mut settings = parsed.settings;
    if let Some(model) = parsed.positional.first() {
        if m.contains_id("model") {
            bail!("there are two models: `{model}` and the one of --model");
        }
        settings.model = Some(model.into());
    }
    parsed.notes.iter().for_each(|note| say!("note: {note}"));
    if let (Some(spec), Some(path)) = (m.get_one::<String>("synthetic"), m.get_one::<String>("save")) {
        return save(spec, path.as_ref());
    }
    let plan = plan(&m, &settings)?;
    let (name, file) = open(&settings, m.get_one::<String>("synthetic"))?;
    measure(&name, Arc::new(file), &settings, &plan)
}

/// Writes a synthetic model under a temporary name first, so that the file is whole wherever it is seen.
fn save(spec: &str, path: &Path) -> Result<()> {
    let model = Synthetic::parse(spec).context("--synthetic")?;
    // Renaming would put a file in the place of a device or a folder.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        bail!("cannot write {}: it is there, and no regular file", path.display());
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&temporary)?);
        model.write(&mut file)?;
        file.into_inner()?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn plan(m: &ArgMatches, settings: &Settings) -> Result<Plan> {
    let n = |name: &str| *m.get_one::<u32>(name).expect("has a default") as usize;
    let plan = Plan {
        n_prompt: n("n-prompt"),
        n_gen: n("n-gen"),
        n_seqs: n("batch"),
        depth: n("depth"),
        repetitions: n("repetitions"),
        step_tokens: settings.batch_tokens.unwrap_or(STEP_TOKENS_DEFAULT) as usize,
    };
    if settings.threads.0 == Some(0) {
        bail!("--threads: at least one thread must compute");
    }
    if plan.n_seqs == 0 || plan.repetitions == 0 || plan.step_tokens == 0 {
        bail!("--batch, --repetitions and --max-num-batched-tokens must be at least 1");
    }
    if plan.n_prompt + plan.n_gen == 0 {
        bail!("nothing to measure: -p and -n are both 0");
    }
    Ok(plan)
}

fn open(settings: &Settings, synthetic_spec: Option<&String>) -> Result<(String, GgufFile)> {
    match (synthetic_spec, &settings.model) {
        (Some(_), Some(_)) => bail!("give a model or --synthetic, not both"),
        (None, None) => Ok(("the shipped model".into(), ingle_runtime::Source::Shipped.open()?)),
        (None, Some(path)) => Ok((
            path.display().to_string(),
            GgufFile::open(path).with_context(|| format!("cannot use {}", path.display()))?,
        )),
        (Some(spec), None) => {
            say!("making {spec} ...");
            let mut bytes = Vec::new();
            Synthetic::parse(spec).context("--synthetic")?.write(&mut bytes)?;
            Ok((spec.clone(), GgufFile::from_bytes(bytes)?))
        }
    }
}

fn measure(name: &str, file: Arc<GgufFile>, settings: &Settings, plan: &Plan) -> Result<()> {
    let n_threads = settings
        .threads
        .0
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |n| n.max(1) as usize);
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
    let mut executor = {
        let progress = LoadProgress::new(name);
        CpuExecutor::load(Arc::clone(&file), Arc::clone(&pool), &options, &mut |done, total| {
            progress.report(done, total);
        })?
    };
    let load_s = started.elapsed().as_secs_f64();
    let weights = Weights::of(&file);

    let mut report = serde_json::Map::new();
    report.insert("model".into(), json!(name));
    report.insert("file_bytes".into(), json!(file.n_bytes()));
    report.insert("bytes_per_token".into(), json!(weights.bytes_per_token));
    report.insert("threads".into(), json!(n_threads));
    report.insert("isa".into(), json!(pool.isa().name()));
    report.insert("kv_type".into(), json!(kv_type.name()));
    report.insert("load_s".into(), json!(load_s));
    report.insert("weight_bytes_in_memory".into(), json!(executor.info().weight_bytes));

    let mut runner = Runner { executor: &mut executor, step: 0, n_vocab: weights.n_vocab };
    runner.prefill(0, 1, 1)?;
    report.insert("first_token_s".into(), json!(process::age().map(|age| age.as_secs_f64())));
    report.insert("anon_bytes".into(), json!(process::anon_bytes()));
    let int8_gops = limits::int8_gops(&pool);
    let f32_gops = limits::f32_gops(&pool);
    report.insert("limits".into(), json!({ "int8_gops": int8_gops, "f32_gops": f32_gops }));
    if plan.n_prompt > 0 {
        runner.prefill(0, plan.n_prompt, plan.step_tokens)?;
        let mut runs = Vec::new();
        for _ in 0..plan.repetitions {
            let started = Instant::now();
            runner.prefill(0, plan.n_prompt, plan.step_tokens)?;
            runs.push(plan.n_prompt as f64 / started.elapsed().as_secs_f64());
        }
        let speed = median(&mut runs);
        let gops = speed * weights.ops_per_prompt_token / 1e9;
        report.insert(
            "prefill".into(),
            json!({
                "n_tokens": plan.n_prompt, "tokens_per_s": speed, "min": runs[0], "max": runs[runs.len() - 1],
                "linear_gops": gops,
                "share_of_int8_limit": weights.quantized.then_some(gops / int8_gops),
                "share_of_f32_limit": (!weights.quantized).then_some(gops / f32_gops),
            }),
        );
    }
    if plan.n_gen > 0 {
        for seq in 0..plan.n_seqs {
            if plan.depth > 0 {
                runner.prefill(seq, plan.depth, plan.step_tokens)?;
            }
        }
        runner.decode(plan.n_seqs, plan.depth, plan.n_gen.min(8))?;
        let (mut runs, mut probes) = (Vec::new(), Vec::new());
        for _ in 0..plan.repetitions {
            // A probe beside each run: the memory of a shared machine is not the same from minute to minute.
            probes.push(limits::read_gbs(&pool));
            let started = Instant::now();
            runner.decode(plan.n_seqs, plan.depth, plan.n_gen)?;
            runs.push((plan.n_gen * plan.n_seqs) as f64 / started.elapsed().as_secs_f64());
        }
        let speed = median(&mut runs);
        let read_gbs = median(&mut probes);
        let gbs = speed / plan.n_seqs as f64 * weights.bytes_per_token as f64 / 1e9;
        report.insert(
            "decode".into(),
            json!({
                "n_tokens": plan.n_gen, "n_seqs": plan.n_seqs, "depth": plan.depth,
                "tokens_per_s": speed, "min": runs[0], "max": runs[runs.len() - 1],
                "file_gb_per_s": gbs, "read_limit_gb_per_s": read_gbs, "share_of_read_limit": gbs / read_gbs,
            }),
        );
    }
    print(&report, settings.json)
}

fn print(report: &serde_json::Map<String, serde_json::Value>, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    let f = |v: &serde_json::Value| v.as_f64().unwrap_or(f64::NAN);
    writeln!(
        out,
        "{}: {}, loaded in {:.2} s, {} threads, {}, KV {}",
        report["model"].as_str().unwrap_or_default(),
        bytes(report["file_bytes"].as_u64().unwrap_or_default()),
        f(&report["load_s"]),
        report["threads"],
        report["isa"].as_str().unwrap_or_default(),
        report["kv_type"].as_str().unwrap_or_default(),
    )?;
    if let Some(p) = report.get("prefill") {
        let (share, limit) = match p["share_of_int8_limit"].as_f64() {
            Some(share) => (share, "int8"),
            None => (f(&p["share_of_f32_limit"]), "f32"),
        };
        writeln!(
            out,
            "prefill {:5} tokens          {:9.1} tokens/s  {:7.0} Gop/s  {:3.0} % of the {limit} limit",
            p["n_tokens"],
            f(&p["tokens_per_s"]),
            f(&p["linear_gops"]),
            100.0 * share
        )?;
    }
    if let Some(d) = report.get("decode") {
        writeln!(
            out,
            "decode  {:5} tokens × {:3} seqs {:9.1} tokens/s  {:7.1} GB/s   {:3.0} % of what memory reads ({:.1} GB/s)",
            d["n_tokens"],
            d["n_seqs"],
            f(&d["tokens_per_s"]),
            f(&d["file_gb_per_s"]),
            100.0 * f(&d["share_of_read_limit"]),
            f(&d["read_limit_gb_per_s"])
        )?;
    }
    Ok(())
}

/// What a token costs, from the file's tensors.
struct Weights {
    n_vocab: usize,
    /// Bytes of all matrices that a decoded token multiplies, the output matrix included.
    bytes_per_token: u64,
    /// Operations (a multiply and an add are two) of the matrices outside the output matrix.
    ops_per_prompt_token: f64,
    quantized: bool,
}

impl Weights {
    fn of(file: &GgufFile) -> Self {
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
            quantized: inner().any(|t| t.ty.block_len() > 1),
        }
    }
}

/// Drives an executor without an engine. Sequence `i` has its own run of blocks.
struct Runner<'a> {
    executor: &'a mut CpuExecutor,
    step: u64,
    n_vocab: usize,
}

impl Runner<'_> {
    fn prefill(&mut self, seq: usize, n_tokens: usize, step_tokens: usize) -> Result<()> {
        let mut start = 0;
        while start < n_tokens {
            let n = step_tokens.min(n_tokens - start);
            let last = start + n == n_tokens;
            let wants = if last { vec![(n as u32 - 1, Want::Logits)] } else { Vec::new() };
            let step = self.seq_step(seq, start, n, wants);
            self.run(vec![step])?;
            start += n;
        }
        Ok(())
    }

    fn decode(&mut self, n_seqs: usize, depth: usize, n_tokens: usize) -> Result<()> {
        for i in 0..n_tokens {
            let seqs = (0..n_seqs).map(|s| self.seq_step(s, depth + i, 1, vec![(0, Want::Logits)])).collect();
            self.run(seqs)?;
        }
        Ok(())
    }

    fn seq_step(&self, seq: usize, start: usize, n: usize, wants: Vec<(u32, Want)>) -> SeqStep {
        let info = self.executor.info();
        let per_seq = info.n_ctx.div_ceil(info.block_size);
        let n_blocks = (start + n).div_ceil(info.block_size);
        // Any fixed walk through the vocabulary will do: speed does not depend on which tokens they are.
        let token = |i: usize| {
            Input::Token(TokenId(((seq * 7919 + (start + i) * 104_729 + 1) % self.n_vocab) as u32))
        };
        SeqStep {
            seq: SeqId(seq as u64),
            inputs: (0..n).map(token).collect(),
            start: start as u32,
            block_table: (0..n_blocks).map(|b| BlockId((seq * per_seq + b) as u32)).collect(),
            causal: true,
            wants,
        }
    }

    fn run(&mut self, seqs: Vec<SeqStep>) -> Result<()> {
        self.step += 1;
        self.executor.submit(StepBatch { step: self.step, copies: Vec::new(), seqs })?;
        let out = self.executor.wait()?;
        for row in out.seqs.iter().flat_map(|s| &s.rows) {
            if let Some(bad) = row.values.iter().find(|x| !x.is_finite()) {
                bail!("the model gives {bad} as a logit: its weights are damaged");
            }
        }
        Ok(())
    }
}

/// Sorts, and gives the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2.0 }
}
