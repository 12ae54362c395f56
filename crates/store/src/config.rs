//! What a model is, in the few words that a manifest's config blob has.

use ingle_gguf::GgufFile;
use serde_json::{Map, Value, json};

/// What a model is. The keys are those of Ollama's config blobs; others are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// The file's format: `gguf`.
    pub model_format: String,
    /// The architecture: `llama`.
    pub model_family: String,
    /// The architectures, where there are several parts.
    pub model_families: Vec<String>,
    /// The number of parameters for readers: `8.0B`.
    pub model_type: String,
    /// The quantization: `Q4_K_M`.
    pub file_type: String,
    /// What else is said.
    pub further: Map<String, Value>,
}

impl ModelConfig {
    /// What the header of a file says.
    pub fn of_gguf(file: &GgufFile) -> Self {
        let metadata = file.metadata();
        let family = metadata.opt_str("general.architecture").ok().flatten().unwrap_or("unknown").to_owned();
        let n_params: u64 = file.tensors().iter().map(ingle_gguf::TensorInfo::n_elements).sum();
        let file_type = metadata.opt_u64("general.file_type").ok().flatten();
        Self {
            model_format: "gguf".into(),
            model_families: vec![family.clone()],
            model_family: family,
            model_type: parameter_size(n_params),
            file_type: file_type.and_then(file_type_name).map_or_else(|| largest_type(file), str::to_owned),
            further: Map::new(),
        }
    }

    /// The blob. `diff_ids` are the digests of the layers, as other readers expect them.
    pub fn to_bytes(&self, layers: &[crate::Layer]) -> Vec<u8> {
        let ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let mut json = json!({
            "model_format": self.model_format,
            "model_family": self.model_family,
            "model_families": self.model_families,
            "model_type": self.model_type,
            "file_type": self.file_type,
            "architecture": "amd64",
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        if let Some(object) = json.as_object_mut() {
            for (key, value) in &self.further {
                object.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        json.to_string().into_bytes()
    }

    /// Reads a blob. What is missing is empty; a text that is no text is too.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Object(mut json) = serde_json::from_slice(bytes).ok()? else { return None };
        let mut text =
            |key: &str| json.remove(key).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let (model_format, model_family) = (text("model_format"), text("model_family"));
        let (model_type, file_type) = (text("model_type"), text("file_type"));
        let families = json.remove("model_families");
        let families = families.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let model_families = families.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect();
        for key in ["architecture", "os", "rootfs"] {
            json.remove(key);
        }
        Some(Self { model_format, model_family, model_families, model_type, file_type, further: json })
    }
}

/// A number of parameters as users say it: `8.0B`, `135M`.
fn parameter_size(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}

/// The type of tensors that has most of the bytes.
fn largest_type(file: &GgufFile) -> String {
    let mut sizes = std::collections::BTreeMap::<&str, u64>::new();
    for tensor in file.tensors() {
        *sizes.entry(tensor.ty.name()).or_default() += tensor.n_bytes() as u64;
    }
    let largest = sizes.into_iter().max_by_key(|(_, bytes)| *bytes);
    largest.map_or_else(|| "unknown".to_owned(), |(name, _)| name.to_uppercase())
}

/// The name of `general.file_type`, as `llama_ftype` of llama.cpp numbers them.
pub(crate) fn file_type_name(id: u64) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_and_back() {
        let text = r#"{"model_format":"gguf","model_family":"llama","model_families":["llama","clip"],
            "model_type":"8.0B","file_type":"Q4_K_M","renderer":"x","architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ModelConfig::parse(text.as_bytes()).expect("valid");
        assert_eq!((config.model_family.as_str(), config.file_type.as_str()), ("llama", "Q4_K_M"));
        assert_eq!(config.further.keys().collect::<Vec<_>>(), ["renderer"]);
        assert_eq!(ModelConfig::parse(&config.to_bytes(&[])), Some(config));
        assert_eq!(ModelConfig::parse(b"[]"), None);
        assert_eq!(parameter_size(8_030_261_248), "8.0B");
    }

    #[test]
    fn what_a_header_says() {
        let file = GgufFile::from_bytes(
            ingle_testkit::tiny::TinySpec::new(ingle_testkit::tiny::Arch::Llama).bytes(),
        )
        .expect("valid");
        let config = ModelConfig::of_gguf(&file);
        assert_eq!(config.model_family, "llama");
        assert!(!config.file_type.is_empty() && !config.model_type.is_empty());
    }
}
