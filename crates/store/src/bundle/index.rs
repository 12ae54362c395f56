//! What a bundle holds: models with their manifests, and blobs with the hash of each chunk.
//!
//! The index is JSON with one spelling: the reader writes down again what it understood, and takes only an index that
//! says exactly the same. So duplicate keys, unknown fields, other number spellings and bytes after the end have no
//! meaning to disagree about. Blobs stand in the file in the order of their digests and without gaps, which leaves
//! nothing to overlap; each is asked for by a manifest, and each manifest's blobs are there.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::BundleError;
use super::format::INDEX_BYTES_MAX;
use crate::{Digest, Manifest, ModelName};

/// Bytes of a chunk as exporters write it: what a resumed import may read again of each blob.
pub const CHUNK_BYTES: u32 = 16 << 20;
/// Chunks that readers take.
const CHUNK_BYTES_RANGE: std::ops::RangeInclusive<u32> = 1 << 10..=64 << 20;
/// Most models of a bundle.
pub const MODELS_MAX: usize = 4096;
/// Most blobs of a bundle.
pub const BLOBS_MAX: usize = 65_536;
/// Most licences that a model's entry names.
pub const LICENCES_MAX: usize = 64;
/// Most bytes of a licence's name, and of the writer's.
pub const NAME_BYTES_MAX: usize = 256;

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Program and version that wrote it.
    pub creator: String,
    /// When it was written, in RFC 3339 and UTC.
    pub created: String,
    /// Bytes of each chunk but a blob's last.
    pub chunk_bytes: u32,
    /// In the order of their names.
    pub models: Vec<BundledModel>,
    /// In the order of their digests, which is that of the file.
    pub blobs: Vec<BundledBlob>,
}

/// One model of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundledModel {
    /// Its name.
    pub name: ModelName,
    /// What it is made of.
    pub manifest: Manifest,
    /// The names of its licences, as its files tell them: for people, and not complete.
    pub licences: Vec<String>,
}

/// One blob of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundledBlob {
    /// SHA-256 of all of it.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Where it begins, counted from the first blob.
    pub offset: u64,
    /// The digest of each chunk.
    pub chunks: Vec<Digest>,
}

impl BundledModel {
    /// Bytes of all that the model is made of.
    pub fn size(&self) -> u64 {
        self.manifest.size()
    }
}

