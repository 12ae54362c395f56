//! Character classes: what the words of the upstream patterns (`\p{L}`, `\p{N}`, `\s`, ...) mean, as one bit each.
//!
//! A class lookup is the innermost operation of every pre-tokenizer, so the general categories are expanded once,
//! at first use, into a two-stage table: 256-character blocks, equal blocks shared.

use std::sync::LazyLock;

use unicode_general_category::{GeneralCategory as G, get_general_category};
use unicode_script::{Script, UnicodeScript};

/// A set of class bits.
pub(crate) type Class = u16;

/// `\p{L}`
pub(crate) const LETTER: Class = 1;
/// `\p{N}`
pub(crate) const NUMBER: Class = 1 << 1;
/// `\p{P}`
pub(crate) const PUNCTUATION: Class = 1 << 2;
/// `\p{S}`
pub(crate) const SYMBOL: Class = 1 << 3;
/// `\p{M}`
pub(crate) const MARK: Class = 1 << 4;
/// `\s`: the White_Space property.
pub(crate) const SPACE: Class = 1 << 5;
/// `\p{Lu}` and `\p{Lt}`
pub(crate) const UPPER: Class = 1 << 6;
/// `\p{Ll}`
pub(crate) const LOWER: Class = 1 << 7;
/// `\p{Han}` (the script)
pub(crate) const HAN: Class = 1 << 8;
/// `[\r\n]`
pub(crate) const NEWLINE: Class = 1 << 9;
/// `\d`: `\p{Nd}`
pub(crate) const DIGIT: Class = 1 << 10;
/// `\w`: letters, marks, numbers, connecting punctuation
pub(crate) const WORD: Class = 1 << 11;
/// A control character (`\p{Cc}`, `\p{Cf}`, unassigned and private ones): no other class.
pub(crate) const OTHER: Class = 1 << 12;

fn compute(c: char) -> Class {
    let mut class = match get_general_category(c) {
        G::UppercaseLetter | G::TitlecaseLetter => LETTER | UPPER | WORD,
        G::LowercaseLetter => LETTER | LOWER | WORD,
        G::ModifierLetter | G::OtherLetter => LETTER | WORD,
        G::DecimalNumber => NUMBER | DIGIT | WORD,
        G::LetterNumber | G::OtherNumber => NUMBER | WORD,
        G::ConnectorPunctuation => PUNCTUATION | WORD,
        G::ClosePunctuation
        | G::DashPunctuation
        | G::FinalPunctuation
        | G::InitialPunctuation
        | G::OpenPunctuation
        | G::OtherPunctuation => PUNCTUATION,
        G::CurrencySymbol | G::MathSymbol | G::ModifierSymbol | G::OtherSymbol => SYMBOL,
        G::EnclosingMark | G::NonspacingMark | G::SpacingMark => MARK | WORD,
        _ => 0,
    };
    if c.is_whitespace() {
        class |= SPACE;
    }
    if matches!(c, '\r' | '\n') {
        class |= NEWLINE;
    }
    if c.script() == Script::Han {
        class |= HAN;
    }
    if class == 0 { OTHER } else { class }
}

const BLOCK: usize = 256;

struct Table {
    /// Of each 256-character block, where its classes start.
    starts: Vec<usize>,
    classes: Vec<Class>,
    ascii: [Class; 128],
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { starts: Vec::new(), classes: Vec::new(), ascii: [OTHER; 128] };
    let mut seen: hashbrown::HashMap<[Class; BLOCK], usize> = hashbrown::HashMap::new();
    for block in 0..(0x11_0000u32 >> 8) {
        let mut classes = [OTHER; BLOCK];
        // Planes 4 to 13 are unassigned, 15 and 16 private: no need to look at each character.
        if !(0x400..0xe00).contains(&block) && block < 0xf00 {
            for (low, class) in (0..).zip(&mut classes) {
                if let Some(c) = char::from_u32((block << 8) | low) {
                    *class = compute(c);
                }
            }
        }
        let start = *seen.entry(classes).or_insert_with(|| {
            table.classes.extend_from_slice(&classes);
            table.classes.len() - BLOCK
        });
        table.starts.push(start);
    }
    for (i, class) in table.ascii.iter_mut().enumerate() {
        *class = table.classes[i];
    }
    table
});

/// Looks characters up without paying for the lazy table's check each time.
#[derive(Clone, Copy)]
pub(crate) struct Classes(&'static Table);

impl Classes {
    pub(crate) fn get() -> Self {
        Self(&TABLE)
    }

    /// The classes of a character.
    #[inline]
    pub(crate) fn of(self, c: char) -> Class {
        let code = c as usize;
        self.0.classes[self.0.starts[code / BLOCK] + code % BLOCK]
    }

    /// The classes of the character that starts at byte `pos`, and its length; `(0, 0)` at or behind the end.
    #[inline]
    pub(crate) fn at(self, text: &str, pos: usize) -> (Class, usize) {
        match text.as_bytes().get(pos) {
            None => (0, 0),
            Some(&b) if b < 0x80 => (self.0.ascii[usize::from(b)], 1),
            Some(_) => match text.get(pos..).and_then(|rest| rest.chars().next()) {
                Some(c) => (self.of(c), c.len_utf8()),
                None => (0, 0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_some_characters() {
        let classes = Classes::get();
        for (c, expected) in [
            ('a', LETTER | LOWER | WORD),
            ('Z', LETTER | UPPER | WORD),
            ('中', LETTER | HAN | WORD),
            ('〇', NUMBER | HAN | WORD),
            ('²', NUMBER | WORD),
            ('٣', NUMBER | DIGIT | WORD),
            ('_', PUNCTUATION | WORD),
            ('$', SYMBOL),
            ('\u{301}', MARK | WORD),
            ('\u{85}', SPACE),
            ('\u{a0}', SPACE),
            ('\n', SPACE | NEWLINE),
            ('\u{0}', OTHER),
            ('\u{e000}', OTHER),
            ('\u{10ffff}', OTHER),
            ('\u{e0100}', MARK | WORD),
        ] {
            assert_eq!(classes.of(c), expected, "{c:?}");
        }
    }

    #[test]
    fn a_position_behind_the_end_has_no_class() {
        assert_eq!(Classes::get().at("é", 2), (0, 0));
        assert_eq!(Classes::get().at("é", 0).1, 2);
    }
}
