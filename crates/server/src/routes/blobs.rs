//! `/api/blobs/{digest}`: whether a blob is here, its bytes for other nodes, and uploads of what a model will be made of.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_core::Stream;
use http_body_util::BodyExt;
use ingle_api::RequestError;
use ingle_chat::ProviderError;
use ingle_store::{Digest, Expect, Staged, StoreError};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::models::check_scope;
use super::pull::transfers;
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::auth::is_foreign_form;
use crate::body::deadline;
use crate::error::Failure;
use crate::store::told;

/// How much is read or written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// An upload's share of the memory that bodies may take.
const UPLOAD_KIB: u32 = 2048;

/// All methods.
pub(super) fn routes() -> Routes {
    Routes::default().route("/api/blobs/{digest}", get(content).head(about).post(upload))
}

/// `sha256:` or `sha256-` and 64 digits; anything else is refused before it could be a path.
fn digest(text: &str) -> Result<Digest, Failure> {
    let parsed = text.parse().ok().or_else(|| Digest::from_file_name(text));
    let message = "a blob's digest is `sha256:` and 64 digits, a to f in lower case";
    parsed.ok_or_else(|| RequestError::field("digest", message).into())
}

/// The blob's file and size, if it is here. One that was found to be damaged is not: then it is sent again.
async fn find(app: &App, context: &Context, text: &str) -> Result<(PathBuf, u64), Failure> {
    check_scope(app, &context.principal)?;
    let digest = digest(text)?;
    let store = transfers(app)?.store().clone();
    let look = move || {
        let path = store.blob(&digest)?;
        Ok(path.and_then(|path| std::fs::metadata(&path).ok().map(|found| (path, found.len()))))
    };
    let found = blocking(look).await?;
    found.ok_or_else(|| Failure::NoSuchModel(format!("there is no blob {digest} here")))
}

async fn about(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    Path(text): Path<String>,
) -> Reply {
    let (_, size) = find(&app, &context, &text).await?;
    Ok(head(StatusCode::OK, size))
}

/// The head of an answer about so many bytes.
fn head(status: StatusCode, n_bytes: u64) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, n_bytes.into());
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    response
}

async fn content(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let (path, size) = find(&app, &context, &text).await?;
    let asked =
        headers.get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(|text| range(text, size));
    let (status, range) = match asked {
        None => (StatusCode::OK, 0..size),
        Some(Some(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(None) => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            let value = header::HeaderValue::try_from(format!("bytes */{size}")).expect("digits");
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            return Ok(response);
        }
    };
    let mut response = head(status, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response
            .headers_mut()
            .insert(header::CONTENT_RANGE, header::HeaderValue::try_from(value).expect("digits"));
    }
    *response.body_mut() = Body::from_stream(Pieces::of(path, range));
    Ok(response)
}

/// The one range that a header asks for; `Some(None)` if the file has no such bytes, `None` if it asks for something
/// else, which may be passed over (RFC 9110, 14.2).
fn range(text: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.parse::<u64>().ok(), last.parse::<u64>().ok()) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(n)) if first.is_empty() => (size.saturating_sub(n), size),
        _ => return None,
    };
    Some((start < end).then_some(start..end))
}

/// A file's bytes, read a piece ahead of whoever takes them.
struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl Pieces {
    fn of(path: PathBuf, range: Range<u64>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut at = range.start;
            while at < range.end {
                let (path, n) = (path.clone(), (range.end - at).min(PIECE_BYTES as u64));
                let read = tokio::task::spawn_blocking(move || read_piece(&path, at, n)).await;
                let piece = read.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
                let is_last = piece.is_err();
                if sender.send(piece).await.is_err() || is_last {
                    return;
                }
                at += n;
            }
        });
        Self(receiver)
    }
}

fn read_piece(path: &std::path::Path, at: u64, n: u64) -> std::io::Result<Bytes> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::with_capacity(n as usize);
    file.take(n).read_to_end(&mut bytes)?;
    // A promise of a length is kept or the connection breaks.
    if (bytes.len() as u64) < n { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes.into()) }
}

