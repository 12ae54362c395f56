//! Several models under one budget of memory: loaded when asked for, gone when not, never cut.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    Echo, Event, KeepAlive, ModelChange, ModelEntry, ModelState, Principal, Prompt, Provider, ProviderError,
    Request, Task,
};
use ingle_runtime::models::{ModelEvent, OnMissing, Unloaded};
use ingle_runtime::{Engine, LoadOptions, ModelSpec, Models, ModelsConfig, Source};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

const PROMPT: &str = "once upon";
const N_TOKENS: u32 = 16;

/// A tiny model, the larger the higher `size` is.
fn tiny(seed: u64, size: usize) -> TinySpec {
    TinySpec { n_layers: 1 + size, n_vocab: 288, ..TinySpec::new(Arch::Llama).seed(seed) }
}

/// Small, so that weights are what tells models apart.
fn options() -> LoadOptions {
    LoadOptions {
        n_ctx: Some(128),
        kv_tokens: Some(160),
        max_running_seqs: Some(4),
        step_token_budget: Some(16),
        // So that what counts is what such a small model needs.
        kv_swap_bytes: Some(0),
        ..LoadOptions::default()
    }
}

fn spec(name: &str, source: Source) -> ModelSpec {
    ModelSpec { name: name.into(), source, options: options(), ..ModelSpec::default() }
}

fn of_bytes(name: &str, seed: u64, size: usize) -> ModelSpec {
    spec(name, Source::Bytes(tiny(seed, size).bytes()))
}

fn request(model: &str, n_tokens: u32) -> Request {
    let task = Task::Completion { prompt: Prompt::Text(PROMPT.into()), echo: Echo::No };
    let mut request = Request::new("test", Principal::local(), task);
    request.model = Some(model.into());
    request.sampling.temperature = Some(0.0);
    (request.max_tokens, request.ignore_eos) = (Some(n_tokens), true);
    request
}

fn ask(models: &dyn Provider, model: &str) -> Result<String, ProviderError> {
    let stream = block_on(models.start(request(model, N_TOKENS)))?;
    let mut answer = String::new();
    for delta in block_on_stream(stream) {
        if let Event::Text { text, .. } = delta?.event {
            answer += &text;
        }
    }
    Ok(answer)
}

/// What a model answers that is alone.
fn expected(spec: &ModelSpec) -> String {
    let options = LoadOptions { name: Some(spec.name.clone()), ..spec.options.clone() };
    let engine = Engine::load_with(&spec.source, &options, &mut |_, _| {}).expect("a valid model");
    ask(&*engine.provider(), &spec.name).expect("an answer")
}

/// Bytes that a model gets.
fn bytes_of(spec: &ModelSpec) -> u64 {
    let models = Models::new(vec![spec.clone()], ModelsConfig::new(1 << 40)).expect("a catalogue");
    ask(&models, &spec.name).expect("an answer");
    entry(&models, &spec.name).memory_bytes
}

fn entry(models: &Models, name: &str) -> ModelEntry {
    models.entries().into_iter().find(|e| e.info.id == name).expect("a model of the catalogue")
}

fn is_loaded(models: &Models, name: &str) -> bool {
    entry(models, name).state == ModelState::Loaded
}

fn change(models: &Models, name: &str, change: ModelChange) -> Result<(), ProviderError> {
    block_on(models.change(name, change))
}

/// Waits for what must come.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A file that can be replaced as files are: written beside it and renamed.
struct Replaceable {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Replaceable {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = Self { path: dir.path().join("model.gguf"), _dir: dir };
        file.put(bytes);
        file
    }

    fn put(&self, bytes: &[u8]) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, bytes).expect("the folder is writable");
        std::fs::rename(&beside, &self.path).expect("the same folder");
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Another thread may have called off the load that a request waited for; nothing else may go wrong.
fn called_off(error: &ProviderError) {
    match error {
        ProviderError::Unavailable(why) => assert!(why.contains("no longer wanted"), "{why}"),
        error => panic!("{error}"),
    }
}

