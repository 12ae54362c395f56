//! With guesses as without: the same deltas, whatever a request wants and whatever runs beside it.

use std::collections::BTreeMap;

use ingle_chat::{Event, FinishReason, Format, Provider, Request, Sampling};
use ingle_engine::speculation::{Source, SpeculationConfig};
use ingle_engine::{Engine, EngineConfig};
use ingle_step::{Executor, TokenId};
use ingle_testkit::scripted::{Fault, ScriptedExecutor, hashed_logits};
use serde_json::json;

use crate::client::{self, EOS, N_VOCAB, ask, byte, completion, frontend, stream, wait_until_idle};

/// The text repeats itself now and then: it is mostly of twelve letters, by the last two tokens.
fn habit(history: &[TokenId], logits: &mut [f32]) {
    hashed_logits(&history[history.len().saturating_sub(2)..], logits);
    let favourite =
        (b'a'..=b'l').map(byte).max_by(|a, b| logits[a.0 as usize].total_cmp(&logits[b.0 as usize]));
    hashed_logits(history, logits);
    favourite.into_iter().for_each(|token| logits[token.0 as usize] += 8.0);
    logits[EOS.0 as usize] -= 4.0;
}

/// The same with whims of its own.
fn guessing(history: &[TokenId], logits: &mut [f32]) {
    habit(history, logits);
    let mut whim = vec![0.0; N_VOCAB];
    hashed_logits(&history[history.len() / 2..], &mut whim);
    if whim[0] < 2.0 {
        logits.copy_from_slice(&whim);
    }
}

fn target(n_blocks: usize) -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 256, 8, n_blocks).with_logits(habit)
}

fn draft() -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 200, 4, 90).with_logits(guessing)
}

/// Guesses whatever it can, whether that pays or not.
fn always(source: Source, draft_max: usize) -> SpeculationConfig {
    SpeculationConfig { source, draft_max, adaptive: false, ..SpeculationConfig::default() }
}

fn start(
    target: ScriptedExecutor,
    draft: Option<ScriptedExecutor>,
    speculation: SpeculationConfig,
    config: EngineConfig,
) -> Engine {
    let draft = draft.map(|draft| Box::new(draft) as Box<dyn Executor>);
    let config = EngineConfig { speculation, ..config };
    Engine::start_with_draft(Box::new(target), draft, frontend(256), config).unwrap()
}

/// Everything that a client sees but for times and what was guessed, by choice; and how many tokens there were.
fn seen(engine: &Engine, request: &Request) -> (BTreeMap<u32, Vec<Event>>, u64) {
    collect(stream(engine, request.clone()))
}

fn collect(mut stream: ingle_chat::DeltaStream) -> (BTreeMap<u32, Vec<Event>>, u64) {
    let (mut seen, mut n_tokens) = (BTreeMap::<u32, Vec<Event>>::new(), 0);
    while let Some(delta) = client::next(&mut stream) {
        let delta = delta.expect("no error");
        match delta.event {
            Event::Done(usage) => n_tokens = usage.completion_tokens,
            event => seen.entry(delta.choice).or_default().push(event),
        }
    }
    (seen, n_tokens)
}

fn sampled(seed: u64, temperature: f32) -> Request {
    let sampling = Sampling { temperature: Some(temperature), seed: Some(seed), ..Sampling::default() };
    Request { sampling, max_tokens: Some(90), ..completion("to be, or not to be, that is") }
}

