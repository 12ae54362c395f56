//! Items, and the conversation that they make.

use ingle_chat::{Content, Message, Part, Role, ToolCall};
use serde_json::{Map, Value};

use super::super::chat::{MESSAGES_MAX, PARTS_MAX};
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::{RequestError, parse_object};

/// The most items of a conversation, stored ones included.
pub const ITEMS_MAX: usize = MESSAGES_MAX;

/// One item of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// Its id, if it came with one.
    pub id: Option<String>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Message {
        role: Role,
        content: Content,
    },
    /// What the model thought, in parts; a summary may be all that is known of it.
    Reasoning {
        summary: Vec<String>,
        content: Vec<String>,
    },
    Call {
        call_id: String,
        name: String,
        /// As it was written.
        arguments: String,
        /// An object, or, of a call that was cut short, a string.
        parsed: Value,
    },
    CallOutput {
        call_id: String,
        content: Content,
    },
}

/// Takes `input`.
pub(super) fn take_input(fields: &mut Fields) -> Result<Vec<Item>, RequestError> {
    match fields.take("input") {
        None => Err(RequestError::field("input", "`input` is missing: give a text or a list of items")),
        Some(Value::String(text)) => {
            let what = What::Message { role: Role::User, content: Content::Text(text) };
            Ok(vec![Item { id: None, what }])
        }
        Some(Value::Array(list)) => match list.len() {
            0 => Err(RequestError::field("input", "`input` is empty: give at least one item")),
            n if n > ITEMS_MAX => Err(too_many(n)),
            _ => list.into_iter().enumerate().map(|(i, v)| item(v, &format!("input[{i}]"))).collect(),
        },
        Some(other) => Err(wrong_type("input", "a string or a list of items", &other)),
    }
}

fn too_many(n: usize) -> RequestError {
    let text = format!("the conversation has {n} items; at most {ITEMS_MAX} are taken");
    RequestError::field("input", text)
}

/// Reads one item.
pub(super) fn item(value: Value, path: &str) -> Result<Item, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let id = fields.string("id")?;
    // Items of replies say it. That one was cut short matters only where its JSON may be cut, too.
    let status = fields.string("status")?;
    if let Some(status) =
        status.as_deref().filter(|s| !matches!(*s, "completed" | "incomplete" | "in_progress"))
    {
        let text = format!("`{path}.status` is {}; it can be completed or incomplete", quoted(status));
        return Err(fields.error("status", text));
    }
    let what = match fields.string("type")?.as_deref() {
        // Messages may leave it out.
        Some("message") | None => message(&mut fields, path)?,
        Some("reasoning") => reasoning(&mut fields, path)?,
        Some("function_call") => call(&mut fields, path, status.as_deref() == Some("incomplete"))?,
        Some("function_call_output") => What::CallOutput {
            call_id: required(&mut fields, "call_id")?,
            content: content(&mut fields, "output")?,
        },
        Some("item_reference") => {
            let text = format!(
                "`{path}` refers to an item by its id; send the item itself (clients do where `store` is false)"
            );
            return Err(fields.error("type", text).with_code("unsupported_value"));
        }
        Some(other) => {
            let text = format!(
                "`{path}.type` is {}; only message, reasoning, function_call and function_call_output are taken: \
                 remove it",
                quoted(other)
            );
            return Err(fields.error("type", text).with_code("unsupported_value"));
        }
    };
    fields.finish()?;
    Ok(Item { id, what })
}

fn required(fields: &mut Fields, name: &str) -> Result<String, RequestError> {
    let path = fields.path(name);
    fields.string(name)?.ok_or_else(|| RequestError::field(&path, format!("`{path}` is missing")))
}

fn message(fields: &mut Fields, path: &str) -> Result<What, RequestError> {
    let name = required(fields, "role")?;
    let role = match Role::from_name(&name) {
        role @ (Role::System | Role::Developer | Role::User | Role::Assistant) => role,
        Role::Tool | Role::Other(_) => {
            let text =
                format!("`{path}.role` is {}; it can be system, developer, user or assistant", quoted(&name));
            return Err(fields.error("role", text));
        }
    };
    let content = content(fields, "content")?;
    // Which part of a turn a message is: models here have no such distinction.
    if let Some(phase) = fields.string("phase")?
        && !matches!(phase.as_str(), "commentary" | "final_answer")
    {
        let text = format!("`{path}.phase` is {}; it can be commentary or final_answer", quoted(&phase));
        return Err(fields.error("phase", text));
    }
    Ok(What::Message { role, content })
}

fn content(fields: &mut Fields, name: &str) -> Result<Content, RequestError> {
    let path = fields.path(name);
    match fields.take(name) {
        None => Err(RequestError::field(&path, format!("`{path}` is missing"))),
        Some(Value::String(text)) => Ok(Content::Text(text)),
        Some(Value::Array(parts)) => {
            let mut texts = texts(parts, &path, &["input_text", "output_text"])?;
            match texts.len() {
                0 => Err(RequestError::field(&path, format!("`{path}` is an empty list"))),
                // One part and a string are the same thing, and replies always have the former.
                1 => Ok(Content::Text(texts.remove(0))),
                _ => Ok(Content::Parts(texts.into_iter().map(Part::Text).collect())),
            }
        }
        Some(other) => Err(wrong_type(&path, "a string or a list of parts", &other)),
    }
}

