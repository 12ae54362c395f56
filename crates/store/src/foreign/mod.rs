//! Models wherever they are: our own store, stores of the same layout (shared ones, Ollama's) and the cache of Hugging
//! Face's libraries. All but ours are only read.

mod hf;
mod layout;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::shared::Shared;
use crate::{Digest, Entry, HUB_HOST, Manifest, MediaType, ModelName, Origin, StoreError};

pub(crate) use layout::listing;
use layout::names;

/// The most models of one place that are listed.
pub(crate) const MODELS_MAX: usize = 100_000;

/// A file of a model.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub media_type: MediaType,
    pub path: PathBuf,
    pub size: u64,
    /// Its digest, where the place knows it.
    pub digest: Option<Digest>,
    /// Its original name.
    pub file: Option<String>,
}

/// A model with its files.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub entry: Entry,
    /// Its manifest, where the place has manifests.
    pub manifest: Option<Manifest>,
    pub blobs: Vec<Blob>,
}

/// All models of all places.
pub(crate) fn all(shared: &Shared) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    for (origin, root) in shared.roots() {
        match names(shared, root) {
            Ok(names) => found.extend(
                names
                    .iter()
                    .filter_map(|name| layout::found(shared, &origin, root, name).transpose())
                    .filter_map(Result::ok),
            ),
            // What others own is listed where it can be.
            Err(_) if origin != Origin::Own => (),
            Err(error) => return Err(error),
        }
    }
    if let Some(home) = &shared.config.hf_home {
        found.extend(hf::all(shared, home));
    }
    Ok(found)
}

/// The one model whose name differs from this one in capital letters only.
pub(crate) fn alike(shared: &Shared, name: &ModelName) -> Result<Option<ModelName>, StoreError> {
    let wanted = name.path().to_string_lossy().to_lowercase();
    let mut found = BTreeSet::new();
    for (origin, root) in shared.roots() {
        match names(shared, root) {
            Ok(names) => {
                found.extend(
                    names.into_iter().filter(|n| n.path().to_string_lossy().to_lowercase() == wanted),
                );
            }
            Err(_) if origin != Origin::Own => (),
            Err(error) => return Err(error),
        }
    }
    found.remove(name);
    Ok(found.pop_first().filter(|_| found.is_empty()))
}

/// The model of a name, wherever it is first.
pub(crate) fn find(shared: &Shared, name: &ModelName) -> Result<Option<Found>, StoreError> {
    for (origin, root) in shared.roots() {
        if let Some(found) = layout::found(shared, &origin, root, name)? {
            return Ok(Some(found));
        }
    }
    match &shared.config.hf_home {
        Some(home) if name.host() == HUB_HOST => Ok(hf::find(shared, home, name)),
        _ => Ok(None),
    }
}
