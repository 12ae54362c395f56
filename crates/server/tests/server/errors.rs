//! What is refused, how, and how fast.

use std::time::{Duration, Instant};

use ingle_api::openai::refused::{
    HARMLESS, HARMLESS_CHAT, HARMLESS_COMPLETION, REFUSED, REFUSED_CHAT, REFUSED_COMPLETION,
};
use ingle_api::openai::sampling::numeric_fields;
use serde_json::{Value, json};

use crate::client::{Reply, Running, config, start, start_with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat_body() -> Value {
    json!({ "messages": [{ "role": "user", "content": "hi" }] })
}

/// Asserts a refusal of one field, in the shape of errors.
fn refused(reply: &Reply, param: Option<&str>, part: &str) {
    assert_eq!(reply.status, 400, "{part}: {}", reply.body);
    let error = reply.json()["error"].clone();
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["param"], json!(param), "{error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    assert_eq!(error.as_object().unwrap().len(), 4, "{error}");
}

async fn check_field(server: &Running, route: &str, name: &str, value: Value, param: &str, part: &str) {
    let mut body = if route == CHAT { chat_body() } else { json!({ "prompt": "hi" }) };
    body[name] = value;
    refused(&server.post_json(route, body).await, Some(param), part);
}

#[tokio::test]
async fn fields_are_refused_by_name() {
    let server = start().await;
    #[rustfmt::skip]
    let cases = [
        ("frobnicate", json!(1), "frobnicate", "unknown field `frobnicate`"),
        ("temperature", json!(-1), "temperature", "must be a number from 0 to 100, not -1"),
        ("temperature", json!("hot"), "temperature", "must be a number, not a string"),
        ("n", json!(0), "n", "from 1 to 128"),
        ("n", json!(1.5), "n", "whole number"),
        ("n", json!(1e30), "n", "whole number"),
        ("stop", json!([""]), "stop", "must not be empty"),
        ("stop", json!(vec!["x"; 65]), "stop", "at most 64"),
        ("stop", json!({}), "stop", "a string or a list of strings, not an object"),
        ("top_logprobs", json!(3), "top_logprobs", "needs `logprobs`"),
        ("top_logprobs", json!(21), "top_logprobs", "from 0 to 20"),
        ("logprobs", json!(3), "logprobs", "true or false"),
        ("max_tokens", json!(0), "max_tokens", "from 1 to"),
        ("seed", json!(1.5), "seed", "whole number"),
        ("logit_bias", json!({"hello": 1}), "logit_bias", "token ids, not `hello`"),
        ("logit_bias", json!({"1": 101}), "logit_bias", "from -100 to 100"),
        ("logit_bias", json!({"1": true}), "logit_bias", "or false to forbid"),
        ("logit_bias", json!({"256": 1}), "logit_bias", "not in the model's vocabulary of 256"),
        ("logit_bias", json!([[1, 2], [1, 3]]), "logit_bias", "token 1 is in `logit_bias` twice"),
        ("logit_bias", json!([[1, 2, 3]]), "logit_bias[0]", "a pair of token id and bias"),
        ("stop_token_ids", json!([-1]), "stop_token_ids[0]", "a token id, not -1"),
        ("stop_token_ids", json!([999]), "stop_token_ids", "not in the model's vocabulary"),
        ("samplers", json!(["nonsense"]), "samplers[0]", "`nonsense` is no sampler"),
        ("samplers", json!(["top_k", "top_k"]), "samplers[1]", "twice"),
        ("dry_sequence_breakers", json!([""]), "dry_sequence_breakers[0]", "1 to 128"),
        ("mirostat", json!(3), "mirostat", "from 0 to 2"),
        ("best_of", json!(2), "best_of", "unless it equals `n`"),
        ("stream_options", json!({"x": 1}), "stream_options.x", "unknown field `stream_options.x`"),
        ("stream_options", json!({"include_obfuscation": true}), "stream_options.include_obfuscation", "not supported"),
        ("chat_template_kwargs", json!({"messages": []}), "chat_template_kwargs.messages", "reserved"),
        ("chat_template_kwargs", json!([]), "chat_template_kwargs", "an object, not a list"),
        ("continue_final_message", json!(true), "continue_final_message", "assistant message at the end"),
        ("add_generation_prompt", json!(false), "add_generation_prompt", "only with"),
        ("tools", json!([{"type": "function"}]), "tools[0].function", "missing"),
        ("tool_choice", json!("required"), "tool_choice", "there are no `tools`"),
        ("response_format", json!({"type": "xml"}), "response_format.type", "json_schema"),
        ("reasoning_effort", json!("huge"), "reasoning_effort", "it can be none"),
        ("store", json!(true), "store", "nothing is stored"),
        ("service_tier", json!("flex"), "service_tier", "auto"),
        ("model", json!(5), "model", "a string, not a number"),
        ("stream", json!("yes"), "stream", "true or false"),
        ("messages", json!([]), "messages", "empty"),
        ("messages", json!("hi"), "messages", "a list, not a string"),
        ("messages", json!([5]), "messages[0]", "an object, not a number"),
        ("messages", json!([{"content": "x"}]), "messages[0].role", "missing"),
        ("messages", json!([{"role": "wizard", "content": "x"}]), "messages[0].role", "`wizard`"),
        ("messages", json!([{"role": "user"}]), "messages[0].content", "missing"),
        ("messages", json!([{"role": "user", "content": 5}]), "messages[0].content", "a string or a list of parts"),
        ("messages", json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            "messages[0].content[0].type", "only text parts"),
        ("messages", json!([{"role": "user", "content": "x", "colour": 1}]), "messages[0].colour", "unknown field"),
        ("messages", json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id", "missing"),
        ("messages", json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}]),
            "messages[0].tool_calls[0].function.arguments", "must be a JSON object"),
    ];
    for (name, value, param, part) in cases {
        check_field(&server, CHAT, name, value, param, part).await;
    }
    #[rustfmt::skip]
    let cases = [
        ("prompt", json!([]), "prompt", "empty list"),
        ("prompt", json!(5), "prompt", "a list of lists of token ids"),
        ("prompt", json!(["a", 5]), "prompt[1]", "a string, not a number"),
        ("prompt", json!([5, "a"]), "prompt[1]", "a token id, not a string"),
        ("prompt", json!([[5, -1]]), "prompt[0][1]", "a token id, not -1"),
        ("prompt", json!([256]), "prompt", "token 256"),
        ("prompt", json!(vec!["a"; 1025]), "prompt", "at most 1024"),
        ("suffix", json!(5), "suffix", "a string, not a number"),
        ("logprobs", json!(21), "logprobs", "from 0 to 20"),
        ("echo", json!("yes"), "echo", "true or false"),
    ];
    for (name, value, param, part) in cases {
        check_field(&server, COMPLETIONS, name, value, param, part).await;
    }
    let mut body = chat_body();
    body["max_tokens"] = 5.into();
    body["max_completion_tokens"] = 6.into();
    refused(&server.post_json(CHAT, body.clone()).await, Some("max_tokens"), "the same setting but differ");
    body["max_completion_tokens"] = 5.into();
    assert_eq!(server.post_json(CHAT, body).await.status, 200);
    refused(&server.post_json(CHAT, json!({})).await, Some("messages"), "missing");
    refused(&server.post_json(COMPLETIONS, json!({})).await, Some("prompt"), "missing");
    for (prompt, echo, param, part) in
        [(json!("x"), true, "echo", "a gap is filled"), (json!([1, 2]), false, "suffix", "not of token ids")]
    {
        let body = json!({ "prompt": prompt, "suffix": "y", "echo": echo });
        refused(&server.post_json(COMPLETIONS, body).await, Some(param), part);
    }
}

