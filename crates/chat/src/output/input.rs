//! The text that a parser has not used yet, and the search for marks in it.
//!
//! **Linear.** What is used is dropped, what waits is kept, and nothing that waits is looked at again but a possible
//! beginning of a mark: its length is bounded, whatever the length of the answer.

use std::collections::VecDeque;
use std::ops::Range;

/// Text that came and is not used yet. Positions count bytes from the beginning of the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    text: String,
    /// The position of the first byte of `text`.
    base: usize,
    /// Everything before this is used.
    pos: usize,
    /// Everything from here is kept, though it is used: it may have been no call after all.
    hold: Option<usize>,
    /// Whether nothing more comes.
    pub eof: bool,
    /// Where control tokens stand: what is not taken for a mark there is dropped.
    controls: VecDeque<Range<usize>>,
}

impl Input {
    /// Appends a piece.
    pub fn push(&mut self, text: &str, control: bool) {
        if control {
            let at = self.base + self.text.len();
            self.controls.push_back(at..at + text.len());
        }
        self.text.push_str(text);
    }

    /// What is not used yet.
    pub fn rest(&self) -> &str {
        &self.text[self.pos - self.base..]
    }

    /// The next byte.
    pub fn first(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos - self.base).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// The position of the next byte.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Uses `n` bytes.
    pub fn advance(&mut self, n: usize) {
        self.pos += n;
    }

    /// Goes back to a position that is still kept.
    pub fn back_to(&mut self, pos: usize) {
        debug_assert!(pos >= self.base && pos <= self.pos, "only what is kept can be read again");
        self.pos = pos;
    }

    /// Uses white space, and says whether something follows.
    pub fn skip_space(&mut self) -> bool {
        let rest = self.rest();
        let n = rest.len() - rest.trim_ascii_start().len();
        self.pos += n;
        !self.is_empty()
    }

    /// Keeps everything from `pos` on.
    pub fn hold_from(&mut self, pos: usize) {
        self.hold = Some(pos);
    }

    /// Keeps nothing that is used.
    pub fn release(&mut self) {
        self.hold = None;
    }

    /// Where what is kept begins.
    pub fn held(&self) -> Option<usize> {
        self.hold
    }

    /// The text between two positions that are kept, without control tokens.
    pub fn text(&self, range: Range<usize>) -> String {
        let mut text = String::with_capacity(range.len());
        let mut at = range.start;
        for control in &self.controls {
            if control.end <= at {
                continue;
            }
            if control.start >= range.end {
                break;
            }
            text.push_str(&self.text[at - self.base..control.start.max(at) - self.base]);
            at = control.end.min(range.end);
        }
        text.push_str(&self.text[at - self.base..range.end - self.base]);
        text
    }

    /// Uses `n` bytes and returns them, without control tokens.
    pub fn take(&mut self, n: usize) -> String {
        let text = self.text(self.pos..self.pos + n);
        self.pos += n;
        text
    }

    /// How many bytes there are up to the next control token, and whether there is one.
    pub fn until_control(&self) -> (usize, bool) {
        match self.controls.iter().find(|c| c.end > self.pos) {
            Some(control) => (control.start.saturating_sub(self.pos), true),
            None => (self.base + self.text.len() - self.pos, false),
        }
    }

    /// Forgets what is used and not kept. Whole buffers are moved only when half of them goes, so this is linear too.
    pub fn compact(&mut self) {
        let keep = self.hold.map_or(self.pos, |h| h.min(self.pos)) - self.base;
        if keep == self.text.len() {
            self.text.clear();
        } else if keep * 2 >= self.text.len() {
            self.text.drain(..keep);
        } else {
            return;
        }
        self.base += keep;
        while self.controls.front().is_some_and(|c| c.end <= self.base) {
            self.controls.pop_front();
        }
    }
}

/// What stands at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// This mark.
    Mark(usize),
    /// The beginning of one, so far.
    Perhaps,
    /// None.
    No,
}

/// Where the first mark of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    /// This mark, here.
    Mark(usize, usize),
    /// There is none before here, and here one may begin.
    None(usize),
}

/// Marks to look for. The longest counts where several begin at one place.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    marks: Vec<&'static str>,
    /// The bytes that begin one, a bit each.
    begins: [u64; 4],
}

impl Marks {
    pub fn new(marks: impl IntoIterator<Item = &'static str>) -> Self {
        let marks: Vec<&'static str> = marks.into_iter().collect();
        let mut begins = [0; 4];
        for mark in &marks {
            if let Some(&b) = mark.as_bytes().first() {
                begins[usize::from(b >> 6)] |= 1 << (b & 63);
            }
        }
        Self { marks, begins }
    }

