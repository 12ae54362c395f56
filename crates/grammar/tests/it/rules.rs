//! Rules of our own.

use ingle_chat::{Format, Rule};
use ingle_grammar::GrammarError;
use serde_json::json;

use crate::common::{check, refused};

fn text(text: &str) -> Rule {
    Rule::Text(text.to_owned())
}

fn until(text: &str) -> Rule {
    Rule::Until(text.to_owned())
}

fn object() -> Rule {
    Rule::Json(json!({
        "type": "object",
        "properties": { "name": { "type": "string" } },
        "required": ["name"],
        "additionalProperties": false,
    }))
}

fn tagged(tags: Vec<(&str, Rule)>, at_least_one: bool, at_most_one: bool) -> Rule {
    let tags = tags.into_iter().map(|(begin, rule)| (begin.to_owned(), rule)).collect();
    Rule::Tagged { tags, at_least_one, at_most_one }
}

#[test]
fn texts_become_tokens_where_they_spell_some() {
    let rule = Rule::Sequence(vec![text("<tool_call>\n"), object(), text("\n</tool_call>")]);
    check(
        &Format::Rule(rule),
        &["<tool_call>\n{\"name\": \"a\"}\n</tool_call>", "<tool_call>\n{\"name\":\"<b>\"}\n</tool_call>"],
        &[
            "",
            "<tool_call>{\"name\": \"a\"}\n</tool_call>",
            "<tool_call>\n{}\n</tool_call>",
            "{\"name\": \"a\"}",
        ],
    );
    check(&Format::Rule(text("a<b>c")), &["a<b>c"], &["a", "a<b>", "a<b>cd"]);
    check(&Format::Rule(text("")), &[""], &["a"]);
}

#[test]
fn text_up_to_a_text() {
    check(
        &Format::Rule(Rule::Sequence(vec![until("###"), Rule::Regex("[a-z]*".to_owned())])),
        &["###", "hello ###x", "a#b##c###", "###abc"],
        &["", "hello", "##", "###A", "### ###", "hello ####x"],
    );
    // A token ends it; the same text, spelled out, does not, and is not allowed.
    check(
        &Format::Rule(Rule::Sequence(vec![until("</think>"), text("ok")])),
        &["</think>ok", "hello\n<b></think>ok"],
        &["ok", "hello</think>", "<tool_call></think>ok", "hello<|im_start|></think>ok"],
    );
    check(
        &Format::Rule(Rule::Sequence(vec![until("\n</think>"), object()])),
        &["a\n\n</think>{\"name\":\"\"}", "\n</think>{\"name\":\"\"}"],
        &["a</think>{\"name\":\"\"}"],
    );
}

#[test]
fn any_text_is_no_control_token() {
    check(&Format::Rule(Rule::AnyText), &["", "a\n", "<b>é"], &["<|im_start|>", "<think>", "a<tool_call>"]);
}

#[test]
fn tagged_texts() {
    let tags = || vec![("<f>", text("x</f>")), ("<g>", Rule::Regex("[0-9]+;".to_owned()))];
    let all = ["", "free", "<f>x</f>", "a<f>x</f>b<g>12;", "a <f <g>1;<g>2;"];
    let broken = ["<f>", "<f>y</f>", "a<g>;", "<f>x</f><f>"];
    check(&Format::Rule(tagged(tags(), false, false)), &all, &broken);
    check(&Format::Rule(tagged(tags(), true, false)), &all[2..], &["", "free", "<f>"]);
    check(
        &Format::Rule(tagged(tags(), false, true)),
        &all[..3],
        &["<f>x</f><f>x</f>", "<f>x</f> <g>1;", "<g>"],
    );
    check(&Format::Rule(tagged(tags(), true, true)), &["<f>x</f>", "a<g>1;b"], &["", "a", "<f>x</f><g>1;"]);
    // One beginning that another one begins with.
    let rule = tagged(vec![("<a", text("1")), ("<ab", text("2"))], false, false);
    check(&Format::Rule(rule), &["<a1", "<ab2", "x<a1<ab2y"], &["<a", "<a2", "<ab1", "<ac"]);
}

