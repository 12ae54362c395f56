//! What servers do wrong: silence, cuts, lies, and being busy.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ingle_egress::{EgressConfig, EgressError, Request};
use ingle_testkit::http::{Reply, Server};

use super::{brisk, client, client_of, config, open_policy, target};

fn impatient() -> EgressConfig {
    EgressConfig {
        connect_timeout: Duration::from_millis(300),
        first_byte_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        ..config(open_policy())
    }
}

#[tokio::test]
async fn silence_ends() {
    let head = Server::start(|_| Reply { silence: Duration::from_secs(5), ..Reply::status(200) });
    let started = Instant::now();
    let error =
        client_of(impatient()).send(&Request::get(target(&head.url())).backoff(brisk(1))).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "no answer came", .. }), "{error}");
    let body = Server::start(|_| Reply {
        pause: Duration::from_secs(5),
        ..Reply::new(200, "x/y", vec![0; 1 << 20])
    });
    let response = client_of(impatient()).send(&Request::get(target(&body.url()))).await.unwrap();
    let error = response.bytes(1 << 30).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "the body stalled", .. }), "{error}");
    // Slow is not silent: what drips goes on.
    let slow = Server::start(|_| Reply {
        pause: Duration::from_millis(40),
        ..Reply::new(200, "x/y", vec![7; 1 << 20])
    });
    let response = client_of(impatient()).send(&Request::get(target(&slow.url()))).await.unwrap();
    assert_eq!(response.bytes(1 << 20).await.unwrap(), vec![7; 1 << 20]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn cuts_and_lies_are_errors() {
    let all = || Reply::new(200, "x/y", vec![1; 1000]);
    let cases: Vec<(&str, Reply)> = vec![
        ("cut", Reply { cut_after: Some(500), ..all() }),
        ("cut at once", Reply { cut_after: Some(0), ..all() }),
        ("a length that is too long", all().with("Content-Length", "2000")),
    ];
    for (name, reply) in cases {
        let server = Server::start(move |_| reply.clone());
        let response = client(open_policy()).send(&Request::get(target(&server.url()))).await.unwrap();
        let error = response.bytes(1 << 20).await.unwrap_err();
        assert!(matches!(error, EgressError::Connection { .. }) && error.is_transient(), "{name}: {error}");
    }
    // A length that is too short bounds what is taken.
    let server = Server::start(move |_| all().with("Content-Length", "10"));
    let response = client(open_policy()).send(&Request::get(target(&server.url()))).await.unwrap();
    assert_eq!(response.bytes(1 << 20).await.unwrap().len(), 10);
}

#[tokio::test]
async fn small_answers_are_bounded() {
    let server = Server::start(|_| Reply::new(200, "x/y", vec![1; 1000]));
    let get = || Request::get(target(&server.url()));
    assert_eq!(client(open_policy()).send(&get()).await.unwrap().bytes(1000).await.unwrap().len(), 1000);
    let error = client(open_policy()).send(&get()).await.unwrap().bytes(999).await.unwrap_err();
    assert!(matches!(error, EgressError::TooLarge { max: 999, .. }), "{error}");
}

#[tokio::test]
async fn busy_servers_are_asked_again_when_they_say() {
    for (status, wait, at_least) in [
        (429, Some("1"), 1000),
        (503, Some("1"), 1000),
        (500, None, 10),
        (502, None, 10),
        (504, Some("x"), 10),
    ] {
        let asked = AtomicU32::new(0);
        let server = Server::start(move |_| match (asked.fetch_add(1, Ordering::SeqCst), wait) {
            (0, Some(wait)) => Reply::status(status).with("Retry-After", wait),
            (0, None) => Reply::status(status),
            _ => Reply::status(200),
        });
        let started = Instant::now();
        let request = Request::get(target(&server.url())).backoff(brisk(3));
        assert_eq!(client(open_policy()).send(&request).await.unwrap().status(), 200, "{status}");
        assert_eq!(server.requests().len(), 2);
        assert!(started.elapsed() >= Duration::from_millis(at_least), "{status}");
    }
}

#[tokio::test]
async fn patience_has_an_end() {
    let server = Server::start(|_| Reply::status(503));
    let request = Request::get(target(&server.url())).backoff(brisk(3));
    assert_eq!(client(open_policy()).send(&request).await.unwrap().status(), 503);
    assert_eq!(server.requests().len(), 3);
    let server = Server::start(|_| Reply::status(429).with("Retry-After", "100"));
    let error =
        client(open_policy()).send(&Request::get(target(&server.url())).backoff(brisk(3))).await.unwrap_err();
    assert!(matches!(error, EgressError::Busy { .. }) && server.requests().len() == 1, "{error}");
    // What would be refused again is not sent again.
    for status in [400, 401, 403, 404, 416] {
        let server = Server::start(move |_| Reply::status(status));
        let request = Request::get(target(&server.url())).backoff(brisk(3));
        assert_eq!(client(open_policy()).send(&request).await.unwrap().status(), status);
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn errors_say_what_the_server_said_and_no_signature() {
    let server = Server::start(|_| Reply::json(404, &serde_json::json!({ "error": "no such\u{1b} model" })));
    let url = format!("{}/a/b?sig=s3cret", server.url());
    let error =
        client(open_policy()).send(&Request::get(target(&url))).await.unwrap().success().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("404") && text.contains("no such model") && !text.contains("s3cret"), "{text}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/?sig=s3cret");
    let error = client(open_policy()).send(&Request::get(target(&url)).backoff(brisk(2))).await.unwrap_err();
    assert!(
        matches!(error, EgressError::Connection { .. }) && !error.to_string().contains("s3cret"),
        "{error}"
    );
}

#[test]
fn content_ranges() {
    // Read through a reply, as the client sees it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (value, expected) in [
        ("bytes 0-9/100", Some((0, 10, Some(100)))),
        ("bytes 90-99/100", Some((90, 100, Some(100)))),
        ("bytes 0-9/*", Some((0, 10, None))),
        ("bytes 9-0/100", None),
        ("bytes 0-100/100", None),
        ("bytes */100", None),
        ("bytes 0-18446744073709551615/*", None),
        ("items 0-9/100", None),
        ("", None),
    ] {
        let server = Server::start(move |_| Reply::status(206).with("Content-Range", value));
        let response =
            runtime.block_on(client(open_policy()).send(&Request::get(target(&server.url())))).unwrap();
        assert_eq!(response.content_range(), expected, "{value}");
    }
}
