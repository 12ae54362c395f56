//! From a command line, the environment and a configuration file to [`Settings`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::compat::{self, Facts};
use super::origins::{self, Origin};
use super::{Commands, ModelTable, Setting, Settings, Shape, TABLE};

/// A command line, taken in.
#[derive(Debug)]
pub struct Parsed {
    /// What was set.
    pub settings: Settings,
    /// The models that the configuration file describes one by one.
    pub models: Vec<ModelTable>,
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
    /// Its plain arguments: what stands for them, with dots behind it if there can be several, and help.
    pub positional: &'static [(&'static str, &'static str)],
}

/// Takes in the arguments after the command's name.
///
/// # Errors
/// With the option at fault and the reason.
pub fn parse(usage: Usage, extra: &[Arg], args: &[OsString], facts: &Facts) -> Result<(Parsed, ArgMatches)> {
    let (args, matches) = self::matches(usage, extra, args);
    let config = match config_of(&matches) {
        Some(path) => read_config(&path)?.1,
        None => toml::Table::new(),
    };
    let mut settings = Settings::default();
    for setting in TABLE.iter().filter(|s| s.commands.contains(usage.command)) {
        let (source, values) = winning_source(setting, &matches, &args, &config)?;
        for value in values {
            (setting.set)(&mut settings, &value).map_err(|why| source.blamed(&why))?;
        }
    }
    if settings.json {
        crate::outcome::report_as_json();
    }
    let models = match usage.command {
        Commands::SERVE => super::models::tables(&config, &settings)?,
        _ => Vec::new(),
    };
    let mut notes = compat::check(&matches, &args, usage.command, facts)?;
    notes.extend(one_kv_type(&args)?);
    let given = usage.positional.iter().filter_map(|(name, _)| matches.get_many::<String>(name));
    let positional = given.flatten().cloned().collect();
    Ok((Parsed { settings, models, positional, notes }, matches))
}

/// A command line as clap takes it in, respelled. Ends the process, with a word, where it is wrong or asks for help.
pub fn matches(usage: Usage, extra: &[Arg], args: &[OsString]) -> (Vec<OsString>, ArgMatches) {
    let has_json = TABLE.iter().any(|s| s.key == origins::JSON && s.commands.contains(usage.command));
    // What is wrong with the line itself is told as its report would be.
    if has_json && origins::environment_wants_json() == Some(true) {
        crate::outcome::report_as_json();
    }
    let command = clap_command(usage, extra);
    let args = respell(args, usage, &command);
    match command.try_get_matches_from(&args) {
        Ok(matches) => (args, matches),
        Err(error) => crate::outcome::leave(&error, &args),
    }
}

/// The values of a setting, and where they come from: flag before environment before file.
pub(super) fn winning_source(
    setting: &Setting,
    matches: &ArgMatches,
    args: &[OsString],
    config: &toml::Table,
) -> Result<(Origin, Vec<String>)> {
    if setting.shape == Shape::Switch {
        if matches.get_flag(setting.key) {
            return Ok((Origin::Flag(format!("--{}", setting.flag)), vec!["true".into()]));
        }
    } else if let Some(values) = matches.get_many::<String>(setting.key) {
        let name = compat::spelled(args, setting.flag, setting.aliases, setting.dash);
        return Ok((Origin::Flag(name), values.cloned().collect()));
    }
    let own = setting.env();
    for name in std::iter::once(own.as_str()).chain(setting.env_aliases.iter().copied()) {
        if let Ok(value) = std::env::var(name)
            && !super::ollama::is_unset(name, &value)
        {
            return Ok((Origin::Environment(name.to_owned()), vec![value]));
        }
    }
    let Some(value) = config.get(setting.key) else { return Ok((Origin::Default, Vec::new())) };
    Ok((Origin::Key(setting.key), values_of(setting, value)?))
}

/// The values that a key of the configuration file has.
pub(super) fn values_of(setting: &Setting, value: &toml::Value) -> Result<Vec<String>> {
    let text = |v: &toml::Value| match v {
        toml::Value::String(s) => Ok(s.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok(v.to_string()),
        other => bail!("configuration key `{}` cannot be of type {}", setting.key, other.type_str()),
    };
    match value {
        toml::Value::Array(items) if setting.shape == Shape::Many => items.iter().map(text).collect(),
        other => Ok(vec![text(other)?]),
    }
}

/// The configuration file that a command line names, or the one that is found.
pub(super) fn config_of(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<String>("config").map(PathBuf::from).or_else(default_config)
}

/// `INGLE_CONFIG`, or `ingle/config.toml` where the system keeps configuration, if it is there.
fn default_config() -> Option<PathBuf> {
    let path = config_place()?;
    (std::env::var_os("INGLE_CONFIG").is_some() || path.is_file()).then_some(path)
}

/// Where the configuration file is looked for.
pub(super) fn config_place() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("INGLE_CONFIG") {
        return Some(path.into());
    }
    Some(config_folder()?.join("config.toml"))
}

