//! Taking a bundle into a store.
//!
//! In this order: the index is checked, then its signature, then the names, then whether there is room; each blob is
//! staged chunk by chunk and made a blob when its digest is right; and when the bundle has been read to its end, and
//! only then, the models get their names. An import that was stopped goes on where it was: chunks that it staged are
//! not read again, and blobs that it finished are compared and kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::BundleError;
use super::index::{BundledBlob, BundledModel, Index};
use super::parts::Input;
use super::reader::{Check, Head, Sink, Trust, read_blobs};
use crate::staged::hash;
use crate::{Digest, Expect, Manifest, ModelName, Origin, Staged, Store, StoreError};

/// How long to wait before looking again whether somebody else has taken a blob in.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// What an import may do.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Whose bundles are taken.
    pub trust: Trust,
    /// Whether models of the same name with other contents make way.
    pub replace: bool,
}

/// What an import means for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its name.
    pub name: ModelName,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// What happens to it.
    pub outcome: Outcome,
}

/// What happens to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none of this name.
    New,
    /// It is here already, with the same contents.
    Unchanged,
    /// It takes the place of one with other contents.
    Replaced,
}

/// What an import has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The models, in the order of their names.
    pub models: Vec<Arrival>,
    /// Blobs that were not here before.
    pub blobs_new: usize,
    /// Their bytes.
    pub bytes_new: u64,
    /// Blobs that were here before, and are sound.
    pub blobs_present: usize,
    /// Bytes that an earlier import of the same blobs had staged.
    pub bytes_resumed: u64,
}

/// What an import would do to each model.
///
/// # Errors
/// The store cannot be read.
pub fn arrivals(store: &Store, index: &Index) -> Result<Vec<Arrival>, BundleError> {
    let arrival = |model: &BundledModel| {
        Ok(Arrival {
            name: model.name.clone(),
            digest: model.manifest.digest(),
            bytes: model.size(),
            outcome: outcome(store, model)?,
        })
    };
    index.models.iter().map(arrival).collect()
}

fn outcome(store: &Store, model: &BundledModel) -> Result<Outcome, BundleError> {
    for (origin, root) in store.shared.roots() {
        let here = match store.shared.read_manifest(root, &model.name) {
            Ok(Some((here, _))) => here,
            Ok(None) => continue,
            // What cannot be used is no loss.
            Err(StoreError::Manifest { .. }) => return Ok(Outcome::New),
            Err(error) => return Err(error.into()),
        };
        return Ok(match is_same(&here, &model.manifest) {
            false => Outcome::Replaced,
            // Ollama may remove it at any time: it is not ours before it stands in our store.
            true if origin == Origin::Ollama => Outcome::New,
            true => Outcome::Unchanged,
        });
    }
    Ok(Outcome::New)
}

/// Whether two manifests are the same model: when it was fetched, and from where, is not part of it.
fn is_same(a: &Manifest, b: &Manifest) -> bool {
    a.blobs()
        .map(|layer| (&layer.media_type, layer.digest))
        .eq(b.blobs().map(|layer| (&layer.media_type, layer.digest)))
}

