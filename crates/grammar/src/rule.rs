//! Rules of our own ([`Rule`]) in the recognizer's notation.
//!
//! What of a rule is regular becomes one terminal, however it is put together: the recognizer cuts text into lexemes
//! greedily, and only within a terminal does it follow all ways at once. Between terminals stand what no terminal can
//! be: special tokens and JSON.

use ingle_chat::Rule;
use ingle_step::TokenId;

use crate::lark::{Source, json_name, literal, regex};
use crate::schema::{self, Prepared};
use crate::vocabulary::{Spelled, Vocabulary};
use crate::{GrammarError, Limits, compiler, pattern};

const ANY_TEXT: &str = "/(?s:.*)/";
const SOME_TEXT: &str = "/(?s:.+)/";

/// A rule's size in bytes, after its nesting was checked. Without recursion.
pub(crate) fn measure(rule: &Rule, limits: &Limits) -> Result<usize, GrammarError> {
    let mut bytes = 0;
    let mut todo = vec![(rule, 0)];
    while let Some((rule, depth)) = todo.pop() {
        if depth > limits.depth {
            let reason = format!("the rule is nested deeper than {} levels", limits.depth);
            return Err(GrammarError::too_large(reason));
        }
        bytes += 8;
        match rule {
            Rule::Text(text) | Rule::Regex(text) | Rule::Until(text) => bytes += text.len(),
            Rule::Json(schema) => bytes += schema::measure(schema, limits)?,
            Rule::AnyText => {}
            Rule::Tagged { tags, .. } => {
                bytes += tags.iter().map(|(begin, _)| begin.len()).sum::<usize>();
                todo.extend(tags.iter().map(|(_, rule)| (rule, depth + 1)));
            }
            Rule::Sequence(rules) | Rule::Any(rules) => {
                todo.extend(rules.iter().map(|rule| (rule, depth + 1)))
            }
            Rule::Repeat { rule, .. } => todo.push((rule, depth + 1)),
        }
        if bytes > limits.bytes {
            let reason = format!("the rule is longer than {} bytes", limits.bytes);
            return Err(GrammarError::too_large(reason));
        }
    }
    Ok(bytes)
}

/// A rule as a grammar.
pub(crate) fn to_source(
    rule: &Rule,
    vocabulary: &Vocabulary,
    limits: &Limits,
) -> Result<Source, GrammarError> {
    let mut writer =
        Writer { vocabulary, limits, out: String::new(), n: 0, schemas: Vec::new(), named: Vec::new() };
    let start = writer.node(rule)?;
    if writer.n > limits.definitions {
        let reason = format!("the rule has {} parts: at most {} are allowed", writer.n, limits.definitions);
        return Err(GrammarError::too_large(reason));
    }
    let text = format!("start: {start}\n{}", writer.out);
    Ok(Source::with(text, writer.schemas, writer.named))
}

struct Writer<'a> {
    vocabulary: &'a Vocabulary,
    limits: &'a Limits,
    /// The definitions.
    out: String,
    /// How many there are.
    n: usize,
    schemas: Vec<Prepared>,
    named: Vec<TokenId>,
}

