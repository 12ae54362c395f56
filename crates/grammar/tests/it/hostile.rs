//! Formats made to break compilers: each gets a verdict, in bounded time.

use std::time::{Duration, Instant};

use ingle_chat::Format;
use ingle_grammar::{Compiler, GrammarError, Limits, TokenMask};
use serde_json::{Map, Value, json};

use crate::common::{compiler, large, small};

/// Far above what a verdict takes, also on a busy machine: this is about hangs.
const VERDICT_MAX: Duration = Duration::from_secs(20);

/// Compiles, and takes the first masks.
fn verdict(name: &str, compiler: &Compiler, format: &Format) -> Result<(), GrammarError> {
    let started = Instant::now();
    let result = compiler.compile(format).and_then(|grammar| {
        let mut matcher = grammar.matcher();
        let mut mask = TokenMask::new(small().n_vocab());
        for _ in 0..20 {
            matcher.mask(&mut mask)?;
            let Some(token) = mask.tokens().next() else { break };
            matcher.accept(token)?;
        }
        Ok(())
    });
    let took = started.elapsed();
    assert!(took < VERDICT_MAX, "{name} took {took:?}");
    if std::env::var_os("SHOW").is_some() {
        println!("{name}: {took:?}: {result:?}");
    }
    result
}

fn regex(text: &str) -> Format {
    Format::Regex(text.to_owned())
}

fn schema(schema: Value) -> Format {
    Format::JsonSchema(schema)
}

#[test]
fn expressions() {
    let compiler = compiler();
    let nested = "(".repeat(60_000) + &")".repeat(60_000);
    for (text, is_sound) in [
        ("(a+)+b", true),
        ("(a|a)*", true),
        ("a{65536}", true),
        ("[\\x00-\\u2e7f]+", true),
        ("^(|.*)$", true),
        ("foo**", false),
        ("^+[a-z]$", false),
        ("^{2}t$", false),
        ("[a", false),
        ("(?<=a)b", false),
        (nested.as_str(), false),
    ] {
        assert_eq!(
            verdict(text.get(..20).unwrap_or(text), &compiler, &regex(text)).is_ok(),
            is_sound,
            "{:?}",
            text.get(..20)
        );
        let in_schema = schema(json!({ "type": "string", "pattern": text }));
        let result = verdict("in a schema", &compiler, &in_schema);
        assert!(is_sound || result.is_err(), "{:?}", text.get(..20));
    }
    // A verdict, whichever.
    _ = verdict("product", &compiler, &regex("(a{1000}){1000}"));
    _ = verdict("exponential", &compiler, &regex("(a|b)*a(a|b){200}"));
    _ = verdict(
        "intersections",
        &compiler,
        &schema(
            json!({ "type": "string", "pattern": "(a|b)*a(a|b){60}", "minLength": 50, "maxLength": 5000 }),
        ),
    );
    let many: Vec<Value> = (0..400)
        .map(|n| json!({ "type": "string", "pattern": format!("^(a|b)*a(a|b){{{n}}}$"), "minLength": 9 }))
        .collect();
    _ = verdict("many expressions", &compiler, &schema(json!({ "type": "array", "prefixItems": many })));
    let many: Map<String, Value> = (0..20).map(|n| (format!("^(a|b)*a(a|b){{9}}{n}$"), json!({}))).collect();
    _ = verdict("many names", &compiler, &schema(json!({ "type": "object", "patternProperties": many })));
}

