//! How far a transfer is: bars on a terminal, a few plain lines elsewhere, JSON for machines.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ingle_store::pull::Event;
use serde_json::json;

/// How often plain lines and JSON tell of the same file.
const LINE_EVERY: Duration = Duration::from_secs(10);
const JSON_EVERY: Duration = Duration::from_millis(250);
/// Columns of a file's name.
const NAME_COLUMNS: usize = 24;

/// Where it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    Bars,
    Lines,
    Json,
}

impl Out {
    /// JSON if it is wanted, bars where somebody looks.
    pub fn of(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if std::io::stderr().is_terminal() => Self::Bars,
            false => Self::Lines,
        }
    }
}

/// Shows a transfer.
pub struct Show {
    out: Out,
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
}

struct File {
    bar: ProgressBar,
    told: Instant,
    tenth: u64,
}

impl Show {
    pub fn new(out: Out) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self { out, bars, state: Mutex::default() }
    }

    /// Takes in what happened.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Status(status) => self.status(status),
            Event::Progress { file, digest, done, total, rate, left } => {
                let digest = digest.map(|digest| digest.to_string());
                self.progress(file, digest.as_deref(), *done, *total, *rate, *left);
            }
        }
    }

    /// Lets the last state stand.
    pub fn finish(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.files.values().for_each(|file| file.bar.abandon());
    }

    fn status(&self, status: &str) {
        match self.out {
            Out::Json => {
                let _ = writeln!(std::io::stdout(), "{}", json!({ "status": status }));
            }
            Out::Lines => say!("{status}"),
            Out::Bars => {
                let _ = self.bars.println(status);
            }
        }
    }

    fn progress(
        &self,
        name: &str,
        digest: Option<&str>,
        done: u64,
        total: u64,
        rate: f64,
        left: Option<Duration>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, is_new) = (Instant::now(), !state.files.contains_key(name));
        let file = state.files.entry(name.to_owned()).or_insert_with(|| File {
            bar: if self.out == Out::Bars { self.bars.add(bar(name, total)) } else { ProgressBar::hidden() },
            told: now,
            tenth: 0,
        });
        match self.out {
            Out::Bars => {
                file.bar.set_length(total);
                file.bar.set_position(done);
                file.bar.set_message(counts(done, total, rate, left));
            }
            Out::Lines => {
                let tenth = (done * 10).checked_div(total).unwrap_or(10);
                if is_new || tenth > file.tenth || now.duration_since(file.told) >= LINE_EVERY {
                    (file.told, file.tenth) = (now, tenth);
                    let percent = (done * 100).checked_div(total).unwrap_or(100);
                    say!("{name}: {percent} %, {}", counts(done, total, rate, left).trim());
                }
            }
            Out::Json => {
                if is_new || done == total || now.duration_since(file.told) >= JSON_EVERY {
                    file.told = now;
                    let line = json!({
                        "status": "transferring", "file": name, "digest": digest, "completed": done, "total": total,
                        "bytes_per_s": rate.round() as u64, "left_s": left.map(|left| left.as_secs()),
                    });
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
            }
        }
    }
}

fn bar(name: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {percent:>3}% {wide_bar} {msg}")
        .expect("the template is constant and valid")
        .progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_prefix(shortened(name))
}

/// A name in its columns: its end tells files apart.
fn shortened(name: &str) -> String {
    let n = name.chars().count();
    let text = match n > NAME_COLUMNS {
        true => format!("…{}", name.chars().skip(n - NAME_COLUMNS + 1).collect::<String>()),
        false => name.to_owned(),
    };
    format!("{text:NAME_COLUMNS$}")
}

/// What is there, how fast it comes, and how long the rest takes; always as wide.
fn counts(done: u64, total: u64, rate: f64, left: Option<Duration>) -> String {
    let amount = format!("{}/{}", bytes(done), bytes(total));
    let (speed, left) = match left {
        _ if done == total => (String::new(), String::new()),
        None => ("--".to_owned(), String::new()),
        Some(left) => (format!("{}/s", bytes(rate as u64)), time(left)),
    };
    format!("{amount:>17} {speed:>9} {left:>6}")
}

/// Bytes in four columns and a unit of thousands, as hubs write them.
fn bytes(n: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(unit, _)| n >= *unit) {
        None => format!("{n} B"),
        Some((unit, name)) => {
            let value = n as f64 / *unit as f64;
            let digits = if value < 9.995 {
                2
            } else if value < 99.95 {
                1
            } else {
                0
            };
            format!("{value:.digits$} {name}")
        }
    }
}

fn time(left: Duration) -> String {
    let s = left.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..360_000 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (12_345_678, "12.3 MB"),
            (999_400_000, "999 MB"),
            (4_920_000_000, "4.92 GB"),
            (1_500_000_000_000, "1.50 TB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [(5, "5s"), (65, "1m05s"), (3700, "1h01m"), (1_000_000, "11d")] {
            assert_eq!(time(Duration::from_secs(s)), text);
        }
        // The bar's neighbours do not move while numbers grow.
        for done in [0, 1, 999, 123_456, 7_000_000_000, 70_000_000_000] {
            let text = counts(done, 70_000_000_000, 123_456.0, Some(Duration::from_secs(70)));
            assert_eq!(text.chars().count(), 34, "{text}");
        }
        assert_eq!(shortened("tiny.gguf").chars().count(), NAME_COLUMNS);
        assert_eq!(shortened("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"), "…8B-Instruct-Q4_K_M.gguf");
    }
}
