//! Chat completions: the body, the reply, the chunks.

use ingle_chat::{
    ChatInput, Content, Delta, Event, FinishReason, Message, Part, Request, Role, Task, TokenLogprob,
    ToolCall,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::logprobs::prompt_logprobs;
use super::refused::{self, HARMLESS, HARMLESS_CHAT, REFUSED, REFUSED_CHAT};
use super::sampling::{TOP_LOGPROBS_MAX, take_common, take_max_tokens};
use super::{
    Caller, ChatLogprobs, DONE, Envelope, ErrorObject, Streaming, Usage, event, finish_name, into_string,
    json, stop_reason, take_streaming,
};
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::{RequestError, StreamEncoder, parse_object};

/// The most messages of a conversation.
pub const MESSAGES_MAX: usize = 16_384;
/// The most parts of a message, and calls in one.
pub const PARTS_MAX: usize = 1024;

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
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<ChatCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED, REFUSED_CHAT], &[HARMLESS, HARMLESS_CHAT])?;
    let messages = take_messages(&mut fields)?;
    let template_vars = take_template_vars(&mut fields)?;
    let continue_final_message = take_continue(&mut fields, &messages)?;
    let input = ChatInput { messages, template_vars, continue_final_message, ..ChatInput::default() };
    let mut request = Request::new(caller.id, caller.principal, Task::Chat(input));
    request.max_tokens = take_max_tokens(&mut fields, &["max_completion_tokens", "max_tokens"], 1)?;
    take_common(&mut fields, &mut request)?;
    request.logprobs = take_logprobs(&mut fields)?;
    let streaming = take_streaming(&mut fields)?;
    if streaming.stream && request.prompt_logprobs.is_some() {
        return Err(
            fields.error("prompt_logprobs", "`prompt_logprobs` cannot be streamed; set `stream` to false")
        );
    }
    fields.finish()?;
    Ok(ChatCall { request, streaming })
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, RequestError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer(&["top_logprobs"], 0, TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fields.error("top_logprobs", "`top_logprobs` needs `logprobs` set to true")),
    }
}

