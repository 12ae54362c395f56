//! Completions (the older route): the body, the reply, the chunks.

use ingle_chat::{Delta, Echo, Event, FinishReason, Infill, Prompt, Request, Task, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::constraint::take_format;
use super::logprobs::{TextOffset, prompt_logprobs};
use super::prompts::take_prompts;
use super::refused::{self, HARMLESS, HARMLESS_COMPLETION, REFUSED, REFUSED_COMPLETION};
use super::sampling::{TOP_LOGPROBS_MAX, take_common, take_max_tokens};
use super::terms::take_rank;
use super::usage::Cost;
use super::{
    Caller, CompletionLogprobs, DONE, Envelope, ErrorBody, ErrorObject, Streaming, Timings, Usage, event,
    finish_name, json, stop_reason, take_streaming,
};
use crate::fields::Fields;
use crate::{RequestError, StreamEncoder, parse_object};

/// How many tokens a completion has unless the request says so, as OpenAI does it.
pub const MAX_TOKENS_DEFAULT: u32 = 16;
/// The most choices over all prompts of one body.
pub const CHOICES_MAX: usize = 1024;

/// A completion body, read.
#[derive(Clone, Debug)]
pub struct CompletionCall {
    /// What is wanted: one request per prompt, alike but for the prompt. Never empty.
    pub requests: Vec<Request>,
    /// How the answer travels.
    pub streaming: Streaming,
    /// Whether `prompt_logprobs` was asked for by this name (`echo` with `logprobs` needs them too).
    pub prompt_logprobs: bool,
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<CompletionCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED, REFUSED_COMPLETION], &[HARMLESS, HARMLESS_COMPLETION])?;
    let prompts = take_prompts(&mut fields, "prompt", CHOICES_MAX)?;
    let mut prompts = prompts
        .ok_or_else(|| RequestError::field("prompt", "`prompt` is missing: give the text to continue"))?;
    let echo = if fields.bool("echo")?.unwrap_or(false) { Echo::Yes } else { Echo::No };
    if let Some(suffix) = fields.string("suffix")?.filter(|s| !s.is_empty()) {
        if echo == Echo::Yes {
            let text = "`echo` repeats a text that is continued, and with `suffix` a gap is filled; remove one of the two";
            return Err(fields.error("echo", text));
        }
        prompts = prompts.into_iter().map(|prompt| gap(prompt, &suffix)).collect::<Result<_, _>>()?;
    }
    let task = Task::Completion { prompt: Prompt::Text(String::new()), echo };
    let mut request = Request::new(caller.id, caller.principal, task);
    // 0 new tokens is how evaluations ask for a prompt's log-probabilities.
    let max_tokens = take_max_tokens(&mut fields, &["max_tokens", "max_completion_tokens"], 0)?;
    request.max_tokens = Some(max_tokens.unwrap_or(MAX_TOKENS_DEFAULT));
    take_common(&mut fields, &mut request)?;
    request.terms.rank = take_rank(&mut fields)?;
    request.format = take_format(&mut fields)?;
    request.logprobs = fields.integer(&["logprobs"], 0, TOP_LOGPROBS_MAX)?.map(|k| k as u32);
    let streaming = take_streaming(&mut fields)?;
    let prompt_logprobs = request.prompt_logprobs.is_some();
    if streaming.stream && prompt_logprobs {
        return Err(
            fields.error("prompt_logprobs", "`prompt_logprobs` cannot be streamed; set `stream` to false")
        );
    }
    if echo == Echo::Yes {
        // The larger of both wishes, so that either is served.
        request.prompt_logprobs = request.prompt_logprobs.max(request.logprobs);
    }
    fields.finish()?;
    if prompts.len() * request.n as usize > CHOICES_MAX {
        let text = format!(
            "{} prompts with {} choices each; at most {CHOICES_MAX} choices are given at once: send fewer prompts",
            prompts.len(),
            request.n
        );
        return Err(RequestError::field("prompt", text));
    }
    let several = prompts.len() > 1;
    let one = |(i, prompt)| {
        let id = if several { format!("{}-{i}", request.id) } else { request.id.clone() };
        Request { id, task: Task::Completion { prompt, echo }, ..request.clone() }
    };
    Ok(CompletionCall {
        requests: prompts.into_iter().enumerate().map(one).collect(),
        streaming,
        prompt_logprobs,
    })
}

