//! The folder of a checkpoint: its JSON files, and its tensors by name. Everything is bounded before it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::ConvertError;

/// Largest text file that is read: tokenizers of large vocabularies have some 20 MB.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// Largest file of weights that is read: they are held in memory.
const WEIGHT_BYTES_MAX: u64 = 16 << 30;
/// Longest header of a file of weights that is believed.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the header's length, which come first.
const LENGTH_BYTES: usize = 8;
/// Most files of weights in a folder.
const SHARDS_MAX: usize = 256;

/// A folder.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    folder: PathBuf,
    files: Vec<WeightFile>,
    /// By name, in which file.
    tensors: BTreeMap<String, usize>,
}

/// A file of weights.
#[derive(Debug)]
struct WeightFile {
    /// Whole.
    bytes: Vec<u8>,
    /// What its header says, which was checked: tensors that overlap or leave holes are errors.
    header: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
}

impl Checkpoint {
    /// A folder of which the weights are not read yet.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new() }
    }

    /// Reads the weights, in one file or several.
    pub fn with_weights(self) -> Result<Self, ConvertError> {
        let mut checkpoint = self;
        for name in checkpoint.weight_files()? {
            let path = checkpoint.path(&name);
            let bytes = read_weights(&path)?;
            let (n_header, header) = SafeTensors::read_metadata(&bytes)
                .map_err(|error| bad(&path, format!("it is no safetensors file: {error}")))?;
            for tensor in header.offset_keys() {
                if checkpoint.tensors.contains_key(&tensor) {
                    return Err(bad(&path, format!("tensor `{tensor}` is in another file too")));
                }
                checkpoint.tensors.insert(tensor, checkpoint.files.len());
            }
            checkpoint.files.push(WeightFile { bytes, header, data: LENGTH_BYTES + n_header });
        }
        Ok(checkpoint)
    }

    /// Whether there are weights that could be read.
    pub fn check_weights(&self) -> Result<(), ConvertError> {
        self.weight_files().map(drop)
    }

    fn weight_files(&self) -> Result<Vec<String>, ConvertError> {
        const ONE: &str = "model.safetensors";
        const INDEX: &str = "model.safetensors.index.json";
        if self.folder.join(ONE).exists() {
            return Ok(vec![ONE.to_owned()]);
        }
        let Some(index) = self.opt_json(INDEX)? else {
            return Err(ConvertError::NoWeights(self.folder.clone()));
        };
        let map = index.value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| index.bad("`weight_map` is no object"))?;
        let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        // Files of this folder only, whatever an index says.
        let plain = |name: &&str| name.ends_with(".safetensors") && !name.contains(['/', '\\']);
        if names.is_empty() || names.len() > SHARDS_MAX || !names.iter().all(plain) {
            return Err(index.bad(format!("`weight_map` names no 1 to {SHARDS_MAX} safetensors files")));
        }
        Ok(names.into_iter().map(Into::into).collect())
    }

    /// The path of a file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        let full = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        full.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A JSON file that must be there.
    pub fn json(&self, name: &str) -> Result<Json, ConvertError> {
        self.opt_json(name)?.ok_or_else(|| {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            ConvertError::Io { path: self.path(name), source }
        })
    }

    /// A JSON file, if it is there.
    pub fn opt_json(&self, name: &str) -> Result<Option<Json>, ConvertError> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        let path = self.path(name);
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(Json { path, value })),
            Err(error) => Err(bad(&path, format!("it is no JSON: {error}"))),
        }
    }

    /// A text file, if it is there.
    pub fn opt_text(&self, name: &str) -> Result<Option<String>, ConvertError> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read(&path, TEXT_BYTES_MAX)?;
        let text =
            String::from_utf8(bytes).map_err(|error| bad(&path, format!("it is no UTF-8: {error}")))?;
        Ok(Some(text))
    }

    /// The names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn find(&self, name: &str) -> Result<(&WeightFile, &TensorInfo), ConvertError> {
        let file = self.tensors.get(name).map(|file| &self.files[*file]);
        let found = file.and_then(|file| Some((file, file.header.info(name)?)));
        found.ok_or_else(|| ConvertError::MissingTensor(name.to_owned()))
    }

    /// Checks a tensor's shape, whose numbers are not read for that.
    pub fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), ConvertError> {
        let (_, info) = self.find(name)?;
        if info.shape == expected {
            return Ok(());
        }
        Err(ConvertError::WrongShape {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: info.shape.clone(),
        })
    }

    /// A tensor's numbers as floats, in row-major order.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, ConvertError> {
        let (WeightFile { bytes, data, .. }, info) = self.find(name)?;
        let (start, end) = info.data_offsets;
        let bytes = &bytes[data + start..data + end];
        Ok(match info.dtype {
            Dtype::F32 => numbers(bytes, f32::from_le_bytes),
            Dtype::F16 => numbers(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => numbers(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => numbers(bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                let what = format!("its type {other:?} is not read: F64, F32, F16 and BF16 are");
                return Err(ConvertError::BadTensor { name: name.to_owned(), what });
            }
        })
    }
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

fn read_weights(path: &Path) -> Result<Vec<u8>, ConvertError> {
    let io = |source| ConvertError::Io { path: path.to_owned(), source };
    let mut header = [0; LENGTH_BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).map_err(io)?;
    let found = u64::from_le_bytes(header);
    if found > HEADER_BYTES_MAX {
        return Err(bad(
            path,
            format!("its header has {found} bytes, at most {HEADER_BYTES_MAX} are believed"),
        ));
    }
    read(path, WEIGHT_BYTES_MAX)
}

/// A whole file of at most `max` bytes.
fn read(path: &Path, max: u64) -> Result<Vec<u8>, ConvertError> {
    let io = |source| ConvertError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?.len();
    let mut bytes = Vec::new();
    // What grows meanwhile is cut off by the bound too.
    file.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        return Err(ConvertError::TooLarge { path: path.to_owned(), found: found.max(max + 1), max });
    }
    Ok(bytes)
}