/// Takes all models of a bundle whose head has been read. `progress` is told how many bytes of the bundle are done, and
/// how many there are.
///
/// # Errors
/// The bundle is not trusted, damaged or against the rules; a name is taken; there is no room; the system refuses. No
/// model is then visible that was not before, but where the system refused while names were given: then those of the
/// models before are there, whole.
pub fn import(
    store: &Store,
    input: &mut dyn Input,
    head: &Head,
    options: &ImportOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Imported, BundleError> {
    // What this import takes in is kept from being collected until its models have names.
    let store = store.session();
    check_arrivals(&store, head, options)?;
    store.shared.make_folders()?;
    check_space(&store, &head.index)?;
    let mut intake = Intake {
        store: &store,
        blob: Taking::Present(Check::default()),
        new: BTreeSet::new(),
        done: Imported::default(),
    };
    read_blobs(input, head, &mut intake, progress)?;
    let Intake { new, done, .. } = intake;
    // Hours may have passed since the names were looked at.
    let places = check_arrivals(&store, head, options)?;
    for (model, place) in head.index.models.iter().zip(&places) {
        give_name(&store, model, place, &new)?;
    }
    Ok(Imported { models: places.into_iter().map(|place| place.arrival).collect(), ..done })
}

/// Gives a model its name, all of whose blobs are there.
fn give_name(
    store: &Store,
    model: &BundledModel,
    place: &Place,
    new: &BTreeSet<Digest>,
) -> Result<(), BundleError> {
    let kept = match place.arrival.outcome {
        Outcome::New | Outcome::Replaced => None,
        // It stays as it is. It may be there since an import that was stopped, and not be durable yet.
        Outcome::Unchanged => match store.shared.read_manifest(&store.config().root, &model.name)? {
            Some((here, _)) => Some(here),
            // A shared store lacked some of it, or had it damaged: what came is kept by a name of ours.
            None if model.manifest.blobs().any(|layer| new.contains(&layer.digest)) => None,
            None => return Ok(()),
        },
    };
    publish_if(store, &model.name, kept.as_ref().unwrap_or(&model.manifest), place.holder)
}

/// Publishes a model where its name means what it meant when it was looked at.
fn publish_if(
    store: &Store,
    name: &ModelName,
    manifest: &Manifest,
    expected: Option<Digest>,
) -> Result<(), BundleError> {
    match store.publish_if(name, manifest, expected) {
        Err(StoreError::NameChanged { .. }) => Err(BundleError::Exists(vec![name.to_string()])),
        published => Ok(published.map(drop)?),
    }
}

/// Whether a bundle whose head has been read would be taken, as far as that can be told without its blobs.
///
/// # Errors
/// It is not trusted; a name is taken; there is no room; the store cannot be read.
pub fn admit(store: &Store, head: &Head, options: &ImportOptions) -> Result<(), BundleError> {
    check_arrivals(store, head, options)?;
    check_space(store, &head.index)
}

/// Where a model of a bundle goes.
struct Place {
    arrival: Arrival,
    /// What has its name in our own store; nothing else may make way for it.
    holder: Option<Digest>,
}

fn check_arrivals(store: &Store, head: &Head, options: &ImportOptions) -> Result<Vec<Place>, BundleError> {
    options.trust.check(head.signed_by.as_ref())?;
    // Looked at before their contents are: what takes a name between the two is not what was expected.
    let holders = head.index.models.iter().map(|model| store.named(&model.name));
    let holders = holders.collect::<Result<Vec<_>, _>>()?;
    let models = arrivals(store, &head.index)?;
    let taken = models.iter().filter(|model| model.outcome == Outcome::Replaced);
    let taken: Vec<String> = taken.map(|model| model.name.to_string()).collect();
    if !options.replace && !taken.is_empty() {
        return Err(BundleError::Exists(taken));
    }
    Ok(models.into_iter().zip(holders).map(|(arrival, holder)| Place { arrival, holder }).collect())
}

/// Refuses what has no room before anything is written. What is staged already needs none.
fn check_space(store: &Store, index: &Index) -> Result<(), BundleError> {
    let shared = &store.shared;
    let needed = |blob: &BundledBlob| {
        if shared.kept_blob(&blob.digest, Some(blob.size)).is_some() {
            return 0;
        }
        blob.size.saturating_sub(shared.staged_bytes(&blob.digest))
    };
    let needed = index.blobs.iter().map(needed).fold(0, u64::saturating_add);
    Ok(shared.check_space(needed)?)
}

/// Blobs on their way into a store.
struct Intake<'a> {
    store: &'a Store,
    blob: Taking,
    /// Blobs that were not here before.
    new: BTreeSet<Digest>,
    done: Imported,
}

enum Taking {
    /// It is here; the bundle's is only checked.
    Present(Check),
    /// It comes.
    Staged { file: Box<Staged>, held: Vec<bool> },
}

