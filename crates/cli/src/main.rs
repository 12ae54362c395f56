//! `ingle`: run, serve and measure language models on one's own machines.
//!
//! This crate composes the others: it turns command lines into plain structs, loads models through `runtime`, and
//! hands providers to `server`. Answers go to standard output; everything else goes to standard error.

/// Prints a line for the user to standard error. That nobody can read it is no reason to stop.
macro_rules! say {
    ($($text:tt)*) => {
        crate::say_line(&format!($($text)*))
    };
}

/// Ends a function with the word that the command line is wrong.
macro_rules! misuse {
    ($($text:tt)*) => {
        return Err(crate::outcome::Misused(format!($($text)*)).into())
    };
}

mod adapters;
mod batch;
mod bench;
mod bundle;
mod chat;
mod client;
mod clock;
mod commands;
mod completions;
mod config;
mod doctor;
mod fit;
mod models;
mod network;
mod outcome;
mod process;
mod progress;
mod pull;
mod replay;
mod run;
mod sampling;
mod serve;
mod settings;
mod signals;
mod speculation;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// What `ingle help` says; each command has a line of its own.
pub const HELP: &str = "\
Ingle runs language models on your own machines.

Usage: ingle <COMMAND> [OPTIONS]

Commands:
  run       Answer a prompt, or converse in the terminal
  batch     Answer a file of prompts or requests, line by line
  serve     Serve a model over HTTP with the APIs of OpenAI, Anthropic and Ollama
  replay    Run recorded requests again, and compare what comes
  ps        List the models that a running server has in memory
  stop      Ask a running server to unload a model
  pull      Fetch models into the store
  push      Send a model of the store to a registry
  login     Save a token for a hub or a registry
  logout    Forget it
  list      List the models of this machine
  show      Describe a model: of the store, or a file
  create    Make a model of the store from a Modelfile
  cp        Give a model a second name
  rm        Remove models from the store
  prune     Remove what no model needs
  verify    Compare the files of models with their digests
  fit       Say what a model needs, and whether it can run here
  doctor    Look over this machine and its settings, and say what to do
  export    Put models into one file, for machines without a network
  import    Take the models of such a file into the store
  keygen    Make a key that signs such files
  convert   Make a GGUF file of a folder with safetensors
  bench     Measure prefill and decode, beside this machine's limits; `bench serve`: how servers answer
  tokenize  Print the tokens of a text
  render    Render a chat template
  settings  List every setting with its flag, environment variable and key
  config    Show what holds and where each setting comes from; check a configuration file
  openapi   Print the description of the HTTP API
  completions  Print a script that completes command lines, for bash, zsh, fish or PowerShell
  man       Print the manual, or write its pages into a folder

`ingle run` alone starts a conversation with the small model that ships with Ingle.
`ingle <COMMAND> --help` has the details.
";

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && chat::has_colors())
        .log_internal_errors(false)
        .init();

    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Err(why) = check_environment().and_then(|()| check_isa()) {
        return outcome::refuse(&why, &args);
    }
    let mut command = if args.is_empty() { OsString::from("--help") } else { args.remove(0) };
    if command == "help" && !args.is_empty() {
        command = args.remove(0);
        args = vec!["--help".into()];
    }
    let mut success = ExitCode::SUCCESS;
    let result = match command.to_str() {
        Some("run") => run::main(&args),
        Some("batch") => batch::main(&args).map(|outcome| success = outcome),
        Some("serve") => serve::main(&args),
        Some("replay") => replay::main(&args).map(|outcome| success = outcome),
        Some("ps") => client::ps(&args),
        Some("stop") => client::stop(&args),
        Some("pull") => pull::pull(&args),
        Some("push") => pull::push(&args),
        Some("login") => pull::login(&args),
        Some("logout") => pull::logout(&args),
        Some("list" | "ls") => models::list(&args),
        Some("show") => models::show(&args),
        Some("create") => models::create(&args),
        Some("cp") => models::copy(&args),
        Some("rm") => models::remove(&args),
        Some("prune") => models::prune(&args),
        Some("verify") => models::verify(&args).map(|outcome| success = outcome),
        Some("fit") => fit::main(&args),
        Some("doctor") => doctor::main(&args).map(|outcome| success = outcome),
        Some("export") => bundle::export(&args),
        Some("import") => bundle::import(&args),
        Some("keygen") => bundle::keygen(&args),
        Some("convert") => commands::convert(&args),
        Some("bench") => bench::main(&args).map(|outcome| success = outcome),
        Some("tokenize") => commands::tokenize(&args),
        Some("render") => commands::render(&args),
        Some("settings") => commands::settings(&args),
        Some("config") => config::main(&args),
        Some("openapi") => commands::openapi(&args),
        Some("completions") => completions::main(&args),
        Some("man") => completions::man(&args),
        Some(completions::NAMES) => completions::names(&args),
        Some("help" | "--help" | "-h") => std::io::stdout().write_all(HELP.as_bytes()).map_err(Into::into),
        Some("version" | "--version" | "-V") => {
            writeln!(std::io::stdout(), "ingle {}", env!("CARGO_PKG_VERSION")).map_err(Into::into)
        }
        _ => {
            if settings::environment_wants_json() == Some(true) {
                outcome::report_as_json();
            }
            let words = format!("there is no command `{}`; `ingle help` lists them", command.display());
            return outcome::refuse(&words, &args);
        }
    };
    outcome::end(&command, &args, result, success)
}

/// A line on standard error. Words of hubs, files and names stand in it: nothing of them may steer a terminal.
pub fn say_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", chat::escape(text));
}

/// Settings of the environment are text. One that is not would be passed over, as if it were not there.
fn check_environment() -> Result<(), String> {
    let is_read = |name: &str| {
        let is_ours = name.starts_with("INGLE_") && name != "INGLE_CONFIG";
        is_ours
            || name.starts_with("OLLAMA_")
            || name.starts_with("HF_")
            || name.to_ascii_lowercase().ends_with("_proxy")
    };
    let is_bad = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| is_read(name))?;
        value.into_string().is_err().then_some(name)
    };
    match std::env::vars_os().find_map(is_bad) {
        Some(name) => Err(format!("the environment variable {name} is not UTF-8; set it anew, or unset it")),
        None => Ok(()),
    }
}

/// Kernels take their instruction set from the environment; a name that means none here must not be passed over.
fn check_isa() -> Result<(), String> {
    let Ok(asked) = std::env::var("INGLE_KERNELS_ISA") else { return Ok(()) };
    let names: Vec<&str> = ingle_kernels::Isa::available().map(ingle_kernels::Isa::name).collect();
    if names.contains(&&*asked) {
        return Ok(());
    }
    Err(format!("INGLE_KERNELS_ISA is `{asked}`; this machine has {}", names.join(", ")))
}
