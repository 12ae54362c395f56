//! The bodies of this dialect, described: see [`crate::openapi`].

use ingle_chat::EMBED_INPUTS_MAX;
use serde_json::{Value, json};

use super::common::EFFORTS;
use super::create::REFUSED_CREATE;
use super::embed::{DIMENSIONS_MAX, Embedded, Single};
use super::messages::IMAGES;
use super::models::{CHANGES, Running, Show, Tag};
use super::refused::{EMPTY, HARMLESS, HARMLESS_EMBED, HARMLESS_OPTIONS, REFUSED, Refused};
use super::reply::{ChatLine, GenerateLine};
use crate::openai::chat::{MESSAGES_MAX, PARTS_MAX};
use crate::openai::sampling::TOP_LOGPROBS_MAX;
use crate::openai::schema::{I32_MAX, sampling, stop};
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, any, boolean, either, empty_list, integer, list, map, matching, string, word, words,
};
use crate::tools::TOOLS_MAX;

/// The body of `/api/generate`.
pub(crate) fn generate_body() -> Object {
    let object = Object::new()
        .field("prompt", string(), "What to answer; without it the model is only to be in memory.")
        .field("system", string(), "Instructions.")
        .field("raw", boolean(), "The prompt without the model's template.");
    let object = object.field("suffix", string(), "What stands behind the gap that is to be filled.");
    shared(empty(object, &[EMPTY]))
}

/// The body of `/api/chat`.
pub(crate) fn chat_body() -> Object {
    let messages = list(message()).entries(0, MESSAGES_MAX);
    let object = Object::new()
        .field("messages", messages, "The conversation; without it the model is only to be in memory.")
        .field("tools", list(tool()).entries(0, TOOLS_MAX), "Functions that the model may call.");
    shared(empty(object, &[EMPTY]))
}

/// The body of `/api/show`.
pub(crate) fn show_body() -> Object {
    let object = Object::new()
        .field("model", string(), "Which model.")
        .field("name", string(), "Older name of `model`; one of both is needed.")
        .field("verbose", boolean(), "Lists too.")
        .field("options", map().with("maxProperties", 0), "Only empty.");
    empty(object, &[CHANGES])
}

/// The body of `/api/create`.
pub(crate) fn create_body() -> Object {
    let text = |object: Object, name, help| object.field(name, string(), help);
    let object = Object::new()
        .field("model", string(), "What the model will be called.")
        .field("name", string(), "Older name of `model`; one of both is needed.")
        .field("from", string(), "The model that it is made from; this or `files` is needed.")
        .field("files", map(), "Blobs with weights, sent to /api/blobs before: file names to digests.")
        .field("adapters", map(), "Blobs with LoRA adapters, as GGUF files: file names to digests.")
        .field("license", either([string(), list(string())]), "Licences.")
        .field("parameters", map(), "As PARAMETER in Modelfiles; `stop` may be a list.")
        .field("messages", list(map()), "Messages that open each conversation: `role` and `content`.")
        .field("stream", boolean(), "A line for each step. Default: true.")
        .field("info", map().with("maxProperties", 0), "Only empty.");
    let object = text(object, "template", "The chat template, in Go's language or Jinja.");
    let object = text(object, "system", "The system message.");
    let object = text(object, "requires", "The least version of Ollama.");
    let object = text(object, "renderer", "Kept; the file's own chat template makes the prompts.");
    let object = text(object, "parser", "Kept; answers are read as the chat template shows.");
    empty(object, &[REFUSED_CREATE])
}

/// The body of `/api/copy`.
pub(crate) fn copy_body() -> Schema {
    let object = Object::new().must("source", string(), "Which model.").must(
        "destination",
        string(),
        "Its second name.",
    );
    object.schema()
}

/// The body of `/api/delete`.
pub(crate) fn delete_body() -> Schema {
    let object = Object::new().field("model", string(), "Which model.").field(
        "name",
        string(),
        "Older name of `model`; one of both is needed.",
    );
    object.schema()
}

