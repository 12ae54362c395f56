//! `ingle list`: the models of this machine.

use std::ffi::OsString;
use std::io::Write;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use ingle_store::{Entry, Origin, State};
use serde_json::{Value, json};

use super::{Models, table};
use crate::commands::bytes;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Usage, parse};

pub const LIST: Usage = Usage {
    name: "list",
    about: "List the models of this machine: those of the store, of shared stores, of Ollama's store and of the cache of \
            Hugging Face's libraries.",
    command: Commands::STORE,
    positional: &[("NAME", "Only models whose names contain this")],
};

/// `ingle list`
pub fn list(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(LIST, &[], args, &Facts::default())?;
    let models = Models::open(&parsed.settings)?;
    let mut entries = models.store.list()?;
    if let Some(part) = parsed.positional.first() {
        let part = part.to_lowercase();
        entries.retain(|entry| entry.name.to_string().to_lowercase().contains(&part));
    }
    // What was put there last is what is looked for most.
    entries.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
    if parsed.settings.json {
        let report = json!({ "models": entries.iter().map(report).collect::<Vec<_>>() });
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    table::print(&["NAME", "ID", "SIZE", "MODIFIED", "WHERE"], &rows)?;
    for entry in &entries {
        if let State::Broken(why) = &entry.state {
            say!("ingle list: {} cannot be used: {why}", entry.name);
        }
    }
    Ok(())
}

fn row(entry: &Entry) -> Vec<String> {
    let state = if entry.state == State::Ready { String::new() } else { ", broken".to_owned() };
    vec![
        entry.name.to_string(),
        entry.digest.short(),
        bytes(entry.size),
        table::ago(entry.modified),
        format!("{}{state}", origin(&entry.origin)),
    ]
}

/// Whose a model is, in a word.
pub fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Own => "store".to_owned(),
        Origin::Shared(root) => format!("shared {}", root.display()),
        Origin::HuggingFace => "huggingface".to_owned(),
        Origin::Ollama => "ollama".to_owned(),
    }
}

/// An entry for machines.
pub fn report(entry: &Entry) -> Value {
    let modified = entry.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let broken = match &entry.state {
        State::Ready => Value::Null,
        State::Broken(why) => why.as_str().into(),
    };
    json!({
        "name": entry.name.to_string(),
        "digest": entry.digest.to_string(),
        "size": entry.size,
        "modified": modified.as_secs(),
        "origin": origin(&entry.origin),
        "broken": broken,
    })
}
