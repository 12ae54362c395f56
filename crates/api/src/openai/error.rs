//! The shape of errors: `{"error": {"message", "type", "param", "code"}}`.

use ingle_chat::ProviderError;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::RequestError;

/// An error reply.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    /// The only field.
    pub error: ErrorObject,
}

/// What went wrong, for people and for programs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ErrorObject {
    /// For people: what happened, to what, what to do.
    pub message: String,
    /// A coarse class.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// For programs: a word, or a number where peers send one.
    pub code: Value,
}

impl ErrorObject {
    /// An error of a class with a code.
    pub fn new(kind: &'static str, code: impl Into<Value>, message: impl Into<String>) -> Self {
        Self { message: message.into(), kind, param: None, code: code.into() }
    }

    /// The server is up and the model is not, in the words llama-server's clients wait for.
    pub fn loading() -> Self {
        Self::new("unavailable_error", 503, "Loading model")
    }

    /// As a reply body.
    pub fn into_json(self) -> String {
        super::json(&ErrorBody { error: self })
    }
}

impl From<&RequestError> for ErrorObject {
    fn from(e: &RequestError) -> Self {
        let code = e.code.map_or(Value::Null, Value::from);
        Self { message: e.message.clone(), kind: "invalid_request_error", param: e.param.clone(), code }
    }
}

impl From<&ProviderError> for ErrorObject {
    /// What is ours to know (the text of internal errors) stays out of the reply; the caller logs it.
    fn from(e: &ProviderError) -> Self {
        let message = e.to_string();
        match e {
            ProviderError::InvalidRequest { param, .. } => Self {
                param: param.as_deref().map(|p| wire_name(p).to_owned()),
                ..Self::new("invalid_request_error", Value::Null, message)
            },
            ProviderError::ContextLength { n_ctx, .. } => {
                // Many clients know by OpenAI's words alone that it is about the length.
                let message = format!(
                    "this model's maximum context length is {n_ctx} tokens: {message}; shorten the prompt or ask \
                     for fewer tokens"
                );
                Self::new("invalid_request_error", "context_length_exceeded", message)
            }
            ProviderError::Forbidden { .. } => Self::new("invalid_request_error", "scope_missing", message),
            ProviderError::UnknownModel { .. } => Self {
                param: Some("model".into()),
                ..Self::new("invalid_request_error", "model_not_found", message)
            },
            ProviderError::DeadlineExceeded { .. } => {
                Self::new("timeout_error", "deadline_exceeded", message)
            }
            ProviderError::Overloaded { .. } | ProviderError::TooLate { .. } => {
                Self::new("rate_limit_error", "rate_limit_exceeded", message)
            }
            ProviderError::Unavailable(_) | ProviderError::Busy(_) => {
                Self::new("unavailable_error", 503, message)
            }
            ProviderError::Unusable(_) => Self::new("server_error", "model_unusable", message),
            ProviderError::Upstream(_) => Self::new("server_error", "upstream_failed", message),
            ProviderError::Internal(_) => Self::new(
                "server_error",
                "internal_error",
                "internal error; the server's log says more under this request's id",
            ),
        }
    }
}

/// This dialect's name of a field that has another one in `chat`.
fn wire_name(neutral: &str) -> &str {
    match neutral {
        "template_vars" => "chat_template_kwargs",
        "order" => "samplers",
        "format" => "response_format",
        "one_tool_call" => "parallel_tool_calls",
        "reasoning.budget_tokens" => "reasoning.max_tokens",
        same => same,
    }
}
