//! One answer: asked for, run, or streamed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use futures_executor::{BlockingStream, block_on, block_on_stream};
use ingle_chat::{
    ChatInput, Delta, DeltaStream, Event, FinishReason, Principal, Prompt, Provider, ProviderError, Request,
    Sampling, Task, ToolCall, Usage,
};
use serde_json::Value;

/// An answer to be: chain what it shall be like, then [`run`](Self::run) or [`stream`](Self::stream) it.
#[must_use = "nothing happens until it is run or streamed"]
pub struct Generation {
    provider: Arc<dyn Provider>,
    request: Request,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// What the model thought before.
    pub reasoning: String,
    /// The tools that it calls.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it took.
    pub usage: Usage,
    /// The seed that gives it again.
    pub seed: u64,
}

impl Generation {
    pub(crate) fn new(provider: Arc<dyn Provider>, task: Task) -> Self {
        Self { provider, request: Request::new("local", Principal::local(), task) }
    }

    /// At most this many new tokens.
    pub fn max_tokens(mut self, n: u32) -> Self {
        self.request.max_tokens = Some(n);
        self
    }

    /// 0 is greedy.
    pub fn temperature(mut self, t: f32) -> Self {
        self.request.sampling.temperature = Some(t);
        self
    }

    /// The same seed gives the same answer.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.sampling.seed = Some(seed);
        self
    }

    /// Everything about sampling at once.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.request.sampling = sampling;
        self
    }

    /// Text that ends the answer and is not part of it.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.request.stop.push(text.into());
        self
    }

    /// The request as it stands, for what has no method of its own.
    pub fn request_mut(&mut self) -> &mut Request {
        &mut self.request
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// If the request is refused or fails.
    pub fn run(self) -> Result<Answer, ProviderError> {
        let mut stream = self.stream()?;
        let mut text = String::new();
        for piece in &mut stream {
            text.push_str(&piece?);
        }
        stream.into_answer(text)
    }

    /// Starts, and gives the text piece by piece as it comes. Dropping the stream ends the generation.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn stream(self) -> Result<AnswerStream, ProviderError> {
        let inner = block_on(self.provider.start(self.request))?;
        let interrupter = Interrupter::default();
        let deltas = block_on_stream(Interruptible { inner, interrupter: interrupter.clone() });
        Ok(AnswerStream {
            deltas,
            interrupter,
            reasoning: String::new(),
            calls: Vec::new(),
            finish_reason: None,
            usage: None,
            seed: 0,
        })
    }
}

/// What an answer brings next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The request was admitted.
    Started {
        /// Tokens of its prompt.
        prompt_tokens: u64,
    },
    /// New text, whole characters.
    Text(String),
    /// New thoughts, whole characters.
    Reasoning(String),
}

/// Pieces of an answer, whole characters each. Blocks the thread that iterates. Its iterator gives the text alone,
/// [`next_piece`](Self::next_piece) thoughts too.
pub struct AnswerStream {
    deltas: BlockingStream<Interruptible>,
    interrupter: Interrupter,
    reasoning: String,
    /// Calls with their arguments as far as they have come.
    calls: Vec<(ToolCall, String)>,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
    seed: u64,
}

impl AnswerStream {
    /// Why it ended, once it has.
    pub fn finish_reason(&self) -> Option<&FinishReason> {
        self.finish_reason.as_ref()
    }

    /// What the model has thought so far.
    pub fn reasoning(&self) -> &str {
        &self.reasoning
    }

    /// The tools that are called so far. Arguments that are no JSON, since the answer was cut short, are one string.
    pub fn tool_calls(&self) -> Vec<ToolCall> {
        let arguments = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        self.calls
            .iter()
            .map(|(call, text)| ToolCall { arguments: arguments(text), ..call.clone() })
            .collect()
    }