impl Index {
    /// Its one spelling.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("manifests are JSON");
        let wire = Wire {
            blobs: self
                .blobs
                .iter()
                .map(|blob| WireBlob {
                    chunks: blob.chunks.iter().map(|hash| Hex(*hash)).collect(),
                    digest: blob.digest.to_string(),
                    offset: blob.offset,
                    size: blob.size,
                })
                .collect(),
            chunk_bytes: self.chunk_bytes,
            created: self.created.clone(),
            creator: self.creator.clone(),
            models: self
                .models
                .iter()
                .map(|model| WireModel {
                    licences: model.licences.clone(),
                    manifest: text(model.manifest.to_bytes()),
                    name: full_name(&model.name),
                })
                .collect(),
        };
        serde_json::to_vec(&wire).expect("text and numbers have JSON")
    }

    /// Reads an index and checks every rule of the format.
    ///
    /// # Errors
    /// [`BundleError::Invalid`] says which rule is broken, and by what.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("its index: {error}")))?;
        let index = Self {
            creator: wire.creator,
            created: wire.created,
            chunk_bytes: wire.chunk_bytes,
            models: wire.models.into_iter().map(WireModel::read).collect::<Result<_, _>>()?,
            blobs: wire.blobs.into_iter().map(WireBlob::read).collect::<Result<_, _>>()?,
        };
        index.check()?;
        if index.to_bytes() != bytes {
            return Err(invalid("its index is not written as the format writes it"));
        }
        Ok(index)
    }

    /// Bytes of all blobs.
    pub fn data_bytes(&self) -> u64 {
        // The extents were checked to lie one after the other, so the last ends all of them.
        self.blobs.last().map_or(0, |blob| blob.offset + blob.size)
    }

    /// Checks what an exporter must keep to and a reader relies on.
    pub(super) fn check(&self) -> Result<(), BundleError> {
        let text = |what: &str, text: &str| -> Result<(), BundleError> {
            let printable = !text.is_empty() && text.chars().all(is_plain);
            if printable && text.len() <= NAME_BYTES_MAX {
                return Ok(());
            }
            Err(invalid(format!("its {what} is empty, over {NAME_BYTES_MAX} bytes long or unprintable")))
        };
        text("creator", &self.creator)?;
        if !is_time(&self.created) {
            return Err(invalid(format!(
                "it was created at `{}`, which is no time",
                self.created.escape_debug()
            )));
        }
        if !self.chunk_bytes.is_power_of_two() || !CHUNK_BYTES_RANGE.contains(&self.chunk_bytes) {
            return Err(invalid(format!("its chunks have {} bytes", self.chunk_bytes)));
        }
        let counts = [("models", self.models.len(), MODELS_MAX), ("blobs", self.blobs.len(), BLOBS_MAX)];
        for (what, n, most) in counts {
            if !(1..=most).contains(&n) {
                return Err(invalid(format!("it has {n} {what}; 1 to {most} are possible")));
            }
        }
        self.check_extents()?;
        self.check_models()?;
        for model in &self.models {
            if model.licences.len() > LICENCES_MAX {
                return Err(invalid(format!("{} names over {LICENCES_MAX} licences", model.name)));
            }
            model.licences.iter().try_for_each(|name| text("licence", name))?;
        }
        Ok(())
    }

    fn check_extents(&self) -> Result<(), BundleError> {
        let mut end = 0u64;
        let mut before: Option<&Digest> = None;
        for blob in &self.blobs {
            let digest = &blob.digest;
            if before.is_some_and(|before| before >= digest) {
                return Err(invalid(format!("blob {digest} is there twice or out of order")));
            }
            before = Some(digest);
            if blob.offset != end {
                return Err(invalid(format!("blob {digest} begins at {}, not at {end}", blob.offset)));
            }
            // What files can have: offsets are signed to every system.
            let fits = |end: &u64| *end <= i64::MAX as u64 / 2;
            end = end
                .checked_add(blob.size)
                .filter(fits)
                .ok_or_else(|| invalid(format!("blob {digest} claims {} bytes", blob.size)))?;
            let n_chunks = blob.size.div_ceil(u64::from(self.chunk_bytes));
            if blob.chunks.len() as u64 != n_chunks {
                let n = blob.chunks.len();
                return Err(invalid(format!(
                    "blob {digest} has {n} chunks, where its size makes {n_chunks}"
                )));
            }
        }
        Ok(())
    }

    fn check_models(&self) -> Result<(), BundleError> {
        let sizes: BTreeMap<&Digest, u64> = self.blobs.iter().map(|blob| (&blob.digest, blob.size)).collect();
        let mut unclaimed: BTreeSet<&Digest> = sizes.keys().copied().collect();
        let mut names = BTreeSet::new();
        let mut before = None;
        for model in &self.models {
            let name = full_name(&model.name);
            // Two names that a file system may take for one would hide each other.
            if !names.insert(name.to_lowercase()) || before.as_ref().is_some_and(|before| *before >= name) {
                return Err(invalid(format!("model {name} is there twice or out of order")));
            }
            before = Some(name);
            // What no store takes would be told when all of the bundle has been read, and others of it have names.
            let fit = model.manifest.check_fit();
            fit.map_err(|why| invalid(format!("no store takes the manifest of {}: {why}", model.name)))?;
            for layer in model.manifest.blobs() {
                match sizes.get(&layer.digest) {
                    Some(size) if *size == layer.size => unclaimed.remove(&layer.digest),
                    Some(size) => {
                        let (name, digest) = (&model.name, &layer.digest);
                        return Err(invalid(format!(
                            "{name} wants {} bytes of {digest}, which has {size}",
                            layer.size
                        )));
                    }
                    None => return Err(invalid(format!("{} lacks its blob {}", model.name, layer.digest))),
                };
            }
        }
        match unclaimed.first() {
            Some(digest) => Err(invalid(format!("no model asks for its blob {digest}"))),
            None => Ok(()),
        }
    }

    /// Checks that the index is small enough to be read again.
    pub(super) fn check_bytes(bytes: &[u8]) -> Result<(), BundleError> {
        if bytes.len() as u64 <= u64::from(INDEX_BYTES_MAX) {
            return Ok(());
        }
        Err(BundleError::Source(format!(
            "the bundle's index would have {} bytes, where {INDEX_BYTES_MAX} is the most; export fewer models at a time",
            bytes.len()
        )))
    }
}

