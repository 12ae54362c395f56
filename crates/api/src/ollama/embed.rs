//! `/api/embed`, and the older `/api/embeddings`, which takes one text and leaves its vector's length as it is.

use std::time::Duration;

use ingle_chat::{
    EMBED_INPUTS_MAX, Echo, EmbedInput, EmbedRequest, Embeddings, KeepAlive, Prompt, Request, Task,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::common::take_keep_alive;
use super::options::take_options;
use super::refused::{HARMLESS_EMBED, REFUSED_EMBED, REFUSED_EMBEDDINGS};
use super::{check_context, json};
use crate::fields::{Fields, wrong_type};
use crate::openai::{Caller, into_string, refused};
use crate::truncated::{Truncated, names, truncated};
use crate::{RequestError, parse_object};

/// The widest vector that anyone can ask for; the model's own width is checked when it is known.
pub(super) const DIMENSIONS_MAX: i128 = 1 << 24;

/// The routes that embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedRoute {
    /// `/api/embed`: one text or several.
    Embed,
    /// `/api/embeddings`: one text, in the older shape.
    Embeddings,
}

/// A body of either route, read.
#[derive(Clone, Debug)]
pub struct EmbedCall {
    /// What is wanted; without inputs the caller only wants the model in memory.
    pub request: EmbedRequest,
    /// How long the model is to stay afterwards.
    pub keep_alive: Option<KeepAlive>,
    route: EmbedRoute,
    /// The context that the caller counts on.
    num_ctx: Option<usize>,
    names: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaEmbedReply")]
pub(crate) struct Embedded<'a> {
    model: &'a str,
    embeddings: Vec<&'a [f32]>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<Truncated>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaEmbeddingReply")]
pub(crate) struct Single<'a> {
    embedding: &'a [f32],
}

impl EmbedRoute {
    /// Reads a body.
    pub fn parse(self, body: &[u8], caller: Caller) -> Result<EmbedCall, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        let (refused, name) = match self {
            Self::Embed => (REFUSED_EMBED, "input"),
            Self::Embeddings => (REFUSED_EMBEDDINGS, "prompt"),
        };
        refused::check(&mut fields, &[refused], &[HARMLESS_EMBED])?;
        let inputs = match self {
            Self::Embed => take_input(&mut fields)?,
            Self::Embeddings => one(fields.string(name)?.unwrap_or_default(), name),
        };
        let mut request = EmbedRequest::new(caller.id, caller.principal.clone(), inputs);
        request.model = fields.string("model")?.filter(|m| !m.is_empty());
        if self == Self::Embed {
            request.truncate = fields.bool("truncate")?.unwrap_or(true);
            // Clients send 0 when nobody set it.
            let dimensions = fields.integer(&["dimensions"], 0, DIMENSIONS_MAX)?;
            request.dimensions = dimensions.map(|n| n as u32).filter(|n| *n > 0);
        }
        request.normalize = self == Self::Embed;
        // Options about sampling change no vector; their values are checked all the same.
        let task = Task::Completion { prompt: Prompt::Text(String::new()), echo: Echo::No };
        let num_ctx = take_options(&mut fields, &mut Request::new("", caller.principal, task))?;
        let keep_alive = take_keep_alive(&mut fields)?;
        fields.finish()?;
        Ok(EmbedCall { names: names(&request.inputs), request, route: self, num_ctx, keep_alive })
    }
}

/// A string or a list of strings. An empty string alone is no input.
fn take_input(fields: &mut Fields) -> Result<Vec<EmbedInput>, RequestError> {
    match fields.take("input") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(one(text, "input")),
        Some(Value::Array(list)) if list.len() > EMBED_INPUTS_MAX => Err(fields.error(
            "input",
            format!("`input` has {} entries; at most {EMBED_INPUTS_MAX} are taken", list.len()),
        )),
        Some(Value::Array(list)) => {
            let input = |(i, value)| {
                let name = format!("input[{i}]");
                let prompt = Prompt::Text(into_string(value, &name)?);
                Ok(EmbedInput { name, prompt })
            };
            list.into_iter().enumerate().map(input).collect()
        }
        Some(other) => Err(wrong_type("input", "a string or a list of strings", &other)),
    }
}

fn one(text: String, name: &str) -> Vec<EmbedInput> {
    if text.is_empty() {
        return Vec::new();
    }
    vec![EmbedInput { name: name.to_owned(), prompt: Prompt::Text(text) }]
}

impl EmbedCall {
    /// Checks what depends on the model: its context is as long as the caller counts on.
    pub fn check_context(&self, n_ctx: usize) -> Result<(), RequestError> {
        check_context(self.num_ctx, n_ctx)
    }

