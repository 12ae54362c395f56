//! White space between the tokens of JSON: what models write on one line or indented, and little else.
//!
//! At each place there may be one space, or a new line that is indented by up to four spaces or a tab for each level that
//! the schema has. Nobody writes either before a comma or a colon; but the recognizer cannot tell the place before a
//! comma from that before a closing bracket, and has one rule for all places.

use serde_json::Value;

/// More levels are not indented further; and what may have any number of levels has this many.
const LEVELS_MAX: usize = 8;
/// Spaces of one level.
const INDENT: usize = 4;

/// White space where it may stand between any two tokens of a schema's values, as a regular expression.
pub(super) fn white_space(schema: &Value) -> String {
    let levels = levels(schema);
    format!(r" |\r?\n(?: {{0,{}}}|\t{{0,{levels}}})", INDENT * levels)
}

/// How deep objects and arrays may be in each other, up to the most that counts.
fn levels(schema: &Value) -> usize {
    let Some(map) = schema.as_object() else {
        return if *schema == Value::Bool(false) { 0 } else { LEVELS_MAX };
    };
    let inner = |value: Option<&Value>| value.map_or(LEVELS_MAX, levels);
    let deepest = |values: &mut dyn Iterator<Item = usize>| values.max().unwrap_or(0);
    let all = |keyword: &str| {
        let values: Vec<&Value> = match map.get(keyword) {
            Some(Value::Array(values)) => values.iter().collect(),
            Some(Value::Object(values)) => values.values().collect(),
            _ => Vec::new(),
        };
        deepest(&mut values.into_iter().map(levels))
    };
    if let Some(value) = map.get("const") {
        return nesting(value);
    }
    if let Some(Value::Array(values)) = map.get("enum") {
        return deepest(&mut values.iter().map(nesting));
    }
    let types: Vec<&str> = match map.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
        // Its cases say all, if there are any.
        _ if map.keys().all(|key| matches!(key.as_str(), "anyOf" | "oneOf" | "$defs")) && !map.is_empty() => {
            Vec::new()
        }
        _ => return LEVELS_MAX,
    };
    let of_type = types.into_iter().map(|name| match name {
        "object" => {
            1 + all("properties").max(all("patternProperties")).max(inner(map.get("additionalProperties")))
        }
        "array" => 1 + all("prefixItems").max(inner(map.get("items"))),
        _ => 0,
    });
    let levels = deepest(&mut of_type.into_iter()).max(all("anyOf")).max(all("oneOf"));
    levels.min(LEVELS_MAX)
}

/// How deep the brackets of a value are in each other.
fn nesting(value: &Value) -> usize {
    let levels = match value {
        Value::Array(items) => 1 + items.iter().map(nesting).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(nesting).max().unwrap_or(0),
        _ => 0,
    };
    levels.min(LEVELS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels_are_those_of_the_deepest_value() {
        let check = |schema: Value, expected: usize| assert_eq!(levels(&schema), expected, "{schema}");
        let flat = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "additionalProperties": false });
        check(json!({ "type": "integer" }), 0);
        check(flat.clone(), 1);
        check(json!({ "type": ["array", "null"], "items": flat.clone() }), 2);
        check(json!({ "type": "array", "prefixItems": [flat.clone()], "items": false }), 2);
        check(json!({ "anyOf": [{ "type": "null" }, flat] }), 1);
        check(json!({ "enum": [1, [[]]] }), 2);
        check(json!({ "const": { "a": {} } }), 2);
        for open in [
            json!(true),
            json!({}),
            json!({ "type": "object" }),
            json!({ "type": "array" }),
            json!({ "$ref": "#" }),
        ] {
            check(open, LEVELS_MAX);
        }
    }
}
