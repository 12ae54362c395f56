//! K/V blocks in a folder, so that beginnings are known again after a model was unloaded or the program restarted.
//!
//! A [`DiskCache`] owns a folder, the lock on it, and one thread that reads and writes there. It serves all models of a
//! process; each has a [`DiskTier`]. Engine threads ask the index, which is in memory, and hand work over under a short
//! lock: they never wait for the disk. What does not fit into the queue is not written.
//!
//! The thread wakes when there is something to read, to remove or to write, in this order, and at the end, when it
//! writes what was handed over.
//!
//! ```text
//! DIR/format        what this is, and its version
//! DIR/key           32 secret bytes, for the owner alone
//! DIR/lock          held by the process that uses the folder
//! DIR/blocks/ab/abcd….kv    a block each: see `record`
//! ```
//! A file for each block: eviction is exact and needs no compaction, and what is torn costs one block.
//!
//! A block need not be full: the **tail** of a sequence that ended is kept too, so that who goes on from there computes only
//! what is new. A longer block that begins with a tail's tokens replaces it: first the longer one is written, then the tail
//! removed, so that a crash between leaves both, and the longer one is found. Of a block that a text has the beginning of in
//! common, those slots are used, as in memory.
//!
//! Files are written under another name, synced and renamed, and read whole: one that is not, to the last byte, what this
//! folder's key has signed is removed and counted, and its block computed again. A rename that a crash loses is a block
//! that is not there.

mod folder;
mod index;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ingle_step::TokenId;

use folder::Folder;
pub use folder::OpenError;
use index::Index;
pub(crate) use index::Nearest;
use record::Header;
pub use record::Key;

/// Bytes that wait to be written.
const WRITE_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Reads that wait.
const READ_QUEUE_MAX: usize = 64;
/// Bytes per second that are expected of reading before any were read: a slow disk.
const READ_RATE_ASSUMED: f64 = 100e6;
/// How much the last reading counts in the rate.
const RATE_WEIGHT: f64 = 0.25;

/// A folder of blocks. See the module's description.
pub struct DiskCache {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    notices: Vec<String>,
}

/// A model's part of a [`DiskCache`].
#[derive(Clone)]
pub struct DiskTier {
    cache: Arc<DiskCache>,
    identity: Arc<str>,
}

/// Counts since the folder was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Blocks in the folder.
    pub blocks: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Blocks read.
    pub blocks_read: u64,
    /// Blocks written.
    pub blocks_written: u64,
    /// Blocks not written: the disk did not keep up, or refused them.
    pub blocks_dropped: u64,
    /// Files removed because they were not what was written.
    pub blocks_refused: u64,
}

/// A block on its way to the disk.
pub(crate) struct Write {
    pub key: Key,
    pub parent: Key,
    pub tenant: Key,
    pub cost: u64,
    /// What fills its first slots.
    pub tokens: Arc<[TokenId]>,
    pub payload: Vec<u8>,
    /// Woken when there is room again.
    pub wake: Thread,
}

/// Blocks to be read, each the parent of the next.
struct Read {
    keys: Vec<Key>,
    /// Gets those before the first that cannot be read, in one piece.
    reply: Sender<Vec<Vec<u8>>>,
    wake: Thread,
}

struct Shared {
    folder: Folder,
    state: Mutex<State>,
    /// Signalled when there is work.
    wake: Condvar,
}

struct State {
    index: Index,
    stats: DiskStats,
    reads: VecDeque<Read>,
    writes: VecDeque<Write>,
    /// Bytes of `writes`.
    write_bytes: usize,
    /// What `writes` are, and what is being written, with the tenant: who is flushed is not written.
    pending: HashMap<Key, Key>,
    /// Files of blocks that the index has forgotten.
    removals: VecDeque<Key>,
    /// Bytes per second.
    read_rate: f64,
    stopping: bool,
}

