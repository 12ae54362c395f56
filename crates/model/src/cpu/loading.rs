//! Weights on their way into memory, while steps already run.
//!
//! A thread of its own repacks the layers in the order in which a step needs them. A step that comes to a layer which
//! is not there yet waits for it, holding nothing that loading needs: not the pool, on which both take turns. Where the
//! processor is what both need, as with a file in the page cache, the first answer comes no earlier than if it had waited
//! for all weights; it is taken earlier.
//!
//! Weights are held once: the file is read through a few small buffers, and memory for all matrices is taken, untouched,
//! before anything is packed, so that a lack of it is known at once. With the 4.92 GB of an 8B Q4_K_M model, 4.72 GB
//! of anonymous memory are held after the first token.
//!
//! When all is well the thread ends with the last matrix. It ends early, within one piece of a tensor, when the
//! executor goes, and on a panic; whoever waits then, or comes later, gets an error.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use ingle_gguf::{GgufFile, TensorInfo};
use ingle_kernels::{Matrix, Packing, Pool};
use ingle_step::ExecutorError;

use super::{LoadedLayer, LoadedNorm};
use crate::error::ModelError;
use crate::graph::{Graph, Weight};
use crate::weights::Loader;

/// How far a model's weights are. Clones are the same model's, and keep what is loaded in memory.
#[derive(Clone, Debug)]
pub struct Loading(Arc<Shared>);

/// What is loaded so far, and how far that is.
#[derive(Debug)]
struct Shared {
    layers: Box<[OnceLock<LoadedLayer>]>,
    last: OnceLock<LastLayer>,
    state: Mutex<State>,
    /// Signalled with every change of `state`.
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    done_bytes: u64,
    total_bytes: u64,
    /// Set when no more comes: whether all is there, or why not.
    end: Option<Result<(), String>>,
}

/// From the residual stream to logits.
#[derive(Debug)]
pub(super) struct LastLayer {
    pub output_norm: LoadedNorm,
    /// `(n_vocab, n_embd)`
    pub head: Matrix,
}

/// What is to be loaded.
pub(super) struct Plan {
    pub file: Arc<GgufFile>,
    pub pool: Arc<Pool>,
    pub graph: Graph,
    pub head: Weight,
    /// Memory for every matrix, by name.
    pub packings: HashMap<String, Packing>,
    /// The matrices in the order of use.
    pub order: Vec<TensorInfo>,
    pub total_bytes: u64,
}

/// The thread that loads; dropping it ends loading.
#[derive(Debug)]
pub(super) struct Background {
    loading: Loading,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts to load.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] if the system refuses a thread.
    pub fn start(plan: Plan) -> Result<Self, ModelError> {
        let loading = Loading(Arc::new(Shared {
            layers: plan.graph.layers.iter().map(|_| OnceLock::new()).collect(),
            last: OnceLock::new(),
            state: Mutex::new(State { done_bytes: 0, total_bytes: plan.total_bytes, end: None }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        }));
        let shared = Arc::clone(&loading.0);
        let thread = std::thread::Builder::new()
            .name("ingle-loading".into())
            .spawn(move || {
                let end = catch_unwind(AssertUnwindSafe(|| shared.load(plan)));
                shared.end(match end {
                    Ok(end) => end.map_err(|error| error.to_string()),
                    Err(_) => Err("repacking panicked: load the model again".into()),
                });
            })
            .map_err(|error| {
                ModelError::Interrupted(format!("the system refuses a thread to load with: {error}"))
            })?;
        Ok(Self { loading, thread: Some(thread) })
    }

    pub fn loading(&self) -> &Loading {
        &self.loading
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.loading.stop();
        if let Some(thread) = self.thread.take() {
            // It has caught what could panic.
            let _ = thread.join();
        }
    }
}

impl Loading {
    /// Bytes of the file that are taken in, and all there are.
    pub fn progress(&self) -> (u64, u64) {
        let state = self.0.state();
        (state.done_bytes, state.total_bytes)
    }

    /// Whether all weights are there.
    pub fn is_complete(&self) -> bool {
        self.0.state().end == Some(Ok(()))
    }

    /// Waits until all weights are there and tells how far they are: `progress(done, total)`, the last time with
    /// both equal.
    ///
    /// # Errors
    /// If loading ended early.
    pub fn wait(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), ModelError> {
        let mut told = None;
        let mut state = self.0.state();
        loop {
            let (now, end) = ((state.done_bytes, state.total_bytes), state.end.clone());
            drop(state);
            // Without the lock: whoever is told may take its time.
            if told != Some(now) {
                progress(now.0, now.1);
                told = Some(now);
            }
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(ModelError::Interrupted(why)),
                None => {}
            }
            let unchanged = |state: &mut State| state.done_bytes == now.0 && state.end.is_none();
            let guard = self.0.changed.wait_while(self.0.state(), unchanged);
            state = guard.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends loading early, if it has not ended. Steps that wait for weights fail.
    pub fn stop(&self) {
        self.0.stop.store(true, Relaxed);
    }

    /// A layer, as soon as it is there.
    pub(super) fn layer(&self, layer_idx: usize) -> Result<&LoadedLayer, ExecutorError> {
        self.0.wait_for(&self.0.layers[layer_idx])
    }

    /// What comes after the layers, as soon as it is there.
    pub(super) fn last(&self) -> Result<&LastLayer, ExecutorError> {
        self.0.wait_for(&self.0.last)
    }

    /// The head, if it is there already.
    pub(super) fn head(&self) -> Option<&Matrix> {
        self.0.last.get().map(|last| &last.head)
    }
}

impl Shared {
    fn load(&self, plan: Plan) -> Result<(), ModelError> {
        let mut progress = |n_bytes: u64| {
            self.state().done_bytes += n_bytes;
            self.changed.notify_all();
            !self.stop.load(Relaxed)
        };
        let mut loader = Loader::new(&plan.file, &plan.pool, &mut progress, plan.packings, plan.order)?;
        for (slot, layer) in self.layers.iter().zip(&plan.graph.layers) {
            let set = slot.set(LoadedLayer::load(&mut loader, layer)?);
            set.expect("each layer is loaded once");
            self.notify();
        }
        let output_norm = LoadedNorm::load(&mut loader, &plan.graph.output_norm)?;
        let last = LastLayer { output_norm, head: loader.matrix(&plan.head)? };
        self.last.set(last).expect("the last layer is loaded once");
        Ok(())
    }

    fn end(&self, end: Result<(), String>) {
        let mut state = self.state();
        if end.is_ok() {
            // An embedding table that stays in the file counts as done.
            state.done_bytes = state.total_bytes;
        }
        state.end = Some(end);
        self.changed.notify_all();
    }

    fn wait_for<'a, T>(&self, slot: &'a OnceLock<T>) -> Result<&'a T, ExecutorError> {
        if let Some(there) = slot.get() {
            return Ok(there);
        }
        let missing = |state: &mut State| slot.get().is_none() && state.end.is_none();
        let state = self.changed.wait_while(self.state(), missing);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        slot.get().ok_or_else(|| {
            let why = state.end.as_ref().and_then(|end| end.as_ref().err());
            ExecutorError::Unusable(format!(
                "its weights were not loaded: {}",
                why.map_or("", String::as_str)
            ))
        })
    }

    /// Through the lock: whoever has looked at a slot has seen what is in it or waits by now.
    fn notify(&self) {
        drop(self.state());
        self.changed.notify_all();
    }

    /// No data under this lock can be left half-changed, so a panic elsewhere does not matter.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
