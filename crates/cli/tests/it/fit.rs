//! `ingle fit` and `ingle doctor`, as people call them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ingle_gguf::{GgufWriter, TensorType};
use ingle_testkit::hub::{Fault, FaultKind, Hub};
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

/// A call that sees nothing of who runs the tests, credentials included.
fn ingle(args: &[&str]) -> Command {
    let mut command = crate::support::ingle(args);
    command.env("INGLE_CREDENTIALS_FILE", "/nonexistent/credentials.json").env_remove("HOME");
    command
}

fn output(args: &[&str]) -> Output {
    ingle(args).output().expect("the binary starts")
}

fn stdout_of(args: &[&str]) -> String {
    let out = output(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

fn failure(args: &[&str]) -> String {
    let out = output(args);
    assert!(!out.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).expect("errors are UTF-8")
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&stdout_of(args)).expect("JSON")
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(path).unwrap_or_default()
}

fn tiny(dir: &tempfile::TempDir, spec: &TinySpec) -> PathBuf {
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, spec.bytes()).expect("the model is written");
    path
}

/// With `INGLE_UPDATE_DOCS` set, the page gets what the commands print now.
#[test]
fn the_examples_of_the_page_are_true() {
    const FENCE: &str = "```";
    let committed = page("sizing.md");
    let mut parts = committed.split("```console\n");
    let (mut now, mut n) = (parts.next().unwrap_or_default().to_owned(), 0);
    for part in parts {
        let (block, after) = part.split_once(FENCE).expect("a block ends");
        let (command, _) = block.split_once('\n').expect("a command");
        let args: Vec<&str> = command.strip_prefix("$ ingle ").expect("a command").split(' ').collect();
        now = format!("{now}```console\n{command}\n{}{FENCE}{after}", stdout_of(&args));
        n += 1;
    }
    assert!(n >= 6, "{n} examples");
    if std::env::var_os("INGLE_UPDATE_DOCS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sizing.md"), &now)
            .expect("written");
    } else {
        assert_eq!(committed, now, "run the test with INGLE_UPDATE_DOCS=1");
    }
}

#[test]
fn the_page_of_devices_is_true() {
    let page_now = stdout_of(&["fit", "--devices", "--markdown"]);
    assert_eq!(page("hardware.md"), page_now, "run `ingle fit --devices --markdown > docs/hardware.md`");
    assert!(stdout_of(&["fit", "--devices"]).lines().count() >= 60);
    assert!(json_of(&["fit", "--devices", "--json"])["devices"].as_array().is_some_and(|d| d.len() >= 60));
}

#[test]
fn a_file_is_sized_for_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny(&dir, &TinySpec::new(Arch::Qwen3));
    let path = path.to_str().unwrap();
    let report = json_of(&[
        "fit",
        path,
        "--bandwidth",
        "10",
        "--memory",
        "1G",
        "--ctx-size",
        "64",
        "--parallel",
        "3",
        "--json",
    ]);
    assert_eq!(report["runs_here"], true, "{report}");
    assert_eq!(report["verdict"]["fits"], true, "{report}");
    assert_eq!(report["machine"]["memory_bytes"], 1_u64 << 30);
    let per_token = report["kv_bytes_per_token"].as_u64().unwrap();
    assert_eq!(report["needs"]["kv_bytes"].as_u64().unwrap(), 3 * 64 * per_token, "{report}");
    assert_eq!(report["needs"]["as"], "ingle");
    assert!(report["take"]["context"] == 64 && report["take"]["mixture"].is_null(), "{report}");
    // Without telling, memory and speed are those of the machine.
    let text = stdout_of(&["fit", path, "--ctx-size", "64"]);
    assert!(text.contains("On this machine") && text.contains("Take: it as it is"), "{text}");
    // Other mixtures of the same file.
    let report = json_of(&["fit", path, "--quant", "F16", "--bandwidth", "10", "--memory", "1G", "--json"]);
    assert_eq!(report["assumption"], "as if it were made to F16");
}

