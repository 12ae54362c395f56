//! Files of real models' shapes with random weights: benchmarks need no download.
//!
//! A name is a shape and a mixture, such as `llama-1b:Q4_K_M`. The weights are a few random patterns of about a
//! megabyte, repeated; their scales keep activations finite and around 1, so that kernels take no shortcut and no
//! slow path that real weights would not. What such a model says is noise.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use half::{bf16, f16};
use ingle_gguf::{Array, GgufWriter, StringArray, TensorType, Value};
use ingle_kernels::Matrix;

use crate::error::ModelError;

/// Bytes of a pattern, about.
const PATTERN_BYTES: usize = 1 << 20;
/// Deviation of the uniform distribution on `-1..1`.
const UNIFORM_DEVIATION: f32 = 0.577;

/// The shape of a known model.
#[derive(Debug)]
struct Shape {
    name: &'static str,
    arch: &'static str,
    n_layers: usize,
    n_embd: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_ff: usize,
    n_vocab: usize,
    n_ctx: usize,
    tied: bool,
    rope_base: f32,
    /// Llama 3.1's divisor of low frequencies, over an original context of 8192.
    rope_factor: Option<f32>,
    rms_eps: f32,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "llama-1b",
        arch: "llama",
        n_layers: 16,
        n_embd: 2048,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        n_ff: 8192,
        n_vocab: 128_256,
        n_ctx: 131_072,
        tied: true,
        rope_base: 500_000.0,
        rope_factor: Some(32.0),
        rms_eps: 1e-5,
    },
    Shape {
        name: "llama-8b",
        arch: "llama",
        n_layers: 32,
        n_embd: 4096,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        n_ff: 14_336,
        n_vocab: 128_256,
        n_ctx: 131_072,
        tied: false,
        rope_base: 500_000.0,
        rope_factor: Some(8.0),
        rms_eps: 1e-5,
    },
    Shape {
        name: "qwen2.5-0.5b",
        arch: "qwen2",
        n_layers: 24,
        n_embd: 896,
        n_heads: 14,
        n_kv_heads: 2,
        head_dim: 64,
        n_ff: 4864,
        n_vocab: 151_936,
        n_ctx: 32_768,
        tied: true,
        rope_base: 1_000_000.0,
        rope_factor: None,
        rms_eps: 1e-6,
    },
    Shape {
        name: "qwen3-0.6b",
        arch: "qwen3",
        n_layers: 28,
        n_embd: 1024,
        n_heads: 16,
        n_kv_heads: 8,
        head_dim: 128,
        n_ff: 3072,
        n_vocab: 151_936,
        n_ctx: 40_960,
        tied: true,
        rope_base: 1_000_000.0,
        rope_factor: None,
        rms_eps: 1e-6,
    },
];

/// Which type each matrix has: all the same, or a mixture of llama-quantize's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixture {
    Pure(TensorType),
    Q2K,
    Q3KM,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
}

/// Mixtures by name. `Q2_K` is a mixture, not the type alone.
const MIXTURES: [(&str, Mixture); 6] = [
    ("Q2_K", Mixture::Q2K),
    ("Q3_K_M", Mixture::Q3KM),
    ("Q4_K_S", Mixture::Q4KS),
    ("Q4_K_M", Mixture::Q4KM),
    ("Q5_K_S", Mixture::Q5KS),
    ("Q5_K_M", Mixture::Q5KM),
];

/// A model of a known shape with random weights.
#[derive(Debug)]
pub struct Synthetic {
    shape: &'static Shape,
    mixture: Mixture,
}