fn invalid(what: impl Into<String>) -> BundleError {
    BundleError::Invalid(what.into())
}

/// The name with each of its parts, as `registry.ollama.ai/library/llama3.1:8b`.
pub(super) fn full_name(name: &ModelName) -> String {
    format!("{}/{}/{}:{}", name.host(), name.namespace(), name.model(), name.tag())
}

/// Whether a character may be shown as it is: none that steers a terminal or turns the direction of a line.
pub(super) fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// `2026-03-14T15:09:26Z`
fn is_time(text: &str) -> bool {
    let pattern = b"0000-00-00T00:00:00Z";
    text.len() == pattern.len()
        && text.bytes().zip(pattern).all(|(c, p)| if *p == b'0' { c.is_ascii_digit() } else { c == *p })
}

// The spelling: fields in the order of their names, no space between.

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(deserialize_with = "at_most::<BLOBS_MAX, _, _>")]
    blobs: Vec<WireBlob>,
    chunk_bytes: u32,
    created: String,
    creator: String,
    #[serde(deserialize_with = "at_most::<MODELS_MAX, _, _>")]
    models: Vec<WireModel>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireModel {
    #[serde(deserialize_with = "at_most::<LICENCES_MAX, _, _>")]
    licences: Vec<String>,
    manifest: String,
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireBlob {
    chunks: Vec<Hex>,
    digest: String,
    offset: u64,
    size: u64,
}

/// A list of at most `MOST` entries. One entry takes more memory than its text: a list that goes on and on is refused
/// where it is too long, not when all of it is there.
fn at_most<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Visitor<const MOST: usize, T>(PhantomData<T>);
    impl<'de, const MOST: usize, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<MOST, T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MOST} entries")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = list.next_element()? {
                if entries.len() == MOST {
                    return Err(serde::de::Error::custom(format_args!("a list has over {MOST} entries")));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_seq(Visitor::<MOST, T>(PhantomData))
}

impl WireModel {
    fn read(self) -> Result<BundledModel, BundleError> {
        let shown: String = self.name.chars().take(200).flat_map(char::escape_debug).collect();
        let name =
            self.name.parse::<ModelName>().map_err(|error| invalid(format!("model `{shown}`: {error}")))?;
        if full_name(&name) != self.name {
            return Err(invalid(format!("model `{shown}` is not named in full")));
        }
        let manifest = Manifest::parse(self.manifest.as_bytes())
            .map_err(|error| invalid(format!("the manifest of {name}: {error}")))?;
        if manifest.to_bytes() != self.manifest.as_bytes() {
            return Err(invalid(format!("the manifest of {name} is not written as the format writes it")));
        }
        Ok(BundledModel { name, manifest, licences: self.licences })
    }
}

impl WireBlob {
    fn read(self) -> Result<BundledBlob, BundleError> {
        let shown: String = self.digest.chars().take(200).flat_map(char::escape_debug).collect();
        let digest =
            self.digest.parse::<Digest>().map_err(|error| invalid(format!("blob `{shown}`: {error}")))?;
        let chunks = self.chunks.into_iter().map(|Hex(hash)| hash).collect();
        Ok(BundledBlob { digest, size: self.size, offset: self.offset, chunks })
    }
}

/// A hash as 64 digits.
struct Hex(Digest);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.hex())
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Hex;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("64 lower-case hexadecimal digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hex, E> {
                Digest::from_hex(text)
                    .map(Hex)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str("other text"), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
