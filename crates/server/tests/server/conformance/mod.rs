//! One table of cases, run in every dialect, whole and streamed: what a request means must not depend on the dialect
//! in which it is said.
//!
//! `cases` has the table in neutral terms. A module for each dialect says a case in its words, and reads what comes
//! back. The server runs a real engine; `model` is the model in it.

mod anthropic;
mod cases;
mod chat;
mod corpus;
mod hostile;
pub mod model;
mod neutral;
mod ollama;
mod responses;

use std::fmt::Write;

use ingle_engine::{Engine, EngineConfig};
use ingle_server::ServerConfig;
use serde_json::Value;

use crate::client::{Reply, Running, config, start_over};
use neutral::{Answer, Case, Expect, Finish, Kind, Outcome, Refusal};

/// The key that the server asks for.
const KEY: &str = "conformance-key";

/// A case in the words of a dialect: the body, or why it cannot be said.
type Said = Result<Value, &'static str>;

/// How a dialect is spoken.
struct Dialect {
    name: &'static str,
    route: &'static str,
    /// A case as a body; streamed or not.
    say: fn(&Case, bool) -> Said,
    /// Where a neutral field is in a body, as a path; `None` if the dialect has no such field.
    field: fn(&str) -> Option<&'static str>,
    read: fn(&Value) -> Answer,
    read_stream: fn(&Reply) -> Answer,
    /// What kind of error a body is.
    kind: fn(u16, &Value) -> Kind,
    /// Whether a reply names the stop string that ended it.
    names_stop: bool,
}

const DIALECTS: [Dialect; 4] = [chat::DIALECT, responses::DIALECT, anthropic::DIALECT, ollama::DIALECT];

impl Dialect {
    /// The case as bytes, with its flaw in it.
    fn body(&self, case: &Case, stream: bool) -> Result<Vec<u8>, &'static str> {
        let mut body = (self.say)(case, stream)?;
        for (field, value) in &case.set {
            let path = (self.field)(field).ok_or("it has no such field")?;
            set(&mut body, path, value);
        }
        Ok(match case.garble {
            Some(garble) => garble(&body.to_string()),
            None => body.to_string().into_bytes(),
        })
    }

    fn outcome(&self, case: &Case, stream: bool, reply: &Reply) -> Outcome {
        if reply.status == 200 {
            let read =
                |reply: &Reply| if stream { (self.read_stream)(reply) } else { (self.read)(&reply.json()) };
            return Outcome::Answered(read(reply));
        }
        let body = reply.json();
        let about = case.about.map(|field| (self.field)(field).unwrap_or(field));
        let names = about.is_none_or(|path| reply.body.contains(path));
        assert!(
            names,
            "{} {}: `{}` is not named: {}",
            case.name,
            self.name,
            about.unwrap_or_default(),
            reply.body
        );
        let retry_after = reply.header("retry-after").is_some();
        Outcome::Refused(Refusal { kind: (self.kind)(reply.status, &body), retry_after })
    }

    /// What of an outcome this dialect can tell.
    fn sees(&self, outcome: &Outcome) -> Outcome {
        let mut outcome = outcome.clone();
        if let Outcome::Answered(Answer { finish, .. }) = &mut outcome
            && matches!(finish, Finish::StopString(_))
            && !self.names_stop
        {
            *finish = Finish::Stop;
        }
        outcome
    }
}

/// Puts a value at a path such as `messages[0].role`; `null` takes the field away.
fn set(body: &mut Value, path: &str, value: &Value) {
    let pointer = format!("/{}", path.replace('[', ".").replace(']', "").replace('.', "/"));
    let (parent, name) = pointer.rsplit_once('/').expect("a path begins with a slash");
    // Objects on the way, such as `options`, that this case has no other use for.
    let first = parent.trim_start_matches('/').to_owned();
    if body.pointer(parent).is_none() && !first.is_empty() && !first.contains('/') {
        body[&first] = Value::Object(serde_json::Map::new());
    }
    match body.pointer_mut(parent) {
        Some(Value::Object(map)) if value.is_null() => _ = map.shift_remove(name),
        Some(Value::Object(map)) => _ = map.insert(name.to_owned(), value.clone()),
        Some(Value::Array(list)) => list[name.parse::<usize>().expect("a place in a list")] = value.clone(),
        other => panic!("nothing can be put at {path}: {other:?}"),
    }
}

async fn serve(engine_config: EngineConfig) -> Running<Engine> {
    let keys = ServerConfig { api_keys: vec![KEY.to_owned()], ..config() };
    start_over(keys, model::engine(engine_config)).await
}

/// Runs a case in all dialects. Says what came, and who could not say it.
async fn run(server: &Running<Engine>, case: &Case) -> String {
    let mut seen: Option<(String, Outcome)> = None;
    let mut unsaid = String::new();
    for dialect in &DIALECTS {
        for stream in [false, true] {
            let body = match dialect.body(case, stream) {
                Ok(body) => body,
                Err(reason) => {
                    if !stream {
                        writeln!(unsaid, "  not in {}: {reason}", dialect.name).expect("a String");
                    }
                    continue;
                }
            };
            let headers =
                case.headers.unwrap_or("Content-Type: application/json\r\nx-api-key: conformance-key\r\n");
            let reply = server.post_with(dialect.route, headers, &body).await;
            let place = format!("{}, {}, stream {stream}", case.name, dialect.name);
            let sent = String::from_utf8_lossy(&body);
            let outcome = dialect.outcome(case, stream, &reply);
            if let Some(expected) = case.expect.outcome() {
                let same = outcome.same_meaning(&dialect.sees(&expected));
                assert!(
                    same,
                    "{place}\nsent: {sent}\nexpected: {expected:?}\ngot: {outcome:?}\n{}",
                    reply.body
                );
            }
            match &seen {
                None => seen = Some((place, outcome)),
                Some((first, other)) => {
                    let (a, b) = (dialect.sees(other), outcome);
                    assert_eq!(a, b, "{first} and {place} differ; the latter sent {sent}\n{}", reply.body);
                }
            }
        }
    }
    let (_, outcome) = seen.unwrap_or_else(|| panic!("no dialect can say {}", case.name));
    if let Expect::Alike = case.expect {
        assert!(matches!(outcome, Outcome::Answered(_)), "{}: {outcome:?}", case.name);
    }
    format!("{}\n  {outcome}\n{unsaid}", case.name)
}

/// The table. What each case gave, and which dialects cannot say it, stands in the fixture.
#[tokio::test]
async fn dialects_agree() {
    let server = serve(EngineConfig::default()).await;
    let cases = cases::cases();
    let mut report = String::new();
    for case in &cases {
        report += &run(&server, case).await;
    }
    crate::fixtures::check("conformance.txt", &report);
    assert!(cases.len() >= 40, "{}", cases.len());
}

/// A queue that is full is full in all dialects, and says when to come back.
#[tokio::test]
async fn dialects_agree_about_a_full_queue() {
    let full = serve(EngineConfig { max_waiting_requests: 0, ..EngineConfig::default() }).await;
    let case =
        Case { expect: Expect::Refused(Kind::Overloaded), ..neutral::ask("too much waits", "⟦Hi.⟧") };
    run(&full, &case).await;
}
