//! Embeddings in all dialects, reranking and scores.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ingle_server::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Running, config, post_head, start, start_with};
use crate::scripted::N_CTX;

async fn ask(server: &Running, path: &str, body: Value) -> Value {
    let reply = server.post_json(path, body.clone()).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.body);
    reply.json()
}

#[tokio::test]
async fn shapes() {
    let server = start().await;
    // `d` is 100, which leaves 0 when divided by 4; `e` leaves 1.
    let vector = json!([0.6, 0.8, 0.0, 0.0]);
    for path in ["/v1/embeddings", "/embeddings", "/embedding"] {
        let reply = ask(&server, path, json!({ "model": "scripted", "input": "dddeeee" })).await;
        let expected = json!({
            "object": "list", "model": "scripted", "usage": { "prompt_tokens": 7, "total_tokens": 7 },
            "data": [{ "object": "embedding", "index": 0, "embedding": vector }],
        });
        assert_eq!(reply, expected, "{path}");
        let reply = ask(&server, path, json!({ "content": ["dddeeee"] })).await;
        assert_eq!(reply, json!([{ "index": 0, "embedding": [vector] }]), "{path}");
    }
    let body = json!({ "input": [[100, 100], [101]], "dimensions": 2, "normalize": false });
    let reply = ask(&server, "/v1/embeddings", body).await;
    assert_eq!(
        (&reply["data"][0]["embedding"], &reply["data"][1]["embedding"]),
        (&json!([2.0, 0.0]), &json!([0.0, 1.0]))
    );
    let reply = ask(&server, "/v1/embeddings", json!({ "input": "d", "encoding_format": "base64" })).await;
    assert_eq!(reply["data"][0]["embedding"], "AACAPwAAAAAAAAAAAAAAAA==");
    assert_eq!(server.provider.live.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn of_ollama() {
    let server = start().await;
    let reply =
        ask(&server, "/api/embed", json!({ "model": "scripted:latest", "input": ["d", "dddeeee"] })).await;
    let expected = json!({
        "model": "scripted:latest", "embeddings": [[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]],
        "total_duration": 0, "load_duration": 0, "prompt_eval_count": 8,
    });
    assert_eq!(reply, expected);
    let reply = ask(&server, "/api/embed", json!({ "model": "scripted" })).await;
    assert_eq!((&reply["embeddings"], &reply["prompt_eval_count"]), (&json!([]), &json!(0)));
    let reply = ask(&server, "/api/embeddings", json!({ "model": "scripted", "prompt": "dd" })).await;
    assert_eq!(reply, json!({ "embedding": [2.0, 0.0, 0.0, 0.0] }));
    assert_eq!(ask(&server, "/api/embeddings", json!({ "prompt": "" })).await, json!({ "embedding": [] }));
}

#[tokio::test]
async fn what_is_cut_is_said() {
    let server = start().await;
    let (long, n) = ("d".repeat(N_CTX + 5), N_CTX + 5);
    let reply = server.post_json("/v1/embeddings", json!({ "input": ["d", long], "truncate": true })).await;
    assert_eq!(reply.header("x-truncated-inputs"), Some("1"));
    let cut = json!([{ "input": "input[1]", "tokens": n, "kept": N_CTX }]);
    assert_eq!(reply.json()["truncated"], cut);
    let reply = server.post_json("/embedding", json!({ "content": long, "truncate": true })).await;
    assert_eq!(
        (reply.header("x-truncated-inputs"), &reply.json()[0]["truncated_from"]),
        (Some("1"), &json!(n))
    );
    let reply = server.post_json("/api/embed", json!({ "input": ["d", long] })).await;
    assert_eq!((reply.header("x-truncated-inputs"), &reply.json()["truncated"]), (Some("1"), &cut));
    let body = json!({ "query": "d", "documents": [long], "truncate": true });
    let reply = server.post_json("/rerank", body).await;
    assert_eq!(reply.header("x-truncated-inputs"), Some("1"));
    assert_eq!(reply.json()["truncated"][0]["input"], "documents[0]");
    let reply = server.post_json("/v1/embeddings", json!({ "input": "d", "truncate": true })).await;
    assert_eq!((reply.header("x-truncated-inputs"), reply.json().get("truncated")), (None, None));
    // Unless it is asked for, nothing is cut.
    for (path, body) in [
        ("/v1/embeddings", json!({ "input": long })),
        ("/api/embed", json!({ "input": long, "truncate": false })),
        ("/api/embeddings", json!({ "prompt": long })),
        ("/v1/score", json!({ "text_1": "d", "text_2": long })),
    ] {
        let reply = server.post_json(path, body).await;
        assert_eq!(reply.status, 400, "{path}");
        assert!(
            reply.body.contains(&n.to_string()) && reply.body.contains(&N_CTX.to_string()),
            "{}",
            reply.body
        );
    }
    let reply = server.post_json("/v1/embeddings", json!({ "input": long })).await;
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn reranked_and_scored() {
    let server = start().await;
    for path in ["/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking"] {
        let body = json!({ "model": "scripted", "query": "d", "documents": ["e", { "text": "dddeeee" }], "top_n": 1 });
        let reply = ask(&server, path, body).await;
        assert!(reply["id"].as_str().unwrap().starts_with("rerank-"), "{path}");
        let best = &reply["results"][0];
        assert_eq!((&best["index"], &best["document"]), (&json!(1), &json!({ "text": "dddeeee" })));
        assert!((best["relevance_score"].as_f64().unwrap() - 0.6).abs() < 1e-6, "{best}");
        assert_eq!(reply["results"].as_array().unwrap().len(), 1);
        assert_eq!(reply["usage"], json!({ "prompt_tokens": 9, "total_tokens": 9 }));
    }
    for path in ["/score", "/v1/score"] {
        let reply = ask(&server, path, json!({ "text_1": "d", "text_2": ["d", "e"] })).await;
        assert_eq!(
            reply["data"],
            json!([
                { "index": 0, "object": "score", "score": 1.0 },
                { "index": 1, "object": "score", "score": 0.0 },
            ])
        );
        assert_eq!((&reply["model"], &reply["object"]), (&json!("scripted"), &json!("list")));
    }
}

#[tokio::test]
async fn failures() {
    let server = start().await;
    for (text, status, code) in [
        ("!overloaded", 429, json!("rate_limit_exceeded")),
        ("!unavailable", 503, json!(503)),
        ("!internal", 500, json!("internal_error")),
        ("!panic", 500, json!("internal_error")),
    ] {
        let reply = server.post_json("/v1/embeddings", json!({ "input": text })).await;
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (status, &code), "{text}");
        // Ollama's clients know a full queue by another status.
        let status = if status == 429 { 503 } else { status };
        let reply = server.post_json("/api/embed", json!({ "input": text, "truncate": false })).await;
        assert_eq!((reply.status, reply.json()["error"].is_string()), (status, true), "{text}");
    }
    let reply = server.post_json("/v1/embeddings", json!({ "input": "a", "model": "other" })).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
    let reply = server.post_json("/v1/embeddings", json!({ "input": [] })).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("input")));
    let reply = server.post_json("/api/embed", json!({ "input": 5 })).await;
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"].as_str().unwrap().contains("`input`"), "{}", reply.body);
    let reply = server.post_json("/v1/rerank", json!({ "query": "a" })).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("documents")));
}

