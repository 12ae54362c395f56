//! `ingle completions` and `ingle man`: written from the same tables as the parsers of command lines.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;

use crate::settings::{Commands, Settings, Usage, clap_command};
use crate::{
    HELP, batch, bench, bundle, client, commands, config, doctor, fit, models, pull, replay, run, serve,
};

/// The hidden command that prints names, for the shells' scripts.
pub const NAMES: &str = "__names";
/// Most names that a shell is offered.
const NAMES_MAX: usize = 1000;

const COMPLETIONS: Usage = Usage {
    name: "completions",
    about: "Print a script that completes command lines.\n\n  \
            bash        ingle completions bash > ~/.local/share/bash-completion/completions/ingle\n  \
            zsh         ingle completions zsh > a folder of $fpath, as _ingle\n  \
            fish        ingle completions fish > ~/.config/fish/completions/ingle.fish\n  \
            powershell  ingle completions powershell | Out-String | Invoke-Expression",
    command: Commands::CLIENT,
    positional: &[("SHELL", "bash, zsh, fish or powershell")],
};

const MAN: Usage = Usage {
    name: "man",
    about: "Print the manual's first page, or write all pages into a folder (`man -l DIR/ingle-run.1` shows one).",
    command: Commands::CLIENT,
    positional: &[("DIR", "Folder for the pages; it is made if it is not there")],
};

/// All commands with their options, as clap knows them.
fn tree() -> Command {
    let of = |usage: Usage, extra: &[Arg]| clap_command(usage, extra);
    // These two have no settings, only a plain argument.
    let plain = |usage: Usage| {
        let (name, help) = usage.positional[0];
        Command::new(usage.name).about(usage.about).arg(Arg::new(name).value_name(name).help(help))
    };
    let shells = ["bash", "zsh", "fish", "powershell"];
    let completions =
        plain(COMPLETIONS).mut_arg("SHELL", |arg| arg.value_parser(PossibleValuesParser::new(shells)));
    let all = [
        of(run::USAGE, &run::options()),
        of(batch::USAGE, &batch::arguments()),
        of(serve::USAGE, &[]),
        of(replay::USAGE, &[]),
        of(client::PS, &[]),
        of(client::STOP, &[]),
        of(pull::PULL, &pull::pull_options()),
        of(pull::PUSH, &pull::push_options()),
        of(pull::LOGIN, &pull::login_options()),
        of(pull::LOGOUT, &[]),
        of(models::LIST, &models::list_options()),
        of(models::SHOW, &models::show_options()),
        of(models::CREATE, &models::create_options()),
        of(models::COPY, &[]),
        of(models::REMOVE, &[]),
        of(models::PRUNE, &models::prune_options()),
        of(models::VERIFY, &[]),
        of(fit::USAGE, &fit::options()),
        of(doctor::USAGE, &doctor::options()),
        of(bundle::EXPORT, &bundle::export_options()),
        of(bundle::IMPORT, &bundle::import_options()),
        bundle::keygen_command(),
        commands::convert_command(),
        of(bench::USAGE, &bench::arguments()).subcommand(plainly(bench::serve::command(), "serve")),
        commands::tokenize_command(),
        commands::render_command(),
        commands::settings_command(),
        of(config::USAGE, &config::options()),
        commands::openapi_command(),
        completions,
        plain(MAN),
    ];
    let root = Command::new("ingle")
        .version(env!("CARGO_PKG_VERSION"))
        .about(HELP.lines().next().unwrap_or_default())
        .disable_help_subcommand(true);
    root.subcommands(all.into_iter().map(|command| {
        let name = command.get_name().to_owned();
        plainly(command, &name)
    }))
}

/// A command without what is hidden, and with hints what its values are.
fn plainly(command: Command, name: &str) -> Command {
    let mut plain = Command::new(name.to_owned()).version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_about() {
        let text = about.to_string();
        let short = short_help(name)
            .map_or_else(|| text.lines().next().unwrap_or_default().to_owned(), str::to_owned);
        plain = plain.about(short).long_about(text);
    }
    if let Some(usage) = command.get_overridden_usage() {
        plain = plain.override_usage(usage.clone());
    }
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(with_hint);
    plain.args(shown).subcommands(command.get_subcommands().cloned()).disable_version_flag(true)
}