    fn begins(&self, b: u8) -> bool {
        self.begins[usize::from(b >> 6)] >> (b & 63) & 1 == 1
    }

    /// The bytes of a mark.
    pub fn len_of(&self, mark: usize) -> usize {
        self.marks[mark].len()
    }

    /// The spelling of a mark.
    pub fn spelling(&self, mark: usize) -> &'static str {
        self.marks[mark]
    }

    /// What stands at the beginning of `text`; `eof`: nothing follows it.
    pub fn at(&self, text: &str, eof: bool) -> At {
        let text = text.as_bytes();
        let Some(&b) = text.first() else { return if eof { At::No } else { At::Perhaps } };
        if !self.begins(b) {
            return At::No;
        }
        let mut best: Option<usize> = None;
        let mut perhaps = false;
        for (i, mark) in self.marks.iter().enumerate() {
            let mark = mark.as_bytes();
            if text.starts_with(mark) {
                if best.is_none_or(|b| self.marks[b].len() < mark.len()) {
                    best = Some(i);
                }
            } else if !eof && mark.starts_with(text) {
                perhaps = true;
            }
        }
        match best {
            _ if perhaps => At::Perhaps,
            Some(mark) => At::Mark(mark),
            None => At::No,
        }
    }

    /// Where the first mark begins, or may begin, before `limit`; or `limit`.
    pub fn first_before(&self, text: &str, limit: usize, eof: bool) -> usize {
        match self.find_before(text, limit, eof) {
            Find::Mark(at, _) | Find::None(at) => at,
        }
    }

    /// The first mark in `text`; `eof`: nothing follows it.
    pub fn find(&self, text: &str, eof: bool) -> Find {
        self.find_before(text, text.len(), eof)
    }

    /// The first mark in `text` that begins before `limit`.
    pub fn find_before(&self, text: &str, limit: usize, eof: bool) -> Find {
        let bytes = &text.as_bytes()[..limit.min(text.len())];
        let mut from = 0;
        while let Some(n) = bytes[from..].iter().position(|&b| self.begins(b)) {
            let at = from + n;
            // A mark begins with ASCII or with the first byte of a character, so this is a boundary.
            match text.get(at..).map_or(At::No, |rest| self.at(rest, eof)) {
                At::Mark(mark) => return Find::Mark(at, mark),
                At::Perhaps => return Find::None(at),
                At::No => from = at + 1,
            }
        }
        Find::None(bytes.len())
    }
}

/// Follows one JSON value that is an object, an array or a string, to its end.
///
/// Only strings and brackets count: whether the rest is valid JSON is for whoever reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonScan {
    depth: usize,
    string: bool,
    escape: bool,
}

impl JsonScan {
    /// Where the value ends in these bytes, if it does.
    pub fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let b = bytes[at];
            at += 1;
            if self.escape {
                self.escape = false;
            } else if self.string {
                match b {
                    b'\\' => self.escape = true,
                    b'"' => {
                        self.string = false;
                        if self.depth == 0 {
                            return Some(at);
                        }
                    }
                    _ => {}
                }
            } else {
                match b {
                    b'"' => self.string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            return Some(at);
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_and_awaited() {
        let marks = Marks::new(["<think>", "<thinking>", "<|a|>", "\n\n<x>"]);
        let check = |text, eof, expected| assert_eq!(marks.find(text, eof), expected, "{text:?}");
        check("plain text", false, Find::None(10));
        check("a <think>", false, Find::Mark(2, 0));
        check("a <think", false, Find::None(2));
        check("a <thinking", false, Find::None(2));
        check("a <thinking>", false, Find::Mark(2, 1));
        check("a <think", true, Find::None(8));
        check("a < b <|", false, Find::None(6));
        check("ü\n\n\n<x>", false, Find::Mark(3, 3));
        check("ü\n\n\n", false, Find::None(3));
    }

    #[test]
    fn json_ends_where_its_brackets_close() {
        let check = |text: &str, expected: Option<usize>| {
            let mut whole = JsonScan::default();
            assert_eq!(whole.scan(text.as_bytes()), expected, "{text}");
            let mut cut = JsonScan::default();
            let found = (0..text.len()).find_map(|i| cut.scan(&text.as_bytes()[i..=i]).map(|n| i + n));
            assert_eq!(found, expected, "{text}, by bytes");
        };
        check(r#"{"a": "}"} b"#, Some(10));
        check(r#"{"a": "\"}"}"#, Some(12));
        check(r#"[{"a": [1, {}]}]}"#, Some(16));
        check(r#""\\" "#, Some(4));
        check(r#"{"a": {"#, None);
    }
}
