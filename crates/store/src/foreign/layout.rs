//! Stores of our layout, which is Ollama's.

use std::path::{Path, PathBuf};

use super::{Blob, Found, MODELS_MAX};
use crate::error::Tried;
use crate::files::Kind;
use crate::manifest::annotation;
use crate::shared::{Shared, is_absent};
use crate::{Digest, Entry, Manifest, ModelName, Origin, State, StoreError};

/// What stands where a store has its manifests.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The names that it has manifests for.
    pub names: Vec<ModelName>,
    /// Regular files whose place is no name of ours, below `manifests/`. Another program that has this layout may allow
    /// names that we do not.
    pub unnamed: Vec<PathBuf>,
}

/// The names that a store has manifests for.
pub(crate) fn names(shared: &Shared, root: &Path) -> Result<Vec<ModelName>, StoreError> {
    Ok(listing(shared, root)?.names)
}

/// All that stands where a store has its manifests.
pub(crate) fn listing(shared: &Shared, root: &Path) -> Result<Listing, StoreError> {
    let mut found = Listing::default();
    let top = root.join("manifests");
    for host in entries(shared, &top)? {
        for namespace in entries(shared, &top.join(&host))? {
            for model in entries(shared, &top.join(&host).join(&namespace))? {
                let folder: PathBuf = [&host, &namespace, &model].iter().collect();
                for tag in entries(shared, &top.join(&folder))? {
                    let shown = if cfg!(windows) { host.replace('+', ":") } else { host.clone() };
                    match ModelName::new(&shown, &namespace, &model, &tag) {
                        Ok(name) => found.names.push(name),
                        Err(_) => {
                            let path = folder.join(&tag);
                            let about = shared.files.metadata(&top.join(&path));
                            // What cannot be asked about may be one.
                            if about.map_or_else(|error| !is_absent(&error), |about| about.kind == Kind::File)
                            {
                                found.unnamed.push(path);
                            }
                        }
                    }
                    if found.names.len() + found.unnamed.len() > MODELS_MAX {
                        let what = format!("the models of {}", root.display());
                        return Err(StoreError::TooMany { what, max: MODELS_MAX });
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The names in a folder; there are none where there is no folder.
fn entries(shared: &Shared, folder: &Path) -> Result<Vec<String>, StoreError> {
    match shared.files.read_dir(folder) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        read => read.tried("list", folder),
    }
}

/// The model of a name in a store, with what is wrong with it.
pub(super) fn found(
    shared: &Shared,
    origin: &Origin,
    root: &Path,
    name: &ModelName,
) -> Result<Option<Found>, StoreError> {
    let path = root.join("manifests").join(name.path());
    let about = match shared.files.metadata(&path) {
        Ok(about) if about.kind == Kind::File => Ok(about),
        Ok(_) => return Ok(None),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => Err(error),
    };
    let modified = about.as_ref().ok().map(|about| about.modified);
    let entry = |digest, size, state| Entry {
        name: name.clone(),
        origin: origin.clone(),
        digest,
        size,
        modified,
        state,
    };
    let broken = |why: String| Found {
        entry: entry(None, None, State::Broken(why)),
        manifest: None,
        blobs: Vec::new(),
    };
    if let Err(error) = about {
        return Ok(Some(broken(format!("its manifest cannot be read: {error}"))));
    }
    let bytes = match shared.read_manifest_bytes(root, name) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        // Whoever asks from elsewhere is told this too, so that it names no path.
        Err(StoreError::Io { source, .. }) => {
            return Ok(Some(broken(format!("its manifest cannot be read: {source}"))));
        }
        Err(error) => return Ok(Some(broken(error.to_string()))),
    };
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Some(broken(format!("its manifest cannot be used: {error}")))),
    };
    let blobs = blobs(shared, root, &manifest);
    let state = match blobs.iter().find_map(|blob| what_is_wrong(shared, blob)) {
        Some(why) => State::Broken(why),
        None => State::Ready,
    };
    let entry = entry(Some(Digest::of(&bytes)), Some(manifest.size()), state);
    Ok(Some(Found { entry, manifest: Some(manifest), blobs }))
}

/// The blobs of a manifest: in its own store, else wherever one is.
fn blobs(shared: &Shared, root: &Path, manifest: &Manifest) -> Vec<Blob> {
    let blob = |layer: &crate::Layer| {
        let own = root.join("blobs").join(layer.digest.file_name());
        let is_own = shared.files.metadata(&own).is_ok_and(|found| found.len == layer.size);
        let other = || shared.find_blob(&layer.digest, Some(layer.size));
        Blob {
            media_type: layer.media_type.clone(),
            path: if is_own { own } else { other().unwrap_or(own) },
            size: layer.size,
            digest: Some(layer.digest),
            file: layer.annotations.get(annotation::FILE).cloned(),
        }
    };
    manifest.blobs().map(blob).collect()
}

fn what_is_wrong(shared: &Shared, blob: &Blob) -> Option<String> {
    let shown = || blob.digest.map_or_else(|| blob.path.display().to_string(), |digest| digest.to_string());
    match shared.files.metadata(&blob.path) {
        Err(error) if is_absent(&error) => Some(format!("the blob {} is missing", shown())),
        Err(error) => Some(format!("the blob {} cannot be read: {error}", shown())),
        Ok(found) if found.kind != Kind::File => Some(format!("the blob {} is no regular file", shown())),
        Ok(found) if found.len != blob.size => {
            Some(format!("the blob {} has {} bytes, not {}", shown(), found.len, blob.size))
        }
        Ok(_) if crate::sums::is_marked(&*shared.files, &blob.path) => {
            Some(format!("the blob {} is damaged", shown()))
        }
        Ok(_) => None,
    }
}
