//! What an answer's text must obey. Never best effort: what cannot be enforced is refused before anything runs.

use serde_json::Value;

/// The language that an answer's text must be a sentence of.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid under this schema (draft 2020-12).
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llama.cpp's notation (GBNF); its rule is `root`.
    Gbnf(String),
    /// A grammar in Lark's notation; its rule is `start`.
    Lark(String),
    /// A rule of our own: structural tags, calls of tools.
    Rule(Rule),
}

/// A small algebra of texts, in which formats of tool calls are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// This text. Where it spells a control token of the model, the token is meant.
    Text(String),
    /// JSON that is valid under this schema.
    Json(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Any text up to this one, which follows. Control tokens are no text.
    Until(String),
    /// Any text, which may be empty. Control tokens are no text.
    AnyText,
    /// Any text in which none of these begins; then, as often as one does, its rule, and any text again.
    /// `at_least_one`: the text may not end before one of them was there; `at_most_one`: none follows the first.
    Tagged {
        /// Each a beginning, and what follows it.
        tags: Vec<(String, Rule)>,
        /// Whether at least one must come.
        at_least_one: bool,
        /// Whether at most one may come.
        at_most_one: bool,
    },
    /// One after the other.
    Sequence(Vec<Rule>),
    /// One of these.
    Any(Vec<Rule>),
    /// This, so many times. `None` is without end.
    Repeat {
        /// What is repeated.
        rule: Box<Rule>,
        /// At least.
        min: u32,
        /// At most.
        max: Option<u32>,
    },
}

/// The characters that mean more than themselves in regular expressions.
const META: &str = r"\.+*?()|[]{}^$#&-~";

impl Rule {
    /// One of these texts as they are: whatever they spell, no control token is meant. For texts of a request's.
    pub fn literal<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let escaped = |text: &str| {
            // Only what means something else: a backslash gives other characters a meaning, such as `\<`.
            let escape = |c: char| META.contains(c).then_some('\\').into_iter().chain([c]);
            text.chars().flat_map(escape).collect::<String>()
        };
        let all: Vec<String> = texts.into_iter().map(escaped).collect();
        Self::Regex(match &all[..] {
            [one] => one.clone(),
            several => format!("({})", several.join("|")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_match_themselves() {
        let check = |texts: &[&str], expected: &str| {
            assert_eq!(Rule::literal(texts.iter().copied()), Rule::Regex(expected.into()));
        };
        check(&["a.b"], "a\\.b");
        check(&["é", "<|x|>"], "(é|<\\|x\\|>)");
    }
}
