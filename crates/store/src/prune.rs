//! Taking away: a name with what only it had, and what nobody names any more.
//!
//! A blob is removed while the lock of names is held, when no manifest names it, when its own lock can be had (nobody
//! writes it or needs it before a name), and when everything that may have named it is gone durably: after a loss of
//! power no manifest comes back whose blobs are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Tried, is_full};
use crate::files::{FileLock, Kind, Mode};
use crate::foreign::listing;
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::shared::{Shared, is_absent};
use crate::staged::{JOURNAL, LOCK, PARTIAL, discard, read_all};
use crate::{Digest, Manifest, ModelName, Origin, Removed, Store, StoreError};

/// What `prune` took, or would take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Blobs that no model has.
    pub blobs: usize,
    /// Bytes of all that went.
    pub bytes: u64,
    /// Partial files of processes that are gone.
    pub partials: usize,
    /// Manifests that cannot be read. While there are any, no blob is removed: they may name it.
    pub unreadable: Vec<Unreadable>,
}

/// A manifest that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its model; `None` if its place is no name of a model, so that it may be no manifest at all.
    pub name: Option<ModelName>,
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// The blobs that manifests of our store name, and the manifests that cannot be read, with the reason.
type Referenced = (BTreeSet<Digest>, Vec<Unreadable>);

/// Reads all manifests of our store, those of names that another program gave included: it may be that program's store.
pub(crate) fn referenced(shared: &Shared) -> Result<Referenced, StoreError> {
    let (mut digests, mut unreadable) = (BTreeSet::new(), Vec::new());
    let root = &shared.config.root;
    let found = listing(shared, root)?;
    for name in found.names {
        match shared.read_manifest(root, &name) {
            Ok(Some((manifest, _))) => digests.extend(manifest.blobs().map(|layer| layer.digest)),
            Ok(None) => (),
            Err(error) => {
                let (path, why) = (shared.manifests().join(name.path()), error.to_string());
                unreadable.push(Unreadable { name: Some(name), path, why });
            }
        }
    }
    for below in found.unnamed {
        let path = shared.manifests().join(&below);
        match read_unnamed(shared, &path) {
            Ok(Some(manifest)) => digests.extend(manifest.blobs().map(|layer| layer.digest)),
            Ok(None) => (),
            Err(_) if is_hidden(&below) => (),
            Err(why) => unreadable.push(Unreadable { name: None, path, why }),
        }
    }
    Ok((digests, unreadable))
}