/// `ingle` where the system keeps configuration.
pub fn config_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(base.join("ingle"))
}

/// The largest configuration file.
pub(super) const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// A configuration file's text, and what it says.
pub(super) fn read_config(path: &Path) -> Result<(String, toml::Table)> {
    let name = format!("the configuration file {}", path.display());
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    let text = crate::run::read_text(file, &name, CONFIG_BYTES_MAX)?;
    let table: toml::Table =
        text.parse().with_context(|| format!("configuration file {}", path.display()))?;
    for key in table.keys() {
        if key != super::models::KEY && !TABLE.iter().any(|s| s.key == key) {
            bail!(
                "configuration file {}: `{key}` is no setting (`ingle settings` lists them)",
                path.display()
            );
        }
    }
    Ok((text, table))
}

/// A command with all its options, as clap knows it.
pub fn clap_command(usage: Usage, extra: &[Arg]) -> Command {
    let mut command = Command::new(usage.name)
        .bin_name(format!("ingle {}", usage.name))
        .about(usage.about)
        .override_usage(
            usage.positional.iter().fold(format!("ingle {} [OPTIONS]", usage.name), |line, (name, _)| {
                format!("{line} [{name}]")
            }),
        )
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
            Shape::Optional => arg
                .value_name(setting.value_name)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .action(ArgAction::Set),
            Shape::One => arg.value_name(setting.value_name).allow_hyphen_values(true).action(ArgAction::Set),
            Shape::Many => {
                arg.value_name(setting.value_name).allow_hyphen_values(true).action(ArgAction::Append)
            }
        });
    }
    let options = compat::OPTIONS
        .iter()
        .filter(|o| usage.command != Commands::ANY && o.commands.contains(usage.command));
    for option in options {
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
    command.args(usage.positional.iter().map(|&(name, help)| {
        let n_max = if name.ends_with("...") { usize::MAX } else { 1 };
        Arg::new(name).value_name(name.trim_end_matches("...")).help(help).num_args(1..=n_max)
    }))
}

/// The peers' ways of writing options, in ours: llama.cpp's `-ngl 9` (one dash, several letters) becomes
/// `--ngl 9`, vLLM's `--max_model_len` becomes `--max-model-len`, a value after an option whose value is optional
/// is joined to it, and vLLM's several values after one `--served-model-name` or `--lora-modules` get an option each. Values are never
/// touched, whatever they look like.
fn respell(args: &[OsString], usage: Usage, command: &Command) -> Vec<OsString> {
    let dash = |name: &str| {
        TABLE.iter().filter(|s| s.commands.contains(usage.command)).any(|s| s.dash.contains(&name))
            || compat::OPTIONS
                .iter()
                .filter(|o| o.commands.contains(usage.command))
                .any(|o| o.dash.contains(&name))
    };
    let long_arg = |name: &str| {
        command.get_arguments().find(|a| {
            a.get_long() == Some(name) || a.get_all_aliases().is_some_and(|all| all.contains(&name))
        })
    };
    let takes_next = |arg: &Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    let short_takes_next = |letters: &str| {
        for (at, letter) in letters.char_indices() {
            let arg = command.get_arguments().find(|a| a.get_short() == Some(letter));
            if arg.is_some_and(takes_next) {
                return at + letter.len_utf8() == letters.len();
            }
        }
        false
    };
    let mut out: Vec<OsString> = Vec::with_capacity(args.len());
    let mut args = args.iter().peekable();
    let mut has_model = false;
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
                Some(letters) => {
                    has_model |= letters.starts_with('m');
                    out.push(arg.clone());
                    if value.is_none() && short_takes_next(letters) {
                        out.extend(args.next().cloned());
                    }
                    continue;
                }
                None => {
                    has_model = true;
                    out.push(arg.clone());
                    continue;
                }
            },
        };
        has_model |= long == "model";
        let known = long_arg(&long);
        let optional = known.is_some_and(Arg::is_require_equals_set);
        let joined = value.map(str::to_owned).or_else(|| {
            let next = args.peek()?.to_str()?;
            let is_value = matches!(next, "on" | "off" | "auto" | "0" | "1" | "true" | "false");
            if optional && is_value { args.next().and_then(|a| a.to_str()).map(str::to_owned) } else { None }
        });
        let is_whole = joined.is_some();
        out.push(match joined {
            Some(value) => format!("--{long}={value}").into(),
            None => format!("--{long}").into(),
        });
        if !is_whole && known.is_some_and(takes_next) {
            out.extend(args.next().cloned());
            if matches!(long.as_str(), "lora-modules" | "lora-paths") {
                let is_one = |next: &OsString| {
                    let next = next.to_string_lossy();
                    next.starts_with('{') || !next.starts_with('-') && next.contains('=')
                };
                while let Some(module) = args.next_if(|next| is_one(next)) {
                    out.extend(["--lora-modules".into(), module.clone()]);
                }
            }
            if long == "served-model-name" && has_model {
                while let Some(name) = args.next_if(|next| !next.to_string_lossy().starts_with('-')) {
                    out.extend(["--served-model-name".into(), name.clone()]);
                }
            }
        }
    }
    out
}

