//! Scanners for the words of GPT-2's pattern and of the family that `cl100k` and Llama 3 began.

use crate::unicode::{Class, Classes, LETTER, MARK, NEWLINE, NUMBER, PUNCTUATION, SPACE};

/// A set of characters.
#[derive(Clone, Copy)]
pub(crate) enum CharSet {
    /// Any of these classes.
    Class(Class),
    /// `\p{P}` and these ASCII characters.
    PunctuationAnd(&'static str),
    /// Sorted inclusive ranges.
    Ranges(&'static [(char, char)]),
}

impl CharSet {
    /// The length of the character at `pos` if it is in the set.
    #[inline]
    pub(crate) fn at(self, classes: Classes, text: &str, pos: usize) -> Option<usize> {
        match self {
            Self::Class(wanted) => {
                let (class, len) = classes.at(text, pos);
                (class & wanted != 0).then_some(len)
            }
            Self::PunctuationAnd(more) => {
                let (class, len) = classes.at(text, pos);
                let listed = len == 1 && more.as_bytes().contains(&text.as_bytes()[pos]);
                (class & PUNCTUATION != 0 || listed).then_some(len)
            }
            Self::Ranges(ranges) => {
                let c = text.get(pos..)?.chars().next()?;
                let next = ranges.partition_point(|&(first, _)| first <= c);
                (next > 0 && c <= ranges[next - 1].1).then(|| c.len_utf8())
            }
        }
    }

    /// Where the run of such characters from `pos` ends.
    #[inline]
    pub(crate) fn run(self, classes: Classes, text: &str, mut pos: usize) -> usize {
        while let Some(len) = self.at(classes, text, pos) {
            pos += len;
        }
        pos
    }
}

/// Which of `'s 't 're 've 'm 'll 'd` are words of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contractions {
    None,
    LowerCase,
    AnyCase,
}

/// The length of a contraction at `pos`, apostrophe included.
#[inline]
pub(crate) fn contraction(text: &str, pos: usize, kind: Contractions) -> Option<usize> {
    let bytes = text.as_bytes();
    if kind == Contractions::None || bytes.get(pos) != Some(&b'\'') {
        return None;
    }
    let letter = |at: usize| {
        let b = bytes.get(at).copied().unwrap_or(0);
        if kind == Contractions::AnyCase { b.to_ascii_lowercase() } else { b }
    };
    match (letter(pos + 1), letter(pos + 2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(3),
        _ => None,
    }
}

/// What may follow a run of symbols and belong to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trailing {
    Nothing,
    /// `[\r\n]*`
    Newlines,
    /// `[\r\n/]*`
    NewlinesOrSlashes,
    /// `[\r\n/]?`
    OneNewlineOrSlash,
}

impl Trailing {
    #[inline]
    pub(crate) fn end(self, text: &str, mut pos: usize) -> usize {
        let bytes = text.as_bytes();
        loop {
            match (bytes.get(pos), self) {
                (Some(b'\r' | b'\n'), Self::Newlines | Self::NewlinesOrSlashes)
                | (Some(b'/'), Self::NewlinesOrSlashes) => pos += 1,
                (Some(b'\r' | b'\n' | b'/'), Self::OneNewlineOrSlash) => return pos + 1,
                _ => return pos,
            }
        }
    }
}

/// Where the run of characters with any of `wanted` from `pos` ends.
#[inline]
pub(crate) fn run(classes: Classes, text: &str, mut pos: usize, wanted: Class) -> usize {
    loop {
        let (class, len) = classes.at(text, pos);
        if class & wanted == 0 {
            return pos;
        }
        pos += len;
    }
}

/// Where the run of characters with none of `unwanted` from `pos` ends.
#[inline]
pub(crate) fn run_without(classes: Classes, text: &str, mut pos: usize, unwanted: Class) -> usize {
    loop {
        let (class, len) = classes.at(text, pos);
        if len == 0 || class & unwanted != 0 {
            return pos;
        }
        pos += len;
    }
}

/// Where at most `max` characters with `wanted` from `pos` end.
#[inline]
pub(crate) fn run_up_to(classes: Classes, text: &str, mut pos: usize, wanted: Class, max: usize) -> usize {
    for _ in 0..max {
        let (class, len) = classes.at(text, pos);
        if class & wanted == 0 {
            break;
        }
        pos += len;
    }
    pos
}

/// What is known of the white space that a scan is in, so that a long run is looked at once, not once a piece.
#[derive(Default)]
pub(crate) struct SpaceMemo {
    /// Up to here there is white space without a newline.
    plain_until: usize,
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at a white-space character; with `cascade`, instead of the last two,
/// `\s{512}(?!\S)|\s{256}(?!\S)| ... |\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`.
pub(crate) fn space(
    classes: Classes,
    text: &str,
    pos: usize,
    newlines: bool,
    cascade: bool,
    memo: &mut SpaceMemo,
) -> usize {
    let end = if pos < memo.plain_until {
        memo.plain_until
    } else {
        let mut end = pos;
        let mut behind_newline = None;
        loop {
            let (class, len) = classes.at(text, end);
            if class & SPACE == 0 {
                break;
            }
            end += len;
            if class & NEWLINE != 0 {
                behind_newline = Some(end);
            }
        }
        match behind_newline {
            Some(behind) if newlines => {
                memo.plain_until = end;
                return behind;
            }
            _ => memo.plain_until = end,
        }
        end
    };
    let at_end = end == text.len();
    if !cascade {
        // All but the last space, which belongs to the word behind it; a single one stands alone.
        return if at_end { end } else { last_char_start(text, pos, end).max(first_char_end(text, pos)) };
    }
    for size in [512, 256, 128, 64, 32, 16, 8, 4, 2] {
        let taken = nth_char_end(text, pos, end, size);
        if taken.is_some_and(|taken| taken < end || at_end) {
            return taken.unwrap_or(end);
        }
    }
    first_char_end(text, pos)
}

fn first_char_end(text: &str, pos: usize) -> usize {
    pos + text[pos..].chars().next().map_or(0, char::len_utf8)
}

fn last_char_start(text: &str, pos: usize, end: usize) -> usize {
    end - text[pos..end].chars().next_back().map_or(0, char::len_utf8)
}

fn nth_char_end(text: &str, pos: usize, end: usize, n: usize) -> Option<usize> {
    let (at, c) = text[pos..end].char_indices().nth(n - 1)?;
    Some(pos + at + c.len_utf8())
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` at `pos`: always matches.
#[inline]
pub(crate) fn gpt2(classes: Classes, text: &str, pos: usize, memo: &mut SpaceMemo) -> usize {
    if let Some(len) = contraction(text, pos, Contractions::LowerCase) {
        return pos + len;
    }
    let start = if text.as_bytes()[pos] == b' ' { pos + 1 } else { pos };
    let (class, len) = classes.at(text, start);
    if class & LETTER != 0 {
        run(classes, text, start + len, LETTER)
    } else if class & NUMBER != 0 {
        run(classes, text, start + len, NUMBER)
    } else if len != 0 && class & SPACE == 0 {
        run_without(classes, text, start + len, SPACE | LETTER | NUMBER)
    } else {
        space(classes, text, pos, false, false, memo)
    }
}

/// The family of patterns that looks like
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) contractions: Contractions,
    /// What words are made of: letters, with or without marks.
    pub(crate) letters: Class,
    pub(crate) max_digits: usize,
    pub(crate) trailing: Trailing,
    pub(crate) space_cascade: bool,
    /// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+` in place of `\p{L}+`.
    pub(crate) spaced_letters: bool,
}

impl Words {
    /// The end of the match at `pos`: there always is one.
    #[inline]
    pub(crate) fn end(&self, classes: Classes, text: &str, pos: usize, memo: &mut SpaceMemo) -> usize {
        if let Some(len) = contraction(text, pos, self.contractions) {
            return pos + len;
        }
        let (class, len) = classes.at(text, pos);
        if class & LETTER != 0 {
            return self.letters_end(classes, text, pos);
        }
        if class & NUMBER != 0 {
            return run_up_to(classes, text, pos, NUMBER, self.max_digits);
        }
        // A character in front of letters belongs to them.
        if class & NEWLINE == 0 {
            let (next, _) = classes.at(text, pos + len);
            if next & self.first_letter() != 0 {
                return self.letters_end(classes, text, pos + len);
            }
            if class & self.first_letter() != 0 {
                return self.letters_end(classes, text, pos);
            }
        }
        let start = if text.as_bytes()[pos] == b' ' { pos + 1 } else { pos };
        let unwanted = SPACE | NUMBER | self.letters;
        let symbols = run_without(classes, text, start, unwanted);
        if symbols > start {
            return self.trailing.end(text, symbols);
        }
        if class & SPACE == 0 {
            return pos + len;
        }
        space(classes, text, pos, true, self.space_cascade, memo)
    }

    fn first_letter(&self) -> Class {
        if self.spaced_letters { LETTER } else { self.letters }
    }

    #[inline]
    fn letters_end(&self, classes: Classes, text: &str, pos: usize) -> usize {
        if !self.spaced_letters {
            return run(classes, text, pos, self.letters);
        }
        let mut end = run(classes, text, pos, LETTER | MARK);
        while text.as_bytes().get(end) == Some(&b' ') && classes.at(text, end + 1).0 & LETTER != 0 {
            end = run(classes, text, end + 1, LETTER | MARK);
        }
        end
    }
}
