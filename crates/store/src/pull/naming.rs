//! Giving what was fetched its name, which may mean something else by then: hours lie between the question what has it and
//! the answer that is published. Both are compared under the lock of names; where they differ it is decided anew.

use std::sync::Arc;

use super::fetch::Fetched;
use super::layers::{self, Plan};
use super::{Event, PullError, Pulled, Watch, former, on};
use crate::revision::Revision;
use crate::{Digest, Layer, Manifest, ModelName, Reference, State, Store, StoreError};

/// Times that others may give the name meanwhile.
const CHANGES_MAX: u32 = 8;

/// What has a name in our own store.
#[derive(Clone)]
pub(super) struct Held {
    /// The digest of what stands on disk.
    pub digest: Digest,
    /// `None` if it cannot be used.
    pub manifest: Option<Manifest>,
}

impl Store {
    /// What has a name in our own store.
    pub(super) fn held(&self, name: &ModelName) -> Result<Option<Held>, PullError> {
        let bytes = self.shared.read_manifest_bytes(self.shared.root(), name)?;
        Ok(bytes.map(|bytes| Held { digest: Digest::of(&bytes), manifest: Manifest::parse(&bytes).ok() }))
    }
}

/// Whether a manifest is of the revision that a reference names, if it names one.
pub(super) fn is_of_revision(manifest: &Manifest, reference: &Reference) -> bool {
    match reference {
        Reference::Hub { revision: Some(asked), .. } => {
            Revision::of_manifest(manifest).is_some_and(|revision| revision.is(asked))
        }
        _ => true,
    }
}

/// What was planned, when all of it is there.
pub(super) struct Naming<'a> {
    /// The session that keeps it.
    pub store: Store,
    pub plan: Arc<Plan>,
    pub reference: &'a Reference,
    /// Another content under the name is replaced.
    pub update: bool,
}

impl Naming<'_> {
    /// Gives the name, which `held` had before anything was fetched.
    ///
    /// # Errors
    /// [`PullError::Changed`] if it means another content by now and is not to be replaced, or the store refuses.
    pub async fn publish(
        &self,
        fetched: Fetched,
        mut held: Option<Held>,
        watch: Watch<'_>,
    ) -> Result<Pulled, PullError> {
        let layers: Arc<[Layer]> = fetched.layers.into();
        let mut pulled = Pulled {
            name: self.plan.name.clone(),
            digest: Digest::of(b""),
            replaced: None,
            kept: None,
            fetched: fetched.n_bytes,
            from_peers: fetched.from_peers,
        };
        // What this pull has put under the name of the former version.
        let mut ours = None;
        for n_changes in 0.. {
            let before = held.as_ref().and_then(|held| Some((held.manifest.as_ref()?, held.digest)));
            let other = before.filter(|(before, _)| former::is_other(before, &self.plan, &layers));
            if let (Some((_, old)), false) = (other, self.update) {
                return Err(PullError::Changed { name: Box::new(pulled.name), old });
            }
            if let Some((before, digest)) = other {
                let (name, before) = (pulled.name.clone(), before.clone());
                let keep = move |store: &Store| former::keep(store, &name, (&before, digest), ours);
                let kept = on(self.store.clone(), keep).await?;
                if let Some((kept, _)) = &kept {
                    watch(&Event::Status(format!("keeping the former version as {kept}").into()));
                }
                (pulled.kept, ours) = kept.unzip();
            }
            watch(&Event::Status("writing manifest".into()));
            // What was replaced before stays what it is if only the words change.
            let replaces = match (other, before) {
                (Some((_, digest)), _) => Some(digest.to_string()),
                (None, Some((before, _))) => before.annotations.get(layers::REPLACED).cloned(),
                (None, None) => None,
            };
            let (plan, layers_of, expected) =
                (self.plan.clone(), layers.clone(), held.as_ref().map(|held| held.digest));
            let publish = move |store: &Store| layers::publish(store, &plan, &layers_of, replaces, expected);
            match on(self.store.clone(), publish).await {
                Err(PullError::Store(StoreError::NameChanged { .. })) if n_changes < CHANGES_MAX => {}
                Err(error) => return Err(error),
                Ok(published) => {
                    pulled.digest = published.digest;
                    pulled.replaced = published.replaced.filter(|_| other.is_some());
                    return Ok(pulled);
                }
            }
            held = self.again().await?;
            if let Some(digest) = self.is_done(&layers, held.clone()).await? {
                return Ok(Pulled { digest, ..pulled });
            }
        }
        unreachable!("the last change is an error")
    }

    async fn again(&self) -> Result<Option<Held>, PullError> {
        let name = self.plan.name.clone();
        on(self.store.clone(), move |store| store.held(&name)).await
    }

    /// The digest of what another process has named meanwhile, if it is the same and whole.
    async fn is_done(&self, layers: &[Layer], held: Option<Held>) -> Result<Option<Digest>, PullError> {
        let Some(Held { digest, manifest: Some(manifest) }) = held else { return Ok(None) };
        if former::is_other(&manifest, &self.plan, layers) || !is_of_revision(&manifest, self.reference) {
            return Ok(None);
        }
        let name = self.plan.name.clone();
        on(self.store.clone(), move |store| {
            let is_whole = store.find(&name)?.is_some_and(|entry| entry.state == State::Ready);
            if is_whole {
                store.settle_model(&name)?;
            }
            Ok(is_whole.then_some(digest))
        })
        .await
    }
}
