//! `ingle import`: a bundle into the store, or a look into it.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches};
use ingle_store::bundle::{
    Arrival, Head, ImportOptions, Imported, Input, Outcome, Parts, Stream, Trust, TrustedKeys, admit,
    arrivals, import, read_head, read_trusted_head, verify,
};
use serde_json::{Value, json};

use super::{models_json, table};
use crate::commands::{self, bytes, counted};
use crate::models::Models;
use crate::outcome::{unless_unread, when_done};
use crate::progress::{Out, TransferProgress};
use crate::settings::{self, Commands, Settings, Usage, compat::Facts};

pub const IMPORT: Usage = Usage {
    name: "import",
    about: "Take the models of a bundle into the store. Everything is checked before anything can be seen: the signature, \
            and every byte.",
    command: Commands::IMPORT,
    positional: &[(
        "BUNDLE...",
        "The bundle: a file, its first part (NAME.001) or all parts in order; `-` is standard input",
    )],
};

/// What `ingle import` has besides its settings.
pub fn options() -> [Arg; 3] {
    [
        commands::flag("replace", "Take models also where their names are here with other contents"),
        commands::flag("list", "Say what is in the bundle; of its contents only the index is read"),
        commands::flag("dry-run", "Check every byte and say what an import would do, and write nothing"),
    ]
}

/// `ingle import`
pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = settings::parse(IMPORT, &options(), args, &Facts::default())?;
    if parsed.positional.is_empty() {
        misuse!("name the bundle: `ingle import FILE`; `-` is standard input");
    }
    let (trust, is_json) = (trust(&parsed.settings, &m)?, parsed.settings.json);
    let mut input = input(&parsed.positional)?;
    // What is only looked at need not be trusted.
    let head = match m.get_flag("list") || m.get_flag("dry-run") {
        true => read_head(&mut *input),
        false => read_trusted_head(&mut *input, &trust),
    };
    let head = head.with_context(|| parsed.positional.join(" "))?;
    if m.get_flag("list") {
        return unless_unread(report(is_json, &head, &trust, "listed", None, &[]));
    }
    let store = Models::open(&parsed.settings)?.store;
    let (doing, stopped) = match m.get_flag("dry-run") {
        true => ("checking", "stopped: the bundle was not checked to its end"),
        false => {
            ("importing", "stopped: nothing of it can be seen; the same command goes on with what is here")
        }
    };
    let options = ImportOptions { trust: trust.clone(), replace: m.get_flag("replace") };
    let bar = TransferProgress::new(doing, Out::beside_report(is_json), stopped);
    let mut progress = |done, total| bar.report(done, total);
    if m.get_flag("dry-run") {
        verify(&mut *input, &head, &mut progress)?;
        drop(bar);
        let arrivals = arrivals(&store, &head.index)?;
        unless_unread(report(is_json, &head, &trust, "checked", None, &arrivals))?;
        // What would be refused is, here too.
        return Ok(admit(&store, &head, &options)?);
    }
    let done = import(&store, &mut *input, &head, &options, &mut progress)?;
    drop(bar);
    when_done(unless_unread(report(is_json, &head, &trust, "imported", Some(&done), &done.models)))
}

/// Whose bundles are taken: the keys that are named, else those of the file with trusted keys.
fn trust(settings: &Settings, m: &ArgMatches) -> Result<Trust> {
    let named = m.get_many::<String>("trust").is_some();
    if named && m.get_flag("allow_unsigned") {
        misuse!("--trust asks for a signature, and --allow-unsigned does without; give one of them");
    }
    let mut keys = TrustedKeys::default();
    for key in &settings.trust {
        keys.add(key)?;
    }
    // What stands in the configuration is added to, and what is said here counts alone.
    if !named && let Some(path) = trusted_keys() {
        keys.add_file(&path)?;
    }
    Ok(Trust { keys, allow_unsigned: settings.allow_unsigned && !named })
}

/// The file with the keys whose bundles are taken, if it is there.
fn trusted_keys() -> Option<PathBuf> {
    let path = settings::config_folder()?.join("trusted-keys");
    path.is_file().then_some(path)
}

fn input(paths: &[String]) -> Result<Box<dyn Input>> {
    if paths == ["-"] {
        if std::io::stdin().is_terminal() {
            bail!("standard input is a terminal; name the bundle's file, or send it to standard input");
        }
        return Ok(Box::new(Stream::new(std::io::stdin().lock())));
    }
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    if let [path] = &paths[..]
        && path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
    {
        // A pipe with a name.
        return Ok(Box::new(Stream::new(std::fs::File::open(path)?)));
    }
    Ok(Box::new(Parts::find(&paths)?))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::New => "new",
        Outcome::Unchanged => "unchanged",
        Outcome::Replaced => "replaced",
    }
}

fn report(
    is_json: bool,
    head: &Head,
    trust: &Trust,
    done: &str,
    imported: Option<&Imported>,
    arrivals: &[Arrival],
) -> Result<()> {
    let is_trusted = head.signed_by.is_some_and(|key| trust.keys.contains(&key));
    let outcome = |at: usize| arrivals.get(at).map(|arrival| word(arrival.outcome));
    let mut out = std::io::stdout().lock();
    if is_json {
        let mut report = json!({
            "result": done,
            "bundle": head.digest.to_string(),
            "bytes": head.total_bytes,
            "created": head.index.created,
            "creator": head.index.creator,
            "signed_by": head.signed_by.map(|key| key.to_string()),
            "trusted": is_trusted,
            "models": models_json(&head.index, &|at| Some(("outcome", Value::from(outcome(at)?)))),
        });
        if let Some(imported) = imported {
            report["blobs_new"] = imported.blobs_new.into();
            report["bytes_new"] = imported.bytes_new.into();
            report["blobs_present"] = imported.blobs_present.into();
            report["bytes_resumed"] = imported.bytes_resumed.into();
        }
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    let signature = match (&head.signed_by, is_trusted) {
        (None, _) => "not signed".to_owned(),
        (Some(key), true) => format!("signed with {key}, which is trusted"),
        (Some(key), false) => format!("signed with {key}, which is not among the trusted keys"),
    };
    writeln!(out, "bundle {}", head.digest)?;
    writeln!(out, "of {}, made by {}, {signature}", head.index.created, head.index.creator)?;
    table(&mut out, &head.index, &|at| outcome(at).unwrap_or_default().to_owned())?;
    match imported {
        Some(imported) => writeln!(
            out,
            "imported: {} in {}; {} here already",
            bytes(imported.bytes_new),
            counted(imported.blobs_new as u64, "new blob"),
            match imported.blobs_present {
                1 => "1 blob was".to_owned(),
                n => format!("{n} blobs were"),
            }
        )?,
        None => writeln!(out, "{done}: {} altogether; nothing was written", bytes(head.total_bytes))?,
    }
    Ok(())
}
