//! Batches: the body that asks for one, the lines of its input and of its output, the batch object.
//!
//! A line of the input is a request: `custom_id`, `method`, `url`, `body`. A line of the output repeats the `custom_id`
//! and has the reply, or why there is none.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::files::{ListBody, TTL_S, limit, unknown_parameter};
use super::{json as text, responses};
use crate::error::quoted;
use crate::fields::Fields;
use crate::{RequestError, parse_object, shown};

/// The longest `custom_id`, in bytes.
pub const CUSTOM_ID_BYTES_MAX: usize = 4096;
/// How long a batch may take, in hours.
const WINDOW_HOURS: std::ops::RangeInclusive<u64> = 1..=24 * 30;
/// The most batches on a page of a list, and how many there are if nothing is said.
const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 20;

/// A route that lines can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Conversations.
    Chat,
    /// Raw prompts.
    Completions,
    /// Responses.
    Responses,
    /// Texts to vectors.
    Embeddings,
}

impl Endpoint {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Chat, Self::Completions, Self::Responses, Self::Embeddings];

    /// The route.
    pub fn url(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// What a route is.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|endpoint| endpoint.url() == url)
    }
}

/// A body that asks for a batch, read.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchCall {
    /// The file with the lines.
    pub input_file_id: String,
    /// Where they go.
    pub endpoint: Endpoint,
    /// How long it may take, as it was put.
    pub window: String,
    /// The same in seconds.
    pub window_s: u64,
    /// How long its output is kept, in seconds; `None` is until it is deleted.
    pub output_ttl_s: Option<u64>,
    /// What the caller says about it, as JSON.
    pub metadata: String,
}

/// Reads the body of `POST /v1/batches`.
///
/// # Errors
/// The field at fault.
pub fn parse(body: &[u8]) -> Result<BatchCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let mut required = |name: &str| -> Result<String, RequestError> {
        let missing = || RequestError::field(name, format!("`{name}` is missing"));
        fields.string(name)?.ok_or_else(missing)
    };
    let input_file_id = required("input_file_id")?;
    let url = required("endpoint")?;
    let window = required("completion_window")?;
    let endpoint = Endpoint::from_url(&url).ok_or_else(|| {
        let all: Vec<&str> = Endpoint::ALL.iter().map(|endpoint| endpoint.url()).collect();
        let text = format!("`endpoint` is {}; it can be {}", quoted(&url), all.join(", "));
        RequestError::field("endpoint", text).with_code("unsupported_value")
    })?;
    let hours = window.strip_suffix('h').and_then(|n| n.parse::<u64>().ok());
    let hours = hours.filter(|n| WINDOW_HOURS.contains(n)).ok_or_else(|| {
        let (min, max) = (WINDOW_HOURS.start(), WINDOW_HOURS.end());
        let text = format!(
            "`completion_window` is {}; it must be from {min}h to {max}h, such as 24h",
            quoted(&window)
        );
        RequestError::field("completion_window", text)
    })?;
    let metadata = match fields.has("metadata") {
        true => text(&responses::take_metadata(&mut fields)?),
        false => "null".to_owned(),
    };
    let output_ttl_s = match fields.take("output_expires_after") {
        None => None,
        Some(value) => {
            let mut after = Fields::nested(value, "output_expires_after")?;
            if after.string("anchor")?.as_deref() != Some("created_at") {
                return Err(
                    after.error("anchor", "`output_expires_after.anchor` must be there: \"created_at\"")
                );
            }
            let (min, max) = (i128::from(*TTL_S.start()), i128::from(*TTL_S.end()));
            let seconds = after.integer(&["seconds"], min, max)?;
            let missing = || after.error("seconds", "`output_expires_after.seconds` is missing");
            let seconds = seconds.ok_or_else(missing)?;
            after.finish()?;
            Some(seconds as u64)
        }
    };
    fields.finish()?;
    Ok(BatchCall { input_file_id, endpoint, window, window_s: hours * 3600, output_ttl_s, metadata })
}

/// A line of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLine {
    /// The caller's name for it.
    pub custom_id: String,
    /// Where it goes.
    pub endpoint: Endpoint,
    /// The request.
    pub body: Map<String, Value>,
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The caller's name for the line, as far as it can be read.
    pub custom_id: Option<String>,
    /// For programs.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads a line of the input, which may go to `endpoints`.
