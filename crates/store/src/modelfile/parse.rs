//! Text to instructions.

use super::params::{parse_parameter, shown};
use super::{Instruction, Modelfile, ParamProblem, Role, check_version};

/// The longest Modelfile, in bytes: licences are long.
pub const MODELFILE_BYTES_MAX: usize = 4 << 20;
/// The most instructions.
const INSTRUCTIONS_MAX: usize = 4096;

/// A text that is no Modelfile: where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ModelfileError {
    /// The line, from 1.
    pub line: usize,
    /// The character of the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a Modelfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is too long, or has too many instructions.
    #[error("a Modelfile has at most {max} {what}")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// It is no text.
    #[error("this is no UTF-8 text")]
    NotText,
    /// A word that is no instruction.
    #[error(
        "`{0}` is no instruction; there are FROM, ADAPTER, TEMPLATE, SYSTEM, LICENSE, MESSAGE, PARAMETER, REQUIRES, \
         RENDERER, PARSER and DRAFT"
    )]
    Instruction(String),
    /// An instruction without its value.
    #[error("{0} has no value: write it behind the word, on the same line")]
    NoValue(&'static str),
    /// A quoted value without its end.
    #[error("this value begins with {0} and has no end: put {0} at the end of a line")]
    Unclosed(&'static str),
    /// A message by nobody.
    #[error("a message is said by system, user or assistant, not by `{0}`")]
    Role(String),
    /// A parameter that cannot be set so.
    #[error("{0}")]
    Parameter(#[from] ParamProblem),
    /// No version.
    #[error("{0}")]
    Version(String),
    /// Something that may stand once, again.
    #[error("a second {0}: it may stand once")]
    Twice(String),
    /// There is nothing that the model is made from.
    #[error("there is no FROM: say what the model is made from (a name, a GGUF file or a folder)")]
    NoFrom,
}

/// The beginning of an instruction, in a text.
#[derive(Clone, Copy)]
struct Place<'a> {
    text: &'a str,
    at: usize,
}

impl Place<'_> {
    fn error(self, problem: impl Into<Problem>) -> ModelfileError {
        let before = &self.text[..self.at];
        let begin = before.rfind(['\n']).map_or(0, |at| at + 1);
        ModelfileError {
            line: before.matches('\n').count() + 1,
            column: before[begin..].chars().count() + 1,
            problem: problem.into(),
        }
    }
}

impl Modelfile {
    /// Reads a Modelfile: UTF-8, or UTF-16 with its mark.
    ///
    /// # Errors
    /// If it is none, with the place.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelfileError> {
        let nowhere = Place { text: "", at: 0 };
        if bytes.len() > MODELFILE_BYTES_MAX {
            let problem = Problem::TooLong { what: "bytes", max: MODELFILE_BYTES_MAX };
            return Err(nowhere.error(problem));
        }
        let text = decode(bytes)?;
        let mut reader = Reader { text: &text, at: 0 };
        let mut modelfile = Self::default();
        while let Some((place, instruction)) = reader.next()? {
            if modelfile.instructions.len() >= INSTRUCTIONS_MAX {
                let problem = Problem::TooLong { what: "instructions", max: INSTRUCTIONS_MAX };
                return Err(place.error(problem));
            }
            let is_single = matches!(
                instruction,
                Instruction::Template(_)
                    | Instruction::System(_)
                    | Instruction::Requires(_)
                    | Instruction::Renderer(_)
                    | Instruction::Parser(_)
            );
            let same = std::mem::discriminant(&instruction);
            if is_single && modelfile.instructions.iter().any(|i| std::mem::discriminant(i) == same) {
                return Err(place.error(Problem::Twice(instruction.word().to_owned())));
            }
            if let Instruction::Parameter(name, _) = &instruction
                && name != "stop"
                && modelfile
                    .instructions
                    .iter()
                    .any(|i| matches!(i, Instruction::Parameter(n, _) if n == name))
            {
                return Err(place.error(Problem::Twice(format!("PARAMETER {name}"))));
            }
            modelfile.instructions.push(instruction);
        }
        if !modelfile.instructions.iter().any(|i| matches!(i, Instruction::From(_))) {
            return Err(Place { text: &text, at: text.len() }.error(Problem::NoFrom));
        }
        Ok(modelfile)
    }
}

