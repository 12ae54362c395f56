//! Sizes from headers: against published figures, against llama-quantize's mixtures, and against what is really taken.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ingle_gguf::{Array, GgufFile, GgufWriter, Metadata, TensorType, Value};
use ingle_kernels::Pool;
use ingle_model::sizing::devices::{Catalogue, Kind};
use ingle_model::sizing::shapes::{SHAPES, Shape};
use ingle_model::sizing::{
    Arithmetic, BLOCK_SIZE, Demand, Keeps, Machine, Mixture, Range, Rule, Summary, TensorShape, Verdict,
    advise, fits, huggingface,
};
use ingle_model::synthetic::Synthetic;
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_step::{Executor, KvType};
use ingle_testkit::tiny::{Arch, TinySpec};
use proptest::prelude::*;

const GIB: f64 = (1_u64 << 30) as f64;

fn shape(name: &str) -> &'static Shape {
    Shape::find(name).expect(name)
}

fn summary(name: &str, mixture: Mixture) -> Summary {
    let header = shape(name).header(mixture).expect(name);
    Summary::from_gguf(&header).expect(name)
}

fn demand(n_ctx: u64) -> Demand {
    Demand { n_ctx, ..Demand::default() }
}

/// Numbers in the tensors of published files, as their hubs count them.
#[test]
fn shapes_have_as_many_parameters_as_published() {
    for (name, n_parameters) in [
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("tinyllama-1.1b", 1_100_048_384),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("mistral-7b", 7_248_023_552),
        ("mistral-nemo-12b", 12_247_782_400),
        ("mistral-small-24b", 23_572_403_200),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("gemma-2-2b", 2_614_341_888),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-2-27b", 27_227_128_320),
        ("gemma-3-1b", 999_885_952),
        ("phi-4", 14_659_507_200),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
        ("deepseek-v3", 671_026_419_200),
    ] {
        assert_eq!(shape(name).n_parameters(), n_parameters, "{name}");
        assert_eq!(summary(name, Mixture::Q4_K_M).n_parameters, n_parameters, "{name} through a header");
    }
    for shape in SHAPES {
        assert!(shape.source.starts_with("https://"), "{}", shape.name);
        shape.header(Mixture::Q8_0).expect(shape.name);
    }
}

/// Bytes of keys and values of a token in F16, as papers and calculators that read the configuration have them.
#[test]
fn keys_and_values_of_a_token() {
    for (name, bytes) in [
        ("llama-3.1-8b", 131_072),
        ("mistral-7b", 131_072),
        ("llama-2-7b", 524_288),
        ("llama-2-13b", 819_200),
        ("llama-3.1-70b", 327_680),
        ("qwen3-0.6b", 114_688),
        ("deepseek-v3", 70_272),
        // By hand: layers × K/V heads × 2 × numbers of a head × 2 bytes.
        ("qwen2.5-7b", 28 * 4 * 2 * 128 * 2),
        ("qwen3-32b", 64 * 8 * 2 * 128 * 2),
        ("qwen3-30b-a3b", 48 * 4 * 2 * 128 * 2),
        ("phi-4", 40 * 10 * 2 * 128 * 2),
        ("gemma-3-27b", 62 * 16 * 2 * 128 * 2),
        ("gemma-2-9b", 42 * 8 * 2 * 256 * 2),
        ("gpt-oss-20b", 24 * 8 * 2 * 64 * 2),
        ("mixtral-8x7b", 32 * 8 * 2 * 128 * 2),
        ("tinyllama-1.1b", 22 * 4 * 2 * 64 * 2),
    ] {
        assert_eq!(summary(name, Mixture::F16).kv_bytes_per_token(KvType::F16), bytes, "{name}");
    }
}

#[test]
fn keys_and_values_of_a_context() {
    let check = |name: &str, n_ctx: u64, rule: Rule, gib: f64| {
        let bytes = summary(name, Mixture::F16).kv_bytes(&demand(n_ctx), rule) as f64 / GIB;
        assert!((bytes - gib).abs() < 0.005 * gib.max(1.0), "{name} at {n_ctx}: {bytes} GiB, not {gib}");
    };
    let all = Rule::AllPositions;
    check("llama-3.1-8b", 4096, all, 0.5);
    check("llama-2-7b", 4096, all, 2.0);
    check("llama-3.1-70b", 4096, all, 1.25);
    check("llama-3.1-70b", 131_072, all, 40.0);
    check("deepseek-v3", 131_072, all, 8.578);
    // Layers with windows: all positions, and as llama.cpp keeps them.
    check("gemma-3-27b", 131_072, all, 62.0);
    check("gemma-3-27b", 131_072, Rule::LlamaCpp, 10.61);
    check("gpt-oss-20b", 131_072, all, 6.0);
    check("gpt-oss-20b", 131_072, Rule::LlamaCpp, 3.018);
    // 21 of 42 layers keep 4096 + 512 of 8192 positions.
    check("gemma-2-9b", 8192, Rule::LlamaCpp, (21.0 * 8192.0 + 21.0 * 4608.0) * 8192.0 / GIB);
    // A window as long as the context changes nothing.
    check("gemma-2-9b", 4096, Rule::LlamaCpp, 42.0 * 4096.0 * 8192.0 / GIB);
    // Phi-3.5's window is there, and nobody keeps less for it.
    check("phi-3.5-mini", 131_072, Rule::LlamaCpp, 32.0 * 32.0 * 96.0 * 4.0 * 131_072.0 / GIB);
}

