//! Adapters of a model that answers: loaded, chosen, unloaded, and who may read which file.

use std::path::Path;
use std::sync::Arc;

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    AdapterName, AdapterWish, Echo, EmbedInput, EmbedRequest, Event, LoadAdapter, Principal, Prompt,
    Provider, ProviderError, Request, Sampling, Task,
};
use ingle_runtime::{AdapterSource, Engine, LoadOptions, ModelSpec, Models, ModelsConfig, Source};
use ingle_step::TokenId;
use ingle_testkit::lora::TinyLora;
use ingle_testkit::tiny::{Arch, TinySpec};
use tempfile::TempDir;

fn base() -> TinySpec {
    TinySpec::new(Arch::Llama)
}

/// A folder with the adapters `a.gguf`, `b.gguf` and, as PEFT saves it, `c`, which is `a` again.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for (name, seed) in [("a", 1), ("b", 2)] {
        let bytes = TinyLora::new(seed).gguf(&base()).to_bytes();
        std::fs::write(folder.path().join(format!("{name}.gguf")), bytes).expect("written");
    }
    let peft = TinyLora::new(1).peft(&base());
    let c = folder.path().join("c");
    std::fs::create_dir(&c).expect("made");
    std::fs::write(c.join("adapter_config.json"), peft.config).expect("written");
    std::fs::write(c.join("adapter_model.safetensors"), peft.tensors).expect("written");
    folder
}

fn start(options: LoadOptions) -> Result<Engine, String> {
    let options = LoadOptions { name: Some("base".into()), ..options };
    Engine::load_with(&Source::Bytes(base().bytes()), &options, &mut |_, _| {}).map_err(|e| e.to_string())
}

fn source(path: &Path, scale: f32) -> AdapterSource {
    AdapterSource { name: None, path: path.to_owned(), scale }
}

fn request() -> Request {
    let tokens = (0..20).map(|i| TokenId(i * 11 % 256)).collect();
    let task = Task::Completion { prompt: Prompt::Tokens(tokens), echo: Echo::No };
    Request {
        max_tokens: Some(8),
        ignore_eos: true,
        logprobs: Some(0),
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        ..Request::new("test", Principal::local(), task)
    }
}

/// Each token's log-probability, in bits.
fn answer(provider: &dyn Provider, request: Request) -> Result<Vec<u32>, ProviderError> {
    let mut out = Vec::new();
    for delta in block_on_stream(block_on(provider.start(request))?) {
        if let Event::Text { logprobs, .. } = delta?.event {
            out.extend(logprobs.iter().filter_map(|l| l.logprob).map(f32::to_bits));
        }
    }
    assert_eq!(out.len(), 8);
    Ok(out)
}

fn by_name(provider: &dyn Provider, model: &str) -> Result<Vec<u32>, ProviderError> {
    answer(provider, Request { model: Some(model.into()), ..request() })
}

fn wish(number: u32, scale: f32) -> AdapterWish {
    AdapterWish { adapter: AdapterName::Number(number), scale }
}

fn load_wish(name: &str, path: impl Into<String>) -> LoadAdapter {
    LoadAdapter { model: None, name: name.into(), path: path.into(), replace: false }
}