///
/// # Errors
/// If it is no request, or one that goes elsewhere.
pub fn read_line(line: &[u8], endpoints: &[Endpoint]) -> Result<BatchLine, LineError> {
    let mut custom_id = None;
    read(line, endpoints, &mut custom_id).map_err(|error| LineError { custom_id, ..error })
}

fn read(line: &[u8], endpoints: &[Endpoint], found_id: &mut Option<String>) -> Result<BatchLine, LineError> {
    let error = |code, param: Option<&str>, message| LineError {
        custom_id: None,
        code,
        param: param.map(str::to_owned),
        message,
    };
    let wrong =
        |name: &str, wanted: &str| error("invalid_line", Some(name), format!("`{name}` must be {wanted}"));
    let mut object = parse_object(line)
        .map_err(|e| error("invalid_json", None, e.message.replace("the body", "the line")))?;
    let custom_id = match object.shift_remove("custom_id") {
        Some(Value::String(id)) if id.len() <= CUSTOM_ID_BYTES_MAX => id,
        _ => {
            let wanted = format!("there: a string of at most {CUSTOM_ID_BYTES_MAX} bytes");
            return Err(wrong("custom_id", &wanted));
        }
    };
    *found_id = Some(custom_id.clone());
    if object.shift_remove("method").as_ref().and_then(Value::as_str) != Some("POST") {
        return Err(wrong("method", "`POST`"));
    }
    let url = object.shift_remove("url");
    let Some(Value::Object(body)) = object.shift_remove("body") else {
        return Err(wrong("body", "there: the request, an object"));
    };
    if let Some(name) = object.keys().next() {
        let message = format!("unknown field `{}` beside `body`; remove it", shown(name));
        return Err(error("unknown_field", Some(&shown(name)), message));
    }
    let endpoint = url.as_ref().and_then(Value::as_str).and_then(Endpoint::from_url);
    let endpoint = endpoint.filter(|endpoint| endpoints.contains(endpoint)).ok_or_else(|| {
        let answered: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.url()).collect();
        let message = format!(
            "`url` is {}; this batch answers {}",
            url.as_ref().map_or("missing".into(), |url| shown(&url.to_string())),
            answered.join(" and ")
        );
        error("invalid_url", Some("url"), message)
    })?;
    Ok(BatchLine { custom_id, endpoint, body })
}

impl BatchLine {
    /// Why a line cannot be answered in a batch, although its route could answer it.
    pub fn refusal(&self) -> Option<LineError> {
        let is_true = |name: &str| self.body.get(name) == Some(&Value::Bool(true));
        let (name, advice) = match () {
            () if is_true("stream") => ("stream", "the results of a batch are whole; remove it"),
            () if is_true("background") => ("background", "a batch is in the background as it is; remove it"),
            () => return None,
        };
        Some(LineError {
            custom_id: Some(self.custom_id.clone()),
            code: "unsupported_value",
            param: Some(format!("body.{name}")),
            message: format!("`{name}` has no place in a batch: {advice}"),
        })
    }

    /// The request as its route reads it.
    pub fn into_body(self) -> Vec<u8> {
        text(&self.body).into_bytes()
    }
}

/// What is wrong with an input, as a batch shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputError {
    /// For programs.
    pub code: &'static str,
    /// The line, from 1; `None` if it is about all of them.
    pub line: Option<u64>,
    /// What is wrong and what to do.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
}

impl InputError {
    /// About one line.
    pub fn of_line(number: u64, error: LineError) -> Self {
        Self { code: error.code, line: Some(number), message: error.message, param: error.param }
    }

    /// About all.
    pub fn of_all(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, line: None, message: message.into(), param: None }
    }

    /// The list of them, as it is stored.
    pub fn stored(errors: &[Self]) -> String {
        text(&errors)
    }
}

/// A line of the output, its end included: the reply to a request.
pub fn answer_line(id: &str, custom_id: &str, status: u16, request_id: &str, body: &str) -> String {
    // The body is JSON on one line already, and is not read again to be written again.
    format!(
        "{{\"id\":{},\"custom_id\":{},\"response\":{{\"status_code\":{status},\"request_id\":{},\"body\":{body}}},\
         \"error\":null}}\n",
        text(&id),
        text(&custom_id),
        text(&request_id),
    )
}

