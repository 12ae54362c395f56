//! Clients that wait for their answers.

use std::sync::Arc;
use std::time::Duration;

use ingle_api::client::Dialect;
use ingle_eval::load::report::{e2e, ttft};
use ingle_eval::load::trace::{Synthetic, Trace};
use ingle_eval::load::{Extent, Pace, Stop};
use serde_json::{Value, json};

use crate::scripted::*;

#[tokio::test(start_paused = true)]
async fn latencies_and_rates_are_those_of_the_clock() {
    let server = Scripted::new(|asked| tokens(asked, 30, 10));
    let run = closed(&server, synthetic(), 2, Extent::Requests(4)).await;
    assert_eq!(run.records.len(), 4);
    // Two after another, each 30 ms and four gaps of 10 ms.
    assert_eq!(run.duration, Duration::from_millis(140));
    assert_eq!(run.per_second(run.total(|r| r.output_tokens())), 20.0 / 0.14);
    for record in &run.records {
        assert_eq!(record.outcome, Ok(()));
        assert_eq!((record.prompt_tokens, record.completion_tokens), (Some(10), Some(5)));
        assert_eq!((ttft(record), e2e(record)), (Some(0.03), Some(0.07)));
        assert_eq!(record.tpot(), Some(Duration::from_millis(10)));
        assert_eq!(record.longest_gap, Duration::from_millis(10));
    }
    let gaps = run.gaps.summary();
    assert_eq!((gaps.n, ms(gaps.mean), ms(gaps.p50), ms(gaps.max)), (16, 10.0, 10.0, 10.0));
    assert_eq!(server.connections(), 2, "connections are kept");
    let keys = server.asked("/v1/completions", |asked| asked.authorization.clone());
    assert!(keys.iter().all(|key| key.as_deref() == Some("Bearer secret")));
}

#[tokio::test(start_paused = true)]
async fn percentiles_are_exact() {
    // 10, 20, ..., 1000 ms, in an order that is none.
    let server = Scripted::new(|asked| tokens(asked, (asked.number as u64 * 37 % 100 + 1) * 10, 1));
    let run = closed(&server, synthetic(), 1, Extent::Requests(100)).await;
    let s = run.summary(ttft);
    let all = [s.min, s.p50, s.p90, s.p95, s.p99, s.max, s.mean].map(ms);
    assert_eq!(all, [10.0, 500.0, 900.0, 950.0, 990.0, 1000.0, 505.0]);
}

#[tokio::test(start_paused = true)]
async fn time_ends_what_begins_not_what_goes_on() {
    let server = Scripted::new(|asked| tokens(asked, 100, 0));
    let run = closed(&server, synthetic(), 2, Extent::Time(Duration::from_millis(250))).await;
    // They begin at 0, 100 and 200 ms.
    assert_eq!((run.records.len(), run.duration), (6, Duration::from_millis(300)));
    assert!(!run.is_partial);
}