    /// The reply; `model` is the name that it shows. Without inputs there are no vectors.
    pub fn reply(&self, model: &str, embeddings: &Embeddings) -> String {
        if self.route == EmbedRoute::Embeddings {
            let vector = embeddings.items.first().map(|item| item.vector.as_slice());
            return json(&Single { embedding: vector.unwrap_or_default() });
        }
        let usage = &embeddings.usage;
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        json(&Embedded {
            model,
            embeddings: embeddings.items.iter().map(|item| item.vector.as_slice()).collect(),
            total_duration: ns(usage.queued + usage.prefill),
            load_duration: 0,
            prompt_eval_count: usage.prompt_tokens,
            truncated: truncated(&self.names, embeddings),
        })
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::{Embedding, Principal, Usage};
    use serde_json::json;

    use super::*;

    fn parse(route: EmbedRoute, body: &Value) -> Result<EmbedCall, RequestError> {
        let caller = Caller { id: "ollama-1".into(), principal: Principal::local() };
        route.parse(body.to_string().as_bytes(), caller)
    }

    fn texts(call: &EmbedCall) -> Vec<(&str, &str)> {
        let texts = call.request.inputs.iter().map(|input| match input {
            EmbedInput { name, prompt: Prompt::Text(text) } => (name.as_str(), text.as_str()),
            other => panic!("{other:?}"),
        });
        texts.collect()
    }

    #[test]
    fn bodies() {
        let check = |route,
                     body: Value,
                     expected: &[(&str, &str)],
                     truncate: bool,
                     dimensions: Option<u32>| {
            let call = parse(route, &body).expect("valid");
            assert_eq!(texts(&call), expected, "{body}");
            assert_eq!((call.request.truncate, call.request.dimensions), (truncate, dimensions), "{body}");
            assert_eq!(call.request.normalize, route == EmbedRoute::Embed);
        };
        let embed = EmbedRoute::Embed;
        check(embed, json!({ "model": "m", "input": "a" }), &[("input", "a")], true, None);
        let list = json!({ "input": ["a", "b"], "truncate": false, "dimensions": 8, "keep_alive": "5m", "stream": false });
        check(embed, list, &[("input[0]", "a"), ("input[1]", "b")], false, Some(8));
        let options =
            json!({ "input": "a", "dimensions": 0, "options": { "num_ctx": 64, "temperature": 0 } });
        check(embed, options, &[("input", "a")], true, None);
        check(embed, json!({ "model": "m" }), &[], true, None);
        check(embed, json!({ "input": "" }), &[], true, None);
        check(EmbedRoute::Embeddings, json!({ "prompt": "a" }), &[("prompt", "a")], false, None);
        check(EmbedRoute::Embeddings, json!({ "prompt": "" }), &[], false, None);
        let call = parse(embed, &json!({ "input": "a", "options": { "num_ctx": 64 } })).expect("valid");
        assert!(call.check_context(64).is_ok() && call.check_context(63).is_err());
    }

    #[test]
    fn refusals() {
        let embed = EmbedRoute::Embed;
        for (route, body, param) in [
            (embed, json!({ "input": 5 }), "input"),
            (embed, json!({ "input": ["a", 5] }), "input[1]"),
            (embed, json!({ "input": vec!["a"; EMBED_INPUTS_MAX + 1] }), "input"),
            (embed, json!({ "prompt": "a" }), "prompt"),
            (embed, json!({ "input": "a", "dimensions": -1 }), "dimensions"),
            (embed, json!({ "input": "a", "options": { "frobnicate": 1 } }), "options.frobnicate"),
            (embed, json!({ "input": "a", "stream": true }), "stream"),
            (embed, json!({ "input": "a", "frobnicate": 1 }), "frobnicate"),
            (EmbedRoute::Embeddings, json!({ "input": "a" }), "input"),
            (EmbedRoute::Embeddings, json!({ "prompt": "a", "truncate": true }), "truncate"),
            (EmbedRoute::Embeddings, json!({ "prompt": ["a"] }), "prompt"),
        ] {
            let error = parse(route, &body).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
        }
    }

    #[test]
    fn replies() {
        let item = |vector: Vec<f32>, cut| Embedding { vector, n_tokens: 4, truncated_from: cut };
        let usage = Usage {
            prompt_tokens: 8,
            queued: Duration::from_nanos(5),
            prefill: Duration::from_nanos(20),
            ..Usage::default()
        };
        let mut given =
            Embeddings { items: vec![item(vec![0.6, 0.8], None), item(vec![1.0, 0.0], None)], usage };
        let call = parse(EmbedRoute::Embed, &json!({ "input": ["a", "b"] })).expect("valid");
        assert_eq!(
            call.reply("m:latest", &given),
            r#"{"model":"m:latest","embeddings":[[0.6,0.8],[1.0,0.0]],"total_duration":25,"load_duration":0,"prompt_eval_count":8}"#
        );
        given.items[1].truncated_from = Some(9);
        assert!(
            call.reply("m", &given).ends_with(r#""truncated":[{"input":"input[1]","tokens":9,"kept":4}]}"#)
        );
        let call = parse(EmbedRoute::Embeddings, &json!({ "prompt": "a" })).expect("valid");
        let raw = Embeddings { items: vec![item(vec![3.0, 0.1], None)], usage };
        assert_eq!(call.reply("m", &raw), r#"{"embedding":[3.0,0.1]}"#);
        let nothing = parse(EmbedRoute::Embed, &json!({ "model": "m" })).expect("valid");
        assert_eq!(
            nothing.reply("m", &Embeddings::default()),
            r#"{"model":"m","embeddings":[],"total_duration":0,"load_duration":0,"prompt_eval_count":0}"#
        );
    }
}
