//! One stage of a pre-tokenizer: how it cuts a piece.

use super::cased::Cased;
use super::scan::{CharSet, SpaceMemo, Trailing, Words, gpt2, run, space};
use crate::unicode::{Class, Classes, LETTER, MARK, NEWLINE, PUNCTUATION, SPACE, SYMBOL, WORD};

/// A sorted list of inclusive character ranges.
type Ranges = &'static [(char, char)];

/// Hanzi and Hangul as DeepSeek's first models name them: `[一-龥ࠀ-一가-퟿]`.
pub(super) const CJK_DEEPSEEK: Ranges = &[('ࠀ', '一'), ('一', '龥'), ('가', '\u{d7ff}')];
/// `[一-龥぀-ゟ゠-ヿ]`
pub(super) const CJK_DEEPSEEK3: Ranges = &[('\u{3040}', 'ヿ'), ('一', '龥')];
/// Hanzi, kana, Thai, Lao, Khmer, Myanmar, Hangul.
pub(super) const CJK_AFMOE: Ranges = &[
    ('\u{e40}', '\u{e7f}'),
    ('\u{e80}', '\u{eff}'),
    ('\u{1000}', '\u{109f}'),
    ('\u{1100}', '\u{11ff}'),
    ('\u{1780}', '\u{17ff}'),
    ('\u{3040}', '\u{30ff}'),
    ('\u{3400}', '\u{4dbf}'),
    ('\u{4e00}', '\u{9fff}'),
    ('\u{a9e0}', '\u{a9ff}'),
    ('\u{aa60}', '\u{aa7f}'),
    ('\u{ac00}', '\u{d7af}'),
    ('\u{f900}', '\u{faff}'),
    ('\u{ff65}', '\u{ff9f}'),
    ('\u{2f800}', '\u{2fa1f}'),
];
/// `[!-/:-~！-／：-～‘-‟　-。]`
pub(super) const DEEPSEEK_PUNCTUATION: Ranges =
    &[('!', '/'), (':', '~'), ('‘', '‟'), ('\u{3000}', '。'), ('！', '／'), ('：', '～')];
