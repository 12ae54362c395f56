//! Adapter files of both formats, against a tiny model.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ingle_gguf::{GgufFile, GgufWriter, TensorType, Value};
use ingle_kernels::Pool;
use ingle_model::{AdapterError, AdapterFile, Adapters, CpuExecutor, LoadOptions, RANK_MAX};
use ingle_testkit::lora::TinyLora;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Map, Value as Json};

use crate::folder::with_folder;
use crate::safetensors::{Tensors, setting};
use crate::source::Source;

/// Settings of PEFT's, known and unknown.
const SETTINGS: &[&str] = &[
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "bias",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "target_modules",
    "megatron_core",
    "future",
];
/// Keys of GGUF's.
const KEYS: &[&str] = &[
    "general.type",
    "general.architecture",
    "adapter.type",
    "adapter.lora.alpha",
    "adapter.lora.task_name",
    "adapter.lora.prompt_prefix",
    "adapter.alora.invocation_tokens",
];
const TYPES: &[TensorType] = &[TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0];

fn base() -> TinySpec {
    TinySpec { n_layers: 1, n_embd: 8, n_ff: 16, ..TinySpec::new(Arch::Llama) }
}

fn lora() -> TinyLora {
    TinyLora { rank: 2, ..TinyLora::new(1) }
}

/// What the adapters are for.
static MODEL: LazyLock<Adapters> = LazyLock::new(|| {
    let file = GgufFile::from_bytes(base().bytes()).expect("tiny models are sound");
    let options = LoadOptions { n_ctx: Some(32), kv_tokens: 32, ..LoadOptions::default() };
    let executor = CpuExecutor::load(Arc::new(file), Arc::new(Pool::new(1)), &options, &mut |_, _| {});
    executor.expect("tiny models are loaded").adapters().clone()
});

/// A GGUF file (any bytes that start with `GGUF`, else a good adapter with changes): an error that says what, or an adapter
/// that fits the model.
pub fn adapter_gguf(data: &[u8]) {
    let bytes = if data.starts_with(b"GGUF") { data.to_vec() } else { changed(&mut Source::new(data)) };
    with_folder(|folder| {
        let path = folder.join("adapter.gguf");
        fs::write(&path, &bytes).expect("there is room");
        check(&path);
    });
}

/// A folder of PEFT's: settings and, behind the first byte 0, tensors, if it starts with `{`, else a good one with changes. An
/// error that says what, or an adapter that fits the model.
pub fn adapter_peft(data: &[u8]) {
    let (config, tensors) = if data.starts_with(b"{") {
        let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
        (data[..end].to_vec(), data.get(end + 1..).unwrap_or_default().to_vec())
    } else {
        let mut source = Source::new(data);
        let good = lora().peft(&base());
        let mut config: Map<String, Json> = serde_json::from_str(&good.config).expect("it is JSON");
        let mut tensors = Tensors::parse(&good.tensors);
        let mut metadata = None;
        while !source.is_empty() {
            match source.below(8) {
                0 | 1 => _ = config.insert(source.pick(SETTINGS).to_owned(), setting(&mut source)),
                2 => _ = config.remove(source.pick(SETTINGS)),
                3 => metadata = Some(setting(&mut source)),
                _ => tensors.change(&mut source),
            }
        }
        (Json::Object(config).to_string().into_bytes(), tensors.to_bytes(metadata))
    };
    with_folder(|folder| {
        fs::write(folder.join("adapter_config.json"), &config).expect("there is room");
        fs::write(folder.join("adapter_model.safetensors"), &tensors).expect("there is room");
        check(folder);
    });
}

/// A good adapter with changes, as GGUF.
fn changed(source: &mut Source) -> Vec<u8> {
    let good = GgufFile::from_bytes(lora().gguf(&base()).to_bytes()).expect("it is right");
    let mut metadata = good.metadata().clone();
    let mut tensors: Vec<(String, TensorType, Vec<u64>, Vec<u8>)> = good
        .tensors()
        .iter()
        .map(|t| {
            let data = good.tensor_data(t).expect("it is in memory").into_owned();
            (t.name.clone(), t.ty, t.dims.clone(), data)
        })
        .collect();
    while !source.is_empty() {
        let i = source.below(tensors.len());
        match source.below(6) {
            0 if tensors.len() > 1 => _ = tensors.remove(i),
            1 => {
                let name = source.text();
                if !name.is_empty() && tensors.iter().all(|t| t.0 != name) {
                    tensors[i].0 = name;
                }
            }
            2 => {
                let j = source.below(tensors.len());
                let name = tensors[i].0.clone();
                tensors[i].0 = std::mem::replace(&mut tensors[j].0, name);
            }
            3 => {
                let dims: Vec<u64> = (0..1 + source.below(3)).map(|_| 1 + source.number() % 1100).collect();
                let ty = source.pick(TYPES);
                let rows: u64 = dims[1..].iter().product();
                let n_bytes = ty.row_bytes(dims[0]).and_then(|row| row.checked_mul(rows));
                if let Some(n_bytes) = n_bytes.filter(|n| *n < 1 << 16) {
                    let fill = source.byte();
                    tensors[i] = (tensors[i].0.clone(), ty, dims, vec![fill; n_bytes as usize]);
                }
            }
            _ => {
                let value = match source.below(5) {
                    0 => Value::F32(source.pick(&[0.0, 1.0, -8.0, 1e38, f32::NAN, f32::INFINITY])),
                    1 => Value::from(source.pick(&["lora", "adapter", "llama", "qwen2", ""])),
                    2 => Value::from(&*source.text()),
                    3 => Value::U64(source.number()),
                    _ => Value::Bool(source.flag()),
                };
                metadata.set(source.pick(KEYS), value);
            }
        }
    }
    let mut out = GgufWriter::with_metadata(metadata);
    for (name, ty, dims, data) in tensors {
        out.tensor(&name, ty, &dims, data);
    }
    out.to_bytes()
}

fn check(path: &Path) {
    let file = match MODEL.read(path) {
        Ok(file) => file,
        Err(AdapterError::Io { source, .. }) => panic!("the file is there: {source}"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // Seven matrices of one layer, the embedding table and the output matrix.
    assert!((1..=9).contains(&file.n_matrices()), "{} matrices", file.n_matrices());
    assert!((1..=RANK_MAX).contains(&file.rank()), "rank {}", file.rank());
    let again = MODEL.read(path).expect("it was read before");
    assert!(content(&file) == content(&again), "one file gives two adapters");
    let lease = MODEL.load(&file).expect("there is memory for a tiny one");
    assert!(lease.memory_bytes() > 0);
}

fn content(file: &AdapterFile) -> Vec<u8> {
    let mut all = Vec::new();
    file.content(&mut |bytes| all.extend_from_slice(bytes));
    all
}

/// Good files to start from.
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let peft = lora().peft(&base());
    let small = TinyLora { rank: 1, ..lora() }.of(&["q_proj"]);
    vec![
        ("adapter_gguf", "whole", lora().gguf(&base()).to_bytes()),
        ("adapter_gguf", "small", small.gguf(&base()).to_bytes()),
        ("adapter_peft", "whole", [peft.config.as_bytes(), &[0], &peft.tensors].concat()),
        ("adapter_peft", "small", {
            let peft = small.peft(&base());
            [peft.config.as_bytes(), &[0], &peft.tensors].concat()
        }),
    ]
}
