//! Files that lie. Each must be a typed error that names what is wrong, in milliseconds, without allocating for
//! what is not there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ingle_gguf::{Array, GgufError, GgufFile, GgufWriter, StringArray, TensorType, Value};

/// Counts live bytes and their peak, so that a test can say how much a parse took.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is passed on to the system's allocator unchanged; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as the caller promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised to us.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Numbers that break arithmetic.
const EVIL: [u64; 14] = [
    0,
    1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    (1 << 42) + 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

fn sample() -> GgufWriter {
    let mut w = GgufWriter::new();
    let tokens: StringArray = (0..40).map(|i| format!("token{i}")).collect();
    w.set("general.architecture", Value::from("llama"))
        .set("llama.block_count", Value::U32(1))
        .set("general.alignment", Value::U32(32))
        .set("some.float", Value::F32(0.5))
        .set("some.bool", Value::Bool(true))
        .set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)))
        .set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.25; 40])))
        .tensor_f32("norm", &[7], &[1.0; 7])
        .tensor("matrix", TensorType::Q8_0, &[64, 3], vec![1; 34 * 2 * 3]);
    w
}

/// Where `needle` is in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|w| w == needle).expect("the sample has it")
}

fn with_u64(bytes: &[u8], at: usize, value: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// Parses, and checks that it was quick and small.
fn parse(bytes: Vec<u8>) -> Result<GgufFile, GgufError> {
    let n_bytes = bytes.len();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let started = Instant::now();
    let result = GgufFile::from_bytes(bytes);
    // Milliseconds; what a file says is there, and is not, would take hours.
    assert!(started.elapsed().as_secs() < 10, "a parse took {:?}", started.elapsed());
    let took = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(took < 64 * 1024 + 16 * n_bytes, "a parse of {n_bytes} bytes took {took} bytes");
    result
}

// One test, since the allocator counts for the whole process.
#[test]
fn hostile_files_are_refused_quickly_and_cheaply() {
    lying_numbers();
    truncation_and_bit_changes();
    named_errors();
    files_on_disk_are_read_by_windows();
}

/// V01, V02, V11, V12, V13: every count, length, dimension, offset and alignment, at every evil value.
fn lying_numbers() {
    let good = sample().to_bytes();
    parse(good.clone()).expect("the sample is a good file");
    let string_length = find(&good, b"general.architecture") + 20 + 4;
    let array = find(&good, b"tokenizer.ggml.scores") + 21 + 4 + 4;
    let strings = find(&good, b"tokenizer.ggml.tokens") + 21 + 4 + 4;
    let info = find(&good, b"matrix") + 6;
    let fields = [
        ("tensor count", 8, 2),
        ("metadata count", 16, 7),
        ("key length", 24, 20),
        ("string length", string_length, 5),
        ("array length", array, 40),
        ("string array length", strings, 40),
        ("element length", strings + 8, 6),
        ("dimension 0", info + 4, 64),
        ("dimension 1", info + 12, 3),
        ("offset", info + 24, 32),
    ];
    for (name, at, real) in fields {
        assert_eq!(good[at..at + 8], u64::to_le_bytes(real), "{name} is where the test thinks it is");
        for evil in EVIL.into_iter().filter(|&e| e != real) {
            // A value that is smaller than the real one may leave a file that reads differently, but validly.
            if let Ok(file) = parse(with_u64(&good, at, evil)) {
                for tensor in file.tensors() {
                    assert_eq!(file.tensor_data(tensor).unwrap().len(), tensor.n_bytes(), "{name} = {evil}");
                }
            }
        }
    }
    // Pairs of them, as products are what overflows.
    for a in EVIL {
        for b in EVIL {
            let bytes = with_u64(&with_u64(&good, info + 4, a), info + 12, b);
            assert!((a, b) == (64, 3) || (a == 64 && b < 3 && b > 0) || parse(bytes).is_err(), "{a} x {b}");
        }
    }
    for alignment in [0u32, 1, 4, 7, 33, 131_072, 1 << 31, u32::MAX] {
        let error = parse(sample().set("general.alignment", Value::U32(alignment)).to_bytes()).unwrap_err();
        assert!(error.to_string().contains("general.alignment"), "{error}");
    }
}

/// V03: every prefix of a file, and every single-byte change of its header.
fn truncation_and_bit_changes() {
    let good = sample().to_bytes();
    for n in 0..good.len() {
        // The last tensor's padding may be missing; anything else must not be.
        if let Ok(file) = parse(good[..n].to_vec()) {
            assert!(n + 32 > good.len(), "a prefix of {n} bytes was accepted");
            assert_eq!(file.tensors().len(), 2);
        }
    }
    for i in 0..good.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = good.clone();
            bytes[i] ^= flip;
            if let Ok(file) = parse(bytes) {
                file.tensors()
                    .iter()
                    .for_each(|t| assert_eq!(file.tensor_data(t).unwrap().len(), t.n_bytes()));
            }
        }
    }
}

