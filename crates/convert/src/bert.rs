//! BERT: `BertModel` and what sentence-transformers puts around it, and `BertForSequenceClassification`, which ranks or
//! classifies.
//!
//! A head of the latter kind reads the first token through the pooler: `output · tanh(dense · x)`. Without it the pooler
//! takes no part in embeddings and is left out, as are the heads that only training needs.

use std::collections::BTreeSet;

use ingle_gguf::{Array, GgufWriter, StringArray, TensorType, Value as Pair};
use serde_json::Value;

use crate::Converted;
use crate::checkpoint::{Checkpoint, Json};
use crate::encode::{WeightType, encode};
use crate::error::ConvertError;
use crate::wordpiece::Vocabulary;

/// Classes of `config.json` that are read here.
pub(crate) const CLASSES: [&str; 4] =
    ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"];

/// The class with a head.
const CLASSIFIES: &str = "BertForSequenceClassification";

/// Each layer's matrices and norms: here, there, and their outputs and inputs.
const LAYER: [(&str, &str, Shape); 8] = [
    ("attention.self.query", "attn_q", Shape::Square),
    ("attention.self.key", "attn_k", Shape::Square),
    ("attention.self.value", "attn_v", Shape::Square),
    ("attention.output.dense", "attn_output", Shape::Square),
    ("attention.output.LayerNorm", "attn_output_norm", Shape::Norm),
    ("intermediate.dense", "ffn_up", Shape::Up),
    ("output.dense", "ffn_down", Shape::Down),
    ("output.LayerNorm", "layer_output_norm", Shape::Norm),
];

/// The shape of a weight, rows first.
#[derive(Clone, Copy)]
enum Shape {
    /// `(n_embd,)`
    Norm,
    /// `(n_embd, n_embd)`
    Square,
    /// `(n_ff, n_embd)`
    Up,
    /// `(n_embd, n_ff)`
    Down,
    /// `(n, n_embd)`
    Rows(usize),
}

/// What `config.json` says.
struct Config {
    n_vocab: usize,
    n_embd: usize,
    n_layers: usize,
    n_heads: usize,
    n_ff: usize,
    n_ctx: usize,
    n_token_types: usize,
    norm_eps: f32,
}

impl Config {
    fn read(json: &Json) -> Result<Self, ConvertError> {
        let config = Self {
            n_vocab: json.size("vocab_size")?,
            n_embd: json.size("hidden_size")?,
            n_layers: json.size("num_hidden_layers")?,
            n_heads: json.size("num_attention_heads")?,
            n_ff: json.size("intermediate_size")?,
            n_ctx: json.size("max_position_embeddings")?,
            n_token_types: json.size("type_vocab_size")?,
            norm_eps: json.number("layer_norm_eps")? as f32,
        };
        let is = |key: &str, wanted: &str| match json.opt_str(key)? {
            Some(found) if found != wanted => {
                Err(json.unsupported(format!("`{key}` `{found}` (`{wanted}` is)")))
            }
            _ => Ok(()),
        };
        is("hidden_act", "gelu")?;
        is("position_embedding_type", "absolute")?;
        for key in ["is_decoder", "add_cross_attention"] {
            if json.opt_bool(key)? == Some(true) {
                return Err(json.unsupported(format!("`{key}`")));
            }
        }
        if !(config.norm_eps > 0.0 && config.norm_eps < 1.0) {
            return Err(json.bad(format!("`layer_norm_eps` is {}, no small number", config.norm_eps)));
        }
        if !config.n_embd.is_multiple_of(config.n_heads) {
            let what = format!("{} heads do not divide a `hidden_size` of {}", config.n_heads, config.n_embd);
            return Err(json.bad(what));
        }
        Ok(config)
    }

    fn dims(&self, shape: Shape) -> Vec<usize> {
        match shape {
            Shape::Norm => vec![self.n_embd],
            Shape::Square => vec![self.n_embd, self.n_embd],
            Shape::Up => vec![self.n_ff, self.n_embd],
            Shape::Down => vec![self.n_embd, self.n_ff],
            Shape::Rows(n) => vec![n, self.n_embd],
        }
    }
}

