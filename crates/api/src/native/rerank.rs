//! `/rerank` (Jina's, Cohere's and vLLM's shape) and `/score` (vLLM's): how near texts are to each other, as the cosine
//! of their embeddings, which is what vLLM gives with models that embed.

use ingle_chat::{EMBED_INPUTS_MAX, EmbedInput, EmbedRequest, Embeddings, Prompt};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::fields::{Fields, wrong_type};
use crate::openai::embeddings::Usage;
use crate::openai::refused::{self, Harmless, Refused, harmless, refused, string};
use crate::openai::sampling::take_model;
use crate::openai::terms::take_rank;
use crate::openai::{Caller, Envelope, into_string, json as text};
use crate::truncated::{Truncated, names, truncated};
use crate::{RequestError, parse_object};

/// Refused on both routes, whatever their value.
pub const REFUSED_RERANK: &[Refused] = &[
    refused("truncate_prompt_tokens", "`truncate` keeps what the context holds"),
    refused("truncation_side", "`truncate` leaves out the end; remove it"),
    refused("max_tokens_per_doc", "`truncate` keeps what the context holds"),
    refused("max_chunks_per_doc", "a document is one text; split it"),
    refused("rank_fields", "send the text that counts"),
    refused("instruction", "put it into the query, as the model was trained with it"),
    refused("chat_template", "texts are embedded as they are; remove it"),
    refused("mm_processor_kwargs", "images and audio are not available yet"),
    refused("texts", "use `documents`"),
    refused("request_id", "send the header `x-request-id`"),
];

/// Accepted with values under which the scores stay the same.
pub const HARMLESS_RERANK: &[Harmless] = &[
    harmless("user", "a string", string),
    harmless("add_special_tokens", "true", refused::is_true),
    harmless("use_activation", "true or false (cosines have none)", Value::is_boolean),
];

/// A body of `/rerank`, read.
#[derive(Clone, Debug)]
pub struct RerankCall {
    /// What is wanted: the vectors of the query and of the documents.
    pub request: EmbedRequest,
    /// The documents' texts, if the reply repeats them.
    documents: Option<Vec<String>>,
    /// How many of the best; `None` is all.
    top_n: Option<usize>,
    names: Vec<String>,
}

/// A body of `/score`, read.
#[derive(Clone, Debug)]
pub struct ScoreCall {
    /// What is wanted: the vectors of all texts.
    pub request: EmbedRequest,
    /// How many of them are on the first side: one, or as many as on the second.
    n_first: usize,
    names: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RerankReply")]
pub(crate) struct Reranked<'a> {
    id: &'a str,
    object: &'static str,
    model: &'a str,
    usage: Usage,
    results: Vec<Ranked<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<Truncated>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RankedDocument")]
pub(crate) struct Ranked<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
    relevance_score: f32,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RankedText")]
pub(crate) struct Document<'a> {
    text: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ScoreReply")]
pub(crate) struct Scores<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Score>,
    usage: Usage,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<Truncated>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PairScore")]
pub(crate) struct Score {
    index: usize,
    object: &'static str,
    score: f32,
}

/// Reads a body of `/rerank`.
pub fn parse_rerank(body: &[u8], caller: Caller) -> Result<RerankCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED_RERANK], &[HARMLESS_RERANK])?;
    let query = fields.string("query")?;
    let query = query.ok_or_else(|| fields.error("query", "`query` is missing: say what is looked for"))?;
    let documents = take_documents(&mut fields)?;
    let top_n = fields.integer(&["top_n"], 0, i32::MAX.into())?.map(|n| n as usize).filter(|n| *n > 0);
    let return_documents = fields.bool("return_documents")?.unwrap_or(true);
    let sides = [("query", vec![query]), ("documents", documents.clone())];
    let request = request(fields, sides.map(|(name, texts)| (name, texts, name == "documents")), caller)?;
    Ok(RerankCall {
        names: names(&request.inputs),
        request,
        documents: return_documents.then_some(documents),
        top_n,
    })
}

