//! Characters that tokens cut in every possible way: what streams out is what the bytes say, each piece valid.

use std::sync::Arc;

use ingle_gguf::{Array, Metadata, Value};
use ingle_step::TokenId;
use ingle_tokenizer::{Detokenizer, Tokenizer};

/// Bytes at which UTF-8 decides something: a letter, continuations from the ends of their range, beginnings of two,
/// three and four bytes, those that overlong forms, surrogates and too large numbers begin with, and one that is none.
const BYTES: [u8; 12] = [b'a', 0x80, 0x90, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xED, 0xF0, 0xF4, 0xFF];
const LEN_MAX: usize = 4;

/// The byte alphabet's character of a byte.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count();
    char::from_u32(0x100 + u32::try_from(before).expect("below 256")).expect("a character")
}

/// All sequences of the bytes up to a length, shortest first: the tokens of the vocabulary, by their ids.
fn sequences() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..LEN_MAX {
        let to = all.len();
        for i in from..to {
            for byte in BYTES {
                all.push([&all[i][..], &[byte]].concat());
            }
        }
        from = to;
    }
    all.remove(0);
    all
}

#[test]
fn every_cut_of_every_sequence() {
    let tokens = sequences();
    let id = |bytes: &[u8]| {
        // Those that are shorter come first; among those of one length, digits of base 12 count.
        let n = BYTES.len();
        let before: usize = (1..bytes.len()).map(|len| n.pow(u32::try_from(len).expect("small"))).sum();
        let digit = |b: &u8| BYTES.iter().position(|known| known == b).expect("one of them");
        TokenId(u32::try_from(before + bytes.iter().fold(0, |sum, b| sum * n + digit(b))).expect("small"))
    };
    let mut md = Metadata::default();
    let spellings = tokens.iter().map(|t| t.iter().map(|b| letter(*b)).collect::<String>());
    let list = spellings.map(String::into_bytes).collect::<Vec<_>>();
    md.set("tokenizer.ggml.model", Value::from("gpt2"));
    md.set("tokenizer.ggml.pre", Value::from("qwen2"));
    md.set("tokenizer.ggml.tokens", Value::Array(Array::String(list.iter().collect())));
    md.set("tokenizer.ggml.merges", Value::Array(Array::String(Vec::<Vec<u8>>::new().iter().collect())));
    let tokenizer = Arc::new(Tokenizer::from_metadata(&md).expect("a valid vocabulary"));

    for bytes in &tokens {
        assert_eq!(tokenizer.token_bytes(id(bytes)), bytes, "the ids are as counted");
        let expected = String::from_utf8_lossy(bytes);
        // Each bit says whether the sequence is cut there.
        for cuts in 0..1u32 << (bytes.len() - 1) {
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
            let (mut text, mut from) = (String::new(), 0);
            for to in 1..=bytes.len() {
                if to == bytes.len() || cuts >> (to - 1) & 1 == 1 {
                    text += &detokenizer.push(id(&bytes[from..to]));
                    from = to;
                    assert!(expected.starts_with(&text), "{bytes:x?}, {cuts:b}: {text:?}");
                }
            }
            text += &detokenizer.finish();
            assert_eq!(text, expected, "{bytes:x?}, {cuts:b}");
            assert_eq!(detokenizer.finish(), "", "the rest comes once");
        }
    }
}
