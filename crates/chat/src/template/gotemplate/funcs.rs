//! The functions that templates may call: Go's own and Ollama's. This list is all there is.

use std::rc::Rc;

use super::format;
use super::show;
use super::value::{PROPERTY, Value, type_script};
use crate::template::CivilTime;
use crate::template::text::{Text, TextBuf};
use crate::template::value::{Eval, Fuel, fail};

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Func {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Html,
    Js,
    UrlQuery,
    Call,
    Json,
    CurrentDate,
    YesterdayDate,
    ToTypeScriptType,
}

impl Func {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "or" => Self::Or,
            "not" => Self::Not,
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "len" => Self::Len,
            "index" => Self::Index,
            "slice" => Self::Slice,
            "print" => Self::Print,
            "printf" => Self::Printf,
            "println" => Self::Println,
            "html" => Self::Html,
            "js" => Self::Js,
            "urlquery" => Self::UrlQuery,
            "call" => Self::Call,
            "json" => Self::Json,
            "currentDate" => Self::CurrentDate,
            "yesterdayDate" => Self::YesterdayDate,
            "toTypeScriptType" => Self::ToTypeScriptType,
            _ => return None,
        })
    }

    /// How many arguments it takes: at least, and at most.
    pub fn arity(self) -> (usize, usize) {
        match self {
            Self::And | Self::Or | Self::Eq | Self::Index | Self::Slice | Self::Printf | Self::Call => {
                (1, usize::MAX)
            }
            Self::Not | Self::Len | Self::Json | Self::ToTypeScriptType => (1, 1),
            Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge => (2, 2),
            Self::Print
            | Self::Println
            | Self::Html
            | Self::Js
            | Self::UrlQuery
            | Self::CurrentDate
            | Self::YesterdayDate => (0, usize::MAX),
        }
    }

    /// Whether its argument at this place must be a string.
    pub fn wants_string(self, at: usize) -> bool {
        match self {
            Self::Printf => at == 0,
            Self::CurrentDate | Self::YesterdayDate => true,
            _ => false,
        }
    }

    /// Whether it is asked for any value, of which `nil` in a slot is one, rather than for what is in the slot.
    pub fn digs(self) -> bool {
        !matches!(
            self,
            Self::Print
                | Self::Printf
                | Self::Println
                | Self::Html
                | Self::Js
                | Self::UrlQuery
                | Self::Json
                | Self::ToTypeScriptType
        )
    }
}

/// Calls a function with arguments of the right number. `and` and `or` are not called: they don't look at all of
/// theirs.
pub(super) fn call(func: Func, args: &[Value], now: CivilTime, fuel: &Fuel) -> Eval<Value> {
    fuel.charge(1 + args.len())?;
    let date = |time: CivilTime| Value::own(&format!("{:04}-{:02}-{:02}", time.year, time.month, time.day));
    Ok(match func {
        Func::Not => Value::Bool(!args[0].truth()),
        Func::Eq => Value::Bool(equals_any(&args[0], &args[1..], fuel)?),
        Func::Ne => Value::Bool(!equals_any(&args[0], &args[1..], fuel)?),
        Func::Lt => Value::Bool(is_less(&args[0], &args[1], fuel)?),
        Func::Ge => Value::Bool(!is_less(&args[0], &args[1], fuel)?),
        Func::Le => Value::Bool(is_at_most(&args[0], &args[1], fuel)?),
        Func::Gt => Value::Bool(!is_at_most(&args[0], &args[1], fuel)?),
        Func::Len => Value::Int(length(&args[0])? as i64),
        Func::Index => index(&args[0], &args[1..])?,
        Func::Slice => slice(&args[0], &args[1..], fuel)?,
        Func::Print => Value::Str(format::sprint(args, fuel)?),
        Func::Println => Value::Str(format::sprintln(args, fuel)?),
        Func::Printf => match &args[0] {
            Value::Str(text) => Value::Str(format::sprintf(text, &args[1..], fuel)?),
            other => {
                return fail(format!("wrong type for value; expected string; got {}", other.type_name()));
            }
        },
        Func::Html => Value::Str(escaped(args, fuel, html)?),
        Func::Js => Value::Str(escaped(args, fuel, js)?),
        Func::UrlQuery => Value::Str(escaped(args, fuel, url_query)?),
        Func::Call => {
            return fail(format!("error calling call: non-function of type {}", args[0].type_name()));
        }
        Func::Json => {
            let mut out = TextBuf::default();
            show::json(&args[0], fuel, &mut out)?;
            Value::Str(out.into_text())
        }
        Func::CurrentDate => date(now),
        Func::YesterdayDate => date(now.day_before()),
        Func::ToTypeScriptType => match &args[0] {
            Value::Struct(s) if *s.shape == PROPERTY => Value::Str(type_script(s, fuel)?),
            _ => Value::own("any"),
        },
        Func::And | Func::Or => return fail("and and or are evaluated, not called"),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Uint,
    Float,
    Str,
    Other,
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Bool(_) => Kind::Bool,
        Value::Int(_) => Kind::Int,
        Value::Uint(_) => Kind::Uint,
        Value::Float(_) => Kind::Float,
        Value::Str(_) => Kind::Str,
        _ => Kind::Other,
    }
}

fn incompatible<T>(a: &Value, b: &Value) -> Eval<T> {
    fail(format!("incompatible types for comparison: {} and {}", a.type_name(), b.type_name()))
}

fn charge_strings(a: &Value, b: &Value, fuel: &Fuel) -> Eval<()> {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => fuel.charge_bytes(a.len().min(b.len())),
        _ => Ok(()),
    }
}

