//! Text to tokens and back.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use ingle_chat::{Segment, Segments};
use ingle_gguf::{Array, Metadata, Value};
use ingle_step::TokenId;
use ingle_tokenizer::{Detokenizer, Tokenizer};

use crate::source::Source;
use crate::vocabularies;

struct Known {
    name: String,
    metadata: Metadata,
    tokenizer: Arc<Tokenizer>,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let build = |(name, metadata): (String, Metadata)| {
        let tokenizer = Arc::new(Tokenizer::from_metadata(&metadata).expect("the vocabularies are sound"));
        Known { name, metadata, tokenizer }
    };
    vocabularies::all().into_iter().map(build).collect()
});

/// Text on a sound vocabulary. The first byte picks the vocabulary; 0xFF ends a segment, and what is behind an odd
/// number of them is the template's. Content never gives a control token, text comes back where that is promised,
/// and a stream of tokens gives the text of the whole.
pub fn tokenize(data: &[u8]) {
    let mut source = Source::new(data);
    let known = &KNOWN[source.below(KNOWN.len())];
    let tokenizer = &known.tokenizer;
    let add_special = source.flag();
    let parts: Vec<String> =
        source.rest().split(|&b| b == 0xFF).map(|p| String::from_utf8_lossy(p).into_owned()).collect();

    let mut segments = Segments::default();
    let mut expected = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if i % 2 == 0 {
            check_content(known, part);
            segments.push(Segment::Content(part.clone()));
        } else {
            expected
                .extend(controls(tokenizer, &tokenizer.encode(&Segments::template(part.as_str()), false)));
            segments.push(Segment::Template(part.clone()));
        }
    }
    let ids = tokenizer.encode(&segments, false);
    check_ids(tokenizer, &ids);
    // Neighbours of one kind are one segment, whose parts may spell what none of them spells.
    let alternate = parts.len() < 3 || parts.iter().all(|part| !part.is_empty());
    if alternate {
        assert_eq!(controls(tokenizer, &ids), expected, "{}: {segments:?}", known.name);
    }
    let special = tokenizer.encode(&segments, add_special);
    assert!(special.len() <= ids.len() + 2 && special.len() >= ids.len());
}

fn check_content(known: &Known, text: &str) {
    let tokenizer = &known.tokenizer;
    let ids = tokenizer.encode_content(text);
    check_ids(tokenizer, &ids);
    let unknown = TokenId(0);
    let control = ids.iter().find(|&&id| tokenizer.is_control(id) && id != unknown);
    assert_eq!(control, None, "{}: content became a control token: {text:?}", known.name);
    assert_eq!(tokenizer.encode(&Segments::content(text), false), ids);
    if !matches!(known.name.as_str(), "bert" | "t5") {
        assert!(!ids.contains(&unknown), "{}: all bytes have tokens: {text:?}", known.name);
        // Vocabularies of pieces write a space as `▁`, so that a `▁` in the text is one.
        let spaced = matches!(known.name.as_str(), "llama" | "gemma4");
        let expected = if spaced { text.replace('▁', " ") } else { text.to_owned() };
        assert_eq!(tokenizer.decode(&ids, false), expected, "{}", known.name);
    }
}

/// Ids in range, and streaming them gives what decoding them gives.
fn check_ids(tokenizer: &Arc<Tokenizer>, ids: &[TokenId]) {
    assert!(ids.iter().all(|id| (id.0 as usize) < tokenizer.n_vocab()));
    check_stream(tokenizer, ids);
}

