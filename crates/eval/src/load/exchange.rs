//! One request and its whole reply, for commands that ask a server something.

use std::sync::Arc;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::call::{Failure, FailureKind};
use super::http::{Client, Dial, Target};

/// The largest reply.
const BYTES_MAX: usize = 16 << 20;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Asks a server with this key: with a body by POST, without one by GET.
///
/// # Errors
/// If it cannot be reached, or its reply breaks off or is too large. Statuses are no errors here.
pub async fn exchange(
    target: Target,
    dial: Arc<dyn Dial>,
    path: &str,
    key: Option<&str>,
    body: Option<String>,
) -> Result<Exchanged, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Failure::new(FailureKind::Connect, "the key has characters that cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let client = Client::new(target, dial, headers);
    let mut reply = client.send(method, path, Bytes::from(body.unwrap_or_default())).await?;
    let status = reply.status();
    let body = reply.rest(BYTES_MAX + 1).await?;
    if body.len() > BYTES_MAX {
        let message = format!("the reply has more than the {BYTES_MAX} bytes that are read");
        return Err(Failure::new(FailureKind::Disconnected, message));
    }
    Ok(Exchanged { status, body })
}
