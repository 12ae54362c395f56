//! Why a model was not pulled.

use std::path::PathBuf;

use ingle_egress::EgressError;

use crate::{Digest, ModelName, NameError, StoreError};

/// Most quantizations that are listed in an error.
const LISTED_MAX: usize = 24;

/// A pull that did not succeed. What the name meant before is as it was, and what was fetched is taken up by the next
/// pull unless it was wrong.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The way to the hub.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is nothing to pull.
    #[error("{} is a path of this machine; there is nothing to pull", .0.display())]
    IsPath(PathBuf),
    /// The hub or the registry does not have it.
    #[error("{what} is not there: check the spelling{}", hint(*.is_anonymous))]
    NotFound {
        /// What was asked for.
        what: String,
        /// No credential was shown; private things look absent then.
        is_anonymous: bool,
    },
    /// Who asks may not have it.
    #[error(
        "{what} is not given to who asks: {said}; accept its terms on the hub if it has any, and save a token with `ingle login {origin}`"
    )]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// Where a credential is needed.
        origin: String,
        /// What the other side says.
        said: String,
    },
    /// Who asks may not have it: the registry does not know the key that requests are signed with.
    #[error(
        "{what} is not given to who asks: {said}; the registry takes no signature of the key {} (status {status}): add \
         its public half to your account there (at ollama.com under Settings, Keys): {public}",
        key.display()
    )]
    KeyRefused {
        /// What was asked for.
        what: String,
        /// What the registry says.
        said: String,
        /// The status with which no token was given.
        status: u16,
        /// The file of the key.
        key: PathBuf,
        /// Its public half.
        public: String,
    },
    /// The repository has no such quantization.
    #[error("{repo} has no {asked}; it has {}", listed(.available))]
    NoQuant {
        /// The repository.
        repo: String,
        /// What was asked for.
        asked: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The repository has nothing that can be run.
    #[error(
        "{0} has no GGUF file; look for a repository whose name ends with GGUF, or convert a folder with `ingle convert`"
    )]
    NoGguf(String),
    /// Parts of a split model are missing.
    #[error("{repo}: of the split model {stem} there are {found} of {expected} parts")]
    MissingParts {
        /// The repository.
        repo: String,
        /// What the parts' names begin with.
        stem: String,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// An answer that cannot be used.
    #[error("the answer of {url} cannot be used: {problem}")]
    Answer {
        /// Who answered.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The name means something else by now.
    #[error(
        "what `{name}` means has changed since it was pulled (manifest {old}); pull with --update to replace it"
    )]
    Changed {
        /// The name.
        name: Box<ModelName>,
        /// The digest of what is here.
        old: Digest,
    },
    /// The file was replaced while it was fetched, more than once.
    #[error("{0} changes while it is fetched; pull again when it has settled")]
    Unsettled(String),
    /// What was fetched is no model.
    #[error("{file} is not a model that can be used: {problem}")]
    NotAModel {
        /// The file.
        file: String,
        /// Why.
        problem: String,
    },
    /// The process ends.
    #[error("stopped")]
    Stopped,
}

impl PullError {
    /// What may be told to who is not at this machine, which knows neither its paths nor its keys; see
    /// [`StoreError::without_paths`].
    pub fn without_paths(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.without_paths(),
            Self::Egress(error) => Some(error.without_paths().unwrap_or_else(|| {
                "this machine's credentials or settings for the way out cannot be used; its log says why"
                    .to_owned()
            })),
            Self::KeyRefused { what, said, status, .. } => Some(format!(
                "{what} is not given to who asks: {said}; the registry takes no signature of this machine's key (status \
                 {status}); its log names the key"
            )),
            Self::IsPath(_) => None,
            Self::Changed { name, old } => Some(format!(
                "what `{name}` means has changed since it was pulled (manifest {old}); with `\"update\": true` the new \
                 content is taken, or remove the model first"
            )),
            other => Some(other.to_string()),
        }
    }

    /// Whether there is no such thing, as opposed to it being out of reach.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoQuant { .. } | Self::NoGguf(_))
    }
}

fn hint(is_anonymous: bool) -> &'static str {
    if is_anonymous { "; what is private needs a token (`ingle login`)" } else { "" }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        n if n > LISTED_MAX => format!("{shown} and {} more", n - LISTED_MAX),
        _ => shown,
    }
}
