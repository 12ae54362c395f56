//! The other side of the wire: requests to a server, and what its streams say.
//!
//! For programs that call servers, ours or others: the load generator does. [`Dialect`] writes bodies and reads
//! events; [`sse`] takes a byte stream apart into events.

pub mod sse;

use serde_json::{Map, Value, json};

/// Fields that a caller's own additions may not set, since [`Dialect::body`] does.
const RESERVED: [&str; 12] = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "n_predict",
    "stream",
    "stream_options",
    "input_prefix",
    "input_suffix",
    "n",
    "best_of",
];

/// Which API is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/completions`.
    Completions,
    /// llama-server's `/infill`.
    Infill,
}

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The instructions.
    System,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// What the model is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A conversation so far; for [`Dialect::Completions`] its texts one after the other.
    Messages(Vec<(Speaker, String)>),
    /// Text around a gap.
    Gap {
        /// Before the gap.
        prefix: String,
        /// After it.
        suffix: String,
    },
}

/// A call to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The model's name; servers with one model need none.
    pub model: Option<&'a str>,
    /// What the model is given.
    pub input: &'a Input,
    /// Tokens of the answer at most.
    pub max_tokens: u32,
    /// Go on past the model's own end, so that the answer has exactly `max_tokens`.
    pub ignore_eos: bool,
    /// Further fields, as [`Dialect::check_more`] has let pass.
    pub more: &'a Map<String, Value>,
}

/// What a request cost, as the server counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that were not computed again; `None` where the server does not say.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

/// What an event of a stream says. Most say one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// New text of the answer.
    pub text: String,
    /// New text of the model's thoughts.
    pub reasoning: String,
    /// A piece of a tool call came.
    pub calls_tool: bool,
    /// Why the answer is over.
    pub finish_reason: Option<String>,
    /// What it cost.
    pub spent: Option<Spent>,
    /// Nothing comes after this.
    pub is_last: bool,
    /// The answer failed on the way; what the server says about it.
    pub error: Option<String>,
}

impl Said {
    /// Whether the model made something.
    pub fn is_output(&self) -> bool {
        !self.text.is_empty() || !self.reasoning.is_empty() || self.calls_tool
    }
}

impl Dialect {
    /// Where calls go.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Infill => "/infill",
        }
    }

    /// The body of a streamed call.
    ///
    /// # Panics
    /// If a gap is sent to another dialect than [`Dialect::Infill`], or the other way round.
    pub fn body(self, call: &Call<'_>) -> Value {
        let mut body = Map::new();
        if let Some(model) = call.model {
            body.insert("model".into(), model.into());
        }
        let (mut limit, mut usage) = ("max_tokens", true);
        match (self, call.input) {
            (Self::Chat, Input::Messages(messages)) => {
                let list = messages.iter().map(|(who, text)| json!({ "role": who.role(), "content": text }));
                body.insert("messages".into(), list.collect());
            }
            (Self::Completions, Input::Messages(messages)) => {
                let text: String = messages.iter().map(|(_, text)| text.as_str()).collect();
                body.insert("prompt".into(), text.into());
            }
            (Self::Infill, Input::Gap { prefix, suffix }) => {
                body.insert("input_prefix".into(), prefix.as_str().into());
                body.insert("input_suffix".into(), suffix.as_str().into());
                (limit, usage) = ("n_predict", false);
            }
            (dialect, input) => unreachable!("{dialect:?} cannot carry {input:?}"),
        }
        body.insert(limit.into(), call.max_tokens.into());
        body.insert("stream".into(), true.into());
        if usage {
            body.insert("stream_options".into(), json!({ "include_usage": true }));
        }
        if call.ignore_eos {
            body.insert("ignore_eos".into(), true.into());
        }
        body.extend(call.more.iter().map(|(key, value)| (key.clone(), value.clone())));
        body.into()
    }

    /// Whether these fields may be added to a body.
    ///
    /// # Errors
    /// The name of a field that the body has already, or that would make the reply another one than is read here.
    pub fn check_more(more: &Map<String, Value>) -> Result<(), &str> {
        match more.keys().find(|key| RESERVED.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(key),
        }
    }

    /// Reads the data of an event.
    ///
    /// # Errors
    /// What is wrong with it, in words, if it is nothing that this dialect says.
    pub fn read(self, data: &str) -> Result<Said, String> {
        if data.trim() == "[DONE]" && self != Self::Infill {
            return Ok(Said { is_last: true, ..Said::default() });
        }
        let value: Value =
            serde_json::from_str(data).map_err(|error| format!("an event is no JSON ({error})"))?;
        let Some(object) = value.as_object() else { return Err("an event is JSON, but no object".into()) };
        if let Some(error) = object.get("error").filter(|error| !error.is_null()) {
            return Ok(Said { error: Some(error_text(error)), is_last: true, ..Said::default() });
        }
        match self {
            Self::Chat | Self::Completions => read_chunk(object),
            Self::Infill => read_infill(object),
        }
    }
}

