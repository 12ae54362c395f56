//! Adapters: against an independent float64 implementation, bit against bit, and files that are none.

use std::path::Path;
use std::sync::Arc;

use ingle_gguf::{GgufFile, GgufWriter, TensorType, Value};
use ingle_kernels::{ClaimOrder, Isa, Pool};
use ingle_model::{AdapterFile, AdapterLease, CpuExecutor, LoadOptions};
use ingle_step::{
    ADAPTERS_MAX, AdapterId, AdapterUse, Executor, ExecutorError, KvType, SeqStep, StepBatch, Want,
};
use ingle_testkit::lora::{Peft, TinyLora, safetensors};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};
use tempfile::TempDir;

use crate::golden_specs::adapters;
use crate::support::{load_exact, log_prob, run, seq_step, try_load};

/// A name, dimensions, numbers.
type Tensor<D> = (String, Vec<D>, Vec<f32>);

/// As for models without adapters: our float32 differs from float64 by about a fifth of this.
const TOLERANCE: f64 = 3e-5;
/// A changed adapter must differ from the golden by more than this.
const MUTATION_MIN: f64 = 5.0 * TOLERANCE;

/// A folder as PEFT saves one.
fn peft_folder(peft: &Peft) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("adapter_config.json"), &peft.config).expect("written");
    std::fs::write(folder.path().join("adapter_model.safetensors"), &peft.tensors).expect("written");
    folder
}

fn load(executor: &CpuExecutor, path: &Path) -> AdapterLease {
    let file = executor.adapters().read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    executor.adapters().load(&file).expect("there is memory")
}

fn load_peft(executor: &CpuExecutor, peft: &Peft) -> AdapterLease {
    load(executor, peft_folder(peft).path())
}

fn load_gguf(executor: &CpuExecutor, bytes: &[u8]) -> AdapterLease {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    std::fs::write(&path, bytes).expect("written");
    load(executor, &path)
}

fn used(lease: &AdapterLease, scale: f32) -> AdapterUse {
    AdapterUse { adapter: lease.id(), scale }
}

/// The logits of every position of a text, in one step.
fn logits(executor: &mut CpuExecutor, tokens: &[u32], adapters: &[AdapterUse]) -> Vec<Vec<f32>> {
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(executor.info().block_size) as u32).collect();
    let step = SeqStep { adapters: adapters.to_vec(), ..seq_step(1, tokens, 0, &blocks, |_| true) };
    run(executor, vec![step]).seqs.remove(0).rows.into_iter().map(|row| row.values).collect()
}

struct Golden {
    tokens: Vec<u32>,
    /// Of each token but the first.
    log_probs: Vec<f64>,
}

