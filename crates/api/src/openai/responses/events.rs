//! The response as named events.
//!
//! `response.created` and `response.in_progress` when the request is admitted; per item `response.output_item.added`,
//! its text or arguments in pieces and whole, `response.output_item.done`; then the whole response in
//! `response.completed` or `response.incomplete`. A failure is an `error` event and `response.failed`. Events are
//! numbered. There is no `[DONE]`.

use std::fmt::Write;

use ingle_chat::Delta;

use super::super::{ErrorObject, json};
use super::output::{Change, OutputItem, OutputPart};
use super::reply::Reply;
use crate::StreamEncoder;

/// Writes a response's pieces as events.
#[derive(Debug)]
pub struct ResponsesEncoder {
    reply: Reply,
    /// The next event's number.
    sequence: u64,
}

impl ResponsesEncoder {
    /// For this response.
    pub fn new(reply: Reply) -> Self {
        Self { reply, sequence: 0 }
    }

    /// The response so far.
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// Says that the response could not be stored after all.
    pub fn set_unstored(&mut self) {
        self.reply.set_unstored();
    }

    /// Appends an event; the values of its fields are JSON.
    fn event(&mut self, kind: &str, fields: &[(&str, String)], out: &mut String) {
        let number = self.sequence;
        self.sequence += 1;
        write!(out, "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number}")
            .expect("writing to a String cannot fail");
        for (name, value) in fields {
            write!(out, ",\"{name}\":{value}").expect("writing to a String cannot fail");
        }
        out.push_str("}\n\n");
    }

    /// The first events, if they were not sent.
    fn begin(&mut self, out: &mut String) {
        if self.sequence == 0 {
            for kind in ["response.created", "response.in_progress"] {
                self.event(kind, &[("response", self.reply.to_json())], out);
            }
        }
    }

    fn change(&mut self, change: &Change, out: &mut String) {
        match change {
            Change::Opened(place) => self.opened(*place, out),
            Change::Grew { item: place, text, logprobs } => {
                let item = &self.reply.items()[*place];
                let mut fields = place_fields(item, *place);
                fields.push(("delta", json(text)));
                let kind = match item {
                    OutputItem::Message { .. } => {
                        fields.push(("logprobs", json(logprobs)));
                        "response.output_text.delta"
                    }
                    OutputItem::Reasoning { .. } => "response.reasoning_text.delta",
                    OutputItem::FunctionCall { .. } => "response.function_call_arguments.delta",
                };
                self.event(kind, &fields, out);
            }
            Change::Closed(place) => self.closed(*place, out),
        }
    }

    fn opened(&mut self, place: usize, out: &mut String) {
        let item = &self.reply.items()[place];
        let begun = vec![("output_index", json(&place)), ("item", json(&item.begun()))];
        let part = item.part().map(|part| {
            let mut fields = place_fields(item, place);
            fields.push(("part", json(&part.begun())));
            fields
        });
        self.event("response.output_item.added", &begun, out);
        if let Some(fields) = part {
            self.event("response.content_part.added", &fields, out);
        }
    }

    fn closed(&mut self, place: usize, out: &mut String) {
        let item = &self.reply.items()[place];
        let mut whole = place_fields(item, place);
        let kind = match item {
            OutputItem::FunctionCall { name, arguments, .. } => {
                whole.push(("name", json(name)));
                whole.push(("arguments", json(arguments)));
                "response.function_call_arguments.done"
            }
            _ => match item.part() {
                Some(OutputPart::OutputText { text, logprobs, .. }) => {
                    whole.push(("text", json(text)));
                    whole.push(("logprobs", json(logprobs)));
                    "response.output_text.done"
                }
                Some(OutputPart::ReasoningText { text }) => {
                    whole.push(("text", json(text)));
                    "response.reasoning_text.done"
                }
                None => unreachable!("messages and thoughts are opened with their part"),
            },
        };
        let part = item.part().map(|part| {
            let mut fields = place_fields(item, place);
            fields.push(("part", json(part)));
            fields
        });
        let done = [("output_index", json(&place)), ("item", json(item))];
        self.event(kind, &whole, out);
        if let Some(fields) = part {
            self.event("response.content_part.done", &fields, out);
        }
        self.event("response.output_item.done", &done, out);
    }
}

/// Which item an event is about, and which part, where items have parts.
fn place_fields(item: &OutputItem, place: usize) -> Vec<(&'static str, String)> {
    let mut fields = vec![("item_id", json(&item.id())), ("output_index", json(&place))];
    if item.part().is_some() {
        fields.push(("content_index", "0".to_owned()));
    }
    fields
}

impl StreamEncoder for ResponsesEncoder {
    fn push(&mut self, _prompt: usize, delta: &Delta, out: &mut String) {
        self.begin(out);
        let mut changes = Vec::new();
        self.reply.take(delta, &mut changes);
        for change in &changes {
            self.change(change, out);
        }
    }

    fn finish(&mut self, out: &mut String) {
        self.begin(out);
        let kind = match self.reply.status() {
            "completed" => "response.completed",
            _ => "response.incomplete",
        };
        self.event(kind, &[("response", self.reply.to_json())], out);
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        self.begin(out);
        self.reply.fail(error);
        let fields = [
            ("code", json(&self.reply.failure_code())),
            ("message", json(&error.message)),
            ("param", json(&error.param)),
        ];
        self.event("error", &fields, out);
        self.event("response.failed", &[("response", self.reply.to_json())], out);
    }
}
