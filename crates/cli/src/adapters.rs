//! Adapters, as command lines name them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ingle_runtime::AdapterSource;
use serde_json::{Map, Value};

use crate::settings::Settings;

/// What is to be loaded with a model.
///
/// # Errors
/// With the option that cannot be read, and how it is written.
pub fn sources(s: &Settings) -> Result<Vec<AdapterSource>> {
    // llama.cpp parts several by commas.
    let parts = |list: &[String]| -> Vec<String> {
        list.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
    };
    let applied = |scale| if s.lora_init_without_apply { 0.0 } else { scale };
    let mut out = Vec::new();
    for path in parts(&s.lora) {
        if path.is_empty() {
            bail!("--lora: the file's name is empty");
        }
        out.push(AdapterSource { name: None, path: path.into(), scale: applied(1.0) });
    }
    for text in parts(&s.lora_scaled) {
        let (path, scale) = scaled(&text).with_context(|| format!("--lora-scaled: `{text}`"))?;
        out.push(AdapterSource { name: None, path, scale: applied(scale) });
    }
    for text in &s.lora_modules {
        let (name, path) = module(text).with_context(|| format!("--lora-modules: `{text}`"))?;
        out.push(AdapterSource { name: Some(name), path, scale: 0.0 });
    }
    Ok(out)
}

/// `FILE:SCALE`
fn scaled(text: &str) -> Result<(PathBuf, f32)> {
    let (path, scale) = text.rsplit_once(':').context("write FILE:SCALE, as in sql.gguf:0.5")?;
    let number: f32 = scale
        .parse()
        .ok()
        .filter(|x: &f32| x.is_finite())
        .with_context(|| format!("`{scale}` is no number"))?;
    if path.is_empty() {
        bail!("the file's name is empty");
    }
    Ok((path.into(), number))
}

/// `NAME=PATH`, or vLLM's JSON.
fn module(text: &str) -> Result<(String, PathBuf)> {
    if text.starts_with('{') {
        let mut map: Map<String, Value> = serde_json::from_str(text)?;
        let mut take = |key: &str| match map.remove(key) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => bail!("`{key}` is missing"),
        };
        let (name, path) = (take("name")?, take("path")?);
        if let Some((key, _)) = map.into_iter().find(|(_, value)| !value.is_null()) {
            bail!("`{key}` is not known here; `name` and `path` are");
        }
        return Ok((name, path.into()));
    }
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => bail!("write NAME=PATH, as in sql=adapters/sql"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let settings = Settings {
            lora: strings(&["a.gguf,b.gguf", "c"]),
            lora_scaled: strings(&["d.gguf:0.5", "e:f.gguf:-2"]),
            lora_modules: strings(&["g=h/i=j", r#"{"name":"k","path":"l","base_model_name":null}"#]),
            ..Settings::default()
        };
        let found = sources(&settings).expect("valid");
        let expected = [
            (None, "a.gguf", 1.0),
            (None, "b.gguf", 1.0),
            (None, "c", 1.0),
            (None, "d.gguf", 0.5),
            (None, "e:f.gguf", -2.0),
            (Some("g"), "h/i=j", 0.0),
            (Some("k"), "l", 0.0),
        ];
        let expected = expected.map(|(name, path, scale): (Option<&str>, &str, f32)| AdapterSource {
            name: name.map(str::to_owned),
            path: path.into(),
            scale,
        });
        assert_eq!(found, expected);
        let off = sources(&Settings { lora_init_without_apply: true, ..settings }).expect("valid");
        assert!(off.iter().all(|source| source.scale == 0.0));
    }

    #[test]
    fn wrong_options() {
        let check = |settings: Settings, expected: &str| {
            let error = format!("{:#}", sources(&settings).expect_err("refused"));
            assert!(error.contains(expected), "{error}");
        };
        let of = |text: &str| vec![text.to_owned()];
        let scaled = |text| Settings { lora_scaled: of(text), ..Settings::default() };
        let module = |text| Settings { lora_modules: of(text), ..Settings::default() };
        check(Settings { lora: of("a,"), ..Settings::default() }, "--lora");
        check(scaled("a.gguf"), "FILE:SCALE");
        check(scaled("a.gguf:x"), "`x` is no number");
        check(scaled("a.gguf:inf"), "`inf` is no number");
        check(scaled(":1"), "empty");
        check(module("a"), "NAME=PATH");
        check(module("=b"), "NAME=PATH");
        check(module(r#"{"name":"a"}"#), "`path` is missing");
        check(module(r#"{"name":"a","path":"b","x":1}"#), "`x` is not known");
    }
}
