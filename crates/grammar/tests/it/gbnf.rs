//! llama.cpp's notation.

use ingle_chat::Format;
use ingle_grammar::{Compiler, GrammarError, Limits};
use serde_json::Value;

use crate::common::{check, compile, compiler, large, refused, shared, small, takes_text};

fn gbnf(text: &str) -> Format {
    Format::Gbnf(text.to_owned())
}

#[test]
fn the_notation() {
    check(
        &gbnf("# comment\nroot ::= \"a\" b # more\nb ::= [x-z]+ |\n  \"\\u00e9\\x41\\n\\\"\"\n"),
        &["ax", "axyz", "aéA\n\""],
        &["a", "b"],
    );
    check(
        &gbnf("root ::= ( \"a\"\n  | \"b\" ){2,3} [^a-z\\]-]?"),
        &["ab", "aba", "bb0"],
        &["a", "abab", "ab]", "abz", "ab-"],
    );
    check(
        &gbnf("root ::= . \"a\"{0} \"b\"{,2} \"c\"{1,} \"d\"{2}"),
        &["xcdd", "\nbbcccdd", "éccdd"],
        &["acd", "xadd", "xbbbcdd"],
    );
    check(&gbnf("root ::= \"\" | \"a\""), &["", "a"], &["b"]);
    check(&gbnf("root ::= a-b c_d\na-b ::= \"1\"\r\nc_d ::= \"2\""), &["12"], &["1"]);
}

#[test]
fn tokens() {
    check(
        &gbnf("root ::= <think> [a-z]* </think> \"!\""),
        &["<think>ab</think>!", "<think></think>!"],
        &["ab</think>!", "<think>A</think>!"],
    );
    let id = crate::common::special("<tool_call>").0;
    check(
        &gbnf(&format!("root ::= <[{id}]> !<[97]>+")),
        &["<tool_call>b", "<tool_call>hello"],
        &["<tool_call>a", "<tool_call><|im_start|>", "b"],
    );
}

#[test]
fn recursion() {
    check(&gbnf("root ::= \"(\" root* \")\""), &["()", "(()(()))"], &["", "(", "())"]);
    // Left, right, and through another rule.
    check(&gbnf("root ::= root \"+\" n | n\nn ::= [0-9]+"), &["1", "12+3+45"], &["", "+1", "1+", "1++2"]);
    check(&gbnf("root ::= a\na ::= \"x\" b?\nb ::= \"y\" a?"), &["x", "xyx", "xyxy"], &["", "y", "xx"]);
}

/// What greedy lexemes would miss: the longest text is not the one that leads on.
#[test]
fn derivations_that_a_lexer_would_miss() {
    check(&gbnf("root ::= w w \"(\" root? \")\"\nw ::= [a-z]+"), &["ab()", "abc(ab())"], &["a()", "ab"]);
    check(
        &gbnf("root ::= \"ab\" x | l l x\nl ::= [a-z]\nx ::= \"(\" root? \")\""),
        &["ab()", "ax()", "xy(ab())"],
        &["abx()", "a()"],
    );
    check(
        &gbnf("root ::= k \" \" root \";\" | k\nk ::= \"in\" | \"int\" | \"inter\""),
        &["in", "int inter;", "in in in;;"],
        &["inte", "i", "in "],
    );
    check(
        &gbnf("root ::= s* e\ns ::= \"a\" | \"aa\"\ne ::= \"ab\" | \"(\" root \")\""),
        &["ab", "aab", "aaaa(ab)"],
        &["aa", "b"],
    );
    check(
        &gbnf("root ::= \"<\" t \">\" | \"<\" t \">\" root \"<\" t \">\"\nt ::= [a-z]* \"x\""),
        &["<x>", "<axx><x><x>"],
        &["<a>", "<>"],
    );
}

