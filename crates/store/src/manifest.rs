//! Manifests: which blobs a model consists of, and what each of them is.
//!
//! The form is the image manifest of OCI (version 2 of the schema) with the types that Ollama's store gives its layers.
//! What is ours stands in annotations, which other readers skip.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Digest, ModelName, StoreError};

/// The largest manifest that is read, in bytes.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The most layers of a manifest.
pub(crate) const LAYERS_MAX: usize = 1024;
/// The most annotations of a manifest or a layer.
const ANNOTATIONS_MAX: usize = 64;
/// The longest annotation, in bytes.
pub(crate) const ANNOTATION_BYTES_MAX: usize = 4096;
/// The largest layer that is read as a whole, in bytes.
pub(crate) const TEXT_BYTES_MAX: u64 = 1 << 20;
/// How much of an annotation's key is shown in an error, in characters.
const KEY_CHARS_MAX: usize = 64;
/// The largest size that a layer may claim: what a file's offset can count.
const SIZE_MAX: u64 = i64::MAX as u64;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Keys of annotations.
pub mod annotation {
    /// The original file name of a layer; parts of a split model need it.
    pub const FILE: &str = "dev.ingle.file";
    /// The reference that was asked for.
    pub const SOURCE: &str = "dev.ingle.source";
    /// The commit of the repository that it came from.
    pub const REVISION: &str = "dev.ingle.revision";
    /// When it was fetched, as RFC 3339.
    pub const PULLED: &str = "dev.ingle.pulled";
}

macro_rules! media_types {
    ($($variant:ident $text:literal $doc:literal;)*) => {
        /// What a layer is.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum MediaType {
            $(#[doc = $doc] $variant,)*
            /// Something that is carried along and not used.
            Other(String),
        }

        impl MediaType {
            /// The type of this name.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($text => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }

            /// Its name.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(name) => name,
                }
            }
        }
    };
}

media_types! {
    Config "application/vnd.docker.container.image.v1+json" "What the model is, in a few words.";
    Model "application/vnd.ollama.image.model" "Weights: a GGUF file, or one part of a split one.";
    Adapter "application/vnd.ollama.image.adapter" "A LoRA adapter as a GGUF file.";
    Projector "application/vnd.ollama.image.projector" "What makes images into embeddings, as a GGUF file.";
    Template "application/vnd.ollama.image.template" "A template in Go's language.";
    JinjaTemplate "application/vnd.ingle.template.jinja" "A template in Jinja's language.";
    System "application/vnd.ollama.image.system" "The system message.";
    Params "application/vnd.ollama.image.params" "Parameters, as a JSON object.";
    Messages "application/vnd.ollama.image.messages" "Messages that open each conversation, as a JSON list.";
    License "application/vnd.ollama.image.license" "A licence's text.";
}

impl MediaType {
    /// Whether a layer of this type is read as a whole whenever its model is opened.
    fn is_text(&self) -> bool {
        match self {
            Self::Model | Self::Adapter | Self::Projector | Self::Other(_) => false,
            Self::Config
            | Self::Template
            | Self::JinjaTemplate
            | Self::System
            | Self::Params
            | Self::Messages
            | Self::License => true,
        }
    }
}

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is.
    pub media_type: MediaType,
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What else is said about it.
    pub annotations: BTreeMap<String, String>,
}

/// What a model consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The blob that says what the model is ([`crate::ModelConfig`]).
    pub config: Layer,
    /// The other blobs, in order.
    pub layers: Vec<Layer>,
    /// What is said about the whole.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or not what a manifest is.
    #[error("{0}")]
    Invalid(String),
    /// It has more of something than is read.
    #[error("there are more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most.
        max: usize,
    },
}