#[test]
fn types_and_sequences_multiply() {
    let llama = summary("llama-3.1-8b", Mixture::F16);
    for (kv_type, bytes) in [
        (KvType::F32, 262_144),
        (KvType::F16, 131_072),
        (KvType::BF16, 131_072),
        (KvType::Q8_0, 131_072 / 2 * 34 / 32),
        (KvType::Q4_0, 131_072 / 2 * 18 / 32),
    ] {
        assert_eq!(llama.kv_bytes_per_token(kv_type), bytes, "{kv_type:?}");
    }
    let three = Demand { n_seqs: 3, ..demand(1000) };
    assert_eq!(llama.kv_bytes(&three, Rule::AllPositions), 3 * 1000 * 131_072);
}

/// Metadata of an architecture that is not in the table of shapes.
fn described(arch: &str, pairs: &[(&str, Value)]) -> Summary {
    let mut md = Metadata::default();
    md.set("general.architecture", arch.into());
    for (key, value) in pairs {
        md.set(&format!("{arch}.{key}"), value.clone());
    }
    Summary::new(&md, Vec::<TensorShape>::new(), Err("not here".into())).expect(arch)
}

fn int(n: u64) -> Value {
    Value::U64(n)
}

fn ints(values: &[u32]) -> Value {
    Value::Array(Array::U32(values.to_vec()))
}

fn flags(values: &[bool]) -> Value {
    Value::Array(Array::Bool(values.to_vec()))
}

/// The sizes that llama.cpp allocates for the same metadata: `n_embd_r` and `n_embd_s` numbers of F32 in each recurrent
/// layer, keys and values in the others.
#[test]
fn recurrent_layers_have_a_state_of_fixed_size() {
    // state-spaces/mamba-2.8b: 64 layers, inner 5120, state 16, convolution over 4.
    let mamba = described(
        "mamba",
        &[
            ("block_count", int(64)),
            ("embedding_length", int(2560)),
            ("ssm.conv_kernel", int(4)),
            ("ssm.inner_size", int(5120)),
            ("ssm.state_size", int(16)),
        ],
    );
    assert_eq!(mamba.kv_bytes(&demand(1 << 20), Rule::AllPositions), 0);
    assert_eq!(mamba.state_bytes(2), 2 * 64 * (3 * 5120 + 16 * 5120) * 4);

    // Qwen/Qwen3-Next-80B-A3B: every fourth of 48 layers has attention with 2 heads of 256; the others a gated delta
    // network: 16 key heads of 128, 32 value heads of 128.
    let qwen = described(
        "qwen3next",
        &[
            ("block_count", int(48)),
            ("embedding_length", int(2048)),
            ("attention.head_count", int(16)),
            ("attention.head_count_kv", int(2)),
            ("attention.key_length", int(256)),
            ("attention.value_length", int(256)),
            ("ssm.conv_kernel", int(4)),
            ("ssm.inner_size", int(4096)),
            ("ssm.state_size", int(128)),
            ("ssm.group_count", int(16)),
        ],
    );
    assert_eq!(qwen.kv_bytes_per_token(KvType::F16), 12 * 2 * 2 * 256 * 2);
    assert_eq!(qwen.state_bytes(1), 36 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4);

    // A hybrid by its heads: layers without any are recurrent.
    let jamba = described(
        "jamba",
        &[
            ("block_count", int(4)),
            ("embedding_length", int(64)),
            ("attention.head_count", int(4)),
            ("attention.head_count_kv", ints(&[0, 0, 2, 0])),
            ("ssm.conv_kernel", int(4)),
            ("ssm.inner_size", int(128)),
            ("ssm.state_size", int(16)),
        ],
    );
    assert_eq!(jamba.kv_bytes_per_token(KvType::F16), 2 * 2 * 16 * 2);
    assert_eq!(jamba.state_bytes(1), 3 * (3 * 128 + 16 * 128) * 4);

    // Layers that are neither: feed-forward networks alone.
    let nemotron = described(
        "nemotron_h",
        &[
            ("block_count", int(3)),
            ("embedding_length", int(64)),
            ("feed_forward_length", ints(&[0, 256, 0])),
            ("attention.head_count", int(4)),
            ("attention.head_count_kv", ints(&[0, 0, 2])),
            ("ssm.conv_kernel", int(4)),
            ("ssm.inner_size", int(128)),
            ("ssm.state_size", int(16)),
            ("ssm.group_count", int(2)),
        ],
    );
    let keeps: Vec<bool> = nemotron.layers.iter().map(|l| l.keeps != Keeps::Nothing).collect();
    assert_eq!(keeps, [false, false, true]);
    assert_eq!(nemotron.state_bytes(1), (3 * (128 + 2 * 2 * 16) + 16 * 128) * 4);

    // BlinkDL's 1.6B: 24 layers of 2048 with heads of 64, two shifted tokens.
    let rwkv = described(
        "rwkv6",
        &[("block_count", int(24)), ("embedding_length", int(2048)), ("wkv.head_size", int(64))],
    );
    assert_eq!(rwkv.state_bytes(1), 24 * (2 * 2048 + 2048 * 64) * 4);

    // LFM2: short convolutions over 3 beside attention.
    let lfm = described(
        "lfm2",
        &[
            ("block_count", int(3)),
            ("embedding_length", int(1024)),
            ("attention.head_count", int(16)),
            ("attention.head_count_kv", ints(&[0, 8, 0])),
            ("shortconv.l_cache", int(3)),
        ],
    );
    assert_eq!((lfm.kv_bytes_per_token(KvType::F16), lfm.state_bytes(1)), (8 * 2 * 64 * 2, 2 * 1024 * 2 * 4));

    // Both in every layer.
    let falcon = described(
        "falcon-h1",
        &[
            ("block_count", int(2)),
            ("embedding_length", int(64)),
            ("attention.head_count", int(4)),
            ("attention.head_count_kv", int(2)),
            ("ssm.conv_kernel", int(4)),
            ("ssm.inner_size", int(128)),
            ("ssm.state_size", int(16)),
            ("ssm.group_count", int(1)),
        ],
    );
    assert_eq!(falcon.kv_bytes_per_token(KvType::F16), 2 * 2 * 2 * 16 * 2);
    assert_eq!(falcon.state_bytes(1), 2 * (3 * (128 + 2 * 16) + 16 * 128) * 4);
}

