//! The reply to a chat body, whole and in chunks.

use ingle_chat::{Delta, Event, FinishReason, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::ChatCall;
use crate::StreamEncoder;
use crate::openai::logprobs::prompt_logprobs;
use crate::openai::usage::Cost;
use crate::openai::{
    ChatLogprobs, DONE, Envelope, ErrorBody, ErrorObject, Timings, Usage, event, finish_name, json,
    stop_reason,
};

/// How much of a reply's id an id of a call repeats: with the numbers after it, it stays within the 40 characters that
/// other servers take.
const CALL_ID_CHARS: usize = 24;

/// The id of a call that the model gave none.
fn call_id(envelope: &Envelope, choice: u32, index: u32) -> String {
    let id = envelope.id.rsplit('-').next().unwrap_or_default();
    let short: String = id.chars().take(CALL_ID_CHARS).collect();
    format!("call_{short}_{choice}_{index}")
}

/// A whole reply.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a [Option<Map<String, Value>>]>,
    timings: Timings,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChoice")]
struct Choice<'a> {
    index: u32,
    message: ReplyMessage<'a>,
    logprobs: Option<&'a ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

/// Thoughts have two names among peers; clients look for either.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatReplyMessage")]
struct ReplyMessage<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

/// A call, whole or a piece: pieces have an index, and only the first has id and name.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatToolCall")]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatFunctionCall")]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// A streamed piece.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletionChunk")]
pub(super) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice<'a>],
    /// Outer: whether the field is there at all; inner: null on all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChunkChoice")]
struct ChunkChoice<'a> {
    index: u32,
    delta: ChunkDelta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatChunkDelta")]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Outer: whether the field is there at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[Call<'a>; 1]>,
}

/// One call as it grows.
#[derive(Debug)]
struct GrowingCall {
    index: u32,
    id: String,
    name: String,
    arguments: String,
}

impl GrowingCall {
    fn shown(&self) -> Call<'_> {
        Call {
            index: None,
            id: Some(&self.id),
            kind: Some("function"),
            function: Function { name: Some(&self.name), arguments: &self.arguments },
        }
    }
}

/// One answer as it grows.
#[derive(Debug, Default)]
struct Growing {
    text: String,
    reasoning: String,
    calls: Vec<GrowingCall>,
    logprobs: Option<ChatLogprobs>,
    finish: Option<FinishReason>,
}

impl Growing {
    fn message(&self) -> ReplyMessage<'_> {
        let reasoning = Some(self.reasoning.as_str()).filter(|r| !r.is_empty());
        ReplyMessage {
            role: "assistant",
            content: Some(self.text.as_str()).filter(|text| !text.is_empty() || self.calls.is_empty()),
            refusal: None,
            reasoning_content: reasoning,
            reasoning,
            tool_calls: self.calls.iter().map(GrowingCall::shown).collect(),
        }
    }
}

/// Collects an answer's pieces into one reply.
#[derive(Debug)]
pub struct ChatCollector {
    envelope: Envelope,
    hides_reasoning: bool,
    choices: Vec<Growing>,
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    cost: Cost,
}

impl ChatCollector {
    /// For the answer to `call`.
    pub fn new(envelope: Envelope, call: &ChatCall) -> Self {
        let logprobs = || call.request.logprobs.map(|_| ChatLogprobs::default());
        Self {
            envelope,
            hides_reasoning: call.hides_reasoning,
            choices: (0..call.request.n)
                .map(|_| Growing { logprobs: logprobs(), ..Growing::default() })
                .collect(),
            prompt_logprobs: None,
            cost: Cost::default(),
        }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        match &delta.event {
            Event::PromptLogprobs(tokens) => self.prompt_logprobs = Some(prompt_logprobs(tokens)),
            Event::Done(usage) => self.cost.add(usage),
            _ => {}
        }
        let Some(choice) = self.choices.get_mut(delta.choice as usize) else { return };
        match &delta.event {
            Event::Text { text, logprobs } => {
                choice.text.push_str(text);
                if let Some(list) = &mut choice.logprobs {
                    list.extend(logprobs);
                }
            }
            Event::Reasoning { text, logprobs } if !self.hides_reasoning => {
                choice.reasoning.push_str(text);
                if let Some(list) = &mut choice.logprobs {
                    list.extend(logprobs);
                }
            }
            Event::ToolCall { index, id, name } => choice.calls.push(GrowingCall {
                index: *index,
                id: id.clone().unwrap_or_else(|| call_id(&self.envelope, delta.choice, *index)),
                name: name.clone(),
                arguments: String::new(),
            }),
            Event::ToolArguments { index, json } => {
                if let Some(call) = choice.calls.iter_mut().rev().find(|call| call.index == *index) {
                    call.arguments.push_str(json);
                }
            }
            Event::Finished(reason) => choice.finish = Some(reason.clone()),
            _ => {}
        }
    }

    /// The reply body; `None` if a choice never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let choices = (0..).zip(&self.choices).map(|(index, c)| {
            let reason = c.finish.as_ref()?;
            Some(Choice {
                index,
                message: c.message(),
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
            usage: self.cost.usage(),
            system_fingerprint: &self.envelope.fingerprint,
            prompt_logprobs: self.prompt_logprobs.as_deref(),
            timings: self.cost.timings(),
        }))
    }
}

