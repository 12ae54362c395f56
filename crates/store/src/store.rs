//! The store: what there is, and what changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::Tried;
use crate::files::{FileLock, Files, Kind, Mode, RealFiles};
use crate::foreign::{self, Blob, Found};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::staged::{LOCK, hash, read_all};
use crate::{
    CHUNK_BYTES, Digest, Expect, Installed, Layer, Manifest, ModelName, Reference, Staged, StoreError,
    installed,
};

/// The largest layer that is read as a whole, in bytes.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;
/// What stays free of a disk when files are taken in, in bytes.
const SPARE_BYTES: u64 = 64 << 20;
/// The lock that is held while manifests change and while blobs are removed.
const NAMES: &str = "names";

/// Where models are kept and looked for.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// Our own store.
    pub root: PathBuf,
    /// Stores of the same layout that are only read, in the order in which they are asked.
    pub shared: Vec<PathBuf>,
    /// The folder of Hugging Face's libraries (`HF_HOME`), whose `hub/` is read.
    pub hf_home: Option<PathBuf>,
    /// A store of Ollama's (`OLLAMA_MODELS`), which is only read.
    pub ollama: Option<PathBuf>,
}

/// Whose a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Ours.
    Own,
    /// Of a shared store, which is only read.
    Shared(PathBuf),
    /// Of the cache of Hugging Face's libraries.
    HuggingFace,
    /// Of Ollama's store.
    Ollama,
}

/// Whether a model can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All is there.
    Ready,
    /// It cannot be used, and why.
    Broken(String),
}

/// A model as it is listed.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: ModelName,
    /// Whose it is.
    pub origin: Origin,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its blobs, each counted once.
    pub size: u64,
    /// When it was put there.
    pub modified: SystemTime,
    /// Whether it can be used.
    pub state: State,
}

/// A manifest that has become visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the manifest that had the name before, if it was another. Its blobs stay until `prune`.
    pub replaced: Option<Digest>,
}

/// What went with a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs that no other model has.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The models of a machine. It is cheap to clone; every call blocks.
///
/// A clone belongs to the same **session**: blobs that a session takes in are kept from `prune` until its last clone is
/// dropped. Whoever takes in a model begins one with [`Store::session`].
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pins: Arc<Pins>,
}

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
}

/// The blobs that a session keeps from being removed.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<Digest, Box<dyn FileLock>>>);

impl Pins {
    pub(crate) fn put(&self, digest: Digest, lock: Box<dyn FileLock>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, lock);
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
    fn root(&self) -> &Path {
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
        [self.blobs(), self.manifests(), self.tmp_dir(), self.locks()]
            .iter()
            .try_for_each(|dir| self.make_dir(dir))
    }

