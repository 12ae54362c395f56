//! Texts to vectors: the same whatever runs beside them and however they are cut, and within the bounds of all requests.

use ingle_chat::{
    EmbedInput, EmbedRequest, Embeddings, EmbeddingsFuture, Pooling, Principal, Prompt, Provider,
    ProviderError, Segments,
};
use ingle_engine::pooling::{Pooler, VectorSpec};
use ingle_engine::{Engine, EngineConfig, Frontend};
use ingle_step::TokenId;
use ingle_testkit::scripted::{Fault, N_EMBD, ScriptedExecutor, hashed_hidden};

use crate::client::{
    EOS, N_VOCAB, Turns, ask, block_on, byte, completion, executor, first_text, frontend, running, stream,
    tokenizer, wait_until, wait_until_idle,
};

/// The context of [`executor`].
const N_CTX: usize = 256;

fn start(executor: ScriptedExecutor, pooling: Pooling, config: EngineConfig) -> Engine {
    let frontend = Frontend { pooling, ..frontend(N_CTX) };
    Engine::start(Box::new(executor), frontend, config).expect("a thread")
}

fn start_in_turns(pooling: Pooling, config: EngineConfig) -> (Engine, Turns) {
    let (turns, receiver) = Turns::new();
    (start(executor().with_turns(receiver), pooling, config), turns)
}

fn request(texts: &[&str]) -> EmbedRequest {
    let prompts = texts.iter().map(|text| Prompt::Text((*text).into()));
    of_prompts(prompts.collect())
}

fn of_prompts(prompts: Vec<Prompt>) -> EmbedRequest {
    let input = |(i, prompt)| EmbedInput { name: format!("input[{i}]"), prompt };
    EmbedRequest::new("test", Principal::local(), prompts.into_iter().enumerate().map(input).collect())
}

fn begin(engine: &Engine, request: EmbedRequest) -> Result<EmbeddingsFuture, ProviderError> {
    block_on(engine.embed(request))
}

fn embed(engine: &Engine, request: EmbedRequest) -> Result<Embeddings, ProviderError> {
    block_on(begin(engine, request)?)
}

/// What a text's vector must be.
fn expected(tokens: &[TokenId], spec: VectorSpec) -> Vec<f32> {
    let mut pooler = Pooler::new(spec, tokens.len());
    for position in 0..tokens.len() {
        pooler.row(position, &hashed_hidden(&tokens[..=position]));
    }
    pooler.finish()
}

fn tokens(text: &str) -> Vec<TokenId> {
    tokenizer().encode(&Segments::content(text), true)
}

fn unit(pooling: Pooling) -> VectorSpec {
    VectorSpec { pooling, dimensions: None, normalize: true }
}

#[test]
fn a_vector_is_its_texts_whatever_happens_around_it() {
    let long = "a longer text that takes several steps to read ".repeat(3);
    let texts = ["hello", "hello", "hello, world", "x", &long, "hello, moon"];
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        for (step_token_budget, prefix_cache, beside) in
            [(512, true, false), (3, true, false), (7, false, true), (512, true, true), (13, true, true)]
        {
            let config = EngineConfig {
                step_token_budget,
                prefix_cache,
                max_running_seqs: 4,
                ..EngineConfig::default()
            };
            let engine = start(executor(), pooling, config);
            let others: Vec<_> = (0..if beside { 3 } else { 0 })
                .map(|i| {
                    let mut request = completion(&format!("{i}{long}"));
                    request.max_tokens = None;
                    request.ignore_eos = true;
                    let mut stream = stream(&engine, request);
                    first_text(&mut stream);
                    stream
                })
                .collect();
            for _ in 0..2 {
                let got = embed(&engine, request(&texts)).expect("vectors");
                for (text, item) in texts.iter().zip(&got.items) {
                    let tokens = tokens(text);
                    assert_eq!(item.vector, expected(&tokens, unit(pooling)), "{pooling:?} {text:?}");
                    assert_eq!((item.n_tokens, item.truncated_from), (tokens.len() as u64, None));
                }
                let n_tokens: usize = texts.iter().map(|text| tokens(text).len()).sum();
                assert_eq!((got.usage.prompt_tokens, got.usage.completion_tokens), (n_tokens as u64, 0));
                assert!(
                    pooling == Pooling::Last || got.usage.cached_tokens == 0,
                    "{pooling:?} needs early rows"
                );
            }
            drop(others);
            wait_until_idle(&engine);
        }
    }
}