fn golden(name: &str) -> Golden {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../goldens/lora.json")).expect("lora.json is JSON");
    let numbers = |key: &str| -> Vec<f64> {
        let list = json[name][key].as_array().unwrap_or_else(|| panic!("{name}: run goldens/lora.py again"));
        list.iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let tokens = numbers("tokens").into_iter().map(|t| t as u32).collect();
    Golden { tokens, log_probs: numbers("log_probs") }
}

/// The largest difference from a golden.
fn error(executor: &mut CpuExecutor, golden: &Golden, adapters: &[AdapterUse]) -> f64 {
    let rows = logits(executor, &golden.tokens, adapters);
    let pairs = rows.iter().zip(&golden.tokens[1..]).zip(&golden.log_probs);
    pairs.map(|((row, &token), expected)| (log_prob(row, token) - expected).abs()).fold(0.0, f64::max)
}

#[test]
fn log_probs_equal_an_independent_implementation() {
    for (name, base, lora, scale) in adapters() {
        let golden = golden(name);
        let mut executor = load_exact(base.bytes(), None);
        let peft = load_peft(&executor, &lora.peft(&base));
        let found = error(&mut executor, &golden, &[used(&peft, scale)]);
        println!("{name}: {found:.1e}");
        assert!(found < TOLERANCE, "{name}: off by {found:.1e}");
        let without = error(&mut executor, &golden, &[]);
        assert!(without > MUTATION_MIN, "{name}: without the adapter it is off by only {without:.1e}");
        let weaker = error(&mut executor, &golden, &[used(&peft, 0.95 * scale)]);
        assert!(weaker > MUTATION_MIN, "{name}: a weaker adapter is off by only {weaker:.1e}");
    }
}

#[test]
fn both_formats_give_the_same_bits() {
    for (name, base, lora, scale) in adapters() {
        let lora = TinyLora { rslora: false, ..lora };
        let mut executor = load_exact(base.bytes(), None);
        let tokens = golden(name).tokens;
        let peft = load_peft(&executor, &lora.peft(&base));
        let gguf = load_gguf(&executor, &lora.gguf(&base).to_bytes());
        assert_ne!(peft.id(), gguf.id());
        let from_peft = logits(&mut executor, &tokens, &[used(&peft, scale)]);
        assert!(from_peft == logits(&mut executor, &tokens, &[used(&gguf, scale)]), "{name}");
    }
}

/// What PEFT saved, written as GGUF for a model of which only the header is known: the same bits where one number says
/// all scales, and the same up to rounding where none does.
#[test]
fn one_format_is_written_as_the_other() {
    let read = |executor: &CpuExecutor, path: &Path| {
        let file = executor.adapters().read(path).expect("an adapter");
        let mut bytes = Vec::new();
        file.content(&mut |piece| bytes.extend_from_slice(piece));
        bytes
    };
    for (name, base, lora, scale) in adapters() {
        let executor = load_exact(base.bytes(), None);
        let folder = peft_folder(&lora.peft(&base));
        let header = GgufFile::from_bytes(base.bytes()).expect("a model");
        let file = AdapterFile::to_gguf(folder.path(), &header).expect(name);
        let path = folder.path().join("written.gguf");
        std::fs::write(&path, file.to_bytes()).expect("written");
        assert!(read(&executor, folder.path()) == read(&executor, &path), "{name} {scale}");
        // A GGUF file is taken, too, and comes out as it was.
        let again = AdapterFile::to_gguf(&path, &header).expect(name);
        assert!(again.to_bytes() == std::fs::read(&path).expect("read"), "{name}");
    }
    // Scales that no single alpha gives.
    let base = TinySpec::new(Arch::Llama);
    let mut executor = load_exact(base.bytes(), None);
    let mut peft = TinyLora::new(3).peft(&base);
    peft.config = peft.config.replacen('{', r#"{"alpha_pattern": {"up_proj": 3, "lm_head": 5.5}, "#, 1);
    let folder = peft_folder(&peft);
    let header = GgufFile::from_bytes(base.bytes()).expect("a model");
    let written = AdapterFile::to_gguf(folder.path(), &header).expect("an adapter");
    let (direct, written) = (load(&executor, folder.path()), load_gguf(&executor, &written.to_bytes()));
    let tokens = [1, 5, 9, 3];
    let direct = logits(&mut executor, &tokens, &[used(&direct, 1.0)]);
    let written = logits(&mut executor, &tokens, &[used(&written, 1.0)]);
    let plain = logits(&mut executor, &tokens, &[]);
    let apart = |x: &[Vec<f32>], y: &[Vec<f32>]| {
        x.iter().flatten().zip(y.iter().flatten()).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
    };
    assert!(apart(&direct, &written) < TOLERANCE, "{}", apart(&direct, &written));
    assert!(apart(&direct, &plain) > MUTATION_MIN);
    // For another model it is refused by name.
    let other = TinySpec { n_ff: 2 * base.n_ff, ..base };
    let other = GgufFile::from_bytes(other.bytes()).expect("a model");
    let error = AdapterFile::to_gguf(folder.path(), &other).map(drop).expect_err("another model").to_string();
    assert!(error.contains("the adapter is for another model"), "{error}");
}

#[test]
fn digests_do_not_depend_on_the_format() {
    let content = |file: &AdapterFile| {
        let mut bytes = Vec::new();
        file.content(&mut |piece| bytes.extend_from_slice(piece));
        bytes
    };
    let base = TinySpec::new(Arch::Llama);
    let executor = load_exact(base.bytes(), None);
    let lora = TinyLora::new(3);
    let read = |lora: &TinyLora, as_gguf: bool| {
        let folder = peft_folder(&lora.peft(&base));
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, lora.gguf(&base).to_bytes()).expect("written");
        let path = if as_gguf { &path } else { folder.path() };
        executor.adapters().read(path).expect("an adapter")
    };
    let (peft, gguf) = (read(&lora, false), read(&lora, true));
    assert!(content(&peft) == content(&gguf));
    assert_eq!((peft.rank(), peft.n_matrices()), (4, 2 * 7 + 2));
    assert!(content(&peft) != content(&read(&TinyLora { alpha: 9.0, ..lora.clone() }, false)));
    assert!(content(&peft) != content(&read(&TinyLora { seed: 4, ..lora }, false)));
}

/// The tensors of a `safetensors` file of F32: names, shapes, numbers.
fn tensors_of(file: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).expect("JSON");
    let sizes = |v: &serde_json::Value| -> Vec<usize> {
        v.as_array().expect("a list").iter().map(|x| x.as_u64().expect("a size") as usize).collect()
    };
    let entries = header.as_object().expect("an object").iter();
    entries
        .map(|(name, entry)| {
            let [start, end] = sizes(&entry["data_offsets"])[..] else { panic!("two offsets") };
            let bytes = file[8 + length + start..8 + length + end].as_chunks::<4>().0;
            (name.clone(), sizes(&entry["shape"]), bytes.iter().map(|&b| f32::from_le_bytes(b)).collect())
        })
        .collect()
}

