//! What goes wrong under load, and what must hold then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Condition, Delta, DeltaStream, Event, Priority, Provider, ProviderError, Request};
use ingle_engine::EngineConfig;
use ingle_testkit::rng::Rng;
use ingle_testkit::scripted::{Fault, ScriptedExecutor, hashed_logits, recite};

use crate::client::{
    EOS, N_VOCAB, ask, block_on, byte, bytes, completion, executor, first_text, next, read, running, start,
    start_in_turns, stream, wait_until, wait_until_idle,
};

/// Runs until the context ends, which takes many steps.
fn endless(prompt: &str) -> Request {
    Request { max_tokens: None, ignore_eos: true, ..completion(prompt) }
}

fn slow() -> ScriptedExecutor {
    executor().with_latency(Duration::from_millis(15))
}

/// One whose context takes a minute to fill.
fn roomy() -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 4096, 8, 600).with_latency(Duration::from_millis(15))
}

/// Requests run on though nobody reads their answers.
fn unread() -> EngineConfig {
    EngineConfig { stream_capacity: 4096, ..EngineConfig::default() }
}

#[test]
fn a_client_that_leaves_in_mid_answer_is_gone_by_the_next_step() {
    let engine = start(slow(), EngineConfig::default());
    let mut streams: Vec<_> = (0..20).map(|i| stream(&engine, endless(&format!("client {i}")))).collect();
    streams.iter_mut().for_each(first_text);
    drop(streams);
    let n_before = engine.status().generated_tokens_total;
    let status = wait_until_idle(&engine);
    let n_late = status.generated_tokens_total - n_before;
    assert!(n_late <= 20, "{n_late} tokens were computed for nobody: more than the step in flight");
    let n_steps = status.steps_total;
    thread::sleep(Duration::from_millis(60));
    assert_eq!(engine.status().steps_total, n_steps, "steps are computed for nobody");
    assert_eq!(engine.status().requests_aborted_total, 20);
}

#[test]
fn a_client_that_leaves_while_its_prompt_is_read_stops_it() {
    let config = EngineConfig { step_token_budget: 4, max_running_seqs: 2, ..EngineConfig::default() };
    let (engine, turns) = start_in_turns(executor(), config);
    let reading = stream(&engine, endless(&"long-".repeat(40)));
    assert_eq!(turns.step(&engine, 3).prompt_tokens_total, 12, "it reads");
    drop(reading);
    turns.open();
    let status = wait_until_idle(&engine);
    // Four tokens more in the step that ran.
    assert!(status.prompt_tokens_total <= 16, "the prompt was read on for nobody: {status:?}");
    assert_eq!(status.generated_tokens_total, 0);
}

/// Longer than a busy machine holds a client that has left.
const HELD_MAX: Duration = Duration::from_secs(20);

/// Whether a time is kept. A busy machine delays whom it likes, so one attempt of several is enough: code that takes longer
/// takes longer in each.
fn is_kept(what: &str, most: Duration, attempt: impl Fn() -> Vec<Duration>) {
    let mut found = Vec::new();
    for _ in 0..5 {
        let mut times = attempt();
        times.sort();
        // The 99th of 100.
        found.push(times[times.len() * 99 / 100]);
        if found.last().is_some_and(|time| *time <= most) {
            return;
        }
    }
    panic!("{what} takes {found:?}, and {most:?} are promised");
}

#[test]
fn five_hundred_clients_that_leave_are_let_go_at_once() {
    is_kept("letting go", Duration::from_millis(250), five_hundred_clients_leave);
}

