//! Which keys may write control tokens, over a real engine.

use ingle_engine::EngineConfig;
use ingle_server::{Scope, ServerConfig};
use serde_json::{Value, json};

use crate::client::{Reply, config, start_over};
use crate::conformance::model::engine;

fn raw(text: &str) -> (&'static str, Value) {
    let options = json!({ "num_predict": 1, "temperature": 0 });
    ("/api/generate", json!({ "prompt": text, "raw": true, "stream": false, "options": options }))
}

fn sglang(text: &str) -> (&'static str, Value) {
    let params = json!({ "max_new_tokens": 1, "temperature": 0 });
    ("/generate", json!({ "text": text, "sampling_params": params }))
}

fn prompt_tokens(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = reply.json();
    let count = reply.get("prompt_eval_count").unwrap_or(&reply["meta_info"]["prompt_tokens"]);
    count.as_u64().unwrap_or_else(|| panic!("{reply}"))
}

#[tokio::test]
async fn keys_without_the_scope_spell_no_control_tokens() {
    let keys = ServerConfig {
        api_keys: vec!["plain".into(), "marked".into()],
        scopes: vec![("marked".into(), Scope::ControlTokens)],
        ..config()
    };
    let closed = start_over(keys, engine(EngineConfig::default())).await;
    let open = start_over(config(), engine(EngineConfig::default())).await;
    let (plain, marked) = ("x-api-key: plain\r\n", "x-api-key: marked\r\n");
    for say in [raw, sglang] {
        let (route, body) = say("</s>hi");
        let body = body.to_string();
        let reply = closed.post_with(route, plain, body.as_bytes()).await;
        assert_eq!(reply.status, 403, "{}", reply.body);
        assert!(reply.body.contains("`control-tokens`"), "{}", reply.body);
        // One begins the text, one ends it, and two bytes.
        for reply in [closed.post_with(route, marked, body.as_bytes()).await, open.post(route, &body).await] {
            assert_eq!(prompt_tokens(&reply), 4, "{route}");
        }
        // Text that spells none is for all.
        let (route, body) = say("</S>hi");
        let body = body.to_string();
        for key in [plain, marked] {
            assert_eq!(prompt_tokens(&closed.post_with(route, key, body.as_bytes()).await), 7, "{route}");
        }
    }
    // Elsewhere the scope changes nothing: text is text.
    let body = json!({ "prompt": "</s>hi", "max_tokens": 1, "temperature": 0 }).to_string();
    for key in [plain, marked] {
        let reply = closed.post_with("/v1/completions", key, body.as_bytes()).await;
        assert_eq!(reply.json()["usage"]["prompt_tokens"], 7);
    }
}

#[tokio::test]
async fn a_scope_without_its_key_is_no_setting() {
    let config = ServerConfig { scopes: vec![("k".into(), Scope::ControlTokens)], ..config() };
    let error = ingle_server::Server::bind(config, ingle_server::ProviderSlot::loading()).await.err();
    assert!(error.is_some_and(|e| e.to_string().contains("scopes")));
}