/// Writes an answer's pieces as events.
///
/// Per choice: one chunk with the role and the first piece, chunks with pieces (text, thoughts, calls), one with the
/// finish reason and an empty delta. Then, if wanted, one chunk without choices and with the usage. The last of them
/// has the timings. Then `[DONE]`.
#[derive(Debug)]
pub struct ChatEncoder {
    envelope: Envelope,
    hides_reasoning: bool,
    /// Per choice, whether its role was sent.
    begun: Vec<bool>,
    /// The end of a choice: it may turn out to be the last chunk.
    ending: Option<(u32, FinishReason)>,
    logprobs: bool,
    include_usage: bool,
    cost: Cost,
}

impl ChatEncoder {
    /// For the answer to `call`.
    pub fn new(envelope: Envelope, call: &ChatCall) -> Self {
        Self {
            envelope,
            hides_reasoning: call.hides_reasoning,
            begun: vec![false; call.request.n as usize],
            ending: None,
            logprobs: call.request.logprobs.is_some(),
            include_usage: call.streaming.include_usage,
            cost: Cost::default(),
        }
    }

    fn chunk(
        &self,
        choices: &[ChunkChoice],
        usage: Option<Usage>,
        timings: Option<Timings>,
        out: &mut String,
    ) {
        let chunk = Chunk {
            id: &self.envelope.id,
            object: "chat.completion.chunk",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: &self.envelope.fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
            timings,
        };
        event(&chunk, out);
    }

    /// Sends the end that was held back.
    fn end(&mut self, timings: Option<Timings>, out: &mut String) {
        let Some((index, reason)) = self.ending.take() else { return };
        let last = ChunkChoice {
            index,
            delta: ChunkDelta::default(),
            logprobs: None,
            finish_reason: Some(finish_name(&reason)),
            stop_reason: stop_reason(&reason),
        };
        self.chunk(&[last], None, timings, out);
    }

    /// Sends a piece, the first one with the role.
    fn piece(&mut self, index: u32, mut delta: ChunkDelta, tokens: &[TokenLogprob], out: &mut String) {
        let Some(begun) = self.begun.get_mut(index as usize) else { return };
        if !std::mem::replace(begun, true) {
            delta.role = Some("assistant");
            delta.content.get_or_insert(None);
        }
        let logprobs = (self.logprobs && !tokens.is_empty()).then(|| {
            let mut list = ChatLogprobs::default();
            list.extend(tokens);
            list
        });
        self.end(None, out);
        let choice = ChunkChoice { index, delta, logprobs, finish_reason: None, stop_reason: None };
        self.chunk(&[choice], None, None, out);
    }

    fn has_begun(&self, index: u32) -> bool {
        self.begun.get(index as usize) != Some(&false)
    }
}

impl StreamEncoder for ChatEncoder {
    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        let index = delta.choice;
        // The role waits for the first token, so that a client that measures the time to it is not misled.
        let shows = |text: &str, tokens: &[TokenLogprob], this: &Self| {
            !text.is_empty() || (!tokens.is_empty() && (this.logprobs || !this.has_begun(index)))
        };
        match &delta.event {
            Event::Text { text, logprobs } if shows(text, logprobs, self) => {
                let delta = ChunkDelta { content: Some(Some(text)), ..ChunkDelta::default() };
                self.piece(index, delta, logprobs, out);
            }
            Event::Reasoning { text, logprobs } if !self.hides_reasoning && shows(text, logprobs, self) => {
                let delta = ChunkDelta {
                    reasoning_content: Some(text),
                    reasoning: Some(text),
                    ..ChunkDelta::default()
                };
                self.piece(index, delta, logprobs, out);
            }
            Event::ToolCall { index: call, id, name } => {
                let made_up = || call_id(&self.envelope, index, *call);
                let id = id.clone().unwrap_or_else(made_up);
                let call = Call {
                    index: Some(*call),
                    id: Some(&id),
                    kind: Some("function"),
                    function: Function { name: Some(name), arguments: "" },
                };
                self.piece(index, ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() }, &[], out);
            }
            Event::ToolArguments { index: call, json } if !json.is_empty() => {
                let function = Function { name: None, arguments: json };
                let call = Call { index: Some(*call), function, ..Call::default() };
                self.piece(index, ChunkDelta { tool_calls: Some([call]), ..ChunkDelta::default() }, &[], out);
            }
            Event::Finished(reason) => {
                if !self.has_begun(index) {
                    let delta = ChunkDelta { content: Some(Some("")), ..ChunkDelta::default() };
                    self.piece(index, delta, &[], out);
                }
                self.end(None, out);
                self.ending = Some((index, reason.clone()));
            }
            Event::Done(usage) => self.cost.add(usage),
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut String) {
        let timings = Some(self.cost.timings());
        if self.include_usage {
            self.end(None, out);
            self.chunk(&[], Some(self.cost.usage()), timings, out);
        } else {
            self.end(timings, out);
        }
        out.push_str(DONE);
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        self.end(None, out);
        event(&ErrorBody { error: error.clone() }, out);
    }
}
