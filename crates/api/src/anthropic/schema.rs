//! The body of a request for a message, described: see [`crate::openapi`].

use serde_json::{Value, json};

use super::messages::EFFORTS;
use super::refused::{HARMLESS, REFUSED};
use super::reply::{Message, StreamEvent};
use super::tools::TOOL_NAME_BYTES_MAX;
use crate::openai::chat::{MESSAGES_MAX, PARTS_MAX};
use crate::openai::schema::{I32_MAX, NAME, common, name, stop};
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, boolean, count_of, either, empty_list, exactly_false, integer, list, map, nullable,
    number, string, word, words,
};
use crate::tools::TOOLS_MAX;

/// The body of a request for a message.
pub(crate) fn body() -> Object {
    let most = "The most new tokens; 0 only computes the prompt.";
    shared().field("stream", boolean(), "Events instead of one body.").must("max_tokens", max_tokens(), most)
}

/// The body of a request for a count: whatever only bears on the answer has no effect.
pub(crate) fn count_body() -> Object {
    shared().field("stream", exactly_false(), "").field("max_tokens", max_tokens(), "Without effect.")
}

fn max_tokens() -> Schema {
    integer(0, I32_MAX)
}

fn shared() -> Object {
    let metadata = Object::new().field("user_id", string(), "Without effect.");
    let message = |roles: &str, content: Schema| {
        Object::new().must("role", word(roles), "").must("content", content, "").schema()
    };
    let messages = list(either([
        message("user", blocks(either([text_block(), tool_result()]))),
        message("assistant", blocks(either([text_block(), thinking_block(), tool_use()]))),
        message("system", texts()),
    ]));
    common(Object::new())
        .without(&[REFUSED])
        .must("messages", messages.entries(1, MESSAGES_MAX), "The conversation.")
        .field("system", texts(), "Instructions.")
        .field("temperature", number(0.0, 1.0), "How much chance there is; 0 is greedy.")
        .field("stop_sequences", stop(), "Texts that end the answer; they are not part of it.")
        .field("tools", list(tool()).entries(0, TOOLS_MAX), "Functions that the model may call.")
        .field("tool_choice", tool_choice(), "Whether they are called.")
        .field("thinking", thinking(), "Whether to think.")
        .field("output_config", output_config(), "What the text must obey, and how hard to think.")
        .field("output_format", format(), "Older name of `output_config.format`.")
        .field("context_management", context_management(), "Which old thoughts are left out.")
        .field("chat_template_kwargs", map(), "Variables for the model's template.")
        .field("metadata", metadata.schema(), "Without effect.")
        .harmless(&[HARMLESS])
}

fn cached(object: Object) -> Schema {
    object.field("cache_control", map(), "Without effect: every prompt is cached.").schema()
}

fn block(kind: &str) -> Object {
    Object::new().must("type", word(kind), "")
}

fn text_block() -> Schema {
    cached(block("text").must("text", string(), "").field("citations", empty_list(), "Only empty."))
}

fn thinking_block() -> Schema {
    let thoughts = block("thinking").must("thinking", string(), "What the model thought.");
    cached(thoughts.field("signature", string(), "Without effect."))
}

fn tool_use() -> Schema {
    let caller = map().with("properties", word_field("direct")).with("required", vec!["type"]);
    let call = block("tool_use").must("id", string(), "").must("name", string(), "");
    cached(call.must("input", map(), "The arguments.").field("caller", caller, "Without effect."))
}

/// `{"type": …}` among other fields, which are not looked at.
fn word_field(kind: &str) -> Value {
    json!({ "type": word(kind).into_value() })
}

fn tool_result() -> Schema {
    cached(
        block("tool_result")
            .must("tool_use_id", string(), "Which call this answers.")
            .field("content", texts(), "")
            .field("is_error", boolean(), "The model reads `Error: ` first."),
    )
}

