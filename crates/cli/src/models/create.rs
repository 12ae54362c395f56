//! `ingle create`: a model of the store from a Modelfile.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_convert::WeightType;
use ingle_store::modelfile::{Instruction, MODELFILE_BYTES_MAX, Modelfile, Part, Recipe};
use ingle_store::{Catalogue, Installed, ModelName, Reference, Store, Template};
use serde_json::json;

use super::Models;
use crate::progress::LoadProgress;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Usage, parse};

/// What a Modelfile is called where nobody says otherwise.
const NAME_DEFAULT: &str = "Modelfile";

pub const CREATE: Usage = Usage {
    name: "create",
    about: "Make a model of the store from a Modelfile.",
    command: Commands::STORE,
    positional: &[("NAME", "What the model will be called")],
};

/// What `ingle create` has besides its settings.
pub fn create_options() -> [Arg; 2] {
    let option = |name: &'static str, short, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).short(short).value_name(value).help(help)
    };
    [
        option("file", 'f', "FILE", "The Modelfile; `-` is standard input [default: Modelfile]"),
        option("quantize", 'q', "TYPE", "Refused: models are not quantized here yet"),
    ]
}

/// `ingle create`
pub fn create(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(CREATE, &create_options(), args, &Facts::default())?;
    if m.contains_id("quantize") {
        bail!(
            "-q: models are not quantized here yet; name a file in FROM that is (llama.cpp's `llama-quantize` makes one), \
             and leave -q out"
        );
    }
    let [name] = &parsed.positional[..] else { bail!("name the model: `ingle create NAME -f Modelfile`") };
    let name: ModelName = name.parse()?;
    let file = m.get_one::<String>("file").map_or(NAME_DEFAULT, String::as_str);
    let (text, folder) = read(file)?;
    let shown = if file == "-" { "standard input" } else { file };
    let modelfile = Modelfile::parse(&text).with_context(|| shown.to_owned())?;
    let Models { store, catalogue, .. } = Models::open(&parsed.settings)?;
    let mut out = std::io::stdout().lock();
    let mut told = Ok(());
    let mut tell = |status: &str| {
        let is_json = parsed.settings.json;
        let line = if is_json { json!({ "status": status }).to_string() } else { status.to_owned() };
        if told.is_ok() {
            told = writeln!(out, "{line}");
        }
    };
    // What is put into the store stays there until the model has its name.
    let store = store.session();
    tell("gathering model components");
    let recipe = gather(&modelfile, &folder, &store, &catalogue)?;
    recipe.make(&store, &name, &mut |status| tell(&status.to_string()))?;
    Ok(told?)
}

/// The Modelfile and the folder that its paths are relative to.
fn read(file: &str) -> Result<(Vec<u8>, PathBuf)> {
    let mut text = Vec::new();
    let most = MODELFILE_BYTES_MAX as u64 + 1;
    if file == "-" {
        std::io::stdin().take(most).read_to_end(&mut text).context("cannot read standard input")?;
        return Ok((text, PathBuf::from(".")));
    }
    let path = Path::new(file);
    let opened = std::fs::File::open(path);
    let opened = opened.with_context(|| format!("cannot read {file}; -f names the Modelfile"))?;
    opened.take(most).read_to_end(&mut text).with_context(|| format!("cannot read {file}"))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((text, folder.to_owned()))
}

/// Finds what FROM and ADAPTER name, and puts files into the store.
fn gather(modelfile: &Modelfile, folder: &Path, store: &Store, catalogue: &Catalogue) -> Result<Recipe> {
    let mut recipe = Recipe::of(modelfile)?;
    for instruction in &modelfile.instructions {
        match instruction {
            Instruction::From(text) => {
                let path = expanded(text, folder);
                if path.exists() {
                    recipe.files.extend(weights(&path, store).with_context(|| format!("FROM {text}"))?);
                } else if recipe.base.is_some() || recipe.source.is_some() {
                    bail!("FROM {text}: a model is made from one other; there is no such file");
                } else {
                    base(text, store, catalogue, &mut recipe).with_context(|| format!("FROM {text}"))?;
                }
            }
            Instruction::Adapter(text) => {
                let path = expanded(text, folder);
                let is_peft = path.is_dir() || path.extension().is_some_and(|e| e == "safetensors");
                if is_peft {
                    bail!(
                        "ADAPTER {text}: an adapter of a model in the store is a GGUF file (llama.cpp's \
                         `convert_lora_to_gguf.py` makes one); adapters as `peft` writes them are taken by `ingle serve --lora`"
                    );
                }
                recipe.adapters.push(put(&path, store).with_context(|| format!("ADAPTER {text}"))?);
            }
            _ => {}
        }
    }
    Ok(recipe)
}

