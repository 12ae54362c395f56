//! `/v1/responses`, with and without a store.

use std::sync::Arc;

use ingle_ledger::{Responses, Retention};
use ingle_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Reply, Running, config, start, start_with};
use crate::fixtures::check;

const ROUTE: &str = "/v1/responses";

/// A server that stores, and the folder where it does.
async fn storing(config: ServerConfig, retention: Retention) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("responses.sqlite");
    let responses = Responses::open(&path, retention).await.expect("it opens");
    let config = ServerConfig { responses: Some(Arc::new(responses)), ..config };
    (start_with(config, true).await, folder)
}

async fn store() -> (Running, tempfile::TempDir) {
    storing(config(), Retention::default()).await
}

fn body(input: &str, more: Value) -> Value {
    let mut body = json!({ "model": "scripted", "input": input });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn create(server: &Running, input: &str, more: Value) -> Value {
    let reply = server.post_json(ROUTE, body(input, more)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"))
}

/// Events with their names; the name is the type, and they are numbered from 0.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let blocks = reply.body.split_terminator("\n\n").filter(|b| !b.starts_with(':'));
    let events: Vec<Value> = blocks
        .map(|block| {
            let (name, data) = block.split_once('\n').expect("two lines");
            let event: Value =
                serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            assert_eq!(name, format!("event: {}", event["type"].as_str().unwrap()));
            event
        })
        .collect();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i, "{event}");
    }
    events
}

fn refused(reply: &Reply, status: u16, param: Option<&str>, code: Value, part: &str) {
    assert_eq!(reply.status, status, "{part}: {}", reply.body);
    let error = reply.json()["error"].clone();
    assert_eq!((&error["param"], &error["code"]), (&json!(param), &code), "{error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{error}");
}

#[tokio::test]
async fn whole_and_streamed() {
    let (server, _folder) = store().await;
    let all = json!({
        "instructions": "Be brief.", "metadata": { "a": "b" }, "temperature": 0.5, "top_p": 0.25, "seed": 1, "top_k": 3,
        "include": ["message.output_text.logprobs"], "top_logprobs": 1, "max_output_tokens": 2, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "truncation": "disabled",
        "parallel_tool_calls": false, "reasoning": { "effort": "low", "summary": "auto" }, "max_tool_calls": 3,
        "text": { "format": { "type": "json_object" }, "verbosity": "medium" }, "background": false,
        "tools": [{ "type": "function", "name": "now", "parameters": { "type": "object" }, "strict": true }],
        "tool_choice": { "type": "function", "name": "now" },
    });
    for (name, input, more) in [
        ("responses", "hi", json!({ "max_output_tokens": 64 })),
        ("responses_all", "hi", all),
        (
            "responses_calls",
            "!think and call",
            json!({ "tools": [
            { "type": "function", "name": "now", "description": "The time." }, { "type": "function", "name": "then" },
        ] }),
        ),
    ] {
        let reply = server.post_json(ROUTE, body(input, more.clone())).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        check(&format!("{name}.json"), &reply.body);
        let mut more = more;
        more["stream"] = true.into();
        let streamed = server.post_json(ROUTE, body(input, more)).await;
        check(&format!("{name}.sse"), &streamed.body);
        // The last event has what the reply is without events, but for its id and its time.
        let events = events(&streamed);
        let last = &events.last().unwrap()["response"];
        let (id, whole) = (last["id"].as_str().unwrap(), reply.json());
        let alike = last.to_string().replace(&id[5..], &whole["id"].as_str().unwrap()[5..]);
        let mut alike: Value = serde_json::from_str(&alike).unwrap();
        alike["created_at"] = whole["created_at"].clone();
        assert_eq!(alike, whole);
        // Its pieces make the whole.
        for (kind, field) in
            [("output_text", "text"), ("reasoning_text", "text"), ("function_call_arguments", "arguments")]
        {
            for done in events.iter().filter(|e| e["type"] == format!("response.{kind}.done")) {
                let deltas = events.iter().filter(|e| {
                    e["type"] == format!("response.{kind}.delta") && e["item_id"] == done["item_id"]
                });
                let joined: String = deltas.map(|e| e["delta"].as_str().unwrap()).collect();
                assert_eq!(done[field], joined, "{done}");
            }
        }
        // And it can be read at once, as it was sent.
        let stored = server.get(&format!("{ROUTE}/{id}")).await;
        assert_eq!((stored.status, &stored.json()), (200, last));
    }
}

