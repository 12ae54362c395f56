//! From text that arrives in pieces to blocks.
//!
//! Lines are told apart as CommonMark does, with what models write in mind: items are nested by two columns already, a
//! single line break stays one, `---` is always a rule. A line that is still coming is shown as soon as it is known what
//! it will be; until then (`#`, `-`, `12`, ` ``` `) it waits.

use super::super::style::{Span, Style, width};
use super::block::{Block, Kind, Prefix};
use super::highlight::Highlighter;
use super::table::{Table, alignments, cells};

/// Most bytes of a paragraph or line that are kept open; longer ones are closed and go on as further ones.
const OPEN_BYTES_MAX: usize = 8 << 10;
/// Columns that a line is indented by to be code.
const CODE_COLUMNS: usize = 4;
/// How deep items and quotations are told apart.
const DEPTH_MAX: usize = 12;
/// Most rows of one table; a longer one goes on as text.
const ROWS_MAX: usize = 1000;

/// Reads Markdown.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// The line that is still coming.
    line: String,
    quotes: usize,
    /// The items that are open, outermost first.
    items: Vec<Item>,
    /// The marker of an item whose text is still to come.
    marker: Option<String>,
    open: Open,
    fence: Option<Fence>,
    /// Whether an empty line stands before the next block, and in how many quotations that is.
    gap: Option<usize>,
    has_blocks: bool,
}

/// An item of a list.
#[derive(Clone, Debug)]
struct Item {
    /// The column of its marker.
    column: usize,
    /// The columns that its marker takes on the screen.
    width: usize,
}

/// The block that lines may still be added to.
#[derive(Clone, Debug, Default)]
enum Open {
    #[default]
    Nothing,
    Paragraph(Block, String),
    Table(Block, Table),
    /// Indented code, of which each line is complete by itself, and the empty lines behind it: they belong to it if it
    /// goes on.
    Code(usize),
}

#[derive(Clone, Debug)]
struct Fence {
    mark: char,
    n: usize,
    /// Columns that its lines are indented by.
    column: usize,
    prefix: Prefix,
    highlighter: Highlighter,
}

