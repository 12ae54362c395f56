//! `/v1/chat/completions`.

use serde_json::{Value, json};

use crate::client::start;
use crate::fixtures::check;

const ROUTE: &str = "/v1/chat/completions";

fn body(text: &str, more: Value) -> Value {
    let mut body = json!({ "model": "scripted", "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn fixture(name: &str, text: &str, more: Value) {
    let server = start().await;
    let reply = server.post_json(ROUTE, body(text, more.clone())).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let stream = more["stream"] == true;
    let kind = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    assert_eq!(reply.header("content-type"), Some(kind));
    check(name, &reply.body);
}

#[tokio::test]
async fn whole() {
    fixture("chat.json", "hi", json!({})).await;
}

#[tokio::test]
async fn streamed() {
    fixture("chat.sse", "hi", json!({ "stream": true, "max_tokens": 4 })).await;
}

#[tokio::test]
async fn streamed_with_usage_and_logprobs() {
    let more = json!({
        "stream": true, "stream_options": { "include_usage": true }, "logprobs": true, "top_logprobs": 1,
        "max_completion_tokens": 2, "max_tokens": 2,
    });
    fixture("chat_usage_logprobs.sse", "hi", more).await;
}

#[tokio::test]
async fn several_choices_and_stop() {
    fixture("chat_n_stop.json", "hi", json!({ "n": 2, "stop": ["said", "zzz"], "logprobs": true })).await;
    fixture("chat_n_stop.sse", "hi", json!({ "n": 2, "stop": "ou", "stream": true })).await;
}

#[tokio::test]
async fn thoughts_and_calls() {
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } });
    let more = |stream: bool| json!({ "tools": [tool], "stream": stream });
    fixture("chat_call.json", "!call", more(false)).await;
    fixture("chat_call.sse", "!call", more(true)).await;
    fixture("chat_think.json", "!think", json!({})).await;
    let more = json!({ "stream": true, "stream_options": { "include_usage": true }, "max_tokens": 2 });
    fixture("chat_think.sse", "!think", more).await;
}

/// Joined, what is streamed is what comes as a whole: of thoughts, text and their tokens.
#[tokio::test]
async fn tokens_of_thoughts() {
    let server = start().await;
    let ask = async |more: Value| server.post_json(ROUTE, body("!think", more)).await;
    let whole = ask(json!({ "logprobs": true })).await.json();
    let reply = ask(json!({ "logprobs": true, "stream": true })).await;
    let (mut thoughts, mut tokens, mut tokens_of_thoughts) = (String::new(), Vec::new(), 0);
    for event in reply.events().iter().filter(|e| *e != "[DONE]") {
        let event: Value = serde_json::from_str(event).expect("each event is JSON");
        let choice = &event["choices"][0];
        let more = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        if let Some(thought) = choice["delta"]["reasoning_content"].as_str() {
            assert_eq!(choice["delta"]["reasoning"], thought);
            thoughts += thought;
            tokens_of_thoughts += more.len();
        }
        tokens.extend(more);
    }
    assert_eq!((thoughts.as_str(), tokens_of_thoughts), ("Hm, so.", 7));
    assert_eq!(whole["choices"][0]["message"]["reasoning_content"], thoughts);
    assert_eq!(whole["choices"][0]["logprobs"]["content"], Value::from(tokens));
    // Left out, with their tokens.
    let hidden = ask(json!({ "logprobs": true, "include_reasoning": false })).await.json();
    let choice = &hidden["choices"][0];
    assert_eq!(choice["message"].get("reasoning_content"), None);
    assert_eq!(choice["logprobs"]["content"].as_array().map(Vec::len), Some("You said: !think".len()));
}

#[tokio::test]
async fn processing_time() {
    let server = start().await;
    for (stream, has_time) in [(false, true), (true, false)] {
        let reply = server.post_json(ROUTE, body("hi", json!({ "stream": stream }))).await;
        let ms = reply.header("openai-processing-ms");
        assert_eq!(ms.is_some_and(|ms| ms.parse::<u64>().is_ok()), has_time);
    }
}

