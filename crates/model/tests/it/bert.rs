//! Models that read texts in both directions: against an independent float64 implementation, with the same bits
//! whatever runs beside a text, and what they refuse. `goldens/make_bert.py` says how the goldens are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingle_gguf::{GgufFile, GgufWriter, TensorType, Value};
use ingle_kernels::{ClaimOrder, Isa, Pool};
use ingle_model::{CpuExecutor, LoadOptions, ModelError, RopeScaling};
use ingle_step::{
    BlockId, Executor, ExecutorError, Input, KvType, RowOut, SeqId, SeqStep, StepBatch, TokenId, Want,
};
use ingle_testkit::bert::TinyBert;

use crate::golden_specs::bert_specs;
use crate::support::{largest, mutated, numbers, run, try_load};

/// F32 models in our float32 differ from float64 by about a fifth of this.
const F32_TOLERANCE: f64 = 1e-5;
/// A mutated model must differ from the golden by more than this: far above what rounding does.
const MUTATION_MIN: f64 = 5.0 * F32_TOLERANCE;
/// Activations of Q8_0 matrices are rounded to 8 bits.
const Q8_TOLERANCE: f64 = 0.1;

struct Golden {
    inputs: Vec<Input>,
    /// Of the first, the middle and the last token, and what the head makes of the first.
    rows: [Vec<f64>; 4],
}

fn goldens() -> BTreeMap<String, Golden> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../goldens/bert.json")).expect("bert.json is JSON");
    let golden = |v: &serde_json::Value| {
        let tokens: Vec<u32> = numbers(&v["tokens"]).into_iter().map(|t| t as u32).collect();
        let inputs = inputs(&tokens, v["second_from"].as_u64().map(|n| n as usize));
        Golden { inputs, rows: ["first", "middle", "last", "labels"].map(|row| numbers(&v[row])) }
    };
    json.as_object().expect("an object").iter().map(|(name, v)| (name.clone(), golden(v))).collect()
}

fn inputs(tokens: &[u32], second_from: Option<usize>) -> Vec<Input> {
    let second_from = second_from.unwrap_or(tokens.len());
    let input = |(i, &t)| if i < second_from { Input::Token(TokenId(t)) } else { Input::Second(TokenId(t)) };
    tokens.iter().enumerate().map(input).collect()
}

fn seq_step(id: u64, inputs: &[Input], first_block: usize, wants: Vec<(u32, Want)>) -> SeqStep {
    let blocks = first_block..first_block + inputs.len().div_ceil(32);
    SeqStep {
        seq: SeqId(id),
        inputs: inputs.to_vec(),
        start: 0,
        block_table: blocks.map(|b| BlockId(b as u32)).collect(),
        causal: false,
        adapters: Vec::new(),
        wants,
    }
}

fn options(kv_type: KvType) -> LoadOptions {
    LoadOptions { kv_type, kv_tokens: 1024, ..LoadOptions::default() }
}

/// How far a model is from its golden, or why it does not load.
fn error(bytes: Vec<u8>, golden: &Golden) -> Result<f64, ModelError> {
    let mut executor = try_load(bytes, Arc::new(Pool::new(1)), &options(KvType::F32))?;
    let n = golden.inputs.len() as u32;
    let has_labels = !golden.rows[3].is_empty();
    let mut wants = vec![(0, Want::Hidden), (n / 2, Want::Hidden), (n - 1, Want::Hidden)];
    if has_labels {
        wants.insert(1, (0, Want::Labels));
    }
    let mut out = run(&mut executor, vec![seq_step(1, &golden.inputs, 0, wants)]);
    let mut rows: Vec<RowOut> = out.seqs.remove(0).rows;
    if has_labels {
        let labels = rows.remove(1);
        rows.push(labels);
    }
    let mut errors = Vec::new();
    for (row, expected) in rows.iter().zip(&golden.rows) {
        assert_eq!(row.values.len(), expected.len());
        errors.extend(row.values.iter().zip(expected).map(|(&x, expected)| (f64::from(x) - expected).abs()));
    }
    Ok(largest(&errors))
}

#[test]
fn hidden_states_and_labels_equal_an_independent_implementation() {
    let goldens = goldens();
    let specs = bert_specs();
    assert_eq!(goldens.len(), specs.len(), "run goldens/make_bert.py again");
    for (name, spec) in specs {
        let error = error(spec.bytes(), &goldens[&name]).expect("a model");
        println!("{name}: {error:.1e}");
        let tolerance = if spec.weight_type == TensorType::Q8_0 { Q8_TOLERANCE } else { F32_TOLERANCE };
        assert!(error < tolerance, "{name}: off by {error:.1e}, more than {tolerance:.0e}");
    }
}

#[test]
fn every_tensor_and_hyperparameter_matters() {
    let goldens = goldens();
    for (name, spec) in bert_specs().into_iter().filter(|(_, spec)| spec.weight_type == TensorType::F32) {
        let golden = &goldens[&name];
        let file = GgufFile::from_bytes(spec.bytes()).expect("a valid file");
        for info in file.tensors() {
            let error = error(mutated(&file, Some(&info.name), None), golden).expect("a model");
            if info.name.ends_with("attn_k.bias") {
                // It adds the same to a query's scores of all positions, which the softmax takes out again.
                assert!(error < F32_TOLERANCE, "{name}: `{}` moves results by {error:.1e}", info.name);
            } else {
                assert!(
                    error > MUTATION_MIN,
                    "{name}: a change of `{}` moves results by {error:.1e}",
                    info.name
                );
            }
        }
        let mut n_mutations = 0;
        for (key, value) in file.metadata().iter().filter(|(key, _)| key.starts_with("bert.")) {
            let other = match value {
                Value::F32(x) => Value::F32(1.3 * x),
                Value::U32(x) => Value::U32(x / 2),
                Value::Bool(x) => Value::Bool(!x),
                _ => continue,
            };
            // How rows become a vector is not the executor's to know.
            if key == "bert.pooling_type" {
                continue;
            }
            n_mutations += 1;
            // Most sizes no longer fit the tensors: that is a difference too.
            if let Ok(error) = error(mutated(&file, None, Some((key, other))), golden) {
                assert!(error > MUTATION_MIN, "{name}: a change of `{key}` moves results by {error:.1e}");
            }
        }
        assert_eq!(n_mutations, 7, "{name}");
    }
}