/// Reads a body of `/score`.
pub fn parse_score(body: &[u8], caller: Caller) -> Result<ScoreCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED_RERANK], &[HARMLESS_RERANK])?;
    let (first, first_texts, first_is_list) = take_side(&mut fields, &["text_1", "queries", "data_1"])?;
    let (second, second_texts, second_is_list) =
        take_side(&mut fields, &["text_2", "documents", "items", "data_2"])?;
    let (n_first, n_second) = (first_texts.len(), second_texts.len());
    if n_first != 1 && n_first != n_second {
        let message = format!(
            "`{first}` has {n_first} texts and `{second}` {n_second}: give one and one, one and many, or as many of \
             both"
        );
        return Err(RequestError::field(second, message));
    }
    let sides = [(first.as_str(), first_texts, first_is_list), (&second, second_texts, second_is_list)];
    let request = request(fields, sides, caller)?;
    Ok(ScoreCall { names: names(&request.inputs), request, n_first })
}

/// Documents as strings, or as objects with a `text`.
fn take_documents(fields: &mut Fields) -> Result<Vec<String>, RequestError> {
    let list = fields.list("documents")?;
    let list = list
        .filter(|list| !list.is_empty())
        .ok_or_else(|| fields.error("documents", "`documents` is missing or empty: give a list of texts"))?;
    check_count("documents", list.len())?;
    let document = |(i, value): (usize, Value)| {
        let path = format!("documents[{i}]");
        match value {
            Value::String(text) => Ok(text),
            value @ Value::Object(_) => {
                let mut fields = Fields::nested(value, &path)?;
                let text = fields.string("text")?;
                fields.finish()?;
                text.ok_or_else(|| RequestError::field(&path, format!("`{path}` has no `text`: give one")))
            }
            other => Err(wrong_type(&path, "a string, or an object with a `text`", &other)),
        }
    };
    list.into_iter().enumerate().map(document).collect()
}

/// One side of the pairs, under one of its names: a string, or a list of strings. Gives the name, the texts, and
/// whether they were a list.
fn take_side(fields: &mut Fields, any: &[&str]) -> Result<(String, Vec<String>, bool), RequestError> {
    let missing = || {
        let name = any[0];
        RequestError::field(name, format!("`{name}` is missing or empty: give a text, or a list of texts"))
    };
    match fields.take_any(any)?.ok_or_else(missing)? {
        (name, Value::String(text)) => Ok((name, vec![text], false)),
        (_, Value::Array(list)) if list.is_empty() => Err(missing()),
        (name, Value::Array(list)) => {
            check_count(&name, list.len())?;
            let entry = |(i, value)| into_string(value, &format!("{name}[{i}]"));
            let texts = list.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
            Ok((name, texts, true))
        }
        (name, other) => Err(wrong_type(&name, "a string or a list of strings", &other)),
    }
}

fn check_count(name: &str, n: usize) -> Result<(), RequestError> {
    if n > EMBED_INPUTS_MAX {
        let message = format!("`{name}` has {n} entries; at most {EMBED_INPUTS_MAX} texts are taken in all");
        return Err(RequestError::field(name, message));
    }
    Ok(())
}

/// The fields that both routes have, and the wish for the vectors of both sides: name, texts, and whether it is a list.
fn request(
    mut fields: Fields,
    sides: [(&str, Vec<String>, bool); 2],
    caller: Caller,
) -> Result<EmbedRequest, RequestError> {
    let n: usize = sides.iter().map(|(_, texts, _)| texts.len()).sum();
    check_count(sides[1].0, n)?;
    let mut inputs = Vec::with_capacity(n);
    for (name, texts, is_list) in sides {
        let input = |(i, text)| EmbedInput {
            name: if is_list { format!("{name}[{i}]") } else { name.to_owned() },
            prompt: Prompt::Text(text),
        };
        inputs.extend(texts.into_iter().enumerate().map(input));
    }
    let mut request = EmbedRequest::new(caller.id, caller.principal, inputs);
    request.model = take_model(&mut fields)?;
    request.terms.rank = take_rank(&mut fields)?;
    request.truncate = fields.bool("truncate")?.unwrap_or(false);
    fields.finish()?;
    Ok(request)
}

