//! What is to be fetched, and the manifest that comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_egress::{Credential, Target};
use ingle_gguf::GgufFile;

use super::{PullError, Registry};
use crate::{
    Digest, Layer, Manifest, MediaType, ModelConfig, ModelName, Published, Reference, Store, annotation,
};

/// The largest text of a repository that becomes a layer: what the store reads as a whole.
pub(super) const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The manifest's digest that had the name before.
const REPLACED: &str = "dev.ingle.replaced";
/// What the source calls this version of a file whose digest it does not know (an ETag).
const VERSION: &str = "dev.ingle.version";

/// Where a blob is.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Its name for readers.
    pub label: String,
    pub target: Target,
    pub credential: Option<Credential>,
    /// Gives tokens, which are good for minutes, in place of the credential.
    pub registry: Option<Arc<tokio::sync::Mutex<Registry>>>,
    pub digest: Option<Digest>,
    pub size: u64,
    /// What the source calls this version, where the digest is not known.
    pub version: Option<String>,
}

/// A layer to be.
#[derive(Clone)]
pub(crate) struct Item {
    pub media_type: MediaType,
    /// The file's own name.
    pub file: Option<String>,
    pub from: From,
}

/// Where a layer's content comes from.
#[derive(Clone)]
pub(crate) enum From {
    Remote(Box<Remote>),
    Bytes(Vec<u8>),
}

/// A model to be.
#[derive(Clone)]
pub(crate) struct Plan {
    pub name: ModelName,
    /// The registry's config blob; elsewhere it is made of the file's header.
    pub config: Option<Item>,
    pub items: Vec<Item>,
    pub annotations: BTreeMap<String, String>,
}

impl Item {
    /// The digest, where it is known before.
    pub fn digest(&self) -> Option<Digest> {
        match &self.from {
            From::Remote(remote) => remote.digest,
            From::Bytes(bytes) => Some(Digest::of(bytes)),
        }
    }

    fn version(&self) -> Option<&str> {
        match &self.from {
            From::Remote(remote) => remote.version.as_deref(),
            From::Bytes(_) => None,
        }
    }
}

impl Plan {
    /// A plan that says what was asked for.
    pub fn new(name: ModelName, reference: &Reference) -> Self {
        let annotations = BTreeMap::from([(annotation::SOURCE.to_owned(), reference.to_string())]);
        Self { name, config: None, items: Vec::new(), annotations }
    }

    /// Whether a manifest is what this plan would give: the same kinds of layers with the same contents in the same
    /// order. A content whose digest is not known before is the same if its source says that it is the same version.
    pub fn is_same(&self, manifest: &Manifest) -> bool {
        let same_layer = |(item, layer): (&Item, &Layer)| {
            item.media_type == layer.media_type
                && match (item.digest(), item.version()) {
                    (Some(digest), _) => digest == layer.digest,
                    (None, version) => {
                        version.is_some() && version == layer.annotations.get(VERSION).map(String::as_str)
                    }
                }
        };
        let same_config =
            self.config.as_ref().and_then(Item::digest).is_none_or(|digest| digest == manifest.config.digest);
        same_config
            && self.items.len() == manifest.layers.len()
            && self.items.iter().zip(&manifest.layers).all(same_layer)
    }
}

/// A layer of an item whose content is in the store.
pub(super) fn layer(item: &Item, digest: Digest, size: u64) -> Layer {
    let layer = Layer::new(item.media_type.clone(), digest, size);
    let mut layer = match &item.file {
        Some(file) => layer.with_file(file),
        None => layer,
    };
    if let (None, Some(version)) = (item.digest(), item.version()) {
        layer.annotations.insert(VERSION.to_owned(), version.to_owned());
    }
    layer
}

/// Gives the model its name. All its blobs are in the store; the first is that of the config if the plan has one.
///
/// # Errors
/// If what was fetched is no model, or the store refuses.
pub(super) fn publish(
    store: &Store,
    plan: Plan,
    layers: &[Layer],
    replaces: Option<Digest>,
) -> Result<Published, PullError> {
    let (config, layers) = match plan.config {
        Some(_) => (layers[0].clone(), layers[1..].to_vec()),
        None => (config_of(store, layers)?, layers.to_vec()),
    };
    let mut manifest = Manifest::new(config, layers);
    manifest.annotations = plan.annotations;
    manifest.annotations.insert(annotation::PULLED.to_owned(), rfc3339(SystemTime::now()));
    if let Some(replaced) = replaces {
        manifest.annotations.insert(REPLACED.to_owned(), replaced.to_string());
    }
    Ok(store.publish(&plan.name, &manifest)?)
}

/// The config blob of a model whose source has none: what its header says. This is also where a file that is no model
/// is found out, before it can be seen.
fn config_of(store: &Store, layers: &[Layer]) -> Result<Layer, PullError> {
    let mut config = None;
    for layer in
        layers.iter().filter(|layer| matches!(layer.media_type, MediaType::Model | MediaType::Projector))
    {
        let file =
            layer.annotations.get(annotation::FILE).cloned().unwrap_or_else(|| layer.digest.to_string());
        let path = store.blob(&layer.digest)?.ok_or(crate::StoreError::MissingBlob(layer.digest))?;
        let gguf = GgufFile::open(&path)
            .map_err(|error| PullError::NotAModel { file, problem: error.to_string() })?;
        if layer.media_type == MediaType::Model {
            config.get_or_insert_with(|| ModelConfig::of_gguf(&gguf));
        }
    }
    let bytes = config.unwrap_or_default().to_bytes(layers);
    Ok(Layer::new(MediaType::Config, store.put_bytes(&bytes)?, bytes.len() as u64))
}

/// `2026-11-22T03:04:05Z`
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Days of the proleptic Gregorian calendar, in years that begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let (day, month) = (
        of_year - (153 * from_march + 2) / 5 + 1,
        if from_march < 10 { from_march + 3 } else { from_march - 9 },
    );
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
