//! The pieces of one reply's answers, as one stream that is counted, timed, and ended in exactly one way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ingle_api::record::Outcome as RecordOutcome;
use ingle_chat::{Delta, DeltaStream, Event, FinishReason, Provider, ProviderError, Request, Task};
use tokio::time::Sleep;

use crate::App;
use crate::adapters::chosen;
use crate::error::Failure;
use crate::metrics::{AdapterMetrics, ModelMetrics, Outcome};
use crate::phase::Phase;
use crate::recording::{self, Kept, Recording};
use crate::routes::Context as RequestContext;

/// Prompts of one body that are with the provider at a time: a long list must not take the places in its queue that
/// are there for all, and can be longer than the queue.
const PROMPTS_AT_ONCE: usize = 64;
/// How long a prompt of a list waits before it knocks again at a full queue.
const KNOCK_PAUSE: Duration = Duration::from_millis(200);
/// How often it does so in a row before the body is refused after all.
const KNOCKS_MAX: u32 = 300;

/// A request on its way to the provider.
type Starting = Pin<Box<dyn Future<Output = Result<DeltaStream, Failure>> + Send>>;

/// What a body asks for.
pub(crate) struct Call {
    /// They differ only in their prompts. Not empty.
    pub requests: Vec<Request>,
    /// Of the body that they came in. If it is large, reading the prompts (as tokens) is so much work that others must
    /// not wait for it.
    pub kept: Kept,
}

/// The answers to all prompts of a request. Dropping it aborts what still runs.
pub(crate) struct Answer {
    app: Arc<App>,
    /// What its model counts.
    metrics: Arc<ModelMetrics>,
    /// What its adapters count.
    adapters: Vec<Arc<AdapterMetrics>>,
    provider: Arc<dyn Provider>,
    is_large: bool,
    /// Per prompt; `None` before it starts and once it is complete.
    streams: Vec<Option<DeltaStream>>,
    /// Prompts that are not started, with their numbers.
    waiting: VecDeque<(usize, Request)>,
    /// The first of them on its way.
    starting: Option<Starting>,
    /// Runs while the provider's queue is full.
    pause: Option<Pin<Box<Sleep>>>,
    /// How often in a row it was full.
    knocks: u32,
    /// Where to look next, so that no prompt's answer starves another's.
    next: usize,
    /// Resolves when answers must end.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    started: Instant,
    /// When each choice last had text; `None` before its first.
    last_text: Vec<Option<Instant>>,
    n: usize,
    outcome: Option<Outcome>,
    /// What is written down of it.
    recording: Option<Recording>,
    span: tracing::Span,
}

impl Answer {
    /// Starts as many requests as may run together; the others follow as those end. If one of the former is invalid,
    /// or if there is no room for the first, none runs.
    pub async fn start(
        app: &Arc<App>,
        provider: Arc<dyn Provider>,
        context: &RequestContext,
        call: Call,
    ) -> Result<Self, Failure> {
        let Call { mut requests, kept } = call;
        let is_large = kept.is_large;
        let first = requests.first();
        let (model, wishes) =
            (first.and_then(|r| r.model.as_deref()), first.and_then(|r| r.adapters.as_deref()));
        let adapters = chosen(&*provider, model, wishes)?;
        let metrics = app.metrics.of(model);
        let recording = recording::begin(app, &*provider, context, kept, &adapters, &mut requests)?;
        let n = requests.first().map_or(1, |r| r.n as usize);
        let mut streams: Vec<Option<DeltaStream>> = requests.iter().map(|_| None).collect();
        let mut waiting: VecDeque<(usize, Request)> = requests.into_iter().enumerate().collect();
        let mut pause = None;
        while let Some((prompt, request)) = waiting.front()
            && *prompt < PROMPTS_AT_ONCE
        {
            match start_one(app, &provider, request, is_large).await {
                Ok(stream) => streams[*prompt] = Some(stream),
                Err(Failure::Provider(error)) if *prompt > 0 && error.retry_after().is_some() => {
                    pause = Some(Box::pin(tokio::time::sleep(KNOCK_PAUSE)));
                    break;
                }
                Err(failure) => return Err(failure),
            }
            waiting.pop_front();
        }
        Ok(Self {
            adapters: adapters.iter().map(|(info, _)| metrics.adapter_begins(&info.name)).collect(),
            last_text: vec![None; n * streams.len()],
            app: app.clone(),
            metrics,
            provider,
            is_large,
            streams,
            waiting,
            starting: None,
            pause,
            knocks: 0,
            next: 0,
            ending: Box::pin(app.phases.reached(Phase::Ending)),
            started: context.started,
            n,
            outcome: None,
            recording,
            span: tracing::Span::current(),
        })
    }

