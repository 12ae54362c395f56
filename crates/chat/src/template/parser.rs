//! Tokens to a syntax tree, with Jinja's own precedences (filters bind tighter than a sign, `~` looser than `*`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::TemplateError;
use super::ast::{Args, ArithOp, CmpOp, CondExpr, Expr, ForLoop, MacroDef, Post, Stmt, StmtKind, Target};
use super::lexer::{Tok, tokenize};
use super::text::Text;
use super::{filters, tests};

/// How deep expressions and blocks nest, together. Real templates stay below 20.
const NESTING_MAX: u32 = 48;

type Parse<T> = Result<T, TemplateError>;

/// Parses a template; with it, every name that it reads.
pub(super) fn parse(source: &str) -> Parse<(Vec<Stmt>, BTreeSet<Arc<str>>)> {
    let tokens = tokenize(source)?;
    let mut parser = Parser { tokens, at: 0, nesting: 0, unknown: Vec::new(), names: Vec::new(), loops: 0 };
    let body = parser.block(&[])?;
    match parser.unknown.into_iter().next() {
        Some((line, message)) => Err(TemplateError::Syntax { line, message }),
        None => Ok((body, parser.names.into_iter().collect())),
    }
}

struct Parser {
    tokens: Vec<(u32, Tok)>,
    at: usize,
    nesting: u32,
    /// Filters and tests that don't exist. As in Jinja, an error unless they stand in a branch that may not run.
    unknown: Vec<(u32, String)>,
    /// Every name that was read, so that a macro knows which implicit ones it uses.
    names: Vec<Arc<str>>,
    /// Loops that `break` and `continue` may mean.
    loops: u32,
}

