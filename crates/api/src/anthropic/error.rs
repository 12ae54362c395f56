//! The shape of errors: `{"type": "error", "error": {"type", "message"}}`.

use serde_json::json;

use crate::openai::ErrorObject;

/// An error as a reply body, and as the data of an `error` event.
pub fn error_body(error: &ErrorObject) -> String {
    json!({ "type": "error", "error": { "type": kind(error), "message": error.message } }).to_string()
}

/// The class that clients tell apart: more of them than OpenAI has, so the code decides too.
fn kind(error: &ErrorObject) -> &'static str {
    match (error.kind, error.code.as_str().unwrap_or_default()) {
        (_, "invalid_api_key") => "authentication_error",
        (_, "forbidden_host" | "scope_missing") => "permission_error",
        (_, "unknown_route" | "model_not_found") => "not_found_error",
        (_, "body_too_large") => "request_too_large",
        ("invalid_request_error", _) => "invalid_request_error",
        // The server's own limit, not the key's.
        ("rate_limit_error", "rate_limit_exceeded") => "overloaded_error",
        ("rate_limit_error", _) => "rate_limit_error",
        ("timeout_error", _) => "timeout_error",
        ("unavailable_error", _) => "overloaded_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ErrorObject, expected: &str) {
        let body: serde_json::Value = serde_json::from_str(&error_body(&error)).expect("it is JSON");
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["message"], error.message);
        assert_eq!(body["error"]["type"], expected);
    }

    #[test]
    fn kinds() {
        check(ErrorObject::new("invalid_request_error", "invalid_api_key", "who?"), "authentication_error");
        check(ErrorObject::new("invalid_request_error", "model_not_found", "where?"), "not_found_error");
        check(ErrorObject::new("invalid_request_error", "body_too_large", "long"), "request_too_large");
        check(
            ErrorObject::new("invalid_request_error", serde_json::Value::Null, "x"),
            "invalid_request_error",
        );
        check(ErrorObject::new("rate_limit_error", "rate_limit_exceeded", "later"), "overloaded_error");
        check(ErrorObject::new("rate_limit_error", "key_limit", "later"), "rate_limit_error");
        check(ErrorObject::new("invalid_request_error", "scope_missing", "no"), "permission_error");
        check(ErrorObject::new("timeout_error", "deadline_exceeded", "late"), "timeout_error");
        check(ErrorObject::loading(), "overloaded_error");
        check(ErrorObject::new("server_error", "internal_error", "ours"), "api_error");
    }
}
