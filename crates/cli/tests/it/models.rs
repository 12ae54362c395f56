//! Several models behind one server, over HTTP: as clients of OpenAI, Ollama and llama-server see them come and go.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

use crate::support::{Reply, Server, exchange, failure, ingle};

/// A server of several models.
struct Served(Server);

impl Served {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, "/dev/null")
    }

    fn start_with(args: &[&str], config: &str) -> Self {
        let few = ["serve", "--port", "0", "-c", "128", "--kv-tokens", "256", "-b", "64"];
        let mut command = ingle(&[&few[..], args].concat());
        command.env("INGLE_CONFIG", config);
        let server = Self(Server::launch(&mut command));
        until("a ready server", || server.get("/health/ready").status == 200);
        server
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        exchange(&self.0.address, &format!("{method} {path}"), &headers, body.as_bytes())
    }

    fn get(&self, path: &str) -> Reply {
        self.0.get(path)
    }

    fn post(&self, path: &str, body: Value) -> Reply {
        self.0.post(path, &body)
    }

    /// A greedy answer of few tokens: its text and the fingerprint that it names.
    fn ask(&self, model: &str) -> (String, String) {
        let reply = self.post(
            "/v1/completions",
            json!({ "model": model, "prompt": "once upon", "max_tokens": 12, "temperature": 0 }),
        );
        assert_eq!(reply.status, 200, "{}", reply.body);
        let body = reply.json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (text(&body["choices"][0]["text"]), text(&body["system_fingerprint"]))
    }

    /// The state of each model, by name.
    fn states(&self) -> Vec<(String, String)> {
        let list = self.get("/models").json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let models = list["data"].as_array().expect("a list");
        models.iter().map(|m| (text(&m["id"]), text(&m["status"]["value"]))).collect()
    }

    fn state(&self, model: &str) -> String {
        self.states().into_iter().find(|(name, _)| name == model).expect("a model").1
    }

    /// The names that Ollama's clients see in memory.
    fn running(&self) -> Vec<String> {
        let list = self.get("/api/ps").json();
        let models = list["models"].as_array().expect("a list");
        models.iter().map(|m| m["name"].as_str().expect("text").to_owned()).collect()
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tiny(seed: u64) -> Vec<u8> {
    TinySpec::new(Arch::Llama).seed(seed).bytes()
}

/// A folder with a model in each of these files.
fn folder(files: &[(&str, u64)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, seed) in files {
        std::fs::write(dir.path().join(name), tiny(*seed)).expect("the folder is writable");
    }
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// Replaces a file as files are replaced: at once.
fn put(path: &Path, bytes: &[u8]) {
    let beside: PathBuf = path.with_extension("new");
    std::fs::write(&beside, bytes).expect("the folder is writable");
    std::fs::rename(beside, path).expect("the same folder");
}

/// A hundred switches to another file under steady load: no request fails, each answer is of one model from its
/// beginning to its end, and names that one.
#[test]
fn a_hundred_switches_disturb_nobody() {
    let dir = folder(&[("m.gguf", 1)]);
    let path = dir.path().join("m.gguf");
    let server = Served::start(&["--model", &format!("m={}", text(&path)), "--memory-budget", "1G"]);
    let versions = [tiny(1), tiny(2)];
    let switch_to = |i: usize| {
        put(&path, &versions[i]);
        let reply = server.post("/models/reload", json!({ "model": "m" }));
        assert_eq!((reply.status, reply.json()), (200, json!({ "success": true })), "{}", reply.body);
    };
    let known: Vec<(String, String)> = [1, 0]
        .map(|i| {
            switch_to(i);
            server.ask("m")
        })
        .into();
    assert!(known[0].0 != known[1].0 && known[0].1 != known[1].1, "two models that are told apart");
    let begun = Instant::now();
    let (done, counts) = (AtomicBool::new(false), Mutex::new([0_usize; 2]));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let answer = server.ask("m");
                    let i = known.iter().position(|k| *k == answer);
                    let i = i.unwrap_or_else(|| panic!("a mixture of models: {answer:?}"));
                    counts.lock().expect("no panics")[i] += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        for round in 0..100 {
            switch_to((round + 1) % 2);
        }
        done.store(true, SeqCst);
    });
    let (counts, took) = (counts.into_inner().expect("no panics"), begun.elapsed());
    println!("100 switches in {took:.1?} beside {counts:?} answers");
    assert!(counts.iter().all(|n| *n > 0), "both models answered: {counts:?}");
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("ingle_model_loads_total{model_name=\"m\"} 103"), "{metrics}");
    assert!(metrics.contains("ingle_model_load_failures_total{model_name=\"m\"} 0"), "{metrics}");
    // A file that cannot be used is told, and changes nothing.
    put(&path, b"nonsense");
    let reply = server.post("/models/reload", json!({ "model": "m" }));
    assert_eq!(reply.status, 500, "{}", reply.body);
    // Coming back does not help.
    assert!(reply.header("retry-after").is_none() && !reply.body.contains(text(&path)), "{}", reply.body);
    assert!(known.contains(&server.ask("m")), "the old one goes on");
    assert_eq!(server.state("m"), "loaded");
}