fn five_hundred_clients_leave() -> Vec<Duration> {
    let engine = start(executor().with_latency(Duration::from_millis(1)), EngineConfig::default());
    let alone = ask(&engine, endless("somebody who stays")).unwrap().texts;
    let mut rng = Rng::new(1);
    let mut stays = stream(&engine, endless("somebody who stays"));
    let mut stayed = 0;
    let waits: Vec<Duration> = (0..500)
        .map(|i| {
            let mut leaving = stream(&engine, Request { n: 1 + i % 2, ..endless(&format!("client {i}")) });
            for _ in 0..rng.below(12) {
                next(&mut leaving);
            }
            let aborted = engine.status().requests_aborted_total;
            drop(leaving);
            let left = Instant::now();
            while engine.status().requests_aborted_total == aborted {
                assert!(left.elapsed() < HELD_MAX, "client {i} is held");
                thread::sleep(Duration::from_micros(100));
            }
            let waited = left.elapsed();
            // Somebody else is there all the time, and starts again when the context is full.
            while let Some(Some(delta)) = ready(&mut stays) {
                if matches!(delta.unwrap().event, Event::Done(_)) {
                    stays = stream(&engine, endless("somebody who stays"));
                    stayed += 1;
                }
            }
            waited
        })
        .collect();
    drop(stays);
    assert!(stayed > 0, "nobody stayed long enough");
    assert_eq!(wait_until_idle(&engine).kv_blocks_used, 0);
    assert_eq!(ask(&engine, endless("somebody who stays")).unwrap().texts, alone);
    waits
}

/// The next delta if it is there already; `None` if it is not.
fn ready(stream: &mut DeltaStream) -> Option<Option<Result<Delta, ProviderError>>> {
    let mut cx = Context::from_waker(Waker::noop());
    match stream.as_mut().poll_next(&mut cx) {
        Poll::Ready(delta) => Some(delta),
        Poll::Pending => None,
    }
}

#[test]
fn a_long_prompt_that_nobody_waits_for_stops_at_the_next_chunk() {
    const N_PROMPT: usize = 8000;
    const N_CHUNK: usize = 512;
    for n_chunks in 1..=N_PROMPT / N_CHUNK {
        let config = EngineConfig { step_token_budget: N_CHUNK, ..EngineConfig::default() };
        let (engine, turns) = start_in_turns(ScriptedExecutor::new(N_VOCAB, 8192, 32, 260), config);
        let reading = stream(&engine, endless(&"x".repeat(N_PROMPT)));
        let read = turns.step(&engine, n_chunks as u64);
        assert_eq!(read.prompt_tokens_total as usize, n_chunks * N_CHUNK);
        drop(reading);
        turns.open();
        let status = wait_until_idle(&engine);
        let late = status.prompt_tokens_total - read.prompt_tokens_total;
        // The chunk in flight.
        assert!(late as usize <= N_CHUNK, "{n_chunks} chunks: {late} tokens were read for nobody");
        assert_eq!(status.kv_blocks_used, 0, "{n_chunks} chunks");
        // The last chunk has a token with it.
        assert!(status.generated_tokens_total <= 1, "{n_chunks} chunks");
    }
}

#[test]
fn a_client_that_leaves_the_queue_never_starts() {
    let config = EngineConfig { max_running_seqs: 1, ..EngineConfig::default() };
    let (engine, turns) = start_in_turns(executor(), config);
    let running = running(&engine, endless("first"));
    let queued: Vec<_> = (0..5).map(|_| stream(&engine, endless("a queued prompt"))).collect();
    assert_eq!(engine.status().waiting, 5, "they queue");
    drop(queued);
    turns.step(&engine, 1);
    wait_until(&engine, "they are gone", |s| s.waiting == 0);
    drop(running);
    turns.open();
    assert_eq!(wait_until_idle(&engine).prompt_tokens_total, 6, "only the first prompt was read");
}

#[test]
fn a_full_queue_refuses_at_once_and_everyone_admitted_ends() {
    is_kept("a refusal", Duration::from_millis(20), refusals_of_a_full_queue);
}

