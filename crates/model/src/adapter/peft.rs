//! Adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors` in one folder.
//!
//! `A` is `(r, n_in)` and `B` `(n_out, r)`; of an embedding table `(r, n_vocab)` and `(n_embd, r)`. What is added is
//! multiplied by `lora_alpha / r`, with `use_rslora` by `lora_alpha / sqrt(r)` (Kalajdzievski, 2023).

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::names::{self, Half, Name};
use super::safetensors::{self, Tensor};
use super::{AdapterError, AdapterFile, AdapterSize, Base, LowRank, Target, rank};

/// The file of tensors.
pub(super) const TENSORS: &str = "adapter_model.safetensors";
/// The file of settings.
const CONFIG: &str = "adapter_config.json";
/// The longest file of settings that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The most patterns of alphas.
const PATTERNS_MAX: usize = 4096;

/// Settings without influence on what a finished adapter computes, or that the tensors themselves show.
const WITHOUT_EFFECT: [&str; 22] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "task_type",
    "lora_dropout",
    "peft_version",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "use_cache",
];

/// Settings that change what is computed, and what to do about them.
const REFUSED: [(&str, &str); 8] = [
    ("use_dora", "merge the adapter into its model, or train it without DoRA"),
    ("modules_to_save", "modules that were trained whole belong into the model: merge the adapter"),
    ("fan_in_fan_out", "its matrices lie the other way round; convert the adapter to GGUF"),
    ("lora_bias", "biases belong into the model: merge the adapter"),
    ("layer_replication", "the layers are repeated in the model; merge the adapter"),
    (
        "alora_invocation_tokens",
        "adapters that begin in the middle of a text are not computed; use a plain LoRA",
    ),
    ("trainable_token_indices", "tokens that were trained whole belong into the model: merge the adapter"),
    ("target_parameters", "only modules' matrices are adapted; merge the adapter"),
];

/// What the settings say about scales.
struct Config {
    r: u64,
    alpha: f64,
    rslora: bool,
    /// Whether some modules have another rank than `r`.
    has_rank_pattern: bool,
    /// Alphas of modules whose path ends in these names.
    alphas: Vec<(String, f64)>,
}

pub(super) fn open(folder: &Path, tensors: &Path, base: &Base) -> Result<AdapterFile, AdapterError> {
    let config = folder.join(CONFIG);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| AdapterError::Io { path, source }
    };
    let mut text = Vec::new();
    let file = std::fs::File::open(&config).map_err(io(&config))?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text).map_err(io(&config))?;
    let config = Config::parse(&text)?;
    read(open_tensors(folder, tensors)?, &config, tensors, base)
}

/// What the header says of memory.
pub(super) fn size(folder: &Path, tensors: &Path) -> Result<AdapterSize, AdapterError> {
    let file = open_tensors(folder, tensors)?;
    let mut size = AdapterSize::default();
    for tensor in &file.tensors {
        let shape = match tensor.shape[..] {
            [n_rows, n_cols] => [Some(n_rows), Some(n_cols)],
            _ => [None; 2],
        };
        size.add(shape, tensor.shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d)));
    }
    Ok(size)
}

fn open_tensors(
    folder: &Path,
    tensors: &Path,
) -> Result<safetensors::File<BufReader<std::fs::File>>, AdapterError> {
    if !tensors.is_file() && folder.join("adapter_model.bin").is_file() {
        return Err(AdapterError::Unsupported {
            what: "adapter_model.bin".into(),
            advice: "pickled tensors can run code when they are read; save the adapter as safetensors".into(),
        });
    }
    let io = |source| AdapterError::Io { path: tensors.to_owned(), source };
    let file = std::fs::File::open(tensors).map_err(io)?;
    safetensors::File::new(BufReader::new(file))
}

/// Brings the halves together and into GGUF's order.
fn read<R: std::io::Read + std::io::Seek>(
    mut file: safetensors::File<R>,
    config: &Config,
    path: &Path,
    base: &Base,
) -> Result<AdapterFile, AdapterError> {
    let mut pairs: BTreeMap<String, [Option<(Name, Tensor)>; 2]> = BTreeMap::new();
    for tensor in std::mem::take(&mut file.tensors) {
        let name = names::parse(&tensor.name)?;
        let half = name.half as usize;
        let slot = &mut pairs.entry(name.weight.clone()).or_default()[half];
        if slot.is_some() {
            let what = format!("tensor `{}` and another mean the same matrix", tensor.name);
            return Err(AdapterError::Malformed { file: TENSORS, what });
        }
        *slot = Some((name, tensor));
    }
    let mut parts = Vec::with_capacity(pairs.len());
    for (weight, halves) in pairs {
        parts.push(match halves {
            [Some((name, a)), Some((_, b))] => pair(&mut file, &weight, &name, [&a, &b], config, base)?,
            [one, other] => {
                let (name, tensor) = one.or(other).expect("a pair has at least one half");
                let missing = match name.half {
                    Half::A => "lora_B",
                    Half::B => "lora_A",
                };
                return Err(AdapterError::Unpaired {
                    name: tensor.name,
                    missing: format!("{missing} of {}", name.module),
                });
            }
        });
    }
    AdapterFile::new(parts, path)
}

