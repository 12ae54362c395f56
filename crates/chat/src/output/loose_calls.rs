//! Calls in the syntax of a programming language, turned into JSON as they come: Python's, and Gemma's.
//!
//! What is no number and no word that JSON knows becomes a string. Where the syntax ends to make sense, what is open
//! is closed, so that a call that was reported has arguments that are JSON, and the rest is said.

use super::family::{Dialect, LooseShape};
use super::input::{At, Find, Marks};
use super::io::{Io, Step};
use super::tools::{escape, is_name};

/// The longest name, the most space inside of a call's head, and the deepest nesting.
const NAME_BYTES_MAX: usize = 256;
const HEAD_BYTES_MAX: usize = 1024;
const DEPTH_MAX: usize = 128;
/// What Llama writes behind the names of built-in tools.
pub(super) const BUILTIN_SUFFIX: &str = ".call";

/// What is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Call,
    /// Until this byte.
    List(u8),
    Dict,
}

#[derive(Clone, Debug)]
enum State {
    /// Before a call, or behind one.
    Between,
    /// Inside of what is open: an item follows, or the end.
    Inside,
    /// A value follows.
    Value,
    /// A key is complete, and this follows.
    Colon,
    /// A string, which ends with this. `true`: it is a key.
    Text(Quote, bool),
    /// A number or a word, as far as it came. `true`: it is a key.
    Word(String, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    /// Once or three times this byte; with escapes.
    Byte(u8, bool),
    /// The dialect's mark.
    Mark,
}

/// Reads calls in the syntax of a language.
#[derive(Clone, Debug)]
pub(super) struct LooseCalls {
    dialect: Dialect,
    ends: Marks,
    quote: Option<Marks>,
    state: State,
    open: Vec<(Open, bool)>,
    list: bool,
    list_closed: bool,
    n_calls: u32,
    back: usize,
    /// After a call's name, in front of its arguments; `.call` for built-in tools.
    suffix: &'static str,
}

/// A call's head, as far as it can be seen.
enum Seen {
    /// The length of the name, and of all up to the first argument.
    Head(usize, usize),
    Perhaps,
    No,
}

impl LooseCalls {
    pub fn new(shape: &'static LooseShape, suffix: &'static str) -> Self {
        let quote = match shape.dialect {
            Dialect::Gemma(quote) => Some(Marks::new([quote])),
            Dialect::Python | Dialect::BarePython => None,
        };
        Self {
            dialect: shape.dialect,
            ends: Marks::new(shape.ends.iter().copied()),
            quote,
            state: State::Between,
            open: Vec::new(),
            list: false,
            list_closed: false,
            n_calls: 0,
            back: 0,
            suffix,
        }
    }

