//! Tiny models with seeded weights, as GGUF bytes.
//!
//! Every tensor is perturbed: no norm is all ones, no bias is zero, so that forgetting any of them changes the
//! results. Weights are scaled by the square root of their inputs, so activations stay around 1. The vocabulary
//! is a whole byte-level tokenizer with control tokens and a chat template, so that tests can run all of Ingle.

use ingle_gguf::{Array, GgufWriter, StringArray, TensorType, Value};

use crate::quant::quantize;
use crate::rng::Rng;

/// Tokens that a vocabulary has at least: the bytes and [`CONTROL_TOKENS`].
pub const N_VOCAB_MIN: usize = 256 + CONTROL_TOKENS.len();

/// The control tokens; they follow the 256 byte tokens. The first one ends a text, the last one a turn.
pub const CONTROL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The id of `<|endoftext|>`, the end-of-text and padding token.
pub const END_OF_TEXT: u32 = 256;
/// The id of `<|im_start|>`.
pub const IM_START: u32 = 257;
/// The id of `<|im_end|>`, the end-of-turn token.
pub const IM_END: u32 = 258;

/// The chat template of tiny models.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content \
                          + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
                          {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Merges beyond single bytes, in order of rank; the vocabulary takes as many as fit.
const MERGES: [(&str, &str); 24] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("i", "n"),
    ("r", "e"),
    ("o", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("Ġ", "a"),
    ("o", "u"),
    ("n", "d"),
    ("Ġ", "s"),
    ("l", "l"),
    ("Ġ", "w"),
    ("o", "r"),
    ("in", "g"),
    ("Ġa", "nd"),
    ("e", "n"),
    ("i", "s"),
    ("a", "t"),
    ("Ġ", "o"),
    ("Ġo", "f"),
    ("e", "d"),
    ("Ġt", "o"),
    ("y", "ou"),
];

/// Which architecture a tiny model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// How positions beyond the original context are reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Rope {
    /// Not at all.
    Plain,
    /// All positions divided by the factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// YaRN: high frequencies stay, low ones are divided, and attention is sharpened.
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// The context of the original training.
        original: u32,
    },
    /// Llama 3: a tensor of divisors.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// The context of the original training.
        original: u32,
    },
    /// longrope: two tensors of divisors, for short and long contexts, and an attention factor.
    LongRope {
        /// The context of the original training.
        original: u32,
        /// Multiplies sine and cosine.
        attn_factor: f32,
    },
}

/// A tiny model.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the file format")]
pub struct TinySpec {
    pub arch: Arch,
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_ff: usize,
    /// At least [`N_VOCAB_MIN`].
    pub n_vocab: usize,
    pub n_ctx: usize,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
    /// Type of all matrices; where rows do not fill its blocks, a matrix is F16.
    pub weight_type: TensorType,
    pub rope: Rope,
    pub rope_base: f32,
    pub rms_eps: f32,
    /// Whether Q, K and V have biases; in Llama, the attention's output too.
    pub biases: bool,
    pub sliding_window: Option<u32>,
    pub seed: u64,
}

impl TinySpec {
    /// Two layers that run in microseconds; every dimension is a different number, heads are grouped.
    pub fn new(arch: Arch) -> Self {
        Self {
            arch,
            n_layers: 2,
            n_embd: 64,
            n_heads: 4,
            n_kv_heads: 2,
            // Qwen3's heads need not divide the embedding: tests use that.
            head_dim: if arch == Arch::Qwen3 { 32 } else { 16 },
            n_ff: 96,
            n_vocab: 288,
            n_ctx: 512,
            tied: arch != Arch::Llama,
            weight_type: TensorType::F32,
            rope: Rope::Plain,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
            biases: arch == Arch::Qwen2,
            sliding_window: None,
            seed: 1,
        }
    }

    /// The same with other weights.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same with matrices of another type.
    pub fn weight_type(self, weight_type: TensorType) -> Self {
        Self { weight_type, ..self }
    }

    /// The same with wide rows: 256 and more, so that K-quants fit every matrix.
    pub fn wide(self) -> Self {
        Self { n_embd: 256, n_heads: 8, n_kv_heads: 4, head_dim: 32, n_ff: 512, ..self }
    }

