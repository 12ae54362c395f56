//! PEFT's names of modules, which are those of the model in Hugging Face's library, as GGUF's names of matrices.

use ingle_kernels::RopeStyle;

use super::{AdapterError, Base};

/// What PEFT puts before each module's path.
const PREFIX: &str = "base_model.model.";

/// Modules of a layer. All architectures that take adapters share these names.
const LAYER: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Which half of a pair a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

/// A tensor's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The module, as configurations name it: `model.layers.0.mlp.up_proj`.
    pub module: String,
    /// The matrix in GGUF.
    pub weight: String,
    pub half: Half,
    /// Whether it is of an embedding table, whose pairs lie the other way round.
    pub is_embedding: bool,
}

/// What a tensor of PEFT's is.
///
/// # Errors
/// If it is none of a pair, or of a module that no matrix here belongs to.
pub(super) fn parse(name: &str) -> Result<Name, AdapterError> {
    let unsupported =
        |advice: &str| AdapterError::Unsupported { what: name.to_owned(), advice: advice.to_owned() };
    if name.contains("lora_magnitude_vector") {
        return Err(unsupported("it belongs to DoRA; merge the adapter into its model, or train a LoRA"));
    }
    let suffixes = [
        (".lora_A.weight", Half::A, false),
        (".lora_B.weight", Half::B, false),
        (".lora_embedding_A", Half::A, true),
        (".lora_embedding_B", Half::B, true),
    ];
    let found = suffixes
        .iter()
        .find_map(|&(suffix, half, is_embedding)| Some((name.strip_suffix(suffix)?, half, is_embedding)));
    let Some((path, half, is_embedding)) = found else {
        return Err(unsupported(
            "only pairs of lora_A and lora_B are added; modules that were trained whole (`modules_to_save`) and biases \
             belong into the model: merge the adapter",
        ));
    };
    let module = path.strip_prefix(PREFIX);
    let weight = module.and_then(weight);
    let (Some(module), Some(weight)) = (module, weight) else {
        let what = "attention's q_proj, k_proj, v_proj and o_proj, the mlp's gate_proj, up_proj and down_proj, \
                    embed_tokens and lm_head can be adapted";
        return Err(AdapterError::UnknownTensor { name: name.to_owned(), what: what.into() });
    };
    if is_embedding != (weight == "token_embd.weight") {
        return Err(unsupported("the pairs of embed_tokens, and no others, are called lora_embedding"));
    }
    Ok(Name { module: module.to_owned(), weight, half, is_embedding })
}

/// A module's matrix.
fn weight(module: &str) -> Option<String> {
    match module {
        "model.embed_tokens" => return Some("token_embd.weight".into()),
        "lm_head" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, kind) = module.strip_prefix("model.layers.")?.split_once('.')?;
    if layer.is_empty() || !layer.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (_, stem) = LAYER.iter().find(|(name, _)| *name == kind)?;
    Some(format!("blk.{layer}.{stem}.weight"))
}

/// Puts the rows of a matrix of Q or K, `(n_heads * head_dim, n_cols)`, into the order that the model's file has them in.
///
/// Hugging Face's rope turns the halves of a head against each other, `(i, i + head_dim / 2)`; the rope of such files
/// turns neighbours, `(2i, 2i + 1)`, and their conversion has moved the rows of Q and K accordingly.
pub(super) fn to_file_order(rows: &[f32], n_heads: usize, n_cols: usize) -> Vec<f32> {
    let n_rows = rows.len() / n_cols;
    let head_dim = n_rows / n_heads;
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(rows.len());
    for row in 0..n_rows {
        let (head, at) = (row / head_dim, row % head_dim);
        let from = head * head_dim + at % 2 * half + at / 2;
        out.extend_from_slice(&rows[from * n_cols..][..n_cols]);
    }
    out
}

/// How many heads' rows of this matrix were moved when the model was converted, if they were.
pub(super) fn moved_heads(base: &Base, weight: &str) -> Option<usize> {
    if base.graph.rope_style != RopeStyle::Norm {
        return None;
    }
    base.graph.layers.iter().map(|layer| &layer.attention).find_map(|attention| {
        [(&attention.q, attention.n_heads), (&attention.k, attention.n_kv_heads)]
            .into_iter()
            .find(|(linear, _)| linear.weight.name == weight)
            .map(|(_, n_heads)| n_heads)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tensors() {
        let check = |name: &str, expected: Result<(&str, Half), &str>| match (parse(name), expected) {
            (Ok(name), Ok(expected)) => assert_eq!((name.weight.as_str(), name.half), expected),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        };
        let layer = "base_model.model.model.layers.12.";
        check(&format!("{layer}self_attn.q_proj.lora_A.weight"), Ok(("blk.12.attn_q.weight", Half::A)));
        check(&format!("{layer}mlp.down_proj.lora_B.weight"), Ok(("blk.12.ffn_down.weight", Half::B)));
        check("base_model.model.lm_head.lora_B.weight", Ok(("output.weight", Half::B)));
        check("base_model.model.model.embed_tokens.lora_embedding_A", Ok(("token_embd.weight", Half::A)));
        check("base_model.model.model.embed_tokens.lora_A.weight", Err("lora_embedding"));
        check(&format!("{layer}self_attn.q_proj.lora_magnitude_vector"), Err("DoRA"));
        check(&format!("{layer}input_layernorm.weight"), Err("modules_to_save"));
        check(&format!("{layer}mlp.experts.lora_A.weight"), Err("adapts nothing"));
        check("base_model.model.model.layers.+1.mlp.up_proj.lora_A.weight", Err("adapts nothing"));
        check("model.layers.1.mlp.up_proj.lora_A.weight", Err("adapts nothing"));
    }

    #[test]
    fn rows_of_heads() {
        // Two heads of six: halves become neighbours.
        let rows: Vec<f32> = (0..12).map(|row| row as f32).collect();
        let expected = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(|row| row as f32);
        assert_eq!(to_file_order(&rows, 2, 1), expected);
    }
}
