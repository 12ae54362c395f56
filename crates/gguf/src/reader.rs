//! Opening and parsing files, single or split.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::metadata::{Array, Metadata, StringArray, Value, ValueType};
use crate::source::{Head, ReadAt, Source};
use crate::{GgufError, TensorType};

/// Largest alignment that is believed; ggml writes 32.
const ALIGNMENT_MAX: u64 = 65_536;
/// Longest key or tensor name that is believed.
const NAME_BYTES_MAX: u64 = 1 << 16;
/// Most shards of one model.
const SHARDS_MAX: u64 = 4096;
/// What is read of a header at a time, so that opening a file takes little more memory than what it says.
const WINDOW_BYTES: u64 = 256 << 10;
/// The same of a file that is elsewhere, at first: what small vocabularies need. It grows, as each time costs a round trip.
const WINDOW_BYTES_ELSEWHERE: u64 = 1 << 20;
/// The longest header that is believed; those of the largest vocabularies have a hundredth of it.
const HEAD_BYTES_MAX: u64 = 1 << 30;

/// A tensor's description: name, type, shape and place.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The element type.
    pub ty: TensorType,
    /// One to four dimensions, the fastest-varying first: `[cols, rows, ...]`.
    pub dims: Vec<u64>,
    /// Which shard holds the data.
    shard: usize,
    /// Where the data starts in the shard's bytes; checked at parse.
    start: usize,
    /// How many bytes the data has; checked at parse.
    n_bytes: usize,
}

impl TensorInfo {
    /// Elements in a row: the first dimension.
    pub fn n_cols(&self) -> usize {
        self.dims[0] as usize
    }

    /// Rows: the product of all dimensions but the first.
    pub fn n_rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }

    /// Elements in all.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes of the data.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Start and length of a range of the data in the shard's bytes.
    fn place(&self, bytes: &Range<usize>) -> (u64, usize) {
        assert!(bytes.start <= bytes.end && bytes.end <= self.n_bytes, "{bytes:?} of {} bytes", self.n_bytes);
        ((self.start + bytes.start) as u64, bytes.len())
    }
}

/// An open model file, all its shards included: metadata and tensor descriptions, and their bytes to be read.
#[derive(Debug)]
pub struct GgufFile {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    shards: Vec<Source>,
    paths: Vec<PathBuf>,
}

