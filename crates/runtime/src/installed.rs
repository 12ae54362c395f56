//! A model of the store, as it is loaded: as its Modelfile says.

use ingle_chat::template::Syntax;
use ingle_chat::{Message, Role, Sampling};
use ingle_engine::Preset;
use ingle_store::{Installed, Params, Template};
use serde_json::Value;

use crate::adapters::AdapterSource;
use crate::load::{LoadOptions, TemplateChoice};

impl LoadOptions {
    /// How a model of the store is loaded: as its Modelfile says where these options say nothing.
    ///
    /// What a Modelfile says of the machine (threads, batches, GPUs) is not the model's to say here and has no effect.
    #[must_use]
    pub fn with_installed(mut self, model: &Installed) -> Self {
        let params = &model.params;
        // Its file is called by its digest, which nobody asks for.
        self.name = self.name.or_else(|| model.name.as_ref().map(ToString::to_string));
        self.n_ctx_preferred = integer(params, "num_ctx").and_then(|n| usize::try_from(n).ok());
        self.sampling = self.sampling.or(sampling(params));
        if self.template == TemplateChoice::Model {
            self.template = template(model);
        }
        let own = |path| AdapterSource { name: None, path, scale: 1.0 };
        self.adapters.splice(0..0, model.adapters.iter().cloned().map(own));
        self.preset = preset(model);
        self
    }
}

fn template(model: &Installed) -> TemplateChoice {
    let Some(Template::Go(text) | Template::Jinja(text)) = &model.template else {
        return TemplateChoice::Model;
    };
    let syntax = match model.template {
        Some(Template::Jinja(_)) => Syntax::Jinja,
        // Some write Jinja where Go is meant.
        _ => Syntax::of(text),
    };
    // What Ollama's own code does in the place of a template, the file's own template does here.
    let is_fallback = model.config.as_ref().is_some_and(|config| config.further.contains_key("renderer"));
    TemplateChoice::Text { text: text.clone(), syntax, is_fallback }
}

fn integer(params: &Params, name: &str) -> Option<i64> {
    params.0.get(name).and_then(Value::as_i64)
}

fn sampling(params: &Params) -> Sampling {
    let float = |name: &str| params.0.get(name).and_then(Value::as_f64).map(|f| f as f32);
    let int = |name: &str| integer(params, name).and_then(|n| i32::try_from(n).ok());
    Sampling {
        temperature: float("temperature"),
        top_k: int("top_k"),
        top_p: float("top_p"),
        min_p: float("min_p"),
        typical_p: float("typical_p"),
        repeat_last_n: int("repeat_last_n"),
        repeat_penalty: float("repeat_penalty"),
        presence_penalty: float("presence_penalty"),
        frequency_penalty: float("frequency_penalty"),
        mirostat: integer(params, "mirostat").and_then(|n| u8::try_from(n).ok()),
        mirostat_tau: float("mirostat_tau"),
        mirostat_eta: float("mirostat_eta"),
        // Any number is a seed; below zero it is as good as none.
        seed: integer(params, "seed").and_then(|n| u64::try_from(n).ok()),
        ..Sampling::default()
    }
}

