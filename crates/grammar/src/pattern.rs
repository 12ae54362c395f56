//! Regular expressions as JSON Schema and most clients write them (ECMAScript's, without what is not regular), in the
//! syntax of the `regex` crate.
//!
//! The two look alike and differ in what they match: classes within classes, `\s`, `.`, `{,n}`. So an expression is
//! read here, and written anew in what means the same. A named group goes, too: a certain name has a meaning of its
//! own in the recognizer.

use std::iter::Peekable;
use std::str::Chars;

use crate::GrammarError;

/// White space as ECMAScript has it, for use in a class.
const SPACE: &str = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";
/// What `.` does not match.
const LINE_ENDS: &str = r"\n\r\x{2028}\x{2029}";
const GROUP_DEPTH_MAX: usize = 64;
const REPETITIONS_MAX: u32 = 1 << 16;

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Invalid(String),
    Unsupported(String),
    TooLarge(String),
}

impl Fault {
    /// As an error, at a place of a schema if there is one.
    pub fn into_error(self, place: Option<(&str, &str)>) -> GrammarError {
        let error = match self {
            Self::Invalid(reason) => GrammarError::invalid(format!("regular expression: {reason}")),
            Self::Unsupported(reason) => GrammarError::unsupported(format!("regular expression: {reason}")),
            Self::TooLarge(reason) => GrammarError::too_large(format!("regular expression: {reason}")),
        };
        match place {
            Some((pointer, keyword)) => error.at(pointer, keyword),
            None => error,
        }
    }
}

/// The expression in the syntax of the `regex` crate. What matches as a whole, and what matches somewhere, is the
/// same expression: who uses it knows.
pub(crate) fn whole(pattern: &str) -> Result<String, Fault> {
    let mut reader =
        Reader { rest: pattern.chars().peekable(), out: String::new(), groups: Vec::new(), dot_all: false };
    reader.read()?;
    Ok(reader.out)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    /// Whether `.` matched line ends outside of each open group.
    groups: Vec<bool>,
    dot_all: bool,
}

/// What an escape stands for.
enum Escape {
    Char(char),
    /// Inside of a class: its content. Outside: in brackets.
    Class {
        negated: bool,
        content: &'static str,
    },
    /// As it is.
    Property(String),
    Anchor(&'static str),
    Boundary,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), Fault> {
        // Whether there is something that a quantifier could repeat.
        let mut repeatable = false;
        while let Some(c) = self.rest.next() {
            repeatable = match c {
                '\\' => self.escape_outside()?,
                '[' => {
                    self.class()?;
                    true
                }
                '(' => {
                    self.open()?;
                    false
                }
                ')' => {
                    self.dot_all =
                        self.groups.pop().ok_or_else(|| Fault::Invalid("`)` without `(`".to_owned()))?;
                    self.out.push(')');
                    true
                }
                '.' if self.dot_all => {
                    self.out.push_str("(?s:.)");
                    true
                }
                '.' => {
                    self.out.push_str(&format!("[^{LINE_ENDS}]"));
                    true
                }
                '*' | '+' | '?' => {
                    self.quantifier(repeatable, &c.to_string())?;
                    false
                }
                '{' => match self.bounds()? {
                    Some(bounds) => {
                        self.quantifier(repeatable, &bounds)?;
                        false
                    }
                    None => {
                        self.out.push_str("\\{");
                        true
                    }
                },
                '^' | '$' | '|' => {
                    self.out.push(c);
                    false
                }
                c => {
                    self.literal(c);
                    true
                }
            };
        }
        if self.groups.is_empty() { Ok(()) } else { Err(Fault::Invalid("`(` without `)`".to_owned())) }
    }

    fn quantifier(&mut self, repeatable: bool, text: &str) -> Result<(), Fault> {
        if !repeatable {
            return Err(Fault::Invalid(format!("`{text}` has nothing to repeat")));
        }
        self.out.push_str(text);
        // Lazy or not: the same texts match.
        if self.rest.peek() == Some(&'?') {
            self.rest.next();
        }
        Ok(())
    }

