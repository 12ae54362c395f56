//! `/api/create`: a model of the store from another one, or from blobs that were sent before. No path that a client
//! writes is ever looked for on this machine.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_core::Stream;
use ingle_api::RequestError;
use ingle_api::ollama::create::CreateCall;
use ingle_chat::ProviderError;
use ingle_store::modelfile::{CreateError, Part, Recipe, Status};
use ingle_store::{Message, ModelName, Reference, StoreError};
use tokio::sync::mpsc;

use super::models::check_scope;
use super::ollama::no_store;
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::body::{parse, read_any_json};
use crate::error::{Failure, json};
use crate::store::ModelStore;

/// Steps that are told ahead of whoever takes them.
const STEPS_AHEAD: usize = 64;

/// The route.
pub(super) fn routes() -> Routes {
    Routes::default().route("/api/create", post(create))
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    check_scope(&app, &context.principal)?;
    let store = app.config.store.clone().ok_or_else(no_store)?;
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, CreateCall::parse).await?;
    let is_streamed = call.stream;
    let (tell, mut steps) = mpsc::channel(STEPS_AHEAD);
    tokio::task::spawn_blocking(move || {
        // Nobody need listen: the model is made all the same.
        let made = make(&store, call, &mut |status| drop(tell.blocking_send(Ok(status))));
        if let Err(failure) = made {
            drop(tell.blocking_send(Err(failure)));
        }
    });
    // What is wrong with the request is known before the first step.
    let first = match steps.recv().await {
        Some(Ok(status)) => status,
        Some(Err(failure)) => return Err(failure),
        None => return Err(Failure::Panicked),
    };
    if is_streamed {
        return Ok(lines(first, steps));
    }
    let mut last = first;
    while let Some(step) = steps.recv().await {
        last = step?;
    }
    match last {
        Status::Success => Ok(json(StatusCode::OK, CreateCall::line(&last.to_string()))),
        _ => Err(Failure::Panicked),
    }
}

type Steps = mpsc::Receiver<Result<Status, Failure>>;

/// A reply with a line for each step.
fn lines(first: Status, steps: Steps) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(Lines { first: Some(first), steps, is_over: false })).into_response()
}

struct Lines {
    first: Option<Status>,
    steps: Steps,
    is_over: bool,
}

impl Stream for Lines {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(line(&CreateCall::line(&first.to_string())))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.steps.poll_recv(cx).map(|step| {
            let text = match step {
                Some(Ok(status)) => CreateCall::line(&status.to_string()),
                Some(Err(failure)) => {
                    self.is_over = true;
                    CreateCall::failed(&failure.object().message)
                }
                None => return None,
            };
            Some(Ok(line(&text)))
        })
    }
}

fn line(text: &str) -> Bytes {
    Bytes::from(format!("{text}\n"))
}

/// Makes the model, on a thread that may wait for disks.
fn make(store: &ModelStore, call: CreateCall, tell: &mut dyn FnMut(Status)) -> Result<(), Failure> {
    let name: ModelName =
        call.model.parse().map_err(|error| RequestError::field("model", format!("`model`: {error}")))?;
    let ModelStore { store, catalogue } = store;
    let store = store.session();
    let mut recipe = Recipe {
        files: parts(call.files, "files")?,
        adapters: parts(call.adapters, "adapters")?,
        template: call.template,
        system: call.system,
        licenses: call.licenses,
        params: call.parameters,
        messages: call.messages.into_iter().map(|(role, content)| Message { role, content }).collect(),
        requires: call.requires,
        renderer: call.renderer,
        parser: call.parser,
        ..Recipe::default()
    };
    if let Some(from) = call.from {
        let wrong = |text: String| Failure::from(RequestError::field("from", text));
        let reference = store.resolve(&from, catalogue).map_err(|error| match error {
            StoreError::Name(why) => wrong(format!("`from`: {why}")),
            error => stored(error),
        })?;
        let base = match (&reference, reference.name()) {
            (Reference::Path(_), _) | (_, None) => {
                let text = "`from` names a model; files of yours are sent to /api/blobs and named in `files`";
                return Err(wrong(text.to_owned()));
            }
            (_, Some(base)) => base,
        };
        let manifest = store.manifest(&base).map_err(stored)?;
        let missing = || ProviderError::UnknownModel { model: base.to_string(), available: Vec::new() };
        let manifest = manifest.ok_or_else(missing)?;
        for layer in manifest.blobs() {
            store.pin(&layer.digest, Some(layer.size)).map_err(stored)?.ok_or_else(missing)?;
        }
        recipe.base = Some(manifest);
        recipe.source = Some(reference.to_string());
    }
    recipe.make(&store, &name, tell).map(drop).map_err(|error| match error {
        CreateError::Store(error) => stored(error),
        error => RequestError::body(error.to_string()).into(),
    })
}

fn parts(blobs: Vec<(String, String)>, field: &'static str) -> Result<Vec<Part>, Failure> {
    let part = |(name, digest): (String, String)| match digest.parse() {
        Ok(digest) => Ok(Part { name, digest }),
        Err(error) => Err(RequestError::field(field, format!("`{field}`: {error}")).into()),
    };
    blobs.into_iter().map(part).collect()
}

/// What the store refuses, without a path of this machine, which the log has.
fn stored(error: StoreError) -> Failure {
    match error {
        StoreError::NotFound(name) => {
            ProviderError::UnknownModel { model: name.to_string(), available: Vec::new() }.into()
        }
        StoreError::MissingBlob(digest) => {
            RequestError::body(format!("the blob {digest} is not here: send it to /api/blobs first")).into()
        }
        StoreError::Busy(digest) => {
            ProviderError::Unavailable(format!("{digest} is being written; try again when it is done")).into()
        }
        StoreError::WrongContent { .. } | StoreError::WrongSize { .. } | StoreError::TooLarge { .. } => {
            RequestError::body(error.to_string()).into()
        }
        error => {
            tracing::error!(%error, "a model could not be made");
            let text = "the store of models cannot do that now; the server's log says why";
            ProviderError::Internal(text.to_owned()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_failure_ends_the_lines() {
        let (tell, steps) = mpsc::channel(4);
        tell.send(Ok(Status::WritingManifest)).await.expect("room");
        tell.send(Err(RequestError::body("no".to_owned()).into())).await.expect("room");
        tell.send(Ok(Status::Success)).await.expect("room");
        let mut lines = Box::pin(Lines { first: Some(Status::Parsing), steps, is_over: false });
        let mut text = String::new();
        while let Some(Ok(line)) = poll_fn(|cx| lines.as_mut().poll_next(cx)).await {
            text.push_str(std::str::from_utf8(&line).expect("text"));
        }
        let expected =
            "{\"status\":\"parsing GGUF\"}\n{\"status\":\"writing manifest\"}\n{\"error\":\"no\"}\n";
        assert_eq!(text, expected);
    }
}
