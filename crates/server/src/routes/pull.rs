//! `/api/pull` and `/api/push`: models come into the store and go to registries, and lines tell how far they are.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use ingle_api::RequestError;
use ingle_api::ollama::transfer::{TransferCall, progress_line, status_line};
use ingle_chat::ProviderError;
use ingle_store::pull::{Event, PullError, PullOptions};
use ingle_store::push::{PushOptions, push as push_model};
use ingle_store::{Reference, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use super::models::check_scope;
use super::steps::{Lines, reply};
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::body::{parse, read_any_json};
use crate::error::Failure;
use crate::phase::Phase;
use crate::store::told;
use crate::transfers::Transfers;

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
    let reference = reference(&transfers, &call.model).await?;
    // Whoever asks over HTTP learns nothing about this machine's files.
    if matches!(reference, Reference::Path(_)) {
        return Err(
            RequestError::field("model", "`model` is a path; name a model of a hub or a registry").into()
        );
    }
    let turn = turn(&transfers)?;
    let ending = app.phases.reached(Phase::Ending);
    reply(call.stream, |lines| async move {
        let _turn = turn;
        let outcome = tokio::select! {
            outcome = transfer(way, &transfers, &reference, &call, &lines) => outcome,
            () = ending => Err(PullError::Stopped),
        };
        if let Err(error) = outcome {
            tracing::info!(%error, "a model was not transferred");
            return Err(failure(&error));
        }
        // Never left out, however slowly lines are taken: clients look for it.
        let _ = lines.send(status_line(SUCCESS)).await;
        Ok(())
    })
    .await
}

/// What a client names: a model of the store, whatever its capital letters, or what is to be fetched.
async fn reference(transfers: &Arc<Transfers>, model: &str) -> Result<Reference, Failure> {
    let (transfers, model) = (Arc::clone(transfers), model.to_owned());
    let resolve = move || transfers.puller().store().resolve(&model, transfers.catalogue());
    tokio::task::spawn_blocking(resolve).await.map_err(|_| Failure::Panicked)?.map_err(|error| match error {
        StoreError::Name(why) => RequestError::field("model", why.to_string()).into(),
        error => failure(&error.into()),
    })
}

/// The last status of what went well.
const SUCCESS: &str = "success";

/// Leave to transfer a model.
pub(super) fn turn(transfers: &Transfers) -> Result<OwnedSemaphorePermit, Failure> {
    transfers.turns().clone().try_acquire_owned().map_err(|_| {
        let message = "as many models as may be are being pulled and pushed; try again when one is done";
        ProviderError::Busy(message.into()).into()
    })
}

/// Tells an event. A client that takes lines slowly misses counts, as newer ones follow.
pub(super) fn tell(lines: &Lines, verb: &str, event: &Event) {
    let line = match event {
        Event::Status(status) if *status == SUCCESS => return,
        Event::Status(status) => status_line(status),
        Event::Progress { file, digest, done, total, .. } => {
            let label = digest.map_or_else(|| file.clone(), |digest| digest.short());
            let digest = digest.map(|digest| digest.to_string());
            progress_line(verb, &label, digest.as_deref(), *total, *done)
        }
    };
    let _ = lines.try_send(line);
}

async fn transfer(
    way: Way,
    transfers: &Transfers,
    reference: &Reference,
    call: &TransferCall,
    lines: &Lines,
) -> Result<(), PullError> {
    let verb = match way {
        Way::In => "pulling",
        Way::Out => "pushing",
    };
    let watch = |event: &Event| tell(lines, verb, event);
    let puller = transfers.puller();
    match way {
        Way::In => {
            let options = PullOptions { update: call.update, insecure: call.insecure };
            if let Some(warning) = transfers.foresee(reference, options).await {
                let _ = lines.try_send(status_line(&format!("warning: {warning}")));
            }
            puller.pull(reference, options, &watch).await.map(drop)
        }
        Way::Out => {
            let name = reference.name().ok_or(PullError::Stopped)?;
            let options = PushOptions { insecure: call.insecure };
            push_model(puller.store(), puller.network(), &name, options, &watch).await.map(drop)
        }
    }
}

/// What a client is told: no path of this machine.
pub(super) fn words(error: &PullError) -> String {
    match error {
        PullError::Store(error) => told(error),
        other => other.without_paths().unwrap_or_else(|| "`model` is a path".to_owned()),
    }
}

/// Whose fault it is.
pub(super) fn failure(error: &PullError) -> Failure {
    use ingle_egress::EgressError as Egress;
    let message = words(error);
    match error {
        PullError::Stopped => Failure::ShuttingDown,
        PullError::Egress(
            Egress::Closed { .. } | Egress::Host { .. } | Egress::Insecure { .. } | Egress::Address { .. },
        ) => ProviderError::Forbidden { message }.into(),
        PullError::Egress(Egress::Url { .. }) => RequestError::field("model", message).into(),
        PullError::Egress(_) | PullError::Unsettled(_) | PullError::Answer { .. } => {
            ProviderError::Upstream(message).into()
        }
        PullError::Store(StoreError::NotFound(_)) => Failure::NoSuchModel(message),
        PullError::Store(StoreError::Unfit { .. }) => RequestError::body(message).into(),
        PullError::Store(StoreError::Busy(_) | StoreError::NameChanged { .. }) => {
            ProviderError::Busy(message).into()
        }
        PullError::Store(_) => ProviderError::Unusable(message).into(),
        _ if error.is_not_found() => Failure::NoSuchModel(message),
        _ => RequestError::body(message).into(),
    }
}
