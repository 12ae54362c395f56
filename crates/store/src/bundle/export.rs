//! What a bundle is made of: models of a store, whoever's they are, and plain files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ingle_gguf::GgufFile;

use super::error::BundleError;
use super::index::{BundledModel, LICENCES_MAX, NAME_BYTES_MAX, is_plain};
use super::writer::{BlobSource, Imprint, Plan, Source};
use crate::file_name::{part, stem};
use crate::name::sanitized;
use crate::{
    DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Layer, Manifest, MediaType, ModelConfig, ModelName,
    Reference, State, Store,
};

/// How much of a licence's text is looked at for its name, in bytes.
const LICENCE_HEAD_BYTES: u64 = 4096;

/// What is to be exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A model of the store.
    Stored(ModelName),
    /// A GGUF file, the first of a split model; and the name that it gets.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its name in the bundle.
        name: ModelName,
    },
}

impl Asked {
    /// What a reference names: a path is a file, and gets `name` or its own; all else is asked of the store.
    ///
    /// # Errors
    /// The reference is one that has no name.
    pub fn new(reference: &Reference, name: Option<&ModelName>) -> Result<Self, BundleError> {
        let wrong = || BundleError::Source("it has no name; pull it first, and export it by its name".into());
        let Reference::Path(path) = reference else {
            return Ok(Self::Stored(reference.name().ok_or_else(wrong)?));
        };
        let name = match name {
            Some(name) => name.clone(),
            None => file_name(path).ok_or_else(|| {
                BundleError::Source(format!("{} gives no name; say --name NAME", path.display()))
            })?,
        };
        Ok(Self::File { path: path.clone(), name })
    }
}

/// The name that a file gets: its own, without what says which part of a split model it is.
fn file_name(path: &Path) -> Option<ModelName> {
    let file = path.file_name()?.to_string_lossy();
    let stem = part(&file).map_or_else(|| stem(&file).to_owned(), |part| part.stem);
    ModelName::new(DEFAULT_HOST, DEFAULT_NAMESPACE, &sanitized(&stem), DEFAULT_TAG).ok()
}

/// One file that a model is made of, before all of them have digests.
struct Piece {
    media_type: MediaType,
    path: PathBuf,
    file: Option<String>,
}

