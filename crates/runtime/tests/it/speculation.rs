//! Guessing ahead changes no bit on real arithmetic: rows of guesses, computed together, give what rows computed one
//! after the other give; and a draft model has the model's own vocabulary or none.

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{Echo, Event, Principal, Prompt, Provider, Request, Sampling, Task};
use ingle_gguf::TensorType;
use ingle_runtime::{Engine, GuessSource, LoadOptions, Source, SpeculationConfig};
use ingle_step::{KvType, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

const N_CTX: usize = 512;

fn model(ty: TensorType) -> Source {
    Source::Bytes(TinySpec { n_ctx: N_CTX, ..TinySpec::new(Arch::Llama).wide().weight_type(ty) }.bytes())
}

/// An engine that guesses whatever it can from a source, whether that pays or not.
fn load(ty: TensorType, kv_type: KvType, source: GuessSource) -> Engine {
    let speculation = SpeculationConfig { source, adaptive: false, ..SpeculationConfig::default() };
    // The same weights, more exactly: it often guesses right, and often wrong.
    let draft_model = (source == GuessSource::Draft).then(|| model(TensorType::F16));
    let options = LoadOptions { kv_type: Some(kv_type), speculation, draft_model, ..LoadOptions::default() };
    Engine::load_with(&model(ty), &options, &mut |_, _| {}).expect("a tiny model loads")
}

fn requests() -> Vec<Request> {
    let mut rng = Rng::new(3);
    (0..6)
        .map(|i| {
            let phrase: Vec<TokenId> = (0..8 + i).map(|_| TokenId(rng.below(256) as u32)).collect();
            let task = Task::Completion { prompt: Prompt::Tokens(phrase.repeat(1 + 2 * i)), echo: Echo::No };
            Request {
                max_tokens: Some(120),
                n: if i == 4 { 2 } else { 1 },
                ignore_eos: true,
                logprobs: Some(2),
                sampling: Sampling {
                    temperature: Some([0.0, 0.3, 0.8][i % 3]),
                    repeat_penalty: Some(if i > 2 { 1.05 } else { 1.0 }),
                    seed: Some(i as u64),
                    ..Sampling::default()
                },
                ..Request::new(format!("request {i}"), Principal::local(), task)
            }
        })
        .collect()
}

/// By choice: each token, the bits of its log-probability, and those of the likeliest.
type Bits = Vec<Vec<(u32, u32, Vec<(u32, u32)>)>>;

fn bits(provider: &dyn Provider, request: &Request) -> Bits {
    let mut bits: Bits = vec![Vec::new(); request.n as usize];
    for delta in block_on_stream(block_on(provider.start(request.clone())).expect("it is admitted")) {
        let delta = delta.expect("it does not fail");
        if let Event::Text { logprobs, .. } = delta.event {
            let of = |l: ingle_chat::TokenLogprob| {
                let top = l.top.iter().map(|(id, _, p)| (id.0, p.to_bits())).collect();
                (l.token.0, l.logprob.expect("new tokens have one").to_bits(), top)
            };
            bits[delta.choice as usize].extend(logprobs.into_iter().map(of));
        }
    }
    bits
}

fn check(ty: TensorType, kv_type: KvType) {
    let plain = load(ty, kv_type, GuessSource::Off);
    let requests = requests();
    let expected: Vec<Bits> = requests.iter().map(|r| bits(&*plain.provider(), r)).collect();
    assert!(expected.iter().flatten().all(|tokens| tokens.len() == 120));
    for source in [GuessSource::Lookup, GuessSource::Draft] {
        let engine = load(ty, kv_type, source);
        let provider = engine.provider();
        for (i, request) in requests.iter().enumerate() {
            assert!(bits(&*provider, request) == expected[i], "{ty:?}, {source:?}: request {i} differs");
        }
        // All at once: guesses of many in one step.
        std::thread::scope(|scope| {
            let answers: Vec<_> = requests.iter().map(|r| scope.spawn(|| bits(&*provider, r))).collect();
            for (i, answer) in answers.into_iter().enumerate() {
                let answer = answer.join().expect("a reader ends");
                assert!(answer == expected[i], "{ty:?}, {source:?}, at once: request {i} differs");
            }
        });
        let told = provider.status().speculation;
        let (tried, accepted) = (told.draft_tokens_total, told.accepted_tokens_total);
        assert!(accepted > 50 && tried > accepted + 50, "{ty:?}, {source:?}: {accepted} of {tried}");
        assert_eq!(told.failure, None);
    }
}

#[test]
fn f16_weights() {
    check(TensorType::F16, KvType::F16);
}

#[test]
fn q4_k_weights() {
    check(TensorType::Q4_K, KvType::F16);
}

#[test]
fn q6_k_weights_and_a_q8_0_cache() {
    check(TensorType::Q6_K, KvType::Q8_0);
}

#[test]
fn a_draft_model_counts_in_memory() {
    let memory = |source| load(TensorType::Q8_0, KvType::F16, source).provider().status().memory_bytes;
    let (alone, both) = (memory(GuessSource::Off), memory(GuessSource::Draft));
    assert!(both > alone + (1 << 16), "{alone} and {both}");
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused_by_what_differs() {
    let refused = |draft: Source, expected: &str| {
        let options = LoadOptions { draft_model: Some(draft), ..LoadOptions::default() };
        let error =
            Engine::load_with(&model(TensorType::F16), &options, &mut |_, _| {}).err().expect("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let more = TinySpec { n_vocab: 275, ..TinySpec::new(Arch::Llama) };
    refused(Source::Bytes(more.bytes()), "tokens and the draft model 275: only one has token");
    refused(Source::Shipped, "the draft model has another vocabulary: token 0 is ");
    refused(Source::Bytes(b"no model".to_vec()), "the draft model: ");
    refused(Source::File("/nonexistent/draft.gguf".into()), "the draft model: ");
}
