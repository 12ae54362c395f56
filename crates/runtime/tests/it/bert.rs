//! Models that read in both directions, from file to vector and score.

use ingle_chat::{EmbedRequest, Embeddings, Pooling, ProviderError};
use ingle_runtime::{Engine, LoadError, LoadOptions, Source};
use ingle_testkit::bert::TinyBert;

const TEXTS: [&str; 5] = [
    "What is the text of the query?",
    "a",
    "the and of",
    "(1 + 2) * 3 = 9; isn't it",
    "Queries, texts: [SEP] [CLS]",
];

fn load(spec: &TinyBert, options: LoadOptions) -> Result<Engine, LoadError> {
    Engine::load_with(&Source::Bytes(spec.bytes()), &options, &mut |_, _| {})
}

fn embed(
    engine: &Engine,
    texts: &[&str],
    change: impl FnOnce(&mut EmbedRequest),
) -> Result<Embeddings, ProviderError> {
    let mut embed = engine.embed(texts.iter().copied());
    change(embed.request_mut());
    embed.run()
}

fn scores(engine: &Engine, texts: &[&str], pairs: &[(usize, usize)]) -> Vec<f32> {
    let scored = embed(engine, texts, |request| request.pairs = pairs.to_vec()).expect("scores");
    assert!(scored.of_pairs && scored.items.iter().all(|item| item.vector.len() == 1));
    scored.items.iter().map(|item| item.vector[0]).collect()
}

#[test]
fn a_vector_is_its_texts_whatever_runs_beside_it() {
    for (pooling_type, pooling) in [(1, Pooling::Mean), (2, Pooling::Cls)] {
        let spec = TinyBert { pooling_type, ..TinyBert::default() };
        let engine = load(&spec, LoadOptions::default()).expect("a model");
        let together = embed(&engine, &TEXTS, |_| {}).expect("vectors");
        assert_eq!(together.usage.cached_tokens, 0);
        for (text, item) in TEXTS.iter().zip(&together.items) {
            assert_eq!(
                embed(&engine, &[text], |_| {}).expect("a vector").items,
                std::slice::from_ref(item),
                "{text}"
            );
        }
        let chosen = LoadOptions { pooling: Some(pooling), ..LoadOptions::default() };
        let other = load(&TinyBert::default(), chosen).expect("a model");
        assert_eq!(embed(&other, &TEXTS, |_| {}).expect("vectors").items, together.items, "{pooling:?}");
    }
}

#[test]
fn a_text_must_fit_a_step() {
    let engine = load(&TinyBert::default(), LoadOptions::default()).expect("a model");
    // A token a word, and two around them: as many as the context holds.
    let whole = "a ".repeat(254);
    assert_eq!(embed(&engine, &[&whole], |_| {}).expect("a vector").items[0].n_tokens, 256);
    let error = embed(&engine, &[&"a ".repeat(255)], |_| {}).expect_err("too long");
    assert_eq!(error, ProviderError::ContextLength { prompt_tokens: 257, max_tokens: None, n_ctx: 256 });
    let small =
        LoadOptions { step_token_budget: Some(100), max_running_seqs: Some(8), ..LoadOptions::default() };
    let engine = load(&TinyBert::default(), small).expect("a model");
    let error = embed(&engine, &[&whole], |_| {}).expect_err("too long").to_string();
    assert!(error.contains("256 tokens") && error.contains("a step has 100"), "{error}");
    let cut = embed(&engine, &[&whole], |request| request.truncate = true).expect("a vector");
    assert_eq!((cut.items[0].n_tokens, cut.items[0].truncated_from), (100, Some(256)));
    let error = engine.generate("a").run().expect_err("it generates nothing").to_string();
    assert!(error.contains("generates none"), "{error}");
}

#[test]
fn pairs_are_ranked() {
    let engine = load(&TinyBert::ranking(), LoadOptions::default()).expect("a model");
    let pairs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)];
    let together = scores(&engine, &TEXTS, &pairs);
    for (&(first, second), score) in pairs.iter().zip(&together) {
        assert_eq!(scores(&engine, &[TEXTS[first], TEXTS[second]], &[(0, 1)]), [*score]);
    }
    assert!(together.windows(2).all(|pair| pair[0] != pair[1]), "{together:?}");
    assert_ne!(together[0], together[4], "which text is the first matters");
    let error = embed(&engine, &TEXTS, |_| {}).expect_err("no vectors").to_string();
    assert!(error.contains("/v1/rerank"), "{error}");

    let three = TinyBert { n_labels: 3, ..TinyBert::ranking() };
    let engine = load(&three, LoadOptions::default()).expect("a model");
    let error =
        embed(&engine, &TEXTS, |request| request.pairs = vec![(0, 1)]).expect_err("three").to_string();
    assert!(error.contains("3 numbers"), "{error}");
    let headless = TinyBert { pooling_type: 4, ..TinyBert::default() };
    let error = load(&headless, LoadOptions::default()).err().expect("no head").to_string();
    assert!(error.contains("no head"), "{error}");
}
