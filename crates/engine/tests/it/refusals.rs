//! What is refused, and in what words.

use ingle_chat::{
    ChatInput, Echo, Infill, Message, Prompt, Provider, ProviderError, Request, Role, Sampling, Task,
};
use ingle_engine::frontend::{STOP_BYTES_MAX, STOP_TOKENS_MAX, STOPS_MAX};
use ingle_engine::{Engine, EngineConfig};
use ingle_step::TokenId;
use ingle_testkit::scripted::ScriptedExecutor;

use crate::client::{N_VOCAB, ask, completion, executor, start};

/// The engine refuses the request for this field, and says why.
fn check(engine: &Engine, param: &str, change: impl FnOnce(&mut Request)) {
    let mut request = completion("hello");
    change(&mut request);
    match ask(engine, request) {
        Err(ProviderError::InvalidRequest { message, param: Some(at) }) => {
            assert_eq!(at, param, "{message}");
            assert!(message.len() > 10, "{message:?} does not help");
        }
        other => panic!("{param}: {other:?}"),
    }
}

#[test]
fn what_is_out_of_range_is_named() {
    let engine = start(executor(), EngineConfig::default());
    let sampling = |param: &str, set: fn(&mut Sampling)| check(&engine, param, |r| set(&mut r.sampling));
    sampling("temperature", |s| s.temperature = Some(-0.1));
    sampling("temperature", |s| s.temperature = Some(f32::NAN));
    sampling("temperature", |s| s.temperature = Some(f32::INFINITY));
    sampling("dynatemp_range", |s| s.dynatemp_range = Some(-1.0));
    sampling("dynatemp_exponent", |s| s.dynatemp_exponent = Some(f32::NAN));
    sampling("top_p", |s| s.top_p = Some(0.0));
    sampling("top_p", |s| s.top_p = Some(1.1));
    sampling("min_p", |s| s.min_p = Some(-0.1));
    sampling("typical_p", |s| s.typical_p = Some(2.0));
    sampling("top_n_sigma", |s| s.top_n_sigma = Some(f32::NAN));
    sampling("xtc_probability", |s| s.xtc_probability = Some(1.5));
    sampling("xtc_threshold", |s| s.xtc_threshold = Some(-1.0));
    sampling("repeat_penalty", |s| s.repeat_penalty = Some(0.0));
    sampling("repeat_last_n", |s| s.repeat_last_n = Some(-2));
    sampling("frequency_penalty", |s| s.frequency_penalty = Some(f32::NAN));
    sampling("presence_penalty", |s| s.presence_penalty = Some(f32::NEG_INFINITY));
    sampling("dry_multiplier", |s| s.dry_multiplier = Some(-1.0));
    sampling("dry_base", |s| s.dry_base = Some(f32::NAN));
    sampling("dry_allowed_length", |s| s.dry_allowed_length = Some(-1));
    sampling("dry_penalty_last_n", |s| s.dry_penalty_last_n = Some(-2));
    sampling("dry_sequence_breakers", |s| s.dry_sequence_breakers = Some(vec!["x".into(); 65]));
    sampling("dry_sequence_breakers", |s| s.dry_sequence_breakers = Some(vec!["x".repeat(257)]));
    sampling("mirostat", |s| s.mirostat = Some(3));
    sampling("mirostat_tau", |s| (s.mirostat, s.mirostat_tau) = (Some(2), Some(f32::NAN)));
    sampling("mirostat_eta", |s| (s.mirostat, s.mirostat_eta) = (Some(1), Some(-1.0)));
    sampling("min_keep", |s| s.min_keep = Some(N_VOCAB + 1));
    sampling("logit_bias", |s| s.logit_bias = vec![(TokenId(N_VOCAB as u32), 1.0)]);
    sampling("logit_bias", |s| s.logit_bias = vec![(TokenId(5), f32::NAN)]);
    sampling("logit_bias", |s| s.logit_bias = vec![(TokenId(5), f32::INFINITY)]);
    check(&engine, "n", |r| r.n = 0);
    check(&engine, "n", |r| r.n = 129);
    check(&engine, "logprobs", |r| r.logprobs = Some(21));
    check(&engine, "prompt_logprobs", |r| r.prompt_logprobs = Some(21));
    check(&engine, "stop", |r| r.stop = vec![String::new()]);
    check(&engine, "stop", |r| r.stop = vec!["x".into(); STOPS_MAX + 1]);
    check(&engine, "stop", |r| r.stop = vec!["x".repeat(STOP_BYTES_MAX + 1)]);
    check(&engine, "stop_token_ids", |r| r.stop_token_ids = vec![TokenId(u32::MAX)]);
    check(&engine, "stop_token_ids", |r| r.stop_token_ids = vec![TokenId(1); STOP_TOKENS_MAX + 1]);
    check(&engine, "min_tokens", |r| r.min_tokens = 17);
    let tokens = |r: &mut Request, tokens: Vec<TokenId>| {
        let Task::Completion { prompt, .. } = &mut r.task else { unreachable!() };
        *prompt = Prompt::Tokens(tokens);
    };
    check(&engine, "prompt", |r| tokens(r, vec![]));
    check(&engine, "prompt", |r| tokens(r, vec![TokenId(N_VOCAB as u32)]));
    check(&engine, "suffix", |r| {
        let Task::Completion { prompt, .. } = &mut r.task else { unreachable!() };
        *prompt = Prompt::Infill(Infill { suffix: ")".into(), ..Infill::default() });
    });
    assert_eq!(engine.status().steps_total, 0);
}

