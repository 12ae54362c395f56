//! The input, line by line: never more of it in memory than a line that is short enough.

use std::io::{self, BufRead};

use anyhow::{Result, bail};
use ingle_api::parse_object;
use sha2::{Digest, Sha256};

/// The longest line that is read.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Bytes of a digest that an id shows: enough that no two lines of anybody's files share one.
const ID_BYTES: usize = 12;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the file, from 1; blank lines count.
    pub number: u64,
    /// A digest of number and text, in hexadecimal: what the ids of its answer are made of.
    pub id: String,
    /// Its bytes without the end of line; where there are too many of them, how many.
    pub text: Result<Vec<u8>, u64>,
}

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Prompts.
    Text,
    /// Objects with `prompt` or `messages` and any field of a request.
    Simple,
    /// OpenAI's batch format: `custom_id`, `method`, `url`, `body`.
    OpenAi,
}

impl Shape {
    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Simple => "jsonl",
            Self::OpenAi => "openai",
        }
    }

    /// What a file is that begins with `line`; `format` is what the user says about it.
    ///
    /// # Errors
    /// If the line is too long to tell.
    pub fn of(line: &Line, format: Option<&str>) -> Result<Self> {
        if format == Some("text") {
            return Ok(Self::Text);
        }
        let Ok(text) = &line.text else {
            bail!(
                "line {} is longer than {} MiB, too long to tell what the file is; remove it, or say --format text",
                line.number,
                LINE_BYTES_MAX >> 20
            );
        };
        let is_json = text.trim_ascii_start().first() == Some(&b'{');
        Ok(match parse_object(text) {
            _ if !is_json && format.is_none() => Self::Text,
            Ok(object) if ["custom_id", "url", "body"].iter().any(|key| object.contains_key(*key)) => {
                Self::OpenAi
            }
            Ok(_) => Self::Simple,
            // A first line that is broken still shows what it was meant to be: inside of JSON strings quotes have
            // backslashes.
            Err(_) if text.windows(11).any(|part| part == b"\"custom_id\"") => Self::OpenAi,
            Err(_) => Self::Simple,
        })
    }
}

