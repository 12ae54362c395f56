//! Low-rank adapters (LoRA, Hu et al., 2021): files of them, checked against the model that they are for.
//!
//! An adapter adds `alpha / rank · B (A x)` to some of a model's products `W x`, with `A (rank, n_in)` and
//! `B (n_out, rank)`. Two formats are read: GGUF, as llama.cpp's converter writes it, and PEFT's folder of
//! `adapter_config.json` and `adapter_model.safetensors`. Both become the same [`AdapterFile`], so that the same adapter
//! gives the same bits whichever it came from.
//!
//! A file is untrusted. Everything in it is checked against the model before memory is taken for it, and what would
//! change results and is not computed here (DoRA, biases, whole weights) is refused by name.

mod gguf;
mod names;
mod peft;
mod registry;
mod safetensors;

use std::path::{Path, PathBuf};

use ingle_gguf::{GgufError, GgufFile, GgufWriter, TensorType};
use ingle_kernels::Packing;

use crate::error::ModelError;
use crate::graph::{Attention, Ffn, Graph, Head, Weight};
use crate::hparams::HParams;
pub use registry::{AdapterLease, Adapters};
pub(crate) use registry::{Delta, LoadedAdapter};

/// The largest rank that is believed: adapters have 4 to 256.
pub const RANK_MAX: usize = 1024;
/// Architectures whose matrices take adapters.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Why an adapter is not in memory. All variants are the fault of the file, but [`Io`](Self::Io), which is the caller's
/// or the system's, and [`Memory`](Self::Memory), a lack of capacity.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The system does not give us the file.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no GGUF file that can be read, or lacks a key.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It is nothing that could be an adapter.
    #[error("{path} is no adapter: {what}")]
    NoAdapter {
        /// The file or folder.
        path: PathBuf,
        /// What it is instead, and what to give.
        what: String,
    },
    /// Its bytes are not what the format says.
    #[error("{file}: {what}")]
    Malformed {
        /// Which of its files.
        file: &'static str,
        /// What is wrong.
        what: String,
    },
    /// It needs something that is not computed here.
    #[error("`{what}` is not supported: {advice}")]
    Unsupported {
        /// The key or tensor.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// It is for another kind of model.
    #[error(
        "the adapter is for architecture `{adapter}`, the model is `{model}`: load it with the model it was made for"
    )]
    Architecture {
        /// The adapter's.
        adapter: String,
        /// The model's.
        model: String,
    },
    /// The model has nothing of this name.
    #[error("tensor `{name}` adapts nothing in this model: {what}")]
    UnknownTensor {
        /// The tensor.
        name: String,
        /// What there is.
        what: String,
    },
    /// One half of a pair is missing.
    #[error("tensor `{name}` is there without `{missing}`: the file is incomplete")]
    Unpaired {
        /// What is there.
        name: String,
        /// What is not.
        missing: String,
    },
    /// A tensor does not fit the matrix that it adapts.
    #[error(
        "tensor `{name}` has the shape {found:?}, the model needs {expected}: the adapter is for another model"
    )]
    WrongShape {
        /// The tensor.
        name: String,
        /// What it should have, in the order of the file's format.
        expected: String,
        /// What it has.
        found: Vec<u64>,
    },
    /// A number is infinite or none.
    #[error("tensor `{name}` has a value that is not finite: the file is damaged")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The model that it is for cannot be run here.
    #[error("the model that the adapter is for: {0}")]
    Model(Box<ModelError>),
    /// The system has no memory for it.
    #[error("adapter tensor `{name}`: {what}")]
    Memory {
        /// The tensor for which there was none.
        name: String,
        /// How much.
        what: String,
    },
}

/// The matrices of a layer that can be adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Q,
    K,
    V,
    Output,
    Gate,
    Up,
    Down,
}

impl Part {
    /// How many there are.
    pub const COUNT: usize = 7;
}

/// What an adapter takes, as its header says, before anything else of it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterSize {
    /// Bytes that it holds in memory, at most.
    pub held: u64,
    /// Bytes that it takes besides while it is read and packed.
    pub reading: u64,
}

