//! The adapters of a model in memory: names, numbers, files, and who may load which.
//!
//! An adapter is loaded from a file that was named when the model was loaded, or from beneath a folder that was: whoever
//! may load adapters through the API reads no other file with it. Requests hold what they use; unloading an adapter takes
//! it from those that come later, at once.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_chat::{AdapterInfo, AdapterName, AdapterWish, LoadAdapter, ModelInfo, ProviderError};
use ingle_engine::adapters::{AdapterDirectory, AdapterSet};
use ingle_model::{AdapterError, AdapterFile, AdapterLease, AdapterSize, Adapters};
use ingle_step::{ADAPTERS_MAX, AdapterUse};
use sha2::{Digest, Sha256};

use crate::fingerprint::fingerprint;
use crate::models::human;

/// The most adapters of one model in memory.
pub const ADAPTERS_LOADED_MAX: usize = 256;
/// The longest name of one.
const NAME_BYTES_MAX: usize = 256;
/// How strongly adapters may be applied.
const SCALE_MAX: f32 = 1000.0;

/// An adapter to load with a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSource {
    /// What requests call it. Default: the file's name.
    pub name: Option<String>,
    /// A GGUF file, or a folder of PEFT's.
    pub path: PathBuf,
    /// How strongly it is added to requests that choose no adapters; 0 is not at all.
    pub scale: f32,
}

/// Memory for a model's adapters, where there is a budget.
pub(crate) trait AdapterMemory: Send + Sync {
    /// Takes so many bytes.
    ///
    /// # Errors
    /// If they are not free; how many are, of how many in all.
    fn take(&self, bytes: u64) -> Result<(), (u64, u64)>;
    /// The count of what was taken and is not given back.
    fn taken(&self) -> &Arc<AtomicU64>;
}

/// Bytes that were taken; dropping it gives them back.
struct Taken {
    count: Arc<AtomicU64>,
    bytes: u64,
}

impl Taken {
    /// Gives back all but so many.
    fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.count.fetch_sub(self.bytes - bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Relaxed);
    }
}

/// The adapters of one model.
pub(crate) struct AdapterTable {
    adapters: Adapters,
    model: ModelInfo,
    /// Beneath which files may be loaded.
    folder: Option<PathBuf>,
    /// Files that were named when the model was loaded, as the system knows them.
    files: Vec<PathBuf>,
    entries: Mutex<Entries>,
    memory: Option<Arc<dyn AdapterMemory>>,
    /// One at a time is loaded: it takes memory and the compute pool.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Entries {
    by_number: BTreeMap<u32, Entry>,
    next: u32,
}

#[derive(Clone)]
struct Entry {
    info: AdapterInfo,
    lease: AdapterLease,
    /// Behind the lease: what is given back is free.
    taken: Option<Arc<Taken>>,
}

impl AdapterTable {
    /// The table of a model, with the adapters that come with it.
    ///
    /// # Errors
    /// With the first that cannot be loaded, and why.
    pub fn new(
        adapters: Adapters,
        model: ModelInfo,
        folder: Option<PathBuf>,
        sources: &[AdapterSource],
        memory: Option<Arc<dyn AdapterMemory>>,
    ) -> Result<Self, (PathBuf, AdapterProblem)> {
        let known = |path: &Path| path.canonicalize().map_err(|source| unreadable(path, source));
        let mut table = Self {
            adapters,
            model,
            folder: None,
            files: Vec::new(),
            entries: Mutex::default(),
            memory,
            turn: Mutex::new(()),
        };
        if let Some(folder) = folder {
            table.folder = Some(known(&folder).map_err(|error| (folder, error))?);
        }
        for source in sources {
            let failed = |error| (source.path.clone(), error);
            let path = known(&source.path).map_err(failed)?;
            let name = source.name.clone().unwrap_or_else(|| default_name(&source.path));
            table.insert(&name, &path, source.scale, false).map_err(failed)?;
            table.files.push(path);
        }
        Ok(table)
    }

    /// Loads an adapter through the API.
    pub fn load(&self, wish: &LoadAdapter) -> Result<AdapterInfo, ProviderError> {
        self.check_model(wish.model.as_deref())?;
        let path = self.allowed(Path::new(&wish.path))?;
        self.insert(&wish.name, &path, 0.0, wish.replace).map_err(ProviderError::from)
    }

    /// Unloads an adapter.
    pub fn unload(&self, model: Option<&str>, name: &AdapterName) -> Result<AdapterInfo, ProviderError> {
        self.check_model(model)?;
        let mut entries = self.entries();
        let number =
            entries.find(name).map(|entry| entry.info.number).ok_or_else(|| entries.unknown(name))?;
        let Entry { info, lease, taken } = entries.by_number.remove(&number).expect("just found");
        // What it holds is given back when nobody looks.
        drop(entries);
        drop((lease, taken));
        Ok(info)
    }