fn pair<R: std::io::Read + std::io::Seek>(
    file: &mut safetensors::File<R>,
    weight: &str,
    name: &Name,
    [a, b]: [&Tensor; 2],
    config: &Config,
    base: &Base,
) -> Result<LowRank, AdapterError> {
    let Some((target, matrix)) = base.find(weight) else {
        return Err(AdapterError::UnknownTensor { name: a.name.clone(), what: base.known() });
    };
    // Of an embedding table the inputs are tokens.
    let (n_in, n_out) = match target {
        Target::Embedding => (matrix.n_out as u64, matrix.n_in as u64),
        _ => (matrix.n_in as u64, matrix.n_out as u64),
    };
    let wrong = |tensor: &Tensor, expected: String| AdapterError::WrongShape {
        name: tensor.name.clone(),
        expected,
        found: tensor.shape.clone(),
    };
    let r = match a.shape[..] {
        [r, n] if n == n_in => r,
        _ => return Err(wrong(a, format!("[rank, {n_in}]"))),
    };
    if b.shape != [n_out, r] {
        return Err(wrong(b, format!("[{n_out}, {r}]")));
    }
    let rank = rank(&a.name, r)?;
    if r != config.r && !config.has_rank_pattern {
        let what = format!("tensor `{}` has rank {r}, the settings say {}", a.name, config.r);
        return Err(AdapterError::Malformed { file: CONFIG, what });
    }
    let (mut a, mut b) = (file.floats(a)?, file.floats(b)?);
    if target == Target::Embedding {
        a = transposed(&a, n_in as usize);
    }
    if let Some(n_heads) = names::moved_heads(base, weight) {
        b = names::to_file_order(&b, n_heads, rank);
    }
    Ok(LowRank { target, name: weight.to_owned(), rank, scale: config.scale(&name.module, rank), a, b })
}

/// `(rows, n_cols)` as `(n_cols, rows)`.
fn transposed(x: &[f32], n_cols: usize) -> Vec<f32> {
    let n_rows = x.len() / n_cols;
    (0..n_cols).flat_map(|col| (0..n_rows).map(move |row| x[row * n_cols + col])).collect()
}