fn equals_any(first: &Value, others: &[Value], fuel: &Fuel) -> Eval<bool> {
    if others.is_empty() {
        return fail("error calling eq: missing argument for comparison");
    }
    for other in others {
        charge_strings(first, other, fuel)?;
        if equals(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equals(a: &Value, b: &Value) -> Eval<bool> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Uint(a), Value::Uint(b)) => a == b,
        (Value::Int(a), Value::Uint(b)) | (Value::Uint(b), Value::Int(a)) => u64::try_from(*a) == Ok(*b),
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a == b,
        _ if kind(a) != kind(b) => {
            if !matches!(a, Value::Invalid) && !matches!(b, Value::Invalid) {
                return incompatible(a, b);
            }
            false
        }
        (Value::Invalid, b) => b.is_nil(),
        (a, Value::Invalid) => a.is_nil(),
        _ if std::mem::discriminant(a) != std::mem::discriminant(b) && !are_pointers(a, b) => {
            return fail(format!("non-comparable types {} and {}", a.type_name(), b.type_name()));
        }
        _ if a.is_nil() || b.is_nil() => a.is_nil() && b.is_nil(),
        (Value::Struct(a), Value::Struct(b)) if a.shape.is_pointer && b.shape.is_pointer => Rc::ptr_eq(a, b),
        _ => return fail(format!("non-comparable type {}", b.type_name())),
    })
}

fn are_pointers(a: &Value, b: &Value) -> bool {
    let is = |v: &Value| match v {
        Value::NilPointer(_) => true,
        Value::Struct(s) => s.shape.is_pointer,
        _ => false,
    };
    is(a) && is(b)
}

fn is_less(a: &Value, b: &Value, fuel: &Fuel) -> Eval<bool> {
    charge_strings(a, b, fuel)?;
    Ok(match (a, b) {
        _ if kind(a) == Kind::Other || kind(b) == Kind::Other => return fail("invalid type for comparison"),
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Uint(a), Value::Uint(b)) => a < b,
        (Value::Int(a), Value::Uint(b)) => i128::from(*a) < i128::from(*b),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a) < i128::from(*b),
        (Value::Float(a), Value::Float(b)) => a < b,
        (Value::Str(a), Value::Str(b)) => a.as_str() < b.as_str(),
        (Value::Bool(_), Value::Bool(_)) => return fail("invalid type for comparison"),
        _ => return incompatible(a, b),
    })
}

fn is_at_most(a: &Value, b: &Value, fuel: &Fuel) -> Eval<bool> {
    Ok(is_less(a, b, fuel)? || equals(a, b)?)
}

fn length(value: &Value) -> Eval<usize> {
    match value {
        Value::Str(s) => Ok(s.len()),
        Value::List(l) => Ok(l.items().len()),
        Value::Map(m) => Ok(m.entries.len()),
        Value::Invalid | Value::Nil | Value::NilPointer(_) => fail("error calling len: len of nil pointer"),
        other => fail(format!("error calling len: len of type {}", other.type_name())),
    }
}

