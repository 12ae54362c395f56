//! What a tokenizer says that it holds, beside what the system gives the process for it. One test, so that nobody else takes
//! memory meanwhile.

#![cfg(target_os = "linux")]

use ingle_gguf::{Array, Metadata, StringArray, Value};
use ingle_tokenizer::Tokenizer;

/// Bytes of the process that are in memory and its own.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it is in there");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// The byte alphabet of byte-level BPE, in the order of bytes.
fn alphabet() -> Vec<String> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    let letter = |b: u8| match printable(b) {
        true => char::from(b),
        false => others.next().and_then(char::from_u32).expect("a character"),
    };
    (0..=255).map(letter).map(String::from).collect()
}

fn metadata(model: &str, words: &[String], merges: &[String]) -> Metadata {
    let array = |strings: &[String]| {
        Value::Array(Array::String(strings.iter().map(|s| s.as_bytes()).collect::<StringArray>()))
    };
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    let mut types = vec![2, 3, 3];
    let bytes = match model {
        "gpt2" => alphabet(),
        "llama" => (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect(),
        _ => vec!["a".into()],
    };
    types.extend(vec![if model == "llama" { 6 } else { 1 }; bytes.len()]);
    tokens.extend(bytes);
    types.extend(vec![1; words.len()]);
    tokens.extend_from_slice(words);
    let mut md = Metadata::default();
    md.set("tokenizer.ggml.model", Value::from(model));
    md.set("tokenizer.ggml.tokens", array(&tokens));
    md.set(
        "tokenizer.ggml.scores",
        Value::Array(Array::F32((0..tokens.len()).map(|i| -(i as f32)).collect())),
    );
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    if model == "gpt2" {
        md.set("tokenizer.ggml.pre", Value::from("gpt-2"));
        md.set("tokenizer.ggml.merges", array(merges));
    }
    for (name, id) in [("unknown", 0), ("bos", 1), ("eos", 2), ("cls", 1), ("seperator", 2)] {
        md.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    md
}

#[test]
fn what_is_said_is_what_is_held() {
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let words = letters.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}")));
    let pairs: Vec<String> = words.collect();
    let longer: Vec<String> =
        pairs.iter().flat_map(|a| pairs.iter().map(move |b| format!("{a}{b}"))).take(150_000).collect();
    let words = [&pairs[..], &longer].concat();
    let merges: Vec<String> = [
        pairs.iter().map(|pair| format!("{} {}", &pair[..1], &pair[1..])).collect::<Vec<_>>(),
        longer.iter().map(|word| format!("{} {}", &word[..2], &word[2..])).collect(),
    ]
    .concat();
    // All stay, so that none gets what another has given back.
    let mut kept = Vec::new();
    for model in ["gpt2", "llama", "bert", "t5"] {
        let md = metadata(model, &words, &merges);
        // The first takes what is only taken once.
        let first = Tokenizer::from_metadata(&md).unwrap_or_else(|error| panic!("{model}: {error}"));
        let before = resident();
        kept.extend((0..4).map(|_| Tokenizer::from_metadata(&md).expect("as the first")));
        let held = (resident().saturating_sub(before)) as f64 / 4.0;
        let said = first.memory_bytes() as f64;
        kept.push(first);
        println!("{model}: {said:.0} bytes said, {held:.0} held");
        assert!((0.7..1.4).contains(&(said / held)), "{model}: {said:.0} said, {held:.0} held");
    }
}
