//! What a layer remembers of a sequence, by the rule of its architecture.
//!
//! - Attention keeps a key and a value of every position for each of its K/V heads: as many heads as there are queries
//!   (MHA), fewer (GQA), or one (MQA).
//! - Multi-head latent attention (DeepSeek V2 and later, Kimi) keeps one latent for all heads: `kv_lora_rank` numbers
//!   and the part of the key that rotates. Files of old converters don't have the tensors for it: there, keys and
//!   values of all heads are kept.
//! - Recurrent layers (Mamba, RWKV, gated delta networks, short convolutions) keep a state of fixed size in F32, whatever
//!   the context.
//! - Some layers use the keys and values of an earlier one, and keep none.
//!
//! Sources: `src/llama-hparams.cpp`, `src/llama-model.cpp` and `src/models/` of llama.cpp for what files mean; the
//! models' papers for the rest.

use ingle_gguf::{Metadata, Value};

use crate::error::ModelError;
use crate::hparams::{LAYERS_MAX, WIDTH_MAX};
use crate::sizing::windows::{Window, windows};

/// What a layer remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerMemory {
    /// Of each position.
    pub keeps: Keeps,
    /// Its window, if it has one.
    pub window: Option<Window>,
    /// F32 numbers of a sequence, however long.
    pub state: u64,
}

/// What a layer keeps of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// A key and a value for each head.
    KeysAndValues {
        /// Heads.
        n_heads: u64,
        /// Numbers of a key.
        k_dim: u64,
        /// Numbers of a value.
        v_dim: u64,
    },
    /// One vector for all heads, of which keys and values are made.
    Latent {
        /// Its numbers.
        n: u64,
        /// Numbers of the indexer's key beside it, where attention is sparse.
        indexer: u64,
    },
    /// An earlier layer's keys and values are used.
    Shared,
}

/// Architectures whose layers without K/V heads are recurrent.
const RECURRENT_WITHOUT_HEADS: &[&str] = &[
    "jamba",
    "plamo2",
    "granitehybrid",
    "lfm2",
    "lfm2moe",
    "kimi-linear",
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
];
/// Architectures all of whose layers are recurrent.
const RECURRENT: &[&str] = &["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"];
/// Architectures in which every so many layers one has attention, and the others are recurrent.
const RECURRENT_BY_INTERVAL: &[&str] = &["qwen3next", "qwen35", "qwen35moe", "qwen4exp", "minimax-01"];
/// Architectures that read a text at once and keep nothing of it.
const KEEP_NOTHING: &[&str] = &[
    "bert",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "eurobert",
    "gemma-embedding",
    "t5encoder",
    "dream",
    "llada",
    "llada-moe",
    "rnd1",
];

/// Access to the keys of one architecture, none of which need be there.
pub(super) struct Keys<'a> {
    pub md: &'a Metadata,
    pub arch: &'a str,
}

impl Keys<'_> {
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A number, of which none is believed beyond what real models have. An array counts by its largest.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, ModelError> {
        if let Some(values) = self.opt_array(key)? {
            return Ok(values.into_iter().max());
        }
        let key = self.key(key);
        self.md.opt_u64(&key)?.map(|value| believed(&key, value)).transpose()
    }

    /// A number that must be there.
    pub fn u64(&self, key: &str) -> Result<u64, ModelError> {
        let missing = || ModelError::Gguf(ingle_gguf::GgufError::MissingKey(self.key(key)));
        self.opt_u64(key)?.ok_or_else(missing)
    }

    /// The elements, if the key is there and an array.
    pub fn opt_array(&self, key: &str) -> Result<Option<Vec<u64>>, ModelError> {
        let key = self.key(key);
        let Some(Value::Array(array)) = self.md.get(&key) else { return Ok(None) };
        let values = array.to_u64s();
        let values =
            values.ok_or_else(|| ModelError::bad(&key, "not all elements are non-negative integers"))?;
        values.into_iter().map(|value| believed(&key, value)).collect::<Result<_, _>>().map(Some)
    }

    /// A number for each layer, from one number or an array.
    pub fn each(&self, key: &str, n_layers: usize) -> Result<Option<Vec<u64>>, ModelError> {
        let Some(mut values) = self.opt_array(key)? else {
            return Ok(self.opt_u64(key)?.map(|value| vec![value; n_layers]));
        };
        if values.len() < n_layers {
            let what = format!("{} elements for {n_layers} layers", values.len());
            return Err(ModelError::bad(self.key(key), what));
        }
        values.truncate(n_layers);
        Ok(Some(values))
    }

    /// How many layers there are, and how many of them only guess tokens ahead.
    pub fn n_layers(&self) -> Result<(usize, usize), ModelError> {
        let n = self.u64("block_count")?;
        if n == 0 || n > LAYERS_MAX as u64 {
            return Err(ModelError::bad(
                self.key("block_count"),
                format!("{n} layers, not 1 to {LAYERS_MAX}"),
            ));
        }
        let ahead = self.opt_u64("nextn_predict_layers")?.unwrap_or(0).min(n);
        Ok((n as usize, ahead as usize))
    }
}

