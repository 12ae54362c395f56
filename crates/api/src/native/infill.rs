//! llama-server's `/infill`: text for the gap between a prefix and a suffix.

use ingle_chat::{Delta, Echo, Event, FinishReason, Infill, InfillFile, Prompt, Request, Task, Usage};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::lora::take_lora;
use crate::openai::constraint::take_format;
use crate::openai::refused::{self, Harmless, Refused, harmless, is_false, is_true, refused};
use crate::openai::sampling::{take_generation, take_model};
use crate::openai::{Caller, Cost, Envelope, ErrorBody, ErrorObject, event};
use crate::{RequestError, StreamEncoder, parse_object};

/// The most other files.
pub const FILES_MAX: usize = 1024;

const I32_MAX: i128 = i32::MAX as i128;
const TIME: &str = "0 (answers are limited in tokens, with `n_predict`)";

/// Refused, whatever their value.
pub const REFUSED_INFILL: &[Refused] = &[
    refused("max_tokens", "use `n_predict`"),
    refused("suffix", "use `input_suffix`"),
    refused("messages", "it belongs to /v1/chat/completions"),
    refused("n_probs", "the reply has no log-probabilities; use `suffix` and `logprobs` of /v1/completions"),
    refused("response_fields", "the reply is always whole; remove it"),
];

/// Accepted with values under which the answer stays the same.
pub const HARMLESS_INFILL: &[Harmless] = &[
    harmless("cache_prompt", "true", is_true),
    harmless("id_slot", "-1", |v| v.as_i64() == Some(-1)),
    harmless("n_indent", "0", is_zero),
    harmless("t_max_prompt_ms", TIME, is_zero),
    harmless("t_max_predict_ms", TIME, is_zero),
    harmless("return_tokens", "false", is_false),
    harmless("return_progress", "false", is_false),
    harmless("timings_per_token", "false", is_false),
    harmless("post_sampling_probs", "false", is_false),
];

fn is_zero(v: &Value) -> bool {
    v.as_f64() == Some(0.0)
}

/// A body, read.
#[derive(Clone, Debug)]
pub struct InfillCall {
    /// What is wanted.
    pub request: Request,
    /// Events instead of one body.
    pub stream: bool,
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<InfillCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED_INFILL], &[HARMLESS_INFILL])?;
    let (prefix, suffix) = (fields.string("input_prefix")?, fields.string("input_suffix")?);
    if prefix.is_none() && suffix.is_none() {
        let text = "`input_prefix` and `input_suffix` are missing: give what stands around the gap";
        return Err(fields.error("input_prefix", text));
    }
    let infill = Infill {
        prefix: prefix.unwrap_or_default(),
        suffix: suffix.unwrap_or_default(),
        files: take_files(&mut fields)?,
        begun: fields.string("prompt")?.unwrap_or_default(),
    };
    let task = Task::Completion { prompt: Prompt::Infill(infill), echo: Echo::No };
    let mut request = Request::new(caller.id, caller.principal, task);
    request.model = take_model(&mut fields)?;
    request.adapters = take_lora(&mut fields)?;
    // -1 is as many as the context holds, and llama-server's default.
    request.max_tokens = fields.integer(&["n_predict"], -1, I32_MAX)?.and_then(|n| u32::try_from(n).ok());
    take_generation(&mut fields, &mut request)?;
    if request.n != 1 {
        return Err(fields
            .error("n", "`n` can only be 1: the reply has one answer")
            .with_code("unsupported_value"));
    }
    request.format = take_format(&mut fields)?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    fields.finish()?;
    Ok(InfillCall { request, stream })
}

/// `input_extra`: other texts of the project.
fn take_files(fields: &mut Fields) -> Result<Vec<InfillFile>, RequestError> {
    let path = fields.path("input_extra");
    let list = fields.list("input_extra")?.unwrap_or_default();
    if list.len() > FILES_MAX {
        let text = format!("`{path}` has {} entries; at most {FILES_MAX} are taken", list.len());
        return Err(RequestError::field(path, text));
    }
    let file = |(i, value)| {
        let mut fields = Fields::nested(value, &format!("{path}[{i}]"))?;
        let text = fields.string("text")?;
        let text = text.ok_or_else(|| fields.error("text", format!("`{path}[{i}].text` is missing")))?;
        let name = fields.string("filename")?.unwrap_or_else(|| "file".to_owned());
        fields.finish()?;
        Ok(InfillFile { name, text })
    };
    list.into_iter().enumerate().map(file).collect()
}

/// What an answer has come to.
#[derive(Debug, Default)]
struct Growing {
    text: String,
    finish: Option<FinishReason>,
    usage: Usage,
}

impl Growing {
    fn push(&mut self, event: &Event) {
        match event {
            Event::Text { text, .. } => self.text.push_str(text),
            Event::Finished(reason) => self.finish = Some(reason.clone()),
            Event::Done(usage) => self.usage = *usage,
            _ => {}
        }
    }

