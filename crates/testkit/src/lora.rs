//! Tiny adapters with seeded weights, as GGUF and as PEFT saves them.

use ingle_gguf::{GgufWriter, Value};

use crate::rng::Rng;
use crate::tiny::{Arch, TinySpec};

/// The modules of a layer: PEFT's name, GGUF's name.
pub const MODULES: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// A tiny adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyLora {
    /// Of all pairs.
    pub rank: usize,
    /// Its strength, divided by the rank.
    pub alpha: f32,
    /// Divided by the rank's square root instead. PEFT only.
    pub rslora: bool,
    /// Which of [`MODULES`], by PEFT's last word.
    pub modules: Vec<&'static str>,
    /// Also the embedding table and the output matrix.
    pub embeddings: bool,
    /// Of the weights.
    pub seed: u64,
}

/// An adapter as PEFT saves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Peft {
    /// `adapter_config.json`
    pub config: String,
    /// `adapter_model.safetensors`
    pub tensors: Vec<u8>,
}

/// One adapted matrix, in the order of rows that Hugging Face's models have.
struct Pair {
    module: String,
    name: String,
    n_in: usize,
    n_out: usize,
    /// `(rank, n_in)`
    a: Vec<f32>,
    /// `(n_out, rank)`
    b: Vec<f32>,
    /// Heads whose rows are in another order in the model's file.
    moved_heads: Option<usize>,
}

impl TinyLora {
    /// Of every matrix, with rank 4.
    pub fn new(seed: u64) -> Self {
        let modules =
            MODULES.iter().map(|(module, _)| module.rsplit('.').next().expect("not empty")).collect();
        Self { rank: 4, alpha: 8.0, rslora: false, modules, embeddings: true, seed }
    }

    /// The same of some modules alone.
    pub fn of(self, modules: &[&'static str]) -> Self {
        Self { modules: modules.to_vec(), embeddings: false, ..self }
    }

    fn pairs(&self, base: &TinySpec) -> Vec<Pair> {
        let (n_q, n_kv) = (base.n_heads * base.head_dim, base.n_kv_heads * base.head_dim);
        let mut rng = Rng::new(self.seed);
        let mut numbers =
            |n: usize, deviation: f32| -> Vec<f32> { (0..n).map(|_| deviation * rng.normal()).collect() };
        let mut pair = |module: String, name: String, n_in: usize, n_out: usize, moved_heads| Pair {
            module,
            name,
            n_in,
            n_out,
            a: numbers(self.rank * n_in, 1.0 / (n_in as f32).sqrt()),
            b: numbers(n_out * self.rank, 0.3),
            moved_heads,
        };
        let mut out = Vec::new();
        for layer in 0..base.n_layers {
            for (module, stem) in MODULES {
                if !self.modules.iter().any(|wanted| module.ends_with(wanted)) {
                    continue;
                }
                let (n_in, n_out) = match stem {
                    "attn_q" => (base.n_embd, n_q),
                    "attn_k" | "attn_v" => (base.n_embd, n_kv),
                    "attn_output" => (n_q, base.n_embd),
                    "ffn_down" => (base.n_ff, base.n_embd),
                    _ => (base.n_embd, base.n_ff),
                };
                let moved_heads = match (base.arch, stem) {
                    (Arch::Llama, "attn_q") => Some(base.n_heads),
                    (Arch::Llama, "attn_k") => Some(base.n_kv_heads),
                    _ => None,
                };
                let name = format!("blk.{layer}.{stem}.weight");
                out.push(pair(format!("model.layers.{layer}.{module}"), name, n_in, n_out, moved_heads));
            }
        }
        if self.embeddings {
            let (n_vocab, n_embd) = (base.n_vocab, base.n_embd);
            let mut table =
                pair("model.embed_tokens".into(), "token_embd.weight".into(), n_vocab, n_embd, None);
            // A token picks one column: its numbers are not summed up.
            table.a.iter_mut().for_each(|x| *x *= (n_vocab as f32).sqrt() / 2.0);
            out.push(table);
            out.push(pair("lm_head".into(), "output.weight".into(), base.n_embd, base.n_vocab, None));
        }
        out
    }

    /// As GGUF, for a base model.
    pub fn gguf(&self, base: &TinySpec) -> GgufWriter {
        let mut file = GgufWriter::new();
        file.set("general.type", "adapter".into());
        file.set("general.architecture", base.arch.name().into());
        file.set("adapter.type", "lora".into());
        file.set("adapter.lora.alpha", Value::F32(self.alpha));
        let rank = self.rank as u64;
        for pair in self.pairs(base) {
            let (n_in, n_out) = (pair.n_in as u64, pair.n_out as u64);
            let (a, b) = (format!("{}.lora_a", pair.name), format!("{}.lora_b", pair.name));
            if pair.name == "token_embd.weight" {
                let rows = transposed(&pair.a, self.rank, pair.n_in);
                file.tensor_f32(&a, &[rank, n_in], &rows);
            } else {
                file.tensor_f32(&a, &[n_in, rank], &pair.a);
            }
            let rows = match pair.moved_heads {
                Some(n_heads) => interleaved(&pair.b, n_heads, self.rank),
                None => pair.b,
            };
            file.tensor_f32(&b, &[rank, n_out], &rows);
        }
        file
    }

    /// As PEFT saves it, for a base model.
    pub fn peft(&self, base: &TinySpec) -> Peft {
        let mut tensors = Vec::new();
        for pair in self.pairs(base) {
            let (a, b) = match pair.module.as_str() {
                "model.embed_tokens" => ("lora_embedding_A", "lora_embedding_B"),
                _ => ("lora_A.weight", "lora_B.weight"),
            };
            let path = format!("base_model.model.{}", pair.module);
            tensors.push((format!("{path}.{a}"), vec![self.rank, pair.n_in], pair.a));
            tensors.push((format!("{path}.{b}"), vec![pair.n_out, self.rank], pair.b));
        }
        let modules: Vec<String> = self.modules.iter().map(|module| format!("\"{module}\"")).collect();
        let config = format!(
            r#"{{"peft_type": "LORA", "r": {}, "lora_alpha": {}, "use_rslora": {}, "bias": "none", "target_modules": [{}]}}"#,
            self.rank,
            self.alpha,
            self.rslora,
            modules.join(", ")
        );
        Peft { config, tensors: safetensors(&tensors) }
    }
}

/// A file of F32 tensors: names, shapes, numbers.
pub fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, shape, numbers)| {
            let start = at;
            at += 4 * numbers.len();
            format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{at}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.extend(tensors.iter().flat_map(|(_, _, numbers)| numbers).flat_map(|x| x.to_le_bytes()));
    out
}

fn transposed(x: &[f32], n_rows: usize, n_cols: usize) -> Vec<f32> {
    (0..n_cols).flat_map(|col| (0..n_rows).map(move |row| x[row * n_cols + col])).collect()
}

/// The halves of each head, row by row in turns: what converting a model of Llama's does to Q and K.
fn interleaved(rows: &[f32], n_heads: usize, n_cols: usize) -> Vec<f32> {
    let head_len = rows.len() / n_heads;
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_len) {
        let (first, second) = head.split_at(head_len / 2);
        for (a, b) in first.chunks_exact(n_cols).zip(second.chunks_exact(n_cols)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}
