//! The architectures: one file each, which describes the model as data.

mod bert;
mod llama;
mod qwen2;
mod qwen3;

use ingle_kernels::RopeStyle;

use crate::graph::{Graph, Head, Layer, Norm, NormKind, Weight};
use crate::hparams::HParams;

/// A kind of model.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture` in files.
    pub name: &'static str,
    /// The kind of all norms of the residual stream: it decides where files say their epsilon.
    pub norm: NormKind,
    /// Whether a row sees only itself and rows before it.
    pub causal: bool,
    /// What a model of these hyperparameters computes.
    pub describe: fn(&HParams) -> Graph,
}

/// All that are known, in the order they are listed to users.
pub const ARCHITECTURES: &[&Architecture] = &[&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3, &bert::BERT];

/// The architecture of this name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().copied().find(|a| a.name == name)
}

/// What all models that generate share: an embedding, layers, a norm, and a head that may be the embedding.
fn decoder(hp: &HParams, rope_style: RopeStyle, layer: fn(&HParams, usize) -> Layer) -> Graph {
    Graph {
        token_embd: Weight::new("token_embd.weight", hp.n_embd, hp.n_vocab),
        token_types: None,
        position_embd: None,
        embd_norm: None,
        rope_style: Some(rope_style),
        causal: true,
        layers: (0..hp.layers.len()).map(|layer_idx| layer(hp, layer_idx)).collect(),
        output_norm: Some(Norm::rms("output_norm.weight", hp.n_embd, hp.norm_eps)),
        head: Head::UntiedIfPresent(Weight::new("output.weight", hp.n_embd, hp.n_vocab)),
        classifier: None,
    }
}
