//! From settings to a request's sampling wishes.

use anyhow::{Result, anyhow, bail};
use ingle_chat::Sampling;
use ingle_step::{SamplerKind, TokenId};

use crate::settings::Settings;

/// The sampling wishes among the settings.
///
/// # Errors
/// If a list cannot be read.
pub fn from_settings(s: &Settings) -> Result<Sampling> {
    Ok(Sampling {
        temperature: s.temperature,
        dynatemp_range: s.dynatemp_range,
        dynatemp_exponent: s.dynatemp_exponent,
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        typical_p: s.typical_p,
        top_n_sigma: s.top_n_sigma,
        xtc_probability: s.xtc_probability,
        xtc_threshold: s.xtc_threshold,
        repeat_penalty: s.repeat_penalty,
        repeat_last_n: s.repeat_last_n,
        frequency_penalty: s.frequency_penalty,
        presence_penalty: s.presence_penalty,
        dry_multiplier: s.dry_multiplier,
        dry_base: s.dry_base,
        dry_allowed_length: s.dry_allowed_length,
        dry_penalty_last_n: s.dry_penalty_last_n,
        dry_sequence_breakers: match &s.dry_sequence_breakers[..] {
            [] => None,
            [none] if none == "none" => Some(Vec::new()),
            list => Some(list.to_vec()),
        },
        mirostat: s.mirostat,
        mirostat_tau: s.mirostat_tau,
        mirostat_eta: s.mirostat_eta,
        min_keep: None,
        context_shift: s.context_shift,
        n_keep: s.n_keep,
        n_discard: None,
        order: s.samplers.as_deref().map(order).transpose()?,
        seed: s.seed.0,
        logit_bias: s.logit_bias.iter().map(|b| logit_bias(b)).collect::<Result<_>>()?,
    })
}

/// Reads `top_k;top_p;temperature`.
fn order(list: &str) -> Result<Vec<SamplerKind>> {
    list.split(';')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let known = SamplerKind::DEFAULT_ORDER.into_iter();
            // The spellings with dashes and in full are llama.cpp's too.
            let plain = match name.replace('-', "_").as_str() {
                "typical_p" | "typical" => "typ_p".to_owned(),
                "temp" => "temperature".to_owned(),
                other => other.to_owned(),
            };
            known.clone().find(|k| k.name() == plain).ok_or_else(|| {
                let names: Vec<&str> = known.map(SamplerKind::name).collect();
                anyhow!("--samplers: there is no `{name}`; there are {}", names.join(", "))
            })
        })
        .collect()
}

/// Reads `15043+1`, `15043-inf` or `15043=false`.
fn logit_bias(text: &str) -> Result<(TokenId, f32)> {
    let wrong = || anyhow!("--logit-bias: `{text}` is not TOKEN+BIAS or TOKEN-BIAS, such as 15043+1");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let token = text[..digits].parse().map_err(|_| wrong())?;
    let bias: f32 = match &text[digits..] {
        "=false" | "-inf" => f32::NEG_INFINITY,
        rest if rest.starts_with(['+', '-']) => rest.parse().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    if bias.is_nan() || bias == f32::INFINITY {
        bail!("--logit-bias: `{text}`: the bias must be a number or -inf");
    }
    Ok((TokenId(token), bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_biases_as_llama_cpp_writes_them() {
        assert_eq!(logit_bias("15043+1").unwrap(), (TokenId(15043), 1.0));
        assert_eq!(logit_bias("7-0.5").unwrap(), (TokenId(7), -0.5));
        assert_eq!(logit_bias("7-inf").unwrap().1, f32::NEG_INFINITY);
        for bad in ["", "x", "7", "7*2", "7+nan", "99999999999+1", "7+inf"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_sampler_orders() {
        use SamplerKind::*;
        assert_eq!(order("top-k;typical_p;temp").unwrap(), [TopK, TypicalP, Temperature]);
        assert!(order("top_k;nonsense").unwrap_err().to_string().contains("`nonsense`"));
    }
}