    pub(crate) fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let free = self.files.free_space(self.root()).tried("ask for the free space of", self.root())?;
        if needed.saturating_add(SPARE_BYTES) > free {
            return Err(StoreError::NoSpace { path: self.root().to_owned(), needed, free });
        }
        Ok(())
    }

    pub(crate) fn note_verified(&self, digest: &Digest) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
    }

    pub(crate) fn forget_verified(&self, digest: &Digest) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    fn is_verified(&self, digest: &Digest) -> bool {
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
        let source = |source| StoreError::Manifest { name: name.clone(), source };
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

impl Store {
    /// The store of this configuration. Nothing is made on disk before something is written.
    ///
    /// # Errors
    /// If no folder is named.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        Self::with_files(config, Arc::new(RealFiles))
    }

    /// The same on other files than the system's.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn with_files(config: StoreConfig, files: Arc<dyn Files>) -> Result<Self, StoreError> {
        Self::with_chunks(config, files, CHUNK_BYTES)
    }

    /// The same with chunks of another size, for tests.
    #[doc(hidden)]
    pub fn with_chunks(
        config: StoreConfig,
        files: Arc<dyn Files>,
        chunk_bytes: u64,
    ) -> Result<Self, StoreError> {
        if config.root.as_os_str().is_empty() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "its folder is not named");
            return Err(error).tried("open the store", &config.root);
        }
        let shared = Shared {
            config,
            files,
            chunk_bytes,
            verified: Mutex::default(),
            is_collected: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), pins: Arc::default() })
    }

    /// The same store in a session of its own: what it takes in is kept until the session's last clone is dropped.
    pub fn session(&self) -> Self {
        Self { shared: self.shared.clone(), pins: Arc::default() }
    }

    /// Where models are kept and looked for.
    pub fn config(&self) -> &StoreConfig {
        &self.shared.config
    }

    /// All models: our own first, then those of shared stores, of Ollama's and of Hugging Face's cache. Of several with
    /// one name the first is listed, which is the one that is used. What is broken is listed as such.
    ///
    /// # Errors
    /// If our own store is there and cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let mut seen = BTreeSet::new();
        let found = foreign::all(&self.shared)?;
        Ok(found
            .into_iter()
            .map(|found| found.entry)
            .filter(|entry| seen.insert(entry.name.clone()))
            .collect())
    }

    /// The model of a name.
    ///
    /// # Errors
    /// If the system refuses; a model that is broken is none.
    pub fn find(&self, name: &ModelName) -> Result<Option<Entry>, StoreError> {
        Ok(self.locate(name)?.map(|found| found.entry))
    }

    /// Where the model of a name is, with its blobs.
    pub(crate) fn locate(&self, name: &ModelName) -> Result<Option<Found>, StoreError> {
        foreign::find(&self.shared, name)
    }

    /// What is to be loaded for a reference, or `None` if it must be fetched first.
    ///
    /// # Errors
    /// If the model is there and broken, or the system refuses.
    pub fn open_model(&self, reference: &Reference) -> Result<Option<Installed>, StoreError> {
        installed::open(self, reference)
    }

    /// The manifest of a name, in our store, a shared one or Ollama's.
    ///
    /// # Errors
    /// If it is there and cannot be used.
    pub fn manifest(&self, name: &ModelName) -> Result<Option<Manifest>, StoreError> {
        for (_, root) in self.shared.roots() {
            if let Some((manifest, _)) = self.shared.read_manifest(root, name)? {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// The file of a blob, in our store or a shared one. It is not read: [`Self::verify`] does that.
    ///
    /// # Errors
    /// None so far; the system's refusal counts as absence.
    pub fn blob(&self, digest: &Digest) -> Result<Option<PathBuf>, StoreError> {
        Ok(self.shared.kept_blob(digest, None))
    }

    /// The same, and the session keeps the blob from being removed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pin(&self, digest: &Digest, size: Option<u64>) -> Result<Option<PathBuf>, StoreError> {
        if self.shared.kept_blob(digest, size).is_none() {
            return Ok(None);
        }
        self.shared.make_folders()?;
        self.pins.pin(&self.shared, digest)?;
        // It may have gone before it was pinned.
        Ok(self.shared.kept_blob(digest, size))
    }

    /// A layer's bytes; they are verified.
    ///
    /// # Errors
    /// If it is larger than 1 MiB, is not there, or is not what it should be.
    pub fn read_small(&self, layer: &Layer) -> Result<Vec<u8>, StoreError> {
        let path = self.shared.find_blob(&layer.digest, Some(layer.size));
        let path = path.ok_or(StoreError::MissingBlob(layer.digest))?;
        read_blob(&self.shared, &path, layer.size, Some(layer.digest))
    }

    /// Begins a file, or takes up what is there of it. Whoever stages a blob that is there replaces it.
    ///
    /// # Errors
    /// If there is no room for it, another writes the same file ([`StoreError::Busy`]), or the system refuses.
    pub fn stage(&self, expect: Expect) -> Result<Staged, StoreError> {
        self.shared.make_folders()?;
        if !self.shared.is_collected.swap(true, Ordering::Relaxed) {
            crate::prune::collect(&self.shared)?;
        }
        Staged::open(self.shared.clone(), self.pins.clone(), expect)
    }

    /// Keeps these bytes as a blob.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.pin(&digest, Some(bytes.len() as u64))?.is_some_and(|path| self.is_content(&path, &digest)) {
            return Ok(digest);
        }
        let staged = self.stage(Expect { size: Some(bytes.len() as u64), ..Expect::default() })?;
        staged.write_at(0, bytes)?;
        staged.commit()
    }

    fn is_content(&self, path: &Path, digest: &Digest) -> bool {
        let read = self.shared.files.open(path).and_then(|file| {
            let len = file.len()?;
            hash(&*file, len, &mut |_| ())
        });
        read.is_ok_and(|found| found == *digest)
    }

    /// Copies a file into the store, or shares its bytes where the file system can; `progress` gets the bytes that are
    /// done and how many there are.
    ///
    /// # Errors
    /// If it is no regular file, there is no room, or the system refuses.
    pub fn put_file(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Digest, u64), StoreError> {
        let files = &self.shared.files;
        let found = files.metadata(path).tried("read", path)?;
        if found.kind != Kind::File {
            return Err(StoreError::NotAFile(path.to_owned()));
        }
        let source = files.open(path).tried("read", path)?;
        let size = source.len().tried("read", path)?;
        let staged = self.stage(Expect { size: Some(size), ..Expect::default() })?;
        if staged.share_from(path)? {
            let digest = staged.commit()?;
            progress(size, size);
            return Ok((digest, size));
        }
        let mut buf = vec![0; COPY_BYTES];
        let mut done = 0;
        while done < size {
            let n = source.read_at(done, &mut buf).tried("read", path)?;
            if n == 0 {
                let what = path.display().to_string();
                return Err(StoreError::WrongSize { what, expected: size, found: done });
            }
            let n = n.min((size - done) as usize);
            staged.write_at(done, &buf[..n])?;
            done += n as u64;
            progress(done, size);
        }
        Ok((staged.commit()?, size))
    }

    /// Gives a manifest a name: from then on the model can be seen. All its blobs must be there; those that neither this
    /// process nor an earlier publication has verified are read.
    ///
    /// # Errors
    /// If a blob is missing, has another size or another content, or the system refuses. The name then means what it
    /// meant before.
    pub fn publish(&self, name: &ModelName, manifest: &Manifest) -> Result<Published, StoreError> {
        self.shared.make_folders()?;
        let mut known: Option<BTreeSet<Digest>> = None;
        for layer in manifest.blobs() {
            self.pins.pin(&self.shared, &layer.digest)?;
            let path = self.present(layer)?;
            let is_known = self.shared.is_verified(&layer.digest) || {
                let known = match &mut known {
                    Some(known) => known,
                    none => none.insert(crate::prune::referenced(&self.shared)?.0),
                };
                known.contains(&layer.digest)
            };
            if !is_known {
                self.check_content(&path, layer)?;
            }
        }
        let bytes = manifest.to_bytes();
        let staged = self.stage_bytes(&bytes)?;
        let _names = self.shared.lock_names(Mode::Exclusive)?;
        manifest.blobs().try_for_each(|layer| self.present(layer).map(drop))?;
        // Blobs that others have put there may not be durable yet.
        self.shared.sync_dir(&self.shared.blobs())?;
        let digest = Digest::of(&bytes);
        let before =
            self.shared.read_manifest_bytes(self.shared.root(), name)?.map(|bytes| Digest::of(&bytes));
        self.place(staged, name)?;
        Ok(Published { digest, replaced: before.filter(|before| *before != digest) })
    }

    /// A blob that a manifest names is there with its size.
    fn present(&self, layer: &Layer) -> Result<PathBuf, StoreError> {
        if let Some(path) = self.shared.kept_blob(&layer.digest, Some(layer.size)) {
            return Ok(path);
        }
        let path = self.shared.kept_blob(&layer.digest, None).ok_or(StoreError::MissingBlob(layer.digest))?;
        let found = self.shared.files.metadata(&path).tried("read", &path)?.len;
        let what = format!("the blob {}", layer.digest);
        Err(StoreError::WrongSize { what, expected: layer.size, found })
    }

    fn check_content(&self, path: &Path, layer: &Layer) -> Result<(), StoreError> {
        let file = self.shared.files.open(path).tried("read", path)?;
        let found = hash(&*file, layer.size, &mut |_| ()).tried("read", path)?;
        if found != layer.digest {
            return Err(StoreError::WrongContent { expected: layer.digest, found });
        }
        self.shared.note_verified(&found);
        Ok(())
    }

    /// A manifest as a temporary file, durable.
    fn stage_bytes(&self, bytes: &[u8]) -> Result<Staged, StoreError> {
        let staged = self.stage(Expect { size: Some(bytes.len() as u64), ..Expect::default() })?;
        staged.write_at(0, bytes)?;
        Ok(staged)
    }

    /// Gives a staged manifest its name, durably. The lock of names is held.
    fn place(&self, staged: Staged, name: &ModelName) -> Result<(), StoreError> {
        let to = self.shared.manifests().join(name.path());
        let parent = to.parent().expect("a name has four parts");
        self.shared.make_dir(parent)?;
        staged.place(&to)?;
        self.shared.sync_dir(parent)
    }

    /// Gives a model a second name; its blobs are shared. A model of a store that is only read is copied into ours.
    ///
    /// # Errors
    /// If there is no such model, or the system refuses.
    pub fn copy(&self, from: &ModelName, to: &ModelName) -> Result<Published, StoreError> {
        let found = self.locate(from)?.ok_or_else(|| StoreError::NotFound(from.clone()))?;
        let manifest = found.manifest(self)?;
        self.publish(to, &manifest)
    }

    /// Takes a name away, and the blobs that only it had.
    ///
    /// # Errors
    /// If there is no such model in our own store, or the system refuses.
    pub fn remove(&self, name: &ModelName) -> Result<Removed, StoreError> {
        crate::prune::remove(self, name)
    }
}

