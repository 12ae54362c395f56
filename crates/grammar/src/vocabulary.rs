//! A model's tokens as the recognizer sees them.

use std::collections::HashMap;
use std::sync::Arc;

use ingle_step::TokenId;
use ingle_tokenizer::Tokenizer;
use toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

use crate::{GrammarError, TokenMask};

/// Longer tokens (there are some of a thousand spaces) are never allowed: the trie cannot hold them.
pub(crate) const TOKEN_BYTES_MAX: usize = 512;
/// Nodes that the trie can hold.
const TRIE_BYTES_MAX: usize = (1 << 22) - 1;

/// The trie of a vocabulary, and which of its tokens are text.
pub(crate) struct Vocabulary {
    pub tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    /// Tokens that plain text may become.
    pub text: TokenMask,
    /// Tokens that are not, by how they are spelled.
    specials: HashMap<String, TokenId>,
    /// The tokens that end an answer.
    pub ends: Vec<TokenId>,
}

/// A piece of a text that may spell special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spelled<'a> {
    Text(&'a str),
    Token(TokenId),
}

impl Vocabulary {
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let n_vocab = tokenizer.n_vocab();
        let size = u32::try_from(n_vocab).ok().filter(|&n| n > 0 && n < 1 << 24);
        let size = size.ok_or_else(|| {
            GrammarError::unsupported(format!("no grammar for {n_vocab} tokens: 1 to 2^24 - 1 are"))
        })?;
        let specials: HashMap<String, TokenId> = tokenizer
            .special_tokens()
            .filter(|(id, _)| !tokenizer.is_text(*id))
            .map(|(id, spelling)| (spelling.to_owned(), id))
            .collect();
        let mut text = TokenMask::new(n_vocab);
        let mut ends = Vec::new();
        let mut total = 0;
        let mut words = Vec::with_capacity(n_vocab);
        for id in (0..size).map(TokenId) {
            let bytes = tokenizer.token_bytes(id);
            let word = if !tokenizer.is_text(id) || tokenizer.is_end(id) {
                // The recognizer's mark of what is no text: a byte that is in no text.
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
            } else {
                text.allow(id);
                // That same byte, alone, is a token of many vocabularies, and never text.
                let usable =
                    bytes.len() <= TOKEN_BYTES_MAX && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
                if usable { bytes.to_vec() } else { Vec::new() }
            };
            let word = if word.len() > TOKEN_BYTES_MAX { Vec::new() } else { word };
            total += word.len();
            words.push(word);
            if tokenizer.is_end(id) {
                ends.push(id);
            }
        }
        if total > TRIE_BYTES_MAX {
            let reason =
                format!("no grammar for tokens of {total} bytes together: at most {TRIE_BYTES_MAX} are");
            return Err(GrammarError::unsupported(reason));
        }
        let end_ids: Vec<u32> = ends.iter().map(|id| id.0).collect();
        let none = toktrie::INVALID_TOKEN;
        let info = TokRxInfo::new(size, end_ids.first().copied().unwrap_or(none));
        let trie = TokTrie::from(&info, &words);
        let trie = if end_ids.is_empty() { trie } else { trie.with_eos_tokens(&end_ids) };
        Ok(Self { tokenizer: Arc::clone(tokenizer), trie, text, specials, ends })
    }

    pub fn n_vocab(&self) -> usize {
        self.tokenizer.n_vocab()
    }

    /// The special token that a text spells as a whole.
    pub fn special(&self, spelling: &str) -> Option<TokenId> {
        self.specials.get(spelling).copied()
    }

    /// Whether some token's bytes begin with these, and go on.
    pub fn has_longer(&self, bytes: &[u8]) -> bool {
        self.trie.has_extensions(bytes)
    }

    /// Cuts a text at the special tokens that it spells: leftmost first, then longest.
    pub fn split<'a>(&self, text: &'a str) -> Vec<Spelled<'a>> {
        let mut pieces = Vec::new();
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let rest = &text[at..];
            let found = self.specials.iter().filter(|(spelling, _)| rest.starts_with(spelling.as_str()));
            if let Some((spelling, &id)) = found.max_by_key(|(spelling, _)| spelling.len()) {
                if done < at {
                    pieces.push(Spelled::Text(&text[done..at]));
                }
                pieces.push(Spelled::Token(id));
                at += spelling.len();
                done = at;
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        if done < text.len() {
            pieces.push(Spelled::Text(&text[done..]));
        }
        pieces
    }
}

/// Tokenizing is ours alone, so that a mask holds every way to spell what may come and not only the tokenizer's own:
/// a model that spells otherwise is not forced to begin a word anew. `Matcher::forced` uses the tokenizer's.
impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<toktrie::TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