impl Synthetic {
    /// The model of this name, such as `llama-1b:Q4_K_M`.
    ///
    /// # Errors
    /// If shape or mixture is unknown; the message lists the known ones.
    pub fn parse(name: &str) -> Result<Self, ModelError> {
        let (shape_name, mixture_name) = name.split_once(':').unwrap_or((name, "Q4_K_M"));
        let shape = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(shape_name)).ok_or_else(|| {
            let known: Vec<&str> = Self::shapes().collect();
            ModelError::Options(format!(
                "synthetic model `{shape_name}` is unknown (known: {})",
                known.join(", ")
            ))
        })?;
        let pure = Matrix::TYPES.into_iter().map(|ty| (ty.name(), Mixture::Pure(ty)));
        let pure = pure.filter(|(name, _)| MIXTURES.iter().all(|(mixture, _)| mixture != name));
        let known: Vec<_> = MIXTURES.into_iter().chain(pure).collect();
        let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(mixture_name));
        let &(_, mixture) = found.ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            ModelError::Options(format!("mixture `{mixture_name}` is unknown (known: {})", names.join(", ")))
        })?;
        Ok(Self { shape, mixture })
    }

    /// The names of all shapes.
    pub fn shapes() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|s| s.name)
    }

    /// Writes the file. Memory stays at a few megabytes, whatever the model's size.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let shape = self.shape;
        let mut file = GgufWriter::new();
        shape.put_hparams(&mut file);
        shape.put_vocabulary(&mut file);
        let mut tensors = Tensors { file: &mut file, rng: Rng(1), patterns: HashMap::new() };
        let (n_q, n_kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let embd_type = if shape.tied { self.head_type() } else { self.bulk_type() };
        tensors.matrix("token_embd.weight", embd_type, shape.n_embd, shape.n_vocab);
        for layer_idx in 0..shape.n_layers {
            let name = |kind: &str| format!("blk.{layer_idx}.{kind}");
            tensors.vector(&name("attn_norm.weight"), shape.n_embd, 1.0);
            let matrix = |tensors: &mut Tensors<'_>, kind: &str, n_in, n_out| {
                let ty = self.layer_type(kind, layer_idx);
                tensors.matrix(&name(&format!("{kind}.weight")), ty, n_in, n_out);
            };
            for (kind, n_in, n_out) in [
                ("attn_q", shape.n_embd, n_q),
                ("attn_k", shape.n_embd, n_kv),
                ("attn_v", shape.n_embd, n_kv),
                ("attn_output", n_q, shape.n_embd),
            ] {
                matrix(&mut tensors, kind, n_in, n_out);
                if shape.arch == "qwen2" && kind != "attn_output" {
                    tensors.vector(&name(&format!("{kind}.bias")), n_out, 0.0);
                }
            }
            if shape.arch == "qwen3" {
                tensors.vector(&name("attn_q_norm.weight"), shape.head_dim, 1.0);
                tensors.vector(&name("attn_k_norm.weight"), shape.head_dim, 1.0);
            }
            tensors.vector(&name("ffn_norm.weight"), shape.n_embd, 1.0);
            matrix(&mut tensors, "ffn_gate", shape.n_embd, shape.n_ff);
            matrix(&mut tensors, "ffn_up", shape.n_embd, shape.n_ff);
            matrix(&mut tensors, "ffn_down", shape.n_ff, shape.n_embd);
        }
        tensors.vector("output_norm.weight", shape.n_embd, 1.0);
        if !shape.tied {
            tensors.matrix("output.weight", self.head_type(), shape.n_embd, shape.n_vocab);
        }
        if let Some(factor) = shape.rope_factor {
            let factors = shape.llama3_factors(factor);
            file.tensor_f32("rope_freqs.weight", &[factors.len() as u64], &factors);
        }
        file.write(out)
    }

    /// The type of most matrices.
    fn bulk_type(&self) -> TensorType {
        match self.mixture {
            Mixture::Pure(ty) => ty,
            Mixture::Q2K => TensorType::Q2_K,
            Mixture::Q3KM => TensorType::Q3_K,
            Mixture::Q4KS | Mixture::Q4KM => TensorType::Q4_K,
            Mixture::Q5KS | Mixture::Q5KM => TensorType::Q5_K,
        }
    }

    fn head_type(&self) -> TensorType {
        match self.mixture {
            Mixture::Pure(ty) => ty,
            _ => TensorType::Q6_K,
        }
    }

    /// The type of a layer's matrix.
    fn layer_type(&self, kind: &str, layer_idx: usize) -> TensorType {
        let n = self.shape.n_layers;
        // The outer eighths of the layers and every third between.
        let more_bits = layer_idx < n / 8 || layer_idx >= 7 * n / 8 || (layer_idx - n / 8) % 3 == 2;
        let few_values = self.shape.n_heads / self.shape.n_kv_heads >= 4;
        match (self.mixture, kind) {
            (Mixture::Q2K, "attn_v") if few_values => TensorType::Q4_K,
            (Mixture::Q2K, "attn_v" | "attn_output" | "ffn_down") => TensorType::Q3_K,
            (Mixture::Q3KM, "attn_v") if layer_idx < 2 => TensorType::Q5_K,
            (Mixture::Q3KM, "ffn_down") if layer_idx < n / 16 => TensorType::Q5_K,
            (Mixture::Q3KM, "attn_v" | "attn_output" | "ffn_down") => TensorType::Q4_K,
            (Mixture::Q4KS, "attn_v") if layer_idx < 4 => TensorType::Q5_K,
            (Mixture::Q4KS, "ffn_down") if layer_idx < n / 8 => TensorType::Q5_K,
            (Mixture::Q4KM | Mixture::Q5KM, "attn_v" | "ffn_down") if more_bits => TensorType::Q6_K,
            _ => self.bulk_type(),
        }
    }
}

