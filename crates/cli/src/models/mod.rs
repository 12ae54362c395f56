//! Models by name: the store of this machine, and the commands that look after it.
//!
//! [`chosen`] is the one place where what a user wrote becomes files: a path as it is, else a name in the store.

mod change;
mod create;
mod import;
mod list;
mod save;
mod show;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ingle_runtime::{LoadOptions, Source};
use ingle_store::{Catalogue, Installed, ModelName, Reference, Store, StoreConfig};

use crate::settings::Settings;

pub use change::{COPY, PRUNE, REMOVE, VERIFY, copy, prune, prune_options, remove, verify};
pub use create::{CREATE, create, create_options};
pub use import::OfClients;
pub use list::{LIST, list, list_options};
pub use save::{Saving, save};
pub use show::{SHOW, show, show_options};

/// The store and the names of this machine.
#[derive(Clone, Debug)]
pub struct Models {
    /// The models.
    pub store: Store,
    /// What short names mean.
    pub catalogue: Catalogue,
    /// Fetches what is missing, as these settings say.
    fetching: Option<Box<Settings>>,
}

/// A model that was asked for, ready to be opened.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What the user wrote, for messages.
    pub shown: String,
    /// Its files.
    pub source: Source,
    /// What the store has beside the files, if it is a model of the store.
    pub installed: Option<Installed>,
}

impl Chosen {
    /// How to load it: what the store says about it, where the user has said nothing.
    pub fn options(&self, said: LoadOptions) -> LoadOptions {
        match &self.installed {
            Some(installed) => said.with_installed(installed),
            None => said,
        }
    }
}

/// The name of the model that ships with Ingle, where no other has it: servers call it so, too.
pub const SHIPPED: &str = "ingle-tiny";

impl Models {
    /// The store that settings describe. Nothing is made on disk.
    pub fn open(settings: &Settings) -> Result<Self> {
        let mut catalogue = Catalogue::default();
        for path in &settings.catalogue {
            catalogue.load(path).with_context(|| format!("--catalogue: {}", path.display()))?;
        }
        let root = match &settings.store_dir {
            Some(root) if root.as_os_str().is_empty() => bail!("--store-dir: the folder is not named"),
            Some(root) => root.clone(),
            None => crate::serve::default_data_dir()
                .context("no folder for models is known; --store-dir (INGLE_MODELS) names one")?
                .join("models"),
        };
        let is_named = "--store-dir (INGLE_MODELS) names the folder of the store";
        match std::fs::metadata(&root) {
            Ok(found) if !found.is_dir() => bail!("{} is no folder; {is_named}", root.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                bail!("{} can be no folder: {error}; {is_named}", root.display())
            }
            _ => {}
        }
        let config = StoreConfig {
            root,
            shared: settings.shared_store.clone(),
            hf_home: place(settings.hf_home.as_ref(), hf_home()),
            ollama: place(settings.ollama_models.as_ref(), home(&[".ollama", "models"])),
        };
        Ok(Self { store: Store::open(config)?, catalogue, fetching: None })
    }

    /// The same, which fetches models that are asked for and missing.
    pub fn fetching(self, settings: &Settings) -> Self {
        Self { fetching: Some(Box::new(settings.clone())), ..self }
    }

    /// What a user wrote, as a reference: a name that the store has is that model, whatever the catalogue says.
    pub fn reference(&self, text: &str) -> Result<Reference> {
        self.store.resolve(text, &self.catalogue).with_context(|| format!("`{}`", text.escape_debug()))
    }

    /// The name of a model in the store, from what a user wrote.
    pub fn name(&self, text: &str) -> Result<ModelName> {
        match self.reference(text)?.name() {
            Some(name) => Ok(name),
            None => bail!("`{text}` is a file or a folder, and no name of a model in the store"),
        }
    }

    /// Whether a user's word is the name of a model of the store. A file or a folder of the same name, such as the one with
    /// the model's Modelfile, is not meant then: it can be written as a path.
    pub fn has(&self, text: &str) -> bool {
        let is_path = text.starts_with(['/', '.', '~']) || ends_like_a_file(text);
        let name = text.parse::<ModelName>().ok().filter(|_| !is_path);
        let found = name.map(|name| self.store.spelled(name).and_then(|name| self.store.find(&name)));
        matches!(found, Some(Ok(Some(_))))
    }

