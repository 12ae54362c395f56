//! Anthropic's dialect: messages, the counting of their tokens, lists of models, errors.

mod content;
mod error;
pub mod messages;
pub mod models;
pub mod refused;
mod reply;
pub(crate) mod schema;
#[cfg(test)]
mod tests;
mod tools;

use serde_json::json;

use crate::RequestError;

pub use error::error_body;
pub use messages::MessagesCall;
pub use reply::{MessageCollector, MessageEncoder};

/// The reply to a question about how many tokens a prompt has.
pub fn count_body(n_tokens: usize) -> String {
    json!({ "input_tokens": n_tokens }).to_string()
}

/// A prompt that leaves no room for an answer, in the words by which clients know that they have to shorten it.
pub fn prompt_too_long(prompt_tokens: usize, prompt_tokens_max: usize) -> RequestError {
    RequestError::field(
        "messages",
        format!(
            "prompt is too long: {prompt_tokens} tokens > {prompt_tokens_max} maximum; shorten the conversation"
        ),
    )
    .with_code("context_length_exceeded")
}