/// The executor accounts for what was said, to the byte; and the process holds it within 3 %.
#[test]
fn the_estimate_is_what_is_taken() {
    const KEPT_BYTES: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let medium = |arch: Arch| TinySpec {
        n_embd: 1024,
        n_layers: 3,
        n_heads: 16,
        n_kv_heads: 4,
        head_dim: 64,
        n_ff: 2816,
        n_vocab: 8192,
        n_ctx: 4096,
        ..TinySpec::new(arch)
    };
    for (arch, ty, kv_type) in [
        (Arch::Llama, TensorType::Q4_K, "f16"),
        (Arch::Qwen2, TensorType::Q8_0, "q8_0"),
        (Arch::Qwen3, TensorType::F16, "f32"),
    ] {
        let path = tiny(&dir, &medium(arch).weight_type(ty));
        let args = [
            "fit",
            path.to_str().unwrap(),
            "--check",
            "--ctx-size",
            "2048",
            "--parallel",
            "2",
            "--batch-tokens",
            "32",
            "--json",
        ];
        let report = json_of(&[&args[..], &["--kv-type", kv_type]].concat());
        assert_eq!(report["said"]["weights_bytes"], report["accounted"]["weights_bytes"], "{report}");
        assert_eq!(report["said"]["kv_bytes"], report["accounted"]["kv_bytes"], "{report}");
        let bytes = |of: &str, what: &str| report[of][what].as_u64().unwrap();
        if cfg!(target_os = "linux") {
            // 3 %, and what the allocator keeps of small things, whatever the model's size.
            let parts =
                |of: &str| bytes(of, "text_bytes") + bytes(of, "weights_bytes") + bytes(of, "kv_bytes");
            let most = parts("said") * 103 / 100 + KEPT_BYTES;
            let least = parts("said") * 97 / 100;
            assert!((least..most).contains(&parts("resident")), "{}: {report}", ty.name());
            assert!(
                bytes("resident", "buffer_bytes") <= bytes("said", "buffer_bytes_max") + (1 << 20),
                "{report}"
            );
        }
    }
    assert!(failure(&["fit", "--check", "--params", "8b"]).contains("name a GGUF file"));
}

