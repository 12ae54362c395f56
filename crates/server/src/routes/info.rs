//! Pages about the server: models, health, metrics, version.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ingle_api::RequestError;
use ingle_api::anthropic::models as anthropic;
use ingle_api::ollama::BANNER;
use ingle_api::openai::models::{Model, ModelList};
use ingle_chat::{Condition, ModelEntry, ModelState, Provider, ProviderError, ProviderStatus};
use serde_json::{Value, json};

use super::generate::provider;
use super::{Context, Reply};
use crate::App;
use crate::error::{Dialect, Failure, json as reply};
use crate::names::{listed, listed_entries, undiscovered, untagged};
use crate::phase::Phase;
use crate::query::pairs;
use crate::slot::SlotState;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// People see what this is. Programs get the words by which Ollama's clients know that they can talk to it.
pub(super) async fn root(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let page = if accept.contains("text/html") {
        format!(
            "Ingle {VERSION} is running.\nOpenAI's API is under /v1, Ollama's under /api; health at /health, metrics at \
             /metrics.\n"
        )
    } else {
        BANNER.to_owned()
    };
    ([(header::VARY, "accept")], page).into_response()
}

pub(super) async fn version() -> Response {
    reply(StatusCode::OK, json!({ "name": "ingle", "version": VERSION }).to_string())
}

/// The models, in the shape that the caller's dialect has for them.
pub(super) async fn models(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    RawQuery(query): RawQuery,
) -> Reply {
    let provider = provider(&app)?;
    let pairs = pairs(query.as_deref().unwrap_or_default());
    if context.dialect == Dialect::Anthropic {
        let query =
            anthropic::ListQuery::parse(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        // What is gone goes from the list first.
        let further = undiscovered(&provider).await;
        let mut all = listed(&app.config, &*provider);
        all.extend(further.into_iter().map(|(name, entry)| (name, entry.info)));
        return Ok(reply(StatusCode::OK, anthropic::list(&all, &query)?));
    }
    if let Some((name, _)) = pairs.first() {
        let name = ingle_api::shown(name);
        let text = format!(
            "`{name}` has no place here: the list is whole; in Anthropic's shape, with the header `anthropic-version`, it \
             has pages"
        );
        return Err(RequestError::field(name, text).into());
    }
    let further = undiscovered(&provider).await;
    let mut all = listed_entries(&app.config, &*provider);
    all.extend(further);
    let list = ModelList::new(all.iter().map(|(name, entry)| Model::new(name, entry)).collect());
    Ok(reply(StatusCode::OK, list.into_json()))
}

pub(super) async fn model(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let provider = provider(&app)?;
    // A name that is no text is no model's.
    let Ok(Path(id)) = id else { return Err(Failure::NotFound) };
    let further = undiscovered(&provider).await;
    let mut all = listed_entries(&app.config, &*provider);
    all.extend(further);
    let found = |is_it: &dyn Fn(&str) -> bool| all.iter().find(|(name, _)| is_it(name));
    let exactly = found(&|name| name == id).or_else(|| found(&|name| untagged(name) == untagged(&id)));
    // As the store takes names: capital letters tell no two models apart that differ in nothing else.
    match exactly.or_else(|| found(&|name| untagged(name).eq_ignore_ascii_case(untagged(&id)))) {
        Some((name, entry)) => {
            let page = match context.dialect {
                Dialect::Anthropic => anthropic::model(name, &entry.info),
                _ => Model::new(name, entry).into_json(),
            };
            Ok(reply(StatusCode::OK, page))
        }
        None => Err(Failure::Provider(ProviderError::UnknownModel {
            model: ingle_api::shown(&id),
            available: all.into_iter().map(|(name, _)| name).collect(),
        })),
    }
}

/// Whether the process lives: the answer is always yes.
pub(super) async fn live() -> Response {
    reply(StatusCode::OK, json!({ "status": "ok", "live": true }).to_string())
}

/// Whether requests are answered now, and how busy the provider is.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let uptime_s = app.started.elapsed().as_secs();
    let mut page =
        json!({ "status": "ok", "live": true, "ready": false, "version": VERSION, "uptime_s": uptime_s });
    let failure = match app.slot.state() {
        _ if app.phases.now() != Phase::Running => {
            page["status"] = "shutting down".into();
            Some(Failure::ShuttingDown)
        }
        SlotState::Loading { progress } => {
            add_loading(&mut page, progress);
            Some(Failure::Loading)
        }
        SlotState::Failed { .. } => {
            page["status"] = "model failed to load".into();
            Some(Failure::LoadFailed)
        }
        SlotState::Ready(provider) => {
            let status = provider.status();
            add_status(&mut page, &status);
            add_models(&mut page, &*provider);
            if let Some(progress) = status.loading {
                add_loading(&mut page, progress);
                Some(Failure::Loading)
            } else if let Condition::Unusable(why) = status.condition {
                page["status"] = "model unusable".into();
                Some(Failure::Provider(ProviderError::Unavailable(why)))
            } else if status.ready {
                if let Condition::Suspect(why) = status.condition {
                    page["status"] = "model suspect".into();
                    page["suspect"] = why.into();
                }
                None
            } else {
                page["status"] = "not ready".into();
                Some(Failure::Provider(ProviderError::Unavailable("it does not take requests now".into())))
            }
        }
    };
    page["ready"] = failure.is_none().into();
    match failure {
        None => reply(StatusCode::OK, page.to_string()),
        Some(failure) => {
            // In the shape that llama-server's clients poll for.
            let error = failure.object();
            page["error"] = json!({ "code": 503, "message": error.message, "type": error.kind });
            let mut response = failure.into_response();
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = page.to_string().into();
            response
        }
    }
}

