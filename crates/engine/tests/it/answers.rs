//! What answers look like when nothing goes wrong.

use ingle_chat::template::{ChatTemplate, TemplateOptions};
use ingle_chat::{
    ChatInput, Echo, Event, FinishReason, Message, Prompt, Provider, Request, Role, Sampling, Task,
};
use ingle_engine::{Engine, EngineConfig, Frontend};
use ingle_step::TokenId;
use ingle_testkit::scripted::{hashed_logits, recite};

use crate::client::{
    Answer, BOS, EOS, N_VOCAB, ask, byte, bytes, completion, executor, frontend, next, start, stream,
    wait_until_idle,
};

const LENGTH: FinishReason = FinishReason::Length;

fn stop(matched: Option<&str>) -> FinishReason {
    FinishReason::Stop { matched: matched.map(str::to_owned) }
}

/// The answer of a model that says these bytes after a colon, and then EOS.
fn say(text: &[u8], request: Request) -> Answer {
    let script = bytes(text);
    let engine = start(executor().with_logits(recite(byte(b':'), script, EOS)), EngineConfig::default());
    let answer = ask(&engine, request).unwrap();
    wait_until_idle(&engine);
    answer
}

#[test]
fn an_answer_ends_with_the_models_end() {
    let answer = say(b"hello", completion("greet:"));
    assert_eq!((answer.text(), &answer.finished[..]), ("hello", &[stop(None)][..]));
    assert_eq!(answer.started.unwrap().0, 7, "BOS and six bytes");
    assert_eq!((answer.usage.prompt_tokens, answer.usage.completion_tokens), (7, 6), "the end counts");
}

#[test]
fn an_answer_ends_at_max_tokens() {
    let answer = say(b"hello", Request { max_tokens: Some(3), ..completion("greet:") });
    assert_eq!((answer.text(), &answer.finished[..]), ("hel", &[LENGTH][..]));
    assert_eq!(answer.usage.completion_tokens, 3);
}

#[test]
fn an_answer_ends_with_the_context() {
    let request = Request { max_tokens: None, ignore_eos: true, ..completion("x:") };
    let answer = say(b"", request);
    assert_eq!(answer.finished, [LENGTH]);
    assert_eq!(answer.usage.completion_tokens, 256 - 3);
}

#[test]
fn zero_tokens_only_read_the_prompt() {
    let request = Request { max_tokens: Some(0), prompt_logprobs: Some(0), n: 2, ..completion("a:") };
    let answer = say(b"no", request);
    assert_eq!((answer.texts, answer.finished), (vec![String::new(); 2], vec![LENGTH; 2]));
    assert_eq!((answer.prompt_logprobs.len(), answer.usage.completion_tokens), (3, 0));
}

#[test]
fn end_tokens_and_their_exceptions() {
    let ignoring = Request { ignore_eos: true, max_tokens: Some(4), ..completion("x:") };
    let answer = say(b"ab", ignoring.clone());
    assert_eq!((answer.text(), &answer.finished[..]), ("ab", &[LENGTH][..]));

    let special = say(b"ab", Request { include_special: true, ..ignoring });
    assert_eq!(special.text(), "ab</s></s>");

    let stop_token = Request { stop_token_ids: vec![byte(b'c')], ..completion("x:") };
    let answer = say(b"abcd", stop_token.clone());
    assert_eq!((answer.text(), &answer.finished[..]), ("ab", &[stop(Some("c"))][..]));

    let at_least = Request { min_tokens: 5, ..stop_token };
    let answer = say(b"abcd", at_least);
    assert!(answer.usage.completion_tokens >= 5);
    assert!(answer.text().starts_with("ab") && !answer.text().contains('c'), "{:?}", answer.text());
}

#[test]
fn stop_strings_end_before_themselves() {
    let check = |says: &str, stops: &[&str], text: &str, reason: FinishReason| {
        let stop = stops.iter().map(|s| (*s).to_owned()).collect();
        let answer = say(says.as_bytes(), Request { stop, max_tokens: Some(64), ..completion("x:") });
        assert_eq!((answer.text(), &answer.finished[0]), (text, &reason), "{stops:?} in {says:?}");
    };
    check("one,two", &[","], "one", stop(Some(",")));
    check("aaab!", &["aab"], "a", stop(Some("aab")));
    check("crème brûlée", &["brû"], "crème ", stop(Some("brû")));
    check("終わ終わり", &["終わり"], "終わ", stop(Some("終わり")));
    check("almost en", &["end"], "almost en", stop(None));
    check("x", &["x"], "", stop(Some("x")));
}

