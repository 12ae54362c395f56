//! What is in the page cache, and what is on the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingle_store::files::{Kind, Mode};

use super::SimFiles;
use crate::rng::Rng;

/// What is written as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A disk with its page cache.
#[derive(Debug, Default)]
pub struct Disk {
    state: Mutex<State>,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    pub inodes: BTreeMap<u64, Inode>,
    next: u64,
    /// Who holds which lock: the file, the process, a number, and how.
    pub locks: Vec<(u64, u64, u64, Mode)>,
    pub capacity: Option<u64>,
    /// A clock that goes on with each write.
    now: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub data: Vec<u8>,
    pub durable: Vec<u8>,
    pub pending: Vec<(u64, Vec<u8>)>,
    pub modified: u64,
}

/// A change of entries of folders that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn touches(&self, dir: &Path) -> bool {
        let is_in = |path: &PathBuf| path.parent() == Some(dir);
        match self {
            Self::Add(path, _) | Self::Remove(path) => is_in(path),
            Self::Rename(from, to, _) => is_in(from) || is_in(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        let disk = Self::default();
        {
            let mut state = disk.state();
            state.names.insert(PathBuf::from("/"), Node::Dir);
            state.durable_names.insert(PathBuf::from("/"), Node::Dir);
        }
        Arc::new(disk)
    }

    /// A process that uses the disk.
    pub fn process(self: &Arc<Self>) -> Arc<SimFiles> {
        let id = self.state().fresh();
        Arc::new(SimFiles::new(self.clone(), id))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the disk holds at most; `None` is no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// All files with their contents, as processes see them.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let content = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(inode) => Some((path.clone(), state.inodes[inode].data.clone())),
            Node::Dir => None,
        };
        state.names.iter().filter_map(content).collect()
    }

    /// Puts a file there, durably, with the folders above it.
    pub fn put(&self, path: &Path, data: &[u8]) {
        let mut state = self.state();
        for dir in path.ancestors().skip(1) {
            state.names.insert(dir.to_owned(), Node::Dir);
            state.durable_names.insert(dir.to_owned(), Node::Dir);
        }
        let inode = state.fresh();
        let (data, durable) = (data.to_vec(), data.to_vec());
        state.inodes.insert(inode, Inode { data, durable, ..Inode::default() });
        state.names.insert(path.to_owned(), Node::File(inode));
        state.durable_names.insert(path.to_owned(), Node::File(inode));
    }

    /// The power goes and comes back: of what was not synced, a part that the seed chooses is there. All processes are
    /// dead, and so are their locks.
    pub fn lose_power(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut state = self.state();
        let state = &mut *state;
        // Nothing, everything, or any subset.
        let share = [0, 50, 100, 50][(seed % 4) as usize];
        let mut keeps = move || u64::from(rng.below(100) as u32) < share;
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.pending) {
            if keeps() {
                change.apply(&mut names);
            }
        }
        // What lies in a folder that is not there is not there.
        let all = names.clone();
        names.retain(|path, _| path.ancestors().skip(1).all(|dir| all.get(dir) == Some(&Node::Dir)));
        let used: Vec<u64> = names
            .values()
            .filter_map(|node| if let Node::File(i) = node { Some(*i) } else { None })
            .collect();
        state.inodes.retain(|inode, _| used.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.lose_power(&mut keeps);
        }
        state.durable_names = names.clone();
        state.names = names;
        state.locks.clear();
    }
}

impl Inode {
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.data, offset, bytes);
        self.pending.push((offset, bytes.to_vec()));
    }

    pub fn set_len(&mut self, len: u64) {
        // Taken for durable at once: nothing but journals is cut, and what is cut from them says nothing.
        self.data.resize(len as usize, 0);
        if self.durable.len() > len as usize {
            self.durable.truncate(len as usize);
        }
        self.pending.retain(|(offset, bytes)| offset + bytes.len() as u64 <= len);
    }

    pub fn sync(&mut self) {
        self.durable.clone_from(&self.data);
        self.pending.clear();
    }

    /// A sync that fails: what was to be written is taken for written, and is not.
    pub fn fail_sync(&mut self) {
        self.pending.clear();
    }

    fn lose_power(&mut self, keeps: &mut impl FnMut() -> bool) {
        let mut data = std::mem::take(&mut self.durable);
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            let mut at = 0;
            while at < bytes.len() {
                // To the next boundary of a sector.
                let end = (SECTOR_BYTES - (offset as usize + at) % SECTOR_BYTES + at).min(bytes.len());
                if keeps() {
                    put(&mut data, offset + at as u64, &bytes[at..end]);
                }
                at = end;
            }
        }
        self.durable.clone_from(&data);
        self.data = data;
    }
}

/// Writes into bytes; a gap is zeros.
fn put(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset as usize..end].copy_from_slice(bytes);
}

impl State {
    pub fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub fn used(&self) -> u64 {
        let len =
            |node: &Node| if let Node::File(inode) = node { self.inodes[inode].data.len() as u64 } else { 0 };
        self.names.values().map(len).sum()
    }

    pub fn node(&self, path: &Path) -> io::Result<Node> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub fn file(&self, path: &Path) -> io::Result<u64> {
        match self.node(path)? {
            Node::File(inode) => Ok(inode),
            Node::Dir => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(match self.node(path)? {
            Node::File(_) => Kind::File,
            Node::Dir => Kind::Dir,
        })
    }

    pub fn dir(&self, path: &Path) -> io::Result<()> {
        match self.node(path)? {
            Node::Dir => Ok(()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        self.dir(path.parent().unwrap_or(Path::new("/")))?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.names.insert(path.to_owned(), node);
        self.pending.push(Change::Add(path.to_owned(), node));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) {
        self.names.remove(path);
        self.pending.push(Change::Remove(path.to_owned()));
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = Node::File(self.file(from)?);
        self.dir(to.parent().unwrap_or(Path::new("/")))?;
        self.names.remove(from);
        self.names.insert(to.to_owned(), inode);
        self.pending.push(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub fn children(&self, dir: &Path) -> Vec<PathBuf> {
        self.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect()
    }

    /// Makes the changes of a folder durable, in their order.
    pub fn sync_dir(&mut self, dir: &Path) {
        let (synced, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.touches(dir));
        for change in &synced {
            change.apply(&mut self.durable_names);
            if let Change::Rename(from, _, node) = change {
                // The file cannot have its old name again.
                kept.retain(
                    |other| !matches!(other, Change::Add(path, added) if path == from && added == node),
                );
            }
        }
        self.pending = kept;
    }
}
