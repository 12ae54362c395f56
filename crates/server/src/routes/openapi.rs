//! `/openapi.json`: the description of all routes.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// It is the same for every server, and takes a while to make.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(ingle_api::openapi::document()));

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}
