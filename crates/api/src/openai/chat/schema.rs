//! The body of a chat completion, described: see [`crate::openapi`].

use serde_json::Value;

use super::messages::{MESSAGES_MAX, PARTS_MAX};
use super::reply::{ChatCompletion, Chunk};
use crate::openai::refused::{HARMLESS, HARMLESS_CHAT};
use crate::openai::sampling::TOP_LOGPROBS_MAX;
use crate::openai::schema::{DOTTED_NAME, I32_MAX, common, constraints, name, nested_tool, streaming, tools};
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, any, boolean, either, empty_list, integer, list, map, string, word, words,
};
use crate::tools::TOOLS_MAX;

/// The body.
pub(crate) fn body() -> Object {
    let object =
        Object::new().must("messages", list(message()).entries(1, MESSAGES_MAX), "The conversation.");
    let object = common(streaming(object))
        .fields(
            &["max_completion_tokens", "max_tokens"],
            &integer(1, I32_MAX),
            "The most new tokens; without it, what the context holds.",
        )
        .field("logprobs", boolean(), "Log-probabilities of the answer's tokens.")
        .field("top_logprobs", integer(0, TOP_LOGPROBS_MAX), "So many alternatives with each.")
        .field("continue_final_message", boolean(), "Continues the last assistant message.")
        .field("add_generation_prompt", boolean(), "`false` only with `continue_final_message`.")
        .field(
            "chat_template_kwargs",
            map(),
            "Variables for the model's template; those that the server sets itself are refused.",
        )
        .field("tools", tools(nested_tool()), "Functions that the model may call; the client runs them.")
        .field("tool_choice", tool_choice(), "Whether they are called.")
        .field("parallel_tool_calls", boolean(), "`false`: at most one call.")
        .field(
            "prediction",
            prediction(),
            "What the answer will mostly be: it comes faster then, and is the same.",
        );
    constraints(reasoning(object)).harmless(&[HARMLESS, HARMLESS_CHAT])
}

fn prediction() -> Schema {
    Object::new().must("type", word("content"), "").must("content", content(), "The text.").schema()
}

fn part() -> Schema {
    Object::new()
        .must("type", word("text"), "")
        .must("text", string(), "")
        .field("cache_control", map(), "Without effect: every prompt is cached.")
        .schema()
}

fn content() -> Schema {
    either([string(), list(part()).entries(1, PARTS_MAX)])
}

fn message() -> Schema {
    let of =
        |roles: &[&str]| Object::new().must("role", words(roles), "").field("name", string(), "Who says it.");
    let function = Object::new().must("name", string(), "").must(
        "arguments",
        string(),
        "A JSON object, written as text.",
    );
    let call = Object::new()
        .field("id", string(), "")
        .field("index", any(), "Without effect: the list says it.")
        .field("type", word("function"), "")
        .must("function", function.schema(), "");
    let assistant = of(&["assistant"])
        .field("content", content(), "")
        .fields(&["reasoning_content", "reasoning"], &string(), "What the model thought.")
        .fields(&["annotations", "audio", "function_call", "refusal"], &empty_list(), "Only empty.")
        .field("provider_specific_fields", map(), "What litellm notes for itself; without effect.")
        .field("tool_calls", list(call.schema()).entries(0, PARTS_MAX), "");
    either([
        of(&["system", "developer", "user"]).must("content", content(), "").schema(),
        assistant.schema(),
        of(&["tool"])
            .must("content", content(), "")
            .must("tool_call_id", string(), "Which call this answers.")
            .schema(),
    ])
}

fn tool_choice() -> Schema {
    let named = |object: Object| {
        let function = Object::new().must("name", name(DOTTED_NAME, 64), "A function of `tools`.");
        object.must("function", function.schema(), "").schema()
    };
    let allowed = named(Object::new().field("type", word("function"), ""));
    let allowed = Object::new().must("mode", words(&["auto", "required"]), "").must(
        "tools",
        list(allowed).entries(1, TOOLS_MAX),
        "As if there were only these.",
    );
    either([
        words(&["none", "auto", "required"]),
        named(Object::new().must("type", word("function"), "")),
        Object::new()
            .must("type", word("allowed_tools"), "")
            .must("allowed_tools", allowed.schema(), "")
            .schema(),
    ])
}

/// Wishes about thinking, in the spellings of all peers; what is said twice must agree.
fn reasoning(object: Object) -> Object {
    let efforts = || words(&super::reasoning::EFFORTS);
    let budget = || integer(-1, I32_MAX);
    let wish = Object::new()
        .field("effort", efforts(), "")
        .field("enabled", boolean(), "")
        .field("max_tokens", budget(), "At most so many tokens of thoughts.")
        .field("exclude", boolean(), "Thoughts stay out of the reply.");
    let thinking =
        Object::new().must("type", words(&["enabled", "disabled"]), "").field("budget_tokens", budget(), "");
    object
        .field("reasoning_effort", efforts(), "How hard to think; `none` turns it off.")
        .field("reasoning", wish.schema(), "OpenRouter's spelling.")
        .field("think", either([boolean(), efforts()]), "Whether to think, or how hard.")
        .field("enable_thinking", boolean(), "Whether to think.")
        .field("thinking", either([boolean(), thinking.schema()]), "Whether to think.")
        .fields(
            &["thinking_token_budget", "thinking_budget_tokens"],
            &budget(),
            "At most so many tokens of thoughts; -1 is no limit.",
        )
        .field("include_reasoning", boolean(), "`false` leaves thoughts out of the reply.")
        .field("separate_reasoning", boolean(), "`false` leaves thoughts in the text.")
        .field(
            "reasoning_format",
            words(&["none", "auto", "deepseek"]),
            "`none` leaves thoughts in the text.",
        )
}

/// The reply.
pub(crate) fn reply(components: &mut Components) -> Value {
    components.derived::<ChatCompletion>()
}

/// A streamed piece.
pub(crate) fn chunk(components: &mut Components) -> Value {
    components.derived::<Chunk>()
}
