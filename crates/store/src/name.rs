//! Names of models in the store: host, namespace, model and tag.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where names stand that name no host.
pub const DEFAULT_HOST: &str = "registry.ollama.ai";
/// The namespace of names that name none.
pub const DEFAULT_NAMESPACE: &str = "library";
/// The tag of names that name none.
pub const DEFAULT_TAG: &str = "latest";

/// The longest host, in bytes; what fits a file name, with a port.
const HOST_BYTES_MAX: usize = 255;
/// The longest of the other parts, in bytes: what OCI allows for a tag.
const PART_BYTES_MAX: usize = 128;

/// A name under which a model stands in a store: `llama3.1:8b`, `hf.co/user/repo:Q4_K_M`,
/// `registry.example:5000/team/model:tag`.
///
/// Each part is checked where the name is made: none is empty, none can be taken for a folder or lead out of one. What
/// is compared is the spelling: `a` and `A` are two names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// A text that is no name of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A part has characters, or a length, that it must not have. The part's text is not repeated: it may be anything.
    #[error("the {part} of this name is not valid: {why}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What is allowed.
        why: String,
    },
    /// There are too many parts, or there is nothing.
    #[error(
        "this is no name of a model; one is `model:tag`, `namespace/model:tag` or `host/namespace/model:tag`"
    )]
    Shape,
    /// A reference that is none, with the reason.
    #[error("this is no reference to a model: {0}")]
    Reference(String),
}

impl ModelName {
    /// A name of its four parts.
    ///
    /// # Errors
    /// If a part is empty, too long, or has characters that it must not have.
    pub fn new(host: &str, namespace: &str, model: &str, tag: &str) -> Result<Self, NameError> {
        check("host", host, HOST_BYTES_MAX, b".-:")?;
        check("namespace", namespace, PART_BYTES_MAX, b".-_")?;
        check("model", model, PART_BYTES_MAX, b".-_")?;
        check("tag", tag, PART_BYTES_MAX, b".-_")?;
        let own = str::to_owned;
        Ok(Self { host: own(host), namespace: own(namespace), model: own(model), tag: own(tag) })
    }

    /// The host: `registry.ollama.ai`, `hf.co`, perhaps with a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The namespace: `library`, a user, an organization.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The model's own name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The same with another tag.
    ///
    /// # Errors
    /// If it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, NameError> {
        Self::new(&self.host, &self.namespace, &self.model, tag)
    }

    /// Where its manifest is, below `manifests/`: four parts, each of which is a plain file name.
    pub fn path(&self) -> PathBuf {
        // A colon cannot be in file names of Windows, and `+` in no host.
        let host = if cfg!(windows) { self.host.replace(':', "+") } else { self.host.clone() };
        [&host, &self.namespace, &self.model, &self.tag].iter().collect()
    }

    /// Whether it stands where names stand that name no host.
    pub fn is_default_host(&self) -> bool {
        self.host == DEFAULT_HOST
    }
}

/// The part of a text that tells it from all others' where it must be cut or changed to become a part of a name:
/// characters that no name has become `-`. Never empty.
pub(crate) fn sanitized(text: &str) -> String {
    let changed = text.bytes().map(|b| if is_common(b) || b".-_".contains(&b) { char::from(b) } else { '-' });
    let mut part: String = changed.skip_while(|c| !c.is_ascii_alphanumeric()).take(PART_BYTES_MAX).collect();
    if cfg!(windows) && is_device(&part) {
        part.insert_str(0, "model-");
        part.truncate(PART_BYTES_MAX);
    }
    part.truncate(part.trim_end_matches('.').len());
    if part.is_empty() {
        part.push_str("model");
    }
    part
}

