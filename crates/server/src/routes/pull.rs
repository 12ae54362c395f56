//! `/api/pull` and `/api/push`: models come into the store and go to registries, and lines tell how far they are.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use futures_core::Stream;
use ingle_api::RequestError;
use ingle_api::ollama::transfer::{TransferCall, error_line, progress_line, status_line, success};
use ingle_chat::ProviderError;
use ingle_store::pull::{Event, PullError, PullOptions};
use ingle_store::push::{PushOptions, push as push_model};
use ingle_store::{Reference, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::models::check_scope;
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::body::{parse, read_any_json};
use crate::error::{Failure, json};
use crate::phase::Phase;
use crate::transfers::Transfers;

/// Lines ahead of a client that takes them slowly; counts beyond are left out, as newer ones follow.
const LINES_AHEAD: usize = 64;

/// Both.
pub(super) fn routes() -> Routes {
    Routes::default().route("/api/pull", post(pull)).route("/api/push", post(push))
}

/// The store's way out, or why there is none.
pub(super) fn transfers(app: &App) -> Result<&Arc<Transfers>, Failure> {
    app.config.transfers.as_ref().ok_or_else(|| {
        let message = "this server has no store of models: it was started with files; `ingle serve` without them has one";
        RequestError::body(message).into()
    })
}

/// What is done.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

async fn pull(state: State<Arc<App>>, context: Extension<Context>, headers: HeaderMap, body: Body) -> Reply {
    answer(Way::In, state, context, headers, body).await
}

async fn push(state: State<Arc<App>>, context: Extension<Context>, headers: HeaderMap, body: Body) -> Reply {
    answer(Way::Out, state, context, headers, body).await
}

async fn answer(
    way: Way,
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    check_scope(&app, &context.principal)?;
    let transfers = transfers(&app)?.clone();
    let body = read_any_json(&app, &headers, body).await?;
    let call = match way {
        Way::In => parse(body, TransferCall::pull).await?,
        Way::Out => parse(body, TransferCall::push).await?,
    };
    let reference = Reference::parse(&call.model, transfers.catalogue())
        .map_err(|error| RequestError::field("model", error.to_string()))?;
    // Whoever asks over HTTP learns nothing about this machine's files.
    if matches!(reference, Reference::Path(_)) {
        return Err(
            RequestError::field("model", "`model` is a path; name a model of a hub or a registry").into()
        );
    }
    let turn = transfers.turns().clone().try_acquire_owned().map_err(|_| {
        let message = "as many models as may be are being pulled and pushed; try again when one is done";
        ProviderError::Unavailable(message.into())
    })?;
    let (lines, receiver) = mpsc::channel(LINES_AHEAD);
    let ending = app.phases.reached(Phase::Ending);
    let is_streamed = call.stream;
    let task = tokio::spawn(async move {
        let _turn = turn;
        let outcome = tokio::select! {
            outcome = transfer(way, &transfers, &reference, &call, &lines) => outcome,
            () = ending => Err(PullError::Stopped),
        };
        if let Err(error) = &outcome {
            tracing::info!(%error, "a model was not transferred");
            let _ = lines.send(error_line(&error.to_string())).await;
        }
        outcome
    });
    let task = Task(task);
    if is_streamed {
        return Ok(streamed(Lines { receiver, _task: task }));
    }
    drop(receiver);
    finished(task).await?;
    Ok(json(StatusCode::OK, success()))
}

async fn transfer(
    way: Way,
    transfers: &Transfers,
    reference: &Reference,
    call: &TransferCall,
    lines: &mpsc::Sender<String>,
) -> Result<(), PullError> {
    let verb = match way {
        Way::In => "pulling",
        Way::Out => "pushing",
    };
    let watch = |event: &Event| {
        let line = match event {
            Event::Status(status) => status_line(status),
            Event::Progress { file, digest, done, total, .. } => {
                let label = digest.map_or_else(|| file.clone(), |digest| digest.short());
                let digest = digest.map(|digest| digest.to_string());
                progress_line(verb, &label, digest.as_deref(), *total, *done)
            }
        };
        let _ = lines.try_send(line);
    };
    let puller = transfers.puller();
    match way {
        Way::In => {
            let options = PullOptions { update: call.update, insecure: call.insecure };
            puller.pull(reference, options, &watch).await.map(drop)
        }
        Way::Out => {
            let name = reference.name().ok_or(PullError::Stopped)?;
            let options = PushOptions { insecure: call.insecure };
            push_model(puller.store(), puller.network(), &name, options, &watch).await.map(drop)
        }
    }
}

/// A transfer, which ends when nobody waits for it any more.
struct Task(JoinHandle<Result<(), PullError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn finished(mut task: Task) -> Result<(), Failure> {
    match (&mut task.0).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(Failure::Panicked),
    }
}

/// Whose fault it is.
fn failure(error: &PullError) -> Failure {
    use ingle_egress::EgressError as Egress;
    let message = error.to_string();
    match error {
        PullError::Stopped => Failure::ShuttingDown,
        PullError::Egress(
            Egress::Closed { .. } | Egress::Host { .. } | Egress::Insecure { .. } | Egress::Address { .. },
        ) => ProviderError::Forbidden { message }.into(),
        PullError::Egress(Egress::Url { .. }) => RequestError::field("model", message).into(),
        PullError::Egress(_) | PullError::Unsettled(_) => ProviderError::Unavailable(message).into(),
        PullError::Store(StoreError::NotFound(_)) => Failure::NoSuchModel(message),
        PullError::Store(_) => ProviderError::Unavailable(message).into(),
        _ if error.is_not_found() => Failure::NoSuchModel(message),
        _ => RequestError::body(message).into(),
    }
}

/// The lines of a transfer; the client going away ends it.
struct Lines {
    receiver: mpsc::Receiver<String>,
    _task: Task,
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|line| line.map(|line| Ok(Bytes::from(line))))
    }
}

fn streamed(lines: Lines) -> Response {
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
