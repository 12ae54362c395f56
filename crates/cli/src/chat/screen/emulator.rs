//! As much of a terminal as the screen uses, for tests: a window that scrolls, with what has scrolled away above it, and
//! that breaks long lines anew when it changes.

use unicode_segmentation::UnicodeSegmentation;

use crate::chat::style::grapheme_width;

/// One row: its cells, an empty one behind each wide character, and whether the next row goes on with it.
#[derive(Clone, Debug, Default)]
struct Row {
    cells: Vec<String>,
    goes_on: bool,
}

/// The terminal.
pub struct Terminal {
    columns: usize,
    rows: usize,
    /// All rows ever.
    lines: Vec<Row>,
    top: usize,
    x: usize,
    y: usize,
    /// Rows that a cursor beyond the window was sent to.
    pub n_wrong: usize,
}

impl Terminal {
    pub fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, lines: vec![Row::default()], top: 0, x: 0, y: 0, n_wrong: 0 }
    }

    /// Another size: what was one line becomes as many rows as it takes now.
    pub fn resize(&mut self, columns: usize, rows: usize) {
        if (columns, rows) == (self.columns, self.rows) {
            return;
        }
        let (mut old, y, x) = (std::mem::take(&mut self.lines), self.y, self.x);
        // Empty rows below the cursor push nothing out of the window.
        old.truncate(old.iter().rposition(|row| !row.cells.is_empty()).unwrap_or(0).max(y) + 1);
        (self.columns, self.rows, self.top, self.x, self.y) = (columns, rows, 0, 0, 0);
        self.lines = vec![Row::default()];
        let mut cursor = (0, 0);
        for (at, row) in old.iter().enumerate() {
            for (column, cell) in row.cells.iter().enumerate() {
                if (at, column) == (y, x) {
                    cursor = (self.x, self.y);
                }
                if !cell.is_empty() {
                    self.put(cell);
                }
            }
            if at == y && x >= row.cells.len() {
                cursor = (self.x, self.y);
            }
            if !row.goes_on && at + 1 < old.len() {
                self.x = 0;
                self.down();
            }
        }
        (self.x, self.y) = cursor;
    }

    fn down(&mut self) {
        self.y += 1;
        if self.y == self.lines.len() {
            self.lines.push(Row::default());
        }
        self.top = self.top.max((self.y + 1).saturating_sub(self.rows));
    }

    fn put(&mut self, grapheme: &str) {
        let width = grapheme_width(grapheme);
        if self.x + width > self.columns {
            self.lines[self.y].goes_on = true;
            self.x = 0;
            self.down();
        }
        let line = &mut self.lines[self.y].cells;
        line.resize(line.len().max(self.x + width), " ".into());
        line[self.x] = grapheme.into();
        line[self.x + 1..self.x + width].fill(String::new());
        self.x += width;
    }

    /// Takes what a program writes.
    pub fn write(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("a whole sequence");
                let n = sequence[..end].parse().unwrap_or(1);
                match &sequence[end..=end] {
                    "A" => {
                        self.n_wrong += usize::from(self.y < self.top + n);
                        self.y = self.y.saturating_sub(n).max(self.top);
                    }
                    "C" => self.x = (self.x + n).min(self.columns - 1),
                    "K" if n == 2 => self.lines[self.y] = Row::default(),
                    "K" => {
                        self.lines[self.y].cells.truncate(self.x);
                        self.lines[self.y].goes_on = false;
                    }
                    "m" => {}
                    other => panic!("the screen uses no {other}"),
                }
                rest = &sequence[end + 1..];
                continue;
            }
            let grapheme = rest.graphemes(true).next().expect("it is not empty");
            match grapheme {
                "\r\n" => {
                    self.x = 0;
                    self.down();
                }
                "\r" => self.x = 0,
                "\x1b" => panic!("a bare escape"),
                _ => self.put(grapheme),
            }
            rest = &rest[grapheme.len()..];
        }
    }

    /// All rows down to the cursor's.
    pub fn text(&self) -> Vec<String> {
        // Below the cursor there is nothing.
        let below = &self.lines[self.y + 1..];
        assert!(below.iter().all(|row| row.cells.is_empty()), "something is left: {:?}", self.lines);
        self.lines[..=self.y].iter().map(|row| row.cells.concat().trim_end().to_owned()).collect()
    }

    /// The same without the cursor's row, if nothing stands in it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.text();
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}
