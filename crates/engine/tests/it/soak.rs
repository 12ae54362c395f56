//! Many clients that stream, pause and vanish at random, for some seconds (`INGLE_SOAK_SECONDS` for more): whoever
//! reads to the end gets the text that it gets alone, and nothing is left behind.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Event, Provider, ProviderError, Request, Sampling};
use ingle_engine::{Engine, EngineConfig};
use ingle_testkit::rng::Rng;
use ingle_testkit::scripted::ScriptedExecutor;

use crate::client::{N_VOCAB, ask, block_on, completion, executor, next, start, wait_until_idle};

const N_CLIENTS: u64 = 32;
const N_REQUESTS: usize = 40;

fn request(i: usize) -> Request {
    let mut rng = Rng::new(i as u64);
    let shared = ["You are a helpful assistant. ", "Translate: ", ""][rng.below(3)];
    let sampling = Sampling { temperature: Some(1.0), seed: Some(i as u64), ..Sampling::default() };
    Request {
        max_tokens: Some(1 + rng.below(80) as u32),
        n: 1 + if rng.one_in(4) { rng.below(4) as u32 } else { 0 },
        logprobs: rng.one_in(4).then_some(2),
        sampling,
        ..completion(&format!("{shared}{}", "question ".repeat(1 + rng.below(8))))
    }
}

#[derive(Default)]
struct Tally {
    read: usize,
    vanished: usize,
    refused: usize,
}

/// One client's life.
fn live(engine: &Engine, expected: &[Vec<String>], seed: u64, until: Instant) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while Instant::now() < until {
        let i = rng.below(expected.len());
        let mut stream = match block_on(engine.start(request(i))) {
            Ok(stream) => stream,
            Err(ProviderError::Overloaded { .. }) => {
                tally.refused += 1;
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => panic!("request {i}: {error}"),
        };
        let patience = if rng.one_in(3) { rng.below(30) } else { usize::MAX };
        let mut texts: BTreeMap<u32, String> = BTreeMap::new();
        let mut n_deltas = 0;
        loop {
            if n_deltas == patience {
                tally.vanished += 1;
                break;
            }
            if rng.one_in(40) {
                thread::sleep(Duration::from_millis(rng.below(30) as u64));
            }
            let Some(delta) = next(&mut stream) else {
                let texts: Vec<String> = texts.into_values().collect();
                assert_eq!(texts, expected[i], "request {i} differs from itself alone");
                tally.read += 1;
                break;
            };
            let delta = delta.unwrap_or_else(|e| panic!("request {i}: {e}"));
            let text = texts.entry(delta.choice).or_default();
            if let Event::Text { text: more, .. } = delta.event {
                text.push_str(&more);
            }
            n_deltas += 1;
        }
    }
    tally
}

#[test]
fn clients_come_and_go_and_leave_nothing_behind() {
    let seconds = std::env::var("INGLE_SOAK_SECONDS").map_or(6, |s| s.parse().expect("a number of seconds"));
    let alone = start(executor(), EngineConfig::default());
    let expected: Vec<_> = (0..N_REQUESTS).map(|i| ask(&alone, request(i)).unwrap().texts).collect();
    drop(alone);

    let config = EngineConfig {
        max_running_seqs: 12,
        step_token_budget: 48,
        max_waiting_requests: 16,
        stream_capacity: 8,
        ..EngineConfig::default()
    };
    let latency = Duration::from_micros(200);
    let engine = start(ScriptedExecutor::new(N_VOCAB, 256, 8, 64).with_latency(latency), config);
    let until = Instant::now() + Duration::from_secs(seconds);
    let tallies = thread::scope(|scope| {
        let (engine, expected) = (&engine, &expected[..]);
        let clients: Vec<_> =
            (0..N_CLIENTS).map(|seed| scope.spawn(move || live(engine, expected, seed, until))).collect();
        clients.into_iter().map(|c| c.join().expect("a client failed")).collect::<Vec<_>>()
    });
    let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
    let (read, vanished, refused) = (sum(|t| t.read), sum(|t| t.vanished), sum(|t| t.refused));

    let status = wait_until_idle(&engine);
    println!("{read} read to the end, {vanished} vanished, {refused} refused; {status:?}");
    assert!(read > 20 && vanished > 20, "too little happened to prove anything");
    let ended = status.requests_finished_total + status.requests_aborted_total;
    assert_eq!(ended, (read + vanished) as u64, "every request ends exactly once");
    assert!(engine.drain(Duration::from_secs(5)), "the thread still knows a client");
    assert_eq!(status.kv_blocks_used, 0);
}
