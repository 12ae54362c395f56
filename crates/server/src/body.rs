//! Reading request bodies within bounds: of one body, of all bodies together, and of time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use ingle_api::RequestError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::App;
use crate::error::Failure;
use crate::recording::Kept;
use crate::routes::Context;

/// A body that trickles slower than this, after the first [`SLACK`], is cut off.
const BYTES_PER_S_MIN: u64 = 16 * 1024;
/// How long any body may take.
const SLACK: Duration = Duration::from_secs(20);

/// When more than these bytes must have come of a body that began then.
pub(crate) fn deadline(started: Instant, n_bytes: u64) -> Instant {
    started + SLACK + Duration::from_secs(n_bytes / BYTES_PER_S_MIN)
}

/// Bodies up to this size are parsed where they were read, and their requests are started there.
pub(crate) const INLINE_BYTES_MAX: usize = 256 * 1024;

/// A body, and its share of the memory that all bodies may take.
pub(crate) struct BoundedBody {
    pub bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl BoundedBody {
    /// A body that the server wrote itself, and has bounds of its own for.
    pub fn own(bytes: Vec<u8>) -> Self {
        Self { bytes, _share: None }
    }

    /// What is kept of it once it is parsed; the body itself only if its request is recorded.
    pub fn kept(&self, app: &App, context: &Context) -> Kept {
        let is_recorded = app.config.records.is_some() || context.rerun.is_some();
        let body = is_recorded.then(|| Arc::from(self.bytes.as_slice()));
        Kept { is_large: self.is_large(), body, ..Kept::default() }
    }

    /// Whether work on the whole of it must not be done where it would keep others waiting.
    pub fn is_large(&self) -> bool {
        self.bytes.len() > INLINE_BYTES_MAX
    }
}

/// Reads a JSON body.
pub(crate) async fn read_json(app: &App, headers: &HeaderMap, body: Body) -> Result<BoundedBody, Failure> {
    if !is_json(headers) {
        return Err(Failure::UnsupportedMediaType);
    }
    read(app, headers, body).await
}

/// Reads a JSON body whatever it is called: Ollama asks for no type, so many of its clients, curl first of all, send
/// none or another. Pages of sites are not among them: browsers say where those are from.
pub(crate) async fn read_any_json(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<BoundedBody, Failure> {
    let of_a_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if !is_plain(headers) || of_a_page && !is_json(headers) {
        return Err(Failure::UnsupportedMediaType);
    }
    read(app, headers, body).await
}

async fn read(app: &App, headers: &HeaderMap, mut body: Body) -> Result<BoundedBody, Failure> {
    let max = app.config.body_bytes_max;
    let too_large = || Failure::BodyTooLarge { bytes_max: max };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > max as u64) {
        return Err(too_large());
    }
    let started = Instant::now();
    let mut bytes = Vec::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    loop {
        let Ok(frame) = timeout_at(deadline(started, bytes.len() as u64), body.frame()).await else {
            return Err(Failure::BodyTimeout);
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Failure::BodyBroken)?.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(too_large());
        }
        let held_kib = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted_kib = (bytes.len() + data.len()).div_ceil(1024);
        if wanted_kib > held_kib {
            let more =
                Semaphore::try_acquire_many_owned(app.body_budget.clone(), (wanted_kib - held_kib) as u32)
                    .map_err(|_| Failure::TooManyBodies)?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
        }
        bytes.extend_from_slice(&data);
    }
    Ok(BoundedBody { bytes, _share: share })
}

/// Reads a body's JSON with `parse`, which a large body must not make others wait for.
pub(crate) async fn parse<T: Send + 'static>(
    body: BoundedBody,
    parse: impl FnOnce(&[u8]) -> Result<T, RequestError> + Send + 'static,
) -> Result<T, Failure> {
    if !body.is_large() {
        return Ok(parse(&body.bytes)?);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&body.bytes)).await;
    Ok(parsed.map_err(|_| Failure::Panicked)??)
}

/// A page of another site can send other types without asking first; so only JSON is read.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") && is_plain(headers)
}

/// Whether a body is as it looks, and not compressed.
fn is_plain(headers: &HeaderMap) -> bool {
    let identity = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"identity");
    headers.get(header::CONTENT_ENCODING).is_none_or(identity)
}
