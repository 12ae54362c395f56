//! A matcher's steps.

use ingle_chat::{Format, Rule};
use ingle_grammar::{GrammarError, TokenMask};
use ingle_step::TokenId;
use ingle_testkit::rng::Rng;
use serde_json::json;

use crate::common::{compile, large, small, special, takes, walk};

fn schema() -> Format {
    Format::JsonSchema(json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "kind": { "enum": ["hello world", "hello there"] },
            "numbers": { "type": "array", "items": { "type": "integer" }, "maxItems": 3 },
        },
        "required": ["name", "kind"],
        "additionalProperties": false,
    }))
}

/// Formats whose answers differ in kind.
fn formats() -> Vec<Format> {
    let rule = Rule::Tagged {
        tags: vec![(
            "<tool_call>".to_owned(),
            Rule::Sequence(vec![
                Rule::Json(json!({ "const": { "a": 1 } })),
                Rule::Text("</tool_call>".to_owned()),
            ]),
        )],
        at_least_one: true,
        at_most_one: false,
    };
    vec![
        schema(),
        Format::JsonObject,
        Format::Regex("(hello|world)+[0-9]{2}é?".to_owned()),
        Format::Choice(vec!["hello".to_owned(), "hell".to_owned()]),
        Format::Gbnf("root ::= \"(\" root* \")\" | [a-c]+\n".to_owned()),
        Format::Lark("start: \"a\" start? \"b\"".to_owned()),
        Format::Rule(rule),
    ]
}

/// Whatever is chosen, the answer can go on; masks do not depend on what else was asked, or taken back.
#[test]
fn random_walks() {
    let tokenizer = small();
    let mut rng = Rng::new(5);
    for format in formats() {
        let grammar = compile(&format).expect("a sound format");
        for _ in 0..20 {
            let mut matcher = grammar.matcher();
            let mut masks: Vec<TokenMask> = Vec::new();
            let mut tokens: Vec<TokenId> = Vec::new();
            while tokens.len() < 60 {
                if rng.one_in(3) {
                    let forced = matcher.forced();
                    let mut ahead = grammar.matcher();
                    assert!(
                        walk(&mut ahead, &tokenizer, &tokens) && walk(&mut ahead, &tokenizer, &forced),
                        "{format:?}"
                    );
                }
                let mut mask = TokenMask::new(tokenizer.n_vocab());
                matcher.mask(&mut mask).unwrap_or_else(|error| {
                    panic!("{format:?}: {error} after {:?}", tokenizer.decode(&tokens, true))
                });
                assert_eq!(
                    matcher.must_end(),
                    mask.tokens().all(|id| tokenizer.is_end(id)),
                    "{format:?} {tokens:?}"
                );
                for id in mask.tokens() {
                    let named = matches!(format, Format::Rule(_)) && !tokenizer.is_control(id);
                    assert!(
                        tokenizer.is_text(id) || tokenizer.is_end(id) || named,
                        "{format:?}: {}",
                        tokenizer.token_text(id)
                    );
                }
                let allowed: Vec<TokenId> = mask.tokens().collect();
                let token = allowed[rng.below(allowed.len())];
                masks.push(mask);
                matcher.accept(token).expect("the mask allows it");
                tokens.push(token);
                if tokenizer.is_end(token) {
                    break;
                }
            }
            // Again, alone.
            let mut alone = grammar.matcher();
            for (token, expected) in tokens.iter().zip(&masks) {
                let mut mask = TokenMask::new(tokenizer.n_vocab());
                alone.mask(&mut mask).expect("as before");
                assert_eq!(mask, *expected, "{format:?}");
                alone.accept(*token).expect("as before");
            }
            // And taken back.
            let n = rng.below(tokens.len() + 1);
            matcher.rollback(n).expect("so many were accepted");
            for (token, expected) in tokens.iter().zip(&masks).skip(tokens.len() - n) {
                let mut mask = TokenMask::new(tokenizer.n_vocab());
                matcher.mask(&mut mask).expect("as before");
                assert_eq!(mask, *expected, "{format:?} after {n} of {} were taken back", tokens.len());
                matcher.accept(*token).expect("as before");
            }
        }
    }
}

#[test]
fn nothing_follows_the_end() {
    let grammar =
        compile(&Format::Choice(vec!["hello".to_owned(), "hello world".to_owned()])).expect("sound");
    let tokenizer = small();
    let end = special("<|im_end|>");
    let mut matcher = grammar.matcher();
    assert!(!matcher.may_end() && !matcher.must_end());
    assert_eq!(matcher.accept(end), Err(GrammarError::NotAllowed { token: end }));
    assert!(walk(&mut matcher, &tokenizer, &tokenizer.encode_content("hello")));
    assert!(matcher.may_end() && !matcher.must_end());
    matcher.accept(end).expect("it may end");
    assert!(matcher.must_end());
    let token = tokenizer.encode_content(" w")[0];
    assert_eq!(matcher.accept(token), Err(GrammarError::NotAllowed { token }));
    assert!(matcher.forced().is_empty());
    // An end can be taken back, too.
    matcher.rollback(1).expect("one was accepted");
    assert!(walk(&mut matcher, &tokenizer, &tokenizer.encode_content(" world")));
    assert!(matcher.may_end() && matcher.must_end());
    matcher.rollback(1).expect("some were accepted");
    assert!(!matcher.may_end() && !matcher.must_end());
    assert!(matches!(matcher.rollback(99), Err(GrammarError::Rollback { wanted: 99, .. })));
}

