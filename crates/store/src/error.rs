//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, ManifestError, ModelName, NameError};

/// An operation on a store that did not succeed. Nothing that could be seen before is changed by one that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is full, or would be.
    #[error("the disk of {} has {free} bytes free, and {needed} are needed; `ingle prune` and `ingle rm` make room", path.display())]
    NoSpace {
        /// The store's folder.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What was written is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another process, or another part of this one, writes the same blob.
    #[error("{0} is being written by another process; try again when it is done")]
    Busy(Digest),
    /// There is no model of this name.
    #[error("there is no model `{0}` here; `ingle list` shows what there is")]
    NotFound(Box<ModelName>),
    /// The model is there, and stands in a store that is only read.
    #[error("`{name}` stands in {}, which is only read; remove it there", origin.display())]
    ReadOnly {
        /// The model.
        name: Box<ModelName>,
        /// The folder that has it.
        origin: PathBuf,
    },
    /// The content is not what was promised.
    #[error(
        "the content has the digest {found}, and {expected} was expected: it was damaged, or another file was sent"
    )]
    WrongContent {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There are more or fewer bytes than were promised.
    #[error("{what} has {found} bytes, and {expected} were expected")]
    WrongSize {
        /// What it is about.
        what: String,
        /// What was promised.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A manifest asks for a blob that is not there.
    #[error("the blob {0} is not in the store; pull the model again")]
    MissingBlob(Digest),
    /// A manifest that cannot be used.
    #[error("the manifest of `{name}` cannot be used: {source}")]
    Manifest {
        /// The model.
        name: Box<ModelName>,
        /// Why.
        source: ManifestError,
    },
    /// Something that is read as a whole is larger than it may be.
    #[error("{what} has {found} bytes; {max} are the most that are read")]
    TooLarge {
        /// What it is.
        what: String,
        /// Its size.
        found: u64,
        /// The most.
        max: u64,
    },
    /// A layer that is not what its type says.
    #[error("the {what} of `{name}` cannot be used: {why}")]
    Layer {
        /// The model.
        name: String,
        /// Which layer.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A model that is here and cannot be used.
    #[error(
        "`{name}` cannot be used: {why}; `ingle verify {name}` looks closer, and pulling it again repairs it"
    )]
    Broken {
        /// The model.
        name: Box<ModelName>,
        /// What is wrong.
        why: String,
    },
    /// A file or folder of this machine that is no model.
    #[error("{} cannot be used: {why}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Something that only a regular file can be is a folder, a link or a device.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// The caller wrote bytes of a chunk that do not follow those before, or beyond the end.
    #[error("bytes at {offset} do not follow what was written of this chunk, or are beyond the end")]
    OutOfOrder {
        /// Where the bytes belong.
        offset: u64,
    },
    /// There are more of something than are looked at.
    #[error("{what}: there are more than {max}")]
    TooMany {
        /// What they are.
        what: String,
        /// The most.
        max: usize,
    },
}

impl StoreError {
    /// Whether the disk was full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Says of a refusal of the system what was tried, and on what.
pub(crate) trait Tried<T> {
    fn tried(self, what: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { what, path: path.to_owned(), source })
    }
}
