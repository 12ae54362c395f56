//! Reports, percentiles, pictures.

use std::sync::Arc;
use std::time::Duration;

use ingle_api::client::Dialect;
use ingle_eval::load::slo::Slo;
use ingle_eval::load::stats::{Histogram, Summary};
use ingle_eval::load::trace::{Synthetic, Trace};
use ingle_eval::load::{Extent, Measured, Pace, Stop, chart, report};
use serde_json::json;

use crate::scripted::*;

#[test]
fn percentiles_are_values_that_occurred() {
    let check = |values: &[f64], expected: [f64; 4]| {
        let s = Summary::of(&mut values.to_vec());
        assert_eq!([s.p50, s.p90, s.p99, s.max], expected, "{values:?}");
    };
    check(&[], [0.0; 4]);
    check(&[3.0], [3.0; 4]);
    check(&[2.0, 1.0], [1.0, 2.0, 2.0, 2.0]);
    let all: Vec<f64> = (1..=20).rev().map(f64::from).collect();
    check(&all, [10.0, 18.0, 20.0, 20.0]);
    assert_eq!(Summary::of(&mut all.clone()).p95, 19.0);
}

#[test]
fn histograms_are_exact_to_a_part_in_two_thousand() {
    let mut histogram = Histogram::default();
    let mut values = Vec::new();
    let mut value = 17u64;
    for i in 0..50_000u64 {
        // From nanoseconds to minutes.
        value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let ns = value >> (28 + i % 34);
        histogram.add(Duration::from_nanos(ns));
        values.push(ns as f64 / 1e9);
    }
    let exact = Summary::of(&mut values);
    let found = histogram.summary();
    assert_eq!((found.n, found.min, found.max), (exact.n, exact.min, exact.max));
    for (found, exact) in [
        (found.p50, exact.p50),
        (found.p90, exact.p90),
        (found.p95, exact.p95),
        (found.p99, exact.p99),
        (found.mean, exact.mean),
    ] {
        assert!((found / exact - 1.0).abs() <= 0.0005, "{found}, exactly {exact}");
    }
    let curve = histogram.curve();
    assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1));
    assert_eq!(curve.last().unwrap().1, 1.0);
    let mut extreme = Histogram::default();
    extreme.add(Duration::MAX);
    extreme.add(Duration::ZERO);
    assert_eq!(extreme.summary().min, 0.0);
    assert_eq!(Histogram::default().summary(), Summary::default());
}

/// Requests whose first token takes 10, 20, ... ms, with gaps of 2 ms; the last fails.
async fn measured() -> Measured {
    let server = Scripted::new(|asked| match asked.number {
        9 => Answer::json(503, json!({ "error": "later" })),
        n => tokens(asked, 10 * (n as u64 + 1), 2),
    });
    closed(&server, synthetic(), 1, Extent::Requests(10)).await
}

#[tokio::test(start_paused = true)]
async fn objectives_are_kept_or_not() {
    let run = measured().await;
    let check = |slo: &str, kept: u64, each: &[u64]| {
        let report = report::json(&run, &slo.parse().unwrap());
        let goodput = &report["goodput"];
        assert_eq!(goodput["kept"], kept, "{slo}: {goodput}");
        let objectives = goodput["objectives"].as_object().unwrap();
        assert_eq!(
            objectives.values().map(|o| o["kept"].as_u64().unwrap()).collect::<Vec<_>>(),
            each,
            "{slo}"
        );
        // Of all requests, failed ones included.
        assert_eq!(goodput["share"].as_f64(), Some(kept as f64 / 10.0));
        assert_eq!(goodput["requests_per_s"].as_f64(), Some(run.per_second(kept)));
    };
    check("ttft=30ms", 3, &[3]);
    check("ttft=1s", 9, &[9]);
    check("e2e=37ms", 2, &[2]);
    check("itl=2ms", 9, &[9]);
    check("itl=1ms,ttft=1s", 0, &[0, 9]);
    check("ttft=50ms,e2e=38ms,tpot=2ms", 3, &[5, 3, 9]);
}