/// What the list of commands says of one.
fn short_help(name: &str) -> Option<&'static str> {
    HELP.lines().find_map(|line| Some(line.strip_prefix("  ")?.strip_prefix(name)?.strip_prefix(' ')?.trim()))
}

fn with_hint(arg: Arg) -> Arg {
    let Some(name) = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string) else {
        return arg;
    };
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.contains('|') && name.split('|').all(is_word) {
        return arg
            .value_parser(PossibleValuesParser::new(name.split('|').map(str::to_owned).collect::<Vec<_>>()));
    }
    match name.as_str() {
        name if name.contains("FILE") || name == "MODEL" => arg.value_hint(ValueHint::FilePath),
        name if name.contains("DIR") || name == "FOLDER" => arg.value_hint(ValueHint::DirPath),
        _ => arg.value_hint(ValueHint::Other),
    }
}

/// `ingle completions`
pub fn main(args: &[OsString]) -> Result<()> {
    let tree = tree();
    let own = tree.find_subcommand("completions").expect("it is in the tree").clone();
    let m = commands::matches(own.bin_name("ingle completions").no_binary_name(true), args);
    let shell = match m.get_one::<String>("SHELL").map(String::as_str) {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        Some("powershell") => Shell::PowerShell,
        _ => misuse!("name the shell: bash, zsh, fish or powershell"),
    };
    std::io::stdout().write_all(&script(shell, tree))?;
    Ok(())
}

fn script(shell: Shell, mut tree: Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree, "ingle", &mut script);
    script.extend_from_slice(
        match shell {
            Shell::Bash => BASH_NAMES,
            Shell::Zsh => ZSH_NAMES,
            Shell::Fish => FISH_NAMES,
            _ => "",
        }
        .as_bytes(),
    );
    script
}

/// Names of models, which the program knows and the script asks it for.
const BASH_NAMES: &str = r#"
_ingle_with_names() {
    _ingle "$@"
    # A colon parts words in bash, and names of models have colons: so the line is read as it is, and what stands before
    # the last colon is taken off what is offered.
    local line="${COMP_LINE:0:COMP_POINT}" kind=""
    local typed="${line##*[[:space:]]}" before="${line%"${line##*[[:space:]]}"}"
    local -a words
    read -ra words <<< "$before"
    local is_first=$(( ${#words[@]} == 2 ))
    case "${words[1]}" in
        run|serve|show|fit) (( is_first )) && kind="models" ;;
        pull|push|rm|verify|export) kind="stored" ;;
        cp) (( is_first )) && kind="stored" ;;
        stop) (( is_first )) && kind="running" ;;
    esac
    if [[ -n "$kind" && "$typed" != -* ]]; then
        local name cut=""
        [[ "$COMP_WORDBREAKS" == *:* && "$typed" == *:* ]] && cut="${typed%"${typed##*:}"}"
        while IFS= read -r name; do
            [[ "$name" == "$typed"* ]] && COMPREPLY+=( "${name#"$cut"}" )
        done < <("${COMP_WORDS[0]}" __names "$kind" 2>/dev/null)
    fi
}
complete -F _ingle_with_names -o bashdefault -o default ingle
"#;

const ZSH_NAMES: &str = r#"
_ingle_with_names() {
    _ingle "$@"
    local found=$?
    local kind=""
    case "$words[2]" in
        run|serve|show|fit) (( CURRENT == 3 )) && kind=models ;;
        pull|push|rm|verify|export) kind=stored ;;
        cp) (( CURRENT == 3 )) && kind=stored ;;
        stop) (( CURRENT == 3 )) && kind=running ;;
    esac
    if [[ -n $kind && $PREFIX != -* ]]; then
        compadd -- ${(f)"$(ingle __names $kind 2>/dev/null)"} && found=0
    fi
    return found
}
compdef _ingle_with_names ingle
"#;

const FISH_NAMES: &str = r#"
complete -c ingle -n "__fish_seen_subcommand_from run serve show fit" -a "(ingle __names models 2>/dev/null)"
complete -c ingle -n "__fish_seen_subcommand_from pull push rm verify export cp" -f -a "(ingle __names stored 2>/dev/null)"
complete -c ingle -n "__fish_seen_subcommand_from stop" -f -a "(ingle __names running 2>/dev/null)"
"#;

