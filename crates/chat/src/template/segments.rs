//! Which parts of a rendered prompt may become control tokens.

use crate::{Segment, Segments};

/// The spellings of a model's special tokens, by their first byte.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// Longest first. Index: first byte.
    by_first: Vec<Vec<String>>,
    any: bool,
}

impl SpecialTokens {
    pub fn new(spellings: &[String]) -> Self {
        let mut by_first = vec![Vec::new(); 256];
        for s in spellings.iter().filter(|s| !s.is_empty()) {
            by_first[usize::from(s.as_bytes()[0])].push(s.clone());
        }
        for list in &mut by_first {
            list.sort_by(|a: &String, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            list.dedup();
        }
        let any = by_first.iter().any(|l| !l.is_empty());
        Self { by_first, any }
    }

    /// Types a text, given its foreign ranges: a special token that has a foreign byte becomes content, but for bytes
    /// that it shares with a token of the template's own.
    pub fn segments(&self, text: &str, foreign: &[(u32, u32)]) -> Segments {
        let mut content = vec![false; if foreign.is_empty() { 0 } else { text.len() }];
        if !self.any {
            for &(start, end) in foreign {
                content[start as usize..end as usize].fill(true);
            }
        } else if !foreign.is_empty() {
            self.mark(text, foreign, &mut content);
        }
        let mut segments = Segments::default();
        let mut at = 0;
        while at < text.len() {
            let is_content = content.get(at).copied().unwrap_or(false);
            let end = match content[at.min(content.len())..].iter().position(|c| *c != is_content) {
                Some(n) => at + n,
                None => text.len(),
            };
            let run = text[at..end].to_owned();
            segments.push(if is_content { Segment::Content(run) } else { Segment::Template(run) });
            at = end;
        }
        segments
    }

    fn mark(&self, text: &str, foreign: &[(u32, u32)], content: &mut [bool]) {
        let bytes = text.as_bytes();
        let mut own = Vec::new();
        for at in 0..bytes.len() {
            for spelling in &self.by_first[usize::from(bytes[at])] {
                let end = at + spelling.len();
                if !bytes[at..].starts_with(spelling.as_bytes()) {
                    continue;
                }
                let next = foreign.partition_point(|r| r.1 as usize <= at);
                if foreign.get(next).is_some_and(|r| (r.0 as usize) < end) {
                    content[at..end].fill(true);
                } else {
                    own.push((at, end));
                }
            }
        }
        // What only the template wrote stays its own, even where a stranger's token overlaps it.
        for (start, end) in own {
            content[start..end].fill(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(special: &[&str], parts: &[(&str, bool)], expected: &str) {
        let special = SpecialTokens::new(&special.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let (mut text, mut foreign) = (String::new(), Vec::new());
        for (part, outside) in parts {
            if *outside {
                foreign.push((text.len() as u32, (text.len() + part.len()) as u32));
            }
            text.push_str(part);
        }
        let shown: String = special
            .segments(&text, &foreign)
            .iter()
            .map(|s| match s {
                Segment::Template(s) => s.clone(),
                Segment::Content(s) => format!("«{s}»"),
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn only_spelled_tokens_are_content() {
        check(&["<|a|>"], &[("<|a|>", false), ("hello", true), ("<|a|>", false)], "<|a|>hello<|a|>");
        check(
            &["<|a|>"],
            &[("<|a|>", false), ("x <|a|> y", true), ("<|a|>", false)],
            "<|a|>x «<|a|>» y<|a|>",
        );
        // Formed across the boundary.
        check(&["<|a|>"], &[("<|", false), ("a", true), ("|>", false)], "«<|a|>»");
        // A shorter token inside a longer one.
        check(&["<|a|>", "|>"], &[("<|a|>", true)], "«<|a|>»");
        // A stranger's token that overlaps the template's own.
        check(&["<s>", "x<"], &[("x", true), ("<s>", false)], "«x»<s>");
    }

    #[test]
    fn without_spellings_all_is_content() {
        check(&[], &[("<|a|>", false), ("hello", true)], "<|a|>«hello»");
    }
}
