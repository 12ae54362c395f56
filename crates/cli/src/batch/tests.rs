//! Lines to requests, replies to lines, and many lines at a time: with a provider that does what prompts say.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use ingle_api::openai::{Caller, chat, completion};
use ingle_chat::{
    Content, Delta, Event, FinishReason, Format, ModelInfo, Principal, Provider, ProviderError,
    ProviderStatus, Request, Role, StartFuture, Task, Usage,
};
use ingle_server::{Alias, ServerConfig};
use serde_json::{Value, json};

use super::input::{Line, Lines, Shape};
use super::output::{Done, Output};
use super::request::{Call, Read, Requests};
use super::wishes::Wishes;
use super::work::{Bounds, Tally, read_ahead, run};
use crate::progress::BatchProgress;

/// Answers each message with what it says; some words in it are orders.
#[derive(Default)]
struct Fake {
    /// Requests that are being answered, and the most there were.
    running: Arc<AtomicUsize>,
    most: AtomicUsize,
    /// Prompts in the order in which they came.
    started: Mutex<Vec<String>>,
}

/// Gives its pieces after a while.
struct Pieces {
    pieces: VecDeque<Result<Delta, ProviderError>>,
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
    running: Arc<AtomicUsize>,
}

impl Stream for Pieces {
    type Item = Result<Delta, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(wait) = &mut self.wait
            && wait.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        self.wait = None;
        Poll::Ready(self.pieces.pop_front())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Relaxed);
    }
}

fn prompt_of(request: &Request) -> String {
    match &request.task {
        Task::Chat(input) => match &input.messages.last().expect("a message").content {
            Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        },
        Task::Completion { prompt: ingle_chat::Prompt::Text(text), .. } => text.clone(),
        other => panic!("{other:?}"),
    }
}

impl Provider for Fake {
    fn start(&self, request: Request) -> StartFuture<'_> {
        let text = prompt_of(&request);
        let mut started = self.started.lock().unwrap();
        started.push(text.clone());
        let tries = started.iter().filter(|t| **t == text).count();
        drop(started);
        let says = |order: &str| text.split(' ').any(|word| word == order);
        if says("panic") {
            panic!("as the prompt says");
        }
        let refused = match () {
            () if says("full") && tries < 3 => {
                Some(ProviderError::Overloaded { waiting: 9, retry_after: Duration::ZERO })
            }
            () if says("gone") => Some(ProviderError::Unavailable("its thread has ended".into())),
            () if says("long") => {
                Some(ProviderError::ContextLength { prompt_tokens: 9, max_tokens: None, n_ctx: 8 })
            }
            () => None,
        };
        if let Some(error) = refused {
            return Box::pin(async move { Err(error) });
        }
        let text_of = |text: &str| Event::Text { text: text.into(), logprobs: Vec::new() };
        let usage = Usage { prompt_tokens: 2, completion_tokens: 3, cached_tokens: 1, ..Usage::default() };
        let mut events = vec![Event::Started { prompt_tokens: 2, seed: 0 }, text_of("to: "), text_of(&text)];
        events.push(Event::Finished(FinishReason::Length));
        events.push(Event::Done(usage));
        let mut pieces: VecDeque<_> =
            events.into_iter().map(|event| Ok(Delta { choice: 0, event })).collect();
        if says("timeout") && tries < 2 {
            let late = ProviderError::Overloaded { waiting: 9, retry_after: Duration::ZERO };
            pieces = [pieces[0].clone(), Err(late)].into();
        }
        if says("broken") || (says("flaky") && tries < 2) {
            pieces =
                [pieces[0].clone(), pieces[1].clone(), Err(ProviderError::Internal("a step failed".into()))]
                    .into();
        }
        let ms = text.split(' ').find_map(|word| word.strip_suffix("ms")?.parse().ok()).unwrap_or(0);
        let running = Arc::clone(&self.running);
        self.most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
        Box::pin(async move {
            let wait = (ms > 0).then(|| Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
            Ok(Box::pin(Pieces { pieces, wait, running }) as ingle_chat::DeltaStream)
        })
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![ModelInfo { id: "m".into(), n_vocab: 100, fingerprint: "fp".into(), ..ModelInfo::default() }]
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::default()
    }
}

