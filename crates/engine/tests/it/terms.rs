//! What callers may say about when they are served, and what tenants get beside each other, in a running engine.

use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Event, Principal, Provider, ProviderError, Request, Terms};
use ingle_engine::EngineConfig;
use ingle_testkit::scripted::ScriptedExecutor;

use crate::client::{
    N_VOCAB, ask, block_on, completion, executor, first_text, next, read, running, start, start_in_turns,
    stream, wait_until_idle,
};

fn endless(prompt: &str) -> Request {
    Request { max_tokens: None, ignore_eos: true, ..completion(prompt) }
}

/// One whose context takes a minute to fill.
fn slow() -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 4096, 8, 600).with_latency(Duration::from_millis(15))
}

/// Requests run on, one at a time, though nobody reads their answers.
fn one_at_a_time() -> EngineConfig {
    EngineConfig { max_running_seqs: 1, stream_capacity: 4096, ..EngineConfig::default() }
}

fn of(tenant: &str, request: Request) -> Request {
    Request { principal: Principal { tenant: tenant.into(), ..Principal::local() }, ..request }
}

fn within(terms: Terms, request: Request) -> Request {
    Request { terms, ..request }
}

fn ms(n: u64) -> Option<Duration> {
    Some(Duration::from_millis(n))
}