/// Several models are asked for, loaded, unloaded and reloaded at random by several threads. The budget holds at every
/// moment, pinned models stay, everyone is answered as by a model alone.
#[test]
fn random_traffic_stays_within_the_budget() {
    for seed in 0..2 {
        let mut specs: Vec<ModelSpec> = (0..6).map(|i| of_bytes(&format!("m{i}"), i as u64, i * 4)).collect();
        specs[1].is_pinned = true;
        let sizes: Vec<u64> = specs.iter().map(bytes_of).collect();
        let answers: Vec<String> = specs.iter().map(expected).collect();
        assert!(sizes.is_sorted() && answers.iter().all(|a| !a.is_empty()));
        // The largest one and the pinned one fit, and not much more.
        let budget = sizes[5] + sizes[1] + sizes[0] / 2;
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        let config = ModelsConfig {
            drain_after: Duration::from_millis(20),
            listener: Some(Arc::new(move |name, event| {
                heard.lock().unwrap().push((name.to_owned(), event.clone()));
            })),
            ..ModelsConfig::new(budget)
        };
        let models = Models::new(specs.clone(), config).expect("a catalogue");
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (models, answers) = (&models, &answers);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed * 100 + thread);
                    for _ in 0..25 {
                        let i = rng.below(6);
                        let name = format!("m{i}");
                        match rng.below(10) {
                            0 => change(models, &name, ModelChange::Unload).expect("it may go"),
                            1 => change(models, &name, ModelChange::Load(None)).expect("it may come"),
                            2 => {
                                let wish = Some(KeepAlive::For(Duration::ZERO));
                                match block_on(models.hold(Some(&name), wish)) {
                                    Ok(held) => {
                                        let held = held.expect("it is held");
                                        assert_eq!(ask(&*held, &name).as_ref(), Ok(&answers[i]));
                                    }
                                    Err(error) => called_off(&error),
                                }
                            }
                            _ => match ask(models, &name) {
                                Ok(answer) => assert_eq!(answer, answers[i], "{name}"),
                                Err(error) => called_off(&error),
                            },
                        }
                        let (used, peak) = models.memory();
                        assert!(used <= budget && peak <= budget, "{used} and {peak} of {budget}");
                    }
                });
            }
        });
        models.settle();
        let entries = models.entries();
        assert_eq!(entries[1].evictions_total, 0, "a pinned model is never evicted");
        assert!(entries.iter().map(|e| e.evictions_total).sum::<u64>() > 0, "there was need to");
        assert_eq!(entries.iter().map(|e| e.in_use).sum::<usize>(), 0);
        let set_aside: u64 = entries.iter().map(|e| e.memory_bytes).sum();
        assert_eq!(models.memory().0, set_aside, "memory is counted for who is there");
        let events = events.lock().unwrap();
        let count = |f: &dyn Fn(&ModelEvent) -> bool| events.iter().filter(|(_, e)| f(e)).count() as u64;
        let loads: u64 = entries.iter().map(|e| e.loads_total).sum();
        let unloads: u64 = entries.iter().map(|e| e.unloads_total).sum();
        assert_eq!(count(&|e| matches!(e, ModelEvent::Loaded { .. })), loads);
        assert_eq!(count(&|e| *e == ModelEvent::Unloaded), unloads);
        let loaded = entries.iter().filter(|e| e.state == ModelState::Loaded).count() as u64;
        assert_eq!(loads - unloads, loaded, "who came and did not go is there");
    }
}

/// The bytes that are set aside are those that the engine then has.
#[test]
fn what_is_set_aside_is_what_is_held() {
    for arch in Arch::ALL {
        let spec = spec("m", Source::Bytes(TinySpec::new(arch).bytes()));
        let models = Models::new(vec![spec], ModelsConfig::new(1 << 40)).expect("a catalogue");
        ask(&models, "m").expect("an answer");
        let entry = entry(&models, "m");
        let held = entry.status.memory_bytes;
        assert!(held > 0 && held <= entry.memory_bytes, "{held} of {}", entry.memory_bytes);
    }
}

