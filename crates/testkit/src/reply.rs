//! Replies over HTTP/1.1, as tests see them: exactly what came.

use serde_json::Value;

/// A reply, its body unchunked.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The lines up to the first empty one.
    pub head: String,
    /// What follows.
    pub body: String,
}

impl Reply {
    /// Reads the bytes of a whole reply.
    ///
    /// # Panics
    /// If they are none.
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("an ASCII head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let rest = &bytes[end + 4..];
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { unchunked(rest) } else { rest.to_vec() };
        Self { status, head, body: String::from_utf8(body).expect("a UTF-8 body") }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Names of headers, in small letters, and what they say.
    pub fn headers(&self) -> impl Iterator<Item = (String, &str)> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.map(|(name, value)| (name.to_ascii_lowercase(), value))
    }

    /// What a header says.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The `data:` payloads of a stream of events.
    ///
    /// # Panics
    /// If any other line is neither empty nor a comment.
    pub fn events(&self) -> Vec<String> {
        assert!(self.body.ends_with("\n\n"), "the last event is whole: {}", self.body);
        let lines = self.body.lines().filter(|l| !l.is_empty() && !l.starts_with(':'));
        lines.map(|l| l.strip_prefix("data: ").expect("only data lines").to_owned()).collect()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = std::str::from_utf8(&rest[..line]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal digits");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 4 + size..];
    }
}
