//! Short names: what `llama3.1:8b` means here.
//!
//! Without a catalogue a short name is one of Ollama's library. An operator's catalogue gives names other meanings, and
//! may send all others to a registry of the operator's own:
//!
//! ```toml
//! registry = "models.example.org/team"
//!
//! [models]
//! "llama3.1:8b" = "hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M"
//! "assistant" = "https://models.example.org/assistant.gguf"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use crate::reference::default_registry;
use crate::{ModelName, NameError, Reference};

/// The most entries of one catalogue.
const ENTRIES_MAX: usize = 10_000;
/// The largest file of a catalogue, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What short names mean.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    entries: BTreeMap<ModelName, Reference>,
    /// Host and namespace of names that name neither and stand in no entry.
    home: Option<(String, String)>,
}

/// A catalogue that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// The file is too large.
    #[error("it is larger than 4 MiB")]
    TooLarge,
    /// It is no TOML.
    #[error("it is not valid TOML: {0}")]
    Toml(String),
    /// A key that means nothing, or a value of the wrong kind.
    #[error("`{key}`: {why}")]
    Key {
        /// Which.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name or a reference that is none.
    #[error("`{key}`: {source}")]
    Name {
        /// Of which entry.
        key: String,
        /// Why.
        source: NameError,
    },
}

impl Catalogue {
    /// Reads a file and lets its entries win over those that are there.
    ///
    /// # Errors
    /// If the file cannot be read or says what cannot be meant.
    pub fn load(&mut self, path: &Path) -> Result<(), CatalogueError> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(CatalogueError::TooLarge);
        }
        self.extend(&text)
    }

    /// Lets the entries of a text win over those that are there.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn extend(&mut self, text: &str) -> Result<(), CatalogueError> {
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| CatalogueError::Toml(error.to_string()))?;
        for (key, value) in &table {
            let wrong = |why: &str| CatalogueError::Key { key: key.clone(), why: why.to_owned() };
            match (key.as_str(), value) {
                ("registry", toml::Value::String(registry)) => self.set_home(registry)?,
                ("models", toml::Value::Table(models)) => self.add(models)?,
                ("registry", _) => return Err(wrong("it is text: `host/namespace`")),
                ("models", _) => return Err(wrong("it is a table of names and what they stand for")),
                _ => return Err(wrong("a catalogue has `registry` and the table `models`")),
            }
        }
        Ok(())
    }

    fn set_home(&mut self, registry: &str) -> Result<(), CatalogueError> {
        let key = || "registry".to_owned();
        let (host, namespace) = registry.split_once('/').ok_or_else(|| CatalogueError::Key {
            key: key(),
            why: format!("it is `host/namespace`, as `{}`", default_registry()),
        })?;
        ModelName::new(host, namespace, "m", "t")
            .map_err(|source| CatalogueError::Name { key: key(), source })?;
        self.home = Some((host.to_owned(), namespace.to_owned()));
        Ok(())
    }

    fn add(&mut self, models: &toml::Table) -> Result<(), CatalogueError> {
        for (key, value) in models {
            let wrong = |why: &str| CatalogueError::Key { key: key.clone(), why: why.to_owned() };
            let name = |source| CatalogueError::Name { key: key.clone(), source };
            let text = value.as_str().ok_or_else(|| wrong("what it stands for is text"))?;
            let short: ModelName = key.parse().map_err(name)?;
            // No entry stands for another: what a name means is said in one place.
            let reference = Reference::parse(text, &Self::default()).map_err(name)?;
            if self.entries.len() >= ENTRIES_MAX {
                return Err(wrong("a catalogue has at most 10000 names"));
            }
            self.entries.insert(short, reference);
        }
        Ok(())
    }

    /// What the catalogue says that a name means.
    pub fn lookup(&self, name: &ModelName) -> Option<&Reference> {
        self.entries.get(name)
    }

    /// All names with what they mean.
    pub fn iter(&self) -> impl Iterator<Item = (&ModelName, &Reference)> {
        self.entries.iter()
    }

    /// Host and namespace where short names are that stand in no entry.
    pub fn home(&self) -> String {
        match &self.home {
            Some((host, namespace)) => format!("{host}/{namespace}"),
            None => default_registry(),
        }
    }

    /// A name that names neither host nor namespace, at the operator's registry.
    pub(crate) fn at_home(&self, name: ModelName) -> ModelName {
        let is_short = name.is_default_host() && name.namespace() == crate::DEFAULT_NAMESPACE;
        match &self.home {
            Some((host, namespace)) if is_short => ModelName::new(host, namespace, name.model(), name.tag())
                .expect("both were checked when the registry was set"),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        registry = "models.example.org/team"
        [models]
        "llama3.1:8b" = "hf.co/u/r:Q4_K_M"
        "assistant" = "https://models.example.org/assistant.gguf"
    "#;

    #[test]
    fn what_short_names_mean() {
        let mut catalogue = Catalogue::default();
        let check = |catalogue: &Catalogue, text: &str, expected: &str| {
            assert_eq!(Reference::parse(text, catalogue).expect("valid").to_string(), expected);
        };
        check(&catalogue, "llama3.1:8b", "llama3.1:8b");
        let in_full =
            |catalogue: &Catalogue, text| Reference::parse(text, catalogue).expect("valid").in_full();
        assert_eq!(in_full(&catalogue, "llama3.1"), "registry.ollama.ai/library/llama3.1:latest");
        assert_eq!(catalogue.home(), "registry.ollama.ai/library");
        catalogue.extend(TEXT).expect("valid");
        check(&catalogue, "llama3.1:8b", "hf.co/u/r:Q4_K_M");
        check(&catalogue, "assistant", "https://models.example.org/assistant.gguf");
        check(&catalogue, "assistant:latest", "https://models.example.org/assistant.gguf");
        check(&catalogue, "other", "models.example.org/team/other:latest");
        assert_eq!(in_full(&catalogue, "llama3.1:8b"), "hf.co/u/r:Q4_K_M");
        assert_eq!(catalogue.home(), "models.example.org/team");
        check(&catalogue, "me/other", "me/other:latest");
        catalogue.extend("[models]\nassistant = \"llama3.1:8b\"").expect("valid");
        // Entries do not stand for entries: this one is the library's.
        check(&catalogue, "assistant", "llama3.1:8b");
        assert_eq!(catalogue.iter().count(), 2);
    }

    #[test]
    fn catalogues_that_are_refused() {
        for (text, part) in [
            ("x = 1", "`x`"),
            ("registry = 1", "host/namespace"),
            ("registry = \"a\"", "host/namespace"),
            ("registry = \"../x\"", "host"),
            ("models = []", "table"),
            ("[models]\na = 1", "`a`"),
            ("[models]\n\"a/../b\" = \"x\"", "`a/../b`"),
            ("[models]\na = \"ftp://x/y\"", "ftp"),
            ("[models", "TOML"),
        ] {
            let error = Catalogue::default().extend(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