#[test]
fn every_tensor_matters() {
    for (name, base, lora, scale) in adapters() {
        let golden = golden(name);
        let mut executor = load_exact(base.bytes(), None);
        let peft = lora.peft(&base);
        let tensors = tensors_of(&peft.tensors);
        assert!(tensors.len() >= 8, "{name}: {} tensors", tensors.len());
        for changed in 0..tensors.len() {
            let mut tensors = tensors.clone();
            // Tokens pick columns of an embedding table's A: all of them change, so that some are picked.
            tensors[changed].2.iter_mut().step_by(3).for_each(|x| *x *= 1.2);
            let tensor = tensors[changed].0.clone();
            let lease = load_peft(&executor, &Peft { tensors: safetensors(&tensors), ..peft.clone() });
            let found = error(&mut executor, &golden, &[used(&lease, scale)]);
            assert!(found > MUTATION_MIN, "{name}: a change of `{tensor}` moves results by {found:.1e}");
        }
        let other = TinyLora { alpha: 1.05 * lora.alpha, ..lora.clone() };
        let lease = load_peft(&executor, &other.peft(&base));
        assert!(error(&mut executor, &golden, &[used(&lease, scale)]) > MUTATION_MIN, "{name}: alpha");
    }
}

/// How sequences are run.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    isa: Isa,
    n_threads: usize,
    order: ClaimOrder,
    /// Rows in a step, in turn.
    chunks: &'static [usize],
    /// All sequences in each step, in the reverse order; otherwise one after the other.
    together: bool,
}

const N_SEQS: usize = 8;
const N_TOKENS: usize = 70;

/// Five adapters, and what each of eight sequences has of them.
fn loras() -> Vec<TinyLora> {
    vec![
        TinyLora::new(1),
        TinyLora { rank: 7, ..TinyLora::new(2) },
        TinyLora { rank: 16, ..TinyLora::new(3) }.of(&["q_proj", "v_proj"]),
        TinyLora { rank: 33, ..TinyLora::new(4) }.of(&["gate_proj", "o_proj"]),
        TinyLora { rank: 1, ..TinyLora::new(5) }.of(&["down_proj", "k_proj"]),
    ]
}