/// The letters with case of Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, Coptic, Glagolitic, Deseret, Osage,
/// old Hungarian, Warang Citi and Adlam, as DeepSeek LLM's pattern lists them.
pub(super) const DEEPSEEK_LETTERS: Ranges = &[
    ('A', 'Z'),
    ('a', 'z'),
    ('µ', 'µ'),
    ('À', 'Ö'),
    ('Ø', 'ö'),
    ('ø', 'ƺ'),
    ('Ƽ', 'ƿ'),
    ('Ǆ', 'ʓ'),
    ('ʕ', 'ʯ'),
    ('Ͱ', 'ͳ'),
    ('Ͷ', 'ͷ'),
    ('ͻ', 'ͽ'),
    ('Ϳ', 'Ϳ'),
    ('Ά', 'Ά'),
    ('Έ', 'Ί'),
    ('Ό', 'Ό'),
    ('Ύ', 'Ρ'),
    ('Σ', 'ϵ'),
    ('Ϸ', 'ҁ'),
    ('Ҋ', 'ԯ'),
    ('Ա', 'Ֆ'),
    ('Ⴀ', 'Ⴥ'),
    ('Ꭰ', 'Ᏽ'),
    ('ᏸ', 'ᏽ'),
    ('Ა', 'Ჺ'),
    ('Ჽ', 'Ჿ'),
    ('ᴀ', 'ᴫ'),
    ('ᵫ', 'ᵷ'),
    ('ᵹ', 'ᶚ'),
    ('Ḁ', 'ἕ'),
    ('Ἐ', 'Ἕ'),
    ('ἠ', 'ὅ'),
    ('Ὀ', 'Ὅ'),
    ('ὐ', 'ὗ'),
    ('Ὑ', 'Ὑ'),
    ('Ὓ', 'Ὓ'),
    ('Ὕ', 'Ὕ'),
    ('Ὗ', 'ώ'),
    ('ᾀ', 'ᾴ'),
    ('ᾶ', 'ᾼ'),
    ('\u{1fbe}', '\u{1fbe}'),
    ('ῂ', 'ῄ'),
    ('ῆ', 'ῌ'),
    ('ῐ', 'ΐ'),
    ('ῖ', 'Ί'),
    ('ῠ', 'Ῥ'),
    ('ῲ', 'ῴ'),
    ('ῶ', 'ῼ'),
    ('ℂ', 'ℂ'),
    ('ℇ', 'ℇ'),
    ('ℊ', 'ℓ'),
    ('ℕ', 'ℕ'),
    ('ℙ', 'ℝ'),
    ('ℤ', 'ℤ'),
    ('\u{2126}', '\u{2126}'),
    ('ℨ', 'ℨ'),
    ('\u{212a}', 'ℭ'),
    ('ℯ', 'ℴ'),
    ('ℹ', 'ℹ'),
    ('ℼ', 'ℿ'),
    ('ⅅ', 'ⅉ'),
    ('ⅎ', 'ⅎ'),
    ('Ↄ', 'ↄ'),
    ('Ⰰ', 'ⱻ'),
    ('Ȿ', 'ⳤ'),
    ('Ⳬ', 'ⳮ'),
    ('Ⳳ', 'ⳳ'),
    ('Ꙁ', 'ꙭ'),
    ('Ꚁ', 'ꚛ'),
    ('Ꜣ', 'ꝯ'),
    ('ꝱ', 'ꞇ'),
    ('Ꞌ', 'ꞎ'),
    ('ꭰ', 'ꮿ'),
    ('ﬀ', 'ﬆ'),
    ('ﬓ', 'ﬗ'),
    ('Ａ', 'Ｚ'),
    ('ａ', 'ｚ'),
    ('𐐀', '𐑏'),
    ('𐒰', '𐓓'),
    ('𐓘', '𐓻'),
    ('𐲀', '𐲲'),
    ('𐳀', '𐳲'),
    ('𑢠', '𑣟'),
    ('𞤀', '𞥃'),
];
/// Youtu's four kinds of run: Hangul; East Asian punctuation; Bopomofo; hanzi and kana.
const YOUTU: [Ranges; 4] = [
    &[('ㄱ', 'ㆎ'), ('가', '힣')],
    &[
        ('—', '—'),
        ('‘', '’'),
        ('“', '”'),
        ('…', '…'),
        ('、', '\u{303f}'),
        ('︰', '﹏'),
        ('！', '！'),
        ('，', '，'),
        ('：', '；'),
    ],
    &[('ㄅ', 'ㄯ')],
    &[('\u{3040}', 'ヿ'), ('一', '龥')],
];
const BLOOM_ENDS: &str = "(|.,!?…。，、।۔،)";

/// One cut of a piece. What matches is a piece, and what lies between matches is one.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// GPT-2's words.
    Gpt2,
    /// Words in the manner of Llama 3.
    Words(Words),
    /// Words in the manner of o200k.
    Cased(Cased),
    /// `[!-/:-@\[-\x60{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    DeepSeekWords,
    /// `X+`
    Runs(CharSet),
    /// `\s?X+`
    SpacedRuns(CharSet),
    /// `X`
    Each(CharSet),
    /// `X{1,3}`
    UpTo3(CharSet),
    /// `[0-9][0-9][0-9]`
    AsciiTriples,
    /// A run of the class in threes, counted from its right end: `X{1,3}(?=(?:X{3})*(?!X))`, or, with
    /// `only_at_word_end`, `X{1,3}(?=(?:X{3})*\b)`.
    TriplesFromRight {
        class: Class,
        only_at_word_end: bool,
    },
    /// `\s+$`
    TrailingSpace,
    /// ` ?[^(\s|.,!?…。，、।۔،)]+`
    BloomWords,
    /// `[^\n]+|\n+`
    Lines,
    YoutuRuns,
    /// `<sentinel:[0-9]+>`
    ChameleonSentinels,
    /// `IMGIMG[A-I]{1,4}Z`
    ChameleonImages,
    /// `[\t\n]|    |  `
    ChameleonSpaces,
}

