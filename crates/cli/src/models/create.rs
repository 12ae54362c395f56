//! `ingle create`: a model of the store from a Modelfile.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_gguf::shard_name;
use ingle_runtime::Source;
use ingle_store::file_name::part;
use ingle_store::modelfile::{Instruction, MODELFILE_BYTES_MAX, Modelfile, Part, Recipe, Status, file_name};
use ingle_store::{ModelName, Reference, Store};
use serde_json::json;

use super::{Models, SHIPPED, import};
use crate::outcome;
use crate::progress::LoadProgress;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

/// What a Modelfile is called where nobody says otherwise.
const NAME_DEFAULT: &str = "Modelfile";

pub const CREATE: Usage = Usage {
    name: "create",
    about: "Make a model of the store from a Modelfile.",
    command: Commands::PULL,
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
        misuse!(
            "-q: models are not quantized here yet; name a file in FROM that is (llama.cpp's `llama-quantize` makes one), \
             and leave -q out"
        );
    }
    let [name] = &parsed.positional[..] else { misuse!("name the model: `ingle create NAME -f Modelfile`") };
    let name: ModelName = name.parse()?;
    let file = m.get_one::<String>("file").map_or(NAME_DEFAULT, String::as_str);
    let (text, folder) = match m.contains_id("file") {
        false if !Path::new(NAME_DEFAULT).exists() && has_model(Path::new(".")) => {
            say!("ingle create: there is no Modelfile here; the model of this folder is taken (FROM .)");
            (b"FROM .".to_vec(), PathBuf::from("."))
        }
        _ => read(file)?,
    };
    let shown = if file == "-" { "standard input" } else { file };
    let modelfile = Modelfile::parse(&text).with_context(|| shown.to_owned())?;
    let models = Models::open(&parsed.settings)?;
    let name = models.store.spelled(name)?;
    let mut told = Ok(());
    let mut tell = |status: &str| {
        let is_json = parsed.settings.json;
        let line = if is_json { json!({ "status": status }).to_string() } else { status.to_owned() };
        if told.is_ok() {
            told = outcome::tell(line);
        }
    };
    // What is put into the store stays there until the model has its name.
    let store = models.store.session();
    tell("gathering model components");
    let gathering = Gathering { folder: &folder, models: &models, settings: &parsed.settings, store: &store };
    let recipe = gathering.recipe(&modelfile, &mut tell)?;
    recipe.make(&store, &name, &mut |status| tell(&status.to_string()))?;
    for remark in import::remarks(&store, &name) {
        say!("ingle create: {remark}");
    }
    outcome::when_done(told)
}

/// Whether a folder has weights, of which a model can be made without a Modelfile.
fn has_model(folder: &Path) -> bool {
    let is_weights = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        ending.is_some_and(|ending| ending == "gguf" || ending == "safetensors") && path.is_file()
    };
    std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_weights))
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

/// What finds the things that a Modelfile names.
pub(super) struct Gathering<'a> {
    /// What the paths are relative to.
    pub folder: &'a Path,
    pub models: &'a Models,
    pub settings: &'a Settings,
    /// The session that keeps what is put into the store.
    pub store: &'a Store,
}

