//! What expressions evaluate to, with Python's ideas of truth, equality, order, `str` and `repr`.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::TemplateError;
use super::ast::MacroDef;
use super::scope::Scope;
use super::text::{Text, TextBuf};

pub(super) type Eval<T> = Result<T, TemplateError>;

/// How deep values nest before printing or comparing them is refused.
const VALUE_DEPTH_MAX: u32 = 130;

/// An error of the template, as yet without its line.
pub(super) fn fail<T>(message: impl Into<String>) -> Eval<T> {
    Err(TemplateError::Render { line: 0, message: message.into() })
}

/// The work a rendering may still do, in steps of the interpreter. One budget bounds time and memory: whatever
/// builds or walks something pays for it first.
#[derive(Debug)]
pub(super) struct Fuel {
    left: Cell<u64>,
    limit: u64,
}

impl Fuel {
    pub fn new(limit: u64) -> Self {
        Self { left: Cell::new(limit), limit }
    }

    /// Pays for `n` steps.
    pub fn charge(&self, n: usize) -> Eval<()> {
        match self.left.get().checked_sub(n as u64) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(TemplateError::Limit { what: "work", limit: self.limit })
            }
        }
    }

    /// Pays for copying or scanning `n` bytes.
    pub fn charge_bytes(&self, n: usize) -> Eval<()> {
        self.charge(1 + n / 128)
    }

    /// Pays for one more level of a value.
    fn descend(&self, depth: u32) -> Eval<()> {
        if depth > VALUE_DEPTH_MAX {
            return Err(TemplateError::Limit {
                what: "nesting of values",
                limit: u64::from(VALUE_DEPTH_MAX),
            });
        }
        self.charge(1)
    }
}

#[derive(Debug, Default)]
pub(super) struct ListObj(pub RefCell<Vec<Value>>);

/// A dict in insertion order. Values keep the key as it was first written.
#[derive(Debug, Default)]
pub(super) struct DictObj(pub RefCell<IndexMap<Key, (Value, Value)>>);

/// A key by Python's equality: `1`, `1.0` and `true` are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Undefined,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
    Object(usize),
}

/// What a dict view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Debug)]
pub(super) struct LoopState {
    pub items: Rc<ListObj>,
    pub at: Cell<usize>,
    pub depth: usize,
    pub last_changed: RefCell<Option<Rc<ListObj>>>,
    /// For `loop(...)` of a recursive loop.
    pub recurse: Option<(Arc<super::ast::ForLoop>, Rc<Scope>)>,
}

#[derive(Debug)]
pub(super) struct MacroObj {
    pub def: Arc<MacroDef>,
    pub scope: Rc<Scope>,
}

/// Functions that every template sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Func {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// With what was not found.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<ListObj>),
    Tuple(Rc<ListObj>),
    Dict(Rc<DictObj>),
    View(View, Rc<DictObj>),
    /// An iterator of Python: always true, without length, empty after its first use.
    Generator(Rc<ListObj>),
    /// start, stop, step
    Range(i128, i128, i128),
    Namespace(Rc<DictObj>),
    Loop(Rc<LoopState>),
    Macro(Rc<MacroObj>),
    Func(Func),
    Method(Rc<(Value, Arc<str>)>),
    Cycler(Rc<(Rc<ListObj>, Cell<usize>)>),
    Joiner(Rc<(Text, Cell<bool>)>),
}

pub(super) fn range_len(start: i128, stop: i128, step: i128) -> usize {
    let n = if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
    usize::try_from(n).unwrap_or(0)
}

impl Value {
    pub fn own(s: &str) -> Self {
        Self::Str(Text::own(s))
    }

