//! What picking a token costs at a vocabulary of 128k: microseconds, the best of several rounds.

use std::time::{Duration, Instant};

use ingle_engine::sampling::{DryBreakers, Sampler, log_softmax_of, top_logprobs};
use ingle_step::{Mirostat, SamplingParams, TokenId};

fn main() {
    const N: usize = 128_256;
    let mut x = 1u64;
    let mut gauss = || {
        (0..6)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .sum::<f32>()
    };
    let logits: Vec<f32> = (0..N).map(|_| gauss() * 3.0).collect();
    let mut scratch = logits.clone();
    let mut best = |name: &str, run: &mut dyn FnMut(&mut [f32], u64)| {
        let mut least = Duration::MAX;
        for at in 0..60 {
            scratch.copy_from_slice(&logits);
            let start = Instant::now();
            run(&mut scratch, at);
            least = least.min(start.elapsed());
        }
        println!("{name:<34} {:>8.1} us", least.as_secs_f64() * 1e6);
    };
    let base = SamplingParams::default;
    let open = || SamplingParams { top_k: 0, ..base() };
    for (name, params) in [
        ("greedy", SamplingParams::greedy()),
        ("default (top-k 40)", base()),
        ("penalties + default", SamplingParams { repeat_penalty: 1.1, repeat_last_n: -1, ..base() }),
        ("dry over 4096 + default", SamplingParams { dry_multiplier: 0.8, ..base() }),
        ("min-p alone", SamplingParams { top_p: 1.0, ..open() }),
        ("top-p 0.95, no top-k", open()),
        ("temperature alone", SamplingParams { top_p: 1.0, min_p: 0.0, ..open() }),
        ("top-n-sigma", SamplingParams { top_n_sigma: 1.0, ..open() }),
        ("typical, no top-k", SamplingParams { typical_p: 0.9, ..open() }),
        (
            "mirostat 2",
            SamplingParams { mirostat: Some(Mirostat { version: 2, tau: 5.0, eta: 0.1 }), ..base() },
        ),
    ] {
        let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
        (0..4096u32).for_each(|i| sampler.accept(TokenId(i * 7 % 1000)));
        best(name, &mut |logits, at| {
            std::hint::black_box(sampler.sample(logits, at));
        });
    }
    best("log_softmax_of", &mut |l, _| {
        std::hint::black_box(log_softmax_of(l, TokenId(5)));
    });
    best("top_logprobs 20", &mut |l, _| {
        std::hint::black_box(top_logprobs(l, 20));
    });
}