impl DiskCache {
    /// Opens a folder, and makes it if there is none. Its files will have `max_bytes` together at most.
    ///
    /// # Errors
    /// If another process uses it, it holds something else, or the system refuses it.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, OpenError> {
        let mut notices = Vec::new();
        let folder = Folder::open(path, &mut notices)?;
        let mut index = Index::new(max_bytes);
        let n_refused = folder.scan(&mut |header| index.insert(header))?;
        if n_refused > 0 {
            notices.push(format!("{}: {n_refused} damaged files were removed", path.display()));
        }
        let stats = DiskStats { blocks_refused: n_refused, ..DiskStats::default() };
        let state = State {
            removals: index.make_room(0, None).into(),
            index,
            stats,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            write_bytes: 0,
            pending: HashMap::new(),
            read_rate: READ_RATE_ASSUMED,
            stopping: false,
        };
        let shared = Arc::new(Shared { folder, state: Mutex::new(state), wake: Condvar::new() });
        let thread = {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name("ingle-kv-disk".into());
            thread.spawn(move || {
                let end = End(shared);
                end.0.run();
            })
        };
        let thread =
            thread.map_err(|source| OpenError::Io { what: "a thread to read and write".into(), source })?;
        Ok(Self { shared, thread: Some(thread), notices })
    }

    /// What its user should know: what was found and not used.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// What it holds and has done.
    pub fn stats(&self) -> DiskStats {
        let state = self.shared.state();
        DiskStats { blocks: state.index.n_blocks(), bytes: state.index.n_bytes(), ..state.stats }
    }
}

impl Drop for DiskCache {
    /// Writes what was handed over.
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so already.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskCache({})", self.shared.folder.path().display())
    }
}

impl DiskTier {
    /// The part of a model: `identity` names everything on which the bytes of K/V depend besides the tokens, such as the
    /// model's digest, the numeric path and the layout of blocks.
    pub fn new(cache: Arc<DiskCache>, identity: &str) -> Self {
        Self { cache, identity: identity.into() }
    }

    /// What the folder holds and has done, for all its models.
    pub fn stats(&self) -> DiskStats {
        self.cache.stats()
    }

    /// What stands for a tenant.
    pub(crate) fn tenant(&self, name: &str) -> Key {
        self.cache.shared.folder.secret().tenant(name)
    }

    /// The names of the root and of the full blocks of a tenant's text, of which `tokens` has nothing else.
    pub(crate) fn chain(&self, tenant: &Key, tokens: &[TokenId], block_size: usize) -> Vec<Key> {
        let secret = self.cache.shared.folder.secret();
        let mut keys = vec![secret.root(&self.identity, tenant)];
        for chunk in tokens.chunks_exact(block_size) {
            let parent = keys.last().expect("the root is there");
            keys.push(secret.child(parent, chunk));
        }
        keys
    }

    /// The name of the block of these tokens after another.
    pub(crate) fn child(&self, parent: &Key, tokens: &[TokenId]) -> Key {
        self.cache.shared.folder.secret().child(parent, tokens)
    }

    /// The block after `parent` that begins with most of `tokens`.
    pub(crate) fn nearest(&self, parent: &Key, tokens: &[TokenId]) -> Option<Nearest> {
        self.cache.shared.state().index.nearest(parent, tokens)
    }

    /// How many of these blocks, each the parent of the next, are there.
    pub(crate) fn n_found(&self, keys: &[Key]) -> usize {
        self.cache.shared.state().index.n_found(keys)
    }

    /// Forgets blocks of a chain of which an earlier one is missing, and the tail at its end: nobody comes to them from the
    /// beginning, whether they are what was written is not known, and whoever computes them again writes them anew.
    pub(crate) fn forget_behind(&self, missing: &[Key], rest: &[TokenId]) {
        let mut state = self.cache.shared.state();
        let tail = missing.last().and_then(|parent| state.index.nearest(parent, rest)).map(|tail| tail.key);
        for key in missing.iter().copied().chain(tail) {
            if state.index.remove(&key) {
                state.removals.push_back(key);
            }
        }
        self.cache.shared.wake.notify_one();
    }

    /// How long it takes to read so many bytes, as far as is known.
    pub(crate) fn read_time(&self, n_bytes: usize) -> Duration {
        Duration::from_secs_f64(n_bytes as f64 / self.cache.shared.state().read_rate)
    }

    /// Asks for blocks. The answer has as many of the first ones as could be read; the caller's thread is woken for it.
    /// `None` if too much is asked for already.
    pub(crate) fn read(&self, keys: Vec<Key>) -> Option<Receiver<Vec<Vec<u8>>>> {
        let (reply, receiver) = mpsc::channel();
        let mut state = self.cache.shared.state();
        if state.stopping || state.reads.len() >= READ_QUEUE_MAX {
            return None;
        }
        state.reads.push_back(Read { keys, reply, wake: thread::current() });
        self.cache.shared.wake.notify_one();
        Some(receiver)
    }

    /// Whether a block of these tokens after `parent` is neither there, perhaps as the beginning of a longer one, nor on its
    /// way.
    pub(crate) fn wants(&self, key: &Key, parent: &Key, tokens: &[TokenId]) -> bool {
        let state = self.cache.shared.state();
        !state.pending.contains_key(key) && !state.index.covers(parent, tokens)
    }