impl RerankCall {
    /// The reply: the best first, and of equals the one that came first.
    pub fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        let Some((query, documents)) = embeddings.items.split_first() else {
            return json!({ "results": [] }).to_string();
        };
        let scores = documents.iter().map(|document| query.cosine(document));
        let mut order: Vec<(usize, f32)> = scores.enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order.truncate(self.top_n.unwrap_or(usize::MAX));
        let ranked = |(index, relevance_score): (usize, f32)| {
            let document = self.documents.as_ref().and_then(|documents| documents.get(index));
            Ranked { index, document: document.map(|text| Document { text }), relevance_score }
        };
        text(&Reranked {
            id: &envelope.id,
            object: "list",
            model: &envelope.model,
            usage: Usage::of(embeddings),
            results: order.into_iter().map(ranked).collect(),
            truncated: truncated(&self.names, embeddings),
        })
    }
}

impl ScoreCall {
    /// The reply: a score for each pair.
    pub fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        let (first, second) = embeddings.items.split_at(self.n_first.min(embeddings.items.len()));
        // One text on the first side is paired with each of the second.
        let pairs = second.iter().zip(first.iter().cycle());
        let score = |(index, (b, a)): (usize, (&'_ ingle_chat::Embedding, &'_ ingle_chat::Embedding))| {
            Score { index, object: "score", score: a.cosine(b) }
        };
        text(&Scores {
            id: &envelope.id,
            object: "list",
            created: envelope.created,
            model: &envelope.model,
            data: pairs.enumerate().map(score).collect(),
            usage: Usage::of(embeddings),
            truncated: truncated(&self.names, embeddings),
        })
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::{Embedding, Principal};

    use super::*;

    fn caller() -> Caller {
        Caller { id: "rerank-1".into(), principal: Principal::local() }
    }

    fn envelope() -> Envelope {
        Envelope { id: "x-1".into(), created: 5, model: "m".into(), fingerprint: "f".into() }
    }

    fn reranked(body: &Value) -> Result<RerankCall, RequestError> {
        parse_rerank(body.to_string().as_bytes(), caller())
    }

    fn scored(body: &Value) -> Result<ScoreCall, RequestError> {
        parse_score(body.to_string().as_bytes(), caller())
    }

    fn embeddings(vectors: &[[f32; 2]]) -> Embeddings {
        let item = |v: &[f32; 2]| Embedding { vector: v.to_vec(), n_tokens: 2, truncated_from: None };
        let usage = ingle_chat::Usage { prompt_tokens: 2 * vectors.len() as u64, ..Default::default() };
        Embeddings { items: vectors.iter().map(item).collect(), usage }
    }

