//! Vocabularies made here: what the crate promises, without any data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_chat::{Segment, Segments};
use ingle_gguf::{Array, Metadata, Value};
use ingle_step::TokenId;
use ingle_testkit::rng::Rng;
use ingle_tokenizer::{Detokenizer, Tokenizer, TokenizerError};

/// The byte alphabet's character of a byte.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count();
    char::from_u32(0x100 + u32::try_from(before).expect("below 256")).expect("a character")
}

fn strings<S: AsRef<str>>(list: &[S]) -> Value {
    Value::Array(Array::String(list.iter().map(|s| s.as_ref().as_bytes()).collect()))
}

/// All bytes, then `merges` and what they make, then special tokens: (spelling, type).
fn bpe(pre: &str, merges: &[&str], special: &[(&str, i32)]) -> Metadata {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| letter(b).to_string()).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    for (spelling, kind) in special {
        tokens.push((*spelling).to_owned());
        types.push(*kind);
    }
    let mut md = Metadata::default();
    md.set("tokenizer.ggml.model", Value::from("gpt2"));
    md.set("tokenizer.ggml.pre", Value::from(pre));
    md.set("tokenizer.ggml.tokens", strings(&tokens));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    md.set("tokenizer.ggml.merges", strings(merges));
    md
}

fn spm() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    let mut scores = vec![0.0f32; 3];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
        scores.push(0.0);
    }
    for (piece, score) in
        [("▁", -9.0), ("a", -9.0), ("b", -9.0), ("ab", -1.0), ("▁a", -2.0), ("▁ab", -3.0), ("aa", -4.0)]
    {
        tokens.push(piece.to_owned());
        types.push(1);
        scores.push(score);
    }
    let mut md = Metadata::default();
    md.set("tokenizer.ggml.model", Value::from("llama"));
    md.set("tokenizer.ggml.tokens", strings(&tokens));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    md
}

fn tokenizer(md: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(md).expect("a sound vocabulary")
}

fn texts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.token_text(id)).collect()
}

const CHAT: &[(&str, i32)] = &[("<|im_start|>", 3), ("<|im_end|>", 3), ("<think>", 4), ("  ", 4)];
const HELLO: &[&str] = &["h e", "l l", "he ll", "hell o", "Ġ hello", "Ċ Ċ"];

#[test]
fn merges_go_by_rank() {
    let t = tokenizer(&bpe("gpt-2", HELLO, &[]));
    for (text, expected) in [
        ("hello hello", vec!["hello", " hello"]),
        ("hellhe", vec!["hell", "he"]),
        ("é", vec!["\u{fffd}", "\u{fffd}"]),
        ("", vec![]),
    ] {
        assert_eq!(texts(&t, &t.encode_content(text)), expected, "{text:?}");
    }
}

#[test]
fn long_and_short_words_are_merged_alike() {
    let merges = ["a b", "ab a", "b a", "aba ba", "a a", "aa aa", "aaaa aaaa"];
    let t = tokenizer(&bpe("gpt-2", &merges, &[]));
    let mut rng = Rng::new(3);
    for _ in 0..200 {
        // A word longer than the scan takes, checked against a plain merge of the best pair, again and again.
        let word: String = (0..60 + rng.below(60)).map(|_| if rng.one_in(3) { 'b' } else { 'a' }).collect();
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let rank = |i: usize| merges.iter().position(|m| *m == format!("{} {}", parts[i], parts[i + 1]));
            let best = (0..parts.len() - 1).filter_map(|i| Some((rank(i)?, i))).min();
            let Some((_, at)) = best else { break };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
            if parts.len() == 1 {
                break;
            }
        }
        assert_eq!(texts(&t, &t.encode_content(&word)), parts, "{word}");
    }
}

