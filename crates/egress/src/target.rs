//! What a URL names. There is one parser, and nothing is fetched but what it returned.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::error::EgressError;

/// Longest URL in bytes; signed ones of object stores take some 2,000.
const URL_BYTES_MAX: usize = 16 << 10;

const HAS_USER: &str = "it holds a user name or password; save the credential with `ingle login` instead";

/// Scheme, host and port: what a credential is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// Parses `https://host[:port]`, or a host alone, which means https.
    ///
    /// # Errors
    /// [`EgressError::Url`] if it is neither, or has a path or a query.
    pub fn parse(text: &str) -> Result<Self, EgressError> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let target = Target::parse(&with_scheme)?;
        if target.url.path() != "/" || target.url.query().is_some() {
            return Err(refuse(text, "an origin has scheme, host and port only, as in https://example.org"));
        }
        Ok(target.origin())
    }

    /// Whether it is https.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.is_secure() { 443 } else { 80 };
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A parsed http or https URL without user, password or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
}

impl Target {
    /// Parses an absolute URL.
    ///
    /// Spellings that parsers read in different ways are refused rather than mended: backslashes, spaces, control
    /// characters, missing or further slashes, user names.
    ///
    /// # Errors
    /// [`EgressError::Url`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, EgressError> {
        check_text(text)?;
        let rest = ["https://", "http://"].iter().find_map(|scheme| strip_prefix_ignoring_case(text, scheme));
        match rest {
            None => return Err(refuse(text, "it must begin with https:// (or http://)")),
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?', '#']) => {
                return Err(refuse(text, "it has no host"));
            }
            // The parser drops an empty user name without a word.
            Some(rest) if rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) => {
                return Err(refuse(text, HAS_USER));
            }
            Some(_) => {}
        }
        let url = Url::parse(text).map_err(|error| refuse(text, &error.to_string()))?;
        Self::of(url, text)
    }

    /// What `location` means where this answered it.
    ///
    /// # Errors
    /// [`EgressError::Url`] if it means nothing that is fetched.
    pub fn join(&self, location: &str) -> Result<Self, EgressError> {
        check_text(location)?;
        let url = self.url.join(location).map_err(|error| refuse(location, &error.to_string()))?;
        Self::of(url, location)
    }

    fn of(mut url: Url, text: &str) -> Result<Self, EgressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse(text, "only https (or http) is fetched"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(text, HAS_USER));
        }
        match url.host() {
            None => return Err(refuse(text, "it has no host")),
            Some(Host::Domain(name)) if !is_host_name(name) => {
                return Err(refuse(text, "its host is not a host name"));
            }
            Some(_) => {}
        }
        if url.port() == Some(0) {
            return Err(refuse(text, "there is no port 0"));
        }
        url.set_fragment(None);
        Ok(Self { url })
    }

    /// The same with another path, each segment of which is percent-encoded as needed, and without query.
    pub fn with_path(&self, segments: &[&str]) -> Self {
        let mut url = self.url.clone();
        url.set_query(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Self { url }
    }

    /// The same with one more pair in the query.
    pub fn with_query(&self, name: &str, value: &str) -> Self {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair(name, value);
        Self { url }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> Origin {
        Origin { scheme: self.url.scheme().to_owned(), host: self.host(), port: self.port() }
    }

    /// The host in lower case, IPv6 addresses in brackets, without the dot that may end a name.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        host.strip_suffix('.').unwrap_or(host).to_owned()
    }

    /// The port, which the scheme has if the URL has none.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// Host and port for people: the port only if it is not the scheme's.
    pub fn authority(&self) -> String {
        let host = self.host();
        self.url.port().map_or(host.clone(), |port| format!("{host}:{port}"))
    }

    /// The address, if the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Domain(_) => None,
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
        }
    }

    /// Whether it is this machine that is named: a loopback address, or `localhost`. What is sent there leaves no
    /// machine.
    pub fn is_this_machine(&self) -> bool {
        self.host() == "localhost"
            || self.address().is_some_and(|address| address.to_canonical().is_loopback())
    }

    /// Whether it is https.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The last segment of the path, decoded, if there is one.
    pub fn file_name(&self) -> Option<String> {
        let last = self.url.path_segments()?.next_back()?;
        let bytes = percent_decoded(last)?;
        if bytes.is_empty() { None } else { Some(bytes) }
    }

    /// All of it, with the query: for sending, not for showing.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for Target {
    /// Without the query, which may hold a signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.url.as_str();
        f.write_str(text.split('?').next().unwrap_or(text))
    }
}

/// Refuses what parsers read in different ways.
fn check_text(text: &str) -> Result<(), EgressError> {
    if text.len() > URL_BYTES_MAX {
        return Err(refuse(text, "it is longer than 16 KiB"));
    }
    let is_ambiguous = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    match text.chars().find(|c| is_ambiguous(*c)) {
        Some(c) => Err(refuse(
            text,
            &format!("it holds {c:?}, which programs read in different ways; percent-encode it"),
        )),
        None => Ok(()),
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether a name that the parser let through is one that resolvers agree on (RFC 1123, and `_`, which is in use).
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let has_edge = label.starts_with('-') || label.ends_with('-');
        !has_edge
            && (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last label of digits would be an address to some resolvers.
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digit = |b: u8| (b as char).to_digit(16);
        bytes.push((digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8);
    }
    String::from_utf8(bytes).ok()
}

fn refuse(text: &str, problem: &str) -> EgressError {
    let shown: String = text.split('?').next().unwrap_or_default().chars().take(200).collect();
    // What stands before an @ may be a password.
    let shown = match (shown.find("://"), shown.rfind('@')) {
        (Some(start), Some(at)) if at > start => format!("{}...{}", &shown[..start + 3], &shown[at..]),
        _ => shown,
    };
    EgressError::Url { url: shown, problem: problem.to_owned() }
}