/// Reads everything that was asked for, and checks it. `progress` is told of bytes read and bytes in all.
///
/// # Errors
/// A model is not there, is broken, or its files are not what their digests say.
pub fn plan(
    store: &Store,
    asked: &[Asked],
    imprint: &Imprint,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Plan, BundleError> {
    check_names(asked)?;
    // What is exported is kept as long as the plan is.
    let store = store.session();
    let mut blobs = Vec::new();
    let mut models = Vec::new();
    for asked in asked {
        let (name, manifest) = match asked {
            Asked::Stored(name) => (name, stored(&store, name, &mut blobs, progress)?),
            Asked::File { path, name } => (name, pieces_manifest(file_pieces(path)?, &mut blobs, progress)?),
        };
        let licences = licences(&manifest, &blobs);
        models.push(BundledModel { name: name.clone(), manifest, licences });
    }
    Ok(Plan::new(models, blobs, imprint, progress)?.keeping(store))
}

/// Refuses names of which a file system may take one for another, as bundles do.
fn check_names(asked: &[Asked]) -> Result<(), BundleError> {
    let mut names = BTreeMap::<String, &ModelName>::new();
    for Asked::Stored(name) | Asked::File { name, .. } in asked {
        let Some(other) = names.insert(name.to_string().to_lowercase(), name) else { continue };
        return Err(BundleError::Source(if other == name {
            format!("{name} is named twice; name each model once")
        } else {
            format!(
                "{other} and {name} differ in capital letters only, and a bundle has one of them: export them one by one, \
                 or copy one to another name (`ingle cp`)"
            )
        }));
    }
    Ok(())
}

/// The manifest of a stored model; its blobs are added to `blobs`.
fn stored(
    store: &Store,
    name: &ModelName,
    blobs: &mut Vec<BlobSource>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, BundleError> {
    let found = store.locate(name)?.ok_or_else(|| {
        BundleError::Source(format!("there is no model `{name}` here; `ingle list` shows what there is"))
    })?;
    if let State::Broken(why) = &found.entry.state {
        return Err(BundleError::Source(format!("{name} cannot be exported: {why}")));
    }
    let Some(manifest) = found.manifest else {
        let piece = |blob: crate::foreign::Blob| Piece {
            media_type: blob.media_type,
            path: blob.path,
            file: blob.file,
        };
        return pieces_manifest(found.blobs.into_iter().map(piece).collect(), blobs, progress);
    };
    for layer in manifest.blobs() {
        // A store that may only be read cannot be locked, and nobody removes from it.
        let pinned = store.pin(&layer.digest, Some(layer.size)).ok().flatten();
        let of_found = || {
            found.blobs.iter().find(|blob| blob.digest == Some(layer.digest)).map(|blob| blob.path.clone())
        };
        let path = of_found().or(pinned).ok_or_else(|| {
            BundleError::Source(format!(
                "{name} lacks its blob {}; pull, create or import the model again",
                layer.digest
            ))
        })?;
        blobs.push(BlobSource::new(layer.digest, layer.size, Source::File(path)));
    }
    Ok(manifest)
}

/// The files of a GGUF model, all its parts.
fn file_pieces(path: &Path) -> Result<Vec<Piece>, BundleError> {
    let file = GgufFile::open(path)
        .map_err(|error| BundleError::Source(format!("{} cannot be exported: {error}", path.display())))?;
    let piece = |path: &PathBuf| Piece {
        media_type: MediaType::Model,
        path: path.clone(),
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    Ok(file.paths().iter().map(piece).collect())
}

/// A manifest for files that have none yet; they are read for their digests.
fn pieces_manifest(
    pieces: Vec<Piece>,
    blobs: &mut Vec<BlobSource>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, BundleError> {
    let sizes = pieces.iter().map(|piece| piece.path.metadata().map_or(0, |meta| meta.len()));
    let (total, mut done): (u64, u64) = (sizes.sum(), 0);
    let first = pieces.iter().find(|piece| piece.media_type == MediaType::Model);
    let config = first.and_then(|piece| GgufFile::open(&piece.path).ok());
    let config = config.map(|file| ModelConfig::of_gguf(&file)).unwrap_or_default();
    let mut layers = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let blob = BlobSource::read(Source::File(piece.path), &mut |n| {
            done += n;
            progress(done, total);
        })?;
        let layer = Layer::new(piece.media_type, blob.digest, blob.size);
        layers.push(match &piece.file {
            Some(file) => layer.with_file(file),
            None => layer,
        });
        blobs.push(blob);
    }
    let config = config.to_bytes(&layers);
    let blob = BlobSource::read(Source::Bytes(config), &mut |_| ())?;
    let manifest = Manifest::new(Layer::new(MediaType::Config, blob.digest, blob.size), layers);
    blobs.push(blob);
    Ok(manifest)
}

/// The names of a model's licences: what its files say of themselves, and how its licences' texts begin.
fn licences(manifest: &Manifest, blobs: &[BlobSource]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for layer in &manifest.layers {
        let Some(blob) = blobs.iter().find(|blob| blob.digest == layer.digest) else { continue };
        let name = match layer.media_type {
            MediaType::License => title(&blob.source),
            MediaType::Model | MediaType::Adapter => general_license(&blob.source),
            _ => None,
        };
        let name: Option<String> = name.map(|name| printable(&name)).filter(|name| !name.is_empty());
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names.truncate(LICENCES_MAX);
    names
}

/// The first line of a text that says something.
fn title(source: &Source) -> Option<String> {
    use std::io::Read;
    let mut head = Vec::new();
    match source {
        Source::File(path) => {
            std::fs::File::open(path).ok()?.take(LICENCE_HEAD_BYTES).read_to_end(&mut head).ok()?;
        }
        Source::Bytes(bytes) => head.extend_from_slice(bytes),
    }
    let text = String::from_utf8_lossy(&head);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// `general.license` of a file.
fn general_license(source: &Source) -> Option<String> {
    let Source::File(path) = source else { return None };
    let file = GgufFile::open(path).ok()?;
    file.metadata().opt_str("general.license").ok().flatten().map(str::to_owned)
}

fn printable(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| is_plain(*c)).collect();
    while line.len() > NAME_BYTES_MAX {
        line.pop();
    }
    line
}
