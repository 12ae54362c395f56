//! From a body's `system` and `messages` to the messages of a conversation.
//!
//! The dialect has turns of blocks; a conversation has messages. Turns of one role that follow each other are one
//! turn. What tools said becomes messages of their own, before what the user says in the same turn.

use std::collections::HashMap;

use ingle_chat::{Content, Message, Part, Role, ToolCall};
use serde_json::Value;

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::openai::chat::{MESSAGES_MAX, PARTS_MAX};

/// A line that one client puts before its instructions, for its provider's accounting: it means nothing to a model,
/// and changes with every request, so that no prompt after it could come out of the cache.
const BILLING_LINE: &str = "x-anthropic-billing-header:";

/// Blocks that are known and cannot be read, with what to do instead.
const REFUSED_BLOCKS: &[(&str, &str)] = &[
    ("image", "images are not available; describe what they show"),
    ("document", "documents are not available; send their text in a text block"),
    ("search_result", "search results are not available; send their text in a text block"),
    ("redacted_thinking", "its data is encrypted for the provider that made it; leave the block out"),
    ("tool_reference", "tools are not searched for; put the tool into `tools`"),
    ("container_upload", "this server has no files; send the text in a text block"),
];

/// What one role says without being interrupted.
struct Turn {
    role: Role,
    blocks: Vec<Block>,
}

enum Block {
    Text(String),
    Thinking(String),
    ToolUse { id: String, name: String, input: Value },
    ToolResult { tool_use_id: String, text: String, path: String },
}

/// Takes `system` and `messages`.
pub(super) fn take_messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
    let mut turns = Vec::new();
    if let Some(texts) = take_texts(fields, "system")? {
        turns.push(system_turn(texts));
    }
    let list = fields
        .list("messages")?
        .ok_or_else(|| RequestError::field("messages", "`messages` is missing: give the conversation"))?;
    match list.len() {
        0 => return Err(fields.error("messages", "`messages` is empty: give at least one message")),
        n if n > MESSAGES_MAX => {
            let text = format!("`messages` has {n} entries; at most {MESSAGES_MAX} are taken");
            return Err(fields.error("messages", text));
        }
        _ => {}
    }
    for (i, value) in list.into_iter().enumerate() {
        let next = turn(value, &format!("messages[{i}]"))?;
        match turns.last_mut() {
            Some(last) if last.role == next.role => last.blocks.extend(next.blocks),
            _ => turns.push(next),
        }
    }
    let mut conversation = Conversation::default();
    for turn in turns {
        conversation.add(turn)?;
    }
    match conversation.messages.last() {
        Some(last) if !last.tool_calls.is_empty() => Err(RequestError::field(
            "messages",
            "`messages` ends with a `tool_use`: give its `tool_result` in a user message after it",
        )),
        None => Err(RequestError::field("messages", "`messages` says nothing: give at least one message")),
        Some(_) => Ok(conversation.messages),
    }
}

/// Takes a marker that changes nothing: prompts are cached whether or not a client marks them.
pub(super) fn take_cache_control(fields: &mut Fields) -> Result<(), RequestError> {
    fields.object("cache_control").map(|_| ())
}

/// Takes a string that must be there.
pub(super) fn required(fields: &mut Fields, name: &str) -> Result<String, RequestError> {
    fields.string(name)?.ok_or_else(|| missing(fields, name))
}

pub(super) fn missing(fields: &Fields, name: &str) -> RequestError {
    fields.error(name, format!("`{}` is missing", fields.path(name)))
}

fn system_turn(texts: Vec<String>) -> Turn {
    let said = texts.into_iter().filter_map(|text| match text.strip_prefix(BILLING_LINE) {
        None => Some(text),
        Some(rest) => rest.split_once('\n').map(|(_, rest)| rest.to_owned()).filter(|rest| !rest.is_empty()),
    });
    Turn { role: Role::System, blocks: said.map(Block::Text).collect() }
}

fn turn(value: Value, path: &str) -> Result<Turn, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let turn = match required(&mut fields, "role")?.as_str() {
        "user" => Turn { role: Role::User, blocks: take_blocks(&mut fields, user_block)? },
        "assistant" => Turn { role: Role::Assistant, blocks: take_blocks(&mut fields, assistant_block)? },
        "system" => {
            system_turn(take_texts(&mut fields, "content")?.ok_or_else(|| missing(&fields, "content"))?)
        }
        other => {
            let text = format!("`{path}.role` is {}; it can be user, assistant or system", quoted(other));
            return Err(fields.error("role", text));
        }
    };
    fields.finish()?;
    Ok(turn)
}

