//! Files: uploads as they come, lists, contents piece by piece.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, ready};

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Multipart, Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use ingle_api::RequestError;
use ingle_api::openai::files::{
    self as wire, FIELD_BYTES_MAX, FileListOptions, FileObject, UploadCall, UploadForm,
};
use ingle_ledger::{FileQuery, Files, LedgerError, StoredFile, Upload};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::{Context, Reply, now, unique};
use crate::App;
use crate::auth::is_foreign_form;
use crate::body::deadline;
use crate::error::{Failure, json};
use crate::query::pairs;

/// What is kept of an upload in memory before it is written.
const PIECE_BYTES: usize = 1 << 20;
/// What is read of a form ahead of what is taken of its parts. The form's reader takes whatever comes, also in search of
/// the end of a part's head, and there need not be one.
const AHEAD_BYTES_MAX: u64 = 256 * 1024;
/// An upload's share of the memory that bodies may take: a piece, and what is read of the next.
const UPLOAD_KIB: u32 = 2048;
/// What a form may have beside its file.
const FORM_BYTES_MAX: u64 = 64 * 1024;
/// Pieces of a content that are read ahead of whoever takes them.
const PIECES_AHEAD: usize = 1;

/// The files, or why there are none.
pub(super) fn files(app: &App) -> Result<&Arc<Files>, Failure> {
    app.config.files.as_ref().ok_or(Failure::StoresNoFiles)
}

