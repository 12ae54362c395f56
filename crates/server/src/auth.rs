//! Who asks: keys, and what keeps browsers out where there are none.

use axum::http::{HeaderMap, header};
use ingle_chat::{DataClass, Principal};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::{Scope, ServerConfig};

/// The keys, as digests: comparing digests of equal length tells nothing about where keys differ.
pub(crate) struct Auth {
    keys: Vec<(Vec<u8>, Principal)>,
    /// Ids of the keys that have a scope.
    scopes: Vec<(String, Scope)>,
}

impl Auth {
    pub fn new(api_keys: &[String], scopes: &[(String, Scope)]) -> Self {
        let key = |key: &String| {
            let digest = Sha256::digest(key.as_bytes()).to_vec();
            // The id must tell keys apart in logs and ledgers and must not help anyone to guess one.
            let id: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
            let may_write_control_tokens = scopes.iter().any(|(k, s)| k == key && *s == Scope::ControlTokens);
            let principal = Principal {
                tenant: format!("key-{id}"),
                key: id,
                class: DataClass::Internal,
                may_write_control_tokens,
            };
            (digest, principal)
        };
        let keys: Vec<(Vec<u8>, Principal)> = api_keys.iter().map(key).collect();
        let id_of = |secret: &String| api_keys.iter().zip(&keys).find(|(k, _)| *k == secret);
        let scopes =
            scopes.iter().filter_map(|(secret, scope)| Some((id_of(secret)?.1.1.key.clone(), *scope)));
        Self { scopes: scopes.collect(), keys }
    }

    /// Whether whoever asks may do what a scope is about. Without any keys everyone may.
    pub fn may(&self, principal: &Principal, scope: Scope) -> bool {
        self.keys.is_empty() || self.scopes.iter().any(|(key, s)| *key == principal.key && *s == scope)
    }

    /// The principal of a request, or `None` if it shows no valid key and one is needed. All carriers of a key that
    /// are present must be valid, so that no proxy in front can be made to see another one than we do.
    pub fn principal(&self, headers: &HeaderMap) -> Option<Principal> {
        if self.keys.is_empty() {
            return Some(Principal::local());
        }
        let bearer = headers.get_all(header::AUTHORIZATION).iter().map(|v| {
            let bytes = v.as_bytes();
            let (scheme, rest) = bytes.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
        });
        let plain = headers.get_all("x-api-key").iter().map(|v| Some(v.as_bytes()));
        let mut found = None;
        for secret in bearer.chain(plain) {
            let principal = self.lookup(secret?)?;
            if found.as_ref().is_some_and(|p| p != &principal) {
                return None;
            }
            found = Some(principal);
        }
        found
    }

    fn lookup(&self, secret: &[u8]) -> Option<Principal> {
        let digest = Sha256::digest(secret);
        let mut found = None;
        // Every key is compared, so that the time does not tell which one matched.
        for (known, principal) in &self.keys {
            if bool::from(known.as_slice().ct_eq(digest.as_slice())) {
                found = Some(principal.clone());
            }
        }
        found
    }
}

/// Whether a request without key comes from where it may: it is addressed to a name that can only mean this machine,
/// and no other site's page made the browser send it.
pub(crate) fn is_local_caller(config: &ServerConfig, headers: &HeaderMap) -> bool {
    if !config.checks_host() {
        return true;
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    if !is_allowed_host(host, &config.allowed_hosts) {
        return false;
    }
    let cross_site = headers.get("sec-fetch-site").is_some_and(|v| v.as_bytes() == b"cross-site");
    !cross_site || is_allowed_origin(config, headers)
}

/// Whether another site's page may have made the browser send a form, which browsers do without asking first.
pub(crate) fn is_foreign_form(config: &ServerConfig, headers: &HeaderMap) -> bool {
    let of_a_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    // Where there are keys, a page would have to know one.
    of_a_page && config.api_keys.is_empty() && !is_allowed_origin(config, headers)
}

fn is_allowed_origin(config: &ServerConfig, headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|v| v.to_str().ok());
    origin.is_some_and(|o| config.cors_origins.iter().any(|allowed| allowed == "*" || allowed == o))
}

/// `localhost`, an IP address, or a configured name; with or without port.
fn is_allowed_host(host: &str, allowed: &[String]) -> bool {
    use std::net::{Ipv4Addr, Ipv6Addr};
    if let Some(rest) = host.strip_prefix('[') {
        let Some((ip, port)) = rest.split_once(']') else { return false };
        return ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port.strip_prefix(':')));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    if port.is_some() && !is_port(port) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || allowed.iter().any(|a| a.eq_ignore_ascii_case(name))
}

fn is_port(port: Option<&str>) -> bool {
    port.is_some_and(|p| p.parse::<u16>().is_ok() && p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let allowed = ["gpu.lan".to_owned()];
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("192.168.1.2", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("gpu.lan:80", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("localhost.", false),
            ("user@localhost", false),
            ("localhost:x", false),
            ("localhost:", false),
            ("127.0.0.1.evil.example", false),
            ("[::1", false),
            ("[::1]evil", false),
            ("", false),
        ] {
            assert_eq!(is_allowed_host(host, &allowed), expected, "{host}");
        }
    }

    #[test]
    fn keys() {
        let scopes = [("second-key".to_owned(), Scope::ControlTokens)];
        let auth = Auth::new(&["first-key".into(), "second-key".into()], &scopes);
        let ask = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            auth.principal(&headers)
        };
        let may = |key| ask(&[("x-api-key", key)]).expect("valid").may_write_control_tokens;
        assert_eq!((may("first-key"), may("second-key")), (false, true));
        let manages =
            Auth::new(&["first-key".into(), "second-key".into()], &[("first-key".into(), Scope::Models)]);
        let principals: Vec<Principal> = manages.keys.iter().map(|(_, p)| p.clone()).collect();
        let may = |i: usize, scope| manages.may(&principals[i], scope);
        assert_eq!(
            [may(0, Scope::Models), may(1, Scope::Models), may(0, Scope::ControlTokens)],
            [true, false, false]
        );
        assert!(Auth::new(&[], &[]).may(&Principal::local(), Scope::Models));
        let ask = |pairs: &[_]| ask(pairs).map(|p| p.key);
        let first = ask(&[("authorization", "Bearer first-key")]).expect("valid");
        assert_eq!(first.len(), 16);
        assert_eq!(ask(&[("authorization", "bearer first-key")]), Some(first.clone()));
        assert_eq!(ask(&[("x-api-key", "first-key")]), Some(first.clone()));
        assert_ne!(ask(&[("x-api-key", "second-key")]), Some(first));
        for wrong in [
            &[][..],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer first-ke")],
            &[("authorization", "first-key")],
            &[("authorization", "Basic first-key")],
            &[("x-api-key", "")],
            &[("x-api-key", "first-key"), ("authorization", "Bearer wrong")],
            &[("x-api-key", "first-key"), ("authorization", "Bearer second-key")],
        ] {
            assert_eq!(ask(wrong), None, "{wrong:?}");
        }
    }
}
