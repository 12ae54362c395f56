//! The store behind HTTP, as somebody sees it who means harm: names, digests and paths at every route that takes one
//! (V56, V59, V60).

use std::path::{Component, Path};
use std::sync::Arc;

use ingle_egress::{
    Credential, Credentials, Egress, EgressConfig, HostRule, Origin, Policy, RequestKey, Target,
};
use ingle_server::{ModelStore, ServerConfig, Transfers};
use ingle_store::pull::{Network, Puller};
use ingle_store::{Catalogue, Digest, ModelName, Store, StoreConfig};
use ingle_testkit::hostile::{texts, tree};
use ingle_testkit::hub::Hub;
use ingle_testkit::reply::Reply;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

use crate::client::{Running, config, start_with};

/// A machine with files that are nobody's business, and a server over a store among them.
struct Machine {
    folder: tempfile::TempDir,
    store: Store,
    server: Running,
    /// A blob of the store.
    digest: String,
}

impl Machine {
    async fn new() -> Self {
        // What may leave is tested elsewhere; here nothing may.
        let policy = Policy { offline: true, ..Policy::default() };
        Self::with(EgressConfig { policy, ..EgressConfig::default() }).await
    }

    async fn with(egress: EgressConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["secret.txt", "etc/passwd", "latest", "manifests", "model.gguf"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            std::fs::write(path, format!("precious {file}")).expect("writable");
        }
        let root = folder.path().join("models");
        let store = Store::open(StoreConfig { root, ..StoreConfig::default() }).expect("a store");
        let digest = store.put_bytes(&TinySpec::new(Arch::Llama).bytes()).expect("room").to_string();
        let egress = Egress::new(egress).expect("valid");
        let puller = Puller::new(store.clone(), Network::new(egress));
        let config = ServerConfig {
            store: Some(ModelStore { store: store.clone(), catalogue: Catalogue::default() }),
            transfers: Some(Arc::new(Transfers::new(puller, Catalogue::default()))),
            ..config()
        };
        let server = start_with(config, true).await;
        let machine = Self { folder, store, server, digest };
        let made = machine.send("POST", "/api/create", &machine.good("good:1")).await;
        assert_eq!(made.status, 200, "{}", made.body);
        machine
    }

    fn root(&self) -> &Path {
        &self.store.config().root
    }

    fn good(&self, name: &str) -> Value {
        json!({ "model": name, "files": { "x.gguf": self.digest }, "stream": false })
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.server.send(&format!("{head}{body}")).await
    }

    /// Every request in which a text can stand for a model, a blob or a file.
    fn requests(&self, text: &str) -> Vec<(&'static str, String, Value)> {
        let mut list: Vec<(&'static str, String, Value)> = vec![
            ("POST", "/api/pull".into(), json!({ "model": text, "stream": false })),
            ("POST", "/api/pull".into(), json!({ "name": text })),
            ("POST", "/api/push".into(), json!({ "model": text, "stream": false })),
            ("POST", "/api/create".into(), self.good(text)),
            ("POST", "/api/create".into(), json!({ "model": "made:1", "from": text, "stream": false })),
            ("POST", "/api/create".into(), json!({ "model": "made:1", "files": { text: self.digest } })),
            ("POST", "/api/create".into(), json!({ "model": "made:1", "files": { "x.gguf": text } })),
            (
                "POST",
                "/api/create".into(),
                json!({ "model": "made:1", "from": "good:1", "adapters": { text: text } }),
            ),
            ("POST", "/api/copy".into(), json!({ "source": text, "destination": "copied:1" })),
            ("POST", "/api/copy".into(), json!({ "source": "good:1", "destination": text })),
            ("DELETE", "/api/delete".into(), json!({ "model": text })),
            ("POST", "/api/show".into(), json!({ "model": text })),
        ];
        // Longer addresses than a head may have are the head's matter.
        let encoded: String = text.bytes().take(2000).map(|byte| format!("%{byte:02X}")).collect();
        for method in ["HEAD", "GET", "POST"] {
            list.push((method, format!("/api/blobs/{encoded}"), json!({})));
        }
        list.push(("GET", format!("/v1/models/{encoded}"), json!({})));
        list
    }
}

