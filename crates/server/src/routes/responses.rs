//! The Responses API, with the responses that are stored.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_core::Stream;
use ingle_api::openai::responses::{
    ListOptions, Reply as ResponseReply, ResponsesCall, ResponsesEncoder, StoredTurn, deleted, input_items,
    is_background, parse as parse_body,
};
use ingle_api::openai::{Caller, ErrorObject};
use ingle_api::record::RecordedTurn;
use ingle_api::{RequestError, StreamEncoder};
use ingle_chat::{Delta, Priority, ProviderError};
use ingle_ledger::{LedgerError, Responses, StoredResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::generate::{address, provider};
use super::{Context, Reply, now, unique};
use crate::App;
use crate::answer::{Answer, Call};
use crate::background::{Begun, begin};
use crate::body::{BoundedBody, INLINE_BYTES_MAX, parse, read_json};
use crate::error::{Failure, json};
use crate::query::pairs;
use crate::sse::EventStream;

/// Where a response goes when it is complete.
struct Shelf {
    responses: Arc<Responses>,
    tenant: String,
    previous_id: Option<String>,
    input: String,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    reply(&app, &context, body).await
}

/// The reply to items, whoever sends them.
pub(crate) async fn reply(app: &Arc<App>, context: &Context, body: BoundedBody) -> Reply {
    let provider = provider(app)?;
    let mut kept = body.kept(app, context);
    let id = format!("resp_{}", unique());
    tracing::Span::current().record("answer", &id);
    let caller = Caller { id: id.clone(), principal: context.principal.clone() };
    let call = parse(body, move |bytes| parse_body(bytes, caller)).await?;
    let shelf = shelf(app, context, &call)?;
    // What is run again is read by nobody later.
    let is_background = call.background && context.rerun.is_none();
    if is_background && (shelf.is_none() || app.config.files.is_none()) {
        let text = "`background` cannot be true: this server stores no responses, or shares its data folder with another; \
                    set it to false, or ask the operator to give the server a data folder of its own";
        return Err(RequestError::field("background", text).with_code("unsupported_value").into());
    }
    let (turns, share) = history(app, context, &call).await?;
    let history_bytes: usize = turns.iter().map(|t| t.input.len() + t.body.len()).sum();
    kept.is_large |= history_bytes > INLINE_BYTES_MAX;
    if kept.body.is_some() {
        let turn = |t: &StoredTurn| RecordedTurn { input: t.input.clone(), body: t.body.clone() };
        kept.history = turns.iter().map(turn).collect();
    }
    let stream = call.stream;
    let (mut request, echo) = if kept.is_large {
        let joined = tokio::task::spawn_blocking(move || call.into_request(&turns)).await;
        joined.map_err(|_| Failure::Panicked)??
    } else {
        call.into_request(&turns)?
    };
    drop(share);
    request.priority = if is_background { Priority::Background } else { context.priority };
    let mut requests = vec![request];
    let envelope = address(app, &*provider, id, &mut requests)?;
    let mut reply = ResponseReply::new(envelope, echo, shelf.is_some());
    let call = Call { requests, kept };
    let mut answer = Answer::start(app, provider, context, call).await?;
    if stream {
        return Ok(streamed(app, answer, ResponsesEncoder::new(reply), shelf));
    }
    if is_background && let Some(shelf) = shelf {
        let body = reply.to_json();
        let (responses, tenant) = (shelf.responses.clone(), shelf.tenant.clone());
        let stored = shelf.stored(&reply, &body);
        begin(app, Begun { responses, tenant, stored, answer, reply }).await?;
        return Ok(json(StatusCode::OK, body));
    }
    answer.each(|_, delta| reply.push(delta)).await?;
    let unfinished = || ProviderError::Internal("a response never finished".into());
    let mut body = reply.finish().ok_or_else(unfinished)?;
    if let Some(shelf) = shelf
        && !stored(shelf.put(&reply, &body)).await
    {
        reply.set_unstored();
        body = reply.finish().ok_or_else(unfinished)?;
    }
    Ok(json(StatusCode::OK, body))
}

/// Where the response to `call` will be stored, if it will be.
fn shelf(app: &App, context: &Context, call: &ResponsesCall) -> Result<Option<Shelf>, Failure> {
    match (&app.config.responses, call.store) {
        _ if context.rerun.is_some() => Ok(None),
        (_, Some(false)) | (None, None) => Ok(None),
        (None, Some(true)) => {
            let text = "`store` cannot be true: this server stores no responses; set it to false, or ask the operator \
                        to give the server a data folder";
            Err(RequestError::field("store", text).with_code("unsupported_value").into())
        }
        (Some(responses), _) => Ok(Some(Shelf {
            responses: responses.clone(),
            tenant: context.principal.tenant.clone(),
            previous_id: call.previous_response_id.clone(),
            input: call.stored_input(),
        })),
    }
}

impl Shelf {
    /// Stores a response, in a task of its own: it is stored whether or not the client waits for it.
    fn put(self, reply: &ResponseReply, body: &str) -> JoinHandle<Result<(), LedgerError>> {
        let (responses, tenant) = (self.responses.clone(), self.tenant.clone());
        let stored = self.stored(reply, body);
        tokio::spawn(async move { responses.store(&tenant, &stored, now()).await })
    }

    fn stored(self, reply: &ResponseReply, body: &str) -> StoredResponse {
        StoredResponse {
            id: reply.id().to_owned(),
            previous_id: self.previous_id,
            created_at: reply.created(),
            input: self.input,
            body: body.to_owned(),
        }
    }
}

/// Whether a response was stored. If not, the answer is given all the same, and says that it is not stored.
async fn stored(task: JoinHandle<Result<(), LedgerError>>) -> bool {
    note_stored(task.await)
}

fn note_stored(result: Result<Result<(), LedgerError>, tokio::task::JoinError>) -> bool {
    match result {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!("a response could not be stored: {error}");
            false
        }
        Err(_) => {
            tracing::error!("storing a response panicked");
            false
        }
    }
}

