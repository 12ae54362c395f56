//! `/set parameter`: Ollama's names, and what each is here.

use anyhow::{Result, anyhow, bail};
use ingle_store::modelfile::check_parameter;
use serde_json::Value;

use crate::settings::{Settings, TABLE};

/// What a parameter means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The setting of this key, from the next answer on.
    Setting(&'static str),
    /// The setting of this key, with which the model is loaded again.
    Reload(&'static str),
    /// Nothing: any whole number or truth value is taken, and why it changes no answer is said.
    NoEffect(&'static str),
    /// It is refused, with what to do instead.
    Refused(&'static str),
}

/// A parameter and what Ollama calls it.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub target: Target,
    pub help: &'static str,
}

const fn parameter(name: &'static str, target: Target, help: &'static str) -> Parameter {
    Parameter { name, target, help }
}

const ON_CPU: &str = "everything is computed on the CPU";
const IN_MEMORY: &str = "weights are repacked into memory of their own";

/// All of them: Ollama's first, then further samplers.
pub static PARAMETERS: &[Parameter] = &[
    parameter("seed", Target::Setting("seed"), "the same one gives the same answer; -1 draws one"),
    parameter("num_predict", Target::Setting("max_tokens"), "most tokens of an answer; -1 is no limit"),
    parameter("top_k", Target::Setting("top_k"), "keep the k most likely tokens"),
    parameter("top_p", Target::Setting("top_p"), "keep the smallest set with this much probability"),
    parameter("min_p", Target::Setting("min_p"), "keep tokens at least this likely relative to the best"),
    parameter("num_ctx", Target::Reload("ctx_size"), "tokens of the context; the model is loaded again"),
    parameter("temperature", Target::Setting("temperature"), "0 is greedy, higher is more varied"),
    parameter("repeat_penalty", Target::Setting("repeat_penalty"), "penalty on what was said; 1 is off"),
    parameter("repeat_last_n", Target::Setting("repeat_last_n"), "how many tokens back penalties look"),
    parameter("num_gpu", Target::NoEffect(ON_CPU), "layers on the GPU"),
    parameter("stop", Target::Setting("stop"), "text that ends an answer; several, parted by blanks"),
    parameter("typical_p", Target::Setting("typical_p"), "keep locally typical tokens; 1 is off"),
    parameter("presence_penalty", Target::Setting("presence_penalty"), "subtracted once from what was said"),
    parameter("frequency_penalty", Target::Setting("frequency_penalty"), "subtracted each time it was said"),
    parameter("mirostat", Target::Setting("mirostat"), "0, 1 or 2"),
    parameter("mirostat_tau", Target::Setting("mirostat_tau"), "mirostat's target surprise"),
    parameter("mirostat_eta", Target::Setting("mirostat_eta"), "mirostat's learning rate"),
    parameter("draft_num_predict", Target::Setting("draft_max"), "most tokens that are guessed at a time"),
    parameter("num_thread", Target::Refused("leave, and start again with --threads"), "threads that compute"),
    parameter("num_keep", Target::NoEffect("nothing is ever dropped from the context"), "tokens kept"),
    parameter(
        "num_batch",
        Target::NoEffect("--max-num-batched-tokens sets it at the start"),
        "tokens of a step",
    ),
    parameter("main_gpu", Target::NoEffect(ON_CPU), "which GPU"),
    parameter("low_vram", Target::NoEffect(ON_CPU), "spare the GPU's memory"),
    parameter("use_mmap", Target::NoEffect(IN_MEMORY), "map the file"),
    parameter("use_mlock", Target::NoEffect(IN_MEMORY), "lock memory"),
    parameter("numa", Target::NoEffect("threads run where the system puts them"), "memory near processors"),
    parameter(
        "tfs_z",
        Target::Refused("tail-free sampling is not available; use min_p or top_p"),
        "tail-free sampling",
    ),
    parameter("top_n_sigma", Target::Setting("top_n_sigma"), "keep logits near the best; below 0 is off"),
    parameter("xtc_probability", Target::Setting("xtc_probability"), "chance of excluding top choices"),
    parameter("xtc_threshold", Target::Setting("xtc_threshold"), "what counts as one"),
    parameter("dry_multiplier", Target::Setting("dry_multiplier"), "strength of the DRY penalty"),
    parameter("dry_base", Target::Setting("dry_base"), "its growth"),
    parameter("dry_allowed_length", Target::Setting("dry_allowed_length"), "runs that are free of it"),
    parameter("dry_penalty_last_n", Target::Setting("dry_penalty_last_n"), "how far it looks back"),
    parameter("dynatemp_range", Target::Setting("dynatemp_range"), "half-width of the dynamic temperature"),
    parameter("dynatemp_exponent", Target::Setting("dynatemp_exponent"), "its exponent"),
];

/// Sets a parameter in the settings; what it means is returned.
///
/// # Errors
/// If there is none of this name, or it cannot have this value; the settings are as they were.
pub fn set(settings: &mut Settings, name: &str, value: &str) -> Result<Target> {
    let parameter = PARAMETERS.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = PARAMETERS.iter().map(|p| p.name).collect();
        anyhow!("there is no parameter `{name}`; there are {}", names.join(", "))
    })?;
    match parameter.target {
        Target::Refused(why) => bail!("{name}: {why}"),
        Target::NoEffect(_) => {
            if value.parse::<f64>().is_err() && value.parse::<bool>().is_err() {
                bail!("{name}: `{value}` is neither a number nor true nor false");
            }
        }
        Target::Setting(key) | Target::Reload(key) => {
            let mut changed = settings.clone();
            let setting = TABLE.iter().find(|s| s.key == key).expect("a test looks that each is there");
            if key == "stop" {
                changed.stop.clear();
                for text in value.split_whitespace() {
                    (setting.set)(&mut changed, &unquote(text)).map_err(|why| anyhow!("{name}: {why}"))?;
                }
            } else {
                (setting.set)(&mut changed, value).map_err(|why| anyhow!("{name}: {why}"))?;
            }
            *settings = changed;
        }
    }
    Ok(parameter.target)
}

