//! Which tokens may come next.

use ingle_step::TokenId;

const WORD_BITS: usize = u32::BITS as usize;

/// A set of tokens: one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    /// `(n_vocab / 32, rounded up)`; bits behind the vocabulary are 0.
    words: Vec<u32>,
}

impl TokenMask {
    /// No token of a vocabulary of this size.
    pub fn new(n_vocab: usize) -> Self {
        Self { words: vec![0; n_vocab.div_ceil(WORD_BITS)] }
    }

    /// The bits: token `i` is bit `i % 32` of word `i / 32`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether a token is in it.
    pub fn allows(&self, token: TokenId) -> bool {
        let (word, bit) = position(token);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many tokens are in it.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The tokens in it, in order.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.words.iter().zip(0u32..).flat_map(|(&word, at)| {
            (0..u32::BITS)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| TokenId(at * u32::BITS + bit))
        })
    }

    /// Sets the logits of all other tokens to minus infinity, and of those behind the vocabulary.
    pub fn apply(&self, logits: &mut [f32]) {
        let covered = logits.len().min(self.words.len() * WORD_BITS);
        let (inside, outside) = logits.split_at_mut(covered);
        for (chunk, &word) in inside.chunks_mut(WORD_BITS).zip(&self.words) {
            match word {
                u32::MAX => {}
                // Most words, where a grammar leaves little choice.
                0 => chunk.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        outside.fill(f32::NEG_INFINITY);
    }

    pub(crate) fn allow(&mut self, token: TokenId) {
        let (word, bit) = position(token);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Becomes what is in both.
    pub(crate) fn set_to_both(&mut self, words: &[u32], other: &TokenMask) {
        self.words.clear();
        self.words.extend(other.words.iter().zip(words).map(|(a, b)| a & b));
        self.words.resize(other.words.len(), 0);
    }
}

fn position(token: TokenId) -> (usize, u32) {
    let id = token.0 as usize;
    (id / WORD_BITS, 1 << (token.0 % u32::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_logits_become_minus_infinity() {
        let n_vocab = 100;
        for allowed in [vec![], vec![0], vec![31, 32, 63, 64, 99], (0..64).collect::<Vec<u32>>()] {
            let mut mask = TokenMask::new(n_vocab);
            allowed.iter().for_each(|&id| mask.allow(TokenId(id)));
            assert_eq!(mask.count(), allowed.len());
            assert_eq!(mask.tokens().map(|id| id.0).collect::<Vec<_>>(), allowed);
            // As many logits as tokens, fewer, and more: models pad their output.
            for n_logits in [n_vocab, 40, 160] {
                let mut logits = vec![1.0; n_logits];
                mask.apply(&mut logits);
                for (id, &logit) in (0u32..).zip(&logits) {
                    let expected = if allowed.contains(&id) { 1.0 } else { f32::NEG_INFINITY };
                    assert_eq!(logit, expected, "token {id} of {n_logits}, allowed {allowed:?}");
                }
            }
        }
    }
}
