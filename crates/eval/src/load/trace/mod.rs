//! What is sent: sessions, made from a seed or read from a file.

mod recorded;
mod synthetic;

use std::time::Duration;

use ingle_api::client::Input;

pub use recorded::{LINE_BYTES_MAX, Recorded};
pub use synthetic::Synthetic;

use super::plan::FileError;
use super::rng::Rng;
use super::text::Words;

/// A conversation: each turn is sent with all that was said before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// At least one.
    pub turns: Vec<Turn>,
}

/// A request of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When it starts, after the start of all, at the earliest; `None` where the trace has no times.
    pub at: Option<Duration>,
    /// What is new in it.
    pub input: Input,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

/// How tokens become text for the server that is measured.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Words, and what they count.
    pub words: Words,
    /// Tokens that a prompt has beside its text: of the template, and at its beginning.
    pub overhead: u32,
}

/// Where sessions come from.
#[derive(Clone, Debug)]
pub enum Trace {
    /// A seed.
    Synthetic(Synthetic),
    /// A file.
    Recorded(Recorded),
}

impl Trace {
    /// The session of this number; `None` after the last. `stream` parts runs that are not to share their prompts.
    pub fn session(&self, number: u64, seed: u64, stream: u64, texts: &Texts) -> Option<Session> {
        match self {
            Self::Synthetic(trace) => Some(trace.session(number, seed, stream, texts)),
            Self::Recorded(trace) => trace.session(number, seed, texts),
        }
    }

    /// How many requests there are; `None` if without end.
    pub fn n_requests(&self) -> Option<u64> {
        match self {
            Self::Synthetic(_) => None,
            Self::Recorded(trace) => Some(trace.n_requests()),
        }
    }

    /// Whether gaps are to be filled.
    pub fn is_infill(&self) -> bool {
        match self {
            Self::Synthetic(trace) => trace.infill,
            Self::Recorded(trace) => trace.is_infill(),
        }
    }

    /// Whether turns have times.
    pub fn has_times(&self) -> bool {
        matches!(self, Self::Recorded(trace) if trace.has_times())
    }

    /// Whether texts must be made of numbers of tokens.
    pub fn needs_texts(&self) -> bool {
        match self {
            Self::Synthetic(_) => true,
            Self::Recorded(trace) => trace.needs_texts(),
        }
    }
}

/// Paths of random numbers under the seed.
const SESSION: u64 = 1;
const PREFIX: u64 = 2;
const LINE: u64 = 3;

/// A prompt of `n_tokens`, of which the first `n_shared` are those of a prefix; what the server adds counts to the
/// shared ones first. At least one word is the prompt's own.
fn prompt(texts: &Texts, n_tokens: u32, shared: Option<(u32, &mut Rng)>, own: &mut Rng) -> String {
    let content = n_tokens.saturating_sub(texts.overhead);
    let (n_shared, mut text) = match shared {
        Some((n_shared, rng)) => {
            let n_shared = n_shared.saturating_sub(texts.overhead);
            (n_shared, if n_shared > 0 { texts.words.text(n_shared, rng) } else { String::new() })
        }
        None => (0, String::new()),
    };
    text.push_str(&texts.words.text(content.saturating_sub(n_shared).max(1), own));
    text
}
