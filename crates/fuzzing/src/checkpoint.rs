//! Folders of checkpoints, which become GGUF files.

use std::fs;
use std::io::ErrorKind;

use ingle_convert::{ConvertError, WeightType, convert};
use ingle_gguf::GgufFile;
use ingle_model::{HParams, Sizing};
use ingle_testkit::lora::safetensors;
use ingle_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::folder::with_folder;
use crate::safetensors::{Tensors, setting};
use crate::source::Source;

/// The files of a folder, in the order in which an input has them.
const FILES: [&str; 6] = [
    "config.json",
    "vocab.txt",
    "tokenizer_config.json",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
];
const WEIGHTS: &str = "model.safetensors";
const SETTINGS: &[&str] = &[
    "architectures",
    "model_type",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
    "id2label",
    "position_embedding_type",
    "is_decoder",
];
const N_EMBD: usize = 32;
const N_FF: usize = 32;
const VOCAB: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", ","];

/// A folder: its files, parted by bytes 0, if it starts with `{`, else a good one with changes. An error that says what, or a
/// file that is a whole model.
pub fn checkpoint(data: &[u8]) {
    let (texts, weights, weight_type) = if data.starts_with(b"{") {
        let mut parts = data.splitn(FILES.len() + 1, |b| *b == 0);
        let texts = FILES.map(|_| parts.next().unwrap_or_default().to_vec());
        (texts, parts.next().unwrap_or_default().to_vec(), WeightType::F16)
    } else {
        changed(&mut Source::new(data))
    };
    with_folder(|folder| {
        fs::create_dir_all(folder.join("1_Pooling")).expect("there is room");
        for (name, text) in FILES.iter().zip(&texts) {
            let path = folder.join(name);
            if text.is_empty() {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
                    _ => {}
                }
            } else {
                fs::write(&path, text).expect("there is room");
            }
        }
        fs::write(folder.join(WEIGHTS), &weights).expect("there is room");
        match convert(folder, weight_type) {
            Ok(converted) => check(converted.file.to_bytes()),
            // What is not there is said to be missing; all else is there.
            Err(ConvertError::Io { source, .. }) => {
                assert!(matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof), "{source}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

fn check(bytes: Vec<u8>) {
    let file = GgufFile::from_bytes(bytes).expect("what is made is a file");
    let hp = HParams::from_gguf(&file).expect("what is made is a model");
    assert_eq!(hp.arch.name, "bert");
    Sizing::from_gguf(&file).expect("its tensors fit");
    Tokenizer::from_metadata(file.metadata()).expect("its vocabulary is whole");
}

fn config() -> Map<String, Value> {
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": N_EMBD,
        "intermediate_size": N_FF, "layer_norm_eps": 1e-12, "max_position_embeddings": 4,
        "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 2, "vocab_size": VOCAB.len(),
    });
    let Value::Object(config) = config else { unreachable!("it is written as an object") };
    config
}

/// The tensors of a model with one layer and, if it ranks, a head.
fn weights(ranks: bool) -> Vec<u8> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut put = |name: String, shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        tensors.push((name, shape.to_vec(), (0..n).map(|i| (i % 7) as f32 - 3.0).collect()));
    };
    let prefix = if ranks { "bert." } else { "" };
    for (name, rows) in [("word", VOCAB.len()), ("token_type", 2), ("position", 4)] {
        put(format!("{prefix}embeddings.{name}_embeddings.weight"), &[rows, N_EMBD]);
    }
    let mut pairs = vec![(format!("{prefix}embeddings.LayerNorm"), vec![N_EMBD])];
    for (name, shape) in [
        ("attention.self.query", vec![N_EMBD, N_EMBD]),
        ("attention.self.key", vec![N_EMBD, N_EMBD]),
        ("attention.self.value", vec![N_EMBD, N_EMBD]),
        ("attention.output.dense", vec![N_EMBD, N_EMBD]),
        ("attention.output.LayerNorm", vec![N_EMBD]),
        ("intermediate.dense", vec![N_FF, N_EMBD]),
        ("output.dense", vec![N_EMBD, N_FF]),
        ("output.LayerNorm", vec![N_EMBD]),
    ] {
        pairs.push((format!("{prefix}encoder.layer.0.{name}"), shape));
    }
    pairs.push((format!("{prefix}pooler.dense"), vec![N_EMBD, N_EMBD]));
    if ranks {
        pairs.push(("classifier".into(), vec![1, N_EMBD]));
    }
    for (stem, shape) in pairs {
        put(format!("{stem}.weight"), &shape);
        put(format!("{stem}.bias"), &shape[..1]);
    }
    safetensors(&tensors)
}

fn vocabulary() -> Vec<u8> {
    VOCAB.map(|token| format!("{token}\n")).concat().into_bytes()
}

fn ranking() -> Map<String, Value> {
    let mut config = config();
    config.insert("architectures".into(), json!(["BertForSequenceClassification"]));
    config.insert("id2label".into(), json!({ "0": "LABEL_0" }));
    config
}

type Folder = ([Vec<u8>; FILES.len()], Vec<u8>, WeightType);

/// A good folder with changes.
fn changed(source: &mut Source) -> Folder {
    let ranks = source.flag();
    let weight_type = source.pick(&[WeightType::F32, WeightType::F16, WeightType::Q8_0]);
    let mut config = if ranks { ranking() } else { config() };
    let mut tensors = Tensors::parse(&weights(ranks));
    let mut texts: [Vec<u8>; FILES.len()] = Default::default();
    texts[1] = vocabulary();
    while !source.is_empty() {
        match source.below(8) {
            0 | 1 => _ = config.insert(source.pick(SETTINGS).to_owned(), setting(source)),
            2 => _ = config.remove(source.pick(SETTINGS)),
            3 => texts[1].extend([source.bytes(), b"\n"].concat()),
            4 => {
                let names = ["pad_token", "unk_token", "do_lower_case", "strip_accents", "tokenizer_class"];
                texts[2] = json!({ source.pick(&names): setting(source) }).to_string().into_bytes();
            }
            5 => {
                let kinds = ["models.Transformer", "models.Pooling", "models.Normalize", "models.Dense"];
                let module = json!({ "type": source.pick(&kinds), "path": source.text() });
                texts[4] = json!([module]).to_string().into_bytes();
                let modes = ["pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"];
                texts[5] = json!({ source.pick(&modes): source.flag() }).to_string().into_bytes();
            }
            _ => tensors.change(source),
        }
    }
    texts[0] = Value::Object(config).to_string().into_bytes();
    (texts, tensors.to_bytes(None), weight_type)
}

/// Good folders to start from.
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let folder = |config: Map<String, Value>, ranks: bool| {
        let texts = [
            Value::Object(config).to_string().into_bytes(),
            vocabulary(),
            br#"{"do_lower_case":true}"#.to_vec(),
            Vec::new(),
            br#"[{"type":"sentence_transformers.models.Pooling","path":"1_Pooling"}]"#.to_vec(),
            br#"{"pooling_mode_cls_token":true}"#.to_vec(),
        ];
        let mut out: Vec<u8> = texts.join(&0);
        out.push(0);
        out.extend(weights(ranks));
        out
    };
    vec![("checkpoint", "embeds", folder(config(), false)), ("checkpoint", "ranks", folder(ranking(), true))]
}
