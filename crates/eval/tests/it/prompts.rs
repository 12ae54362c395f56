//! Prompts come out as long as they are to be.

use std::collections::HashSet;

use ingle_api::client::{Dialect, Input};
use ingle_eval::load::lengths::Lengths;
use ingle_eval::load::text::{CANDIDATES, Words};
use ingle_eval::load::trace::{Synthetic, Texts, Trace};
use ingle_eval::load::{Counting, Extent, FailureKind, Pace, Prepared, prepare};
use serde_json::json;

use crate::scripted::*;

/// Answers requests with one token, and `/tokenize` as it is told.
fn server(tokenize: fn(&Asked) -> Answer, tokens_per_letter: bool) -> Scripted {
    Scripted::new(move |asked| {
        if asked.path == "/tokenize" {
            return tokenize(asked);
        }
        let n = if tokens_per_letter { asked.prompt().len() + 1 } else { asked.prompt_tokens() };
        Answer::stream(vec![piece("x"), usage(n, 1), event("[DONE]")])
    })
}

/// Prepares, runs, and gives the prompt tokens that the server counted.
async fn counted(server: &Scripted, trace: Synthetic) -> (Prepared, Vec<u64>) {
    let plan = std::sync::Arc::new(plan(server, Dialect::Completions, Trace::Synthetic(trace)));
    let prepared = prepare(&plan).await.expect("the server answers");
    let pace = Pace::Closed { concurrency: 1 };
    let stop = ingle_eval::load::Stop::default();
    let (mut seen, extent) = (Seen::default(), Extent::Requests(20));
    let run = ingle_eval::load::run(&plan, &prepared.texts, pace, extent, 0, &mut seen, &stop).await.unwrap();
    (prepared, run.records.iter().map(|r| r.prompt_tokens.unwrap()).collect())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_counts_gets_prompts_of_exactly_so_many() {
    for n in [5, 32, 192, 1000] {
        let trace = Synthetic { prompt: Lengths::Fixed(n), ..synthetic() };
        // A token for each word, and three beside them.
        let (prepared, found) = counted(&server(tokenized, false), trace.clone()).await;
        assert_eq!((prepared.counting, prepared.texts.overhead), (Counting::Tokenize, 3));
        assert_eq!(found, [u64::from(n); 20]);
        // A token for each letter: any number comes out, but for a lone letter.
        let by_letter = |asked: &Asked| {
            let text = asked.body["content"].as_str().unwrap();
            Answer::json(200, json!({ "tokens": vec![1; text.len()] }))
        };
        let (prepared, found) = counted(&server(by_letter, true), trace).await;
        assert_eq!((prepared.counting, prepared.texts.overhead), (Counting::Tokenize, 1));
        assert_eq!(found, [u64::from(n); 20]);
    }
}

#[tokio::test(start_paused = true)]
async fn other_servers_get_prompts_of_about_so_many() {
    let trace = || Synthetic { prompt: Lengths::Fixed(200), ..synthetic() };
    let missing = |_: &Asked| Answer::json(404, json!({ "error": "no route" }));
    let (prepared, found) = counted(&server(missing, false), trace()).await;
    assert_eq!((prepared.counting, prepared.texts.overhead), (Counting::Usage(1.0), 3));
    assert_eq!(found, [200; 20]);
    let (prepared, found) = counted(&server(missing, true), trace()).await;
    assert!(matches!(prepared.counting, Counting::Usage(n) if (3.5..5.5).contains(&n)), "{prepared:?}");
    assert!(found.iter().all(|n| (160..=240).contains(n)), "{found:?}");
    // vLLM's shape of `/tokenize`.
    let vllm = |asked: &Asked| match asked.body["prompt"].as_str() {
        None => Answer::json(400, json!({ "error": "no prompt" })),
        Some(text) => Answer::json(200, json!({ "count": words(text), "tokens": vec![1; words(text)] })),
    };
    let (prepared, _) = counted(&server(vllm, false), trace()).await;
    assert_eq!(prepared.counting, Counting::Tokenize);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_told_of_before_the_run() {
    let server = Scripted::new(|_| Answer::json(401, json!({ "error": { "message": "who are you?" } })));
    let plan = plan(&server, Dialect::Chat, Trace::Synthetic(synthetic()));
    let failure = prepare(&plan).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Status(401));
    assert!(failure.message.contains("who are you?"));
}

/// Prompts of sessions.
fn prompts(trace: &Synthetic, seed: u64, stream: u64, texts: &Texts) -> Vec<String> {
    let trace = Trace::Synthetic(trace.clone());
    let session = |i| trace.session(i, seed, stream, texts).expect("it has no end");
    (0..40)
        .map(|i| match &session(i).turns[0].input {
            Input::Messages(messages) => messages[0].1.clone(),
            Input::Gap { prefix, suffix } => format!("{prefix}|{suffix}"),
        })
        .collect()
}

fn common(a: &str, b: &str) -> usize {
    a.split_whitespace().zip(b.split_whitespace()).take_while(|(a, b)| a == b).count()
}

#[test]
fn prefixes_are_shared_by_groups() {
    let texts = texts();
    let trace =
        Synthetic { prompt: Lengths::Fixed(192), shared_prefix: 141, prefix_groups: 3, ..synthetic() };
    let all = prompts(&trace, 1, 0, &texts);
    // The three tokens beside the text count to the shared ones.
    let prefix = |text: &str| text.split_whitespace().take(138).collect::<Vec<_>>().join(" ");
    assert_eq!(all.iter().map(|text| prefix(text)).collect::<HashSet<_>>().len(), 3);
    assert!(all.iter().all(|text| words(text) == 189));
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40, "they differ after it");
    // The same prefixes in all runs with the seed, with other prompts.
    let other = prompts(&trace, 1, 1, &texts);
    assert_eq!(prefix(&all[0]), prefix(other.iter().find(|text| common(text, &all[0]) >= 138).unwrap()));
    assert!(other.iter().all(|text| !all.contains(text)));
    // Prompts that would be shorter than the prefix get a token of their own.
    let short =
        Synthetic { prompt: Lengths::LogNormal { median: 100, sigma: 1.0, max: 1000 }, ..trace.clone() };
    let lengths: Vec<usize> = prompts(&short, 1, 0, &texts).iter().map(|text| words(text) + 3).collect();
    assert_eq!(lengths.iter().min(), Some(&142));
    assert!(lengths.iter().max() > Some(&200), "{lengths:?}");
    // A number of different prompts.
    let few = Synthetic { distinct: Some(4), ..trace };
    assert_eq!(prompts(&few, 1, 0, &texts).iter().collect::<HashSet<_>>().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn gaps_have_text_on_both_sides() {
    let server = Scripted::new(|asked| {
        let last = json!({
            "content": "", "stop": true, "tokens_evaluated": asked.prompt_tokens(), "tokens_predicted": 2
        });
        Answer::stream(vec![event(json!({ "content": "x", "stop": false })), event(last)])
    });
    let trace = Synthetic {
        prompt: Lengths::Fixed(103),
        output: Lengths::Fixed(2),
        shared_prefix: 43,
        infill: true,
        ..synthetic()
    };
    let plan = plan(&server, Dialect::Infill, Trace::Synthetic(trace));
    let run = run_plan(plan, Pace::Closed { concurrency: 1 }, Extent::Requests(2)).await;
    assert!(
        run.records.iter().all(|r| r.outcome.is_ok() && r.prompt_tokens == Some(103)),
        "{:?}",
        run.records
    );
    let sent = server.asked("/infill", |asked| asked.body.clone());
    let side = |i: usize, key: &str| sent[i][key].as_str().unwrap().to_owned();
    assert_eq!((words(&side(0, "input_prefix")), words(&side(0, "input_suffix"))), (70, 30));
    assert!(common(&side(0, "input_prefix"), &side(1, "input_prefix")) >= 40);
    assert_ne!(side(0, "input_suffix"), side(1, "input_suffix"));
    assert_eq!((&sent[0]["n_predict"], &sent[0]["ignore_eos"]), (&json!(2), &json!(true)));
}

#[test]
fn too_few_words_are_no_words() {
    assert!(Words::counted(CANDIDATES.map(|word| (word, 0))).is_none());
    assert!(Words::counted(CANDIDATES.map(|word| (word, 17))).is_none());
}
