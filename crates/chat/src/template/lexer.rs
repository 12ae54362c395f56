//! Source text to tokens, with Jinja's white-space control as chat templates are rendered: blocks trim the newline
//! after them and the indentation before them, and one newline at the end of the source is dropped.

use super::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// White space as Python's `\s` and `str.strip` see it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

fn syntax(line: u32, message: impl Into<String>) -> TemplateError {
    TemplateError::Syntax { line, message: message.into() }
}

/// Tokens with their lines, ending in [`Tok::End`].
pub(super) fn tokenize(source: &str) -> Result<Vec<(u32, Tok)>, TemplateError> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { rest: &source, line: 1, line_starting: true, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.next_chunk()?;
    }
    lexer.push(Tok::End);
    Ok(lexer.tokens)
}

/// Whether a byte is a digit of a radix.
type DigitTest = fn(&u8) -> bool;

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// Whether what was read last ended in a newline.
    line_starting: bool,
    tokens: Vec<(u32, Tok)>,
}

impl<'s> Lexer<'s> {
    fn push(&mut self, tok: Tok) {
        self.tokens.push((self.line, tok));
    }

    /// Takes `n` bytes and counts their lines.
    fn take(&mut self, n: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        self.line += taken.bytes().filter(|&b| b == b'\n').count() as u32;
        if let Some(last) = taken.bytes().last() {
            self.line_starting = last == b'\n';
        }
        taken
    }

    /// Text up to the next tag, and the tag.
    fn next_chunk(&mut self) -> Result<(), TemplateError> {
        let bytes = self.rest.as_bytes();
        let start = (0..bytes.len())
            .find(|&i| bytes[i] == b'{' && matches!(bytes.get(i + 1), Some(b'{' | b'%' | b'#')));
        let Some(start) = start else {
            let data = self.take(bytes.len()).to_owned();
            self.push(Tok::Data(data));
            return Ok(());
        };
        let kind = bytes[start + 1];
        let sign = bytes.get(start + 2).copied().filter(|b| matches!(b, b'-' | b'+'));
        self.data_before(start, kind, sign);
        let head = 2 + usize::from(sign.is_some());
        match kind {
            b'#' => {
                let body = self.rest[head..]
                    .find("#}")
                    .ok_or_else(|| syntax(self.line, "a comment is not closed with `#}`"))?;
                let end = head + body;
                let dash = end > head && self.rest.as_bytes()[end - 1] == b'-';
                let plus = end > head && self.rest.as_bytes()[end - 1] == b'+';
                self.take(end + 2);
                self.after_tag(dash, !plus);
            }
            b'%' => {
                let inner = self.rest[head..].trim_start_matches(is_space);
                if let Some(after) = inner.strip_prefix("raw") {
                    let after = after.trim_start_matches(is_space);
                    let dash = after.starts_with("-%}");
                    if dash || after.starts_with("%}") {
                        let n = self.rest.len() - after.len() + if dash { 3 } else { 2 };
                        self.take(n);
                        self.after_tag(dash, false);
                        return self.raw();
                    }
                }
                self.take(head);
                self.push(Tok::BlockBegin);
                self.expression(false)?;
            }
            _ => {
                self.take(head);
                self.push(Tok::PrintBegin);
                self.expression(true)?;
            }
        }
        Ok(())
    }

    /// Emits the text before a tag, stripped as the tag asks.
    fn data_before(&mut self, n: usize, kind: u8, sign: Option<u8>) {
        let line_starting = self.line_starting;
        let line = self.line;
        let data = self.take(n);
        let kept = match sign {
            Some(b'-') => data.trim_end_matches(is_space),
            Some(_) => data,
            None if kind != b'{' => {
                let line_at = data.rfind('\n').map_or(0, |i| i + 1);
                if (line_at > 0 || line_starting) && data[line_at..].chars().all(is_space) {
                    &data[..line_at]
                } else {
                    data
                }
            }
            None => data,
        };
        if !kept.is_empty() {
            self.tokens.push((line, Tok::Data(kept.to_owned())));
        }
    }

    /// White space after a tag: all of it after `-`, else one newline where blocks trim.
    fn after_tag(&mut self, dash: bool, trim_newline: bool) {
        self.line_starting = false;
        if dash {
            let n = self.rest.len() - self.rest.trim_start_matches(is_space).len();
            self.take(n);
        } else if trim_newline && self.rest.starts_with('\n') {
            self.take(1);
        }
    }

    /// The rest of a raw block.
    fn raw(&mut self) -> Result<(), TemplateError> {
        let mut from = 0;
        loop {
            let at = self.rest[from..]
                .find("{%")
                .map(|i| i + from)
                .ok_or_else(|| syntax(self.line, "`raw` is not closed with `endraw`"))?;
            let after = &self.rest[at + 2..];
            let sign = after.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
            let inner = after[usize::from(sign.is_some())..].trim_start_matches(is_space);
            let close = inner.strip_prefix("endraw").map(|s| s.trim_start_matches(is_space));
            let end = close.and_then(|s| {
                ["-%}", "+%}", "%}"]
                    .iter()
                    .find(|e| s.starts_with(**e))
                    .map(|e| (self.rest.len() - s.len() + e.len(), *e))
            });
            let Some((end, how)) = end else {
                from = at + 2;
                continue;
            };
            self.data_before(at, b'%', sign);
            self.take(end - at);
            self.after_tag(how == "-%}", how == "%}");
            return Ok(());
        }
    }

