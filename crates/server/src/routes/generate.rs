//! Chat completions and completions.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use ingle_api::StreamEncoder;
use ingle_api::openai::chat::{self, ChatCollector, ChatEncoder};
use ingle_api::openai::completion::{self, CompletionCollector, CompletionEncoder};
use ingle_api::openai::{Caller, Envelope, check_vocabulary};
use ingle_chat::{ModelInfo, Provider, ProviderError, Request};

use super::{Context, Reply, now, unique};
use crate::App;
use crate::answer::{Answer, Call};
use crate::body::{BoundedBody, parse, read_json};
use crate::error::{Failure, json};
use crate::names::{Chosen, choose};
use crate::phase::Phase;
use crate::slot::SlotState;
use crate::sse::EventStream;

pub(super) async fn chat(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    chat_reply(&app, &context, body).await
}

/// The reply to a conversation, whoever sends it.
pub(crate) async fn chat_reply(app: &Arc<App>, context: &Context, body: BoundedBody) -> Reply {
    let provider = provider(app)?;
    let kept = body.kept(app, context);
    let caller = caller("chatcmpl", context);
    let id = caller.id.clone();
    let mut call = parse(body, move |bytes| chat::parse(bytes, caller)).await?;
    let (provider, envelope) =
        address(app, context, provider, id, std::slice::from_mut(&mut call.request)).await?;
    if call.streaming.stream {
        let encoder = Box::new(ChatEncoder::new(envelope, &call));
        let call = Call { requests: vec![call.request], kept };
        return stream(app, provider, context, call, encoder).await;
    }
    let mut collector = ChatCollector::new(envelope, &call);
    let call = Call { requests: vec![call.request], kept };
    let mut answer = Answer::start(app, provider, context, call).await?;
    answer.each(|_, delta| collector.push(delta)).await?;
    collected(collector.finish())
}

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    completion_reply(&app, &context, body).await
}

/// The reply to raw prompts, whoever sends them.
pub(crate) async fn completion_reply(app: &Arc<App>, context: &Context, body: BoundedBody) -> Reply {
    let provider = provider(app)?;
    let kept = body.kept(app, context);
    let caller = caller("cmpl", context);
    let id = caller.id.clone();
    let mut call = parse(body, move |bytes| completion::parse(bytes, caller)).await?;
    let (provider, envelope) = address(app, context, provider, id, &mut call.requests).await?;
    if call.streaming.stream {
        let encoder = Box::new(CompletionEncoder::new(envelope, &call));
        let call = Call { requests: call.requests, kept };
        return stream(app, provider, context, call, encoder).await;
    }
    let mut collector = CompletionCollector::new(envelope, &call);
    let call = Call { requests: call.requests, kept };
    let mut answer = Answer::start(app, provider, context, call).await?;
    answer.each(|prompt, delta| collector.push(prompt, delta)).await?;
    collected(collector.finish())
}

pub(super) fn caller(prefix: &str, context: &Context) -> Caller {
    let id = format!("{prefix}-{}", unique());
    tracing::Span::current().record("answer", &id);
    Caller { id, principal: context.principal.clone() }
}

/// The provider, if requests are taken now.
pub(super) fn provider(app: &App) -> Result<Arc<dyn Provider>, Failure> {
    if app.phases.now() != Phase::Running {
        return Err(Failure::ShuttingDown);
    }
    match app.slot.state() {
        SlotState::Ready(provider) => Ok(provider),
        SlotState::Loading { .. } => Err(Failure::Loading),
        SlotState::Failed { .. } => Err(Failure::LoadFailed),
    }
}

/// Says which model answers the requests, which are alike but for their prompts, and when, and takes hold of it.
pub(super) async fn address(
    app: &App,
    context: &Context,
    provider: Arc<dyn Provider>,
    id: String,
    requests: &mut [Request],
) -> Result<(Arc<dyn Provider>, Envelope), Failure> {
    let first = requests.first().expect("a body holds at least one request");
    let Chosen { provider, name, info } = choose(app, provider, first.model.as_deref(), None).await?;
    let fingerprint = settle(context, &*provider, &info, requests)?;
    for request in requests {
        check_vocabulary(request, info.n_vocab)?;
        context.place(&request.principal, &mut request.priority, &mut request.terms)?;
    }
    Ok((provider, Envelope { id, created: now(), model: name, fingerprint }))
}

/// Settles which model, and which of its adapters, answers the requests, which are alike in that; gives the fingerprint of
/// their answers.
pub(super) fn settle(
    context: &Context,
    provider: &dyn Provider,
    info: &ModelInfo,
    requests: &mut [Request],
) -> Result<String, ProviderError> {
    let model = info.parent.as_ref().unwrap_or(&info.id);
    let wished = requests.first().and_then(|request| request.adapters.as_deref());
    let (adapters, fingerprint) = match &context.rerun {
        None => provider.adapters_of(info, wished)?,
        Some(rerun) => {
            let base = ModelInfo { id: model.clone(), parent: None, ..info.clone() };
            provider.adapters_of(&base, Some(&rerun.wishes(&provider.adapters(Some(model))?)?))?
        }
    };
    for request in requests {
        request.model = Some(model.clone());
        request.adapters = adapters.clone();
    }
    Ok(fingerprint)
}

pub(super) async fn stream(
    app: &Arc<App>,
    provider: Arc<dyn Provider>,
    context: &Context,
    call: Call,
    encoder: Box<dyn StreamEncoder>,
) -> Reply {
    let answer = Answer::start(app, provider, context, call).await?;
    Ok(EventStream::new(answer, encoder, app.config.keep_alive).into_response())
}

pub(super) fn collected(body: Option<String>) -> Reply {
    match body {
        Some(body) => Ok(json(StatusCode::OK, body)),
        None => Err(ProviderError::Internal("a choice never finished".into()).into()),
    }
}

/// Does what takes a while where it keeps nobody waiting; of large inputs one at a time.
pub(super) async fn aside<T: Send + 'static>(
    app: &App,
    is_large: bool,
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, Failure> {
    let turn = match is_large {
        true => Some(app.large_start.clone().acquire_owned().await.expect("never closed")),
        false => None,
    };
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    Ok(done.await.map_err(|_| Failure::Panicked)??)
}