/// A place in a list or string of so many elements.
fn place(value: &Value, most: usize) -> Eval<usize> {
    let n = match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        Value::Uint(n) => usize::try_from(*n).ok(),
        Value::Invalid | Value::Nil => return fail("cannot index slice/array with nil"),
        other => return fail(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match n.filter(|n| *n <= most) {
        Some(n) => Ok(n),
        None => fail("index out of range"),
    }
}

fn index(value: &Value, places: &[Value]) -> Eval<Value> {
    let mut item = value.clone();
    if matches!(item, Value::Invalid | Value::Nil) {
        return fail("error calling index: index of untyped nil");
    }
    for at in places {
        item = match &item {
            Value::Str(s) => {
                let bytes = s.as_str().as_bytes();
                match bytes.get(place(at, bytes.len())?) {
                    Some(byte) => Value::Uint(u64::from(*byte)),
                    None => return fail("error calling index: index out of range"),
                }
            }
            Value::List(list) => match list.items().get(place(at, list.items().len())?) {
                Some(item) => item.clone(),
                None => return fail("error calling index: index out of range"),
            },
            Value::Map(map) => match at {
                Value::Str(key) => Value::entry(map, key.as_str()),
                Value::Invalid | Value::Nil => {
                    return fail("error calling index: value is nil; should be of type string");
                }
                other => {
                    return fail(format!(
                        "error calling index: value has type {}; should be string",
                        other.type_name()
                    ));
                }
            },
            Value::Invalid | Value::Nil | Value::NilPointer(_) => {
                return fail("error calling index: index of nil pointer");
            }
            other => {
                return fail(format!("error calling index: can't index item of type {}", other.type_name()));
            }
        };
    }
    Ok(item)
}

fn slice(value: &Value, places: &[Value], fuel: &Fuel) -> Eval<Value> {
    let n = match value {
        Value::Str(_) if places.len() == 3 => {
            return fail("error calling slice: cannot 3-index slice a string");
        }
        Value::Str(s) => s.len(),
        Value::List(l) => l.items().len(),
        Value::Invalid | Value::Nil => return fail("error calling slice: slice of untyped nil"),
        other => return fail(format!("error calling slice: can't slice item of type {}", other.type_name())),
    };
    if places.len() > 3 {
        return fail(format!("error calling slice: too many slice indexes: {}", places.len()));
    }
    let mut bounds = [0, n, n];
    for (bound, at) in bounds.iter_mut().zip(places) {
        *bound = place(at, n)?;
    }
    let [from, to, most] = bounds;
    if from > to || to > most {
        return fail("error calling slice: invalid slice index: the bounds are not in order");
    }
    match value {
        Value::Str(s) if s.as_str().is_char_boundary(from) && s.as_str().is_char_boundary(to) => {
            fuel.charge_bytes(to - from)?;
            Ok(Value::Str(s.slice(from, to)))
        }
        Value::Str(_) => {
            fail("error calling slice: it cuts a character in two, and half a character is no text")
        }
        Value::List(list) => Ok(Value::List(Rc::new(list.slice(from, to)))),
        _ => fail("error calling slice: no list"),
    }
}

/// The arguments side by side, each character escaped.
fn escaped(args: &[Value], fuel: &Fuel, escape: fn(char, &mut String)) -> Eval<Text> {
    let text = match args {
        [Value::Str(s)] => s.clone(),
        args => {
            // Each as an action prints it.
            let mut shown = Vec::with_capacity(args.len());
            for arg in args {
                shown.push(match arg {
                    Value::Invalid | Value::Nil => Value::own("<no value>"),
                    other => other.clone(),
                });
            }
            format::sprint(&shown, fuel)?
        }
    };
    fuel.charge_bytes(text.len() * 6)?;
    Ok(text.map_chars(escape))
}

fn html(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("&#34;"),
        '\'' => out.push_str("&#39;"),
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\0' => out.push(char::REPLACEMENT_CHARACTER),
        c => out.push(c),
    }
}

fn js(c: char, out: &mut String) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\'' => out.push_str("\\'"),
        '"' => out.push_str("\\\""),
        '<' | '>' | '&' | '=' | '\0'..='\x1f' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        c if c.is_ascii() || format::is_printable(c.encode_utf8(&mut [0; 4])) => out.push(c),
        c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
    }
}

fn url_query(c: char, out: &mut String) {
    match c {
        ' ' => out.push('+'),
        c if c.is_ascii_alphanumeric() || "-_.~".contains(c) => out.push(c),
        c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| out.push_str(&format!("%{b:02X}"))),
    }
}
