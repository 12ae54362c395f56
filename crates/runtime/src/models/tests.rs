//! What only bugs bring about: threads that end, and loads that panic. The rest is tested from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    Echo, ModelChange, ModelEntry, ModelState, Principal, Prompt, Provider, ProviderError, Request, Task,
};
use ingle_testkit::tiny::{Arch, TinySpec};

use super::{ModelEvent, ModelSpec, Models, ModelsConfig};
use crate::load::Source;

fn spec(name: &str) -> ModelSpec {
    let source = Source::Bytes(TinySpec::new(Arch::Llama).bytes());
    ModelSpec { name: name.into(), source, ..ModelSpec::default() }
}

fn ask(models: &Models, name: &str) -> Result<(), ProviderError> {
    let task = Task::Completion { prompt: Prompt::Text("x".into()), echo: Echo::No };
    let mut request = Request::new("test", Principal::local(), task);
    (request.model, request.max_tokens) = (Some(name.into()), Some(4));
    block_on_stream(block_on(models.start(request))?).try_for_each(|delta| delta.map(drop))
}

fn entry(models: &Models, name: &str) -> ModelEntry {
    models.entries().into_iter().find(|e| e.info.id == name).expect("a model of the catalogue")
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Refused with these words, and remembered; an operator brings it back; the other model never notices.
fn check_failed(models: &Models, why: &str) {
    let error = ask(models, "a").expect_err("it failed").to_string();
    assert!(error.contains(why), "{error}");
    assert!(matches!(entry(models, "a").state, ModelState::Failed(_)));
    assert_eq!(entry(models, "a").failures_total, 1);
    models.settle();
    assert_eq!(models.memory().0, entry(models, "b").memory_bytes, "its memory is given back");
    ask(models, "b").expect("it has nothing to do with that");
    block_on(models.change("a", ModelChange::Load(None))).expect("it is tried");
    until("a", || entry(models, "a").state == ModelState::Loaded);
    ask(models, "a").expect("it is back");
}

fn config() -> ModelsConfig {
    ModelsConfig { retry_after: Duration::from_secs(600), ..ModelsConfig::new(1 << 40) }
}

#[test]
fn a_model_whose_thread_ended_can_be_loaded_again() {
    let models = Models::new(vec![spec("a"), spec("b")], config()).expect("a catalogue");
    ask(&models, "a").expect("an answer");
    ask(&models, "b").expect("an answer");
    let instance = models.shared.lock().models[0].current.clone().expect("it is loaded");
    instance.engine.end_thread();
    until("the end of the thread", || !instance.engine.is_running());
    drop(instance);
    check_failed(&models, "its thread had ended");
}

#[test]
fn a_load_that_panics_gives_its_memory_back() {
    let panics = Arc::new(AtomicBool::new(true));
    let listener = move |name: &str, event: &ModelEvent| {
        if name == "a" && matches!(event, ModelEvent::Loading { .. }) && panics.swap(false, SeqCst) {
            panic!("as a bug would");
        }
    };
    let config = ModelsConfig { listener: Some(Arc::new(listener)), ..config() };
    let models = Models::new(vec![spec("a"), spec("b")], config).expect("a catalogue");
    check_failed(&models, "loading it panicked");
}
