//! `ingle bench serve`: requests to servers at a pace, and how long they take.
//!
//! [`options`] turns the command line into a plan; `ingle_eval::load` does the work; here the runs follow each other, and
//! their reports go where they are wanted.

mod options;
pub use options::command;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_eval::load::{
    Counting, Extent, Measured, Observer, Pace, Plan, Prepared, Record, Stop, chart, prepare, report, run,
};
use serde_json::json;

use self::options::Options;
use crate::progress::LoadTestProgress;
use crate::signals::stop_requested;

/// The exit code where some requests failed.
const SOME_FAILED: u8 = 3;
/// The exit code of what was interrupted, as shells have it.
const STOPPED: u8 = 130;
/// The stream of random numbers of warm-up requests: no run has it.
const WARM_UP: u64 = u64::MAX;

pub fn main(args: &[OsString]) -> Result<ExitCode> {
    let options = Options::parse(args)?;
    // One thread: the server, which may be on the same machine, has the others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = Stop::default();
    let stopping = stop.clone();
    runtime.spawn(async move {
        stop_requested().await;
        stopping.stop();
    });
    runtime.block_on(serve(options, &stop))
}

async fn serve(options: Options, stop: &Stop) -> Result<ExitCode> {
    let Options { plan, paces, extent, warm_up, repeats_prompts, slo, outputs, settings } = options;
    let plan = Arc::new(plan);
    // Files first: what cannot be written is better known before the work than after it.
    let mut records = outputs.records.as_deref().map(create).transpose()?;
    let prepared = tokio::select! {
        prepared = prepare(&plan) => prepared.context("the server does not answer a first request")?,
        () = stopped(stop) => return Ok(ExitCode::from(STOPPED)),
    };
    if let Counting::Usage(n) | Counting::Guess(n) = prepared.counting {
        let by = if matches!(prepared.counting, Counting::Usage(_)) { "two requests" } else { "a guess" };
        say!(
            "note: the server counts no tokens (/tokenize): lengths of prompts are near {n:.2} tokens per word, by {by}"
        );
    }
    warm(&plan, &prepared, warm_up, stop).await?;

    let mut runs: Vec<Measured> = Vec::new();
    for (number, pace) in paces.into_iter().enumerate() {
        if stop.is_stopped() {
            break;
        }
        let total = match extent {
            Extent::Requests(n) => Some(n),
            Extent::Time(_) => None,
        };
        let mut watch =
            Watch { progress: LoadTestProgress::new(total), records: records.as_mut(), run: number };
        let stream = if repeats_prompts { 0 } else { number as u64 };
        let measured = run(&plan, &prepared.texts, pace, extent, stream, &mut watch, stop).await;
        let measured = measured.map_err(anyhow::Error::msg)?;
        drop(watch);
        if !outputs.json_to_stdout {
            write!(
                std::io::stdout().lock(),
                "{}{}",
                if number > 0 { "\n" } else { "" },
                report::table(&measured, &slo)
            )?;
        }
        runs.push(measured);
    }
    if let Some((mut file, path)) = records {
        file.flush().and_then(|()| file.get_ref().sync_all()).with_context(|| cannot_write(&path))?;
    }
    let reports: Vec<_> = runs.iter().map(|run| report::json(run, &slo)).collect();
    let report = json!({
        "format": 1, "tool": format!("ingle bench serve {}", env!("CARGO_PKG_VERSION")), "settings": settings,
        "counting": report::counting(&prepared), "runs": reports, "partial": stop.is_stopped(),
    });
    let text = serde_json::to_string_pretty(&report)?;
    if outputs.json_to_stdout {
        writeln!(std::io::stdout().lock(), "{text}")?;
    }
    if let Some(path) = &outputs.json {
        std::fs::write(path, text + "\n").with_context(|| cannot_write(path))?;
    }
    if let Some(path) = &outputs.svg {
        draw(path, &runs, &outputs.title, &outputs.caption)?;
    }
    ended(&runs, stop)
}

async fn stopped(stop: &Stop) {
    while !stop.is_stopped() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Sends requests that count nowhere.
async fn warm(
    plan: &Arc<Plan>,
    prepared: &Prepared,
    (n, concurrency): (u64, u64),
    stop: &Stop,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let pace = Pace::Closed { concurrency: concurrency.clamp(1, n) };
    let warmed = run(plan, &prepared.texts, pace, Extent::Requests(n), WARM_UP, &mut Nobody, stop).await;
    let warmed = warmed.map_err(anyhow::Error::msg)?;
    let failures = warmed.failures();
    if let Some((kind, (n, message))) = failures.iter().next()
        && warmed.answered().next().is_none()
    {
        bail!("no warm-up request was answered; {n} failed so ({kind}): {message}");
    }
    Ok(())
}

/// 0 if all went well.
fn ended(runs: &[Measured], stop: &Stop) -> Result<ExitCode> {
    if stop.is_stopped() {
        return Ok(ExitCode::from(STOPPED));
    }
    let n_answered: usize = runs.iter().map(|run| run.answered().count()).sum();
    let n_requests: usize = runs.iter().map(|run| run.records.len()).sum();
    if n_requests == 0 {
        bail!("no request was sent: nothing arrives within the time; raise --seconds or --rate");
    }
    if n_answered == 0 {
        bail!("none of {n_requests} requests was answered");
    }
    Ok(if n_answered < n_requests { ExitCode::from(SOME_FAILED) } else { ExitCode::SUCCESS })
}

fn draw(path: &PathBuf, runs: &[Measured], title: &str, caption: &str) -> Result<()> {
    let head = match runs {
        [run] => report::headline(run) + ". ",
        _ => String::new(),
    };
    match chart::svg(runs, title, &format!("{head}{caption}")) {
        Some(picture) => std::fs::write(path, picture).with_context(|| cannot_write(path)),
        None => {
            say!("note: nothing was answered: there is no picture");
            Ok(())
        }
    }
}

type RecordsFile = (BufWriter<File>, PathBuf);

fn create(path: &std::path::Path) -> Result<RecordsFile> {
    let file = File::create(path).with_context(|| cannot_write(path))?;
    Ok((BufWriter::new(file), path.into()))
}

fn cannot_write(path: &std::path::Path) -> String {
    format!("cannot write {}", path.display())
}

/// Looks away.
struct Nobody;

impl Observer for Nobody {
    fn observe(&mut self, _: &Record) -> Result<(), String> {
        Ok(())
    }
}

/// Shows progress, and writes records down.
struct Watch<'a> {
    progress: LoadTestProgress,
    records: Option<&'a mut RecordsFile>,
    run: usize,
}

impl Observer for Watch<'_> {
    fn observe(&mut self, record: &Record) -> Result<(), String> {
        self.progress.report(record.output_tokens(), record.outcome.is_err());
        if let Some((file, path)) = &mut self.records {
            writeln!(file, "{}", report::record(record, self.run))
                .map_err(|error| format!("{}: {error}", cannot_write(path)))?;
        }
        Ok(())
    }
}