fn decode(bytes: &[u8]) -> Result<String, ModelfileError> {
    let wide = |read: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .ok()
            .filter(|_| bytes.len().is_multiple_of(2))
    };
    let nowhere = Place { text: "", at: 0 };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes).ok_or_else(|| nowhere.error(Problem::NotText)),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes).ok_or_else(|| nowhere.error(Problem::NotText)),
        bytes => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                Err(Place { text: &good, at: good.len() }.error(Problem::NotText))
            }
        },
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn place(&self) -> Place<'a> {
        Place { text: self.text, at: self.at }
    }

    fn skip(&mut self, set: &[char]) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(set).len();
    }

    /// The next instruction and its place.
    fn next(&mut self) -> Result<Option<(Place<'a>, Instruction)>, ModelfileError> {
        loop {
            self.skip(&[' ', '\t', '\r', '\n']);
            if !self.rest().starts_with('#') {
                break;
            }
            self.at += line_len(self.rest());
        }
        if self.rest().is_empty() {
            return Ok(None);
        }
        let place = self.place();
        let word = self.word();
        let Some(known) = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(word)).copied() else {
            return Err(place.error(Problem::Instruction(shown(word))));
        };
        let instruction = match known {
            "MESSAGE" => {
                self.skip(&[' ', '\t']);
                let of_role = self.place();
                let role = self.word();
                let role = Role::named(&role.to_ascii_lowercase())
                    .ok_or_else(|| of_role.error(Problem::Role(shown(role))))?;
                Instruction::Message(role, self.value(known)?.1)
            }
            "PARAMETER" => {
                self.skip(&[' ', '\t']);
                let of_name = self.place();
                let name = self.word().to_ascii_lowercase();
                if name.is_empty() {
                    return Err(of_name.error(Problem::NoValue(known)));
                }
                // A name that is not known is the first thing to tell.
                if let Err(problem @ ParamProblem::Unknown { .. }) = parse_parameter(&name, "") {
                    return Err(of_name.error(problem));
                }
                let (of_value, text) = self.value(known)?;
                let value = parse_parameter(&name, &text).map_err(|problem| of_value.error(problem))?;
                Instruction::Parameter(name, value)
            }
            _ => {
                let (of_value, text) = self.value(known)?;
                match known {
                    "FROM" => Instruction::From(text),
                    "ADAPTER" => Instruction::Adapter(text),
                    "TEMPLATE" => Instruction::Template(text),
                    "SYSTEM" => Instruction::System(text),
                    "LICENSE" => Instruction::License(text),
                    "RENDERER" => Instruction::Renderer(text),
                    "PARSER" => Instruction::Parser(text),
                    "DRAFT" => Instruction::Draft(text),
                    _ => {
                        let version = check_version(&text);
                        Instruction::Requires(version.map_err(|why| of_value.error(Problem::Version(why)))?)
                    }
                }
            }
        };
        let may_be_empty = matches!(
            instruction,
            Instruction::Template(_)
                | Instruction::System(_)
                | Instruction::License(_)
                | Instruction::Message(..)
        );
        match text_of(&instruction) {
            Some("") if !may_be_empty => Err(place.error(Problem::NoValue(known))),
            _ => Ok(Some((place, instruction))),
        }
    }

    /// Up to the next blank.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let n = rest.find([' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        self.at += n;
        &rest[..n]
    }

    /// A value, quoted or to the end of the line, and where it begins.
    fn value(&mut self, word: &'static str) -> Result<(Place<'a>, String), ModelfileError> {
        self.skip(&[' ', '\t']);
        let place = self.place();
        let rest = self.rest();
        let quote = match rest {
            rest if rest.starts_with("\"\"\"") => "\"\"\"",
            rest if rest.starts_with('"') => "\"",
            rest => {
                let n = line_len(rest);
                self.at += n;
                let text = rest[..n].trim();
                return match text {
                    "" => Err(place.error(Problem::NoValue(word))),
                    text => Ok((place, text.to_owned())),
                };
            }
        };
        let Some((quoted, n)) = quoted(rest, quote) else {
            return Err(place.error(Problem::Unclosed(quote)));
        };
        self.at += n;
        Ok((place, quoted.to_owned()))
    }
}

const KNOWN: [&str; 11] = [
    "FROM",
    "ADAPTER",
    "TEMPLATE",
    "SYSTEM",
    "LICENSE",
    "MESSAGE",
    "PARAMETER",
    "REQUIRES",
    "RENDERER",
    "PARSER",
    "DRAFT",
];

/// Bytes before the end of the line.
fn line_len(text: &str) -> usize {
    text.find(['\r', '\n']).unwrap_or(text.len())
}

/// What stands between a quote, with which the text begins, and the first one that ends a line, blanks aside; and where
/// that line ends.
pub(super) fn quoted<'a>(text: &'a str, quote: &str) -> Option<(&'a str, usize)> {
    // Where the blanks begin that end what was read so far. Each line is looked at once: a text may be blank for
    // megabytes, and to walk back over them at each line would take hours.
    let (mut n, mut inked) = (0, 0);
    loop {
        let line = &text[n..][..line_len(&text[n..])];
        match line.trim_end() {
            "" => (),
            ink => inked = n + ink.len(),
        }
        n += line.len();
        let taken = &text[..inked];
        if taken.len() >= 2 * quote.len() && taken.ends_with(quote) {
            return Some((&taken[quote.len()..taken.len() - quote.len()], n));
        }
        n += text[n..].chars().next()?.len_utf8();
    }
}

fn text_of(instruction: &Instruction) -> Option<&str> {
    match instruction {
        Instruction::Parameter(..) => None,
        Instruction::From(text)
        | Instruction::Adapter(text)
        | Instruction::Template(text)
        | Instruction::System(text)
        | Instruction::License(text)
        | Instruction::Message(_, text)
        | Instruction::Requires(text)
        | Instruction::Renderer(text)
        | Instruction::Parser(text)
        | Instruction::Draft(text) => Some(text),
    }
}