/// The conversation that a call continues, and its share of the memory that bodies may take.
async fn history(
    app: &App,
    context: &Context,
    call: &ResponsesCall,
) -> Result<(Vec<StoredTurn>, Option<OwnedSemaphorePermit>), Failure> {
    const PARAM: &str = "previous_response_id";
    let Some(id) = &call.previous_response_id else { return Ok((Vec::new(), None)) };
    if let Some(rerun) = &context.rerun {
        let turns = rerun.history.iter().map(|t| StoredTurn { input: t.input.clone(), body: t.body.clone() });
        return Ok((turns.collect(), None));
    }
    let Some(responses) = &app.config.responses else {
        let text = "`previous_response_id` needs stored responses, and this server stores none; send the whole \
                    conversation as `input`";
        return Err(RequestError::field(PARAM, text).with_code("unsupported_field").into());
    };
    let refused = |error: LedgerError| match error {
        LedgerError::NoSuchResponse { .. }
        | LedgerError::BrokenChain { .. }
        | LedgerError::ChainTooLong { .. } => {
            let id = ingle_api::shown(id);
            let problem = match error {
                LedgerError::BrokenChain { .. } => {
                    format!("`{id}` continues a response that was deleted or is too old")
                }
                LedgerError::ChainTooLong { turns_max, .. } => {
                    format!("`{id}` is the end of a conversation of more than {turns_max} responses")
                }
                _ => format!("there is no response `{id}`: it was never stored, was deleted, or is too old"),
            };
            let text = format!("{problem}; send the whole conversation as `input`");
            Failure::Request(RequestError::field(PARAM, text).with_code("previous_response_not_found"))
        }
        other => Failure::Ledger(other),
    };
    let chain = responses.chain(&context.principal.tenant, id, now()).await.map_err(refused)?;
    let bytes_max = app.config.body_bytes_max;
    if chain.bytes > bytes_max as u64 {
        let text = format!(
            "the stored conversation has {} bytes; this server takes {bytes_max}: begin a new one, with a summary",
            chain.bytes
        );
        return Err(RequestError::field(PARAM, text).with_code("context_length_exceeded").into());
    }
    let kib = (chain.bytes as usize).div_ceil(1024) as u32;
    let share = Semaphore::try_acquire_many_owned(app.body_budget.clone(), kib)
        .map_err(|_| Failure::TooManyBodies)?;
    let turns = responses.turns(&chain).await.map_err(refused)?;
    let turns = turns.into_iter().map(|t| StoredTurn { input: t.input, body: t.body });
    Ok((turns.collect(), Some(share)))
}

/// The events of a response that is stored before the last of them is sent: whoever has seen it can continue it.
fn streamed(app: &Arc<App>, answer: Answer, encoder: ResponsesEncoder, shelf: Option<Shelf>) -> Response {
    let Some(shelf) = shelf else {
        return EventStream::new(answer, Box::new(encoder), app.config.keep_alive).into_response();
    };
    let complete = Arc::new(Mutex::new(None));
    let held = HeldEncoder { encoder: Some(encoder), complete: complete.clone() };
    let events = EventStream::new(answer, Box::new(held), app.config.keep_alive);
    events.into_response_with(|events| StoredStream { events, complete, shelf: Some(shelf), storing: None })
}

/// Hands its encoder over where it would have written the last event.
struct HeldEncoder {
    encoder: Option<ResponsesEncoder>,
    complete: Arc<Mutex<Option<ResponsesEncoder>>>,
}