/// Unloading at any moment cuts no answer; the memory is free after the last.
#[test]
fn an_unload_cuts_nothing() {
    let specs = vec![of_bytes("a", 1, 2)];
    let alone = {
        let named = LoadOptions { name: Some("a".into()), ..options() };
        let engine = Engine::load_with(&specs[0].source, &named, &mut |_, _| {}).expect("a valid model");
        let stream = block_on(engine.provider().start(request("a", 100))).expect("it starts");
        block_on_stream(stream).filter_map(|d| text(d.expect("no error"))).collect::<String>()
    };
    let models = Models::new(specs, ModelsConfig::new(1 << 40)).expect("a catalogue");
    let mut rng = Rng::new(7);
    for round in 0..20 {
        let stop_at = rng.below(60);
        let stream = block_on(models.start(request("a", 100))).expect("it starts");
        let mut answer = String::new();
        for (i, delta) in block_on_stream(stream).enumerate() {
            if i == stop_at {
                change(&models, "a", ModelChange::Unload).expect("it may go");
                assert!(!is_loaded(&models, "a"), "new requests do not find it");
                assert!(models.memory().0 > 0, "its memory is in use");
            }
            answer.extend(text(delta.expect("nothing is cut")));
        }
        assert_eq!(answer, alone, "round {round}");
        models.settle();
        let gone = !is_loaded(&models, "a");
        assert_eq!(models.memory().0 == 0, gone, "its memory is free as soon as it is gone");
    }
}

fn text(delta: ingle_chat::Delta) -> Option<String> {
    match delta.event {
        Event::Text { text, .. } => Some(text),
        _ => None,
    }
}

/// New files that cannot be used leave the old model answering, whatever is wrong with them.
#[test]
fn a_failed_reload_keeps_the_old_model() {
    let (old, new) = (tiny(1, 2), tiny(2, 2));
    let file = Replaceable::new(&old.bytes());
    let spec = spec("a", Source::File(file.path().into()));
    let before = expected(&spec);
    let needs = bytes_of(&spec);
    // Room for two of them.
    let config = ModelsConfig { retry_after: Duration::from_secs(60), ..ModelsConfig::new(needs * 5 / 2) };
    let models = Models::new(vec![spec.clone()], config).expect("a catalogue");
    assert_eq!(ask(&models, "a"), Ok(before.clone()));
    let fingerprint = entry(&models, "a").info.fingerprint;
    let truncated = &new.bytes()[..new.bytes().len() / 2];
    let wide = tiny(3, 40).bytes();
    for (bytes, why) in
        [(&b"nonsense"[..], "GGUF"), (truncated, "model `a`"), (&wide[..], "can never be loaded")]
    {
        file.put(bytes);
        let error = change(&models, "a", ModelChange::Reload).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains(file.path().to_str().unwrap()), "clients see no paths: {error}");
        assert_eq!(ask(&models, "a"), Ok(before.clone()), "the old one answers");
        assert_eq!(entry(&models, "a").info.fingerprint, fingerprint);
        assert!(models.memory().1 <= needs * 5 / 2);
    }
    assert_eq!(entry(&models, "a").failures_total, 3);
    file.put(&new.bytes());
    change(&models, "a", ModelChange::Reload).expect("a valid file");
    assert_eq!(ask(&models, "a"), Ok(expected(&spec)));
    assert_ne!(entry(&models, "a").info.fingerprint, fingerprint);
}

/// Requests for a model that cannot be loaded get the reason, and it is not tried again for each of them. Others go on.
#[test]
fn a_failed_load_is_remembered() {
    let file = Replaceable::new(&tiny(1, 1).bytes());
    let specs = vec![of_bytes("good", 5, 1), spec("bad", Source::File(file.path().into()))];
    let good = expected(&specs[0]);
    let config = ModelsConfig { retry_after: Duration::from_secs(60), ..ModelsConfig::new(1 << 40) };
    let models = Models::new(specs, config).expect("a catalogue");
    file.put(b"GGUFnonsense");
    for _ in 0..5 {
        let error = ask(&models, "bad").expect_err("it cannot be loaded");
        assert!(matches!(&error, ProviderError::Unusable(why) if why.contains("model `bad`")), "{error}");
    }
    assert_eq!(entry(&models, "bad").failures_total, 1, "it was tried once");
    assert!(matches!(entry(&models, "bad").state, ModelState::Failed(_)));
    assert_eq!(ask(&models, "good"), Ok(good));
    // An operator who has mended it need not wait.
    file.put(&tiny(1, 1).bytes());
    change(&models, "bad", ModelChange::Load(None)).expect("it is tried");
    until("the mended model", || is_loaded(&models, "bad"));
    ask(&models, "bad").expect("an answer");
}

