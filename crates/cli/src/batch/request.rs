//! From a line to what the server would run for it, and from the server's reply to a line of the output.

use std::sync::Arc;

use ingle_api::openai::batches::{CUSTOM_ID_BYTES_MAX, Endpoint, LineError, read_line};
use ingle_api::openai::chat::{self, ChatCall};
use ingle_api::openai::completion::{self, CompletionCall};
use ingle_api::openai::{Caller, Envelope, ErrorObject, check_vocabulary};
use ingle_api::{RequestError, parse_object};
use ingle_chat::{Principal, Provider, ProviderError, Request};
use ingle_server::{ServerConfig, resolve_model};
use serde_json::{Map, Value, json};

use super::input::{LINE_BYTES_MAX, Line, Shape};
use super::wishes::Wishes;

/// The routes that lines in OpenAI's format can go to.
const ENDPOINTS: &[Endpoint] = &[Endpoint::Chat, Endpoint::Completions];

/// Why a line has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It is no request at all.
    Line {
        /// For programs.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// It is a request that a server would refuse.
    Reply {
        /// The server's status.
        status: u16,
        /// What its body would say.
        error: Box<ErrorObject>,
    },
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        Self::Reply { status: 400, error: Box::new(ErrorObject::from(&error)) }
    }
}

impl From<ProviderError> for Fault {
    fn from(error: ProviderError) -> Self {
        let status = match &error {
            ProviderError::InvalidRequest { .. } | ProviderError::ContextLength { .. } => 400,
            ProviderError::Forbidden { .. } => 403,
            ProviderError::UnknownModel { .. } => 404,
            ProviderError::Overloaded { .. } | ProviderError::TooLate { .. } => 429,
            ProviderError::DeadlineExceeded { .. } => 504,
            ProviderError::Unavailable(_) | ProviderError::Busy(_) => 503,
            ProviderError::Upstream(_) => 502,
            ProviderError::Unusable(_) | ProviderError::Internal(_) => 500,
        };
        let mut object = ErrorObject::from(&error);
        if let ProviderError::Internal(_) = &error {
            // There is no server whose log would say more.
            object.message = error.to_string();
        }
        Self::Reply { status, error: Box::new(object) }
    }
}

/// What a line asks for.
#[derive(Clone, Debug)]
pub enum Call {
    /// To continue a conversation.
    Chat(Box<ChatCall>),
    /// To continue prompts.
    Completion(CompletionCall),
}

/// A line that can be answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub call: Call,
    /// What its reply repeats.
    pub envelope: Envelope,
}

/// A line, read.
#[derive(Clone, Debug)]
pub struct Read {
    /// OpenAI's name of it, if it has one that can be read.
    pub custom_id: Option<String>,
    pub asked: Result<Asked, Fault>,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// One line, its end included.
    pub text: String,
    pub failed: bool,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Reads the lines of a file, and writes their results.
pub struct Requests {
    pub shape: Shape,
    /// Whether a prompt is a message to the model, rather than text to go on with.
    pub converses: bool,
    pub wishes: Wishes,
    /// Names the model's aliases.
    pub config: ServerConfig,
    pub provider: Arc<dyn Provider>,
    /// When the batch began, in seconds since the epoch: all its replies bear this time, so that a result is the same
    /// whenever it was made.
    pub created: u64,
}

impl Requests {
    /// Reads a line.
    pub fn read(&self, line: &Line) -> Read {
        let mut custom_id = None;
        let asked = match (&line.text, self.shape) {
            (Err(n_bytes), _) => Err(not_a_request(
                "line_too_long",
                format!("the line has {n_bytes} bytes; at most {LINE_BYTES_MAX} are read"),
            )),
            (Ok(bytes), Shape::Text) => self.text(line, bytes),
            (Ok(bytes), Shape::Simple) => object(bytes).and_then(|object| self.simple(line, object)),
            (Ok(bytes), Shape::OpenAi) => match read_line(bytes, ENDPOINTS) {
                Ok(read) => {
                    custom_id = Some(read.custom_id);
                    match read.endpoint {
                        Endpoint::Chat => self.chat(line, &read.body),
                        _ => self.completion(line, &read.body),
                    }
                }
                Err(LineError { custom_id: found, code, message, .. }) => {
                    custom_id = found;
                    Err(not_a_request(code, message))
                }
            },
        };
        Read { custom_id, asked }
    }

    /// OpenAI's name of a line, if it has one that can be read.
    pub fn custom_id(&self, line: &Line) -> Option<String> {
        let object = line.text.as_ref().ok().filter(|_| self.shape == Shape::OpenAi)?;
        match parse_object(object).ok()?.shift_remove("custom_id") {
            Some(Value::String(id)) if id.len() <= CUSTOM_ID_BYTES_MAX => Some(id),
            _ => None,
        }
    }