#[test]
fn what_the_vector_is_like_is_the_callers_wish() {
    let engine = start(executor(), Pooling::Last, EngineConfig::default());
    let tokens = tokens("hi");
    for (dimensions, normalize) in [(None, false), (Some(1), true), (Some(3), true), (Some(2), false)] {
        let got =
            embed(&engine, EmbedRequest { dimensions, normalize, ..request(&["hi"]) }).expect("a vector");
        let spec =
            VectorSpec { pooling: Pooling::Last, dimensions: dimensions.map(|n| n as usize), normalize };
        assert_eq!(got.items[0].vector, expected(&tokens, spec));
    }
    let ids = vec![byte(b'a'), byte(b'b')];
    let got = embed(&engine, of_prompts(vec![Prompt::Tokens(ids.clone())])).expect("a vector");
    assert_eq!(got.items[0].vector, expected(&ids, unit(Pooling::Last)), "tokens are taken as they are");
    let got = embed(&engine, request(&["</s>"])).expect("a vector");
    assert_eq!(got.items[0].n_tokens, 5, "text cannot spell control tokens");
}

#[test]
fn cached_beginnings_are_used_where_they_may() {
    let engine = start(executor(), Pooling::Last, EngineConfig::default());
    let text = "a text of some blocks, of which all but the last token is cached";
    ask(&engine, completion(text)).expect("an answer");
    let got = embed(&engine, request(&[text])).expect("a vector");
    assert_eq!(got.usage.cached_tokens as usize, tokens(text).len() - 1);
    assert_eq!(got.items[0].vector, expected(&tokens(text), unit(Pooling::Last)));
    // And a text that was embedded serves those that go on from it.
    let engine = start(executor(), Pooling::Mean, EngineConfig::default());
    embed(&engine, request(&[text])).expect("a vector");
    assert!(ask(&engine, completion(text)).expect("an answer").usage.cached_tokens > 0);
}

