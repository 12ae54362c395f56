//! What the settings say about speculation, our own and vLLM's `--speculative-config`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ingle_runtime::{GuessSource, Source, SpeculationConfig};
use serde_json::{Map, Value};

use crate::settings::Settings;

/// Most tokens that can be guessed at a time.
const DRAFT_MAX: u32 = 64;

/// How to guess, and the model that does.
pub fn from_settings(s: &Settings) -> Result<(SpeculationConfig, Option<Source>)> {
    let vllm = match &s.speculative_config {
        Some(text) => Vllm::read(text).context("--speculative-config")?,
        None => Vllm::default(),
    };
    let mut config = SpeculationConfig::default();
    let model = s.draft_model.clone().or(vllm.model);
    config.source = s.speculation.or(vllm.source).unwrap_or_default();
    if config.source == GuessSource::Draft && model.is_none() {
        bail!("--speculation draft: give the draft model with --model-draft FILE");
    }
    if let Some(n) = s.draft_max.or(vllm.draft_max) {
        if n > DRAFT_MAX {
            bail!("--draft-max: {n} tokens at a time; at most {DRAFT_MAX} are guessed");
        }
        config.draft_max = n as usize;
    }
    if let Some(n) = s.draft_min {
        if n as usize > config.draft_max {
            bail!("--draft-min: {n} is more than the {} of --draft-max", config.draft_max);
        }
        config.draft_min = n as usize;
    }
    if let Some(p) = s.draft_p_min {
        if !(0.0..=1.0).contains(&p) {
            bail!("--draft-p-min: {p} is no probability: it lies between 0 and 1");
        }
        config.p_min = p;
    }
    // A model that would never be asked takes no memory.
    let asks = matches!(config.source, GuessSource::Draft | GuessSource::Auto) && config.draft_max > 0;
    Ok((config, model.filter(|_| asks).map(Source::File)))
}

/// What vLLM's configuration says.
#[derive(Debug, Default, PartialEq)]
struct Vllm {
    source: Option<GuessSource>,
    model: Option<PathBuf>,
    draft_max: Option<u32>,
}

impl Vllm {
    fn read(text: &str) -> Result<Self> {
        let fields: Map<String, Value> = serde_json::from_str(text).context("it must be a JSON object")?;
        let mut found = Self::default();
        for (name, value) in &fields {
            let count = || value.as_u64().and_then(|n| u32::try_from(n).ok());
            match (name.as_str(), value) {
                ("method", Value::String(method)) => found.source = Some(method_of(method)?),
                ("model", Value::String(model)) => match model.as_str() {
                    "ngram" | "[ngram]" => found.source = Some(GuessSource::Lookup),
                    path => found.model = Some(path.into()),
                },
                ("num_speculative_tokens", _) => {
                    found.draft_max = Some(count().context("`num_speculative_tokens` must be a count")?);
                }
                // Matches are as long as the text has them, from three tokens on: these change no answer.
                ("prompt_lookup_min" | "prompt_lookup_max", _) if count().is_some() => {}
                ("draft_tensor_parallel_size", _) if count() == Some(1) => {}
                ("method" | "model", _) => bail!("`{name}` must be a string"),
                (other, _) => bail!(
                    "`{other}` is not supported with this value; method, model and num_speculative_tokens are"
                ),
            }
        }
        Ok(found)
    }
}

fn method_of(method: &str) -> Result<GuessSource> {
    match method {
        "ngram" | "suffix" => Ok(GuessSource::Lookup),
        "draft_model" => Ok(GuessSource::Draft),
        other => bail!("the method `{other}` is not supported; ngram, suffix and draft_model are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: Settings, expected: Result<(GuessSource, usize, Option<&str>), &str>) {
        let found = from_settings(&settings);
        match (found, expected) {
            (Ok((config, model)), Ok((source, draft_max, path))) => {
                assert_eq!((config.source, config.draft_max), (source, draft_max));
                assert_eq!(model, path.map(|path| Source::File(path.into())));
            }
            (Err(error), Err(expected)) => {
                let error = format!("{error:#}");
                assert!(error.contains(expected), "{error}");
            }
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn settings_and_vllms_configuration() {
        use GuessSource::{Auto, Draft, Lookup, Off};
        let of = Settings::default;
        let vllm = |text: &str| Settings { speculative_config: Some(text.into()), ..of() };
        let model = |source| Settings { speculation: source, draft_model: Some("d.gguf".into()), ..of() };
        check(of(), Ok((Auto, 16, None)));
        check(model(None), Ok((Auto, 16, Some("d.gguf"))));
        check(model(Some(Draft)), Ok((Draft, 16, Some("d.gguf"))));
        check(model(Some(Off)), Ok((Off, 16, None)));
        check(Settings { speculation: Some(Draft), ..of() }, Err("--model-draft"));
        check(Settings { draft_max: Some(64), draft_min: Some(64), ..of() }, Ok((Auto, 64, None)));
        check(Settings { draft_max: Some(65), ..of() }, Err("--draft-max: 65"));
        check(Settings { draft_max: Some(4), draft_min: Some(5), ..of() }, Err("--draft-min: 5"));
        check(Settings { draft_p_min: Some(1.5), ..of() }, Err("--draft-p-min: 1.5"));
        check(
            vllm(r#"{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}"#),
            Ok((Lookup, 5, None)),
        );
        check(vllm(r#"{"model": "[ngram]"}"#), Ok((Lookup, 16, None)));
        check(vllm(r#"{"model": "x.gguf", "num_speculative_tokens": 3}"#), Ok((Auto, 3, Some("x.gguf"))));
        check(vllm(r#"{"method": "eagle3"}"#), Err("--speculative-config: the method `eagle3`"));
        check(vllm(r#"{"quantization": "fp8"}"#), Err("`quantization` is not supported"));
        check(vllm(r#"{"num_speculative_tokens": -1}"#), Err("must be a count"));
        check(vllm("ngram"), Err("must be a JSON object"));
        check(
            Settings { speculation: Some(Off), draft_max: Some(2), ..vllm(r#"{"method": "suffix"}"#) },
            Ok((Off, 2, None)),
        );
    }
}