/// The body of `/api/pull`.
pub(crate) fn pull_body() -> Object {
    push_body().field("update", boolean(), "Replace a model whose content has changed since it was pulled.")
}

/// The body of `/api/push`.
pub(crate) fn push_body() -> Object {
    let nothing = || string().chars(0, 0);
    Object::new()
        .field("model", string(), "Which model, as users name it.")
        .field("name", string(), "Older name of `model`; one of both is needed.")
        .field("insecure", boolean(), "Without encryption, where the operator allows it.")
        .field("stream", boolean(), "Lines, unless it is `false`.")
        .field("username", nothing(), "Only empty.")
        .field("password", nothing(), "Only empty.")
}

/// A line of `/api/pull` and `/api/push`.
pub(crate) fn transfer_line() -> Schema {
    Object::new()
        .field("status", string(), "What is done.")
        .optional("digest", string(), "Of the file that moves on.")
        .optional("total", integer(0, i64::MAX.into()), "Bytes of the file.")
        .optional("completed", integer(0, i64::MAX.into()), "Bytes that are there.")
        .schema()
}

/// Fields that must be empty if they are there.
fn empty(object: Object, tables: &[&[Refused]]) -> Object {
    let nothing = || either([string().chars(0, 0), empty_list()]);
    let tables = tables.iter().copied().flatten();
    tables.fold(object, |object, field| object.field(field.name, nothing(), "Only empty."))
}

fn shared(object: Object) -> Object {
    object
        .field("model", string(), "Which model; without it the default one.")
        .field("stream", boolean(), "Lines, unless it is `false`.")
        .field("format", either([words(&["", "json"]), map()]), "`json`, or a JSON schema.")
        .field("think", either([boolean(), words(&EFFORTS)]), "Whether to think, or how hard.")
        .field("logprobs", boolean(), "Log-probabilities of the answer's tokens.")
        .field("top_logprobs", integer(0, TOP_LOGPROBS_MAX), "So many alternatives with each.")
        .field("options", options(), "How tokens are picked.")
        .field("shift", boolean(), "Whether an answer goes on in a full context, whose oldest tokens make way.")
        .field("keep_alive", duration(), "How long the model stays afterwards, where models come and go: seconds or a duration; below 0 for ever; 0 unloads it, at once without a prompt.")
        .harmless(&[HARMLESS])
        .without(&[REFUSED])
}

/// Seconds, or a duration.
pub(crate) fn duration() -> Schema {
    either([
        any().with("type", "number"),
        matching(&format!("[+-]?({NUMBER}|({NUMBER}(ns|us|µs|μs|ms|s|m|h))+)")),
    ])
}

/// The body of `/api/embed`.
pub(crate) fn embed_body() -> Object {
    let texts = either([string(), list(string()).entries(0, EMBED_INPUTS_MAX)]);
    let object = Object::new()
        .field("input", texts, "A text, or several.")
        .field(
            "truncate",
            boolean(),
            "`false`: a text that is too long is an error; else its end is left out.",
        )
        .field("dimensions", integer(0, DIMENSIONS_MAX), "Only the first so many numbers; 0 is all.");
    embedding(object)
}

/// The body of `/api/embeddings`.
pub(crate) fn embeddings_body() -> Object {
    embedding(Object::new().field("prompt", string(), "The text."))
}

fn embedding(object: Object) -> Object {
    object
        .field("model", string(), "Which model; without it the default one.")
        .field("options", options(), "Checked; only `num_ctx` matters.")
        .field("keep_alive", duration(), "How long the model stays afterwards, where models come and go: seconds or a duration; below 0 for ever; 0 unloads it, at once without a prompt.")
        .harmless(&[HARMLESS_EMBED])
}

