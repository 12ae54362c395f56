//! One answer: asked for, run, or streamed.

use std::sync::Arc;

use futures_executor::{BlockingStream, block_on, block_on_stream};
use ingle_chat::{
    ChatInput, DeltaStream, Event, FinishReason, Principal, Prompt, Provider, ProviderError, Request,
    Sampling, Task, Usage,
};

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
        let stream = block_on(self.provider.start(self.request))?;
        Ok(AnswerStream { deltas: block_on_stream(stream), finish_reason: None, usage: None, seed: 0 })
    }
}

/// Pieces of an answer, whole characters each. Blocks the thread that iterates.
pub struct AnswerStream {
    deltas: BlockingStream<DeltaStream>,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
    seed: u64,
}

impl AnswerStream {
    /// Why it ended, once it has.
    pub fn finish_reason(&self) -> Option<&FinishReason> {
        self.finish_reason.as_ref()
    }

    /// What it took, once it has ended.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// The seed in use, once the first piece is there.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn into_answer(self, text: String) -> Result<Answer, ProviderError> {
        match (self.finish_reason, self.usage) {
            (Some(finish_reason), Some(usage)) => Ok(Answer { text, finish_reason, usage, seed: self.seed }),
            _ => Err(ProviderError::Internal("the answer ended without saying why".into())),
        }
    }
}

impl Iterator for AnswerStream {
    type Item = Result<String, ProviderError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.deltas.next()? {
                Err(error) => return Some(Err(error)),
                Ok(delta) => match delta.event {
                    Event::Text { text, .. } if !text.is_empty() => return Some(Ok(text)),
                    Event::Text { .. } | Event::PromptLogprobs(_) => {}
                    Event::Started { seed, .. } => self.seed = seed,
                    Event::Finished(reason) => self.finish_reason = Some(reason),
                    Event::Done(usage) => self.usage = Some(usage),
                },
            }
        }
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
