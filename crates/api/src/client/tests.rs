use serde_json::{Map, Value, json};

use super::sse::{EVENT_BYTES_MAX, Fault, Parser};
use super::*;

/// Events of a stream, read whole and byte by byte, and whether it ended between two events.
fn events(stream: &[u8]) -> Result<(Vec<String>, bool), Fault> {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut parser, mut out) = (Parser::new(), Vec::new());
        for piece in pieces {
            parser.push(piece, &mut out)?;
        }
        Ok((out, parser.is_between()))
    };
    let whole = read(&mut std::iter::once(stream));
    assert_eq!(whole, read(&mut stream.chunks(1)), "pieces make no difference");
    whole
}

#[test]
fn streams_come_apart_into_events() {
    let check = |stream: &str, expected: &[&str], is_between: bool| {
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(events(stream.as_bytes()), Ok((expected, is_between)), "{stream:?}");
    };
    check("", &[], true);
    check("data: a\n\ndata: b\n\n", &["a", "b"], true);
    check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"], true);
    check("data: a\r\rdata: b\r\r", &["a", "b"], true);
    check("\u{feff}data:a\n\n", &["a"], true);
    check("data:  a\n\n", &[" a"], true);
    check("data: a\ndata: b\n\n", &["a\nb"], true);
    check("data\n\n", &[""], true);
    check(": keep-alive\n\nevent: x\nid: 1\nretry: 5\ndatabase: 1\n\n\n", &[], true);
    check("event: x\ndata: a\n\n", &["a"], true);
    check("data: a\n\ndata: {\"cut", &["a"], false);
    check("data: a\n", &[], false);
}

#[test]
fn streams_that_are_none_are_refused() {
    let mut long = b"data: ".to_vec();
    long.resize(EVENT_BYTES_MAX + 1, b'x');
    assert_eq!(events(&long).unwrap_err(), Fault::TooLong);
    let line = format!("data: {}\n", "x".repeat(EVENT_BYTES_MAX / 2));
    assert_eq!(events(line.repeat(3).as_bytes()).unwrap_err(), Fault::TooLong);
    assert_eq!(events(b"data: \xff\n\n").unwrap_err(), Fault::NotText);
}

#[test]
fn bodies_say_what_is_wanted() {
    let mut more = Map::new();
    more.insert("temperature".into(), json!(0));
    let check = |dialect: Dialect, input: Input, expected: Value| {
        let call = Call { model: Some("m"), input: &input, max_tokens: 7, ignore_eos: true, more: &more };
        assert_eq!(dialect.body(&call), expected);
    };
    let usage = json!({ "include_usage": true });
    let talk = || {
        let message = |who, text: &str| (who, text.to_owned());
        Input::Messages(vec![message(Speaker::User, "a"), message(Speaker::Assistant, "b")])
    };
    check(
        Dialect::Chat,
        talk(),
        json!({
            "model": "m", "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }],
            "max_tokens": 7, "stream": true, "stream_options": usage, "ignore_eos": true, "temperature": 0
        }),
    );
    check(
        Dialect::Completions,
        talk(),
        json!({
            "model": "m", "prompt": "ab", "max_tokens": 7, "stream": true, "stream_options": usage, "ignore_eos": true,
            "temperature": 0
        }),
    );
    check(
        Dialect::Infill,
        Input::Gap { prefix: "a".into(), suffix: "b".into() },
        json!({
            "model": "m", "input_prefix": "a", "input_suffix": "b", "n_predict": 7, "stream": true, "ignore_eos": true,
            "temperature": 0
        }),
    );
    let input = Input::Messages(vec![(Speaker::User, "a".into())]);
    let call = Call { model: None, input: &input, max_tokens: 1, ignore_eos: false, more: &Map::new() };
    assert_eq!(
        Dialect::Chat.body(&call),
        json!({
            "messages": [{ "role": "user", "content": "a" }], "max_tokens": 1, "stream": true, "stream_options": usage
        })
    );
    assert_eq!(Dialect::check_more(&more), Ok(()));
    more.insert("stream".into(), json!(false));
    assert_eq!(Dialect::check_more(&more), Err("stream"));
}

#[test]
fn events_say_what_there_is() {
    let check = |dialect: Dialect, data: Value, expected: Said| {
        assert_eq!(dialect.read(&data.to_string()), Ok(expected), "{data}");
    };
    let text = |text: &str| Said { text: text.into(), ..Said::default() };
    let delta = |delta: Value| json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] });
    check(Dialect::Chat, delta(json!({ "role": "assistant", "content": null })), Said::default());
    check(Dialect::Chat, delta(json!({ "content": "a" })), text("a"));
    check(
        Dialect::Chat,
        delta(json!({ "reasoning_content": "a" })),
        Said { reasoning: "a".into(), ..Said::default() },
    );
    check(
        Dialect::Chat,
        delta(json!({ "tool_calls": [{ "index": 0 }] })),
        Said { calls_tool: true, ..Said::default() },
    );
    check(
        Dialect::Chat,
        json!({ "choices": [], "usage": {
            "prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": { "cached_tokens": 3 }
        } }),
        Said {
            spent: Some(Spent { prompt_tokens: 5, cached_tokens: Some(3), completion_tokens: 2 }),
            ..Said::default()
        },
    );
    check(
        Dialect::Completions,
        json!({ "choices": [{ "text": "a", "finish_reason": "length" }], "usage": null }),
        Said { finish_reason: Some("length".into()), ..text("a") },
    );
    check(
        Dialect::Infill,
        json!({ "content": "", "stop": true, "stop_type": "limit", "tokens_evaluated": 4, "tokens_predicted": 2 }),
        Said {
            finish_reason: Some("limit".into()),
            is_last: true,
            spent: Some(Spent { prompt_tokens: 4, cached_tokens: None, completion_tokens: 2 }),
            ..Said::default()
        },
    );
    let failed = Said { error: Some("too bad".into()), is_last: true, ..Said::default() };
    check(Dialect::Chat, json!({ "error": { "message": "too bad", "code": 500 } }), failed.clone());
    check(Dialect::Infill, json!({ "error": "too bad" }), failed);
    assert!(Dialect::Chat.read("[DONE]").is_ok_and(|said| said.is_last));
}

#[test]
fn events_that_say_nothing_are_refused() {
    for (dialect, data, part) in [
        (Dialect::Chat, "{", "no JSON"),
        (Dialect::Chat, "[1]", "no object"),
        (Dialect::Chat, "{}", "choices"),
        (Dialect::Completions, r#"{"choices": [], "usage": {}}"#, "prompt_tokens"),
        (Dialect::Infill, "[DONE]", "no JSON"),
        (Dialect::Infill, r#"{"choices": []}"#, "content"),
    ] {
        let error = dialect.read(data).expect_err(data);
        assert!(error.contains(part), "{data}: {error}");
    }
}

#[test]
fn replies_of_tokenize_are_counted() {
    assert_eq!(token_count(br#"{"tokens": [1, 2, 3]}"#), Some(3));
    assert_eq!(token_count(br#"{"count": 2, "tokens": [1, 2]}"#), Some(2));
    assert_eq!(token_count(b"not found"), None);
    assert_eq!(tokenize_bodies("a", None)[0], json!({ "content": "a" }));
}