impl Intake<'_> {
    /// Whether the store has a blob, and its content is what its name says.
    fn is_present(&self, blob: &BundledBlob) -> Result<bool, BundleError> {
        let shared = &self.store.shared;
        // What stands in Ollama's store alone is not kept by a name of ours: it comes from the bundle.
        let Some(path) = shared.kept_blob(&blob.digest, Some(blob.size)) else { return Ok(false) };
        let found = shared.files.open(&path).and_then(|file| hash(&*file, blob.size, &mut |_| ()));
        // One that is damaged, or cannot be read, is replaced; and one may go before it is kept.
        let is_sound = found.is_ok_and(|found| found == blob.digest);
        Ok(is_sound && self.store.pin(&blob.digest, Some(blob.size))?.is_some())
    }
}

impl Sink for Intake<'_> {
    fn begin(&mut self, blob: &BundledBlob) -> Result<(), BundleError> {
        self.blob = loop {
            if self.is_present(blob)? {
                let mut check = Check::default();
                check.begin(blob)?;
                break Taking::Present(check);
            }
            let expect = Expect { digest: Some(blob.digest), size: Some(blob.size), ..Expect::default() };
            match self.store.stage(expect) {
                Ok(file) => {
                    let held = held(&file, blob);
                    break Taking::Staged { file: Box::new(file), held };
                }
                // Somebody else takes it in. When that has ended it is here, or is taken up where it stopped.
                Err(StoreError::Busy(_)) => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(error.into()),
            }
        };
        Ok(())
    }

    fn has(&self, _: &BundledBlob, chunk: usize) -> bool {
        match &self.blob {
            Taking::Present(_) => false,
            Taking::Staged { held, .. } => held.get(chunk).copied().unwrap_or(false),
        }
    }

    fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BundleError> {
        match &mut self.blob {
            Taking::Present(check) => check.chunk(offset, bytes),
            Taking::Staged { file, .. } => Ok(file.write_at(offset, bytes)?),
        }
    }

    fn end(&mut self, blob: &BundledBlob) -> Result<(), BundleError> {
        match std::mem::replace(&mut self.blob, Taking::Present(Check::default())) {
            Taking::Present(mut check) => {
                check.end(blob)?;
                self.done.blobs_present += 1;
            }
            Taking::Staged { file, held } => {
                let journal = file.journal();
                let resumed = held.iter().zip(0..).filter(|(is_held, _)| **is_held);
                let resumed: u64 = resumed.map(|(_, at)| chunk_bytes(blob, at, journal.chunk_bytes())).sum();
                file.commit().map_err(|error| match error {
                    // Each chunk was what the index says: it is the index that contradicts itself.
                    StoreError::WrongContent { found, .. } => {
                        BundleError::Invalid(format!("blob {} has the digest {found}", blob.digest))
                    }
                    other => other.into(),
                })?;
                self.new.insert(blob.digest);
                self.done.blobs_new += 1;
                self.done.bytes_new += blob.size;
                self.done.bytes_resumed += resumed;
            }
        }
        Ok(())
    }
}

/// Which chunks of a blob an earlier import has staged: those whose hash in the journal is that of the index.
fn held(file: &Staged, blob: &BundledBlob) -> Vec<bool> {
    let journal = file.journal();
    let mut held = vec![false; blob.chunks.len()];
    // With chunks of another size nothing can be compared, and all is read again.
    if blob.size.div_ceil(journal.chunk_bytes()) == blob.chunks.len() as u64 {
        for (at, digest) in journal.chunks() {
            if let Some(chunk) = usize::try_from(at).ok().filter(|at| blob.chunks.get(*at) == Some(&digest)) {
                held[chunk] = true;
            }
        }
    }
    held
}

fn chunk_bytes(blob: &BundledBlob, at: u64, chunk_bytes: u64) -> u64 {
    blob.size.saturating_sub(at * chunk_bytes).min(chunk_bytes)
}