/// A parameter as a model of the store has it; `None`: such a model has none of this name.
pub fn in_modelfile(name: &str, value: &str) -> Option<Value> {
    let value = match name {
        "stop" => Value::from_iter(value.split_whitespace().map(unquote)),
        _ => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
    };
    check_parameter(name, &value).ok()
}

/// Text without the quotes around it, in which blanks and line ends are written as escapes.
fn unquote(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\s", " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_parameter_of_ollama_s_is_taken_or_refused_by_name() {
        let mut settings = Settings::default();
        for p in PARAMETERS {
            match p.target {
                Target::Setting(key) | Target::Reload(key) => {
                    assert!(TABLE.iter().any(|s| s.key == key), "{key}");
                    set(&mut settings, p.name, "1").expect(p.name);
                }
                Target::NoEffect(_) => assert_eq!(set(&mut settings, p.name, "1").expect(p.name), p.target),
                Target::Refused(_) => {
                    assert!(set(&mut settings, p.name, "1").unwrap_err().to_string().starts_with(p.name));
                }
            }
        }
        assert_eq!((settings.temperature, settings.max_tokens), (Some(1.0), Some(1)));
        assert_eq!((settings.ctx_size.0, settings.seed.0), (Some(1), Some(1)));
    }

    #[test]
    fn models_keep_what_modelfiles_know() {
        for (name, value, expected) in [
            ("temperature", "0.25", Some(json!(0.25))),
            ("num_predict", "-1", Some(json!(-1))),
            ("stop", "END \"\\n\\n\"", Some(json!(["END", "\n\n"]))),
            ("num_gpu", "3", Some(json!(3))),
            ("top_n_sigma", "1", None),
            ("dry_base", "1", None),
        ] {
            assert_eq!(in_modelfile(name, value), expected, "{name}");
        }
    }

    #[test]
    fn wrong_values_change_nothing() {
        let mut settings = Settings::default();
        for (name, value, words) in [
            ("temperature", "hot", "`hot` is not a finite number"),
            ("top_k", "1.5", "top_k"),
            ("num_gpu", "many", "neither a number"),
            ("temprature", "1", "there is no parameter `temprature`; there are seed, num_predict"),
        ] {
            let error = set(&mut settings, name, value).expect_err(name).to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(settings, Settings::default());
        set(&mut settings, "stop", "END \"</s>\" \\n\\n").expect("valid");
        assert_eq!(settings.stop, ["END", "</s>", "\n\n"]);
        set(&mut settings, "stop", "x").expect("valid");
        assert_eq!(settings.stop, ["x"]);
    }
}