#[test]
fn requests_choose_adapters() {
    let folder = folder();
    let plain = start(LoadOptions::default()).expect("a model").provider();
    let sources = vec![
        source(&folder.path().join("a.gguf"), 0.0),
        source(&folder.path().join("b.gguf"), 0.0),
        source(&folder.path().join("c"), 0.0),
    ];
    let engine = start(LoadOptions { adapters: sources, ..LoadOptions::default() }).expect("a model");
    let provider = engine.provider();
    let expected = answer(&*plain, request()).expect("an answer");
    assert_eq!(by_name(&*provider, "base").expect("an answer"), expected);
    let a = by_name(&*provider, "a").expect("an answer");
    let b = by_name(&*provider, "base:b").expect("an answer");
    assert!(a != expected && b != expected && a != b);
    assert_eq!(by_name(&*provider, "c").expect("an answer"), a, "both formats");
    let chosen =
        |wishes: &[AdapterWish]| answer(&*provider, Request { adapters: Some(wishes.to_vec()), ..request() });
    assert_eq!(chosen(&[wish(0, 1.0), wish(1, 0.0)]).expect("an answer"), a);
    let both = chosen(&[wish(0, 1.0), wish(1, 0.5)]).expect("an answer");
    assert!(both != a);
    assert_eq!(chosen(&[wish(1, 0.5), wish(0, 1.0)]).expect("an answer"), both, "the order does not matter");
    let unknown = by_name(&*provider, "d").expect_err("refused");
    assert!(matches!(unknown, ProviderError::UnknownModel { .. }), "{unknown}");
    for (wishes, text) in [
        (vec![wish(9, 1.0)], "no adapter 9"),
        (vec![wish(0, 1.0), wish(0, 2.0)], "twice"),
        (vec![wish(0, f32::INFINITY)], "scale"),
    ] {
        let error = chosen(&wishes).expect_err("refused").to_string();
        assert!(error.contains(text), "{error}");
    }

    // What applies to all, until that is changed.
    provider.set_adapters(None, &[wish(0, 1.0)]).expect("it is there");
    assert_eq!(answer(&*provider, request()).expect("an answer"), a);
    assert_eq!(by_name(&*provider, "base:b").expect("an answer"), b);
    assert_eq!(chosen(&[]).expect("an answer"), expected);
    assert!(provider.set_adapters(None, &[wish(7, 1.0)]).is_err());
    assert_eq!(answer(&*provider, request()).expect("an answer"), a, "nothing has changed");
    provider.set_adapters(None, &[]).expect("none");
    assert_eq!(answer(&*provider, request()).expect("an answer"), expected);
}

#[test]
fn texts_are_embedded_with_adapters() {
    let folder = folder();
    let sources = vec![source(&folder.path().join("a.gguf"), 0.0)];
    let engine = start(LoadOptions { adapters: sources, ..LoadOptions::default() }).expect("a model");
    let vector = |model: &str| {
        let input = EmbedInput { name: "input".into(), prompt: Prompt::Text("once upon a time".into()) };
        let mut request = EmbedRequest::new("test", Principal::local(), vec![input]);
        request.model = Some(model.into());
        let vectors = block_on(engine.provider().embed(request)).expect("admitted");
        block_on(vectors).expect("a vector").items.remove(0).vector
    };
    assert!(vector("base") != vector("a"));
}

#[test]
fn fingerprints_say_which_adapters() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let with = |sources: Vec<AdapterSource>| {
        start(LoadOptions { adapters: sources, ..LoadOptions::default() }).expect("a model").provider()
    };
    let provider = with(vec![source(&path("a.gguf"), 0.0), source(&path("b.gguf"), 0.0)]);
    let models = provider.models();
    let ids: Vec<&str> = models.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, ["base", "a", "b"]);
    assert_eq!(models[0].parent, None);
    assert_eq!(models[1].parent.as_deref(), Some("base"));
    let of = |provider: &Arc<dyn Provider>, model: usize, wished: Option<&[AdapterWish]>| {
        provider.adapters_of(&provider.models()[model], wished).expect("they are there")
    };
    let (adapters, plain) = of(&provider, 0, None);
    assert_eq!((adapters, &plain), (Some(Vec::new()), &models[0].fingerprint));
    let (adapters, a) = of(&provider, 1, None);
    assert_eq!(adapters, Some(vec![wish(0, 1.0)]));
    assert!(a == models[1].fingerprint && a.starts_with(&plain) && a.contains("lora_"), "{a}");
    assert_eq!(of(&provider, 0, Some(&[wish(0, 1.0)])).1, a);
    assert_ne!(of(&provider, 0, Some(&[wish(0, 0.5)])).1, a);
    let both = of(&provider, 0, Some(&[wish(0, 1.0), wish(1, 1.0)])).1;
    assert!(both != a && both != models[2].fingerprint);
    // Another process, another order, another format: the same adapters.
    let other = with(vec![source(&path("b.gguf"), 1.0), source(&path("c"), 1.0)]);
    assert_eq!(of(&other, 0, None).1, both);
    assert!(provider.adapters_of(&models[1], Some(&[wish(1, 1.0)])).is_err());
}