/// A line of the output, its end included: why a request has no reply.
pub fn error_line(id: &str, custom_id: &str, code: &str, message: &str) -> String {
    let error = json!({ "code": code, "message": message });
    format!("{}\n", json!({ "id": id, "custom_id": custom_id, "response": null, "error": error }))
}

/// A batch, as replies show it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "each field is OpenAI's of that name")]
#[schemars(rename = "Batch")]
pub struct BatchObject {
    pub id: String,
    pub object: &'static str,
    pub endpoint: String,
    pub errors: Option<Value>,
    pub input_file_id: String,
    pub completion_window: String,
    pub status: &'static str,
    pub output_file_id: Option<String>,
    pub error_file_id: Option<String>,
    pub created_at: u64,
    pub in_progress_at: Option<u64>,
    pub expires_at: u64,
    pub finalizing_at: Option<u64>,
    pub completed_at: Option<u64>,
    pub failed_at: Option<u64>,
    pub expired_at: Option<u64>,
    pub cancelling_at: Option<u64>,
    pub cancelled_at: Option<u64>,
    pub request_counts: RequestCounts,
    pub metadata: Value,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "BatchRequestCounts")]
pub struct RequestCounts {
    /// Lines.
    pub total: u64,
    /// Those that are answered.
    pub completed: u64,
    /// Those that are answered with an error.
    pub failed: u64,
}

impl BatchObject {
    /// `errors` of a batch, from what was [stored](InputError::stored).
    pub fn errors(stored: &str) -> Option<Value> {
        let list = serde_json::from_str::<Value>(stored).ok().filter(Value::is_array)?;
        Some(json!({ "object": "list", "data": list }))
    }

    /// As a reply body.
    pub fn into_json(self) -> String {
        text(&self)
    }
}

/// A page of batches, as a reply body.
pub fn list(batches: &[BatchObject], has_more: bool) -> String {
    text(&ListBody::new(batches, |batch| &batch.id, has_more))
}

