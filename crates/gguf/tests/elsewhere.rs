//! Files that are not on this machine: what is read of them, and what is said when they cannot be read.

use std::io;
use std::sync::{Arc, Mutex};

use ingle_gguf::{Array, GgufError, GgufFile, GgufWriter, ReadAt, TensorType, Value, shard_name};

/// Bytes that remember what was read of them.
#[derive(Debug)]
struct Recorded {
    bytes: Vec<u8>,
    reads: Mutex<Vec<(u64, usize)>>,
    fails_from: u64,
}

impl Recorded {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, reads: Mutex::default(), fails_from: u64::MAX })
    }
}

impl ReadAt for Recorded {
    fn name(&self) -> String {
        "https://hub.example/m.gguf".into()
    }

    fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.lock().unwrap().push((start, buf.len()));
        if start + buf.len() as u64 > self.fails_from {
            return Err(io::Error::other("the line was cut"));
        }
        buf.copy_from_slice(&self.bytes[start as usize..][..buf.len()]);
        Ok(())
    }
}

/// A file with a vocabulary of `n` bytes and a tensor of as many floats as are told.
fn file(vocabulary: usize, n_floats: u64) -> GgufWriter {
    let mut file = GgufWriter::new();
    file.set("vocabulary", Value::Array(Array::U8(vec![7; vocabulary])));
    file.tensor_repeated("a", TensorType::F32, &[n_floats], Arc::from([0, 0, 128, 63]), 0);
    file
}

fn no_shards(_: u64, _: u64) -> Result<Arc<dyn ReadAt>, GgufError> {
    panic!("there is one file")
}

#[test]
fn growing_ranges_are_read_until_the_header_is_whole() {
    const MIB: usize = 1 << 20;
    let check = |file: GgufWriter, expected: &[(usize, usize)]| {
        let source = Recorded::new(file.to_bytes());
        let file = GgufFile::open_elsewhere(source.clone(), &mut no_shards).unwrap();
        let expected: Vec<_> = expected.iter().map(|&(start, n)| ((start * MIB) as u64, n * MIB)).collect();
        assert_eq!(*source.reads.lock().unwrap(), expected);
        let tensor = file.tensor("a").unwrap();
        assert_eq!(*file.tensor_range(tensor, 4..8).unwrap(), 1f32.to_le_bytes());
        assert!(!file.is_in_memory());
    };
    let numbers = |n: usize| file(n, 16 << 20);
    check(numbers(10), &[(0, 1)]);
    check(numbers(3 * MIB), &[(0, 1), (1, 4)]);
    check(numbers(5 * MIB), &[(0, 1), (1, 8)]);
    let texts = Array::String((0..200_000).map(|i| format!("a token, the {i}th of many")).collect());
    let mut file = numbers(10);
    file.set("tokens", Value::Array(texts));
    check(file, &[(0, 1), (1, 4), (5, 16)]);
}

#[test]
fn a_short_file_is_read_once_and_a_cut_line_is_named() {
    let bytes = file(10, 8).to_bytes();
    let n = bytes.len();
    let source = Recorded::new(bytes.clone());
    GgufFile::open_elsewhere(source.clone(), &mut no_shards).unwrap();
    assert_eq!(*source.reads.lock().unwrap(), [(0, n)]);
    let cut = Arc::new(Recorded { bytes, reads: Mutex::default(), fails_from: 40 });
    let error = GgufFile::open_elsewhere(cut, &mut no_shards).unwrap_err().to_string();
    assert!(error.contains("https://hub.example/m.gguf") && error.contains("the line was cut"), "{error}");
}

#[test]
fn shards_are_asked_for_by_number() {
    let shard = |no: u16, name: &str| {
        let mut w = GgufWriter::new();
        w.set("split.no", Value::U16(no)).set("split.count", Value::U16(2));
        w.tensor_f32(name, &[1], &[f32::from(no)]);
        Recorded::new(w.to_bytes())
    };
    let mut asked = Vec::new();
    let file = GgufFile::open_elsewhere(shard(0, "a"), &mut |i, count| {
        asked.push((i, count));
        Ok(shard(1, "b"))
    });
    let file = file.unwrap();
    assert_eq!(asked, [(1, 2)]);
    assert_eq!(*file.tensor_data(file.tensor("b").unwrap()).unwrap(), 1f32.to_le_bytes());
    assert_eq!(shard_name("m-00001-of-00002.gguf", 1, 2).unwrap(), "m-00002-of-00002.gguf");
    assert!(shard_name("m.gguf", 1, 2).unwrap_err().to_string().contains("does not end in"));
}

#[test]
fn a_header_is_enough_to_know_the_tensors() {
    let (head, n_bytes) = file(100, 1 << 40).head();
    let file = GgufFile::from_head(head.clone(), n_bytes).unwrap();
    let tensor = file.tensor("a").unwrap();
    assert_eq!((tensor.n_bytes(), file.n_bytes()), (4 << 40, n_bytes));
    assert!(file.tensor_range(tensor, 0..4).unwrap_err().to_string().contains("only the header"));
    // A header that promises more than the file has is as bad as ever.
    let error = GgufFile::from_head(head, n_bytes - 64).unwrap_err().to_string();
    assert!(error.contains("truncated"), "{error}");
}
