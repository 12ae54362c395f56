//! TLS: whose certificates are trusted, and that nothing leads from it to plain http.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use ingle_egress::{Egress, EgressError, Request};
use ingle_testkit::http::Server;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{brisk, client_of, config, open_policy, target, text};

/// A TLS server for `hub.test` and 127.0.0.1 that answers each request with this; its port.
fn tls_server(answer: &'static str) -> u16 {
    let chain = vec![CertificateDer::from_pem_slice(include_bytes!("../data/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../data/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut seen = Vec::new();
            let mut piece = [0; 1024];
            while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                match tls.read(&mut piece) {
                    Ok(n) if n > 0 => seen.extend_from_slice(&piece[..n]),
                    _ => break,
                }
            }
            let _ = tls.write_all(answer.as_bytes());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    port
}

fn with_ca(file: &str) -> ingle_egress::EgressConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    ingle_egress::EgressConfig { ca_file: Some(path), ..config(open_policy()) }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let port = tls_server("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret");
    for host in ["hub.test", "127.0.0.1"] {
        let request = || Request::get(target(&format!("https://{host}:{port}/"))).backoff(brisk(1));
        assert_eq!(text(client_of(with_ca("ca.pem")).send(&request()).await).await, "secret");
        let error = client_of(config(open_policy())).send(&request()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // The certificate is for hub.test.
    let request = Request::get(target(&format!("https://cdn.test:{port}/"))).backoff(brisk(1));
    let error = client_of(with_ca("ca.pem")).send(&request).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn https_never_becomes_http() {
    let plain = Server::start(|_| ingle_testkit::http::Reply::status(200));
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        plain.url()
    );
    let port = tls_server(answer.leak());
    let request = Request::get(target(&format!("https://hub.test:{port}/"))).backoff(brisk(1));
    let error = client_of(with_ca("ca.pem")).send(&request).await.unwrap_err();
    assert!(
        matches!(&error, EgressError::Redirect { problem, .. } if problem.contains("not encrypted")),
        "{error}"
    );
    assert!(plain.requests().is_empty());
}

#[test]
fn files_without_certificates_are_refused() {
    for file in ["server.key", "none.pem"] {
        let error = Egress::new(with_ca(file)).err().unwrap();
        assert!(matches!(error, EgressError::Setting { name: "ca-file", .. }), "{error}");
    }
}
