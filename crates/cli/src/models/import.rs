//! Models and adapters in other formats, as GGUF files in the store: for `ingle create` and for the server's route.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use ingle_convert::WeightType;
use ingle_gguf::GgufWriter;
use ingle_model::AdapterFile;
use ingle_runtime::{LoadOptions, Source, examine};
use ingle_server::{ImportError, Importer};
use ingle_store::modelfile::{Part, file_name};
use ingle_store::{ModelName, Reference, Store, StoreError};

/// A folder with safetensors, as a GGUF file in the store.
pub fn model(folder: &Path, store: &Store, note: &mut dyn FnMut(String)) -> Result<Part> {
    let converted = ingle_convert::convert(folder, WeightType::F16)
        .with_context(|| format!("cannot convert {}", folder.display()))?;
    converted.notes.iter().for_each(|text| note(text.clone()));
    put(&converted.file, folder, store)
}

/// An adapter as PEFT saves it (its folder, or the safetensors file in one), as a GGUF file in the store, for the model
/// in these files.
pub fn adapter(path: &Path, files: &[PathBuf], store: &Store) -> Result<Part> {
    let header = Source::of_files(files.to_vec()).open().context("cannot read the model of FROM")?;
    let file = AdapterFile::to_gguf(path, &header)?;
    put(&file, if path.is_dir() { path } else { path.parent().unwrap_or(path) }, store)
}

/// What whoever has made a model should know of it: what is otherwise than its Modelfile asks, or that it cannot run
/// here. No path of this machine is in it.
pub fn remarks(store: &Store, name: &ModelName) -> Vec<String> {
    let cannot_run = |why: String| vec![format!("warning: `{name}` is made, and cannot run here: {why}")];
    let installed = match store.open_model(&Reference::Registry(name.clone())) {
        Ok(Some(installed)) => installed,
        Ok(None) => return Vec::new(),
        Err(error) => return cannot_run(error.without_paths().unwrap_or_else(|| "it cannot be read".into())),
    };
    let source = Source::of_files(installed.model.clone());
    match examine(&source, &LoadOptions::default().with_installed(&installed)) {
        Ok(notices) => notices.iter().map(|notice| format!("note: {notice}")).collect(),
        Err(error) => {
            let files = source.files().iter().chain(&installed.adapters);
            let text = error.to_string();
            cannot_run(files.fold(text, |text, path| text.replace(&*path.to_string_lossy(), "its file")))
        }
    }
}

/// Whether a path is an adapter as PEFT saves it.
pub fn is_peft(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
}

fn name_of(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    file_name(&full)
}

/// A file that is in memory, as a blob: it is written once, where it stays. It is called after its folder.
fn put(file: &GgufWriter, folder: &Path, store: &Store) -> Result<Part> {
    let mut size = Counted(0);
    file.write(&mut size)?;
    let digest = store.put_written(size.0, |mut out| file.write(&mut out))?;
    Ok(Part { name: format!("{}.gguf", name_of(folder)), digest })
}

/// Takes bytes and only counts them.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the server converts with. One at a time: a model may take as much memory as it has bytes.
#[derive(Debug, Default)]
pub struct OfClients(Mutex<()>);

/// What the folder is called that clients' files are brought together in.
const FOLDER: &str = "model";

impl Importer for OfClients {
    fn model(
        &self,
        files: &[(String, PathBuf)],
        store: &Store,
        note: &mut dyn FnMut(String),
    ) -> Result<Part, ImportError> {
        self.with(files, |folder| model(folder, store, note))
    }

    fn adapter(
        &self,
        files: &[(String, PathBuf)],
        base: &[PathBuf],
        store: &Store,
    ) -> Result<Part, ImportError> {
        self.with(files, |folder| adapter(folder, base, store))
    }

    fn remarks(&self, store: &Store, name: &ModelName) -> Vec<String> {
        remarks(store, name)
    }
}

impl OfClients {
    fn with(
        &self,
        files: &[(String, PathBuf)],
        convert: impl FnOnce(&Path) -> Result<Part>,
    ) -> Result<Part, ImportError> {
        let _one = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let temporary = tempfile::tempdir().map_err(|source| {
            ImportError::Store(StoreError::Io {
                what: "make a folder in",
                path: std::env::temp_dir(),
                source,
            })
        })?;
        let folder = temporary.path().join(FOLDER);
        let made = assemble(&folder, files).and_then(|()| convert(&folder));
        made.map_err(|error| match error.downcast::<StoreError>() {
            Ok(error) => ImportError::Store(error),
            // Clients know their own names of files, and no place of this machine.
            Err(error) => {
                let place = format!("{}/", folder.display());
                let text =
                    format!("{error:#}").replace(&place, "").replace(&*folder.to_string_lossy(), FOLDER);
                ImportError::Files(text)
            }
        })
    }
}

/// Brings blobs together in a folder, under the names that they had in the client's.
fn assemble(folder: &Path, files: &[(String, PathBuf)]) -> Result<()> {
    std::fs::create_dir_all(folder).context("no folder for the files")?;
    for (name, blob) in files {
        let path = folder.join(name);
        if !path.starts_with(folder)
            || Path::new(name).components().any(|c| !matches!(c, std::path::Component::Normal(_)))
        {
            bail!("{name} is no relative path of a file");
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("{name} lies in a file"))?;
        }
        #[cfg(unix)]
        let made = std::os::unix::fs::symlink(std::path::absolute(blob)?, &path);
        #[cfg(not(unix))]
        let made = std::fs::hard_link(blob, &path).or_else(|_| std::fs::copy(blob, &path).map(drop));
        made.with_context(|| format!("{name} is there twice"))?;
    }
    Ok(())
}