fn sets(leases: &[AdapterLease]) -> Vec<Vec<AdapterUse>> {
    let set = |of: &[(usize, f32)]| of.iter().map(|&(i, scale)| used(&leases[i], scale)).collect();
    vec![
        set(&[]),
        set(&[(0, 1.0)]),
        set(&[(1, 0.5)]),
        set(&[(0, 0.25), (2, 1.0)]),
        set(&[(2, 1.0), (0, 0.25)]),
        set(&[(3, -1.0)]),
        set(&[(4, 1.0), (3, 0.7), (1, 0.3)]),
        set(&[(0, 1.0)]),
    ]
}

/// The bits of all logits, and of the last hidden state, of each sequence.
fn bits(base: &TinySpec, schedule: Schedule) -> Vec<Vec<Vec<u32>>> {
    let pool = Arc::new(Pool::with(schedule.n_threads, schedule.isa, schedule.order));
    let options = LoadOptions { kv_type: KvType::F16, kv_tokens: N_SEQS * 96, ..LoadOptions::default() };
    let mut executor = try_load(base.bytes(), pool, &options).expect("a valid model");
    let leases: Vec<AdapterLease> =
        loras().iter().map(|lora| load_gguf(&executor, &lora.gguf(base).to_bytes())).collect();
    let sets = sets(&leases);
    let texts: Vec<Vec<u32>> = (0..N_SEQS)
        .map(|seq| {
            // The first and the last two have one text: only their adapters differ.
            let mut rng = Rng::new(if seq < 5 { 50 } else { seq as u64 });
            (0..N_TOKENS).map(|_| rng.below(base.n_vocab) as u32).collect()
        })
        .collect();
    let mut out = vec![Vec::new(); N_SEQS];
    let turns: Vec<Vec<usize>> = match schedule.together {
        true => vec![(0..N_SEQS).rev().collect()],
        false => (0..N_SEQS).map(|seq| vec![seq]).collect(),
    };
    for turn in turns {
        let mut at = [0; N_SEQS];
        let mut chunks = schedule.chunks.iter().copied().cycle();
        while turn.iter().any(|&seq| at[seq] < N_TOKENS) {
            let mut steps = Vec::new();
            for &seq in &turn {
                let n = chunks.next().unwrap_or(N_TOKENS).min(N_TOKENS - at[seq]);
                if n == 0 {
                    continue;
                }
                let blocks: Vec<u32> = (3 * seq as u32..3 * seq as u32 + 3).collect();
                let tokens = &texts[seq][at[seq]..at[seq] + n];
                let mut step = seq_step(seq as u64, tokens, at[seq], &blocks, |_| true);
                if at[seq] + n == N_TOKENS {
                    step.wants.push((n as u32 - 1, Want::Hidden));
                }
                step.adapters = sets[seq].clone();
                steps.push(step);
                at[seq] += n;
            }
            for seq in run(&mut executor, steps).seqs {
                let rows = seq.rows.iter().map(|row| row.values.iter().map(|x| x.to_bits()).collect());
                out[seq.seq.0 as usize].extend(rows);
            }
        }
    }
    out
}

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    let best = Isa::available().last().expect("scalar is always there");
    let plain =
        Schedule { isa: best, n_threads: 1, order: ClaimOrder::Forward, chunks: &[], together: false };
    let mut schedules = vec![
        Schedule { together: true, ..plain },
        Schedule { together: true, n_threads: 2, chunks: &[3, 31, 1, 40], ..plain },
        Schedule { n_threads: 2, order: ClaimOrder::Shuffled(5), chunks: &[1, 29], ..plain },
    ];
    for isa in Isa::available().filter(|&isa| isa != best) {
        schedules.push(Schedule { isa, together: true, chunks: &[30, 1], ..plain });
    }
    let types =
        [(Arch::Llama, TensorType::Q4_K), (Arch::Qwen2, TensorType::F32), (Arch::Qwen3, TensorType::Q8_0)];
    for (arch, ty) in types {
        let base = TinySpec::new(arch).wide().weight_type(ty);
        let expected = bits(&base, plain);
        // One adapter twice gives the same, another order of two does not, and none is not any.
        assert!(expected[3] != expected[4] && expected[0] != expected[1], "{arch:?}");
        for &schedule in &schedules {
            let found = bits(&base, schedule);
            for seq in 0..N_SEQS {
                assert!(found[seq] == expected[seq], "{arch:?} {ty}: sequence {seq} differs in {schedule:?}");
            }
        }
    }
}

