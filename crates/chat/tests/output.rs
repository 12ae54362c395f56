//! What models of many families write, and what it means. The samples lie outside the repository; without them these
//! tests do nothing, and the tables beside the code stand alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ingle_chat::output::{Output, OutputContext, OutputFormat, Piece};
use ingle_chat::template::{ChatTemplate, CivilTime, TemplateOptions};
use ingle_chat::{ChatInput, Message, Role};
use serde_json::{Value, json};

const NOW: CivilTime = CivilTime { year: 2025, month: 3, day: 14, hour: 15, minute: 9, second: 26 };

/// Cases that are read in another way here, and why.
const OTHERWISE: &[(&str, &str)] = &[
    ("Qwen3.5-4B#2377", "a mark that the model repeats is no thought"),
    ("deepseek-ai-DeepSeek-V3.1#3983", "white space behind thoughts is no thought"),
    ("inclusionai-ling-3.0-flash#4716", "thoughts in the text keep their mark when the prompt has it, too"),
    ("meta-llama-Llama-3.1-8B-Instruct#6302", "an answer that must be JSON cannot have a fence around it"),
    ("meta-llama-Llama-3.1-8B-Instruct#6309", "nor white space behind it"),
    ("mistralai-Ministral-3-14B-Reasoning-2512#2648", "nor, again, a fence"),
];

fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    path.exists().then_some(path)
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).expect("the sample can be read")
}

/// A call's id, name and arguments.
type Call = (Option<String>, String, String);

#[derive(Debug, Default, PartialEq)]
struct Answer {
    content: String,
    reasoning: String,
    calls: Vec<Call>,
}

fn collect(outputs: Vec<Output>) -> Answer {
    let mut answer = Answer::default();
    for output in outputs {
        match output {
            Output::Content(text) => answer.content.push_str(&text),
            Output::Reasoning(text) => answer.reasoning.push_str(&text),
            Output::ToolCall { index, id, name } => {
                assert_eq!(index as usize, answer.calls.len(), "calls come in order");
                answer.calls.push((id, name, String::new()));
            }
            Output::ToolArguments { index, json } => answer.calls[index as usize].2.push_str(&json),
        }
    }
    answer
}

fn parse<'a>(
    format: &OutputFormat,
    context: &OutputContext,
    pieces: impl Iterator<Item = &'a str>,
) -> Answer {
    let mut parser = format.parser(context);
    let mut out = Vec::new();
    for piece in pieces {
        parser.push(Piece::Text(piece), &mut out);
    }
    parser.finish(&mut out);
    collect(out)
}

/// Cuts a text after these numbers of characters, over and over.
fn pieces<'a>(text: &'a str, mut sizes: impl FnMut() -> usize + 'a) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let n = sizes().max(1);
        let at = rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
        let (piece, tail) = rest.split_at(at);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A sequence of numbers that is the same each time.
fn numbers(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 9) as usize
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The end of the prompt that a case stands behind.
fn prompt(source: &str, format: &OutputFormat, case: &Value) -> String {
    let options = &case["options"];
    let template = ChatTemplate::new(source, TemplateOptions::default()).expect("a valid template");
    let mut input = ChatInput {
        messages: vec![Message::text(Role::User, "Hey there!")],
        tools: tools(case),
        ..ChatInput::default()
    };
    let thinks = options.get("enable_thinking").cloned().unwrap_or(json!(true));
    input.template_vars.insert("enable_thinking".into(), thinks);
    let Some(continued) = options.get("continue_final_message").map(text_of) else {
        return template.render(&input, NOW).map(|s| s.text()).unwrap_or_default();
    };
    let last = options["messages"].as_array().and_then(|m| m.last()).expect("a message to continue");
    let (said, thought) = (text_of(&last["content"]), text_of(&last["reasoning_content"]));
    if said.is_empty() {
        let mut prompt = template.render(&input, NOW).map(|s| s.text()).unwrap_or_default();
        if let Some((open, close)) = format.reasoning_marks() {
            if !prompt.trim_end().ends_with(open) {
                prompt.push_str(open);
            }
            prompt.push_str(thought);
            if continued.ends_with("CONTENT") {
                prompt.push_str(close);
            }
        }
        return prompt;
    }
    let mut message = Message::text(Role::Assistant, said);
    message.reasoning = Some(thought.to_owned());
    input.messages.push(message);
    input.continue_final_message = true;
    template.render(&input, NOW).map(|s| s.text()).unwrap_or_default()
}

