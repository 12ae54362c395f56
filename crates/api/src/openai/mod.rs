//! OpenAI's dialect: chat completions, completions, responses, embeddings, files, batches, models, errors.

pub mod batches;
pub(crate) mod batches_schema;
pub mod chat;
pub mod completion;
pub(crate) mod completion_schema;
pub mod constraint;
pub mod embeddings;
pub(crate) mod embeddings_schema;
mod error;
pub mod files;
mod logprobs;
pub mod models;
mod prompts;
pub mod refused;
pub mod responses;
pub mod sampling;
pub(crate) mod schema;
pub(crate) mod terms;
mod usage;

use ingle_chat::{FinishReason, Principal};
use serde::Serialize;

use crate::RequestError;
use crate::fields::{Fields, wrong_type};

pub use error::{ErrorBody, ErrorObject};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, PromptLogprob};
pub(crate) use logprobs::{ChatTop, spelled};
pub use sampling::check_vocabulary;
pub(crate) use usage::Cost;
pub use usage::{CompletionTokensDetails, PromptTokensDetails, Timings, Usage};

/// Ends a regular event stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

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
pub(crate) fn event(value: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&json(value));
    out.push_str("\n\n");
}

/// Wire types as text.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have string keys and no failing serializers")
}

/// A string out of a list that must hold only strings.
pub(crate) fn into_string(value: serde_json::Value, path: &str) -> Result<String, RequestError> {
    match value {
        serde_json::Value::String(s) => Ok(s),
        other => Err(wrong_type(path, "a string", &other)),
    }
}
