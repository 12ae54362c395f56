//! A file on its way to `blobs/`: written in chunks by several streams, resumable, verified, and then made visible.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Tried;
use crate::files::{FileLock, Mode, OpenFile};
use crate::journal::{CHUNKS_MAX, JOURNAL_BYTES_MAX, Journal, SourceId};
use crate::shared::{Pins, Shared};
use crate::{Digest, Hasher, StoreError, sums};

/// What is said about a file before it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Its digest. Without one whatever comes is taken.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Where it comes from. A file without digest and source is never resumed, and goes when it is dropped.
    pub source: Option<SourceId>,
}

/// How much is read at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// How partial files end.
pub(crate) const PARTIAL: &str = ".partial";
/// How their journals end.
pub(crate) const JOURNAL: &str = ".journal";
/// How locks end.
pub(crate) const LOCK: &str = ".lock";
/// How files of neither digest nor source begin.
pub(crate) const ANONYMOUS: &str = "anon-";

/// A file in `tmp/`. Streams write to it at the same time, each its own chunks from their beginnings.
///
/// If it is dropped before it is committed, what is there stays for whoever stages the same file next; a file of neither
/// digest nor source is removed.
#[derive(Debug)]
pub struct Staged {
    shared: Arc<Shared>,
    pins: Arc<Pins>,
    expect: Expect,
    /// What the names of its files begin with.
    stem: String,
    file: Box<dyn OpenFile>,
    /// The journal's file; a file that cannot be resumed has none.
    log: Option<Box<dyn OpenFile>>,
    /// Keeps others from the same file; gone when the pin has taken its place.
    lock: Option<Box<dyn FileLock>>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    journal: Journal,
    log_end: u64,
    open: HashMap<u64, OpenChunk>,
    /// The digest from the beginning on, while bytes come in order.
    running: Option<(u64, Hasher)>,
    /// The end of what was written.
    end: u64,
    /// It is a blob now, or nothing any more.
    is_over: bool,
}

/// A chunk of which a part is there.
#[derive(Debug)]
struct OpenChunk {
    next: u64,
    hasher: Hasher,
}

impl Staged {
    /// Takes up what is there of this file, or begins it.
    pub(crate) fn open(shared: Arc<Shared>, pins: Arc<Pins>, expect: Expect) -> Result<Self, StoreError> {
        let (stem, lock) = claim(&shared, &expect)?;
        let TakenUp { file, log, journal, log_end } = match ready(&shared, &expect, &stem) {
            Ok(taken_up) => taken_up,
            Err(error) => {
                // While it is held: a lock of what was not begun is of no use to anybody.
                let _ = shared.files.remove(&shared.lock_path(&stem));
                return Err(error);
            }
        };
        let is_empty = journal.chunks.is_empty();
        let progress = Progress {
            end: journal.chunks.keys().map(|index| journal.range(*index).end).max().unwrap_or(0),
            journal,
            log_end,
            open: HashMap::new(),
            running: is_empty.then(|| (0, Hasher::new())),
            is_over: false,
        };
        Ok(Self { shared, pins, expect, stem, file, log, lock: Some(lock), progress: Mutex::new(progress) })
    }

    /// What was said about the file.
    pub fn expect(&self) -> &Expect {
        &self.expect
    }

    /// What is there, as of now.
    pub fn journal(&self) -> Journal {
        self.progress().journal.clone()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics while it holds this.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> PathBuf {
        self.shared.tmp(&self.stem, PARTIAL)
    }

    /// Writes bytes. Those of one chunk come in order from its beginning; to begin it again is to write its first bytes
    /// again. When a chunk is complete it is made durable and noted in the journal.
    ///
    /// # Errors
    /// If the bytes do not follow those before, or are beyond the end, or cannot be written. After a failed sync the
    /// file is given up as a whole: what the disk has of it is not known.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_chunks(offset, bytes).map_err(|error| error.needing(self.needed(bytes.len() as u64)))
    }

    /// Bytes that are still to be written and made durable, of which at least `n` are known.
    fn needed(&self, n: u64) -> u64 {
        let progress = self.progress();
        progress.journal.size.map_or(n, |size| size.saturating_sub(progress.journal.done_bytes()))
    }

