//! The response object, whole.

use ingle_chat::{Delta, Event, FinishReason};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::{Envelope, ErrorObject, json};
use super::body::Echo;
use super::options::{Reasoning, ToolField};
use super::output::{Change, Output, OutputItem};

/// A response as it grows.
#[derive(Clone, Debug)]
pub struct Reply {
    envelope: Envelope,
    echo: Echo,
    output: Output,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    error: Option<Failed>,
    is_stored: bool,
    /// Whether a model works on it; until then one in the background is queued.
    has_begun: bool,
}

/// The wire's form of a response.
#[derive(Serialize, JsonSchema)]
pub(super) struct Response<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    background: bool,
    error: Option<&'a Failed>,
    incomplete_details: Option<IncompleteDetails>,
    instructions: Option<&'a str>,
    max_output_tokens: Option<u32>,
    max_tool_calls: Option<u32>,
    model: &'a str,
    output: &'a [OutputItem],
    parallel_tool_calls: bool,
    previous_response_id: Option<&'a str>,
    prompt_cache_key: Option<&'a str>,
    reasoning: &'a Reasoning,
    safety_identifier: Option<&'a str>,
    service_tier: Option<&'static str>,
    store: bool,
    temperature: Option<f32>,
    text: Text<'a>,
    tool_choice: Value,
    tools: &'a [ToolField],
    top_logprobs: Option<u32>,
    top_p: Option<f32>,
    truncation: &'static str,
    usage: Option<Usage>,
    user: Option<&'a str>,
    metadata: &'a Map<String, Value>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ResponseText")]
struct Text<'a> {
    format: &'a Value,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ResponseIncompleteDetails")]
struct IncompleteDetails {
    reason: &'static str,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseFailure")]
struct Failed {
    code: String,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseUsage")]
struct Usage {
    input_tokens: u64,
    input_tokens_details: InputTokensDetails,
    output_tokens: u64,
    output_tokens_details: OutputTokensDetails,
    total_tokens: u64,
    /// How often tokens made way in a full context; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_shifts: Option<u64>,
    /// How many tokens did.
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseInputTokensDetails")]
struct InputTokensDetails {
    cached_tokens: u64,
    /// Nothing is charged for what the cache takes in; clients want the field.
    cache_write_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseOutputTokensDetails")]
struct OutputTokensDetails {
    reasoning_tokens: u64,
}

impl Reply {
    /// For the answer to a body, of which it repeats `echo`. Whether it will be stored is said in it.
    pub fn new(envelope: Envelope, echo: Echo, is_stored: bool) -> Self {
        let output = Output::new(&envelope.id, echo.with_logprobs);
        Self { envelope, echo, output, usage: None, finish: None, error: None, is_stored, has_begun: false }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        self.take(delta, &mut Vec::new());
    }

    /// Takes a piece and appends what it changed.
    pub(super) fn take(&mut self, delta: &Delta, changes: &mut Vec<Change>) {
        self.has_begun |= !matches!(delta.event, Event::Started { .. });
        match &delta.event {
            Event::Finished(reason) => self.finish = Some(reason.clone()),
            Event::Done(usage) => {
                self.usage = Some(Usage {
                    input_tokens: usage.prompt_tokens,
                    input_tokens_details: InputTokensDetails {
                        cached_tokens: usage.cached_tokens,
                        cache_write_tokens: 0,
                    },
                    output_tokens: usage.completion_tokens,
                    output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
                    total_tokens: usage.prompt_tokens + usage.completion_tokens,
                    context_shifts: (usage.context_shifts > 0).then_some(usage.context_shifts),
                    discarded_tokens: (usage.context_shifts > 0).then_some(usage.discarded_tokens),
                });
            }
            _ => {}
        }
        self.output.push(&delta.event, changes);
    }

    /// The reply body; `None` if the answer never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        self.finish.as_ref().map(|_| self.to_json())
    }

    /// The response's id.
    pub fn id(&self) -> &str {
        &self.envelope.id
    }

    /// When it was made, in seconds since the epoch.
    pub fn created(&self) -> u64 {
        self.envelope.created
    }

    /// Says that it could not be stored after all.
    pub fn set_unstored(&mut self) {
        self.is_stored = false;
    }

    /// Ends the answer where it is, because its caller wants no more of it.
    pub fn cancel(&mut self) {
        self.push(&Delta { choice: 0, event: Event::Finished(FinishReason::Abort) });
    }

    /// Whether a model works on it.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Says that there will be no answer.
    pub fn fail(&mut self, error: &ErrorObject) {
        let code = match (error.kind, error.code.as_str()) {
            ("invalid_request_error", Some(code)) => code,
            ("invalid_request_error", None) => "invalid_prompt",
            ("rate_limit_error", _) => "rate_limit_exceeded",
            _ => "server_error",
        };
        self.error = Some(Failed { code: code.to_owned(), message: error.message.clone() });
    }

    /// What failed, if something did: a word for programs.
    pub(super) fn failure_code(&self) -> Option<&str> {
        self.error.as_ref().map(|e| e.code.as_str())
    }

    pub(super) fn items(&self) -> &[OutputItem] {
        self.output.items()
    }

    /// What has become of it.
    pub(super) fn status(&self) -> &'static str {
        match &self.finish {
            _ if self.error.is_some() => "failed",
            None if self.echo.background && !self.has_begun => "queued",
            None => "in_progress",
            Some(FinishReason::Stop { .. } | FinishReason::ToolCalls) => "completed",
            Some(FinishReason::Length) => "incomplete",
            Some(FinishReason::Abort) => "cancelled",
        }
    }

    /// The reply body, whatever has become of it.
    pub fn to_json(&self) -> String {
        let echo = &self.echo;
        let was_cut = self.finish == Some(FinishReason::Length);
        json(&Response {
            id: &self.envelope.id,
            object: "response",
            created_at: self.envelope.created,
            status: self.status(),
            background: echo.background,
            error: self.error.as_ref(),
            incomplete_details: was_cut.then_some(IncompleteDetails { reason: "max_output_tokens" }),
            instructions: echo.instructions.as_deref(),
            max_output_tokens: echo.max_output_tokens,
            max_tool_calls: echo.max_tool_calls,
            model: &self.envelope.model,
            output: self.output.items(),
            parallel_tool_calls: echo.parallel_tool_calls,
            previous_response_id: echo.previous_response_id.as_deref(),
            prompt_cache_key: echo.prompt_cache_key.as_deref(),
            reasoning: &echo.reasoning,
            safety_identifier: echo.safety_identifier.as_deref(),
            service_tier: echo.service_tier.then_some("default"),
            store: self.is_stored,
            temperature: echo.temperature,
            text: Text { format: &echo.text_format },
            tool_choice: echo.tool_choice.shown(),
            tools: &echo.tools,
            top_logprobs: echo.top_logprobs,
            top_p: echo.top_p,
            truncation: "disabled",
            usage: self.usage,
            user: echo.user.as_deref(),
            metadata: &echo.metadata,
        })
    }
}
