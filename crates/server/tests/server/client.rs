//! A small HTTP/1.1 client that shows exactly what came, and servers to point it at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_chat::Provider;
use ingle_server::{ProviderSlot, Server, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::scripted::Scripted;

/// A running server over a provider.
pub struct Running<P = Scripted> {
    pub addr: SocketAddr,
    pub provider: Arc<P>,
    pub slot: ProviderSlot,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// A configuration on a free port.
pub fn config() -> ServerConfig {
    ServerConfig { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..ServerConfig::default() }
}

pub async fn start() -> Running {
    start_with(config(), true).await
}

pub async fn start_with(config: ServerConfig, ready: bool) -> Running {
    let provider = Arc::new(Scripted::default());
    let slot = if ready { ProviderSlot::ready(provider.clone()) } else { ProviderSlot::loading() };
    listen(config, provider, slot).await
}

/// A server over another provider.
pub async fn start_over<P: Provider + 'static>(config: ServerConfig, provider: P) -> Running<P> {
    let provider = Arc::new(provider);
    let slot = ProviderSlot::ready(provider.clone());
    listen(config, provider, slot).await
}

async fn listen<P>(config: ServerConfig, provider: Arc<P>, slot: ProviderSlot) -> Running<P> {
    let server = Server::bind(config, slot.clone()).await.expect("a free port");
    let addr = server.local_addrs()[0];
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { addr, provider, slot, stop: Some(stop), task }
}

/// A server in another process.
pub fn remote(addr: SocketAddr) -> Running {
    let provider = Arc::new(Scripted::default());
    let slot = ProviderSlot::ready(provider.clone());
    Running { addr, provider, slot, stop: None, task: tokio::spawn(async {}) }
}

impl Running {
    /// Waits until no answer is alive; panics after a while.
    pub async fn idle(&self) {
        let begun = Instant::now();
        while self.provider.live.load(Ordering::SeqCst) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "an answer was not dropped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl<P> Running<P> {
    /// Begins shutdown.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("once").send(());
    }

    /// Waits for the end.
    pub async fn stopped(self) {
        self.task.await.expect("the server does not panic");
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(&format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.post_with(path, "", body.as_bytes()).await
    }

    pub async fn post_json(&self, path: &str, body: Value) -> Reply {
        self.post(path, &body.to_string()).await
    }

    /// Posts with further header lines, each ending in CRLF.
    pub async fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Reply {
        let mut message = post_head(path, headers, body.len()).into_bytes();
        message.extend_from_slice(body);
        self.send_bytes(&message).await
    }

    pub async fn send(&self, message: &str) -> Reply {
        self.send_bytes(message.as_bytes()).await
    }

    pub async fn send_bytes(&self, message: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(message).await;
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await.expect("a reply in time");
        if bytes.is_empty() {
            read.expect("a reply");
        }
        Reply::parse(&bytes)
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("the server listens")
    }
}

pub fn post_head(path: &str, headers: &str, len: usize) -> String {
    let content_type = if headers.to_lowercase().contains("content-type:") {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content_type}{headers}Content-Length: \
         {len}\r\n\r\n"
    )
}

/// A reply, unchunked.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("an ASCII head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut rest = &bytes[end + 4..];
        let mut body = Vec::new();
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            loop {
                let line = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk size");
                let size = std::str::from_utf8(&rest[..line]).expect("digits");
                let size = usize::from_str_radix(size, 16).expect("hexadecimal");
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&rest[line + 2..line + 2 + size]);
                rest = &rest[line + 4 + size..];
            }
        } else {
            body.extend_from_slice(rest);
        }
        Self { status, head, body: String::from_utf8(body).expect("a UTF-8 body") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = |l: &'_ str| l.split_once(": ").is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(|l| line(l)).and_then(|l| l.split_once(": ")).map(|(_, v)| v)
    }

    /// The `data:` payloads; every other line must be empty or a comment.
    pub fn events(&self) -> Vec<String> {
        assert!(self.body.ends_with("\n\n"), "the last event is whole: {}", self.body);
        let lines = self.body.lines().filter(|l| !l.is_empty() && !l.starts_with(':'));
        lines.map(|l| l.strip_prefix("data: ").expect("only data lines").to_owned()).collect()
    }
}