#[test]
fn windows_follow_the_architecture_or_the_file() {
    let base = |n: u64| {
        vec![
            ("block_count", int(n)),
            ("embedding_length", int(64)),
            ("attention.head_count", int(4)),
            ("attention.head_count_kv", int(1)),
            ("attention.sliding_window", int(1024)),
        ]
    };
    let check = |arch: &str, more: &[(&'static str, Value)], expected: &[u64]| {
        let mut pairs = base(expected.len() as u64);
        pairs.extend(more.iter().cloned());
        let summary = described(arch, &pairs);
        let ring = |w: ingle_model::sizing::Window| if w.is_ring { w.n } else { 0 };
        let found: Vec<u64> = summary.layers.iter().map(|l| l.window.map_or(0, ring)).collect();
        assert_eq!(found, expected, "{arch}");
    };
    let w = 1024;
    check("gemma2", &[], &[w, 0, w, 0]);
    check("gemma3", &[], &[w, w, w, w, w, 0, w]);
    check("gpt-oss", &[], &[w, 0, w]);
    check("cohere2", &[], &[w, w, w, 0, w]);
    check("llama4", &[], &[8192, 8192, 8192, 0, 8192]);
    check("llama4", &[("attention.sliding_window", int(0))], &[0, 0, 0, 0]);
    check("smallthinker", &[], &[0, 4096, 4096, 4096, 0]);
    check("exaone4", &[("attention.sliding_window_pattern", int(2))], &[w, 0, w, 0]);
    check("gemma4", &[("attention.sliding_window_pattern", flags(&[true, true, false]))], &[w, w, 0]);
    check("llama", &[], &[0, 0]);
    // Windows can have heads of another size.
    let mut pairs = base(2);
    pairs.push(("attention.sliding_window_pattern", flags(&[true, false])));
    pairs.extend([("attention.key_length", int(512)), ("attention.value_length", int(512))]);
    pairs.extend([("attention.key_length_swa", int(256)), ("attention.value_length_swa", int(256))]);
    assert_eq!(described("gemma4", &pairs).kv_bytes_per_token(KvType::F16), (2 * 512 + 2 * 256) * 2);
    // Layers that use earlier layers' keys and values keep none.
    pairs.push(("attention.shared_kv_layers", int(1)));
    assert_eq!(described("gemma4", &pairs).kv_bytes_per_token(KvType::F16), 2 * 256 * 2);
}

#[test]
fn latent_attention_keeps_one_latent_unless_the_file_is_old() {
    let mut pairs = vec![
        ("block_count", int(2)),
        ("embedding_length", int(64)),
        ("attention.head_count", int(4)),
        ("attention.key_length", int(48)),
        ("attention.value_length", int(32)),
        ("attention.kv_lora_rank", int(40)),
        ("rope.dimension_count", int(16)),
    ];
    let old = described("deepseek2", &pairs);
    assert_eq!(old.kv_bytes_per_token(KvType::F16), 2 * 4 * (48 + 32) * 2);
    assert!(old.notes.iter().any(|note| note.contains("old conversion")), "{:?}", old.notes);
    pairs.push(("attention.key_length_mla", int(48)));
    assert_eq!(described("deepseek2", &pairs).kv_bytes_per_token(KvType::F16), 2 * (40 + 16) * 2);
}

#[test]
fn layers_that_only_guess_ahead_keep_nothing() {
    let glm = described(
        "glm4moe",
        &[
            ("block_count", int(47)),
            ("nextn_predict_layers", int(1)),
            ("embedding_length", int(4096)),
            ("attention.head_count", int(96)),
            ("attention.head_count_kv", int(8)),
            ("attention.key_length", int(128)),
            ("attention.value_length", int(128)),
        ],
    );
    assert_eq!(glm.kv_bytes_per_token(KvType::F16), 46 * 8 * 2 * 128 * 2);
}

#[test]
fn only_experts_that_are_used_are_read() {
    let check = |name: &str, n: u64, tolerance: f64| {
        let active = summary(name, Mixture::F16).n_parameters_active as f64;
        assert!((active / n as f64 - 1.0).abs() < tolerance, "{name}: {active} active, not {n}");
    };
    // As published, with embedding tables that are not tied counted or not.
    check("mixtral-8x7b", 12_900_000_000, 0.02);
    check("qwen3-30b-a3b", 3_300_000_000, 0.1);
    check("gpt-oss-20b", 3_610_000_000, 0.2);
    check("deepseek-v3", 37_000_000_000, 0.05);
    let dense = summary("llama-3.1-8b", Mixture::F16);
    assert_eq!(dense.n_parameters - dense.n_parameters_active, 128_256 * 4096);
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    path.exists().then_some(path)
}

/// Sections of a snapshot: the mixture, its usual type, and the tensors that have another.
fn snapshot(text: &str) -> Vec<(String, String, HashMap<String, String>)> {
    let mut sections: Vec<(String, String, HashMap<String, String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, ty) = line.split_once(' ').expect("two words");
        match name.strip_prefix('[') {
            Some(name) => sections.push((name.trim_end_matches(']').into(), ty.into(), HashMap::new())),
            None => _ = sections.last_mut().expect("a section").2.insert(name.into(), ty.into()),
        }
    }
    sections
}