#[test]
fn what_cannot_be_sized_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny(&dir, &TinySpec::new(Arch::Llama));
    let path = path.to_str().unwrap();
    for (args, expected) in [
        (&["fit", "--check"][..], "--params 8b"),
        (&["fit", "--markdown"], "--devices"),
        (&["fit", path, "--params", "8b"], "name one of them"),
        (&["fit", path, "--on", "a10", "--memory-budget", "1G"], "the device's own memory"),
        (&["fit", "--params", "huge"], "no size such as 8b"),
        (&["fit", "--params", "8b", "--quant", "Q9"], "there is no mixture `Q9`; there are F32"),
        (&["fit", "--params", "8b", "--on", "m3max"], "m3max-48"),
        (&["fit", "--params", "8b", "--on", "voodoo2"], "--devices"),
        (&["fit", path, "--memory", "lots"], "no size, such as 12G"),
        (&["fit", path, "--bandwidth", "-1"], "unexpected argument"),
        (&["fit", path, "--offline", "--parallel", "0"], "--parallel"),
        (&["fit", "hf.co/a/b", "--offline"], "offline"),
        (&["fit", path, "--bandwidth", "0"], "above 0"),
        (&["fit", path, "--ctx-size", "100000000"], "the model was trained for"),
        (&["fit", path, "--kv-type", "q2"], "give f32, f16"),
        (&["fit", "./not-there.gguf"], "not-there.gguf"),
        (&["fit", "not a name"], "not a name"),
    ] {
        let error = failure(args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn a_folder_is_sized() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "mistral", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
        "vocab_size": 32, "rms_norm_eps": 1e-5, "sliding_window": 1024,
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let tensors = json!({
        "model.embed_tokens.weight": { "dtype": "BF16", "shape": [32, 64], "data_offsets": [0, 4096] },
        "__metadata__": { "format": "pt" },
    });
    let tensors = tensors.to_string();
    let mut file = (tensors.len() as u64).to_le_bytes().to_vec();
    file.extend(tensors.as_bytes());
    std::fs::write(dir.path().join("model.safetensors"), &file).unwrap();
    let path = dir.path().to_str().unwrap();
    let report = json_of(&["fit", path, "--on", "a10", "--json"]);
    assert_eq!(
        (&report["architecture"], &report["kv_bytes_per_token"]),
        (&json!("llama"), &json!(128)),
        "{report}"
    );
    assert_eq!(report["file"]["weight_bytes"], 4096);
    assert!(report["notes"][0].as_str().unwrap().contains("latest 1024 positions"), "{report}");
    // An index may name only files of the folder.
    std::fs::write(dir.path().join("model.safetensors.index.json"), r#"{"weight_map":{"a":"../x"}}"#)
        .unwrap();
    assert!(failure(&["fit", path]).contains("no file of the folder"));
}

/// Of a model elsewhere only the header is fetched.
#[test]
fn a_model_elsewhere_is_sized_by_its_header() {
    let hub = Hub::start();
    let bytes = TinySpec::new(Arch::Llama).wide().bytes();
    hub.commit("someone/tiny-GGUF", &[("tiny-Q8_0.gguf", &bytes), ("README.md", b"a model")]);
    let dir = tempfile::tempdir().unwrap();
    let fit = |name: &str| {
        let (_, out, error) = with_hub(&hub, dir.path(), &["fit", name, "--on", "a10", "--json"]);
        (serde_json::from_str::<Value>(&out).ok().filter(|report| report["error"].is_null()), error)
    };
    let here = tiny(&dir, &TinySpec::new(Arch::Llama).wide());
    let expected = json_of(&["fit", here.to_str().unwrap(), "--on", "a10", "--json"]);
    for name in ["hf.co/someone/tiny-GGUF:Q8_0", "hf.co/someone/tiny-GGUF/tiny-Q8_0.gguf"] {
        let (report, error) = fit(name);
        let report = report.unwrap_or_else(|| panic!("{name}: {error}"));
        assert_eq!((&report["file"], &report["needs"]), (&expected["file"], &expected["needs"]), "{name}");
    }
    let (_, error) = fit("hf.co/someone/other:Q8_0");
    assert!(error.contains("someone/other"), "{error}");
    hub.fault(Fault::new("GET", FaultKind::WrongRange));
    let (report, error) = fit("hf.co/someone/tiny-GGUF:Q8_0");
    assert!(report.is_none() && error.contains("asked for"), "{error}");
}

/// `ingle` with a hub and a store of its own.
fn with_hub(hub: &Hub, root: &Path, args: &[&str]) -> (bool, String, String) {
    let out = ingle(args)
        .env("HF_ENDPOINT", hub.url())
        .env("INGLE_MODELS", root)
        // The hub sends those who want large files to another port.
        .env("INGLE_PRIVATE_HOSTS", "127.0.0.1")
        .env("INGLE_INSECURE_HOSTS", "127.0.0.1")
        .output()
        .expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

/// A name without a file lists what the repository has, each with its verdict.
#[test]
fn a_repository_is_listed() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let of = |ty: TensorType| {
        TinySpec { n_layers: 6, n_ctx: 2048, ..TinySpec::new(Arch::Llama).wide().weight_type(ty) }.bytes()
    };
    let (f32, q8, q4) = (of(TensorType::F32), of(TensorType::Q8_0), of(TensorType::Q4_0));
    let files: [(&str, &[u8]); 4] =
        [("m-F32.gguf", &f32), ("m-Q8_0.gguf", &q8), ("m-Q4_0.gguf", &q4), ("README.md", b"models")];
    hub.commit("someone/m-GGUF", &files);
    let fit = |name: &str, memory: &str| {
        let args =
            ["fit", name, "--bandwidth", "10", "--memory-budget", memory, "--ctx-size", "1024", "--json"];
        let (_, out, error) = with_hub(&hub, dir.path(), &args);
        serde_json::from_str::<Value>(&out).unwrap_or_else(|_| panic!("{name}: {error}"))
    };
    let report = fit("hf.co/someone/m-GGUF", "1G");
    let choices = report["repository"]["choices"].as_array().unwrap();
    let names: Vec<&str> = choices.iter().filter_map(|c| c["quantization"].as_str()).collect();
    assert_eq!(names, ["F32", "Q8_0", "Q4_0"], "the largest first");
    assert_eq!(
        report["repository"]["best"], "hf.co/someone/m-GGUF:Q8_0",
        "F32 is more than is of use: {report}"
    );
    // Each total is that of the file itself, but for what its header takes.
    for choice in choices {
        let alone = fit(choice["name"].as_str().unwrap(), "1G");
        let (about, exactly) =
            (choice["total_bytes"].as_f64().unwrap(), alone["needs"]["total_bytes"].as_f64().unwrap());
        assert!((about / exactly - 1.0).abs() < 0.02, "{choice}: {exactly}");
        assert!(alone["repository"].is_null(), "a file that is named is alone");
    }
    // Memory in which only the smallest has its whole context.
    let total = |i: usize| choices[i]["total_bytes"].as_u64().unwrap();
    let memory = ((total(1) + total(2)) / 2).to_string();
    let report = fit("hf.co/someone/m-GGUF", &memory);
    assert_eq!(report["repository"]["best"], "hf.co/someone/m-GGUF:Q4_0", "{report}");
    let (_, text, _) = with_hub(&hub, dir.path(), &["fit", "hf.co/someone/m-GGUF", "--bandwidth", "10"]);
    assert!(
        text.contains("the best that does") && text.contains("Take: hf.co/someone/m-GGUF:Q8_0"),
        "{text}"
    );
}

/// A repository without GGUF is sized by its configuration and what its files in safetensors describe.
#[test]
fn a_repository_with_safetensors_is_sized() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let config = json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
        "vocab_size": 32, "rms_norm_eps": 1e-5,
    });
    let config = config.to_string();
    // One description is longer than what is asked for at first.
    let shard = |name: &str, padding: usize| {
        let tensors = json!({
            name: { "dtype": "BF16", "shape": [32, 64], "data_offsets": [0, 4096] },
            "__metadata__": { "note": " ".repeat(padding) },
        });
        let tensors = tensors.to_string();
        let mut file = (tensors.len() as u64).to_le_bytes().to_vec();
        file.extend(tensors.as_bytes());
        file.extend([0; 4096]);
        file
    };
    let (first, second) = (shard("model.embed_tokens.weight", 0), shard("lm_head.weight", 300_000));
    let index = json!({ "weight_map": {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors",
    } });
    let index = index.to_string();
    let files: [(&str, &[u8]); 4] = [
        ("config.json", config.as_bytes()),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-00001-of-00002.safetensors", &first),
        ("model-00002-of-00002.safetensors", &second),
    ];
    hub.commit("someone/plain", &files);
    for (name, expected) in [("hf.co/someone/plain", 8192), ("hf.co/someone/absent", 0)] {
        let (_, out, error) = with_hub(&hub, dir.path(), &["fit", name, "--on", "a10", "--json"]);
        match serde_json::from_str::<Value>(&out) {
            Ok(report) if report["error"].is_null() => {
                assert_eq!(report["file"]["weight_bytes"], expected, "{report}");
                assert_eq!(report["kv_bytes_per_token"], 256, "{report}");
            }
            _ => assert!(expected == 0 && error.contains("someone/absent"), "{name}: {error}"),
        }
    }
    // Only the descriptions were fetched, not the weights behind them.
    let asked: u64 = hub.bytes_asked();
    assert!(asked < 800_000, "{asked} bytes");
}

