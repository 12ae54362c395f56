//! A process on a simulated disk, which can be told to die or to meet an error at a certain operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ingle_store::files::{FileLock, Files, Metadata, Mode, OpenFile};

use super::disk::{Disk, Inode, Node, State};

/// What happens to a process at an operation, counted from 1 from when it is said. Operations that change something are
/// counted; [`Fault::Io`] counts all.
pub enum Fault {
    /// It dies before the operation: that one and all that follow do nothing.
    Kill(u64),
    /// The disk is full from that operation that writes on; of what is written, the first half is.
    NoSpace(u64),
    /// The operation fails, once.
    Io(u64),
    /// The sync that this operation is, or the first after it, fails, once: what it was to make durable never is.
    Sync(u64),
    /// Something else happens before the operation: other processes run.
    Before(u64, Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Kill(n) => write!(f, "killed at {n}"),
            Self::NoSpace(n) => write!(f, "no space at {n}"),
            Self::Io(n) => write!(f, "an error at {n}"),
            Self::Sync(n) => write!(f, "a failed sync at {n}"),
            Self::Before(n, _) => write!(f, "others before {n}"),
        }
    }
}

/// The files of a disk as one process uses them.
#[derive(Debug)]
pub struct SimFiles {
    disk: Arc<Disk>,
    id: u64,
    course: Arc<Mutex<Course>>,
}

/// What a process has done and what awaits it.
#[derive(Debug, Default)]
struct Course {
    changes: u64,
    all: u64,
    is_dead: bool,
    is_met: bool,
    fault: Option<Fault>,
}

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Read,
    Change,
    Write,
    Sync,
}

/// How an operation goes on.
#[derive(PartialEq, Eq)]
enum Turn {
    Go,
    /// A write of which half is done, a sync that does nothing.
    Fail(io::ErrorKind),
}

fn died() -> io::Error {
    io::Error::other("the process is dead")
}

impl SimFiles {
    pub(super) fn new(disk: Arc<Disk>, id: u64) -> Self {
        Self { disk, id, course: Arc::default() }
    }

    /// Says what shall happen, and counts from here.
    pub fn arm(&self, fault: Fault) {
        *self.course.lock().unwrap_or_else(PoisonError::into_inner) =
            Course { fault: Some(fault), ..Course::default() };
    }

    /// Operations since then: those that change something, and all.
    pub fn counts(&self) -> (u64, u64) {
        let course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
        (course.changes, course.all)
    }

    /// Whether what was to happen has happened.
    pub fn is_met(&self) -> bool {
        self.course.lock().unwrap_or_else(PoisonError::into_inner).is_met
    }

    fn turn(&self, op: Op) -> io::Result<Turn> {
        turn(&self.course, &self.disk, self.id, op)
    }

    /// Counts an operation; `Err` if it must not happen, or fails as a whole.
    fn step(&self, op: Op) -> io::Result<()> {
        match self.turn(op)? {
            Turn::Go => Ok(()),
            Turn::Fail(kind) => Err(kind.into()),
        }
    }

    fn file(&self, inode: u64) -> Box<dyn OpenFile> {
        Box::new(SimFile { disk: self.disk.clone(), course: self.course.clone(), id: self.id, inode })
    }
}

fn turn(course: &Mutex<Course>, disk: &Disk, id: u64, op: Op) -> io::Result<Turn> {
    let mut course = course.lock().unwrap_or_else(PoisonError::into_inner);
    if course.is_dead {
        return Err(died());
    }
    course.all += 1;
    if op != Op::Read {
        course.changes += 1;
    }
    let (all, changes) = (course.all, course.changes);
    let is_change = op != Op::Read;
    let (turn, is_once) = match &course.fault {
        Some(Fault::Kill(n)) if is_change && changes >= *n => {
            course.is_dead = true;
            course.is_met = true;
            disk.state().locks.retain(|(_, owner, ..)| *owner != id);
            return Err(died());
        }
        Some(Fault::NoSpace(n)) if op == Op::Write && changes >= *n => {
            (Turn::Fail(io::ErrorKind::StorageFull), false)
        }
        Some(Fault::Io(n)) if all >= *n => (Turn::Fail(io::ErrorKind::Other), true),
        Some(Fault::Sync(n)) if op == Op::Sync && changes >= *n => (Turn::Fail(io::ErrorKind::Other), true),
        Some(Fault::Before(n, _)) if is_change && changes >= *n => {
            course.is_met = true;
            let Some(Fault::Before(_, others)) = course.fault.take() else { return Ok(Turn::Go) };
            drop(course);
            others();
            return Ok(Turn::Go);
        }
        _ => return Ok(Turn::Go),
    };
    course.is_met = true;
    if is_once {
        course.fault = None;
    }
    Ok(turn)
}

