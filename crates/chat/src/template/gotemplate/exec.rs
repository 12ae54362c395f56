//! Runs a syntax tree with the semantics of Go's `text/template`, where keys that a map lacks are zero unless
//! it is told otherwise. Every step pays fuel, every level of nesting is counted.

use std::cell::Cell;
use std::sync::Arc;

use super::ast::{Branch, Operand, Pipe, Stmt, StmtKind};
use super::funcs::{self, Func};
use super::parser::Program;
use super::show;
use super::value::{Missing, Value};
use crate::template::text::TextBuf;
use crate::template::value::{Eval, Fuel, fail};
use crate::template::{CivilTime, TemplateError};

/// Levels of evaluation: templates within templates, blocks within blocks, pipelines within pipelines.
const DEPTH_MAX: u32 = 160;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// One rendering.
pub(super) struct Run<'a> {
    pub program: &'a Program,
    pub fuel: &'a Fuel,
    pub now: CivilTime,
    pub output_bytes_max: usize,
    missing: Missing,
    depth: Cell<u32>,
}

/// What is visible at a place: the variables of one template, the innermost last.
struct Frame {
    vars: Vec<(Arc<str>, Value)>,
}

impl Frame {
    fn get(&self, name: &str) -> Eval<Value> {
        match self.vars.iter().rev().find(|(n, _)| **n == *name) {
            Some((_, value)) => Ok(value.clone()),
            None => fail(format!("undefined variable: {name}")),
        }
    }

    fn set(&mut self, name: &str, value: Value) -> Eval<()> {
        match self.vars.iter_mut().rev().find(|(n, _)| **n == *name) {
            Some((_, old)) => {
                *old = value;
                Ok(())
            }
            None => fail(format!("undefined variable: {name}")),
        }
    }
}

impl<'a> Run<'a> {
    pub fn new(program: &'a Program, fuel: &'a Fuel, now: CivilTime, output_bytes_max: usize) -> Self {
        Self { program, fuel, now, output_bytes_max, missing: Missing::Zero, depth: Cell::new(0) }
    }

    /// The same with other keys where a map lacks them.
    pub fn with_missing(&self, missing: Missing) -> Self {
        Self { missing, depth: self.depth.clone(), ..*self }
    }

    /// Renders a list of statements with this data.
    pub fn render(&self, body: &[Stmt], data: &Value) -> Eval<TextBuf> {
        let mut out = TextBuf::default();
        let mut frame = Frame { vars: vec![("$".into(), data.clone())] };
        self.walk(body, data, &mut frame, &mut out)?;
        Ok(out)
    }

    fn nested<T>(&self, f: impl FnOnce() -> Eval<T>) -> Eval<T> {
        let depth = self.depth.get();
        if depth >= DEPTH_MAX {
            return Err(TemplateError::Limit { what: "nesting", limit: DEPTH_MAX.into() });
        }
        self.depth.set(depth + 1);
        let result = f();
        self.depth.set(depth);
        result
    }

    /// Checks that so many bytes may be written.
    pub fn check_size(&self, bytes: usize) -> Eval<()> {
        if bytes > self.output_bytes_max {
            return Err(TemplateError::Limit { what: "bytes of text", limit: self.output_bytes_max as u64 });
        }
        Ok(())
    }

    // Statements

