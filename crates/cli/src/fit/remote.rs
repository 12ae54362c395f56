//! Models that are not here, and those of the store: of the former only the header is fetched.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_egress::{Credentials, Egress, EgressConfig, HostRule, Origin, Policy, Proxies, Target};
use ingle_gguf::{GgufFile, ReadAt};
use ingle_store::pull::{Network, PullOptions, Puller, RemoteFile};
use ingle_store::{Catalogue, Reference, Store, StoreConfig};
use tokio::runtime::Runtime;

/// A model that was named, not given as a file.
pub(super) struct Named {
    /// Its header.
    pub file: GgufFile,
    /// Whether its weights are here.
    pub is_here: bool,
    /// Bytes of what belongs to it: adapters, a projector.
    pub adapters: u64,
    pub projector: u64,
}

/// Finds a model by its name: in the store, or else where the name leads.
pub(super) fn find(name: &str) -> Result<Named> {
    let reference = Reference::parse(name, &Catalogue::default())?;
    let store = Store::open(store_config()?)?;
    if let Some(installed) = store.open_model(&reference)? {
        let first = installed.model.first().with_context(|| format!("{name} has no weights"))?;
        let size = |path: &PathBuf| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        return Ok(Named {
            file: parts(&installed.model).with_context(|| format!("cannot use {}", first.display()))?,
            is_here: true,
            adapters: installed.adapters.iter().map(size).sum(),
            projector: installed.projector.as_ref().map_or(0, size),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let puller = Puller::new(store, network(&reference)?);
    let found = runtime.block_on(puller.look(&reference, PullOptions::default()))?;
    let runtime = Arc::new(runtime);
    let mut files =
        found.model.into_iter().map(|file| Arc::new(Ranged { file, runtime: Arc::clone(&runtime) }));
    let first = files.next().with_context(|| format!("{name} has no weights"))?;
    let mut rest: Vec<Arc<Ranged>> = files.collect();
    rest.reverse();
    let file = GgufFile::open_elsewhere(first, &mut |i, count| {
        let next = rest.pop().map(|file| file as Arc<dyn ReadAt>);
        next.ok_or_else(|| ingle_gguf::GgufError::Split(format!("part {} of {count} is not there", i + 1)))
    })?;
    Ok(Named {
        file,
        is_here: false,
        adapters: found.adapters.iter().map(RemoteFile::n_bytes).sum(),
        projector: found.projector.map_or(0, |file| file.n_bytes()),
    })
}

/// Files of the store, which are named by their digests: parts of a split model are told one by one.
fn parts(paths: &[PathBuf]) -> Result<GgufFile> {
    let mut files = paths.iter().map(LocalPart::open);
    let first = files.next().context("there is no file")??;
    Ok(GgufFile::open_elsewhere(first, &mut |i, count| match files.next() {
        Some(Ok(part)) => Ok(part as Arc<dyn ReadAt>),
        Some(Err(source)) => Err(ingle_gguf::GgufError::Io { path: paths[0].clone(), source }),
        None => Err(ingle_gguf::GgufError::Split(format!("part {} of {count} is not there", i + 1))),
    })?)
}

/// A file of the store.
#[derive(Debug)]
struct LocalPart {
    path: PathBuf,
    file: std::fs::File,
    n_bytes: u64,
}

impl LocalPart {
    fn open(path: &PathBuf) -> io::Result<Arc<Self>> {
        let file = std::fs::File::open(path)?;
        let n_bytes = file.metadata()?.len();
        Ok(Arc::new(Self { path: path.clone(), file, n_bytes }))
    }
}

impl ReadAt for LocalPart {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(buf)
    }
}

/// A file elsewhere, of which ranges are asked for.
#[derive(Debug)]
struct Ranged {
    file: RemoteFile,
    runtime: Arc<Runtime>,
}

impl ReadAt for Ranged {
    fn name(&self) -> String {
        self.file.name()
    }

    fn n_bytes(&self) -> u64 {
        self.file.n_bytes()
    }

    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = start.saturating_add(buf.len() as u64);
        let bytes = self.runtime.block_on(self.file.range(start, end)).map_err(io::Error::other)?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Where models are kept: `INGLE_MODELS`, or below the user's data; and the caches of other programs.
pub(crate) fn store_config() -> Result<StoreConfig> {
    let home = || var("HOME").map(PathBuf::from);
    let data = || var("XDG_DATA_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".local/share")));
    let root = var("INGLE_MODELS").map(PathBuf::from).or_else(|| Some(data()?.join("ingle/models")));
    let Some(root) = root else {
        bail!("neither INGLE_MODELS nor HOME is set: there is no folder for models")
    };
    let cache = || var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
    let hf_home = var("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")));
    let ollama = var("OLLAMA_MODELS").map(PathBuf::from).or_else(|| Some(home()?.join(".ollama/models")));
    Ok(StoreConfig { root, shared: Vec::new(), hf_home, ollama })
}

/// The way out, for what the user named. A hub that `HF_ENDPOINT` names, and the host of a URL that was typed, may stand
/// on this machine or site.
fn network(reference: &Reference) -> Result<Network> {
    let hub = var("HF_ENDPOINT").map(|url| Target::parse(&url).context("HF_ENDPOINT")).transpose()?;
    let mut policy = Policy::default();
    let typed = match reference {
        Reference::Url(url) => Some(Target::parse(url)?),
        _ => None,
    };
    for target in hub.iter().chain(&typed) {
        policy.private.push((None, HostRule::parse(&target.host())?));
    }
    let mut credentials = Credentials::default();
    let origin: Option<Origin> = hub.as_ref().map(Target::origin);
    credentials.add_hub_token(origin.as_ref(), var)?;
    let proxies = Arc::new(Proxies::from_env()?);
    let egress = Egress::new(EgressConfig { policy, proxies, credentials, ..EgressConfig::default() })?;
    let mut network = Network::new(egress);
    if let Some(hub) = hub {
        network.hub = hub;
    }
    Ok(network)
}
