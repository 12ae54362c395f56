//! The descriptions against the parsers, and the document against the committed one.

use std::collections::{BTreeMap, BTreeSet};

use ingle_chat::Principal;
use serde_json::{Map, Value, json};

use super::schema::Schema;
use crate::fields::trace::{self, Kind};
use crate::openai::refused::{REFUSED, REFUSED_CHAT, REFUSED_COMPLETION, Refused};
use crate::openai::responses::refused::{HARMLESS_RESPONSES, REFUSED_RESPONSES};
use crate::openai::{Caller, batches, chat, completion, completion_schema, embeddings, responses};
use crate::{RequestError, anthropic, native, ollama};

#[test]
fn the_committed_document_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == super::document(), "run `ingle openapi > docs/openapi.json`");
}

#[test]
fn names_are_unique_and_references_lead_somewhere() {
    let document = super::build();
    let mut ids = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id), "{method} {path}: a second `{id}`");
        }
    }
    let described: usize = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|p| p.as_object().map_or(0, Map::len))
        .sum();
    assert_eq!(described, super::operations().len(), "an operation is described twice");
    check_references(&document, &document);
}

fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("references stay within");
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            assert_ne!(map.get("anyOf"), Some(&json!([])), "a field accepts nothing: {value}");
            map.values().for_each(|v| check_references(document, v));
        }
        Value::Array(list) => list.iter().for_each(|v| check_references(document, v)),
        _ => {}
    }
}

