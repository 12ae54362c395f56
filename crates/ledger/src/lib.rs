//! What must outlive the process, in SQLite: one file for each concern.
//!
//! There are two concerns so far: [`Responses`], answers that clients want to come back to, and [`Files`], what they
//! upload, with the batches over it. Payloads are opaque here, with columns of our own beside them; what is in them is
//! the business of those who put them in.
//!
//! Beside them, outside SQLite: [`Records`] of requests, a file for each, which may be lost and are never waited for.
//!
//! A file is written in transactions and in WAL mode, and a transaction is on the disk before its caller hears of it:
//! whenever the process dies, what was acknowledged is there and the file is whole. All work is done on threads of
//! the database's own; nothing here blocks the caller's.

mod database;
mod error;
mod files;
mod records;
mod responses;

pub use error::LedgerError;
pub use files::{
    BATCHES_UNFINISHED_MAX, Batch, BatchStatus, FileLimits, FileQuery, Files, NewBatch, Page, Reader,
    StoredFile, Upload,
};
pub use records::{OnProblem, RecordLimits, Records};
pub use responses::{Chain, Responses, Retention, StoredResponse, Turn};
