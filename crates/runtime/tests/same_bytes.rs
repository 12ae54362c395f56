//! The same request gives the same bytes: tokens, text and the bits of every log-probability, whether it runs alone
//! or among others, cold or after others have left their beginnings in the prefix cache, in large or small steps,
//! with too little memory for all, on any number of threads and on any instruction set.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    DeltaStream, Echo, Event, FinishReason, Principal, Prompt, Provider, Request, Sampling, Task, Usage,
};
use ingle_gguf::TensorType;
use ingle_kernels::Isa;
use ingle_runtime::{Engine, LoadOptions, Source};
use ingle_step::{KvType, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

/// Holds the longest prompt with its answer.
const N_CTX: usize = 2304;
/// Shared by half of the requests: past the positions at which attention splits long contexts.
const N_SHARED: usize = 2080;
const N_NEW: u32 = 20;
const N_REQUESTS: usize = 8;
/// What the scalar twins compute in test time.
const N_SHARED_SHORT: usize = 40;
/// In this variable a test tells the copy of itself that it starts to print a digest.
const DIGEST: &str = "INGLE_TEST_SAME_BYTES_DIGEST";

/// A token's id, the bits of its log-probability, its rank, and ids and bits of the likeliest.
type Token = (u32, u32, u32, Vec<(u32, u32)>);

/// Everything about an answer that must not depend on circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bytes {
    text: Vec<String>,
    tokens: Vec<Token>,
    reasons: Vec<String>,
}

fn requests(n_shared: usize, n_own: usize) -> Vec<Request> {
    let mut rng = Rng::new(7);
    let mut random = |n: usize| -> Vec<TokenId> { (0..n).map(|_| TokenId(rng.below(256) as u32)).collect() };
    let shared = random(n_shared);
    (0..N_REQUESTS)
        .map(|i| {
            // Of every two one begins like the others that do; one of these is exactly that beginning.
            let own = random(1 + n_own * i);
            let prompt = match i % 2 {
                0 if i == 0 => shared.clone(),
                0 => [&*shared, &*own].concat(),
                _ => own,
            };
            let task = Task::Completion { prompt: Prompt::Tokens(prompt), echo: Echo::No };
            Request {
                max_tokens: Some(N_NEW),
                n: 1 + u32::from(i == 3),
                ignore_eos: i != 5,
                logprobs: Some(3),
                sampling: Sampling {
                    temperature: Some(if i == 2 { 0.0 } else { 0.9 }),
                    repeat_penalty: Some(1.1),
                    seed: Some(1000 + i as u64),
                    ..Sampling::default()
                },
                ..Request::new(format!("request {i}"), Principal::local(), task)
            }
        })
        .collect()
}

fn start(provider: &dyn Provider, request: &Request) -> DeltaStream {
    block_on(provider.start(request.clone())).expect("the request is admitted")
}

fn collect(stream: DeltaStream, n: u32) -> (Bytes, Usage) {
    let n = n as usize;
    let mut bytes =
        Bytes { text: vec![String::new(); n], tokens: Vec::new(), reasons: vec![String::new(); n] };
    let mut used = Usage::default();
    let mut tokens = vec![Vec::new(); n];
    for delta in block_on_stream(stream) {
        let delta = delta.expect("the request does not fail");
        let choice = delta.choice as usize;
        match delta.event {
            Event::Text { text, logprobs } => {
                bytes.text[choice].push_str(&text);
                for l in logprobs {
                    let top = l.top.iter().map(|(id, _, p)| (id.0, p.to_bits())).collect();
                    let p = l.logprob.expect("new tokens have one").to_bits();
                    tokens[choice].push((l.token.0, p, l.rank, top));
                }
            }
            Event::Finished(reason) => bytes.reasons[choice] = name(&reason),
            Event::Done(usage) => used = usage,
            Event::Started { .. } | Event::PromptLogprobs(_) => {}
            other => panic!("its template knows neither thoughts nor tools: {other:?}"),
        }
    }
    bytes.tokens = tokens.concat();
    (bytes, used)
}