impl AdapterSize {
    /// Adds a tensor: rows and columns, of whatever other shape its numbers alone.
    fn add(&mut self, shape: [Option<u64>; 2], n_elements: u64) {
        let floats = n_elements.saturating_mul(size_of::<f32>() as u64);
        let packed = match shape {
            [Some(n_rows), Some(n_cols)] => {
                let side = |n: u64| usize::try_from(n).ok();
                let bytes = side(n_rows).zip(side(n_cols));
                bytes.and_then(|(rows, cols)| Packing::bytes_for(TensorType::F32, rows, cols))
            }
            _ => None,
        };
        self.held = self.held.saturating_add(packed.map_or(floats, |bytes| floats.max(bytes as u64)));
        self.reading = self.reading.saturating_add(floats);
    }
}

/// Where an adapter is.
enum Place<'a> {
    /// A GGUF file.
    Gguf(&'a Path),
    /// A folder with settings, and the tensors in it.
    Peft { folder: &'a Path, tensors: PathBuf },
}

/// What a pair of tensors adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Rows of the embedding table.
    Embedding,
    /// A matrix of a layer.
    Layer(usize, Part),
    /// The logits.
    Head,
}

/// A model, as far as adapters are checked against it.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub arch: &'static str,
    pub graph: Graph,
}

/// One adapted matrix.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    pub target: Target,
    /// The matrix that it adapts, as GGUF calls it.
    pub name: String,
    pub rank: usize,
    /// `alpha / rank`, or as the configuration says otherwise.
    pub scale: f32,
    /// `(rank, n_in)`; of the embedding table `(n_vocab, rank)`.
    pub a: Vec<f32>,
    /// `(n_out, rank)`
    pub b: Vec<f32>,
}

/// An adapter that was read and fits the model.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    /// In the order of targets. Never empty.
    pub(crate) parts: Vec<LowRank>,
    /// What its maker called the task it is for.
    pub task_name: String,
    /// What its maker puts before each prompt.
    pub prompt_prefix: String,
}

impl AdapterFile {
    /// The largest rank of its pairs.
    pub fn rank(&self) -> usize {
        self.parts.iter().map(|part| part.rank).max().unwrap_or_default()
    }

    /// How many matrices it adapts.
    pub fn n_matrices(&self) -> usize {
        self.parts.len()
    }

    /// Reads an adapter in any format for a model of which the header is at hand, and makes a GGUF file of it, which
    /// gives the same answers.
    ///
    /// # Errors
    /// If it is no adapter, or one for another model.
    pub fn to_gguf(path: &Path, model: &GgufFile) -> Result<GgufWriter, AdapterError> {
        let hp = HParams::from_gguf(model).map_err(|error| AdapterError::Model(Box::new(error)))?;
        let base = Base { arch: hp.arch.name, graph: (hp.arch.describe)(&hp) };
        Ok(gguf::write(Self::open(path, &base)?, &base))
    }

    /// Gives `take` everything that decides what the adapter computes, in an order and a form that do not depend on the
    /// format it came in: for digests.
    pub fn content(&self, take: &mut dyn FnMut(&[u8])) {
        for part in &self.parts {
            take(&(part.name.len() as u64).to_le_bytes());
            take(part.name.as_bytes());
            take(&(part.rank as u64).to_le_bytes());
            take(&part.scale.to_le_bytes());
            for numbers in [&part.a, &part.b] {
                take(&(numbers.len() as u64).to_le_bytes());
                for piece in numbers.chunks(1024) {
                    let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
                    take(&bytes);
                }
            }
        }
    }

    /// Reads a GGUF file, a folder of PEFT's, or the `.safetensors` file in one.
    pub(crate) fn open(path: &Path, base: &Base) -> Result<Self, AdapterError> {
        if !ARCHITECTURES.contains(&base.arch) {
            let what = format!("adapters for architecture {}", base.arch);
            let advice = format!("those for {} are", ARCHITECTURES.join(", "));
            return Err(AdapterError::Unsupported { what, advice });
        }
        match Place::of(path)? {
            Place::Gguf(path) => gguf::open(path, base),
            Place::Peft { folder, tensors } => peft::open(folder, &tensors, base),
        }
    }

