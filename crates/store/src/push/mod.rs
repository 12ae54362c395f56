//! Pushing: a model of the store to a registry that speaks Ollama's protocol.
//!
//! Blobs that the registry has are skipped (HEAD), the others go up in parts (POST, PATCH, PUT: the OCI distribution
//! specification, "pushing a blob in chunks"), the manifest comes last, so that nothing can be pulled before all is there.
//! An upload that breaks begins again: registries differ in what they keep of one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ingle_egress::{Bytes, Class, Client, EgressError, Request, Response, Target};

use crate::pull::{Event, MANIFEST_TYPE, Network, PullError, Registry, Watch, meter, on};
use crate::staged::read_range;
use crate::{Digest, Layer, ModelName, State, Store, StoreError};

/// How much is sent at a time; it is in memory so that it can be sent again.
const PART_BYTES: u64 = 16 << 20;
/// Times that the upload of a blob is begun.
const ATTEMPTS_MAX: u32 = 3;

/// How a model is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// The registry is asked without encryption. The policy has to allow it for its host too.
    pub insecure: bool,
}

/// A model that is in the registry now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes that were sent; what the registry had is not among them.
    pub sent: u64,
}

/// Sends a model under its own name: the host in the name is the registry.
///
/// # Errors
/// What is against it, with what to do. Without its manifest nothing of it can be seen in the registry.
pub async fn push(
    store: &Store,
    network: &Network,
    name: &ModelName,
    options: PushOptions,
    watch: Watch<'_>,
) -> Result<Pushed, PullError> {
    let client = Client::new(network.egress.permit(Class::Hub)?);
    let session = store.session();
    watch(&Event::Status("retrieving manifest".into()));
    let (manifest, files) = {
        let name = name.clone();
        on(session.clone(), move |store| files_of(store, &name)).await?
    };
    let registry = Registry::of(&client, name, None, options.insecure)?;
    let mut push = Push { store: session, registry, name, watch, sent: 0 };
    for (layer, path) in &files {
        push.blob(layer, path).await?;
    }
    watch(&Event::Status("pushing manifest".into()));
    let bytes = manifest.to_bytes();
    let digest = Digest::of(&bytes);
    let target = push.registry.target(name, &["manifests", name.tag()]);
    let request = Request::put(target, bytes).header("content-type", MANIFEST_TYPE);
    let response = push.registry.send(request).await?;
    push.registry.accepted(response, &format!("the name {name}")).await?;
    watch(&Event::Status("success".into()));
    Ok(Pushed { digest, sent: push.sent })
}

/// The manifest and the blobs' files, each once; the session keeps them.
fn files_of(store: &Store, name: &ModelName) -> Result<(crate::Manifest, Vec<(Layer, PathBuf)>), PullError> {
    let found = store.locate(name)?.ok_or_else(|| StoreError::NotFound(Box::new(name.clone())))?;
    if let State::Broken(why) = found.entry.state {
        return Err(StoreError::Broken { name: Box::new(name.clone()), why }.into());
    }
    let manifest = found.manifest.ok_or_else(|| {
        let why =
            "a cache of files has none; `ingle cp` brings the model into the store under a registry's name";
        StoreError::Layer { name: name.to_string(), what: "manifest", why: why.to_owned() }
    })?;
    let mut files: Vec<(Layer, PathBuf)> = Vec::new();
    for layer in manifest.blobs() {
        if files.iter().any(|(known, _)| known.digest == layer.digest) {
            continue;
        }
        let path = match store.pin(&layer.digest, Some(layer.size))? {
            Some(path) => path,
            // It stands in Ollama's store, where nothing is kept for us: its content is compared by the registry.
            None => store
                .shared
                .find_blob(&layer.digest, Some(layer.size))
                .ok_or(StoreError::MissingBlob(layer.digest))?,
        };
        files.push((layer.clone(), path));
    }
    Ok((manifest, files))
}

struct Push<'a> {
    store: Store,
    registry: Registry,
    name: &'a ModelName,
    watch: Watch<'a>,
    sent: u64,
}

