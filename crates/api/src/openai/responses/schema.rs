//! The body of a response, described: see [`crate::openapi`].

use serde_json::{Value, json};

use super::ItemList;
use super::body::{INCLUDE, METADATA_KEY_CHARS_MAX, METADATA_MAX, METADATA_VALUE_CHARS_MAX};
use super::input::ITEMS_MAX;
use super::options::NAME_BYTES_MAX;
use super::refused::{HARMLESS_RESPONSES, REFUSED_RESPONSES};
use super::reply::Response;
use crate::openai::chat::{EFFORTS, PARTS_MAX};
use crate::openai::constraint::SCHEMA_NAME_BYTES_MAX;
use crate::openai::refused::{HARMLESS, REFUSED};
use crate::openai::sampling::TOP_LOGPROBS_MAX;
use crate::openai::schema::{DOTTED_NAME, I32_MAX, NAME, common, name, streaming, tools};
use crate::openai::terms::rank;
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, any, boolean, count_of, either, exactly_false, integer, list, map, string, word, words,
};

/// The body.
pub(crate) fn body() -> Object {
    let object = rank(common(streaming(Object::new())))
        .harmless(&[HARMLESS])
        .without(&[REFUSED, REFUSED_RESPONSES])
        .harmless(&[HARMLESS_RESPONSES]);
    object
        .must("input", input(), "A text, or the items of the conversation.")
        .field("instructions", string(), "A system message in front of the conversation.")
        .field("previous_response_id", string(), "The stored response that this one continues.")
        .field("store", boolean(), "Whether the response is stored.")
        .field("background", boolean(), "The reply comes at once; the response is made later, and stored.")
        .field("max_output_tokens", integer(1, I32_MAX), "The most new tokens, thoughts included.")
        .field("tools", tools(tool()), "Functions that the model may call; the client runs them.")
        .field("tool_choice", tool_choice(), "Whether they are called.")
        .field("parallel_tool_calls", boolean(), "`false`: at most one call.")
        .field("text", text(), "What the answer is.")
        .field("reasoning", reasoning(), "Wishes about thinking.")
        .field("include", list(words(INCLUDE)), "What the reply has besides.")
        .field("top_logprobs", integer(0, TOP_LOGPROBS_MAX), "Alternatives with each log-probability.")
        .field("metadata", metadata(), "Stored and repeated.")
        .field("prompt_cache_key", string(), "Repeated; without effect.")
        .field("safety_identifier", string(), "Repeated; without effect.")
        .field("user", string(), "Repeated; without effect.")
        .field("service_tier", words(&["auto", "default"]), "Without effect.")
        .field("max_tool_calls", integer(1, i128::from(u32::MAX)), "Repeated; without effect.")
        .field("chat_template_kwargs", map(), "Variables for the model's template.")
}

/// What callers say about what they ask for.
pub(crate) fn metadata() -> Schema {
    map()
        .with("maxProperties", METADATA_MAX)
        .with("propertyNames", string().chars(0, METADATA_KEY_CHARS_MAX).into_value())
        .with("additionalProperties", string().chars(0, METADATA_VALUE_CHARS_MAX).into_value())
}

fn input() -> Schema {
    let item = |object: Object| {
        object
            .field("id", string(), "")
            .field("status", words(&["completed", "incomplete", "in_progress"]), "")
            .schema()
    };
    let kind = |kind: &str| Object::new().must("type", word(kind), "");
    let texts = |kinds: &[&str]| {
        let part = Object::new().must("type", words(kinds), "").must("text", string(), "").fields(
            &["annotations", "logprobs"],
            &list(any()),
            "Without effect.",
        );
        list(part.schema())
    };
    let content = || either([string(), texts(&["input_text", "output_text"]).entries(1, PARTS_MAX)]);
    let message = Object::new()
        .field("type", word("message"), "")
        .must("role", words(&["system", "developer", "user", "assistant"]), "")
        .must("content", content(), "")
        .field("phase", words(&["commentary", "final_answer"]), "Without effect.");
    let reasoning = kind("reasoning")
        .field("summary", texts(&["summary_text"]).entries(0, PARTS_MAX), "")
        .field("content", texts(&["reasoning_text"]).entries(0, PARTS_MAX), "");
    let call = kind("function_call").must("call_id", string(), "").must("name", string(), "").must(
        "arguments",
        string(),
        "A JSON object, written as text.",
    );
    let output = kind("function_call_output").must("call_id", string(), "Which call this answers.").must(
        "output",
        content(),
        "",
    );
    let items = either([item(message), item(reasoning), item(call), item(output)]);
    either([string(), list(items).entries(1, ITEMS_MAX)])
}

fn tool() -> Schema {
    Object::new()
        .must("type", word("function"), "")
        .must("name", name(DOTTED_NAME, NAME_BYTES_MAX), "")
        .field("description", string(), "")
        .field("parameters", map(), "A JSON schema; without it there are none.")
        .field("strict", boolean(), "Arguments obey the schema.")
        .fields(&["defer_loading", "async"], &exactly_false(), "")
        .schema()
}

fn tool_choice() -> Schema {
    let named =
        Object::new().must("type", word("function"), "").must("name", string(), "A function of `tools`.");
    either([words(&["auto", "none", "required"]), named.schema()])
}

fn text() -> Schema {
    let of = |kind: &str| Object::new().must("type", word(kind), "");
    let schema = of("json_schema")
        .must("name", name(NAME, SCHEMA_NAME_BYTES_MAX), "")
        .field("description", string(), "")
        .field("strict", boolean(), "The schema is enforced in any case.")
        .must("schema", map(), "A JSON schema.");
    Object::new()
        .field("verbosity", word("medium"), "Without effect.")
        .field("format", either([of("text").schema(), of("json_object").schema(), schema.schema()]), "")
        .schema()
}

fn reasoning() -> Schema {
    Object::new()
        .field("effort", words(&EFFORTS), "How hard to think; `none` turns it off.")
        .fields(&["summary", "generate_summary"], &word("auto"), "Thoughts come as they are.")
        .schema()
}

/// The reply.
pub(crate) fn reply(components: &mut Components) -> Value {
    components.derived::<Response>()
}

/// An event of a stream: they are numbered, and their other fields depend on their type.
pub(crate) fn event() -> Schema {
    let fields = json!({ "type": string().into_value(), "sequence_number": count_of().into_value() });
    map().with("properties", fields).with("required", vec!["type", "sequence_number"])
}

/// A page of a stored input.
pub(crate) fn items(components: &mut Components) -> Value {
    components.derived::<ItemList>()
}

/// The reply to a deletion.
pub(crate) fn deleted() -> Schema {
    Object::new()
        .must("id", string(), "")
        .must("object", word("response"), "")
        .must("deleted", boolean(), "")
        .schema()
}
