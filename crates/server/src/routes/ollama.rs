//! Ollama's routes. Those that would change which models there are are refused: there is no store yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, head, post};
use ingle_api::RequestError;
use ingle_api::ollama::models::{self, ShowCall};
use ingle_api::ollama::{Collector, EmbedRoute, Encoder, Envelope, Route, is_unload};
use ingle_api::openai::check_vocabulary;
use ingle_chat::{Embeddings, ModelChange};

use super::embeddings::written;
use super::generate::{caller, collected, provider, stream};
use super::models::{change, check_scope};
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::answer::{Answer, Call};
use crate::body::{parse, read_any_json};
use crate::embed::embed as vectors_of;
use crate::error::json;
use crate::names::{Chosen, choose, listed, resolve};

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
        .refused("/api/pull", post(no_store))
        .refused("/api/push", post(no_store))
        .refused("/api/create", post(no_store))
        .refused("/api/copy", post(no_store))
        .refused("/api/delete", delete(no_store))
        .refused("/api/blobs/{digest}", head(no_store).post(no_store))
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
        let (name, info) = resolve(&app.config, &*provider, call.request.model.as_deref())?;
        change(&app, &*provider, &info.id, ModelChange::Unload).await?;
        let model = call.request.model.unwrap_or(name);
        return Ok(json(StatusCode::OK, Envelope { id, model, clock: since_epoch }.unloaded(route)));
    }
    let chosen = choose(&app, provider, call.request.model.as_deref(), call.keep_alive).await?;
    let Chosen { provider, name, info } = chosen;
    check_vocabulary(&call.request, info.n_vocab)?;
    context.place(&call.request.principal, &mut call.request.priority, &mut call.request.terms)?;
    call.check_context(info.n_ctx)?;
    // The reply names the model as the caller did.
    let model = call.request.model.replace(info.id).unwrap_or(name);
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
        let (name, info) = resolve(&app.config, &*provider, request.model.as_deref())?;
        change(&app, &*provider, &info.id, ModelChange::Unload).await?;
        let model = request.model.unwrap_or(name);
        return written(Embeddings::default(), move |embeddings| call.reply(&model, embeddings)).await;
    }
    let chosen = choose(&app, provider, request.model.as_deref(), call.keep_alive).await?;
    let Chosen { provider, name, info } = chosen;
    call.check_context(info.n_ctx)?;
    let model = request.model.replace(info.id).unwrap_or(name);
    let embeddings = match request.inputs.is_empty() {
        true => Embeddings::default(),
        false => vectors_of(&app, provider, request, is_large, context.started).await?,
    };
    written(embeddings, move |embeddings| call.reply(&model, embeddings)).await
}

/// The clock of replies.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn tags(State(app): State<Arc<App>>) -> Reply {
    let provider = provider(&app)?;
    Ok(json(StatusCode::OK, models::tags(&listed(&app.config, &*provider))))
}

async fn running(State(app): State<Arc<App>>) -> Reply {
    Ok(json(StatusCode::OK, models::running(&provider(&app)?.entries(), since_epoch())))
}

async fn show(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply {
    let provider = provider(&app)?;
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, ShowCall::parse).await?;
    let (name, info) = resolve(&app.config, &*provider, Some(&call.model))?;
    Ok(json(StatusCode::OK, models::show(&name, &info, call.verbose)))
}

async fn version() -> Response {
    json(StatusCode::OK, models::version())
}

async fn no_store(route: MatchedPath) -> Reply {
    let route = route.as_str();
    Err(RequestError::body(format!(
        "{route} is not available: this server has no store of models yet; the operator starts it with the file of the \
         model that it serves, and /api/tags lists what there is"
    ))
    .into())
}
