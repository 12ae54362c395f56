//! Logits to a token. Pure: the same parameters, seed, choice and position pick the same token.

use ingle_step::{SamplingParams, TokenId};

/// What ends a run for DRY, as tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DryBreakers(Vec<Vec<TokenId>>);

/// Picks the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
}

impl Sampler {
    /// A sampler for one choice of a request.
    pub fn new(params: SamplingParams, breakers: DryBreakers, choice: u32) -> Self {
        let _ = (breakers, choice);
        Self { params }
    }

    /// Notes a token of the prompt or one that was sampled.
    pub fn accept(&mut self, token: TokenId) {
        let _ = token;
    }

    /// The token at `position`; `logits` is `(n_vocab,)` and is overwritten.
    pub fn sample(&mut self, logits: &mut [f32], position: u64) -> TokenId {
        let _ = position;
        for &(token, bias) in &self.params.logit_bias {
            if let Some(logit) = logits.get_mut(token.0 as usize) {
                *logit += bias;
            }
        }
        let mut best = 0;
        for (i, &logit) in logits.iter().enumerate() {
            if logit > logits[best] {
                best = i;
            }
        }
        TokenId(best as u32)
    }
}

/// The natural log-probability of `token` under `logits`, and its rank from 1.
pub fn log_softmax_of(logits: &[f32], token: TokenId) -> (f32, u32) {
    let logit = logits[token.0 as usize];
    let rank = 1 + logits.iter().filter(|&&l| l > logit).count() as u32;
    (logit - log_sum_exp(logits), rank)
}

/// The `k` most likely tokens with their natural log-probabilities, best first, the lower id first among equals.
pub fn top_logprobs(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
    let norm = log_sum_exp(logits);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.truncate(k);
    order.into_iter().map(|i| (TokenId(i), logits[i as usize] - norm)).collect()
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    max + sum.ln() as f32
}
