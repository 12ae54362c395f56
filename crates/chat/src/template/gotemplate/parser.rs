//! Tokens to trees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ast::{Branch, Operand, Pipe, Stmt, StmtKind};
use super::funcs::Func;
use super::lexer::{Tok, Token, lex};
use crate::template::TemplateError;
use crate::template::text::Text;

/// How deep actions and parentheses nest.
const DEPTH_MAX: u32 = 100;

type Parse<T> = Result<T, TemplateError>;

/// A template, parsed.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub main: Vec<Stmt>,
    /// What `define` and `block` name.
    pub defined: BTreeMap<Arc<str>, Arc<[Stmt]>>,
    /// Every name of a field or variable in it, in lower case.
    pub names: BTreeSet<String>,
}

/// Parses a template.
pub(super) fn parse(source: &str) -> Parse<Program> {
    let mut parser = Parser {
        tokens: lex(source)?,
        at: 0,
        vars: vec!["$".into()],
        loops: 0,
        depth: 0,
        program: Program::default(),
    };
    let main = parser.list(true)?;
    if let Some(end) = main.1 {
        return parser.error(format!("unexpected {{{{{end}}}}}"));
    }
    parser.program.main = main.0;
    Ok(parser.program)
}

/// What ends a list of statements.
type End = Option<&'static str>;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    vars: Vec<Arc<str>>,
    /// Loops around here.
    loops: u32,
    depth: u32,
    program: Program,
}

impl Parser {
    fn peek(&self) -> &Tok {
        &self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn next(&mut self) -> Tok {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while *self.peek() == Tok::Space {
            self.at += 1;
        }
    }

    fn peek_word(&mut self) -> &Tok {
        self.skip_space();
        self.peek()
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].line
    }

    fn error<T>(&self, message: impl Into<String>) -> Parse<T> {
        let line = self.tokens[self.at.saturating_sub(1).min(self.tokens.len() - 1)].line;
        Err(TemplateError::Syntax { line, message: message.into() })
    }

    fn unexpected<T>(&self, token: &Tok, place: &str) -> Parse<T> {
        self.error(format!("unexpected {} in {place}", token.show()))
    }

