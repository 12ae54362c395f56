//! Vectors for one reply: started, awaited, counted, and ended in exactly one way.

use std::sync::Arc;
use std::time::Instant;

use ingle_chat::{EmbedRequest, Embeddings, EmbeddingsFuture, ModelInfo, Provider};

use crate::App;
use crate::adapters::chosen;
use crate::error::Failure;
use crate::metrics::{ModelMetrics, Outcome};
use crate::phase::Phase;

/// Counts how a reply ended, also if its client goes away.
struct Ending {
    metrics: Arc<ModelMetrics>,
    started: Instant,
    outcome: Outcome,
}

/// The vectors of all texts of a request for a model, which may be an adapter's name. Dropping the future aborts what still runs.
pub(crate) async fn embed(
    app: &Arc<App>,
    provider: Arc<dyn Provider>,
    request: EmbedRequest,
    info: &ModelInfo,
    is_large: bool,
    started: Instant,
) -> Result<Embeddings, Failure> {
    let model = Some(info.parent.as_deref().unwrap_or(&info.id));
    let metrics = app.metrics.of(model);
    let (wishes, _) = provider.adapters_of(info, None)?;
    let adapters = chosen(&*provider, model, wishes.as_deref())?;
    let vectors = admit(app, provider, request, is_large).await?;
    let adapters: Vec<_> = adapters.iter().map(|(info, _)| metrics.adapter_begins(&info.name)).collect();
    let mut ending = Ending { metrics, started, outcome: Outcome::Aborted };
    let result = tokio::select! {
        result = vectors => result.map_err(Failure::from),
        () = app.phases.reached(Phase::Ending) => Err(Failure::ShuttingDown),
    };
    ending.outcome = if result.is_ok() { Outcome::Finished } else { Outcome::Failed };
    let embeddings = result?;
    let usage = &embeddings.usage;
    ending.metrics.queue_time.observe(usage.queued);
    ending.metrics.prefill_time.observe(usage.prefill);
    adapters.iter().for_each(|adapter| adapter.ended(usage));
    tracing::info!(
        texts = embeddings.items.len(),
        prompt_tokens = usage.prompt_tokens,
        cached_tokens = usage.cached_tokens,
        queued_ms = usage.queued.as_millis() as u64,
        prefill_ms = usage.prefill.as_millis() as u64,
        "embedded"
    );
    Ok(embeddings)
}

/// Gives a request to the provider. A large one becomes tokens on a thread of its own, one at a time, as large prompts
/// do.
async fn admit(
    app: &App,
    provider: Arc<dyn Provider>,
    request: EmbedRequest,
    is_large: bool,
) -> Result<EmbeddingsFuture, Failure> {
    if !is_large {
        return Ok(provider.embed(request).await?);
    }
    let turn = app.large_start.clone().acquire_owned().await.expect("never closed");
    let runtime = tokio::runtime::Handle::current();
    let admitted = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(provider.embed(request))
    });
    Ok(admitted.await.map_err(|_| Failure::Panicked)??)
}

impl Drop for Ending {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.metrics.ended(self.outcome, elapsed);
        if self.outcome != Outcome::Finished {
            let (outcome, elapsed_ms) = (self.outcome, elapsed.as_millis() as u64);
            tracing::info!(?outcome, elapsed_ms, "vectors cut short");
        }
    }
}
