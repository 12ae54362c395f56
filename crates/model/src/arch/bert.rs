//! BERT (Devlin et al. 2018): reads a text in both directions and gives each token a vector. XLM-RoBERTa is the same
//! with another tokenizer and one token type.
//!
//! Positions are learned rows that are added to the tokens' embeddings; norms are layer norms with biases, after what
//! they norm; every matrix has a bias, and the feed-forward network is two of them around a GELU. A head that ranks or
//! classifies may follow the first token's vector.

use super::Architecture;
use crate::graph::{
    Attention, Bias, Classifier, Ffn, Graph, Head, Layer, Linear, Norm, NormKind, NormOrder, Weight,
};
use crate::hparams::HParams;

pub(super) static BERT: Architecture =
    Architecture { name: "bert", norm: NormKind::Layer, causal: false, describe };

fn describe(hp: &HParams) -> Graph {
    let table = |name: &str, n_rows| Weight::new(name, hp.n_embd, n_rows);
    Graph {
        token_embd: table("token_embd.weight", hp.n_vocab),
        token_types: (hp.n_token_types > 0).then(|| table("token_types.weight", hp.n_token_types)),
        position_embd: Some(table("position_embd.weight", hp.n_ctx_train)),
        embd_norm: Some(Norm::layer("token_embd_norm", hp.n_embd, hp.norm_eps)),
        rope_style: None,
        causal: false,
        layers: (0..hp.layers.len()).map(|layer_idx| layer(hp, layer_idx)).collect(),
        output_norm: None,
        head: Head::None,
        classifier: classifier(hp),
    }
}

fn layer(hp: &HParams, layer_idx: usize) -> Layer {
    let shape = hp.layers[layer_idx];
    let (n_q, n_k) = (shape.n_heads * hp.k_dim, shape.n_kv_heads * hp.k_dim);
    let (n_v, n_attn) = (shape.n_kv_heads * hp.v_dim, shape.n_heads * hp.v_dim);
    let name = |kind: &str| format!("blk.{layer_idx}.{kind}");
    let linear = |kind: &str, n_in, n_out| Linear::new(&name(kind), n_in, n_out, Bias::Required);
    Layer {
        norm_order: NormOrder::Post,
        attn_norm: Norm::layer(&name("attn_output_norm"), hp.n_embd, hp.norm_eps),
        attention: Attention {
            q: linear("attn_q", hp.n_embd, n_q),
            k: linear("attn_k", hp.n_embd, n_k),
            v: linear("attn_v", hp.n_embd, n_v),
            q_norm: None,
            k_norm: None,
            output: linear("attn_output", n_attn, hp.n_embd),
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            k_dim: hp.k_dim,
            v_dim: hp.v_dim,
            scale: hp.attn_scale,
            window: None,
        },
        ffn_norm: Norm::layer(&name("layer_output_norm"), hp.n_embd, hp.norm_eps),
        ffn: Ffn::Gelu {
            up: linear("ffn_up", hp.n_embd, shape.n_ff),
            down: linear("ffn_down", shape.n_ff, hp.n_embd),
        },
    }
}

/// The head that the file has, if any.
pub(super) fn classifier(hp: &HParams) -> Option<Classifier> {
    let head = hp.classifier.as_ref()?;
    let linear = |stem: &str, n_out| Linear::new(stem, hp.n_embd, n_out, Bias::IfPresent);
    Some(Classifier {
        dense: head.has_dense.then(|| linear("cls", hp.n_embd)),
        output: linear("cls.output", head.n_labels),
    })
}