impl Shape {
    fn put_hparams(&self, file: &mut GgufWriter) {
        let int = |v: usize| Value::U32(v as u32);
        file.set("general.architecture", self.arch.into());
        file.set("general.name", format!("synthetic {}", self.name).as_str().into());
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
            file.set(&format!("{}.{key}", self.arch), value);
        }
    }

    /// A byte-level vocabulary: 256 bytes, an end token, and a number for each of the rest. Texts are made of bytes, since
    /// nothing merges; answers have text for every token, so that servers stream them one by one.
    fn put_vocabulary(&self, file: &mut GgufWriter) {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let (mut tokens, mut types) = (StringArray::default(), vec![1; 256]);
        let mut moved = 0x100..;
        for byte in 0..=255u8 {
            let code = if printable(byte) { u32::from(byte) } else { moved.next().unwrap_or_default() };
            tokens.push(char::from_u32(code).unwrap_or_default().to_string().as_bytes());
        }
        tokens.push(b"<|endoftext|>");
        types.push(3);
        for id in tokens.len()..self.n_vocab {
            // U+0120 stands for the space.
            tokens.push(format!("\u{120}{id}").as_bytes());
            types.push(1);
        }
        file.set("tokenizer.ggml.model", "gpt2".into());
        file.set("tokenizer.ggml.pre", "gpt-2".into());
        file.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        file.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        file.set("tokenizer.ggml.merges", Value::Array(Array::String(StringArray::default())));
        file.set("tokenizer.ggml.eos_token_id", Value::U32(256));
    }

    /// 1 for wavelengths below 2048 positions, `factor` above 8192, smooth between.
    fn llama3_factors(&self, factor: f32) -> Vec<f32> {
        let n_rot = self.head_dim as f32;
        (0..self.head_dim / 2)
            .map(|i| {
                let wavelength = 2.0 * std::f32::consts::PI * self.rope_base.powf(2.0 * i as f32 / n_rot);
                let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            })
            .collect()
    }
}

/// Adds random tensors to a file.
struct Tensors<'a> {
    file: &'a mut GgufWriter,
    rng: Rng,
    /// By type and inputs: the weights' scale follows from the inputs.
    patterns: HashMap<(TensorType, usize), Arc<[u8]>>,
}

