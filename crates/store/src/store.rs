//! The store: what there is, and what changes it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Tried;
use crate::files::{Files, Kind, Mode, RealFiles};
use crate::foreign::{self, Found};
use crate::manifest::TEXT_BYTES_MAX;
use crate::shared::{Pins, Shared};
use crate::staged::{hash, read_all};
use crate::{
    CHUNK_BYTES, Catalogue, Digest, Entry, Expect, HubPick, Installed, Layer, Manifest, MediaType,
    ModelConfig, ModelName, Published, Reference, Removed, Staged, StoreConfig, StoreError, annotation,
    installed, sums,
};

/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// The models of a machine. It is cheap to clone; every call blocks.
///
/// A clone belongs to the same **session**: blobs that a session takes in are kept from `prune` until its last clone is
/// dropped. Whoever takes in a model begins one with [`Store::session`].
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pins: Arc<Pins>,
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
        sums::own(&config.root);
        let shared = Shared::new(config, files, chunk_bytes);
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

    /// A name as the store has it: of a model that is there under the same letters, capital or not, it is the model's
    /// own. Whoever gives a name asks this first, so that no two differ in that alone.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn spelled(&self, name: ModelName) -> Result<ModelName, StoreError> {
        if self.find(&name)?.is_some() {
            return Ok(name);
        }
        Ok(foreign::alike(&self.shared, &name)?.unwrap_or(name))
    }

    /// What a user wrote, as a reference: a name that the store has is that model, whatever a catalogue says. Capital
    /// letters matter only where two names differ in nothing else.
    ///
    /// # Errors
    /// If it is no reference, or the system refuses.
    pub fn resolve(&self, text: &str, catalogue: &Catalogue) -> Result<Reference, StoreError> {
        if let Ok(name) = text.parse::<ModelName>()
            && let Some(reference) = self.known(&name)?
        {
            return Ok(reference);
        }
        let reference = Reference::parse(text, catalogue)?;
        // A repository has several spellings. Whoever names a revision or a file means that one.
        if let Reference::Hub { revision: None, pick: HubPick::Quant(_) | HubPick::Default, .. } = &reference
            && let Some(name) = reference.name()
            && let Some(known) = self.known(&name)?
        {
            return Ok(known);
        }
        Ok(reference)
    }

    /// The reference of a model that is here, whatever its capital letters: where it came from, so that whoever pulls it
    /// again asks there, for the same file of the same revision. Its name is the model's.
    fn known(&self, name: &ModelName) -> Result<Option<Reference>, StoreError> {
        let name = self.spelled(name.clone())?;
        let Some(found) = self.locate(&name)? else { return Ok(None) };
        let source =
            found.manifest.as_ref().and_then(|manifest| manifest.annotations.get(annotation::SOURCE));
        let source = source.and_then(|text| Reference::parse(text, &Catalogue::default()).ok());
        // A copy under another name is not what it was copied from.
        let source = source.filter(|source| source.name().as_ref() == Some(&name));
        if let Some(source @ (Reference::Hub { .. } | Reference::Url(_))) = source {
            return Ok(Some(source));
        }
        let weights = found.blobs.iter().find(|blob| blob.media_type == MediaType::Model);
        Ok(Some(Reference::of_name(&name, weights.and_then(|blob| blob.file.as_deref()))))
    }

    /// What is to be loaded for a reference, or `None` if it must be fetched first.
    ///
    /// # Errors
    /// If the model is there and broken, or the system refuses.
    pub fn open_model(&self, reference: &Reference) -> Result<Option<Installed>, StoreError> {
        installed::open(self, reference)
    }

    /// What a model is, in a few words, without opening its weights. `None` if there is no such model; of one whose place
    /// has no such words it is what its file's name tells.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn describe(&self, name: &ModelName) -> Result<Option<ModelConfig>, StoreError> {
        let Some(found) = self.locate(name)? else { return Ok(None) };
        let config = found.blobs.iter().find(|blob| blob.media_type == MediaType::Config);
        let Some(blob) = config else {
            let file = found.blobs.first().and_then(|blob| blob.file.as_deref());
            let file_type = file.and_then(crate::file_name::quant).unwrap_or_default();
            return Ok(Some(ModelConfig {
                model_format: "gguf".into(),
                file_type,
                ..ModelConfig::default()
            }));
        };
        let bytes = read_blob(&self.shared, &blob.path, blob.size, blob.digest)?;
        Ok(Some(ModelConfig::parse(&bytes).unwrap_or_default()))
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

    /// The file of a blob, in our store or a shared one. It is not read: [`Self::verify`] does that. One that was found
    /// to be damaged counts as absent: whoever stages it anew replaces it.
    ///
    /// # Errors
    /// None so far; the system's refusal counts as absence.
    pub fn blob(&self, digest: &Digest) -> Result<Option<PathBuf>, StoreError> {
        Ok(self.unmarked(digest, None))
    }

    fn unmarked(&self, digest: &Digest, size: Option<u64>) -> Option<PathBuf> {
        let path = self.shared.kept_blob(digest, size)?;
        (!sums::is_marked(&*self.shared.files, &path)).then_some(path)
    }

    /// The same, and the session keeps the blob from being removed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pin(&self, digest: &Digest, size: Option<u64>) -> Result<Option<PathBuf>, StoreError> {
        if self.unmarked(digest, size).is_none() {
            return Ok(None);
        }
        self.shared
            .make_folders()
            .and_then(|()| self.pins.pin(&self.shared, digest))
            .map_err(|e| e.needing(0))?;
        // It may have gone before it was pinned.
        Ok(self.unmarked(digest, size))
    }

    /// Whether a blob is there with the right content, which is read unless this process has verified it before; the
    /// session keeps it then. Whoever finds that it is not stages it anew, which repairs it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn holds(&self, digest: &Digest, size: Option<u64>) -> Result<bool, StoreError> {
        let Some(path) = self.pin(digest, size)? else { return Ok(false) };
        if self.shared.is_verified(digest) {
            return Ok(true);
        }
        let is_right = self.is_content(&path, digest);
        if is_right {
            self.shared.note_verified(digest);
        }
        Ok(is_right)
    }

    /// Whether a blob is there and, as far as a few of its chunks tell, what it was; the session keeps it then. One that
    /// no manifest names is read as a whole before it gets a name.
    pub(crate) fn seems_whole(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        let Some(path) = self.pin(digest, Some(size))? else { return Ok(false) };
        let files = &*self.shared.files;
        if sums::check_some(files, &path).is_err() {
            self.shared.forget_verified(digest);
            return Ok(false);
        }
        Ok(true)
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
        let needed = expect.size.unwrap_or(0);
        self.begin(expect).map_err(|error| error.needing(needed))
    }

    fn begin(&self, expect: Expect) -> Result<Staged, StoreError> {
        self.shared.make_folders()?;
        if self.shared.is_to_collect() {
            crate::prune::collect(&self.shared)?;
        }
        if let Some(digest) = &expect.digest {
            self.pins.release(digest);
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
    /// If the manifest could not be read again ([`StoreError::Unfit`]), a blob is missing, has another size or another
    /// content, or the system refuses. The name then means what it meant before.
    pub fn publish(&self, name: &ModelName, manifest: &Manifest) -> Result<Published, StoreError> {
        self.publish_over(name, manifest, &|_| true)
    }

    /// The same, if the name means what whoever publishes knows of: in our own store the manifest of this digest (see
    /// [`Self::named`]), or nothing. It is compared while nobody else can name anything.
    ///
    /// # Errors
    /// [`StoreError::NameChanged`] if it means something else; or as of [`Self::publish`].
    pub fn publish_if(
        &self,
        name: &ModelName,
        manifest: &Manifest,
        expected: Option<Digest>,
    ) -> Result<Published, StoreError> {
        self.publish_over(name, manifest, &|found| found == expected)
    }

    /// The digest of what stands on disk for a name in our own store, whether it can be used or not.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn named(&self, name: &ModelName) -> Result<Option<Digest>, StoreError> {
        let bytes = self.shared.read_manifest_bytes(self.shared.root(), name)?;
        Ok(bytes.map(|bytes| Digest::of(&bytes)))
    }

    fn publish_over(
        &self,
        name: &ModelName,
        manifest: &Manifest,
        is_expected: &dyn Fn(Option<Digest>) -> bool,
    ) -> Result<Published, StoreError> {
        manifest.check(name)?;
        let bytes = manifest.to_bytes();
        let named = self.name(name, manifest, &bytes, is_expected);
        named.map_err(|error| error.needing(bytes.len() as u64))
    }

    fn name(
        &self,
        name: &ModelName,
        manifest: &Manifest,
        bytes: &[u8],
        is_expected: &dyn Fn(Option<Digest>) -> bool,
    ) -> Result<Published, StoreError> {
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
        let staged = self.stage_bytes(bytes)?;
        let _names = self.shared.lock_names(Mode::Exclusive)?;
        manifest.blobs().try_for_each(|layer| self.present(layer).map(drop))?;
        // Blobs that others have put there may not be durable yet.
        self.shared.sync_dir(&self.shared.blobs())?;
        let digest = Digest::of(bytes);
        let before = self.named(name)?;
        if !is_expected(before) {
            return Err(StoreError::NameChanged { name: Box::new(name.clone()) });
        }
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
            sums::mark(&self.shared, path, true);
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
        self.settle(name)
    }

    /// Makes a name durable: its folder, and those above it, which a process that is dead may have made.
    fn settle(&self, name: &ModelName) -> Result<(), StoreError> {
        let path = self.shared.manifests().join(name.path());
        let above = path.ancestors().skip(1).take_while(|folder| *folder != self.shared.root());
        above.into_iter().try_for_each(|folder| self.shared.sync_dir(folder))
    }

    /// Makes a model durable that another process may have named a moment before it died.
    pub(crate) fn settle_model(&self, name: &ModelName) -> Result<(), StoreError> {
        self.shared.make_folders()?;
        self.shared.sync_dir(&self.shared.blobs())?;
        self.settle(name)
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
    if size > TEXT_BYTES_MAX {
        return Err(StoreError::TooLarge {
            what: path.display().to_string(),
            found: size,
            max: TEXT_BYTES_MAX,
        });
    }
    let file = shared.files.open(path).tried("read", path)?;
    let bytes = read_all(&*file, TEXT_BYTES_MAX).tried("read", path)?;
    match (digest, Digest::of(&bytes)) {
        (Some(expected), found) if expected != found => {
            sums::mark(shared, path, true);
            Err(StoreError::WrongContent { expected, found })
        }
        _ => Ok(bytes),
    }
}
