//! The files of a [`DiskCache`](super::DiskCache).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::record::{HEADER_BYTES, Head, Header, Key, Secret};

/// First line of the file `format`; the version follows.
const FORMAT: &str = "ingle kv cache";
/// Goes up when folders of earlier programs are of no use any more.
const VERSION: u32 = 2;
/// More files than these are removed: what is known of them is kept in memory.
const FILES_MAX: usize = 1 << 20;
/// Behind a block's name.
const BLOCK_SUFFIX: &str = ".kv";

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is used by another process: nothing is kept there; give each process a folder of its own")]
    InUse(PathBuf),
    /// It holds something else, which is left alone.
    #[error("{0} holds other files and is no K/V cache: choose an empty or a new folder")]
    Foreign(PathBuf),
    /// The system refuses.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    secret: Secret,
    /// Held as long as the folder is open.
    _lock: File,
}

impl Folder {
    /// Opens or makes it. What was found and not used is added to `notices`.
    pub fn open(path: &Path, notices: &mut Vec<String>) -> Result<Self, OpenError> {
        make_folder(path)?;
        let format = path.join("format");
        let found = match fs::read(&format) {
            Ok(text) => Some(String::from_utf8_lossy(&text).trim_end().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("read", &format, error)),
        };
        if !found.as_ref().map_or_else(|| is_empty(path), |found| Ok(found.starts_with(FORMAT)))? {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let lock_path = path.join("lock");
        let lock = private().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| io_error("open", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &lock_path, error)),
        }
        let ours = format!("{FORMAT} {VERSION}");
        let is_ours = found.as_ref() == Some(&ours);
        if let Some(found) = found.filter(|_| !is_ours) {
            notices.push(format!(
                "{}: it says `{found}`, and this program keeps `{ours}`: it starts empty",
                path.display()
            ));
        }
        let key_path = path.join("key");
        let known = if is_ours { fs::read(&key_path).ok() } else { None };
        let known: Option<[u8; 32]> = known.and_then(|key| key.try_into().ok());
        let key = match known {
            Some(key) => key,
            None => {
                if is_ours {
                    notices.push(format!("{}: its key is missing: it starts empty", path.display()));
                }
                let key = random_key();
                remove_blocks(&path.join("blocks"))?;
                replace(&key_path, &key).map_err(|error| io_error("write", &key_path, error))?;
                replace(&format, format!("{ours}\n").as_bytes())
                    .map_err(|error| io_error("write", &format, error))?;
                key
            }
        };
        make_folder(&path.join("blocks"))?;
        Ok(Self { path: path.to_owned(), secret: Secret::new(&key), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Tells about every block that is there, the least recently used first; removes what cannot be one, and gives how
    /// many that were. Blocks themselves are looked at when they are read.
    pub fn scan(&self, found: &mut dyn FnMut(&Header) -> bool) -> Result<u64, OpenError> {
        let blocks = self.path.join("blocks");
        let (mut headers, mut n_refused) = (Vec::new(), 0);
        for folder in list(&blocks)? {
            if !folder.is_dir() {
                continue;
            }
            for path in list(&folder)? {
                match self.header(&path) {
                    Some(found) if headers.len() < FILES_MAX => headers.push(found),
                    _ => {
                        // What is being written has another name, and is worth nothing half done.
                        n_refused += u64::from(path.extension().is_none_or(|e| e != "tmp"));
                        let _ = fs::remove_file(&path);
                    }
                }
            }
        }
        headers.sort_by_key(|(used, header)| (*used, header.key));
        headers.iter().for_each(|(_, header)| {
            found(header);
        });
        Ok(n_refused)
    }

    /// The payload of a block that is intact. Its file tells then that it was used.
    pub fn read(&self, key: Key) -> Option<Vec<u8>> {
        let mut file = File::open(self.file(key)).ok()?;
        let n_bytes = file.metadata().ok()?.len();
        let mut head = [0; HEADER_BYTES];
        file.read_exact(&mut head).ok()?;
        // No more is read than there would be of a whole file.
        Head::parse(&head).filter(|head| head.file_bytes() == n_bytes)?;
        let mut bytes = Vec::with_capacity(usize::try_from(n_bytes).ok()?);
        bytes.extend_from_slice(&head);
        file.take(n_bytes - HEADER_BYTES as u64).read_to_end(&mut bytes).ok()?;
        let payload = self.secret.decode(key, bytes)?;
        if let Ok(file) = OpenOptions::new().append(true).open(self.file(key)) {
            // If this fails, the block counts as older after a restart.
            let _ = file.set_modified(SystemTime::now());
        }
        Some(payload)
    }

    /// Writes a block: under another name, synced, renamed.
    pub fn write(&self, header: &Header, payload: &[u8]) -> io::Result<()> {
        let path = self.file(header.key);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            builder().create(folder)?;
        }
        replace(&path, &self.secret.encode(header, payload))
    }

    /// Removes a block, if it is there.
    pub fn remove(&self, key: Key) {
        let _ = fs::remove_file(self.file(key));
    }

    /// Last use and header of a file that may be a block.
    fn header(&self, path: &Path) -> Option<(SystemTime, Header)> {
        let key = Key::from_name(path.file_name()?.to_str()?.strip_suffix(BLOCK_SUFFIX)?)?;
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut head = [0; HEADER_BYTES];
        file.read_exact(&mut head).ok()?;
        let head = Head::parse(&head)?;
        if head.key() != key || head.file_bytes() != metadata.len() {
            return None;
        }
        let mut ids = vec![0; head.ids_bytes()];
        file.read_exact(&mut ids).ok()?;
        Some((metadata.modified().ok()?, self.secret.header(&head, ids)?))
    }

    pub fn file(&self, key: Key) -> PathBuf {
        let name = key.name();
        self.path.join("blocks").join(&name[..2]).join(name + BLOCK_SUFFIX)
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(folder).map_err(|error| io_error("list", folder, error))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(|error| io_error("list", folder, error))
}

/// Whether nothing would be mistaken for ours. A lock and a key are left by who was interrupted while making it.
fn is_empty(path: &Path) -> Result<bool, OpenError> {
    let is_ours = |path: &PathBuf| {
        ["lock", "key", "key.tmp", "format.tmp"]
            .iter()
            .any(|name| path.file_name().is_some_and(|n| n == *name))
    };
    Ok(list(path)?.iter().all(is_ours))
}

/// Removes the blocks of another key or version, and nothing else.
fn remove_blocks(blocks: &Path) -> Result<(), OpenError> {
    if !blocks.exists() {
        return Ok(());
    }
    for folder in list(blocks)?.into_iter().filter(|path| path.is_dir()) {
        for path in list(&folder)? {
            let is_block = path.extension().is_some_and(|e| e == "kv" || e == "tmp");
            if is_block {
                fs::remove_file(&path).map_err(|error| io_error("remove", &path, error))?;
            }
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    builder().recursive(true).create(path).map_err(|error| io_error("make", path, error))
}

/// Makes folders for their owner alone.
fn builder() -> DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "permissions are set on Unix"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Opens files for their owner alone.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "permissions are set on Unix"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Puts a whole file in place of what is there.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = private().create(true).truncate(true).write(true).open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// Bytes that nobody can guess: each `RandomState` has other keys, which come from the system's random numbers.
fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    if let Ok(mut random) = File::open("/dev/urandom") {
        // Where there is none, or it fails, what follows is enough.
        let _ = random.read_exact(&mut key);
    }
    for (i, bytes) in key.chunks_exact_mut(8).enumerate() {
        let hash = RandomState::new().hash_one(i).to_le_bytes();
        bytes.iter_mut().zip(hash).for_each(|(byte, hash)| *byte ^= hash);
    }
    key
}

fn io_error(what: &str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { what: format!("cannot {what} {}", path.display()), source }
}