/// Requests of all kinds.
fn requests(seed: u64) -> Vec<Request> {
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = sampled(seed, 0.6);
        change(&mut request);
        request
    };
    let schema = json!({
        "type": "object",
        "properties": { "first_name": { "type": "string", "maxLength": 12 }, "kind": { "enum": ["large", "largest"] } },
        "required": ["first_name", "kind"],
        "additionalProperties": false,
    });
    vec![
        sampled(seed, 0.0),
        sampled(seed, 0.3),
        sampled(seed, 1.2),
        with(&|r| r.sampling.repeat_penalty = Some(1.3)),
        with(&|r| (r.sampling.presence_penalty, r.sampling.frequency_penalty) = (Some(0.5), Some(0.4))),
        with(&|r| (r.sampling.dry_multiplier, r.sampling.dry_allowed_length) = (Some(0.8), Some(2))),
        with(&|r| r.sampling.mirostat = Some(2)),
        with(&|r| r.sampling.mirostat = Some(1)),
        with(&|r| (r.sampling.xtc_probability, r.sampling.xtc_threshold) = (Some(0.6), Some(0.05))),
        with(&|r| (r.sampling.typical_p, r.sampling.dynatemp_range) = (Some(0.7), Some(0.3))),
        with(&|r| r.sampling.logit_bias = vec![(byte(b'e'), 3.0), (byte(b'q'), f32::NEG_INFINITY)]),
        with(&|r| r.logprobs = Some(3)),
        with(&|r| (r.prompt_logprobs, r.logprobs) = (Some(1), Some(0))),
        with(&|r| r.n = 3),
        with(&|r| (r.n, r.logprobs) = (2, Some(1))),
        with(&|r| r.stop = (b'a'..b'f').map(|b| format!("{}", b as char)).collect()),
        with(&|r| (r.min_tokens, r.stop) = (30, vec!["e".into(), "th".into()])),
        with(&|r| r.stop_token_ids = vec![byte(b'k'), byte(b'z')]),
        with(&|r| r.max_tokens = Some(seed as u32 % 7)),
        with(&|r| r.max_tokens = None),
        with(&|r| r.ignore_eos = true),
        with(&|r| r.sampling.logit_bias = vec![(EOS, 9.0)]),
        with(&|r| r.format = Some(Format::JsonSchema(schema.clone()))),
        with(&|r| (r.format, r.n) = (Some(Format::JsonObject), 2)),
        with(&|r| (r.format, r.logprobs) = (Some(Format::JsonSchema(schema.clone())), Some(1))),
        with(&|r| r.format = Some(Format::Gbnf("root ::= (\"abc\" [0-9] \"def\"){9}".into()))),
        with(&|r| r.format = Some(Format::Choice(vec!["a long answer".into(), "a longer answer".into()]))),
        with(&|r| r.prediction = Some("to be, or not to be, that is the question".into())),
    ]
}

/// What is on is what was off, for every request alone; gives how many guesses were tried and accepted.
fn check(draft_model: bool, speculation: &SpeculationConfig) -> (u64, u64) {
    let plain = start(target(64), None, always(Source::Off, 0), EngineConfig::default());
    let guessed = start(target(64), draft_model.then(draft), speculation.clone(), EngineConfig::default());
    for seed in 0..4 {
        for (i, request) in requests(seed).iter().enumerate() {
            let expected = seen(&plain, request);
            assert_eq!(seen(&guessed, request), expected, "seed {seed}, request {i}");
        }
    }
    let status = wait_until_idle(&guessed);
    assert_eq!(wait_until_idle(&plain).speculation.drafts_total, 0);
    assert_eq!(status.speculation.failure, None);
    (status.speculation.draft_tokens_total, status.speculation.accepted_tokens_total)
}

#[test]
fn lookup_changes_no_answer() {
    for draft_max in [1, 3, 16] {
        let (drafted, accepted) = check(false, &always(Source::Lookup, draft_max));
        assert!(accepted > 500 && drafted > accepted + 100, "{accepted} of {drafted}");
    }
}

#[test]
fn a_draft_model_changes_no_answer() {
    for draft_max in [1, 6] {
        let (drafted, accepted) = check(true, &always(Source::Draft, draft_max));
        assert!(accepted > 500 && drafted > accepted + 500, "{accepted} of {drafted}");
    }
    let (drafted, accepted) = check(true, &always(Source::Auto, 8));
    assert!(accepted > 500 && drafted > accepted + 500, "{accepted} of {drafted}");
    let sure = SpeculationConfig { p_min: 0.5, draft_min: 2, ..always(Source::Draft, 8) };
    let (fewer, accepted) = check(true, &sure);
    assert!(fewer < drafted && accepted > 100, "{accepted} of {fewer}");
}

