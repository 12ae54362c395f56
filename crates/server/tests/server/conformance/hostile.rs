//! Formats and requests that are made to break servers: each gets a verdict, an answer that runs beside it stays what
//! it is, and nothing is left behind.

use std::time::{Duration, Instant};

use ingle_chat::Provider;
use ingle_engine::{Engine, EngineConfig};
use serde_json::{Map, Value, json};

use super::neutral::{Answer, Case, Format, ask};
use super::{DIALECTS, Dialect, chat, serve};
use crate::client::Running;

const HEADERS: &str = "Content-Type: application/json\r\nx-api-key: conformance-key\r\n";
/// Far above what a verdict takes, also on a busy machine: this is about hangs.
const VERDICT_MAX: Duration = Duration::from_secs(60);

fn nested(open: &str, close: &str, n: usize) -> String {
    format!("{}{}", open.repeat(n), close.repeat(n))
}

fn expressions() -> Vec<String> {
    let mut all: Vec<String> = [
        "(a+)+b",
        "(a|a)*",
        "a{65536}",
        "(a{1000}){1000}",
        "[\\x00-\\u2e7f]+",
        "^(|.*)$",
        "foo**",
        "^+[a-z]$",
        "^{2}t$",
        "[a",
        "(?<=a)b",
        "(?<!a)b",
        "(a)\\1",
        "\\p{Nonsense}",
        "a{4294967296}",
        "a{5,3}",
        "\\",
        "(?P<x",
    ]
    .map(str::to_owned)
    .into();
    all.push(nested("(", ")", 60_000));
    all
}