#[test]
fn large_schemas() {
    let compiler = compiler();
    let any = |n: usize, of: fn(usize) -> Value| Value::from((0..n).map(of).collect::<Vec<_>>());
    _ = verdict(
        "identical cases",
        &compiler,
        &schema(
            json!({ "anyOf": any(10_000, |_| json!({ "type": "object", "properties": { "a": { "type": "string" } } })) }),
        ),
    );
    _ = verdict(
        "similar cases",
        &compiler,
        &schema(
            json!({ "anyOf": any(1_000, |n| json!({ "type": "object", "properties": { "a": { "const": n } }, "required": ["a"] })) }),
        ),
    );
    _ = verdict(
        "distinct cases",
        &compiler,
        &schema(
            json!({ "oneOf": any(1_000, |n| json!({ "type": "object", "properties": { "a": { "const": format!("k{n}") } }, "required": ["a"] })) }),
        ),
    );
    let long = "prefix ".repeat(10);
    let strings: Vec<String> = (0..9_000).map(|n| format!("{long}{n}")).collect();
    assert!(verdict("long strings", &compiler, &schema(json!({ "enum": strings }))).is_ok());
    let strings: Vec<String> = (0..100_000).map(|n| format!("{n}")).collect();
    assert!(matches!(
        verdict("too many strings", &compiler, &schema(json!({ "enum": strings }))),
        Err(GrammarError::TooLarge { .. })
    ));
    let properties: Map<String, Value> =
        (0..1_000).map(|n| (format!("p{n}"), json!({ "type": "integer" }))).collect();
    _ = verdict(
        "many properties",
        &compiler,
        &schema(json!({ "type": "object", "properties": properties, "additionalProperties": false })),
    );
    _ = verdict(
        "many properties, open",
        &compiler,
        &schema(json!({ "type": "object", "properties": properties })),
    );
    for (name, one) in [
        ("items", json!({ "type": "array", "minItems": 1_000_000_000 })),
        ("length", json!({ "type": "string", "minLength": 1_000_000_000 })),
    ] {
        assert!(
            matches!(verdict(name, &compiler, &schema(one)), Err(GrammarError::TooLarge { .. })),
            "{name}"
        );
    }
    for one in [
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 65_536 }),
        json!({ "type": "array", "maxItems": 4_000_000_000u64 }),
        json!({ "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 65_536 }, "maxItems": 65_536 }),
        json!({ "type": "string", "maxLength": 4_000_000_000_000u64 }),
        json!({ "type": "object", "properties": {} }),
        json!({ "type": "object", "properties": { "\"": true, "\u{0}": true, "😀": true, "": true, "a".repeat(65_536): true } }),
    ] {
        let text = one.to_string();
        let result = verdict("sound", &compiler, &schema(one));
        assert!(result.is_ok(), "{}: {result:?}", text.get(..100).unwrap_or(&text));
    }
}

#[test]
fn contradictions_are_refused() {
    let compiler = compiler();
    for one in [
        json!({ "allOf": [{ "type": "integer", "minimum": 10 }, { "maximum": 5 }] }),
        json!({ "allOf": [{ "type": "string" }, { "type": "integer" }] }),
        json!({ "type": "string", "minLength": 5, "maxLength": 3 }),
        json!({ "type": "string", "pattern": "^a$", "minLength": 2 }),
        json!({ "type": "array", "items": false, "minItems": 1 }),
        json!({ "type": "object", "required": ["a"], "properties": { "a": false } }),
        json!({ "const": 1, "enum": [2] }),
        json!({ "type": "object", "properties": { "a": { "$ref": "#" } }, "required": ["a"] }),
        json!({ "allOf": [{ "$ref": "#" }] }),
    ] {
        let error = verdict(&one.to_string(), &compiler, &schema(one.clone())).expect_err("nothing is valid");
        assert!(error.is_refusal(), "{one}: {error:?}");
    }
}

