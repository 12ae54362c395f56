//! Where progress is told: bars on a terminal, a plain line now and then elsewhere, lines of JSON for machines.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bars::Transfer;
use super::live::Live;
use crate::chat::{escape_line, terminal};

/// How often plain lines and JSON tell of the same thing.
const LINE_EVERY: Duration = Duration::from_secs(10);
const JSON_EVERY: Duration = Duration::from_millis(250);

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// On a terminal.
    Bars,
    /// In words, on standard error.
    Lines,
    /// As lines of JSON on standard output.
    Json,
    /// The same on standard error, where standard output is for one report in the end.
    JsonBeside,
}

impl Out {
    /// JSON if it is wanted, bars where somebody looks.
    pub fn of(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if is_watched() => Self::Bars,
            false => Self::Lines,
        }
    }

    /// The same of commands that end with a report.
    pub fn beside_report(json: bool) -> Self {
        if json { Self::JsonBeside } else { Self::of(false) }
    }
}

/// Whether somebody looks at standard error, with a terminal that can paint.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal() && !terminal::is_dumb()
}

/// Tells of pieces of work, each under a name.
pub struct Teller {
    out: Out,
    live: Option<Live>,
    told: Mutex<BTreeMap<String, Told>>,
}

/// What was last told of one.
struct Told {
    at: Instant,
    tenth: u64,
}

impl Teller {
    /// Nothing is told yet. On a terminal Ctrl-C ends the program with these words, if nobody else answers it.
    pub fn new(out: Out, on_interrupt: &str) -> Self {
        let live = (out == Out::Bars).then(|| Live::start(on_interrupt));
        Self { out, live, told: Mutex::default() }
    }

    /// A step begins.
    pub fn status(&self, status: &str) {
        match (&self.live, self.out) {
            (Some(live), _) => live.say(status),
            (None, Out::Json | Out::JsonBeside) => self.json(&json!({ "status": status })),
            (None, _) => say!("{}", escape_line(status)),
        }
    }

    /// How far something is. `first`: whether the beginning is told in words too.
    pub fn transfer(&self, transfer: Transfer, digest: Option<&str>, first: bool) {
        if let Some(live) = &self.live {
            return live.transfer(transfer);
        }
        let mut all = self.told();
        let (now, is_over) = (Instant::now(), transfer.is_over());
        let known = all.get(&transfer.name);
        let since = known.map(|told| now.duration_since(told.at));
        if self.out == Out::Lines {
            let tenth = transfer.percent() / 10;
            let is_due = match known {
                None => first,
                Some(told) => (first && tenth > told.tenth) || since.is_some_and(|since| since >= LINE_EVERY),
            };
            if is_due {
                say!("{}", transfer.words());
            }
            if is_due || known.is_none() {
                all.insert(transfer.name, Told { at: now, tenth });
            }
        } else if since.is_none_or(|since| since >= JSON_EVERY || is_over) {
            self.json(&json!({
                "status": "transferring", "file": transfer.name, "digest": digest, "completed": transfer.done,
                "total": transfer.total, "bytes_per_s": transfer.rate.round() as u64,
                "left_s": transfer.left.map(|left| left.as_secs()),
            }));
            all.insert(transfer.name, Told { at: now, tenth: 0 });
        }
    }

    /// Lets the last state stand.
    pub fn keep(self) {
        if let Some(live) = self.live {
            live.keep();
        }
    }

    fn json(&self, line: &Value) {
        // That nobody reads it any more is found out by what is told in the end.
        let _ = match self.out {
            Out::JsonBeside => writeln!(std::io::stderr(), "{line}"),
            _ => writeln!(std::io::stdout(), "{line}"),
        };
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<String, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