/// The hidden states of all tokens of all texts, run together or one by one, as bits.
fn all_hidden(executor: &mut CpuExecutor, texts: &[Vec<Input>], together: bool) -> Vec<Vec<Vec<u32>>> {
    let mut first_block = 0;
    let mut steps = Vec::new();
    for (id, text) in texts.iter().enumerate() {
        let mut wants: Vec<(u32, Want)> = (0..text.len() as u32).map(|row| (row, Want::Hidden)).collect();
        wants.insert(1, (0, Want::Labels));
        steps.push(seq_step(id as u64, text, first_block, wants));
        first_block += text.len().div_ceil(32);
    }
    let batches = if together { vec![steps] } else { steps.into_iter().map(|step| vec![step]).collect() };
    let outs = batches.into_iter().flat_map(|batch| run(executor, batch).seqs);
    outs.map(|seq| seq.rows.iter().map(|row| row.values.iter().map(|x| x.to_bits()).collect()).collect())
        .collect()
}

#[test]
fn a_texts_bits_are_its_own() {
    let text = |n: u32, seed: u32| {
        let tokens: Vec<u32> = (0..n).map(|i| (i * 37 + seed * 11) % 160).collect();
        inputs(&tokens, (seed.is_multiple_of(2)).then_some(n as usize / 2))
    };
    let texts: Vec<Vec<Input>> =
        [(1, 1), (33, 2), (7, 3), (150, 4), (2, 5), (256, 6)].map(|(n, seed)| text(n, seed)).into();
    for weight_type in [TensorType::F32, TensorType::F16, TensorType::Q8_0] {
        let spec = TinyBert { weight_type, n_embd: 128, n_ff: 256, ..TinyBert::ranking() };
        let load = |n_threads, isa, order| {
            let pool = Arc::new(Pool::with(n_threads, isa, order));
            try_load(spec.bytes(), pool, &options(KvType::F16)).expect("a model")
        };
        let expected = all_hidden(&mut load(1, Isa::Scalar, ClaimOrder::Forward), &texts, false);
        for isa in Isa::available() {
            for (n_threads, order) in [(1, ClaimOrder::Reverse), (2, ClaimOrder::Shuffled(5))] {
                for together in [false, true] {
                    let got = all_hidden(&mut load(n_threads, isa, order), &texts, together);
                    assert!(
                        got == expected,
                        "{weight_type} {isa:?} {n_threads} threads, together {together}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_it_cannot_do_is_refused() {
    let load = |spec: &TinyBert| try_load(spec.bytes(), Arc::new(Pool::new(1)), &options(KvType::F16));
    let check = |spec: &TinyBert, expected: &str, change: &dyn Fn(&mut SeqStep)| {
        let mut executor = load(spec).expect("a model");
        let mut step = seq_step(1, &inputs(&[1, 2, 3], None), 0, vec![(2, Want::Hidden)]);
        change(&mut step);
        match executor.submit(StepBatch { step: 1, seqs: vec![step], ..StepBatch::default() }) {
            Err(ExecutorError::InvalidBatch(what)) => assert!(what.contains(expected), "{what}"),
            other => panic!("{other:?}, expected `{expected}`"),
        }
    };
    let tiny = TinyBert::default();
    check(&tiny, "only embeds", &|step| step.wants = vec![(0, Want::Logits)]);
    check(&tiny, "no head that classifies", &|step| step.wants = vec![(0, Want::Labels)]);
    check(&tiny, "causal", &|step| step.causal = true);
    let one_type = TinyBert { n_token_types: 1, ..tiny.clone() };
    check(&one_type, "no token types", &|step| step.inputs = inputs(&[1, 2, 3], Some(1)));
    let info = load(&TinyBert::ranking()).expect("a model").info().clone();
    assert_eq!((info.causal, info.has_logits, info.n_labels, info.has_token_types), (false, false, 1, true));

    let options =
        LoadOptions { rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }), ..options(KvType::F16) };
    let scaled = try_load(tiny.bytes(), Arc::new(Pool::new(1)), &options).expect_err("no rope").to_string();
    assert!(scaled.contains("has no rope"), "{scaled}");
    let file = |change: &dyn Fn(&mut GgufWriter)| {
        let mut file = tiny.build();
        change(&mut file);
        let loaded = try_load(file.to_bytes(), Arc::new(Pool::new(1)), &LoadOptions::default());
        loaded.expect_err("not a model").to_string()
    };
    for (key, value, expected) in [
        ("bert.attention.causal", Value::Bool(true), "attention to the left only"),
        ("bert.context_length", Value::U32(300), "position_embd.weight"),
        ("tokenizer.ggml.token_type_count", Value::U32(3), "`token_types.weight` has 2 rows"),
    ] {
        let error = file(&|file| {
            file.set(key, value.clone());
        });
        assert!(error.contains(expected), "{key}: {error}");
    }
    let labels = Value::Array(ingle_gguf::Array::String(["a", "b"].iter().collect()));
    let error = file(&|file| {
        file.set("bert.classifier.output_labels", labels.clone());
    });
    assert!(error.contains("there is no `cls.output.weight`"), "{error}");
}
