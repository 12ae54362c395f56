//! Headers of models in Hugging Face's layout: `config.json`, and the descriptions at the beginning of files in
//! safetensors.
//!
//! What comes out is a [`GgufFile`] without data, with the names that a conversion would give: sizes, and what other
//! mixtures would weigh, follow as for any GGUF file.

use std::collections::HashSet;

use ingle_gguf::{Array, GgufFile, GgufWriter, TensorType, Value};
use serde_json::{Map, Value as Json};

use crate::error::ModelError;

/// The longest description of a safetensors file that is read: what the format allows.
pub const DESCRIPTION_BYTES_MAX: u64 = 100 << 20;
/// Most tensors that are believed.
const TENSORS_MAX: usize = 1 << 20;

/// More numbers than this are not believed of a model.
const ELEMENTS_MAX: u64 = 1 << 56;

/// A tensor as safetensors describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: String,
    /// Its dimensions, the slowest-varying first.
    pub shape: Vec<u64>,
}

/// Architectures by `model_type`, where the two differ.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("smollm", "llama"),
    ("qwen3_moe", "qwen3moe"),
    ("qwen2_moe", "qwen2moe"),
    ("qwen3_next", "qwen3next"),
    ("gemma3_text", "gemma3"),
    ("gemma3n_text", "gemma3n"),
    ("gpt_oss", "gpt-oss"),
    ("deepseek_v2", "deepseek2"),
    ("deepseek_v3", "deepseek2"),
    ("kimi_k2", "deepseek2"),
    ("llama4_text", "llama4"),
    ("glm4_moe", "glm4moe"),
    ("nomic_bert", "nomic-bert"),
    ("modernbert", "modern-bert"),
];

/// Names of a layer's parts, and what they become.
const PARTS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("mlp.experts.gate_up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];

/// Numbers of a configuration, and the keys that they become.
const NUMBERS: &[(&str, &str)] = &[
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("head_dim", "attention.value_length"),
    ("max_position_embeddings", "context_length"),
    ("vocab_size", "vocab_size"),
    ("num_local_experts", "expert_count"),
    ("num_experts", "expert_count"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("num_kv_shared_layers", "attention.shared_kv_layers"),
    ("full_attention_interval", "full_attention_interval"),
    ("linear_conv_kernel_dim", "ssm.conv_kernel"),
    ("linear_key_head_dim", "ssm.state_size"),
    ("linear_num_key_heads", "ssm.group_count"),
    ("conv_L_cache", "shortconv.l_cache"),
];

/// Kinds of models whose layers follow from keys that are not read here.
const ONLY_AS_GGUF: &[&str] = &[
    "mamba",
    "mamba2",
    "jamba",
    "rwkv",
    "granitemoehybrid",
    "nemotron_h",
    "falcon_h1",
    "plamo2",
    "kimi_linear",
];

/// The tensors that a safetensors file describes. `description` is the JSON after its first eight bytes.
///
/// # Errors
/// If it is no such description.
pub fn tensors(description: &[u8]) -> Result<Vec<Tensor>, ModelError> {
    let bad = |what: String| ModelError::bad("safetensors", what);
    let entries: Map<String, Json> =
        serde_json::from_slice(description).map_err(|error| bad(format!("its description: {error}")))?;
    if entries.len() > TENSORS_MAX {
        return Err(bad(format!("{} tensors, at most {TENSORS_MAX} are read", entries.len())));
    }
    let entries = entries.into_iter().filter(|(name, _)| name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let dtype = entry.get("dtype").and_then(Json::as_str);
            let shape = entry.get("shape").and_then(Json::as_array);
            let shape = shape.and_then(|shape| shape.iter().map(Json::as_u64).collect::<Option<Vec<u64>>>());
            match (dtype, shape) {
                (Some(dtype), Some(shape)) => Ok(Tensor { name, dtype: dtype.to_owned(), shape }),
                _ => Err(bad(format!("tensor `{}` has no `dtype` or no `shape`", name.escape_debug()))),
            }
        })
        .collect()
}

/// How long the description of a safetensors file is, from its first eight bytes.
///
/// # Errors
/// If it is longer than the format allows, or than the file.
pub fn description_bytes(first: [u8; 8], n_file: u64) -> Result<u64, ModelError> {
    let n = u64::from_le_bytes(first);
    if n > DESCRIPTION_BYTES_MAX || n.checked_add(8).is_none_or(|end| end > n_file) {
        let what = format!(
            "its description claims {n} bytes; the file has {n_file}, and at most {DESCRIPTION_BYTES_MAX} are read"
        );
        return Err(ModelError::bad("safetensors", what));
    }
    Ok(n)
}

/// The header of the GGUF file that a model would be, its tensors as they are stored now.
///
/// # Errors
/// If the configuration lacks what every model has, its kind has to be converted first to be sized, or a tensor's type
/// is none that is known.
pub fn header(config: &str, tensors: &[Tensor]) -> Result<GgufFile, ModelError> {
    let bad = |what: &str| ModelError::bad("config.json", what);
    let config: Json = serde_json::from_str(config).map_err(|error| bad(&error.to_string()))?;
    // Models that see have the language model's configuration inside.
    let config = config.get("text_config").unwrap_or(&config);
    let kind = config.get("model_type").and_then(Json::as_str).ok_or_else(|| bad("has no `model_type`"))?;
    if ONLY_AS_GGUF.contains(&kind) {
        return Err(bad(&format!(
            "models of type `{kind}` are sized from their GGUF files: convert it first"
        )));
    }
    let arch = ARCHITECTURES.iter().find(|(name, _)| *name == kind).map_or(kind, |(_, arch)| *arch);
    let mut file = GgufWriter::new();
    let (mut names, mut total) = (HashSet::new(), 0_u64);
    file.set("general.architecture", arch.into());
    put_config(&mut file, arch, config);
    for tensor in tensors {
        let ty = tensor_type(&tensor.dtype).ok_or_else(|| {
            bad(&format!("tensor `{}` is of type `{}`, which is not known", tensor.name, tensor.dtype))
        })?;
        let mut dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
        let n = dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)).and_then(|n| total.checked_add(n));
        total = n.filter(|&n| n < ELEMENTS_MAX).unwrap_or(ELEMENTS_MAX);
        if dims.contains(&0) || total == ELEMENTS_MAX {
            return Err(bad(&format!("tensor `{}` has impossible dimensions {dims:?}", tensor.name)));
        }
        if dims.is_empty() {
            dims.push(1);
        }
        let rest = dims.split_off(dims.len().min(3));
        if !rest.is_empty() {
            dims.push(rest.iter().product());
        }
        let name = renamed(&tensor.name, arch);
        if !names.insert(name.clone()) {
            return Err(bad(&format!("tensor `{}` is there twice", tensor.name.escape_debug())));
        }
        file.tensor_repeated(&name, ty, &dims, [0].into(), 0);
    }
    let (head, n_bytes) = file.head();
    Ok(GgufFile::from_head(head, n_bytes)?)
}