    /// The reply, with `content` in it; `None` if the answer never finished.
    fn reply(&self, envelope: &Envelope, content: &str) -> Option<Value> {
        let (stop_type, stopping_word) = match self.finish.as_ref()? {
            FinishReason::Stop { matched: Some(text) } => ("word", text.as_str()),
            FinishReason::Length => ("limit", ""),
            FinishReason::Stop { matched: None } | FinishReason::ToolCalls => ("eos", ""),
            FinishReason::Abort => ("none", ""),
        };
        let mut cost = Cost::default();
        cost.add(&self.usage);
        let mut reply = json!({
            "index": 0,
            "content": content,
            "stop": true,
            "model": envelope.model,
            "tokens_predicted": self.usage.completion_tokens,
            "tokens_evaluated": self.usage.prompt_tokens,
            "tokens_cached": self.usage.prompt_tokens + self.usage.completion_tokens,
            "has_new_line": self.text.contains('\n'),
            "truncated": self.usage.context_shifts > 0,
            "stop_type": stop_type,
            "stopping_word": stopping_word,
            "timings": cost.timings(),
        });
        if self.usage.context_shifts > 0 {
            reply["context_shifts"] = self.usage.context_shifts.into();
            reply["discarded_tokens"] = self.usage.discarded_tokens.into();
        }
        Some(reply)
    }
}

/// Collects an answer's pieces into one reply.
#[derive(Debug)]
pub struct InfillCollector {
    envelope: Envelope,
    growing: Growing,
}

impl InfillCollector {
    /// For one answer.
    pub fn new(envelope: Envelope) -> Self {
        Self { envelope, growing: Growing::default() }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        self.growing.push(&delta.event);
    }

    /// The reply body; `None` if the answer never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        Some(self.growing.reply(&self.envelope, &self.growing.text)?.to_string())
    }
}

/// Writes an answer's pieces as events, each with new text; the last has none, and what the answer cost.
#[derive(Debug)]
pub struct InfillEncoder {
    envelope: Envelope,
    growing: Growing,
}

impl InfillEncoder {
    /// For one answer.
    pub fn new(envelope: Envelope) -> Self {
        Self { envelope, growing: Growing::default() }
    }
}

impl StreamEncoder for InfillEncoder {
    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        self.growing.push(&delta.event);
        if let Event::Text { text, .. } = &delta.event
            && !text.is_empty()
        {
            event(&json!({ "index": 0, "content": text, "stop": false }), out);
        }
    }

    fn finish(&mut self, out: &mut String) {
        // An answer's pieces end with how it ended.
        if let Some(reply) = self.growing.reply(&self.envelope, "") {
            event(&reply, out);
        }
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        event(&ErrorBody { error: error.clone() }, out);
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::Principal;

    use super::*;

    fn read(body: Value) -> Result<InfillCall, RequestError> {
        let caller = Caller { id: "id".into(), principal: Principal::local() };
        parse(body.to_string().as_bytes(), caller)
    }

    #[test]
    fn bodies() {
        let body = json!({
            "input_prefix": "a(", "input_suffix": ")", "prompt": "b",
            "input_extra": [{ "filename": "x.rs", "text": "X" }, { "text": "Y" }],
            "n_predict": 7, "temperature": 0, "stop": ["\n"], "stream": true, "cache_prompt": true, "id_slot": -1,
            "t_max_predict_ms": 0,
        });
        let call = read(body).expect("valid");
        let file = |name: &str, text: &str| InfillFile { name: name.into(), text: text.into() };
        let infill = Infill {
            prefix: "a(".into(),
            suffix: ")".into(),
            files: vec![file("x.rs", "X"), file("file", "Y")],
            begun: "b".into(),
        };
        assert_eq!(call.request.task, Task::Completion { prompt: Prompt::Infill(infill), echo: Echo::No });
        assert_eq!((call.request.max_tokens, call.stream), (Some(7), true));
        let call = read(json!({ "input_prefix": "", "n_predict": -1 })).expect("valid");
        assert_eq!((call.request.max_tokens, call.stream), (None, false));
    }

    #[test]
    fn refusals() {
        let check = |more: Value, param: &str, part: &str| {
            let mut body = json!({ "input_prefix": "a" });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let error = read(body).expect_err(part);
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
            assert!(error.message.contains(part), "{error}");
        };
        check(json!({ "input_prefix": null }), "input_prefix", "what stands around the gap");
        check(json!({ "input_suffix": 5 }), "input_suffix", "a string");
        check(json!({ "input_extra": [{ "filename": "x" }] }), "input_extra[0].text", "missing");
        check(json!({ "input_extra": vec![json!({ "text": "" }); 1025] }), "input_extra", "at most 1024");
        check(json!({ "prompt": [1, 2] }), "prompt", "a string");
        check(json!({ "n": 2 }), "n", "one answer");
        check(json!({ "n_predict": -2 }), "n_predict", "from -1");
        check(json!({ "frobnicate": 1 }), "frobnicate", "unknown field");
        for field in REFUSED_INFILL {
            check(json!({ field.name: 1 }), field.name, field.advice);
        }
        for field in HARMLESS_INFILL {
            check(json!({ field.name: "x" }), field.name, field.accepted);
        }
    }
}
