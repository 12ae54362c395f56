//! What a header says of any model: its tensors' weight, and what its layers remember.

use std::collections::BTreeMap;

use ingle_gguf::{GgufFile, Metadata};

use crate::error::ModelError;
use crate::hparams::WIDTH_MAX;
use crate::sizing::layers::{self, Keeps, Keys, LayerMemory};
use crate::sizing::own::Sizing;
use crate::sizing::speed::ActiveType;

/// A tensor as a header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Its name.
    pub name: String,
    /// Its element type, as its format calls it.
    pub ty: String,
    /// Its dimensions, the fastest-varying first.
    pub dims: Vec<u64>,
    /// Bytes of its data.
    pub n_bytes: u64,
}

impl TensorShape {
    /// Its elements.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().fold(1, |n, &d| n.saturating_mul(d))
    }
}

/// What a header says of a model.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `general.architecture`
    pub arch: String,
    /// `general.name`
    pub name: Option<String>,
    /// The context that it was trained for.
    pub n_ctx_train: u64,
    /// Width of the residual stream.
    pub n_embd: u64,
    /// Tokens with an embedding.
    pub n_vocab: u64,
    /// Width of the widest feed-forward network.
    pub n_ff: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Numbers in all tensors.
    pub n_parameters: u64,
    /// Of them, those that a token is multiplied with: not the tables, and of experts only those that it is sent to.
    pub n_parameters_active: u64,
    /// Bytes of all tensors: the sum of their rows.
    pub weight_bytes: u64,
    /// Of them, those that a decoded token reads.
    pub active_bytes: u64,
    /// Tensors and their bytes by element type, the heaviest first.
    pub mixture: Vec<(String, u64, u64)>,
    /// What each layer remembers.
    pub layers: Vec<LayerMemory>,
    /// What the CPU executor would hold; or why Ingle does not run it, in words.
    pub own: Result<Sizing, String>,
    /// What the numbers do not say.
    pub notes: Vec<String>,
    /// What of it a token uses, by element type.
    pub(super) by_type: Vec<ActiveType>,
    /// Layers that only guess ahead.
    pub(super) n_layers_ahead: usize,
    /// Query heads for each K/V head, in the first layer.
    pub(super) n_gqa: u64,
    pub(super) n_experts: u64,
    /// All tensors, in order.
    pub(super) tensors: Vec<TensorShape>,
    /// The metadata without the vocabulary.
    pub(super) metadata: Metadata,
}

