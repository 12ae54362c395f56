//! Redirects (V62): each status, from each kind of place to each other, with each credential that there is.

use std::sync::Arc;

use ingle_egress::{EgressError, HostRule, Policy, Request};
use ingle_testkit::http::{Reply, Request as Seen, Server};

use super::{brisk, client, open_policy, target, text, token};

/// A server that answers with what it is called.
fn named(name: &'static str) -> Server {
    Server::start(move |_| Reply::new(200, "text/plain", name.as_bytes()))
}

/// One that sends everyone to a place.
fn sends_to(status: u16, location: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |request| Reply::redirect(status, location(request)))
}

#[tokio::test]
async fn no_status_and_no_origin_takes_a_credential_along() {
    for status in [301, 302, 303, 307, 308] {
        let cdn = named("cdn");
        // Another port; another name of the same port; both.
        for host in ["127.0.0.1", "hub.test", "cdn.test", "localhost"] {
            let location = format!("http://{host}:{}/blob?sig=1", cdn.address().port());
            let hub = sends_to(status, move |_| location.clone());
            let origin = format!("http://hub.test:{}", hub.address().port());
            let request = Request::get(target(&format!("{origin}/file")))
                .header("x-api-key", "s3cret-key")
                .header("x-goog-api-key", "s3cret-goog")
                .header("cookie", "session=s3cret-cookie")
                .header("proxy-authorization", "Basic s3cret-proxy")
                .header("x-own-header", "s3cret-own")
                .header("range", "bytes=0-99")
                .authorize(Some(&token(&origin)));
            let answer = text(client(open_policy()).send(&request).await).await;
            assert_eq!(answer, "cdn", "{status} {host}");
            let at_hub = hub.take_requests();
            assert!(at_hub[0].text().contains("s3cret-token") && at_hub[0].text().contains("s3cret-own"));
            let at_cdn = cdn.take_requests();
            assert_eq!(at_cdn.len(), 1);
            assert!(!at_cdn[0].text().contains("s3cret"), "{status} {host}: {}", at_cdn[0].text());
            assert_eq!(at_cdn[0].header("range"), Some("bytes=0-99"));
            assert_eq!(at_cdn[0].header("referer"), None);
        }
    }
}