    pub fn undefined(what: &str) -> Self {
        Self::Undefined(what.into())
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Generator(_) => "generator",
            Self::Range(..) => "range",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Func(_) => "function",
            Self::Method(_) => "method",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    /// Python's `bool`.
    pub fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) | Self::Tuple(l) => !l.0.borrow().is_empty(),
            Self::Dict(d) | Self::View(_, d) => !d.0.borrow().is_empty(),
            Self::Range(a, b, c) => range_len(*a, *b, *c) > 0,
            _ => true,
        }
    }

    /// Python's `len`, where there is one.
    pub fn length(&self) -> Eval<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Str(s) => s.as_str().chars().count(),
            Self::List(l) | Self::Tuple(l) => l.0.borrow().len(),
            Self::Dict(d) | Self::View(_, d) => d.0.borrow().len(),
            Self::Range(a, b, c) => range_len(*a, *b, *c),
            Self::Loop(l) => l.items.0.borrow().len(),
            _ => return fail(format!("object of type '{}' has no len()", self.type_name())),
        })
    }

    /// A number, if it is one (bools are).
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(b) => Some(i128::from(*b)),
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            other => other.as_int().map(|i| i as f64),
        }
    }

    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The key this value is in a dict.
    pub fn key(&self, fuel: &Fuel) -> Eval<Key> {
        self.key_at(0, fuel)
    }

    fn key_at(&self, depth: u32, fuel: &Fuel) -> Eval<Key> {
        fuel.descend(depth)?;
        Ok(match self {
            Self::None => Key::None,
            Self::Undefined(_) => Key::Undefined,
            Self::Bool(b) => Key::Int(i128::from(*b)),
            Self::Int(i) => Key::Int(*i),
            Self::Float(f) if f.fract() == 0.0 && f.abs() < 1e38 => Key::Int(*f as i128),
            Self::Float(f) => Key::Float(f.to_bits()),
            Self::Str(s) => Key::Str(s.shared()),
            Self::Tuple(t) => {
                Key::Tuple(t.0.borrow().iter().map(|v| v.key_at(depth + 1, fuel)).collect::<Eval<_>>()?)
            }
            Self::Range(..) => Key::Tuple(Vec::new()),
            Self::List(_) | Self::Dict(_) | Self::View(..) => {
                return fail(format!("unhashable type: '{}'", self.type_name()));
            }
            other => Key::Object(other.address()),
        })
    }

    fn address(&self) -> usize {
        match self {
            Self::List(l) | Self::Tuple(l) | Self::Generator(l) => Rc::as_ptr(l) as usize,
            Self::Dict(d) | Self::View(_, d) | Self::Namespace(d) => Rc::as_ptr(d) as usize,
            Self::Loop(l) => Rc::as_ptr(l) as usize,
            Self::Macro(m) => Rc::as_ptr(m) as usize,
            Self::Method(m) => Rc::as_ptr(m) as usize,
            Self::Cycler(c) => Rc::as_ptr(c) as usize,
            Self::Joiner(j) => Rc::as_ptr(j) as usize,
            Self::Func(f) => *f as usize,
            _ => 0,
        }
    }

    /// Python's `is`.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Undefined(_) | Self::Float(_), _) => false,
            (a, b) => a.type_name() == b.type_name() && a.address() != 0 && a.address() == b.address(),
        }
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Self, fuel: &Fuel) -> Eval<bool> {
        self.equals_at(other, 0, fuel)
    }

    fn equals_at(&self, other: &Self, depth: u32, fuel: &Fuel) -> Eval<bool> {
        fuel.descend(depth)?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(a == b);
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return Ok(a == b);
        }
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                let (a, b) = (a.0.borrow(), b.0.borrow());
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (x, y) in a.iter().zip(b.iter()) {
                    if !x.equals_at(y, depth + 1, fuel)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                let (a, b) = (a.0.borrow(), b.0.borrow());
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, (_, x)) in a.iter() {
                    match b.get(key) {
                        Some((_, y)) if x.equals_at(y, depth + 1, fuel)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Range(a, b, c), Self::Range(x, y, z)) => (a, b, c) == (x, y, z),
            (Self::Func(a), Self::Func(b)) => a == b,
            _ => self.same(other),
        })
    }

    /// Python's order, where there is one.
    pub fn compare(&self, other: &Self, fuel: &Fuel) -> Eval<Option<Ordering>> {
        self.compare_at(other, 0, fuel)
    }

    fn compare_at(&self, other: &Self, depth: u32, fuel: &Fuel) -> Eval<Option<Ordering>> {
        fuel.descend(depth)?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        match (self, other) {
            (Self::Undefined(what), _) | (_, Self::Undefined(what)) => fail(format!("{what} is undefined")),
            (Self::Str(a), Self::Str(b)) => Ok(Some(a.as_str().cmp(b.as_str()))),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                let (a, b) = (a.0.borrow(), b.0.borrow());
                for (x, y) in a.iter().zip(b.iter()) {
                    if !x.equals_at(y, depth + 1, fuel)? {
                        return x.compare_at(y, depth + 1, fuel);
                    }
                }
                Ok(Some(a.len().cmp(&b.len())))
            }
            _ => fail(format!("'{}' and '{}' have no order", self.type_name(), other.type_name())),
        }
    }

    /// Python's `str`.
    pub fn to_text(&self, fuel: &Fuel) -> Eval<Text> {
        if let Self::Str(s) = self {
            return Ok(s.clone());
        }
        let mut buf = TextBuf::default();
        self.write_str(&mut buf, fuel)?;
        Ok(buf.into_text())
    }

    /// Appends Python's `str`.
    pub fn write_str(&self, out: &mut TextBuf, fuel: &Fuel) -> Eval<()> {
        match self {
            Self::Undefined(_) => {}
            Self::Str(s) => {
                fuel.charge_bytes(s.len())?;
                out.push(s);
            }
            other => other.write_repr(out, fuel, 0)?,
        }
        Ok(())
    }

    /// Appends Python's `repr`.
    pub fn write_repr(&self, out: &mut TextBuf, fuel: &Fuel, depth: u32) -> Eval<()> {
        fuel.descend(depth)?;
        let sequence = |out: &mut TextBuf, items: &[Self], open: &str, close: &str| {
            out.push_own(open);
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_own(", ");
                }
                item.write_repr(out, fuel, depth + 1)?;
            }
            out.push_own(close);
            Ok(())
        };
        match self {
            Self::Undefined(_) => out.push_own("Undefined"),
            Self::None => out.push_own("None"),
            Self::Bool(b) => out.push_own(if *b { "True" } else { "False" }),
            Self::Int(i) => out.push_own(&i.to_string()),
            Self::Float(f) => out.push_own(&float_repr(*f)),
            Self::Str(s) => {
                fuel.charge_bytes(s.len())?;
                str_repr(s, out);
            }
            Self::List(l) => sequence(out, &l.0.borrow(), "[", "]")?,
            Self::Tuple(t) => {
                let items = t.0.borrow();
                sequence(out, &items, "(", if items.len() == 1 { ",)" } else { ")" })?;
            }
            Self::Dict(d) => write_dict(d, out, fuel, depth)?,
            Self::View(view, d) => {
                out.push_own(self.type_name());
                out.push_own("([");
                for (i, (_, (k, v))) in d.0.borrow().iter().enumerate() {
                    if i > 0 {
                        out.push_own(", ");
                    }
                    match view {
                        View::Keys => k.write_repr(out, fuel, depth + 1)?,
                        View::Values => v.write_repr(out, fuel, depth + 1)?,
                        View::Items => {
                            out.push_own("(");
                            k.write_repr(out, fuel, depth + 1)?;
                            out.push_own(", ");
                            v.write_repr(out, fuel, depth + 1)?;
                            out.push_own(")");
                        }
                    }
                }
                out.push_own("])");
            }
            Self::Range(a, b, 1) => out.push_own(&format!("range({a}, {b})")),
            Self::Range(a, b, c) => out.push_own(&format!("range({a}, {b}, {c})")),
            Self::Namespace(d) => {
                out.push_own("<Namespace ");
                write_dict(d, out, fuel, depth)?;
                out.push_own(">");
            }
            Self::Loop(l) => {
                out.push_own(&format!("<LoopContext {}/{}>", l.at.get() + 1, l.items.0.borrow().len()));
            }
            Self::Macro(m) => out.push_own(&format!("<Macro '{}'>", m.def.name)),
            Self::Generator(_) => out.push_own("<generator object>"),
            Self::Func(f) => out.push_own(&format!("<function {f:?}>")),
            Self::Method(m) => {
                out.push_own(&format!("<built-in method {} of {} object>", m.1, m.0.type_name()))
            }
            Self::Cycler(_) => out.push_own("<Cycler>"),
            Self::Joiner(_) => out.push_own("<Joiner>"),
        }
        Ok(())
    }
}

