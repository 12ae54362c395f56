//! What can be wrong with a vocabulary.

use ingle_gguf::GgufError;

/// Why a tokenizer could not be built. Every variant is the fault of the model file, never of the caller's text:
/// a built tokenizer encodes and decodes anything.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing, has another type, or a value that cannot be.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The kind of vocabulary is one that we do not implement.
    #[error("`tokenizer.ggml.model` is `{found}`, which is not supported (supported: {known})")]
    UnknownModel {
        /// What the file says.
        found: String,
        /// The supported names, comma-separated.
        known: String,
    },
    /// The way of cutting text into words is one that we do not know; guessing would give wrong tokens.
    #[error(
        "`tokenizer.ggml.pre` is `{found}`, which is not known (known: {known}); update ingle or convert the model again"
    )]
    UnknownPre {
        /// What the file says.
        found: String,
        /// The known names, comma-separated.
        known: String,
    },
    /// A list that must match the tokens one to one does not.
    #[error("metadata key `{key}` has {found} entries, but there are {n_vocab} tokens")]
    CountMismatch {
        /// The key.
        key: &'static str,
        /// Its number of entries.
        found: usize,
        /// The number of tokens.
        n_vocab: usize,
    },
    /// A list is longer than any real vocabulary's.
    #[error("metadata key `{key}` has {found} entries, more than the limit of {limit}")]
    TooMany {
        /// The key.
        key: &'static str,
        /// Its number of entries.
        found: usize,
        /// The most that we take.
        limit: usize,
    },
    /// An entry of a list is refused.
    #[error("metadata key `{key}`, entry {index}: {what}")]
    BadEntry {
        /// The key.
        key: &'static str,
        /// Index in the list.
        index: usize,
        /// Why.
        what: String,
    },
    /// A special token's id is not in the vocabulary.
    #[error("metadata key `{key}` is {id}, but the vocabulary has only {n_vocab} tokens")]
    IdOutOfRange {
        /// The key.
        key: &'static str,
        /// The id that the file gives.
        id: u64,
        /// The number of tokens.
        n_vocab: usize,
    },
}
