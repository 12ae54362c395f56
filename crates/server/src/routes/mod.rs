//! The routes, and the gate that every request passes: id, caller, key, counting.

mod adapters;
mod anthropic;
mod batches;
mod blobs;
mod create;
mod embeddings;
mod files;
mod generate;
mod info;
mod models;
mod ollama;
mod openapi;
mod pull;
mod responses;
mod steps;
mod table;
mod utility;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ingle_api::{RequestError, TIMEOUT_SECONDS_MAX};
use ingle_chat::{Principal, Priority, ProviderError, Terms};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;

use crate::App;
use crate::auth::is_local_caller;
use crate::error::{Dialect, Failure};
use crate::recording::{Rerun, Shown};
use table::Routes;

/// Routes that need no key, because whoever restarts a sick server has none, and because what the API is like is no
/// secret. All others do, unknown ones included.
const PUBLIC: [&str; 5] = ["/health", "/v1/health", "/health/live", "/health/ready", "/openapi.json"];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where OpenAI's clients look for how long a reply took.
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// How long a request may take from its arrival to its end, in seconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// How long it may wait before it begins, in seconds.
const QUEUE_TIMEOUT: HeaderName = HeaderName::from_static("x-queue-timeout");
/// The seed of an answer; of a list of prompts, the first one's.
const SEED: HeaderName = HeaderName::from_static("x-ingle-seed");
/// Model and arithmetic of an answer: the same request, seed and fingerprint give the same bytes.
const FINGERPRINT: HeaderName = HeaderName::from_static("x-ingle-fingerprint");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What is known of a request beside its head and its body: the gate found it out, or, of a line of a batch, the batch.
#[derive(Clone)]
pub(crate) struct Context {
    pub principal: Principal,
    pub dialect: Dialect,
    pub priority: Priority,
    pub terms: Terms,
    pub started: Instant,
    /// The route, as in `/v1/chat/completions`.
    pub route: Arc<str>,
    /// What the reply's head will say of its answer.
    pub shown: Arc<Shown>,
    /// If it is a recorded one that is run again.
    pub rerun: Option<Arc<Rerun>>,
}

impl Context {
    /// Gives a request its place beside others, and its time.
    ///
    /// # Errors
    /// If it wants to go before others and may not.
    pub fn place(
        &self,
        principal: &Principal,
        priority: &mut Priority,
        terms: &mut Terms,
    ) -> Result<(), ProviderError> {
        if terms.rank < 0 && !principal.may_go_first {
            let message = "`priority` below 0 goes before what others ask, which needs a key with the scope \
                           `priority`: send 0 or more, or use such a key";
            return Err(ProviderError::Forbidden { message: message.into() });
        }
        // What is in the background stays there.
        *priority = self.priority.max(*priority);
        *terms = Terms { rank: terms.rank, ..self.terms };
        Ok(())
    }
}

pub(crate) use embeddings::embedding_reply;
pub(crate) use generate::{chat_reply, completion_reply};
pub(crate) use responses::reply as response_reply;

/// All routes. Each is described in `ingle_api::openapi`, which a test compares with this table; those that are always
/// refused are not.
fn routes() -> Routes {
    let mut routes = Routes::default();
    for (path, advice) in utility::NOT_YET.iter().copied() {
        routes = routes.refused(path, post(move || utility::not_yet(advice)));
    }
    routes
        .route("/", get(info::root))
        .route("/v1/chat/completions", post(generate::chat))
        .route("/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completions))
        .merge(adapters::routes())
        .merge(embeddings::routes())
        .route("/tokenize", post(utility::tokenize))
        .route("/v1/tokenize", post(utility::tokenize))
        .route("/detokenize", post(utility::detokenize))
        .route("/v1/detokenize", post(utility::detokenize))
        .route("/apply-template", post(utility::apply_template))
        .route("/generate", post(utility::generate))
        .route("/infill", post(utility::infill))
        .route("/props", get(utility::props))
        .route("/slots", get(utility::slots))
        .route("/get_model_info", get(utility::model_info))
        .route("/model_info", get(utility::model_info))
        .route("/get_server_info", get(utility::server_info))
        .route("/server_info", get(utility::server_info))
        .route("/flush_cache", post(utility::flush_cache))
        .route("/health_generate", get(utility::health_generate))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/responses/{id}/input_items", get(responses::list_input_items))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route(
            "/v1/files",
            // Uploads have a bound of their own.
            post(files::upload).get(files::list).layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", post(batches::create).get(batches::list))
        .route("/v1/batches/{id}", get(batches::get))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/models", get(info::models))
        .route("/v1/models/{*id}", get(info::model))
        .route("/health", get(info::health))
        .route("/v1/health", get(info::health))
        .route("/health/live", get(info::live))
        .route("/health/ready", get(info::health))
        .route("/metrics", get(info::metrics))
        .route("/version", get(info::version))
        .route("/openapi.json", get(openapi::document))
        .merge(models::routes())
        .merge(ollama::routes())
        .merge(pull::routes())
        .merge(blobs::routes())
        .merge(create::routes())
}

/// What serves the routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = routes()
        .into_router()
        .fallback(async || Failure::NotFound)
        .method_not_allowed_fallback(async || Failure::MethodNotAllowed)
        .layer(CatchPanicLayer::custom(|_| Failure::Panicked.into_response()))
        .layer(from_fn_with_state(app.clone(), gate));
    if !app.config.cors_origins.is_empty() {
        router = router.layer(cors(&app.config.cors_origins));
    }
    router.with_state(app)
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            REQUEST_ID,
            REQUEST_TIMEOUT,
            QUEUE_TIMEOUT,
        ])
        .expose_headers([REQUEST_ID, SEED, FINGERPRINT, embeddings::TRUNCATED_INPUTS])
}

