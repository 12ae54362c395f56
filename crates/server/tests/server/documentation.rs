//! The documentation names what the code knows.

use ingle_api::anthropic::refused as anthropic;
use ingle_api::native::generate::{HARMLESS_GENERATE, HARMLESS_SAMPLING, REFUSED_GENERATE};
use ingle_api::native::infill::{HARMLESS_INFILL, REFUSED_INFILL};
use ingle_api::native::rerank::{HARMLESS_RERANK, REFUSED_RERANK};
use ingle_api::openai::constraint::constraint_fields;
use ingle_api::openai::embeddings::{HARMLESS_EMBEDDINGS, REFUSED_EMBEDDINGS};
use ingle_api::openai::refused::{
    HARMLESS, HARMLESS_CHAT, HARMLESS_COMPLETION, REFUSED, REFUSED_CHAT, REFUSED_COMPLETION,
};
use ingle_api::openai::responses::refused::{HARMLESS_RESPONSES, REFUSED_RESPONSES};
use ingle_api::openai::sampling::numeric_fields;
use ingle_server::ServerConfig;

use crate::client::{config, start_with};

#[tokio::test]
async fn the_description_needs_no_key() {
    let server = start_with(ServerConfig { api_keys: vec!["key".into()], ..config() }, false).await;
    let reply = server.get("/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    assert_eq!(reply.body, ingle_api::openapi::document());
    assert_eq!(server.get("/v1/models").await.status, 401);
}

#[test]
fn every_field_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
    let page = std::fs::read_to_string(path).expect("docs/api.md");
    let refused = [
        REFUSED,
        REFUSED_CHAT,
        REFUSED_COMPLETION,
        REFUSED_GENERATE,
        REFUSED_INFILL,
        anthropic::REFUSED,
        REFUSED_RESPONSES,
        REFUSED_EMBEDDINGS,
        REFUSED_RERANK,
    ]
    .concat();
    let harmless = [
        HARMLESS,
        HARMLESS_CHAT,
        HARMLESS_COMPLETION,
        HARMLESS_GENERATE,
        HARMLESS_SAMPLING,
        HARMLESS_INFILL,
        anthropic::HARMLESS,
        HARMLESS_RESPONSES,
        HARMLESS_EMBEDDINGS,
        HARMLESS_RERANK,
    ]
    .concat();
    let names = refused.iter().map(|f| f.name).chain(harmless.iter().map(|f| f.name));
    for name in names.chain(numeric_fields().map(|f| f.0)).chain(constraint_fields()) {
        assert!(page.contains(&format!("`{name}`")), "`{name}` is not in docs/api.md");
    }
}

#[test]
fn every_field_of_ollama_is_documented() {
    use ingle_api::ollama::refused::{
        EMPTY, HARMLESS, HARMLESS_EMBED, HARMLESS_OPTIONS, REFUSED, REFUSED_CHAT, REFUSED_EMBED,
        REFUSED_EMBEDDINGS, REFUSED_GENERATE, REFUSED_OPTIONS,
    };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ollama.md");
    let page = std::fs::read_to_string(path).expect("docs/ollama.md");
    let refused =
        [REFUSED, REFUSED_CHAT, REFUSED_GENERATE, EMPTY, REFUSED_OPTIONS, REFUSED_EMBED, REFUSED_EMBEDDINGS]
            .concat();
    let harmless = [HARMLESS, HARMLESS_OPTIONS, HARMLESS_EMBED].concat();
    for name in refused.iter().map(|f| f.name).chain(harmless.iter().map(|f| f.name)) {
        assert!(page.contains(&format!("`{name}`")), "`{name}` is not in docs/ollama.md");
    }
}
