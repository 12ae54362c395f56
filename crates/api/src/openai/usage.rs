//! What an answer cost: `usage` as OpenAI has it, `timings` as llama-server has them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

/// `usage` of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// New tokens over all choices.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// More about the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the new ones.
    pub completion_tokens_details: CompletionTokensDetails,
    /// How often tokens made way in a full context; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_shifts: Option<u64>,
    /// How many tokens did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded_tokens: Option<u64>,
}

/// `usage.prompt_tokens_details` of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens that were not computed again.
    pub cached_tokens: u64,
}

/// `usage.completion_tokens_details` of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CompletionTokensDetails {
    /// New tokens that were thoughts.
    pub reasoning_tokens: u64,
    /// New tokens that `prediction` foretold; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_prediction_tokens: Option<u64>,
    /// Tokens of `prediction` that are not among the new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_prediction_tokens: Option<u64>,
}

/// `timings` of a reply. A rate is 0 where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Timings {
    /// Prompt tokens that were not computed again.
    pub cache_n: u64,
    /// Prompt tokens that were computed.
    pub prompt_n: u64,
    /// How long that took.
    pub prompt_ms: f64,
    /// The same per token.
    pub prompt_per_token_ms: f64,
    /// Tokens in a second.
    pub prompt_per_second: f64,
    /// New tokens.
    pub predicted_n: u64,
    /// How long they took, from the first to the last.
    pub predicted_ms: f64,
    /// The same per token.
    pub predicted_per_token_ms: f64,
    /// Tokens in a second.
    pub predicted_per_second: f64,
    /// Tokens that were guessed ahead; absent if none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_n: Option<u64>,
    /// Those of them that the answer has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_n_accepted: Option<u64>,
}

/// What the answers to all prompts of a body cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
    drafted_tokens: u64,
    accepted_tokens: u64,
    prediction_tokens: u64,
    foretold_tokens: u64,
    context_shifts: u64,
    discarded_tokens: u64,
    prefill: Duration,
    decode: Duration,
}

impl Cost {
    /// Adds what one prompt cost.
    pub fn add(&mut self, usage: &ingle_chat::Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.cached_tokens += usage.cached_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.reasoning_tokens += usage.reasoning_tokens;
        self.drafted_tokens += usage.drafted_tokens;
        self.accepted_tokens += usage.accepted_tokens;
        self.prediction_tokens += usage.prediction_tokens;
        self.foretold_tokens += usage.foretold_tokens;
        self.context_shifts += usage.context_shifts;
        self.discarded_tokens += usage.discarded_tokens;
        self.prefill += usage.prefill;
        self.decode += usage.decode;
    }

    pub fn usage(&self) -> Usage {
        let is_predicted = self.prediction_tokens > 0;
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached_tokens },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens: self.reasoning_tokens,
                accepted_prediction_tokens: is_predicted.then_some(self.foretold_tokens),
                rejected_prediction_tokens: is_predicted
                    .then_some(self.prediction_tokens.saturating_sub(self.foretold_tokens)),
            },
            context_shifts: (self.context_shifts > 0).then_some(self.context_shifts),
            discarded_tokens: (self.context_shifts > 0).then_some(self.discarded_tokens),
        }
    }

    pub fn timings(&self) -> Timings {
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        let (prompt_ms, prompt_per_token_ms, prompt_per_second) = rates(computed, self.prefill);
        let (predicted_ms, predicted_per_token_ms, predicted_per_second) =
            rates(self.completion_tokens, self.decode);
        Timings {
            cache_n: self.cached_tokens,
            prompt_n: computed,
            prompt_ms,
            prompt_per_token_ms,
            prompt_per_second,
            predicted_n: self.completion_tokens,
            predicted_ms,
            predicted_per_token_ms,
            predicted_per_second,
            draft_n: (self.drafted_tokens > 0).then_some(self.drafted_tokens),
            draft_n_accepted: (self.drafted_tokens > 0).then_some(self.accepted_tokens),
        }
    }
}

/// Milliseconds, milliseconds per token, tokens per second: to three decimals, as more would be noise.
fn rates(tokens: u64, time: Duration) -> (f64, f64, f64) {
    let rounded = |v: f64| (v * 1000.0).round() / 1000.0;
    let ms = time.as_secs_f64() * 1000.0;
    let per_token = if tokens == 0 { 0.0 } else { ms / tokens as f64 };
    let per_second = if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() };
    (rounded(ms), rounded(per_token), rounded(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_rates() {
        let mut cost = Cost::default();
        assert_eq!(cost.timings(), Timings::default(), "nothing divides by nothing");
        let ms = Duration::from_millis;
        let one = ingle_chat::Usage {
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 3,
            reasoning_tokens: 1,
            drafted_tokens: 5,
            accepted_tokens: 2,
            prediction_tokens: 7,
            foretold_tokens: 3,
            context_shifts: 1,
            discarded_tokens: 20,
            queued: ms(99),
            prefill: ms(12),
            decode: ms(30),
        };
        cost.add(&one);
        cost.add(&ingle_chat::Usage { cached_tokens: 0, prefill: ms(20), ..one });
        let usage = cost.usage();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (20, 6, 26));
        assert_eq!((usage.context_shifts, usage.discarded_tokens), (Some(2), Some(40)));
        assert_eq!(Cost::default().usage().context_shifts, None);
        let details = CompletionTokensDetails {
            reasoning_tokens: 2,
            accepted_prediction_tokens: Some(6),
            rejected_prediction_tokens: Some(8),
        };
        assert_eq!(usage.completion_tokens_details, details);
        let expected = Timings {
            cache_n: 4,
            prompt_n: 16,
            prompt_ms: 32.0,
            prompt_per_token_ms: 2.0,
            prompt_per_second: 500.0,
            predicted_n: 6,
            predicted_ms: 60.0,
            predicted_per_token_ms: 10.0,
            predicted_per_second: 100.0,
            draft_n: Some(10),
            draft_n_accepted: Some(4),
        };
        assert_eq!(cost.timings(), expected);
    }
}
