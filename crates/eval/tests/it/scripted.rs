//! A server that answers as it is told, over connections in memory.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ingle_api::client::Dialect;
use ingle_eval::load::lengths::Lengths;
use ingle_eval::load::trace::{Synthetic, Texts, Trace};
use ingle_eval::load::{Connection, Dial, Extent, Measured, Observer, Pace, Plan, Record, Stop, Target, run};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A request as it came.
pub struct Asked {
    /// How many came before it to the same path.
    pub number: usize,
    pub path: String,
    pub body: Value,
    pub authorization: Option<String>,
}

impl Asked {
    /// All text of the prompt.
    pub fn prompt(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self.body["messages"].as_array() {
            Some(messages) => messages.iter().map(|message| text(&message["content"])).collect(),
            None => {
                ["prompt", "input_prefix", "input_suffix"].iter().map(|key| text(&self.body[key])).collect()
            }
        }
    }

    /// One token per word, and three beside them.
    pub fn prompt_tokens(&self) -> usize {
        words(&self.prompt()) + 3
    }
}

pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

#[derive(Clone, Debug)]
pub enum Step {
    Wait(u64),
    Send(String),
    /// The connection breaks.
    Break,
}

pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub closes: bool,
    pub steps: Vec<Step>,
}

impl Answer {
    pub fn stream(steps: Vec<Step>) -> Self {
        Self { status: 200, content_type: "text/event-stream; charset=utf-8", closes: false, steps }
    }

    pub fn json(status: u16, body: Value) -> Self {
        let steps = vec![Step::Send(body.to_string())];
        Self { status, content_type: "application/json", closes: false, steps }
    }
}

pub fn event(data: impl std::fmt::Display) -> Step {
    Step::Send(format!("data: {data}\n\n"))
}

/// A piece of a completion.
pub fn piece(text: &str) -> Step {
    event(json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] }))
}

pub fn usage(prompt_tokens: usize, completion_tokens: usize) -> Step {
    let usage = json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens });
    event(json!({ "choices": [], "usage": usage }))
}

/// As many tokens as are asked for, the first after `first_ms`, each other after `gap_ms`.
pub fn tokens(asked: &Asked, first_ms: u64, gap_ms: u64) -> Answer {
    let n = asked.body["max_tokens"].as_u64().expect("there is a limit");
    let mut steps = Vec::new();
    for i in 0..n {
        steps.push(Step::Wait(if i == 0 { first_ms } else { gap_ms }));
        steps.push(piece("x"));
    }
    steps.push(usage(asked.prompt_tokens(), n as usize));
    steps.push(event("[DONE]"));
    Answer::stream(steps)
}

/// `/tokenize` with a token per word.
pub fn tokenized(asked: &Asked) -> Answer {
    let n = words(asked.body["content"].as_str().expect("there is a text"));
    Answer::json(200, json!({ "tokens": vec![1; n] }))
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

#[derive(Clone)]
pub struct Scripted {
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<usize>>,
}

impl Scripted {
    pub fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), asked: Arc::default(), connections: Arc::default() }
    }

    /// What came to a path so far.
    pub fn asked<T>(&self, path: &str, of: impl Fn(&Asked) -> T) -> Vec<T> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path == path).map(of).collect()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Steps>, Infallible> {
        let path = request.uri().path().to_owned();
        let authorization =
            request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.expect("the body comes").to_bytes();
        let body = serde_json::from_slice(&body).expect("the body is JSON");
        let answer = {
            let mut all = self.asked.lock().unwrap();
            let number = all.iter().filter(|asked| asked.path == path).count();
            all.push(Asked { number, path, body, authorization });
            (self.script)(all.last().expect("just pushed"))
        };
        let (sender, steps) = mpsc::channel(1);
        tokio::spawn(async move {
            for step in answer.steps {
                let sent = match step {
                    Step::Wait(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        continue;
                    }
                    Step::Send(text) => sender.send(Ok(Frame::data(Bytes::from(text)))).await,
                    Step::Break => sender.send(Err(io::Error::other("broken"))).await,
                };
                if sent.is_err() {
                    break;
                }
            }
        });
        let mut response =
            Response::builder().status(answer.status).header("content-type", answer.content_type);
        if answer.closes {
            response = response.header("connection", "close");
        }
        Ok(response.body(Steps(steps)).expect("the head is right"))
    }
}

impl Dial for Scripted {
    fn dial<'a>(
        &'a self,
        _host: &'a str,
        _port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send + 'a>> {
        *self.connections.lock().unwrap() += 1;
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = self.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| server.clone().answer(request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .await;
        });
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Connection>) })
    }
}

/// A body that comes as a script says.
struct Steps(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Steps {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// Prompts of ten tokens, answers of five.
pub fn synthetic() -> Synthetic {
    Synthetic {
        prompt: Lengths::Fixed(10),
        output: Lengths::Fixed(5),
        shared_prefix: 0,
        prefix_groups: 1,
        turns: 1,
        turn: Lengths::Fixed(4),
        distinct: None,
        infill: false,
    }
}

pub fn plan(server: &Scripted, dialect: Dialect, trace: Trace) -> Plan {
    let target = Target::parse("http://server:8080").expect("an address");
    Plan::new(vec![target], Arc::new(server.clone()), &[], Some("secret"), dialect, trace).expect("a plan")
}

/// Texts with one token per word and three beside them, without asking.
pub fn texts() -> Texts {
    let counts = ingle_eval::load::text::CANDIDATES.map(|word| (word, 1));
    Texts { words: ingle_eval::load::text::Words::counted(counts).expect("enough words"), overhead: 3 }
}

/// Keeps what it sees.
#[derive(Default)]
pub struct Seen(pub Vec<Record>);

impl Observer for Seen {
    fn observe(&mut self, record: &Record) -> Result<(), String> {
        self.0.push(record.clone());
        Ok(())
    }
}

pub async fn run_plan(plan: Plan, pace: Pace, extent: Extent) -> Measured {
    run_with(&Arc::new(plan), pace, extent, 0, &Stop::default()).await
}

pub async fn run_with(plan: &Arc<Plan>, pace: Pace, extent: Extent, stream: u64, stop: &Stop) -> Measured {
    run(plan, &texts(), pace, extent, stream, &mut Seen::default(), stop).await.expect("nobody objects")
}

/// A run of completions in the closed loop.
pub async fn closed(server: &Scripted, trace: Synthetic, concurrency: u64, extent: Extent) -> Measured {
    let plan = plan(server, Dialect::Completions, Trace::Synthetic(trace));
    run_plan(plan, Pace::Closed { concurrency }, extent).await
}

pub fn ms(value: f64) -> f64 {
    (value * 1e9).round() / 1e6
}
