//! Models by name: those of the store, and those that are elsewhere, of which only headers are fetched.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ingle_gguf::GgufFile;
use ingle_model::sizing::huggingface;
use ingle_runtime::{Source, outlook};
use ingle_store::pull::{PullOptions, Puller, RemoteFile, RemoteRepo};
use ingle_store::{HubPick, Installed, Reference};
use tokio::runtime::Runtime;

use super::subject::{Descriptions, JSON_BYTES_MAX, shards};
use crate::models::{Models, SHIPPED};
use crate::network::{Typed, puller};
use crate::settings::Settings;

/// Bytes that are asked of a file in safetensors at first: most descriptions are shorter.
const DESCRIPTION_GUESS: u64 = 256 << 10;

/// A model that was named, not given as a file.
pub(super) struct Named {
    /// Its header.
    pub file: GgufFile,
    /// Whether its weights are here.
    pub is_here: bool,
    /// Bytes of what belongs to it: adapters, a projector.
    pub adapters: u64,
    pub projector: u64,
    /// All models of its repository, where the name leads to one and says none of them.
    pub choices: Vec<Choice>,
}

/// One of the models of a repository.
pub(super) struct Choice {
    /// What its name says of its quantization.
    pub quant: String,
    /// What `ingle pull` takes.
    pub name: String,
    /// Bytes of its files.
    pub n_bytes: u64,
}

/// Finds a model by its name: in the store, or else where the name leads.
pub(super) fn find(name: &str, settings: &Settings) -> Result<Named> {
    let models = Models::open(settings)?;
    let reference = models.reference(name)?;
    if let Some(installed) = models.store.open_model(&reference)? {
        return here(name, &installed);
    }
    if name == SHIPPED {
        let file = Source::Shipped.open()?;
        return Ok(Named { file, is_here: true, adapters: 0, projector: 0, choices: Vec::new() });
    }
    let typed = Typed { reference: &reference, insecure: false };
    let puller = puller(settings, models.store, Some(typed))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = elsewhere(&runtime, &puller, &reference);
    // Not the drop, which would wait for a look-up of a name that nobody needs any more.
    runtime.shutdown_background();
    found
}

/// A model of the store.
fn here(name: &str, installed: &Installed) -> Result<Named> {
    let size = |path: &PathBuf| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    let first = installed.model.first().with_context(|| format!("{name} has no weights"))?;
    let file = match installed.model.as_slice() {
        [only] => GgufFile::open(only),
        parts => GgufFile::open_parts(parts),
    };
    Ok(Named {
        file: file.with_context(|| format!("cannot use {}", first.display()))?,
        is_here: true,
        adapters: installed.adapters.iter().map(size).sum(),
        projector: installed.projector.as_ref().map_or(0, size),
        choices: Vec::new(),
    })
}

fn elsewhere(runtime: &Runtime, puller: &Puller, reference: &Reference) -> Result<Named> {
    let is_open = matches!(reference, Reference::Hub { pick: HubPick::Default, .. });
    let mut choices = Vec::new();
    if is_open && let Some(repo) = runtime.block_on(puller.browse(reference))? {
        choices = repo.choices();
        if choices.is_empty() && repo.paths().any(|path| path == "config.json") {
            let file = runtime.block_on(safetensors(&repo))?;
            return Ok(Named { file, is_here: false, adapters: 0, projector: 0, choices: Vec::new() });
        }
    }
    let found = runtime.block_on(puller.look(reference, PullOptions::default()))?;
    let choices = choices.into_iter().filter_map(|choice| {
        let name = outlook::named(reference, &choice)?.to_string();
        Some(Choice { name, n_bytes: choice.n_bytes?, quant: choice.quant })
    });
    Ok(Named {
        file: runtime.block_on(outlook::header(found.model))?,
        is_here: false,
        adapters: found.adapters.iter().map(RemoteFile::n_bytes).sum(),
        projector: found.projector.map_or(0, |file| file.n_bytes()),
        choices: choices.collect(),
    })
}

/// The header of a repository with safetensors: its configuration, and what each file describes.
async fn safetensors(repo: &RemoteRepo) -> Result<GgufFile> {
    const INDEX: &str = "model.safetensors.index.json";
    let config = text(repo, "config.json").await?.context("config.json is not there")?;
    let names = shards(text(repo, INDEX).await?.as_deref())?;
    let (mut tensors, mut left) = (Vec::new(), Descriptions::default());
    for name in names {
        let what = || format!("cannot size {name}");
        let file = repo.file(&name).await.with_context(what)?;
        let file = file.with_context(|| format!("the repository has neither a GGUF file nor {name}"))?;
        tensors.extend(described(&file, &mut left).await.with_context(what)?);
    }
    Ok(huggingface::header(&config, &tensors)?)
}

/// The tensors that a file in safetensors describes.
async fn described(file: &RemoteFile, left: &mut Descriptions) -> Result<Vec<huggingface::Tensor>> {
    let mut start = file.range(0, file.n_bytes().min(DESCRIPTION_GUESS)).await?;
    let first: [u8; 8] = start.get(..8).context("it is shorter than 8 bytes")?.try_into()?;
    let end = left.next(first, file.n_bytes())? + 8;
    let have = start.len() as u64;
    if end > have {
        start.extend(file.range(have, end).await?);
    }
    let end = usize::try_from(end).context("the description is too long for this system")?;
    Ok(huggingface::tensors(&start[8..end])?)
}

/// A text of the repository, if it is there.
async fn text(repo: &RemoteRepo, path: &str) -> Result<Option<String>> {
    let Some(file) = repo.file(path).await? else { return Ok(None) };
    let n = file.n_bytes();
    if n > JSON_BYTES_MAX {
        bail!("{path} has {n} bytes, at most {JSON_BYTES_MAX} are read");
    }
    let bytes = file.range(0, n).await.with_context(|| format!("cannot read {path}"))?;
    Ok(Some(String::from_utf8(bytes).with_context(|| format!("{path} is no UTF-8"))?))
}
