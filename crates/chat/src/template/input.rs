//! From a conversation to the variables that templates see, in the shape that each template understands.

use serde_json::{Map, Value as Json, json};

use super::eval::Interp;
use super::text::Text;
use super::value::{Eval, Value};
use super::{ChatTemplate, CivilTime, Jinja, TemplateError};
use crate::{ChatInput, Content, Message, Part, Role};

/// Names that callers cannot set: they belong to the conversation or to the engine.
const RESERVED: [&str; 22] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "tokenizer",
    "return_dict",
    "return_tensors",
    "padding",
    "truncation",
    "max_length",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "dict",
    "cycler",
    "joiner",
];
/// Bounds of template variables.
const VARS_BYTES_MAX: usize = 16 << 10;
const VARS_DEPTH_MAX: usize = 16;
const VARS_NODES_MAX: usize = 128;

/// The names under which templates look for what the model thought.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Words of the format itself: where a message holds them as role or type, they may become part of a control token.
const ROLES: [&str; 9] =
    ["system", "developer", "user", "assistant", "tool", "function", "ipython", "model", "tool_response"];
const TYPES: [&str; 10] = [
    "text",
    "function",
    "image",
    "image_url",
    "audio",
    "input_audio",
    "video",
    "input_text",
    "thinking",
    "document",
];
/// Fuel of one trial rendering.
const PROBE_FUEL: u64 = 100_000;

/// Refuses template variables that are reserved names or too much.
pub(super) fn check_vars(vars: &Map<String, Json>) -> Result<(), TemplateError> {
    if let Some(name) = vars.keys().find(|k| RESERVED.contains(&k.as_str())) {
        return Err(TemplateError::Reserved { name: name.clone() });
    }
    let (mut bytes, mut nodes, mut depth) = (0, 0, 0);
    let mut stack: Vec<(&Json, usize)> = Vec::new();
    for (name, value) in vars {
        bytes += name.len();
        stack.push((value, 1));
    }
    while let Some((value, level)) = stack.pop() {
        nodes += 1;
        depth = depth.max(level);
        match value {
            Json::String(s) => bytes += s.len(),
            Json::Array(items) => stack.extend(items.iter().map(|v| (v, level + 1))),
            Json::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                stack.extend(map.values().map(|v| (v, level + 1)));
            }
            _ => bytes += 8,
        }
    }
    for (what, is, limit) in [
        ("bytes of template variables", bytes, VARS_BYTES_MAX),
        ("nodes of template variables", nodes, VARS_NODES_MAX),
        ("nesting of template variables", depth, VARS_DEPTH_MAX),
    ] {
        if is > limit {
            return Err(TemplateError::Limit { what, limit: limit as u64 });
        }
    }
    Ok(())
}

/// Roughly how many bytes a value has as text.
pub(super) fn json_bytes(value: &Json) -> usize {
    let mut bytes = 0;
    let mut stack = vec![value];
    while let Some(value) = stack.pop() {
        bytes += 8;
        match value {
            Json::String(s) => bytes += s.len(),
            Json::Array(items) => stack.extend(items),
            Json::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                stack.extend(map.values());
            }
            _ => {}
        }
    }
    bytes
}

/// A template variable as a value with provenance.
pub(super) fn variable(interp: &Interp, name: &str, json: &Json) -> Eval<Value> {
    match (name, json) {
        ("bos_token" | "eos_token", _) => interp.json_value(json, false),
        ("messages", Json::Array(messages)) => {
            let messages = messages.iter().map(|m| message(interp, m)).collect::<Eval<_>>()?;
            Ok(interp.list(messages))
        }
        _ => interp.json_value(json, true),
    }
}

/// A message: its keys and the words of the format are the template's, all else is foreign.
fn message(interp: &Interp, json: &Json) -> Eval<Value> {
    let Json::Object(map) = json else { return interp.json_value(json, true) };
    let known = |value: &Json, words: &[&str]| match value {
        Json::String(s) => Ok(Value::Str(Text::marked(s, !words.contains(&s.as_str())))),
        other => interp.json_value(other, true),
    };
    let mut entries = Vec::with_capacity(map.len());
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("role", value) => known(value, &ROLES)?,
            ("content" | "tool_calls", Json::Array(parts)) => {
                let mut items = Vec::with_capacity(parts.len());
                for part in parts {
                    let Json::Object(part) = part else {
                        items.push(interp.json_value(part, true)?);
                        continue;
                    };
                    let mut fields = Vec::with_capacity(part.len());
                    for (key, value) in part {
                        let value = if key == "type" {
                            known(value, &TYPES)?
                        } else {
                            interp.json_value(value, true)?
                        };
                        fields.push((Value::Str(Text::foreign(key)), value));
                    }
                    items.push(interp.dict(fields)?);
                }
                interp.list(items)
            }
            (_, value) => interp.json_value(value, true)?,
        };
        entries.push((Value::Str(Text::foreign(key)), value));
    }
    interp.dict(entries)
}

