//! SentencePiece's BPE: characters are merged to the adjacent pair that is the best-scoring piece.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ingle_step::TokenId;

use crate::vocab::{PieceIndex, Vocab, parse_byte_token};
use crate::words::{CACHED_WORD_BYTES_MAX, Joints, Pool, WordCache};

pub(crate) struct Spm {
    index: PieceIndex,
    pieces: Vec<Box<[u8]>>,
    scores: Vec<f32>,
    /// The token `<0xHH>` of each byte.
    byte_tokens: [Option<TokenId>; 256],
    /// For what is neither a piece nor bytes.
    unknown: Option<TokenId>,
    piece_bytes_max: usize,
    joints: Joints,
    words: Pool<WordCache>,
}

struct Symbol {
    start: usize,
    /// Empty once merged into its left neighbour.
    end: usize,
    prev: usize,
    next: usize,
}

/// Two neighbours that spell a piece: the highest score first, then the leftmost.
struct Candidate {
    score: f32,
    left: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(self.len.cmp(&other.len))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    pub(crate) fn memory_bytes(&self) -> usize {
        // Small pieces take what the system gives at least.
        let pieces: usize = self.pieces.iter().map(|piece| piece.len().next_multiple_of(16) + 16).sum();
        size_of::<Self>()
            + self.index.memory_bytes()
            + self.pieces.capacity() * size_of::<Box<[u8]>>()
            + pieces
            + self.scores.capacity() * size_of::<f32>()
            + self.joints.memory_bytes()
    }

    /// `in_text` says of each token whether text may become it.
    pub(crate) fn new(vocab: &Vocab, in_text: &[bool], unknown: Option<TokenId>) -> Self {
        let pieces: Vec<Box<[u8]>> = vocab.ids().map(|id| vocab.spelling(id).into()).collect();
        let mut index = PieceIndex::with_capacity(pieces.len());
        let mut byte_tokens = [None; 256];
        let mut piece_bytes_max = 0;
        for id in vocab.ids() {
            let piece = &pieces[id.0 as usize];
            if vocab.kind(id) == Some(crate::vocab::Kind::Byte) {
                if let Some(byte) = parse_byte_token(piece) {
                    byte_tokens[usize::from(byte)] = Some(id);
                }
            } else if in_text[id.0 as usize] && !piece.is_empty() {
                index.set(piece, id.0, |n| &pieces[n as usize]);
                piece_bytes_max = piece_bytes_max.max(piece.len());
            }
        }
        let scores = if vocab.scores.is_empty() { vec![0.0; pieces.len()] } else { vocab.scores.clone() };
        let joints = Joints::of(pieces.iter().map(AsRef::as_ref));
        Self { index, pieces, scores, byte_tokens, unknown, piece_bytes_max, joints, words: Pool::default() }
    }

    fn piece(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.piece_bytes_max {
            return None;
        }
        self.index.find(bytes, |n| &self.pieces[n as usize])
    }

    /// Appends the tokens of `text`, in which spaces are `▁` already and nothing is special.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let mut words = self.words.take();
        self.joints.split(text, |word| {
            if let Some(tokens) = words.get(word.as_bytes()) {
                out.extend_from_slice(tokens);
                return;
            }
            let before = out.len();
            self.encode_word(word, out);
            if word.len() <= CACHED_WORD_BYTES_MAX {
                words.insert(word.as_bytes(), &out[before..]);
            }
        });
        self.words.give_back(words);
    }

    fn encode_word(&self, text: &str, out: &mut Vec<TokenId>) {
        let bytes = text.as_bytes();
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(at, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                prev: at.wrapping_sub(1),
                next: at + 1,
            })
            .collect();
        let Some(last) = symbols.last_mut() else { return };
        last.next = usize::MAX;

        let mut heap = BinaryHeap::new();
        let consider = |heap: &mut BinaryHeap<Candidate>, symbols: &[Symbol], left: usize, right: usize| {
            let (start, end) = (symbols[left].start, symbols[right].end);
            if let Some(piece) = self.piece(&bytes[start..end]) {
                heap.push(Candidate { score: self.scores[piece as usize], left, len: end - start });
            }
        };
        for right in 1..symbols.len() {
            consider(&mut heap, &symbols, right - 1, right);
        }
        while let Some(Candidate { left, len, .. }) = heap.pop() {
            let right = symbols[left].next;
            if right == usize::MAX
                || symbols[left].start == symbols[left].end
                || symbols[right].end - symbols[left].start != len
            {
                continue;
            }
            let (end, next) = (symbols[right].end, symbols[right].next);
            symbols[right].end = symbols[right].start;
            symbols[left].end = end;
            symbols[left].next = next;
            if next != usize::MAX {
                symbols[next].prev = left;
                consider(&mut heap, &symbols, left, next);
            }
            let prev = symbols[left].prev;
            if prev != usize::MAX {
                consider(&mut heap, &symbols, prev, left);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.start < symbol.end) {
            self.emit(&bytes[symbol.start..symbol.end], out);
        }
    }

    fn emit(&self, bytes: &[u8], out: &mut Vec<TokenId>) {
        if let Some(piece) = self.piece(bytes) {
            out.push(TokenId(piece));
            return;
        }
        for &byte in bytes {
            out.extend(self.byte_tokens[usize::from(byte)].or(self.unknown));
        }
    }
}
