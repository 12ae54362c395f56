//! Why a folder is not converted.

use std::path::PathBuf;

/// Why a folder is not converted. All variants are the fault of the folder or of the caller, but [`Io`](Self::Io).
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is larger than anything that is read.
    #[error("{} has {found} bytes, at most {max} are read", .path.display())]
    TooLarge {
        /// Which one.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// A file is no JSON, or an entry of it cannot be meant.
    #[error("{}: {what}", .path.display())]
    Bad {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Nothing here knows this kind of model.
    #[error(
        "architecture `{name}` cannot be converted (these can: {supported}); if there is a GGUF file of it, use that"
    )]
    UnsupportedArchitecture {
        /// What the folder says.
        name: String,
        /// What could be converted instead.
        supported: String,
    },
    /// The model does something that would be lost.
    #[error("{}: {what} is not supported", .path.display())]
    Unsupported {
        /// Where it says so.
        path: PathBuf,
        /// What, in words.
        what: String,
    },
    /// The folder has no weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json: other formats are not read", .0.display())]
    NoWeights(PathBuf),
    /// A tensor is not there.
    #[error("tensor `{0}` is missing: the folder is incomplete, or its config.json is of another model")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has the shape {found:?}, but config.json needs {expected:?}")]
    WrongShape {
        /// The name.
        name: String,
        /// What it should be.
        expected: Vec<usize>,
        /// What it is.
        found: Vec<usize>,
    },
    /// A tensor has no place in the file.
    #[error(
        "tensor `{0}` is not part of this architecture as it is known here: leaving it out would change results"
    )]
    UnknownTensor(String),
    /// A tensor's numbers cannot be written.
    #[error("tensor `{name}`: {what}")]
    BadTensor {
        /// The name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// There is a file already.
    #[error("{} exists: remove it, or choose another name", .0.display())]
    Exists(PathBuf),
}
