//! Routes beside the dialects: tokens and templates, what the server says about itself, SGLang's `/generate`,
//! llama-server's `/infill`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ingle_api::RequestError;
use ingle_api::native::generate::{self, GenerateCollector, GenerateEncoder};
use ingle_api::native::infill::{self, InfillCollector, InfillEncoder};
use ingle_api::native::server as pages;
use ingle_api::native::tokens::{self, DetokenizeCall, TokenizeInput};
use ingle_api::openai::{chat, check_vocabulary};
use ingle_chat::{Echo, ModelEntry, Prompt, Provider, ProviderError, Request, Task};
use serde_json::json;

use super::generate::{address, aside, caller, collected, provider, stream};
use super::{Context, Reply};
use crate::App;
use crate::answer::{Answer, Call};
use crate::body::{parse, read_any_json, read_json};
use crate::error::{Failure, json as reply};
use crate::names::{Chosen, choose, entry, resolve, with_all};
use crate::query::pairs;
use crate::recording::Kept;

/// How long a probe that generates may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Routes of peers that this server does not have yet, and what to do instead.
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("/v1/audio/speech", MEDIA),
    ("/v1/audio/transcriptions", MEDIA),
    ("/v1/audio/translations", MEDIA),
    ("/v1/images/edits", MEDIA),
    ("/v1/images/generations", MEDIA),
    ("/v1/images/variations", MEDIA),
    ("/v1/moderations", MODERATION),
];
const MEDIA: &str = "models here read and write text; use a server of such models";
const MODERATION: &str = "there is no classifier here; ask a model with /v1/chat/completions and a schema";

pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let is_large = body.is_large();
    let caller = caller("tok", &context);
    let mut call = parse(body, move |bytes| tokens::parse_tokenize(bytes, caller)).await?;
    let Chosen { provider, info, .. } = choose(&app, provider, call.model.as_deref(), None).await?;
    if let TokenizeInput::Chat(request) = &mut call.input {
        check_vocabulary(request, info.n_vocab)?;
        request.model = Some(info.id.clone());
    }
    let text = aside(&app, is_large, move || {
        let model = Some(info.id.as_str());
        let tokens = match &call.input {
            TokenizeInput::Text { text, add_special, parse_special } => {
                provider.tokenize(model, text, *add_special, *parse_special)?
            }
            TokenizeInput::Chat(request) => provider.prompt(request)?.tokens,
        };
        let bytes = if call.needs_bytes() { provider.token_bytes(model, &tokens)? } else { Vec::new() };
        Ok(call.reply(&tokens, &bytes, info.n_ctx))
    });
    Ok(reply(StatusCode::OK, text.await?))
}

pub(super) async fn detokenize(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let is_large = body.is_large();
    let call = parse(body, tokens::parse_detokenize).await?;
    let Chosen { provider, info, .. } = choose(&app, provider, call.model.as_deref(), None).await?;
    let text = aside(&app, is_large, move || {
        Ok(DetokenizeCall::reply(&provider.token_bytes(Some(&info.id), &call.tokens)?))
    });
    Ok(reply(StatusCode::OK, text.await?))
}

pub(super) async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let is_large = body.is_large();
    let caller = caller("tmpl", &context);
    let mut request = parse(body, move |bytes| chat::parse(bytes, caller)).await?.request;
    let Chosen { provider, info, .. } = choose(&app, provider, request.model.as_deref(), None).await?;
    check_vocabulary(&request, info.n_vocab)?;
    request.model = Some(info.id);
    let text = aside(&app, is_large, move || Ok(tokens::template_reply(&provider.prompt(&request)?.text)));
    Ok(reply(StatusCode::OK, text.await?))
}

pub(super) async fn generate(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let kept = body.kept(&app, &context);
    let caller = caller("gen", &context);
    let id = caller.id.clone();
    let mut call = parse(body, move |bytes| generate::parse(bytes, caller)).await?;
    let (provider, _) = address(&app, &context, provider, id, &mut call.requests).await?;
    if call.stream {
        let encoder = Box::new(GenerateEncoder::new(&call));
        let call = Call { requests: call.requests, kept };
        return stream(&app, provider, &context, call, encoder).await;
    }
    let mut collector = GenerateCollector::new(&call);
    let call = Call { requests: call.requests, kept };
    let mut answer = Answer::start(&app, provider, &context, call).await?;
    answer.each(|prompt, delta| collector.push(prompt, delta)).await?;
    collected(collector.finish())
}