    fn write_chunks(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let (index, range) = {
                let progress = self.progress();
                let index = offset / progress.journal.chunk_bytes;
                (index, progress.journal.range(index))
            };
            if offset >= range.end || self.progress().is_over {
                return Err(StoreError::OutOfOrder { offset });
            }
            // Of a file whose size nobody has told the room is asked for as it grows.
            if self.expect.size.is_none() && offset == range.start {
                self.shared.check_space(range.end - range.start)?;
            }
            let n = (range.end - offset).min(bytes.len() as u64) as usize;
            self.write_chunk(index, offset, &bytes[..n])?;
            if offset + n as u64 == range.end {
                self.complete(index)?;
            }
            (offset, bytes) = (offset + n as u64, &bytes[n..]);
        }
        Ok(())
    }

    /// Writes bytes of one chunk.
    fn write_chunk(&self, index: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (mut chunk, running) = {
            let mut progress = self.progress();
            let start = progress.journal.range(index).start;
            let chunk = progress.open.remove(&index).filter(|chunk| chunk.next == offset);
            let chunk = match chunk {
                None if offset == start => OpenChunk { next: start, hasher: Hasher::new() },
                None => return Err(StoreError::OutOfOrder { offset }),
                Some(chunk) => chunk,
            };
            // A chunk that is written again is not there until it is complete again.
            progress.journal.chunks.remove(&index);
            let running = match progress.running.take() {
                Some((end, hasher)) if end == offset => Some(hasher),
                _ => None,
            };
            (chunk, running)
        };
        self.file.write_at(offset, bytes).tried("write", &self.path())?;
        // Where it is only written in order, one digest serves both.
        chunk.hasher.update(bytes);
        chunk.next += bytes.len() as u64;
        let running = running.map(|mut hasher| {
            hasher.update(bytes);
            (chunk.next, hasher)
        });
        let mut progress = self.progress();
        progress.end = progress.end.max(chunk.next);
        progress.running = running;
        progress.open.insert(index, chunk);
        Ok(())
    }

    /// Makes a chunk durable, and notes it.
    fn complete(&self, index: u64) -> Result<(), StoreError> {
        let Some(log) = &self.log else {
            let mut progress = self.progress();
            if let Some(chunk) = progress.open.remove(&index) {
                progress.journal.chunks.insert(index, chunk.hasher.finish());
            }
            return Ok(());
        };
        if let Err(error) = self.file.sync() {
            self.give_up();
            return Err(error).tried("sync", &self.path());
        }
        let mut progress = self.progress();
        let Some(chunk) = progress.open.remove(&index) else { return Ok(()) };
        let digest = chunk.hasher.finish();
        let line = Journal::line(index, &digest);
        let path = self.shared.tmp(&self.stem, JOURNAL);
        log.write_at(progress.log_end, line.as_bytes()).tried("write", &path)?;
        log.sync().tried("sync", &path)?;
        progress.log_end += line.len() as u64;
        progress.journal.chunks.insert(index, digest);
        Ok(())
    }

    /// Verifies the file and makes it a blob, which this handle's session keeps until it ends or a manifest names it.
    ///
    /// # Errors
    /// If bytes are missing (what is there stays, to be taken up), or the content is not what was promised (then the
    /// file is gone), or the system refuses.
    pub fn commit(mut self) -> Result<Digest, StoreError> {
        self.verify_and_name().map_err(|error| error.needing(self.needed(0)))
    }

    fn verify_and_name(&mut self) -> Result<Digest, StoreError> {
        let (end, running) = {
            let mut progress = self.progress();
            let missing = !progress.open.is_empty() && progress.journal.size.is_some();
            let size = progress.journal.size.unwrap_or(progress.end);
            let there = progress.journal.done_bytes();
            if progress.is_over
                || missing
                || progress.end != size
                || (self.log.is_some() && progress.journal.size.is_some() && there != size)
            {
                let what = "what is there of the file".to_owned();
                return Err(StoreError::WrongSize { what, expected: size, found: there.min(progress.end) });
            }
            (size, progress.running.take())
        };
        let path = self.path();
        let found = match running {
            Some((at, hasher)) if at == end => hasher.finish(),
            _ => hash(&*self.file, end, &mut |_| ()).tried("read", &path)?,
        };
        if let Some(expected) = self.expect.digest.filter(|expected| *expected != found) {
            self.give_up();
            return Err(StoreError::WrongContent { expected, found });
        }
        if let Err(error) = self.file.sync() {
            self.give_up();
            return Err(error).tried("sync", &path);
        }
        self.note_blob(&found)?;
        self.make_visible(&found)?;
        Ok(found)
    }

    /// Notes which blob a file becomes whose digest was not known before.
    fn note_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let (Some(log), None) = (&self.log, self.expect.digest) else { return Ok(()) };
        let path = self.shared.tmp(&self.stem, JOURNAL);
        let end = self.progress().log_end;
        log.write_at(end, Journal::blob_line(digest).as_bytes()).tried("write", &path)?;
        log.sync().tried("sync", &path)
    }

    /// Gives a file that is verified and durable its name, durably, and pins it.
    fn make_visible(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        // While locks change hands nobody may remove blobs.
        let _names = shared.lock_names(Mode::Shared)?;
        match (self.expect.digest, self.lock.take()) {
            (Some(_), Some(lock)) => {
                lock.share().tried("lock", &shared.lock_path(&digest.file_name()))?;
                self.pins.put(*digest, lock);
            }
            // Where another writes the same blob, that one's lock keeps it as well.
            (_, lock) => {
                self.pins.pin(&shared, digest)?;
                self.lock = lock;
            }
        }
        let (from, to) = (self.path(), shared.blob_path(digest));
        shared.files.rename(&from, &to).tried("rename", &from)?;
        self.progress().is_over = true;
        shared.sync_dir(&shared.blobs())?;
        shared.note_verified(digest);
        let log = self.log.take().map(|_| shared.tmp(&self.stem, JOURNAL));
        let is_moved = sums::keep(&shared, *digest, self.journal(), log.clone());
        // Without a digest nobody would find the blob by anything else.
        if let Some(journal) = log.filter(|_| !is_moved && self.expect.digest.is_some()) {
            shared.files.remove(&journal).tried("remove", &journal)?;
        }
        self.free_lock();
        Ok(())
    }

    /// Lets the file share the bytes of another, where the file system can do that.
    pub(crate) fn share_from(&self, path: &Path) -> Result<bool, StoreError> {
        if !self.shared.files.share_bytes(path, &*self.file).tried("copy", path)? {
            return Ok(false);
        }
        let len = self.file.len().tried("read", &self.path())?;
        let mut progress = self.progress();
        (progress.end, progress.running) = (len, None);
        Ok(true)
    }

    /// Gives a file that is no blob its name; the folder is not durable yet.
    pub(crate) fn place(mut self, to: &Path) -> Result<(), StoreError> {
        let path = self.path();
        self.file.sync().tried("sync", &path)?;
        self.shared.files.rename(&path, to).tried("rename", &path)?;
        self.progress().is_over = true;
        self.free_lock();
        Ok(())
    }

    /// Removes what is there: nobody shall take it up.
    fn give_up(&self) {
        let mut progress = self.progress();
        if !progress.is_over {
            progress.is_over = true;
            discard(&self.shared, &self.stem);
        }
    }

    /// Removes the lock's file while it is held, where it is this file's alone.
    fn free_lock(&mut self) {
        if self.lock.is_some() {
            let _ = self.shared.files.remove(&self.shared.lock_path(&self.stem));
        }
        self.lock = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.expect.digest.is_none() && self.expect.source.is_none() {
            self.give_up();
        }
        let is_over = self.progress().is_over;
        if is_over {
            self.free_lock();
        }
    }
}