#[test]
fn examples_are_read() {
    let document = super::build();
    let example = |path: &str| {
        let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"];
        assert!(body.is_object() || body.is_array(), "{path} has no example");
        body.to_string().into_bytes()
    };
    let readers: &[(&str, Read)] = &[
        ("/v1/chat/completions", |body| chat::parse(body, caller()).map(|_| ())),
        ("/chat/completions", |body| chat::parse(body, caller()).map(|_| ())),
        ("/apply-template", |body| chat::parse(body, caller()).map(|_| ())),
        ("/v1/completions", |body| completion::parse(body, caller()).map(|_| ())),
        ("/v1/responses", |body| responses::parse(body, caller()).map(|_| ())),
        ("/v1/messages", |body| anthropic::messages::parse(body, caller()).map(|_| ())),
        ("/v1/messages/count_tokens", |body| anthropic::messages::parse_count(body, caller()).map(|_| ())),
        ("/api/generate", |body| ollama::Route::Generate.parse(body, caller()).map(|_| ())),
        ("/api/chat", |body| ollama::Route::Chat.parse(body, caller()).map(|_| ())),
        ("/api/create", |body| ollama::create::CreateCall::parse(body).map(|_| ())),
        ("/api/pull", |body| ollama::transfer::TransferCall::pull(body).map(|_| ())),
        ("/api/push", |body| ollama::transfer::TransferCall::push(body).map(|_| ())),
        ("/api/copy", |body| ollama::models::CopyCall::parse(body).map(|_| ())),
        ("/api/show", |body| ollama::models::ShowCall::parse(body).map(|_| ())),
        ("/generate", |body| native::generate::parse(body, caller()).map(|_| ())),
        ("/tokenize", |body| native::tokens::parse_tokenize(body, caller()).map(|_| ())),
        ("/v1/tokenize", |body| native::tokens::parse_tokenize(body, caller()).map(|_| ())),
        ("/detokenize", |body| native::tokens::parse_detokenize(body).map(|_| ())),
        ("/v1/detokenize", |body| native::tokens::parse_detokenize(body).map(|_| ())),
        ("/v1/embeddings", |body| embeddings::parse(body, caller()).map(|_| ())),
        ("/embeddings", |body| embeddings::parse(body, caller()).map(|_| ())),
        ("/embedding", |body| embeddings::parse(body, caller()).map(|_| ())),
        ("/v1/rerank", |body| native::rerank::parse_rerank(body, caller()).map(|_| ())),
        ("/v2/rerank", |body| native::rerank::parse_rerank(body, caller()).map(|_| ())),
        ("/rerank", |body| native::rerank::parse_rerank(body, caller()).map(|_| ())),
        ("/v1/reranking", |body| native::rerank::parse_rerank(body, caller()).map(|_| ())),
        ("/reranking", |body| native::rerank::parse_rerank(body, caller()).map(|_| ())),
        ("/v1/score", |body| native::rerank::parse_score(body, caller()).map(|_| ())),
        ("/score", |body| native::rerank::parse_score(body, caller()).map(|_| ())),
        ("/v1/batches", |body| batches::parse(body).map(|_| ())),
        ("/api/embed", |body| ollama::EmbedRoute::Embed.parse(body, caller()).map(|_| ())),
        ("/api/embeddings", |body| ollama::EmbedRoute::Embeddings.parse(body, caller()).map(|_| ())),
        ("/infill", |body| native::infill::parse(body, caller()).map(|_| ())),
        ("/lora-adapters", |body| native::adapters::parse_scales(body).map(|_| ())),
        ("/v1/load_lora_adapter", |body| native::adapters::parse_load(body).map(|_| ())),
        ("/v1/unload_lora_adapter", |body| native::adapters::parse_unload(body).map(|_| ())),
        ("/load_lora_adapter", |body| native::adapters::parse_sglang_load(body).map(|_| ())),
        ("/unload_lora_adapter", |body| native::adapters::parse_unload(body).map(|_| ())),
        ("/flush_cache", |body| native::server::parse_flush(body).map(|_| ())),
        ("/models/load", |body| native::server::ChangeCall::parse(body, true).map(|_| ())),
        ("/models/unload", |body| native::server::ChangeCall::parse(body, false).map(|_| ())),
        ("/models/reload", |body| native::server::ChangeCall::parse(body, false).map(|_| ())),
    ];
    for (path, read) in readers {
        read(&example(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let with_bodies = document["paths"].as_object().expect("paths").values();
    let takes_json =
        |operations: &&Value| operations["post"]["requestBody"]["content"]["application/json"].is_object();
    let n_bodies = with_bodies.filter(takes_json).count();
    assert_eq!(n_bodies, readers.len(), "a body is described that is not read here");
}

/// Reads a body, and says what is wrong with it.
type Read = fn(&[u8]) -> Result<(), RequestError>;

/// Fields that a parser looks for only to refuse them: those of tables, under a prefix, and others by their path.
struct Refusals<'a> {
    tables: &'a [(&'a str, &'a [Refused])],
    others: &'a [&'a str],
}

/// Runs a parser over valid bodies, which together have every kind of object that it takes, and compares what it
/// looked for with what is described.
#[track_caller]
fn check(schema: Schema, read: Read, refusals: &Refusals, bodies: &[Value]) {
    let mut taken: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
    for body in bodies {
        let notes = trace::of(|| {
            if let Err(e) = read(body.to_string().as_bytes()) {
                panic!("{body}: {e}");
            }
        });
        for (path, kind) in notes {
            taken.entry(without_places(&path)).or_default().push(kind);
        }
    }
    let mut described: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    walk(&schema.into_value(), "", &mut described);
    let refused: BTreeSet<String> = refusals
        .tables
        .iter()
        .flat_map(|(prefix, table)| table.iter().map(move |field| format!("{prefix}{}", field.name)))
        .chain(refusals.others.iter().map(|path| (*path).to_owned()))
        .collect();
    for (path, kinds) in &taken {
        match (described.get(path), refused.contains(path)) {
            (None, true) => {}
            (None, false) => panic!("`{path}` is taken and not described"),
            (Some(_), true) => panic!("`{path}` is refused and described"),
            (Some(schemas), false) => schemas.iter().for_each(|schema| check_kinds(path, schema, kinds)),
        }
    }
    if let Some(path) = described.keys().find(|path| !taken.contains_key(*path)) {
        panic!("`{path}` is described and not taken, or no body here has its object");
    }
}

/// `messages[0].content` as `messages[].content`.
fn without_places(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        format!("{path}[{rest}")
    })
}

