//! JSON in and out of template values, written as Python's `json.dumps` writes it.

use serde_json::Value as Json;

use super::eval::Interp;
use super::text::{Text, TextBuf};
use super::value::{Eval, Value, fail, float_repr};

/// How a `tojson` was asked to write.
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// One level's indentation; `None` is one line.
    pub indent: Option<String>,
    pub item_separator: Text,
    pub key_separator: Text,
    pub sort_keys: bool,
}

impl Interp<'_> {
    /// A template value of a JSON value; its strings are foreign or not.
    pub fn json_value(&self, json: &Json, foreign: bool) -> Eval<Value> {
        self.fuel.charge(1)?;
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i.into()),
                (_, Some(u)) => Value::Int(u.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::Str(Text::marked(s, foreign)),
            Json::Array(items) => self
                .list(items.iter().map(|v| self.nested(|i| i.json_value(v, foreign))).collect::<Eval<_>>()?),
            Json::Object(map) => {
                let mut entries = Vec::with_capacity(map.len());
                for (key, value) in map {
                    entries.push((
                        Value::Str(Text::marked(key, foreign)),
                        self.nested(|i| i.json_value(value, foreign))?,
                    ));
                }
                self.dict(entries)?
            }
        })
    }

    /// Appends JSON.
    pub fn write_json(&self, value: &Value, style: &JsonStyle, level: usize, out: &mut TextBuf) -> Eval<()> {
        self.fuel.charge(1 + out.len() / (1 << 22))?;
        self.nested(|interp| interp.write_json_here(value, style, level, out))
    }

    fn write_json_here(&self, value: &Value, style: &JsonStyle, level: usize, out: &mut TextBuf) -> Eval<()> {
        let newline = |out: &mut TextBuf, level: usize| {
            if let Some(indent) = &style.indent {
                out.push_own("\n");
                for _ in 0..level {
                    out.push_own(indent);
                }
            }
        };
        if let Some(indent) = &style.indent {
            self.fuel.charge_bytes(indent.len() * level)?;
        }
        let escapes = |c| style.ensure_ascii && !(' '..='~').contains(&c);
        match value {
            Value::None => out.push_own("null"),
            Value::Bool(b) => out.push_own(if *b { "true" } else { "false" }),
            Value::Int(i) => out.push_own(&i.to_string()),
            Value::Float(f) => out.push_own(&json_float(*f)),
            Value::Str(s) => {
                self.fuel.charge_bytes(s.len())?;
                write_string(s, escapes, out);
            }
            Value::List(l) | Value::Tuple(l) => {
                let items = l.0.borrow();
                if items.is_empty() {
                    out.push_own("[]");
                    return Ok(());
                }
                out.push_own("[");
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(&style.item_separator);
                    }
                    newline(out, level + 1);
                    self.write_json(item, style, level + 1, out)?;
                }
                newline(out, level);
                out.push_own("]");
            }
            Value::Dict(d) => {
                let mut entries: Vec<(Value, Value)> = d.0.borrow().values().cloned().collect();
                if entries.is_empty() {
                    out.push_own("{}");
                    return Ok(());
                }
                if style.sort_keys {
                    self.sort_by_key(&mut entries, |e| Ok(e.0.clone()))?;
                }
                out.push_own("{");
                for (i, (key, item)) in entries.iter().enumerate() {
                    if i > 0 {
                        out.push(&style.item_separator);
                    }
                    newline(out, level + 1);
                    let key = match key {
                        Value::Str(s) => s.clone(),
                        Value::None => Text::own("null"),
                        Value::Bool(b) => Text::own(if *b { "true" } else { "false" }),
                        Value::Int(i) => Text::own(&i.to_string()),
                        Value::Float(f) => Text::own(&json_float(*f)),
                        other => {
                            return fail(format!(
                                "keys must be str, int, float, bool or None, not {}",
                                other.type_name()
                            ));
                        }
                    };
                    write_string(&key, escapes, out);
                    out.push(&style.key_separator);
                    self.write_json(item, style, level + 1, out)?;
                }
                newline(out, level);
                out.push_own("}");
            }
            other => return fail(format!("Object of type {} is not JSON serializable", other.type_name())),
        }
        self.check_size(out.len())
    }
}

fn json_float(f: f64) -> String {
    match float_repr(f).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        s => s.into(),
    }
}

/// Appends a string as JSON; besides what JSON itself asks for, `escapes` says what stands as a code unit.
pub(super) fn write_string(s: &Text, escapes: impl Fn(char) -> bool, out: &mut TextBuf) {
    // The quotes are the template's.
    out.push_own("\"");
    let escaped = s.map_chars(|c, out| match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        c if c < ' ' || escapes(c) => {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        c => out.push(c),
    });
    out.push(&escaped);
    out.push_own("\"");
}

/// JSON on one line, spaced as Python writes it: what models saw as text in training.
pub(super) fn compact(json: &Json) -> String {
    match json {
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(compact).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(map) => {
            let items: Vec<String> =
                map.iter().map(|(k, v)| format!("{}: {}", Json::from(k.as_str()), compact(v))).collect();
            format!("{{{}}}", items.join(", "))
        }
        other => other.to_string(),
    }
}
