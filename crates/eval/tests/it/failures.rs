//! Servers that fail.

use std::time::Duration;

use ingle_api::client::Dialect;
use ingle_eval::load::trace::Trace;
use ingle_eval::load::{Extent, FailureKind, Pace};
use serde_json::json;

use crate::scripted::*;

/// One request to a server that answers so.
async fn check(steps: Vec<Step>, expected: Result<u64, (FailureKind, &str)>) {
    let of = steps.clone();
    let server = Scripted::new(move |_| Answer::stream(steps.clone()));
    check_server(&server, expected, &format!("{of:?}")).await;
}

async fn check_server(server: &Scripted, expected: Result<u64, (FailureKind, &str)>, what: &str) {
    let mut plan = plan(server, Dialect::Completions, Trace::Synthetic(synthetic()));
    plan.timeout = Duration::from_secs(1);
    let run = run_plan(plan, Pace::Closed { concurrency: 1 }, Extent::Requests(1)).await;
    let record = &run.records[0];
    match (expected, &record.outcome) {
        (Ok(n), Ok(())) => assert_eq!(record.output_tokens(), n, "{what}"),
        (Err((kind, part)), Err(failure)) => {
            assert_eq!(failure.kind, kind, "{what}: {failure}");
            assert!(failure.message.contains(part), "{what}: {failure}");
            assert_eq!(run.failures()[&kind].0, 1);
        }
        (expected, found) => panic!("{what}: {found:?}, expected {expected:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_early_or_say_nonsense() {
    use FailureKind::*;
    let done = || event("[DONE]");
    check(vec![piece("a"), piece("b"), done()], Ok(2)).await;
    check(vec![Step::Send(": hello\n\n".into()), piece("a"), piece("b"), usage(3, 7), done()], Ok(7)).await;
    check(vec![piece("a")], Err((Truncated, "before its last event"))).await;
    check(vec![piece("a"), Step::Send("data: [DO".into())], Err((Truncated, "before its last event"))).await;
    check(vec![piece("a"), Step::Wait(5), Step::Break], Err((Disconnected, "broke"))).await;
    check(vec![piece("a"), event("{"), done()], Err((Malformed, "no JSON"))).await;
    check(vec![piece("a"), event("{}"), done()], Err((Malformed, "choices"))).await;
    check(vec![piece("a"), done(), piece("b")], Err((Malformed, "after the last"))).await;
    let long = Step::Send(format!("data: {}", "x".repeat((1 << 20) + 1)));
    check(vec![long], Err((Malformed, "more than 1048576 bytes"))).await;
    check(vec![done()], Err((Empty, "no output"))).await;
    let error = event(json!({ "error": { "message": "out of\nmemory" } }));
    check(vec![piece("a"), error, done()], Err((InBand, "out of memory"))).await;
    check(vec![piece("a"), Step::Wait(2000), done()], Err((Timeout, "1.0 s"))).await;
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_no_stream() {
    let refusal = |status: u16| {
        Scripted::new(move |_| Answer::json(status, json!({ "error": { "message": "too busy" } })))
    };
    check_server(&refusal(429), Err((FailureKind::Status(429), "too busy")), "429").await;
    check_server(&refusal(503), Err((FailureKind::Status(503), "too busy")), "503").await;
    let plain = Scripted::new(|_| Answer::json(200, json!({ "choices": [] })));
    check_server(&plain, Err((FailureKind::ContentType, "application/json")), "no stream").await;
    let text = Scripted::new(|_| Answer {
        status: 404,
        content_type: "text/plain",
        closes: true,
        steps: vec![Step::Send("not here".into())],
    });
    check_server(&text, Err((FailureKind::Status(404), "not here")), "404").await;
}

/// Refuses all connections.
struct Nobody;

impl ingle_eval::load::Dial for Nobody {
    fn dial<'a>(
        &'a self,
        _host: &'a str,
        _port: u16,
    ) -> std::pin::Pin<
        Box<dyn Future<Output = std::io::Result<Box<dyn ingle_eval::load::Connection>>> + Send + 'a>,
    > {
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_there() {
    let target = ingle_eval::load::Target::parse("http://127.0.0.1:9").unwrap();
    let trace = Trace::Synthetic(synthetic());
    let dial = std::sync::Arc::new(Nobody);
    let plan = ingle_eval::load::Plan::new(vec![target], dial, &[], None, Dialect::Chat, trace).unwrap();
    let run = run_plan(plan, Pace::Closed { concurrency: 1 }, Extent::Requests(3)).await;
    let failures = run.failures();
    let (n, message) = failures[&FailureKind::Connect];
    assert_eq!(n, 3);
    assert!(message.contains("http://127.0.0.1:9") && message.contains("refused"), "{message}");
    // It does not hammer: a pause after each failure.
    assert!(run.duration >= Duration::from_millis(200), "{:?}", run.duration);
}

#[tokio::test(start_paused = true)]
async fn connections_that_servers_close_are_made_again() {
    let server = Scripted::new(|asked| Answer { closes: asked.number % 2 == 0, ..tokens(asked, 1, 1) });
    let run = closed(&server, synthetic(), 1, Extent::Requests(6)).await;
    assert!(run.records.iter().all(|record| record.outcome.is_ok()), "{:?}", run.failures());
    assert_eq!(server.connections(), 4);
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_and_the_rest_goes_on() {
    let server = Scripted::new(|asked| match asked.number % 3 {
        1 => Answer::json(503, json!({ "error": "later" })),
        2 => Answer::stream(vec![piece("a")]),
        _ => tokens(asked, 10, 1),
    });
    let run = closed(&server, synthetic(), 2, Extent::Requests(9)).await;
    assert_eq!(run.answered().count(), 3);
    let failures: Vec<_> = run.failures().into_iter().map(|(kind, (n, _))| (kind, n)).collect();
    assert_eq!(failures, [(FailureKind::Status(503), 3), (FailureKind::Truncated, 3)]);
    // Failed requests count in no latency.
    assert_eq!(run.summary(ingle_eval::load::report::ttft).n, 3);
}
