//! The sampling settings that a model's maker recommends, from `general.sampling.*`.

use ingle_chat::Sampling;
use ingle_gguf::{GgufError, Metadata};
use ingle_step::SamplerKind;

/// What the metadata recommends; what it does not name stays `None`.
///
/// # Errors
/// If a key has another type than the format gives it, or a value out of range.
pub fn sampling(md: &Metadata) -> Result<Sampling, GgufError> {
    let float = |name: &str| md.opt_f32(&format!("general.sampling.{name}"));
    let int = |name: &str| -> Result<Option<i32>, GgufError> {
        let key = format!("general.sampling.{name}");
        match md.get(&key) {
            Some(ingle_gguf::Value::I32(v)) => Ok(Some(*v)),
            _ => md
                .opt_u64(&key)?
                .map(|v| {
                    i32::try_from(v)
                        .map_err(|_| GgufError::BadValue { key, what: format!("{v} is too large") })
                })
                .transpose(),
        }
    };
    let order = md.opt_str("general.sampling.sequence")?.map(|letters| {
        // llama.cpp writes one letter per sampler; letters it may add later are skipped.
        letters.chars().filter_map(kind_of_letter).collect::<Vec<_>>()
    });
    Ok(Sampling {
        temperature: float("temp")?,
        top_k: int("top_k")?,
        top_p: float("top_p")?,
        min_p: float("min_p")?,
        xtc_probability: float("xtc_probability")?,
        xtc_threshold: float("xtc_threshold")?,
        repeat_last_n: int("penalty_last_n")?,
        repeat_penalty: float("penalty_repeat")?,
        mirostat: int("mirostat")?.and_then(|v| u8::try_from(v).ok()),
        mirostat_tau: float("mirostat_tau")?,
        mirostat_eta: float("mirostat_eta")?,
        order: order.filter(|o| !o.is_empty()),
        ..Sampling::default()
    })
}

fn kind_of_letter(letter: char) -> Option<SamplerKind> {
    Some(match letter {
        'e' => SamplerKind::Penalties,
        'd' => SamplerKind::Dry,
        's' => SamplerKind::TopNSigma,
        'k' => SamplerKind::TopK,
        'y' => SamplerKind::TypicalP,
        'p' => SamplerKind::TopP,
        'm' => SamplerKind::MinP,
        'x' => SamplerKind::Xtc,
        't' => SamplerKind::Temperature,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ingle_gguf::Value;

    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let mut md = Metadata::default();
        md.set("general.sampling.temp", Value::F32(0.6));
        md.set("general.sampling.top_k", Value::I32(20));
        md.set("general.sampling.sequence", Value::from("kt"));
        let s = sampling(&md).unwrap();
        assert_eq!((s.temperature, s.top_k, s.top_p), (Some(0.6), Some(20), None));
        assert_eq!(s.order.unwrap(), [SamplerKind::TopK, SamplerKind::Temperature]);
        md.set("general.sampling.temp", Value::from("hot"));
        assert!(sampling(&md).unwrap_err().to_string().contains("general.sampling.temp"));
    }
}
