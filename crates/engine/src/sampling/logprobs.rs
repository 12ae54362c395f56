//! Log-probabilities as the model gives them, before any sampler.

use ingle_step::TokenId;

use super::candidates::{Candidates, max_of};
use super::math::{exp, ln};

/// The natural log-probability of `token` under `logits`, and its rank from 1. A token outside of the vocabulary is
/// impossible and comes last.
pub fn log_softmax_of(logits: &[f32], token: TokenId) -> (f32, u32) {
    let Some(&logit) = logits.get(token.0 as usize).filter(|l| !l.is_nan()) else {
        return (f32::NEG_INFINITY, logits.len() as u32 + 1);
    };
    let above = logits.iter().fold(0u32, |n, &l| n + u32::from(l > logit));
    (log_p(logit, log_sum_exp(logits)), above + 1)
}

/// The `k` most likely tokens with their natural log-probabilities, best first, the lower id first among equals.
pub fn top_logprobs(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
    if k == 0 {
        return Vec::new();
    }
    let norm = log_sum_exp(logits);
    let mut candidates = Candidates::default();
    candidates.begin();
    candidates.keep_top(logits, k);
    candidates.list(logits).iter().map(|c| (TokenId(c.id), log_p(c.logit, norm))).collect()
}

fn log_p(logit: f32, norm: f64) -> f32 {
    if logit == f32::NEG_INFINITY { f32::NEG_INFINITY } else { (f64::from(logit) - norm) as f32 }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(max_of(logits));
    if max.is_infinite() {
        return max;
    }
    // Four sums, so that one addition need not wait for the last.
    let mut sums = [0.0; 4];
    for chunk in logits.chunks(4) {
        for (sum, &l) in sums.iter_mut().zip(chunk) {
            *sum += exp(f64::from(l) - max);
        }
    }
    max + ln((sums[0] + sums[1]) + (sums[2] + sums[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.1).collect();
        let sum: f64 = (0..1000).map(|i| f64::from(log_softmax_of(&logits, TokenId(i)).0).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn ranks_and_ties() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, f32::NEG_INFINITY];
        assert_eq!(log_softmax_of(&logits, TokenId(1)).1, 1);
        assert_eq!(log_softmax_of(&logits, TokenId(3)).1, 1);
        assert_eq!(log_softmax_of(&logits, TokenId(0)).1, 3);
        assert_eq!(log_softmax_of(&logits, TokenId(4)).0, f32::NEG_INFINITY);
        assert_eq!(log_softmax_of(&logits, TokenId(2)).0, f32::NEG_INFINITY);
        assert_eq!(log_softmax_of(&logits, TokenId(9)), (f32::NEG_INFINITY, 6));
        let top: Vec<u32> = top_logprobs(&logits, 3).iter().map(|t| t.0.0).collect();
        assert_eq!(top, [1, 3, 0]);
        assert_eq!(top_logprobs(&logits, 0), []);
        assert_eq!(top_logprobs(&logits, 99).len(), 3);
    }
}
