//! Chat templates of real models against what Python's Jinja gives for them, byte for byte. The samples lie outside
//! the repository; without them these tests do nothing.

use std::path::PathBuf;

use ingle_chat::template::{ChatTemplate, CivilTime, TemplateError, TemplateOptions};
use ingle_chat::{ChatInput, Message, Role};
use serde_json::{Map, Value};

const NOW: CivilTime = CivilTime { year: 2025, month: 3, day: 14, hour: 15, minute: 9, second: 26 };

fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    path.exists().then_some(path)
}

fn json(path: &PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("the sample can be read"))
        .expect("the sample is JSON")
}

/// Compares with Python: its text, or an error where it has one. Lists can be changed here, so the text that Python
/// would give without its sandbox counts where there is one.
fn agrees(result: &Result<String, TemplateError>, expected: &Value) -> bool {
    let text = expected.get("text_if_mutable").or(expected.get("text")).and_then(Value::as_str);
    match (result, text) {
        (Ok(is), Some(text)) => is == text,
        (Err(_), None) => true,
        _ => false,
    }
}

fn report(failures: &[String], n: usize) {
    assert!(failures.is_empty(), "{} of {n} differ:\n{}", failures.len(), failures.join("\n"));
}

fn difference(result: &Result<String, TemplateError>, expected: &Value) -> String {
    match result {
        Ok(text) => {
            let wanted = expected.get("text_if_mutable").or(expected.get("text")).and_then(Value::as_str);
            let wanted = wanted.unwrap_or("(an error)");
            let at = text.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
            let from = |s: &str| {
                String::from_utf8_lossy(&s.as_bytes()[at.saturating_sub(20)..s.len().min(at + 60)])
                    .into_owned()
            };
            format!(
                "at byte {at}: {:?} instead of {:?}",
                from(text),
                if wanted.len() > at { from(wanted) } else { wanted.into() }
            )
        }
        Err(e) => format!("{e}"),
    }
}

