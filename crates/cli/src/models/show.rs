//! `ingle show`: what a model is.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction};
use ingle_gguf::{GgufFile, TensorInfo};
use ingle_store::modelfile::Modelfile;
use ingle_store::{Entry, Installed, Template};
use serde_json::{Map, Value, json};

use super::{Chosen, Models, list, of_argument};
use crate::chat::escape;
use crate::commands::{bytes, count, json_value, short_value};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

pub const SHOW: Usage = Usage {
    name: "show",
    about: "Describe a model: architecture, parameters, types of its tensors, context, memory, template, licence.",
    command: Commands::STORE,
    positional: &[("MODEL", "Name of a model in the store, or a GGUF file")],
};

/// The block size in which the KV cache grows, in tokens.
const KV_BLOCK_TOKENS: usize = 32;
/// How much of a long text the page shows.
const LINES_SHOWN: usize = 4;

/// A model, with all that is known of it.
struct Shown {
    chosen: Chosen,
    file: GgufFile,
    entry: Option<Entry>,
}

/// What `ingle show` has besides its settings.
pub fn show_options() -> [Arg; 7] {
    let flag = |name: &'static str, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    [
        flag("license", "Print the licence only"),
        flag("modelfile", "Print the Modelfile of a model in the store"),
        flag("parameters", "Print the parameters only"),
        flag("system", "Print the system message only"),
        flag("template", "Print the chat template only"),
        flag("tensors", "List every tensor"),
        flag("verbose", "Print the file's metadata too").short('v'),
    ]
}

/// `ingle show`
pub fn show(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(SHOW, &show_options(), args, &Facts::default())?;
    let Some(argument) = parsed.positional.first() else { misuse!("name a model: `ingle show MODEL`") };
    let parts = ["license", "modelfile", "parameters", "system", "template"];
    if let [one, other, ..] = parts.into_iter().filter(|part| m.get_flag(part)).collect::<Vec<_>>()[..] {
        misuse!("--{one} and --{other} ask for one part of a model each; give one of them");
    }
    let shown = open(argument, &parsed.settings)?;
    let is_terminal = std::io::stdout().is_terminal();
    let mut out = std::io::stdout().lock();
    for (name, part) in [
        ("license", shown.license()),
        ("modelfile", shown.modelfile()),
        ("parameters", shown.parameters()),
        ("system", shown.system()),
        ("template", shown.template()?),
    ] {
        if m.get_flag(name) {
            match part {
                Some(text) if parsed.settings.json => {
                    writeln!(out, "{}", serde_json::to_string_pretty(&json!({ name: text }))?)?;
                }
                // For a file as it is, for a terminal with nothing in it that could steer it.
                Some(text) if is_terminal => writeln!(out, "{}", escape(text.trim_end_matches('\n')))?,
                Some(text) => writeln!(out, "{}", text.trim_end_matches('\n'))?,
                None => bail!("{argument} has no {name}"),
            }
            return Ok(());
        }
    }
    if parsed.settings.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&shown.report()?)?)?;
        return Ok(());
    }
    shown.print(&mut out)?;
    if m.get_flag("verbose") {
        writeln!(out, "\n  Metadata")?;
        for (key, value) in shown.file.metadata().iter() {
            // Names come from the file: what could steer a terminal is shown as an escape.
            writeln!(out, "    {} = {}", key.escape_debug(), short_value(value))?;
        }
    }
    if m.get_flag("tensors") {
        writeln!(out, "\n  Tensors")?;
        for t in shown.file.tensors() {
            writeln!(out, "    {:40} {:8} {:?}", t.name.escape_debug().to_string(), t.ty.name(), t.dims)?;
        }
    }
    Ok(())
}

fn open(argument: &str, settings: &Settings) -> Result<Shown> {
    let chosen = of_argument(argument.as_ref(), settings, false)?;
    let entry = match chosen.installed.as_ref().and_then(|installed| installed.name.clone()) {
        Some(name) => Models::open(settings)?.store.find(&name)?,
        None => None,
    };
    let file = chosen.source.open().with_context(|| format!("cannot use {argument}"))?;
    Ok(Shown { chosen, file, entry })
}

impl Shown {
    fn installed(&self) -> Option<&Installed> {
        self.chosen.installed.as_ref()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.file.metadata().opt_str(key).ok().flatten().map(str::to_owned)
    }

    fn license(&self) -> Option<String> {
        let of_store =
            self.installed().map(|installed| installed.licenses.join("\n\n")).filter(|text| !text.is_empty());
        of_store.or_else(|| self.text("general.license"))
    }

    /// What makes the model once more; a file alone has nothing to say.
    fn modelfile(&self) -> Option<String> {
        self.installed().map(|installed| Modelfile::of(installed).to_text_with_gaps())
    }

    fn system(&self) -> Option<String> {
        self.installed().and_then(|installed| installed.system.clone())
    }

    /// One parameter a line, lists one line for each value, as Modelfiles have them.
    fn parameters(&self) -> Option<String> {
        let params = &self.installed()?.params.0;
        let plain =
            |value: &Value| value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
        let lines = params.iter().flat_map(|(key, value)| match value {
            Value::Array(values) => {
                values.iter().map(|v| format!("{key:<30} {}", plain(v))).collect::<Vec<_>>()
            }
            value => vec![format!("{key:<30} {}", plain(value))],
        });
        Some(lines.collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty())
    }