impl Tensors<'_> {
    /// Numbers around `center`.
    fn vector(&mut self, name: &str, n: usize, center: f32) {
        let data: Vec<f32> = (0..n).map(|_| center + 0.1 * self.rng.symmetric()).collect();
        self.file.tensor_f32(name, &[n as u64], &data);
    }

    /// A matrix of type `ty`, or where rows are no whole super-blocks of the type with blocks of 32 that takes its place,
    /// or of F16 where those don't fit either: as llama-quantize chooses, but for Q4_0 where it has IQ4_NL.
    fn matrix(&mut self, name: &str, ty: TensorType, n_in: usize, n_out: usize) {
        let fits = |ty: &TensorType| n_in.is_multiple_of(ty.block_len());
        let in_place = match ty {
            TensorType::Q2_K | TensorType::Q3_K => TensorType::Q4_0,
            TensorType::Q4_K => TensorType::Q5_0,
            TensorType::Q5_K => TensorType::Q5_1,
            TensorType::Q6_K => TensorType::Q8_0,
            _ => TensorType::F16,
        };
        let ty = [ty, in_place].into_iter().find(fits).unwrap_or(TensorType::F16);
        let rng = &mut self.rng;
        let pattern = self.patterns.entry((ty, n_in)).or_insert_with(|| pattern(rng, ty, n_in)).clone();
        // Each tensor starts elsewhere, so that no two are alike.
        let start = self.rng.below(pattern.len() / ty.block_bytes()) * ty.block_bytes();
        self.file.tensor_repeated(name, ty, &[n_in as u64, n_out as u64], pattern, start);
    }
}

