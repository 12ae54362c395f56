use std::path::{Path, PathBuf};

use ingle_chat::template::{ChatTemplate, CivilTime, Syntax, TemplateOptions};
use ingle_chat::{ChatInput, Message as Said, Role as Speaker};
use ingle_gguf::{GgufWriter, Value as Pair};
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

use super::super::*;
use crate::{Installed, MediaType, ModelName, Reference, Store, StoreConfig, Template};

struct Home {
    folder: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { root: folder.path().join("models"), ..StoreConfig::default() };
        Self { store: Store::open(config).expect("a store"), folder }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Part {
        Part { name: name.into(), digest: self.store.put_bytes(bytes).expect("a blob") }
    }

    fn tiny(&self) -> Part {
        self.put("tiny.gguf", &TinySpec::new(Arch::Llama).bytes())
    }

    fn make(&self, name: &str, recipe: &Recipe) -> Result<(Installed, Vec<String>), String> {
        let name: ModelName = name.parse().expect("a name");
        let mut statuses = Vec::new();
        let made = recipe.make(&self.store, &name, &mut |status| statuses.push(status.to_string()));
        made.map_err(|error| error.to_string())?;
        let model = self.store.open_model(&Reference::Registry(name)).expect("a store");
        Ok((model.expect("it is there"), statuses))
    }

    fn recipe(&self, modelfile: &str) -> Recipe {
        let modelfile = Modelfile::parse(modelfile.as_bytes()).expect("a Modelfile");
        Recipe { files: vec![self.tiny()], ..Recipe::of(&modelfile).expect("a recipe") }
    }
}

const MARIO: &str = "FROM ./tiny.gguf\n# higher is more creative\nPARAMETER temperature 1\nPARAMETER num_ctx 4096\n\
                     PARAMETER stop \"<|im_end|>\"\nPARAMETER stop Mario:\nSYSTEM You are Mario from Super Mario Bros.\n\
                     TEMPLATE \"\"\"{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}\
                     {{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n\"\"\"\n\
                     LICENSE MIT\nLICENSE \"\"\"\nsecond\n\"\"\"\nMESSAGE user Is Toronto in Canada?\nMESSAGE assistant yes\n\
                     REQUIRES 0.14.0\n";

#[test]
fn what_a_modelfile_says_is_in_the_model() {
    let home = Home::new();
    let (model, statuses) = home.make("mario", &home.recipe(MARIO)).expect("a model");
    assert_eq!(model.system.as_deref(), Some("You are Mario from Super Mario Bros."));
    assert!(matches!(&model.template, Some(Template::Go(text)) if text.starts_with("{{ if .System }}")));
    assert_eq!(
        Value::Object(model.params.0.clone()),
        json!({"temperature": 1.0, "num_ctx": 4096, "stop": ["<|im_end|>", "Mario:"]})
    );
    assert_eq!(model.licenses, ["MIT", "\nsecond\n"]);
    assert_eq!(model.messages.len(), 2);
    assert_eq!(model.config.as_ref().map(|c| c.further["requires"].clone()), Some(json!("0.14.0")));
    assert_eq!(
        (statuses.first().map(String::as_str), statuses.last().map(String::as_str)),
        (Some("parsing GGUF"), Some("success"))
    );
    assert!(statuses.iter().any(|s| s.starts_with("creating new layer sha256:")), "{statuses:?}");

    // The Modelfile that is shown makes the same model.
    let shown = Modelfile::of(&model).to_text().expect("a text");
    let again = Modelfile::parse(shown.as_bytes()).expect("a Modelfile");
    assert_eq!(Modelfile::of(&model), again, "{shown}");
    let Instruction::From(path) = &again.instructions[0] else { panic!("FROM is first: {shown}") };
    let bytes = std::fs::read(path).expect("its file");
    let recipe =
        Recipe { files: vec![home.put("tiny.gguf", &bytes)], ..Recipe::of(&again).expect("a recipe") };
    let (twin, _) = home.make("twin", &recipe).expect("a model");
    assert_eq!(Installed { name: model.name.clone(), digest: model.digest, ..twin }, model);
}

