//! What a file's header says about a model.

use std::sync::LazyLock;

use ingle_gguf::{Array, GgufFile, GgufWriter, TensorType, Value};
use ingle_model::{HParams, Sizing, rope_table};
use ingle_step::KvType;
use ingle_testkit::tiny::{Arch, Rope, TinySpec};

use crate::source::Source;

/// Keys of an architecture, without its name.
const KEYS: &[&str] = &[
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "attention.causal",
    "attention.clamp_kqv",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_log_multiplier",
    "rope.dimension_sections",
    "expert_count",
    "logit_scale",
];
const STRINGS: &[&str] = &["none", "linear", "yarn", "longrope", "llama", "qwen2", "qwen3", "", "\u{0}é"];
const FLOATS: &[f32] =
    &[0.0, -0.0, 1.0, -1.0, 1e-6, 0.5, 4.0, 1e9, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, 1e-45];
const TYPES: &[TensorType] =
    &[TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_K];

/// Small files that are right; the fuzzer's changes start from them.
static BASES: LazyLock<Vec<GgufFile>> = LazyLock::new(|| {
    let small = |arch| TinySpec { n_layers: 1, n_embd: 8, n_ff: 16, ..TinySpec::new(arch) };
    let mut specs: Vec<TinySpec> = Arch::ALL.into_iter().map(small).collect();
    specs.push(TinySpec { rope: Rope::Yarn { factor: 4.0, original: 64 }, ..small(Arch::Llama) });
    specs.push(TinySpec { rope: Rope::LongRope { original: 64, attn_factor: 1.2 }, ..small(Arch::Llama) });
    specs.push(TinySpec {
        rope: Rope::Llama3 { factor: 8.0, original: 64 },
        biases: true,
        tied: true,
        ..small(Arch::Llama)
    });
    specs.iter().map(|spec| GgufFile::from_bytes(spec.bytes()).expect("tiny models are sound")).collect()
});

/// A file (any bytes that start with `GGUF`, else a small model with changes): an error, or hyperparameters that fit
/// together and sizes that fit the file.
pub fn model_header(data: &[u8]) {
    if data.starts_with(b"GGUF") {
        if let Ok(file) = GgufFile::from_bytes(data.to_vec()) {
            check(&file);
        }
        return;
    }
    let mut source = Source::new(data);
    let base = &BASES[source.below(BASES.len())];
    let arch = base.metadata().str("general.architecture").expect("tiny models have one").to_owned();
    let mut metadata = base.metadata().clone();
    // The vocabulary is no part of this target, and most of the file.
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"] {
        metadata.set(key, Value::U8(0));
    }
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(["a", "b"].iter().collect())));
    let mut tensors: Vec<(String, TensorType, Vec<u64>, Vec<u8>)> = base
        .tensors()
        .iter()
        .map(|t| {
            (t.name.clone(), t.ty, t.dims.clone(), base.tensor_data(t).expect("it is in memory").into_owned())
        })
        .collect();
    while !source.is_empty() {
        match source.below(8) {
            0 => {
                let i = source.below(tensors.len());
                if tensors.len() > 1 {
                    tensors.remove(i);
                }
            }
            1 => {
                let i = source.below(tensors.len());
                let dims: Vec<u64> = (0..1 + source.below(4)).map(|_| 1 + source.number() % 300).collect();
                let ty = source.pick(TYPES);
                let rows: u64 = dims[1..].iter().product();
                if let Some(n_bytes) = ty.row_bytes(dims[0]).and_then(|row| row.checked_mul(rows))
                    && n_bytes < 1 << 16
                {
                    let fill = source.byte();
                    tensors[i] = (tensors[i].0.clone(), ty, dims, vec![fill; n_bytes as usize]);
                }
            }
            2 => {
                let i = source.below(tensors.len());
                let name = source.text();
                if !name.is_empty() && tensors.iter().all(|t| t.0 != name) {
                    tensors[i].0 = name;
                }
            }
            _ => {
                let key = source.pick(KEYS);
                metadata.set(&format!("{arch}.{key}"), value(&mut source));
            }
        }
    }
    let mut out = GgufWriter::with_metadata(metadata);
    for (name, ty, dims, data) in tensors {
        out.tensor(&name, ty, &dims, data);
    }
    if let Ok(file) = GgufFile::from_bytes(out.to_bytes()) {
        check(&file);
    }
}

fn value(source: &mut Source) -> Value {
    match source.below(8) {
        0 => Value::F32(source.pick(FLOATS)),
        1 => Value::F32(f32::from_bits(source.u64() as u32)),
        2 => Value::from(source.pick(STRINGS)),
        3 => Value::Bool(source.flag()),
        4 => Value::U64(source.number()),
        5 => Value::Array(Array::U32((0..source.below(5)).map(|_| source.number() as u32).collect())),
        6 => Value::I32(source.number() as i32),
        _ => Value::U32(source.number() as u32),
    }
}

fn check(file: &GgufFile) {
    let hp = match HParams::from_gguf(file) {
        Ok(hp) => hp,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!hp.layers.is_empty() && hp.rms_eps > 0.0 && hp.attn_scale > 0.0 && hp.attn_scale.is_finite());
    assert!(hp.rope.n_rot.is_multiple_of(2) && hp.rope.n_rot <= hp.k_dim);
    for layer in &hp.layers {
        assert!(layer.n_heads.is_multiple_of(layer.n_kv_heads));
        let widths = [layer.n_heads * hp.k_dim, layer.n_heads * hp.v_dim, layer.n_ff, hp.n_embd];
        assert!(widths.iter().all(|w| (1..=1 << 24).contains(w)), "{hp:?}");
    }
    let graph = (hp.arch.describe)(&hp);
    assert_eq!(graph.layers.len(), hp.layers.len());
    for n_ctx in [1, hp.n_ctx_train] {
        // Errors are for tensors of factors that are missing or wrong.
        let _ = rope_table(file, &hp, graph.rope_style, n_ctx);
    }
    if let Ok(sizing) = Sizing::from_gguf(file) {
        assert!(sizing.weight_bytes + sizing.embedding_bytes <= file.n_bytes());
        for kv_type in [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0] {
            let sizes = [0, 1, 16, 17, 1 << 28, u64::MAX].map(|n| sizing.kv_bytes(kv_type, 16, n));
            assert!(sizes.is_sorted() && sizes[0] == 0 && sizes[1] > 0, "{sizes:?}");
        }
    }
}
