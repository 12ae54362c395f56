//! `ingle batch`: a file of prompts or requests, answered line by line.
//!
//! [`input`] reads lines, [`request`] turns them into what the server would run for them (and its replies into lines
//! again), [`answer`] runs one, [`work`] runs many at a time and keeps their order, [`output`] writes them so that a
//! run that was ended in any way goes on where it was.

mod answer;
mod input;
mod output;
mod request;
pub mod wishes;
mod work;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use ingle_chat::ProviderError;
use ingle_runtime::{Engine, LoadOptions, Preset, Source, TemplateChoice};
use ingle_server::{Alias, ServerConfig};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::input::{Lines, Shape, count_lines};
use self::output::{Done, Output, State};
use self::request::Requests;
use self::wishes::Wishes;
use self::work::{Bounds, Tally};
use crate::commands::counted;
use crate::models::chosen;
use crate::progress::BatchProgress;
use crate::run::{finish_loading, load_options, model_name};
use crate::serve::split_commas;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::signals::stop_requested;

pub const USAGE: Usage = Usage {
    name: "batch",
    about: "Answer a file of prompts or requests, line by line.\n\n\
            The file has a prompt on each line, or a JSON object: OpenAI's batch format (custom_id, method, url, \
            body), or `prompt` or `messages` with any other field of a request. What a line says itself wins over \
            the options. Blank lines are skipped; a line has at most 16 MiB.\n\n\
            Results are lines of JSON in the order of the input. A line that cannot be answered has its error \
            there, and the others go on. A run that was ended, by whatever, goes on when the same command is given \
            again.\n\n\
            Exit codes: 0 if every line has an answer, 3 if some have errors instead, 130 if it was stopped, 1 if \
            it failed, 2 if the command line is wrong.",
    command: Commands::BATCH,
    positional: &[("FILE", "Lines to answer; `-` is standard input, which cannot be gone on with")],
};

/// Sequences that run at once unless the settings say otherwise, as on a server.
const PARALLEL_DEFAULT: usize = 64;
/// Requests that may wait in the engine, as on a server.
const WAITING_DEFAULT: usize = 256;
/// Bytes of the input that are read at a time.
const READ_BYTES: usize = 1 << 18;
/// The exit code where lines have errors.
const SOME_FAILED: u8 = 3;
/// The exit code of what was interrupted, as shells have it.
const STOPPED: u8 = 130;

/// The lines of the input, from the first one that nobody has taken.
type Input = Peekable<Lines<BufReader<Box<dyn Read + Send>>>>;