/// llama.cpp stores keys and values in types of their own, here both have one: two different ones are refused, and
/// that one is meant for both is said.
fn one_kv_type(args: &[OsString]) -> Result<Option<String>> {
    let value_of = |names: [&str; 2]| {
        let mut found = None;
        let mut args = args.iter().filter_map(|a| a.to_str()).peekable();
        while let Some(arg) = args.next() {
            let (name, value) =
                arg.split_once('=').map_or((arg, args.peek().copied()), |(name, value)| (name, Some(value)));
            if names.contains(&name) {
                found = value;
            }
        }
        found
    };
    match (value_of(["--ctk", "--cache-type-k"]), value_of(["--ctv", "--cache-type-v"])) {
        (Some(k), Some(v)) if k != v => {
            misuse!("--cache-type-k is {k} and --cache-type-v is {v}: keys and values have one type here")
        }
        (Some(both), None) | (None, Some(both)) => Ok(Some(format!(
            "--cache-type-k, --cache-type-v: keys and values have one type here; both are {both}"
        ))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVE: Usage =
        Usage { name: "serve", about: "", command: Commands::SERVE, positional: &[("MODEL", "")] };
    const RUN: Usage = Usage {
        name: "run",
        about: "",
        command: Commands::RUN,
        positional: &[("MODEL", ""), ("PROMPT", "")],
    };

    fn respelled(usage: Usage, line: &str) -> String {
        let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let out = respell(&args, usage, &clap_command(usage, &[]));
        out.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    /// No name is given twice, whatever the command: clap checks it in debug builds.
    #[test]
    fn every_command_line_is_well_formed() {
        for command in [
            Commands::RUN,
            Commands::SERVE,
            Commands::BENCH,
            Commands::BATCH,
            Commands::REPLAY,
            Commands::CLIENT,
        ] {
            clap_command(Usage { name: "x", about: "", command, positional: &[] }, &[]).debug_assert();
        }
    }

    #[test]
    fn options_are_respelled_and_values_are_not() {
        for (line, expected) in [
            ("-ngl 99 --max_tokens 3", "--ngl 99 --max-tokens 3"),
            ("-p --snake_case=1 -fa on -fa -n 3", "-p --snake_case=1 --fa=on --fa -n 3"),
            ("--prompt -ngl -sys -sp", "--prompt -ngl --sys -sp"),
            ("-ep --a_b m.gguf", "-ep --a_b m.gguf"),
            ("-n3 -- --a_b", "-n3 -- --a_b"),
        ] {
            assert_eq!(respelled(RUN, line), expected);
        }
        assert_eq!(
            respelled(SERVE, "m.gguf --served-model-name a b --port 1"),
            "m.gguf --served-model-name a --served-model-name b --port 1"
        );
        assert_eq!(
            respelled(SERVE, "--lora-modules a=b {\"x\":1} c=d m.gguf"),
            "--lora-modules a=b --lora-modules {\"x\":1} --lora-modules c=d m.gguf"
        );
        assert_eq!(respelled(SERVE, "--served-model-name a m.gguf"), "--served-model-name a m.gguf");
    }

    #[test]
    fn keys_and_values_have_one_type() {
        let check = |line: &str| one_kv_type(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert!(check("--ctk q8_0 --cache-type-v=f16").unwrap_err().to_string().contains("one type"));
        assert_eq!(check("--ctk q8_0 --ctv q8_0").unwrap(), None);
        assert!(check("--cache-type-k q8_0").unwrap().unwrap().contains("both are q8_0"));
        assert_eq!(check("--kv-type q8_0").unwrap(), None);
    }
}
