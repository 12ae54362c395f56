//! What is written of answers.

use ingle_chat::{Delta, Event, FinishReason, Usage};
use serde_json::{Value, json};

use super::super::{MessageCollector, MessageEncoder, prompt_too_long};
use super::read;
use crate::StreamEncoder;
use crate::openai::{Envelope, ErrorObject};

/// The body and the stream of an answer, after `message_start` and without what repeats in all of them.
fn written(more: Value, events: &[Event]) -> (Value, Vec<String>) {
    let call = read(more).expect("valid");
    let envelope =
        Envelope { id: "msg_1".into(), created: 5, model: "shown".into(), fingerprint: "fp".into() };
    let mut collector = MessageCollector::new(envelope.clone(), &call);
    let mut encoder = MessageEncoder::new(envelope, &call);
    let mut out = String::new();
    let started = Event::Started { prompt_tokens: 9, seed: 1 };
    for event in std::iter::once(&started).chain(events) {
        let delta = Delta { choice: 0, event: event.clone() };
        collector.push(&delta);
        encoder.push(0, &delta, &mut out);
    }
    encoder.finish(&mut out);
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\
                 \"message\",\"role\":\"assistant\",\"model\":\"shown\",\"content\":[],\"stop_reason\":null,\
                 \"stop_sequence\":null,\"usage\":{\"input_tokens\":9,\"cache_creation_input_tokens\":0,\
                 \"cache_read_input_tokens\":0,\"output_tokens\":0}}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n";
    let rest = out.strip_prefix(start).unwrap_or_else(|| panic!("{out}"));
    let body = serde_json::from_str(&collector.finish().expect("it finished")).expect("JSON");
    let events = rest.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').expect("two lines");
        let name = name.strip_prefix("event: ").expect("the event's name");
        let data = data.strip_prefix("data: ").expect("the event's data");
        let prefix = format!("{{\"type\":\"{name}\"");
        data.strip_prefix(&prefix)
            .map(|rest| format!("{name} {{{}", rest.trim_start_matches(',')))
            .expect(data)
    });
    (body, events.collect())
}

fn text(text: &str) -> Event {
    Event::Text { text: text.into(), logprobs: Vec::new() }
}

fn thought(text: &str) -> Event {
    Event::Reasoning { text: text.into(), logprobs: Vec::new() }
}

fn arguments(index: u32, json: &str) -> Event {
    Event::ToolArguments { index, json: json.into() }
}

fn done(reason: FinishReason) -> [Event; 2] {
    let usage = Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, ..Usage::default() };
    [Event::Finished(reason), Event::Done(usage)]
}

const USAGE: &str = "\"usage\":{\"input_tokens\":5,\"cache_creation_input_tokens\":0,\
                     \"cache_read_input_tokens\":4,\"output_tokens\":3}}";

#[track_caller]
fn check_answer(more: Value, events: &[Event], content: Value, stop: (&str, Option<&str>), stream: &[&str]) {
    let (body, written) = written(more, events);
    let expected = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "shown", "content": content,
        "stop_reason": stop.0, "stop_sequence": stop.1,
        "usage": {
            "input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 3,
        },
    });
    assert_eq!(body.to_string(), expected.to_string());
    let end = format!(
        "message_delta {{\"delta\":{{\"stop_reason\":\"{}\",\"stop_sequence\":{}}},{USAGE}",
        stop.0,
        json!(stop.1)
    );
    let expected: Vec<&str> = stream.iter().copied().chain([end.as_str(), "message_stop {}"]).collect();
    assert_eq!(written, expected);
}

#[test]
fn answers() {
    let [finished, usage] = done(FinishReason::Stop { matched: None });
    check_answer(
        json!({}),
        &[text(""), text("Hel"), text(""), text("lo\n\"you\""), finished.clone(), usage.clone()],
        json!([{ "type": "text", "text": "Hello\n\"you\"" }]),
        ("end_turn", None),
        &[
            r#"content_block_start {"index":0,"content_block":{"type":"text","text":""}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"text_delta","text":"Hel"}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"text_delta","text":"lo\n\"you\""}}"#,
            r#"content_block_stop {"index":0}"#,
        ],
    );
    check_answer(json!({}), &[finished.clone(), usage.clone()], json!([]), ("end_turn", None), &[]);
    check_answer(
        json!({}),
        &[thought("Hm"), thought("."), text("Yes."), finished.clone(), usage.clone()],
        json!([
            { "type": "thinking", "thinking": "Hm.", "signature": "aW5nbGUtdW5zaWduZWQ=" },
            { "type": "text", "text": "Yes." },
        ]),
        ("end_turn", None),
        &[
            r#"content_block_start {"index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"thinking_delta","thinking":"."}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"signature_delta","signature":"aW5nbGUtdW5zaWduZWQ="}}"#,
            r#"content_block_stop {"index":0}"#,
            r#"content_block_start {"index":1,"content_block":{"type":"text","text":""}}"#,
            r#"content_block_delta {"index":1,"delta":{"type":"text_delta","text":"Yes."}}"#,
            r#"content_block_stop {"index":1}"#,
        ],
    );
    check_answer(
        json!({ "thinking": { "type": "adaptive", "display": "omitted" } }),
        &[thought("Hm"), finished, usage],
        json!([{ "type": "thinking", "thinking": "", "signature": "aW5nbGUtdW5zaWduZWQ=" }]),
        ("end_turn", None),
        &[
            r#"content_block_start {"index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"signature_delta","signature":"aW5nbGUtdW5zaWduZWQ="}}"#,
            r#"content_block_stop {"index":0}"#,
        ],
    );
}

