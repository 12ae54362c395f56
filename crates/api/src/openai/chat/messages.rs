//! The conversation of a chat body.

use ingle_chat::{Content, Message, Part, Role, ToolCall};
use serde_json::{Map, Value};

use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::openai::into_string;
use crate::{RequestError, parse_object};

/// The most messages of a conversation.
pub const MESSAGES_MAX: usize = 16_384;
/// The most parts of a message, and calls in one.
pub const PARTS_MAX: usize = 1024;

pub(super) fn take_messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
    let list = fields
        .list("messages")?
        .ok_or_else(|| RequestError::field("messages", "`messages` is missing: give the conversation"))?;
    match list.len() {
        0 => Err(RequestError::field("messages", "`messages` is empty: give at least one message")),
        n if n > MESSAGES_MAX => Err(RequestError::field(
            "messages",
            format!("`messages` has {n} entries; at most {MESSAGES_MAX} are taken"),
        )),
        _ => list.into_iter().enumerate().map(|(i, v)| message(v, &format!("messages[{i}]"))).collect(),
    }
}

fn message(value: Value, path: &str) -> Result<Message, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let name =
        fields.string("role")?.ok_or_else(|| fields.error("role", format!("`{path}.role` is missing")))?;
    let role = match Role::from_name(&name) {
        Role::Other(_) if name == "function" => {
            return Err(fields.error("role", format!("`{path}.role`: use `tool` instead of `function`")));
        }
        Role::Other(other) => {
            let message = format!(
                "`{path}.role` is {}; it can be system, developer, user, assistant or tool",
                quoted(&other)
            );
            return Err(fields.error("role", message));
        }
        role => role,
    };
    let content = take_content(&mut fields)?;
    let mut message = Message { role, content, ..Message::text(Role::User, "") };
    message.name = fields.string("name")?;
    match message.role {
        Role::Assistant => take_assistant(&mut fields, &mut message)?,
        Role::Tool => {
            message.tool_call_id = fields.string("tool_call_id")?;
            if message.tool_call_id.is_none() {
                let text = format!("`{path}.tool_call_id` is missing: say which call this answers");
                return Err(fields.error("tool_call_id", text));
            }
        }
        _ => {}
    }
    if message.content == Content::None && message.tool_calls.is_empty() {
        return Err(fields.error("content", format!("`{path}.content` is missing")));
    }
    fields.finish()?;
    Ok(message)
}

/// What only assistant messages have. Replies can be sent back as they came.
fn take_assistant(fields: &mut Fields, message: &mut Message) -> Result<(), RequestError> {
    if let Some((_, value)) = fields.take_any(&["reasoning_content", "reasoning"])? {
        message.reasoning = Some(into_string(value, &fields.path("reasoning_content"))?);
    }
    // What litellm notes about a reply for itself, and sends back with it.
    fields.object("provider_specific_fields")?;
    for (name, advice) in [
        ("annotations", "remove it"),
        ("audio", "remove it"),
        ("function_call", "send the call in `tool_calls`"),
        ("refusal", "send it as `content`"),
    ] {
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
        if fields.take(name).is_some_and(|v| !empty(&v)) {
            let path = fields.path(name);
            return Err(fields
                .error(name, format!("`{path}` is not supported: {advice}"))
                .with_code("unsupported_field"));
        }
    }
    let path = fields.path("tool_calls");
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    if calls.len() > PARTS_MAX {
        let text = format!("`{path}` has {} entries; at most {PARTS_MAX} are taken", calls.len());
        return Err(fields.error("tool_calls", text));
    }
    let call = |(i, v)| tool_call(v, &format!("{path}[{i}]"));
    message.tool_calls = calls.into_iter().enumerate().map(call).collect::<Result<_, _>>()?;
    Ok(())
}

fn tool_call(value: Value, path: &str) -> Result<ToolCall, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let id = fields.string("id")?;
    fields.take("index");
    if fields.string("type")?.is_some_and(|t| t != "function") {
        return Err(fields.error("type", format!("`{path}.type` must be \"function\"")));
    }
    let missing = |what: &str| RequestError::field(path, format!("`{path}.{what}` is missing"));
    let function = fields.take("function").ok_or_else(|| missing("function"))?;
    fields.finish()?;
    let mut function = Fields::nested(function, &format!("{path}.function"))?;
    let name = function.string("name")?.ok_or_else(|| missing("function.name"))?;
    let text = function.string("arguments")?.ok_or_else(|| missing("function.arguments"))?;
    let arguments = match text.trim() {
        "" => Map::new(),
        text => parse_object(text.as_bytes()).map_err(|_| {
            function.error(
                "arguments",
                format!("`{path}.function.arguments` must be a JSON object, written as a string"),
            )
        })?,
    };
    function.finish()?;
    Ok(ToolCall { id, index: 0, name, arguments: Value::Object(arguments) })
}

/// Text, or parts of it.
pub(super) fn take_content(fields: &mut Fields) -> Result<Content, RequestError> {
    let path = fields.path("content");
    match fields.take("content") {
        None => Ok(Content::None),
        Some(Value::String(text)) => Ok(Content::Text(text)),
        Some(Value::Array(parts)) if parts.is_empty() => {
            Err(RequestError::field(&path, format!("`{path}` is an empty list")))
        }
        Some(Value::Array(parts)) if parts.len() > PARTS_MAX => Err(RequestError::field(
            &path,
            format!("`{path}` has {} parts; at most {PARTS_MAX} are taken", parts.len()),
        )),
        Some(Value::Array(parts)) => {
            let part = |(i, v)| part(v, &format!("{path}[{i}]"));
            parts.into_iter().enumerate().map(part).collect::<Result<_, _>>().map(Content::Parts)
        }
        Some(other) => Err(wrong_type(&path, "a string or a list of parts", &other)),
    }
}

fn part(value: Value, path: &str) -> Result<Part, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    match fields.string("type")?.as_deref() {
        Some("text") => {
            let text = fields
                .string("text")?
                .ok_or_else(|| fields.error("text", format!("`{path}.text` is missing")))?;
            // Prompts are cached whether or not a client marks them.
            fields.object("cache_control")?;
            fields.finish()?;
            Ok(Part::Text(text))
        }
        Some(other) => Err(fields
            .error(
                "type",
                format!(
                    "`{path}.type` is {}; only text parts are supported: remove the others",
                    quoted(other)
                ),
            )
            .with_code("unsupported_value")),
        None => Err(fields.error("type", format!("`{path}.type` is missing"))),
    }
}
