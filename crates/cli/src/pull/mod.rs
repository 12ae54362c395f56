//! `ingle pull`, `ingle push`, `ingle login`, `ingle logout`; and pulling what another command misses.

mod foresee;
mod login;
mod show;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use clap::{Arg, ArgAction};
use ingle_egress::Target;
use ingle_store::Reference;
use ingle_store::pull::{Event, PullError, PullOptions, Pulled, Puller, Watch};
use ingle_store::push::{PushOptions, push as push_model};
use serde_json::json;

use crate::models::Models;
use crate::network::{self, Typed};
use crate::outcome::tell;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::signals::{Stopped, interruption};
pub use login::{LOGIN, LOGOUT, REGISTRY, login, login_options, logout};

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
        misuse!("name what to pull, as in `ingle pull hf.co/user/repo:Q4_K_M`");
    }
    let settings = parsed.settings;
    let options = PullOptions { update: m.get_flag("update"), insecure: m.get_flag("insecure") };
    let models = Models::open(&settings)?;
    for text in &parsed.positional {
        let reference = models.reference(text)?;
        tell_meaning(text, &reference, &settings)?;
        let pulled = one(&models, &settings, &reference, options)?;
        if settings.json {
            let line = json!({
                "status": "pulled", "name": pulled.name.to_string(), "digest": pulled.digest.to_string(),
                "replaced": pulled.replaced.map(|digest| digest.to_string()),
                "kept": pulled.kept.map(|name| name.to_string()), "fetched": pulled.fetched,
                "from_peers": pulled.from_peers,
            });
            tell(line)?;
        } else if let Some(old) = pulled.replaced {
            let Pulled { name, kept, .. } = &pulled;
            match kept {
                Some(kept) => say!(
                    "{name} is replaced; it was {old}, which is kept as {kept}: `ingle cp {kept} {name}` brings it back, \
                     `ingle rm {kept}` frees its space"
                ),
                None => say!("{name} is replaced; it was {old}, which is not kept"),
            }
        }
    }
    Ok(())
}

/// Says what a name means here, where that is more than what was written.
fn tell_meaning(text: &str, reference: &Reference, settings: &Settings) -> Result<()> {
    let meaning = network::meaning(reference, settings);
    if settings.json {
        let line = json!({ "status": "resolved", "name": text, "means": reference.in_full() });
        tell(line)?;
    } else if meaning != text {
        say!("{text} is {meaning}");
    }
    Ok(())
}

/// Pulls one model, and asks whether to replace one that has changed.
fn one(models: &Models, settings: &Settings, reference: &Reference, options: PullOptions) -> Result<Pulled> {
    let typed = Typed { reference, insecure: options.insecure };
    let puller = network::puller(settings, models.store.clone(), Some(typed))?;
    if !foresee::is_wanted(models, settings, &puller, reference, options)? {
        bail!("{reference} was not fetched");
    }
    let outcome = fetch(settings, &puller, reference, options);
    let Err(error) = &outcome else { return outcome };
    let Some(PullError::Changed { name, old }) = error.downcast_ref().filter(|_| can_ask(settings)) else {
        return outcome;
    };
    say!("What {name} means has changed since it was pulled (manifest {old}).");
    if !ask("Replace it?")? {
        return outcome;
    }
    fetch(settings, &puller, reference, PullOptions { update: true, ..options })
}

fn fetch(
    settings: &Settings,
    puller: &Puller,
    reference: &Reference,
    options: PullOptions,
) -> Result<Pulled> {
    let how_to_go_on = format!("what has come is kept, and `ingle pull {reference}` takes it up there");
    watched(settings.json, &how_to_go_on, async |watch: Watch<'_>| {
        puller.pull(reference, options, watch).await
    })
}

/// Does something that tells how far it is, until it is done or Ctrl-C is pressed.
fn watched<T>(
    json: bool,
    how_to_go_on: &str,
    work: impl AsyncFnOnce(Watch<'_>) -> Result<T, PullError>,
) -> Result<T> {
    let (_guard, interrupted) = interruption()?;
    let teller = show::teller(json);
    let runtime = runtime();
    let outcome = runtime.block_on(async {
        let watch = |event: &Event| show::event(&teller, event);
        tokio::select! {
            outcome = work(&watch) => outcome.map_err(anyhow::Error::from),
            () = interrupted.notified() => Err(anyhow::Error::from(Stopped(how_to_go_on.to_owned()))),
        }
    });
    teller.keep();
    // Not the drop, which would wait for a look-up of a name that nobody needs any more.
    runtime.shutdown_background();
    outcome
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
        && (settings.yes
            || (can_ask(settings)
                && ask(&format!("{} is not here. Fetch it?", network::meaning(reference, settings)))?));
    if is_wanted {
        let is_listed = |host: &str| settings.insecure_hosts.iter().any(|listed| listed == host);
        let insecure = matches!(reference, Reference::Registry(name) if is_listed(name.host()));
        one(models, settings, reference, PullOptions { insecure, ..PullOptions::default() })?;
    }
    Ok(is_wanted)
}

/// Lets the host of the model that settings name be asked without encryption.
///
/// # Errors
/// If the name is none.
pub fn allow_insecure(settings: &mut Settings) -> Result<()> {
    let Some(text) = settings.model_file().and_then(|path| path.to_str().map(str::to_owned)) else {
        return Ok(());
    };
    match Models::open(settings)?.reference(&text)? {
        Reference::Registry(name) => settings.insecure_hosts.push(name.host().to_owned()),
        Reference::Url(url) => settings.insecure_hosts.push(Target::parse(&url)?.authority()),
        // The hub's address is a setting, and a file has no host.
        Reference::Hub { .. } | Reference::Path(_) => {}
    }
    Ok(())
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
    let Some(text) = parsed.positional.first() else { misuse!("name the model to push") };
    let settings = parsed.settings;
    let models = Models::open(&settings)?;
    let reference = models.reference(text)?;
    let (Reference::Registry(name), insecure) = (&reference, m.get_flag("insecure")) else {
        misuse!("{text} is not the name of a model in a registry (host/namespace/model:tag)");
    };
    let network = network::network(&settings, Some(Typed { reference: &reference, insecure }))?;
    let store = models.store;
    let options = PushOptions { insecure };
    let how_to_go_on = "what the registry has by now is not sent again by the same command";
    let push = async |watch: Watch<'_>| push_model(&store, &network, name, options, watch).await;
    let pushed = watched(settings.json, how_to_go_on, push)?;
    if settings.json {
        let line = json!({
            "status": "pushed", "name": name.to_string(), "digest": pushed.digest.to_string(), "sent": pushed.sent,
        });
        tell(line)?;
    }
    Ok(())
}
