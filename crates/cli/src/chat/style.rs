//! Styled text and how wide it is on a terminal.
//!
//! A [`Line`] is what the rest of the chat makes and the screen paints. Widths are those of grapheme clusters, in
//! columns of the terminal: 2 for wide characters and most emoji, 0 for marks.

use std::fmt::Write;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// A colour of the terminal's own palette, so that the user's theme holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
}

/// How text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub bold: bool,
    pub dim: bool,
    pub italic: bool,
    pub underline: bool,
    pub strike: bool,
    pub color: Option<Color>,
}

impl Style {
    /// As the terminal shows text by itself.
    pub const PLAIN: Self =
        Self { bold: false, dim: false, italic: false, underline: false, strike: false, color: None };
    /// What stands beside the text: thoughts, rules, counts.
    pub const DIM: Self = Self { dim: true, ..Self::PLAIN };

    /// The same in a colour.
    pub const fn color(self, color: Color) -> Self {
        Self { color: Some(color), ..self }
    }

    /// What both say, together.
    pub fn and(self, other: Self) -> Self {
        Self {
            bold: self.bold || other.bold,
            dim: self.dim || other.dim,
            italic: self.italic || other.italic,
            underline: self.underline || other.underline,
            strike: self.strike || other.strike,
            color: other.color.or(self.color),
        }
    }

    /// The control sequence that switches to this style from any other.
    fn switch(self, out: &mut String) {
        out.push_str("\x1b[0");
        for (is_on, code) in
            [(self.bold, 1), (self.dim, 2), (self.italic, 3), (self.underline, 4), (self.strike, 9)]
        {
            if is_on {
                write!(out, ";{code}").expect("writing to a String cannot fail");
            }
        }
        if let Some(color) = self.color {
            write!(out, ";{}", color as u8).expect("writing to a String cannot fail");
        }
        out.push('m');
    }
}

/// Text of one style. It holds no control characters: [`super::escape`] has been over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub style: Style,
}

impl Span {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// One line of the screen, or several where it is wider than that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(pub Vec<Span>);

impl Line {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self(vec![Span::new(text, style)])
    }

    /// Adds text; neighbours of one style become one span.
    pub fn push(&mut self, text: &str, style: Style) {
        match self.0.last_mut() {
            Some(last) if last.style == style => last.text.push_str(text),
            _ if text.is_empty() => {}
            _ => self.0.push(Span::new(text, style)),
        }
    }

    /// Takes the styles away.
    pub fn strip(&mut self) {
        self.0.iter_mut().for_each(|span| span.style = Style::PLAIN);
    }

    /// Its width in columns.
    pub fn width(&self) -> usize {
        self.0.iter().map(|span| width(&span.text)).sum()
    }

    /// Its grapheme clusters with their styles.
    pub fn graphemes(&self) -> impl Iterator<Item = (&str, Style)> {
        self.0.iter().flat_map(|span| span.text.graphemes(true).map(|g| (g, span.style)))
    }

    /// The text alone.
    pub fn text(&self) -> String {
        self.0.iter().map(|span| span.text.as_str()).collect()
    }

    /// Writes it from the grapheme cluster `from` on.
    pub fn paint(&self, from: usize, out: &mut String) {
        let mut current = Style::PLAIN;
        for (grapheme, style) in self.graphemes().skip(from) {
            if style != current {
                style.switch(out);
                current = style;
            }
            out.push_str(grapheme);
        }
        if current != Style::PLAIN {
            Style::PLAIN.switch(out);
        }
    }
}

/// The width of text in columns, cluster by cluster.
pub fn width(text: &str) -> usize {
    text.graphemes(true).map(grapheme_width).sum()
}

/// The width of one grapheme cluster in columns.
pub fn grapheme_width(grapheme: &str) -> usize {
    // A tab that is left in a line is painted as it is; the renderers expand those they know of.
    grapheme.width().min(2)
}

/// Whether terminals disagree about the width of a cluster: one that is joined of several characters.
pub fn is_uncertain(grapheme: &str) -> bool {
    grapheme.chars().nth(1).is_some() && !grapheme.is_ascii()
}

/// The first `columns` columns of text, with an ellipsis where something is left out.
pub fn shortened(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        used += grapheme_width(grapheme);
        if used + 1 > columns {
            break;
        }
        out.push_str(grapheme);
    }
    out.push('…');
    out
}

/// Text in `columns` columns, with an ellipsis in its middle where something is left out: both ends tell names apart.
pub fn shortened_in_the_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let (mut head, mut used) = (String::new(), 0);
    for grapheme in text.graphemes(true) {
        used += grapheme_width(grapheme);
        if used > room / 2 {
            break;
        }
        head.push_str(grapheme);
    }
    let room = room - width(&head);
    let (mut start, mut used) = (text.len(), 0);
    for (at, grapheme) in text.grapheme_indices(true).rev() {
        used += grapheme_width(grapheme);
        if used > room {
            break;
        }
        start = at;
    }
    format!("{head}…{}", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_the_middle() {
        for (text, columns, expected) in [
            ("tiny.gguf", 9, "tiny.gguf"),
            ("tiny.gguf", 8, "tin…gguf"),
            ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 24, "Meta-Llama-…-Q4_K_M.gguf"),
            ("日本語日本語", 8, "日…本語"),
            ("ab", 1, "…"),
        ] {
            assert_eq!(shortened_in_the_middle(text, columns), expected);
            assert!(width(&shortened_in_the_middle(text, columns)) <= columns);
        }
    }

    #[test]
    fn widths_are_those_of_terminals() {
        for (text, expected) in [
            ("", 0),
            ("abc", 3),
            ("日本語", 6),
            ("한국어", 6),
            ("é", 1),
            ("e\u{301}", 1),
            ("🙂", 2),
            ("👍🏽", 2),
            ("👨‍👩‍👧", 2),
            ("🇩🇪", 2),
            ("❤️", 2),
            ("│ x", 3),
            ("…", 1),
        ] {
            assert_eq!(width(text), expected, "{text}");
        }
    }

    #[test]
    fn styles_are_switched_only_where_they_change() {
        let bold = Style { bold: true, ..Style::PLAIN };
        let mut line = Line::default();
        line.push("a", Style::PLAIN);
        line.push("b", bold);
        line.push("c", bold);
        line.push("d", bold.color(Color::Blue));
        assert_eq!(line.0.len(), 3);
        let painted = |from| {
            let mut out = String::new();
            line.paint(from, &mut out);
            out
        };
        assert_eq!(painted(0), "a\x1b[0;1mbc\x1b[0;1;34md\x1b[0m");
        assert_eq!(painted(2), "\x1b[0;1mc\x1b[0;1;34md\x1b[0m");
        assert_eq!(painted(9), "");
    }

    #[test]
    fn long_text_is_shortened_to_columns() {
        for (text, columns, expected) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…"), ("ab", 1, "…")]
        {
            assert_eq!(shortened(text, columns), expected);
        }
    }
}
