//! The bytes of a file: on disk, in memory or part of the program.
//!
//! A file is read, never mapped. Whoever shortens a mapped file kills the process that touches what is gone (SIGBUS);
//! a read that comes short is an error like any other. A file that is written over in place would give a mixture of
//! two models without a word, so each read looks whether the file is still as it was when it was opened. One that is
//! renamed, deleted, or replaced by renaming another over it, is none the worse: what was opened stays.

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::GgufError;

/// Bytes that are somewhere else, such as behind a web server that answers to ranges.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// What it is called in errors.
    fn name(&self) -> String;

    /// How many bytes there are.
    fn n_bytes(&self) -> u64;

    /// Fills `buf` with the bytes from `start` on, which lie within [`n_bytes`](Self::n_bytes).
    ///
    /// # Errors
    /// If they cannot be had, all of them, or are no longer those that were there first.
    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> std::io::Result<()>;
}

/// The beginning of a file of which nothing else is known but its length.
#[derive(Debug)]
pub(crate) struct Head {
    pub bytes: Vec<u8>,
    pub n_bytes: u64,
}

impl ReadAt for Head {
    fn name(&self) -> String {
        "the model of which only the header is there".into()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let known = usize::try_from(start).ok().and_then(|start| self.bytes.get(start..)).unwrap_or_default();
        // Reading ahead of the header is harmless: what is there must come first.
        let n = known.len().min(buf.len());
        if n == 0 && !buf.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buf[..n].copy_from_slice(&known[..n]);
        buf[n..].fill(0);
        Ok(())
    }
}

/// Bytes that only this program's own errors change.
#[derive(Debug)]
pub(crate) enum Source {
    Disk(Disk),
    Elsewhere(Arc<dyn ReadAt>),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

/// A file that was opened, and what it was like then.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
    len: u64,
    /// When it was last written; `None` where the system does not tell.
    modified: Option<SystemTime>,
}

impl Source {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is no regular file, is empty, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        // Before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufError::Header(format!("{} is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.len() == 0 {
            return Err(GgufError::Header(format!("{} is empty", path.display())));
        }
        let (len, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Self::Disk(Disk { path: path.to_owned(), file, len, modified }))
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.len,
            Self::Elsewhere(source) => source.n_bytes(),
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Static(bytes) => bytes.len() as u64,
        }
    }

    /// `len` bytes from `start` on, which the caller knows to be within. What is in memory is not copied.
    ///
    /// # Errors
    /// If they cannot be read, or the file is not what was opened.
    pub fn bytes(&self, start: u64, len: usize) -> Result<Cow<'_, [u8]>, GgufError> {
        let mut buf = Vec::new();
        if let Some(bytes) = self.in_memory() {
            return Ok(Cow::Borrowed(&bytes[start as usize..][..len]));
        }
        buf.resize(len, 0);
        self.read(start, &mut buf)?;
        Ok(Cow::Owned(buf))
    }

    /// The same through a buffer that is used again and again.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn bytes_by<'a>(
        &'a self,
        start: u64,
        len: usize,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], GgufError> {
        if let Some(bytes) = self.in_memory() {
            return Ok(&bytes[start as usize..][..len]);
        }
        buf.resize(len, 0);
        self.read(start, buf)?;
        Ok(buf)
    }

    /// The bytes, where they are in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        match self {
            Self::Disk(_) | Self::Elsewhere(_) => None,
            Self::Owned(bytes) => Some(bytes),
            Self::Static(bytes) => Some(bytes),
        }
    }

    /// Fills `buf` with the bytes from `start` on.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn read(&self, start: u64, buf: &mut [u8]) -> Result<(), GgufError> {
        if let Some(bytes) = self.in_memory() {
            buf.copy_from_slice(&bytes[start as usize..][..buf.len()]);
            return Ok(());
        }
        let disk = match self {
            Self::Disk(disk) => disk,
            Self::Elsewhere(elsewhere) => {
                let io = |source| GgufError::Io { path: elsewhere.name().into(), source };
                return elsewhere.read_exact_at(start, buf).map_err(io);
            }
            Self::Owned(_) | Self::Static(_) => unreachable!("that was copied"),
        };
        let io = |source| GgufError::Io { path: disk.path.clone(), source };
        match read_exact_at(&disk.file, buf, start) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(disk.changed()),
            other => other.map_err(io),
        }?;
        // Afterwards: what was read before a change is as it was opened.
        let now = disk.file.metadata().map_err(io)?;
        if disk.is_as_it_was(&now) { Ok(()) } else { Err(disk.changed()) }
    }
}

impl Disk {
    fn is_as_it_was(&self, now: &Metadata) -> bool {
        now.len() == self.len && now.modified().ok() == self.modified
    }

    fn changed(&self) -> GgufError {
        GgufError::Changed { path: self.path.clone() }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut start: u64) -> std::io::Result<()> {
    while !buf.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buf, start) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (buf, start) = (&mut buf[n..], start + n as u64),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let source = Source::open(file.path()).unwrap();
        (file, source)
    }

    #[test]
    fn reads_what_is_there() {
        let (_file, source) = file(b"0123456789");
        let mut buf = Vec::new();
        assert_eq!(source.len(), 10);
        assert_eq!(&*source.bytes(3, 4).unwrap(), b"3456");
        assert_eq!(source.bytes_by(0, 10, &mut buf).unwrap(), b"0123456789");
        assert_eq!(source.bytes_by(9, 1, &mut buf).unwrap(), b"9");
    }

    /// Whether the bytes of an open file can still be had after `change`.
    fn check(change: impl FnOnce(&Path), survives: bool) {
        let (file, source) = file(b"0123456789");
        change(file.path());
        let read = source.bytes(2, 4);
        match survives {
            true => assert_eq!(&*read.unwrap(), b"2345"),
            false => {
                let error = read.unwrap_err();
                assert!(matches!(error, GgufError::Changed { .. }), "{error}");
                assert!(error.to_string().contains("load it again"), "{error}");
            }
        }
    }

    #[test]
    fn a_file_that_changes_is_an_error_and_one_that_is_moved_is_none() {
        let open = |path: &Path| File::options().write(true).open(path).unwrap();
        check(|path| open(path).set_len(3).unwrap(), false);
        check(|path| open(path).set_len(0).unwrap(), false);
        check(|path| open(path).set_len(100).unwrap(), false);
        // The same length: only the time tells.
        check(
            |path| {
                open(path).write_all(b"abcdefghij").unwrap();
                open(path).set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
            },
            false,
        );
        check(|path| std::fs::remove_file(path).unwrap(), true);
        check(|path| std::fs::rename(path, path.with_extension("moved")).unwrap(), true);
        check(
            |path| {
                let other = path.with_extension("other");
                std::fs::write(&other, b"other model").unwrap();
                std::fs::rename(other, path).unwrap();
            },
            true,
        );
    }
}
