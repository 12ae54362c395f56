//! One request, hundreds of times, beside whatever a server has to do: one answer, to the bit.
//!
//! Each engine is another circumstance (steps of other sizes, memory for all or for few, a prefix cache or none). In each,
//! the request runs many times beside seeded load: prompts of all lengths, some of which begin like it, with several
//! choices, formats that jump ahead, clients that leave in mid-answer, caches that are flushed. All answers of one
//! arithmetic must be one answer: tokens, text, and the bits of each log-probability. That the load was what it should be
//! is checked too.
//!
//! `INGLE_TEST_SAME_REQUESTS` is how often it runs in all: 400 times by default, 1,000 in `.ci/run`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    Echo, Event, Format, Principal, Priority, Prompt, Provider, ProviderError, ProviderStatus, Request,
    Sampling, Task,
};
use ingle_gguf::{GgufFile, GgufWriter, TensorType};
use ingle_runtime::{Engine, GuessSource, LoadOptions, Source, SpeculationConfig};
use ingle_step::{KvType, TokenId};
use ingle_testkit::quant::quantize;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::json;

const N_CTX: usize = 384;
const N_PROMPT: usize = 150;
const N_NEW: u32 = 24;
/// Clients that ask for the request, at the same time.
const N_ASKING: usize = 4;
/// Clients that ask for other things.
const N_LOAD: usize = 6;
/// How long one engine may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(300);

/// What must not depend on circumstances: texts, reasons, and each token's id, the bits of its log-probability, and
/// those of its alternatives.
type Bytes = (Vec<String>, Vec<String>, Vec<(u32, u32, Vec<(u32, u32)>)>);

/// The weights of a model.
#[derive(Clone, Copy, Debug)]
enum Weights {
    /// As in the usual files: Q4_K, with Q6_K where it matters most.
    KQuants,
    Q8_0,
}

/// How an engine is set up beside its arithmetic.
struct Circumstance {
    name: &'static str,
    options: LoadOptions,
    /// What must have happened in it.
    preempts: bool,
    caches: bool,
}

/// Every row must give the same bytes. What changes how tokens come, and not which, belongs here.
fn circumstances() -> Vec<Circumstance> {
    let ample = LoadOptions { kv_tokens: Some(8192), max_running_seqs: Some(32), ..LoadOptions::default() };
    let tight = LoadOptions { kv_tokens: Some(N_CTX + 64), max_running_seqs: Some(12), ..ample.clone() };
    let steps =
        |options: &LoadOptions, n: usize| LoadOptions { step_token_budget: Some(n), ..options.clone() };
    vec![
        Circumstance {
            name: "room for all, large steps",
            options: steps(&ample, 512),
            preempts: false,
            caches: true,
        },
        Circumstance {
            name: "room for all, small steps",
            options: steps(&ample, 37),
            preempts: false,
            caches: true,
        },
        Circumstance {
            name: "room for all, nothing cached",
            options: LoadOptions { no_prefix_cache: true, ..steps(&ample, 128) },
            preempts: false,
            caches: false,
        },
        Circumstance {
            name: "room for few, steps of 64",
            options: steps(&tight, 64),
            preempts: true,
            caches: true,
        },
        Circumstance {
            name: "nothing guessed",
            options: LoadOptions { speculation: guesses(GuessSource::Off), ..steps(&tight, 64) },
            preempts: true,
            caches: true,
        },
        Circumstance {
            name: "guesses in every step",
            options: LoadOptions { speculation: guesses(GuessSource::Lookup), ..steps(&ample, 128) },
            preempts: false,
            caches: true,
        },
        Circumstance {
            name: "room for few, nothing cached",
            options: LoadOptions { no_prefix_cache: true, ..steps(&tight, 200) },
            preempts: true,
            caches: false,
        },
    ]
}

/// As many guesses as there can be, whether they pay or not.
fn guesses(source: GuessSource) -> SpeculationConfig {
    SpeculationConfig { source, adaptive: false, ..SpeculationConfig::default() }
}

/// A tiny model's file.
fn file(weights: Weights) -> Vec<u8> {
    let spec = TinySpec { n_ctx: N_CTX, ..TinySpec::new(Arch::Llama).wide() };
    match weights {
        Weights::Q8_0 => spec.weight_type(TensorType::Q8_0).bytes(),
        Weights::KQuants => {
            let file = GgufFile::from_bytes(spec.bytes()).expect("a tiny model");
            let mut out = GgufWriter::with_metadata(file.metadata().clone());
            for info in file.tensors() {
                let data = file.tensor_data(info).expect("it is in memory");
                let matters = ["attn_v", "ffn_down", "output.weight"].iter().any(|n| info.name.contains(n));
                match (info.dims.len(), info.ty) {
                    (2, TensorType::F32) => {
                        let floats: Vec<f32> = data
                            .chunks_exact(4)
                            .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
                            .collect();
                        let ty = if matters { TensorType::Q6_K } else { TensorType::Q4_K };
                        out.tensor(&info.name, ty, &info.dims, quantize(ty, &floats));
                    }
                    _ => _ = out.tensor(&info.name, info.ty, &info.dims, data.into_owned()),
                }
            }
            out.to_bytes()
        }
    }
}