/// Which shapes of messages a template understands: found by rendering small conversations, not by names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// An empty string where a message has no content.
    pub no_null_content: bool,
    /// Arguments of calls as JSON text instead of an object.
    pub arguments_as_text: bool,
    /// Content always as one string.
    pub no_parts: bool,
    /// Content always as a list of parts.
    pub only_parts: bool,
    /// Instructions inside the first user message: the template knows no system role.
    pub no_system: bool,
}

impl Wants {
    /// Tries the template.
    pub fn probe(template: &ChatTemplate, jinja: &Jinja) -> Self {
        const SAID: &str = "prwxq";
        let try_with = |messages: Json| -> Option<String> {
            let mut vars = Map::new();
            vars.insert("messages".into(), messages);
            vars.insert("tools".into(), Json::Null);
            vars.insert("documents".into(), Json::Null);
            vars.insert("add_generation_prompt".into(), Json::Bool(true));
            template.probe_run(jinja, &vars)
        };
        let has = |text: &Option<String>, what: &str| text.as_ref().is_some_and(|t| t.contains(what));
        let mut wants = Self::default();

        let text = try_with(json!([{"role": "user", "content": SAID}]));
        let parts = try_with(json!([{"role": "user", "content": [{"type": "text", "text": SAID}]}]));
        // A template that prints the list as it is does not understand it.
        let takes_parts = has(&parts, SAID) && !has(&parts, "'type'") && !has(&parts, "\"type\"");
        wants.only_parts = takes_parts && !has(&text, SAID);
        wants.no_parts = !takes_parts;
        if !wants.only_parts && !has(&text, SAID) {
            // It wants something that no probe has: leave everything as it comes.
            return Self::default();
        }
        let content =
            |s: &str| if wants.only_parts { json!([{"type": "text", "text": s}]) } else { json!(s) };

        let with_system = try_with(json!([
            {"role": "system", "content": content(SAID)},
            {"role": "user", "content": content("hi")},
        ]));
        wants.no_system = !has(&with_system, SAID);

        let calling = |content: Json, arguments: Json| {
            try_with(json!([
                {"role": "user", "content": if wants.only_parts { json!([{"type": "text", "text": "hi"}]) } else { json!("hi") }},
                {"role": "assistant", "content": content, "tool_calls": [
                    {"id": "abcdef123", "type": "function", "function": {"name": "fn", "arguments": arguments}},
                ]},
            ]))
        };
        let object = calling(content(""), json!({"prwxk": SAID}));
        let as_text = calling(content(""), json!("{\"prwxk\": \"prwxq\"}"));
        // Printed as Python shows a dict: the template thought it a string.
        let object_works = has(&object, SAID) && !has(&object, "{'prwxk'");
        wants.arguments_as_text = !object_works && has(&as_text, SAID);

        let arguments =
            if wants.arguments_as_text { json!("{\"prwxk\": \"prwxq\"}") } else { json!({"prwxk": SAID}) };
        let null = calling(Json::Null, arguments.clone());
        let empty = calling(content(""), arguments);
        wants.no_null_content =
            empty.is_some() && (null.is_none() || has(&null, "None") && !has(&empty, "None"));
        wants
    }

    /// The variables of a conversation.
    pub fn variables(&self, input: &ChatInput) -> Map<String, Json> {
        let continuing = input.continue_final_message && !final_text(input).is_empty();
        let mut messages: Vec<&Message> = input.messages.iter().collect();
        if input.continue_final_message && !continuing && last_is_assistant(input) {
            // Continuing an empty message is starting one.
            messages.pop();
        }
        let mut merged = None;
        if self.no_system
            && let [first, rest @ ..] = messages.as_slice()
            && matches!(first.role, Role::System | Role::Developer)
            && let Some(user) = rest.first().filter(|m| m.role == Role::User)
        {
            let mut user = (*user).clone();
            let (system, said) = (flat(&first.content), flat(&user.content));
            user.content = Content::Text(if system.is_empty() { said } else { format!("{system}\n{said}") });
            merged = Some(user);
            messages.drain(..2);
        }
        let messages: Vec<Json> = merged.iter().chain(messages).map(|m| self.message(m)).collect();
        let mut vars = input.template_vars.clone();
        vars.insert("messages".into(), Json::Array(messages));
        let tools = if input.tools.is_empty() { Json::Null } else { Json::Array(input.tools.clone()) };
        vars.insert("tools".into(), tools);
        vars.insert("documents".into(), Json::Null);
        vars.insert("add_generation_prompt".into(), Json::Bool(!continuing));
        vars
    }