impl Parser {
    /// Takes more text; the blocks that are complete by it go to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<Block>) {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece.strip_suffix('\n').unwrap_or(piece));
            if piece.ends_with('\n') {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, false, out);
            } else if self.line.len() > OPEN_BYTES_MAX {
                let at = self.line.rfind(' ').map_or(self.line.len(), |at| at + 1);
                let rest = self.line.split_off(at);
                let line = std::mem::replace(&mut self.line, rest);
                self.take_line(line.trim_end(), false, out);
                self.close(out);
            }
        }
    }

    /// What is not complete, as it looks so far.
    pub fn open(&self) -> Vec<Block> {
        let mut out = Vec::new();
        let mut copy = self.clone();
        let line = std::mem::take(&mut copy.line);
        if !line.is_empty() {
            copy.take_line(&line, true, &mut out);
        }
        copy.close(&mut out);
        if let Some(last) = out.last_mut() {
            last.is_open = true;
        }
        out
    }

    /// The text ends.
    pub fn finish(&mut self, out: &mut Vec<Block>) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.take_line(&line, false, out);
        }
        self.close(out);
        self.flush_marker(out);
        if self.fence.is_some() {
            self.close_fence(out);
        }
    }

    /// Takes a line in. `is_partial`: more of it may come.
    fn take_line(&mut self, line: &str, is_partial: bool, out: &mut Vec<Block>) {
        let line = expand_tabs(line);
        if self.fence.is_some() {
            return self.code_line(&line, is_partial, out);
        }
        let (quotes, rest) = quotes(&line);
        if quotes != self.quotes {
            if is_partial && rest.trim().is_empty() {
                return;
            }
            self.close(out);
            self.flush_marker(out);
            self.items.clear();
            self.quotes = quotes;
        }
        if rest.trim().is_empty() {
            if let (Open::Code(n_empty), false) = (&mut self.open, is_partial) {
                *n_empty += 1;
            } else if !is_partial {
                self.close(out);
                self.flush_marker(out);
                self.gap = self.has_blocks.then_some(self.quotes.min(self.gap.unwrap_or(self.quotes)));
            }
            return;
        }
        self.content(rest, is_partial, out);
    }

    /// A line without its quotation marks, which is not empty.
    fn content(&mut self, rest: &str, is_partial: bool, out: &mut Vec<Block>) {
        let mut column = rest.len() - rest.trim_start().len();
        let mut text = rest.trim_start();
        self.leave_items(column, text, out);
        if self.is_indented_code(rest, is_partial) {
            return self.indented_code(rest, out);
        }
        if matches!(self.open, Open::Code(_)) {
            self.close(out);
        }
        for _ in 0..DEPTH_MAX {
            if is_partial && may_become_other(text) {
                return;
            }
            let Some((marker, n)) = item(text).filter(|(marker, _)| self.may_begin(marker)) else { break };
            self.close(out);
            self.flush_marker(out);
            let shown = if self.items.len() < DEPTH_MAX {
                shown_marker(marker, self.items.len())
            } else {
                "• ".into()
            };
            self.items.push(Item { column, width: width(&shown) });
            self.marker = Some(shown);
            column += n;
            text = text[n..].trim_start();
            if let Some(task) = task(&mut text) {
                self.marker =
                    self.marker.take().map(|marker| if marker == "• " { task.into() } else { marker + task });
                let shown = self.marker.as_deref().map_or(0, width);
                self.items.last_mut().expect("it was just pushed").width = shown;
            }
            if text.is_empty() {
                return;
            }
        }
        self.block(column, text, is_partial, out);
    }

    /// Whether a line is indented code: where nothing is open that it goes on with, and no item that it is in. A fence
    /// that stands so far in is a fence all the same, as models mean it, unless code has begun before.
    fn is_indented_code(&self, rest: &str, is_partial: bool) -> bool {
        let text = rest.trim_start_matches(' ');
        let is_deep = rest.len() - text.len() >= CODE_COLUMNS;
        match self.open {
            Open::Code(_) => is_deep,
            Open::Nothing => {
                let may_be_fence =
                    is_partial && (text.chars().all(|c| c == '`') || text.chars().all(|c| c == '~'));
                is_deep && self.items.is_empty() && fence(text).is_none() && !may_be_fence
            }
            Open::Paragraph(..) | Open::Table(..) => false,
        }
    }

    /// A line of indented code, as it stands there: its indent tells it from the text around it.
    fn indented_code(&mut self, line: &str, out: &mut Vec<Block>) {
        if let Open::Code(n_empty) = std::mem::replace(&mut self.open, Open::Code(0)) {
            (0..n_empty).for_each(|_| self.emit(Kind::Code(Vec::new()), out));
        }
        self.emit(Kind::Code(vec![Span::new(line, Style::PLAIN)]), out);
    }

    /// Closes the items that a line with this indent is not in.
    fn leave_items(&mut self, column: usize, text: &str, out: &mut Vec<Block>) {
        let starts_item = item(text).is_some();
        // Text right below an item's text belongs to it, wherever it begins.
        let goes_on = matches!(self.open, Open::Paragraph(..)) && !starts_item && !is_special(text);
        if goes_on {
            return;
        }
        while self.items.last().is_some_and(|item| column < item.column + 2) {
            self.close(out);
            self.flush_marker(out);
            self.items.pop();
        }
    }

    /// Whether a marker begins an item here: a number within a paragraph does only if it is the first.
    fn may_begin(&self, marker: &str) -> bool {
        let in_text = matches!(self.open, Open::Paragraph(..)) && self.items.is_empty();
        !in_text || marker.starts_with(['-', '*', '+']) || matches!(marker, "1." | "1)")
    }

    fn block(&mut self, column: usize, text: &str, is_partial: bool, out: &mut Vec<Block>) {
        if let Some((mark, n, info)) = fence(text) {
            self.close(out);
            // Its language may still be coming.
            if is_partial {
                return;
            }
            let language = info.split([' ', ',', '{']).next().unwrap_or("").to_owned();
            let highlighter = Highlighter::new(&language);
            self.emit(Kind::CodeOpen(language), out);
            let prefix = self.prefix(false);
            self.fence = Some(Fence { mark, n, column, prefix, highlighter });
            return;
        }
        if let Some((level, title)) = heading(text) {
            self.close(out);
            self.gap = self.has_blocks.then_some(self.gap.unwrap_or(self.quotes));
            return self.emit(Kind::Heading(level, title.to_owned()), out);
        }
        if self.underline(text, out) {
            return;
        }
        if is_rule(text) {
            self.close(out);
            return self.emit(Kind::Rule, out);
        }
        if let Open::Table(_, table) = &mut self.open {
            let is_row = !is_partial || text.trim_end().ends_with('|');
            if is_row && table.rows.len() < ROWS_MAX {
                return table.push(text);
            }
            if is_partial {
                return;
            }
            self.close(out);
        }
        self.add_text(text, is_partial, out);
    }

    /// A line that makes a heading or a table's header of the line before.
    fn underline(&mut self, text: &str, out: &mut Vec<Block>) -> bool {
        let Open::Paragraph(block, said) = &self.open else { return false };
        if said.contains('\n') {
            return false;
        }
        if text.len() >= 2 && text.trim_end().chars().all(|c| c == '=') {
            let (mut block, title) = (block.clone(), said.clone());
            block.kind = Kind::Heading(1, title);
            self.open = Open::Nothing;
            out.push(block);
            return true;
        }
        if !said.contains('|') {
            return false;
        }
        let header = cells(said);
        let Some(align) = alignments(text).filter(|align| align.len() == header.len()) else { return false };
        self.open = Open::Table(block.clone(), Table { align, header, rows: Vec::new() });
        true
    }

    fn add_text(&mut self, text: &str, is_partial: bool, out: &mut Vec<Block>) {
        let text = match text.strip_suffix('\\') {
            Some(start) if !is_partial => start,
            _ => text.trim_end(),
        };
        if let Open::Paragraph(_, said) = &mut self.open {
            if said.len() <= OPEN_BYTES_MAX {
                said.push('\n');
                said.push_str(text);
                return;
            }
            self.close(out);
        }
        let block = self.begin(Kind::Rule);
        self.open = Open::Paragraph(block, text.to_owned());
    }

    fn code_line(&mut self, line: &str, is_partial: bool, out: &mut Vec<Block>) {
        let quotes_of = self.quotes;
        let fence = self.fence.as_mut().expect("it is open");
        let mut line = line;
        for _ in 0..quotes_of {
            let inner =
                line.trim_start().strip_prefix('>').map(|rest| rest.strip_prefix(' ').unwrap_or(rest));
            line = inner.unwrap_or(line);
        }
        let text = line.trim();
        let run = text.chars().take_while(|&c| c == fence.mark).count();
        if run == text.chars().count() && (run >= fence.n || is_partial) && !text.is_empty() {
            if !is_partial {
                self.close_fence(out);
            }
            return;
        }
        let indent = line.len() - line.trim_start().len();
        let code = &line[indent.min(fence.column)..];
        let kind = Kind::Code(fence.highlighter.line(code));
        out.push(Block { gap: None, prefix: fence.prefix.clone(), kind, is_open: is_partial });
    }

    fn close_fence(&mut self, out: &mut Vec<Block>) {
        if let Some(fence) = self.fence.take() {
            out.push(Block { gap: None, prefix: fence.prefix, kind: Kind::CodeClose, is_open: false });
        }
    }

    /// Completes the open block.
    fn close(&mut self, out: &mut Vec<Block>) {
        match std::mem::take(&mut self.open) {
            Open::Nothing => {}
            Open::Code(0) => {}
            Open::Code(_) => self.gap = Some(self.quotes),
            Open::Paragraph(mut block, text) => {
                block.kind = Kind::Paragraph(text);
                out.push(block);
            }
            Open::Table(mut block, table) => {
                block.kind = Kind::Table(table);
                out.push(block);
            }
        }
    }

    /// An item without text is an item all the same.
    fn flush_marker(&mut self, out: &mut Vec<Block>) {
        if self.marker.is_some() {
            self.emit(Kind::Paragraph(String::new()), out);
        }
    }

    fn emit(&mut self, kind: Kind, out: &mut Vec<Block>) {
        let block = self.begin(kind);
        out.push(block);
    }

    fn begin(&mut self, kind: Kind) -> Block {
        let prefix = self.prefix(true);
        self.has_blocks = true;
        Block { gap: self.gap.take(), prefix, kind, is_open: false }
    }

    fn prefix(&mut self, with_marker: bool) -> Prefix {
        let marker = if with_marker { self.marker.take() } else { None };
        Prefix { quotes: self.quotes, indent: self.items.iter().map(|item| item.width).sum(), marker }
    }
}

