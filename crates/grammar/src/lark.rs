//! The recognizer's own notation: written by us, and taken from users.

use ingle_step::TokenId;
use llguidance::api::{GrammarInit, GrammarWithLexer, TopLevelGrammar, ValidationResult};
use serde_json::Value;

use crate::compiler::message;
use crate::schema::{self, Prepared};
use crate::vocabulary::Vocabulary;
use crate::{GrammarError, Limits};

/// A format as the recognizer takes it: a grammar, and the schemas that it names `@json_0`, `@json_1`, ...
#[derive(Default)]
pub(crate) struct Source {
    /// `None` if the first schema is all.
    lark: Option<String>,
    pub schemas: Vec<Prepared>,
    /// The special tokens that it names.
    pub named: Vec<TokenId>,
    /// Whether the model is to spell what is forced as it likes.
    pub no_forcing: bool,
}

impl Source {
    pub fn lark(text: String) -> Self {
        Self { lark: Some(text), ..Self::default() }
    }

    pub fn json(schema: Prepared) -> Self {
        Self { schemas: vec![schema], ..Self::default() }
    }

    pub fn with(text: String, schemas: Vec<Prepared>, named: Vec<TokenId>) -> Self {
        Self { lark: Some(text), schemas, named, no_forcing: false }
    }

    pub fn grammars(&self) -> Vec<GrammarWithLexer> {
        let start = self.lark.iter().map(|text| GrammarWithLexer::from_lark(text.clone()));
        let named = self.schemas.iter().enumerate().map(|(at, schema)| GrammarWithLexer {
            name: Some(json_name(at)),
            json_schema: Some(schema.compiled.clone()),
            lark_grammar: None,
        });
        start.chain(named).collect()
    }

    /// What is wrong, when the recognizer refused it: with the place, if it is in a schema.
    pub fn explain(&self, text: &str, limits: &Limits) -> GrammarError {
        for schema in &self.schemas {
            if let Some(error) = schema::explain(schema, limits) {
                return error;
            }
        }
        refusal(text)
    }
}

/// The name of the `at`-th schema.
pub(crate) fn json_name(at: usize) -> String {
    format!("json_{at}")
}

/// What the recognizer says of a schema alone; `None` if it takes it.
pub(crate) fn validate_schema(schema: &Value, limits: &Limits) -> Option<String> {
    let top = TopLevelGrammar::from_json_schema(schema.clone());
    match GrammarInit::Serialized(top).validate(None, limits.parser()) {
        ValidationResult::Error(text) => Some(message(&text)),
        _ => None,
    }
}

/// An error from the recognizer's text.
pub(crate) fn refusal(text: &str) -> GrammarError {
    if text.contains("Unsatisfiable schema") || text.contains("is unsatisfiable") {
        return GrammarError::invalid(format!("nothing can be valid: {text}"));
    }
    if text.contains("oneOf constraints are not supported") {
        let reason = "that exactly one case holds cannot be enforced, for these may hold together: use `anyOf`, or tell \
                      the cases apart by a required property with a `const`";
        return GrammarError::unsupported(reason);
    }
    let limit_words =
        ["fuel", "too large", "limit", "too many", "too complex", "exceeded", "too big", "overflow"];
    if text.starts_with("panic") {
        GrammarError::unsupported("it makes the grammar compiler fail")
    } else if limit_words.iter().any(|word| text.contains(word)) {
        GrammarError::too_large(text)
    } else {
        GrammarError::unsupported(text)
    }
}