fn refusals_of_a_full_queue() -> Vec<Duration> {
    let config = EngineConfig { max_running_seqs: 2, max_waiting_requests: 4, ..EngineConfig::default() };
    let (engine, turns) = start_in_turns(executor(), config);
    let mut admitted = Vec::new();
    let mut refusals = Vec::new();
    for i in 0..60 {
        let asked = Instant::now();
        match block_on(engine.start(completion(&format!("request {i}")))) {
            Ok(stream) => admitted.push(stream),
            Err(ProviderError::Overloaded { waiting, retry_after }) => {
                assert_eq!(waiting, 4);
                assert!(retry_after >= Duration::from_secs(1));
                refusals.push(asked.elapsed());
            }
            Err(other) => panic!("{other}"),
        }
    }
    // Two run at most.
    assert!((4..=6).contains(&admitted.len()), "{} admitted", admitted.len());
    assert_eq!(engine.status().steps_total, 0, "a refusal waits for no step");
    turns.open();
    for stream in admitted {
        read(stream).unwrap();
    }
    ask(&engine, completion("later")).unwrap();
    refusals
}

#[test]
fn the_queue_is_bounded_by_tokens_too() {
    let config = EngineConfig { max_running_seqs: 1, max_waiting_tokens: 250, ..EngineConfig::default() };
    let (engine, _turns) = start_in_turns(executor(), config);
    let _running = running(&engine, endless("first"));
    let long = || Request { max_tokens: Some(1), ..completion(&"x".repeat(200)) };
    let _first = stream(&engine, long());
    let refused = block_on(engine.start(long())).err();
    assert!(matches!(refused, Some(ProviderError::Overloaded { waiting: 1, .. })), "{refused:?}");
    let _small = stream(&engine, completion("x"));
}

#[test]
fn who_waits_too_long_is_told_so_and_never_starts() {
    let config = EngineConfig { max_running_seqs: 1, queue_timeout: Duration::from_millis(50), ..unread() };
    let engine = start(roomy(), config);
    let mut running = stream(&engine, endless("first"));
    first_text(&mut running);
    let error = ask(&engine, completion("second")).unwrap_err();
    assert!(matches!(error, ProviderError::TooLate { begins: true, .. }), "{error}");
    drop(running);
    assert_eq!(wait_until_idle(&engine).prompt_tokens_total, 6);
}

fn background(request: Request) -> Request {
    Request { priority: Priority::Background, ..request }
}

#[test]
fn the_background_turns_nobody_away_and_waits_as_long_as_it_takes() {
    // Long enough for those who need not wait, however busy the machine is.
    let queue_timeout = Duration::from_secs(2);
    let config = EngineConfig { max_running_seqs: 1, max_waiting_requests: 3, queue_timeout, ..unread() };
    let engine = start(roomy(), config);
    let mut running = stream(&engine, background(endless("first")));
    first_text(&mut running);
    let waiting: Vec<_> = (0..3).map(|i| stream(&engine, background(completion(&format!("{i}"))))).collect();
    let waiting_since = Instant::now();
    let refused = block_on(engine.start(background(completion("x")))).err();
    assert!(matches!(refused, Some(ProviderError::Overloaded { waiting: 3, .. })), "{refused:?}");
    for i in 0..5 {
        // The only place is taken, and is given up.
        ask(&engine, completion(&format!("normal {i}"))).unwrap();
    }
    thread::sleep((queue_timeout + Duration::from_millis(200)).saturating_sub(waiting_since.elapsed()));
    assert_eq!(engine.status().waiting, 3, "nobody of the background began before the first of it ended");
    drop(running);
    for stream in waiting {
        read(stream).unwrap();
    }
    wait_until_idle(&engine);
}