fn put_config(file: &mut GgufWriter, arch: &str, config: &Json) {
    let number = |key: &str| config.get(key).and_then(Json::as_u64);
    let mut set = |key: &str, value: Value| _ = file.set(&format!("{arch}.{key}"), value);
    for (from, to) in NUMBERS {
        if let Some(value) = number(from) {
            set(to, Value::U64(value));
        }
    }
    let float = |key: &str| config.get(key).and_then(Json::as_f64);
    if let Some(eps) = float("rms_norm_eps") {
        set("attention.layer_norm_rms_epsilon", Value::F32(eps as f32));
    }
    if let Some(eps) = float("layer_norm_eps") {
        set("attention.layer_norm_epsilon", Value::F32(eps as f32));
    }
    let uses_window = config.get("use_sliding_window").and_then(Json::as_bool) != Some(false);
    if let Some(window) = number("sliding_window").filter(|_| uses_window) {
        set("attention.sliding_window", Value::U64(window));
    }
    if let Some(kinds) = config.get("layer_types").and_then(Json::as_array) {
        let is = |kind: &str| kinds.iter().map(|k| k.as_str() == Some(kind)).collect::<Vec<bool>>();
        set("attention.sliding_window_pattern", Value::Array(Array::Bool(is("sliding_attention"))));
        if kinds.iter().any(|kind| kind.as_str() == Some("linear_attention")) {
            set("attention.recurrent_layers", Value::Array(Array::Bool(is("linear_attention"))));
        }
        if arch.starts_with("lfm2") {
            let heads = is("full_attention").into_iter();
            let n = number("num_key_value_heads").unwrap_or(0);
            let heads = heads.map(|has| if has { n } else { 0 }).collect();
            set("attention.head_count_kv", Value::Array(Array::U64(heads)));
        }
    }
    if let (Some(heads), Some(dim)) = (number("linear_num_value_heads"), number("linear_value_head_dim")) {
        set("ssm.inner_size", Value::U64(heads.saturating_mul(dim)));
    }
    if let (Some(rank), Some(rope)) = (number("kv_lora_rank"), number("qk_rope_head_dim")) {
        let nope = number("qk_nope_head_dim").unwrap_or(0);
        set("attention.kv_lora_rank", Value::U64(rank));
        set("rope.dimension_count", Value::U64(rope));
        set("attention.key_length_mla", Value::U64(nope.saturating_add(rope)));
        set("attention.head_count_kv", Value::U64(1));
    }
}

fn tensor_type(dtype: &str) -> Option<TensorType> {
    Some(match dtype {
        "F64" => TensorType::F64,
        "F32" => TensorType::F32,
        "F16" => TensorType::F16,
        "BF16" => TensorType::BF16,
        "I64" | "U64" => TensorType::I64,
        "I32" | "U32" => TensorType::I32,
        "I16" | "U16" => TensorType::I16,
        // Of one byte: what it means does not matter for sizes.
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => TensorType::I8,
        _ => return None,
    })
}

/// The name that a conversion gives, where there is one.
fn renamed(name: &str, arch: &str) -> String {
    let inner = name.strip_prefix("language_model.").unwrap_or(name);
    let inner = inner.strip_prefix("model.").unwrap_or(inner);
    let inner = inner.strip_prefix("language_model.").unwrap_or(inner);
    match inner {
        "embed_tokens.weight" => return "token_embd.weight".into(),
        "norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let layer = || {
        let (layer, rest) = inner.strip_prefix("layers.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        if part == "post_attention_layernorm" {
            let own = if arch.starts_with("gemma") || arch == "gpt-oss" {
                "post_attention_norm"
            } else {
                "ffn_norm"
            };
            return Some(format!("blk.{layer}.{own}.{kind}"));
        }
        if let Some((_, part)) = PARTS.iter().find(|(from, _)| *from == part) {
            return Some(format!("blk.{layer}.{part}.{kind}"));
        }
        let (expert, part) = part.split_once(".experts.")?.1.split_once('.')?;
        let part = match part {
            "gate_proj" | "w1" => "ffn_gate",
            "down_proj" | "w2" => "ffn_down",
            "up_proj" | "w3" => "ffn_up",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}.{expert}.{kind}"))
    };
    layer().unwrap_or_else(|| name.to_owned())
}
