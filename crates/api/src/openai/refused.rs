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

const LATER_STRUCTURE: &str = "structured output is not available yet; ask for the format in the prompt";
const LATER_TOOLS: &str = "tool calls are not available yet; describe the tools in a message";
const LATER_REASONING: &str = "reasoning is not parsed yet: it is part of the text; if the model's template has a \
                               switch for it, set that in `chat_template_kwargs`";

const fn refused(name: &'static str, advice: &'static str) -> Refused {
    Refused { name, advice }
}

/// Refused on both routes.
pub const REFUSED: &[Refused] = &[
    refused("guided_json", LATER_STRUCTURE),
    refused("guided_regex", LATER_STRUCTURE),
    refused("guided_choice", LATER_STRUCTURE),
    refused("guided_grammar", LATER_STRUCTURE),
    refused("structured_outputs", LATER_STRUCTURE),
    refused("json_schema", LATER_STRUCTURE),
    refused("grammar", LATER_STRUCTURE),
    refused("regex", LATER_STRUCTURE),
    refused("ebnf", LATER_STRUCTURE),
    refused("structural_tag", LATER_STRUCTURE),
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
    refused("n_keep", "the context is never shifted; remove it"),
    refused("lora", "adapters are not available yet; remove it"),
    refused("adapters", "adapters are not available yet; remove it"),
    refused("adaptive_target", "this sampler is not available; remove it"),
    refused("tfs_z", "this sampler is not available; remove it"),
    refused("prompt_embeds", "send text or token ids"),
    refused("mm_processor_kwargs", "images and audio are not available yet"),
    refused("request_id", "send the header `x-request-id`"),
    refused("rid", "send the header `x-request-id`"),
    refused("keep_alive", "the operator decides how long a model stays loaded"),
    refused("options", "put its fields at the top level"),
];

/// Refused in chat.
pub const REFUSED_CHAT: &[Refused] = &[
    refused("functions", LATER_TOOLS),
    refused("function_call", LATER_TOOLS),
    refused("audio", "audio is not available; remove it"),
    refused("web_search_options", "this server searches nothing; remove it"),
    refused("verbosity", "ask for short or long answers in a message"),
    refused("reasoning", LATER_REASONING),
    refused("reasoning_effort", LATER_REASONING),
    refused("reasoning_format", LATER_REASONING),
    refused("include_reasoning", LATER_REASONING),
    refused("separate_reasoning", LATER_REASONING),
    refused("thinking_token_budget", LATER_REASONING),
    refused("thinking_budget_tokens", LATER_REASONING),
    refused("think", LATER_REASONING),
    refused("thinking", LATER_REASONING),
    refused("enable_thinking", "put it in `chat_template_kwargs`"),
    refused("documents", "put the documents into a message"),
    refused("suffix", "it belongs to completions"),
    refused("echo", "it belongs to completions"),
    refused("prompt", "use `messages`, or the route /v1/completions"),
];

/// Refused in completions.
pub const REFUSED_COMPLETION: &[Refused] = &[
    refused("suffix", "infilling is not available yet; send only the text before"),
    refused("messages", "use `prompt`, or the route /v1/chat/completions"),
    refused("top_logprobs", "in completions `logprobs` is the number of alternatives"),
    refused("tools", "it belongs to chat completions"),
    refused("chat_template_kwargs", "it belongs to chat completions"),
];

fn string(v: &Value) -> bool {
    v.is_string()
}
fn object(v: &Value) -> bool {
    v.is_object()
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
fn zero(v: &Value) -> bool {
    v.as_f64() == Some(0.0)
}
fn minus_one(v: &Value) -> bool {
    v.as_i64() == Some(-1)
}
fn tier(v: &Value) -> bool {
    matches!(v.as_str(), Some("auto" | "default"))
}
fn text_format(v: &Value) -> bool {
    v.get("type").and_then(Value::as_str) == Some("text") && v.as_object().is_some_and(|o| o.len() == 1)
}
fn no_tool_choice(v: &Value) -> bool {
    matches!(v.as_str(), Some("none" | "auto"))
}
fn text_only(v: &Value) -> bool {
    v.as_array().is_some_and(|l| l.len() == 1 && l[0] == "text")
}
fn empty_list(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty)
}

const fn harmless(name: &'static str, accepted: &'static str, accepts: fn(&Value) -> bool) -> Harmless {
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
    harmless("response_format", "{\"type\":\"text\"} (structured output is not available yet)", text_format),
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
    harmless("priority", "0", zero),
];

/// The same in chat only.
pub const HARMLESS_CHAT: &[Harmless] = &[
    harmless("tools", "an empty list (tool calls are not available yet)", empty_list),
    harmless(
        "tool_choice",
        "\"none\", or \"auto\" without tools (tool calls are not available yet)",
        no_tool_choice,
    ),
    harmless("parallel_tool_calls", "true or false", boolean),
    harmless("modalities", "[\"text\"]", text_only),
];

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
