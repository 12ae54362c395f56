//! Loading: what is refused, with which words, and what is reported on the way.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingle_gguf::{Array, GgufFile, GgufWriter, TensorType, Value};
use ingle_kernels::{Matrix, Pool, dequantize};
use ingle_model::synthetic::Synthetic;
use ingle_model::{CpuExecutor, HParams, LoadOptions, ModelError, RopeScaling, Sizing};
use ingle_step::{Executor, KvType, StepBatch};
use ingle_testkit::quant::quantize;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, Rope, TinySpec};
use proptest::prelude::*;

use crate::support::{all_logits, run, seq_step, try_load};

fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(1))
}

/// The file of a tiny model after `edit` has changed its metadata, and with some tensors changed or left out.
fn edited(
    spec: &TinySpec,
    edit: impl Fn(&mut GgufWriter),
    tensor: impl Fn(&str, &[u64]) -> Option<(TensorType, Vec<u64>)>,
) -> Vec<u8> {
    let file = GgufFile::from_bytes(spec.bytes()).expect("a valid file");
    let mut out = GgufWriter::with_metadata(file.metadata().clone());
    edit(&mut out);
    for info in file.tensors() {
        if let Some((ty, dims)) = tensor(&info.name, &info.dims) {
            let n_bytes = ty.row_bytes(dims[0]).expect("whole blocks") * dims[1..].iter().product::<u64>();
            let mut data = file.tensor_data(info).unwrap().into_owned();
            data.resize(n_bytes as usize, 0);
            out.tensor(&info.name, ty, &dims, data);
        }
    }
    out.to_bytes()
}

fn check_refused(expected: &str, bytes: Vec<u8>, options: &LoadOptions) {
    let loaded = try_load(bytes, pool(), options).map(|_| "the model was loaded");
    let error = loaded.expect_err(expected).to_string();
    assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
}

fn check_key(arch: Arch, key: &str, value: Value, expected: &str) {
    let spec = TinySpec::new(arch);
    let bytes = edited(
        &spec,
        |file| _ = file.set(key, value.clone()),
        |_, dims| Some((TensorType::F32, dims.to_vec())),
    );
    check_refused(expected, bytes, &LoadOptions::default());
}

#[test]
fn impossible_hyperparameters_are_named() {
    let check = |key: &str, value: Value, expected: &str| check_key(Arch::Llama, key, value, expected);
    check(
        "general.architecture",
        "mamba".into(),
        "`mamba` is not supported (supported: llama, qwen2, qwen3, bert)",
    );
    for value in
        [Value::U32(0), Value::U64(u64::MAX), Value::I32(-1), Value::F32(f32::NAN), Value::U64(1 << 62)]
    {
        for key in [
            "llama.block_count",
            "llama.context_length",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.head_count_kv",
            "llama.attention.key_length",
            "llama.attention.value_length",
            "llama.rope.dimension_count",
        ] {
            check(key, value.clone(), key);
        }
    }
    for value in
        [Value::F32(0.0), Value::F32(-1.0), Value::F32(f32::NAN), Value::F32(f32::INFINITY), Value::U32(1)]
    {
        for key in ["llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"] {
            check(key, value.clone(), key);
        }
    }
    check("llama.attention.head_count_kv", Value::U32(3), "4 query heads do not divide into groups for 3");
    check("llama.rope.dimension_count", Value::U32(15), "15 is not an even number up to the head's 16");
    check("llama.rope.scaling.type", "cubic".into(), "`cubic` is unknown");
    check("llama.rope.scaling.factor", Value::F32(-2.0), "llama.rope.scaling.factor");
    check("llama.block_count", Value::U32(4096), "4096 layers, but the file has only");
    check("llama.block_count", Value::U32(3), "`blk.2.attn_q.weight` [64, 64] is missing");
    check("llama.block_count", Value::U32(1), "`blk.1.attn_norm.weight` is not part of architecture `llama`");
    check(
        "llama.feed_forward_length",
        Value::U32(95),
        "has dimensions [96, 64], but the metadata need [95, 64]",
    );
    let three = Value::Array(Array::U32(vec![4; 3]));
    check("llama.attention.head_count", three, "3 elements for 2 layers");
    check("llama.expert_count", Value::U32(8), "a mixture of experts is not supported");
    check("llama.attn_logit_softcapping", Value::F32(50.0), "`llama.attn_logit_softcapping`");
    check_key(Arch::Qwen2, "qwen2.attention.causal", Value::Bool(false), "attention in both directions");
}

