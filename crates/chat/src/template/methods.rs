//! Methods of strings, lists, dicts and the small objects. This list is all there is; lists and dicts can be changed
//! in place, as llama.cpp allows and some templates need (Python's sandbox refuses that).

use super::eval::{Call, Interp};
use super::lexer::is_space;
use super::strfmt;
use super::text::{Text, TextBuf};
use super::value::{DictObj, Eval, ListObj, Value, View, fail};

/// Methods of `str`.
const STR: [&str; 41] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const DICT: [&str; 10] =
    ["clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// Whether a value has a method of this name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => STR.contains(&name),
        Value::List(_) => LIST.contains(&name),
        Value::Tuple(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => DICT.contains(&name),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        Value::Float(_) => name == "is_integer",
        _ => false,
    }
}

fn one<const N: usize>(bound: [Option<Value>; N], what: &str) -> Eval<Value> {
    match bound.into_iter().next().flatten() {
        Some(value) => Ok(value),
        None => fail(format!("{what} needs an argument")),
    }
}

fn text_arg(value: &Value, what: &str) -> Eval<Text> {
    match value {
        Value::Str(s) => Ok(s.clone()),
        other => fail(format!("{what} takes a string, not {}", other.type_name())),
    }
}

fn int_arg(value: Option<Value>, default: i128, what: &str) -> Eval<i128> {
    match value {
        None => Ok(default),
        Some(v) => match v.as_int() {
            Some(i) => Ok(i),
            None => fail(format!("{what} takes an integer, not {}", v.type_name())),
        },
    }
}

/// Which ends to strip.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Left,
    Right,
    Both,
}

/// Python's `strip`: white space, or any of these characters.
pub(super) fn strip(s: &Text, chars: Option<&str>, ends: Ends) -> Text {
    let of = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let raw = s.as_str();
    let start = if ends == Ends::Right { 0 } else { raw.len() - raw.trim_start_matches(of).len() };
    let end = if ends == Ends::Left { raw.len() } else { raw.trim_end_matches(of).len() };
    s.slice(start.min(end), end)
}

/// Lower case; a final sigma needs the whole string, so such a string is of one kind afterwards.
pub(super) fn lower(s: &Text) -> Text {
    if s.as_str().contains('Σ') {
        return Text::marked(&s.as_str().to_lowercase(), s.is_foreign()).with_markup(s.is_markup());
    }
    s.map_chars(|c, out| out.extend(c.to_lowercase()))
}

pub(super) fn upper(s: &Text) -> Text {
    s.map_chars(|c, out| out.extend(c.to_uppercase()))
}

/// The first character in upper case, the rest in lower case.
pub(super) fn capitalize(s: &Text) -> Text {
    let first = s.as_str().chars().next().map_or(0, char::len_utf8);
    let mut buf = TextBuf::default();
    buf.push(&upper(&s.slice(0, first)));
    buf.push(&lower(&s.slice(first, s.len())));
    buf.into_text().with_markup(s.is_markup())
}

/// Pads to a width in characters.
pub(super) fn pad(
    interp: &Interp,
    s: &Text,
    width: i128,
    fill: &Text,
    left_share: impl Fn(usize, usize) -> usize,
) -> Eval<Text> {
    let n = s.as_str().chars().count();
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    interp.check_size(width)?;
    interp.fuel.charge_bytes(s.len() + width)?;
    let total = width.saturating_sub(n);
    let left = left_share(total, width);
    let mut buf = TextBuf::default();
    (0..left).for_each(|_| buf.push(fill));
    buf.push(s);
    (left..total).for_each(|_| buf.push(fill));
    Ok(buf.into_text().with_markup(s.is_markup()))
}

/// Python's share of the padding on the left.
pub(super) fn center_share(total: usize, width: usize) -> usize {
    total / 2 + (total & width & 1)
}

/// Joins texts.
pub(super) fn join(interp: &Interp, separator: &Text, items: impl Iterator<Item = Text>) -> Eval<Text> {
    let mut buf = TextBuf::default();
    for (i, item) in items.enumerate() {
        interp.fuel.charge_bytes(item.len() + separator.len())?;
        if i > 0 {
            buf.push(separator);
        }
        buf.push(&item);
        interp.check_size(buf.len())?;
    }
    Ok(buf.into_text())
}

