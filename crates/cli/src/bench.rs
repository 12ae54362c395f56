//! `ingle bench`: prefill and decode, beside this machine's limits measured in the same run. [`serve`] measures servers.

mod constrained;
mod requests;
pub mod serve;
mod session;
mod speculation;
mod texts;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use ingle_gguf::GgufFile;
use ingle_kernels::limits;
use ingle_model::synthetic::Synthetic;
use serde_json::json;

use self::constrained::Constrained;
use self::session::{Session, compute_limits};
use crate::commands::bytes;
use crate::process;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

pub const USAGE: Usage = Usage {
    name: "bench",
    about: "Measure prefill and decode of a model, beside this machine's limits measured in the same run.\n\n\
            Figures are medians over the repetitions. GB/s count the file's bytes that a decoded token reads.\n\n\
            `ingle bench serve` measures servers instead: how they answer many requests.",
    command: Commands::BENCH,
    positional: &[("MODEL", "GGUF file to measure [default: the model that ships with Ingle]")],
};

const STEP_TOKENS_DEFAULT: u32 = 512;

/// What to measure. With `--stdin` these are the largest sizes that may be asked for.
struct Plan {
    n_prompt: usize,
    n_gen: usize,
    n_seqs: usize,
    depth: usize,
    repetitions: usize,
    step_tokens: usize,
}

pub fn main(args: &[OsString]) -> Result<ExitCode> {
    match args.first() {
        Some(first) if first == "serve" => serve::main(&args[1..]),
        _ => measure_model(args).map(|()| ExitCode::SUCCESS),
    }
}

/// Its own options.
pub fn arguments() -> Vec<Arg> {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(u32))
            .help(help)
    };
    vec![
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
        Arg::new("schema").long("schema").value_name("FILE").help(format!(
            "Measure decoding that obeys a JSON Schema too, in turns with decoding that is free; `{}` is one with long \
             names",
            constrained::BUILT_IN
        )),
        Arg::new("vocab").long("vocab").value_name("FILE").requires("schema").help(
            "Take the vocabulary of a GGUF file for --schema instead of the model's: a synthetic model has bytes alone",
        ),
        Arg::new("speculation").long("speculation").action(ArgAction::SetTrue).conflicts_with_all(["save", "schema", "stdin"]).help(
            "Measure what guessing ahead makes of decoding: steps by their rows, after --depth tokens, and answers that \
             repeat their prompts or do not, as they would come in such steps",
        ),
        Arg::new("stdin").long("stdin").action(ArgAction::SetTrue).conflicts_with_all(["save", "schema"]).help(
            "Load once, then measure what standard input asks for: a JSON object per line, answered by one. \
             -p, -n, --batch and --depth are the largest sizes",
        ),
    ]
}

fn measure_model(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(USAGE, &arguments(), args, &Facts::default())?;
    let mut settings = parsed.settings;
    if let Some(model) = parsed.positional.first() {
        if m.contains_id("model") {
            misuse!("there are two models: `{model}` and the one of --model");
        }
        settings.model = vec![model.into()];
    }
    parsed.notes.iter().for_each(|note| say!("note: {note}"));
    if let (Some(spec), Some(path)) = (m.get_one::<String>("synthetic"), m.get_one::<String>("save")) {
        return save(spec, path.as_ref());
    }
    let mut plan = plan(&m, &settings)?;
    if m.get_flag("speculation") {
        plan.n_gen = plan.n_gen.max(speculation::ROWS_MAX);
    }
    if m.contains_id("schema") && plan.n_gen == 0 {
        misuse!("--schema measures decoding: -n must be at least 1");
    }
    let (name, file) = open(&settings, m.get_one::<String>("synthetic"))?;
    let file = Arc::new(file);
    let schema = m.get_one::<String>("schema");
    let constrained = schema
        .map(|schema| Constrained::new(schema, m.get_one::<String>("vocab"), &file))
        .transpose()
        .context("--schema")?;
    let mut session = Session::load(&name, file, &settings, &plan)?;
    if m.get_flag("stdin") {
        return requests::answer(&mut session, std::io::stdin().lock(), std::io::stdout().lock());
    }
    if m.get_flag("speculation") {
        let mut report = session.description();
        report.insert("speculation".into(), speculation::measure(&mut session, &plan)?.into());
        return print(&report, settings.json);
    }
    measure(&mut session, &settings, &plan, constrained.as_ref())
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
        misuse!("nothing to measure: -p and -n are both 0");
    }
    Ok(plan)
}

