//! Ollama's dialect: generate, chat, embeddings, the pages about models, errors.
//!
//! What both generating routes share is in one place each: the fields around prompt and messages (`common`), the
//! options (`options`), and the lines of an answer (`reply`). Sampling options have the names and ranges of
//! [`crate::openai::sampling`].

pub(crate) mod common;
pub mod create;
mod embed;
mod error;
mod messages;
pub mod models;
pub mod options;
pub mod refused;
mod reply;
pub(crate) mod schema;
mod time;
pub mod transfer;

use std::time::Duration;

use ingle_chat::{KeepAlive, Request};

use crate::RequestError;
use crate::openai::Caller;

pub use embed::{EmbedCall, EmbedRoute};
pub use error::error_body;
pub use reply::{Collector, Encoder, Envelope};
pub(crate) use time::rfc3339;

/// The version of Ollama whose API this is. Clients switch features by it.
pub const VERSION: &str = "0.33.0";

/// What `GET /` says: clients compare it to the letter.
pub const BANNER: &str = "Ollama is running";

/// The routes that generate, which differ in what they take and in where a reply has the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api/generate`: one prompt.
    Generate,
    /// `/api/chat`: a conversation.
    Chat,
}

/// A body of either route, read.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is wanted.
    pub request: Request,
    /// Lines instead of one body.
    pub stream: bool,
    /// The context that the caller counts on.
    pub num_ctx: Option<usize>,
    /// There is no prompt: the caller only wants the model in memory, or out of it.
    pub load_only: bool,
    /// How long the model is to stay afterwards.
    pub keep_alive: Option<KeepAlive>,
}

/// How long a model is to stay, as a setting's text: a number of seconds or a duration, where below zero is for ever.
pub fn keep_alive(text: &str) -> Option<KeepAlive> {
    common::duration_s(text).map(KeepAlive::from_seconds)
}

/// Whether a wish about staying asks to go at once.
pub fn is_unload(keep_alive: Option<KeepAlive>) -> bool {
    keep_alive == Some(KeepAlive::For(Duration::ZERO))
}

impl Route {
    /// Reads a body.
    pub fn parse(self, body: &[u8], caller: Caller) -> Result<Call, RequestError> {
        match self {
            Self::Generate => common::parse_generate(body, caller),
            Self::Chat => common::parse_chat(body, caller),
        }
    }
}

impl Call {
    /// Checks what depends on the model: its context is as long as the caller counts on.
    pub fn check_context(&self, n_ctx: usize) -> Result<(), RequestError> {
        check_context(self.num_ctx, n_ctx)
    }
}

/// Refuses to be counted on for a longer context than there is.
fn check_context(num_ctx: Option<usize>, n_ctx: usize) -> Result<(), RequestError> {
    match num_ctx {
        Some(wanted) if wanted > n_ctx => Err(RequestError::field(
            "options.num_ctx",
            format!(
                "`options.num_ctx` is {wanted}, but the model runs with a context of {n_ctx} tokens: ask for at most \
                 that; the operator sets it when the server starts"
            ),
        )),
        _ => Ok(()),
    }
}

/// A model's name as this dialect writes it: one without a tag has the tag `latest`.
pub fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// Wire types as text.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("wire types have string keys and no failing serializers")
}

#[cfg(test)]
mod tests;
