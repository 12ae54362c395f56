//! `ingle pull`, `ingle push`, `ingle login`, `ingle logout`; and pulling what another command misses.

mod login;
mod show;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use clap::{Arg, ArgAction};
use ingle_store::Reference;
use ingle_store::pull::{PullError, PullOptions, Pulled, Puller};
use ingle_store::push::{PushOptions, push as push_model};
use serde_json::json;

use crate::models::Models;
use crate::network::{self, Typed};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
pub use login::{LOGIN, LOGOUT, login, login_options, logout};
use show::{Out, Show};

pub const PULL: Usage = Usage {
    name: "pull",
    about: "Fetch models into the store.\n\n\
            A model is named as llama3.1:8b (a registry that speaks Ollama's protocol), hf.co/user/repo:Q4_K_M or\n\
            hf.co/user/repo/file.gguf (Hugging Face), or by the https address of a GGUF file. A pull that was stopped\n\
            is taken up where it was. Every file is verified before the model can be seen.",
    command: Commands::PULL,
    positional: &[("MODEL...", "What to fetch")],
};
pub const PUSH: Usage = Usage {
    name: "push",
    about: "Send a model of the store to the registry that its name names (host/namespace/model:tag; `ingle cp` gives a \
            model such a name).",
    command: Commands::PULL,
    positional: &[("MODEL", "What to send")],
};

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// What `ingle pull` has besides its settings.
pub fn pull_options() -> [Arg; 2] {
    [
        switch("update", "Replace models whose content has changed since they were pulled"),
        switch("insecure", "Ask the host that the model names without encryption"),
    ]
}

/// `ingle pull`
pub fn pull(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(PULL, &pull_options(), args, &Facts::default())?;
    parsed.notes.iter().for_each(|note| say!("note: {note}"));
    if parsed.positional.is_empty() {
        bail!("name what to pull, as in `ingle pull hf.co/user/repo:Q4_K_M`");
    }
    let settings = parsed.settings;
    let options = PullOptions { update: m.get_flag("update"), insecure: m.get_flag("insecure") };
    let models = Models::open(&settings)?;
    for text in &parsed.positional {
        let reference = models.reference(text)?;
        let pulled = one(&models, &settings, &reference, options)?;
        if settings.json {
            let line = json!({
                "status": "pulled", "name": pulled.name.to_string(), "digest": pulled.digest.to_string(),
                "replaced": pulled.replaced.map(|digest| digest.to_string()), "fetched": pulled.fetched,
                "from_peers": pulled.from_peers,
            });
            writeln!(std::io::stdout(), "{line}")?;
        } else if let Some(old) = pulled.replaced {
            say!("{} is replaced; it was {old}", pulled.name);
        }
    }
    Ok(())
}

/// Pulls one model, and asks whether to replace one that has changed.
fn one(models: &Models, settings: &Settings, reference: &Reference, options: PullOptions) -> Result<Pulled> {
    let typed = Typed { reference, insecure: options.insecure };
    let puller = network::puller(settings, models.store.clone(), Some(typed))?;
    match fetch(settings, &puller, reference, options) {
        Err(PullError::Changed { name, old }) if can_ask(settings) => {
            say!("What {name} means has changed since it was pulled (manifest {old}).");
            if !ask("Replace it?")? {
                return Err(PullError::Changed { name, old }.into());
            }
            Ok(fetch(settings, &puller, reference, PullOptions { update: true, ..options })?)
        }
        outcome => Ok(outcome?),
    }
}

fn fetch(
    settings: &Settings,
    puller: &Puller,
    reference: &Reference,
    options: PullOptions,
) -> Result<Pulled, PullError> {
    let show = Show::new(Out::of(settings.json));
    let runtime = runtime();
    let pulled = runtime.block_on(puller.pull(reference, options, &|event| show.event(event)));
    show.finish();
    // Not the drop, which would wait for a look-up of a name that nobody needs any more.
    runtime.shutdown_background();
    pulled
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime needs threads only")
}

/// Fetches a model that a command misses, at once with `--yes`, else after asking; whether it did.
///
/// # Errors
/// If it is to be fetched and cannot be.
pub fn pull_missing(models: &Models, settings: &Settings, reference: &Reference) -> Result<bool> {
    let is_wanted = !settings.offline
        && (settings.yes || (can_ask(settings) && ask(&format!("{reference} is not here. Fetch it?"))?));
    if is_wanted {
        one(models, settings, reference, PullOptions::default())?;
    }
    Ok(is_wanted)
}

fn can_ask(settings: &Settings) -> bool {
    !settings.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn ask(question: &str) -> Result<bool> {
    let mut out = std::io::stderr();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// What `ingle push` has besides its settings.
pub fn push_options() -> [Arg; 1] {
    [switch("insecure", "Ask the registry without encryption")]
}

/// `ingle push`
pub fn push(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(PUSH, &push_options(), args, &Facts::default())?;
    parsed.notes.iter().for_each(|note| say!("note: {note}"));
    let Some(text) = parsed.positional.first() else { bail!("name the model to push") };
    let settings = parsed.settings;
    let models = Models::open(&settings)?;
    let reference = models.reference(text)?;
    let (Reference::Registry(name), insecure) = (&reference, m.get_flag("insecure")) else {
        bail!("{text} is not the name of a model in a registry (host/namespace/model:tag)");
    };
    let network = network::network(&settings, Some(Typed { reference: &reference, insecure }))?;
    let store = models.store;
    let show = Show::new(Out::of(settings.json));
    let runtime = runtime();
    let options = PushOptions { insecure };
    let pushed = runtime.block_on(push_model(&store, &network, name, options, &|event| show.event(event)));
    show.finish();
    runtime.shutdown_background();
    let pushed = pushed?;
    if settings.json {
        let line = json!({
            "status": "pushed", "name": name.to_string(), "digest": pushed.digest.to_string(), "sent": pushed.sent,
        });
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}
