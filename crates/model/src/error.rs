//! Why a model cannot be loaded, and whose fault it is.

use ingle_gguf::{GgufError, TensorType};

/// Why a model cannot be loaded. All variants are the fault of the file, but [`Context`](Self::Context) and
/// [`Options`](Self::Options), which are the caller's, [`KvMemory`](Self::KvMemory) and
/// [`WeightMemory`](Self::WeightMemory), a lack of capacity, and [`Interrupted`](Self::Interrupted): ours, or nobody's.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A metadata key is missing or has a wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Nothing here knows how to compute this model.
    #[error("architecture `{name}` is not supported (supported: {supported})")]
    UnsupportedArchitecture {
        /// What the file says.
        name: String,
        /// What could be run instead, as a list for the user.
        supported: String,
    },
    /// A metadata value cannot be meant, or does not fit to another one.
    #[error("metadata key `{key}`: {what}")]
    BadHyperparameter {
        /// The key.
        key: String,
        /// What is wrong with its value.
        what: String,
    },
    /// The file asks for something that this architecture does not do here.
    #[error("metadata key `{key}`: {what} is not supported for architecture `{arch}` yet")]
    UnsupportedFeature {
        /// The key.
        key: String,
        /// The feature, in words.
        what: String,
        /// The architecture.
        arch: &'static str,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor `{name}` {expected:?} is missing: the file is incomplete or of another architecture")]
    MissingTensor {
        /// The name.
        name: String,
        /// The dimensions it should have, fastest-varying first.
        expected: Vec<u64>,
    },
    /// A tensor has other dimensions than the metadata say.
    #[error("tensor `{name}` has dimensions {found:?}, but the metadata need {expected:?}")]
    WrongShape {
        /// The name.
        name: String,
        /// The dimensions it should have, fastest-varying first.
        expected: Vec<u64>,
        /// The dimensions it has.
        found: Vec<u64>,
    },
    /// There are no kernels for a tensor's type.
    #[error("tensor `{name}`: {what}")]
    UnsupportedType {
        /// The name.
        name: String,
        /// Its type.
        ty: TensorType,
        /// What could be done.
        what: String,
    },
    /// The file has a tensor that the architecture does not use: leaving it out would give wrong results.
    #[error("tensor `{name}` is not part of architecture `{arch}` as it is known here")]
    UnknownTensor {
        /// The name.
        name: String,
        /// The architecture.
        arch: &'static str,
    },
    /// A longer context was asked for than the model can use.
    #[error("a context of {asked} tokens is too long: the model reaches {max}; ask for a shorter one")]
    Context {
        /// What was asked for.
        asked: usize,
        /// The most that works.
        max: usize,
    },
    /// The system has no memory for the K/V cache.
    #[error("no memory for a K/V cache of {n_tokens} tokens: ask for a smaller context or fewer sequences")]
    KvMemory {
        /// What was asked for.
        n_tokens: usize,
    },
    /// The system has no memory for the weights.
    #[error("tensor `{name}`: {what}")]
    WeightMemory {
        /// The tensor for which there was none.
        name: String,
        /// How much, and what could be done.
        what: String,
    },
    /// Repacking the weights ended early.
    #[error("loading the weights ended: {0}")]
    Interrupted(String),
    /// Options that cannot be.
    #[error("{0}")]
    Options(String),
}

impl ModelError {
    /// A value that cannot be meant.
    pub(crate) fn bad(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::BadHyperparameter { key: key.into(), what: what.into() }
    }
}
