//! Characters to tokens. Blanks inside of actions are tokens: they separate arguments.

use crate::template::TemplateError;

/// A token and the line where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub line: u32,
    pub kind: Tok,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    Text(String),
    Left,
    Right,
    Space,
    Word(String),
    /// Without its point.
    Field(String),
    /// With its `$`.
    Variable(String),
    Dot,
    Number(String),
    Char(char),
    Str(String),
    Pipe,
    Open,
    Close,
    Assign,
    Declare,
    Comma,
    Other(char),
    End,
}

impl Tok {
    /// For messages.
    pub fn show(&self) -> String {
        match self {
            Self::Text(_) => "text".into(),
            Self::Left => "{{".into(),
            Self::Right => "}}".into(),
            Self::Space => "blank".into(),
            Self::Word(s) | Self::Variable(s) | Self::Number(s) => s.clone(),
            Self::Field(s) => format!(".{s}"),
            Self::Dot => ".".into(),
            Self::Char(c) => format!("{c:?}"),
            Self::Str(s) => format!("{s:?}"),
            Self::Pipe => "|".into(),
            Self::Open => "(".into(),
            Self::Close => ")".into(),
            Self::Assign => "=".into(),
            Self::Declare => ":=".into(),
            Self::Comma => ",".into(),
            Self::Other(c) => c.to_string(),
            Self::End => "the end of the template".into(),
        }
    }
}

