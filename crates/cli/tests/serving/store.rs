//! The store as people use it: its commands, and its models behind a server, as they come and go.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::served::{Reply, Server, exchange, ingle};
use ingle_store::{Layer, Manifest, MediaType, ModelConfig, Store, StoreConfig};
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

/// A folder with a store in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("models")
    }

    fn store(&self) -> Store {
        Store::open(StoreConfig { root: self.root(), ..StoreConfig::default() }).expect("it has a folder")
    }

    /// Puts a model there, as a pull does.
    fn put(&self, name: &str, seed: u64) {
        let store = self.store();
        let weights = TinySpec::new(Arch::Llama).seed(seed).bytes();
        let file = ingle_gguf::GgufFile::from_bytes(weights.clone()).expect("a model");
        let put = |media_type, bytes: &[u8]| {
            let digest = store.put_bytes(bytes).expect("there is room");
            Layer::new(media_type, digest, bytes.len() as u64)
        };
        let layers = vec![
            put(MediaType::Model, &weights),
            put(MediaType::System, b"Be brief."),
            put(MediaType::Params, br#"{"stop":["END","."],"temperature":0.5}"#),
            put(MediaType::License, b"The licence of tests."),
        ];
        let config = put(MediaType::Config, &ModelConfig::of_gguf(&file).to_bytes(&layers));
        store.publish(&name.parse().expect("a name"), &Manifest::new(config, layers)).expect("all is there");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = ingle(args);
        // Nothing of whoever runs this is looked at.
        command.env("INGLE_MODELS", self.root()).env("HOME", self.0.path());
        for name in ["HF_HOME", "OLLAMA_MODELS", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    fn stdout(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(args)).expect("JSON")
    }

    fn failure(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(!out.status.success(), "{args:?} succeeded");
        String::from_utf8(out.stderr).expect("UTF-8")
    }
}

#[test]
fn models_from_list_to_rm() {
    let home = Home::new();
    assert_eq!(home.json(&["list", "--json"]), json!({ "models": [] }));
    assert!(!home.root().exists(), "looking makes nothing");
    home.put("tiny:1", 1);
    let list = home.stdout(&["ls"]);
    assert!(list.starts_with("NAME") && list.contains("tiny:1") && list.contains("just now"), "{list}");
    home.stdout(&["cp", "tiny:1", "copy"]);
    let list = home.json(&["list", "--json"]);
    let names: Vec<&str> =
        list["models"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, ["copy:latest", "tiny:1"]);
    assert_eq!(list["models"][0]["digest"], list["models"][1]["digest"]);
    assert_eq!(home.json(&["list", "--json", "COP"])["models"].as_array().map(Vec::len), Some(1));

    let page = home.stdout(&["show", "tiny:1"]);
    for part in [
        "architecture           llama",
        "context length",
        "tensors",
        "Be brief.",
        "stop",
        "The licence of tests.",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = home.json(&["show", "tiny:1", "--json"]);
    assert_eq!((&page["architecture"], &page["options"]["temperature"]), (&json!("llama"), &json!(0.5)));
    assert_eq!(page["store"]["name"], "tiny:1");
    assert_eq!(home.stdout(&["show", "tiny:1", "--system"]), "Be brief.\n");
    assert_eq!(home.stdout(&["show", "tiny:1", "--license"]), "The licence of tests.\n");
    assert!(home.stdout(&["show", "tiny:1", "--parameters"]).contains("\"END\""));
    assert!(home.failure(&["show", "nothing"]).contains("no model of that name"));

    assert!(home.json(&["run", "tiny:1", "abc", "-n", "2", "--raw", "--json"])["text"].is_string());
    assert!(home.failure(&["run", "tiny:2", "abc"]).contains("`ingle list`"));

    assert!(home.stdout(&["verify"]).contains("ok    tiny:1"));
    assert!(home.failure(&["rm", "tiny:1", "nothing"]).contains("there is no model `nothing:latest`"));
    home.stdout(&["rm", "copy"]);
    assert_eq!(home.json(&["list", "--json"]), json!({ "models": [] }));
    assert_eq!(home.json(&["prune", "--dry-run", "--json"])["blobs"], 0);

    home.put("tiny:1", 1);
    std::fs::remove_file(home.root().join("manifests/registry.ollama.ai/library/tiny/1"))
        .expect("it is there");
    assert_eq!(home.json(&["prune", "--dry-run", "--json"])["blobs"], 5);
    assert_eq!(home.json(&["prune", "--json"])["blobs"], 5);
}

#[test]
fn what_is_damaged_is_found() {
    let home = Home::new();
    home.put("tiny:1", 1);
    let blobs: Vec<PathBuf> = std::fs::read_dir(home.root().join("blobs"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .collect();
    let largest =
        blobs.iter().max_by_key(|path| path.metadata().map_or(0, |m| m.len())).expect("there are some");
    let mut bytes = std::fs::read(largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, &bytes).expect("writable");
    let out = home.output(&["verify", "tiny:1", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((&report["ok"], &report["models"][0]["ok"]), (&json!(false), &json!(false)));
    std::fs::write(largest, &bytes[..100]).expect("writable");
    assert!(home.failure(&["run", "tiny:1", "abc"]).contains("100 bytes"));
    let list = home.output(&["list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("broken"), "{list:?}");
}

#[test]
fn short_names_mean_what_the_catalogue_says() {
    let home = Home::new();
    home.put("hf.co/u/R-GGUF:Q4_0", 1);
    let catalogue = home.0.path().join("names.toml");
    std::fs::write(&catalogue, "[models]\n\"assistant\" = \"hf.co/u/R-GGUF:q4_0\"\n").expect("writable");
    let path = catalogue.to_str().expect("UTF-8");
    assert_eq!(
        home.json(&["show", "assistant", "--catalogue", path, "--json"])["store"]["name"],
        "hf.co/u/R-GGUF:Q4_0"
    );
    assert!(home.failure(&["show", "assistant"]).contains("no model of that name"));
    std::fs::write(&catalogue, "models = 1").expect("writable");
    assert!(home.failure(&["list", "--catalogue", path]).contains("table"));
}

fn delete(server: &Server, body: &Value) -> Reply {
    exchange(&server.address, "DELETE /api/delete", "", body.to_string().as_bytes())
}

fn names(reply: &Reply, list: &str, key: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(&reply.body).expect("JSON");
    let models = body[list].as_array().expect("a list");
    models.iter().map(|model| model[key].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_server_has_the_models_that_the_store_has_now() {
    let home = Home::new();
    home.put("first:1", 1);
    let root = home.root();
    let mut server = Server::start(&[
        "--store-dir",
        path(&root),
        "--hf-home",
        "",
        "--ollama-models",
        "",
        "--preload",
        "none",
        "-c",
        "128",
    ]);
    server.wait_for(" is the default").expect("its models are known");
    let json = |reply: &Reply| serde_json::from_str::<Value>(&reply.body).expect("JSON");
    assert_eq!(names(&server.get("/api/tags"), "models", "name"), ["first:1", "ingle-tiny:latest"]);
    assert_eq!(names(&server.get("/v1/models"), "data", "id"), ["ingle-tiny", "first:1"]);

    let page = server.post("/api/show", &json!({ "model": "first:1" }));
    assert_eq!(page.status, 200, "{}", page.body);
    let page = json(&page);
    assert_eq!((&page["system"], &page["license"]), (&json!("Be brief."), &json!("The licence of tests.")));
    assert!(page["parameters"].as_str().expect("text").contains("temperature"), "{page}");

    let ask =
        |model: &str| {
            server.post("/api/generate", &json!({
        "model": model, "prompt": "abc", "raw": true, "stream": false, "options": { "num_predict": 3 }
    }))
        };
    let answer = ask("first:1");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(json(&answer)["model"], "first:1");
    assert_eq!(names(&server.get("/api/ps"), "models", "name"), ["first:1"]);

    // A model that comes while the server runs.
    assert_eq!(ask("second").status, 404);
    home.put("second", 2);
    assert_eq!(ask("second").status, 200);
    // A second name, over HTTP.
    let copied = server.post("/api/copy", &json!({ "source": "second", "destination": "third:x" }));
    assert_eq!((copied.status, copied.body.as_str()), (200, ""));
    assert_eq!(ask("third:x").status, 200);
    let missing = server.post("/api/copy", &json!({ "source": "nothing", "destination": "third:x" }));
    assert_eq!(missing.status, 404, "{}", missing.body);
    // What is taken away is gone, here and there.
    let gone = delete(&server, &json!({ "model": "second" }));
    assert_eq!((gone.status, gone.body.as_str()), (200, ""));
    assert_eq!(ask("second").status, 404);
    assert_eq!(delete(&server, &json!({ "model": "second" })).status, 404);
    home.stdout(&["rm", "first:1"]);
    assert_eq!(ask("first:1").status, 404);
    assert_eq!(names(&server.get("/api/tags"), "models", "name"), ["third:x", "ingle-tiny:latest"]);
    assert_eq!(names(&server.get("/v1/models"), "data", "id"), ["ingle-tiny", "third:x"]);

    // Names that are none change nothing, and say nothing of this machine's files.
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../b", "x:../y", "./x.gguf", "https://h/x"] {
        let reply = delete(&server, &json!({ "model": name }));
        assert!((400..500).contains(&reply.status), "{name}: {}", reply.body);
        assert!(!reply.body.contains(path(&root)), "{}", reply.body);
        let reply = ask(name);
        assert!((400..500).contains(&reply.status), "{name}: {}", reply.body);
    }
    assert!(Path::new("/etc/passwd").exists());
    server.stop();
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
