//! The short commands: `convert`, `tokenize`, `render`, `settings`, `openapi`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use ingle_chat::template::{ChatTemplate, TemplateOptions};
use ingle_convert::WeightType;
use ingle_gguf::{Array, GgufFile, Value};
use ingle_tokenizer::Tokenizer;
use serde_json::json;

use crate::settings;

/// Most bytes that are read from standard input.
const STDIN_BYTES_MAX: u64 = 1 << 30;

/// A command with its options, as clap knows it.
pub fn command(name: &'static str, about: &'static str, list: &[Arg]) -> Command {
    Command::new(name)
        .bin_name(format!("ingle {name}"))
        .about(about)
        .no_binary_name(true)
        .args(list.iter().cloned())
}

/// What a command line says. Ends the process, with a word, where it is wrong or asks for help.
pub fn matches(command: Command, args: &[OsString]) -> ArgMatches {
    command.try_get_matches_from(args).unwrap_or_else(|error| crate::outcome::leave(&error, args))
}

/// An option that is present or not.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// An option with a value.
pub fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn stdin_text() -> Result<String> {
    crate::run::read_text(std::io::stdin(), "standard input", STDIN_BYTES_MAX)
}

fn open(path: &str) -> Result<GgufFile> {
    GgufFile::open(&PathBuf::from(path)).with_context(|| format!("cannot use {path}"))
}

/// The options of `ingle settings`.
pub fn settings_command() -> Command {
    command("settings", "List every setting.", &[flag("markdown", "As the page docs/settings.md")])
}

/// `ingle settings`
pub fn settings(args: &[OsString]) -> Result<()> {
    let m = matches(settings_command(), args);
    let mut out = std::io::stdout().lock();
    if m.get_flag("markdown") {
        write!(out, "{}", settings::markdown())?;
        return Ok(());
    }
    for s in settings::TABLE {
        let default = if s.default.is_empty() { String::new() } else { format!(" [{}]", s.default) };
        writeln!(out, "--{:28} {:32} {}{default}", s.flag, s.env(), s.help)?;
    }
    Ok(())
}

/// The options of `ingle openapi`.
pub fn openapi_command() -> Command {
    command("openapi", "Print what /openapi.json says: the HTTP API, described in OpenAPI 3.1.", &[])
}

/// `ingle openapi`
pub fn openapi(args: &[OsString]) -> Result<()> {
    matches(openapi_command(), args);
    write!(std::io::stdout(), "{}", ingle_api::openapi::document())?;
    Ok(())
}

/// The options of `ingle convert`.
pub fn convert_command() -> Command {
    command(
        "convert",
        "Make a GGUF file of a folder as Hugging Face lays it out: config.json, model.safetensors and a tokenizer. Models \
         of architecture bert are converted, which embed or rank texts.",
        &[
            Arg::new("folder").value_name("FOLDER").required(true).help("The folder"),
            option("output", "FILE", "The GGUF file to write; it must not be there yet")
                .short('o')
                .required(true),
            option("type", "TYPE", "Type of the matrices")
                .value_parser(WeightType::ALL.map(WeightType::name))
                .default_value("f16"),
        ],
    )
}

/// `ingle convert`
pub fn convert(args: &[OsString]) -> Result<()> {
    let m = matches(convert_command(), args);
    let text = |name: &str| m.get_one::<String>(name).expect("required, or it has a default");
    let weight_type = WeightType::from_name(text("type")).expect("the parser takes known names");
    let (folder, output) = (PathBuf::from(text("folder")), PathBuf::from(text("output")));
    let converted = ingle_convert::convert(&folder, weight_type)
        .with_context(|| format!("cannot convert {}", folder.display()))?;
    for note in &converted.notes {
        say!("ingle convert: {note}");
    }
    converted.write(&output)?;
    let n_bytes = std::fs::metadata(&output).map(|file| file.len())?;
    writeln!(std::io::stdout(), "{} ({n_bytes} bytes)", output.display())?;
    Ok(())
}

