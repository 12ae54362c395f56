//! Context shift: an answer that goes on in a full context says what the model says behind the tokens that are left, has
//! the same bytes whatever runs beside it, keeps its seed, penalties, format and stop strings, and tells what made way.

use std::sync::{Mutex, PoisonError};
use std::thread;

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    DeltaStream, Echo, Event, FinishReason, Format, Principal, Prompt, ProviderError, Request, Sampling,
    Task, Usage,
};
use ingle_runtime::{Engine, LoadOptions, Source};
use ingle_step::TokenId;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

const N_CTX: usize = 96;

/// Models of a process share its pool, whose size the first one says.
static TURN: Mutex<()> = Mutex::new(());

fn load(options: LoadOptions) -> Engine {
    let spec = TinySpec { n_ctx: N_CTX, ..TinySpec::new(Arch::Qwen3) };
    let options = LoadOptions { n_threads: Some(1), ..options };
    Engine::load_with(&Source::Bytes(spec.bytes()), &options, &mut |_, _| {}).expect("a tiny model loads")
}

fn words(rng: &mut Rng, n: usize) -> Vec<TokenId> {
    (0..n).map(|_| TokenId(rng.below(256) as u32)).collect()
}

fn request(prompt: Vec<TokenId>, max_tokens: Option<u32>, sampling: Sampling) -> Request {
    let task = Task::Completion { prompt: Prompt::Tokens(prompt), echo: Echo::No };
    let request = Request::new("shifted", Principal::local(), task);
    Request { max_tokens, ignore_eos: true, logprobs: Some(0), sampling, ..request }
}

/// A request that goes on in a full context.
fn shifted(prompt: Vec<TokenId>, max_tokens: u32, n_keep: i32, n_discard: i32) -> Request {
    let sampling = Sampling {
        context_shift: Some(true),
        n_keep: Some(n_keep),
        n_discard: Some(n_discard),
        temperature: Some(0.0),
        ..Sampling::default()
    };
    request(prompt, Some(max_tokens), sampling)
}

fn start(engine: &Engine, request: &Request) -> DeltaStream {
    block_on(engine.provider().start(request.clone())).expect("it is admitted")
}

/// Everything about an answer that must not depend on circumstances: of each choice text, tokens with the bits of their
/// log-probabilities, and why it ended.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    text: String,
    tokens: Vec<(u32, u32)>,
    reason: Option<FinishReason>,
}

fn collect(stream: DeltaStream) -> (Vec<Answer>, Usage) {
    let (mut answers, mut usage) = (Vec::<Answer>::new(), Usage::default());
    for delta in block_on_stream(stream) {
        let delta = delta.expect("it does not fail");
        let choice = delta.choice as usize;
        answers.resize(answers.len().max(choice + 1), Answer::default());
        match delta.event {
            Event::Text { text, logprobs } => {
                answers[choice].text.push_str(&text);
                let bits = |p: Option<f32>| p.expect("new tokens have one").to_bits();
                answers[choice].tokens.extend(logprobs.iter().map(|l| (l.token.0, bits(l.logprob))));
            }
            Event::Finished(reason) => answers[choice].reason = Some(reason),
            Event::Done(used) => usage = used,
            _ => {}
        }
    }
    (answers, usage)
}

fn ask(engine: &Engine, request: &Request) -> (Answer, Usage) {
    let (mut answers, usage) = collect(start(engine, request));
    (answers.remove(0), usage)
}