/// Notes every field of objects that take no others.
fn walk(schema: &Value, path: &str, described: &mut BTreeMap<String, Vec<Value>>) {
    for branch in schema["anyOf"].as_array().into_iter().flatten() {
        walk(branch, path, described);
    }
    if schema["additionalProperties"] == false {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(field, &path, described);
            described.entry(path).or_default().push(field.clone());
        }
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), described);
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The kinds of values that a schema allows, `null` left out; none if it says nothing about kinds.
fn kinds_of(schema: &Value) -> BTreeSet<String> {
    let own = match &schema["type"] {
        Value::String(kind) => vec![kind.clone()],
        Value::Array(kinds) => kinds.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect(),
        _ => schema["enum"].as_array().into_iter().flatten().map(|v| kind_of(v).to_owned()).collect(),
    };
    let branches = schema["anyOf"].as_array().into_iter().flatten().flat_map(kinds_of);
    own.into_iter().chain(branches).filter(|kind| kind != "null").collect()
}

#[track_caller]
fn check_kinds(path: &str, schema: &Value, kinds: &[Kind]) {
    let typed: Vec<&Kind> = kinds.iter().filter(|kind| **kind != Kind::Any).collect();
    // Whatever is taken as some kind is noted as taken at all, too.
    let is_only_typed = kinds.len() == 2 * typed.len();
    let described = kinds_of(schema);
    let (mut least, mut most) = (f64::NEG_INFINITY, f64::INFINITY);
    for kind in typed {
        let name = match kind {
            Kind::Any => continue,
            Kind::Bool => "boolean",
            Kind::String => "string",
            Kind::List => "array",
            Kind::Object => "object",
            Kind::Integer(min, max) => {
                (least, most) = (least.max(*min as f64), most.min(*max as f64));
                "integer"
            }
            Kind::Number(min, max) => {
                (least, most) = (least.max(*min), most.min(*max));
                "number"
            }
        };
        let fits = described.contains(name) && (described.len() == 1 || !is_only_typed);
        assert!(fits, "`{path}` is taken as {name} and described as {described:?}");
    }
    if let (Some(min), Some(max)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        assert_eq!((min, max), (least, most), "the bounds of `{path}`");
    }
}

fn caller() -> Caller {
    Caller { id: "id".into(), principal: Principal::local() }
}

/// An object with the fields of both.
fn merged(one: &Value, other: &Value) -> Value {
    let mut all = one.as_object().expect("an object").clone();
    all.extend(other.as_object().expect("an object").clone());
    Value::Object(all)
}

/// Every kind of constraint.
fn constraints() -> Vec<Value> {
    let tag = json!({
        "type": "structural_tag", "structures": [{ "begin": "<f>", "schema": {}, "end": "</f>" }],
        "triggers": ["<f>"],
    });
    vec![
        json!({ "response_format": { "type": "text" } }),
        json!({ "response_format": { "type": "json_object" } }),
        json!({ "response_format": { "type": "json_schema", "schema": {} } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {} } } }),
        json!({ "response_format": tag }),
        json!({ "structural_tag": tag }),
        json!({ "structured_outputs": { "structural_tag": tag } }),
        json!({ "structured_outputs": { "regex": "a" } }),
    ]
}

const TAG_FORMATS: [&str; 3] =
    ["response_format.format", "structural_tag.format", "structured_outputs.structural_tag.format"];

/// Bodies of chat that have every kind of object.
fn chats() -> Vec<Value> {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let messages = json!([
        { "role": "system", "content": "a" },
        { "role": "developer", "content": "a" },
        { "role": "user", "content": [{ "type": "text", "text": "b" }] },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "content": "c", "tool_call_id": "c" },
    ]);
    let base = json!({
        "messages": messages,
        "tools": [{ "type": "function", "function": { "name": "f" } }],
        "reasoning": { "effort": "low" },
        "stream_options": { "include_usage": true },
        "logit_bias": { "5": 1 },
        "lora": [{ "id": 0, "scale": 1 }],
    });
    let named = json!({ "type": "function", "function": { "name": "f" } });
    let allowed = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [named] } });
    let more = [
        json!({ "tool_choice": named, "thinking": { "type": "enabled" } }),
        json!({ "tool_choice": allowed }),
        json!({ "prediction": { "type": "content", "content": "x" } }),
        json!({ "prediction": { "type": "content", "content": [{ "type": "text", "text": "x" }] } }),
    ];
    more.iter().chain(&constraints()).map(|more| merged(&base, more)).collect()
}