fn requests(shape: Shape) -> Requests {
    Requests {
        shape,
        converses: true,
        wishes: Wishes::default(),
        config: ServerConfig {
            aliases: vec![Alias { name: "gpt".into(), model: None }],
            ..ServerConfig::default()
        },
        provider: Arc::new(Fake::default()),
        created: 7,
    }
}

fn line(text: &str) -> Line {
    Lines::new(text.as_bytes()).next().expect("a line").expect("it can be read")
}

/// What a line runs as.
fn asked(requests: &Requests, text: &str) -> Vec<Request> {
    match requests.read(&line(text)).asked.unwrap_or_else(|fault| panic!("{text}: {fault:?}")).call {
        Call::Chat(call) => vec![call.request],
        Call::Completion(call) => call.requests,
    }
}

/// The result of a line that cannot be answered.
fn refused(requests: &Requests, text: &str) -> Value {
    let line = line(text);
    let Read { custom_id, asked } = requests.read(&line);
    let fault = asked.err().unwrap_or_else(|| panic!("{text} was taken"));
    let finished = requests.write(&line, custom_id.as_deref(), Err(fault));
    assert!(finished.failed && finished.text.ends_with("}\n"));
    serde_json::from_str(&finished.text).unwrap()
}

fn openai(url: &str, body: Value) -> String {
    json!({ "custom_id": "a", "method": "POST", "url": url, "body": body }).to_string()
}

/// A line of OpenAI's format runs as the server would run its body.
#[test]
fn an_openai_line_means_what_its_body_means() {
    let requests = requests(Shape::OpenAi);
    let caller = |id: String| Caller { id, principal: Principal::local() };
    let body = json!({
        "model": "gpt", "messages": [{ "role": "user", "content": "x" }], "temperature": 0.5, "seed": u64::MAX,
        "stop": ["é"], "max_completion_tokens": 5, "n": 2,
    });
    let text = openai("/v1/chat/completions", body.clone());
    let id = format!("chatcmpl-{}", line(&text).id);
    let mut expected = chat::parse(body.to_string().as_bytes(), caller(id)).unwrap().request;
    expected.model = Some("m".into());
    assert_eq!(asked(&requests, &text), [expected]);

    let body = json!({ "prompt": ["x", "y"], "logprobs": 2 });
    let text = openai("/v1/completions", body.clone());
    let id = format!("cmpl-{}", line(&text).id);
    let mut expected = completion::parse(body.to_string().as_bytes(), caller(id.clone())).unwrap().requests;
    expected.iter_mut().for_each(|request| request.model = Some("m".into()));
    assert_eq!(asked(&requests, &text), expected);
    assert_eq!(expected[1].max_tokens, Some(16), "OpenAI's default");
    let envelope = requests.read(&line(&text)).asked.unwrap().envelope;
    assert_eq!((envelope.id, envelope.created, &*envelope.model), (id, 7, "m"));
}

