//! Gaps in texts: llama-server's `/infill`, and `suffix` of OpenAI's completions and Ollama's generate.

use serde_json::{Value, json};

use crate::client::{Running, start};

async fn ask(server: &Running, route: &str, body: Value) -> Value {
    let reply = server.post_json(route, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

/// The gap is the same in all dialects.
#[tokio::test]
async fn gaps() {
    const SAID: &str = "You said: a([gap])";
    let server = start().await;
    let reply = ask(&server, "/infill", json!({ "input_prefix": "a(", "input_suffix": ")" })).await;
    assert_eq!(reply["content"], SAID);
    let reply =
        ask(&server, "/v1/completions", json!({ "prompt": "a(", "suffix": ")", "max_tokens": 99 })).await;
    assert_eq!(reply["choices"][0]["text"], SAID);
    let body = json!({ "prompt": ["a(", "b("], "suffix": ")", "max_tokens": 99 });
    let reply = ask(&server, "/v1/completions", body).await;
    assert_eq!(reply["choices"][1]["text"], "You said: b([gap])");
    let reply =
        ask(&server, "/api/generate", json!({ "prompt": "a(", "suffix": ")", "stream": false })).await;
    assert_eq!(reply["response"], SAID);
    // Nothing behind the prompt: it is continued.
    let reply =
        ask(&server, "/v1/completions", json!({ "prompt": "a(", "suffix": "", "max_tokens": 99 })).await;
    assert_eq!(reply["choices"][0]["text"], "You said: a(");
}

#[tokio::test]
async fn whole_and_streamed() {
    let server = start().await;
    let cases = [
        (json!({}), "You said: a([gap])", "eos", ""),
        (json!({ "n_predict": 3 }), "You", "limit", ""),
        (json!({ "stop": ["said"] }), "You ", "word", "said"),
    ];
    for (more, text, stop_type, stopping_word) in cases {
        let mut body = json!({ "input_prefix": "a(", "input_suffix": ")" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let whole = ask(&server, "/infill", body.clone()).await;
        assert_eq!((&whole["content"], &whole["stop"]), (&json!(text), &json!(true)));
        assert_eq!(
            (&whole["stop_type"], &whole["stopping_word"]),
            (&json!(stop_type), &json!(stopping_word))
        );
        assert_eq!(whole["tokens_predicted"], text.len());
        assert_eq!(whole["model"], "scripted");

        body["stream"] = json!(true);
        let events: Vec<Value> = server
            .post_json("/infill", body)
            .await
            .events()
            .iter()
            .map(|event| serde_json::from_str(event).expect("JSON"))
            .collect();
        let (last, before) = events.split_last().expect("events");
        let pieces: String = before.iter().map(|e| e["content"].as_str().expect("text")).collect();
        assert_eq!(pieces, text);
        assert!(before.iter().all(|e| e["stop"] == false));
        assert_eq!(last["content"], "");
        let (mut last, mut whole) = (last.clone(), whole);
        (last["content"], whole["content"]) = (Value::Null, Value::Null);
        assert_eq!(last, whole, "the end says the same");
    }
}

#[tokio::test]
async fn failures() {
    let server = start().await;
    let body = |prefix: &str, stream: bool| json!({ "input_prefix": prefix, "stream": stream });
    let reply = server.post_json("/infill", json!({ "prompt": "x" })).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("input_prefix")));
    let reply = server.post_json("/infill", body(&"x".repeat(5000), false)).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert_eq!(server.get("/infill").await.status, 405);
}
