//! What pulling and pushing over HTTP needs: the store's way out, what short names mean, and bounds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_store::pull::Puller;
use ingle_store::{Catalogue, Store};
use tokio::sync::Semaphore;

/// Models that may be pulled or pushed at the same time.
const TRANSFERS_MAX: usize = 8;
/// Uploaded blobs that are kept for whoever is about to name them, and for how long.
const UPLOADS_MAX: usize = 64;
const UPLOAD_KEPT: Duration = Duration::from_secs(3600);

/// The store, as the routes that change it see it.
pub struct Transfers {
    puller: Puller,
    catalogue: Catalogue,
    turns: Arc<Semaphore>,
    /// Sessions of uploads: they keep blobs that no manifest names yet.
    uploads: Mutex<VecDeque<(Instant, Store)>>,
}

impl Transfers {
    /// Of a store, with its way to hubs, registries and other nodes.
    pub fn new(puller: Puller, catalogue: Catalogue) -> Self {
        Self { puller, catalogue, turns: Arc::new(Semaphore::new(TRANSFERS_MAX)), uploads: Mutex::default() }
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.puller
    }

    pub(crate) fn store(&self) -> &Store {
        self.puller.store()
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(crate) fn turns(&self) -> &Arc<Semaphore> {
        &self.turns
    }

    /// A session for an upload, which is kept for a while.
    pub(crate) fn upload_session(&self) -> Store {
        let session = self.store().session();
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        while uploads.len() >= UPLOADS_MAX
            || uploads.front().is_some_and(|(at, _)| at.elapsed() > UPLOAD_KEPT)
        {
            uploads.pop_front();
        }
        uploads.push_back((Instant::now(), session.clone()));
        session
    }
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").field("store", &self.store().config().root).finish_non_exhaustive()
    }
}