impl Summary {
    /// The model in a GGUF file, of which the header is enough.
    ///
    /// # Errors
    /// If the metadata lack what every architecture has, or a value cannot be meant. That Ingle does not run a model is
    /// none: see [`Self::own`].
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        if file.metadata().opt_str("general.type")?.is_some_and(|ty| ty != "model") {
            let what = "is no model: name the model, and adapters or projectors beside it".to_owned();
            return Err(ModelError::bad("general.type", what));
        }
        let tensors = file.tensors().iter().map(|t| TensorShape {
            name: t.name.clone(),
            ty: t.ty.name().to_owned(),
            dims: t.dims.clone(),
            n_bytes: t.n_bytes() as u64,
        });
        let own = Sizing::from_gguf(file).map_err(|error| error.to_string());
        Self::new(file.metadata(), tensors.collect(), own)
    }

    /// The model of these metadata, which have the keys of GGUF, and tensors.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn new(
        md: &Metadata,
        tensors: Vec<TensorShape>,
        own: Result<Sizing, String>,
    ) -> Result<Self, ModelError> {
        let arch = md.str("general.architecture")?;
        let keys = Keys { md, arch };
        let layers = layers::layers(&keys)?;
        let n_embd = keys.u64("embedding_length")?;
        if n_embd == 0 || n_embd > WIDTH_MAX as u64 {
            return Err(ModelError::bad(keys.key("embedding_length"), format!("{n_embd} cannot be meant")));
        }
        let use_of = Use::new(&keys, &tensors)?;
        let (mut n_active, mut active_bytes) = (0_u64, 0_u64);
        let mut by_type = BTreeMap::<&str, (u64, u64)>::new();
        let mut used_types = BTreeMap::<&str, (u64, u64)>::new();
        for tensor in &tensors {
            let (used, of) = use_of.share(&tensor.name);
            let part = |all: u64| (u128::from(all) * u128::from(used) / u128::from(of)) as u64;
            n_active = n_active.saturating_add(part(tensor.n_elements()));
            active_bytes = active_bytes.saturating_add(part(tensor.n_bytes));
            let entry = used_types.entry(&tensor.ty).or_default();
            // Of a prompt only the last token's logits are wanted.
            let of_prompt = if is_output(&tensor.name) { 0 } else { part(tensor.n_elements()) };
            *entry = (entry.0.saturating_add(part(tensor.n_bytes)), entry.1.saturating_add(of_prompt));
            let entry = by_type.entry(&tensor.ty).or_default();
            *entry = (entry.0 + 1, entry.1.saturating_add(tensor.n_bytes));
        }
        let mut mixture: Vec<_> =
            by_type.into_iter().map(|(ty, (n, bytes))| (ty.to_owned(), n, bytes)).collect();
        mixture.sort_by_key(|&(_, _, bytes)| std::cmp::Reverse(bytes));
        let sum = |of: fn(&TensorShape) -> u64| tensors.iter().map(of).fold(0, u64::saturating_add);
        Ok(Self {
            arch: arch.to_owned(),
            name: md.opt_str("general.name")?.map(str::to_owned),
            n_ctx_train: keys.opt_u64("context_length")?.unwrap_or(0),
            n_embd,
            n_vocab: n_vocab(&keys, &tensors)?,
            n_ff: keys.opt_u64("feed_forward_length")?.unwrap_or(0),
            n_heads: keys.opt_u64("attention.head_count")?.unwrap_or(0),
            n_parameters: sum(TensorShape::n_elements),
            n_parameters_active: n_active,
            weight_bytes: sum(|t| t.n_bytes),
            active_bytes,
            mixture,
            by_type: used_types
                .into_iter()
                .map(|(ty, (bytes, n_prefill))| ActiveType { ty: ty.to_owned(), bytes, n_prefill })
                .collect(),
            notes: notes(&keys, &layers)?,
            layers,
            own,
            n_layers_ahead: keys.n_layers()?.1,
            n_gqa: first_ratio(&keys)?,
            n_experts: keys.opt_u64("expert_count")?.unwrap_or(0),
            metadata: without_vocabulary(md),
            tensors,
        })
    }

    /// Whether Ingle runs it.
    pub fn runs_here(&self) -> bool {
        self.own.is_ok()
    }

    /// How its layers remember, in a line.
    pub fn memory_in_words(&self) -> String {
        let mut kinds = BTreeMap::<String, usize>::new();
        for layer in &self.layers {
            let keeps = match layer.keeps {
                Keeps::Nothing if layer.state > 0 => format!("a state of {} numbers", layer.state),
                Keeps::Nothing => "nothing kept".to_owned(),
                Keeps::Shared => "keys and values of earlier layers".to_owned(),
                Keeps::Latent { n, indexer: 0 } => format!("one latent of {n}"),
                Keeps::Latent { n, indexer } => format!("one latent of {n} and an index key of {indexer}"),
                Keeps::KeysAndValues { n_heads, k_dim, v_dim } => {
                    let of = if k_dim == v_dim { format!("{k_dim}") } else { format!("{k_dim} and {v_dim}") };
                    let kind = match n_heads {
                        _ if n_heads == self.n_heads => "MHA",
                        1 => "MQA",
                        _ => "GQA",
                    };
                    format!("{kind} {}/{n_heads} heads of {of}", self.n_heads)
                }
            };
            let window = layer.window.map(|w| format!(", window {}", w.n)).unwrap_or_default();
            let state = match (layer.keeps, layer.state) {
                (Keeps::Nothing, _) | (_, 0) => String::new(),
                (_, state) => format!(" and a state of {state} numbers"),
            };
            *kinds.entry(format!("{keeps}{state}{window}")).or_default() += 1;
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        let parts: Vec<String> = kinds.into_iter().map(|(what, n)| format!("{n} × {what}")).collect();
        parts.join("; ")
    }
}

