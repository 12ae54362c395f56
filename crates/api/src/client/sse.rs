//! Event streams, from bytes in any pieces to events.
//!
//! As the HTML standard has them (section 9.2.6): lines end with LF, CR or CRLF, fields are `name: value`, lines that
//! begin with a colon are comments, a blank line ends an event, and what stands after the last blank line is no event.

/// The longest line, and the most data of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A line or an event is longer than [`EVENT_BYTES_MAX`].
    TooLong,
    /// The data of an event is no UTF-8.
    NotText,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => write!(f, "an event has more than {EVENT_BYTES_MAX} bytes"),
            Self::NotText => f.write_str("an event is no UTF-8"),
        }
    }
}

/// Takes a stream apart. Holds at most one line and the data of one event.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF after it ends no further line.
    after_cr: bool,
    /// The first line may begin with a byte order mark.
    is_begun: bool,
}

impl Parser {
    /// For a stream that begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes in; the data of each event that they complete goes to `out`, in order.
    ///
    /// # Errors
    /// If the stream is none. It cannot be read on after that.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<String>) -> Result<(), Fault> {
        for &byte in bytes {
            let is_second = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if is_second => {}
                b'\n' | b'\r' => self.end_line(out)?,
                _ if self.line.len() >= EVENT_BYTES_MAX => return Err(Fault::TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// Whether the stream stands between two events: ending here loses nothing.
    pub fn is_between(&self) -> bool {
        self.line.is_empty() && !self.has_data
    }

    fn end_line(&mut self, out: &mut Vec<String>) -> Result<(), Fault> {
        let line = std::mem::take(&mut self.line);
        let mut rest = line.as_slice();
        if !std::mem::replace(&mut self.is_begun, true) {
            rest = rest.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(rest);
        }
        if rest.is_empty() {
            let data = std::mem::take(&mut self.data);
            if std::mem::take(&mut self.has_data) {
                out.push(String::from_utf8(data).map_err(|_| Fault::NotText)?);
            }
        } else if let Some(value) = rest.strip_prefix(b"data") {
            // `data: x`, `data:x` and `data` alone; `database: x` is another field.
            let value = match value {
                [] => Some(value),
                [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
                _ => None,
            };
            if let Some(value) = value {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                if self.data.len() + value.len() > EVENT_BYTES_MAX {
                    return Err(Fault::TooLong);
                }
                self.data.extend_from_slice(value);
            }
        }
        // The buffer keeps its memory for the next line.
        self.line = line;
        self.line.clear();
        Ok(())
    }
}
