//! SentencePiece's Unigram: of all ways to cut a text into pieces, the most probable one (Viterbi).

use ingle_gguf::{Array, GgufError, Metadata};
use ingle_step::TokenId;

use crate::TokenizerError;
use crate::trie::Trie;
use crate::vocab::{Kind, Vocab};

/// How much less likely an unknown character is than the least likely piece.
const UNKNOWN_PENALTY: f32 = 10.0;

pub(crate) struct Unigram {
    trie: Trie,
    scores: Vec<f32>,
    unknown: Option<TokenId>,
    unknown_score: f32,
    normalizer: Option<CharsMap>,
    remove_extra_spaces: bool,
}

impl Unigram {
    pub(crate) fn memory_bytes(&self) -> usize {
        let charsmap = |map: &CharsMap| map.units.capacity() * size_of::<u32>() + map.replacements.capacity();
        self.trie.memory_bytes()
            + self.scores.capacity() * size_of::<f32>()
            + self.normalizer.as_ref().map_or(0, charsmap)
    }

    /// `in_text` says of each token whether text may become it.
    pub(crate) fn new(
        md: &Metadata,
        vocab: &Vocab,
        in_text: &[bool],
        unknown: Option<TokenId>,
    ) -> Result<Self, TokenizerError> {
        const SCORES: &str = "tokenizer.ggml.scores";
        if vocab.scores.is_empty() {
            return Err(GgufError::MissingKey(SCORES.to_owned()).into());
        }
        let mut trie = Trie::default();
        let mut scores = vocab.scores.clone();
        let mut lowest = f32::MAX;
        for id in vocab.ids().filter(|&id| in_text[id.0 as usize]) {
            trie.insert(vocab.spelling(id), id.0);
            if vocab.kind(id) == Some(Kind::UserDefined) {
                scores[id.0 as usize] = 0.0;
            } else {
                lowest = lowest.min(scores[id.0 as usize]);
            }
        }
        Ok(Self {
            trie,
            scores,
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
            normalizer: CharsMap::read(md)?,
            remove_extra_spaces: md.opt_bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        })
    }

    /// Appends the tokens of `text`, in which nothing is special. `space_prefix`: a space goes in front.
    pub(crate) fn encode(&self, text: &str, space_prefix: bool, out: &mut Vec<TokenId>) {
        let text = self.normalize(text, space_prefix);
        // By end position: the best score of a way there, and its last piece: start and token.
        let mut best: Vec<(f32, usize, Option<TokenId>)> = vec![(f32::NEG_INFINITY, 0, None); text.len() + 1];
        best[0].0 = 0.0;
        for (start, c) in text.char_indices() {
            let (so_far, ..) = best[start];
            let mut has_single = false;
            for (len, number) in self.trie.prefixes(&text.as_bytes()[start..]) {
                has_single |= len == c.len_utf8();
                let score = so_far + self.scores[number as usize];
                if score > best[start + len].0 {
                    best[start + len] = (score, start, Some(TokenId(number)));
                }
            }
            let end = start + c.len_utf8();
            let score = so_far + self.unknown_score;
            if !has_single && score > best[end].0 {
                best[end] = (score, start, None);
            }
        }
        let first = out.len();
        let mut end = text.len();
        let mut was_unknown = false;
        while end > 0 {
            let (_, start, token) = best[end];
            match token {
                Some(token) => out.push(token),
                // Neighbouring unknown characters are one unknown token.
                None if !was_unknown => out.extend(self.unknown),
                None => {}
            }
            was_unknown = token.is_none();
            // Every position was reached from an earlier one; the bound makes sure that this ends.
            end = start.min(end - 1);
        }
        out[first..].reverse();
    }

    fn normalize(&self, text: &str, space_prefix: bool) -> String {
        let mapped = match &self.normalizer {
            Some(map) => map.apply(text),
            None => text.to_owned(),
        };
        let mut normal = String::with_capacity(mapped.len() + 3);
        let mut in_word = false;
        let mut prefixed = false;
        for c in mapped.chars() {
            if c == ' ' {
                in_word = false;
                if !self.remove_extra_spaces {
                    normal.push('▁');
                }
                continue;
            }
            if !in_word {
                in_word = true;
                let wanted = (space_prefix && !prefixed) || (self.remove_extra_spaces && !normal.is_empty());
                if wanted {
                    normal.push('▁');
                    prefixed = true;
                }
            }
            normal.push(c);
        }
        normal
    }
}

/// SentencePiece's compiled character map: a double array from byte strings to offsets of replacements.
struct CharsMap {
    units: Vec<u32>,
    /// NUL-terminated strings.
    replacements: Vec<u8>,
}

impl CharsMap {
    fn read(md: &Metadata) -> Result<Option<Self>, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let blob: Vec<u8> = match md.opt_array(KEY)? {
            None => return Ok(None),
            Some(Array::U8(blob)) => blob.clone(),
            Some(Array::I8(blob)) => blob.iter().map(|b| b.cast_unsigned()).collect(),
            Some(other) => {
                return Err(GgufError::WrongType {
                    key: format!("{KEY}[]"),
                    expected: "an array of bytes",
                    found: other.element_type(),
                }
                .into());
            }
        };
        if blob.is_empty() {
            return Ok(None);
        }
        let malformed = |what: &str| GgufError::BadValue { key: KEY.to_owned(), what: what.to_owned() };
        let Some((size, rest)) = blob.split_first_chunk::<4>() else {
            return Err(malformed("is too short for its header").into());
        };
        let n_bytes = u32::from_le_bytes(*size) as usize;
        if !n_bytes.is_multiple_of(4) || n_bytes > rest.len() {
            return Err(malformed("its double array does not fit in it").into());
        }
        let (array, replacements) = rest.split_at(n_bytes);
        let units = array.as_chunks::<4>().0.iter().map(|&unit| u32::from_le_bytes(unit)).collect();
        Ok(Some(Self { units, replacements: replacements.to_vec() }))
    }

    fn apply(&self, text: &str) -> String {
        let mut mapped: Vec<u8> = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match self.longest(rest.as_bytes()).filter(|&(len, _)| rest.is_char_boundary(len)) {
                Some((len, replacement)) => {
                    mapped.extend_from_slice(replacement);
                    rest = &rest[len..];
                }
                None => {
                    mapped.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        String::from_utf8_lossy(&mapped).into_owned()
    }

    /// The longest key that `text` starts with: its length and replacement.
    fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let offset_of = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut found = None;
        let mut node = offset_of(*self.units.first()?);
        for (len, &byte) in (1..).zip(text) {
            if byte == 0 {
                break;
            }
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset_of(unit);
            if unit >> 8 & 1 == 1 {
                let Some(&value) = self.units.get(node) else { break };
                found = Some((len, (value & !(1 << 31)) as usize));
            }
        }
        let (len, start) = found?;
        let replacement = self.replacements.get(start..)?;
        let end = replacement.iter().position(|&b| b == 0)?;
        Some((len, &replacement[..end]))
    }
}
