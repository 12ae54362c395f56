//! What a model's file says about itself, for pages about models.

use ingle_chat::ModelDetails;
use ingle_chat::template::ChatTemplate;
use ingle_gguf::{Array, GgufFile, Metadata, TensorType, Value as Pair};
use serde_json::{Map, Value};

/// Longer lists, vocabularies most of all, are told apart from absent ones only by a `null`.
const LIST_MAX: usize = 64;

/// The types of a file's weights, by their number in `general.file_type`; gaps are numbers that nothing uses now.
const FILE_TYPES: &[(u64, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
    (41, "Q2_0"),
];

/// A file's details; `digest` identifies it, `template` is the one in use, `has_infill` is its vocabulary's to say.
pub fn details(
    file: &GgufFile,
    digest: String,
    template: Option<&ChatTemplate>,
    has_infill: bool,
) -> ModelDetails {
    let format = template.map(ChatTemplate::output_format).unwrap_or_default();
    let template = template.map(ChatTemplate::source);
    ModelDetails {
        architecture: file
            .metadata()
            .opt_str("general.architecture")
            .ok()
            .flatten()
            .unwrap_or_default()
            .into(),
        quantization: quantization(file),
        digest,
        template: template.map(Into::into),
        has_tools: format.has_tools(),
        has_reasoning: format.has_reasoning(),
        has_infill,
        metadata: metadata(file.metadata()),
    }
}

/// The name of the file's type; where the file has none, of the type that most of its bytes are of.
fn quantization(file: &GgufFile) -> String {
    let number = file.metadata().opt_u64("general.file_type").ok().flatten();
    let named = FILE_TYPES.iter().find(|(n, _)| Some(*n) == number).map(|(_, name)| *name);
    let n_bytes = |ty: TensorType| -> usize {
        let of_type = file.tensors().iter().filter(|t| t.ty == ty);
        of_type.map(ingle_gguf::TensorInfo::n_bytes).sum()
    };
    let most = || TensorType::ALL.iter().copied().max_by_key(|ty| n_bytes(*ty)).map(TensorType::name);
    named.or_else(most).unwrap_or_default().to_owned()
}

fn metadata(md: &Metadata) -> Map<String, Value> {
    md.iter().map(|(key, pair)| (key.to_owned(), value(pair))).collect()
}

fn value(pair: &Pair) -> Value {
    match pair {
        Pair::U8(v) => (*v).into(),
        Pair::I8(v) => (*v).into(),
        Pair::U16(v) => (*v).into(),
        Pair::I16(v) => (*v).into(),
        Pair::U32(v) => (*v).into(),
        Pair::I32(v) => (*v).into(),
        Pair::F32(v) => float(*v),
        Pair::Bool(v) => (*v).into(),
        Pair::String(v) => String::from_utf8_lossy(v).into(),
        Pair::Array(v) if v.len() > LIST_MAX => Value::Null,
        Pair::Array(v) => list(v),
        Pair::U64(v) => (*v).into(),
        Pair::I64(v) => (*v).into(),
        Pair::F64(v) => (*v).into(),
    }
}

fn list(array: &Array) -> Value {
    match array {
        Array::U8(v) => v.clone().into(),
        Array::I8(v) => v.clone().into(),
        Array::U16(v) => v.clone().into(),
        Array::I16(v) => v.clone().into(),
        Array::U32(v) => v.clone().into(),
        Array::I32(v) => v.clone().into(),
        Array::F32(v) => v.iter().map(|v| float(*v)).collect(),
        Array::Bool(v) => v.clone().into(),
        Array::String(v) => v.iter().map(|v| Value::from(String::from_utf8_lossy(v))).collect(),
        Array::U64(v) => v.clone().into(),
        Array::I64(v) => v.clone().into(),
        Array::F64(v) => v.clone().into(),
    }
}

/// A number with the digits that it has as an `f32`, rather than those of the nearest `f64`. What is no number is
/// `null`.
fn float(v: f32) -> Value {
    v.to_string().parse::<f64>().ok().into()
}

#[cfg(test)]
mod tests {
    use ingle_gguf::GgufWriter;
    use serde_json::json;

    use super::*;

    fn file(set: impl FnOnce(&mut GgufWriter)) -> GgufFile {
        let mut w = GgufWriter::new();
        w.set("general.architecture", Pair::from("llama"));
        w.tensor_f32("small", &[4], &[0.0; 4]);
        set(&mut w);
        GgufFile::from_bytes(w.to_bytes()).expect("a file")
    }

    #[test]
    fn quantizations() {
        let named = |n| {
            quantization(&file(|w| {
                w.set("general.file_type", Pair::U32(n));
            }))
        };
        assert_eq!(named(15), "Q4_K_M");
        assert_eq!(named(7), "Q8_0");
        assert_eq!(named(5), "F32", "an unknown number says nothing: the tensors do");
        assert_eq!(quantization(&file(|_| {})), "F32");
    }

    #[test]
    fn pairs() {
        let file = file(|w| {
            w.set("a", Pair::U64(u64::MAX)).set("b", Pair::F32(0.1)).set("c", Pair::F32(f32::NAN));
            w.set("d", Pair::Array(Array::I32(vec![1, -2]))).set("e", Pair::Array(Array::U8(vec![0; 65])));
            w.set("f", Pair::Array(Array::String(["x", "y"].iter().collect()))).set("g", Pair::Bool(true));
        });
        let expected = json!({
            "general.architecture": "llama", "a": u64::MAX, "b": 0.1, "c": null, "d": [1, -2], "e": null,
            "f": ["x", "y"], "g": true,
        });
        assert_eq!(Value::Object(metadata(file.metadata())), expected);
    }

    #[test]
    fn of_a_file() {
        let details = details(&file(|_| {}), "digest".into(), None, false);
        assert_eq!((details.architecture.as_str(), details.digest.as_str()), ("llama", "digest"));
        assert_eq!((details.template, details.has_tools, details.has_reasoning), (None, false, false));
    }
}
