//! Folders to files: what a good one becomes, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ingle_convert::{ConvertError, WeightType, convert};
use ingle_gguf::{GgufFile, TensorType};
use ingle_model::Sizing;
use ingle_tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

const N_EMBD: usize = 64;
const N_FF: usize = 96;
const VOCAB: [&str; 10] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "hello", "world", "##s", ","];

/// A folder in the making.
#[derive(Clone)]
struct Folder {
    config: Value,
    files: BTreeMap<&'static str, String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Folder {
    /// A model with one layer; the encoder's tensors are under `prefix`.
    fn new(prefix: &str) -> Self {
        let config = json!({
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": N_EMBD,
            "intermediate_size": N_FF, "layer_norm_eps": 1e-12, "max_position_embeddings": 16,
            "num_attention_heads": 4, "num_hidden_layers": 1, "type_vocab_size": 2, "vocab_size": VOCAB.len() + 2,
        });
        let mut folder = Self { config, files: BTreeMap::new(), tensors: BTreeMap::new() };
        folder.files.insert("vocab.txt", VOCAB.map(|token| format!("{token}\n")).concat());
        let n = N_EMBD;
        for (name, rows) in [("word", VOCAB.len() + 2), ("token_type", 2), ("position", 16)] {
            folder.tensor(&format!("{prefix}embeddings.{name}_embeddings.weight"), &[rows, n]);
        }
        folder.pair(&format!("{prefix}embeddings.LayerNorm"), &[n]);
        let layer = format!("{prefix}encoder.layer.0.");
        for name in
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        {
            folder.pair(&format!("{layer}{name}"), &[n, n]);
        }
        folder.pair(&format!("{layer}attention.output.LayerNorm"), &[n]);
        folder.pair(&format!("{layer}intermediate.dense"), &[N_FF, n]);
        folder.pair(&format!("{layer}output.dense"), &[n, N_FF]);
        folder.pair(&format!("{layer}output.LayerNorm"), &[n]);
        folder.pair(&format!("{prefix}pooler.dense"), &[n, n]);
        folder
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) {
        let seed = self.tensors.len() as f32;
        let n = shape.iter().product::<usize>();
        let values = (0..n).map(|i| ((i % 97) as f32 - 48.0) / 64.0 + seed).collect();
        self.tensors.insert(name.to_owned(), (shape.to_vec(), values));
    }

    fn pair(&mut self, stem: &str, shape: &[usize]) {
        self.tensor(&format!("{stem}.weight"), shape);
        self.tensor(&format!("{stem}.bias"), &shape[..1]);
    }

    fn write(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config.to_string()).expect("written");
        for (name, text) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).expect("of this size"))
        });
        fs::write(folder.join("model.safetensors"), serialize(views, None).expect("tensors"))
            .expect("written");
    }

    fn convert(&self, weight_type: WeightType) -> Result<GgufFile, ConvertError> {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path());
        let converted = convert(folder.path(), weight_type)?;
        let path = folder.path().join("out.gguf");
        converted.write(&path)?;
        assert!(matches!(converted.write(&path), Err(ConvertError::Exists(_))));
        Ok(GgufFile::from_bytes(fs::read(path).expect("it is there")).expect("a GGUF file"))
    }

    fn check_refused(&self, expected: &str) {
        let error = self.convert(WeightType::F32).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}, expected `{expected}`");
    }
}

