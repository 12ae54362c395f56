//! Listening, accepting, and one connection's life, with its limits.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::App;
use crate::config::ServeError;
use crate::phase::Phase;

/// The largest request head in bytes; also what is buffered per connection while a body is read.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most header fields of a request.
const HEADERS_MAX: usize = 100;
/// How long to wait when the system has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: tokio::net::UnixListener,
        _file: SocketFile,
    },
}

/// A socket's file, removed when nobody listens on it any more.
#[cfg(unix)]
pub(crate) struct SocketFile(std::path::PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub async fn tcp(addr: SocketAddr) -> Result<Self, ServeError> {
        let bound = TcpListener::bind(addr).await;
        bound.map(Self::Tcp).map_err(|source| ServeError::Bind { addr: addr.to_string(), source })
    }

    #[cfg(unix)]
    pub async fn unix(path: &Path) -> Result<Self, ServeError> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let error = |source| ServeError::Bind { addr: path.display().to_string(), source };
        // A socket that nobody answers is left over from a server that was killed.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
            std::fs::remove_file(path).map_err(error)?;
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(error)?;
        let _file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
        Ok(Self::Unix { listener, _file })
    }

    #[cfg(not(unix))]
    pub async fn unix(path: &Path) -> Result<Self, ServeError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        Err(ServeError::Bind { addr: path.display().to_string(), source })
    }

    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix { .. } => None,
        }
    }

    /// Accepts until shutdown begins. A connection holds one permit for as long as it lives.
    pub async fn accept(self, router: Router, connections: Arc<Semaphore>, app: Arc<App>) {
        let mut draining = pin!(app.phases.reached(Phase::Draining));
        loop {
            let next = async {
                let permit = connections.clone().acquire_owned().await.expect("never closed");
                (permit, self.next(app.config.io_timeout).await)
            };
            let (permit, stream) = tokio::select! {
                next = next => next,
                () = &mut draining => return,
            };
            match stream {
                Ok(stream) => {
                    let (router, app) = (router.clone(), app.clone());
                    tokio::spawn(async move {
                        serve_connection(stream, router, app).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn next(&self, limit: Duration) -> io::Result<Pin<Box<dyn Stream>>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Tokens are small and should not wait for company. A refusal only costs time, and a peer that has
                // gone already is noticed where it is served.
                let _ = stream.set_nodelay(true);
                let _ = watch_peer(&stream, limit);
                Ok(Box::pin(stream))
            }
            #[cfg(unix)]
            Self::Unix { listener, .. } => Ok(Box::pin(listener.accept().await?.0)),
        }
    }
}

/// Has the system end a connection whose peer acknowledges nothing for about this long: one that lost its network or its
/// power says no goodbye, and what is written to it goes into the system's buffers without a stall.
fn watch_peer(stream: &tokio::net::TcpStream, limit: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    let at_least_1_s = |time: Duration| time.max(Duration::from_secs(1));
    let probes = socket2::TcpKeepalive::new()
        .with_time(at_least_1_s(limit / 2))
        .with_interval(at_least_1_s(limit / 6));
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(at_least_1_s(limit)))?;
    Ok(())
}

/// Either kind of socket.
trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

async fn serve_connection(stream: Pin<Box<dyn Stream>>, router: Router, app: Arc<App>) {
    let busy = Arc::new(AtomicBool::new(false));
    let stream =
        Watched { stream, limit: app.config.io_timeout, stalled: None, app: app.clone(), busy: busy.clone() };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let busy = Busy::new(&busy);
        let reply = router.call(request);
        async move { reply.await.map(|reply| reply.map(|body| BusyBody { body, _busy: busy })) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.io_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(app.phases.reached(Phase::Draining));
    let mut closed = pin!(app.phases.reached(Phase::Closed));
    let mut is_draining = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(e) = result {
                    tracing::debug!("connection ended: {e}");
                }
                return;
            }
            () = &mut draining, if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut closed => return,
        }
    }
}

/// Says that a connection has a request whose reply is not complete.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(busy: &Arc<AtomicBool>) -> Self {
        busy.store(true, Ordering::Relaxed);
        Self(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A reply's body; its connection is busy until it is sent.
struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose peer must take what is written within a time limit: a client that stops reading would otherwise
/// hold its answer, and the KV blocks behind it, for ever. And one that has nothing more to read once the server
/// shuts down and no request is being answered: who has connected and asked nothing yet, or half of something, would
/// otherwise hold up the shutdown until its own time limit.
struct Watched {
    stream: Pin<Box<dyn Stream>>,
    limit: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    app: Arc<App>,
    /// Whether a request is being answered.
    busy: Arc<AtomicBool>,
}

impl Watched {
    fn watch<T>(&mut self, cx: &mut Context, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = self.limit;
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_read(cx, buf);
        // The connection's task is woken when draining begins, so this is looked at then.
        let awaited = self.busy.load(Ordering::Relaxed) || self.stalled.is_some();
        if polled.is_pending() && !awaited && self.app.phases.now() != Phase::Running {
            return Poll::Ready(Ok(())); // as if the peer had closed
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bufs: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_shutdown(cx);
        self.watch(cx, polled)
    }
}