/// Python's `replace`; `count` below 0 is all.
pub(super) fn replace(interp: &Interp, s: &Text, old: &Text, new: &Text, count: i128) -> Eval<Text> {
    let mut buf = TextBuf::default();
    let mut at = 0;
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    for (found, _) in s.as_str().match_indices(old.as_str()).take(limit) {
        buf.push_slice(s, at, found);
        buf.push(new);
        at = found + old.len();
        interp.fuel.charge_bytes(new.len())?;
        interp.check_size(buf.len())?;
    }
    buf.push_slice(s, at, s.len());
    interp.check_size(buf.len())?;
    Ok(buf.into_text())
}

fn split_space(s: &Text, max: usize, from_right: bool) -> Vec<Text> {
    let raw = s.as_str();
    let mut words = Vec::new();
    let (mut start, mut end) = (0, raw.len());
    loop {
        let rest = &raw[start..end];
        if from_right {
            end = start + rest.trim_end_matches(is_space).len();
        } else {
            start += rest.len() - rest.trim_start_matches(is_space).len();
        }
        if start >= end {
            break;
        }
        let rest = &raw[start..end];
        if words.len() == max {
            // Only the side that is scanned from is trimmed, as in Python.
            words.push(s.slice(start, end));
            break;
        }
        if from_right {
            let at = rest
                .char_indices()
                .rev()
                .find(|(_, c)| is_space(*c))
                .map_or(start, |(i, c)| start + i + c.len_utf8());
            words.push(s.slice(at, end));
            end = at;
        } else {
            let at = rest.find(is_space).map_or(end, |i| start + i);
            words.push(s.slice(start, at));
            start = at;
        }
    }
    if from_right {
        words.reverse();
    }
    words
}

fn split(s: &Text, separator: &str, max: usize, from_right: bool) -> Vec<Text> {
    let raw = s.as_str();
    let n = separator.len();
    let mut cuts: Vec<usize> = if from_right {
        raw.rmatch_indices(separator).map(|(i, _)| i).take(max).collect()
    } else {
        raw.match_indices(separator).map(|(i, _)| i).take(max).collect()
    };
    if from_right {
        cuts.reverse();
    }
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    let mut at = 0;
    for cut in cuts {
        parts.push(s.slice(at, cut));
        at = cut + n;
    }
    parts.push(s.slice(at, raw.len()));
    parts
}

fn split_lines(s: &Text, keep_ends: bool) -> Vec<Text> {
    let raw = s.as_str();
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let end = raw[at..].find(is_end).map_or(raw.len(), |i| at + i);
        let n = match raw[end..].chars().next() {
            Some('\r') if raw[end..].starts_with("\r\n") => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(s.slice(at, if keep_ends { end + n } else { end }));
        at = end + n;
    }
    lines
}

/// Python's `str.title`.
fn title(s: &Text) -> Text {
    let mut inside = false;
    s.map_chars(|c, out| {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    })
}