fn name(reason: &FinishReason) -> String {
    format!("{reason:?}")
}

fn load(ty: TensorType, kv_type: KvType, options: LoadOptions) -> Engine {
    let spec = TinySpec { n_ctx: N_CTX, ..TinySpec::new(Arch::Llama).wide().weight_type(ty) };
    let options = LoadOptions { kv_type: Some(kv_type), ..options };
    Engine::load_with(&Source::Bytes(spec.bytes()), &options, &mut |_, _| {}).expect("a tiny model loads")
}

/// One request after the other.
fn in_turn(engine: &Engine, requests: &[Request]) -> Vec<(Bytes, Usage)> {
    let provider = engine.provider();
    requests.iter().map(|r| collect(start(&*provider, r), r.n)).collect()
}

/// All requests at the same time, started in a shuffled order.
fn at_once(engine: &Engine, requests: &[Request], seed: u64) -> Vec<(Bytes, Usage)> {
    let provider = engine.provider();
    let mut order: Vec<usize> = (0..requests.len()).collect();
    let mut rng = Rng::new(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut streams: Vec<Option<DeltaStream>> = requests.iter().map(|_| None).collect();
    for i in order {
        streams[i] = Some(start(&*provider, &requests[i]));
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .zip(requests)
            .map(|(stream, r)| scope.spawn(|| collect(stream.expect("each is started"), r.n)))
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("a reader ends")).collect()
    })
}

#[track_caller]
fn check(what: &str, got: &[(Bytes, Usage)], expected: &[(Bytes, Usage)]) {
    for (i, ((got, _), (expected, _))) in got.iter().zip(expected).enumerate() {
        assert!(got == expected, "{what}: request {i} gave\n{got:?}\ninstead of\n{expected:?}");
    }
}

fn cached(answers: &[(Bytes, Usage)]) -> u64 {
    answers.iter().map(|(_, usage)| usage.cached_tokens).sum()
}

/// Models of a process share its pool; these tests want pools of different sizes, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

fn check_type(ty: TensorType, kv_type: KvType) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = requests(N_SHARED, 29);
    let options = |n_threads: usize| LoadOptions { n_threads: Some(n_threads), ..LoadOptions::default() };
    let alone = in_turn(&load(ty, kv_type, LoadOptions { no_prefix_cache: true, ..options(1) }), &requests);
    assert_eq!(cached(&alone), 0, "nothing is cached where nothing shall be");
    let distinct: std::collections::HashSet<&Bytes> = alone.iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(distinct.len(), N_REQUESTS, "the answers differ, else they would prove nothing");

    let what = |how: &str| format!("{ty:?} weights, {kv_type:?} cache, {how}");
    let engine = load(ty, kv_type, options(2));
    check(&what("all at once, cold"), &at_once(&engine, &requests, 1), &alone);
    let warm = at_once(&engine, &requests, 2);
    check(&what("all at once, warm"), &warm, &alone);
    assert!(cached(&warm) > 3 * 2000, "the cache was warm: {}", cached(&warm));
    let warm = in_turn(&engine, &requests);
    check(&what("in turn, warm"), &warm, &alone);
    assert!(cached(&warm) > 3 * 2000, "the cache was warm: {}", cached(&warm));

    drop(engine);

    // Memory for one long sequence and little more: the others wait or are preempted.
    let tight = LoadOptions { kv_tokens: Some(N_CTX + 64), step_token_budget: Some(100), ..options(1) };
    check(
        &what("in small steps, short of memory"),
        &at_once(&load(ty, kv_type, tight), &requests, 3),
        &alone,
    );
}

