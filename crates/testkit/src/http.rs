//! A small HTTP/1.1 server on loopback whose faults are its purpose: it can cut a body, drip it, promise a length that is
//! not true, or stay silent. It remembers each request that it got. Plain threads and blocking sockets, so that what goes
//! over the wire is what is written here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest request line or header.
const LINE_BYTES_MAX: u64 = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Largest body of a request.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// How much is written at a time.
const PIECE: usize = 64 << 10;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` and so on.
    pub method: String,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// What stands behind `?`, or nothing.
    pub query: String,
    /// Names in lower case, values trimmed.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of a name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The decoded value of a name in the query.
    pub fn param(&self, name: &str) -> Option<String> {
        let pair = self.query.split('&').find_map(|pair| {
            let (n, value) = pair.split_once('=').unwrap_or((pair, ""));
            (n == name).then_some(value)
        })?;
        Some(decode(&pair.replace('+', " ")))
    }

    /// Everything that came, as text: to look for what must not have come.
    pub fn text(&self) -> String {
        let mut text = format!("{} {}?{}\n", self.method, self.path, self.query);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\n");
        }
        text + &String::from_utf8_lossy(&self.body)
    }

    /// The bytes that `Range` asks for of so many: `None` without the header, an error if none can be had.
    pub fn range(&self, size: u64) -> Option<Result<(u64, u64), ()>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let first: u64 = first.parse().ok()?;
        let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
        Some(if first < end { Ok((first, end)) } else { Err(()) })
    }
}

/// Text with its percent-encoding undone.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(b)) => (out.push(b), i += 3).1,
            (b, _) => (out.push(b), i += 1).1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer, and how it is delivered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers; `Content-Length` is added unless it is among them.
    pub headers: Vec<(String, String)>,
    /// The body; of an answer to HEAD only its length is used.
    pub body: Arc<[u8]>,
    /// The part of the body that is sent; all by default.
    pub part: Option<(u64, u64)>,
    /// The connection is cut after so many bytes of the body.
    pub cut_after: Option<u64>,
    /// A pause after each 64 KiB.
    pub pause: Duration,
    /// A pause before the head.
    pub silence: Duration,
}

impl Reply {
    /// An answer without body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// An answer with a body.
    pub fn new(status: u16, content_type: &str, body: impl Into<Arc<[u8]>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }.with("Content-Type", content_type)
    }

    /// JSON.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string().into_bytes())
    }

    /// A redirect.
    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Self::status(status).with("Location", location)
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

struct Shared {
    requests: Mutex<Vec<Request>>,
    is_over: AtomicBool,
    handler: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// A server on a free port of loopback.
    ///
    /// # Panics
    /// If there is no port to be had.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(([127, 0, 0, 1], 0).into(), handler).expect("a free port")
    }

    /// A server on an address.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start_on(
        address: SocketAddr,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (requests, is_over) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { requests, is_over, handler: Box::new(handler) });
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, of_thread.clone()) else { continue };
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All requests since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// One connection until it ends.
fn serve(stream: &TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let mut seen = request.clone();
        // Uploads are large; what is looked at afterwards is the head and small bodies.
        seen.body.truncate(4096);
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        let reply = (shared.handler)(&request);
        let closes = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !write(stream, &request, &reply).unwrap_or(false) || closes {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    // A proxy is asked with the whole URL.
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        if headers.len() > HEADERS_MAX {
            return None;
        }
    }
    let mut request = Request { method, path, query, headers, body: Vec::new() };
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        let mut stream: &TcpStream = reader.get_ref();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        request.body = read_chunks(reader)?;
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().ok().filter(|length| *length <= BODY_BYTES_MAX)?;
        reader.take(length).read_to_end(&mut request.body).ok()?;
        if request.body.len() as u64 != length {
            return None;
        }
    }
    Some(request)
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = u64::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            return None;
        }
        reader.by_ref().take(size).read_to_end(&mut body).ok()?;
        read_line(reader)?;
        if size == 0 {
            return Some(body);
        }
    }
}

fn read_line(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).ok()?;
    Some(line.strip_suffix('\n')?.trim_end_matches('\r').to_owned())
}

/// Whether the connection can go on.
fn write(mut stream: &TcpStream, request: &Request, reply: &Reply) -> std::io::Result<bool> {
    std::thread::sleep(reply.silence);
    let (start, end) = reply.part.unwrap_or((0, reply.body.len() as u64));
    let body = &reply.body[start as usize..end as usize];
    let mut head = format!("HTTP/1.1 {} Reply\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let promised = reply.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if promised.is_none() && reply.status != 204 && reply.status != 304 {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let sent = reply.cut_after.map_or(body, |n| &body[..body.len().min(n as usize)]);
    for piece in sent.chunks(PIECE) {
        stream.write_all(piece)?;
        std::thread::sleep(reply.pause);
    }
    // Where the promise was not kept, only the end of the connection can tell.
    let kept = promised.is_none_or(|(_, length)| *length == body.len().to_string());
    Ok(kept && sent.len() == body.len())
}