fn is_common(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Whether Windows takes a file's name for a device's, whatever folder it is in and whatever follows a dot.
fn is_device(text: &str) -> bool {
    let name = text.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = name.strip_prefix("com").or_else(|| name.strip_prefix("lpt"));
    matches!(name.as_str(), "con" | "prn" | "aux" | "nul")
        || numbered.is_some_and(|number| matches!(number.as_bytes(), [b'1'..=b'9']))
}

fn check(part: &'static str, text: &str, bytes_max: usize, further: &[u8]) -> Result<(), NameError> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > bytes_max {
        format!("it has {} bytes; {bytes_max} are allowed", text.len())
    } else if !text.bytes().all(|b| is_common(b) || further.contains(&b)) {
        let further: Vec<String> = further.iter().map(|b| format!("`{}`", char::from(*b))).collect();
        format!("letters, digits, {} are allowed", further.join(", "))
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || (c == '_' && part != "host")) {
        "it begins with a letter or a digit".to_owned()
    } else if text.ends_with('.') {
        "it does not end with a dot".to_owned()
    } else if cfg!(windows) && is_device(text) {
        // Elsewhere these are names, and registries may have them.
        "Windows has a device of this name, and no file can have it there".to_owned()
    } else {
        return Ok(());
    };
    Err(NameError::Part { part, why })
}

impl FromStr for ModelName {
    type Err = NameError;

    /// `model`, `model:tag`, `namespace/model:tag` or `host/namespace/model:tag`; what is missing is the default.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (path, last) = match text.rsplit_once('/') {
            Some((path, last)) => (Some(path), last),
            None => (None, text),
        };
        let (model, tag) = last.split_once(':').unwrap_or((last, DEFAULT_TAG));
        let parts: Vec<&str> = path.map_or(Vec::new(), |path| path.split('/').collect());
        match parts[..] {
            [] => Self::new(DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag),
            [namespace] => Self::new(DEFAULT_HOST, namespace, model, tag),
            [host, namespace] => Self::new(host, namespace, model, tag),
            _ => Err(NameError::Shape),
        }
    }
}

impl fmt::Display for ModelName {
    /// The shortest text that is parsed to this name, but always with the tag.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { host, namespace, model, tag } = self;
        match (self.is_default_host(), namespace == DEFAULT_NAMESPACE) {
            (true, true) => write!(f, "{model}:{tag}"),
            (true, false) => write!(f, "{namespace}/{model}:{tag}"),
            (false, _) => write!(f, "{host}/{namespace}/{model}:{tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_users_write_them() {
        let check = |text: &str, short: &str, path: &str| {
            let name: ModelName = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(name.to_string(), short);
            assert_eq!(name.path().to_str(), Some(path));
            assert_eq!(short.parse(), Ok(name), "the short form is a name too");
        };
        check("llama3.1", "llama3.1:latest", "registry.ollama.ai/library/llama3.1/latest");
        check("llama3.1:8b", "llama3.1:8b", "registry.ollama.ai/library/llama3.1/8b");
        check("me/mine:v1", "me/mine:v1", "registry.ollama.ai/me/mine/v1");
        check("registry.ollama.ai/library/a:b", "a:b", "registry.ollama.ai/library/a/b");
        check("hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/Repo-GGUF/Q4_K_M");
        check("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b/latest");
        check("_x", "_x:latest", "registry.ollama.ai/library/_x/latest");
    }

    #[test]
    fn names_of_devices() {
        for (text, expected) in [
            ("con", true),
            ("CON", true),
            ("nul.x", true),
            ("Aux.tar.gz", true),
            ("prn", true),
            ("com1", true),
            ("LPT9.q4", true),
            ("com0", false),
            ("com10", false),
            ("com", false),
            ("lpt", false),
            ("console", false),
            ("nul-x", false),
            ("x.nul", false),
            ("con+5000", false),
            ("", false),
        ] {
            assert_eq!(is_device(text), expected, "{text}");
        }
        // Only Windows has no files of these names.
        for text in ["con", "nul.x", "com1"] {
            assert_eq!(ModelName::new("h", "n", text, "t").is_ok(), !cfg!(windows), "{text}");
            assert!(ModelName::new("h", "n", &sanitized(text), "t").is_ok(), "{text}");
        }
    }

    #[test]
    fn whatever_text_becomes_a_part_of_a_name() {
        for text in ["", "..", "../../x", "ü", ".hidden", "a b", &"x".repeat(1000), "a.", "\0"] {
            let part = sanitized(text);
            assert!(ModelName::new("h", "n", &part, "t").is_ok(), "{text:?} became {part:?}");
        }
    }
}
