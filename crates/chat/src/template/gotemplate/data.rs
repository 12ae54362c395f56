//! What Ollama's templates are given: the conversation in its structures.

use serde_json::{Map, Value as Json};

use super::value::{
    CALLED, DictType, FUNCTION, ListType, MESSAGE, ORDERED, PARAMETERS, PROPERTY, TOOL, TOOL_CALL, Value,
    property_zero,
};
use crate::template::text::Text;
use crate::{ChatInput, Content, Message, Part, Role};

/// The variables by which callers wish thoughts, in the words of Jinja templates.
pub(super) const THINK: &str = "enable_thinking";
pub(super) const LEVEL: &str = "reasoning_effort";

/// A message of a conversation, as templates that tell messages apart see it and as those see it that don't.
pub(super) struct Turn<'a> {
    pub role: &'a str,
    pub content: String,
    /// What the merged messages have besides text is that of the first.
    message: &'a Message,
}

/// The system text of all messages together, and the messages: of neighbours with the same role one is made.
pub(super) fn collate(messages: &[Message]) -> (String, Vec<Turn<'_>>) {
    let mut system = Vec::new();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        let content = flat(&message.content);
        let role = match &message.role {
            // The name that these templates know.
            Role::Developer => "system",
            role => role.name(),
        };
        if role == "system" {
            system.push(content.clone());
        }
        match turns.last_mut() {
            Some(last) if last.role == role && role != "tool" => {
                last.content.push_str("\n\n");
                last.content.push_str(&content);
            }
            _ => turns.push(Turn { role, content, message }),
        }
    }
    (system.join("\n\n"), turns)
}

/// The text of a message. Parts are joined as messages are.
pub(super) fn flat(content: &Content) -> String {
    match content {
        Content::None => String::new(),
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            parts.iter().map(|Part::Text(text)| text.as_str()).collect::<Vec<_>>().join("\n\n")
        }
    }
}

/// The variables that each rendering of a conversation has: whether and how hard to think, and the caller's own.
pub(super) fn common(vars: &Map<String, Json>) -> Vec<(Text, Value)> {
    let level = vars.get(LEVEL).and_then(Json::as_str);
    let switch = vars.get(THINK).and_then(Json::as_bool);
    let thinks = switch.unwrap_or(level.is_some());
    // A plain yes is a middling effort.
    let level = level.filter(|_| thinks).or(thinks.then_some("medium")).unwrap_or_default();
    let mut entries: Vec<(Text, Value)> = vars
        .iter()
        .filter(|(name, _)| *name != THINK && *name != LEVEL)
        .map(|(name, value)| (Text::foreign(name), from_json(value)))
        .collect();
    let is_set = switch.is_some() || vars.contains_key(LEVEL);
    entries.push((Text::own("Think"), Value::Bool(thinks)));
    entries.push((Text::own("ThinkLevel"), word(level, &["low", "medium", "high", "max"])));
    entries.push((Text::own("IsThinkSet"), Value::Bool(is_set)));
    entries
}

/// Text that is the template's own if it is one of the words that it may be, as then it says nothing else.
fn word(text: &str, known: &[&str]) -> Value {
    Value::Str(Text::marked(text, !known.contains(&text)))
}

/// A conversation's variables, for templates that go over messages.
pub(super) fn conversation(input: &ChatInput, messages: &[Message]) -> Value {
    let (system, turns) = collate(messages);
    let mut entries = common(&input.template_vars);
    entries.push((Text::own("System"), Value::foreign(&system)));
    let messages = turns.iter().map(message).collect();
    entries.push((Text::own("Messages"), Value::list(ListType::Messages, messages)));
    let tools = match input.tools.as_slice() {
        [] => Value::nil_list(ListType::Tools),
        tools => Value::list(ListType::Tools, tools.iter().map(tool).collect()),
    };
    entries.push((Text::own("Tools"), tools));
    entries.push((Text::own("Response"), Value::own("")));
    Value::map(DictType::Any, entries)
}

/// The variables of one exchange, for templates that know only those: what all have in [`common`], and its own.
pub(super) fn exchange(common: &[(Text, Value)], system: &str, prompt: &str, response: &str) -> Value {
    let mut entries = common.to_vec();
    entries.push((Text::own("System"), Value::foreign(system)));
    entries.push((Text::own("Prompt"), Value::foreign(prompt)));
    entries.push((Text::own("Response"), Value::foreign(response)));
    Value::map(DictType::Any, entries)
}

/// The variables of a gap to fill.
pub(super) fn gap(prefix: &str, suffix: &str) -> Value {
    let mut entries = common(&Map::new());
    entries.push((Text::own("Prompt"), Value::foreign(prefix)));
    entries.push((Text::own("Suffix"), Value::foreign(suffix)));
    entries.push((Text::own("Response"), Value::own("")));
    Value::map(DictType::Any, entries)
}

