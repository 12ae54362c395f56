//! Progress of long work, on terminals only.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error that counts bytes; silent where nobody looks.
pub struct LoadProgress(ProgressBar);

impl LoadProgress {
    /// A bar that starts with the first report.
    pub fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.set_style(style("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message(format!("loading {what}"));
        Self(bar)
    }

    /// The same for files that are read to be verified.
    pub fn verifying() -> Self {
        let bar = Self::new("");
        bar.0.set_style(style("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"));
        bar.0.set_message("verifying");
        bar
    }

    /// Takes in a report.
    pub fn report(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar on standard error for bytes that are read or written, with rate and time left; silent where nobody looks.
pub struct TransferProgress(ProgressBar);

impl TransferProgress {
    /// A bar that starts with the first report. `doing` is one word.
    pub fn new(doing: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.set_style(style("{msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"));
        bar.set_message(doing.to_owned());
        Self(bar)
    }

    /// Takes in a report.
    pub fn report(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for TransferProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar on standard error that counts the lines of a batch; silent where nobody looks.
#[derive(Clone)]
pub struct BatchProgress(ProgressBar);

impl BatchProgress {
    /// A bar that begins after the lines of earlier runs.
    pub fn new(done: u64) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_position(done);
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.set_style(style("{pos} lines, {msg}"));
        bar.reset_eta();
        Self(bar)
    }

    /// Whether anybody looks.
    pub fn is_visible(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Says how many lines there are, once that is known.
    pub fn set_total(&self, lines: u64) {
        self.0.set_style(style("{bar:30} {pos}/{len} lines, {msg}, {eta} left"));
        self.0.set_length(lines);
    }

    /// Takes in how many lines are done, and how fast tokens come.
    pub fn report(&self, done: u64, tokens_per_s: f64) {
        self.0.set_message(format!("{tokens_per_s:.0} tokens/s"));
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// A bar on standard error that counts the answers of a load test; silent where nobody looks.
pub struct LoadTestProgress {
    bar: ProgressBar,
    started: Instant,
    tokens: u64,
    failed: u64,
}

impl LoadTestProgress {
    /// A bar for so many requests; `None` if time ends them.
    pub fn new(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        let known = "{bar:30} {pos}/{len} requests, {msg}";
        bar.set_style(style(if total.is_some() { known } else { "{elapsed}, {pos} requests, {msg}" }));
        Self { bar, started: Instant::now(), tokens: 0, failed: 0 }
    }

    /// Takes in a request that is over.
    pub fn report(&mut self, output_tokens: u64, is_failed: bool) {
        self.tokens += output_tokens;
        self.failed += u64::from(is_failed);
        let speed = self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        self.bar.set_message(format!("{speed:.0} tokens/s{failed}"));
        self.bar.inc(1);
    }
}

impl Drop for LoadTestProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is constant and valid")
}