fn schemas() -> Vec<Value> {
    let many = |n: usize, of: fn(usize) -> Value| Value::from((0..n).map(of).collect::<Vec<_>>());
    let chain: Map<String, Value> =
        (0..20_000).map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }))).collect();
    let mut deep = json!({ "type": "integer" });
    for _ in 0..60 {
        deep = json!({ "items": deep });
    }
    let long = "prefix ".repeat(8);
    let mut all = vec![
        json!({ "anyOf": many(2000, |_| json!({ "type": "object", "properties": { "a": { "type": "string" } } })) }),
        json!({ "allOf": [{ "type": "integer", "minimum": 10 }, { "maximum": 5 }] }),
        json!({ "$ref": "#" }),
        json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        json!({ "$defs": chain, "$ref": "#/$defs/d0" }),
        json!({ "$ref": "http://localhost/schema" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "enum": (0..9000).map(|n| format!("{long}{n}")).collect::<Vec<_>>() }),
        json!({ "enum": (0..12_000).map(|n| format!("{n}")).collect::<Vec<_>>() }),
        json!({ "type": "number", "multipleOf": 1e-300 }),
        json!({ "type": "array", "minItems": 1_000_000_000 }),
        json!({ "anyOf": [{ "type": "string", "maxLength": 65_536 }, { "type": "null" }] }),
        json!({ "type": "object", "properties": {} }),
        json!({ "type": "object", "properties": { "\"": true, "\u{0}": true, "😀": true, "b".repeat(65_536): true } }),
        json!({ "type": "something" }),
        json!({ "type": "object", "properties": { "a": true, "b": false } }),
        json!({ "$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 1, "exclusiveMinimum": true }),
        json!({ "type": "integer", "minimum": 1e30, "maximum": 2e30 }),
        json!({ "type": "integer", "minimum": 18_446_744_073_709_551_615u64 }),
        json!({ "type": "integer", "minimum": -1e308, "maximum": 1e308 }),
        json!({ "type": "object", "patternProperties": { "(a+)+$": { "type": "string" } } }),
        deep,
    ];
    all.extend(expressions().into_iter().map(|pattern| json!({ "type": "string", "pattern": pattern })));
    all
}

/// An answer that takes a while.
fn control() -> Case {
    ask("control", "⟦The quick brown fox jumps over the lazy dog, and then it does it all over again.⟧")
}

async fn read_control(server: &Running<Engine>) -> Answer {
    let body = chat::DIALECT.body(&control(), true).expect("it can be said");
    let reply = server.post_with(chat::DIALECT.route, HEADERS, &body).await;
    (chat::DIALECT.read_stream)(&reply)
}

/// Sends a body while another answer runs, which has to be as it always is.
async fn survive(
    server: &Running<Engine>,
    golden: &Answer,
    dialect: &Dialect,
    body: &[u8],
    what: &str,
) -> u16 {
    let begun = Instant::now();
    let (reply, beside) = tokio::join!(server.post_with(dialect.route, HEADERS, body), read_control(server));
    let took = begun.elapsed();
    assert!(took < VERDICT_MAX, "{what} took {took:?}");
    assert!(matches!(reply.status, 200 | 400), "{what}: {}: {}", reply.status, reply.body);
    assert_eq!(&beside, golden, "beside {what}");
    reply.status
}

async fn leaves_nothing(server: &Running<Engine>) {
    let begun = Instant::now();
    loop {
        let status = server.provider.status();
        if (status.running, status.waiting, status.kv_blocks_used) == (0, 0, 0) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "something is left: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn formats() {
    let server = serve(EngineConfig::default()).await;
    let golden = read_control(&server).await;
    for schema in schemas() {
        let what = short(&schema.to_string());
        let case =
            Case { format: Some(Format::Schema(schema)), max_tokens: Some(4), ..ask("hostile", "⟦x⟧") };
        let mut verdicts = Vec::new();
        for dialect in &DIALECTS {
            let body = dialect.body(&case, false).expect("it can be said");
            verdicts.push(survive(&server, &golden, dialect, &body, &what).await);
        }
        assert!(verdicts.iter().all(|status| *status == verdicts[0]), "{what}: {verdicts:?}");
    }
    for field in ["regex", "grammar", "guided_json"] {
        for text in expressions() {
            let mut body: Value = (chat::DIALECT.say)(&ask("hostile", "⟦x⟧"), false).expect("it can be said");
            body[field] = json!(text);
            body["max_tokens"] = json!(4);
            survive(&server, &golden, &chat::DIALECT, body.to_string().as_bytes(), &short(&text)).await;
        }
    }
    // A schema as text whose keys come twice says two things.
    for text in ["{\"type\":\"integer\",\"type\":\"string\"}", "{\"type\":", "[]", "nonsense"] {
        let mut body: Value = (chat::DIALECT.say)(&ask("hostile", "⟦x⟧"), false).expect("it can be said");
        body["guided_json"] = json!(text);
        let body = body.to_string();
        assert_eq!(survive(&server, &golden, &chat::DIALECT, body.as_bytes(), text).await, 400, "{text}");
    }
    leaves_nothing(&server).await;
}

/// Variables for the template are data, of bounded size, and never those that the server sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn template_variables() {
    let server = serve(EngineConfig::default()).await;
    let golden = read_control(&server).await;
    let mut deep = json!(1);
    for _ in 0..20 {
        deep = json!([deep]);
    }
    let hostile = [
        (json!({ "messages": [] }), 400),
        (json!({ "tokenize": true }), 400),
        (json!({ "chat_template": "{{ 1 }}" }), 400),
        (json!({ "add_generation_prompt": false }), 400),
        (json!({ "range": 1 }), 400),
        (json!({ "x": deep }), 400),
        (json!({ "x": "y".repeat(20_000) }), 400),
        (json!({ "x": vec![1; 200] }), 400),
        (json!({ "x": { "__class__": 1 } }), 200),
    ];
    for (vars, expected) in hostile {
        for dialect in DIALECTS.iter().filter(|d| d.name != "Ollama's chat") {
            let mut body = (dialect.say)(&ask("hostile", "⟦x⟧"), false).expect("it can be said");
            body["chat_template_kwargs"] = vars.clone();
            let what = short(&vars.to_string());
            let status = survive(&server, &golden, dialect, body.to_string().as_bytes(), &what).await;
            assert_eq!(status, expected, "{}: {what}", dialect.name);
            body["chat_template_kwargs"] = Value::Null;
            body["chat_template"] = json!("{{ messages }}");
            assert_eq!(
                survive(&server, &golden, dialect, body.to_string().as_bytes(), "a template").await,
                400
            );
        }
    }
    leaves_nothing(&server).await;
}

/// What one request's format was does not matter to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_and_bad_formats_in_any_order() {
    let server = serve(EngineConfig::default()).await;
    let good = Format::Schema(
        json!({ "type": "object", "properties": { "a": { "const": 1 } }, "required": ["a"], "additionalProperties": false }),
    );
    let bad = Format::Schema(json!({ "type": "string", "pattern": "(" }));
    let kinds = [
        (Some(good), "⟦{\"a\":1}⟧", Some("{\"a\":1}")),
        (Some(bad), "⟦x⟧", None),
        (None, "⟦free⟧", Some("free")),
    ];
    let mut rng = ingle_testkit::rng::Rng::new(31);
    for _ in 0..200 {
        let (format, text, expected) = &kinds[rng.below(kinds.len())];
        let dialect = &DIALECTS[rng.below(DIALECTS.len())];
        let case = Case { format: format.clone(), ..ask("one of many", text) };
        let body = dialect.body(&case, false).expect("it can be said");
        let reply = server.post_with(dialect.route, HEADERS, &body).await;
        match expected {
            Some(text) => assert_eq!((dialect.read)(&reply.json()).text, *text),
            None => assert_eq!(reply.status, 400),
        }
    }
    leaves_nothing(&server).await;
}
