//! Tiny models that embed and rank texts, with seeded weights, as GGUF bytes: every tensor is perturbed, as in
//! [`crate::tiny`], and the vocabulary is a whole WordPiece tokenizer.

use ingle_gguf::{Array, GgufWriter, StringArray, TensorType, Value};

use crate::tiny::Tensors;

/// What has no letters, in front of the vocabulary.
pub const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// The id of `[CLS]`.
pub const CLS: u32 = 2;
/// The id of `[SEP]`.
pub const SEP: u32 = 3;

/// Pieces beyond single characters. `▁` begins a word.
const PIECES: [&str; 11] =
    ["▁the", "ing", "▁of", "▁and", "er", "ed", "▁what", "▁is", "tion", "▁query", "▁text"];

/// A tiny model of architecture `bert`.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the file format")]
pub struct TinyBert {
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_heads: usize,
    pub n_ff: usize,
    /// At least 160.
    pub n_vocab: usize,
    pub n_ctx: usize,
    pub n_token_types: usize,
    pub norm_eps: f32,
    /// 1 mean, 2 cls, 4 rank.
    pub pooling_type: u32,
    /// Numbers that a head gives; 0 if there is none.
    pub n_labels: usize,
    /// Whether another layer with a tanh comes before the head's.
    pub dense: bool,
    /// Type of all matrices; where rows do not fill its blocks, a matrix is F16.
    pub weight_type: TensorType,
    pub seed: u64,
}

impl Default for TinyBert {
    /// Two layers, pooled by the mean, without a head.
    fn default() -> Self {
        Self {
            n_layers: 2,
            n_embd: 64,
            n_heads: 4,
            n_ff: 96,
            n_vocab: 160,
            n_ctx: 256,
            n_token_types: 2,
            norm_eps: 1e-12,
            pooling_type: 1,
            n_labels: 0,
            dense: false,
            weight_type: TensorType::F32,
            seed: 1,
        }
    }
}

impl TinyBert {
    /// A model that ranks pairs of texts.
    pub fn ranking() -> Self {
        Self { pooling_type: 4, n_labels: 1, dense: true, ..Self::default() }
    }

    /// The file as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.build().to_bytes()
    }

    /// The file.
    pub fn build(&self) -> GgufWriter {
        let mut file = GgufWriter::new();
        self.put_hparams(&mut file);
        self.put_vocabulary(&mut file);
        self.put_tensors(&mut file);
        file
    }

    fn put_hparams(&self, file: &mut GgufWriter) {
        let int = |v: usize| Value::U32(v as u32);
        file.set("general.architecture", "bert".into());
        file.set("general.name", "tiny bert".into());
        for (key, value) in [
            ("context_length", int(self.n_ctx)),
            ("embedding_length", int(self.n_embd)),
            ("block_count", int(self.n_layers)),
            ("feed_forward_length", int(self.n_ff)),
            ("attention.head_count", int(self.n_heads)),
            ("attention.layer_norm_epsilon", Value::F32(self.norm_eps)),
            ("attention.causal", Value::Bool(false)),
            ("pooling_type", Value::U32(self.pooling_type)),
        ] {
            file.set(&format!("bert.{key}"), value);
        }
        if self.n_labels > 0 {
            let labels: StringArray = (0..self.n_labels).map(|i| format!("LABEL_{i}")).collect();
            file.set("bert.classifier.output_labels", Value::Array(Array::String(labels)));
        }
    }

    fn put_vocabulary(&self, file: &mut GgufWriter) {
        let (mut tokens, mut types) = (StringArray::default(), Vec::new());
        for special in SPECIAL {
            tokens.push(special.as_bytes());
            types.push(3);
        }
        for c in (b'!'..=b'~').filter(|c| !c.is_ascii_uppercase()).map(char::from) {
            tokens.push(format!("▁{c}").as_bytes());
            tokens.push(c.to_string().as_bytes());
            types.extend([1, 1]);
        }
        for piece in PIECES {
            tokens.push(piece.as_bytes());
            types.push(1);
        }
        assert!(tokens.len() <= self.n_vocab, "a vocabulary of {} has too little room", self.n_vocab);
        for id in tokens.len()..self.n_vocab {
            tokens.push(format!("[unused{id}]").as_bytes());
            types.push(5);
        }
        file.set("tokenizer.ggml.model", "bert".into());
        file.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        file.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        file.set("tokenizer.ggml.token_type_count", Value::U32(self.n_token_types as u32));
        for (name, id) in [("padding", 0), ("unknown", 1), ("cls", CLS), ("seperator", SEP), ("mask", 4)] {
            file.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }

    fn put_tensors(&self, file: &mut GgufWriter) {
        let n = self.n_embd;
        let mut tensors = Tensors::new(file, self.seed, self.weight_type);
        tensors.rows("token_embd.weight", n, self.n_vocab, 1.0);
        // Tables that are added are stored as floats.
        tensors.ty = TensorType::F32;
        tensors.rows("token_types.weight", n, self.n_token_types, 0.5);
        tensors.rows("position_embd.weight", n, self.n_ctx, 0.5);
        tensors.ty = self.weight_type;
        let layer_norm = |tensors: &mut Tensors<'_>, stem: &str| {
            tensors.norm(&format!("{stem}.weight"), n);
            tensors.bias(&format!("{stem}.bias"), n);
        };
        layer_norm(&mut tensors, "token_embd_norm");
        let linear = |tensors: &mut Tensors<'_>, stem: &str, n_in, n_out| {
            tensors.matrix(&format!("{stem}.weight"), n_in, n_out);
            tensors.bias(&format!("{stem}.bias"), n_out);
        };
        for layer_idx in 0..self.n_layers {
            let name = |kind: &str| format!("blk.{layer_idx}.{kind}");
            for kind in ["attn_q", "attn_k", "attn_v", "attn_output"] {
                linear(&mut tensors, &name(kind), n, n);
            }
            layer_norm(&mut tensors, &name("attn_output_norm"));
            linear(&mut tensors, &name("ffn_up"), n, self.n_ff);
            linear(&mut tensors, &name("ffn_down"), self.n_ff, n);
            layer_norm(&mut tensors, &name("layer_output_norm"));
        }
        if self.dense {
            linear(&mut tensors, "cls", n, n);
        }
        if self.n_labels > 0 {
            linear(&mut tensors, "cls.output", n, self.n_labels);
        }
    }
}
