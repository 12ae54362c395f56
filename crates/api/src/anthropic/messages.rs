//! The body of a request for a message, and of one for the count of its tokens.

use ingle_chat::{ChatInput, Format, Message, ReasoningWish, Request, Role, Task};
use serde_json::Value;

use super::content::{required, take_messages};
use super::refused::{HARMLESS, REFUSED};
use super::tools::take_tools;
use crate::error::quoted;
use crate::fields::Fields;
use crate::openai::Caller;
use crate::openai::chat::take_template_vars;
use crate::openai::refused::check;
use crate::openai::sampling::{take_common, take_max_tokens, take_stop};
use crate::{RequestError, parse_object};

const I32_MAX: i128 = i32::MAX as i128;
/// The words for how hard a model thinks.
pub(super) const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// A body, read.
#[derive(Clone, Debug)]
pub struct MessagesCall {
    /// What is wanted.
    pub request: Request,
    /// Events instead of one body.
    pub stream: bool,
    /// Thoughts leave empty blocks in the reply.
    pub omit_thinking: bool,
}

/// Reads a request for a message.
///
/// # Errors
/// What is wrong with which field.
pub fn parse(body: &[u8], caller: Caller) -> Result<MessagesCall, RequestError> {
    let call = read(body, caller)?;
    if call.request.max_tokens.is_none() {
        return Err(RequestError::field(
            "max_tokens",
            "`max_tokens` is missing: say how many tokens the answer may have at most",
        ));
    }
    Ok(call)
}

/// Reads a request for a count. Whatever only bears on the answer is checked and has no effect.
///
/// # Errors
/// What is wrong with which field.
pub fn parse_count(body: &[u8], caller: Caller) -> Result<Request, RequestError> {
    let MessagesCall { mut request, stream, .. } = read(body, caller)?;
    if stream {
        return Err(RequestError::field("stream", "`stream` cannot be true: a count is one number"));
    }
    // It is the prompt alone that is counted, however long.
    request.max_tokens = None;
    request.min_tokens = 0;
    Ok(request)
}

fn read(body: &[u8], caller: Caller) -> Result<MessagesCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    check(&mut fields, &[REFUSED], &[HARMLESS])?;
    take_metadata(&mut fields)?;
    let mut messages = take_messages(&mut fields)?;
    take_context_management(&mut fields, &mut messages)?;
    let tools = take_tools(&mut fields)?;
    // 0 computes the prompt, which the cache then holds, and nothing else.
    let max_tokens = take_max_tokens(&mut fields, &["max_tokens"], 0)?;
    let (mut reasoning, omit_thinking) = take_thinking(&mut fields, max_tokens)?;
    let (effort, format) = take_output_config(&mut fields)?;
    reasoning.effort = effort;
    let input = ChatInput {
        continue_final_message: messages.last().is_some_and(|m| m.role == Role::Assistant),
        messages,
        tools: tools.definitions,
        tool_choice: tools.choice,
        one_tool_call: tools.at_most_one_call,
        reasoning,
        template_vars: take_template_vars(&mut fields)?,
    };
    let mut request = Request::new(caller.id, caller.principal, Task::Chat(input));
    request.max_tokens = max_tokens;
    request.format = format;
    let stop = take_stop(&mut fields, "stop_sequences")?;
    let temperature = fields.number(&["temperature"], 0.0, 1.0)?;
    take_common(&mut fields, &mut request)?;
    request.stop = stop;
    request.sampling.temperature = temperature;
    let stream = fields.bool("stream")?.unwrap_or(false);
    fields.finish()?;
    Ok(MessagesCall { request, stream, omit_thinking })
}

/// Who the client's user is has no effect on the answer.
fn take_metadata(fields: &mut Fields) -> Result<(), RequestError> {
    let Some(metadata) = fields.take("metadata") else { return Ok(()) };
    let mut metadata = Fields::nested(metadata, "metadata")?;
    metadata.string("user_id")?;
    metadata.finish()
}

/// The one edit that clients cannot make as well themselves without losing their place: leaving out old thoughts.
fn take_context_management(fields: &mut Fields, messages: &mut [Message]) -> Result<(), RequestError> {
    const CLEAR_THINKING: &str = "clear_thinking_20251015";
    let Some(value) = fields.take("context_management") else { return Ok(()) };
    let mut management = Fields::nested(value, "context_management")?;
    for (i, edit) in management.list("edits")?.unwrap_or_default().into_iter().enumerate() {
        let mut edit = Fields::nested(edit, &format!("context_management.edits[{i}]"))?;
        let kind = required(&mut edit, "type")?;
        if kind != CLEAR_THINKING {
            let text = format!(
                "`{}` is {}: only {CLEAR_THINKING} is supported; leave out yourself what the model shall not see",
                edit.path("type"),
                quoted(&kind)
            );
            return Err(edit.error("type", text).with_code("unsupported_value"));
        }
        let kept = take_keep(&mut edit)?;
        edit.finish()?;
        let spoken = messages.iter_mut().rev().filter(|m| m.role == Role::Assistant);
        spoken.skip(kept).for_each(|message| message.reasoning = None);
    }
    management.finish()
}

