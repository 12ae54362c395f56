//! The vocabulary as the file gives it, checked: pieces, kinds, scores, special ids.

use hashbrown::{HashMap, HashTable, hash_table};
use ingle_gguf::{Array, GgufError, Metadata, StringArray};
use ingle_step::TokenId;

use crate::TokenizerError;

/// The most tokens that we take; the largest real vocabularies have 262,144.
const TOKENS_MAX: usize = 1 << 22;
/// The longest piece that we take, in bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// What a token is for. GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a model.
pub(crate) struct Vocab {
    /// The pieces as they are spelled in the file.
    pub(crate) spellings: StringArray,
    pub(crate) kinds: Vec<Kind>,
    /// Log-probabilities or merge priorities; empty where the file has none.
    pub(crate) scores: Vec<f32>,
}

impl Vocab {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.spellings.memory_bytes()
            + self.kinds.capacity() * size_of::<Kind>()
            + self.scores.capacity() * size_of::<f32>()
    }

    pub(crate) fn read(md: &Metadata) -> Result<Self, TokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let Some(spellings) = md.opt_strings(TOKENS)? else {
            return Err(GgufError::MissingKey(TOKENS.to_owned()).into());
        };
        let n_vocab = spellings.len();
        if n_vocab > TOKENS_MAX {
            return Err(TokenizerError::TooMany { key: TOKENS, found: n_vocab, limit: TOKENS_MAX });
        }
        if n_vocab == 0 {
            return Err(bad(TOKENS, 0, "the vocabulary is empty"));
        }
        for (index, piece) in spellings.iter().enumerate() {
            if piece.len() > PIECE_BYTES_MAX {
                return Err(bad(
                    TOKENS,
                    index,
                    format!("a piece of {} bytes is over the limit of {PIECE_BYTES_MAX}", piece.len()),
                ));
            }
        }
        // Which of two equal pieces a text becomes would be arbitrary.
        let mut seen: HashMap<&[u8], usize> = HashMap::with_capacity(n_vocab);
        for (index, piece) in spellings.iter().enumerate().filter(|(_, piece)| !piece.is_empty()) {
            if let Some(first) = seen.insert(piece, index) {
                let what = format!("{:?} is there already as token {first}", String::from_utf8_lossy(piece));
                return Err(bad(TOKENS, index, what));
            }
        }
        let kinds = read_kinds(md, n_vocab)?;
        let scores = read_scores(md, n_vocab)?;
        Ok(Self { spellings: spellings.clone(), kinds, scores })
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn spelling(&self, id: TokenId) -> &[u8] {
        let index = index(id);
        if index < self.len() { self.spellings.get(index) } else { &[] }
    }

    pub(crate) fn kind(&self, id: TokenId) -> Option<Kind> {
        self.kinds.get(index(id)).copied()
    }

    /// All ids in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TokenId> + use<> {
        (0u32..).take(self.len()).map(TokenId)
    }

    /// An id that a key names, if it is there; one outside the vocabulary is refused.
    pub(crate) fn special_id(
        &self,
        md: &Metadata,
        key: &'static str,
    ) -> Result<Option<TokenId>, TokenizerError> {
        let id = match md.get(key) {
            // Some converters write -1 (or its unsigned image) for "none".
            None => return Ok(None),
            Some(
                ingle_gguf::Value::I32(-1) | ingle_gguf::Value::I64(-1) | ingle_gguf::Value::U32(u32::MAX),
            ) => {
                return Ok(None);
            }
            Some(_) => md.u64(key)?,
        };
        match u32::try_from(id) {
            Ok(small) if usize::try_from(id).is_ok_and(|id| id < self.len()) => Ok(Some(TokenId(small))),
            _ => Err(TokenizerError::IdOutOfRange { key, id, n_vocab: self.len() }),
        }
    }
}

/// The id as an index.
pub(crate) fn index(id: TokenId) -> usize {
    id.0 as usize
}