fn bad(path: &Path, what: impl Into<String>) -> ConvertError {
    ConvertError::Bad { path: path.to_owned(), what: what.into() }
}

/// A JSON file, or an object in it.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    path: PathBuf,
    pub value: Value,
}

impl Json {
    /// An error about this file.
    pub fn bad(&self, what: impl Into<String>) -> ConvertError {
        bad(&self.path, what)
    }

    /// Something that would be lost.
    pub fn unsupported(&self, what: impl Into<String>) -> ConvertError {
        ConvertError::Unsupported { path: self.path.clone(), what: what.into() }
    }

    /// An entry that is neither absent nor null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConvertError> {
        let read = |value| read(value).ok_or_else(|| self.bad(format!("`{key}` is {value}, not {wanted}")));
        self.get(key).map(read).transpose()
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<String>, ConvertError> {
        self.typed(key, "a string", |value| value.as_str().map(Into::into))
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, ConvertError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A list of strings; empty if it is absent.
    pub fn opt_strings(&self, key: &str) -> Result<Vec<String>, ConvertError> {
        let strings = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|s| s.as_str().map(Into::into)).collect()
        };
        Ok(self.typed(key, "a list of strings", strings)?.unwrap_or_default())
    }

    /// A size from 1 to 2^24, which must be there.
    pub fn size(&self, key: &str) -> Result<usize, ConvertError> {
        let size = self.typed(key, "a number from 1 to 2^24", |value| {
            value.as_u64().filter(|n| (1..=1 << 24).contains(n)).map(|n| n as usize)
        })?;
        size.ok_or_else(|| self.bad(format!("`{key}` is missing")))
    }

    /// A number, which must be there.
    pub fn number(&self, key: &str) -> Result<f64, ConvertError> {
        let number = self.typed(key, "a number", Value::as_f64)?;
        number.ok_or_else(|| self.bad(format!("`{key}` is missing")))
    }
}
