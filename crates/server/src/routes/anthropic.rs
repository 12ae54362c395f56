//! Anthropic's messages, and the counting of their tokens.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use ingle_api::anthropic::messages::{parse, parse_count};
use ingle_api::anthropic::{MessageCollector, MessageEncoder, count_body, prompt_too_long};
use ingle_api::openai::Caller;
use ingle_chat::{Provider, ProviderError, Request};

use super::generate::{address, aside, collected, provider};
use super::{Context, Reply, unique};
use crate::App;
use crate::answer::{Answer, Call};
use crate::body::{parse as parse_body, read_json};
use crate::error::{Failure, json};
use crate::recording::Kept;
use crate::sse::EventStream;

pub(super) async fn messages(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let kept = body.kept(&app, &context);
    let caller = caller(&context);
    let id = caller.id.clone();
    let mut call = parse_body(body, move |bytes| parse(bytes, caller)).await?;
    let envelope = address(&app, &*provider, id, std::slice::from_mut(&mut call.request))?;
    if call.stream {
        let encoder = Box::new(MessageEncoder::new(envelope, &call));
        let answer = start(&app, provider, &context, call.request, kept).await?;
        return Ok(EventStream::new(answer, encoder, app.config.keep_alive).into_response());
    }
    let mut collector = MessageCollector::new(envelope, &call);
    let mut answer = start(&app, provider, &context, call.request, kept).await?;
    answer.each(|_, delta| collector.push(delta)).await?;
    collected(collector.finish())
}

pub(super) async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let provider = provider(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let is_large = body.is_large();
    let caller = caller(&context);
    let id = caller.id.clone();
    let mut request = parse_body(body, move |bytes| parse_count(bytes, caller)).await?;
    address(&app, &*provider, id, std::slice::from_mut(&mut request))?;
    let n_tokens = match aside(&app, is_large, move || provider.prompt(&request)).await {
        Ok(prompt) => prompt.tokens.len(),
        // A prompt that is too long has a length.
        Err(Failure::Provider(ProviderError::ContextLength { prompt_tokens, .. })) => prompt_tokens,
        Err(failure) => return Err(failure),
    };
    Ok(json(StatusCode::OK, count_body(n_tokens)))
}

fn caller(context: &Context) -> Caller {
    let id = format!("msg_{}", unique());
    tracing::Span::current().record("answer", &id);
    Caller { id, principal: context.principal.clone() }
}

/// Starts an answer. A token limit beyond the context's end is no mistake in this dialect, whose clients send large
/// ones: the answer ends where the context does, and says so.
async fn start(
    app: &Arc<App>,
    provider: Arc<dyn Provider>,
    context: &Context,
    mut request: Request,
    kept: Kept,
) -> Result<Answer, Failure> {
    let call = |request: &Request| Call { requests: vec![request.clone()], kept: kept.clone() };
    let first = Answer::start(app, provider.clone(), context, call(&request)).await;
    match first {
        Err(Failure::Provider(ProviderError::ContextLength { prompt_tokens, n_ctx, .. })) => {
            let room = n_ctx.saturating_sub(prompt_tokens);
            if room == 0 {
                let prompt_tokens_max =
                    n_ctx.saturating_sub(request.max_tokens.map_or(1, |n| n.min(1)) as usize);
                return Err(prompt_too_long(prompt_tokens, prompt_tokens_max).into());
            }
            request.max_tokens = u32::try_from(room).ok();
            Answer::start(app, provider, context, call(&request)).await
        }
        other => other,
    }
}