fn named_errors() {
    let check = |bytes: Vec<u8>, expected: &str| {
        let error = parse(bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    };
    let good = sample().to_bytes();
    check(b"GGML....".to_vec(), "starts with");
    check(vec![], "starts with");
    check(with_u64(&good, 4, u64::from_le_bytes([1, 0, 0, 0, 2, 0, 0, 0])), "version 1");
    check(with_u64(&good, 4, u64::from_le_bytes([0, 0, 0, 3, 2, 0, 0, 0])), "big-endian");
    check(with_u64(&good, 4, u64::from_le_bytes([9, 0, 0, 0, 2, 0, 0, 0])), "version 9");

    let ty = find(&good, b"matrix") + 6 + 4 + 16;
    for (id, expected) in [(4u32, "removed"), (36, "removed"), (99, "unknown")] {
        let mut bytes = good.clone();
        bytes[ty..ty + 4].copy_from_slice(&id.to_le_bytes());
        check(bytes, expected);
    }
    let mut twice = good.clone();
    let at = find(&twice, b"some.bool");
    twice[at..at + 9].copy_from_slice(b"some.flot");
    parse(twice).expect("a renamed key is still a good file");

    let mut bytes = good.clone();
    let value = find(&bytes, b"some.bool") + 9 + 4;
    bytes[value] = 7;
    check(bytes, "`some.bool`: 7 is no bool");

    let mut w = sample();
    w.tensor("ragged", TensorType::F32, &[33], vec![0; 132]);
    let mut bytes = w.to_bytes();
    let at = find(&bytes, b"ragged") + 6 + 4 + 8;
    bytes[at..at + 4].copy_from_slice(&8u32.to_le_bytes());
    check(bytes, "no multiple of Q8_0's 32");
}

/// A header of many windows reads as it does in memory, whatever lies across their borders, and at the cost of one window
/// beside what it says.
fn files_on_disk_are_read_by_windows() {
    const WINDOW: usize = 256 << 10;
    let mut w = sample();
    let texts: StringArray = (0..30_000).map(|i| format!("token {i}")).collect();
    w.set("texts", Value::Array(Array::String(texts)));
    w.set("numbers", Value::Array(Array::F32((0..100_000).map(|i| i as f32).collect())));
    let good = w.to_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let on_disk = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        GgufFile::open(&path)
    };
    let said = |file: Result<GgufFile, GgufError>| {
        let file = file.map_err(|error| error.to_string())?;
        let entries: Vec<_> = file.metadata().iter().collect();
        let mut hash = std::hash::DefaultHasher::new();
        format!("{entries:?} {:?}", file.tensors()).hash(&mut hash);
        Ok::<_, String>(hash.finish())
    };

    std::fs::write(&path, &good).unwrap();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let file = GgufFile::open(&path).unwrap();
    let kept = LIVE.load(Ordering::Relaxed) - before;
    let took = PEAK.load(Ordering::Relaxed) - before;
    // The longest value, of which a window and the numbers themselves are there at once.
    assert!(
        took < kept + 100_000 * 4 + 2 * WINDOW,
        "a header of {} bytes took {took} for {kept}",
        good.len()
    );
    assert_eq!(said(Ok(file)), said(GgufFile::from_bytes(good.clone())));

    let borders = (1..=good.len() / WINDOW).flat_map(|i| [i * WINDOW - 1, i * WINDOW, i * WINDOW + 1]);
    for at in borders.filter(|&at| at < good.len()) {
        assert_eq!(
            said(on_disk(&good[..at])),
            said(GgufFile::from_bytes(good[..at].to_vec())),
            "cut at {at}"
        );
        let mut bytes = good.clone();
        bytes[at] ^= 0xFF;
        assert_eq!(said(on_disk(&bytes)), said(GgufFile::from_bytes(bytes)), "changed at {at}");
    }
}

/// V07: every declared type against every getter.
#[test]
fn getters_refuse_other_types_by_name() {
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(1),
        Value::I16(-1),
        Value::U32(1),
        Value::I32(-1),
        Value::F32(1.5),
        Value::Bool(true),
        Value::from("text"),
        Value::Array(Array::U8(vec![1, 2, 3])),
        Value::U64(1),
        Value::I64(-1),
        Value::F64(1.5),
    ];
    for value in values {
        let mut w = GgufWriter::new();
        w.set("the.key", value.clone());
        let file = GgufFile::from_bytes(w.to_bytes()).unwrap();
        let md = file.metadata();
        assert_eq!(md.get("the.key"), Some(&value), "values survive a round trip");
        let ty = value.value_type().to_string();
        let refused = |result: Result<(), GgufError>, fits: bool| match result {
            Ok(()) => assert!(fits, "{ty} was accepted"),
            Err(error) => {
                assert!(!fits, "{ty} was refused: {error}");
                let error = error.to_string();
                assert!(error.contains("the.key") && error.contains(&ty), "`{error}` names key and type");
            }
        };
        refused(md.u64("the.key").map(drop), matches!(ty.as_str(), "u8" | "u16" | "u32" | "u64"));
        refused(md.f32("the.key").map(drop), matches!(ty.as_str(), "f32" | "f64"));
        refused(md.opt_bool("the.key").map(drop), ty == "bool");
        refused(md.str("the.key").map(drop), ty == "string");
        refused(md.opt_array("the.key").map(drop), ty == "array");
        // An array of another element type names the elements.
        for error in [
            md.opt_strings("the.key").map(drop).unwrap_err(),
            md.opt_f32s("the.key").map(drop).unwrap_err(),
            md.opt_i32s("the.key").map(drop).unwrap_err(),
        ] {
            let expected = if ty == "array" { "u8" } else { &ty };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    let mut w = GgufWriter::new();
    w.set("nan", Value::F32(f32::NAN));
    let file = GgufFile::from_bytes(w.to_bytes()).unwrap();
    assert!(file.metadata().f32("nan").unwrap_err().to_string().contains("finite"));
    assert!(matches!(file.metadata().u64("absent"), Err(GgufError::MissingKey(k)) if k == "absent"));
}