#[test]
fn a_folder_becomes_a_model() {
    let mut folder = Folder::new("");
    folder.files.insert(
        "modules.json",
        json!([
            { "path": "", "type": "sentence_transformers.models.Transformer" },
            { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            { "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" },
        ])
        .to_string(),
    );
    let pooling = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
    folder.files.insert("1_Pooling/config.json", pooling.to_string());
    let types = [
        (WeightType::F32, TensorType::F32),
        (WeightType::F16, TensorType::F16),
        (WeightType::Q8_0, TensorType::Q8_0),
    ];
    for (weight_type, expected) in types {
        let file = folder.convert(weight_type).expect("a model");
        let md = file.metadata();
        assert_eq!(md.u64("bert.pooling_type").ok(), Some(2));
        assert_eq!(md.opt_bool("bert.attention.causal").ok(), Some(Some(false)));
        Sizing::from_gguf(&file).expect("all tensors are there, and no other");
        let ty = |name: &str| file.tensor(name).expect("it is there").ty;
        assert_eq!((ty("blk.0.attn_q.weight"), ty("blk.0.ffn_down.weight")), (expected, expected));
        for name in
            ["blk.0.attn_q.bias", "position_embd.weight", "token_types.weight", "token_embd_norm.bias"]
        {
            assert_eq!(ty(name), TensorType::F32, "{name}");
        }
        let tokenizer = Tokenizer::from_metadata(md).expect("a tokenizer");
        assert_eq!(tokenizer.n_vocab(), VOCAB.len() + 2);
        let ids: Vec<u32> = tokenizer.encode_content("Hello, worlds hi [SEP]").iter().map(|t| t.0).collect();
        assert_eq!(ids, [6, 9, 7, 8, 1, 1, 1, 1], "no control token comes out of a text");
        let pair = tokenizer.encode_pair("hello", "world").expect("it has a separator");
        assert_eq!(pair.tokens.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 6, 3, 7, 3]);
        assert_eq!((pair.second_from, pair.n_closing), (3, 1));
    }
    let file = folder.convert(WeightType::F32).expect("a model");
    let source = &folder.tensors["encoder.layer.0.intermediate.dense.weight"].1;
    let info = file.tensor("blk.0.ffn_up.weight").expect("it is there");
    assert_eq!(info.dims, [N_EMBD as u64, N_FF as u64]);
    let values: Vec<u8> = source.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(file.tensor_data(info).unwrap(), values);
}

#[test]
fn a_head_comes_along() {
    let mut folder = Folder::new("bert.");
    folder.config["architectures"] = json!(["BertForSequenceClassification"]);
    folder.config["id2label"] = json!({ "0": "relevant" });
    folder.pair("classifier", &[1, N_EMBD]);
    let file = folder.convert(WeightType::F16).expect("a model");
    Sizing::from_gguf(&file).expect("all tensors are there, and no other");
    assert_eq!(file.metadata().u64("bert.pooling_type").ok(), Some(4));
    let dims = |name: &str| file.tensor(name).expect("it is there").dims.clone();
    assert_eq!(dims("cls.weight"), [N_EMBD as u64; 2]);
    assert_eq!((dims("cls.output.weight")[0], dims("cls.output.bias")), (N_EMBD as u64, vec![1]));
    folder.config["id2label"] = json!({ "0": "a", "1": "b" });
    folder.check_refused("`classifier.weight` has the shape [1, 64], but config.json needs [2, 64]");
}

#[test]
fn tokenizer_json_is_read_as_the_list_is() {
    let list = Folder::new("");
    let mut json = list.clone();
    let vocab: Value = VOCAB.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "added_tokens": [{ "id": 2, "content": "[CLS]", "special": true }],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "model": { "type": "WordPiece", "continuing_subword_prefix": "##", "vocab": vocab },
    });
    json.files.remove("vocab.txt");
    json.files.insert("tokenizer.json", tokenizer.to_string());
    let of = |folder: &Folder| folder.convert(WeightType::F32).expect("a model");
    let tokens =
        |file: &GgufFile| file.metadata().opt_strings("tokenizer.ggml.tokens").expect("strings").cloned();
    assert_eq!(tokens(&of(&json)), tokens(&of(&list)));

    let check = |change: &dyn Fn(&mut Value), expected: &str| {
        let (mut folder, mut tokenizer) = (json.clone(), tokenizer.clone());
        change(&mut tokenizer);
        folder.files.insert("tokenizer.json", tokenizer.to_string());
        folder.check_refused(expected);
    };
    check(&|t| t["model"]["type"] = json!("Unigram"), "`Unigram` and not `WordPiece`");
    check(&|t| t["normalizer"]["handle_chinese_chars"] = json!(false), "handle_chinese_chars");
    check(&|t| t["model"]["vocab"]["hello"] = json!(99), "no id below 12");
    check(&|t| t["model"]["vocab"]["hello"] = json!(7), "are both token 7");
    check(&|t| t["model"]["vocab"]["world"] = json!(11), "there is no token 7");
}