/// Cases that multiply, copies of large parts, expressions that are all compared.
#[test]
fn intersections() {
    let compiler = compiler();
    let list = |n: usize, of: &dyn Fn(usize) -> Value| -> Vec<Value> { (0..n).map(of).collect() };
    let object = |names: &[String]| -> Value {
        let properties: Map<String, Value> =
            names.iter().map(|name| (name.clone(), json!({ "type": "null" }))).collect();
        json!({ "type": "object", "properties": properties })
    };
    let wide = object(&(0..900).map(|n| format!("p{n}")).collect::<Vec<_>>());
    let deep = json!({ "type": "object", "properties": { "a": wide, "b": wide, "c": wide, "d": wide } });
    let patterns = |i: usize| -> Map<String, Value> {
        (0..20).map(|n| (format!("^(a|b)*{i}_{n}$"), json!({ "type": "null" }))).collect()
    };
    let with_deep = |parts: Vec<Value>| json!({ "allOf": ([vec![deep.clone()], parts].concat()) });
    for (name, one) in [
        ("copies", with_deep(vec![json!({ "anyOf": list(900, &|_| json!({ "type": "object" })) })])),
        (
            "copies by `oneOf`",
            with_deep(vec![
                json!({ "oneOf": list(900, &|n| json!({ "type": "object", "properties": { "k": { "const": n } }, "required": ["k"] })) }),
            ]),
        ),
        ("types left open", with_deep(list(900, &|n| json!({ "minimum": n })))),
        (
            "types left open, nested",
            with_deep(list(
                900,
                &|n| json!({ "properties": { "a": { "properties": { "p0": { "minimum": n } } } } }),
            )),
        ),
        ("few types", with_deep(list(900, &|_| json!({ "type": ["object", "null"] })))),
        (
            "patterns",
            json!({ "type": "object", "allOf": list(25, &|n| json!({ "type": "object", "patternProperties": patterns(n) })) }),
        ),
        (
            "patterns apart",
            json!({ "type": "array", "prefixItems": list(25, &|n| json!({ "type": "object", "patternProperties": patterns(n) })) }),
        ),
        (
            "patterns of cases",
            json!({ "allOf": [{ "type": "object", "patternProperties": patterns(0) }, { "anyOf": list(900, &|n| object(&[format!("a{n}")])) }] }),
        ),
        (
            "products",
            json!({ "allOf": list(15, &|n| json!({ "anyOf": [object(&[format!("a{n}")]), object(&[format!("b{n}")])] })) }),
        ),
        (
            "small products",
            json!({ "allOf": list(8, &|n| json!({ "anyOf": [object(&[format!("a{n}")]), object(&[format!("b{n}")])] })) }),
        ),
        (
            "nested products",
            json!({ "allOf": list(6, &|n| json!({ "type": "object", "properties": { "x": { "anyOf": list(9, &|m| object(&[format!("a{n}_{m}")])) } } })) }),
        ),
        ("growing", json!({ "type": "object", "allOf": list(900, &|n| object(&[format!("a{n}")])) })),
        (
            "growing, open",
            json!({ "allOf": list(900, &|n| json!({ "properties": { format!("a{n}"): { "minimum": n } } })) }),
        ),
        (
            "numbers",
            json!({ "type": "integer", "allOf": list(900, &|n| json!({ "type": "integer", "minimum": n })) }),
        ),
        (
            "constants",
            json!({ "allOf": list(9, &|n| json!({ "enum": list(1_000, &|m| json!({ "k": [m, n] })) })) }),
        ),
        (
            "copies of a definition",
            json!({
                "allOf": list(2_000, &|_| json!({ "$ref": "#/$defs/d" })), "type": "object", "$defs": { "d": deep },
            }),
        ),
    ] {
        let result = verdict(name, &compiler, &schema(one));
        assert!(result.as_ref().err().is_none_or(GrammarError::is_refusal), "{name}: {result:?}");
    }
    for n in [8, 400] {
        let one = |pattern: fn(usize) -> String| json!({ "type": "string", "allOf": list(n, &|n| json!({ "type": "string", "pattern": pattern(n) })) });
        _ = verdict("lengths", &compiler, &schema(one(|n| format!("a{{{n}}}"))));
        _ = verdict("letters", &compiler, &schema(one(|n| format!("^[a-z]*x{n}[a-z]*$"))));
    }
    assert!(compiler.compile(&schema(json!({ "allOf": [deep, object(&["e".to_owned()])] }))).is_ok());
}

#[test]
fn references_in_circles_and_chains() {
    let compiler = compiler();
    for n in [1_000, 1_990, 100_000] {
        let pure: Map<String, Value> =
            (0..n).map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }))).collect();
        _ = verdict("pure chain", &compiler, &schema(json!({ "$ref": "#/$defs/d0", "$defs": pure })));
        let mut nested: Map<String, Value> = (0..n)
            .map(|i| (format!("d{i}"), json!({ "type": "object", "properties": { "a": { "$ref": format!("#/$defs/d{}", i + 1) } } })))
            .collect();
        nested.insert(format!("d{n}"), json!({ "type": "null" }));
        _ = verdict("chain", &compiler, &schema(json!({ "$ref": "#/$defs/d0", "$defs": nested })));
    }
    let mutual = json!({ "$ref": "#/$defs/a", "$defs": {
        "a": { "type": "object", "properties": { "b": { "$ref": "#/$defs/b" } } },
        "b": { "type": "array", "items": { "$ref": "#/$defs/a" } },
    } });
    assert!(verdict("mutual", &compiler, &schema(mutual)).is_ok());
    let trees = json!({ "allOf": [{ "$ref": "#/$defs/t" }, { "$ref": "#/$defs/u" }], "$defs": {
        "t": { "type": "object", "properties": { "c": { "$ref": "#/$defs/t" } } },
        "u": { "type": "object", "properties": { "c": { "$ref": "#/$defs/u" } } },
    } });
    _ = verdict("trees", &compiler, &schema(trees));
    let mut doubled = Map::new();
    for i in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        doubled.insert(
            format!("d{i}"),
            json!({ "allOf": [{ "properties": { "a": next, "b": next } }, { "properties": { "a": next } }] }),
        );
    }
    doubled.insert("d40".to_owned(), json!({ "type": "integer" }));
    _ = verdict("doubled", &compiler, &schema(json!({ "$ref": "#/$defs/d0", "$defs": doubled })));
    let mut deep = json!({ "type": "integer" });
    for _ in 0..400 {
        deep = json!({ "items": deep });
    }
    assert!(matches!(verdict("deep", &compiler, &schema(deep)), Err(GrammarError::TooLarge { .. })));
}

