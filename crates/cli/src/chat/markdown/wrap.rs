//! Lines of words, as wide as there is room.

use super::super::style::{Line, Span, Style, grapheme_width};

/// What never begins a line of East Asian text.
const NOT_FIRST: &str = "、。，．・：；？！）］｝」』】〉》〕’”…‥ー々%％";

/// A run of text that stays together.
#[derive(Default)]
struct Word {
    parts: Vec<(String, Style)>,
    width: usize,
}

impl Word {
    fn push(&mut self, grapheme: &str, style: Style) {
        self.width += grapheme_width(grapheme);
        match self.parts.last_mut() {
            Some((text, last)) if *last == style => text.push_str(grapheme),
            _ => self.parts.push((grapheme.to_owned(), style)),
        }
    }
}

/// Breaks text at spaces, between wide characters, and where a word alone is wider than a line. Line breaks in it stay.
/// An empty text has no line.
pub fn wrap(spans: &[Span], columns: usize) -> Vec<Line> {
    let mut wrapper = Wrapper { columns: columns.max(2), lines: Vec::new(), width: 0, spaces: Vec::new() };
    let whole = Line(spans.to_vec());
    let mut word = Word::default();
    for (grapheme, style) in whole.graphemes() {
        match grapheme {
            "\n" | "\r\n" => {
                wrapper.place(std::mem::take(&mut word));
                wrapper.start_line();
            }
            " " | "\t" => {
                wrapper.place(std::mem::take(&mut word));
                wrapper.spaces.push(style);
            }
            _ => {
                let is_wide = grapheme_width(grapheme) > 1;
                if is_wide && !word.parts.is_empty() && !NOT_FIRST.contains(grapheme) {
                    wrapper.place(std::mem::take(&mut word));
                }
                let before_is_wide = word.width > 0 && ends_wide(&word);
                if !is_wide && before_is_wide && !NOT_FIRST.contains(grapheme) {
                    wrapper.place(std::mem::take(&mut word));
                }
                word.push(grapheme, style);
            }
        }
    }
    wrapper.place(word);
    wrapper.lines
}

fn ends_wide(word: &Word) -> bool {
    use unicode_segmentation::UnicodeSegmentation;
    let last = word.parts.last().and_then(|(text, _)| text.graphemes(true).next_back());
    last.is_some_and(|grapheme| grapheme_width(grapheme) > 1)
}

struct Wrapper {
    columns: usize,
    lines: Vec<Line>,
    /// Of the last line.
    width: usize,
    /// Spaces that wait for a word to stand before.
    spaces: Vec<Style>,
}

impl Wrapper {
    fn start_line(&mut self) {
        if self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.lines.push(Line::default());
        self.width = 0;
        self.spaces.clear();
    }

    fn push(&mut self, text: &str, style: Style, columns: usize) {
        if self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.lines.last_mut().expect("there is a line").push(text, style);
        self.width += columns;
    }

    fn place(&mut self, word: Word) {
        if word.parts.is_empty() {
            return;
        }
        if self.width > 0 && self.width + self.spaces.len() + word.width > self.columns {
            self.start_line();
        }
        // Spaces at the beginning of a line that the text itself began count: verses are indented.
        for style in std::mem::take(&mut self.spaces) {
            if self.width < self.columns {
                self.push(" ", style, 1);
            }
        }
        if self.width + word.width <= self.columns {
            for (text, style) in word.parts {
                let columns = super::super::style::width(&text);
                self.push(&text, style, columns);
            }
            return;
        }
        let line = Line(word.parts.into_iter().map(|(text, style)| Span::new(text, style)).collect());
        for (grapheme, style) in line.graphemes() {
            let columns = grapheme_width(grapheme);
            if self.width + columns > self.columns {
                self.start_line();
            }
            self.push(grapheme, style, columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_where_they_may() {
        let check = |text: &str, columns: usize, expected: &[&str]| {
            let lines = wrap(&[Span::new(text, Style::PLAIN)], columns);
            assert_eq!(lines.iter().map(Line::text).collect::<Vec<_>>(), expected, "{text} in {columns}");
            assert!(lines.iter().all(|line| line.width() <= columns), "{text} in {columns}");
        };
        check("", 10, &[]);
        check("one two three", 7, &["one two", "three"]);
        check("one two three", 8, &["one two", "three"]);
        check("one  two", 20, &["one  two"]);
        check("one\ntwo\n\nthree", 20, &["one", "two", "", "three"]);
        check("  indented verse", 9, &["  indente", "d verse"]);
        check("unbreakable", 4, &["unbr", "eaka", "ble"]);
        check("a unbreakable", 5, &["a", "unbre", "akabl", "e"]);
        check("日本語の文章です", 6, &["日本語", "の文章", "です"]);
        check("日本語。次の", 6, &["日本", "語。次", "の"]);
        check("漢字 and kana", 8, &["漢字 and", "kana"]);
        check("🙂🙂🙂", 5, &["🙂🙂", "🙂"]);
        check("👨‍👩‍👧👨‍👩‍👧", 3, &["👨‍👩‍👧", "👨‍👩‍👧"]);
        check("e\u{301}e\u{301}e\u{301}", 2, &["e\u{301}e\u{301}", "e\u{301}"]);
    }

    #[test]
    fn styles_stay_with_their_text() {
        let bold = Style { bold: true, ..Style::PLAIN };
        let spans = [Span::new("ab ", Style::PLAIN), Span::new("cd", bold), Span::new("ef", Style::PLAIN)];
        let lines = wrap(&spans, 4);
        assert_eq!(lines[1].0, [Span::new("cd", bold), Span::new("ef", Style::PLAIN)]);
    }
}