/// Long vectors are written aside, large bodies read there.
#[tokio::test]
async fn much_at_once() {
    let server = start().await;
    let texts: Vec<String> = (0..600).map(|i| "d".repeat(600 + i % 3)).collect();
    let reply = ask(&server, "/v1/embeddings", json!({ "input": texts, "dimensions": 200 })).await;
    let data = reply["data"].as_array().unwrap();
    assert_eq!((data.len(), data[599]["embedding"].as_array().unwrap().len()), (600, 200));
    assert_eq!((&data[599]["index"], &data[599]["embedding"][100]), (&json!(599), &json!(1.0)));
}

/// A request that hangs, and is with the provider.
async fn hung(server: &Running) -> tokio::net::TcpStream {
    let body = json!({ "input": "!hang" }).to_string();
    let mut client = server.connect().await;
    let head = post_head("/v1/embeddings", "", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    while server.provider.live.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let server = start().await;
    drop(hung(&server).await);
    server.idle().await;
    let page = server.get("/metrics").await.body;
    assert!(page.contains("outcome=\"aborted\"} 1"), "{page}");
}

#[tokio::test]
async fn a_server_that_ends_says_so() {
    let config = ServerConfig { shutdown_grace: Duration::from_millis(100), ..config() };
    let mut server = start_with(config, true).await;
    let mut client = hung(&server).await;
    server.begin_stop();
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("shutting down"), "{reply}");
    server.idle().await;
    server.stopped().await;
}