#[test]
fn adapters_come_and_go_while_requests_run() {
    let folder = folder();
    let options = LoadOptions {
        adapters: vec![source(&folder.path().join("a.gguf"), 0.0)],
        adapter_dir: Some(folder.path().to_owned()),
        ..LoadOptions::default()
    };
    let engine = start(options).expect("a model");
    let provider = engine.provider();
    let a = by_name(&*provider, "a").expect("an answer");
    let expected = answer(&*provider, request()).expect("an answer");
    let weights = provider.status().memory_bytes;
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4)
            .map(|i| {
                let (provider, a, expected) = (&provider, &a, &expected);
                scope.spawn(move || {
                    for _ in 0..30 {
                        match i % 2 {
                            0 => assert_eq!(&answer(&**provider, request()).expect("an answer"), expected),
                            _ => assert_eq!(&by_name(&**provider, "a").expect("an answer"), a),
                        }
                        // Whoever is admitted is answered with the whole adapter; who comes too late is told.
                        match by_name(&**provider, "other") {
                            Ok(found) => assert!(found != *a && found != *expected),
                            Err(error) => {
                                assert!(matches!(error, ProviderError::UnknownModel { .. }), "{error}")
                            }
                        }
                    }
                })
            })
            .collect();
        let mut n_loads = 0;
        while n_loads < 20 || !asked.iter().all(|thread| thread.is_finished()) {
            let info = provider.load_adapter(&load_wish("other", "b.gguf")).expect("loaded");
            assert_eq!(info.rank, 4);
            let gone = provider.unload_adapter(None, &AdapterName::Name("other".into())).expect("unloaded");
            assert_eq!(gone.number, info.number);
            n_loads += 1;
        }
        for thread in asked {
            thread.join().expect("it ends well");
        }
    });
    let patience = std::time::Instant::now();
    while provider.status().memory_bytes != weights {
        assert!(patience.elapsed().as_secs() < 20, "memory of adapters is never free");
        std::thread::yield_now();
    }
    assert!(by_name(&*provider, "other").is_err());
}

#[test]
fn files_that_may_be_loaded() {
    let (folder, outside) = (folder(), folder());
    let named = outside.path().join("a.gguf");
    let text = |path: &Path| path.display().to_string();
    let open = start(LoadOptions {
        adapters: vec![source(&named, 0.0)],
        adapter_dir: Some(folder.path().to_owned()),
        ..LoadOptions::default()
    })
    .expect("a model")
    .provider();
    let closed = start(LoadOptions::default()).expect("a model").provider();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path().join("b.gguf"), folder.path().join("link.gguf"))
        .expect("linked");
    let mut n = 0;
    let mut check = |provider: &Arc<dyn Provider>, path: String, expected: Result<(), &str>| {
        n += 1;
        match (provider.load_adapter(&load_wish(&format!("n{n}"), path.clone())), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err("forbidden")) => {
                assert!(matches!(error, ProviderError::Forbidden { .. }), "{path}: {error}")
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{path}: {error}"),
            (found, _) => panic!("{path}: {found:?}"),
        }
    };
    check(&open, "b.gguf".into(), Ok(()));
    check(&open, "c".into(), Ok(()));
    check(&open, "./c/adapter_model.safetensors".into(), Ok(()));
    check(&open, text(&folder.path().join("a.gguf")), Ok(()));
    check(&open, text(&named), Ok(()));
    check(&open, "nothing.gguf".into(), Err("no such file"));
    for path in [
        text(&outside.path().join("b.gguf")),
        format!("../{}/b.gguf", outside.path().file_name().expect("a name").to_string_lossy()),
        format!("c/../../{}/b.gguf", outside.path().file_name().expect("a name").to_string_lossy()),
        "/etc/passwd".into(),
        "/no/such/file".into(),
        "../nothing".into(),
        ".".into(),
        "link.gguf".into(),
    ] {
        check(&open, path, Err("forbidden"));
    }
    check(&closed, text(&folder.path().join("a.gguf")), Err("forbidden"));

    let load = |name: &str, replace| {
        open.load_adapter(&LoadAdapter { replace, ..load_wish(name, "b.gguf") }).map_err(|e| e.to_string())
    };
    let first = load("x", false).expect("loaded");
    assert!(load("x", false).expect_err("refused").contains("there is an adapter `x` already"));
    assert_ne!(load("x", true).expect("replaced").number, first.number);
    assert!(load("base", false).expect_err("refused").contains("the model's own name"));
    assert!(load("", false).expect_err("refused").contains("bytes"));
    assert!(load("a\nb", false).expect_err("refused").contains("control"));
    std::fs::write(folder.path().join("bad.gguf"), b"GGUF").expect("written");
    let bad = open.load_adapter(&load_wish("bad", "bad.gguf")).expect_err("refused");
    assert!(matches!(bad, ProviderError::InvalidRequest { .. }), "{bad}");
    let other = LoadAdapter { model: Some("other".into()), ..load_wish("y", "b.gguf") };
    assert!(matches!(open.load_adapter(&other), Err(ProviderError::UnknownModel { .. })));
}

