//! The notation's text.

use std::collections::HashMap;

use ingle_step::TokenId;

use super::ROOT;
use super::chars::Chars;
use crate::lark::fault;
use crate::vocabulary::Vocabulary;
use crate::{GrammarError, Limits};

/// Rules of a grammar.
const RULES_MAX: usize = 2_000;

/// A grammar: rules by number, and which one it begins with.
#[derive(Debug)]
pub(super) struct Grammar {
    pub rules: Vec<Expr>,
    pub root: usize,
}

/// What a rule is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expr {
    Chars(Chars),
    Sequence(Vec<Expr>),
    Any(Vec<Expr>),
    Repeat(Box<Expr>, u32, Option<u32>),
    Rule(usize),
    /// A token; or, negated, any token of text but this one.
    Token {
        id: TokenId,
        negated: bool,
    },
}

pub(super) fn parse(text: &str, vocabulary: &Vocabulary, limits: &Limits) -> Result<Grammar, GrammarError> {
    let mut parser = Parser {
        text,
        at: 0,
        vocabulary,
        limits,
        names: HashMap::new(),
        bodies: Vec::new(),
        uses: Vec::new(),
    };
    parser.rules()?;
    let root = parser.names.get(ROOT).copied().filter(|&root| parser.bodies[root].is_some());
    let Some(root) = root else {
        return Err(fault(
            text,
            text.len(),
            format!("there is no rule `{ROOT}`, which the text begins with"),
        ));
    };
    let mut rules = Vec::with_capacity(parser.bodies.len());
    for (body, &at) in parser.bodies.into_iter().zip(&parser.uses) {
        rules.push(body.ok_or_else(|| fault(text, at, "there is no rule of this name".to_owned()))?);
    }
    Ok(Grammar { rules, root })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    vocabulary: &'a Vocabulary,
    limits: &'a Limits,
    names: HashMap<&'a str, usize>,
    /// By rule; `None` as long as it was only used.
    bodies: Vec<Option<Expr>>,
    /// By rule, where it was named first.
    uses: Vec<usize>,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, GrammarError> {
        Err(fault(self.text, self.at, reason.into()))
    }

    fn space(&mut self, newlines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if newlines => self.at += 1,
                '#' => self.at += self.rest().find(['\r', '\n']).unwrap_or(self.rest().len()),
                _ => break,
            }
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let n = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        self.at += n;
        (n > 0).then_some(&rest[..n])
    }

    fn rule_number(&mut self, name: &'a str, at: usize) -> usize {
        let next = self.names.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            self.bodies.push(None);
            self.uses.push(at);
        }
        number
    }

    fn rules(&mut self) -> Result<(), GrammarError> {
        self.space(true);
        while self.peek().is_some() {
            let at = self.at;
            let Some(name) = self.name() else { return self.fail("a rule must begin with its name") };
            self.space(false);
            if !self.take("::=") {
                return self.fail(format!("`::=` must follow the name `{name}`"));
            }
            self.space(true);
            let number = self.rule_number(name, at);
            if self.bodies[number].is_some() {
                return Err(fault(self.text, at, format!("there are two rules `{name}`")));
            }
            if number >= RULES_MAX {
                return Err(GrammarError::too_large(format!("the grammar has more than {RULES_MAX} rules")));
            }
            self.bodies[number] = Some(self.alternatives(0)?);
            match self.peek() {
                None | Some('\r' | '\n') => self.space(true),
                Some(')') => return self.fail("`)` without `(`"),
                Some(c) => return self.fail(format!("{c:?} cannot stand here")),
            }
        }
        Ok(())
    }

    /// In brackets, that is deeper than 0, a new line is a space.
    fn alternatives(&mut self, depth: usize) -> Result<Expr, GrammarError> {
        if depth > self.limits.depth {
            return self.fail(format!("brackets are nested deeper than {}", self.limits.depth));
        }
        let mut all = vec![self.sequence(depth)?];
        while self.take("|") {
            self.space(true);
            all.push(self.sequence(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::Any(all) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr, GrammarError> {
        let mut all = Vec::new();
        while let Some(c) = self.peek() {
            let element = match c {
                '"' => self.literal()?,
                '[' => Expr::Chars(self.class()?),
                '.' => {
                    self.at += 1;
                    Expr::Chars(Chars::all())
                }
                '(' => {
                    self.at += 1;
                    self.space(true);
                    let inner = self.alternatives(depth + 1)?;
                    if !self.take(")") {
                        return self.fail("`)` is missing");
                    }
                    inner
                }
                '<' | '!' => self.token()?,
                '*' | '+' | '?' | '{' => return self.fail(format!("`{c}` has nothing to repeat")),
                c if is_name(c) => {
                    let at = self.at;
                    let name = self.name().unwrap_or_default();
                    Expr::Rule(self.rule_number(name, at))
                }
                _ => break,
            };
            self.space(depth > 0);
            all.push(self.repeated(element, depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::Sequence(all) })
    }

    fn repeated(&mut self, mut element: Expr, depth: usize) -> Result<Expr, GrammarError> {
        let mut n_operators = 0;
        while let Some(c) = self.peek() {
            let (min, max) = match c {
                '*' => (0, None),
                '+' => (1, None),
                '?' => (0, Some(1)),
                '{' => {
                    let at = self.at;
                    let inner = self.rest()[1..].split('}').next().unwrap_or_default();
                    let bounds = bounds(inner).filter(|_| self.rest().len() > inner.len() + 1);
                    let Some((min, max)) = bounds else {
                        return self.fail("`{` wants a number, or two with a comma between, and `}`");
                    };
                    if [Some(min), max].iter().flatten().any(|&n| n > u64::from(self.limits.repetitions)) {
                        return self.fail(format!("more than {} repetitions", self.limits.repetitions));
                    }
                    if max.is_some_and(|max| max < min) {
                        return self.fail(format!("at least {min} but fewer at most"));
                    }
                    self.at = at + inner.len() + 1;
                    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                    (small(min), max.map(small))
                }
                _ => break,
            };
            self.at += 1;
            n_operators += 1;
            if n_operators > self.limits.depth {
                return self.fail("too many repetitions of repetitions");
            }
            self.space(depth > 0);
            element = Expr::Repeat(Box::new(element), min, max);
        }
        Ok(element)
    }

    fn literal(&mut self) -> Result<Expr, GrammarError> {
        let start = self.at;
        self.at += 1;
        let mut chars = Vec::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(if chars.len() == 1 { chars.remove(0) } else { Expr::Sequence(chars) });
                }
                None | Some('\n') => return Err(fault(self.text, start, "the text has no end".to_owned())),
                Some(_) => chars.push(Expr::Chars(Chars::one(self.char()?))),
            }
        }
    }

    fn class(&mut self) -> Result<Chars, GrammarError> {
        let start = self.at;
        self.at += 1;
        let negated = self.take("^");
        let mut ranges = Vec::new();
        loop {
            if self.take("]") {
                break;
            }
            if matches!(self.peek(), None | Some('\n')) {
                return Err(fault(self.text, start, "`]` is missing".to_owned()));
            }
            let first = self.char()?;
            let mut last = first;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                last = self.char()?;
            }
            if last < first {
                return self.fail(format!("the range {first:?} to {last:?} ends before it begins"));
            }
            ranges.push((u32::from(first), u32::from(last)));
        }
        let chars = Chars::new(ranges);
        let chars = if negated { chars.negated() } else { chars };
        if chars.is_empty() {
            return Err(fault(self.text, start, "no character is in this set".to_owned()));
        }
        Ok(chars)
    }

    /// A character of a text or a set, which may be escaped.
    fn char(&mut self) -> Result<char, GrammarError> {
        let start = self.at;
        let Some(c) = self.next() else { return self.fail("the grammar ends here") };
        if c != '\\' {
            return Ok(c);
        }
        let escape = self.next();
        let n_digits = match escape {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('n') => return Ok('\n'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(c),
            _ => return Err(fault(self.text, start, "this escape is not known".to_owned())),
        };
        let mut code = 0u32;
        for _ in 0..n_digits {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let Some(digit) = digit else {
                return Err(fault(self.text, start, format!("{n_digits} digits are wanted here")));
            };
            self.at += 1;
            code = code.saturating_mul(16).saturating_add(digit);
        }
        char::from_u32(code).ok_or_else(|| fault(self.text, start, "no character has this number".to_owned()))
    }

    /// `<[12]>`, `<think>`, and with `!` in front any other token.
    fn token(&mut self) -> Result<Expr, GrammarError> {
        let start = self.at;
        let negated = self.take("!");
        let rest = self.rest();
        let end = rest.find('>').filter(|_| rest.starts_with('<'));
        let Some(end) = end else {
            return Err(fault(self.text, start, "a token is written `<[id]>` or `<name>`".to_owned()));
        };
        let reference = &rest[..=end];
        self.at += reference.len();
        let number = reference.strip_prefix("<[").and_then(|inner| inner.strip_suffix("]>"));
        let id = match number {
            Some(number) => {
                number.parse().ok().filter(|&id: &u32| (id as usize) < self.vocabulary.n_vocab()).map(TokenId)
            }
            None => self.vocabulary.special(reference).or_else(|| {
                match self.vocabulary.tokenizer.encode_content(reference).as_slice() {
                    &[only] => Some(only),
                    _ => None,
                }
            }),
        };
        match id {
            Some(id) => Ok(Expr::Token { id, negated }),
            None => Err(fault(self.text, start, format!("{reference} is no token of this model"))),
        }
    }
}

/// What stands in `{...}`.
fn bounds(inner: &str) -> Option<(u64, Option<u64>)> {
    let number = |text: &str| {
        let text = text.trim();
        let is_number = !text.is_empty() && text.len() < 12 && text.bytes().all(|b| b.is_ascii_digit());
        if is_number { text.parse().ok() } else { None }
    };
    match inner.split_once(',') {
        None => number(inner).map(|n| (n, Some(n))),
        Some((min, max)) if max.trim().is_empty() => number(min).map(|min| (min, None)),
        Some((min, max)) if min.trim().is_empty() => number(max).map(|max| (0, Some(max))),
        Some((min, max)) => number(min).zip(number(max)).map(|(min, max)| (min, Some(max))),
    }
}
