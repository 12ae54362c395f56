//! The address of a server, as `OLLAMA_HOST` writes it.

use std::fmt;

use super::value::FromText;

/// The port where none is named.
const PORT_DEFAULT: u16 = 11434;

/// Where a server is: `host`, `host:port`, `[::1]:port`, `:port`, each perhaps with `http://` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Without the brackets that addresses of IPv6 stand in.
    pub host: String,
    pub port: u16,
    pub is_https: bool,
    /// What stands before the paths of the API, without a slash at its end.
    pub path: String,
}

impl ServerAddress {
    /// The address where a client finds a server that listens here: one that listens everywhere is on this machine.
    pub fn for_clients(&self) -> Self {
        let host = match self.host.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            other => other,
        };
        Self { host: host.to_owned(), ..self.clone() }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.path),
            false => write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path),
        }
    }
}

impl FromText for ServerAddress {
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is no address of a server, such as 127.0.0.1:11434 or http://localhost:8080")
        };
        let plain = text.trim().trim_matches(['"', '\'']);
        let (scheme, rest) =
            plain.split_once("://").map_or((None, plain), |(scheme, rest)| (Some(scheme), rest));
        let (is_https, port_of_scheme) = match scheme {
            None => (false, PORT_DEFAULT),
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            Some(_) => return Err(wrong()),
        };
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let is_ipv6_alone = place.matches(':').count() > 1 && !place.starts_with('[');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !is_ipv6_alone && !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (place, port_of_scheme),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !host.chars().all(is_name) || path.contains(['?', '#', ' ']) {
            return Err(wrong());
        }
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self { host: host.to_owned(), port, is_https, path: path.trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ollama_reads_them() {
        let check = |text: &str, expected: &str| {
            assert_eq!(ServerAddress::from_text(text).expect(text).to_string(), expected, "{text}");
        };
        check("127.0.0.1", "http://127.0.0.1:11434");
        check("127.0.0.1:8080", "http://127.0.0.1:8080");
        check("0.0.0.0", "http://0.0.0.0:11434");
        check(":1234", "http://127.0.0.1:1234");
        check("", "http://127.0.0.1:11434");
        check("example.com", "http://example.com:11434");
        check("http://example.com", "http://example.com:80");
        check("https://example.com", "https://example.com:443");
        check("https://example.com:8443/llm/", "https://example.com:8443/llm");
        check("[::1]:9000", "http://[::1]:9000");
        check("[::1]", "http://[::1]:11434");
        check("::1", "http://[::1]:11434");
        check(" \"localhost:7\" ", "http://localhost:7");
        for wrong in ["ftp://x", "host:port", "host:99999", "a b", "user@host", "http://x/y?z"] {
            assert!(ServerAddress::from_text(wrong).is_err(), "{wrong}");
        }
        let everywhere = ServerAddress::from_text("0.0.0.0:1").expect("valid");
        assert_eq!(everywhere.for_clients().to_string(), "http://127.0.0.1:1");
    }
}
