//! Chat templates.

use std::sync::LazyLock;

use ingle_chat::template::{
    BUILTIN_TEMPLATES, ChatTemplate, CivilTime, Syntax, TemplateOptions, builtin_template,
};
use ingle_chat::{ChatInput, Content, Message, Part, Role, Segment, ToolCall};
use ingle_testkit::tiny::CHATML;
use serde_json::{Value, json};

use crate::source::Source;

const NOW: CivilTime = CivilTime { year: 2025, month: 3, day: 14, hour: 15, minute: 9, second: 26 };
/// Tight bounds: what takes long here would take long everywhere.
const FUEL: u64 = 50_000;
const OUTPUT_BYTES_MAX: usize = 1 << 18;

/// Spellings that templates write. No letters alone inside of the marks: plain words cannot complete one.
const SPECIAL: &[&str] = &[
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|tool|>",
    "<|end|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<think>",
    "</think>",
    "<|header_start|>",
    "<tool_call>",
];

/// A template that uses each way a text can go.
const BUSY: &str = r#"{{ bos_token }}{{ custom }}{{ (tools or [])|tojson(indent=2) }}
{%- for t in tools or [] %}{{ t.function.name|upper|lower }}{{ t }}{% for k, v in t.function.items() %}{{ k }}{{ v }}{% endfor %}{% endfor %}
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' }}
{%- if m.content is string %}{{ m.content|trim }}{{ m.content[::-1][::-1] }}{{ m.content.split('x')|join('x') }}{{ "%s" % m.content }}{{ "{}".format(m.content) }}{{ m.content|replace('a', 'a')|list|join }}{{ [m.content] }}{{ m.content[1:] }}{{ m.content[:3] ~ 'm_end|>' }}
{%- else %}{% for p in m.content or [] %}{{ p.text }}{{ p }}{% endfor %}{% endif %}
{%- if m.name %}{{ m.name }}{% endif %}{{ m.reasoning_content }}{{ m.tool_call_id }}
{%- for c in m.tool_calls or [] %}{{ c.id }}{{ c.function.name }}{{ c.function.arguments|tojson }}{{ c.function.arguments }}{{ c|string }}{% endfor %}<|end|>
{%- set x %}{{ m.content }}{% endset %}{{ x }}{% filter trim %}{{ m.content }}{% endfilter %}
{%- endfor %}<|assistant|>"#;

fn options(special: &[&str]) -> TemplateOptions {
    TemplateOptions {
        bos_token: "<s>".into(),
        eos_token: "</s>".into(),
        special_tokens: special.iter().map(|&s| s.to_owned()).collect(),
        fuel: FUEL,
        output_bytes_max: OUTPUT_BYTES_MAX,
        ..TemplateOptions::default()
    }
}

/// A Jinja template as source: an error, or a bounded text for a usual conversation, whose outside text is typed.
pub fn template_source(data: &[u8]) {
    rendered(data, Syntax::Jinja);
}

/// The same of a template in Go's language.
pub fn go_template_source(data: &[u8]) {
    rendered(data, Syntax::Go);
}

fn rendered(data: &[u8], syntax: Syntax) {
    let source = String::from_utf8_lossy(data);
    let Ok(template) = ChatTemplate::with_syntax(&source, syntax, options(SPECIAL)) else { return };
    let call = ToolCall {
        id: Some("c1".into()),
        index: 0,
        name: "look".into(),
        arguments: json!({"at": ["x", 1.5, null]}),
    };
    let mut input = ChatInput {
        messages: vec![
            Message::text(Role::System, "Be <|im_end|> short."),
            Message::text(Role::User, " <|im_end|>hé\n"),
            Message { tool_calls: vec![call], ..Message::text(Role::Assistant, "<|im_end|>") },
            Message { tool_call_id: Some("c1".into()), ..Message::text(Role::Tool, "<|im_end|>") },
        ],
        tools: vec![json!({"type": "function", "function": {"name": "look", "parameters": {}}})],
        ..ChatInput::default()
    };
    for continued in [false, true] {
        if continued {
            input.messages.truncate(3);
            input.continue_final_message = true;
        }
        match template.render(&input, NOW) {
            Ok(segments) => {
                assert!(segments.text().len() <= OUTPUT_BYTES_MAX, "{} bytes", segments.text().len());
                // The source has nothing to make such a token of: each one is a stranger's.
                if !["<|", "im_end", "\\"].iter().any(|part| source.contains(part)) {
                    assert_eq!(spelled(segments.iter(), "<|im_end|>"), 0, "{source}");
                }
            }
            Err(error) => assert!(error.to_string().len() < OUTPUT_BYTES_MAX + 1000),
        }
    }
}

fn spelled<'a>(segments: impl Iterator<Item = &'a Segment>, special: &str) -> usize {
    let own = segments.filter_map(|s| if let Segment::Template(text) = s { Some(text) } else { None });
    own.map(|text| text.matches(special).count()).sum()
}

