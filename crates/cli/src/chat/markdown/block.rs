//! Blocks, and how each is laid out in lines.

use super::super::style::{Color, Line, Span, Style, shortened, width};
use super::inline::{self, Ending};
use super::table::Table;
use super::wrap::wrap;

/// The mark of a quotation, once for each depth.
const QUOTE: &str = "│ ";
/// Columns that are left to text, however deep it is in lists and quotations; what is deeper stands no further in.
const TEXT_COLUMNS: usize = 10;
/// The same in windows that are hardly wider than a marker.
const TEXT_COLUMNS_MIN: usize = 4;

/// A piece of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whether an empty line stands before it, and in how many quotations that is.
    pub gap: Option<usize>,
    pub prefix: Prefix,
    pub kind: Kind,
    /// Whether text may still be added to it.
    pub is_open: bool,
}

/// What stands before a block's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// How many quotations it is in.
    pub quotes: usize,
    /// Columns that its text is indented by, the marker's included.
    pub indent: usize,
    /// What stands before its first line: `• `, `12. `.
    pub marker: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Paragraph(String),
    Heading(usize, String),
    Rule,
    /// A fence opens, for code in this language.
    CodeOpen(String),
    /// A line of code.
    Code(Vec<Span>),
    CodeClose,
    Table(Table),
}

/// What blocks are laid out for.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns that lines of prose may have.
    pub width: usize,
    /// How many of a table's rows decide about the widths of its columns. Later ones find their place in them, so that
    /// what has scrolled away stays right.
    pub table_rows: usize,
}

impl Layout {
    /// The lines of a block.
    pub fn lines(&self, block: &Block) -> Vec<Line> {
        let mut lines = Vec::new();
        let (first, rest) = block.prefix.lines(self.width.saturating_sub(TEXT_COLUMNS));
        if let Some(n) = block.gap {
            let quotes = QUOTE.repeat(n.min(self.width.saturating_sub(TEXT_COLUMNS) / width(QUOTE)));
            lines.push(Line::new(quotes.trim_end(), Style::DIM));
        }
        let inner = self.width.saturating_sub(rest.width()).max(TEXT_COLUMNS_MIN);
        let ending = if block.is_open { Ending::Open } else { Ending::Closed };
        let body = match &block.kind {
            Kind::Paragraph(text) => wrap(&inline::spans(text, Style::PLAIN, ending), inner),
            Kind::Heading(level, text) => wrap(&inline::spans(text, heading(*level), ending), inner),
            Kind::Rule => vec![Line::new("─".repeat(inner.min(40)), Style::DIM)],
            Kind::CodeOpen(language) => vec![Line::new(fence('┌', language, inner), Style::DIM)],
            Kind::CodeClose => vec![Line::new(fence('└', "", inner), Style::DIM)],
            Kind::Code(spans) => vec![Line(spans.clone())],
            Kind::Table(table) => table.lines(inner, self.table_rows),
        };
        // A marker whose text is still to come stands alone.
        let body = if body.is_empty() { vec![Line::default()] } else { body };
        for (i, line) in body.into_iter().enumerate() {
            let mut whole = if i == 0 { first.clone() } else { rest.clone() };
            line.0.iter().for_each(|span| whole.push(&span.text, span.style));
            lines.push(whole);
        }
        lines
    }
}

impl Prefix {
    /// What stands before the first line, and before each other one, in so many columns if the marker alone has not more.
    fn lines(&self, columns: usize) -> (Line, Line) {
        let mut first = Line::default();
        first.push(&QUOTE.repeat(self.quotes.min(columns / width(QUOTE))), Style::DIM);
        let marker = self.marker.as_ref().map_or(0, |marker| width(marker));
        let indent = self.indent.min(columns - first.width()).max(marker);
        let mut rest = first.clone();
        rest.push(&" ".repeat(indent), Style::PLAIN);
        match &self.marker {
            None => (rest.clone(), rest),
            Some(marker) => {
                first.push(&" ".repeat(indent - width(marker)), Style::PLAIN);
                first.push(marker, Style::PLAIN.color(Color::Cyan));
                (first, rest)
            }
        }
    }
}

fn heading(level: usize) -> Style {
    let style = Style { bold: true, ..Style::PLAIN };
    match level {
        1 => Style { underline: true, ..style }.color(Color::Cyan),
        2 => style.color(Color::Cyan),
        _ => style,
    }
}

/// The line above or below code. Code itself has nothing beside it, so that it can be copied.
fn fence(corner: char, language: &str, columns: usize) -> String {
    let columns = columns.min(40);
    let language = shortened(language, columns.saturating_sub(5));
    let label = if language.is_empty() { String::new() } else { format!(" {language} ") };
    let dashes = columns.saturating_sub(1 + width(&label)).max(2);
    let (before, after) = if label.is_empty() { (dashes, 0) } else { (2, dashes.saturating_sub(2)) };
    format!("{corner}{}{label}{}", "─".repeat(before), "─".repeat(after))
}
