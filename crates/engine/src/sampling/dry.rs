//! DRY, "don't repeat yourself": a token that would continue a run which stood here before loses more, the longer
//! that run is. (By p-e-w; the rules are llama.cpp's.)

use std::collections::HashMap;
use std::sync::Arc;

use ingle_step::{SamplingParams, TokenId};
use ingle_tokenizer::Tokenizer;

use super::math::{ln, pow};

/// A breaker's text and its tail in tokens are cut to this.
const BREAKER_BYTES_MAX: usize = 40;
const TAIL_TOKENS_MAX: usize = 20;
/// Beyond this exponent (in nats) a penalty leaves the range of a float.
const LOG_MAX: f64 = 88.722_839_1;

/// What ends a run for DRY: tokens that hold a breaker, or begin one that further tokens complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DryBreakers {
    /// By first token: the tails that must follow it.
    tails: Arc<HashMap<TokenId, Vec<Vec<TokenId>>>>,
}

impl DryBreakers {
    /// Finds the breakers' tokens. Looks at the whole vocabulary: do it where a request is prepared, not where it runs.
    pub fn new(tokenizer: &Tokenizer, breakers: &[String]) -> Self {
        Self::from_vocabulary(
            (0..tokenizer.n_vocab() as u32).map(|id| (TokenId(id), tokenizer.token_bytes(TokenId(id)))),
            breakers,
            |text| tokenizer.encode_content(text),
        )
    }

    /// The same over any vocabulary.
    fn from_vocabulary<'v>(
        vocabulary: impl Iterator<Item = (TokenId, &'v [u8])>,
        breakers: &[String],
        encode: impl Fn(&str) -> Vec<TokenId>,
    ) -> Self {
        let cut = |s: &str| {
            let end = (0..=s.len().min(BREAKER_BYTES_MAX)).rev().find(|&i| s.is_char_boundary(i));
            s[..end.unwrap_or(0)].to_owned()
        };
        let breakers: Vec<String> = breakers.iter().map(|s| cut(s)).filter(|s| !s.is_empty()).collect();
        // What is left of each breaker after its first `n` bytes, encoded once and not once per token.
        let rests: Vec<Vec<Option<Vec<TokenId>>>> = breakers
            .iter()
            .map(|breaker| {
                let rest = |n: usize| {
                    let mut rest = encode(breaker.get(n..).filter(|_| n > 0)?);
                    rest.truncate(TAIL_TOKENS_MAX);
                    Some(rest)
                };
                (0..breaker.len()).map(rest).collect()
            })
            .collect();
        let mut tails: HashMap<TokenId, Vec<Vec<TokenId>>> = HashMap::new();
        for (token, bytes) in vocabulary {
            for (breaker, rests) in breakers.iter().zip(&rests) {
                let wanted = breaker.as_bytes();
                let mut found = Vec::new();
                if bytes.windows(wanted.len()).any(|w| w == wanted) {
                    found.push(Vec::new());
                } else {
                    // The token ends in a beginning of the breaker.
                    let longest = bytes.len().min(wanted.len() - 1);
                    for (n, rest) in rests.iter().enumerate().take(longest + 1) {
                        if bytes.ends_with(&wanted[..n]) {
                            found.extend(rest.clone());
                        }
                    }
                }
                for tail in found {
                    let known = tails.entry(token).or_default();
                    if !known.contains(&tail) {
                        known.push(tail);
                    }
                }
            }
        }
        Self { tails: Arc::new(tails) }
    }

    /// How many tokens back the last breaker ends, if there is one: runs don't reach beyond it.
    fn last(&self, recent: &[TokenId]) -> Option<usize> {
        if self.tails.is_empty() {
            return None;
        }
        (0..recent.len()).find_map(|back| {
            let head = recent.len() - 1 - back;
            let tails = self.tails.get(&recent[head])?;
            let matches = tails.iter().filter(|t| t.len() <= back && recent[head + 1..].starts_with(t));
            matches.map(Vec::len).max().map(|n| back - n)
        })
    }
}

