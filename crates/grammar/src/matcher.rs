//! A compiled grammar, and an answer's way through it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ingle_step::TokenId;
use llguidance::api::StopReason;
use llguidance::{Matcher as Recognizer, TokenParser};
use toktrie::{SimpleVob, TokTrie};

use crate::compiler::message;
use crate::vocabulary::{TOKEN_BYTES_MAX, Vocabulary};
use crate::{GrammarError, TokenMask};

/// Forced text is written this many bytes at a time: what is forced may be as long as a schema.
const FORCED_BYTES_MAX: usize = 4096;

/// Tokens of an answer that are accepted again between two masks.
const REPLAYED_TOKENS: usize = 16;

/// What a format became for one vocabulary.
pub struct Grammar {
    /// At its beginning, never advanced. Matchers are deep copies: what one answer makes of the lexer's states and
    /// budgets is nothing to another, so that a mask depends on the grammar and the accepted tokens alone.
    prototype: Arc<Mutex<Recognizer>>,
    vocabulary: Arc<Vocabulary>,
    /// Tokens that a mask may hold before the end: text, and what the grammar names.
    possible: Arc<TokenMask>,
    /// Whether what is forced may be spelled for the model.
    looks_ahead: bool,
}

impl Grammar {
    pub(crate) fn new(
        parser: TokenParser,
        vocabulary: &Arc<Vocabulary>,
        named: TokenMask,
        looks_ahead: bool,
    ) -> Self {
        let mut possible = vocabulary.text.clone();
        named.tokens().for_each(|id| possible.allow(id));
        Self {
            prototype: Arc::new(Mutex::new(Recognizer::new(Ok(parser)))),
            vocabulary: Arc::clone(vocabulary),
            possible: Arc::new(possible),
            looks_ahead,
        }
    }

    /// A matcher for one answer, at its beginning.
    pub fn matcher(&self) -> Matcher {
        Matcher {
            recognizer: beginning(&self.prototype),
            prototype: Arc::clone(&self.prototype),
            vocabulary: Arc::clone(&self.vocabulary),
            possible: Arc::clone(&self.possible),
            accepted: Vec::new(),
            ended: false,
            has_forced: false,
            looks_ahead: self.looks_ahead,
            has_looked_ahead: false,
        }
    }
}

/// A recognizer that has seen nothing.
fn beginning(prototype: &Mutex<Recognizer>) -> Recognizer {
    let mut recognizer = prototype.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
    // Finds out whether there is anything to say at all.
    let checked = recognizer.consume_tokens(&[]);
    debug_assert!(checked.is_ok(), "nothing was consumed");
    recognizer
}

/// One answer's way through a grammar.
pub struct Matcher {
    recognizer: Recognizer,
    prototype: Arc<Mutex<Recognizer>>,
    vocabulary: Arc<Vocabulary>,
    possible: Arc<TokenMask>,
    /// What the recognizer took, in order.
    accepted: Vec<TokenId>,
    /// A token that ends the answer came after them.
    ended: bool,
    /// [`Self::forced`] made the recognizer write down bytes that must come, and they have not all come yet.
    has_forced: bool,
    /// Whether [`Self::forced`] looks at all: not where that was too much for the recognizer, or is not wanted.
    looks_ahead: bool,
    /// Whether it has ever looked.
    has_looked_ahead: bool,
}