    #[test]
    fn the_nearest_come_first() {
        let given = embeddings(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 4.0], [2.0, 0.0]]);
        let check = |more: Value, expected: &str| {
            let mut body =
                json!({ "model": "m", "query": "q", "documents": ["a", { "text": "b" }, "c", "d"] });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let call = reranked(&body).expect("valid");
            let names: Vec<_> = call.request.inputs.iter().map(|i| i.name.as_str()).collect();
            assert_eq!(names, ["query", "documents[0]", "documents[1]", "documents[2]", "documents[3]"]);
            assert_eq!(call.reply(&envelope(), &given), expected);
        };
        check(
            json!({ "top_n": 2 }),
            r#"{"id":"x-1","object":"list","model":"m","usage":{"prompt_tokens":10,"total_tokens":10},"results":[{"index":1,"document":{"text":"b"},"relevance_score":1.0},{"index":3,"document":{"text":"d"},"relevance_score":1.0}]}"#,
        );
        check(
            json!({ "return_documents": false, "top_n": 0 }),
            r#"{"id":"x-1","object":"list","model":"m","usage":{"prompt_tokens":10,"total_tokens":10},"results":[{"index":1,"relevance_score":1.0},{"index":3,"relevance_score":1.0},{"index":2,"relevance_score":0.6},{"index":0,"relevance_score":0.0}]}"#,
        );
    }

    #[test]
    fn pairs_are_one_to_one_one_to_many_or_many_to_many() {
        let check = |body: Value, given: &[[f32; 2]], names: &[&str], scores: &[f32]| {
            let call = scored(&body).expect("valid");
            assert_eq!(call.request.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), names);
            let reply: Value =
                serde_json::from_str(&call.reply(&envelope(), &embeddings(given))).expect("JSON");
            let data: Vec<Value> = (0..)
                .zip(scores)
                .map(|(i, s)| json!({ "index": i, "object": "score", "score": s }))
                .collect();
            assert_eq!(reply["data"], json!(data), "{body}");
            assert_eq!((&reply["object"], &reply["created"]), (&json!("list"), &json!(5)));
        };
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        check(json!({ "text_1": "a", "text_2": "b" }), &[x, y], &["text_1", "text_2"], &[0.0]);
        check(
            json!({ "text_1": "a", "text_2": ["b", "c"] }),
            &[x, x, y],
            &["text_1", "text_2[0]", "text_2[1]"],
            &[1.0, 0.0],
        );
        check(
            json!({ "queries": ["a", "b"], "documents": ["c", "d"] }),
            &[x, y, y, y],
            &["queries[0]", "queries[1]", "documents[0]", "documents[1]"],
            &[0.0, 1.0],
        );
    }

    #[test]
    fn what_is_cut_is_said() {
        let mut given = embeddings(&[[1.0, 0.0], [1.0, 0.0]]);
        given.items[1].truncated_from = Some(50);
        let call = scored(&json!({ "text_1": "a", "text_2": "b", "truncate": true })).expect("valid");
        assert!(call.request.truncate);
        let reply: Value = serde_json::from_str(&call.reply(&envelope(), &given)).expect("JSON");
        assert_eq!(reply["truncated"], json!([{ "input": "text_2", "tokens": 50, "kept": 2 }]));
    }

    #[test]
    fn refusals() {
        let many = |n: usize| vec!["a"; n];
        for (body, param, part) in [
            (json!({ "documents": ["a"] }), "query", "missing"),
            (json!({ "query": "q" }), "documents", "missing"),
            (json!({ "query": "q", "documents": [] }), "documents", "empty"),
            (json!({ "query": "q", "documents": ["a", 5] }), "documents[1]", "a string, or an object"),
            (json!({ "query": "q", "documents": [{}] }), "documents[0]", "no `text`"),
            (json!({ "query": "q", "documents": [{ "text": "a", "b": 1 }] }), "documents[0].b", "unknown"),
            (json!({ "query": "q", "documents": many(EMBED_INPUTS_MAX) }), "documents", "at most 2048"),
            (json!({ "query": "q", "documents": ["a"], "top_n": -1 }), "top_n", "from 0"),
            (json!({ "query": "q", "documents": ["a"], "frobnicate": 1 }), "frobnicate", "unknown"),
        ] {
            let error = reranked(&body).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
            assert!(error.message.contains(part), "{error}");
        }
        for (body, param, part) in [
            (json!({ "text_2": "a" }), "text_1", "missing"),
            (json!({ "text_1": "a", "text_2": [] }), "text_2", "empty"),
            (json!({ "text_1": ["a", "b"], "text_2": ["a", "b", "c"] }), "text_2", "has 2 texts"),
            (json!({ "text_1": ["a", "b"], "text_2": "a" }), "text_2", "one and many"),
            (json!({ "text_1": "a", "text_2": [5] }), "text_2[0]", "a string"),
            (json!({ "text_1": "a", "text_2": many(EMBED_INPUTS_MAX) }), "text_2", "at most 2048"),
        ] {
            let error = scored(&body).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
            assert!(error.message.contains(part), "{error}");
        }
        for field in REFUSED_RERANK {
            let mut body = json!({ "query": "q", "documents": ["a"] });
            body[field.name] = json!("x");
            assert_eq!(reranked(&body).expect_err("refused").param.as_deref(), Some(field.name));
        }
    }
}
