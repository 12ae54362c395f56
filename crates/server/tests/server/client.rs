//! A small HTTP/1.1 client that shows exactly what came, and servers to point it at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_chat::Provider;
use ingle_server::{ProviderSlot, Server, ServerConfig};
pub use ingle_testkit::reply::Reply;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::described;
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
            assert!(begun.elapsed() < Duration::from_secs(30), "an answer was not dropped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Running {
    /// Posts what answers after the gate, and opens that when `sign` has come so many times. Gives what there is at the end.
    pub async fn post_through_gate(&self, path: &str, body: Value, sign: &str, n_signs: usize) -> Reply {
        let body = body.to_string();
        let message = post_head(path, "", body.len()) + &body;
        let mut stream = self.connect().await;
        stream.write_all(message.as_bytes()).await.expect("the server reads");
        let mut bytes = Vec::new();
        let reading = async {
            while stream.read_buf(&mut bytes).await.expect("the server writes") > 0 {
                if String::from_utf8_lossy(&bytes).matches(sign).count() >= n_signs {
                    self.provider.open();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("a reply in time");
        let reply = Reply::parse(&bytes);
        described::check(message.as_bytes(), &reply);
        reply
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
        let read = tokio::time::timeout(Duration::from_secs(60), read).await.expect("a reply in time");
        if bytes.is_empty() {
            read.expect("a reply");
        }
        let reply = Reply::parse(&bytes);
        described::check(message, &reply);
        reply
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
