//! Pulling: from a reference to a model in the store.
//!
//! [`Puller::pull`] asks the hub, the registry or the server what the reference means (`hub`, `registry`, `url` make a
//! plan of it), fetches what is not there yet (`fetch`: chunks in parallel, each noted in the journal of its file, so that
//! whoever comes after a kill fetches at most one chunk again per stream), and publishes the manifest when every blob is
//! verified. Nothing can be seen before; what had the name before stays until then.
//!
//! **What is pinned.** The manifest names each blob by SHA-256, and the commit of the hub's repository. A name whose
//! content has changed is replaced only by who says so ([`PullOptions::update`]), and what it was is kept under a name of its
//! own (`former`). What has the name is looked at before anything is fetched, which may take hours, and again when what
//! came gets it (`naming`).
//!
//! **Who is asked.** Blobs whose digest is known are asked of the other nodes first, if there are any ([`crate::peers`]),
//! and verified like all others.

mod error;
mod fetch;
mod former;
mod header;
mod hub;
mod layers;
mod listing;
mod naming;
mod pick;
mod progress;
mod registry;
mod source;
mod url;

use std::sync::Arc;

use ingle_egress::{Backoff, Class, Client, Egress, EgressError, Target};

pub use error::PullError;
pub use header::{RemoteChoice, RemoteFile, RemoteModel, RemoteRepo};
pub use progress::{Event, Meter, Watch};
pub(crate) use registry::{MANIFEST_TYPE, Registry};

use crate::peers::Floor;
use crate::{Digest, ModelName, Reference, Store};
use fetch::Fetcher;
use layers::{Plan, Sameness};
use naming::{Held, Naming, is_of_revision};

/// Counts the speed of something that begins now.
pub(crate) fn meter(now: std::time::Instant) -> progress::Meter {
    progress::Meter::new(now, 0)
}

/// Streams of one file at the same time, if nothing else is said.
pub const STREAMS: usize = 8;
/// The most streams of one file.
pub const STREAMS_MAX: usize = 64;

/// What is told of a model that is here and whose source tells no versions apart.
const UNKNOWN: &str = "it is here, and whether it has changed since it was pulled cannot be told; an update (--update) \
                       fetches it again";

/// Where models come from, and how.
#[derive(Clone)]
pub struct Network {
    /// The door.
    pub egress: Egress,
    /// The hub: `https://huggingface.co`, or what `HF_ENDPOINT` names.
    pub hub: Target,
    /// What is asked in place of registry.ollama.ai.
    pub registry_mirror: Option<Target>,
    /// Nodes that are asked for blobs first.
    pub peers: Vec<Target>,
    /// How slow they may be.
    pub peer_floor: Floor,
    /// Streams of one file at the same time.
    pub streams: usize,
}

impl Network {
    /// The public hub and registry, no peers.
    pub fn new(egress: Egress) -> Self {
        let hub = Target::parse("https://huggingface.co").expect("a constant address");
        let (peers, peer_floor) = (Vec::new(), Floor::default());
        Self { egress, hub, registry_mirror: None, peers, peer_floor, streams: STREAMS }
    }
}

/// How a model is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// A name whose content has changed gets the new content.
    pub update: bool,
    /// The registry is asked without encryption. The policy has to allow it for its host too.
    pub insecure: bool,
}

/// A model that is here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its name.
    pub name: ModelName,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of the manifest that had the name before, if its content was another.
    pub replaced: Option<Digest>,
    /// The name under which what was replaced is kept: copying it back undoes the replacement.
    pub kept: Option<ModelName>,
    /// Bytes that were fetched; 0 if all was here.
    pub fetched: u64,
    /// Bytes of them that came from other nodes.
    pub from_peers: u64,
}

/// Pulls models into a store. Cheap to clone.
#[derive(Clone)]
pub struct Puller {
    store: Store,
    network: Arc<Network>,
}

