//! The ranges of what a request may ask for.

use std::fmt::Display;
use std::ops::RangeBounds;

use ingle_chat::{ProviderError, Request};
use ingle_step::{SamplingParams, TokenId};

use super::invalid;

/// The most answers to one request.
pub const CHOICES_MAX: u32 = 128;
/// The most alternatives to a token.
pub const LOGPROBS_MAX: u32 = 20;
/// The most log-probabilities that one prompt gives, alternatives included: they are sent in one piece.
pub const PROMPT_LOGPROBS_ENTRIES_MAX: usize = 1 << 18;
/// The most prompt tokens over all answers to one request: each answer keeps its own history.
pub const CHOICE_TOKENS_MAX: usize = 1 << 20;
/// The most stop strings.
pub const STOPS_MAX: usize = 64;
/// The longest stop string.
pub const STOP_BYTES_MAX: usize = 1024;
/// The most stop tokens.
pub const STOP_TOKENS_MAX: usize = 1024;
/// The most DRY sequence breakers.
pub const DRY_BREAKERS_MAX: usize = 64;
/// The longest DRY sequence breaker.
const DRY_BREAKER_BYTES_MAX: usize = 256;
/// The longest sampler chain: each step reads all candidates.
const ORDER_MAX: usize = 32;

/// Refuses what is out of range, apart from sampling.
pub(super) fn check_request(request: &Request, n_vocab: usize) -> Result<(), ProviderError> {
    within("n", request.n, 1..=CHOICES_MAX, "from 1 to 128")?;
    let most = "from 0 to 20";
    within("logprobs", request.logprobs.unwrap_or(0), ..=LOGPROBS_MAX, most)?;
    within("prompt_logprobs", request.prompt_logprobs.unwrap_or(0), ..=LOGPROBS_MAX, most)?;
    at_most("stop", request.stop.len(), STOPS_MAX)?;
    for stop in &request.stop {
        if stop.is_empty() {
            return Err(invalid("stop", "a stop string is empty: leave it out".into()));
        }
        if stop.len() > STOP_BYTES_MAX {
            let message =
                format!("a stop string has {} bytes; at most {STOP_BYTES_MAX} are allowed", stop.len());
            return Err(invalid("stop", message));
        }
    }
    at_most("stop_token_ids", request.stop_token_ids.len(), STOP_TOKENS_MAX)?;
    in_vocabulary("stop_token_ids", request.stop_token_ids.iter().copied(), n_vocab)
}

/// Refuses more answers to a long prompt than there is memory for.
pub(super) fn check_choices(n: u32, n_prompt: usize) -> Result<(), ProviderError> {
    let n_tokens = n_prompt.saturating_mul(n as usize);
    if n > 1 && n_tokens > CHOICE_TOKENS_MAX {
        let message = format!(
            "{n} answers to a prompt of {n_prompt} tokens are {n_tokens} tokens; at most {CHOICE_TOKENS_MAX} are \
             allowed: ask for fewer answers"
        );
        return Err(invalid("n", message));
    }
    Ok(())
}

/// Refuses log-probabilities for more of a prompt than can be sent.
pub(super) fn check_prompt_logprobs(wanted: Option<u32>, n_prompt: usize) -> Result<(), ProviderError> {
    let Some(n_top) = wanted else { return Ok(()) };
    let n_entries = n_prompt.saturating_mul(n_top as usize + 1);
    if n_entries > PROMPT_LOGPROBS_ENTRIES_MAX {
        let message = format!(
            "{n_prompt} prompt tokens with {n_top} alternatives are {n_entries} log-probabilities; at most \
             {PROMPT_LOGPROBS_ENTRIES_MAX} are given: ask for fewer alternatives"
        );
        return Err(invalid("prompt_logprobs", message));
    }
    Ok(())
}

