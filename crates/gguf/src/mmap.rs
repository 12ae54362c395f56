//! The bytes of a file: mapped, owned or part of the program.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::GgufError;

/// Read-only bytes with one of three owners.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    pub(crate) fn map(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        // Before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufError::Header(format!("{} is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(GgufError::Header(format!("{} is empty", path.display())));
        }
        #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
        // SAFETY: the map is private and read-only. Another process that truncates the file while it is mapped
        // can make reads fault; files of the store are only ever replaced by rename, which leaves the map whole.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Self::Mapped(map))
    }

    /// Asks the system to read a range soon, and returns at once.
    pub(crate) fn read_ahead(&self, start: usize, len: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // A refusal only costs speed: here and below.
            let _ = map.advise_range(memmap2::Advice::WillNeed, start, len);
        }
        #[cfg(not(unix))]
        let _ = (start, len);
    }

    /// Waits until a range is read, and maps it with one system call instead of a fault for every few pages.
    pub(crate) fn populate(&self, start: usize, len: usize) {
        #[cfg(target_os = "linux")]
        if let Self::Mapped(map) = self {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, start, len);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, len);
    }

    /// Takes a range out of this process's resident set. It stays in the system's page cache, where the next look
    /// finds it.
    pub(crate) fn release(&self, start: usize, len: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            #[expect(unsafe_code, reason = "advice that would destroy what was written to a mapping")]
            // SAFETY: the map is read-only and of a file, so there is nothing to destroy: whoever reads a page again
            // reads the same bytes of the file.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        }
        #[cfg(not(unix))]
        let _ = (start, len);
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}
