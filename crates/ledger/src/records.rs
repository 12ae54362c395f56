//! Records of requests: a folder with a file for each, which only its owner can read.
//!
//! Nobody waits for a record. It is handed to a thread, which writes it under another name and then gives it its own; if
//! the thread is behind (the disk is slow, or full), records are dropped and counted. The folder is bounded in size and
//! age: the oldest records go first. They are not forced to the disk: after a loss of power the last ones may be missing
//! or cut, which their digests show.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::LedgerError;

/// Records that wait to be written.
const WAITING_MAX: usize = 256;
/// How often old records are looked for while none is written.
const TIDY_INTERVAL: Duration = Duration::from_secs(600);
/// How often a problem is told again.
const PROBLEM_INTERVAL: Duration = Duration::from_secs(60);
/// How the name of a file ends that is a record.
const SUFFIX: &str = ".json";
/// How the name of a file begins that is being written.
const UNFINISHED: &str = ".unfinished-";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// All records together.
    pub bytes_max: u64,
    /// The oldest record.
    pub age_max: Duration,
    /// Records in memory that wait to be written.
    pub waiting_bytes_max: usize,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, age_max: Duration::from_secs(30 * 86_400), waiting_bytes_max: 64 << 20 }
    }
}

/// Told what goes wrong, in words for the operator.
pub type OnProblem = Box<dyn FnMut(&str) + Send>;

/// A folder of records. Dropping it waits until those that wait are written.
pub struct Records {
    sender: Option<SyncSender<Entry>>,
    shared: Arc<Shared>,
    limits: RecordLimits,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// A record that waits.
struct Entry {
    id: String,
    n_bytes: usize,
    text: Box<dyn FnOnce() -> String + Send>,
}

impl Records {
    /// Opens a folder, or makes it.
    ///
    /// # Errors
    /// If it cannot be made or written to, or if others can read what is in it.
    pub fn open(folder: &Path, limits: RecordLimits, on_problem: OnProblem) -> Result<Self, LedgerError> {
        let failed =
            |error: io::Error| LedgerError::Access { path: folder.to_owned(), problem: error.to_string() };
        make_folder(folder).map_err(failed)?;
        let files = scan(folder).map_err(failed)?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            folder: folder.to_owned(),
            limits,
            n_bytes: files.iter().map(|file| file.n_bytes).sum(),
            files,
            shared: Arc::clone(&shared),
            on_problem,
            told: None,
        };
        writer.probe().map_err(failed)?;
        writer.tidy(SystemTime::now());
        let thread = std::thread::Builder::new()
            .name("ingle-records".into())
            .spawn(move || writer.run(&receiver))
            .map_err(failed)?;
        Ok(Self { sender: Some(sender), shared, limits, thread: Some(thread) })
    }

    /// Hands over a record of about `n_bytes`; `text` is called on the folder's thread. Returns at once: where there is
    /// no room the record is dropped, and counted.
    pub fn put(&self, id: &str, n_bytes: usize, text: impl FnOnce() -> String + Send + 'static) {
        let waiting = self.shared.waiting_bytes.fetch_add(n_bytes, Relaxed);
        let entry = Entry { id: id.to_owned(), n_bytes, text: Box::new(text) };
        let has_room = waiting == 0 || waiting.saturating_add(n_bytes) <= self.limits.waiting_bytes_max;
        let sender = self.sender.as_ref().expect("it is there until the drop");
        if !has_room || sender.try_send(entry).is_err() {
            self.shared.waiting_bytes.fetch_sub(n_bytes, Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Records that were written, and that were dropped.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.written.load(Relaxed), self.shared.dropped.load(Relaxed))
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, records are missing, and that has been told.
            let _ = thread.join();
        }
    }
}

/// A file of the folder.
struct Kept {
    name: String,
    n_bytes: u64,
    at: SystemTime,
}

