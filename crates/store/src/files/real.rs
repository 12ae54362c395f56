//! The system's files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{FileLock, Files, Kind, Metadata, Mode, OpenFile};

/// How often a lock's file may be removed under our hands before we give up.
const LOCK_ATTEMPTS_MAX: usize = 1000;
/// Pauses before a lock counts as held.
const LOCK_PAUSES: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(4), Duration::from_millis(15)];

/// The system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        open(OpenOptions::new().read(true), path, true)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        open(OpenOptions::new().read(true).write(true), path, false)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            done => done,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Windows has no such call: its file systems write names in order.
        if cfg!(windows) { Ok(()) } else { File::open(path)?.sync_all() }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::metadata(path)?;
        Ok(Metadata { kind: kind(&found), len: found.len(), modified: found.modified()? })
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    #[cfg(unix)]
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    #[cfg(not(unix))]
    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        // Not asked for there: a full disk shows when it is written to.
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path, mode: Mode, wait: bool) -> io::Result<Option<Box<dyn FileLock>>> {
        for _ in 0..LOCK_ATTEMPTS_MAX {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let held = match (mode, wait) {
                (Mode::Shared, true) => file.lock_shared().map(|()| true),
                (Mode::Exclusive, true) => file.lock().map(|()| true),
                (Mode::Shared, false) => had(|| file.try_lock_shared()),
                (Mode::Exclusive, false) => had(|| file.try_lock()),
            }?;
            if !held {
                return Ok(None);
            }
            // Whoever held it before may have removed the file: then this lock keeps nobody out.
            if is_at(&file, path)? {
                return Ok(Some(Box::new(SystemLock(file))));
            }
        }
        Err(io::Error::other("the lock's file was removed again and again"))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn share_bytes(&self, from: &Path, to: &dyn OpenFile) -> io::Result<bool> {
        let Some(to) = to.as_system() else { return Ok(false) };
        // Whatever the reason why it cannot, copying is what remains.
        Ok(rustix::fs::ioctl_ficlone(to, File::open(from)?).is_ok())
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn share_bytes(&self, _from: &Path, _to: &dyn OpenFile) -> io::Result<bool> {
        Ok(false)
    }
}

fn kind(found: &fs::Metadata) -> Kind {
    match found {
        found if found.is_file() => Kind::File,
        found if found.is_dir() => Kind::Dir,
        _ => Kind::Other,
    }
}

/// Opens what is a regular file, and stays one: a pipe would block, a device would never end.
fn open(options: &mut OpenOptions, path: &Path, follow: bool) -> io::Result<Box<dyn OpenFile>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let mut flags = rustix::fs::OFlags::NONBLOCK;
        if !follow {
            flags |= rustix::fs::OFlags::NOFOLLOW;
        }
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    }
    #[cfg(not(unix))]
    let _ = follow;
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(Box::new(SystemFile(file)))
}

/// Whether a lock can be had at once.
fn had(lock: impl Fn() -> Result<(), TryLockError>) -> io::Result<bool> {
    match lock_now(lock) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Locks without waiting for who means to hold it. A program that another thread starts has copies of this process's locks
/// until it runs, so one that is let go may be held for a moment more: who holds it longer than that means it.
pub(crate) fn lock_now(lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    let mut pauses = LOCK_PAUSES.iter();
    loop {
        match (lock(), pauses.as_slice()) {
            (Err(TryLockError::WouldBlock), [pause, ..]) => std::thread::sleep(*pause),
            (done, _) => return done,
        }
        pauses.next();
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok(found.ino() == own.ino() && found.dev() == own.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> io::Result<bool> {
    // A file that is open cannot be removed there.
    Ok(path.exists())
}

#[derive(Debug)]
struct SystemFile(File);

impl OpenFile for SystemFile {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buf, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)?;
            (offset, bytes) = (offset + n as u64, &bytes[n..]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn as_system(&self) -> Option<&File> {
        Some(&self.0)
    }
}

#[derive(Debug)]
struct SystemLock(File);

impl FileLock for SystemLock {
    fn share(&self) -> io::Result<()> {
        self.0.lock_shared()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_lock_counts_as_held_when_it_stays_so() {
        for (n_held, expected) in [(0, true), (1, true), (3, true), (4, false), (100, false)] {
            let n_asked = Cell::new(0);
            let lock = || {
                n_asked.set(n_asked.get() + 1);
                if n_asked.get() > n_held { Ok(()) } else { Err(TryLockError::WouldBlock) }
            };
            assert_eq!(had(lock).expect("no error"), expected, "{n_held}");
            assert_eq!(n_asked.get(), 4.min(n_held + 1), "{n_held}");
        }
    }
}
