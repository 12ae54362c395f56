//! What commands do to a store, small enough to be stopped at each of their operations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ingle_store::files::Files;
use ingle_store::{Digest, Expect, Layer, Manifest, MediaType, ModelName, Store, StoreConfig, StoreError};

/// The size of a chunk here; what a transfer loses at most.
pub const CHUNK_BYTES: u64 = 1024;

/// Something that a command does.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Context) -> Result<(), StoreError>,
    /// The only name whose meaning it may change.
    pub target: Option<&'static str>,
}

/// Where it does it.
pub struct Context {
    pub store: Store,
    pub root: PathBuf,
    /// Bytes that came from elsewhere.
    pub fetched: AtomicU64,
}

pub const ALL: &[Scenario] = &[
    Scenario { name: "pull", run: pull, target: Some("new:1") },
    Scenario { name: "pull-over", run: pull_over, target: Some("old:1") },
    Scenario { name: "create", run: create, target: Some("made:1") },
    Scenario { name: "copy", run: copy, target: Some("copied:1") },
    Scenario { name: "remove", run: remove, target: Some("old:2") },
    Scenario { name: "import", run: crate::bundles::new, target: Some("imported:1") },
    Scenario { name: "import-over", run: crate::bundles::over, target: Some("old:1") },
    Scenario { name: "prune", run: prune, target: None },
];

pub fn scenario(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).expect("a scenario of this name")
}

impl Context {
    pub fn new(root: &Path, files: Arc<dyn Files>) -> Self {
        let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
        let store = Store::with_chunks(config, files, CHUNK_BYTES).expect("it has a folder");
        Self { store, root: root.to_owned(), fetched: AtomicU64::new(0) }
    }
}

/// A temporary folder in memory, if there is one: a kill loses nothing of what was written, so that memory does as well
/// as a disk, and syncs cost nothing there.
pub fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary folder")
}

/// Bytes that only `seed` has.
pub fn content(seed: &str, n_bytes: usize) -> Vec<u8> {
    seed.bytes().cycle().enumerate().map(|(i, byte)| byte ^ (i / 7) as u8).take(n_bytes).collect()
}

/// The file that `create` takes in.
pub fn source(root: &Path) -> (PathBuf, Vec<u8>) {
    (root.join("source.gguf"), content("source", 3000))
}

pub fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// The models that are there before: two that share a licence, and blobs that nobody has.
pub fn prepare(root: &Path, files: Arc<dyn Files>) -> Result<(), StoreError> {
    let context = Context::new(root, files);
    let store = context.store.session();
    for (model, seed) in [("old:1", "one"), ("old:2", "two")] {
        publish(&store, model, &content(seed, 1500), b"the licence of both")?;
    }
    store.put_bytes(b"nobody has this")?;
    // A transfer that was cut.
    let bytes = content("cut", 2500);
    let expect = Expect { digest: Some(Digest::of(&bytes)), size: Some(2500), source: None };
    store.stage(expect)?.write_at(0, &bytes[..1100])
}

fn layer(media_type: MediaType, bytes: &[u8]) -> Layer {
    Layer::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn publish(store: &Store, model: &str, weights: &[u8], licence: &[u8]) -> Result<(), StoreError> {
    let config = format!("{{\"model_format\":\"gguf\",\"model_type\":\"{model}\"}}");
    for bytes in [weights, licence, config.as_bytes()] {
        store.put_bytes(bytes)?;
    }
    let layers = vec![layer(MediaType::Model, weights), layer(MediaType::License, licence)];
    store.publish(&name(model), &Manifest::new(layer(MediaType::Config, config.as_bytes()), layers)).map(drop)
}

/// A blob from elsewhere, taken up where it was left.
fn fetch(context: &Context, store: &Store, bytes: &[u8]) -> Result<(), StoreError> {
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    if store.pin(&digest, Some(size))?.is_some() {
        return Ok(());
    }
    let staged = store.stage(Expect { digest: Some(digest), size: Some(size), source: None })?;
    for range in staged.journal().missing() {
        // In two pieces, as a network gives them.
        let middle = (range.start + range.end) / 2;
        for piece in [range.start..middle, middle..range.end] {
            context.fetched.fetch_add(piece.end - piece.start, Ordering::Relaxed);
            staged.write_at(piece.start, &bytes[piece.start as usize..piece.end as usize])?;
        }
    }
    staged.commit().map(drop)
}

fn pull(context: &Context) -> Result<(), StoreError> {
    let store = context.store.session();
    for seed in ["part one", "part two"] {
        fetch(context, &store, &content(seed, 2500))?;
    }
    let config = b"{\"model_format\":\"gguf\"}";
    store.put_bytes(config)?;
    let parts =
        ["part one", "part two"].map(|seed| layer(MediaType::Model, &content(seed, 2500)).with_file(seed));
    store.publish(&name("new:1"), &Manifest::new(layer(MediaType::Config, config), parts.into())).map(drop)
}

fn pull_over(context: &Context) -> Result<(), StoreError> {
    let store = context.store.session();
    fetch(context, &store, &content("a newer one", 2500))?;
    publish(&store, "old:1", &content("a newer one", 2500), b"the licence of both")
}

fn create(context: &Context) -> Result<(), StoreError> {
    let store = context.store.session();
    let (path, bytes) = source(&context.root);
    let (digest, size) = store.put_file(&path, &mut |_, _| ())?;
    assert_eq!((digest, size), (Digest::of(&bytes), bytes.len() as u64));
    publish(&store, "made:1", &bytes, b"the licence of both")
}

fn copy(context: &Context) -> Result<(), StoreError> {
    context.store.session().copy(&name("old:1"), &name("copied:1")).map(drop)
}

fn remove(context: &Context) -> Result<(), StoreError> {
    match context.store.session().remove(&name("old:2")) {
        // What was stopped before may have come that far.
        Err(StoreError::NotFound(_)) => Ok(()),
        done => done.map(drop),
    }
}

fn prune(context: &Context) -> Result<(), StoreError> {
    let pruned = context.store.session().prune(false)?;
    // Without a fault everything can be read.
    match pruned.unreadable.into_iter().next() {
        Some((name, why)) => Err(StoreError::Broken { name: Box::new(name), why }),
        None => Ok(()),
    }
}
