//! Adapters of requests: who has which, what is cached for whom, and how long they live.

use std::sync::{Arc, Mutex};

use ingle_chat::{AdapterName, AdapterWish, Principal, Provider, ProviderError, Request};
use ingle_engine::adapters::{AdapterDirectory, AdapterSet};
use ingle_engine::{Engine, EngineConfig};
use ingle_step::{AdapterId, AdapterUse, Executor};

use crate::client::{ask, completion, executor, frontend};

/// A prompt of several blocks.
const PROMPT: &str = "the same beginning for everyone, however it goes on";

/// Two adapters, `a` and `b`.
#[derive(Default)]
struct Two {
    /// How many hold `a`: this and its leases.
    a: Mutex<Arc<()>>,
}

impl AdapterDirectory for Two {
    fn named(&self, model: &str) -> Option<u32> {
        ["a", "b"].iter().position(|name| *name == model).map(|number| number as u32)
    }

    fn set(&self, wished: Option<&[AdapterWish]>) -> Result<AdapterSet, ProviderError> {
        let wished = wished.unwrap_or_default();
        let number = |name: &AdapterName| match name {
            AdapterName::Number(number) => *number,
            AdapterName::Name(name) => self.named(name).expect("a test asks for what there is"),
        };
        let uses: Vec<AdapterUse> = wished
            .iter()
            .map(|wish| AdapterUse { adapter: AdapterId(number(&wish.adapter).into()), scale: wish.scale })
            .collect();
        let key = uses.iter().map(|used| format!("{}@{};", used.adapter.0, used.scale)).collect();
        Ok(AdapterSet { uses, key, lease: Some(self.a.lock().expect("not poisoned").clone()) })
    }
}

fn start(directory: &Arc<Two>) -> Engine {
    let executor = executor();
    let mut frontend = frontend(executor.info().n_ctx);
    frontend.adapter_directory = Some(directory.clone());
    Engine::start(Box::new(executor), frontend, EngineConfig::default()).expect("a thread")
}

fn with(adapters: &[(u32, f32)]) -> Request {
    let wish = |&(number, scale)| AdapterWish { adapter: AdapterName::Number(number), scale };
    Request { adapters: Some(adapters.iter().map(wish).collect()), ..completion(PROMPT) }
}

/// How many tokens of the prompt came out of the cache. The executor panics if they were computed with other adapters.
fn cached(engine: &Engine, request: Request) -> u64 {
    ask(engine, request).expect("it is answered").usage.cached_tokens
}

#[test]
fn what_is_cached_belongs_to_its_adapters() {
    let engine = start(&Arc::default());
    let named = |model: &str| Request { model: Some(model.into()), ..completion(PROMPT) };
    // The first of each kind computes all; the second, under whichever name, finds it.
    for (first, second) in [
        (completion(PROMPT), named("scripted")),
        (with(&[(0, 1.0)]), named("a")),
        (named("b"), with(&[(1, 1.0)])),
        (with(&[(0, 0.5)]), with(&[(0, 0.5)])),
        (with(&[(0, 1.0), (1, 1.0)]), with(&[(0, 1.0), (1, 1.0)])),
    ] {
        assert_eq!(cached(&engine, first), 0);
        assert!(cached(&engine, second) >= 40);
    }
    // A flush forgets all of a tenant's.
    engine.flush_cache(&Principal::local()).expect("it can");
    for request in [completion(PROMPT), named("a"), with(&[(0, 0.5)])] {
        assert_eq!(cached(&engine, request), 0);
    }
}

#[test]
fn any_number_of_scales_is_forgotten_in_time() {
    let engine = start(&Arc::default());
    for i in 0..4200 {
        let request = Request { max_tokens: Some(1), ..with(&[(0, 1.0 + i as f32)]) };
        assert_eq!(cached(&engine, request), 0);
    }
    engine.flush_cache(&Principal::local()).expect("it can");
    assert_eq!(cached(&engine, with(&[(0, 4200.0)])), 0);
}

#[test]
fn a_request_holds_its_adapters_until_it_ends() {
    let directory = Arc::new(Two::default());
    let engine = start(&directory);
    let holders = || Arc::strong_count(&directory.a.lock().expect("not poisoned"));
    assert_eq!(holders(), 1);
    ask(&engine, with(&[(0, 1.0)])).expect("it is answered");
    assert!(engine.drain(std::time::Duration::from_secs(20)));
    drop(engine);
    assert_eq!(holders(), 1);
}

#[test]
fn what_is_refused() {
    let check = |engine: &Engine, request: Request, expected: &str| {
        let error = engine.prepare(&request).err().expect("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let engine = start(&Arc::default());
    check(&engine, Request { model: Some("c".into()), ..completion("x") }, "`c`");
    check(&engine, Request { model: Some("a".into()), ..with(&[(1, 1.0)]) }, "use one of the two");
    let plain = crate::client::start(executor(), EngineConfig::default());
    check(&plain, with(&[(0, 1.0)]), "no adapters are loaded");
    plain.prepare(&with(&[])).expect("none are asked for");
}
