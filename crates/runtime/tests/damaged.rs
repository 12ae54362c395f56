//! Models that are wrong in one place each: an error that says what, or an answer; never a panic, never a long wait.

use std::time::{Duration, Instant};

use ingle_gguf::{GgufFile, GgufWriter, Metadata, TensorType, Value};
use ingle_runtime::{Engine, LoadOptions, Source};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, Rope, TinySpec};

/// One tensor, taken apart.
#[derive(Clone)]
struct Tensor {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    data: Vec<u8>,
}

fn parts(spec: &TinySpec) -> (Metadata, Vec<Tensor>) {
    let file = GgufFile::from_bytes(spec.bytes()).unwrap();
    let tensors = file.tensors().iter().map(|t| Tensor {
        name: t.name.clone(),
        ty: t.ty,
        dims: t.dims.to_vec(),
        data: file.tensor_data(t).unwrap().into_owned(),
    });
    let mut metadata = Metadata::default();
    file.metadata().iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    (metadata, tensors.collect())
}

fn join(metadata: Metadata, tensors: &[Tensor]) -> Vec<u8> {
    let mut file = GgufWriter::with_metadata(metadata);
    for t in tensors {
        file.tensor(&t.name, t.ty, &t.dims, t.data.clone());
    }
    file.to_bytes()
}

/// Far above what a verdict takes, also on a busy machine.
const HANG: Duration = Duration::from_secs(30);

/// Whether the model answers; if it does not, the error must say something.
fn answers(what: &str, bytes: Vec<u8>) -> bool {
    let started = Instant::now();
    let options = LoadOptions { n_threads: Some(1), ..LoadOptions::default() };
    let result = Engine::load_with(&Source::Bytes(bytes), &options, &mut |_, _| {})
        .map_err(|e| e.to_string())
        .and_then(|engine| engine.generate("abc").max_tokens(2).run().map_err(|e| e.to_string()));
    let took = started.elapsed();
    assert!(took < HANG, "{what}: took {took:?}");
    if let Err(error) = &result {
        assert!(error.len() > 10, "{what}: `{error}` says too little");
        assert!(!error.contains("panic"), "{what}: {error}");
    }
    result.is_ok()
}

fn specs() -> Vec<TinySpec> {
    let yarn = Rope::Yarn { factor: 4.0, original: 128 };
    vec![
        TinySpec { rope: yarn, sliding_window: Some(64), ..TinySpec::new(Arch::Llama) },
        TinySpec::new(Arch::Qwen2),
        TinySpec { rope: Rope::LongRope { original: 128, attn_factor: 1.1 }, ..TinySpec::new(Arch::Qwen3) },
    ]
}

#[test]
fn every_tensor_is_missed_and_measured() {
    for spec in specs() {
        let (metadata, tensors) = parts(&spec);
        assert!(answers("whole", join(metadata.clone(), &tensors)));
        for (i, tensor) in tensors.iter().enumerate() {
            let what = |change: &str| format!("{}: {} {change}", spec.arch.name(), tensor.name);
            let mut without = tensors.clone();
            without.remove(i);
            // A tied output and Qwen2's optional tensors may be absent.
            let answered = answers(&what("dropped"), join(metadata.clone(), &without));
            let optional = tensor.name.ends_with(".bias")
                || tensor.name.starts_with("rope_")
                || tensor.name == "output.weight";
            assert!(!answered || optional, "{}", what("dropped"));
            for d in 0..tensor.dims.len() {
                for size in [0, 1, tensor.dims[d] - 1, tensor.dims[d] * 2] {
                    let mut changed = tensors.clone();
                    let t = &mut changed[i];
                    t.dims[d] = size;
                    t.data.resize(t.dims.iter().product::<u64>() as usize * 4, 0);
                    if size == tensor.dims[d] {
                        continue;
                    }
                    // A tied table with more rows than there are tokens is padded, as real ones are.
                    let padded =
                        spec.tied && tensor.name == "token_embd.weight" && d == 1 && size > tensor.dims[d];
                    let what = what(&format!("dim {d} is {size}"));
                    // Beyond the original context only the long factors are read.
                    let unread = tensor.name == "rope_factors_short.weight";
                    let answered = answers(&what, join(metadata.clone(), &changed));
                    assert!(!answered || padded || unread, "{what}");
                }
            }
            for (ty, bytes_each) in
                [(TensorType::F16, 2), (TensorType::I8, 1), (TensorType::I32, 4), (TensorType::F64, 8)]
            {
                let mut changed = tensors.clone();
                let n: u64 = changed[i].dims.iter().product();
                changed[i].ty = ty;
                changed[i].data = vec![0; n as usize * bytes_each];
                answers(&what(&format!("is {ty}")), join(metadata.clone(), &changed));
            }
            let mut rank = tensors.clone();
            rank[i].dims.push(1);
            answers(&what("has another dimension"), join(metadata.clone(), &rank));
        }
    }
}