    /// The file as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.build().to_bytes()
    }

    /// The file.
    ///
    /// # Panics
    /// If the vocabulary is smaller than [`N_VOCAB_MIN`].
    pub fn build(&self) -> GgufWriter {
        let mut file = GgufWriter::new();
        self.put_hparams(&mut file);
        self.put_vocabulary(&mut file);
        self.put_tensors(&mut file);
        file
    }

    fn put_hparams(&self, file: &mut GgufWriter) {
        let arch = self.arch.name();
        let int = |v: usize| Value::U32(v as u32);
        file.set("general.architecture", arch.into());
        file.set("general.name", format!("tiny {arch}").as_str().into());
        for (key, value) in [
            ("context_length", int(self.n_ctx)),
            ("embedding_length", int(self.n_embd)),
            ("block_count", int(self.n_layers)),
            ("feed_forward_length", int(self.n_ff)),
            ("attention.head_count", int(self.n_heads)),
            ("attention.head_count_kv", int(self.n_kv_heads)),
            ("attention.key_length", int(self.head_dim)),
            ("attention.value_length", int(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F32(self.rms_eps)),
            ("rope.dimension_count", int(self.head_dim)),
            ("rope.freq_base", Value::F32(self.rope_base)),
            ("vocab_size", int(self.n_vocab)),
        ] {
            file.set(&format!("{arch}.{key}"), value);
        }
        if let Some(window) = self.sliding_window {
            file.set(&format!("{arch}.attention.sliding_window"), Value::U32(window));
        }
        let mut scaling = |key: &str, value| {
            file.set(&format!("{arch}.rope.scaling.{key}"), value);
        };
        match self.rope {
            Rope::Plain | Rope::Llama3 { .. } => {}
            Rope::Linear { factor } => {
                scaling("type", "linear".into());
                scaling("factor", Value::F32(factor));
            }
            Rope::Yarn { factor, original } => {
                scaling("type", "yarn".into());
                scaling("factor", Value::F32(factor));
                scaling("original_context_length", Value::U32(original));
            }
            Rope::LongRope { original, attn_factor } => {
                scaling("type", "longrope".into());
                scaling("original_context_length", Value::U32(original));
                scaling("attn_factor", Value::F32(attn_factor));
            }
        }
    }

    fn put_vocabulary(&self, file: &mut GgufWriter) {
        assert!(self.n_vocab >= N_VOCAB_MIN, "a vocabulary of {} has no room for the bytes", self.n_vocab);
        let (mut tokens, mut types, mut merges) =
            (StringArray::default(), Vec::new(), StringArray::default());
        for byte in 0..=255u8 {
            tokens.push(byte_char(byte).to_string().as_bytes());
            types.push(1);
        }
        for token in CONTROL_TOKENS {
            tokens.push(token.as_bytes());
            types.push(3);
        }
        for (left, right) in MERGES.iter().take(self.n_vocab - N_VOCAB_MIN) {
            tokens.push(format!("{left}{right}").as_bytes());
            types.push(1);
            merges.push(format!("{left} {right}").as_bytes());
        }
        for id in tokens.len()..self.n_vocab {
            tokens.push(format!("<|unused{id}|>").as_bytes());
            types.push(5);
        }
        file.set("tokenizer.ggml.model", "gpt2".into());
        file.set("tokenizer.ggml.pre", "gpt-2".into());
        file.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        file.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        file.set("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
        file.set("tokenizer.ggml.eos_token_id", Value::U32(IM_END));
        file.set("tokenizer.ggml.padding_token_id", Value::U32(END_OF_TEXT));
        file.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        file.set("tokenizer.chat_template", CHATML.into());
    }

    fn put_tensors(&self, file: &mut GgufWriter) {
        let mut tensors = Tensors::new(file, self.seed, self.weight_type);
        let (n_q, n_kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        // Logits get a deviation of about 3: some tokens are likely, none certain.
        let head_deviation = 3.0 / (self.n_embd as f32).sqrt();
        let embd_deviation = if self.tied { head_deviation } else { 1.0 };
        tensors.rows("token_embd.weight", self.n_embd, self.n_vocab, embd_deviation);
        for layer_idx in 0..self.n_layers {
            let name = |kind: &str| format!("blk.{layer_idx}.{kind}");
            tensors.norm(&name("attn_norm.weight"), self.n_embd);
            for (kind, n_in, n_out) in [
                ("attn_q", self.n_embd, n_q),
                ("attn_k", self.n_embd, n_kv),
                ("attn_v", self.n_embd, n_kv),
                ("attn_output", n_q, self.n_embd),
            ] {
                tensors.matrix(&name(&format!("{kind}.weight")), n_in, n_out);
                if self.biases && (kind != "attn_output" || self.arch == Arch::Llama) {
                    tensors.bias(&name(&format!("{kind}.bias")), n_out);
                }
            }
            if self.arch == Arch::Qwen3 {
                tensors.norm(&name("attn_q_norm.weight"), self.head_dim);
                tensors.norm(&name("attn_k_norm.weight"), self.head_dim);
            }
            tensors.norm(&name("ffn_norm.weight"), self.n_embd);
            tensors.matrix(&name("ffn_gate.weight"), self.n_embd, self.n_ff);
            tensors.matrix(&name("ffn_up.weight"), self.n_embd, self.n_ff);
            tensors.matrix(&name("ffn_down.weight"), self.n_ff, self.n_embd);
        }
        tensors.norm("output_norm.weight", self.n_embd);
        if !self.tied {
            tensors.rows("output.weight", self.n_embd, self.n_vocab, head_deviation);
        }
        self.put_rope_factors(tensors);
    }

    fn put_rope_factors(&self, mut tensors: Tensors<'_>) {
        let half = self.head_dim / 2;
        match self.rope {
            Rope::Llama3 { factor, original } => {
                let factors = llama3_factors(self.head_dim, self.rope_base, factor, 1.0, 4.0, original);
                tensors.file.tensor_f32("rope_freqs.weight", &[half as u64], &factors);
            }
            Rope::LongRope { .. } => {
                for (name, least) in [("rope_factors_long.weight", 1.5), ("rope_factors_short.weight", 1.0)] {
                    let factors: Vec<f32> =
                        (0..half).map(|i| least + 0.1 * i as f32 + 0.5 * tensors.rng.unit()).collect();
                    tensors.file.tensor_f32(name, &[half as u64], &factors);
                }
            }
            Rope::Plain | Rope::Linear { .. } | Rope::Yarn { .. } => {}
        }
    }
}

/// Llama 3's divisors: 1 for wavelengths below `original / high`, `factor` above `original / low`, smooth between.
pub fn llama3_factors(n_rot: usize, base: f32, factor: f32, low: f32, high: f32, original: u32) -> Vec<f32> {
    let original = original as f32;
    (0..n_rot / 2)
        .map(|i| {
            let wavelength = 2.0 * std::f32::consts::PI * base.powf(2.0 * i as f32 / n_rot as f32);
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        })
        .collect()
}

/// The character that byte-level vocabularies write for a byte: printable ones stand for themselves, the others
/// move to U+0100 and up in order.
pub fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("U+0100 to U+0143 are characters")
}

/// Adds random tensors to a file.
pub(crate) struct Tensors<'a> {
    file: &'a mut GgufWriter,
    rng: Rng,
    pub(crate) ty: TensorType,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(file: &'a mut GgufWriter, seed: u64, ty: TensorType) -> Self {
        Self { file, rng: Rng::new(seed), ty }
    }

    pub(crate) fn norm(&mut self, name: &str, n: usize) {
        let data: Vec<f32> = (0..n).map(|_| 1.0 + 0.25 * self.rng.normal()).collect();
        self.file.tensor_f32(name, &[n as u64], &data);
    }

    pub(crate) fn bias(&mut self, name: &str, n: usize) {
        let data: Vec<f32> = (0..n).map(|_| 0.5 * self.rng.normal()).collect();
        self.file.tensor_f32(name, &[n as u64], &data);
    }

    pub(crate) fn matrix(&mut self, name: &str, n_in: usize, n_out: usize) {
        self.rows(name, n_in, n_out, 1.0 / (n_in as f32).sqrt());
    }

    pub(crate) fn rows(&mut self, name: &str, n_in: usize, n_out: usize, deviation: f32) {
        let data: Vec<f32> = (0..n_in * n_out).map(|_| deviation * self.rng.normal()).collect();
        let ty = if n_in.is_multiple_of(self.ty.block_len()) { self.ty } else { TensorType::F16 };
        self.file.tensor(name, ty, &[n_in as u64, n_out as u64], quantize(ty, &data));
    }
}

#[cfg(test)]
mod tests {
    use ingle_gguf::GgufFile;

    use super::*;

    #[test]
    fn every_kind_is_a_readable_file() {
        use TensorType::*;
        for arch in Arch::ALL {
            for ty in [F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K] {
                let spec = TinySpec::new(arch).wide().weight_type(ty);
                let file = GgufFile::from_bytes(spec.bytes()).expect("a tiny model is a valid file");
                assert_eq!(file.metadata().str("general.architecture").ok(), Some(arch.name()));
                let q = file.tensor("blk.1.attn_output.weight").expect("each layer has this matrix");
                assert_eq!((q.ty, &q.dims[..]), (ty, &[256, 256][..]));
            }
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let spec = TinySpec::new(Arch::Qwen3);
        assert_eq!(spec.bytes(), spec.bytes());
        assert_ne!(spec.bytes(), spec.clone().seed(2).bytes());
    }

    #[test]
    fn byte_chars_are_distinct() {
        let chars: std::collections::HashSet<char> = (0..=255).map(byte_char).collect();
        assert_eq!(chars.len(), 256);
        assert_eq!((byte_char(b' '), byte_char(b'\n'), byte_char(0)), ('Ġ', 'Ċ', 'Ā'));
    }
}
