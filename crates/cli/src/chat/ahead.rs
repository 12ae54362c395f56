//! What was typed while an answer came.
//!
//! The line editor forgets what follows the line that it reads. So what waits is taken from the terminal before, and
//! read here: lines with their Enter are messages, the rest is what the next line begins with. Keys that need to see
//! the line, such as the arrows, mean nothing here.

use unicode_segmentation::UnicodeSegmentation;

use super::editor::is_incomplete;

/// What a terminal puts around what is pasted.
const PASTE: (&[u8], &[u8]) = (b"\x1b[200~", b"\x1b[201~");

/// Keys in the order in which they were pressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead(Vec<u8>);

/// What they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A line with its Enter, and what of it was typed each time a backslash at its end went on in the next line.
    Line(String, Vec<String>),
    /// A line that is not ended yet; it may be empty.
    Begun(String),
    /// Ctrl-D.
    End,
}

impl Ahead {
    /// Adds what was typed since.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Forgets it all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the next line.
    pub fn take(&mut self) -> Said {
        let bytes = std::mem::take(&mut self.0);
        let mut rest = bytes.as_slice();
        let (mut text, mut continued) = (String::new(), Vec::new());
        while let Some((&first, after)) = rest.split_first() {
            if let Some(inner) = rest.strip_prefix(PASTE.0) {
                let end = find(inner, PASTE.1).unwrap_or(inner.len());
                text.push_str(&pasted(&inner[..end]));
                rest = inner.get(end + PASTE.1.len()..).unwrap_or_default();
                continue;
            }
            rest = after;
            match first {
                b'\r' if text.ends_with('\\') => {
                    continued.push(text.clone());
                    text.push('\n');
                }
                b'\r' if !is_incomplete(&text) => {
                    self.0 = rest.to_vec();
                    return Said::Line(text, continued);
                }
                b'\r' | b'\n' => text.push('\n'),
                0x1b => rest = behind_key(rest, &mut text),
                0x04 if text.is_empty() => {
                    self.0 = rest.to_vec();
                    return Said::End;
                }
                0x08 | 0x7f => {
                    let last = text.grapheme_indices(true).next_back().map_or(0, |(at, _)| at);
                    text.truncate(last);
                }
                // Ctrl-U, Ctrl-W
                0x15 => text.truncate(text.rfind('\n').map_or(0, |at| at + 1)),
                0x17 => {
                    let word_end = text.trim_end().len();
                    let blank = text[..word_end].char_indices().rfind(|(_, c)| c.is_whitespace());
                    text.truncate(blank.map_or(0, |(at, c)| at + c.len_utf8()));
                }
                0..0x20 => {}
                _ => {
                    let n_more = after.iter().take_while(|&&byte| byte & 0xc0 == 0x80).count();
                    let start = bytes.len() - after.len() - 1;
                    text.push_str(&String::from_utf8_lossy(&bytes[start..=start + n_more]));
                    rest = &after[n_more..];
                }
            }
        }
        Said::Begun(text)
    }
}

/// Whether more must be on its way: a paste whose end is missing, or a part of a key or a character.
#[cfg(any(unix, test))]
pub fn is_unfinished(bytes: &[u8]) -> bool {
    let last_paste = bytes.windows(PASTE.0.len()).rposition(|window| window == PASTE.0);
    if let Some(at) = last_paste
        && find(&bytes[at..], PASTE.1).is_none()
    {
        return true;
    }
    let n = bytes.iter().rev().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    match bytes.iter().rev().nth(n) {
        Some(&lead) if lead >= 0xc0 => n + 1 < lead.leading_ones() as usize,
        Some(0x1b) => n == 0,
        _ => bytes.ends_with(b"\x1b["),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Text as it was copied: its line ends are line breaks, and it holds no keys.
fn pasted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// What follows a key that begins with Escape; Alt-Enter is the only one that means something.
fn behind_key<'a>(rest: &'a [u8], text: &mut String) -> &'a [u8] {
    match rest {
        [b'[', parameters @ ..] => {
            let n = parameters.iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
            parameters.get(n + 1..).unwrap_or_default()
        }
        [b'O', _, after @ ..] => after,
        [b'\r' | b'\n', after @ ..] => {
            text.push('\n');
            after
        }
        [_, after @ ..] => after,
        [] => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_make_lines() {
        let line = |text: &str| Said::Line(text.into(), Vec::new());
        let begun = |text: &str| Said::Begun(text.into());
        let check = |keys: &str, expected: &[Said]| {
            let mut ahead = Ahead::default();
            ahead.push(keys.as_bytes());
            let said: Vec<Said> = expected.iter().map(|_| ahead.take()).collect();
            assert_eq!(said, expected, "{keys:?}");
            assert_eq!(ahead.take(), begun(""), "{keys:?}");
        };
        check("one\rtwo\rthree", &[line("one"), line("two"), begun("three")]);
        check("one\ntwo\x1b\rthree\r", &[line("one\ntwo\nthree")]);
        check("a\r\x04b", &[line("a"), Said::End, begun("b")]);
        check("a\x04\r", &[line("a")]);
        check("\x1b[200~a\r\nb\rc\x1b[201~d\re", &[line("a\nb\ncd"), begun("e")]);
        check("\x1b[200~a\x1b[2J", &[begun("a[2J")]);
        check("\"\"\"\ra\rb\"\"\"\rc", &[line("\"\"\"\na\nb\"\"\""), begun("c")]);
        check("a\\\rb\r", &[Said::Line("a\\\nb".into(), vec!["a\\".into()])]);
        check("日本x\x7f\x7fe\u{301}\x08語\r", &[line("日語")]);
        check("one two  \x17x\x15y\x7f\x7f\x7f", &[begun("")]);
        check("one two  \x17x", &[begun("one x")]);
        check("a\x1b[A\x1b[1;5C\x1bOH\x1bb\x01\tb\r\r", &[line("ab"), line("")]);
        check("\x1b", &[]);
        check("\x1b[", &[]);
    }

    #[test]
    fn what_is_cut_off_is_known() {
        for (bytes, expected) in [
            (&b""[..], false),
            (b"a\r", false),
            (b"\x1b[200~a", true),
            (b"\x1b[200~a\x1b[201~", false),
            (b"\x1b[200~a\x1b[201~\x1b[200~b", true),
            (b"\x1b", true),
            (b"\x1b[", true),
            (b"\x1b[A", false),
            ("日".as_bytes(), false),
            (&"日".as_bytes()[..2], true),
            (&"🙂".as_bytes()[..1], true),
            (&"🙂".as_bytes()[..3], true),
        ] {
            assert_eq!(is_unfinished(bytes), expected, "{bytes:?}");
        }
    }
}
