//! Cases as Anthropic's messages.

use serde_json::{Value, json};

use super::chat::{count, put_numbers, text, whole_calls};
use super::neutral::{Answer, Case, Choice, Finish, Format, Kind, Thinking, Tool, Turn};
use super::{Dialect, Said};
use crate::client::Reply;

pub const DIALECT: Dialect = Dialect {
    name: "messages",
    route: "/v1/messages",
    say,
    field,
    read,
    read_stream,
    kind,
    names_stop: true,
};

/// What clients send that have no limit in mind: the dialect wants one.
const MAX_TOKENS: u32 = 4096;

fn say(case: &Case, stream: bool) -> Said {
    let mut messages: Vec<Value> = Vec::new();
    for turn in &case.turns {
        let (role, blocks) = blocks(turn);
        match messages.last_mut() {
            // Results of one turn stand together.
            Some(last) if last["role"] == role => {
                let list = last["content"].as_array_mut().expect("blocks");
                list.extend(blocks);
            }
            _ => messages.push(json!({ "role": role, "content": blocks })),
        }
    }
    if let [message] = messages.as_mut_slice() {
        // The short form.
        message["content"] = message["content"][0]["text"].take();
    }
    let mut body = json!({ "messages": messages, "max_tokens": MAX_TOKENS, "temperature": case.temperature });
    let mut put = |name: &str, value: Value| body[name] = value;
    if let Some(text) = case.system {
        put("system", json!(text));
    }
    if stream {
        put("stream", json!(true));
    }
    if !case.tools.is_empty() {
        put("tools", case.tools.iter().map(tool).collect());
    }
    let choice = match case.choice {
        Choice::Auto if case.one_call => Some(json!({ "type": "auto" })),
        Choice::Auto => None,
        Choice::None => Some(json!({ "type": "none" })),
        Choice::Required => Some(json!({ "type": "any" })),
        Choice::Named(name) => Some(json!({ "type": "tool", "name": name })),
    };
    if let Some(mut choice) = choice {
        if case.one_call {
            choice["disable_parallel_tool_use"] = json!(true);
        }
        put("tool_choice", choice);
    }
    match &case.format {
        None => {}
        Some(Format::Json) => return Err("a format is a schema"),
        Some(Format::Schema(schema)) => {
            put("output_config", json!({ "format": { "type": "json_schema", "schema": schema } }));
        }
    }
    match case.thinking {
        Thinking::Unsaid => {}
        Thinking::On => put("thinking", json!({ "type": "enabled" })),
        Thinking::Off => put("thinking", json!({ "type": "disabled" })),
        Thinking::Budget(tokens) => put("thinking", json!({ "type": "enabled", "budget_tokens": tokens })),
        Thinking::Effort(word) => put("output_config", json!({ "effort": word })),
    }
    if !case.stop.is_empty() {
        put("stop_sequences", json!(case.stop));
    }
    put_numbers(case, "max_tokens", &mut put);
    Ok(body)
}

