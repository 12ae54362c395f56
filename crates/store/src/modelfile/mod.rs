//! Modelfiles: what a model is made from and how it is used, in Ollama's words.
//!
//! A Modelfile is read into instructions with types ([`Modelfile::parse`]), made into a model of the store
//! ([`Recipe`]), and written back from one ([`Modelfile::of`]); what is written parses to the same instructions.
//!
//! **Grammar.** An instruction is a word, blanks, and a value to the end of the line. A value that begins with `"`
//! or `"""` goes on to the first end of a line before which the same stands, and what is between is taken as it is:
//! nothing is escaped. Lines that begin with `#` are comments. Words of instructions may be in any case and any order.

mod base;
mod create;
mod params;
mod parse;
mod shown;
#[cfg(test)]
mod tests;
mod version;
mod write;

pub use base::{Copying, file_name};
pub use create::{CreateError, Part, Recipe, Status};
pub use params::{PARAMETERS, ParamKind, ParamProblem, Parameter, check_parameter};
pub use parse::{MODELFILE_BYTES_MAX, ModelfileError, Problem};
pub use version::check_version;
pub use write::Unwritable;

use serde_json::Value;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The application.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in Modelfiles and in layers.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant].into_iter().find(|role| role.name() == name)
    }
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// What it is made from: a model's name, a file or a folder.
    From(String),
    /// A LoRA adapter: a GGUF file, or what `peft` writes.
    Adapter(String),
    /// The chat template, in Go's language or in Jinja.
    Template(String),
    /// The system message.
    System(String),
    /// A licence's text.
    License(String),
    /// A message that opens each conversation.
    Message(Role, String),
    /// A parameter. `stop` may stand several times.
    Parameter(String, Value),
    /// The least version of Ollama that the model needs.
    Requires(String),
    /// The code of Ollama's that makes prompts for the model.
    Renderer(String),
    /// The code of Ollama's that reads the model's answers.
    Parser(String),
    /// A small model that guesses ahead.
    Draft(String),
}

impl Instruction {
    /// The word in a Modelfile.
    pub fn word(&self) -> &'static str {
        match self {
            Self::From(_) => "FROM",
            Self::Adapter(_) => "ADAPTER",
            Self::Template(_) => "TEMPLATE",
            Self::System(_) => "SYSTEM",
            Self::License(_) => "LICENSE",
            Self::Message(..) => "MESSAGE",
            Self::Parameter(..) => "PARAMETER",
            Self::Requires(_) => "REQUIRES",
            Self::Renderer(_) => "RENDERER",
            Self::Parser(_) => "PARSER",
            Self::Draft(_) => "DRAFT",
        }
    }
}

/// A Modelfile: instructions in the order in which they stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelfile {
    /// The instructions.
    pub instructions: Vec<Instruction>,
}