#[test]
fn the_controller_changes_no_answer() {
    check(false, &SpeculationConfig::default());
    check(true, &SpeculationConfig::default());
}

/// Little memory, small steps, readers that lag: all get what they get alone without guesses.
#[test]
fn under_load_too() {
    let config = EngineConfig {
        step_token_budget: 24,
        max_running_seqs: 6,
        stream_capacity: 3,
        ..EngineConfig::default()
    };
    let plain = start(target(64), None, always(Source::Off, 0), EngineConfig::default());
    for (draft_model, adaptive) in [(false, false), (true, false), (true, true)] {
        let speculation = SpeculationConfig { adaptive, ..always(Source::Auto, 7) };
        let busy = start(target(36), draft_model.then(draft), speculation, config.clone());
        let requests: Vec<Request> =
            requests(5).into_iter().map(|r| Request { max_tokens: r.max_tokens.or(Some(99)), ..r }).collect();
        let streams: Vec<_> = requests.iter().map(|request| stream(&busy, request.clone())).collect();
        for (i, (request, stream)) in requests.iter().zip(streams).enumerate() {
            assert_eq!(collect(stream), seen(&plain, request), "request {i}");
        }
        let status = wait_until_idle(&busy);
        assert!(status.preemptions_total > 0, "memory was to be short: {status:?}");
        assert!(adaptive || status.speculation.accepted_tokens_total > 100, "{status:?}");
    }
}

#[test]
fn guesses_save_steps_and_are_counted() {
    let long = Request { max_tokens: Some(200), ignore_eos: true, ..sampled(1, 0.0) };
    let run = |speculation| {
        let engine = start(target(64), None, speculation, EngineConfig::default());
        let answer = ask(&engine, long.clone()).unwrap();
        (answer, wait_until_idle(&engine))
    };
    let (plain, before) = run(always(Source::Off, 0));
    let (answer, after) = run(always(Source::Lookup, 12));
    assert_eq!(answer.texts, plain.texts);
    let speculation = &after.speculation;
    assert!(speculation.is_on && !before.speculation.is_on);
    assert!(after.steps_total < before.steps_total, "{after:?}");
    assert_eq!(before.steps_total - after.steps_total, speculation.accepted_tokens_total);
    assert_eq!(answer.usage.drafted_tokens, speculation.draft_tokens_total);
    assert_eq!(answer.usage.accepted_tokens, speculation.accepted_tokens_total);
    let by_position = &speculation.accepted_tokens_per_position;
    assert_eq!(by_position.iter().sum::<u64>(), speculation.accepted_tokens_total);
    assert!(by_position[0] <= speculation.drafts_total);
}

#[test]
fn a_request_may_do_without() {
    let engine = start(target(64), Some(draft()), always(Source::Auto, 8), EngineConfig::default());
    let usage = |request: Request| ask(&engine, request).unwrap().usage;
    let long = Request { max_tokens: Some(150), ignore_eos: true, ..sampled(2, 0.0) };
    assert_eq!(usage(Request { speculate: false, ..long.clone() }).drafted_tokens, 0);
    assert_eq!(usage(Request { draft_max: Some(0), ..long.clone() }).drafted_tokens, 0);
    let one = usage(Request { draft_max: Some(1), ..long.clone() }).drafted_tokens;
    assert!((1..150).contains(&one), "{one}");
    assert!(usage(long).drafted_tokens > one);
}

