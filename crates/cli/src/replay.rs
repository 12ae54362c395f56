//! `ingle replay`: recorded requests, run again through the server's own routes, and what comes of them held against the
//! records.

mod report;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_api::record::{Outcome, RECORD_BYTES_MAX, Record, RecordedAdapter, RecordedModel, compare};
use ingle_chat::AdapterInfo;
use ingle_runtime::{Engine, LoadOptions};
use ingle_server::Replayer;
use ingle_step::KvType;
use tokio::task::JoinSet;

use self::report::{Report, Verdict};
use crate::models::chosen;
use crate::progress::BatchProgress;
use crate::run::{finish_loading, load_options, model_name};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::signals::stop_requested;

pub const USAGE: Usage = Usage {
    name: "replay",
    about: "Run recorded requests again, and compare what comes.\n\n\
            Records are what `ingle serve --record DIR` writes; a folder stands for all of its records. They run all at \
            once, whatever they ran beside when they were recorded, and tokens, log-probabilities and texts must be the \
            same to the bit. Context and K/V type are as the records have them, and so are the strengths of adapters, whose \
            files are named with --lora. A record of another model, adapter, chat template or arithmetic is refused.\n\n\
            Exit codes: 0 if everything is the same, 3 if something differs or fails, 4 if records are of something else \
            than what is loaded here, 130 if it was stopped, 1 if it failed (a damaged record, a model that cannot be \
            loaded), 2 if the command line is wrong.",
    command: Commands::REPLAY,
    positional: &[("RECORD...", "Records, or folders of them")],
};

/// Sequences that run at once unless the settings say otherwise, as on a server.
const PARALLEL_DEFAULT: usize = 64;
/// Records of one run.
const RECORDS_MAX: usize = 100_000;
/// Their bytes, as they are in memory until they are compared.
const BYTES_MAX: u64 = 4 << 30;
/// The exit code where answers differ.
const DIFFERENT: u8 = 3;
/// The exit code where records are of something else than what is loaded.
const REFUSED: u8 = 4;
/// The exit code of what was interrupted, as shells have it.
const STOPPED: u8 = 130;

/// A record and where it is from.
struct Found {
    path: PathBuf,
    record: Record,
}

pub fn main(args: &[OsString]) -> Result<ExitCode> {
    let (parsed, _) = parse(USAGE, &[], args, &Facts::default())?;
    let settings = parsed.settings;
    for note in &parsed.notes {
        say!("note: {note}");
    }
    if parsed.positional.is_empty() {
        misuse!("there is no record: name one, or a folder that `ingle serve --record` has written to");
    }
    chosen(&settings)?;
    let records = read_all(&parsed.positional)?;
    let model = one_model(&records)?;
    let engine = start_engine(&settings, model)?;
    let names = records.iter().filter_map(|found| asked_name(&found.record));
    let replayer = Replayer::new(engine.provider(), names);
    let mut differences = differences(model, &replayer.model()?);
    let of_records = records.iter().flat_map(|found| &found.record.adapters);
    differences.extend(missing_adapters(of_records, &replayer.adapters()?));
    if let Some(refusal) = refusal(&differences) {
        say!("ingle replay: {refusal}");
        return Ok(ExitCode::from(REFUSED));
    }
    finish_loading(&engine, &settings)?;
    let in_flight = 2 * settings.parallel.0.map_or(PARALLEL_DEFAULT, |n| n as usize);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(replay_all(&replayer, records, in_flight))?;
    report.print(&*engine.provider(), settings.json)?;
    Ok(ExitCode::from(match () {
        () if report.is_stopped => STOPPED,
        () if report.is_same() => 0,
        () => DIFFERENT,
    }))
}

/// Reads all records, each whole and as it was written.
fn read_all(names: &[String]) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    for name in names {
        let path = PathBuf::from(name);
        if !path.is_dir() {
            paths.push(path);
            continue;
        }
        let n_before = paths.len();
        for entry in std::fs::read_dir(&path).with_context(|| format!("cannot read {name}"))? {
            let path = entry.with_context(|| format!("cannot read {name}"))?.path();
            // What is being written has another beginning.
            let is_record = path.extension().is_some_and(|e| e == "json")
                && path.file_name().is_some_and(|n| !n.as_encoded_bytes().starts_with(b"."));
            if is_record {
                paths.push(path);
            }
        }
        if paths.len() == n_before {
            bail!("{name} has no records: they are files whose names end in .json");
        }
        paths[n_before..].sort();
    }
    if paths.len() > RECORDS_MAX {
        bail!("{} records are too many for one run, which takes {RECORDS_MAX}", paths.len());
    }
    let (mut found, mut n_bytes) = (Vec::new(), 0);
    for path in paths {
        let record = read(&path, &mut n_bytes).with_context(|| path.display().to_string())?;
        found.push(Found { path, record });
    }
    Ok(found)
}

