//! Which tensors a model of a shape has, by its architecture.

use super::{Experts, Latent, Shape};

/// Names and dimensions, in the order of files.
pub(super) fn tensors(shape: &Shape) -> Vec<(String, Vec<u64>)> {
    let mut list = List { shape, tensors: Vec::new() };
    list.add("token_embd.weight".into(), &[shape.n_embd, shape.n_vocab]);
    for layer in 0..shape.n_layers {
        list.layer(layer);
    }
    list.add("output_norm.weight".into(), &[shape.n_embd]);
    if !shape.tied {
        list.add("output.weight".into(), &[shape.n_embd, shape.n_vocab]);
    }
    list.tensors
}

struct List<'a> {
    shape: &'a Shape,
    tensors: Vec<(String, Vec<u64>)>,
}

impl List<'_> {
    fn add(&mut self, name: String, dims: &[u64]) {
        self.tensors.push((name, dims.to_vec()));
    }

    fn layer(&mut self, layer: u64) {
        let shape = self.shape;
        let norm =
            |list: &mut Self, name: &str| list.add(format!("blk.{layer}.{name}.weight"), &[shape.n_embd]);
        norm(self, "attn_norm");
        match shape.latent {
            Some(latent) => self.latent_attention(layer, latent),
            None => self.attention(layer),
        }
        match shape.arch {
            "gemma2" | "gemma3" => {
                norm(self, "post_attention_norm");
                norm(self, "ffn_norm");
                norm(self, "post_ffw_norm");
            }
            "gpt-oss" => norm(self, "post_attention_norm"),
            _ => norm(self, "ffn_norm"),
        }
        match shape.experts {
            Some(experts) if layer >= experts.n_dense => self.experts(layer, experts),
            _ => self.feed_forward(layer),
        }
    }

    fn attention(&mut self, layer: u64) {
        let shape = self.shape;
        let (n_q, n_kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let name = |kind: &str| format!("blk.{layer}.{kind}");
        if shape.arch == "phi3" {
            self.add(name("attn_qkv.weight"), &[shape.n_embd, n_q + 2 * n_kv]);
            self.add(name("attn_output.weight"), &[n_q, shape.n_embd]);
            return;
        }
        let has_biases = match shape.arch {
            "qwen2" => 3,
            "gpt-oss" => 4,
            _ => 0,
        };
        let parts = [
            ("attn_q", shape.n_embd, n_q),
            ("attn_k", shape.n_embd, n_kv),
            ("attn_v", shape.n_embd, n_kv),
            ("attn_output", n_q, shape.n_embd),
        ];
        for (i, (kind, n_in, n_out)) in parts.into_iter().enumerate() {
            self.add(name(&format!("{kind}.weight")), &[n_in, n_out]);
            if i < has_biases {
                self.add(name(&format!("{kind}.bias")), &[n_out]);
            }
        }
        if ["qwen3", "qwen3moe", "gemma3"].contains(&shape.arch) {
            self.add(name("attn_q_norm.weight"), &[shape.head_dim]);
            self.add(name("attn_k_norm.weight"), &[shape.head_dim]);
        }
        if shape.arch == "gpt-oss" {
            self.add(name("attn_sinks.weight"), &[shape.n_heads]);
        }
    }

    fn latent_attention(&mut self, layer: u64, latent: Latent) {
        let shape = self.shape;
        let n = shape.n_heads;
        let name = |kind: &str| format!("blk.{layer}.{kind}.weight");
        self.add(name("attn_q_a"), &[shape.n_embd, latent.q_rank]);
        self.add(name("attn_q_a_norm"), &[latent.q_rank]);
        self.add(name("attn_q_b"), &[latent.q_rank, n * (latent.nope_dim + latent.rope_dim)]);
        self.add(name("attn_kv_a_mqa"), &[shape.n_embd, latent.kv_rank + latent.rope_dim]);
        self.add(name("attn_kv_a_norm"), &[latent.kv_rank]);
        self.add(name("attn_k_b"), &[latent.nope_dim, latent.kv_rank, n]);
        self.add(name("attn_v_b"), &[latent.kv_rank, shape.head_dim, n]);
        self.add(name("attn_output"), &[n * shape.head_dim, shape.n_embd]);
    }

    fn feed_forward(&mut self, layer: u64) {
        let shape = self.shape;
        let name = |kind: &str| format!("blk.{layer}.{kind}.weight");
        if shape.arch == "phi3" {
            // Gate and up in one.
            self.add(name("ffn_up"), &[shape.n_embd, 2 * shape.n_ff]);
        } else {
            self.add(name("ffn_gate"), &[shape.n_embd, shape.n_ff]);
            self.add(name("ffn_up"), &[shape.n_embd, shape.n_ff]);
        }
        self.add(name("ffn_down"), &[shape.n_ff, shape.n_embd]);
    }

    fn experts(&mut self, layer: u64, experts: Experts) {
        let n_embd = self.shape.n_embd;
        let name = |kind: &str| format!("blk.{layer}.{kind}");
        self.add(name("ffn_gate_inp.weight"), &[n_embd, experts.n]);
        let has_biases = self.shape.arch == "gpt-oss";
        if has_biases {
            self.add(name("ffn_gate_inp.bias"), &[experts.n]);
        }
        if self.shape.arch == "deepseek2" {
            self.add(name("exp_probs_b.bias"), &[experts.n]);
        }
        let parts =
            [("gate", n_embd, experts.n_ff), ("up", n_embd, experts.n_ff), ("down", experts.n_ff, n_embd)];
        for (kind, n_in, n_out) in parts {
            self.add(name(&format!("ffn_{kind}_exps.weight")), &[n_in, n_out, experts.n]);
            if has_biases {
                self.add(name(&format!("ffn_{kind}_exps.bias")), &[n_out, experts.n]);
            }
        }
        if experts.shared > 0 {
            let n_ff = experts.n_ff * experts.shared;
            for (kind, n_in, n_out) in [("gate", n_embd, n_ff), ("up", n_embd, n_ff), ("down", n_ff, n_embd)]
            {
                self.add(name(&format!("ffn_{kind}_shexp.weight")), &[n_in, n_out]);
            }
        }
    }
}
