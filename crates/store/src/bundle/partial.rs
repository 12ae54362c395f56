//! Files that are written under another name than the one that they get when all is there: `NAME.partial`.
//!
//! Whoever writes one holds its lock. What has that name and is not locked was left by an export that was killed, and
//! goes; what is locked is another's and stays. Where a file system has no locks, and between a part's end and that of
//! all of them, a file is known by what the system counts it by: what is not ours gets no name and is not removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::BundleError;
use crate::files::lock_now;

/// How often a new file may be taken away before it is locked.
const ATTEMPTS_MAX: usize = 8;

/// A file on its way to its name.
#[derive(Debug)]
pub(super) struct Partial {
    /// Its name to be.
    name: PathBuf,
    id: Option<FileId>,
}

/// What the system counts a file by: device and number.
type FileId = (u64, u64);

impl Partial {
    /// Makes the file, and locks it for as long as it is open.
    ///
    /// # Errors
    /// Another export writes it ([`io::ErrorKind::ResourceBusy`]), or the system cannot.
    pub fn create(name: &Path) -> io::Result<(Self, File)> {
        for _ in 0..ATTEMPTS_MAX {
            remove_left(name)?;
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(path_of(name)) {
                // Another was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            if !lock(&file) {
                break;
            }
            // Before it was locked it looked like one that was left.
            let made = Self { name: name.to_owned(), id: id_of(&file.metadata()?) };
            if made.is_at(&path_of(name)) {
                return Ok((made, file));
            }
        }
        Err(busy(name))
    }

    /// Gives the file its name, if nothing has that.
    ///
    /// # Errors
    /// Something has it, the file is not there any more, or the system cannot.
    pub fn place(&self) -> Result<(), BundleError> {
        let (from, to) = (path_of(&self.name), &self.name);
        let failed = || BundleError::io(format!("cannot write {}", to.display()));
        if !self.is_at(&from) {
            return Err(self.lost());
        }
        match fs::hard_link(&from, to) {
            Ok(()) if !self.is_at(to) => {
                // Another's file that has taken the place of ours a moment ago: its own name it keeps.
                fs::remove_file(to).map_err(failed())?;
                Err(self.lost())
            }
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken(to)),
            // FAT has no second names.
            Err(_) => {
                check_free(to)?;
                fs::rename(&from, to).map_err(failed())
            }
        }
    }

    /// Takes back the name that [`Self::place`] gave.
    pub fn displace(&self) {
        if self.is_at(&self.name) {
            let _ = fs::remove_file(&self.name);
        }
    }

    /// Removes the file's first name.
    pub fn remove(&self) {
        let path = path_of(&self.name);
        if self.is_at(&path) {
            let _ = fs::remove_file(path);
        }
    }

    /// The name that it has when all is there.
    pub fn name(&self) -> &Path {
        &self.name
    }

    fn is_at(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|found| found.is_file() && id_of(&found) == self.id)
    }

    fn lost(&self) -> BundleError {
        BundleError::Source(format!(
            "{} was removed or replaced while it was written; export again, and one at a time to one name",
            path_of(&self.name).display()
        ))
    }
}

/// Removes what an export that was killed has left of a name.
///
/// # Errors
/// Another export writes it ([`io::ErrorKind::ResourceBusy`]), or the system cannot.
pub(super) fn remove_left(name: &Path) -> io::Result<()> {
    let path = path_of(name);
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let open = || {
        let to_write = OpenOptions::new().read(true).write(true).open(&path);
        // Some file systems lock only what may be written, and others let who may read.
        to_write.or_else(|_| File::open(&path))
    };
    // Held until the file is gone, so that nobody takes it for theirs in between. Links and pipes are nobody's export.
    let _held = match found.is_file().then(open) {
        Some(Ok(file)) if !lock(&file) => return Err(busy(name)),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Some(file) => Some(file?),
        None => None,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Refuses a name that something has.
pub(super) fn check_free(name: &Path) -> Result<(), BundleError> {
    if name.symlink_metadata().is_ok() { Err(taken(name)) } else { Ok(()) }
}

fn taken(name: &Path) -> BundleError {
    BundleError::Source(format!("{} is there already; remove it or choose another name", name.display()))
}

fn busy(name: &Path) -> io::Error {
    let path = path_of(name);
    let text =
        format!("{} is being written by another export; let it end or choose another name", path.display());
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

/// Locks a file until it is closed, unless another holds its lock. Where there are no locks, nobody does.
fn lock(file: &File) -> bool {
    !matches!(lock_now(|| file.try_lock()), Err(TryLockError::WouldBlock))
}

fn path_of(name: &Path) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(unix)]
fn id_of(found: &fs::Metadata) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

/// What is open cannot be removed and replaced there.
#[cfg(not(unix))]
fn id_of(_: &fs::Metadata) -> Option<FileId> {
    None
}
