//! Texts to vectors: asked for and run.

use std::sync::Arc;

use futures_executor::block_on;
use ingle_chat::{EmbedInput, EmbedRequest, Embeddings, Pooling, Principal, Prompt, Provider, ProviderError};
use ingle_gguf::Metadata;
use ingle_step::ExecutorInfo;

use crate::LoadError;

/// Vectors to be: chain what they shall be like, then [`run`](Self::run) it.
#[must_use = "nothing happens until it is run"]
pub struct Embed {
    provider: Arc<dyn Provider>,
    request: EmbedRequest,
}

impl Embed {
    pub(crate) fn new(provider: Arc<dyn Provider>, texts: impl Iterator<Item = String>) -> Self {
        let input = |(i, text)| EmbedInput { name: format!("text {i}"), prompt: Prompt::Text(text) };
        let inputs = texts.enumerate().map(input).collect();
        Self { provider, request: EmbedRequest::new("local", Principal::local(), inputs) }
    }

    /// The end of a text that is too long is left out, and
    /// [`Embedding::truncated_from`](ingle_chat::Embedding::truncated_from) says so. Otherwise it is an error.
    pub fn truncate(mut self) -> Self {
        self.request.truncate = true;
        self
    }

    /// Only the first so many numbers of each vector: for models that were trained for it.
    pub fn dimensions(mut self, n: u32) -> Self {
        self.request.dimensions = Some(n);
        self
    }

    /// The vectors as they are pooled, not of length 1.
    pub fn raw(mut self) -> Self {
        self.request.normalize = false;
        self
    }

    /// The request as it stands, for what has no method of its own.
    pub fn request_mut(&mut self) -> &mut EmbedRequest {
        &mut self.request
    }

    /// Computes the vectors, one per text in their order. Blocks the thread that asks.
    ///
    /// # Errors
    /// If the request is refused or fails.
    pub fn run(self) -> Result<Embeddings, ProviderError> {
        block_on(async { self.provider.embed(self.request).await?.await })
    }
}

/// How texts become vectors: as is `chosen`, else as the file says. Where it says nothing, a model with a head uses that;
/// one that reads in both directions gives the mean; and of one that generates, as most such files, it is the last token's
/// hidden state: the only one that has seen the whole text.
///
/// # Errors
/// If the file says what nobody knows, or there is no head to rank with.
pub(crate) fn pooling(
    md: &Metadata,
    arch: &str,
    chosen: Option<Pooling>,
    info: &ExecutorInfo,
) -> Result<Pooling, LoadError> {
    let key = format!("{arch}.pooling_type");
    let pooling = match (chosen, md.opt_u64(&key)?) {
        (Some(chosen), _) => chosen,
        (None, None | Some(0)) if info.n_labels > 0 => Pooling::Rank,
        (None, None | Some(0)) if !info.causal => Pooling::Mean,
        (None, None | Some(0 | 3)) => Pooling::Last,
        (None, Some(1)) => Pooling::Mean,
        (None, Some(2)) => Pooling::Cls,
        (None, Some(4)) => Pooling::Rank,
        (None, Some(n)) => return Err(LoadError::Pooling { key, n }),
    };
    if pooling == Pooling::Rank && info.n_labels == 0 {
        return Err(LoadError::NoHead);
    }
    Ok(pooling)
}

#[cfg(test)]
mod tests {
    use ingle_gguf::Value;
    use ingle_step::{KvType, NumericPath};

    use super::*;

    fn info(causal: bool, n_labels: usize) -> ExecutorInfo {
        let numeric_path =
            NumericPath { numerics_version: 0, kernel_class: "none", kv_type: KvType::F32, n_ctx: 8 };
        ExecutorInfo {
            n_vocab: 1,
            n_embd: 1,
            n_ctx: 8,
            causal,
            has_logits: causal,
            n_labels,
            has_token_types: false,
            block_size: 16,
            n_blocks: 1,
            weight_bytes: 0,
            kv_bytes: 0,
            numeric_path,
        }
    }

    #[test]
    fn poolings_of_files() {
        use Pooling::{Cls, Last, Mean, Rank};
        let of = |n: Option<u32>, chosen, causal, n_labels| {
            let mut md = Metadata::default();
            n.into_iter().for_each(|n| {
                md.set("llama.pooling_type", Value::U32(n));
            });
            pooling(&md, "llama", chosen, &info(causal, n_labels))
        };
        let files = [None, Some(0), Some(1), Some(2), Some(3)];
        let decoder = files.map(|n| of(n, None, true, 0).expect("known"));
        assert_eq!(decoder, [Last, Last, Mean, Cls, Last]);
        let both_ways = files.map(|n| of(n, None, false, 0).expect("known"));
        assert_eq!(both_ways, [Mean, Mean, Mean, Cls, Last]);
        let with_head = [None, Some(4), Some(1)].map(|n| of(n, None, false, 1).expect("known"));
        assert_eq!(with_head, [Rank, Rank, Mean]);
        assert_eq!(of(Some(4), Some(Cls), false, 1).expect("known"), Cls);
        let error = of(Some(9), None, true, 0).expect_err("unknown").to_string();
        assert!(error.contains("llama.pooling_type") && error.contains('9'), "{error}");
        for (file, chosen) in [(Some(4), None), (None, Some(Rank))] {
            let error = of(file, chosen, false, 0).expect_err("no head").to_string();
            assert!(error.contains("no head"), "{error}");
        }
    }
}