/// `ingle __names`: the names that a command can be given, one a line. What cannot be found out has none: nobody reads
/// an error in the middle of a line.
pub fn names(args: &[OsString]) -> Result<()> {
    let found = match args.first().and_then(|kind| kind.to_str()) {
        Some("models") => stored_names().into_iter().chain(model_files()).collect(),
        Some("stored") => stored_names(),
        Some("running") => client::names().unwrap_or_default(),
        _ => bail!("`{NAMES}` is for the scripts of `ingle completions`"),
    };
    let mut out = std::io::stdout().lock();
    for name in found.iter().take(NAMES_MAX).filter(|name| !name.contains(char::is_whitespace)) {
        writeln!(out, "{name}")?;
    }
    Ok(())
}

/// The names in the store.
fn stored_names() -> Vec<String> {
    let parsed = crate::settings::parse(models::LIST, &[], &[], &Default::default());
    let Ok((parsed, _)) = parsed else { return Vec::new() };
    let found = models::Models::open(&parsed.settings).and_then(|models| Ok(models.store.list()?));
    found.unwrap_or_default().iter().take(NAMES_MAX).map(|entry| entry.name.to_string()).collect()
}

/// The model files of the configured folder.
fn model_files() -> Vec<String> {
    let parsed = crate::settings::parse(serve::USAGE, &[], &[], &Default::default());
    let Ok(Settings { models_dir: Some(folder), .. }) = parsed.map(|(parsed, _)| parsed.settings) else {
        return Vec::new();
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let models = files.filter(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    models.take(NAMES_MAX).map(|path| path.display().to_string()).collect()
}

/// `ingle man`
pub fn man(args: &[OsString]) -> Result<()> {
    let tree = tree();
    let own = tree.find_subcommand("man").expect("it is in the tree").clone();
    let m = commands::matches(own.bin_name("ingle man").no_binary_name(true), args);
    let pages = pages(tree)?;
    let Some(folder) = m.get_one::<String>("DIR").map(PathBuf::from) else {
        std::io::stdout().write_all(&pages[0].1)?;
        return Ok(());
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, page) in &pages {
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say!("{} pages are in {}", pages.len(), folder.display());
    Ok(())
}

/// The pages of the manual with their files' names, the program's own first.
fn pages(tree: Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut pages = vec![page(tree.clone(), "ingle".into())?];
    for command in tree.get_subcommands() {
        let name = format!("ingle-{}", command.get_name());
        for inner in command.get_subcommands() {
            pages.push(page(inner.clone(), format!("{name}-{}", inner.get_name()))?);
        }
        pages.push(page(command.clone(), name)?);
    }
    Ok(pages)
}

fn page(command: Command, name: String) -> Result<(String, Vec<u8>)> {
    let version = format!("Ingle {}", env!("CARGO_PKG_VERSION"));
    let bin_name = name.replace('-', " ");
    let command = command
        .name(name.clone())
        .display_name(name.clone())
        .bin_name(bin_name)
        .disable_help_subcommand(true);
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .source(version)
        .manual("Ingle")
        .render(&mut page)?;
    Ok((format!("{name}.1"), page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_help_is_in_the_tree() {
        let tree = tree();
        let listed =
            HELP.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let listed: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
        let known: Vec<&str> = tree.get_subcommands().map(Command::get_name).collect();
        assert_eq!(known, listed);
        for command in tree.get_subcommands() {
            assert!(short_help(command.get_name()).is_some(), "{}", command.get_name());
        }
        tree.debug_assert();
    }

    #[test]
    fn scripts_know_commands_and_flags_but_nothing_hidden() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let text = String::from_utf8(script(shell, tree())).expect("UTF-8");
            for word in ["completions", "ctx-size", "temp", "refuse"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
            assert!(!text.contains("gpu-memory-utilization"), "{shell}: an option that only peers have");
        }
    }

    #[test]
    fn pages_tell_of_every_setting() {
        let pages = pages(tree()).expect("pages");
        assert_eq!(pages[0].0, "ingle.1");
        let run = pages.iter().find(|(name, _)| name == "ingle-run.1").expect("a page for run");
        let text = String::from_utf8_lossy(&run.1).into_owned();
        for setting in crate::settings::TABLE.iter().filter(|s| s.commands.contains(Commands::RUN)) {
            let flag = setting.flag.replace('-', "\\-");
            assert!(text.contains(&format!("\\-\\-{flag}")), "{}", setting.flag);
        }
    }
}