fn believed(key: &str, value: u64) -> Result<u64, ModelError> {
    // Contexts go beyond the widths of real models.
    if value > (WIDTH_MAX as u64) << 8 {
        return Err(ModelError::bad(key, format!("{value} cannot be meant")));
    }
    Ok(value)
}

/// What each layer of a sequence remembers.
pub(super) fn layers(keys: &Keys<'_>) -> Result<Vec<LayerMemory>, ModelError> {
    let (n_all, n_ahead) = keys.n_layers()?;
    let n = n_all - n_ahead;
    let windows = windows(keys, n)?;
    let attention = attention(keys, n)?;
    let recurrent = recurrent(keys, n, &attention.n_kv_heads)?;
    let state = state(keys, attention.n_heads)?;
    // All layers have both in this one.
    let both = keys.arch == "falcon-h1";
    let n_own = keeping(keys, n_all)?;
    let n_ff = keys.each("feed_forward_length", n)?.unwrap_or_default();
    Ok((0..n)
        .map(|i| {
            let is_mlp = keys.arch.starts_with("nemotron_h") && n_ff.get(i).is_some_and(|&n_ff| n_ff > 0);
            let keeps = if KEEP_NOTHING.contains(&keys.arch) || (recurrent[i] && !both) || is_mlp {
                Keeps::Nothing
            } else if i >= n_own {
                Keeps::Shared
            } else {
                attention.keeps(i, windows[i].is_some())
            };
            let state = if recurrent[i] { state } else { 0 };
            let window = windows[i].filter(|_| keeps != Keeps::Nothing);
            LayerMemory { keeps, window, state }
        })
        .collect())
}

/// Layers from this one on use the keys and values of earlier ones.
fn keeping(keys: &Keys<'_>, n_all: usize) -> Result<usize, ModelError> {
    Ok(match keys.arch {
        "gemma3n" => 20,
        _ => {
            let shared = keys.opt_u64("attention.shared_kv_layers")?.unwrap_or(0);
            n_all.saturating_sub(usize::try_from(shared).unwrap_or(usize::MAX))
        }
    })
}

/// What attention keeps, in layers that have it.
struct Attention {
    n_heads: u64,
    n_kv_heads: Vec<u64>,
    /// Of keys and values, with and without a window.
    dims: [(u64, u64); 2],
    latent: Option<Keeps>,
}

impl Attention {
    fn keeps(&self, layer_idx: usize, has_window: bool) -> Keeps {
        let (n_heads, (k_dim, v_dim)) = (self.n_kv_heads[layer_idx], self.dims[usize::from(has_window)]);
        match self.latent {
            _ if n_heads == 0 => Keeps::Nothing,
            Some(latent) => latent,
            None => Keeps::KeysAndValues { n_heads, k_dim, v_dim },
        }
    }
}