#[test]
fn models_come_when_they_are_asked_for() {
    let dir = folder(&[("a.gguf", 1), ("b.gguf", 2), ("broken.gguf", 3)]);
    put(&dir.path().join("broken.gguf"), b"GGUF, or not");
    let named = format!("first={}", text(&dir.path().join("a.gguf")));
    let server = Served::start(&["-m", &named, "--models-dir", text(dir.path()), "--memory-budget", "1G"]);
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][2]["status"]["failed"], true, "{list}");
    let states = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, state)| ((*name).into(), (*state).into())).collect()
    };
    // The first is the default, and there from the beginning; its file is not in the list twice.
    assert_eq!(server.states(), states(&[("first", "loaded"), ("b", "unloaded"), ("broken", "unloaded")]));
    let (a, b) = (server.ask("first"), server.ask("b"));
    assert!(a.0 != b.0 && a.1 != b.1);
    assert_eq!(server.state("b"), "loaded");
    let default = server.post("/v1/completions", json!({ "prompt": "once upon", "max_tokens": 1 })).json();
    assert_eq!((&default["model"], &default["system_fingerprint"]), (&json!("first"), &json!(a.1)));
    // What cannot be loaded says so to those who ask for it.
    let reply = server.post("/v1/completions", json!({ "model": "broken", "prompt": "x" }));
    assert_eq!(reply.status, 500);
    assert!(
        reply.body.contains("model `broken`") && !reply.body.contains(text(dir.path())),
        "{}",
        reply.body
    );
    // Unknown names are unknown in each dialect.
    let hello = json!([{ "role": "user", "content": "hi" }]);
    for (path, body, expected) in [
        ("/v1/chat/completions", json!({ "model": "x", "messages": hello }), "model_not_found"),
        ("/v1/messages", json!({ "model": "x", "messages": hello, "max_tokens": 1 }), "not_found_error"),
        ("/api/chat", json!({ "model": "x", "messages": hello }), "\"error\":\""),
        ("/models/load", json!({ "model": "x" }), "model_not_found"),
    ] {
        let reply = server.post(path, body);
        assert_eq!(reply.status, 404, "{path}: {}", reply.body);
        assert!(reply.body.contains(expected), "{path}: {}", reply.body);
    }
    let health = server.get("/health").json();
    assert_eq!(health["models"], json!(["first", "b", "broken"]));
    assert_eq!(health["model_states"]["b"]["state"], "loaded");
    assert_eq!(health["memory_budget_bytes"], 1 << 30);
    let metrics = server.get("/metrics").body;
    for line in [
        "ingle_model_loaded{model_name=\"b\"} 1",
        "ingle_model_loaded{model_name=\"broken\"} 0",
        "ingle_memory_budget_bytes 1073741824",
        "ingle_replies_total{model_name=\"b\",outcome=\"finished\"} 1",
        "ingle_replies_total{model_name=\"first\",outcome=\"finished\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert_eq!(metrics.matches("# TYPE ingle_steps_total").count(), 1, "a metric is described once");
    // As llama-server's clients manage models.
    assert_eq!(server.post("/models/unload", json!({ "model": "b" })).json(), json!({ "success": true }));
    assert_eq!(server.state("b"), "unloaded");
    assert_eq!(server.post("/models/load", json!({ "model": "b" })).status, 200);
    until("b", || server.state("b") == "loaded");
    let reply = server.post("/models/load", json!({ "model": "b", "force": true }));
    assert_eq!((reply.status, reply.body.contains("`force`")), (400, true), "{}", reply.body);
    // Pages about a model do not load it.
    server.post("/models/unload", json!({ "model": "b" }));
    assert_eq!(server.get("/props?model=b").json()["model_alias"], "b");
    assert_eq!(server.state("b"), "unloaded");
    // Vectors, and tokens, do.
    assert_eq!(server.post("/v1/embeddings", json!({ "model": "b", "input": "x" })).status, 200);
    server.post("/models/unload", json!({ "model": "b" }));
    assert_eq!(server.post("/tokenize", json!({ "model": "b", "content": "x" })).status, 200);
}

