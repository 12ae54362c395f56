//! Schemas of what the hand-written parsers take, in words: each parser has a function that describes it, and tests
//! compare the two, field by field.

use serde_json::{Map, Value, json};

use crate::openai::refused::{Harmless, Refused};

/// A JSON Schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schema(Map<String, Value>);

impl Schema {
    /// Out of its JSON, which must be an object.
    pub fn of(value: Value) -> Self {
        match value {
            Value::Object(map) => Self(map),
            other => unreachable!("schemas are written as objects, not as {other}"),
        }
    }

    /// The same with one more keyword.
    pub fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }

    /// The same with bounds on the entries of a list.
    pub fn entries(self, min: usize, max: usize) -> Self {
        let bounded = self.with("maxItems", max);
        if min == 0 { bounded } else { bounded.with("minItems", min) }
    }

    /// The same with bounds on the characters of a string.
    pub fn chars(self, min: usize, max: usize) -> Self {
        let bounded = self.with("maxLength", max);
        if min == 0 { bounded } else { bounded.with("minLength", min) }
    }

    /// The same with a description.
    pub fn about(self, text: &str) -> Self {
        if text.is_empty() { self } else { self.with("description", text) }
    }

    /// The same, or `null`, which counts as absent.
    fn or_null(mut self) -> Self {
        if let Some(Value::Array(branches)) = self.0.get_mut("anyOf") {
            branches.push(json!({ "type": "null" }));
        } else if let Some(Value::Array(words)) = self.0.get_mut("enum") {
            words.push(Value::Null);
            self.0.shift_remove("type");
        } else if let Some(kind) = self.0.get_mut("type") {
            *kind = json!([kind.take(), "null"]);
        }
        // A schema without any of these allows everything.
        self
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// Any value.
pub(crate) fn any() -> Schema {
    Schema(Map::new())
}

/// Any text.
pub(crate) fn string() -> Schema {
    Schema::of(json!({ "type": "string" }))
}

/// Text that an expression matches as a whole.
pub(crate) fn matching(pattern: &str) -> Schema {
    Schema::of(json!({ "type": "string", "pattern": format!("^{pattern}$") }))
}

/// True or false.
pub(crate) fn boolean() -> Schema {
    Schema::of(json!({ "type": "boolean" }))
}

/// A whole number within bounds.
pub(crate) fn integer(min: i128, max: i128) -> Schema {
    Schema::of(json!({ "type": "integer", "minimum": whole(min), "maximum": whole(max) }))
}

/// A token's id.
pub(crate) fn token_id() -> Schema {
    integer(0, i128::from(u32::MAX))
}

fn whole(v: i128) -> Value {
    // Bounds are those of 64-bit numbers at most.
    i64::try_from(v).map_or_else(|_| Value::from(u64::try_from(v).unwrap_or(u64::MAX)), Value::from)
}

/// A number within bounds.
pub(crate) fn number(min: f64, max: f64) -> Schema {
    Schema::of(json!({ "type": "number", "minimum": min, "maximum": max }))
}

/// A list of such entries.
pub(crate) fn list(entry: Schema) -> Schema {
    Schema::of(json!({ "type": "array", "items": entry.0 }))
}

/// A list that must be empty.
pub(crate) fn empty_list() -> Schema {
    Schema::of(json!({ "type": "array", "maxItems": 0 }))
}

/// An object with any fields: a schema, arguments of a call, variables of a template.
pub(crate) fn map() -> Schema {
    Schema::of(json!({ "type": "object" }))
}

/// One of these words.
pub(crate) fn words(words: &[&str]) -> Schema {
    Schema::of(json!({ "type": "string", "enum": words }))
}

/// This word.
pub(crate) fn word(word: &str) -> Schema {
    words(&[word])
}

/// `false`, and nothing else.
pub(crate) fn exactly_false() -> Schema {
    exactly(Value::Bool(false))
}

/// This value.
pub(crate) fn exactly(value: Value) -> Schema {
    Schema::of(json!({ "enum": [value] }))
}

/// Any of these.
pub(crate) fn either(branches: impl IntoIterator<Item = Schema>) -> Schema {
    let branches: Vec<Value> = branches.into_iter().map(Schema::into_value).collect();
    Schema::of(json!({ "anyOf": branches }))
}

/// A number of things.
pub(crate) fn count_of() -> Schema {
    Schema::of(json!({ "type": "integer", "minimum": 0 }))
}

/// The same, or `null`.
pub(crate) fn nullable(schema: Schema) -> Schema {
    schema.or_null()
}

/// An object that takes these fields and no others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    properties: Map<String, Value>,
    required: Vec<String>,
}

impl Object {
    pub fn new() -> Self {
        Self::default()
    }

    /// A field that may be absent, or `null`. A second one of its name replaces the first.
    pub fn field(mut self, name: &str, schema: Schema, text: &str) -> Self {
        self.properties.insert(name.to_owned(), schema.or_null().about(text).into_value());
        self
    }

    /// The same under several names.
    pub fn fields(self, names: &[&str], schema: &Schema, text: &str) -> Self {
        names.iter().fold(self, |object, name| object.field(name, schema.clone(), text))
    }

