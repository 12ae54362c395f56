//! Strings that remember which of their bytes came from outside.
//!
//! Every operation of the interpreter builds its result through [`TextBuf`], so provenance survives concatenation,
//! slicing, trimming, splitting, case mapping and JSON escaping byte by byte. Comparison ignores it.

use std::sync::Arc;

/// A string with the byte ranges that are foreign: sorted, disjoint, not touching, not empty.
#[derive(Clone, Debug)]
pub(super) struct Text {
    bytes: Arc<str>,
    foreign: Option<Arc<[(u32, u32)]>>,
    /// Declared safe (`|safe`, `|escape`): what is added to it is escaped for HTML first, as in Python. Templates
    /// that were written with care for web pages rely on it.
    markup: bool,
}

impl Text {
    /// The template's own text.
    pub fn own(s: &str) -> Self {
        Self { bytes: s.into(), foreign: None, markup: false }
    }

    /// Text from outside.
    pub fn foreign(s: &str) -> Self {
        Self::marked(s, true)
    }

    /// Text of one kind.
    pub fn marked(s: &str, foreign: bool) -> Self {
        let foreign = (foreign && !s.is_empty()).then(|| Arc::from([(0, s.len() as u32)]));
        Self { bytes: s.into(), foreign, markup: false }
    }

    pub fn as_str(&self) -> &str {
        &self.bytes
    }

    pub fn shared(&self) -> Arc<str> {
        self.bytes.clone()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether any byte is foreign.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    fn ranges(&self) -> &[(u32, u32)] {
        self.foreign.as_deref().unwrap_or(&[])
    }

    /// The string as runs of one kind each.
    pub fn runs(&self) -> impl Iterator<Item = (&str, bool)> {
        let mut at = 0;
        let mut ranges = self.ranges().iter();
        let mut next = ranges.next();
        std::iter::from_fn(move || match next {
            Some(&(start, end)) if start as usize > at => {
                let run = &self.bytes[at..start as usize];
                at = start as usize;
                let _ = end;
                Some((run, false))
            }
            Some(&(_, end)) => {
                let run = &self.bytes[at..end as usize];
                at = end as usize;
                next = ranges.next();
                Some((run, true))
            }
            None if at < self.bytes.len() => {
                let run = &self.bytes[at..];
                at = self.bytes.len();
                Some((run, false))
            }
            None => None,
        })
    }

    /// The bytes `start..end`, which must lie on character boundaries.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        if start == 0 && end == self.len() {
            return self.clone();
        }
        let mut buf = TextBuf::default();
        buf.push_slice(self, start, end);
        buf.into_text().with_markup(self.markup)
    }

    pub fn is_markup(&self) -> bool {
        self.markup
    }

    /// The same text, declared safe or not.
    pub fn with_markup(mut self, markup: bool) -> Self {
        self.markup = markup;
        self
    }

    /// Escaped for HTML, unless it is declared safe already.
    pub fn escaped(&self) -> Self {
        if self.markup { self.clone() } else { self.force_escaped() }
    }

    /// Escaped for HTML, and declared safe.
    pub fn force_escaped(&self) -> Self {
        let escaped = self.map_chars(|c, out| match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        });
        escaped.with_markup(true)
    }

    /// Maps each character; what it becomes is of the character's kind.
    pub fn map_chars(&self, mut f: impl FnMut(char, &mut String)) -> Self {
        let mut buf = TextBuf::default();
        let mut scratch = String::new();
        for (run, foreign) in self.runs() {
            scratch.clear();
            run.chars().for_each(|c| f(c, &mut scratch));
            buf.push_str(&scratch, foreign);
        }
        buf.into_text().with_markup(self.markup)
    }

    /// The characters as texts of their own.
    pub fn chars(&self) -> Vec<Self> {
        let mut out = Vec::new();
        let mut utf8 = [0; 4];
        for (run, foreign) in self.runs() {
            out.extend(
                run.chars().map(|c| Self::marked(c.encode_utf8(&mut utf8), foreign).with_markup(self.markup)),
            );
        }
        out
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// A text under construction.
#[derive(Debug, Default)]
pub(super) struct TextBuf {
    bytes: String,
    foreign: Vec<(u32, u32)>,
}

impl TextBuf {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends the template's own text.
    pub fn push_own(&mut self, s: &str) {
        self.bytes.push_str(s);
    }

    /// Appends text of one kind.
    pub fn push_str(&mut self, s: &str, foreign: bool) {
        if foreign && !s.is_empty() {
            let (start, end) = (self.bytes.len() as u32, (self.bytes.len() + s.len()) as u32);
            match self.foreign.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => self.foreign.push((start, end)),
            }
        }
        self.bytes.push_str(s);
    }

    /// Appends a text.
    pub fn push(&mut self, text: &Text) {
        text.runs().for_each(|(run, foreign)| self.push_str(run, foreign));
    }

    /// Appends bytes `start..end` of a text.
    pub fn push_slice(&mut self, text: &Text, start: usize, end: usize) {
        let ranges = text.ranges();
        let mut at = start;
        for &(a, b) in &ranges[ranges.partition_point(|r| r.1 as usize <= start)..] {
            let (a, b) = ((a as usize).max(start), (b as usize).min(end));
            if a >= b {
                break;
            }
            self.push_str(&text.bytes[at..a], false);
            self.push_str(&text.bytes[a..b], true);
            at = b;
        }
        self.push_str(&text.bytes[at..end.max(at)], false);
    }

    pub fn as_str(&self) -> &str {
        &self.bytes
    }

    pub fn into_text(self) -> Text {
        Text {
            bytes: self.bytes.into(),
            foreign: (!self.foreign.is_empty()).then(|| self.foreign.into()),
            markup: false,
        }
    }

    /// The string and its foreign ranges.
    pub fn into_parts(self) -> (String, Vec<(u32, u32)>) {
        (self.bytes, self.foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &Text) -> String {
        text.runs().map(|(run, foreign)| if foreign { format!("<{run}>") } else { run.to_owned() }).collect()
    }

    #[test]
    fn provenance_survives_slices_and_maps() {
        let mut buf = TextBuf::default();
        buf.push_own("ab");
        buf.push(&Text::foreign("cd"));
        buf.push_own("ef");
        buf.push(&Text::foreign("gh"));
        let text = buf.into_text();
        assert_eq!(show(&text), "ab<cd>ef<gh>");
        assert_eq!(show(&text.slice(1, 7)), "b<cd>ef<g>");
        assert_eq!(show(&text.slice(3, 4)), "<d>");
        assert_eq!(show(&text.slice(4, 6)), "ef");
        assert_eq!(show(&text.map_chars(|c, out| out.extend(c.to_uppercase()))), "AB<CD>EF<GH>");
        assert_eq!(
            text.chars().iter().map(show).collect::<Vec<_>>(),
            "a b <c> <d> e f <g> <h>".split(' ').collect::<Vec<_>>()
        );
    }
}
