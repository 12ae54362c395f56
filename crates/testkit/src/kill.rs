//! Killing a process at its N-th operation on files, for real.
//!
//! A test that wants this has a second test, `child`, which does nothing unless the environment says that it is one.
//! The first starts the same program again with [`run_child`], which runs only that test; the child builds a
//! [`KillingFiles`] of its [`Plan`] and does its work through it, until SIGKILL ends it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use ingle_store::files::{FileLock, Files, Metadata, Mode, OpenFile};

/// The variable that makes a process a child.
const VARIABLE: &str = "INGLE_TEST_KILL";

/// What a child does, and when it dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it does.
    pub scenario: String,
    /// In which folder.
    pub root: PathBuf,
    /// What it needs besides, such as the address of a server: a word.
    pub with: String,
    /// The operation, counted from 1, at which it dies.
    pub at: u64,
    /// When.
    pub moment: Moment,
}

/// When a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the operation.
    Before,
    /// When the first half of what it writes is written; after it, if it writes nothing.
    Half,
    /// After it.
    After,
}

impl Moment {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Before, "before"), (Self::Half, "half"), (Self::After, "after")];
}

/// An operation that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Create,
    CreateDir,
    Rename,
    Remove,
    RemoveDir,
    SyncDir,
    Lock,
    ShareBytes,
    Write,
    SetLen,
    Sync,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to its end: it has no operation of that number.
    Finished,
    /// It was killed.
    Killed,
}

impl Plan {
    /// What this process is to do, if it is a child.
    pub fn of_this_process() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let mut parts = text.splitn(5, ' ');
        let (scenario, with, at, when) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let root = parts.next()?.into();
        let (moment, _) = *Moment::ALL.iter().find(|(_, name)| *name == when)?;
        Some(Self {
            scenario: scenario.to_owned(),
            root,
            with: with.to_owned(),
            at: at.parse().ok()?,
            moment,
        })
    }
}

/// Runs a test of this program, by its whole name, in a process of its own.
///
/// # Panics
/// If the child ends any other way than by its end or by SIGKILL; then what it said is shown.
pub fn run_child(test: &str, plan: &Plan) -> End {
    let program = std::env::current_exe().expect("this program has a path");
    let when = Moment::ALL.iter().find(|(moment, _)| *moment == plan.moment).map_or("", |(_, name)| name);
    let variable = format!("{} {} {} {when} {}", plan.scenario, plan.with, plan.at, plan.root.display());
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, variable)
        .stdin(Stdio::null())
        .output()
        .expect("this program can be started again");
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "there is no test `{test}`: {text}");
        return End::Finished;
    }
    assert!(is_killed(&output.status), "{plan:?}: {}", String::from_utf8_lossy(&output.stderr));
    End::Killed
}

#[cfg(unix)]
fn is_killed(status: &std::process::ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(status) == Some(9)
}

#[cfg(not(unix))]
fn is_killed(status: &std::process::ExitStatus) -> bool {
    !status.success()
}

/// Ends this process with no further instruction of its own.
fn die() -> ! {
    #[cfg(unix)]
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal arrives at the latest when this thread sleeps.
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
    #[cfg(not(unix))]
    std::process::abort()
}

/// What a process has done, and what awaits it.
struct Life {
    done: Mutex<Vec<Operation>>,
    fate: Fate,
}

/// What happens to a process at an operation of its own.
enum Fate {
    None,
    Death(u64, Moment),
    /// Something else happens before the operation.
    Event(u64, Box<dyn Fn() + Send + Sync>),
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}", self.done)
    }
}

impl Life {
    fn around<T>(&self, operation: Operation, run: impl FnOnce() -> T) -> T {
        self.around_halves(operation, || None, run)
    }

    /// `half` does the first half of the operation, if it has halves; `run` does all of it.
    fn around_halves<T>(
        &self,
        operation: Operation,
        half: impl FnOnce() -> Option<T>,
        run: impl FnOnce() -> T,
    ) -> T {
        let number = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push(operation);
            done.len() as u64
        };
        let moment = match &self.fate {
            Fate::Death(at, moment) if *at == number => moment,
            Fate::Event(at, event) if *at == number => {
                event();
                return run();
            }
            _ => return run(),
        };
        let is_half_done = *moment == Moment::Half && half().is_some();
        if *moment != Moment::Before && !is_half_done {
            let _ = run();
        }
        die()
    }
}

/// Files that kill their process at one of their operations; those that only read are not counted.
#[derive(Debug)]
pub struct KillingFiles<F> {
    inner: F,
    life: Arc<Life>,
    /// What is told to be free, in place of the truth.
    free_bytes: Option<u64>,
}

impl<F: Files> KillingFiles<F> {
    /// These files, with the end that a plan says.
    pub fn new(inner: F, plan: &Plan) -> Self {
        Self::with_fate(inner, Fate::Death(plan.at, plan.moment))
    }

    /// These files, which kill nobody and count what is done.
    pub fn counting(inner: F) -> Self {
        Self::with_fate(inner, Fate::None)
    }

    /// These files, which kill nobody; something else happens before an operation.
    pub fn with_event(inner: F, at: u64, event: impl Fn() + Send + Sync + 'static) -> Self {
        Self::with_fate(inner, Fate::Event(at, Box::new(event)))
    }

    fn with_fate(inner: F, fate: Fate) -> Self {
        Self { inner, life: Arc::new(Life { done: Mutex::default(), fate }), free_bytes: None }
    }

    /// The same on a disk that says so many bytes are free.
    #[must_use]
    pub fn with_free(self, bytes: u64) -> Self {
        Self { free_bytes: Some(bytes), ..self }
    }

    /// What was done so far.
    pub fn done(&self) -> Vec<Operation> {
        self.life.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn file(&self, inner: Box<dyn OpenFile>) -> Box<dyn OpenFile> {
        Box::new(KillingFile { inner, life: self.life.clone() })
    }
}

impl<F: Files> Files for KillingFiles<F> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.life.around(Operation::Create, || self.inner.create(path)).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.inner.open(path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.inner.open_to_write(path).map(|file| self.file(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.life.around(Operation::CreateDir, || self.inner.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.life.around(Operation::Rename, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.life.around(Operation::Remove, || self.inner.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.life.around(Operation::RemoveDir, || self.inner.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.life.around(Operation::SyncDir, || self.inner.sync_dir(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.real_path(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.free_bytes.map_or_else(|| self.inner.free_space(path), Ok)
    }

    fn lock(&self, path: &Path, mode: Mode, wait: bool) -> io::Result<Option<Box<dyn FileLock>>> {
        self.life.around(Operation::Lock, || self.inner.lock(path, mode, wait))
    }

    fn share_bytes(&self, from: &Path, to: &dyn OpenFile) -> io::Result<bool> {
        self.life.around(Operation::ShareBytes, || self.inner.share_bytes(from, to))
    }
}

#[derive(Debug)]
struct KillingFile {
    inner: Box<dyn OpenFile>,
    life: Arc<Life>,
}

impl OpenFile for KillingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let half = || Some(self.inner.write_at(offset, &bytes[..bytes.len() / 2]));
        self.life.around_halves(Operation::Write, half, || self.inner.write_at(offset, bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.life.around(Operation::SetLen, || self.inner.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.life.around(Operation::Sync, || self.inner.sync())
    }

    fn as_system(&self) -> Option<&std::fs::File> {
        self.inner.as_system()
    }
}
