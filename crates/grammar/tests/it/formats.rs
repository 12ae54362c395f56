//! One after the other: each format.

use ingle_chat::Format;
use ingle_grammar::GrammarError;
use serde_json::json;

use crate::common::{check, compile, refused};

#[test]
fn json_object() {
    check(
        &Format::JsonObject,
        &[
            "{}",
            r#"{"a": 1}"#,
            "{\n  \"a\": [true, null, \"x\\n\"],\n  \"b\": {}\n}",
            r#"{"a":{"a":{"a":-1.5e3}}}"#,
        ],
        &["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":01}"#, r#"{"a":1,}"#, "{}}", "{} x"],
    );
}

#[test]
fn regular_expressions() {
    let regex = |text: &str| Format::Regex(text.to_owned());
    check(&regex("[a-c]+"), &["a", "abcabc"], &["", "d", "abd"]);
    check(&regex("^(yes|no)$"), &["yes", "no"], &["yesno", "xyes", "maybe", "ye"]);
    check(&regex(r"\d{3}-\d{2}"), &["123-45"], &["12-45", "١٢٣-45"]);
    check(&regex("a/b"), &["a/b"], &["ab"]);
    check(&regex(""), &[""], &["a"]);
    check(&regex("(?i)hello(?: wörld)?"), &["HeLLo", "hello WÖRLD"], &["hell"]);
    check(&regex(".*"), &["", "hello", "é<|x"], &["a\nb", "<|im_start|>", "<think>"]);
    assert!(matches!(refused(&regex("(?=a)b")), GrammarError::Unsupported { .. }));
    assert!(matches!(refused(&regex("(")), GrammarError::Invalid { .. }));
}

#[test]
fn choices() {
    let choice = |texts: &[&str]| Format::Choice(texts.iter().map(|&text| text.to_owned()).collect());
    check(&choice(&["yes", "yes sir", "\"\n\\/"]), &["yes", "yes sir", "\"\n\\/"], &["", "no", "yes ", "ye"]);
    // A text that looks like a control token is text.
    let end = "<|im_end|>";
    check(&choice(&[end, "a"]), &["a"], &[end]);
    assert!(matches!(refused(&choice(&[])), GrammarError::Invalid { .. }));
}

#[test]
fn lark() {
    let lark = |text: &str| Format::Lark(text.to_owned());
    check(
        &lark("start: \"a\" b* // comment \"\nb: /[x-z\\/]/ | \"<\"\n"),
        &["a", "axyz", "a</"],
        &["", "b", "aa"],
    );
    check(
        &lark("start: <think> /[a-z]+/ </think>"),
        &["<think>hello</think>"],
        &["<think></think>", "hello"],
    );
    check(
        &lark(
            r#"start: "x" %json {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": false}"#,
        ),
        &[r#"x{"a":1}"#],
        &[r#"x{"a":2}"#, "x{}"],
    );
    // Any token, and any but one: of text.
    check(&lark("start: <[*]> <[^97]>"), &["bb"], &["<|im_start|>b", "<|im_end|>b", "b<think>"]);
}

#[test]
fn lark_of_users_is_checked() {
    let lark = |text: &str| refused(&Format::Lark(text.to_owned()));
    let syntax = |text: &str| matches!(lark(text), GrammarError::Syntax { .. });
    assert!(syntax("start: \"a"));
    assert!(syntax("start: <|no_such_token|>"));
    assert!(syntax("%llguidance {\"allow_invalid_utf8\": true}\nstart: \"a\""));
    assert!(syntax("start: @other"));
    assert!(syntax("start[stop=\"x\"]: /.*/"));
    assert!(syntax("start[max_tokens=3]: /.*/"));
    assert!(syntax("start: /a(?P<stop>b)/"));
    // Schemas within are schemas.
    let error = lark(r#"start: %json {"not": {"type": "string"}, "x-guidance": {"lenient": true}}"#);
    assert_eq!(error.keyword(), Some("not"), "{error}");
    assert!(lark("begin: \"a\"").is_refusal());
    assert!(lark("start: nothing").is_refusal());
}

#[test]
fn schemas_and_objects_are_cached() {
    let compiler = crate::common::compiler();
    let format = Format::JsonSchema(json!({ "type": "integer" }));
    let first = compiler.compile(&format).expect("a sound schema");
    let again = compiler.compile(&format).expect("a sound schema");
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    assert_eq!(compiler.n_cached(), 1);
}

#[test]
fn the_cache_is_bounded() {
    let limits = ingle_grammar::Limits { cache_bytes: 2 << 20, ..Default::default() };
    let compiler = ingle_grammar::Compiler::new(&crate::common::small(), limits);
    for n in 0..50 {
        compiler.compile(&Format::JsonSchema(json!({ "const": n }))).expect("a sound schema");
    }
    assert!((1..25).contains(&compiler.n_cached()), "{}", compiler.n_cached());
    assert!(compile(&Format::JsonObject).is_ok());
}