    /// What a file or folder would take, whatever model it is for. Nothing but its header is read.
    ///
    /// # Errors
    /// If it cannot be read, or its header is damaged.
    pub fn size(path: &Path) -> Result<AdapterSize, AdapterError> {
        match Place::of(path)? {
            Place::Gguf(path) => gguf::size(path),
            Place::Peft { folder, tensors } => peft::size(folder, &tensors),
        }
    }

    /// Checks what every format has in common, and puts the parts in order.
    fn new(mut parts: Vec<LowRank>, path: &Path) -> Result<Self, AdapterError> {
        if parts.is_empty() {
            let what = "it has no tensors".to_owned();
            return Err(AdapterError::NoAdapter { path: path.to_owned(), what });
        }
        for part in &parts {
            let halves = [("lora_a", &part.a), ("lora_b", &part.b)];
            if let Some((half, _)) = halves.iter().find(|(_, x)| !x.iter().all(|x| x.is_finite())) {
                return Err(AdapterError::NotFinite { name: format!("{}.{half}", part.name) });
            }
            if !part.scale.is_finite() {
                return Err(AdapterError::NotFinite { name: format!("{} (its alpha)", part.name) });
            }
        }
        parts.sort_by_key(|part| part.target);
        Ok(Self { parts, task_name: String::new(), prompt_prefix: String::new() })
    }
}

impl<'a> Place<'a> {
    /// The place that a path means.
    fn of(path: &'a Path) -> Result<Self, AdapterError> {
        let io = |source| AdapterError::Io { path: path.to_owned(), source };
        let kind = path.metadata().map_err(io)?;
        if kind.is_dir() {
            return Ok(Self::Peft { folder: path, tensors: path.join(peft::TENSORS) });
        }
        if !kind.is_file() {
            let what = "give a GGUF file or a folder with adapter_config.json".to_owned();
            return Err(AdapterError::NoAdapter { path: path.to_owned(), what });
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => {
                Ok(Self::Peft { folder: path.parent().unwrap_or(Path::new("")), tensors: path.to_owned() })
            }
            Some("bin" | "pt" | "pth") => Err(AdapterError::Unsupported {
                what: path.display().to_string(),
                advice: "pickled tensors can run code when they are read; save the adapter as safetensors"
                    .into(),
            }),
            _ => Ok(Self::Gguf(path)),
        }
    }
}

impl Base {
    /// The matrix that a name of GGUF's means, and what it is.
    fn find(&self, name: &str) -> Option<(Target, &Weight)> {
        if name == self.graph.token_embd.name {
            return Some((Target::Embedding, &self.graph.token_embd));
        }
        if let Head::UntiedIfPresent(head) = &self.graph.head
            && name == head.name
        {
            return Some((Target::Head, head));
        }
        let layer_idx: usize = name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()?;
        let layer = self.graph.layers.get(layer_idx)?;
        let Attention { q, k, v, output, .. } = &layer.attention;
        let ffn = match &layer.ffn {
            Ffn::SwiGlu { gate, up, down } => {
                vec![(Part::Gate, gate), (Part::Up, up), (Part::Down, &down.weight)]
            }
            Ffn::Gelu { up, down } => vec![(Part::Up, &up.weight), (Part::Down, &down.weight)],
        };
        let attention = [
            (Part::Q, &q.weight),
            (Part::K, &k.weight),
            (Part::V, &v.weight),
            (Part::Output, &output.weight),
        ];
        let (part, weight) = attention.into_iter().chain(ffn).find(|(_, weight)| weight.name == name)?;
        Some((Target::Layer(layer_idx, part), weight))
    }

    fn known(&self) -> String {
        format!(
            "it has {} layers with attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up and ffn_down, an embedding table \
             and an output matrix",
            self.graph.layers.len()
        )
    }
}

/// The rank that a shape gives, if it can be one.
fn rank(name: &str, rank: u64) -> Result<usize, AdapterError> {
    match usize::try_from(rank) {
        Ok(rank @ 1..=RANK_MAX) => Ok(rank),
        _ => Err(AdapterError::Unsupported {
            what: format!("{name}, of rank {rank}"),
            advice: format!("ranks from 1 to {RANK_MAX} are"),
        }),
    }
}