    /// Tokens of an expression or statement up to its end.
    fn expression(&mut self, print: bool) -> Result<(), TemplateError> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let n = self.rest.len() - self.rest.trim_start_matches(is_space).len();
            self.take(n);
            if self.rest.is_empty() {
                return Err(syntax(
                    self.line,
                    format!("a tag is not closed with `{}`", if print { "}}" } else { "%}" }),
                ));
            }
            if open.is_empty() {
                let (ends, tok): (&[&str], _) = if print {
                    (&["-}}", "}}"], Tok::PrintEnd)
                } else {
                    (&["-%}", "+%}", "%}"], Tok::BlockEnd)
                };
                if let Some(end) = ends.iter().find(|e| self.rest.starts_with(**e)) {
                    self.push(tok);
                    self.take(end.len());
                    self.after_tag(end.starts_with('-'), *end == "%}");
                    return Ok(());
                }
            }
            let c = self.rest.chars().next().expect("the rest is not empty");
            let previous_dot = matches!(self.tokens.last(), Some((_, Tok::Op("."))));
            if c.is_ascii_digit() {
                self.number(previous_dot)?;
            } else if c == '_' || c.is_alphabetic() {
                let n = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
                let name = self.rest[..n].to_owned();
                self.push(Tok::Name(name));
                self.take(n);
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else if let Some(op) = OPERATORS.iter().find(|op| self.rest.starts_with(**op)) {
                match *op {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(*op) => {
                        return Err(syntax(self.line, format!("unexpected `{op}`")));
                    }
                    _ => {}
                }
                self.push(Tok::Op(op));
                self.take(op.len());
            } else {
                return Err(syntax(self.line, format!("unexpected character {c:?}")));
            }
        }
    }

    fn number(&mut self, previous_dot: bool) -> Result<(), TemplateError> {
        let s = self.rest;
        let digits = |from: usize, ok: fn(&u8) -> bool| {
            let bytes = s.as_bytes();
            let mut i = from;
            while i < bytes.len()
                && (ok(&bytes[i]) || (bytes[i] == b'_' && i > from && bytes.get(i + 1).is_some_and(ok)))
            {
                i += 1;
            }
            i
        };
        let bytes = s.as_bytes();
        let radix: Option<(u32, DigitTest)> = match (bytes[0], bytes.get(1).map(u8::to_ascii_lowercase)) {
            (b'0', Some(b'x')) => Some((16, u8::is_ascii_hexdigit)),
            (b'0', Some(b'o')) => Some((8, |b| (b'0'..=b'7').contains(b))),
            (b'0', Some(b'b')) => Some((2, |b| matches!(b, b'0' | b'1'))),
            _ => None,
        };
        let too_big = |line| syntax(line, "a number is too large");
        if let Some((radix, ok)) = radix {
            let end = digits(2, ok);
            if end > 2 {
                let value = i128::from_str_radix(&s[2..end].replace('_', ""), radix)
                    .map_err(|_| too_big(self.line))?;
                self.push(Tok::Int(value));
                self.take(end);
                return Ok(());
            }
        }
        let whole = digits(0, u8::is_ascii_digit);
        let mut end = whole;
        if !previous_dot {
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1, u8::is_ascii_digit);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                    end = digits(end + 1 + sign, u8::is_ascii_digit);
                }
            }
        }
        let text = s[..end].replace('_', "");
        let tok = if end > whole {
            Tok::Float(text.parse().map_err(|_| syntax(self.line, "a number cannot be read"))?)
        } else {
            Tok::Int(text.parse().map_err(|_| too_big(self.line))?)
        };
        self.push(tok);
        self.take(end);
        Ok(())
    }

    /// A string literal with Python's escapes.
    fn string(&mut self, quote: char) -> Result<(), TemplateError> {
        let line = self.line;
        let body = &self.rest[1..];
        let mut out = String::new();
        let mut chars = body.char_indices();
        let end = loop {
            let (at, c) = chars.next().ok_or_else(|| syntax(line, "a string is not closed"))?;
            if c == quote {
                break at;
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (_, e) = chars.next().ok_or_else(|| syntax(line, "a string is not closed"))?;
            let mut hex = |n: usize| {
                let code = chars.as_str().get(..n).filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
                let c = code.and_then(|s| u32::from_str_radix(s, 16).ok()).and_then(char::from_u32);
                if c.is_some() {
                    chars.nth(n - 1);
                }
                c.ok_or_else(|| syntax(line, format!("a string has a bad `\\{e}` escape")))
            };
            match e {
                '\n' => {}
                '\\' | '\'' | '"' => out.push(e),
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                'x' => out.push(hex(2)?),
                'u' => out.push(hex(4)?),
                'U' => out.push(hex(8)?),
                '0'..='7' => {
                    let mut code = e.to_digit(8).expect("an octal digit");
                    for _ in 0..2 {
                        match chars.as_str().chars().next().and_then(|c| c.to_digit(8)) {
                            Some(d) => {
                                code = code * 8 + d;
                                chars.next();
                            }
                            None => break,
                        }
                    }
                    out.push(char::from_u32(code).expect("at most 0o777"));
                }
                'N' => return Err(syntax(line, "`\\N{...}` escapes are not supported")),
                other => {
                    out.push('\\');
                    out.push(other);
                }
            }
        };
        self.push(Tok::Str(out));
        self.take(end + 2);
        Ok(())
    }
}
