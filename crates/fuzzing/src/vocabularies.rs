//! Small vocabularies of every kind, as a file's metadata.

use ingle_gguf::{Array, Metadata, Value};
use ingle_testkit::tiny::byte_char;

/// What the vocabularies have beside text: a control token of each role, markers and plain text typed as user-defined.
pub const SPECIAL: &[(&str, i32)] = &[
    ("<unk>", 2),
    ("<s>", 3),
    ("</s>", 3),
    ("<|im_start|>", 3),
    ("<|im_end|>", 3),
    ("[INST]", 3),
    ("<think>", 4),
    ("  ", 4),
    ("\n\n", 4),
    (" an", 4),
    ("ab", 3),
];
const MERGES: &[&str] =
    &["h e", "l l", "he ll", "hell o", "Ġ hello", "Ċ Ċ", "Ġ t", "a n", "Ġ an", "< |", "1 2", "Ã ©"];
const PIECES: &[&str] = &[
    "▁", "a", "b", "n", "t", "h", "e", "l", "o", "he", "ll", "llo", "hello", "▁hello", "▁a", "an", "▁an",
    "▁▁", "é", "<", "|", "##n", "##llo", "##e", "12", "1", "2", "中",
];
/// Ways of cutting words that differ in kind.
const PRES: &[&str] = &[
    "gpt-2",
    "llama-bpe",
    "qwen2",
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
];

fn strings<S: AsRef<str>>(list: &[S]) -> Value {
    Value::Array(Array::String(list.iter().map(|s| s.as_ref().as_bytes()).collect()))
}

/// Byte-level BPE with this way of cutting words.
pub fn bpe(pre: &str) -> Metadata {
    let mut tokens: Vec<String> = SPECIAL.iter().map(|s| s.0.to_owned()).collect();
    let mut types: Vec<i32> = SPECIAL.iter().map(|s| s.1).collect();
    tokens.extend((0..=255u8).map(|b| byte_char(b).to_string()));
    tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
    types.resize(tokens.len(), 1);
    let mut md = metadata("gpt2", tokens, types);
    md.set("tokenizer.ggml.pre", Value::from(pre));
    md.set("tokenizer.ggml.merges", strings(MERGES));
    md
}

/// A vocabulary of pieces: `llama` (SentencePiece BPE), `bert`, `t5`, `gemma4`.
pub fn pieces(model: &str) -> Metadata {
    let mut tokens: Vec<String> = SPECIAL.iter().map(|s| s.0.to_owned()).collect();
    let mut types: Vec<i32> = SPECIAL.iter().map(|s| s.1).collect();
    if model != "bert" {
        tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
        types.resize(tokens.len(), 6);
    }
    tokens.extend(PIECES.iter().map(|&piece| piece.to_owned()));
    types.resize(tokens.len(), 1);
    let n = tokens.len();
    let mut md = metadata(model, tokens, types);
    let scores = (0..n).map(|i| -((i % 17) as f32) - 1.0).collect();
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    md.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    if model == "gemma4" {
        md.set(
            "tokenizer.ggml.merges",
            strings(&["h e", "l l", "ll o", "he llo", "▁ hello", "a n", "▁ an", "▁ a", "1 2"]),
        );
    }
    md
}

fn metadata(model: &str, tokens: Vec<String>, types: Vec<i32>) -> Metadata {
    let mut md = Metadata::default();
    md.set("tokenizer.ggml.model", Value::from(model));
    md.set("tokenizer.ggml.tokens", strings(&tokens));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    md.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    md.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    md
}

/// One of each kind: what it is called, and the metadata.
pub fn all() -> Vec<(String, Metadata)> {
    let by_words = PRES.iter().map(|&pre| (pre.to_owned(), bpe(pre)));
    let by_pieces = ["llama", "gemma4", "bert", "t5"].map(|model| (model.to_owned(), pieces(model)));
    by_pieces.into_iter().chain(by_words).collect()
}
