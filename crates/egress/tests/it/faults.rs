//! What servers do wrong: silence, cuts, lies, and being busy.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ingle_egress::{EgressConfig, EgressError, Request};
use ingle_testkit::http::{Reply, Server};

use super::{brisk, client, client_of, config, open_policy, target, text};

/// Longer than any test should wait.
const SILENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn silence_ends() {
    let head = Server::start(|_| Reply { silence: SILENCE, ..Reply::status(200) });
    let started = Instant::now();
    let error =
        client_of(impatient()).send(&Request::get(target(&head.url())).backoff(brisk(1))).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "no answer came", .. }), "{error}");
    let body = Server::start(|_| Reply { pause: SILENCE, ..Reply::new(200, "x/y", vec![0; 1 << 20]) });
    let impatient = EgressConfig { idle_timeout: Duration::from_millis(200), ..config(open_policy()) };
    let response = client_of(impatient).send(&Request::get(target(&body.url()))).await.unwrap();
    let error = response.bytes(1 << 30).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "the body stalled", .. }), "{error}");
    assert!(started.elapsed() < SILENCE);
    // Slow is not silent: what drips goes on, for longer than silence may last.
    let slow = Server::start(|_| Reply {
        pause: Duration::from_millis(150),
        ..Reply::new(200, "x/y", vec![7; 1 << 20])
    });
    let idle_timeout = Duration::from_secs(2);
    let patient = EgressConfig { idle_timeout, ..config(open_policy()) };
    let started = Instant::now();
    let response = client_of(patient).send(&Request::get(target(&slow.url()))).await.unwrap();
    assert_eq!(response.bytes(1 << 20).await.unwrap(), vec![7; 1 << 20]);
    assert!(started.elapsed() > idle_timeout, "it dripped too quickly to show anything");
}

fn impatient() -> EgressConfig {
    EgressConfig { first_byte_timeout: Duration::from_millis(200), ..config(open_policy()) }
}

/// A server that takes one connection, and of it nothing for so long; then it takes all, and answers.
fn takes_nothing_for(time: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut client, _) = listener.accept()?;
        std::thread::sleep(time);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        std::io::copy(&mut client.try_clone()?.take(length.unwrap_or(0)), &mut std::io::sink())?;
        client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    url
}

/// A slow way out needs longer for a body than an answer may take.
#[tokio::test]
async fn sending_takes_its_time() {
    let send = async |n_bytes: usize| {
        let url = takes_nothing_for(Duration::from_millis(600));
        let request = Request::put(target(&url), vec![0; n_bytes]).backoff(brisk(1));
        client_of(impatient()).send(&request).await
    };
    assert_eq!(text(send(64 << 10).await).await, "ok");
    let error = send(100).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "no answer came", .. }), "{error}");
}

/// Who takes nothing is not waited for as long as a slow way out would be.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_takes_nothing_is_given_up() {
    let url = takes_nothing_for(Duration::from_secs(60));
    let request = Request::put(target(&url), vec![0; 64 << 20]).backoff(brisk(1));
    let started = Instant::now();
    let config = EgressConfig { idle_timeout: Duration::from_millis(200), ..impatient() };
    let error = client_of(config).send(&request).await.unwrap_err();
    assert!(matches!(error, EgressError::Connection { .. }) && error.is_transient(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
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
        assert!(matches!(error, EgressError::Broken { .. }) && error.is_transient(), "{name}: {error}");
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

/// Who drips bytes is never silent, and yet does not keep anybody waiting for ever.
#[tokio::test]
async fn small_answers_end_in_time() {
    let server = Server::start(|_| Reply {
        pause: Duration::from_millis(60),
        ..Reply::new(200, "x/y", vec![0; 8 << 20])
    });
    let config = EgressConfig { idle_timeout: Duration::from_millis(300), ..config(open_policy()) };
    let response = client_of(config).send(&Request::get(target(&server.url()))).await.unwrap();
    let error = response.bytes(1 << 30).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { what: "the body did not end", .. }), "{error}");
}

#[test]
fn changes_that_tell_versions_apart() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (modified, date, is_told) in [
        ("Sun, 06 Nov 1994 08:48:37 GMT", Some(date), true),
        ("Sun, 06 Nov 1994 08:48:38 GMT", Some(date), false),
        ("Sun, 06 Nov 1994 08:50:00 GMT", Some(date), false),
        ("Sun, 06 Nov 1994 08:48:37 GMT", None, false),
        ("Sun, 06 Nov 1994 08:48:37 GMT", Some("now"), false),
        ("yesterday", Some(date), false),
    ] {
        let server = Server::start(move |_| {
            let reply = Reply::status(200).with("Last-Modified", modified);
            date.map_or(reply.clone(), |date| reply.with("Date", date))
        });
        let response =
            runtime.block_on(client(open_policy()).send(&Request::get(target(&server.url())))).unwrap();
        assert_eq!(response.last_modified(), is_told.then_some(modified), "{modified} at {date:?}");
    }
}
