//! Embeddings: the body and the replies. The field that has the texts decides the reply's shape: `input` gives
//! OpenAI's, `content` llama-server's.

use base64::prelude::{BASE64_STANDARD, Engine};
use ingle_chat::{EMBED_INPUTS_MAX, EmbedInput, EmbedRequest, Embedding, Embeddings};
use schemars::JsonSchema;
use serde::Serialize;

use super::prompts::take_prompts;
use super::refused::{self, Harmless, Refused, harmless, is_true, refused, string};
use super::sampling::take_model;
use super::terms::take_rank;
use super::{Caller, json};
use crate::fields::Fields;
use crate::truncated::{Truncated, names, truncated};
use crate::{RequestError, parse_object};

const TEXT_ONLY: &str = "only text and token ids are taken; remove it";

/// Refused, whatever their value.
pub const REFUSED_EMBEDDINGS: &[Refused] = &[
    refused("truncation_side", "`truncate` leaves out the end; remove it"),
    refused("messages", "use `input`"),
    refused("image", TEXT_ONLY),
    refused("input_type", "put the instruction that the model was trained with into the text"),
    refused("prompt_name", "put the instruction that the model was trained with into the text"),
    refused("task", "put the instruction that the model was trained with into the text"),
    refused("embedding_types", "use `encoding_format`"),
    refused("request_id", "send the header `x-request-id`"),
    refused("stream", "vectors come in one reply; remove it"),
    refused("options", "put its fields at the top level"),
    refused("keep_alive", "the operator decides how long a model stays loaded"),
];

/// Accepted with values under which the vectors stay the same.
pub const HARMLESS_EMBEDDINGS: &[Harmless] = &[
    harmless("user", "a string", string),
    harmless("add_special_tokens", "true", is_true),
    harmless("embed_dtype", "\"float32\"", |v| v == "float32"),
    harmless("endianness", "\"native\" or \"little\"", |v| v == "native" || v == "little"),
];

/// The widest vector that anyone can ask for; the model's own width is checked when it is known.
pub(super) const DIMENSIONS_MAX: i128 = 1 << 24;

/// A body, read.
#[derive(Clone, Debug)]
pub struct EmbeddingsCall {
    /// What is wanted.
    pub request: EmbedRequest,
    shape: Shape,
    names: Vec<String>,
}

/// What the reply looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// OpenAI's, with vectors as lists of numbers.
    Floats,
    /// OpenAI's, with vectors as their bytes, little-endian, in Base64.
    Base64,
    /// llama-server's: a list, in which each text has a list of vectors.
    Rows,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingList")]
pub(crate) struct Reply<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: Usage,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<Truncated>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Embedding")]
pub(crate) struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "EmbeddingVector")]
pub(crate) enum Vector<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingRow")]
pub(crate) struct Row<'a> {
    index: usize,
    embedding: [&'a [f32]; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_from: Option<u64>,
}

/// `usage` of replies in which nothing is generated.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingUsage")]
pub(crate) struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl Usage {
    pub fn of(embeddings: &Embeddings) -> Self {
        let prompt_tokens = embeddings.usage.prompt_tokens;
        Self { prompt_tokens, total_tokens: prompt_tokens }
    }
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<EmbeddingsCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED_EMBEDDINGS], &[HARMLESS_EMBEDDINGS])?;
    let name = match ["input", "content"].map(|name| fields.has(name)) {
        [true, true] => {
            return Err(fields.error(
                "content",
                "`input` (OpenAI's shape) and `content` (llama-server's) are both there; give one of them",
            ));
        }
        [false, true] => "content",
        [_, false] => "input",
    };
    let missing = || RequestError::field(name, "`input` is missing: give the text, or a list of texts");
    let prompts = take_prompts(&mut fields, name, EMBED_INPUTS_MAX)?.ok_or_else(missing)?;
    let is_one = prompts.len() == 1;
    let input = |(i, prompt)| EmbedInput {
        name: if is_one { name.to_owned() } else { format!("{name}[{i}]") },
        prompt,
    };
    let inputs = prompts.into_iter().enumerate().map(input).collect();
    let mut request = EmbedRequest::new(caller.id, caller.principal, inputs);
    request.model = take_model(&mut fields)?;
    request.terms.rank = take_rank(&mut fields)?;
    request.dimensions = fields.integer(&["dimensions"], 1, DIMENSIONS_MAX)?.map(|n| n as u32);
    take_truncation(&mut fields, &mut request)?;
    request.normalize = take_normalize(&mut fields)?;
    let shape = match (fields.string("encoding_format")?.as_deref(), name) {
        (None | Some("float"), "content") => Shape::Rows,
        (None | Some("float"), _) => Shape::Floats,
        (Some("base64"), "input") => Shape::Base64,
        (Some("base64"), _) => {
            let text = "`encoding_format` \"base64\" is of OpenAI's shape: give the text as `input`";
            return Err(fields.error("encoding_format", text).with_code("unsupported_value"));
        }
        (Some(_), _) => {
            let text = "`encoding_format` must be \"float\" or \"base64\"";
            return Err(fields.error("encoding_format", text).with_code("unsupported_value"));
        }
    };
    fields.finish()?;
    Ok(EmbeddingsCall { names: names(&request.inputs), request, shape })
}

