//! The pieces of one reply's answers, as one stream that is counted, timed, and ended in exactly one way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use ingle_chat::{Delta, DeltaStream, Event, FinishReason, Provider, ProviderError, Request};
use tokio::runtime::Handle;

use crate::App;
use crate::error::Failure;
use crate::metrics::Outcome;
use crate::phase::Phase;

/// The answers to all prompts of a request. Dropping it aborts what still runs.
pub(crate) struct Answer {
    app: Arc<App>,
    /// Per prompt; `None` once it is complete.
    streams: Vec<Option<DeltaStream>>,
    /// Where to look next, so that no prompt's answer starves another's.
    next: usize,
    /// Resolves when answers must end.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    started: Instant,
    /// When each choice last had text; `None` before its first.
    last_text: Vec<Option<Instant>>,
    n: usize,
    outcome: Option<Outcome>,
    span: tracing::Span,
}

impl Answer {
    /// Starts all requests, which differ only in their prompts. Either all are admitted or none runs. To start one may
    /// take work in proportion to its text (template, tokens): `large` ones are started where nobody waits for it.
    pub async fn start(
        app: &Arc<App>,
        provider: &Arc<dyn Provider>,
        started: Instant,
        requests: Vec<Request>,
        large: bool,
    ) -> Result<Self, Failure> {
        let n = requests.first().map_or(1, |r| r.n as usize);
        let mut streams = Vec::with_capacity(requests.len());
        for request in requests {
            let stream = if large {
                let (provider, runtime) = (provider.clone(), Handle::current());
                let start = move || runtime.block_on(provider.start(request));
                tokio::task::spawn_blocking(start).await.map_err(|_| Failure::Panicked)??
            } else {
                provider.start(request).await?
            };
            streams.push(Some(stream));
        }
        Ok(Self {
            last_text: vec![None; n * streams.len()],
            app: app.clone(),
            streams,
            next: 0,
            ending: Box::pin(app.phases.reached(Phase::Ending)),
            started,
            n,
            outcome: None,
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
        let n_streams = self.streams.len();
        for step in 0..n_streams {
            let prompt = (self.next + step) % n_streams;
            let Some(stream) = &mut self.streams[prompt] else { continue };
            let item = match stream.as_mut().poll_next(cx) {
                Poll::Pending => continue,
                Poll::Ready(item) => item,
            };
            self.next = (prompt + 1) % n_streams;
            let end = || ProviderError::Internal("an answer ended without its last event".into());
            return Poll::Ready(Some(match item.unwrap_or_else(|| Err(end())) {
                Ok(delta) => {
                    self.note(prompt, &delta);
                    Ok((prompt, delta))
                }
                Err(e) => Err(self.fail(e.into())),
            }));
        }
        if self.streams.iter().all(Option::is_none) {
            self.outcome = Some(Outcome::Finished);
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// The next piece, awaited.
    pub async fn next(&mut self) -> Option<Result<(usize, Delta), Failure>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.outcome = Some(Outcome::Failed);
        self.streams.clear();
        failure
    }

    fn note(&mut self, prompt: usize, delta: &Delta) {
        let metrics = &self.app.metrics;
        match &delta.event {
            Event::Text { text, logprobs } if !text.is_empty() || !logprobs.is_empty() => {
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
                FinishReason::Length => "length",
                FinishReason::Abort => "abort",
            }),
            Event::Done(usage) => {
                metrics.queue_time.observe(usage.queued);
                metrics.prefill_time.observe(usage.prefill);
                metrics.decode_time.observe(usage.decode);
                self.span.in_scope(|| {
                    tracing::info!(
                        prompt_tokens = usage.prompt_tokens,
                        cached_tokens = usage.cached_tokens,
                        completion_tokens = usage.completion_tokens,
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

impl Drop for Answer {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::Aborted);
        let elapsed = self.started.elapsed();
        self.app.metrics.ended(outcome, elapsed);
        if outcome != Outcome::Finished {
            let elapsed_ms = elapsed.as_millis() as u64;
            self.span.in_scope(|| tracing::info!(?outcome, elapsed_ms, "answer cut short"));
        }
    }
}