impl Push<'_> {
    /// Brings one blob there, unless it is.
    async fn blob(&mut self, layer: &Layer, path: &Path) -> Result<(), PullError> {
        let target = self.registry.target(self.name, &["blobs", &layer.digest.to_string()]);
        let response = self.registry.send(Request::head(target)).await?;
        match response.status() {
            200 => {
                self.tell(layer, layer.size, 0.0, None);
                return Ok(());
            }
            404 => {}
            _ => {
                self.registry.accepted(response, &format!("the name {}", self.name)).await?;
            }
        }
        let mut attempt = 1;
        loop {
            match self.upload(layer, path).await {
                Err(error) if attempt < ATTEMPTS_MAX && is_worth_another(&error) => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn upload(&mut self, layer: &Layer, path: &Path) -> Result<(), PullError> {
        let target = self.registry.target(self.name, &["blobs", "uploads", ""]);
        let response = self.registry.send(Request::post(target, Bytes::new())).await?;
        let response = self.registry.accepted(response, &format!("the name {}", self.name)).await?;
        let mut location = self.location(&response)?;
        let mut meter = meter(Instant::now());
        let mut at = 0;
        loop {
            let (rate, left) = meter.take(Instant::now(), at, layer.size);
            self.tell(layer, at, rate, left);
            if at == layer.size {
                break;
            }
            let bytes = read_part(&self.store, path, at, PART_BYTES.min(layer.size - at)).await?;
            let n = bytes.len() as u64;
            let range = format!("{at}-{}", at + n - 1);
            let request = Request::patch(location, bytes)
                .header("content-range", range)
                .header("content-type", "application/octet-stream");
            let response = self.registry.send(request).await?;
            let response = self.registry.accepted(response, &format!("a part of {}", layer.digest)).await?;
            location = self.location(&response)?;
            at += n;
            self.sent += n;
        }
        let request = Request::put(location.with_query("digest", &layer.digest.to_string()), Bytes::new())
            .header("content-type", "application/octet-stream");
        let response = self.registry.send(request).await?;
        self.registry.accepted(response, &format!("the blob {}", layer.digest)).await?;
        Ok(())
    }

    /// Where the next step goes. It may be another host, which sees no credential then.
    fn location(&self, response: &Response) -> Result<Target, PullError> {
        let location = response.header("docker-upload-location").or_else(|| response.header("location"));
        let answer = |problem: &str| PullError::Answer {
            url: response.target().to_string(),
            problem: problem.to_owned(),
        };
        let location =
            response.target().join(location.ok_or_else(|| answer("it names no place to upload to"))?)?;
        if response.target().is_secure() && !location.is_secure() {
            return Err(answer("it wants the upload to go on unencrypted"));
        }
        Ok(location)
    }

    fn tell(&self, layer: &Layer, done: u64, rate: f64, left: Option<std::time::Duration>) {
        let (file, digest, total) = (layer.digest.short(), Some(layer.digest), layer.size);
        (self.watch)(&Event::Progress { file, digest, done, total, rate, left });
    }
}

/// Registries lose uploads when they restart; then it begins again.
fn is_worth_another(error: &PullError) -> bool {
    match error {
        PullError::Egress(EgressError::Status { status, .. }) => {
            matches!(status, 400 | 409 | 416) || *status >= 500
        }
        PullError::Egress(error) => error.is_transient(),
        PullError::NotFound { .. } => true,
        _ => false,
    }
}

async fn read_part(store: &Store, path: &Path, at: u64, n: u64) -> Result<Vec<u8>, PullError> {
    let path = path.to_owned();
    on(store.clone(), move |store| {
        let failed = |source| StoreError::Io { what: "read", path: PathBuf::from("a blob"), source };
        let file = store.shared.files.open(&path).map_err(failed)?;
        let mut bytes = Vec::with_capacity(n as usize);
        read_range(&*file, at, at + n, &mut |part| bytes.extend_from_slice(part)).map_err(failed)?;
        Ok(bytes)
    })
    .await
}