fn read(path: &Path, n_bytes: &mut u64) -> Result<Record> {
    let file = File::open(path).context("cannot read it")?;
    if !file.metadata().context("cannot read it")?.is_file() {
        bail!("it is no file");
    }
    let mut text = String::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_string(&mut text).context("it is no record")?;
    *n_bytes += text.len() as u64;
    if text.len() as u64 > RECORD_BYTES_MAX {
        bail!("it has more than {RECORD_BYTES_MAX} bytes, as no record has");
    }
    if *n_bytes > BYTES_MAX {
        bail!("the records up to here have more than {} GiB: replay fewer at a time", BYTES_MAX >> 30);
    }
    Ok(Record::parse(&text)?)
}

/// What all of them are of.
fn one_model(records: &[Found]) -> Result<&RecordedModel> {
    let first = records.first().expect("each argument has one at least");
    let key =
        |model: &RecordedModel| (model.digest.clone(), model.numeric_path.clone(), model.template.clone());
    match records.iter().find(|found| key(&found.record.model) != key(&first.record.model)) {
        None => Ok(&first.record.model),
        Some(other) => {
            let why = differences(&first.record.model, &other.record.model).join("; ");
            bail!(
                "{} and {} are of different models ({why}): replay those of each model by themselves",
                first.path.display(),
                other.path.display()
            )
        }
    }
}

/// Loads a model as the records' was loaded, where nothing else is asked for.
fn start_engine(settings: &Settings, model: &RecordedModel) -> Result<Engine> {
    let mut options = load_options(settings)?;
    let path = NumericPath::parse(&model.numeric_path);
    options.n_ctx = path.as_ref().map(|path| path.n_ctx);
    options.kv_type = settings.kv_type.or(path.and_then(|path| path.kv_type));
    options.name = Some(model.id.clone());
    let parallel = options.max_running_seqs.unwrap_or(PARALLEL_DEFAULT);
    options.max_running_seqs = Some(parallel);
    options.max_waiting_requests = Some(4 * parallel.max(PARALLEL_DEFAULT));
    options.max_waiting_tokens = Some(usize::MAX);
    let source = chosen(settings)?.source;
    let options = LoadOptions { sampling: Default::default(), ..options };
    Engine::start(&source, &options).with_context(|| format!("cannot load {}", model_name(settings)))
}

/// The parts of a numeric path that are chosen when a model is loaded.
struct NumericPath {
    kv_type: Option<KvType>,
    n_ctx: usize,
}

impl NumericPath {
    /// Reads one as it is written; a later program's may have other parts.
    fn parse(text: &str) -> Option<Self> {
        let part = |name: &str| text.split('-').find_map(|part| part.strip_prefix(name));
        Some(Self { kv_type: part("kv_").and_then(KvType::from_name), n_ctx: part("ctx")?.parse().ok()? })
    }
}

/// Why records are not replayed here, and what would help.
fn refusal(differences: &[String]) -> Option<String> {
    (!differences.is_empty())
        .then(|| format!("these records cannot give the same bytes here: {}", differences.join("; ")))
}

/// As much of a digest as people compare.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// The adapters of records that are not here, each with what to do.
fn missing_adapters<'a>(
    recorded: impl Iterator<Item = &'a RecordedAdapter>,
    here: &[AdapterInfo],
) -> Vec<String> {
    let missing = recorded.filter(|adapter| here.iter().all(|info| info.digest != adapter.digest));
    let missing: BTreeSet<(&str, &str)> = missing.map(|a| (&*a.name, &*a.digest)).collect();
    let in_words = |(name, digest): (&str, &str)| match here.iter().find(|info| info.name == name) {
        Some(other) => format!(
            "the adapter `{name}` is another one (recorded: {}, here: {}; name the recorded one's file with --lora)",
            short(digest),
            short(&other.digest)
        ),
        None => format!(
            "the adapter `{name}` (recorded: {}) is not loaded (name its file with --lora)",
            short(digest)
        ),
    };
    missing.into_iter().map(in_words).collect()
}

/// The parts of models that differ, each with what to do.
fn differences(recorded: &RecordedModel, here: &RecordedModel) -> Vec<String> {
    let mut found = Vec::new();
    if recorded.digest != here.digest {
        found.push(format!(
            "the model is another one (recorded: {} `{}`, here: {} `{}`; name the recorded one's file with --model)",
            short(&recorded.digest),
            recorded.id,
            short(&here.digest),
            here.id
        ));
    }
    if recorded.template != here.template {
        found.push("the chat template is another one (give the recorded one's with --chat-template)".into());
    }
    let (a, b) = (&recorded.numeric_path, &here.numeric_path);
    let parts = |text: &str| text.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (a_parts, b_parts) = (parts(a), parts(b));
    if a_parts.len() != b_parts.len() {
        found.push(format!("the arithmetic is another one (recorded: {a}, here: {b})"));
        return found;
    }
    for (a, b) in a_parts.iter().zip(&b_parts).filter(|(a, b)| a != b) {
        found.push(match () {
            () if a.starts_with("kv_") => format!(
                "keys and values are stored in another way (recorded: {}, here: {}; leave out --kv-type)",
                &a[3..],
                b.trim_start_matches("kv_")
            ),
            () if a.starts_with("ctx") => format!(
                "the context is another one (recorded: {}, here: {})",
                &a[3..],
                b.trim_start_matches("ctx")
            ),
            () if a.starts_with('n') => format!(
                "the program computes in another way (recorded: version {}, here: {} of its arithmetic; use the program \
                 that recorded them)",
                &a[1..],
                b.trim_start_matches('n')
            ),
            () => format!("the kernels are of another class (recorded: {a}, here: {b})"),
        });
    }
    found
}

