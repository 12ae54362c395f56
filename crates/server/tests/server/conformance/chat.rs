//! Cases as OpenAI's chat completions.

use serde_json::{Map, Value, json};

use super::neutral::{Answer, Call, Case, Choice, Finish, Format, Kind, Thinking, Tool, Turn};
use super::{Dialect, Said};
use crate::client::Reply;

pub const DIALECT: Dialect = Dialect {
    name: "chat completions",
    route: "/v1/chat/completions",
    say,
    field,
    read,
    read_stream,
    kind,
    names_stop: true,
};

fn say(case: &Case, stream: bool) -> Said {
    let system = case.system.map(|text| json!({ "role": "system", "content": text }));
    let messages: Vec<Value> = system.into_iter().chain(case.turns.iter().map(turn)).collect();
    let mut body = json!({ "messages": messages, "temperature": case.temperature });
    let mut put = |name: &str, value: Value| body[name] = value;
    if case.continues() {
        put("continue_final_message", json!(true));
    }
    if stream {
        put("stream", json!(true));
        put("stream_options", json!({ "include_usage": true }));
    }
    if !case.tools.is_empty() {
        put(
            "tools",
            case.tools.iter().map(|t| json!({ "type": "function", "function": function(t) })).collect(),
        );
    }
    match case.choice {
        Choice::Auto => {}
        Choice::None => put("tool_choice", json!("none")),
        Choice::Required => put("tool_choice", json!("required")),
        Choice::Named(name) => {
            put("tool_choice", json!({ "type": "function", "function": { "name": name } }));
        }
    }
    if case.one_call {
        put("parallel_tool_calls", json!(false));
    }
    match &case.format {
        None => {}
        Some(Format::Json) => put("response_format", json!({ "type": "json_object" })),
        Some(Format::Schema(schema)) => {
            let named = json!({ "name": "answer", "schema": schema, "strict": true });
            put("response_format", json!({ "type": "json_schema", "json_schema": named }));
        }
    }
    match case.thinking {
        Thinking::Unsaid => {}
        Thinking::On => put("enable_thinking", json!(true)),
        Thinking::Off => put("enable_thinking", json!(false)),
        Thinking::Budget(tokens) => put("thinking", json!({ "type": "enabled", "budget_tokens": tokens })),
        Thinking::Effort(word) => put("reasoning_effort", json!(word)),
    }
    if !case.stop.is_empty() {
        put("stop", json!(case.stop));
    }
    put_numbers(case, "max_completion_tokens", &mut put);
    Ok(body)
}

/// What several dialects say alike.
pub fn put_numbers(case: &Case, max_tokens: &str, put: &mut impl FnMut(&str, Value)) {
    if let Some(model) = case.model {
        put("model", json!(model));
    }
    if let Some(n) = case.max_tokens {
        put(max_tokens, json!(n));
    }
    if let Some(seed) = case.seed {
        put("seed", json!(seed));
    }
    if let Some(k) = case.top_k {
        put("top_k", json!(k));
    }
    if let Some(p) = case.top_p {
        put("top_p", json!(p));
    }
}

fn turn(turn: &Turn) -> Value {
    match turn {
        Turn::User(text) => json!({ "role": "user", "content": text }),
        Turn::Assistant { thoughts, text, calls } => {
            let mut message = json!({ "role": "assistant" });
            if !text.is_empty() || calls.is_empty() {
                message["content"] = json!(text);
            }
            if !thoughts.is_empty() {
                message["reasoning_content"] = json!(thoughts);
            }
            if !calls.is_empty() {
                message["tool_calls"] = calls.iter().map(call).collect();
            }
            message
        }
        Turn::Result { id, text, .. } => json!({ "role": "tool", "tool_call_id": id, "content": text }),
    }
}

fn call(call: &Call) -> Value {
    let arguments = call.arguments.to_string();
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
}

/// A function in OpenAI's shape.
pub fn function(tool: &Tool) -> Value {
    let mut function = json!({
        "name": tool.name, "description": tool.description, "parameters": tool.schema,
    });
    if tool.strict {
        function["strict"] = json!(true);
    }
    function
}

