//! What a model's text means: which of it is thought, which is said, which calls tools.
//!
//! Families of models spell these differently, and the model's own chat template shows how: [`OutputFormat::detect`]
//! reads it there, so that nobody has to say. An [`OutputParser`] takes an answer piece by piece, as it is generated,
//! and what it gives, joined, does not depend on where the pieces were cut.

use serde_json::Value;

use crate::{Rule, ToolChoice};

/// A piece of what a model generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text.
    Text(&'a str),
    /// A control token, by its spelling. One that means nothing to the format is dropped.
    Control(&'a str),
}

/// A piece of what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// More of what is said.
    Content(String),
    /// More of what is thought.
    Reasoning(String),
    /// A call begins: the `index`-th of the answer, from 0.
    ToolCall {
        /// Which.
        index: u32,
        /// The id that the model gave it, if its format has ids.
        id: Option<String>,
        /// The function's name.
        name: String,
    },
    /// More of the arguments of call `index`: joined, they are one JSON object.
    ToolArguments {
        /// Of which call.
        index: u32,
        /// The next piece of JSON.
        json: String,
    },
}

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The model thinks.
    Reasoning,
    /// It speaks, or has not begun.
    Content,
    /// It calls a tool.
    Tool,
}

/// What a parser has to know about its request.
#[derive(Clone, Copy, Debug)]
pub struct OutputContext<'a> {
    /// The tools that may be called, as the request defines them; empty: nothing is taken for a call.
    pub tools: &'a [Value],
    /// The end of the prompt, which may have opened the thoughts already.
    pub prompt_end: &'a str,
    /// Thoughts stay in the text, with their marks.
    pub reasoning_in_text: bool,
}

/// How a family of models spells thoughts and calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputFormat {}

impl OutputFormat {
    /// Finds the format that a chat template shows.
    pub fn detect(_template: &str) -> Self {
        Self::default()
    }

    /// Whether calls are recognized.
    pub fn has_tools(&self) -> bool {
        false
    }

    /// Whether thoughts are.
    pub fn has_reasoning(&self) -> bool {
        false
    }

    /// What an answer must look like that may, or must, call these tools; `None` if nothing has to be enforced: any
    /// answer will do, or the format knows no calls. Thoughts come before, and are not part of it.
    ///
    /// Enforced are `required` and named choices, and the schema of tools that are marked `strict`.
    pub fn tool_rule(&self, _tools: &[Value], _choice: &ToolChoice, _at_most_one: bool) -> Option<Rule> {
        None
    }

    /// A parser of one answer.
    pub fn parser(&self, _context: &OutputContext) -> OutputParser {
        OutputParser {}
    }
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct OutputParser {}

impl OutputParser {
    /// Takes a piece and appends what is certain now.
    pub fn push(&mut self, piece: Piece, out: &mut Vec<Output>) {
        if let Piece::Text(text) = piece
            && !text.is_empty()
        {
            out.push(Output::Content(text.to_owned()));
        }
    }

    /// Appends what was held back: the answer has ended.
    pub fn finish(&mut self, _out: &mut Vec<Output>) {}

    /// Where the answer is.
    pub fn phase(&self) -> Phase {
        Phase::Content
    }
}