#[test]
fn answers_with_calls() {
    let [finished, usage] = done(FinishReason::ToolCalls);
    let call = |index, id: Option<&str>, name: &str| Event::ToolCall {
        index,
        id: id.map(str::to_owned),
        name: name.into(),
    };
    check_answer(
        json!({}),
        &[
            text("Look:"),
            call(0, None, "f"),
            arguments(0, "{\"b\": 1,"),
            arguments(0, " \"a\": [2]}"),
            call(1, Some("own"), "g"),
            finished,
            usage,
        ],
        json!([
            { "type": "text", "text": "Look:" },
            { "type": "tool_use", "id": "toolu_1_0", "name": "f", "input": { "b": 1, "a": [2] } },
            { "type": "tool_use", "id": "own", "name": "g", "input": {} },
        ]),
        ("tool_use", None),
        &[
            r#"content_block_start {"index":0,"content_block":{"type":"text","text":""}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"text_delta","text":"Look:"}}"#,
            r#"content_block_stop {"index":0}"#,
            r#"content_block_start {"index":1,"content_block":{"type":"tool_use","id":"toolu_1_0","name":"f","input":{}}}"#,
            r#"content_block_delta {"index":1,"delta":{"type":"input_json_delta","partial_json":"{\"b\": 1,"}}"#,
            r#"content_block_delta {"index":1,"delta":{"type":"input_json_delta","partial_json":" \"a\": [2]}"}}"#,
            r#"content_block_stop {"index":1}"#,
            r#"content_block_start {"index":2,"content_block":{"type":"tool_use","id":"own","name":"g","input":{}}}"#,
            r#"content_block_stop {"index":2}"#,
        ],
    );
    let [finished, usage] = done(FinishReason::Length);
    check_answer(
        json!({ "max_tokens": 3 }),
        &[call(0, None, "f"), arguments(0, "{\"b\": 1,"), finished, usage],
        json!([{ "type": "tool_use", "id": "toolu_1_0", "name": "f", "input": { "INVALID_JSON": "{\"b\": 1," } }]),
        ("max_tokens", None),
        &[
            r#"content_block_start {"index":0,"content_block":{"type":"tool_use","id":"toolu_1_0","name":"f","input":{}}}"#,
            r#"content_block_delta {"index":0,"delta":{"type":"input_json_delta","partial_json":"{\"b\": 1,"}}"#,
            r#"content_block_stop {"index":0}"#,
        ],
    );
}

#[test]
fn ends() {
    let stops = json!({ "stop_sequences": ["END", "x"] });
    let matched = |text: &str| FinishReason::Stop { matched: Some(text.into()) };
    for (more, reason, expected) in [
        (stops.clone(), matched("x"), ("stop_sequence", Some("x"))),
        // A token that ends an answer is no sequence.
        (stops, matched("<|end|>"), ("end_turn", None)),
        (json!({ "max_tokens": 3 }), FinishReason::Length, ("max_tokens", None)),
        // More was allowed, so it was the context.
        (json!({ "max_tokens": 4 }), FinishReason::Length, ("model_context_window_exceeded", None)),
    ] {
        check_answer(more, &done(reason), json!([]), expected, &[]);
    }
}

#[test]
fn failures_are_events() {
    let call = read(json!({})).expect("valid");
    let envelope = Envelope { id: "msg_1".into(), created: 5, model: "m".into(), fingerprint: "fp".into() };
    let mut encoder = MessageEncoder::new(envelope.clone(), &call);
    assert_eq!(encoder.keep_alive(), Some("event: ping\ndata: {\"type\": \"ping\"}\n\n"));
    let mut out = String::new();
    encoder.fail(&ErrorObject::loading(), &mut out);
    assert_eq!(
        out,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Loading \
         model\"}}\n\n"
    );
    // An answer that ends without saying so is no answer.
    let mut out = String::new();
    encoder.finish(&mut out);
    assert!(out.starts_with("event: error\n") && out.contains("api_error"), "{out}");
    assert_eq!(MessageCollector::new(envelope, &call).finish(), None);
    let error = prompt_too_long(5000, 4095);
    assert!(error.message.starts_with("prompt is too long: 5000 tokens > 4095 maximum"), "{error}");
}
