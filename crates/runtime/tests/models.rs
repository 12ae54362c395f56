//! Several models in one process, and what a model recommends.

use ingle_runtime::{Engine, LoadOptions, Source};
use ingle_testkit::tiny::{Arch, TinySpec};

fn load(spec: &TinySpec, options: &LoadOptions) -> Result<Engine, String> {
    Engine::load_with(&Source::Bytes(spec.bytes()), options, &mut |_, _| {}).map_err(|e| e.to_string())
}

// One test: the pool belongs to the process, and tests of one binary share it.
#[test]
fn models_share_one_pool_and_do_not_change_each_other() {
    let two = LoadOptions { n_threads: Some(2), ..LoadOptions::default() };
    let (a, b) = (TinySpec::new(Arch::Llama), TinySpec::new(Arch::Qwen3));
    let ask =
        |engine: &Engine| engine.generate("once upon").max_tokens(24).temperature(0.0).run().unwrap().text;

    let first = load(&a, &two).unwrap();
    let alone = ask(&first);
    let second = load(&b, &LoadOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| (ask(&first), ask(&second)))).collect();
        let told: Vec<_> = asked.into_iter().map(|a| a.join().unwrap()).collect();
        assert!(told.iter().all(|t| t.0 == alone && t.1 == told[0].1), "{told:?}");
    });

    let refused = load(&a, &LoadOptions { n_threads: Some(1), ..LoadOptions::default() }).err().unwrap();
    assert!(refused.contains("share a pool of 2"), "{refused}");
    drop((first, second));
    load(&a, &LoadOptions { n_threads: Some(1), ..LoadOptions::default() })
        .expect("the pool went with the models");
}
