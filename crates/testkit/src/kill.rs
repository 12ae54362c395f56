//! Killing a process at its N-th operation on files, for real.
//!
//! A test that wants this has a second test, `child`, which does nothing unless the environment says that it is one.
//! The first starts the same program again with [`run_child`], which runs only that test; the child builds a
//! [`KillingFiles`] of its [`Plan`] and does its work through it, until SIGKILL ends it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// The operation, counted from 1, at which it dies.
    pub at: u64,
    /// Whether it dies after the operation, not before.
    pub after: bool,
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
        let mut parts = text.splitn(4, ' ');
        let (scenario, at, when) = (parts.next()?, parts.next()?, parts.next()?);
        let root = parts.next()?.into();
        Some(Self { scenario: scenario.to_owned(), root, at: at.parse().ok()?, after: when == "after" })
    }
}

/// Runs a test of this program, by its whole name, in a process of its own.
///
/// # Panics
/// If the child ends any other way than by its end or by SIGKILL; then what it said is shown.
pub fn run_child(test: &str, plan: &Plan) -> End {
    let program = std::env::current_exe().expect("this program has a path");
    let when = if plan.after { "after" } else { "before" };
    let variable = format!("{} {} {when} {}", plan.scenario, plan.at, plan.root.display());
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

/// When a process dies.
#[derive(Debug)]
struct Moment {
    count: AtomicU64,
    at: u64,
    after: bool,
}

impl Moment {
    fn around<T>(&self, run: impl FnOnce() -> T) -> T {
        let is_now = self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        if is_now && !self.after {
            die();
        }
        let value = run();
        if is_now {
            die();
        }
        value
    }
}

/// Files that kill their process at one of their operations; those that only read are not counted.
#[derive(Debug)]
pub struct KillingFiles<F> {
    inner: F,
    moment: Arc<Moment>,
}

impl<F: Files> KillingFiles<F> {
    /// These files, with the moment that a plan says.
    pub fn new(inner: F, plan: &Plan) -> Self {
        Self { inner, moment: Arc::new(Moment { count: AtomicU64::new(0), at: plan.at, after: plan.after }) }
    }

    fn file(&self, inner: Box<dyn OpenFile>) -> Box<dyn OpenFile> {
        Box::new(KillingFile { inner, moment: self.moment.clone() })
    }
}

impl<F: Files> Files for KillingFiles<F> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.moment.around(|| self.inner.create(path)).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.inner.open(path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.inner.open_to_write(path).map(|file| self.file(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.moment.around(|| self.inner.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.moment.around(|| self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.moment.around(|| self.inner.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.moment.around(|| self.inner.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.moment.around(|| self.inner.sync_dir(path))
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
        self.inner.free_space(path)
    }

    fn lock(&self, path: &Path, mode: Mode, wait: bool) -> io::Result<Option<Box<dyn FileLock>>> {
        self.moment.around(|| self.inner.lock(path, mode, wait))
    }

    fn share_bytes(&self, from: &Path, to: &dyn OpenFile) -> io::Result<bool> {
        self.moment.around(|| self.inner.share_bytes(from, to))
    }
}

#[derive(Debug)]
struct KillingFile {
    inner: Box<dyn OpenFile>,
    moment: Arc<Moment>,
}

impl OpenFile for KillingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.moment.around(|| self.inner.write_at(offset, bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.moment.around(|| self.inner.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.moment.around(|| self.inner.sync())
    }

    fn as_system(&self) -> Option<&std::fs::File> {
        self.inner.as_system()
    }
}
