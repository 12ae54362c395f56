//! `messages` and `tools`.

use std::collections::VecDeque;

use ingle_chat::{Content, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::refused::{Refused, check_empty};
use crate::RequestError;
use crate::error::quoted;
use crate::fields::Fields;
use crate::openai::chat::{MESSAGES_MAX, PARTS_MAX};
use crate::tools::Tool;

/// What messages may have only when it is empty.
pub(super) const IMAGES: &[Refused] =
    &[Refused { name: "images", advice: "images are not available yet; send text" }];

/// Takes the conversation; without one there is nothing to answer.
pub(super) fn take_messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
    let list = fields.list("messages")?.unwrap_or_default();
    if list.len() > MESSAGES_MAX {
        let text = format!("`messages` has {} entries; at most {MESSAGES_MAX} are taken", list.len());
        return Err(fields.error("messages", text));
    }
    let message = |(i, v)| message(v, &format!("messages[{i}]"));
    let mut messages = list.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    pair_calls(&mut messages);
    Ok(messages)
}

fn message(value: Value, path: &str) -> Result<Message, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    check_empty(&mut fields, &[IMAGES])?;
    let name =
        fields.string("role")?.ok_or_else(|| fields.error("role", format!("`{path}.role` is missing")))?;
    let role = match Role::from_name(&name) {
        Role::Other(other) => {
            let text =
                format!("`{path}.role` is {}; it can be system, user, assistant or tool", quoted(&other));
            return Err(fields.error("role", text));
        }
        role => role,
    };
    let content = fields.string("content")?.map_or(Content::None, Content::Text);
    let mut message = Message { role, content, ..Message::text(Role::User, "") };
    message.reasoning = take_only(&mut fields, "thinking", &message.role, &Role::Assistant)?;
    message.tool_calls = take_calls(&mut fields, &message.role)?;
    message.tool_call_id = take_only(&mut fields, "tool_call_id", &message.role, &Role::Tool)?;
    let tool_name = take_only(&mut fields, "tool_name", &message.role, &Role::Tool)?;
    message.name = match (tool_name, fields.string("name")?.filter(|n| !n.is_empty())) {
        (Some(tool), Some(name)) if tool != name => {
            let text = format!("`{path}.name` and `{path}.tool_name` differ; give one of them");
            return Err(fields.error("name", text));
        }
        (tool, name) => tool.or(name),
    };
    if message.content == Content::None && message.tool_calls.is_empty() && message.reasoning.is_none() {
        return Err(fields.error("content", format!("`{path}.content` is missing")));
    }
    fields.finish()?;
    Ok(message)
}

/// A string that only messages of one role have; empty is absent.
fn take_only(
    fields: &mut Fields,
    name: &str,
    role: &Role,
    only: &Role,
) -> Result<Option<String>, RequestError> {
    match fields.string(name)?.filter(|text| !text.is_empty()) {
        Some(_) if role != only => {
            let text = format!("only {} messages have `{}`; remove it", only.name(), fields.path(name));
            Err(fields.error(name, text))
        }
        text => Ok(text),
    }
}

fn take_calls(fields: &mut Fields, role: &Role) -> Result<Vec<ToolCall>, RequestError> {
    let path = fields.path("tool_calls");
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    if calls.len() > PARTS_MAX {
        let text = format!("`{path}` has {} entries; at most {PARTS_MAX} are taken", calls.len());
        return Err(fields.error("tool_calls", text));
    }
    if !calls.is_empty() && *role != Role::Assistant {
        return Err(fields.error("tool_calls", format!("only assistant messages have `{path}`; remove it")));
    }
    let call = |(i, v)| tool_call(v, &format!("{path}[{i}]"));
    calls.into_iter().enumerate().map(call).collect()
}

fn tool_call(value: Value, path: &str) -> Result<ToolCall, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let id = fields.string("id")?.filter(|id| !id.is_empty());
    check_function_type(&mut fields)?;
    let mut function = take_function(&mut fields)?;
    fields.finish()?;
    let index = function.integer(&["index"], 0, i128::from(u32::MAX))?.unwrap_or_default() as u32;
    let name = take_name(&mut function)?;
    let arguments = function.object("arguments")?.unwrap_or_default();
    function.finish()?;
    Ok(ToolCall { id, index, name, arguments: Value::Object(arguments) })
}

/// `type`, of which there is one.
fn check_function_type(fields: &mut Fields) -> Result<(), RequestError> {
    match fields.string("type")? {
        Some(kind) if kind != "function" => {
            Err(fields.error("type", format!("`{}` must be \"function\"", fields.path("type"))))
        }
        _ => Ok(()),
    }
}

fn take_function(fields: &mut Fields) -> Result<Fields, RequestError> {
    let path = fields.path("function");
    let function =
        fields.take("function").ok_or_else(|| fields.error("function", format!("`{path}` is missing")))?;
    Fields::nested(function, &path)
}

fn take_name(function: &mut Fields) -> Result<String, RequestError> {
    match function.string("name")?.filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => Err(function.error("name", format!("`{}` is missing", function.path("name")))),
    }
}

/// Gives calls that came without an id one by their place, and tool messages the id and the name of the call that
/// they answer. This dialect's clients seldom keep ids, and there are templates that cannot do without.
fn pair_calls(messages: &mut [Message]) {
    let mut n_calls = 0;
    let mut unanswered: VecDeque<(String, String)> = VecDeque::new();
    for message in messages {
        if message.role != Role::Tool {
            unanswered.clear();
        }
        for call in &mut message.tool_calls {
            // Nine letters and digits, which is what the strictest templates want.
            let id = call.id.get_or_insert_with(|| format!("call{n_calls:05}"));
            unanswered.push_back((id.clone(), call.name.clone()));
            n_calls += 1;
        }
        if message.role == Role::Tool {
            let answered = match (&message.tool_call_id, &message.name) {
                (Some(wanted), _) => unanswered.iter().position(|(id, _)| id == wanted),
                (None, Some(wanted)) => unanswered.iter().position(|(_, name)| name == wanted),
                (None, None) => Some(0),
            };
            if let Some((id, name)) = answered.and_then(|i| unanswered.remove(i)) {
                message.tool_call_id.get_or_insert(id);
                message.name.get_or_insert(name);
            }
        }
    }
}

/// Takes the tools, as the template will see them.
pub(super) fn take_tools(fields: &mut Fields) -> Result<Vec<Value>, RequestError> {
    Ok(crate::tools::take_tools(fields, tool)?.into_iter().map(|tool| tool.definition).collect())
}

fn tool(value: Value, path: &str) -> Result<Tool, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    check_function_type(&mut fields)?;
    let mut function = take_function(&mut fields)?;
    fields.finish()?;
    let mut definition = Map::new();
    let (name, name_path) = (take_name(&mut function)?, function.path("name"));
    definition.insert("name".into(), name.clone().into());
    if let Some(description) = function.string("description")? {
        definition.insert("description".into(), description.into());
    }
    if let Some(parameters) = function.object("parameters")? {
        definition.insert("parameters".into(), parameters.into());
    }
    if let Some(strict) = function.bool("strict")? {
        definition.insert("strict".into(), strict.into());
    }
    function.finish()?;
    let definition = json!({ "type": "function", "function": definition });
    Ok(Tool { name, name_path, definition, more: () })
}