fn prompt(seed: u64, n: usize) -> Vec<TokenId> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| TokenId(rng.below(256) as u32)).collect()
}

fn request(prompt: Vec<TokenId>, seed: u64) -> Request {
    let task = Task::Completion { prompt: Prompt::Tokens(prompt), echo: Echo::No };
    Request {
        max_tokens: Some(N_NEW),
        ignore_eos: true,
        sampling: Sampling {
            temperature: Some(1.1),
            repeat_penalty: Some(1.1),
            seed: Some(seed),
            ..Sampling::default()
        },
        ..Request::new("x", Principal::local(), task)
    }
}

/// The request.
fn asked() -> Request {
    Request { logprobs: Some(2), ..request(prompt(1, N_PROMPT), 42) }
}

/// Another one, of several choices, whose format is written ahead of sampling.
fn asked_in_a_format() -> Request {
    let schema = json!({
        "type": "object",
        "properties": { "a_rather_long_name": { "enum": ["some value", "some other value"] }, "b": { "type": "boolean" } },
        "required": ["a_rather_long_name", "b"],
        "additionalProperties": false,
    });
    Request {
        n: 2,
        format: Some(Format::JsonSchema(schema)),
        max_tokens: Some(100),
        ignore_eos: false,
        ..request(prompt(1, 40), 43)
    }
}

/// Any of the requests that others may have.
fn other(rng: &mut Rng) -> Request {
    let shared = if rng.one_in(3) { N_PROMPT * rng.below(100) / 100 } else { 0 };
    let own = prompt(rng.below(1 << 30) as u64, 1 + rng.below(170));
    let tokens = [&prompt(1, N_PROMPT)[..shared], &own].concat();
    let format = rng.one_in(5).then(|| Format::Regex("(abc|abd){1,9}".into()));
    Request {
        n: 1 + rng.below(3) as u32,
        max_tokens: Some(1 + rng.below(50) as u32),
        priority: if rng.one_in(4) { Priority::Background } else { Priority::Normal },
        ignore_eos: format.is_none(),
        format,
        logprobs: rng.one_in(3).then_some(1),
        ..request(tokens, rng.below(1000) as u64)
    }
}

/// What an engine was seen to do.
#[derive(Debug, Default)]
struct Seen {
    /// Sequences that ran at the same time.
    running: Mutex<BTreeSet<usize>>,
    abandoned: AtomicUsize,
    answered: AtomicUsize,
}

/// Runs a request, waiting for its turn where the queue is full; `patience` pieces, then it leaves.
fn run(provider: &dyn Provider, request: &Request, patience: usize, seen: &Seen) -> Option<Bytes> {
    let stream = loop {
        match block_on(provider.start(request.clone())) {
            Ok(stream) => break stream,
            Err(ProviderError::Overloaded { .. }) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("it is refused: {error}"),
        }
    };
    let n = request.n as usize;
    let (mut texts, mut reasons) = (vec![String::new(); n], vec![String::new(); n]);
    let mut tokens = vec![Vec::new(); n];
    for (i, delta) in block_on_stream(stream).enumerate() {
        if i >= patience {
            seen.abandoned.fetch_add(1, Relaxed);
            return None;
        }
        seen.running.lock().expect("nobody panics with it").insert(provider.status().running);
        let delta = delta.expect("no request fails");
        let choice = delta.choice as usize;
        match delta.event {
            Event::Text { text, logprobs } => {
                texts[choice].push_str(&text);
                tokens[choice].extend(logprobs.into_iter().map(|l| {
                    let top = l.top.iter().map(|(id, _, p)| (id.0, p.to_bits())).collect();
                    (l.token.0, l.logprob.expect("new tokens have one").to_bits(), top)
                }));
            }
            Event::Finished(reason) => reasons[choice] = format!("{reason:?}"),
            _ => {}
        }
    }
    seen.answered.fetch_add(1, Relaxed);
    Some((texts, reasons, tokens.concat()))
}