    /// All adapters, by number.
    pub fn list(&self, model: Option<&str>) -> Result<Vec<AdapterInfo>, ProviderError> {
        self.check_model(model)?;
        Ok(self.entries().by_number.values().map(|entry| entry.info.clone()).collect())
    }

    /// Sets what applies to requests that choose nothing.
    pub fn set_scales(&self, model: Option<&str>, wishes: &[AdapterWish]) -> Result<(), ProviderError> {
        self.check_model(model)?;
        let mut entries = self.entries();
        let chosen = entries.choose(wishes)?;
        for (number, entry) in &mut entries.by_number {
            let scale = chosen.iter().find(|(info, _)| info.info.number == *number).map_or(0.0, |(_, s)| *s);
            entry.info.scale = scale;
        }
        Ok(())
    }

    /// What a request runs with; see [`ingle_chat::Provider::adapters_of`].
    pub fn of(
        &self,
        info: &ModelInfo,
        wished: Option<&[AdapterWish]>,
    ) -> Result<(Option<Vec<AdapterWish>>, String), ProviderError> {
        let by_name;
        let wished = match (&info.parent, wished) {
            (None, wished) => wished,
            (Some(_), Some(_)) => {
                let message = "the model's name chooses an adapter, and `lora` does too: use one of the two";
                return Err(invalid("lora", message.into()));
            }
            (Some(_), None) => {
                by_name = [AdapterWish { adapter: AdapterName::Name(info.id.clone()), scale: 1.0 }];
                Some(&by_name[..])
            }
        };
        let entries = self.entries();
        let chosen = entries.wanted(wished)?;
        let wishes = chosen
            .iter()
            .map(|(entry, scale)| AdapterWish {
                adapter: AdapterName::Number(entry.info.number),
                scale: *scale,
            })
            .collect();
        Ok((Some(wishes), fingerprint_with(&self.model.fingerprint, &key(&chosen))))
    }

    /// Each adapter as a model.
    pub fn models(&self) -> Vec<ModelInfo> {
        let model = |entry: &Entry| {
            let key = key(&[(entry.clone(), 1.0)]);
            ModelInfo {
                id: entry.info.name.clone(),
                created: entry.info.created,
                fingerprint: fingerprint_with(&self.model.fingerprint, &key),
                parent: Some(self.model.id.clone()),
                ..self.model.clone()
            }
        };
        self.entries().by_number.values().map(model).collect()
    }

    /// Bytes of all that are in memory, those included that only requests still hold.
    pub fn memory_bytes(&self) -> u64 {
        self.adapters.memory_bytes()
    }

    /// The file that a path of the API means, if it may be read.
    fn allowed(&self, path: &Path) -> Result<PathBuf, ProviderError> {
        let forbidden = || {
            let beneath = match &self.folder {
                Some(_) => {
                    "from beneath the folder of --lora-dir, and again those that were named at the start"
                }
                None => "again if they were named at the start; for others the operator sets --lora-dir",
            };
            let message = format!("adapters are loaded {beneath}");
            ProviderError::Forbidden { message }
        };
        let path = match &self.folder {
            Some(folder) if path.is_relative() => folder.join(path),
            _ => path.to_owned(),
        };
        // What lies outside is refused in the same words whether it is there or not.
        let Ok(found) = path.canonicalize() else {
            let inside = self.folder.as_ref().is_some_and(|folder| {
                path.starts_with(folder) && !path.components().any(|c| c == std::path::Component::ParentDir)
            });
            if !inside {
                return Err(forbidden());
            }
            return Err(invalid("lora_path", "there is no such file or folder beneath --lora-dir".into()));
        };
        let beneath =
            self.folder.as_ref().is_some_and(|folder| found.starts_with(folder) && found != *folder);
        if beneath || self.files.contains(&found) { Ok(found) } else { Err(forbidden()) }
    }

