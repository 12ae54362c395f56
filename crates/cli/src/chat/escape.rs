//! Text from models, files and servers, made harmless for a terminal.
//!
//! A model writes what its context makes it write, and a terminal obeys what it is shown: it moves the cursor, sets the
//! clipboard, renames windows, answers as if the user had typed. So nothing from outside reaches a terminal as it is.
//! Control characters become visible signs; what turns the direction of text around, so that it reads as something that
//! it is not, becomes an escape. Where output is no terminal, text stays as it is.

/// Makes text harmless piece by piece. It keeps a carriage return back until it is known what follows.
#[derive(Clone, Debug, Default)]
pub struct Escaper {
    has_return: bool,
}

impl Escaper {
    /// The next piece, harmless.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            // The line ends of Windows are line ends; a return alone would write over what stands there.
            if std::mem::take(&mut self.has_return) && c != '\n' {
                out.push('␍');
            }
            match c {
                '\r' => self.has_return = true,
                c => escape_char(c, &mut out),
            }
        }
        out
    }

    /// What was kept back.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.has_return) { "␍" } else { "" }
    }
}

/// Whole text, harmless. Line breaks and tabs stay.
pub fn escape(text: &str) -> String {
    let mut escaper = Escaper::default();
    let mut out = escaper.push(text);
    out.push_str(escaper.finish());
    out
}

/// One line of text, harmless: line breaks and tabs are made visible too.
pub fn escape_line(text: &str) -> String {
    let shown = |c| if matches!(c, '\n' | '\t') { picture(c) } else { c };
    escape(text).chars().map(shown).collect()
}

fn escape_char(c: char, out: &mut String) {
    match c {
        '\n' | '\t' => out.push(c),
        '\0'..='\x1f' | '\x7f' => out.push(picture(c)),
        // C1 controls, of which some terminals take U+009B for ESC [; line and paragraph separators; embeddings,
        // overrides and isolates of the bidirectional algorithm; anchors of annotations.
        '\u{80}'..='\u{9f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{fff9}'..='\u{fffb}' => out.extend(c.escape_unicode()),
        c => out.push(c),
    }
}

/// The sign for a control character of ASCII.
fn picture(c: char) -> char {
    match c {
        '\x7f' => '␡',
        c => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_become_visible() {
        for (text, expected) in [
            ("plain ünïcode 日本 🙂\n\tend", "plain ünïcode 日本 🙂\n\tend"),
            ("\x1b[31mred", "␛[31mred"),
            ("\x1b]52;c;ZXZpbA==\x07", "␛]52;c;ZXZpbA==␇"),
            ("\x1b]0;title\x1b\\", "␛]0;title␛\\"),
            ("\u{9b}2J\u{9d}0;x\u{9c}", "\\u{9b}2J\\u{9d}0;x\\u{9c}"),
            ("a\r\nb", "a\nb"),
            ("safe\revil", "safe␍evil"),
            ("a\r\r\n", "a␍\n"),
            ("end\r", "end␍"),
            ("\x08\x08\x7f\0", "␈␈␡␀"),
            ("a\u{202e}txt.exe\u{2066}", "a\\u{202e}txt.exe\\u{2066}"),
            ("\u{85}\u{2028}", "\\u{85}\\u{2028}"),
        ] {
            assert_eq!(escape(text), expected);
        }
        assert_eq!(escape_line("a\n\tb\x1b"), "a␊␉b␛");
    }

    /// However it is cut, and whatever stands in it: no control character comes out but line breaks and tabs.
    #[test]
    fn no_control_character_passes_in_pieces() {
        let all: String = (0..0x2100).filter_map(char::from_u32).collect();
        let text = format!("{all}\x1b[2J\r\n{all}\r");
        let whole = escape(&text);
        assert!(whole.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
        for step in 1..7 {
            let mut escaper = Escaper::default();
            let chars: Vec<char> = text.chars().collect();
            let mut out = String::new();
            for piece in chars.chunks(step) {
                out.push_str(&escaper.push(&piece.iter().collect::<String>()));
            }
            out.push_str(escaper.finish());
            assert_eq!(out, whole, "pieces of {step}");
        }
    }
}
