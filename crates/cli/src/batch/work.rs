//! Many lines at a time: as many as keep the engine full, results written in the order of the input.
//!
//! Lines start in order and end in any; a result waits until those before it are written. Three bounds keep that
//! small: lines that are being answered, lines from the first unwritten one to the last started one, and the bytes of
//! all of them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ingle_chat::ProviderError;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::answer::answer;
use super::input::Line;
use super::output::{Done, Output};
use super::request::{Fault, Finished, Requests};
use crate::progress::BatchProgress;

/// Lines that are read ahead of those that are being answered.
const READ_AHEAD: usize = 8;
/// Bytes of started lines and of results that wait for their turn; one line alone may have more.
const HELD_BYTES_MAX: usize = 128 << 20;
/// How long a result may be written without being safe from a loss of power.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How much may go on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Lines that are being answered.
    pub in_flight: usize,
    /// Lines from the first unwritten one to the last started one.
    pub window: usize,
}

impl Bounds {
    /// Those for an engine that runs so many sequences at once. As many lines again wait in the engine, so that it has
    /// the next ones when many end in the same step; the window is wide enough that one answer may take several times
    /// as long as those after it before they have to wait for it.
    pub fn new(parallel: usize) -> Self {
        let in_flight = parallel.saturating_mul(2).max(4);
        Self { in_flight, window: in_flight.saturating_mul(8) }
    }
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were written.
    pub lines: u64,
    /// Those of them that have no answer.
    pub errors: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Whether it was told to stop before the end.
    pub stopped: bool,
}

/// Reads lines on a thread of their own: standard input may keep it waiting.
pub fn read_ahead(
    mut lines: impl Iterator<Item = io::Result<Line>> + Send + 'static,
) -> Result<Receiver<io::Result<Line>>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let read = move || while lines.next().is_some_and(|line| sender.blocking_send(line).is_ok()) {};
    std::thread::Builder::new().name("lines".into()).spawn(read)?;
    Ok(receiver)
}

/// Answers all lines, or those until `stop` completes; `before` were answered by earlier runs.
///
/// # Errors
/// If the input cannot be read, the output not be written, or the engine has ended. What was written stays.
pub async fn run(
    requests: Arc<Requests>,
    mut lines: Receiver<io::Result<Line>>,
    output: &Output,
    bounds: Bounds,
    before: Done,
    progress: &BatchProgress,
    stop: impl Future<Output = ()>,
) -> Result<Tally> {
    let mut work = Work::new(requests, bounds);
    let (mut is_open, mut unreadable) = (true, None);
    let mut syncing = Syncing::default();
    let mut tick = tokio::time::interval(SYNC_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(stop);
    let ended = loop {
        if !is_open && work.answering.is_empty() {
            break Ok(());
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                work.tally.stopped = true;
                break Ok(());
            }
            _ = tick.tick() => {
                if let Err(error) = syncing.turn(output).await {
                    break Err(error);
                }
                work.report(before, progress);
            }
            line = lines.recv(), if is_open && work.has_room() => match line {
                Some(Ok(line)) => work.start(line),
                Some(Err(error)) => (is_open, unreadable) = (false, Some(error)),
                None => is_open = false,
            },
            Some(ended) = work.answering.join_next_with_id() => {
                let written = work.end(ended).and_then(|lines| {
                    syncing.is_behind |= !lines.is_empty();
                    output.append(&lines)
                });
                if let Err(error) = written {
                    break Err(error);
                }
                work.report(before, progress);
            }
        }
    };
    // Whoever is still being answered is not heard out.
    work.answering.shutdown().await;
    syncing.finish(output).await.and(ended)?;
    match unreadable {
        Some(error) => Err(error).context("cannot read the input"),
        None => Ok(work.tally),
    }
}

/// The lines between the input and the output.
struct Work {
    requests: Arc<Requests>,
    bounds: Bounds,
    answering: JoinSet<Result<Finished, ProviderError>>,
    /// Which line a task answers, and its place among all.
    places: HashMap<Id, (u64, Arc<Line>)>,
    /// Results that wait for those before them.
    waiting: BTreeMap<u64, Finished>,
    next_start: u64,
    next_write: u64,
    held_bytes: usize,
    tally: Tally,
}