    pub fn step(&mut self, io: &mut Io) -> Step {
        loop {
            let step = match &mut self.state {
                State::Between => self.between(io),
                State::Inside => self.inside(io),
                State::Value => self.value(io),
                State::Colon => self.colon(io),
                State::Text(quote, key) => {
                    let (quote, key) = (*quote, *key);
                    self.text(io, quote, key)
                }
                State::Word(..) => self.word(io),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn gemma(&self) -> bool {
        self.quote.is_some()
    }

    fn between(&mut self, io: &mut Io) -> Option<Step> {
        let over = |this: &Self, io: &mut Io| {
            if this.n_calls == 0 {
                return Some(Step::NotACall);
            }
            io.input.back_to(this.back);
            io.input.release();
            Some(Step::Done)
        };
        if !io.input.skip_space() {
            return if io.input.eof { over(self, io) } else { Some(Step::More) };
        }
        match io.input.first() {
            Some(b'[') if !self.gemma() && !self.list && self.n_calls == 0 => {
                self.list = true;
                io.input.advance(1);
                return None;
            }
            Some(b']') if self.list && !self.list_closed => {
                self.list_closed = true;
                io.input.advance(1);
                self.back = io.input.pos();
                return None;
            }
            Some(b',') if self.list && !self.list_closed && self.n_calls > 0 => {
                io.input.advance(1);
                return None;
            }
            _ => {}
        }
        match self.ends.at(io.input.rest(), io.input.eof) {
            At::Perhaps => return Some(Step::More),
            At::Mark(mark) if self.n_calls > 0 => {
                io.input.advance(self.ends.len_of(mark));
                io.input.release();
                return Some(Step::Done);
            }
            At::Mark(_) => return Some(Step::NotACall),
            At::No => {}
        }
        if self.list_closed || (self.dialect == Dialect::BarePython && !self.list) {
            return over(self, io);
        }
        let rest = io.input.rest();
        match head(rest, self.gemma(), self.suffix, io.input.eof) {
            Seen::Perhaps => Some(Step::More),
            Seen::Head(name, n) => {
                let name =
                    rest[..name].strip_prefix("call:").filter(|_| self.gemma()).unwrap_or(&rest[..name]);
                let name = name.trim_ascii().to_owned();
                if !is_name(&name) || !io.may_call(&name) {
                    return over(self, io);
                }
                io.input.advance(n);
                io.call(None, &name);
                io.emit.arguments("{".into());
                self.open.push((Open::Call, false));
                self.state = State::Inside;
                None
            }
            Seen::No => over(self, io),
        }
    }

    /// The syntax makes no sense any more: closes what is open.
    fn broken(&mut self, io: &mut Io) -> Option<Step> {
        let closing = |(open, _): &(Open, bool)| if matches!(open, Open::List(_)) { ']' } else { '}' };
        io.emit.arguments(self.open.iter().rev().map(closing).collect());
        self.open.clear();
        Some(Step::Done)
    }

    fn inside(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        let Some((open, filled)) = self.open.last_mut() else { return self.broken(io) };
        let close = match open {
            Open::Call if self.quote.is_none() => b')',
            Open::List(close) => *close,
            Open::Call | Open::Dict => b'}',
        };
        let list = matches!(open, Open::List(_));
        match io.input.first() {
            Some(b) if b == close => {
                io.input.advance(1);
                io.emit.arguments(if list { "]".into() } else { "}".into() });
                self.open.pop();
                if self.open.is_empty() {
                    self.n_calls += 1;
                    self.back = io.input.pos();
                    io.input.hold_from(self.back);
                    self.state = State::Between;
                }
                None
            }
            Some(b',') if *filled => {
                io.input.advance(1);
                None
            }
            _ => {
                if std::mem::replace(filled, true) {
                    io.emit.arguments(", ".into());
                }
                if list {
                    self.state = State::Value;
                    return None;
                }
                self.key(io)
            }
        }
    }

    /// A key begins.
    fn key(&mut self, io: &mut Io) -> Option<Step> {
        let dict = self.open.last().is_some_and(|(open, _)| *open == Open::Dict);
        if let Some(quote) = &self.quote {
            match quote.at(io.input.rest(), io.input.eof) {
                At::Perhaps => {
                    // Nothing was used: this comes back here, where the comma is out already.
                    self.state = State::Word(String::new(), true);
                    return None;
                }
                At::Mark(mark) => {
                    io.input.advance(quote.len_of(mark));
                    io.emit.arguments("\"".into());
                    self.state = State::Text(Quote::Mark, true);
                    return None;
                }
                At::No => {}
            }
        }
        if let Some(byte @ (b'"' | b'\'')) = io.input.first().filter(|_| dict || self.gemma()) {
            io.input.advance(1);
            io.emit.arguments("\"".into());
            self.state = State::Text(Quote::Byte(byte, false), true);
            return None;
        }
        self.state = State::Word(String::new(), true);
        None
    }

    fn colon(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        io.emit.arguments(": ".into());
        if !matches!(io.input.first(), Some(b':' | b'=')) {
            io.emit.arguments("null".into());
            return self.broken(io);
        }
        io.input.advance(1);
        self.state = State::Value;
        None
    }

    fn value(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        if let Some(quote) = &self.quote {
            match quote.at(io.input.rest(), io.input.eof) {
                At::Perhaps => return Some(Step::More),
                At::Mark(mark) => {
                    io.input.advance(quote.len_of(mark));
                    io.emit.arguments("\"".into());
                    self.state = State::Text(Quote::Mark, false);
                    return None;
                }
                At::No => {}
            }
        }
        let open = match io.input.first() {
            Some(byte @ (b'"' | b'\'')) => {
                let rest = io.input.rest().as_bytes();
                let run = rest.iter().take(3).take_while(|&&b| b == byte).count();
                if run == rest.len() && !io.input.eof {
                    return Some(Step::More);
                }
                let triple = run == 3;
                io.input.advance(if triple { 3 } else { 1 });
                io.emit.arguments("\"".into());
                self.state = State::Text(Quote::Byte(byte, triple), false);
                return None;
            }
            Some(b'[') => (Open::List(b']'), "["),
            Some(b'(') if !self.gemma() => (Open::List(b')'), "["),
            Some(b'{') => (Open::Dict, "{"),
            Some(b',' | b')' | b']' | b'}' | b':' | b'=') => {
                io.emit.arguments("null".into());
                return self.broken(io);
            }
            _ => {
                self.state = State::Word(String::new(), false);
                return None;
            }
        };
        if self.open.len() >= DEPTH_MAX {
            io.emit.arguments("null".into());
            return self.broken(io);
        }
        io.input.advance(1);
        io.emit.arguments(open.1.into());
        self.open.push((open.0, false));
        self.state = State::Inside;
        None
    }

    /// A number or a word, to where it ends.
    fn word(&mut self, io: &mut Io) -> Option<Step> {
        let State::Word(word, key) = &mut self.state else { return None };
        let key = *key;
        if key
            && word.is_empty()
            && let Some(quote) = &self.quote
        {
            match quote.at(io.input.rest(), io.input.eof) {
                At::Perhaps => return Some(Step::More),
                At::Mark(mark) => {
                    io.input.advance(quote.len_of(mark));
                    io.emit.arguments("\"".into());
                    self.state = State::Text(Quote::Mark, true);
                    return None;
                }
                At::No => {}
            }
        }
        // Gemma writes no space around words, so a space is part of one.
        let space = self.quote.is_none();
        let ends = |b: u8| b",)]}:=[({".contains(&b) || (space && b.is_ascii_whitespace());
        let rest = io.input.rest();
        let end = rest.bytes().position(ends);
        let (limit, control) = io.input.until_control();
        let control = control && end.is_none_or(|end| limit <= end);
        let n = if control { limit } else { end.unwrap_or(rest.len()) };
        word.push_str(&rest[..n]);
        io.input.advance(n);
        if end.is_none() && !control && !io.input.eof {
            return Some(Step::More);
        }
        let word = std::mem::take(word);
        let word = word.trim_ascii();
        if key {
            let next =
                matches!(io.input.first(), Some(b'=' | b':')) || io.input.first().is_some_and(|b| b == b' ');
            if io.input.is_empty() {
                return Some(Step::More);
            }
            let fits = !word.is_empty() && word.len() <= NAME_BYTES_MAX && next;
            io.emit.arguments(super::tools::quoted(word));
            if !fits {
                io.emit.arguments(": null".into());
                return self.broken(io);
            }
            self.state = State::Colon;
            return None;
        }
        io.emit.arguments(literal(word));
        self.state = State::Inside;
        None
    }

    fn text(&mut self, io: &mut Io, quote: Quote, key: bool) -> Option<Step> {
        let mut json = String::new();
        let ended = match quote {
            Quote::Mark => {
                let marks = self.quote.as_ref()?;
                let (n, mark) = match marks.find(io.input.rest(), io.input.eof) {
                    Find::Mark(n, mark) => (n, Some(mark)),
                    Find::None(n) => (n, None),
                };
                escape(&io.input.take(n), &mut json);
                if let Some(mark) = mark {
                    io.input.advance(marks.len_of(mark));
                }
                mark.is_some()
            }
            Quote::Byte(byte, triple) => python_text(io, byte, triple, &mut json),
        };
        if ended {
            json.push('"');
            self.state = if key { State::Colon } else { State::Inside };
        }
        io.emit.arguments(json);
        (!ended).then_some(Step::More)
    }
}

/// What the beginning of `rest` is: its first bytes decide, however many there are.
fn head(rest: &str, gemma: bool, suffix: &str, eof: bool) -> Seen {
    let window = &rest[..rest.floor_char_boundary(HEAD_BYTES_MAX)];
    match if gemma { gemma_head(window) } else { python_head(window, suffix) } {
        Seen::Perhaps if rest.len() > HEAD_BYTES_MAX || eof => Seen::No,
        seen => seen,
    }
}

/// Whether a call of a built-in tool begins here; `None` if that is not certain yet.
pub(super) fn is_builtin_call(rest: &str, eof: bool) -> Option<bool> {
    match head(rest, false, BUILTIN_SUFFIX, eof) {
        Seen::Head(..) => Some(true),
        Seen::Perhaps => None,
        Seen::No => Some(false),
    }
}

/// `name(`, and behind it a parameter's name with `=`, or the end.
fn python_head(rest: &str, suffix: &str) -> Seen {
    let n = rest.bytes().position(|b| b == b'(');
    let name = &rest[..n.unwrap_or(rest.len())];
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || b >= 0x80;
    if !name.bytes().all(plain) {
        return Seen::No;
    }
    let Some(n) = n else { return Seen::Perhaps };
    let Some(name) = name.strip_suffix(suffix) else { return Seen::No };
    let behind = rest[n + 1..].trim_ascii_start();
    let head = Seen::Head(name.len(), n + 1);
    if behind.starts_with(')') {
        return head;
    }
    let word = behind.bytes().take_while(|&b| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80).count();
    let after = behind[word..].trim_ascii_start();
    match after.as_bytes().first() {
        None => Seen::Perhaps,
        Some(b'=') if word > 0 => head,
        Some(_) => Seen::No,
    }
}

/// `call:name{`.
fn gemma_head(rest: &str) -> Seen {
    const CALL: &str = "call:";
    if rest.len() < CALL.len() {
        return if CALL.starts_with(rest) { Seen::Perhaps } else { Seen::No };
    }
    if !rest.starts_with(CALL) {
        return Seen::No;
    }
    match rest.find('{') {
        Some(n) => Seen::Head(n, n + 1),
        None if rest.contains('\n') => Seen::No,
        None => Seen::Perhaps,
    }
}

/// A number or a word as JSON.
fn literal(word: &str) -> String {
    let known = match word {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    if serde_json::from_str::<serde_json::Value>(known).is_ok() {
        return known.to_owned();
    }
    super::tools::quoted(word)
}

/// A string of Python's, up to its end or to what is not certain yet. Says whether it ended.
fn python_text(io: &mut Io, quote: u8, triple: bool, json: &mut String) -> bool {
    loop {
        let eof = io.input.eof;
        let rest = io.input.rest();
        let n = rest.bytes().position(|b| b == quote || b == b'\\').unwrap_or(rest.len());
        if n > 0 {
            let text = io.input.take(n);
            escape(&text, json);
            continue;
        }
        let bytes = rest.as_bytes();
        match bytes.first() {
            None => return false,
            Some(&b) if b == quote => {
                if !triple {
                    io.input.advance(1);
                    return true;
                }
                let run = bytes.iter().take(3).take_while(|&&b| b == quote).count();
                if run == bytes.len() && run < 3 && !eof {
                    return false;
                }
                io.input.advance(if run == 3 { 3 } else { 1 });
                if run == 3 {
                    return true;
                }
                escape(if quote == b'"' { "\"" } else { "'" }, json);
            }
            Some(_) => match escaped(rest) {
                Some((n, text)) => {
                    io.input.advance(n);
                    escape(&text, json);
                }
                None if eof => {
                    let n = rest.len();
                    let text = io.input.take(n);
                    escape(&text, json);
                    return false;
                }
                None => return false,
            },
        }
    }
}

/// What an escape at the beginning of `rest` stands for, and how long it is; `None` if it is not complete.
fn escaped(rest: &str) -> Option<(usize, String)> {
    let hex = |from: usize, n: usize| -> Option<Option<u32>> {
        let digits = rest.as_bytes().get(from..from + n)?;
        let text = std::str::from_utf8(digits).unwrap_or("");
        let valid = text.bytes().all(|b| b.is_ascii_hexdigit());
        Some(if valid { u32::from_str_radix(text, 16).ok() } else { None })
    };
    let letter = rest[1..].chars().next()?;
    let plain = |c: char| Some((2, c.to_string()));
    let digits = match letter {
        'n' => return plain('\n'),
        't' => return plain('\t'),
        'r' => return plain('\r'),
        'b' => return plain('\u{8}'),
        'f' => return plain('\u{c}'),
        'v' => return plain('\u{b}'),
        'a' => return plain('\u{7}'),
        '\\' | '\'' | '"' | '/' => return plain(letter),
        '\n' => return Some((2, String::new())),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Some((1 + other.len_utf8(), format!("\\{other}"))),
    };
    let n = 2 + digits;
    let code = hex(2, digits)?;
    // Half a character: the other half follows, or it is none.
    if let Some(high @ 0xD800..0xDC00) = code {
        let behind = rest.as_bytes().get(n..).unwrap_or_default();
        if behind.len() < 2 && b"\\u".starts_with(behind) {
            return None;
        }
        if behind.starts_with(b"\\u")
            && let Some(low @ 0xDC00..0xE000) = hex(n + 2, 4)?
        {
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return Some((n + 6, char::from_u32(code).unwrap_or('\u{FFFD}').to_string()));
        }
    }
    match code {
        Some(code) => Some((n, char::from_u32(code).unwrap_or('\u{FFFD}').to_string())),
        None => Some((2, format!("\\{letter}"))),
    }
}