#[test]
fn without_adapters_nothing_changes() {
    let base = TinySpec::new(Arch::Llama).wide().weight_type(TensorType::Q4_0);
    let tokens: Vec<u32> = (0..60).map(|i| i * 7 % 256).collect();
    let expected = logits(&mut load_exact(base.bytes(), None), &tokens, &[]);
    let mut executor = load_exact(base.bytes(), None);
    let lease = load_gguf(&executor, &TinyLora::new(1).gguf(&base).to_bytes());
    assert!(logits(&mut executor, &tokens, &[]) == expected, "one is loaded");
    // Beside a sequence with an adapter, products that are fused otherwise are not.
    let plain = seq_step(1, &tokens, 0, &[0, 1], |_| true);
    let adapted = SeqStep { adapters: vec![used(&lease, 1.0)], ..seq_step(2, &tokens, 0, &[2, 3], |_| true) };
    let out = run(&mut executor, vec![adapted, plain]);
    assert!(out.seqs[1].rows.iter().map(|row| &row.values).eq(&expected), "one runs beside it");
    assert!(out.seqs[0].rows.iter().map(|row| &row.values).ne(&expected));
    let zero = logits(&mut executor, &tokens, &[used(&lease, 0.0)]);
    assert!(zero == expected, "it is added with no strength");
}

#[test]
fn adapters_live_as_long_as_somebody_has_them() {
    let base = TinySpec::new(Arch::Qwen3);
    let mut executor = load_exact(base.bytes(), None);
    let bytes = TinyLora::new(1).gguf(&base).to_bytes();
    let first = load_gguf(&executor, &bytes);
    let n_bytes = first.memory_bytes();
    assert!(n_bytes > 0 && executor.adapters().memory_bytes() == n_bytes);
    let request = first.clone();
    let id = first.id();
    drop(first);
    logits(&mut executor, &[1, 2, 3], &[used(&request, 1.0)]);
    let second = load_gguf(&executor, &bytes);
    assert!(second.id() != id && executor.adapters().memory_bytes() == 2 * n_bytes);
    drop(request);
    assert_eq!(executor.adapters().memory_bytes(), n_bytes);
    let gone = AdapterUse { adapter: id, scale: 1.0 };
    let mut check = |adapters: Vec<AdapterUse>, expected: &str| {
        let step = SeqStep { adapters, ..seq_step(1, &[1, 2], 0, &[0], |_| true) };
        let error = executor.submit(StepBatch { seqs: vec![step], ..StepBatch::default() });
        let Err(ExecutorError::InvalidBatch(text)) = error else { panic!("{expected}: {error:?}") };
        assert!(text.contains(expected), "{text}");
    };
    check(vec![gone], "there is no adapter");
    check(vec![AdapterUse { adapter: AdapterId(77), scale: 1.0 }], "there is no adapter 77");
    check(vec![used(&second, 1.0), used(&second, 0.5)], "is there twice");
    check(vec![used(&second, f32::NAN)], "scale");
    let many = (0..=ADAPTERS_MAX as u64).map(|i| AdapterUse { adapter: AdapterId(i), scale: 1.0 });
    check(many.collect(), "at most 16");
}

/// A GGUF adapter for the smallest of bases, with one thing changed.
fn small() -> (TinySpec, TinyLora) {
    let base = TinySpec::new(Arch::Llama);
    (base, TinyLora::new(1).of(&["q_proj"]))
}

