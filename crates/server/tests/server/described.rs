//! Replies beside what `/openapi.json` says of them: every reply that the client of these tests reads is compared.

use std::sync::LazyLock;

use serde_json::Value;

use crate::client::Reply;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&ingle_api::openapi::document()).expect("the description is JSON"));

/// Headers that say nothing about the API: of connections, caches and browsers.
const OF_TRANSPORT: &[&str] = &[
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
    "vary",
    "x-accel-buffering",
    "x-content-type-options",
];

/// Panics if a reply has a status or a header that is not described, or lacks a header that it must have. Requests that are
/// no operation are none of the description's.
pub fn check(message: &[u8], reply: &Reply) {
    let line = message.split(|b| *b == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
    let path = target.split('?').next().unwrap_or_default();
    let Some(operation) = operation(method, path) else { return };
    // What is no HTTP is refused before anybody knows what it is.
    if reply.header("x-request-id").is_none() {
        return;
    }
    let mut described = &operation["responses"][reply.status.to_string()];
    if let Some(Value::String(reference)) = described.get("$ref") {
        described = DOCUMENT.pointer(&reference[1..]).expect("references lead somewhere");
    }
    let Value::Object(headers) = &described["headers"] else {
        panic!("{method} {path}: status {} is not described: {}", reply.status, reply.body);
    };
    for (name, _) in reply.headers().filter(|(name, _)| !OF_TRANSPORT.contains(&name.as_str())) {
        let is_cors = name.starts_with("access-control-");
        assert!(
            is_cors || headers.contains_key(&name),
            "{method} {path} {}: `{name}` is not described",
            reply.status
        );
    }
    for (name, described) in headers {
        let reference = described["$ref"].as_str().expect("headers stand among the components");
        let required = &DOCUMENT.pointer(&reference[1..]).expect("references lead somewhere")["required"];
        let is_there = reply.header(name).is_some();
        assert!(is_there || required == false, "{method} {path} {}: `{name}` is missing", reply.status);
    }
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object()?;
    let fits = |template: &&String| {
        let mut parts = path.split('/');
        let all = template.split('/').all(|part| match parts.next() {
            Some(given) => part == given || part.starts_with('{') && !given.is_empty(),
            None => false,
        });
        // A model's name may have slashes.
        all && (parts.next().is_none() || template.as_str() == "/v1/models/{id}")
    };
    let template = paths.get_key_value(path).map(|(template, _)| template);
    let template = template.or_else(|| paths.keys().find(fits))?;
    paths[template].get(method.to_lowercase())
}

#[test]
fn paths_lead_to_operations() {
    for (method, path, expected) in [
        ("GET", "/v1/models", Some("get_v1_models")),
        ("GET", "/v1/models/org/m", Some("get_v1_models_id")),
        ("DELETE", "/v1/responses/resp-1", Some("delete_v1_responses_id")),
        ("GET", "/v1/responses/resp-1/input_items", Some("get_v1_responses_id_input_items")),
        ("GET", "/", Some("get_root")),
        ("PUT", "/v1/models", None),
        ("GET", "/v1/responses/", None),
        ("GET", "/v1", None),
    ] {
        let found = operation(method, path).map(|found| found["operationId"].as_str().expect("a name"));
        assert_eq!(found, expected, "{method} {path}");
    }
}