impl Config {
    fn parse(text: &[u8]) -> Result<Self, AdapterError> {
        let malformed = |what: String| AdapterError::Malformed { file: CONFIG, what };
        if text.len() as u64 > CONFIG_BYTES_MAX {
            return Err(malformed(format!("it has more than {CONFIG_BYTES_MAX} bytes")));
        }
        let mut map: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        match map.remove("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            other => {
                let what = format!("peft_type {}", other.unwrap_or(Value::Null));
                return Err(AdapterError::Unsupported { what, advice: "only LORA is".into() });
            }
        }
        for (key, advice) in REFUSED {
            if map.remove(key).is_some_and(|value| !is_off(&value)) {
                return Err(AdapterError::Unsupported { what: key.into(), advice: advice.into() });
            }
        }
        match map.remove("bias") {
            None | Some(Value::Null) => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(other) => {
                let what = format!("bias {other}");
                let advice = "biases belong into the model: merge the adapter".to_owned();
                return Err(AdapterError::Unsupported { what, advice });
            }
        }
        check_initialization(map.remove("init_lora_weights"))?;
        let number = |value: Option<Value>, key: &str| match value.as_ref().and_then(Value::as_f64) {
            Some(x) if x.is_finite() => Ok(x),
            _ => Err(malformed(format!("`{key}` is missing, or no number"))),
        };
        let r = map.remove("r").and_then(|r| r.as_u64());
        let r = r.filter(|&r| r > 0).ok_or_else(|| malformed("`r` is missing, or no rank".into()))?;
        let alpha = number(map.remove("lora_alpha"), "lora_alpha")?;
        let rslora = map.remove("use_rslora").is_some_and(|value| value == Value::Bool(true));
        let has_rank_pattern = map.get("rank_pattern").is_some_and(|value| !is_off(value));
        let alphas = match map.remove("alpha_pattern") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(patterns)) if patterns.len() <= PATTERNS_MAX => patterns
                .into_iter()
                .map(|(pattern, alpha)| {
                    let alpha = number(Some(alpha), &format!("alpha_pattern.{pattern}"))?;
                    plain(&pattern).map(|name| (name, alpha))
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(malformed("`alpha_pattern` is no object of numbers".into())),
        };
        let unknown =
            map.into_iter().find(|(key, value)| !WITHOUT_EFFECT.contains(&key.as_str()) && !is_off(value));
        if let Some((key, _)) = unknown {
            let advice = "nobody knows here whether it changes what is computed; if it does not, remove it from \
                          adapter_config.json";
            return Err(AdapterError::Unsupported { what: key, advice: advice.into() });
        }
        Ok(Self { r, alpha, rslora, has_rank_pattern, alphas })
    }

    /// What a module's product is multiplied by.
    fn scale(&self, module: &str, rank: usize) -> f32 {
        let is_of = |name: &str| {
            let rest = module.strip_suffix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let own = self.alphas.iter().find(|(name, _)| is_of(name)).map(|(_, alpha)| *alpha);
        let alpha = own.unwrap_or(self.alpha) as f32;
        if self.rslora { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
    }
}

/// Whether a setting says that nothing is done.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Some ways to begin training change the model itself: the adapter is then for that one.
fn check_initialization(value: Option<Value>) -> Result<(), AdapterError> {
    let fine = match &value {
        None | Some(Value::Null | Value::Bool(_)) => true,
        Some(Value::String(way)) => ["gaussian", "eva", "orthogonal"].contains(&way.as_str()),
        Some(_) => false,
    };
    if fine {
        return Ok(());
    }
    Err(AdapterError::Unsupported {
        what: format!("init_lora_weights {}", value.unwrap_or_default()),
        advice: "the adapter is for a model whose weights were changed when training began; convert it to a plain LoRA \
                 when you save it (`path_initial_model_for_weight_conversion`)"
            .into(),
    })
}

/// Patterns are regular expressions; of those only plain names are read, which is what PEFT's users write.
fn plain(pattern: &str) -> Result<String, AdapterError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if !pattern.is_empty() && pattern.chars().all(is_plain) {
        return Ok(pattern.to_owned());
    }
    let what = format!("alpha_pattern {}", pattern.chars().take(64).collect::<String>());
    Err(AdapterError::Unsupported { what, advice: "write the modules' names, without wildcards".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let base = r#""peft_type":"LORA","r":8,"lora_alpha":16"#;
        let check = |more: &str, expected: Result<f32, &str>| {
            let text = format!("{{{base}{more}}}");
            match (Config::parse(text.as_bytes()), expected) {
                (Ok(config), Ok(scale)) => {
                    assert_eq!(config.scale("model.layers.1.mlp.up_proj", 8), scale, "{more}")
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{more}: {error}"),
                (Ok(_), Err(_)) => panic!("{more} is taken"),
                (Err(error), Ok(_)) => panic!("{more}: {error}"),
            }
        };
        check("", Ok(2.0));
        check(r#","use_rslora":true"#, Ok(16.0 / 8f32.sqrt()));
        check(
            r#","use_dora":false,"modules_to_save":null,"bias":"none","megatron_core":"megatron.core""#,
            Ok(2.0),
        );
        check(r#","alpha_pattern":{"up_proj":4}"#, Ok(0.5));
        check(r#","alpha_pattern":{"p_proj":4}"#, Ok(2.0));
        check(r#","alpha_pattern":{"1.mlp.up_proj":4,"mlp":9}"#, Ok(0.5));
        check(r#","alpha_pattern":{".*up_proj":4}"#, Err("alpha_pattern"));
        check(r#","init_lora_weights":"gaussian""#, Ok(2.0));
        check(r#","init_lora_weights":"pissa_niter_4""#, Err("init_lora_weights"));
        check(r#","future":{},"other":[]"#, Ok(2.0));
        check(r#","future":1"#, Err("`future`"));
        check(r#","use_dora":true"#, Err("`use_dora`"));
        check(r#","modules_to_save":["lm_head"]"#, Err("`modules_to_save`"));
        check(r#","fan_in_fan_out":true"#, Err("`fan_in_fan_out`"));
        check(r#","bias":"all""#, Err("bias"));
        check(r#","lora_alpha":"x""#, Err("lora_alpha"));
        check(r#","r":0"#, Err("`r`"));
        check(r#","peft_type":"IA3""#, Err("peft_type"));
        check(",", Err("adapter_config.json"));
    }
}
