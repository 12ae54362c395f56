//! The body of a completion, described: see [`crate::openapi`].

use serde_json::Value;

use super::completion::{CHOICES_MAX, Chunk, Completion};
use super::refused::{HARMLESS, HARMLESS_COMPLETION};
use super::sampling::TOP_LOGPROBS_MAX;
use super::schema::{I32_MAX, common, constraints, streaming};
use super::terms::rank;
use crate::openapi::Components;
use crate::openapi::schema::{Object, Schema, boolean, either, integer, list, string, token_id};

/// The body.
pub(crate) fn body() -> Object {
    let object = Object::new().must("prompt", prompt(), "The text to continue, or several.");
    let object = rank(common(streaming(object)))
        .fields(
            &["max_tokens", "max_completion_tokens"],
            &integer(0, I32_MAX),
            "The most new tokens; 16 without it.",
        )
        .field("logprobs", integer(0, TOP_LOGPROBS_MAX), "Log-probabilities, with so many alternatives.")
        .field("echo", boolean(), "The prompt first.")
        .field("suffix", string(), "What stands behind the gap that is to be filled.");
    constraints(object).harmless(&[HARMLESS, HARMLESS_COMPLETION])
}

/// One prompt or several, as text or as tokens.
fn prompt() -> Schema {
    let tokens = || list(token_id());
    either([
        string(),
        list(string()).entries(1, CHOICES_MAX),
        tokens().with("minItems", 1),
        list(tokens()).entries(1, CHOICES_MAX),
    ])
}

/// The reply.
pub(crate) fn reply(components: &mut Components) -> Value {
    components.derived::<Completion>()
}

/// A streamed piece.
pub(crate) fn chunk(components: &mut Components) -> Value {
    components.derived::<Chunk>()
}