fn texts() -> Schema {
    either([string(), list(text_block()).entries(0, PARTS_MAX)])
}

fn blocks(entry: Schema) -> Schema {
    either([string(), list(entry).entries(1, PARTS_MAX)])
}

fn tool() -> Schema {
    let of_object = map().with("properties", json!({ "type": { "enum": ["object"] } }));
    let tool = Object::new()
        .field("type", word("custom"), "")
        .must("name", name(NAME, TOOL_NAME_BYTES_MAX), "")
        .field("description", string(), "")
        .must("input_schema", of_object, "A JSON schema.")
        .field("strict", boolean(), "Arguments obey the schema.")
        .field("eager_input_streaming", boolean(), "Without effect: arguments are always streamed.")
        .field("defer_loading", exactly_false(), "")
        .field("allowed_callers", list(word("direct")), "")
        .field("input_examples", empty_list(), "Only empty.");
    cached(tool)
}

fn tool_choice() -> Schema {
    let at_most_one =
        |object: Object| object.field("disable_parallel_tool_use", boolean(), "At most one call.");
    let tool = at_most_one(block("tool")).must("name", string(), "A tool of `tools`.");
    either([
        at_most_one(Object::new().must("type", words(&["auto", "any"]), "")).schema(),
        tool.schema(),
        block("none").schema(),
    ])
}

fn thinking() -> Schema {
    let shown = |object: Object| {
        let text = "`summarized` shows thoughts as they are.";
        object.field("display", words(&["summarized", "omitted"]), text).schema()
    };
    let enabled = block("enabled").field("budget_tokens", integer(1, I32_MAX), "Less than `max_tokens`.");
    either([shown(enabled), shown(Object::new().must("type", words(&["adaptive", "disabled"]), ""))])
}

fn format() -> Schema {
    block("json_schema").must("schema", map(), "A JSON schema.").schema()
}

fn output_config() -> Schema {
    Object::new()
        .field("effort", words(&EFFORTS), "How hard to think.")
        .field("format", format(), "")
        .schema()
}

fn context_management() -> Schema {
    let turns = block("thinking_turns").field("value", integer(1, I32_MAX), "How many.");
    let keep = either([word("all"), block("all").schema(), turns.schema()]);
    let edit = block("clear_thinking_20251015").field("keep", keep, "Which messages keep their thoughts.");
    Object::new().field("edits", list(edit.schema()), "").schema()
}

/// The reply.
pub(crate) fn reply(components: &mut Components) -> Value {
    components.derived::<Message>()
}

/// An event of a stream.
pub(crate) fn event(components: &mut Components) -> Value {
    let event = Schema::of(components.derived::<StreamEvent>());
    components.put("MessageEvent", || either([event, block("ping").schema()]))
}

/// The reply with a count.
pub(crate) fn count() -> Schema {
    Object::new().must("input_tokens", count_of(), "").schema()
}

/// An error, in a reply and in an event.
pub(crate) fn error() -> Schema {
    let error = Object::new().must("type", string(), "A word for programs.").must(
        "message",
        string(),
        "What happened, to what, and what to do.",
    );
    Object::new().must("type", word("error"), "").must("error", error.schema(), "").schema()
}

/// A model in this dialect's shape.
pub(crate) fn model() -> Schema {
    Object::new()
        .must("type", word("model"), "")
        .must("id", string(), "")
        .must("display_name", string(), "")
        .must("created_at", string(), "RFC 3339.")
        .must("lifecycle", word("active"), "")
        .must("max_input_tokens", count_of(), "Prompt and answer share the context.")
        .must("max_tokens", count_of(), "")
        .schema()
}

/// A page of the list of models in this dialect's shape.
pub(crate) fn model_list() -> Schema {
    Object::new()
        .must("data", list(model()), "")
        .must("has_more", boolean(), "")
        .must("first_id", nullable(string()), "")
        .must("last_id", nullable(string()), "")
        .schema()
}