#[tokio::test]
async fn whole_characters_in_every_event() {
    let server = start().await;
    let text = "aé€\u{1F600}\u{10FFFF}\u{0}";
    let reply = server.post_json(ROUTE, body(text, json!({ "stream": true, "logprobs": true }))).await;
    let mut streamed = String::new();
    let mut bytes = Vec::new();
    for event in reply.events().iter().filter(|e| *e != "[DONE]") {
        let event: Value = serde_json::from_str(event).expect("each event is JSON");
        let choice = &event["choices"][0];
        streamed += choice["delta"]["content"].as_str().unwrap_or_default();
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
        }
    }
    assert_eq!(streamed, format!("You said: {text}"));
    assert_eq!(bytes, streamed.as_bytes(), "bytes are exact where texts of tokens are not");
    // Cut inside a character: one replacement character, once.
    let cut = server.post_json(ROUTE, body("€", json!({ "max_tokens": 11 }))).await.json();
    assert_eq!(cut["choices"][0]["message"]["content"], "You said: \u{fffd}");
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn messages_of_all_kinds() {
    let server = start().await;
    let messages = json!([
        { "role": "developer", "content": "Be brief.", "name": "dev" },
        { "role": "user", "content": [{ "type": "text", "text": "What " }, { "type": "text", "text": "time?" }] },
        // A reply, sent back as clients do it.
        { "role": "assistant", "content": null, "refusal": null, "annotations": [], "audio": null,
          "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "now", "arguments": "{\"tz\": 1}" } }] },
        { "role": "tool", "tool_call_id": "c1", "content": "noon" },
    ]);
    let reply = server.post_json(ROUTE, json!({ "messages": messages })).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "You said: noon");
}

#[tokio::test]
async fn model_names() {
    let server = start().await;
    for (name, expected) in
        [(json!(null), "scripted"), (json!("default"), "scripted"), (json!(""), "scripted")]
    {
        let reply = server.post_json(ROUTE, body("hi", json!({ "model": name }))).await;
        assert_eq!(reply.json()["model"], expected, "{name}");
    }
    let reply = server.post_json("/chat/completions", body("hi", json!({ "model": "local-model" }))).await;
    assert_eq!(reply.status, 200);
    let reply = server.post_json(ROUTE, body("hi", json!({ "model": "gpt-9" }))).await;
    assert_eq!(reply.status, 404);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(error["message"], "model `gpt-9` not found; available: scripted");
}

#[tokio::test]
async fn prompt_logprobs() {
    let server = start().await;
    let reply =
        server.post_json(ROUTE, body("hi", json!({ "prompt_logprobs": 1, "max_tokens": 1 }))).await.json();
    let expected = json!([null, {
        "105": { "logprob": -3.28125, "rank": 106, "decoded_token": "i" },
        "65": { "logprob": -2.03125, "rank": 1, "decoded_token": "A" },
    }]);
    assert_eq!(reply["prompt_logprobs"], expected);
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let config = ingle_server::ServerConfig {
        keep_alive: std::time::Duration::from_millis(100),
        ..crate::client::config()
    };
    let server = crate::client::start_with(config, true).await;
    let begun = std::time::Instant::now();
    let body = body("!gate", json!({ "stream": true, "max_tokens": 1 }));
    let reply = server.post_through_gate(ROUTE, body, ": keep-alive\n\n", 3).await;
    let comments_max = 1 + begun.elapsed().as_millis() as usize / 100;
    let comments = reply.body.matches(": keep-alive\n\n").count();
    assert!((3..=comments_max).contains(&comments), "{}", reply.body);
    assert!(reply.body.starts_with(": keep-alive"), "they come while nothing else does");
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn failures_midway_end_the_stream_once() {
    let server = start().await;
    for prompt in ["!fail midway", "!end early"] {
        let reply = server.post_json(ROUTE, body(prompt, json!({ "stream": true }))).await;
        assert_eq!(reply.status, 200);
        let events = reply.events();
        assert_eq!(events.len(), 2, "{events:?}");
        let error: Value = serde_json::from_str(&events[1]).unwrap();
        assert_eq!(error["error"]["type"], "server_error");
        assert!(!reply.body.contains("secret"), "{}", reply.body);
        let reply = server.post_json(ROUTE, body(prompt, json!({}))).await;
        assert_eq!(reply.status, 500);
        assert!(!reply.body.contains("secret"), "{}", reply.body);
    }
    server.idle().await;
}