fn preset(model: &Installed) -> Preset {
    let stop = match model.params.0.get("stop") {
        Some(Value::Array(stops)) => stops.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect(),
        Some(Value::String(stop)) => vec![stop.clone()],
        _ => Vec::new(),
    };
    Preset {
        system: model.system.clone(),
        messages: model
            .messages
            .iter()
            .map(|m| Message::text(Role::from_name(&m.role), &m.content))
            .collect(),
        stop,
        max_tokens: integer(&model.params, "num_predict")
            .filter(|n| *n > 0)
            .and_then(|n| u32::try_from(n).ok()),
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::{ChatInput, Principal, Request, Task};
    use ingle_store::{Installed, Message as Opening};
    use ingle_testkit::tiny::{Arch, TinySpec};
    use serde_json::json;

    use super::*;
    use crate::{Engine, Source};

    fn model(folder: &std::path::Path) -> Installed {
        let path = folder.join("sha256-0");
        std::fs::write(&path, TinySpec::new(Arch::Llama).bytes()).expect("a file");
        Installed { model: vec![path], ..Installed::default() }
    }

    fn prompt(model: &Installed, messages: Vec<Message>) -> String {
        let source = Source::of_files(model.model.clone());
        let options = LoadOptions::default().with_installed(model);
        let engine = Engine::load_with(&source, &options, &mut |_, _| {}).expect("a model");
        let task = Task::Chat(ChatInput { messages, ..ChatInput::default() });
        let request = Request::new("r", Principal::local(), task);
        engine.provider().prompt(&request).expect("a prompt").text
    }

    #[test]
    fn what_a_modelfile_says_is_honoured() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = model(folder.path());
        let hi = || vec![Message::text(Role::User, "hi")];
        model.system = Some("Be brief.".into());
        model.messages = vec![Opening { role: "user".into(), content: "a".into() }];
        model.template =
            Some(Template::Go("{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}[model]".into()));
        assert_eq!(prompt(&model, hi()), "[system]Be brief.[user]a\n\nhi[model]");
        let mut own = hi();
        own.insert(0, Message::text(Role::System, "Own."));
        assert_eq!(prompt(&model, own), "[system]Own.[user]a\n\nhi[model]");
        model.template = Some(Template::Go("{{ .System }}|{{ .Prompt }}|{{ .Response }}!".into()));
        assert_eq!(prompt(&model, hi()), "Be brief.|a\n\nhi|");
        model.template = Some(Template::Jinja("{% for m in messages %}{{ m.content }};{% endfor %}".into()));
        assert_eq!(prompt(&model, hi()), "Be brief.;a;hi;");

        // The operator's word counts more.
        let template = TemplateChoice::Text { text: "x".into(), syntax: Syntax::Go, is_fallback: false };
        let options = LoadOptions { n_ctx: Some(64), template: template.clone(), ..LoadOptions::default() };
        model.params.0.insert("num_ctx".into(), json!(32));
        let options = options.with_installed(&model);
        assert_eq!((options.n_ctx, options.template), (Some(64), template));
    }

    #[test]
    fn parameters_become_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = model(folder.path());
        let params = json!({
            "num_ctx": 48, "temperature": 0.25, "top_k": 3, "seed": 7, "stop": ["a", "b"], "num_predict": 5,
            "num_gpu": 99, "repeat_last_n": -1,
        });
        model.params.0 = params.as_object().expect("an object").clone();
        let source = Source::of_files(model.model.clone());
        let options = LoadOptions::default().with_installed(&model);
        assert_eq!((options.n_ctx, options.n_ctx_preferred), (None, Some(48)));
        assert_eq!((options.preset.max_tokens, options.preset.stop.len()), (Some(5), 2));
        let sampling = &options.sampling;
        assert_eq!((sampling.temperature, sampling.top_k), (Some(0.25), Some(3)));
        assert_eq!((sampling.seed, sampling.repeat_last_n), (Some(7), Some(-1)));
        let engine = Engine::load_with(&source, &options, &mut |_, _| {}).expect("a model");
        assert_eq!(engine.info().n_ctx, 48);
        let answer = engine.generate("1").run().expect("an answer");
        assert!(answer.usage.completion_tokens <= 5, "{:?}", answer.usage);

        // What the Modelfile asks for is given as far as the model reaches; what the caller asks for, or not at all.
        let reaches = engine.info().n_ctx_train;
        model.params.0.insert("num_ctx".into(), json!(reaches * 128));
        let options = LoadOptions::default().with_installed(&model);
        let engine = Engine::load_with(&source, &options, &mut |_, _| {}).expect("a model");
        assert_eq!(engine.info().n_ctx, reaches);
        assert!(engine.notices()[0].contains("num_ctx"), "{:?}", engine.notices());
        assert_eq!(crate::examine(&source, &options).expect("a model"), engine.notices());
        let asked = LoadOptions { n_ctx: Some(reaches * 128), ..options };
        let error = crate::examine(&source, &asked).expect_err("too long").to_string();
        assert!(error.contains("ask for a shorter one"), "{error}");
    }
}