#[test]
fn only_templates_write_control_tokens() {
    let t = tokenizer(&bpe("qwen2", HELLO, CHAT));
    let mut segments = Segments::default();
    segments.push(Segment::Template("<|im_start|>\n".to_owned()));
    segments.push(Segment::Content("\nhello<|im_end|><think>  x".to_owned()));
    segments.push(Segment::Template("<|im_end|>".to_owned()));
    let ids = t.encode(&segments, false);
    let controls: Vec<String> =
        ids.iter().filter(|&&id| t.is_control(id)).map(|&id| t.token_text(id)).collect();
    assert_eq!(controls, ["<|im_start|>", "<|im_end|>"]);
    // Words span segments as the model saw them in training; user-defined text is whole, markers are not.
    let found = texts(&t, &ids);
    assert_eq!(&found[..3], ["<|im_start|>", "\n\n", "hello"]);
    assert!(found.contains(&"  ".to_owned()) && !found.contains(&"<think>".to_owned()), "{found:?}");
    assert_eq!(t.decode(&ids, false), "\n\nhello<|im_end|><think>  x");
    assert!(texts(&t, &t.encode(&Segments::template("<think>"), false)) == ["<think>"]);
    let end = t.special_tokens().find(|(_, text)| *text == "<|im_end|>").expect("it is there").0;
    assert!(t.is_end(end));
}

#[test]
fn a_whole_word_lookup_can_not_hit_a_control_token() {
    // llama-bpe takes a word that is in the vocabulary as it is.
    let t = tokenizer(&bpe("llama-bpe", &[], &[("hello", 3), ("world", 1)]));
    assert_eq!(t.encode_content("hello").len(), 5);
    assert_eq!(t.encode_content("world").len(), 1);
}

#[test]
fn bos_is_added_once() {
    let mut md = bpe("llama-bpe", HELLO, &[("<|begin|>", 3)]);
    let bos = 256 + u32::try_from(HELLO.len()).expect("few");
    md.set("tokenizer.ggml.bos_token_id", Value::U32(bos));
    let t = tokenizer(&md);
    assert!(t.adds_bos());
    let count = |segments: &Segments| t.encode(segments, true).iter().filter(|id| id.0 == bos).count();
    assert_eq!(count(&Segments::content("hello")), 1);
    assert_eq!(count(&Segments::template("<|begin|>hello")), 1);
    assert_eq!(count(&Segments::content("<|begin|>hello")), 1);
    assert_eq!(t.encode(&Segments::default(), true), [TokenId(bos)]);
}

#[test]
fn sentencepiece_merges_the_best_score_and_falls_back_to_bytes() {
    let t = tokenizer(&spm());
    for (text, expected) in [
        ("ab", vec![" ab"]),
        ("ba", vec![" ", "b", "a"]),
        ("aab", vec![" a", "ab"]),
        ("a a", vec![" a", " a"]),
        ("é", vec![" ", "\u{fffd}", "\u{fffd}"]),
        ("", vec![]),
    ] {
        let ids = t.encode_content(text);
        assert_eq!(texts(&t, &ids), expected, "{text:?}");
        assert_eq!(t.decode(&ids, false), text);
    }
    assert_eq!(t.encode(&Segments::content("a"), true)[0], TokenId(1));
    for text in ["<s>", "</s>a", "<unk>", "<0x0A>", " a", "  "] {
        let ids = t.encode_content(text);
        assert!(ids.iter().all(|&id| !t.is_control(id)), "{text}");
        assert_eq!(t.decode(&ids, false), text);
    }
}

#[test]
fn streamed_text_is_the_whole_text() {
    let t = Arc::new(tokenizer(&bpe("gpt-2", HELLO, CHAT)));
    let mut rng = Rng::new(11);
    for _ in 0..300 {
        let ids: Vec<TokenId> = (0..rng.below(20))
            .map(|_| TokenId(u32::try_from(rng.below(t.n_vocab() + 2)).expect("small")))
            .collect();
        for include_special in [false, true] {
            let mut stream = Detokenizer::new(Arc::clone(&t), include_special);
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text.push_str(&stream.finish());
            assert_eq!(text, t.decode(&ids, include_special));
            assert_eq!(stream.finish(), "");
        }
    }
}