/// Which of the batches are shown, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchListOptions {
    /// Those that come after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl BatchListOptions {
    /// From the names and values of a query.
    ///
    /// # Errors
    /// The name or value that is not known.
    pub fn parse<'a>(query: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, RequestError> {
        let mut options = Self { after: None, limit: LIMIT_DEFAULT };
        for (name, value) in query {
            match name {
                "limit" => options.limit = limit(value, LIMIT_MAX)?,
                "after" => options.after = Some(value.to_owned()),
                other => return Err(unknown_parameter(other)),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(change: Value) -> Value {
        let mut body = json!({
            "input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h",
        });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    }

    fn refused(change: Value, param: &str, part: &str) {
        let error = parse(body(change.clone()).to_string().as_bytes()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{change}: {error}");
        assert!(error.message.contains(part), "{change}: {error}");
    }

    #[test]
    fn bodies() {
        let call = parse(body(json!({})).to_string().as_bytes()).unwrap();
        assert_eq!(
            (call.endpoint, call.window_s, call.metadata.as_str()),
            (Endpoint::Responses, 86_400, "null")
        );
        let more = json!({
            "metadata": { "a": "b" }, "completion_window": "2h",
            "output_expires_after": { "anchor": "created_at", "seconds": 3600 },
        });
        let call = parse(body(more).to_string().as_bytes()).unwrap();
        assert_eq!((call.output_ttl_s, call.window_s), (Some(3600), 7200));
        assert_eq!(call.metadata, r#"{"a":"b"}"#);
        refused(json!({ "input_file_id": null }), "input_file_id", "is missing");
        refused(json!({ "endpoint": null }), "endpoint", "is missing");
        refused(json!({ "endpoint": "/v1/images" }), "endpoint", "it can be /v1/chat/completions");
        refused(json!({ "completion_window": "0h" }), "completion_window", "from 1h to 720h");
        refused(json!({ "completion_window": "1d" }), "completion_window", "such as 24h");
        refused(json!({ "metadata": { "a": 1 } }), "metadata", "must be strings");
        refused(json!({ "output_expires_after": {} }), "output_expires_after.anchor", "created_at");
        let short = json!({ "anchor": "created_at", "seconds": 1 });
        refused(json!({ "output_expires_after": short }), "output_expires_after.seconds", "from 3600");
        refused(json!({ "model": "x" }), "model", "unknown field `model`");
    }

    #[test]
    fn lines() {
        let check = |line: &str, expected: Result<&str, (&str, Option<&str>, &str)>| match (
            read_line(line.as_bytes(), &[Endpoint::Chat, Endpoint::Completions]),
            expected,
        ) {
            (Ok(line), Ok(custom_id)) => assert_eq!(line.custom_id, custom_id),
            (Err(e), Err((code, param, part))) => {
                assert_eq!((e.code, e.param.as_deref()), (code, param), "{line}");
                assert!(e.message.contains(part), "{line}: {}", e.message);
            }
            (got, _) => panic!("{line}: {got:?}"),
        };
        let line =
            |url: &str| format!(r#"{{"custom_id":"a","method":"POST","url":"{url}","body":{{"x":1}}}}"#);
        check(&line("/v1/completions"), Ok("a"));
        check("nonsense", Err(("invalid_json", None, "the line is not valid JSON")));
        check("{}", Err(("invalid_line", Some("custom_id"), "must be there")));
        check(r#"{"custom_id":"a","method":"GET"}"#, Err(("invalid_line", Some("method"), "`POST`")));
        check(r#"{"custom_id":"a","method":"POST"}"#, Err(("invalid_line", Some("body"), "an object")));
        let answered = "this batch answers /v1/chat/completions and /v1/completions";
        check(&line("/v1/responses"), Err(("invalid_url", Some("url"), answered)));
        check(&line("/v1/nothing"), Err(("invalid_url", Some("url"), "\"/v1/nothing\"")));
        let more = r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{},"user":"u"}"#;
        check(more, Err(("unknown_field", Some("user"), "beside `body`")));
        let long = format!(r#"{{"custom_id":"{}"}}"#, "x".repeat(CUSTOM_ID_BYTES_MAX + 1));
        check(&long, Err(("invalid_line", Some("custom_id"), "at most 4096 bytes")));
        let id = read_line(br#"{"custom_id":"a"}"#, Endpoint::ALL).unwrap_err().custom_id;
        assert_eq!(id.as_deref(), Some("a"), "who is wrong is known");
    }

    #[test]
    fn what_has_no_place_in_a_batch() {
        let check = |body: Value, expected: Option<&str>| {
            let line = BatchLine {
                custom_id: "a".into(),
                endpoint: Endpoint::Responses,
                body: body.as_object().unwrap().clone(),
            };
            assert_eq!(line.refusal().and_then(|e| e.param).as_deref(), expected, "{body}");
        };
        check(json!({ "input": "x", "stream": false }), None);
        check(json!({ "input": "x", "stream": true }), Some("body.stream"));
        check(json!({ "input": "x", "background": true }), Some("body.background"));
    }

    #[test]
    fn output() {
        let check = |line: String, expected: Value| {
            let (text, end) = line.split_at(line.len() - 1);
            assert_eq!((serde_json::from_str::<Value>(text).unwrap(), end), (expected, "\n"));
            assert!(!text.contains('\n'), "one line");
        };
        check(
            answer_line("batch_req_1", "a\n\"", 400, "req-1", r#"{"error":{}}"#),
            json!({
                "id": "batch_req_1", "custom_id": "a\n\"", "error": null,
                "response": { "status_code": 400, "request_id": "req-1", "body": { "error": {} } },
            }),
        );
        check(
            error_line("batch_req_2", "b", "batch_expired", "too late"),
            json!({
                "id": "batch_req_2", "custom_id": "b", "response": null,
                "error": { "code": "batch_expired", "message": "too late" },
            }),
        );
        let errors = [
            InputError::of_all("empty_file", "nothing"),
            InputError::of_line(3, read_line(b"x", Endpoint::ALL).unwrap_err()),
        ];
        let shown = BatchObject::errors(&InputError::stored(&errors)).unwrap();
        assert_eq!((&shown["object"], &shown["data"][0]["line"]), (&json!("list"), &Value::Null));
        assert_eq!(
            (&shown["data"][1]["line"], &shown["data"][1]["code"]),
            (&json!(3), &json!("invalid_json"))
        );
        assert_eq!(BatchObject::errors(""), None);
    }
}