/// Reads a block of a type that is among those of its role; `None` if it is not.
type ReadBlock = fn(&str, &mut Fields) -> Result<Option<Block>, RequestError>;

fn user_block(kind: &str, fields: &mut Fields) -> Result<Option<Block>, RequestError> {
    match kind {
        "text" => text(fields).map(Block::Text).map(Some),
        "tool_result" => tool_result(fields).map(Some),
        _ => Ok(None),
    }
}

fn assistant_block(kind: &str, fields: &mut Fields) -> Result<Option<Block>, RequestError> {
    match kind {
        "text" => text(fields).map(Block::Text).map(Some),
        "thinking" => {
            let thinking = required(fields, "thinking")?;
            // Ours say nothing, and what another provider's say is for that provider.
            fields.string("signature")?;
            take_cache_control(fields)?;
            Ok(Some(Block::Thinking(thinking)))
        }
        "tool_use" => tool_use(fields).map(Some),
        _ => Ok(None),
    }
}

/// Takes `content`: a string, or a list of blocks.
fn take_blocks(fields: &mut Fields, read: ReadBlock) -> Result<Vec<Block>, RequestError> {
    let path = fields.path("content");
    let list = match fields.take("content") {
        None => return Err(missing(fields, "content")),
        Some(Value::String(text)) => return Ok(vec![Block::Text(text)]),
        Some(Value::Array(list)) => bounded(list, &path)?,
        Some(other) => return Err(wrong_type(&path, "a string or a list of blocks", &other)),
    };
    list.into_iter().enumerate().map(|(i, value)| block(value, &format!("{path}[{i}]"), read)).collect()
}

fn bounded(list: Vec<Value>, path: &str) -> Result<Vec<Value>, RequestError> {
    match list.len() {
        0 => Err(RequestError::field(path, format!("`{path}` is an empty list"))),
        n if n > PARTS_MAX => {
            Err(RequestError::field(path, format!("`{path}` has {n} blocks; at most {PARTS_MAX} are taken")))
        }
        _ => Ok(list),
    }
}

fn block(value: Value, path: &str, read: ReadBlock) -> Result<Block, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let kind = required(&mut fields, "type")?;
    let Some(block) = read(&kind, &mut fields)? else { return Err(refused_block(&kind, &fields)) };
    fields.finish()?;
    Ok(block)
}

fn refused_block(kind: &str, fields: &Fields) -> RequestError {
    let advice = REFUSED_BLOCKS
        .iter()
        .find(|(name, _)| *name == kind)
        .map_or("blocks of this type are not supported here; remove it", |(_, advice)| *advice);
    let text = format!("`{}` is {}: {advice}", fields.path("type"), quoted(kind));
    fields.error("type", text).with_code("unsupported_value")
}

/// The text of a text block.
fn text(fields: &mut Fields) -> Result<String, RequestError> {
    let text = required(fields, "text")?;
    take_cache_control(fields)?;
    if fields.list("citations")?.is_some_and(|list| !list.is_empty()) {
        let path = fields.path("citations");
        return Err(fields
            .error("citations", format!("`{path}` is not supported; remove it"))
            .with_code("unsupported_field"));
    }
    Ok(text)
}

/// Takes text: a string, or a list of text blocks.
fn take_texts(fields: &mut Fields, name: &str) -> Result<Option<Vec<String>>, RequestError> {
    let path = fields.path(name);
    let list = match fields.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(vec![text])),
        Some(Value::Array(list)) if list.is_empty() => return Ok(Some(Vec::new())),
        Some(Value::Array(list)) => bounded(list, &path)?,
        Some(other) => return Err(wrong_type(&path, "a string or a list of text blocks", &other)),
    };
    let entry = |(i, value)| {
        let mut fields = Fields::nested(value, &format!("{path}[{i}]"))?;
        match required(&mut fields, "type")?.as_str() {
            "text" => {
                let text = text(&mut fields)?;
                fields.finish()?;
                Ok(text)
            }
            other => Err(refused_block(other, &fields)),
        }
    };
    list.into_iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some)
}