#[test]
fn chat_bodies() {
    let read: Read = |body| chat::parse(body, caller()).map(|_| ());
    let refusals = Refusals { tables: &[("", REFUSED), ("", REFUSED_CHAT)], others: &TAG_FORMATS };
    check(chat::schema::body().schema(), read, &refusals, &chats());
}

#[test]
fn completion_bodies() {
    let read: Read = |body| completion::parse(body, caller()).map(|_| ());
    let refusals = Refusals { tables: &[("", REFUSED), ("", REFUSED_COMPLETION)], others: &TAG_FORMATS };
    let base = json!({ "prompt": "a", "stream_options": {}, "lora": [{ "id": 0, "scale": 1 }] });
    let bodies: Vec<Value> = constraints().iter().map(|more| merged(&base, more)).collect();
    check(completion_schema::body().schema(), read, &refusals, &bodies);
}

#[test]
fn response_bodies() {
    let read: Read = |body| responses::parse(body, caller()).map(|_| ());
    // This route takes some that the others refuse, with values that change nothing.
    let is_taken = |field: &&Refused| HARMLESS_RESPONSES.iter().any(|taken| taken.name == field.name);
    let shared: Vec<Refused> = REFUSED.iter().filter(|field| !is_taken(field)).copied().collect();
    let refusals = Refusals {
        tables: &[("", &shared), ("", REFUSED_RESPONSES)],
        others: &["input[].encrypted_content"],
    };
    let text = |kind: &str| json!([{ "type": kind, "text": "a" }]);
    let items = json!([
        { "role": "user", "content": text("input_text") },
        { "type": "reasoning", "summary": text("summary_text"), "content": text("reasoning_text") },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": text("input_text") },
    ]);
    let base = json!({
        "input": items,
        "tools": [{ "type": "function", "name": "f" }],
        "tool_choice": { "type": "function", "name": "f" },
        "reasoning": { "effort": "low" },
        "stream_options": {},
    });
    let schema = json!({ "type": "json_schema", "name": "n", "schema": {} });
    let formats = [json!({ "type": "text" }), json!({ "type": "json_object" }), schema];
    let bodies: Vec<Value> =
        formats.iter().map(|format| merged(&base, &json!({ "text": { "format": format } }))).collect();
    check(responses::schema::body().schema(), read, &refusals, &bodies);
}

/// Bodies of messages that have every kind of object.
fn messages() -> Vec<Value> {
    let text = json!([{ "type": "text", "text": "a" }]);
    let base = json!({
        "max_tokens": 9,
        "system": text,
        "messages": [
            { "role": "user", "content": text },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "t" }, { "type": "text", "text": "a" },
                { "type": "tool_use", "id": "c", "name": "f", "input": {} },
            ] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "c", "content": text }] },
            { "role": "system", "content": text },
            { "role": "user", "content": "b" },
        ],
        "tools": [{ "name": "f", "input_schema": { "type": "object" } }],
        "metadata": { "user_id": "u" },
        "lora": [{ "id": 0, "scale": 1 }],
        "output_config": { "format": { "type": "json_schema", "schema": {} } },
        "output_format": { "type": "json_schema", "schema": {} },
    });
    let edits = |keep: Value| {
        let edit = json!({ "type": "clear_thinking_20251015", "keep": keep });
        json!({ "context_management": { "edits": [edit] } })
    };
    let more = [
        json!({ "tool_choice": { "type": "auto" }, "thinking": { "type": "adaptive" } }),
        json!({ "tool_choice": { "type": "tool", "name": "f" }, "thinking": { "type": "enabled" } }),
        json!({ "tool_choice": { "type": "none" }, "thinking": { "type": "disabled" } }),
        edits(json!("all")),
        edits(json!({ "type": "all" })),
        edits(json!({ "type": "thinking_turns", "value": 1 })),
    ];
    more.iter().map(|more| merged(&base, more)).collect()
}

