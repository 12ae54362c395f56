//! Models that the configuration file describes one by one, each in a table `[[models]]`.
//!
//! ```toml
//! [[models]]
//! name = "small"
//! model = "/models/small.gguf"
//! ctx_size = 16384
//! keep_alive = "10m"
//! ```
//!
//! A key is one of a model's own ([`OWN`]) or that of a setting which makes sense for one model ([`SHARED`]): those are
//! defined in the table of all settings, and what a model's table says about them wins over flags, environment and the
//! rest of the file, which hold for all models.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use super::args::values_of;
use super::{Settings, TABLE};

/// The key of the tables.
pub(super) const KEY: &str = "models";

/// Keys that only a model's table has, and what they say.
pub(super) const OWN: &[(&str, &str)] = &[
    ("name", "What requests call it. Default: the file's name."),
    ("model", "Its GGUF file. It must be there."),
    ("preload", "`true`: it is loaded at the start. Default: as `--preload` says."),
    ("pinned", "`true`: it stays in memory once it is loaded. Default: as `--pin` says."),
    (
        "weight",
        "Its share of the processor, beside others' weights, where several models are busy. Default: 1.",
    ),
    ("device", "Where it runs: `cpu` is what there is."),
];

/// Settings that a model's table may have.
pub(super) const SHARED: &[&str] = &[
    "ctx_size",
    "kv_type",
    "kv_tokens",
    "parallel",
    "batch_tokens",
    "no_prefix_cache",
    "chat_template",
    "pooling",
    "keep_alive",
    "max_queue",
    "max_queue_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_range",
    "dynatemp_exponent",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "samplers",
    "context_shift",
    "n_keep",
    "seed",
];

/// A model of the configuration file.
#[derive(Clone, Debug)]
pub struct ModelTable {
    pub name: Option<String>,
    pub file: PathBuf,
    pub is_preloaded: Option<bool>,
    pub is_pinned: Option<bool>,
    pub weight: Option<u32>,
    /// What holds for it: what is said for all, changed by what its table says.
    pub settings: Settings,
}

/// The models of a configuration file; `common` is what holds for all.
pub(super) fn tables(config: &toml::Table, common: &Settings) -> Result<Vec<ModelTable>> {
    let Some(value) = config.get(KEY) else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.iter().all(toml::Value::is_table));
    let list =
        list.context("configuration key `models`: each model is a table of its own, under `[[models]]`")?;
    let numbered = list.iter().enumerate();
    let read = |(i, value): (usize, &toml::Value)| {
        let table = value.as_table().expect("all are tables");
        read(table, common).with_context(|| format!("configuration file, the {}. table [[models]]", i + 1))
    };
    numbered.map(read).collect()
}

fn read(table: &toml::Table, common: &Settings) -> Result<ModelTable> {
    let mut model = ModelTable {
        name: None,
        file: PathBuf::new(),
        is_preloaded: None,
        is_pinned: None,
        weight: None,
        settings: common.clone(),
    };
    for (key, value) in table {
        let text = || value.as_str().with_context(|| format!("`{key}` must be text"));
        let switch = || value.as_bool().with_context(|| format!("`{key}` must be true or false"));
        match key.as_str() {
            "name" => model.name = Some(text()?.to_owned()),
            "model" => model.file = text()?.into(),
            "preload" => model.is_preloaded = Some(switch()?),
            "pinned" => model.is_pinned = Some(switch()?),
            "weight" => {
                let weight = value.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
                model.weight = Some(weight.context("`weight` must be a whole number from 1")?);
            }
            "device" if text()? == "cpu" => {}
            "device" => bail!("there is no device `{}`: this build computes on `cpu`", text()?),
            key if SHARED.contains(&key) => {
                let setting = TABLE.iter().find(|s| s.key == key).expect("a test looks that each is there");
                // A list replaces the one that holds for all.
                if let (Settings { dry_sequence_breakers, .. }, "dry_sequence_breakers") =
                    (&mut model.settings, key)
                {
                    dry_sequence_breakers.clear();
                }
                for text in values_of(setting, value)? {
                    (setting.set)(&mut model.settings, &text).map_err(|e| anyhow!("`{key}`: {e}"))?;
                }
            }
            key if TABLE.iter().any(|s| s.key == key) => {
                bail!("`{key}` holds for the whole server, and has no place in a model's table")
            }
            key => bail!("`{key}` is no setting of a model; there are: {}", names()),
        }
    }
    if model.file.as_os_str().is_empty() {
        bail!("`model` is missing: the path of its GGUF file");
    }
    Ok(model)
}

/// All keys of a model's table.
fn names() -> String {
    let own = OWN.iter().map(|(key, _)| *key);
    own.chain(SHARED.iter().copied()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use ingle_chat::KeepAlive;

    use super::*;

    fn read_all(text: &str) -> Result<Vec<ModelTable>, String> {
        let common = Settings { temperature: Some(0.5), ..Settings::default() };
        let config = text.parse().expect("TOML");
        tables(&config, &common).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_shared_key_is_a_setting() {
        for key in SHARED {
            assert!(TABLE.iter().any(|s| s.key == *key), "{key}");
            assert!(OWN.iter().all(|(own, _)| own != key), "{key}");
        }
    }

    #[test]
    fn tables_change_what_holds_for_all() {
        let text = r#"
            [[models]]
            name = "a"
            model = "a.gguf"
            ctx_size = "16k"
            keep_alive = "5m"
            pinned = true
            weight = 3
            device = "cpu"

            [[models]]
            model = "b.gguf"
            temperature = 0
            preload = false
        "#;
        let models = read_all(text).expect("valid");
        let [a, b] = &models[..] else { panic!("two models") };
        assert_eq!((a.name.as_deref(), a.file.to_str()), (Some("a"), Some("a.gguf")));
        assert_eq!((a.is_pinned, a.is_preloaded, a.weight), (Some(true), None, Some(3)));
        assert_eq!((a.settings.ctx_size.0, a.settings.temperature), (Some(16_000), Some(0.5)));
        let five_minutes = KeepAlive::For(std::time::Duration::from_secs(300));
        assert_eq!(a.settings.keep_alive.map(|keep| keep.0), Some(five_minutes));
        assert_eq!((b.settings.temperature, b.settings.ctx_size.0), (Some(0.0), None));
        assert_eq!((b.is_preloaded, b.name.as_deref()), (Some(false), None));
        assert!(read_all("").expect("none").is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let error = read_all(text).expect_err(text);
            assert!(error.contains(expected), "`{text}`: {error}");
        };
        check("models = ['a.gguf']", "`[[models]]`");
        check("[[models]]\nname = 'a'", "`model` is missing");
        check("[[models]]\nmodel = 'a'\nnonsense = 1", "`nonsense` is no setting of a model");
        check("[[models]]\nmodel = 'a'\nport = 1", "`port` holds for the whole server");
        check("[[models]]\nmodel = 'a'\ndevice = 'cuda:0'", "no device `cuda:0`");
        check("[[models]]\nmodel = 'a'\nweight = 0", "`weight` must be");
        check("[[models]]\nmodel = 'a'\npinned = 'yes'", "`pinned` must be true or false");
        check("[[models]]\nmodel = 'a'\nkv_type = 'q3'", "`kv_type`: ");
        check("[[models]]\nmodel = 'a'\n[[models]]\nmodel = 1", "the 2. table");
    }
}
