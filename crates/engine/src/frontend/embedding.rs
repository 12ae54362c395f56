//! A wish for vectors, or for scores of pairs: texts become tokens, and what cannot be served is refused by name.

use ingle_chat::{
    EMBED_INPUTS_MAX, EmbedInput, EmbedRequest, Pooling, Priority, Prompt, ProviderError, Segments,
};
use ingle_step::TokenId;
use ingle_tokenizer::Pair;

use super::{Frontend, invalid};
use crate::pooling::VectorSpec;

/// The most numbers over all vectors of a request: they are held and sent in one piece.
pub const EMBEDDING_VALUES_MAX: usize = 1 << 23;

/// A wish for vectors with nothing left to decide.
#[derive(Clone, Debug)]
pub struct PreparedTexts {
    /// The texts, or the pairs. Never empty.
    pub texts: Vec<PreparedText>,
    /// What their vectors are like.
    pub spec: VectorSpec,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// Whether they are pairs, which get scores.
    pub of_pairs: bool,
    /// Who shares cached beginnings with whom.
    pub tenant: String,
    /// Whether it makes way for others.
    pub priority: Priority,
}

/// One text, or a pair of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedText {
    /// Its tokens. Never empty.
    pub tokens: Vec<TokenId>,
    /// Where the second text of a pair begins, if the model tells them apart.
    pub second_from: Option<usize>,
    /// How many it had, if its end is left out.
    pub truncated_from: Option<usize>,
}

