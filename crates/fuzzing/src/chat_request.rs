//! Bodies of requests.

use std::fmt::Debug;

use ingle_api::RequestError;
use ingle_api::anthropic::messages;
use ingle_api::native::rerank;
use ingle_api::ollama::{EmbedRoute, Route};
use ingle_api::openai::{Caller, chat, completion, embeddings, sampling};
use ingle_chat::{EMBED_INPUTS_MAX, EmbedRequest, Principal, Request, Task};
use serde_json::{Map, Value, json};

use crate::source::Source;

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "typ_p",
    "n",
    "best_of",
    "stop",
    "stop_token_ids",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "stream",
    "stream_options",
    "echo",
    "suffix",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "structured_outputs",
    "structural_tag",
    "guided_json",
    "guided_choice",
    "regex",
    "grammar",
    "reasoning",
    "reasoning_effort",
    "thinking",
    "think",
    "thinking_token_budget",
    "include_reasoning",
    "separate_reasoning",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "ignore_eos",
    "skip_special_tokens",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "samplers",
    "xtc_probability",
    "xtc_threshold",
    "dynatemp_range",
    "top_n_sigma",
    "min_keep",
    "context_shift",
    "n_keep",
    "n_discard",
    "shift",
    "modalities",
    "metadata",
    "options",
    "format",
    "think",
    "keep_alive",
    "raw",
    "system",
    "context",
    "input",
    "content",
    "dimensions",
    "encoding_format",
    "normalize",
    "truncate",
    "query",
    "documents",
    "top_n",
    "text_1",
    "text_2",
    "no_such_field",
    "",
];
const STRINGS: &[&str] = &[
    "",
    "user",
    "assistant",
    "system",
    "developer",
    "tool",
    "function",
    "text",
    "hello",
    "auto",
    "none",
    "top_k",
    "temperature",
    "dry",
    "\u{0}",
    "é\n",
    "1",
    "-1",
    "{}",
    "{\"a\":1}",
    "messages",
    "0",
];

/// A body (any bytes that start with `{`, else one made of known fields): each route refuses it with the field's name, or
/// gives a request within the documented bounds that does not depend on the order of fields.
pub fn chat_request(data: &[u8]) {
    let mut source = Source::new(data);
    let body = if data.first() == Some(&b'{') {
        data.to_vec()
    } else {
        serde_json::to_vec(&invented(&mut source)).expect("values can be written")
    };
    let turned = serde_json::from_slice(&body).ok().and_then(|value| turned(&value));
    let turned = turned.as_ref();
    check(&body, turned, |body| {
        let request = chat::parse(body, caller())?.request;
        assert!(!is_empty_chat(&request));
        Ok(vec![request])
    });
    check(&body, turned, |body| completion::parse(body, caller()).map(|call| call.requests));
    for route in [Route::Generate, Route::Chat] {
        check(&body, turned, |body| {
            let call = route.parse(body, caller())?;
            assert!(call.load_only || !is_empty_chat(&call.request));
            Ok(vec![call.request])
        });
    }
    check(&body, turned, |body| messages::parse(body, caller()).map(|call| vec![call.request]));
    check(&body, turned, |body| messages::parse_count(body, caller()).map(|request| vec![request]));
    let some_texts = |request: &EmbedRequest| assert!(!request.inputs.is_empty() && are_bounded(request));
    check_any(&body, turned, |body| Ok(embeddings::parse(body, caller())?.request), some_texts);
    check_any(&body, turned, |body| Ok(rerank::parse_rerank(body, caller())?.request), some_texts);
    check_any(&body, turned, |body| Ok(rerank::parse_score(body, caller())?.request), some_texts);
    for route in [EmbedRoute::Embed, EmbedRoute::Embeddings] {
        let parse = |body: &[u8]| Ok(route.parse(body, caller())?.request);
        check_any(&body, turned, parse, |request| assert!(are_bounded(request)));
    }
}

fn caller() -> Caller {
    Caller { id: "r".into(), principal: Principal::local() }
}

/// The same object twice as text, once with its fields in reverse.
fn turned(value: &Value) -> Option<[Vec<u8>; 2]> {
    let map = value.as_object()?;
    let reversed: Map<String, Value> = map.clone().into_iter().rev().collect();
    Some([map, &reversed].map(|map| serde_json::to_vec(map).expect("values can be written")))
}