/// The manifest at a place that is no name of ours, if it is still there.
fn read_unnamed(shared: &Shared, path: &Path) -> Result<Option<Manifest>, String> {
    match shared.files.open(path).and_then(|file| read_all(&*file, MANIFEST_BYTES_MAX)) {
        Ok(bytes) => Manifest::parse(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a part of a path begins with a dot, which no program allows in a name; desktops leave such files everywhere.
fn is_hidden(path: &Path) -> bool {
    path.iter().any(|part| part.to_string_lossy().starts_with('.'))
}

/// Takes a name away, and the blobs that only it had.
pub(crate) fn remove(store: &Store, name: &ModelName) -> Result<Removed, StoreError> {
    let shared = &store.shared;
    let path = shared.manifests().join(name.path());
    let is_there = match shared.files.metadata(&path) {
        // Whatever stands in a manifest's place is no manifest, and goes with the name.
        Ok(found) if found.kind == Kind::Dir => {
            let why = "a folder stands where the manifest of a model belongs; remove it by hand".to_owned();
            return Err(StoreError::Path { path, why });
        }
        Ok(_) => true,
        Err(error) if is_absent(&error) => false,
        Err(error) => return Err(error).tried("read", &path),
    };
    if !is_there {
        let error = not_ours(store, name)?;
        // It may be gone since a moment ago, and not durably yet.
        if let Some(folder) = path.ancestors().skip(1).find(|folder| shared.files.metadata(folder).is_ok()) {
            shared.sync_dir(folder)?;
        }
        return Err(error);
    }
    shared.make_folders().map_err(|error| error.needing(0))?;
    let _names = shared.lock_names(Mode::Exclusive).map_err(|error| error.needing(0))?;
    // Of one that cannot be read nobody knows which blobs it names; those stay until `prune`.
    let bytes = match shared.read_manifest_bytes(&shared.config.root, name) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(StoreError::NotFound(Box::new(name.clone()))),
        Err(_) => Vec::new(),
    };
    shared.files.remove(&path).tried("remove", &path)?;
    let parent = path.parent().expect("a name has four parts");
    shared.sync_dir(parent)?;
    // Folders that are empty now; one that comes back after a loss of power does no harm.
    let mut folder = Some(parent);
    while let Some(empty) = folder.filter(|folder| *folder != shared.manifests()) {
        if shared.files.remove_dir(empty).is_err() {
            break;
        }
        folder = empty.parent();
    }
    let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(Removed::default()) };
    let (kept, unreadable) = referenced(shared)?;
    if !unreadable.is_empty() {
        return Ok(Removed::default());
    }
    let own: BTreeSet<Digest> = manifest.blobs().map(|layer| layer.digest).collect();
    let (blobs, bytes) = sweep(shared, own.difference(&kept))?;
    Ok(Removed { blobs, bytes })
}

/// Why a name cannot be taken away.
fn not_ours(store: &Store, name: &ModelName) -> Result<StoreError, StoreError> {
    let config = store.config();
    Ok(match store.find(name)?.map(|entry| entry.origin) {
        Some(Origin::Shared(origin)) => StoreError::ReadOnly { name: Box::new(name.clone()), origin },
        Some(Origin::Ollama) => StoreError::ReadOnly {
            name: Box::new(name.clone()),
            origin: config.ollama.clone().unwrap_or_default(),
        },
        Some(Origin::HuggingFace) => StoreError::ReadOnly {
            name: Box::new(name.clone()),
            origin: config.hf_home.clone().unwrap_or_default(),
        },
        Some(Origin::Own) | None => StoreError::NotFound(Box::new(name.clone())),
    })
}

/// Removes blobs that no manifest names, if nobody holds them. The lock of names is held.
fn sweep<'a>(shared: &Shared, digests: impl Iterator<Item = &'a Digest>) -> Result<(usize, u64), StoreError> {
    let (mut blobs, mut bytes) = (0, 0);
    let mut is_settled = false;
    for digest in digests {
        let path = shared.blob_path(digest);
        let Ok(found) = shared.files.metadata(&path) else { continue };
        let Some(lock) = free(shared, &digest.file_name())? else { continue };
        if !is_settled {
            settle(shared)?;
            is_settled = true;
        }
        shared.forget_verified(digest);
        shared.files.remove(&path).tried("remove", &path)?;
        crate::sums::forget(shared, digest);
        release(shared, &digest.file_name(), lock);
        (blobs, bytes) = (blobs + 1, bytes + found.len);
    }
    if blobs > 0 {
        shared.sync_dir(&shared.blobs())?;
    }
    Ok((blobs, bytes))
}

/// What nobody else holds: its lock, or none where the disk has no room for the lock's file.
type Freed = Option<Box<dyn FileLock>>;

/// The lock of something, if nobody holds it.
fn free(shared: &Shared, stem: &str) -> Result<Option<Freed>, StoreError> {
    let path = shared.lock_path(stem);
    match shared.files.lock(&path, Mode::Exclusive, false) {
        // On a full disk nobody else can make that file either, and this is how room is made.
        Err(error) if is_full(&error) && shared.files.metadata(&path).is_err() => Ok(Some(None)),
        tried => Ok(tried.tried("lock", &path)?.map(Some)),
    }
}

/// Removes a lock's file while it is held: whoever waits for it finds that it is another now.
fn release(shared: &Shared, stem: &str, lock: Freed) {
    let _ = shared.files.remove(&shared.lock_path(stem));
    drop(lock);
}

/// Makes all removals of manifests durable, those of processes that died before they could included.
fn settle(shared: &Shared) -> Result<(), StoreError> {
    for level in folders(shared)? {
        level.iter().try_for_each(|folder| shared.sync_dir(folder))?;
    }
    Ok(())
}

/// The folder of manifests, and the three levels of folders in it.
fn folders(shared: &Shared) -> Result<Vec<Vec<PathBuf>>, StoreError> {
    let mut levels = vec![vec![shared.manifests()]];
    for _ in 0..3 {
        let mut next = Vec::new();
        for folder in levels.last().into_iter().flatten() {
            for name in shared.files.read_dir(folder).tried("list", folder)? {
                let path = folder.join(name);
                match shared.files.metadata(&path) {
                    Ok(found) if found.kind == Kind::Dir => next.push(path),
                    Ok(_) => (),
                    Err(error) if is_absent(&error) => (),
                    Err(error) => return Err(error).tried("read", &path),
                }
            }
        }
        levels.push(next);
    }
    Ok(levels)
}