#[test]
fn model_templates_render_as_in_python() {
    let Some(folder) = shared("templates/expected") else { return };
    let cases = json(&shared("templates/cases.json").expect("the inputs lie beside the texts"));
    let mut failures = Vec::new();
    let mut n = 0;
    let mut names: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    names.sort();
    for path in names {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let source = shared(&format!("templates/{name}.jinja")).expect("a template for each text");
        let source = std::fs::read_to_string(source).expect("a readable template");
        let template = match ChatTemplate::new(&source, TemplateOptions::default()) {
            Ok(template) => template,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        for (case, expected) in json(&path).as_object().expect("texts by case") {
            n += 1;
            let result = template.render_vars(cases[case].as_object().expect("variables"), NOW);
            if !agrees(&result, expected) {
                failures.push(format!("{name}/{case}: {}", difference(&result, expected)));
            }
        }
    }
    report(&failures, n);
}

#[test]
fn small_cases_render_as_in_python() {
    let Some(path) = shared("jinja/llama_cpp_jinja_cases.json") else { return };
    let cases = json(&path);
    let cases = cases.as_array().expect("a list of cases");
    let mut failures = Vec::new();
    for case in cases {
        let source = case["template"].as_str().expect("a source");
        let result = ChatTemplate::new(source, TemplateOptions::default())
            .and_then(|t| t.render_vars(case["vars"].as_object().unwrap_or(&Map::new()), NOW));
        if !agrees(&result, &case["python_jinja2"]) {
            failures.push(format!(
                "{}: {source:?}: {}",
                case["name"],
                difference(&result, &case["python_jinja2"])
            ));
        }
    }
    report(&failures, cases.len());
}

#[test]
fn conversations_render_as_in_llama_cpp() {
    let Some(path) = shared("templates/llama_cpp_static_cases.json") else { return };
    let all = json(&path);
    let message = |role: &Value, text: &Value| {
        Message::text(Role::from_name(role.as_str().expect("a role")), text.as_str().expect("a text"))
    };
    let mut failures = Vec::new();
    let cases = all["cases"].as_array().expect("a list of cases");
    for case in cases {
        if case["supported_with_jinja"] == Value::Bool(false) {
            continue;
        }
        if case.get("extra_conversation").is_some() {
            continue;
        }
        let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let options = TemplateOptions {
            bos_token: text("bos_token"),
            eos_token: text("eos_token"),
            ..TemplateOptions::default()
        };
        let conversation = all["conversation"].as_array().expect("a conversation");
        let input = ChatInput {
            messages: conversation.iter().map(|m| message(&m[0], &m[1])).collect(),
            ..ChatInput::default()
        };
        let expected = if text("expected_output_jinja").is_empty() {
            text("expected_output")
        } else {
            text("expected_output_jinja")
        };
        let result = ChatTemplate::new(&text("template_str"), options)
            .and_then(|t| t.render(&input, NOW))
            .map(|segments| segments.text());
        let expected = serde_json::json!({ "text": expected });
        if !agrees(&result, &expected) {
            failures.push(format!("{}: {}", text("name"), difference(&result, &expected)));
        }
    }
    report(&failures, cases.len());
}

/// The language itself, by snippets that are kept with what Python gives for them (`tests/jinja/make_cases.py`).
#[test]
fn the_language_is_pythons() {
    let all: Value = serde_json::from_str(include_str!("jinja/cases.json")).expect("the cases are JSON");
    let vars = all["vars"].as_object().expect("variables");
    let cases = all["cases"].as_array().expect("a list of cases");
    let mut failures = Vec::new();
    for case in cases {
        let source = case["template"].as_str().expect("a source");
        let result =
            ChatTemplate::new(source, TemplateOptions::default()).and_then(|t| t.render_vars(vars, NOW));
        if !agrees(&result, case) {
            failures.push(format!("{source:?}: {}", difference(&result, case)));
        }
    }
    report(&failures, cases.len());
}

/// Named templates write what llama.cpp's formatter writes under these names.
#[test]
fn named_templates_render_as_in_llama_cpp() {
    use ingle_chat::template::{BUILTIN_TEMPLATES, builtin_template};
    let conversation = [
        ("system", "You are a helpful assistant"),
        ("user", "Hello"),
        ("assistant", "Hi there"),
        ("user", "Who are you"),
        ("assistant", "   I am an assistant   "),
        ("user", "Another question"),
    ];
    let input = ChatInput {
        messages: conversation.iter().map(|(r, t)| Message::text(Role::from_name(r), *t)).collect(),
        ..ChatInput::default()
    };
    let render = |name: &str| {
        let source = builtin_template(name).unwrap_or_else(|| panic!("there is no template {name}"));
        let template = ChatTemplate::new(source, TemplateOptions::default()).expect("a valid template");
        template.render(&input, NOW).unwrap_or_else(|e| panic!("{name}: {e}")).text()
    };
    for name in BUILTIN_TEMPLATES {
        let text = render(name);
        assert!(text.contains("helpful") && text.contains("Another question"), "{name}: {text}");
    }
    let chatml = conversation.map(|(r, t)| format!("<|im_start|>{r}\n{t}<|im_end|>\n")).concat();
    assert_eq!(render("chatml"), chatml + "<|im_start|>assistant\n");

    let Some(path) = shared("templates/llama_cpp_static_cases.json") else { return };
    let all = json(&path);
    let mut failures = Vec::new();
    let names = [
        ("teknium/OpenHermes-2.5-Mistral-7B", "chatml"),
        ("TheBloke/FusionNet_34Bx2_MoE-AWQ", "llama2-sys-bos"),
        ("bofenghuang/vigogne-2-70b-chat", "llama2-sys-strip"),
        ("mlabonne/AlphaMonarch-7B", "monarch"),
        ("OrionStarAI/Orion-14B-Chat", "orion"),
        ("openchat/openchat-3.5-0106", "openchat"),
        ("deepseek-ai/deepseek-coder-33b-instruct", "deepseek"),
        ("eachadea/vicuna-13b-1.1", "vicuna"),
        ("Orca-Vicuna", "vicuna-orca"),
        ("CohereForAI/c4ai-command-r-plus", "command-r"),
        ("Llama-3", "llama3"),
        ("Phi-3-medium", "phi3"),
        ("ChatGLM4", "chatglm4"),
        ("MiniCPM-3B-OpenHermes-2.5-v2-GGUF", "minicpm"),
        ("ibm-granite/granite-3.0-8b-instruct", "granite"),
        ("mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)", "mistral-v1"),
        (
            "Mistral-Large-Instruct-2407 (mistralai 'v3' template; modified to have system prompt at start)",
            "mistral-v3",
        ),
        ("mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)", "mistral-v7"),
        ("ai-sage/GigaChat-20B-A3B-instruct", "gigachat"),
        ("Infinigence/Megrez-3B-Instruct", "megrez"),
        ("phi-4", "phi4"),
    ];
    for (model, name) in names {
        let case = all["cases"].as_array().expect("a list").iter().find(|c| c["name"] == model);
        let Some(expected) = case.and_then(|c| c["expected_output"].as_str()) else {
            failures.push(format!("there is no case {model}"));
            continue;
        };
        let result = Ok(render(name));
        let expected = serde_json::json!({ "text": expected });
        if !agrees(&result, &expected) {
            failures.push(format!("{name}: {}", difference(&result, &expected)));
        }
    }
    report(&failures, names.len());
}
