//! Chat completions: the body, the reply, the chunks.

mod messages;
mod reasoning;
mod reply;
pub(crate) mod schema;
mod tools;

use ingle_chat::{ChatInput, Content, Message, Part, Request, Role, Task};
use serde_json::{Map, Value};

use super::constraint::take_format;
use super::refused::{self, HARMLESS, HARMLESS_CHAT, REFUSED, REFUSED_CHAT};
use super::sampling::{TOP_LOGPROBS_MAX, take_common, take_max_tokens};
use super::{Caller, Streaming, take_streaming};
use crate::error::quoted;
use crate::fields::Fields;
use crate::{RequestError, parse_object};

pub use crate::tools::{TOOLS_BYTES_MAX, TOOLS_MAX};
pub use messages::{MESSAGES_MAX, PARTS_MAX};
pub(crate) use reasoning::EFFORTS;
pub use reply::{ChatCollector, ChatEncoder};

use messages::{take_content, take_messages};
use reasoning::{Reasoning, take_reasoning};
use tools::{Tools, take_tools};

/// Names in `chat_template_kwargs` that belong to the conversation itself: a caller who could set them could put
/// words into the template's mouth.
pub const RESERVED_TEMPLATE_VARS: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "chat_template",
    "tokenize",
    "raise_exception",
    "strftime_now",
];

/// A chat body, read.
#[derive(Clone, Debug)]
pub struct ChatCall {
    /// What is wanted.
    pub request: Request,
    /// How the answer travels.
    pub streaming: Streaming,
    /// Whether thoughts are left out of the reply.
    pub hides_reasoning: bool,
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<ChatCall, RequestError> {
    read(Fields::new(parse_object(body)?), caller)
}

/// Reads the fields of a body.
pub(crate) fn read(mut fields: Fields, caller: Caller) -> Result<ChatCall, RequestError> {
    refused::check(&mut fields, &[REFUSED, REFUSED_CHAT], &[HARMLESS, HARMLESS_CHAT])?;
    let messages = take_messages(&mut fields)?;
    let Tools { list: tools, choice: tool_choice, one_call: one_tool_call } = take_tools(&mut fields)?;
    let Reasoning { wish: reasoning, is_hidden } = take_reasoning(&mut fields)?;
    let template_vars = take_template_vars(&mut fields)?;
    let continue_final_message = take_continue(&mut fields, &messages)?;
    let input = ChatInput {
        messages,
        tools,
        tool_choice,
        one_tool_call,
        reasoning,
        template_vars,
        continue_final_message,
    };
    let mut request = Request::new(caller.id, caller.principal, Task::Chat(input));
    request.max_tokens = take_max_tokens(&mut fields, &["max_completion_tokens", "max_tokens"], 1)?;
    take_common(&mut fields, &mut request)?;
    request.format = take_format(&mut fields)?;
    request.logprobs = take_logprobs(&mut fields)?;
    request.prediction = take_prediction(&mut fields)?;
    let streaming = take_streaming(&mut fields)?;
    if streaming.stream && request.prompt_logprobs.is_some() {
        return Err(
            fields.error("prompt_logprobs", "`prompt_logprobs` cannot be streamed; set `stream` to false")
        );
    }
    fields.finish()?;
    Ok(ChatCall { request, streaming, hides_reasoning: is_hidden })
}

pub(crate) fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, RequestError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer(&["top_logprobs"], 0, TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fields.error("top_logprobs", "`top_logprobs` needs `logprobs` set to true")),
    }
}

pub(crate) fn take_template_vars(fields: &mut Fields) -> Result<Map<String, Value>, RequestError> {
    let vars = fields.object("chat_template_kwargs")?.unwrap_or_default();
    match vars.keys().find(|k| RESERVED_TEMPLATE_VARS.contains(&k.as_str())) {
        Some(name) => Err(RequestError::field(
            format!("chat_template_kwargs.{name}"),
            format!("`chat_template_kwargs.{name}` is reserved: the server sets it; remove it"),
        )),
        None => Ok(vars),
    }
}

/// What the client takes the answer to be: text, or parts of it.
fn take_prediction(fields: &mut Fields) -> Result<Option<String>, RequestError> {
    let path = fields.path("prediction");
    let Some(value) = fields.take("prediction") else { return Ok(None) };
    let mut prediction = Fields::nested(value, &path)?;
    match prediction.string("type")?.as_deref() {
        Some("content") => {}
        Some(other) => {
            let message = format!("`{path}.type` is {}; it can only be content", quoted(other));
            return Err(prediction.error("type", message));
        }
        None => return Err(prediction.error("type", format!("`{path}.type` is missing; it is content"))),
    }
    let content = take_content(&mut prediction)?;
    prediction.finish()?;
    match content {
        Content::None => {
            let message = format!("`{path}.content` is missing: give the text that is predicted");
            Err(RequestError::field(format!("{path}.content"), message))
        }
        Content::Text(text) => Ok(Some(text)),
        Content::Parts(parts) => Ok(Some(parts.into_iter().map(|Part::Text(text)| text).collect())),
    }
}

fn take_continue(fields: &mut Fields, messages: &[Message]) -> Result<bool, RequestError> {
    let continued = fields.bool("continue_final_message")?.unwrap_or(false);
    let generation_prompt = fields.bool("add_generation_prompt")?;
    match (continued, generation_prompt) {
        (true, Some(true)) => Err(fields.error(
            "continue_final_message",
            "`continue_final_message` continues a message and `add_generation_prompt` begins one; set one of them",
        )),
        (true, _) if messages.last().is_none_or(|m| m.role != Role::Assistant) => Err(fields
            .error("continue_final_message", "`continue_final_message` needs an assistant message at the end")),
        (false, Some(false)) => Err(fields
            .error(
                "add_generation_prompt",
                "`add_generation_prompt` can be false only with `continue_final_message`",
            )
            .with_code("unsupported_value")),
        (continued, _) => Ok(continued),
    }
}

#[cfg(test)]
mod tests;
