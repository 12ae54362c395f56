//! The syntax tree of Go's templates.

use std::sync::Arc;

use super::funcs::Func;
use crate::template::text::Text;

/// A statement and the line where it begins.
#[derive(Clone, Debug)]
pub(super) struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

/// What a statement does.
#[derive(Clone, Debug)]
pub(super) enum StmtKind {
    /// Text outside of actions.
    Text(Text),
    /// `{{ pipeline }}`: prints, or sets a variable.
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    /// `{{ template "name" pipeline }}`.
    Template(Arc<str>, Option<Pipe>),
    Break,
    Continue,
}

/// What `if`, `with` and `range` share.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub pipe: Pipe,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}

/// Commands, each of which takes the value of the one before as its last argument.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    /// Variables that it sets: at most two, and two only for `range`.
    pub decl: Vec<Arc<str>>,
    /// Whether they exist already (`=` instead of `:=`).
    pub is_assign: bool,
    pub cmds: Vec<Vec<Operand>>,
}

/// A word of a command.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    /// An integer that only an unsigned type holds.
    Huge(u64),
    /// A number that is written with a point or an exponent.
    Float(f64),
    Str(Text),
    /// `.A.B`
    Field(Vec<Arc<str>>),
    /// `$x.A`: the name with its `$`, then fields.
    Variable(Vec<Arc<str>>),
    Func(Func),
    Pipe(Box<Pipe>),
    /// `(pipeline).A`
    Chain(Box<Operand>, Vec<Arc<str>>),
}
