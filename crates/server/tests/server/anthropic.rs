//! `/v1/messages` and the counting of tokens.

use ingle_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Reply, config, start, start_with};
use crate::fixtures::check;
use crate::scripted::N_CTX;

const ROUTE: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn body(text: &str, more: Value) -> Value {
    let mut body =
        json!({ "model": "scripted", "max_tokens": 64, "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The events of a stream by name; the name and the data's `type` always agree.
fn events(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert!(reply.body.ends_with("\n\n"), "the last event is whole: {}", reply.body);
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').expect("two lines");
        let name = name.strip_prefix("event: ").expect("a name");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(data["type"], name);
        (name.to_owned(), data)
    };
    reply.body.split_terminator("\n\n").map(event).collect()
}

#[track_caller]
fn failed(reply: &Reply, status: u16, kind: &str, part: &str) {
    assert_eq!(reply.status, status, "{}", reply.body);
    let body = reply.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains(part), "{body}");
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
}

async fn fixture(name: &str, text: &str, more: Value) {
    let server = start().await;
    let reply = server.post_json(ROUTE, body(text, more)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    check(name, &reply.body);
}

#[tokio::test]
async fn whole() {
    fixture("message.json", "hi", json!({})).await;
    fixture("message_tools.json", "!think and call", json!({})).await;
}

#[tokio::test]
async fn streamed() {
    fixture("message.sse", "hi", json!({ "stream": true, "max_tokens": 4 })).await;
    fixture("message_tools.sse", "!think and call", json!({ "stream": true })).await;
}

#[tokio::test]
async fn what_ends_an_answer() {
    let server = start().await;
    for (text, more, said, reason, sequence) in [
        ("hi", json!({}), "You said: hi", "end_turn", json!(null)),
        ("hi", json!({ "stop_sequences": ["zzz", "said"] }), "You ", "stop_sequence", json!("said")),
        ("hi", json!({ "max_tokens": 3 }), "You", "max_tokens", json!(null)),
    ] {
        let reply = server.post_json(ROUTE, body(text, more.clone())).await.json();
        assert_eq!(reply["content"], json!([{ "type": "text", "text": said }]));
        assert_eq!((&reply["stop_reason"], &reply["stop_sequence"]), (&json!(reason), &sequence));
        let mut streamed = body(text, more);
        streamed["stream"] = true.into();
        let events = events(&server.post_json(ROUTE, streamed).await);
        let text: String = events.iter().filter_map(|(_, e)| e["delta"]["text"].as_str()).collect();
        assert_eq!(text, said);
        let (name, delta) = &events[events.len() - 2];
        assert_eq!(name, "message_delta");
        assert_eq!(
            (&delta["delta"]["stop_reason"], &delta["delta"]["stop_sequence"]),
            (&json!(reason), &sequence)
        );
        assert_eq!(delta["usage"], reply["usage"]);
    }
}

#[tokio::test]
async fn a_limit_beyond_the_context_ends_with_it() {
    let server = start().await;
    let text = "x".repeat(N_CTX - 20);
    for stream in [false, true] {
        let more = json!({ "max_tokens": 32_000, "stream": stream });
        let reply = server.post_json(ROUTE, body(&text, more)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.body.contains(r#""stop_reason":"model_context_window_exceeded""#), "{}", reply.body);
        assert!(reply.body.contains(r#""output_tokens":20"#), "{}", reply.body);
    }
    // What fits is not cut.
    let reply = server.post_json(ROUTE, body("hi", json!({ "max_tokens": 32_000 }))).await.json();
    assert_eq!(reply["stop_reason"], "end_turn");
    // No room at all.
    for n in [N_CTX, N_CTX + 1000] {
        let reply = server.post_json(ROUTE, body(&"x".repeat(n), json!({ "stream": true }))).await;
        let text = format!("prompt is too long: {n} tokens > {} maximum", N_CTX - 1);
        failed(&reply, 400, "invalid_request_error", &text);
    }
    server.idle().await;
}

#[tokio::test]
async fn tokens_are_counted() {
    let server = start().await;
    let count = async |body: Value| {
        let reply = server.post_json(COUNT, body).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        reply.body
    };
    assert_eq!(count(body("hello", json!({ "max_tokens": null }))).await, r#"{"input_tokens":5}"#);
    // Nothing runs, however long the prompt.
    let long = body(&"x".repeat(N_CTX + 5), json!({ "max_tokens": null }));
    assert_eq!(count(long).await, format!("{{\"input_tokens\":{}}}", N_CTX + 5));
    // Large enough to be counted aside.
    let large = body(&"x".repeat(600_000), json!({ "max_tokens": null }));
    assert_eq!(count(large).await, r#"{"input_tokens":600000}"#);
    assert_eq!(server.provider.started.load(std::sync::atomic::Ordering::SeqCst), 0);
    failed(&server.post_json(COUNT, json!({})).await, 400, "invalid_request_error", "`messages` is missing");
    let unknown = body("hi", json!({ "model": "claude" }));
    failed(&server.post_json(COUNT, unknown).await, 404, "not_found_error", "`claude` not found");
}

#[tokio::test]
async fn refusals() {
    let server = start().await;
    for (more, part) in [
        (json!({ "max_tokens": null }), "`max_tokens` is missing"),
        (json!({ "frobnicate": 1 }), "unknown field `frobnicate`"),
        (json!({ "container": "c" }), "runs no code"),
        (json!({ "logit_bias": { "256": 1 } }), "not in the model's vocabulary of 256"),
        (
            json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
            "no tools of its own",
        ),
    ] {
        let reply = server.post_json(ROUTE, body("hi", more)).await;
        failed(&reply, 400, "invalid_request_error", part);
    }
    failed(&server.post(ROUTE, "{").await, 400, "invalid_request_error", "not valid JSON");
    failed(&server.get(ROUTE).await, 405, "invalid_request_error", "method");
    failed(&server.get("/v1/messages/batches").await, 404, "not_found_error", "no such route");
    for (text, status, kind) in [
        ("!overloaded", 529, "overloaded_error"),
        ("!unavailable", 503, "overloaded_error"),
        ("!internal", 500, "api_error"),
        ("!panic", 500, "api_error"),
        ("!invalid", 400, "invalid_request_error"),
    ] {
        for stream in [false, true] {
            let reply = server.post_json(ROUTE, body(text, json!({ "stream": stream }))).await;
            failed(&reply, status, kind, "");
            assert!(!reply.body.contains("0xdead"), "{}", reply.body);
        }
    }
}

#[tokio::test]
async fn failures_midway_end_the_stream_once() {
    let server = start().await;
    for text in ["!fail midway", "!end early"] {
        let reply = server.post_json(ROUTE, body(text, json!({ "stream": true }))).await;
        assert_eq!(reply.status, 200);
        let events = events(&reply);
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["message_start", "ping", "content_block_start", "content_block_delta", "error"]);
        assert_eq!(events[4].1["error"]["type"], "api_error");
        assert!(!reply.body.contains("secret"), "{}", reply.body);
        failed(&server.post_json(ROUTE, body(text, json!({}))).await, 500, "api_error", "internal error");
    }
    server.idle().await;
}

#[tokio::test]
async fn silence_is_filled_with_pings() {
    let config = ServerConfig { keep_alive: std::time::Duration::from_millis(100), ..config() };
    let server = start_with(config, true).await;
    let begun = std::time::Instant::now();
    let body = body("!gate", json!({ "stream": true, "max_tokens": 1 }));
    let reply = server.post_through_gate(ROUTE, body, "event: ping", 4).await;
    // The first comes with the beginning.
    let pings_max = 2 + begun.elapsed().as_millis() as usize / 100;
    let names: Vec<String> = events(&reply).into_iter().map(|(name, _)| name).collect();
    let pings = names.iter().filter(|name| *name == "ping").count();
    assert!((4..=pings_max).contains(&pings), "{names:?}");
    assert_eq!(names.first().map(String::as_str), Some("message_start"));
    assert_eq!(names.last().map(String::as_str), Some("message_stop"));
}

#[tokio::test]
async fn keys_and_headers() {
    let server = start_with(ServerConfig { api_keys: vec!["sk-1".into()], ..config() }, true).await;
    let body = body("hi", json!({})).to_string();
    let versions = "anthropic-version: 2023-06-01\r\nanthropic-beta: a-2025-01-01,b-2026-01-01\r\n";
    let headers = format!("x-api-key: sk-1\r\nx-request-id: mine\r\n{versions}");
    let reply = server.post_with(ROUTE, &headers, body.as_bytes()).await;
    assert_eq!((reply.status, reply.header("request-id")), (200, Some("mine")));
    for (route, key) in [(ROUTE, "x-api-key: wrong\r\n"), (ROUTE, ""), (COUNT, "")] {
        let reply = server.post_with(route, key, body.as_bytes()).await;
        failed(&reply, 401, "authentication_error", "API key");
    }
    // Elsewhere the header has one name.
    assert_eq!(server.get("/health").await.header("request-id"), None);
}

#[tokio::test]
async fn models() {
    let server = start().await;
    let ask = async |path: &str| {
        let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nanthropic-version: 2023-06-01\r\n";
        server.send(&format!("GET {path} {head}\r\n")).await
    };
    let page = ask("/v1/models?limit=1").await.json();
    let model = &page["data"][0];
    assert_eq!((&model["type"], &model["id"]), (&json!("model"), &json!("scripted")));
    assert_eq!((&page["has_more"], &page["last_id"]), (&json!(false), &json!("scripted")));
    assert_eq!(&ask("/v1/models/scripted").await.json(), model);
    failed(&ask("/v1/models/absent").await, 404, "not_found_error", "`absent` not found");
    failed(&ask("/v1/models?limit=0").await, 400, "invalid_request_error", "from 1 to 1000");
    // Without the header it is OpenAI's.
    assert_eq!(server.get("/v1/models").await.json()["object"], "list");
    let reply = server.get("/v1/models?limit=5").await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("limit")));
}
