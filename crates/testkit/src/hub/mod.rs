//! A hub of models on loopback: Hugging Face's protocol and that of Ollama's registry, with faults to order.
//!
//! Two servers: the hub itself, and the origin ("CDN") to which it sends those who want large files, with a signature in
//! the address, as the real ones do. Facts are taken from the public behaviour of huggingface.co (API, `resolve`, error
//! headers), of registry.ollama.ai, and from the OCI distribution specification.

mod faults;
mod hugging_face;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::http::{Reply, Request, Server};
pub use faults::{Fault, FaultKind};

/// A file of a repository.
#[derive(Clone, Debug)]
struct File {
    bytes: Arc<[u8]>,
    sha256: String,
    /// Large files are kept outside of git, and their SHA-256 is known.
    is_lfs: bool,
}

/// One state of a repository.
type Tree = BTreeMap<String, File>;

#[derive(Clone, Debug, Default)]
struct Repo {
    /// All commits, the newest last; the last one is `main`.
    commits: Vec<(String, Tree)>,
    /// Who may read it; `None` is everyone.
    token: Option<String>,
    license: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    /// Manifests by `namespace/model` and tag.
    manifests: BTreeMap<(String, String), Arc<[u8]>>,
    /// Blobs by digest (`sha256:...`).
    blobs: BTreeMap<String, Arc<[u8]>>,
    /// Uploads that are under way.
    uploads: BTreeMap<String, Vec<u8>>,
    /// User and password of the registry; anonymous if there are none.
    account: Option<(String, String)>,
    /// The public key of the registry's account, in base64 as SSH writes it.
    key: Option<String>,
    /// Numbers that signed requests have used up.
    nonces: BTreeSet<String>,
    faults: Vec<Fault>,
    /// Entries of a page of a tree.
    page: usize,
    /// Where the two servers are.
    hub_url: String,
    cdn_url: String,
}

/// A running hub; it ends when this is dropped.
pub struct Hub {
    hub: Server,
    cdn: Server,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `sha256:` and 64 digits.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

impl Hub {
    /// A hub on free ports.
    ///
    /// # Panics
    /// If there are none.
    pub fn start() -> Self {
        Self::start_on(([127, 0, 0, 1], 0).into()).expect("a free port")
    }

    /// A hub on an address; its CDN gets a free port.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start_on(address: SocketAddr) -> std::io::Result<Self> {
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let (of_hub, of_cdn) = (state.clone(), state.clone());
        let hub = Server::start_on(address, move |request| answer(&of_hub, request, hub_reply))?;
        let any_port = SocketAddr::new(address.ip(), 0);
        let cdn = Server::start_on(any_port, move |request| answer(&of_cdn, request, cdn_reply))?;
        (lock(&state).hub_url, lock(&state).cdn_url) = (hub.url(), cdn.url());
        Ok(Self { hub, cdn, state })
    }

    /// The hub's address, `http://127.0.0.1:PORT`: what `HF_ENDPOINT` names.
    pub fn url(&self) -> String {
        self.hub.url()
    }

    /// The hub's host and port: what stands in names of its registry.
    pub fn authority(&self) -> String {
        self.hub.address().to_string()
    }

    /// The address of the origin with the large files.
    pub fn cdn_url(&self) -> String {
        self.cdn.url()
    }

    /// The server with the API.
    pub fn server(&self) -> &Server {
        &self.hub
    }

    /// The server with the large files.
    pub fn cdn(&self) -> &Server {
        &self.cdn
    }

    /// Makes a new commit of a repository (`user/repo`) with these files beside those that it has. What ends with
    /// `.gguf`, `.safetensors` or `.bin` is kept as a large file. The commit's id.
    pub fn commit(&self, repo: &str, files: &[(&str, &[u8])]) -> String {
        let mut state = lock(&self.state);
        let entry = state.repos.entry(repo.to_owned()).or_default();
        let mut tree = entry.commits.last().map_or_else(Tree::new, |(_, tree)| tree.clone());
        for (path, bytes) in files {
            let is_lfs = [".gguf", ".safetensors", ".bin"].iter().any(|end| path.ends_with(end));
            let sha256 = digest(bytes)["sha256:".len()..].to_owned();
            tree.insert((*path).to_owned(), File { bytes: (*bytes).into(), sha256, is_lfs });
        }
        let text: String = tree.iter().map(|(path, file)| format!("{path} {}\n", file.sha256)).collect();
        let id = digest(format!("{}{text}", entry.commits.len()).as_bytes())[7..47].to_owned();
        entry.commits.push((id.clone(), tree));
        id
    }

    /// Lets only who has this token read a repository.
    pub fn gate(&self, repo: &str, token: &str) {
        lock(&self.state).repos.entry(repo.to_owned()).or_default().token = Some(token.to_owned());
    }

    /// Says what a repository's card says of its licence.
    pub fn license(&self, repo: &str, license: &str) {
        lock(&self.state).repos.entry(repo.to_owned()).or_default().license = Some(license.to_owned());
    }

    /// Entries of a page of a tree; 1000 at first.
    pub fn page_size(&self, entries: usize) {
        lock(&self.state).page = entries;
    }

