//! Adapters in memory.
//!
//! Whoever holds an [`AdapterLease`] keeps an adapter's weights in memory: whoever loaded it, until it is unloaded, and
//! each request that uses it, until that ends. The registry, which the executor shares, only knows where they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ingle_gguf::TensorType;
use ingle_kernels::{Matrix, Pool};
use ingle_step::AdapterId;

use super::{AdapterError, AdapterFile, Base, LowRank, Part, Target};

/// The adapters of one model. Clones are the same model's.
#[derive(Clone, Debug)]
pub struct Adapters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    base: Base,
    pool: Arc<Pool>,
    next: AtomicU64,
    held: Mutex<BTreeMap<AdapterId, Weak<LoadedAdapter>>>,
}

/// A claim on an adapter's weights: they are in memory as long as it, or a clone, is there.
#[derive(Clone, Debug)]
pub struct AdapterLease {
    adapter: Arc<LoadedAdapter>,
}

/// An adapter, ready to be added.
#[derive(Debug)]
pub(crate) struct LoadedAdapter {
    pub id: AdapterId,
    pub embedding: Option<EmbeddingDelta>,
    /// One per layer, in the order of [`Part`].
    pub layers: Vec<[Option<Delta>; Part::COUNT]>,
    pub head: Option<Delta>,
}

/// What is added to one matrix's products.
#[derive(Debug)]
pub(crate) struct Delta {
    /// `(rank, n_in)`
    pub a: Matrix,
    /// `(n_out, rank)`
    pub b: Matrix,
    pub scale: f32,
}

/// What is added to the embeddings of tokens.
#[derive(Debug)]
pub(crate) struct EmbeddingDelta {
    /// `(n_vocab, rank)`
    pub a: Vec<f32>,
    /// `(n_embd, rank)`
    pub b: Matrix,
    pub scale: f32,
}

impl Adapters {
    pub(crate) fn new(base: Base, pool: Arc<Pool>) -> Self {
        let held = Mutex::new(BTreeMap::new());
        Self(Arc::new(Shared { base, pool, next: AtomicU64::new(1), held }))
    }

    /// Reads an adapter of this model: a GGUF file, a folder of PEFT's, or the `.safetensors` file in one.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, is for another model, or needs what is not computed here.
    pub fn read(&self, path: &Path) -> Result<AdapterFile, AdapterError> {
        AdapterFile::open(path, &self.0.base)
    }

    /// Takes an adapter into memory. It can be used by steps from then on, and until the last lease is gone.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn load(&self, file: &AdapterFile) -> Result<AdapterLease, AdapterError> {
        let Shared { base, pool, next, .. } = &*self.0;
        let mut adapter = LoadedAdapter {
            id: AdapterId(next.fetch_add(1, Relaxed)),
            embedding: None,
            layers: base.graph.layers.iter().map(|_| Default::default()).collect(),
            head: None,
        };
        for part in &file.parts {
            match part.target {
                Target::Embedding => {
                    let b = matrix(part, &part.b, part.rank, pool)?;
                    adapter.embedding = Some(EmbeddingDelta { a: part.a.clone(), b, scale: part.scale });
                }
                Target::Layer(layer_idx, at) => {
                    adapter.layers[layer_idx][at as usize] = Some(Delta::new(part, pool)?);
                }
                Target::Head => adapter.head = Some(Delta::new(part, pool)?),
            }
        }
        let adapter = Arc::new(adapter);
        let mut held = self.held();
        held.retain(|_, adapter| adapter.strong_count() > 0);
        held.insert(adapter.id, Arc::downgrade(&adapter));
        Ok(AdapterLease { adapter })
    }

    /// Bytes of all adapters in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.held().values().filter_map(Weak::upgrade).map(|adapter| adapter.memory_bytes()).sum()
    }

    /// An adapter that somebody has a lease of.
    pub(crate) fn get(&self, id: AdapterId) -> Option<Arc<LoadedAdapter>> {
        self.held().get(&id)?.upgrade()
    }

    /// No data under this lock can be left half-changed, so a panic elsewhere does not matter.
    fn held(&self) -> MutexGuard<'_, BTreeMap<AdapterId, Weak<LoadedAdapter>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdapterLease {
    /// What steps call it.
    pub fn id(&self) -> AdapterId {
        self.adapter.id
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.adapter.memory_bytes()
    }
}

impl LoadedAdapter {
    /// What is added to a matrix of a layer, if anything.
    pub fn delta(&self, layer_idx: usize, part: Part) -> Option<&Delta> {
        self.layers[layer_idx][part as usize].as_ref()
    }

    fn memory_bytes(&self) -> u64 {
        let deltas = self.layers.iter().flatten().chain([&self.head]).flatten();
        let matrices: usize = deltas.map(|delta| delta.a.memory_bytes() + delta.b.memory_bytes()).sum();
        let table = self.embedding.as_ref().map_or(0, |e| size_of_val(&e.a[..]) + e.b.memory_bytes());
        (matrices + table) as u64
    }
}

impl Delta {
    fn new(part: &LowRank, pool: &Pool) -> Result<Self, AdapterError> {
        let a = matrix(part, &part.a, part.a.len() / part.rank, pool)?;
        Ok(Self { a, b: matrix(part, &part.b, part.rank, pool)?, scale: part.scale })
    }
}

/// Rows of floats as a matrix.
fn matrix(part: &LowRank, rows: &[f32], n_cols: usize, pool: &Pool) -> Result<Matrix, AdapterError> {
    let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
    Matrix::from_gguf(TensorType::F32, rows.len() / n_cols, n_cols, &bytes, pool)
        .map_err(|error| AdapterError::Memory { name: part.name.clone(), what: error.to_string() })
}
