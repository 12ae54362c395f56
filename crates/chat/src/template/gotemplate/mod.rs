//! Chat templates in Go's template language, as Ollama's models carry them.
//!
//! The language is that of Go's `text/template`, with the functions that Ollama adds and the structures that it gives
//! to templates. What Go renders is what this renders, byte for byte; tests ask Go itself. Where Go shows an address
//! of memory, or text that is not UTF-8, rendering fails and says so.
//!
//! A template speaks of a conversation in one of three ways, and [`GoTemplate::render`] follows each:
//! - it goes over `.Messages`: it is run once;
//! - it knows only `.System`, `.Prompt` and `.Response`: it is run once for each exchange, and of the last one
//!   everything behind `.Response` is cut off, which is where the answer begins;
//! - it has a `.Suffix`: it fills gaps, too.
//!
//! Typing, fuel and bounds are those of Jinja templates.

mod ast;
mod data;
mod exec;
mod format;
mod funcs;
mod lexer;
mod number;
mod parser;
mod show;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::input::{final_text, json_bytes, last_is_assistant};
use super::text::TextBuf;
use super::value::Fuel;
use super::{CivilTime, TemplateError, TemplateOptions};
use crate::ChatInput;
use ast::{Operand, Pipe, Stmt, StmtKind};
use exec::Run;
use parser::Program;
use value::{Missing, Value};

/// Text, and the ranges in it that came from outside.
pub(super) type Parts = (String, Vec<(u32, u32)>);

/// A template, parsed.
#[derive(Debug)]
pub(super) struct GoTemplate {
    program: Program,
    /// Statements that the source has; one more follows if it shows no answer.
    n_written: usize,
    /// The same up to the answer.
    cut: Vec<Stmt>,
}

impl GoTemplate {
    /// Parses a template. One that shows neither messages nor an answer gets the answer at its end.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let mut program = parser::parse(source)?;
        let n_written = program.main.len();
        let has = |name: &str| program.names.contains(name);
        if !has("messages") && !has("response") {
            let field = Operand::Field(vec![Arc::from("Response")]);
            let pipe = Pipe { cmds: vec![vec![field]], ..Pipe::default() };
            let line = source.lines().count().max(1) as u32;
            program.main.push(Stmt { line, kind: StmtKind::Action(pipe) });
        }
        let cut = exec::cut_at_response(&program.main);
        Ok(Self { program, n_written, cut })
    }

    /// Whether the template reads a field or variable of this name, in whatever case.
    pub fn names(&self, name: &str) -> bool {
        self.program.names.contains(&name.to_lowercase())
    }

    /// Whether it can be told something by a variable in Jinja's words.
    pub fn reads(&self, name: &str) -> bool {
        match name {
            data::THINK => self.names("think") || self.names("isthinkset"),
            data::LEVEL => self.names("thinklevel"),
            // The thoughts of a message, not a switch.
            "thinking" => false,
            name => self.names(name),
        }
    }

    /// Renders a conversation.
    pub fn render(
        &self,
        input: &ChatInput,
        options: &TemplateOptions,
        now: CivilTime,
    ) -> Result<Parts, TemplateError> {
        let mut messages = &input.messages[..];
        if input.continue_final_message && last_is_assistant(input) && final_text(input).is_empty() {
            // Continuing an empty message is starting one.
            messages = &messages[..messages.len() - 1];
        }
        let bytes: usize = input.template_vars.values().chain(&input.tools).map(json_bytes).sum();
        let said: usize = messages.iter().map(message_bytes).sum();
        let fuel = Fuel::new(options.fuel.saturating_add(4 * (bytes + said) as u64));
        let run = Run::new(&self.program, &fuel, now, options.output_bytes_max);
        if self.names("messages") {
            let values = data::conversation(input, messages);
            return Ok(run.render(&self.program.main, &values)?.into_parts());
        }
        self.exchanges(&run, &input.template_vars, messages)
    }

    /// Renders one exchange after the other, the last one up to its answer.
    fn exchanges(
        &self,
        run: &Run<'_>,
        vars: &Map<String, Json>,
        messages: &[crate::Message],
    ) -> Result<Parts, TemplateError> {
        let mut out = TextBuf::default();
        let (mut system, mut prompt, mut response) = ("", "", "");
        let (_, turns) = data::collate(messages);
        let common = data::common(vars);
        let exchange = |system: &str, prompt: &str, response: &str| {
            run.fuel.charge(common.len())?;
            Ok(data::exchange(&common, system, prompt, response))
        };
        for turn in &turns {
            let is_complete = match turn.role {
                "system" => !prompt.is_empty() || !response.is_empty(),
                "user" => !response.is_empty(),
                _ => false,
            };
            if is_complete {
                let values = exchange(system, prompt, response)?;
                out.push(&run.render(&self.program.main, &values)?.into_text());
                run.check_size(out.len())?;
                (system, prompt, response) = ("", "", "");
            }
            match turn.role {
                "system" => system = &turn.content,
                "user" => prompt = &turn.content,
                "assistant" => response = &turn.content,
                _ => {}
            }
        }
        // Ollama makes a template of its own from what is left, and that one has the language's default for missing keys.
        let run = run.with_missing(Missing::Invalid);
        let values = exchange(system, prompt, response)?;
        out.push(&run.render(&self.cut, &values)?.into_text());
        run.check_size(out.len())?;
        Ok(out.into_parts())
    }

    /// Renders a gap to fill.
    pub fn render_gap(
        &self,
        prefix: &str,
        suffix: &str,
        options: &TemplateOptions,
        now: CivilTime,
    ) -> Result<Parts, TemplateError> {
        self.run(&self.program.main, &data::gap(prefix, suffix), prefix.len() + suffix.len(), options, now)
    }

    /// Renders any variables, by the source alone.
    pub fn render_vars(
        &self,
        vars: &Map<String, Json>,
        options: &TemplateOptions,
        now: CivilTime,
    ) -> Result<Parts, TemplateError> {
        let bytes = vars.values().map(json_bytes).sum();
        let written = &self.program.main[..self.n_written];
        self.run(written, &data::from_json(&Json::Object(vars.clone())), bytes, options, now)
    }

    fn run(
        &self,
        body: &[Stmt],
        values: &Value,
        bytes: usize,
        options: &TemplateOptions,
        now: CivilTime,
    ) -> Result<Parts, TemplateError> {
        let fuel = Fuel::new(options.fuel.saturating_add(4 * bytes as u64));
        let run = Run::new(&self.program, &fuel, now, options.output_bytes_max);
        Ok(run.render(body, values)?.into_parts())
    }
}

fn message_bytes(message: &crate::Message) -> usize {
    let calls: usize =
        message.tool_calls.iter().map(|call| call.name.len() + json_bytes(&call.arguments)).sum();
    data::flat(&message.content).len() + message.reasoning.as_ref().map_or(0, String::len) + calls
}