impl Matcher {
    /// Which tokens may come next. Those that end the answer are among them exactly if it [may end](Self::may_end).
    ///
    /// # Errors
    /// If no token may come, or the grammar became too complex. The answer cannot go on then.
    pub fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        match self.try_mask(mask) {
            Err(_) if self.stop_looking_ahead() => self.try_mask(mask),
            result => result,
        }
    }

    fn try_mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        if self.must_end() {
            mask.set_to_both(&[], &self.possible);
        } else if let Some(token) = self.forced_special() {
            mask.set_to_both(&[], &self.possible);
            mask.allow(token);
        } else {
            let allowed: SimpleVob = self.recognizer.compute_mask().map_err(|error| self.fault(&error))?;
            mask.set_to_both(allowed.as_slice(), &self.possible);
        }
        if self.may_end() {
            self.vocabulary.ends.iter().for_each(|&id| mask.allow(id));
        }
        if mask.is_empty() {
            mask.clear();
            return Err(GrammarError::DeadEnd);
        }
        Ok(())
    }

    /// Goes on by a token.
    ///
    /// # Errors
    /// If the mask does not allow it, in which case nothing changes, or if the grammar became too complex.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        match self.try_accept(token) {
            Err(GrammarError::TooComplex { .. }) if self.stop_looking_ahead() => self.try_accept(token),
            result => result,
        }
    }

    fn try_accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if !self.ended && self.vocabulary.ends.contains(&token) && self.may_end() {
            self.ended = true;
            return Ok(());
        }
        if self.ended || !self.possible.allows(token) {
            return Err(GrammarError::NotAllowed { token });
        }
        if self.recognizer.is_stopped() {
            return Err(self.stopped().unwrap_or(GrammarError::NotAllowed { token }));
        }
        match self.recognizer.try_consume_tokens(&[token.0]) {
            Ok(1) => {
                self.accepted.push(token);
                Ok(())
            }
            Ok(_) => Err(GrammarError::NotAllowed { token }),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Whether the text may end here.
    pub fn may_end(&mut self) -> bool {
        self.ended || self.recognizer.is_accepting().unwrap_or(false)
    }

    /// Whether nothing but the end may follow.
    pub fn must_end(&mut self) -> bool {
        self.ended || (self.recognizer.is_stopped() && self.recognizer.stop_reason().is_ok())
    }

    /// The tokens that must come next, as the tokenizer writes them: to jump ahead. A last token that might be written
    /// as the beginning of a longer one is left to the model. Empty if the model has a choice. Nothing is accepted.
    /// Where very much is forced, these are the first of them.
    pub fn forced(&mut self) -> Vec<TokenId> {
        if self.ended || !self.looks_ahead || self.recognizer.is_stopped() {
            return Vec::new();
        }
        self.has_looked_ahead = true;
        let bytes = self.recognizer.compute_ff_bytes();
        self.has_forced = !bytes.is_empty();
        let mut tokens = Vec::new();
        for part in parts(&bytes) {
            let last = tokens.last().or(self.accepted.last()).copied();
            match part {
                Part::Special(id) => tokens.push(id),
                Part::Text { range, is_open } => match self.write(&bytes[range], last, is_open) {
                    Some(text) => tokens.extend(text),
                    None => break,
                },
            }
        }
        // Only what this very grammar takes: the rest is the model's to find.
        let ids: Vec<u32> = tokens.iter().map(|id| id.0).collect();
        let n_valid = self.recognizer.validate_tokens(&ids).unwrap_or(0);
        tokens.truncate(n_valid);
        tokens
    }

    /// Looking ahead does the work of many tokens at once, for which the recognizer has one token's limits. An answer that
    /// fails because of that goes on without. Whether there is anything to go on with.
    fn stop_looking_ahead(&mut self) -> bool {
        if !self.has_looked_ahead || !self.looks_ahead {
            return false;
        }
        self.looks_ahead = false;
        self.has_forced = false;
        let mut recognizer = beginning(&self.prototype);
        let is_same = self.accepted.chunks(REPLAYED_TOKENS).all(|part| {
            let ids: Vec<u32> = part.iter().map(|id| id.0).collect();
            // A mask renews the recognizer's allowance of work.
            recognizer.compute_mask().is_ok()
                && recognizer.try_consume_tokens(&ids).is_ok_and(|n| n == ids.len())
        });
        if is_same {
            self.recognizer = recognizer;
        }
        is_same
    }

    /// The special token that must come next, where the recognizer has written that down. It writes it as text of its
    /// own, of which it would find no token.
    fn forced_special(&mut self) -> Option<TokenId> {
        if !self.has_forced {
            return None;
        }
        let bytes = self.recognizer.compute_ff_bytes();
        self.has_forced = !bytes.is_empty();
        let number = bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER])?;
        toktrie::parse_numeric_token(number).map(|(_, id)| TokenId(id))
    }

    /// Text as the tokenizer writes it behind a token; without its end, if that is open to what follows. `None` if that
    /// is not the text's bytes: the tokenizer cannot write what is no UTF-8, or would change it.
    fn write(&self, text: &[u8], behind: Option<TokenId>, is_open: bool) -> Option<Vec<TokenId>> {
        let tokenizer = &self.vocabulary.tokenizer;
        // Bytes of an unfinished character are for later.
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).ok()?,
        };
        let spells =
            |tokens: &[TokenId]| tokens.iter().flat_map(|&id| tokenizer.token_bytes(id)).eq(text.as_bytes());
        // Where words begin depends on what stands before, so the last token is written again.
        let behind = behind.filter(|&id| self.vocabulary.text.allows(id));
        let joined = behind.and_then(|last| {
            let before = std::str::from_utf8(tokenizer.token_bytes(last)).ok()?;
            let tokens = tokenizer.encode_continuation(&format!("{before}{text}"));
            let rest = tokens.strip_prefix(&[last])?;
            spells(rest).then(|| rest.to_vec())
        });
        let mut tokens = match joined {
            Some(tokens) => tokens,
            None => Some(tokenizer.encode_continuation(text)).filter(|tokens| spells(tokens))?,
        };
        if is_open {
            let (mut keep, mut n_tail) = (tokens.len(), 0);
            for (at, &id) in tokens.iter().enumerate().rev() {
                n_tail += tokenizer.token_bytes(id).len();
                if n_tail > TOKEN_BYTES_MAX {
                    break;
                }
                if self.vocabulary.has_longer(&text.as_bytes()[text.len() - n_tail..]) {
                    keep = at;
                }
            }
            tokens.truncate(keep);
        }
        Some(tokens)
    }

    /// Takes back the last accepted tokens, an end too.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn rollback(&mut self, n_tokens: usize) -> Result<(), GrammarError> {
        let accepted = self.accepted.len() + usize::from(self.ended);
        if n_tokens > accepted {
            return Err(GrammarError::Rollback { wanted: n_tokens, accepted });
        }
        if n_tokens == 0 {
            return Ok(());
        }
        let n_text = n_tokens - usize::from(self.ended);
        self.ended = false;
        if n_text > 0 {
            self.recognizer.rollback(n_text).map_err(|error| self.fault(&error))?;
            self.accepted.truncate(self.accepted.len() - n_text);
        }
        Ok(())
    }

    /// What the recognizer stopped for, if that was no end.
    fn stopped(&mut self) -> Option<GrammarError> {
        if self.recognizer.stop_reason().is_ok() {
            return None;
        }
        let error = self.recognizer.get_error().unwrap_or_default();
        Some(self.fault(&error))
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> GrammarError {
        let text = message(error);
        if text.contains(&StopReason::NoExtensionBias.to_string()) {
            GrammarError::DeadEnd
        } else {
            GrammarError::TooComplex { reason: text }
        }
    }
}

/// A piece of what is forced.
enum Part {
    Special(TokenId),
    /// Text, and whether nobody knows what comes behind it.
    Text {
        range: Range<usize>,
        is_open: bool,
    },
}

/// Cuts forced bytes at the special tokens that they write as a mark and a number, and behind as many as are wanted.
fn parts(bytes: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest[0] == TokTrie::SPECIAL_TOKEN_MARKER {
            let Some((n_bytes, id)) = toktrie::parse_numeric_token(&rest[1..]) else { break };
            parts.push(Part::Special(TokenId(id)));
            at += 1 + n_bytes;
            continue;
        }
        let n_text = rest.iter().position(|&b| b == TokTrie::SPECIAL_TOKEN_MARKER).unwrap_or(rest.len());
        let end = (at + n_text).min(FORCED_BYTES_MAX.max(at));
        let is_open = end == bytes.len() || end < at + n_text;
        parts.push(Part::Text { range: at..end, is_open });
        if is_open {
            break;
        }
        at = end;
    }
    parts
}