/// Random blocks whose values have a deviation of `1 / sqrt(n_in)`. Their number has no divisor in common with a
/// row's, so that rows differ.
fn pattern(rng: &mut Rng, ty: TensorType, n_in: usize) -> Arc<[u8]> {
    let row_blocks = n_in / ty.block_len();
    let mut n_blocks = PATTERN_BYTES / ty.block_bytes();
    while gcd(n_blocks, row_blocks) > 1 {
        n_blocks -= 1;
    }
    let deviation = 1.0 / (n_in as f32).sqrt();
    let mut out = Vec::with_capacity(n_blocks * ty.block_bytes());
    for _ in 0..n_blocks {
        put_block(rng, ty, deviation, &mut out);
    }
    out.into()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn put_block(rng: &mut Rng, ty: TensorType, deviation: f32, out: &mut Vec<u8>) {
    // Deviations of uniform codes: 4 values 1.12, 8 values 2.3, 16 values 4.6, 32 values 9.2, 64 values 18.5, 256 values
    // 74.
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let mut value = || deviation / UNIFORM_DEVIATION * rng.symmetric();
    match ty {
        TensorType::F32 => out.extend(value().to_le_bytes()),
        TensorType::F16 => out.extend(half(value())),
        TensorType::BF16 => out.extend(bf16::from_f32(value()).to_le_bytes()),
        TensorType::Q8_0 => {
            out.extend(half(deviation / 74.0));
            rng.bytes(32, out);
        }
        TensorType::Q4_0 => {
            // Codes reach from -8 to 7: scales of both signs even that out.
            let sign = if rng.below(2) == 0 { 1.0 } else { -1.0 };
            out.extend(half(sign * deviation / 4.6));
            rng.bytes(16, out);
        }
        TensorType::Q5_0 => {
            let sign = if rng.below(2) == 0 { 1.0 } else { -1.0 };
            out.extend(half(sign * deviation / 9.2));
            out.extend((rng.next() as u32).to_le_bytes());
            rng.bytes(16, out);
        }
        TensorType::IQ4_NL => {
            // The 16 values reach from -127 to 113, with a deviation of 67.
            let sign = if rng.below(2) == 0 { 1.0 } else { -1.0 };
            out.extend(half(sign * deviation / 67.0));
            rng.bytes(16, out);
        }
        TensorType::MXFP4 => {
            // The values, doubled, have a deviation of 5.9; the scale is the nearest power of two.
            let exponent = 128.0 + (deviation / 5.9).log2().round();
            out.push(exponent as u8);
            rng.bytes(16, out);
        }
        TensorType::IQ4_XS => {
            // Scales from -32 to 31 have a deviation of 18.5.
            out.extend(half(deviation / (67.0 * 18.5)));
            out.extend((0..6).map(|_| rng.below(256) as u8));
            rng.bytes(128, out);
        }
        // Codebook entries and scales of random bits, under a scale `d` of 1, have the deviation divided by.
        TensorType::IQ2_XXS => codebook_block(rng, ty, deviation / 53.4, out),
        TensorType::IQ2_XS => codebook_block(rng, ty, deviation / 55.9, out),
        TensorType::IQ2_S => codebook_block(rng, ty, deviation / 56.4, out),
        TensorType::IQ3_XXS => codebook_block(rng, ty, deviation / 142.4, out),
        TensorType::IQ3_S => codebook_block(rng, ty, deviation / 140.2, out),
        TensorType::IQ1_S => codebook_block(rng, ty, deviation / 7.2, out),
        TensorType::IQ1_M => {
            // The bits of `d` are the top nibbles of the last four words.
            let [low, high] = half(deviation / 7.2);
            out.extend((0..48).map(|_| rng.below(256) as u8));
            for nibble in [low & 15, low >> 4, high & 15, high >> 4] {
                out.extend([rng.below(256) as u8, nibble << 4 | rng.below(16) as u8]);
            }
        }
        TensorType::Q4_1 => {
            // The minimum puts the mean of `d * q` at 0.
            let d = deviation / 4.6;
            out.extend(half(d));
            out.extend(half(-7.5 * d));
            rng.bytes(16, out);
        }
        TensorType::Q5_1 => {
            let d = deviation / 9.2;
            out.extend(half(d));
            out.extend(half(-15.5 * d));
            out.extend((rng.next() as u32).to_le_bytes());
            rng.bytes(16, out);
        }
        TensorType::Q2_K => {
            // Scales and minimums from 8 to 15 with equal codes.
            out.extend((0..16).map(|_| (8 + rng.below(8) as u8) * 0x11));
            rng.bytes(64, out);
            let d = deviation / (1.12 * 11.7);
            out.extend(half(d));
            out.extend(half(1.5 * d));
        }
        TensorType::Q3_K => {
            // Scales from -32 to 31.
            rng.bytes(104, out);
            out.extend((rng.next() as u32).to_le_bytes());
            out.extend(half(deviation / (2.3 * 18.5)));
        }
        TensorType::Q4_K | TensorType::Q5_K => {
            // Scales and minimums from 32 to 63 with equal codes; `dmin` puts the mean of `d * q` at 0.
            let (code_deviation, code_mean) = if ty == TensorType::Q4_K { (4.6, 7.5) } else { (9.2, 15.5) };
            let d = deviation / (code_deviation * 48.0);
            out.extend(half(d));
            out.extend(half(code_mean * d));
            let codes: Vec<u8> = (0..8).map(|_| 32 + rng.below(32) as u8).collect();
            out.extend((0..4).map(|j| codes[j] | codes[j + 4] >> 4 << 6));
            out.extend((0..4).map(|j| codes[j] | codes[j + 4] >> 4 << 6));
            out.extend((4..8).map(|j| codes[j] & 15 | codes[j] << 4));
            rng.bytes(if ty == TensorType::Q4_K { 128 } else { 160 }, out);
        }
        TensorType::Q6_K => {
            rng.bytes(192, out);
            out.extend((0..16).map(|_| {
                let scale = 64 + rng.below(64) as i8;
                (if rng.below(2) == 0 { scale } else { -scale }) as u8
            }));
            out.extend(half(deviation / (18.5 * 97.0)));
        }
        _ => unreachable!("`parse` knows only the types above"),
    }
}

/// `d` and random bits.
fn codebook_block(rng: &mut Rng, ty: TensorType, d: f32, out: &mut Vec<u8>) {
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend((2..ty.block_bytes()).map(|_| rng.below(256) as u8));
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in `-1..1`.
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn bytes(&mut self, n: usize, out: &mut Vec<u8>) {
        for _ in 0..n / 8 {
            out.extend(self.next().to_le_bytes());
        }
    }
}
