//! Loading and unloading models: llama-server's routes, for those who may.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use ingle_api::native::server::ChangeCall;
use ingle_chat::{ModelChange, Principal, Provider, ProviderError};

use super::generate::provider;
use super::table::Routes;
use super::{Context, Reply, info};
use crate::App;
use crate::body::{parse, read_json};
use crate::config::Scope;
use crate::error::{Failure, json};
use crate::names::named;
use crate::phase::Phase;

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/models", get(info::models))
        .route("/models/load", post(load))
        .route("/models/unload", post(unload))
        .route("/models/reload", post(reload))
}

async fn load(state: State<Arc<App>>, context: Extension<Context>, headers: HeaderMap, body: Body) -> Reply {
    answer(state, context, headers, body, true, |call| ModelChange::Load(call.keep_alive)).await
}

async fn unload(
    state: State<Arc<App>>,
    context: Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    answer(state, context, headers, body, false, |_| ModelChange::Unload).await
}

async fn reload(
    state: State<Arc<App>>,
    context: Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    answer(state, context, headers, body, false, |_| ModelChange::Reload).await
}

async fn answer(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
    loads: bool,
    wanted: impl FnOnce(&ChangeCall) -> ModelChange,
) -> Reply {
    let provider = provider(&app)?;
    check_scope(&app, &context.principal)?;
    let body = read_json(&app, &headers, body).await?;
    let call = parse(body, move |bytes| ChangeCall::parse(bytes, loads)).await?;
    change(&app, &provider, &call.model, wanted(&call)).await?;
    Ok(json(StatusCode::OK, ChangeCall::reply()))
}

/// Refuses who may not load and unload models.
pub(super) fn check_scope(app: &App, principal: &Principal) -> Result<(), ProviderError> {
    if app.auth.may(principal, Scope::Models) {
        return Ok(());
    }
    let message =
        "this key may not load and unload models: its operator can give it the scope `models`".into();
    Err(ProviderError::Forbidden { message })
}

/// Changes a model by any of its names.
pub(super) async fn change(
    app: &App,
    provider: &Arc<dyn Provider>,
    model: &str,
    change: ModelChange,
) -> Result<(), Failure> {
    let (_, info, _) = named(&app.config, provider, Some(model)).await?;
    tokio::select! {
        done = provider.change(&info.id, change) => Ok(done?),
        () = app.phases.reached(Phase::Ending) => Err(Failure::ShuttingDown),
    }
}