    /// The request of a short line that says nothing itself: what is wrong with it is wrong with the settings.
    pub fn probe(&self) -> Option<Request> {
        let line = Line { number: 0, id: String::new(), text: Ok(b"x".to_vec()) };
        match self.text(&line, b"x").ok()?.call {
            Call::Chat(call) => Some(call.request),
            Call::Completion(call) => call.requests.into_iter().next(),
        }
    }

    fn text(&self, line: &Line, bytes: &[u8]) -> Result<Asked, Fault> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(not_a_request("invalid_utf8", "the line is not valid UTF-8".into()));
        };
        let mut object = Map::new();
        object.insert("prompt".into(), text.into());
        self.simple(line, object)
    }

    fn simple(&self, line: &Line, mut object: Map<String, Value>) -> Result<Asked, Fault> {
        let has = |name| object.get(name).is_some_and(|v: &Value| !v.is_null());
        match (has("prompt"), has("messages")) {
            (true, true) => {
                Err(RequestError::field("prompt", "the line has `prompt` and `messages`; give one of them")
                    .into())
            }
            (false, false) => {
                Err(RequestError::body("the line has neither `prompt` nor `messages`; give one of them")
                    .into())
            }
            (false, true) => self.chat(line, &object),
            (true, false) if !self.converses => self.completion(line, &object),
            (true, false) => {
                let prompt = object.shift_remove("prompt").unwrap_or_default();
                if !prompt.is_string() {
                    return Err(RequestError::field(
                        "prompt",
                        "`prompt` must be text where it is a message to the model; --raw continues lists of texts or \
                         tokens",
                    )
                    .into());
                }
                object.insert("messages".into(), json!([{ "role": "user", "content": prompt }]));
                self.chat(line, &object)
            }
        }
    }

    fn chat(&self, line: &Line, body: &Map<String, Value>) -> Result<Asked, Fault> {
        let id = format!("chatcmpl-{}", line.id);
        let caller = Caller { id: id.clone(), principal: Principal::local() };
        let mut call = chat::parse(&bytes(body), caller)?;
        whole(call.streaming.stream)?;
        self.wishes.apply(&mut call.request, body);
        let envelope = self.address(id, std::slice::from_mut(&mut call.request))?;
        Ok(Asked { call: Call::Chat(Box::new(call)), envelope })
    }

    fn completion(&self, line: &Line, body: &Map<String, Value>) -> Result<Asked, Fault> {
        if self.wishes.system.is_some() {
            return Err(RequestError::body(
                "--system-prompt opens conversations, and this line is none: a completion has no place for instructions",
            )
            .into());
        }
        let id = format!("cmpl-{}", line.id);
        let caller = Caller { id: id.clone(), principal: Principal::local() };
        let mut call = completion::parse(&bytes(body), caller)?;
        whole(call.streaming.stream)?;
        let limits = ["max_tokens", "max_completion_tokens"];
        let is_limited = limits.iter().any(|name| body.get(*name).is_some_and(|v| !v.is_null()));
        for request in &mut call.requests {
            // The 16 tokens of OpenAI's completions belong to OpenAI's bodies.
            if self.shape != Shape::OpenAi && !is_limited {
                request.max_tokens = None;
            }
            self.wishes.apply(request, body);
        }
        let envelope = self.address(id, &mut call.requests)?;
        Ok(Asked { call: Call::Completion(call), envelope })
    }

    /// Says which model answers, as the server does.
    fn address(&self, id: String, requests: &mut [Request]) -> Result<Envelope, Fault> {
        let first = requests.first().expect("a body holds at least one request");
        let (name, info) = resolve_model(&self.config, &*self.provider, first.model.as_deref())?;
        let (adapters, fingerprint) = self.provider.adapters_of(&info, first.adapters.as_deref())?;
        let model = info.parent.unwrap_or(info.id);
        for request in requests {
            check_vocabulary(request, info.n_vocab)?;
            request.model = Some(model.clone());
            request.adapters = adapters.clone();
        }
        Ok(Envelope { id, created: self.created, model: name, fingerprint })
    }

    /// The line of the output for a line of the input: the server's reply, or why there is none.
    pub fn write(&self, line: &Line, custom_id: Option<&str>, reply: Result<String, Fault>) -> Finished {
        let reply = reply.map(|body| result_of(&body));
        let count = |name: &str| {
            let usage = reply.as_ref().ok().and_then(|body| body.get("usage"));
            usage.and_then(|usage| usage.get(name)).and_then(Value::as_u64).unwrap_or(0)
        };
        let (prompt_tokens, completion_tokens) = (count("prompt_tokens"), count("completion_tokens"));
        let failed = reply.is_err();
        let value = match self.shape {
            Shape::OpenAi => openai_result(line, custom_id, reply),
            Shape::Text | Shape::Simple => simple_result(line, reply),
        };
        Finished { text: format!("{value}\n"), failed, prompt_tokens, completion_tokens }
    }
}

