//! The model that is asked about, as far as its header.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use ingle_gguf::GgufFile;
use ingle_model::sizing::shapes::{SHAPES, Shape};
use ingle_model::sizing::{Mixture, Summary, huggingface};
use ingle_runtime::outlook::text_bytes;
use serde_json::Value;

use super::remote::{self, Choice, Named};
use crate::settings::Settings;

/// The mixture of a model that is named without one.
const MIXTURE_DEFAULT: Mixture = Mixture::Q4_K_M;
/// The longest configuration or index that is read.
pub(super) const JSON_BYTES_MAX: u64 = 64 << 20;
/// The most bytes that all files in safetensors of one model may describe their tensors with: the largest that are
/// published take some 20 MiB.
const DESCRIPTIONS_BYTES_MAX: u64 = 128 << 20;
/// Most files in safetensors of one model.
pub(super) const SHARDS_MAX: usize = 4096;

/// A model's header, and where it came from.
pub(super) struct Subject {
    /// What the user called it.
    pub name: String,
    /// What was assumed, where there is no file.
    pub assumption: Option<String>,
    /// What its header says.
    pub summary: Summary,
    /// The file, if there is one with weights in it.
    pub file: Option<Arc<GgufFile>>,
    /// Bytes of adapters that belong to it.
    pub adapters: u64,
    /// Bytes of a projector that belongs to it.
    pub projector: u64,
    /// Bytes that its tokenizer, its template and its metadata take; 0 where the header has none.
    pub text: u64,
    /// All models of its repository, where none of them was named.
    pub choices: Vec<Choice>,
}

/// Finds the model that the command line names, if it names one.
pub(super) fn find(m: &ArgMatches, name: Option<&str>, settings: &Settings) -> Result<Option<Subject>> {
    let quant = m.get_one::<String>("quant").map(|name| mixture(name)).transpose()?;
    match (name, m.get_one::<String>("params")) {
        (Some(_), Some(_)) => bail!("--params: a model is named besides; name one of them"),
        (Some(name), None) => of_path(name, quant, settings).map(Some),
        (None, Some(params)) => of_shape(params, quant.unwrap_or(MIXTURE_DEFAULT)).map(Some),
        (None, None) => Ok(None),
    }
}

fn mixture(name: &str) -> Result<Mixture> {
    Mixture::from_name(name).with_context(|| {
        let names: Vec<&str> = Mixture::ALL.iter().map(|mixture| mixture.name()).collect();
        format!("--quant: there is no mixture `{name}`; there are {}", names.join(", "))
    })
}

/// Opens a GGUF file.
pub(super) fn open(path: &str) -> Result<GgufFile> {
    GgufFile::open(Path::new(path)).with_context(|| format!("cannot use {path}"))
}

fn of_path(path: &str, quant: Option<Mixture>, settings: &Settings) -> Result<Subject> {
    let alone = |file, is_here| Named { file, is_here, adapters: 0, projector: 0, choices: Vec::new() };
    let is_stored = crate::models::is_stored(path, settings);
    let named = if !is_stored && Path::new(path).is_dir() {
        alone(folder(Path::new(path))?, false)
    } else if !is_stored && (Path::new(path).is_file() || path.starts_with(['/', '.'])) {
        alone(open(path)?, true)
    } else {
        remote::find(path, settings).with_context(|| format!("cannot size {path}"))?
    };
    let summary = Summary::from_gguf(&named.file).with_context(|| format!("cannot size {path}"))?;
    let subject = Subject {
        name: path.to_owned(),
        assumption: None,
        summary,
        text: text_bytes(&named.file),
        file: named.is_here.then(|| Arc::new(named.file)),
        adapters: named.adapters,
        projector: named.projector,
        choices: named.choices,
    };
    let Some(quant) = quant else { return Ok(subject) };
    let summary = subject.summary.in_mixture(quant);
    let summary = summary.with_context(|| format!("cannot size {path} in {}", quant.name()))?;
    let assumption = Some(format!("as if it were made to {}", quant.name()));
    Ok(Subject { assumption, summary, file: None, choices: Vec::new(), ..subject })
}

fn of_shape(params: &str, quant: Mixture) -> Result<Subject> {
    let (shape, assumption) = match (Shape::find(params), n_parameters(params)) {
        (Some(shape), _) => (shape, format!("the shape of {}", shape.name)),
        (None, Some(n)) => {
            let shape = Shape::nearest(n);
            let billions = shape.n_parameters() as f64 / 1e9;
            (
                shape,
                format!(
                    "the shape of {} ({billions:.2} billion), the published model nearest to {params}",
                    shape.name
                ),
            )
        }
        (None, None) => {
            let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
            bail!(
                "--params: `{params}` is no size such as 8b, and no shape that is known: {}",
                names.join(", ")
            );
        }
    };
    let summary = Summary::from_gguf(&shape.header(quant)?)?;
    let assumption = Some(format!("{assumption}, in {}", quant.name()));
    Ok(Subject {
        name: format!("{}:{}", shape.name, quant.name()),
        assumption,
        summary,
        file: None,
        adapters: 0,
        projector: 0,
        text: 0,
        choices: Vec::new(),
    })
}