/// A whole blob, verified if its digest is known.
pub(crate) fn read_blob(
    shared: &Shared,
    path: &Path,
    size: u64,
    digest: Option<Digest>,
) -> Result<Vec<u8>, StoreError> {
    if size > SMALL_BYTES_MAX {
        return Err(StoreError::TooLarge {
            what: path.display().to_string(),
            found: size,
            max: SMALL_BYTES_MAX,
        });
    }
    let file = shared.files.open(path).tried("read", path)?;
    let bytes = read_all(&*file, SMALL_BYTES_MAX).tried("read", path)?;
    match (digest, Digest::of(&bytes)) {
        (Some(expected), found) if expected != found => Err(StoreError::WrongContent { expected, found }),
        _ => Ok(bytes),
    }
}

impl Found {
    /// A manifest for our own store; what is not a blob of ours yet becomes one.
    fn manifest(&self, store: &Store) -> Result<Manifest, StoreError> {
        if let Some(manifest) = &self.manifest {
            for blob in &self.blobs {
                let is_here = match blob.digest {
                    Some(digest) => store.pin(&digest, Some(blob.size))?.is_some(),
                    None => false,
                };
                if !is_here {
                    store.put_file(&blob.path, &mut |_, _| ())?;
                }
            }
            return Ok(manifest.clone());
        }
        let put = |blob: &Blob| -> Result<Layer, StoreError> {
            let (digest, size) = store.put_file(&blob.path, &mut |_, _| ())?;
            let layer = Layer::new(blob.media_type.clone(), digest, size);
            Ok(match &blob.file {
                Some(file) => layer.with_file(file),
                None => layer,
            })
        };
        let layers: Vec<Layer> = self.blobs.iter().map(put).collect::<Result<_, _>>()?;
        let first = self.blobs.iter().find(|blob| blob.media_type == crate::MediaType::Model);
        let file = first.and_then(|blob| ingle_gguf::GgufFile::open(&blob.path).ok());
        let config =
            file.map(|file| crate::ModelConfig::of_gguf(&file)).unwrap_or_default().to_bytes(&layers);
        let digest = store.put_bytes(&config)?;
        Ok(Manifest::new(Layer::new(crate::MediaType::Config, digest, config.len() as u64), layers))
    }
}
