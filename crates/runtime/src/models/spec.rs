//! What can be said about a model, and about all of them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ingle_chat::{KeepAlive, ModelInfo};

use crate::load::{LoadError, LoadOptions, Source};

/// The most models of a catalogue.
pub(super) const MODELS_MAX: usize = 1024;
/// The largest weight.
pub(super) const WEIGHT_MAX: u32 = 1000;

/// A model of a catalogue.
#[derive(Clone, Debug, Default)]
pub struct ModelSpec {
    /// The name that requests use.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// How it is loaded. Its name is the spec's; the threads are those of [`ModelsConfig`].
    pub options: LoadOptions,
    /// How long it stays after its last request; `None` is as configured for all.
    pub keep_alive: Option<KeepAlive>,
    /// It stays once it is loaded, whatever others need.
    pub is_pinned: bool,
    /// It is loaded from the beginning.
    pub is_preloaded: bool,
    /// Whether it may be in the catalogue though its file cannot be used.
    pub is_optional: bool,
    /// Of a model that a [`ModelFinder`] found: which version of it; a catalogue's own models have none.
    pub version: Option<String>,
}

/// Finds models that no catalogue names, as those of a store that come and go.
pub trait ModelFinder: Send + Sync {
    /// The model that a name means now, with its own name and its version. It is asked with each request, and must be
    /// quick: it opens no model.
    ///
    /// # Errors
    /// Why a model of that name cannot be used, in words that name no file of this machine.
    fn find(&self, name: &str) -> Result<Option<ModelSpec>, String>;

    /// All models that there are, with what is known of them without opening them.
    fn list(&self) -> Vec<ModelInfo>;
}

/// What a request finds that asks for a model which is not loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissing {
    /// The model is loaded, and the request waits.
    #[default]
    Wait,
    /// The model is loaded, and the request is told to come back.
    Refuse,
    /// The request is refused: only operators load models.
    Never,
}

impl OnMissing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Wait, Self::Refuse, Self::Never];

    /// The name that settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Refuse => "refuse",
            Self::Never => "never",
        }
    }
}

/// Why a model left memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// Nobody asked for it for as long as it was kept.
    Expired,
    /// Others needed its memory.
    Evicted,
    /// An operator said so.
    Asked,
    /// The same model, loaded anew, took its place.
    Replaced,
    /// Its thread had ended.
    Died,
}

impl fmt::Display for Unloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "nobody asked for it",
            Self::Evicted => "another model needs its memory",
            Self::Asked => "it was asked to go",
            Self::Replaced => "a new one takes its place",
            Self::Died => "its thread had ended",
        })
    }
}

/// What happened to a model, for logs.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// It begins to load into so many bytes.
    Loading {
        /// Bytes that it gets.
        bytes: u64,
    },
    /// It answers requests.
    Loaded {
        /// Since it was asked for.
        took: Duration,
        /// Its fingerprint.
        fingerprint: String,
    },
    /// It is loaded, and its user should know this about it.
    Noticed(String),
    /// It takes no more requests.
    Unloading(Unloaded),
    /// Its memory is given back.
    Unloaded,
    /// Loading it failed; the whole reason, which may name files.
    Failed(String),
}

/// Told what happens.
pub type Listener = Arc<dyn Fn(&str, &ModelEvent) + Send + Sync>;

/// What holds for all models.
#[derive(Clone)]
pub struct ModelsConfig {
    /// Bytes that all models together may have: weights, keys and values, and what they compute in.
    pub memory_budget: u64,
    /// How long a model stays after its last request.
    pub keep_alive: KeepAlive,
    /// What requests for models find that are not loaded.
    pub on_missing: OnMissing,
    /// How long a request waits for its model, and a load for memory.
    pub wait_max: Duration,
    /// How many requests wait for models.
    pub waiting_max: usize,
    /// How long a load waits for busy models before these take no more requests.
    pub drain_after: Duration,
    /// How long a failed load is not tried again.
    pub retry_after: Duration,
    /// Threads that compute, for all models together. Default: all cores.
    pub n_threads: Option<usize>,
    /// Finds models that are not in the catalogue.
    pub finder: Option<Arc<dyn ModelFinder>>,
    /// Told what happens, on the thread where it does.
    pub listener: Option<Listener>,
}

impl ModelsConfig {
    /// Everything at its default, within so many bytes.
    pub fn new(memory_budget: u64) -> Self {
        Self {
            memory_budget,
            keep_alive: KeepAlive::Always,
            on_missing: OnMissing::Wait,
            wait_max: Duration::from_secs(300),
            waiting_max: 256,
            drain_after: Duration::from_secs(2),
            retry_after: Duration::from_secs(10),
            n_threads: None,
            finder: None,
            listener: None,
        }
    }
}

/// Why there is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// There is no model, or too many.
    #[error("a catalogue has 1 to {MODELS_MAX} models, not {0}")]
    Count(usize),
    /// A model has no name, or that of another one.
    #[error("there are two models called `{0}`: give each a name of its own")]
    Name(String),
    /// A setting of a model is out of range.
    #[error("model `{name}`: {problem}")]
    Setting {
        /// The model.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A model cannot be used.
    #[error("model `{name}`: {error}")]
    Model {
        /// The model.
        name: String,
        /// Why.
        error: Box<LoadError>,
    },
    /// A model can never be loaded, or the pinned ones not together.
    #[error("{0}")]
    Memory(String),
    /// The system has no thread.
    #[error("the system refuses a thread to look after models: {0}")]
    Thread(std::io::Error),
}

/// Checks what can be checked without opening a file.
pub(super) fn check(specs: &[ModelSpec], config: &ModelsConfig) -> Result<(), ModelsError> {
    if specs.is_empty() || specs.len() > MODELS_MAX {
        return Err(ModelsError::Count(specs.len()));
    }
    let mut names = BTreeSet::new();
    for spec in specs {
        let setting = |problem: String| Err(ModelsError::Setting { name: spec.name.clone(), problem });
        if spec.name.trim().is_empty() || spec.name.trim() != spec.name {
            return setting("a name is at least a letter, without blanks around it".into());
        }
        if !names.insert(&spec.name) {
            return Err(ModelsError::Name(spec.name.clone()));
        }
        if let Some(weight) = spec.options.weight
            && !(1..=WEIGHT_MAX).contains(&weight)
        {
            return setting(format!("its weight is {weight}; it can be 1 to {WEIGHT_MAX}"));
        }
        if spec.options.n_threads.is_some() && spec.options.n_threads != config.n_threads {
            return setting("all models compute on the same threads; set their number for all".into());
        }
    }
    Ok(())
}

/// `1.2 GB`: bytes for people.
pub(crate) fn human(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}