    /// A field that may be absent, of a form: those have no `null`.
    pub fn optional(mut self, name: &str, schema: Schema, text: &str) -> Self {
        self.properties.insert(name.to_owned(), schema.about(text).into_value());
        self
    }

    /// A field that must be there.
    pub fn must(mut self, name: &str, schema: Schema, text: &str) -> Self {
        self.properties.insert(name.to_owned(), schema.about(text).into_value());
        if !self.required.iter().any(|known| known == name) {
            self.required.push(name.to_owned());
        }
        self
    }

    /// Fields that are accepted with values under which they change nothing.
    pub fn harmless(self, tables: &[&[Harmless]]) -> Self {
        let text = |field: &Harmless| format!("Without effect; it can be {}.", field.accepted);
        let tables = tables.iter().copied().flatten();
        tables.fold(self, |object, field| object.field(field.name, accepted(field), &text(field)))
    }

    /// Without fields that are refused.
    pub fn without(mut self, tables: &[&[Refused]]) -> Self {
        for field in tables.iter().copied().flatten() {
            self.properties.shift_remove(field.name);
        }
        self
    }

    pub fn schema(self) -> Schema {
        let schema = Schema::of(json!({ "type": "object", "properties": self.properties }));
        let schema = if self.required.is_empty() { schema } else { schema.with("required", self.required) };
        schema.with("additionalProperties", false)
    }
}

/// What a field without effect accepts, found by asking it: so the description cannot say anything else.
fn accepted(field: &Harmless) -> Schema {
    let takes = |value: &Value| (field.accepts)(value);
    let unlikely = "a text that no table names";
    let mut branches: Vec<Schema> = Vec::new();
    // A whole kind of values, told by one that nobody would list.
    let kinds = [
        (json!(unlikely), string()),
        (json!(73), Schema::of(json!({ "type": "integer" }))),
        (json!({ unlikely: 1 }), map()),
        (json!([unlikely]), list(string())),
    ];
    branches.extend(kinds.iter().filter(|(value, _)| takes(value)).map(|(_, schema)| schema.clone()));
    match [true, false].map(|v| takes(&json!(v))) {
        [true, true] => branches.push(boolean()),
        [true, false] => branches.push(exactly(json!(true))),
        [false, true] => branches.push(exactly(json!(false))),
        [false, false] => {}
    }
    if !takes(&json!(73)) {
        branches.extend([-1, 0, 1].map(|v| json!(v)).into_iter().filter(takes).map(exactly));
    }
    if !takes(&json!([unlikely])) && takes(&json!([])) {
        branches.push(empty_list());
    }
    // Words are between quotes in what people read.
    let quoted: Vec<&str> = field.accepted.split('"').skip(1).step_by(2).collect();
    if !takes(&json!(unlikely)) {
        let taken: Vec<&str> = quoted.iter().copied().filter(|word| takes(&json!(word))).collect();
        if !taken.is_empty() {
            branches.push(words(&taken));
        }
    }
    if !takes(&json!([unlikely])) && !quoted.is_empty() && takes(&json!(quoted)) {
        branches.push(exactly(json!(quoted)));
    }
    match branches.len() {
        1 => branches.swap_remove(0),
        _ => {
            let branches: Vec<Value> = branches.into_iter().map(Schema::into_value).collect();
            Schema::of(json!({ "anyOf": branches }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::refused::harmless;

    #[track_caller]
    fn check(says: &'static str, accepts: fn(&Value) -> bool, expected: Value) {
        let field = harmless("field", says, accepts);
        assert_eq!(accepted(&field).into_value(), expected, "{says}");
    }

    #[test]
    fn fields_without_effect() {
        check("a string", Value::is_string, json!({ "type": "string" }));
        check("an object", Value::is_object, json!({ "type": "object" }));
        check("true or false", Value::is_boolean, json!({ "type": "boolean" }));
        check("false", |v| v == false, json!({ "enum": [false] }));
        check("-1", |v| v == -1, json!({ "enum": [-1] }));
        check("a whole number", Value::is_i64, json!({ "type": "integer" }));
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
        check("an empty list", empty, json!({ "type": "array", "maxItems": 0 }));
        let words = json!({ "type": "string", "enum": ["a", "b"] });
        check("\"a\" or \"b\"", |v| v == "a" || v == "b", words);
        check("[\"a\"]", |v| v == &json!(["a"]), json!({ "enum": [["a"]] }));
        let both = json!({ "anyOf": [{ "enum": [true] }, { "type": "string", "enum": ["a"] }] });
        check("true or \"a\"", |v| v == true || v == "a", both);
    }

    #[test]
    fn null_counts_as_absent() {
        let check = |schema: Schema, expected: Value| assert_eq!(schema.or_null().into_value(), expected);
        check(string(), json!({ "type": ["string", "null"] }));
        check(words(&["a"]), json!({ "enum": ["a", null] }));
        check(any(), json!({}));
        let branches =
            json!([{ "type": "boolean" }, { "enum": ["a"], "type": "string" }, { "type": "null" }]);
        check(either([boolean(), word("a")]), json!({ "anyOf": branches }));
    }
}