/// A token that is matched before all else gets no space in front, so none is taken away.
#[test]
fn matched_text_keeps_its_space_at_the_start() {
    let mut md = spm();
    md.set("tokenizer.ggml.token_type", {
        let mut types =
            md.opt_i32s("tokenizer.ggml.token_type").expect("a list").expect("it is there").to_vec();
        *types.last_mut().expect("not empty") = 4;
        Value::Array(Array::I32(types))
    });
    let mut tokens: Vec<Vec<u8>> = md
        .opt_strings("tokenizer.ggml.tokens")
        .expect("a list")
        .expect("it is there")
        .iter()
        .map(<[u8]>::to_vec)
        .collect();
    *tokens.last_mut().expect("not empty") = b"  ".to_vec();
    md.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.iter().collect())));
    let t = Arc::new(tokenizer(&md));
    for text in ["  a", " a", "a  "] {
        let ids = t.encode_content(text);
        let mut stream = Detokenizer::at_start(Arc::clone(&t), false);
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!((streamed.as_str(), t.decode(&ids, false).as_str()), (text, text));
    }
}

#[test]
fn bad_metadata_is_named() {
    let error = |change: &dyn Fn(&mut Metadata)| {
        let mut md = spm();
        change(&mut md);
        Tokenizer::from_metadata(&md).err().expect("it must be refused").to_string()
    };
    let set = |key: &'static str, value: Value| move |md: &mut Metadata| md.set(key, value.clone());
    for (message, key) in [
        (error(&set("tokenizer.ggml.model", Value::from("rwkv"))), "tokenizer.ggml.model"),
        (error(&set("tokenizer.ggml.tokens", strings::<&str>(&[]))), "tokenizer.ggml.tokens"),
        (error(&set("tokenizer.ggml.tokens", strings(&["a", "a"]))), "token 0"),
        (error(&set("tokenizer.ggml.tokens", Value::U32(1))), "tokenizer.ggml.tokens"),
        (error(&set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0])))), "tokenizer.ggml.scores"),
        (
            error(&set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1])))),
            "tokenizer.ggml.token_type",
        ),
        (error(&set("tokenizer.ggml.eos_token_id", Value::U32(1 << 20))), "tokenizer.ggml.eos_token_id"),
    ] {
        assert!(message.contains(key), "{message}");
    }
    let md = bpe("no-such-pre", &[], &[]);
    assert!(matches!(Tokenizer::from_metadata(&md), Err(TokenizerError::UnknownPre { .. })));
    let md = bpe("gpt-2", &[], &[("<0xZZ>", 6)]);
    assert!(Tokenizer::from_metadata(&md).err().expect("refused").to_string().contains("<0xHH>"));
    let long = "x".repeat((64 << 10) + 1);
    assert!(Tokenizer::from_metadata(&bpe("gpt-2", &[], &[(&long, 1)])).is_err());
}

/// Whatever the file says, there is an error or a tokenizer that works.
#[test]
fn mutated_metadata_never_panics() {
    let mut rng = Rng::new(5);
    let wordpiece = {
        let mut md = spm();
        md.set("tokenizer.ggml.model", Value::from("bert"));
        md
    };
    let unigram = {
        let mut md = spm();
        md.set("tokenizer.ggml.model", Value::from("t5"));
        md.set(
            "tokenizer.ggml.precompiled_charsmap",
            Value::Array(Array::U8(vec![8, 0, 0, 0, 1, 4, 0, 0, 9, 1, 0, 0, 97, 0])),
        );
        md
    };
    let gemma = {
        let mut md = bpe("", HELLO, CHAT);
        md.set("tokenizer.ggml.model", Value::from("gemma4"));
        md
    };
    let bases = [bpe("llama-bpe", HELLO, CHAT), spm(), wordpiece, unigram, gemma];
    let texts = ["hello ab\n\n<|im_end|> é 12345 ▁<s>", "\u{0}\u{fffd}aab", ""];
    for _ in 0..1500 {
        let mut md = bases[rng.below(bases.len())].clone();
        for _ in 0..=rng.below(2) {
            let keys: Vec<String> = md.iter().map(|(key, _)| key.to_owned()).collect();
            let key = match rng.below(8) {
                0 => "tokenizer.ggml.bos_token_id".to_owned(),
                1 => "tokenizer.ggml.add_space_prefix".to_owned(),
                2 => "tokenizer.ggml.unknown_token_id".to_owned(),
                _ => keys[rng.below(keys.len())].clone(),
            };
            let value = match (rng.below(6), md.get(&key)) {
                (0, _) => Value::Bool(rng.one_in(2)),
                (1, _) => Value::U32(u32::try_from(rng.below(600)).expect("small")),
                (2, Some(Value::Array(Array::F32(v)))) => {
                    let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -0.0];
                    Value::Array(Array::F32(
                        v.iter().map(|&x| if rng.one_in(9) { odd[rng.below(5)] } else { x }).collect(),
                    ))
                }
                (2, Some(Value::Array(Array::I32(v)))) => {
                    Value::Array(Array::I32(
                        v.iter()
                            .map(|&x| {
                                if rng.one_in(9) {
                                    i32::try_from(rng.below(9)).expect("small") - 1
                                } else {
                                    x
                                }
                            })
                            .collect(),
                    ))
                }
                (_, Some(Value::Array(Array::String(v)))) => {
                    let odd: [&[u8]; 7] = [b"", b"\xff", b"<0xZZ>", b" ", b"a  b", "▁".as_bytes(), b"\n"];
                    Value::Array(Array::String(
                        v.iter()
                            .map(|s| if rng.one_in(200) { odd[rng.below(7)].to_vec() } else { s.to_vec() })
                            .collect(),
                    ))
                }
                (_, Some(Value::Array(Array::U8(v)))) => Value::Array(Array::U8(
                    v.iter().map(|&b| if rng.one_in(4) { b ^ 0x85 } else { b }).collect(),
                )),
                (3, _) => Value::I64(-1),
                _ => Value::from("gpt2"),
            };
            md.set(&key, value);
        }
        if let Ok(t) = Tokenizer::from_metadata(&md) {
            for text in texts {
                let ids = t.encode_content(text);
                assert!(ids.iter().all(|&id| (id.0 as usize) < t.n_vocab()));
                t.decode(&ids, true);
                t.encode(&Segments::template(text), true);
            }
        }
    }
}

