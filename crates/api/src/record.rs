//! What is written down of a request, so that it can be run again: the request as it came, what it ran with, and what
//! came of it, token by token. `docs/replay.md` describes the format.
//!
//! A record is one JSON object. Its last member is the record proper, and the members before it are of fixed length:
//! the digest is over the very bytes of that last member.

mod difference;
mod sampling;
#[cfg(test)]
mod tests;

use ingle_chat::{FinishReason, TokenLogprob, Usage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use difference::{Difference, Place, compare};
pub use sampling::RecordedSampling;

/// The version of the format.
pub const RECORD_VERSION: u32 = 1;
/// The longest record that is read.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;

/// A request and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The id of the reply.
    pub id: String,
    /// Seconds since the epoch when the request came.
    pub recorded_at: u64,
    /// The program and its version.
    pub program: String,
    /// The route, as in `/v1/chat/completions`.
    pub route: String,
    /// Whose API the route belongs to: `openai`, `anthropic` or `ollama`.
    pub dialect: String,
    /// The body, as it came.
    pub body: String,
    /// What the server had stored of the conversation that the body continues, the oldest turn first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<RecordedTurn>,
    /// Whether the caller's raw prompts could spell control tokens.
    pub may_write_control_tokens: bool,
    /// What answered.
    pub model: RecordedModel,
    /// What was added to it, in the order in which it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<RecordedAdapter>,
    /// How it ended.
    pub outcome: Outcome,
    /// One for each prompt.
    pub answers: Vec<RecordedAnswer>,
}

/// A stored turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTurn {
    /// The items of its request.
    pub input: String,
    /// Its response.
    pub body: String,
}

/// What decides, beside the request, which bytes come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedModel {
    /// Its name on the server.
    pub id: String,
    /// SHA-256 over what identifies its file.
    pub digest: String,
    /// The arithmetic, as `cpu-n1-kv_f16-ctx4096`.
    pub numeric_path: String,
    /// SHA-256 of the chat template in use, if there was one.
    pub template: Option<String>,
}

/// An adapter that was added to the model for a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedAdapter {
    /// What requests called it.
    pub name: String,
    /// SHA-256 over what it computes: the same from either format.
    pub digest: String,
    /// How strongly it was added.
    pub scale: f32,
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All answers are complete.
    Finished,
    /// The client went away, or the server did: the answers are beginnings.
    #[default]
    Aborted,
    /// It failed, for this reason: the answers are beginnings.
    Failed(String),
}

/// The answer to one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedAnswer {
    /// Tokens of the prompt; 0 if it never started.
    pub prompt_tokens: u64,
    /// How tokens were picked: the request's wishes and the server's defaults together, with the seed that was used.
    pub sampling: RecordedSampling,
    /// One for each of `n`.
    pub choices: Vec<RecordedChoice>,
    /// What it took, if it is complete.
    pub usage: Option<RecordedUsage>,
}

/// One of the `n` answers to a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedChoice {
    /// What was said.
    pub text: String,
    /// What was thought.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The calls of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<RecordedCall>,
    /// Why it ended; `None` if it did not.
    pub finish_reason: Option<String>,
    /// Each token with the bits of its log-probability.
    pub tokens: Vec<(u32, u32)>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCall {
    /// The function.
    pub name: String,
    /// Its arguments as they came.
    pub arguments: String,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that came out of the prefix cache.
    pub cached_tokens: u64,
    /// New tokens.
    pub completion_tokens: u64,
    /// Milliseconds until the first step, then to the first token, then to the last.
    pub milliseconds: [u64; 3],
}

impl From<&Usage> for RecordedUsage {
    fn from(usage: &Usage) -> Self {
        let ms = |d: std::time::Duration| d.as_millis() as u64;
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            milliseconds: [ms(usage.queued), ms(usage.prefill), ms(usage.decode)],
        }
    }
}

/// Why a file is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is something else.
    #[error("it is no record of `ingle serve --record`")]
    NoRecord,
    /// It is of another version of the format.
    #[error(
        "it has version {found} of the format, this program reads {RECORD_VERSION}: replay it with the program that wrote it"
    )]
    Version {
        /// What it says.
        found: String,
    },
    /// Its digest does not fit.
    #[error("it was cut or changed after it was written: its digest is {found}, it says {expected}")]
    Damaged {
        /// What it says.
        expected: String,
        /// What its bytes give.
        found: String,
    },
    /// Its bytes are as they were written, but cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

const VERSION: &str = "{\"ingle_record\":";
const DIGEST: &str = ",\"sha256\":\"";
const RECORD: &str = "\",\"record\":";
const END: &str = "}\n";
/// Hexadecimal digits of a digest.
const N_DIGITS: usize = 64;

impl Record {
    /// The record as text.
    pub fn to_text(&self) -> String {
        let record = serde_json::to_string(self).expect("names and plain values can be written");
        let digest = hex(&record);
        format!("{VERSION}{RECORD_VERSION}{DIGEST}{digest}{RECORD}{record}{END}")
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the text is none, is of another version, or is not as it was written.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let rest = text.strip_prefix(VERSION).ok_or(RecordError::NoRecord)?;
        let (version, rest) = rest.split_once(DIGEST).ok_or(RecordError::NoRecord)?;
        if version != RECORD_VERSION.to_string() {
            return Err(RecordError::Version { found: crate::shown(version) });
        }
        let (expected, rest) = rest.split_at_checked(N_DIGITS).ok_or(RecordError::NoRecord)?;
        let rest = rest.strip_prefix(RECORD).ok_or(RecordError::NoRecord)?;
        let record = rest.trim_end().strip_suffix('}').unwrap_or(rest);
        let found = hex(record);
        if found != expected {
            return Err(RecordError::Damaged { expected: expected.to_owned(), found });
        }
        serde_json::from_str(record).map_err(|e| RecordError::Unreadable(e.to_string()))
    }

    /// About how many bytes it has as text.
    pub fn n_bytes(&self) -> usize {
        let choices = self.answers.iter().flat_map(|answer| &answer.choices);
        let answers: usize = choices.map(|c| c.text.len() + c.reasoning.len() + 20 * c.tokens.len()).sum();
        let history: usize = self.history.iter().map(|turn| turn.input.len() + turn.body.len()).sum();
        1000 + self.body.len() + history + answers
    }
}

impl RecordedChoice {
    /// Takes in new tokens.
    pub fn push_tokens(&mut self, tokens: &[TokenLogprob]) {
        self.tokens.extend(tokens.iter().map(|t| (t.token.0, t.logprob.unwrap_or(f32::NAN).to_bits())));
    }

    /// Says why it ended.
    pub fn finish(&mut self, reason: &FinishReason) {
        self.finish_reason = Some(match reason {
            FinishReason::Stop { matched: None } => "stop".into(),
            FinishReason::Stop { matched: Some(text) } => format!("stop: {text}"),
            FinishReason::ToolCalls => "tool_calls".into(),
            FinishReason::Length => "length".into(),
            FinishReason::Abort => "abort".into(),
        });
    }
}

/// The SHA-256 of a text, in hexadecimal.
pub fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
