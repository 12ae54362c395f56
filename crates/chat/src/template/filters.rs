//! The filters that templates may use. This list is all there is: nothing here reaches beyond the values it is given.

use indexmap::IndexMap;

use super::ast::ArithOp;
use super::eval::{Call, Interp};
use super::json::JsonStyle;
use super::lexer::is_space;
use super::methods::{Ends, capitalize, center_share, join, lower, pad, replace, strip, upper};
use super::numbers::{parse_float, parse_int, round};
use super::strfmt;
use super::tests;
use super::text::{Text, TextBuf};
use super::value::{Eval, Key, Value, View, fail};

/// Every filter.
pub(super) const FILTERS: [&str; 51] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
];

/// Whether there is such a filter.
pub(super) fn is_known(name: &str) -> bool {
    FILTERS.contains(&name)
}

fn int_or(value: &Option<Value>, default: i128) -> Eval<i128> {
    match value {
        None => Ok(default),
        Some(v) => match v.as_int() {
            Some(i) => Ok(i),
            None => fail(format!("expected an integer, got {}", v.type_name())),
        },
    }
}

fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::truth)
}

impl Interp<'_> {
    /// `value | name(call)`
    pub fn filter(&self, name: &str, value: Value, call: Call) -> Eval<Value> {
        self.nested(|interp| interp.apply(name, value, call))
    }

    fn apply(&self, name: &str, value: Value, call: Call) -> Eval<Value> {
        if let Value::Str(s) = &value {
            self.fuel.charge_bytes(s.len())?;
        }
        let text = || value.to_text(self.fuel);
        let ok = |t: Text| Ok(Value::Str(t));
        match name {
            "upper" | "lower" | "capitalize" | "string" | "safe" | "title" | "striptags" | "e" | "escape"
            | "forceescape" | "wordcount" | "pprint" => {
                call.bind::<0>(name, [])?;
                let s = text()?;
                self.fuel.charge_bytes(s.len())?;
                match name {
                    "upper" => ok(upper(&s)),
                    "lower" => ok(lower(&s)),
                    "capitalize" => ok(capitalize(&s)),
                    "title" => ok(title(&s)),
                    "striptags" => ok(strip_tags(&s)),
                    "wordcount" => Ok(Value::Int(word_count(s.as_str()))),
                    "pprint" => {
                        let mut shown = TextBuf::default();
                        value.write_repr(&mut shown, self.fuel, 0)?;
                        ok(shown.into_text())
                    }
                    "string" => ok(s),
                    "safe" => ok(s.with_markup(true)),
                    "forceescape" => ok(s.force_escaped()),
                    _ => ok(s.escaped()),
                }
            }
            "trim" => {
                let [chars] = call.bind(name, ["chars"])?;
                let chars =
                    chars.filter(|v| !matches!(v, Value::None)).map(|v| v.to_text(self.fuel)).transpose()?;
                let s = text()?;
                self.fuel.charge(chars.as_ref().map_or(0, |c| c.len() * s.len() / 256))?;
                ok(strip(&s, chars.as_ref().map(Text::as_str), Ends::Both))
            }
            "default" | "d" => {
                let [default, boolean] = call.bind(name, ["default_value", "boolean"])?;
                let replace = value.is_undefined() || (flag(&boolean) && !value.truth());
                Ok(if replace { default.unwrap_or_else(|| Value::own("")) } else { value })
            }
            "length" | "count" => value.length().map(|n| Value::Int(n as i128)),
            "list" => {
                let items = self.iterate(&value)?;
                Ok(self.list(items))
            }
            "first" | "last" => {
                let found = match (&value, name) {
                    (Value::Str(s), "first") => {
                        s.as_str().chars().next().map(|c| Value::Str(s.slice(0, c.len_utf8())))
                    }
                    (Value::Str(s), _) => s
                        .as_str()
                        .chars()
                        .next_back()
                        .map(|c| Value::Str(s.slice(s.len() - c.len_utf8(), s.len()))),
                    (Value::List(l) | Value::Tuple(l), "first") => l.0.borrow().first().cloned(),
                    (Value::List(l) | Value::Tuple(l), _) => l.0.borrow().last().cloned(),
                    (Value::Generator(_), "last") => return fail("'generator' object is not reversible"),
                    (_, "first") => self.iterate(&value)?.into_iter().next(),
                    _ => self.iterate(&value)?.pop(),
                };
                Ok(found.unwrap_or_else(|| Value::undefined("No item: the sequence was empty")))
            }
            "items" => match &value {
                Value::Undefined(_) => Ok(self.generator(Vec::new())),
                Value::Dict(d) => {
                    let items = self.items_of(d)?;
                    Ok(self.generator(items))
                }
                _ => fail("Can only get item pairs from a mapping."),
            },
            "join" => {
                let [separator, attribute] = call.bind(name, ["d", "attribute"])?;
                let separator = separator.map_or_else(|| Ok(Text::own("")), |s| s.to_text(self.fuel))?;
                let mut items = self.iterate(&value)?;
                if let Some(attribute) = attribute.filter(|a| !matches!(a, Value::None)) {
                    items =
                        items.iter().map(|v| self.by_attribute(v, &attribute, None)).collect::<Eval<_>>()?;
                }
                let items = items.iter().map(|v| v.to_text(self.fuel)).collect::<Eval<Vec<_>>>()?;
                ok(join(self, &separator, items.into_iter())?)
            }
            "replace" => {
                let [old, new, count] = call.bind(name, ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else { return fail("replace needs two arguments") };
                let count = count.filter(|c| !matches!(c, Value::None));
                ok(replace(
                    self,
                    &text()?,
                    &old.to_text(self.fuel)?,
                    &new.to_text(self.fuel)?,
                    int_or(&count, -1)?,
                )?)
            }
            "tojson" => self.to_json(&value, call),
            "indent" => self.indent(&text()?, call),
            "int" => {
                let [default, base] = call.bind(name, ["default", "base"])?;
                let default = default.unwrap_or(Value::Int(0));
                let base = int_or(&base, 10)?;
                Ok(match &value {
                    Value::Str(s) => match parse_int(s.as_str(), base) {
                        Some(i) => Value::Int(i),
                        None => match parse_float(s.as_str()) {
                            Some(f) if f.is_finite() => Value::Int(f as i128),
                            _ => default,
                        },
                    },
                    Value::Float(f) if f.is_finite() => Value::Int(*f as i128),
                    Value::Undefined(what) => return fail(format!("{what} is undefined")),
                    other => other.as_int().map_or(default, Value::Int),
                })
            }
            "float" => {
                let [default] = call.bind(name, ["default"])?;
                let default = default.unwrap_or(Value::Float(0.0));
                Ok(match &value {
                    Value::Str(s) => parse_float(s.as_str()).map_or(default, Value::Float),
                    Value::Undefined(what) => return fail(format!("{what} is undefined")),
                    other => other.as_float().map_or(default, Value::Float),
                })
            }
            "abs" => match &value {
                Value::Float(f) => Ok(Value::Float(f.abs())),
                other => match other.as_int() {
                    Some(i) => Ok(Value::Int(i.saturating_abs())),
                    None => fail(format!("bad operand type for abs(): '{}'", other.type_name())),
                },
            },
            "round" => {
                let [precision, method] = call.bind(name, ["precision", "method"])?;
                let method = method.map_or_else(|| Ok(Text::own("common")), |m| m.to_text(self.fuel))?;
                round(&value, int_or(&precision, 0)?, method.as_str())
            }
            "format" => {
                if !call.named.is_empty() {
                    if !call.positional.is_empty() {
                        return fail("can't handle positional and keyword arguments at the same time");
                    }
                    let entries = call.named.into_iter().map(|(n, v)| (Value::own(&n), v)).collect();
                    return ok(strfmt::percent(self, &text()?, &self.dict(entries)?)?);
                }
                ok(strfmt::percent(self, &text()?, &self.tuple(call.positional))?)
            }
            "center" => {
                let [width] = call.bind(name, ["width"])?;
                ok(pad(self, &text()?, int_or(&width, 80)?, &Text::own(" "), center_share)?)
            }
            "truncate" => self.truncate(&text()?, call),
            "wordwrap" => self.wordwrap(&text()?, call),
            "urlencode" => self.urlencode(&value),
            "filesizeformat" => file_size(&value, flag(&call.bind::<1>(name, ["binary"])?[0])),
            "attr" => {
                let [attr] = call.bind(name, ["name"])?;
                let attr = attr.unwrap_or(Value::None).to_text(self.fuel)?;
                // Attributes only, never items.
                if let Value::Dict(_) = &value
                    && !super::methods::has(&value, attr.as_str())
                {
                    return Ok(Value::undefined("no such attribute"));
                }
                self.attr(&value, attr.as_str())
            }
            _ => self.apply_to_sequence(name, value, call),
        }
    }

    fn apply_to_sequence(&self, name: &str, value: Value, call: Call) -> Eval<Value> {
        match name {
            "reverse" => match &value {
                Value::Str(_) => self.slice(&value, None, None, Some(Value::Int(-1))),
                _ => {
                    let mut items = self.iterate(&value)?;
                    items.reverse();
                    Ok(self.generator(items))
                }
            },
            "map" => self.map_filter(&value, call),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, call),
            "sort" => {
                let [reverse, case, attribute] =
                    call.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                let mut items = self.iterate(&value)?;
                let key = |v: &Value| self.sort_key(v, attribute.as_ref(), !flag(&case));
                self.sort_stable(&mut items, flag(&reverse), key)?;
                Ok(self.list(items))
            }
            "min" | "max" => {
                let [case, attribute] = call.bind(name, ["case_sensitive", "attribute"])?;
                let attribute = attribute.filter(|a| !matches!(a, Value::None));
                let mut best: Option<(Value, Value)> = None;
                for item in self.iterate(&value)? {
                    let mut key = match &attribute {
                        Some(a) => self.by_attribute(&item, a, None)?,
                        None => item.clone(),
                    };
                    if !flag(&case) {
                        key = ignore_case(key);
                    }
                    let better = match &best {
                        None => true,
                        Some((old, _)) if name == "min" => {
                            key.compare(old, self.fuel)?.is_some_and(|o| o.is_lt())
                        }
                        Some((old, _)) => key.compare(old, self.fuel)?.is_some_and(|o| o.is_gt()),
                    };
                    if better {
                        best = Some((key, item));
                    }
                }
                Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |b| b.1))
            }
            "sum" => {
                let [attribute, start] = call.bind(name, ["attribute", "start"])?;
                let attribute = attribute.filter(|a| !matches!(a, Value::None));
                let mut total = start.unwrap_or(Value::Int(0));
                for item in self.iterate(&value)? {
                    let item = match &attribute {
                        Some(a) => self.by_attribute(&item, a, None)?,
                        None => item,
                    };
                    if matches!(total, Value::Str(_)) {
                        return fail("sum() can't sum strings [use ''.join(seq) instead]");
                    }
                    total = self.arith(ArithOp::Add, total, item)?;
                }
                Ok(total)
            }
            "unique" => {
                let [case, attribute] = call.bind(name, ["case_sensitive", "attribute"])?;
                let mut seen: IndexMap<Key, ()> = IndexMap::new();
                let mut kept = Vec::new();
                for item in self.iterate(&value)? {
                    let mut key = match &attribute {
                        Some(a) if !matches!(a, Value::None) => self.by_attribute(&item, a, None)?,
                        _ => item.clone(),
                    };
                    if !flag(&case) {
                        key = ignore_case(key);
                    }
                    if seen.insert(key.key(self.fuel)?, ()).is_none() {
                        kept.push(item);
                    }
                }
                Ok(self.generator(kept))
            }
            "groupby" => self.groupby(&value, call),
            "dictsort" => self.dictsort(&value, call),
            "batch" => {
                let [count, fill] = call.bind(name, ["linecount", "fill_with"])?;
                let count = int_or(&count, 0)?.max(1) as usize;
                let mut rows = Vec::new();
                for row in self.iterate(&value)?.chunks(count) {
                    let mut row = row.to_vec();
                    if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None)) {
                        self.fuel.charge(count - row.len())?;
                        row.resize(count, fill.clone());
                    }
                    rows.push(self.list(row));
                }
                Ok(self.generator(rows))
            }
            "slice" => {
                let [slices, fill] = call.bind(name, ["slices", "fill_with"])?;
                let slices = int_or(&slices, 0)?;
                if slices <= 0 {
                    return fail("slice needs a positive number of slices");
                }
                let slices = usize::try_from(slices).unwrap_or(usize::MAX);
                self.fuel.charge(slices)?;
                let items = self.iterate(&value)?;
                let (each, extra) = (items.len() / slices, items.len() % slices);
                let mut columns = Vec::new();
                let mut at = 0;
                for i in 0..slices {
                    let n = each + usize::from(i < extra);
                    let mut column = items[at..at + n].to_vec();
                    at += n;
                    if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None))
                        && i >= extra
                    {
                        column.push(fill.clone());
                    }
                    columns.push(self.list(column));
                }
                Ok(self.generator(columns))
            }
            _ => fail(format!("there is no filter `{name}`")),
        }
    }

    /// What `attribute="a.b.0"` of a filter means: items (or attributes) one after another.
    fn by_attribute(&self, value: &Value, attribute: &Value, default: Option<&Value>) -> Eval<Value> {
        let Value::Str(path) = attribute else {
            let found = self.item(value, attribute)?;
            return Ok(match default {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            });
        };
        let mut value = value.clone();
        for part in path.as_str().split('.') {
            let is_index = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let key = match part.parse::<i64>() {
                Ok(i) if is_index => Value::Int(i.into()),
                _ => Value::own(part),
            };
            value = self.item(&value, &key)?;
            if let Some(default) = default
                && value.is_undefined()
            {
                value = default.clone();
            }
        }
        Ok(value)
    }

    fn sort_key(&self, value: &Value, attribute: Option<&Value>, any_case: bool) -> Eval<Value> {
        let fold = |v| if any_case { ignore_case(v) } else { v };
        match attribute {
            None | Some(Value::None) => Ok(fold(value.clone())),
            Some(Value::Str(s)) if s.as_str().contains(',') => {
                let mut keys = Vec::new();
                for part in s.as_str().split(',') {
                    keys.push(fold(self.by_attribute(value, &Value::own(part), None)?));
                }
                Ok(self.list(keys))
            }
            Some(a) => Ok(fold(self.by_attribute(value, a, None)?)),
        }
    }

    fn map_filter(&self, value: &Value, mut call: Call) -> Eval<Value> {
        // As in Jinja, whatever is not true has no items, iterable or not.
        if !value.truth() {
            return Ok(self.generator(Vec::new()));
        }
        let items = self.iterate(value)?;
        let attribute =
            call.named.iter().position(|(n, _)| &**n == "attribute").map(|i| call.named.remove(i).1);
        let mut mapped = Vec::with_capacity(items.len());
        if call.positional.is_empty()
            && let Some(attribute) = attribute
        {
            let default =
                call.named.iter().position(|(n, _)| &**n == "default").map(|i| call.named.remove(i).1);
            if let Some((name, _)) = call.named.first() {
                return fail(format!("Unexpected keyword argument '{name}'"));
            }
            for item in &items {
                mapped.push(self.by_attribute(item, &attribute, default.as_ref())?);
            }
        } else {
            if call.positional.is_empty() {
                return fail("map requires a filter argument");
            }
            let name = call.positional.remove(0).to_text(self.fuel)?;
            for item in items {
                let again = Call { positional: call.positional.clone(), named: call.named.clone() };
                mapped.push(self.filter(name.as_str(), item, again)?);
            }
        }
        Ok(self.generator(mapped))
    }

    fn select(&self, name: &str, value: &Value, mut call: Call) -> Eval<Value> {
        if !value.truth() {
            return Ok(self.generator(Vec::new()));
        }
        let items = self.iterate(value)?;
        let wanted = name.starts_with("select");
        let attribute = if name.ends_with("attr") {
            if call.positional.is_empty() {
                return fail(format!("{name} needs an attribute"));
            }
            Some(call.positional.remove(0))
        } else {
            None
        };
        let test = if call.positional.is_empty() {
            None
        } else {
            Some(call.positional.remove(0).to_text(self.fuel)?)
        };
        let mut kept = Vec::new();
        for item in items {
            let subject = match &attribute {
                Some(a) => self.by_attribute(&item, a, None)?,
                None => item.clone(),
            };
            let passes = match &test {
                Some(test) => {
                    self.fuel.charge(1)?;
                    tests::run(self, test.as_str(), &subject, call.positional.clone())?
                }
                None => subject.truth(),
            };
            if passes == wanted {
                kept.push(item);
            }
        }
        Ok(self.generator(kept))
    }

    fn groupby(&self, value: &Value, call: Call) -> Eval<Value> {
        let [attribute, default, case] = call.bind("groupby", ["attribute", "default", "case_sensitive"])?;
        let Some(attribute) = attribute else { return fail("groupby needs an attribute") };
        let mut items = self.iterate(value)?;
        let fold = |v| if flag(&case) { v } else { ignore_case(v) };
        let raw_key = |v: &Value| self.by_attribute(v, &attribute, default.as_ref());
        self.sort_by_key(&mut items, |v| Ok(fold(raw_key(v)?)))?;
        let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
        for item in items {
            let shown = raw_key(&item)?;
            let key = fold(shown.clone());
            match groups.last_mut() {
                Some((last, _, group)) if last.equals(&key, self.fuel)? => group.push(item),
                _ => groups.push((key, shown, vec![item])),
            }
        }
        let groups =
            groups.into_iter().map(|(_, shown, group)| self.tuple(vec![shown, self.list(group)])).collect();
        Ok(self.list(groups))
    }

    fn dictsort(&self, value: &Value, call: Call) -> Eval<Value> {
        let [case, by, reverse] = call.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let (Value::Dict(d) | Value::View(View::Items, d)) = value else {
            return fail(format!("'{}' object has no attribute 'items'", value.type_name()));
        };
        let by_value = match by.map(|b| b.to_text(self.fuel)).transpose()?.as_ref().map(Text::as_str) {
            None | Some("key") => false,
            Some("value") => true,
            Some(_) => return fail("You can only sort by either \"key\" or \"value\""),
        };
        let mut items = self.items_of(d)?;
        self.sort_stable(&mut items, flag(&reverse), |pair| {
            let key = self.item(pair, &Value::Int(by_value.into()))?;
            Ok(if flag(&case) { key } else { ignore_case(key) })
        })?;
        Ok(self.list(items))
    }

    fn to_json(&self, value: &Value, call: Call) -> Eval<Value> {
        let [ensure_ascii, indent, separators, sort_keys] =
            call.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(s)) => Some(s.as_str().to_owned()),
            other => {
                Some(" ".repeat(usize::try_from(int_or(&other, 0)?.clamp(0, 1 << 10)).expect("clamped")))
            }
        };
        let (item_separator, key_separator) = match separators {
            None | Some(Value::None) => {
                (Text::own(if indent.is_some() { "," } else { ", " }), Text::own(": "))
            }
            Some(pair) => match self.iterate(&pair)?.as_slice() {
                [Value::Str(a), Value::Str(b)] => (a.clone(), b.clone()),
                _ => return fail("separators must be a pair of strings"),
            },
        };
        let style = JsonStyle {
            ensure_ascii: flag(&ensure_ascii),
            indent,
            item_separator,
            key_separator,
            sort_keys: flag(&sort_keys),
        };
        let mut buf = TextBuf::default();
        self.write_json(value, &style, 0, &mut buf)?;
        Ok(Value::Str(buf.into_text()))
    }

    fn indent(&self, s: &Text, call: Call) -> Eval<Value> {
        let [width, first, blank] = call.bind("indent", ["width", "first", "blank"])?;
        let indention = match width {
            Some(Value::Str(s)) => s,
            other => {
                let width = usize::try_from(int_or(&other, 4)?.max(0)).unwrap_or(usize::MAX);
                self.check_size(width)?;
                Text::own(&" ".repeat(width))
            }
        };
        let lines = s.as_str().matches('\n').count() + 1;
        self.fuel.charge_bytes(lines.saturating_mul(indention.len() + 1))?;
        self.check_size(lines.saturating_mul(indention.len()))?;
        let mut buf = TextBuf::default();
        let mut at = 0;
        for (i, line) in s.as_str().split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if i > 0 {
                buf.push_own("\n");
            }
            if if i == 0 { flag(&first) } else { flag(&blank) || !line.is_empty() } {
                buf.push(&indention);
            }
            buf.push_slice(s, at, at + line.len());
            at += line.len() + if s.as_str()[at + line.len()..].starts_with("\r\n") { 2 } else { 1 };
        }
        Ok(Value::Str(buf.into_text().with_markup(s.is_markup())))
    }

    fn truncate(&self, s: &Text, call: Call) -> Eval<Value> {
        let [length, kill, end, leeway] = call.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let length = int_or(&length, 255)?;
        let leeway = int_or(&leeway.filter(|l| !matches!(l, Value::None)), 5)?;
        let end = end.map_or_else(|| Ok(Text::own("...")), |e| e.to_text(self.fuel))?;
        let end_chars = end.as_str().chars().count() as i128;
        if length < end_chars || leeway < 0 {
            return fail("truncate: the length must hold the end, the leeway must not be negative");
        }
        let n = s.as_str().chars().count() as i128;
        if n <= length.saturating_add(leeway) {
            return Ok(Value::Str(s.clone()));
        }
        let keep = (length - end_chars) as usize;
        let mut cut = s.as_str().char_indices().nth(keep).map_or(s.len(), |(at, _)| at);
        if !flag(&kill)
            && let Some(space) = s.as_str()[..cut].rfind(' ')
        {
            cut = space;
        }
        let mut buf = TextBuf::default();
        buf.push_slice(s, 0, cut);
        buf.push(&end);
        Ok(Value::Str(buf.into_text()))
    }

    /// Greedy wrapping at white space and, for long words, within them.
    fn wordwrap(&self, s: &Text, call: Call) -> Eval<Value> {
        let [width, break_long, wrapstring, _hyphens] =
            call.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
        let width = usize::try_from(int_or(&width, 79)?.max(1)).unwrap_or(usize::MAX);
        let break_long = break_long.is_none_or(|b| b.truth());
        let wrap = wrapstring.map_or_else(|| Ok(Text::own("\n")), |w| w.to_text(self.fuel))?;
        self.fuel.charge(s.len())?;
        let mut lines: Vec<Text> = Vec::new();
        let raw = s.as_str();
        let mut line_at = 0;
        for line in raw.lines() {
            let mut current: Option<(usize, usize, usize)> = None;
            let mut at = 0;
            while at < line.len() {
                let rest = &line[at..];
                let spaces = rest.len() - rest.trim_start_matches(is_space).len();
                let word = rest[spaces..].find(is_space).unwrap_or(rest.len() - spaces);
                let (mut from, to) = (at + spaces, at + spaces + word);
                at = to;
                if word == 0 {
                    break;
                }
                let chars = line[from..to].chars().count();
                current = match current {
                    Some((a, _, n)) if n + spaces + chars <= width => Some((a, to, n + spaces + chars)),
                    previous => {
                        if let Some((a, b, _)) = previous {
                            lines.push(s.slice(line_at + a, line_at + b));
                        }
                        let mut left = chars;
                        while break_long && left > width {
                            let cut = line[from..to].char_indices().nth(width).map_or(to, |(i, _)| from + i);
                            lines.push(s.slice(line_at + from, line_at + cut));
                            from = cut;
                            left -= width;
                        }
                        Some((from, to, left))
                    }
                };
            }
            match current {
                Some((a, b, _)) => lines.push(s.slice(line_at + a, line_at + b)),
                None => lines.push(Text::own("")),
            }
            line_at += line.len();
            line_at += if raw[line_at..].starts_with("\r\n") { 2 } else { 1 };
        }
        Ok(Value::Str(join(self, &wrap, lines.into_iter())?))
    }

    fn urlencode(&self, value: &Value) -> Eval<Value> {
        let quote = |s: &Text, plus: bool| {
            s.map_chars(|c, out| {
                let mut utf8 = [0; 4];
                for b in c.encode_utf8(&mut utf8).bytes() {
                    match b {
                        b'/' if !plus => out.push('/'),
                        b' ' if plus => out.push('+'),
                        b if b.is_ascii_alphanumeric() || b"_.-~".contains(&b) => out.push(char::from(b)),
                        b => out.push_str(&format!("%{b:02X}")),
                    }
                }
            })
        };
        let pairs = match value {
            Value::Dict(d) => self.items_of(d)?,
            Value::List(_) | Value::Tuple(_) => self.iterate(value)?,
            other => return Ok(Value::Str(quote(&other.to_text(self.fuel)?, false))),
        };
        let mut parts = Vec::new();
        for pair in pairs {
            let pair = self.iterate(&pair)?;
            let [key, value] = pair.as_slice() else { return fail("urlencode takes pairs") };
            let mut buf = TextBuf::default();
            buf.push(&quote(&key.to_text(self.fuel)?, true));
            buf.push_own("=");
            buf.push(&quote(&value.to_text(self.fuel)?, true));
            parts.push(buf.into_text());
        }
        Ok(Value::Str(join(self, &Text::own("&"), parts.into_iter())?))
    }
}

