//! OpenAI's dialect: chat completions, completions, models, errors.

pub mod chat;
pub mod completion;
mod error;
mod logprobs;
pub mod models;
pub mod refused;
pub mod sampling;

use ingle_chat::{FinishReason, Principal};
use serde::Serialize;

use crate::RequestError;
use crate::fields::{Fields, wrong_type};

pub use error::{ErrorBody, ErrorObject};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, PromptLogprob};
pub use sampling::check_vocabulary;

/// Ends a regular event stream.
const DONE: &str = "data: [DONE]\n\n";

/// For whom a body is read.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The request's id; replies carry it.
    pub id: String,
    /// Who asks.
    pub principal: Principal,
}

/// What every reply repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The reply's id, such as `chatcmpl-…`.
    pub id: String,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Model digest and numeric path: equal fingerprints promise equal bytes.
    pub fingerprint: String,
}

/// Whether and how an answer is streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streaming {
    /// Events instead of one body.
    pub stream: bool,
    /// A last chunk with the usage.
    pub include_usage: bool,
}

/// `usage` of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// New tokens over all choices.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// More about the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// `usage.prompt_tokens_details` of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that were not computed again.
    pub cached_tokens: u64,
}

impl Usage {
    /// Adds what one prompt cost.
    pub(crate) fn add(&mut self, usage: &ingle_chat::Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }
}

/// Takes `stream` and `stream_options`.
fn take_streaming(fields: &mut Fields) -> Result<Streaming, RequestError> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let mut include_usage = false;
    if let Some(options) = fields.take("stream_options") {
        let mut options = Fields::nested(options, "stream_options")?;
        include_usage = options.bool("include_usage")?.unwrap_or(false);
        for name in ["include_obfuscation", "continuous_usage_stats"] {
            if options.bool(name)? == Some(true) {
                let path = options.path(name);
                return Err(options
                    .error(name, format!("`{path}` is not supported; remove it"))
                    .with_code("unsupported_value"));
            }
        }
        options.finish()?;
    }
    Ok(Streaming { stream, include_usage })
}

/// The name of a finish reason.
fn finish_name(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop { .. } => "stop",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}

/// The stop string that ended an answer.
fn stop_reason(reason: &FinishReason) -> Option<&str> {
    match reason {
        FinishReason::Stop { matched } => matched.as_deref(),
        _ => None,
    }
}

/// Appends one event.
fn event(value: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&json(value));
    out.push_str("\n\n");
}

/// Wire types as text.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have string keys and no failing serializers")
}

/// A string out of a list that must hold only strings.
fn into_string(value: serde_json::Value, path: &str) -> Result<String, RequestError> {
    match value {
        serde_json::Value::String(s) => Ok(s),
        other => Err(wrong_type(path, "a string", &other)),
    }
}
