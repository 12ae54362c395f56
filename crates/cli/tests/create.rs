//! `ingle create` and `show --modelfile`: models of a store from Modelfiles, as people make them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

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
    assert_eq!(home.stdout(&["show", "twin:v2", "--modelfile"]), shown);
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
    check("FROM ./weights/tiny.gguf\nADAPTER ./weights", &["m"], "ingle serve --lora");
    check("FROM ./weights/tiny.gguf\nTEMPLATE {{ if }}", &["m"], "TEMPLATE");
    check("FROM ./weights/tiny.gguf\nDRAFT x", &["m"], "--draft-model");
    check("FROM ./weights/tiny.gguf", &["m", "-q", "q4_K_M"], "not quantized here yet");
    check("FROM ./weights/tiny.gguf", &["../m"], "not valid");
    check("FROM ./weights/tiny.gguf", &[], "name the model");
    assert!(home.failure(&["create", "m", "-f", "none"]).contains("-f names the Modelfile"));
    let made = std::fs::read_dir(home.path().join("models/manifests")).map_or(0, Iterator::count);
    assert_eq!(made, 0, "nothing was made");
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