/// Tokens that would continue a run, with the penalty each gets.
pub(super) fn penalties(
    params: &SamplingParams,
    breakers: &DryBreakers,
    history: &[TokenId],
) -> HashMap<u32, f32> {
    let window = match params.dry_penalty_last_n {
        n if n < 0 => history.len(),
        n => history.len().min(n as usize),
    };
    let recent = &history[history.len() - window..];
    let allowed = params.dry_allowed_length.max(0) as usize;
    if recent.len() <= allowed {
        return HashMap::new();
    }
    let limit = breakers.last(recent).unwrap_or(recent.len());
    if limit < allowed {
        return HashMap::new();
    }
    let mut longest: HashMap<TokenId, usize> = HashMap::new();
    for (back, n) in suffix_matches(recent).into_iter().enumerate().skip(1) {
        let n = n.min(limit);
        if n >= allowed {
            let token = recent[recent.len() - back];
            let entry = longest.entry(token).or_insert(0);
            *entry = (*entry).max(n);
        }
    }
    let base = f64::from(params.dry_base);
    let exponent_max = if base > 1.000_001 { (LOG_MAX / ln(base)) as usize } else { 0 };
    longest
        .into_iter()
        .map(|(token, n)| {
            let mut exponent = n - allowed;
            if exponent_max > 0 {
                exponent = exponent.min(exponent_max);
            }
            (token.0, (f64::from(params.dry_multiplier) * pow(base, exponent as f64)) as f32)
        })
        .collect()
}

/// For each distance back: how many tokens before that place equal the tokens before the end. Linear: the Z function
/// of the reversed tokens.
fn suffix_matches(recent: &[TokenId]) -> Vec<usize> {
    let n = recent.len();
    let at = |i: usize| recent[n - 1 - i];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let mut len = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + len < n && at(len) == at(i + len) {
            len += 1;
        }
        z[i] = len;
        if i + len > right {
            (left, right) = (i, i + len);
        }
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(s: &str) -> Vec<TokenId> {
        s.bytes().map(|b| TokenId(b.into())).collect()
    }

    #[test]
    fn suffixes_match_as_by_hand() {
        for s in ["abcabcab", "aaaaa", "abc", "a", "", "abababxabab"] {
            let t = tokens(s);
            let naive: Vec<usize> = (0..t.len())
                .map(|back| {
                    if back == 0 {
                        0
                    } else {
                        (0..t.len() - back)
                            .take_while(|&j| t[t.len() - 1 - back - j] == t[t.len() - 1 - j])
                            .count()
                    }
                })
                .collect();
            assert_eq!(suffix_matches(&t), naive, "{s}");
        }
    }

    fn check(history: &str, breakers: &[&str], expected: &[(char, f32)]) {
        // A vocabulary of single bytes and one pair.
        let vocabulary: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).chain([b"x#".to_vec()]).collect();
        let breakers: Vec<String> = breakers.iter().map(|s| (*s).to_owned()).collect();
        let breakers = DryBreakers::from_vocabulary(
            vocabulary.iter().enumerate().map(|(i, v)| (TokenId(i as u32), v.as_slice())),
            &breakers,
            tokens,
        );
        let params = SamplingParams { dry_multiplier: 0.5, dry_base: 2.0, ..SamplingParams::default() };
        let expected: HashMap<u32, f32> = expected.iter().map(|&(c, p)| (c as u32, p)).collect();
        assert_eq!(penalties(&params, &breakers, &tokens(history)), expected, "{history}");
    }

    #[test]
    fn longer_runs_cost_more() {
        check("abcXabc", &[], &[('X', 1.0)]);
        check("bcXabc", &[], &[('X', 0.5)]);
        check("cXabc", &[], &[]);
        check("abcXabcYabc", &[], &[('X', 1.0), ('Y', 1.0)]);
        check("aaaa", &[], &[('a', 1.0)]);
    }

    #[test]
    fn breakers_end_runs() {
        check("a:bcXa:bc", &[":"], &[('X', 0.5)]);
        check("abc:Xabc:", &[":"], &[]);
        // Over several tokens.
        check("ab##cdXab##cd", &["##"], &[('X', 0.5)]);
        check("ab#cdXab#cd", &["##"], &[('X', 0.5 * 8.0)]);
    }
}