/// Files without content are errors that name them.
#[test]
fn empty_files_of_a_repository_are_named() {
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let config = br#"{"model_type":"llama"}"#;
    let (model, index) = ("model.safetensors", "model.safetensors.index.json");
    let cases: [(Files<'_>, &str); 4] = [
        (&[("config.json", b""), (model, b"")], "config.json"),
        (&[("config.json", config), (index, b"")], index),
        (&[("config.json", config), (model, b"")], "cannot size model.safetensors"),
        (&[("tiny-Q8_0.gguf", b"")], "not a readable GGUF file"),
    ];
    for (i, (files, expected)) in cases.into_iter().enumerate() {
        hub.commit(&format!("someone/empty{i}"), files);
        let name = format!("hf.co/someone/empty{i}");
        let (is_ok, _, error) = with_hub(&hub, dir.path(), &["fit", &name, "--on", "a10"]);
        assert!(!is_ok && error.contains(expected) && !error.contains("panicked"), "{name}: {error}");
    }
}

/// Without a model, those are named that the machine can run.
#[test]
fn what_a_machine_can_run_is_named() {
    let report = json_of(&["fit", "--memory-budget", "8G", "--bandwidth", "40", "--json"]);
    let models = report["models"].as_array().unwrap();
    let of = |name: &str| models.iter().find(|m| m["name"] == name);
    let llama = of("llama-3.1-8b").unwrap_or_else(|| panic!("{report}"));
    assert!(llama["total_bytes"].as_u64().unwrap() <= 8 << 30 && llama["context"] == 8192, "{llama}");
    assert!(of("llama-3.1-70b").is_none() && of("gemma-3-27b").is_none(), "{report}");
    assert!(report["others"].as_array().unwrap().iter().any(|m| m["name"] == "llama-3.1-70b"));
    let text = stdout_of(&["fit", "--on", "4090"]);
    assert!(text.contains("gemma-3-27b") && text.contains("Not here (too large)"), "{text}");
}

/// A model that Ingle does not run: its file has a header and one tensor.
fn of_no_use() -> Vec<u8> {
    let mut file = GgufWriter::new();
    file.set("general.architecture", "gemma3".into());
    for (key, n) in [
        ("block_count", 1_u64),
        ("embedding_length", 64),
        ("feed_forward_length", 64),
        ("context_length", 512),
    ] {
        file.set(&format!("gemma3.{key}"), ingle_gguf::Value::U64(n));
    }
    file.set("gemma3.attention.head_count", ingle_gguf::Value::U64(4));
    file.tensor("token_embd.weight", TensorType::F32, &[64, 32], vec![0; 64 * 32 * 4]);
    file.to_bytes()
}

/// `ingle pull` asks first: it warns of what cannot run, and without a terminal goes on.
#[test]
fn pulling_what_cannot_run_warns() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let of = |ty: TensorType| {
        TinySpec { n_layers: 6, ..TinySpec::new(Arch::Llama).wide().weight_type(ty) }.bytes()
    };
    let (f32, q4, strange) = (of(TensorType::F32), of(TensorType::Q4_0), of_no_use());
    hub.commit("someone/m-GGUF", &[("m-F32.gguf", &f32), ("m-Q4_0.gguf", &q4)]);
    hub.commit("someone/strange-GGUF", &[("s-Q8_0.gguf", &strange)]);
    hub.add_model("library/m", "latest", &[("application/vnd.ollama.image.model", &f32)]);
    let report =
        json_of_hub(&hub, &dir, &["fit", "hf.co/someone/m-GGUF:F32", "--memory-budget", "1G", "--json"]);
    let needs = report["needs"]["total_bytes"].as_u64().unwrap();
    let little = (needs - needs / 4).to_string();
    let pull = |name: &str, memory: &str, more: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        with_hub(&hub, root.path(), &[&["pull", name, "--memory-budget", memory], more].concat())
    };
    let (done, _, said) = pull("hf.co/someone/m-GGUF:F32", "1G", &[]);
    assert!(done && !said.contains("warning"), "it fits: {said}");
    let (done, _, said) = pull("hf.co/someone/m-GGUF:F32", &little, &[]);
    assert!(done && said.contains("warning: hf.co/someone/m-GGUF:F32: it"), "{said}");
    assert!(said.contains("hf.co/someone/m-GGUF:Q4_0 ("), "what would fit is named: {said}");
    let (done, _, said) = pull("hf.co/someone/strange-GGUF:Q8_0", "1G", &["--yes"]);
    assert!(done && said.contains("warning") && said.contains("`gemma3` is not supported"), "{said}");
    // For machines.
    let (done, out, _) = pull("hf.co/someone/m-GGUF:F32", &little, &["--json"]);
    let line = out.lines().find(|line| line.contains("\"outlook\"")).unwrap_or_else(|| panic!("{out}"));
    let outlook: Value = serde_json::from_str(line).expect("a line of JSON");
    assert!(done && outlook["status"] == "outlook" && outlook["fits"] == false, "{out}");
    assert_eq!(outlook["download_bytes"].as_u64(), Some(f32.len() as u64));
    assert_eq!(outlook["needs_bytes"].as_u64(), Some(needs), "as `ingle fit` says");
    assert_eq!(outlook["instead"][0]["name"], "hf.co/someone/m-GGUF:Q4_0");
    // Layers of a registry.
    let name = format!("{}/library/m", hub.authority());
    let (done, _, said) = pull(&name, &little, &[]);
    assert!(done && said.contains("warning") && said.contains("it needs"), "{said}");
    // Where no header can be had, the size of the files counts.
    hub.fault(Fault::new("GET", FaultKind::NoRanges));
    let (_, out, _) = pull("hf.co/someone/m-GGUF:F32", "100k", &["--json"]);
    let line = out.lines().find(|line| line.contains("\"outlook\"")).unwrap_or_else(|| panic!("{out}"));
    let outlook: Value = serde_json::from_str(line).expect("a line of JSON");
    assert_eq!(
        (&outlook["needs_bytes"], &outlook["fits"]),
        (&outlook["download_bytes"], &json!(false)),
        "{out}"
    );
}

