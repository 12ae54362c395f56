//! The reply: one body, or events.
//!
//! A message is a list of blocks, each of one kind: thoughts, text, calls of tools. A piece of another kind than the
//! one before begins a new block.

use ingle_chat::{Delta, Event, FinishReason, ProviderError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{MessagesCall, error_body};
use crate::openai::{Envelope, ErrorObject, json};
use crate::{StreamEncoder, parse_object};

/// What clients send back with thoughts. Providers that hide thoughts prove with it that they are theirs; here
/// anybody may put words into the model's mind, so it proves nothing.
const SIGNATURE: &str = "aW5nbGUtdW5zaWduZWQ=";
/// Under this name stand arguments that are no object because the answer was cut short in the middle of them.
const INVALID_JSON: &str = "INVALID_JSON";
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// A message, whole or just begun.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
    usage: Usage,
}

impl<'a> Message<'a> {
    fn new(envelope: &'a Envelope, content: Vec<Block<'a>>, stop: Option<Stop<'a>>, usage: Usage) -> Self {
        Self {
            id: &envelope.id,
            kind: "message",
            role: "assistant",
            model: &envelope.model,
            content,
            stop_reason: stop.as_ref().map(|s| s.stop_reason),
            stop_sequence: stop.and_then(|s| s.stop_sequence),
            usage,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "MessageBlock")]
pub(super) enum Block<'a> {
    Thinking { thinking: &'a str, signature: &'static str },
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Map<String, Value> },
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
#[schemars(rename = "MessageBlockDelta")]
pub(super) enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'static str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// Why a message ended.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessageStop")]
pub(super) struct Stop<'a> {
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
}

/// What a message cost. Tokens of the prompt that came out of the cache are counted apart.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "MessageUsage")]
pub(super) struct Usage {
    input_tokens: u64,
    /// Always 0: what is computed is cached, and nobody pays for that.
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
    /// How often tokens made way in a full context; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_shifts: Option<u64>,
    /// How many tokens did.
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded_tokens: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "MessageStreamEvent")]
pub(super) enum StreamEvent<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: u32, content_block: Block<'a> },
    ContentBlockDelta { index: u32, delta: BlockDelta<'a> },
    ContentBlockStop { index: u32 },
    MessageDelta { delta: Stop<'a>, usage: Usage },
    MessageStop,
}

impl StreamEvent<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }

    fn write(&self, out: &mut String) {
        event(self.name(), &json(self), out);
    }
}

fn event(name: &str, data: &str, out: &mut String) {
    for part in ["event: ", name, "\ndata: ", data, "\n\n"] {
        out.push_str(part);
    }
}

/// How an answer ended, and what that means to a request.
#[derive(Debug)]
struct Ending {
    /// What was asked for. A context that holds less ends the answer before.
    max_tokens: u64,
    stop_sequences: Vec<String>,
    reason: Option<FinishReason>,
    usage: ingle_chat::Usage,
}

impl Ending {
    fn new(call: &MessagesCall) -> Self {
        Self {
            max_tokens: call.request.max_tokens.map_or(u64::MAX, u64::from),
            stop_sequences: call.request.stop.clone(),
            reason: None,
            usage: ingle_chat::Usage::default(),
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Finished(reason) => self.reason = Some(reason.clone()),
            Event::Done(usage) => self.usage = *usage,
            _ => {}
        }
    }

