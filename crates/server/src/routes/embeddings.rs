//! Embeddings in OpenAI's and llama-server's shapes, and what is made of them: reranking and scores.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::post;
use ingle_api::RequestError;
use ingle_api::native::rerank;
use ingle_api::openai::{Caller, Envelope, embeddings};
use ingle_chat::{EmbedRequest, Embeddings};

use super::generate::{caller, provider};
use super::table::Routes;
use super::{Context, Reply, now};
use crate::App;
use crate::body::{BoundedBody, parse as parse_body, read_json};
use crate::embed::embed;
use crate::error::{Failure, json};
use crate::names::{Chosen, choose};

/// How many texts were cut, where any were.
pub(super) const TRUNCATED_INPUTS: HeaderName = HeaderName::from_static("x-truncated-inputs");
/// Vectors with more numbers than this are written where they keep nobody waiting.
const VALUES_INLINE_MAX: usize = 1 << 16;

/// A body that asks for vectors, read.
trait EmbeddingCall: Send + 'static {
    fn request(&mut self) -> &mut EmbedRequest;
    fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String;
}

impl EmbeddingCall for embeddings::EmbeddingsCall {
    fn request(&mut self) -> &mut EmbedRequest {
        &mut self.request
    }

    fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        self.reply(&envelope.model, embeddings)
    }
}

impl EmbeddingCall for rerank::RerankCall {
    fn request(&mut self) -> &mut EmbedRequest {
        &mut self.request
    }

    fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        self.reply(envelope, embeddings)
    }
}

impl EmbeddingCall for rerank::ScoreCall {
    fn request(&mut self) -> &mut EmbedRequest {
        &mut self.request
    }

    fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        self.reply(envelope, embeddings)
    }
}

/// All routes that compare or give vectors, but Ollama's.
pub(super) fn routes() -> Routes {
    let mut routes = Routes::default();
    for path in ["/v1/embeddings", "/embeddings", "/embedding"] {
        routes = routes.route(path, post(embeddings));
    }
    for path in ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking", "/reranking"] {
        routes = routes.route(path, post(rerank));
    }
    for path in ["/v1/score", "/score"] {
        routes = routes.route(path, post(score));
    }
    routes
}

async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let body = read_body(&app, &headers, body).await?;
    embedding_reply(&app, &context, body).await
}

async fn rerank(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let body = read_body(&app, &headers, body).await?;
    answer(&app, &context, body, "rerank", rerank::parse_rerank).await
}

async fn score(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let body = read_body(&app, &headers, body).await?;
    answer(&app, &context, body, "score", rerank::parse_score).await
}

/// The body of a request that can be served now.
async fn read_body(app: &App, headers: &HeaderMap, body: Body) -> Result<BoundedBody, Failure> {
    provider(app)?;
    read_json(app, headers, body).await
}

/// The reply to texts in OpenAI's or llama-server's shape, whoever sends them.
pub(crate) async fn embedding_reply(app: &Arc<App>, context: &Context, body: BoundedBody) -> Reply {
    answer(app, context, body, "embd", embeddings::parse).await
}

async fn answer<C: EmbeddingCall>(
    app: &Arc<App>,
    context: &Context,
    body: BoundedBody,
    prefix: &str,
    parse: impl FnOnce(&[u8], Caller) -> Result<C, RequestError> + Send + 'static,
) -> Reply {
    let provider = provider(app)?;
    let is_large = body.is_large();
    let caller = caller(prefix, context);
    let id = caller.id.clone();
    let mut call = parse_body(body, move |bytes| parse(bytes, caller)).await?;
    // The texts are not needed twice.
    let asked = call.request();
    let mut request = EmbedRequest { inputs: std::mem::take(&mut asked.inputs), ..asked.clone() };
    let Chosen { provider, name: model, info } =
        choose(app, provider, request.model.as_deref(), None).await?;
    let (_, fingerprint) = provider.adapters_of(&info, None)?;
    request.model = Some(info.id.clone());
    context.place(&request.principal, &mut request.priority, &mut request.terms)?;
    let envelope = Envelope { id, created: now(), model, fingerprint };
    let embeddings = embed(app, provider, request, &info, is_large, context.started).await?;
    written(embeddings, move |embeddings| call.reply(&envelope, embeddings)).await
}

/// Vectors as a reply, which `write` makes of them.
pub(super) async fn written(
    embeddings: Embeddings,
    write: impl FnOnce(&Embeddings) -> String + Send + 'static,
) -> Reply {
    let n_truncated = embeddings.items.iter().filter(|item| item.truncated_from.is_some()).count();
    let n_values: usize = embeddings.items.iter().map(|item| item.vector.len()).sum();
    let body = if n_values > VALUES_INLINE_MAX {
        let written = tokio::task::spawn_blocking(move || write(&embeddings)).await;
        written.map_err(|_| Failure::Panicked)?
    } else {
        write(&embeddings)
    };
    let mut response: Response = json(StatusCode::OK, body);
    if n_truncated > 0 {
        response.headers_mut().insert(TRUNCATED_INPUTS, HeaderValue::from(n_truncated));
    }
    Ok(response)
}
