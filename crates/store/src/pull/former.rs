//! What a name was before a pull replaced it: kept under a name of its own, so that the replacement can be undone.
//!
//! Whoever owns a name on a hub can put another content behind it, and a name that was given up can be taken by somebody
//! else. So the version before the last is kept, as `NAME:TAG.before`: an ordinary model, which is listed, copied back and
//! removed like any other. There is one at most for each name, and a model that somebody has put there is left alone.

use std::collections::BTreeSet;

use super::PullError;
use super::layers::{Plan, REPLACED};
use super::naming::Held;
use crate::{Digest, Layer, Manifest, ModelName, Store, StoreError};

/// What the tag of a former version ends with.
const SUFFIX: &str = ".before";

/// Whether what was fetched has other contents than what has the name.
pub(super) fn is_other(before: &Manifest, plan: &Plan, fetched: &[Layer]) -> bool {
    let digests = |layers: &[Layer]| layers.iter().map(|layer| layer.digest).collect::<BTreeSet<Digest>>();
    let mut old = digests(&before.layers);
    // Where the config is made of the file's header it is no content of its own.
    if plan.config.is_some() {
        old.insert(before.config.digest);
    }
    old != digests(fetched)
}

/// Keeps what has a name now, and tells under which, and the digest of that manifest. `None` if that name is somebody
/// else's, or what there is now cannot be used any more. `ours` is what this pull has put there itself.
///
/// # Errors
/// If the system refuses.
pub(super) fn keep(
    store: &Store,
    name: &ModelName,
    (before, digest): (&Manifest, Digest),
    ours: Option<Digest>,
) -> Result<Option<(ModelName, Digest)>, PullError> {
    let Ok(former) = name.with_tag(&format!("{}{SUFFIX}", name.tag())) else { return Ok(None) };
    let held = store.held(&former)?;
    if let Some(Held { manifest: Some(_), digest: there }) = &held {
        let is_same = digest == *there;
        let is_older = before.annotations.get(REPLACED) == Some(&there.to_string());
        if !is_same && !is_older && ours != Some(*there) {
            return Ok(None);
        }
    }
    match store.publish_if(&former, before, held.map(|held| held.digest)) {
        Ok(published) => Ok(Some((former, published.digest))),
        Err(StoreError::NameChanged { .. }) => Ok(None),
        Err(StoreError::WrongContent { .. } | StoreError::Unfit { .. }) => Ok(None),
        Err(error @ (StoreError::MissingBlob(_) | StoreError::WrongSize { .. })) => {
            let mut blobs = before.blobs();
            let is_there = |layer: &Layer| store.shared.kept_blob(&layer.digest, Some(layer.size)).is_some();
            // If all of it is there, it was the system that refused a look.
            if blobs.all(is_there) { Err(error.into()) } else { Ok(None) }
        }
        Err(error) => Err(error.into()),
    }
}