impl Puller {
    /// A puller into a store.
    pub fn new(store: Store, network: Network) -> Self {
        Self { store, network: Arc::new(network) }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where models come from.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Fetches what a reference means and gives it its name. To stop it, drop the future: what is there by then is taken
    /// up by the next pull.
    ///
    /// # Errors
    /// What is against it, with what to do. What had the name before is as it was.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        watch: Watch<'_>,
    ) -> Result<Pulled, PullError> {
        let client = Client::new(self.network.egress.permit(Class::Hub)?);
        watch(&Event::Status("pulling manifest".into()));
        let plan = self.plan(&client, reference, options).await?;
        plan.check()?;
        plan.notes.iter().for_each(|note| watch(&Event::Status(note.clone().into())));
        let name = plan.name.clone();
        let held = self.blocking(move |store| store.held(&name)).await?;
        if let Some(Held { manifest: Some(manifest), digest }) = &held {
            let sameness = plan.compare(manifest);
            if sameness == Sameness::Other && !options.update {
                return Err(PullError::Changed { name: Box::new(plan.name), old: *digest });
            }
            let (is_enough, told) = match sameness {
                // The same content of another revision is written down as what was asked for.
                Sameness::Same => (is_of_revision(manifest, reference), "up to date"),
                Sameness::Unknown => (!options.update, UNKNOWN),
                Sameness::Other => (false, ""),
            };
            if is_enough && self.is_complete(&plan).await? {
                // Whoever named it may have died before that was durable.
                let name = plan.name.clone();
                self.blocking(move |store| Ok(store.settle_model(&name)?)).await?;
                watch(&Event::Status(told.into()));
                watch(&Event::Status("success".into()));
                let name = plan.name;
                let (replaced, kept) = (None, None);
                return Ok(Pulled { name, digest: *digest, replaced, kept, fetched: 0, from_peers: 0 });
            }
        }
        let session = self.store.session();
        let peers = crate::peers::clients(&self.network)?;
        let fetcher = Fetcher {
            store: session.clone(),
            client,
            peers,
            peer_floor: self.network.peer_floor,
            streams: self.network.streams.clamp(1, STREAMS_MAX),
        };
        let fetched = fetcher.all(&plan, watch).await?;
        let naming = Naming { store: session, plan: Arc::new(plan), reference, update: options.update };
        let pulled = naming.publish(fetched, held, watch).await?;
        watch(&Event::Status("success".into()));
        Ok(pulled)
    }

    /// What is to be fetched.
    async fn plan(
        &self,
        client: &Client,
        reference: &Reference,
        options: PullOptions,
    ) -> Result<Plan, PullError> {
        match reference {
            Reference::Hub { repo, revision, pick } => {
                hub::plan(client, &self.network, repo, revision.as_deref(), pick, reference).await
            }
            Reference::Registry(name) => registry::plan(client, &self.network, name, options.insecure).await,
            Reference::Url(url) => url::plan(client, url, reference).await,
            Reference::Path(path) => Err(PullError::IsPath(path.clone())),
        }
    }

    /// Whether the name can be used as it is.
    async fn is_complete(&self, plan: &Plan) -> Result<bool, PullError> {
        let name = plan.name.clone();
        let entry = self.blocking(move |store| Ok(store.find(&name)?)).await?;
        Ok(entry.is_some_and(|entry| entry.state == crate::State::Ready))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, PullError> + Send + 'static,
    ) -> Result<T, PullError> {
        on(self.store.clone(), work).await
    }
}

/// Does what blocks on a thread that may block.
pub(crate) async fn on<T: Send + 'static>(
    store: Store,
    work: impl FnOnce(&Store) -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(outcome) => outcome,
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Err(PullError::Stopped),
    }
}

/// How often an answer that is read as a whole was asked for: again if the connection breaks in the middle of it, as
/// [`Client::send`] asks again only until the answer's head has come.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// What came, or `None` if it is to be asked for again; the pause before that is over.
    async fn outcome<T>(&mut self, came: Result<T, PullError>) -> Option<Result<T, PullError>> {
        let backoff = Backoff::default();
        self.0 += 1;
        match came {
            Err(PullError::Egress(EgressError::Broken { .. })) if self.0 < backoff.attempts => {
                tokio::time::sleep(backoff.pause(self.0)).await;
                None
            }
            came => Some(came),
        }
    }
}