/// Takes up what is there of a file, or begins it, if there is room for it.
fn ready(shared: &Shared, expect: &Expect, stem: &str) -> Result<TakenUp, StoreError> {
    let resumable = expect.digest.is_some() || expect.source.is_some();
    let bytes_max = CHUNKS_MAX.saturating_mul(shared.chunk_bytes);
    if let Some(size) = expect.size.filter(|size| resumable && *size > bytes_max) {
        return Err(StoreError::TooLarge { what: "the file".to_owned(), found: size, max: bytes_max });
    }
    let (partial, journal_path) = (shared.tmp(stem, PARTIAL), shared.tmp(stem, JOURNAL));
    let journal = Journal {
        digest: expect.digest,
        size: expect.size,
        source: expect.source.clone(),
        chunk_bytes: shared.chunk_bytes,
        chunks: BTreeMap::new(),
        blob: None,
    };
    let taken_up = if resumable { take_up(shared, &partial, &journal_path, &journal)? } else { None };
    if let Some(size) = expect.size {
        let done = taken_up.as_ref().map_or(0, |taken_up| taken_up.journal.done_bytes());
        shared.check_space(size.saturating_sub(done))?;
    }
    match taken_up {
        Some(found) => Ok(found),
        None => begin(shared, &partial, resumable.then_some(journal_path.as_path()), journal),
    }
}

