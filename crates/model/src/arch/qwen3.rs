//! Qwen 3: Llama with a norm of each query and key head before rope, and rope over halves of a head.
//!
//! A head's size is stated, as it is not the embedding's share.

use ingle_kernels::RopeStyle;

use super::{Architecture, decoder};
use crate::graph::{Attention, Bias, Ffn, Graph, Layer, Linear, Norm, NormKind, NormOrder, Weight};
use crate::hparams::HParams;

pub(super) static QWEN3: Architecture =
    Architecture { name: "qwen3", norm: NormKind::Rms, causal: true, describe };

fn describe(hp: &HParams) -> Graph {
    decoder(hp, RopeStyle::Neox, layer)
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
            q: Linear::new(&name("attn_q"), hp.n_embd, n_q, Bias::None),
            k: Linear::new(&name("attn_k"), hp.n_embd, n_k, Bias::None),
            v: Linear::new(&name("attn_v"), hp.n_embd, n_v, Bias::None),
            q_norm: Some(Norm::rms(name("attn_q_norm.weight"), hp.k_dim, hp.norm_eps)),
            k_norm: Some(Norm::rms(name("attn_k_norm.weight"), hp.k_dim, hp.norm_eps)),
            output: Linear::new(&name("attn_output"), n_attn, hp.n_embd, Bias::None),
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            k_dim: hp.k_dim,
            v_dim: hp.v_dim,
            scale: hp.attn_scale,
            window: None,
        },
        ffn_norm: Norm::rms(name("ffn_norm.weight"), hp.n_embd, hp.norm_eps),
        ffn: Ffn::SwiGlu {
            gate: Weight::new(name("ffn_gate.weight"), hp.n_embd, shape.n_ff),
            up: Weight::new(name("ffn_up.weight"), hp.n_embd, shape.n_ff),
            down: Linear::new(&name("ffn_down"), shape.n_ff, hp.n_embd, Bias::None),
        },
    }
}