#[test]
fn grammars() {
    let compiler = compiler();
    let long: String = (0..1_990).map(|n| format!("r{n} ::= \"a\" r{} | \"b\"\n", n + 1)).collect();
    for (name, text) in [
        ("chain", format!("root ::= r0\n{long}r1990 ::= \"c\"\n")),
        (
            "doubling",
            (0..40).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect::<String>()
                + "r40 ::= \"a\"\nroot ::= r0\n",
        ),
        (
            "recursive doubling",
            (0..40)
                .map(|n| format!("r{n} ::= r{} r{} | \"(\" root \")\"\n", n + 1, n + 1))
                .collect::<String>()
                + "r40 ::= \"a\"\nroot ::= r0\n",
        ),
        ("left recursion", "root ::= root root | root \"a\" | \"\"\n".to_owned()),
        ("hidden left recursion", "root ::= e root \"a\" | \"b\"\ne ::= \"\" | e\n".to_owned()),
        ("ambiguous", "root ::= (root | \"a\")* (root | \"a\")*\n".to_owned()),
        ("empty loops", "root ::= ((\"\"*)*)* root? \"a\"\n".to_owned()),
        ("many repetitions", "root ::= ((\"a\"{65536}){65536}){65536} root?\n".to_owned()),
        (
            "many rules",
            (0..20_000).map(|n| format!("r{n} ::= \"a\"\n")).collect::<String>() + "root ::= r0\n",
        ),
        (
            "many units",
            format!(
                "root ::= {} root?\n",
                (0..3_000).map(|n| format!("(\"k{n}\" [a-z]*)")).collect::<Vec<_>>().join(" | ")
            ),
        ),
    ] {
        _ = verdict(name, &compiler, &Format::Gbnf(text));
    }
    for (name, text) in [
        ("left recursion", "start: start start | start \"a\" | \"\"".to_owned()),
        ("nested", format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000))),
        ("unclosed", "start: ".to_owned() + &"(".repeat(50)),
        ("unclosed attributes", "[".to_owned()),
        ("not not", format!("start: T\nT: {} /a/", "~(".repeat(20) + "/b/" + &")".repeat(20))),
        (
            "chain",
            (0..1_990).map(|n| format!("r{n}: \"a\" r{}\n", n + 1)).collect::<String>()
                + "r1990: \"c\"\nstart: r0",
        ),
        (
            "terminals",
            (0..1_990).map(|n| format!("R{n}: \"a\" R{}\n", n + 1)).collect::<String>()
                + "R1990: \"c\"\nstart: R0",
        ),
        ("recursive terminal", "start: A\nA: \"a\" A".to_owned()),
        ("bytes", "start: /(?-u:\\xff).*/".to_owned()),
        ("repetitions", "start: (\"a\"{1000000000}){1000000000}".to_owned()),
        ("negative", "start: \"a\"{-3,5}".to_owned()),
        ("number", "start: \"a\"~99999999999999999999".to_owned()),
        ("keywords", "%json %regex %llguidance %lark %ignore %import %override %declare".to_owned()),
        ("substrings", format!("start: %regex {{\"substring_chars\": \"{}\"}}", "ab".repeat(20_000))),
        ("no control tokens", "start: /(?s:.)*\\xff/".to_owned()),
    ] {
        let result = verdict(name, &compiler, &Format::Lark(text.clone()));
        if name == "bytes" {
            assert!(result.is_err(), "{result:?}");
        }
    }
}

/// What is fine on a small vocabulary may be too much on a large one.
#[test]
fn on_a_large_vocabulary() {
    let Some(tokenizer) = large() else { return };
    let compiler = Compiler::new(&tokenizer, Limits::default());
    for text in ["(a+)+b", "a{65536}", "[\\x00-\\u2e7f]+", "^(|.*)$", "(a|b)*a(a|b){200}", "(?s).*"] {
        _ = verdict(text, &compiler, &regex(text));
    }
    let properties: Map<String, Value> =
        (0..1_000).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect();
    let wide = json!({ "type": "object", "properties": properties });
    assert!(verdict("many properties", &compiler, &schema(wide)).is_ok());
}