    /// Puts a model into the registry, as `namespace/model` and a tag: layers with their media types. The manifest's
    /// digest.
    pub fn add_model(&self, model: &str, tag: &str, layers: &[(&str, &[u8])]) -> String {
        let config = br#"{"model_format":"gguf","model_family":"llama","model_type":"1M","file_type":"F32"}"#;
        let mut state = lock(&self.state);
        let mut put = |media_type: &str, bytes: &[u8]| {
            state.blobs.insert(digest(bytes), bytes.into());
            serde_json::json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
        };
        let config = put("application/vnd.docker.container.image.v1+json", config);
        let layers: Vec<_> = layers.iter().map(|(media_type, bytes)| put(media_type, bytes)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": registry::MANIFEST,
            "config": config,
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let id = digest(&bytes);
        state.manifests.insert((model.to_owned(), tag.to_owned()), bytes.into());
        id
    }

    /// Asks for a token at the registry, which its realm gives to this account.
    pub fn require_account(&self, user: &str, password: &str) {
        lock(&self.state).account = Some((user.to_owned(), password.to_owned()));
    }

    /// Asks for a token at the registry, which its realm gives to whoever signs with this key: a line as
    /// `ssh-ed25519 AAAA...`.
    pub fn require_key(&self, public_line: &str) {
        lock(&self.state).key = public_line.split_whitespace().nth(1).map(str::to_owned);
    }

    /// The manifest that was put or pushed.
    pub fn manifest(&self, model: &str, tag: &str) -> Option<Vec<u8>> {
        lock(&self.state).manifests.get(&(model.to_owned(), tag.to_owned())).map(|bytes| bytes.to_vec())
    }

    /// A blob that was put or pushed.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        lock(&self.state).blobs.get(digest).map(|bytes| bytes.to_vec())
    }

    /// Takes a blob away.
    pub fn forget_blob(&self, digest: &str) {
        lock(&self.state).blobs.remove(digest);
    }

    /// Orders a fault.
    pub fn fault(&self, fault: Fault) {
        lock(&self.state).faults.push(fault);
    }

    /// Works properly again.
    pub fn heal(&self) {
        lock(&self.state).faults.clear();
    }

    /// Forgets the requests that both servers saw, and returns them: the hub's, then the CDN's.
    pub fn take_requests(&self) -> Vec<Request> {
        [self.hub.take_requests(), self.cdn.take_requests()].concat()
    }

    /// Bytes of large files that were sent since the requests were last taken, as the requests asked for them.
    pub fn bytes_asked(&self) -> u64 {
        let of = |request: &Request| {
            let range = request.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
            Some(range.1.parse::<u64>().ok()? + 1 - range.0.parse::<u64>().ok()?)
        };
        self.cdn.requests().iter().filter(|request| request.method == "GET").filter_map(of).sum()
    }
}

fn answer(state: &Mutex<State>, request: &Request, reply: fn(&mut State, &Request) -> Reply) -> Reply {
    let mut state = lock(state);
    let kinds = faults::take(&mut state.faults, request);
    if let Some(reply) = faults::before(&kinds, &state) {
        return reply;
    }
    let asked = faults::request(&kinds, request);
    let reply = reply(&mut state, &asked);
    faults::after(&kinds, reply)
}

fn hub_reply(state: &mut State, request: &Request) -> Reply {
    match request.path.starts_with("/v2/") || request.path == "/token" {
        true => registry::reply(state, request),
        false => hugging_face::reply(state, request),
    }
}

/// Large files: `/lfs/SHA256` and `/blobs/sha256:...`, for those who have a signature.
fn cdn_reply(state: &mut State, request: &Request) -> Reply {
    if request.param("signature").as_deref() != Some("of-the-hub") {
        return Reply::status(403);
    }
    // A signature is all that such an origin takes; with a token beside it the real ones refuse.
    if request.header("authorization").is_some() {
        return Reply::status(400);
    }
    let bytes = match request.path.strip_prefix("/lfs/") {
        Some(sha256) => {
            let mut files =
                state.repos.values().flat_map(|repo| &repo.commits).flat_map(|(_, tree)| tree.values());
            files.find(|file| file.sha256 == sha256).map(|file| file.bytes.clone())
        }
        None => request.path.strip_prefix("/blobs/").and_then(|digest| state.blobs.get(digest).cloned()),
    };
    match bytes {
        None => Reply::status(404),
        Some(bytes) => {
            let etag = format!("\"{}\"", digest(&bytes)[7..].to_owned());
            ranged(request, bytes, &etag)
        }
    }
}

/// A file, or the part of it that was asked for.
fn ranged(request: &Request, bytes: Arc<[u8]>, etag: &str) -> Reply {
    let size = bytes.len() as u64;
    if request.header("if-match").is_some_and(|asked| asked != etag) {
        return Reply::status(412);
    }
    let is_same = request.header("if-range").is_none_or(|asked| asked == etag);
    let reply =
        Reply::new(200, "binary/octet-stream", bytes).with("ETag", etag).with("Accept-Ranges", "bytes");
    match request.range(size).filter(|_| is_same) {
        None => reply,
        Some(Err(())) => Reply::status(416).with("Content-Range", format!("bytes */{size}")),
        Some(Ok((start, end))) => {
            let range = format!("bytes {start}-{}/{size}", end - 1);
            Reply { status: 206, part: Some((start, end)), ..reply }.with("Content-Range", range)
        }
    }
}