    /// The next piece with its prompt; `None` after all answers are complete. An error is the end.
    pub fn poll_next(&mut self, cx: &mut Context) -> Poll<Option<Result<(usize, Delta), Failure>>> {
        if self.outcome.is_some() {
            return Poll::Ready(None);
        }
        if self.ending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(self.fail(Failure::ShuttingDown))));
        }
        if let Err(failure) = self.poll_waiting(cx) {
            return Poll::Ready(Some(Err(self.fail(failure))));
        }
        while let Some((prompt, item)) = self.poll_streams(cx) {
            let end = || ProviderError::Internal("an answer ended without its last event".into());
            match item.unwrap_or_else(|| Err(end())) {
                Ok(mut delta) => {
                    let is_left = self.recording.as_mut().is_none_or(|r| r.take(prompt, &mut delta));
                    if is_left {
                        self.note(prompt, &delta);
                        return Poll::Ready(Some(Ok((prompt, delta))));
                    }
                }
                Err(e) => return Poll::Ready(Some(Err(self.fail(e.into())))),
            }
        }
        if self.waiting.is_empty() && self.streams.iter().all(Option::is_none) {
            self.outcome = Some(Outcome::Finished);
            self.end_record(RecordOutcome::Finished);
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// What the next of the streams has to give; `None` if none has anything now.
    fn poll_streams(&mut self, cx: &mut Context) -> Option<(usize, Option<Result<Delta, ProviderError>>)> {
        let n_streams = self.streams.len();
        for step in 0..n_streams {
            let prompt = (self.next + step) % n_streams;
            let Some(stream) = &mut self.streams[prompt] else { continue };
            if let Poll::Ready(item) = stream.as_mut().poll_next(cx) {
                self.next = (prompt + 1) % n_streams;
                return Some((prompt, item));
            }
        }
        None
    }

    fn end_record(&mut self, outcome: RecordOutcome) {
        if let Some(recording) = self.recording.take() {
            recording.end(outcome);
        }
    }

    /// The next piece, awaited.
    pub async fn next(&mut self) -> Option<Result<(usize, Delta), Failure>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Gives every piece with its prompt to `push`, until all answers are complete.
    pub async fn each(&mut self, mut push: impl FnMut(usize, &Delta)) -> Result<(), Failure> {
        while let Some(piece) = self.next().await {
            let (prompt, delta) = piece?;
            push(prompt, &delta);
        }
        Ok(())
    }

    /// Starts prompts that wait, as far as they may.
    fn poll_waiting(&mut self, cx: &mut Context) -> Result<(), Failure> {
        while let Some((prompt, request)) = self.waiting.front() {
            if let Some(pause) = &mut self.pause
                && pause.as_mut().poll(cx).is_pending()
            {
                return Ok(());
            }
            self.pause = None;
            if self.starting.is_none() && self.streams.iter().flatten().count() >= PROMPTS_AT_ONCE {
                return Ok(());
            }
            let starting = self
                .starting
                .get_or_insert_with(|| start_one(&self.app, &self.provider, request, self.is_large));
            let Poll::Ready(result) = starting.as_mut().poll(cx) else { return Ok(()) };
            self.starting = None;
            match result {
                Ok(stream) => {
                    self.streams[*prompt] = Some(stream);
                    self.waiting.pop_front();
                    self.knocks = 0;
                }
                Err(Failure::Provider(error))
                    if self.knocks < KNOCKS_MAX && error.retry_after().is_some() =>
                {
                    self.knocks += 1;
                    self.pause = Some(Box::pin(tokio::time::sleep(KNOCK_PAUSE)));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.outcome = Some(Outcome::Failed);
        self.end_record(RecordOutcome::Failed(failure.object().message));
        self.streams.clear();
        self.waiting.clear();
        self.starting = None;
        failure
    }

    fn note(&mut self, prompt: usize, delta: &Delta) {
        let metrics = &self.metrics;
        match &delta.event {
            event if is_output(event) => {
                let Some(last) = self.last_text.get_mut(prompt * self.n + delta.choice as usize) else {
                    return;
                };
                let now = Instant::now();
                match last.replace(now) {
                    None => metrics.time_to_first_token.observe(now - self.started),
                    Some(previous) => metrics.inter_token_latency.observe(now - previous),
                }
            }
            Event::Finished(reason) => metrics.finished(match reason {
                FinishReason::Stop { .. } => "stop",
                FinishReason::ToolCalls => "tool_calls",
                FinishReason::Length => "length",
                FinishReason::Abort => "abort",
            }),
            Event::Done(usage) => {
                metrics.queue_time.observe(usage.queued);
                metrics.prefill_time.observe(usage.prefill);
                metrics.decode_time.observe(usage.decode);
                self.adapters.iter().for_each(|adapter| adapter.ended(usage));
                self.span.in_scope(|| {
                    tracing::info!(
                        prompt_tokens = usage.prompt_tokens,
                        cached_tokens = usage.cached_tokens,
                        completion_tokens = usage.completion_tokens,
                        context_shifts = usage.context_shifts,
                        queued_ms = usage.queued.as_millis() as u64,
                        prefill_ms = usage.prefill.as_millis() as u64,
                        decode_ms = usage.decode.as_millis() as u64,
                        "answered"
                    );
                });
                // Nothing follows; letting go of it now frees what it holds.
                self.streams[prompt] = None;
            }
            _ => {}
        }
    }
}

/// Whether something was generated, be it said, thought or called.
fn is_output(event: &Event) -> bool {
    match event {
        Event::Text { text, logprobs } | Event::Reasoning { text, logprobs } => {
            !text.is_empty() || !logprobs.is_empty()
        }
        Event::ToolCall { .. } | Event::ToolArguments { .. } => true,
        _ => false,
    }
}

/// Gives a request to the provider. A large one goes on a thread of its own, one at a time: to turn megabytes of text
/// into tokens takes seconds, in which the server's few threads could do nothing else. So does one whose format has to
/// be compiled, though not one at a time.
fn start_one(app: &Arc<App>, provider: &Arc<dyn Provider>, request: &Request, is_large: bool) -> Starting {
    let (app, provider, request) = (app.clone(), provider.clone(), request.clone());
    Box::pin(async move {
        let has_format =
            request.format.is_some() || matches!(&request.task, Task::Chat(input) if !input.tools.is_empty());
        if !is_large && !has_format {
            return Ok(provider.start(request).await?);
        }
        let turn = match is_large {
            true => Some(app.large_start.clone().acquire_owned().await.expect("never closed")),
            false => None,
        };
        let runtime = tokio::runtime::Handle::current();
        let started = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            runtime.block_on(provider.start(request))
        });
        Ok(started.await.map_err(|_| Failure::Panicked)??)
    })
}

impl Drop for Answer {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::Aborted);
        self.end_record(RecordOutcome::Aborted);
        let elapsed = self.started.elapsed();
        self.metrics.ended(outcome, elapsed);
        if outcome != Outcome::Finished {
            let elapsed_ms = elapsed.as_millis() as u64;
            self.span.in_scope(|| tracing::info!(?outcome, elapsed_ms, "answer cut short"));
        }
    }
}