/// A prediction saves steps, and what it foretold is counted by the texts alone.
#[test]
fn predictions_are_counted_by_the_texts_alone() {
    let request = Request { max_tokens: Some(120), ignore_eos: true, ..sampled(3, 0.0) };
    let engine = |speculation| start(target(64), None, speculation, EngineConfig::default());
    let text = ask(&engine(always(Source::Off, 0)), request.clone()).unwrap().texts.remove(0);
    let other = Request { prediction: Some("Quite-Different".into()), ..request.clone() };
    let usage = ask(&engine(always(Source::Lookup, 8)), other).unwrap().usage;
    assert_eq!((usage.prediction_tokens, usage.foretold_tokens), (15, 0));
    let told = Request { prediction: Some(text), ..request };
    for speculation in [always(Source::Off, 0), always(Source::Lookup, 8), SpeculationConfig::default()] {
        let usage = ask(&engine(speculation), told.clone()).unwrap().usage;
        assert_eq!((usage.prediction_tokens, usage.foretold_tokens), (120, 120));
    }
}

#[test]
fn a_draft_model_that_fails_harms_nobody() {
    let plain = start(target(64), None, always(Source::Off, 0), EngineConfig::default());
    for fault in [Fault::Error, Fault::Panic] {
        let draft = draft().with_fault(9, fault);
        let engine = start(target(64), Some(draft), always(Source::Draft, 4), EngineConfig::default());
        for seed in 0..3 {
            let request = sampled(seed, 0.7);
            assert_eq!(seen(&engine, &request), seen(&plain, &request), "{fault:?}, seed {seed}");
        }
        let status = wait_until_idle(&engine);
        assert!(status.speculation.failure.is_some_and(|why| why.contains("scripted fault")), "{fault:?}");
        assert!(!status.speculation.is_on && status.requests_aborted_total == 0);
    }
}

/// What the model makes of a wrong guess is nobody's error.
#[test]
fn rows_of_rejected_guesses_may_be_nonsense() {
    let poison = byte(b'#');
    let target = |n_blocks| {
        ScriptedExecutor::new(N_VOCAB, 256, 8, n_blocks).with_logits(move |history, logits| {
            habit(history, logits);
            logits[poison.0 as usize] = -50.0;
            if history.contains(&poison) {
                logits[7] = f32::NAN;
            }
        })
    };
    let draft = ScriptedExecutor::new(N_VOCAB, 256, 8, 64).with_logits(move |history, logits| {
        guessing(history, logits);
        if history.len() % 3 == 0 {
            logits[poison.0 as usize] = 90.0;
        }
    });
    let plain = start(target(64), None, always(Source::Off, 0), EngineConfig::default());
    let engine = start(target(64), Some(draft), always(Source::Draft, 5), EngineConfig::default());
    for seed in 0..4 {
        let request = sampled(seed, 0.5);
        assert_eq!(seen(&engine, &request), seen(&plain, &request), "seed {seed}");
    }
    // A row that is used counts: the model's own error still ends its request.
    let prompt = Request { ..completion("no # here") };
    assert!(ask(&engine, prompt).is_err());
    let status = engine.status();
    assert!(status.speculation.accepted_tokens_total > 50, "{status:?}");
}

#[test]
fn an_end_among_the_guesses_ends_the_answer() {
    // The model recites, and ends; the draft model recites the same and goes on behind the end.
    let script: Vec<TokenId> = b"four score and seven".iter().map(|&b| byte(b)).collect();
    let recite = |after| ingle_testkit::scripted::recite(byte(b'!'), script.clone(), after);
    let target = ScriptedExecutor::new(N_VOCAB, 256, 8, 64).with_logits(recite(EOS));
    let draft = ScriptedExecutor::new(N_VOCAB, 256, 8, 64).with_logits(recite(EOS));
    let engine = start(target, Some(draft), always(Source::Draft, 9), EngineConfig::default());
    let answer = ask(&engine, Request { max_tokens: Some(100), ..completion("!") }).unwrap();
    assert_eq!(
        (answer.text(), &answer.finished[..]),
        ("four score and seven", &[FinishReason::Stop { matched: None }][..])
    );
    assert_eq!(answer.usage.completion_tokens, 21);
    let status = wait_until_idle(&engine);
    assert_eq!(status.steps_total, 3, "the prompt, and two steps of ten tokens: {status:?}");
}
