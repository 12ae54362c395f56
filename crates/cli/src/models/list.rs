//! `ingle list`: the models of this machine.

use std::ffi::OsString;
use std::io::Write;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use clap::{Arg, ArgAction};
use ingle_store::{Catalogue, Entry, Origin, State};
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

/// What `ingle list` has besides its settings.
pub fn list_options() -> [Arg; 1] {
    let help = "List what short names mean here (--catalogue), whether the models are here or not";
    [Arg::new("names").long("names").action(ArgAction::SetTrue).help(help)]
}

/// `ingle list`
pub fn list(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(LIST, &list_options(), args, &Facts::default())?;
    let models = Models::open(&parsed.settings)?;
    if m.get_flag("names") {
        return names(&models.catalogue, parsed.positional.first(), parsed.settings.json);
    }
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

/// The names of the catalogue, and where all others are.
fn names(catalogue: &Catalogue, part: Option<&String>, json: bool) -> Result<()> {
    let part = part.map(|part| part.to_lowercase()).unwrap_or_default();
    let named = catalogue.iter().map(|(name, means)| (name.to_string(), means.in_full()));
    let named: Vec<(String, String)> =
        named.filter(|(name, _)| name.to_lowercase().contains(&part)).collect();
    if json {
        let entry = |(name, means): &(String, String)| json!({ "name": name, "means": means });
        let report =
            json!({ "names": named.iter().map(entry).collect::<Vec<_>>(), "others": catalogue.home() });
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = named.into_iter().map(|(name, means)| vec![name, means]).collect();
    rows.push(vec!["(all others)".to_owned(), format!("{}/NAME:TAG", catalogue.home())]);
    Ok(table::print(&["NAME", "MEANS"], &rows)?)
}

fn row(entry: &Entry) -> Vec<String> {
    let unknown = || "-".to_owned();
    let state = if entry.state == State::Ready { String::new() } else { ", broken".to_owned() };
    vec![
        entry.name.to_string(),
        entry.digest.map_or_else(unknown, |digest| digest.short()),
        entry.size.map_or_else(unknown, bytes),
        entry.modified.map_or_else(unknown, table::ago),
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
    let modified = entry.modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let broken = match &entry.state {
        State::Ready => Value::Null,
        State::Broken(why) => why.as_str().into(),
    };
    json!({
        "name": entry.name.to_string(),
        "digest": entry.digest.map(|digest| digest.to_string()),
        "size": entry.size,
        "modified": modified.map(|at| at.as_secs()),
        "origin": origin(&entry.origin),
        "broken": broken,
    })
}