    fn insert(
        &self,
        name: &str,
        path: &Path,
        scale: f32,
        replace: bool,
    ) -> Result<AdapterInfo, AdapterProblem> {
        self.check_name(name)?;
        check_scale(scale).map_err(AdapterProblem::Wish)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = AdapterName::Name(name.to_owned());
        let check_room = |entries: &Entries| {
            let is_there = entries.find(&wanted).is_some();
            if is_there && !replace {
                return Err(AdapterProblem::Wish(format!(
                    "there is an adapter `{name}` already: unload it first, or choose another name"
                )));
            }
            if !is_there && entries.by_number.len() >= ADAPTERS_LOADED_MAX {
                return Err(AdapterProblem::Wish(format!(
                    "{ADAPTERS_LOADED_MAX} adapters are loaded, which is the most: unload one first"
                )));
            }
            Ok(())
        };
        check_room(&self.entries())?;
        let mut taken = self.take(name, path)?;
        let (mut info, lease) = self.read(name, path, scale)?;
        if let Some(taken) = &mut taken {
            if lease.memory_bytes() > taken.bytes {
                return Err(AdapterProblem::Wish(format!(
                    "the file of `{name}` was changed while it was read"
                )));
            }
            taken.shrink(lease.memory_bytes());
        }
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        info.number = number;
        let replaced = entries.find(&wanted).map(|entry| entry.info.number);
        let replaced = replaced.and_then(|number| entries.by_number.remove(&number));
        entries.by_number.insert(number, Entry { info: info.clone(), lease, taken: taken.map(Arc::new) });
        drop(entries);
        drop(replaced);
        Ok(info)
    }

    /// Reads an adapter and packs its weights; what it was read into is free again. Its number comes later.
    fn read(
        &self,
        name: &str,
        path: &Path,
        scale: f32,
    ) -> Result<(AdapterInfo, AdapterLease), AdapterProblem> {
        let file = self.adapters.read(path)?;
        let mut hash = Sha256::new();
        file.content(&mut |bytes| hash.update(bytes));
        let lease = self.adapters.load(&file)?;
        let info = AdapterInfo {
            number: 0,
            name: name.to_owned(),
            path: path.display().to_string(),
            scale,
            rank: file.rank(),
            n_matrices: file.n_matrices(),
            memory_bytes: lease.memory_bytes(),
            digest: hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            task_name: file.task_name,
            prompt_prefix: file.prompt_prefix,
        };
        Ok((info, lease))
    }

    /// Takes memory for an adapter, and for reading it, where there is a budget.
    fn take(&self, name: &str, path: &Path) -> Result<Option<Taken>, AdapterProblem> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let AdapterSize { held, reading } = AdapterFile::size(path)?;
        let bytes = held.saturating_add(reading);
        memory.take(bytes).map_err(|(free, budget)| AdapterProblem::NoRoom {
            name: name.to_owned(),
            bytes,
            free,
            budget,
        })?;
        Ok(Some(Taken { count: Arc::clone(memory.taken()), bytes }))
    }

    fn check_name(&self, name: &str) -> Result<(), AdapterProblem> {
        let problem = if name.is_empty() || name.len() > NAME_BYTES_MAX {
            format!("an adapter's name has 1 to {NAME_BYTES_MAX} bytes")
        } else if name.chars().any(char::is_control) {
            "an adapter's name has no control characters".to_owned()
        } else if name == self.model.id {
            format!("`{name}` is the model's own name: choose another for the adapter")
        } else {
            return Ok(());
        };
        Err(AdapterProblem::Wish(problem))
    }

    fn check_model(&self, model: Option<&str>) -> Result<(), ProviderError> {
        match model {
            Some(model) if model != self.model.id && self.named(model).is_none() => {
                Err(ProviderError::UnknownModel {
                    model: model.to_owned(),
                    available: vec![self.model.id.clone()],
                })
            }
            _ => Ok(()),
        }
    }

    /// No data under this lock can be left half-changed, so a panic elsewhere does not matter.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdapterDirectory for AdapterTable {
    /// By its name alone, or behind the model's: `base:adapter`.
    fn named(&self, model: &str) -> Option<u32> {
        let entries = self.entries();
        let by =
            |name: &str| entries.find(&AdapterName::Name(name.to_owned())).map(|entry| entry.info.number);
        by(model).or_else(|| by(model.strip_prefix(&self.model.id)?.strip_prefix(':')?))
    }

    fn set(&self, wished: Option<&[AdapterWish]>) -> Result<AdapterSet, ProviderError> {
        let chosen = self.entries().wanted(wished)?;
        if chosen.is_empty() {
            return Ok(AdapterSet::default());
        }
        let key = key(&chosen);
        let uses =
            chosen.iter().map(|(entry, scale)| AdapterUse { adapter: entry.lease.id(), scale: *scale });
        let uses = uses.collect();
        let leases: Vec<_> = chosen.into_iter().map(|(entry, _)| (entry.lease, entry.taken)).collect();
        Ok(AdapterSet { uses, key, lease: Some(Arc::new(leases) as Arc<dyn Any + Send + Sync>) })
    }
}

impl Entries {
    fn find(&self, name: &AdapterName) -> Option<&Entry> {
        match name {
            AdapterName::Number(number) => self.by_number.get(number),
            AdapterName::Name(name) => self.by_number.values().find(|entry| entry.info.name == *name),
        }
    }

