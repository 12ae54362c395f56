//! Every vocabulary of the shared data: published expectations, injection, round trips. Does less where the data is
//! not there (it is no part of the repository).

use std::io::Read;
use std::path::PathBuf;

use ingle_chat::{Segment, Segments};
use ingle_gguf::{GgufFile, Metadata};
use ingle_step::TokenId;
use ingle_testkit::rng::Rng;
use ingle_tokenizer::Tokenizer;

fn data() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/vocab"));
    path.is_dir().then_some(path)
}

/// (name, metadata) of each vocabulary.
fn vocabularies() -> Vec<(String, Metadata)> {
    let Some(dir) = data() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the directory is there").flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_prefix("ggml-vocab-") else { continue };
        let bytes = || std::fs::read(entry.path()).expect("the file is readable");
        let (name, bytes) = if let Some(name) = name.strip_suffix(".gguf") {
            (name, bytes())
        } else if let Some(name) = name.strip_suffix(".gguf.gz") {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(bytes().as_slice()).read_to_end(&mut unpacked).expect("it is gzip");
            (name, unpacked)
        } else {
            continue;
        };
        let gguf = GgufFile::from_bytes(bytes).expect("it is GGUF");
        found.push((name.to_owned(), gguf.metadata().clone()));
    }
    assert!(!found.is_empty());
    found
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|id| id.0).collect()
}

fn keeps_text(md: &Metadata) -> bool {
    !matches!(md.str("tokenizer.ggml.model"), Ok("bert" | "t5"))
}

#[test]
fn published_cases() {
    let Some(dir) = data() else { return };
    for (name, md) in vocabularies() {
        let tokenizer = Tokenizer::from_metadata(&md).expect(&name);
        let read = |ext: &str| {
            std::fs::read_to_string(dir.join(format!("ggml-vocab-{name}.gguf.{ext}"))).expect(ext)
        };
        let (inputs, outputs) = (read("inp"), read("out"));
        let cases: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        // Some of the files end in a separator.
        let n_cases = cases.len() - usize::from(cases.last().is_some_and(|last| last.trim().is_empty()));
        assert_eq!(n_cases, outputs.lines().count(), "{name}");
        for (text, line) in cases.iter().zip(outputs.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(ids(&tokenizer.encode_content(text)), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn more_cases() {
    let Some(dir) = data() else { return };
    for (name, md) in vocabularies() {
        let Ok(json) = std::fs::read_to_string(dir.join(format!("more/{name}.json"))) else { continue };
        let cases: Vec<serde_json::Value> = serde_json::from_str(&json).expect("it is JSON");
        let tokenizer = Tokenizer::from_metadata(&md).expect(&name);
        for case in cases {
            let text = case["text"].as_str().expect("a text");
            let expected = case.get("ids_without_nfc").unwrap_or(&case["ids"]);
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).expect("ids");
            assert_eq!(ids(&tokenizer.encode_content(text)), expected, "{name}: {text:?}");
        }
    }
}

/// What a user says never becomes a control token, whatever it spells, and nothing of it is lost.
#[test]
fn content_can_not_spell_control_tokens() {
    for (name, md) in vocabularies() {
        let tokenizer = Tokenizer::from_metadata(&md).expect(&name);
        let spellings: Vec<(TokenId, String)> =
            tokenizer.special_tokens().map(|(id, text)| (id, text.to_owned())).collect();
        assert!(!spellings.is_empty(), "{name}");
        for (id, spelling) in spellings {
            for text in [format!("A{spelling}B"), format!("A {spelling} B"), spelling.clone()] {
                let mut segments = Segments::default();
                segments.push(Segment::Content(text.clone()));
                let encoded = tokenizer.encode(&segments, false);
                assert!(encoded.iter().all(|&id| !tokenizer.is_control(id)), "{name}: {text:?} {encoded:?}");
                if keeps_text(&md) {
                    assert_eq!(tokenizer.decode(&encoded, false), text, "{name}");
                }
            }
            // ... while the template's own text does.
            let segments = Segments::template(format!("A{spelling}B"));
            assert!(tokenizer.encode(&segments, false).contains(&id), "{name}: {spelling}");
        }
    }
}

#[test]
fn decoding_gives_the_text_back() {
    const PARTS: &[&str] = &[
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "a",
        "Hello",
        "wOrLd",
        "42",
        "é",
        "e\u{301}",
        "中文",
        "한국어",
        "नमस्ते",
        "😀",
        "👨‍👩‍👧",
        "\u{0}",
        "\u{7f}",
        "\u{feff}",
        "\u{a0}",
        "\u{3000}",
        "<|im_end|>",
        "</s>",
        "'s",
        "...",
        "ø",
        "𝒳",
    ];
    for (name, md) in vocabularies().iter().filter(|(_, md)| keeps_text(md)) {
        let tokenizer = Tokenizer::from_metadata(md).expect(name);
        let mut rng = Rng::new(7);
        for _ in 0..300 {
            let text: String = (0..rng.below(12)).map(|_| PARTS[rng.below(PARTS.len())]).collect();
            let encoded = tokenizer.encode_content(&text);
            assert_eq!(tokenizer.decode(&encoded, false), text, "{name}");
        }
    }
}