pub fn main(args: &[OsString]) -> Result<ExitCode> {
    let (parsed, m) = parse(USAGE, &arguments(), args, &Facts::default())?;
    let mut settings = parsed.settings;
    let Some(file) = parsed.positional.into_iter().next() else {
        misuse!("there is no file: name one with a prompt on each line, or `-` for standard input");
    };
    // llama.cpp parts aliases by commas.
    settings.served_names = split_commas(&settings.served_names);
    for note in &parsed.notes {
        say!("note: {note}");
    }
    chosen(&settings)?;
    let path = output_path(&file, &m)?;
    let mut options = load_options(&settings)?;
    let logit_bias = std::mem::take(&mut options.sampling.logit_bias);
    let wishes = Wishes::new(&settings, logit_bias)?;
    let parallel = options.max_running_seqs.unwrap_or(PARALLEL_DEFAULT);
    let bounds = Bounds::new(parallel);
    options.max_running_seqs = Some(parallel);
    options.max_waiting_requests = Some(bounds.in_flight.max(WAITING_DEFAULT));
    // Nobody reads along: what counts is when all is done.
    options.step_time_max = Some(Duration::ZERO);

    let (mut lines, is_file) = open_input(&file)?;
    if is_file && is_same_file(file.as_ref(), &path) {
        bail!("{} is the input; give another file with -o", path.display());
    }
    let format = m.get_one::<String>("format").map(String::as_str);
    let shape = match lines.next_if(Result::is_err) {
        Some(error) => {
            return Err(error.expect_err("just seen")).with_context(|| format!("cannot read {file}"));
        }
        None => lines
            .peek()
            .and_then(|line| line.as_ref().ok())
            .map_or(Ok(Shape::Text), |l| Shape::of(l, format))?,
    };
    if shape == Shape::OpenAi && settings.raw {
        bail!(
            "--raw: each line of OpenAI's batch format says by its `url` whether it is a conversation; leave it out"
        );
    }
    let engine = start_engine(&settings, &options)?;
    let converses = engine.has_template() && !settings.raw;
    if !converses && shape != Shape::OpenAi && settings.system.is_some() {
        bail!(
            "--system-prompt needs a chat template: plain text that is continued has no place for instructions"
        );
    }

    let now = State { created: now(), settings: identity(&engine, &settings, &options, &wishes, shape) };
    let aliases = settings.served_names.iter().skip(1);
    let mut requests = Requests {
        shape,
        converses,
        wishes,
        config: ServerConfig {
            aliases: aliases.map(|name| Alias { name: name.clone(), model: None }).collect(),
            ..ServerConfig::default()
        },
        provider: engine.provider(),
        created: now.created,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(check_settings(&requests))?;
    let output = Output::open(&path, m.get_flag("overwrite"))?;
    let (state, before) = begin(&output, now, &mut lines, is_file, shape)?;
    requests.created = state.created;
    if !is_file {
        say!("note: {file} cannot be read again, so this run cannot be gone on with if it is ended early");
    }
    if before.lines > 0 {
        say!("note: {} has {} already; the others follow", path.display(), counted(before.lines, "line"));
    }
    finish_loading(&engine, &settings)?;

    let (started, provider) = (Instant::now(), engine.provider());
    let steps_before = provider.status().steps_total;
    let progress = BatchProgress::new(before.lines);
    count_in_background(&file, is_file, &progress)?;
    let lines = work::read_ahead(lines)?;
    let work = work::run(Arc::new(requests), lines, &output, bounds, before, &progress, stop_requested());
    let result = runtime.block_on(work);
    progress.finish();
    let tally = result?;
    let took = Took {
        seconds: started.elapsed().as_secs_f64(),
        steps: provider.status().steps_total - steps_before,
    };
    report(&settings, &path, before, &tally, &took)?;
    if tally.stopped {
        match is_file {
            true => say!("stopped; the same command goes on from here"),
            false => say!("stopped"),
        }
    }
    Ok(match tally.stopped {
        true => ExitCode::from(STOPPED),
        false if tally.errors + before.errors > 0 => ExitCode::from(SOME_FAILED),
        false => ExitCode::SUCCESS,
    })
}

/// The options that are no settings: they belong to one file.
pub fn arguments() -> [Arg; 3] {
    [
        Arg::new("output")
            .long("output")
            .short('o')
            .value_name("OUT")
            .help("File for the results [default: FILE with the extension .out.jsonl]"),
        Arg::new("format")
            .long("format")
            .value_name("text|jsonl")
            .value_parser(["text", "jsonl"])
            .help("What the lines are [default: jsonl if the first line begins with `{`]"),
        Arg::new("overwrite")
            .long("overwrite")
            .action(ArgAction::SetTrue)
            .help("Begin again, and lose the results that OUT has"),
    ]
}

fn output_path(file: &str, m: &ArgMatches) -> Result<PathBuf> {
    match m.get_one::<String>("output") {
        Some(path) if path == "-" => {
            misuse!("-o -: results are written to a file, with which a run can go on that was ended early")
        }
        Some(path) => Ok(path.into()),
        None if file == "-" => misuse!("say where the results of standard input go, with -o OUT"),
        None => Ok(Path::new(file).with_extension("out.jsonl")),
    }
}

/// The input, and whether it can be read again.
fn open_input(file: &str) -> Result<(Input, bool)> {
    let (reader, is_file): (Box<dyn Read + Send>, bool) = match file {
        "-" => (Box::new(std::io::stdin()), false),
        path => {
            let opened = File::open(path).with_context(|| format!("cannot read {path}"))?;
            let is_file = opened.metadata().with_context(|| format!("cannot read {path}"))?.is_file();
            (Box::new(opened), is_file)
        }
    };
    Ok((Lines::new(BufReader::with_capacity(READ_BYTES, reader)).peekable(), is_file))
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn start_engine(settings: &Settings, options: &LoadOptions) -> Result<Engine> {
    let chosen = chosen(settings)?;
    let options = &chosen.options(options.clone());
    let source = chosen.source;
    if source == Source::Shipped {
        say!("note: no model was named; this is the small one that ships with Ingle");
    }
    Engine::start(&source, options).with_context(|| format!("cannot load {}", model_name(settings)))
}

/// Begins an output, or goes on with what it has.
fn begin(
    output: &Output,
    now: State,
    lines: &mut Input,
    is_file: bool,
    shape: Shape,
) -> Result<(State, Done)> {
    if output.is_empty()? {
        output.begin(&now)?;
        return Ok((now, Done::default()));
    }
    if !is_file {
        bail!(
            "the output has results already, and this input cannot be gone on with: give another -o, or --overwrite"
        );
    }
    let state = output.resume(&now)?;
    let done = output.check(lines, shape)?;
    Ok((state, done))
}

/// All that results depend on, by name.
fn identity(
    engine: &Engine,
    settings: &Settings,
    options: &LoadOptions,
    wishes: &Wishes,
    shape: Shape,
) -> Map<String, Value> {
    let info = engine.info();
    let names: Vec<&String> = std::iter::once(&info.id).chain(settings.served_names.iter().skip(1)).collect();
    let template = match &options.template {
        TemplateChoice::Model => Value::Null,
        TemplateChoice::NameOrFile(name) => match std::fs::read(name) {
            Ok(text) => format!("{name} (SHA-256 {})", hex(&Sha256::digest(text))).into(),
            Err(_) => name.clone().into(),
        },
        TemplateChoice::Text { text, .. } => format!("SHA-256 {}", hex(&Sha256::digest(text))).into(),
    };
    let identity = json!({
        "model": info.fingerprint,
        "served-model-name": names,
        "format": shape.name(),
        "raw": settings.raw,
        "chat-template": template,
        "system-prompt": wishes.system,
        "preset": match options.preset == Preset::default() {
            true => Value::Null,
            false => format!("{:?}", options.preset).into(),
        },
        "sampling": format!("{:?}", options.sampling),
        "logit-bias": format!("{:?}", wishes.logit_bias),
        "n-predict": settings.max_tokens,
        "reverse-prompt": wishes.stop,
        "ignore-eos": wishes.ignore_eos,
        "special": wishes.include_special,
        "choice, json-schema or regex": format!("{:?}", wishes.format),
    });
    match identity {
        Value::Object(map) => map,
        _ => unreachable!("just made as an object"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses settings that the engine refuses, before they are the error of every line.
async fn check_settings(requests: &Requests) -> Result<()> {
    let Some(probe) = requests.probe() else { return Ok(()) };
    match requests.provider.start(probe).await {
        // A template may want more of a conversation than one short message.
        Err(ProviderError::InvalidRequest { param: Some(param), .. }) if param == "messages" => Ok(()),
        Err(error) => Err(error).context("these settings cannot be used"),
        Ok(_) => Ok(()),
    }
}

/// Counts the lines for the bar, if anybody looks at it.
fn count_in_background(file: &str, is_file: bool, progress: &BatchProgress) -> Result<()> {
    if !is_file || !progress.is_visible() {
        return Ok(());
    }
    let (input, progress) = (File::open(file)?, progress.clone());
    let count = move || {
        if let Ok(total) = count_lines(BufReader::with_capacity(READ_BYTES, input)) {
            progress.set_total(total);
        }
    };
    std::thread::Builder::new().name("count".into()).spawn(count)?;
    Ok(())
}

/// What a run took.
struct Took {
    seconds: f64,
    /// Steps of the engine: new tokens by steps are the sequences that ran together.
    steps: u64,
}

/// Says what was done: in words to standard error, or for machines to standard output.
fn report(settings: &Settings, path: &Path, before: Done, tally: &Tally, took: &Took) -> Result<()> {
    let lines = before.lines + tally.lines;
    let errors = before.errors + tally.errors;
    let seconds = took.seconds;
    let per_s = tally.completion_tokens as f64 / seconds.max(1e-9);
    if settings.json {
        use std::io::Write;
        let report = json!({
            "output": path.display().to_string(),
            "lines": lines,
            "errors": errors,
            "lines_before": before.lines,
            "prompt_tokens": tally.prompt_tokens,
            "completion_tokens": tally.completion_tokens,
            "seconds": seconds,
            "completion_tokens_per_s": per_s,
            "steps": took.steps,
            "stopped": tally.stopped,
        });
        writeln!(std::io::stdout(), "{report}")?;
        return Ok(());
    }
    let errors = match errors {
        0 => String::new(),
        1 => ", one of them an error".into(),
        n => format!(", {n} of them errors"),
    };
    say!(
        "{}: {}{errors}; {} in {seconds:.1} s, {} read and {} written ({per_s:.1} tokens/s)",
        path.display(),
        counted(lines, "line"),
        tally.lines,
        counted(tally.prompt_tokens, "token"),
        tally.completion_tokens
    );
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