/// Twice the text takes about twice the time, whatever it is.
#[test]
fn time_is_linear() {
    let pres = [
        "gpt-2",
        "llama-bpe",
        "qwen35",
        "gpt-4o",
        "kimi-k2",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "falcon",
        "jais-2",
        "bloom",
        "chameleon",
        "exaone-moe",
        "tiny_aya",
        "superbpe",
        "youtu",
        "afmoe",
        "gemma4",
    ];
    let merges = ["a a", "aa aa", "aaaa aaaa", "Ġ Ġ", "ĠĠ ĠĠ", "a b", "ab c", "abc d"];
    let shapes =
        ["a", " ", "\u{301}", "abcd", "A中", "1", "\n ", "'", "IMGIMG", "<sentinel:1", "\u{0}", "a "];
    let vocabularies: Vec<(&str, Tokenizer)> = pres
        .iter()
        .map(|&pre| (pre, tokenizer(&bpe(pre, &merges, CHAT))))
        .chain([("sentencepiece", tokenizer(&spm()))])
        .collect();
    for (name, t) in &vocabularies {
        for shape in shapes {
            let time = |bytes: usize| {
                let text = format!("{}x", shape.repeat(bytes / shape.len()));
                let pass = |_| {
                    let started = Instant::now();
                    std::hint::black_box(t.encode_content(&text));
                    started.elapsed()
                };
                (0..2).map(pass).min().expect("two passes")
            };
            // Quadratic work at this size would take minutes; the bound is generous for slow and busy machines.
            let (small, large) = (time(1 << 15), time(1 << 18));
            let allowed = small * 40 + Duration::from_secs(3);
            assert!(large < allowed, "{name}, {shape:?}: 32 KiB {small:?}, 256 KiB {large:?}");
        }
    }
}

#[test]
fn which_tokens_are_text() {
    let t = tokenizer(&bpe("qwen2", HELLO, CHAT));
    for (spelling, expected) in
        [("<|im_start|>", false), ("<|im_end|>", false), ("<think>", false), ("  ", true)]
    {
        let id = t.special_tokens().find(|(_, text)| *text == spelling).expect("it is there").0;
        assert_eq!(t.is_text(id), expected, "{spelling:?}");
    }
    assert!(t.encode_content("hello é").iter().all(|&id| t.is_text(id)));
    // A byte is text, and no token at all is not.
    let t = tokenizer(&spm());
    assert!(t.is_text(TokenId(3)) && !t.is_text(TokenId(1)) && !t.is_text(TokenId(99_999)));
}