/// Tabs to the next fourth column.
fn expand_tabs(line: &str) -> String {
    if !line.contains('\t') {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len() + 8);
    let mut column = 0;
    for c in line.chars() {
        let n = if c == '\t' { 4 - column % 4 } else { 1 };
        if c == '\t' {
            out.extend(std::iter::repeat_n(' ', n))
        } else {
            out.push(c)
        }
        column += n;
    }
    out
}

/// How many quotations a line is in, and what it says there.
fn quotes(line: &str) -> (usize, &str) {
    let (mut n, mut rest) = (0, line);
    while n < DEPTH_MAX {
        let trimmed = rest.trim_start();
        if rest.len() - trimmed.len() > 3 {
            break;
        }
        let Some(inner) = trimmed.strip_prefix('>') else { break };
        rest = inner.strip_prefix(' ').unwrap_or(inner);
        n += 1;
    }
    (n, rest)
}

/// The marker of an item at the beginning of a line, and how many bytes it takes with its blank.
fn item(text: &str) -> Option<(&str, usize)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n = match text.as_bytes().get(digits) {
        Some(b'-' | b'*' | b'+') if digits == 0 && !is_rule(text) => 1,
        Some(b'.' | b')') if (1..=9).contains(&digits) => digits + 1,
        _ => return None,
    };
    match text.as_bytes().get(n) {
        None => Some((&text[..n], n)),
        Some(b' ') => Some((&text[..n], n + 1)),
        Some(_) => None,
    }
}