/// Makes the file.
pub(crate) fn convert(
    checkpoint: &Checkpoint,
    json: &Json,
    class: &str,
    weight_type: WeightType,
) -> Result<Converted, ConvertError> {
    let config = Config::read(json)?;
    // Before anything is made that is as large as the settings say.
    let table = format!("{}embeddings.word_embeddings.weight", prefix(checkpoint));
    checkpoint.check_shape(&table, &config.dims(Shape::Rows(config.n_vocab)))?;
    let mut notes = Vec::new();
    let mut file = GgufWriter::new();
    put_hparams(&mut file, &config, &checkpoint.name(), weight_type);
    let labels = (class == CLASSIFIES).then(|| labels(json)).transpose()?;
    let pooling_type = match &labels {
        Some(labels) => {
            let list: StringArray = labels.iter().collect();
            file.set("bert.classifier.output_labels", Pair::Array(Array::String(list)));
            4
        }
        None => pooling(checkpoint, &mut notes)?,
    };
    file.set("bert.pooling_type", Pair::U32(pooling_type));
    Vocabulary::read(checkpoint, config.n_vocab)?.put(&mut file, config.n_vocab);
    file.set("tokenizer.ggml.token_type_count", Pair::U32(config.n_token_types as u32));

    let mut tensors = Tensors { checkpoint, config: &config, weight_type, file, used: BTreeSet::new() };
    tensors.put_all(labels.map(|labels| labels.len()))?;
    let Tensors { file, used, .. } = tensors;
    for name in checkpoint.tensor_names().filter(|name| !used.contains(*name)) {
        if !is_of_training(name) {
            return Err(ConvertError::UnknownTensor(name.to_owned()));
        }
    }
    Ok(Converted { file, notes })
}

fn put_hparams(file: &mut GgufWriter, config: &Config, name: &str, weight_type: WeightType) {
    let int = |v: usize| Pair::U32(v as u32);
    file.set("general.architecture", "bert".into());
    file.set("general.name", name.into());
    file.set("general.file_type", Pair::U32(weight_type.file_type()));
    file.set("general.quantization_version", Pair::U32(2));
    for (key, value) in [
        ("context_length", int(config.n_ctx)),
        ("embedding_length", int(config.n_embd)),
        ("block_count", int(config.n_layers)),
        ("feed_forward_length", int(config.n_ff)),
        ("attention.head_count", int(config.n_heads)),
        ("attention.layer_norm_epsilon", Pair::F32(config.norm_eps)),
        ("attention.causal", Pair::Bool(false)),
    ] {
        file.set(&format!("bert.{key}"), value);
    }
}

/// What the head's numbers are called, in their order.
fn labels(json: &Json) -> Result<Vec<String>, ConvertError> {
    let Some(names) = json.get("id2label") else {
        // The library's default.
        return Ok(vec!["LABEL_0".into(), "LABEL_1".into()]);
    };
    let names = names.as_object().ok_or_else(|| json.bad("`id2label` is no object"))?;
    let label = |i: usize| names.get(&i.to_string()).and_then(Value::as_str).map(Into::into);
    let labels: Option<Vec<String>> = (0..names.len()).map(label).collect();
    labels.filter(|labels| !labels.is_empty()).ok_or_else(|| json.bad("`id2label` does not count from \"0\""))
}

/// How sentence-transformers makes a vector of a text, as the number of the file format.
fn pooling(checkpoint: &Checkpoint, notes: &mut Vec<String>) -> Result<u32, ConvertError> {
    let mut folder = "1_Pooling".to_owned();
    if let Some(modules) = checkpoint.opt_json("modules.json")? {
        let list = modules.value.as_array().ok_or_else(|| modules.bad("it is no list"))?;
        for module in list {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            match text("type").rsplit('.').next().unwrap_or_default() {
                "Transformer" if text("path").is_empty() => {}
                "Pooling" if is_plain(text("path")) => folder = text("path").to_owned(),
                // Vectors are normalized unless a request says otherwise.
                "Normalize" => {}
                _ => return Err(modules.unsupported(format!("the module {module}"))),
            }
        }
    }
    let Some(json) = checkpoint.opt_json(&format!("{folder}/config.json"))? else {
        notes.push(
            "the folder does not say how texts become vectors: the mean over all tokens is taken".into(),
        );
        return Ok(1);
    };
    const MODE: &str = "pooling_mode_";
    let all = json.value.as_object().ok_or_else(|| json.bad("it is no object"))?;
    let chosen = all.iter().filter(|(key, on)| key.starts_with(MODE) && **on == Value::Bool(true));
    let chosen: Vec<&str> = chosen.map(|(key, _)| &key[MODE.len()..]).collect();
    match chosen[..] {
        ["mean_tokens"] => Ok(1),
        ["cls_token"] => Ok(2),
        ["lasttoken"] => Ok(3),
        _ => {
            Err(json.unsupported(format!("pooling by {chosen:?} (mean_tokens, cls_token and lasttoken are)")))
        }
    }
}

