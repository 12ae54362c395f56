//! The store as people use it: its commands, and its models behind a server, as they come and go.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Reply, Server, exchange, ingle};
use ingle_store::{Layer, Manifest, MediaType, ModelConfig, Store, StoreConfig};
use ingle_testkit::hub::Hub;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

/// A folder with a store in it.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("models")
    }

    pub fn store(&self) -> Store {
        Store::open(StoreConfig { root: self.root(), ..StoreConfig::default() }).expect("it has a folder")
    }

    /// Puts a model there, as a pull does.
    pub fn put(&self, name: &str, seed: u64) {
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

    /// Gives a name a manifest that is none; where it is.
    pub fn garbage(&self, name: &str) -> PathBuf {
        let path = self.root().join("manifests/registry.ollama.ai/library").join(name).join("latest");
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        std::fs::write(&path, "garbage").expect("writable");
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = ingle(args);
        // Nothing of whoever runs this is looked at.
        command.env("INGLE_MODELS", self.root()).env("HOME", self.0.path());
        for name in ["HF_HOME", "OLLAMA_MODELS", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    pub fn stdout(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(args)).expect("JSON")
    }

    pub fn failure(&self, args: &[&str]) -> String {
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
    // Capital letters make no other name, unless nothing else tells two apart.
    assert_eq!(home.json(&["show", "TINY:1", "--json"])["store"]["name"], "tiny:1");
    home.stdout(&["cp", "tiny:1", "Copy"]);
    home.put("COPY", 1);
    assert_eq!(home.json(&["list", "--json"])["models"].as_array().map(Vec::len), Some(3));
    assert_eq!(home.json(&["show", "COPY", "--json"])["store"]["name"], "COPY:latest");
    let error = home.failure(&["export", "copy", "COPY", "-o", path(&home.0.path().join("x"))]);
    assert!(error.contains("copy:latest and COPY:latest differ in capital letters only"), "{error}");
    home.stdout(&["rm", "COPY"]);
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

    // Of a manifest that cannot be read nothing is known, and nothing is made up.
    let manifest = home.garbage("bad");
    let listed = home.json(&["list", "--json", "bad"])["models"][0].clone();
    assert_eq!((&listed["digest"], &listed["size"]), (&Value::Null, &Value::Null));
    assert!(home.stdout(&["list", "bad"]).lines().nth(1).is_some_and(|row| row.contains(" - ")));
    let error = home.failure(&["run", "bad", "x"]);
    assert!(
        error.contains("`ingle verify bad:latest`") && error.contains("pulled, created or imported again"),
        "{error}"
    );
    std::fs::remove_file(manifest).expect("it is there");

    // A small part of a model is named, with the model and what to do.
    home.put("small:1", 2);
    let system =
        blobs_of(&home).into_iter().find(|path| std::fs::read(path).is_ok_and(|text| text == b"Be brief."));
    std::fs::write(system.expect("it is there"), b"Be brieF.").expect("writable");
    let error = home.failure(&["show", "small:1", "--system"]);
    assert!(error.contains("the system message of `small:1` cannot be used: it is damaged"), "{error}");
}

/// Folders and names that are wrong are told with what to do next.
#[test]
fn wrong_uses_say_what_to_do() {
    let home = Home::new();
    home.put("tiny:1", 1);
    let file = home.0.path().join("file");
    std::fs::write(&file, "x").expect("writable");
    let beneath = file.join("x");
    for (args, part) in [
        (&["list", "--store-dir", path(&file)][..], "is no folder; --store-dir"),
        (&["list", "--store-dir", path(&beneath)], "can be no folder"),
        (&["show", "none"], "and `ingle pull` fetches models"),
        (&["run", "none", "x"], "and `ingle pull` (or --yes) fetches models"),
        (&["run", "--offline", "none", "x"], "--offline fetches none"),
    ] {
        let error = home.failure(args);
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

/// Why a model cannot be used, and what else there is, is told over HTTP too, with the status that fits.
#[test]
fn a_server_says_what_is_wrong() {
    let home = Home::new();
    home.put("first:1", 1);
    home.put("second", 2);
    home.garbage("bad");
    let mut command = home.command(&["serve", "--port", "0", "--preload", "none"]);
    command.env("OLLAMA_DEBUG", "1").env("INGLE_REGISTRY_MIRROR", "http://127.0.0.1:1");
    command.env("INGLE_PRIVATE_HOSTS", "127.0.0.1").env("INGLE_INSECURE_HOSTS", "127.0.0.1");
    let mut server = Server::launch(&mut command);
    server.wait_for("1 model and 2 models of the store").expect("they are counted");
    assert!(
        server.said.lock().expect("nobody panics with it").contains("OLLAMA_DEBUG is set and has no effect")
    );
    let broken = "`bad:latest` cannot be used: its manifest";
    for (route, body, status, parts) in [
        ("POST /api/show", json!({ "model": "none" }), 404, &["ingle-tiny", "first:1", "second:latest"][..]),
        ("POST /api/generate", json!({ "model": "none", "prompt": "x" }), 404, &["first:1", "second:latest"]),
        (
            "POST /api/copy",
            json!({ "source": "none", "destination": "x" }),
            404,
            &["first:1", "second:latest"],
        ),
        ("DELETE /api/delete", json!({ "model": "none" }), 404, &["first:1", "second:latest"]),
        ("POST /api/show", json!({ "model": "bad" }), 500, &[broken]),
        ("POST /api/generate", json!({ "model": "bad", "prompt": "x" }), 500, &[broken]),
        (
            "POST /v1/chat/completions",
            json!({ "model": "bad", "messages": [{ "role": "user", "content": "x" }] }),
            500,
            &[broken, "model_unusable"],
        ),
        ("POST /api/copy", json!({ "source": "bad", "destination": "x" }), 500, &[broken]),
        ("POST /api/pull", json!({ "model": "tiny", "stream": false }), 502, &["127.0.0.1:1"]),
        ("GET /v1/models/second", json!({}), 200, &["second:latest"]),
    ] {
        let headers = "Content-Type: application/json\r\n";
        let reply = exchange(&server.address, route, headers, body.to_string().as_bytes());
        assert_eq!(reply.status, status, "{route} {body}: {}", reply.body);
        let missing = parts.iter().find(|part| !reply.body.contains(**part));
        assert!(missing.is_none() && !reply.body.contains("not ready"), "{route} {body}: {}", reply.body);
    }
    server.stop();
}

fn blobs_of(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.root().join("blobs")).expect("readable");
    entries.map(|entry| entry.expect("readable").path()).collect()
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
fn a_model_that_is_served_alone_has_its_name() {
    let home = Home::new();
    home.put("house/first:1", 1);
    let root = home.root();
    let mut server = Server::start(&["--store-dir", path(&root), "-m", "house/first:1", "-c", "128"]);
    server.wait_for(" is ready").expect("it is loaded");
    assert_eq!(names(&server.get("/v1/models"), "data", "id"), ["house/first:1"]);
    assert_eq!(names(&server.get("/api/tags"), "models", "name"), ["house/first:1"]);
    let options = json!({ "num_predict": 1 });
    for name in ["house/first:1", "House/First:1"] {
        let body = json!({ "model": name, "prompt": "a", "raw": true, "stream": false, "options": options });
        let reply = server.post("/api/generate", &body);
        assert_eq!(reply.status, 200, "{name}: {}", reply.body);
    }
    let body = json!({ "model": "house/second:1", "prompt": "a" });
    assert_eq!(server.post("/api/generate", &body).status, 404);
}

#[test]
fn a_name_of_the_store_is_that_model_whatever_lies_beside() {
    let home = Home::new();
    home.put("mario", 1);
    let folder = tempfile::tempdir().unwrap();
    let here = |args: &[&str]| {
        let out = home.command(args).current_dir(folder.path()).output().expect("the binary starts");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).expect("JSON")
    };
    let shown = here(&["show", "mario", "--json"]);
    assert_eq!(shown["store"]["name"], "mario:latest");
    // The folder of its Modelfile, and another model's file.
    std::fs::create_dir(folder.path().join("mario")).unwrap();
    let modelfile = folder.path().join("mario/Modelfile");
    std::fs::write(&modelfile, "FROM mario\nSYSTEM Jump.\n").unwrap();
    assert_eq!(here(&["show", "mario", "--json"]), shown);
    here(&["fit", "mario", "--json"]);
    let made = home.command(&["create", "luigi", "-f", path(&modelfile)]).current_dir(folder.path()).output();
    assert!(made.is_ok_and(|out| out.status.success()));
    std::fs::write(folder.path().join("luigi"), "no model").unwrap();
    assert_eq!(here(&["show", "luigi", "--json"])["store"]["name"], "luigi:latest");
    // What is written as a path is one.
    let out = home.command(&["show", "./luigi"]).current_dir(folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("luigi"), "{out:?}");
    assert!(!out.status.success());
    // The model of this program is known by its name wherever one stands.
    std::fs::write(folder.path().join("Modelfile"), "FROM ingle-tiny\nSYSTEM Be brief.\n").unwrap();
    let made = home.command(&["create", "small", "--offline"]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(here(&["show", "small", "--json"])["store"]["name"], "small:latest");
    let fits = here(&["fit", "ingle-tiny", "--offline", "--json"]);
    assert_eq!(fits["runs_here"], true);
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

/// What is pulled over HTTP and cannot run here is said in a line of status, before it is fetched.
#[test]
fn a_pull_over_http_is_foreseen() {
    let (hub, home) = (Hub::start(), Home::new());
    home.put("first:1", 1);
    let mut file = ingle_gguf::GgufWriter::new();
    file.set("general.architecture", "gemma3".into());
    let sizes = [
        ("block_count", 1_u64),
        ("embedding_length", 64),
        ("attention.head_count", 4),
        ("context_length", 512),
    ];
    for (key, n) in sizes {
        file.set(&format!("gemma3.{key}"), ingle_gguf::Value::U64(n));
    }
    file.tensor("token_embd.weight", ingle_gguf::TensorType::F32, &[64, 32], vec![0; 64 * 32 * 4]);
    let (strange, fine) = (file.to_bytes(), TinySpec::new(Arch::Llama).bytes());
    hub.commit("someone/strange-GGUF", &[("s-Q8_0.gguf", &strange)]);
    hub.commit("someone/fine-GGUF", &[("f-Q8_0.gguf", &fine)]);
    let (root, url, credentials) = (home.root(), hub.url(), home.root().join("none.json"));
    let mut server = Server::start(&[
        "--store-dir",
        path(&root),
        "--credentials-file",
        path(&credentials),
        "--hf-endpoint",
        &url,
        "--private-host",
        "127.0.0.1",
        "--insecure-host",
        "127.0.0.1",
        "--preload",
        "none",
        "-c",
        "128",
    ]);
    server.wait_for(" is the default").expect("its models are known");
    for (name, warns) in [("hf.co/someone/strange-GGUF:Q8_0", true), ("hf.co/someone/fine-GGUF:Q8_0", false)]
    {
        let reply = server.post("/api/pull", &json!({ "model": name }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let states: Vec<String> = reply
            .body
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).expect("JSON")["status"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(states.last().map(String::as_str), Some("success"), "{states:?}");
        let warning = states.iter().find(|status| status.starts_with("warning: "));
        assert_eq!(warning.is_some_and(|w| w.contains("`gemma3` is not supported")), warns, "{states:?}");
    }
}