/// Query heads for each K/V head, in the first layer.
fn first_ratio(keys: &Keys<'_>) -> Result<u64, ModelError> {
    let first =
        |key: &str| Ok::<_, ModelError>(keys.each(key, 1)?.and_then(|values| values.first().copied()));
    let heads = first("attention.head_count")?.unwrap_or(0);
    Ok(heads.checked_div(first("attention.head_count_kv")?.unwrap_or(heads)).unwrap_or(0))
}

fn without_vocabulary(md: &Metadata) -> Metadata {
    let mut rest = Metadata::default();
    for (key, value) in md.iter().filter(|(key, _)| !key.starts_with("tokenizer.")) {
        rest.set(key, value.clone());
    }
    rest
}

fn n_vocab(keys: &Keys<'_>, tensors: &[TensorShape]) -> Result<u64, ModelError> {
    let table = tensors.iter().find(|t| is_table(&t.name));
    if let Some(table) = table {
        return Ok(table.dims[1..].iter().product());
    }
    if let Some(n) = keys.opt_u64("vocab_size")? {
        return Ok(n);
    }
    Ok(keys.md.opt_strings("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len() as u64))
}

/// Whether a tensor is the embedding table, in GGUF's names or Hugging Face's.
fn is_table(name: &str) -> bool {
    name == "token_embd.weight" || name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight")
}

/// Whether a tensor makes logits: the output matrix, or the embedding table in its place.
fn is_output(name: &str) -> bool {
    is_table(name) || name == "output.weight" || name.ends_with("lm_head.weight")
}

/// What share of a tensor a decoded token reads.
struct Use {
    is_tied: bool,
    /// Experts that a token is sent to, and all.
    experts: Option<(u64, u64)>,
    /// Layers from this one on only guess ahead.
    n_layers: usize,
}

impl Use {
    fn new(keys: &Keys<'_>, tensors: &[TensorShape]) -> Result<Self, ModelError> {
        let is_head = |t: &TensorShape| is_output(&t.name) && !is_table(&t.name);
        let n = keys.opt_u64("expert_count")?.unwrap_or(0);
        let used = keys.opt_u64("expert_used_count")?.unwrap_or(n).min(n);
        let (n_all, n_ahead) = keys.n_layers()?;
        Ok(Self {
            is_tied: !tensors.iter().any(is_head),
            experts: (n > 0).then_some((used, n)),
            n_layers: n_all - n_ahead,
        })
    }

    /// Numerator and denominator.
    fn share(&self, name: &str) -> (u64, u64) {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let is_ahead = layer.is_some_and(|layer| layer >= self.n_layers);
        let is_read_by_row = (is_table(name) && !self.is_tied)
            || ["per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"].contains(&name);
        if is_ahead || is_read_by_row {
            return (0, 1);
        }
        match self.experts {
            Some(share) if is_expert(name) => share,
            _ => (1, 1),
        }
    }
}

/// Whether a tensor is one of many experts' (stacked, one by one as in old files, or in Hugging Face's names).
fn is_expert(name: &str) -> bool {
    let one_by_one = || {
        let mut parts = name.rsplit('.').skip(1);
        let is_number = parts.next().is_some_and(|part| part.parse::<u32>().is_ok());
        is_number && parts.next().is_some_and(|part| part.starts_with("ffn_"))
    };
    name.contains("_exps.") || name.contains(".experts.") || one_by_one()
}

/// What the numbers do not say.
fn notes(keys: &Keys<'_>, layers: &[LayerMemory]) -> Result<Vec<String>, ModelError> {
    let mut notes = Vec::new();
    if let Some(window) = layers.iter().find_map(|l| l.window.filter(|w| !w.is_ring)) {
        notes.push(format!(
            "it sees the latest {} positions, but neither Ingle nor llama.cpp makes use of that: all are kept",
            window.n
        ));
    }
    let has_latent = layers.iter().any(|l| matches!(l.keeps, Keeps::Latent { .. }));
    if keys.opt_u64("attention.kv_lora_rank")?.is_some_and(|rank| rank > 0) && !has_latent {
        notes.push(
            "an old conversion: the keys and values of all heads are kept; converted anew, one latent would be".into(),
        );
    }
    if ["deepseek4", "minimax-m3", "t5"].contains(&keys.arch) {
        notes.push(format!(
            "what architecture {} keeps besides keys and values is not counted: its cache has a form of its own",
            keys.arch
        ));
    }
    Ok(notes)
}