/// Every tensor of every mixture, as llama-quantize picks them. The snapshots lie outside the repository; without them
/// this does nothing.
#[test]
fn mixtures_are_those_of_llama_quantize() {
    for (file, name) in [
        ("meta-llama-3.1-70b-instruct", "llama-3.1-70b"),
        ("qwen3-0.6b", "qwen3-0.6b"),
        ("qwen3-14b", "qwen3-14b"),
        ("gpt-oss-120b", "gpt-oss-120b"),
        ("deepseek-v3.1", "deepseek-v3"),
    ] {
        let Some(path) = shared(&format!("quant_mix/{file}.schema")) else { return };
        let text = std::fs::read_to_string(path).expect("the snapshot can be read");
        let sections = snapshot(&text);
        assert!(sections.len() > 25, "{file} has {} sections", sections.len());
        for (mixture_name, usual, others) in sections {
            let mixture =
                Mixture::from_name(&mixture_name).unwrap_or_else(|| panic!("{mixture_name} is known"));
            // The snapshots have the head of their own that the checkpoints carry beside the same table.
            let header = Shape { tied: false, ..*shape(name) }.header(mixture).expect("a header");
            let mut found = others.len();
            for tensor in header.tensors() {
                let expected = match others.get(&tensor.name) {
                    Some(ty) => {
                        found -= 1;
                        ty
                    }
                    None if tensor.ty == TensorType::F32 && mixture != Mixture::F32 => continue,
                    None => &usual,
                };
                let ty = tensor.ty.name();
                assert!(
                    ty.eq_ignore_ascii_case(expected),
                    "{file} {mixture_name} {}: {ty}, not {expected}",
                    tensor.name
                );
            }
            assert_eq!(found, 0, "{file} {mixture_name}: tensors of the snapshot that the shape lacks");
        }
    }
}