impl Interp<'_> {
    pub fn method(&self, value: &Value, name: &str, call: Call) -> Eval<Value> {
        match value {
            Value::Str(s) if s.is_markup() => {
                // Text that goes into safe text is escaped, and what comes out is safe.
                let call = if matches!(name, "replace" | "join" | "format") {
                    self.escaped_call(name, call)?
                } else {
                    call
                };
                Ok(self.declared_safe(self.str_method(s, name, call)?))
            }
            Value::Str(s) => self.str_method(s, name, call),
            Value::List(l) => self.list_method(l, name, call),
            Value::Tuple(l) => self.list_method(l, name, call),
            Value::Dict(d) => self.dict_method(d, name, call),
            Value::Loop(l) if name == "changed" => {
                let mut last = l.last_changed.borrow_mut();
                let same = match &*last {
                    Some(old) if old.0.borrow().len() == call.positional.len() => {
                        let mut same = true;
                        for (a, b) in old.0.borrow().iter().zip(&call.positional) {
                            same &= a.equals(b, self.fuel)?;
                        }
                        same
                    }
                    _ => false,
                };
                *last = Some(self.list_obj(call.positional));
                Ok(Value::Bool(!same))
            }
            Value::Loop(l) => match call.positional.len() {
                0 => fail("no items for cycling given"),
                n => Ok(call.positional[l.at.get() % n].clone()),
            },
            Value::Cycler(c) => {
                let items = c.0.0.borrow();
                let at = c.1.get();
                c.1.set(if name == "next" { (at + 1) % items.len() } else { 0 });
                Ok(if name == "next" { items[at].clone() } else { Value::None })
            }
            Value::Float(f) => Ok(Value::Bool(f.fract() == 0.0)),
            other => fail(format!("'{}' object has no method {name}", other.type_name())),
        }
    }

    fn escaped_call(&self, name: &str, mut call: Call) -> Eval<Call> {
        let escape = |v: &Value| match v {
            Value::Str(s) => Value::Str(s.escaped()),
            other => other.clone(),
        };
        match name {
            "replace" => {
                if let Some(new) = call.positional.get_mut(1) {
                    *new = escape(new);
                }
            }
            "join" => {
                if let Some(items) = call.positional.first_mut() {
                    let escaped = self.iterate(items)?.iter().map(escape).collect();
                    *items = self.list(escaped);
                }
            }
            _ => {
                call.positional.iter_mut().for_each(|v| *v = escape(v));
                call.named.iter_mut().for_each(|(_, v)| *v = escape(v));
            }
        }
        Ok(call)
    }

    /// The same value with its texts declared safe.
    fn declared_safe(&self, value: Value) -> Value {
        let mark = |v: &Value| match v {
            Value::Str(s) => Value::Str(s.clone().with_markup(true)),
            other => other.clone(),
        };
        match &value {
            Value::List(l) => self.list(l.0.borrow().iter().map(mark).collect()),
            Value::Tuple(l) => self.tuple(l.0.borrow().iter().map(mark).collect()),
            other => mark(other),
        }
    }

    fn str_method(&self, s: &Text, name: &str, call: Call) -> Eval<Value> {
        self.fuel.charge_bytes(s.len())?;
        let raw = s.as_str();
        let text = |t: Text| Ok(Value::Str(t));
        let all = |f: fn(char) -> bool| Ok(Value::Bool(!raw.is_empty() && raw.chars().all(f)));
        match name {
            "upper" | "lower" | "casefold" | "capitalize" | "title" | "swapcase" => {
                call.bind::<0>(name, [])?;
                text(match name {
                    "upper" => upper(s),
                    "lower" | "casefold" => lower(s),
                    "capitalize" => capitalize(s),
                    "title" => title(s),
                    _ => s.map_chars(|c, out| {
                        if c.is_uppercase() {
                            out.extend(c.to_lowercase())
                        } else {
                            out.extend(c.to_uppercase())
                        }
                    }),
                })
            }
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = call.bind(name, ["chars"])?;
                let chars = match chars {
                    None | Some(Value::None) => None,
                    Some(v) => Some(text_arg(&v, name)?),
                };
                self.fuel.charge(chars.as_ref().map_or(0, |c| c.len() * s.len() / 256))?;
                let ends = match name {
                    "strip" => Ends::Both,
                    "lstrip" => Ends::Left,
                    _ => Ends::Right,
                };
                text(strip(s, chars.as_ref().map(Text::as_str), ends))
            }
            "split" | "rsplit" => {
                let [separator, max] = call.bind(name, ["sep", "maxsplit"])?;
                let max = usize::try_from(int_arg(max, -1, name)?).unwrap_or(usize::MAX);
                self.fuel.charge(s.len() / 8)?;
                let parts = match separator {
                    None | Some(Value::None) => split_space(s, max, name == "rsplit"),
                    Some(v) => {
                        let separator = text_arg(&v, name)?;
                        if separator.is_empty() {
                            return fail("empty separator");
                        }
                        split(s, separator.as_str(), max, name == "rsplit")
                    }
                };
                Ok(self.list(parts.into_iter().map(Value::Str).collect()))
            }
            "splitlines" => {
                let [keep] = call.bind(name, ["keepends"])?;
                self.fuel.charge(s.len() / 8)?;
                let lines = split_lines(s, keep.is_some_and(|v| v.truth()));
                Ok(self.list(lines.into_iter().map(Value::Str).collect()))
            }
            "partition" | "rpartition" => {
                let separator = text_arg(&one(call.bind(name, ["sep"])?, name)?, name)?;
                if separator.is_empty() {
                    return fail("empty separator");
                }
                let right = name == "rpartition";
                let found = if right { raw.rfind(separator.as_str()) } else { raw.find(separator.as_str()) };
                let empty = Text::own("");
                let parts = match found {
                    Some(i) => [s.slice(0, i), separator.clone(), s.slice(i + separator.len(), raw.len())],
                    None if right => [empty.clone(), empty, s.clone()],
                    None => [s.clone(), empty.clone(), empty],
                };
                Ok(self.tuple(parts.into_iter().map(Value::Str).collect()))
            }
            "startswith" | "endswith" => {
                let [affix, start, end] = call.bind(name, ["prefix", "start", "end"])?;
                let part = if start.is_some() || end.is_some() {
                    match self.slice(&Value::Str(s.clone()), start, end, None)? {
                        Value::Str(part) => part,
                        _ => unreachable!("a slice of a string is a string"),
                    }
                } else {
                    s.clone()
                };
                let test = |affix: &Value| {
                    let affix = text_arg(affix, name)?;
                    let (part, affix) = (part.as_str(), affix.as_str());
                    Ok(if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
                };
                match affix {
                    Some(Value::Tuple(affixes)) => {
                        for affix in affixes.0.borrow().iter() {
                            self.fuel.charge(1)?;
                            if test(affix)? {
                                return Ok(Value::Bool(true));
                            }
                        }
                        Ok(Value::Bool(false))
                    }
                    Some(affix) => test(&affix).map(Value::Bool),
                    None => fail(format!("{name} needs an argument")),
                }
            }
            "removeprefix" | "removesuffix" => {
                let affix = text_arg(&one(call.bind(name, ["affix"])?, name)?, name)?;
                let n = affix.len();
                text(match name {
                    "removeprefix" if raw.starts_with(affix.as_str()) => s.slice(n, raw.len()),
                    "removesuffix" if raw.ends_with(affix.as_str()) => s.slice(0, raw.len() - n),
                    _ => s.clone(),
                })
            }
            "replace" => {
                let [old, new, count] = call.bind(name, ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else { return fail("replace needs two arguments") };
                let count = int_arg(count, -1, name)?;
                text(replace(self, s, &text_arg(&old, name)?, &text_arg(&new, name)?, count)?)
            }
            "find" | "rfind" | "index" | "rindex" | "count" => {
                let [needle, start, end] = call.bind(name, ["sub", "start", "end"])?;
                let Some(needle) = needle else { return fail(format!("{name} needs an argument")) };
                let needle = text_arg(&needle, name)?;
                let n = raw.chars().count() as i128;
                let from = int_arg(start.clone().filter(|v| !matches!(v, Value::None)), 0, name)?;
                let from = (if from < 0 { from.saturating_add(n) } else { from }).clamp(0, n);
                let part = match self.slice(&Value::Str(s.clone()), start, end, None)? {
                    Value::Str(part) => part,
                    _ => unreachable!("a slice of a string is a string"),
                };
                let part = part.as_str();
                if name == "count" {
                    let n = if needle.is_empty() {
                        part.chars().count() + 1
                    } else {
                        part.matches(needle.as_str()).count()
                    };
                    return Ok(Value::Int(n as i128));
                }
                let found = if name.starts_with('r') {
                    part.rfind(needle.as_str())
                } else {
                    part.find(needle.as_str())
                };
                match found {
                    Some(i) => Ok(Value::Int(from + part[..i].chars().count() as i128)),
                    None if name.ends_with("index") => fail("substring not found"),
                    None => Ok(Value::Int(-1)),
                }
            }
            "join" => {
                let items = one(call.bind(name, ["iterable"])?, name)?;
                if items.is_undefined() {
                    return text(Text::own(""));
                }
                let items =
                    self.iterate(&items)?.iter().map(|v| text_arg(v, name)).collect::<Eval<Vec<_>>>()?;
                text(join(self, s, items.into_iter())?)
            }
            "format" => text(strfmt::format(self, s, &call)?),
            "center" | "ljust" | "rjust" => {
                let [width, fill] = call.bind(name, ["width", "fillchar"])?;
                let width = int_arg(width, 0, name)?;
                let fill = fill.map_or_else(|| Ok(Text::own(" ")), |f| text_arg(&f, name))?;
                if fill.as_str().chars().count() != 1 {
                    return fail("the fill character must be exactly one character long");
                }
                text(match name {
                    "center" => pad(self, s, width, &fill, center_share)?,
                    "ljust" => pad(self, s, width, &fill, |_, _| 0)?,
                    _ => pad(self, s, width, &fill, |total, _| total)?,
                })
            }
            "zfill" => {
                let [width] = call.bind(name, ["width"])?;
                let width = int_arg(width, 0, name)?;
                let sign = usize::from(raw.starts_with(['+', '-']));
                let mut buf = TextBuf::default();
                buf.push_slice(s, 0, sign);
                buf.push(&pad(
                    self,
                    &s.slice(sign, raw.len()),
                    width - sign as i128,
                    &Text::own("0"),
                    |total, _| total,
                )?);
                text(buf.into_text())
            }
            "expandtabs" => {
                let [size] = call.bind(name, ["tabsize"])?;
                let size = usize::try_from(int_arg(size, 8, name)?).unwrap_or(0).min(1 << 10);
                self.fuel.charge_bytes(raw.matches('\t').count() * size)?;
                let mut column = 0;
                text(s.map_chars(|c, out| match c {
                    '\t' => {
                        let n = if size == 0 { 0 } else { size - column % size };
                        out.extend(std::iter::repeat_n(' ', n));
                        column += n;
                    }
                    '\n' | '\r' => {
                        out.push(c);
                        column = 0;
                    }
                    c => {
                        out.push(c);
                        column += 1;
                    }
                }))
            }
            "isalpha" => all(char::is_alphabetic),
            "isalnum" => all(char::is_alphanumeric),
            "isdecimal" => all(|c| c.is_ascii_digit()),
            "isdigit" => {
                all(|c| c.is_ascii_digit() || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉'))
            }
            "isnumeric" => all(char::is_numeric),
            "isspace" => all(is_space),
            "isascii" => Ok(Value::Bool(raw.is_ascii())),
            "islower" => {
                super::tests::run(self, "lower", &Value::Str(s.clone()), Vec::new()).map(Value::Bool)
            }
            "isupper" => {
                super::tests::run(self, "upper", &Value::Str(s.clone()), Vec::new()).map(Value::Bool)
            }
            "istitle" => Ok(Value::Bool(raw.chars().any(char::is_alphabetic) && title(s) == *s)),
            _ => fail(format!("'str' object has no method {name}")),
        }
    }

    fn list_method(&self, list: &std::rc::Rc<ListObj>, name: &str, call: Call) -> Eval<Value> {
        let n = list.0.borrow().len();
        self.fuel.charge(1 + n / 16)?;
        match name {
            "append" => {
                let item = one(call.bind(name, ["object"])?, name)?;
                list.0.borrow_mut().push(item);
                Ok(Value::None)
            }
            "extend" => {
                let more = one(call.bind(name, ["iterable"])?, name)?;
                let more = self.iterate(&more)?;
                list.0.borrow_mut().extend(more);
                Ok(Value::None)
            }
            "insert" => {
                let [index, item] = call.bind(name, ["index", "object"])?;
                let Some(item) = item else { return fail("insert needs two arguments") };
                let index = int_arg(index, 0, name)?;
                let index =
                    (if index < 0 { index.saturating_add(n as i128) } else { index }).clamp(0, n as i128);
                list.0.borrow_mut().insert(index as usize, item);
                Ok(Value::None)
            }
            "pop" => {
                let [index] = call.bind(name, ["index"])?;
                let index = int_arg(index, -1, name)?;
                let index = if index < 0 { index.saturating_add(n as i128) } else { index };
                match usize::try_from(index) {
                    Ok(i) if i < n => Ok(list.0.borrow_mut().remove(i)),
                    _ => fail(if n == 0 { "pop from empty list" } else { "pop index out of range" }),
                }
            }
            "remove" | "index" | "count" => {
                let wanted = one(call.bind(name, ["value"])?, name)?;
                let mut count = 0;
                for i in 0..n {
                    let item = list.0.borrow()[i].clone();
                    if item.equals(&wanted, self.fuel)? {
                        count += 1;
                        if name == "index" {
                            return Ok(Value::Int(i as i128));
                        }
                        if name == "remove" {
                            let _removed = list.0.borrow_mut().remove(i);
                            return Ok(Value::None);
                        }
                    }
                }
                if name == "count" { Ok(Value::Int(count)) } else { fail("the value is not in the list") }
            }
            "clear" => {
                let _old = std::mem::take(&mut *list.0.borrow_mut());
                Ok(Value::None)
            }
            "copy" => {
                let items = list.0.borrow().clone();
                Ok(self.list(items))
            }
            "reverse" => {
                list.0.borrow_mut().reverse();
                Ok(Value::None)
            }
            "sort" => {
                let [reverse] = call.bind(name, ["reverse"])?;
                let mut items = list.0.borrow().clone();
                let reverse = reverse.is_some_and(|v| v.truth());
                self.sort_stable(&mut items, reverse, |v| Ok(v.clone()))?;
                *list.0.borrow_mut() = items;
                Ok(Value::None)
            }
            _ => fail(format!("'list' object has no method {name}")),
        }
    }

    fn dict_method(&self, dict: &std::rc::Rc<DictObj>, name: &str, call: Call) -> Eval<Value> {
        match name {
            "items" | "keys" | "values" => {
                call.bind::<0>(name, [])?;
                let view = match name {
                    "items" => View::Items,
                    "keys" => View::Keys,
                    _ => View::Values,
                };
                Ok(Value::View(view, dict.clone()))
            }
            "get" | "pop" | "setdefault" => {
                let [key, default] = call.bind(name, ["key", "default"])?;
                let Some(key) = key else { return fail(format!("{name} needs an argument")) };
                let hash = key.key(self.fuel)?;
                let found = dict.0.borrow().get(&hash).map(|(_, v)| v.clone());
                match (name, found, default) {
                    ("pop", Some(value), _) => {
                        self.fuel.charge(dict.0.borrow().len() / 16)?;
                        let _removed = dict.0.borrow_mut().shift_remove(&hash);
                        Ok(value)
                    }
                    (_, Some(value), _) => Ok(value),
                    ("pop", None, None) => fail("the key is not in the dict"),
                    ("setdefault", None, default) => {
                        let value = default.unwrap_or(Value::None);
                        self.insert(dict, key, value.clone())?;
                        Ok(value)
                    }
                    (_, None, default) => Ok(default.unwrap_or(Value::None)),
                }
            }
            "update" => {
                let more = self.call(&Value::Func(super::value::Func::Dict), call)?;
                if let Value::Dict(more) = more {
                    let entries: Vec<(Value, Value)> = more.0.borrow().values().cloned().collect();
                    for (key, value) in entries {
                        self.insert(dict, key, value)?;
                    }
                }
                Ok(Value::None)
            }
            "popitem" => match dict.0.borrow_mut().pop() {
                Some((_, (key, value))) => Ok(self.tuple(vec![key, value])),
                None => fail("popitem(): dictionary is empty"),
            },
            "clear" => {
                let _old = std::mem::take(&mut *dict.0.borrow_mut());
                Ok(Value::None)
            }
            "copy" => {
                let entries: Vec<(Value, Value)> = dict.0.borrow().values().cloned().collect();
                self.dict(entries)
            }
            _ => fail(format!("'dict' object has no method {name}")),
        }
    }

    /// Python's `sorted(..., reverse=...)`: equal items keep their order either way.
    pub fn sort_stable(
        &self,
        items: &mut Vec<Value>,
        reverse: bool,
        key: impl Fn(&Value) -> Eval<Value>,
    ) -> Eval<()> {
        if reverse {
            items.reverse();
        }
        self.sort_by_key(items, key)?;
        if reverse {
            items.reverse();
        }
        Ok(())
    }
}
