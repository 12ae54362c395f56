//! What holds, and who said so: for `ingle config`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::ArgMatches;
use toml::de::DeTable;

use super::args::{self, values_of};
use super::value::FromText;
use super::{Setting, Settings, TABLE, Usage, models};
use crate::outcome::Misused;

/// The key of the setting that asks for JSON.
pub(super) const JSON: &str = "json";

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The command line, spelled so.
    Flag(String),
    /// The environment, by a variable of this name.
    Environment(String),
    /// The configuration file, under this key.
    Key(&'static str),
}

impl Origin {
    /// What is wrong with a value that comes from here.
    pub(super) fn blamed(&self, why: &str) -> anyhow::Error {
        let words = format!("{self}: {why}");
        match self {
            Self::Flag(_) => Misused(words).into(),
            _ => anyhow!(words),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Key(key) => write!(f, "configuration key `{key}`"),
        }
    }
}

/// A setting with what holds.
pub struct Effective {
    pub setting: &'static Setting,
    /// As they were written; none if nobody said anything.
    pub values: Vec<String>,
    pub origin: Origin,
    /// Of a key, the line of the file.
    pub line: Option<usize>,
}

/// All that holds for a command line.
pub struct Holding {
    /// All settings, in the order of the table.
    pub all: Vec<Effective>,
    /// Whether the report is for machines.
    pub is_json: bool,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    pub matches: ArgMatches,
}

/// All settings of a command line, the environment and the configuration file.
///
/// # Errors
/// As for the commands that have the settings: with the option at fault and the reason.
pub fn effective(usage: Usage, extra: &[clap::Arg], args: &[OsString]) -> Result<Holding> {
    let (args, matches) = args::matches(usage, extra, args);
    let file = args::config_of(&matches);
    let (text, config) = match &file {
        Some(path) => args::read_config(path)?,
        None => Default::default(),
    };
    let lines = DeTable::parse(&text).ok();
    let line_of = |key: &str| {
        let (found, _) = lines.as_ref()?.get_ref().iter().find(|(k, _)| k.get_ref() == key)?;
        Some(line_at(&text, found.span().start))
    };
    let mut all = Vec::new();
    let mut settings = Settings::default();
    for setting in TABLE.iter().filter(|s| s.commands.contains(usage.command)) {
        let (origin, values) = args::winning_source(setting, &matches, &args, &config)?;
        for value in &values {
            let wrong = |why| origin.blamed(&hidden(setting, value, why));
            (setting.set)(&mut settings, value).map_err(wrong)?;
        }
        let line = if let Origin::Key(key) = origin { line_of(key) } else { None };
        all.push(Effective { setting, values, origin, line });
    }
    if settings.json {
        crate::outcome::report_as_json();
    }
    Ok(Holding { all, is_json: settings.json, file, matches })
}

/// Whether a report is wanted for machines, and so what is told of errors: as [`super::parse`] has it, for those that
/// report on a configuration file, whatever is wrong with it.
pub fn wants_json(matches: &ArgMatches) -> bool {
    let of_file = || {
        let (_, config) = args::read_config(&args::config_of(matches)?).ok()?;
        config.get(JSON)?.as_bool()
    };
    let wants = matches.get_flag(JSON) || environment_wants_json().or_else(of_file).unwrap_or(false);
    if wants {
        crate::outcome::report_as_json();
    }
    wants
}

/// What the environment says of that, if anything.
pub fn environment_wants_json() -> Option<bool> {
    let value = std::env::var("INGLE_JSON").ok()?;
    bool::from_text(&value).ok()
}

/// What is wrong with a value, without the value if that is secret.
fn hidden(setting: &Setting, value: &str, why: String) -> String {
    if setting.is_secret() { why.replace(value, "(not shown)") } else { why }
}

/// The configuration file that a command line names, or where it is looked for; and whether it is there.
pub fn config_file(matches: &ArgMatches) -> Option<(PathBuf, bool)> {
    let named = matches.get_one::<String>("config").map(PathBuf::from);
    let path = named.or_else(args::config_place)?;
    let is_there = path.is_file();
    Some((path, is_there))
}

/// A mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// Reads a configuration file as the commands would, and tells all mistakes.
///
/// # Errors
/// If it cannot be read.
pub fn check_file(path: &Path) -> Result<Vec<Problem>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = crate::run::read_text(file, &path.display().to_string(), args::CONFIG_BYTES_MAX)?;
    Ok(problems(&text))
}

/// Most mistakes that are told of one file.
const PROBLEMS_MAX: usize = 100;