/// Whether a name is that of something in the folder.
fn is_plain(name: &str) -> bool {
    !name.contains(['/', '\\', ':']) && !["", ".", ".."].contains(&name)
}

/// Models with a head have the encoder under a name of its own.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.tensor_names().any(|name| name.starts_with("bert.")) { "bert." } else { "" }
}

/// Tensors that take no part in what the file is for.
fn is_of_training(name: &str) -> bool {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    let pooler = ["pooler.dense.weight", "pooler.dense.bias"].contains(&name);
    pooler || name == "embeddings.position_ids" || name.starts_with("cls.")
}

/// Tensors on their way from one file to the other.
struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    weight_type: WeightType,
    file: GgufWriter,
    /// Names of the source that have a place.
    used: BTreeSet<String>,
}

impl Tensors<'_> {
    fn put_all(&mut self, n_labels: Option<usize>) -> Result<(), ConvertError> {
        let config = self.config;
        let prefix = prefix(self.checkpoint);
        let embeddings = format!("{prefix}embeddings.");
        let from = |name: &str| format!("{embeddings}{name}.weight");
        let ty = self.weight_type.of_matrix(config.n_embd);
        self.put(&from("word_embeddings"), "token_embd.weight", Shape::Rows(config.n_vocab), ty)?;
        for (name, to, n_rows) in [
            ("token_type_embeddings", "token_types.weight", config.n_token_types),
            ("position_embeddings", "position_embd.weight", config.n_ctx),
        ] {
            self.put(&from(name), to, Shape::Rows(n_rows), TensorType::F32)?;
        }
        self.put_pair(&format!("{embeddings}LayerNorm"), "token_embd_norm", Shape::Norm)?;
        for layer_idx in 0..config.n_layers {
            for (name, to, shape) in LAYER {
                let from = format!("{prefix}encoder.layer.{layer_idx}.{name}");
                self.put_pair(&from, &format!("blk.{layer_idx}.{to}"), shape)?;
            }
        }
        if let Some(n_labels) = n_labels {
            self.put_pair(&format!("{prefix}pooler.dense"), "cls", Shape::Square)?;
            self.put_pair("classifier", "cls.output", Shape::Rows(n_labels))?;
        }
        Ok(())
    }

    /// A weight and its bias. Old files call those of norms gamma and beta.
    fn put_pair(&mut self, from: &str, to: &str, shape: Shape) -> Result<(), ConvertError> {
        let dims = self.config.dims(shape);
        let ty = match dims[..] {
            [_, n_cols] => self.weight_type.of_matrix(n_cols),
            _ => TensorType::F32,
        };
        let is_old = self.checkpoint.has(&format!("{from}.gamma"));
        let (weight, bias) = if is_old { ("gamma", "beta") } else { ("weight", "bias") };
        self.put(&format!("{from}.{weight}"), &format!("{to}.weight"), shape, ty)?;
        self.put_dims(&format!("{from}.{bias}"), &format!("{to}.bias"), &dims[..1], TensorType::F32)
    }

    fn put(&mut self, from: &str, to: &str, shape: Shape, ty: TensorType) -> Result<(), ConvertError> {
        let dims = self.config.dims(shape);
        self.put_dims(from, to, &dims, ty)
    }

    fn put_dims(&mut self, from: &str, to: &str, dims: &[usize], ty: TensorType) -> Result<(), ConvertError> {
        self.checkpoint.check_shape(from, dims)?;
        let data = encode(from, ty, &self.checkpoint.tensor(from)?)?;
        // The file has the fastest dimension first.
        let reversed: Vec<u64> = dims.iter().rev().map(|&n| n as u64).collect();
        self.file.tensor(to, ty, &reversed, data);
        self.used.insert(from.to_owned());
        Ok(())
    }
}