impl Gathering<'_> {
    /// Finds what FROM and ADAPTER name, and puts files into the store.
    fn recipe(&self, modelfile: &Modelfile, tell: &mut dyn FnMut(&str)) -> Result<Recipe> {
        let mut recipe = Recipe::of(modelfile)?;
        for instruction in &modelfile.instructions {
            let Instruction::From(text) = instruction else { continue };
            let path = expanded(text, self.folder);
            if path.exists() && !self.models.has(text) {
                recipe.files.extend(self.weights(&path, tell).with_context(|| format!("FROM {text}"))?);
            } else if recipe.base.is_some() || recipe.source.is_some() {
                bail!("FROM {text}: a model is made from one other; there is no such file");
            } else {
                self.base(text, &mut recipe).with_context(|| format!("FROM {text}"))?;
            }
        }
        // Adapters are checked against the model, wherever they stand in the file.
        for instruction in &modelfile.instructions {
            let Instruction::Adapter(text) = instruction else { continue };
            let path = expanded(text, self.folder);
            let part = match import::is_peft(&path) {
                true => {
                    tell(&Status::Converting("adapter").to_string());
                    let model = recipe.model_files(self.store)?;
                    import::adapter(&path, &model, self.store)
                }
                false => self.put(&path),
            };
            recipe.adapters.push(part.with_context(|| format!("ADAPTER {text}"))?);
        }
        Ok(recipe)
    }

    /// The files of a model: one, all parts of a split one, or those of a folder.
    pub fn weights(&self, path: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Part>> {
        if !path.is_dir() {
            return parts(path)?.iter().map(|file| self.put(file)).collect();
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
            tell(&Status::Converting("model").to_string());
            let mut note = |text: String| say!("ingle create: {text}");
            return Ok(vec![import::model(path, self.store, &mut note)?]);
        }
        if files.is_empty() {
            bail!("the folder {} has neither GGUF nor safetensors files", path.display());
        }
        files.iter().map(|file| self.put(file)).collect()
    }

    /// A file, as a blob.
    fn put(&self, path: &Path) -> Result<Part> {
        let name = file_name(path);
        let progress = LoadProgress::copying(&name, self.settings.json);
        let (digest, _) = self.store.put_file(path, &mut |done, total| progress.report(done, total))?;
        Ok(Part { name, digest })
    }

    /// The model inside this program.
    pub fn shipped(&self, recipe: &mut Recipe) -> Result<()> {
        let digest = self.store.put_bytes(Source::shipped_bytes())?;
        recipe.files.push(Part { name: format!("{SHIPPED}.gguf"), digest });
        Ok(())
    }

    /// What a model brings, which is fetched if it is not here: at once with `--yes`, else after asking.
    pub fn base(&self, text: &str, recipe: &mut Recipe) -> Result<()> {
        let reference = self.models.reference(text)?;
        if let Reference::Path(path) = &reference {
            bail!("there is no file {}", path.display());
        }
        if text == SHIPPED && !self.models.has(text) {
            return self.shipped(recipe);
        }
        let mut copying: Option<(PathBuf, LoadProgress)> = None;
        let mut copied = |path: &Path, done: u64, total: u64| {
            if copying.as_ref().is_none_or(|(of, _)| of != path) {
                let progress = LoadProgress::copying(&file_name(path), self.settings.json);
                copying = Some((path.to_owned(), progress));
            }
            if let Some((_, progress)) = &copying {
                progress.report(done, total);
            }
        };
        let is_here = recipe.upon(self.store, &reference, &mut copied)?
            || (crate::pull::pull_missing(self.models, self.settings, &reference)?
                && recipe.upon(self.store, &reference, &mut copied)?);
        if !is_here {
            let next = match self.settings.offline {
                true => "--offline fetches none".to_owned(),
                false => format!("`ingle pull {text}` (or --yes) fetches it"),
            };
            bail!("there is no file of that name, and no such model in the store; {next}");
        }
        Ok(())
    }
}

/// A file, or all parts of the split model whose first part it is.
fn parts(first: &Path) -> Result<Vec<PathBuf>> {
    let name = file_name(first);
    let Some(part) = part(&name).filter(|part| part.count > 1) else { return Ok(vec![first.to_owned()]) };
    if part.number != 1 {
        bail!("{name} is part {} of {} of a model; name the first one", part.number, part.count);
    }
    let others = (0..u64::from(part.count)).map(|i| {
        let path = first.with_file_name(shard_name(&name, i, part.count.into())?);
        match path.is_file() {
            true => Ok(path),
            false => bail!("{} is missing: {name} is one of {} parts", file_name(&path), part.count),
        }
    });
    others.collect()
}

/// A path of a Modelfile.
fn expanded(text: &str, folder: &Path) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        // Without the `.` in the middle of `././x`.
        _ => folder.join(text).components().collect(),
    }
}