/// The texts of parts, which must be of one of these kinds.
fn texts(parts: Vec<Value>, path: &str, kinds: &[&str]) -> Result<Vec<String>, RequestError> {
    if parts.len() > PARTS_MAX {
        let text = format!("`{path}` has {} parts; at most {PARTS_MAX} are taken", parts.len());
        return Err(RequestError::field(path, text));
    }
    let part = |(i, value)| {
        let path = format!("{path}[{i}]");
        let mut fields = Fields::nested(value, &path)?;
        let kind = required(&mut fields, "type")?;
        if !kinds.contains(&kind.as_str()) {
            let text = format!(
                "`{path}.type` is {}; it can be {}: there is only text here",
                quoted(&kind),
                kinds.join(" or ")
            );
            return Err(fields.error("type", text).with_code("unsupported_value"));
        }
        let text = required(&mut fields, "text")?;
        // They say something about the text; the model sees the text.
        fields.list("annotations")?;
        fields.list("logprobs")?;
        fields.finish()?;
        Ok(text)
    };
    parts.into_iter().enumerate().map(part).collect()
}

fn reasoning(fields: &mut Fields, path: &str) -> Result<What, RequestError> {
    if fields.take("encrypted_content").is_some() {
        let text = format!(
            "`{path}.encrypted_content` cannot be read: it comes from another server; remove the item, or send its \
             thoughts as `content`"
        );
        return Err(fields.error("encrypted_content", text).with_code("unsupported_field"));
    }
    let mut list = |name: &str, kind: &str| {
        let parts = fields.list(name)?.unwrap_or_default();
        texts(parts, &fields.path(name), &[kind])
    };
    Ok(What::Reasoning {
        summary: list("summary", "summary_text")?,
        content: list("content", "reasoning_text")?,
    })
}

fn call(fields: &mut Fields, path: &str, was_cut: bool) -> Result<What, RequestError> {
    let call_id = required(fields, "call_id")?;
    let name = required(fields, "name")?;
    let arguments = required(fields, "arguments")?;
    let parsed = match arguments.trim() {
        "" => Value::Object(Map::new()),
        text => match parse_object(text.as_bytes()) {
            Ok(object) => Value::Object(object),
            Err(_) if was_cut => Value::String(arguments.clone()),
            Err(_) => {
                let text = format!("`{path}.arguments` must be a JSON object, written as a string");
                return Err(fields.error("arguments", text));
            }
        },
    };
    Ok(What::Call { call_id, name, arguments, parsed })
}

/// The conversation that instructions and items make: what an assistant thought, said and called in a row is one
/// message.
pub(super) fn messages(
    instructions: Option<&str>,
    past: &[Item],
    new: &[Item],
) -> Result<Vec<Message>, RequestError> {
    let n = past.len() + new.len();
    if n > ITEMS_MAX {
        return Err(too_many(n));
    }
    let mut messages: Vec<Message> =
        instructions.map(|text| Message::text(Role::System, text)).into_iter().collect();
    // The assistant's message that is being put together.
    let mut turn: Option<Message> = None;
    // Calls by id, for the names of their results' functions.
    let mut calls: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    let numbered =
        past.iter().map(|item| (None, item)).chain(new.iter().enumerate().map(|(i, item)| (Some(i), item)));
    for (number, item) in numbered {
        match &item.what {
            What::Reasoning { summary, content } => {
                let thought = if content.is_empty() { summary.join("\n\n") } else { content.join("\n\n") };
                let message =
                    open(&mut turn, &mut messages, |m| m.tool_calls.is_empty() && m.content == Content::None);
                match &mut message.reasoning {
                    Some(before) => {
                        before.push_str("\n\n");
                        before.push_str(&thought);
                    }
                    none => *none = Some(thought),
                }
            }
            What::Message { role: Role::Assistant, content } => {
                open(&mut turn, &mut messages, |m| m.tool_calls.is_empty() && m.content == Content::None)
                    .content = content.clone();
            }
            What::Call { call_id, name, parsed, .. } => {
                calls.insert(call_id, name);
                let call = ToolCall {
                    id: Some(call_id.clone()),
                    index: 0,
                    name: name.clone(),
                    arguments: parsed.clone(),
                };
                open(&mut turn, &mut messages, |m| m.tool_calls.len() < PARTS_MAX).tool_calls.push(call);
            }
            What::Message { role, content } => {
                messages.extend(turn.take());
                messages.push(Message {
                    role: role.clone(),
                    content: content.clone(),
                    ..Message::text(Role::User, "")
                });
            }
            What::CallOutput { call_id, content } => {
                let Some(name) = calls.get(call_id.as_str()) else {
                    let path =
                        number.map_or("previous_response_id".into(), |i| format!("input[{i}].call_id"));
                    let text = format!(
                        "`{path}`: no function_call before it has the id {}; send the call, too",
                        quoted(call_id)
                    );
                    return Err(RequestError::field(path, text));
                };
                messages.extend(turn.take());
                messages.push(Message {
                    role: Role::Tool,
                    content: content.clone(),
                    name: Some((*name).to_owned()),
                    tool_call_id: Some(call_id.clone()),
                    ..Message::text(Role::Tool, "")
                });
            }
        }
    }
    messages.extend(turn);
    for message in messages.iter_mut().filter(|m| m.role == Role::Assistant) {
        // Thoughts alone, because the answer was cut short: nothing was said.
        if message.content == Content::None && message.tool_calls.is_empty() {
            message.content = Content::Text(String::new());
        }
    }
    Ok(messages)
}

/// The assistant's open message if it `takes` what comes; else a new one, and the old one is complete.
fn open<'a>(
    turn: &'a mut Option<Message>,
    messages: &mut Vec<Message>,
    takes: impl Fn(&Message) -> bool,
) -> &'a mut Message {
    if turn.as_ref().is_some_and(|m| !takes(m)) {
        messages.extend(turn.take());
    }
    turn.get_or_insert_with(|| Message { content: Content::None, ..Message::text(Role::Assistant, "") })
}