/// The name that a body has for the model.
fn asked_name(record: &Record) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&record.body).ok()?;
    Some(body.get("model")?.as_str()?.to_owned())
}

/// Runs all records, many at a time.
async fn replay_all(replayer: &Replayer, records: Vec<Found>, in_flight: usize) -> Result<Report> {
    let progress = BatchProgress::new(0);
    progress.set_total(records.len() as u64);
    let mut report = Report::new(records.len());
    let mut waiting = records.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut stop = std::pin::pin!(stop_requested());
    loop {
        while running.len() < in_flight
            && let Some((i, found)) = waiting.next()
        {
            let replayer = replayer.clone();
            running.spawn(async move { (i, verdict(&replayer, found).await) });
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                report.is_stopped = true;
                running.shutdown().await;
                break;
            }
            done = running.join_next() => match done {
                None => break,
                Some(done) => {
                    let (i, (path, verdict)) = done.context("replaying a record panicked")?;
                    report.add(i, path, verdict);
                    progress.report(report.n_done() as u64, 0.0);
                }
            }
        }
    }
    progress.finish();
    Ok(report)
}

async fn verdict(replayer: &Replayer, found: Found) -> (PathBuf, Verdict) {
    let Found { path, record } = found;
    let record = Arc::new(record);
    let verdict = match replayer.replay(&record).await {
        Err(error) => Verdict::Failed(error.to_string()),
        Ok(again) => match (compare(&record, &again), &again.outcome) {
            (Some(difference), Outcome::Finished) => Verdict::Different(difference),
            (None, Outcome::Finished) => Verdict::Same,
            (_, Outcome::Failed(why)) => Verdict::Failed(format!("it failed: {why}")),
            (_, Outcome::Aborted) => Verdict::Failed("it was cut short".into()),
        },
    };
    (path, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_what_differs() {
        let model = |path: &str| RecordedModel {
            id: "m".into(),
            digest: "d".repeat(64),
            numeric_path: path.into(),
            template: None,
        };
        let check = |here: RecordedModel, expected: &str| {
            let differences = differences(&model("cpu-n3-kv_f16-ctx512"), &here);
            let refusal = refusal(&differences).expect("it is refused");
            assert!(refusal.contains(expected), "{refusal}");
        };
        let same = model("cpu-n3-kv_f16-ctx512");
        assert_eq!(refusal(&differences(&same, &same)), None);
        check(model("cpu-n3-kv_q8_0-ctx512"), "recorded: f16, here: q8_0");
        check(model("cpu-n3-kv_f16-ctx1024"), "the context is another one (recorded: 512, here: 1024)");
        check(model("cpu-n4-kv_f16-ctx512"), "recorded: version 3, here: 4");
        check(model("gpu-n3-kv_f16-ctx512"), "recorded: cpu, here: gpu");
        check(model("cpu-n3"), "the arithmetic is another one");
        let digest = "e".repeat(64);
        check(RecordedModel { digest, ..model("cpu-n3-kv_f16-ctx512") }, "--model");
        let template = Some("t".into());
        check(RecordedModel { template, ..model("cpu-n3-kv_f16-ctx512") }, "--chat-template");
    }

    #[test]
    fn adapters_are_known_by_what_they_compute() {
        let recorded = |name: &str, digest: &str| RecordedAdapter {
            name: name.into(),
            digest: digest.repeat(64),
            scale: 0.5,
        };
        let here = |name: &str, digest: &str| AdapterInfo {
            name: name.into(),
            digest: digest.repeat(64),
            ..AdapterInfo::default()
        };
        let check = |records: &[RecordedAdapter], loaded: &[AdapterInfo], expected: &[&str]| {
            let found = missing_adapters(records.iter(), loaded);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}");
            }
        };
        check(&[], &[here("sql", "a")], &[]);
        check(&[recorded("sql", "a")], &[here("another name", "a")], &[]);
        let other = "`sql` is another one (recorded: aaaaaaaaaaaa, here: bbbbbbbbbbbb";
        check(&[recorded("sql", "a"), recorded("sql", "a")], &[here("sql", "b")], &[other]);
        let gone = "`fr` (recorded: cccccccccccc) is not loaded";
        check(&[recorded("sql", "a"), recorded("fr", "c")], &[here("sql", "b")], &[gone, other]);
    }

    #[test]
    fn paths_say_how_to_load() {
        let path = NumericPath::parse("cpu-n3-kv_q8_0-ctx512").expect("a path");
        assert_eq!((path.kv_type, path.n_ctx), (Some(KvType::Q8_0), 512));
        assert!(NumericPath::parse("cpu-n3").is_none());
    }
}