fn tool_use(fields: &mut Fields) -> Result<Block, RequestError> {
    let id = required(fields, "id")?;
    let name = required(fields, "name")?;
    let input = fields.object("input")?.ok_or_else(|| missing(fields, "input"))?;
    take_cache_control(fields)?;
    if let Some(caller) = fields.object("caller")?
        && caller.get("type").and_then(Value::as_str) != Some("direct")
    {
        let path = fields.path("caller");
        return Err(fields.error("caller", format!("`{path}` can only be {{\"type\": \"direct\"}}")));
    }
    Ok(Block::ToolUse { id, name, input: Value::Object(input) })
}

fn tool_result(fields: &mut Fields) -> Result<Block, RequestError> {
    let tool_use_id = required(fields, "tool_use_id")?;
    let path = fields.path("tool_use_id");
    let mut text = take_texts(fields, "content")?.unwrap_or_default().join("\n");
    take_cache_control(fields)?;
    if fields.bool("is_error")? == Some(true) && !begins_with_error(&text) {
        // No template has a place for it, and the model has to know.
        text.insert_str(0, "Error: ");
    }
    Ok(Block::ToolResult { tool_use_id, text, path })
}

fn begins_with_error(text: &str) -> bool {
    text.trim_start().get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"))
}

/// A conversation as it grows.
#[derive(Default)]
struct Conversation {
    messages: Vec<Message>,
    /// The function of each call so far, by the call's id.
    called: HashMap<String, String>,
}

impl Conversation {
    fn add(&mut self, turn: Turn) -> Result<(), RequestError> {
        match turn.role {
            Role::User => self.add_user(turn.blocks),
            Role::Assistant => {
                self.add_assistant(turn.blocks);
                Ok(())
            }
            role => {
                let texts: Vec<String> = turn.blocks.into_iter().filter_map(into_text).collect();
                if !texts.is_empty() {
                    self.messages.push(Message::text(role, texts.join("\n")));
                }
                Ok(())
            }
        }
    }

    fn add_user(&mut self, blocks: Vec<Block>) -> Result<(), RequestError> {
        let mut texts = Vec::new();
        for block in blocks {
            match block {
                Block::ToolResult { tool_use_id, text, path } => {
                    let name = self.called.get(&tool_use_id).cloned().ok_or_else(|| {
                        let problem = format!(
                            "`{path}` is {}, which no `tool_use` before it has as its `id`",
                            quoted(&tool_use_id)
                        );
                        RequestError::field(path, problem)
                    })?;
                    self.messages.push(Message {
                        name: Some(name),
                        tool_call_id: Some(tool_use_id),
                        ..Message::text(Role::Tool, text)
                    });
                }
                block => texts.extend(into_text(block)),
            }
        }
        let content = match texts.len() {
            0 => return Ok(()),
            1 => Content::Text(texts.remove(0)),
            _ => Content::Parts(texts.into_iter().map(Part::Text).collect()),
        };
        self.messages.push(Message { content, ..Message::text(Role::User, "") });
        Ok(())
    }

    /// Templates that take a list of parts from users need not take one from the model, so its texts are joined.
    fn add_assistant(&mut self, blocks: Vec<Block>) {
        let (mut texts, mut thoughts, mut tool_calls) = (Vec::new(), Vec::new(), Vec::new());
        for block in blocks {
            match block {
                Block::Thinking(thinking) if thinking.is_empty() => {}
                Block::Thinking(thinking) => thoughts.push(thinking),
                Block::ToolUse { id, name, input } => {
                    self.called.insert(id.clone(), name.clone());
                    tool_calls.push(ToolCall { id: Some(id), index: 0, name, arguments: input });
                }
                block => texts.extend(into_text(block)),
            }
        }
        let content = match (texts.is_empty(), tool_calls.is_empty()) {
            (true, false) => Content::None,
            _ => Content::Text(texts.join("\n")),
        };
        let reasoning = (!thoughts.is_empty()).then(|| thoughts.join("\n"));
        self.messages.push(Message { content, reasoning, tool_calls, ..Message::text(Role::Assistant, "") });
    }
}

fn into_text(block: Block) -> Option<String> {
    match block {
        Block::Text(text) => Some(text),
        _ => None,
    }
}