    /// Whether the queue takes another write.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.cache.shared.state();
        !state.stopping && state.write_bytes < WRITE_QUEUE_BYTES_MAX
    }

    /// Hands a block over.
    pub(crate) fn write(&self, write: Write) {
        let mut state = self.cache.shared.state();
        state.write_bytes += write.payload.len();
        state.pending.insert(write.key, write.tenant);
        state.writes.push_back(write);
        self.cache.shared.wake.notify_one();
    }

    /// Counts blocks that were not handed over in time.
    pub(crate) fn note_dropped(&self, n: usize) {
        self.cache.shared.state().stats.blocks_dropped += n as u64;
    }

    /// Forgets what a tenant has, of all models: nobody finds it from now on.
    pub(crate) fn flush(&self, tenant: &Key) {
        let mut state = self.cache.shared.state();
        state.pending.retain(|_, of| of != tenant);
        for key in state.index.of_tenant(tenant) {
            state.index.remove(&key);
            state.removals.push_back(key);
        }
        self.cache.shared.wake.notify_one();
    }
}

impl fmt::Debug for DiskTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskTier({:?}, {})", self.cache, self.identity)
    }
}

impl PartialEq for DiskTier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cache, &other.cache) && self.identity == other.identity
    }
}

/// The end of the thread, also by a panic: nobody shall wait for it then.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.stopping = true;
        state.reads.clear();
        state.writes.clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if let Some(read) = state.reads.pop_front() {
                drop(state);
                self.read(read);
            } else if let Some(key) = state.removals.pop_front() {
                // It may have been written again since.
                let is_gone = !state.index.contains(&key);
                drop(state);
                if is_gone {
                    self.folder.remove(key);
                }
            } else if let Some(write) = state.writes.pop_front() {
                state.write_bytes -= write.payload.len();
                drop(state);
                self.write(&write);
                write.wake.unpark();
            } else if state.stopping {
                return;
            } else {
                drop(self.wake.wait(state).unwrap_or_else(PoisonError::into_inner));
            }
            state = self.state();
        }
    }

    fn read(&self, read: Read) {
        let mut blocks = Vec::with_capacity(read.keys.len());
        let mut is_whole = true;
        for key in read.keys {
            // Who was flushed is not read any more.
            if !self.state().index.contains(&key) {
                is_whole = false;
                continue;
            }
            let began = Instant::now();
            let Some(payload) = self.folder.read(key) else {
                let mut state = self.state();
                // What was evicted meanwhile is nobody's fault.
                if state.index.remove(&key) {
                    state.stats.blocks_refused += 1;
                    state.removals.push_back(key);
                }
                // The rest is of no use without it, but where one is damaged others may be: all are computed again now,
                // and not one after each restart.
                is_whole = false;
                continue;
            };
            let seconds = began.elapsed().as_secs_f64().max(1e-9);
            let mut state = self.state();
            let rate = payload.len() as f64 / seconds;
            state.read_rate += (rate - state.read_rate) * RATE_WEIGHT;
            state.stats.blocks_read += 1;
            state.index.note_use(&key);
            if is_whole {
                blocks.push(payload);
            }
        }
        // Who has gone needs no blocks.
        let _ = read.reply.send(blocks);
        read.wake.unpark();
    }

    fn write(&self, write: &Write) {
        let Write { key, parent, tenant, cost, ref tokens, ref payload, .. } = *write;
        let n_bytes = payload.len() as u64;
        let header = Header { key, parent, tenant, cost, tokens: Arc::clone(tokens), n_bytes };
        let n_bytes = header.file_bytes();
        let (removed, fits) = {
            let mut state = self.state();
            if !state.pending.contains_key(&key) {
                return; // its tenant was flushed
            }
            let removed = state.index.make_room(n_bytes, Some(&parent));
            (removed, state.index.has_room(n_bytes))
        };
        removed.into_iter().for_each(|key| self.folder.remove(key));
        let written = fits && self.folder.write(&header, payload).is_ok();
        let mut state = self.state();
        let is_wanted = state.pending.remove(&key).is_some();
        if !written {
            state.stats.blocks_dropped += 1;
        } else if is_wanted {
            state.stats.blocks_written += 1;
            state.index.insert(&header);
            let within = state.index.remove_within(&parent, tokens);
            state.removals.extend(within);
        } else {
            state.removals.push_back(key);
        }
    }
}