/// What can never fit is refused by name, with the numbers: at once where it must be there, when it is asked for where not.
#[test]
fn what_never_fits_is_refused_with_the_numbers() {
    let (small, large) = (of_bytes("small", 1, 1), of_bytes("large", 2, 30));
    let budget = bytes_of(&large) - 1;
    let config = ModelsConfig::new(budget);
    let error = Models::new(vec![large.clone()], config.clone()).err().expect("too large").to_string();
    assert!(error.contains("`large`") && error.contains("the memory budget is"), "{error}");
    let large = ModelSpec { is_optional: true, ..large };
    let models = Models::new(vec![small.clone(), large.clone()], config.clone()).expect("it is optional");
    let error = ask(&models, "large").expect_err("too large");
    assert!(
        matches!(&error, ProviderError::InvalidRequest { param: Some(p), .. } if p == "model"),
        "{error}"
    );
    ask(&models, "small").expect("others are not in its way");
    // Pinned models leave no room for one that would fit without them.
    let pinned = ModelSpec { is_pinned: true, ..small.clone() };
    let config = ModelsConfig::new(bytes_of(&large) + bytes_of(&small) - 1);
    let models = Models::new(vec![pinned, large], config).expect("each fits alone");
    ask(&models, "small").expect("an answer");
    let error = ask(&models, "large").expect_err("the pinned one stays").to_string();
    assert!(error.contains("of which pinned models have"), "{error}");
    let twice = [("a", 1), ("b", 2)].map(|(n, s)| ModelSpec { is_pinned: true, ..of_bytes(n, s, 1) });
    let error =
        Models::new(twice.into(), ModelsConfig::new(bytes_of(&small) * 3 / 2)).err().expect("too much");
    assert!(error.to_string().contains("the pinned models need"), "{error}");
}

#[test]
fn models_go_when_nobody_asks() {
    let minute = KeepAlive::For(Duration::from_secs(60));
    let mut specs: Vec<ModelSpec> = (0..4).map(|i| of_bytes(&format!("m{i}"), i, 1)).collect();
    specs[1].keep_alive = Some(KeepAlive::Always);
    specs[2].is_pinned = true;
    specs[3].keep_alive = Some(KeepAlive::For(Duration::from_millis(30)));
    let config = ModelsConfig { keep_alive: minute, ..ModelsConfig::new(1 << 40) };
    let models = Models::new(specs, config).expect("a catalogue");
    for i in 0..4 {
        ask(&models, &format!("m{i}")).expect("an answer");
    }
    // By itself, on the real clock.
    until("the end of m3", || !is_loaded(&models, "m3"));
    models.expire(Duration::from_secs(50));
    assert!(is_loaded(&models, "m0"));
    models.expire(Duration::from_secs(61));
    let loaded = |models: &Models| [0, 1, 2].map(|i| is_loaded(models, &format!("m{i}")));
    assert_eq!(loaded(&models), [false, true, true]);
    models.expire(Duration::from_secs(1_000_000));
    assert_eq!(loaded(&models), [false, true, true], "kept for ever, and pinned");
    // A request's own wish holds.
    let wish = |seconds: f64| Some(KeepAlive::from_seconds(seconds));
    drop(block_on(models.hold(Some("m0"), wish(-1.0))).expect("it comes"));
    models.expire(Duration::from_secs(1_000_000));
    assert!(is_loaded(&models, "m0"));
    let held = block_on(models.hold(Some("m0"), wish(0.0))).expect("it is there");
    models.expire(Duration::from_secs(1_000_000));
    assert!(is_loaded(&models, "m0"), "it is in use");
    drop(held);
    until("the end of m0", || !is_loaded(&models, "m0"));
    models.settle();
    assert_eq!(entry(&models, "m0").unloads_total, 2);
    assert_eq!(entry(&models, "m0").evictions_total, 0);
}

