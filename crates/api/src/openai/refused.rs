//! Fields that are known but not served: each is refused by name, with what to do instead. And fields that are
//! accepted because they have no effect on the answer.
//!
//! The tables are data so that documentation and tests can walk them.

use serde_json::Value;

use crate::RequestError;
use crate::fields::Fields;

/// A field that is refused whatever its value.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The field.
    pub name: &'static str,
    /// Why, and what to do instead: follows "`name` is not supported: ".
    pub advice: &'static str,
}

/// A field that is accepted only with values under which it changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Harmless {
    /// The field.
    pub name: &'static str,
    /// Which values are accepted, for messages.
    pub accepted: &'static str,
    /// Tells whether a value is one of them.
    pub accepts: fn(&Value) -> bool,
}

pub(crate) const fn refused(name: &'static str, advice: &'static str) -> Refused {
    Refused { name, advice }
}

/// Refused on both routes.
pub const REFUSED: &[Refused] = &[
    refused("guided_decoding_backend", "there is one for all; remove it"),
    refused("guided_whitespace_pattern", "white space follows the schema; remove it"),
    refused(
        "chat_template",
        "a template cannot come with a request; the operator sets it when the server starts",
    ),
    refused("truncate_prompt_tokens", "prompts are never cut; shorten the prompt"),
    refused("truncation", "prompts are never cut; shorten the prompt"),
    refused("cache_salt", "cached prompts are not partitioned yet; remove it"),
    refused("bad_words", "use `logit_bias` with token ids"),
    refused("allowed_token_ids", "use `logit_bias` to forbid tokens"),
    refused("length_penalty", "beam search is not available; remove it"),
    refused("early_stopping", "beam search is not available; remove it"),
    refused("n_predict", "use `max_tokens`"),
    refused("max_new_tokens", "use `max_tokens`"),
    refused("n_probs", "use `logprobs`"),
    refused("adapters", "use `lora`, or an adapter's name as `model`"),
    refused("lora_path", "use `lora`, or an adapter's name as `model`"),
    refused("adaptive_target", "this sampler is not available; remove it"),
    refused("tfs_z", "this sampler is not available; remove it"),
    refused("prompt_embeds", "send text or token ids"),
    refused("mm_processor_kwargs", "images and audio are not available yet"),
    refused("request_id", "send the header `x-request-id`"),
    refused("rid", "send the header `x-request-id`"),
    refused("keep_alive", "the operator decides how long a model stays loaded"),
    refused("options", "put its fields at the top level"),
    refused("speculative.n_min", "the operator sets it (--draft-min); it changes no answer"),
    refused("speculative.p_min", "the operator sets it (--draft-p-min); it changes no answer"),
];

/// Refused in chat.
pub const REFUSED_CHAT: &[Refused] = &[
    refused("functions", "put each into `tools`, as {\"type\": \"function\", \"function\": …}"),
    refused("function_call", "use `tool_choice`"),
    refused("audio", "audio is not available; remove it"),
    refused("web_search_options", "this server searches nothing; remove it"),
    refused("verbosity", "ask for short or long answers in a message"),
    refused("documents", "put the documents into a message"),
    refused("suffix", "it belongs to completions"),
    refused("echo", "it belongs to completions"),
    refused("prompt", "use `messages`, or the route /v1/completions"),
];

/// Refused in completions.
pub const REFUSED_COMPLETION: &[Refused] = &[
    refused("messages", "use `prompt`, or the route /v1/chat/completions"),
    refused("top_logprobs", "in completions `logprobs` is the number of alternatives"),
    refused("tools", "it belongs to chat completions"),
    refused("tool_choice", "it belongs to chat completions"),
    refused("parallel_tool_calls", "it belongs to chat completions"),
    refused("reasoning_effort", "it belongs to chat completions"),
    refused("chat_template_kwargs", "it belongs to chat completions"),
];
pub(crate) fn string(v: &Value) -> bool {
    v.is_string()
}
fn object(v: &Value) -> bool {
    v.is_object()
}
pub(crate) fn is_false(v: &Value) -> bool {
    v == &Value::Bool(false)
}
pub(crate) fn is_true(v: &Value) -> bool {
    v == &Value::Bool(true)
}
fn minus_one(v: &Value) -> bool {
    v.as_i64() == Some(-1)
}
fn tier(v: &Value) -> bool {
    matches!(v.as_str(), Some("auto" | "default"))
}
fn text_only(v: &Value) -> bool {
    v.as_array().is_some_and(|l| l.len() == 1 && l[0] == "text")
}

pub(crate) const fn harmless(
    name: &'static str,
    accepted: &'static str,
    accepts: fn(&Value) -> bool,
) -> Harmless {
    Harmless { name, accepted, accepts }
}

/// Accepted on both routes with values under which the answer stays the same.
pub const HARMLESS: &[Harmless] = &[
    harmless("user", "a string", string),
    harmless("safety_identifier", "a string", string),
    harmless("metadata", "an object", object),
    harmless("store", "false (nothing is stored)", is_false),
    harmless("service_tier", "\"auto\" or \"default\"", tier),
    harmless("prompt_cache_key", "a string", string),
    harmless("prompt_cache_retention", "a string", string),
    harmless("use_beam_search", "false", is_false),
    harmless("include_stop_str_in_output", "false", is_false),
    harmless("spaces_between_special_tokens", "true", is_true),
    harmless("return_tokens_as_token_ids", "false", is_false),
    harmless("return_token_ids", "false", is_false),
    harmless("return_tokens", "false", is_false),
    harmless("cache_prompt", "true", is_true),
    harmless("id_slot", "-1", minus_one),
    harmless("timings_per_token", "false", is_false),
    harmless("return_progress", "false", is_false),
    harmless("post_sampling_probs", "false", is_false),
];

/// The same in chat only.
pub const HARMLESS_CHAT: &[Harmless] =
    &[harmless("stream_reasoning", "true", is_true), harmless("modalities", "[\"text\"]", text_only)];

/// The same in completions only.
pub const HARMLESS_COMPLETION: &[Harmless] = &[harmless("add_special_tokens", "true", is_true)];

/// Takes the fields of the tables, refusing what has to be.
pub(crate) fn check(
    fields: &mut Fields,
    refused: &[&[Refused]],
    harmless: &[&[Harmless]],
) -> Result<(), RequestError> {
    for field in refused.iter().copied().flatten() {
        if fields.take(field.name).is_some() {
            return Err(fields
                .error(field.name, format!("`{}` is not supported: {}", field.name, field.advice))
                .with_code("unsupported_field"));
        }
    }
    for field in harmless.iter().copied().flatten() {
        if fields.take(field.name).is_some_and(|v| !(field.accepts)(&v)) {
            return Err(fields
                .error(
                    field.name,
                    format!(
                        "`{}` is not supported with this value; it can be {}",
                        field.name, field.accepted
                    ),
                )
                .with_code("unsupported_value"));
        }
    }
    Ok(())
}
