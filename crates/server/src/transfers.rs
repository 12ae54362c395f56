//! What pulling and pushing over HTTP needs: the store's way out, what short names mean, and bounds.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_store::pull::{PullOptions, Puller};
use ingle_store::{Catalogue, Digest, Reference, Store};
use tokio::sync::Semaphore;

use crate::importer::Importer;

/// Models that may be pulled or pushed at the same time.
const TRANSFERS_MAX: usize = 8;
/// Uploaded blobs that are kept for whoever is about to name them: more than the largest models have files. Each is a
/// lock, and so an open file. One beyond them may be collected before it is named, which `create` tells.
const UPLOADS_MAX: usize = 256;
/// For how long.
const UPLOAD_KEPT: Duration = Duration::from_secs(3600);

/// What is to be said before a model is pulled, if anything: why it will not run here.
pub type Foresight = Box<
    dyn Fn(Puller, Reference, PullOptions) -> Pin<Box<dyn Future<Output = Option<String>> + Send>>
        + Send
        + Sync,
>;

/// The store, as the routes that change it see it.
pub struct Transfers {
    puller: Puller,
    foresight: Option<Foresight>,
    catalogue: Catalogue,
    importer: Option<Arc<dyn Importer>>,
    turns: Arc<Semaphore>,
    /// Sessions of uploads, one for each blob: they keep blobs that no manifest names yet.
    uploads: Mutex<VecDeque<(Instant, Digest, Store)>>,
}

impl Transfers {
    /// Of a store, with its way to hubs, registries and other nodes.
    pub fn new(puller: Puller, catalogue: Catalogue) -> Self {
        let turns = Arc::new(Semaphore::new(TRANSFERS_MAX));
        Self { puller, foresight: None, importer: None, catalogue, turns, uploads: Mutex::default() }
    }

    /// The same, which foresees of models whether they will run.
    #[must_use]
    pub fn foreseeing(self, foresight: Foresight) -> Self {
        Self { foresight: Some(foresight), ..self }
    }

    /// What is to be said before a model that is not here is pulled.
    pub(crate) async fn foresee(&self, reference: &Reference, options: PullOptions) -> Option<String> {
        let foresight = self.foresight.as_ref()?;
        let (store, wanted) = (self.store().clone(), reference.clone());
        let is_here = move || matches!(store.open_model(&wanted), Ok(Some(_)));
        if !options.update && tokio::task::spawn_blocking(is_here).await.unwrap_or(false) {
            return None;
        }
        foresight(self.puller.clone(), reference.clone(), options).await
    }

    /// The same, which takes models and adapters in other formats.
    #[must_use]
    pub fn with_importer(self, importer: Arc<dyn Importer>) -> Self {
        Self { importer: Some(importer), ..self }
    }

    pub(crate) fn importer(&self) -> Option<&dyn Importer> {
        self.importer.as_deref()
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

    /// A session for an upload of this blob, which is kept for a while. An earlier one that keeps the same blob is taken:
    /// what it keeps may turn out to be damaged, and only itself may let go of it, to write it anew.
    pub(crate) fn upload_session(&self, digest: Digest) -> Store {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let known = uploads.iter().position(|(_, known, _)| *known == digest);
        let session = match known.and_then(|at| uploads.remove(at)) {
            Some((.., session)) => session,
            None => self.store().session(),
        };
        while uploads.len() >= UPLOADS_MAX
            || uploads.front().is_some_and(|(at, ..)| at.elapsed() > UPLOAD_KEPT)
        {
            uploads.pop_front();
        }
        uploads.push_back((Instant::now(), digest, session.clone()));
        session
    }
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").field("store", &self.store().config().root).finish_non_exhaustive()
    }
}
