//! What can be wrong with a file, and where.

use std::path::PathBuf;

use crate::ValueType;

/// Why a GGUF file was refused. Every variant is the fault of the file (or its path), never of the caller.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system would not give us the bytes.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file that was asked for.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no longer the one that was opened: somebody shortened it or wrote over it.
    #[error(
        "model file changed: {path} was shortened or written over since it was opened; load it again (and replace model \
         files by renaming, which leaves what is open as it is)"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The bytes do not start as a GGUF file that we read.
    #[error("not a readable GGUF file: {0}")]
    Header(String),
    /// A field claims more than the file holds, or a value that cannot be.
    #[error("bad GGUF file at offset {offset}: {what}")]
    Malformed {
        /// Byte offset of the offending field.
        offset: u64,
        /// What is wrong, naming the key or tensor.
        what: String,
    },
    /// A metadata key that is needed is missing.
    #[error("metadata key `{0}` is missing")]
    MissingKey(String),
    /// A metadata key holds another type than needed.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What was wanted, in words.
        expected: &'static str,
        /// What the file has.
        found: ValueType,
    },
    /// A metadata value has the right type but cannot be meant.
    #[error("metadata key `{key}`: {what}")]
    BadValue {
        /// The key.
        key: String,
        /// Why the value is refused.
        what: String,
    },
    /// The shards of a split file do not fit together.
    #[error("split GGUF file: {0}")]
    Split(String),
}
