//! `/api/pull` and `/api/push`: what is asked, and the lines that tell how far it is.

use serde_json::json;

use super::refused::Refused;
use crate::fields::Fields;
use crate::{RequestError, parse_object};

/// Older clients send these; here credentials are the operator's, and bound to their registry.
pub const REFUSED_TRANSFER: &[Refused] = &[
    Refused { name: "username", advice: "the operator saves credentials with `ingle login`" },
    Refused { name: "password", advice: "the operator saves credentials with `ingle login`" },
];

/// A body of either route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferCall {
    /// The model, as users name it.
    pub model: String,
    /// Without encryption, where the operator allows it.
    pub insecure: bool,
    /// A name whose content has changed gets the new content. Only of a pull.
    pub update: bool,
    /// Lines, or one object at the end.
    pub stream: bool,
}

impl TransferCall {
    /// Reads a body of `/api/pull`.
    ///
    /// # Errors
    /// With the field at fault.
    pub fn pull(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        let update = fields.bool("update")?.unwrap_or(false);
        Self::parse(fields, update)
    }

    /// Reads a body of `/api/push`.
    ///
    /// # Errors
    /// With the field at fault.
    pub fn push(body: &[u8]) -> Result<Self, RequestError> {
        Self::parse(Fields::new(parse_object(body)?), false)
    }

    fn parse(mut fields: Fields, update: bool) -> Result<Self, RequestError> {
        for field in REFUSED_TRANSFER {
            // Ollama's own clients send them empty.
            if fields.string(field.name)?.is_some_and(|text| !text.is_empty()) {
                let message = format!("`{}` is not supported: {}", field.name, field.advice);
                return Err(fields.error(field.name, message).with_code("unsupported_field"));
            }
        }
        let insecure = fields.bool("insecure")?.unwrap_or(false);
        let stream = fields.bool("stream")?.unwrap_or(true);
        // Old clients say `name`, some say both, one of them empty.
        let (model, name) = (fields.string("model")?, fields.string("name")?);
        let model = [model, name].into_iter().flatten().find(|name| !name.is_empty());
        let model = model.ok_or_else(|| fields.error("model", "`model` is missing: name the model"))?;
        fields.finish()?;
        Ok(Self { model, insecure, update, stream })
    }
}

/// The line of a step.
pub fn status_line(status: &str) -> String {
    format!("{}\n", json!({ "status": status }))
}

/// The line of a file that moves on. `label` follows the word; a digest is that of the file, if it is known.
pub fn progress_line(verb: &str, label: &str, digest: Option<&str>, total: u64, completed: u64) -> String {
    let mut line = json!({ "status": format!("{verb} {label}") });
    if let Some(digest) = digest {
        line["digest"] = digest.into();
    }
    line["total"] = total.into();
    if completed > 0 {
        line["completed"] = completed.into();
    }
    format!("{line}\n")
}

/// The line of a failure, which ends the lines.
pub fn error_line(message: &str) -> String {
    format!("{}\n", json!({ "error": message }))
}

/// What a call without lines gets at its end.
pub fn success() -> String {
    json!({ "status": "success" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let call =
            |model: &str| TransferCall { model: model.into(), insecure: false, update: false, stream: true };
        let check = |body: &str, expected: Result<TransferCall, &str>| match (
            TransferCall::pull(body.as_bytes()),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{body}"),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{body}: {}", error.message),
            (found, _) => panic!("{body}: {found:?}"),
        };
        check(r#"{"model":"a"}"#, Ok(call("a")));
        check(r#"{"name":"a","model":"","insecure":false,"stream":null}"#, Ok(call("a")));
        check(r#"{"model":"a","username":"","password":""}"#, Ok(call("a")));
        check(
            r#"{"model":"a","insecure":true,"update":true,"stream":false}"#,
            Ok(TransferCall { insecure: true, update: true, stream: false, ..call("a") }),
        );
        check("{}", Err("`model` is missing"));
        check(r#"{"model":5}"#, Err("`model` must be"));
        check(r#"{"model":"a","username":"me"}"#, Err("ingle login"));
        check(r#"{"model":"a","quantize":"q4"}"#, Err("quantize"));
        assert!(TransferCall::push(br#"{"model":"a","update":true}"#).is_err());
    }

    #[test]
    fn lines() {
        assert_eq!(status_line("pulling manifest"), "{\"status\":\"pulling manifest\"}\n");
        let line = progress_line("pulling", "0123456789ab", Some("sha256:x"), 10, 5);
        assert_eq!(
            line,
            "{\"status\":\"pulling 0123456789ab\",\"digest\":\"sha256:x\",\"total\":10,\"completed\":5}\n"
        );
        assert_eq!(error_line("a\nb"), "{\"error\":\"a\\nb\"}\n");
    }
}