fn attention(keys: &Keys<'_>, n: usize) -> Result<Attention, ModelError> {
    let heads = keys.each("attention.head_count", n)?.unwrap_or_else(|| vec![0; n]);
    let n_kv_heads = keys.each("attention.head_count_kv", n)?.unwrap_or_else(|| heads.clone());
    let n_heads = heads.iter().copied().max().unwrap_or(0);
    if n_heads == 0 && !RECURRENT.contains(&keys.arch) {
        return Err(ModelError::Gguf(ingle_gguf::GgufError::MissingKey(keys.key("attention.head_count"))));
    }
    let default = keys.u64("embedding_length")?.checked_div(n_heads).unwrap_or(0);
    let dim = |key: &str| Ok::<_, ModelError>(keys.opt_u64(key)?.unwrap_or(default));
    let full = (dim("attention.key_length")?, dim("attention.value_length")?);
    let windowed = (
        keys.opt_u64("attention.key_length_swa")?.unwrap_or(full.0),
        keys.opt_u64("attention.value_length_swa")?.unwrap_or(full.1),
    );
    let latent = match (keys.opt_u64("attention.kv_lora_rank")?, keys.opt_u64("attention.key_length_mla")?) {
        (Some(rank), Some(_)) if rank > 0 => {
            let indexer = keys.opt_u64("attention.indexer.key_length")?.unwrap_or(0);
            Some(Keeps::Latent { n: rank + keys.u64("rope.dimension_count")?, indexer })
        }
        _ => None,
    };
    Ok(Attention { n_heads, n_kv_heads, dims: [full, windowed], latent })
}

/// Which layers are recurrent.
fn recurrent(keys: &Keys<'_>, n: usize, n_kv_heads: &[u64]) -> Result<Vec<bool>, ModelError> {
    if RECURRENT.contains(&keys.arch) || keys.arch == "falcon-h1" {
        return Ok(vec![true; n]);
    }
    if RECURRENT_WITHOUT_HEADS.contains(&keys.arch) {
        return Ok(n_kv_heads.iter().map(|&n_heads| n_heads == 0).collect());
    }
    if keys.arch.starts_with("nemotron_h") {
        let n_ff = keys.each("feed_forward_length", n)?.unwrap_or_else(|| vec![0; n]);
        return Ok(n_kv_heads.iter().zip(n_ff).map(|(&n_heads, n_ff)| n_heads == 0 && n_ff == 0).collect());
    }
    if RECURRENT_BY_INTERVAL.contains(&keys.arch) {
        if let Some(flags) = keys.opt_array("attention.recurrent_layers")? {
            return Ok((0..n).map(|i| flags.get(i).is_some_and(|&flag| flag != 0)).collect());
        }
        let default = if keys.arch == "minimax-01" { 8 } else { 4 };
        let interval = keys.opt_u64("full_attention_interval")?.unwrap_or(default).max(1);
        return Ok((1..=n as u64).map(|i| !i.is_multiple_of(interval)).collect());
    }
    Ok(vec![false; n])
}

/// Numbers of a recurrent layer's state: what a convolution looks back on, and what is carried on.
fn state(keys: &Keys<'_>, n_heads: u64) -> Result<u64, ModelError> {
    let get = |key: &str| Ok::<_, ModelError>(keys.opt_u64(key)?.unwrap_or(0));
    let n_embd = keys.u64("embedding_length")?;
    let head = get("wkv.head_size")?;
    if head > 0 {
        let shifts = keys.opt_u64("token_shift_count")?.unwrap_or(2);
        return Ok(n_embd.saturating_mul(shifts.saturating_add(head)));
    }
    let short = get("shortconv.l_cache")?;
    if short > 0 {
        return Ok(n_embd.saturating_mul(short - 1));
    }
    let kernel = get("ssm.conv_kernel")?;
    let head = get("kda.head_dim")?;
    if head > 0 {
        let back = if kernel > 0 { kernel - 1 } else { 3 };
        let n_inner = n_heads.saturating_mul(head);
        return Ok(n_inner.saturating_mul(3 * back).saturating_add(n_inner.saturating_mul(head)));
    }
    let (inner, state) = (get("ssm.inner_size")?, get("ssm.state_size")?);
    if inner == 0 && keys.arch == "minimax-01" {
        let head = get("attention.key_length")?;
        return Ok(head.saturating_mul(head).saturating_mul(n_heads));
    }
    let of_groups = get("ssm.group_count")?.saturating_mul(2).saturating_mul(state);
    let channels = inner.saturating_add(of_groups);
    Ok(kernel.saturating_sub(1).saturating_mul(channels).saturating_add(state.saturating_mul(inner)))
}