#[tokio::test]
async fn the_tables_hold() {
    let server = start().await;
    for (route, tables) in [(CHAT, [REFUSED, REFUSED_CHAT]), (COMPLETIONS, [REFUSED, REFUSED_COMPLETION])] {
        for field in tables.iter().copied().flatten() {
            check_field(&server, route, field.name, json!("x"), field.name, field.advice).await;
        }
    }
    for (route, tables) in [(CHAT, [HARMLESS, HARMLESS_CHAT]), (COMPLETIONS, [HARMLESS, HARMLESS_COMPLETION])]
    {
        for field in tables.iter().copied().flatten() {
            check_field(&server, route, field.name, json!(5), field.name, "").await;
        }
    }
    let mut body = chat_body();
    body.as_object_mut().unwrap().extend(
        json!({
            "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "parallel_tool_calls": true,
            "tool_choice": "none", "tools": [], "response_format": {"type": "text"}, "stream_options": null,
            "modalities": ["text"], "prompt_cache_key": "k", "logit_bias": null, "unknown_but_null": null,
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    assert_eq!(server.post_json(CHAT, body).await.status, 200);
}

/// Every numeric field at its boundaries: 400 or an answer, never anything else.
#[tokio::test]
async fn numbers_at_their_boundaries() {
    let server = start().await;
    let others =
        [("n", 1.0, 128.0), ("seed", f64::MIN, f64::MAX), ("min_tokens", 0.0, 1e9), ("mirostat", 0.0, 2.0)];
    for (name, min, max) in numeric_fields().chain(others) {
        for (value, inside) in [
            (json!(0), min <= 0.0 && max >= 0.0),
            (json!(-1), min <= -1.0),
            (json!(1), true),
            (json!(1e308), false),
            (json!(-1e308), false),
            (json!("5"), false),
            (json!(null), true),
            (json!(true), false),
            (json!(i64::MIN), name == "seed"),
        ] {
            let mut body = chat_body();
            body[name] = value.clone();
            body["max_tokens"] = 20.into();
            let reply = server.post_json(CHAT, body).await;
            assert_eq!(reply.status, if inside { 200 } else { 400 }, "{name} {value}: {}", reply.body);
        }
    }
}

#[test]
fn lists_of_names_are_bounded_and_left_out_where_empty() {
    let said = |n: usize| {
        let available = (0..n).map(|i| format!("m{i}")).collect();
        ingle_chat::ProviderError::UnknownModel { model: "x".into(), available }.to_string()
    };
    assert_eq!(said(0), "model `x` not found");
    assert_eq!(said(2), "model `x` not found; available: m0, m1");
    assert!(said(30).ends_with(", m19 and 10 more"), "{}", said(30));
}

#[tokio::test]
async fn provider_errors_have_their_status() {
    let server = start().await;
    for (prompt, status, kind, code) in [
        ("!overloaded", 429, "rate_limit_error", json!("rate_limit_exceeded")),
        ("!unavailable", 503, "unavailable_error", json!(503)),
        ("!taken", 503, "unavailable_error", json!(503)),
        ("!unusable", 500, "server_error", json!("model_unusable")),
        ("!internal", 500, "server_error", json!("internal_error")),
        ("!panic", 500, "server_error", json!("internal_error")),
        ("!invalid", 400, "invalid_request_error", json!(null)),
    ] {
        for stream in [false, true] {
            let body = json!({ "messages": [{ "role": "user", "content": prompt }], "stream": stream });
            let reply = server.post_json(CHAT, body).await;
            assert_eq!(reply.status, status, "{prompt}");
            let error = &reply.json()["error"];
            assert_eq!((&error["type"], &error["code"]), (&json!(kind), &code), "{prompt}");
            assert!(!reply.body.contains("0xdead"), "{}", reply.body);
            // What is said stands there as it is; only a model that comes or goes is not ready.
            let says = error["message"].as_str().expect("a text");
            assert_eq!(says.contains("not ready"), prompt == "!unavailable", "{prompt}: {says}");
            if status == 429 {
                assert_eq!(reply.header("retry-after"), Some("3"));
                assert_eq!(reply.header("retry-after-ms"), Some("2500"));
            }
        }
    }
    let body = json!({ "prompt": "x".repeat(4000), "max_tokens": 100 });
    let reply = server.post_json(COMPLETIONS, body).await;
    refused(
        &reply,
        None,
        "maximum context length is 4096 tokens: the prompt has 4000 tokens and 100 are to be generated",
    );
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    // One bad prompt among several: nothing runs.
    let body = json!({ "prompt": ["a", "!invalid"] });
    assert_eq!(server.post_json(COMPLETIONS, body).await.status, 400);
    server.idle().await;
}

#[tokio::test]
async fn routes_methods_types_sizes() {
    let server = start().await;
    let reply = server.get("/v1/nonsense").await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("unknown_route")));
    let reply = server.get(CHAT).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    assert_eq!(reply.json()["error"]["code"], "method_not_allowed");
    let body = chat_body().to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let header = format!("Content-Type: {content_type}\r\n");
        assert_eq!(server.post_with(CHAT, &header, body.as_bytes()).await.status, 415, "{content_type}");
    }
    let compressed = server.post_with(CHAT, "Content-Encoding: gzip\r\n", body.as_bytes()).await;
    assert_eq!(compressed.status, 415);
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let header = format!("Content-Type: {content_type}\r\n");
        assert_eq!(server.post_with(CHAT, &header, body.as_bytes()).await.status, 200, "{content_type}");
    }
    // Large enough to be parsed aside.
    let large = json!({ "prompt": "x", "user": "y".repeat(1_000_000) }).to_string();
    assert_eq!(server.post(COMPLETIONS, &large).await.status, 200);
    assert_eq!(server.post(COMPLETIONS, &large[..900_000]).await.status, 400);
    let small = start_with(ingle_server::ServerConfig { body_bytes_max: 2048, ..config() }, true).await;
    let long = json!({ "prompt": "x".repeat(3000) }).to_string();
    assert_eq!(small.post(COMPLETIONS, &long).await.status, 413);
    // Announced but never sent: refused before it is read.
    let head = crate::client::post_head(COMPLETIONS, "", 1 << 30);
    assert_eq!(small.send(&head).await.status, 413);
    // Chunked, so that its size shows only as it comes.
    let chunk = format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000)).repeat(5);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
                application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(small.send(&format!("{head}{chunk}0\r\n\r\n")).await.status, 413);
    // Large heads.
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    for headers in [many, format!("X: {}\r\n", "y".repeat(200_000))] {
        let reply = server.send(&format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
        assert_eq!(reply.status, 431);
    }
}