impl Layer {
    /// A layer about which nothing else is said.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self { media_type, digest, size, annotations: BTreeMap::new() }
    }

    /// The same with a file's name.
    pub fn with_file(mut self, name: &str) -> Self {
        self.annotations.insert(annotation::FILE.to_owned(), name.to_owned());
        self
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "mediaType": self.media_type.name(),
            "digest": self.digest.to_string(),
            "size": self.size,
        });
        put_annotations(&mut json, &self.annotations);
        json
    }

    fn parse(value: &Value, place: &str) -> Result<Self, ManifestError> {
        let wrong = |what: &str| ManifestError::Invalid(format!("{place}: {what}"));
        let object = value.as_object().ok_or_else(|| wrong("it is no object"))?;
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let media_type = text("mediaType").ok_or_else(|| wrong("`mediaType` is missing"))?;
        if media_type.len() > ANNOTATION_BYTES_MAX {
            return Err(wrong("`mediaType` is too long"));
        }
        let digest = text("digest").ok_or_else(|| wrong("`digest` is missing"))?;
        let digest = digest.parse().map_err(|error| wrong(&format!("`digest`: {error}")))?;
        let size = object.get("size").and_then(Value::as_u64).filter(|size| *size <= SIZE_MAX);
        let size = size.ok_or_else(|| wrong("`size` is missing, or no size"))?;
        Ok(Self {
            media_type: MediaType::from_name(media_type),
            digest,
            size,
            annotations: annotations(object, place)?,
        })
    }
}

impl Manifest {
    /// A manifest of these blobs.
    pub fn new(config: Layer, layers: Vec<Layer>) -> Self {
        Self { config, layers, annotations: BTreeMap::new() }
    }

    /// All blobs: that of the config first.
    pub fn blobs(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The layers of one type, in order.
    pub fn of_type<'a>(&'a self, media_type: &'a MediaType) -> impl Iterator<Item = &'a Layer> {
        self.layers.iter().filter(move |layer| layer.media_type == *media_type)
    }

    /// Bytes of all blobs together, each counted once.
    pub fn size(&self) -> u64 {
        let blobs: BTreeMap<Digest, u64> = self.blobs().map(|layer| (layer.digest, layer.size)).collect();
        blobs.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// The manifest as it stands on disk: the same bytes for the same manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut json = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": self.layers.iter().map(Layer::to_json).collect::<Vec<_>>(),
        });
        put_annotations(&mut json, &self.annotations);
        json.to_string().into_bytes()
    }

    /// The digest of what stands on disk.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Refuses a manifest that nobody could read again, or whose model nobody could open: while there is one in a store,
    /// no blob of the store can be removed.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] with the reason.
    pub(crate) fn check(&self, name: &ModelName) -> Result<(), StoreError> {
        self.check_fit().map_err(|source| StoreError::Unfit { name: Box::new(name.clone()), source })
    }

    /// The same of one that has no name yet.
    ///
    /// # Errors
    /// The reason.
    pub(crate) fn check_fit(&self) -> Result<(), ManifestError> {
        let large = self.blobs().find(|layer| layer.media_type.is_text() && layer.size > TEXT_BYTES_MAX);
        match (large, Self::parse(&self.to_bytes())) {
            (Some(layer), _) => Err(ManifestError::Invalid(format!(
                "the layer {} of type {} has {} bytes; {TEXT_BYTES_MAX} are the most of a text",
                layer.digest,
                layer.media_type.name(),
                layer.size
            ))),
            (None, Ok(read)) if read == *self => Ok(()),
            (None, Ok(_)) => Err(ManifestError::Invalid("it would be read as another one".to_owned())),
            (None, Err(error)) => Err(error),
        }
    }

    /// Reads a manifest. Fields that it does not know are skipped.
    ///
    /// # Errors
    /// If it is none, or has more of something than is read.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let wrong = |why: String| ManifestError::Invalid(why);
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(wrong(format!("it has {} bytes; {MANIFEST_BYTES_MAX} are the most", bytes.len())));
        }
        let json: Value =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("it is no JSON: {error}")))?;
        let object = json.as_object().ok_or_else(|| wrong("it is no JSON object".to_owned()))?;
        if object.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(wrong("`schemaVersion` is not 2: this is no image manifest".to_owned()));
        }
        let config = object.get("config").ok_or_else(|| wrong("`config` is missing".to_owned()))?;
        let layers = object.get("layers").and_then(Value::as_array);
        let layers = layers.ok_or_else(|| wrong("`layers` is missing".to_owned()))?;
        if layers.len() > LAYERS_MAX {
            return Err(ManifestError::TooMany { what: "layers", max: LAYERS_MAX });
        }
        let numbered = layers.iter().enumerate();
        Ok(Self {
            config: Layer::parse(config, "`config`")?,
            layers: numbered
                .map(|(i, layer)| Layer::parse(layer, &format!("layer {}", i + 1)))
                .collect::<Result<_, _>>()?,
            annotations: annotations(object, "the manifest")?,
        })
    }
}