#[test]
fn broken_characters_become_replacements_and_never_split() {
    let check = |says: &[u8], max_tokens: u32| {
        let answer = say(says, Request { max_tokens: Some(max_tokens), ..completion("x:") });
        let said = &says[..says.len().min(max_tokens as usize)];
        assert_eq!(answer.text(), String::from_utf8_lossy(said), "{said:x?}");
    };
    for text in ["é", "終わり", "🙂 ok 🙂", "e\u{301}"] {
        for cut in 0..=text.len() {
            check(text.as_bytes(), cut as u32);
        }
    }
    check(b"\xC0\xAFoverlong", 20);
    check(b"\xED\xA0\x80 surrogate", 20);
    check(b"\x80\x80lone", 20);
    check(b"cut \xF0\x9F\x99", 20);
    check(b"\xF0\x9F\x99 cut \xE7", 20);
}

#[test]
fn echo_repeats_the_prompt() {
    let text = Task::Completion { prompt: Prompt::Text("greet:".into()), echo: Echo::Yes };
    let answer = say(b"hi", Request { task: text, n: 2, ..completion("") });
    assert_eq!(answer.texts, ["greet:hi", "greet:hi"]);

    let tokens = [vec![BOS], bytes(b"greet:")].concat();
    let task = Task::Completion { prompt: Prompt::Tokens(tokens), echo: Echo::Yes };
    assert_eq!(say(b"hi", Request { task, ..completion("") }).text(), "greet:hi");
}

#[test]
fn logprobs_are_of_the_logits_before_sampling() {
    let engine = start(executor(), EngineConfig::default());
    let sampling = Sampling { temperature: Some(2.0), seed: Some(5), ..Sampling::default() };
    let request = Request { logprobs: Some(3), prompt_logprobs: Some(2), sampling, ..completion("abc") };
    let answer = ask(&engine, request).unwrap();

    let mut history = [vec![BOS], bytes(b"abc")].concat();
    assert_eq!(answer.prompt_logprobs.len(), history.len());
    assert_eq!((answer.prompt_logprobs[0].token, answer.prompt_logprobs[0].logprob), (BOS, None));
    let n_prompt = history.len();
    history.extend(answer.logprobs.iter().map(|l| l.token));
    let all = [&answer.prompt_logprobs[..], &answer.logprobs[..]].concat();
    for (i, entry) in all.iter().enumerate().skip(1) {
        let mut logits = vec![0.0; N_VOCAB];
        hashed_logits(&history[..i], &mut logits);
        let norm: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let logprob = |t: TokenId| f64::from(logits[t.0 as usize]) - norm;
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-4;
        assert_eq!(entry.token, history[i]);
        assert!(close(entry.logprob.unwrap(), logprob(entry.token)), "{i}: {entry:?}");
        let better = logits.iter().filter(|&&l| l > logits[entry.token.0 as usize]).count();
        assert_eq!(entry.rank as usize, better + 1);
        assert_eq!(entry.top.len(), if i < n_prompt { 2 } else { 3 });
        assert!(entry.top.windows(2).all(|w| w[0].2 >= w[1].2));
        assert!(entry.top.iter().all(|(t, _, lp)| close(*lp, logprob(*t))));
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(logits[entry.top[0].0.0 as usize], best);
    }
}

#[test]
fn the_second_request_finds_the_first_ones_blocks() {
    let engine = start(executor(), EngineConfig::default());
    let prompt = "a_prompt_that_is_longer_than_one_block_of_eight";
    let first = ask(&engine, completion(prompt)).unwrap();
    let second = ask(&engine, completion(prompt)).unwrap();
    assert_eq!(
        (first.usage.cached_tokens, second.usage.cached_tokens),
        (0, 47),
        "the last of 48 is not taken"
    );
    assert_eq!(first.texts, second.texts);
    let status = wait_until_idle(&engine);
    assert_eq!((status.cached_tokens_total, status.prompt_tokens_total), (47, 48 + 1));
}

#[test]
fn another_tenant_finds_nothing() {
    let engine = start(executor(), EngineConfig::default());
    let prompt = "a_prompt_that_is_longer_than_one_block_of_eight";
    let mut other = completion(prompt);
    other.principal.tenant = "other".into();
    ask(&engine, completion(prompt)).unwrap();
    assert_eq!(ask(&engine, other).unwrap().usage.cached_tokens, 0);
}

