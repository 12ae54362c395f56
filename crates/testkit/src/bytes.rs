//! A vocabulary of bytes: what a text becomes in it is plain to see.

use ingle_gguf::{Array, Metadata, StringArray, Value};
use ingle_step::TokenId;

/// What begins a text.
pub const BOS: TokenId = TokenId(1);
/// What ends one.
pub const EOS: TokenId = TokenId(2);
/// The unknown token, [`BOS`] and [`EOS`], then all bytes.
pub const N_VOCAB: usize = 3 + 256;

/// The token of a byte.
pub fn byte(b: u8) -> TokenId {
    TokenId(3 + u32::from(b))
}

/// The byte of a token, if it is one's.
pub fn byte_of(token: TokenId) -> Option<u8> {
    token.0.checked_sub(3).and_then(|b| u8::try_from(b).ok())
}

/// What a file with this vocabulary says about it. `control` are further control tokens, from [`N_VOCAB`] on.
pub fn metadata(control: &[&str]) -> Metadata {
    metadata_with(&control.iter().map(|spelling| (*spelling, 3)).collect::<Vec<_>>())
}

/// The same with tokens of any type: 1 is text, 3 control, 4 defined by the user.
pub fn metadata_with(more: &[(&str, i32)]) -> Metadata {
    let mut tokens = StringArray::default();
    ["<unk>", "<s>", "</s>"].iter().for_each(|t| tokens.push(t.as_bytes()));
    (0..256).for_each(|b| tokens.push(format!("<0x{b:02X}>").as_bytes()));
    more.iter().for_each(|(t, _)| tokens.push(t.as_bytes()));
    let n_vocab = N_VOCAB + more.len();
    let types = [2, 3, 3].into_iter().chain([6; 256]).chain(more.iter().map(|(_, kind)| *kind)).collect();
    let mut md = Metadata::default();
    md.set("tokenizer.ggml.model", Value::String("llama".into()));
    md.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; n_vocab])));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    md.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    md.set("tokenizer.ggml.bos_token_id", Value::U32(BOS.0));
    md.set("tokenizer.ggml.eos_token_id", Value::U32(EOS.0));
    md.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    md.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    md
}
