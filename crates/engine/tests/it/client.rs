//! What the tests have in common: a byte vocabulary, an engine over the scripted executor, a client that reads.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use ingle_chat::{
    Delta, DeltaStream, Echo, Event, FinishReason, ModelInfo, Principal, Prompt, Provider, ProviderError,
    ProviderStatus, Request, Sampling, Task, TokenLogprob, Usage,
};
use ingle_engine::{Engine, EngineConfig, Frontend};
use ingle_step::TokenId;
use ingle_testkit::bytes::metadata;
pub use ingle_testkit::bytes::{BOS, EOS, N_VOCAB, byte};
use ingle_testkit::scripted::ScriptedExecutor;
use ingle_tokenizer::Tokenizer;

/// Longer than any test should wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn bytes(text: &[u8]) -> Vec<TokenId> {
    text.iter().map(|&b| byte(b)).collect()
}

/// A vocabulary of three special tokens and all bytes.
pub fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_metadata(&metadata(&[])).expect("a valid vocabulary"))
}

pub fn frontend(n_ctx: usize) -> Frontend {
    let model = ModelInfo {
        id: "scripted".into(),
        created: 0,
        n_ctx,
        n_ctx_train: n_ctx,
        n_vocab: N_VOCAB,
        n_embd: ingle_testkit::scripted::N_EMBD,
        n_params: 0,
        size_bytes: 0,
        fingerprint: "scripted".into(),
        ..ModelInfo::default()
    };
    Frontend::new(tokenizer(), None, model)
}

/// A context of 256 tokens, 64 blocks of 8.
pub fn executor() -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 256, 8, 64)
}

pub fn start(executor: ScriptedExecutor, config: EngineConfig) -> Engine {
    use ingle_step::Executor;
    let n_ctx = executor.info().n_ctx;
    Engine::start(Box::new(executor), frontend(n_ctx), config).unwrap()
}

/// An engine whose steps end when they are told to.
pub struct Turns {
    turns: mpsc::Sender<()>,
    /// How many were given.
    given: Cell<u64>,
}

impl Turns {
    /// With what the executor receives them by.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (turns, receiver) = mpsc::channel();
        (Self { turns, given: Cell::new(0) }, receiver)
    }

    /// Lets this many steps end, that which runs first.
    pub fn give(&self, n: u64) {
        self.given.set(self.given.get() + n);
        (0..n).for_each(|_| self.turns.send(()).expect("the engine lives"));
    }

    /// As [`Turns::give`], and waits until they have ended.
    pub fn step(&self, engine: &Engine, n: u64) -> ProviderStatus {
        self.give(n);
        wait_until(engine, "the steps have ended", |s| s.steps_total >= self.given.get())
    }

    /// From now on steps end by themselves.
    pub fn open(self) {}
}

/// Starts an engine of which no step ends before a turn is given. The turns come second, so that a test which fails gives
/// them up before it waits for the engine's end.
pub fn start_in_turns(executor: ScriptedExecutor, config: EngineConfig) -> (Engine, Turns) {
    let (turns, receiver) = Turns::new();
    (start(executor.with_turns(receiver), config), turns)
}

/// Asks, and waits until the first step of what was asked runs: nothing else may wait.
pub fn running(engine: &Engine, request: Request) -> DeltaStream {
    let stream = stream(engine, request);
    wait_until(engine, "it runs", |s| s.waiting == 0);
    stream
}

/// A greedy completion of at most 16 tokens.
pub fn completion(prompt: &str) -> Request {
    let task = Task::Completion { prompt: Prompt::Text(prompt.into()), echo: Echo::No };
    Request {
        max_tokens: Some(16),
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        ..Request::new("test", Principal::local(), task)
    }
}

/// What a client has at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub started: Option<(u64, u64)>,
    pub texts: Vec<String>,
    /// Thoughts of the first choice.
    pub reasoning: String,
    /// Calls of the first choice: names and arguments.
    pub calls: Vec<(String, String)>,
    pub finished: Vec<FinishReason>,
    pub logprobs: Vec<TokenLogprob>,
    pub prompt_logprobs: Vec<TokenLogprob>,
    pub usage: Usage,
}

impl Answer {
    pub fn text(&self) -> &str {
        &self.texts[0]
    }
}

/// Reads to the end, checking the order of events.
pub fn read(mut stream: DeltaStream) -> Result<Answer, ProviderError> {
    let mut answer = Answer::default();
    let mut reasons: Vec<Option<FinishReason>> = Vec::new();
    let mut done = false;
    while let Some(delta) = next(&mut stream) {
        let Delta { choice, event } = delta?;
        assert!(!done, "an event after the last");
        let i = choice as usize;
        if reasons.len() <= i {
            reasons.resize(i + 1, None);
            answer.texts.resize(i + 1, String::new());
        }
        assert_eq!(
            answer.started.is_none(),
            matches!(event, Event::Started { .. }),
            "Started comes first, once"
        );
        assert!(reasons[i].is_none() || matches!(event, Event::Done(_)), "an event after Finished");
        match event {
            Event::Started { prompt_tokens, seed } => answer.started = Some((prompt_tokens, seed)),
            Event::PromptLogprobs(logprobs) => {
                assert!(
                    answer.texts.iter().all(String::is_empty),
                    "prompt log-probabilities come before text"
                );
                answer.prompt_logprobs = logprobs;
            }
            Event::Text { text, logprobs } => {
                answer.texts[i] += &text;
                answer.logprobs.extend(logprobs);
            }
            Event::Reasoning { text, logprobs } => {
                answer.reasoning += &text;
                answer.logprobs.extend(logprobs);
            }
            Event::ToolCall { index, name, .. } => {
                assert_eq!(index as usize, answer.calls.len(), "calls are numbered in order");
                answer.calls.push((name, String::new()));
            }
            Event::ToolArguments { index, json } => answer.calls[index as usize].1 += &json,
            Event::Finished(reason) => reasons[i] = Some(reason),
            Event::Done(usage) => {
                answer.usage = usage;
                done = true;
            }
        }
    }
    assert!(done, "the stream ended without a last event");
    answer.finished = reasons.into_iter().map(|r| r.expect("every choice finishes")).collect();
    Ok(answer)
}

pub fn ask(engine: &Engine, request: Request) -> Result<Answer, ProviderError> {
    read(block_on(engine.start(request))?)
}

pub fn stream(engine: &Engine, request: Request) -> DeltaStream {
    block_on(engine.start(request)).expect("the request is admitted")
}

pub fn next(stream: &mut DeltaStream) -> Option<Result<Delta, ProviderError>> {
    block_on(std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)))
}

/// Reads until the first text.
pub fn first_text(stream: &mut DeltaStream) {
    loop {
        let delta = next(stream).expect("the stream goes on").expect("no error");
        if matches!(delta.event, Event::Text { .. }) {
            return;
        }
    }
}

/// Waits until the engine's condition is as expected.
pub fn wait_until(
    engine: &Engine,
    what: &str,
    condition: impl Fn(&ProviderStatus) -> bool,
) -> ProviderStatus {
    let start = Instant::now();
    loop {
        let status = engine.status();
        if condition(&status) {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}: {status:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Nothing runs, waits or holds blocks.
pub fn wait_until_idle(engine: &Engine) -> ProviderStatus {
    wait_until(engine, "idle", |s| (s.running, s.waiting, s.kv_blocks_used) == (0, 0, 0))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for the engine");
        thread::park_timeout(PATIENCE);
    }
}