/// The reply of `/api/embed`.
pub(crate) fn embed_reply(components: &mut Components) -> Value {
    components.derived::<Embedded>()
}

/// The reply of `/api/embeddings`.
pub(crate) fn embeddings_reply(components: &mut Components) -> Value {
    components.derived::<Single>()
}

/// A number as durations have it.
const NUMBER: &str = r"([0-9]+\.?[0-9]*|\.[0-9]+)";

fn options() -> Schema {
    let most = integer(-2, I32_MAX).with("not", json!({ "const": 0 }));
    sampling(Object::new())
        .field("stop", stop(), "Texts that end the answer.")
        .field("num_predict", most, "The most new tokens; -1 and -2: what the context holds.")
        .field("num_ctx", integer(1, I32_MAX), "The context that the caller counts on.")
        .field(
            "draft_num_predict",
            integer(-1, I32_MAX),
            "Most tokens that are guessed at a time; 0 is none.",
        )
        .harmless(&[HARMLESS_OPTIONS])
        .schema()
}

fn tool() -> Schema {
    let function = Object::new()
        .must("name", string().with("minLength", 1), "")
        .field("description", string(), "")
        .field("parameters", map(), "A JSON schema.")
        .field("strict", boolean(), "Arguments obey the schema.");
    Object::new().field("type", word("function"), "").must("function", function.schema(), "").schema()
}

fn message() -> Schema {
    let of = |roles: &[&str]| Object::new().must("role", words(roles), "").field("name", string(), "");
    let nothing = || string().chars(0, 0);
    let images = |object: Object| empty(object, &[IMAGES]);
    let said = |object: Object| {
        images(object).must("content", string(), "").field("thinking", nothing(), "").field(
            "tool_calls",
            empty_list(),
            "",
        )
    };
    let call = {
        let function = Object::new()
            .must("name", string().with("minLength", 1), "")
            .field("index", integer(0, i128::from(u32::MAX)), "Without effect.")
            .field("arguments", map(), "");
        Object::new()
            .field("id", string(), "")
            .field("type", word("function"), "")
            .must("function", function.schema(), "")
            .schema()
    };
    let unanswering = |object: Object| object.fields(&["tool_call_id", "tool_name"], &nothing(), "");
    let assistant = images(of(&["assistant"]))
        .field("content", string(), "")
        .field("thinking", string(), "What the model thought.")
        .field("tool_calls", list(call).entries(0, PARTS_MAX), "");
    either([
        unanswering(said(of(&["system", "user", "developer"]))).schema(),
        unanswering(assistant).schema(),
        said(of(&["tool"]))
            .field("tool_call_id", string(), "Which call this answers.")
            .field("tool_name", string(), "The function's name.")
            .schema(),
    ])
}

/// A line of an answer of `/api/generate`, or all of it.
pub(crate) fn generate_reply(components: &mut Components) -> Value {
    components.derived::<GenerateLine>()
}

/// The same of `/api/chat`.
pub(crate) fn chat_reply(components: &mut Components) -> Value {
    components.derived::<ChatLine>()
}

/// The list of models.
pub(crate) fn tags(components: &mut Components) -> Value {
    let models = components.derived::<Tag>();
    components.put("OllamaModelList", || listed(models))
}

/// The list of models in memory.
pub(crate) fn running(components: &mut Components) -> Value {
    let models = components.derived::<Running>();
    components.put("OllamaRunningList", || listed(models))
}

fn listed(models: Value) -> Schema {
    Object::new().must("models", list(Schema::of(models)), "").schema()
}

/// A model's page.
pub(crate) fn page(components: &mut Components) -> Value {
    components.derived::<Show>()
}

/// The version whose API this is.
pub(crate) fn version() -> Schema {
    Object::new().must("version", string(), "").schema()
}

/// An error, in a reply and as a line.
pub(crate) fn error() -> Schema {
    Object::new().must("error", string(), "What happened, to what, and what to do.").schema()
}
