//! What a format forces comes without being sampled, several tokens a step, and is the same as one by one.

use ingle_chat::{FinishReason, Format, Request, Sampling};
use ingle_engine::speculation::{Source, SpeculationConfig};
use ingle_engine::{Engine, EngineConfig};
use ingle_step::TokenId;
use serde_json::{Value, json};

use crate::client::{Answer, ask, byte, completion, executor, read, start, stream, wait_until_idle};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "a_rather_long_name": { "type": "string", "maxLength": 3 },
            "another_long_name": { "enum": ["some value", "some other value"] },
            "the_last_of_the_names": { "type": "boolean" },
        },
        "required": ["a_rather_long_name", "another_long_name", "the_last_of_the_names"],
        "additionalProperties": false,
    })
}

/// An answer of that schema, whatever the model would say.
fn constrained(seed: u64) -> Request {
    let sampling = Sampling { temperature: Some(1.5), seed: Some(seed), ..Sampling::default() };
    let format = Some(Format::JsonSchema(schema()));
    Request { sampling, format, max_tokens: Some(200), ..completion("x") }
}

/// Steps are counted here, so nothing else saves any.
fn engine() -> Engine {
    let speculation = SpeculationConfig { source: Source::Off, ..SpeculationConfig::default() };
    start(executor(), EngineConfig { speculation, ..EngineConfig::default() })
}

/// The answer alone, and how many steps it took.
fn alone(request: Request) -> (Answer, u64) {
    let engine = engine();
    let answer = ask(&engine, request).expect("it is answered");
    (answer, wait_until_idle(&engine).steps_total)
}

/// What a client sees of an answer, but for times and log-probabilities.
fn seen(answer: &Answer) -> (&[String], &[FinishReason], u64) {
    (&answer.texts, &answer.finished, answer.usage.completion_tokens)
}

/// An answer with jumps is that without. Gives it, and how many steps were saved.
#[track_caller]
fn check(request: &Request) -> (Answer, u64) {
    let (jumped, n_steps) = alone(request.clone());
    let (walked, n_steps_walked) = alone(Request { logprobs: Some(0), ..request.clone() });
    assert_eq!(seen(&jumped), seen(&walked));
    // A token that only ends the answer is not told.
    let n_told = walked.logprobs.len() as u64;
    assert!((n_told..=n_told + 1).contains(&walked.usage.completion_tokens), "each token has its own");
    (jumped, n_steps_walked.checked_sub(n_steps).expect("jumps take no more steps"))
}

#[test]
fn a_jump_gives_what_single_steps_give() {
    for seed in 0..8 {
        let (answer, n_saved) = check(&constrained(seed));
        assert!(serde_json::from_str::<Value>(answer.text()).is_ok(), "{}", answer.text());
        assert_eq!(answer.finished, [FinishReason::Stop { matched: None }]);
        assert!(n_saved > 40, "{n_saved}");
    }
    let one_text = Request { format: Some(Format::Choice(vec!["nothing_else".into()])), ..constrained(1) };
    let (answer, n_steps) = alone(one_text.clone());
    assert_eq!((answer.text(), n_steps), ("nothing_else", 1), "the prompt's own step is enough");
    assert_eq!(check(&Request { n: 2, ..one_text }).1, 11);
    let numbers = Format::Gbnf("root ::= (\"abc\" [0-9] \"def\"){3}".into());
    let (answer, n_saved) = check(&Request { format: Some(numbers), ..constrained(2) });
    assert_eq!((answer.text().len(), n_saved), (21, 17), "{}", answer.text());
}

#[test]
fn a_jump_ends_where_the_answer_ends() {
    for max_tokens in 0..40 {
        let (answer, _) = check(&Request { max_tokens: Some(max_tokens), ..constrained(3) });
        assert_eq!(answer.usage.completion_tokens, u64::from(max_tokens));
        assert_eq!(answer.finished, [FinishReason::Length]);
    }
    let stop = |text: &str| FinishReason::Stop { matched: Some(text.into()) };
    let by_text = Request { stop: vec!["her_long".into()], ..constrained(3) };
    let (answer, n_saved) = check(&by_text);
    assert!(answer.text().ends_with("a_rat"), "{}", answer.text());
    assert_eq!((&answer.finished[..], n_saved > 3), (&[stop("her_long")][..], true));
    let not_yet = Request { min_tokens: 20, stop: vec!["_".into()], ..constrained(3) };
    assert!(check(&not_yet).0.text().contains("a_rather_long_name"));
    let by_token = Request { stop_token_ids: vec![byte(b'_')], ..constrained(3) };
    let (answer, _) = check(&by_token);
    assert!(answer.text().ends_with("\"a"), "{}", answer.text());
    assert_eq!(answer.finished, [stop("_")]);
}

/// A bias is the request's own business with a token: it is never passed over.
#[test]
fn biased_tokens_are_picked() {
    let biased = |token: TokenId| {
        let mut request = constrained(4);
        request.sampling.logit_bias = vec![(token, 1.0)];
        alone(request)
    };
    let (without, n_steps) = alone(constrained(4));
    let (other, n_steps_other) = biased(byte(b'#'));
    assert_eq!((seen(&without), n_steps), (seen(&other), n_steps_other));
    let (own, n_steps_own) = biased(byte(b'_'));
    assert!(n_steps_own > n_steps && own.usage.completion_tokens >= n_steps_own);
}

#[test]
fn choices_jump_each_for_itself() {
    let (answer, _) = check(&Request { n: 4, ..constrained(5) });
    assert!(answer.texts.iter().any(|text| *text != answer.texts[0]), "{:?}", answer.texts);
    for text in &answer.texts {
        assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}");
    }
}

/// Little memory, small steps, and readers that lag: all get what they get alone.
#[test]
fn a_jump_does_not_depend_on_what_runs_beside_it() {
    let config = EngineConfig {
        step_token_budget: 7,
        max_running_seqs: 6,
        stream_capacity: 2,
        ..EngineConfig::default()
    };
    let engine =
        start(ingle_testkit::scripted::ScriptedExecutor::new(crate::client::N_VOCAB, 256, 8, 27), config);
    let requests: Vec<Request> = (0..12)
        .map(|seed| match seed % 3 {
            0 => constrained(seed),
            1 => Request { n: 2, ..constrained(seed) },
            _ => Request { format: None, max_tokens: Some(60), ..constrained(seed) },
        })
        .collect();
    let streams: Vec<_> = requests.iter().map(|request| stream(&engine, request.clone())).collect();
    for (request, stream) in requests.into_iter().zip(streams) {
        let together = read(stream).expect("it is answered");
        assert_eq!(seen(&together), seen(&alone(request).0));
    }
    let status = wait_until_idle(&engine);
    assert!(status.preemptions_total > 0, "memory was to be short: {status:?}");
}