#[test]
fn when_memory_runs_out_texts_are_as_they_are_alone() {
    let request = |i: usize| Request {
        max_tokens: Some(60),
        ignore_eos: true,
        n: 1 + (i % 3) as u32,
        ..completion(&format!("{} prompt {i}", ["a shared beginning of a", "another"][i % 2]))
    };
    let alone = start(executor(), EngineConfig::default());
    let expected: Vec<_> = (0..12).map(|i| ask(&alone, request(i)).unwrap().texts).collect();

    // 16 blocks of 8; twelve requests want up to 12 blocks for each of their 24 sequences.
    let small = ScriptedExecutor::new(N_VOCAB, 256, 8, 16);
    let (engine, turns) = start_in_turns(small, EngineConfig::default());
    let streams: Vec<_> = (0..12).map(|i| stream(&engine, request(i))).collect();
    turns.open();
    for (stream, expected) in streams.into_iter().zip(expected) {
        assert_eq!(read(stream).unwrap().texts, expected);
    }
    let status = wait_until_idle(&engine);
    assert!(status.preemptions_total > 0, "memory never ran out");
    assert!(status.preemptions_total <= 3 * 24, "a sequence is preempted at most three times");
    assert_eq!(status.requests_finished_total, 12);
}

#[test]
fn a_slow_reader_is_paused_and_others_go_on() {
    let config = EngineConfig { stream_capacity: 4, max_running_seqs: 1, ..EngineConfig::default() };
    let engine = start(executor(), config);
    let lagging = stream(&engine, endless("slow"));
    // Its channel takes 4 deltas, its backlog what one step gives.
    let status = wait_until(&engine, "it lags", |s| s.generated_tokens_total >= 4);
    thread::sleep(Duration::from_millis(30));
    let n_tokens = engine.status().generated_tokens_total;
    assert!(n_tokens <= 6, "{n_tokens} tokens were computed ahead of the reader, {status:?}");

    let alone = ask(&start(executor(), EngineConfig::default()), endless("slow")).unwrap();
    for i in 0..3 {
        ask(&engine, completion(&format!("another {i}"))).unwrap();
    }
    assert_eq!(read(lagging).unwrap().texts, alone.texts, "it goes on when it reads again");
    wait_until_idle(&engine);
}

