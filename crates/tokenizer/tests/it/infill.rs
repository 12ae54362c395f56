//! Prompts that ask to fill a gap: which tokens mark it, and that nothing but the tokenizer writes them.

use ingle_chat::{Infill, InfillFile};
use ingle_gguf::{Metadata, Value};
use ingle_step::TokenId;
use ingle_testkit::bytes::{BOS, N_VOCAB, byte_of, metadata};
use ingle_tokenizer::Tokenizer;

fn tokenizer(md: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(md).expect("a valid vocabulary")
}

fn gap() -> Infill {
    Infill { prefix: "a(".into(), suffix: ")".into(), ..Infill::default() }
}

/// Tokens as text: bytes as they are, others by their number among the control tokens.
fn shown(tokens: &[TokenId]) -> String {
    let one = |token: &TokenId| match (byte_of(*token), *token) {
        (Some(b), _) => char::from(b).to_string(),
        (None, BOS) => "^".into(),
        (None, other) => format!("<{}>", other.0 as i64 - N_VOCAB as i64),
    };
    tokens.iter().map(one).collect()
}

#[track_caller]
fn check(control: &[&str], infill: &Infill, expected: Option<&str>) {
    let t = tokenizer(&metadata(control));
    assert_eq!(t.has_infill(), expected.is_some(), "{control:?}");
    assert_eq!(t.encode_infill(infill).as_deref().map(shown).as_deref(), expected, "{control:?}");
}

#[test]
fn marks_by_their_spelling() {
    for names in [
        ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
        ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
        ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
        ["<PRE>", "<SUF>", "<MID>"],
        ["▁<PRE>", "▁<SUF>", "▁<MID>"],
        ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ] {
        check(&names, &gap(), Some("^<0>a(<1>)<2>"));
        check(&names[..2], &gap(), None);
    }
    check(&[], &gap(), None);
    let begun = Infill { begun: "b".into(), ..gap() };
    check(&["<PRE>", "<SUF>", "<MID>"], &begun, Some("^<0>a(<1>)<2>b"));
    check(&["<PRE>", "<SUF>", "<MID>"], &Infill::default(), Some("^<0><1><2>"));
}

#[test]
fn marks_by_the_files_keys() {
    for [prefix, suffix, middle] in [
        ["fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"],
        ["prefix_token_id", "suffix_token_id", "middle_token_id"],
    ] {
        let mut md = metadata(&["[M]", "[S]", "[P]"]);
        for (key, offset) in [(middle, 0), (suffix, 1), (prefix, 2)] {
            md.set(&format!("tokenizer.ggml.{key}"), Value::U32(N_VOCAB as u32 + offset));
        }
        let tokens = tokenizer(&md).encode_infill(&gap()).expect("the file names them");
        assert_eq!(shown(&tokens), "^<2>a(<1>)<0>");
    }
    let mut md = metadata(&["<PRE>", "<SUF>", "<MID>"]);
    md.set("tokenizer.ggml.fim_pre_token_id", Value::U32(99_999));
    assert!(Tokenizer::from_metadata(&md).is_err(), "no such token");
}

#[test]
fn other_files_come_first() {
    let file = |name: &str, text: &str| InfillFile { name: name.into(), text: text.into() };
    let infill = Infill { files: vec![file("x.rs", "X"), file("y.rs", "Y")], ..gap() };
    let names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];
    check(&names, &infill, Some("^<3>project\n<4>x.rs\nX\n<4>y.rs\nY\n<4>file\n<0>a(<1>)<2>"));
    check(&names[..3], &infill, Some("^x.rs\nX\ny.rs\nY\n<0>a(<1>)<2>"));
}

/// Whatever the texts spell.
#[test]
fn texts_are_content() {
    let names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];
    let t = tokenizer(&metadata(&names));
    let text = format!("</s>{}", names.concat());
    let file = InfillFile { name: text.clone(), text: text.clone() };
    let infill =
        Infill { prefix: text.clone(), suffix: text.clone(), files: vec![file], begun: text.clone() };
    let tokens = t.encode_infill(&infill).expect("it has marks");
    let n_marks = tokens.iter().filter(|t| byte_of(**t).is_none()).count();
    assert_eq!(n_marks, 1 + 1 + 2 + 3, "one that begins, one project, two files, three around the gap");

    assert!(t.spells_control(&text) && t.spells_control("x</s>"));
    assert!(!t.spells_control("</S> <|fim_prefix| > s>"));
}
