//! What pulling and pushing over HTTP needs: the store's way out, what short names mean, and bounds.

use std::pin::Pin;
use std::sync::Arc;

use ingle_store::pull::{PullOptions, Puller};
use ingle_store::{Catalogue, Reference, Store};
use tokio::sync::Semaphore;

use crate::importer::Importer;
use crate::uploads::Uploads;

/// Models that may be pulled or pushed at the same time.
const TRANSFERS_MAX: usize = 8;

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
    uploads: Arc<Uploads>,
}

impl Transfers {
    /// Of a store, with its way to hubs, registries and other nodes.
    pub fn new(puller: Puller, catalogue: Catalogue) -> Self {
        let turns = Arc::new(Semaphore::new(TRANSFERS_MAX));
        Self { puller, foresight: None, importer: None, catalogue, turns, uploads: Uploads::new() }
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

    pub(crate) fn uploads(&self) -> &Arc<Uploads> {
        &self.uploads
    }
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").field("store", &self.store().config().root).finish_non_exhaustive()
    }
}
