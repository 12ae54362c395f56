//! Grammars in llama.cpp's notation (GBNF).
//!
//! GBNF knows no lexemes: a text is in the language if it can be derived at all. The recognizer cuts text into
//! lexemes, each as long as possible, and would miss derivations if terminals were chosen carelessly. [`units`]
//! chooses them such that cutting greedily is always right; what is regular as a whole becomes one terminal.

mod chars;
mod parser;
mod units;

use crate::lark::Source;
use crate::vocabulary::Vocabulary;
use crate::{GrammarError, Limits};

/// The rule that a grammar begins with.
const ROOT: &str = "root";

/// A grammar in the recognizer's notation.
pub(crate) fn to_source(
    text: &str,
    vocabulary: &Vocabulary,
    limits: &Limits,
) -> Result<Source, GrammarError> {
    let grammar = parser::parse(text, vocabulary, limits)?;
    let (lark, named) = units::write(&grammar, vocabulary, limits)?;
    Ok(Source::with(lark, Vec::new(), named))
}