    /// What it took, once it has ended.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// The seed in use, once the first piece is there.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What ends this answer early, from any thread: also while no text has come yet.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// What comes next, thoughts and the beginning included; `None` at the end.
    pub fn next_piece(&mut self) -> Option<Result<Piece, ProviderError>> {
        loop {
            match self.deltas.next()? {
                Err(error) => return Some(Err(error)),
                Ok(delta) => match delta.event {
                    Event::Text { text, .. } if !text.is_empty() => return Some(Ok(Piece::Text(text))),
                    Event::Text { .. } | Event::PromptLogprobs(_) => {}
                    Event::Reasoning { text, .. } => {
                        self.reasoning.push_str(&text);
                        if !text.is_empty() {
                            return Some(Ok(Piece::Reasoning(text)));
                        }
                    }
                    Event::ToolCall { index, id, name } => {
                        let call = ToolCall { id, index, name, arguments: Value::Null };
                        self.calls.push((call, String::new()));
                    }
                    Event::ToolArguments { index, json } => {
                        if let Some((_, arguments)) = self.calls.get_mut(index as usize) {
                            arguments.push_str(&json);
                        }
                    }
                    Event::Started { seed, prompt_tokens } => {
                        self.seed = seed;
                        return Some(Ok(Piece::Started { prompt_tokens }));
                    }
                    Event::Finished(reason) => self.finish_reason = Some(reason),
                    Event::Done(usage) => self.usage = Some(usage),
                },
            }
        }
    }

    fn into_answer(self, text: String) -> Result<Answer, ProviderError> {
        let tool_calls = self.tool_calls();
        match (self.finish_reason, self.usage) {
            (Some(finish_reason), Some(usage)) => {
                let Self { reasoning, seed, .. } = self;
                Ok(Answer { text, reasoning, tool_calls, finish_reason, usage, seed })
            }
            _ => Err(ProviderError::Internal("the answer ended without saying why".into())),
        }
    }
}

impl Iterator for AnswerStream {
    type Item = Result<String, ProviderError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_piece()? {
                Err(error) => return Some(Err(error)),
                Ok(Piece::Text(text)) => return Some(Ok(text)),
                Ok(Piece::Started { .. } | Piece::Reasoning(_)) => {}
            }
        }
    }
}

/// Ends an answer early.
#[derive(Clone, Debug, Default)]
pub struct Interrupter(Arc<Interruption>);

#[derive(Debug, Default)]
struct Interruption {
    raised: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Interrupter {
    /// The answer gives no further piece, and whoever waits for one is woken.
    pub fn interrupt(&self) {
        self.0.raised.store(true, Ordering::Release);
        if let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// A stream that an [`Interrupter`] ends.
struct Interruptible {
    inner: DeltaStream,
    interrupter: Interrupter,
}

impl Stream for Interruptible {
    type Item = Result<Delta, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The waker is left before the flag is read: an interruption in between wakes it.
        *self.interrupter.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.interrupter.0.raised.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        self.inner.as_mut().poll_next(cx)
    }
}

/// A user's message as a whole conversation.
pub(crate) fn one_message(text: &str) -> Task {
    use ingle_chat::{Message, Role};
    Task::Chat(ChatInput { messages: vec![Message::text(Role::User, text)], ..ChatInput::default() })
}

/// A raw prompt.
pub(crate) fn raw_prompt(text: &str) -> Task {
    Task::Completion { prompt: Prompt::Text(text.to_owned()), echo: ingle_chat::Echo::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_wakes_who_waits_for_text() {
        struct Never;
        impl Stream for Never {
            type Item = Result<Delta, ProviderError>;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                Poll::Pending
            }
        }
        let interrupter = Interrupter::default();
        let mut deltas =
            block_on_stream(Interruptible { inner: Box::pin(Never), interrupter: interrupter.clone() });
        let waiting = std::thread::spawn(move || deltas.next().is_none());
        while interrupter.0.waiting.lock().unwrap().is_none() {
            std::thread::yield_now();
        }
        interrupter.interrupt();
        assert!(waiting.join().unwrap());
    }
}
