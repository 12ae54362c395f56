//! Why something did not leave, or did not arrive.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::AddressKind;
use crate::policy::Class;

/// Why a request was not sent or not answered. No variant shows a query, which may hold a signature, or a credential.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EgressError {
    /// Not a URL that is fetched.
    #[error("{url:?} is not an address to fetch: {problem}")]
    Url {
        /// What was written, shortened.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The policy closes this class of traffic.
    #[error(
        "{class} is closed: this process runs offline; use what is in the store already, or import a bundle"
    )]
    Closed {
        /// The class.
        class: Class,
    },
    /// The operator's list of hosts does not have this one.
    #[error("the host {host} is not among the allowed hosts; add it to --allow-host if it is meant")]
    Host {
        /// Host and port.
        host: String,
    },
    /// Plain http without being allowed.
    #[error("{host} would be fetched without encryption; use https, or name the host with --insecure-host")]
    Insecure {
        /// Host and port.
        host: String,
    },
    /// The name leads to an address that may not be fetched.
    #[error("{host} is {address}, which is {kind}: {}", advice(*kind))]
    Address {
        /// Host and port as written.
        host: String,
        /// One of its addresses.
        address: IpAddr,
        /// What the address means.
        kind: AddressKind,
    },
    /// The name has no address.
    #[error("cannot find the address of {host}: {problem}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver says.
        problem: String,
    },
    /// A redirect that is not followed.
    #[error("{from} redirects to where it is not followed: {problem}")]
    Redirect {
        /// The URL that answered, without its query.
        from: String,
        /// Why not.
        problem: String,
    },
    /// No connection, or it broke before an answer's head had come.
    #[error("cannot reach {host}: {problem}")]
    Connection {
        /// Host and port.
        host: String,
        /// What happened.
        problem: String,
    },
    /// The connection broke in the middle of an answer's body.
    #[error("the connection to {host} broke before the answer was whole: {problem}")]
    Broken {
        /// Host and port.
        host: String,
        /// What happened.
        problem: String,
    },
    /// Nothing came for too long.
    #[error("{host} did not answer within {} s ({what})", after.as_secs())]
    Timeout {
        /// Host and port.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The other side wants to be left alone for longer than is waited.
    #[error("{host} is busy and asks to wait {} s; try again then", wait.as_secs())]
    Busy {
        /// Host and port.
        host: String,
        /// How long it asks to wait.
        wait: Duration,
    },
    /// An answer is larger than its kind may be.
    #[error("the answer of {url} is larger than {max} bytes")]
    TooLarge {
        /// The URL without its query.
        url: String,
        /// The bound.
        max: u64,
    },
    /// The answer's status is an error.
    #[error("{url} answers {status}{}{}", said(message), later(*status))]
    Status {
        /// The URL without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the body says, shortened.
        message: String,
    },
    /// A setting cannot be used.
    #[error("{name}: {problem}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file of credentials cannot be used.
    #[error("credentials in {}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl EgressError {
    /// What may be told to who is not at this machine: the same words without a path of it. `None` where they are about
    /// this machine's settings and files; then they are for the log alone.
    pub fn without_paths(&self) -> Option<String> {
        match self {
            Self::Setting { .. } | Self::Credentials { .. } => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether the same request may succeed if it is sent again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Broken { .. } | Self::Timeout { .. } | Self::Resolve { .. } => {
                true
            }
            Self::Status { status, .. } => is_transient_status(*status),
            _ => false,
        }
    }
}

/// Statuses that mean "not now".
pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn advice(kind: AddressKind) -> &'static str {
    if kind.can_be_allowed() {
        "such addresses are fetched only from hosts that are named with --private-host"
    } else {
        "such addresses are never fetched"
    }
}

/// What to do where the other side has trouble of its own, or too much to do.
fn later(status: u16) -> &'static str {
    if status == 429 || status >= 500 { "; try again later" } else { "" }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
