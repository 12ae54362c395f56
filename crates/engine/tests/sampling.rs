//! The sampler chain against llama.cpp's own, over random logits and settings (`sampling/make_goldens.py`).

use ingle_engine::sampling::{DryBreakers, Sampler};
use ingle_step::{Mirostat, SamplingParams, TokenId};
use serde_json::Value;

fn params(json: &Value) -> SamplingParams {
    let f = |name: &str, default: f32| json[name].as_f64().map_or(default, |x| x as f32);
    let i = |name: &str, default: i32| json[name].as_i64().map_or(default, |x| x as i32);
    SamplingParams {
        temperature: f("temperature", 1.0),
        dynatemp_range: f("dynatemp_range", 0.0),
        dynatemp_exponent: f("dynatemp_exponent", 1.0),
        top_k: i("top_k", 0),
        top_p: f("top_p", 1.0),
        min_p: f("min_p", 0.0),
        typical_p: f("typical_p", 1.0),
        top_n_sigma: f("top_n_sigma", -1.0),
        xtc_probability: f("xtc_probability", 0.0),
        xtc_threshold: f("xtc_threshold", 0.1),
        repeat_penalty: f("repeat_penalty", 1.0),
        repeat_last_n: i("repeat_last_n", 64),
        frequency_penalty: f("frequency_penalty", 0.0),
        presence_penalty: f("presence_penalty", 0.0),
        dry_multiplier: f("dry_multiplier", 0.0),
        dry_base: f("dry_base", 1.75),
        dry_allowed_length: i("dry_allowed_length", 2),
        dry_penalty_last_n: i("dry_penalty_last_n", -1),
        min_keep: i("min_keep", 0) as usize,
        mirostat: json["mirostat"].as_array().map(|m| Mirostat {
            version: m[0].as_u64().expect("a version") as u8,
            tau: m[1].as_f64().expect("a number") as f32,
            eta: m[2].as_f64().expect("a number") as f32,
        }),
        logit_bias: json["logit_bias"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|b| (TokenId(b[0].as_u64().expect("an id") as u32), b[1].as_f64().expect("a number") as f32))
            .collect(),
        ..SamplingParams::default()
    }
}

#[test]
fn the_chain_is_llama_cpps() {
    let cases: Value =
        serde_json::from_str(include_str!("sampling/goldens.json")).expect("the goldens are JSON");
    let cases = cases.as_array().expect("a list of cases");
    assert!(cases.len() > 100);
    let mut failures = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let numbers = |name: &str| case[name].as_array().expect("a list").iter();
        let mut logits: Vec<f32> = numbers("logits").map(|x| x.as_f64().expect("a number") as f32).collect();
        let mut sampler = Sampler::new(params(&case["params"]), DryBreakers::default(), 0);
        numbers("history").for_each(|t| sampler.accept(TokenId(t.as_u64().expect("a token") as u32)));
        let mut left = sampler.distribution(&mut logits, 0);
        left.sort_by_key(|l| l.0);
        let expected: Vec<(TokenId, f32)> = numbers("left")
            .map(|l| (TokenId(l[0].as_u64().expect("an id") as u32), l[1].as_f64().expect("a number") as f32))
            .collect();
        let same = left.len() == expected.len()
            && left.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= 1e-5 + 1e-3 * b.1);
        if !same {
            let first = |l: &[(TokenId, f32)]| {
                l.iter().take(4).map(|t| format!("{}:{:.4}", t.0, t.1)).collect::<Vec<_>>()
            };
            failures.push(format!(
                "{n} {}: {} left {:?} instead of {} {:?}",
                case["params"],
                left.len(),
                first(&left),
                expected.len(),
                first(&expected)
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
