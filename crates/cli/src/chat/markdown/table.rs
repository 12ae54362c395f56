//! Tables.

use super::super::style::{Line, Style};
use super::inline::{self, Ending};
use super::wrap::wrap;

/// The narrowest a column may become before its table is told row by row.
const COLUMN_MIN: usize = 5;
/// Most columns of a table; in wider ones, what is beyond stays in the last.
const COLUMNS_MAX: usize = 64;
const BETWEEN: &str = " │ ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Center,
    Right,
}

/// Rows of cells under a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub align: Vec<Align>,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// The cells of a row, at most [`COLUMNS_MAX`].
pub fn cells(line: &str) -> Vec<String> {
    let line = line.trim();
    let line = line.strip_prefix('|').unwrap_or(line);
    let mut cells = vec![String::new()];
    let mut chars = line.chars().peekable();
    let mut in_code = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'|') => {
                chars.next();
                cells.last_mut().expect("one at least").push('|');
            }
            '|' if !in_code && cells.len() < COLUMNS_MAX => cells.push(String::new()),
            c => {
                in_code ^= c == '`';
                cells.last_mut().expect("one at least").push(c);
            }
        }
    }
    // The bar that closes a row opens no cell.
    if cells.len() > 1
        && cells.last().is_some_and(|cell| cell.trim().is_empty())
        && line.trim_end().ends_with('|')
    {
        cells.pop();
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

/// The alignments that the line under a header says, if it is such a line.
pub fn alignments(line: &str) -> Option<Vec<Align>> {
    let is_one = |c: char| matches!(c, '|' | '-' | ':' | ' ' | '\t');
    if !line.contains('-') || !line.chars().all(is_one) {
        return None;
    }
    let of = |cell: String| {
        let dashes = cell.trim_matches(':');
        if dashes.is_empty() || !dashes.chars().all(|c| c == '-') {
            return None;
        }
        Some(match (cell.starts_with(':'), cell.ends_with(':')) {
            (true, true) => Align::Center,
            (false, true) => Align::Right,
            _ => Align::Left,
        })
    };
    cells(line).into_iter().map(of).collect()
}

impl Table {
    /// Adds a row: cells that are missing are empty, those beyond the header stay in the last one.
    pub fn push(&mut self, line: &str) {
        let mut row = cells(line);
        let n = self.header.len();
        if row.len() > n {
            let rest = row.split_off(n).join(" | ");
            if let Some(last) = row.last_mut() {
                *last = format!("{last} | {rest}");
            }
        }
        row.resize(n, String::new());
        self.rows.push(row);
    }

    pub fn lines(&self, columns: usize, rows_known: usize) -> Vec<Line> {
        let bold = Style { bold: true, ..Style::PLAIN };
        let Some(widths) = self.widths(columns, rows_known) else { return self.as_records(columns) };
        let header = self.row(&self.header, bold, &widths);
        let rows: Vec<Vec<Line>> = self.rows.iter().map(|row| self.row(row, Style::PLAIN, &widths)).collect();
        // Where cells have several lines, rows are told apart by rules.
        let is_tall = rows.iter().take(rows_known).any(|lines| lines.len() > 1);
        let dashes: Vec<String> = widths.iter().map(|&n| "─".repeat(n)).collect();
        let rule = Line::new(dashes.join("─┼─"), Style::DIM);
        let mut lines = header;
        lines.push(rule.clone());
        for (i, row) in rows.into_iter().enumerate() {
            if is_tall && i > 0 {
                lines.push(rule.clone());
            }
            lines.extend(row);
        }
        lines
    }

    /// The widths of the columns: what they need, or where that is too much, less for the widest.
    fn widths(&self, columns: usize, rows_known: usize) -> Option<Vec<usize>> {
        let n = self.header.len();
        let room = columns.checked_sub(BETWEEN.chars().count() * n.saturating_sub(1))?;
        let mut widths = vec![1; n];
        for row in std::iter::once(&self.header).chain(self.rows.iter().take(rows_known)) {
            for (cell, width) in row.iter().zip(&mut widths) {
                let lines = wrap(&inline::spans(cell, Style::PLAIN, Ending::Closed), usize::MAX);
                *width = lines.iter().map(Line::width).max().unwrap_or(0).max(*width);
            }
        }
        while widths.iter().sum::<usize>() > room {
            let widest = widths.iter().copied().max()?;
            if widest <= COLUMN_MIN {
                return None;
            }
            // All of the widest give way together, down to the next one.
            let next = widths.iter().copied().filter(|&w| w < widest).max().unwrap_or(0).max(COLUMN_MIN);
            let n_widest = widths.iter().filter(|&&w| w == widest).count();
            let excess = widths.iter().sum::<usize>() - room;
            let by = (widest - next).min(excess.div_ceil(n_widest)).max(1);
            widths.iter_mut().filter(|w| **w == widest).for_each(|w| *w -= by);
        }
        Some(widths)
    }

    fn row(&self, cells: &[String], style: Style, widths: &[usize]) -> Vec<Line> {
        let wrapped: Vec<Vec<Line>> = cells
            .iter()
            .zip(widths)
            .map(|(cell, &width)| wrap(&inline::spans(cell, style, Ending::Closed), width))
            .collect();
        let n_lines = wrapped.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let line = |i: usize| {
            let mut line = Line::default();
            for (column, (lines, &width)) in wrapped.iter().zip(widths).enumerate() {
                if column > 0 {
                    line.push(BETWEEN, Style::DIM);
                }
                let empty = Line::default();
                let cell = lines.get(i).unwrap_or(&empty);
                let free = width.saturating_sub(cell.width());
                let before = match self.align[column] {
                    Align::Left => 0,
                    Align::Center => free / 2,
                    Align::Right => free,
                };
                line.push(&" ".repeat(before), Style::PLAIN);
                cell.0.iter().for_each(|span| line.push(&span.text, span.style));
                if column + 1 < widths.len() {
                    line.push(&" ".repeat(free - before), Style::PLAIN);
                }
            }
            line
        };
        (0..n_lines).map(line).collect()
    }

    /// A table that is too wide for columns: each cell under the name of its column.
    fn as_records(&self, columns: usize) -> Vec<Line> {
        let bold = Style { bold: true, ..Style::PLAIN };
        let mut lines = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            if i > 0 {
                lines.push(Line::new("─".repeat(columns.min(20)), Style::DIM));
            }
            for (name, cell) in self.header.iter().zip(row) {
                let mut spans = inline::spans(name, bold, Ending::Closed);
                spans.push(super::super::style::Span::new(": ", Style::PLAIN));
                spans.extend(inline::spans(cell, Style::PLAIN, Ending::Closed));
                lines.extend(wrap(&spans, columns));
            }
        }
        lines
    }
}