/// `truncate`, or `truncate_prompt_tokens` (vLLM's): how many of the first tokens stay, -1 for as many as the model
/// reads.
pub(crate) fn take_truncation(fields: &mut Fields, request: &mut EmbedRequest) -> Result<(), RequestError> {
    const TO: &str = "truncate_prompt_tokens";
    let truncate = fields.bool("truncate")?;
    let to = fields.integer(&[TO], -1, u32::MAX.into())?;
    if to == Some(0) {
        return Err(
            fields.error(TO, "`truncate_prompt_tokens` must be 1 or more, or -1 for what the model reads")
        );
    }
    if truncate == Some(false) && to.is_some() {
        return Err(
            fields.error(TO, "`truncate` is false and `truncate_prompt_tokens` is there; remove one of them")
        );
    }
    request.truncate = to.is_some() || truncate.unwrap_or(false);
    request.truncate_to = to.and_then(|n| u32::try_from(n).ok());
    Ok(())
}

/// `normalize` (vLLM's), or `embd_normalize` (llama-server's): 2 is the Euclidean length, -1 leaves vectors alone.
fn take_normalize(fields: &mut Fields) -> Result<bool, RequestError> {
    let normalize = fields.bool("normalize")?;
    let embd_normalize = match fields.integer(&["embd_normalize"], -1, i32::MAX.into())? {
        None => None,
        Some(2) => Some(true),
        Some(-1) => Some(false),
        Some(_) => {
            let text = "`embd_normalize` must be 2 (the length is 1) or -1 (as they are)";
            return Err(fields.error("embd_normalize", text).with_code("unsupported_value"));
        }
    };
    match (normalize, embd_normalize) {
        (Some(a), Some(b)) if a != b => {
            Err(fields.error("embd_normalize", "`normalize` and `embd_normalize` differ; give one of them"))
        }
        (a, b) => Ok(a.or(b).unwrap_or(true)),
    }
}

impl EmbeddingsCall {
    /// The reply; `model` is the name that it shows.
    pub fn reply(&self, model: &str, embeddings: &Embeddings) -> String {
        let vector = |item: &'_ Embedding| match self.shape {
            Shape::Base64 => {
                let bytes: Vec<u8> = item.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Some(BASE64_STANDARD.encode(bytes))
            }
            Shape::Floats | Shape::Rows => None,
        };
        let items = embeddings.items.iter().enumerate();
        if self.shape == Shape::Rows {
            let row = |(index, item): (usize, &'_ Embedding)| {
                json(&Row { index, embedding: [&item.vector], truncated_from: item.truncated_from })
            };
            return format!("[{}]", items.map(row).collect::<Vec<_>>().join(","));
        }
        let data = items.map(|(index, item)| Item {
            object: "embedding",
            index,
            embedding: vector(item).map_or(Vector::Floats(&item.vector), Vector::Base64),
        });
        json(&Reply {
            object: "list",
            data: data.collect(),
            model,
            usage: Usage::of(embeddings),
            truncated: truncated(&self.names, embeddings),
        })
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::{Principal, Prompt};
    use serde_json::{Value, json};

    use super::*;

    fn parsed(body: &Value) -> Result<EmbeddingsCall, RequestError> {
        let caller = Caller { id: "embd-1".into(), principal: Principal::local() };
        parse(body.to_string().as_bytes(), caller)
    }

    fn embeddings(vectors: &[&[f32]]) -> Embeddings {
        let item = |v: &&[f32]| Embedding { vector: v.to_vec(), n_tokens: 3, truncated_from: None };
        let usage = ingle_chat::Usage { prompt_tokens: 3 * vectors.len() as u64, ..Default::default() };
        Embeddings { items: vectors.iter().map(item).collect(), usage, of_pairs: false }
    }

    /// The names and texts of the inputs.
    #[track_caller]
    fn check(body: Value, expected: &[(&str, Prompt)]) {
        let call = parsed(&body).expect("valid");
        let inputs: Vec<_> =
            call.request.inputs.iter().map(|i| (i.name.as_str(), i.prompt.clone())).collect();
        assert_eq!(inputs, expected, "{body}");
    }