/// How long a text may be.
#[derive(Clone, Copy)]
struct Bounds {
    /// The longest sequence that can run.
    n_ctx: usize,
    /// The longest that this model reads: as many, or what one step holds.
    n_max: usize,
    /// Where texts are cut that are too long.
    cut_at: Option<usize>,
    /// Whether the request has but one text.
    is_one: bool,
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
        self.check_model(request.model.as_deref())?;
        let n_inputs = request.inputs.len();
        if !(1..=EMBED_INPUTS_MAX).contains(&n_inputs) {
            let message =
                format!("{n_inputs} texts were sent; 1 to {EMBED_INPUTS_MAX} can be embedded at once");
            return Err(invalid("input", message));
        }
        let ranks = self.pooling == Pooling::Rank;
        let dimensions = request.dimensions.map(|n| n as usize);
        if ranks {
            self.check_ranking(request)?;
        } else {
            self.check_vectors(n_inputs, dimensions)?;
        }
        let bounds = self.bounds(request, n_ctx)?;
        let texts = if ranks {
            let pair = |&(first, second): &(usize, usize)| {
                self.pair(&request.inputs[first], &request.inputs[second], bounds)
            };
            request.pairs.iter().map(pair).collect::<Result<_, _>>()?
        } else {
            request.inputs.iter().map(|input| self.text(input, bounds)).collect::<Result<_, _>>()?
        };
        Ok(PreparedTexts {
            texts,
            spec: VectorSpec { pooling: self.pooling, dimensions, normalize: request.normalize && !ranks },
            causal: self.abilities.causal,
            of_pairs: ranks,
            tenant: request.principal.tenant.clone(),
            priority: request.priority,
        })
    }

    fn check_vectors(&self, n_inputs: usize, dimensions: Option<usize>) -> Result<(), ProviderError> {
        let n_embd = self.model.n_embd;
        if let Some(n) = dimensions.filter(|n| !(1..=n_embd).contains(n)) {
            let message = format!(
                "dimensions is {n}; the model's vectors have {n_embd} numbers, ask for 1 to {n_embd}"
            );
            return Err(invalid("dimensions", message));
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
        Ok(())
    }

    /// What a head that ranks can be asked for.
    fn check_ranking(&self, request: &EmbedRequest) -> Result<(), ProviderError> {
        let n_labels = self.abilities.n_labels;
        if n_labels != 1 {
            let message = format!(
                "the model's head gives {n_labels} numbers for a pair of texts; one that ranks gives one: use a model \
                 that ranks, or choose another pooling for embeddings"
            );
            return Err(invalid("model", message));
        }
        if request.pairs.is_empty() {
            let message = "the model gives pairs of texts a score and makes no vectors: use /v1/rerank or /v1/score, \
                           or a model that embeds texts";
            return Err(invalid("model", message.into()));
        }
        if request.dimensions.is_some() {
            return Err(invalid("dimensions", "dimensions: a score has none; remove it".into()));
        }
        let n_inputs = request.inputs.len();
        assert!(
            request.pairs.iter().all(|&(first, second)| first < n_inputs && second < n_inputs),
            "pairs are of inputs"
        );
        Ok(())
    }

    fn bounds(&self, request: &EmbedRequest, n_ctx: usize) -> Result<Bounds, ProviderError> {
        let step = if self.abilities.causal { usize::MAX } else { self.abilities.step_tokens };
        let n_max = n_ctx.min(step);
        let cut_at = match request.truncate_to.map(|n| n as usize) {
            Some(n) if n > n_max || n == 0 => {
                let message = format!("texts are to be cut to {n} tokens; the model reads 1 to {n_max}");
                return Err(invalid("truncate_prompt_tokens", message));
            }
            Some(n) => Some(n),
            None => request.truncate.then_some(n_max),
        };
        Ok(Bounds { n_ctx, n_max, cut_at, is_one: request.inputs.len() == 1 })
    }

    fn text(&self, input: &EmbedInput, bounds: Bounds) -> Result<PreparedText, ProviderError> {
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
        let Some(cut_at) = bounds.cut(name, n_tokens)? else {
            return Ok(PreparedText { tokens, second_from: None, truncated_from: None });
        };
        tokens.truncate(cut_at);
        // What the model wants at the end of a text is where last-token pooling looks.
        if !matches!(input.prompt, Prompt::Tokens(_))
            && let (Some(end), Some(last)) = (self.closing_token(), tokens.last_mut())
        {
            *last = end;
        }
        Ok(PreparedText { tokens, second_from: None, truncated_from: Some(n_tokens) })
    }

    /// Two texts that the model reads together. If they are too long, the end of the second is left out.
    fn pair(
        &self,
        first: &EmbedInput,
        second: &EmbedInput,
        bounds: Bounds,
    ) -> Result<PreparedText, ProviderError> {
        let text = |input: &EmbedInput| match &input.prompt {
            Prompt::Text(text) => Ok(text.clone()),
            _ => Err(invalid(
                &input.name,
                format!("`{}` is no text; only pairs of texts are ranked", input.name),
            )),
        };
        let pair = self.tokenizer.encode_pair(&text(first)?, &text(second)?);
        let name = &second.name;
        let Some(Pair { mut tokens, second_from, n_closing }) = pair else {
            let message =
                "the model's vocabulary has no token that stands between two texts, so it cannot rank them";
            return Err(invalid("model", message.into()));
        };
        let n_tokens = tokens.len();
        let cut = bounds.cut(name, n_tokens)?;
        if let Some(cut_at) = cut {
            let kept = cut_at.saturating_sub(second_from + n_closing);
            if kept == 0 {
                let message = format!(
                    "`{}` and what stands around it have {} tokens, which leaves nothing of {cut_at} for `{name}`: \
                     shorten it",
                    first.name,
                    second_from + n_closing
                );
                return Err(invalid(&first.name, message));
            }
            tokens.drain(second_from + kept..n_tokens - n_closing);
        }
        Ok(PreparedText {
            tokens,
            second_from: self.abilities.has_token_types.then_some(second_from),
            truncated_from: cut.map(|_| n_tokens),
        })
    }

    /// What is put behind each text, if anything.
    fn closing_token(&self) -> Option<TokenId> {
        let around = self.tokenizer.encode(&Segments::content(""), true);
        around.get(usize::from(self.tokenizer.adds_bos())).copied()
    }
}

impl Bounds {
    /// How many tokens stay of a text, if not all.
    ///
    /// # Errors
    /// If it is too long and shall not be cut.
    fn cut(self, name: &str, n_tokens: usize) -> Result<Option<usize>, ProviderError> {
        let Self { n_ctx, n_max, cut_at, is_one } = self;
        if let Some(cut_at) = cut_at {
            return Ok((n_tokens > cut_at).then_some(cut_at));
        }
        if n_tokens <= n_max {
            return Ok(None);
        }
        // One text alone has a class of errors of its own, which clients know; of several, the message says which.
        if is_one && n_tokens > n_ctx {
            return Err(ProviderError::ContextLength { prompt_tokens: n_tokens, max_tokens: None, n_ctx });
        }
        let message = if n_tokens > n_ctx {
            format!(
                "`{name}` has {n_tokens} tokens, the context holds {n_ctx}: shorten it, or ask for truncation"
            )
        } else {
            format!(
                "`{name}` has {n_tokens} tokens; the model reads a text in one step, and a step has {n_max}: shorten it, \
                 ask for truncation, or give the server a larger batch"
            )
        };
        Err(invalid(name, message))
    }
}