/// The gap between a prompt and what follows it.
fn gap(prompt: Prompt, suffix: &str) -> Result<Prompt, RequestError> {
    match prompt {
        Prompt::Text(prefix) => {
            Ok(Prompt::Infill(Infill { prefix, suffix: suffix.to_owned(), ..Infill::default() }))
        }
        _ => Err(RequestError::field("suffix", "`suffix` needs a `prompt` of text, not of token ids")),
    }
}

/// A whole reply.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'a str,
    timings: Timings,
}

/// One answer, whole or a piece.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CompletionChoice")]
struct Choice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<&'a CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

/// A streamed piece.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CompletionChunk")]
pub(super) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

/// Log-probabilities of one choice as its text grows, the echoed prompt's first.
#[derive(Debug, Default)]
struct Tracker {
    begun: bool,
    offset: TextOffset,
}

impl Tracker {
    /// Appends what one piece brings. The first piece of an echoing choice is its prompt.
    fn extend(
        &mut self,
        list: &mut CompletionLogprobs,
        prompt: Option<&[TokenLogprob]>,
        text: &str,
        tokens: &[TokenLogprob],
    ) {
        if !std::mem::replace(&mut self.begun, true)
            && let Some(prompt) = prompt
        {
            list.extend_prompt(prompt, text, &mut self.offset);
        }
        list.extend(tokens, &mut self.offset);
    }
}

/// What collector and encoder share: which choice a delta belongs to, and the prompts' log-probabilities.
#[derive(Debug)]
struct Layout {
    envelope: Envelope,
    n: u32,
    echo: bool,
    logprobs: bool,
    /// Per prompt.
    prompts: Vec<Vec<TokenLogprob>>,
    /// Per choice.
    trackers: Vec<Tracker>,
    cost: Cost,
}

impl Layout {
    fn new(envelope: Envelope, call: &CompletionCall) -> Self {
        let first = call.requests.first().expect("a call has at least one request");
        let n_choices = call.requests.len() * first.n as usize;
        Self {
            envelope,
            n: first.n,
            echo: matches!(first.task, Task::Completion { echo: Echo::Yes, .. }),
            logprobs: first.logprobs.is_some(),
            prompts: vec![Vec::new(); call.requests.len()],
            trackers: (0..n_choices).map(|_| Tracker::default()).collect(),
            cost: Cost::default(),
        }
    }

    /// The index of a choice over all prompts.
    fn index(&self, prompt: usize, choice: u32) -> u32 {
        prompt as u32 * self.n + choice
    }

    fn extend(
        &mut self,
        list: &mut CompletionLogprobs,
        prompt: usize,
        choice: u32,
        text: &str,
        tokens: &[TokenLogprob],
    ) {
        let index = self.index(prompt, choice) as usize;
        let echoed = if self.echo { self.prompts.get(prompt).map(Vec::as_slice) } else { None };
        if let Some(tracker) = self.trackers.get_mut(index) {
            tracker.extend(list, echoed, text, tokens);
        }
    }