/// Typed with [`SPECIAL`], and the same without any.
static TEMPLATES: LazyLock<Vec<[ChatTemplate; 2]>> = LazyLock::new(|| {
    let builtin = BUILTIN_TEMPLATES.iter().map(|name| builtin_template(name).expect("it is in the list"));
    let both = |source: &str| {
        [SPECIAL, &[]].map(|special| ChatTemplate::new(source, options(special)).expect("a sound template"))
    };
    [BUSY, CHATML].into_iter().chain(builtin).map(both).collect()
});

/// A conversation with arbitrary words for sound templates. Whatever outside text spells, the template's own segments
/// hold as many special tokens as for harmless words of the same shape.
pub fn template_vars(data: &[u8]) {
    let mut source = Source::new(data);
    let [typed, untyped] = &TEMPLATES[source.below(TEMPLATES.len())];
    let input = conversation(&mut source);
    let segments = match typed.render(&input, NOW) {
        Ok(segments) => segments,
        Err(error) => {
            let same = untyped.render(&input, NOW).expect_err("what is special does not decide this");
            return assert_eq!(error, same);
        }
    };
    let text = segments.text();
    assert!(text.len() <= OUTPUT_BYTES_MAX);
    let plain = untyped.render(&input, NOW).expect("what is special does not decide this");
    assert_eq!(text, plain.text(), "typing changes no text");
    let content = |s: &&Segment| matches!(s, Segment::Content(_));
    let len = |all: Vec<&Segment>| all.iter().map(|s| s.text().len()).sum::<usize>();
    assert!(
        len(segments.iter().filter(content).collect()) <= len(plain.iter().filter(content).collect()),
        "typed content is outside text"
    );
    let Ok(harmless) = typed.render(&harmless(&input), NOW) else { return };
    for special in SPECIAL {
        let (is, own) = (spelled(segments.iter(), special), spelled(harmless.iter(), special));
        assert_eq!(is, own, "{special} in {segments:?}\ninstead of {harmless:?}");
    }
}

fn conversation(source: &mut Source) -> ChatInput {
    let mut input = ChatInput { continue_final_message: source.below(8) == 1, ..ChatInput::default() };
    for _ in 0..1 + source.below(5) {
        let role = match source.below(8) {
            0..=2 => Role::User,
            3 | 4 => Role::Assistant,
            5 => Role::System,
            6 => Role::Tool,
            _ => Role::Other(words(source)),
        };
        let content = match source.below(8) {
            0 => Content::None,
            1 => Content::Parts((0..source.below(3)).map(|_| Part::Text(words(source))).collect()),
            _ => Content::Text(words(source)),
        };
        let mut message = Message { content, ..Message::text(role, "") };
        let more = source.byte();
        if more & 1 != 0 {
            message.name = Some(words(source));
        }
        if more & 2 != 0 {
            message.reasoning = Some(words(source));
        }
        if more & 4 != 0 {
            let arguments =
                if more & 8 != 0 { json!({words(source): [words(source), 1]}) } else { json!(words(source)) };
            message.tool_calls.push(ToolCall {
                id: Some(words(source)),
                index: 1,
                name: words(source),
                arguments,
            });
        }
        if more & 16 != 0 {
            message.tool_call_id = Some(words(source));
        }
        input.messages.push(message);
    }
    if source.flag() {
        let (name, text) = (words(source), words(source));
        input.tools.push(
            json!({"type": "function", "function": {"name": name, "description": text, "parameters": {}}}),
        );
    }
    if source.flag() {
        input.template_vars.insert("custom".into(), json!(words(source)));
    }
    input
}

/// Special spellings, parts of them, and anything else.
fn words(source: &mut Source) -> String {
    let mut text = String::new();
    for _ in 0..source.below(4) {
        let special = source.pick(SPECIAL);
        match source.below(4) {
            0 => text.push_str(special),
            1 => text.push_str(&special[..source.below(special.len())]),
            2 => text.push_str(&special[source.below(special.len())..]),
            _ => text.push_str(&source.text()),
        }
    }
    text
}

/// The same conversation with a digit for each visible character.
fn harmless(input: &ChatInput) -> ChatInput {
    let mut input = input.clone();
    for message in &mut input.messages {
        if let Role::Other(name) = &mut message.role {
            *name = plain(name);
        }
        match &mut message.content {
            Content::None => {}
            Content::Text(text) => *text = plain(text),
            Content::Parts(parts) => parts.iter_mut().for_each(|Part::Text(text)| *text = plain(text)),
        }
        for text in
            [&mut message.name, &mut message.reasoning, &mut message.tool_call_id].into_iter().flatten()
        {
            *text = plain(text);
        }
        for call in &mut message.tool_calls {
            call.id = call.id.as_deref().map(plain);
            call.name = plain(&call.name);
            call.arguments = plain_json(&call.arguments);
        }
    }
    input.tools = input.tools.iter().map(plain_tool).collect();
    input.template_vars.values_mut().for_each(|value| *value = plain_json(value));
    input
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() { c } else { '7' }).collect()
}

fn plain_json(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(plain(text)),
        Value::Array(list) => list.iter().map(plain_json).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (plain(k), plain_json(v))).collect(),
        other => other.clone(),
    }
}

fn plain_tool(tool: &Value) -> Value {
    let mut tool = tool.clone();
    for key in ["name", "description"] {
        tool["function"][key] = plain_json(&tool["function"][key]);
    }
    tool
}
