//! `ingle create` and `show --modelfile`: models of a store from Modelfiles, as people make them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use ingle_gguf::{GgufFile, GgufWriter, Value as GgufValue};
use ingle_testkit::lora::TinyLora;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::Value;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        home.write("weights/tiny.gguf", &TinySpec::new(Arch::Llama).bytes());
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(path, bytes).expect("it can be written");
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ingle"))
            .args(args)
            .current_dir(self.path())
            .env_remove("RUST_LOG")
            .env("INGLE_CONFIG", "/dev/null")
            .env("INGLE_DATA_DIR", "")
            .env("INGLE_MODELS", self.path().join("models"))
            // What a model is made of does not go by the system's temporary folder, which may be in memory.
            .env("TMPDIR", self.path().join("nowhere"))
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }

    fn stdout(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("output is UTF-8")
    }

    fn failure(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(!out.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stderr).expect("errors are UTF-8")
    }
}

const MODELFILE: &str = "# made by a test\nFROM ./weights/tiny.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 3\n\
                         PARAMETER stop \"<|im_end|>\"\nSYSTEM \"\"\"You are Mario\n\"from\" Super Mario.\"\"\"\n\
                         TEMPLATE \"\"\"{{ .System }}|{{ .Prompt }}|\"\"\"\nLICENSE MIT\nMESSAGE user Hi\nMESSAGE assistant Ho\n";

#[test]
fn a_model_is_made_shown_and_made_again() {
    let home = Home::new();
    home.write("Modelfile", MODELFILE.as_bytes());
    let steps = home.stdout(&["create", "mario"]);
    assert!(steps.starts_with("gathering model components\n") && steps.ends_with("success\n"), "{steps}");
    let shown = home.stdout(&["show", "mario", "--modelfile"]);
    for part in
        ["PARAMETER num_predict 3", "PARAMETER stop <|im_end|>", "LICENSE MIT", "MESSAGE assistant Ho"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // What is shown makes the same model, wherever it stands.
    home.write("elsewhere/Again", shown.as_bytes());
    let steps = home.stdout(&["create", "twin:v2", "-f", "elsewhere/Again", "--json"]);
    assert!(
        steps.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|l| l["status"].is_string()))
    );
    let bytes = std::fs::metadata(home.path().join("weights/tiny.gguf")).expect("its file").len();
    let counts: Vec<Value> = steps.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(counts.iter().any(|l| l["completed"] == bytes && l["total"] == bytes), "{steps}");
    assert_eq!(home.stdout(&["show", "twin:v2", "--modelfile"]), shown);
    // Its layers are the same; what a file was called once is not in a Modelfile.
    let layers = |name: &str| -> Vec<String> {
        let path = home.path().join("models/manifests/registry.ollama.ai/library").join(name);
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON");
        let layers = manifest["layers"].as_array().expect("a list").iter();
        layers.map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
    };
    assert_eq!(layers("twin/v2"), layers("mario/latest"));
    // And one of the store is a beginning, too.
    home.write("Over", b"FROM mario\nSYSTEM Other.\n");
    home.stdout(&["create", "luigi", "-f", "Over"]);
    assert_eq!(home.stdout(&["show", "luigi", "--system"]), "Other.\n");
    assert_eq!(home.stdout(&["show", "mario", "--template"]), "{{ .System }}|{{ .Prompt }}|\n");
    // A folder of files, and the name of a folder that has none.
    home.write("Folder", b"FROM ./weights\n");
    home.stdout(&["create", "of-folder", "-f", "Folder"]);
    home.write("empty/x.txt", b"");
    home.write("Empty", b"FROM ./empty\n");
    assert!(home.failure(&["create", "e", "-f", "Empty"]).contains("neither GGUF nor safetensors"));
}