#[test]
fn who_never_reads_is_given_up() {
    let config = EngineConfig {
        stream_capacity: 4,
        stall_timeout: Duration::from_millis(100),
        ..EngineConfig::default()
    };
    let engine = start(executor(), config);
    let mut stalled = stream(&engine, endless("stalled"));
    wait_until(&engine, "it runs", |s| s.generated_tokens_total > 0);
    wait_until_idle(&engine);
    let mut n_deltas = 0;
    let error = loop {
        match next(&mut stalled).expect("an error comes before the end") {
            Ok(_) => n_deltas += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(n_deltas, 4);
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error}");
    assert!(next(&mut stalled).is_none(), "nothing follows an error");
}

#[test]
fn a_failed_step_ends_its_requests_and_nobody_elses() {
    for fault in [Fault::Error, Fault::Panic] {
        let config = EngineConfig { max_running_seqs: 2, ..EngineConfig::default() };
        let healthy = start(executor(), config.clone());
        let expected = ask(&healthy, completion("survivor")).unwrap().texts;

        // Two are in the step that fails, one waits.
        let (engine, turns) = start_in_turns(executor().with_fault(4, fault), config);
        let [a, b] = ["first", "second"].map(|prompt| stream(&engine, endless(prompt)));
        let waiting = stream(&engine, completion("survivor"));
        turns.open();
        for failed in [a, b] {
            let error = read(failed).unwrap_err();
            assert!(matches!(&error, ProviderError::Internal(m) if m.contains("scripted fault")), "{error}");
        }
        assert_eq!(read(waiting).unwrap().texts, expected);
        assert_eq!(ask(&engine, completion("survivor")).unwrap().texts, expected);
        let status = wait_until_idle(&engine);
        assert_eq!((status.requests_aborted_total, status.requests_finished_total), (2, 2));
    }
}

#[test]
fn a_panic_over_one_answer_is_nobody_elses() {
    let names = ["first", "second", "third"];
    let request = |name: &str| Request { max_tokens: Some(30), ignore_eos: true, ..completion(name) };
    let alone = start(executor(), EngineConfig::default());
    let expected: Vec<_> = names.iter().map(|name| ask(&alone, request(name)).unwrap().texts).collect();

    let (engine, turns) = start_in_turns(executor().with_doubled_rows(byte(b'!')), EngineConfig::default());
    let streams: Vec<_> = names.iter().map(|name| stream(&engine, request(name))).collect();
    // One step of those that came first, one of all.
    turns.step(&engine, 2);
    wait_until(&engine, "they run", |s| s.running == names.len());
    for _ in 0..3 {
        let sick = stream(&engine, Request { max_tokens: Some(1), ..completion("!sick") });
        // Of the step that runs, and of its own.
        turns.give(2);
        let error = read(sick).unwrap_err();
        assert!(matches!(&error, ProviderError::Internal(m) if m.contains("panicked")), "{error}");
    }
    assert_eq!(engine.status().requests_finished_total, 0, "they are still there");
    turns.open();
    for (stream, expected) in streams.into_iter().zip(expected) {
        assert_eq!(read(stream).unwrap().texts, expected);
    }
    assert_eq!(wait_until_idle(&engine).kv_blocks_used, 0);
}

#[test]
fn a_failed_step_leaves_nothing_in_the_prefix_cache() {
    let prompt = "a-prompt-that-is-longer-than-one-block-of-eight";
    let engine = start(executor().with_fault(1, Fault::Panic), EngineConfig::default());
    ask(&engine, completion(prompt)).unwrap_err();
    assert_eq!(wait_until_idle(&engine).kv_blocks_cached, 0);
    assert_eq!(ask(&engine, completion(prompt)).unwrap().usage.cached_tokens, 0);
}

#[test]
fn a_numeric_error_ends_one_request_and_is_not_cached() {
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let logits = move |history: &[_], logits: &mut [f32]| {
            hashed_logits(history, logits);
            if history.contains(&byte(b'!')) && history.len() > 30 {
                logits[7] = poison;
            }
        };
        let engine = start(slow().with_logits(logits), EngineConfig::default());
        let expected = ask(&start(executor(), EngineConfig::default()), completion("fine")).unwrap().texts;
        let sick = Request { n: 2, ..endless("this prompt will go wrong!") };
        let sick = stream(&engine, sick);
        let fine = stream(&engine, completion("fine"));
        let error = read(sick).unwrap_err();
        assert!(matches!(&error, ProviderError::Internal(m) if m.contains("numeric error")), "{error}");
        assert_eq!(read(fine).unwrap().texts, expected);

        // A prompt that is sick from its first logits on leaves nothing behind.
        let n_cached = wait_until_idle(&engine).kv_blocks_cached;
        ask(&engine, completion("!this one goes wrong before anything can vouch for it")).unwrap_err();
        assert_eq!(wait_until_idle(&engine).kv_blocks_cached, n_cached);
    }
}

#[test]
fn three_numeric_errors_in_a_minute_make_a_model_suspect() {
    let logits = |history: &[_], logits: &mut [f32]| {
        hashed_logits(history, logits);
        if history.contains(&byte(b'!')) {
            logits[7] = f32::NAN;
        }
    };
    let engine = start(executor().with_logits(logits), EngineConfig::default());
    let expected = ask(&start(executor(), EngineConfig::default()), completion("fine")).unwrap().texts;
    for i in 0..4 {
        assert_eq!(engine.status().condition == Condition::Sound, i < 3, "after {i}");
        ask(&engine, completion("sick!")).unwrap_err();
        // It goes on for everybody else.
        assert_eq!(ask(&engine, completion("fine")).unwrap().texts, expected);
    }
    let status = wait_until_idle(&engine);
    assert!(status.ready);
    let Condition::Suspect(why) = status.condition else { panic!("{:?}", status.condition) };
    assert!(why.contains("verify the model file"), "{why}");
}