impl Stage {
    /// Cuts `text`, handing each piece to `emit`.
    pub(super) fn split(&self, classes: Classes, text: &str, emit: &mut dyn FnMut(&str)) {
        let mut memo = SpaceMemo::default();
        match *self {
            Self::Gpt2 => each_word(text, emit, |pos| gpt2(classes, text, pos, &mut memo)),
            Self::Words(words) => each_word(text, emit, |pos| words.end(classes, text, pos, &mut memo)),
            Self::Cased(cased) => each_word(text, emit, |pos| cased.end(classes, text, pos, &mut memo)),
            Self::Lines => each_word(text, emit, |pos| {
                let newline = text.as_bytes()[pos] == b'\n';
                let end = text.as_bytes()[pos..].iter().position(|&b| (b == b'\n') != newline);
                end.map_or(text.len(), |len| pos + len)
            }),
            Self::DeepSeekWords => {
                each_match(text, emit, |pos| deepseek_word(classes, text, pos, &mut memo));
            }
            Self::Runs(set) => each_match(text, emit, |pos| {
                let len = set.at(classes, text, pos)?;
                Some(set.run(classes, text, pos + len))
            }),
            Self::SpacedRuns(set) => each_match(text, emit, |pos| {
                let (class, len) = classes.at(text, pos);
                if class & SPACE != 0 {
                    let end = set.run(classes, text, pos + len);
                    if end > pos + len {
                        return Some(end);
                    }
                }
                let end = set.run(classes, text, pos);
                (end > pos).then_some(end)
            }),
            Self::Each(set) => each_match(text, emit, |pos| Some(pos + set.at(classes, text, pos)?)),
            Self::UpTo3(set) => each_match(text, emit, |pos| {
                let mut end = pos + set.at(classes, text, pos)?;
                for _ in 0..2 {
                    end += set.at(classes, text, end).unwrap_or(0);
                }
                Some(end)
            }),
            Self::AsciiTriples => each_match(text, emit, |pos| {
                let three = text.as_bytes().get(pos..pos + 3)?;
                three.iter().all(u8::is_ascii_digit).then_some(pos + 3)
            }),
            Self::TriplesFromRight { class, only_at_word_end } => {
                triples_from_right(classes, text, class, only_at_word_end, emit);
            }
            Self::TrailingSpace => {
                let body = text.trim_end_matches(char::is_whitespace);
                for piece in [body, &text[body.len()..]] {
                    if !piece.is_empty() {
                        emit(piece);
                    }
                }
            }
            Self::BloomWords => {
                let inside = |at: usize| {
                    text[at..].chars().next().filter(|&c| !c.is_whitespace() && !BLOOM_ENDS.contains(c))
                };
                each_match(text, emit, |pos| {
                    let start = if text.as_bytes()[pos] == b' ' { pos + 1 } else { pos };
                    let mut end = start;
                    while let Some(c) = inside(end) {
                        end += c.len_utf8();
                    }
                    (end > start).then_some(end)
                });
            }
            Self::YoutuRuns => each_match(text, emit, |pos| {
                YOUTU.iter().find_map(|&ranges| {
                    let end = CharSet::Ranges(ranges).run(classes, text, pos);
                    (end > pos).then_some(end)
                })
            }),
            Self::ChameleonSentinels => each_match(text, emit, |pos| {
                let rest = text[pos..].strip_prefix("<sentinel:")?;
                // Any real one is short; the bound keeps a text of many openings linear.
                let digits = rest.bytes().take(32).take_while(u8::is_ascii_digit).count();
                let len = "<sentinel:".len() + digits;
                (digits > 0 && text.as_bytes().get(pos + len) == Some(&b'>')).then_some(pos + len + 1)
            }),
            Self::ChameleonImages => each_match(text, emit, |pos| {
                let rest = text[pos..].strip_prefix("IMGIMG")?.as_bytes();
                let letters = rest.iter().take(4).take_while(|b| (b'A'..=b'I').contains(b)).count();
                (letters > 0 && rest.get(letters) == Some(&b'Z')).then_some(pos + 6 + letters + 1)
            }),
            Self::ChameleonSpaces => each_match(text, emit, |pos| {
                let rest = &text.as_bytes()[pos..];
                match rest {
                    [b'\t' | b'\n', ..] => Some(pos + 1),
                    [b' ', b' ', b' ', b' ', ..] => Some(pos + 4),
                    [b' ', b' ', ..] => Some(pos + 2),
                    _ => None,
                }
            }),
        }
    }
}

