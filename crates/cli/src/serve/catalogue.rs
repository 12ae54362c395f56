//! Which models a server has: flags, the configuration file's tables, a folder and the store, as one catalogue.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use ingle_chat::{KeepAlive, ModelDetails, ModelInfo};
use ingle_runtime::models::{BUDGET_PERCENT, ModelEvent, ModelFinder, available_memory};
use ingle_runtime::{LoadOptions, ModelSpec, ModelsConfig, Source};
use ingle_store::{Entry, Reference, State, StoreError};

use crate::commands::bytes;
use crate::models::{Chosen, Models, SHIPPED};
use crate::run::load_options;
use crate::settings::{Budget, ModelTable, Settings};

/// The most models of a folder.
const FOLDER_MODELS_MAX: usize = 1000;
/// The word that preloads nothing.
const NONE: &str = "none";

/// Whether there is more to look after than one model that stays.
pub fn is_managed(settings: &Settings, tables: &[ModelTable]) -> bool {
    serves_store(settings, tables) || has_several(settings, tables)
}

/// The store, where its models are served: where it is said, and where no model is.
pub fn store(settings: &Settings, tables: &[ModelTable]) -> Result<Option<Models>> {
    match (serves_store(settings, tables), Models::open(settings)) {
        (false, _) => Ok(None),
        (true, Ok(models)) => Ok(Some(models)),
        (true, Err(error)) if settings.serve_store || settings.store_dir.is_some() => Err(error),
        (true, Err(error)) => {
            say!("warning: no model of a store is served: {error:#}");
            Ok(None)
        }
    }
}

fn serves_store(settings: &Settings, tables: &[ModelTable]) -> bool {
    settings.serve_store || (settings.model.is_empty() && settings.models_dir.is_none() && tables.is_empty())
}

fn has_several(settings: &Settings, tables: &[ModelTable]) -> bool {
    let named = |path: &PathBuf| split_name(path).0.is_some();
    settings.model.len() > 1
        || settings.model.iter().any(named)
        || settings.models_dir.is_some()
        || !tables.is_empty()
        || settings.memory_budget.is_some()
        || settings.keep_alive.is_some_and(|keep| keep.0 != KeepAlive::Always)
        || settings.on_missing.is_some()
        || settings.model_wait_s.is_some()
        || settings.max_model_queue.is_some()
        || !settings.preload.is_empty()
        || !settings.pin.is_empty()
}

/// `NAME=FILE`, unless there is a file of the whole name.
fn split_name(argument: &Path) -> (Option<String>, PathBuf) {
    let whole = || (None, argument.to_owned());
    if argument.exists() {
        return whole();
    }
    match argument.to_str().and_then(|text| text.split_once('=')) {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => (Some(name.to_owned()), path.into()),
        _ => whole(),
    }
}

/// The catalogue and what holds for all of it.
pub fn catalogue(
    settings: &Settings,
    tables: &[ModelTable],
    store: Option<Models>,
    is_shared: bool,
) -> Result<(Vec<ModelSpec>, ModelsConfig)> {
    let mut specs = Vec::new();
    for argument in &settings.model {
        let (name, file) = split_name(argument);
        specs.push(of_file(name, file, settings)?);
    }
    for table in tables {
        let mut spec = of_file(table.name.clone(), table.file.clone(), &table.settings)?;
        spec.keep_alive = table.settings.keep_alive.map(|keep| keep.0);
        spec.options.weight = table.weight;
        spec.is_pinned = table.is_pinned.unwrap_or(false);
        spec.is_preloaded = table.is_preloaded.unwrap_or(false);
        specs.push(spec);
    }
    if let Some(dir) = &settings.models_dir {
        let known: BTreeSet<PathBuf> = specs.iter().filter_map(|spec| canonical(&spec.source)).collect();
        for (name, file) in folder(dir)? {
            let mut spec = of_file(Some(name), file, settings)?;
            if canonical(&spec.source).is_none_or(|path| !known.contains(&path)) {
                spec.is_optional = true;
                specs.push(spec);
            }
        }
        if specs.is_empty() {
            bail!("--models-dir: {} has no GGUF file", dir.display());
        }
    }
    if specs.is_empty() {
        specs.push(ModelSpec {
            source: Source::Shipped,
            options: options(settings)?,
            ..ModelSpec::default()
        });
        specs[0].name = SHIPPED.into();
    }
    if let Some(name) = settings.served_names.first() {
        specs[0].name.clone_from(name);
    }
    let said = tables.iter().any(|table| table.is_preloaded.is_some());
    if settings.preload.is_empty() && !said && !specs[0].is_optional {
        specs[0].is_preloaded = true;
    }
    if settings.preload != [NONE] {
        mark(&mut specs, &settings.preload, "--preload", |spec| spec.is_preloaded = true)?;
    }
    mark(&mut specs, &settings.pin, "--pin", |spec| spec.is_pinned = true)?;
    let options = LoadOptions { is_shared, ..options(settings)? };
    let finder = store.map(|models| Arc::new(StoreFinder { models, options }) as Arc<dyn ModelFinder>);
    Ok((specs, ModelsConfig { finder, ..config(settings)? }))
}

