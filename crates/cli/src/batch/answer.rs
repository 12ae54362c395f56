//! The answers to one line, collected.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ingle_api::openai::chat::ChatCollector;
use ingle_api::openai::completion::CompletionCollector;
use ingle_chat::{Delta, DeltaStream, Event, Provider, ProviderError, Request, TokenLogprob};

use super::request::{Asked, Call};

/// Prompts of one line that are with the engine at a time, as on a server.
const PROMPTS_AT_ONCE: usize = 64;
/// How long a request waits before it knocks again at a full queue.
const KNOCK_PAUSE: Duration = Duration::from_millis(50);
/// How often a line is tried whose answer failed through no fault of its own: by what ran beside it.
const TRIES: u32 = 3;
/// The largest answer to one line, all its choices and log-probabilities together.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Answers a line: the body of the server's reply.
///
/// # Errors
/// As those of the provider; a full queue is none, and waited for.
pub async fn answer(provider: &Arc<dyn Provider>, asked: &Asked) -> Result<String, ProviderError> {
    for _ in 1..TRIES {
        match try_answer(provider, asked).await {
            Err(ProviderError::Internal(_)) => {}
            other => return other,
        }
    }
    try_answer(provider, asked).await
}

async fn try_answer(provider: &Arc<dyn Provider>, asked: &Asked) -> Result<String, ProviderError> {
    let envelope = asked.envelope.clone();
    let body = match &asked.call {
        Call::Chat(call) => {
            let mut collector = ChatCollector::new(envelope, call);
            collect(provider, std::slice::from_ref(&call.request), |_, delta| collector.push(delta)).await?;
            collector.finish()
        }
        Call::Completion(call) => {
            let mut collector = CompletionCollector::new(envelope, call);
            collect(provider, &call.requests, |prompt, delta| collector.push(prompt, delta)).await?;
            collector.finish()
        }
    };
    body.ok_or_else(|| ProviderError::Internal("a choice never finished".into()))
}

/// Runs requests, and gives each piece with the number of its request to `push`.
async fn collect(
    provider: &Arc<dyn Provider>,
    requests: &[Request],
    mut push: impl FnMut(usize, &Delta),
) -> Result<(), ProviderError> {
    let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
    let mut running: Vec<(usize, DeltaStream)> = Vec::new();
    let mut knock_again: Option<Instant> = None;
    let mut n_bytes = 0;
    while !(waiting.is_empty() && running.is_empty()) {
        while let Some(&first) = waiting.front()
            && running.len() < PROMPTS_AT_ONCE
            && knock_again.is_none_or(|at| at <= Instant::now())
        {
            match provider.start(requests[first].clone()).await {
                Ok(stream) => {
                    knock_again = None;
                    running.push((first, stream));
                    waiting.pop_front();
                }
                Err(error) if error.retry_after().is_some() => {
                    knock_again = Some(Instant::now() + KNOCK_PAUSE)
                }
                Err(error) => return Err(error),
            }
        }
        if running.is_empty() {
            tokio::time::sleep(KNOCK_PAUSE).await;
            continue;
        }
        let (at, item) = next_piece(&mut running).await;
        match item {
            Some(Ok(delta)) => {
                n_bytes += weight(&delta);
                if n_bytes > ANSWER_BYTES_MAX {
                    let message = format!(
                        "the answers to this line are larger than {} MiB; ask for fewer choices, tokens or \
                         log-probabilities",
                        ANSWER_BYTES_MAX >> 20
                    );
                    return Err(ProviderError::InvalidRequest { message, param: None });
                }
                push(running[at].0, &delta);
                if matches!(delta.event, Event::Done(_)) {
                    drop(running.swap_remove(at));
                }
            }
            // It waited too long for its first step, and gave up its place before anything came of it.
            Some(Err(error)) if error.retry_after().is_some() => {
                waiting.push_front(running.swap_remove(at).0);
                knock_again = Some(Instant::now() + KNOCK_PAUSE);
            }
            Some(Err(error)) => return Err(error),
            None => return Err(ProviderError::Internal("an answer ended without its last event".into())),
        }
    }
    Ok(())
}

/// The next piece of any of the streams, with the stream's place.
async fn next_piece(running: &mut [(usize, DeltaStream)]) -> (usize, Option<Result<Delta, ProviderError>>) {
    poll_fn(|cx| {
        for (at, (_, stream)) in running.iter_mut().enumerate() {
            if let Poll::Ready(item) = stream.as_mut().poll_next(cx) {
                return Poll::Ready((at, item));
            }
        }
        Poll::Pending
    })
    .await
}

/// About how many bytes of the output a piece becomes.
fn weight(delta: &Delta) -> usize {
    let tokens = |list: &[TokenLogprob]| list.iter().map(|t| 100 * (1 + t.top.len())).sum::<usize>();
    match &delta.event {
        Event::Text { text, logprobs } | Event::Reasoning { text, logprobs } => text.len() + tokens(logprobs),
        Event::PromptLogprobs(list) => tokens(list),
        Event::ToolArguments { json, .. } => json.len(),
        _ => 0,
    }
}
