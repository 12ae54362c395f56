//! Credentials (V61): a token reaches its own origin and no other.

use ingle_egress::{Credential, Credentials, EgressError, Origin, Request, Secret};
use ingle_testkit::http::{Reply, Server};

use super::{client, client_of, config, open_policy, target, token};

#[tokio::test]
async fn a_credential_goes_to_its_origin_only() {
    let hub = Server::start(|_| Reply::status(200));
    let port = hub.address().port();
    let own = format!("http://hub.test:{port}");
    for (url, is_own) in [
        (format!("{own}/a"), true),
        (format!("http://HUB.test:{port}/a"), true),
        (format!("http://hub.test.:{port}/a"), true),
        (format!("http://cdn.test:{port}/a"), false),
        (format!("http://127.0.0.1:{port}/a"), false),
        (format!("https://hub.test:{port}/a"), false),
        ("http://hub.test/a".to_owned(), false),
    ] {
        let request = Request::get(target(&url)).authorize(Some(&token(&own)));
        let outcome = client(open_policy()).send(&request).await;
        let refused = matches!(outcome, Err(EgressError::Setting { name: "credential", .. }));
        assert_eq!(refused, !is_own, "{url}: {outcome:?}");
        let seen = hub.take_requests();
        assert_eq!(seen.len(), usize::from(is_own), "{url}");
        assert!(seen.iter().all(|r| r.header("authorization") == Some("Bearer s3cret-token")));
    }
}

#[tokio::test]
async fn they_are_found_by_origin() {
    let mut all = Credentials::default();
    let origin = Origin::parse("https://hub.example").unwrap();
    all.insert(Credential::basic(origin.clone(), "me", Secret::new("pw"))).unwrap();
    let mut config = config(open_policy());
    config.credentials = all.clone();
    let client = client_of(config);
    let has = |url: &str| client.credentials().for_target(&target(url)).is_some();
    assert!(has("https://hub.example/a/b?c") && has("https://hub.example:443/"));
    assert!(
        !has("http://hub.example/") && !has("https://hub.example:8443/") && !has("https://a.hub.example/")
    );
    assert!(all.remove(&origin) && !all.remove(&origin));
    for (user, secret) in [("a:b", "x"), ("a", ""), ("a", "x\r\ny"), ("a\n", "x"), ("a", "x y")] {
        let credential = Credential::basic(origin.clone(), user, Secret::new(secret));
        assert!(all.insert(credential).is_err(), "{user:?} {secret:?}");
    }
}

#[test]
fn origins() {
    for (text, expected) in [
        ("hub.example", Some("https://hub.example")),
        ("https://HUB.example:443", Some("https://hub.example")),
        ("http://127.0.0.1:5000/", Some("http://127.0.0.1:5000")),
        ("https://[::1]:5000", Some("https://[::1]:5000")),
        ("https://hub.example/path", None),
        ("https://hub.example?x", None),
        ("https://me@hub.example", None),
        ("ftp://hub.example", None),
        ("", None),
    ] {
        assert_eq!(Origin::parse(text).ok().map(|o| o.to_string()).as_deref(), expected, "{text}");
    }
}
