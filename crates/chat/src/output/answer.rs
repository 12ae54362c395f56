//! What stands around an answer's words, in formats whose answers are messages with heads of their own.

use super::family::Family;
use crate::Rule;

/// Whether answers have heads, thoughts and all.
pub(super) fn has_heads(family: Family) -> bool {
    matches!(family, Family::Harmony | Family::Functionary32)
}

/// The rule of an answer that says what `said` allows.
pub(super) fn rule(family: Family, said: Rule) -> Rule {
    match family {
        Family::Harmony => {
            let start = || optional(text("<|start|>assistant"));
            let thought =
                vec![start(), text("<|channel|>analysis<|message|>"), Rule::Until("<|end|>".into())];
            let head = text("<|channel|>final<|message|>");
            Rule::Sequence(vec![optional(Rule::Sequence(thought)), start(), head, said])
        }
        // The prompt ends with the mark, but for those who write it again.
        Family::Functionary32 => Rule::Sequence(vec![optional(text(">>>")), text("all\n"), said]),
        _ => said,
    }
}

fn text(text: &str) -> Rule {
    Rule::Text(text.into())
}

fn optional(rule: Rule) -> Rule {
    Rule::Repeat { rule: Box::new(rule), min: 0, max: Some(1) }
}
