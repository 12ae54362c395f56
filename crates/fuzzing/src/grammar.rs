//! Formats that clients send.

use std::sync::{Arc, LazyLock};

use ingle_chat::Format;
use ingle_grammar::{Compiler, GrammarError, Limits, Matcher, TokenMask};
use ingle_step::TokenId;
use ingle_tokenizer::Tokenizer;
use serde_json::Value;

use crate::source::Source;
use crate::vocabularies;

/// Tight bounds: what takes long here would take long everywhere. No grammar is kept, so that none is compiled by another
/// input.
const LIMITS: Limits = Limits {
    bytes: 16 << 10,
    depth: 32,
    properties: 500,
    enum_values: 500,
    subschemas: 500,
    definitions: 500,
    pattern_bytes: 500,
    patterns_bytes: 4 << 10,
    repetitions: 500,
    lexer_states: 3_000,
    grammar_symbols: 20_000,
    compile_fuel: 50_000,
    mask_fuel: 20_000,
    mask_items: 20_000,
    cache_bytes: 0,
};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let metadata = vocabularies::bpe("qwen2");
    Arc::new(Tokenizer::from_metadata(&metadata).expect("the vocabularies are sound"))
});
static COMPILER: LazyLock<Compiler> = LazyLock::new(|| Compiler::new(&TOKENIZER, LIMITS));

/// A schema, a regular expression, a grammar in GBNF or in Lark's notation: a verdict, and if it is a good one, answers
/// that obey. What a mask allows is taken, and nothing else; what is forced is allowed; an answer to a schema that may
/// end is JSON. The first byte picks the notation, the second says how many choices of tokens follow, and the rest is
/// the format.
pub fn grammar(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = source.below(4);
    let choices = source.bytes();
    let text = String::from_utf8_lossy(source.rest()).into_owned();
    let format = match kind {
        0 => match serde_json::from_str(&text) {
            Ok(schema) => Format::JsonSchema(schema),
            Err(_) => return,
        },
        1 => Format::Regex(text),
        2 => Format::Gbnf(text),
        _ => Format::Lark(text),
    };
    let grammar = match COMPILER.compile(&format) {
        Ok(grammar) => grammar,
        Err(error) => return assert!(error.is_refusal(), "{format:?}: {error:?}"),
    };
    let (mut jumping, mut walking) = (grammar.matcher(), grammar.matcher());
    let mut answer = Vec::new();
    let mut choices = Source::new(choices);
    while !choices.is_empty() {
        for token in jumping.forced() {
            if !step(&mut jumping, token, false) || !step(&mut walking, token, true) {
                return;
            }
            answer.push(token);
        }
        let Some(mask) = mask(&mut jumping) else { return };
        let Some(expected) = self::mask(&mut walking) else { return };
        assert!(mask == expected, "{format:?}: what is forced changes the mask behind {answer:?}");
        if jumping.may_end() && matches!(format, Format::JsonSchema(_)) {
            let text = TOKENIZER.decode(&answer, true);
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{format:?}: {text:?}");
        }
        let n = usize::from(choices.byte()) << 8 | usize::from(choices.byte());
        let token = mask.tokens().nth(n % mask.count()).expect("there are so many");
        if !step(&mut jumping, token, true) || !step(&mut walking, token, true) || jumping.must_end() {
            return;
        }
        answer.push(token);
    }
}

/// The mask; `None` if the answer cannot go on, which it says and no more.
fn mask(matcher: &mut Matcher) -> Option<TokenMask> {
    let mut mask = TokenMask::new(TOKENIZER.n_vocab());
    match matcher.mask(&mut mask) {
        Ok(()) => Some(mask),
        Err(GrammarError::DeadEnd | GrammarError::TooComplex { .. }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// Takes a token, which the mask must allow. Whether the answer goes on.
fn step(matcher: &mut Matcher, token: TokenId, looks: bool) -> bool {
    if looks {
        let Some(mask) = mask(matcher) else { return false };
        assert!(mask.allows(token), "{token} is forbidden");
        for other in (0..4).map(|n| TokenId((token.0 + 1 + n) % TOKENIZER.n_vocab() as u32)) {
            assert!(mask.allows(other) || matcher.accept(other).is_err(), "{other} is forbidden, and taken");
            if mask.allows(other) {
                break;
            }
        }
    }
    match matcher.accept(token) {
        Ok(()) => true,
        Err(GrammarError::TooComplex { .. }) => false,
        Err(error) => panic!("{token}: {error:?}"),
    }
}
