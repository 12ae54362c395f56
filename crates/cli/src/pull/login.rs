//! `ingle login` and `ingle logout`: credentials, each for one origin.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use ingle_egress::{Credential, Credentials, Origin, RequestKey, Secret};
use serde_json::json;

use crate::chat::terminal::NoEcho;
use crate::network::{credentials_file, key_file, var};
use crate::outcome::tell;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::signals::{STOPPED, on_interrupt};

/// Where a token belongs if no origin is named.
const HUB: &str = "https://huggingface.co";
/// Where a key belongs if no origin is named.
pub const REGISTRY: &str = "https://registry.ollama.ai";
/// The longest token.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

pub const LOGIN: Usage = Usage {
    name: "login",
    about: "Save a credential for one origin; it is sent nowhere else.\n\n\
            A token, or with --user a password, is typed unseen, or read from standard input (a pipe, or\n\
            --token-stdin), so that it stands in no list of processes.\n\
            With --key, requests for tokens are signed, as Ollama's registry wants it for private models and pushing:\n\
            the key is Ollama's own (~/.ollama/id_ed25519), else one that is made, and its public half is printed.",
    command: Commands::PULL,
    positional: &[(
        "ORIGIN",
        "As in https://registry.example [default: https://huggingface.co; with --key https://registry.ollama.ai]",
    )],
};
pub const LOGOUT: Usage = Usage {
    name: "logout",
    about: "Forget the credential of an origin. The file of a key stays.",
    command: Commands::PULL,
    positional: &[("ORIGIN", "As in https://registry.example [default: https://huggingface.co]")],
};

/// What `ingle login` has besides its settings.
pub fn login_options() -> [Arg; 5] {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        option("user", "NAME", "The secret is this user's password"),
        crate::commands::flag("token-stdin", "Read the secret from standard input, and ask nobody")
            .alias("password-stdin"),
        Arg::new("key")
            .long("key")
            .action(ArgAction::SetTrue)
            .help("Sign requests with a key")
            .conflicts_with("user"),
        option(
            "key-file",
            "FILE",
            "Sign requests with this key, in OpenSSH's format; it is made if it is not there",
        )
        .conflicts_with("user"),
        option(
            "realm",
            "ORIGIN",
            "Tokens for ORIGIN are given by this other origin: it sees the credential, too",
        ),
    ]
}

/// The origin that is named, or that of the hub that settings name.
fn origin(positional: &[String], settings: &Settings, with_key: bool) -> Result<Origin> {
    let default = match (&settings.hf_endpoint, with_key) {
        (_, true) => REGISTRY,
        (Some(hub), false) => hub.trim_end_matches('/'),
        (None, false) => HUB,
    };
    Ok(Origin::parse(positional.first().map_or(default, String::as_str))?)
}

/// `ingle login`
pub fn login(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(LOGIN, &login_options(), args, &Facts::default())?;
    let settings = parsed.settings;
    let with_key = m.get_flag("key") || m.contains_id("key-file");
    let (path, origin) = (credentials_file(&settings)?, origin(&parsed.positional, &settings, with_key)?);
    if !origin.is_secure() {
        say!("note: {origin} is not encrypted: whoever listens on the way reads this credential");
    }
    let realm = match m.get_one::<String>("realm") {
        Some(realm) => Some(Origin::parse(realm).context("--realm")?),
        None => None,
    };
    let mut public = None;
    let credential = if with_key {
        let (file, line) = key(&m, &settings)?;
        public = Some(line);
        Credential::key(origin.clone(), file)
    } else {
        let what = if m.contains_id("user") { "Password" } else { "Token" };
        let secret = Secret::new(read_secret(&origin, what, m.get_flag("token-stdin"))?);
        match m.get_one::<String>("user") {
            Some(user) => Credential::basic(origin.clone(), user, secret),
            None => Credential::bearer(origin.clone(), secret),
        }
    };
    Credentials::update(&path, |all| all.insert(credential.with_realm(realm)))?;
    if settings.json {
        let line =
            json!({ "status": "saved", "origin": origin.to_string(), "file": path, "public_key": public });
        return tell(line);
    }
    say!("saved for {origin} in {}", path.display());
    if let Some(public) = public {
        say!("The account that this key is for has to know its public half (at ollama.com: Settings, Keys):");
        tell(public)?;
    }
    Ok(())
}