#[test]
fn what_must_come_is_said() {
    let vocabularies = [Some(small()), large(), crate::common::vocabulary("llama-spm")];
    for tokenizer in vocabularies.into_iter().flatten() {
        let compiler = ingle_grammar::Compiler::new(&tokenizer, Default::default());
        let format = Format::JsonSchema(json!({ "const": { "description of it": "hello" } }));
        let grammar = compiler.compile(&format).expect("sound");
        let mut matcher = grammar.matcher();
        let mut text = String::new();
        let mut mask = TokenMask::new(tokenizer.n_vocab());
        let mut n_asked = 0;
        while !matcher.must_end() {
            let forced = matcher.forced();
            for &token in &forced {
                matcher.accept(token).expect("it must come");
                text.push_str(&tokenizer.token_text(token));
            }
            if matcher.must_end() {
                break;
            }
            matcher.mask(&mut mask).expect("it goes on");
            let token = mask
                .tokens()
                .find(|&id| !tokenizer.token_text(id).contains([' ', '\n', '\t', '\r']))
                .expect("there is one");
            matcher.accept(token).expect("the mask allows it");
            text.push_str(&tokenizer.token_text(token));
            n_asked += 1;
        }
        assert_eq!(text, r#"{"description of it":"hello"}"#);
        assert!(n_asked < 12, "{n_asked}");
        let whole = tokenizer.encode_continuation(r#"{"description of it": "hello"}"#);
        assert!(takes(&grammar, &tokenizer, &whole));
    }
}

/// Tokens that must come are taken in one go or one by one, or picked: masks behind them are the same.
#[test]
fn what_is_forced_may_be_long() {
    let tokenizer = small();
    let long = "hello world ".repeat(2_000);
    for (format, n_most) in [
        (Format::Choice(vec![format!("{long}a"), format!("{long}b")]), 4096),
        // So many symbols at once are more than the recognizer takes; it goes on without looking ahead.
        (Format::Gbnf("root ::= a{9000} b\na ::= \"a\" | \"a\"\nb ::= [bc]\n".to_owned()), 4096),
    ] {
        let grammar = compile(&format).expect("sound");
        let (mut jumping, mut walking) = (grammar.matcher(), grammar.matcher());
        let (mut mask, mut expected) =
            (TokenMask::new(tokenizer.n_vocab()), TokenMask::new(tokenizer.n_vocab()));
        let mut n_forced = 0;
        for _ in 0..40 {
            let forced = jumping.forced();
            assert!(forced.len() <= n_most, "{} tokens", forced.len());
            n_forced += forced.len();
            for (at, &token) in forced.iter().enumerate() {
                jumping.accept(token).expect("it must come");
                if at % 16 == 0 {
                    walking.mask(&mut expected).expect("it goes on");
                }
                walking.accept(token).expect("it must come");
            }
            jumping.mask(&mut mask).expect("it goes on");
            walking.mask(&mut expected).expect("it goes on");
            assert_eq!(mask, expected);
            let token = mask.tokens().next().expect("one is allowed");
            if tokenizer.is_end(token) {
                break;
            }
            jumping.accept(token).expect("it is allowed");
            walking.accept(token).expect("it is allowed");
        }
        println!("{n_forced} tokens were forced");
    }
    let spelled = |options: &str| {
        let text = format!("%llguidance {{{options}}}\nstart: \"true hello\"");
        compile(&Format::Lark(text)).expect("sound").matcher().forced().len()
    };
    assert!(spelled("") > 0 && spelled("\"no_forcing\": false") > 0);
    assert_eq!(spelled("\"no_forcing\": true"), 0, "the model spells");
}

#[test]
fn matchers_may_move_between_threads() {
    fn sent<T: Send>(_: T) {}
    let grammar = compile(&schema()).expect("sound");
    sent(grammar.matcher());
    sent(grammar);
}

/// The sentence-piece vocabulary: bytes twice, spaces in front.
#[test]
fn other_vocabularies() {
    for name in ["llama-spm", "qwen2"] {
        let Some(tokenizer) = crate::common::vocabulary(name) else { return };
        let compiler = ingle_grammar::Compiler::new(&tokenizer, Default::default());
        let grammar = compiler.compile(&schema()).expect("sound");
        let mut mask = TokenMask::new(tokenizer.n_vocab());
        let mut matcher = grammar.matcher();
        for byte in r#"{"name": "é", "kind": "hello there"}"#.bytes() {
            // Byte by byte, where there is a token for each.
            matcher.mask(&mut mask).expect("it goes on");
            let token = mask.tokens().find(|&id| tokenizer.token_bytes(id) == [byte]).expect("there is one");
            matcher.accept(token).expect("the mask allows it");
        }
        assert!(matcher.may_end(), "{name}");
    }
}
