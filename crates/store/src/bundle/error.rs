//! What can go wrong with a bundle, by whose fault.

use std::io;

use super::sign::PublicKey;
use crate::StoreError;

/// Why a bundle was not written, not read or not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bytes do not begin as a bundle does.
    #[error("this is no bundle: {0}")]
    NotABundle(&'static str),
    /// A format of a later program.
    #[error(
        "the bundle is of format {0}, and this program reads format 1; import it with the version that wrote it"
    )]
    Version(u16),
    /// Bytes differ from what was written: cut, changed or out of order.
    #[error("the bundle is damaged: {0}; copy it again, or export it again")]
    Damaged(String),
    /// The index is whole but breaks a rule of the format, so no exporter wrote it.
    #[error("the bundle is refused: {0}")]
    Invalid(String),
    /// A part of a split bundle is not there.
    #[error("{0}")]
    MissingPart(String),
    /// There is a signature, and it is not one over this index.
    #[error(
        "the bundle is refused: its signature does not fit its contents; somebody changed it after it was signed"
    )]
    WrongSignature,
    /// There is no signature, and unsigned bundles are not allowed.
    #[error(
        "the bundle is not signed; ask its maker to sign it (`ingle export --sign KEY`), or take it as it is with \
         --allow-unsigned"
    )]
    Unsigned,
    /// The signature is right, and its key is none of those that are trusted.
    #[error(
        "the bundle is signed with {0}, which is not among the trusted keys; if that is its maker's key, give --trust \
         {0}"
    )]
    UntrustedKey(PublicKey),
    /// Models of these names are here with other contents.
    #[error("{} here with other contents; --replace puts the bundle's in their place", in_words(.0))]
    Exists(Vec<String>),
    /// A key file cannot be used.
    #[error("{0}")]
    Key(String),
    /// What is to be exported is not there, or is not what it should be.
    #[error("{0}")]
    Source(String),
    /// The system failed us.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The store failed us.
    #[error(transparent)]
    Store(Box<StoreError>),
}

impl From<StoreError> for BundleError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl BundleError {
    /// Wraps what the system says with what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn in_words(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("{shown} is"),
        n if n <= SHOWN => format!("{shown} are"),
        n => format!("{shown} and {} more are", n - SHOWN),
    }
}