impl GgufFile {
    /// Opens a file and parses its header. If the file is the first of a split model
    /// (`NAME-00001-of-00003.gguf`), the other shards beside it are opened too.
    ///
    /// # Errors
    /// Any [`GgufError`]: nothing about the file is trusted.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_with(path, |i, count| shard_path(path, i, count))
    }

    /// Opens the shards of a model, whatever their files are called: all of them, in order.
    ///
    /// # Errors
    /// As of [`Self::open`], and if they are not as many as the first one says.
    pub fn open_parts(paths: &[PathBuf]) -> Result<Self, GgufError> {
        let Some(first) = paths.first() else {
            return Err(GgufError::Split("there is no shard".to_owned()));
        };
        let n_given = paths.len();
        let wrong = |count: u64| GgufError::Split(format!("it has {count} shards, and {n_given} are given"));
        let file = Self::open_with(first, |i, count| match count == n_given as u64 {
            true => Ok(paths[i as usize].clone()),
            false => Err(wrong(count)),
        })?;
        if file.paths.len() != n_given {
            return Err(wrong(file.paths.len() as u64));
        }
        Ok(file)
    }

    /// Opens a file and the other shards, whose paths are asked for by their number from 0 and their count.
    fn open_with(
        path: &Path,
        path_of: impl Fn(u64, u64) -> Result<PathBuf, GgufError>,
    ) -> Result<Self, GgufError> {
        let mut paths = vec![path.to_owned()];
        let mut file = Self::assemble(Source::open(path)?, &path.display().to_string(), &mut |i, count| {
            let shard_path = path_of(i, count)?;
            let shard = (Source::open(&shard_path)?, shard_path.display().to_string());
            paths.push(shard_path);
            Ok(shard)
        })?;
        file.paths = paths;
        Ok(file)
    }

    /// Opens a file that is elsewhere and parses its header, of which growing ranges are read until it is whole; the
    /// tensors' bytes are read when they are asked for. If it is the first of a split model, `shard(i, count)` is asked
    /// for the others (`i` counts from 0, so the first is 1).
    ///
    /// # Errors
    /// As [`Self::open`], and what `shard` says.
    pub fn open_elsewhere(
        first: Arc<dyn ReadAt>,
        shard: &mut dyn FnMut(u64, u64) -> Result<Arc<dyn ReadAt>, GgufError>,
    ) -> Result<Self, GgufError> {
        let name = first.name();
        Self::assemble(Source::Elsewhere(first), &name, &mut |i, count| {
            let shard = shard(i, count)?;
            let name = shard.name();
            Ok((Source::Elsewhere(shard), name))
        })
    }

    /// Opens one file alone that is elsewhere, also if it is a shard of a model, as [`Self::open_part`] does.
    ///
    /// # Errors
    /// As [`Self::open_elsewhere`].
    pub fn open_part_elsewhere(part: Arc<dyn ReadAt>) -> Result<Self, GgufError> {
        Self::parse(Source::Elsewhere(part))
    }

    /// A model of its first shard, and of the others if there are any. `open(i, count)` gives a shard and its name.
    fn assemble(
        first: Source,
        name: &str,
        open: &mut dyn FnMut(u64, u64) -> Result<(Source, String), GgufError>,
    ) -> Result<Self, GgufError> {
        let mut file = Self::parse(first)?;
        let count = file.metadata.opt_u64("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(file);
        }
        if count > SHARDS_MAX {
            return Err(GgufError::Split(format!("`split.count` is {count}, at most {SHARDS_MAX} are read")));
        }
        let no = file.metadata.u64("split.no")?;
        if no != 0 {
            return Err(GgufError::Split(format!(
                "{name} is shard {} of {count}: open the first shard instead",
                no + 1
            )));
        }
        for i in 1..count {
            let (source, name) = open(i, count)?;
            let shard = Self::parse(source)?;
            let (shard_no, shard_count) =
                (shard.metadata.opt_u64("split.no")?, shard.metadata.opt_u64("split.count")?);
            if (shard_no, shard_count) != (Some(i), Some(count)) {
                return Err(GgufError::Split(format!(
                    "{name} says it is shard {shard_no:?} of {shard_count:?}, expected {i} of {count} (from 0)"
                )));
            }
            file.append_shard(shard)?;
        }
        if let Some(expected) = file.metadata.opt_u64("split.tensors.count")?
            && expected != file.tensors.len() as u64
        {
            return Err(GgufError::Split(format!(
                "`split.tensors.count` is {expected}, but the shards have {} tensors",
                file.tensors.len()
            )));
        }
        Ok(file)
    }

    /// Parses the header of a file of `n_bytes` of which only the first are there, header and all. Tensors are
    /// described, but have no data: reading it is an error.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_head(head: Vec<u8>, n_bytes: u64) -> Result<Self, GgufError> {
        let n_bytes = n_bytes.max(head.len() as u64);
        Self::parse(Source::Elsewhere(Arc::new(Head { bytes: head, n_bytes })))
    }

    /// Opens one file alone, also if it is a shard of a model: its header, and the tensors that are in it.
    ///
    /// # Errors
    /// Any [`GgufError`]: nothing about the file is trusted.
    pub fn open_part(path: &Path) -> Result<Self, GgufError> {
        let mut file = Self::parse(Source::open(path)?)?;
        file.paths.push(path.to_owned());
        Ok(file)
    }

    /// Parses a file that is in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Source::Owned(bytes))
    }

    /// Parses a file that is part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, GgufError> {
        Self::parse(Source::Static(bytes))
    }

    /// The key/value pairs (of the first shard, which has them all).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor of this file: read, or borrowed where the file is in memory.
    ///
    /// # Errors
    /// If they cannot be read, or the file was changed since it was opened.
    pub fn tensor_data(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>, GgufError> {
        self.tensor_range(tensor, 0..tensor.n_bytes)
    }

    /// Some of the bytes of a tensor.
    ///
    /// # Errors
    /// As [`Self::tensor_data`].
    pub fn tensor_range(&self, tensor: &TensorInfo, bytes: Range<usize>) -> Result<Cow<'_, [u8]>, GgufError> {
        let (start, len) = tensor.place(&bytes);
        self.shards[tensor.shard].bytes(start, len)
    }

    /// Some of the bytes of a tensor, for whoever reads many such pieces: `buf` is used where they have to be read.
    ///
    /// # Errors
    /// As [`Self::tensor_data`].
    pub fn tensor_range_by<'a>(
        &'a self,
        tensor: &TensorInfo,
        bytes: Range<usize>,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], GgufError> {
        let (start, len) = tensor.place(&bytes);
        self.shards[tensor.shard].bytes_by(start, len, buf)
    }

    /// Fills `buf` with the bytes of a tensor from `start` on.
    ///
    /// # Errors
    /// As [`Self::tensor_data`].
    pub fn read_tensor_into(
        &self,
        tensor: &TensorInfo,
        start: usize,
        buf: &mut [u8],
    ) -> Result<(), GgufError> {
        let (start, _) = tensor.place(&(start..start.saturating_add(buf.len())));
        self.shards[tensor.shard].read(start, buf)
    }

    /// Whether the bytes are in memory anyway, so that reading them costs nothing.
    pub fn is_in_memory(&self) -> bool {
        self.shards.iter().all(|shard| shard.in_memory().is_some())
    }

    /// Bytes of all shards together.
    pub fn n_bytes(&self) -> u64 {
        self.shard_bytes().sum()
    }

    /// The files this model was opened from; empty if it was in memory.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The bytes of each shard, counted.
    pub fn shard_bytes(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().map(Source::len)
    }

    fn parse(source: Source) -> Result<Self, GgufError> {
        let (metadata, tensors) = parse_head(&source)?;
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Self { metadata, tensors, by_name, shards: vec![source], paths: Vec::new() })
    }

    fn append_shard(&mut self, mut other: Self) -> Result<(), GgufError> {
        let shard = self.shards.len();
        self.shards.append(&mut other.shards);
        for mut tensor in other.tensors {
            tensor.shard = shard;
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(GgufError::Split(format!("tensor `{}` is in two shards", tensor.name)));
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }
}

