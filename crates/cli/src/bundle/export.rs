//! `ingle export`: models into one file, or several parts of one.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_store::bundle::{Asked, Imprint, PART_BYTES_MIN, PartWriter, Plan, SecretKey, plan};
use ingle_store::{Digest, ModelName};
use serde_json::json;

use super::{models_json, table};
use crate::commands::{self, bytes};
use crate::models::Models;
use crate::outcome::{misused, tell, when_done};
use crate::progress::{Out, TransferProgress};
use crate::settings::compat::Facts;
use crate::settings::{self, Commands, Usage};
use crate::signals::{STOPPED, Stopped, on_interrupt};

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
        misuse!("name the models: `ingle export MODEL... -o FILE`");
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
        let bar =
            TransferProgress::new("checking", Out::beside_report(is_json), "stopped: nothing was written");
        plan(&models.store, &asked, &imprint, &mut |done, total| bar.report(done, total))?
    };
    let (digest, files) = write(&plan, key.as_ref(), writer, Out::beside_report(is_json))?;
    report(is_json, &plan, &digest, key.as_ref(), &files)
}

fn refuse_with_stdout(split: Option<u64>, is_json: bool) -> Result<()> {
    if split.is_some() {
        misuse!("--split writes files, and `-o -` is standard output; name a file");
    }
    if is_json {
        misuse!("the bundle itself goes to standard output, which leaves no place for --json");
    }
    if std::io::stdout().is_terminal() {
        bail!("a bundle is no text for a terminal; name a file, or send standard output to one");
    }
    Ok(())
}

/// What the arguments name.
fn asked(models: &Models, texts: &[String], name: Option<&String>) -> Result<Vec<Asked>> {
    if name.is_some() && texts.len() > 1 {
        misuse!("--name is for one file; export several models under their own names");
    }
    let name = name
        .map(|text| text.parse::<ModelName>().with_context(|| format!("--name: `{text}`")).map_err(misused))
        .transpose()?;
    let asked = |text: &String| {
        let asked =
            Asked::new(&models.reference(text)?, name.as_ref()).with_context(|| format!("`{text}`"))?;
        if name.is_some() && matches!(asked, Asked::Stored(_)) {
            misuse!("--name is for files; `{text}` has a name, and `ingle cp` gives it another");
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
        Ok(Budget::Bytes(n)) if n < PART_BYTES_MIN => {
            misuse!("--split: parts of fewer than {PART_BYTES_MIN} bytes are not written")
        }
        Ok(Budget::Bytes(n)) => Ok(n),
        Ok(Budget::Percent(_)) => misuse!("--split takes a size such as 4G or 650MB, not a share"),
        Err(_) => {
            misuse!("--split: `{text}` is no size of a part, such as 4G or 650MB; it has at least 1 KiB")
        }
    }
}

fn write(
    plan: &Plan,
    key: Option<&SecretKey>,
    writer: Option<PartWriter>,
    out: Out,
) -> Result<(Digest, Vec<PathBuf>)> {
    // Files that are not whole are removed, which takes a writer that is told to stop.
    let is_stopped = Arc::new(AtomicBool::new(false));
    let of_signal = is_stopped.clone();
    let _guard = on_interrupt(move || {
        // Whoever presses twice does not wait for a disk that takes nothing.
        if of_signal.swap(true, Ordering::Relaxed) {
            std::process::exit(STOPPED.into());
        }
    })?;
    let written = write_until(plan, key, writer, out, &is_stopped);
    match written {
        Err(_) if is_stopped.load(Ordering::Relaxed) => {
            let how_to_go_on = "there is no bundle; the same command writes it from the beginning";
            Err(Stopped(how_to_go_on.to_owned()).into())
        }
        written => written,
    }
}

fn write_until(
    plan: &Plan,
    key: Option<&SecretKey>,
    writer: Option<PartWriter>,
    out: Out,
    is_stopped: &AtomicBool,
) -> Result<(Digest, Vec<PathBuf>)> {
    let bar = TransferProgress::new("writing", out, "");
    let mut progress = |done, total| bar.report(done, total);
    match writer {
        Some(mut writer) => {
            writer.prepare(plan.total_bytes(key.is_some()))?;
            let digest = plan.write(&mut Stoppable { out: &mut writer, is_stopped }, key, &mut progress)?;
            Ok((digest, writer.finish()?))
        }
        None => {
            let mut out = std::io::stdout().lock();
            let digest = plan.write(&mut Stoppable { out: &mut out, is_stopped }, key, &mut progress)?;
            Ok((digest, Vec::new()))
        }
    }
}

/// Output that takes nothing more once somebody has pressed Ctrl-C.
struct Stoppable<'a> {
    out: &'a mut dyn Write,
    is_stopped: &'a AtomicBool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("stopped"));
        }
        self.out.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
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
        return when_done(tell(format_args!("{report:#}")));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Ctrl-C: nothing more is taken, and the parts that are not whole go.
    #[test]
    fn what_is_stopped_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = PartWriter::new(&folder.path().join("b"), Some(1024)).expect("nothing is there");
        let is_stopped = AtomicBool::new(false);
        let mut out = Stoppable { out: &mut writer, is_stopped: &is_stopped };
        out.write_all(&[0; 3000]).expect("there is room");
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 3);
        is_stopped.store(true, Ordering::Relaxed);
        assert!(out.write_all(&[0]).is_err());
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }
}