    fn unknown(&self, name: &AdapterName) -> ProviderError {
        let model = match name {
            AdapterName::Name(name) => name.clone(),
            AdapterName::Number(number) => format!("adapter {number}"),
        };
        let available = self.by_number.values().map(|entry| entry.info.name.clone()).collect();
        ProviderError::UnknownModel { model, available }
    }

    /// What a wish means, or what applies without one.
    fn wanted(&self, wished: Option<&[AdapterWish]>) -> Result<Vec<(Entry, f32)>, ProviderError> {
        match wished {
            Some(wishes) => self.choose(wishes),
            None => {
                let all = self.by_number.values().map(|entry| (entry.clone(), entry.info.scale));
                in_order(all.collect())
            }
        }
    }

    fn choose(&self, wishes: &[AdapterWish]) -> Result<Vec<(Entry, f32)>, ProviderError> {
        let mut chosen: Vec<(Entry, f32)> = Vec::with_capacity(wishes.len());
        for AdapterWish { adapter, scale } in wishes {
            let entry = self.find(adapter).ok_or_else(|| match adapter {
                AdapterName::Name(_) => self.unknown(adapter),
                AdapterName::Number(number) => {
                    invalid("lora", format!("there is no adapter {number}: GET /lora-adapters lists them"))
                }
            })?;
            check_scale(*scale).map_err(|message| invalid("lora", message))?;
            if chosen.iter().any(|(other, _)| other.info.number == entry.info.number) {
                return Err(invalid("lora", format!("adapter `{}` is chosen twice", entry.info.name)));
            }
            chosen.push((entry.clone(), *scale));
        }
        in_order(chosen)
    }
}

/// Adapters that do something, in the order in which they are added: by what they are, so that it does not depend on
/// when they were loaded or who names them how.
fn in_order(mut chosen: Vec<(Entry, f32)>) -> Result<Vec<(Entry, f32)>, ProviderError> {
    chosen.retain(|(_, scale)| *scale != 0.0);
    if chosen.len() > ADAPTERS_MAX {
        let message =
            format!("{} adapters apply; at most {ADAPTERS_MAX} are added to one request", chosen.len());
        return Err(invalid("lora", message));
    }
    chosen.sort_by(|(a, x), (b, y)| a.info.digest.cmp(&b.info.digest).then(x.total_cmp(y)));
    Ok(chosen)
}

/// What adapters compute together, in one word.
fn key(chosen: &[(Entry, f32)]) -> String {
    chosen.iter().map(|(entry, scale)| format!("{}@{:08x};", entry.info.digest, scale.to_bits())).collect()
}

/// The fingerprint of answers that adapters of this key had a part in.
fn fingerprint_with(model: &str, key: &str) -> String {
    if key.is_empty() {
        return model.to_owned();
    }
    let digest: String = Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("{model}-lora_{}", fingerprint(&digest))
}

fn check_scale(scale: f32) -> Result<(), String> {
    match scale.abs() <= SCALE_MAX {
        true => Ok(()),
        false => Err(format!("an adapter's scale is {scale}; it can be -{SCALE_MAX} to {SCALE_MAX}")),
    }
}

fn default_name(path: &Path) -> String {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn invalid(param: &str, message: String) -> ProviderError {
    ProviderError::InvalidRequest { message, param: Some(param.to_owned()) }
}

fn unreadable(path: &Path, source: std::io::Error) -> AdapterProblem {
    AdapterProblem::File(AdapterError::Io { path: path.to_owned(), source })
}

/// Why an adapter is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum AdapterProblem {
    /// The wish for it cannot be meant.
    #[error("{0}")]
    Wish(String),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] AdapterError),
    /// The memory budget has no room for it.
    #[error(
        "adapter `{name}` needs {} while it is loaded, {} of the memory budget of {} are free: unload an adapter or a model, \
         or start the server with a larger --memory-budget",
        human(*bytes),
        human(*free),
        human(*budget)
    )]
    NoRoom {
        /// What it was to be called.
        name: String,
        /// What it needs.
        bytes: u64,
        /// What there is.
        free: u64,
        /// Of how many.
        budget: u64,
    },
}

impl From<AdapterProblem> for ProviderError {
    fn from(problem: AdapterProblem) -> Self {
        match problem {
            AdapterProblem::Wish(message) => invalid("lora_name", message),
            AdapterProblem::File(error @ AdapterError::Memory { .. }) => Self::Busy(error.to_string()),
            problem @ AdapterProblem::NoRoom { .. } => Self::Busy(problem.to_string()),
            AdapterProblem::File(error) => invalid("lora_path", error.to_string()),
        }
    }
}