/// Each part of the answer by a request of its own, behind exactly what is left.
#[test]
fn it_says_what_the_model_says_behind_what_is_left() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Rng::new(3);
    let (engine, plain) =
        (load(LoadOptions::default()), load(LoadOptions { no_prefix_cache: true, ..Default::default() }));
    for (n_prompt, n_keep, n_discard, n_new) in [
        (40, 0, 0, 300),
        (40, 10, 0, 260),
        (95, 33, 1, 12),
        (60, -1, 20, 130),
        (20, 500, 7, 150),
        (1, 0, 95, 200),
    ] {
        let prompt = words(&mut rng, n_prompt);
        let (answer, usage) = ask(&engine, &shifted(prompt.clone(), n_new, n_keep, n_discard));
        let stay = if n_keep < 0 { n_prompt } else { n_prompt.min(n_keep as usize) };
        let make_way = if n_discard > 0 { n_discard as usize } else { (N_CTX - stay) / 2 };
        let (mut text, mut expected, mut n_shifts) = (prompt, Vec::new(), 0);
        while expected.len() < n_new as usize {
            if text.len() == N_CTX {
                text.drain(stay..stay + make_way);
                n_shifts += 1;
            }
            let n = (N_CTX - text.len()).min(n_new as usize - expected.len()) as u32;
            let greedy = Sampling { temperature: Some(0.0), ..Sampling::default() };
            let (part, part_usage) = ask(&plain, &request(text.clone(), Some(n), greedy));
            assert_eq!((part_usage.context_shifts, part_usage.discarded_tokens), (0, 0));
            text.extend(part.tokens.iter().map(|&(token, _)| TokenId(token)));
            expected.extend(part.tokens);
        }
        assert!(answer.tokens == expected, "{n_prompt} {n_keep} {n_discard}");
        assert_eq!(answer.reason, Some(FinishReason::Length));
        assert_eq!((usage.context_shifts, usage.discarded_tokens), (n_shifts, n_shifts * make_way as u64));
        assert_eq!(usage.completion_tokens, u64::from(n_new));
    }
    let status = engine.provider().status();
    assert!(status.context_shifts_total > 0 && status.discarded_tokens_total > status.context_shifts_total);
    assert_eq!(plain.provider().status().context_shifts_total, 0);
}

/// Of several kinds: with chance and penalties, several answers, another end.
fn mixture() -> Vec<Request> {
    let mut rng = Rng::new(5);
    (0..9)
        .map(|i| {
            let prompt = words(&mut rng, 5 + 10 * i);
            let mut request =
                shifted(prompt, 150 + 11 * i as u32, [0, 4, -1][i % 3].min(60), [0, 9, 0][i % 3]);
            if i == 8 {
                // 85 tokens of 96 stay.
                request.sampling.n_keep = Some(20);
            }
            request.sampling.temperature = Some([0.0, 0.9, 1.3][i % 3]);
            request.sampling.seed = Some(i as u64);
            request.sampling.repeat_penalty = Some(1.1);
            request.sampling.repeat_last_n = Some(-1);
            request.n = 1 + u32::from(i % 4 == 1);
            request.logprobs = (i % 2 == 0).then_some(0);
            if i == 5 {
                request.sampling.context_shift = None;
                request.max_tokens = None;
            }
            request
        })
        .collect()
}

#[test]
fn it_has_the_same_bytes_at_any_load() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = mixture();
    let engine = load(LoadOptions::default());
    let alone: Vec<_> = requests.iter().map(|request| collect(start(&engine, request))).collect();
    let n_shifts: u64 = alone.iter().map(|(_, usage)| usage.context_shifts).sum();
    assert_eq!(engine.provider().status().context_shifts_total, n_shifts, "counted in two ways");
    assert_eq!(alone[5].1.context_shifts, 0, "nobody chose it");
    assert!(alone.iter().enumerate().all(|(i, (_, usage))| i == 5 || usage.context_shifts >= 2));
    // Memory for hardly two, moved or computed again; cached or not; guessed ahead or not; in small steps.
    let tight = LoadOptions { kv_tokens: Some(160), max_running_seqs: Some(4), ..LoadOptions::default() };
    let small = LoadOptions { step_token_budget: Some(11), kv_swap_bytes: Some(0), ..tight.clone() };
    let uncached = LoadOptions { no_prefix_cache: true, ..small.clone() };
    let mut preemptions = 0;
    for (options, speculate) in
        [(LoadOptions::default(), false), (tight, true), (small, true), (uncached, false)]
    {
        let engine = load(options);
        let begin = |request: &Request| start(&engine, &Request { speculate, ..request.clone() });
        let streams: Vec<DeltaStream> = requests.iter().map(begin).collect();
        // All are read at the same time: nobody has to wait for a reader.
        let found: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| collect(stream))).collect();
            readers.into_iter().map(|reader| reader.join().expect("it is read")).collect()
        });
        for (i, ((answers, found), (expected, usage))) in found.into_iter().zip(&alone).enumerate() {
            assert!(answers == *expected, "request {i} differs from itself alone");
            assert_eq!(
                (found.context_shifts, found.discarded_tokens),
                (usage.context_shifts, usage.discarded_tokens)
            );
        }
        let status = engine.provider().status();
        assert_eq!(status.context_shifts_total, n_shifts);
        preemptions += status.preemptions_total;
    }
    assert!(preemptions > 0, "memory was short");
}

