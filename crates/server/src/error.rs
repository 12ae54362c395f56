//! Everything that can go wrong with a request, and its status.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ingle_api::RequestError;
use ingle_api::openai::ErrorObject;
use ingle_api::{anthropic, ollama};
use ingle_chat::ProviderError;
use ingle_ledger::LedgerError;
use serde_json::Value;

/// Why a request has no regular reply.
#[derive(Debug)]
pub(crate) enum Failure {
    Request(RequestError),
    Provider(ProviderError),
    Ledger(LedgerError),
    StoresNothing,
    StoresNoFiles,
    Unauthorized,
    ForeignCaller,
    UnsupportedMediaType,
    /// What should be a form is none.
    NoForm,
    BodyTooLarge {
        bytes_max: usize,
    },
    BodyTimeout,
    BodyBroken,
    TooManyBodies,
    NotFound,
    /// No model of this name where it was looked for; what was said.
    NoSuchModel(String),
    MethodNotAllowed,
    /// A route of peers that is not here yet; what to do instead.
    NotYet(&'static str),
    Loading,
    LoadFailed,
    ShuttingDown,
    Panicked,
}

impl From<RequestError> for Failure {
    fn from(e: RequestError) -> Self {
        Self::Request(e)
    }
}

impl From<ProviderError> for Failure {
    fn from(e: ProviderError) -> Self {
        Self::Provider(e)
    }
}

impl From<LedgerError> for Failure {
    fn from(e: LedgerError) -> Self {
        Self::Ledger(e)
    }
}

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            // Not 501, which clients take for an accident and try again.
            Self::Request(_) | Self::BodyBroken | Self::NotYet(_) => StatusCode::BAD_REQUEST,
            Self::Provider(e) => match e {
                ProviderError::InvalidRequest { .. } | ProviderError::ContextLength { .. } => {
                    StatusCode::BAD_REQUEST
                }
                ProviderError::Forbidden { .. } => StatusCode::FORBIDDEN,
                ProviderError::UnknownModel { .. } => StatusCode::NOT_FOUND,
                ProviderError::Overloaded { .. } | ProviderError::TooLate { .. } => {
                    StatusCode::TOO_MANY_REQUESTS
                }
                ProviderError::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
                ProviderError::Unavailable(_) | ProviderError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
                ProviderError::Upstream(_) => StatusCode::BAD_GATEWAY,
                ProviderError::Unusable(_) | ProviderError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Ledger(
                LedgerError::NoSuchResponse { .. }
                | LedgerError::NoSuchFile { .. }
                | LedgerError::NoSuchBatch { .. },
            )
            | Self::StoresNothing
            | Self::StoresNoFiles => StatusCode::NOT_FOUND,
            Self::Ledger(LedgerError::Busy { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Ledger(LedgerError::FileTooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Ledger(
                LedgerError::Full { .. }
                | LedgerError::TooManyFiles { .. }
                | LedgerError::FileInUse { .. }
                | LedgerError::NotCancellable { .. },
            ) => StatusCode::BAD_REQUEST,
            Self::Ledger(LedgerError::TooManyBatches { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Ledger(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ForeignCaller => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType | Self::NoForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyBodies => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound | Self::NoSuchModel(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Loading | Self::LoadFailed | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn object(&self) -> ErrorObject {
        let invalid =
            |code: &str, message: &str| ErrorObject::new("invalid_request_error", code.to_owned(), message);
        match self {
            Self::Request(e) => e.into(),
            Self::Provider(e) => e.into(),
            Self::Ledger(LedgerError::NoSuchResponse { id }) => invalid(
                "response_not_found",
                &format!("there is no response `{id}`: it was never stored, was deleted, or is too old"),
            ),
            Self::Ledger(LedgerError::Busy { .. }) => {
                ErrorObject::new("unavailable_error", 503, "the data folder is busy; try again in 1 s")
            }
            Self::Ledger(LedgerError::NoSuchFile { id }) => invalid(
                "file_not_found",
                &format!("there is no file `{id}`: it was never uploaded, was deleted, or has expired"),
            ),
            Self::Ledger(LedgerError::NoSuchBatch { id }) => {
                invalid("batch_not_found", &format!("there is no batch `{id}`"))
            }
            Self::Ledger(LedgerError::FileTooLarge { bytes_max }) => invalid(
                "file_too_large",
                &format!("the file is larger than the {bytes_max} bytes that this server takes; split it"),
            ),
            Self::Ledger(LedgerError::Full { bytes_max }) => invalid(
                "storage_full",
                &format!("your files may have {bytes_max} bytes together; delete some that you need no more"),
            ),
            Self::Ledger(LedgerError::TooManyFiles { count_max }) => invalid(
                "too_many_files",
                &format!(
                    "you have {count_max} files, the most there may be; delete some that you need no more"
                ),
            ),
            Self::Ledger(LedgerError::FileInUse { id, batch }) => invalid(
                "file_in_use",
                &format!("file `{id}` is the input of batch `{batch}`; wait for its end, or cancel it"),
            ),
            Self::Ledger(LedgerError::TooManyBatches { count_max }) => ErrorObject::new(
                "rate_limit_error",
                "too_many_batches",
                format!("{count_max} of your batches are unfinished, the most there may be; wait for one"),
            ),
            Self::Ledger(LedgerError::NotCancellable { id, status }) => invalid(
                "batch_not_cancellable",
                &format!("batch `{id}` is {status}; there is nothing to cancel"),
            ),
            // Where its files are is the operator's to know.
            Self::Ledger(_) => ErrorObject::new(
                "server_error",
                "internal_error",
                "what is stored cannot be read or written; the server's log says why",
            ),
            Self::StoresNothing => invalid(
                "responses_not_stored",
                "this server stores no responses: its operator gave it no data folder",
            ),
            Self::StoresNoFiles => invalid(
                "files_not_stored",
                "this server has no files and batches: its operator gave it no data folder, or one that another server \
                 uses",
            ),
            Self::Unauthorized => invalid(
                "invalid_api_key",
                "no valid API key: send one as `Authorization: Bearer …` or as `x-api-key`",
            ),
            Self::ForeignCaller => invalid(
                "forbidden_host",
                "this server has no API key and therefore answers only under `localhost`, an IP address or a \
                 configured host name, and not to other sites' pages",
            ),
            Self::UnsupportedMediaType => invalid(
                "unsupported_media_type",
                "the body must be JSON, not compressed: send `Content-Type: application/json`",
            ),
            Self::NoForm => invalid(
                "unsupported_media_type",
                "the body must be a form: send `Content-Type: multipart/form-data` with `purpose` and `file`",
            ),
            Self::BodyTooLarge { bytes_max } => invalid(
                "body_too_large",
                &format!("the body is larger than the {bytes_max} bytes that this server takes; send less"),
            ),
            Self::BodyTimeout => invalid("body_timeout", "the body came too slowly; send it again"),
            Self::BodyBroken => {
                invalid("body_broken", "the body ended early or was framed wrongly; send it again")
            }
            Self::TooManyBodies => ErrorObject::new(
                "rate_limit_error",
                "rate_limit_exceeded",
                "too many large requests at a time; try again in 1 s",
            ),
            Self::NotFound => invalid(
                "unknown_route",
                "no such route; there are those that the documentation lists, under /v1 and /api",
            ),
            Self::NoSuchModel(message) => invalid("model_not_found", message),
            Self::MethodNotAllowed => invalid(
                "method_not_allowed",
                "this route does not take this method; the header `Allow` says which",
            ),
            Self::NotYet(advice) => {
                invalid("not_supported_yet", &format!("this route is not supported yet: {advice}"))
            }
            Self::Loading => ErrorObject::loading(),
            Self::LoadFailed => ErrorObject::new(
                "unavailable_error",
                503,
                "the model could not be loaded; the server's log says why",
            ),
            Self::ShuttingDown => ErrorObject::new(
                "unavailable_error",
                503,
                "the server is shutting down; try again elsewhere or later",
            ),
            Self::Panicked => ErrorObject::from(&ProviderError::Internal(String::new())),
        }
    }

    /// Logs what is ours, so that the reply need not say it.
    pub fn log(&self) {
        match self {
            Self::Provider(ProviderError::Internal(text)) => tracing::error!("internal error: {text}"),
            Self::Ledger(e) if self.status().is_server_error() => tracing::error!("data folder: {e}"),
            Self::Panicked => tracing::error!("a handler panicked"),
            other => tracing::debug!(status = other.status().as_u16(), "refused: {}", other.code()),
        }
    }

    /// A word for logs; never the client's text.
    fn code(&self) -> String {
        match self.object().code {
            Value::String(code) => code,
            other => other.to_string(),
        }
    }

    /// When to come back, in milliseconds.
    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Ledger(LedgerError::Busy { .. }) => Some(1000),
            Self::Ledger(LedgerError::TooManyBatches { .. }) => Some(60_000),
            Self::TooManyBodies
            | Self::Loading
            | Self::Provider(ProviderError::Unavailable(_) | ProviderError::Busy(_)) => Some(1000),
            Self::Provider(error) => error.retry_after().map(|after| after.as_millis() as u64),
            _ => None,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.log();
        let object = self.object();
        let mut response = json(self.status(), object.clone().into_json());
        // The gate, which knows the route's dialect, says it again in that one's shape.
        response.extensions_mut().insert(object);
        let headers = response.headers_mut();
        if let Some(ms) = self.retry_after_ms() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
            headers.insert("retry-after-ms", HeaderValue::from(ms.max(1)));
        }
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body would be read as the next request.
            Self::BodyTooLarge { .. }
            | Self::Ledger(LedgerError::FileTooLarge { .. })
            | Self::BodyTimeout
            | Self::TooManyBodies => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// Whose client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// The dialect of a request, by its path, known or not; lists of models are there in two.
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        let is_in = |root: &str| path.strip_prefix(root).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        match () {
            () if is_in("/v1/messages") => Self::Anthropic,
            () if is_in("/v1/models") && headers.contains_key("anthropic-version") => Self::Anthropic,
            () if is_in("/api") => Self::Ollama,
            () => Self::OpenAi,
        }
    }

    /// The status by which this dialect's clients know that the server has too much to do, and try again.
    fn overloaded(self) -> StatusCode {
        match self {
            Self::OpenAi => StatusCode::TOO_MANY_REQUESTS,
            // It has no name in the standard.
            Self::Anthropic => StatusCode::from_u16(529).expect("a number of three digits"),
            Self::Ollama => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reply of a [`Failure`] in this dialect's shape; other replies stay as they are.
    pub fn translate(self, mut response: Response) -> Response {
        let Some(object) = response.extensions_mut().remove::<ErrorObject>() else { return response };
        if object.code == "rate_limit_exceeded" {
            *response.status_mut() = self.overloaded();
        }
        let body = match self {
            Self::OpenAi => return response,
            Self::Anthropic => anthropic::error_body(&object),
            Self::Ollama => ollama::error_body(&object),
        };
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
        response
    }
}

/// A JSON reply.
pub(crate) fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
