//! Ollama's routes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use ingle_api::RequestError;
use ingle_api::ollama::models::{self, CopyCall, DeleteCall, ShowCall};
use ingle_api::ollama::{Collector, EmbedRoute, Encoder, Envelope, Route, is_unload};
use ingle_api::openai::check_vocabulary;
use ingle_chat::{Embeddings, ModelChange, ModelInfo, Provider};

use super::embeddings::written;
use super::generate::{caller, collected, provider, settle, stream};
use super::models::{change, check_scope};
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::answer::{Answer, Call};
use crate::body::{parse, read_any_json};
use crate::embed::embed as vectors_of;
use crate::error::{Failure, json};
use crate::names::{Chosen, choose, listed, looked_for, named};
use crate::store::ModelStore;

/// All routes under `/api`.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/api/generate", post(generate))
        .route("/api/chat", post(chat))
        .route("/api/tags", get(tags))
        .route("/api/ps", get(running))
        .route("/api/show", post(show))
        .route("/api/version", get(version))
        .route("/api/embed", post(embed))
        .route("/api/embeddings", post(embeddings))
        .route("/api/copy", post(copy))
        .route("/api/delete", delete(remove))
}

async fn generate(
    state: State<Arc<App>>,
    context: Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    answer(Route::Generate, state, context, headers, body).await
}

async fn chat(state: State<Arc<App>>, context: Extension<Context>, headers: HeaderMap, body: Body) -> Reply {
    answer(Route::Chat, state, context, headers, body).await
}

async fn answer(
    route: Route,
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_any_json(&app, &headers, body).await?;
    let kept = body.kept(&app, &context);
    let caller = caller("ollama", &context);
    let id = caller.id.clone();
    let mut call = parse(body, move |bytes| route.parse(bytes, caller)).await?;
    if is_unload(call.keep_alive) {
        check_scope(&app, &context.principal)?;
    }
    if call.load_only && is_unload(call.keep_alive) {
        let (name, info) = find(&app, &provider, call.request.model.as_deref()).await?;
        change(&app, &provider, &info.id, ModelChange::Unload).await?;
        let model = call.request.model.unwrap_or(name);
        return Ok(json(StatusCode::OK, Envelope { id, model, clock: since_epoch }.unloaded(route)));
    }
    let chosen = choose(&app, provider, call.request.model.as_deref(), call.keep_alive).await?;
    let Chosen { provider, name, info } = chosen;
    check_vocabulary(&call.request, info.n_vocab)?;
    context.place(&call.request.principal, &mut call.request.priority, &mut call.request.terms)?;
    call.check_context(info.n_ctx)?;
    // The reply names the model as the caller did.
    let model = call.request.model.take().unwrap_or(name);
    settle(&context, &*provider, &info, std::slice::from_mut(&mut call.request))?;
    let envelope = Envelope { id, model, clock: since_epoch };
    if call.load_only {
        return Ok(json(StatusCode::OK, envelope.loaded(route)));
    }
    let requests = Call { requests: vec![call.request], kept };
    if call.stream {
        let encoder = Box::new(Encoder::new(route, envelope));
        return stream(&app, provider, &context, requests, encoder).await;
    }
    let mut collector = Collector::new(route, envelope);
    let mut answer = Answer::start(&app, provider, &context, requests).await?;
    answer.each(|_, delta| collector.push(delta)).await?;
    collected(collector.finish())
}

async fn embed(state: State<Arc<App>>, context: Extension<Context>, headers: HeaderMap, body: Body) -> Reply {
    vectors(EmbedRoute::Embed, state, context, headers, body).await
}

async fn embeddings(
    state: State<Arc<App>>,
    context: Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    vectors(EmbedRoute::Embeddings, state, context, headers, body).await
}

async fn vectors(
    route: EmbedRoute,
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_any_json(&app, &headers, body).await?;
    let is_large = body.is_large();
    let caller = caller("ollama", &context);
    let call = parse(body, move |bytes| route.parse(bytes, caller)).await?;
    let mut request = call.request.clone();
    context.place(&request.principal, &mut request.priority, &mut request.terms)?;
    if is_unload(call.keep_alive) {
        check_scope(&app, &context.principal)?;
    }
    if request.inputs.is_empty() && is_unload(call.keep_alive) {
        let (name, info) = find(&app, &provider, request.model.as_deref()).await?;
        change(&app, &provider, &info.id, ModelChange::Unload).await?;
        let model = request.model.unwrap_or(name);
        return written(Embeddings::default(), move |embeddings| call.reply(&model, embeddings)).await;
    }
    let chosen = choose(&app, provider, request.model.as_deref(), call.keep_alive).await?;
    let Chosen { provider, name, info } = chosen;
    call.check_context(info.n_ctx)?;
    let model = request.model.replace(info.id.clone()).unwrap_or(name);
    let embeddings = match request.inputs.is_empty() {
        true => Embeddings::default(),
        false => vectors_of(&app, provider, request, &info, is_large, context.started).await?,
    };
    written(embeddings, move |embeddings| call.reply(&model, embeddings)).await
}

/// The clock of replies.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The model for a name, which may have come since.
async fn find(
    app: &App,
    provider: &Arc<dyn Provider>,
    wanted: Option<&str>,
) -> Result<(String, ModelInfo), Failure> {
    let (name, info, _) = named(&app.config, provider, wanted).await?;
    Ok((name, info))
}

/// All models: those of the store, and what else is served.
async fn tags(State(app): State<Arc<App>>) -> Reply {
    let provider = provider(&app)?;
    let stored = match &app.config.store {
        Some(store) => store.clone().tags().await?,
        None => Vec::new(),
    };
    // What the server knows of the store's models is in their own entries.
    let mut served = listed(&app.config, &*provider);
    served.retain(|(name, _)| !stored.iter().any(|tag| tag.name == *name));
    Ok(json(StatusCode::OK, models::tags(&stored, &served)))
}

async fn running(State(app): State<Arc<App>>) -> Reply {
    Ok(json(StatusCode::OK, models::running(&provider(&app)?.entries(), since_epoch())))
}

async fn show(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply {
    let provider = provider(&app)?;
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, ShowCall::parse).await?;
    let (name, info, found) = named(&app.config, &provider, Some(&call.model)).await?;
    // A file that is served beside the store's models may have the name of one.
    let stored = match (&app.config.store, found) {
        (Some(store), Some(found)) => store.clone().page(&found).await?,
        _ => None,
    };
    Ok(json(StatusCode::OK, models::show(&name, &info, stored.as_ref(), call.verbose)))
}

async fn copy(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let store = store(&app, &context)?;
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, CopyCall::parse).await?;
    store.copy(call.source, call.destination).await?;
    Ok(StatusCode::OK.into_response())
}

async fn remove(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let store = store(&app, &context)?;
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, DeleteCall::parse).await?;
    store.remove(call.model.clone()).await?;
    // It takes no more requests, and leaves memory with the last that it has.
    if let Ok(provider) = provider(&app) {
        let _ = looked_for(&provider, Some(&call.model)).await;
    }
    Ok(StatusCode::OK.into_response())
}

/// The store, for those who may change what is in it.
fn store(app: &App, context: &Context) -> Result<ModelStore, Failure> {
    check_scope(app, &context.principal)?;
    app.config.store.clone().ok_or_else(no_store)
}

async fn version() -> Response {
    json(StatusCode::OK, models::version())
}

pub(super) fn no_store() -> Failure {
    RequestError::body(
        "this server has no store of models: its operator starts it with the store (--serve-store, or without --model)",
    )
    .into()
}
