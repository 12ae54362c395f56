//! `ingle fit` and `ingle doctor`, as people call them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ingle_testkit::hub::{Fault, FaultKind, Hub};
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

fn ingle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env("INGLE_CONFIG", "/dev/null")
        .env("INGLE_MODELS", "/nonexistent/models");
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HF_TOKEN",
        "HOME",
    ] {
        command.env_remove(name);
    }
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

#[test]
fn the_estimate_is_what_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny(&dir, &TinySpec::new(Arch::Llama).wide());
    let report =
        json_of(&["fit", path.to_str().unwrap(), "--check", "--ctx-size", "96", "--parallel", "2", "--json"]);
    assert_eq!(report["said"]["weights_bytes"], report["accounted"]["weights_bytes"], "{report}");
    assert_eq!(report["said"]["kv_bytes"], report["accounted"]["kv_bytes"], "{report}");
    assert!(failure(&["fit", "--check", "--params", "8b"]).contains("name a GGUF file"));
}

#[test]
fn what_cannot_be_sized_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny(&dir, &TinySpec::new(Arch::Llama));
    let path = path.to_str().unwrap();
    for (args, expected) in [
        (&["fit"][..], "--params 8b"),
        (&["fit", "--params", "huge"], "no size such as 8b"),
        (&["fit", "--params", "8b", "--quant", "Q9"], "there is no mixture `Q9`; there are F32"),
        (&["fit", "--params", "8b", "--on", "m3max"], "m3max-48"),
        (&["fit", "--params", "8b", "--on", "voodoo2"], "--devices"),
        (&["fit", path, "--memory", "lots"], "16G or 12GB"),
        (&["fit", path, "--bandwidth", "-1"], "unexpected argument"),
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
    let fit = |name: &str| {
        let out =
            ingle(&["fit", name, "--on", "a10", "--json"]).env("HF_ENDPOINT", hub.url()).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        (serde_json::from_slice::<Value>(&out.stdout).ok(), error)
    };
    let dir = tempfile::tempdir().unwrap();
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
        "port",
        "disk",
        "store",
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