    /// Takes what belongs to a prompt rather than to a choice.
    fn note(&mut self, prompt: usize, event: &Event) {
        match event {
            Event::PromptLogprobs(tokens) => {
                if let Some(slot) = self.prompts.get_mut(prompt) {
                    slot.clone_from(tokens);
                }
            }
            Event::Done(usage) => self.cost.add(usage),
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
struct Growing {
    text: String,
    logprobs: CompletionLogprobs,
    finish: Option<FinishReason>,
}

/// Collects the pieces of all answers into one reply.
#[derive(Debug)]
pub struct CompletionCollector {
    layout: Layout,
    /// Whether choices carry `prompt_logprobs`.
    prompt_logprobs: bool,
    choices: Vec<Growing>,
}

impl CompletionCollector {
    /// For the answers to `call`.
    pub fn new(envelope: Envelope, call: &CompletionCall) -> Self {
        let layout = Layout::new(envelope, call);
        let choices = layout.trackers.iter().map(|_| Growing::default()).collect();
        Self { layout, prompt_logprobs: call.prompt_logprobs, choices }
    }

    /// Takes a piece of the answer to prompt `prompt`.
    pub fn push(&mut self, prompt: usize, delta: &Delta) {
        self.layout.note(prompt, &delta.event);
        let index = self.layout.index(prompt, delta.choice) as usize;
        let Some(choice) = self.choices.get_mut(index) else { return };
        match &delta.event {
            Event::Text { text, logprobs } => {
                choice.text.push_str(text);
                if self.layout.logprobs {
                    self.layout.extend(&mut choice.logprobs, prompt, delta.choice, text, logprobs);
                }
            }
            Event::Finished(reason) => choice.finish = Some(reason.clone()),
            _ => {}
        }
    }

    /// The reply body; `None` if a choice never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let choices = (0..).zip(&self.choices).map(|(index, c): (u32, _)| {
            let reason = c.finish.as_ref()?;
            let prompt = &self.layout.prompts[(index / self.layout.n) as usize];
            Some(Choice {
                index,
                text: &c.text,
                logprobs: self.layout.logprobs.then_some(&c.logprobs),
                finish_reason: Some(finish_name(reason)),
                stop_reason: stop_reason(reason),
                prompt_logprobs: self.prompt_logprobs.then(|| prompt_logprobs(prompt)),
            })
        });
        let envelope = &self.layout.envelope;
        Some(json(&Completion {
            id: &envelope.id,
            object: "text_completion",
            created: envelope.created,
            model: &envelope.model,
            choices: choices.collect::<Option<_>>()?,
            usage: self.layout.cost.usage(),
            system_fingerprint: &envelope.fingerprint,
            timings: self.layout.cost.timings(),
        }))
    }
}

/// Writes the pieces of all answers as events: chunks with text, per choice one with the finish reason and no text,
/// then, if wanted, one without choices and with the usage; the last of them has the timings. Then `[DONE]`.
#[derive(Debug)]
pub struct CompletionEncoder {
    layout: Layout,
    /// The end of a choice: it may turn out to be the last chunk.
    ending: Option<(u32, FinishReason)>,
    include_usage: bool,
}

/// An empty piece of a choice.
fn piece<'a>(index: u32) -> Choice<'a> {
    Choice { index, text: "", logprobs: None, finish_reason: None, stop_reason: None, prompt_logprobs: None }
}

impl CompletionEncoder {
    /// For the answers to `call`.
    pub fn new(envelope: Envelope, call: &CompletionCall) -> Self {
        let include_usage = call.streaming.include_usage;
        Self { layout: Layout::new(envelope, call), ending: None, include_usage }
    }

    fn chunk(&self, choices: &[Choice], usage: Option<Usage>, timings: Option<Timings>, out: &mut String) {
        let envelope = &self.layout.envelope;
        let chunk = Chunk {
            id: &envelope.id,
            object: "text_completion",
            created: envelope.created,
            model: &envelope.model,
            system_fingerprint: &envelope.fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
            timings,
        };
        event(&chunk, out);
    }

    /// Sends the end that was held back.
    fn end(&mut self, timings: Option<Timings>, out: &mut String) {
        let Some((index, reason)) = self.ending.take() else { return };
        let last = Choice {
            finish_reason: Some(finish_name(&reason)),
            stop_reason: stop_reason(&reason),
            ..piece(index)
        };
        self.chunk(&[last], None, timings, out);
    }
}

impl StreamEncoder for CompletionEncoder {
    fn push(&mut self, prompt: usize, delta: &Delta, out: &mut String) {
        self.layout.note(prompt, &delta.event);
        let index = self.layout.index(prompt, delta.choice);
        match &delta.event {
            Event::Text { text, logprobs } if !text.is_empty() || !logprobs.is_empty() => {
                let mut list = CompletionLogprobs::default();
                if self.layout.logprobs {
                    self.layout.extend(&mut list, prompt, delta.choice, text, logprobs);
                }
                self.end(None, out);
                let logprobs = (!list.tokens.is_empty()).then_some(&list);
                self.chunk(&[Choice { text, logprobs, ..piece(index) }], None, None, out);
            }
            Event::Finished(reason) => {
                self.end(None, out);
                self.ending = Some((index, reason.clone()));
            }
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut String) {
        let timings = Some(self.layout.cost.timings());
        if self.include_usage {
            self.end(None, out);
            self.chunk(&[], Some(self.layout.cost.usage()), timings, out);
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
