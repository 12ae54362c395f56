//! What each family makes of a text: one line a case, pieces parted by `|`.

use super::{family, known_names, split};

fn check(pre: &str, text: &str, expected: &str) {
    let mut pieces = Vec::new();
    let family = family(pre).expect("a known name");
    split(&family.stages, text, &mut |piece| pieces.push(piece.to_owned()));
    assert_eq!(pieces.join("|"), expected, "{pre}: {text:?}");
}

#[test]
fn words_of_each_family() {
    let text = "I'll  PAY 12345ok...\n\n Привет,МИР!";
    check("gpt-2", text, "I|'ll| | PAY| 12345|ok|...|\n\n| Привет|,|МИР|!");
    check("starcoder", text, "I|'ll| | PAY| |1|2|3|4|5|ok|...|\n\n| Привет|,|МИР|!");
    check("llama-bpe", text, "I|'ll| | PAY| |123|45|ok|...\n\n| Привет|,МИР|!");
    check("qwen2", text, "I|'ll| | PAY| |1|2|3|4|5|ok|...\n\n| Привет|,МИР|!");
    check("gpt-4o", text, "I'll| | PAY| |123|45|ok|...\n\n| Привет|,МИР|!");
    check("falcon", text, "I|'|ll| | PAY| |123|45|ok|...|\n\n| Привет|,|МИР|!");
    check("deepseek-v3", text, "I|'ll| | PAY| |123|45|ok|...\n\n| Привет|,|МИР|!");
    check("deepseek-llm", text, "I|'|ll| | PAY| |12345|ok|...|\n|\n| Привет|,|МИР|!");
    check("gemma4", text, "I'll  PAY 12345ok...|\n\n| Привет,МИР!");
}

#[test]
fn case_and_marks() {
    check("gpt-4o", "camelCaseHTTPServer", "camel|Case|HTTPServer");
    check("gpt-4o", "привЕТ中文ABC", "прив|ЕТ中文|ABC");
    check("tekken", "it's 42", "it|'s| |4|2");
    check("kimi-k2", "你好hello世界", "你好|hello|世界");
    check("gpt-4o", "a/b //\n/x", "a|/b| //\n/|x");
    check("qwen2", "नमस्ते", "नमस|्त|े");
    check("qwen35", "नमस्ते", "नमस्ते");
}

#[test]
fn digits_and_spaces() {
    check("tiny_aya", "1234567 1234x", "1|234|567| |123|4|x");
    check("superbpe", "a b 1234567", "a b |1|234|567");
    check("afmoe", "x12345", "x|12|345");
    check(
        "jais-2",
        &format!("a{}b", " ".repeat(15)),
        &format!("a|{}|{}|{}| b", " ".repeat(8), " ".repeat(4), " ".repeat(2)),
    );
    check("llama-bpe", "a   \n  b  ", "a|   \n| | b|  ");
    check("exaone-moe", "two words 12", "two words| |1|2");
    check("bloom", "Hi there, you", "Hi| there|,| you");
    check("minicpm5", "   12", "   |12");
    check("chameleon", "<sentinel:1>IMGIMGABZ    x", "<|sentinel|:|1|>|IMGIMGABZ|    |x");
}

#[test]
fn pieces_joined_are_the_text() {
    let text = "A b\u{301}c 日本\r\n\t12 ३ 'S!?\u{0}\u{a0}\u{3000}<sentinel:9>𠮷ǅ e\n\n";
    for name in known_names() {
        let mut joined = String::new();
        split(&family(name).expect("a known name").stages, text, &mut |piece| {
            assert!(!piece.is_empty());
            joined.push_str(piece);
        });
        assert_eq!(joined, text, "{name}");
    }
    assert!(family("no such name").is_none());
}
