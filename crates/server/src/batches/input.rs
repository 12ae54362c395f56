//! The input of a batch, line by line: never more of it in memory than a piece of the file and a line that is short
//! enough.

use std::collections::VecDeque;
use std::sync::Arc;

use ingle_ledger::{Batch, Files, LedgerError, Reader};

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its place in the file, from 1; blank lines count.
    pub number: u64,
    /// Its bytes without the end of line; where there are too many of them, how many.
    pub text: Result<Vec<u8>, u64>,
}

/// The lines of a file, as its pieces come.
#[derive(Debug)]
struct Splitter {
    line_bytes_max: usize,
    number: u64,
    /// The beginning of a line whose end has not come, and how long it is; dropped once it is too long.
    text: Vec<u8>,
    n_bytes: u64,
}

impl Splitter {
    fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, number: 0, text: Vec::new(), n_bytes: 0 }
    }

    fn push(&mut self, piece: &[u8], lines: &mut VecDeque<Line>) {
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            self.n_bytes += part.len() as u64;
            if self.n_bytes <= self.line_bytes_max as u64 {
                self.text.extend_from_slice(part);
            } else {
                self.text = Vec::new();
            }
            if parts.peek().is_some() {
                self.end_line(lines);
            }
        }
    }

    /// Ends the line, which may have no end where the file has one.
    fn end_line(&mut self, lines: &mut VecDeque<Line>) {
        self.number += 1;
        let (n_bytes, mut text) = (std::mem::take(&mut self.n_bytes), std::mem::take(&mut self.text));
        if n_bytes > self.line_bytes_max as u64 {
            lines.push_back(Line { number: self.number, text: Err(n_bytes) });
            return;
        }
        // Some editors begin files with a byte order mark, which is no part of the text.
        if self.number == 1 && text.starts_with(b"\xef\xbb\xbf") {
            text.drain(..3);
        }
        if !text.iter().all(u8::is_ascii_whitespace) {
            lines.push_back(Line { number: self.number, text: Ok(text) });
        }
    }
}

/// Reads a batch's input.
pub(super) struct Input {
    files: Arc<Files>,
    reader: Reader,
    splitter: Splitter,
    ready: VecDeque<Line>,
    is_read: bool,
}

impl Input {
    pub fn new(files: &Arc<Files>, batch: &Batch, line_bytes_max: usize) -> Self {
        Self {
            files: files.clone(),
            reader: files.read_input(batch),
            splitter: Splitter::new(line_bytes_max),
            ready: VecDeque::new(),
            is_read: false,
        }
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Line>, LedgerError> {
        while self.ready.is_empty() && !self.is_read {
            match self.files.next_piece(&mut self.reader).await? {
                Some(piece) => self.splitter.push(&piece, &mut self.ready),
                None => {
                    self.splitter.end_line(&mut self.ready);
                    self.is_read = true;
                }
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The lines that are ready with the next one; none at the end.
    pub async fn next_several(&mut self) -> Result<Vec<Line>, LedgerError> {
        let mut lines: Vec<Line> = self.next().await?.into_iter().collect();
        lines.extend(self.ready.drain(..));
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_alike_however_the_file_is_cut() {
        let check = |file: &[u8], expected: &[(u64, Result<&str, u64>)]| {
            for n_bytes in 1..=file.len().max(1) {
                let (mut splitter, mut lines) = (Splitter::new(5), VecDeque::new());
                file.chunks(n_bytes).for_each(|piece| splitter.push(piece, &mut lines));
                splitter.end_line(&mut lines);
                let expected: Vec<Line> = expected
                    .iter()
                    .map(|(number, text)| Line {
                        number: *number,
                        text: text.map(|text| text.as_bytes().to_vec()),
                    })
                    .collect();
                assert_eq!(lines, expected, "{file:?} in pieces of {n_bytes}");
            }
        };
        check(b"", &[]);
        check(b"\n \n\t\r\n", &[]);
        check(b"a", &[(1, Ok("a"))]);
        check(b"a\nb\n", &[(1, Ok("a")), (2, Ok("b"))]);
        check(b"a\r\n\n b \n\n", &[(1, Ok("a\r")), (3, Ok(" b "))]);
        check(b"12345\n123456\n1", &[(1, Ok("12345")), (2, Err(6)), (3, Ok("1"))]);
        check(b"\xef\xbb\xbfa\n", &[(1, Ok("a"))]);
        check(b"\xef\xbb\xbf\na", &[(2, Ok("a"))]);
    }
}
