//! Adapters in GGUF: pairs `NAME.lora_a [n_in, rank]` and `NAME.lora_b [rank, n_out]` beside `adapter.lora.alpha`.
//!
//! Of the embedding table the pair is `[rank, n_vocab]` and `[rank, n_embd]`: a token's row of the first is its input.

use std::path::Path;

use ingle_gguf::{GgufFile, GgufWriter, TensorInfo, Value};
use ingle_kernels::dequantize;

use super::{AdapterError, AdapterFile, AdapterSize, Base, LowRank, Target, rank};

const A: &str = ".lora_a";
const B: &str = ".lora_b";

pub(super) fn open(path: &Path, base: &Base) -> Result<AdapterFile, AdapterError> {
    read(&GgufFile::open(path)?, path, base)
}

/// What the header says of memory.
pub(super) fn size(path: &Path) -> Result<AdapterSize, AdapterError> {
    let file = GgufFile::open(path)?;
    let mut size = AdapterSize::default();
    for info in file.tensors() {
        let shape = match info.dims[..] {
            [n_cols, n_rows] => [Some(n_rows), Some(n_cols)],
            _ => [None; 2],
        };
        size.add(shape, info.n_elements());
    }
    Ok(size)
}

fn read(file: &GgufFile, path: &Path, base: &Base) -> Result<AdapterFile, AdapterError> {
    let md = file.metadata();
    match md.opt_str("general.type")? {
        Some("adapter") => {}
        other => {
            let what = format!(
                "`general.type` is {}; give a GGUF file whose type is `adapter`",
                other.map_or("missing".to_owned(), |t| format!("`{t}`"))
            );
            return Err(AdapterError::NoAdapter { path: path.to_owned(), what });
        }
    }
    let kind = md.str("adapter.type")?;
    if kind != "lora" {
        let what = format!("adapter.type {kind}");
        return Err(AdapterError::Unsupported { what, advice: "only `lora` is".into() });
    }
    let arch = md.str("general.architecture")?;
    if arch != base.arch {
        return Err(AdapterError::Architecture { adapter: arch.to_owned(), model: base.arch.to_owned() });
    }
    if let Some((key, _)) = md.iter().find(|(key, _)| key.starts_with("adapter.alora.")) {
        return Err(AdapterError::Unsupported {
            what: key.to_owned(),
            advice: "adapters that begin in the middle of a text are not computed; use a plain LoRA".into(),
        });
    }
    let alpha = md.f32("adapter.lora.alpha")?;
    let mut parts = Vec::new();
    for info in file.tensors() {
        let Some(name) = info.name.strip_suffix(A) else {
            let missing = info.name.strip_suffix(B).map(|name| format!("{name}{A}"));
            match missing {
                Some(missing) if file.tensor(&missing).is_none() => {
                    return Err(AdapterError::Unpaired { name: info.name.clone(), missing });
                }
                Some(_) => continue,
                None => {
                    return Err(AdapterError::Unsupported {
                        what: info.name.clone(),
                        advice: "only pairs of lora_a and lora_b are added; whole weights and norms belong into the model"
                            .into(),
                    });
                }
            }
        };
        let b = format!("{name}{B}");
        let b = file.tensor(&b).ok_or(AdapterError::Unpaired { name: info.name.clone(), missing: b })?;
        parts.push(pair(file, name, info, b, alpha, base)?);
    }
    let text = |key| Ok::<_, AdapterError>(md.opt_str(key)?.unwrap_or_default().to_owned());
    Ok(AdapterFile {
        task_name: text("adapter.lora.task_name")?,
        prompt_prefix: text("adapter.lora.prompt_prefix")?,
        ..AdapterFile::new(parts, path)?
    })
}

