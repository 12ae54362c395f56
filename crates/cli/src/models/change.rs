//! `ingle cp`, `rm`, `prune` and `verify`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, ArgAction};
use ingle_store::{ModelName, Unreadable, Verdict};
use serde_json::{Value, json};

use super::Models;
use super::list::origin;
use crate::commands::{bytes, counted};
use crate::outcome::{Reported, in_words, tell, unless_unread, when_done};
use crate::progress::{Out, TransferProgress};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Usage, parse};

pub const COPY: Usage = Usage {
    name: "cp",
    about: "Give a model a second name. Its files are shared, not copied, where they are in the store.",
    command: Commands::STORE,
    positional: &[("SOURCE", "Name of a model"), ("DESTINATION", "Its new name")],
};

pub const REMOVE: Usage = Usage {
    name: "rm",
    about: "Remove models from the store, with the files that no other model has.",
    command: Commands::STORE,
    positional: &[("MODEL...", "Names of models")],
};

pub const PRUNE: Usage = Usage {
    name: "prune",
    about: "Remove what no model needs: files without a name, and what is left of downloads that were cut. What another \
            process is downloading stays.",
    command: Commands::STORE,
    positional: &[],
};

pub const VERIFY: Usage = Usage {
    name: "verify",
    about: "Read every file of models and compare it with its digest. Ends with 1 if something is wrong.",
    command: Commands::STORE,
    positional: &[("MODEL...", "Names of models [default: all, and files without a name]")],
};

fn print(report: &Value) -> Result<()> {
    tell(serde_json::to_string_pretty(report)?)
}

/// `ingle cp`
pub fn copy(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(COPY, &[], args, &Facts::default())?;
    let [source, destination] = parsed.positional.as_slice() else {
        misuse!("two names are needed: `ingle cp SOURCE DESTINATION`");
    };
    let models = Models::open(&parsed.settings)?;
    let (from, to) = (models.name(source)?, models.store.spelled(destination.parse::<ModelName>()?)?);
    let published = models.store.copy(&from, &to)?;
    if parsed.settings.json {
        let report = json!({ "source": from.to_string(), "name": to.to_string(), "digest": published.digest.to_string() });
        return when_done(print(&report));
    }
    when_done(tell(format_args!("copied '{from}' to '{to}'")))
}

/// `ingle rm`
pub fn remove(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(REMOVE, &[], args, &Facts::default())?;
    if parsed.positional.is_empty() {
        misuse!("name a model: `ingle rm MODEL...`");
    }
    let models = Models::open(&parsed.settings)?;
    let names = parsed.positional.iter().map(|text| models.name(text)).collect::<Result<Vec<_>>>()?;
    let mut removed = Vec::new();
    // That nobody can be told of one model is no reason to keep the next.
    let mut told = Ok(());
    for name in names {
        let gone = match models.store.remove(&name) {
            Ok(gone) => gone,
            Err(error) if parsed.settings.json => {
                let error = in_words(&error.into());
                return Err(match print(&json!({ "removed": removed, "error": error })) {
                    Ok(()) => Reported(error).into(),
                    Err(untold) => untold.context(error),
                });
            }
            Err(error) => return Err(error.into()),
        };
        if !parsed.settings.json && told.is_ok() {
            let freed =
                if gone.blobs == 0 { String::new() } else { format!(", {} freed", bytes(gone.bytes)) };
            told = tell(format_args!("deleted '{name}'{freed}"));
        }
        removed.push(json!({ "name": name.to_string(), "blobs": gone.blobs, "bytes": gone.bytes }));
    }
    if parsed.settings.json {
        told = print(&json!({ "removed": removed }));
    }
    when_done(told)
}

/// What `ingle prune` has besides its settings.
pub fn prune_options() -> [Arg; 1] {
    [Arg::new("dry-run").long("dry-run").action(ArgAction::SetTrue).help("Only say what would be removed")]
}

/// `ingle prune`
pub fn prune(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(PRUNE, &prune_options(), args, &Facts::default())?;
    let is_dry = m.get_flag("dry-run");
    let pruned = Models::open(&parsed.settings)?.store.prune(is_dry)?;
    if parsed.settings.json {
        let unreadable = pruned.unreadable.iter().map(|found| {
            let (name, path) =
                (found.name.as_ref().map(ToString::to_string), found.path.display().to_string());
            json!({ "name": name, "path": path, "why": found.why })
        });
        return when_done(print(&json!({
            "dry_run": is_dry,
            "blobs": pruned.blobs,
            "partials": pruned.partials,
            "bytes": pruned.bytes,
            "unreadable": unreadable.collect::<Vec<_>>(),
        })));
    }
    for Unreadable { name, path, why } in &pruned.unreadable {
        match name {
            Some(name) => say!(
                "ingle prune: no file of a model is removed while `{name}` cannot be read, which may need it: {why}; \
                 `ingle rm {name}` removes it"
            ),
            None => say!(
                "ingle prune: no file of a model is removed while {} is there, which may be a model of another \
                 program's: {why}; remove it if it is none",
                path.display()
            ),
        }
    }
    let would = if is_dry { "would be " } else { "" };
    when_done(tell(format_args!(
        "{} and {} {would}removed, {}",
        counted(pruned.blobs as u64, "file"),
        counted(pruned.partials as u64, "partial download"),
        bytes(pruned.bytes)
    )))
}

/// `ingle verify`
pub fn verify(args: &[OsString]) -> Result<ExitCode> {
    let (parsed, _) = parse(VERIFY, &[], args, &Facts::default())?;
    let models = Models::open(&parsed.settings)?;
    let names = parsed.positional.iter().map(|text| models.name(text)).collect::<Result<Vec<_>>>()?;
    const STOPPED: &str = "stopped: not everything was read";
    let bar = TransferProgress::new("verifying", Out::beside_report(parsed.settings.json), STOPPED);
    let verdicts = models.store.verify(&names, &|done, total| bar.report(done, total))?;
    drop(bar);
    let is_good = verdicts.iter().all(|verdict| verdict.findings.is_empty());
    if parsed.settings.json {
        print(&json!({ "ok": is_good, "models": verdicts.iter().map(report).collect::<Vec<_>>() }))?;
    } else {
        let mut out = std::io::stdout().lock();
        let lines = verdicts.iter().flat_map(|verdict| {
            let findings = verdict.findings.iter();
            let of = findings.map(|finding| format!("    {}: {}", finding.path.display(), finding.why));
            std::iter::once(line(verdict)).chain(of)
        });
        unless_unread(lines.into_iter().try_for_each(|line| Ok(writeln!(out, "{line}")?)))?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(verdict: &Verdict) -> String {
    let name = verdict.name.as_ref().map_or("files without a name".to_owned(), ToString::to_string);
    let unknown = match verdict.unknown {
        0 => String::new(),
        n => format!(", of which {n} have no known digest and were only read"),
    };
    match verdict.findings.len() {
        0 => format!("ok    {name} ({}{unknown})", bytes(verdict.bytes)),
        _ => format!("BAD   {name}"),
    }
}

fn report(verdict: &Verdict) -> Value {
    let finding = |finding: &ingle_store::Finding| json!({ "path": finding.path, "why": finding.why });
    json!({
        "name": verdict.name.as_ref().map(ToString::to_string),
        "origin": origin(&verdict.origin),
        "ok": verdict.findings.is_empty(),
        "findings": verdict.findings.iter().map(finding).collect::<Vec<_>>(),
        "without_digest": verdict.unknown,
        "bytes": verdict.bytes,
    })
}