fn write_dict(d: &DictObj, out: &mut TextBuf, fuel: &Fuel, depth: u32) -> Eval<()> {
    out.push_own("{");
    for (i, (_, (k, v))) in d.0.borrow().iter().enumerate() {
        if i > 0 {
            out.push_own(", ");
        }
        k.write_repr(out, fuel, depth + 1)?;
        out.push_own(": ");
        v.write_repr(out, fuel, depth + 1)?;
    }
    out.push_own("}");
    Ok(())
}

/// Python's `repr` of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16.
pub(super) fn float_repr(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let shown = format!("{f:e}");
    let (digits, exponent) = shown.split_once('e').expect("`{:e}` has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if f == 0.0 || (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Whether Python's `repr` shows a character as it is.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Within a string, Rust's own escape leaves exactly the characters that are not of the categories Other and
    // Separator (but combining marks at the front, hence the letter).
    let mut utf8 = [b'a'; 5];
    let n = c.encode_utf8(&mut utf8[1..]).len();
    let probe = std::str::from_utf8(&utf8[..=n]).expect("a letter and a character");
    probe.escape_debug().nth(1) == Some(c)
}

/// Appends Python's `repr` of a string.
fn str_repr(s: &Text, out: &mut TextBuf) {
    let raw = s.as_str();
    let quote = if raw.contains('\'') && !raw.contains('"') { '"' } else { '\'' };
    let mark = if quote == '"' { "\"" } else { "'" };
    out.push_own(mark);
    let shown = s.map_chars(|c, out| match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c == quote => {
            out.push('\\');
            out.push(c);
        }
        c if is_printable(c) => out.push(c),
        c => {
            let code = c as u32;
            out.push_str(&match code {
                0..=0xff => format!("\\x{code:02x}"),
                0x100..=0xffff => format!("\\u{code:04x}"),
                _ => format!("\\U{code:08x}"),
            });
        }
    });
    out.push(&shown);
    out.push_own(mark);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (f, expected) in [
            (1.0, "1.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (-0.0, "-0.0"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(float_repr(f), expected);
        }
    }

    #[test]
    fn strings_print_as_in_python() {
        for (s, expected) in [
            ("it's", "\"it's\""),
            ("a\"b'c", "'a\"b\\'c'"),
            ("\n\t\x00\u{7f}\u{a0}é\u{200b}\u{301}日", "'\\n\\t\\x00\\x7f\\xa0é\\u200b\u{301}日'"),
        ] {
            let mut out = TextBuf::default();
            str_repr(&Text::own(s), &mut out);
            assert_eq!(out.as_str(), expected);
        }
    }
}
