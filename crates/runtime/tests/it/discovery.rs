//! Models that come and go while requests run: those that a finder knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{
    DeltaStream, Echo, Event, ModelInfo, ModelState, Principal, Prompt, Provider, ProviderError, Request,
    Task,
};
use ingle_runtime::models::ModelFinder;
use ingle_runtime::{LoadOptions, ModelSpec, Models, ModelsConfig, Source};
use ingle_testkit::tiny::{Arch, TinySpec};

/// Models by name, with the seed that is their version.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, u64>>);

impl Shelf {
    fn put(&self, name: &str, seed: u64) {
        self.0.lock().expect("nobody panics with it").insert(name.to_owned(), seed);
    }

    fn take(&self, name: &str) {
        self.0.lock().expect("nobody panics with it").remove(name);
    }
}

fn options() -> LoadOptions {
    LoadOptions {
        n_ctx: Some(128),
        kv_tokens: Some(160),
        step_token_budget: Some(16),
        ..LoadOptions::default()
    }
}

fn spec(name: &str, seed: u64, version: Option<String>) -> ModelSpec {
    let source = Source::Bytes(TinySpec { n_vocab: 288, ..TinySpec::new(Arch::Llama).seed(seed) }.bytes());
    ModelSpec { name: name.to_owned(), source, options: options(), version, ..ModelSpec::default() }
}

impl ModelFinder for Shelf {
    fn find(&self, name: &str) -> Result<Option<ModelSpec>, String> {
        if name == "broken" {
            return Err("`broken` cannot be used: it is damaged".into());
        }
        let name = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
        let seed = self.0.lock().expect("nobody panics with it").get(&name).copied();
        Ok(seed.map(|seed| spec(&name, seed, Some(seed.to_string()))))
    }

    fn list(&self) -> Vec<ModelInfo> {
        let names: Vec<String> = self.0.lock().expect("nobody panics with it").keys().cloned().collect();
        names.into_iter().map(|id| ModelInfo { id, ..ModelInfo::default() }).collect()
    }
}

fn models(shelf: &Arc<Shelf>) -> Models {
    let finder: Arc<dyn ModelFinder> = shelf.clone();
    let config = ModelsConfig { finder: Some(finder), ..ModelsConfig::new(1 << 40) };
    Models::new(vec![spec("fixed", 1, None)], config).expect("a catalogue")
}

fn begin(models: &Models, model: &str, n_tokens: u32) -> Result<DeltaStream, ProviderError> {
    let task = Task::Completion { prompt: Prompt::Text("once upon".into()), echo: Echo::No };
    let mut request = Request::new("test", Principal::local(), task);
    request.model = Some(model.into());
    request.sampling.temperature = Some(0.0);
    (request.max_tokens, request.ignore_eos) = (Some(n_tokens), true);
    block_on(models.start(request))
}

fn text(stream: DeltaStream) -> String {
    let mut answer = String::new();
    for delta in block_on_stream(stream) {
        if let Event::Text { text, .. } = delta.expect("no stream is cut").event {
            answer += &text;
        }
    }
    answer
}

fn ask(models: &Models, model: &str) -> String {
    text(begin(models, model, 16).expect("it is there"))
}

fn names(models: &Models) -> Vec<String> {
    models.models().into_iter().map(|info| info.id).collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn models_come_change_and_go() {
    let shelf = Arc::new(Shelf::default());
    let models = models(&shelf);
    assert!(models.has_discovery());
    assert_eq!(models.discover("a"), Ok(None));
    assert!(matches!(begin(&models, "a:latest", 1), Err(ProviderError::UnknownModel { .. })));
    // A catalogue's own model is not looked for.
    shelf.put("fixed", 9);
    assert_eq!(models.discover("fixed"), Ok(None));
    assert!(
        matches!(models.discover("broken"), Err(ProviderError::Unusable(why)) if why.contains("damaged"))
    );
    shelf.take("fixed");

    shelf.put("a:latest", 2);
    let listed: Vec<String> = models.undiscovered().into_iter().map(|info| info.id).collect();
    assert_eq!((listed, names(&models)), (vec!["a:latest".to_owned()], vec!["fixed".to_owned()]));
    assert_eq!(models.discover("a"), Ok(Some("a:latest".into())));
    assert_eq!(names(&models), ["fixed", "a:latest"]);
    assert!(models.undiscovered().is_empty());
    let before = ask(&models, "a:latest");
    assert_eq!(models.discover("a"), Ok(Some("a:latest".into())));
    assert_eq!(ask(&models, "a:latest"), before, "nothing has changed");

    // Another version takes its place.
    shelf.put("a:latest", 3);
    models.discover("a").expect("it can be used");
    assert_eq!(names(&models), ["fixed", "a:latest"]);
    assert_ne!(ask(&models, "a:latest"), before);

    shelf.take("a:latest");
    assert_eq!(models.discover("a"), Ok(None));
    assert_eq!(names(&models), ["fixed"]);
    assert!(matches!(begin(&models, "a:latest", 1), Err(ProviderError::UnknownModel { .. })));
    // It comes back as what it was, and places are used again.
    for _ in 0..20 {
        shelf.put("a:latest", 2);
        models.discover("a:latest").expect("it can be used");
        assert_eq!(ask(&models, "a:latest"), before);
        shelf.take("a:latest");
        models.undiscovered();
        models.settle();
    }
    assert_eq!(models.entries().len(), 1);
    until("memory", || models.memory().0 == 0);
}

/// Whoever uses a model that is taken away, or changed, goes on with it.
#[test]
fn no_stream_is_cut() {
    for is_changed in [false, true] {
        let shelf = Arc::new(Shelf::default());
        let models = models(&shelf);
        shelf.put("a:latest", 2);
        models.discover("a").expect("it can be used");
        let whole = text(begin(&models, "a:latest", 100).expect("it is there"));
        let running = begin(&models, "a:latest", 100).expect("it is there");
        if is_changed {
            shelf.put("a:latest", 3)
        } else {
            shelf.take("a:latest")
        }
        assert_eq!(models.discover("a").expect("it can be used").is_some(), is_changed);
        match begin(&models, "a:latest", 100) {
            Ok(other) => assert!(is_changed && text(other) != whole, "new requests get the new one"),
            Err(error) => assert!(!is_changed, "{error}"),
        }
        assert_eq!(text(running), whole);
        let is_loaded = |entry: &ingle_chat::ModelEntry| entry.state == ModelState::Loaded;
        until("the end of the old one", || {
            models.settle();
            models.entries().iter().filter(|entry| is_loaded(entry)).count() == usize::from(is_changed)
        });
    }
}

/// A model that cannot be opened is refused with the reason, and the server goes on.
#[test]
fn what_cannot_be_opened_is_refused() {
    struct Broken;
    impl ModelFinder for Broken {
        fn find(&self, name: &str) -> Result<Option<ModelSpec>, String> {
            let source = Source::Bytes(b"no model".to_vec());
            Ok(Some(ModelSpec {
                name: name.to_owned(),
                source,
                version: Some("1".into()),
                ..ModelSpec::default()
            }))
        }

        fn list(&self) -> Vec<ModelInfo> {
            Vec::new()
        }
    }
    let config = ModelsConfig { finder: Some(Arc::new(Broken)), ..ModelsConfig::new(1 << 40) };
    let models = Models::new(vec![spec("fixed", 1, None)], config).expect("a catalogue");
    assert_eq!(models.discover("bad"), Ok(Some("bad".into())));
    assert!(matches!(begin(&models, "bad", 1), Err(ProviderError::Unusable(_))));
    assert!(!ask(&models, "fixed").is_empty());
}
