//! Cases as Ollama's chat.

use serde_json::{Map, Value, json};

use super::chat::{count, function, put_numbers, text};
use super::neutral::{Answer, Call, Case, Choice, Finish, Format, Kind, Thinking, Turn};
use super::{Dialect, Said};
use crate::client::Reply;

pub const DIALECT: Dialect = Dialect {
    name: "Ollama's chat",
    route: "/api/chat",
    say,
    field,
    read,
    read_stream,
    kind,
    names_stop: false,
};

fn say(case: &Case, stream: bool) -> Said {
    match case.choice {
        Choice::Auto if case.one_call => return Err("it cannot ask for one call at most"),
        Choice::Auto => {}
        Choice::None | Choice::Required | Choice::Named(_) => return Err("it has no choice of tools"),
    }
    let system = case.system.map(|text| json!({ "role": "system", "content": text }));
    let messages: Vec<Value> = system.into_iter().chain(case.turns.iter().map(turn)).collect();
    let mut body = json!({ "messages": messages, "stream": stream });
    if !case.tools.is_empty() {
        body["tools"] =
            case.tools.iter().map(|t| json!({ "type": "function", "function": function(t) })).collect();
    }
    match &case.format {
        None => {}
        Some(Format::Json) => body["format"] = json!("json"),
        Some(Format::Schema(schema)) => body["format"] = schema.clone(),
    }
    match case.thinking {
        Thinking::Unsaid => {}
        Thinking::On => body["think"] = json!(true),
        Thinking::Off => body["think"] = json!(false),
        Thinking::Budget(_) => return Err("it has no budget of thoughts"),
        Thinking::Effort(word) => body["think"] = json!(word),
    }
    let mut options = Map::new();
    options.insert("temperature".into(), json!(case.temperature));
    if !case.stop.is_empty() {
        options.insert("stop".into(), json!(case.stop));
    }
    put_numbers(case, "num_predict", &mut |name, value| {
        _ = if name == "model" {
            body[name] = value;
            None
        } else {
            options.insert(name.into(), value)
        };
    });
    body["options"] = Value::Object(options);
    Ok(body)
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
                message["thinking"] = json!(thoughts);
            }
            if !calls.is_empty() {
                message["tool_calls"] = calls.iter().map(call).collect();
            }
            message
        }
        Turn::Result { id, name, text } => {
            json!({ "role": "tool", "tool_name": name, "tool_call_id": id, "content": text })
        }
    }
}

fn call(call: &Call) -> Value {
    json!({ "id": call.id, "function": { "name": call.name, "arguments": call.arguments } })
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
        "format" | "format schema" => "format",
        "max tokens" => "options.num_predict",
        "stop" => "options.stop",
        "stream" => "stream",
        "model" => "model",
        "temperature" => "options.temperature",
        "top_p" => "options.top_p",
        "top_k" => "options.top_k",
        "seed" => "options.seed",
        "unknown" => "frobnicate",
        "unknown in a message" => "messages[0].frobnicate",
        _ => return None,
    })
}

/// Calls are a stop like others here.
fn finish(reason: &Value, has_calls: bool) -> Finish {
    match reason.as_str() {
        Some("stop") if has_calls => Finish::Calls,
        Some("stop") => Finish::Stop,
        Some("length") => Finish::Length,
        other => panic!("{other:?} is no reason"),
    }
}

fn read(body: &Value) -> Answer {
    read_lines(std::slice::from_ref(body))
}

fn read_stream(reply: &Reply) -> Answer {
    let lines: Vec<Value> = reply.body.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    read_lines(&lines)
}

fn read_lines(lines: &[Value]) -> Answer {
    let (last, before) = lines.split_last().expect("lines");
    assert!(last["done"] == true && before.iter().all(|l| l["done"] == false), "the last line is the end");
    let said = |name: &str| -> String { lines.iter().map(|l| text(&l["message"][name])).collect() };
    let calls = lines.iter().flat_map(|l| l["message"]["tool_calls"].as_array().into_iter().flatten());
    let calls: Vec<(String, Value)> =
        calls.map(|c| (text(&c["function"]["name"]), c["function"]["arguments"].clone())).collect();
    Answer {
        thoughts: said("thinking"),
        text: said("content"),
        finish: finish(&last["done_reason"], !calls.is_empty()),
        calls,
        prompt_tokens: count(&last["prompt_eval_count"]),
        completion_tokens: count(&last["eval_count"]),
    }
}

/// There is only a status and a text.
fn kind(status: u16, body: &Value) -> Kind {
    let message = body["error"].as_str().expect("a text");
    match status {
        400 if message.contains("the context holds") => Kind::TooLong,
        400 => Kind::Invalid,
        401 => Kind::Unauthorized,
        404 => Kind::UnknownModel,
        415 => Kind::MediaType,
        503 if message.contains("waiting already") => Kind::Overloaded,
        status => Kind::Other(status),
    }
}
