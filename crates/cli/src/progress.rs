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
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
            .expect("the template is constant and valid");
        bar.set_style(style);
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
