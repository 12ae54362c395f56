//! `/api/create`: models of the store from other ones, and from blobs.

use std::path::Path;
use std::sync::Arc;

use ingle_egress::{Egress, EgressConfig, Policy};
use ingle_server::{ModelStore, ServerConfig, Transfers};
use ingle_store::pull::{Network, Puller};
use ingle_store::{Catalogue, Digest, Expect, ModelName, Reference, Store, StoreConfig, StoreError};
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

use crate::client::{Running, config, start, start_with};

struct Home {
    _folder: tempfile::TempDir,
    store: Store,
    server: Running,
    digest: String,
}

async fn home() -> Home {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("models");
    let store = Store::open(StoreConfig { root, ..StoreConfig::default() }).expect("a store");
    let digest = store.put_bytes(&TinySpec::new(Arch::Llama).bytes()).expect("a blob").to_string();
    let served = ModelStore { store: store.clone(), catalogue: Catalogue::default() };
    let server = start_with(ServerConfig { store: Some(served), ..config() }, true).await;
    Home { _folder: folder, store, server, digest }
}

impl Home {
    async fn create(&self, body: Value) -> (u16, String) {
        let reply = self.server.post_json("/api/create", body).await;
        (reply.status, reply.body)
    }

    fn system(&self, name: &str) -> Option<Option<String>> {
        let name: ModelName = name.parse().expect("a name");
        let model = self.store.open_model(&Reference::Registry(name)).expect("a store");
        model.map(|model| model.system)
    }
}

#[tokio::test]
async fn models_are_made_of_blobs_and_of_models() {
    let home = home().await;
    let (status, body) = home
        .create(json!({
            "model": "mario", "files": { "tiny.gguf": home.digest }, "system": "You are Mario.",
            "template": "{{ .System }} {{ .Prompt }}", "parameters": { "temperature": 0.5, "stop": ["x", "y"] },
            "license": "MIT", "messages": [{ "role": "user", "content": "hi" }],
        }))
        .await;
    assert_eq!(status, 200, "{body}");
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.first().map(|l| &l["status"]), Some(&json!("parsing GGUF")), "{body}");
    assert_eq!(lines.last().map(|l| &l["status"]), Some(&json!("success")), "{body}");
    assert!(lines.contains(&json!({ "status": "writing manifest" })), "{body}");
    assert_eq!(home.system("mario"), Some(Some("You are Mario.".into())));

    let body = json!({ "name": "luigi:v1", "from": "mario", "system": "You are Luigi.", "stream": false });
    let (status, body) = home.create(body).await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"success"}"#));
    assert_eq!(home.system("luigi:v1"), Some(Some("You are Luigi.".into())));
    assert_eq!(home.system("mario"), Some(Some("You are Mario.".into())), "the other stays");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused() {
    let home = home().await;
    let files = json!({ "tiny.gguf": home.digest });
    let absent = format!("sha256:{}", "0".repeat(64));
    let cases = [
        (json!({}), 400, "`model` is missing"),
        (json!({ "model": "m" }), 400, "neither `from` nor `files`"),
        (json!({ "model": "../m", "files": files }), 400, "`model`"),
        (json!({ "model": "m", "from": "nobody" }), 404, "nobody"),
        (json!({ "model": "m", "from": "/etc/passwd" }), 400, "`from` names a model"),
        (json!({ "model": "m", "from": "./x.gguf" }), 400, "`from` names a model"),
        (json!({ "model": "m", "files": { "../x": home.digest } }), 400, "no relative path"),
        (json!({ "model": "m", "files": { "x": "../../etc/passwd" } }), 400, "`files`"),
        (json!({ "model": "m", "files": { "x.gguf": absent } }), 400, "is not in the store: send it first"),
        (json!({ "model": "m", "files": files, "template": "{{ if }}" }), 400, "TEMPLATE"),
        (
            json!({ "model": "m", "files": files, "parameters": { "warmth": 1 } }),
            400,
            "no parameter `warmth`",
        ),
        (json!({ "model": "m", "files": files, "quantize": "q4_K_M" }), 400, "not quantized here yet"),
        (json!({ "model": "m", "files": files, "adapters": files }), 400, "is no LoRA adapter"),
        (json!({ "model": "m", "files": { "a/model.safetensors": home.digest } }), 400, "GGUF files only"),
        (
            json!({ "model": "m", "files": files, "adapters": { "adapter_model.safetensors": home.digest } }),
            400,
            "GGUF files only",
        ),
    ];
    for (body, status, part) in cases {
        let (found, text) = home.create(body.clone()).await;
        // What is found out after the first step ends the lines.
        assert!(found == status || (found == 200 && text.contains("\"error\"")), "{body}: {found} {text}");
        assert!(text.contains(part), "{body}: {text}");
        assert!(!text.contains("/models/"), "no path of the machine: {text}");
    }
    assert_eq!(home.system("m"), None);
    let reply = start().await.post_json("/api/create", json!({ "model": "m", "from": "x" })).await;
    assert!(reply.status == 400 && reply.body.contains("no store of models"), "{}", reply.body);
}

