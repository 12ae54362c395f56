//! When a step goes wrong: who ends, who goes on, and what is said of the model.

use std::any::Any;
use std::time::{Duration, Instant};

use ingle_chat::{Condition, ProviderError};
use ingle_step::{RowOut, StepOut};

use super::{Planned, Worker, owner};

/// So many numeric errors within [`SUSPICION_WINDOW`] are no accident: the model is suspect.
pub(super) const SUSPICIOUS_ERRORS: usize = 3;
/// How long a numeric error is held against a model.
const SUSPICION_WINDOW: Duration = Duration::from_secs(60);

impl Worker {
    /// Ends every request that got a number which is none. Called before anything of the step is committed, so
    /// that nothing of theirs gets into the prefix cache.
    pub(super) fn end_numeric_errors(&mut self, out: &StepOut, planned: &Planned) {
        for (seq_out, planned) in out.seqs.iter().zip(&planned.seqs) {
            // What follows a guess may be nonsense if the guess is; whoever uses such a row looks at it.
            let n_known = seq_out.rows.len() - planned.draft.len();
            let bad = !seq_out.rows[..n_known].iter().all(RowOut::is_finite);
            if bad && let Some((id, _)) = owner(&mut self.active, seq_out.seq) {
                self.fail(id, numeric_error());
                self.note_numeric_error(Instant::now());
            }
        }
    }

    fn note_numeric_error(&mut self, now: Instant) {
        self.numeric_errors.push_back(now);
        let first = self.numeric_errors.len().saturating_sub(SUSPICIOUS_ERRORS);
        self.numeric_errors.drain(..first);
        let is_suspect = self.numeric_errors.len() == SUSPICIOUS_ERRORS
            && now.duration_since(self.numeric_errors[0]) <= SUSPICION_WINDOW;
        let mut board = self.shared.board();
        if is_suspect && board.status.condition == Condition::Sound {
            let why = format!(
                "{SUSPICIOUS_ERRORS} requests met values that are not finite within {} s: verify the model file, and load \
                 it again",
                SUSPICION_WINDOW.as_secs()
            );
            board.status.condition = Condition::Suspect(why);
        }
    }

    /// No step will run any more: everyone is told so, and nobody is admitted.
    pub(super) fn give_up(&mut self, why: &str) -> bool {
        self.scheduler.reset_kv();
        self.in_step = None;
        self.shared.board().status.condition = Condition::Unusable(why.to_owned());
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            // Who has all that was asked for only has to fetch it.
            if !active.complete {
                self.fail(id, ProviderError::Unavailable(why.to_owned()));
            }
        }
        true
    }

    /// After a step that failed nobody knows what the cache holds: its requests end, all others are computed again.
    pub(super) fn recover(&mut self, why: &str) -> bool {
        if std::mem::take(&mut self.is_guessing) {
            self.speculator.stop(why);
        }
        self.scheduler.reset_kv();
        self.tiers.reset();
        let in_step = self.in_step.take();
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            match &in_step {
                Some(ids) if !ids.contains(&id) => continue,
                // Nobody knows who it was about; whoever only waits for the reader was not in it.
                None if active.complete => continue,
                _ => active.complete = false,
            }
            self.fail(id, ProviderError::Internal(format!("a step failed: {why}")));
        }
        true
    }
}

pub(super) fn numeric_error() -> ProviderError {
    let message = "numeric error: the model gave a value that is not finite; if this happens again, verify the model \
                   file";
    ProviderError::Internal(message.into())
}

pub(super) fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}