fn json_of_hub(hub: &Hub, dir: &tempfile::TempDir, args: &[&str]) -> Value {
    let (_, out, error) = with_hub(hub, dir.path(), args);
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{args:?}: {error}"))
}

#[test]
fn the_doctor_looks_everything_over() {
    let dir = tempfile::tempdir().unwrap();
    let run = |models: &Path| {
        let out = ingle(&["doctor", "--json", "--port", "1"]).env("INGLE_MODELS", models).output().unwrap();
        let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        (out.status.code(), report)
    };
    let (code, report) = run(dir.path());
    assert_eq!(code, Some(0), "{report}");
    let checks = report["checks"].as_array().expect("a list");
    let names: Vec<&str> = checks.iter().filter_map(|check| check["check"].as_str()).collect();
    for name in [
        "instructions",
        "cores",
        "memory",
        "memory speed",
        "graphics",
        "clock",
        "settings",
        "port",
        "disk",
        "store",
        "network",
        "proxies",
    ] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    assert!(checks.iter().all(|c| c["status"] == "ok" || c["advice"].is_string()), "{report}");
    // A store that is not whole.
    let folder = dir.path().join("manifests/registry.ollama.ai/library/m");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("latest"), "{").unwrap();
    let (code, report) = run(dir.path());
    assert_eq!((code, &report["status"]), (Some(1), &json!("fail")), "{report}");
    let text = ingle(&["doctor"]).env("INGLE_MODELS", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("fail  store") && text.contains("→"), "{text}");
}

