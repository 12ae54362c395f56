//! `/rerank` (Jina's, Cohere's and vLLM's shape) and `/score` (vLLM's): how near texts are to each other. A model with a
//! head that ranks reads each pair and gives it a score, of which the logistic function makes a number from 0 to 1, as
//! vLLM does; of models that embed it is the cosine of the embeddings.

use ingle_chat::{EMBED_INPUTS_MAX, EmbedInput, EmbedRequest, Embedding, Embeddings, Prompt};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::fields::{Fields, wrong_type};
use crate::openai::embeddings::{Usage, take_truncation};
use crate::openai::refused::{self, Harmless, Refused, harmless, refused, string, zero};
use crate::openai::sampling::take_model;
use crate::openai::{Caller, Envelope, into_string, json as text};
use crate::truncated::{Truncated, names, truncated};
use crate::{RequestError, parse_object};

/// Refused on both routes, whatever their value.
pub const REFUSED_RERANK: &[Refused] = &[
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
    harmless("priority", "0", zero),
    harmless("add_special_tokens", "true", refused::is_true),
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
    scoring: Scoring,
}

/// A body of `/score`, read.
#[derive(Clone, Debug)]
pub struct ScoreCall {
    /// What is wanted: the vectors of all texts.
    pub request: EmbedRequest,
    scoring: Scoring,
}

/// How pairs get their scores.
#[derive(Clone, Debug)]
struct Scoring {
    /// The pairs, by the places of their texts.
    pairs: Vec<(usize, usize)>,
    /// What the texts are called.
    names: Vec<String>,
    /// Whether a head's numbers go through the logistic function.
    activate: bool,
}

impl Scoring {
    /// Reads what is left of a body, and finishes the wish for both sides' texts.
    fn take(mut fields: Fields, request: &mut EmbedRequest) -> Result<Self, RequestError> {
        let activate = fields.bool("use_activation")?.unwrap_or(true);
        take_truncation(&mut fields, request)?;
        fields.finish()?;
        Ok(Self { pairs: request.pairs.clone(), names: names(&request.inputs), activate })
    }

    /// The scores of all pairs, in their order.
    fn scores(&self, embeddings: &Embeddings) -> Vec<f32> {
        let items = &embeddings.items;
        if !embeddings.of_pairs {
            let cosine = |&(a, b): &(usize, usize)| Some(items.get(a)?.cosine(items.get(b)?));
            return self.pairs.iter().map(|pair| cosine(pair).unwrap_or(0.0)).collect();
        }
        let logit = |item: &Embedding| f64::from(item.vector.first().copied().unwrap_or(0.0));
        let score = |x: f64| if self.activate { 1.0 / (1.0 + (-x).exp()) } else { x };
        items.iter().map(|item| score(logit(item)) as f32).collect()
    }

    /// Which texts were cut. Of a pair it is the second.
    fn truncated(&self, embeddings: &Embeddings) -> Vec<Truncated> {
        if !embeddings.of_pairs {
            return truncated(&self.names, embeddings);
        }
        let seconds: Vec<String> = self.pairs.iter().map(|&(_, second)| self.names[second].clone()).collect();
        truncated(&seconds, embeddings)
    }
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
    let sides = sides.map(|(name, texts)| (name, texts, name == "documents"));
    let mut request = request(&mut fields, sides, caller)?;
    request.pairs = (1..request.inputs.len()).map(|document| (0, document)).collect();
    Ok(RerankCall {
        scoring: Scoring::take(fields, &mut request)?,
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
    let mut request = request(&mut fields, sides, caller)?;
    // One text on the first side is paired with each of the second.
    request.pairs = (0..n_second).map(|i| (i.min(n_first - 1), n_first + i)).collect();
    Ok(ScoreCall { scoring: Scoring::take(fields, &mut request)?, request })
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
    fields: &mut Fields,
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
    request.model = take_model(fields)?;
    Ok(request)
}

impl RerankCall {
    /// The reply: the best first, and of equals the one that came first.
    pub fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        let mut order: Vec<(usize, f32)> = self.scoring.scores(embeddings).into_iter().enumerate().collect();
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
            truncated: self.scoring.truncated(embeddings),
        })
    }
}

