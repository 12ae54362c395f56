//! Fields that are known but not served, and fields without effect on the answer.

use serde_json::Value;

use crate::openai::refused::{Harmless, Refused};

const LOGPROBS: &str = "messages have no place for log-probabilities; use the route /v1/chat/completions";
const ONE_ANSWER: &str = "a request has one answer; send several requests";
const NO_FALLBACK: &str = "the model that is asked for answers, or none; remove it";
const PREFILL: &str = "end `messages` with the assistant message that shall be continued";

const fn refused(name: &'static str, advice: &'static str) -> Refused {
    Refused { name, advice }
}

/// Refused whatever their value.
pub const REFUSED: &[Refused] = &[
    refused("container", "this server runs no code; remove it"),
    refused("compaction", "shorten the conversation on the client's side"),
    refused("thread", "no state is kept between requests; send the whole conversation"),
    refused("diagnostics", "misses of the prompt cache are not explained; remove it"),
    refused("inference_geo", "the model runs where this server is; remove it"),
    refused("fallbacks", NO_FALLBACK),
    refused("fallback_credit_token", NO_FALLBACK),
    refused("billing_policy", "nothing is billed; remove it"),
    refused("stop", "use `stop_sequences`"),
    refused("max_completion_tokens", "use `max_tokens`"),
    refused("max_tokens_to_sample", "use `max_tokens`"),
    refused("prompt", "use `messages`"),
    refused("response_format", "use `output_config.format`"),
    refused("reasoning_effort", "use `output_config.effort`"),
    refused("parallel_tool_calls", "use `tool_choice.disable_parallel_tool_use`"),
    refused("stream_options", "the usage is always part of a stream; remove it"),
    refused("continue_final_message", PREFILL),
    refused("add_generation_prompt", PREFILL),
    refused("n", ONE_ANSWER),
    refused("best_of", ONE_ANSWER),
    refused("logprobs", LOGPROBS),
    refused("top_logprobs", LOGPROBS),
    refused("prompt_logprobs", LOGPROBS),
];

fn string(v: &Value) -> bool {
    v.is_string()
}
fn object(v: &Value) -> bool {
    v.is_object()
}
fn strings(v: &Value) -> bool {
    v.as_array().is_some_and(|l| l.iter().all(Value::is_string))
}
fn empty_list(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty)
}
fn tier(v: &Value) -> bool {
    matches!(v.as_str(), Some("auto" | "standard_only"))
}
fn standard(v: &Value) -> bool {
    v == "standard"
}

const fn harmless(name: &'static str, accepted: &'static str, accepts: fn(&Value) -> bool) -> Harmless {
    Harmless { name, accepted, accepts }
}

/// Accepted with values under which the answer stays the same.
pub const HARMLESS: &[Harmless] = &[
    // Prompts are cached whether or not a client marks them.
    harmless("cache_control", "an object", object),
    harmless("service_tier", "\"auto\" or \"standard_only\"", tier),
    harmless("speed", "\"standard\"", standard),
    // What a beta adds is fields, and those are looked at one by one.
    harmless("betas", "a list of strings", strings),
    harmless("anthropic_beta", "a list of strings", strings),
    harmless("anthropic_version", "a string", string),
    harmless("mcp_servers", "an empty list (this server calls no other)", empty_list),
    harmless("user_profile_id", "a string", string),
    harmless("workspace_id", "a string", string),
];