/// Each check with its failure, as far as an environment can bring it about; the others are tested one by one beside
/// their code.
#[test]
fn the_doctor_finds_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let broken = dir.path().join("broken.toml");
    std::fs::write(&broken, "no_such_key = 1\n").unwrap();
    let inside = dir.path().join("file");
    std::fs::write(&inside, "no folder").unwrap();
    let (broken, inside) = (broken.to_str().unwrap(), inside.to_str().unwrap());
    let check = |vars: &[(&str, &str)], args: &[&str], subject: &str, status: &str, part: &str| {
        let args = [&["doctor", "--json"], args].concat();
        let out = ingle(&args).env("INGLE_MODELS", dir.path()).envs(vars.iter().copied()).output().unwrap();
        let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let found = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["check"] == subject && c["status"] == status);
        let found = found.unwrap_or_else(|| panic!("{subject} is not {status}: {report:#}"));
        assert!(found.to_string().contains(part), "{found}");
        assert_eq!(out.status.code(), Some(i32::from(report["status"] == "fail")), "{report}");
        assert!(status == "ok" || found["advice"].is_string(), "{found}");
    };
    check(&[], &["--port", &port], "port", "warn", "is taken");
    check(&[("INGLE_KERNELS_ISA", "scalar")], &[], "instructions", "warn", "scalar");
    check(&[("HTTPS_PROXY", "ftp://proxy.example")], &[], "network", "fail", "HTTPS_PROXY");
    check(&[("HTTPS_PROXY", "socks4://proxy.example")], &[], "network", "fail", "HTTPS_PROXY");
    check(&[("HTTPS_PROXY", "socks5://u:secret@proxy.example")], &[], "proxies", "ok", "***@proxy.example");
    check(&[("HF_ENDPOINT", "nonsense://")], &[], "network", "fail", "hf-endpoint");
    check(&[("INGLE_CONFIG", broken)], &[], "settings", "fail", "no_such_key");
    check(&[("INGLE_MODELS", inside)], &[], "store", "fail", "file");
    check(&[("INGLE_OFFLINE", "true")], &[], "network", "ok", "nothing leaves");
    check(&[], &[], "settings", "ok", "can be read");
}
