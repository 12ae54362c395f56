//! The scanner of o200k's pattern and its kin, in which a word changes at a change from lower to upper case:
//! `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|
//! \p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`.

use super::scan::{Contractions, SpaceMemo, Trailing, contraction, run, run_up_to, run_without, space};
use crate::unicode::{Class, Classes, HAN, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, UPPER};

/// The differences within the family.
#[derive(Clone, Copy)]
pub(crate) struct Cased {
    /// A contraction behind a word belongs to it.
    pub(crate) contractions: bool,
    pub(crate) max_digits: usize,
    /// Runs of Han are words of their own, and a newline but no slash follows symbols (Kimi).
    pub(crate) split_han: bool,
}

impl Cased {
    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
    fn is_upper(self, class: Class) -> bool {
        class & (LETTER | MARK) != 0 && class & LOWER == 0 && !(self.split_han && class & HAN != 0)
    }

    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
    fn is_lower(self, class: Class) -> bool {
        class & (LETTER | MARK) != 0 && class & UPPER == 0 && !(self.split_han && class & HAN != 0)
    }

    /// The end of the match at `pos`: there always is one.
    #[inline]
    pub(crate) fn end(self, classes: Classes, text: &str, pos: usize, memo: &mut SpaceMemo) -> usize {
        let (class, len) = classes.at(text, pos);
        if self.split_han && class & HAN != 0 {
            return run(classes, text, pos, HAN);
        }
        // The order of the upstream's alternatives: each with a character in front, then without.
        let may_lead = class & (NEWLINE | LETTER | NUMBER) == 0;
        let word = if may_lead {
            self.ending_lower(classes, text, pos + len)
                .or_else(|| self.ending_lower(classes, text, pos))
                .or_else(|| self.beginning_upper(classes, text, pos + len))
                .or_else(|| self.beginning_upper(classes, text, pos))
        } else {
            self.ending_lower(classes, text, pos).or_else(|| self.beginning_upper(classes, text, pos))
        };
        if let Some(end) = word {
            let tail = if self.contractions {
                contraction(text, end, Contractions::AnyCase).unwrap_or(0)
            } else {
                0
            };
            return end + tail;
        }
        if class & NUMBER != 0 {
            return run_up_to(classes, text, pos, NUMBER, self.max_digits);
        }
        let start = if text.as_bytes()[pos] == b' ' { pos + 1 } else { pos };
        let symbols = run_without(classes, text, start, SPACE | LETTER | NUMBER);
        if symbols > start {
            let trailing = if self.split_han { Trailing::Newlines } else { Trailing::NewlinesOrSlashes };
            return trailing.end(text, symbols);
        }
        if class & SPACE == 0 {
            return pos + len;
        }
        space(classes, text, pos, true, false, memo)
    }

    /// `U*L+` from `pos`. Where no lower-case letter follows the `U` run, its last character that is in both sets
    /// (a letter without case, or a mark) is the `L+`.
    #[inline]
    fn ending_lower(self, classes: Classes, text: &str, pos: usize) -> Option<usize> {
        let mut at = pos;
        let mut last_caseless = None;
        loop {
            let (class, len) = classes.at(text, at);
            if !self.is_upper(class) {
                break;
            }
            at += len;
            if self.is_lower(class) {
                last_caseless = Some(at);
            }
        }
        let end = self.lower_run(classes, text, at);
        if end > at { Some(end) } else { last_caseless }
    }

    /// `U+L*` from `pos`.
    #[inline]
    fn beginning_upper(self, classes: Classes, text: &str, pos: usize) -> Option<usize> {
        let mut at = pos;
        loop {
            let (class, len) = classes.at(text, at);
            if !self.is_upper(class) {
                break;
            }
            at += len;
        }
        (at > pos).then(|| self.lower_run(classes, text, at))
    }

    #[inline]
    fn lower_run(self, classes: Classes, text: &str, mut at: usize) -> usize {
        loop {
            let (class, len) = classes.at(text, at);
            if !self.is_lower(class) {
                return at;
            }
            at += len;
        }
    }
}