#[test]
fn message_bodies() {
    use anthropic::messages::{parse, parse_count};
    let refusals = Refusals { tables: &[("", anthropic::refused::REFUSED)], others: &[] };
    let read: Read = |body| parse(body, caller()).map(|_| ());
    check(anthropic::schema::body().schema(), read, &refusals, &messages());
    let count: Read = |body| parse_count(body, caller()).map(|_| ());
    check(anthropic::schema::count_body().schema(), count, &refusals, &messages());
}

#[test]
fn ollama_bodies() {
    use ollama::Route;
    use ollama::refused::{REFUSED, REFUSED_CHAT, REFUSED_GENERATE, REFUSED_OPTIONS};
    let options = json!({ "options": { "num_predict": 3 } });
    let generate: Read = |body| Route::Generate.parse(body, caller()).map(|_| ());
    let refusals = Refusals {
        tables: &[("", REFUSED), ("", REFUSED_GENERATE), ("options.", REFUSED_OPTIONS)],
        others: &[],
    };
    let schema = ollama::schema::generate_body().schema();
    check(schema, generate, &refusals, &[merged(&json!({ "prompt": "a" }), &options)]);

    let chat: Read = |body| Route::Chat.parse(body, caller()).map(|_| ());
    let refusals =
        Refusals { tables: &[("", REFUSED), ("", REFUSED_CHAT), ("options.", REFUSED_OPTIONS)], others: &[] };
    let body = json!({
        "messages": [
            { "role": "user", "content": "a" },
            { "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": {} } }] },
            { "role": "tool", "content": "b" },
        ],
        "tools": [{ "type": "function", "function": { "name": "f" } }],
    });
    check(ollama::schema::chat_body().schema(), chat, &refusals, &[merged(&body, &options)]);

    let show: Read = |body| ollama::models::ShowCall::parse(body).map(|_| ());
    let refusals = Refusals { tables: &[], others: &[] };
    check(ollama::schema::show_body().schema(), show, &refusals, &[json!({ "model": "m" })]);
}

#[test]
fn native_bodies() {
    use native::generate::{REFUSED_GENERATE, parse};
    use native::tokens::{parse_detokenize, parse_tokenize};
    let tags = TAG_FORMATS.map(|path| format!("sampling_params.{path}"));
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let refusals = Refusals { tables: &[("", REFUSED_GENERATE)], others: &tags };
    let generate: Read = |body| parse(body, caller()).map(|_| ());
    let bodies: Vec<Value> =
        constraints().iter().map(|params| json!({ "text": "a", "sampling_params": params })).collect();
    check(native::schema::generate_body(), generate, &refusals, &bodies);

    let tokenize: Read = |body| parse_tokenize(body, caller()).map(|_| ());
    // Beside `messages` it is refused; here it can be what becomes tokens.
    let beside: Vec<Refused> = REFUSED_CHAT.iter().filter(|field| field.name != "prompt").copied().collect();
    let refusals = Refusals { tables: &[("", REFUSED), ("", &beside)], others: &TAG_FORMATS };
    let mut bodies = chats();
    bodies.extend([json!({ "content": "a" }), json!({ "prompt": "a" })]);
    check(native::schema::tokenize_body(), tokenize, &refusals, &bodies);

    let detokenize: Read = |body| parse_detokenize(body).map(|_| ());
    let refusals = Refusals { tables: &[], others: &[] };
    check(native::schema::detokenize_body(), detokenize, &refusals, &[json!({ "tokens": [1] })]);
}