fn add_loading(page: &mut Value, progress: f32) {
    page["status"] = "loading model".into();
    page["progress"] = json!((f64::from(progress) * 1000.0).round() / 1000.0);
}

/// The models, and where they come and go, the state of each.
fn add_models(page: &mut Value, provider: &dyn Provider) {
    let entries = provider.entries();
    page["models"] = entries.iter().map(|entry| entry.info.id.as_str()).collect();
    if let Some(budget) = provider.memory_budget() {
        page["memory_budget_bytes"] = budget.into();
    }
    if entries.iter().any(|entry| entry.is_managed) {
        let state = |entry: &ModelEntry| {
            let mut state = json!({ "state": entry.state.name(), "memory_bytes": entry.memory_bytes });
            if let ModelState::Loading(progress) = entry.state {
                state["progress"] = json!((f64::from(progress) * 1000.0).round() / 1000.0);
            }
            (entry.info.id.clone(), state)
        };
        page["model_states"] = Value::Object(entries.iter().map(state).collect());
    }
}

fn add_status(page: &mut Value, status: &ProviderStatus) {
    page["requests"] = json!({ "running": status.running, "waiting": status.waiting });
    page["memory_bytes"] = status.memory_bytes.into();
    page["tokens_per_second"] =
        json!({ "prefill": status.prefill_tokens_per_s, "decode": status.decode_tokens_per_s });
    page["kv_blocks"] = json!({
        "used": status.kv_blocks_used, "cached": status.kv_blocks_cached, "total": status.kv_blocks_total,
    });
}

fn render_records((written, dropped): (u64, u64)) -> String {
    let counter = |name: &str, help: &str, value: u64| {
        format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n")
    };
    counter("ingle_records_written_total", "Records of requests that were written.", written)
        + &counter("ingle_records_dropped_total", "Records of requests that were dropped.", dropped)
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (entries, budget) = match app.slot.state() {
        SlotState::Ready(provider) => (provider.entries(), provider.memory_budget()),
        _ => (Vec::new(), None),
    };
    let mut page = app.metrics.render(&entries, budget);
    if let Some(records) = &app.config.records {
        page.push_str(&render_records(records.counts()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}