#[test]
fn broken_gguf_files() {
    let (base, lora) = small();
    let executor = load_exact(base.bytes(), None);
    let good = GgufFile::from_bytes(lora.gguf(&base).to_bytes()).expect("a file");
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    let check = |bytes: Vec<u8>, expected: &str| {
        std::fs::write(&path, bytes).expect("written");
        let error =
            executor.adapters().read(&path).err().unwrap_or_else(|| panic!("{expected}: it is taken"));
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    };
    let with = |key: &str, value: Value| {
        let mut md = good.metadata().clone();
        md.set(key, value);
        let mut out = GgufWriter::with_metadata(md);
        for info in good.tensors() {
            out.tensor(&info.name, info.ty, &info.dims, good.tensor_data(info).unwrap().into_owned());
        }
        out.to_bytes()
    };
    check(with("general.type", "model".into()), "`general.type` is `model`");
    check(with("adapter.type", "control_vector".into()), "control_vector");
    check(with("general.architecture", "qwen2".into()), "for architecture `qwen2`, the model is `llama`");
    check(with("adapter.lora.alpha", "x".into()), "adapter.lora.alpha");
    check(with("adapter.lora.alpha", Value::F32(f32::NAN)), "adapter.lora.alpha");
    check(with("adapter.alora.invocation_tokens", Value::U32(1)), "alora");
    check(base.bytes(), "no adapter");

    let tensors = |change: &dyn Fn(&mut Vec<Tensor<u64>>)| {
        let mut all: Vec<_> = good
            .tensors()
            .iter()
            .map(|t| {
                let data = good.tensor_data(t).unwrap();
                let floats = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
                (t.name.clone(), t.dims.clone(), floats.collect())
            })
            .collect();
        change(&mut all);
        let mut out = GgufWriter::with_metadata(good.metadata().clone());
        for (name, dims, data) in all {
            out.tensor_f32(&name, &dims, &data);
        }
        out.to_bytes()
    };
    check(tensors(&|all| all.clear()), "no tensors");
    check(tensors(&|all| drop(all.remove(0))), "blk.0.attn_q.weight.lora_a`");
    check(tensors(&|all| drop(all.remove(1))), "without `blk.0.attn_q.weight.lora_b`");
    check(tensors(&|all| all[0].0 = "blk.9.attn_q.weight.lora_a".into()), "without");
    check(
        tensors(&|all| {
            all[0].0 = "blk.9.attn_q.weight.lora_a".into();
            all[1].0 = "blk.9.attn_q.weight.lora_b".into();
        }),
        "adapts nothing",
    );
    check(tensors(&|all| all[0].0 = "blk.0.attn_norm.weight".into()), "whole weights");
    check(tensors(&|all| all[0].1 = vec![4, 64]), "has the shape [4, 64], the model needs [64, rank]");
    check(tensors(&|all| all[1].1 = vec![64, 4]), "has the shape [64, 4], the model needs [4, 64]");
    check(
        tensors(&|all| all[0].2[5] = f32::INFINITY),
        "attn_q.weight.lora_a` has a value that is not finite",
    );
    check(tensors(&|all| all[1].2[5] = f32::NAN), "attn_q.weight.lora_b` has a value that is not finite");
    let wide = |rank: u64| {
        tensors(&|all| {
            (all[0].1, all[0].2) = (vec![64, rank], vec![0.0; 64 * rank as usize]);
            (all[1].1, all[1].2) = (vec![rank, 64], vec![0.0; 64 * rank as usize]);
        })
    };
    check(wide(1025), "of rank 1025");
    std::fs::write(&path, wide(1)).expect("written");
    executor.adapters().read(&path).expect("a rank of one");
    // Cut anywhere, it is refused and nothing breaks.
    let whole = lora.gguf(&base).to_bytes();
    for n in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..n]).expect("written");
        assert!(executor.adapters().read(&path).is_err(), "{n} bytes of {}", whole.len());
    }
}

