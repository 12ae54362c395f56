//! Which proxy a request goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, read as curl reads them.
//!
//! Proxies speak http, https or SOCKS 5 (RFC 1928). With SOCKS, too, names are resolved by the proxy, whether it is written
//! `socks5h://` or `socks5://`: one rule for all proxies, and no name of a request is asked of this site's resolver.
//!
//! What is on this machine (`localhost`, loopback addresses) is never asked by way of another one: requests to it may be
//! unencrypted, with a credential, because nobody can listen on the way.

use std::fmt;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::HeaderValue;

use crate::error::EgressError;
use crate::target::Target;

/// The proxies of a process.
#[derive(Default)]
pub struct Proxies {
    matcher: Option<Matcher>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Their URLs may hold passwords.
        f.write_str(if self.matcher.is_some() { "Proxies" } else { "no Proxies" })
    }
}

/// A proxy for one request.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    pub url: String,
    pub authorization: Option<HeaderValue>,
    /// User and password of a SOCKS proxy.
    pub account: Option<(String, String)>,
}

impl Route {
    /// Host and port of the proxy.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }
}

impl Proxies {
    /// Those that variables name; the lower-case spelling goes first, as with curl. `HTTP_PROXY` in capitals is not read
    /// where a web server started this process for a request (`REQUEST_METHOD`), who could set it.
    ///
    /// # Errors
    /// [`EgressError::Setting`] if one is of a kind that is not spoken.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, EgressError> {
        let either = |lower: &'static str, upper: &'static str| {
            [lower, upper]
                .into_iter()
                .find_map(|name| var(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
        };
        let is_cgi = var("REQUEST_METHOD").is_some();
        let http = either("http_proxy", if is_cgi { "http_proxy" } else { "HTTP_PROXY" });
        let https = either("https_proxy", "HTTPS_PROXY");
        let all = either("all_proxy", "ALL_PROXY");
        for (name, value) in [&http, &https, &all].into_iter().flatten() {
            check(name, value)?;
        }
        let text = |found: Option<(&'static str, String)>| found.map_or(String::new(), |(_, value)| value);
        let no = text(either("no_proxy", "NO_PROXY"));
        let (http, https, all) = (text(http), text(https), text(all));
        if [&http, &https, &all].iter().all(|value| value.is_empty()) {
            return Ok(Self::default());
        }
        Ok(Self { matcher: Some(Matcher::builder().http(http).https(https).all(all).no(no).build()) })
    }

    /// Those of the environment.
    ///
    /// # Errors
    /// As [`from_vars`](Self::from_vars).
    pub fn from_env() -> Result<Self, EgressError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The proxy for a URL.
    pub(crate) fn route(&self, target: &Target) -> Option<Route> {
        if target.is_this_machine() {
            return None;
        }
        let uri = target.as_str().parse().ok()?;
        let intercept = self.matcher.as_ref()?.intercept(&uri)?;
        let url = intercept.uri().to_string();
        Some(Route {
            url: url.strip_prefix("socks5://").map_or(url.clone(), |rest| format!("socks5h://{rest}")),
            authorization: intercept.basic_auth().cloned(),
            account: intercept.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned())),
        })
    }
}