#[test]
fn a_model_that_can_be_used_no_more_answers_nobody_and_says_why() {
    let (engine, turns) = start_in_turns(executor().with_fault(5, Fault::Unusable), EngineConfig::default());
    let streams: Vec<_> = (0..3).map(|i| stream(&engine, endless(&format!("{i}")))).collect();
    turns.open();
    for stream in streams {
        let error = read(stream).unwrap_err();
        assert!(matches!(&error, ProviderError::Unavailable(why) if why.contains("file changed")), "{error}");
    }
    let status = wait_until_idle(&engine);
    assert!(!status.ready);
    assert!(matches!(status.condition, Condition::Unusable(_)), "{:?}", status.condition);
    let error = block_on(engine.start(completion("later"))).err().expect("nobody is admitted");
    assert!(matches!(&error, ProviderError::Unavailable(why) if why.contains("file changed")), "{error}");
    assert_eq!(engine.status().steps_total, 5, "no step is tried again");
}

#[test]
fn dropping_the_engine_ends_everyone_promptly() {
    let engine = start(roomy(), EngineConfig { max_running_seqs: 1, ..unread() });
    let streams: Vec<_> = (0..4).map(|_| stream(&engine, endless("x"))).collect();
    wait_until(&engine, "one of them runs", |s| s.generated_tokens_total > 0);
    let dropped = Instant::now();
    drop(engine);
    // The answers would take minutes.
    assert!(dropped.elapsed() < Duration::from_secs(10), "{:?}", dropped.elapsed());
    for stream in streams {
        let error = read(stream).unwrap_err();
        assert!(matches!(error, ProviderError::Unavailable(_)), "{error}");
    }
}

#[test]
fn draining_answers_who_is_there_and_admits_nobody() {
    let (engine, turns) = start_in_turns(executor(), EngineConfig::default());
    let inside = stream(&engine, Request { ignore_eos: true, ..completion("x") });
    assert!(!engine.drain(Duration::ZERO), "somebody is not answered yet");
    assert!(!engine.status().ready);
    let refused = block_on(engine.start(completion("late"))).err();
    assert!(matches!(refused, Some(ProviderError::Unavailable(_))), "{refused:?}");
    let reader = thread::spawn(move || read(inside).unwrap());
    turns.open();
    assert!(engine.drain(Duration::from_secs(60)));
    assert_eq!(reader.join().unwrap().usage.completion_tokens, 16);
}

#[test]
fn a_panic_in_the_middle_of_many_fails_each_stream_once() {
    let n_ended = Arc::new(AtomicUsize::new(0));
    let engine = start(slow().with_fault(3, Fault::Panic), EngineConfig::default());
    let readers: Vec<_> = (0..16)
        .map(|i| {
            let (stream, n_ended) = (stream(&engine, endless(&format!("{i}"))), n_ended.clone());
            thread::spawn(move || {
                let result = read(stream);
                n_ended.fetch_add(1, Ordering::Relaxed);
                result.is_err()
            })
        })
        .collect();
    let n_failed = readers.into_iter().map(|r| r.join().unwrap()).filter(|&failed| failed).count();
    assert_eq!(n_ended.load(Ordering::Relaxed), 16);
    assert!(n_failed > 0);
    assert_eq!(wait_until_idle(&engine).requests_aborted_total, n_failed as u64);
}

#[test]
fn a_script_is_told_to_the_end_under_load() {
    // Every stream gets its own bytes, none lost, repeated or foreign.
    let script = bytes("The quick brown fox jumps over the lazy dog. 終わり".as_bytes());
    let engine = start(executor().with_logits(recite(byte(b':'), script, EOS)), EngineConfig::default());
    let request = |i: usize| Request { max_tokens: Some(99), ..completion(&format!("{i}:")) };
    let streams: Vec<_> = (0..30).map(|i| stream(&engine, request(i))).collect();
    for stream in streams {
        assert_eq!(read(stream).unwrap().text(), "The quick brown fox jumps over the lazy dog. 終わり");
    }
}