pub(super) async fn infill(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let kept = body.kept(&app, &context);
    let caller = caller("infill", &context);
    let id = caller.id.clone();
    let mut call = parse(body, move |bytes| infill::parse(bytes, caller)).await?;
    let (provider, envelope) =
        address(&app, &context, provider, id, std::slice::from_mut(&mut call.request)).await?;
    let stream_it = call.stream;
    let call = Call { requests: vec![call.request], kept };
    if stream_it {
        return stream(&app, provider, &context, call, Box::new(InfillEncoder::new(envelope))).await;
    }
    let mut collector = InfillCollector::new(envelope);
    let mut answer = Answer::start(&app, provider, &context, call).await?;
    answer.each(|_, delta| collector.push(delta)).await?;
    collected(collector.finish())
}

/// A model's state; looking loads nothing.
async fn entry_of(
    app: &App,
    provider: &Arc<dyn Provider>,
    wanted: Option<&str>,
) -> Result<(String, ModelEntry), ProviderError> {
    match entry(&app.config, &**provider, wanted) {
        Err(error) => Err(with_all(provider, error).await),
        found => found,
    }
}

pub(super) async fn props(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Reply {
    let provider = provider(&app)?;
    let pairs = pairs(query.as_deref().unwrap_or_default());
    let (name, entry) = entry_of(&app, &provider, model_of(&pairs)).await?;
    let page = pages::props(&name, &entry.info, &entry.status, env!("CARGO_PKG_VERSION"));
    Ok(reply(StatusCode::OK, page))
}

pub(super) async fn slots(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Reply {
    let provider = provider(&app)?;
    let pairs = pairs(query.as_deref().unwrap_or_default());
    let (_, ModelEntry { info, status, .. }) = entry_of(&app, &provider, model_of(&pairs)).await?;
    let mut fails_when_full = false;
    for (_, value) in pairs.iter().filter(|(n, _)| n == "fail_on_no_slot") {
        fails_when_full = match value.as_str() {
            "1" => true,
            "0" => false,
            other => {
                let other = ingle_api::shown(other);
                let text = format!("`fail_on_no_slot` is `{other}`; it can be 0 or 1");
                return Err(RequestError::field("fail_on_no_slot", text).into());
            }
        };
    }
    if fails_when_full && pages::is_full(&status) {
        let text = "every place for an answer is taken; more wait in the queue";
        return Err(ProviderError::Busy(text.into()).into());
    }
    Ok(reply(StatusCode::OK, pages::slots(&info, &status)))
}

pub(super) async fn model_info(State(app): State<Arc<App>>) -> Reply {
    let provider = provider(&app)?;
    let (name, info) = resolve(&app.config, &*provider, None)?;
    Ok(reply(StatusCode::OK, pages::model_info(&name, &info)))
}

pub(super) async fn server_info(State(app): State<Arc<App>>) -> Reply {
    let provider = provider(&app)?;
    let (name, entry) = entry(&app.config, &*provider, None)?;
    let page = pages::server_info(&name, &entry.info, &entry.status, env!("CARGO_PKG_VERSION"));
    Ok(reply(StatusCode::OK, page))
}

/// Each caller flushes what is cached for them: others' prompts stay.
pub(super) async fn flush_cache(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_any_json(&app, &headers, body).await?;
    parse(body, pages::parse_flush).await?;
    provider.flush_cache(&context.principal)?;
    Ok("The cache is flushed.\n".into_response())
}

/// Whether a token really comes out.
pub(super) async fn health_generate(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
) -> Reply {
    let provider = provider(&app)?;
    let task = Task::Completion { prompt: Prompt::Text("1".into()), echo: Echo::No };
    let caller = caller("probe", &context);
    let mut request = Request::new(caller.id.clone(), caller.principal, task);
    request.max_tokens = Some(1);
    let (provider, _) =
        address(&app, &context, provider, caller.id, std::slice::from_mut(&mut request)).await?;
    let probe = async {
        let call = Call { requests: vec![request], kept: Kept::default() };
        Answer::start(&app, provider, &context, call).await?.each(|_, _| ()).await
    };
    match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
        Ok(done) => done?,
        Err(_) => {
            let text = format!("no token came within {} s", PROBE_TIMEOUT.as_secs());
            return Err(ProviderError::Unavailable(text).into());
        }
    }
    Ok(reply(StatusCode::OK, json!({ "status": "ok" }).to_string()))
}

pub(super) async fn not_yet(advice: &'static str) -> Response {
    Failure::NotYet(advice).into_response()
}

/// The model that a query names.
fn model_of(pairs: &[(String, String)]) -> Option<&str> {
    pairs.iter().find(|(name, _)| name == "model").map(|(_, value)| value.as_str())
}