fn ignore_case(value: Value) -> Value {
    match value {
        Value::Str(s) => Value::Str(lower(&s)),
        other => other,
    }
}

/// Jinja's title: words start after a dash, white space or an opening bracket.
fn title(s: &Text) -> Text {
    let mut start = true;
    s.map_chars(|c, out| {
        let separator = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        if start && !separator {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        start = separator;
    })
}

fn word_count(s: &str) -> i128 {
    s.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|w| !w.is_empty()).count() as i128
}

fn strip_tags(s: &Text) -> Text {
    let mut buf = TextBuf::default();
    let raw = s.as_str();
    let mut at = 0;
    while let Some(open) = raw[at..].find('<').map(|i| at + i) {
        let Some(close) = raw[open..].find('>').map(|i| open + i) else { break };
        buf.push_slice(s, at, open);
        at = close + 1;
    }
    buf.push_slice(s, at, raw.len());
    let kept = buf.into_text();
    // White space collapses to single spaces.
    let mut out = TextBuf::default();
    let mut from = 0;
    for word in kept.as_str().split(is_space) {
        if !word.is_empty() {
            if !out.is_empty() {
                out.push_own(" ");
            }
            out.push_slice(&kept, from, from + word.len());
        }
        from += word.len();
        from += kept.as_str()[from..].chars().next().map_or(0, char::len_utf8);
    }
    out.into_text()
}

fn file_size(value: &Value, binary: bool) -> Eval<Value> {
    let bytes = match value {
        Value::Str(s) => parse_float(s.as_str()),
        other => other.as_float(),
    };
    let Some(bytes) = bytes else { return fail("filesizeformat takes a number") };
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::own("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::own(&format!("{} Bytes", bytes as i128)));
    }
    let units = if binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    let mut unit = base;
    for (i, name) in units.iter().enumerate() {
        unit *= base;
        if bytes < unit || i + 1 == units.len() {
            return Ok(Value::own(&format!("{:.1} {name}", base * bytes / unit)));
        }
    }
    unreachable!("the last unit returns")
}