#[test]
fn json_by_grammar() {
    let text = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;
    let accepted =
        ["{}", "{\"a\": [1, -2.5e3, \"x\\u00e9\\n\"],\n  \"b\": {\"c\": null}}", "{ \"a\":true}\n\t"];
    let rejected = ["", "{", "{\"a\"}", "[]", "{\"a\": 01}", "{\"a\": tru}", "{}  "];
    check(&gbnf(text), &accepted, &rejected);
    if let Some(tokenizer) = large() {
        let grammar =
            Compiler::new(&tokenizer, Limits::default()).compile(&gbnf(text)).expect("a sound grammar");
        accepted.iter().for_each(|text| assert!(takes_text(&grammar, &tokenizer, text), "{text}"));
        rejected.iter().for_each(|text| assert!(!takes_text(&grammar, &tokenizer, text), "{text}"));
    }
}

#[test]
fn faults_have_a_place() {
    for (text, line, column) in [
        ("", 1, 1),
        ("foo ::= \"a\"", 1, 12),
        ("root ::= bar", 1, 10),
        ("root ::= \"a\n", 1, 10),
        ("root ::= [a", 1, 10),
        ("root ::= (\"a\"", 1, 14),
        ("root ::= \"a\")", 1, 13),
        ("root = \"a\"", 1, 6),
        ("root ::= \"a\"\n  b ::= \"é\" \"\\q\"", 2, 14),
        ("root ::= \"a\"{3,1}", 1, 13),
        ("root ::= \"a\"{99999999}", 1, 13),
        ("root ::= * \"a\"", 1, 10),
        ("root ::= <nope>", 1, 10),
        ("root ::= <[99999999]>", 1, 10),
        ("root ::= \"a\"\nroot ::= \"b\"", 2, 1),
        ("root ::= [z-a]", 1, 14),
        ("root ::= \"\\ud800\"", 1, 11),
    ] {
        match refused(&gbnf(text)) {
            GrammarError::Syntax { line: l, column: c, .. } => assert_eq!((l, c), (line, column), "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    // Sound, but nothing can be derived.
    assert!(refused(&gbnf("root ::= \"a\" root")).is_refusal());
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000));
    assert!(refused(&gbnf(&deep)).is_refusal());
}

/// llama.cpp's own examples, and its cases of what grammars and schemas accept.
#[test]
fn llama_cpp() {
    let Some(folder) = shared("grammar/gbnf") else { return };
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("readable");
        compile(&gbnf(&text)).unwrap_or_else(|error| panic!("{:?}: {error}", entry.path()));
    }
    let cases = std::fs::read(shared("grammar/accept_reject.json").expect("beside it")).expect("readable");
    let cases: Vec<Value> = serde_json::from_slice(&cases).expect("JSON");
    let compiler = compiler();
    let tokenizer = small();
    let mut wrong = Vec::new();
    for case in &cases {
        let format = if case["kind"] == "schema" {
            Format::JsonSchema(case["schema"].clone())
        } else if case["source"] == "test-grammar-llguidance.cpp" {
            Format::Lark(case["grammar"].as_str().expect("a text").to_owned())
        } else {
            gbnf(case["grammar"].as_str().expect("a text"))
        };
        let grammar = compiler.compile(&format).unwrap_or_else(|error| panic!("{case}: {error}"));
        for (list, expected) in [("pass", true), ("fail", false)] {
            for text in case[list].as_array().expect("a list") {
                let text = text.as_str().expect("a text");
                if takes_text(&grammar, &tokenizer, text) != expected {
                    wrong.push((case["source"].clone(), case["name"].clone(), list, text.to_owned()));
                }
            }
        }
    }
    // llama.cpp's own choices, where they are not JSON Schema's.
    wrong.retain(|(_, _, list, text)| !OURS.contains(&(*list, text.as_str())));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const OURS: &[(&str, &str)] = &[
    // Sixteen digits are no limit.
    ("fail", "12345678900000000"),
    // `items` demands nothing of what is no array.
    ("fail", "1"),
    // Further properties are allowed where nothing forbids them.
    (
        "fail",
        "{ \"number\": 1600, \"street_name\": \"Pennsylvania\", \"street_type\":\"Avenue\", \"direction\":\"NW\"}",
    ),
];
