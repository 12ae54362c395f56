//! Bundles on the command line: `ingle export`, `ingle import`, `ingle keygen`.

mod export;
mod import;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Arg, Command};
use ingle_store::bundle::{BundledModel, Index, SecretKey};
use serde_json::{Value, json};

use crate::commands::{self, bytes};
use crate::outcome::{tell, when_done};

pub use export::{EXPORT, main as export, options as export_options};
pub use import::{IMPORT, main as import, options as import_options};

/// The options of `ingle keygen`.
pub fn keygen_command() -> Command {
    commands::command(
        "keygen",
        "Make a key that signs bundles: FILE is the secret half, which only its owner may read, and FILE.pub the public \
         half, which those who import need.",
        &[
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .help("The file to write; it must not be there yet"),
            commands::flag("json", "Print for machines"),
        ],
    )
}

/// `ingle keygen`
pub fn keygen(args: &[OsString]) -> Result<()> {
    let m = commands::matches(keygen_command(), args);
    let path = PathBuf::from(m.get_one::<String>("file").expect("required"));
    let mut public = path.clone().into_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    if public.symlink_metadata().is_ok() {
        bail!("{} is there already; choose another name", public.display());
    }
    let key = SecretKey::generate()?;
    key.write_new(&path)?;
    // One half without the other would be in the way of the next attempt.
    key.public().write_new(&public).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    if m.get_flag("json") {
        let report = json!({
            "secret_key_file": path.display().to_string(),
            "public_key_file": public.display().to_string(),
            "public_key": key.public().to_string(),
        });
        return when_done(tell(format_args!("{report:#}")));
    }
    say!("{} signs: keep it; {} is for those who import", path.display(), public.display());
    when_done(tell(key.public()))
}

/// A table of models: name, size, licences and a last column. Its columns are as wide as what stands in them.
fn table(out: &mut dyn Write, index: &Index, last: &dyn Fn(usize) -> String) -> std::io::Result<()> {
    let licences = |model: &BundledModel| match &model.licences[..] {
        [] => "-".to_owned(),
        [one] => shortened(one),
        [first, more @ ..] => format!("{} and {} more", shortened(first), more.len()),
    };
    let rows: Vec<[String; 4]> =
        std::iter::once(["NAME", "SIZE", "LICENCE", ""].map(str::to_owned))
            .chain(
                index.models.iter().enumerate().map(|(at, model)| {
                    [model.name.to_string(), bytes(model.size()), licences(model), last(at)]
                }),
            )
            .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for row in &rows {
        let line = format!(
            "{:name$}  {:>size$}  {:licence$}  {}",
            row[0],
            row[1],
            row[2],
            row[3],
            name = widths[0],
            size = widths[1],
            licence = widths[2]
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 28;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}

/// What machines want to know about each model; `extra` adds to it.
fn models_json(index: &Index, extra: &dyn Fn(usize) -> Option<(&'static str, Value)>) -> Vec<Value> {
    let model = |(at, model): (usize, &BundledModel)| {
        let blobs: Vec<Value> = model
            .manifest
            .blobs()
            .map(|layer| {
                let (digest, kind) = (layer.digest.to_string(), layer.media_type.name());
                json!({ "digest": digest, "bytes": layer.size, "type": kind })
            })
            .collect();
        let mut json = json!({
            "name": model.name.to_string(),
            "digest": model.manifest.digest().to_string(),
            "bytes": model.size(),
            "licences": model.licences,
            "blobs": blobs,
        });
        if let Some((key, value)) = extra(at) {
            json[key] = value;
        }
        json
    };
    index.models.iter().enumerate().map(model).collect()
}