#[test]
fn a_model_with_a_bad_adapter_is_not_loaded() {
    let folder = folder();
    let check = |path: &Path, expected: &str| {
        let options = LoadOptions { adapters: vec![source(path, 1.0)], ..LoadOptions::default() };
        let error = start(options).err().expect("refused");
        assert!(error.contains(expected), "{error}");
    };
    check(&folder.path().join("no.gguf"), "no.gguf");
    let other = folder.path().join("other.gguf");
    std::fs::write(&other, TinyLora::new(1).gguf(&TinySpec::new(Arch::Qwen2)).to_bytes()).expect("written");
    check(&other, "for architecture `qwen2`, the model is `llama`");
    let twice = vec![source(&folder.path().join("a.gguf"), 1.0); 2];
    let error = start(LoadOptions { adapters: twice, ..LoadOptions::default() }).err().expect("refused");
    assert!(error.contains("already"), "{error}");
    let bytes = Source::Bytes(TinyLora::new(1).gguf(&base()).to_bytes());
    let error = Engine::load_with(&bytes, &LoadOptions::default(), &mut |_, _| {}).err().expect("refused");
    assert!(error.to_string().contains("--lora"), "{error}");
    let no_folder = LoadOptions { adapter_dir: Some(folder.path().join("no")), ..LoadOptions::default() };
    assert!(start(no_folder).is_err());
}

/// Under a budget of several models, adapters that come with a model are among its bytes, those that are loaded later count as
/// long as anybody has them, and one that does not fit is refused by name.
#[test]
fn adapters_count_in_the_budget() {
    let folder = folder();
    let models = |adapters: Vec<AdapterSource>, budget: u64| {
        let options = LoadOptions {
            n_ctx: Some(64),
            kv_tokens: Some(128),
            max_running_seqs: Some(4),
            step_token_budget: Some(16),
            kv_swap_bytes: Some(0),
            adapters,
            adapter_dir: Some(folder.path().to_owned()),
            ..LoadOptions::default()
        };
        let source = Source::Bytes(base().bytes());
        let spec = ModelSpec { name: "base".into(), source, options, ..ModelSpec::default() };
        let models = Models::new(vec![spec], ModelsConfig::new(budget)).expect("a catalogue");
        by_name(&models, "base").expect("an answer");
        models
    };
    let plain = models(Vec::new(), 1 << 40).memory().0;
    let with_a = models(vec![source(&folder.path().join("a.gguf"), 0.0)], 1 << 40);
    let needed = with_a.memory().0 - plain;
    let held = with_a.adapters(None).expect("it is loaded")[0].memory_bytes;
    assert!(needed > held && held > 0, "{needed} to load it, {held} afterwards");
    assert!(with_a.status().memory_bytes <= with_a.memory().0);

    // Room for one, and for reading it.
    let models = models(Vec::new(), plain + needed);
    models.load_adapter(&load_wish("x", "b.gguf")).expect("it fits");
    assert_eq!(models.memory(), (plain + held, plain + needed), "what reading took is given back");
    let error = models.load_adapter(&load_wish("y", "a.gguf")).expect_err("it does not");
    assert!(matches!(error, ProviderError::Busy(_)), "{error}");
    for part in ["adapter `y` needs", "--memory-budget"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(models.memory().0, plain + held);
    // Who runs with it still has it.
    let long = Request { model: Some("x".into()), max_tokens: Some(40), ..request() };
    let stream = block_on(models.start(long)).expect("it starts");
    models.unload_adapter(None, &AdapterName::Name("x".into())).expect("it may go");
    assert_eq!(block_on_stream(stream).filter(Result::is_err).count(), 0);
    let patience = std::time::Instant::now();
    while models.memory().0 != plain {
        assert!(patience.elapsed().as_secs() < 20, "memory of adapters is never free");
        std::thread::yield_now();
    }
    models.load_adapter(&load_wish("y", "a.gguf")).expect("it fits now");
}