/// Sequences that begin small and grow until memory is short: some make way, and go on with keys and values that were
/// moved away and back, or with ones that were computed again.
#[test]
fn who_made_way_goes_on_with_the_same_bytes() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut requests = requests(3, 2);
    for request in &mut requests {
        (request.max_tokens, request.ignore_eos) = (Some(150), true);
    }
    let spec = TinySpec { n_ctx: 256, ..TinySpec::new(Arch::Llama) };
    let load = |options: LoadOptions| {
        let options = LoadOptions { n_threads: Some(1), ..options };
        Engine::load_with(&Source::Bytes(spec.bytes()), &options, &mut |_, _| {}).expect("a tiny model loads")
    };
    let alone = in_turn(&load(LoadOptions { no_prefix_cache: true, ..LoadOptions::default() }), &requests);
    for (no_prefix_cache, swap_bytes) in [(false, None), (true, None), (true, Some(0))] {
        let engine = load(LoadOptions {
            kv_tokens: Some(288),
            kv_swap_bytes: swap_bytes,
            no_prefix_cache,
            ..LoadOptions::default()
        });
        let what = format!("prefixes cached: {}, memory to move to: {swap_bytes:?}", !no_prefix_cache);
        check(&what, &at_once(&engine, &requests, 3), &alone);
        let status = engine.provider().status();
        assert!(status.preemptions_total > 0, "{what}: nobody made way");
        let n_moved = status.kv_tiers.swapped_in_total;
        assert_eq!(n_moved > 0, swap_bytes.is_none(), "{what}: {} made way", status.preemptions_total);
    }
}

#[test]
fn f16_weights() {
    check_type(TensorType::F16, KvType::F16);
}

#[test]
fn bf16_weights() {
    check_type(TensorType::BF16, KvType::F16);
}

#[test]
fn q8_0_weights() {
    check_type(TensorType::Q8_0, KvType::F16);
}

#[test]
fn q4_k_weights() {
    check_type(TensorType::Q4_K, KvType::F16);
}

#[test]
fn q6_k_weights() {
    check_type(TensorType::Q6_K, KvType::F16);
}

#[test]
fn q6_k_weights_and_a_q8_0_cache() {
    check_type(TensorType::Q6_K, KvType::Q8_0);
}

/// The digest of answers under this process's instruction set, one line per weight type and number of threads.
fn digests() -> Vec<String> {
    let requests = requests(N_SHARED_SHORT, 5);
    let mut lines = Vec::new();
    for ty in [TensorType::F16, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_K, TensorType::Q6_K] {
        for n_threads in [1, 2] {
            let options = LoadOptions { n_threads: Some(n_threads), ..LoadOptions::default() };
            let answers = at_once(&load(ty, KvType::F16, options), &requests, n_threads as u64);
            let mut hasher = DefaultHasher::new();
            answers.iter().for_each(|(bytes, _)| bytes.hash(&mut hasher));
            lines.push(format!("digest {ty:?} {:016x}", hasher.finish()));
        }
    }
    lines
}

/// The instruction set is chosen once per process, so each gets a process of its own.
#[test]
fn instruction_sets_and_threads_agree() {
    const NAME: &str = "instruction_sets_and_threads_agree";
    if std::env::var_os(DIGEST).is_some() {
        digests().iter().for_each(|line| println!("{line}"));
        return;
    }
    let run = |isa: Isa| -> Vec<String> {
        let program = std::env::current_exe().expect("this program has a path");
        let out = std::process::Command::new(program)
            .args(["--exact", NAME, "--nocapture"])
            .env(DIGEST, "1")
            .env("INGLE_KERNELS_ISA", isa.name())
            .output()
            .expect("this program can be started again");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}: {text}", isa.name());
        // The harness writes its own words before the first line.
        text.lines().filter_map(|l| l.find("digest ").map(|at| l[at..].to_owned())).collect()
    };
    let all: Vec<(Isa, Vec<String>)> = Isa::available().map(|isa| (isa, run(isa))).collect();
    let (_, first) = &all[0];
    assert_eq!(first.len(), 10, "a line per weight type and number of threads: {first:?}");
    for pair in first.chunks(2) {
        assert_eq!(pair[0], pair[1], "the number of threads changes nothing");
    }
    for (isa, lines) in &all {
        assert_eq!(lines, first, "{}", isa.name());
    }
}