fn options(settings: &Settings) -> Result<LoadOptions> {
    // The threads are everybody's.
    Ok(LoadOptions { n_threads: None, name: None, ..load_options(settings)? })
}

fn of_file(name: Option<String>, file: PathBuf, settings: &Settings) -> Result<ModelSpec> {
    let chosen = crate::models::of_argument(&file, settings, true)?;
    let stem = || file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let of_store = || Some(chosen.installed.as_ref()?.name.as_ref()?.to_string());
    let name = name.or_else(of_store).unwrap_or_else(stem);
    let options = chosen.options(options(settings)?);
    Ok(ModelSpec { name, source: chosen.source, options, ..ModelSpec::default() })
}

/// Finds models of the store, for requests that name them.
struct StoreFinder {
    models: Models,
    options: LoadOptions,
}

impl StoreFinder {
    fn spec(&self, name: &str) -> Result<Option<ModelSpec>> {
        // A request never names a file of this machine.
        let name = match self.models.reference(name)? {
            Reference::Path(_) => return Ok(None),
            reference => reference.name(),
        };
        let Some(name) = name else { return Ok(None) };
        let Some(entry) = self.models.store.find(&name)? else { return Ok(None) };
        let Some(installed) = self.models.store.open_model(&Reference::Registry(name))? else {
            return Ok(None);
        };
        let chosen = Chosen {
            shown: entry.name.to_string(),
            source: Source::of_files(installed.model.clone()),
            installed: Some(installed),
        };
        Ok(Some(ModelSpec {
            name: entry.name.to_string(),
            options: chosen.options(self.options.clone()),
            source: chosen.source,
            is_optional: true,
            version: Some(entry.digest.map_or_else(String::new, |digest| digest.to_string())),
            ..ModelSpec::default()
        }))
    }
}

impl ModelFinder for StoreFinder {
    fn find(&self, name: &str) -> Result<Option<ModelSpec>, String> {
        self.spec(name).or_else(|error| {
            let of_store = error.downcast_ref::<StoreError>();
            // What is no name is no model's.
            if let Some(StoreError::Name(_)) = of_store {
                return Ok(None);
            }
            tracing::warn!(model = ingle_api::shown(name), error = format!("{error:#}"), "the store");
            Err(of_store.and_then(StoreError::without_paths).unwrap_or_else(|| {
                "the store of models cannot be read now; the server's log says why".to_owned()
            }))
        })
    }

    fn list(&self) -> Vec<ModelInfo> {
        let entries = self.models.store.list().unwrap_or_default();
        let ready = entries.into_iter().filter(|entry| entry.state == State::Ready);
        let info = |entry: Entry| {
            let config = self.models.store.describe(&entry.name).ok().flatten().unwrap_or_default();
            let created =
                entry.modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            ModelInfo {
                id: entry.name.to_string(),
                created: created.as_secs(),
                size_bytes: entry.size.unwrap_or_default(),
                details: ModelDetails {
                    architecture: config.model_family,
                    quantization: config.file_type,
                    digest: entry.digest.map_or_else(String::new, |digest| digest.hex()),
                    ..ModelDetails::default()
                },
                ..ModelInfo::default()
            }
        };
        ready.map(info).collect()
    }
}

fn canonical(source: &Source) -> Option<PathBuf> {
    source.files().first()?.canonicalize().ok()
}