    /// The files of what a user wrote.
    pub fn find(&self, text: &str) -> Result<Chosen> {
        let shown = text.to_owned();
        let path = expanded(text);
        let is_stored = self.has(text);
        if !is_stored && (path.is_file() || is_special(&path)) {
            return Ok(Chosen { shown, source: Source::File(path), installed: None });
        }
        let is_folder = !is_stored && path.is_dir();
        let reference = if is_folder { Reference::Path(path) } else { self.reference(text)? };
        if let Reference::Path(path) = &reference
            && !path.exists()
        {
            bail!("{}", absent(path));
        }
        let installed = match self.store.open_model(&reference)? {
            Some(installed) => installed,
            None if text == SHIPPED => return Ok(Chosen { shown, source: Source::Shipped, installed: None }),
            None => self.missing(text, &reference)?,
        };
        let source = Source::of_files(installed.model.clone());
        let installed = Some(installed).filter(|installed| installed.name.is_some());
        Ok(Chosen { shown, source, installed })
    }

    /// A model that is not here.
    fn missing(&self, text: &str, reference: &Reference) -> Result<Installed> {
        if let Some(settings) = &self.fetching
            && crate::pull::pull_missing(self, settings, reference)?
            && let Some(installed) = self.store.open_model(reference)?
        {
            return Ok(installed);
        }
        let meant = match reference.in_full() {
            same if same == text => String::new(),
            other => format!(" ({other})"),
        };
        let next = match &self.fetching {
            Some(settings) if settings.offline => {
                "and --offline fetches none; `ingle import` takes models in without a network"
            }
            Some(_) => "and `ingle pull` (or --yes) fetches models",
            None => "and `ingle pull` fetches models",
        };
        bail!(
            "there is no file `{text}`, and no model of that name{meant} in the store {}; `ingle list` shows what there is, {next}",
            self.store.config().root.display()
        )
    }
}

/// The model that settings name: the last of them, or the one that ships with Ingle.
pub fn chosen(settings: &Settings) -> Result<Chosen> {
    match settings.model_file() {
        None => Ok(Chosen { shown: "the shipped model".into(), source: Source::Shipped, installed: None }),
        Some(path) => of_argument(path, settings, true),
    }
}

/// The model of an argument; one that is missing may be fetched.
pub fn of_argument(path: &Path, settings: &Settings, fetches: bool) -> Result<Chosen> {
    // A file needs no store, and works where no folder for one is known.
    let file =
        || Chosen { shown: path.display().to_string(), source: Source::File(path.into()), installed: None };
    if (path.is_file() || is_special(path)) && !path.to_str().is_some_and(|text| is_stored(text, settings)) {
        return Ok(file());
    }
    match path.to_str() {
        Some(text) if fetches => Models::open(settings)?.fetching(settings).find(text),
        Some(text) => Models::open(settings)?.find(text),
        None => bail!("{}", absent(path)),
    }
}

/// Whether a word is the name of a model of the store that settings describe: see [`Models::has`].
pub fn is_stored(text: &str, settings: &Settings) -> bool {
    !ends_like_a_file(text) && Models::open(settings).is_ok_and(|models| models.has(text))
}

fn ends_like_a_file(text: &str) -> bool {
    let ending = text.len().checked_sub(".gguf".len()).and_then(|at| text.get(at..));
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case(".gguf"))
}

/// A pipe, a device: there, and for the loader to refuse by name.
fn is_special(path: &Path) -> bool {
    path.exists() && !path.is_file() && !path.is_dir()
}

fn absent(path: &Path) -> String {
    format!(
        "there is no file `{}`; a model is a GGUF file on this machine or the name of one in the store, and without one \
         the small model that ships with Ingle is used",
        path.display()
    )
}

/// A path with the home folder in place of `~`.
pub fn expanded(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(text),
    }
}

/// A folder that a setting names; an empty value is none.
fn place(said: Option<&PathBuf>, default: Option<PathBuf>) -> Option<PathBuf> {
    match said {
        Some(path) if path.as_os_str().is_empty() => None,
        Some(path) => Some(path.clone()),
        None => default.filter(|path| path.is_dir()),
    }
}

fn hf_home() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(cache.or_else(|| home(&[".cache"]))?.join("huggingface"))
}

fn home(below: &[&str]) -> Option<PathBuf> {
    let home = std::env::var_os("HOME")
        .or_else(|| std::env::var_os("USERPROFILE"))
        .filter(|home| !home.is_empty())?;
    Some(below.iter().fold(PathBuf::from(home), |path, part| path.join(part)))
}