#[test]
fn texts_share_steps() {
    let engine = start(executor(), Pooling::Mean, EngineConfig::default());
    let texts: Vec<String> = (0..40).map(|i| format!("text {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    embed(&engine, request(&texts)).expect("vectors");
    let status = wait_until_idle(&engine);
    assert!(status.steps_total <= 5, "{} steps", status.steps_total);
    assert_eq!((status.requests_finished_total, status.generated_tokens_total), (40, 0));
    assert_eq!(status.prompt_tokens_total, texts.iter().map(|t| tokens(t).len() as u64).sum::<u64>());
}

#[test]
fn long_lists_wait_for_their_turn_in_a_short_queue() {
    let config = EngineConfig { max_waiting_requests: 3, max_running_seqs: 2, ..EngineConfig::default() };
    let engine = start(executor(), Pooling::Last, config);
    let texts: Vec<String> = (0..300).map(|i| format!("text {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let got = embed(&engine, request(&texts)).expect("vectors");
    for (text, item) in texts.iter().zip(&got.items) {
        assert_eq!(item.vector, expected(&tokens(text), unit(Pooling::Last)), "{text}");
    }
}

#[test]
fn a_full_queue_refuses_the_first_text() {
    let config = EngineConfig { max_waiting_requests: 2, max_running_seqs: 1, ..EngineConfig::default() };
    let (engine, turns) = start_in_turns(Pooling::Last, config);
    let running = running(&engine, completion("running"));
    let waiting: Vec<_> = (0..2).map(|i| stream(&engine, completion(&format!("waiting {i}")))).collect();
    let error = begin(&engine, request(&["a", "b"])).err().expect("no room");
    assert!(matches!(error, ProviderError::Overloaded { waiting: 2, .. }), "{error:?}");
    drop((running, waiting));
    turns.open();
    wait_until(&engine, "there is room", |s| s.requests_aborted_total == 3);
    embed(&engine, request(&["a", "b"])).expect("room again");
}

#[test]
fn a_client_that_leaves_takes_all_its_texts_along() {
    let config = EngineConfig { step_token_budget: 4, max_running_seqs: 2, ..EngineConfig::default() };
    let (engine, turns) = start_in_turns(Pooling::Mean, config);
    let texts = ["a text of many steps, so that it is read for a while"; 80];
    let vectors = begin(&engine, request(&texts)).expect("admitted");
    assert_eq!(turns.step(&engine, 3).prompt_tokens_total, 12, "it reads");
    drop(vectors);
    turns.open();
    let status = wait_until_idle(&engine);
    assert_eq!(status.requests_finished_total, 0, "{status:?}");
    assert!(status.requests_aborted_total >= 50, "{status:?}");
    assert!(engine.drain(std::time::Duration::from_secs(60)), "nobody is left");
}

#[test]
fn a_failed_step_fails_its_request_alone() {
    for fault in [Fault::Error, Fault::Panic] {
        let engine = start(executor().with_fault(1, fault), Pooling::Mean, EngineConfig::default());
        embed(&engine, request(&["before"])).expect("a vector");
        let error = embed(&engine, request(&["in the step"])).expect_err("the step fails");
        assert!(matches!(error, ProviderError::Internal(_)), "{error:?}");
        let after = embed(&engine, request(&["after"])).expect("a vector");
        assert_eq!(after.items[0].vector, expected(&tokens("after"), unit(Pooling::Mean)));
    }
}

#[test]
fn an_engine_that_goes_says_so() {
    let (engine, turns) = start_in_turns(Pooling::Last, EngineConfig::default());
    let vectors = begin(&engine, request(&["a"; 100])).expect("admitted");
    engine.stop();
    turns.open();
    drop(engine);
    let error = block_on(vectors).expect_err("nobody computes");
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error:?}");
}

#[test]
fn long_texts_are_errors_with_counts_or_are_cut_and_counted() {
    let engine = start(executor(), Pooling::Last, EngineConfig::default());
    let long = "x".repeat(N_CTX);
    let fits = "x".repeat(N_CTX - 1);
    assert_eq!(embed(&engine, request(&[&fits])).expect("it fits").items[0].truncated_from, None);
    let error = begin(&engine, request(&[&long])).err().expect("too long");
    let counts = ProviderError::ContextLength { prompt_tokens: N_CTX + 1, max_tokens: None, n_ctx: N_CTX };
    assert_eq!(error, counts);
    let error = begin(&engine, request(&["a", &long])).err().expect("too long");
    let ProviderError::InvalidRequest { message, param } = error else { panic!("{error:?}") };
    assert_eq!(param.as_deref(), Some("input[1]"));
    assert!(message.contains("257 tokens") && message.contains("256"), "{message}");
    let cut = EmbedRequest { truncate: true, ..request(&["a", &long]) };
    let got = embed(&engine, cut).expect("cut");
    assert_eq!((got.items[0].n_tokens, got.items[0].truncated_from), (2, None));
    assert_eq!((got.items[1].n_tokens, got.items[1].truncated_from), (N_CTX as u64, Some(N_CTX as u64 + 1)));
    assert_eq!(got.items[1].vector, expected(&tokens(&fits), unit(Pooling::Last)), "the beginning is kept");
    assert_eq!(got.usage.prompt_tokens, 2 + N_CTX as u64);
    let ids = EmbedRequest { truncate: true, ..of_prompts(vec![Prompt::Tokens(vec![EOS; N_CTX + 9])]) };
    assert_eq!(embed(&engine, ids).expect("cut").items[0].n_tokens, N_CTX as u64);
}

#[test]
fn refusals_are_by_name() {
    let engine = start(executor(), Pooling::Last, EngineConfig::default());
    let check = |request: EmbedRequest, param: &str, part: &str| match begin(&engine, request).err() {
        Some(ProviderError::InvalidRequest { message, param: at }) => {
            assert_eq!(at.as_deref(), Some(param), "{message}");
            assert!(message.contains(part), "{message}");
        }
        other => panic!("{param}: {other:?}"),
    };
    check(request(&[]), "input", "0 texts");
    check(request(&vec!["a"; 2049]), "input", "2049 texts");
    check(
        EmbedRequest { dimensions: Some(N_EMBD as u32 + 1), ..request(&["a"]) },
        "dimensions",
        "have 4 numbers",
    );
    check(EmbedRequest { dimensions: Some(0), ..request(&["a"]) }, "dimensions", "1 to 4");
    check(of_prompts(vec![Prompt::Tokens(Vec::new())]), "input[0]", "is empty");
    let unknown = vec![Prompt::Text("a".into()), Prompt::Tokens(vec![TokenId(N_VOCAB as u32)])];
    check(of_prompts(unknown), "input[1]", "the vocabulary has");
    let other = EmbedRequest { model: Some("other".into()), ..request(&["a"]) };
    assert!(matches!(begin(&engine, other).err(), Some(ProviderError::UnknownModel { .. })));
}

/// What is wrong with a request, and which part of it.
fn refused(engine: &Engine, request: EmbedRequest) -> (String, String) {
    match begin(engine, request).err() {
        Some(ProviderError::InvalidRequest { message, param }) => (param.unwrap_or_default(), message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_read_in_both_directions_is_read_in_one_step() {
    let config = EngineConfig {
        step_token_budget: 20,
        max_running_seqs: 4,
        prefix_cache: true,
        ..EngineConfig::default()
    };
    let engine = start(executor().bidirectional(), Pooling::Mean, config);
    // As many tokens as a step has, then one more: an end token follows each text.
    let (fits, long) = ("x".repeat(19), "x".repeat(20));
    let texts = ["a", fits.as_str(), "bcd", "a", "xxxxxxxxxx", "xxxxxxxxxxxx", "ab"];
    let got = embed(&engine, request(&texts)).expect("vectors");
    for (text, item) in texts.iter().zip(&got.items) {
        assert_eq!(item.vector, expected(&tokens(text), unit(Pooling::Mean)), "{text}");
    }
    assert_eq!(got.usage.cached_tokens, 0, "nothing is shared");
    let (param, message) = refused(&engine, request(&[&long]));
    assert!(
        param == "input[0]" && message.contains("21 tokens") && message.contains("a step has 20"),
        "{message}"
    );

    let cut = EmbedRequest { truncate: true, ..request(&[&long]) };
    let got = embed(&engine, cut).expect("cut");
    assert_eq!((got.items[0].n_tokens, got.items[0].truncated_from), (20, Some(21)));
    let cut = EmbedRequest { truncate: true, truncate_to: Some(5), ..request(&["abcdef", "abcd"]) };
    let got = embed(&engine, cut).expect("cut");
    let counts: Vec<_> = got.items.iter().map(|item| (item.n_tokens, item.truncated_from)).collect();
    assert_eq!(counts, [(5, Some(7)), (5, None)]);
    assert_eq!(got.items[0].vector, got.items[1].vector);
    let (param, message) =
        refused(&engine, EmbedRequest { truncate: true, truncate_to: Some(21), ..request(&["a"]) });
    assert!(param == "truncate_prompt_tokens" && message.contains("1 to 20"), "{message}");

    let error = ask(&engine, completion("a")).expect_err("it generates nothing");
    assert!(error.to_string().contains("generates none"), "{error}");
}

#[test]
fn a_head_that_ranks_gives_pairs_scores() {
    let engine = start(executor().bidirectional(), Pooling::Rank, EngineConfig::default());
    let pairs =
        |texts: &[&str], pairs: &[(usize, usize)]| EmbedRequest { pairs: pairs.to_vec(), ..request(texts) };
    let got =
        embed(&engine, pairs(&["what", "this", "that text"], &[(0, 1), (0, 2), (1, 0)])).expect("scores");
    assert!(got.of_pairs);
    // The score is of the first token, which begins every text; here it has seen itself alone.
    let score = vec![hashed_hidden(&tokens("")[..1])[0]];
    let found: Vec<_> = got.items.iter().map(|item| (item.vector.clone(), item.n_tokens)).collect();
    // Spaces are three bytes of the vocabulary, and each text has an end.
    assert_eq!(found, [(score.clone(), 11), (score.clone(), 18), (score, 11)]);

    let cut =
        EmbedRequest { truncate: true, truncate_to: Some(9), ..pairs(&["what", "a long one"], &[(0, 1)]) };
    let item = embed(&engine, cut).expect("cut").items.remove(0);
    assert_eq!((item.n_tokens, item.truncated_from), (9, Some(21)));
    let no_room =
        EmbedRequest { truncate: true, truncate_to: Some(6), ..pairs(&["what", "a long one"], &[(0, 1)]) };
    let (param, message) = refused(&engine, no_room);
    assert!(param == "input[0]" && message.contains("leaves nothing of 6"), "{message}");
    let (param, message) = refused(&engine, request(&["a"]));
    assert!(param == "model" && message.contains("/v1/rerank"), "{message}");
    let (param, message) = refused(&engine, pairs(&["a", &"x".repeat(N_CTX)], &[(0, 1)]));
    assert!(param == "input[1]" && message.contains("260 tokens"), "{message}");
    let (param, _) = refused(&engine, EmbedRequest { dimensions: Some(1), ..pairs(&["a", "b"], &[(0, 1)]) });
    assert_eq!(param, "dimensions");

    // Of a model without a head, vectors are compared.
    let engine = start(executor(), Pooling::Last, EngineConfig::default());
    let got = embed(&engine, pairs(&["a", "b"], &[(0, 1)])).expect("vectors");
    assert!(!got.of_pairs && got.items.len() == 2);
    let headless = start(executor(), Pooling::Rank, EngineConfig::default());
    let (param, message) = refused(&headless, pairs(&["a", "b"], &[(0, 1)]));
    assert!(param == "model" && message.contains("0 numbers"), "{message}");
}
