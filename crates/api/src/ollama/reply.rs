//! What comes back: lines of JSON as an answer grows, or one body.

use std::time::Duration;

use ingle_chat::{Delta, Event, FinishReason, TokenLogprob, Usage};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::time::rfc3339;
use super::{Route, error_body, json};
use crate::StreamEncoder;
use crate::openai::{ChatTop, ErrorObject};

/// What every line of a reply repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The request's id. Calls without an id get one made of it.
    pub id: String,
    /// The model, by the name that was asked for.
    pub model: String,
    /// Says what time it is, since the epoch: each line has its own.
    pub clock: fn() -> Duration,
}

/// A token with its log-probability.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaToken")]
struct TokenLine {
    #[serde(flatten)]
    token: ChatTop,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<ChatTop>,
}

/// A call of a tool, complete.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaToolCall")]
struct CallLine {
    id: String,
    function: FunctionLine,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaFunctionCall")]
struct FunctionLine {
    index: u32,
    name: String,
    arguments: Map<String, Value>,
}

/// What an answer cost: times in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaMetrics")]
struct Metrics {
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
    /// How often tokens made way in a full context; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_shifts: Option<u64>,
    /// How many tokens did.
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded_tokens: Option<u64>,
}

/// What a line adds to the answer.
#[derive(Debug, Default)]
struct Said {
    text: String,
    thinking: String,
    tool_calls: Vec<CallLine>,
    logprobs: Vec<TokenLine>,
}

/// How an answer ended; `None` for what came before.
#[derive(Clone, Copy, Debug)]
struct Ending {
    done_reason: &'static str,
    /// `None` if nothing was generated.
    metrics: Option<Metrics>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaGenerateReply")]
pub(super) struct GenerateLine<'a> {
    model: &'a str,
    created_at: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logprobs: &'a [TokenLine],
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaChatReply")]
pub(super) struct ChatLine<'a> {
    model: &'a str,
    created_at: &'a str,
    message: MessageLine<'a>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logprobs: &'a [TokenLine],
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaReplyMessage")]
struct MessageLine<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [CallLine],
}

impl Metrics {
    fn new(usage: &Usage) -> Self {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            total_duration: ns(usage.queued + usage.prefill + usage.decode),
            // A model is in memory before requests come to it.
            load_duration: 0,
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: ns(usage.prefill),
            eval_count: usage.completion_tokens,
            // Clients divide by it; the only token of an answer comes with the prompt's step.
            eval_duration: ns(usage.decode).max(u64::from(usage.completion_tokens > 0)),
            context_shifts: (usage.context_shifts > 0).then_some(usage.context_shifts),
            discarded_tokens: (usage.context_shifts > 0).then_some(usage.discarded_tokens),
        }
    }
}

impl Said {
    fn is_empty(&self) -> bool {
        self.text.is_empty()
            && self.thinking.is_empty()
            && self.tool_calls.is_empty()
            && self.logprobs.is_empty()
    }

    fn add_logprobs(&mut self, tokens: &[TokenLogprob]) {
        self.logprobs.extend(tokens.iter().map(|t| TokenLine {
            token: ChatTop::new(&t.bytes, t.logprob.unwrap_or(f32::NEG_INFINITY)),
            top_logprobs: t.top.iter().map(|(_, bytes, logprob)| ChatTop::new(bytes, *logprob)).collect(),
        }));
    }
}

impl Envelope {
    /// The reply to a call that only wants the model in memory, where it is.
    pub fn loaded(&self, route: Route) -> String {
        self.line(route, &Said::default(), Some(Ending { done_reason: "load", metrics: None }))
    }

    /// The reply to a call that only wants the model out of memory.
    pub fn unloaded(&self, route: Route) -> String {
        self.line(route, &Said::default(), Some(Ending { done_reason: "unload", metrics: None }))
    }

    fn line(&self, route: Route, said: &Said, ending: Option<Ending>) -> String {
        let created_at = &rfc3339((self.clock)());
        let (done, done_reason) = (ending.is_some(), ending.map(|e| e.done_reason));
        let metrics = ending.and_then(|e| e.metrics);
        let Said { text, thinking, tool_calls, logprobs } = said;
        let model = &self.model;
        match route {
            Route::Generate => json(&GenerateLine {
                model,
                created_at,
                response: text,
                thinking,
                done,
                done_reason,
                metrics,
                logprobs,
            }),
            Route::Chat => json(&ChatLine {
                model,
                created_at,
                message: MessageLine { role: "assistant", content: text, thinking, tool_calls },
                done,
                done_reason,
                logprobs,
                metrics,
            }),
        }
    }
}