impl ScoreCall {
    /// The reply: a score for each pair.
    pub fn reply(&self, envelope: &Envelope, embeddings: &Embeddings) -> String {
        let scores = self.scoring.scores(embeddings).into_iter();
        let score = |(index, score)| Score { index, object: "score", score };
        text(&Scores {
            id: &envelope.id,
            object: "list",
            created: envelope.created,
            model: &envelope.model,
            data: scores.enumerate().map(score).collect(),
            usage: Usage::of(embeddings),
            truncated: self.scoring.truncated(embeddings),
        })
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::Principal;
    use serde_json::json;

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
        Embeddings { items: vectors.iter().map(item).collect(), usage, of_pairs: false }
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

    /// What a head that ranks gave for pairs.
    fn of_pairs(logits: &[f32]) -> Embeddings {
        let item = |x: &f32| Embedding { vector: vec![*x], n_tokens: 3, truncated_from: None };
        Embeddings { items: logits.iter().map(item).collect(), of_pairs: true, ..Embeddings::default() }
    }

    #[test]
    fn a_head_that_ranks_decides() {
        let check = |more: Value, expected: &[(u64, f64)]| {
            let mut body = json!({ "query": "q", "documents": ["a", "b", "c"] });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let call = reranked(&body).expect("valid");
            assert_eq!(call.request.pairs, [(0, 1), (0, 2), (0, 3)]);
            let reply: Value =
                serde_json::from_str(&call.reply(&envelope(), &of_pairs(&[-2.0, 6.5, 0.0]))).expect("JSON");
            let results = reply["results"].as_array().expect("a list");
            let found: Vec<(u64, f64)> = results
                .iter()
                .map(|r| {
                    (r["index"].as_u64().expect("a number"), r["relevance_score"].as_f64().expect("a number"))
                })
                .collect();
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6,
                    "{found:?} {expected:?}"
                );
            }
            assert_eq!(found.len(), expected.len());
        };
        check(json!({ "top_n": 2 }), &[(1, 0.998_498_8), (2, 0.5)]);
        check(json!({ "use_activation": false }), &[(1, 6.5), (2, 0.0), (0, -2.0)]);

        let call = scored(&json!({ "text_1": ["a", "b"], "text_2": ["c", "d"], "use_activation": false }));
        let call = call.expect("valid");
        assert_eq!(call.request.pairs, [(0, 2), (1, 3)]);
        let mut given = of_pairs(&[1.5, -1.0]);
        given.items[1].truncated_from = Some(20);
        let reply: Value = serde_json::from_str(&call.reply(&envelope(), &given)).expect("JSON");
        assert_eq!((&reply["data"][0]["score"], &reply["data"][1]["score"]), (&json!(1.5), &json!(-1.0)));
        assert_eq!(reply["truncated"], json!([{ "input": "text_2[1]", "tokens": 20, "kept": 3 }]));
    }

    #[test]
    fn truncation_is_asked_for() {
        let check = |body: Value, truncate: bool, to: Option<u32>| {
            let mut all = json!({ "text_1": "a", "text_2": "b" });
            all.as_object_mut().expect("an object").extend(body.as_object().expect("an object").clone());
            let call = scored(&all).expect("valid");
            assert_eq!((call.request.truncate, call.request.truncate_to), (truncate, to), "{body}");
        };
        check(json!({}), false, None);
        check(json!({ "truncate": true }), true, None);
        check(json!({ "truncate_prompt_tokens": -1 }), true, None);
        check(json!({ "truncate_prompt_tokens": 8, "truncate": true }), true, Some(8));
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
            (
                json!({ "query": "q", "documents": ["a"], "use_activation": 1 }),
                "use_activation",
                "true or false",
            ),
            (
                json!({ "query": "q", "documents": ["a"], "truncate_prompt_tokens": 0 }),
                "truncate_prompt_tokens",
                "1 or more",
            ),
            (
                json!({ "query": "q", "documents": ["a"], "truncate_prompt_tokens": 5, "truncate": false }),
                "truncate_prompt_tokens",
                "remove one",
            ),
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
