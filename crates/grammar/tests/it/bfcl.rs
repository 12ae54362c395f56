//! The Berkeley function calling leaderboard's cases, where they are there: tools of all sorts must compile as calls
//! that are forced, and take the calls that are right.

use ingle_chat::Format;
use ingle_chat::ToolChoice;
use ingle_chat::output::{Output, OutputContext, OutputFormat, Piece};
use serde_json::{Map, Value, json};

use crate::common::{compiler, shared, small, takes_text};

const FILES: [&str; 5] = ["simple_python", "live_simple", "multiple", "parallel", "parallel_multiple"];
/// Cases whose calls are not what their own tools' schemas ask for, and why.
const UNLIKE_THEIR_SCHEMA: &[(&str, &str)] = &[
    ("simple_python_307", "true where a text is wanted"),
    ("live_simple_71-35-0", "a list that has to be one of some texts"),
    ("live_simple_112-68-0", "empty lists that are required, and count as left out here"),
    ("parallel_multiple_21", "a text where a list of numbers is wanted"),
    ("parallel_multiple_94", "texts where numbers are wanted"),
];

/// How a family writes calls.
struct Spelling {
    name: &'static str,
    /// What is telling in its template.
    template: &'static str,
    write: fn(&[(String, Value)]) -> String,
}

const SPELLINGS: [Spelling; 3] = [
    Spelling {
        name: "tagged JSON",
        template: "{{ tools | tojson }}<tool_call>{\"name\": \"arguments\"}</tool_call>",
        write: |calls| {
            let call = |(name, arguments): &(String, Value)| {
                let name = json!(name);
                format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>")
            };
            calls.iter().map(call).collect::<Vec<_>>().join("\n")
        },
    },
    Spelling {
        name: "a list of JSON",
        template: "{{ tools | tojson }}[TOOL_CALLS]",
        write: |calls| {
            let call = |(name, arguments): &(String, Value)| {
                let name = json!(name);
                format!("{{\"name\": {name}, \"arguments\": {arguments}, \"id\": \"abcDEF123\"}}")
            };
            format!("[TOOL_CALLS][{}]", calls.iter().map(call).collect::<Vec<_>>().join(", "))
        },
    },
    Spelling {
        name: "a name and JSON",
        template: "{{ tools | tojson }}[TOOL_CALLS]f[ARGS]{}",
        write: |calls| {
            let call = |(name, arguments): &(String, Value)| format!("[TOOL_CALLS]{name}[ARGS]{arguments}");
            calls.iter().map(call).collect()
        },
    },
];

/// The leaderboard names types as Python does.
fn as_json_schema(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut schema = Map::new();
            for (key, value) in map {
                let value = match (key.as_str(), value.as_str()) {
                    ("type", Some("dict")) => json!("object"),
                    ("type", Some("float")) => json!("number"),
                    ("type", Some("tuple")) => json!("array"),
                    ("type", Some("any")) => continue,
                    // What a call leaves out unless it says so, in prose.
                    ("default" | "optional" | "format", _) => continue,
                    _ => as_json_schema(value),
                };
                schema.insert(key.clone(), value);
            }
            schema.into()
        }
        Value::Array(list) => list.iter().map(as_json_schema).collect(),
        other => other.clone(),
    }
}

/// The first of the values that are right and that the schema knows; `None` leaves the argument out.
fn first_right(accepted: &Value, schema: &Value) -> Option<Value> {
    let is_known = |v: &&Value| schema["enum"].as_array().is_none_or(|list| list.contains(v));
    let says_something = |v: &&Value| !v.is_null() && **v != json!("");
    let first = accepted.as_array()?.iter().filter(says_something).find(is_known)?;
    Some(right(first, schema))
}

fn right(value: &Value, schema: &Value) -> Value {
    match (value, schema["properties"].as_object()) {
        (Value::Object(map), Some(properties)) => {
            let ordered = properties.iter().filter_map(|(name, part)| Some((name, map.get(name)?, part)));
            ordered
                .filter_map(|(name, accepted, part)| Some((name.clone(), first_right(accepted, part)?)))
                .collect()
        }
        // Their values, too, are lists of those that are right.
        (Value::Object(map), None) => {
            let right = |(name, v): (&String, &Value)| {
                let first = v.as_array().and_then(|list| list.first()).unwrap_or(v);
                (name.clone(), first.clone())
            };
            map.iter().map(right).collect()
        }
        (Value::Array(list), _) => list.iter().map(|v| right(v, &schema["items"])).collect(),
        (other, _) => other.clone(),
    }
}