/// The id that stands in a line's result.
pub fn result_id(line: &Line) -> String {
    format!("batch_req_{}", line.id)
}

fn not_a_request(code: &'static str, message: String) -> Fault {
    Fault::Line { code, message }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    parse_object(bytes)
        .map_err(|error| not_a_request("invalid_json", error.message.replace("the body", "the line")))
}

/// A body as the parsers take it.
fn bytes(body: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(body).expect("JSON that was read can be written")
}

fn whole(stream: bool) -> Result<(), Fault> {
    if !stream {
        return Ok(());
    }
    let error =
        RequestError::field("stream", "`stream` has no place in a batch, whose results are whole; remove it");
    Err(error.with_code("unsupported_value").into())
}

/// A reply without what depends on when it was made, and on what ran before and beside it: equal requests have equal
/// results.
fn result_of(body: &str) -> Map<String, Value> {
    let Ok(Value::Object(mut body)) = serde_json::from_str(body) else {
        unreachable!("replies are JSON objects")
    };
    body.shift_remove("timings");
    if let Some(Value::Object(usage)) = body.get_mut("usage") {
        usage.shift_remove("prompt_tokens_details");
    }
    body
}

fn openai_result(line: &Line, custom_id: Option<&str>, reply: Result<Map<String, Value>, Fault>) -> Value {
    let respond = |status: u16, body: Value| json!({ "status_code": status, "request_id": format!("req_{}", line.id), "body": body });
    let (response, error) = match reply {
        Ok(body) => (respond(200, Value::Object(body)), Value::Null),
        Err(Fault::Reply { status, error }) => (respond(status, json!({ "error": error })), Value::Null),
        Err(Fault::Line { code, message }) => (Value::Null, json!({ "code": code, "message": message })),
    };
    json!({ "id": result_id(line), "custom_id": custom_id, "response": response, "error": error })
}

fn simple_result(line: &Line, reply: Result<Map<String, Value>, Fault>) -> Value {
    let mut result = Map::new();
    result.insert("line".into(), line.number.into());
    result.insert("id".into(), result_id(line).into());
    match reply {
        Err(fault) => {
            let error = match fault {
                Fault::Reply { error, .. } => json!(error),
                Fault::Line { code, message } => {
                    json!(ErrorObject::new("invalid_request_error", code, message))
                }
            };
            result.insert("error".into(), error);
        }
        Ok(mut body) => {
            let choices = match body.shift_remove("choices") {
                Some(Value::Array(choices)) => choices.into_iter().map(simple_choice).collect(),
                _ => Vec::new(),
            };
            match <[Map<String, Value>; 1]>::try_from(choices) {
                Ok([only]) => result.extend(only),
                Err(several) => {
                    let several = several.into_iter().map(Value::Object).collect();
                    result.insert("choices".into(), Value::Array(several));
                }
            }
            for name in ["usage", "prompt_logprobs"] {
                if let Some(value) = body.shift_remove(name) {
                    result.insert(name.into(), value);
                }
            }
        }
    }
    Value::Object(result)
}

/// A choice without its frame: the text and why it ended, and whatever else there is.
fn simple_choice(choice: Value) -> Map<String, Value> {
    let Value::Object(mut choice) = choice else { return Map::new() };
    choice.shift_remove("index");
    let mut result = Map::new();
    let text = match choice.shift_remove("message") {
        Some(Value::Object(mut message)) => {
            let text = message.shift_remove("content").unwrap_or_default();
            message.shift_remove("role");
            // The same under its other name.
            let thoughts = message.shift_remove("reasoning_content");
            if let (Some(thoughts), false) = (thoughts, message.contains_key("reasoning")) {
                message.insert("reasoning".into(), thoughts);
            }
            result.extend(message);
            text
        }
        _ => choice.shift_remove("text").unwrap_or_default(),
    };
    result.insert("finish_reason".into(), choice.shift_remove("finish_reason").unwrap_or_default());
    result.extend(choice);
    result.retain(|_, value| !value.is_null());
    // Where there are only calls of tools.
    let text = if text.is_null() { "".into() } else { text };
    result.shift_insert(0, "text".into(), text);
    result
}
