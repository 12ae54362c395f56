//! A trained model: stories260K against a float64 forward pass and llama2.c's greedy texts.

use std::path::PathBuf;

use ingle_testkit::stories;
use serde_json::Value;

use crate::support::{all_logits, argmax, load_exact, log_prob, run, seq_step};

/// Logits of a float32 forward pass differ from float64 by about a tenth of this.
const LOGITS_TOLERANCE: f32 = 1e-4;

/// The checkpoint as a GGUF file, and what is expected of it; nothing where the data is absent.
fn data() -> Option<(Vec<u8>, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/models/stories260K");
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    let file =
        stories::convert(&read("stories260K.bin")?, &read("tok512.bin")?).expect("the checkpoint is whole");
    let expected = serde_json::from_slice(&read("expected.json")?).expect("expected.json is JSON");
    Some((file.to_bytes(), expected))
}

fn ids(value: &Value) -> Vec<u32> {
    let array = value.as_array().expect("an array of ids");
    array.iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array of numbers").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn logits_equal_a_float64_forward_pass() {
    let Some((bytes, expected)) = data() else { return };
    for case in expected["logits"].as_array().expect("cases") {
        let tokens = ids(&case["tokens"]);
        let mut executor = load_exact(bytes.clone(), None);
        let logits = all_logits(&mut executor, &tokens);
        let last = logits.last().expect("one row per token");
        for (i, (&found, expected)) in last.iter().zip(floats(&case["last_logits"])).enumerate() {
            let difference = (found - expected as f32).abs();
            assert!(difference < LOGITS_TOLERANCE, "logit {i} of {tokens:?}: {found}, expected {expected}");
        }
        for (i, expected) in floats(&case["nll_next"]).into_iter().enumerate() {
            let found = -log_prob(&logits[i], tokens[i + 1]);
            assert!((found - expected).abs() < 1e-4, "row {i} of {tokens:?}: {found}, expected {expected}");
        }

        // Token by token from the cache.
        let blocks: Vec<u32> = (0..16).collect();
        let mut text = tokens.clone();
        let mut next = argmax(last);
        for _ in 0..16 {
            text.push(next);
            let step = seq_step(1, &[next], text.len() - 1, &blocks, |_| true);
            next = argmax(&run(&mut executor, vec![step]).seqs[0].rows[0].values);
        }
        assert_eq!(text[tokens.len()..], ids(&case["greedy_next_16"]), "after {tokens:?}");
    }
}
