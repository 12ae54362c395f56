//! What callers may say about when they are served, and what tenants get beside each other, in a running engine.

use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Event, Principal, Provider, ProviderError, Request, Terms};
use ingle_engine::EngineConfig;
use ingle_testkit::scripted::ScriptedExecutor;

use crate::client::{
    N_VOCAB, ask, block_on, completion, executor, first_text, next, read, start, stream, wait_until,
    wait_until_idle,
};

fn endless(prompt: &str) -> Request {
    Request { max_tokens: None, ignore_eos: true, ..completion(prompt) }
}

fn slow() -> ScriptedExecutor {
    executor().with_latency(Duration::from_millis(15))
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
    let config = EngineConfig { request_timeout: ms(10_000), ..EngineConfig::default() };
    let engine = start(slow(), config);
    let terms = Terms { timeout: ms(150), ..Terms::default() };
    let mut late = stream(&engine, within(terms, endless("late")));
    let began = Instant::now();
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
    assert_eq!(error, ProviderError::DeadlineExceeded { limit: Duration::from_millis(150) });
    assert!(n_texts > 0 && began.elapsed() >= Duration::from_millis(150), "{n_texts} {:?}", began.elapsed());
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
    let engine = start(slow(), EngineConfig { max_running_seqs: 1, ..EngineConfig::default() });
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let terms = Terms { queue_timeout: ms(60), ..Terms::default() };
    let error = ask(&engine, within(terms, completion("second"))).unwrap_err();
    assert!(matches!(error, ProviderError::Overloaded { .. }), "{error}");
    // Its whole time is over before it began, too.
    let terms = Terms { timeout: ms(60), ..Terms::default() };
    let error = ask(&engine, within(terms, completion("third"))).unwrap_err();
    assert!(matches!(error, ProviderError::DeadlineExceeded { .. }), "{error}");
    drop(running);
    assert_eq!(wait_until_idle(&engine).prompt_tokens_total, 6, "no token was computed for them");
}

#[test]
fn who_has_no_hope_is_refused_at_once() {
    // 8 tokens of a prompt in 15 ms, as is learned from the first.
    let config = EngineConfig { step_token_budget: 8, max_running_seqs: 1, ..EngineConfig::default() };
    let engine = start(slow(), config);
    ask(&engine, Request { max_tokens: Some(1), ..completion(&"learn".repeat(20)) }).unwrap();
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let _waiting: Vec<_> = (0..5).map(|_| stream(&engine, completion(&"x".repeat(200)))).collect();
    let began = Instant::now();
    for (terms, is_refused) in [
        (Terms { queue_timeout: ms(500), ..Terms::default() }, true),
        (Terms { timeout: ms(500), ..Terms::default() }, true),
        (Terms { timeout: ms(600_000), queue_timeout: ms(600_000), rank: 0 }, false),
    ] {
        let answer = block_on(engine.start(within(terms, completion("hopeless"))));
        match answer {
            Ok(_) => assert!(!is_refused, "{terms:?}"),
            Err(ProviderError::Overloaded { retry_after, .. }) if is_refused => {
                assert!(retry_after >= Duration::from_secs(1));
            }
            Err(error) => panic!("{terms:?}: {error}"),
        }
    }
    assert!(began.elapsed() < Duration::from_millis(400), "nobody waited to be told: {:?}", began.elapsed());
}

#[test]
fn a_lower_rank_goes_first() {
    let engine = start(slow(), EngineConfig { max_running_seqs: 1, ..EngineConfig::default() });
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let ranked = |rank| within(Terms { rank, ..Terms::default() }, completion(&format!("rank {rank}")));
    let streams: Vec<_> = [5, 0, -3].map(|rank| stream(&engine, ranked(rank))).into_iter().collect();
    wait_until(&engine, "they wait", |s| s.waiting >= 2);
    drop(running);
    let ended = thread::scope(|scope| {
        let ends = streams.into_iter().map(|s| scope.spawn(move || read(s).map(|_| Instant::now()).unwrap()));
        let ends: Vec<_> = ends.collect();
        ends.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ended[2] < ended[1] && ended[1] < ended[0], "{ended:?}");
}

#[test]
fn one_that_floods_fills_its_own_part_of_the_queue() {
    let config = EngineConfig {
        max_running_seqs: 1,
        max_waiting_requests: 6,
        max_waiting_requests_per_tenant: Some(3),
        ..EngineConfig::default()
    };
    let engine = start(slow(), config);
    let mut running = stream(&engine, of("flood", endless("first")));
    first_text(&mut running);
    let _waiting: Vec<_> = (0..3).map(|_| stream(&engine, of("flood", endless("x")))).collect();
    for _ in 0..20 {
        let began = Instant::now();
        let refused = block_on(engine.start(of("flood", endless("x")))).err();
        assert!(matches!(refused, Some(ProviderError::Overloaded { waiting: 3, .. })), "{refused:?}");
        assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    }
    // There is one place, and whoever has it gives it up at once.
    let began = Instant::now();
    let answer = ask(&engine, of("guest", completion("hello"))).unwrap();
    assert_eq!(answer.usage.completion_tokens, 16);
    assert!(began.elapsed() < Duration::from_millis(15 * 16 * 2 + 1500), "{:?}", began.elapsed());
}

#[test]
fn memory_that_one_fills_is_given_up_to_another() {
    // 32 blocks of 8, all of which six endless answers fill.
    let engine = start(
        ScriptedExecutor::new(ingle_testkit::bytes::N_VOCAB, 256, 8, 32)
            .with_latency(Duration::from_millis(2)),
        EngineConfig::default(),
    );
    let alone = ask(&engine, of("flood", completion("a flood of words 0"))).unwrap().texts;
    let request = |i: usize| {
        of("flood", Request { max_tokens: Some(120), ..endless(&format!("a flood of words {i}")) })
    };
    let flood: Vec<_> = (0..6).map(|i| stream(&engine, request(i))).collect();
    let readers: Vec<_> = flood.into_iter().map(|s| thread::spawn(move || read(s).unwrap())).collect();
    wait_until(&engine, "memory is full", |s| s.kv_blocks_used >= 24);
    let guest = ask(&engine, of("guest", completion(&"a long question ".repeat(5)))).unwrap();
    assert_eq!(guest.usage.completion_tokens, 16);
    assert!(guest.usage.queued < Duration::from_secs(2), "{:?}", guest.usage.queued);
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
