//! How much memory a model needs, from the file's header alone.

use ingle_gguf::GgufFile;
use ingle_step::KvType;

use crate::error::ModelError;
use crate::graph::{Graph, Head};
use crate::hparams::HParams;
use crate::weights;

/// A model's needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizing {
    /// Weights: numbers in all tensors.
    pub n_parameters: u64,
    /// Bytes of the tensors that an executor holds. Repacking pads rows to groups, which adds a few percent.
    pub weight_bytes: u64,
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
        let is_untied = match &graph.head {
            Head::UntiedIfPresent(head) => file.tensor(&head.name).is_some(),
            Head::None => true,
        };
        let (mut weight_bytes, mut embedding_bytes) = (0, 0);
        for info in &tensors {
            let stays_in_file = is_untied && info.name == graph.token_embd.name;
            *(if stays_in_file { &mut embedding_bytes } else { &mut weight_bytes }) += info.n_bytes() as u64;
        }
        Ok(Self {
            n_parameters: tensors.iter().map(|t| t.n_elements()).sum(),
            weight_bytes,
            embedding_bytes,
            n_ctx_train: hp.n_ctx_train as u64,
            graph,
        })
    }

    /// Bytes of K/V memory for `n_tokens`, in whole blocks of `block_size` slots (a multiple of 16, at most 4096).
    pub fn kv_bytes(&self, kv_type: KvType, block_size: usize, n_tokens: u64) -> u64 {
        let layouts = self.graph.kv_layouts(kv_type, block_size);
        // A head's share of a block is below 2^28, heads are at most 2^24 and layers 2^12: see `hparams`.
        let block_bytes = layouts.map(|layout| layout.block_bytes() as u64).fold(0, u64::saturating_add);
        n_tokens.div_ceil(block_size as u64).saturating_mul(block_bytes)
    }
}