struct TakenUp {
    file: Box<dyn OpenFile>,
    log: Option<Box<dyn OpenFile>>,
    journal: Journal,
    log_end: u64,
}

/// The name under which a file is staged whose digest is not known.
fn stem_of(source: &SourceId) -> String {
    format!("source-{}", Digest::of(source.url.as_bytes()).hex())
}

impl Shared {
    /// The blob that a file of no known digest has become, if it was that version of that size.
    pub(crate) fn blob_of(&self, source: &SourceId, size: u64) -> Option<Digest> {
        let journal = self.journal_of(&stem_of(source))?;
        journal.blob.filter(|_| is_same_version(&journal, source) && journal.size == Some(size))
    }

    /// Bytes of a blob that an earlier transfer has left, as its journal has them.
    pub(crate) fn staged_bytes(&self, digest: &Digest) -> u64 {
        // Whoever takes it up compares each chunk, and asks for the room of those that are not right.
        self.journal_of(&digest.file_name()).map_or(0, |journal| journal.done_bytes())
    }

    /// The same of a file of no known digest, if it is that version of that size.
    pub(crate) fn staged_bytes_of(&self, source: &SourceId, size: u64) -> u64 {
        let journal = self.journal_of(&stem_of(source));
        let journal =
            journal.filter(|journal| is_same_version(journal, source) && journal.size == Some(size));
        journal.map_or(0, |journal| journal.done_bytes())
    }

    fn journal_of(&self, stem: &str) -> Option<Journal> {
        let bytes = self.files.open(&self.tmp(stem, JOURNAL));
        let bytes = bytes.and_then(|file| read_all(&*file, JOURNAL_BYTES_MAX)).ok()?;
        Journal::parse(&bytes).map(|(journal, _)| journal)
    }

    /// Forgets it: a manifest names the blob.
    pub(crate) fn forget_blob_of(&self, source: &SourceId) {
        // What cannot be removed is collected later; and it may be another's by now.
        let stem = stem_of(source);
        let path = self.lock_path(&stem);
        if let Ok(Some(lock)) = self.files.lock(&path, Mode::Exclusive, false) {
            let partial = self.tmp(&stem, PARTIAL);
            if self.files.metadata(&partial).is_err() {
                let _ = self.files.remove(&self.tmp(&stem, JOURNAL));
            }
            let _ = self.files.remove(&path);
            drop(lock);
        }
    }
}

/// The name under which a file is staged, and the lock that makes it ours.
fn claim(shared: &Shared, expect: &Expect) -> Result<(String, Box<dyn FileLock>), StoreError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let lock = |stem: &str| {
        let path = shared.lock_path(stem);
        shared.files.lock(&path, Mode::Exclusive, false).tried("lock", &path)
    };
    let stem = match (&expect.digest, &expect.source) {
        (Some(digest), _) => digest.file_name(),
        (None, Some(source)) => stem_of(source),
        (None, None) => loop {
            let stem = format!("{ANONYMOUS}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            if let Some(lock) = lock(&stem)? {
                // What a process of the same number left is nobody's.
                discard(shared, &stem);
                return Ok((stem, lock));
            }
        },
    };
    match lock(&stem)? {
        Some(lock) => Ok((stem, lock)),
        None => Err(StoreError::Busy(expect.digest.unwrap_or_else(|| Digest::of(stem.as_bytes())))),
    }
}