impl Parser {
    fn peek(&self) -> &Tok {
        &self.tokens[self.at].1
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].0
    }

    fn next(&mut self) -> Tok {
        let tok = self.tokens[self.at].1.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        tok
    }

    fn error<T>(&self, message: impl Into<String>) -> Parse<T> {
        Err(TemplateError::Syntax { line: self.line(), message: message.into() })
    }

    fn describe(tok: &Tok) -> String {
        match tok {
            Tok::Data(_) => "text".into(),
            Tok::PrintBegin => "`{{`".into(),
            Tok::PrintEnd => "`}}`".into(),
            Tok::BlockBegin => "`{%`".into(),
            Tok::BlockEnd => "`%}`".into(),
            Tok::Name(n) => format!("`{n}`"),
            Tok::Str(_) => "a string".into(),
            Tok::Int(_) | Tok::Float(_) => "a number".into(),
            Tok::Op(op) => format!("`{op}`"),
            Tok::End => "the end of the template".into(),
        }
    }

    fn unexpected<T>(&self, wanted: &str) -> Parse<T> {
        self.error(format!("expected {wanted}, found {}", Self::describe(self.peek())))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Tok::Op(o) if *o == op)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let is = self.is_op(op);
        if is {
            self.next();
        }
        is
    }

    fn expect_op(&mut self, op: &str) -> Parse<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("`{op}`")) }
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Tok::Name(n) if n == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        if is {
            self.next();
        }
        is
    }

    fn name(&mut self) -> Parse<Arc<str>> {
        match self.peek() {
            Tok::Name(n) => {
                let n = Arc::from(n.as_str());
                self.next();
                Ok(n)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.nesting >= NESTING_MAX {
            return self.error(format!("nested deeper than {NESTING_MAX} levels"));
        }
        self.nesting += 1;
        let result = f(self);
        self.nesting -= 1;
        result
    }

    // Statements

    /// Statements up to `{% word` with one of `ends` (not consumed beyond the block begin), or to the end of input.
    fn block(&mut self, ends: &[&str]) -> Parse<Vec<Stmt>> {
        self.nested(|p| {
            let mut body = Vec::new();
            loop {
                let line = p.line();
                let kind = match p.next() {
                    Tok::Data(data) => StmtKind::Data(Text::own(&data)),
                    Tok::PrintBegin => {
                        let expr = p.tuple(true, false)?;
                        if !matches!(p.peek(), Tok::PrintEnd) {
                            return p.unexpected("`}}`");
                        }
                        p.next();
                        StmtKind::Print(expr)
                    }
                    Tok::BlockBegin => {
                        if matches!(p.peek(), Tok::Name(n) if ends.contains(&n.as_str())) {
                            return Ok(body);
                        }
                        p.statement()?
                    }
                    Tok::End if ends.is_empty() => return Ok(body),
                    Tok::End => {
                        return p.error(format!(
                            "expected `{{% {} %}}` before the end of the template",
                            ends[ends.len() - 1]
                        ));
                    }
                    other => return p.error(format!("unexpected {}", Self::describe(&other))),
                };
                body.push(Stmt { line, kind });
            }
        })
    }

    fn block_end(&mut self) -> Parse<()> {
        if matches!(self.peek(), Tok::BlockEnd) {
            self.next();
            return Ok(());
        }
        self.unexpected("`%}`")
    }

    /// A body of its own scope: unknown filters in it are errors even inside a branch, as in Jinja.
    fn scoped_body(&mut self, end: &str) -> Parse<Vec<Stmt>> {
        self.block_end()?;
        let body = self.block(&[end])?;
        self.next();
        // `endmacro` and the like may repeat the name.
        if matches!(self.peek(), Tok::Name(_)) && end == "endmacro" {
            self.next();
        }
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Parse<StmtKind> {
        let word = self.name()?;
        match &*word {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => {
                let name = self.name()?;
                let params = self.params()?;
                Ok(StmtKind::Macro(self.macro_rest(name, params, "endmacro")?))
            }
            "call" => {
                let params = if self.is_op("(") { self.params()? } else { Vec::new() };
                let call = self.expression()?;
                if !matches!(&call, Expr::Chain(_, posts) if matches!(posts.last(), Some(Post::Call(_)))) {
                    return self.error("`call` needs a call");
                }
                Ok(StmtKind::Call(call, self.macro_rest("caller".into(), params, "endcall")?))
            }
            "filter" => {
                let chain = self.filter_chain(true)?;
                Ok(StmtKind::FilterBlock(chain, self.scoped_body("endfilter")?))
            }
            "with" => {
                let mut values = Vec::new();
                while !matches!(self.peek(), Tok::BlockEnd) {
                    if !values.is_empty() {
                        self.expect_op(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect_op("=")?;
                    values.push((target, self.expression()?));
                }
                Ok(StmtKind::With(values, self.scoped_body("endwith")?))
            }
            "generation" => Ok(StmtKind::Scope(self.scoped_body("endgeneration")?)),
            "print" => {
                let expr = self.tuple(true, false)?;
                self.block_end()?;
                Ok(StmtKind::Print(expr))
            }
            "break" | "continue" if self.loops > 0 => {
                self.block_end()?;
                Ok(if &*word == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "break" | "continue" => self.error(format!("`{word}` outside of a loop")),
            "include" | "import" | "from" | "extends" | "block" => {
                self.error(format!("`{word}` is refused: a chat template is one text and reads no other"))
            }
            _ => self.error(format!("unknown tag `{word}`")),
        }
    }

    fn if_statement(&mut self) -> Parse<StmtKind> {
        let known = self.unknown.len();
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, false)?;
            self.block_end()?;
            branches.push((test, self.block(&["elif", "else", "endif"])?));
            match &*self.name()? {
                "elif" => {}
                "else" => {
                    self.block_end()?;
                    otherwise = self.block(&["endif"])?;
                    self.next();
                    self.block_end()?;
                    break;
                }
                _ => {
                    self.block_end()?;
                    break;
                }
            }
        }
        // In a branch they fail when it runs.
        self.unknown.truncate(known);
        Ok(StmtKind::If(branches, otherwise))
    }

    fn for_statement(&mut self) -> Parse<StmtKind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let iter = self.tuple(false, true)?;
        let filter = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.block(&["else", "endfor"])?;
        self.loops -= 1;
        let mut otherwise = Vec::new();
        if &*self.name()? == "else" {
            self.block_end()?;
            otherwise = self.block(&["endfor"])?;
            self.next();
        }
        self.block_end()?;
        Ok(StmtKind::For(Arc::new(ForLoop { target, iter, filter, body, otherwise, recursive })))
    }

    fn set_statement(&mut self) -> Parse<StmtKind> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple(true, false)?;
            self.block_end()?;
            return Ok(StmtKind::Set(target, value));
        }
        let chain = self.filter_chain(false)?;
        Ok(StmtKind::SetBlock(target, chain, self.scoped_body("endset")?))
    }

    fn macro_rest(
        &mut self,
        name: Arc<str>,
        params: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Parse<Arc<MacroDef>> {
        let names = self.names.len();
        let loops = std::mem::take(&mut self.loops);
        let body = self.scoped_body(end)?;
        self.loops = loops;
        let uses = |name: &str| {
            self.names[names..].iter().any(|n| &**n == name) && !params.iter().any(|(n, _)| &**n == name)
        };
        let (uses_varargs, uses_kwargs, uses_caller) = (uses("varargs"), uses("kwargs"), uses("caller"));
        Ok(Arc::new(MacroDef { name, params, body, uses_varargs, uses_kwargs, uses_caller }))
    }

    fn params(&mut self) -> Parse<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut params: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.skip_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && params.iter().any(|(_, d)| d.is_some()) {
                return self.error("a parameter without default follows one with a default");
            }
            params.push((name, default));
        }
        Ok(params)
    }

    fn filter_chain(&mut self, first_bare: bool) -> Parse<Vec<(Arc<str>, Args)>> {
        let mut chain = Vec::new();
        while (first_bare && chain.is_empty()) || self.skip_op("|") {
            chain.push(self.filter()?);
        }
        Ok(chain)
    }

    fn target(&mut self, with_attr: bool) -> Parse<Target> {
        let first = self.target_item(with_attr)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_op(",") {
            if !matches!(self.peek(), Tok::Name(_)) && !self.is_op("(") {
                break;
            }
            items.push(self.target_item(with_attr)?);
        }
        Ok(Target::Tuple(items))
    }

    fn target_item(&mut self, with_attr: bool) -> Parse<Target> {
        if self.skip_op("(") {
            let inner = self.nested(|p| p.target(with_attr))?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.error(format!("cannot assign to `{name}`"));
        }
        if with_attr && self.skip_op(".") {
            let attr = self.name()?;
            self.names.push(name.clone());
            return Ok(Target::Attr(name, attr));
        }
        Ok(Target::Name(name))
    }

    // Expressions

    /// One expression, or several as a tuple. `stop_at_recursive`: the iterable of a `for`.
    fn tuple(&mut self, with_cond: bool, stop_at_recursive: bool) -> Parse<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                if !self.skip_op(",") {
                    break;
                }
                is_tuple = true;
            }
            let ends = matches!(self.peek(), Tok::PrintEnd | Tok::BlockEnd | Tok::Op(")"))
                || (stop_at_recursive && self.is_name("recursive"));
            if ends {
                break;
            }
            items.push(if with_cond { self.expression()? } else { self.nested(Self::or)? });
        }
        match (is_tuple, items.len()) {
            (false, 1) => Ok(items.pop().expect("one item")),
            (false, _) => self.unexpected("an expression"),
            (true, _) => Ok(Expr::Tuple(items)),
        }
    }

    fn expression(&mut self) -> Parse<Expr> {
        self.nested(|p| {
            let known = p.unknown.len();
            let mut expr = p.or()?;
            while p.skip_name("if") {
                let test = p.or()?;
                let otherwise = if p.skip_name("else") { Some(p.expression()?) } else { None };
                p.unknown.truncate(known);
                expr = Expr::Cond(Box::new(CondExpr { test, then: expr, otherwise }));
            }
            Ok(expr)
        })
    }

    fn or(&mut self) -> Parse<Expr> {
        let mut items = vec![self.and()?];
        while self.skip_name("or") {
            items.push(self.and()?);
        }
        Ok(if items.len() == 1 { items.pop().expect("one item") } else { Expr::Or(items) })
    }

    fn and(&mut self) -> Parse<Expr> {
        let mut items = vec![self.not()?];
        while self.skip_name("and") {
            items.push(self.not()?);
        }
        Ok(if items.len() == 1 { items.pop().expect("one item") } else { Expr::And(items) })
    }

    fn not(&mut self) -> Parse<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Parse<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match self.peek() {
                Tok::Op("==") => CmpOp::Eq,
                Tok::Op("!=") => CmpOp::Ne,
                Tok::Op("<") => CmpOp::Lt,
                Tok::Op("<=") => CmpOp::Le,
                Tok::Op(">") => CmpOp::Gt,
                Tok::Op(">=") => CmpOp::Ge,
                Tok::Name(n) if n == "in" => CmpOp::In,
                Tok::Name(n)
                    if n == "not"
                        && matches!(&self.tokens.get(self.at + 1), Some((_, Tok::Name(n))) if n == "in") =>
                {
                    self.next();
                    CmpOp::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn arith(&mut self, ops: &[(&str, ArithOp)], operand: fn(&mut Self) -> Parse<Expr>) -> Parse<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(&(_, op)) = ops.iter().find(|(spelling, _)| self.is_op(spelling)) {
            self.next();
            rest.push((op, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Arith(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Parse<Expr> {
        self.arith(&[("+", ArithOp::Add), ("-", ArithOp::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Parse<Expr> {
        let mut items = vec![self.product()?];
        while self.skip_op("~") {
            items.push(self.product()?);
        }
        Ok(if items.len() == 1 { items.pop().expect("one item") } else { Expr::Concat(items) })
    }

    fn product(&mut self) -> Parse<Expr> {
        self.arith(
            &[("*", ArithOp::Mul), ("/", ArithOp::Div), ("//", ArithOp::FloorDiv), ("%", ArithOp::Mod)],
            Self::power,
        )
    }

    fn power(&mut self) -> Parse<Expr> {
        self.arith(&[("**", ArithOp::Pow)], |p| p.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Parse<Expr> {
        let node = if self.skip_op("-") {
            Expr::Neg(Box::new(self.nested(|p| p.unary(false))?))
        } else if self.skip_op("+") {
            Expr::Pos(Box::new(self.nested(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        let mut posts = Vec::new();
        self.postfix(&mut posts)?;
        loop {
            if !with_filter {
                break;
            } else if self.skip_op("|") {
                let (name, args) = self.filter()?;
                posts.push(Post::Filter(name, args));
            } else if self.skip_name("is") {
                posts.push(self.test()?);
            } else if self.is_op("(") {
                posts.push(Post::Call(self.args()?));
            } else {
                break;
            }
        }
        Ok(if posts.is_empty() { node } else { Expr::Chain(Box::new(node), posts) })
    }

    fn primary(&mut self) -> Parse<Expr> {
        match self.next() {
            Tok::Name(n) => Ok(match n.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => {
                    let name: Arc<str> = n.as_str().into();
                    self.names.push(name.clone());
                    Expr::Name(name)
                }
            }),
            Tok::Str(mut s) => {
                while let Tok::Str(more) = self.peek() {
                    s.push_str(more);
                    self.next();
                }
                Ok(Expr::Str(Text::own(&s)))
            }
            Tok::Int(i) => Ok(Expr::Int(i)),
            Tok::Float(f) => Ok(Expr::Float(f)),
            Tok::Op("(") => {
                if self.skip_op(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let inner = self.tuple(true, false)?;
                self.expect_op(")")?;
                Ok(inner)
            }
            Tok::Op("[") => {
                let mut items = Vec::new();
                while !self.skip_op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.skip_op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Ok(Expr::List(items))
            }
            Tok::Op("{") => {
                let mut items = Vec::new();
                while !self.skip_op("}") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.skip_op("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_op(":")?;
                    items.push((key, self.expression()?));
                }
                Ok(Expr::Dict(items))
            }
            other => {
                self.at = self.at.saturating_sub(usize::from(other != Tok::End));
                self.unexpected("an expression")
            }
        }
    }

    fn postfix(&mut self, posts: &mut Vec<Post>) -> Parse<()> {
        loop {
            if self.skip_op(".") {
                match self.next() {
                    Tok::Name(n) => posts.push(Post::Attr(n.as_str().into())),
                    Tok::Int(i) => posts.push(Post::Item(Expr::Int(i))),
                    _ => return self.error("expected a name or a number after `.`"),
                }
            } else if self.skip_op("[") {
                posts.push(self.subscript()?);
            } else if self.is_op("(") {
                posts.push(Post::Call(self.args()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Parse<Post> {
        // An empty subscript asks for the key `()`, as in Jinja.
        if self.skip_op("]") {
            return Ok(Post::Item(Expr::Tuple(Vec::new())));
        }
        let part = |p: &mut Self| {
            if p.is_op(":") || p.is_op("]") || p.is_op(",") { Ok(None) } else { p.expression().map(Some) }
        };
        let start = part(self)?;
        let post = if self.skip_op(":") {
            let stop = part(self)?;
            let step = if self.skip_op(":") { part(self)? } else { None };
            Post::Slice(start, stop, step)
        } else {
            let Some(first) = start else { return self.unexpected("an expression") };
            if self.is_op(",") {
                let mut items = vec![first];
                while self.skip_op(",") {
                    if self.is_op("]") {
                        break;
                    }
                    items.push(self.expression()?);
                }
                Post::Item(Expr::Tuple(items))
            } else {
                Post::Item(first)
            }
        };
        self.expect_op("]")?;
        Ok(post)
    }

    fn args(&mut self) -> Parse<Args> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.skip_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("*") {
                args.star = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") {
                args.star_star = Some(Box::new(self.expression()?));
            } else if let (Tok::Name(name), Some((_, Tok::Op("=")))) =
                (self.peek(), self.tokens.get(self.at + 1))
            {
                let name: Arc<str> = name.as_str().into();
                self.next();
                self.next();
                args.named.push((name, self.expression()?));
            } else {
                if !args.named.is_empty() || args.star_star.is_some() {
                    return self.error("a positional argument follows a named one");
                }
                args.positional.push(self.expression()?);
            }
        }
        Ok(args)
    }

    fn dotted_name(&mut self) -> Parse<String> {
        let mut name = self.name()?.to_string();
        while self.skip_op(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn filter(&mut self) -> Parse<(Arc<str>, Args)> {
        let line = self.line();
        let name = self.dotted_name()?;
        if !filters::is_known(&name) {
            self.unknown.push((line, format!("there is no filter `{name}`")));
        }
        let args = if self.is_op("(") { self.args()? } else { Args::default() };
        Ok((name.into(), args))
    }

    fn test(&mut self) -> Parse<Post> {
        let line = self.line();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !tests::is_known(&name) {
            self.unknown.push((line, format!("there is no test `{name}`")));
        }
        let mut args = Args::default();
        if self.is_op("(") {
            args = self.args()?;
        } else {
            let starts = match self.peek() {
                Tok::Name(n) => !matches!(n.as_str(), "else" | "or" | "and"),
                Tok::Str(_) | Tok::Int(_) | Tok::Float(_) | Tok::Op("[" | "{") => true,
                _ => false,
            };
            if starts {
                if self.is_name("is") {
                    return self.error("tests cannot be chained with `is`");
                }
                args.positional.push(self.nested(|p| {
                    let node = p.primary()?;
                    let mut posts = Vec::new();
                    p.postfix(&mut posts)?;
                    Ok(if posts.is_empty() { node } else { Expr::Chain(Box::new(node), posts) })
                })?);
            }
        }
        Ok(Post::Test { name: name.into(), args, negated })
    }
}