/// For a matcher that matches at every position.
#[inline]
fn each_word(text: &str, emit: &mut dyn FnMut(&str), mut end_of: impl FnMut(usize) -> usize) {
    let mut pos = 0;
    while pos < text.len() {
        let end = end_of(pos);
        debug_assert!(end > pos, "a word is never empty");
        emit(&text[pos..end]);
        pos = end;
    }
}

/// For a matcher that may match nothing at a position.
#[inline]
fn each_match(text: &str, emit: &mut dyn FnMut(&str), mut end_of: impl FnMut(usize) -> Option<usize>) {
    let mut gap = 0;
    let mut pos = 0;
    while let Some(c) = text[pos..].chars().next() {
        match end_of(pos) {
            Some(end) => {
                debug_assert!(end > pos, "a match is never empty");
                if gap < pos {
                    emit(&text[gap..pos]);
                }
                emit(&text[pos..end]);
                pos = end;
                gap = end;
            }
            None => pos += c.len_utf8(),
        }
    }
    if gap < text.len() {
        emit(&text[gap..]);
    }
}

fn deepseek_word(classes: Classes, text: &str, pos: usize, memo: &mut SpaceMemo) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes[pos].is_ascii_punctuation() {
        let letters = bytes[pos + 1..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
        if letters > 0 {
            return Some(pos + 1 + letters);
        }
    }
    let (class, len) = classes.at(text, pos);
    if class & (NEWLINE | LETTER | PUNCTUATION | SYMBOL) == 0 {
        let end = run(classes, text, pos + len, LETTER | MARK);
        if end > pos + len {
            return Some(end);
        }
    }
    let end = run(classes, text, pos, LETTER | MARK);
    if end > pos {
        return Some(end);
    }
    let start = if bytes[pos] == b' ' { pos + 1 } else { pos };
    let end = run(classes, text, start, PUNCTUATION | SYMBOL);
    if end > start {
        return Some(Trailing::Newlines.end(text, end));
    }
    (class & SPACE != 0).then(|| space(classes, text, pos, true, false, memo))
}

fn triples_from_right(
    classes: Classes,
    text: &str,
    class: Class,
    only_at_word_end: bool,
    emit: &mut dyn FnMut(&str),
) {
    let mut gap = 0;
    let mut pos = 0;
    while pos < text.len() {
        let (found, len) = classes.at(text, pos);
        if found & class == 0 {
            pos += len;
            continue;
        }
        let end = run(classes, text, pos, class);
        if only_at_word_end && classes.at(text, end).0 & WORD != 0 {
            pos = end;
            continue;
        }
        if gap < pos {
            emit(&text[gap..pos]);
        }
        let mut left = text[pos..end].chars().count();
        let mut start = pos;
        while start < end {
            let take = if left.is_multiple_of(3) { 3 } else { left % 3 };
            let piece: usize = text[start..end].chars().take(take).map(char::len_utf8).sum();
            emit(&text[start..start + piece]);
            start += piece;
            left -= take;
        }
        pos = end;
        gap = end;
    }
    if gap < text.len() {
        emit(&text[gap..]);
    }
}
