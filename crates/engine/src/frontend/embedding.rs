//! A wish for vectors: texts become tokens, and what cannot be served is refused by name.

use ingle_chat::{EMBED_INPUTS_MAX, EmbedInput, EmbedRequest, Priority, Prompt, ProviderError, Segments};
use ingle_step::TokenId;

use super::{Frontend, invalid};
use crate::adapters::AdapterSet;
use crate::pooling::VectorSpec;

/// The most numbers over all vectors of a request: they are held and sent in one piece.
pub const EMBEDDING_VALUES_MAX: usize = 1 << 23;

/// A wish for vectors with nothing left to decide.
#[derive(Clone, Debug)]
pub struct PreparedTexts {
    /// The texts. Never empty.
    pub texts: Vec<PreparedText>,
    /// What their vectors are like.
    pub spec: VectorSpec,
    /// Who shares cached beginnings with whom.
    pub tenant: String,
    /// Whether it makes way for others.
    pub priority: Priority,
    /// What is added to the model's weights.
    pub adapters: AdapterSet,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedText {
    /// Its tokens. Never empty.
    pub tokens: Vec<TokenId>,
    /// How many it had, if its end is left out.
    pub truncated_from: Option<usize>,
}

impl Frontend {
    /// Decides everything about a wish for vectors. `n_ctx` is the longest sequence that can run.
    ///
    /// # Errors
    /// If it cannot be served: the caller's fault, named.
    pub fn prepare_texts(
        &self,
        request: &EmbedRequest,
        n_ctx: usize,
    ) -> Result<PreparedTexts, ProviderError> {
        let adapters = self.adapters(request.model.as_deref(), None)?;
        let Some(pooling) = self.pooling else {
            let message = "the model ranks pairs of texts with a head of its own, which is not supported yet: use a \
                           model that embeds texts";
            return Err(invalid("model", message.into()));
        };
        let n_embd = self.model.n_embd;
        let dimensions = request.dimensions.map(|n| n as usize);
        if let Some(n) = dimensions.filter(|n| !(1..=n_embd).contains(n)) {
            let message = format!(
                "dimensions is {n}; the model's vectors have {n_embd} numbers, ask for 1 to {n_embd}"
            );
            return Err(invalid("dimensions", message));
        }
        let n_inputs = request.inputs.len();
        if !(1..=EMBED_INPUTS_MAX).contains(&n_inputs) {
            let message =
                format!("{n_inputs} texts were sent; 1 to {EMBED_INPUTS_MAX} can be embedded at once");
            return Err(invalid("input", message));
        }
        let n_values = n_inputs * dimensions.unwrap_or(n_embd);
        if n_values > EMBEDDING_VALUES_MAX {
            let message = format!(
                "{n_inputs} vectors of {} numbers are {n_values}; at most {EMBEDDING_VALUES_MAX} are given at once: \
                 send fewer texts",
                n_values / n_inputs
            );
            return Err(invalid("input", message));
        }
        let text = |input| self.text(input, request, n_ctx);
        Ok(PreparedTexts {
            texts: request.inputs.iter().map(text).collect::<Result<_, _>>()?,
            spec: VectorSpec { pooling, dimensions, normalize: request.normalize },
            tenant: request.principal.tenant.clone(),
            priority: request.priority,
            adapters,
        })
    }

    fn text(
        &self,
        input: &EmbedInput,
        request: &EmbedRequest,
        n_ctx: usize,
    ) -> Result<PreparedText, ProviderError> {
        let name = &input.name;
        let encode = |segments: Segments| self.tokenizer.encode(&segments, true);
        let mut tokens = match &input.prompt {
            Prompt::Text(text) => encode(Segments::content(text)),
            Prompt::Marked(text) => encode(Segments::template(text)),
            Prompt::Tokens(tokens) => {
                let n_vocab = self.model.n_vocab;
                if let Some(token) = tokens.iter().find(|t| t.0 as usize >= n_vocab) {
                    let message = format!("`{name}` has token {token}; the vocabulary has {n_vocab}");
                    return Err(invalid(name, message));
                }
                tokens.clone()
            }
            Prompt::Infill(_) => {
                return Err(invalid(
                    name,
                    format!("`{name}` is a gap between texts; only texts become vectors"),
                ));
            }
        };
        let n_tokens = tokens.len();
        if n_tokens == 0 {
            return Err(invalid(name, format!("`{name}` is empty: leave it out or give it text")));
        }
        if n_tokens <= n_ctx {
            return Ok(PreparedText { tokens, truncated_from: None });
        }
        if !request.truncate {
            // One text alone has a class of errors of its own, which clients know; of several, the message says which.
            if request.inputs.len() == 1 {
                return Err(ProviderError::ContextLength {
                    prompt_tokens: n_tokens,
                    max_tokens: None,
                    n_ctx,
                });
            }
            let message = format!(
                "`{name}` has {n_tokens} tokens, the context holds {n_ctx}: shorten it, or ask for truncation"
            );
            return Err(invalid(name, message));
        }
        tokens.truncate(n_ctx);
        // What the model wants at the end of a text is where last-token pooling looks.
        if !matches!(input.prompt, Prompt::Tokens(_))
            && let (Some(end), Some(last)) = (self.closing_token(), tokens.last_mut())
        {
            *last = end;
        }
        Ok(PreparedText { tokens, truncated_from: Some(n_tokens) })
    }

    /// What is put behind each text, if anything.
    fn closing_token(&self) -> Option<TokenId> {
        let around = self.tokenizer.encode(&Segments::content(""), true);
        around.get(usize::from(self.tokenizer.adds_bos())).copied()
    }
}