#[tokio::test(start_paused = true)]
async fn reports_have_every_figure() {
    let run = measured().await;
    let report = report::json(&run, &Slo::default());
    assert_eq!(report["load"], json!({ "loop": "closed", "concurrency": 1 }));
    assert_eq!(
        report["requests"],
        json!({ "sent": 10, "answered": 9, "failed": 1, "cut_off": 0, "turns_skipped": 0 })
    );
    assert_eq!(report["errors"], json!([{ "kind": "http_503", "count": 1, "first": "later" }]));
    // Nine answers of 5 tokens: 450 ms to their first ones, 72 ms after.
    assert_eq!(report["throughput"]["output_tokens_per_s"].as_f64(), Some(45.0 / 0.522));
    assert_eq!(report["tokens"]["prompt_total"], 90);
    assert_eq!(report["tokens"]["output_counted_by"], "usage");
    assert_eq!(report["tokens"]["other_length_than_asked"], 0);
    assert_eq!((&report["ttft_ms"]["n"], &report["itl_ms"]["n"]), (&json!(9), &json!(36)));
    assert_eq!(report["answers"]["distinct_answers"], 1);
    assert!(report.get("goodput").is_none() && report.get("ttft_corrected_ms").is_none());

    let table = report::table(&run, &"ttft=30ms".parse().unwrap());
    for part in [
        "1 client, closed loop: 10 requests, done in 0.52 s",
        "1 failed (http_503): later",
        "10 prompt tokens, 5 output tokens each",
        "goodput 5.75 requests/s: 3 of 10 keep all (ttft within 30.0 ms: 3)",
        "9 prompts, 1 answers, 0 prompts with several",
    ] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
    let line = table.lines().find(|line| line.contains("TTFT")).unwrap();
    let figures: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert_eq!(figures, ["50.0", "50.0", "90.0", "90.0", "90.0", "90.0"]);
}

#[tokio::test(start_paused = true)]
async fn records_have_every_gap() {
    let server = Scripted::new(|asked| tokens(asked, 10, 2));
    let plan = Arc::new(plan(&server, Dialect::Completions, Trace::Synthetic(synthetic())));
    let mut seen = Seen::default();
    let pace = Pace::Closed { concurrency: 1 };
    let run =
        ingle_eval::load::run(&plan, &texts(), pace, Extent::Requests(1), 0, &mut seen, &Stop::default())
            .await;
    assert!(run.is_ok());
    let line = report::record(&seen.0[0], 3);
    assert_eq!(line["itl_ms"], json!([2.0, 2.0, 2.0, 2.0]));
    assert_eq!((&line["run"], &line["first_ms"], &line["end_ms"]), (&json!(3), &json!(10.0), &json!(18.0)));
    assert_eq!((&line["error"], &line["output_tokens"]), (&json!(null), &json!(5)));

    struct Full;
    impl ingle_eval::load::Observer for Full {
        fn observe(&mut self, _: &ingle_eval::load::Record) -> Result<(), String> {
            Err("the disk is full".into())
        }
    }
    let run =
        ingle_eval::load::run(&plan, &texts(), pace, Extent::Requests(1000), 0, &mut Full, &Stop::default())
            .await;
    assert_eq!(run.unwrap_err(), "the disk is full");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_is_a_run_for_each_load() {
    // Requests share a second of computing: the more at once, the longer each takes.
    let server = Scripted::new(|asked| tokens(asked, 20, 1));
    let trace = Synthetic { shared_prefix: 5, ..synthetic() };
    let plan = Arc::new(plan(&server, Dialect::Completions, Trace::Synthetic(trace)));
    let mut runs = Vec::new();
    for (stream, concurrency) in [1, 2, 4].into_iter().enumerate() {
        let pace = Pace::Closed { concurrency };
        runs.push(run_with(&plan, pace, Extent::Requests(8), stream as u64, &Stop::default()).await);
    }
    let speeds: Vec<_> =
        runs.iter().map(|run| run.per_second(run.answered().count() as u64).round()).collect();
    assert_eq!(speeds, [42.0, 83.0, 167.0]);

    let picture = chart::svg(&runs, "A < B & \"C\"", "seed 0").unwrap();
    for part in [
        "A &lt; B &amp; &quot;C&quot;",
        "P50",
        "P99",
        "clients at once",
        "Output tokens per second",
        "seed 0",
    ] {
        assert!(picture.contains(part), "no `{part}`");
    }
    let one = chart::svg(&runs[..1], "one", "").unwrap();
    for part in
        ["to the first token", "between events (ITL)", "end to end", "100 %", "prefers-color-scheme: dark"]
    {
        assert!(one.contains(part), "no `{part}`");
    }
    for picture in [picture, one] {
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
        assert!(picture.trim_end().ends_with("</svg>"));
    }
    assert!(chart::svg(&[], "none", "").is_none());
}
