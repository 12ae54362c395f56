//! Llama 1 to 3, Mistral, SmolLM and the many that share their shape.
//!
//! Rope rotates neighbours. Biases are rare, but some members of the family have them. Llama 3.1's frequency
//! factors come as the tensor `rope_freqs.weight`, which the rope table reads for every architecture.

use ingle_kernels::RopeStyle;

use super::{Architecture, decoder};
use crate::graph::{Attention, Bias, Ffn, Graph, Layer, Linear, Norm, NormKind, NormOrder, Weight};
use crate::hparams::HParams;

pub(super) static LLAMA: Architecture =
    Architecture { name: "llama", norm: NormKind::Rms, causal: true, describe };

fn describe(hp: &HParams) -> Graph {
    decoder(hp, RopeStyle::Norm, layer)
}

fn layer(hp: &HParams, layer_idx: usize) -> Layer {
    let shape = hp.layers[layer_idx];
    let (n_q, n_k) = (shape.n_heads * hp.k_dim, shape.n_kv_heads * hp.k_dim);
    let (n_v, n_attn) = (shape.n_kv_heads * hp.v_dim, shape.n_heads * hp.v_dim);
    let name = |kind: &str| format!("blk.{layer_idx}.{kind}");
    Layer {
        norm_order: NormOrder::Pre,
        attn_norm: Norm::rms(name("attn_norm.weight"), hp.n_embd, hp.norm_eps),
        attention: Attention {
            q: Linear::new(&name("attn_q"), hp.n_embd, n_q, Bias::IfPresent),
            k: Linear::new(&name("attn_k"), hp.n_embd, n_k, Bias::IfPresent),
            v: Linear::new(&name("attn_v"), hp.n_embd, n_v, Bias::IfPresent),
            q_norm: None,
            k_norm: None,
            output: Linear::new(&name("attn_output"), n_attn, hp.n_embd, Bias::IfPresent),
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            k_dim: hp.k_dim,
            v_dim: hp.v_dim,
            scale: hp.attn_scale,
            window: hp.sliding_window,
        },
        ffn_norm: Norm::rms(name("ffn_norm.weight"), hp.n_embd, hp.norm_eps),
        ffn: Ffn::SwiGlu {
            gate: Weight::new(name("ffn_gate.weight"), hp.n_embd, shape.n_ff),
            up: Weight::new(name("ffn_up.weight"), hp.n_embd, shape.n_ff),
            down: Linear::new(&name("ffn_down"), shape.n_ff, hp.n_embd, Bias::None),
        },
    }
}
