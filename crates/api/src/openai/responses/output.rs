//! The items of an answer as it grows.

use std::collections::HashMap;

use ingle_chat::{Event, FinishReason, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::ChatLogprobs;
use super::super::logprobs::ChatToken;

/// How far an item is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ResponseItemStatus")]
pub(super) enum Status {
    InProgress,
    Completed,
    Incomplete,
}

/// An item of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponseOutputItem")]
pub(super) enum OutputItem {
    Reasoning { id: String, summary: [(); 0], content: Vec<OutputPart>, status: Status },
    Message { id: String, role: &'static str, status: Status, content: Vec<OutputPart> },
    FunctionCall { id: String, call_id: String, name: String, arguments: String, status: Status },
}

/// The one part of an item that has parts.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponseOutputPart")]
pub(super) enum OutputPart {
    OutputText { text: String, annotations: [(); 0], logprobs: Vec<ChatToken> },
    ReasoningText { text: String },
}

impl OutputItem {
    pub fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } | Self::FunctionCall { id, .. } => id,
        }
    }

    /// Its part, if it has one.
    pub fn part(&self) -> Option<&OutputPart> {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => content.first(),
            Self::FunctionCall { .. } => None,
        }
    }

    fn set_status(&mut self, new: Status) {
        match self {
            Self::Reasoning { status, .. }
            | Self::Message { status, .. }
            | Self::FunctionCall { status, .. } => {
                *status = new;
            }
        }
    }

    /// As it was announced.
    pub fn begun(&self) -> Self {
        let mut item = self.clone();
        item.set_status(Status::InProgress);
        match &mut item {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => content.clear(),
            Self::FunctionCall { arguments, .. } => arguments.clear(),
        }
        item
    }
}

impl OutputPart {
    /// As it was announced.
    pub fn begun(&self) -> Self {
        match self {
            Self::OutputText { .. } => {
                Self::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() }
            }
            Self::ReasoningText { .. } => Self::ReasoningText { text: String::new() },
        }
    }
}

/// What one event changed, for those who tell it as it happens. Items are named by their places.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Opened(usize),
    Grew { item: usize, text: String, logprobs: Vec<ChatToken> },
    Closed(usize),
}

/// An answer's items. Only the last one grows.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// What the ids of items end with.
    tail: String,
    with_logprobs: bool,
    items: Vec<OutputItem>,
    is_open: bool,
    /// Where the calls are.
    calls: HashMap<u32, usize>,
}

/// What makes a response's id unique: the ids of its items have it too, so that nothing has to be drawn for them.
pub(super) fn tail(response_id: &str) -> &str {
    response_id.strip_prefix("resp_").unwrap_or(response_id)
}

fn tokens(tokens: &[TokenLogprob]) -> Vec<ChatToken> {
    let mut list = ChatLogprobs::default();
    list.extend(tokens);
    list.content
}

impl Output {
    pub fn new(response_id: &str, with_logprobs: bool) -> Self {
        let tail = tail(response_id).to_owned();
        Self { tail, with_logprobs, items: Vec::new(), is_open: false, calls: HashMap::new() }
    }

    pub fn items(&self) -> &[OutputItem] {
        &self.items
    }

    /// Takes an event and appends what it changed.
    pub fn push(&mut self, event: &Event, changes: &mut Vec<Change>) {
        match event {
            Event::Text { text, logprobs } => {
                let new = if self.with_logprobs { tokens(logprobs) } else { Vec::new() };
                if text.is_empty() && new.is_empty() {
                    return;
                }
                self.open_message(changes);
                if let Some(OutputItem::Message { content, .. }) = self.items.last_mut()
                    && let Some(OutputPart::OutputText { text: all, logprobs, .. }) = content.first_mut()
                {
                    all.push_str(text);
                    logprobs.extend(new.iter().cloned());
                }
                self.grew(text, new, changes);
            }
            Event::Reasoning { text, .. } if !text.is_empty() => {
                if !(self.is_open && matches!(self.items.last(), Some(OutputItem::Reasoning { .. }))) {
                    let part = OutputPart::ReasoningText { text: String::new() };
                    self.open(changes, |id| OutputItem::Reasoning {
                        id: format!("rs_{id}"),
                        summary: [],
                        content: vec![part],
                        status: Status::InProgress,
                    });
                }
                if let Some(OutputItem::Reasoning { content, .. }) = self.items.last_mut()
                    && let Some(OutputPart::ReasoningText { text: all }) = content.first_mut()
                {
                    all.push_str(text);
                }
                self.grew(text, Vec::new(), changes);
            }
            Event::ToolCall { index, id, name } => {
                let made = || format!("call_{}_{index}", self.tail);
                let call_id = id.clone().unwrap_or_else(made);
                self.open(changes, |id| OutputItem::FunctionCall {
                    id: format!("fc_{id}"),
                    call_id,
                    name: name.clone(),
                    arguments: String::new(),
                    status: Status::InProgress,
                });
                self.calls.insert(*index, self.items.len() - 1);
            }
            Event::ToolArguments { index, json } if !json.is_empty() => {
                let Some(item) = self.calls.get(index).copied() else { return };
                if let Some(OutputItem::FunctionCall { arguments, .. }) = self.items.get_mut(item) {
                    arguments.push_str(json);
                    changes.push(Change::Grew { item, text: json.clone(), logprobs: Vec::new() });
                }
            }
            Event::Finished(reason) => self.finish(reason, changes),
            _ => {}
        }
    }

    fn finish(&mut self, reason: &FinishReason, changes: &mut Vec<Change>) {
        let is_complete = matches!(reason, FinishReason::Stop { .. } | FinishReason::ToolCalls);
        if self.items.is_empty() && is_complete {
            // Clients look for what was said, even where nothing was.
            self.open_message(changes);
        }
        self.close(if is_complete { Status::Completed } else { Status::Incomplete }, changes);
    }

    fn open_message(&mut self, changes: &mut Vec<Change>) {
        if self.is_open && matches!(self.items.last(), Some(OutputItem::Message { .. })) {
            return;
        }
        let part = OutputPart::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() };
        self.open(changes, |id| OutputItem::Message {
            id: format!("msg_{id}"),
            role: "assistant",
            status: Status::InProgress,
            content: vec![part],
        });
    }

    fn open(&mut self, changes: &mut Vec<Change>, item: impl FnOnce(&str) -> OutputItem) {
        self.close(Status::Completed, changes);
        let place = self.items.len();
        self.items.push(item(&format!("{}_{place}", self.tail)));
        self.is_open = true;
        changes.push(Change::Opened(place));
    }

    fn close(&mut self, status: Status, changes: &mut Vec<Change>) {
        if std::mem::take(&mut self.is_open)
            && let Some(last) = self.items.last_mut()
        {
            last.set_status(status);
            changes.push(Change::Closed(self.items.len() - 1));
        }
    }

    fn grew(&self, text: &str, logprobs: Vec<ChatToken>, changes: &mut Vec<Change>) {
        changes.push(Change::Grew { item: self.items.len() - 1, text: text.to_owned(), logprobs });
    }
}
