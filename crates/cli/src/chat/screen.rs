//! The screen below the last prompt: lines that are done, and lines that may still change.
//!
//! Nothing is painted twice that stands there already. New text is added where the last one ended; where a word moves to
//! the next line or a table's column grows, the cursor goes to the first place that differs and goes on from there. What
//! has scrolled out of the window stays as it is.

use std::fmt::Write;

use super::style::{Line, grapheme_width, is_uncertain};

/// What is painted, and where the cursor is.
#[derive(Debug)]
pub struct Screen {
    columns: usize,
    rows: usize,
    /// The lines that may change; the cursor stands at the end of the last one, or at the beginning of an empty line if
    /// there are none.
    live: Vec<Line>,
}

impl Screen {
    pub fn new(columns: usize, rows: usize) -> Self {
        Self { columns: columns.max(2), rows: rows.max(2), live: Vec::new() }
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The window has another size now. Terminals break lines anew that are too wide for it; what of them may change is
    /// painted again.
    pub fn resize(&mut self, columns: usize, rows: usize, out: &mut String) {
        if (columns, rows) == (self.columns, self.rows) {
            return;
        }
        (self.columns, self.rows) = (columns.max(2), rows.max(2));
        if !self.live.is_empty() {
            let first = self.first_in_reach();
            self.go_to(first, out);
            out.push_str("\x1b[K");
            self.live.clear();
        }
    }

    /// What stands on the screen is somebody else's: the next painting begins below it.
    pub fn forget(&mut self) {
        self.live.clear();
    }

    /// Paints: `done` lines, which will never change, and then `live` ones.
    pub fn update(&mut self, done: Vec<Line>, live: Vec<Line>, out: &mut String) {
        let n_done = done.len();
        let lines: Vec<Line> = done.into_iter().chain(live).collect();
        if self.live.is_empty() {
            self.paint(&lines, 0, 0, out);
        } else {
            self.change(&lines, out);
        }
        if n_done == lines.len() && !lines.is_empty() {
            out.push_str("\r\n");
        }
        self.live = lines[n_done..].to_vec();
    }

    /// From what is painted to `lines`.
    fn change(&mut self, lines: &[Line], out: &mut String) {
        let same = self.live.iter().zip(lines).take_while(|(old, new)| old == new).count();
        if same == lines.len() && same == self.live.len() {
            return;
        }
        if same == self.live.len() {
            out.push_str("\r\n");
            return self.paint(lines, same, 0, out);
        }
        if lines.is_empty() {
            self.go_to(self.first_in_reach(), out);
            out.push_str("\x1b[K");
            return;
        }
        // The cursor ends up behind the last line, so that one has to be painted.
        let first = same.min(lines.len() - 1).max(self.first_in_reach());
        if first >= lines.len() {
            // What would change has scrolled away.
            self.go_to(self.live.len() - 1, out);
            out.push_str("\x1b[K");
            return;
        }
        let old = &self.live[first];
        let prefix = common(old, &lines[first]);
        let is_last = first + 1 == self.live.len();
        if is_last && prefix.whole {
            return self.paint(lines, first, prefix.graphemes, out);
        }
        let is_short = old.width() < self.columns && !prefix.is_uncertain;
        self.go_to(first, out);
        if is_short && prefix.columns > 0 {
            write!(out, "\x1b[{}C", prefix.columns).expect("writing to a String cannot fail");
        }
        out.push_str("\x1b[K");
        self.paint(lines, first, if is_short { prefix.graphemes } else { 0 }, out);
    }

    /// Writes lines from one's grapheme cluster on, with line breaks between them.
    fn paint(&self, lines: &[Line], first: usize, from: usize, out: &mut String) {
        for (i, line) in lines.iter().enumerate().skip(first) {
            if i > first {
                out.push_str("\r\n");
            }
            line.paint(if i == first { from } else { 0 }, out);
        }
    }

    /// The first line that may change and stands in the window.
    fn first_in_reach(&self) -> usize {
        let mut room = self.rows;
        let mut first = self.live.len();
        for (i, line) in self.live.iter().enumerate().rev() {
            let rows = rows(line, self.columns);
            if rows > room {
                break;
            }
            room -= rows;
            first = i;
        }
        first.min(self.live.len().saturating_sub(1))
    }

    /// The cursor goes from the end of the last line to the beginning of this one, and wipes the rows below it on its
    /// way: row by row, because some terminals keep what is wiped at once among what has scrolled away.
    fn go_to(&self, line: usize, out: &mut String) {
        let up: usize = self.live[line..].iter().map(|line| rows(line, self.columns)).sum::<usize>() - 1;
        out.push('\r');
        for _ in 0..up.min(self.rows - 1) {
            out.push_str("\x1b[2K\x1b[1A");
        }
    }
}

/// The rows that a line takes where the terminal breaks it.
fn rows(line: &Line, columns: usize) -> usize {
    let (mut rows, mut used) = (1, 0);
    for (grapheme, _) in line.graphemes() {
        let width = grapheme_width(grapheme);
        if used + width > columns {
            rows += 1;
            used = 0;
        }
        used += width;
    }
    rows
}

/// What two lines begin with.
struct Common {
    graphemes: usize,
    columns: usize,
    /// Whether all of the first one is in it.
    whole: bool,
    /// Whether terminals may see another width than we do.
    is_uncertain: bool,
}

fn common(old: &Line, new: &Line) -> Common {
    let mut common = Common { graphemes: 0, columns: 0, whole: true, is_uncertain: false };
    let mut news = new.graphemes();
    for grapheme in old.graphemes() {
        if news.next() != Some(grapheme) {
            common.whole = false;
            break;
        }
        common.graphemes += 1;
        common.columns += grapheme_width(grapheme.0);
        common.is_uncertain |= is_uncertain(grapheme.0);
    }
    common
}

#[cfg(test)]
pub mod emulator;
#[cfg(test)]
mod tests;
