//! The way out, as the settings say: what may leave, through which proxies, with which credentials; and the store that
//! models come into.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_egress::{
    Class, Credential, Credentials, Egress, EgressConfig, HostRule, Origin, Policy, Proxies, Target,
};
use ingle_store::pull::{Network, Puller, STREAMS, STREAMS_MAX};
use ingle_store::{Reference, Store};

use crate::pull::REGISTRY;
use crate::settings::Settings;

/// What is asked for on a terminal: the host that its user writes may be this machine. Over HTTP nobody has this.
pub struct Typed<'a> {
    /// What the user wrote.
    pub reference: &'a Reference,
    /// Its host may be asked without encryption.
    pub insecure: bool,
}

/// A variable of the environment that is not empty.
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A folder that the environment names.
fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where credentials are kept.
pub fn credentials_file(settings: &Settings) -> Result<PathBuf> {
    if let Some(path) = &settings.credentials_file {
        return Ok(path.clone());
    }
    let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    let base = base.context("no folder for configuration is known; name the file with --credentials-file")?;
    Ok(base.join("ingle").join("credentials.json"))
}

/// The key that signs requests to registries: Ollama's own if it is there, else ours beside the credentials.
pub fn key_file(settings: &Settings) -> Result<PathBuf> {
    match ollama_key() {
        Some(path) => Ok(path),
        None => Ok(std::path::absolute(credentials_file(settings)?.with_file_name("id_ed25519"))?),
    }
}

/// The key by which Ollama's registry knows the account of this user, where Ollama has made one.
fn ollama_key() -> Option<PathBuf> {
    let path = folder("HOME")?.join(".ollama").join("id_ed25519");
    (path.is_absolute() && path.is_file()).then_some(path)
}

/// What a reference means, and who is asked for it, for a user to see before anything is fetched.
pub fn meaning(reference: &Reference, settings: &Settings) -> String {
    let asked = match reference {
        Reference::Registry(name) if name.is_default_host() => settings.registry_mirror.as_ref(),
        Reference::Hub { .. } => settings.hf_endpoint.as_ref(),
        _ => None,
    };
    match asked {
        Some(asked) => format!("{}, asked of {asked}", reference.in_full()),
        None => reference.in_full(),
    }
}

/// Pulls into the store over the network that the settings describe.
pub fn puller(settings: &Settings, store: Store, typed: Option<Typed<'_>>) -> Result<Puller> {
    Ok(Puller::new(store, network(settings, typed)?))
}

/// Hubs, registries and nodes, with what may leave to them.
pub fn network(settings: &Settings, typed: Option<Typed<'_>>) -> Result<Network> {
    let address = |flag: &str, text: &str| Target::parse(text).with_context(|| format!("--{flag}"));
    let hub = match &settings.hf_endpoint {
        Some(text) => Some(address("hf-endpoint", text)?),
        None => None,
    };
    let mirror = match &settings.registry_mirror {
        Some(text) => Some(address("registry-mirror", text)?),
        None => None,
    };
    let peers = settings.peers.iter().map(|text| address("peer", text)).collect::<Result<Vec<_>>>()?;
    if peers.len() > ingle_store::peers::PEERS_MAX {
        bail!("--peer: {} nodes; {} are the most", peers.len(), ingle_store::peers::PEERS_MAX);
    }
    let streams = settings.pull_streams.map_or(STREAMS, |n| n as usize);
    if !(1..=STREAMS_MAX).contains(&streams) {
        bail!("--pull-streams must be from 1 to {STREAMS_MAX}");
    }
    let mut policy = policy(settings)?;
    // Hosts that the operator names one by one may be of this site.
    for endpoint in hub.iter().chain(&mirror) {
        policy.private.push((Some(Class::Hub), HostRule::of(endpoint)));
    }
    for peer in &peers {
        policy.private.push((Some(Class::Peer), HostRule::of(peer)));
        // Their address says whether they speak https.
        policy.insecure.push(HostRule::of(peer));
    }
    if let Some(typed) = typed {
        allow(&mut policy, &typed)?;
    }
    let mut credentials = Credentials::load(&credentials_file(settings)?)?;
    credentials.add_hub_token(hub.as_ref().map(Target::origin).as_ref(), var)?;
    // Who has logged in with Ollama need not do it again.
    let registry = Origin::parse(REGISTRY)?;
    if credentials.of(&registry).is_none()
        && let Some(path) = ollama_key()
    {
        credentials.insert(Credential::key(registry, path))?;
    }
    let config = EgressConfig {
        policy,
        credentials,
        proxies: Arc::new(Proxies::from_env()?),
        ca_file: settings.ca_file.clone(),
        ..EgressConfig::default()
    };
    let network = Network::new(Egress::new(config)?);
    Ok(Network {
        hub: hub.unwrap_or_else(|| network.hub.clone()),
        registry_mirror: mirror,
        peers,
        streams,
        ..network
    })
}

/// The way to a running server that the user names: it may be of this machine or site, and without encryption where its
/// address says so.
pub fn to_server(settings: &Settings, server: &Target) -> Result<Egress> {
    let rule = HostRule::of(server);
    let policy = Policy {
        private: vec![(Some(Class::Peer), rule.clone())],
        insecure: if server.is_secure() { Vec::new() } else { vec![rule] },
        ..Policy::default()
    };
    let (proxies, ca_file) = (Arc::new(Proxies::from_env()?), settings.ca_file.clone());
    Ok(Egress::new(EgressConfig { policy, proxies, ca_file, ..EgressConfig::default() })?)
}

fn policy(settings: &Settings) -> Result<Policy> {
    let rules = |flag: &str, list: &[String]| -> Result<Vec<HostRule>> {
        // One variable of the environment may name several.
        let all = list.iter().flat_map(|item| item.split(',')).map(str::trim).filter(|item| !item.is_empty());
        all.map(|text| HostRule::parse(text).with_context(|| format!("--{flag}"))).collect()
    };
    let hosts = rules("allow-host", &settings.allow_hosts)?;
    let private = rules("private-host", &settings.private_hosts)?;
    Ok(Policy {
        offline: settings.offline,
        hosts: (!hosts.is_empty()).then_some(hosts),
        private: private.into_iter().map(|rule| (None, rule)).collect(),
        insecure: rules("insecure-host", &settings.insecure_hosts)?,
    })
}

/// What follows from a host that a user wrote: loopback, as an address or by its name, is meant if it is written.
fn allow(policy: &mut Policy, typed: &Typed<'_>) -> Result<()> {
    let url = match typed.reference {
        Reference::Registry(name) => format!("http://{}", name.host()),
        Reference::Url(url) => url.clone(),
        Reference::Hub { .. } | Reference::Path(_) => return Ok(()),
    };
    let target = Target::parse(&url)?;
    let rule = match typed.reference {
        Reference::Url(_) => HostRule::of(&target),
        _ => HostRule::parse(&target.authority())?,
    };
    let is_here = target.is_this_machine();
    if is_here {
        policy.private.push((Some(Class::Hub), rule.clone()));
    }
    if is_here || typed.insecure {
        policy.insecure.push(rule);
    }
    Ok(())
}
