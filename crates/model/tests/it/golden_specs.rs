//! The models that have goldens.

use ingle_gguf::TensorType;
use ingle_testkit::bert::TinyBert;
use ingle_testkit::tiny::{Arch, Rope, TinySpec};

/// The models, by name, with the context to configure where it is not the file's. Texts are 200 tokens: beyond each original context and more than twice the window.
pub fn specs() -> Vec<(String, TinySpec, Option<usize>)> {
    // A large epsilon, so that leaving it out shows.
    let tiny = |arch| TinySpec { rms_eps: 0.01, ..TinySpec::new(arch) };
    let llama = |seed| tiny(Arch::Llama).seed(seed);
    let mut out = vec![
        ("llama".to_owned(), llama(1), None),
        ("llama-tied-biases".to_owned(), TinySpec { tied: true, biases: true, ..llama(2) }, None),
        ("mistral-window".to_owned(), TinySpec { sliding_window: Some(70), ..llama(3) }, None),
        ("llama-linear".to_owned(), TinySpec { rope: Rope::Linear { factor: 4.0 }, ..llama(4) }, None),
        (
            "llama-yarn".to_owned(),
            TinySpec { rope: Rope::Yarn { factor: 4.0, original: 96 }, ..llama(5) },
            None,
        ),
        (
            "llama-3".to_owned(),
            TinySpec { rope: Rope::Llama3 { factor: 8.0, original: 64 }, ..llama(6) },
            None,
        ),
        ("qwen2".to_owned(), tiny(Arch::Qwen2).seed(9), None),
        (
            "qwen2-yarn".to_owned(),
            TinySpec {
                rope: Rope::Yarn { factor: 2.5, original: 128 },
                tied: false,
                ..tiny(Arch::Qwen2).seed(10)
            },
            None,
        ),
        ("qwen3".to_owned(), tiny(Arch::Qwen3).seed(11), None),
        ("qwen3-untied".to_owned(), TinySpec { tied: false, ..tiny(Arch::Qwen3).seed(12) }, None),
    ];
    let long_rope = Rope::LongRope { original: 256, attn_factor: 1.19 };
    out.push(("llama-longrope-long".to_owned(), TinySpec { rope: long_rope.clone(), ..llama(7) }, Some(512)));
    out.push(("llama-longrope-short".to_owned(), TinySpec { rope: long_rope, ..llama(7) }, Some(256)));
    use TensorType::*;
    for ty in [F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K] {
        let name = format!("llama-{}", ty.name().to_lowercase());
        out.push((name, llama(20).wide().weight_type(ty), None));
    }
    out
}

/// The models of architecture bert that have goldens, by name. Texts are 150 tokens, in models with two token types of
/// two parts.
pub fn bert_specs() -> Vec<(String, TinyBert)> {
    // A large epsilon, so that leaving it out shows.
    let tiny = |seed| TinyBert { norm_eps: 0.01, seed, ..TinyBert::default() };
    let wide = |ty| TinyBert { n_embd: 128, n_ff: 256, weight_type: ty, ..tiny(5) };
    vec![
        ("bert".to_owned(), tiny(1)),
        ("bert-one-type".to_owned(), TinyBert { n_token_types: 1, ..tiny(2) }),
        ("bert-ranks".to_owned(), TinyBert { norm_eps: 0.01, seed: 3, ..TinyBert::ranking() }),
        ("bert-three-labels".to_owned(), TinyBert { n_labels: 3, pooling_type: 4, ..tiny(4) }),
        ("bert-f16".to_owned(), wide(TensorType::F16)),
        ("bert-q8_0".to_owned(), wide(TensorType::Q8_0)),
    ]
}