pub(super) async fn upload(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Reply {
    let files = files(&app)?.clone();
    if is_foreign_form(&app.config, request.headers()) {
        return Err(Failure::ForeignCaller);
    }
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let bytes_max = files.limits().file_bytes_max;
    if announced.is_some_and(|n: u64| n > bytes_max.saturating_add(FORM_BYTES_MAX)) {
        return Err(LedgerError::FileTooLarge { bytes_max }.into());
    }
    let (parts, body) = request.into_parts();
    let gate = Arc::new(Gate::default());
    let body = Body::from_stream(Gated { body, read: 0, gate: gate.clone() });
    let request = Request::from_parts(parts, body);
    let multipart = Multipart::from_request(request, &()).await.map_err(|_| Failure::NoForm)?;
    let share = Semaphore::try_acquire_many_owned(app.body_budget.clone(), UPLOAD_KIB)
        .map_err(|_| Failure::TooManyBodies)?;
    // In a task of its own: what is begun is ended, whether or not the client stays.
    let task = tokio::spawn(async move {
        let _share = share;
        receive(&files, &context, &gate, multipart).await
    });
    let file = task.await.map_err(|_| Failure::Panicked)??;
    Ok(json(StatusCode::OK, shown(file).into_json()))
}

/// Where the reading of a form stands.
#[derive(Default)]
struct Gate {
    /// Bytes that were taken of the form's parts.
    taken: AtomicU64,
    /// Whether no more is read until something is taken.
    is_closed: AtomicBool,
}

/// A form's bytes, as long as its reader keeps up.
struct Gated {
    body: Body,
    read: u64,
    gate: Arc<Gate>,
}

impl Stream for Gated {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext) -> Poll<Option<Self::Item>> {
        loop {
            let is_closed = self.read - self.gate.taken.load(Ordering::Relaxed) > AHEAD_BYTES_MAX;
            self.gate.is_closed.store(is_closed, Ordering::Relaxed);
            if is_closed {
                // Nobody is to be woken: whoever takes something asks again.
                return Poll::Pending;
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => frame,
            };
            if let Ok(data) = frame.into_data() {
                self.read += data.len() as u64;
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

async fn receive(
    files: &Files,
    context: &Context,
    gate: &Gate,
    multipart: Multipart,
) -> Result<StoredFile, Failure> {
    let mut upload = None;
    let read = read_form(files, context, gate, multipart, &mut upload).await;
    let Some(upload) = upload else {
        // Without a file it is refused; which is not to be told apart by types.
        let missing = || RequestError::field("file", "`file` is missing").into();
        return Err(read.err().unwrap_or_else(missing));
    };
    match read {
        Ok(UploadCall { purpose, name, ttl_s }) => {
            Ok(files.finish_upload(upload, &name, &purpose, ttl_s).await?)
        }
        Err(failure) => {
            files.discard(upload).await?;
            Err(failure)
        }
    }
}

async fn read_form(
    files: &Files,
    context: &Context,
    gate: &Gate,
    mut multipart: Multipart,
    upload: &mut Option<Upload>,
) -> Result<UploadCall, Failure> {
    let started = Instant::now();
    let mut form = UploadForm::default();
    loop {
        let taken = gate.taken.load(Ordering::Relaxed);
        let mut next_field = Box::pin(multipart.next_field());
        let next = poll_fn(|cx| match next_field.as_mut().poll(cx) {
            Poll::Pending if gate.is_closed.load(Ordering::Relaxed) => Poll::Ready(Err(Failure::BodyBroken)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(next) => Poll::Ready(next.map_err(|e| broken(&e))),
        });
        let next = timeout_at(deadline(started, taken), next).await.map_err(|_| Failure::BodyTimeout)?;
        let Some(mut field) = next? else { break };
        match field.name().map(str::to_owned).as_deref() {
            Some("file") => {
                form.file(field.file_name())?;
                let id = format!("file-{}", unique());
                let upload = upload.insert(files.begin_upload(&context.principal.tenant, &id, now()).await?);
                let mut piece = Vec::new();
                while let Some(chunk) = next_chunk(&mut field, started, gate).await? {
                    piece.extend_from_slice(&chunk);
                    if piece.len() >= PIECE_BYTES {
                        files.append(upload, &piece).await?;
                        piece.clear();
                    }
                }
                if !piece.is_empty() {
                    files.append(upload, &piece).await?;
                }
            }
            Some(name) => {
                let mut value = Vec::new();
                while let Some(chunk) = next_chunk(&mut field, started, gate).await? {
                    if value.len() + chunk.len() > FIELD_BYTES_MAX {
                        let shown = ingle_api::shown(name);
                        let text = format!("`{shown}` has more than {FIELD_BYTES_MAX} bytes");
                        return Err(RequestError::field(shown, text).into());
                    }
                    value.extend_from_slice(&chunk);
                }
                let value = String::from_utf8(value).map_err(|_| {
                    let shown = ingle_api::shown(name);
                    RequestError::field(&*shown, format!("`{shown}` is not valid UTF-8"))
                })?;
                form.field(name, value)?;
            }
            None => return Err(RequestError::body("a part of the form has no name").into()),
        }
    }
    Ok(form.finish()?)
}

async fn next_chunk(field: &mut Field<'_>, started: Instant, gate: &Gate) -> Result<Option<Bytes>, Failure> {
    let deadline = deadline(started, gate.taken.load(Ordering::Relaxed));
    let chunk = timeout_at(deadline, field.chunk()).await;
    let chunk = chunk.map_err(|_| Failure::BodyTimeout)?.map_err(|e| broken(&e))?;
    let n_bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
    gate.taken.fetch_add(n_bytes, Ordering::Relaxed);
    Ok(chunk)
}

/// What an error of the form's reader means.
fn broken(error: &MultipartError) -> Failure {
    tracing::debug!("a form could not be read: {}", error.body_text());
    Failure::BodyBroken
}

fn shown(file: StoredFile) -> FileObject {
    let StoredFile { id, name, purpose, bytes, created_at, expires_at, .. } = file;
    FileObject { expires_at, ..FileObject::new(id, name, purpose, bytes, created_at) }
}

/// The id in a path; one that is no text is no file's.
pub(super) fn path_id(id: Result<Path<String>, PathRejection>) -> Result<String, Failure> {
    let Path(id) = id.map_err(|_| Failure::NotFound)?;
    Ok(id)
}

async fn find(
    app: &App,
    context: &Context,
    id: Result<Path<String>, PathRejection>,
) -> Result<StoredFile, Failure> {
    let id = path_id(id)?;
    let found = files(app)?.file(&context.principal.tenant, &id, now()).await?;
    Ok(found.ok_or_else(|| LedgerError::NoSuchFile { id: ingle_api::shown(&id) })?)
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    RawQuery(query): RawQuery,
) -> Reply {
    let query = pairs(query.as_deref().unwrap_or_default());
    let options = FileListOptions::parse(query.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    let FileListOptions { purpose, after, limit, newest_first } = options;
    let after = after.map(|id| ingle_api::shown(&id));
    let query = FileQuery { purpose, after, limit, newest_first };
    let page = files(&app)?.files(&context.principal.tenant, &query, now()).await?;
    let items: Vec<FileObject> = page.items.into_iter().map(shown).collect();
    Ok(json(StatusCode::OK, wire::list(&items, page.has_more)))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    Ok(json(StatusCode::OK, shown(find(&app, &context, id).await?).into_json()))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let file = find(&app, &context, id).await?;
    if !files(&app)?.delete_file(&context.principal.tenant, &file.id, now()).await? {
        return Err(LedgerError::NoSuchFile { id: file.id }.into());
    }
    Ok(json(StatusCode::OK, wire::deleted(&file.id)))
}

pub(super) async fn content(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let file = find(&app, &context, id).await?;
    let files = files(&app)?.clone();
    let mut reader = files.read(&file);
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let bytes = file.bytes;
    tokio::spawn(async move {
        let mut left = bytes;
        while left > 0 {
            let piece = match files.next_piece(&mut reader).await {
                Ok(Some(piece)) => Ok(Bytes::from(piece)),
                // What is missing must not look like the end.
                Ok(None) => Err(std::io::Error::other("the file was deleted while it was read")),
                Err(error) => Err(std::io::Error::other(error.to_string())),
            };
            left = left.saturating_sub(piece.as_ref().map_or(left, |piece| piece.len() as u64));
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Body::from_stream(Pieces(pieces)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{}\"", file.name)) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// A file's pieces as they are read.
struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