#[test]
fn faults_are_told_by_name() {
    let home = Home::new();
    let check = |modelfile: &str, args: &[&str], expected: &str| {
        home.write("Modelfile", modelfile.as_bytes());
        let error = home.failure(&[&["create"], args].concat());
        assert!(error.contains(expected), "{expected}: {error}");
    };
    check(
        "FROM ./weights/tiny.gguf\nPARAMETER warmth 1",
        &["m"],
        "Modelfile: line 2, column 11: there is no parameter",
    );
    check("FROM nobody", &["m"], "nobody");
    check("FROM ./nothing.gguf", &["m"], "there is no file");
    check("FROM ./weights/tiny.gguf\nADAPTER ./weights", &["m"], "adapter_config.json");
    check("FROM ./weights/tiny.gguf\nADAPTER ./weights/tiny.gguf", &["m"], "is no LoRA adapter");
    check("FROM ./weights/tiny.gguf\nTEMPLATE {{ if }}", &["m"], "TEMPLATE");
    check("FROM ./weights/tiny.gguf\nADAPTER ./nofile", &["m"], "cannot read ./nofile: ");
    check("FROM ./weights/tiny.gguf\nPARAMETER stop \"\"", &["m"], "1 to 256 bytes, not ");
    check("FROM ./weights/tiny.gguf\nDRAFT x", &["m"], "--draft-model");
    check("FROM ./weights/tiny.gguf", &["m", "-q", "q4_K_M"], "not quantized here yet");
    check("FROM ./weights/tiny.gguf", &["../m"], "not valid");
    check("FROM ./weights/tiny.gguf", &[], "name the model");
    assert!(home.failure(&["create", "m", "-f", "none"]).contains("-f names the Modelfile"));
    let made = std::fs::read_dir(home.path().join("models/manifests")).map_or(0, Iterator::count);
    assert_eq!(made, 0, "nothing was made");
}

/// A model in two files, as llama.cpp splits one.
fn split(model: &[u8]) -> [Vec<u8>; 2] {
    let file = GgufFile::from_bytes(model.to_vec()).expect("a model");
    let n_tensors = file.tensors().len();
    [0, 1].map(|no| {
        let mut part = match no {
            0 => GgufWriter::with_metadata(file.metadata().clone()),
            _ => GgufWriter::new(),
        };
        part.set("split.no", GgufValue::U16(no))
            .set("split.count", GgufValue::U16(2))
            .set("split.tensors.count", GgufValue::I32(n_tensors as i32));
        for (i, tensor) in file.tensors().iter().enumerate() {
            if (i < n_tensors / 2) == (no == 0) {
                let data = file.tensor_data(tensor).expect("data").to_vec();
                part.tensor(&tensor.name, tensor.ty, &tensor.dims, data);
            }
        }
        part.to_bytes()
    })
}

#[test]
fn a_split_model_is_named_by_its_first_file() {
    let home = Home::new();
    for (i, part) in split(&TinySpec::new(Arch::Llama).bytes()).iter().enumerate() {
        home.write(&format!("split/big-0000{}-of-00002.gguf", i + 1), part);
    }
    home.write("First", b"FROM ./split/big-00001-of-00002.gguf\n");
    home.write("Folder", b"FROM ./split\n");
    home.write("Whole", b"FROM ./weights/tiny.gguf\n");
    for name in ["First", "Folder", "Whole"] {
        home.stdout(&["create", &name.to_lowercase(), "-f", name]);
    }
    let answer =
        |model: &str| home.stdout(&["run", "--model", model, "--prompt", "x", "--temp", "0", "-n", "8"]);
    assert_eq!(answer("first"), answer("whole"));
    assert_eq!(answer("folder"), answer("whole"));
    // What is shown names both, and makes the same.
    let shown = home.stdout(&["show", "first", "--modelfile"]);
    assert_eq!(shown.matches("FROM ").count(), 2, "{shown}");
    home.write("Shown", shown.as_bytes());
    home.stdout(&["create", "shown", "-f", "Shown"]);
    assert_eq!(home.stdout(&["show", "shown", "--modelfile"]), shown);
    // The second alone, and the first without it.
    home.write("Second", b"FROM ./split/big-00002-of-00002.gguf\n");
    assert!(home.failure(&["create", "x", "-f", "Second"]).contains("name the first one"));
    std::fs::remove_file(home.path().join("split/big-00002-of-00002.gguf")).expect("it is there");
    assert!(home.failure(&["create", "x", "-f", "First"]).contains("big-00002-of-00002.gguf is missing"));
}