#[test]
fn a_model_is_made_from_another() {
    let home = Home::new();
    home.make("base", &home.recipe(MARIO)).expect("a model");
    let base = home.store.manifest(&"base".parse().expect("a name")).expect("a store");
    let over = "FROM base\nPARAMETER temperature 0.2\nSYSTEM \"\"\nTEMPLATE {% for m in messages %}{{ m.content }}{% endfor %}\n\
                LICENSE third\nMESSAGE user hi";
    let modelfile = Modelfile::parse(over.as_bytes()).expect("a Modelfile");
    let recipe = Recipe { base, ..Recipe::of(&modelfile).expect("a recipe") };
    let (model, _) = home.make("derived", &recipe).expect("a model");
    assert_eq!(model.system, None, "an empty one takes the base's away");
    assert!(matches!(model.template, Some(Template::Jinja(_))));
    assert_eq!(model.params.0["temperature"], json!(0.2));
    assert_eq!(model.params.0["num_ctx"], json!(4096), "the base's stay");
    assert_eq!((model.licenses.len(), model.messages.len()), (3, 1));
    assert_eq!(model.config.map(|c| c.further["requires"].clone()), Some(json!("0.14.0")));
}

/// A signed address opens a file to whoever has it: what a model is made of is told without.
#[test]
fn where_a_base_came_from_is_told_without_its_signature() {
    let home = Home::new();
    let reference = Reference::Url("https://files.example/x.gguf?signature=s3cret#top".into());
    let name = reference.name().expect("it has one");
    home.make(&name.to_string(), &home.recipe("FROM ./tiny.gguf")).expect("a model");
    let mut recipe = Recipe::default();
    assert!(recipe.upon(&home.store, &reference, &mut |_, _, _| {}).expect("it is whole"), "it is here");
    home.make("derived", &recipe).expect("a model");
    let manifest =
        home.store.manifest(&"derived".parse().expect("a name")).expect("a store").expect("it is there");
    assert_eq!(manifest.annotations[crate::annotation::SOURCE], "https://files.example/x.gguf");
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let home = Home::new();
    let check = |recipe: &Recipe, expected: &str| {
        let error = home.make("bad", recipe).expect_err(expected);
        assert!(error.contains(expected), "{error}");
        assert!(home.store.find(&"bad".parse().expect("a name")).expect("a store").is_none());
    };
    let with = |files: Vec<Part>| Recipe { files, ..Recipe::default() };
    check(&Recipe::default(), "there is nothing to make a model from");
    check(&with(vec![home.put("x.bin", b"no model")]), "x.bin: ");
    let missing = Part { name: "m.gguf".into(), digest: crate::Digest::of(b"nowhere") };
    check(&with(vec![missing]), "is not in the store: send it first");
    let mut other = TinySpec::new(Arch::Llama);
    other.seed += 1;
    check(&with(vec![home.tiny(), home.put("b.gguf", &other.bytes())]), "is a second model");
    let mut adapter = GgufWriter::new();
    adapter.set("general.type", Pair::from("adapter")).set("general.architecture", Pair::from("llama"));
    adapter.tensor_f32("x", &[4], &[0.0; 4]);
    let adapter = home.put("lora.gguf", &adapter.to_bytes());
    check(&with(vec![adapter.clone()]), "lora.gguf is a LoRA adapter: name it with ADAPTER");
    check(&Recipe { adapters: vec![home.tiny()], ..with(vec![home.tiny()]) }, "is no LoRA adapter");
    let template = |text: &str| Recipe { template: Some(text.into()), ..with(vec![home.tiny()]) };
    check(&template("{{ if }}"), "TEMPLATE: the chat template is invalid at line 1");
    check(&template("{% if %}"), "TEMPLATE: ");
    let mut recipe = with(vec![home.tiny()]);
    recipe.params.insert("num_ctx".into(), json!("many"));
    check(&recipe, "PARAMETER: `num_ctx` must be a whole number");
    // More than is read back when the model is opened.
    let mut recipe = with(vec![home.tiny()]);
    let stops = (0..6000).map(|n| json!(format!("{n:0256}")));
    recipe.params.insert("stop".into(), stops.collect::<Vec<_>>().into());
    check(&recipe, "a model has at most 1048576 bytes of parameters");
    check(&template(&format!("{{{{ .Prompt }}}}{}", " ".repeat(1 << 20))), "1048576 bytes of template");
    let licensed = |n: usize, from: usize| Recipe {
        licenses: (from..from + n).map(|n| n.to_string()).collect(),
        ..Recipe::default()
    };
    let recipe = Recipe { files: vec![home.tiny()], ..licensed(990, 0) };
    assert_eq!(home.make("licensed", &recipe).expect("a model").0.licenses.len(), 990);
    let base = home.store.manifest(&"licensed".parse().expect("a name")).expect("a store");
    check(&Recipe { base: base.clone(), ..licensed(11, 1000) }, "a model has at most 1000 licences");
    let adapters = (0..35).map(|n| Part { name: format!("{n}.gguf"), ..adapter.clone() }).collect();
    check(&Recipe { base, adapters, ..licensed(10, 1000) }, "a model has at most 1024 layers");
    let mut bare = GgufWriter::new();
    bare.set("general.architecture", Pair::from("llama")).tensor_f32("x", &[4], &[0.0; 4]);
    let renderer = Recipe { renderer: Some("qwen3-coder".into()), ..Recipe::default() };
    let recipe = Recipe { files: vec![home.put("bare.gguf", &bare.to_bytes())], ..renderer.clone() };
    check(&recipe, "RENDERER `qwen3-coder` is a part of Ollama itself");
    // The file's own template takes its place.
    let (model, statuses) =
        home.make("rendered", &Recipe { files: vec![home.tiny()], ..renderer }).expect("a model");
    assert_eq!(model.config.map(|c| c.further["renderer"].clone()), Some(json!("qwen3-coder")));
    assert!(statuses.iter().any(|s| s.starts_with("note: RENDERER qwen3-coder")), "{statuses:?}");
    let modelfile = Modelfile::parse(b"FROM m\nDRAFT d.gguf").expect("a Modelfile");
    assert!(Recipe::of(&modelfile).expect_err("refused").to_string().contains("DRAFT is not available"));

    // One with its adapter is made.
    let (model, _) =
        home.make("good", &Recipe { adapters: vec![adapter], ..with(vec![home.tiny()]) }).expect("a model");
    assert_eq!(model.adapters.len(), 1);
    let manifest =
        home.store.manifest(&"good".parse().expect("a name")).expect("a store").expect("it is there");
    assert_eq!(manifest.of_type(&MediaType::Model).count(), 1);
    assert!(Path::new(&model.model[0]).starts_with(home.folder.path()));
}

