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
use serde_json::Value;

use super::remote;

/// The mixture of a model that is named without one.
const MIXTURE_DEFAULT: Mixture = Mixture::Q4_K_M;
/// The longest configuration or index that is read.
const JSON_BYTES_MAX: u64 = 64 << 20;
/// Most files in safetensors of one model.
const SHARDS_MAX: usize = 4096;

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
}

/// Finds the model that the command line names.
pub(super) fn find(m: &ArgMatches) -> Result<Subject> {
    let quant = m.get_one::<String>("quant").map(|name| mixture(name)).transpose()?;
    match (m.get_one::<String>("model"), m.get_one::<String>("params")) {
        (Some(path), _) => of_path(path, quant),
        (None, Some(params)) => of_shape(params, quant.unwrap_or(MIXTURE_DEFAULT)),
        (None, None) => {
            bail!("name a model: a file or a folder, or a size with --params, such as --params 8b")
        }
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

fn of_path(path: &str, quant: Option<Mixture>) -> Result<Subject> {
    let (is_folder, is_file) = (Path::new(path).is_dir(), Path::new(path).is_file());
    let (file, is_here, adapters, projector) = if is_folder {
        (folder(Path::new(path))?, false, 0, 0)
    } else if is_file || path.starts_with(['/', '.']) {
        (open(path)?, true, 0, 0)
    } else {
        let named = remote::find(path).with_context(|| format!("cannot size {path}"))?;
        (named.file, named.is_here, named.adapters, named.projector)
    };
    let summary = Summary::from_gguf(&file).with_context(|| format!("cannot size {path}"))?;
    let file = is_here.then(|| Arc::new(file));
    let subject = Subject { name: path.to_owned(), assumption: None, summary, file, adapters, projector };
    let Some(quant) = quant else { return Ok(subject) };
    let summary = subject.summary.in_mixture(quant);
    let summary = summary.with_context(|| format!("cannot size {path} in {}", quant.name()))?;
    let assumption = Some(format!("as if it were made to {}", quant.name()));
    Ok(Subject { assumption, summary, file: None, ..subject })
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
    let names: BTreeSet<String> = if index.is_file() {
        let index: Value =
            serde_json::from_str(&read_text(&index)?).context("model.safetensors.index.json")?;
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.context("model.safetensors.index.json has no `weight_map`")?;
        map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    } else {
        ["model.safetensors".to_owned()].into()
    };
    if names.len() > SHARDS_MAX {
        bail!("the index names {} files, at most {SHARDS_MAX} are read", names.len());
    }
    let mut tensors = Vec::new();
    for name in names {
        // A name from a file leads nowhere else.
        if Path::new(&name).file_name().is_none_or(|last| last != name.as_str()) {
            bail!("the index names `{}`, which is no file of the folder", name.escape_debug());
        }
        tensors.extend(described(&path.join(&name)).with_context(|| format!("cannot size {name}"))?);
    }
    Ok(huggingface::header(&config, &tensors)?)
}

/// The tensors that a file in safetensors describes.
fn described(path: &Path) -> Result<Vec<huggingface::Tensor>> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let n_file = file.metadata()?.len();
    let mut first = [0; 8];
    file.read_exact(&mut first).with_context(|| format!("cannot read {}", path.display()))?;
    let n = huggingface::description_bytes(first, n_file)?;
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
    fn sizes_in_parameters_are_read() {
        let cases =
            [("70b", Some(70e9)), ("0.5B", Some(0.5e9)), ("350m", Some(350e6)), ("70", None), ("b", None)];
        for (text, expected) in cases.into_iter().chain([("nanb", None), ("infb", None), ("-1b", None)]) {
            assert_eq!(n_parameters(text), expected, "{text}");
        }
    }
}