#[tokio::test(start_paused = true)]
async fn turns_carry_what_was_said() {
    let check = async |dialect: Dialect, path: &str, expected: fn(&[String]) -> Vec<Value>| {
        let server = Scripted::new(move |asked| {
            let text = format!("answer{}", asked.number);
            let said = match dialect {
                Dialect::Chat => event(json!({ "choices": [{ "delta": { "content": text } }] })),
                _ => piece(&text),
            };
            Answer::stream(vec![said, event("[DONE]")])
        });
        let trace = Synthetic { turns: 3, ..synthetic() };
        let plan = plan(&server, dialect, Trace::Synthetic(trace));
        let run = run_plan(plan, Pace::Closed { concurrency: 1 }, Extent::Requests(4)).await;
        let places: Vec<_> = run.records.iter().map(|r| (r.session, r.turn)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0)]);
        let sent = server.asked(path, |asked| match dialect {
            Dialect::Chat => asked.body["messages"].clone(),
            _ => asked.body["prompt"].clone(),
        });
        // What the user said is what is new in each turn.
        let said: Vec<String> = run
            .records
            .iter()
            .enumerate()
            .map(|(i, _)| match &sent[i] {
                Value::Array(list) => list.last().unwrap()["content"].as_str().unwrap().to_owned(),
                text => {
                    let text = text.as_str().unwrap();
                    text.rsplit_once(&format!("answer{}", i.wrapping_sub(1)))
                        .map_or(text, |(_, new)| new)
                        .to_owned()
                }
            })
            .collect();
        assert_eq!(said.iter().map(|s| words(s)).collect::<Vec<_>>(), [7, 4, 4, 7], "{said:?}");
        assert_eq!(sent, expected(&said));
    };
    check(Dialect::Chat, "/v1/chat/completions", |said| {
        let user = |i: usize| json!({ "role": "user", "content": said[i] });
        let model = |i: usize| json!({ "role": "assistant", "content": format!("answer{i}") });
        vec![
            json!([user(0)]),
            json!([user(0), model(0), user(1)]),
            json!([user(0), model(0), user(1), model(1), user(2)]),
            json!([user(3)]),
        ]
    })
    .await;
    check(Dialect::Completions, "/v1/completions", |said| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| said[i].clone());
        vec![json!(a), json!(format!("{a}answer0{b}")), json!(format!("{a}answer0{b}answer1{c}")), json!(d)]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_first_failure() {
    let server = Scripted::new(|asked| match asked.number {
        1 => Answer::json(500, json!({ "error": "no" })),
        _ => tokens(asked, 1, 1),
    });
    let run = closed(&server, Synthetic { turns: 3, ..synthetic() }, 1, Extent::Requests(6)).await;
    // The turn that was not sent makes room for another session's.
    let places: Vec<_> = run.records.iter().map(|r| (r.session, r.turn)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]);
    assert_eq!(run.skipped, 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_asks_the_same() {
    let answers = async |vary: bool, seeds: [u64; 2], streams: [u64; 2]| {
        let server = Scripted::new(move |asked| {
            let text = if vary { format!("{}", asked.number) } else { asked.prompt().len().to_string() };
            Answer::stream(vec![piece(&text), event("[DONE]")])
        });
        let trace = Synthetic { distinct: Some(3), ..synthetic() };
        let mut found = Vec::new();
        for (seed, stream) in seeds.into_iter().zip(streams) {
            let mut plan = plan(&server, Dialect::Completions, Trace::Synthetic(trace.clone()));
            plan.seed = seed;
            let pace = Pace::Closed { concurrency: 2 };
            let run = run_with(&Arc::new(plan), pace, Extent::Requests(6), stream, &Stop::default()).await;
            found.push(run.answers());
        }
        found
    };
    let same = answers(false, [1, 1], [0, 0]).await;
    assert_eq!(same[0], same[1]);
    assert_eq!((same[0].prompts, same[0].unsteady), (3, 0));
    let other = answers(false, [1, 2], [0, 0]).await;
    assert_ne!(other[0].digest, other[1].digest);
    let other = answers(false, [1, 1], [0, 1]).await;
    assert_ne!(other[0].digest, other[1].digest);
    // A server that never says the same twice.
    let varied = answers(true, [1, 1], [0, 0]).await;
    assert_eq!((varied[0].prompts, varied[0].answers, varied[0].unsteady), (3, 6, 3));
    assert_ne!(varied[0].digest, varied[1].digest);
}

#[tokio::test(start_paused = true)]
async fn a_run_can_be_stopped() {
    let server = Scripted::new(|asked| tokens(asked, 100, 0));
    let stop = Stop::default();
    let plan = Arc::new(plan(&server, Dialect::Completions, Trace::Synthetic(synthetic())));
    let later = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        later.stop();
    });
    let run = run_with(&plan, Pace::Closed { concurrency: 3 }, Extent::Requests(100), 0, &stop).await;
    assert_eq!((run.records.len(), run.cut_off, run.is_partial), (3, 3, true));
}

#[tokio::test(start_paused = true)]
async fn sessions_stay_with_their_server() {
    let servers = [0, 1].map(|_| Scripted::new(|asked| tokens(asked, 1, 1)));
    struct ByHost([Scripted; 2]);
    impl ingle_eval::load::Dial for ByHost {
        fn dial<'a>(
            &'a self,
            host: &'a str,
            port: u16,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = std::io::Result<Box<dyn ingle_eval::load::Connection>>> + Send + 'a>,
        > {
            self.0[usize::from(host == "b")].dial(host, port)
        }
    }
    let targets =
        ["http://a/v1", "http://b:81/base/"].map(|url| ingle_eval::load::Target::parse(url).unwrap());
    let trace = Trace::Synthetic(Synthetic { turns: 2, ..synthetic() });
    let dial = Arc::new(ByHost(servers.clone()));
    let plan =
        ingle_eval::load::Plan::new(targets.into(), dial, &[], None, Dialect::Completions, trace).unwrap();
    let run = run_plan(plan, Pace::Closed { concurrency: 3 }, Extent::Requests(8)).await;
    assert!(run.records.iter().all(|r| u64::from(r.target) == r.session % 2 && r.outcome.is_ok()));
    assert_eq!(servers[0].asked("/v1/completions", |_| ()).len(), 4);
    assert_eq!(servers[1].asked("/base/v1/completions", |_| ()).len(), 4);
}