/// Bytes of the tensors in published files, in GiB.
#[test]
fn weights_are_those_of_published_files() {
    for (name, mixture, gib) in [
        // As llama.cpp prints them when it loads the files: "model size".
        ("llama-3.1-8b", Mixture::Q4_K_M, 4.58),
        ("llama-3.1-8b", Mixture::Q8_0, 7.95),
        ("llama-3.1-8b", Mixture::F16, 14.96),
        ("llama-3.1-70b", Mixture::Q4_K_M, 39.59),
        ("llama-2-7b", Mixture::Q4_0, 3.56),
        ("llama-2-7b", Mixture::Q4_K_M, 3.80),
        ("llama-2-13b", Mixture::Q4_K_M, 7.33),
        ("llama-2-70b", Mixture::Q4_K_M, 38.58),
        ("qwen2.5-7b", Mixture::Q4_K_M, 4.36),
        ("qwen2.5-32b", Mixture::Q4_K_M, 18.48),
        ("gemma-2-9b", Mixture::Q4_K_M, 5.36),
        ("phi-4", Mixture::Q4_K_M, 8.43),
    ] {
        let bytes = summary(name, mixture).weight_bytes as f64 / GIB;
        assert!((bytes - gib).abs() < 0.011, "{name} in {}: {bytes:.3} GiB, not {gib}", mixture.name());
    }
}

/// What `Sizing` and `Needs` say before a load is what the executor says afterwards; and weights are within 3 % of the
/// file's, which is what other machines' estimates count with.
#[test]
fn what_is_taken_is_what_was_said() {
    let check = |bytes: Vec<u8>, kv_type: KvType, n_ctx: usize, n_seqs: u64| {
        let file = Arc::new(GgufFile::from_bytes(bytes).expect("a valid file"));
        let summary = Summary::from_gguf(&file).expect("a model");
        let own = summary.own.clone().expect("it runs here");
        let demand = Demand { n_ctx: n_ctx as u64, n_seqs, kv_type, n_rows: 512 };
        let said = own.needs_for(&demand);
        let kv_tokens = (n_ctx * n_seqs as usize).max(n_ctx + BLOCK_SIZE);
        let options = LoadOptions {
            n_ctx: Some(n_ctx),
            kv_type,
            kv_tokens,
            block_size: BLOCK_SIZE,
            ..LoadOptions::default()
        };
        let executor = CpuExecutor::load(Arc::clone(&file), Arc::new(Pool::new(2)), &options, &mut |_, _| ());
        let executor = executor.expect("it loads");
        let info = executor.info();
        assert_eq!(
            (said.weights, said.kv),
            (info.weight_bytes, info.kv_bytes),
            "{} {kv_type:?}",
            summary.arch
        );
        // By the rule of the architecture, but for whole blocks and padding of rows.
        let ruled = summary.kv_bytes(
            &Demand { n_ctx: (kv_tokens.div_ceil(BLOCK_SIZE) * BLOCK_SIZE) as u64, n_seqs: 1, ..demand },
            Rule::AllPositions,
        );
        assert_eq!(ruled, info.kv_bytes, "{} {kv_type:?}: the rule", summary.arch);
        (summary, info.weight_bytes)
    };
    for arch in [Arch::Llama, Arch::Qwen2, Arch::Qwen3] {
        for kv_type in [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0, KvType::Q4_0] {
            check(TinySpec::new(arch).wide().bytes(), kv_type, 96, 3);
        }
        check(TinySpec::new(arch).bytes(), KvType::F16, 33, 1);
    }
    for mixture in ["Q4_K_M", "Q8_0", "Q2_K"] {
        let mut bytes = Vec::new();
        Synthetic::parse(&format!("qwen2.5-0.5b:{mixture}"))
            .expect("known")
            .write(&mut bytes)
            .expect("to memory");
        let (summary, held) = check(bytes, KvType::Q8_0, 1024, 2);
        let ratio = held as f64 / summary.weight_bytes as f64;
        assert!((0.97..1.03).contains(&ratio), "{mixture}: {ratio}");
    }
}