/// Whether an answer says that nothing was done: a status, or a line of a stream that has begun.
fn is_refusal(reply: &Reply) -> bool {
    (400..500).contains(&reply.status) || (reply.status == 200 && reply.body.contains("\"error\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_names_and_digests_at_every_route() {
    let machine = Machine::new().await;
    let before = tree(machine.folder.path(), machine.root());
    let (mut n_taken, mut n) = (0, 0);
    for (i, text) in texts(1000).into_iter().enumerate() {
        for (at, (method, path, body)) in machine.requests(&text).into_iter().enumerate() {
            // Each text goes to four of the routes, and each route gets a quarter of the texts, all classes among them;
            // digests are few and go everywhere.
            if i >= 80 && (i + at) % 4 != 0 && !path.starts_with("/api/blobs") {
                continue;
            }
            n += 1;
            let reply = machine.send(method, &path, &body).await;
            let is_name = text.parse::<ModelName>().is_ok();
            assert!(!reply.body.contains("precious"), "{method} {path} {body}: {}", reply.body);
            let shown = machine.folder.path().to_str().expect("UTF-8");
            assert!(!reply.body.contains(shown), "{method} {path} {body}: {}", reply.body);
            if reply.status == 200 && !is_refusal(&reply) {
                // A harmless name, or a file's: a path of plain parts, which only labels it.
                let mut parts = Path::new(&text).components();
                let is_plain = parts.all(|part| matches!(part, Component::Normal(_)));
                let is_file = path == "/api/create" && body["files"].get(&text).is_some() && is_plain;
                assert!(is_name || is_file, "{method} {path} {body}: {} {}", reply.status, reply.body);
                n_taken += 1;
            } else {
                assert!(is_refusal(&reply), "{method} {path} {body}: {} {}", reply.status, reply.body);
            }
            if !path.starts_with("/api/blobs") || method == "POST" {
                continue;
            }
            assert_ne!(reply.status, 200, "{method} {path}");
        }
        if i % 100 == 0 {
            assert_eq!(tree(machine.folder.path(), machine.root()), before, "after {text:?}");
        }
    }
    assert_eq!(
        tree(machine.folder.path(), machine.root()),
        before,
        "something outside the store has changed"
    );
    assert!(n > 5000 && n_taken > 50, "{n} requests, {n_taken} of them with harmless names");
    // What is in the store has content that its name promises, and names of four plain parts.
    for entry in machine.store.list().expect("readable") {
        assert_eq!(entry.name.path().components().count(), 4, "{}", entry.name);
    }
    for blob in std::fs::read_dir(machine.root().join("blobs")).expect("a folder").flatten() {
        let found = Digest::of(&std::fs::read(blob.path()).expect("readable"));
        assert_eq!(blob.file_name().to_str().and_then(Digest::from_file_name), Some(found));
    }
}

/// Whether a file of the machine is there is told to nobody: the answer for one that is and one that is not is the same.
#[tokio::test]
async fn answers_do_not_tell_whether_a_file_is_there() {
    let machine = Machine::new().await;
    let folder = machine.folder.path().to_str().expect("UTF-8");
    let pairs = [
        (format!("{folder}/secret.txt"), format!("{folder}/absent.txt")),
        (format!("{folder}/model.gguf"), format!("{folder}/nodel.gguf")),
        (format!("{folder}/etc"), format!("{folder}/atc")),
        ("/etc/passwd".to_owned(), "/etc/passwx".to_owned()),
        ("../secret.txt".to_owned(), "../absent.txt".to_owned()),
        ("./model.gguf".to_owned(), "./nodel.gguf".to_owned()),
        ("~/x.gguf".to_owned(), "~/y.gguf".to_owned()),
        ("file:///etc/passwd".to_owned(), "file:///etc/passwx".to_owned()),
        ("/dev/zero".to_owned(), "/dev/zerx".to_owned()),
        ("/proc/self/mem".to_owned(), "/proc/self/mex".to_owned()),
    ];
    for (there, absent) in pairs {
        for ((method, path, body), (_, other_path, other_body)) in
            machine.requests(&there).into_iter().zip(machine.requests(&absent))
        {
            let (found, other) = (
                machine.send(method, &path, &body).await,
                machine.send(method, &other_path, &other_body).await,
            );
            let same = found.body.replace(&there, "X") == other.body.replace(&absent, "X");
            assert!(same && found.status == other.status, "{body}: {} {}", found.body, other.body);
            assert!(is_refusal(&found) || path == "/api/create", "{method} {path} {body}: {}", found.body);
            assert!(!found.body.contains("precious"), "{body}: {}", found.body);
        }
    }
}

/// What the system refuses is told without a path of this machine, whatever the route.
#[cfg(unix)]
#[tokio::test]
async fn refusals_of_the_system_name_no_path() {
    let machine = Machine::new().await;
    let root = machine.root().to_owned();
    // A store that is none any more: files where folders were.
    for folder in ["blobs", "manifests", "tmp", "locks"] {
        std::fs::rename(root.join(folder), root.join(format!("{folder}-gone"))).expect("writable");
        std::fs::write(root.join(folder), "no folder").expect("writable");
    }
    let digest = Digest::of(b"new").to_string();
    let mut requests = machine.requests("good:1");
    requests.push(("POST", format!("/api/blobs/{digest}"), json!({ "x": 1 })));
    requests.push(("GET", "/api/tags".into(), json!({})));
    for (method, path, body) in requests {
        let reply = machine.send(method, &path, &body).await;
        let shown = machine.folder.path().to_str().expect("UTF-8");
        assert!(!reply.body.contains(shown), "{method} {path} {body}: {}", reply.body);
    }
}

/// What the way out has of this machine: the file of a key, and the key.
#[tokio::test]
async fn refusals_of_registries_name_no_path_and_no_key() {
    let hub = Hub::start();
    hub.add_model("me/private", "v1", &[("application/vnd.ollama.image.model", b"weights")]);
    hub.require_key(&RequestKey::generate().expect("random bytes").public_line());
    let folder = tempfile::tempdir().expect("a folder");
    let (key, gone) = (folder.path().join("id_ed25519"), folder.path().join("gone"));
    let stranger = RequestKey::generate().expect("random bytes");
    stranger.write_new(&key).expect("writable");
    let public = stranger.public_line();
    let public = public.split(' ').nth(1).expect("a key");
    let target = Target::parse(&hub.url()).expect("a URL");
    for (file, expected) in [(key, "takes no signature"), (gone, "cannot be used; its log says why")] {
        let rule = HostRule::of(&target);
        let policy =
            Policy { private: vec![(None, rule.clone())], insecure: vec![rule], ..Policy::default() };
        let mut credentials = Credentials::default();
        let origin = Origin::parse(&hub.url()).expect("an origin");
        credentials.insert(Credential::key(origin, &file)).expect("fit");
        let machine = Machine::with(EgressConfig { policy, credentials, ..EgressConfig::default() }).await;
        let name = format!("{}/me/private:v1", hub.authority());
        for (path, body) in [
            ("/api/pull", json!({ "model": name, "stream": false })),
            ("/api/pull", json!({ "model": name })),
            ("/api/create", json!({ "model": "made:1", "from": name, "stream": false })),
        ] {
            let reply = machine.send("POST", path, &body).await;
            assert!(is_refusal(&reply) || reply.status == 502, "{path}: {} {}", reply.status, reply.body);
            assert!(reply.body.contains(expected), "{path}: {}", reply.body);
            let shown = folder.path().to_str().expect("UTF-8");
            assert!(!reply.body.contains(shown) && !reply.body.contains(public), "{path}: {}", reply.body);
        }
    }
}

/// A model that others are made from is fetched into the store, which may refuse.
#[tokio::test]
async fn what_the_store_refuses_of_a_model_to_make_another_from_names_no_path() {
    let hub = Hub::start();
    hub.add_model("me/open", "v1", &[("application/vnd.ollama.image.model", b"weights")]);
    let rule = HostRule::of(&Target::parse(&hub.url()).expect("a URL"));
    let policy = Policy { private: vec![(None, rule.clone())], insecure: vec![rule], ..Policy::default() };
    let machine = Machine::with(EgressConfig { policy, ..EgressConfig::default() }).await;
    let tmp = machine.root().join("tmp");
    let _ = std::fs::remove_dir_all(&tmp);
    std::fs::write(&tmp, "no folder").expect("writable");
    let name = format!("{}/me/open:v1", hub.authority());
    let body = json!({ "model": "made:1", "from": name, "stream": false });
    let reply = machine.send("POST", "/api/create", &body).await;
    assert!(
        reply.status >= 400 && reply.body.contains("cannot be pulled"),
        "{} {}",
        reply.status,
        reply.body
    );
    let shown = machine.folder.path().to_str().expect("UTF-8");
    assert!(!reply.body.contains(shown), "{}", reply.body);
}

#[tokio::test]
async fn a_damaged_model_is_listed_with_the_others() {
    let machine = Machine::new().await;
    let other = json!({ "model": "other:1", "from": "good:1", "system": "Be brief.", "stream": false });
    assert_eq!(machine.send("POST", "/api/create", &other).await.status, 200);
    let name: ModelName = "good:1".parse().expect("a name");
    let config = machine.store.manifest(&name).expect("readable").expect("there").config.digest;
    let path = machine.store.blob(&config).expect("readable").expect("there");
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let reply = machine.send("GET", "/api/tags", &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let tags = reply.json();
    let mut names: Vec<&str> =
        tags["models"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    names.sort_unstable();
    assert!(names.contains(&"good:1") && names.contains(&"other:1"), "{tags}");
}
