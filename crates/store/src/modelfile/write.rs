//! Instructions to text that parses to the same instructions.

use serde_json::Value;

use super::{Instruction, Modelfile};

/// A value that the language of Modelfiles cannot spell, whatever marks are put around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of {word} cannot be written in a Modelfile: a line of it ends with three quotation marks")]
pub struct Unwritable {
    /// The instruction.
    pub word: &'static str,
}

impl Modelfile {
    /// The text of a Modelfile with these instructions.
    ///
    /// # Errors
    /// If one of them has a value that no Modelfile can have.
    pub fn to_text(&self) -> Result<String, Unwritable> {
        let mut text = String::new();
        for instruction in &self.instructions {
            text.push_str(&line(instruction)?);
            text.push('\n');
        }
        Ok(text)
    }
}

/// One instruction: bare where that says the same, else between quotation marks.
fn line(instruction: &Instruction) -> Result<String, Unwritable> {
    let word = instruction.word();
    let (head, value) = match instruction {
        Instruction::Parameter(name, value) => (format!("{word} {name}"), parameter(value)),
        Instruction::Message(role, text) => (format!("{word} {}", role.name()), text.clone()),
        Instruction::From(text)
        | Instruction::Adapter(text)
        | Instruction::Template(text)
        | Instruction::System(text)
        | Instruction::License(text)
        | Instruction::Requires(text)
        | Instruction::Renderer(text)
        | Instruction::Parser(text)
        | Instruction::Draft(text) => (word.to_owned(), text.clone()),
    };
    let marks = if value.contains('\n') { ["", "\"\"\"", "\""] } else { ["", "\"", "\"\"\""] };
    marks
        .iter()
        .map(|mark| format!("{head} {mark}{value}{mark}"))
        .find(|line| is_read_as(line, instruction))
        .ok_or(Unwritable { word })
}

fn is_read_as(line: &str, instruction: &Instruction) -> bool {
    // Whatever comes behind it must not become a part of it, nor must anything of it become an instruction.
    let text = format!("{line}\nFROM x");
    Modelfile::parse(text.as_bytes())
        .is_ok_and(|read| read.instructions == [instruction.clone(), Instruction::From("x".into())])
}

fn parameter(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