#[test]
fn ollama_s_clients_load_and_unload() {
    let dir = folder(&[("a.gguf", 1), ("b.gguf", 2)]);
    let server = Served::start(&["--models-dir", text(dir.path()), "--keep-alive", "5m"]);
    let names = |list: Value| -> Vec<Value> {
        list["models"].as_array().expect("a list").iter().map(|m| m["name"].clone()).collect()
    };
    assert_eq!(names(server.get("/api/tags").json()), ["a:latest", "b:latest"]);
    assert!(server.running().is_empty());
    let load = |path: &str, body: Value| server.post(path, body).json();
    let loaded = load("/api/generate", json!({ "model": "a" }));
    assert_eq!((&loaded["done_reason"], &loaded["done"]), (&json!("load"), &json!(true)), "{loaded}");
    load("/api/chat", json!({ "model": "b:latest", "messages": [], "keep_alive": -1 }));
    assert_eq!(server.running(), ["a:latest", "b:latest"]);
    let list = server.get("/api/ps").json();
    let year = |i: usize| list["models"][i]["expires_at"].as_str().expect("a time")[..4].parse::<u32>();
    let (soon, never) = (year(0).expect("a year"), year(1).expect("a year"));
    assert!(soon < 2200 && never > 2200, "five minutes, and for ever: {list}");
    assert!(list["models"][0]["size"].as_u64().expect("a size") > 0);
    let gone = load("/api/generate", json!({ "model": "a", "prompt": "", "keep_alive": 0 }));
    assert_eq!(gone["done_reason"], "unload", "{gone}");
    assert_eq!(server.running(), ["b:latest"]);
    // With a prompt the answer comes first.
    let body = json!({ "model": "b", "prompt": "x", "raw": true, "stream": false, "keep_alive": "0s", "options": { "num_predict": 3 } });
    let answer = load("/api/generate", body);
    assert_eq!(answer["done"], true, "{answer}");
    until("the end of b", || server.running().is_empty());
    let body = json!({ "model": "a", "input": "x", "keep_alive": "100ms" });
    assert_eq!(server.post("/api/embed", body).status, 200);
    until("the end of a", || server.running().is_empty());
    assert_eq!(load("/api/embed", json!({ "model": "a" }))["embeddings"], json!([]));
    assert_eq!(server.running(), ["a:latest"]);
    load("/api/embed", json!({ "model": "a", "keep_alive": 0 }));
    assert!(server.running().is_empty());
}