fn check_stream(tokenizer: &Arc<Tokenizer>, ids: &[TokenId]) {
    for include_special in [false, true] {
        let mut stream = Detokenizer::at_start(Arc::clone(tokenizer), include_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, tokenizer.decode(ids, include_special), "the stream of {ids:?}");

        // A text that goes on keeps its first space.
        let mut stream = Detokenizer::new(Arc::clone(tokenizer), include_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        let shown = ids.iter().filter(|&&id| include_special || !tokenizer.is_control(id));
        let bytes: Vec<u8> = shown.flat_map(|&id| tokenizer.token_bytes(id).to_vec()).collect();
        assert_eq!(text, String::from_utf8_lossy(&bytes), "the continuing stream of {ids:?}");
    }
}

fn controls(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<TokenId> {
    // The unknown token may stand for text that no piece covers.
    ids.iter().copied().filter(|&id| tokenizer.is_control(id) && id != TokenId(0)).collect()
}

/// Any ids, two bytes each, on any vocabulary: the stream is the whole, and no character comes in halves. The first
/// byte picks the vocabulary.
pub fn detokenizer(data: &[u8]) {
    let mut source = Source::new(data);
    let tokenizer = &KNOWN[source.below(KNOWN.len())].tokenizer;
    // One byte: the vocabularies' first tokens are the special ones, then come the bytes.
    let wide = source.flag();
    let mut ids = Vec::new();
    while !source.is_empty() {
        let high = if wide { u32::from(source.byte() % 2) << 8 } else { 0 };
        ids.push(TokenId(high + u32::from(source.byte())));
    }
    check_stream(tokenizer, &ids);
}

/// Metadata that lie: an error that names the key, or a tokenizer that works on any text.
pub fn tokenizer_metadata(data: &[u8]) {
    let mut source = Source::new(data);
    let mut md =
        if source.flag() { KNOWN[source.below(KNOWN.len())].metadata.clone() } else { invented(&mut source) };
    for _ in 0..source.below(8) {
        change(&mut md, &mut source);
    }
    let tokenizer = match Tokenizer::from_metadata(&md) {
        Ok(tokenizer) => Arc::new(tokenizer),
        Err(error) => return assert!(error.to_string().contains("tokenizer."), "{error}"),
    };
    let unknown = unknowns(&md);
    let text = String::from_utf8_lossy(source.rest()).into_owned();
    for text in [text.as_str(), "hello ab\n\n<|im_end|> é 12 ▁<s>", "\u{0}\u{fffd}  an"] {
        let ids = tokenizer.encode_content(text);
        let control = ids.iter().find(|&&id| tokenizer.is_control(id) && !unknown.contains(&id.0));
        assert_eq!(control, None, "content became a control token: {text:?}");
        check_ids(&tokenizer, &ids);
        check_ids(&tokenizer, &tokenizer.encode(&Segments::template(text), true));
    }
    for (id, spelling) in tokenizer.special_tokens() {
        assert_eq!(tokenizer.token_bytes(id).is_empty(), spelling.is_empty());
    }
    assert!(tokenizer.bos().is_none_or(|id| (id.0 as usize) < tokenizer.n_vocab()));
    assert!(tokenizer.eos().is_none_or(|id| tokenizer.is_end(id)));
    // Ids outside of the vocabulary are no tokens.
    assert!(tokenizer.token_bytes(TokenId(u32::MAX)).is_empty() && !tokenizer.is_control(TokenId(u32::MAX)));
}

/// Which token may stand for text that no piece covers.
fn unknowns(md: &Metadata) -> BTreeSet<u32> {
    let default = match md.str("tokenizer.ggml.model") {
        Ok("bert") => 100,
        Ok("t5") => 2,
        _ => 0,
    };
    let named = md.opt_u64("tokenizer.ggml.unknown_token_id").ok().flatten();
    let mut ids = BTreeSet::from([named.map_or(default, |id| id as u32), default]);
    if let Ok(Some(types)) = md.opt_array("tokenizer.ggml.token_type") {
        let types = types.to_u64s().unwrap_or_default();
        ids.extend((0u32..).zip(types).filter(|(_, ty)| *ty == 2).map(|(id, _)| id));
    }
    ids
}

fn invented(source: &mut Source) -> Metadata {
    let mut md = Metadata::default();
    let model = source.pick(&["gpt2", "llama", "bert", "t5", "gemma4"]);
    md.set("tokenizer.ggml.model", Value::from(model));
    let n = source.below(24);
    let tokens: Vec<Vec<u8>> = (0..n).map(|_| source.bytes().to_vec()).collect();
    let types = (0..n).map(|_| i32::from(source.byte() % 8)).collect();
    let scores = (0..n).map(|_| f32::from(source.byte() as i8)).collect();
    let merges: Vec<Vec<u8>> = (0..source.below(8)).map(|_| source.bytes().to_vec()).collect();
    md.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.iter().collect())));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    md.set("tokenizer.ggml.merges", Value::Array(Array::String(merges.iter().collect())));
    md.set(
        "tokenizer.ggml.pre",
        Value::from(source.pick(&["gpt-2", "llama-bpe", "qwen2", "deepseek-v3", "x", ""])),
    );
    md
}

fn change(md: &mut Metadata, source: &mut Source) {
    const KEYS: &[&str] = &[
        "model",
        "pre",
        "tokens",
        "token_type",
        "scores",
        "merges",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "seperator_token_id",
        "cls_token_id",
        "eot_token_id",
        "fim_pad_token_id",
        "add_bos_token",
        "add_eos_token",
        "add_sep_token",
        "add_space_prefix",
        "normalizer.lowercase",
        "normalizer.strip_accents",
        "precompiled_charsmap",
        "remove_extra_whitespaces",
    ];
    let key = format!("tokenizer.ggml.{}", source.pick(KEYS));
    let at = source.byte();
    // Lists are changed in one place, everything else is replaced.
    let edited = match md.get(&key) {
        Some(Value::Array(Array::String(list))) if at < 200 && !list.is_empty() => {
            let mut list: Vec<Vec<u8>> = list.iter().map(<[u8]>::to_vec).collect();
            let i = usize::from(at) % list.len();
            list[i] = source.bytes().to_vec();
            Some(Value::Array(Array::String(list.iter().collect())))
        }
        Some(Value::Array(Array::I32(list))) if at < 200 && !list.is_empty() => {
            let mut list = list.clone();
            let i = usize::from(at) % list.len();
            list[i] = i32::from(source.byte() as i8);
            Some(Value::Array(Array::I32(list)))
        }
        Some(Value::Array(Array::F32(list))) if at < 200 && !list.is_empty() => {
            let mut list = list.clone();
            let i = usize::from(at) % list.len();
            list[i] = source.pick(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, 1e30, -1e30]);
            Some(Value::Array(Array::F32(list)))
        }
        _ => None,
    };
    let value = edited.unwrap_or_else(|| match source.below(7) {
        0 => Value::U32(source.number() as u32),
        1 => Value::Bool(source.flag()),
        2 => Value::String(source.bytes().to_vec()),
        3 => Value::Array(Array::U8(source.bytes().to_vec())),
        4 => Value::Array(Array::String((0..source.below(4)).map(|_| source.bytes()).collect())),
        5 => Value::Array(Array::I32((0..source.below(9)).map(|_| source.number() as i32).collect())),
        _ => Value::I64(source.number() as i64),
    });
    md.set(&key, value);
}
