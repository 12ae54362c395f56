//! Fields and options that are known but not served, each refused by name with what to do instead; and those that
//! are accepted because they have no effect on the answer. As in [`crate::openai::refused`], the tables are data so
//! that documentation and tests can walk them.

use serde_json::Value;

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, integer};
pub use crate::openai::refused::{Harmless, Refused};

const fn refused(name: &'static str, advice: &'static str) -> Refused {
    Refused { name, advice }
}

const fn harmless(name: &'static str, accepted: &'static str, accepts: fn(&Value) -> bool) -> Harmless {
    Harmless { name, accepted, accepts }
}

const IN_OPTIONS: &str = "put it in `options`";

/// Refused on both routes.
pub const REFUSED: &[Refused] = &[
    refused("temperature", IN_OPTIONS),
    refused("top_k", IN_OPTIONS),
    refused("top_p", IN_OPTIONS),
    refused("min_p", IN_OPTIONS),
    refused("seed", IN_OPTIONS),
    refused("stop", IN_OPTIONS),
    refused("num_ctx", IN_OPTIONS),
    refused("num_predict", IN_OPTIONS),
    refused("max_tokens", "use `num_predict` in `options`"),
    refused("response_format", "use `format`"),
];

/// Refused in chat.
pub const REFUSED_CHAT: &[Refused] = &[
    refused("prompt", "use `messages`, or the route /api/generate"),
    refused("system", "put it into `messages`"),
    refused("raw", "it belongs to /api/generate"),
    refused("suffix", "it belongs to /api/generate"),
    refused("tool_choice", "the model chooses; /v1/chat/completions takes this field"),
];

/// Refused in generate.
pub const REFUSED_GENERATE: &[Refused] = &[
    refused("messages", "use `prompt`, or the route /api/chat"),
    refused("tools", "use the route /api/chat"),
    refused("width", "images are not made here; remove it"),
    refused("height", "images are not made here; remove it"),
    refused("steps", "images are not made here; remove it"),
];

/// Refused by `/api/embed`.
pub const REFUSED_EMBED: &[Refused] = &[
    refused("prompt", "use `input`, or the route /api/embeddings"),
    refused("messages", "use `input`"),
    refused("images", "images are not available yet; send text"),
    refused("template", "a template cannot come with a request; texts are embedded as they are"),
    refused("temperature", "nothing is generated here; remove it"),
    refused("num_ctx", IN_OPTIONS),
];

/// Refused by `/api/embeddings`.
pub const REFUSED_EMBEDDINGS: &[Refused] = &[
    refused("input", "use `prompt`, or the route /api/embed"),
    refused("truncate", "the route /api/embed takes it"),
    refused("dimensions", "the route /api/embed takes it"),
    refused("messages", "use `prompt`"),
    refused("num_ctx", IN_OPTIONS),
];

/// Accepted by the routes that embed, with values under which the vectors stay the same.
pub const HARMLESS_EMBED: &[Harmless] = &[harmless("stream", "false (vectors come in one reply)", is_false)];

/// Fields that clients send empty when nobody set them; anything else is refused, with this advice.
pub const EMPTY: &[Refused] = &[
    refused("template", "a template cannot come with a request; the operator sets it when the server starts"),
    refused("context", "nothing is kept between requests; send the conversation to /api/chat"),
    refused("images", "images are not available yet; send text"),
];

/// Accepted on both routes with values under which the answer stays the same.
pub const HARMLESS: &[Harmless] = &[
    harmless("truncate", "true or false (prompts are never cut: one that is too long is an error)", boolean),
    harmless("_debug_render_only", "false", is_false),
];

/// Options that are refused whatever their value.
pub const REFUSED_OPTIONS: &[Refused] = &[
    refused("rope_frequency_base", "the operator sets it when the server starts"),
    refused("rope_frequency_scale", "the operator sets it when the server starts"),
    refused("num_gqa", "the model's file says it; remove it"),
];

/// Options that are accepted with values under which the answer stays the same.
pub const HARMLESS_OPTIONS: &[Harmless] = &[
    harmless("num_batch", "a whole number (the operator sets it)", whole),
    harmless("num_gpu", "a whole number (the operator sets it)", whole),
    harmless("main_gpu", "a whole number (the operator sets it)", whole),
    harmless("num_thread", "a whole number (the operator sets it)", whole),
    harmless("use_mmap", "true or false (the operator sets it)", boolean),
    harmless("use_mlock", "true or false (the operator sets it)", boolean),
    harmless("numa", "true or false (the operator sets it)", boolean),
    harmless("low_vram", "true or false (the operator sets it)", boolean),
    harmless("logits_all", "true or false", boolean),
    harmless("f16_kv", "true (the operator sets how keys and values are stored)", is_true),
    harmless("vocab_only", "false", is_false),
    harmless("embedding_only", "false", is_false),
    harmless("penalize_newline", "true", is_true),
    harmless("tfs_z", "1 (this sampler is not available)", one),
];

fn whole(v: &Value) -> bool {
    matches!(v, Value::Number(n) if integer(n).is_some())
}
fn boolean(v: &Value) -> bool {
    v.is_boolean()
}
fn is_false(v: &Value) -> bool {
    v == &Value::Bool(false)
}
fn is_true(v: &Value) -> bool {
    v == &Value::Bool(true)
}
fn one(v: &Value) -> bool {
    v.as_f64() == Some(1.0)
}

/// Takes fields that must be empty if they are there.
pub(super) fn check_empty(fields: &mut Fields, tables: &[&[Refused]]) -> Result<(), RequestError> {
    for field in tables.iter().copied().flatten() {
        let empty = match fields.take(field.name) {
            None => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if !empty {
            let name = quoted(&fields.path(field.name));
            return Err(fields
                .error(field.name, format!("{name} is not supported: {}", field.advice))
                .with_code("unsupported_field"));
        }
    }
    Ok(())
}