fn put_annotations(json: &mut Value, annotations: &BTreeMap<String, String>) {
    if !annotations.is_empty() {
        json["annotations"] =
            annotations.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>().into();
    }
}

fn annotations(object: &Map<String, Value>, place: &str) -> Result<BTreeMap<String, String>, ManifestError> {
    let wrong = || {
        ManifestError::Invalid(format!(
            "{place}: `annotations` are texts of at most {ANNOTATION_BYTES_MAX} bytes"
        ))
    };
    let found = match object.get("annotations") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(found)) => found,
        Some(_) => return Err(wrong()),
    };
    if found.len() > ANNOTATIONS_MAX {
        return Err(ManifestError::TooMany { what: "annotations", max: ANNOTATIONS_MAX });
    }
    let pair = |(key, value): (&String, &Value)| {
        let too_long = |n: usize| {
            let key: String = key.chars().take(KEY_CHARS_MAX).collect();
            ManifestError::Invalid(format!(
                "{place}: the annotation `{key}` has {n} bytes; {ANNOTATION_BYTES_MAX} are the most"
            ))
        };
        let text = value.as_str().ok_or_else(wrong)?;
        match text.len().max(key.len()) {
            n if n > ANNOTATION_BYTES_MAX => Err(too_long(n)),
            _ => Ok((key.clone(), text.to_owned())),
        }
    };
    found.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media_type: MediaType, content: &[u8]) -> Layer {
        Layer::new(media_type, Digest::of(content), content.len() as u64)
    }

    fn sample() -> Manifest {
        let mut manifest = Manifest::new(
            layer(MediaType::Config, b"{}"),
            vec![
                layer(MediaType::Model, b"weights").with_file("x.gguf"),
                layer(MediaType::Other("application/vnd.later".into()), b"?"),
                layer(MediaType::Model, b"weights"),
            ],
        );
        manifest.annotations.insert(annotation::SOURCE.into(), "hf.co/u/r".into());
        manifest
    }

    #[test]
    fn bytes_and_back() {
        let manifest = sample();
        assert_eq!(Manifest::parse(&manifest.to_bytes()), Ok(manifest.clone()));
        assert_eq!(manifest.size(), 2 + 7 + 1, "a blob that is named twice counts once");
        assert_eq!(manifest.of_type(&MediaType::Model).count(), 2);
        // As a registry sends it: other order, unknown fields.
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"layers":[{{"size":1,"digest":"{digest}","from":"/x","mediaType":"application/vnd.ollama.image.model"}}],
            "config":{{"digest":"{digest}","size":1,"mediaType":"application/vnd.docker.container.image.v1+json"}},
            "schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","annotations":null}}"#
        );
        assert_eq!(Manifest::parse(text.as_bytes()).expect("valid").layers.len(), 1);
    }

    #[test]
    fn manifests_that_are_refused() {
        let good = String::from_utf8(sample().to_bytes()).expect("UTF-8");
        let digest = Digest::of(b"weights").to_string();
        let many = "{},".repeat(2000);
        for (text, part) in [
            (String::new(), "no JSON"),
            ("[]".into(), "no JSON object"),
            (good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"), "schemaVersion"),
            (good.replace(&digest, "sha256:../../../etc/passwd"), "digest"),
            (good.replace(&digest, &digest.to_uppercase()), "digest"),
            (good.replace("\"size\":7", "\"size\":-7"), "size"),
            (good.replace("\"size\":7", "\"size\":18446744073709551615"), "size"),
            (good.replace("\"size\":7", "\"size\":7.5"), "size"),
            (good.replace("x.gguf", &"x".repeat(5000)), "`dev.ingle.file` has 5000 bytes"),
            (good.replace("\"x.gguf\"", "[1]"), "annotations"),
            (format!("{{\"schemaVersion\":2,\"config\":{{}},\"layers\":[{}{{}}]}}", many), "more than 1024"),
        ] {
            let error = Manifest::parse(text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
