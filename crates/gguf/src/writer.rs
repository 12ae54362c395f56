//! Writing files: version 3, alignment 32, tensors in the order they are given.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use crate::{Array, Metadata, TensorType, Value};

/// The alignment that is written.
const ALIGNMENT: usize = 32;

/// Collects metadata and tensors, then writes a file in one pass.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Metadata,
    tensors: Vec<(String, TensorType, Vec<u64>, Data)>,
    /// Of the tensors.
    names: HashSet<String>,
}

/// Where a tensor's bytes come from.
#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    /// `n_bytes` of the pattern, over and over, from byte `start` on.
    Repeated {
        pattern: Arc<[u8]>,
        start: usize,
        n_bytes: u64,
    },
}

impl Data {
    fn n_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Repeated { n_bytes, .. } => *n_bytes,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(bytes),
            Self::Repeated { pattern, start, n_bytes } => {
                let (mut start, mut left) = (*start, *n_bytes);
                while left > 0 {
                    let run = &pattern[start..];
                    let run = &run[..run.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                    out.write_all(run)?;
                    left -= run.len() as u64;
                    start = 0;
                }
                Ok(())
            }
        }
    }
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that starts with another one's metadata.
    pub fn with_metadata(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Sets a key, replacing what it had.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.metadata.set(key, value);
        self
    }

    /// Adds a tensor. `dims` has the fastest-varying dimension first.
    ///
    /// # Panics
    /// If `data` is not exactly the size that type and dimensions give, or the name is there already.
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64], data: Vec<u8>) -> &mut Self {
        let expected = n_bytes(ty, dims);
        assert_eq!(Some(data.len() as u64), expected, "data of tensor `{name}` ({ty}, {dims:?})");
        self.push(name, ty, dims, Data::Bytes(data))
    }

    /// Adds a tensor whose data is `pattern`, over and over, from its byte `start` on: files of many gigabytes for
    /// benchmarks, without their bytes in memory. `start` must be below the pattern's length.
    ///
    /// # Panics
    /// If type and dimensions don't fit, the pattern is empty, or the name is there already.
    pub fn tensor_repeated(
        &mut self,
        name: &str,
        ty: TensorType,
        dims: &[u64],
        pattern: Arc<[u8]>,
        start: usize,
    ) -> &mut Self {
        let n_bytes = n_bytes(ty, dims).expect("rows are whole blocks");
        assert!(start < pattern.len(), "start {start} is not in a pattern of {} bytes", pattern.len());
        self.push(name, ty, dims, Data::Repeated { pattern, start, n_bytes })
    }

    fn push(&mut self, name: &str, ty: TensorType, dims: &[u64], data: Data) -> &mut Self {
        assert!(self.names.insert(name.to_owned()), "tensor `{name}` is there twice");
        self.tensors.push((name.to_owned(), ty, dims.to_vec(), data));
        self
    }

    /// Adds a tensor of 32-bit floats.
    pub fn tensor_f32(&mut self, name: &str, dims: &[u64], data: &[f32]) -> &mut Self {
        self.tensor(name, TensorType::F32, dims, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// The file up to its tensors' data, and how many bytes all of it would have: what
    /// [`GgufFile::from_head`](crate::GgufFile::from_head) takes.
    pub fn head(&self) -> (Vec<u8>, u64) {
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.iter().len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            string(&mut head, key.as_bytes());
            head.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut head, value);
        }
        let mut offset = 0u64;
        for (name, ty, dims, data) in &self.tensors {
            string(&mut head, name.as_bytes());
            head.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| head.extend(d.to_le_bytes()));
            head.extend((*ty as u32).to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += data.n_bytes().next_multiple_of(ALIGNMENT as u64);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        let n_bytes = head.len() as u64 + offset;
        (head, n_bytes)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head().0)?;
        for (.., data) in &self.tensors {
            data.write(out)?;
            let padding = data.n_bytes().next_multiple_of(ALIGNMENT as u64) - data.n_bytes();
            out.write_all(&[0; ALIGNMENT][..padding as usize])?;
        }
        out.flush()
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).expect("writing to a Vec cannot fail");
        bytes
    }
}

/// Bytes of a tensor, if its rows are whole blocks.
fn n_bytes(ty: TensorType, dims: &[u64]) -> Option<u64> {
    let rows: u64 = dims[1..].iter().product();
    ty.row_bytes(dims[0]).map(|row| row * rows)
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => string(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(a) => {
            out.extend((a.element_type() as u32).to_le_bytes());
            out.extend((a.len() as u64).to_le_bytes());
            match a {
                Array::U8(v) => out.extend(v),
                Array::I8(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::U16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::U32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::Bool(v) => v.iter().for_each(|&x| out.push(u8::from(x))),
                Array::String(v) => v.iter().for_each(|s| string(out, s)),
                Array::U64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GgufFile;

    #[test]
    fn a_repeated_pattern_reads_like_its_bytes() {
        let pattern: Vec<u8> = (0..2 * 34).collect();
        let mut file = GgufWriter::new();
        file.tensor_repeated("a", TensorType::Q8_0, &[32, 5], pattern.clone().into(), 34);
        file.tensor("b", TensorType::F32, &[1], vec![1, 2, 3, 4]);
        let file = GgufFile::from_bytes(file.to_bytes()).expect("a valid file");
        let expected: Vec<u8> = pattern.iter().copied().cycle().skip(34).take(5 * 34).collect();
        let data = |name| file.tensor_data(file.tensor(name).expect("written")).expect("it is in memory");
        assert_eq!(*data("a"), expected);
        assert_eq!(*data("b"), [1, 2, 3, 4]);
    }
}
