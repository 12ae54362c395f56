//! Where two runs of a request part.

use super::{Outcome, Record, RecordedChoice};

/// Tokens before a difference that are shown with it.
const CONTEXT_TOKENS: usize = 8;

/// The first difference between a record and a replay of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which prompt, from 0.
    pub prompt: usize,
    /// Which of its choices, from 0.
    pub choice: usize,
    /// What differs.
    pub place: Place,
    /// The tokens before it, the same in both.
    pub context: Vec<u32>,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Something was counted that is not the same.
    Count {
        /// What was counted.
        what: &'static str,
        /// In the record, then in the replay.
        counts: [u64; 2],
    },
    /// A token.
    Token {
        /// Its place among the new tokens, from 0.
        position: usize,
        /// In the record, then in the replay; `None` where that one has ended.
        tokens: [Option<u32>; 2],
    },
    /// The token is the same, the bits of its log-probability are not.
    Logprob {
        /// Its place among the new tokens, from 0.
        position: usize,
        /// The token.
        token: u32,
        /// In the record, then in the replay.
        bits: [u32; 2],
    },
    /// The tokens are the same, what became of them is not.
    Text {
        /// Which text.
        what: &'static str,
        /// The first byte that differs.
        byte: usize,
        /// What follows, in the record, then in the replay.
        texts: [String; 2],
    },
}

/// The first difference between a record and a replay of it. Of a request that did not finish, only as far as it came.
pub fn compare(recorded: &Record, replayed: &Record) -> Option<Difference> {
    let is_whole = recorded.outcome == Outcome::Finished;
    let at = |prompt, choice, place| Difference { prompt, choice, place, context: Vec::new() };
    let count =
        |what, a: usize, b: usize| (a != b).then_some(Place::Count { what, counts: [a as u64, b as u64] });
    if let Some(place) = count("prompts", recorded.answers.len(), replayed.answers.len()) {
        return Some(at(0, 0, place));
    }
    for (prompt, (a, b)) in recorded.answers.iter().zip(&replayed.answers).enumerate() {
        let has_started = is_whole || a.prompt_tokens > 0;
        let tokens = count("tokens of the prompt", a.prompt_tokens as usize, b.prompt_tokens as usize);
        let tokens = tokens.filter(|_| has_started);
        if let Some(place) = tokens.or_else(|| count("choices", a.choices.len(), b.choices.len())) {
            return Some(at(prompt, 0, place));
        }
        for (choice, (a, b)) in a.choices.iter().zip(&b.choices).enumerate() {
            let found = of_tokens(a, b, is_whole).or_else(|| of_texts(a, b, is_whole));
            if let Some((place, context)) = found {
                return Some(Difference { prompt, choice, place, context });
            }
        }
    }
    None
}

fn of_tokens(a: &RecordedChoice, b: &RecordedChoice, is_whole: bool) -> Option<(Place, Vec<u32>)> {
    let n = if is_whole { a.tokens.len().max(b.tokens.len()) } else { a.tokens.len() };
    let position = (0..n).find(|&i| a.tokens.get(i) != b.tokens.get(i))?;
    let (x, y) = (a.tokens.get(position), b.tokens.get(position));
    let place = match (x, y) {
        (Some(x), Some(y)) if x.0 == y.0 => Place::Logprob { position, token: x.0, bits: [x.1, y.1] },
        _ => Place::Token { position, tokens: [x.map(|t| t.0), y.map(|t| t.0)] },
    };
    let before = &a.tokens[position.saturating_sub(CONTEXT_TOKENS)..position];
    Some((place, before.iter().map(|t| t.0).collect()))
}

fn of_texts(a: &RecordedChoice, b: &RecordedChoice, is_whole: bool) -> Option<(Place, Vec<u32>)> {
    let calls = |c: &RecordedChoice| -> String {
        c.tool_calls.iter().map(|call| format!("{}({})\n", call.name, call.arguments)).collect()
    };
    let reason = |c: &RecordedChoice| c.finish_reason.clone().unwrap_or_default();
    let texts = [
        ("text", a.text.clone(), b.text.clone()),
        ("reasoning", a.reasoning.clone(), b.reasoning.clone()),
        ("tool calls", calls(a), calls(b)),
        ("finish reason", reason(a), reason(b)),
    ];
    texts.into_iter().find_map(|(what, a, b)| of_text(what, &a, &b, is_whole))
}

fn of_text(what: &'static str, a: &str, b: &str, is_whole: bool) -> Option<(Place, Vec<u32>)> {
    if a == b || !is_whole && b.starts_with(a.trim_end_matches([')', '\n'])) {
        return None;
    }
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let byte = (0..=same).rev().find(|&i| a.is_char_boundary(i) && b.is_char_boundary(i)).unwrap_or(0);
    let rest = |text: &str| text[byte..].chars().take(40).collect::<String>();
    Some((Place::Text { what, byte, texts: [rest(a), rest(b)] }, Vec::new()))
}