fn message(turn: &Turn<'_>) -> Value {
    let Message { role: _, name, reasoning, tool_calls, tool_call_id, content: _ } = turn.message;
    let calls = match tool_calls.as_slice() {
        [] => Value::nil_list(ListType::ToolCalls),
        calls => Value::list(ListType::ToolCalls, calls.iter().map(called).collect()),
    };
    let text = |text: &Option<String>| Value::foreign(text.as_deref().unwrap_or_default());
    let is_tool = turn.role == "tool";
    Value::structure(
        &MESSAGE,
        vec![
            word(turn.role, &["system", "user", "assistant", "tool"]),
            Value::foreign(&turn.content),
            text(reasoning),
            Value::nil_list(ListType::Images),
            calls,
            if is_tool { text(name) } else { Value::own("") },
            text(tool_call_id),
        ],
    )
}

fn called(call: &crate::ToolCall) -> Value {
    let parsed = match &call.arguments {
        // Arguments that came as text.
        Json::String(text) => serde_json::from_str(text).unwrap_or(Json::Null),
        other => other.clone(),
    };
    let arguments = match &parsed {
        Json::Object(map) => {
            let entries = map.iter().map(|(k, v)| (Text::foreign(k), from_json(v)));
            Value::map(DictType::Args, entries.collect())
        }
        _ => Value::nil_map(DictType::Args),
    };
    let function = vec![Value::Int(call.index.into()), Value::foreign(&call.name), arguments];
    let id = Value::foreign(call.id.as_deref().unwrap_or_default());
    Value::structure(&TOOL_CALL, vec![id, Value::structure(&CALLED, function)])
}

/// Any JSON: numbers are floating, lists and maps of anything.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => Value::Float(n.as_f64().unwrap_or_default()),
        Json::String(s) => Value::foreign(s),
        Json::Array(items) => Value::list(ListType::Any, items.iter().map(from_json).collect()),
        Json::Object(map) => {
            let entries = map.iter().map(|(k, v)| (Text::foreign(k), from_json(v)));
            Value::map(DictType::Any, entries.collect())
        }
    }
}

fn string(json: Option<&Json>) -> Value {
    Value::foreign(json.and_then(Json::as_str).unwrap_or_default())
}

/// Anything, where nothing is `nil`.
fn any(json: Option<&Json>) -> Value {
    json.map_or(Value::Nil, from_json)
}

fn strings(json: Option<&Json>) -> Value {
    match json.and_then(Json::as_array) {
        None => Value::nil_list(ListType::Strings),
        Some(items) => Value::list(
            ListType::Strings,
            items.iter().filter_map(Json::as_str).map(Value::foreign).collect(),
        ),
    }
}

/// The tool as Ollama keeps it: of a schema, what stands in these structures and nothing else.
fn tool(json: &Json) -> Value {
    let function = json.get("function");
    let of = |name: &str| function.and_then(|f| f.get(name));
    let parameters = of("parameters");
    let parameter = |name: &str| parameters.and_then(|p| p.get(name));
    let properties = match parameter("properties").and_then(Json::as_object) {
        None => Value::nil_map(DictType::Properties),
        Some(map) => Value::map(
            DictType::Properties,
            map.iter().map(|(name, schema)| (Text::foreign(name), property(schema))).collect(),
        ),
    };
    let parameters = vec![
        string(parameter("type")),
        any(parameter("$defs")),
        any(parameter("items")),
        strings(parameter("required")),
        properties,
    ];
    let function =
        vec![string(of("name")), string(of("description")), Value::structure(&PARAMETERS, parameters)];
    let ty = json.get("type").and_then(Json::as_str).unwrap_or_default();
    Value::structure(
        &TOOL,
        vec![word(ty, &["function"]), any(json.get("items")), Value::structure(&FUNCTION, function)],
    )
}

fn property(schema: &Json) -> Value {
    let Json::Object(schema) = schema else { return property_zero() };
    let any_of = match schema.get("anyOf").and_then(Json::as_array) {
        None => Value::nil_list(ListType::Properties),
        Some(items) => Value::list(ListType::Properties, items.iter().map(property).collect()),
    };
    let types = match schema.get("type") {
        Some(Json::String(one)) => Value::list(ListType::SchemaTypes, vec![Value::foreign(one)]),
        Some(Json::Array(many)) => Value::list(
            ListType::SchemaTypes,
            many.iter().filter_map(Json::as_str).map(Value::foreign).collect(),
        ),
        _ => Value::nil_list(ListType::SchemaTypes),
    };
    let enumeration = match schema.get("enum").and_then(Json::as_array) {
        None => Value::nil_list(ListType::Any),
        Some(items) => Value::list(ListType::Any, items.iter().map(from_json).collect()),
    };
    let properties = match schema.get("properties").and_then(Json::as_object) {
        None => Value::NilPointer(&ORDERED),
        Some(map) => {
            let pairs = map.iter().flat_map(|(name, schema)| [Value::foreign(name), property(schema)]);
            Value::structure(&ORDERED, pairs.collect())
        }
    };
    Value::structure(
        &PROPERTY,
        vec![
            any_of,
            types,
            any(schema.get("items")),
            string(schema.get("description")),
            enumeration,
            properties,
            strings(schema.get("required")),
        ],
    )
}