#[test]
fn what_would_be_lost_or_does_not_fit_is_refused() {
    let config = |key: &str, value: Value, expected: &str| {
        let mut folder = Folder::new("");
        folder.config[key] = value;
        folder.check_refused(expected);
    };
    config("architectures", json!(["LlamaForCausalLM"]), "`LlamaForCausalLM` cannot be converted");
    config("architectures", json!(["XLMRobertaModel"]), "`XLMRobertaModel` cannot be converted");
    config("hidden_act", json!("gelu_new"), "`gelu_new`");
    config("position_embedding_type", json!("relative_key"), "`relative_key`");
    config("hidden_size", json!("64"), "`hidden_size` is \"64\", not a number");
    config("hidden_size", json!(1u64 << 40), "from 1 to 2^24");
    for eps in [json!(0), json!(-1e-12), json!(1), json!(1e-60), json!(157)] {
        config("layer_norm_eps", eps, "no small number");
    }
    config("num_attention_heads", json!(5), "5 heads do not divide");
    config("num_hidden_layers", json!(2), "`encoder.layer.1.attention.self.query.weight` is missing");
    config("intermediate_size", json!(N_FF + 1), "config.json needs [97, 64]");

    let changed = |change: &dyn Fn(&mut Folder), expected: &str| {
        let mut folder = Folder::new("");
        change(&mut folder);
        folder.check_refused(expected);
    };
    changed(&|f| f.tensor("encoder.layer.1.extra", &[3]), "`encoder.layer.1.extra` is not part");
    changed(&|f| f.tensors.values_mut().for_each(|t| t.1[0] = f32::NAN), "NaN");
    let set = |f: &mut Folder, name, text: &str| drop(f.files.insert(name, text.to_owned()));
    changed(&|f| set(f, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n"), "has no `[SEP]`");
    changed(&|f| set(f, "vocab.txt", &"a\n".repeat(20)), "20 tokens, the embedding table 12 rows");
    changed(&|f| drop(f.files.remove("vocab.txt")), "the vocabulary is missing");
    changed(&|f| set(f, "1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#), "max_tokens");
    changed(
        &|f| set(f, "modules.json", r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#),
        "Dense",
    );
    changed(&|f| set(f, "modules.json", "{"), "it is no JSON");
    // Settings of pooling are those of the folder, whatever it says.
    for path in ["", ".", "..", "../x", "/etc", "a\\\\b", "c:x"] {
        let modules = format!(r#"[{{"path": "{path}", "type": "sentence_transformers.models.Pooling"}}]"#);
        changed(&|f| set(f, "modules.json", &modules), "the module");
    }
}

/// The most memory that this process has had, in bytes.
#[cfg(target_os = "linux")]
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the system says");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it has a peak");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") << 10
}

/// Sizes of the settings are held against the weights before anything is made that is as large.
#[test]
fn large_sizes_take_no_memory() {
    let mut folder = Folder::new("");
    folder.config["vocab_size"] = json!(1 << 24);
    folder.check_refused("but config.json needs [16777216, 64]");
    // A name of each token alone would be as much again, the table 4 GiB.
    #[cfg(target_os = "linux")]
    assert!(peak_bytes() < 256 << 20, "{} bytes at the peak", peak_bytes());
}

/// A file of weights with this header and as many bytes of data.
fn weights(header: &str, n_data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n_data, 0);
    bytes
}

#[test]
fn damaged_weights_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    Folder::new("").write(folder.path());
    let path = folder.path().join("model.safetensors");
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).expect("written");
        let error = convert(folder.path(), WeightType::F32).expect_err("damaged").to_string();
        assert!(error.contains(expected) && error.contains("model.safetensors"), "{error}");
    };
    check(b"", "fill whole buffer");
    check(&u64::MAX.to_le_bytes(), "header has 18446744073709551615 bytes");
    check(&weights("{}", 0)[..9], "no safetensors");
    check(&weights("not JSON", 0), "no safetensors");
    let tensor = |name: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    check(&weights(&two(tensor("a", 0, 8), tensor("b", 4, 12)), 12), "no safetensors");
    check(&weights(&two(tensor("a", 0, 8), tensor("b", 16, 24)), 24), "no safetensors");
    check(&weights(&two(tensor("a", 0, 8), tensor("b", 8, 16)), 12), "no safetensors");
    check(&weights(&format!("{{{}}}", tensor("a", 0, 12)), 12), "no safetensors");

    fs::remove_file(&path).expect("it was there");
    let error = convert(folder.path(), WeightType::F32).expect_err("no weights").to_string();
    assert!(error.contains("neither model.safetensors nor"), "{error}");
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "../model.safetensors"}}"#).expect("written");
    let error = convert(folder.path(), WeightType::F32).expect_err("elsewhere").to_string();
    assert!(error.contains("weight_map"), "{error}");
}
