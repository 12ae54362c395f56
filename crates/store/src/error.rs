//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, ManifestError, ModelName, NameError};

/// What file systems take for a name or an empty file, at most.
const BLOCK_BYTES: u64 = 4096;

/// An operation on a store that did not succeed. Nothing that could be seen before is changed by one that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {what} {}: {source}{}", path.display(), instead(what, source))]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk would be full: nothing was begun.
    #[error(
        "the disk of {} has {free} bytes free; {needed} are needed, and {spare} stay free; `ingle prune` and `ingle rm` make \
         room",
        path.display()
    )]
    NoSpace {
        /// The store's folder.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are left alone.
        spare: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The disk is full. What is there stays as it is, and what was begun is taken up or collected by the next command.
    #[error("cannot write {}: {source}; {needed} more bytes are needed; `ingle prune` and `ingle rm` make room", path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// What the system said.
        source: io::Error,
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
    /// Another process, or another part of this one, has named or removed the model meanwhile.
    #[error(
        "another process has given `{name}` another meaning meanwhile, which is left as it is; look at it, and try again"
    )]
    NameChanged {
        /// The model.
        name: Box<ModelName>,
    },
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
    #[error("the blob {0} is not in the store; pull, create or import its model again")]
    MissingBlob(Digest),
    /// A blob that is no longer what it was.
    #[error(
        "the blob {digest} is damaged: its bytes {start} to {end} are not those that were stored; `ingle verify` looks \
         at all of it, and a model that is pulled, created or imported again then replaces it"
    )]
    Damaged {
        /// The blob.
        digest: Digest,
        /// Where the part that was compared begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// A manifest that cannot be used.
    #[error("the manifest of `{name}` cannot be used: {source}")]
    Manifest {
        /// The model.
        name: Box<ModelName>,
        /// Why.
        source: ManifestError,
    },
    /// A manifest that could not be read again, and so is not written.
    #[error("`{name}` cannot be stored: {source}; nothing was changed")]
    Unfit {
        /// The model.
        name: Box<ModelName>,
        /// What is against it.
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
        "`{name}` cannot be used: {why}; `ingle verify {name}` looks closer; what is damaged or missing comes back when \
         the model is pulled, created or imported again"
    )]
    Broken {
        /// The model.
        name: Box<ModelName>,
        /// What is wrong.
        why: String,
    },
    /// A model that is here, of another revision than the one that is asked for.
    #[error(
        "`{name}` is here of another revision than `{asked}`: of {is}; `ingle pull --update {asked}` puts that one in its \
         place"
    )]
    OtherRevision {
        /// The model.
        name: Box<ModelName>,
        /// The revision that it is of.
        is: String,
        /// The reference that is asked for.
        asked: String,
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
    /// Whether it is a model that is at fault, which stays so until somebody repairs it.
    pub fn is_of_a_model(&self) -> bool {
        matches!(
            self,
            Self::Broken { .. }
                | Self::Manifest { .. }
                | Self::Layer { .. }
                | Self::Damaged { .. }
                | Self::MissingBlob(_)
        )
    }

    /// Whether the disk was full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Full { .. } => true,
            Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// The same, with what is needed if it is that the disk is full; at least the block that a name takes.
    pub(crate) fn needing(self, bytes: u64) -> Self {
        match self {
            Self::Io { path, source, .. } if is_full(&source) => {
                Self::Full { path, needed: bytes.max(BLOCK_BYTES), source }
            }
            other => other,
        }
    }

    /// What may be told to who is not at this machine: the same words without a path of it. `None` where the paths are
    /// what it is about; then it is for the log alone.
    pub fn without_paths(&self) -> Option<String> {
        match self {
            Self::NoSpace { needed, free, .. } => {
                Some(format!("the disk of the store has {free} bytes free, and {needed} are needed"))
            }
            Self::Full { needed, .. } => {
                Some(format!("the disk of the store is full; {needed} more bytes are needed"))
            }
            Self::Io { .. } if self.is_no_space() => Some("the disk of the store is full".to_owned()),
            Self::ReadOnly { name, .. } => Some(format!("`{name}` stands in a store that is only read")),
            Self::WrongSize { expected, found, .. } => {
                Some(format!("the content has {found} bytes, and {expected} were expected"))
            }
            Self::TooLarge { found, max, .. } => {
                Some(format!("a text of it has {found} bytes; {max} are the most that are read"))
            }
            Self::Io { .. } | Self::Path { .. } | Self::NotAFile(_) | Self::TooMany { .. } => None,
            Self::Name(_)
            | Self::Busy(_)
            | Self::NotFound(_)
            | Self::WrongContent { .. }
            | Self::MissingBlob(_)
            | Self::Damaged { .. }
            | Self::Manifest { .. }
            | Self::Unfit { .. }
            | Self::Layer { .. }
            | Self::Broken { .. }
            | Self::OtherRevision { .. }
            | Self::NameChanged { .. }
            | Self::OutOfOrder { .. } => Some(self.to_string()),
        }
    }
}

/// What to do where the store may not be written to.
fn instead(what: &str, error: &io::Error) -> &'static str {
    // The first things that whoever writes does.
    let is_first = matches!(what, "lock" | "make the folder");
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the store can only be read here: name another with --store-dir (INGLE_MODELS), and this one with \
             --shared-store"
        }
        io::ErrorKind::PermissionDenied if is_first => {
            "; the store is another user's: name your own with --store-dir (INGLE_MODELS), and this one with \
             --shared-store"
        }
        _ => "",
    }
}

/// Whether the system says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_written_says_where_to_write() {
        let check = |what: &'static str, kind: io::ErrorKind, expected: &str| {
            let error = StoreError::Io { what, path: "/m/locks/names.lock".into(), source: kind.into() };
            let text = error.to_string();
            assert_eq!(text.contains("--store-dir (INGLE_MODELS)"), !expected.is_empty(), "{text}");
            assert!(text.contains(expected), "{text}");
        };
        check("lock", io::ErrorKind::ReadOnlyFilesystem, "can only be read here");
        check("lock", io::ErrorKind::PermissionDenied, "is another user's");
        check("make the folder", io::ErrorKind::PermissionDenied, "is another user's");
        check("read", io::ErrorKind::PermissionDenied, "");
        check("write", io::ErrorKind::NotFound, "");
    }
}
