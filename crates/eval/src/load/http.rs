//! HTTP/1.1 with connections that are kept.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::Uri;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::call::{Failure, FailureKind};

/// Connections that are kept for later, at most.
const IDLE_MAX: usize = 4096;

/// What a connection is.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection in the making.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send + 'a>>;

/// Makes connections: by TCP, or in tests without a network.
pub trait Dial: Send + Sync {
    /// A new connection to this host.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> Dialing<'a>;
}

/// Connections by TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> Dialing<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was given.
    pub url: String,
    host: String,
    port: u16,
    /// What stands before the paths of the API.
    base: String,
    /// What the `Host` header says.
    authority: String,
}

/// Why an address cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// TLS is not built in.
    #[error(
        "`{0}`: https is not built in; give the http:// address of the server itself, or of a proxy that speaks TLS to it"
    )]
    Tls(String),
    /// It is none.
    #[error("`{0}` is no address such as http://127.0.0.1:8080")]
    Malformed(String),
}

impl Target {
    /// Reads `http://host:port`. A path at the end is taken to stand before those of the API; clients' base addresses
    /// end in `/v1`, which is left out.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(TargetError::Tls(url.to_owned())),
            _ => return Err(malformed()),
        }
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(malformed)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || uri.query().is_some() {
            return Err(malformed());
        }
        let base = uri.path().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            base: base.to_owned(),
            authority: authority.as_str().to_owned(),
        })
    }
}

/// Calls one server.
pub(super) struct Client {
    target: Target,
    dial: Arc<dyn Dial>,
    headers: HeaderMap,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// `headers` go with every request.
    pub fn new(target: Target, dial: Arc<dyn Dial>, mut headers: HeaderMap) -> Self {
        let host = HeaderValue::from_str(&target.authority).expect("an authority is printable ASCII");
        headers.insert(HOST, host);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { target, dial, headers, idle: Mutex::default() }
    }

    /// Sends a body; the reply's head, with its body to be read.
    pub async fn post(&self, path: &str, body: Bytes) -> Result<Reply<'_>, Failure> {
        self.send(Method::POST, path, body).await
    }

    /// The same by any method.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply<'_>, Failure> {
        let mut may_keep = true;
        loop {
            let kept =
                if may_keep { self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() } else { None };
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            // A kept connection may have been closed in the meantime; that is no fault of the server's.
            if is_kept && sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(self.request(&method, path, body.clone())).await {
                Ok(response) => return Ok(Reply { client: self, sender, response }),
                // The server closed it just when the request went off: a new connection decides.
                Err(error)
                    if is_kept && (error.message().is_some() || error.error().is_incomplete_message()) =>
                {
                    may_keep = false;
                }
                Err(error) => return Err(broken(&error.into_error())),
            }
        }
    }

    fn request(&self, method: &Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            format!("{}{path}", self.target.base).parse().expect("a path that was read from an address");
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let Target { host, port, .. } = &self.target;
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Connect, format!("cannot connect to {}: {why}", self.target.url))
        };
        let stream = self.dial.dial(host, *port).await.map_err(|error| failed(&error))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // It ends with its sender. What goes wrong on it, the request on it learns.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn broken(error: &hyper::Error) -> Failure {
    use std::error::Error as _;
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(FailureKind::Disconnected, format!("the connection broke: {error}{cause}"))
}

/// A reply whose body is still to be read. Dropped before its end, it closes the connection.
pub(super) struct Reply<'a> {
    client: &'a Client,
    sender: SendRequest<Full<Bytes>>,
    response: Response<Incoming>,
}

impl Reply<'_> {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Whether the body is of this media type, whatever its parameters.
    pub fn is(&self, media_type: &str) -> bool {
        let value = self.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value
            .and_then(|value| value.split(';').next())
            .is_some_and(|t| t.trim().eq_ignore_ascii_case(media_type))
    }

    /// The media type as it is said.
    pub fn media_type(&self) -> String {
        let value = self.response.headers().get(CONTENT_TYPE);
        value.map_or_else(|| "none".into(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers.
                    Err(_) => continue,
                },
            }
        }
    }

    /// The rest of the body, up to `bytes_max`.
    pub async fn rest(&mut self, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut rest = Vec::new();
        while rest.len() < bytes_max {
            let Some(piece) = self.piece().await? else { break };
            rest.extend_from_slice(&piece);
        }
        rest.truncate(bytes_max);
        Ok(rest)
    }

    /// Keeps the connection for the next request, once the body was read to its end.
    pub fn keep(self) {
        let mut idle = self.client.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(self.sender);
        }
    }
}