#[test]
fn bodies_of_vectors() {
    use native::rerank::{REFUSED_RERANK, parse_rerank, parse_score};
    let read: Read = |body| embeddings::parse(body, caller()).map(|_| ());
    let refusals = Refusals { tables: &[("", embeddings::REFUSED_EMBEDDINGS)], others: &[] };
    let bodies = [json!({ "input": "a", "encoding_format": "base64" }), json!({ "content": ["a"] })];
    check(crate::openai::embeddings_schema::body(), read, &refusals, &bodies);

    let refusals = Refusals { tables: &[("", REFUSED_RERANK)], others: &[] };
    let rerank: Read = |body| parse_rerank(body, caller()).map(|_| ());
    let bodies = [json!({ "query": "a", "documents": ["b", { "text": "c" }] })];
    check(native::schema::rerank_body(), rerank, &refusals, &bodies);
    let score: Read = |body| parse_score(body, caller()).map(|_| ());
    let bodies = ["text_2", "documents", "items", "data_2"]
        .map(|second| ["text_1", "queries", "data_1"].map(|first| json!({ first: "a", second: ["b"] })));
    check(native::schema::score_body(), score, &refusals, bodies.as_flattened());

    use ollama::EmbedRoute;
    use ollama::refused::{REFUSED_EMBED, REFUSED_EMBEDDINGS, REFUSED_OPTIONS};
    let options = json!({ "options": { "num_ctx": 3 } });
    let embed: Read = |body| EmbedRoute::Embed.parse(body, caller()).map(|_| ());
    let refusals = Refusals { tables: &[("", REFUSED_EMBED), ("options.", REFUSED_OPTIONS)], others: &[] };
    let bodies = [merged(&json!({ "input": ["a"] }), &options)];
    check(ollama::schema::embed_body().schema(), embed, &refusals, &bodies);
    let embeddings: Read = |body| EmbedRoute::Embeddings.parse(body, caller()).map(|_| ());
    let refusals =
        Refusals { tables: &[("", REFUSED_EMBEDDINGS), ("options.", REFUSED_OPTIONS)], others: &[] };
    let bodies = [merged(&json!({ "prompt": "a" }), &options)];
    check(ollama::schema::embeddings_body().schema(), embeddings, &refusals, &bodies);
}

#[test]
fn bodies_of_batches_and_infilling() {
    let read: Read = |body| batches::parse(body).map(|_| ());
    let none = Refusals { tables: &[], others: &[] };
    let body = json!({
        "input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {},
        "output_expires_after": { "anchor": "created_at", "seconds": 3600 },
    });
    check(crate::openai::batches_schema::body().schema(), read, &none, &[body]);

    let infill: Read = |body| native::infill::parse(body, caller()).map(|_| ());
    let refusals = Refusals { tables: &[("", native::infill::REFUSED_INFILL)], others: &TAG_FORMATS };
    let base = json!({
        "input_prefix": "a", "input_suffix": "b", "input_extra": [{ "text": "c" }], "lora": [{ "id": 0, "scale": 1 }],
    });
    let bodies: Vec<Value> = constraints().iter().map(|more| merged(&base, more)).collect();
    check(native::schema::infill_body(), infill, &refusals, &bodies);

    let flush: Read = |body| native::server::parse_flush(body).map(|_| ());
    check(native::schema::flush_body(), flush, &none, &[json!({ "empty_cache": true })]);

    let load: Read = |body| native::server::ChangeCall::parse(body, true).map(|_| ());
    let named = json!({ "model": "a", "keep_alive": "5m" });
    check(native::schema::load_body(), load, &none, &[named]);
    let change: Read = |body| native::server::ChangeCall::parse(body, false).map(|_| ());
    check(native::schema::change_body(), change, &none, &[json!({ "model": "a" })]);
}

#[test]
fn bodies_of_adapters() {
    use native::adapters::{parse_load, parse_scales, parse_sglang_load, parse_unload};
    use native::schema;
    let none = Refusals { tables: &[], others: &[] };
    let scales: Read = |body| parse_scales(body).map(|_| ());
    check(crate::lora::schema(), scales, &none, &[json!([{ "id": 0, "scale": 1 }])]);
    let load: Read = |body| parse_load(body).map(|_| ());
    let body = json!({ "lora_name": "a", "lora_path": "b" });
    check(schema::load_adapter_body(), load, &none, std::slice::from_ref(&body));
    let load: Read = |body| parse_sglang_load(body).map(|_| ());
    check(schema::sglang_load_body(), load, &none, &[body]);
    let unload: Read = |body| parse_unload(body).map(|_| ());
    check(schema::unload_adapter_body(), unload, &none, &[json!({ "lora_name": "a" })]);
}