/// The models of a folder by name: its GGUF files, and folders in it that have one. Of split models the first file
/// counts; parts that see or hear are no models.
fn folder(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(dir)? {
        if path.is_dir() {
            let inside = entries(&path)?.into_iter().find(|file| is_model(file));
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.extend(inside.map(|file| (name, file)));
        } else if is_model(&path) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.push((stem, path));
        }
        if found.len() > FOLDER_MODELS_MAX {
            bail!("--models-dir: {} has more than {FOLDER_MODELS_MAX} models", dir.display());
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().with_context(|| format!("--models-dir: cannot read {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let Some(stem) = name.strip_suffix(".gguf") else { return false };
    // `NAME-00002-of-00003.gguf`
    let part = stem.rsplit_once("-of-").and_then(|(rest, _)| rest.rsplit_once('-')).map(|(_, part)| part);
    let is_later_part = part.and_then(|part| part.parse::<u32>().ok()).is_some_and(|part| part > 1);
    path.is_file() && !is_later_part && !name.starts_with("mmproj")
}

fn mark(specs: &mut [ModelSpec], names: &[String], flag: &str, set: impl Fn(&mut ModelSpec)) -> Result<()> {
    for name in names {
        let Some(spec) = specs.iter_mut().find(|spec| spec.name == *name) else {
            let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            bail!("{flag}: there is no model `{name}`; there are: {}", known.join(", "));
        };
        set(spec);
    }
    Ok(())
}

/// Bytes of memory that models may have together.
pub fn budget(settings: &Settings) -> Result<u64> {
    let share = |percent: u8| {
        available_memory().map(|bytes| bytes / 100 * u64::from(percent)).context(
            "--memory-budget: the system does not say how much memory is free; give the budget in bytes",
        )
    };
    match settings.memory_budget {
        Some(Budget::Bytes(bytes)) => Ok(bytes),
        Some(Budget::Percent(percent)) => share(percent),
        None => share(BUDGET_PERCENT),
    }
}

fn config(settings: &Settings) -> Result<ModelsConfig> {
    let default = ModelsConfig::new(budget(settings)?);
    let seconds = |s: Option<u32>, default| s.map_or(default, |s| Duration::from_secs(s.into()));
    Ok(ModelsConfig {
        keep_alive: settings.keep_alive.map_or(default.keep_alive, |keep| keep.0),
        on_missing: settings.on_missing.unwrap_or_default(),
        wait_max: seconds(settings.model_wait_s, default.wait_max),
        waiting_max: settings.max_model_queue.map_or(default.waiting_max, |n| n as usize),
        n_threads: settings.threads.0.map(|n| n as usize),
        listener: Some(Arc::new(tell)),
        ..default
    })
}

/// What happens to models, for whoever looks at the terminal or the log.
fn tell(model: &str, event: &ModelEvent) {
    match event {
        ModelEvent::Loading { bytes: n } => say!("{model}: loading into {}", bytes(*n)),
        ModelEvent::Loaded { took, fingerprint } => {
            say!("{model} is ready after {:.1} s, fingerprint {fingerprint}", took.as_secs_f64());
        }
        ModelEvent::Unloading(why) => say!("{model}: unloading, as {why}"),
        ModelEvent::Unloaded => say!("{model}: unloaded"),
        ModelEvent::Noticed(text) => say!("note: {model}: {text}"),
        ModelEvent::Failed(why) => say!("warning: {model} is not loaded: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_model_of_a_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            std::fs::write(path, "x").expect("writable");
        };
        for name in [
            "b.gguf",
            "a.GGUF",
            "notes.txt",
            "mmproj-b.gguf",
            "big-00001-of-00002.gguf",
            "big-00002-of-00002.gguf",
            "nested/mmproj-x.gguf",
            "nested/x.gguf",
            "empty/readme.md",
        ] {
            put(name);
        }
        let names: Vec<String> = folder(dir.path()).expect("readable").into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["a", "b", "big-00001-of-00002", "nested"]);
        assert!(folder(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn names_before_files() {
        let check = |argument: &str, name: Option<&str>, file: &str| {
            assert_eq!(split_name(Path::new(argument)), (name.map(str::to_owned), file.into()), "{argument}");
        };
        check("a.gguf", None, "a.gguf");
        check("small=a.gguf", Some("small"), "a.gguf");
        check("small=/x/y=z.gguf", Some("small"), "/x/y=z.gguf");
        check("/x/y=z.gguf", None, "/x/y=z.gguf");
        check("=a.gguf", None, "=a.gguf");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let there = dir.path().join("n=m.gguf");
        std::fs::write(&there, "x").expect("writable");
        check(there.to_str().expect("UTF-8"), None, there.to_str().expect("UTF-8"));
    }

    #[test]
    fn the_catalogue() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in ["one.gguf", "two.gguf"] {
            std::fs::write(dir.path().join(name), "x").expect("writable");
        }
        let one = dir.path().join("one.gguf");
        let settings = Settings {
            model: vec![format!("first={}", one.display()).into()],
            models_dir: Some(dir.path().into()),
            memory_budget: Some(Budget::Bytes(1000)),
            pin: vec!["two".into()],
            ..Settings::default()
        };
        let lone = Settings { model: vec![one.clone()], ..Settings::default() };
        assert!(is_managed(&settings, &[]) && !is_managed(&lone, &[]));
        assert!(is_managed(&Settings::default(), &[]), "models of the store come and go");
        let (specs, config) = catalogue(&settings, &[], None, false).expect("valid");
        let told: Vec<_> =
            specs.iter().map(|s| (s.name.as_str(), s.is_preloaded, s.is_pinned, s.is_optional)).collect();
        // The folder's own entry for the first file would be the same model twice.
        assert_eq!(told, [("first", true, false, false), ("two", false, true, true)]);
        assert_eq!(config.memory_budget, 1000);
        let wrong = Settings { preload: vec!["three".into()], ..settings.clone() };
        let error = catalogue(&wrong, &[], None, false).err().expect("no such model").to_string();
        assert!(error.contains("`three`") && error.contains("first, two"), "{error}");
        let none = Settings { preload: vec![NONE.into()], ..settings };
        assert!(catalogue(&none, &[], None, false).expect("valid").0.iter().all(|spec| !spec.is_preloaded));
    }
}
