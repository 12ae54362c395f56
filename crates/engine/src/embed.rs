//! All texts of a request for vectors, as far as they are: some are with the thread, the others wait for their turn, so
//! that a long list neither fills the queue that is there for all nor has to fit into it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ingle_chat::{Embedding, Embeddings, ProviderError, Usage};

use crate::adapters::AdapterSet;
use crate::engine::Entrance;
use crate::frontend::{PreparedText, PreparedTexts, Standing};
use crate::pooling::VectorSpec;
use crate::work::{self, Embedded, Pending, Work};

/// Texts of one request that are with the thread at a time.
const TEXTS_AT_ONCE: usize = 64;

/// See the module's description. Dropping it aborts what still runs.
pub(crate) struct Gathering {
    entrance: Entrance,
    spec: VectorSpec,
    /// Whether a token sees only those before it.
    causal: bool,
    /// Whether they are pairs that get scores.
    of_pairs: bool,
    standing: Standing,
    adapters: AdapterSet,
    arrived: Instant,
    /// Those that wait, with their numbers.
    waiting: VecDeque<(usize, PreparedText)>,
    /// Those that are with the thread.
    pending: Vec<(usize, Pending)>,
    /// One for each text; the vectors come later.
    items: Vec<Embedding>,
    n_cached: usize,
    /// The beginning of the first step and the end of the last.
    span: Option<(Instant, Instant)>,
}

impl Gathering {
    /// Gives the first texts to the thread.
    ///
    /// # Errors
    /// If there is no room for even one of them.
    pub fn start(entrance: Entrance, texts: PreparedTexts, arrived: Instant) -> Result<Self, ProviderError> {
        let PreparedTexts { texts, spec, causal, of_pairs, standing, adapters } = texts;
        let item = |text: &PreparedText| Embedding {
            vector: Vec::new(),
            n_tokens: text.tokens.len() as u64,
            truncated_from: text.truncated_from.map(|n| n as u64),
        };
        let mut gathering = Self {
            entrance,
            spec,
            causal,
            of_pairs,
            standing,
            adapters,
            arrived,
            items: texts.iter().map(item).collect(),
            waiting: texts.into_iter().enumerate().collect(),
            pending: Vec::new(),
            n_cached: 0,
            span: None,
        };
        gathering.admit()?;
        Ok(gathering)
    }

    /// Waits for all vectors.
    ///
    /// # Errors
    /// If one of the texts fails; the others are given up then.
    pub async fn run(mut self) -> Result<Embeddings, ProviderError> {
        while !self.pending.is_empty() {
            let (text, outcome) = self.next().await;
            let Embedded { vector, n_cached, began, ended } = outcome?;
            self.items[text].vector = vector;
            self.n_cached += n_cached;
            self.span = Some(self.span.map_or((began, ended), |(a, b)| (a.min(began), b.max(ended))));
            self.admit()?;
        }
        let (began, ended) = self.span.unwrap_or((self.arrived, self.arrived));
        let usage = Usage {
            prompt_tokens: self.items.iter().map(|item| item.n_tokens).sum(),
            cached_tokens: self.n_cached as u64,
            queued: began.duration_since(self.arrived),
            prefill: ended.duration_since(began),
            ..Usage::default()
        };
        Ok(Embeddings { items: self.items, of_pairs: self.of_pairs, usage })
    }

    /// Gives texts to the thread, as many as may be there. A full queue is an error only if nothing is left to wait
    /// for.
    fn admit(&mut self) -> Result<(), ProviderError> {
        while self.pending.len() < TEXTS_AT_ONCE
            && let Some((text, prepared)) = self.waiting.front()
        {
            let (text, n_tokens) = (*text, prepared.tokens.len());
            let mut pending = None;
            let standing = self.standing_now();
            let admitted = self.entrance.admit(&standing, n_tokens, Instant::now(), |engine| {
                let (_, prepared) = self.waiting.pop_front().expect("looked at just now");
                let (standing, adapters) = (standing.clone(), self.adapters.clone());
                let (work, end) =
                    work::Embedding::new(prepared, self.spec, self.causal, standing, adapters, engine);
                pending = Some(end);
                Work::Embed(Box::new(work))
            });
            match admitted {
                Err(error) if error.retry_after().is_some() && !self.pending.is_empty() => return Ok(()),
                Err(error) => return Err(error),
                Ok(()) => self.pending.extend(pending.map(|end| (text, end))),
            }
        }
        Ok(())
    }

    /// What is left of the request's time holds for the texts that still wait.
    fn standing_now(&self) -> Standing {
        let mut standing = self.standing.clone();
        let elapsed = self.arrived.elapsed();
        let left = |time: &mut Duration| *time = time.saturating_sub(elapsed);
        standing.terms.timeout.iter_mut().for_each(left);
        standing
    }

    /// The next vector, of whichever text.
    async fn next(&mut self) -> (usize, Result<Embedded, ProviderError>) {
        let pending = &mut self.pending;
        poll_fn(|cx| {
            for i in 0..pending.len() {
                if let Poll::Ready(outcome) = Pin::new(&mut pending[i].1).poll(cx) {
                    let (text, _) = pending.swap_remove(i);
                    return Poll::Ready((text, outcome));
                }
            }
            Poll::Pending
        })
        .await
    }
}
