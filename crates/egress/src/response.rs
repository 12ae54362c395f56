//! An answer: its head, and its body piece by piece or as a whole within a bound.

use std::time::Duration;

use bytes::Bytes;

use crate::error::EgressError;
use crate::retry::http_date;
use crate::target::Target;

/// Longest part of an error's body that is shown, in characters.
const MESSAGE_CHARS_MAX: usize = 300;
/// Most bytes of an error's body that are read.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// How long a body may take that is read as a whole, as a multiple of how long it may be silent: who drips a byte now and
/// then does not keep anybody waiting for ever.
const WHOLE_IDLES_MAX: u32 = 10;
/// How much older than the answer a change must be to tell versions apart, in seconds: clocks count whole ones, and those
/// of a site differ.
const MODIFIED_AGE_MIN: u64 = 60;

/// An answer whose head has come.
#[derive(Debug)]
pub struct Response {
    pub(crate) inner: reqwest::Response,
    /// Who answered, after redirects.
    pub(crate) target: Target,
    pub(crate) idle: Duration,
}

impl Response {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Who answered: where the last redirect led.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A header that is text; the first, if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// What `Content-Length` says, also of an answer to HEAD.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// What `Last-Modified` says, if that tells versions apart: the file may have changed twice within the second that it
    /// names, unless that is a while ago by the server's own clock (RFC 9110, 8.8.2.2).
    pub fn last_modified(&self) -> Option<&str> {
        let text = self.header("last-modified")?;
        let (modified, now) = (http_date(text)?, http_date(self.header("date")?)?);
        (now.checked_sub(modified)? >= MODIFIED_AGE_MIN).then_some(text)
    }

    /// What `Content-Range` says: the first byte, the end, and the size of the whole if it is known (RFC 9110, 14.4).
    pub fn content_range(&self) -> Option<(u64, u64, Option<u64>)> {
        let (range, size) = self.header("content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let size = if size == "*" { None } else { Some(size.parse().ok()?) };
        let end = last.checked_add(1)?;
        (first < end && size.is_none_or(|size| end <= size)).then_some((first, end, size))
    }

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// If the connection breaks before the promised end, or nothing comes for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, EgressError> {
        let (host, after) = (self.target.authority(), self.idle);
        match tokio::time::timeout(after, self.inner.chunk()).await {
            Err(_) => Err(EgressError::Timeout { host, what: "the body stalled", after }),
            Ok(Err(error)) => Err(EgressError::Broken { host, problem: in_words(&error) }),
            Ok(Ok(piece)) => Ok(piece),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`EgressError::TooLarge`] beyond `max` bytes, [`EgressError::Timeout`] if it takes ten times as long as a body may
    /// be silent, or as [`chunk`](Self::chunk).
    pub async fn bytes(self, max: u64) -> Result<Vec<u8>, EgressError> {
        let (host, after) = (self.target.authority(), self.idle * WHOLE_IDLES_MAX);
        let stalled = |_| EgressError::Timeout { host, what: "the body did not end", after };
        tokio::time::timeout(after, self.whole(max)).await.map_err(stalled)?
    }

    async fn whole(mut self, max: u64) -> Result<Vec<u8>, EgressError> {
        let too_large = |target: &Target| EgressError::TooLarge { url: target.to_string(), max };
        if self.content_length().is_some_and(|length| length > max) {
            return Err(too_large(&self.target));
        }
        let mut body = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if (body.len() + piece.len()) as u64 > max {
                return Err(too_large(&self.target));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The answer, if its status is a success.
    ///
    /// # Errors
    /// [`EgressError::Status`] with what the body says.
    pub async fn success(self) -> Result<Self, EgressError> {
        if (200..300).contains(&self.status()) { Ok(self) } else { Err(self.into_error().await) }
    }

    /// What an answer says that is no success.
    pub async fn into_error(self) -> EgressError {
        let (url, status) = (self.target.to_string(), self.status());
        let said = self.header("x-error-message").map(str::to_owned);
        let message = match said {
            Some(message) => message,
            None => self.bytes(MESSAGE_BYTES_MAX).await.map_or(String::new(), |body| message_of(&body)),
        };
        EgressError::Status { url, status, message: message.chars().take(MESSAGE_CHARS_MAX).collect() }
    }
}

/// What an error's body says: `error` as text or with a `message`, or OCI's `errors`; else the text if it is one line.
fn message_of(body: &[u8]) -> String {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        let places = ["/error", "/error/message", "/errors/0/message", "/message"];
        let found = places.iter().find_map(|place| json.pointer(place).and_then(|value| value.as_str()));
        return found.map_or(String::new(), shown);
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.contains('\n') || text.starts_with('<') { String::new() } else { shown(text) }
}

/// Without what a terminal could take for a command.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// An error of the client and what it is about, without the URL, which may hold a signature.
pub(crate) fn in_words(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text = if text.is_empty() { said } else { format!("{text}: {said}") };
        }
        cause = inner.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_errors() {
        for (body, expected) in [
            (r#"{"error":"Repository not found"}"#, "Repository not found"),
            (r#"{"error":{"message":"no"}}"#, "no"),
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#, "manifest unknown"),
            (r#"{"x":1}"#, ""),
            ("Not Found\n", "Not Found"),
            ("<html><body>x</body></html>", ""),
            ("two\nlines", ""),
            ("bell\u{7}\u{1b}[2J", "bell[2J"),
        ] {
            assert_eq!(message_of(body.as_bytes()), expected, "{body}");
        }
    }
}