/// Where there are keys, one needs the scope to load and unload; asking for a model needs none.
#[test]
fn managing_models_takes_a_scope() {
    let dir = folder(&[("a.gguf", 1), ("b.gguf", 2)]);
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "boss models\nuser\n").expect("the folder is writable");
    let server = Served::start(&["--models-dir", text(dir.path()), "--api-key-file", text(&keys)]);
    let post = |key: &str, path: &str, body: Value| {
        server.send("POST", path, &format!("Authorization: Bearer {key}\r\n"), &body.to_string())
    };
    for (path, body) in [
        ("/models/load", json!({ "model": "a" })),
        ("/models/unload", json!({ "model": "a" })),
        ("/models/reload", json!({ "model": "a" })),
        ("/api/generate", json!({ "model": "a", "keep_alive": 0 })),
        ("/api/embed", json!({ "model": "a", "keep_alive": 0 })),
    ] {
        let refused = post("user", path, body.clone());
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
        assert!(refused.body.contains("`models`"), "{}", refused.body);
        assert_eq!(post("boss", path, body).status, 200, "{path}");
    }
    assert_eq!(server.post("/models/load", json!({ "model": "a" })).status, 401);
    assert_eq!(post("user", "/api/generate", json!({ "model": "b", "keep_alive": "1m" })).status, 200);
}

/// Tables of the configuration file, and settings that make no sense.
#[test]
fn catalogues_of_the_configuration_file() {
    let dir = folder(&[("a.gguf", 1), ("b.gguf", 2)]);
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    let config = dir.path().join("config.toml");
    let tables = format!(
        "[[models]]\nname = 'small'\nmodel = '{}'\nctx_size = 64\npreload = true\npinned = true\n\n[[models]]\nmodel = \
         '{}'\nkeep_alive = '100ms'\nweight = 3\n",
        text(&a),
        text(&b)
    );
    std::fs::write(&config, tables).expect("the folder is writable");
    let server = Served::start_with(&[], text(&config));
    let list = server.get("/v1/models").json();
    let told = |i: usize| (list["data"][i]["id"].clone(), list["data"][i]["max_model_len"].clone());
    // What a table says wins over the flag, which holds for all.
    assert_eq!([told(0), told(1)], [(json!("small"), json!(64)), (json!("b"), json!(128))]);
    assert_eq!((server.state("small"), server.state("b")), ("loaded".into(), "unloaded".into()));
    server.ask("b");
    until("the end of b", || server.state("b") == "unloaded");
    let fails = |args: &[&str]| failure(&[&["serve", "--port", "0"], args].concat());
    let (one, other) = (format!("x={}", text(&a)), format!("x={}", text(&b)));
    for (args, expected) in [
        (&["-m", &one, "-m", &other][..], "two models called `x`"),
        (&["-m", &one, "-m", "/nonexistent.gguf"], "/nonexistent.gguf"),
        (&["-m", &one, "--memory-budget", "10K"], "the memory budget is 10.2 kB"),
        (&["-m", &one, "--memory-budget", "lots"], "--memory-budget"),
        (&["-m", &one, "--pin", "y"], "there are: x"),
        (&["-m", &one, "--on-missing", "panic"], "wait, refuse and never"),
        (&["-m", &one, "-m", text(&config)], "model `config`"),
        (&["--models-dir", "/nonexistent"], "--models-dir: cannot read"),
        (&["-m", &one, "--models-max", "2"], "--memory-budget"),
        (&["-m", &one, "--no-models-autoload"], "--on-missing never"),
    ] {
        let error = fails(args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

/// Without more than one model, and nothing said about staying, all is as it was: the model stays.
#[test]
fn one_model_stays() {
    let dir = folder(&[("a.gguf", 1)]);
    let server = Served::start(&[text(&dir.path().join("a.gguf"))]);
    let reply = server.post("/api/generate", json!({ "model": "a", "keep_alive": 0 }));
    assert_eq!((reply.status, reply.body.contains("stay loaded")), (400, true), "{}", reply.body);
    assert_eq!(server.post("/models/unload", json!({ "model": "a" })).status, 400);
    assert_eq!(server.states(), [("a".to_owned(), "loaded".to_owned())]);
    assert_eq!(server.running(), ["a:latest"]);
    assert!(server.get("/health").json()["model_states"].is_null());
}