fn calls(case: &Value, tools: &[Value]) -> Vec<(String, Value)> {
    let call = |entry: &Value| {
        let (name, accepted) = entry.as_object().expect("a call").iter().next().expect("its name");
        let tool = tools.iter().find(|t| t["function"]["name"] == **name).expect("one of the tools");
        let schema = &tool["function"]["parameters"];
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let argument =
            |(name, part): (&String, &Value)| Some((name.clone(), first_right(accepted.get(name)?, part)?));
        (name.clone(), properties.iter().filter_map(argument).collect::<Map<_, _>>().into())
    };
    case["ground_truth"].as_array().expect("a list").iter().map(call).collect()
}

fn read_back(format: &OutputFormat, tools: &[Value], text: &str) -> Vec<(String, Value)> {
    let context = OutputContext { tools, prompt_end: "", reasoning_in_text: false };
    let mut parser = format.parser(&context);
    let mut outputs = Vec::new();
    parser.push(Piece::Text(text), &mut outputs);
    parser.finish(&mut outputs);
    let mut calls: Vec<(String, String)> = Vec::new();
    for output in outputs {
        match output {
            Output::ToolCall { name, .. } => calls.push((name, String::new())),
            Output::ToolArguments { index, json } => calls[index as usize].1 += &json,
            Output::Content(_) | Output::Reasoning(_) => {}
        }
    }
    let parsed =
        |(name, text): (String, String)| (name, serde_json::from_str(&text).expect("arguments are JSON"));
    calls.into_iter().map(parsed).collect()
}

#[test]
fn right_calls_are_taken_and_read() {
    let (compiler, tokenizer) = (compiler(), small());
    let formats: Vec<OutputFormat> = SPELLINGS.iter().map(|s| OutputFormat::detect(s.template)).collect();
    let (mut n, mut faults) = (0, Vec::new());
    for file in FILES {
        let Some(path) = shared(&format!("toolcalls/bfcl/{file}.jsonl")) else { return };
        let text = std::fs::read_to_string(path).expect("it can be read");
        // Some of them; `ALL` is all.
        let step = if std::env::var_os("ALL").is_some() { 1 } else { 5 };
        for line in text.lines().step_by(step) {
            let case: Value = serde_json::from_str(line).expect("JSON");
            let id = case["id"].as_str().expect("an id");
            let tools: Vec<Value> = case["function"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|f| json!({ "type": "function", "function": as_json_schema(f) }))
                .collect();
            let calls = calls(&case, &tools);
            for (spelling, format) in SPELLINGS.iter().zip(&formats) {
                let written = (spelling.write)(&calls);
                assert_eq!(
                    read_back(format, &tools, &written),
                    calls,
                    "{id} as {}: {written}",
                    spelling.name
                );
                let rule =
                    format.tool_rule(&tools, &ToolChoice::Required, false).expect("calls can be forced");
                n += 1;
                let is_unlike = UNLIKE_THEIR_SCHEMA.iter().any(|(known, _)| *known == id);
                let fault = match compiler.compile(&Format::Rule(rule)) {
                    Err(error) => Some(error.to_string()),
                    Ok(grammar) if takes_text(&grammar, &tokenizer, &written) => None,
                    Ok(_) => Some(format!("{written} is not taken")),
                };
                match fault {
                    None => assert!(!is_unlike, "{id} is like its schema now"),
                    Some(fault) if !is_unlike => faults.push(format!("{id} as {}: {fault}", spelling.name)),
                    Some(_) => {}
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {n}:\n{}", faults.len(), faults.join("\n"));
    assert!(n > 400, "{n}");
}

/// Questions that no tool answers: what is no call is read as none.
#[test]
fn tools_that_do_not_fit_need_not_be_called() {
    let Some(path) = shared("toolcalls/bfcl/irrelevance.jsonl") else { return };
    let compiler = compiler();
    let text = std::fs::read_to_string(path).expect("it can be read");
    for line in text.lines().step_by(7) {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let question = case["question"][0][0]["content"].as_str().expect("a question");
        let strict = |f: &Value| {
            let mut function = as_json_schema(f);
            function["strict"] = json!(true);
            json!({ "type": "function", "function": function })
        };
        let tools: Vec<Value> = case["function"].as_array().expect("a list").iter().map(strict).collect();
        for spelling in &SPELLINGS {
            let format = OutputFormat::detect(spelling.template);
            let said = format!("No tool can help: {question}");
            assert_eq!(read_back(&format, &tools, &said), [], "{said}");
            let rule = format.tool_rule(&tools, &ToolChoice::Auto, false).expect("they are strict");
            let grammar = compiler.compile(&Format::Rule(rule));
            let grammar = grammar.unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
            assert!(takes_text(&grammar, &small(), &said), "{said}");
        }
    }
}