/// A marker as it is shown at this depth.
fn shown_marker(marker: &str, depth: usize) -> String {
    match marker.as_bytes()[0] {
        b'-' | b'*' | b'+' => ["• ", "◦ ", "▪ "][depth.min(2)].into(),
        _ => format!("{marker} "),
    }
}

/// The box of a task, which is taken off.
fn task(text: &mut &str) -> Option<&'static str> {
    let boxes = [("[ ] ", "☐ "), ("[x] ", "☑ "), ("[X] ", "☑ ")];
    let (mark, shown) = boxes.into_iter().find(|(mark, _)| text.starts_with(mark))?;
    *text = text[mark.len()..].trim_start();
    Some(shown)
}

/// The mark of a fence, how many there are, and what stands behind.
fn fence(text: &str) -> Option<(char, usize, &str)> {
    let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let n = text.chars().take_while(|&c| c == mark).count();
    let info = text[n..].trim();
    (n >= 3 && !(mark == '`' && info.contains('`'))).then_some((mark, n, info))
}

fn heading(text: &str) -> Option<(usize, &str)> {
    let level = text.bytes().take_while(|&b| b == b'#').count();
    let rest = &text[level..];
    if !(1..=6).contains(&level) || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    let title = rest.trim();
    let closed = title.trim_end_matches('#');
    Some((level, if closed.is_empty() || closed.ends_with(' ') { closed.trim_end() } else { title }))
}

fn is_rule(text: &str) -> bool {
    let mut marks = text.chars().filter(|c| *c != ' ');
    let Some(first) = marks.next().filter(|c| matches!(c, '-' | '*' | '_')) else { return false };
    let mut n = 1;
    for mark in marks {
        if mark != first {
            return false;
        }
        n += 1;
    }
    n >= 3
}

/// Whether a line is more than text, wherever it begins.
fn is_special(text: &str) -> bool {
    fence(text).is_some() || heading(text).is_some() || is_rule(text)
}

/// Whether nobody can tell yet what a line that begins so will be.
fn may_become_other(text: &str) -> bool {
    let text = text.trim_end();
    let of = |set: &str| text.chars().all(|c| set.contains(c));
    of("#") && text.len() <= 6
        || of("-*_+ ")
        || of("=")
        || of("|-: ")
        || of("`")
        || of("~")
        || text.trim_end_matches(['.', ')']).bytes().all(|b| b.is_ascii_digit()) && text.len() <= 10
        || matches!(text, "[" | "[ " | "[x" | "[X" | "[x]" | "[ ]" | "[X]")
}
