//! What was measured: a record for each request, and what they come to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::call::{Failure, FailureKind};
use super::plan::{Extent, Pace};
use super::stats::{Histogram, Summary};

/// How a request ended.
pub type Outcome = Result<(), Failure>;

/// A request that is over. Times are from the start of the run.
#[derive(Clone, Debug)]
pub struct Record {
    /// The number of its session.
    pub session: u64,
    /// Its place in the session.
    pub turn: u32,
    /// The number of the server.
    pub target: u32,
    /// When it was to start.
    pub scheduled: Duration,
    /// When it did.
    pub sent: Duration,
    /// When its first output came.
    pub first: Option<Duration>,
    /// When its last output came.
    pub last: Option<Duration>,
    /// When its stream had ended.
    pub end: Duration,
    /// Times between events with output, in order. Given to observers, and not kept.
    pub gaps: Vec<Duration>,
    /// The longest of them.
    pub longest_gap: Duration,
    /// Events with output.
    pub n_events: u64,
    /// Tokens that the answer was to have.
    pub asked_tokens: u32,
    /// Tokens of the prompt, as the server counts them.
    pub prompt_tokens: Option<u64>,
    /// Those of them that the server had.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer, as the server counts them.
    pub completion_tokens: Option<u64>,
    /// Why the answer was over. Given to observers, and not kept.
    pub finish_reason: Option<String>,
    /// Of all that was sent.
    pub prompt_hash: [u8; 16],
    /// Of the answer.
    pub answer_hash: [u8; 16],
    /// Whether it has an answer. Of failures' messages only the first of each kind is kept.
    pub outcome: Outcome,
}

impl Record {
    /// Tokens of the answer: the server's count, or that of events where it doesn't say.
    pub fn output_tokens(&self) -> u64 {
        self.completion_tokens.unwrap_or(self.n_events)
    }

    /// Time per token after the first.
    pub fn tpot(&self) -> Option<Duration> {
        let n_after = u32::try_from(self.output_tokens().checked_sub(1)?).ok().filter(|n| *n > 0)?;
        Some(self.last?.saturating_sub(self.first?) / n_after)
    }
}

/// The first 16 bytes of SHA-256 over parts, which cannot run into each other.
pub(super) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].try_into().expect("a hash has more than 16 bytes")
}

/// What a run gave.
#[derive(Debug)]
pub struct Measured {
    /// How sessions began.
    pub pace: Pace,
    /// How long it was to go on.
    pub extent: Extent,
    /// From the start to the end of the last request.
    pub duration: Duration,
    /// Sorted by session and turn.
    pub records: Vec<Record>,
    /// Times between events with output of all requests.
    pub gaps: Histogram,
    /// Requests that were going on when the run was stopped; they have no record.
    pub cut_off: u64,
    /// Turns that were not sent, because the one before has no answer.
    pub skipped: u64,
    /// Whether it was stopped before its end.
    pub is_partial: bool,
}

/// Whether the same prompt has the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Different prompts that have answers.
    pub prompts: u64,
    /// Different answers.
    pub answers: u64,
    /// Prompts that have several.
    pub unsteady: u64,
    /// Of all prompts and answers, in the order of sessions: the same for runs that said the same.
    pub digest: String,
}

impl Measured {
    /// The records that have an answer.
    pub fn answered(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.outcome.is_ok())
    }

    /// Distribution of what answered requests have, in seconds where it is a time.
    pub fn summary(&self, value: impl Fn(&Record) -> Option<f64>) -> Summary {
        Summary::of(&mut self.values(value))
    }

    /// What answered requests have.
    pub fn values(&self, value: impl Fn(&Record) -> Option<f64>) -> Vec<f64> {
        self.answered().filter_map(value).collect()
    }

    /// A total over answered requests.
    pub fn total(&self, value: impl Fn(&Record) -> u64) -> u64 {
        self.answered().map(value).sum()
    }

    /// So many per second of the run.
    pub fn per_second(&self, n: u64) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
    }

    /// Failures by kind: how many, and what the first said.
    pub fn failures(&self) -> BTreeMap<FailureKind, (u64, &str)> {
        let mut kinds = BTreeMap::new();
        for failure in self.records.iter().filter_map(|record| record.outcome.as_ref().err()) {
            let entry = kinds.entry(failure.kind).or_insert((0, ""));
            entry.0 += 1;
            if entry.1.is_empty() {
                entry.1 = failure.message.as_str();
            }
        }
        kinds
    }

    /// Whether the same prompt has the same answer.
    pub fn answers(&self) -> Answers {
        let mut by_prompt: HashMap<[u8; 16], HashSet<[u8; 16]>> = HashMap::new();
        let mut answers = HashSet::new();
        let mut all = Sha256::new();
        for record in self.answered() {
            by_prompt.entry(record.prompt_hash).or_default().insert(record.answer_hash);
            answers.insert(record.answer_hash);
            all.update(record.prompt_hash);
            all.update(record.answer_hash);
        }
        Answers {
            prompts: by_prompt.len() as u64,
            answers: answers.len() as u64,
            unsteady: by_prompt.values().filter(|answers| answers.len() > 1).count() as u64,
            digest: all.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}
