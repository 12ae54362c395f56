//! Prompt lookup: what followed the last tokens when they stood in the text before, in the prompt or in the answer.
//!
//! An [`Index`] holds the place of each run of [`MATCH_MIN`] tokens: the latest one by hash, and from each place the one
//! before it with the same hash, as LZ77 compressors do. Adding a token costs one hash; a look-up follows at most
//! [`CANDIDATES_MAX`] places and prefers the longest match, of equally long ones the latest. Memory is at most 20
//! bytes a token.

use ingle_step::TokenId;

/// Shorter matches are no matches: the length of the runs that are hashed.
pub const MATCH_MIN: usize = 3;
/// Longer matches count as this long.
pub const MATCH_MAX: usize = 32;
/// Places that one look-up compares.
const CANDIDATES_MAX: usize = 16;
/// No place.
const NONE: u32 = u32::MAX;

/// Where runs of tokens stand in a text that grows. The text itself is the caller's, and always the same but longer.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// By hash: where its latest run ends. A power of two long.
    latest: Vec<u32>,
    /// By the end of a run: where an earlier one with the same hash ends. `(n_indexed + 1,)`
    earlier: Vec<u32>,
}

/// A place where the text's last tokens stood before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// What followed them there begins at this index.
    pub at: usize,
    /// How many tokens are the same, up to [`MATCH_MAX`].
    pub len: usize,
}

impl Index {
    /// Takes note of what `text` has that it had not when it was last given. The run at its very end has nothing
    /// behind it yet, and is left for the next time.
    pub fn extend(&mut self, text: &[TokenId]) {
        assert!(text.len() < NONE as usize, "places are 32-bit");
        if text.len() > self.latest.len() {
            self.latest = vec![NONE; text.len().next_power_of_two().max(64) * 2];
            self.earlier.clear();
        }
        for end in self.earlier.len()..text.len() {
            if end < MATCH_MIN {
                self.earlier.push(NONE);
                continue;
            }
            let slot = self.slot(&text[end - MATCH_MIN..end]);
            self.earlier.push(std::mem::replace(&mut self.latest[slot], end as u32));
        }
    }

    /// The best place in `text`, as far as it is indexed, for the tokens that `query` ends with.
    pub fn find(&self, text: &[TokenId], query: &[TokenId]) -> Option<Match> {
        let run = query.len().checked_sub(MATCH_MIN).map(|from| &query[from..])?;
        if self.latest.is_empty() {
            return None;
        }
        let mut end = self.latest[self.slot(run)];
        let mut best: Option<Match> = None;
        for _ in 0..CANDIDATES_MAX {
            if end == NONE {
                break;
            }
            let at = end as usize;
            let same = query.iter().rev().zip(text[..at].iter().rev()).take(MATCH_MAX);
            let len = same.take_while(|(a, b)| a == b).count();
            if len >= MATCH_MIN && best.is_none_or(|best| len > best.len) {
                best = Some(Match { at, len });
            }
            end = self.earlier[at];
        }
        best
    }

    fn slot(&self, run: &[TokenId]) -> usize {
        let hash = run.iter().fold(0u64, |hash, token| {
            (hash ^ u64::from(token.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
        });
        hash as usize & (self.latest.len() - 1)
    }
}

/// Up to `n` tokens from `text[at..]`. A text that ends before is taken to go on as it did since `at`: what has begun
/// to repeat itself usually does so again.
pub fn continuation(text: &[TokenId], at: usize, n: usize) -> Vec<TokenId> {
    text[at..].iter().copied().cycle().take(n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(|b| TokenId(u32::from(b))).collect()
    }

    /// What follows the text, guessed from all of it, given at once and byte by byte.
    fn check(text: &str, n: usize, expected: Option<(&str, usize)>) {
        let text = tokens(text);
        let mut whole = Index::default();
        whole.extend(&text);
        let mut grown = Index::default();
        (0..=text.len()).for_each(|n| grown.extend(&text[..n]));
        for index in [whole, grown] {
            let found = index.find(&text, &text);
            let found = found.map(|m| (continuation(&text, m.at, n), m.len));
            assert_eq!(found, expected.map(|(text, len)| (tokens(text), len)));
        }
    }

    #[test]
    fn guesses_what_followed_before() {
        check("", 4, None);
        check("ab", 4, None);
        check("abab", 4, None);
        check("one two three. one ", 5, Some(("two t", 4)));
        check("the cat, the dog, a cat, the ", 3, Some(("dog", 10)));
        check("the cat. the dog. the ", 3, Some(("dog", 6)));
        check("abcabcabc", 7, Some(("abcabca", 6)));
        check("aaaa", 5, Some(("aaaaa", 3)));
        check("nothing is said again", 3, None);
    }

    #[test]
    fn another_text_is_searched_too() {
        let (text, query) = (tokens("let total = sum(values);"), tokens("fn f() { let t"));
        let mut index = Index::default();
        index.extend(&text);
        let found = index.find(&text, &query).unwrap();
        assert_eq!((found.at, found.len), (5, 5));
        assert_eq!(Index::default().find(&[], &query), None);
    }

    /// Against a search of everything, over small alphabets, where there are fewer places than are looked at.
    #[test]
    fn finds_the_longest_and_latest() {
        let mut rng = ingle_testkit::rng::Rng::new(1);
        for round in 0..300 {
            let n_kinds = 2 + round % 7;
            let text: Vec<TokenId> = (0..rng.below(40)).map(|_| TokenId(rng.below(n_kinds) as u32)).collect();
            let mut index = Index::default();
            index.extend(&text);
            let same = |at: usize| {
                let pairs = text.iter().rev().zip(text[..at].iter().rev()).take(MATCH_MAX);
                pairs.take_while(|(a, b)| a == b).count()
            };
            let ends = (MATCH_MIN..text.len()).filter(|&at| same(at) >= MATCH_MIN);
            if ends.clone().count() <= CANDIDATES_MAX && text.len() >= MATCH_MIN {
                let expected = ends.max_by_key(|&at| (same(at), at));
                let found = index.find(&text, &text);
                assert_eq!(found.map(|m| (m.at, m.len)), expected.map(|at| (at, same(at))), "{text:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_by_the_text() {
        let text: Vec<TokenId> = (0..5000).map(|i| TokenId(i % 700)).collect();
        let mut index = Index::default();
        (0..=text.len()).for_each(|n| index.extend(&text[..n]));
        assert!(index.latest.len() <= 4 * text.len() && index.earlier.len() <= text.len());
    }
}
