//! Instructions to text that parses to the same instructions.

use serde_json::Value;

use super::{Instruction, Modelfile};

/// A value that the language of Modelfiles cannot spell, whatever marks are put around it: a text of which a line ends with
/// three quotation marks, a parameter that it does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Modelfile can spell the value of {what}")]
pub struct Unwritable {
    /// The instruction, with the parameter's name.
    pub what: String,
}

impl Modelfile {
    /// The text of a Modelfile with these instructions.
    ///
    /// # Errors
    /// If one of them has a value that no Modelfile can have.
    pub fn to_text(&self) -> Result<String, Unwritable> {
        self.instructions.iter().map(line).collect()
    }

    /// The same text with a comment in the place of what no Modelfile can say.
    pub fn to_text_with_gaps(&self) -> String {
        let gap = |why: Unwritable| {
            let what = why.what.escape_debug();
            format!("# {what} is left out: no Modelfile can spell its value\n")
        };
        self.instructions.iter().map(|instruction| line(instruction).unwrap_or_else(gap)).collect()
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
        .map(|mark| format!("{head} {mark}{value}{mark}\n"))
        .find(|line| is_read_as(line, instruction))
        .ok_or(Unwritable {
            what: match instruction {
                Instruction::Parameter(..) => head,
                _ => word.to_owned(),
            },
        })
}

fn is_read_as(line: &str, instruction: &Instruction) -> bool {
    // Whatever comes behind it must not become a part of it, nor must anything of it become an instruction.
    let text = format!("{line}FROM x");
    Modelfile::parse(text.as_bytes()).is_ok_and(|read| {
        matches!(&read.instructions[..], [first, Instruction::From(x)] if x == "x" && is_same(first, instruction))
    })
}

/// Whether two instructions say the same. What others have made keeps a whole number where a fraction may stand.
fn is_same(a: &Instruction, b: &Instruction) -> bool {
    match (a, b) {
        (
            Instruction::Parameter(name, Value::Number(number)),
            Instruction::Parameter(other_name, Value::Number(other)),
        ) => name == other_name && (number == other || number.as_f64() == other.as_f64()),
        (a, b) => a == b,
    }
}

fn parameter(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
