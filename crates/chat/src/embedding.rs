//! Texts to vectors: what is wanted and what comes back, in no dialect.

use std::future::Future;
use std::pin::Pin;

use crate::{Principal, Priority, Prompt, ProviderError, Usage};

/// The most texts of one request.
pub const EMBED_INPUTS_MAX: usize = 2048;

/// How the hidden states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// That of the first token.
    Cls,
    /// That of the last token: the only one of a causal model that has seen the whole text.
    Last,
    /// None: a head of the model's own gives pairs of texts a score, from that of the first token.
    Rank,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mean, Self::Cls, Self::Last, Self::Rank];

    /// The name that flags and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Last => "last",
            Self::Rank => "rank",
        }
    }

    /// The pooling of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// A text to become a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedInput {
    /// What messages call it: its place in the caller's request, such as `input[3]`.
    pub name: String,
    /// The text. What the model wants around a text (BOS, EOS) is added, but not to tokens.
    pub prompt: Prompt,
}

/// A wish for vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// For logs and replies; unique.
    pub id: String,
    /// Who asks.
    pub principal: Principal,
    /// The model's name; `None` is the default model.
    pub model: Option<String>,
    /// The texts: at least one, at most [`EMBED_INPUTS_MAX`].
    pub inputs: Vec<EmbedInput>,
    /// Which inputs are compared, by their places: a model with a head that ranks gives these pairs scores, and no
    /// vectors; others give vectors all the same. Empty if vectors alone are wanted.
    pub pairs: Vec<(usize, usize)>,
    /// Whether the end of a text that is too long is left out. Otherwise it is an error. Of a pair it is the end of the
    /// second text.
    pub truncate: bool,
    /// The tokens that count as too long for `truncate`; `None` is what the model can read.
    pub truncate_to: Option<u32>,
    /// Only the first so many numbers of each vector. Models that were not trained for it lose meaning by that.
    pub dimensions: Option<u32>,
    /// Whether vectors have the length 1.
    pub normalize: bool,
    /// Whether it makes way for others.
    pub priority: Priority,
}

impl EmbedRequest {
    /// A request with everything at its default: whole texts, whole vectors, of length 1.
    pub fn new(id: impl Into<String>, principal: Principal, inputs: Vec<EmbedInput>) -> Self {
        Self {
            id: id.into(),
            principal,
            model: None,
            inputs,
            pairs: Vec::new(),
            truncate: false,
            truncate_to: None,
            dimensions: None,
            normalize: true,
            priority: Priority::Normal,
        }
    }
}

/// What became of one text, or of one pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// The vector; of a pair its score alone, a number of any size.
    pub vector: Vec<f32>,
    /// How many tokens went into it.
    pub n_tokens: u64,
    /// How many the text has, if its end was left out.
    pub truncated_from: Option<u64>,
}

impl Embedding {
    /// The cosine of the angle to another vector; 0 if either has no direction.
    pub fn cosine(&self, other: &Self) -> f32 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let (a, b) = (&self.vector, &other.vector);
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        if lengths == 0.0 { 0.0 } else { (dot(a, b) / lengths).clamp(-1.0, 1.0) as f32 }
    }
}

/// What became of all texts of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// One per input, in their order; or one per pair.
    pub items: Vec<Embedding>,
    /// Whether they are of pairs.
    pub of_pairs: bool,
    /// What they cost together: no new tokens, and all of the time until the last of them is `prefill`.
    pub usage: Usage,
}

/// The vectors on their way. Dropping it aborts the request.
pub type EmbeddingsFuture = Pin<Box<dyn Future<Output = Result<Embeddings, ProviderError>> + Send>>;

/// What [`Provider::embed`](crate::Provider::embed) returns.
pub type EmbedFuture<'a> = Pin<Box<dyn Future<Output = Result<EmbeddingsFuture, ProviderError>> + Send + 'a>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        let check = |a: &[f32], b: &[f32], expected: f32| {
            let embedding = |v: &[f32]| Embedding { vector: v.to_vec(), ..Embedding::default() };
            assert_eq!(embedding(a).cosine(&embedding(b)), expected, "{a:?} {b:?}");
        };
        check(&[1.0, 0.0], &[2.0, 0.0], 1.0);
        check(&[1.0, 0.0], &[0.0, 3.0], 0.0);
        check(&[1.0, 1.0], &[-2.0, -2.0], -1.0);
        check(&[3.0, 4.0], &[4.0, 3.0], 0.96);
        check(&[0.0, 0.0], &[1.0, 0.0], 0.0);
    }

    #[test]
    fn names_of_poolings() {
        for pooling in Pooling::ALL {
            assert_eq!(Pooling::from_name(pooling.name()), Some(pooling));
        }
        assert_eq!(Pooling::from_name("max"), None);
    }
}
