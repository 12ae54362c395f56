//! Vocabularies, and walks through grammars.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ingle_chat::{Format, Segments};
use ingle_gguf::{Array, GgufFile, Metadata, Value};
use ingle_grammar::{Compiler, Grammar, GrammarError, Limits, Matcher, TokenMask};
use ingle_step::TokenId;
use ingle_tokenizer::Tokenizer;

/// The byte alphabet's character of a byte.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count();
    char::from_u32(0x100 + u32::try_from(before).expect("below 256")).expect("a character")
}

/// Control tokens (3) and user-defined ones (4) of the small vocabulary.
const SPECIAL: &[(&str, i32)] = &[
    ("<|im_start|>", 3),
    ("<|im_end|>", 3),
    ("<|endoftext|>", 3),
    ("<think>", 4),
    ("</think>", 4),
    ("<tool_call>", 4),
    ("</tool_call>", 4),
];

const MERGES: &[&str] = &[
    "h e",
    "l l",
    "he ll",
    "hell o",
    "Ġ w",
    "\" :",
    "\": Ġ",
    "{ \"",
    "\" ,",
    "\", Ġ",
    "\", Ġ\"",
    "} }",
    "t r",
    "u e",
    "tr ue",
    "n a",
    "m e",
    "na me",
    "{\" name",
    "a a",
    "aa aa",
    "aaaa aaaa",
    "Ċ Ġ",
    "Ġ Ġ",
    "1 2",
    "12 3",
    "< /",
    "a b",
    "ab c",
];

/// All bytes, some words, and control tokens.
pub fn small() -> Arc<Tokenizer> {
    static MADE: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let make = || {
        let strings =
            |list: &[String]| Value::Array(Array::String(list.iter().map(String::as_bytes).collect()));
        let mut tokens: Vec<String> = (0..=255u8).map(|b| letter(b).to_string()).collect();
        tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
        let mut types = vec![1; tokens.len()];
        for (spelling, kind) in SPECIAL {
            tokens.push((*spelling).to_owned());
            types.push(*kind);
        }
        let merges: Vec<String> = MERGES.iter().map(|merge| (*merge).to_owned()).collect();
        let mut md = Metadata::default();
        md.set("tokenizer.ggml.model", Value::from("gpt2"));
        md.set("tokenizer.ggml.pre", Value::from("qwen2"));
        md.set("tokenizer.ggml.tokens", strings(&tokens));
        md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        md.set("tokenizer.ggml.merges", strings(&merges));
        Arc::new(Tokenizer::from_metadata(&md).expect("a sound vocabulary"))
    };
    Arc::clone(MADE.get_or_init(make))
}

pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(path);
    path.exists().then_some(path)
}

/// One of 128,000 tokens, if the shared data is there.
pub fn large() -> Option<Arc<Tokenizer>> {
    vocabulary("llama-bpe")
}

pub fn vocabulary(name: &str) -> Option<Arc<Tokenizer>> {
    let file = GgufFile::open(&shared(&format!("vocab/ggml-vocab-{name}.gguf"))?).expect("it is GGUF");
    Some(Arc::new(Tokenizer::from_metadata(file.metadata()).expect("a sound vocabulary")))
}

pub fn compiler() -> Compiler {
    Compiler::new(&small(), Limits::default())
}

pub fn compile(format: &Format) -> Result<Arc<Grammar>, GrammarError> {
    compiler().compile(format)
}

pub fn special(spelling: &str) -> TokenId {
    small().special_tokens().find(|(_, text)| *text == spelling).expect("it is special").0
}

/// Goes on by these tokens, each of which the mask must allow; whether it does. Mask and `accept` must agree.
pub fn walk(matcher: &mut Matcher, tokenizer: &Tokenizer, tokens: &[TokenId]) -> bool {
    let mut mask = TokenMask::new(tokenizer.n_vocab());
    for &token in tokens {
        matcher.mask(&mut mask).expect("it can go on");
        let accepted = matcher.accept(token);
        assert_eq!(mask.allows(token), accepted.is_ok(), "{:?}", tokenizer.token_text(token));
        if let Err(error) = accepted {
            assert_eq!(error, GrammarError::NotAllowed { token });
            return false;
        }
    }
    true
}

/// Whether an answer may be exactly these tokens. The tokens that end it must be allowed exactly where it may end.
pub fn takes(grammar: &Grammar, tokenizer: &Tokenizer, tokens: &[TokenId]) -> bool {
    let mut matcher = grammar.matcher();
    if !walk(&mut matcher, tokenizer, tokens) {
        return false;
    }
    let mut mask = TokenMask::new(tokenizer.n_vocab());
    matcher.mask(&mut mask).expect("it can go on, or end");
    let ends = (0..).map(TokenId).take(tokenizer.n_vocab()).filter(|&id| tokenizer.is_end(id));
    let may_end = matcher.may_end();
    ends.for_each(|end| assert_eq!(mask.allows(end), may_end, "{end:?}"));
    may_end
}

/// Whether an answer may be this text, with the tokens that its special ones are.
pub fn takes_text(grammar: &Grammar, tokenizer: &Tokenizer, text: &str) -> bool {
    takes(grammar, tokenizer, &tokenizer.encode(&Segments::template(text), false))
}

pub fn check(format: &Format, accepted: &[&str], rejected: &[&str]) {
    let grammar = compile(format).unwrap_or_else(|error| panic!("{format:?}: {error}"));
    let tokenizer = small();
    for text in accepted {
        assert!(takes_text(&grammar, &tokenizer, text), "{format:?} must take {text:?}");
    }
    for text in rejected {
        assert!(!takes_text(&grammar, &tokenizer, text), "{format:?} must not take {text:?}");
    }
}

pub fn refused(format: &Format) -> GrammarError {
    match compile(format) {
        Err(error) => error,
        Ok(_) => panic!("{format:?} must be refused"),
    }
}