pub(crate) fn bad(key: &'static str, index: usize, what: impl Into<String>) -> TokenizerError {
    TokenizerError::BadEntry { key, index, what: what.into() }
}

fn read_kinds(md: &Metadata, n_vocab: usize) -> Result<Vec<Kind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(array) = md.opt_array(KEY)? else {
        return Ok(vec![Kind::Normal; n_vocab]);
    };
    check_count(KEY, array.len(), n_vocab)?;
    let Some(numbers) = array.to_u64s() else {
        return Err(GgufError::WrongType {
            key: format!("{KEY}[]"),
            expected: "an array of token types",
            found: array.element_type(),
        }
        .into());
    };
    let kinds = numbers.iter().map(|&number| match number {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        // 0 is "undefined": files with untyped tokens mean plain text.
        _ => Kind::Normal,
    });
    Ok(kinds.collect())
}

fn read_scores(md: &Metadata, n_vocab: usize) -> Result<Vec<f32>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = match md.opt_array(KEY)? {
        None => return Ok(Vec::new()),
        Some(Array::F32(scores)) => scores,
        Some(other) => {
            return Err(GgufError::WrongType {
                key: format!("{KEY}[]"),
                expected: "an array of f32",
                found: other.element_type(),
            }
            .into());
        }
    };
    check_count(KEY, scores.len(), n_vocab)?;
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(bad(KEY, index, "the score is not a number"));
    }
    Ok(scores.clone())
}

fn check_count(key: &'static str, found: usize, n_vocab: usize) -> Result<(), TokenizerError> {
    if found == n_vocab { Ok(()) } else { Err(TokenizerError::CountMismatch { key, found, n_vocab }) }
}

/// The byte that a byte token `<0xHH>` stands for: exactly two hexadecimal digits.
pub(crate) fn parse_byte_token(spelling: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = spelling else { return None };
    let digit = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        b'A'..=b'F' => Some(d - b'A' + 10),
        _ => None,
    };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// From byte strings to numbers, the strings themselves being kept elsewhere.
pub(crate) struct PieceIndex {
    table: HashTable<u32>,
    hasher: hashbrown::DefaultHashBuilder,
}

impl PieceIndex {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    pub(crate) fn with_capacity(n: usize) -> Self {
        Self { table: HashTable::with_capacity(n), hasher: hashbrown::DefaultHashBuilder::default() }
    }

    fn hash(&self, piece: &[u8]) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = self.hasher.build_hasher();
        hasher.write(piece);
        hasher.finish()
    }

    /// The number of `piece`, whose strings `of` looks up.
    #[inline]
    pub(crate) fn find<'a>(&self, piece: &[u8], of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        self.table.find(self.hash(piece), |&number| of(number) == piece).copied()
    }

    /// Sets the number of `piece`, replacing what it had.
    pub(crate) fn set<'a>(&mut self, piece: &[u8], number: u32, of: impl Fn(u32) -> &'a [u8]) {
        let hash = self.hash(piece);
        let hasher = &self.hasher;
        let rehash = |&number: &u32| {
            use std::hash::{BuildHasher, Hasher};
            let mut state = hasher.build_hasher();
            state.write(of(number));
            state.finish()
        };
        match self.table.entry(hash, |&n| of(n) == piece, rehash) {
            hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = number,
            hash_table::Entry::Vacant(entry) => {
                entry.insert(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_have_exactly_two_hexadecimal_digits() {
        for (spelling, expected) in [
            ("<0x0A>", Some(10)),
            ("<0xff>", Some(255)),
            ("<0xZZ>", None),
            ("<0x-1>", None),
            ("<0x+1>", None),
            ("<0xA>", None),
            ("<0x0AA>", None),
            ("0x0A", None),
        ] {
            assert_eq!(parse_byte_token(spelling.as_bytes()), expected, "{spelling}");
        }
    }
}