#[test]
fn sizes_may_be_arrays_with_one_element_per_layer() {
    let spec = TinySpec::new(Arch::Llama);
    let arrays = |file: &mut GgufWriter| {
        file.set("llama.attention.head_count", Value::Array(Array::U32(vec![4; 2])));
        file.set("llama.feed_forward_length", Value::Array(Array::I32(vec![96; 2])));
    };
    let bytes = edited(&spec, arrays, |_, dims| Some((TensorType::F32, dims.to_vec())));
    let mut with_arrays = try_load(bytes, pool(), &LoadOptions::default()).expect("valid");
    let mut without = try_load(spec.bytes(), pool(), &LoadOptions::default()).expect("valid");
    assert_eq!(all_logits(&mut with_arrays, &[1, 2, 3]), all_logits(&mut without, &[1, 2, 3]));
}

#[test]
fn wrong_tensors_are_named() {
    let spec = TinySpec::new(Arch::Qwen2);
    let check = |name: &str, change: Option<(TensorType, Vec<u64>)>, expected: &str| {
        let tensor = |n: &str, dims: &[u64]| {
            if n == name { change.clone() } else { Some((TensorType::F32, dims.to_vec())) }
        };
        check_refused(expected, edited(&spec, |_| {}, tensor), &LoadOptions::default());
    };
    check("blk.0.attn_q.bias", None, "tensor `blk.0.attn_q.bias` [64] is missing");
    check("blk.1.ffn_down.weight", None, "tensor `blk.1.ffn_down.weight` [96, 64] is missing");
    check("token_embd.weight", None, "tensor `token_embd.weight`");
    check(
        "output_norm.weight",
        Some((TensorType::F32, vec![63])),
        "dimensions [63], but the metadata need [64]",
    );
    check(
        "blk.0.attn_k.weight",
        Some((TensorType::F32, vec![32, 64])),
        "[32, 64], but the metadata need [64, 32]",
    );
    check(
        "blk.0.attn_v.weight",
        Some((TensorType::NVFP4, vec![64, 32])),
        "weights of type NVFP4 are not supported yet",
    );
    check(
        "blk.0.attn_norm.weight",
        Some((TensorType::I8, vec![64])),
        "`blk.0.attn_norm.weight`: weights of type I8",
    );
    // A trailing dimension of 1 changes nothing.
    let tensor = |n: &str, dims: &[u64]| {
        let one = if n.ends_with("norm.weight") { vec![1] } else { vec![] };
        Some((TensorType::F32, [dims.to_vec(), one].concat()))
    };
    try_load(edited(&spec, |_| {}, tensor), pool(), &LoadOptions::default()).expect("the same tensors");
}

#[test]
fn impossible_options_are_refused() {
    let bytes = TinySpec::new(Arch::Llama).bytes();
    let default = LoadOptions::default;
    let check = |options: LoadOptions, expected: &str| check_refused(expected, bytes.clone(), &options);
    check(LoadOptions { n_ctx: Some(0), ..default() }, "a context of 0 tokens");
    check(LoadOptions { n_ctx: Some(513), ..default() }, "513 tokens is too long: the model reaches 512");
    check(LoadOptions { n_ctx: Some(usize::MAX), ..default() }, "is too long");
    check(LoadOptions { block_size: 0, ..default() }, "a block of 0 slots");
    check(LoadOptions { block_size: 24, ..default() }, "a block of 24 slots");
    check(LoadOptions { kv_tokens: 0, ..default() }, "0 tokens of K/V memory");
    check(LoadOptions { kv_tokens: usize::MAX, ..default() }, "tokens of K/V memory");
    check(
        LoadOptions { kv_tokens: 100 << 30, ..default() },
        "no memory for a K/V cache of 107374182400 tokens",
    );
    let linear = |factor| LoadOptions { rope_scaling: Some(RopeScaling::Linear { factor }), ..default() };
    check(linear(f32::NAN), "factors and contexts must be above 0");
    check(LoadOptions { n_ctx: Some(1025), ..linear(2.0) }, "the model reaches 1024");
    let options = LoadOptions { n_ctx: Some(1024), ..linear(2.0) };
    let executor = try_load(bytes, pool(), &options).expect("a scaling of 2 doubles the reach");
    assert_eq!(executor.info().n_ctx, 1024);
}

