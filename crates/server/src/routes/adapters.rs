//! Adapters at run time: llama-server's, vLLM's and SGLang's routes. Whoever changes what others get needs the scope.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use ingle_api::RequestError;
use ingle_api::native::adapters as wire;
use ingle_chat::{AdapterInfo, AdapterName, LoadAdapter, ProviderError};

use super::generate::{aside, provider};
use super::table::Routes;
use super::{Context, Reply};
use crate::App;
use crate::body::{parse, read_json};
use crate::config::Scope;
use crate::error::{Failure, json as reply};

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/lora-adapters", get(list).post(set))
        .route("/v1/load_lora_adapter", post(|app, who, head, body| load(Peer::Vllm, app, who, head, body)))
        .route(
            "/v1/unload_lora_adapter",
            post(|app, who, head, body| unload(Peer::Vllm, app, who, head, body)),
        )
        .route("/load_lora_adapter", post(|app, who, head, body| load(Peer::Sglang, app, who, head, body)))
        .route(
            "/unload_lora_adapter",
            post(|app, who, head, body| unload(Peer::Sglang, app, who, head, body)),
        )
}

async fn list(State(app): State<Arc<App>>) -> Reply {
    Ok(reply(StatusCode::OK, wire::list(&provider(&app)?.adapters(None)?)))
}

async fn set(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let wishes = read(&app, &context, &headers, body, wire::parse_scales).await?;
    provider(&app)?.set_adapters(None, &wishes)?;
    Ok(reply(StatusCode::OK, wire::scales_reply()))
}

/// Whose routes they are: the same is done, and told in other words.
#[derive(Clone, Copy)]
enum Peer {
    Vllm,
    Sglang,
}

impl Peer {
    /// That it is done.
    fn reply(self, app: &App, info: &AdapterInfo, done: &str) -> Reply {
        match self {
            Self::Vllm => Ok(wire::done(&info.name, done).into_response()),
            Self::Sglang => Ok(reply(StatusCode::OK, wire::loaded(&provider(app)?.adapters(None)?))),
        }
    }
}

async fn load(
    peer: Peer,
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let parse = match peer {
        Peer::Vllm => wire::parse_load,
        Peer::Sglang => wire::parse_sglang_load,
    };
    let wish = read(&app, &context, &headers, body, parse).await?;
    peer.reply(&app, &load_it(&app, wish).await?, "added")
}

async fn unload(
    peer: Peer,
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let name = read(&app, &context, &headers, body, wire::parse_unload).await?;
    peer.reply(&app, &unload_it(&app, name).await?, "removed")
}

/// A body of somebody who may change adapters.
async fn read<T: Send + 'static>(
    app: &Arc<App>,
    context: &Context,
    headers: &HeaderMap,
    body: Body,
    read: fn(&[u8]) -> Result<T, RequestError>,
) -> Result<T, Failure> {
    provider(app)?;
    if !app.auth.may(&context.principal, Scope::Adapters) {
        let message = "adapters are changed by keys with the scope `adapters`: ask the operator for it";
        return Err(ProviderError::Forbidden { message: message.into() }.into());
    }
    let body = read_json(app, headers, body).await?;
    parse(body, read).await
}

/// Files are read and weights packed, or let go of, where nobody else waits.
async fn load_it(app: &Arc<App>, wish: LoadAdapter) -> Result<AdapterInfo, Failure> {
    // An alias of the model is not the adapter's name to take, either.
    if app.config.aliases.iter().any(|alias| alias.name == wish.name) {
        let message =
            format!("`{}` is a name of a model already: choose another", ingle_api::shown(&wish.name));
        let param = Some("lora_name".to_owned());
        return Err(ProviderError::InvalidRequest { message, param }.into());
    }
    let provider = provider(app)?;
    let info = aside(app, false, move || provider.load_adapter(&wish)).await?;
    tracing::info!(adapter = %info.name, rank = info.rank, digest = %info.digest, "adapter loaded");
    Ok(info)
}

async fn unload_it(app: &Arc<App>, name: AdapterName) -> Result<AdapterInfo, Failure> {
    let provider = provider(app)?;
    let info = aside(app, false, move || provider.unload_adapter(None, &name)).await?;
    tracing::info!(adapter = %info.name, "adapter unloaded");
    Ok(info)
}
