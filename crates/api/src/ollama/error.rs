//! The shape of errors: `{"error": "text"}`, in replies and as the last line of a stream.

use serde_json::json;

use crate::openai::ErrorObject;

/// An error as a reply body, and as a line of a stream (without its end).
pub fn error_body(error: &ErrorObject) -> String {
    json!({ "error": error.message }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text() {
        assert_eq!(error_body(&ErrorObject::loading()), r#"{"error":"Loading model"}"#);
    }
}