fn open(settings: &Settings, synthetic_spec: Option<&String>) -> Result<(String, GgufFile)> {
    match (synthetic_spec, settings.model_file()) {
        (Some(_), Some(_)) => bail!("give a model or --synthetic, not both"),
        (None, None) => Ok(("the shipped model".into(), ingle_runtime::Source::Shipped.open()?)),
        (None, Some(_)) => {
            let chosen = crate::models::chosen(settings)?;
            let file = chosen.source.open().with_context(|| format!("cannot use {}", chosen.shown))?;
            Ok((chosen.shown, file))
        }
        (Some(spec), None) => {
            say!("making {spec} ...");
            let mut bytes = Vec::new();
            Synthetic::parse(spec).context("--synthetic")?.write(&mut bytes)?;
            Ok((spec.clone(), GgufFile::from_bytes(bytes)?))
        }
    }
}

fn measure(
    session: &mut Session,
    settings: &Settings,
    plan: &Plan,
    constrained: Option<&Constrained>,
) -> Result<()> {
    let mut report = session.description();
    session.prefill(1)?;
    report.insert("first_token_s".into(), json!(process::age().map(|age| age.as_secs_f64())));
    report.insert("anon_bytes".into(), json!(process::anon_bytes()));
    let compute_limits = compute_limits(session.pool());
    report.insert("limits".into(), compute_limits.clone().into());
    if plan.n_prompt > 0 {
        session.prefill(plan.n_prompt)?;
        let mut runs = Vec::new();
        for _ in 0..plan.repetitions {
            runs.push(session.prefill(plan.n_prompt)?.tokens_per_s());
        }
        let speed = median(&mut runs);
        let gops = speed * session.weights().ops_per_prompt_token / 1e9;
        report.insert(
            "prefill".into(),
            json!({
                "n_tokens": plan.n_prompt, "tokens_per_s": speed, "min": runs[0], "max": runs[runs.len() - 1],
                "linear_gops": gops,
                "limit": session.weights().products.name(),
                "share_of_limit": session.share(gops, &compute_limits),
            }),
        );
    }
    if plan.n_gen > 0 {
        session.decode(plan.n_seqs, plan.depth, plan.n_gen.min(8), None)?;
        let (mut runs, mut probes) = (Vec::new(), Vec::new());
        for _ in 0..plan.repetitions {
            // A probe beside each run: the memory of a shared machine is not the same from minute to minute.
            probes.push(limits::read_gbs(session.pool()));
            runs.push(session.decode(plan.n_seqs, plan.depth, plan.n_gen, None)?.tokens_per_s());
        }
        let speed = median(&mut runs);
        let read_gbs = median(&mut probes);
        let gbs = speed / plan.n_seqs as f64 * session.weights().bytes_per_token as f64 / 1e9;
        report.insert(
            "decode".into(),
            json!({
                "n_tokens": plan.n_gen, "n_seqs": plan.n_seqs, "depth": plan.depth,
                "tokens_per_s": speed, "min": runs[0], "max": runs[runs.len() - 1],
                "file_gb_per_s": gbs, "read_limit_gb_per_s": read_gbs, "share_of_read_limit": gbs / read_gbs,
            }),
        );
        if let Some(constrained) = constrained {
            report.insert("constrained".into(), constrained.measure(session, plan)?.into());
        }
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
        writeln!(
            out,
            "prefill {:5} tokens          {:9.1} tokens/s  {:7.0} Gop/s  {:3.0} % of the {} limit",
            p["n_tokens"],
            f(&p["tokens_per_s"]),
            f(&p["linear_gops"]),
            100.0 * f(&p["share_of_limit"]),
            p["limit"].as_str().unwrap_or_default(),
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
    if let Some(s) = report.get("speculation") {
        speculation::print(s, &mut out)?;
    }
    if let Some(c) = report.get("constrained") {
        writeln!(
            out,
            "free    {:5} tokens          {:9.1} tokens/s, in turns with:",
            c["n_tokens"],
            f(&c["free_tokens_per_s"])
        )?;
        writeln!(
            out,
            "schema  {:5} tokens          {:9.1} tokens/s  {:.2} % of it for the schema; a mask of {} tokens takes {:.1} us \
             (median; p99 {:.1}, most {:.1})",
            c["n_tokens"],
            f(&c["tokens_per_s"]),
            100.0 * f(&c["share_of_decode"]),
            c["n_vocab"],
            f(&c["mask_median_us"]),
            f(&c["mask_p99_us"]),
            f(&c["mask_max_us"]),
        )?;
        writeln!(
            out,
            "jumping {:5} tokens          {:9.1} tokens/s  {:.0} % of the tokens are forced",
            c["n_tokens"],
            f(&c["jumping_tokens_per_s"]),
            100.0 * f(&c["forced_share_of_tokens"]),
        )?;
    }
    Ok(())
}

/// Sorts, and gives the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2.0 }
}
