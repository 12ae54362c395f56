//! Every setting, defined once.
//!
//! [`table`] has one entry per setting: from it come the flag with its aliases, the environment variable, the TOML
//! key, the help text and `docs/settings.md`. [`compat`] has the peers' options that are not settings here: each is
//! accepted with a note or refused with the reason, never ignored in silence.
//!
//! Where several sources name a setting, the later one wins: default, configuration file, environment, flag.

mod address;
mod args;
pub mod compat;
mod docs;
mod models;
pub mod ollama;
mod origins;
mod table;
mod value;

pub use address::ServerAddress;
pub use args::{Usage, clap_command, config_folder, matches, parse};
pub use docs::markdown;
pub use models::ModelTable;
pub use origins::{
    Effective, Holding, Origin, Problem, check_file, config_file, effective, environment_wants_json,
    wants_json,
};
pub use table::{Settings, TABLE};
pub use value::{Budget, Think};

/// The commands a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commands(u16);

impl Commands {
    pub const RUN: Self = Self(1);
    pub const SERVE: Self = Self(2);
    pub const BENCH: Self = Self(4);
    pub const BATCH: Self = Self(8);
    /// Those that look after the models of this machine: `list`, `show`, `cp`, `rm`, ...
    pub const STORE: Self = Self(16);
    pub const REPLAY: Self = Self(64);
    /// All that name models: those that load them and those that look after them.
    pub const MODELS: Self = Self(1 | 2 | 4 | 8 | 16 | 64 | 128 | 256);
    /// `pull`, `push`, `login`, `logout`.
    pub const PULL: Self = Self(128);
    /// Those that fetch models: because they are told to, or because one is missing.
    pub const NETWORK: Self = Self(1 | 2 | 4 | 8 | 64 | 128);
    /// The same, and those that ask a running server.
    pub const NETWORK_CLIENT: Self = Self(1 | 2 | 4 | 8 | 32 | 64 | 128);
    /// `import`: those of the store, and who signed.
    pub const IMPORT: Self = Self(256);
    /// Those that ask a running server.
    pub const CLIENT: Self = Self(32);
    /// All settings there are, whichever command has them.
    pub const ANY: Self = Self(0);
    pub const SERVE_CLIENT: Self = Self(2 | 32);
    /// Those that ask how much memory models may have: to load them, or to say whether they would fit.
    pub const SERVE_PULL: Self = Self(2 | 128);
    pub const LOAD: Self = Self(1 | 2 | 4 | 8 | 64);
    /// Those that answer requests.
    pub const ANSWER: Self = Self(1 | 2 | 8);
    /// The same and those that answer again.
    pub const ANSWER_REPLAY: Self = Self(1 | 2 | 8 | 64);
    /// Those that end with a report.
    pub const REPORT: Self = Self(1 | 4 | 8 | 16 | 32 | 64 | 128 | 256);
    pub const RUN_BATCH: Self = Self(1 | 8);
    pub const SERVE_BATCH: Self = Self(2 | 8);

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a setting appears on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Present or not.
    Switch,
    /// Present or not, or with a value behind `=`.
    Optional,
    /// One value.
    One,
    /// One value each time it is given.
    Many,
}

/// One setting.
pub struct Setting {
    /// Field in [`Settings`] and key in the configuration file.
    pub key: &'static str,
    /// The flag, without dashes.
    pub flag: &'static str,
    pub short: Option<char>,
    /// Other long spellings, without dashes: the peers' names.
    pub aliases: &'static [&'static str],
    /// llama.cpp's spellings with one dash and several letters.
    pub dash: &'static [&'static str],
    /// Environment variables of peers that mean the same.
    pub env_aliases: &'static [&'static str],
    pub commands: Commands,
    pub shape: Shape,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// What holds if nothing is said, in words.
    pub default: &'static str,
    pub help: &'static str,
    /// Takes a value in.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Setting {
    /// Whether its value is not to be shown.
    pub fn is_secret(&self) -> bool {
        self.key == "api_key"
    }

    /// The environment variable.
    pub fn env(&self) -> String {
        format!("INGLE_{}", self.key.to_uppercase())
    }
}
