//! Batches: taking them on, showing how far they are, ending them.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use ingle_api::RequestError;
use ingle_api::openai::batches::{
    BatchCall, BatchListOptions, BatchObject, RequestCounts, list as shown_list, parse as parse_body,
};
use ingle_ledger::{Batch, BatchStatus, LedgerError, NewBatch};

use super::files::{files, path_id};
use super::{Context, Reply, now, unique};
use crate::App;
use crate::body::{parse, read_json};
use crate::error::{Failure, json};
use crate::query::pairs;

/// What a file must be for to be the input of a batch.
const PURPOSE: &str = "batch";

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let files = files(&app)?;
    let body = read_json(&app, &headers, body).await?;
    let BatchCall { input_file_id, endpoint, window, window_s, output_ttl_s, metadata } =
        parse(body, parse_body).await?;
    let tenant = &context.principal.tenant;
    let refused = |text: String| RequestError::field("input_file_id", text);
    let not_there = || {
        let id = ingle_api::shown(&input_file_id);
        let text = format!("there is no file `{id}`: it was never uploaded, was deleted, or has expired");
        Failure::Request(refused(text).with_code("file_not_found"))
    };
    let input = files.file(tenant, &input_file_id, now()).await?.ok_or_else(not_there)?;
    if input.purpose != PURPOSE {
        let text = format!("the purpose of `{}` is `{}`; upload it for `{PURPOSE}`", input.id, input.purpose);
        return Err(refused(text).into());
    }
    let batch = NewBatch {
        id: format!("batch_{}", unique()),
        key: context.principal.key.clone(),
        input_id: input_file_id.clone(),
        endpoint: endpoint.url().to_owned(),
        window,
        expires_at: now() + window_s,
        output_ttl: output_ttl_s,
        metadata,
    };
    let created = files.create_batch(tenant, &batch, now()).await.map_err(|error| match error {
        LedgerError::NoSuchFile { .. } => not_there(),
        other => other.into(),
    })?;
    app.batches.arrived();
    Ok(json(StatusCode::OK, shown(created).into_json()))
}

fn shown(batch: Batch) -> BatchObject {
    BatchObject {
        object: "batch",
        errors: BatchObject::errors(&batch.errors),
        status: batch.status.name(),
        created_at: batch.time(BatchStatus::Validating).unwrap_or_default(),
        in_progress_at: batch.time(BatchStatus::InProgress),
        finalizing_at: batch.time(BatchStatus::Finalizing),
        completed_at: batch.time(BatchStatus::Completed),
        failed_at: batch.time(BatchStatus::Failed),
        expired_at: batch.time(BatchStatus::Expired),
        cancelling_at: batch.time(BatchStatus::Cancelling),
        cancelled_at: batch.time(BatchStatus::Cancelled),
        request_counts: RequestCounts {
            total: batch.total,
            completed: batch.completed,
            failed: batch.failed,
        },
        metadata: serde_json::from_str(&batch.wanted.metadata).unwrap_or_default(),
        id: batch.wanted.id,
        endpoint: batch.wanted.endpoint,
        input_file_id: batch.wanted.input_id,
        completion_window: batch.wanted.window,
        expires_at: batch.wanted.expires_at,
        output_file_id: batch.output_id,
        error_file_id: batch.error_id,
    }
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let id = path_id(id)?;
    let found = files(&app)?.batch(&context.principal.tenant, &id).await?;
    let found = found.ok_or_else(|| LedgerError::NoSuchBatch { id: ingle_api::shown(&id) })?;
    Ok(json(StatusCode::OK, shown(found).into_json()))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    RawQuery(query): RawQuery,
) -> Reply {
    let query = pairs(query.as_deref().unwrap_or_default());
    let options = BatchListOptions::parse(query.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    let after = options.after.map(|id| ingle_api::shown(&id));
    let page = files(&app)?.batches(&context.principal.tenant, after.as_deref(), options.limit).await?;
    let items: Vec<BatchObject> = page.items.into_iter().map(shown).collect();
    Ok(json(StatusCode::OK, shown_list(&items, page.has_more)))
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let id = ingle_api::shown(&path_id(id)?);
    let batch = files(&app)?.cancel_batch(&context.principal.tenant, &id, now()).await?;
    app.batches.cancelled();
    Ok(json(StatusCode::OK, shown(batch).into_json()))
}
