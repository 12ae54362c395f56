//! Arrivals at times of their own.

use std::time::Duration;

use ingle_api::client::Dialect;
use ingle_eval::load::arrivals::{Pattern, times};
use ingle_eval::load::report::{self, ttft};
use ingle_eval::load::slo::Slo;
use ingle_eval::load::trace::{Recorded, Synthetic, Trace};
use ingle_eval::load::{Extent, Measured, Pace};

use crate::scripted::*;

async fn open(
    server: &Scripted,
    trace: Trace,
    rate: Option<f64>,
    in_flight: u64,
    extent: Extent,
) -> Measured {
    let plan = plan(server, Dialect::Completions, trace);
    let pace = Pace::Open { arrivals: rate.map(|rate| (rate, Pattern::Constant)), in_flight };
    run_plan(plan, pace, extent).await
}

#[tokio::test(start_paused = true)]
async fn a_stall_shows_in_what_is_counted_from_the_intended_start() {
    // The first request stalls for a second; all others take a millisecond. One at a time.
    let server = Scripted::new(|asked| tokens(asked, if asked.number == 0 { 1000 } else { 1 }, 0));
    let run = open(&server, Trace::Synthetic(synthetic()), Some(100.0), 1, Extent::Requests(100)).await;
    let hidden = run.summary(ttft);
    assert_eq!([hidden.p50, hidden.p95, hidden.p99, hidden.max].map(ms), [1.0, 1.0, 1.0, 1000.0]);
    // Request i was to start at 10 i, and started after the stall and those before it: it is 1000 - 9 i late.
    let slo: Slo = "ttft=550ms".parse().unwrap();
    let report = report::json(&run, &slo);
    let shown = &report["ttft_corrected_ms"];
    let values = ["p50", "p95", "max"].map(|key| shown[key].as_f64().unwrap().round());
    assert_eq!(values, [550.0, 955.0, 1000.0], "{shown}");
    assert_eq!(report["lag_ms"]["max"].as_f64().unwrap().round(), 990.0, "{}", report["lag_ms"]);
    assert_eq!(report["ttft_ms"]["p95"], 1.0);
    // An objective counts the wait too: half of the requests keep it, though nearly all answers were quick.
    assert_eq!(report["goodput"]["kept"], 50, "{}", report["goodput"]);
}

#[tokio::test(start_paused = true)]
async fn arrivals_do_not_wait_for_answers() {
    let server = Scripted::new(|asked| tokens(asked, 1000, 0));
    let run = open(&server, Trace::Synthetic(synthetic()), Some(10.0), 100, Extent::Requests(5)).await;
    let sent: Vec<_> = run.records.iter().map(|r| r.sent.as_millis()).collect();
    assert_eq!(sent, [0, 100, 200, 300, 400]);
    assert_eq!(run.duration, Duration::from_millis(1400));
    // By time: those whose time is before the end, all of which are answered.
    let run = open(
        &server,
        Trace::Synthetic(synthetic()),
        Some(10.0),
        100,
        Extent::Time(Duration::from_millis(250)),
    )
    .await;
    assert_eq!((run.records.len(), run.duration), (3, Duration::from_millis(1200)));
}

#[tokio::test(start_paused = true)]
async fn sessions_go_on_at_their_own_pace() {
    let server = Scripted::new(|asked| tokens(asked, 50, 0));
    let mut plan =
        plan(&server, Dialect::Completions, Trace::Synthetic(Synthetic { turns: 2, ..synthetic() }));
    plan.think = Duration::from_millis(30);
    let pace = Pace::Open { arrivals: Some((10.0, Pattern::Constant)), in_flight: 10 };
    let run = run_plan(plan, pace, Extent::Requests(4)).await;
    let starts: Vec<_> = run
        .records
        .iter()
        .map(|r| (r.session, r.turn, r.scheduled.as_millis(), r.sent.as_millis()))
        .collect();
    assert_eq!(starts, [(0, 0, 0, 0), (0, 1, 80, 80), (1, 0, 100, 100), (1, 1, 180, 180)]);
}

#[tokio::test(start_paused = true)]
async fn a_trace_has_times_of_its_own() {
    let server = Scripted::new(|asked| tokens(asked, 50, 0));
    let file = r#"
        {"timestamp": 0.3, "prompt": "late", "output_tokens": 1}
        {"timestamp": 0, "prompt": "a", "output_tokens": 1, "session": "s"}
        {"timestamp": 0.2, "prompt": "b", "output_tokens": 1, "session": "s"}
        {"timestamp": 0.21, "prompt": "c", "output_tokens": 1, "session": "s"}
    "#;
    let trace = Trace::Recorded(Recorded::read(file.as_bytes(), 1).unwrap());
    let run = open(&server, trace, None, 10, Extent::Requests(100)).await;
    // The last turn waits for the answer before it, and counts from there.
    let starts: Vec<_> = run.records.iter().map(|r| (r.session, r.turn, r.scheduled.as_millis())).collect();
    assert_eq!(starts, [(0, 0, 0), (0, 1, 200), (0, 2, 250), (1, 0, 300)]);
    let prompts = server.asked("/v1/completions", Asked::prompt);
    assert_eq!(prompts, ["a", "axb", "axbxc", "late"]);
}

/// Mean and coefficient of variation of gaps.
fn spread(pattern: Pattern, seed: u64) -> (f64, f64) {
    let all: Vec<f64> = times(pattern, 50.0, seed).take(20_000).map(|at| at.as_secs_f64()).collect();
    let gaps: Vec<f64> = all.windows(2).map(|w| w[1] - w[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[test]
fn arrivals_follow_their_pattern_and_seed() {
    let check = |pattern: &str, cv: f64| {
        let pattern: Pattern = pattern.parse().unwrap();
        let (mean, found) = spread(pattern, 7);
        assert!((mean * 50.0 - 1.0).abs() < 0.08, "{pattern}: mean gap {mean}");
        assert!((found - cv).abs() <= 0.08 * cv.max(0.01), "{pattern}: {found}, expected {cv}");
        let first = |seed| times(pattern, 50.0, seed).take(100).collect::<Vec<_>>();
        assert_eq!(first(7), first(7));
        assert!(first(7).is_sorted());
        assert_eq!(first(7) == first(8), matches!(pattern, Pattern::Constant | Pattern::Burst(_)));
    };
    check("constant", 0.0);
    check("poisson", 1.0);
    check("gamma:0.5", 0.5);
    check("gamma:1", 1.0);
    check("gamma:3", 3.0);
    // Four gaps of nothing for each of a tenth of a second: a deviation of twice the mean.
    check("burst:5", 2.0);
    let burst: Vec<_> = times(Pattern::Burst(3), 30.0, 1).take(7).map(|at| at.as_millis()).collect();
    assert_eq!(burst, [0, 0, 0, 100, 100, 100, 200]);
}
