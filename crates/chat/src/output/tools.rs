//! What the request says about its tools, and values whose type only that says.
//!
//! Families that write arguments as tags give every value as bare text: whether `42` is a number or a text is decided
//! by the tool's schema, and where that is silent, by whether the text is JSON.

use serde_json::{Map, Value};

/// How deep schemas are followed through references and unions.
const DEPTH_MAX: usize = 16;

/// Numbers and words are never longer.
const SHORT_BYTES: usize = 64;

/// The function of a tool's definition, in any of the shapes that requests have.
pub(super) fn function(tool: &Value) -> &Value {
    tool.get("function").filter(|f| f.is_object()).unwrap_or(tool)
}

/// A tool's name.
pub(super) fn name(tool: &Value) -> Option<&str> {
    function(tool).get("name").and_then(Value::as_str)
}

/// The schema of a tool's arguments.
pub(super) fn parameters(tool: &Value) -> Option<&Value> {
    let function = function(tool);
    function.get("parameters").or_else(|| function.get("input_schema")).filter(|p| p.is_object())
}

/// Whether calls of a tool must be valid.
pub(super) fn strict(tool: &Value) -> bool {
    let flag = |v: &Value| v.get("strict").and_then(Value::as_bool) == Some(true);
    flag(function(tool)) || flag(tool)
}

/// The tools of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Tools(Map<String, Value>);

impl Tools {
    pub fn new(tools: &[Value]) -> Self {
        let entry = |tool| Some((name(tool)?.to_owned(), parameters(tool).cloned().unwrap_or_default()));
        Self(tools.iter().filter_map(entry).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a tool of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What a parameter of a tool may be.
    pub fn types(&self, tool: &str, parameter: &str) -> Types {
        let Some(root) = self.0.get(tool) else { return Types::ANY };
        let schema = property(root, parameter);
        schema.map_or(Types::ANY, |schema| Types::of(schema, root, DEPTH_MAX))
    }

    /// The name of a tool's only parameter of plain text, which is where code goes that comes without its name.
    pub fn text_parameter(&self, tool: &str) -> &str {
        let properties = self.0.get(tool).and_then(|p| p.get("properties")).and_then(Value::as_object);
        let only = properties.filter(|p| p.len() == 1).and_then(|p| p.keys().next());
        only.map_or("code", String::as_str)
    }
}

fn property<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    root.get("properties")?.get(name)
}

/// The schema that a local reference names.
pub(super) fn resolve<'a>(reference: &str, root: &'a Value) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

