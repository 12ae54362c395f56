//! What a store is told, and what it tells.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::{Digest, ModelName};

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
    /// The digest of its manifest; `None` of one that cannot be read.
    pub digest: Option<Digest>,
    /// Bytes of its blobs, each counted once; `None` where no manifest tells them and the files are gone.
    pub size: Option<u64>,
    /// When it was put there; `None` where nothing tells.
    pub modified: Option<SystemTime>,
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
