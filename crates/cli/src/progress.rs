//! Progress of long work, on terminals only.

use std::io::IsTerminal;

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

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is constant and valid")
}