    fn message(&self, message: &Message) -> Json {
        let mut map = Map::new();
        map.insert("role".into(), message.role.name().into());
        let part = |text: &str| json!({"type": "text", "text": text});
        let content = match &message.content {
            Content::None if self.no_null_content => json!(""),
            Content::None => Json::Null,
            Content::Text(text) if self.only_parts => json!([part(text)]),
            Content::Text(text) => json!(text),
            Content::Parts(_) if self.no_parts => json!(flat(&message.content)),
            Content::Parts(parts) => parts.iter().map(|Part::Text(text)| part(text)).collect(),
        };
        map.insert("content".into(), content);
        if let Some(name) = &message.name {
            map.insert("name".into(), json!(name));
        }
        if let Some(reasoning) = &message.reasoning {
            // Models disagree about the name of the thoughts.
            for name in REASONING {
                map.insert(name.into(), json!(reasoning));
            }
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| {
                // Text that is JSON and JSON that is text are the same arguments in two dresses.
                let arguments = match (&call.arguments, self.arguments_as_text) {
                    (Json::String(s), true) => json!(s),
                    (Json::String(s), false) => serde_json::from_str(s).unwrap_or_else(|_| json!(s)),
                    (value, true) => json!(super::json::compact(value)),
                    (value, false) => value.clone(),
                };
                let mut fields = Map::new();
                if let Some(id) = &call.id {
                    fields.insert("id".into(), json!(id));
                }
                fields.insert("type".into(), json!("function"));
                fields.insert("function".into(), json!({"name": call.name, "arguments": arguments}));
                Json::Object(fields)
            });
            map.insert("tool_calls".into(), calls.collect());
        }
        if let Some(id) = &message.tool_call_id {
            map.insert("tool_call_id".into(), json!(id));
        }
        Json::Object(map)
    }
}

impl ChatTemplate {
    fn probe_run(&self, jinja: &Jinja, vars: &Map<String, Json>) -> Option<String> {
        let fuel = super::Fuel::new(PROBE_FUEL.min(self.options.fuel));
        let now = CivilTime { year: 2025, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        let interp = Interp::new(&fuel, now, self.options.output_bytes_max.min(1 << 20));
        let mut values = Vec::new();
        for (name, text) in [("bos_token", &self.options.bos_token), ("eos_token", &self.options.eos_token)] {
            values.push((name.into(), Value::own(text)));
        }
        for (name, json) in vars {
            values.push((name.as_str().into(), variable(&interp, name, json).ok()?));
        }
        Some(interp.render(&jinja.body, values).ok()?.into_parts().0)
    }
}

fn flat(content: &Content) -> String {
    match content {
        Content::None => String::new(),
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            parts.iter().map(|Part::Text(text)| text.as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

pub(super) fn last_is_assistant(input: &ChatInput) -> bool {
    input.messages.last().is_some_and(|m| m.role == Role::Assistant)
}

pub(super) fn final_text(input: &ChatInput) -> String {
    if last_is_assistant(input) {
        input.messages.last().map_or_else(String::new, |m| flat(&m.content))
    } else {
        String::new()
    }
}

/// Where the last message shall be continued: the text up to that message's end.
pub(super) fn continued(
    mut text: String,
    mut foreign: Vec<(u32, u32)>,
    input: &ChatInput,
) -> (String, Vec<(u32, u32)>) {
    let last = final_text(input);
    let stripped = last.trim();
    if input.continue_final_message
        && !stripped.is_empty()
        && let Some(at) = text.rfind(stripped)
    {
        let whole = last.trim_start();
        let end = at + if text[at..].starts_with(whole) { whole.len() } else { stripped.len() };
        text.truncate(end);
        foreign.retain(|r| (r.0 as usize) < end);
        if let Some(range) = foreign.last_mut() {
            range.1 = range.1.min(end as u32);
        }
    }
    (text, foreign)
}