    #[test]
    fn inputs() {
        let text = |text: &str| Prompt::Text(text.into());
        let tokens = |ids: &[u32]| Prompt::Tokens(ids.iter().map(|id| ingle_step::TokenId(*id)).collect());
        check(json!({ "input": "a" }), &[("input", text("a"))]);
        check(json!({ "input": ["a", "b"] }), &[("input[0]", text("a")), ("input[1]", text("b"))]);
        check(json!({ "input": [5, 6] }), &[("input", tokens(&[5, 6]))]);
        check(
            json!({ "input": [[5], [6, 7]] }),
            &[("input[0]", tokens(&[5])), ("input[1]", tokens(&[6, 7]))],
        );
        check(json!({ "content": "a" }), &[("content", text("a"))]);
    }

    #[test]
    fn wishes() {
        let call = parsed(&json!({ "input": "a" })).expect("valid");
        let request = call.request;
        assert_eq!(
            (request.model, request.dimensions, request.truncate, request.normalize),
            (None, None, false, true)
        );
        let body = json!({
            "input": "a", "model": "m", "dimensions": 8, "truncate": true, "normalize": false, "user": "u", "priority": 0,
            "encoding_format": "float", "add_special_tokens": true, "embed_dtype": "float32", "endianness": "little",
        });
        let request = parsed(&body).expect("valid").request;
        assert_eq!(
            (request.model.as_deref(), request.dimensions, request.truncate, request.normalize),
            (Some("m"), Some(8), true, false)
        );
        assert!(!parsed(&json!({ "content": "a", "embd_normalize": -1 })).expect("valid").request.normalize);
    }

    #[test]
    fn refusals() {
        let many = vec!["a"; EMBED_INPUTS_MAX + 1];
        for (body, param, part) in [
            (json!({}), "input", "missing"),
            (json!({ "input": [] }), "input", "empty list"),
            (json!({ "input": many }), "input", "at most 2048"),
            (json!({ "input": 5 }), "input", "a string, a list"),
            (json!({ "input": ["a", 5] }), "input[1]", "a string"),
            (json!({ "input": "a", "content": "a" }), "content", "both"),
            (json!({ "input": "a", "dimensions": 0 }), "dimensions", "from 1"),
            (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format", "\"base64\""),
            (json!({ "content": "a", "encoding_format": "base64" }), "encoding_format", "as `input`"),
            (json!({ "input": "a", "embd_normalize": 1 }), "embd_normalize", "2"),
            (json!({ "input": "a", "embd_normalize": 2, "normalize": false }), "embd_normalize", "differ"),
            (json!({ "input": "a", "frobnicate": 1 }), "frobnicate", "unknown field"),
        ] {
            let error = parsed(&body).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
            assert!(error.message.contains(part), "{error}");
        }
        for field in REFUSED_EMBEDDINGS {
            let mut body = json!({ "input": "a" });
            body[field.name] = json!("x");
            assert_eq!(parsed(&body).expect_err("refused").param.as_deref(), Some(field.name));
        }
        for field in HARMLESS_EMBEDDINGS {
            let mut body = json!({ "input": "a" });
            body[field.name] = json!([]);
            assert_eq!(parsed(&body).expect_err("refused").param.as_deref(), Some(field.name));
        }
    }

    #[test]
    fn replies() {
        let given = embeddings(&[&[0.5, -0.1], &[1.0, 0.0]]);
        let reply = |body: Value, given: &Embeddings| parsed(&body).expect("valid").reply("m", given);
        assert_eq!(
            reply(json!({ "input": ["a", "b"] }), &given),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-0.1]},{"object":"embedding","index":1,"embedding":[1.0,0.0]}],"model":"m","usage":{"prompt_tokens":6,"total_tokens":6}}"#
        );
        let one = embeddings(&[&[1.0, -2.0]]);
        assert_eq!(
            reply(json!({ "input": "a", "encoding_format": "base64" }), &one),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAMA="}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
        assert_eq!(reply(json!({ "content": "a" }), &one), r#"[{"index":0,"embedding":[[1.0,-2.0]]}]"#);
    }

    #[test]
    fn what_is_cut_is_said() {
        let mut given = embeddings(&[&[1.0], &[1.0]]);
        given.items[1].truncated_from = Some(9);
        let reply = |body: Value| -> Value {
            serde_json::from_str(&parsed(&body).expect("valid").reply("m", &given)).expect("JSON")
        };
        assert_eq!(
            reply(json!({ "input": ["a", "b"] }))["truncated"],
            json!([{ "input": "input[1]", "tokens": 9, "kept": 3 }])
        );
        assert_eq!(reply(json!({ "content": ["a", "b"] }))[1]["truncated_from"], 9);
    }
}
