//! The format `safetensors`: eight bytes of length, a JSON object of that length, then the tensors' bytes.
//!
//! The object has for each tensor `dtype`, `shape` (slowest-varying first) and `data_offsets` (from the object's end),
//! and perhaps `__metadata__`. Tensors are read one by one, so that a file is never in memory as a whole.

use std::io::{Read, Seek, SeekFrom};

use half::{bf16, f16};
use serde_json::{Map, Value};

use super::AdapterError;

/// The longest description of tensors: some 150 bytes for each of the thousand that large models have.
const HEADER_BYTES_MAX: u64 = 4 << 20;

/// Where a tensor is and what it is.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub name: String,
    /// Slowest-varying first.
    pub shape: Vec<u64>,
    dtype: Dtype,
    /// From the file's beginning.
    start: u64,
    n_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Dtype {
    F32,
    F16,
    BF16,
}

/// An open file.
pub(super) struct File<R> {
    input: R,
    /// In the file's order.
    pub tensors: Vec<Tensor>,
}

fn malformed(what: impl Into<String>) -> AdapterError {
    AdapterError::Malformed { file: super::peft::TENSORS, what: what.into() }
}

impl<R: Read + Seek> File<R> {
    /// Reads what tensors there are.
    pub fn new(mut input: R) -> Result<Self, AdapterError> {
        let unreadable = |error: std::io::Error| malformed(format!("it cannot be read: {error}"));
        let n_file = input.seek(SeekFrom::End(0)).map_err(unreadable)?;
        input.rewind().map_err(unreadable)?;
        let mut length = [0; 8];
        input.read_exact(&mut length).map_err(unreadable)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length.checked_add(8).is_none_or(|end| end > n_file) {
            return Err(malformed(format!(
                "its description claims {length} bytes; the file has {n_file}, and at most {HEADER_BYTES_MAX} are read"
            )));
        }
        let mut header = vec![0; length as usize];
        input.read_exact(&mut header).map_err(unreadable)?;
        let header: Map<String, Value> = serde_json::from_slice(&header)
            .map_err(|error| malformed(format!("its description: {error}")))?;
        let data = 8 + length;
        let tensors = header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, entry)| tensor(name, entry, data, n_file))
            .collect::<Result<_, _>>()?;
        Ok(Self { input, tensors })
    }

    /// All numbers of a tensor.
    pub fn floats(&mut self, tensor: &Tensor) -> Result<Vec<f32>, AdapterError> {
        let unreadable = |error| malformed(format!("tensor `{}`: {error}", tensor.name));
        let mut bytes = vec![0; tensor.n_bytes as usize];
        self.input.seek(SeekFrom::Start(tensor.start)).map_err(unreadable)?;
        self.input.read_exact(&mut bytes).map_err(unreadable)?;
        let pairs = || bytes.as_chunks::<2>().0.iter();
        Ok(match tensor.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => pairs().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        })
    }
}

/// An entry, checked against the file's size.
fn tensor(name: &str, entry: &Value, data: u64, n_file: u64) -> Result<Tensor, AdapterError> {
    let wrong = |what: &str| malformed(format!("tensor `{name}`: {what}"));
    let numbers =
        |key: &str| -> Option<Vec<u64>> { entry.get(key)?.as_array()?.iter().map(Value::as_u64).collect() };
    let (dtype, width) = match entry.get("dtype").and_then(Value::as_str) {
        Some("F32") => (Dtype::F32, 4),
        Some("F16") => (Dtype::F16, 2),
        Some("BF16") => (Dtype::BF16, 2),
        Some(other) => {
            let what = format!("{name} of type {}", other.chars().take(16).collect::<String>());
            return Err(AdapterError::Unsupported {
                what,
                advice: "save the adapter as F32, F16 or BF16".into(),
            });
        }
        None => return Err(wrong("it has no `dtype`")),
    };
    let shape = numbers("shape").ok_or_else(|| wrong("its `shape` is no list of sizes"))?;
    let Some(&[start, end]) = numbers("data_offsets").as_deref() else {
        return Err(wrong("its `data_offsets` are no two numbers"));
    };
    let n_bytes = shape.iter().try_fold(width, |n: u64, &d| n.checked_mul(d));
    if n_bytes.is_none() || end.checked_sub(start) != n_bytes {
        return Err(wrong("its shape and its offsets disagree"));
    }
    if data.checked_add(end).is_none_or(|end| end > n_file) {
        return Err(wrong("it reaches beyond the end of the file"));
    }
    Ok(Tensor { name: name.to_owned(), shape, dtype, start: data + start, n_bytes: end - start })
}
