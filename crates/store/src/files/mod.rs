//! Every operation on files that a store makes, behind one trait.
//!
//! The store never touches files any other way, so that a test can count the operations, fail or stop at each of them,
//! and model what a loss of power leaves behind.

mod real;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use real::RealFiles;
pub(crate) use real::lock_now;

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A device, a pipe, a socket.
    Other,
}

/// What is known of a file without opening it. Links are followed.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: u64,
    /// When it was written last.
    pub modified: SystemTime,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Beside others that share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// A file system.
pub trait Files: Send + Sync + fmt::Debug {
    /// Makes a new file, to be read and written; it is an error if there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a regular file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a regular file for reading and writing; a link is not followed.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Makes a folder; it is no error if there is one.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a link.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns when the entries of a folder are durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder that are UTF-8 (no others are ours), sorted.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>>;
    /// What a path names.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// The path with all links followed.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;
    /// Bytes that may still be written in the file system of a folder.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Locks the file of this path, which is made if it is not there; it waits if it is to, else there is `None` if others
    /// hold the lock. The file that is locked is the one that has the path then. The process's end frees the lock.
    fn lock(&self, path: &Path, mode: Mode, wait: bool) -> io::Result<Option<Box<dyn FileLock>>>;
    /// Lets a new file share the bytes of another, where the file system can do that: `false` if not.
    fn share_bytes(&self, from: &Path, to: &dyn OpenFile) -> io::Result<bool>;
}

/// A file that is open.
pub trait OpenFile: Send + Sync + fmt::Debug {
    /// Reads at most as many bytes as fit; 0 is the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes, or fails after some of them.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Returns when content and length are durable.
    fn sync(&self) -> io::Result<()>;
    /// The file itself, where it is one of the system's.
    fn as_system(&self) -> Option<&std::fs::File> {
        None
    }
}

/// A lock that is held until this is dropped.
pub trait FileLock: Send + Sync + fmt::Debug {
    /// Turns an exclusive lock into a shared one. Others may hold it alone in between.
    fn share(&self) -> io::Result<()>;
}
