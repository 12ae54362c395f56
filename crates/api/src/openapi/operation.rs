//! One operation of the description: a method of a route, what it takes, and every status that it answers with.

use serde_json::{Map, Value, json};

use super::schema::{Schema, count_of, integer, matching, string};
use super::{Components, SCHEMAS};

/// Whose errors a route has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
    /// OpenAI's, or Anthropic's if a header asks for it.
    OpenAiOrAnthropic,
}

/// A group of operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub name: &'static str,
    pub text: &'static str,
    pub dialect: Dialect,
}

/// Names a schema, and puts it among the components.
pub(super) type Shape = Box<dyn Fn(&mut Components) -> Value>;

/// Media types of replies.
pub(super) const JSON: &str = "application/json";
pub(super) const EVENTS: &str = "text/event-stream";
pub(super) const LINES: &str = "application/x-ndjson";
pub(super) const TEXT: &str = "text/plain";
pub(super) const BYTES: &str = "application/octet-stream";
const FORM: &str = "multipart/form-data";

/// Statuses of errors with what they mean.
const ERRORS: &[(u16, &str)] = &[
    (400, "What is wrong with the request, and with which field."),
    (401, "No valid key."),
    (
        403,
        "The key has no scope for this, or the server has no keys and was addressed by a foreign name or page.",
    ),
    (404, "There is no such model, or nothing stored under this id."),
    (408, "The body came too slowly."),
    (413, "The body is larger than the server takes."),
    (415, "The body is not JSON, or it is compressed."),
    (429, "Too much waits."),
    (500, "The server's fault; its log says more under the request's id."),
    (502, "Another server that this needs was not reached, or answered otherwise than it should."),
    (503, "The model is not there yet, or the server is shutting down."),
    (504, "The time that the request had is over."),
    (529, "Too much waits."),
];

/// A parameter of a path or a query.
struct Parameter {
    place: &'static str,
    name: &'static str,
    schema: Schema,
    text: &'static str,
}

