//! What requests say about when they are served: `priority`, and how long they may take. Over a real engine.

use std::time::Duration;

use ingle_engine::EngineConfig;
use ingle_server::{Scope, ServerConfig};
use serde_json::{Value, json};

use crate::client::{config, start_over};
use crate::conformance::model::{engine, slow_engine};

/// The routes that take `priority`, with a body each.
fn routes() -> [(&'static str, Value); 6] {
    let ask = json!([{ "role": "user", "content": "hi" }]);
    [
        ("/v1/chat/completions", json!({ "messages": ask, "max_tokens": 2 })),
        ("/v1/completions", json!({ "prompt": "hi", "max_tokens": 2 })),
        ("/v1/responses", json!({ "input": "hi", "max_output_tokens": 2, "store": false })),
        ("/generate", json!({ "text": "hi", "sampling_params": { "max_new_tokens": 2 } })),
        ("/v1/embeddings", json!({ "input": "hi" })),
        ("/v1/rerank", json!({ "query": "hi", "documents": ["ho"] })),
    ]
}

#[tokio::test]
async fn only_keys_with_the_scope_go_before_others() {
    let keys = ServerConfig {
        api_keys: vec!["plain".into(), "first".into()],
        scopes: vec![("first".into(), Scope::Priority)],
        ..config()
    };
    let closed = start_over(keys, engine(EngineConfig::default())).await;
    let open = start_over(config(), engine(EngineConfig::default())).await;
    for (route, body) in routes() {
        let with = |priority: i64| {
            let mut body = body.clone();
            body["priority"] = priority.into();
            body.to_string()
        };
        for (key, priority, status) in
            [("plain", -1, 403), ("plain", 5, 200), ("first", -1, 200), ("first", 101, 400)]
        {
            let key = format!("x-api-key: {key}\r\n");
            let reply = closed.post_with(route, &key, with(priority).as_bytes()).await;
            assert_eq!(reply.status, status, "{route} {key}{priority}: {}", reply.body);
            if status != 200 {
                assert!(reply.body.contains("`priority`"), "{}", reply.body);
            }
        }
        assert_eq!(open.post(route, &with(-100)).await.status, 200, "{route}: without keys everyone may");
    }
}

#[tokio::test]
async fn headers_say_how_long_a_request_may_take() {
    let server = start_over(config(), slow_engine(Duration::from_millis(20))).await;
    let endless = |extra: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 3000 });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body.to_string()
    };
    let short = "x-request-timeout: 0.3\r\n";
    let reply = server
        .post_with("/v1/chat/completions", short, endless(json!({"ignore_eos": true})).as_bytes())
        .await;
    assert_eq!(reply.status, 504, "{}", reply.body);
    assert_eq!(reply.json()["error"]["code"], "deadline_exceeded");
    assert!(reply.body.contains("0.3 s"), "{}", reply.body);

    let body = endless(json!({ "ignore_eos": true, "stream": true }));
    // Long enough for its head, however busy the machine is.
    let longer = "x-request-timeout: 3\r\n";
    let reply = server.post_with("/v1/chat/completions", longer, body.as_bytes()).await;
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let last = events.last().expect("it has events");
    assert!(last.contains("deadline_exceeded"), "{last}");
    assert!(!reply.body.contains("\"finish_reason\":\"") && !reply.body.contains("[DONE]"), "{}", reply.body);

    let body = endless(json!({ "ignore_eos": true })).to_string();
    let reply = server.post_with("/v1/messages", short, body.as_bytes()).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (504, &json!("timeout_error")),
        "{}",
        reply.body
    );

    let body =
        json!({ "model": "parrot", "prompt": "hi", "stream": false, "options": { "num_predict": 3000 } });
    let reply = server.post_with("/api/generate", short, body.to_string().as_bytes()).await;
    assert!(reply.status == 504 || reply.status == 200, "{}", reply.body);

    for (name, value) in [
        ("x-request-timeout", "soon"),
        ("x-request-timeout", "0"),
        ("x-request-timeout", "-1"),
        ("x-queue-timeout", "1e9"),
        ("x-queue-timeout", "NaN"),
        ("x-queue-timeout", ""),
    ] {
        let header = format!("{name}: {value}\r\n");
        let reply = server.post_with("/v1/chat/completions", &header, endless(json!({})).as_bytes()).await;
        assert_eq!(reply.status, 400, "{header}: {}", reply.body);
        assert!(reply.body.contains(name), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_weight_without_its_key_is_no_setting() {
    for (weights, api_keys) in
        [(vec![("k".to_owned(), 2)], vec![]), (vec![("k".to_owned(), 0)], vec!["k".to_owned()])]
    {
        let config = ServerConfig { weights, api_keys, ..config() };
        let error = ingle_server::Server::bind(config, ingle_server::ProviderSlot::loading()).await.err();
        assert!(error.is_some_and(|e| e.to_string().contains("weights")));
    }
}