/// Who asks for a model that is not there waits, comes back, or is refused, as configured.
#[test]
fn requests_for_missing_models() {
    let config = |on_missing| ModelsConfig { on_missing, ..ModelsConfig::new(1 << 40) };
    let models = |config| Models::new(vec![of_bytes("a", 1, 1)], config).expect("a catalogue");
    let never = models(config(OnMissing::Never));
    let error = ask(&never, "a").expect_err("only operators load").to_string();
    assert!(error.contains("/models/load"), "{error}");
    change(&never, "a", ModelChange::Load(None)).expect("an operator does");
    until("the model", || is_loaded(&never, "a"));
    ask(&never, "a").expect("it is there");

    let refuse = models(config(OnMissing::Refuse));
    let error = ask(&refuse, "a").expect_err("it is loading");
    assert!(matches!(&error, ProviderError::Unavailable(why) if why.contains("is loading")), "{error}");
    until("the model", || is_loaded(&refuse, "a"));
    ask(&refuse, "a").expect("it is there");

    let nobody = models(ModelsConfig { waiting_max: 0, ..config(OnMissing::Wait) });
    assert!(matches!(ask(&nobody, "a"), Err(ProviderError::Overloaded { .. })));
    assert!(matches!(ask(&nobody, "b"), Err(ProviderError::UnknownModel { .. })));
}

/// A model that is always busy makes way for another after a while, and nobody's answer is cut for it.
#[test]
fn busy_models_make_way() {
    let specs = vec![of_bytes("a", 1, 6), of_bytes("b", 2, 6)];
    let answers: Vec<String> = specs.iter().map(expected).collect();
    let config = ModelsConfig {
        drain_after: Duration::from_millis(50),
        ..ModelsConfig::new(bytes_of(&specs[0]) * 3 / 2)
    };
    let models = Models::new(specs, config).expect("a catalogue");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    assert_eq!(ask(&models, "a").as_ref(), Ok(&answers[0]));
                }
            });
        }
        until("a", || is_loaded(&models, "a"));
        for _ in 0..5 {
            assert_eq!(ask(&models, "b").as_ref(), Ok(&answers[1]));
        }
        done.store(true, SeqCst);
    });
    models.settle();
    assert!(models.memory().1 <= models.memory_budget().expect("there is one"));
}

/// A request that waits too long for memory is told so, and who takes it goes on.
#[test]
fn patience_ends() {
    let specs = vec![of_bytes("a", 1, 6), of_bytes("b", 2, 6)];
    let config = ModelsConfig {
        wait_max: Duration::from_secs(2),
        drain_after: Duration::from_secs(60),
        ..ModelsConfig::new(bytes_of(&specs[0]) * 3 / 2)
    };
    let models = Models::new(specs, config).expect("a catalogue");
    let held = block_on(models.hold(Some("a"), None)).expect("it comes");
    let error = ask(&models, "b").expect_err("a is in use").to_string();
    assert!(error.contains("`b`"), "{error}");
    assert!(is_loaded(&models, "a"), "its users are not disturbed");
    drop(held);
    models.settle();
    ask(&models, "b").expect("there is room now");
}

