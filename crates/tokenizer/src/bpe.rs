//! Byte pair encoding: words are merged, best rank first, from single bytes (`gpt2`) or characters (`gemma4`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU8, Ordering};

use hashbrown::HashMap;
use ingle_gguf::{GgufError, Metadata, StringArray};
use ingle_step::TokenId;

use crate::TokenizerError;
use crate::alphabet;
use crate::pre::{self, Family, Stage};
use crate::vocab::{PieceIndex, Vocab, parse_byte_token};
use crate::words::{CACHED_WORD_BYTES_MAX, Joints, Pool, WordCache};

/// The most merges that we take; the largest real models have about 515,000.
const MERGES_MAX: usize = 1 << 23;
/// Up to this many symbols, looking for the best pair by a scan beats a heap.
const SCAN_SYMBOLS_MAX: usize = 48;
/// No piece: a byte or character that no token or merge knows.
const NONE: u32 = u32::MAX;

pub(crate) struct Bpe {
    stages: Vec<Stage>,
    ignore_merges: bool,
    plain_utf8: bool,
    /// Pieces as bytes: first the tokens by id, then what merges name but no token of text is.
    pieces: StringArray,
    /// Which tokens text may become, and only these: control tokens can not be spelled.
    index: PieceIndex,
    /// For each token: is its own text, as a word, merged to just it? Computed when first asked.
    whole: Vec<AtomicU8>,
    /// By token: whether text may become it.
    in_text: Vec<bool>,
    /// From (left piece, right piece) to (rank, joined piece).
    merges: HashMap<u64, (u32, u32)>,
    /// The piece that each byte starts as.
    byte_pieces: [u32; 256],
    /// The token that stands for a byte where no piece does.
    byte_tokens: [Option<TokenId>; 256],
    /// Buffers, and words seen before with their tokens.
    scratch: Pool<Scratch>,
    /// For pieces of plain text, whose lines are cut no further by patterns.
    joints: Option<Joints>,
}

const WHOLE_UNKNOWN: u8 = 0;
const WHOLE_YES: u8 = 1;
const WHOLE_NO: u8 = 2;

#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    ranks: Vec<u32>,
    heap: BinaryHeap<Reverse<Candidate>>,
    words: WordCache,
}

/// A run of the word's bytes that is one piece.
#[derive(Clone, Copy)]
struct Symbol {
    piece: u32,
    start: usize,
    end: usize,
    /// Index of the symbol on the left and right; `usize::MAX` for none.
    prev: usize,
    next: usize,
}