/// `70b`, `0.5B`, `350m`
fn n_parameters(text: &str) -> Option<f64> {
    let text = text.to_ascii_lowercase();
    let (digits, unit) = match text.strip_suffix('b') {
        Some(digits) => (digits, 1e9),
        None => (text.strip_suffix('m')?, 1e6),
    };
    let n = digits.parse::<f64>().ok()? * unit;
    (1e6..1e14).contains(&n).then_some(n)
}

/// The header of a folder in Hugging Face's layout.
fn folder(path: &Path) -> Result<GgufFile> {
    let config = read_text(&path.join("config.json"))?;
    let index = path.join("model.safetensors.index.json");
    let index = index.is_file().then(|| read_text(&index)).transpose()?;
    let names = shards(index.as_deref())?;
    let (mut tensors, mut left) = (Vec::new(), Descriptions::default());
    for name in names {
        let described = described(&path.join(&name), &mut left);
        tensors.extend(described.with_context(|| format!("cannot size {name}"))?);
    }
    Ok(huggingface::header(&config, &tensors)?)
}

/// The files in safetensors that an index names, or the only one where there is no index.
pub(super) fn shards(index: Option<&str>) -> Result<BTreeSet<String>> {
    let Some(index) = index else { return Ok(["model.safetensors".to_owned()].into()) };
    let index: Value = serde_json::from_str(index).context("model.safetensors.index.json")?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.context("model.safetensors.index.json has no `weight_map`")?;
    let names: BTreeSet<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    if names.len() > SHARDS_MAX {
        bail!("the index names {} files, at most {SHARDS_MAX} are read", names.len());
    }
    // A name from a file leads nowhere else.
    let leads_away = |name: &&String| Path::new(name).file_name().is_none_or(|last| last != name.as_str());
    if let Some(name) = names.iter().find(leads_away) {
        bail!("the index names `{}`, which is no file of the folder", name.escape_debug());
    }
    Ok(names)
}

/// How many bytes of descriptions may still be read.
pub(super) struct Descriptions(u64);

impl Default for Descriptions {
    fn default() -> Self {
        Self(DESCRIPTIONS_BYTES_MAX)
    }
}

impl Descriptions {
    /// How long the description of a file is, of which these are the first bytes; counted as read.
    pub fn next(&mut self, first: [u8; 8], n_file: u64) -> Result<u64> {
        let n = huggingface::description_bytes(first, n_file)?;
        let left = self.0.checked_sub(n);
        self.0 = left.with_context(|| {
            format!("the descriptions of all files together are longer than {DESCRIPTIONS_BYTES_MAX} bytes")
        })?;
        Ok(n)
    }
}

/// The tensors that a file in safetensors describes.
fn described(path: &Path, left: &mut Descriptions) -> Result<Vec<huggingface::Tensor>> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let n_file = file.metadata()?.len();
    let mut first = [0; 8];
    file.read_exact(&mut first).with_context(|| format!("cannot read {}", path.display()))?;
    let n = left.next(first, n_file)?;
    let mut description = vec![0; usize::try_from(n).context("the description is too long for this system")?];
    file.read_exact(&mut description)?;
    Ok(huggingface::tensors(&description)?)
}

fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    crate::run::read_text(file, &path.display().to_string(), JSON_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_bounded_together() {
        let mut left = Descriptions::default();
        let half = DESCRIPTIONS_BYTES_MAX / 2;
        let first = half.to_le_bytes();
        for _ in 0..2 {
            assert_eq!(left.next(first, 2 * half).expect("there is room"), half);
        }
        let error = left.next(1_u64.to_le_bytes(), 9).expect_err("one more").to_string();
        assert!(error.contains("all files together"), "{error}");
    }

    #[test]
    fn sizes_in_parameters_are_read() {
        let cases =
            [("70b", Some(70e9)), ("0.5B", Some(0.5e9)), ("350m", Some(350e6)), ("70", None), ("b", None)];
        for (text, expected) in cases.into_iter().chain([("nanb", None), ("infb", None), ("-1b", None)]) {
            assert_eq!(n_parameters(text), expected, "{text}");
        }
    }
}
