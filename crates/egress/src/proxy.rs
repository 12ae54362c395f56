//! Which proxy a request goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, read as curl reads them.

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
}

impl Proxies {
    /// Those that variables name; the lower-case spelling goes first, as with curl. `HTTP_PROXY` in capitals is not read
    /// where a web server started this process for a request (`REQUEST_METHOD`), who could set it.
    ///
    /// # Errors
    /// [`EgressError::Setting`] if one is no http or https proxy.
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
        let uri = target.as_str().parse().ok()?;
        let intercept = self.matcher.as_ref()?.intercept(&uri)?;
        Some(Route { url: intercept.uri().to_string(), authorization: intercept.basic_auth().cloned() })
    }
}

fn check(name: &'static str, value: &str) -> Result<(), EgressError> {
    let problem = match value.split_once("://") {
        Some(("http" | "https", "")) => "it has no host".to_owned(),
        None | Some(("http" | "https", _)) => return Ok(()),
        Some((scheme, _)) => {
            let scheme: String = scheme.chars().take(16).collect();
            format!(
                "proxies of the kind {scheme} are not supported; name one that speaks http (http://host:port)"
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
        let error = proxies(&[("ALL_PROXY", "socks5://me:s3cret@proxy.example")]).unwrap_err().to_string();
        assert!(error.contains("socks5") && !error.contains("s3cret"), "{error}");
    }
}