/// An adapter as PEFT saves it becomes one file of the model, which computes what the folder does.
#[test]
fn adapters_of_peft() {
    let home = Home::new();
    let lora = TinyLora::new(3).peft(&TinySpec::new(Arch::Llama));
    home.write("peft/adapter_config.json", lora.config.as_bytes());
    home.write("peft/adapter_model.safetensors", &lora.tensors);
    home.write("Modelfile", b"ADAPTER ./peft\nFROM ./weights/tiny.gguf\nSYSTEM x\n");
    assert!(home.stdout(&["create", "adapted"]).contains("converting adapter"));
    let ask = |model: &str, more: &[&str]| {
        let args = ["run", "--prompt", "x", "--raw", "--temp", "0", "-n", "8", "--model", model];
        home.stdout(&[&args, more].concat())
    };
    let plain = ask("weights/tiny.gguf", &[]);
    assert_eq!(ask("adapted", &[]), ask("weights/tiny.gguf", &["--lora", "peft"]));
    assert_ne!(ask("adapted", &[]), plain);
    let shown = home.stdout(&["show", "adapted", "--modelfile"]);
    home.write("Shown", shown.as_bytes());
    home.stdout(&["create", "again", "-f", "Shown"]);
    assert_eq!(home.stdout(&["show", "again", "--modelfile"]), shown);
}

/// A folder with a model needs no Modelfile; what cannot run, or not as it is asked for, is told at once.
#[test]
fn what_is_made_is_looked_at() {
    let home = Home::new();
    assert!(home.failure(&["create", "m"]).contains("-f names the Modelfile"));
    let check = |modelfile: &str, expected: &str| {
        home.write("Modelfile", modelfile.as_bytes());
        let out = home.run(&["create", "m"]);
        let said = String::from_utf8(out.stderr).expect("UTF-8");
        assert!(out.status.success() && said.contains(expected), "{expected}: {said}");
        assert!(!expected.is_empty() || said.is_empty(), "{said}");
    };
    check("FROM ./weights/tiny.gguf", "");
    let reaches = "asks for a context of 131072 tokens (num_ctx) and the model reaches";
    check("FROM ./weights/tiny.gguf\nPARAMETER num_ctx 131072", reaches);
    let out = home.run(&["run", "m", "x", "-n", "1"]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains(reaches), "{out:?}");
    assert!(home.failure(&["run", "m", "x", "-c", "131072"]).contains("ask for a shorter one"));
    let out = home.run(&["run", "m", ""]);
    assert!(out.status.success() && out.stdout.is_empty(), "it is only loaded: {out:?}");

    let tiny = GgufFile::from_bytes(TinySpec::new(Arch::Llama).bytes()).expect("a model");
    let mut mamba = GgufWriter::with_metadata(tiny.metadata().clone());
    mamba.set("general.architecture", GgufValue::String("mamba".into()));
    home.write("folder/mamba.gguf", &mamba.to_bytes());
    check("FROM ./folder/mamba.gguf", "`m:latest` is made, and cannot run here: ");

    std::fs::rename(home.path().join("Modelfile"), home.path().join("aside")).expect("it is there");
    home.write("model.gguf", &TinySpec::new(Arch::Llama).bytes());
    let out = home.run(&["create", "of-folder"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("FROM ."), "{out:?}");
    assert!(home.stdout(&["show", "of-folder"]).contains("llama"));
}

/// What a Modelfile says is honoured by whoever runs the model.
#[test]
fn what_it_says_is_done() {
    let home = Home::new();
    home.write("Modelfile", MODELFILE.as_bytes());
    home.stdout(&["create", "mario"]);
    let answer = |args: &[&str]| home.stdout(&[&["run", "--model", "mario", "--prompt", "x"], args].concat());
    assert_eq!(answer(&[]), answer(&[]), "its temperature is 0");
    let n_tokens = |args: &[&str]| {
        let report: Value = serde_json::from_str(&answer(&[&["--json"], args].concat())).expect("JSON");
        report["completion_tokens"].as_u64().expect("a count")
    };
    assert_eq!(n_tokens(&["--ignore-eos"]), 3, "its num_predict is 3");
    assert_eq!(n_tokens(&["--ignore-eos", "--n-predict", "12"]), 12, "the caller's word counts more");
}