fn tools(case: &Value) -> Vec<Value> {
    let tools = case["tools"].as_array().expect("a list of tools");
    tools.iter().map(|tool| json!({"type": "function", "function": tool})).collect()
}

/// What the case wants of the new part of the answer.
fn expected(case: &Value) -> Answer {
    let expect = &case["expect"];
    let options = &case["options"];
    let mut answer = Answer {
        content: text_of(&expect["content"]).to_owned(),
        reasoning: text_of(&expect["reasoning_content"]).to_owned(),
        calls: Vec::new(),
    };
    if let Some(last) = options.get("messages").and_then(|m| m.as_array()?.last()) {
        let without =
            |text: &str, prefix: &Value| text.strip_prefix(text_of(prefix)).unwrap_or(text).to_owned();
        answer.content = without(&answer.content, &last["content"]);
        answer.reasoning = without(&answer.reasoning, &last["reasoning_content"]);
    }
    for call in expect["tool_calls"].as_array().into_iter().flatten() {
        let id = Some(text_of(&call["id"]).to_owned()).filter(|id| !id.is_empty());
        answer.calls.push((id, text_of(&call["name"]).to_owned(), text_of(&call["arguments"]).to_owned()));
    }
    answer
}

/// Arguments compare as JSON where they are.
fn same(is: &Answer, wanted: &Answer) -> bool {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!(text));
    let call = |(is, wanted): (&Call, &Call)| {
        (wanted.0.is_none() || is.0 == wanted.0) && is.1 == wanted.1 && json(&is.2) == json(&wanted.2)
    };
    is.content == wanted.content
        && is.reasoning == wanted.reasoning
        && is.calls.len() == wanted.calls.len()
        && is.calls.iter().zip(&wanted.calls).all(call)
}

#[test]
fn answers_mean_what_llama_cpp_reads_in_them() {
    let Some(path) = shared("toolcalls/llama_cpp_chat_cases.json") else { return };
    let cases: Vec<Value> = serde_json::from_str(&read(path)).expect("the samples are JSON");
    let mut different = BTreeMap::new();
    for case in &cases {
        let name = text_of(&case["template"]);
        let source = read(shared(&format!("templates/{name}")).expect("a template for each case"));
        let format = OutputFormat::detect(&source);
        let prompt = prompt(&source, &format, case);
        let tools = tools(case);
        let thoughts = case["options"].get("reasoning_format").map_or("", text_of);
        let context = OutputContext {
            tools: &tools,
            prompt_end: &prompt,
            reasoning_in_text: thoughts.is_empty() || thoughts.ends_with("NONE"),
        };
        let id = text_of(&case["id"]).to_owned();
        let text = text_of(&case["input"]);
        let whole = parse(&format, &context, std::iter::once(text));
        for (at, _) in text.char_indices() {
            let (a, b) = text.split_at(at);
            assert_eq!(parse(&format, &context, [a, b].into_iter()), whole, "{id}: {a:?} | {b:?}");
        }
        for size in 1..=3 {
            assert_eq!(parse(&format, &context, pieces(text, || size)), whole, "{id} in pieces of {size}");
        }
        for seed in 1..=8 {
            assert_eq!(
                parse(&format, &context, pieces(text, numbers(seed))),
                whole,
                "{id}, cut from seed {seed}"
            );
        }
        let wanted = expected(case);
        if !same(&whole, &wanted) {
            different.insert(id, format!("{text:?}\n   is {whole:?}\n  not {wanted:?}"));
        }
    }
    let unexpected: Vec<_> = different
        .iter()
        .filter(|(id, _)| !OTHERWISE.iter().any(|(known, _)| known == id))
        .map(|(id, what)| format!("{id}: {what}"))
        .collect();
    let n = cases.len();
    assert!(unexpected.is_empty(), "{} of {n} differ:\n{}", unexpected.len(), unexpected.join("\n"));
    for (known, why) in OTHERWISE {
        assert!(different.contains_key(*known), "{known} is read as expected now; it was not because {why}");
    }
}
