//! What all sessions of a store have in common: where things are, who holds which blob, and the operations on files from
//! which all others are made.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Tried;
use crate::files::{FileLock, Files, Kind, Mode};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::staged::{LOCK, read_all};
use crate::{Digest, Manifest, ModelName, Origin, StoreConfig, StoreError};

/// What stays free of a disk when files are taken in, in bytes: as much again as they take, and no more than this.
const SPARE_BYTES_MAX: u64 = 64 << 20;
/// The store's folder and those above it that may have been made with it.
const ROOT_LEVELS: usize = 3;
/// The lock that is held while manifests change and while blobs are removed.
const NAMES: &str = "names";

/// What all sessions have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) chunk_bytes: u64,
    /// Blobs whose content this process has verified.
    verified: Mutex<BTreeSet<Digest>>,
    /// Whether the leftovers of dead processes were looked for.
    is_collected: AtomicBool,
    /// Whether our folders are durable.
    is_rooted: AtomicBool,
}

/// The blobs that a session keeps from being removed.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<Digest, Box<dyn FileLock>>>);

impl Pins {
    pub(crate) fn put(&self, digest: Digest, lock: Box<dyn FileLock>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, lock);
    }

    /// Lets go of a blob, which is about to be written anew.
    pub(crate) fn release(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Keeps a blob, unless another is writing it, which keeps it as well.
    pub(crate) fn pin(&self, shared: &Shared, digest: &Digest) -> Result<(), StoreError> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest) {
            return Ok(());
        }
        let path = shared.lock_path(&digest.file_name());
        if let Some(lock) = shared.files.lock(&path, Mode::Shared, false).tried("lock", &path)? {
            self.put(*digest, lock);
        }
        Ok(())
    }
}

impl Shared {
    pub(crate) fn new(config: StoreConfig, files: Arc<dyn Files>, chunk_bytes: u64) -> Self {
        Self {
            config,
            files,
            chunk_bytes,
            verified: Mutex::default(),
            is_collected: AtomicBool::new(false),
            is_rooted: AtomicBool::new(false),
        }
    }

    /// Whether the leftovers of dead processes are still to be looked for; asked once it is no more.
    pub(crate) fn is_to_collect(&self) -> bool {
        !self.is_collected.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.config.root
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root().join("blobs")
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root().join("manifests")
    }

    pub(crate) fn tmp_dir(&self) -> PathBuf {
        self.root().join("tmp")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root().join("locks")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.file_name())
    }

    pub(crate) fn tmp(&self, stem: &str, ending: &str) -> PathBuf {
        self.tmp_dir().join(format!("{stem}{ending}"))
    }

    pub(crate) fn lock_path(&self, stem: &str) -> PathBuf {
        self.locks().join(format!("{stem}{LOCK}"))
    }

    pub(crate) fn lock_names(&self, mode: Mode) -> Result<Box<dyn FileLock>, StoreError> {
        let path = self.lock_path(NAMES);
        let lock = self.files.lock(&path, mode, true).tried("lock", &path)?;
        lock.ok_or_else(|| io::Error::other("the lock was refused")).tried("lock", &path)
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.files.sync_dir(path).tried("sync", path)
    }

    /// Makes a folder and those above it, durably.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        if self.files.metadata(path).is_ok_and(|found| found.kind == Kind::Dir) {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.make_dir(parent)?;
        }
        self.files.create_dir(path).tried("make the folder", path)?;
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// The folders that writing needs.
    pub(crate) fn make_folders(&self) -> Result<(), StoreError> {
        let folders =
            [self.blobs(), self.manifests(), self.tmp_dir(), self.locks(), self.root().join("sums")];
        folders.iter().try_for_each(|dir| self.make_dir(dir))?;
        if self.is_rooted.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Who made them may have died before they were durable.
        for dir in self.root().ancestors().take(ROOT_LEVELS).filter(|dir| !dir.as_os_str().is_empty()) {
            match self.files.sync_dir(dir) {
                // What others own was not made by us.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (),
                synced => synced.tried("sync", dir)?,
            }
        }
        self.is_rooted.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        // A store that nothing was put into yet has no folder; the disk is that of what it will stand in.
        let mut above = self.root().ancestors();
        let folder = above.find(|folder| self.files.metadata(folder).is_ok()).unwrap_or(self.root());
        let free = self.files.free_space(folder).tried("ask for the free space of", folder)?;
        // A manifest does not fail for the want of megabytes that it does not take.
        let spare = SPARE_BYTES_MAX.min(needed);
        if needed.saturating_add(spare) > free {
            return Err(StoreError::NoSpace { path: self.root().to_owned(), needed, spare, free });
        }
        Ok(())
    }

    pub(crate) fn note_verified(&self, digest: &Digest) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
    }

    pub(crate) fn forget_verified(&self, digest: &Digest) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// The blob's file, if one is there with that size, in our store or a shared one: what our manifests may name.
    pub(crate) fn kept_blob(&self, digest: &Digest, size: Option<u64>) -> Option<PathBuf> {
        let roots = self.roots().filter(|(origin, _)| *origin != Origin::Ollama);
        self.blob_in(roots, digest, size)
    }

    /// The blob's file, wherever one is.
    pub(crate) fn find_blob(&self, digest: &Digest, size: Option<u64>) -> Option<PathBuf> {
        self.blob_in(self.roots(), digest, size)
    }

    fn blob_in<'a>(
        &self,
        roots: impl Iterator<Item = (Origin, &'a Path)>,
        digest: &Digest,
        size: Option<u64>,
    ) -> Option<PathBuf> {
        let mut paths = roots.map(|(_, root)| root.join("blobs").join(digest.file_name()));
        paths.find(|path| {
            let found = self.files.metadata(path);
            found.is_ok_and(|found| found.kind == Kind::File && size.is_none_or(|size| size == found.len))
        })
    }

    /// The stores of our layout: our own, then those that are only read.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (Origin, &Path)> {
        let own = std::iter::once((Origin::Own, self.root()));
        let shared = self.config.shared.iter().map(|root| (Origin::Shared(root.clone()), root.as_path()));
        let ollama = self.config.ollama.iter().filter(|root| root.as_path() != self.root());
        own.chain(shared).chain(ollama.map(|root| (Origin::Ollama, root.as_path())))
    }

    /// The manifest of a name in a store of our layout, with its digest.
    pub(crate) fn read_manifest(
        &self,
        root: &Path,
        name: &ModelName,
    ) -> Result<Option<(Manifest, Digest)>, StoreError> {
        let Some(bytes) = self.read_manifest_bytes(root, name)? else { return Ok(None) };
        let source = |source| StoreError::Manifest { name: Box::new(name.clone()), source };
        Ok(Some((Manifest::parse(&bytes).map_err(source)?, Digest::of(&bytes))))
    }

    pub(crate) fn read_manifest_bytes(
        &self,
        root: &Path,
        name: &ModelName,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = root.join("manifests").join(name.path());
        match self.files.open(&path).and_then(|file| read_all(&*file, MANIFEST_BYTES_MAX)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).tried("read", &path),
        }
    }
}

/// Whether an error says that there is nothing of this name.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
