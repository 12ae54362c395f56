//! Thousands of broken bodies: each is refused at once, and with the same verdict in all dialects.

use std::fmt::Write;
use std::time::{Duration, Instant};

use ingle_engine::EngineConfig;
use serde_json::{Value, json};

use super::neutral::{Case, Choice, Format, Tool, ask};
use super::{DIALECTS, serve};
use crate::fixtures::check;

const HEADERS: &str = "Content-Type: application/json\r\nx-api-key: conformance-key\r\n";
/// The aim is 50 ms on an idle machine; the bound leaves room for a busy one.
const VERDICT_MAX: Duration = Duration::from_secs(20);

const FIELDS: [&str; 17] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "max tokens",
    "stop",
    "stream",
    "model",
    "conversation",
    "role",
    "content",
    "tools",
    "tool",
    "tool name",
    "tool schema",
    "tool choice",
    "format",
];

fn values() -> Vec<Value> {
    let mut deep = json!(0);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(-1e308),
        json!(9_223_372_036_854_775_807i64),
        json!(18_446_744_073_709_551_615u64),
        json!(""),
        json!("x"),
        json!("5"),
        json!("y".repeat(3000)),
        json!([]),
        json!([[]]),
        json!([{}]),
        json!([1]),
        json!(["x"]),
        json!([null]),
        json!({}),
        json!({ "type": "x" }),
        json!({ "a": { "b": [] } }),
        deep,
    ]
}

/// A case that has every field.
fn whole() -> Case {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "boolean" } } });
    let tool = Tool { name: "f", description: "d", schema: schema.clone(), strict: false };
    Case {
        tools: vec![tool],
        choice: Choice::Auto,
        format: Some(Format::Schema(schema)),
        stop: vec!["END"],
        max_tokens: Some(20),
        seed: Some(1),
        top_k: Some(40),
        top_p: Some(0.9),
        model: Some("parrot"),
        ..ask("the whole", "⟦{}⟧")
    }
}

/// Where verdicts differ, because dialects do, stands in the fixture.
#[tokio::test]
async fn wrong_values() {
    let server = serve(EngineConfig::default()).await;
    let (mut report, mut n) = (String::new(), 0);
    for field in FIELDS {
        for value in values() {
            let case = Case { set: vec![(field, value.clone())], ..whole() };
            let mut verdicts: Vec<(&str, u16)> = Vec::new();
            for dialect in &DIALECTS {
                let Ok(body) = dialect.body(&case, false) else { continue };
                let begun = Instant::now();
                let reply = server.post_with(dialect.route, HEADERS, &body).await;
                assert!(begun.elapsed() < VERDICT_MAX, "{field}: {value}");
                assert!(
                    matches!(reply.status, 200 | 400 | 404),
                    "{}: {field}: {value}: {}",
                    dialect.name,
                    reply.body
                );
                verdicts.push((dialect.name, reply.status));
                n += 1;
            }
            if verdicts.iter().any(|(_, status)| *status != verdicts[0].1) {
                let shown: String = value.to_string().chars().take(30).collect();
                let verdicts: Vec<String> =
                    verdicts.iter().map(|(name, status)| format!("{name} {status}")).collect();
                writeln!(report, "{field}: {shown}: {}", verdicts.join(", ")).expect("a String");
            }
        }
    }
    check("verdicts.txt", &report);
    assert!(n > 1200, "{n}");
}

/// Bodies cut, with bytes that break them, deep, large and long.
#[tokio::test]
async fn broken_bodies() {
    let server = serve(EngineConfig::default()).await;
    let mut n = 0;
    for dialect in &DIALECTS {
        let good = dialect.body(&ask("good", "⟦Hi.⟧ h\u{e9}\u{1f600}y"), false).expect("it can be said");
        assert_eq!(server.post_with(dialect.route, HEADERS, &good).await.status, 200);
        let mut bodies: Vec<Vec<u8>> = (0..good.len()).map(|cut| good[..cut].to_vec()).collect();
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            bodies.push([b"{\"stop\":", open.repeat(100_000).as_bytes()].concat());
        }
        bodies.push([b"\xef\xbb\xbf", &good[..]].concat());
        for tail in [&b"x"[..], b"{}", b"\0", b",", b"]", b"\xff"] {
            bodies.push([&good[..], tail].concat());
        }
        for number in ["1e999", "-1e999", "0x10", "01", "+1", ".5", "1.", "NaN", "Infinity", "1e", "--1"] {
            bodies.push([b"{\"seed\":", number.as_bytes(), b",", &good[1..]].concat());
        }
        bodies.push([b"{\"model\":\"a\",\"model\":\"a\",", &good[1..]].concat());
        bodies.push(format!("{{\"stop\":[{}\"x\"]}}", "\"x\",".repeat(1_100_000)).into_bytes());
        for i in 0..good.len() {
            for new in *b"\x00\xff{}[" {
                let mut body = good.clone();
                body[i] = new;
                bodies.push(body);
            }
        }
        let mut refused = 0;
        for body in &bodies {
            let begun = Instant::now();
            let reply = server.post_with(dialect.route, HEADERS, body).await;
            let took = begun.elapsed();
            let size = body.len();
            assert!(took < VERDICT_MAX || size > 1_000_000, "{}: {took:?} for {size} bytes", dialect.name);
            assert!(matches!(reply.status, 200 | 400 | 404), "{}: {}", reply.status, reply.body);
            refused += usize::from(reply.status != 200);
        }
        // What changes a letter of the text is another good body.
        assert!(refused * 10 > bodies.len() * 7, "{}: {refused} of {}", dialect.name, bodies.len());
        n += bodies.len();
        assert_eq!(server.post_with(dialect.route, HEADERS, &good).await.status, 200);
    }
    assert!(n > 2000, "{n}");
}

/// What is no JSON body of this size and type is refused before it is read.
#[tokio::test]
async fn sizes_and_types() {
    let server = serve(EngineConfig::default()).await;
    for dialect in &DIALECTS {
        let good = dialect.body(&ask("good", "⟦Hi.⟧"), false).expect("it can be said");
        let announced = crate::client::post_head(dialect.route, HEADERS, 1 << 30);
        assert_eq!(server.send(&announced).await.status, 413, "{}", dialect.name);
        let page =
            "Content-Type: text/plain\r\nOrigin: http://evil.example\r\nx-api-key: conformance-key\r\n";
        assert_eq!(server.post_with(dialect.route, page, &good).await.status, 415, "{}", dialect.name);
        let packed = format!("{HEADERS}Content-Encoding: gzip\r\n");
        assert_eq!(server.post_with(dialect.route, &packed, &good).await.status, 415, "{}", dialect.name);
    }
}