#[test]
fn every_hyperparameter_is_wrong() {
    for spec in specs() {
        let (metadata, tensors) = parts(&spec);
        let keys: Vec<(String, Value)> = metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        for (key, value) in &keys {
            let mut without = Metadata::default();
            keys.iter().filter(|(k, _)| k != key).for_each(|(k, v)| without.set(k, v.clone()));
            answers(&format!("{key} dropped"), join(without, &tensors));
            let mut wrong =
                vec![Value::U32(0), Value::U32(1), Value::U32(3), Value::U32(u32::MAX), Value::U64(u64::MAX)];
            wrong.extend([Value::I32(-1), Value::I64(i64::MIN), Value::Bool(true), "text".into(), "".into()]);
            wrong.extend([0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40, 1e38].map(Value::F32));
            for value in wrong.into_iter().filter(|w| w != value) {
                let what = format!("{}: {key} = {value:?}", spec.arch.name());
                let mut changed = metadata.clone();
                changed.set(key, value);
                answers(&what, join(changed, &tensors));
            }
        }
    }
}

/// The status of this process's memory, in bytes.
#[cfg(target_os = "linux")]
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A thousand files with one bit wrong, and as many cut somewhere: header faults are errors at load, and a wrong weight is
/// an answer or an error.
#[test]
fn flipped_bits_and_cut_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let options = LoadOptions { n_threads: Some(1), ..LoadOptions::default() };
    let mut rng = Rng::new(17);
    let (mut n_refused, mut n_answered) = (0, 0);
    for i in 0..2000 {
        let mut bytes = TinySpec::new(Arch::ALL[i % 3]).bytes();
        // Half of the flips hit the header.
        let file = GgufFile::from_bytes(bytes.clone()).unwrap();
        let header = bytes.len() - file.tensors().iter().map(ingle_gguf::TensorInfo::n_bytes).sum::<usize>();
        let what = match i % 2 {
            0 => {
                let byte = rng.below(if i % 4 == 0 { header } else { bytes.len() });
                let bit = rng.below(8);
                bytes[byte] ^= 1 << bit;
                format!("file {i}: bit {bit} of byte {byte}")
            }
            _ => {
                bytes.truncate(rng.below(bytes.len()));
                format!("file {i}: {} bytes", bytes.len())
            }
        };
        std::fs::write(&path, &bytes).unwrap();
        let started = Instant::now();
        let result = Engine::load_with(&Source::File(path.clone()), &options, &mut |_, _| {})
            .map_err(|e| e.to_string())
            .and_then(|engine| engine.generate("abc").max_tokens(2).run().map_err(|e| e.to_string()));
        assert!(started.elapsed() < HANG, "{what}: {:?}", started.elapsed());
        match result {
            Ok(_) => {
                assert_eq!(i % 2, 0, "{what}: a file that was cut cannot be whole");
                n_answered += 1;
            }
            Err(error) => {
                assert!(error.len() > 10 && !error.contains("panic"), "{what}: {error}");
                n_refused += 1;
            }
        }
    }
    assert!(n_refused > 1000 && n_answered > 100, "{n_refused} refused, {n_answered} answered");
    #[cfg(target_os = "linux")]
    assert!(peak_bytes() < 2 << 30, "{} bytes at the peak", peak_bytes());
}