/// A set of JSON's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub const STRING: Self = Self(1);
    const NUMBER: Self = Self(2);
    const BOOLEAN: Self = Self(4);
    const NULL: Self = Self(8);
    const ARRAY: Self = Self(16);
    const OBJECT: Self = Self(32);
    /// Nothing is known.
    pub const ANY: Self = Self(63);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a text is among them.
    pub fn may_be_text(self) -> bool {
        self.has(Self::STRING)
    }

    /// The types that a schema allows, as far as its own words say.
    pub fn of(schema: &Value, root: &Value, depth: usize) -> Self {
        let Some(depth) = depth.checked_sub(1) else { return Self::ANY };
        let Value::Object(map) = schema else { return Self::ANY };
        let union = |values: &[Value], each: &dyn Fn(&Value) -> Self| {
            let types = values.iter().fold(Self(0), |types, value| types.or(each(value)));
            if types.0 == 0 { Self::ANY } else { types }
        };
        if let Some(Value::String(reference)) = map.get("$ref") {
            return resolve(reference, root).map_or(Self::ANY, |schema| Self::of(schema, root, depth));
        }
        match map.get("type") {
            Some(Value::String(name)) => return Self::named(name),
            Some(Value::Array(names)) => {
                return union(names, &|name| name.as_str().map_or(Self::ANY, Self::named));
            }
            _ => {}
        }
        if let Some(value) = map.get("const") {
            return Self::of_value(value);
        }
        if let Some(Value::Array(values)) = map.get("enum") {
            return union(values, &Self::of_value);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(schemas)) = map.get(key) {
                return union(schemas, &|schema| Self::of(schema, root, depth));
            }
        }
        if let Some(Value::Array(schemas)) = map.get("allOf") {
            let all = schemas.iter().fold(Self::ANY.0, |all, schema| all & Self::of(schema, root, depth).0);
            return if all == 0 { Self::ANY } else { Self(all) };
        }
        if map.contains_key("properties") { Self::OBJECT } else { Self::ANY }
    }

    /// A type by its name in JSON Schema, or by Python's name for it, which some clients send.
    fn named(name: &str) -> Self {
        match name {
            "string" | "str" => Self::STRING,
            "number" | "integer" | "int" | "float" | "double" => Self::NUMBER,
            "boolean" | "bool" => Self::BOOLEAN,
            "null" => Self::NULL,
            "array" | "list" | "tuple" => Self::ARRAY,
            "object" | "dict" => Self::OBJECT,
            _ => Self::ANY,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Number(_) => Self::NUMBER,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Null => Self::NULL,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// Whether a text that begins so may still be a value of these types that is no string. Where nothing is known,
    /// a string in quotes may be meant as one.
    fn may_begin(self, text: &str) -> bool {
        let start = text.trim_ascii_start();
        let text_begins = text.len() - start.len();
        let text = start.trim_ascii_end();
        let word = |words: &[&str]| words.iter().any(|w| w.starts_with(text));
        match text.as_bytes().first() {
            _ if text_begins > SHORT_BYTES => false,
            None => true,
            Some(b'{') => self.has(Self::OBJECT),
            Some(b'[') => self.has(Self::ARRAY),
            Some(b'"') => self == Self::ANY,
            Some(_) if start.len() > SHORT_BYTES => false,
            Some(b'-' | b'0'..=b'9') => {
                self.has(Self::NUMBER) && text.bytes().all(|b| b"+-.eE0123456789".contains(&b))
            }
            Some(b't' | b'f' | b'T' | b'F') => {
                self.has(Self::BOOLEAN) && word(&["true", "false", "True", "False"])
            }
            Some(b'n' | b'N') => self.has(Self::NULL) && word(&["null", "None"]),
            Some(_) => false,
        }
    }
}

/// A value that comes as bare text, on its way to JSON.
#[derive(Clone, Debug)]
pub(super) struct TypedValue {
    types: Types,
    /// What is held until the type is certain; `None` once it is known to be a string.
    waiting: Option<String>,
}

impl TypedValue {
    /// A value of these types. Emits the opening quote if it can only be a string.
    pub fn new(types: Types, json: &mut String) -> Self {
        let string = types == Types::STRING;
        if string {
            json.push('"');
        }
        Self { types, waiting: (!string).then(String::new) }
    }

    /// Takes more of the text.
    pub fn push(&mut self, text: &str, json: &mut String) {
        let Some(waiting) = &mut self.waiting else { return escape(text, json) };
        // Objects and arrays are decided by their first byte, all else is short.
        let decided = matches!(waiting.trim_ascii_start().as_bytes().first(), Some(b'{' | b'[' | b'"'));
        waiting.push_str(text);
        if !decided && self.types.has(Types::STRING) && !self.types.may_begin(waiting) {
            json.push('"');
            escape(waiting, json);
            self.waiting = None;
        }
    }

    /// The text is complete.
    ///
    /// A text that is JSON of an allowed type is that; Python's words for the constants count as JSON's. Anything else
    /// is a string, whatever the schema wants: nothing is lost.
    pub fn finish(self, json: &mut String) {
        let Some(waiting) = self.waiting else { return json.push('"') };
        let text = waiting.trim_ascii();
        let text = match text {
            "True" if self.types.has(Types::BOOLEAN) => "true",
            "False" if self.types.has(Types::BOOLEAN) => "false",
            "None" if self.types.has(Types::NULL) => "null",
            other => other,
        };
        let fits = serde_json::from_str::<Value>(text).is_ok_and(|value| {
            // Without a string among its types, a value that is JSON at all is as good as it gets.
            let is = Types::of_value(&value);
            if self.types == Types::ANY { true } else { self.types.has(is) || !self.types.has(Types::STRING) }
        });
        if fits {
            json.push_str(text);
        } else {
            json.push('"');
            escape(&waiting, json);
            json.push('"');
        }
    }

    /// The answer ended inside the text: what is there goes out.
    pub fn cut(self, json: &mut String) {
        if let Some(waiting) = self.waiting {
            json.push_str(waiting.trim_ascii_start());
        }
    }
}

/// Appends text as it stands in a JSON string.
pub(super) fn escape(text: &str, json: &mut String) {
    let mut from = 0;
    for (at, b) in text.bytes().enumerate() {
        let short = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        json.push_str(&text[from..at]);
        if short.is_empty() {
            json.push_str(&format!("\\u{b:04x}"));
        } else {
            json.push_str(short);
        }
        from = at + 1;
    }
    json.push_str(&text[from..]);
}

/// A text as a JSON string, with its quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    escape(text, &mut json);
    json.push('"');
    json
}

/// Whether a text can be a function's name at all.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b) || b >= 0x80)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_take_the_type_that_the_schema_gives() {
        let check = |schema: Value, text: &str, expected: &str| {
            let types = Types::of(&schema, &schema, DEPTH_MAX);
            for cut in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                let mut json = String::new();
                let mut value = TypedValue::new(types, &mut json);
                value.push(&text[..cut], &mut json);
                value.push(&text[cut..], &mut json);
                value.finish(&mut json);
                assert_eq!(json, expected, "{schema} {text:?} cut at {cut}");
            }
        };
        check(json!({"type": "string"}), "42", "\"42\"");
        check(json!({"type": "string"}), "a\n\"ü\"\u{1}", "\"a\\n\\\"ü\\\"\\u0001\"");
        check(json!({"type": "integer"}), "42", "42");
        check(json!({"type": "integer"}), "forty-two", "\"forty-two\"");
        check(json!({"type": "boolean"}), "True", "true");
        check(json!({"type": "object"}), " {\"a\": [1]} ", "{\"a\": [1]}");
        check(json!({"type": "object"}), "{a: 1}", "\"{a: 1}\"");
        check(json!({"type": ["string", "null"]}), "null", "null");
        check(json!({"type": ["string", "null"]}), "nullable", "\"nullable\"");
        check(json!({"type": ["string", "null"]}), "42", "\"42\"");
        check(json!({"type": ["string", "integer"]}), "2 dollars", "\"2 dollars\"");
        check(json!({"type": ["string", "object"]}), "{not json", "\"{not json\"");
        check(json!({"enum": ["celsius", "fahrenheit"]}), "celsius", "\"celsius\"");
        check(json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), "7", "7");
        check(json!({}), "7", "7");
        check(json!({}), "seven", "\"seven\"");
        check(json!({}), "\"seven\"", "\"seven\"");
        check(json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}), "7", "\"7\"");
    }
}
