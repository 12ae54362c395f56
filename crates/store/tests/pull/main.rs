//! Pulling and pushing against a hub that does what hubs do, and what they should not.

mod again;
mod faults;
mod hub;
mod kill;
mod peers;
mod push;
mod registry;
mod updates;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingle_egress::{Credential, Credentials, Egress, EgressConfig, HostRule, Origin, Policy, Secret, Target};
use ingle_store::files::RealFiles;
use ingle_store::pull::{Event, Network, PullError, PullOptions, Pulled, Puller};
use ingle_store::{Catalogue, Digest, Installed, Reference, Store, StoreConfig};
use ingle_testkit::hub::Hub;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

/// The size of a chunk here.
const CHUNK: u64 = 64 << 10;

/// A model file of some size: a tiny model, and bytes behind it that no other seed has.
fn model(seed: u64, n_bytes: usize) -> Vec<u8> {
    let mut bytes = TinySpec::new(Arch::Llama).seed(seed).bytes();
    let mut rng = Rng::new(seed);
    while bytes.len() < n_bytes {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes
}

/// A store of a test, and the way to its hub.
struct Bench {
    dir: tempfile::TempDir,
    hub: Hub,
    credentials: Credentials,
    peers: Vec<Target>,
    policy: Policy,
    /// How long an answer may take. Where nothing is silent on purpose, a busy machine is waited for.
    timeout: Duration,
    /// The size of a chunk: each costs two syncs.
    chunk_bytes: u64,
}

/// As long as no answer takes.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Bench {
    fn new() -> Self {
        let policy =
            Policy { private: vec![(None, HostRule::parse("127.0.0.1").unwrap())], ..Policy::default() };
        let dir = tempfile::tempdir().unwrap();
        let (credentials, peers) = (Credentials::default(), Vec::new());
        Self { dir, hub: Hub::start(), credentials, peers, policy, timeout: TIMEOUT, chunk_bytes: CHUNK }
    }

    fn login(&mut self, origin: &str, token: &str) {
        let origin = Origin::parse(origin).unwrap();
        self.credentials.insert(Credential::bearer(origin, Secret::new(token))).unwrap();
    }

    fn network(&self) -> Network {
        let (policy, credentials) = (self.policy.clone(), self.credentials.clone());
        Network { peers: self.peers.clone(), ..network(&self.hub.url(), policy, credentials, self.timeout) }
    }

    fn store(&self) -> Store {
        store(self.dir.path(), self.chunk_bytes)
    }

    fn puller(&self) -> Puller {
        Puller::new(self.store(), self.network())
    }

    async fn pull(&self, reference: &str) -> Result<Pulled, PullError> {
        self.pull_with(reference, PullOptions::default()).await
    }

    async fn pull_with(&self, reference: &str, options: PullOptions) -> Result<Pulled, PullError> {
        self.puller().pull(&parse(reference), options, &|_| {}).await
    }

    /// What is told during a pull.
    async fn events(&self, reference: &str) -> Vec<Event> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let watch = move |event: &Event| told.lock().unwrap().push(event.clone());
        self.puller().pull(&parse(reference), PullOptions::default(), &watch).await.unwrap();
        std::mem::take(&mut events.lock().unwrap())
    }

    fn installed(&self, reference: &str) -> Option<Installed> {
        self.store().open_model(&parse(reference)).unwrap()
    }

    /// The bytes of the model's first file.
    fn model_bytes(&self, reference: &str) -> Vec<u8> {
        std::fs::read(&self.installed(reference).expect("it was pulled").model[0]).unwrap()
    }

    /// How many chunks the journal of the only unfinished file names, below its first line.
    fn n_noted(&self) -> usize {
        let folder = std::fs::read_dir(self.dir.path().join("store/tmp")).into_iter().flatten();
        let mut paths = folder.map(|entry| entry.unwrap().path());
        let journal = paths.find(|path| path.extension().is_some_and(|ending| ending == "journal"));
        let text = journal.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.matches('\n').count().saturating_sub(1)
    }

    /// I1 and I2: whatever has a digest as its name has that content, and whatever can be seen is whole.
    fn check_integrity(&self) {
        check_integrity(&self.store());
    }
}

fn check_integrity(store: &Store) {
    let blobs = store.config().root.join("blobs");
    for entry in std::fs::read_dir(&blobs).into_iter().flatten() {
        let path = entry.unwrap().path();
        let digest = Digest::from_file_name(path.file_name().unwrap().to_str().unwrap());
        assert_eq!(digest, Some(Digest::of(&std::fs::read(&path).unwrap())), "I1: {}", path.display());
    }
    for entry in store.list().unwrap() {
        assert_eq!(entry.state, ingle_store::State::Ready, "I2: {}", entry.name);
    }
}

fn store(root: &Path, chunk_bytes: u64) -> Store {
    let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
    Store::with_chunks(config, Arc::new(RealFiles), chunk_bytes).unwrap()
}

fn network(hub: &str, policy: Policy, credentials: Credentials, timeout: Duration) -> Network {
    let config = EgressConfig {
        policy,
        credentials,
        first_byte_timeout: timeout,
        idle_timeout: timeout,
        ..EgressConfig::default()
    };
    let egress = Egress::new(config).unwrap();
    Network { hub: Target::parse(hub).unwrap(), streams: 4, ..Network::new(egress) }
}

fn parse(reference: &str) -> Reference {
    Reference::parse(reference, &Catalogue::default()).unwrap()
}