impl Work {
    fn new(requests: Arc<Requests>, bounds: Bounds) -> Self {
        Self {
            requests,
            bounds,
            answering: JoinSet::new(),
            places: HashMap::new(),
            waiting: BTreeMap::new(),
            next_start: 0,
            next_write: 0,
            held_bytes: 0,
            tally: Tally::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.answering.len() < self.bounds.in_flight
            && self.next_start - self.next_write < self.bounds.window as u64
            && (self.held_bytes < HELD_BYTES_MAX || self.next_start == self.next_write)
    }

    fn start(&mut self, line: Line) {
        self.held_bytes += n_bytes(&line);
        let line = Arc::new(line);
        let (requests, for_task) = (Arc::clone(&self.requests), Arc::clone(&line));
        let task = self.answering.spawn(async move { answer_line(&requests, &for_task).await });
        self.places.insert(task.id(), (self.next_start, line));
        self.next_start += 1;
    }

    /// Takes in how a task ended, and gives the lines that can be written now.
    fn end(&mut self, ended: Result<(Id, Result<Finished, ProviderError>), JoinError>) -> Result<String> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (place, line) = self.places.remove(&id).expect("each task has a place");
        let finished = match ended {
            Ok((_, Ok(finished))) => finished,
            Ok((_, Err(error))) => return Err(anyhow!(error).context("the engine has ended")),
            // A bug of ours that this line brings out is no reason to leave the others without an answer.
            Err(_) => {
                let why = "a bug in Ingle: answering this line panicked";
                let fault = Fault::from(ProviderError::Internal(why.into()));
                self.requests.write(&line, self.requests.custom_id(&line).as_deref(), Err(fault))
            }
        };
        self.held_bytes = self.held_bytes - n_bytes(&line) + finished.text.len();
        self.waiting.insert(place, finished);
        let mut lines = String::new();
        while let Some(finished) = self.waiting.remove(&self.next_write) {
            self.held_bytes -= finished.text.len();
            self.next_write += 1;
            self.tally.lines += 1;
            self.tally.errors += u64::from(finished.failed);
            self.tally.prompt_tokens += finished.prompt_tokens;
            self.tally.completion_tokens += finished.completion_tokens;
            lines.push_str(&finished.text);
        }
        Ok(lines)
    }

    fn report(&self, before: Done, progress: &BatchProgress) {
        if progress.is_visible() {
            let status = self.requests.provider.status();
            progress.report(before.lines + self.tally.lines, status.decode_tokens_per_s);
        }
    }
}

/// The result of a line.
///
/// # Errors
/// If the engine has ended, which is no matter of this line.
async fn answer_line(requests: &Requests, line: &Line) -> Result<Finished, ProviderError> {
    let read = requests.read(line);
    let reply = match read.asked {
        Err(fault) => Err(fault),
        Ok(asked) => match answer(&requests.provider, &asked).await {
            Err(error @ ProviderError::Unavailable(_)) => return Err(error),
            reply => reply.map_err(Fault::from),
        },
    };
    Ok(requests.write(line, read.custom_id.as_deref(), reply))
}

fn n_bytes(line: &Line) -> usize {
    line.text.as_ref().map_or(0, Vec::len)
}

/// Makes what was written safe, once in a while and beside the work.
#[derive(Default)]
struct Syncing {
    /// Whether something was written since the last one began.
    is_behind: bool,
    running: Option<JoinHandle<Result<()>>>,
}

impl Syncing {
    /// Begins to make safe what was written, unless that is still going on. An error is the last time's: what the
    /// system did not write then is lost, whatever it says later.
    async fn turn(&mut self, output: &Output) -> Result<()> {
        if let Some(running) = self.running.take_if(|running| running.is_finished()) {
            running.await??;
        }
        if self.running.is_none() && std::mem::take(&mut self.is_behind) {
            self.running = Some(tokio::task::spawn_blocking(output.syncer()));
        }
        Ok(())
    }

    /// Makes everything safe.
    async fn finish(mut self, output: &Output) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.await??;
        }
        tokio::task::spawn_blocking(output.syncer()).await?
    }
}