/// A call whose arguments are coming.
#[derive(Debug)]
struct GrowingCall {
    index: u32,
    id: Option<String>,
    name: String,
    json: String,
}

/// Reads an answer's pieces: what each says, and how it all ended. Calls are held back until they are complete.
#[derive(Debug, Default)]
struct Reader {
    call: Option<GrowingCall>,
    done_reason: Option<&'static str>,
    metrics: Option<Metrics>,
}

impl Reader {
    /// Takes a piece; what it says is added to `said`.
    fn push(&mut self, id: &str, event: &Event, said: &mut Said) {
        match event {
            Event::Text { text, logprobs } => {
                self.complete_call(id, said);
                said.text.push_str(text);
                said.add_logprobs(logprobs);
            }
            Event::Reasoning { text, logprobs } => {
                self.complete_call(id, said);
                said.thinking.push_str(text);
                said.add_logprobs(logprobs);
            }
            Event::ToolCall { index, id: own, name } => {
                self.complete_call(id, said);
                let (own, name) = (own.clone(), name.clone());
                self.call = Some(GrowingCall { index: *index, id: own, name, json: String::new() });
            }
            Event::ToolArguments { index, json } => {
                if let Some(call) = self.call.as_mut().filter(|call| call.index == *index) {
                    call.json.push_str(json);
                }
            }
            Event::Finished(reason) => {
                self.complete_call(id, said);
                self.done_reason = Some(done_reason(reason));
            }
            Event::Done(usage) => self.metrics = Some(Metrics::new(usage)),
            Event::Started { .. } | Event::PromptLogprobs(_) => {}
        }
    }

    /// The call that was coming has come. One whose arguments are no JSON object was cut short by the token limit,
    /// as `done_reason` tells: half of a call is nothing that this dialect could say.
    fn complete_call(&mut self, id: &str, said: &mut Said) {
        let Some(call) = self.call.take() else { return };
        let text = if call.json.trim().is_empty() { "{}" } else { &call.json };
        let Ok(arguments) = serde_json::from_str(text) else { return };
        let function = FunctionLine { index: call.index, name: call.name, arguments };
        said.tool_calls
            .push(CallLine { id: call.id.unwrap_or_else(|| made_up_id(id, function.index)), function });
    }

    fn ending(&self) -> Option<Ending> {
        self.done_reason.map(|done_reason| Ending { done_reason, metrics: self.metrics })
    }
}

/// The id of a call to which the model gave none: not that of any other reply's call.
fn made_up_id(id: &str, index: u32) -> String {
    let unique: String = id.rsplit('-').next().unwrap_or(id).chars().take(8).collect();
    if index == 0 { format!("call_{unique}") } else { format!("call_{unique}_{index}") }
}

/// The name of a finish reason. Calls of tools are a stop like others.
fn done_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop { .. } | FinishReason::ToolCalls => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}

/// Collects an answer's pieces into one reply.
#[derive(Debug)]
pub struct Collector {
    route: Route,
    envelope: Envelope,
    reader: Reader,
    said: Said,
}

impl Collector {
    /// For an answer of `route`.
    pub fn new(route: Route, envelope: Envelope) -> Self {
        Self { route, envelope, reader: Reader::default(), said: Said::default() }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        self.reader.push(&self.envelope.id, &delta.event, &mut self.said);
    }

    /// The reply body; `None` if the answer never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let ending = self.reader.ending()?;
        Some(self.envelope.line(self.route, &self.said, Some(ending)))
    }
}

/// Writes an answer's pieces as lines: one for each piece of text or thought, one for each call as soon as it is
/// complete, and a last one with how the answer ended and what it cost.
#[derive(Debug)]
pub struct Encoder {
    route: Route,
    envelope: Envelope,
    reader: Reader,
}

impl Encoder {
    /// For an answer of `route`.
    pub fn new(route: Route, envelope: Envelope) -> Self {
        Self { route, envelope, reader: Reader::default() }
    }

    fn line(&self, said: &Said, ending: Option<Ending>, out: &mut String) {
        out.push_str(&self.envelope.line(self.route, said, ending));
        out.push('\n');
    }
}

impl StreamEncoder for Encoder {
    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn keep_alive(&self) -> Option<&'static str> {
        // Clients read each line as a piece of the answer.
        None
    }

    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        let mut said = Said::default();
        self.reader.push(&self.envelope.id, &delta.event, &mut said);
        if !said.is_empty() {
            self.line(&said, None, out);
        }
    }

    fn finish(&mut self, out: &mut String) {
        // An answer's pieces end with how it ended.
        if let Some(ending) = self.reader.ending() {
            self.line(&Said::default(), Some(ending), out);
        }
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        out.push_str(&error_body(error));
        out.push('\n');
    }
}