/// Removes a partial file, and then its journal: a file without a journal is never taken up.
pub(crate) fn discard(shared: &Shared, stem: &str) {
    // What cannot be removed is collected later.
    let _ = shared.files.remove(&shared.tmp(stem, JOURNAL));
    let _ = shared.files.remove(&shared.tmp(stem, PARTIAL));
}

/// What another process left of the same file, if it is the same version; its chunks are read and compared.
fn take_up(
    shared: &Shared,
    partial: &Path,
    journal_path: &Path,
    wanted: &Journal,
) -> Result<Option<TakenUp>, StoreError> {
    let files = &shared.files;
    let (Ok(file), Ok(log)) = (files.open_to_write(partial), files.open_to_write(journal_path)) else {
        return Ok(None);
    };
    let bytes = match read_all(&*log, JOURNAL_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(_) => return Ok(None),
    };
    let Some((mut journal, log_end)) = Journal::parse(&bytes) else { return Ok(None) };
    let is_same = journal.size == wanted.size
        && journal.chunk_bytes == wanted.chunk_bytes
        && journal.digest == wanted.digest
        && (wanted.digest.is_some()
            || wanted.source.as_ref().is_some_and(|source| is_same_version(&journal, source)));
    if !is_same || journal.size.is_none() {
        return Ok(None);
    }
    journal.source.clone_from(&wanted.source);
    let chunks: Vec<(u64, Digest)> = journal.chunks().collect();
    for (index, digest) in chunks {
        let range = journal.range(index);
        let mut hasher = Hasher::new();
        let read = read_range(&*file, range.start, range.end, &mut |bytes| hasher.update(bytes));
        if read.is_err() || hasher.finish() != digest {
            journal.chunks.remove(&index);
        }
    }
    // A line that was torn must not stand before those that follow.
    log.set_len(log_end).tried("shorten", journal_path)?;
    Ok(Some(TakenUp { file, log: Some(log), journal, log_end }))
}

fn is_same_version(found: &Journal, wanted: &SourceId) -> bool {
    wanted.version.is_some() && found.source.as_ref() == Some(wanted)
}

fn begin(
    shared: &Shared,
    partial: &Path,
    journal_path: Option<&Path>,
    journal: Journal,
) -> Result<TakenUp, StoreError> {
    let files = &shared.files;
    for path in [Some(partial), journal_path].into_iter().flatten() {
        match files.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).tried("remove", path);
            }
            _ => (),
        }
    }
    let file = files.create(partial).tried("make", partial)?;
    let (mut log, mut log_end) = (None, 0);
    if let Some(path) = journal_path {
        let created = files.create(path).tried("make", path)?;
        let header = journal.header();
        created.write_at(0, header.as_bytes()).tried("write", path)?;
        created.sync().tried("sync", path)?;
        shared.sync_dir(&shared.tmp_dir())?;
        log_end = header.len() as u64;
        log = Some(created);
    }
    Ok(TakenUp { file, log, journal, log_end })
}

/// The digest of a file's first bytes.
pub(crate) fn hash(file: &dyn OpenFile, end: u64, progress: &mut dyn FnMut(u64)) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut done = 0;
    read_range(file, 0, end, &mut |bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        progress(done);
    })?;
    Ok(hasher.finish())
}

/// Reads a range; it is an error if the file ends before.
pub(crate) fn read_range(
    file: &dyn OpenFile,
    start: u64,
    end: u64,
    each: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut buf = vec![0; BUFFER_BYTES.min((end - start) as usize)];
    let mut at = start;
    while at < end {
        let n = (end - at).min(buf.len() as u64) as usize;
        let n = file.read_at(at, &mut buf[..n])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        each(&buf[..n]);
        at += n as u64;
    }
    Ok(())
}

/// A whole file, which must not be larger than it may be.
pub(crate) fn read_all(file: &dyn OpenFile, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > bytes_max {
        return Err(std::io::Error::other(format!(
            "it has {len} bytes; {bytes_max} are the most that are read"
        )));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    read_range(file, 0, len, &mut |part| bytes.extend_from_slice(part))?;
    Ok(bytes)
}