fn problems(text: &str) -> Vec<Problem> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut found: Vec<Problem> = errors
        .iter()
        .take(PROBLEMS_MAX)
        .map(|error| Problem {
            line: line_at(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
        .collect();
    if !found.is_empty() {
        return found;
    }
    let Ok(values) = text.parse::<toml::Table>() else { return found };
    for (key, spanned) in table.get_ref() {
        let line = line_at(text, key.span().start);
        let value = &values[key.get_ref().as_ref()];
        found.extend(of_key(key.get_ref(), value, spanned.get_ref(), text, line));
    }
    found.truncate(PROBLEMS_MAX);
    found.sort_by_key(|problem| problem.line);
    found
}

fn of_key(
    key: &str,
    value: &toml::Value,
    spanned: &toml::de::DeValue<'_>,
    text: &str,
    line: usize,
) -> Vec<Problem> {
    if key == models::KEY {
        return of_models(value, spanned, text, line);
    }
    let Some(setting) = TABLE.iter().find(|s| s.key == key) else {
        return vec![Problem { line, message: format!("`{key}` is no setting{}", nearest(key)) }];
    };
    let values = match values_of(setting, value) {
        Ok(values) => values,
        Err(error) => return vec![Problem { line, message: error.to_string() }],
    };
    let wrong = |value: &String| {
        let why = (setting.set)(&mut Settings::default(), value).err()?;
        Some(Problem { line, message: format!("`{key}`: {}", hidden(setting, value, why)) })
    };
    values.iter().filter_map(wrong).collect()
}

/// Each table `[[models]]` by itself, so that one mistake does not hide another.
fn of_models(value: &toml::Value, spanned: &toml::de::DeValue<'_>, text: &str, line: usize) -> Vec<Problem> {
    let check = |value: toml::Value| {
        let config = toml::Table::from_iter([(models::KEY.to_owned(), value)]);
        models::tables(&config, &Settings::default()).err()
    };
    let (Some(list), Some(places)) = (value.as_array(), spanned.as_array()) else {
        return check(value.clone())
            .map(|error| Problem { line, message: error.to_string() })
            .into_iter()
            .collect();
    };
    let of_one = |(value, place): (&toml::Value, &toml::Spanned<toml::de::DeValue<'_>>)| {
        let error = check(toml::Value::Array(vec![value.clone()]))?;
        let line = line_at(text, place.span().start);
        Some(Problem { line, message: format!("[[models]]: {}", error.root_cause()) })
    };
    list.iter().zip(places.iter()).filter_map(of_one).collect()
}

/// The key that was meant, perhaps.
fn nearest(key: &str) -> String {
    let distance = |other: &str| {
        let (a, b): (Vec<char>, Vec<char>) = (key.chars().take(64).collect(), other.chars().collect());
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut before = row[0];
            row[0] = i + 1;
            for (j, y) in b.iter().enumerate() {
                let change = before + usize::from(x != y);
                before = row[j + 1];
                row[j + 1] = change.min(row[j] + 1).min(before + 1);
            }
        }
        row[b.len()]
    };
    let plain = key.replace('-', "_");
    let exact = TABLE.iter().find(|s| {
        s.flag.replace('-', "_") == plain || s.aliases.iter().any(|a| a.replace('-', "_") == plain)
    });
    let near = || TABLE.iter().min_by_key(|s| distance(s.key)).filter(|s| distance(s.key) <= 2);
    match exact.or_else(near) {
        Some(setting) => format!("; is `{}` meant?", setting.key),
        None => " (`ingle settings` lists them)".into(),
    }
}

/// The line that a byte is in, from 1.
fn line_at(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::super::Commands;
    use super::*;

    #[test]
    fn mistakes_are_found_with_their_lines() {
        let check = |text: &str, expected: &[(usize, &str)]| {
            let found = problems(text);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            for (problem, (line, words)) in found.iter().zip(expected) {
                assert_eq!(problem.line, *line, "{problem:?}");
                assert!(problem.message.contains(words), "{problem:?}");
            }
        };
        check("", &[]);
        check("# all is well\nport = 8080\ntemperature = 0.5\n[[models]]\nmodel = 'a.gguf'\n", &[]);
        check("port = 8080\n\nportt = 1\n", &[(3, "is `port` meant?")]);
        check(
            "ctx-size = 1\nmax_model_len = 9\nfrobnicate = true",
            &[(1, "is `ctx_size` meant?"), (2, "is `ctx_size` meant?"), (3, "ingle settings")],
        );
        check(
            "port = 99999\nkv_type = 'q3'\nlisten = ['127.0.0.1:1', 'x']",
            &[(1, "`port`: `99999`"), (2, "`kv_type`: `q3`"), (3, "`listen`: `x`")],
        );
        check("port = [1]\nhost = { a = 1 }", &[(1, "array"), (2, "table")]);
        check("\nport = \n", &[(2, "")]);
        check(
            "[[models]]\nmodel = 'a'\n\n[[models]]\nmodel = 'b'\nport = 1\n\n[[models]]\nname = 'c'\n",
            &[(4, "`port` holds for the whole server"), (8, "`model` is missing")],
        );
    }

    #[test]
    fn the_values_of_keys_are_not_shown() {
        let setting = TABLE.iter().find(|s| s.key == "api_key").expect("a setting");
        assert!(setting.is_secret());
        assert_eq!(hidden(setting, "s3cret", "`s3cret` is wrong".into()), "`(not shown)` is wrong");
    }

    #[test]
    fn commands_and_their_settings() {
        // `ANY` takes every setting, and their flags go together.
        assert!(TABLE.iter().all(|s| s.commands.contains(Commands::ANY)));
        let usage = Usage { name: "config", about: "", command: Commands::ANY, positional: &[] };
        args::clap_command(usage, &[]).debug_assert();
    }
}