#[tokio::test]
async fn a_response_is_continued_read_and_deleted() {
    let (server, _folder) = store().await;
    let first = create(&server, "one", json!({ "instructions": "Be brief." })).await;
    let second =
        create(&server, "two", json!({ "previous_response_id": first["id"], "instructions": "Rhyme." }))
            .await;
    let third = create(&server, "!messages", json!({ "previous_response_id": second["id"] })).await;
    assert_eq!(third["previous_response_id"], second["id"]);
    let expected =
        "user: one\nassistant: You said: one\nuser: two\nassistant: You said: two\nuser: !messages";
    assert_eq!(text(&third), expected, "instructions are not carried over");
    let side = json!({ "previous_response_id": first["id"], "instructions": "Rhyme.", "stream": true });
    let side = server.post_json(ROUTE, body("!messages", side)).await;
    let side = events(&side).pop().unwrap()["response"].clone();
    assert_eq!(text(&side), "system: Rhyme.\nuser: one\nassistant: You said: one\nuser: !messages");

    let path = format!("{ROUTE}/{}", first["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.json(), first);
    let deleted = server.delete(&path).await;
    assert_eq!(deleted.json(), json!({ "id": first["id"], "object": "response", "deleted": true }));
    for reply in [
        server.get(&path).await,
        server.delete(&path).await,
        server.get(&format!("{path}/input_items")).await,
    ] {
        refused(&reply, 404, None, json!("response_not_found"), "was deleted");
    }
    for (id, part) in
        [(&first["id"], "there is no response"), (&second["id"], "continues a response that was deleted")]
    {
        let reply = server.post_json(ROUTE, body("x", json!({ "previous_response_id": id }))).await;
        refused(&reply, 400, Some("previous_response_id"), json!("previous_response_not_found"), part);
    }
}

#[tokio::test]
async fn calls_and_thoughts_are_part_of_the_conversation() {
    let (server, _folder) = store().await;
    let tools = json!([{ "type": "function", "name": "now" }, { "type": "function", "name": "then" }]);
    let first = create(&server, "!think and call", json!({ "tools": tools })).await;
    let call = |i: usize| first["output"][i]["call_id"].clone();
    let input = json!([
        { "type": "function_call_output", "call_id": call(2), "output": "noon" },
        { "type": "function_call_output", "call_id": call(3), "output": [{ "type": "input_text", "text": "past" }] },
        { "role": "user", "content": "!messages" },
    ]);
    let more = json!({ "previous_response_id": first["id"], "input": input.clone() });
    let second = create(&server, "", more).await;
    let expected = "user: !think and call\n\
                    assistant: I'll look. (thought: Which time?) [now{\"tz\":1}] [then{}]\n\
                    tool: noon\ntool: past\nuser: !messages";
    assert_eq!(text(&second), expected);
    // A client that keeps the conversation itself sends the items back as they came.
    let mut items = vec![json!({ "role": "user", "content": "!think and call" })];
    items.extend(first["output"].as_array().unwrap().clone());
    items.extend(input.as_array().unwrap().clone());
    let stateless = create(&server, "", json!({ "input": items, "store": false })).await;
    assert_eq!(text(&stateless), expected);
    assert_eq!(stateless["store"], false);
    let reply = server.get(&format!("{ROUTE}/{}", stateless["id"].as_str().unwrap())).await;
    refused(&reply, 404, None, json!("response_not_found"), "never stored");
}

#[tokio::test]
async fn input_items_are_listed_in_pages() {
    let (server, _folder) = store().await;
    let input = json!([
        { "role": "developer", "content": "Be kind." },
        { "role": "user", "content": [{ "type": "input_text", "text": "hi" }], "id": "mine" },
        { "type": "message", "role": "assistant", "status": "completed", "id": "mine",
          "content": [{ "type": "output_text", "text": "Hello.", "annotations": [] }] },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{ }" },
        { "type": "function_call_output", "call_id": "c", "output": "done" },
    ]);
    let response = create(&server, "", json!({ "input": input })).await;
    let id = response["id"].as_str().unwrap();
    let path = format!("{ROUTE}/{id}/input_items");
    let all = server.get(&format!("{path}?order=asc")).await.json();
    let own = |prefix: &str, i: usize| format!("{prefix}_{}_in{i}", &id[5..]);
    let expected = json!([
        { "id": own("msg", 0), "type": "message", "status": "completed", "role": "developer",
          "content": [{ "type": "input_text", "text": "Be kind." }] },
        { "id": "mine", "type": "message", "status": "completed", "role": "user",
          "content": [{ "type": "input_text", "text": "hi" }] },
        { "id": own("msg", 2), "type": "message", "status": "completed", "role": "assistant",
          "content": [{ "type": "output_text", "text": "Hello.", "annotations": [] }] },
        { "id": own("fc", 3), "type": "function_call", "status": "completed", "call_id": "c", "name": "f",
          "arguments": "{ }" },
        { "id": own("fco", 4), "type": "function_call_output", "status": "completed", "call_id": "c",
          "output": "done" },
    ]);
    assert_eq!(all["data"], expected);
    assert_eq!((&all["object"], &all["has_more"]), (&json!("list"), &json!(false)));
    // Pages, newest first.
    let mut ids = Vec::new();
    let mut after = String::new();
    for has_more in [true, true, false] {
        let page = server.get(&format!("{path}?limit=2{after}")).await.json();
        assert_eq!(page["has_more"], has_more, "{page}");
        ids.extend(page["data"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        assert_eq!(Some(&page["last_id"]), ids.last());
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    let expected: Vec<Value> = expected.as_array().unwrap().iter().rev().map(|i| i["id"].clone()).collect();
    assert_eq!(ids, expected);
    for (query, param, part) in [
        ("limit=0", "limit", "from 1 to 100"),
        ("order=up", "order", "asc or desc"),
        ("after=nobody", "after", "`nobody`, which is no item"),
        ("before=x", "before", "unknown parameter"),
    ] {
        let reply = server.get(&format!("{path}?{query}")).await;
        assert_eq!(reply.json()["error"]["param"], param);
        assert!(reply.body.contains(part), "{}", reply.body);
    }
    let got =
        server.get(&format!("{ROUTE}/{id}?include%5B%5D=message.output_text.logprobs&stream=false")).await;
    assert_eq!(got.status, 200);
    refused(
        &server.get(&format!("{ROUTE}/{id}?stream=true")).await,
        400,
        Some("stream"),
        json!("unsupported_value"),
        "not streamed again",
    );
    refused(
        &server.get(&format!("{ROUTE}/{id}?x=1")).await,
        400,
        Some("x"),
        json!("unknown_field"),
        "unknown parameter",
    );
    let reply = server.get(&format!("{ROUTE}/{id}?starting_after=1")).await;
    refused(&reply, 400, Some("starting_after"), json!("unsupported_value"), "not streamed again");
    let reply = server.post(&format!("{ROUTE}/{id}/cancel"), "").await;
    refused(&reply, 400, Some("id"), json!("unsupported_value"), "made in the background");
    let reply = server.post_json(ROUTE, body("hi", json!({ "background": true }))).await;
    refused(&reply, 400, Some("background"), json!("unsupported_value"), "a data folder of its own");
    let reply = server.post(&format!("{ROUTE}/resp_x/cancel"), "").await;
    refused(&reply, 404, None, json!("response_not_found"), "`resp_x`");
}

#[tokio::test]
async fn tenants_see_their_own() {
    let keys = vec!["key-one".to_owned(), "key-two".to_owned()];
    let (server, _folder) = storing(ServerConfig { api_keys: keys, ..config() }, Retention::default()).await;
    let with_key = async |key: &str, head: &str, body: &str| {
        let message = format!(
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        server.send(&message).await
    };
    let first = with_key("key-one", "POST /v1/responses", r#"{"input":"secret"}"#).await.json();
    let id = first["id"].as_str().unwrap();
    let path = format!("{ROUTE}/{id}");
    let next = json!({ "input": "!messages", "previous_response_id": id }).to_string();
    assert_eq!(with_key("key-one", &format!("GET {path}"), "").await.status, 200);
    for head in [
        format!("GET {path}"),
        format!("DELETE {path}"),
        format!("GET {path}/input_items"),
        format!("POST {path}/cancel"),
    ] {
        let reply = with_key("key-two", &head, "").await;
        refused(&reply, 404, None, json!("response_not_found"), "there is no response");
    }
    let reply = with_key("key-two", "POST /v1/responses", &next).await;
    refused(
        &reply,
        400,
        Some("previous_response_id"),
        json!("previous_response_not_found"),
        "there is no response",
    );
    let reply = with_key("key-one", "POST /v1/responses", &next).await;
    assert!(text(&reply.json()).contains("secret"));
    assert_eq!(with_key("none", &format!("GET {path}"), "").await.status, 401);
}

#[tokio::test]
async fn without_a_store_nothing_is_stored() {
    let server = start().await;
    let response = create(&server, "hi", json!({})).await;
    assert_eq!(response["store"], false);
    let reply = server.post_json(ROUTE, body("hi", json!({ "store": true }))).await;
    refused(&reply, 400, Some("store"), json!("unsupported_value"), "stores no responses");
    let reply = server.post_json(ROUTE, body("hi", json!({ "previous_response_id": response["id"] }))).await;
    refused(&reply, 400, Some("previous_response_id"), json!("unsupported_field"), "stores none");
    let path = format!("{ROUTE}/{}", response["id"].as_str().unwrap());
    for reply in [
        server.get(&path).await,
        server.delete(&path).await,
        server.get(&format!("{path}/input_items")).await,
        server.post(&format!("{path}/cancel"), "").await,
    ] {
        refused(&reply, 404, None, json!("responses_not_stored"), "no data folder");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_stored_says_so() {
    let retention = Retention { bytes_max: 100, ..Retention::default() };
    let (server, _folder) = storing(config(), retention).await;
    let whole = create(&server, "hi", json!({})).await;
    assert_eq!((text(&whole), &whole["store"]), ("You said: hi", &json!(false)));
    let streamed = server.post_json(ROUTE, body("hi", json!({ "stream": true, "store": true }))).await;
    let events = events(&streamed);
    assert_eq!(events[0]["response"]["store"], true, "it was meant to be");
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["store"]), (&json!("response.completed"), &json!(false)));
    let reply = server.get(&format!("{ROUTE}/{}", whole["id"].as_str().unwrap())).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn conversations_are_bounded() {
    let small = ServerConfig { body_bytes_max: 4096, ..config() };
    let (server, _folder) = storing(small, Retention::default()).await;
    let first = create(&server, &"x".repeat(2500), json!({ "max_output_tokens": 1 })).await;
    let more = |id: &Value| json!({ "previous_response_id": id, "max_output_tokens": 1 });
    let second = create(&server, "y", more(&first["id"])).await;
    let reply = server.post_json(ROUTE, body("z", more(&second["id"]))).await;
    refused(
        &reply,
        400,
        Some("previous_response_id"),
        json!("context_length_exceeded"),
        "this server takes 4096",
    );
}

#[tokio::test]
async fn failures_are_told_once_and_not_stored() {
    let (server, _folder) = store().await;
    for input in ["!fail midway", "!end early"] {
        let reply = server.post_json(ROUTE, body(input, json!({ "stream": true }))).await;
        assert_eq!(reply.status, 200);
        let events = events(&reply);
        let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(kinds[kinds.len() - 2..], ["error", "response.failed"]);
        let failed = &events.last().unwrap()["response"];
        assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
        assert!(!reply.body.contains("secret"), "{}", reply.body);
        let path = format!("{ROUTE}/{}", failed["id"].as_str().unwrap());
        assert_eq!(server.get(&path).await.status, 404);
        let reply = server.post_json(ROUTE, body(input, json!({}))).await;
        assert_eq!(reply.status, 500);
    }
    let reply = server.post_json(ROUTE, body("!overloaded", json!({ "stream": true }))).await;
    assert_eq!(reply.status, 429, "what is known at once is a status");
    server.idle().await;
}
