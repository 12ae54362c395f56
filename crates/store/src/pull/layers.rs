//! What is to be fetched, and the manifest that comes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_egress::{Credential, Response, Target};
use ingle_gguf::GgufError;

use super::{PullError, Registry};
use crate::{
    Digest, Layer, Manifest, MediaType, ModelConfig, ModelName, Published, Reference, SourceId, Store,
    StoreError, annotation,
};

/// The manifest's digest that had the name before.
pub(super) const REPLACED: &str = "dev.ingle.replaced";
/// What the source calls this version of a file whose digest it does not know (an ETag).
const VERSION: &str = "dev.ingle.version";

/// What tells the versions of a file apart whose digest is not known before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The commit that has the file, whose content never changes.
    Commit(String),
    /// What the server calls it: an ETag that is another one for other bytes.
    Etag(String),
    /// When it was last changed, on a server without such ETags.
    Modified(String),
}

impl Version {
    /// The version that an answer is of; `None` if nothing in it tells versions apart.
    pub fn of(response: &Response) -> Option<Self> {
        // A weak ETag may be the same for other bytes.
        let etag = response.header("etag").filter(|etag| !etag.is_empty() && !etag.starts_with("W/"));
        let modified = || response.last_modified().map(|at| Self::Modified(at.to_owned()));
        etag.map(|etag| Self::Etag(etag.to_owned())).or_else(modified)
    }

    /// Whether an answer is of this version.
    pub fn is_of(&self, response: &Response) -> bool {
        match self {
            Self::Commit(_) => true,
            Self::Etag(etag) => response.header("etag") == Some(etag),
            Self::Modified(at) => response.header("last-modified") == Some(at),
        }
    }

    /// Whether what was written down is of the same kind: a server may have told versions apart by something else then.
    fn is_kind_of(&self, text: &str) -> bool {
        let is_time = text.ends_with(" GMT");
        matches!(self, Self::Modified(_)) == is_time
    }

    /// As it is written down.
    pub fn text(&self) -> &str {
        match self {
            Self::Commit(text) | Self::Etag(text) | Self::Modified(text) => text,
        }
    }
}

/// What is known of two contents without fetching one of them. The greatest of several is that of all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sameness {
    Same,
    /// Nothing tells them apart, and nothing says that they are the same.
    Unknown,
    Other,
}

/// Where a blob is.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Its name for readers.
    pub label: String,
    pub target: Target,
    pub credential: Option<Credential>,
    /// Gives tokens, which are good for minutes, in place of the credential.
    pub registry: Option<Arc<Registry>>,
    pub digest: Option<Digest>,
    pub size: u64,
    /// Where the digest is not known.
    pub version: Option<Version>,
}

/// A layer to be.
#[derive(Clone)]
pub(crate) struct Item {
    pub media_type: MediaType,
    /// The file's own name.
    pub file: Option<String>,
    pub from: From,
}

impl Remote {
    /// Which file it is, for whoever goes on with it. The query may choose the file, and may hold a signature: only its
    /// digest is written down.
    pub fn source(&self) -> SourceId {
        let mut url = self.target.to_string();
        if let Some((_, query)) = self.target.as_str().split_once('?') {
            url = format!("{url}?{}", Digest::of(query.as_bytes()));
        }
        SourceId { url, version: self.version.as_ref().map(|version| version.text().to_owned()) }
    }

    /// Whether its address stands for one content for ever.
    pub fn is_fixed(&self) -> bool {
        self.digest.is_some() || matches!(self.version, Some(Version::Commit(_)))
    }
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
    /// What whoever pulls it should know.
    pub notes: Vec<String>,
}

/// A content that is in the store.
pub(super) struct Content {
    pub digest: Digest,
    pub size: u64,
    /// Which version it is of a file whose digest was not known before.
    pub version: Option<Version>,
}

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64, version: None }
    }
}

impl Item {
    /// The digest, where it is known before.
    pub fn digest(&self) -> Option<Digest> {
        match &self.from {
            From::Remote(remote) => remote.digest,
            From::Bytes(bytes) => Some(Digest::of(bytes)),
        }
    }

    fn compare(&self, layer: &Layer) -> Sameness {
        let same_if = |is_same| if is_same { Sameness::Same } else { Sameness::Other };
        if self.media_type != layer.media_type {
            return Sameness::Other;
        }
        match (self.digest(), &self.from) {
            (Some(digest), _) => same_if(digest == layer.digest),
            (None, From::Remote(remote)) if remote.size == layer.size => {
                match (&remote.version, layer.annotations.get(VERSION)) {
                    (Some(version), Some(text)) if version.is_kind_of(text) => {
                        same_if(version.text() == text)
                    }
                    _ => Sameness::Unknown,
                }
            }
            (None, _) => Sameness::Other,
        }
    }

    /// What its content will be, as far as that is known.
    fn planned(&self) -> Content {
        match &self.from {
            From::Remote(remote) => Content {
                // In place of one that nobody knows yet; all are of one length.
                digest: remote.digest.unwrap_or_else(|| Digest::of(b"")),
                size: remote.size,
                version: remote.version.clone(),
            },
            From::Bytes(bytes) => Content::of(bytes),
        }
    }
}

impl Plan {
    /// A plan that says what was asked for.
    pub fn new(name: ModelName, reference: &Reference) -> Self {
        let annotations = BTreeMap::from([(annotation::SOURCE.to_owned(), reference.to_string())]);
        Self { name, config: None, items: Vec::new(), annotations, notes: Vec::new() }
    }