fn blocks(turn: &Turn) -> (&'static str, Vec<Value>) {
    match turn {
        Turn::User(text) => ("user", vec![json!({ "type": "text", "text": text })]),
        Turn::Assistant { thoughts, text, calls } => {
            let mut blocks = Vec::new();
            if !thoughts.is_empty() {
                blocks.push(json!({ "type": "thinking", "thinking": thoughts, "signature": "" }));
            }
            if !text.is_empty() {
                blocks.push(json!({ "type": "text", "text": text }));
            }
            blocks.extend(
                calls
                    .iter()
                    .map(|c| json!({ "type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments })),
            );
            ("assistant", blocks)
        }
        Turn::Result { id, text, .. } => {
            ("user", vec![json!({ "type": "tool_result", "tool_use_id": id, "content": text })])
        }
    }
}

fn tool(tool: &Tool) -> Value {
    let mut body = json!({ "name": tool.name, "description": tool.description, "input_schema": tool.schema });
    if tool.strict {
        body["strict"] = json!(true);
    }
    body
}

fn field(neutral: &str) -> Option<&'static str> {
    Some(match neutral {
        "role" => "messages[0].role",
        "content" => "messages[0].content",
        "conversation" => "messages",
        "tool" => "tools[0]",
        "tool name" => "tools[0].name",
        "second tool name" => "tools[1].name",
        "tool schema" => "tools[0].input_schema",
        "tools" => "tools",
        "tool choice" => "tool_choice",
        "format" => "output_config.format",
        "format schema" => "output_config.format.schema",
        "max tokens" => "max_tokens",
        "stop" => "stop_sequences",
        "stream" => "stream",
        "model" => "model",
        "temperature" => "temperature",
        "top_p" => "top_p",
        "top_k" => "top_k",
        "seed" => "seed",
        "unknown" => "frobnicate",
        "unknown in a message" => "messages[0].frobnicate",
        _ => return None,
    })
}

fn finish(reason: &Value, sequence: &Value) -> Finish {
    match reason.as_str() {
        Some("end_turn") => Finish::Stop,
        Some("stop_sequence") => Finish::StopString(text(sequence)),
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("tool_use") => Finish::Calls,
        other => panic!("{other:?} is no reason"),
    }
}

/// What came out of the cache is counted apart.
fn prompt_tokens(usage: &Value) -> u64 {
    count(&usage["input_tokens"]) + count(&usage["cache_read_input_tokens"])
}

fn read(body: &Value) -> Answer {
    let blocks = || body["content"].as_array().expect("blocks").iter();
    let texts = |kind: &str, name: &str| -> String {
        blocks().filter(|b| b["type"] == kind).map(|b| text(&b[name])).collect()
    };
    // One that was cut short stands under this name.
    let is_whole = |b: &&Value| b["type"] == "tool_use" && b["input"].get("INVALID_JSON").is_none();
    Answer {
        thoughts: texts("thinking", "thinking"),
        text: texts("text", "text"),
        calls: blocks().filter(is_whole).map(|b| (text(&b["name"]), b["input"].clone())).collect(),
        finish: finish(&body["stop_reason"], &body["stop_sequence"]),
        prompt_tokens: prompt_tokens(&body["usage"]),
        completion_tokens: count(&body["usage"]["output_tokens"]),
    }
}

fn read_stream(reply: &Reply) -> Answer {
    let (mut thoughts, mut said, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
    let (mut open, mut n_blocks, mut end) = (None, 0, None);
    let mut names = Vec::new();
    for line in reply.body.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let kind = text(&event["type"]);
        match kind.as_str() {
            "ping" | "message_start" | "message_stop" => {}
            "content_block_start" => {
                assert_eq!((open, &event["index"]), (None, &json!(n_blocks)), "{line}");
                open = Some(n_blocks);
                n_blocks += 1;
                let block = &event["content_block"];
                if block["type"] == "tool_use" {
                    calls.push((text(&block["name"]), String::new()));
                }
            }
            "content_block_delta" => {
                assert_eq!(json!(open), event["index"], "{line}");
                let delta = &event["delta"];
                match delta["type"].as_str() {
                    Some("thinking_delta") => thoughts += &text(&delta["thinking"]),
                    Some("text_delta") => said += &text(&delta["text"]),
                    Some("input_json_delta") => {
                        calls.last_mut().expect("a call").1 += &text(&delta["partial_json"]);
                    }
                    Some("signature_delta") => {}
                    other => panic!("{other:?} is no piece"),
                }
            }
            "content_block_stop" => {
                assert_eq!(json!(open.take()), event["index"], "{line}");
            }
            "message_delta" => {
                assert!(end.is_none() && open.is_none(), "one end, after all blocks");
                let delta = &event["delta"];
                let usage = event["usage"].clone();
                end = Some((finish(&delta["stop_reason"], &delta["stop_sequence"]), usage));
            }
            other => panic!("{other} is no event"),
        }
        names.push(kind);
    }
    assert_eq!(names.first().map(String::as_str), Some("message_start"));
    assert_eq!(names.last().map(String::as_str), Some("message_stop"));
    let (finish, usage) = end.expect("an end");
    Answer {
        thoughts,
        text: said,
        calls: whole_calls(calls.into_iter()),
        finish,
        prompt_tokens: prompt_tokens(&usage),
        completion_tokens: count(&usage["output_tokens"]),
    }
}

fn kind(status: u16, body: &Value) -> Kind {
    assert_eq!(body["type"], "error");
    let error = &body["error"];
    match (status, error["type"].as_str()) {
        (400, Some("invalid_request_error")) if text(&error["message"]).starts_with("prompt is too long") => {
            Kind::TooLong
        }
        (400, Some("invalid_request_error")) => Kind::Invalid,
        (401, Some("authentication_error")) => Kind::Unauthorized,
        (404, Some("not_found_error")) => Kind::UnknownModel,
        (415, Some("invalid_request_error")) => Kind::MediaType,
        (529, Some("overloaded_error")) => Kind::Overloaded,
        (status, _) => Kind::Other(status),
    }
}