    /// `None` if the answer never finished.
    fn stop(&self) -> Option<Stop<'_>> {
        let stop = |stop_reason| Stop { stop_reason, stop_sequence: None };
        Some(match self.reason.as_ref()? {
            // Tokens that end an answer are named too, and are no sequences.
            FinishReason::Stop { matched: Some(text) } if self.stop_sequences.contains(text) => {
                Stop { stop_reason: "stop_sequence", stop_sequence: Some(text) }
            }
            FinishReason::Stop { .. } => stop("end_turn"),
            FinishReason::ToolCalls => stop("tool_use"),
            FinishReason::Length if self.usage.completion_tokens < self.max_tokens => {
                stop("model_context_window_exceeded")
            }
            // Nobody is there to read of an answer that was aborted.
            FinishReason::Length | FinishReason::Abort => stop("max_tokens"),
        })
    }

    fn usage(&self) -> Usage {
        let usage = &self.usage;
        Usage {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.completion_tokens,
            context_shifts: (usage.context_shifts > 0).then_some(usage.context_shifts),
            discarded_tokens: (usage.context_shifts > 0).then_some(usage.discarded_tokens),
            ..Usage::default()
        }
    }
}

/// The id of a call: the model's own, or one that no other reply has.
fn call_id(envelope: &Envelope, index: u32, own: Option<&str>) -> String {
    match own {
        Some(id) => id.to_owned(),
        None => format!("toolu_{}_{index}", envelope.id.trim_start_matches("msg_")),
    }
}

/// A block as it grows.
#[derive(Debug)]
enum Growing {
    Thinking(String),
    Text(String),
    ToolUse { index: u32, id: String, name: String, json: String },
}

/// Collects an answer's pieces into one reply.
#[derive(Debug)]
pub struct MessageCollector {
    envelope: Envelope,
    omit_thinking: bool,
    blocks: Vec<Growing>,
    ending: Ending,
}

impl MessageCollector {
    /// For the answer to `call`.
    pub fn new(envelope: Envelope, call: &MessagesCall) -> Self {
        let ending = Ending::new(call);
        Self { envelope, omit_thinking: call.omit_thinking, blocks: Vec::new(), ending }
    }

    /// Takes a piece.
    pub fn push(&mut self, delta: &Delta) {
        match &delta.event {
            Event::Reasoning { text: new, .. } if !new.is_empty() => match self.blocks.last_mut() {
                Some(Growing::Thinking(text)) => text.push_str(new),
                _ => self.blocks.push(Growing::Thinking(new.clone())),
            },
            Event::Text { text: new, .. } if !new.is_empty() => match self.blocks.last_mut() {
                Some(Growing::Text(text)) => text.push_str(new),
                _ => self.blocks.push(Growing::Text(new.clone())),
            },
            Event::ToolCall { index, id, name } => self.blocks.push(Growing::ToolUse {
                index: *index,
                id: call_id(&self.envelope, *index, id.as_deref()),
                name: name.clone(),
                json: String::new(),
            }),
            Event::ToolArguments { index: call, json: new } => {
                for block in &mut self.blocks {
                    if let Growing::ToolUse { index, json, .. } = block
                        && index == call
                    {
                        json.push_str(new);
                    }
                }
            }
            event => self.ending.note(event),
        }
    }

    /// The reply body; `None` if the answer never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let content = self.blocks.iter().map(|block| match block {
            Growing::Thinking(text) => {
                let thinking = if self.omit_thinking { "" } else { text };
                Block::Thinking { thinking, signature: SIGNATURE }
            }
            Growing::Text(text) => Block::Text { text },
            Growing::ToolUse { id, name, json, .. } => Block::ToolUse { id, name, input: input(json) },
        });
        let stop = self.ending.stop()?;
        Some(json(&Message::new(&self.envelope, content.collect(), Some(stop), self.ending.usage())))
    }
}

/// The arguments of a call as an object.
fn input(json: &str) -> Map<String, Value> {
    match json.trim() {
        "" => Map::new(),
        text => parse_object(text.as_bytes())
            .unwrap_or_else(|_| Map::from_iter([(INVALID_JSON.to_owned(), Value::from(text))])),
    }
}