    /// What stands behind `{`, if it is a number of repetitions.
    fn bounds(&mut self) -> Result<Option<String>, Fault> {
        let mut ahead = self.rest.clone();
        let inner: String = ahead.by_ref().take_while(|&c| c != '}').take(32).collect();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (min, max) = match inner.split_once(',') {
            Some((min, max)) => (min, Some(max)),
            None => (inner.as_str(), None),
        };
        if min.is_empty() && max.is_some_and(is_number) {
            let reason =
                format!("`{{{inner}}}` means different things to different engines: write `{{0{inner}}}`");
            return Err(Fault::Unsupported(reason));
        }
        if !is_number(min) || max.is_some_and(|max| !max.is_empty() && !is_number(max)) {
            return Ok(None);
        }
        for number in [Some(min), max].into_iter().flatten().filter(|number| !number.is_empty()) {
            if number.parse::<u32>().ok().is_none_or(|n| n > REPETITIONS_MAX) {
                return Err(Fault::TooLarge(format!(
                    "{number} repetitions: at most {REPETITIONS_MAX} are allowed"
                )));
            }
        }
        self.rest = ahead;
        Ok(Some(format!("{{{inner}}}")))
    }

    fn open(&mut self) -> Result<(), Fault> {
        if self.groups.len() >= GROUP_DEPTH_MAX {
            return Err(Fault::TooLarge(format!("groups are nested deeper than {GROUP_DEPTH_MAX}")));
        }
        let outside = self.dot_all;
        if self.rest.peek() != Some(&'?') {
            self.groups.push(outside);
            self.out.push_str("(?:");
            return Ok(());
        }
        self.rest.next();
        let look = |what: &str| Err(Fault::Unsupported(format!("{what} are not supported")));
        match self.rest.next() {
            Some(':') => self.out.push_str("(?:"),
            Some('=' | '!') => return look("lookaheads"),
            Some('>') => return look("atomic groups"),
            Some('#') => return look("comments"),
            Some('<') if matches!(self.rest.peek(), Some('=' | '!')) => return look("lookbehinds"),
            Some('<') => self.group_name()?,
            Some('P') => match self.rest.next() {
                Some('<') => self.group_name()?,
                Some('=') => return look("backreferences"),
                _ => return Err(Fault::Invalid("`(?P` wants a name behind it".to_owned())),
            },
            Some(flag) => return self.flags(flag),
            None => return Err(Fault::Invalid("`(?` has no end".to_owned())),
        }
        self.groups.push(outside);
        Ok(())
    }