/// The path of shard `i` (from 0) beside the first one.
fn shard_path(first: &Path, i: u64, count: u64) -> Result<PathBuf, GgufError> {
    let name = first.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    Ok(first.with_file_name(shard_name(name, i, count)?))
}

/// The name of shard `i` (from 0) of `count`, by that of the first, such as `NAME-00001-of-00003.gguf`.
///
/// # Errors
/// [`GgufError::Split`] if the first is not called so.
pub fn shard_name(first: &str, i: u64, count: u64) -> Result<String, GgufError> {
    let suffix = format!("-00001-of-{count:05}.gguf");
    let stem = first.strip_suffix(&suffix).ok_or_else(|| {
        GgufError::Split(format!("`{first}` has {count} shards, but its name does not end in `{suffix}`"))
    })?;
    Ok(format!("{stem}-{:05}-of-{count:05}.gguf", i + 1))
}

/// Reads as much of a file as its header turns out to need; each byte once.
fn parse_head(source: &Source) -> Result<(Metadata, Vec<TensorInfo>), GgufError> {
    let (known, unread) = match source.in_memory() {
        Some(bytes) => (Cow::Borrowed(bytes), None),
        None => (Cow::Owned(Vec::new()), Some(source)),
    };
    let (window_bytes, growth) = match source {
        Source::Elsewhere(_) => (WINDOW_BYTES_ELSEWHERE, 4),
        _ => (WINDOW_BYTES, 1),
    };
    Parser { window: known, start: 0, unread, window_bytes, growth, len: source.len(), at: 0 }.file()
}