    fn template(&self) -> Result<Option<String>> {
        Ok(match self.installed().and_then(|installed| installed.template.clone()) {
            Some(Template::Go(text) | Template::Jinja(text)) => Some(text),
            None => self.file.metadata().opt_str("tokenizer.chat_template")?.map(str::to_owned),
        })
    }

    /// Tensors and bytes of each type, the largest first.
    fn mixture(&self) -> Vec<(&'static str, u64, u64)> {
        let mut by_type: Vec<(&'static str, u64, u64)> = Vec::new();
        for t in self.file.tensors() {
            match by_type.iter_mut().find(|(name, ..)| *name == t.ty.name()) {
                Some(entry) => {
                    entry.1 += 1;
                    entry.2 += t.n_bytes() as u64;
                }
                None => by_type.push((t.ty.name(), 1, t.n_bytes() as u64)),
            }
        }
        by_type.sort_by_key(|&(_, _, bytes)| std::cmp::Reverse(bytes));
        by_type
    }

    fn print(&self, out: &mut impl Write) -> Result<()> {
        let row = |out: &mut dyn Write, key: &str, value: String| writeln!(out, "    {key:<22} {value}");
        writeln!(out, "  Model")?;
        row(out, "name", self.chosen.shown.clone())?;
        if let Some(entry) = &self.entry {
            row(out, "digest", entry.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()))?;
            row(out, "from", list::origin(&entry.origin))?;
        }
        let config = ingle_store::ModelConfig::of_gguf(&self.file);
        row(out, "architecture", config.model_family.escape_debug().to_string())?;
        row(out, "parameters", count(self.n_params()))?;
        row(out, "quantization", config.file_type)?;
        row(out, "file size", bytes(self.file.n_bytes()))?;
        writeln!(out, "\n  Memory")?;
        match ingle_model::Sizing::from_gguf(&self.file) {
            Ok(s) => {
                let kv = s.kv_bytes(ingle_step::KvType::F16, KV_BLOCK_TOKENS, KV_BLOCK_TOKENS as u64);
                row(out, "context length", s.n_ctx_train.to_string())?;
                row(out, "embedding length", s.n_embd().to_string())?;
                row(
                    out,
                    "keys and values",
                    format!("{} per token, in f16", bytes(kv / KV_BLOCK_TOKENS as u64)),
                )?;
            }
            Err(why) => row(out, "cannot be run", escape(&why.to_string()))?,
        }
        writeln!(out, "\n  Types of tensors")?;
        for (name, n, size) in self.mixture() {
            row(out, name, format!("{n:5} tensors {:>10}", bytes(size)))?;
        }
        let texts = [
            ("Parameters", self.parameters()),
            ("System", self.system()),
            ("Template", self.template()?),
            ("License", self.license()),
        ];
        for (heading, text) in texts {
            if let Some(text) = text {
                writeln!(out, "\n  {heading}")?;
                beginning(out, &text)?;
            }
        }
        Ok(())
    }

    fn n_params(&self) -> u64 {
        self.file.tensors().iter().map(TensorInfo::n_elements).sum()
    }

    fn report(&self) -> Result<Value> {
        let metadata: Map<_, _> =
            self.file.metadata().iter().map(|(key, value)| (key.to_owned(), json_value(value))).collect();
        let tensor = |t: &TensorInfo| json!({ "name": t.name, "type": t.ty.name(), "dims": t.dims, "bytes": t.n_bytes() });
        let mixture = self
            .mixture()
            .into_iter()
            .map(|(name, n, bytes)| json!({ "type": name, "tensors": n, "bytes": bytes }));
        let sizing = ingle_model::Sizing::from_gguf(&self.file).ok();
        let kv = sizing
            .as_ref()
            .map(|s| s.kv_bytes(ingle_step::KvType::F16, KV_BLOCK_TOKENS, KV_BLOCK_TOKENS as u64));
        let config = ingle_store::ModelConfig::of_gguf(&self.file);
        let store = self.entry.as_ref().map(list::report);
        Ok(json!({
            "file": self.chosen.shown,
            "files": self.chosen.source.files(),
            "store": store,
            "bytes": self.file.n_bytes(),
            "architecture": config.model_family,
            "parameters": self.n_params(),
            "quantization": config.file_type,
            "types": mixture.collect::<Vec<_>>(),
            "context_length": sizing.as_ref().map(|s| s.n_ctx_train),
            "kv_bytes_per_token": kv.map(|kv| kv / KV_BLOCK_TOKENS as u64),
            "system": self.system(),
            "template": self.template()?,
            "options": self.installed().map(|installed| Value::Object(installed.params.0.clone())),
            "license": self.license(),
            "metadata": metadata,
            "tensors": self.file.tensors().iter().map(tensor).collect::<Vec<_>>(),
        }))
    }
}

/// The beginning of a text, and how much more there is. What could steer a terminal is shown as an escape.
fn beginning(out: &mut impl Write, text: &str) -> std::io::Result<()> {
    let lines: Vec<&str> = text.trim().lines().collect();
    for line in lines.iter().take(LINES_SHOWN) {
        let shown: String = line
            .chars()
            .take(100)
            .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
            .collect();
        writeln!(out, "    {shown}")?;
    }
    match lines.len().saturating_sub(LINES_SHOWN) {
        0 => Ok(()),
        1 => writeln!(out, "    ... and one more line"),
        more => writeln!(out, "    ... and {more} more lines"),
    }
}
