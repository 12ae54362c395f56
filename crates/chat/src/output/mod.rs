//! What a model's text means: which of it is thought, which is said, which calls tools.
//!
//! Families of models spell these differently, and the model's own chat template shows how: [`OutputFormat::detect`]
//! reads it there, so that nobody has to say. An [`OutputParser`] takes an answer piece by piece, as it is generated,
//! and what it gives, joined, does not depend on where the pieces were cut.
//!
//! **How it is built.** Families differ in marks and in a handful of shapes, so there are a few engines that read
//! tables (`family`): JSON objects (`json_calls`), a name in front of a JSON object (`named_calls`), tags
//! (`xml_calls`), a programming language's calls (`loose_calls`), and Harmony's messages. Around them, one machine
//! (`parser`) parts what is said from what is thought and finds where calls begin.
//!
//! **What comes out when.** What is certain goes out at once: text up to a possible beginning of a mark, a call when
//! its name is complete, its arguments as the model writes them where it writes JSON. What waits is bounded, except
//! where the model itself puts the answer last: arguments in front of their name or id, and values of which only the
//! end says whether they are JSON.
//!
//! **What is no call is text.** Until a call's name and the beginning of its arguments are there, nothing is reported;
//! if they don't come, the text goes out as it was, marks included, as what was said or thought. A call that was
//! reported stays one: where tags or a language's syntax break off afterwards, what is open is closed, so that the
//! arguments are JSON, and the rest is said; broken JSON passes as the model wrote it. A cut answer leaves arguments
//! as far as they came.
//!
//! **Unknown names.** A call of a tool that the request doesn't have is a call: the caller answers it with an error
//! that the model can read. Where a call has no mark of its own (JSON at the beginning of an answer, `<function=`,
//! `>>>`) or stands inside of thoughts, only a known name makes it one.
//!
//! **Layout.** White space between marks, between thoughts and answer, and behind the last call is dropped. Thoughts
//! that begin on a new line end on one, too.

mod answer;
mod detect;
mod family;
mod harmony;
mod input;
mod io;
mod json_calls;
mod loose_calls;
mod named_calls;
mod parser;
mod rule;
mod strict;
#[cfg(test)]
mod tests;
mod tools;
mod xml_calls;

use serde_json::Value;

use family::{Family, Thoughts};
use parser::Machine;

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

/// How a family of models spells thoughts and calls. The default knows neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputFormat {
    family: Family,
    thoughts: Option<Thoughts>,
    /// Spellings that differ inside of a family.
    style: rule::Style,
}

impl OutputFormat {
    /// Finds the format that a chat template shows.
    pub fn detect(template: &str) -> Self {
        let (family, thoughts) = detect::detect(template);
        Self { family, thoughts, style: rule::Style::detect(template) }
    }

    /// Whether calls are recognized.
    pub fn has_tools(&self) -> bool {
        self.family != Family::Plain
    }

    /// Whether thoughts are.
    pub fn has_reasoning(&self) -> bool {
        self.thoughts.is_some()
    }

    /// What begins thoughts and what ends them, if the format has any. Writing the end ends them: that is how a
    /// budget of thoughts is kept.
    pub fn reasoning_marks(&self) -> Option<(&'static str, &'static str)> {
        self.thoughts.map(|thoughts| (thoughts.open, thoughts.close))
    }

    /// Whether answers, thoughts included, are messages with heads of their own, so that rules have all of them.
    pub fn has_heads(&self) -> bool {
        answer::has_heads(self.family)
    }

    /// The rule of an answer that says what `said` allows, with the head that the format has before it.
    pub fn answer_rule(&self, said: Rule) -> Rule {
        answer::rule(self.family, said)
    }

    /// What an answer must look like that may, or must, call these tools; `None` if nothing has to be enforced: any
    /// answer will do, or no tool that is called exists. Thoughts come before, and are not part of it.
    ///
    /// Enforced are `required` and named choices, and the schema of tools that are marked `strict`. A named choice is
    /// exactly one call. Formats that know no calls write `{"name": .., "parameters": {..}}`, one a line, which their
    /// parsers read where an answer begins.
    pub fn tool_rule(&self, tools: &[Value], choice: &ToolChoice, at_most_one: bool) -> Option<Rule> {
        rule::tool_rule(self.family, self.style, tools, choice, at_most_one)
    }

    /// What the schema of a tool marked `strict` asks for and [`tool_rule`](Self::tool_rule) cannot enforce, where this
    /// format writes texts without quotes: in words, to be refused.
    pub fn unenforced(&self, tools: &[Value]) -> Option<String> {
        let (tool, parameter, keyword) = strict::unenforced(self.family, tools)?;
        let place = parameter.map_or_else(String::new, |name| format!(" of its parameter `{name}`"));
        Some(format!(
            "the tool `{tool}` is strict, but `{keyword}`{place} cannot be enforced in the way in which this model writes \
             calls: leave one of them out"
        ))
    }

    /// A parser of one answer.
    pub fn parser(&self, context: &OutputContext) -> OutputParser {
        OutputParser { machine: Machine::new(self.family, self.thoughts, context) }
    }
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct OutputParser {
    machine: Machine,
}

impl OutputParser {
    /// Takes a piece and appends what is certain now.
    pub fn push(&mut self, piece: Piece, out: &mut Vec<Output>) {
        self.machine.push(piece, out);
    }

    /// Appends what was held back: the answer has ended.
    pub fn finish(&mut self, out: &mut Vec<Output>) {
        self.machine.finish(out);
    }

    /// Where the answer is.
    pub fn phase(&self) -> Phase {
        self.machine.phase()
    }
}
