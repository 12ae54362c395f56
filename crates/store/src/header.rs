//! What models' files say of themselves, read through the store's own files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_gguf::{GgufError, GgufFile, ReadAt};

use crate::files::OpenFile;
use crate::shared::Shared;

/// A file whose header is read: where it is, and what it is called in errors.
pub(crate) type Named = (PathBuf, String);

#[derive(Debug)]
struct Opened {
    name: String,
    file: Box<dyn OpenFile>,
    n_bytes: u64,
}

impl ReadAt for Opened {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read_exact_at(&self, mut start: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.file.read_at(start, buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (start, buf) = (start + n as u64, &mut buf[n..]);
        }
        Ok(())
    }
}

impl Shared {
    fn opened(&self, path: &Path, name: &str) -> Result<Arc<dyn ReadAt>, GgufError> {
        let io = |source| GgufError::Io { path: name.into(), source };
        let file = self.files.open(path).map_err(io)?;
        let n_bytes = file.len().map_err(io)?;
        Ok(Arc::new(Opened { name: name.to_owned(), file, n_bytes }))
    }

    /// The header of one file alone, also if it is a part of a split model.
    pub(crate) fn header(&self, path: &Path, name: &str) -> Result<GgufFile, GgufError> {
        GgufFile::open_part_elsewhere(self.opened(path, name)?)
    }

    /// The header of a model that is one file, or of all its parts in order.
    pub(crate) fn headers(&self, parts: &[Named]) -> Result<GgufFile, GgufError> {
        let Some(((path, name), rest)) = parts.split_first() else {
            return Err(GgufError::Split("there is no file".to_owned()));
        };
        let wrong =
            |count: u64| GgufError::Split(format!("it has {count} parts, and {} are there", parts.len()));
        let file = GgufFile::open_elsewhere(self.opened(path, name)?, &mut |i, count| {
            if count != parts.len() as u64 {
                return Err(wrong(count));
            }
            let (path, name) = &rest[i as usize - 1];
            self.opened(path, name)
        })?;
        match file.shard_bytes().count() {
            n if n == parts.len() => Ok(file),
            n => Err(wrong(n as u64)),
        }
    }
}