impl Writer<'_> {
    fn define(&mut self, prefix: &str, body: &str) -> String {
        self.n += 1;
        let name = format!("{prefix}{}", self.n);
        self.out.push_str(&format!("{name}: {body}\n"));
        name
    }

    fn has_specials(&self, text: &str) -> bool {
        self.vocabulary.split(text).iter().any(|piece| matches!(piece, Spelled::Token(_)))
    }

    fn is_regular(&self, rule: &Rule) -> bool {
        match rule {
            Rule::Text(text) | Rule::Until(text) => !self.has_specials(text),
            Rule::Json(_) => false,
            Rule::Regex(_) | Rule::AnyText => true,
            Rule::Tagged { tags, .. } => {
                tags.iter().all(|(begin, rule)| !self.has_specials(begin) && self.is_regular(rule))
            }
            Rule::Sequence(rules) | Rule::Any(rules) => rules.iter().all(|rule| self.is_regular(rule)),
            Rule::Repeat { rule, .. } => self.is_regular(rule),
        }
    }

    /// The name of a terminal for a regular rule.
    fn terminal(&mut self, rule: &Rule) -> Result<String, GrammarError> {
        let body = match rule {
            Rule::Text(text) => literal(text),
            Rule::Regex(text) => {
                compiler::check_pattern_size(text, self.limits)?;
                regex(&pattern::whole(text).map_err(|fault| fault.into_error(None))?)
            }
            Rule::Until(text) => until(text)?,
            Rule::AnyText => ANY_TEXT.to_owned(),
            Rule::Sequence(rules) => {
                let parts: Result<Vec<_>, _> = rules.iter().map(|rule| self.terminal(rule)).collect();
                let parts = parts?;
                if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") }
            }
            Rule::Any(rules) => {
                let parts: Result<Vec<_>, _> = rules.iter().map(|rule| self.terminal(rule)).collect();
                alternatives(&parts?)?
            }
            Rule::Repeat { rule, min, max } => {
                let inner = self.terminal(rule)?;
                self.repeated(&inner, *min, *max)?
            }
            Rule::Tagged { tags, at_least_one, at_most_one } => {
                let begins: Vec<&str> = tags.iter().map(|(begin, _)| begin.as_str()).collect();
                check_begins(&begins)?;
                let mut cases = Vec::new();
                for (begin, rule) in tags {
                    let text = self.define("T", &text_to(begin, &begins));
                    cases.push(format!("{text} {}", self.terminal(rule)?));
                }
                let cases = self.define("T", &alternatives(&cases)?);
                let rest = self.define("T", &text_without(ANY_TEXT, &begins));
                format!("{cases}{} {rest}", times(*at_least_one, *at_most_one))
            }
            // Only asked for regular rules.
            Rule::Json(_) => return Err(GrammarError::unsupported("JSON is no regular language")),
        };
        Ok(self.define("T", &body))
    }

    /// The name of a terminal or a rule for any rule.
    fn node(&mut self, rule: &Rule) -> Result<String, GrammarError> {
        if self.is_regular(rule) {
            return self.terminal(rule);
        }
        let body = match rule {
            Rule::Text(text) => self.spelled(text),
            Rule::Json(schema) => {
                self.schemas.push(schema::prepare(schema, self.limits)?);
                format!("@{}", json_name(self.schemas.len() - 1))
            }
            Rule::Until(text) => self.until_token(text),
            Rule::Sequence(_) => {
                let mut flat = Vec::new();
                flatten(rule, &mut flat);
                self.sequence(&flat)?
            }
            Rule::Any(rules) => {
                let parts: Result<Vec<_>, _> = rules.iter().map(|rule| self.node(rule)).collect();
                alternatives(&parts?)?
            }
            Rule::Repeat { rule, min, max } => {
                let inner = self.node(rule)?;
                self.repeated(&inner, *min, *max)?
            }
            Rule::Tagged { tags, at_least_one, at_most_one } => {
                self.tagged(tags, *at_least_one, *at_most_one)?
            }
            Rule::Regex(_) | Rule::AnyText => return self.terminal(rule),
        };
        Ok(self.define("r", &body))
    }

    /// Runs of regular rules as one terminal, others one by one.
    fn sequence(&mut self, rules: &[&Rule]) -> Result<String, GrammarError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < rules.len() {
            let n_regular = rules[at..].iter().take_while(|rule| self.is_regular(rule)).count();
            if n_regular == 0 {
                let before = at.checked_sub(1).map(|before| rules[before]);
                if matches!(rules[at], Rule::Json(_))
                    && matches!(before, Some(Rule::AnyText | Rule::Tagged { .. }))
                {
                    let reason =
                        "where any text ends and JSON begins cannot be told: put a text between them";
                    return Err(GrammarError::unsupported(reason));
                }
                parts.push(self.node(rules[at])?);
                at += 1;
            } else {
                let run: Result<Vec<_>, _> =
                    rules[at..at + n_regular].iter().map(|rule| self.terminal(rule)).collect();
                let run = run?;
                parts.push(if run.len() == 1 { run.concat() } else { self.define("T", &run.join(" ")) });
                at += n_regular;
            }
        }
        Ok(parts.join(" "))
    }

    fn tagged(
        &mut self,
        tags: &[(String, Rule)],
        at_least_one: bool,
        at_most_one: bool,
    ) -> Result<String, GrammarError> {
        let begins: Vec<&str> = tags.iter().map(|(begin, _)| begin.as_str()).collect();
        check_begins(&begins)?;
        let free = self.define("T", &text_without(SOME_TEXT, &begins));
        let mut cases = Vec::new();
        for (begin, rule) in tags {
            let begun = match self.vocabulary.split(begin).as_slice() {
                [Spelled::Token(_), ..] => format!("{free}? {}", self.spelled(begin)),
                [Spelled::Text(text), rest @ ..] if !rest.is_empty() => {
                    // Text up to the one in front of the token; a text that has it elsewhere is still free.
                    let text = format!("(({ANY_TEXT} {}) & ~{})", literal(text), containing(&begins));
                    let text = self.define("T", &text);
                    format!("{text} {}", self.pieces(rest))
                }
                _ => self.define("T", &text_to(begin, &begins)),
            };
            cases.push(format!("{begun} {}", self.node(rule)?));
        }
        let cases = self.define("r", &alternatives(&cases)?);
        Ok(format!("{cases}{} {free}?", times(at_least_one, at_most_one)))
    }

    /// Text up to a special token, or to text and then a special token.
    fn until_token(&mut self, text: &str) -> String {
        let pieces = self.vocabulary.split(text);
        let (before, rest) = match pieces.as_slice() {
            [Spelled::Text(before), rest @ ..] => (*before, rest),
            rest => ("", rest),
        };
        let spelled = containing(&[text]);
        let free = if before.is_empty() {
            self.define("T", &format!("{SOME_TEXT} & ~{spelled}")) + "?"
        } else {
            self.define("T", &format!("({ANY_TEXT} {}) & ~{spelled}", literal(before)))
        };
        format!("{free} {}", self.pieces(rest))
    }

    fn spelled(&mut self, text: &str) -> String {
        let pieces = self.vocabulary.split(text);
        self.pieces(&pieces)
    }

    fn pieces(&mut self, pieces: &[Spelled]) -> String {
        let written: Vec<String> = pieces
            .iter()
            .map(|piece| match piece {
                Spelled::Text(text) => literal(text),
                Spelled::Token(id) => {
                    self.named.push(*id);
                    format!("<[{}]>", id.0)
                }
            })
            .collect();
        written.join(" ")
    }

    fn repeated(&self, inner: &str, min: u32, max: Option<u32>) -> Result<String, GrammarError> {
        let largest = self.limits.repetitions;
        if min > largest || max.is_some_and(|max| max > largest) {
            return Err(GrammarError::too_large(format!("more than {largest} repetitions")));
        }
        match (min, max) {
            (min, Some(max)) if max < min => {
                Err(GrammarError::invalid(format!("at least {min} and at most {max} repetitions cannot be")))
            }
            (_, Some(0)) => Ok("\"\"".to_owned()),
            (0, None) => Ok(format!("{inner}*")),
            (min, None) => Ok(format!("{inner}{{{min},}}")),
            (min, Some(max)) => Ok(format!("{inner}{{{min},{max}}}")),
        }
    }
}

