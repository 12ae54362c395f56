//! What every reply with vectors, in whatever dialect, says about texts whose end was left out.

use ingle_chat::{EmbedInput, Embeddings};
use schemars::JsonSchema;
use serde::Serialize;

/// A text that was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "TruncatedText")]
pub struct Truncated {
    /// Its place in the request, such as `input[3]`.
    pub input: String,
    /// How many tokens it has.
    pub tokens: u64,
    /// How many of them, from the first on, went into the vector.
    pub kept: u64,
}

/// The texts that were cut; `names` are the inputs'.
pub(crate) fn truncated(names: &[String], embeddings: &Embeddings) -> Vec<Truncated> {
    let cut = names.iter().zip(&embeddings.items).filter_map(|(name, item)| {
        Some(Truncated { input: name.clone(), tokens: item.truncated_from?, kept: item.n_tokens })
    });
    cut.collect()
}

/// What the inputs are called.
pub(crate) fn names(inputs: &[EmbedInput]) -> Vec<String> {
    inputs.iter().map(|input| input.name.clone()).collect()
}
