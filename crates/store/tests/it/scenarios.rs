//! What commands do to a store, small enough to be stopped at each of their operations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ingle_gguf::{GgufWriter, Value};
use ingle_store::bundle::BundleError;
use ingle_store::files::Files;
use ingle_store::modelfile::CreateError;
use ingle_store::pull::PullError;
use ingle_store::{Digest, Expect, Layer, Manifest, MediaType, ModelName, Store, StoreConfig, StoreError};

use crate::{bundles, modelfiles, network};

/// The size of a chunk here; what a transfer loses at most, for each stream.
pub const CHUNK_BYTES: u64 = 1024;

/// Something that a command does.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Context) -> Outcome,
    /// The only name whose meaning it may change.
    pub target: Option<&'static str>,
    /// Whether it asks a hub.
    pub network: bool,
}

/// Where it does it.
pub struct Context {
    pub store: Store,
    pub root: PathBuf,
    /// Where the hub is, for those that ask one.
    pub hub: Option<String>,
    /// Streams of a download.
    pub streams: usize,
    /// Bytes that came from elsewhere; those of a hub are counted there.
    pub fetched: AtomicU64,
}

/// What comes of it.
pub type Outcome = Result<(), Failure>;

/// Why it did not.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    pub is_no_space: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { text: error.to_string(), is_no_space: error.is_no_space() }
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Store(error) => error.into(),
            error => Self { text: error.to_string(), is_no_space: false },
        }
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Store(error) => error.into(),
            error => Self { text: error.to_string(), is_no_space: false },
        }
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Store(error) => (*error).into(),
            error => Self { text: error.to_string(), is_no_space: false },
        }
    }
}

pub const ALL: &[Scenario] = &[
    local("fetch", fetch_parts, Some("new:1")),
    local("fetch-over", fetch_over, Some("old:1")),
    local("create", modelfiles::create, Some("made:1")),
    local("create-over", modelfiles::create_over, Some("old:1")),
    local("copy", copy, Some("copied:1")),
    local("remove", remove, Some("old:2")),
    local("import", bundles::new, Some("imported:1")),
    local("import-over", bundles::over, Some("old:1")),
    local("prune", prune, None),
    remote("pull", network::pull, Some("hf.co:maker:tiny-GGUF:Q4_K_M")),
    remote("pull-update", network::update, Some("hf.co:maker:changed-GGUF:Q4_K_M")),
    remote("pull-parts", network::parts, Some("hf.co:maker:parts-GGUF:Q8_0")),
    remote("pull-registry", network::registry, Some("small:1")),
    remote("pull-url", network::url, Some("here:x-Q4_K_M:latest")),
    remote("push", network::push, Some("here:pushed:1")),
];

type Run = fn(&Context) -> Outcome;

const fn local(name: &'static str, run: Run, target: Option<&'static str>) -> Scenario {
    Scenario { name, run, target, network: false }
}

const fn remote(name: &'static str, run: Run, target: Option<&'static str>) -> Scenario {
    Scenario { name, run, target, network: true }
}

pub fn scenario(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).expect("a scenario of this name")
}

impl Context {
    pub fn new(root: &Path, files: Arc<dyn Files>, hub: Option<&str>) -> Self {
        let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
        let store = Store::with_chunks(config, files, CHUNK_BYTES).expect("it has a folder");
        let (hub, fetched) = (hub.map(str::to_owned), AtomicU64::new(0));
        Self { store, root: root.to_owned(), hub, streams: 1, fetched }
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

/// A model's file with these bytes as its tensor, more or less.
pub fn gguf(seed: &str, n_bytes: usize) -> Vec<u8> {
    let tensor = content(seed, n_bytes.next_multiple_of(4));
    let mut file = GgufWriter::new();
    file.set("general.architecture", Value::from("llama"));
    // Two tensors, so that it can be split.
    for (name, data) in [("token_embd.weight", &tensor), ("output.weight", &tensor)] {
        let half = data[..data.len() / 8 * 4].to_vec();
        file.tensor(name, ingle_gguf::TensorType::F32, &[half.len() as u64 / 4], half);
    }
    file.to_bytes()
}

/// The files that `create` takes in.
pub fn sources(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut adapter = GgufWriter::new();
    adapter.set("general.type", Value::from("adapter")).set("general.architecture", Value::from("llama"));
    adapter.tensor_f32("x", &[4], &[0.5; 4]);
    vec![(root.join("source.gguf"), gguf("source", 3000)), (root.join("adapter.gguf"), adapter.to_bytes())]
}

pub fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// The models that are there before: two that share a licence, and blobs that nobody has.
pub fn prepare(root: &Path, files: Arc<dyn Files>) -> Result<(), StoreError> {
    let context = Context::new(root, files, None);
    let store = context.store.session();
    for (model, seed) in [("old:1", "one"), ("old:2", "two"), ("hf.co/maker/changed-GGUF:Q4_K_M", "three")] {
        publish(&store, model, &gguf(seed, 1500), b"the licence of both")?;
    }
    store.put_bytes(b"nobody has this")?;
    // A transfer that was cut.
    let bytes = content("cut", 2500);
    let expect = Expect { digest: Some(Digest::of(&bytes)), size: Some(2500), source: None };
    store.stage(expect)?.write_at(0, &bytes[..1100])
}

/// How many models are there before.
pub const N_PREPARED: usize = 3;

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

/// What a pull does, but for the network.
fn fetch_parts(context: &Context) -> Outcome {
    let store = context.store.session();
    for seed in ["part one", "part two"] {
        fetch(context, &store, &content(seed, 2500))?;
    }
    let config = b"{\"model_format\":\"gguf\"}";
    store.put_bytes(config)?;
    let parts =
        ["part one", "part two"].map(|seed| layer(MediaType::Model, &content(seed, 2500)).with_file(seed));
    let manifest = Manifest::new(layer(MediaType::Config, config), parts.into());
    store.publish(&name("new:1"), &manifest)?;
    Ok(())
}

fn fetch_over(context: &Context) -> Outcome {
    let store = context.store.session();
    fetch(context, &store, &content("a newer one", 2500))?;
    Ok(publish(&store, "old:1", &content("a newer one", 2500), b"the licence of both")?)
}

fn copy(context: &Context) -> Outcome {
    context.store.session().copy(&name("old:1"), &name("copied:1"))?;
    Ok(())
}

fn remove(context: &Context) -> Outcome {
    match context.store.session().remove(&name("old:2")) {
        // What was stopped before may have come that far.
        Err(StoreError::NotFound(_)) => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

fn prune(context: &Context) -> Outcome {
    let pruned = context.store.session().prune(false)?;
    // Without a fault everything can be read.
    match pruned.unreadable.into_iter().next() {
        Some(found) => Err(StoreError::Path { path: found.path, why: found.why }.into()),
        None => Ok(()),
    }
}
