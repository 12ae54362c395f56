//! What the thread does for one request, and how the results leave: an [`Answer`] piece by piece through an [`Outlet`],
//! or a vector at once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Instant;

use ingle_chat::{Delta, Event, ProviderError};
use ingle_step::TokenId;
use tokio::sync::oneshot;

use crate::adapters::AdapterSet;
use crate::frontend::PreparedText;
use crate::frontend::Standing;
use crate::output::Answer;
use crate::pooling::{Pooler, VectorSpec};
use crate::scheduler::{NewRequest, Pooled};
use crate::stream::Outlet;

/// A request, as the thread has it.
pub(crate) enum Work {
    /// Text is generated.
    Generate(Box<Generating>),
    /// A text becomes a vector.
    Embed(Box<Embedding>),
}

/// An answer and its way out.
pub(crate) struct Generating {
    pub answer: Answer,
    pub outlet: Outlet,
}

/// A text on its way to a vector.
pub(crate) struct Embedding {
    prompt: Vec<TokenId>,
    pooled: Pooled,
    standing: Standing,
    adapters: AdapterSet,
    pooler: Pooler,
    /// What is to be sent next.
    outcome: Option<Result<Embedded, ProviderError>>,
    /// `None` once it is sent.
    reply: Option<oneshot::Sender<Result<Embedded, ProviderError>>>,
}

/// A vector and what it took.
#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    pub vector: Vec<f32>,
    /// Tokens that came out of the prefix cache.
    pub n_cached: usize,
    /// When its first step began, and when its last was done.
    pub began: Instant,
    pub ended: Instant,
}

/// The client's end of an [`Embedding`]. Dropping it aborts the work.
pub(crate) struct Pending {
    receiver: oneshot::Receiver<Result<Embedded, ProviderError>>,
    engine: Thread,
}

impl Work {
    /// The prompt.
    pub fn prompt(&self) -> &[TokenId] {
        match self {
            Self::Generate(work) => &work.answer.request().prompt,
            Self::Embed(work) => &work.prompt,
        }
    }

    /// How many sequences continue it.
    pub fn n_choices(&self) -> u32 {
        match self {
            Self::Generate(work) => work.answer.request().n_choices,
            Self::Embed(_) => 1,
        }
    }

    /// For whom it is, and when.
    pub fn standing(&self) -> &Standing {
        match self {
            Self::Generate(work) => &work.answer.request().standing,
            Self::Embed(work) => &work.standing,
        }
    }

    /// What is added to the model's weights.
    pub fn adapters(&self) -> &AdapterSet {
        match self {
            Self::Generate(work) => &work.answer.request().adapters,
            Self::Embed(work) => &work.adapters,
        }
    }

    /// The same for the scheduler, which knows its tenant by `salt`.
    pub fn new_request(&self, tenant: u64, salt: u64) -> NewRequest {
        let prompt = self.prompt().to_vec();
        let (max_tokens, n_choices, prompt_logits, pooling, shift) = match self {
            Self::Generate(work) => {
                let request = work.answer.request();
                let prompt_logits = request.prompt_logprobs.is_some();
                (request.max_tokens, request.n_choices, prompt_logits, None, request.shift)
            }
            Self::Embed(work) => (0, 1, false, Some(work.pooled), None),
        };
        let standing = self.standing();
        NewRequest {
            n_choices,
            shift,
            salt,
            prompt_logits,
            pooling,
            priority: standing.priority,
            rank: standing.terms.rank,
            tenant,
            adapters: self.adapters().uses.clone(),
            weight: standing.weight,
            ..NewRequest::new(prompt, max_tokens)
        }
    }

    /// It is admitted.
    pub fn start(&mut self) {
        if let Self::Generate(work) = self {
            let request = work.answer.request();
            let prompt_tokens = request.prompt.len() as u64;
            let event = Event::Started { prompt_tokens, seed: request.params.seed };
            work.outlet.push(Delta { choice: 0, event });
        }
    }

    /// The error for one that could never run.
    pub fn too_long(&self, n_ctx: usize) -> ProviderError {
        let max_tokens = match self {
            Self::Generate(work) => u32::try_from(work.answer.request().max_tokens).ok(),
            Self::Embed(_) => None,
        };
        ProviderError::ContextLength { prompt_tokens: self.prompt().len(), max_tokens, n_ctx }
    }

    /// New tokens, and those of them that were thoughts.
    pub fn n_generated(&self) -> (usize, usize) {
        match self {
            Self::Generate(work) => (work.answer.completion_tokens(), work.answer.reasoning_tokens()),
            Self::Embed(_) => (0, 0),
        }
    }

    /// How often tokens made way in a full context, and how many.
    pub fn n_shifts(&self) -> (usize, usize) {
        match self {
            Self::Generate(work) => work.answer.n_shifts(),
            Self::Embed(_) => (0, 0),
        }
    }

    /// Tokens of the answer that the client predicted.
    pub fn n_predicted(&self) -> usize {
        match self {
            Self::Generate(work) => work.answer.request().prediction.len(),
            Self::Embed(_) => 0,
        }
    }

    /// Sends what there is. False if the reader has no room for all of it; it will wake the thread then.
    pub fn flush(&mut self) -> bool {
        match self {
            Self::Generate(work) => work.outlet.flush(),
            Self::Embed(work) => {
                work.send();
                true
            }
        }
    }

    /// Whether the client has gone.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Generate(work) => work.outlet.is_closed(),
            // Who has been sent everything may go.
            Self::Embed(work) => work.reply.as_ref().is_some_and(oneshot::Sender::is_closed),
        }
    }

    /// The request ends with an error.
    pub fn fail(self, error: ProviderError) {
        match self {
            Self::Generate(work) => work.outlet.fail(error),
            Self::Embed(mut work) => {
                work.outcome = Some(Err(error));
                work.send();
            }
        }
    }
}

impl Embedding {
    /// The work on a text and the client's end of it; `engine` is the thread that does it.
    pub fn new(
        text: PreparedText,
        spec: VectorSpec,
        causal: bool,
        standing: Standing,
        adapters: AdapterSet,
        engine: Thread,
    ) -> (Self, Pending) {
        let PreparedText { tokens: prompt, second_from, .. } = text;
        let (reply, receiver) = oneshot::channel();
        let pooler = Pooler::new(spec, prompt.len());
        let (reply, pooled) = (Some(reply), Pooled { pooling: spec.pooling, causal, second_from });
        let work = Self { prompt, pooled, standing, adapters, pooler, outcome: None, reply };
        (work, Pending { receiver, engine })
    }

    /// Takes the hidden state `(n_embd,)` of the token at `position`. True if it was the last.
    pub fn row(&mut self, position: usize, hidden: &[f32]) -> bool {
        self.pooler.row(position, hidden);
        position + 1 == self.prompt.len()
    }

    /// All rows are there. The vector leaves with the next flush.
    pub fn finish(&mut self, n_cached: usize, began: Instant, ended: Instant) {
        self.outcome = Some(Ok(Embedded { vector: self.pooler.finish(), n_cached, began, ended }));
    }

    fn send(&mut self) {
        if let Some(outcome) = self.outcome.take()
            && let Some(reply) = self.reply.take()
        {
            // Who has gone needs no vector.
            let _ = reply.send(outcome);
        }
    }
}

impl Future for Pending {
    type Output = Result<Embedded, ProviderError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stopped = || ProviderError::Internal("the engine stopped before the vector was there".into());
        Pin::new(&mut self.receiver).poll(cx).map(|outcome| outcome.unwrap_or_else(|_| Err(stopped())))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.receiver.close();
        self.engine.unpark();
    }
}