#[test]
fn a_scaling_can_be_chosen_at_load() {
    let plain = TinySpec::new(Arch::Qwen2);
    let scaled = TinySpec { rope: Rope::Yarn { factor: 4.0, original: 512 }, n_ctx: 2048, ..plain.clone() };
    let tokens: Vec<u32> = (0..600).map(|i| i * 11 % 256).collect();
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_ctx: 512,
        ext_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    let options = LoadOptions { n_ctx: Some(2048), rope_scaling: Some(yarn), ..LoadOptions::default() };
    let mut chosen = try_load(plain.bytes(), pool(), &options).expect("valid");
    let mut stated = try_load(scaled.bytes(), pool(), &LoadOptions::default()).expect("valid");
    let logits = all_logits(&mut chosen, &tokens);
    assert_eq!(logits, all_logits(&mut stated, &tokens));
    let mut unscaled = try_load(plain.bytes(), pool(), &LoadOptions::default()).expect("valid");
    assert_ne!(logits[..500], all_logits(&mut unscaled, &tokens[..500]));

    let long_rope = RopeScaling::LongRope { factor: 1.0, original_ctx: 256 };
    let options = LoadOptions { rope_scaling: Some(long_rope), ..LoadOptions::default() };
    check_refused("`rope_factors_long.weight` [8] is missing", plain.bytes(), &options);
}

#[test]
fn progress_counts_every_byte_once() {
    for tied in [true, false] {
        let spec = TinySpec { tied, ..TinySpec::new(Arch::Qwen3) };
        let file = Arc::new(GgufFile::from_bytes(spec.bytes()).expect("a valid file"));
        let total: u64 = file.tensors().iter().map(|t| t.n_bytes() as u64).sum();
        let mut seen = Vec::new();
        let mut progress = |done, all| seen.push((done, all));
        CpuExecutor::load(file.clone(), pool(), &LoadOptions::default(), &mut progress)
            .expect("a valid model");
        assert!(seen.is_sorted(), "progress never goes back");
        assert!(seen.iter().all(|s| s.1 == total));
        assert_eq!(seen.last(), Some(&(total, total)));

        let sizing = Sizing::from_gguf(&file).expect("a valid model");
        assert_eq!(sizing.weight_bytes + sizing.embedding_bytes, total);
        let embedding_bytes = if tied { 0 } else { 4 * 64 * 288 };
        assert_eq!(sizing.embedding_bytes, embedding_bytes);
        for kv_type in KvType::ALL {
            let options = LoadOptions { kv_type, kv_tokens: 100, ..LoadOptions::default() };
            let executor = CpuExecutor::load(file.clone(), pool(), &options, &mut |_, _| {}).expect("valid");
            assert_eq!(sizing.kv_bytes(kv_type, 32, 100), executor.info().kv_bytes, "{kv_type:?}");
        }
    }
}

/// What a model will hold is known before it is loaded, to the byte.
#[test]
fn the_header_tells_what_a_model_holds() {
    for arch in [Arch::Llama, Arch::Qwen2, Arch::Qwen3] {
        for ty in [TensorType::F32, TensorType::F16, TensorType::Q8_0, TensorType::Q4_0, TensorType::BF16] {
            for tied in [true, false] {
                let spec = TinySpec { tied, ..TinySpec::new(arch).weight_type(ty) };
                let file = Arc::new(GgufFile::from_bytes(spec.bytes()).expect("a valid file"));
                let sizing = Sizing::from_gguf(&file).expect("a valid model");
                let options = LoadOptions { kv_tokens: 1000, ..LoadOptions::default() };
                let executor = CpuExecutor::start(file, pool(), &options).expect("a valid model");
                let info = executor.info();
                let expected = (info.weight_bytes, info.kv_bytes);
                assert_eq!(
                    (sizing.packed_bytes, sizing.kv_bytes(KvType::F16, 32, 1000)),
                    expected,
                    "{arch:?} {ty} tied: {tied}"
                );
                assert!(sizing.buffer_bytes(512, 64) > sizing.buffer_bytes(1, 1));
            }
        }
    }
}

/// A model whose weights cannot be packed before `until` is sent something: all of the pool is taken.
fn start_held(bytes: Vec<u8>, during: impl FnOnce(CpuExecutor, Sender<()>)) {
    let pool = Arc::new(Pool::new(2));
    let (until, released) = channel();
    let released = Mutex::new(released);
    let (taken, is_taken) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pool.run(2, &|i| {
                if i == 0 {
                    taken.send(()).expect("the test waits");
                    // An error is a test that has ended.
                    let _ = released.lock().expect("nobody panics here").recv();
                }
            });
        });
        is_taken.recv().expect("the pool runs its task");
        let file = Arc::new(GgufFile::from_bytes(bytes).expect("a valid file"));
        let executor =
            CpuExecutor::start(file, pool.clone(), &LoadOptions::default()).expect("a valid model");
        during(executor, until);
    });
}

