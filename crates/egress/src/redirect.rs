//! Redirects: where the next hop goes, and what goes along.

use reqwest::Method;
use reqwest::header::{self, HeaderMap, HeaderName};

use crate::error::EgressError;
use crate::target::Target;

/// Most hops of one request.
pub(crate) const HOPS_MAX: usize = 10;

/// All that another origin may see of a request's head. Everything else could be a credential: which headers are, only
/// their receivers know.
const HARMLESS: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_RANGE,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::USER_AGENT,
];

/// Whether an answer with this status points elsewhere.
pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where the next hop goes.
///
/// # Errors
/// [`EgressError::Redirect`] if it leaves https, or the location means nothing.
pub(crate) fn next(from: &Target, location: Option<&str>) -> Result<Target, EgressError> {
    let refuse = |problem: String| EgressError::Redirect { from: from.to_string(), problem };
    let location = location.ok_or_else(|| refuse("it names no location, or one that is not text".into()))?;
    let to = from.join(location).map_err(|error| refuse(error.to_string()))?;
    if from.is_secure() && !to.is_secure() {
        return Err(refuse(format!("{to} is not encrypted")));
    }
    Ok(to)
}

/// The method of the next hop, and whether the body goes along (the Fetch standard, HTTP-redirect fetch, step 12).
pub(crate) fn method(status: u16, method: &Method) -> (Method, bool) {
    let becomes_get = match status {
        303 => *method != Method::GET && *method != Method::HEAD,
        301 | 302 => *method == Method::POST,
        _ => false,
    };
    if becomes_get { (Method::GET, false) } else { (method.clone(), true) }
}

/// Leaves behind what another origin must not see.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = headers.keys().filter(|name| !HARMLESS.contains(name)).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops() {
        let check = |from: &str, location: &str, expected: Result<&str, &str>| {
            let found = next(&Target::parse(from).unwrap(), Some(location));
            match (found, expected) {
                (Ok(to), Ok(expected)) => assert_eq!(to.as_str(), expected, "{location}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{location}: {error}"),
                (found, _) => panic!("{location}: {found:?}"),
            }
        };
        let from = "https://hub.example/a/b?x=1";
        check(from, "/c", Ok("https://hub.example/c"));
        check(from, "c", Ok("https://hub.example/a/c"));
        check(from, "?y", Ok("https://hub.example/a/b?y"));
        check(from, "https://cdn.example/c?sig=1#f", Ok("https://cdn.example/c?sig=1"));
        check(from, "//cdn.example/c", Ok("https://cdn.example/c"));
        check(from, "http://cdn.example/c", Err("not encrypted"));
        check(from, "HTTP://hub.example/c", Err("not encrypted"));
        check("http://hub.example/", "https://hub.example/", Ok("https://hub.example/"));
        check(from, "file:///etc/passwd", Err("only https"));
        check(from, "ftp://hub.example/", Err("only https"));
        check(from, "javascript:alert(1)", Err("only https"));
        check(from, "data:text/plain,x", Err("only https"));
        check(from, "https://me:pw@cdn.example/", Err("user name or password"));
        check(from, "\\\\cdn.example\\c", Err("different ways"));
        check(from, "/c d", Err("different ways"));
        check(from, "/c\r\nX: y", Err("different ways"));
        check(from, "https://", Err("redirects"));
        assert!(next(&Target::parse(from).unwrap(), None).is_err());
    }

    #[test]
    fn methods() {
        for (status, before, after, keeps_body) in [
            (301, Method::POST, Method::GET, false),
            (302, Method::POST, Method::GET, false),
            (303, Method::POST, Method::GET, false),
            (303, Method::PUT, Method::GET, false),
            (303, Method::HEAD, Method::HEAD, true),
            (307, Method::POST, Method::POST, true),
            (308, Method::PATCH, Method::PATCH, true),
            (302, Method::PUT, Method::PUT, true),
            (302, Method::HEAD, Method::HEAD, true),
        ] {
            assert_eq!(method(status, &before), (after, keeps_body), "{status} {before}");
        }
    }

    #[test]
    fn only_harmless_headers_go_along() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "x-goog-api-key",
            "api-key",
            "x-auth-token",
            "x-amz-security-token",
            "x-anything",
            "range",
            "accept",
            "user-agent",
            "if-match",
            "origin",
            "referer",
        ] {
            headers.insert(name, "v".parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "if-match", "range", "user-agent"]);
    }
}