#[test]
fn a_prompt_is_a_message_or_text_to_go_on_with() {
    let mut requests = requests(Shape::Text);
    let chat = asked(&requests, "  hello \r\n");
    let Task::Chat(input) = &chat[0].task else { panic!("{chat:?}") };
    assert_eq!(input.messages[0].role, Role::User);
    assert_eq!((prompt_of(&chat[0]), chat[0].max_tokens), ("  hello ".into(), None));
    requests.converses = false;
    let raw = asked(&requests, "hello");
    assert!(matches!(raw[0].task, Task::Completion { .. }));
    assert_eq!((prompt_of(&raw[0]), raw[0].max_tokens), ("hello".into(), None));

    requests.shape = Shape::Simple;
    assert_eq!(asked(&requests, r#"{"prompt": "x", "max_tokens": 3}"#)[0].max_tokens, Some(3));
    assert_eq!(asked(&requests, r#"{"prompt": ["x", "y"]}"#).len(), 2);
    let messages = r#"{"messages": [{"role": "user", "content": "x"}], "temperature": 0}"#;
    assert!(matches!(asked(&requests, messages)[0].task, Task::Chat(_)));
    requests.converses = true;
    let own = &asked(&requests, r#"{"prompt": "x", "temperature": 0, "seed": 3, "stop": "y"}"#)[0];
    assert_eq!(
        (own.sampling.temperature, own.sampling.seed, &own.stop[..]),
        (Some(0.0), Some(3), &["y".into()][..])
    );
    assert!(matches!(own.task, Task::Chat(_)));
}

#[test]
fn wishes_reach_the_request_unless_the_line_has_its_own() {
    let mut requests = requests(Shape::Simple);
    let yes_or_no = Format::Choice(vec!["yes".into(), "no".into()]);
    requests.wishes = Wishes {
        max_tokens: Some(Some(9)),
        format: Some(yes_or_no.clone()),
        system: Some("be brief".into()),
        ..Wishes::default()
    };
    let request = &asked(&requests, r#"{"prompt": "x"}"#)[0];
    assert_eq!((request.max_tokens, &request.format), (Some(9), &Some(yes_or_no.clone())));
    let Task::Chat(input) = &request.task else { panic!("{request:?}") };
    assert_eq!(input.messages[0].role, Role::System);
    let request =
        &asked(&requests, r#"{"prompt": "x", "max_tokens": 3, "response_format": {"type": "text"}}"#)[0];
    assert_eq!((request.max_tokens, &request.format), (Some(3), &None));
    // The same for every shape.
    for (shape, text) in [
        (Shape::Text, "x".to_owned()),
        (
            Shape::OpenAi,
            openai("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }] })),
        ),
    ] {
        requests.shape = shape;
        assert_eq!(asked(&requests, &text)[0].format, Some(yes_or_no.clone()), "{text}");
    }
    assert_eq!(requests.probe().unwrap().format, Some(yes_or_no));
    let error = refused(&requests, &openai("/v1/completions", json!({ "prompt": "x" })));
    assert!(error["response"]["body"]["error"]["message"].as_str().unwrap().contains("--system-prompt"));
}

/// What is no request is an error of the line; what a server would refuse is the server's reply.
#[test]
fn bad_lines_of_openais_format() {
    let requests = requests(Shape::OpenAi);
    let check = |text: &str, custom_id: Value, code: &str, part: &str| {
        let result = refused(&requests, text);
        let message = result["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part) && result["response"].is_null(), "{text}: {result}");
        assert_eq!((&result["error"]["code"], &result["custom_id"]), (&code.into(), &custom_id), "{text}");
    };
    check("{", Value::Null, "invalid_json", "the line is not valid JSON");
    check("[]", Value::Null, "invalid_json", "the line must be a JSON object");
    check(r#"{"custom_id": "a", "custom_id": "b"}"#, Value::Null, "invalid_json", "duplicate key");
    check(r#"{"method": "POST"}"#, Value::Null, "invalid_line", "`custom_id` must be there");
    check(r#"{"custom_id": 3}"#, Value::Null, "invalid_line", "a string");
    check(r#"{"custom_id": "a", "method": "GET"}"#, json!("a"), "invalid_line", "`method` must be `POST`");
    check(r#"{"custom_id": "a", "method": "POST"}"#, json!("a"), "invalid_line", "`body` must be there");
    check(
        &openai("/v1/embeddings", json!({})),
        json!("a"),
        "invalid_url",
        "\"/v1/embeddings\"; this batch answers",
    );
    let extra = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}, "user": 1}"#;
    check(extra, json!("a"), "unknown_field", "`user` beside `body`");

    let check = |url: &str, body: Value, status: u16, param: &str| {
        let result = refused(&requests, &openai(url, body.clone()));
        let response = &result["response"];
        assert_eq!(
            (&response["status_code"], &result["error"]),
            (&status.into(), &Value::Null),
            "{body}: {result}"
        );
        assert_eq!(response["body"]["error"]["param"], param, "{body}: {result}");
        assert!(response["request_id"].as_str().unwrap().starts_with("req_") && result["custom_id"] == "a");
    };
    let messages = json!([{ "role": "user", "content": "x" }]);
    check("/v1/chat/completions", json!({}), 400, "messages");
    check("/v1/chat/completions", json!({ "messages": messages, "stream": true }), 400, "stream");
    check("/v1/chat/completions", json!({ "messages": messages, "model": "other" }), 404, "model");
    check("/v1/chat/completions", json!({ "messages": messages, "nonsense": 1 }), 400, "nonsense");
    check("/v1/completions", json!({ "prompt": [500] }), 400, "prompt");
}

#[test]
fn bad_lines_of_prompts() {
    let requests = requests(Shape::Simple);
    let check = |text: &str, part: &str| {
        let result = refused(&requests, text);
        let message = result["error"]["message"].as_str().unwrap_or_default();
        assert!(
            message.contains(part) && result["line"] == 1 && result.get("text").is_none(),
            "{text}: {result}"
        );
        assert_eq!(result["error"]["type"], "invalid_request_error");
    };
    check("x", "not valid JSON");
    check("{}", "neither `prompt` nor `messages`");
    check(r#"{"prompt": "x", "messages": []}"#, "give one of them");
    check(r#"{"prompt": [1, 2]}"#, "--raw");
    check(r#"{"prompt": "x", "temperature": -1}"#, "temperature");
    check(r#"{"prompt": "x", "custom_id": "a"}"#, "custom_id");
    check(r#"{"prompt": "x", "stream": true}"#, "stream");
    let mut requests = requests;
    requests.shape = Shape::Text;
    let bad = Line { text: Ok(b"a\xff".to_vec()), ..line("x") };
    let fault = requests.read(&bad).asked.unwrap_err();
    assert!(requests.write(&bad, None, Err(fault)).text.contains("not valid UTF-8"));
    let long = Line { text: Err(17 << 20), ..line("x") };
    let fault = requests.read(&long).asked.unwrap_err();
    assert!(requests.write(&long, None, Err(fault)).text.contains("17825792 bytes"));
}

/// Replies lose their frame and what depends on when they were made; all else stays.
#[test]
fn results_of_replies() {
    let check = |shape: Shape, body: Value, expected: Value| {
        let line = Line { number: 3, id: "f00".into(), text: Ok(Vec::new()) };
        let finished = requests(shape).write(&line, Some("mine"), Ok(body.to_string()));
        assert_eq!(finished.text, format!("{expected}\n"));
        assert!(!finished.failed);
        assert_eq!((finished.prompt_tokens, finished.completion_tokens), (2, 3));
    };
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 3, "prompt_tokens_details": { "cached_tokens": 1 } });
    let counts = json!({ "prompt_tokens": 2, "completion_tokens": 3 });
    let message = json!({
        "role": "assistant", "content": "é", "refusal": null, "reasoning_content": "hm", "reasoning": "hm",
        "tool_calls": [{ "id": "c" }],
    });
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop", "stop_reason": "x" });
    let body = json!({ "id": "chatcmpl-f00", "created": 7, "choices": [choice], "usage": usage, "timings": { "a": 1.5 } });
    check(
        Shape::Simple,
        body.clone(),
        json!({
            "line": 3, "id": "batch_req_f00", "text": "é", "reasoning": "hm", "tool_calls": [{ "id": "c" }],
            "finish_reason": "stop", "stop_reason": "x", "usage": counts,
        }),
    );
    let mut kept = body;
    kept.as_object_mut().unwrap().shift_remove("timings");
    kept["usage"] = counts.clone();
    check(
        Shape::OpenAi,
        kept.clone(),
        json!({
            "id": "batch_req_f00", "custom_id": "mine",
            "response": { "status_code": 200, "request_id": "req_f00", "body": kept }, "error": null,
        }),
    );
    let calls = json!({ "index": 0, "message": { "content": null }, "finish_reason": "tool_calls" });
    check(
        Shape::Text,
        json!({ "choices": [calls], "usage": usage }),
        json!({ "line": 3, "id": "batch_req_f00", "text": "", "finish_reason": "tool_calls", "usage": counts }),
    );
    let choice = |i: u32| json!({ "index": i, "text": "t", "logprobs": null, "finish_reason": "length" });
    let one = json!({ "text": "t", "finish_reason": "length" });
    check(
        Shape::Simple,
        json!({ "choices": [choice(0), choice(1)], "usage": usage }),
        json!({ "line": 3, "id": "batch_req_f00", "choices": [one, one], "usage": counts }),
    );
}

/// Runs prompts, and gives the answers' texts or errors, with what the provider saw.
async fn work(prompts: &[&str], bounds: Bounds) -> (anyhow::Result<Tally>, Vec<Value>, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let requests = Requests { provider: fake.clone(), ..requests(Shape::Text) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let output = Output::open(&path, false).unwrap();
    let lines = read_ahead(Lines::new(std::io::Cursor::new(prompts.join("\n")))).unwrap();
    let progress = BatchProgress::new(0);
    let ended = run(Arc::new(requests), lines, &output, bounds, Done::default(), &progress, pending()).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let results = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let said = |r: Value| if r["text"].is_null() { r["error"]["message"].clone() } else { r["text"].clone() };
    (ended, results.map(said).collect(), fake)
}

#[tokio::test]
async fn results_come_in_the_order_of_the_input() {
    let prompts: Vec<String> = (0..60).map(|i| format!("{i} {}ms", (i * 37) % 50)).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let (ended, results, fake) = work(&prompts, Bounds::new(4)).await;
    let tally = ended.unwrap();
    assert_eq!((tally.lines, tally.errors, tally.prompt_tokens, tally.completion_tokens), (60, 0, 120, 180));
    let expected: Vec<Value> = prompts.iter().map(|p| format!("to: {p}").into()).collect();
    assert_eq!(results, expected);
    let most = fake.most.load(Relaxed);
    assert!((5..=8).contains(&most), "{most} at a time, of the 8 that may");
}

/// A slow line keeps others from being started once the window is full.
#[tokio::test]
async fn a_slow_line_does_not_let_results_pile_up() {
    let mut prompts = vec!["slow 60000ms"];
    prompts.resize(40, "quick");
    let bounds = Bounds { in_flight: 4, window: 10 };
    let fake = Arc::new(Fake::default());
    let requests = Requests { provider: fake.clone(), ..requests(Shape::Text) };
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(&folder.path().join("out"), false).unwrap();
    let lines = read_ahead(Lines::new(std::io::Cursor::new(prompts.join("\n")))).unwrap();
    let progress = BatchProgress::new(0);
    let n_started = || fake.started.lock().unwrap().len();
    let stop = async {
        while n_started() < bounds.window {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ended =
        run(Arc::new(requests), lines, &output, bounds, Done::default(), &progress, stop).await.unwrap();
    assert_eq!(n_started(), 10);
    assert_eq!((ended.lines, ended.stopped), (0, true));
    assert!(output.is_empty().unwrap() && fake.running.load(Relaxed) == 0, "nobody is heard out");
    prompts[0] = "slow 100ms";
    let (ended, results, _) = work(&prompts, bounds).await;
    assert!(ended.unwrap().lines == 40 && results[0] == "to: slow 100ms");
}

#[tokio::test]
async fn what_is_no_fault_of_a_line_is_tried_again() {
    let prompts = ["a", "full", "timeout", "flaky", "broken", "long", "panic", "z"];
    let (ended, results, fake) = work(&prompts, Bounds::new(2)).await;
    let tally = ended.unwrap();
    assert_eq!((tally.lines, tally.errors), (8, 3), "{results:?}");
    for (at, expected) in [(0, "to: a"), (1, "to: full"), (2, "to: timeout"), (3, "to: flaky"), (7, "to: z")]
    {
        assert_eq!(results[at], expected);
    }
    for (at, part) in [(4, "a step failed"), (5, "the context holds 8"), (6, "panicked")] {
        assert!(results[at].as_str().unwrap().contains(part), "{results:?}");
    }
    assert_eq!(fake.started.lock().unwrap().iter().filter(|t| *t == "broken").count(), 3);
}

#[tokio::test]
async fn without_an_engine_the_run_ends() {
    let (ended, results, _) = work(&["a", "b 20ms", "gone", "z"], Bounds::new(1)).await;
    assert!(crate::outcome::in_words(&ended.unwrap_err()).contains("its thread has ended"));
    assert!(
        results.iter().all(|r| r == "to: a" || r == "to: b 20ms"),
        "what cannot be answered has no result"
    );
}
