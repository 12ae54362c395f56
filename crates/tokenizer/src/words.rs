//! What the merging models share: cutting text where no piece can reach across, and remembering words.

use std::sync::{Mutex, PoisonError};

use hashbrown::{HashMap, HashSet};
use ingle_step::TokenId;

/// Words kept with their tokens, for each of at most [`POOL_MAX`] concurrent callers.
const CACHED_WORDS_MAX: usize = 1 << 15;
/// The longest word that is kept, in bytes.
pub(crate) const CACHED_WORD_BYTES_MAX: usize = 64;
/// Sets of buffers kept between calls.
const POOL_MAX: usize = 16;

/// Buffers that callers borrow, so that concurrent calls neither wait for each other nor start cold.
#[derive(Default)]
pub(crate) struct Pool<T>(Mutex<Vec<T>>);

impl<T: Default> Pool<T> {
    pub(crate) fn take(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, buffers: T) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < POOL_MAX {
            kept.push(buffers);
        }
    }
}

/// Words seen before, with their tokens. Full means empty again: simple, and rare.
#[derive(Default)]
pub(crate) struct WordCache(HashMap<Box<[u8]>, Box<[TokenId]>>);

impl WordCache {
    pub(crate) fn get(&self, word: &[u8]) -> Option<&[TokenId]> {
        self.0.get(word).map(AsRef::as_ref)
    }

    pub(crate) fn insert(&mut self, word: &[u8], tokens: &[TokenId]) {
        if self.0.len() >= CACHED_WORDS_MAX {
            self.0.clear();
        }
        self.0.insert(word.into(), tokens.into());
    }
}

/// Which two characters are neighbours in some piece. Between others no merge can ever happen, so a text may be cut there
/// without changing its tokens; in practice that is between words.
pub(crate) struct Joints {
    /// By first character, of ASCII ones: the bit of each second one.
    ascii: [u128; 128],
    others: HashSet<(char, char)>,
}

impl Joints {
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.others.allocation_size()
    }

    pub(crate) fn of<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut joints = Self { ascii: [0; 128], others: HashSet::new() };
        for piece in pieces.filter_map(|piece| std::str::from_utf8(piece).ok()) {
            for (left, right) in piece.chars().zip(piece.chars().skip(1)) {
                if left.is_ascii() && right.is_ascii() {
                    joints.ascii[left as usize] |= 1 << (right as u32);
                } else {
                    joints.others.insert((left, right));
                }
            }
        }
        joints
    }

    fn join(&self, left: char, right: char) -> bool {
        if left.is_ascii() && right.is_ascii() {
            self.ascii[left as usize] >> (right as u32) & 1 == 1
        } else {
            self.others.contains(&(left, right))
        }
    }

    /// Cuts `text` wherever it can be.
    pub(crate) fn split(&self, text: &str, mut emit: impl FnMut(&str)) {
        let mut start = 0;
        let mut last = None;
        for (at, c) in text.char_indices() {
            if last.is_some_and(|last| !self.join(last, c)) {
                emit(&text[start..at]);
                start = at;
            }
            last = Some(c);
        }
        if start < text.len() {
            emit(&text[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_where_no_piece_reaches_across() {
        let pieces = ["ab", "▁a", "cé"];
        let joints = Joints::of(pieces.iter().map(|piece| piece.as_bytes()));
        let mut found = Vec::new();
        joints.split("abba▁ab▁▁cé", |part| found.push(part.to_owned()));
        assert_eq!(found, ["ab", "b", "a", "▁ab", "▁", "▁", "cé"]);
    }
}
