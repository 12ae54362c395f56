//! `ingle export`: models into one file, or several parts of one.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_store::Digest;
use ingle_store::bundle::{Asked, Imprint, PartWriter, Plan, SecretKey, plan};
use serde_json::json;

use super::{models_json, table};
use crate::commands::{self, bytes};
use crate::models::Models;
use crate::progress::TransferProgress;
use crate::settings::compat::Facts;
use crate::settings::{self, Commands, Usage};

pub const EXPORT: Usage = Usage {
    name: "export",
    about: "Put models into one file, a bundle, to be carried to a machine without a network and taken in there with \
            `ingle import`. Each file is read and checked before anything is written.",
    command: Commands::STORE,
    positional: &[(
        "MODEL...",
        "Models of the store, of Hugging Face's cache or of Ollama's store; or GGUF files",
    )],
};

/// What `ingle export` has besides its settings.
pub fn options() -> [Arg; 4] {
    [
        commands::option("output", "FILE", "The bundle to write; `-` is standard output")
            .short('o')
            .required(true),
        commands::option("sign", "KEY", "Sign with this secret key (`ingle keygen` makes one, or OpenSSL)"),
        commands::option("split", "SIZE", "Write parts of at most this size, such as 4G (for FAT) or 650MB"),
        commands::option("name", "NAME", "The name that a file gets in the bundle [default: the file's]"),
    ]
}

/// `ingle export`
pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = settings::parse(EXPORT, &options(), args, &Facts::default())?;
    let is_json = parsed.settings.json;
    if parsed.positional.is_empty() {
        bail!("name the models: `ingle export MODEL... -o FILE`");
    }
    let output = PathBuf::from(m.get_one::<String>("output").expect("required"));
    let split = m.get_one::<String>("split").map(|text| part_bytes(text)).transpose()?;
    let to_stdout = output.as_os_str() == "-";
    if to_stdout {
        refuse_with_stdout(split, is_json)?;
    }
    let key = m.get_one::<String>("sign").map(|path| SecretKey::read(Path::new(path))).transpose()?;
    // Found before hours of hashing, not after.
    let writer = (!to_stdout).then(|| PartWriter::new(&output, split)).transpose()?;
    let models = Models::open(&parsed.settings)?;
    let asked = asked(&models, &parsed.positional, m.get_one::<String>("name"))?;
    let imprint = Imprint {
        creator: format!("ingle {}", env!("CARGO_PKG_VERSION")),
        created: crate::clock::now().format("%Y-%m-%dT%H:%M:%SZ"),
    };
    let plan = {
        let bar = TransferProgress::new("checking");
        plan(&models.store, &asked, &imprint, &mut |done, total| bar.report(done, total))?
    };
    let (digest, files) = write(&plan, key.as_ref(), writer)?;
    report(is_json, &plan, &digest, key.as_ref(), &files)
}

fn refuse_with_stdout(split: Option<u64>, is_json: bool) -> Result<()> {
    if split.is_some() {
        bail!("--split writes files, and `-o -` is standard output; name a file");
    }
    if is_json {
        bail!("the bundle itself goes to standard output, which leaves no place for --json");
    }
    if std::io::stdout().is_terminal() {
        bail!("a bundle is no text for a terminal; name a file, or send standard output to one");
    }
    Ok(())
}

/// What the arguments name.
fn asked(models: &Models, texts: &[String], name: Option<&String>) -> Result<Vec<Asked>> {
    if name.is_some() && texts.len() > 1 {
        bail!("--name is for one file; export several models under their own names");
    }
    let name = name.map(|text| text.parse().with_context(|| format!("--name: `{text}`"))).transpose()?;
    let asked = |text: &String| {
        let asked =
            Asked::new(&models.reference(text)?, name.as_ref()).with_context(|| format!("`{text}`"))?;
        if name.is_some() && matches!(asked, Asked::Stored(_)) {
            bail!("--name is for files; `{text}` has a name, and `ingle cp` gives it another");
        }
        Ok(asked)
    };
    texts.iter().map(asked).collect()
}

/// Most bytes of a part.
fn part_bytes(text: &str) -> Result<u64> {
    use crate::settings::Budget;
    // What FAT32 can hold ends one byte below 4 GiB.
    const FAT_BYTES_MAX: u64 = (4 << 30) - (64 << 10);
    match Budget::parse(text) {
        Ok(Budget::Bytes(n)) if n == 4 << 30 => Ok(FAT_BYTES_MAX),
        Ok(Budget::Bytes(n)) => Ok(n),
        Ok(Budget::Percent(_)) => bail!("--split takes a size such as 4G or 650MB, not a share"),
        Err(why) => bail!("--split: {why}"),
    }
}

fn write(plan: &Plan, key: Option<&SecretKey>, writer: Option<PartWriter>) -> Result<(Digest, Vec<PathBuf>)> {
    let bar = TransferProgress::new("writing");
    let mut progress = |done, total| bar.report(done, total);
    match writer {
        Some(mut writer) => {
            let digest = plan.write(&mut writer, key, &mut progress)?;
            Ok((digest, writer.finish()?))
        }
        None => Ok((plan.write(&mut std::io::stdout().lock(), key, &mut progress)?, Vec::new())),
    }
}

fn report(
    is_json: bool,
    plan: &Plan,
    digest: &Digest,
    key: Option<&SecretKey>,
    files: &[PathBuf],
) -> Result<()> {
    let index = plan.index();
    let signed_by = key.map(|key| key.public().to_string());
    if is_json {
        let report = json!({
            "bundle": digest.to_string(),
            "created": index.created,
            "files": files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "bytes": plan.total_bytes(key.is_some()),
            "signed_by": signed_by,
            "models": models_json(index, &|_| None),
        });
        writeln!(std::io::stdout(), "{report:#}")?;
        return Ok(());
    }
    let mut out = std::io::stderr().lock();
    table(&mut out, index, &|_| String::new())?;
    let place = match files {
        [] => "standard output".to_owned(),
        [one] => one.display().to_string(),
        [first, .., last] => format!("{} to {}", first.display(), last.display()),
    };
    let signature = signed_by.map_or("not signed".to_owned(), |key| format!("signed with {key}"));
    say_to(&mut out, &format!("{} in {place}, {signature}", bytes(plan.total_bytes(key.is_some()))))?;
    say_to(&mut out, &format!("bundle {digest}"))
}

fn say_to(out: &mut dyn Write, line: &str) -> Result<()> {
    Ok(writeln!(out, "{line}")?)
}