/// A cursor over a file's untrusted header, of which it holds a window. Every read checks what is left.
struct Parser<'a> {
    /// Bytes of the file from `start` on; all of it, if it is in memory.
    window: Cow<'a, [u8]>,
    start: usize,
    /// Where more bytes come from.
    unread: Option<&'a Source>,
    /// How many are read next, and how much more each time after.
    window_bytes: u64,
    growth: u64,
    /// Bytes of the whole file.
    len: u64,
    at: usize,
}

impl Parser<'_> {
    fn file(&mut self) -> Result<(Metadata, Vec<TensorInfo>), GgufError> {
        let magic = self.take(self.len.min(4), "magic")?;
        if magic != b"GGUF" {
            return Err(GgufError::Header(format!("it starts with {magic:02x?}, not with `GGUF`")));
        }
        let version = self.u32("version")?;
        match version {
            2 | 3 => {}
            1 => {
                return Err(GgufError::Header(
                    "version 1 is no longer in use: convert the model again".into(),
                ));
            }
            v if v.swap_bytes() <= 3 => {
                return Err(GgufError::Header("the file is big-endian: convert it for this machine".into()));
            }
            v => return Err(GgufError::Header(format!("version {v} is unknown (2 and 3 are read)"))),
        }
        // The smallest tensor record: name length, n_dims, one dim, type, offset. The smallest pair: key length,
        // one byte of key, type, one byte of value.
        let n_tensors = self.count("tensor count", 8 + 4 + 8 + 4 + 8)?;
        let n_pairs = self.count("metadata count", 8 + 1 + 4 + 1)?;
        let mut metadata = Metadata::default();
        for _ in 0..n_pairs {
            let at = self.at;
            let key = self.string("metadata key")?;
            if key.is_empty() {
                return Err(malformed(at, "a metadata key is empty"));
            }
            let value = self.value(&key)?;
            if !metadata.insert(&key, value) {
                return Err(malformed(at, format!("metadata key `{key}` is there twice")));
            }
        }
        let alignment = metadata.opt_u64("general.alignment")?.unwrap_or(32);
        if !alignment.is_power_of_two() || !(8..=ALIGNMENT_MAX).contains(&alignment) {
            return Err(GgufError::BadValue {
                key: "general.alignment".into(),
                what: format!("{alignment} is not a power of two between 8 and {ALIGNMENT_MAX}"),
            });
        }
        let tensors = self.tensors(n_tensors, alignment)?;
        Ok((metadata, tensors))
    }

    fn tensors(&mut self, n_tensors: usize, alignment: u64) -> Result<Vec<TensorInfo>, GgufError> {
        let mut tensors = Vec::new();
        let mut names = std::collections::HashSet::new();
        // Data must lie back to back, as ggml's reader demands: `expected` is the padded sum so far.
        let mut expected: u64 = 0;
        let mut ranges = Vec::new();
        for _ in 0..n_tensors {
            let at = self.at;
            let name = self.string("tensor name")?;
            if name.is_empty() {
                return Err(malformed(at, "a tensor name is empty"));
            }
            if !names.insert(name.clone()) {
                return Err(malformed(at, format!("tensor `{name}` is there twice")));
            }
            let n_dims = self.u32("tensor dimensions")?;
            if !(1..=4).contains(&n_dims) {
                return Err(malformed(at, format!("tensor `{name}` has {n_dims} dimensions, not 1 to 4")));
            }
            let mut dims = Vec::with_capacity(n_dims as usize);
            for _ in 0..n_dims {
                dims.push(self.u64("tensor dimension")?);
            }
            if dims.contains(&0) || dims.iter().any(|&d| i64::try_from(d).is_err()) {
                return Err(malformed(at, format!("tensor `{name}` has impossible dimensions {dims:?}")));
            }
            let type_id = self.u32("tensor type")?;
            let ty = TensorType::from_id(type_id).ok_or_else(|| {
                malformed(at, format!("tensor `{name}`: {}", TensorType::unknown_id(type_id)))
            })?;
            let too_large = || {
                malformed(at, format!("tensor `{name}` of type {ty} and dimensions {dims:?} is too large"))
            };
            let row = ty.row_bytes(dims[0]).ok_or_else(|| {
                malformed(
                    at,
                    format!(
                        "tensor `{name}`: rows of {} are no multiple of {ty}'s {}",
                        dims[0],
                        ty.block_len()
                    ),
                )
            })?;
            let rows = dims[1..].iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            let n_bytes = rows.and_then(|r| r.checked_mul(row)).ok_or_else(too_large)?;
            let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            if elements.is_none_or(|n| i64::try_from(n).is_err()) {
                return Err(too_large());
            }
            let offset = self.u64("tensor offset")?;
            if offset != expected {
                return Err(malformed(
                    at,
                    format!(
                        "tensor `{name}` claims data offset {offset}, the tensors before it end at {expected}"
                    ),
                ));
            }
            expected = n_bytes
                .checked_next_multiple_of(alignment)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(too_large)?;
            ranges.push((offset, n_bytes));
            tensors.push(TensorInfo { name, ty, dims, shard: 0, start: 0, n_bytes: 0 });
        }
        let data_start = (self.at as u64)
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| malformed(self.at, "the data section starts beyond any file"))?;
        for (tensor, (offset, n_bytes)) in tensors.iter_mut().zip(ranges) {
            let end = data_start.checked_add(offset).and_then(|s| s.checked_add(n_bytes));
            if end.is_none_or(|end| end > self.len) {
                return Err(malformed(
                    self.at,
                    format!(
                        "tensor `{}` needs bytes {} to {}, but the file ends at {}: it is truncated",
                        tensor.name,
                        data_start.saturating_add(offset),
                        end.unwrap_or(u64::MAX),
                        self.len
                    ),
                ));
            }
            // What no address reaches cannot be loaded either.
            tensor.start = usize::try_from(data_start + offset).map_err(|_| {
                malformed(self.at, format!("tensor `{}` is too far for this system", tensor.name))
            })?;
            tensor.n_bytes = n_bytes as usize;
        }
        Ok(tensors)
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        Ok(match self.value_type(key)? {
            ValueType::U8 => Value::U8(self.fixed::<1>(key)?[0]),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.fixed(key)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.fixed(key)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.fixed(key)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.fixed(key)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.fixed(key)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.fixed(key)?)),
            ValueType::Bool => Value::Bool(self.bool(key)?),
            ValueType::String => Value::String(self.bytes_value(key)?.to_vec()),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.fixed(key)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.fixed(key)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.fixed(key)?)),
            ValueType::Array => Value::Array(self.array(key)?),
        })
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, GgufError> {
        let at = self.at;
        let id = self.u32(key)?;
        ValueType::from_id(id)
            .ok_or_else(|| malformed(at, format!("metadata key `{key}` has unknown type {id}")))
    }

    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let at = self.at;
        let ty = self.value_type(key)?;
        if ty == ValueType::Array {
            return Err(malformed(at, format!("metadata key `{key}` is an array of arrays")));
        }
        let n = self.count(key, ty.min_bytes())?;
        macro_rules! numbers {
            ($variant:ident, $t:ty) => {{
                const SIZE: usize = size_of::<$t>();
                // `count` has shown that n elements are left, so this cannot overflow or fail.
                let bytes = self.take((n * SIZE) as u64, key)?;
                let numbers = bytes.chunks_exact(SIZE).map(|c| {
                    <$t>::from_le_bytes(c.try_into().expect("chunks_exact gives chunks of this size"))
                });
                Array::$variant(numbers.collect())
            }};
        }
        Ok(match ty {
            ValueType::U8 => numbers!(U8, u8),
            ValueType::I8 => numbers!(I8, i8),
            ValueType::U16 => numbers!(U16, u16),
            ValueType::I16 => numbers!(I16, i16),
            ValueType::U32 => numbers!(U32, u32),
            ValueType::I32 => numbers!(I32, i32),
            ValueType::F32 => numbers!(F32, f32),
            ValueType::U64 => numbers!(U64, u64),
            ValueType::I64 => numbers!(I64, i64),
            ValueType::F64 => numbers!(F64, f64),
            ValueType::Bool => Array::Bool((0..n).map(|_| self.bool(key)).collect::<Result<_, _>>()?),
            ValueType::String => {
                let mut strings = StringArray::default();
                for _ in 0..n {
                    strings.push(self.bytes_value(key)?);
                }
                Array::String(strings)
            }
            ValueType::Array => unreachable!("refused above"),
        })
    }

    fn bool(&mut self, what: &str) -> Result<bool, GgufError> {
        let at = self.at;
        match self.fixed::<1>(what)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            b => Err(malformed(at, format!("`{what}`: {b} is no bool"))),
        }
    }

    /// A count of records that take at least `min_bytes` each, shown to fit into what is left.
    fn count(&mut self, what: &str, min_bytes: u64) -> Result<usize, GgufError> {
        let at = self.at;
        let n = self.u64(what)?;
        let left = self.len - self.at as u64;
        if n > left / min_bytes {
            return Err(malformed(
                at,
                format!("`{what}` claims {n} elements of at least {min_bytes} bytes, {left} bytes are left"),
            ));
        }
        Ok(n as usize)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let at = self.at;
        let bytes = self.bytes_value(what)?;
        if bytes.len() as u64 > NAME_BYTES_MAX {
            return Err(malformed(at, format!("{what} has {} bytes", bytes.len())));
        }
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| malformed(at, format!("{what} is not valid UTF-8")))
    }

    fn bytes_value(&mut self, what: &str) -> Result<&[u8], GgufError> {
        let n = self.u64(what)?;
        self.take(n, what)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        Ok(self.take(N as u64, what)?.try_into().expect("take returns exactly N bytes"))
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&[u8], GgufError> {
        let left = self.len - self.at as u64;
        if n > left {
            return Err(malformed(self.at, format!("`{what}` needs {n} bytes, {left} are left")));
        }
        if n > (self.start + self.window.len() - self.at) as u64 {
            self.read_on(n)?;
        }
        let bytes = &self.window[self.at - self.start..][..n as usize];
        self.at += n as usize;
        Ok(bytes)
    }

    /// Moves the window to where the cursor is, with at least `n` bytes, which the file has.
    fn read_on(&mut self, n: u64) -> Result<(), GgufError> {
        let at = self.at as u64;
        if at + n > HEAD_BYTES_MAX {
            return Err(GgufError::Header(format!("its header has more than {HEAD_BYTES_MAX} bytes")));
        }
        let source = self.unread.expect("what is in memory is there, all of it");
        let window = self.window.to_mut();
        window.drain(..self.at - self.start);
        self.start = self.at;
        let n_kept = window.len();
        let n_read = (n - n_kept as u64).next_multiple_of(self.window_bytes);
        window.resize((n_kept as u64 + n_read).min(self.len - at) as usize, 0);
        source.read(at + n_kept as u64, &mut window[n_kept..])?;
        self.window_bytes *= self.growth;
        Ok(())
    }
}

fn malformed(at: usize, what: impl Into<String>) -> GgufError {
    GgufError::Malformed { offset: at as u64, what: what.into() }
}