/// The options of `ingle tokenize`.
pub fn tokenize_command() -> Command {
    command(
        "tokenize",
        "Print the tokens of the text on standard input. It is taken as content: no control token is parsed.",
        &[
            option("model", "FILE", "GGUF file whose tokenizer is used").short('m').required(true),
            flag("bos", "Add what the model starts and ends texts with"),
            flag("json", r#"Print {"ids": [...]}"#),
        ],
    )
}

/// `ingle tokenize`
pub fn tokenize(args: &[OsString]) -> Result<()> {
    let m = matches(tokenize_command(), args);
    let file = open(m.get_one::<String>("model").expect("required"))?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let text = stdin_text()?;
    let ids = if m.get_flag("bos") {
        tokenizer.encode(&ingle_chat::Segments::content(text), true)
    } else {
        tokenizer.encode_content(&text)
    };
    let mut out = std::io::stdout().lock();
    if m.get_flag("json") {
        writeln!(out, "{}", json!({ "ids": ids.iter().map(|id| id.0).collect::<Vec<_>>() }))?;
    } else {
        for id in ids {
            writeln!(out, "{:7} {:?}", id.0, tokenizer.token_text(id))?;
        }
    }
    Ok(())
}

/// The options of `ingle render`.
pub fn render_command() -> Command {
    command(
        "render",
        "Render a chat template with the variables on standard input (JSON: messages, tools, ...), and print the \
         prompt as it is.",
        &[
            option("template", "FILE", "Jinja file"),
            option("model", "FILE", "GGUF file whose template is used").short('m').conflicts_with("template"),
        ],
    )
}

/// `ingle render`
pub fn render(args: &[OsString]) -> Result<()> {
    let m = matches(render_command(), args);
    let mut options = TemplateOptions::default();
    let source = match (m.get_one::<String>("template"), m.get_one::<String>("model")) {
        (Some(path), None) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?,
        (None, Some(path)) => {
            let file = open(path)?;
            let tokenizer = Tokenizer::from_metadata(file.metadata())?;
            let text =
                |id: Option<ingle_step::TokenId>| id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
            options.bos_token = text(tokenizer.bos());
            options.eos_token = text(tokenizer.eos());
            file.metadata()
                .opt_str("tokenizer.chat_template")?
                .map(str::to_owned)
                .with_context(|| format!("{path} has no chat template; give one with --template"))?
        }
        _ => misuse!("give a template with --template FILE, or a model with --model FILE"),
    };
    let mut vars: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&stdin_text()?).context("standard input is no JSON object")?;
    let now = match vars.remove("now") {
        None => crate::clock::now(),
        Some(serde_json::Value::String(text)) => crate::clock::parse(&text).context("`now`")?,
        Some(other) => bail!("`now` is {other}; it must be a time such as \"2025-03-14T15:09:26\""),
    };
    let template = ChatTemplate::new(&source, options)?;
    let text = template.render_vars(&vars, now)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// `1.2 GB`
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// `1 model`, `2 models`
pub fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// `1.24 billion`
pub fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.2} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

/// A metadata value as one short line.
pub fn short_value(value: &Value) -> String {
    const SHOWN: usize = 100;
    match value {
        Value::Array(a) => format!("[{} × {}]", a.len(), a.element_type()),
        Value::String(s) => {
            let text = String::from_utf8_lossy(s);
            let mut shown: String = text.chars().take(SHOWN).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            format!("{shown:?}")
        }
        other => json_value(other).to_string(),
    }
}

pub fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(String::from_utf8_lossy(v)),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(a) => match a {
            Array::U8(v) => json!(v),
            Array::I8(v) => json!(v),
            Array::U16(v) => json!(v),
            Array::I16(v) => json!(v),
            Array::U32(v) => json!(v),
            Array::I32(v) => json!(v),
            Array::F32(v) => json!(v),
            Array::Bool(v) => json!(v),
            Array::String(v) => v.iter().map(|s| json!(String::from_utf8_lossy(s))).collect(),
            Array::U64(v) => json!(v),
            Array::I64(v) => json!(v),
            Array::F64(v) => json!(v),
        },
    }
}