#[test]
fn whose_time_is_over_ends_with_an_error_and_frees_its_blocks() {
    // Long enough for its first text, however busy the machine is.
    const LIMIT: Duration = Duration::from_secs(2);
    let config = EngineConfig { request_timeout: ms(20_000), ..EngineConfig::default() };
    let engine = start(slow(), config);
    let terms = Terms { timeout: Some(LIMIT), ..Terms::default() };
    let began = Instant::now();
    let mut late = stream(&engine, within(terms, endless("late")));
    let mut n_texts = 0;
    let error = loop {
        match next(&mut late).expect("an error comes before the end") {
            Ok(delta) => {
                assert!(
                    !matches!(delta.event, Event::Finished(_)),
                    "an answer that was cut short has no end"
                );
                n_texts += usize::from(matches!(delta.event, Event::Text { .. }));
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, ProviderError::DeadlineExceeded { limit: LIMIT });
    assert!(n_texts > 0 && began.elapsed() >= LIMIT, "{n_texts} {:?}", began.elapsed());
    assert!(next(&mut late).is_none(), "nothing follows an error");
    let status = wait_until_idle(&engine);
    assert_eq!((status.kv_blocks_used, status.requests_overdue_total), (0, 1));
    assert_eq!(ask(&engine, completion("another")).unwrap().usage.completion_tokens, 16);
}

#[test]
fn the_operators_limit_holds_for_all_and_the_shorter_one_counts() {
    let config = EngineConfig { request_timeout: ms(100), ..EngineConfig::default() };
    let engine = start(slow(), config);
    let terms = Terms { timeout: ms(60_000), ..Terms::default() };
    let error = read(stream(&engine, within(terms, endless("late")))).unwrap_err();
    assert_eq!(error, ProviderError::DeadlineExceeded { limit: Duration::from_millis(100) });
}

#[test]
fn who_cannot_begin_in_time_never_starts() {
    let engine = start(slow(), one_at_a_time());
    // As many tokens in one step that what one takes seems nothing.
    ask(&engine, Request { max_tokens: Some(1), ..completion(&"x".repeat(400)) }).unwrap();
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let n_read = engine.status().prompt_tokens_total;
    let terms = Terms { queue_timeout: ms(60), ..Terms::default() };
    let error = ask(&engine, within(terms, completion("second"))).unwrap_err();
    let limit = Duration::from_millis(60);
    assert!(
        matches!(error, ProviderError::TooLate { begins: true, limit: l, needed, .. } if l == limit && needed >= l),
        "{error}"
    );
    // Its whole time is over before it began, too.
    let terms = Terms { timeout: ms(60), ..Terms::default() };
    let error = ask(&engine, within(terms, completion("third"))).unwrap_err();
    assert!(matches!(error, ProviderError::DeadlineExceeded { .. }), "{error}");
    drop(running);
    assert_eq!(wait_until_idle(&engine).prompt_tokens_total, n_read, "no token was computed for them");
}

#[test]
fn who_has_no_hope_is_refused_at_once() {
    // 8 tokens of a prompt in 15 ms, as is learned from the first.
    let config = EngineConfig { step_token_budget: 8, ..one_at_a_time() };
    let engine = start(slow(), config);
    ask(&engine, Request { max_tokens: Some(1), ..completion(&"learn".repeat(20)) }).unwrap();
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let _waiting: Vec<_> = (0..5).map(|_| stream(&engine, completion(&"x".repeat(200)))).collect();
    for (terms, refused) in [
        (Terms { queue_timeout: ms(500), ..Terms::default() }, Some("until it would begin")),
        (Terms { timeout: ms(500), ..Terms::default() }, Some("for its prompt and those before it")),
        (Terms { timeout: ms(600_000), queue_timeout: ms(600_000), rank: 0 }, None),
    ] {
        // Whoever was let in to wait would be told so by its stream, and not by the call.
        let answer = block_on(engine.start(within(terms, completion("hopeless"))));
        match answer {
            Ok(_) => assert!(refused.is_none(), "{terms:?}"),
            Err(error) => {
                let why = refused.unwrap_or_else(|| panic!("{terms:?}: {error}"));
                assert!(
                    error.to_string().contains(why) && error.to_string().contains("given 0.5 s"),
                    "{error}"
                );
                assert!(error.retry_after() >= Some(Duration::from_secs(1)), "{error}");
                assert_eq!(engine.status().waiting, 5, "it joins no queue");
            }
        }
    }
}

#[test]
fn a_lower_rank_goes_first() {
    let (engine, turns) = start_in_turns(executor(), one_at_a_time());
    let running = running(&engine, endless("first"));
    let ranked = |rank| within(Terms { rank, ..Terms::default() }, completion(&format!("rank {rank}")));
    let streams: Vec<_> = [5, 0, -3].map(|rank| stream(&engine, ranked(rank))).into_iter().collect();
    assert_eq!(engine.status().waiting, 3, "they wait");
    drop(running);
    turns.open();
    // The engine's own clock: who came last and began first has waited least.
    let queued: Vec<_> = streams.into_iter().map(|s| read(s).unwrap().usage.queued).collect();
    assert!(queued[2] < queued[1] && queued[1] < queued[0], "{queued:?}");
}

#[test]
fn one_that_floods_fills_its_own_part_of_the_queue() {
    let config =
        EngineConfig { max_waiting_requests: 6, max_waiting_requests_per_tenant: Some(3), ..one_at_a_time() };
    let (engine, turns) = start_in_turns(executor(), config);
    let _running = running(&engine, of("flood", endless("first")));
    let _waiting: Vec<_> = (0..3).map(|_| stream(&engine, of("flood", endless("x")))).collect();
    for _ in 0..20 {
        let refused = block_on(engine.start(of("flood", endless("x")))).err();
        assert!(matches!(refused, Some(ProviderError::Overloaded { waiting: 3, .. })), "{refused:?}");
    }
    assert_eq!(engine.status().steps_total, 0, "a refusal waits for no step");
    // There is one place, and they take turns at it at once, step by step, though the other's answer goes on.
    let guest = stream(&engine, of("guest", completion("hello")));
    turns.give(2 * (1 + 16));
    assert_eq!(read(guest).unwrap().usage.completion_tokens, 16);
}

#[test]
fn memory_that_one_fills_is_given_up_to_another() {
    // The flood takes twice as many.
    const GUEST_STEPS: u64 = 150;
    // 32 blocks of 8, all of which six endless answers fill.
    let small = || ScriptedExecutor::new(N_VOCAB, 256, 8, 32);
    let alone = start(small(), EngineConfig::default());
    let alone = ask(&alone, of("flood", completion("a flood of words 0"))).unwrap().texts;
    let (engine, turns) = start_in_turns(small(), EngineConfig::default());
    let request = |i: usize| {
        of("flood", Request { max_tokens: Some(120), ..endless(&format!("a flood of words {i}")) })
    };
    let flood: Vec<_> = (0..6).map(|i| stream(&engine, request(i))).collect();
    let readers: Vec<_> = flood.into_iter().map(|s| thread::spawn(move || read(s).unwrap())).collect();
    while turns.step(&engine, 1).kv_blocks_used < 24 {}
    // The guest is answered long before the flood has gone by.
    let guest = stream(&engine, of("guest", completion(&"a long question ".repeat(5))));
    turns.give(GUEST_STEPS);
    assert_eq!(read(guest).unwrap().usage.completion_tokens, 16);
    turns.open();
    let texts: Vec<String> = readers.into_iter().map(|r| r.join().unwrap().text().to_owned()).collect();
    assert!(texts[0].starts_with(&alone[0]), "who was preempted goes on as if nothing had been");
    let status = wait_until_idle(&engine);
    assert!(status.preemptions_total <= 3 * 7, "nobody is preempted more than three times: {status:?}");
}

/// A device on which each row takes as long: of a long prompt only so many tokens go into a step as fit into its time. A machine
/// that has other things to do makes steps smaller still.
#[test]
fn steps_beside_others_take_no_longer_than_they_should() {
    const ROW: Duration = Duration::from_micros(200);
    let device = ScriptedExecutor::new(N_VOCAB, 2200, 8, 300).with_row_latency(ROW);
    let config = EngineConfig { step_time_max: 50 * ROW, is_shared: true, ..EngineConfig::default() };
    let engine = start(device, config);
    let prompt = "x".repeat(2000);
    let answer = ask(&engine, Request { max_tokens: Some(1), ..completion(&prompt) }).unwrap();
    assert_eq!(answer.usage.completion_tokens, 1);
    let steps = wait_until_idle(&engine).steps_total;
    assert!(steps >= 40, "2000 rows in {steps} steps, where 50 rows take as long as a step may");
}