/// Reloads under load: every answer is one model's from its beginning to its end, and nobody sees a failure.
#[test]
fn answers_are_of_one_model_whatever_is_reloaded() {
    let versions = [tiny(1, 2), tiny(2, 2)].map(|spec| spec.bytes());
    let file = Replaceable::new(&versions[0]);
    let spec = spec("a", Source::File(file.path().into()));
    let answers = [0, 1].map(|i| {
        file.put(&versions[i]);
        expected(&spec)
    });
    assert_ne!(answers[0], answers[1]);
    let needs = bytes_of(&spec);
    // Both fit beside each other; or only one, which is then drained first.
    for budget in [needs * 5 / 2, needs * 3 / 2] {
        let models = Models::new(vec![spec.clone()], ModelsConfig::new(budget)).expect("a catalogue");
        let (done, n_asked) = (AtomicBool::new(false), Mutex::new([0; 2]));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        let answer = ask(&models, "a").expect("nobody sees a switch");
                        let i = answers.iter().position(|a| *a == answer).expect("an answer of one of them");
                        n_asked.lock().unwrap()[i] += 1;
                    }
                });
            }
            for round in 0..20 {
                file.put(&versions[round % 2]);
                change(&models, "a", ModelChange::Reload).expect("a valid file");
            }
            until("answers of both", || n_asked.lock().unwrap().iter().all(|n| *n > 0));
            done.store(true, SeqCst);
        });
        models.settle();
        assert!(models.memory().1 <= budget);
        assert_eq!(entry(&models, "a").failures_total, 0);
    }
}

/// What was asked to go is not what nobody asked for: logs tell them apart.
#[test]
fn logs_say_why() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let listener = move |name: &str, event: &ModelEvent| {
        if let ModelEvent::Unloading(why) = event {
            heard.lock().unwrap().push((name.to_owned(), *why));
        }
    };
    let specs = vec![of_bytes("a", 1, 2), of_bytes("b", 2, 2)];
    let config =
        ModelsConfig { listener: Some(Arc::new(listener)), ..ModelsConfig::new(bytes_of(&specs[0]) * 3 / 2) };
    let models = Models::new(specs, config).expect("a catalogue");
    ask(&models, "a").expect("an answer");
    ask(&models, "b").expect("an answer");
    change(&models, "b", ModelChange::Unload).expect("it may go");
    models.settle();
    let expected = [("a".to_owned(), Unloaded::Evicted), ("b".to_owned(), Unloaded::Asked)];
    assert_eq!(*events.lock().unwrap(), expected);
}

/// Two models that are always busy both get a share of the processor. How exactly by their weights is tested where turns
/// are handed out; on a machine that others use, too, a thread may be late for its turn, and here it may be so for long.
#[test]
fn busy_models_share_the_processor_by_weight() {
    /// Tokens that each of them gets before it is counted what both got.
    const N_EACH: u64 = 500;
    let shares = |weights: [u32; 2]| -> [u64; 2] {
        let specs = [0, 1].map(|i| {
            let mut spec = of_bytes(["a", "b"][i], 9, 20);
            spec.options.weight = Some(weights[i]);
            spec
        });
        let models = Models::new(specs.into(), ModelsConfig::new(1 << 40)).expect("a catalogue");
        for name in ["a", "b"] {
            ask(&models, name).expect("an answer");
        }
        let count = || ["a", "b"].map(|name| entry(&models, name).status.generated_tokens_total);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Each model always has a request to go on with.
            for name in ["a", "a", "b", "b"] {
                let (models, done) = (&models, &done);
                scope.spawn(move || {
                    while !done.load(SeqCst) {
                        ask(models, name).expect("an answer");
                    }
                });
            }
            // Until both are at it.
            let first = count();
            until("an answer of each", || [0, 1].iter().all(|&i| count()[i] > first[i]));
            let before = count();
            let so_far = || [0, 1].map(|i| count()[i] - before[i]);
            until("the share of each", || so_far().iter().all(|n| *n >= N_EACH));
            let shares = so_far();
            done.store(true, SeqCst);
            shares
        })
    };
    let (equal, weighted) = (shares([1, 1]), shares([4, 1]));
    println!("tokens with equal weights: {equal:?}; with weights 4 and 1: {weighted:?}");
    let ratio = |[a, b]: [u64; 2]| a as f64 / b as f64;
    assert!((0.2..5.0).contains(&ratio(equal)), "{equal:?}");
    assert!((0.4..40.0).contains(&ratio(weighted)), "{weighted:?}");
}
