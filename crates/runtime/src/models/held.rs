//! A model as a request sees it: it stays what it is, and in memory, while it is held.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use ingle_chat::{
    Delta, DeltaStream, EmbedFuture, EmbedRequest, EmbeddingsFuture, ModelInfo, Principal, Prompted,
    Provider, ProviderError, ProviderStatus, Request, StartFuture,
};
use ingle_step::TokenId;

use super::state::{Instance, Shared};

/// A use of a model; dropping it ends the use.
pub(super) struct Lease {
    shared: Arc<Shared>,
    /// Only dropping takes it.
    instance: Option<Arc<Instance>>,
}

impl Lease {
    /// A use that the books know of.
    pub fn new(shared: Arc<Shared>, instance: Arc<Instance>) -> Self {
        Self { shared, instance: Some(instance) }
    }

    fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("it is held until the lease is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(instance) = self.instance.take() else { return };
        let (slot, now) = (instance.slot, self.shared.now());
        let mut state = self.shared.lock();
        if state.books.end(slot, now) {
            state.leave(instance);
            return;
        }
        if let Some(at) = state.books.expires_at(slot) {
            let at = std::time::Instant::now() + at.saturating_sub(now);
            state.wake_before(&self.shared, at);
        }
        let is_wanted = !state.queue.is_empty() && state.books.in_use(slot) == 0;
        drop(state);
        drop(instance);
        if is_wanted {
            self.shared.changed.notify_all();
        }
    }
}

/// The provider of one model.
pub(super) struct Held(pub Arc<Lease>);

impl Held {
    fn inner(&self) -> Arc<dyn Provider> {
        self.0.instance().engine.provider()
    }
}

/// An answer that holds its model.
struct Answer {
    // In this order: the engine's part goes before the hold on the engine.
    stream: DeltaStream,
    _lease: Arc<Lease>,
}

impl Stream for Answer {
    type Item = Result<Delta, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl Provider for Held {
    fn start(&self, request: Request) -> StartFuture<'_> {
        let lease = Arc::clone(&self.0);
        Box::pin(async move {
            let stream = lease.instance().engine.provider().start(request).await?;
            Ok(Box::pin(Answer { stream, _lease: lease }) as DeltaStream)
        })
    }

    fn embed(&self, request: EmbedRequest) -> EmbedFuture<'_> {
        let lease = Arc::clone(&self.0);
        Box::pin(async move {
            let vectors = lease.instance().engine.provider().embed(request).await?;
            Ok(Box::pin(async move {
                let result = vectors.await;
                drop(lease);
                result
            }) as EmbeddingsFuture)
        })
    }

    fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        self.inner().prompt(request)
    }

    fn tokenize(
        &self,
        model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        self.inner().tokenize(model, text, add_special, parse_special)
    }

    fn token_bytes(&self, model: Option<&str>, tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.inner().token_bytes(model, tokens)
    }

    fn flush_cache(&self, principal: &Principal) -> Result<(), ProviderError> {
        self.inner().flush_cache(principal)
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![self.0.instance().engine.info().clone()]
    }

    fn status(&self) -> ProviderStatus {
        self.inner().status()
    }
}