impl Stream for Pieces {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

async fn upload(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    check_scope(&app, &context.principal)?;
    if is_foreign_form(&app.config, &headers) {
        return Err(Failure::ForeignCaller);
    }
    let digest = digest(&text)?;
    let (uploads, store) = (transfers(&app)?.uploads().clone(), transfers(&app)?.store().clone());
    let session = uploads.session(digest, &store);
    let size = body.size_hint().exact();
    let pinned = session.clone();
    if blocking(move || pinned.pin(&digest, size)).await?.is_some() {
        return Ok(StatusCode::OK.into_response());
    }
    let _share = Semaphore::try_acquire_many_owned(app.body_budget.clone(), UPLOAD_KIB)
        .map_err(|_| Failure::TooManyBodies)?;
    let expect = Expect { digest: Some(digest), size, source: None };
    let of_stage = session.clone();
    let staged = blocking(move || of_stage.stage(expect)).await?;
    let staged = receive(staged, body).await?;
    blocking(move || staged.commit()).await?;
    uploads.keep(digest, session);
    Ok(StatusCode::CREATED.into_response())
}

/// Writes a body as it comes.
async fn receive(staged: Staged, mut body: Body) -> Result<Staged, Failure> {
    let staged = Arc::new(staged);
    let started = Instant::now();
    let (mut at, mut buffer) = (0u64, Vec::new());
    loop {
        let so_far = at + buffer.len() as u64;
        let frame =
            timeout_at(deadline(started, so_far), body.frame()).await.map_err(|_| Failure::BodyTimeout)?;
        let is_over = frame.is_none();
        if let Some(frame) = frame
            && let Ok(data) = frame.map_err(|_| Failure::BodyBroken)?.into_data()
        {
            buffer.extend_from_slice(&data);
        }
        if buffer.len() >= PIECE_BYTES || (is_over && !buffer.is_empty()) {
            let (piece, to) = (std::mem::take(&mut buffer), staged.clone());
            let n = piece.len() as u64;
            blocking(move || to.write_at(at, &piece)).await?;
            at += n;
        }
        if is_over {
            return Arc::into_inner(staged).ok_or(Failure::Panicked);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::Panicked)?.map_err(failed)
}

/// Whose fault it is.
fn failed(error: StoreError) -> Failure {
    let message = told(&error);
    match error {
        StoreError::WrongContent { .. } | StoreError::WrongSize { .. } | StoreError::OutOfOrder { .. } => {
            RequestError::field("digest", message).into()
        }
        StoreError::Busy(_) => ProviderError::Busy(message).into(),
        _ => ProviderError::Unusable(message).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-9", Some(Some(0..10))),
            ("bytes=5-", Some(Some(5..100))),
            ("bytes=-5", Some(Some(95..100))),
            ("bytes=-500", Some(Some(0..100))),
            ("bytes=90-1000", Some(Some(90..100))),
            ("bytes=99-99", Some(Some(99..100))),
            ("bytes=100-", Some(None)),
            ("bytes=100-200", Some(None)),
            ("bytes=9-5", None),
            ("bytes=0-1,5-6", None),
            ("bytes=x-", None),
            ("items=0-1", None),
            ("bytes=0-18446744073709551615", Some(Some(0..100))),
        ] {
            assert_eq!(range(text, 100), expected, "{text}");
        }
    }

    #[test]
    fn digests() {
        let good = "a".repeat(64);
        assert!(digest(&format!("sha256:{good}")).is_ok() && digest(&format!("sha256-{good}")).is_ok());
        for bad in [
            "",
            "sha256:",
            "sha256:../../x",
            &format!("sha256:{}", &good[1..]),
            &format!("sha256:{}A", &good[1..]),
            &format!("sha512:{good}"),
            &format!("SHA256:{good}"),
            &good,
            &format!("sha256:{good}/.."),
            &format!("sha256_{good}"),
        ] {
            assert!(digest(bad).is_err(), "{bad}");
        }
    }
}