/// Refuses sampling settings that are out of range.
pub(super) fn check_params(p: &SamplingParams, n_vocab: usize) -> Result<(), ProviderError> {
    let (positive, fraction) = ("0 or more", "from 0 to 1");
    let share = "more than 0 and at most 1";
    let max = f32::MAX; // so that infinity is out of range
    within("temperature", p.temperature, 0.0..=max, positive)?;
    within("dynatemp_range", p.dynatemp_range, 0.0..=max, positive)?;
    within("dynatemp_exponent", p.dynatemp_exponent, -max..=max, "finite")?;
    within("top_p", p.top_p, f32::MIN_POSITIVE..=1.0, share)?;
    within("min_p", p.min_p, 0.0..=1.0, fraction)?;
    within("typical_p", p.typical_p, f32::MIN_POSITIVE..=1.0, share)?;
    within("top_n_sigma", p.top_n_sigma, -max..=max, "finite")?;
    within("xtc_probability", p.xtc_probability, 0.0..=1.0, fraction)?;
    within("xtc_threshold", p.xtc_threshold, 0.0..=1.0, fraction)?;
    within("repeat_penalty", p.repeat_penalty, f32::MIN_POSITIVE..=max, "more than 0")?;
    within("repeat_last_n", p.repeat_last_n, -1.., "-1 or more")?;
    within("frequency_penalty", p.frequency_penalty, -max..=max, "finite")?;
    within("presence_penalty", p.presence_penalty, -max..=max, "finite")?;
    within("dry_multiplier", p.dry_multiplier, 0.0..=max, positive)?;
    within("dry_base", p.dry_base, 0.0..=max, positive)?;
    within("dry_allowed_length", p.dry_allowed_length, 0.., positive)?;
    within("dry_penalty_last_n", p.dry_penalty_last_n, -1.., "-1 or more")?;
    at_most("dry_sequence_breakers", p.dry_sequence_breakers.len(), DRY_BREAKERS_MAX)?;
    for breaker in &p.dry_sequence_breakers {
        let n_bytes = breaker.len();
        within("dry_sequence_breakers", n_bytes, 1..=DRY_BREAKER_BYTES_MAX, "of 1 to 256 bytes each")?;
    }
    if let Some(mirostat) = &p.mirostat {
        within("mirostat", mirostat.version, 1..=2, "0, 1 or 2")?;
        within("mirostat_tau", mirostat.tau, 0.0..=max, positive)?;
        within("mirostat_eta", mirostat.eta, 0.0..=max, positive)?;
    }
    within("min_keep", p.min_keep, ..=n_vocab, "at most the size of the vocabulary")?;
    at_most("order", p.order.len(), ORDER_MAX)?;
    at_most("logit_bias", p.logit_bias.len(), n_vocab)?;
    in_vocabulary("logit_bias", p.logit_bias.iter().map(|b| b.0), n_vocab)?;
    for &(_, bias) in &p.logit_bias {
        within("logit_bias", bias, f32::NEG_INFINITY..=max, "finite, or -inf to forbid a token")?;
    }
    Ok(())
}

fn within<T: PartialOrd + Display>(
    param: &str,
    value: T,
    range: impl RangeBounds<T>,
    allowed: &str,
) -> Result<(), ProviderError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(invalid(param, format!("{param} must be {allowed}, and is {value}")))
}

fn at_most(param: &str, n: usize, n_max: usize) -> Result<(), ProviderError> {
    if n <= n_max {
        return Ok(());
    }
    Err(invalid(param, format!("{param} has {n} entries; at most {n_max} are allowed")))
}

fn in_vocabulary(
    param: &str,
    mut tokens: impl Iterator<Item = TokenId>,
    n_vocab: usize,
) -> Result<(), ProviderError> {
    match tokens.find(|t| t.0 as usize >= n_vocab) {
        Some(token) => {
            Err(invalid(param, format!("{param} names token {token}; the vocabulary has {n_vocab}")))
        }
        None => Ok(()),
    }
}