/// The distinct answers of so many runs of the request in one circumstance, and of a few of the other one. The runs go
/// on until the load has been `enough` too: how requests meet is up to the machine, and a lucky one needs more of them.
fn answers(
    engine: &Engine,
    n: usize,
    seed: u64,
    enough: &(dyn Fn(&ProviderStatus, &Seen) -> bool + Sync),
) -> (HashSet<Bytes>, HashSet<Bytes>, ProviderStatus, Seen) {
    let provider = engine.provider();
    let (distinct, formatted) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let (left, is_over, seen) = (AtomicUsize::new(n), AtomicBool::new(false), Seen::default());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..N_LOAD as u64 {
            let (provider, is_over, seen) = (&provider, &is_over, &seen);
            scope.spawn(move || {
                let mut rng = Rng::new(seed * 1000 + i);
                while !is_over.load(Relaxed) {
                    let patience = if rng.one_in(3) { rng.below(20) } else { usize::MAX };
                    run(&**provider, &other(&mut rng), patience, seen);
                }
            });
        }
        let asking: Vec<_> = (0..N_ASKING as u64)
            .map(|i| {
                let (provider, left, seen) = (&provider, &left, &seen);
                let (distinct, formatted) = (&distinct, &formatted);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed * 1000 + 500 + i);
                    let is_due = || left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok();
                    while is_due() || !enough(&provider.status(), seen) {
                        assert!(
                            begun.elapsed() < PATIENCE,
                            "it takes too long, or what should happen under load does not: {:?}, {seen:?}",
                            provider.status()
                        );
                        if rng.one_in(8) {
                            provider.flush_cache(&Principal::local()).expect("caches can be flushed");
                        }
                        if rng.one_in(10) {
                            let answer = run(&**provider, &asked_in_a_format(), usize::MAX, seen);
                            formatted.lock().expect("nobody panics with it").extend(answer);
                        }
                        let answer = run(&**provider, &asked(), usize::MAX, seen);
                        distinct.lock().expect("nobody panics with it").extend(answer);
                    }
                })
            })
            .collect();
        let ended = asking.into_iter().map(std::thread::ScopedJoinHandle::join);
        let ended: Vec<_> = ended.collect();
        is_over.store(true, Relaxed);
        ended.into_iter().for_each(|end| end.expect("the clients end well"));
    });
    let (distinct, formatted) = (distinct.into_inner(), formatted.into_inner());
    (distinct.expect("unlocked"), formatted.expect("unlocked"), provider.status(), seen)
}

#[test]
fn the_same_every_time() {
    let total = std::env::var("INGLE_TEST_SAME_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let arithmetics = [
        (Weights::KQuants, KvType::F16),
        (Weights::KQuants, KvType::Q8_0),
        (Weights::Q8_0, KvType::F16),
        (Weights::Q8_0, KvType::Q8_0),
    ];
    let n_engines = arithmetics.len() * circumstances().len();
    let per_engine = usize::div_ceil(total, n_engines);
    let mut all = HashSet::new();
    for (i, (weights, kv_type)) in arithmetics.into_iter().enumerate() {
        let bytes = file(weights);
        let mut expected: Option<(Bytes, Bytes)> = None;
        let mut path = None;
        for (j, circumstance) in circumstances().into_iter().enumerate() {
            let what = format!("{weights:?}, {kv_type:?} cache, {}", circumstance.name);
            let options =
                LoadOptions { kv_type: Some(kv_type), n_threads: Some(2), ..circumstance.options.clone() };
            let engine = Engine::load_with(&Source::Bytes(bytes.clone()), &options, &mut |_, _| {});
            let engine = engine.expect("a tiny model loads");
            let fingerprint = &engine.info().fingerprint;
            assert_eq!(path.get_or_insert_with(|| fingerprint.clone()), fingerprint, "{what}");

            // The first engine says what is expected, before there is any load.
            let quiet = Seen::default();
            let (asked, formatted) = expected.get_or_insert_with(|| {
                let alone = |request: &Request| run(&*engine.provider(), request, usize::MAX, &quiet);
                (
                    alone(&asked()).expect("it is heard out"),
                    alone(&asked_in_a_format()).expect("it is heard out"),
                )
            });
            let begun = Instant::now();
            let speculation = &circumstance.options.speculation;
            let is_guessing = !speculation.adaptive && speculation.source == GuessSource::Lookup;
            let enough = |status: &ProviderStatus, seen: &Seen| {
                seen.abandoned.load(Relaxed) > 0
                    && seen.running.lock().expect("nobody panics with it").len() >= 4
                    && (!circumstance.preempts || status.preemptions_total > 0)
                    && (!circumstance.caches || status.cached_tokens_total > 0)
                    && (!is_guessing || status.speculation.draft_tokens_total > 0)
            };
            let seed = (10 * i + j) as u64 + 1;
            let (found, of_format, status, seen) = answers(&engine, per_engine, seed, &enough);
            assert_eq!(found.len(), 1, "{what}: distinct answers");
            assert!(found.contains(asked), "{what}: another answer than alone");
            assert!(of_format.iter().all(|answer| answer == formatted), "{what}: another answer in a format");

            let running = seen.running.into_inner().expect("unlocked");
            let (n_abandoned, n_answered) = (seen.abandoned.into_inner(), seen.answered.into_inner());
            eprintln!(
                "{what}: {per_engine} of {n_answered} answers in {:.1} s, {} steps, {} preemptions, {} tokens from the \
                 cache, {n_abandoned} abandoned, together {running:?}",
                begun.elapsed().as_secs_f64(),
                status.steps_total,
                status.preemptions_total,
                status.cached_tokens_total,
            );
            // What should happen did, else there would be no end; what should not must not have.
            assert!(circumstance.preempts || status.preemptions_total == 0, "{what}: preemptions");
            assert!(circumstance.caches || status.cached_tokens_total == 0, "{what}: cached tokens");
            let n_guessed = status.speculation.draft_tokens_total;
            assert!(speculation.source != GuessSource::Off || n_guessed == 0, "{what}: guesses");
        }
        all.extend(expected);
    }
    assert_eq!(all.len(), arithmetics.len(), "the arithmetics differ, else they would prove nothing");
}
