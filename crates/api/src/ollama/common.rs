//! The bodies of both routes: the fields around prompt and messages.

use ingle_chat::{
    ChatInput, Content, Echo, Format, Infill, KeepAlive, Message, Prompt, ReasoningWish, Request, Role, Task,
};
use serde_json::Value;

use super::Call;
use super::messages::{take_messages, take_tools};
use super::options::take_options;
use super::refused::{EMPTY, HARMLESS, REFUSED, REFUSED_CHAT, REFUSED_GENERATE, check_empty};
use crate::fields::{Fields, wrong_type};
use crate::openai::Caller;
use crate::openai::chat::take_logprobs;
use crate::openai::refused;
use crate::{RequestError, parse_object};

/// How hard a model may be told to think.
pub(super) const EFFORTS: [&str; 4] = ["low", "medium", "high", "max"];

pub(super) fn parse_generate(body: &[u8], caller: Caller) -> Result<Call, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED, REFUSED_GENERATE], &[HARMLESS])?;
    check_empty(&mut fields, &[EMPTY])?;
    let prompt = fields.string("prompt")?.unwrap_or_default();
    let system = fields.string("system")?.filter(|s| !s.is_empty());
    let raw = fields.bool("raw")?.unwrap_or(false);
    let reasoning = take_think(&mut fields)?;
    let suffix = fields.string("suffix")?.filter(|s| !s.is_empty());
    let load_only = prompt.is_empty() && suffix.is_none();
    let without_template = match (raw, suffix) {
        (true, Some(_)) => {
            let text = "`suffix` is marked with the model's own tokens, which `raw` leaves to you; remove one of the two";
            return Err(fields.error("suffix", text));
        }
        // Whoever writes the template's part writes its control tokens, too.
        (true, None) => Some(("raw", Prompt::Marked(prompt.clone()))),
        (false, Some(suffix)) => {
            let infill = Infill { prefix: prompt.clone(), suffix, ..Infill::default() };
            Some(("suffix", Prompt::Infill(infill)))
        }
        (false, None) => None,
    };
    let task = if let Some((by, prompt)) = without_template {
        let given = [("system", system.is_some()), ("think", reasoning.enabled == Some(true))];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            let text = format!(
                "`{name}` needs the model's template, which `{by}` leaves out; remove one of the two"
            );
            return Err(fields.error(name, text));
        }
        Task::Completion { prompt, echo: Echo::No }
    } else {
        let system = system.map(|text| Message::text(Role::System, text));
        let messages = system.into_iter().chain([Message::text(Role::User, prompt)]).collect();
        Task::Chat(ChatInput { messages, reasoning, ..ChatInput::default() })
    };
    finish(fields, Request::new(caller.id, caller.principal, task), load_only)
}

pub(super) fn parse_chat(body: &[u8], caller: Caller) -> Result<Call, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED, REFUSED_CHAT], &[HARMLESS])?;
    check_empty(&mut fields, &[EMPTY])?;
    let messages = take_messages(&mut fields)?;
    let tools = take_tools(&mut fields)?;
    let reasoning = take_think(&mut fields)?;
    let load_only = messages.is_empty();
    let continue_final_message = messages.last().is_some_and(is_begun);
    let input = ChatInput { messages, tools, reasoning, continue_final_message, ..ChatInput::default() };
    finish(fields, Request::new(caller.id, caller.principal, Task::Chat(input)), load_only)
}

/// Whether a message is the beginning of the answer: words in the model's mouth.
fn is_begun(message: &Message) -> bool {
    let said = matches!(&message.content, Content::Text(text) if !text.is_empty());
    message.role == Role::Assistant && said && message.tool_calls.is_empty()
}

/// The fields that both routes have.
fn finish(mut fields: Fields, mut request: Request, load_only: bool) -> Result<Call, RequestError> {
    request.model = fields.string("model")?.filter(|m| !m.is_empty());
    request.format = take_format(&mut fields)?;
    request.logprobs = take_logprobs(&mut fields)?;
    let num_ctx = take_options(&mut fields, &mut request)?;
    if let Some(shift) = fields.bool("shift")? {
        request.sampling.context_shift = Some(shift);
    }
    let stream = fields.bool("stream")?.unwrap_or(true);
    let keep_alive = take_keep_alive(&mut fields)?;
    fields.finish()?;
    Ok(Call { request, stream, num_ctx, load_only, keep_alive })
}

/// `format`: `"json"` or a schema. Clients send `""` when nobody set it.
fn take_format(fields: &mut Fields) -> Result<Option<Format>, RequestError> {
    match fields.take("format") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(Format::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(Some(Format::JsonSchema(schema))),
        Some(Value::String(_)) => {
            Err(fields.error("format", "`format` must be \"json\" or a JSON schema (an object)"))
        }
        Some(other) => Err(wrong_type("format", "\"json\" or a JSON schema (an object)", &other)),
    }
}

/// `think`: whether, or how hard.
fn take_think(fields: &mut Fields) -> Result<ReasoningWish, RequestError> {
    let (enabled, effort) = match fields.take("think") {
        None => (None, None),
        Some(Value::Bool(enabled)) => (Some(enabled), None),
        Some(Value::String(effort)) if EFFORTS.contains(&effort.as_str()) => (Some(true), Some(effort)),
        Some(_) => {
            let message = format!("`think` must be true, false, or one of {}", EFFORTS.join(", "));
            return Err(fields.error("think", message));
        }
    };
    Ok(ReasoningWish { enabled, effort, ..ReasoningWish::default() })
}

/// `keep_alive`: a number of seconds or a duration, where below zero is for ever. It changes no answer.
pub(crate) fn take_keep_alive(fields: &mut Fields) -> Result<Option<KeepAlive>, RequestError> {
    let seconds = match fields.take("keep_alive") {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => duration_s(&text),
        Some(other) => return Err(wrong_type("keep_alive", "a number of seconds or a duration", &other)),
    };
    let wrong = || {
        fields.error(
            "keep_alive",
            "`keep_alive` must be a number of seconds, or a duration such as \"5m\" or \"1h30m\"",
        )
    };
    seconds.map(|seconds| Some(KeepAlive::from_seconds(seconds))).ok_or_else(wrong)
}

/// A duration as Go writes it, such as `-1.5h30m`, or a bare number of seconds.
pub(super) fn duration_s(text: &str) -> Option<f64> {
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mut rest, mut seconds) = (unsigned, 0.0);
    loop {
        let (number, tail) = rest.split_at(rest.find(|c| !is_of_number(c)).unwrap_or(rest.len()));
        let (unit, tail) = tail.split_at(tail.find(is_of_number).unwrap_or(tail.len()));
        let unit_s = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" if number.len() == unsigned.len() => 1.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_s;
        rest = tail;
        if rest.is_empty() {
            return Some(if text.starts_with('-') { -seconds } else { seconds });
        }
    }
}