fn pair(
    file: &GgufFile,
    name: &str,
    a: &TensorInfo,
    b: &TensorInfo,
    alpha: f32,
    base: &Base,
) -> Result<LowRank, AdapterError> {
    let Some((target, weight)) = base.find(name) else {
        return Err(AdapterError::UnknownTensor { name: a.name.clone(), what: base.known() });
    };
    // Fastest-varying first; a rank of 1 may have lost its dimension.
    let dims = |info: &TensorInfo| match info.dims[..] {
        [n] => Some([n, 1]),
        [n, m] => Some([n, m]),
        [n, m, ref rest @ ..] => rest.iter().all(|&d| d == 1).then_some([n, m]),
        [] => None,
    };
    let wrong = |info: &TensorInfo, expected: String| AdapterError::WrongShape {
        name: info.name.clone(),
        expected,
        found: info.dims.clone(),
    };
    let (n_in, n_out) = (weight.n_in as u64, weight.n_out as u64);
    let (a_dims, b_dims) = (dims(a), dims(b));
    let (r, n_rows) = match (target, a_dims) {
        (Target::Embedding, Some([r, rows])) if rows == n_out => (r, n_in),
        (Target::Embedding, _) => return Err(wrong(a, format!("[rank, {n_out}]"))),
        (_, Some([cols, r])) if cols == n_in => (r, n_out),
        _ => return Err(wrong(a, format!("[{n_in}, rank]"))),
    };
    if b_dims != Some([r, n_rows]) {
        return Err(wrong(b, format!("[{r}, {n_rows}]")));
    }
    let rank = rank(&a.name, r)?;
    let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
    Ok(LowRank { target, name: name.to_owned(), rank, scale, a: floats(file, a)?, b: floats(file, b)? })
}

/// The file of an adapter, in floats.
pub(super) fn write(adapter: AdapterFile, base: &Base) -> GgufWriter {
    let mut file = GgufWriter::new();
    // A file has one alpha. Where no number gives every pair its scale, the scales go into the numbers.
    let alpha = alpha(&adapter.parts);
    file.set("general.type", "adapter".into());
    file.set("general.architecture", base.arch.into());
    file.set("adapter.type", "lora".into());
    file.set("adapter.lora.alpha", Value::F32(alpha.unwrap_or(0.0)));
    for (key, text) in
        [("adapter.lora.task_name", adapter.task_name), ("adapter.lora.prompt_prefix", adapter.prompt_prefix)]
    {
        if !text.is_empty() {
            file.set(key, text.as_str().into());
        }
    }
    for LowRank { target, name, rank, scale, a, mut b } in adapter.parts {
        if alpha.is_none() {
            b.iter_mut().for_each(|x| *x *= scale);
        }
        let (n_a, rank) = ((a.len() / rank) as u64, rank as u64);
        let a_dims = if target == Target::Embedding { [rank, n_a] } else { [n_a, rank] };
        file.tensor_f32(&format!("{name}{A}"), &a_dims, &a);
        file.tensor_f32(&format!("{name}{B}"), &[rank, b.len() as u64 / rank], &b);
    }
    file
}

/// The number that gives every pair precisely its scale when it is divided by its rank, if there is one.
fn alpha(parts: &[LowRank]) -> Option<f32> {
    let first = parts.first()?;
    let near = first.scale * first.rank as f32;
    let candidates = [near, near.next_up(), near.next_down()];
    let is_of = |alpha: f32, part: &LowRank| alpha / part.rank as f32 == part.scale;
    // Zero means in a file that nothing is divided.
    candidates.into_iter().find(|alpha| *alpha != 0.0 && parts.iter().all(|part| is_of(*alpha, part)))
}

/// All numbers of a tensor, of any type that a model's weights may have.
fn floats(file: &GgufFile, info: &TensorInfo) -> Result<Vec<f32>, AdapterError> {
    let n_cols = info.n_cols();
    let mut out = vec![0.0; info.n_elements() as usize];
    let data = file.tensor_data(info)?;
    let row_bytes = data.len() / info.n_rows();
    for (row, out) in data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(n_cols)) {
        if !dequantize(info.ty, row, out) {
            let what = format!("{} of type {}", info.name, info.ty);
            let advice = "convert the adapter to F32, F16, BF16 or Q8_0".to_owned();
            return Err(AdapterError::Unsupported { what, advice });
        }
    }
    Ok(out)
}
