//! Texts to vectors: asked for and run.

use std::sync::Arc;

use futures_executor::block_on;
use ingle_chat::{EmbedInput, EmbedRequest, Embeddings, Pooling, Principal, Prompt, Provider, ProviderError};
use ingle_gguf::Metadata;

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

/// How a file says that its texts become vectors. Where it says nothing, as most files of models that generate, it is
/// the last token's hidden state: the only one that has seen the whole text. `None` if it has a head that ranks.
///
/// # Errors
/// If it says what nobody knows.
pub(crate) fn pooling(md: &Metadata, arch: &str) -> Result<Option<Pooling>, LoadError> {
    let key = format!("{arch}.pooling_type");
    Ok(match md.opt_u64(&key)? {
        None | Some(0 | 3) => Some(Pooling::Last),
        Some(1) => Some(Pooling::Mean),
        Some(2) => Some(Pooling::Cls),
        Some(4) => None,
        Some(n) => return Err(LoadError::Pooling { key, n }),
    })
}

#[cfg(test)]
mod tests {
    use ingle_gguf::Value;

    use super::*;

    #[test]
    fn poolings_of_files() {
        let of = |n: Option<u32>| {
            let mut md = Metadata::default();
            n.into_iter().for_each(|n| {
                md.set("llama.pooling_type", Value::U32(n));
            });
            pooling(&md, "llama")
        };
        let known = [None, Some(0), Some(1), Some(2), Some(3), Some(4)].map(|n| of(n).expect("known"));
        let (mean, cls, last) = (Some(Pooling::Mean), Some(Pooling::Cls), Some(Pooling::Last));
        assert_eq!(known, [last, last, mean, cls, last, None]);
        let error = of(Some(9)).expect_err("unknown").to_string();
        assert!(error.contains("llama.pooling_type") && error.contains('9'), "{error}");
    }
}