/// A pair that may be merged: the lowest rank first, then the leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    joined: u32,
    /// The pair when it was found: it is outdated when the symbols there are others now.
    pair: u64,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.pieces.memory_bytes()
            + self.index.memory_bytes()
            + self.whole.capacity()
            + self.in_text.capacity()
            + self.merges.allocation_size()
            + self.joints.as_ref().map_or(0, Joints::memory_bytes)
    }

    /// Reads the merges. `in_text` says of each token whether text may become it.
    pub(crate) fn new(
        md: &Metadata,
        vocab: &Vocab,
        in_text: Vec<bool>,
        family: Family,
    ) -> Result<Self, TokenizerError> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let merges = match md.opt_strings(MERGES)? {
            Some(merges) => merges,
            None => return Err(GgufError::MissingKey(MERGES.to_owned()).into()),
        };
        if merges.len() > MERGES_MAX {
            return Err(TokenizerError::TooMany { key: MERGES, found: merges.len(), limit: MERGES_MAX });
        }
        let plain_utf8 = family.plain_utf8;
        let mut pieces = StringArray::default();
        let mut index = PieceIndex::with_capacity(vocab.len());
        let mut byte_tokens = [None; 256];
        let mut mergeable = Vec::with_capacity(vocab.len());
        for (id, &allowed) in vocab.ids().zip(&in_text) {
            let spelling = vocab.spelling(id);
            let decoded = if plain_utf8 { None } else { alphabet::decode(spelling) };
            pieces.push(decoded.as_deref().unwrap_or(spelling));
            // A piece outside the byte alphabet can not come from merging.
            if allowed && (plain_utf8 || decoded.is_some()) {
                mergeable.push(id.0);
            }
            if let (true, Some(byte)) = (plain_utf8, parse_byte_token(spelling)) {
                byte_tokens[usize::from(byte)] = Some(id);
            }
        }
        for id in mergeable {
            index.set(pieces.get(id as usize), id, |n| pieces.get(n as usize));
        }
        let mut bpe = Self {
            stages: family.stages,
            ignore_merges: family.ignore_merges,
            plain_utf8,
            pieces,
            index,
            whole: (0..vocab.len()).map(|_| AtomicU8::new(WHOLE_UNKNOWN)).collect(),
            in_text,
            merges: HashMap::with_capacity(merges.len()),
            byte_pieces: [NONE; 256],
            byte_tokens,
            scratch: Pool::default(),
            joints: None,
        };
        bpe.add_merges(merges);
        if plain_utf8 {
            bpe.joints = Some(Joints::of(bpe.pieces.iter()));
        }
        for byte in 0..=255u8 {
            let found = bpe.piece(&[byte]);
            bpe.byte_pieces[usize::from(byte)] = found.unwrap_or(NONE);
            if !plain_utf8 {
                bpe.byte_tokens[usize::from(byte)] = found.filter(|&n| bpe.is_token(n)).map(TokenId);
            }
        }
        Ok(bpe)
    }

    /// A merge of pieces that no token is spelled like still counts on the way to longer ones, as in other engines; a line
    /// that is no pair of pieces is ignored, as there.
    fn add_merges(&mut self, merges: &StringArray) {
        let mut joined = Vec::new();
        for (rank, line) in (0u32..).zip(merges.iter()) {
            let Some(space) = line.iter().skip(1).position(|&b| b == b' ') else { continue };
            let (left, right) = (&line[..=space], &line[space + 2..]);
            let (left, right) = if self.plain_utf8 {
                (Some(left.to_vec()), Some(right.to_vec()))
            } else {
                (alphabet::decode(left), alphabet::decode(right))
            };
            let (Some(left), Some(right)) = (left, right) else { continue };
            if left.is_empty() || right.is_empty() {
                continue;
            }
            joined.clear();
            joined.extend_from_slice(&left);
            joined.extend_from_slice(&right);
            let numbers = (self.piece_or_new(&left), self.piece_or_new(&right), self.piece_or_new(&joined));
            let (Some(left), Some(right), Some(joined)) = numbers else { return };
            self.merges.entry(pair(left, right)).or_insert((rank, joined));
        }
    }

    fn piece(&self, bytes: &[u8]) -> Option<u32> {
        self.index.find(bytes, |n| self.pieces.get(n as usize))
    }

    fn piece_or_new(&mut self, bytes: &[u8]) -> Option<u32> {
        if let Some(found) = self.piece(bytes) {
            return Some(found);
        }
        let number = u32::try_from(self.pieces.len()).ok().filter(|&n| n != NONE)?;
        self.pieces.push(bytes);
        let pieces = &self.pieces;
        self.index.set(bytes, number, |n| pieces.get(n as usize));
        Some(number)
    }

    fn is_token(&self, piece: u32) -> bool {
        self.in_text.get(piece as usize).copied().unwrap_or(false)
    }

    /// The bytes that a token of text stands for, before `▁` is read as a space.
    pub(crate) fn piece_bytes(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id.0 as usize)
    }

    /// Appends the tokens of `text`, in which nothing is special.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let mut scratch = self.scratch.take();
        match &self.joints {
            Some(joints) => {
                let text = text.replace(' ', "▁");
                pre::split(&self.stages, &text, &mut |line| {
                    // Gemma's runs of newlines are looked up whole; its merges say nothing of them.
                    match self
                        .piece(line.as_bytes())
                        .filter(|&piece| line.starts_with('\n') && self.is_token(piece))
                    {
                        Some(piece) => out.push(TokenId(piece)),
                        None => joints.split(line, |word| self.encode_word(word, &mut scratch, out)),
                    }
                });
            }
            None => pre::split(&self.stages, text, &mut |word| self.encode_word(word, &mut scratch, out)),
        }
        scratch.symbols.clear();
        scratch.symbols.shrink_to(1 << 16);
        scratch.heap.clear();
        scratch.heap.shrink_to(1 << 16);
        self.scratch.give_back(scratch);
    }

    fn encode_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let bytes = word.as_bytes();
        if let Some(piece) = self.piece(bytes).filter(|&piece| self.is_token(piece)) {
            // Gemma's runs of newlines are looked up whole; its merges say nothing of them.
            if self.ignore_merges
                || (self.plain_utf8 && bytes[0] == b'\n')
                || self.is_whole(word, piece, scratch)
            {
                out.push(TokenId(piece));
                return;
            }
        }
        if bytes.len() > CACHED_WORD_BYTES_MAX {
            self.merge(word, scratch);
            self.emit(word, &scratch.symbols, out);
            return;
        }
        if let Some(tokens) = scratch.words.get(bytes) {
            out.extend_from_slice(tokens);
            return;
        }
        self.merge(word, scratch);
        let before = out.len();
        self.emit(word, &scratch.symbols, out);
        scratch.words.insert(bytes, &out[before..]);
    }

    /// Whether merging `word`, the text of token `piece`, ends in just that token.
    fn is_whole(&self, word: &str, piece: u32, scratch: &mut Scratch) -> bool {
        let state = &self.whole[piece as usize];
        match state.load(Ordering::Relaxed) {
            WHOLE_UNKNOWN => {
                self.merge(word, scratch);
                let whole = matches!(scratch.symbols.as_slice(), [only] if only.piece == piece);
                state.store(if whole { WHOLE_YES } else { WHOLE_NO }, Ordering::Relaxed);
                whole
            }
            known => known == WHOLE_YES,
        }
    }

    /// Leaves the word's merged symbols, in order, in `scratch.symbols`.
    fn merge(&self, word: &str, scratch: &mut Scratch) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        if self.plain_utf8 {
            for (start, c) in word.char_indices() {
                let end = start + c.len_utf8();
                let piece = self.piece(&word.as_bytes()[start..end]).unwrap_or(NONE);
                symbols.push(Symbol { piece, start, end, prev: usize::MAX, next: usize::MAX });
            }
        } else {
            for (start, &byte) in word.as_bytes().iter().enumerate() {
                let piece = self.byte_pieces[usize::from(byte)];
                symbols.push(Symbol { piece, start, end: start + 1, prev: usize::MAX, next: usize::MAX });
            }
        }
        if symbols.len() <= SCAN_SYMBOLS_MAX {
            self.merge_by_scan(symbols, &mut scratch.ranks);
        } else {
            self.merge_by_heap(symbols, &mut scratch.heap);
        }
    }

    fn find_merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.merges.get(&pair(left, right)).copied()
    }

    fn merge_by_scan(&self, symbols: &mut Vec<Symbol>, ranks: &mut Vec<u32>) {
        let rank = |symbols: &[Symbol], at: usize| match symbols.get(at..at + 2) {
            Some([left, right]) => {
                self.find_merge(left.piece, right.piece).map_or(u32::MAX, |(rank, _)| rank)
            }
            _ => u32::MAX,
        };
        ranks.clear();
        ranks.extend((0..symbols.len()).map(|at| rank(symbols, at)));
        loop {
            let Some((best, &lowest)) = ranks.iter().enumerate().min_by_key(|&(at, &rank)| (rank, at)) else {
                return;
            };
            if lowest == u32::MAX {
                return;
            }
            let (left, right) = (symbols[best], symbols[best + 1]);
            let Some((_, joined)) = self.find_merge(left.piece, right.piece) else { return };
            symbols[best].piece = joined;
            symbols[best].end = right.end;
            symbols.remove(best + 1);
            ranks.remove(best + 1);
            ranks[best] = rank(symbols, best);
            if best > 0 {
                ranks[best - 1] = rank(symbols, best - 1);
            }
        }
    }

    fn merge_by_heap(&self, symbols: &mut Vec<Symbol>, heap: &mut BinaryHeap<Reverse<Candidate>>) {
        heap.clear();
        let n = symbols.len();
        let candidate = |symbols: &[Symbol], left: usize, right: usize| {
            let (a, b) = (symbols[left].piece, symbols[right].piece);
            self.find_merge(a, b)
                .map(|(rank, joined)| Reverse(Candidate { rank, left, joined, pair: pair(a, b) }))
        };
        for (at, symbol) in symbols.iter_mut().enumerate() {
            symbol.prev = at.wrapping_sub(1);
            symbol.next = if at + 1 < n { at + 1 } else { usize::MAX };
        }
        heap.extend((1..n).filter_map(|right| candidate(symbols, right - 1, right)));
        while let Some(Reverse(Candidate { left, joined, pair: found, .. })) = heap.pop() {
            // A symbol that was merged away is empty.
            let right = symbols[left].next;
            if right == usize::MAX
                || symbols[left].start == symbols[left].end
                || pair(symbols[left].piece, symbols[right].piece) != found
            {
                continue;
            }
            let (end, next) = (symbols[right].end, symbols[right].next);
            symbols[left].piece = joined;
            symbols[left].end = end;
            symbols[left].next = next;
            symbols[right].end = symbols[right].start;
            if next != usize::MAX {
                symbols[next].prev = left;
                heap.extend(candidate(symbols, left, next));
            }
            let prev = symbols[left].prev;
            if prev != usize::MAX {
                heap.extend(candidate(symbols, prev, left));
            }
        }
        symbols.retain(|symbol| symbol.start < symbol.end);
    }

    fn emit(&self, word: &str, symbols: &[Symbol], out: &mut Vec<TokenId>) {
        for symbol in symbols {
            if self.is_token(symbol.piece) {
                out.push(TokenId(symbol.piece));
            } else {
                let bytes = &word.as_bytes()[symbol.start..symbol.end];
                out.extend(bytes.iter().filter_map(|&byte| self.byte_tokens[usize::from(byte)]));
            }
        }
    }
}