#[test]
fn stop_strings_and_formats_go_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = load(LoadOptions::default());
    let prompt = words(&mut Rng::new(8), 50);
    let format = Format::Regex("([ab]{7}\n){30}[c-e]{3}".into());
    let request = shifted(prompt, 400, 12, 0);
    let mut request = Request { format: Some(format), logprobs: None, ignore_eos: false, ..request };
    request.sampling.temperature = Some(1.0);
    request.sampling.seed = Some(1);
    let (whole, usage) = ask(&engine, &request);
    let (lines, end) = whole.text.split_at(240);
    assert!(
        lines.lines().all(|line| line.len() == 7 && line.chars().all(|c| c == 'a' || c == 'b')),
        "{lines}"
    );
    assert!(end.len() == 3 && end.chars().all(|c| ('c'..='e').contains(&c)), "{end}");
    assert_eq!(whole.reason, Some(FinishReason::Stop { matched: None }));
    assert!(usage.context_shifts > 0);
    // It ends where it would have, had the stop string been there from the beginning.
    request.stop = vec![lines[200..214].to_owned()];
    let (stopped, _) = ask(&engine, &request);
    let at = whole.text.find(&request.stop[0]).expect("it is there");
    assert_eq!(stopped.text, whole.text[..at]);
    // Text that the format forces comes several tokens at a time: with it the same answer as token by token.
    let (by_token, by_token_usage) =
        ask(&engine, &Request { logprobs: Some(0), stop: Vec::new(), ..request });
    assert_eq!((by_token.text, by_token_usage.context_shifts), (whole.text, usage.context_shifts));
}

#[test]
fn what_cannot_be_is_refused_and_what_is_not_chosen_ends() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let on = Sampling { context_shift: Some(true), n_keep: Some(8), ..Sampling::default() };
    let engine = load(LoadOptions { sampling: on, ..LoadOptions::default() });
    let prompt = |n: usize| words(&mut Rng::new(1), n);
    let refused = |request: &Request| match block_on(engine.provider().start(request.clone())) {
        Ok(_) => panic!("it was admitted"),
        Err(error) => error,
    };
    // A prompt is never cut.
    for n in [N_CTX, N_CTX + 1, 500] {
        let error = refused(&shifted(prompt(n), 5, 0, 0));
        assert!(
            matches!(error, ProviderError::ContextLength { prompt_tokens, n_ctx: N_CTX, .. } if prompt_tokens == n),
            "{error}"
        );
    }
    let by_name = |request: &Request, name: &str, part: &str| {
        let error = refused(request);
        let ProviderError::InvalidRequest { message, param } = &error else { panic!("{error}") };
        assert!(param.as_deref() == Some(name) && message.contains(part), "{error}");
    };
    by_name(&shifted(prompt(95), 50, -1, 0), "n_keep", "95 tokens are to stay");
    by_name(&shifted(prompt(20), 100, 10, 86), "n_discard", "86 to make way");
    by_name(&shifted(prompt(20), 1 << 21, 0, 0), "max_tokens", "at most 1048576");
    by_name(&Request { n: 4, ..shifted(prompt(20), 1 << 19, 0, 0) }, "max_tokens", "at most 262144");
    // Where the context cannot get full, nothing has to make way.
    let (_, usage) = ask(&engine, &shifted(prompt(90), 6, -1, 0));
    assert_eq!((usage.completion_tokens, usage.context_shifts), (6, 0));
    // As the server is set; and a request has the last word.
    let (answer, usage) = ask(&engine, &request(prompt(50), None, Sampling::default()));
    assert_eq!((usage.completion_tokens, usage.context_shifts), (960, 21), "ten contexts");
    assert_eq!(answer.reason, Some(FinishReason::Length));
    let off = Sampling { context_shift: Some(false), ..Sampling::default() };
    let (answer, usage) = ask(&engine, &request(prompt(50), None, off.clone()));
    assert_eq!((usage.completion_tokens, usage.context_shifts), (46, 0));
    assert_eq!(answer.reason, Some(FinishReason::Length));
    let error = refused(&request(prompt(50), Some(47), off));
    assert!(matches!(error, ProviderError::ContextLength { .. }), "{error}");
}