fn take_template_vars(fields: &mut Fields) -> Result<Map<String, Value>, RequestError> {
    let vars = fields.object("chat_template_kwargs")?.unwrap_or_default();
    match vars.keys().find(|k| RESERVED_TEMPLATE_VARS.contains(&k.as_str())) {
        Some(name) => Err(RequestError::field(
            format!("chat_template_kwargs.{name}"),
            format!("`chat_template_kwargs.{name}` is reserved: the server sets it; remove it"),
        )),
        None => Ok(vars),
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

fn take_messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
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
    for name in ["annotations", "audio", "function_call", "refusal"] {
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
        if fields.take(name).is_some_and(|v| !empty(&v)) {
            let path = fields.path(name);
            return Err(fields
                .error(name, format!("`{path}` is not supported; remove it"))
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
    Ok(ToolCall { id, name, arguments: Value::Object(arguments) })
}

fn take_content(fields: &mut Fields) -> Result<Content, RequestError> {
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

/// A whole reply.
#[derive(Debug, Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a [Option<Map<String, Value>>]>,
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: u32,
    message: ReplyMessage<'a>,
    logprobs: Option<&'a ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ReplyMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

/// A streamed piece.
#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice<'a>],
    /// Outer: whether the field is there at all; inner: null on all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: ChunkDelta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

#[derive(Debug, Default, Serialize)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// One answer as it grows.
#[derive(Debug, Default)]
struct Growing {
    text: String,
    logprobs: Option<ChatLogprobs>,
    finish: Option<FinishReason>,
}

/// Collects an answer's pieces into one reply.
#[derive(Debug)]
pub struct ChatCollector {
    envelope: Envelope,
    choices: Vec<Growing>,
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    usage: Usage,
}

impl ChatCollector {
    /// For the answer to `request`.
    pub fn new(envelope: Envelope, request: &Request) -> Self {
        let fresh =
            || Growing { logprobs: request.logprobs.map(|_| ChatLogprobs::default()), ..Growing::default() };
        Self {
            envelope,
            choices: (0..request.n).map(|_| fresh()).collect(),
            prompt_logprobs: None,
            usage: Usage::default(),
        }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        let choice = self.choices.get_mut(delta.choice as usize);
        match (&delta.event, choice) {
            (Event::Text { text, logprobs }, Some(choice)) => {
                choice.text.push_str(text);
                if let Some(list) = &mut choice.logprobs {
                    list.extend(logprobs);
                }
            }
            (Event::Finished(reason), Some(choice)) => choice.finish = Some(reason.clone()),
            (Event::PromptLogprobs(tokens), _) => self.prompt_logprobs = Some(prompt_logprobs(tokens)),
            (Event::Done(usage), _) => self.usage.add(usage),
            _ => {}
        }
    }

    /// The reply body; `None` if a choice never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let choices = (0..).zip(&self.choices).map(|(index, c)| {
            let reason = c.finish.as_ref()?;
            Some(Choice {
                index,
                message: ReplyMessage { role: "assistant", content: &c.text, refusal: None },
                logprobs: c.logprobs.as_ref(),
                finish_reason: finish_name(reason),
                stop_reason: stop_reason(reason),
            })
        });
        let choices = choices.collect::<Option<Vec<_>>>()?;
        Some(json(&ChatCompletion {
            id: &self.envelope.id,
            object: "chat.completion",
            created: self.envelope.created,
            model: &self.envelope.model,
            choices,
            usage: self.usage,
            system_fingerprint: &self.envelope.fingerprint,
            prompt_logprobs: self.prompt_logprobs.as_deref(),
        }))
    }
}

/// Writes an answer's pieces as events.
///
/// Per choice: one chunk with the role and the first text, chunks with text, one with the finish reason and an empty
/// delta. Then, if wanted, one chunk without choices and with the usage. Then `[DONE]`.
#[derive(Debug)]
pub struct ChatEncoder {
    envelope: Envelope,
    /// Per choice, whether its role was sent.
    begun: Vec<bool>,
    logprobs: bool,
    include_usage: bool,
    usage: Usage,
}

impl ChatEncoder {
    /// For the answer to `request`.
    pub fn new(envelope: Envelope, request: &Request, streaming: Streaming) -> Self {
        Self {
            envelope,
            begun: vec![false; request.n as usize],
            logprobs: request.logprobs.is_some(),
            include_usage: streaming.include_usage,
            usage: Usage::default(),
        }
    }

    fn chunk(&self, choices: &[ChunkChoice], usage: Option<Usage>, out: &mut String) {
        let chunk = Chunk {
            id: &self.envelope.id,
            object: "chat.completion.chunk",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: &self.envelope.fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        event(&chunk, out);
    }

    fn text(&mut self, index: u32, text: &str, logprobs: &[TokenLogprob], out: &mut String) {
        let Some(begun) = self.begun.get_mut(index as usize) else { return };
        let first = !std::mem::replace(begun, true);
        let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| {
            let mut list = ChatLogprobs::default();
            list.extend(logprobs);
            list
        });
        if text.is_empty() && logprobs.is_none() && !first {
            return;
        }
        let delta = ChunkDelta { role: first.then_some("assistant"), content: Some(text) };
        self.chunk(
            &[ChunkChoice { index, delta, logprobs, finish_reason: None, stop_reason: None }],
            None,
            out,
        );
    }
}

impl StreamEncoder for ChatEncoder {
    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        let index = delta.choice;
        match &delta.event {
            // The role waits for the first token, so that a client that measures the time to it is not misled.
            Event::Text { text, logprobs } if !text.is_empty() || !logprobs.is_empty() => {
                self.text(index, text, logprobs, out);
            }
            Event::Finished(reason) => {
                if self.begun.get(index as usize) == Some(&false) {
                    self.text(index, "", &[], out);
                }
                let last = ChunkChoice {
                    index,
                    delta: ChunkDelta::default(),
                    logprobs: None,
                    finish_reason: Some(finish_name(reason)),
                    stop_reason: stop_reason(reason),
                };
                self.chunk(&[last], None, out);
            }
            Event::Done(usage) => self.usage.add(usage),
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut String) {
        if self.include_usage {
            self.chunk(&[], Some(self.usage), out);
        }
        out.push_str(DONE);
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        event(&super::ErrorBody { error: error.clone() }, out);
    }
}