#[test]
fn folders_of_hugging_face_are_sized_like_their_conversion() {
    let config = r#"{"model_type":"llama","num_hidden_layers":2,"hidden_size":64,"intermediate_size":128,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"max_position_embeddings":4096,
        "vocab_size":100,"rms_norm_eps":1e-5,"rope_theta":10000.0}"#;
    let mut description = serde_json::Map::new();
    let mut put = |name: String, shape: &[u64]| {
        description
            .insert(name, serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}));
    };
    put("model.embed_tokens.weight".into(), &[100, 64]);
    for layer in 0..2 {
        let mut part = |part: &str, shape: &[u64]| put(format!("model.layers.{layer}.{part}.weight"), shape);
        part("input_layernorm", &[64]);
        part("self_attn.q_proj", &[128, 64]);
        part("self_attn.k_proj", &[64, 64]);
        part("self_attn.v_proj", &[64, 64]);
        part("self_attn.o_proj", &[64, 128]);
        part("post_attention_layernorm", &[64]);
        part("mlp.gate_proj", &[128, 64]);
        part("mlp.up_proj", &[128, 64]);
        part("mlp.down_proj", &[64, 128]);
    }
    put("model.norm.weight".into(), &[64]);
    let text = serde_json::to_vec(&description).expect("JSON");
    let header =
        huggingface::header(config, &huggingface::tensors(&text).expect("tensors")).expect("a header");
    let summary = Summary::from_gguf(&header).expect("a model");
    assert!(summary.runs_here(), "{:?}", summary.own);
    assert_eq!(summary.kv_bytes_per_token(KvType::F16), 2 * 2 * 2 * 32 * 2);
    let n = 100 * 64 + 2 * (64 * 2 + 64 * 128 * 2 + 2 * 64 * 64 + 3 * 64 * 128) + 64;
    assert_eq!((summary.n_parameters, summary.weight_bytes), (n, 2 * n));
    assert!(summary.in_mixture(Mixture::Q8_0).expect("another mixture").weight_bytes < n * 5 / 4);
    // What cannot be sized says why.
    let refused = |config: &str| huggingface::header(config, &[]).map(|_| ()).unwrap_err().to_string();
    assert!(refused("{}").contains("model_type"));
    assert!(refused(r#"{"model_type":"mamba"}"#).contains("convert it first"));
    assert!(huggingface::description_bytes((1_u64 << 40).to_le_bytes(), 1 << 50).is_err());
    assert!(huggingface::tensors(br#"{"a": {"dtype": "F32"}}"#).is_err());
}

fn machine(memory_gib: f64) -> Machine {
    let memory = (memory_gib * GIB) as u64;
    Machine { name: "test".into(), memory, read_gbs: Some(100.0), gops: None, arithmetic: None, is_cpu: true }
}

#[test]
fn verdicts_say_what_fits() {
    let llama = summary("llama-3.1-8b", Mixture::Q4_K_M);
    assert!(matches!(fits(&llama, &machine(16.0)), Verdict::Fits { left } if left > 9 << 30));
    match fits(&llama, &machine(5.3)) {
        Verdict::Shorter { n_ctx } => {
            // It is the longest, in steps of 256.
            let at = |n_ctx: u64| machine(5.3).needs(&llama, &demand(n_ctx)).total();
            assert!(at(n_ctx) <= machine(5.3).memory && at(n_ctx + 256) > machine(5.3).memory);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(fits(&llama, &machine(4.0)), Verdict::TooLarge { needs, .. } if needs > 4 << 30));
    let gemma = summary("gemma-3-4b", Mixture::Q4_K_M);
    assert!(matches!(fits(&gemma, &machine(64.0)), Verdict::Unsupported { why } if why.contains("gemma3")));
    let elsewhere = Machine { is_cpu: false, ..machine(64.0) };
    assert!(matches!(fits(&gemma, &elsewhere), Verdict::Fits { .. }));
}

#[test]
fn advice_takes_fewer_bits_before_too_short_a_context() {
    let check = |name: &str, mixture: Mixture, gib: f64, take: Option<(Option<Mixture>, u64)>| {
        let advice = advise(&summary(name, mixture), &machine(gib), &demand(8192), 0);
        assert_eq!(advice.take, take, "{name} on {gib} GiB: {}", advice.reason);
    };
    check("llama-3.1-8b", Mixture::F16, 32.0, Some((None, 8192)));
    check("llama-3.1-8b", Mixture::F16, 12.0, Some((Some(Mixture::Q8_0), 8192)));
    check("llama-3.1-8b", Mixture::F16, 6.5, Some((Some(Mixture::Q5_K_M), 8192)));
    check("llama-3.1-8b", Mixture::F16, 5.7, Some((Some(Mixture::Q4_K_M), 8192)));
    // A little shorter rather than fewer bits.
    let advice = advise(&summary("llama-3.1-8b", Mixture::Q4_K_M), &machine(5.3), &demand(8192), 0);
    assert!(matches!(advice.take, Some((None, n_ctx)) if (4096..8192).contains(&n_ctx)), "{}", advice.reason);
    let advice = advise(&summary("llama-3.1-8b", Mixture::F16), &machine(4.6), &demand(8192), 0);
    assert!(matches!(advice.take, Some((Some(Mixture::Q3_K_M | Mixture::Q2_K), _))), "{}", advice.reason);
    check("llama-3.1-70b", Mixture::Q4_K_M, 8.0, None);
}

#[test]
fn speed_follows_the_bytes_that_a_token_reads() {
    let llama = summary("llama-3.1-8b", Mixture::Q4_K_M);
    let speed = machine(64.0).speed(&llama, &demand(4096));
    let bytes = llama.active_bytes + 4096 * 131_072;
    let max = speed.decode_max.expect("the bandwidth is known");
    assert!((max - 100e9 / bytes as f64).abs() < 1e-6);
    let decode = speed.decode.expect("known");
    assert!(0.0 < decode.low && decode.low < decode.high && decode.high < max, "{speed:?}");
    let blind = Machine { read_gbs: None, ..machine(64.0) };
    assert_eq!(blind.speed(&llama, &demand(4096)).decode, None);
    // A published speed of memory is read less of than a measured one.
    let arithmetic = Arithmetic { int8_gops: 948.0, bf16_gops: Some(370.0), f32_gops: 237.0 };
    let measured = Machine { arithmetic: Some(arithmetic), ..machine(64.0) };
    let of_measured = measured.speed(&llama, &demand(4096));
    assert_eq!(of_measured.decode_max, speed.decode_max);
    assert!(of_measured.decode.expect("known").low > decode.low);
    // Of cards we have measured nothing; of models that only read texts there is nothing to decode.
    let card = Machine { is_cpu: false, ..machine(64.0) }.speed(&llama, &demand(4096));
    let of_card = card.decode.expect("known");
    assert!((of_card.low / max - 0.4).abs() < 1e-9 && (of_card.high / max - 0.9).abs() < 1e-9);
    assert_eq!((card.prefill_max, card.prefill), (None, None));
}

/// Figures of `bench/results` of 2026-11-21 with two threads, and the limits that stood beside them.
#[test]
fn measured_speeds_are_foretold() {
    let arithmetic = Arithmetic { int8_gops: 948.0, bf16_gops: Some(370.0), f32_gops: 237.0 };
    let check = |mixture: Mixture, read_gbs: f64, decode: f64, prefill: f64| {
        let machine = Machine { arithmetic: Some(arithmetic), read_gbs: Some(read_gbs), ..machine(64.0) };
        let speed = machine.speed(&summary("llama-3.2-1b", mixture), &demand(128));
        let near = |range: Range, x: f64| range.low * 0.93 <= x && x <= range.high * 1.07;
        let (of_decode, of_prefill) = (speed.decode.expect("known"), speed.prefill.expect("known"));
        assert!(near(of_decode, decode), "{}: {decode} tokens/s, {of_decode:?}", mixture.name());
        assert!(
            near(of_prefill, prefill),
            "{}: {prefill} tokens/s of a prompt, {of_prefill:?}",
            mixture.name()
        );
    };
    // Tokens/s times the file's gigabytes, by the share of the memory's speed that this was.
    check(Mixture::Q4_K_M, 36.5 * 0.8035 / 0.83, 36.5, 297.0);
    check(Mixture::Q8_0, 32.6 * 1.3132 / 0.69, 32.6, 305.0);
    check(Mixture::Q6_K, 29.7 * 1.0139 / 0.67, 29.7, 284.0);
    check(Mixture::Q4_0, 44.0 * 0.7700 / 0.83, 44.0, 314.0);
    check(Mixture::F16, 20.9 * 2.4716 / 0.82, 20.9, 107.0);
    check(Mixture::BF16, 13.3 * 2.4716 / 0.91, 13.3, 183.0);
}

#[test]
fn sizes_asked_by_parameters_take_the_nearest_shape() {
    for (n, name) in [
        (70e9, "llama-3.1-70b"),
        (8e9, "llama-3.1-8b"),
        (0.5e9, "qwen2.5-0.5b"),
        (671e9, "deepseek-v3"),
        (120e9, "gpt-oss-120b"),
    ] {
        assert_eq!(Shape::nearest(n).name, name, "{n}");
    }
}

/// The largest numbers that are believed, all at once: products of them saturate.
#[test]
fn the_largest_numbers_do_not_overflow() {
    const LARGEST: u64 = 1 << 32;
    // Each of these would say what a state is before the next is asked.
    let leading = ["wkv.head_size", "shortconv.l_cache", "kda.head_dim", "attention.kv_lora_rank"];
    for arch in ["llama", "mamba", "falcon-h1", "minimax-01", "kimi-linear", "qwen3next", "deepseek2", "lfm2"]
    {
        for n_without in 0..=leading.len() {
            let mut md = Metadata::default();
            md.set("general.architecture", arch.into());
            for key in KEYS.iter().filter(|key| !leading[..n_without].contains(key)) {
                md.set(&format!("{arch}.{key}"), int(LARGEST));
            }
            for (key, value) in
                [("block_count", 4), ("embedding_length", 1 << 24), ("nextn_predict_layers", 0)]
            {
                md.set(&format!("{arch}.{key}"), int(value));
            }
            let summary = Summary::new(&md, Vec::new(), Err("not here".into())).expect("believed");
            let demand = Demand { n_ctx: u64::MAX, n_seqs: u64::MAX, ..Demand::default() };
            assert!(summary.needs(&demand, Rule::LlamaCpp).total() > LARGEST, "{arch}");
        }
    }
}

proptest! {
    /// Metadata are untrusted: whatever they say, the answer is a summary or an error, and sums do not overflow.
    #[test]
    fn no_metadata_are_too_bad(
        arch in prop::sample::select(vec!["llama", "gemma3", "deepseek2", "mamba", "jamba", "nemotron_h", "qwen3next",
            "rwkv6", "lfm2", "falcon-h1", "llama4", "gemma4", "kimi-linear", "minimax-01", "unheard-of"]),
        pairs in prop::collection::vec((0..KEYS.len(), prop_oneof![
            any::<u64>().prop_map(Value::U64),
            (0u64..5).prop_map(Value::U64),
            (1u64..5000).prop_map(Value::U64),
            any::<i32>().prop_map(Value::I32),
            prop::collection::vec(0u32..9, 0..8).prop_map(|v| Value::Array(Array::U32(v))),
            prop::collection::vec(any::<bool>(), 0..8).prop_map(|v| Value::Array(Array::Bool(v))),
            Just(Value::F32(1.5)),
        ]), 0..24),
    ) {
        let mut md = Metadata::default();
        md.set("general.architecture", arch.into());
        for (key, value) in [("block_count", 4u64), ("embedding_length", 64), ("attention.head_count", 4)] {
            md.set(&format!("{arch}.{key}"), int(value));
        }
        for (key, value) in pairs {
            md.set(&format!("{arch}.{}", KEYS[key]), value);
        }
        let tensors = vec![TensorShape { name: "token_embd.weight".into(), ty: "F32".into(), dims: vec![64, 9], n_bytes: 64 * 36 }];
        if let Ok(summary) = Summary::new(&md, tensors, Err("not here".into())) {
            let demand = Demand { n_ctx: u64::MAX, n_seqs: u64::MAX, ..Demand::default() };
            prop_assert!(summary.needs(&demand, Rule::LlamaCpp).total() >= summary.weight_bytes);
            let machine = machine(1.0);
            let _ = (fits(&summary, &machine), advise(&summary, &machine, &demand, u64::MAX), summary.memory_in_words());
        }
    }
}

const KEYS: &[&str] = &[
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "context_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_swa",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.shared_kv_layers",
    "attention.recurrent_layers",
    "rope.dimension_count",
    "full_attention_interval",
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.group_count",
    "wkv.head_size",
    "token_shift_count",
    "shortconv.l_cache",
    "kda.head_dim",
];

#[test]
fn adapters_and_projectors_are_no_models() {
    let mut file = GgufWriter::new();
    file.set("general.type", "adapter".into()).set("general.architecture", "llama".into());
    let file = GgufFile::from_bytes(file.to_bytes()).expect("a valid file");
    assert!(Summary::from_gguf(&file).unwrap_err().to_string().contains("is no model"));
}

#[test]
fn devices_are_found_by_name_size_and_number() {
    let catalogue = Catalogue::built_in();
    assert!(catalogue.devices.len() >= 60, "{}", catalogue.devices.len());
    assert!(catalogue.devices.iter().all(|d| d.source.starts_with("https://")));
    let check = |name: &str, gib: f64, gbs: f64| {
        let machine = catalogue.machine(name).expect(name);
        assert!((machine.memory as f64 / GIB - gib).abs() < 0.01, "{name}: {}", machine.memory as f64 / GIB);
        assert_eq!(machine.read_gbs, Some(gbs), "{name}");
    };
    check("a10", 24.0 * 0.95, 600.0);
    check("4090x2", 48.0 * 0.95, 1008.0);
    check("RTX4090", 24.0 * 0.95, 1008.0);
    check("m3max-64", 48.0, 400.0);
    check("m3pro-18", 12.0, 150.0);
    check("epyc9654-500", 450.0, 460.8);
    check("5060ti-8x4", 32.0 * 0.95, 448.0);
    let refused = |name: &str| catalogue.machine(name).unwrap_err().to_string();
    assert!(refused("m3max").contains("m3max-48, m3max-64"), "{}", refused("m3max"));
    assert!(refused("m3max-37").contains("m3max-48"), "{}", refused("m3max-37"));
    assert!(refused("4090x0").contains("0 devices"));
    assert!(refused("voodoo2").contains("--devices"));
    assert!(catalogue.devices.iter().any(|d| d.kind == Kind::Cpu));
    assert!(
        Catalogue::parse("date = 'x'\n[[device]]\nname = 'y'")
            .unwrap_err()
            .to_string()
            .contains("not complete")
    );
}