#[test]
fn steps_run_while_weights_are_packed() {
    for tied in [true, false] {
        let spec = TinySpec { tied, ..TinySpec::new(Arch::Llama) };
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
        let mut loaded = try_load(spec.bytes(), pool(), &LoadOptions::default()).expect("a valid model");
        let expected = all_logits(&mut loaded, &tokens);
        start_held(spec.bytes(), |mut executor, until| {
            let loading = executor.loading().clone();
            assert_eq!(executor.info(), loaded.info(), "all is known before anything is packed");
            assert!(!loading.is_complete());
            let (done, total) = loading.progress();
            assert!(done < total, "{done} of {total} bytes");
            std::thread::scope(|scope| {
                let (begins, begun) = channel();
                let (executor, tokens) = (&mut executor, &tokens);
                let logits = scope.spawn(move || {
                    begins.send(()).expect("the test waits");
                    all_logits(executor, tokens)
                });
                begun.recv().expect("the thread runs");
                std::thread::sleep(Duration::from_millis(20));
                assert!(!logits.is_finished(), "a step waits for its layers");
                drop(until);
                assert_eq!(logits.join().expect("the step runs"), expected);
            });
            assert_eq!(executor.info(), loaded.info());
            loading.wait(&mut |_, _| {}).expect("nothing interrupts it");
            assert!(loading.is_complete());
            assert_eq!(loading.progress(), (total, total));
            assert_eq!(all_logits(&mut executor, &tokens), expected, "with everything in memory too");
        });
    }
}

#[test]
fn a_model_that_goes_while_it_is_loaded_ends_loading() {
    let spec = TinySpec::new(Arch::Qwen3);
    start_held(spec.bytes(), |executor, until| {
        let loading = executor.loading().clone();
        let (begins, begun) = channel();
        let dropping = std::thread::spawn(move || {
            begins.send(()).expect("the test waits");
            drop(executor);
        });
        begun.recv().expect("the thread runs");
        std::thread::sleep(Duration::from_millis(20));
        drop(until);
        dropping.join().expect("dropping does not panic");
        assert!(!loading.is_complete());
        assert!(matches!(loading.wait(&mut |_, _| {}), Err(ModelError::Interrupted(_))));
    });
    start_held(spec.bytes(), |mut executor, until| {
        executor.loading().stop();
        drop(until);
        let seqs = vec![seq_step(1, &[1, 2, 3], 0, &[0], |_| true)];
        let refused = executor.submit(StepBatch { step: 1, seqs, ..StepBatch::default() });
        let error = refused.expect_err("its weights do not come").to_string();
        assert!(error.contains("weights were not loaded"), "{error}");
    });
}

#[test]
fn rows_of_a_file_equal_rows_of_the_repacked_matrix() {
    use TensorType::*;
    let mut rng = Rng::new(3);
    let x: Vec<f32> = (0..20 * 512).map(|_| rng.normal()).collect();
    for ty in [F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K] {
        let bytes = quantize(ty, &x);
        let matrix = Matrix::from_gguf(ty, 20, 512, &bytes, &pool()).expect("a supported type");
        let mut largest_error = 0f32;
        for (row, (bytes, x)) in bytes.chunks_exact(bytes.len() / 20).zip(x.chunks_exact(512)).enumerate() {
            let (mut from_file, mut from_matrix) = (vec![0.0; 512], vec![0.0; 512]);
            assert!(dequantize(ty, bytes, &mut from_file), "{ty} is read");
            matrix.dequantize_row(row, &mut from_matrix);
            assert_eq!(from_file, from_matrix, "{ty}, row {row}");
            for (a, b) in from_file.iter().zip(x) {
                largest_error = largest_error.max((a - b).abs());
            }
        }
        // Rounding to 4 bits of values up to about 4.
        assert!(largest_error < 0.5, "{ty}: off by {largest_error}");
    }
    assert!(!dequantize(I32, &[0; 128], &mut [0.0; 32]), "not a type that is read");
}

