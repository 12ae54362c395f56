//! What is kept on disk, through the crate's interface.

mod files;
mod records;
mod responses;