/// The lines that are not blank.
pub struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Those of `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0 }
    }

    /// Reads the next line, blank or not; `None` at the end.
    fn read(&mut self) -> io::Result<Option<Line>> {
        let number = self.number + 1;
        let mut digest = Sha256::new();
        digest.update(number.to_le_bytes());
        let (mut text, mut n_bytes, mut ended) = (Vec::new(), 0, false);
        while !ended {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                if n_bytes == 0 {
                    return Ok(None);
                }
                break;
            }
            let (part, used) = match chunk.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&chunk[..at], at + 1),
                None => (chunk, chunk.len()),
            };
            ended = used > part.len();
            digest.update(part);
            n_bytes += used as u64;
            if n_bytes <= LINE_BYTES_MAX as u64 + 1 {
                text.extend_from_slice(part);
            } else {
                text = Vec::new();
            }
            self.reader.consume(used);
        }
        self.number = number;
        n_bytes -= u64::from(ended);
        let id = digest.finalize().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        if n_bytes > LINE_BYTES_MAX as u64 {
            return Ok(Some(Line { number, id, text: Err(n_bytes) }));
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        // Some editors begin files with a byte order mark, which is no part of the text.
        if number == 1 && text.starts_with(b"\xef\xbb\xbf") {
            text.drain(..3);
        }
        Ok(Some(Line { number, id, text: Ok(text) }))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read().transpose()? {
                Ok(Line { text: Ok(text), .. }) if is_blank(&text) => {}
                other => return Some(other),
            }
        }
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

/// How many lines [`Lines`] gives, without making them.
///
/// # Errors
/// If the input cannot be read.
pub fn count_lines(mut reader: impl BufRead) -> io::Result<u64> {
    let (mut count, mut blank, mut first) = (0, true, true);
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(count + u64::from(!blank));
        }
        let n_bytes = chunk.len();
        let chunk = if first { chunk.strip_prefix(b"\xef\xbb\xbf").unwrap_or(chunk) } else { chunk };
        first = false;
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            blank = blank && is_blank(part);
            if parts.peek().is_some() {
                count += u64::from(!blank);
                blank = true;
            }
        }
        reader.consume(n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Numbers and texts, read with a buffer of a few bytes.
    fn lines(input: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let all = Lines::new(BufReader::with_capacity(3, input));
        let all: Vec<_> = all.map(|line| line.map(|l| (l.number, l.text.unwrap())).unwrap()).collect();
        assert_eq!(count_lines(BufReader::with_capacity(4, input)).unwrap(), all.len() as u64, "{input:?}");
        all
    }

    #[test]
    fn lines_have_numbers_and_blank_ones_count() {
        let check = |input: &str, expected: &[(u64, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(n, text)| (*n, text.as_bytes().to_vec())).collect();
            assert_eq!(lines(input.as_bytes()), expected, "{input:?}");
        };
        check("", &[]);
        check("\n \n\t\r\n", &[]);
        check("a", &[(1, "a")]);
        check("a\n", &[(1, "a")]);
        check("a\r\n\n  b c \n\n", &[(1, "a"), (3, "  b c ")]);
        check("\u{feff}a\nb", &[(1, "a"), (2, "b")]);
        check("\u{feff}\nb\n", &[(2, "b")]);
        assert_eq!(lines(b"\xff\n"), [(1, vec![0xff])]);
    }

    #[test]
    fn ids_tell_texts_and_places_apart() {
        let ids = |input: &str| -> Vec<String> {
            Lines::new(input.as_bytes()).map(|line| line.unwrap().id).collect()
        };
        assert_eq!(ids("a\nb"), ids("a\nb\n"));
        assert_eq!(ids("a\n\nb"), [ids("a")[0].clone(), ids("x\n\nb")[1].clone()]);
        let all = ids("a\na\nb");
        assert!(all[0] != all[1] && all[1] != all[2] && all[0].len() == 2 * ID_BYTES);
    }

    #[test]
    fn a_long_line_is_counted_and_not_kept() {
        let mut input = vec![b'x'; LINE_BYTES_MAX];
        input.extend_from_slice(b"\n");
        let fits = Lines::new(&input[..]).next().unwrap().unwrap();
        assert_eq!(fits.text.unwrap().len(), LINE_BYTES_MAX);
        input.insert(0, b'x');
        input.extend_from_slice(b"next\n");
        let mut all = Lines::new(&input[..]);
        assert_eq!(all.next().unwrap().unwrap().text, Err(LINE_BYTES_MAX as u64 + 1));
        let next = all.next().unwrap().unwrap();
        assert_eq!((next.number, next.text.unwrap()), (2, b"next".to_vec()));
        assert!(all.next().is_none());
    }

    #[test]
    fn the_first_line_says_what_the_file_is() {
        let check = |text: &str, format: Option<&str>, expected: Shape| {
            let line = Lines::new(text.as_bytes()).next().unwrap().unwrap();
            assert_eq!(Shape::of(&line, format).unwrap(), expected, "{text}");
        };
        check("What is a PEP?", None, Shape::Text);
        check("[1]", None, Shape::Text);
        check(r#"  {"prompt": "x"}"#, None, Shape::Simple);
        check(r#"{"prompt": "\"custom_id\""}"#, None, Shape::Simple);
        check(r#"{"prompt": "x""#, None, Shape::Simple);
        check(r#"{"custom_id": "a", "body": {}}"#, None, Shape::OpenAi);
        check(r#"{"body": {}}"#, None, Shape::OpenAi);
        check(r#"{"custom_id": "a", "#, None, Shape::OpenAi);
        check(r#"{"custom_id": "a"}"#, Some("text"), Shape::Text);
        check(r#"{"prompt": "x"}"#, Some("jsonl"), Shape::Simple);
        check("nonsense", Some("jsonl"), Shape::Simple);
        let long = Line { number: 1, id: String::new(), text: Err(1 << 30) };
        assert!(Shape::of(&long, None).is_err() && Shape::of(&long, Some("text")).is_ok());
    }
}