impl Store {
    /// Takes away what nobody needs: blobs that no model of this store has, partial files of processes that are gone,
    /// their locks, and empty folders. What another process is fetching, or has fetched and not named yet, stays.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn prune(&self, dry_run: bool) -> Result<Pruned, StoreError> {
        let shared = &self.shared;
        if shared.files.metadata(&shared.config.root).is_err() {
            return Ok(Pruned::default());
        }
        if dry_run {
            return would_prune(shared);
        }
        shared.make_folders().map_err(|error| error.needing(0))?;
        let _names = shared.lock_names(Mode::Exclusive).map_err(|error| error.needing(0))?;
        let (kept, unreadable) = referenced(shared)?;
        let mut pruned = Pruned { unreadable, ..Pruned::default() };
        if pruned.unreadable.is_empty() {
            let all = all_blobs(shared)?;
            (pruned.blobs, pruned.bytes) = sweep(shared, all.difference(&kept))?;
        }
        for (stem, bytes) in leftovers(shared)? {
            let Some(lock) = free(shared, &stem)? else { continue };
            discard(shared, &stem);
            release(shared, &stem, lock);
            (pruned.partials, pruned.bytes) = (pruned.partials + 1, pruned.bytes + bytes);
        }
        for name in shared.files.read_dir(&shared.locks()).unwrap_or_default() {
            let Some(stem) = name.strip_suffix(LOCK).filter(|stem| stem.contains('-')) else { continue };
            if let Some(lock) = free(shared, stem)? {
                release(shared, stem, lock);
            }
        }
        crate::sums::collect(shared);
        remove_empty(shared)?;
        Ok(pruned)
    }
}

/// What `prune` would take; nothing is written.
fn would_prune(shared: &Shared) -> Result<Pruned, StoreError> {
    let (kept, unreadable) = referenced(shared)?;
    let mut pruned = Pruned { unreadable, ..Pruned::default() };
    // A lock whose file is not there is nobody's.
    let is_free = |stem: &str| {
        Ok::<_, StoreError>(
            shared.files.metadata(&shared.lock_path(stem)).is_err() || free(shared, stem)?.is_some(),
        )
    };
    if pruned.unreadable.is_empty() {
        for digest in all_blobs(shared)?.difference(&kept) {
            if is_free(&digest.file_name())? {
                pruned.blobs += 1;
                pruned.bytes += shared.files.metadata(&shared.blob_path(digest)).map_or(0, |found| found.len);
            }
        }
    }
    for (stem, bytes) in leftovers(shared)? {
        if is_free(&stem)? {
            (pruned.partials, pruned.bytes) = (pruned.partials + 1, pruned.bytes + bytes);
        }
    }
    Ok(pruned)
}

/// All blobs of our store, by the names of their files. What has another name is not ours to remove.
pub(crate) fn all_blobs(shared: &Shared) -> Result<BTreeSet<Digest>, StoreError> {
    let names = match shared.files.read_dir(&shared.blobs()) {
        Err(error) if is_absent(&error) => Vec::new(),
        read => read.tried("list", &shared.blobs())?,
    };
    Ok(names.iter().filter_map(|name| Digest::from_file_name(name)).collect())
}

/// What is in `tmp/`, by the names of its locks, with its size.
fn leftovers(shared: &Shared) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut found = BTreeMap::new();
    let names = match shared.files.read_dir(&shared.tmp_dir()) {
        Err(error) if is_absent(&error) => Vec::new(),
        read => read.tried("list", &shared.tmp_dir())?,
    };
    for name in names {
        let Some(stem) = name.strip_suffix(PARTIAL).or_else(|| name.strip_suffix(JOURNAL)) else { continue };
        let len = shared.files.metadata(&shared.tmp_dir().join(&name)).map_or(0, |found| found.len);
        *found.entry(stem.to_owned()).or_insert(0) += len;
    }
    Ok(found)
}

/// Collects what dead processes left that nobody can take up.
pub(crate) fn collect(shared: &Shared) -> Result<(), StoreError> {
    for stem in leftovers(shared)?.into_keys().filter(|stem| stem.starts_with(crate::staged::ANONYMOUS)) {
        if let Some(lock) = free(shared, &stem)? {
            discard(shared, &stem);
            release(shared, &stem, lock);
        }
    }
    Ok(())
}

/// Removes folders of manifests that are empty.
fn remove_empty(shared: &Shared) -> Result<(), StoreError> {
    // The system refuses to remove one that is not empty.
    for folder in folders(shared)?.iter().skip(1).rev().flatten() {
        let _ = shared.files.remove_dir(folder);
    }
    Ok(())
}
