//! `ingle config`: what holds, and who said so.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction};
use serde_json::json;

use crate::settings::{Commands, Effective, Origin, Shape, Usage, check_file, config_file, effective};

pub const USAGE: Usage = Usage {
    name: "config",
    about: "Show what holds: every setting with its value and where that comes from.\n\n\
            It takes the flags of all commands, so that a command line can be looked at before it is run. Secrets are not \
            shown.\n\n  ingle config              settings that somebody has said something about\n  \
            ingle config --all        all of them\n  ingle config path         the configuration file\n  \
            ingle config check FILE   the mistakes in a configuration file, with their lines",
    command: Commands::ANY,
    positional: &[("WHAT", "`path`, or `check`"), ("FILE", "The file to check")],
};

/// Its own options.
pub fn options() -> Vec<Arg> {
    vec![Arg::new("all").long("all").action(ArgAction::SetTrue).help("Show the defaults too")]
}

pub fn main(args: &[OsString]) -> Result<()> {
    match args.first().and_then(|word| word.to_str()) {
        Some("path") => return path(&args[1..]),
        Some("check") => return check(&args[1..]),
        _ => {}
    }
    let (all, file, matches) = effective(USAGE, &options(), args)?;
    if let Some(word) = matches.get_one::<String>("WHAT") {
        bail!(
            "`{word}` is neither `path` nor `check`; to see settings with a command line, give its flags alone"
        );
    }
    let mut out = std::io::stdout().lock();
    if matches.get_flag("json") {
        let settings: serde_json::Map<_, _> =
            all.iter().map(|one| (one.setting.key.to_owned(), as_json(one, file.as_ref()))).collect();
        let report = json!({ "file": file, "settings": settings });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    match &file {
        Some(file) => writeln!(out, "# {}", file.display())?,
        None => writeln!(out, "# no configuration file")?,
    }
    let shown = all.iter().filter(|one| matches.get_flag("all") || one.origin != Origin::Default);
    for one in shown {
        writeln!(out, "{:28} {:32} {}", one.setting.key, value(one), origin(one, file.as_ref()))?;
    }
    if !matches.get_flag("all") {
        let n = all.iter().filter(|one| one.origin == Origin::Default).count();
        writeln!(out, "# {n} further settings have their defaults; --all shows them")?;
    }
    Ok(())
}

/// A value as it was written, on one line.
fn value(one: &Effective) -> String {
    let text = match (&one.origin, one.setting.is_secret()) {
        (Origin::Default, _) => format!("({})", one.setting.default),
        (_, true) => "(not shown)".into(),
        _ if one.setting.shape == Shape::Many => format!("[{}]", one.values.join(", ")),
        _ => one.values.concat(),
    };
    text.escape_debug().to_string()
}

fn origin(one: &Effective, file: Option<&PathBuf>) -> String {
    match (&one.origin, file, one.line) {
        (Origin::Key(_), Some(file), Some(line)) => format!("{}:{line}", file.display()),
        (origin, ..) => origin.to_string(),
    }
}

fn as_json(one: &Effective, file: Option<&PathBuf>) -> serde_json::Value {
    let values = match one.origin {
        Origin::Default => json!(null),
        _ if one.setting.is_secret() => json!("(not shown)"),
        _ if one.setting.shape == Shape::Many => json!(one.values),
        _ => json!(one.values.concat()),
    };
    let origin = match &one.origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::Flag(flag) => json!({ "kind": "flag", "flag": flag }),
        Origin::Environment(name) => json!({ "kind": "environment", "variable": name }),
        Origin::Key(key) => json!({ "kind": "file", "key": key, "file": file, "line": one.line }),
    };
    json!({ "value": values, "default": one.setting.default, "origin": origin })
}

fn path(args: &[OsString]) -> Result<()> {
    if let Some(extra) = args.first() {
        bail!("`{}` is one argument too many: `ingle config path` takes none", extra.display());
    }
    let Some((path, is_there)) = config_file() else {
        bail!("the system says no folder for configuration: set HOME, or INGLE_CONFIG to a file");
    };
    writeln!(std::io::stdout(), "{}", path.display())?;
    if !is_there {
        say!("(there is no such file)");
    }
    Ok(())
}

fn check(args: &[OsString]) -> Result<()> {
    let file = match args {
        [file] => PathBuf::from(file),
        [] => config_file().map(|(path, _)| path).context("give the file: `ingle config check FILE`")?,
        _ => bail!("`ingle config check` takes one file"),
    };
    let problems = check_file(&file)?;
    for problem in &problems {
        writeln!(std::io::stdout(), "{}:{}: {}", file.display(), problem.line, problem.message)?;
    }
    match problems.len() {
        0 => {
            say!("{}: no mistakes", file.display());
            Ok(())
        }
        1 => bail!("there is one mistake in {}", file.display()),
        n => bail!("there are {n} mistakes in {}", file.display()),
    }
}