fn flatten<'a>(rule: &'a Rule, into: &mut Vec<&'a Rule>) {
    match rule {
        Rule::Sequence(rules) => rules.iter().for_each(|rule| flatten(rule, into)),
        other => into.push(other),
    }
}

fn alternatives(parts: &[String]) -> Result<String, GrammarError> {
    if parts.is_empty() {
        return Err(GrammarError::invalid("there is nothing to choose from"));
    }
    Ok(parts.join(" | "))
}

fn times(at_least_one: bool, at_most_one: bool) -> &'static str {
    match (at_least_one, at_most_one) {
        (false, false) => "*",
        (true, false) => "+",
        (false, true) => "?",
        (true, true) => "",
    }
}

fn check_begins(begins: &[&str]) -> Result<(), GrammarError> {
    if begins.iter().any(|begin| begin.is_empty()) {
        return Err(GrammarError::invalid("a tag must begin with some text"));
    }
    Ok(())
}

/// Text that ends with the only `end` in it.
fn until(end: &str) -> Result<String, GrammarError> {
    if end.is_empty() {
        return Err(GrammarError::invalid("text up to nothing: give the text that ends it"));
    }
    let end = literal(end);
    Ok(format!("({ANY_TEXT} {end}) & ~({ANY_TEXT} {end} {SOME_TEXT})"))
}

/// Any text with one of these in it.
fn containing(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("({ANY_TEXT} ({}) {ANY_TEXT})", texts.join(" | "))
}

/// Of `text`, what has none of these in it.
fn text_without(text: &str, begins: &[&str]) -> String {
    if begins.is_empty() {
        return text.to_owned();
    }
    format!("{text} & ~{}", containing(begins))
}

/// Text that ends with `begin`, and in which none of `begins` stands before that.
fn text_to(begin: &str, begins: &[&str]) -> String {
    let n_chars = begin.chars().count();
    let early: Vec<String> = begins
        .iter()
        .map(|other| {
            // Another one that `begin` begins with may stand where it stands.
            let n_behind = if begin.starts_with(other) { n_chars - other.chars().count() } else { 0 };
            format!("{ANY_TEXT} {} /(?s:.{{{},}})/", literal(other), n_behind + 1)
        })
        .collect();
    format!("({ANY_TEXT} {}) & ~({})", literal(begin), early.join(" | "))
}