impl Files for SimFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.step(Op::Write)?;
        let mut state = self.disk.state();
        let inode = state.fresh();
        state.add(path, Node::File(inode))?;
        let modified = state.tick();
        state.inodes.insert(inode, Inode { modified, ..Inode::default() });
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.step(Op::Read)?;
        let inode = self.disk.state().file(path)?;
        Ok(self.file(inode))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.open(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Write)?;
        let mut state = self.disk.state();
        match state.node(path) {
            Ok(Node::Dir) => Ok(()),
            _ => state.add(path, Node::Dir),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Op::Change)?;
        self.disk.state().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Change)?;
        let mut state = self.disk.state();
        state.file(path)?;
        state.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Change)?;
        let mut state = self.disk.state();
        state.dir(path)?;
        if !state.children(path).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.remove(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Sync)?;
        let mut state = self.disk.state();
        state.dir(path)?;
        state.sync_dir(path);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.step(Op::Read)?;
        let state = self.disk.state();
        state.dir(path)?;
        let name = |path: PathBuf| path.file_name().and_then(|name| name.to_str().map(str::to_owned));
        Ok(state.children(path).into_iter().filter_map(name).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.step(Op::Read)?;
        let state = self.disk.state();
        let kind = state.kind(path)?;
        let (len, modified) = match state.node(path)? {
            Node::File(inode) => (state.inodes[&inode].data.len() as u64, state.inodes[&inode].modified),
            Node::Dir => (0, 0),
        };
        Ok(Metadata { kind, len, modified: SystemTime::UNIX_EPOCH + Duration::from_secs(modified) })
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.step(Op::Read)?;
        self.disk.state().node(path).map(|_| path.to_owned())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        self.step(Op::Read)?;
        let state = self.disk.state();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, path: &Path, mode: Mode, wait: bool) -> io::Result<Option<Box<dyn FileLock>>> {
        // The file of a lock takes room, if it is not there.
        let is_new = self.disk.state().node(path).is_err();
        self.step(if is_new { Op::Write } else { Op::Change })?;
        let mut state = self.disk.state();
        if state.node(path).is_err() {
            let inode = state.fresh();
            state.add(path, Node::File(inode))?;
            state.inodes.insert(inode, Inode::default());
        }
        let inode = state.file(path)?;
        if !state.can_lock(inode, mode, None) {
            // Nobody else runs while this one does: it would wait for ever.
            return if wait { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(None) };
        }
        let number = state.fresh();
        state.locks.push((inode, self.id, number, mode));
        let (disk, course) = (self.disk.clone(), self.course.clone());
        Ok(Some(Box::new(SimLock { disk, course, id: self.id, number })))
    }

    fn share_bytes(&self, _from: &Path, _to: &dyn OpenFile) -> io::Result<bool> {
        self.step(Op::Read)?;
        Ok(false)
    }
}

impl State {
    /// Whether a lock can be had beside those that others hold.
    fn can_lock(&self, inode: u64, mode: Mode, own: Option<u64>) -> bool {
        let mut others =
            self.locks.iter().filter(|(file, _, number, _)| *file == inode && Some(*number) != own);
        others.all(|(.., held)| mode == Mode::Shared && *held == Mode::Shared)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Disk>,
    course: Arc<Mutex<Course>>,
    id: u64,
    inode: u64,
}

impl SimFile {
    fn turn(&self, op: Op) -> io::Result<Turn> {
        turn(&self.course, &self.disk, self.id, op)
    }

    fn with<T>(&self, run: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state();
        let now = state.tick();
        // A file whose last name is gone is still there for whoever has it open; nobody sees what is written to it.
        let inode = state.inodes.entry(self.inode).or_default();
        inode.modified = now;
        Ok(run(inode))
    }
}

impl OpenFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if let Turn::Fail(kind) = self.turn(Op::Read)? {
            return Err(kind.into());
        }
        let state = self.disk.state();
        let data = state.inodes.get(&self.inode).map_or(&[][..], |inode| &inode.data);
        let from = &data[data.len().min(offset as usize)..];
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let turn = self.turn(Op::Write)?;
        let is_full = {
            let state = self.disk.state();
            let new = (offset + bytes.len() as u64)
                .saturating_sub(state.inodes.get(&self.inode).map_or(0, |inode| inode.data.len() as u64));
            state.capacity.is_some_and(|capacity| state.used() + new > capacity)
        };
        match turn {
            Turn::Fail(kind) => {
                self.with(|inode| inode.write(offset, &bytes[..bytes.len() / 2]))?;
                Err(kind.into())
            }
            Turn::Go if is_full => Err(io::ErrorKind::StorageFull.into()),
            Turn::Go => self.with(|inode| inode.write(offset, bytes)),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.turn(Op::Write)? {
            Turn::Fail(kind) => Err(kind.into()),
            Turn::Go => self.with(|inode| inode.set_len(len)),
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self.turn(Op::Read)? {
            Turn::Fail(kind) => Err(kind.into()),
            Turn::Go => {
                Ok(self.disk.state().inodes.get(&self.inode).map_or(0, |inode| inode.data.len() as u64))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.turn(Op::Sync)? {
            Turn::Fail(kind) => {
                self.with(Inode::fail_sync)?;
                Err(kind.into())
            }
            Turn::Go => self.with(Inode::sync),
        }
    }
}

#[derive(Debug)]
struct SimLock {
    disk: Arc<Disk>,
    course: Arc<Mutex<Course>>,
    id: u64,
    number: u64,
}

impl FileLock for SimLock {
    fn share(&self) -> io::Result<()> {
        if let Turn::Fail(kind) = turn(&self.course, &self.disk, self.id, Op::Change)? {
            return Err(kind.into());
        }
        let mut state = self.disk.state();
        let own = state.locks.iter_mut().find(|(_, _, number, _)| *number == self.number);
        own.map(|lock| lock.3 = Mode::Shared).ok_or_else(died)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.retain(|(_, _, number, _)| *number != self.number);
    }
}