/// How many of the model's messages, from the last, keep their thoughts.
fn take_keep(edit: &mut Fields) -> Result<usize, RequestError> {
    let path = edit.path("keep");
    match edit.take("keep") {
        None => Ok(1),
        Some(Value::String(all)) if all == "all" => Ok(usize::MAX),
        Some(value) => {
            let mut keep = Fields::nested(value, &path)?;
            let kept = match required(&mut keep, "type")?.as_str() {
                "all" => usize::MAX,
                "thinking_turns" => keep.integer(&["value"], 1, I32_MAX)?.map_or(1, |n| n as usize),
                other => {
                    let text = format!("`{path}.type` is {}; it can be all or thinking_turns", quoted(other));
                    return Err(keep.error("type", text));
                }
            };
            keep.finish()?;
            Ok(kept)
        }
    }
}

/// Takes `thinking`: the wish, and whether thoughts stay out of the reply.
fn take_thinking(
    fields: &mut Fields,
    max_tokens: Option<u32>,
) -> Result<(ReasoningWish, bool), RequestError> {
    let mut wish = ReasoningWish::default();
    let Some(value) = fields.take("thinking") else { return Ok((wish, false)) };
    let mut thinking = Fields::nested(value, "thinking")?;
    match required(&mut thinking, "type")?.as_str() {
        "disabled" => wish.enabled = Some(false),
        // The model decides, which is what it does when nobody says anything.
        "adaptive" => {}
        "enabled" => {
            wish.enabled = Some(true);
            let budget = thinking.integer(&["budget_tokens"], 1, I32_MAX)?.map(|n| n as u32);
            if let (Some(budget), Some(max)) = (budget, max_tokens)
                && budget >= max
            {
                let text = format!(
                    "`thinking.budget_tokens` is {budget}, which leaves nothing of the {max} of `max_tokens` for the \
                     answer; give less"
                );
                return Err(thinking.error("budget_tokens", text));
            }
            wish.budget_tokens = budget;
        }
        other => {
            let text =
                format!("`thinking.type` is {}; it can be enabled, adaptive or disabled", quoted(other));
            return Err(thinking.error("type", text).with_code("unsupported_value"));
        }
    }
    let omit = match thinking.string("display")?.as_deref() {
        None | Some("summarized") => false,
        Some("omitted") => true,
        Some(other) => {
            let text = format!("`thinking.display` is {}; it can be summarized or omitted", quoted(other));
            return Err(thinking.error("display", text));
        }
    };
    thinking.finish()?;
    Ok((wish, omit))
}

/// Takes `output_config`, and `output_format`, which is an older name of a part of it.
fn take_output_config(fields: &mut Fields) -> Result<(Option<String>, Option<Format>), RequestError> {
    let (mut effort, mut schema) = (None, None);
    if let Some(value) = fields.take("output_config") {
        let mut config = Fields::nested(value, "output_config")?;
        effort = config.string("effort")?;
        if let Some(word) = effort.as_deref().filter(|word| !EFFORTS.contains(word)) {
            let text =
                format!("`output_config.effort` is {}; it can be {}", quoted(word), EFFORTS.join(", "));
            return Err(config.error("effort", text));
        }
        schema = take_schema(&mut config, "format")?;
        config.finish()?;
    }
    let older = take_schema(fields, "output_format")?;
    if let (Some(new), Some(old)) = (&schema, &older)
        && new != old
    {
        let text =
            "`output_config.format` and `output_format` are the same setting but differ; give one of them";
        return Err(fields.error("output_format", text));
    }
    Ok((effort, schema.or(older).map(Format::JsonSchema)))
}

fn take_schema(fields: &mut Fields, name: &str) -> Result<Option<Value>, RequestError> {
    let path = fields.path(name);
    let Some(value) = fields.take(name) else { return Ok(None) };
    let mut format = Fields::nested(value, &path)?;
    match required(&mut format, "type")?.as_str() {
        "json_schema" => {}
        other => {
            let text = format!("`{path}.type` is {}; it can be json_schema", quoted(other));
            return Err(format.error("type", text).with_code("unsupported_value"));
        }
    }
    let schema = format
        .object("schema")?
        .ok_or_else(|| format.error("schema", format!("`{path}.schema` is missing")))?;
    format.finish()?;
    Ok(Some(Value::Object(schema)))
}
