//! WordPiece, as BERT's kin use it: words are cleaned, then cut greedily into the longest pieces.

use ingle_step::TokenId;
use unicode_general_category::{GeneralCategory as G, get_general_category};
use unicode_normalization::UnicodeNormalization;

use crate::trie::Trie;
use crate::unicode::{Classes, PUNCTUATION, SPACE};
use crate::vocab::Vocab;

pub(crate) struct Wpm {
    /// Pieces that start a word begin with `▁`, the others do not.
    trie: Trie,
    unknown: Option<TokenId>,
    lowercase: bool,
    strip_accents: bool,
}

impl Wpm {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.trie.memory_bytes()
    }

    /// `in_text` says of each token whether text may become it.
    pub(crate) fn new(
        vocab: &Vocab,
        in_text: &[bool],
        unknown: Option<TokenId>,
        lowercase: bool,
        strip_accents: bool,
    ) -> Self {
        let mut trie = Trie::default();
        for id in vocab.ids().filter(|id| in_text[id.0 as usize]) {
            trie.insert(vocab.spelling(id), id.0);
        }
        Self { trie, unknown, lowercase, strip_accents }
    }

    /// Appends the tokens of `text`, in which nothing is special.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let classes = Classes::get();
        let mut word = String::new();
        let mut take = |c: char| {
            let class = classes.of(c);
            if class & SPACE != 0 {
                self.encode_word(&mut word, out);
            } else if c == '\0' || c == '\u{fffd}' || is_removed(c) {
            } else if class & PUNCTUATION != 0 || c.is_ascii_punctuation() || is_chinese(c) {
                self.encode_word(&mut word, out);
                word.extend(c.to_lowercase().filter(|_| self.lowercase));
                if !self.lowercase {
                    word.push(c);
                }
                self.encode_word(&mut word, out);
            } else if self.lowercase {
                word.extend(c.to_lowercase());
            } else {
                word.push(c);
            }
        };
        if self.strip_accents {
            text.nfd().filter(|&c| get_general_category(c) != G::NonspacingMark).for_each(&mut take);
        } else {
            text.chars().for_each(&mut take);
        }
        self.encode_word(&mut word, out);
    }

    /// Appends the longest pieces that make the word up, or the unknown token if they can not; empties `word`.
    fn encode_word(&self, word: &mut String, out: &mut Vec<TokenId>) {
        if word.is_empty() {
            return;
        }
        word.insert(0, '▁');
        let before = out.len();
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            match self.trie.longest(rest) {
                Some((len, id)) => {
                    out.push(TokenId(id));
                    rest = &rest[len..];
                }
                None => {
                    out.truncate(before);
                    out.extend(self.unknown);
                    break;
                }
            }
        }
        word.clear();
    }
}

/// Control, format and private characters are left out.
fn is_removed(c: char) -> bool {
    matches!(get_general_category(c), G::Control | G::Format | G::PrivateUse | G::Surrogate)
}

/// Hanzi, of which each is a word.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}' | '\u{2b920}'..='\u{2ceaf}' | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}
