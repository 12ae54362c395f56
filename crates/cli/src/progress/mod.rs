//! Progress of long work: bars where somebody looks, words or JSON elsewhere.
//!
//! [`bars`] lays a line out for a window's width, [`live`] paints lines and takes them away, [`teller`] knows who is
//! told. The types here are what commands use.

mod bars;
mod live;
mod teller;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_store::pull::Meter;

pub use bars::{Count, Transfer};
use live::Live;
use teller::is_watched;
pub use teller::{Out, Teller};

/// How often rates are taken anew.
const METER_EVERY: Duration = Duration::from_millis(100);

/// A bar on standard error for a model on its way into memory, or for a file into the store; where nobody looks it is
/// silent, but for machines that are told of files.
pub struct LoadProgress(Option<Work>);

impl LoadProgress {
    /// A bar that starts with the first report.
    pub fn new(what: &str) -> Self {
        Self::doing("loading", what)
    }

    /// The same for a file that goes into the store; `json`: machines are told on standard output.
    pub fn copying(what: &str, json: bool) -> Self {
        if json { Self(Some(Work::new(what, Out::Json, ""))) } else { Self::doing("copying", what) }
    }

    fn doing(verb: &str, what: &str) -> Self {
        let work =
            || Work::new(&format!("{verb} {what}"), Out::Bars, &format!("stopped while {verb} {what}"));
        Self(is_watched().then(work))
    }

    /// Takes in a report.
    pub fn report(&self, done: u64, total: u64) {
        if let Some(work) = &self.0 {
            work.report(done, total);
        }
    }
}

/// Bytes that are read or written by a command, told to whoever listens. On a terminal nothing of it is left in the end.
pub struct TransferProgress(Work);

impl TransferProgress {
    /// It starts with the first report. `doing` is one word; `on_interrupt` says how to go on after Ctrl-C.
    pub fn new(doing: &str, out: Out, on_interrupt: &str) -> Self {
        Self(Work::new(doing, out, on_interrupt))
    }

    /// Takes in a report.
    pub fn report(&self, done: u64, total: u64) {
        self.0.report(done, total);
    }
}

/// One piece of work, with its rate.
struct Work {
    name: String,
    teller: Teller,
    meter: Mutex<Option<Measured>>,
}

struct Measured {
    meter: Meter,
    at: Instant,
    rate: f64,
    left: Option<Duration>,
}

impl Work {
    fn new(name: &str, out: Out, on_interrupt: &str) -> Self {
        Self { name: name.to_owned(), teller: Teller::new(out, on_interrupt), meter: Mutex::default() }
    }

    fn report(&self, done: u64, total: u64) {
        let now = Instant::now();
        let mut measured = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = measured.get_or_insert_with(|| Measured {
            meter: Meter::new(now, done),
            at: now,
            rate: 0.0,
            left: None,
        });
        if now.duration_since(measured.at) >= METER_EVERY {
            (measured.rate, measured.left) = measured.meter.take(now, done, total);
            measured.at = now;
        } else if done < total {
            // Reports come more often than anybody could read them.
            return;
        }
        let (name, rate, left) = (self.name.clone(), measured.rate, measured.left);
        self.teller.transfer(Transfer { name, done, total, rate, left }, None, false);
    }
}

/// A bar on standard error that counts the lines of a batch; silent where nobody looks.
#[derive(Clone)]
pub struct BatchProgress(Arc<Mutex<Counting>>);

struct Counting {
    live: Option<Live>,
    count: Count,
    begun: (Instant, u64),
}

impl BatchProgress {
    /// A bar that begins after the lines of earlier runs.
    pub fn new(done: u64) -> Self {
        let live = is_watched().then(|| Live::start("stopped"));
        let count = Count { done, unit: "lines", ..Count::default() };
        Self(Arc::new(Mutex::new(Counting { live, count, begun: (Instant::now(), done) })))
    }

    fn change(&self, change: impl FnOnce(&mut Count)) {
        let mut counting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counting.count);
        let (since, before) = counting.begun;
        counting.count.left = time_left(
            since,
            counting.count.done.saturating_sub(before),
            counting.count.total,
            counting.count.done,
        );
        if let Some(live) = &counting.live {
            live.count(counting.count.clone());
        }
    }

    /// Whether anybody looks.
    pub fn is_visible(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).live.is_some()
    }

    /// Says how many lines there are, once that is known.
    pub fn set_total(&self, lines: u64) {
        self.change(|count| count.total = Some(lines));
    }

    /// Takes in how many lines are done, and how fast tokens come.
    pub fn report(&self, done: u64, tokens_per_s: f64) {
        self.change(|count| {
            count.done = done;
            count.note = format!("{tokens_per_s:.0} tokens/s");
        });
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner).live.take();
        drop(live);
    }
}

/// How long the rest takes, if it goes on as it went since the beginning.
fn time_left(since: Instant, n: u64, total: Option<u64>, done: u64) -> Option<Duration> {
    let rest = total?.saturating_sub(done);
    if n == 0 {
        return None;
    }
    Some(Duration::from_secs_f64((since.elapsed().as_secs_f64() / n as f64 * rest as f64).min(1e9)))
}

/// A bar on standard error that counts the answers of a load test; silent where nobody looks.
pub struct LoadTestProgress {
    live: Option<Live>,
    count: Count,
    started: Instant,
    tokens: u64,
    failed: u64,
}

impl LoadTestProgress {
    /// A bar for so many requests; `None` if time ends them.
    pub fn new(total: Option<u64>) -> Self {
        let live = is_watched().then(|| Live::start("stopped"));
        let count = Count { total, unit: "requests", ..Count::default() };
        Self { live, count, started: Instant::now(), tokens: 0, failed: 0 }
    }

    /// Takes in a request that is over.
    pub fn report(&mut self, output_tokens: u64, is_failed: bool) {
        self.tokens += output_tokens;
        self.failed += u64::from(is_failed);
        self.count.done += 1;
        let Some(live) = &self.live else { return };
        let elapsed = self.started.elapsed();
        let speed = self.tokens as f64 / elapsed.as_secs_f64().max(1e-3);
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        let clock =
            if self.count.total.is_none() { format!(" in {}", bars::time(elapsed)) } else { String::new() };
        self.count.note = format!("{speed:.0} tokens/s{clock}{failed}");
        live.count(self.count.clone());
    }
}
