//! What a server can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::recording::RecordSink;
use crate::store::ModelStore;
use crate::transfers::Transfers;
use ingle_ledger::{Files, Responses};

/// Another name for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name that requests may use.
    pub name: String,
    /// The model's id; `None` is the default model.
    pub model: Option<String>,
}

/// What a key may do that others may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Raw prompts may spell control tokens.
    ControlTokens,
    /// Adapters can be loaded, unloaded, and applied to all.
    Adapters,
    /// Models may be loaded, unloaded and reloaded.
    Models,
    /// Requests may go before those of others.
    Priority,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ControlTokens, Self::Adapters, Self::Models, Self::Priority];

    /// The name, as files of keys have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlTokens => "control-tokens",
            Self::Adapters => "adapters",
            Self::Models => "models",
            Self::Priority => "priority",
        }
    }
}

/// What a key's part of the machine can be.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// TCP addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Unix sockets to listen on, made with access for their owner only.
    pub unix: Vec<PathBuf>,
    /// Keys, any of which opens every route. None: no key is asked for, which needs a loopback address or `no_auth`.
    pub api_keys: Vec<String>,
    /// What some of the keys may do besides. Without any keys everyone may.
    pub scopes: Vec<(String, Scope)>,
    /// The parts of the machine that some of the keys have beside others', which have 1.
    pub weights: Vec<(String, u32)>,
    /// The operator has decided that everyone who can connect may ask.
    pub no_auth: bool,
    /// More names for models.
    pub aliases: Vec<Alias>,
    /// Names, besides loopback's and IP addresses, under which a server without keys may be addressed. A browser that
    /// was lured to another name for this address (DNS rebinding) is turned away.
    pub allowed_hosts: Vec<String>,
    /// Web origins whose pages may call the server; `*` is all. None by default.
    pub cors_origins: Vec<String>,
    /// The longest request body, in bytes.
    pub body_bytes_max: usize,
    /// All request bodies in memory together, in bytes.
    pub bodies_bytes_max: usize,
    /// Connections at a time; more wait in the system's queue.
    pub connections_max: usize,
    /// How long a stream may be silent before a comment shows that it lives.
    pub keep_alive: Duration,
    /// How long a client may take to send a request's head, or to take what is sent to it.
    pub io_timeout: Duration,
    /// How long answers may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Where responses are stored; `None`: nowhere.
    pub responses: Option<Arc<Responses>>,
    /// Where files and batches are; `None`: nowhere. Responses in the background need it too: whoever has it has the
    /// data folder to itself, and so knows after a restart which of them nobody makes any more.
    pub files: Option<Arc<Files>>,
    /// Where records of requests go; `None`: nowhere.
    pub records: Option<Arc<dyn RecordSink>>,
    /// The store whose models Ollama's routes list, copy and delete. Without one they are refused.
    pub store: Option<ModelStore>,
    /// The store of models and its way out; `None`: models are neither pulled nor pushed here.
    pub transfers: Option<Arc<Transfers>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            unix: Vec::new(),
            api_keys: Vec::new(),
            scopes: Vec::new(),
            weights: Vec::new(),
            no_auth: false,
            aliases: Vec::new(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            body_bytes_max: 32 << 20,
            bodies_bytes_max: 256 << 20,
            connections_max: 1024,
            keep_alive: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            responses: None,
            files: None,
            records: None,
            store: None,
            transfers: None,
        }
    }
}

/// Why a server does not start: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could reach it and nothing would stop them.
    #[error(
        "refusing to listen on {addr} without an API key: others on the network could use this server; set an API \
         key, listen on 127.0.0.1, or say that no authentication is wanted"
    )]
    Exposed {
        /// The address beyond loopback.
        addr: SocketAddr,
    },
    /// There is nothing to listen on.
    #[error("no address to listen on; give at least one")]
    NoAddress,
    /// A setting is out of its range.
    #[error("setting `{name}`: {problem}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An address could not be bound.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address or socket path.
        addr: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Refuses a server that others could use unasked.
///
/// # Errors
/// [`ServeError::Exposed`] with the first address beyond loopback, if there is neither key nor `no_auth`.
pub fn check_exposure(config: &ServerConfig) -> Result<(), ServeError> {
    if config.no_auth || !config.api_keys.is_empty() {
        return Ok(());
    }
    match config.listen.iter().find(|addr| !addr.ip().to_canonical().is_loopback()) {
        Some(addr) => Err(ServeError::Exposed { addr: *addr }),
        None => Ok(()),
    }
}

impl ServerConfig {
    /// Checks everything that can be checked without binding.
    pub(crate) fn validate(&self) -> Result<(), ServeError> {
        let setting = |name, problem: &str| Err(ServeError::Setting { name, problem: problem.to_owned() });
        check_exposure(self)?;
        if self.listen.is_empty() && self.unix.is_empty() {
            return Err(ServeError::NoAddress);
        }
        if self.no_auth && !self.api_keys.is_empty() {
            return setting("no_auth", "there are API keys as well; remove one of the two");
        }
        if self.api_keys.iter().any(|k| k.trim().is_empty() || k.trim() != k || !k.is_ascii()) {
            return setting("api_keys", "a key is empty, not ASCII, or has spaces around it");
        }
        if self.scopes.iter().any(|(key, _)| !self.api_keys.contains(key)) {
            return setting("scopes", "a scope belongs to a key that is not among the API keys");
        }
        if self.weights.iter().any(|(key, _)| !self.api_keys.contains(key)) {
            return setting("weights", "a weight belongs to a key that is not among the API keys");
        }
        if self.weights.iter().any(|(_, weight)| !WEIGHTS.contains(weight)) {
            return setting("weights", "a weight must be from 1 to 1000");
        }
        if !(1024..=1 << 30).contains(&self.body_bytes_max) || self.bodies_bytes_max < self.body_bytes_max {
            return setting(
                "body_bytes_max",
                "must be from 1 KiB to 1 GiB and not more than all bodies together may take",
            );
        }
        if self.connections_max == 0 {
            return setting("connections_max", "must be at least 1");
        }
        if self.keep_alive.is_zero() || self.io_timeout.is_zero() {
            return setting("keep_alive", "time limits must be more than nothing");
        }
        Ok(())
    }

    /// Whether the `Host` header is checked: where no key protects against a browser's rebinding, unless the operator
    /// opened the server to everyone and named no hosts.
    pub(crate) fn checks_host(&self) -> bool {
        self.api_keys.is_empty() && (!self.no_auth || !self.allowed_hosts.is_empty())
    }
}
