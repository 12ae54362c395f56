//! Reading every blob, and comparing it with its name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::foreign::{self, Found};
use crate::prune::{all_blobs, referenced};
use crate::shared::Shared;
use crate::staged::hash;
use crate::{Digest, ModelName, Origin, State, Store, StoreError, sums};

/// The most threads that read: further ones wait for the disk.
const THREADS_MAX: usize = 8;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// What the verification of a model found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The model; `None` is for blobs of our store that no model has.
    pub name: Option<ModelName>,
    /// Whose it is.
    pub origin: Origin,
    /// What is wrong with it; nothing if it is as it should be.
    pub findings: Vec<Finding>,
    /// Files whose digest nobody knows, so that they were only read.
    pub unknown: usize,
    /// Bytes that were read.
    pub bytes: u64,
}

/// A file to read: its digest if that is known, and its size.
type Wanted = BTreeMap<PathBuf, (Option<Digest>, u64)>;

impl Store {
    /// Reads every file of these models, or of all models and all blobs if none is named. `progress` gets the bytes that
    /// are done and how many there are, from several threads, one after the other.
    ///
    /// # Errors
    /// If a name is no model's, or our own store cannot be read; what is wrong with a model is in its verdict.
    pub fn verify(
        &self,
        names: &[ModelName],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Vec<Verdict>, StoreError> {
        let shared = &*self.shared;
        let mut models = Vec::new();
        for name in names {
            models.push(self.locate(name)?.ok_or_else(|| StoreError::NotFound(Box::new(name.clone())))?);
        }
        let mut orphans = Wanted::new();
        if names.is_empty() {
            models = foreign::all(shared)?;
            let (kept, _) = referenced(shared)?;
            for digest in all_blobs(shared)?.difference(&kept) {
                let path = shared.blob_path(digest);
                let len = shared.files.metadata(&path).map_or(0, |found| found.len);
                orphans.insert(path, (Some(*digest), len));
            }
        }
        let mut wanted = orphans.clone();
        for blob in models.iter().flat_map(|found| &found.blobs) {
            wanted.insert(blob.path.clone(), (blob.digest, blob.size));
        }
        let results = read_all(shared, &wanted, progress);
        let mut verdicts: Vec<Verdict> =
            models.iter().map(|found| verdict(shared, found, &results)).collect();
        if !orphans.is_empty() {
            let findings = orphans.keys().filter_map(|path| finding(path, &results)).collect();
            let bytes = total(orphans.values().map(|(_, size)| *size));
            verdicts.push(Verdict { name: None, origin: Origin::Own, findings, unknown: 0, bytes });
        }
        Ok(verdicts)
    }
}

type Results = BTreeMap<PathBuf, Option<String>>;

fn finding(path: &Path, results: &Results) -> Option<Finding> {
    let why = results.get(path)?.clone()?;
    Some(Finding { path: path.to_owned(), why })
}

fn verdict(shared: &Shared, found: &Found, results: &Results) -> Verdict {
    let mut findings: Vec<Finding> =
        found.blobs.iter().filter_map(|blob| finding(&blob.path, results)).collect();
    findings.dedup();
    // What was marked as damaged and is whole is broken no more.
    let is_healed = || {
        let again = foreign::find(shared, &found.entry.name).ok().flatten();
        again.is_some_and(|again| {
            again.entry.origin == found.entry.origin && again.entry.state == State::Ready
        })
    };
    if let State::Broken(why) = &found.entry.state
        && findings.is_empty()
        && !is_healed()
    {
        findings.push(Finding { path: found.entry.name.path(), why: why.clone() });
    }
    Verdict {
        name: Some(found.entry.name.clone()),
        origin: found.entry.origin.clone(),
        findings,
        unknown: found.blobs.iter().filter(|blob| blob.digest.is_none()).count(),
        bytes: total(found.blobs.iter().map(|blob| blob.size)),
    }
}

/// A sum of sizes. Manifests of others claim any, more together than can be counted.
fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Reads files on several threads; what is wrong with each, if anything is.
fn read_all(shared: &Shared, wanted: &Wanted, progress: &(dyn Fn(u64, u64) + Sync)) -> Results {
    let total = total(wanted.values().map(|(_, size)| *size));
    let list: Vec<(&PathBuf, &(Option<Digest>, u64))> = wanted.iter().collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(0));
    let results = Mutex::new(Results::new());
    let work = || {
        while let Some((path, (digest, size))) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut before = 0;
            let why = check(shared, path, *digest, *size, &mut |now| {
                // Told while it is locked: whoever listens takes a smaller sum for a new beginning.
                let mut sum = done.lock().unwrap_or_else(PoisonError::into_inner);
                *sum += now - before;
                before = now;
                progress(*sum, total);
            });
            results.lock().unwrap_or_else(PoisonError::into_inner).insert((*path).clone(), why);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores.min(THREADS_MAX).min(list.len()) {
            scope.spawn(work);
        }
        work();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn check(
    shared: &Shared,
    path: &Path,
    digest: Option<Digest>,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Option<String> {
    let file = match shared.files.open(path) {
        Ok(file) => file,
        Err(error) => return Some(format!("it cannot be read: {error}")),
    };
    match file.len() {
        Ok(len) if len == size => (),
        Ok(len) => return Some(format!("it has {len} bytes, not {size}")),
        Err(error) => return Some(format!("it cannot be read: {error}")),
    }
    match (hash(&*file, size, progress), digest) {
        (Err(error), _) => Some(format!("it cannot be read: {error}")),
        (Ok(found), Some(expected)) if found != expected => {
            sums::mark(shared, path, true);
            Some(format!("its content has the digest {found}"))
        }
        _ => {
            sums::mark(shared, path, false);
            None
        }
    }
}