/// Thousands of broken bodies, made from a few good ones: each is refused at once.
#[tokio::test]
async fn malformed_bodies() {
    let server = start().await;
    let good = r#"{"model":"scripted","messages":[{"role":"user","content":"h\u00e9\ud83d\ude00y"}],"stop":["a","b"],"logit_bias":{"5":-1.5e1},"n":1,"stream":false}"#;
    assert_eq!(server.post(CHAT, good).await.status, 200);
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for cut in 0..good.len() {
        bodies.push(good.as_bytes()[..cut].to_vec());
    }
    let deep = |open: &str, n: usize| format!("{{\"messages\":{}", open.repeat(n)).into_bytes();
    bodies.extend([deep("[", 100_000), deep("{\"a\":", 100_000), deep("[{\"a\":", 50_000)]);
    bodies.push([b"\xef\xbb\xbf", good.as_bytes()].concat());
    for tail in [&b"x"[..], b"{}", b"\0", b",", b"]", b"\xff"] {
        bodies.push([good.as_bytes(), tail].concat());
    }
    for number in ["1e999", "-1e999", "0x10", "01", "+1", ".5", "1.", "NaN", "Infinity", "1e", "--1"] {
        bodies.push(good.replace("\"n\":1", &format!("\"n\":{number}")).into_bytes());
    }
    bodies.push(good.replace("\"n\":1", "\"model\":\"twice\",\"n\":1").into_bytes());
    bodies.push(good.replace("\"role\":", "\"role\":\"system\",\"role\":").into_bytes());
    for (from, to) in
        [("\\ud83d\\ude00", "\\ud83d"), ("\\u00e9", "\\u00g9"), ("\\u00e9", "\\x41"), ("h", "h\n")]
    {
        bodies.push(good.replacen(from, to, 1).into_bytes());
    }
    // Every byte of the skeleton replaced by each of some bytes that break it or its types.
    for (i, old) in good.bytes().enumerate() {
        for new in *b"\x00\xff{}[]\",:9" {
            let mut body = good.as_bytes().to_vec();
            body[i] = new;
            if new != old {
                bodies.push(body);
            }
        }
    }
    assert!(bodies.len() > 1500, "{}", bodies.len());
    let (mut times, mut fine) = (Vec::new(), 0);
    for body in &bodies {
        let begun = Instant::now();
        let reply = server.post_with(CHAT, "", body).await;
        times.push(begun.elapsed());
        match reply.status {
            400 => assert!(reply.json()["error"]["message"].is_string()),
            // A changed letter inside a string is another good body; a changed model is an unknown one.
            200 | 404 => fine += 1,
            other => panic!("{other}: {}", String::from_utf8_lossy(body)),
        }
    }
    assert!(fine < bodies.len() / 5, "{fine} of {} were fine", bodies.len());
    // 50 ms is the aim. One that comes late is the machine's doing; none takes long, and most are quick.
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(500), "{:?}", times[times.len() / 2]);
    assert!(times[times.len() - 1] < Duration::from_secs(10), "{:?}", times[times.len() - 1]);
    assert_eq!(server.post(CHAT, good).await.status, 200);
}
