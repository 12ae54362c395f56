//! Shapes of published models, from which headers are made that have no file behind them: for sizes asked by number of
//! parameters, and for tests.
//!
//! A shape has the numbers of the model's `config.json`, which stands at [`Shape::source`]. Tests see to it that the
//! number of parameters that follows is the published one.

mod table;
mod tensors;

use ingle_gguf::{GgufFile, GgufWriter, Value};

use crate::error::ModelError;
use crate::sizing::mixture::{Facts, Mixture};

pub use table::SHAPES;

/// The shape of a published model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Its name, in lower case.
    pub name: &'static str,
    /// The architecture, as GGUF calls it.
    pub arch: &'static str,
    /// Layers.
    pub n_layers: u64,
    /// Width of the residual stream.
    pub n_embd: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Heads of keys and values.
    pub n_kv_heads: u64,
    /// Numbers of a head.
    pub head_dim: u64,
    /// Width of the feed-forward networks that are no experts.
    pub n_ff: u64,
    /// Rows of the embedding table.
    pub n_vocab: u64,
    /// The context that it was trained for.
    pub n_ctx: u64,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
    /// The sliding window, of the layers that the architecture gives one.
    pub window: u64,
    /// Its experts.
    pub experts: Option<Experts>,
    /// Its latent attention.
    pub latent: Option<Latent>,
    /// Where the model's `config.json` stands.
    pub source: &'static str,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// All of them.
    pub n: u64,
    /// Those that a token is sent to.
    pub used: u64,
    /// Width of one.
    pub n_ff: u64,
    /// Experts that every token is sent to.
    pub shared: u64,
    /// Layers before the first that has experts.
    pub n_dense: u64,
}

/// Multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Rank of queries.
    pub q_rank: u64,
    /// Rank of keys and values.
    pub kv_rank: u64,
    /// Numbers of a key that rotate.
    pub rope_dim: u64,
    /// Numbers of a key that do not.
    pub nope_dim: u64,
}

impl Shape {
    /// The shape of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    /// The shape whose number of parameters is nearest to this, of those that are not mixtures of experts if there are
    /// any within a quarter of it: "70b" means a dense model.
    ///
    /// # Panics
    /// Never: there are shapes.
    pub fn nearest(n_parameters: f64) -> &'static Self {
        let distance = |shape: &Self| (shape.n_parameters() as f64 / n_parameters).ln().abs();
        let nearest = |only_dense: bool| {
            let shapes = SHAPES.iter().filter(|shape| !only_dense || shape.experts.is_none());
            shapes.min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("there are shapes")
        };
        let dense = nearest(true);
        if distance(dense) < 1.25_f64.ln() { dense } else { nearest(false) }
    }

    /// Numbers in all tensors.
    pub fn n_parameters(&self) -> u64 {
        tensors::tensors(self).iter().map(|(_, dims)| dims.iter().product::<u64>()).sum()
    }

    /// A file of this shape in a mixture, as far as its header.
    ///
    /// # Errors
    /// Never, for the shapes of the table; a shape whose tensors cannot be described is a bad file.
    pub fn header(&self, mixture: Mixture) -> Result<GgufFile, ModelError> {
        let mut file = GgufWriter::new();
        self.put_metadata(&mut file);
        let tensors = tensors::tensors(self);
        let types =
            mixture.types(tensors.iter().map(|(name, dims)| (name.as_str(), dims.as_slice())), self.facts());
        for ((name, dims), ty) in tensors.iter().zip(types) {
            file.tensor_repeated(name, ty, dims, [0].into(), 0);
        }
        let (head, n_bytes) = file.head();
        Ok(GgufFile::from_head(head, n_bytes)?)
    }

    fn facts(&self) -> Facts<'static> {
        Facts {
            arch: self.arch,
            n_layers: self.n_layers as usize,
            n_gqa: self.n_heads / self.n_kv_heads,
            n_experts: self.experts.map_or(0, |experts| experts.n),
            is_tied: self.tied,
        }
    }

    fn put_metadata(&self, file: &mut GgufWriter) {
        let int = |n: u64| Value::U64(n);
        file.set("general.architecture", self.arch.into());
        file.set("general.name", self.name.into());
        let mut set = |key: &str, value: Value| _ = file.set(&format!("{}.{key}", self.arch), value);
        let rope_dim = self.latent.map_or(self.head_dim, |latent| latent.rope_dim);
        let n_kv_heads = if self.latent.is_some() { 1 } else { self.n_kv_heads };
        for (key, value) in [
            ("context_length", int(self.n_ctx)),
            ("embedding_length", int(self.n_embd)),
            ("block_count", int(self.n_layers)),
            ("feed_forward_length", int(self.n_ff)),
            ("attention.head_count", int(self.n_heads)),
            ("attention.head_count_kv", int(n_kv_heads)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("rope.dimension_count", int(rope_dim)),
            ("rope.freq_base", Value::F32(1e6)),
        ] {
            set(key, value);
        }
        if self.window > 0 {
            set("attention.sliding_window", int(self.window));
        }
        if let Some(experts) = self.experts {
            set("expert_count", int(experts.n));
            set("expert_used_count", int(experts.used));
            set("expert_feed_forward_length", int(experts.n_ff));
            set("expert_shared_count", int(experts.shared));
            set("leading_dense_block_count", int(experts.n_dense));
        }
        match self.latent {
            None => {
                set("attention.key_length", int(self.head_dim));
                set("attention.value_length", int(self.head_dim));
            }
            Some(latent) => {
                set("attention.q_lora_rank", int(latent.q_rank));
                set("attention.kv_lora_rank", int(latent.kv_rank));
                set("attention.key_length", int(latent.kv_rank + latent.rope_dim));
                set("attention.value_length", int(latent.kv_rank));
                set("attention.key_length_mla", int(latent.nope_dim + latent.rope_dim));
                set("attention.value_length_mla", int(self.head_dim));
            }
        }
    }
}