fn check(
    body: &[u8],
    turned: Option<&[Vec<u8>; 2]>,
    parse: impl Fn(&[u8]) -> Result<Vec<Request>, RequestError>,
) {
    check_any(body, turned, parse, |requests| {
        assert!(!requests.is_empty());
        requests.iter().for_each(bounds);
    });
}

fn check_any<T: PartialEq + Debug>(
    body: &[u8],
    turned: Option<&[Vec<u8>; 2]>,
    parse: impl Fn(&[u8]) -> Result<T, RequestError>,
    bounds: impl Fn(&T),
) {
    match parse(body) {
        Ok(request) => {
            bounds(&request);
            let [same, reversed] = turned.expect("a body is an object");
            // Written again first: numbers have one spelling then.
            assert_eq!(parse(same), parse(reversed), "the order of fields matters");
        }
        Err(error) => {
            assert!(!error.message.is_empty() && error.message.len() < 2000, "{} bytes", error.message.len());
            assert!(!error.message.contains('\n'), "{error}");
            assert!(error.param.is_some() || error.code == Some("invalid_json"), "{error:?} names no field");
        }
    }
}

fn are_bounded(request: &EmbedRequest) -> bool {
    request.inputs.len() <= EMBED_INPUTS_MAX && request.dimensions.is_none_or(|n| n > 0)
}

fn bounds(request: &Request) {
    assert!((1..=sampling::N_MAX).contains(&request.n));
    assert!(request.stop.len() <= sampling::STOPS_MAX && request.stop.iter().all(|s| !s.is_empty()));
    assert!(request.stop.iter().all(|s| s.len() <= sampling::STOP_BYTES_MAX));
    assert!(request.logprobs.unwrap_or(0) <= 20 && request.prompt_logprobs.unwrap_or(0) <= 20);
    assert!(request.sampling.temperature.is_none_or(|t| (0.0..=100.0).contains(&t)));
    assert!(request.sampling.top_p.is_none_or(|p| p > 0.0 && p <= 1.0));
    assert!(request.sampling.logit_bias.iter().all(|(_, bias)| !bias.is_nan()));
}

fn is_empty_chat(request: &Request) -> bool {
    matches!(&request.task, Task::Chat(input) if input.messages.is_empty())
}

fn invented(source: &mut Source) -> Value {
    let mut map = Map::new();
    // Something that is right, so that what follows is looked at.
    match source.below(3) {
        0 => map.insert("messages".into(), json!([{"role": "user", "content": "hi"}])),
        1 => map.insert("prompt".into(), json!("hi")),
        _ => map.insert("messages".into(), (0..source.below(4)).map(|_| message(source)).collect()),
    };
    while !source.is_empty() && map.len() < 64 {
        let name = if source.byte() == 255 { source.text() } else { source.pick(FIELDS).to_owned() };
        let value = value(source, 3);
        map.insert(name, value);
    }
    Value::Object(map)
}

fn message(source: &mut Source) -> Value {
    const KEYS: &[&str] = &[
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "tool_name",
        "thinking",
        "reasoning_content",
        "refusal",
        "x",
    ];
    let mut map = Map::new();
    map.insert("role".into(), json!(source.pick(STRINGS)));
    for _ in 0..source.below(4) {
        let key = source.pick(KEYS);
        let value = match source.below(4) {
            0 => json!([{"type": "text", "text": source.text()}]),
            1 => json!([{"id": source.pick(STRINGS), "type": "function",
                "function": {"name": "f", "arguments": source.pick(STRINGS)}}]),
            2 => json!(source.text()),
            _ => value(source, 2),
        };
        map.insert(key.into(), value);
    }
    Value::Object(map)
}

fn value(source: &mut Source, depth: usize) -> Value {
    match source.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => json!(source.flag()),
        2 => json!(source.byte()),
        3 => json!(source.pick(&[0.0, 1.0, 0.5, -1.0, 1e300, -0.0, 2.0, 1e-300, 9_007_199_254_740_993.0])),
        4 => json!(source.pick(STRINGS)),
        5 => json!(source.text()),
        6 => json!(source.pick(&[-1, i64::MIN, i64::MAX, 1 << 32, 128, 129])),
        7 => (0..source.below(4)).map(|_| value(source, depth - 1)).collect(),
        _ => {
            let fields =
                (0..source.below(4)).map(|_| (source.pick(STRINGS).to_owned(), value(source, depth - 1)));
            Value::Object(fields.collect())
        }
    }
}
