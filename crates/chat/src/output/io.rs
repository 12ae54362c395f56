//! What engines work with: the input, the tools, and the way out.

use super::Output;
use super::input::{Input, JsonScan};
use super::tools::Tools;

/// How far an engine came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It needs more text, or the end.
    More,
    /// The calls are over; what is not used yet is something else.
    Done,
    /// What is held is no call.
    NotACall,
}

/// What becomes of an answer. Neighbours of one kind are joined.
pub(super) struct Emit<'a> {
    out: &'a mut Vec<Output>,
    /// Where this piece's outputs begin: earlier ones stay as they are.
    start: usize,
    /// The index of the next call.
    calls: &'a mut u32,
    /// Nothing comes out: the text is the prompt's.
    pub mute: bool,
}

impl<'a> Emit<'a> {
    pub fn new(out: &'a mut Vec<Output>, calls: &'a mut u32) -> Self {
        let start = out.len();
        Self { out, start, calls, mute: false }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        *self.calls
    }

    pub fn content(&mut self, text: String) {
        if text.is_empty() || self.mute {
            return;
        }
        match self.out[self.start..].last_mut() {
            Some(Output::Content(last)) => last.push_str(&text),
            _ => self.out.push(Output::Content(text)),
        }
    }

    pub fn reasoning(&mut self, text: String) {
        if text.is_empty() || self.mute {
            return;
        }
        match self.out[self.start..].last_mut() {
            Some(Output::Reasoning(last)) => last.push_str(&text),
            _ => self.out.push(Output::Reasoning(text)),
        }
    }

    fn call(&mut self, id: Option<String>, name: String) {
        if self.mute {
            return;
        }
        self.out.push(Output::ToolCall { index: *self.calls, id, name });
        *self.calls += 1;
    }

    /// More arguments of the last call.
    pub fn arguments(&mut self, text: String) {
        if text.is_empty() || self.mute {
            return;
        }
        match self.out[self.start..].last_mut() {
            Some(Output::ToolArguments { json, .. }) => json.push_str(&text),
            _ => self.out.push(Output::ToolArguments { index: self.calls.saturating_sub(1), json: text }),
        }
    }
}

/// Everything an engine works with.
pub(super) struct Io<'a, 'o> {
    pub input: &'a mut Input,
    pub tools: &'a Tools,
    pub emit: &'a mut Emit<'o>,
    /// A call counts only if there is a tool of its name.
    pub known: bool,
}

impl Io<'_, '_> {
    /// Whether a call of this name counts.
    pub fn may_call(&self, name: &str) -> bool {
        if self.known { self.tools.has(name) } else { !name.trim_ascii().is_empty() }
    }

    /// A call begins: what was held for it is used.
    pub fn call(&mut self, id: Option<String>, name: &str) {
        self.emit.call(id, name.to_owned());
        self.input.release();
    }

    /// Passes arguments on as the model writes them, and says whether they are complete. A control token of the
    /// format ends them too, wherever it stands: they were left incomplete.
    pub fn pass_json(&mut self, scan: &mut JsonScan) -> bool {
        let (limit, control) = self.input.until_control();
        let end = scan.scan(&self.input.rest().as_bytes()[..limit]);
        let json = self.input.take(end.unwrap_or(limit));
        self.emit.arguments(json);
        end.is_some() || control
    }

    /// As [`pass_json`](Self::pass_json), but nothing comes out.
    pub fn skip_json(&mut self, scan: &mut JsonScan) -> bool {
        let (limit, control) = self.input.until_control();
        let end = scan.scan(&self.input.rest().as_bytes()[..limit]);
        self.input.advance(end.unwrap_or(limit));
        end.is_some() || control
    }
}
