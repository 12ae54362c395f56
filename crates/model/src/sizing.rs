//! How much memory a model needs, from the file's header alone.

use ingle_gguf::GgufFile;
use ingle_step::KvType;

use crate::error::ModelError;
use crate::graph::Head;
use crate::hparams::HParams;
use crate::weights;

/// A model's needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Weights: numbers in all tensors.
    pub n_parameters: u64,
    /// Bytes of the tensors that an executor holds. Repacking pads rows to groups, which adds a few percent.
    pub weight_bytes: u64,
    /// Bytes of an embedding table that is not tied: it stays in the file and is read row by row.
    pub embedding_bytes: u64,
    /// Numbers of K and V that a token adds, over all layers.
    pub kv_values_per_token: u64,
    /// The context that the model was trained for.
    pub n_ctx_train: u64,
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
        let Head::UntiedIfPresent(head) = &graph.head;
        let is_untied = file.tensor(&head.name).is_some();
        let (mut weight_bytes, mut embedding_bytes) = (0, 0);
        for info in &tensors {
            let stays_in_file = is_untied && info.name == graph.token_embd.name;
            *(if stays_in_file { &mut embedding_bytes } else { &mut weight_bytes }) += info.n_bytes() as u64;
        }
        // Each product is below 2^48 and there are at most 4096 layers: see `hparams`.
        let kv_values = |l: &crate::LayerHParams| l.n_kv_heads as u64 * (hp.k_dim + hp.v_dim) as u64;
        Ok(Self {
            n_parameters: tensors.iter().map(|t| t.n_elements()).sum(),
            weight_bytes,
            embedding_bytes,
            kv_values_per_token: hp.layers.iter().map(kv_values).sum(),
            n_ctx_train: hp.n_ctx_train as u64,
        })
    }

    /// Bytes of K/V memory that `n_tokens` take.
    pub fn kv_bytes(&self, kv_type: KvType, n_tokens: u64) -> u64 {
        let values = self.kv_values_per_token.saturating_mul(n_tokens);
        match kv_type {
            KvType::F32 => values.saturating_mul(4),
            KvType::F16 | KvType::BF16 => values.saturating_mul(2),
            // 32 bytes and an f16 scale.
            KvType::Q8_0 => (values / 32).saturating_mul(34),
        }
    }
}
