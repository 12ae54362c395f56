//! From a command line, the environment and a configuration file to [`Settings`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::compat::{self, Facts};
use super::{Commands, Setting, Settings, Shape, TABLE};

/// A command line, taken in.
#[derive(Debug)]
pub struct Parsed {
    /// What was set.
    pub settings: Settings,
    /// Arguments that are no options.
    pub positional: Vec<String>,
    /// What the user should know about accepted options that change nothing.
    pub notes: Vec<String>,
}

/// What a command is called and takes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// `run`, `serve`, ...
    pub name: &'static str,
    /// One line for help.
    pub about: &'static str,
    /// Which settings it has.
    pub command: Commands,
    /// What its plain arguments are, for help.
    pub positional: &'static str,
    /// How many plain arguments it takes at most.
    pub positional_max: usize,
}

/// Takes in the arguments after the command's name.
///
/// # Errors
/// With the option at fault and the reason.
pub fn parse(usage: Usage, extra: &[Arg], args: &[OsString], facts: &Facts) -> Result<(Parsed, ArgMatches)> {
    let args = respell(args, usage.command);
    let matches = match clap_command(usage, extra).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let config = match matches.get_one::<String>("config").map(PathBuf::from).or_else(default_config) {
        Some(path) => read_config(&path)?,
        None => toml::Table::new(),
    };
    let mut settings = Settings::default();
    for setting in TABLE.iter().filter(|s| s.commands.contains(usage.command)) {
        let (source, values) = winning_source(setting, &matches, &config)?;
        for value in values {
            (setting.set)(&mut settings, &value).map_err(|e| anyhow!("{source}: {e}"))?;
        }
    }
    let notes = compat::check(&matches, usage.command, facts)?;
    let positional = matches.get_many::<String>("positional").unwrap_or_default().cloned().collect();
    Ok((Parsed { settings, positional, notes }, matches))
}

/// The values of a setting, and where they come from: flag before environment before file.
fn winning_source(
    setting: &Setting,
    matches: &ArgMatches,
    config: &toml::Table,
) -> Result<(String, Vec<String>)> {
    if setting.shape == Shape::Switch {
        if matches.get_flag(setting.key) {
            return Ok((format!("--{}", setting.flag), vec!["true".into()]));
        }
    } else if let Some(values) = matches.get_many::<String>(setting.key) {
        return Ok((format!("--{}", setting.flag), values.cloned().collect()));
    }
    let own = setting.env();
    for name in std::iter::once(own.as_str()).chain(setting.env_aliases.iter().copied()) {
        if let Ok(value) = std::env::var(name) {
            return Ok((format!("environment variable {name}"), vec![value]));
        }
    }
    let Some(value) = config.get(setting.key) else { return Ok((String::new(), Vec::new())) };
    let text = |v: &toml::Value| match v {
        toml::Value::String(s) => Ok(s.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok(v.to_string()),
        other => bail!("configuration key `{}` cannot be a {}", setting.key, other.type_str()),
    };
    let values = match value {
        toml::Value::Array(items) if setting.shape == Shape::Many => {
            items.iter().map(text).collect::<Result<_>>()?
        }
        other => vec![text(other)?],
    };
    Ok((format!("configuration key `{}`", setting.key), values))
}

/// `INGLE_CONFIG`, or `ingle/config.toml` where the system keeps configuration, if it is there.
fn default_config() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("INGLE_CONFIG") {
        return Some(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    let path = base.join("ingle").join("config.toml");
    path.is_file().then_some(path)
}

fn read_config(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("configuration file {}", path.display()))?;
    for key in table.keys() {
        if !TABLE.iter().any(|s| s.key == key) {
            bail!(
                "configuration file {}: `{key}` is no setting (`ingle settings` lists them)",
                path.display()
            );
        }
    }
    Ok(table)
}

fn clap_command(usage: Usage, extra: &[Arg]) -> Command {
    let mut command = Command::new(usage.name)
        .bin_name(format!("ingle {}", usage.name))
        .about(usage.about)
        .no_binary_name(true)
        .args_override_self(true)
        .arg(Arg::new("config").long("config").value_name("FILE").help(
            "Configuration file (TOML) [default: ingle/config.toml where the system keeps configuration]",
        ));
    for setting in TABLE.iter().filter(|s| s.commands.contains(usage.command)) {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default)
        };
        let mut arg = Arg::new(setting.key)
            .long(setting.flag)
            .aliases(setting.aliases.iter().copied().chain(setting.dash.iter().copied()))
            .help(format!("{}{default}", setting.help));
        if let Some(short) = setting.short {
            arg = arg.short(short);
        }
        command = command.arg(match setting.shape {
            Shape::Switch => arg.action(ArgAction::SetTrue),
            Shape::One => arg.value_name(setting.value_name).allow_hyphen_values(true).action(ArgAction::Set),
            Shape::Many => {
                arg.value_name(setting.value_name).allow_hyphen_values(true).action(ArgAction::Append)
            }
        });
    }
    for option in compat::OPTIONS.iter().filter(|o| o.commands.contains(usage.command)) {
        let arg = Arg::new(option.flag).long(option.flag).aliases(option.aliases.iter().copied()).hide(true);
        command = command.arg(if option.takes_value {
            arg.allow_hyphen_values(true)
                .num_args(if option.value_optional { 0..=1 } else { 1..=1 })
                .default_missing_value("on")
                .require_equals(option.value_optional)
                .action(ArgAction::Append)
        } else {
            arg.action(ArgAction::SetTrue)
        });
    }
    command = command.args(extra.iter().cloned());
    if usage.positional_max > 0 {
        command = command
            .arg(Arg::new("positional").value_name(usage.positional).num_args(0..=usage.positional_max));
    }
    command
}

/// The peers' ways of writing options, in ours: llama.cpp's `-ngl 9` (one dash, several letters) becomes
/// `--ngl 9`, vLLM's `--max_model_len` becomes `--max-model-len`, and a value after an option whose value is
/// optional is joined to it.
fn respell(args: &[OsString], command: Commands) -> Vec<OsString> {
    let dash = |name: &str| {
        TABLE.iter().filter(|s| s.commands.contains(command)).any(|s| s.dash.contains(&name))
            || compat::OPTIONS.iter().filter(|o| o.commands.contains(command)).any(|o| o.dash.contains(&name))
    };
    let value_optional = |name: &str| {
        compat::OPTIONS.iter().any(|o| o.value_optional && (o.flag == name || o.aliases.contains(&name)))
    };
    let mut out: Vec<OsString> = Vec::with_capacity(args.len());
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else {
            out.push(arg.clone());
            continue;
        };
        if text == "--" {
            out.push(arg.clone());
            out.extend(args.cloned());
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let long = match name.strip_prefix("--") {
            Some(long) => long.replace('_', "-"),
            None => match name.strip_prefix('-') {
                Some(letters) if !letters.is_empty() && dash(letters) => letters.to_owned(),
                _ => {
                    out.push(arg.clone());
                    continue;
                }
            },
        };
        let joined = value.map(str::to_owned).or_else(|| {
            let next = args.peek()?.to_str()?;
            let is_value = matches!(next, "on" | "off" | "auto" | "0" | "1" | "true" | "false");
            if value_optional(&long) && is_value {
                args.next().and_then(|a| a.to_str()).map(str::to_owned)
            } else {
                None
            }
        });
        out.push(match joined {
            Some(value) => format!("--{long}={value}").into(),
            None => format!("--{long}").into(),
        });
    }
    out
}
