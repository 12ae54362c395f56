//! Fields of this route that are known and not served, and fields that change nothing. What both OpenAI routes for
//! text refuse or accept without effect holds here too ([`super::super::refused`]).

use serde_json::Value;

use super::super::refused::{Harmless, Refused};

const fn refused(name: &'static str, advice: &'static str) -> Refused {
    Refused { name, advice }
}

const fn harmless(name: &'static str, accepted: &'static str, accepts: fn(&Value) -> bool) -> Harmless {
    Harmless { name, accepted, accepts }
}

/// Refused whatever their value.
pub const REFUSED_RESPONSES: &[Refused] = &[
    refused(
        "conversation",
        "continue a stored response with `previous_response_id`, or send all items as `input`",
    ),
    refused("prompt", "prompts are not kept here; send `instructions` and `input`"),
    refused("context_management", "the context is never shortened; send fewer items"),
    refused("prompt_cache_options", "prompts are cached as the operator has set it; remove it"),
    refused("moderation", "this server does not moderate; remove it"),
    refused("access_programs", "there are none here; remove it"),
    refused("image", "images are not available; remove it"),
    refused("modalities", "there is only text; remove it"),
    refused("messages", "use `input`, or the route /v1/chat/completions"),
    refused("response_format", "use `text.format`"),
    refused("reasoning_effort", "use `reasoning.effort`"),
    refused("verbosity", "ask for short or long answers in the instructions"),
    refused("max_tokens", "use `max_output_tokens`"),
    refused("max_completion_tokens", "use `max_output_tokens`"),
    refused("logprobs", "put `message.output_text.logprobs` into `include`"),
    refused("prompt_logprobs", "it belongs to the other routes"),
    refused("functions", "use `tools`"),
    refused("function_call", "use `tool_choice`"),
    refused("echo", "it belongs to completions"),
    refused("suffix", "it belongs to completions"),
    refused("best_of", "one answer is made; remove it"),
    refused("lora", "choose an adapter by its name, as `model`"),
];

/// Accepted with values under which the answer stays the same.
pub const HARMLESS_RESPONSES: &[Harmless] = &[
    harmless("truncation", "\"disabled\" (prompts are never cut; shorten the input)", |v| v == "disabled"),
    harmless("n", "1 (one answer is made)", |v| v.as_f64() == Some(1.0)),
    harmless("client_metadata", "an object", Value::is_object),
];