/// A path of a Modelfile.
fn expanded(text: &str, folder: &Path) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => folder.join(text),
    }
}

/// The files of a model: one, or those of a folder.
fn weights(path: &Path, store: &Store) -> Result<Vec<Part>> {
    if !path.is_dir() {
        return Ok(vec![put(path, store)?]);
    }
    let mut files = Vec::new();
    let mut has_tensors = false;
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let file = entry?.path();
        let is = |what: &str| file.extension().is_some_and(|e| e.eq_ignore_ascii_case(what));
        has_tensors |= is("safetensors");
        if is("gguf") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() && has_tensors {
        return Ok(vec![converted(path, store)?]);
    }
    if files.is_empty() {
        bail!("the folder {} has neither GGUF nor safetensors files", path.display());
    }
    files.iter().map(|file| put(file, store)).collect()
}

/// A folder with safetensors, as a GGUF file in the store.
fn converted(folder: &Path, store: &Store) -> Result<Part> {
    let converted = ingle_convert::convert(folder, WeightType::F16)
        .with_context(|| format!("cannot convert {}", folder.display()))?;
    for note in &converted.notes {
        say!("ingle create: {note}");
    }
    let temporary = tempfile::tempdir().context("no folder for the converted file")?;
    let stem = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    let file = temporary.path().join(format!("{stem}.gguf"));
    converted.write(&file)?;
    put(&file, store)
}

/// A file, as a blob.
fn put(path: &Path, store: &Store) -> Result<Part> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let progress = LoadProgress::new(&name);
    let (digest, _) = store.put_file(path, &mut |done, total| progress.report(done, total))?;
    Ok(Part { name, digest })
}

/// What a model of the store brings.
fn base(text: &str, store: &Store, catalogue: &Catalogue, recipe: &mut Recipe) -> Result<()> {
    let reference = store.resolve(text, catalogue)?;
    if let Reference::Path(path) = &reference {
        bail!("there is no file {}", path.display());
    }
    recipe.source = Some(reference.to_string());
    let manifest = match reference.name() {
        Some(name) => store.manifest(&name)?,
        None => None,
    };
    if let Some(manifest) = manifest {
        let mut is_here = true;
        for layer in manifest.blobs() {
            is_here &= store.pin(&layer.digest, Some(layer.size))?.is_some();
        }
        if is_here {
            recipe.base = Some(manifest);
            return Ok(());
        }
    }
    let Some(model) = store.open_model(&reference)? else {
        bail!("there is no file of that name, and no such model in the store; `ingle pull {text}` gets it");
    };
    of_elsewhere(model, store, recipe)
}

/// The parts of a model that stands in another program's store.
fn of_elsewhere(model: Installed, store: &Store, recipe: &mut Recipe) -> Result<()> {
    for path in model.model.iter().chain(&model.projector) {
        recipe.files.push(put(path, store)?);
    }
    for path in &model.adapters {
        recipe.adapters.push(put(path, store)?);
    }
    if let (None, Some(Template::Go(text) | Template::Jinja(text))) = (&recipe.template, model.template) {
        recipe.template = Some(text);
    }
    recipe.system = recipe.system.take().or(model.system);
    recipe.licenses.splice(0..0, model.licenses);
    for (name, value) in model.params.0 {
        recipe.params.entry(name).or_insert(value);
    }
    if recipe.messages.is_empty() {
        recipe.messages = model.messages;
    }
    Ok(())
}