#[test]
fn tagged_json() {
    let tags = vec![("<tool_call>", Rule::Sequence(vec![text("\n"), object(), text("\n</tool_call>")]))];
    check(
        &Format::Rule(tagged(tags, false, false)),
        &[
            "",
            "hello",
            "<tool_call>\n{\"name\":\"a\"}\n</tool_call>",
            "so:<tool_call>\n{\"name\":\"a\"}\n</tool_call>\n<tool_call>\n{\"name\":\"b\"}\n</tool_call>done",
        ],
        &["<tool_call>", "a<tool_call>\n{}\n</tool_call>", "a</tool_call>", "a<think>"],
    );
    // Text marks of which some are tokens and some are not, and JSON behind both.
    let tags = vec![
        ("<tool_call>", Rule::Sequence(vec![object(), text("</tool_call>")])),
        ("[CALL]", Rule::Sequence(vec![object(), text("[END]")])),
        (":<think>", text("t</think>")),
    ];
    check(
        &Format::Rule(tagged(tags, true, false)),
        &[
            "a[CALL]{\"name\":\"a\"}[END]",
            "<tool_call>{\"name\":\"a\"}</tool_call> [CALL]{\"name\": \"a\"}[END] x",
            "a:<think>t</think>",
            "::<think>t</think>[CALL]{\"name\":\"a\"}[END]",
        ],
        &["", "a", "[CALL]", "[CALL]{}[END]", "a<think>t</think>", "[CALL]{\"name\":\"a\"}"],
    );
}

#[test]
fn sequences_choices_and_repetitions() {
    let item = Rule::Any(vec![text("a"), text("ab"), object()]);
    let repeat =
        |rule: &Rule, min, max| Format::Rule(Rule::Repeat { rule: Box::new(rule.clone()), min, max });
    check(&repeat(&item, 0, Some(2)), &["", "a", "ab{\"name\":\"\"}", "aa"], &["aaa", "b", "{}"]);
    check(&repeat(&item, 2, None), &["aa", "{\"name\":\"\"}{\"name\":\"\"}a"], &["", "a"]);
    check(&repeat(&text("ab"), 1, Some(3)), &["ab", "ababab"], &["", "a", "abababab"]);
    check(&repeat(&text("ab"), 0, Some(0)), &[""], &["ab"]);
    check(
        &repeat(&text("<think>"), 1, Some(2)),
        &["<think>", "<think><think>"],
        &["", "<think><think><think>"],
    );
    // What is regular is one terminal, however it ends: any text may stand before another text.
    let rule = Rule::Sequence(vec![Rule::AnyText, text("end"), Rule::Sequence(vec![])]);
    check(&Format::Rule(rule), &["end", "the endend"], &["", "en", "end of it"]);
}

#[test]
fn rules_that_cannot_be() {
    let rule = |rule: Rule| refused(&Format::Rule(rule));
    assert!(matches!(rule(Rule::Any(vec![])), GrammarError::Invalid { .. }));
    assert!(matches!(rule(until("")), GrammarError::Invalid { .. }));
    assert!(matches!(rule(tagged(vec![("", text("a"))], false, false)), GrammarError::Invalid { .. }));
    assert!(matches!(rule(Rule::Sequence(vec![Rule::AnyText, object()])), GrammarError::Unsupported { .. }));
    let error = rule(Rule::Json(json!({ "properties": { "a": { "uniqueItems": true } } })));
    assert_eq!((error.pointer(), error.keyword()), (Some("/properties/a"), Some("uniqueItems")));
    let mut deep = text("a");
    for _ in 0..100 {
        deep = Rule::Sequence(vec![deep]);
    }
    assert!(matches!(rule(deep), GrammarError::TooLarge { .. }));
}
