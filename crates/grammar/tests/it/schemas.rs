//! JSON Schema, keyword by keyword.

use ingle_chat::Format;
use ingle_grammar::GrammarError;
use serde_json::{Value, json};

use crate::common::{check, refused};

fn takes(schema: Value, accepted: &[&str], rejected: &[&str]) {
    check(&Format::JsonSchema(schema), accepted, rejected);
}

#[track_caller]
fn refuses(schema: Value, pointer: &str, keyword: &str) {
    let error = refused(&Format::JsonSchema(schema.clone()));
    assert_eq!((error.pointer(), error.keyword()), (Some(pointer), Some(keyword)), "{schema}: {error}");
}

#[test]
fn types_and_values() {
    takes(json!({ "type": "integer" }), &["0", "-12", "123"], &["", "01", "1.5", "\"1\"", "null"]);
    takes(json!({ "type": ["null", "boolean"] }), &["null", "true"], &["1", "nul"]);
    takes(
        json!({ "const": { "a": [1, "x", null] } }),
        &[r#"{"a":[1,"x",null]}"#, r#"{"a": [1, "x", null]}"#],
        &["{}", r#"{"a":[]}"#],
    );
    takes(
        json!({ "enum": ["a", 1, "hello\nworld", 1.5] }),
        &["\"a\"", "1", r#""hello\nworld""#, "1.5"],
        &["2", "\"b\"", "1."],
    );
    takes(json!(true), &["1", "{}", "[1, {\"a\": \"b\"}]"], &["", "x"]);
    takes(json!({}), &["1", "\"\""], &[""]);
}

#[test]
fn numbers() {
    takes(
        json!({ "type": "integer", "minimum": -3, "exclusiveMaximum": 12 }),
        &["-3", "11", "0"],
        &["-4", "12", "-0.5"],
    );
    takes(
        json!({ "type": "number", "minimum": 0.5, "maximum": 2 }),
        &["0.5", "1", "1.999", "2"],
        &["0.4", "2.1", "-1"],
    );
    takes(json!({ "type": "integer", "multipleOf": 5 }), &["0", "10", "-15"], &["1", "12"]);
    takes(json!({ "type": "number", "multipleOf": 0.25 }), &["0.25", "1", "1.50"], &["0.3"]);
    // Beyond what doubles hold, bounds are stricter.
    let large = json!({ "type": "integer", "maximum": 9_223_372_036_854_775_807i64, "minimum": -9_223_372_036_854_775_808i64 });
    takes(
        large,
        &["9007199254740992", "-9007199254740992", "0"],
        &["9223372036854775808", "9007199254740993"],
    );
    refuses(json!({ "const": 9_007_199_254_740_993i64 }), "", "const");
    refuses(json!({ "items": { "minimum": 1e19 } }), "/items", "minimum");
    refuses(json!({ "multipleOf": 1e-300 }), "", "multipleOf");
    refuses(json!({ "multipleOf": 0 }), "", "multipleOf");
    refuses(
        json!({ "allOf": [{ "multipleOf": 100_003 }, { "multipleOf": 100_019 }] }),
        "/allOf/1",
        "multipleOf",
    );
}

#[test]
fn strings() {
    takes(
        json!({ "type": "string", "minLength": 2, "maxLength": 3 }),
        &["\"ab\"", "\"é\\n€\""],
        &["\"a\"", "\"abcd\""],
    );
    takes(json!({ "type": "string", "pattern": "^a+$" }), &["\"a\"", "\"aaa\""], &["\"\"", "\"ab\""]);
    takes(json!({ "type": "string", "pattern": "b" }), &["\"abc\""], &["\"ac\""]);
    takes(json!({ "type": "string", "pattern": "^.$" }), &["\"a\""], &["\"\\r\"", "\"\\n\""]);
    takes(json!({ "type": "string", "pattern": "^[a[b]$" }), &["\"[\"", "\"b\""], &["\"]\"", "\"ab]\""]);
    takes(json!({ "type": "string", "format": "date" }), &["\"2024-12-31\""], &["\"2024-13-01\"", "\"x\""]);
    takes(json!({ "type": "string", "format": "ipv4" }), &["\"127.0.0.1\""], &["\"256.0.0.1\""]);
    // One spelling each.
    takes(json!({ "type": "string" }), &["\"é\\\\\\\"\""], &["\"\\u0041\"", "\"\n\"", "\"\\/\""]);
    refuses(
        json!({ "properties": { "a/b": { "type": "string", "format": "binary" } } }),
        "/properties/a~1b",
        "format",
    );
    refuses(json!({ "type": "string", "pattern": "(?=a)" }), "", "pattern");
    refuses(json!({ "type": "string", "pattern": "a\\b" }), "", "pattern");
    refuses(
        json!({ "type": "array", "items": { "type": "string", "minLength": 1, "pattern": "a^b" } }),
        "/items",
        "pattern",
    );
    refuses(json!({ "const": "a\u{1}" }), "", "const");
    // Of other types it says nothing.
    takes(json!({ "type": "integer", "format": "int32", "pattern": "(?=a)" }), &["1"], &[]);
}

#[test]
fn arrays() {
    takes(
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 1, "maxItems": 3 }),
        &["[1]", "[1, 2,3]", "[\n  1\n]"],
        &["[]", "[1,2,3,4]", "[\"a\"]", "[1,]"],
    );
    let pair = json!({ "type": "array", "prefixItems": [{ "type": "integer" }, { "type": "string" }], "items": false, "minItems": 2 });
    takes(pair, &["[1,\"a\"]"], &["[1]", "[1,\"a\",2]"]);
    // As drafts before 2020-12 wrote it.
    let pair =
        json!({ "type": "array", "items": [{ "type": "integer" }], "additionalItems": { "type": "string" } });
    takes(pair, &["[]", "[1]", "[1,\"a\",\"b\"]"], &["[\"a\"]", "[1,2]"]);
    takes(
        json!({ "type": "array", "items": { "type": "null" }, "additionalItems": false }),
        &["[null,null]"],
        &["[1]"],
    );
    takes(json!({ "type": "array", "uniqueItems": false, "maxItems": 1 }), &["[]", "[1]"], &["[1,2]"]);
    refuses(json!({ "type": "array", "uniqueItems": true }), "", "uniqueItems");
    refuses(json!({ "items": { "contains": { "const": 1 } } }), "/items", "contains");
    refuses(json!({ "items": [true], "prefixItems": [true] }), "", "items");
}

#[test]
fn objects() {
    let schema = json!({
        "type": "object",
        "properties": { "a": { "type": "integer" }, "b": { "type": "string" } },
        "required": ["a"],
        "additionalProperties": false,
    });
    takes(
        schema,
        &[r#"{"a":1}"#, r#"{"a": 1, "b": "x"}"#, "{\n    \"a\": 1\n}"],
        &["{}", r#"{"b":"x"}"#, r#"{"b":"x","a":1}"#, r#"{"a":1,"c":2}"#],
    );
    // A name that is known cannot come again in another spelling.
    let open = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    takes(
        open,
        &[r#"{"a":1,"c":"x"}"#, r#"{"c":{}}"#],
        &[r#"{"a":"x"}"#, r#"{"c":1,"a":"x"}"#, r#"{"\u0061":"x"}"#],
    );
    let patterns = json!({ "type": "object", "patternProperties": { "^n_": { "type": "integer" } }, "additionalProperties": { "type": "string" } });
    takes(patterns, &["{}", r#"{"n_a":1,"x":"y"}"#], &[r#"{"n_a":"x"}"#, r#"{"x":1}"#]);
    takes(
        json!({ "type": "object", "minProperties": 1, "additionalProperties": { "type": "integer" } }),
        &[r#"{"a":1}"#],
        &["{}"],
    );
    takes(
        json!({ "type": "object", "maxProperties": 1, "additionalProperties": { "type": "integer" } }),
        &["{}", r#"{"a":1}"#],
        &[r#"{"a":1,"b":2}"#],
    );
    takes(
        json!({ "type": "object", "properties": { "a": true }, "unevaluatedProperties": false }),
        &["{}", r#"{"a":1}"#],
        &[r#"{"b":1}"#],
    );
    refuses(json!({ "type": "object", "minProperties": 2 }), "", "minProperties");
    refuses(json!({ "type": "object", "propertyNames": { "maxLength": 3 } }), "", "propertyNames");
    refuses(json!({ "type": "object", "dependentRequired": { "a": ["b"] } }), "", "dependentRequired");
    refuses(
        json!({ "type": "object", "allOf": [{}], "unevaluatedProperties": false }),
        "",
        "unevaluatedProperties",
    );
    refuses(json!({ "properties": { "a": { "required": true } } }), "/properties/a", "required");
}

#[test]
fn combinations() {
    takes(
        json!({ "anyOf": [{ "type": "integer" }, { "type": "string", "maxLength": 1 }] }),
        &["1", "\"a\""],
        &["\"ab\"", "null"],
    );
    takes(json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] }), &["1", "\"a\""], &["null"]);
    takes(
        json!({ "type": "integer", "allOf": [{ "minimum": 2 }, { "maximum": 4 }] }),
        &["2", "4"],
        &["1", "5"],
    );
    // Wherever a keyword stands, it knows of the others.
    let split = json!({ "patternProperties": { "^a": { "type": "integer" } }, "anyOf": [{ "type": "object" }], "additionalProperties": false });
    takes(split, &["{}", r#"{"ab":1}"#], &[r#"{"b":1}"#, r#"{"ab":"x"}"#]);
    refuses(
        json!({ "properties": { "x": { "oneOf": [{ "minimum": 1 }, { "maximum": 3 }] } } }),
        "/properties/x",
        "oneOf",
    );
    refuses(json!({ "items": { "not": { "type": "string" } } }), "/items", "not");
    refuses(json!({ "if": { "type": "string" }, "then": { "maxLength": 1 } }), "", "if");
    takes(json!({ "if": { "type": "string" }, "type": "null" }), &["null"], &["1"]);
}

#[test]
fn references() {
    let tree = json!({
        "$ref": "#/$defs/a~1b%25",
        "$defs": { "a/b%": { "type": "object", "properties": { "next": { "$ref": "#/$defs/a~1b%25" } }, "additionalProperties": false } },
    });
    takes(tree, &["{}", r#"{"next":{"next":{}}}"#], &[r#"{"next":1}"#, r#"{"x":{}}"#]);
    takes(
        json!({ "properties": { "a": { "$ref": "#" } }, "type": "object", "additionalProperties": false }),
        &["{}", r#"{"a":{"a":{}}}"#],
        &[r#"{"b":1}"#],
    );
    takes(
        json!({ "$ref": "#x", "$defs": { "y": { "$anchor": "x", "type": "integer" } } }),
        &["1"],
        &["\"a\""],
    );
    // Within a schema with a name of its own, `#` is that one.
    let named = json!({
        "$defs": { "z": { "type": "string" }, "n": { "$id": "urn:n", "$ref": "#/$defs/z", "$defs": { "z": { "type": "integer" } } } },
        "$ref": "urn:n",
    });
    takes(named, &["1"], &["\"a\""]);
    refuses(json!({ "items": { "$ref": "http://localhost/schema" } }), "/items", "$ref");
    refuses(json!({ "$ref": "other.json#/a" }), "", "$ref");
    refuses(json!({ "$ref": "#/nowhere" }), "", "$ref");
    refuses(json!({ "$ref": "#" }), "", "$ref");
    refuses(
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
        "",
        "$ref",
    );
    refuses(json!({ "items": { "$dynamicRef": "#a" } }), "/items", "$dynamicRef");
}

#[test]
fn annotations_pass_and_dialects_are_known() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x", "title": "t", "description": "d", "default": 1,
        "examples": [1], "$comment": "c", "deprecated": true, "readOnly": true, "x-order": 3, "type": "integer",
    });
    takes(schema, &["1"], &["\"a\""]);
    refuses(json!({ "$schema": "https://example.com/mine", "type": "integer" }), "", "$schema");
    refuses(json!({ "type": "string", "x-guidance": { "lenient": true } }), "", "x-guidance");
    refuses(json!({ "type": "string", "nullable": true }), "", "nullable");
    refuses(json!({ "type": "integer", "minimum": 1, "exclusiveMinimum": true }), "", "exclusiveMinimum");
    let draft4 = json!({ "$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 3, "exclusiveMaximum": false });
    takes(draft4, &["2", "3"], &["1", "4"]);
}

#[test]
fn schemas_that_are_wrong() {
    refuses(json!({ "type": "something" }), "", "type");
    refuses(json!({ "properties": { "a": { "type": 3 } } }), "/properties/a", "type");
    refuses(json!({ "type": "array", "minItems": -1 }), "", "minItems");
    refuses(json!({ "type": "string", "maxLength": "3" }), "", "maxLength");
    refuses(json!({ "anyOf": [] }), "", "anyOf");
    refuses(json!({ "enum": [] }), "", "enum");
    refuses(json!({ "properties": [] }), "", "properties");
    let error = refused(&Format::JsonSchema(json!({ "items": 3 })));
    assert!(matches!(error, GrammarError::Invalid { .. }) && error.pointer() == Some("/items"), "{error}");
    assert!(refused(&Format::JsonSchema(json!(false))).is_refusal());
    assert!(refused(&Format::JsonSchema(json!(3))).is_refusal());
}

#[test]
fn white_space_is_what_models_write() {
    let list = json!({ "type": "array", "items": { "type": "integer" } });
    takes(
        list,
        &["[1, 2]", "[\n  1,\n  2\n]", "[1,2]", "[ 1 ]", "[\r\n\t1]", "[\n    1]"],
        &["[1,  2]", "[1,\t2]", "[  1]", "[\n\n\n1]", " [1]", "[\n     1]", "[\n\t\t1]", "[1] "],
    );
    let deep = json!({
        "type": "object",
        "properties": { "a": { "type": "object", "properties": { "b": { "type": "null" } }, "additionalProperties": false } },
        "additionalProperties": false,
    });
    takes(
        deep,
        &[
            r#"{"a": {"b": null}}"#,
            r#"{"a":{"b":null}}"#,
            "{\n    \"a\": {\n        \"b\": null\n    }\n}",
            "{\n\t\"a\": {\n\t\t\"b\": null\n\t}\n}",
            "{\n  \"a\":\n  {\n    \"b\": null\n  }\n}",
        ],
        &[r#"{"a":  {}}"#, r#"{  "a":{}}"#, "{\n         \"a\": {}}", "{\n \t\"a\": {}}"],
    );
    let open = json!({ "type": "array" });
    takes(open, &["[\n                                [1]]"], &["[\n                                 [1]]"]);
}