/// Templates that were given by Modelfiles render what Go's own `text/template` renders.
#[test]
fn templates_of_modelfiles_render_as_in_go() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../chat/tests/gotemplate");
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).expect("a file")).expect("JSON")
    };
    let (recorded, conversations) = (read("goldens.json"), read("conversations.json"));
    let home = Home::new();
    let mut n_compared = 0;
    for template in
        ["chatml", "chatml_exchange", "llama3_tools", "gathered_system", "no_response", "bare", "defined"]
    {
        let text =
            std::fs::read_to_string(folder.join(format!("templates/{template}.gotmpl"))).expect("a template");
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let modelfile = format!("FROM m\nTEMPLATE \"\"\"{text}\"\"\"\n");
        let (model, _) = home.make(template, &home.recipe(&modelfile)).expect("a model");
        let Some(Template::Go(source)) = &model.template else { panic!("{template} is in Go's language") };
        let parsed =
            ChatTemplate::with_syntax(source, Syntax::Go, TemplateOptions::default()).expect("a template");
        for name in ["hello", "system", "turns", "merged", "unicode", "empty"] {
            let messages = conversations[name]["messages"].as_array().expect("messages").iter();
            let said = |m: &Value| {
                let role = Speaker::from_name(m["role"].as_str().expect("a role"));
                Said::text(role, m["content"].as_str().expect("a text"))
            };
            let input = ChatInput { messages: messages.map(said).collect(), ..ChatInput::default() };
            let now = CivilTime { year: 2025, month: 3, day: 1, hour: 12, minute: 0, second: 0 };
            let rendered = parsed.render(&input, now).expect("a prompt").text();
            let expected = &recorded["results"][format!("{template}.gotmpl {name}")]["text"];
            assert_eq!(json!(rendered), *expected, "{template} {name}");
            n_compared += 1;
        }
    }
    assert_eq!(n_compared, 42);
}