#[test]
fn broken_peft_folders() {
    let (base, lora) = small();
    let executor = load_exact(base.bytes(), None);
    let good = lora.peft(&base);
    let check = |peft: Peft, expected: &str| {
        let folder = peft_folder(&peft);
        let found = executor.adapters().read(folder.path());
        let error = found.err().unwrap_or_else(|| panic!("{expected}: it is taken"));
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    };
    let tensors = |change: &dyn Fn(&mut Vec<Tensor<usize>>)| {
        let mut all = tensors_of(&good.tensors);
        change(&mut all);
        Peft { tensors: safetensors(&all), ..good.clone() }
    };
    let header = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes.extend([0; 64]);
        Peft { tensors: bytes, ..good.clone() }
    };
    check(tensors(&|all| all.clear()), "no tensors");
    check(tensors(&|all| drop(all.remove(1))), "without `lora_B of model.layers.0.self_attn.q_proj`");
    check(tensors(&|all| all[0].0.push_str(".bias")), "modules_to_save");
    check(tensors(&|all| all[0].1 = vec![64, 4]), "has the shape [64, 4], the model needs [rank, 64]");
    check(tensors(&|all| all[0].2[0] = f32::NAN), "not finite");
    let of_rank = |rank: usize| {
        tensors(&|all| {
            (all[0].1, all[0].2) = (vec![rank, 64], vec![0.0; 64 * rank]);
            (all[1].1, all[1].2) = (vec![64, rank], vec![0.0; 64 * rank]);
        })
    };
    check(of_rank(5), "has rank 5, the settings say 4");
    check(Peft { config: "{".into(), ..good.clone() }, "adapter_config.json");
    check(Peft { config: good.config.replace("LORA", "LOHA"), ..good.clone() }, "only LORA is");
    let dora = good.config.replace("\"bias\"", "\"use_dora\": true, \"bias\"");
    check(Peft { config: dora, ..good.clone() }, "use_dora");
    check(header("{}"), "no tensors");
    check(header("[1]"), "its description");
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let entry = |entry: &str| header(&format!("{{\"{name}\":{entry}}}"));
    check(entry("1"), "no `dtype`");
    check(entry(r#"{"dtype":"F32"}"#), "`shape`");
    check(entry(r#"{"dtype":"F32","shape":[1,-1],"data_offsets":[0,4]}"#), "`shape`");
    check(entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), "disagree");
    check(entry(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#), "disagree");
    check(entry(r#"{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}"#), "disagree");
    check(entry(r#"{"dtype":"F32","shape":[25],"data_offsets":[0,100]}"#), "beyond the end");
    check(
        entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}"#),
        "beyond the end",
    );
    check(entry(r#"{"dtype":"I64","shape":[1],"data_offsets":[0,8]}"#), "of type I64");
    let mut long = good.tensors.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    check(Peft { tensors: long, ..good.clone() }, "claims 18446744073709551615 bytes");
    for n in (0..good.tensors.len()).step_by(131) {
        let folder = peft_folder(&Peft { tensors: good.tensors[..n].to_vec(), ..good.clone() });
        assert!(executor.adapters().read(folder.path()).is_err(), "{n} bytes");
    }

    let folder = TempDir::new().expect("a folder");
    let error = |path: &Path| executor.adapters().read(path).expect_err("refused").to_string();
    assert!(error(folder.path()).contains("adapter_config.json"));
    std::fs::write(folder.path().join("adapter_config.json"), &good.config).expect("written");
    std::fs::write(folder.path().join("adapter_model.bin"), b"x").expect("written");
    assert!(error(folder.path()).contains("pickled"));
    assert!(error(&folder.path().join("adapter_model.bin")).contains("pickled"));
    assert!(error(&folder.path().join("nothing")).contains("cannot read"));
    // The file itself may be named too.
    let folder = peft_folder(&good);
    executor.adapters().read(&folder.path().join("adapter_model.safetensors")).expect("an adapter");
}