#[test]
fn a_tenant_flushes_its_own_cache() {
    let engine = start(executor(), EngineConfig::default());
    let prompt = "a_prompt_that_is_longer_than_one_block_of_eight";
    let mine = || completion(prompt);
    let mut others = completion(prompt);
    others.principal.tenant = "other".into();
    for request in [mine(), others.clone()] {
        ask(&engine, request).unwrap();
    }
    engine.flush_cache(&mine().principal).unwrap();
    let cached = [mine(), others].map(|request| ask(&engine, request).unwrap().usage.cached_tokens);
    assert_eq!(cached, [0, 47]);
    wait_until_idle(&engine);
}

#[test]
fn choices_share_the_prompt_and_have_their_own_randomness() {
    let engine = start(executor(), EngineConfig::default());
    let sampling = Sampling { temperature: Some(1.0), seed: Some(7), ..Sampling::default() };
    let request = Request { n: 4, sampling, ..completion("several answers to one prompt") };
    let four = ask(&engine, request.clone()).unwrap();
    assert_eq!(four.texts.len(), 4);
    assert_eq!(engine.status().prompt_tokens_total, four.usage.prompt_tokens, "the prompt is computed once");
    let again = ask(&engine, request.clone()).unwrap();
    assert_eq!(four.texts, again.texts);
    let two = ask(&engine, Request { n: 2, ..request }).unwrap();
    assert_eq!(four.texts[..2], two.texts, "a choice does not depend on how many there are");
    wait_until_idle(&engine);
}

#[test]
fn a_seed_is_drawn_and_reported() {
    let engine = start(executor(), EngineConfig::default());
    let mut request = completion("x");
    request.sampling = Sampling { temperature: Some(1.5), ..Sampling::default() };
    let first = ask(&engine, request.clone()).unwrap();
    let seed = first.started.unwrap().1;
    request.sampling.seed = Some(seed);
    let second = ask(&engine, request).unwrap();
    assert_eq!((first.texts, first.started), (second.texts, second.started));
}

#[test]
fn the_status_counts_exactly() {
    let engine = start(executor(), EngineConfig { prefix_cache: false, ..EngineConfig::default() });
    let idle = engine.status();
    assert!(idle.ready);
    assert_eq!((idle.kv_blocks_total, idle.kv_blocks_used, idle.steps_total), (64, 0, 0));
    for _ in 0..3 {
        let mut stream = stream(&engine, Request { ignore_eos: true, ..completion("1234567") });
        while let Some(delta) = next(&mut stream) {
            if matches!(delta.unwrap().event, Event::Done(_)) {
                // Counted before the client can know.
                let status = engine.status();
                assert_eq!((status.running, status.waiting, status.kv_blocks_used), (0, 0, 0));
            }
        }
    }
    let status = engine.status();
    assert_eq!(status.requests_finished_total, 3);
    assert_eq!(status.requests_aborted_total, 0);
    assert_eq!((status.prompt_tokens_total, status.generated_tokens_total), (3 * 8, 3 * 16));
    assert_eq!(status.steps_total, 3 * 16);
    assert!(status.decode_tokens_per_s > 0.0 && status.prefill_tokens_per_s > 0.0);
}

#[test]
fn a_conversation_goes_through_the_template_with_one_bos() {
    let check = |template: &str, n_prompt: u64| {
        let options = TemplateOptions {
            bos_token: "<s>".into(),
            eos_token: "</s>".into(),
            special_tokens: ["<unk>", "<s>", "</s>"].map(String::from).to_vec(),
            ..TemplateOptions::default()
        };
        let template = ChatTemplate::new(template, options).unwrap();
        let script = executor().with_logits(recite(byte(b':'), bytes(b"hello"), EOS));
        let frontend = Frontend { template: Some(template), ..frontend(256) };
        let engine = Engine::start(Box::new(script), frontend, EngineConfig::default()).unwrap();
        let messages = vec![Message::text(Role::User, "</s>hi")];
        let task = Task::Chat(ChatInput { messages, ..ChatInput::default() });
        let answer = ask(&engine, Request { task, ..completion("") }).unwrap();
        assert_eq!(answer.text(), "hello");
        assert_eq!(answer.started.unwrap().0, n_prompt);
    };
    // BOS, six bytes of content that spell no token, one control token, a colon.
    check("{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}:", 9);
    check("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}:", 9);
}