/// The thread's own.
struct Writer {
    folder: PathBuf,
    limits: RecordLimits,
    /// The oldest first.
    files: VecDeque<Kept>,
    n_bytes: u64,
    shared: Arc<Shared>,
    on_problem: OnProblem,
    /// When a problem was last told, and how many records had been dropped by then.
    told: Option<(SystemTime, u64)>,
}

impl Writer {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            match entries.recv_timeout(TIDY_INTERVAL) {
                Ok(entry) => self.take(entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tidy(SystemTime::now());
            self.tell_dropped();
        }
    }

    fn take(&mut self, entry: Entry) {
        let text = (entry.text)();
        let written = self.write(&entry.id, &text);
        drop(text);
        self.shared.waiting_bytes.fetch_sub(entry.n_bytes, Relaxed);
        match written {
            Ok(()) => _ = self.shared.written.fetch_add(1, Relaxed),
            Err(error) => {
                self.shared.dropped.fetch_add(1, Relaxed);
                let text = format!("a record could not be written to {}: {error}", self.folder.display());
                self.tell(&text);
            }
        }
    }

    fn write(&mut self, id: &str, text: &str) -> io::Result<()> {
        let at = SystemTime::now();
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Names in the order of time; an id has nothing that a file's name must not have.
        let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
        let name = format!("{:013}-{}{SUFFIX}", since.as_millis(), &id[..id.len().min(100)]);
        let unfinished = self.folder.join(format!("{UNFINISHED}{name}"));
        let written = create(&unfinished)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&unfinished, self.folder.join(&name)));
        if let Err(error) = written {
            // What is half there only takes room.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let n_bytes = text.len() as u64;
        self.files.push_back(Kept { name, n_bytes, at });
        self.n_bytes += n_bytes;
        Ok(())
    }

    /// Whether files can be made here.
    fn probe(&self) -> io::Result<()> {
        let path = self.folder.join(format!("{UNFINISHED}probe"));
        create(&path).and_then(|_| fs::remove_file(&path))
    }

    /// Deletes what is too old, and the oldest of what is too much.
    fn tidy(&mut self, now: SystemTime) {
        while let Some(oldest) = self.files.front() {
            let is_old = now.duration_since(oldest.at).is_ok_and(|age| age > self.limits.age_max);
            if !is_old && self.n_bytes <= self.limits.bytes_max {
                return;
            }
            let Kept { name, n_bytes, .. } = self.files.pop_front().expect("just seen");
            self.n_bytes -= n_bytes;
            match fs::remove_file(self.folder.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.tell(&format!("the old record {name} could not be deleted: {error}"));
                }
                _ => {}
            }
        }
    }

    /// Says that records were dropped because there was no room for them.
    fn tell_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Relaxed);
        if dropped > self.told.map_or(0, |(_, told)| told) {
            self.tell("requests are not recorded: writing records is behind");
        }
    }

    fn tell(&mut self, text: &str) {
        let (now, dropped) = (SystemTime::now(), self.shared.dropped.load(Relaxed));
        let is_recent =
            |(at, _): (SystemTime, u64)| now.duration_since(at).is_ok_and(|since| since < PROBLEM_INTERVAL);
        if !self.told.is_some_and(is_recent) {
            (self.on_problem)(&format!("{text} ({dropped} dropped since start)"));
            self.told = Some((now, dropped));
        }
    }
}

/// A new file that only its owner can read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A folder that only its owner can look into.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder)?.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            let text = format!(
                "others can look into it (its mode is {mode:o}), and records have prompts in them: chmod 700 it, or name a \
                 folder that is not there yet"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

/// The records that are there, the oldest first. What was being written when a process died is deleted.
fn scan(folder: &Path) -> io::Result<VecDeque<Kept>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let metadata = entry.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        if name.starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        } else if is_record(&name) {
            let at = metadata.modified().unwrap_or_else(|_| SystemTime::now());
            files.push(Kept { name, n_bytes: metadata.len(), at });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files.into())
}

/// Whether a file's name is one that is given here; others in the folder are left alone.
fn is_record(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 13 && name.as_bytes().get(digits) == Some(&b'-') && name.ends_with(SUFFIX)
}
