//! The sum: how many bytes a model needs for so many sequences of such a context.

use ingle_step::KvType;

use crate::sizing::layers::{Keeps, LayerMemory};
use crate::sizing::own::Sizing;
use crate::sizing::summary::Summary;
use crate::sizing::windows::Rule;

/// Numbers that share a scale in Q8_0 and Q4_0.
const QUANT_BLOCK: u64 = 32;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Longest sequence, prompt and answer together.
    pub n_ctx: u64,
    /// Sequences of that length at the same time.
    pub n_seqs: u64,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Most rows of a step.
    pub n_rows: u64,
}

impl Default for Demand {
    /// A sequence of 8192 tokens in F16, in steps of 512 rows.
    fn default() -> Self {
        Self { n_ctx: 8192, n_seqs: 1, kv_type: KvType::F16, n_rows: 512 }
    }
}

/// Bytes of memory that a model needs, known before it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Weights, as they are held.
    pub weights: u64,
    /// Keys and values, and the state of recurrent layers.
    pub kv: u64,
    /// What steps work in, at most.
    pub buffers: u64,
    /// All that a draft model needs.
    pub draft: u64,
    /// K/V of sequences that make way for others, at most.
    pub swap: u64,
    /// Adapters, and what turns images into embeddings.
    pub extras: u64,
    /// Its tokenizer and its template.
    pub text: u64,
}

impl Needs {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.kv, self.buffers, self.draft, self.swap, self.extras, self.text]
            .iter()
            .fold(self.weights, |all, part| all.saturating_add(*part))
    }
}

/// Slots in a block of K/V memory.
pub const BLOCK_SIZE: usize = 32;
/// Rows of logits that an executor keeps or works in, besides those that it gives.
pub const LOGITS_KEPT: usize = 65;

impl Sizing {
    /// What the CPU executor takes for a demand.
    pub fn needs_for(&self, demand: &Demand) -> Needs {
        let kv_tokens = demand.n_ctx.saturating_mul(demand.n_seqs);
        let kv_tokens = kv_tokens.max(demand.n_ctx.saturating_add(BLOCK_SIZE as u64));
        let n_seqs = usize::try_from(demand.n_seqs).unwrap_or(usize::MAX);
        let whole_text = if self.is_causal() { 0 } else { demand.n_ctx };
        let n_rows = usize::try_from(demand.n_rows.max(whole_text)).unwrap_or(usize::MAX).max(n_seqs);
        self.needs(demand.kv_type, BLOCK_SIZE, kv_tokens, n_rows, n_seqs.saturating_add(LOGITS_KEPT))
    }

    /// What the CPU executor takes for K/V memory of `kv_tokens` slots in blocks of `block_size`, and steps of up to
    /// `n_rows` rows with up to `n_logits` rows of logits.
    pub fn needs(
        &self,
        kv_type: KvType,
        block_size: usize,
        kv_tokens: u64,
        n_rows: usize,
        n_logits: usize,
    ) -> Needs {
        Needs {
            weights: self.packed_bytes,
            kv: self.kv_bytes(kv_type, block_size, kv_tokens),
            buffers: self.buffer_bytes(n_rows, n_logits),
            ..Needs::default()
        }
    }
}

impl Summary {
    /// Bytes that one more position of one sequence takes in layers without a window.
    pub fn kv_bytes_per_token(&self, kv_type: KvType) -> u64 {
        self.layers.iter().map(|layer| position_bytes(layer, kv_type)).fold(0, u64::saturating_add)
    }

    /// Bytes of keys and values, as `rule` has it for layers with windows.
    pub fn kv_bytes(&self, demand: &Demand, rule: Rule) -> u64 {
        let bytes = self.layers.iter().map(|layer| {
            let n = match layer.window {
                Some(window) => window.positions(rule, demand.n_ctx, demand.n_rows),
                None => demand.n_ctx,
            };
            n.saturating_mul(position_bytes(layer, demand.kv_type))
        });
        bytes.fold(0, u64::saturating_add).saturating_mul(demand.n_seqs)
    }

    /// Bytes of the state of recurrent layers: the same for every context.
    pub fn state_bytes(&self, n_seqs: u64) -> u64 {
        let numbers = self.layers.iter().map(|layer| layer.state).fold(0, u64::saturating_add);
        numbers.saturating_mul(size_of::<f32>() as u64).saturating_mul(n_seqs)
    }

    /// Bytes of the largest intermediate of a step: what peers' compute buffers follow.
    pub fn buffer_bytes(&self, n_rows: u64) -> u64 {
        self.n_vocab.max(self.n_ff).saturating_mul(n_rows).saturating_mul(size_of::<f32>() as u64)
    }

    /// What an engine needs that keeps weights as the file has them, and K/V by `rule`.
    pub fn needs(&self, demand: &Demand, rule: Rule) -> Needs {
        Needs {
            weights: self.weight_bytes,
            kv: self.kv_bytes(demand, rule).saturating_add(self.state_bytes(demand.n_seqs)),
            buffers: self.buffer_bytes(demand.n_rows),
            ..Needs::default()
        }
    }
}

/// Bytes that a layer keeps of a position.
fn position_bytes(layer: &LayerMemory, kv_type: KvType) -> u64 {
    match layer.keeps {
        Keeps::Nothing | Keeps::Shared => 0,
        Keeps::KeysAndValues { n_heads, k_dim, v_dim } => {
            let (k, v) = (n_heads.saturating_mul(k_dim), n_heads.saturating_mul(v_dim));
            row_bytes(kv_type, k).saturating_add(row_bytes(kv_type, v))
        }
        Keeps::Latent { n, indexer } => row_bytes(kv_type, n).saturating_add(row_bytes(kv_type, indexer)),
    }
}

/// Bytes of `n` numbers in a row.
fn row_bytes(kv_type: KvType, n: u64) -> u64 {
    match kv_type {
        KvType::F32 => n.saturating_mul(4),
        KvType::F16 | KvType::BF16 => n.saturating_mul(2),
        KvType::Q8_0 => n.div_ceil(QUANT_BLOCK).saturating_mul(34),
        KvType::Q4_0 => n.div_ceil(QUANT_BLOCK).saturating_mul(18),
    }
}
