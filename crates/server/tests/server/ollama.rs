//! `/api/*`: Ollama's routes.

use ingle_server::{Alias, ServerConfig};
use serde_json::{Value, json};

use crate::client::{Reply, Running, config, start, start_with};
use crate::fixtures::check;

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({ "model": "scripted", "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn generate(prompt: &str, more: Value) -> Value {
    let mut body = json!({ "model": "scripted:latest", "prompt": prompt });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn fixture(name: &str, route: &str, body: Value) {
    let reply = start().await.post_json(route, body.clone()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let kind = if body["stream"] == false { "application/json" } else { "application/x-ndjson" };
    assert_eq!(reply.header("content-type"), Some(kind));
    // Calls without an id get one of the request's.
    let body = match reply.body.find("\"call_") {
        Some(at) => reply.body.replace(&reply.body[at + 1..at + 14], "call_ID"),
        None => reply.body,
    };
    check(name, &body);
}

/// Asserts an error in this dialect's shape.
fn refused(reply: &Reply, status: u16, part: &str) {
    assert_eq!(reply.status, status, "{part}: {}", reply.body);
    let error = reply.json();
    assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
    assert!(error["error"].as_str().unwrap().contains(part), "{part}: {error}");
}

#[tokio::test]
async fn whole_and_streamed() {
    let options = json!({ "num_predict": 4, "num_ctx": 4096 });
    fixture("ollama_generate.json", GENERATE, generate("hi", json!({ "stream": false }))).await;
    fixture("ollama_generate.ndjson", GENERATE, generate("hi", json!({ "options": options }))).await;
    fixture("ollama_chat.json", CHAT, chat("hi", json!({ "stream": false }))).await;
    let more = json!({ "stream": true, "options": options, "logprobs": true, "top_logprobs": 1 });
    fixture("ollama_chat.ndjson", CHAT, chat("hi", more)).await;
}

#[tokio::test]
async fn thoughts_and_calls() {
    fixture("ollama_calls.json", CHAT, chat("!think and call", json!({ "stream": false }))).await;
    fixture("ollama_calls.ndjson", CHAT, chat("!think and call", json!({}))).await;
}

#[tokio::test]
async fn raw_and_stop() {
    let server = start().await;
    let more = json!({ "raw": true, "stream": false, "options": { "stop": ["said"] } });
    let reply = server.post_json(GENERATE, generate("hi", more)).await.json();
    assert_eq!((&reply["response"], &reply["done_reason"]), (&json!("You "), &json!("stop")));
    let more = json!({ "stream": false, "options": { "num_predict": 3 } });
    let reply = server.post_json(GENERATE, generate("hi", more)).await.json();
    assert_eq!((&reply["response"], &reply["done_reason"]), (&json!("You"), &json!("length")));
    assert_eq!((&reply["prompt_eval_count"], &reply["eval_count"]), (&json!(2), &json!(3)));
}

#[tokio::test]
async fn loading_is_nothing_to_do() {
    let server = start().await;
    for (route, body) in [
        (GENERATE, json!({ "model": "scripted" })),
        (CHAT, json!({ "model": "scripted", "keep_alive": "1h" })),
    ] {
        let reply = server.post_json(route, body).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        let reply = reply.json();
        assert_eq!((&reply["done"], &reply["done_reason"]), (&json!(true), &json!("load")));
        refused(&server.post_json(route, json!({ "keep_alive": 0 })).await, 400, "stay loaded");
        refused(&server.post_json(route, json!({ "model": "absent" })).await, 404, "`absent` not found");
    }
    assert_eq!(server.provider.started.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn model_names() {
    let alias = |name: &str| Alias { name: name.into(), model: None };
    let aliases = vec![alias("llama3"), alias("llama3:8b"), alias("gemma:latest")];
    let server = start_with(ServerConfig { aliases, ..config() }, true).await;
    for (name, expected) in [
        (json!(null), "scripted"),
        (json!(""), "scripted"),
        (json!("scripted"), "scripted"),
        (json!("scripted:latest"), "scripted:latest"),
        (json!("llama3:latest"), "llama3:latest"),
        (json!("llama3:8b"), "llama3:8b"),
        (json!("gemma"), "gemma"),
        (json!("default:latest"), "default:latest"),
    ] {
        let reply = server.post_json(CHAT, chat("hi", json!({ "model": name, "stream": false }))).await;
        assert_eq!(reply.json()["model"], expected, "the model as it was asked for");
    }
    let reply = server.post_json(CHAT, chat("hi", json!({ "model": "llama3:70b" }))).await;
    refused(
        &reply,
        404,
        "model `llama3:70b` not found; available: scripted, llama3, llama3:8b, gemma:latest",
    );
    let tags = server.get("/api/tags").await.json();
    let names = |page: &Value| -> Vec<String> {
        page["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&tags), ["scripted:latest", "llama3:latest", "llama3:8b", "gemma:latest"]);
    assert_eq!(names(&server.get("/api/ps").await.json()), ["scripted:latest"]);
    let show = server.post_json("/api/show", json!({ "model": "llama3" })).await.json();
    assert!(show["modelfile"].as_str().unwrap().starts_with("FROM llama3:latest\n"));
    refused(&server.post_json("/api/show", json!({ "model": "x" })).await, 404, "`x` not found");
    // The other dialects know the tag too.
    let body = chat("hi", json!({ "model": "scripted:latest" }));
    assert_eq!(server.post_json("/v1/chat/completions", body).await.status, 200);
}

#[tokio::test]
async fn pages() {
    let server = start().await;
    let model = server.get("/api/tags").await.json()["models"][0].clone();
    assert_eq!((&model["size"], &model["digest"]), (&json!(4000), &json!("5c".repeat(32))));
    assert_eq!(model["details"]["quantization_level"], "Q8_0");
    let running = server.get("/api/ps").await.json()["models"][0].clone();
    assert_eq!((&running["context_length"], &running["size_vram"]), (&json!(4096), &json!(0)));
    let show = server.post_json("/api/show", json!({ "name": "scripted", "verbose": true })).await.json();
    assert_eq!(show["capabilities"], json!(["completion", "tools", "thinking"]));
    assert_eq!(show["model_info"]["llama.context_length"], 4096);
    assert_eq!(server.get("/api/version").await.json(), json!({ "version": "0.33.0" }));
    for path in ["/", "/api/version", "/api/tags"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let head = server.send(&request).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn errors_are_texts() {
    let server = start().await;
    refused(&server.post(CHAT, "{").await, 400, "not valid JSON");
    refused(&server.post_json(CHAT, json!({ "frobnicate": 1 })).await, 400, "unknown field `frobnicate`");
    let more = json!({ "options": { "num_ctx": 4097 } });
    refused(&server.post_json(CHAT, chat("hi", more)).await, 400, "a context of 4096 tokens");
    let more = json!({ "options": { "logit_bias": { "256": 1 } } });
    refused(&server.post_json(CHAT, chat("hi", more)).await, 400, "vocabulary of 256");
    refused(&server.post_json(CHAT, chat(&"x".repeat(5000), json!({}))).await, 400, "the context holds 4096");
    refused(&server.post_json(CHAT, chat("!overloaded", json!({}))).await, 503, "requests are waiting");
    refused(&server.post_json(CHAT, chat("!internal", json!({}))).await, 500, "internal error");
    refused(&server.get(CHAT).await, 405, "method");
    refused(&server.get("/api/unknown").await, 404, "no such route");
    let loading = start_with(config(), false).await;
    refused(&loading.post_json(CHAT, chat("hi", json!({}))).await, 503, "Loading model");
    refused(&loading.get("/api/tags").await, 503, "Loading model");
    // Midway the status is already 200, and the error is the last line.
    for prompt in ["!fail midway", "!end early"] {
        let reply = server.post_json(GENERATE, generate(prompt, json!({}))).await;
        assert_eq!(reply.status, 200);
        let lines: Vec<Value> = reply.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{}", reply.body);
        assert_eq!((&lines[0]["response"], &lines[0]["done"]), (&json!("Half an"), &json!(false)));
        assert!(lines[1]["error"].as_str().unwrap().contains("internal error"), "{}", reply.body);
        let reply = server.post_json(GENERATE, generate(prompt, json!({ "stream": false }))).await;
        refused(&reply, 500, "internal error");
    }
    server.idle().await;
}

/// The blob of no bytes.
const EMPTY_BLOB: &str = "/api/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn what_is_not_here_is_refused_by_name() {
    let server = start().await;
    for (method, path, part) in [
        ("POST", "/api/pull", "this server has no store of models"),
        ("POST", "/api/push", "this server has no store of models"),
        ("POST", "/api/create", "this server has no store of models"),
        ("POST", "/api/copy", "this server has no store of models"),
        ("DELETE", "/api/delete", "this server has no store of models"),
        ("POST", EMPTY_BLOB, "this server has no store of models"),
    ] {
        let body = r#"{"model":"x"}"#;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        refused(&server.send(&request).await, 400, part);
    }
    let head = "HEAD /api/blobs/sha256:00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(server.send(head).await.status, 400);
}

/// Ollama asks for no content type; pages of sites are held to what keeps them out elsewhere.
#[tokio::test]
async fn content_types() {
    let server = start().await;
    let ask = async |server: &Running, headers: &str| {
        server.post_with(CHAT, headers, chat("hi", json!({})).to_string().as_bytes()).await.status
    };
    for (headers, expected) in [
        ("Content-Type: application/json\r\n", 200),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 200),
        ("Content-Type: text/plain\r\n", 200),
        ("Content-Type: text/plain\r\nOrigin: http://evil.example\r\n", 415),
        ("Content-Type: text/plain\r\nOrigin: null\r\n", 415),
        ("Content-Type: text/plain\r\nSec-Fetch-Site: same-site\r\n", 415),
        ("Content-Type: application/json\r\nOrigin: http://localhost\r\n", 200),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415),
        ("Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", 415),
    ] {
        assert_eq!(ask(&server, headers).await, expected, "{headers}");
    }
    let body = chat("hi", json!({ "stream": false })).to_string();
    let bare = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(server.send(&bare).await.status, 200);
}

#[tokio::test]
async fn a_key_is_wanted() {
    let server = start_with(ServerConfig { api_keys: vec!["secret".into()], ..config() }, true).await;
    for path in ["/api/tags", "/api/version", "/api/ps", "/api/pull"] {
        refused(&server.get(path).await, 401, "no valid API key");
    }
    refused(&server.post_json(CHAT, chat("hi", json!({}))).await, 401, "no valid API key");
    let body = chat("hi", json!({})).to_string();
    let reply = server.post_with(CHAT, "Authorization: Bearer secret\r\n", body.as_bytes()).await;
    assert_eq!(reply.status, 200);
}
