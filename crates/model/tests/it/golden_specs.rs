//! The models that have goldens.

use ingle_gguf::TensorType;
use ingle_testkit::lora::TinyLora;
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

/// The adapters that have goldens, by name: model, adapter, and how strongly it is applied. The llamas' heads are turned
/// otherwise in their file than in the adapter's; one adapter is of every kind of matrix, one of few.
pub fn adapters() -> Vec<(&'static str, TinySpec, TinyLora, f32)> {
    let tiny = |arch, seed| TinySpec { rms_eps: 0.01, ..TinySpec::new(arch).seed(seed) };
    let lora = |seed| TinyLora::new(seed);
    let few = TinyLora { rank: 3, alpha: 4.0, ..lora(44) }.of(&["q_proj", "up_proj"]);
    vec![
        ("llama", tiny(Arch::Llama, 31), lora(41), 1.0),
        ("llama-tied-biases", TinySpec { tied: true, biases: true, ..tiny(Arch::Llama, 32) }, lora(42), 0.5),
        ("qwen2", tiny(Arch::Qwen2, 33), lora(43), 1.0),
        ("qwen2-few", tiny(Arch::Qwen2, 33), few, 1.5),
        ("qwen3-rslora", tiny(Arch::Qwen3, 34), TinyLora { rank: 5, rslora: true, ..lora(45) }, 1.0),
    ]
}