/// The blanks of the language.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// All tokens of a template; the last is [`Tok::End`].
pub(super) fn lex(source: &str) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer { source, at: 0, line: 1, counted: 0, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.text()?;
    }
    lexer.push(Tok::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// The line of the byte `counted`.
    line: u32,
    counted: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn line(&mut self) -> u32 {
        let passed = &self.source[self.counted..self.at];
        self.line += passed.bytes().filter(|b| *b == b'\n').count() as u32;
        self.counted = self.at;
        self.line
    }

    fn push(&mut self, kind: Tok) {
        let line = self.line();
        self.tokens.push(Token { line, kind });
    }

    fn error<T>(&mut self, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::Syntax { line: self.line(), message: message.into() })
    }

    /// Text up to the next action, and the action.
    fn text(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(n) = rest.find("{{") else {
            self.push(Tok::Text(rest.to_owned()));
            self.at = self.source.len();
            return Ok(());
        };
        let after = &rest[n + 2..];
        let trims = after.starts_with('-') && after[1..].starts_with(BLANKS);
        let text = if trims { rest[..n].trim_end_matches(BLANKS) } else { &rest[..n] };
        if !text.is_empty() {
            self.push(Tok::Text(text.to_owned()));
        }
        self.at += n;
        self.line();
        self.at += if trims { 4 } else { 2 };
        if self.rest().starts_with("/*") {
            return self.comment();
        }
        self.push(Tok::Left);
        self.action()
    }

    /// The length of the closing mark here, if there is one, and whether it trims what follows.
    fn closing(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            Some((2, false))
        } else if rest.starts_with(BLANKS) && rest[1..].starts_with("-}}") {
            Some((4, true))
        } else {
            None
        }
    }

    fn close(&mut self, (n, trims): (usize, bool)) {
        self.at += n;
        if trims {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches(BLANKS).len();
        }
    }

    fn comment(&mut self) -> Result<(), TemplateError> {
        let Some(n) = self.rest().find("*/") else { return self.error("unclosed comment") };
        self.at += n + 2;
        match self.closing() {
            Some(closing) => {
                self.close(closing);
                Ok(())
            }
            None => self.error("a comment must fill its action: nothing may follow it before }}"),
        }
    }

    fn action(&mut self) -> Result<(), TemplateError> {
        let mut depth = 0_usize;
        loop {
            if let Some(closing) = self.closing() {
                if depth > 0 {
                    return self.error("unclosed left parenthesis");
                }
                self.push(Tok::Right);
                self.close(closing);
                return Ok(());
            }
            let rest = self.rest();
            let Some(c) = rest.chars().next() else { return self.error("unclosed action") };
            match c {
                c if BLANKS.contains(&c) => {
                    let mut n = rest.len() - rest.trim_start_matches(BLANKS).len();
                    if rest[n..].starts_with("-}}") {
                        // The last blank belongs to the closing mark.
                        n -= 1;
                    }
                    if n > 0 {
                        self.push(Tok::Space);
                        self.at += n;
                    }
                }
                '(' => {
                    depth += 1;
                    self.one(Tok::Open);
                }
                ')' => {
                    depth = match depth.checked_sub(1) {
                        Some(depth) => depth,
                        None => return self.error("unexpected right parenthesis"),
                    };
                    self.one(Tok::Close);
                }
                '|' => self.one(Tok::Pipe),
                '=' => self.one(Tok::Assign),
                ',' => self.one(Tok::Comma),
                ':' if rest[1..].starts_with('=') => {
                    self.push(Tok::Declare);
                    self.at += 2;
                }
                ':' => return self.error("expected :="),
                '"' => self.quoted()?,
                '`' => self.raw()?,
                '\'' => self.char()?,
                '$' => self.name(Tok::Variable)?,
                '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.name(Tok::Field)?,
                '.' | '+' | '-' | '0'..='9' => self.number()?,
                c if is_word(c) => self.word()?,
                '!'..='~' => self.one(Tok::Other(c)),
                c => return self.error(format!("unrecognized character {c:?} in an action")),
            }
        }
    }

    fn one(&mut self, kind: Tok) {
        self.push(kind);
        self.at += 1;
    }

    /// Whether a word may end here.
    fn is_terminated(&self) -> bool {
        let rest = self.rest();
        rest.is_empty()
            || rest.starts_with(BLANKS)
            || rest.starts_with(['.', ',', '|', ':', '(', ')'])
            || rest.starts_with("}}")
    }

    fn word_end(&mut self) -> Result<(), TemplateError> {
        if self.is_terminated() {
            return Ok(());
        }
        let c = self.rest().chars().next().unwrap_or_default();
        self.error(format!("bad character {c:?}"))
    }

    fn word(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let n = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        self.push(Tok::Word(rest[..n].to_owned()));
        self.at += n;
        self.word_end()
    }

    /// A field or a variable: a mark and a name; without a name, the dot or `$`.
    fn name(&mut self, kind: fn(String) -> Tok) -> Result<(), TemplateError> {
        let rest = self.rest();
        let n = 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1);
        let token = match kind(String::new()) {
            Tok::Variable(_) => Tok::Variable(rest[..n].to_owned()),
            _ if n == 1 => Tok::Dot,
            _ => kind(rest[1..n].to_owned()),
        };
        self.push(token);
        self.at += n;
        self.word_end()
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut n = usize::from(matches!(bytes[0], b'+' | b'-'));
        let accept = |n: usize, set: &[u8]| bytes.get(n).is_some_and(|b| set.contains(b));
        let mut digits: &[u8] = b"0123456789_";
        let mut exponent: &[u8] = b"eE";
        if accept(n, b"0") {
            n += 1;
            if accept(n, b"xX") {
                (digits, exponent) = (b"0123456789abcdefABCDEF_", b"pP");
                n += 1;
            } else if accept(n, b"oO") {
                (digits, exponent) = (b"01234567_", b"");
                n += 1;
            } else if accept(n, b"bB") {
                (digits, exponent) = (b"01_", b"");
                n += 1;
            }
        }
        let run = |mut n: usize, set: &[u8]| {
            while bytes.get(n).is_some_and(|b| set.contains(b)) {
                n += 1;
            }
            n
        };
        n = run(n, digits);
        if accept(n, b".") {
            n = run(n + 1, digits);
        }
        if accept(n, exponent) {
            n += 1;
            n += usize::from(accept(n, b"+-"));
            n = run(n, b"0123456789_");
        }
        if accept(n, b"i") || rest[n..].starts_with(['+', '-']) {
            return self.error("complex numbers are of no use in chat templates");
        }
        if rest[n..].starts_with(is_word) {
            return self
                .error(format!("bad number syntax: {:?}", rest.chars().take(n + 1).collect::<String>()));
        }
        self.push(Tok::Number(rest[..n].to_owned()));
        self.at += n;
        Ok(())
    }

    fn raw(&mut self) -> Result<(), TemplateError> {
        let rest = &self.rest()[1..];
        let Some(n) = rest.find('`') else { return self.error("unterminated raw quoted string") };
        self.push(Tok::Str(rest[..n].replace('\r', "")));
        self.at += n + 2;
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mut bytes = Vec::new();
        let mut n = 1;
        loop {
            match rest[n..].chars().next() {
                None | Some('\n') => return self.error("unterminated quoted string"),
                Some('"') => break,
                Some('\\') => match unescape(&rest[n..], '"') {
                    Some((len, unit)) => {
                        n += len;
                        unit.push_to(&mut bytes);
                    }
                    None => return self.error("invalid escape in a quoted string"),
                },
                Some(c) => {
                    n += c.len_utf8();
                    Unit::Char(c).push_to(&mut bytes);
                }
            }
        }
        let Ok(text) = String::from_utf8(bytes) else { return self.error("a quoted string is not UTF-8") };
        self.push(Tok::Str(text));
        self.at += n + 1;
        Ok(())
    }

    fn char(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let read = match rest[1..].chars().next() {
            Some('\\') => match unescape(&rest[1..], '\'') {
                Some((len, Unit::Char(c))) => Some((len, c)),
                Some((len, Unit::Byte(b))) => Some((len, char::from(b))),
                None => None,
            },
            Some('\'' | '\n') | None => None,
            Some(c) => Some((c.len_utf8(), c)),
        };
        match read {
            Some((n, c)) if rest[1 + n..].starts_with('\'') => {
                self.push(Tok::Char(c));
                self.at += n + 2;
                Ok(())
            }
            _ => self.error("malformed character constant"),
        }
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// What an escape stands for.
enum Unit {
    Char(char),
    Byte(u8),
}

impl Unit {
    fn push_to(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Self::Byte(b) => bytes.push(b),
        }
    }
}

/// The escape at the beginning of `text`: its length and what it stands for.
fn unescape(text: &str, quote: char) -> Option<(usize, Unit)> {
    let number = |from: usize, n: usize, radix: u32| -> Option<u32> {
        let digits = text.get(from..from + n)?;
        digits.bytes().all(|b| char::from(b).is_digit(radix)).then_some(())?;
        u32::from_str_radix(digits, radix).ok()
    };
    let c = text[1..].chars().next()?;
    let simple = |c| Some((2, Unit::Char(c)));
    match c {
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\x0b'),
        '\\' => simple('\\'),
        c if c == quote => simple(c),
        'x' => Some((4, Unit::Byte(number(2, 2, 16)? as u8))),
        'u' => Some((6, Unit::Char(char::from_u32(number(2, 4, 16)?)?))),
        'U' => Some((10, Unit::Char(char::from_u32(number(2, 8, 16)?)?))),
        '0'..='7' => Some((4, Unit::Byte(u8::try_from(number(1, 3, 8)?).ok()?))),
        _ => None,
    }
}