    fn walk(&self, body: &[Stmt], dot: &Value, frame: &mut Frame, out: &mut TextBuf) -> Eval<Flow> {
        self.nested(|| {
            for stmt in body {
                let flow = self.walk_one(stmt, dot, frame, out).map_err(|e| e.at_line(stmt.line))?;
                self.check_size(out.len()).map_err(|e| e.at_line(stmt.line))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn walk_one(&self, stmt: &Stmt, dot: &Value, frame: &mut Frame, out: &mut TextBuf) -> Eval<Flow> {
        self.fuel.charge(1)?;
        match &stmt.kind {
            StmtKind::Text(text) => {
                self.fuel.charge_bytes(text.len())?;
                out.push(text);
            }
            StmtKind::Action(pipe) => {
                let value = self.pipeline(pipe, dot, frame)?;
                if pipe.decl.is_empty() {
                    show::print(&value, self.fuel, out)?;
                }
            }
            StmtKind::If(branch) | StmtKind::With(branch) => {
                let n_vars = frame.vars.len();
                let value = self.pipeline(&branch.pipe, dot, frame)?;
                let is_with = matches!(stmt.kind, StmtKind::With(_));
                let flow = match value.truth() {
                    true if is_with => self.walk(&branch.body, &value, frame, out)?,
                    true => self.walk(&branch.body, dot, frame, out)?,
                    false => self.walk(&branch.otherwise, dot, frame, out)?,
                };
                frame.vars.truncate(n_vars);
                return Ok(flow);
            }
            StmtKind::Range(branch) => {
                let n_vars = frame.vars.len();
                let flow = self.range(branch, dot, frame, out)?;
                frame.vars.truncate(n_vars);
                return Ok(flow);
            }
            StmtKind::Template(name, pipe) => {
                let value = match pipe {
                    Some(pipe) => self.pipeline(pipe, dot, frame)?,
                    None => Value::Invalid,
                };
                let body = match self.program.defined.get(name) {
                    Some(body) => body,
                    None if name.is_empty() => &self.program.main[..],
                    None => return fail(format!("template {name:?} not defined")),
                };
                let mut inner = Frame { vars: vec![("$".into(), value.clone())] };
                self.walk(body, &value, &mut inner, out)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn range(&self, branch: &Branch, dot: &Value, frame: &mut Frame, out: &mut TextBuf) -> Eval<Flow> {
        let pipe = &branch.pipe;
        let value = self.pipeline(pipe, dot, frame)?;
        let n_vars = frame.vars.len();
        let count = match &value {
            Value::List(list) => list.items().len(),
            Value::Map(map) => map.entries.len(),
            Value::Int(_) | Value::Uint(_) if pipe.decl.len() > 1 => {
                return fail("can't use a number to iterate over more than one variable");
            }
            Value::Int(n) => usize::try_from(*n).unwrap_or(0),
            Value::Uint(n) => usize::try_from(*n).unwrap_or(usize::MAX),
            Value::Invalid | Value::Nil => 0,
            other => return fail(format!("range can't iterate over a {}", other.type_name())),
        };
        for at in 0..count {
            self.fuel.charge(1)?;
            let (key, item) = match &value {
                Value::List(list) => (Value::Int(at as i64), list.items()[at].clone()),
                Value::Map(map) => (Value::Str(map.entries[at].0.clone()), map.entries[at].1.clone()),
                Value::Uint(_) => (Value::Invalid, Value::Uint(at as u64)),
                _ => (Value::Invalid, Value::Int(at as i64)),
            };
            self.set_loop_vars(pipe, key, &item, frame)?;
            let flow = self.walk(&branch.body, &item, frame, out)?;
            frame.vars.truncate(n_vars);
            if flow == Flow::Break {
                return Ok(Flow::Next);
            }
        }
        match count {
            0 => self.walk(&branch.otherwise, dot, frame, out),
            _ => Ok(Flow::Next),
        }
    }

    /// With two variables the first is the index, with one it is the element.
    fn set_loop_vars(&self, pipe: &Pipe, key: Value, item: &Value, frame: &mut Frame) -> Eval<()> {
        let top = frame.vars.len();
        match (&pipe.decl[..], pipe.is_assign) {
            ([], _) => {}
            ([one], true) => frame.set(one, item.clone())?,
            ([first, second, ..], true) => {
                frame.set(first, key)?;
                frame.set(second, item.clone())?;
            }
            ([_], false) => frame.vars[top - 1].1 = item.clone(),
            (_, false) => {
                frame.vars[top - 1].1 = item.clone();
                frame.vars[top - 2].1 = key;
            }
        }
        Ok(())
    }

    // Pipelines

    fn pipeline(&self, pipe: &Pipe, dot: &Value, frame: &mut Frame) -> Eval<Value> {
        self.nested(|| {
            let mut last = None;
            for cmd in &pipe.cmds {
                last = Some(self.command(cmd, last, dot, frame)?.dug());
            }
            let value = last.unwrap_or(Value::Invalid);
            for name in &pipe.decl {
                if pipe.is_assign {
                    frame.set(name, value.clone())?;
                } else {
                    frame.vars.push((Arc::clone(name), value.clone()));
                }
            }
            Ok(value)
        })
    }

    fn command(&self, cmd: &[Operand], last: Option<Value>, dot: &Value, frame: &mut Frame) -> Eval<Value> {
        self.fuel.charge(1)?;
        let has_args = cmd.len() > 1 || last.is_some();
        match &cmd[0] {
            Operand::Func(func) => self.function(*func, &cmd[1..], last, dot, frame),
            Operand::Field(path) => self.path(dot.clone(), path, has_args),
            Operand::Chain(inner, path) => {
                let value = self.operand(inner, dot, frame)?.dug();
                self.path(value, path, has_args)
            }
            Operand::Variable(path) => {
                let value = frame.get(&path[0])?;
                if path.len() == 1 && has_args {
                    return fail(format!("can't give argument to non-function {}", path[0]));
                }
                self.path(value, &path[1..], has_args)
            }
            _ if has_args => fail("can't give argument to non-function"),
            Operand::Nil => fail("nil is not a command"),
            other => self.operand(other, dot, frame),
        }
    }

    /// Fields of a value, one after the other. None of them takes arguments.
    fn path(&self, mut value: Value, path: &[Arc<str>], has_args: bool) -> Eval<Value> {
        for (i, name) in path.iter().enumerate() {
            self.fuel.charge(1)?;
            let is_last = i + 1 == path.len();
            let is_nothing = matches!(value, Value::Invalid);
            value = value.field(name, self.missing, self.fuel)?;
            if is_last && has_args && !is_nothing {
                return fail(format!("{name} has arguments but cannot be invoked as function"));
            }
        }
        Ok(value)
    }

    /// An argument, or a command of one word.
    fn operand(&self, operand: &Operand, dot: &Value, frame: &mut Frame) -> Eval<Value> {
        Ok(match operand {
            Operand::Dot => dot.clone(),
            Operand::Nil => Value::Nil,
            Operand::Bool(b) => Value::Bool(*b),
            Operand::Int(n) => Value::Int(*n),
            Operand::Huge(n) => return fail(format!("{n} overflows int")),
            Operand::Float(f) => Value::Float(*f),
            Operand::Str(s) => Value::Str(s.clone()),
            Operand::Field(path) => self.path(dot.clone(), path, false)?,
            Operand::Variable(path) => {
                let value = frame.get(&path[0])?;
                self.path(value, &path[1..], false)?
            }
            Operand::Func(func) => self.function(*func, &[], None, dot, frame)?,
            Operand::Pipe(pipe) => self.pipeline(pipe, dot, frame)?,
            Operand::Chain(inner, path) => {
                let value = self.operand(inner, dot, frame)?.dug();
                self.path(value, path, false)?
            }
        })
    }

    fn function(
        &self,
        func: Func,
        args: &[Operand],
        last: Option<Value>,
        dot: &Value,
        frame: &mut Frame,
    ) -> Eval<Value> {
        let n = args.len() + usize::from(last.is_some());
        let (least, most) = func.arity();
        if n < least || n > most {
            let wanted = if n < least { format!("at least {least}") } else { format!("at most {most}") };
            return fail(format!("wrong number of args for {func:?}: want {wanted} got {n}"));
        }
        if let Func::And | Func::Or = func {
            let mut value = Value::Invalid;
            for arg in args {
                value = self.operand(arg, dot, frame)?;
                if value.truth() == (func == Func::Or) {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values = Vec::with_capacity(n);
        for (at, arg) in args.iter().enumerate() {
            let value = self.operand(arg, dot, frame)?;
            values.push(argument(func, at, value)?);
        }
        if let Some(last) = last {
            values.push(argument(func, args.len(), last)?);
        }
        let value = funcs::call(func, &values, self.now, self.fuel)?;
        if let Value::Str(s) = &value {
            self.check_size(s.len())?;
        }
        Ok(value)
    }
}

/// A value as a function takes it.
fn argument(func: Func, at: usize, value: Value) -> Eval<Value> {
    if func.wants_string(at) {
        return match value {
            Value::Str(_) => Ok(value),
            other => fail(format!("wrong type for value; expected string; got {}", other.type_name())),
        };
    }
    Ok(match value {
        Value::Invalid if !func.digs() => Value::Nil,
        Value::Nil if func.digs() => Value::Invalid,
        value => value,
    })
}

/// A copy of a template that ends where the answer begins: behind its first `.Response`.
pub(super) fn cut_at_response(body: &[Stmt]) -> Vec<Stmt> {
    cut(body, &mut false)
}

fn cut(body: &[Stmt], is_cut: &mut bool) -> Vec<Stmt> {
    let mut kept = Vec::new();
    for stmt in body {
        if *is_cut {
            break;
        }
        let kind = match &stmt.kind {
            StmtKind::Action(pipe) => match cut_pipe(pipe, is_cut) {
                Some(pipe) => StmtKind::Action(pipe),
                None => continue,
            },
            StmtKind::If(branch) => StmtKind::If(cut_branch(branch, is_cut)),
            StmtKind::With(branch) => StmtKind::With(cut_branch(branch, is_cut)),
            StmtKind::Range(branch) => StmtKind::Range(cut_branch(branch, is_cut)),
            other => other.clone(),
        };
        kept.push(Stmt { line: stmt.line, kind });
    }
    kept
}

fn cut_branch(branch: &Branch, is_cut: &mut bool) -> Branch {
    Branch {
        pipe: branch.pipe.clone(),
        body: cut(&branch.body, is_cut),
        otherwise: cut(&branch.otherwise, is_cut),
    }
}

/// A pipeline up to the response. Where whole commands stand behind it, nothing is left of the pipeline.
fn cut_pipe(pipe: &Pipe, is_cut: &mut bool) -> Option<Pipe> {
    let mut cmds = Vec::new();
    for cmd in &pipe.cmds {
        let mut args = Vec::new();
        for arg in cmd {
            if *is_cut {
                break;
            }
            match arg {
                Operand::Field(path) => {
                    *is_cut = path.iter().any(|name| **name == *"Response");
                    args.push(arg.clone());
                }
                Operand::Pipe(inner) => {
                    args.extend(cut_pipe(inner, is_cut).map(|p| Operand::Pipe(Box::new(p))))
                }
                other => args.push(other.clone()),
            }
        }
        if args.is_empty() {
            return None;
        }
        cmds.push(args);
    }
    Some(Pipe { cmds, ..pipe.clone() })
}
