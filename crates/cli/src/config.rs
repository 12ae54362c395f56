//! `ingle config`: what holds, and who said so.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use serde_json::json;

use crate::outcome::{Reported, tell};
use crate::settings::{
    Commands, Effective, Holding, Origin, Problem, Shape, TABLE, Usage, check_file, config_file, effective,
    matches, wants_json,
};

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

/// `ingle config`
pub fn main(args: &[OsString]) -> Result<()> {
    let (_, m) = matches(USAGE, &options(), args);
    match m.get_one::<String>("WHAT").map(String::as_str) {
        Some("path") => return path(&m),
        Some("check") => return check(&m),
        Some(word) => {
            misuse!(
                "`{word}` is neither `path` nor `check`; to see settings with a command line, give its flags alone"
            )
        }
        None => {}
    }
    let Holding { all, is_json, file, matches } = effective(USAGE, &options(), args)?;
    let mut out = std::io::stdout().lock();
    if is_json {
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

/// `ingle config path`
fn path(m: &ArgMatches) -> Result<()> {
    refuse_further(m, "path", &["json", "config", "WHAT"])?;
    let Some((path, is_there)) = config_file(m) else {
        bail!("the system says no folder for configuration: set HOME, or INGLE_CONFIG to a file");
    };
    if wants_json(m) {
        return tell(json!({ "file": path, "is_there": is_there }));
    }
    tell(path.display())?;
    if !is_there {
        say!("(there is no such file)");
    }
    Ok(())
}

/// `ingle config check`
fn check(m: &ArgMatches) -> Result<()> {
    refuse_further(m, "check", &["json", "config", "WHAT", "FILE"])?;
    let file = match m.get_one::<String>("FILE") {
        Some(_) if m.contains_id("config") => {
            misuse!("there are two files: one by --config; name one of them")
        }
        Some(file) => PathBuf::from(file),
        None => match config_file(m) {
            Some((path, _)) => path,
            None => misuse!("give the file: `ingle config check FILE`"),
        },
    };
    let is_json = wants_json(m);
    let problems = check_file(&file)?;
    let verdict = match problems.len() {
        0 => format!("{}: no mistakes", file.display()),
        1 => format!("there is one mistake in {}", file.display()),
        n => format!("there are {n} mistakes in {}", file.display()),
    };
    if is_json {
        let mistake = |problem: &Problem| json!({ "line": problem.line, "message": problem.message });
        let report = json!({ "file": file, "mistakes": problems.iter().map(mistake).collect::<Vec<_>>() });
        tell(format_args!("{report:#}"))?;
    } else {
        let line = |problem: &Problem| {
            tell(format_args!("{}:{}: {}", file.display(), problem.line, problem.message))
        };
        problems.iter().try_for_each(line)?;
    }
    match problems.is_empty() {
        false => Err(Reported(verdict).into()),
        true => {
            say!("{verdict}");
            Ok(())
        }
    }
}

/// Refuses options that say nothing to `ingle config path` or `check`.
fn refuse_further(m: &ArgMatches, what: &str, known: &[&str]) -> Result<()> {
    let is_given = |id: &&str| m.value_source(id) == Some(ValueSource::CommandLine);
    let given = m.ids().map(clap::Id::as_str).filter(is_given).find(|id| !known.contains(id));
    match given {
        None => Ok(()),
        Some("FILE") => misuse!("`ingle config {what}` takes no file"),
        Some(id) => {
            let flag = TABLE.iter().find(|setting| setting.key == id).map_or(id, |setting| setting.flag);
            misuse!("--{flag} says nothing to `ingle config {what}`")
        }
    }
}