fn field(neutral: &str) -> Option<&'static str> {
    Some(match neutral {
        "role" => "messages[0].role",
        "content" => "messages[0].content",
        "conversation" => "messages",
        "tool" => "tools[0]",
        "tool name" => "tools[0].function.name",
        "second tool name" => "tools[1].function.name",
        "tool schema" => "tools[0].function.parameters",
        "tools" => "tools",
        "tool choice" => "tool_choice",
        "format" => "response_format",
        "format schema" => "response_format.json_schema.schema",
        "max tokens" => "max_completion_tokens",
        "stop" => "stop",
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

/// Calls whose arguments are whole; one that was cut short is none.
pub fn whole_calls(calls: impl Iterator<Item = (String, String)>) -> Vec<(String, Value)> {
    let whole = |(name, text): (String, String)| {
        let text = if text.is_empty() { "{}" } else { &text };
        Some((name, serde_json::from_str::<Map<String, Value>>(text).ok()?.into()))
    };
    calls.filter_map(whole).collect()
}

fn finish(reason: &Value, stopped_by: &Value) -> Finish {
    match (reason.as_str(), stopped_by.as_str()) {
        (Some("stop"), None) => Finish::Stop,
        (Some("stop"), Some(text)) => Finish::StopString(text.to_owned()),
        (Some("length"), _) => Finish::Length,
        (Some("tool_calls"), _) => Finish::Calls,
        other => panic!("{other:?} is no reason"),
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn read(body: &Value) -> Answer {
    let choice = &body["choices"][0];
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |c: &Value| (text(&c["function"]["name"]), text(&c["function"]["arguments"]));
    assert_eq!(message["reasoning_content"], message["reasoning"], "both names say the same");
    Answer {
        thoughts: text(&message["reasoning_content"]),
        text: text(&message["content"]),
        calls: whole_calls(calls.iter().map(call)),
        finish: finish(&choice["finish_reason"], &choice["stop_reason"]),
        prompt_tokens: count(&body["usage"]["prompt_tokens"]),
        completion_tokens: count(&body["usage"]["completion_tokens"]),
    }
}

fn read_stream(reply: &Reply) -> Answer {
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let (mut thoughts, mut said, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
    let (mut end, mut usage) = (None, Value::Null);
    for event in &events {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
        let Some(choice) = chunk["choices"].get(0) else { continue };
        assert!(end.is_none(), "nothing follows the end: {event}");
        let delta = &choice["delta"];
        thoughts += &text(&delta["reasoning_content"]);
        said += &text(&delta["content"]);
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = count(&piece["index"]) as usize;
            if index == calls.len() {
                assert!(piece["id"].is_string(), "a call begins with its id: {event}");
                calls.push((text(&piece["function"]["name"]), String::new()));
            }
            calls[index].1 += &text(&piece["function"]["arguments"]);
        }
        if !choice["finish_reason"].is_null() {
            end = Some(finish(&choice["finish_reason"], &choice["stop_reason"]));
        }
    }
    Answer {
        thoughts,
        text: said,
        calls: whole_calls(calls.into_iter()),
        finish: end.expect("an end"),
        prompt_tokens: count(&usage["prompt_tokens"]),
        completion_tokens: count(&usage["completion_tokens"]),
    }
}

/// OpenAI's errors, on all its routes.
pub fn kind(status: u16, body: &Value) -> Kind {
    let error = &body["error"];
    match (status, error["code"].as_str()) {
        (400, Some("context_length_exceeded")) => Kind::TooLong,
        (400, _) if error["type"] == "invalid_request_error" => Kind::Invalid,
        (401, Some("invalid_api_key")) => Kind::Unauthorized,
        (404, Some("model_not_found")) => Kind::UnknownModel,
        (415, Some("unsupported_media_type")) => Kind::MediaType,
        (429, Some("rate_limit_exceeded")) => Kind::Overloaded,
        (status, _) => Kind::Other(status),
    }
}