/// A text as a literal.
pub(crate) fn literal(text: &str) -> String {
    // JSON's notation; it leaves one control character as it is, which Lark's does not allow.
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

/// A regular expression (of the `regex` crate's syntax) as a literal.
pub(crate) fn regex(regex: &str) -> String {
    if regex.is_empty() {
        return "\"\"".to_owned();
    }
    let mut text = String::with_capacity(regex.len() + 2);
    text.push('/');
    let mut escaped = false;
    for c in regex.chars() {
        match c {
            '/' if !escaped => text.push_str("\\/"),
            '\n' if !escaped => text.push_str("\\n"),
            c => text.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    text.push('/');
    text
}

/// One of these texts.
pub(crate) fn choice(choices: &[String]) -> Result<String, GrammarError> {
    if choices.is_empty() {
        return Err(GrammarError::invalid("there is nothing to choose from: give at least one choice"));
    }
    let literals: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
    Ok(format!("start: CHOICE\nCHOICE: {}\n", literals.join("\n | ")))
}

/// A user's grammar. It is passed on as it is, but for its schemas, which are read and written anew like any other,
/// and for what could make text of control tokens or would have no effect, which is refused.
pub(crate) fn user(text: &str, vocabulary: &Vocabulary, limits: &Limits) -> Result<Source, GrammarError> {
    let mut out = String::with_capacity(text.len());
    let mut schemas = Vec::new();
    let mut named = Vec::new();
    let mut no_forcing = false;
    let mut at = 0;
    let mut depth = 0;
    check_definitions(text, limits)?;
    while at < text.len() {
        let rest = &text[at..];
        let fail = |reason: String| Err(fault(text, at, reason));
        let n = match rest.as_bytes()[0] {
            b'"' => quoted(rest, b'"').ok_or_else(|| fault(text, at, "the string has no end".to_owned()))?,
            b'/' if !rest.starts_with("//") => {
                let n = quoted(rest, b'/')
                    .ok_or_else(|| fault(text, at, "the expression has no end".to_owned()))?;
                if n > limits.pattern_bytes {
                    return fail(format!(
                        "the regular expression is {n} bytes long: at most {} are allowed",
                        limits.pattern_bytes
                    ));
                }
                if rest[..n].contains("(?P<stop>") || rest[..n].contains("(?<stop>") {
                    return fail(
                        "a group named \"stop\" has a meaning of its own: name it otherwise".to_owned(),
                    );
                }
                n
            }
            b'#' | b'/' => rest.find('\n').unwrap_or(rest.len()),
            b'%' if rest.starts_with("%json") => {
                let (value, n) = json_behind(rest, "%json").map_err(|reason| fault(text, at, reason))?;
                schema::measure(&value, limits)?;
                out.push('@');
                out.push_str(&json_name(schemas.len()));
                schemas.push(schema::prepare(&value, limits)?);
                at += n;
                continue;
            }
            b'%' if rest.starts_with("%regex") => {
                json_behind(rest, "%regex").map_err(|reason| fault(text, at, reason))?.1
            }
            b'%' if rest.starts_with("%llguidance") => {
                let (value, n) =
                    json_behind(rest, "%llguidance").map_err(|reason| fault(text, at, reason))?;
                let known = ["no_forcing", "allow_initial_skip", "ignore_once"];
                no_forcing |= value.get("no_forcing") == Some(&Value::Bool(true));
                for key in value.as_object().into_iter().flat_map(serde_json::Map::keys) {
                    if !known.contains(&key.as_str()) {
                        return fail(format!(
                            "%llguidance: {key:?} is not supported; {} are",
                            known.join(", ")
                        ));
                    }
                }
                n
            }
            b'<' => {
                let n = rest.find('>').ok_or_else(|| fault(text, at, "the token has no end".to_owned()))? + 1;
                out.push_str(
                    &token(&rest[..n], vocabulary, &mut named).map_err(|reason| fault(text, at, reason))?,
                );
                at += n;
                continue;
            }
            b'@' => {
                return fail(
                    "references to other grammars are not supported: write their rules here".to_owned(),
                );
            }
            b'[' if is_attributes(rest) => {
                let n =
                    rest.find(']').ok_or_else(|| fault(text, at, "the attributes have no end".to_owned()))?;
                for name in ["stop", "max_tokens", "temperature", "stop_capture"] {
                    if attribute_names(&rest[1..n]).any(|found| found == name) {
                        return fail(format!(
                            "the attribute `{name}` is not supported; `suffix` and `lazy` are"
                        ));
                    }
                }
                1
            }
            b'(' | b'{' => {
                depth += 1;
                if depth > limits.depth {
                    return fail(format!("brackets are nested deeper than {}", limits.depth));
                }
                1
            }
            b')' | b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        out.push_str(&rest[..n]);
        at += n;
    }
    Ok(Source { no_forcing, ..Source::with(out, schemas, named) })
}

/// Definitions begin lines. What only looks like one is counted, too.
fn check_definitions(text: &str, limits: &Limits) -> Result<(), GrammarError> {
    let begins =
        |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_alphabetic() || "_!?".contains(c));
    let n = text.lines().filter(begins).count();
    if n > limits.definitions {
        return Err(GrammarError::too_large(format!(
            "{n} rules: at most {} are allowed",
            limits.definitions
        )));
    }
    Ok(())
}

/// How long a quoted text at the beginning of `rest` is, quotes and all. Neither kind may span lines.
fn quoted(rest: &str, quote: u8) -> Option<usize> {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'\n' if quote == b'"' => return None,
            b if b == quote => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The value behind a keyword, and how long both are.
fn json_behind(rest: &str, keyword: &str) -> Result<(Value, usize), String> {
    let mut values = serde_json::Deserializer::from_str(&rest[keyword.len()..]).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok((value, keyword.len() + values.byte_offset())),
        Some(Err(error)) => Err(format!("{keyword}: {error}")),
        None => Err(format!("{keyword} wants a JSON value behind it")),
    }
}

/// Rules' attributes stand in brackets too, as what is optional does: they are names, with `=` or alone.
fn is_attributes(rest: &str) -> bool {
    let inner = rest[1..].trim_start();
    let name_end = inner.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(inner.len());
    let behind = inner[name_end..].trim_start();
    name_end > 0
        && (behind.starts_with('=')
            || matches!(&inner[..name_end], "lazy" | "capture") && behind.starts_with([']', ',']))
}

fn attribute_names(inner: &str) -> impl Iterator<Item = &str> {
    inner.split(',').filter_map(|part| part.split('=').next()).map(str::trim)
}

/// A reference to tokens. Special ones must be named one by one: "any token", and "all but these", are of text.
fn token(reference: &str, vocabulary: &Vocabulary, named: &mut Vec<TokenId>) -> Result<String, String> {
    let Some(ids) = reference.strip_prefix("<[").and_then(|inner| inner.strip_suffix("]>")) else {
        return match vocabulary.special(reference) {
            Some(id) => {
                named.push(id);
                Ok(format!("<[{}]>", id.0))
            }
            None => Err(format!("{reference} is no special token of this model")),
        };
    };
    if ids == "*" || ids.starts_with('^') {
        return Ok(reference.to_owned());
    }
    for range in ids.split(',').filter(|range| !range.trim().is_empty()) {
        let mut ends = range.split('-').map(|id| id.trim().parse::<u32>());
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Ok(id)), None, None) => named.push(TokenId(id)),
            (Some(Ok(first)), Some(Ok(last)), None) if first <= last => {}
            _ => return Err(format!("{reference} is no list of token ids")),
        }
    }
    Ok(reference.to_owned())
}

/// A fault at a byte of a text.
pub(crate) fn fault(text: &str, at: usize, reason: String) -> GrammarError {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    GrammarError::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        reason,
    }
}