fn store(root: &Path) -> Store {
    Store::open(StoreConfig { root: root.to_owned(), ..StoreConfig::default() }).expect("a store")
}

/// A server that takes uploads into a store of its own handle.
async fn with_uploads(root: &Path) -> Running {
    let policy = Policy { offline: true, ..Policy::default() };
    let egress = Egress::new(EgressConfig { policy, ..EgressConfig::default() }).expect("valid");
    let puller = Puller::new(store(root), Network::new(egress));
    let config = ServerConfig {
        store: Some(ModelStore { store: puller.store().clone(), catalogue: Catalogue::default() }),
        transfers: Some(Arc::new(Transfers::new(puller, Catalogue::default()))),
        ..config()
    };
    start_with(config, true).await
}

async fn upload(server: &Running, bytes: &[u8]) -> u16 {
    server.post_with(&format!("/api/blobs/{}", Digest::of(bytes)), "", bytes).await.status
}

/// A blob that was damaged before any model named it is found out when one does, and sent again.
#[tokio::test]
async fn a_damaged_blob_is_mended_by_an_upload() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = TinySpec::new(Arch::Llama).bytes();
    let path = store(folder.path()).put_bytes(&bytes).expect("room");
    let path = folder.path().join("blobs").join(path.file_name());
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("it has some") ^= 1;
    std::fs::write(&path, &damaged).expect("writable");
    let server = with_uploads(folder.path()).await;
    let digest = Digest::of(&bytes).to_string();
    let create = json!({ "model": "m", "files": { "x.gguf": digest }, "stream": false });
    let head = format!("HEAD /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(upload(&server, &bytes).await, 200, "nobody knows yet");
    let reply = server.post_json("/api/create", create.clone()).await;
    assert!(reply.status == 400 && reply.body.contains("it was damaged"), "{}", reply.body);
    assert_eq!(server.send(&head).await.status, 404);
    let reply = server.post_json("/api/create", create.clone()).await;
    assert!(reply.status == 400 && reply.body.contains("send it first"), "{}", reply.body);
    assert_eq!(upload(&server, &bytes).await, 201);
    assert_eq!(server.send(&head).await.status, 200);
    let reply = server.post_json("/api/create", create).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(std::fs::read(&path).expect("readable"), bytes);
    // One that is shorter than what is sent is not what is sent.
    let cut = folder.path().join("blobs").join(Digest::of(b"content").file_name());
    std::fs::write(&cut, b"cont").expect("writable");
    assert_eq!(upload(&server, b"content").await, 201);
    assert_eq!(std::fs::read(&cut).expect("readable"), b"content");
}

/// What a model has is kept by its name: other processes can mend it and remove it while the server runs.
#[tokio::test]
async fn an_upload_is_let_go_when_a_model_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_uploads(folder.path()).await;
    let bytes = TinySpec::new(Arch::Llama).bytes();
    assert_eq!(upload(&server, &bytes).await, 201);
    let other = store(folder.path());
    let expect = || Expect { digest: Some(Digest::of(&bytes)), ..Expect::default() };
    assert!(matches!(other.stage(expect()), Err(StoreError::Busy(_))), "it has no name yet");
    let create =
        json!({ "model": "m", "files": { "x.gguf": Digest::of(&bytes).to_string() }, "stream": false });
    let reply = server.post_json("/api/create", create).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    drop(other.stage(expect()).expect("nobody holds it"));
    let name = "m".parse().expect("a name");
    assert!(other.remove(&name).expect("it is there").blobs > 0, "what nobody names goes");
    assert!(other.blob(&Digest::of(&bytes)).expect("readable").is_none());
}

/// The files of a large model are sent one after the other, and none is collected before all are there.
#[tokio::test]
async fn uploads_of_a_large_model_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_uploads(folder.path()).await;
    for i in 0..200 {
        assert_eq!(upload(&server, format!("part {i}").as_bytes()).await, 201, "{i}");
    }
    assert_eq!(store(folder.path()).prune(false).expect("readable").blobs, 0);
}