#[test]
fn control_tokens_are_for_those_who_may() {
    let engine = start(executor(), EngineConfig::default());
    let say = |text: &str, may: bool| {
        let task = Task::Completion { prompt: Prompt::Marked(text.into()), echo: Echo::No };
        let mut request = Request { task, ..completion("") };
        request.principal.may_write_control_tokens = may;
        ask(&engine, request).map(|answer| answer.started.expect("it started").0)
    };
    assert_eq!(say("</s>x", true), Ok(3));
    assert_eq!(say("</S>x", false), Ok(6));
    match say("</s>x", false) {
        Err(ProviderError::Forbidden { message }) => {
            assert!(message.contains("`control-tokens`"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_extremes_that_are_allowed_work() {
    let engine = start(executor(), EngineConfig::default());
    let work = |set: fn(&mut Request)| {
        let mut request = completion("hello");
        set(&mut request);
        ask(&engine, request).unwrap();
    };
    work(|r| r.sampling.top_p = Some(1.0));
    work(|r| r.sampling.top_k = Some(-1));
    work(|r| r.sampling.logit_bias = vec![(TokenId(5), f32::NEG_INFINITY)]);
    work(|r| r.n = 128);
    work(|r| (r.logprobs, r.prompt_logprobs) = (Some(20), Some(20)));
    work(|r| r.stop = vec!["x".repeat(STOP_BYTES_MAX); STOPS_MAX]);
    work(|r| r.min_tokens = 16);
}

#[test]
fn a_chat_needs_a_template() {
    let engine = start(executor(), EngineConfig::default());
    check(&engine, "messages", |r| {
        let messages = vec![Message::text(Role::User, "hi")];
        r.task = Task::Chat(ChatInput { messages, ..ChatInput::default() });
    });
}

#[test]
fn another_model_is_not_here() {
    let engine = start(executor(), EngineConfig::default());
    let error = ask(&engine, Request { model: Some("other".into()), ..completion("x") }).unwrap_err();
    let here = ProviderError::UnknownModel { model: "other".into(), available: vec!["scripted".into()] };
    assert_eq!(error, here);
    ask(&engine, Request { model: Some("scripted".into()), ..completion("x") }).unwrap();
}

#[test]
fn what_does_not_fit_the_context_is_refused_with_counts() {
    let check = |engine: &Engine, n_prompt: usize, max_tokens: Option<u32>, n_ctx: usize| {
        // One token of the prompt is BOS.
        let request = Request { max_tokens, ..completion(&"x".repeat(n_prompt - 1)) };
        let error = ask(engine, request).unwrap_err();
        assert_eq!(error, ProviderError::ContextLength { prompt_tokens: n_prompt, max_tokens, n_ctx });
    };
    let engine = start(executor(), EngineConfig::default());
    check(&engine, 256, None, 256);
    check(&engine, 257, None, 256);
    check(&engine, 2560, Some(1), 256);
    check(&engine, 250, Some(7), 256);
    check(&engine, 4, Some(u32::MAX), 256);
    ask(&engine, Request { max_tokens: Some(6), ..completion(&"x".repeat(249)) }).unwrap();
    ask(&engine, Request { max_tokens: None, ..completion(&"x".repeat(254)) }).unwrap();
    ask(&engine, Request { max_tokens: Some(0), ..completion(&"x".repeat(255)) }).unwrap();
    // As many as there is room for, where the request says that this is meant.
    for (max_tokens, n_prompt, expected) in [(7, 250, 6), (u32::MAX, 4, 252), (3, 249, 3)] {
        let prompt = "x".repeat(n_prompt - 1);
        let request = Request {
            max_tokens: Some(max_tokens),
            cuts_max_tokens: true,
            ignore_eos: true,
            ..completion(&prompt)
        };
        let answer = ask(&engine, request).unwrap();
        assert_eq!(answer.usage.completion_tokens, expected, "{max_tokens} behind {n_prompt}");
    }

    // A cache that is smaller than the context is what counts.
    let engine = start(ScriptedExecutor::new(N_VOCAB, 256, 8, 4), EngineConfig::default());
    check(&engine, 32, None, 32);
    check(&engine, 30, Some(3), 32);
    ask(&engine, Request { max_tokens: None, ..completion(&"x".repeat(20)) }).unwrap();
}