#[tokio::test]
async fn the_same_origin_keeps_the_credential_until_it_was_left_once() {
    let back = Arc::new(std::sync::Mutex::new(String::new()));
    let to = back.clone();
    let cdn = sends_to(302, move |_| to.lock().unwrap().clone());
    let away = format!("{}/away", cdn.url());
    let hub = Server::start(move |request| match request.path.as_str() {
        "/start" => Reply::redirect(307, "/same"),
        "/same" => Reply::redirect(302, away.clone()),
        _ => Reply::new(200, "text/plain", *b"back"),
    });
    *back.lock().unwrap() = format!("{}/end", hub.url());
    let request = Request::get(target(&format!("{}/start", hub.url()))).authorize(Some(&token(&hub.url())));
    assert_eq!(text(client(open_policy()).send(&request).await).await, "back");
    let shown: Vec<(String, bool)> =
        hub.requests().iter().map(|r| (r.path.clone(), r.header("authorization").is_some())).collect();
    assert_eq!(shown, [("/start".into(), true), ("/same".into(), true), ("/end".into(), false)]);
    assert!(cdn.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test]
async fn bodies_follow_only_where_the_method_stays() {
    for (status, method, body) in
        [(301, "GET", ""), (302, "GET", ""), (303, "GET", ""), (307, "POST", "data"), (308, "POST", "data")]
    {
        let cdn = named("cdn");
        let location = cdn.url();
        let hub = sends_to(status, move |_| location.clone());
        let request = Request::post(target(&hub.url()), "data").header("content-type", "text/plain");
        assert_eq!(text(client(open_policy()).send(&request).await).await, "cdn");
        let seen = &cdn.requests()[0];
        assert_eq!(
            (seen.method.as_str(), String::from_utf8_lossy(&seen.body).as_ref()),
            (method, body),
            "{status}"
        );
        assert_eq!(seen.header("content-type").is_some(), !body.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn ten_hops_and_no_more() {
    for (hops, arrives) in [(1, true), (10, true), (11, false), (1000, false)] {
        let hub = Server::start(move |request| {
            let n: u32 = request.path.trim_start_matches('/').parse().unwrap_or(0);
            if n == hops {
                Reply::new(200, "text/plain", *b"there")
            } else {
                Reply::redirect(302, format!("/{}", n + 1))
            }
        });
        let outcome = client(open_policy()).send(&Request::get(target(&format!("{}/0", hub.url())))).await;
        match outcome {
            Ok(response) => assert!(arrives && response.status() == 200, "{hops}"),
            Err(EgressError::Redirect { problem, .. }) => {
                assert!(!arrives && problem.contains("10"), "{hops}")
            }
            Err(error) => panic!("{hops}: {error}"),
        }
        assert!(hub.requests().len() <= 11);
    }
}

#[tokio::test]
async fn hops_are_judged_like_the_first() {
    let inner = named("inner");
    let port = inner.address().port();
    let only = |rules: &[&str]| {
        let rules: Vec<HostRule> = rules.iter().map(|rule| HostRule::parse(rule).unwrap()).collect();
        Policy {
            private: rules.iter().map(|rule| (None, rule.clone())).collect(),
            insecure: rules,
            ..Policy::default()
        }
    };
    for (location, part) in [
        // Loopback in spellings that the hub's rule does not cover, each also without a port of ours.
        (format!("http://127.0.0.1:{port}/"), "this machine's own"),
        (format!("http://2130706433:{port}/"), "this machine's own"),
        (format!("http://0x7f.1:{port}/"), "this machine's own"),
        (format!("http://[::1]:{port}/"), "this machine's own"),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), "this machine's own"),
        (format!("https://localhost:{port}/"), "this machine's own"),
        ("https://169.254.169.254/latest/meta-data/".into(), "metadata"),
        ("http://10.0.0.1/".into(), "private"),
        ("https://metadata.test/".into(), "metadata"),
        (format!("https://cdn.test:{port}/"), "this machine's own"),
        ("file:///etc/passwd".into(), "only https"),
        ("gopher://cdn.test/".into(), "only https"),
    ] {
        let to = location.clone();
        let hub = sends_to(302, move |_| to.clone());
        let hub_rule = format!("hub.test:{}", hub.address().port());
        let mut config = super::config(only(&[&hub_rule]));
        config.names.insert(
            "metadata.test".into(),
            vec!["8.8.8.8".parse().unwrap(), "169.254.169.254".parse().unwrap()],
        );
        let request = Request::get(target(&format!("http://{hub_rule}/"))).backoff(brisk(1));
        let error = super::client_of(config).send(&request).await.unwrap_err().to_string();
        assert!(error.contains(part), "{location}: {error}");
        assert!(inner.requests().is_empty(), "{location} was fetched");
    }
}

#[tokio::test]
async fn the_list_of_hosts_holds_for_hops_too() {
    let cdn = named("cdn");
    let port = cdn.address().port();
    for (host, is_listed) in
        [("cdn.test", true), ("hub.test", true), ("localhost", false), ("127.0.0.1", false)]
    {
        let location = format!("http://{host}:{port}/");
        let hub = sends_to(302, move |_| location.clone());
        let hosts = Some(["hub.test", "*.test"].map(|rule| HostRule::parse(rule).unwrap()).into());
        let url = format!("http://hub.test:{}/", hub.address().port());
        let outcome = client(Policy { hosts, ..open_policy() }).send(&Request::get(target(&url))).await;
        assert_eq!(outcome.is_ok(), is_listed, "{host}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains("--allow-host"), "{error}");
        }
    }
}

#[tokio::test]
async fn who_wants_redirects_gets_them() {
    let hub = sends_to(307, |_| "https://elsewhere.example/blob".into());
    let response =
        client(open_policy()).send(&Request::head(target(&hub.url())).without_redirects()).await.unwrap();
    assert_eq!(
        (response.status(), response.header("location")),
        (307, Some("https://elsewhere.example/blob"))
    );
}