async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let id = request_id(request.headers());
    let dialect = Dialect::of(request.uri().path(), request.headers());
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default(), %route, key = tracing::field::Empty, answer = tracing::field::Empty);
    let shown = Arc::new(Shown::default());
    let handled = async {
        let public = PUBLIC.contains(&route.as_str());
        if !public && !is_local_caller(&app.config, request.headers()) {
            return Failure::ForeignCaller.into_response();
        }
        let rerun = request.extensions_mut().remove::<Arc<Rerun>>();
        let of_rerun = rerun.as_ref().map(|rerun| rerun.principal.clone());
        let principal = match of_rerun.or_else(|| app.auth.principal(request.headers())) {
            Some(principal) => principal,
            None if public => Principal::local(),
            None => return Failure::Unauthorized.into_response(),
        };
        tracing::Span::current().record("key", &principal.key);
        let terms = match terms(request.headers()) {
            Ok(terms) => terms,
            Err(error) => return Failure::Request(error).into_response(),
        };
        let (route, shown) = (Arc::from(route.as_str()), shown.clone());
        let priority = Priority::Normal;
        let context = Context { principal, dialect, priority, terms, started, route, shown, rerun };
        request.extensions_mut().insert(context);
        next.run(request).await
    };
    let mut response = dialect.translate(handled.instrument(span.clone()).await);
    let status = response.status().as_u16();
    span.in_scope(|| tracing::debug!(status, elapsed_ms = started.elapsed().as_millis() as u64, "replied"));
    app.metrics.http(&route, status);
    if dialect == Dialect::Anthropic {
        // Where that one's clients look for it.
        response.headers_mut().insert("request-id", id.clone());
    }
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some((seed, fingerprint)) = shown.get() {
        response.headers_mut().insert(SEED, HeaderValue::from(seed));
        if let Ok(fingerprint) = HeaderValue::try_from(fingerprint) {
            response.headers_mut().insert(FINGERPRINT, fingerprint);
        }
    }
    // A stream's head leaves before anything is known about its time.
    if dialect == Dialect::OpenAi && response.body().size_hint().exact().is_some() {
        let ms = started.elapsed().as_millis() as u64;
        response.headers_mut().insert(PROCESSING_MS, HeaderValue::from(ms));
    }
    response
}

/// How long a client gives its request, as the headers say.
fn terms(headers: &HeaderMap) -> Result<Terms, RequestError> {
    let seconds = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let number = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
        let number = number.filter(|n| *n > 0.0 && *n <= TIMEOUT_SECONDS_MAX && values.next().is_none());
        let wrong = || {
            let text = format!(
                "the header `{name}` must be one number of seconds, more than 0 and at most {TIMEOUT_SECONDS_MAX}"
            );
            RequestError::field(name.as_str(), text)
        };
        number.map(|n| Some(Duration::from_secs_f64(n))).ok_or_else(wrong)
    };
    Ok(Terms { rank: 0, queue_timeout: seconds(&QUEUE_TIMEOUT)?, timeout: seconds(&REQUEST_TIMEOUT)? })
}

/// The client's request id if it is fit for logs, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fit = |v: &&HeaderValue| {
        let bytes = v.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(REQUEST_ID).filter(fit).cloned();
    given.unwrap_or_else(|| HeaderValue::try_from(format!("req-{}", unique())).expect("hexadecimal digits"))
}

/// 128 bits that no other reply has, in hexadecimal.
pub(crate) fn unique() -> String {
    // Each `RandomState` has other keys, so its hashes are as good as random numbers, without a crate for them.
    let half = |salt: u8| RandomState::new().hash_one(salt);
    format!("{:016x}{:016x}", half(0), half(1))
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Handlers return this.
pub(crate) type Reply = Result<Response, Failure>;
