//! What can go wrong.

use std::path::{Path, PathBuf};

/// Why the ledger did not do what it was asked for. The variant says whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file is no database, is damaged, or belongs to another program: the operator's to mend.
    #[error(
        "{} is damaged or no file of this kind ({problem}); move it away, and an empty one is made in its place",
        .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A later version of this program wrote the file.
    #[error(
        "{} was written by a later version of this program (its schema is {found}, this one knows {known}); use that \
         version, or another folder",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's schema.
        found: i64,
        /// The last one that is known here.
        known: i64,
    },
    /// The file cannot be made, opened or written: permissions, or a folder that is not there.
    #[error("{} cannot be opened for writing: {problem}", .path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The disk is full, or failed.
    #[error("{} cannot be written: {problem}; free some space", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// Others held the file for too long.
    #[error("{} is busy; try again", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// One response is larger than all that a tenant may store.
    #[error("the response has {bytes} bytes; at most {bytes_max} can be stored")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// What fits.
        bytes_max: u64,
    },
    /// The tenant has no such response (any more).
    #[error("there is no response `{id}`")]
    NoSuchResponse {
        /// Which.
        id: String,
    },
    /// A response that an existing one continues is gone.
    #[error("response `{id}` continues `{missing}`, which was deleted or is too old")]
    BrokenChain {
        /// Which.
        id: String,
        /// The one that is gone.
        missing: String,
    },
    /// A response continues more others than are followed.
    #[error("response `{id}` continues more than {turns_max} others")]
    ChainTooLong {
        /// Which.
        id: String,
        /// How many are followed.
        turns_max: u32,
    },
    /// Another process has the database open, and only one may.
    #[error("{} is in use by another process; stop that one, or use another folder", .path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than files may be.
    #[error("the file has more than {bytes_max} bytes")]
    FileTooLarge {
        /// What is taken.
        bytes_max: u64,
    },
    /// All files of a tenant are larger than they may be together.
    #[error("the files have more than {bytes_max} bytes together")]
    Full {
        /// What is kept.
        bytes_max: u64,
    },
    /// The tenant has as many files as it may.
    #[error("there are {count_max} files already")]
    TooManyFiles {
        /// How many it may have.
        count_max: u32,
    },
    /// The tenant has as many unfinished batches as it may.
    #[error("there are {count_max} unfinished batches already")]
    TooManyBatches {
        /// How many it may have.
        count_max: u32,
    },
    /// The tenant has no such file (any more).
    #[error("there is no file `{id}`")]
    NoSuchFile {
        /// Which.
        id: String,
    },
    /// A batch still needs the file.
    #[error("file `{id}` is the input of batch `{batch}`")]
    FileInUse {
        /// Which.
        id: String,
        /// For what.
        batch: String,
    },
    /// The tenant has no such batch (any more).
    #[error("there is no batch `{id}`")]
    NoSuchBatch {
        /// Which.
        id: String,
    },
    /// The batch has ended, or is about to.
    #[error("batch `{id}` is {status}")]
    NotCancellable {
        /// Which.
        id: String,
        /// What has become of it.
        status: &'static str,
    },
    /// Our fault.
    #[error("{}: {problem}", .path.display())]
    Internal {
        /// The file.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
}

impl LedgerError {
    /// What an error of the database means for the file at `path`.
    pub(crate) fn from_sqlx(path: &Path, error: sqlx::Error) -> Self {
        let path = path.to_owned();
        let code = error.as_database_error().and_then(|e| e.code()?.parse::<i32>().ok());
        let problem = error.to_string();
        // The low byte is the primary result code (https://www.sqlite.org/rescode.html).
        match code.map(|code| code & 0xff) {
            Some(11 | 26) => Self::Corrupt { path, problem },
            Some(3 | 8 | 14) => Self::Access { path, problem },
            Some(10 | 13) => Self::Disk { path, problem },
            Some(5 | 6) => Self::Busy { path },
            Some(_) => Self::Internal { path, problem },
            None => match error {
                sqlx::Error::PoolTimedOut => Self::Busy { path },
                // Text that is no UTF-8, or a number where text should be.
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt { path, problem },
                _ => Self::Internal { path, problem },
            },
        }
    }
}