#[test]
fn synthetic_models_run() {
    // The sizes are those of the real models. Rows of 896 columns are no whole super-blocks: blocks of 32 take their
    // place.
    for (name, n_parameters) in [
        ("qwen2.5-0.5b:Q4_0", 494_032_768),
        ("qwen2.5-0.5b:Q3_K_M", 494_032_768),
        ("qwen3-0.6b:Q4_K_M", 596_049_920),
        ("qwen3-0.6b:Q2_K", 596_049_920),
        ("qwen3-0.6b:Q5_K_S", 596_049_920),
    ] {
        let synthetic = Synthetic::parse(name).expect("a known name");
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut out = std::io::BufWriter::new(path.reopen().expect("the file is there"));
        synthetic.write(&mut out).expect("the disk has room");
        drop(out);
        let file = Arc::new(GgufFile::open(path.path()).expect("a valid file"));
        assert_eq!(Sizing::from_gguf(&file).expect("a valid model").n_parameters, n_parameters, "{name}");
        // A server streams each token: all have text, but the one that ends it.
        let (tokens, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let texts = file.metadata().opt_strings(tokens).expect("texts").expect("a vocabulary");
        let normal =
            file.metadata().opt_i32s(types).expect("numbers").expect("types").iter().filter(|ty| **ty == 1);
        assert_eq!(
            (normal.count(), texts.get(150_000)),
            (texts.len() - 1, "\u{120}150000".as_bytes()),
            "{name}"
        );
        if name.ends_with("Q4_0") {
            continue;
        }
        let mut executor =
            CpuExecutor::load(file, Arc::new(Pool::new(2)), &LoadOptions::default(), &mut |_, _| {})
                .expect("a valid model");
        let out = run(&mut executor, vec![seq_step(1, &[1, 2, 300, 150_000], 0, &[0], |row| row == 3)]);
        let logits = &out.seqs[0].rows[0].values;
        let mean_square = logits.iter().map(|l| l * l).sum::<f32>() / logits.len() as f32;
        assert!((0.01..100.0).contains(&mean_square), "{name}: logits of size {mean_square}");
    }
    for name in ["llama-9b:Q4_0", "llama-1b:Q3_K_X", ""] {
        assert!(matches!(Synthetic::parse(name), Err(ModelError::Options(_))), "{name}");
    }
}

/// A value as a hostile or broken file might have it.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0u32..10).prop_map(Value::U32),
        (0u32..13).prop_map(|bits| Value::U32(1 << bits)),
        any::<u32>().prop_map(Value::U32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        prop::collection::vec(0u32..130, 0..4).prop_map(|v| Value::Array(Array::U32(v))),
        Just("yarn".into()),
        Just("longrope".into()),
        Just("linear".into()),
    ]
}

const KEYS: [&str; 21] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "expert_count",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever the metadata say, either they are refused, or every width in the graph follows from the others
    /// without overflow, and a model that loads also runs.
    #[test]
    fn any_hyperparameters_are_refused_or_fit_together(
        arch in prop::sample::select(Arch::ALL.to_vec()),
        changes in prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_value()), 0..4),
    ) {
        let mut writer = TinySpec::new(arch).build();
        for (key, value) in changes {
            writer.set(&format!("{}.{key}", arch.name()), value);
        }
        let bytes = writer.to_bytes();
        let file = GgufFile::from_bytes(bytes.clone()).expect("a valid file");
        let Ok(hp) = HParams::from_gguf(&file) else { return Ok(()) };
        let graph = (hp.arch.describe)(&hp);
        prop_assert_eq!(graph.layers.len(), hp.layers.len());
        for layer in &graph.layers {
            let a = &layer.attention;
            prop_assert_eq!(a.n_heads % a.n_kv_heads, 0);
            prop_assert_eq!(a.q.weight.n_out, a.n_heads.checked_mul(a.k_dim).expect("widths are bounded"));
            prop_assert_eq!(a.k.weight.n_out, a.n_kv_heads.checked_mul(a.k_dim).expect("widths are bounded"));
            prop_assert_eq!(a.v.weight.n_out, a.n_kv_heads.checked_mul(a.v_dim).expect("widths are bounded"));
            prop_assert_eq!(a.output.weight.n_in, a.n_heads.checked_mul(a.v_dim).expect("widths are bounded"));
            prop_assert!(a.scale.is_finite() && a.scale > 0.0);
        }
        for weight in graph.weights() {
            let elements = (weight.n_in as u64).checked_mul(weight.n_out as u64);
            prop_assert!(elements.is_some_and(|n| n > 0));
        }
        prop_assert!(hp.rope.n_rot <= hp.k_dim && hp.rope.n_rot % 2 == 0);
        if let Ok(mut executor) = try_load(bytes, pool(), &LoadOptions::default()) {
            all_logits(&mut executor, &[1]);
        }
    }
}