    /// Refuses what could not be published, before anything is fetched.
    ///
    /// # Errors
    /// If its manifest could not be read again.
    pub fn check(&self) -> Result<(), StoreError> {
        let planned = |item: &Item| layer(item, &item.planned());
        let config =
            self.config.as_ref().map_or_else(|| Layer::new(MediaType::Config, Digest::of(b""), 0), planned);
        let mut manifest = Manifest::new(config, self.items.iter().map(planned).collect());
        manifest.annotations.clone_from(&self.annotations);
        manifest.check(&self.name)
    }

    /// How a manifest compares with what this plan would give: the same kinds of layers with the same contents in the
    /// same order. A content whose digest is not known before is the same if it has the same size, and its source says
    /// that it is the same version; where the source tells no versions, nobody knows.
    pub fn compare(&self, manifest: &Manifest) -> Sameness {
        let config = self.config.as_ref().and_then(Item::digest);
        if self.items.len() != manifest.layers.len()
            || config.is_some_and(|digest| digest != manifest.config.digest)
        {
            return Sameness::Other;
        }
        let layers = self.items.iter().zip(&manifest.layers).map(|(item, layer)| item.compare(layer));
        layers.max().unwrap_or(Sameness::Same)
    }
}

/// A layer of an item with this content.
pub(super) fn layer(item: &Item, content: &Content) -> Layer {
    let layer = Layer::new(item.media_type.clone(), content.digest, content.size);
    let mut layer = match &item.file {
        Some(file) => layer.with_file(file),
        None => layer,
    };
    if let (None, Some(version)) = (item.digest(), &content.version) {
        layer.annotations.insert(VERSION.to_owned(), version.text().to_owned());
    }
    layer
}

/// Gives the model its name, if that means `expected` still. All its blobs are in the store; the first is that of the
/// config if the plan has one.
///
/// # Errors
/// If what was fetched is no model, or the store refuses.
pub(super) fn publish(
    store: &Store,
    plan: &Plan,
    layers: &[Layer],
    replaces: Option<String>,
    expected: Option<Digest>,
) -> Result<Published, PullError> {
    let (config, layers) = match plan.config {
        Some(_) => (layers[0].clone(), layers[1..].to_vec()),
        None => (config_of(store, layers)?, layers.to_vec()),
    };
    let mut manifest = Manifest::new(config, layers);
    manifest.annotations.clone_from(&plan.annotations);
    manifest.annotations.insert(annotation::PULLED.to_owned(), rfc3339(SystemTime::now()));
    if let Some(replaced) = replaces {
        manifest.annotations.insert(REPLACED.to_owned(), replaced);
    }
    let published = store.publish_if(&plan.name, &manifest, expected)?;
    for item in &plan.items {
        if let From::Remote(remote) = &item.from
            && remote.digest.is_none()
        {
            store.shared.forget_blob_of(&remote.source());
        }
    }
    Ok(published)
}

/// The config blob of a model whose source has none: what its header says. This is also where a file that is no model
/// is found out, before it can be seen.
fn config_of(store: &Store, layers: &[Layer]) -> Result<Layer, PullError> {
    let mut models = Vec::new();
    for layer in
        layers.iter().filter(|layer| matches!(layer.media_type, MediaType::Model | MediaType::Projector))
    {
        let file =
            layer.annotations.get(annotation::FILE).cloned().unwrap_or_else(|| layer.digest.to_string());
        let path = store.blob(&layer.digest)?.ok_or(StoreError::MissingBlob(layer.digest))?;
        store.shared.header(&path, &file).map_err(|error| unusable(&path, &file, error))?;
        if layer.media_type == MediaType::Model {
            models.push((path, file));
        }
    }
    let config = match models.first() {
        None => ModelConfig::default(),
        Some((path, file)) => {
            let whole = store.shared.headers(&models).map_err(|error| unusable(path, file, error))?;
            ModelConfig::of_gguf(&whole)
        }
    };
    let bytes = config.to_bytes(layers);
    Ok(Layer::new(MediaType::Config, store.put_bytes(&bytes)?, bytes.len() as u64))
}

/// What is wrong with a file: the file itself, or the disk.
fn unusable(path: &Path, file: &str, error: GgufError) -> PullError {
    match error {
        GgufError::Io { source, .. } if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            StoreError::Io { what: "read", path: path.to_owned(), source }.into()
        }
        // The system's words name the place where it is kept.
        GgufError::Io { .. } => {
            let problem = "it ends before what its header says".to_owned();
            PullError::NotAModel { file: file.to_owned(), problem }
        }
        error => PullError::NotAModel { file: file.to_owned(), problem: error.to_string() },
    }
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

    /// The query may choose the file: each has its own partial file, and nothing of the query is written down.
    #[test]
    fn files_that_differ_in_their_queries() {
        let source = |url: &str| {
            let target = Target::parse(url).expect("an address");
            let label = String::new();
            let version = Some(Version::Etag("\"v1\"".into()));
            Remote { label, target, credential: None, registry: None, digest: None, size: 1, version }
                .source()
        };
        let all = ["https://h/dl", "https://h/dl?id=1", "https://h/dl?id=2", "https://h/dl?id=1&sig=s3cret"];
        for (i, one) in all.iter().enumerate() {
            assert!(!source(one).url.contains("id") && !source(one).url.contains("s3cret"));
            for (j, other) in all.iter().enumerate() {
                assert_eq!(source(one) == source(other), i == j, "{one} {other}");
                assert_eq!(source(one).url == source(other).url, i == j, "{one} {other}");
            }
        }
    }

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
