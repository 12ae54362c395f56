//! From tokens back to text as they arrive: bytes are held back until they are whole characters.

use std::sync::Arc;

use ingle_step::TokenId;

use crate::Tokenizer;

/// Turns a stream of generated tokens into text; never emits half a character. What it emits, joined, is the lossy
/// decoding of all the tokens' bytes. It continues a text, so a leading space stays, unless it is made by
/// [`at_start`](Self::at_start).
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    include_special: bool,
    /// Whether the next piece begins the text, so that the space which encoding would add is taken away.
    at_start: bool,
    /// The start of a character, at most three bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// `include_special`: control tokens appear as their spelling instead of not at all.
    pub fn new(tokenizer: Arc<Tokenizer>, include_special: bool) -> Self {
        Self { tokenizer, include_special, at_start: false, pending: Vec::new() }
    }

    /// For tokens that begin a text instead of continuing one: the space that encoding would have put in front is
    /// taken away, as [`Tokenizer::decode`] does.
    pub fn at_start(tokenizer: Arc<Tokenizer>, include_special: bool) -> Self {
        let at_start = tokenizer.adds_space_prefix();
        Self { at_start, ..Self::new(tokenizer, include_special) }
    }

    /// The characters that are complete now; invalid bytes become U+FFFD.
    pub fn push(&mut self, id: TokenId) -> String {
        let is_control = self.tokenizer.is_control(id);
        if self.include_special || !is_control {
            self.pending.extend_from_slice(self.tokenizer.piece(id, self.at_start));
            self.at_start &= is_control;
        }
        take_whole(&mut self.pending)
    }

    /// What is left: an incomplete character is one U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Takes everything but an incomplete character at the end, by the rule of [`String::from_utf8_lossy`].
fn take_whole(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest: &[u8] = pending;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, behind) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                match error.error_len() {
                    Some(len) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &behind[len..];
                    }
                    None => {
                        rest = behind;
                        break;
                    }
                }
            }
        }
    }
    let kept = rest.len();
    pending.drain(..pending.len() - kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expected: &[&str]) {
        let mut pending = Vec::new();
        let mut all = Vec::new();
        let mut joined = String::new();
        for (chunk, expected) in chunks.iter().zip(expected) {
            pending.extend_from_slice(chunk);
            all.extend_from_slice(chunk);
            let text = take_whole(&mut pending);
            assert_eq!(text, *expected);
            assert!(pending.len() < 4);
            joined.push_str(&text);
        }
        joined.push_str(&String::from_utf8_lossy(&pending));
        assert_eq!(joined, String::from_utf8_lossy(&all));
    }

    #[test]
    fn characters_come_whole() {
        check(&[b"a\xf0", b"\x9f", b"\x98", b"\x80b"], &["a", "", "", "😀b"]);
        check(&[b"\xf0\x9f", b"x"], &["", "\u{fffd}x"]);
        check(&[b"\xff\xc3", b"\xa9"], &["\u{fffd}", "é"]);
        check(&[b"\xe2\x82", b"\xe2\x82", b"\xac"], &["", "\u{fffd}", "€"]);
        check(&[b"\xed\xa0\x80"], &["\u{fffd}\u{fffd}\u{fffd}"]);
    }
}