/// Writes an answer's pieces as events.
///
/// `message_start` and a `ping`; per block `content_block_start`, deltas, `content_block_stop`; then `message_delta`
/// with the reason of the end and the usage, and `message_stop`.
#[derive(Debug)]
pub struct MessageEncoder {
    envelope: Envelope,
    omit_thinking: bool,
    /// Blocks so far.
    n_blocks: u32,
    /// The kind of the last one, while it is open.
    open: Option<Kind>,
    /// Calls with the blocks they are in.
    calls: Vec<(u32, u32)>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse,
}

impl MessageEncoder {
    /// For the answer to `call`.
    pub fn new(envelope: Envelope, call: &MessagesCall) -> Self {
        Self {
            envelope,
            omit_thinking: call.omit_thinking,
            n_blocks: 0,
            open: None,
            calls: Vec::new(),
            ending: Ending::new(call),
        }
    }

    /// Opens a block, unless the last one is of this kind and open: the block's index.
    fn block(&mut self, kind: Kind, content_block: Block, out: &mut String) -> u32 {
        if self.open != Some(kind) || kind == Kind::ToolUse {
            self.close(out);
            self.open = Some(kind);
            let index = self.n_blocks;
            self.n_blocks += 1;
            StreamEvent::ContentBlockStart { index, content_block }.write(out);
        }
        self.n_blocks - 1
    }

    fn close(&mut self, out: &mut String) {
        let Some(kind) = self.open.take() else { return };
        let index = self.n_blocks - 1;
        if kind == Kind::Thinking {
            let delta = BlockDelta::Signature { signature: SIGNATURE };
            StreamEvent::ContentBlockDelta { index, delta }.write(out);
        }
        StreamEvent::ContentBlockStop { index }.write(out);
    }
}

impl StreamEncoder for MessageEncoder {
    fn keep_alive(&self) -> Option<&'static str> {
        Some(PING)
    }

    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        match &delta.event {
            Event::Started { prompt_tokens, .. } => {
                // What of the prompt is cached is known at the end, which counts again.
                let usage = Usage { input_tokens: *prompt_tokens, ..Usage::default() };
                let message = Message::new(&self.envelope, Vec::new(), None, usage);
                StreamEvent::MessageStart { message }.write(out);
                out.push_str(PING);
            }
            Event::Reasoning { text, .. } if !text.is_empty() => {
                let block = Block::Thinking { thinking: "", signature: "" };
                let index = self.block(Kind::Thinking, block, out);
                if !self.omit_thinking {
                    let delta = BlockDelta::Thinking { thinking: text };
                    StreamEvent::ContentBlockDelta { index, delta }.write(out);
                }
            }
            Event::Text { text, .. } if !text.is_empty() => {
                let index = self.block(Kind::Text, Block::Text { text: "" }, out);
                let delta = BlockDelta::Text { text };
                StreamEvent::ContentBlockDelta { index, delta }.write(out);
            }
            Event::ToolCall { index: call, id, name } => {
                let id = call_id(&self.envelope, *call, id.as_deref());
                let block = Block::ToolUse { id: &id, name, input: Map::new() };
                let index = self.block(Kind::ToolUse, block, out);
                self.calls.push((*call, index));
            }
            Event::ToolArguments { index: call, json } if !json.is_empty() => {
                if let Some((_, index)) = self.calls.iter().find(|(c, _)| c == call) {
                    let delta = BlockDelta::InputJson { partial_json: json };
                    StreamEvent::ContentBlockDelta { index: *index, delta }.write(out);
                }
            }
            event => self.ending.note(event),
        }
    }

    fn finish(&mut self, out: &mut String) {
        self.close(out);
        match self.ending.stop() {
            Some(delta) => {
                StreamEvent::MessageDelta { delta, usage: self.ending.usage() }.write(out);
                StreamEvent::MessageStop.write(out);
            }
            None => {
                let error = ProviderError::Internal("an answer never finished".into());
                event("error", &error_body(&ErrorObject::from(&error)), out);
            }
        }
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        event("error", &error_body(error), out);
    }
}
