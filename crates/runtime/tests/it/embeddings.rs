//! Embeddings of the shipped model: beside llama.cpp's, and the same bits however they are computed.

use ingle_chat::{Embedding, Embeddings, Pooling};
use ingle_runtime::{Engine, LoadOptions, Source};
use ingle_step::KvType;
use serde_json::Value;

/// Goldens are of another arithmetic, over F16 weights, and rounded to five digits.
const COSINE_MIN: f32 = 0.99999;

fn load(pooling: Pooling, options: LoadOptions) -> Engine {
    let options = LoadOptions { pooling: Some(pooling), ..options };
    Engine::load_with(&Source::Shipped, &options, &mut |_, _| {}).expect("the shipped model loads")
}

fn embed(engine: &Engine, texts: &[&str]) -> Embeddings {
    engine.embed(texts.iter().copied()).run().expect("vectors")
}

fn goldens() -> Vec<Value> {
    serde_json::from_str(include_str!("embeddings/goldens.json")).expect("a list")
}

fn text(golden: &Value) -> &str {
    golden["text"].as_str().expect("a text")
}

#[test]
fn as_llama_cpp_computes_them() {
    let goldens = goldens();
    for pooling in [Pooling::Mean, Pooling::Last] {
        let engine = load(pooling, LoadOptions { kv_type: Some(KvType::F32), ..LoadOptions::default() });
        let got = embed(&engine, &goldens.iter().map(text).collect::<Vec<_>>());
        for (golden, item) in goldens.iter().zip(&got.items) {
            let numbers = golden[pooling.name()].as_array().expect("a vector");
            let vector = numbers.iter().map(|x| x.as_f64().expect("a number") as f32).collect();
            let cosine = item.cosine(&Embedding { vector, ..Embedding::default() });
            let beginning: String = text(golden).chars().take(40).collect();
            println!("{pooling:?} of {beginning:?}: cosine {cosine}");
            assert!(cosine >= COSINE_MIN, "{pooling:?} of {beginning:?}: cosine {cosine}");
            let n_tokens = golden["tokens"].as_array().expect("tokens").len();
            assert_eq!(item.n_tokens, n_tokens as u64, "{:?}", text(golden));
        }
    }
}

#[test]
fn the_same_bits_however_they_are_computed() {
    let goldens = goldens();
    let texts: Vec<&str> = goldens.iter().map(text).collect();
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        let engine = load(pooling, LoadOptions { no_prefix_cache: true, ..LoadOptions::default() });
        let alone: Vec<Embedding> = texts.iter().map(|t| embed(&engine, &[t]).items.remove(0)).collect();
        for step_token_budget in [5, 64, 4096] {
            let options = LoadOptions {
                step_token_budget: Some(step_token_budget),
                max_running_seqs: Some(4),
                ..LoadOptions::default()
            };
            let engine = load(pooling, options);
            for _ in 0..2 {
                let together = embed(&engine, &texts).items;
                assert!(together == alone, "{pooling:?} in steps of {step_token_budget}");
            }
        }
    }
}

#[test]
fn what_a_vector_is_like() {
    let engine = Engine::shipped().expect("the shipped model loads");
    let n_embd = engine.info().n_embd;
    let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let whole = &engine.embed(["What is a PEP?"]).run().expect("a vector").items[0];
    assert_eq!(whole.vector.len(), n_embd);
    assert!((length(&whole.vector) - 1.0).abs() < 1e-5);
    let cut = &engine.embed(["What is a PEP?"]).dimensions(32).run().expect("a vector").items[0];
    assert_eq!(cut.vector.len(), 32);
    assert!((length(&cut.vector) - 1.0).abs() < 1e-5);
    let raw = &engine.embed(["What is a PEP?"]).raw().run().expect("a vector").items[0];
    assert!((length(&raw.vector) - 1.0).abs() > 0.1);
    assert!((raw.cosine(whole) - 1.0).abs() < 1e-6, "only the length differs");
    let error = engine.embed(["a"]).dimensions(n_embd as u32 + 1).run().expect_err("too many");
    assert!(error.to_string().contains("dimensions"), "{error}");
    let long = "word ".repeat(2000);
    assert!(engine.embed([long.as_str()]).run().expect_err("too long").to_string().contains("1024"));
    let cut = &engine.embed([long]).truncate().run().expect("cut").items[0];
    assert!(cut.n_tokens == 1024 && cut.truncated_from > Some(1024), "{:?}", cut.truncated_from);
}