fn check(name: &'static str, value: &str) -> Result<(), EgressError> {
    // What is no address would be no proxy either: requests would go out without one, unseen.
    let is_read = || {
        let matcher = Matcher::builder().all(value.to_owned()).build();
        "https://a.example/".parse().is_ok_and(|sample| matcher.intercept(&sample).is_some())
    };
    let problem = match value.split_once("://") {
        Some(("http" | "https" | "socks5" | "socks5h", "")) => "it has no host".to_owned(),
        None | Some(("http" | "https" | "socks5" | "socks5h", _)) if is_read() => return Ok(()),
        None | Some(("http" | "https" | "socks5" | "socks5h", _)) => {
            "it is not the address of a proxy (http://host:port)".to_owned()
        }
        Some((scheme, _)) => {
            let scheme: String = scheme.chars().take(16).collect();
            format!(
                "proxies of the kind {scheme} are not supported; name one that speaks http (http://host:port) or SOCKS 5 \
                 (socks5h://host:port)"
            )
        }
    };
    Err(EgressError::Setting { name, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Result<Proxies, EgressError> {
        Proxies::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_environment_chooses_as_with_curl() {
        let check = |vars: &[(&str, &str)], url: &str, expected: Option<&str>| {
            let found = proxies(vars).unwrap().route(&Target::parse(url).unwrap()).map(|route| route.url);
            assert_eq!(found.as_deref().map(|u| u.trim_end_matches('/')), expected, "{vars:?} {url}");
        };
        let https = ("HTTPS_PROXY", "http://proxy.example:3128");
        check(&[], "https://a.example/", None);
        check(&[https], "https://a.example/", Some("http://proxy.example:3128"));
        check(&[https], "http://a.example/", None);
        check(&[("HTTP_PROXY", "http://p:1")], "http://a.example/", Some("http://p:1"));
        check(&[("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")], "http://a.example/", None);
        check(
            &[("http_proxy", "http://low:1"), ("HTTP_PROXY", "http://up:1")],
            "http://a.example/",
            Some("http://low:1"),
        );
        check(&[("ALL_PROXY", "http://p:1")], "https://a.example/", Some("http://p:1"));
        check(&[https, ("ALL_PROXY", "http://p:1")], "https://a.example/", Some("http://proxy.example:3128"));
        check(
            &[("https_proxy", "proxy.example:3128")],
            "https://a.example/",
            Some("http://proxy.example:3128"),
        );
        for (url, is_proxied) in [
            ("http://localhost:5000/", false),
            ("http://LOCALHOST./", false),
            ("https://localhost/", false),
            ("http://127.0.0.1:8080/", false),
            ("http://127.9.9.9/", false),
            ("http://[::1]:8080/", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://localhost.example/", true),
            ("http://128.0.0.1/", true),
            ("http://10.0.0.1/", true),
        ] {
            check(&[("ALL_PROXY", "http://p:1")], url, is_proxied.then_some("http://p:1"));
        }
        let no = |list: &'static str| [https, ("NO_PROXY", list)];
        for (list, url, is_proxied) in [
            ("a.example", "https://a.example/", false),
            ("a.example", "https://x.a.example/", false),
            (".a.example", "https://x.a.example/", false),
            ("a.example", "https://ba.example/", true),
            ("*", "https://a.example/", false),
            ("b.example, a.example", "https://a.example/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://11.1.2.3/", true),
            ("::1", "https://[::1]/", false),
        ] {
            check(&no(list), url, is_proxied.then_some("http://proxy.example:3128"));
        }
    }

    #[test]
    fn passwords_become_a_header_and_are_not_shown() {
        let all = proxies(&[("HTTPS_PROXY", "http://me:s3cret@proxy.example:3128")]).unwrap();
        let route = all.route(&Target::parse("https://a.example/").unwrap()).unwrap();
        assert!(!route.url.contains("s3cret"));
        assert_eq!(route.authorization.unwrap(), "Basic bWU6czNjcmV0");
        assert!(!format!("{all:?}").contains("s3cret"));
        for bad in ["http://a b", "http://", "socks5h://", "http://me:s3cret@", "https://[::1"] {
            let error = proxies(&[("ALL_PROXY", bad)]).expect_err(bad).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = proxies(&[("ALL_PROXY", "socks4://me:s3cret@proxy.example")]).unwrap_err().to_string();
        assert!(error.contains("socks4") && !error.contains("s3cret"), "{error}");
        let all = proxies(&[("ALL_PROXY", "socks5://me:s3%40cret@proxy.example:1080")]).unwrap();
        let route = all.route(&Target::parse("https://a.example/").unwrap()).unwrap();
        assert_eq!(route.url.trim_end_matches('/'), "socks5h://proxy.example:1080");
        assert_eq!(route.account, Some(("me".into(), "s3@cret".into())));
        assert_eq!(route.host(), "proxy.example:1080");
    }
}