impl Speaker {
    fn role(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A chunk of OpenAI's two APIs. Only the first of several answers is read.
fn read_chunk(object: &Map<String, Value>) -> Result<Said, String> {
    let mut said = Said::default();
    let Some(choices) = object.get("choices").and_then(Value::as_array) else {
        return Err("an event has no list `choices`".into());
    };
    if let Some(choice) = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0) {
        let delta = &choice["delta"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        said.text = text(if delta.is_object() { &delta["content"] } else { &choice["text"] });
        said.reasoning = text(&delta["reasoning_content"]);
        if said.reasoning.is_empty() {
            said.reasoning = text(&delta["reasoning"]);
        }
        said.calls_tool = delta["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
        said.finish_reason = choice["finish_reason"].as_str().map(str::to_owned);
    }
    if let Some(usage) = object.get("usage").filter(|usage| usage.is_object()) {
        said.spent = Some(Spent {
            prompt_tokens: usage["prompt_tokens"].as_u64().ok_or("`usage` has no `prompt_tokens`")?,
            cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64(),
            completion_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
        });
    }
    Ok(said)
}

/// An event of llama-server's own shape; the last has `stop` and the counts.
fn read_infill(object: &Map<String, Value>) -> Result<Said, String> {
    let Some(text) = object.get("content").and_then(Value::as_str) else {
        return Err("an event has no text `content`".into());
    };
    let mut said = Said { text: text.to_owned(), ..Said::default() };
    if object.get("stop").and_then(Value::as_bool) == Some(true) {
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        said.is_last = true;
        said.finish_reason = object.get("stop_type").and_then(Value::as_str).map(str::to_owned);
        said.spent =
            number("tokens_evaluated").zip(number("tokens_predicted")).map(|(prompt, completion)| Spent {
                prompt_tokens: prompt,
                cached_tokens: object.get("timings").and_then(|timings| timings["cache_n"].as_u64()),
                completion_tokens: completion,
            });
    }
    Ok(said)
}

/// The message of an error object, or what stands in its place.
pub fn error_text(error: &Value) -> String {
    match error {
        Value::String(text) => text.clone(),
        _ => error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned),
    }
}

/// The body of a call of `/tokenize`, which counts the tokens of a text: llama-server's shape, and vLLM's.
pub fn tokenize_bodies(text: &str, model: Option<&str>) -> [Value; 2] {
    let mut vllm = json!({ "prompt": text, "add_special_tokens": false });
    if let Some(model) = model {
        vllm["model"] = model.into();
    }
    [json!({ "content": text }), vllm]
}

/// How many tokens a reply of `/tokenize` has; `None` if it is none.
pub fn token_count(reply: &[u8]) -> Option<u64> {
    let reply: Value = serde_json::from_slice(reply).ok()?;
    Some(reply["tokens"].as_array()?.len() as u64)
}

#[cfg(test)]
mod tests;