    fn right(&mut self, place: &str) -> Parse<()> {
        self.skip_space();
        match self.next() {
            Tok::Right => Ok(()),
            other => self.unexpected(&other, place),
        }
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TemplateError::Limit { what: "nesting", limit: DEPTH_MAX.into() });
        }
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// Statements up to `end` or `else`, which is taken with its word, or up to the end of the template.
    fn list(&mut self, top: bool) -> Parse<(Vec<Stmt>, End)> {
        let mut list = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                Tok::End => return Ok((list, None)),
                Tok::Text(text) => list.push(Stmt { line, kind: StmtKind::Text(Text::own(&text)) }),
                Tok::Left => {
                    self.skip_space();
                    match self.peek().clone() {
                        Tok::Word(word) if word == "end" => {
                            self.at += 1;
                            self.right("end")?;
                            return Ok((list, Some("end")));
                        }
                        Tok::Word(word) if word == "else" => {
                            self.at += 1;
                            if !matches!(self.peek_word(), Tok::Word(w) if w == "if" || w == "with") {
                                self.right("else")?;
                            }
                            return Ok((list, Some("else")));
                        }
                        Tok::Word(word) if word == "define" && top => {
                            self.at += 1;
                            self.definition()?;
                        }
                        _ => {
                            let kind = self.nested(Self::action)?;
                            list.push(Stmt { line, kind });
                        }
                    }
                }
                other => return self.unexpected(&other, "input"),
            }
        }
    }

    fn action(&mut self) -> Parse<StmtKind> {
        let Tok::Word(word) = self.peek().clone() else { return self.printing() };
        self.at += 1;
        match word.as_str() {
            "if" => self.control("if").map(StmtKind::If),
            "with" => self.control("with").map(StmtKind::With),
            "range" => self.control("range").map(StmtKind::Range),
            "block" => self.block(),
            "template" => self.template(),
            "break" | "continue" => {
                self.right(&word)?;
                if self.loops == 0 {
                    return self.error(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                Ok(if word == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "define" => self.error("define must not stand inside of another action"),
            _ => {
                self.at -= 1;
                self.printing()
            }
        }
    }

    fn printing(&mut self) -> Parse<StmtKind> {
        self.pipeline("command", &Tok::Right).map(StmtKind::Action)
    }

    fn control(&mut self, word: &'static str) -> Parse<Branch> {
        let n_vars = self.vars.len();
        let pipe = self.pipeline(word, &Tok::Right)?;
        let is_loop = u32::from(word == "range");
        self.loops += is_loop;
        let (body, end) = self.list(false)?;
        self.loops -= is_loop;
        let otherwise = match end {
            Some("else") => self.otherwise(word)?,
            Some(_) => Vec::new(),
            None => return self.error(format!("the template ends inside of {{{{{word}}}}}")),
        };
        self.vars.truncate(n_vars);
        Ok(Branch { pipe, body, otherwise })
    }

    fn otherwise(&mut self, word: &'static str) -> Parse<Vec<Stmt>> {
        let line = self.line();
        match self.peek().clone() {
            // One `end` for both.
            Tok::Word(next) if next == word && word != "range" => {
                self.at += 1;
                let branch = self.nested(|parser| parser.control(word))?;
                let kind = if word == "if" { StmtKind::If(branch) } else { StmtKind::With(branch) };
                Ok(vec![Stmt { line, kind }])
            }
            Tok::Word(next) => self.error(format!("unexpected {next} after else in {{{{{word}}}}}")),
            _ => match self.list(false)? {
                (list, Some("end")) => Ok(list),
                (_, Some(other)) => self.error(format!("expected end; found {{{{{other}}}}}")),
                (_, None) => self.error(format!("the template ends inside of {{{{{word}}}}}")),
            },
        }
    }

    fn name(&mut self, place: &str) -> Parse<Arc<str>> {
        self.skip_space();
        match self.next() {
            Tok::Str(name) => Ok(name.into()),
            other => self.unexpected(&other, place),
        }
    }

    fn template(&mut self) -> Parse<StmtKind> {
        let name = self.name("template clause")?;
        if *self.peek_word() == Tok::Right {
            self.at += 1;
            return Ok(StmtKind::Template(name, None));
        }
        let pipe = self.pipeline("template clause", &Tok::Right)?;
        Ok(StmtKind::Template(name, Some(pipe)))
    }

    fn definition(&mut self) -> Parse<()> {
        let name = self.name("define clause")?;
        self.right("define clause")?;
        self.body(&name)
    }

    fn block(&mut self) -> Parse<StmtKind> {
        let name = self.name("block clause")?;
        let pipe = self.pipeline("block clause", &Tok::Right)?;
        self.body(&name)?;
        Ok(StmtKind::Template(name, Some(pipe)))
    }

    /// The body of a template of its own: it sees no variable but `$`, and no loop.
    fn body(&mut self, name: &Arc<str>) -> Parse<()> {
        let vars = std::mem::replace(&mut self.vars, vec!["$".into()]);
        let loops = std::mem::take(&mut self.loops);
        let (body, end) = self.nested(|parser| parser.list(false))?;
        if end != Some("end") {
            return self.error(format!(
                "unexpected {} in the template {name:?}",
                end.unwrap_or("end of the template")
            ));
        }
        (self.vars, self.loops) = (vars, loops);
        let is_empty = |body: &[Stmt]| {
            body.iter().all(|stmt| match &stmt.kind {
                StmtKind::Text(text) => text.as_str().trim().is_empty(),
                _ => false,
            })
        };
        match self.program.defined.get(name) {
            Some(old) if !is_empty(old) => {
                if !is_empty(&body) {
                    return self.error(format!("multiple definition of template {name:?}"));
                }
            }
            _ => {
                self.program.defined.insert(Arc::clone(name), body.into());
            }
        }
        Ok(())
    }

    /// Commands up to `end`, which is taken.
    fn pipeline(&mut self, place: &str, end: &Tok) -> Parse<Pipe> {
        let mut pipe = Pipe::default();
        self.declarations(&mut pipe, place)?;
        loop {
            self.skip_space();
            let token = self.peek().clone();
            if token == *end {
                self.at += 1;
                break;
            }
            match token {
                Tok::Word(_)
                | Tok::Field(_)
                | Tok::Variable(_)
                | Tok::Dot
                | Tok::Number(_)
                | Tok::Char(_)
                | Tok::Str(_)
                | Tok::Open => {
                    let command = self.command()?;
                    pipe.cmds.push(command);
                }
                other => {
                    self.at += 1;
                    return self.unexpected(&other, place);
                }
            }
        }
        if pipe.cmds.is_empty() {
            return self.error(format!("missing value for {place}"));
        }
        let is_constant = |operand: &Operand| {
            matches!(
                operand,
                Operand::Bool(_)
                    | Operand::Dot
                    | Operand::Nil
                    | Operand::Int(_)
                    | Operand::Huge(_)
                    | Operand::Float(_)
                    | Operand::Str(_)
            )
        };
        match pipe.cmds.iter().skip(1).position(|cmd| is_constant(&cmd[0])) {
            Some(stage) => self.error(format!("non executable command in pipeline stage {}", stage + 2)),
            None => Ok(pipe),
        }
    }

    /// `$x :=`, `$x =`, and for `range` `$i, $x :=`.
    fn declarations(&mut self, pipe: &mut Pipe, place: &str) -> Parse<()> {
        loop {
            self.skip_space();
            let begin = self.at;
            let Tok::Variable(name) = self.peek().clone() else { return Ok(()) };
            self.at += 1;
            match self.peek_word().clone() {
                token @ (Tok::Assign | Tok::Declare) => {
                    self.at += 1;
                    pipe.is_assign = token == Tok::Assign;
                    self.declare(pipe, name);
                    return Ok(());
                }
                Tok::Comma => {
                    self.at += 1;
                    self.declare(pipe, name);
                    if place != "range" || pipe.decl.len() >= 2 {
                        return self.error(format!("too many declarations in {place}"));
                    }
                    if !matches!(self.peek_word(), Tok::Variable(_) | Tok::Right | Tok::Close) {
                        return self.error("range can only initialize variables");
                    }
                }
                _ => {
                    self.at = begin;
                    return Ok(());
                }
            }
        }
    }

    fn declare(&mut self, pipe: &mut Pipe, name: String) {
        let name: Arc<str> = name.into();
        pipe.decl.push(Arc::clone(&name));
        self.vars.push(name);
    }

    fn command(&mut self) -> Parse<Vec<Operand>> {
        let mut args = Vec::new();
        loop {
            self.skip_space();
            if let Some(operand) = self.operand()? {
                args.push(operand);
            }
            match self.peek().clone() {
                Tok::Space => self.at += 1,
                Tok::Right | Tok::Close => break,
                Tok::Pipe => {
                    self.at += 1;
                    break;
                }
                other => {
                    self.at += 1;
                    return self.unexpected(&other, "operand");
                }
            }
        }
        if args.is_empty() { self.error("empty command") } else { Ok(args) }
    }

    fn operand(&mut self) -> Parse<Option<Operand>> {
        let Some(mut operand) = self.term()? else { return Ok(None) };
        let mut fields: Vec<Arc<str>> = Vec::new();
        while let Tok::Field(name) = self.peek().clone() {
            self.at += 1;
            self.program.names.insert(name.to_lowercase());
            fields.push(name.into());
        }
        if fields.is_empty() {
            return Ok(Some(operand));
        }
        match &mut operand {
            Operand::Field(path) | Operand::Variable(path) => path.extend(fields),
            Operand::Func(_) | Operand::Pipe(_) => operand = Operand::Chain(Box::new(operand), fields),
            _ => return self.error("unexpected . after a constant"),
        }
        Ok(Some(operand))
    }

    fn term(&mut self) -> Parse<Option<Operand>> {
        let token = self.next();
        Ok(Some(match token {
            Tok::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                "if" | "else" | "end" | "range" | "with" | "define" | "block" | "template" | "break"
                | "continue" => return self.error(format!("unexpected keyword {word} in operand")),
                name => match Func::named(name) {
                    Some(func) => Operand::Func(func),
                    None => return self.error(format!("function {name:?} not defined")),
                },
            },
            Tok::Dot => Operand::Dot,
            Tok::Variable(name) => {
                if !self.vars.iter().any(|v| **v == *name) {
                    return self.error(format!("undefined variable {name:?}"));
                }
                self.program.names.insert(name.to_lowercase());
                Operand::Variable(vec![name.into()])
            }
            Tok::Field(name) => {
                self.program.names.insert(name.to_lowercase());
                Operand::Field(vec![name.into()])
            }
            Tok::Char(c) => Operand::Int(i64::from(u32::from(c))),
            Tok::Number(text) => self.number(&text)?,
            Tok::Str(text) => Operand::Str(Text::own(&text)),
            Tok::Open => {
                let pipe = self.nested(|parser| parser.pipeline("parenthesized pipeline", &Tok::Close))?;
                Operand::Pipe(Box::new(pipe))
            }
            _ => {
                self.at -= 1;
                return Ok(None);
            }
        }))
    }

    fn number(&self, text: &str) -> Parse<Operand> {
        let (negative, digits) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if let Some(n) = integer(digits) {
            let signed = if negative { 0_i128 - i128::from(n) } else { i128::from(n) };
            return match (i64::try_from(signed), u64::try_from(signed)) {
                (Ok(n), _) => Ok(Operand::Int(n)),
                // A sign makes it no number without one.
                (_, Ok(n)) if digits.len() == text.len() => Ok(Operand::Huge(n)),
                _ => self.error(format!("integer overflow: {text:?}")),
            };
        }
        let is_hex = digits.len() > 1 && digits.as_bytes()[1].eq_ignore_ascii_case(&b'x');
        if is_hex || !text.contains(['.', 'e', 'E']) || !underscores_fit(digits, false) {
            return self.error(format!("illegal number syntax: {text:?}"));
        }
        match text.replace('_', "").parse::<f64>() {
            Ok(f) if f.is_finite() => Ok(Operand::Float(f)),
            _ => self.error(format!("illegal number syntax: {text:?}")),
        }
    }
}

/// An integer by Go's rules: with the prefix of its base, single underscores between digits.
fn integer(digits: &str) -> Option<u64> {
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if !underscores_fit(body, radix != 10) {
        return None;
    }
    let body = body.replace('_', "");
    if body.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(&body, radix).ok()
}

/// Underscores stand between digits, or behind the prefix of a base.
fn underscores_fit(body: &str, has_prefix: bool) -> bool {
    let is_inner = |at: usize| {
        let before = at.checked_sub(1).map(|i| body.as_bytes()[i]);
        let after = body.as_bytes().get(at + 1);
        (before.map_or(has_prefix, |b| b.is_ascii_hexdigit())) && after.is_some_and(u8::is_ascii_hexdigit)
    };
    body.bytes().enumerate().filter(|(_, b)| *b == b'_').all(|(at, _)| is_inner(at))
}
