//! Cases as OpenAI's responses.

use serde_json::{Value, json};

use super::chat::{count, kind, put_numbers, text, whole_calls};
use super::neutral::{Answer, Call, Case, Choice, Finish, Format, Thinking, Tool, Turn};
use super::{Dialect, Said};
use crate::client::Reply;

pub const DIALECT: Dialect = Dialect {
    name: "responses",
    route: "/v1/responses",
    say,
    field,
    read,
    read_stream,
    kind,
    names_stop: false,
};

fn say(case: &Case, stream: bool) -> Said {
    if case.continues() {
        return Err("a response is always a new message");
    }
    let items: Vec<Value> = case.turns.iter().flat_map(items).collect();
    let mut body = json!({ "input": items, "temperature": case.temperature, "store": false });
    let mut put = |name: &str, value: Value| body[name] = value;
    if let Some(text) = case.system {
        put("instructions", json!(text));
    }
    if stream {
        put("stream", json!(true));
    }
    if !case.tools.is_empty() {
        put("tools", case.tools.iter().map(tool).collect());
    }
    match case.choice {
        Choice::Auto => {}
        Choice::None => put("tool_choice", json!("none")),
        Choice::Required => put("tool_choice", json!("required")),
        Choice::Named(name) => put("tool_choice", json!({ "type": "function", "name": name })),
    }
    if case.one_call {
        put("parallel_tool_calls", json!(false));
    }
    match &case.format {
        None => {}
        Some(Format::Json) => put("text", json!({ "format": { "type": "json_object" } })),
        Some(Format::Schema(schema)) => {
            let format = json!({ "type": "json_schema", "name": "answer", "schema": schema, "strict": true });
            put("text", json!({ "format": format }));
        }
    }
    match case.thinking {
        Thinking::Unsaid => {}
        Thinking::On | Thinking::Budget(_) => return Err("it only says how hard to think"),
        Thinking::Off => put("reasoning", json!({ "effort": "none" })),
        Thinking::Effort(word) => put("reasoning", json!({ "effort": word })),
    }
    if !case.stop.is_empty() {
        put("stop", json!(case.stop));
    }
    put_numbers(case, "max_output_tokens", &mut put);
    Ok(body)
}

fn items(turn: &Turn) -> Vec<Value> {
    match turn {
        Turn::User(text) => vec![json!({ "role": "user", "content": text })],
        Turn::Assistant { thoughts, text, calls } => {
            let mut items = Vec::new();
            if !thoughts.is_empty() {
                let content = json!([{ "type": "reasoning_text", "text": thoughts }]);
                items.push(json!({ "type": "reasoning", "summary": [], "content": content }));
            }
            if !text.is_empty() {
                let content = json!([{ "type": "output_text", "text": text }]);
                items.push(json!({ "type": "message", "role": "assistant", "content": content }));
            }
            items.extend(calls.iter().map(call));
            items
        }
        Turn::Result { id, text, .. } => {
            vec![json!({ "type": "function_call_output", "call_id": id, "output": text })]
        }
    }
}

fn call(call: &Call) -> Value {
    let arguments = call.arguments.to_string();
    json!({ "type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments })
}

fn tool(tool: &Tool) -> Value {
    let mut body = json!({
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema,
    });
    if tool.strict {
        body["strict"] = json!(true);
    }
    body
}

fn field(neutral: &str) -> Option<&'static str> {
    Some(match neutral {
        "role" => "input[0].role",
        "content" => "input[0].content",
        "conversation" => "input",
        "tool" => "tools[0]",
        "tool name" => "tools[0].name",
        "second tool name" => "tools[1].name",
        "tool schema" => "tools[0].parameters",
        "tools" => "tools",
        "tool choice" => "tool_choice",
        "format" => "text.format",
        "format schema" => "text.format.schema",
        "max tokens" => "max_output_tokens",
        "stop" => "stop",
        "stream" => "stream",
        "model" => "model",
        "temperature" => "temperature",
        "top_p" => "top_p",
        "top_k" => "top_k",
        "seed" => "seed",
        "unknown" => "frobnicate",
        "unknown in a message" => "input[0].frobnicate",
        _ => return None,
    })
}

fn read(body: &Value) -> Answer {
    let items = || body["output"].as_array().expect("items").iter();
    let parts = |kind: &str| -> String {
        items().filter(|item| item["type"] == kind).map(|item| text(&item["content"][0]["text"])).collect()
    };
    let calls: Vec<&Value> = items().filter(|item| item["type"] == "function_call").collect();
    let has_calls = !calls.is_empty();
    let finish = match body["status"].as_str() {
        Some("completed") if has_calls => Finish::Calls,
        Some("completed") => Finish::Stop,
        Some("incomplete") => {
            assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
            Finish::Length
        }
        other => panic!("{other:?} is no end"),
    };
    Answer {
        thoughts: parts("reasoning"),
        text: parts("message"),
        calls: whole_calls(calls.into_iter().map(|c| (text(&c["name"]), text(&c["arguments"])))),
        finish,
        prompt_tokens: count(&body["usage"]["input_tokens"]),
        completion_tokens: count(&body["usage"]["output_tokens"]),
    }
}

fn read_stream(reply: &Reply) -> Answer {
    let lines = reply.body.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let pieces = |kind: &str| -> String {
        events.iter().filter(|e| e["type"] == kind).map(|e| text(&e["delta"])).collect()
    };
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number as u64);
    }
    let whole = &events.last().expect("events")["response"];
    let answer = read(whole);
    assert_eq!(pieces("response.output_text.delta"), answer.text);
    assert_eq!(pieces("response.reasoning_text.delta"), answer.thoughts);
    let calls =
        whole["output"].as_array().expect("items").iter().filter(|item| item["type"] == "function_call");
    let arguments: String = calls.map(|call| text(&call["arguments"])).collect();
    assert_eq!(pieces("response.function_call_arguments.delta"), arguments);
    answer
}
