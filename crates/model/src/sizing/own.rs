//! What a model needs here, to the byte: from the file's header, as the CPU executor will hold it.

use std::collections::HashSet;

use ingle_gguf::GgufFile;
use ingle_kernels::{KernelError, Packing};
use ingle_step::KvType;

use crate::error::ModelError;
use crate::graph::{Ffn, Graph, Head};
use crate::hparams::HParams;
use crate::weights;

/// A model's needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizing {
    /// Weights: numbers in all tensors.
    pub n_parameters: u64,
    /// Bytes in the file of the tensors that an executor holds. Repacking pads rows to groups, which adds a few percent.
    pub weight_bytes: u64,
    /// Bytes that an executor holds them in, padding included: exactly [`ingle_step::ExecutorInfo::weight_bytes`].
    pub packed_bytes: u64,
    /// Bytes of an embedding table that is not tied: it stays in the file and is read row by row.
    pub embedding_bytes: u64,
    /// The context that the model was trained for.
    pub n_ctx_train: u64,
    /// What the K/V memory follows from.
    graph: Graph,
}

impl Sizing {
    /// Sizes a file. The tensors are checked to be there, with their shapes and types, but not read.
    ///
    /// # Errors
    /// As loading the model: see [`ModelError`].
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let hp = HParams::from_gguf(file)?;
        let graph = (hp.arch.describe)(&hp);
        let tensors = weights::check_tensors(file, &graph, hp.arch.name)?;
        let (head, is_untied) = match &graph.head {
            Head::UntiedIfPresent(head) if file.tensor(&head.name).is_some() => (Some(head), true),
            Head::UntiedIfPresent(_) => (Some(&graph.token_embd), false),
            Head::None => (None, true),
        };
        // Headers alone are sized, too: nothing says that so much data is behind them.
        let (mut weight_bytes, mut embedding_bytes) = (0_u64, 0_u64);
        for info in &tensors {
            let stays_in_file = is_untied && info.name == graph.token_embd.name;
            let sum = if stays_in_file { &mut embedding_bytes } else { &mut weight_bytes };
            *sum = sum.saturating_add(info.n_bytes() as u64);
        }
        let (mut packed_bytes, mut matrices) = (0_u64, HashSet::new());
        for weight in weights::in_order_of_use(&graph, head) {
            let info = weights::matrix_info(file, weight)?;
            let bytes = Packing::bytes_for(info.ty, weight.n_out, weight.n_in).ok_or_else(|| {
                let what = KernelError::UnsupportedType(info.ty).to_string();
                ModelError::UnsupportedType { name: weight.name.clone(), ty: info.ty, what }
            })?;
            packed_bytes = packed_bytes.saturating_add(bytes as u64);
            matrices.insert(&weight.name);
        }
        let is_vector = |name: &String| !matrices.contains(name) && *name != graph.token_embd.name;
        let vectors = tensors.iter().filter(|t| is_vector(&t.name));
        let vectors = vectors.map(|t| t.n_elements().saturating_mul(size_of::<f32>() as u64));
        packed_bytes = vectors.fold(packed_bytes, u64::saturating_add);
        Ok(Self {
            packed_bytes,
            n_parameters: tensors.iter().map(|t| t.n_elements()).fold(0, u64::saturating_add),
            weight_bytes,
            embedding_bytes,
            n_ctx_train: hp.n_ctx_train as u64,
            graph,
        })
    }

    /// Tokens of the vocabulary that have an embedding.
    pub fn n_vocab(&self) -> usize {
        self.graph.token_embd.n_out
    }

    /// Whether a token sees only those before it. Models that see all of a text read it in one step.
    pub fn is_causal(&self) -> bool {
        self.graph.causal
    }

    /// Size of a hidden state.
    pub fn n_embd(&self) -> usize {
        self.graph.token_embd.n_in
    }

    /// Bytes of K/V memory for `n_tokens`, in whole blocks of `block_size` slots (a multiple of 16, at most 4096).
    pub fn kv_bytes(&self, kv_type: KvType, block_size: usize, n_tokens: u64) -> u64 {
        let layouts = self.graph.kv_layouts(kv_type, block_size);
        // A head's share of a block is below 2^28, heads are at most 2^24 and layers 2^12: see `hparams`.
        let block_bytes = layouts.map(|layout| layout.block_bytes() as u64).fold(0, u64::saturating_add);
        n_tokens.div_ceil(block_size as u64).saturating_mul(block_bytes)
    }

    /// An upper bound of the bytes that steps of up to `n_rows` rows work in, of which up to `n_logits` rows have their
    /// logits wanted. What is not used is not touched.
    pub fn buffer_bytes(&self, n_rows: usize, n_logits: usize) -> u64 {
        /// A row as an input of products, in all its forms together: floats, halves, and integers with their scales.
        const FORMS_BYTES: usize = 9;
        const FLOAT: usize = size_of::<f32>();
        let widest =
            |f: &dyn Fn(&crate::graph::Layer) -> usize| self.graph.layers.iter().map(f).max().unwrap_or(0);
        let n_embd = self.graph.token_embd.n_in;
        let heads = widest(&|layer| {
            let a = &layer.attention;
            // Queries and what attention gives, keys, values, and the angles of the row's position.
            a.n_heads * (a.k_dim + a.v_dim) + a.n_kv_heads * (a.k_dim + a.v_dim) + a.k_dim
        });
        let n_ff = widest(&|layer| {
            let (Ffn::SwiGlu { down, .. } | Ffn::Gelu { down, .. }) = &layer.ffn;
            down.weight.n_in
        });
        let n_in = widest(&|layer| layer.attention.output.weight.n_in).max(n_embd).max(n_ff);
        // The residual stream, and those of its rows that are wanted, before and after the norm.
        let row = (3 * n_embd + heads + n_ff) * FLOAT + n_in * FORMS_BYTES;
        let logits = self.graph.token_embd.n_out * FLOAT;
        (row as u64)
            .saturating_mul(n_rows as u64)
            .saturating_add((logits as u64).saturating_mul(n_logits as u64))
    }
}