/// A method of a route.
pub(super) struct Operation {
    /// In capitals.
    pub method: &'static str,
    pub path: &'static str,
    tag: Tag,
    summary: &'static str,
    parameters: Vec<Parameter>,
    /// Names of parameters among the components.
    headers: Vec<&'static str>,
    /// Names of headers of its answers among the components, beside those of all replies.
    reply_headers: Vec<&'static str>,
    /// Its media type, and what it is.
    body: Option<(&'static str, Shape)>,
    body_required: bool,
    /// A body that every server takes.
    example: Option<Value>,
    contents: Vec<(&'static str, Shape)>,
    /// Statuses of answers that have no body, and what they say.
    bodyless: Vec<(u16, &'static str)>,
    statuses: Vec<u16>,
    /// What 503 says, where it is no error like others.
    unavailable: Option<Shape>,
    public: bool,
}

impl Operation {
    fn new(method: &'static str, path: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self {
            method,
            path,
            tag,
            summary,
            parameters: Vec::new(),
            headers: vec!["request-id"],
            reply_headers: Vec::new(),
            body: None,
            body_required: true,
            example: None,
            contents: Vec::new(),
            bodyless: Vec::new(),
            statuses: vec![401, 403, 500],
            unavailable: None,
            public: false,
        }
    }

    pub fn get(path: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self::new("GET", path, tag, summary)
    }

    pub fn delete(path: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self::new("DELETE", path, tag, summary)
    }

    /// With a JSON body, for a model that may be unknown or not there.
    pub fn post(
        path: &'static str,
        tag: Tag,
        summary: &'static str,
        body: impl Fn(&mut Components) -> Value + 'static,
    ) -> Self {
        let post = Self { body: Some((JSON, Box::new(body))), ..Self::new("POST", path, tag, summary) };
        post.fails(&[400, 404, 408, 413, 415, 429, 503])
    }

    /// With a form that has a file, for the store.
    pub fn upload(path: &'static str, tag: Tag, summary: &'static str, form: fn() -> Schema) -> Self {
        let body: Shape = Box::new(move |_| form().into_value());
        let post = Self { body: Some((FORM, body)), ..Self::new("POST", path, tag, summary) };
        post.fails(&[400, 404, 408, 413, 415, 429, 503])
    }

    /// A DELETE that says in its body what is meant.
    pub fn delete_of(
        path: &'static str,
        tag: Tag,
        summary: &'static str,
        body: impl Fn(&mut Components) -> Value + 'static,
    ) -> Self {
        let delete = Self { body: Some((JSON, Box::new(body))), ..Self::delete(path, tag, summary) };
        delete.fails(&[400, 404, 408, 413, 415, 429, 503])
    }

    /// A POST whose body is the thing itself.
    pub fn put_bytes(path: &'static str, tag: Tag, summary: &'static str) -> Self {
        let body: Shape = Box::new(|_| string().into_value());
        let post = Self { body: Some((BYTES, body)), ..Self::new("POST", path, tag, summary) };
        post.fails(&[400, 408, 429, 503])
    }

    /// An answer without a body.
    pub fn says(mut self, status: u16, text: &'static str) -> Self {
        self.bodyless.push((status, text));
        self
    }

    /// The digest in the path.
    pub fn digest(mut self) -> Self {
        let (schema, text) = (matching("sha256[:-][0-9a-f]{64}"), "The blob's SHA-256.");
        self.parameters.push(Parameter { place: "path", name: "digest", schema, text });
        self.fails(&[400, 404])
    }

    /// The body may be left out.
    pub fn body_optional(self) -> Self {
        Self { body_required: false, ..self }
    }

    /// With a body to begin with.
    pub fn example(self, body: Value) -> Self {
        Self { example: Some(body), ..self }
    }

    /// A POST that has no body to speak of.
    pub fn bare_post(path: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self::new("POST", path, tag, summary)
    }

    /// What the reply is, in one more media type.
    pub fn gives(mut self, media: &'static str, shape: impl Fn(&mut Components) -> Value + 'static) -> Self {
        self.contents.push((media, Box::new(shape)));
        self
    }

    /// The same of a JSON reply.
    pub fn json(self, shape: impl Fn(&mut Components) -> Value + 'static) -> Self {
        self.gives(JSON, shape)
    }

    /// The same of a JSON reply that has no type.
    pub fn written(self, name: &'static str, schema: fn() -> Schema) -> Self {
        self.json(move |components| components.put(name, schema))
    }

    /// Further statuses of errors.
    pub fn fails(mut self, statuses: &[u16]) -> Self {
        self.statuses.extend(statuses);
        self
    }

    /// A part of the path.
    pub fn id(mut self, text: &'static str) -> Self {
        let schema = string().with("minLength", 1);
        self.parameters.push(Parameter { place: "path", name: "id", schema, text });
        self.fails(&[404])
    }

    /// A parameter of the query.
    pub fn query(mut self, name: &'static str, schema: Schema, text: &'static str) -> Self {
        self.parameters.push(Parameter { place: "query", name, schema, text });
        self
    }

    /// Headers among the shared parameters.
    pub fn headers(mut self, names: &[&'static str]) -> Self {
        self.headers.extend(names);
        self
    }

    /// Headers of its answers.
    pub fn reply_headers(mut self, names: &[&'static str]) -> Self {
        self.reply_headers.extend(names);
        self
    }

    /// Runs the model: it can be given a time.
    pub fn computes(self) -> Self {
        self.headers(&["request-timeout", "queue-timeout"]).fails(&[504])
    }

    /// Generates text.
    pub fn generates(self) -> Self {
        self.computes().reply_headers(&["x-ingle-seed", "x-ingle-fingerprint"])
    }

    /// Makes vectors or scores of texts.
    pub fn embeds(self) -> Self {
        self.computes().reply_headers(&["x-truncated-inputs"])
    }

    /// 503 says this instead of an error.
    pub fn unavailable(mut self, shape: impl Fn(&mut Components) -> Value + 'static) -> Self {
        self.unavailable = Some(Box::new(shape));
        self.fails(&[503])
    }

    /// Needs no key.
    pub fn public(mut self) -> Self {
        self.public = true;
        self.statuses.retain(|status| !matches!(status, 401 | 403));
        self
    }

    /// As the document has it.
    pub fn describe(&self, components: &mut Components) -> Value {
        let mut operation = Map::new();
        operation.insert("tags".into(), json!([self.tag.name]));
        operation.insert("summary".into(), self.summary.into());
        operation.insert("operationId".into(), self.name().into());
        let own = self.parameters.iter().map(|parameter| {
            let Parameter { place, name, schema, text } = parameter;
            let required = *place == "path";
            let schema = schema.clone().into_value();
            json!({ "name": name, "in": place, "required": required, "description": text, "schema": schema })
        });
        let shared =
            self.headers.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        operation.insert("parameters".into(), own.chain(shared).collect());
        if let Some((media, body)) = &self.body {
            let mut content = json!({ "schema": body(components) });
            if let Some(example) = &self.example {
                content["example"] = example.clone();
            }
            operation.insert(
                "requestBody".into(),
                json!({ "required": self.body_required, "content": { *media: content } }),
            );
        }
        operation.insert("responses".into(), self.responses(components));
        if self.public {
            operation.insert("security".into(), json!([]));
        }
        Value::Object(operation)
    }

    /// A name that no other operation has.
    fn name(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let path = if words.is_empty() { "root".to_owned() } else { words.join("_") };
        format!("{}_{path}", self.method.to_lowercase())
    }

    fn responses(&self, components: &mut Components) -> Value {
        let mut responses = Map::new();
        if !self.contents.is_empty() {
            let contents: Map<String, Value> = self
                .contents
                .iter()
                .map(|(media, shape)| {
                    ((*media).to_owned(), content(media, shape(components), self.tag.dialect))
                })
                .collect();
            let headers = reply_headers(self.tag.dialect, 200, &self.reply_headers);
            let ok = json!({ "description": "The answer.", "headers": headers, "content": contents });
            responses.insert("200".into(), ok);
        }
        for (status, text) in &self.bodyless {
            let headers = reply_headers(self.tag.dialect, *status, &self.reply_headers);
            responses.insert(status.to_string(), json!({ "description": text, "headers": headers }));
        }
        let overload = |status: &u16| match (self.tag.dialect, status) {
            (Dialect::Anthropic, 429) => 529,
            (Dialect::Ollama, 429) => 503,
            (_, status) => *status,
        };
        let mut statuses: Vec<u16> = self.statuses.iter().map(overload).collect();
        statuses.sort_unstable();
        statuses.dedup();
        for status in statuses {
            let response = match &self.unavailable {
                Some(shape) if status == 503 => json!({
                    "description": "Requests are not answered now.",
                    "headers": reply_headers(self.tag.dialect, status, &[]),
                    "content": { JSON: { "schema": shape(components) } },
                }),
                _ => {
                    json!({ "$ref": format!("#/components/responses/{}", error_name(self.tag.dialect, status)) })
                }
            };
            responses.insert(status.to_string(), response);
        }
        Value::Object(responses)
    }
}

/// A reply's body. Of an event stream it is each event that is described, as has become the custom.
fn content(media: &str, schema: Value, dialect: Dialect) -> Value {
    match media {
        EVENTS => {
            let error = json!({ "$ref": format!("#{SCHEMAS}/{}", error_schema(dialect)) });
            let data = json!({
                "contentMediaType": JSON, "contentSchema": { "anyOf": [schema, error] },
            });
            let data = match dialect {
                Dialect::OpenAi => json!({ "type": "string", "anyOf": [{ "enum": ["[DONE]"] }, data] }),
                Dialect::Anthropic | Dialect::Ollama | Dialect::OpenAiOrAnthropic => data,
            };
            json!({ "schema": {
                "description": "One event of the stream.",
                "type": "object",
                "properties": { "event": { "type": "string" }, "data": data },
                "required": ["data"],
            } })
        }
        LINES => json!({
            "schema": { "type": "string", "description": "Lines, each as `x-item-schema` says, or an error." },
            "x-item-schema": schema,
        }),
        _ => json!({ "schema": schema }),
    }
}

/// The name of a dialect's errors among the schemas.
pub(super) fn error_schema(dialect: Dialect) -> &'static str {
    match dialect {
        // No stream has either.
        Dialect::OpenAi | Dialect::OpenAiOrAnthropic => "Error",
        Dialect::Anthropic => "AnthropicError",
        Dialect::Ollama => "OllamaError",
    }
}

fn error_name(dialect: Dialect, status: u16) -> String {
    format!("{dialect:?}{status}")
}

/// All errors of a dialect, for the components.
pub(super) fn errors(dialect: Dialect, schema: &Value) -> Vec<(String, Value)> {
    let error = |(status, text): &(u16, &str)| {
        let response = json!({
            "description": text, "headers": reply_headers(dialect, *status, OF_ERRORS), "content": { JSON: { "schema": schema } },
        });
        (error_name(dialect, *status), response)
    };
    ERRORS.iter().map(error).collect()
}

/// What errors of requests say whose answer was begun.
const OF_ERRORS: &[&str] = &["x-ingle-seed", "x-ingle-fingerprint"];

fn reply_headers(dialect: Dialect, status: u16, more: &[&'static str]) -> Value {
    let mut names = [&["x-request-id"], more].concat();
    match dialect {
        Dialect::OpenAi => names.push("openai-processing-ms"),
        Dialect::Anthropic => names.push("request-id"),
        Dialect::OpenAiOrAnthropic => names.extend(["openai-processing-ms", "request-id-perhaps"]),
        Dialect::Ollama => {}
    }
    match status {
        401 => names.push("www-authenticate"),
        429 | 503 | 529 => names.extend(["retry-after", "retry-after-ms"]),
        _ => {}
    }
    let named = |component: &str| {
        let name = component.trim_end_matches("-perhaps").to_owned();
        (name, json!({ "$ref": format!("#/components/headers/{component}") }))
    };
    Value::Object(names.into_iter().map(named).collect())
}

/// Headers of replies, for the components.
pub(super) fn headers() -> Value {
    let seconds = || integer(1, i128::from(u32::MAX));
    let id = || string().with("minLength", 1);
    json!({
        "x-request-id": reply_header("The request's id: its own, or a new one.", true, id()),
        "request-id": reply_header("The same.", true, id()),
        "request-id-perhaps": reply_header("The same, in Anthropic's shape.", false, id()),
        "openai-processing-ms": reply_header("How long the reply took; not of streams.", false, count_of()),
        "www-authenticate": reply_header("How a key is sent.", true, string()),
        "x-ingle-seed": reply_header(
            "The seed that the answer was sampled with; of several prompts, the first one's.", false, count_of(),
        ),
        "x-ingle-fingerprint": reply_header(
            "Model and arithmetic of the answer: the same request, seed and fingerprint give the same bytes.",
            false,
            id(),
        ),
        "x-truncated-inputs": reply_header("How many texts were cut to what the model takes.", false, seconds()),
        "content-disposition": reply_header("The file's name.", false, string()),
        "retry-after": reply_header("When to come back, in seconds.", false, seconds()),
        "retry-after-ms": reply_header("The same in milliseconds.", false, seconds()),
    })
}

fn reply_header(text: &str, required: bool, schema: Schema) -> Value {
    json!({ "description": text, "required": required, "schema": schema.into_value() })
}

/// Headers of requests, for the components.
pub(super) fn shared_parameters() -> Value {
    let id = "An id for logs and for the reply, of up to 128 visible ASCII characters; others get a new one.";
    let seconds = || {
        Schema::of(json!({ "type": "number", "exclusiveMinimum": 0, "maximum": crate::TIMEOUT_SECONDS_MAX }))
    };
    let beta = "Without effect: what a beta adds is fields, and those count.";
    json!({
        "request-id": request_header("x-request-id", id, string()),
        "anthropic-version": request_header("anthropic-version", "Without effect.", string()),
        "anthropic-beta": request_header("anthropic-beta", beta, string()),
        "request-timeout": request_header(
            "x-request-timeout",
            "The seconds that the request may take from its arrival to its end.",
            seconds(),
        ),
        "queue-timeout": request_header("x-queue-timeout", "The seconds that it may wait before it begins.", seconds()),
    })
}

fn request_header(name: &str, text: &str, schema: Schema) -> Value {
    json!({ "name": name, "in": "header", "description": text, "schema": schema.into_value() })
}
