//! Tiny models of every architecture and rope scaling against an independent float64 implementation, and that
//! each tensor and hyperparameter matters to the comparison. `goldens/make.py` says how the goldens are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorType, Value};

use crate::golden_specs::specs;
use crate::support::{all_logits, largest, load_exact, log_prob, mutated, numbers, try_load};

/// F32 models in our float32 differ from float64 by about a fifth of this.
const F32_TOLERANCE: f64 = 3e-5;
/// A mutated model must differ from the golden by more than this: far above what rounding does.
const MUTATION_MIN: f64 = 5.0 * F32_TOLERANCE;

struct Golden {
    n_ctx: Option<usize>,
    tokens: Vec<u32>,
    /// Of each token but the first.
    log_probs: Vec<f64>,
}

fn goldens() -> BTreeMap<String, Golden> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../goldens/goldens.json")).expect("goldens.json is JSON");
    let golden = |v: &serde_json::Value| Golden {
        n_ctx: v["n_ctx"].as_u64().map(|n| n as usize),
        tokens: numbers(&v["tokens"]).into_iter().map(|t| t as u32).collect(),
        log_probs: numbers(&v["log_probs"]),
    };
    json.as_object().expect("an object").iter().map(|(name, v)| (name.clone(), golden(v))).collect()
}

fn golden_errors(bytes: Vec<u8>, golden: &Golden) -> Vec<f64> {
    let mut executor = load_exact(bytes, golden.n_ctx);
    errors(&all_logits(&mut executor, &golden.tokens), golden)
}

fn errors(logits: &[Vec<f32>], golden: &Golden) -> Vec<f64> {
    let pairs = logits.iter().zip(&golden.tokens[1..]).zip(&golden.log_probs);
    pairs.map(|((row, &token), expected)| (log_prob(row, token) - expected).abs()).collect()
}

/// How far a model of this weight type may be from float64 with the same weights: activations are rounded to
/// bf16 or 8 bits, and log-probabilities have a deviation of about 3.
fn tolerance(ty: TensorType) -> f64 {
    match ty {
        TensorType::F32 | TensorType::F16 => F32_TOLERANCE,
        TensorType::BF16 => 0.08,
        _ => 0.25,
    }
}

#[test]
fn log_probs_equal_an_independent_implementation() {
    let goldens = goldens();
    let specs = specs();
    assert_eq!(goldens.len(), specs.len(), "run goldens/make.py again");
    for (name, spec, n_ctx) in specs {
        let golden = &goldens[&name];
        assert_eq!(golden.n_ctx, n_ctx, "{name}: run goldens/make.py again");
        let errors = golden_errors(spec.bytes(), golden);
        let (error, mean) = (largest(&errors), errors.iter().sum::<f64>() / errors.len() as f64);
        println!("{name}: {error:.1e}, mean {mean:.1e}");
        let tolerance = tolerance(spec.weight_type);
        assert!(error < tolerance, "{name}: off by {error:.1e}, more than {tolerance:.0e}");
        // Most rows are much closer than the worst one.
        assert!(mean < tolerance / 4.0, "{name}: off by {mean:.1e} on average");
    }
}

#[test]
fn every_tensor_matters() {
    let goldens = goldens();
    for (name, spec, _) in specs() {
        if spec.weight_type != TensorType::F32 {
            continue;
        }
        let golden = &goldens[&name];
        let file = GgufFile::from_bytes(spec.bytes()).expect("a valid file");
        for info in file.tensors() {
            let unused = match golden.n_ctx {
                Some(512) => "rope_factors_short.weight",
                _ => "rope_factors_long.weight",
            };
            let error = largest(&golden_errors(mutated(&file, Some(&info.name), None), golden));
            if info.name == unused {
                assert!(error < F32_TOLERANCE, "{name}: `{unused}` is for another context");
            } else {
                assert!(
                    error > MUTATION_MIN,
                    "{name}: a change of `{}` moves results by {error:.1e}",
                    info.name
                );
            }
        }
    }
}

#[test]
fn every_hyperparameter_matters() {
    let goldens = goldens();
    // Keys that describe the vocabulary or only bound something, and a default that tiny files spell out.
    let neutral = ["general.", "tokenizer.", "vocab_size", "context_length"];
    for (name, spec, n_ctx) in specs() {
        if spec.weight_type != TensorType::F32 {
            continue;
        }
        let golden = &goldens[&name];
        let file = GgufFile::from_bytes(spec.bytes()).expect("a valid file");
        let mut n_mutations = 0;
        for (key, value) in file.metadata().iter() {
            let is_original = key.ends_with("original_context_length");
            if !is_original && neutral.iter().any(|n| key.starts_with(n) || key.ends_with(n)) {
                continue;
            }
            let other = match value {
                Value::F32(x) => Value::F32(1.3 * x),
                Value::U32(x) => Value::U32(x / 4),
                Value::String(_) => "none".into(),
                _ => unreachable!("tiny files have no such key: {key}"),
            };
            let options = ingle_model::LoadOptions {
                n_ctx,
                kv_type: ingle_step::KvType::F32,
                kv_tokens: 1024,
                ..Default::default()
            };
            n_mutations += 1;
            let bytes = mutated(&file, None, Some((key, other)));
            let pool = Arc::new(ingle_kernels::Pool::new(1));
            // Most sizes no longer fit the tensors: that is a difference too.
            if let Ok(mut executor) = try_load(bytes, pool, &options) {
                let error = largest(&errors(&all_logits(&mut executor, &golden.tokens), golden));
                // longrope's original context only decides which factors are used.
                let is_switch = is_original && name == "llama-longrope-long";
                assert!(
                    is_switch || error > MUTATION_MIN,
                    "{name}: a change of `{key}` moves results by {error:.1e}"
                );
            }
        }
        assert!(n_mutations >= 10, "{name}: only {n_mutations} keys");
    }
}