/// The file of the key, made if it is not there, and its public half.
fn key(m: &ArgMatches, settings: &Settings) -> Result<(PathBuf, String)> {
    let file = match m.get_one::<String>("key-file") {
        Some(file) => std::path::absolute(file).with_context(|| format!("--key-file {file}"))?,
        None => key_file(settings)?,
    };
    if file.exists() {
        let line = RequestKey::read(&file)?.public_line();
        return Ok((file, line));
    }
    let key = RequestKey::generate()?;
    key.write_new(&file)?;
    say!("made the key {}", file.display());
    Ok((file, key.public_line()))
}

/// What is typed, which nobody sees; or all of standard input.
fn read_secret(origin: &Origin, what: &str, from_input: bool) -> Result<String> {
    let mut input = std::io::stdin();
    let text = if input.is_terminal() && !from_input {
        write!(std::io::stderr(), "{what} for {origin}: ")?;
        std::io::stderr().flush()?;
        typed_unseen()?
    } else {
        let mut text = String::new();
        let most = TOKEN_BYTES_MAX + 1;
        input.by_ref().take(most).read_to_string(&mut text).context("standard input is no text")?;
        text
    };
    let secret = text.trim();
    if secret.is_empty() {
        bail!("no {} was given", what.to_lowercase());
    }
    if text.len() as u64 > TOKEN_BYTES_MAX {
        bail!(
            "standard input has more than the {TOKEN_BYTES_MAX} bytes of the longest {}",
            what.to_lowercase()
        );
    }
    if secret.contains(char::is_control) {
        bail!("the {} has control characters in it", what.to_lowercase());
    }
    Ok(secret.to_owned())
}

/// One line of the terminal, without echo. Ctrl-C brings the echo back before it ends the program.
fn typed_unseen() -> Result<String> {
    let quiet = Arc::new(Mutex::new(Some(NoEcho::new())));
    let of_signal = quiet.clone();
    let take = |quiet: &Mutex<Option<NoEcho>>| quiet.lock().unwrap_or_else(PoisonError::into_inner).take();
    let _guard = on_interrupt(move || {
        drop(take(&of_signal));
        say!("");
        std::process::exit(STOPPED.into());
    })?;
    let mut text = String::new();
    let read = std::io::stdin().lock().take(TOKEN_BYTES_MAX + 1).read_line(&mut text);
    drop(take(&quiet));
    // The line break that was typed was not seen either.
    say!("");
    read?;
    Ok(text)
}

/// `ingle logout`
pub fn logout(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(LOGOUT, &[], args, &Facts::default())?;
    let settings = parsed.settings;
    let (path, origin) = (credentials_file(&settings)?, origin(&parsed.positional, &settings, false)?);
    Credentials::update(&path, |all| {
        if all.remove(&origin) {
            return Ok(());
        }
        let mut elsewhere = Credentials::default();
        elsewhere.add_hub_token(Some(&origin), var)?;
        let hint = match parsed.positional.is_empty() && elsewhere.of(&origin).is_some() {
            true => "; the one that is used is that of Hugging Face's tools (HF_TOKEN, or `hf auth logout`)",
            false => "",
        };
        bail!("there is no credential for {origin} in {}{hint}", path.display())
    })?;
    match settings.json {
        true => tell(json!({ "status": "forgotten", "origin": origin.to_string() }))?,
        false => say!("forgot the credential for {origin}"),
    }
    Ok(())
}