impl StreamEncoder for HeldEncoder {
    fn push(&mut self, prompt: usize, delta: &Delta, out: &mut String) {
        if let Some(encoder) = &mut self.encoder {
            encoder.push(prompt, delta, out);
        }
    }

    fn finish(&mut self, _out: &mut String) {
        *self.complete.lock().expect("nothing panics while it is held") = self.encoder.take();
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        if let Some(encoder) = &mut self.encoder {
            encoder.fail(error, out);
        }
    }
}

/// An event stream that stores its response before it ends.
struct StoredStream {
    events: EventStream,
    complete: Arc<Mutex<Option<ResponsesEncoder>>>,
    shelf: Option<Shelf>,
    storing: Option<(ResponsesEncoder, JoinHandle<Result<(), LedgerError>>)>,
}

impl Stream for StoredStream {
    type Item = <EventStream as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.storing.is_none() {
            match std::task::ready!(Pin::new(&mut this.events).poll_next(cx)) {
                Some(item) => return Poll::Ready(Some(item)),
                None => {
                    let encoder = this.complete.lock().expect("nothing panics while it is held").take();
                    let (Some(encoder), Some(shelf)) = (encoder, this.shelf.take()) else {
                        return Poll::Ready(None);
                    };
                    // An answer that never finished ends in a failure, not here.
                    let body = encoder.reply().finish().unwrap_or_default();
                    let task = shelf.put(encoder.reply(), &body);
                    this.storing = Some((encoder, task));
                }
            }
        }
        let Some((encoder, task)) = &mut this.storing else { return Poll::Ready(None) };
        let result = std::task::ready!(Pin::new(task).poll(cx));
        if !note_stored(result) {
            encoder.set_unstored();
        }
        let mut out = String::new();
        encoder.finish(&mut out);
        this.storing = None;
        Poll::Ready(Some(Ok(Bytes::from(out))))
    }
}

/// The stored responses, or why there are none.
fn responses(app: &App) -> Result<&Arc<Responses>, Failure> {
    app.config.responses.as_ref().ok_or(Failure::StoresNothing)
}

/// The id in a path; one that is no text is no response's.
fn path_id(id: Result<Path<String>, PathRejection>) -> Result<String, Failure> {
    let Path(id) = id.map_err(|_| Failure::NotFound)?;
    Ok(id)
}

fn no_such(id: &str) -> Failure {
    Failure::Ledger(LedgerError::NoSuchResponse { id: ingle_api::shown(id) })
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Reply {
    let id = path_id(id)?;
    for (name, value) in pairs(query.as_deref().unwrap_or_default()) {
        match (name.as_str(), value.as_str()) {
            ("stream", "false") | ("include" | "include[]", _) => {}
            ("stream" | "starting_after", _) => {
                let text = format!("`{name}`: a stored response is not streamed again; read it whole");
                return Err(RequestError::field(name, text).with_code("unsupported_value").into());
            }
            _ => {
                let name = ingle_api::shown(&name);
                let text = format!("unknown parameter `{name}`: remove it");
                return Err(RequestError::field(name, text).with_code("unknown_field").into());
            }
        }
    }
    let found = responses(&app)?.get(&context.principal.tenant, &id, now()).await?;
    Ok(json(StatusCode::OK, found.ok_or_else(|| no_such(&id))?.body))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let id = path_id(id)?;
    let tenant = &context.principal.tenant;
    if !responses(&app)?.delete(tenant, &id, now()).await? {
        return Err(no_such(&id));
    }
    app.background.cancel(tenant, &id).await;
    Ok(json(StatusCode::OK, deleted(&id)))
}

pub(super) async fn list_input_items(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Reply {
    let id = path_id(id)?;
    let query = pairs(query.as_deref().unwrap_or_default());
    let options = ListOptions::parse(query.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    let found = responses(&app)?.input(&context.principal.tenant, &id, now()).await?;
    let unreadable = || ProviderError::Internal(format!("the stored input of {id} is no list of items"));
    let input = found.ok_or_else(|| no_such(&id))?;
    let page = input_items(&input, &options).ok_or_else(unreadable)??;
    Ok(json(StatusCode::OK, page.into_json()))
}

/// Ends a response that is made in the background; one that is complete stays as it is.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let id = path_id(id)?;
    let (responses, tenant) = (responses(&app)?, &context.principal.tenant);
    let found = responses.get(tenant, &id, now()).await?.ok_or_else(|| no_such(&id))?;
    if !is_background(&found.body) {
        let text = "only responses that are made in the background can be cancelled, and this one was not; an answer \
                    ends when its connection is closed";
        return Err(RequestError::field("id", text).with_code("unsupported_value").into());
    }
    app.background.cancel(tenant, &id).await;
    let found = responses.get(tenant, &id, now()).await?.ok_or_else(|| no_such(&id))?;
    Ok(json(StatusCode::OK, found.body))
}