    fn group_name(&mut self) -> Result<(), Fault> {
        let name: String = self.rest.by_ref().take_while(|&c| c != '>').collect();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(Fault::Invalid("a group has no proper name".to_owned()));
        }
        self.out.push_str("(?:");
        Ok(())
    }

    fn flags(&mut self, first: char) -> Result<(), Fault> {
        let outside = self.dot_all;
        let (mut on, mut ignore_case) = (true, None);
        let mut flag = Some(first);
        loop {
            match flag {
                Some('i') => ignore_case = Some(on),
                Some('s') => self.dot_all = on,
                Some('u') if on => {}
                Some('-') if on => on = false,
                Some(':') => {
                    self.groups.push(outside);
                    self.out.push_str(match ignore_case {
                        Some(true) => "(?i:",
                        Some(false) => "(?-i:",
                        None => "(?:",
                    });
                    return Ok(());
                }
                Some(')') => {
                    self.out.push_str(match ignore_case {
                        Some(true) => "(?i)",
                        Some(false) => "(?-i)",
                        None => "",
                    });
                    return Ok(());
                }
                Some(other) => {
                    return Err(Fault::Unsupported(format!(
                        "the flag `{other}` is not supported; `i` and `s` are"
                    )));
                }
                None => return Err(Fault::Invalid("`(?` has no end".to_owned())),
            }
            flag = self.rest.next();
        }
    }

    fn escape_outside(&mut self) -> Result<bool, Fault> {
        match self.escape()? {
            Escape::Char(c) => self.literal(c),
            Escape::Class { negated, content } => {
                self.out.push_str(&format!("[{}{content}]", if negated { "^" } else { "" }));
            }
            Escape::Property(text) => self.out.push_str(&text),
            Escape::Anchor(text) => {
                self.out.push_str(text);
                return Ok(false);
            }
            Escape::Boundary => {
                return Err(Fault::Unsupported("word boundaries are not supported".to_owned()));
            }
        }
        Ok(true)
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<Escape, Fault> {
        let class = |negated, content| Ok(Escape::Class { negated, content });
        let c = self.rest.next().ok_or_else(|| Fault::Invalid("it ends with a backslash".to_owned()))?;
        match c {
            'd' | 'D' => class(c == 'D', "0-9"),
            'w' | 'W' => class(c == 'W', "0-9A-Za-z_"),
            's' | 'S' => class(c == 'S', SPACE),
            'n' => Ok(Escape::Char('\n')),
            'r' => Ok(Escape::Char('\r')),
            't' => Ok(Escape::Char('\t')),
            'f' => Ok(Escape::Char('\x0c')),
            'v' => Ok(Escape::Char('\x0b')),
            'b' | 'B' => Ok(Escape::Boundary),
            'A' => Ok(Escape::Anchor("^")),
            'z' | 'Z' => Ok(Escape::Anchor("$")),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => Ok(Escape::Char('\0')),
            '0'..='9' | 'k' => Err(Fault::Unsupported("backreferences are not supported".to_owned())),
            'x' => self.hex(2).map(Escape::Char),
            'u' => self.hex(4).map(Escape::Char),
            'c' => match self.rest.next() {
                Some(letter) if letter.is_ascii_alphabetic() => {
                    Ok(Escape::Char(char::from(u8::try_from(u32::from(letter) % 32).unwrap_or_default())))
                }
                _ => Err(Fault::Invalid("`\\c` wants a letter behind it".to_owned())),
            },
            'p' | 'P' => {
                let mut text = format!("\\{c}");
                match self.rest.next() {
                    Some('{') => {
                        let name: String = self.rest.by_ref().take_while(|&c| c != '}').collect();
                        text.push_str(&format!("{{{name}}}"));
                    }
                    Some(letter) if letter.is_ascii_alphabetic() => text.push(letter),
                    _ => return Err(Fault::Invalid(format!("`\\{c}` wants a property behind it"))),
                }
                Ok(Escape::Property(text))
            }
            c if c.is_ascii_alphanumeric() => Err(Fault::Invalid(format!("`\\{c}` is not known"))),
            c => Ok(Escape::Char(c)),
        }
    }

    fn digits(&mut self, n: usize) -> Option<u32> {
        (0..n).try_fold(0, |value, _| Some(value * 16 + self.rest.next()?.to_digit(16)?))
    }

    /// A character by its number: so many digits, or any number of them in braces.
    fn hex(&mut self, n_digits: usize) -> Result<char, Fault> {
        let code = if self.rest.next_if_eq(&'{').is_some() {
            let digits: String = self.rest.by_ref().take_while(|&c| c != '}').take(9).collect();
            u32::from_str_radix(&digits, 16).ok()
        } else {
            match self.digits(n_digits) {
                // Two halves of one character.
                Some(high @ 0xD800..=0xDBFF)
                    if self.rest.next() == Some('\\') && self.rest.next() == Some('u') =>
                {
                    self.digits(4)
                        .filter(|low| (0xDC00..=0xDFFF).contains(low))
                        .map(|low| 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
                }
                code => code,
            }
        };
        code.and_then(char::from_u32).ok_or_else(|| {
            Fault::Invalid("an escape by number has too few digits, or names no character".to_owned())
        })
    }

    fn class(&mut self) -> Result<(), Fault> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        if self.rest.next_if_eq(&']').is_some() {
            if negated {
                self.out.push_str("(?s:.)");
                return Ok(());
            }
            return Err(Fault::Invalid("`[]` matches nothing".to_owned()));
        }
        self.out.push_str(if negated { "[^" } else { "[" });
        // The character that a `-` would begin a range with.
        let mut first: Option<char> = None;
        loop {
            let c = self.rest.next().ok_or_else(|| Fault::Invalid("`[` without `]`".to_owned()))?;
            match c {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '-' if first.is_some() && self.rest.peek() != Some(&']') => {
                    let c = self.rest.next().ok_or_else(|| Fault::Invalid("`[` without `]`".to_owned()))?;
                    let last = if c == '\\' { self.escape()? } else { Escape::Char(c) };
                    let last = match last {
                        Escape::Char(last) => last,
                        Escape::Boundary => '\x08',
                        _ => return Err(Fault::Invalid("a range in `[...]` ends with a class".to_owned())),
                    };
                    if first > Some(last) {
                        return Err(Fault::Invalid("a range in `[...]` ends before it begins".to_owned()));
                    }
                    self.out.push('-');
                    self.literal(last);
                    first = None;
                }
                '\\' => match self.escape()? {
                    Escape::Char(c) => {
                        self.literal(c);
                        first = Some(c);
                    }
                    Escape::Boundary => {
                        self.literal('\x08');
                        first = Some('\x08');
                    }
                    Escape::Class { negated, content } => {
                        self.out.push_str(&format!("[{}{content}]", if negated { "^" } else { "" }));
                        first = None;
                    }
                    Escape::Property(text) => {
                        self.out.push_str(&text);
                        first = None;
                    }
                    Escape::Anchor(_) => return Err(Fault::Invalid("an anchor in `[...]`".to_owned())),
                },
                c => {
                    self.literal(c);
                    first = Some(c);
                }
            }
        }
    }

    /// A character as itself, whatever it may mean.
    fn literal(&mut self, c: char) {
        match c {
            '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '#'
            | '&' | '-' | '~' => {
                self.out.push('\\');
                self.out.push(c);
            }
            c if c.is_control() => self.out.push_str(&format!("\\x{{{:x}}}", u32::from(c))),
            c => self.out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_written_anew() {
        for (pattern, expected) in [
            ("abc", "abc"),
            ("^a+?b*$", "^a+b*$"),
            ("(a)(?:b)(?<c>d)(?P<stop>e)", "(?:a)(?:b)(?:d)(?:e)"),
            (r"\d{2,3}", "[0-9]{2,3}"),
            (r"[\d.-]", r"[[0-9]\.\-]"),
            ("[a-z-]", r"[a-z\-]"),
            ("[--a]", r"[\--a]"),
            ("[a[b]c", r"[a\[b]c"),
            ("[a&&b~~]", r"[a\&\&b\~\~]"),
            ("[^]", "(?s:.)"),
            (r"[\b]", r"[\x{8}]"),
            (".", r"[^\n\r\x{2028}\x{2029}]"),
            ("(?s:.)", "(?:(?s:.))"),
            ("(?si)a", "(?i)a"),
            ("{a}", r"\{a\}"),
            (r"\u0041\x42\u{43}\cA", "ABC\\x{1}"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\/\-", r"/\-"),
            (r"a/b", "a/b"),
        ] {
            assert_eq!(whole(pattern).as_deref(), Ok(expected), "{pattern}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for pattern in [
            "(", ")", "[", "a**", "^*", "^{2}t$", "^+[a-z]$", "*", "(?", "\\", r"\q", "[]", "[z-a]", r"\u12",
            r"\ud800", "[a-\\d]",
        ] {
            assert!(matches!(whole(pattern), Err(Fault::Invalid(_))), "{pattern}: {:?}", whole(pattern));
        }
        for pattern in ["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", r"\bfoo", "a{,3}", "(?x)a", "(?>a)"] {
            assert!(matches!(whole(pattern), Err(Fault::Unsupported(_))), "{pattern}: {:?}", whole(pattern));
        }
        let nested = "(".repeat(60_000) + &")".repeat(60_000);
        for pattern in ["a{65537}", "a{99999999999}", &nested] {
            assert!(matches!(whole(pattern), Err(Fault::TooLarge(_))));
        }
        assert!(whole("a{65536}").is_ok());
    }
}
