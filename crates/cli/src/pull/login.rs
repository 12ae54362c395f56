//! `ingle login` and `ingle logout`: credentials, each for one origin.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_egress::{Credential, Credentials, Origin, Secret};

use crate::network::credentials_file;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Usage, parse};

/// Where a token belongs if no origin is named.
const HUB: &str = "https://huggingface.co";
/// The longest token.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

pub const LOGIN: Usage = Usage {
    name: "login",
    about: "Save a token, or with --user a password, for one origin; it is sent nowhere else. It is read from standard \
            input, so that it stands in no list of processes.",
    command: Commands::PULL,
    positional: &[("ORIGIN", "As in https://registry.example [default: https://huggingface.co]")],
};
pub const LOGOUT: Usage = Usage {
    name: "logout",
    about: "Forget the credential of an origin.",
    command: Commands::PULL,
    positional: LOGIN.positional,
};

fn origin(positional: &[String]) -> Result<Origin> {
    Ok(Origin::parse(positional.first().map_or(HUB, String::as_str))?)
}

/// What `ingle login` has besides its settings.
pub fn login_options() -> [Arg; 1] {
    [Arg::new("user").long("user").value_name("NAME").help("The secret is this user's password")]
}

/// `ingle login`
pub fn login(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(LOGIN, &login_options(), args, &Facts::default())?;
    let (path, origin) = (credentials_file(&parsed.settings)?, origin(&parsed.positional)?);
    if !origin.is_secure() {
        say!("note: {origin} is not encrypted: whoever listens on the way reads this credential");
    }
    let secret = Secret::new(read_secret(&origin)?);
    let credential = match m.get_one::<String>("user") {
        Some(user) => Credential::basic(origin.clone(), user, secret),
        None => Credential::bearer(origin.clone(), secret),
    };
    let mut all = Credentials::load(&path)?;
    all.insert(credential)?;
    all.save(&path)?;
    say!("saved for {origin} in {}", path.display());
    Ok(())
}

/// One line of standard input. On a terminal what is typed is seen: there is no way around that without unsafe calls.
fn read_secret(origin: &Origin) -> Result<String> {
    let mut input = std::io::stdin();
    let mut text = String::new();
    if input.is_terminal() {
        write!(std::io::stderr(), "Token for {origin} (it is shown as you type): ")?;
        std::io::stderr().flush()?;
        input.read_line(&mut text)?;
    } else {
        input
            .by_ref()
            .take(TOKEN_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .context("standard input is no text")?;
    }
    let secret = text.trim();
    if secret.is_empty() {
        bail!("there is no token on standard input");
    }
    Ok(secret.to_owned())
}

/// `ingle logout`
pub fn logout(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(LOGOUT, &[], args, &Facts::default())?;
    let (path, origin) = (credentials_file(&parsed.settings)?, origin(&parsed.positional)?);
    let mut all = Credentials::load(&path)?;
    if !all.remove(&origin) {
        bail!("there is no credential for {origin} in {}", path.display());
    }
    Ok(all.save(&path)?)
}
