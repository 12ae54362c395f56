//! Routes beside the dialects: tokens, templates, pages about the server, `/generate`.

use ingle_api::native::generate::{HARMLESS_GENERATE, HARMLESS_SAMPLING, REFUSED_GENERATE};
use ingle_chat::Principal;
use serde_json::{Value, json};

use crate::client::{Running, start};

async fn ask(server: &Running, route: &str, body: Value) -> Value {
    let reply = server.post_json(route, body.clone()).await;
    assert_eq!(reply.status, 200, "{route} {body}: {}", reply.body);
    reply.json()
}

/// A refusal with its field, its code and a part of its message.
async fn refused(server: &Running, route: &str, body: Value, param: Value, part: &str) {
    let reply = server.post_json(route, body.clone()).await;
    assert_eq!(reply.status, 400, "{route} {body}: {}", reply.body);
    let error = &reply.json()["error"];
    assert_eq!(error["param"], param, "{route} {body}: {error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{error}");
}

fn messages(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

#[tokio::test]
async fn tokens_and_back() {
    let server = start().await;
    let cases = [
        (json!({ "content": "ab" }), json!({ "tokens": [97, 98] })),
        (json!({ "content": "<s>", "add_special": true }), json!({ "tokens": [1, 1] })),
        (json!({ "content": "<s>", "parse_special": false }), json!({ "tokens": [60, 115, 62] })),
        (
            json!({ "content": "é", "with_pieces": true }),
            json!({ "tokens": [{ "id": 195, "piece": [195] }, { "id": 169, "piece": [169] }] }),
        ),
        (
            json!({ "model": "scripted", "prompt": "a", "return_token_strs": true }),
            json!({ "count": 2, "max_model_len": 4096, "tokens": [1, 97], "token_strs": ["<s>", "a"] }),
        ),
        (
            json!({ "messages": messages("a"), "add_special_tokens": false }),
            json!({ "count": 1, "max_model_len": 4096, "tokens": [97], "token_strs": null }),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(ask(&server, "/tokenize", body.clone()).await, expected, "{body}");
        assert_eq!(ask(&server, "/v1/tokenize", body.clone()).await, expected, "{body}");
    }
    let back = json!({ "content": "<s>é", "prompt": "<s>é" });
    assert_eq!(ask(&server, "/detokenize", json!({ "tokens": [1, 195, 169] })).await, back);
    let body = json!({ "model": "default", "tokens": [1, 195, 169] });
    assert_eq!(ask(&server, "/v1/detokenize", body).await, back);
    refused(&server, "/detokenize", json!({ "tokens": [300] }), json!("tokens"), "no token 300").await;
    refused(&server, "/tokenize", json!({}), json!("content"), "nothing to tokenize").await;
    let wrong = json!({ "messages": messages("!invalid") });
    refused(&server, "/tokenize", wrong.clone(), json!("messages"), "the template refuses").await;
    refused(&server, "/apply-template", wrong, json!("messages"), "the template refuses").await;
    for (route, body) in [
        ("/tokenize", json!({ "model": "other", "content": "a" })),
        ("/detokenize", json!({ "model": "other", "tokens": [] })),
        ("/apply-template", json!({ "model": "other", "messages": messages("a") })),
    ] {
        assert_eq!(server.post_json(route, body).await.status, 404, "{route}");
    }
    // Large ones go aside.
    let long = "y".repeat(400_000);
    let tokens = ask(&server, "/tokenize", json!({ "content": long })).await;
    assert_eq!(tokens["tokens"].as_array().map(Vec::len), Some(long.len()));
    assert_eq!(ask(&server, "/detokenize", tokens).await["content"], long);
}

#[tokio::test]
async fn templates() {
    let server = start().await;
    let body = json!({ "messages": messages("hi"), "tools": [], "temperature": 0 });
    assert_eq!(ask(&server, "/apply-template", body).await, json!({ "prompt": "<s>hi" }));
    refused(&server, "/apply-template", json!({ "messages": [] }), json!("messages"), "empty").await;
    assert_eq!(server.provider.started.load(std::sync::atomic::Ordering::SeqCst), 0, "nothing ran");
}

#[tokio::test]
async fn pages() {
    let server = start().await;
    let props = server.get("/props").await.json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 4096);
    assert_eq!((&props["total_slots"], &props["model_path"]), (&json!(2), &json!("scripted")));
    assert_eq!(props["chat_template"], "{{ messages }}");
    assert_eq!(props["modalities"], json!({ "vision": false, "audio": false }));
    let slots = server.get("/slots").await.json();
    assert_eq!(slots.as_array().map(Vec::len), Some(2));
    assert_eq!((&slots[0]["n_ctx"], &slots[0]["is_processing"]), (&json!(4096), &json!(false)));
    assert_eq!(server.get("/slots?fail_on_no_slot=1").await.status, 200);
    let unclear = server.get("/slots?fail_on_no_slot=yes").await;
    assert_eq!((unclear.status, &unclear.json()["error"]["param"]), (400, &json!("fail_on_no_slot")));
    for path in ["/get_model_info", "/model_info"] {
        let info = server.get(path).await.json();
        assert_eq!((&info["model_path"], &info["is_generation"]), (&json!("scripted"), &json!(true)));
    }
    for path in ["/get_server_info", "/server_info"] {
        let info = server.get(path).await.json();
        assert_eq!((&info["context_length"], &info["max_running_requests"]), (&json!(4096), &json!(2)));
        assert_eq!(info["status"], "ready");
    }
    let health = server.get("/health_generate").await;
    assert_eq!((health.status, health.json()), (200, json!({ "status": "ok" })));
    assert_eq!(server.provider.started.load(std::sync::atomic::Ordering::SeqCst), 1, "something ran");
    server.provider.live.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(server.get("/slots?fail_on_no_slot=1").await.status, 503);
    assert_eq!(server.get("/slots").await.json()[1]["is_processing"], true);
    server.provider.room.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(server.get("/health_generate").await.status, 429);
    server.provider.live.store(0, std::sync::atomic::Ordering::SeqCst);
}

#[tokio::test]
async fn caches_are_flushed() {
    let server = start().await;
    let reply = server.post_json("/flush_cache", json!({ "empty_cache": true })).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "The cache is flushed.\n"));
    assert_eq!(*server.provider.flushed.lock().unwrap(), [Principal::local()]);
    refused(&server, "/flush_cache", json!({ "timeout": 1 }), json!("timeout"), "unknown field").await;
    assert_eq!(server.get("/flush_cache").await.status, 405);
    assert_eq!(server.provider.flushed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn routes_to_come() {
    let server = start().await;
    for route in ["/v1/audio/speech", "/v1/audio/transcriptions", "/v1/images/generations", "/v1/moderations"]
    {
        let reply = server.post_json(route, json!({ "input": "x" })).await;
        assert_eq!(reply.status, 400, "{route}");
        assert_eq!(reply.json()["error"]["code"], "not_supported_yet");
        assert_eq!(server.get(route).await.status, 405);
    }
}

const GENERATE: &str = "/generate";

#[tokio::test]
async fn generated() {
    let server = start().await;
    let mut reply = ask(&server, GENERATE, json!({ "text": "hi" })).await;
    let id = reply["meta_info"]["id"].take();
    assert!(id.as_str().is_some_and(|id| id.starts_with("gen-")), "{id}");
    let expected = json!({ "text": "You said: hi", "meta_info": {
        "id": null, "finish_reason": { "type": "stop", "matched": null }, "prompt_tokens": 2,
        "completion_tokens": 12, "cached_tokens": 1, "e2e_latency": 0.0,
    } });
    assert_eq!(reply, expected);
    let params = json!({ "max_new_tokens": 3, "temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0,
        "frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1, "min_new_tokens": 1, "stop": null,
        "stop_token_ids": null, "regex": null, "json_schema": null, "ebnf": null, "ignore_eos": false,
        "skip_special_tokens": true, "spaces_between_special_tokens": true, "no_stop_trim": false,
        "stop_regex": [], "sampling_seed": 5, "n": 1 });
    let reply = ask(&server, GENERATE, json!({ "input_ids": [104, 105], "sampling_params": params })).await;
    assert_eq!(reply["text"], "You");
    assert_eq!(reply["meta_info"]["finish_reason"], json!({ "type": "length", "length": 3 }));
    let body = json!({ "text": "hi", "sampling_params": { "stop": ["said"], "regex": "a+" } });
    let reply = ask(&server, GENERATE, body).await;
    assert_eq!(reply["meta_info"]["finish_reason"], json!({ "type": "stop", "matched": "said" }));
    // The default is 128.
    let reply = ask(&server, GENERATE, json!({ "text": "x".repeat(300) })).await;
    assert_eq!(reply["meta_info"]["completion_tokens"], 128);
}

#[tokio::test]
async fn lists_give_lists() {
    let server = start().await;
    let texts = |reply: &Value| -> Vec<String> {
        reply.as_array().unwrap().iter().map(|r| r["text"].as_str().unwrap().to_owned()).collect()
    };
    for body in [json!({ "text": ["a", "bc"] }), json!({ "input_ids": [[97], [98, 99]] })] {
        let reply = ask(&server, GENERATE, body).await;
        assert_eq!(texts(&reply), ["You said: a", "You said: bc"]);
        assert_ne!(reply[0]["meta_info"]["id"], reply[1]["meta_info"]["id"]);
    }
    assert_eq!(texts(&ask(&server, GENERATE, json!({ "text": ["a"] })).await), ["You said: a"]);
    let body = json!({ "text": ["a", "b"], "sampling_params": { "n": 2 } });
    let reply = ask(&server, GENERATE, body).await;
    assert_eq!(texts(&reply), ["You said: a", "(1) You said: a", "You said: b", "(1) You said: b"]);
    let counts: Vec<&Value> = (0..4).map(|i| &reply[i]["meta_info"]["completion_tokens"]).collect();
    assert_eq!(counts, [11, 15, 11, 15], "each answer's own");
}

#[tokio::test]
async fn logprobs_of_sglang() {
    let server = start().await;
    let body = json!({ "text": "ab", "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 1,
        "return_text_in_logprobs": true, "sampling_params": { "max_new_tokens": 1 } });
    let meta = ask(&server, GENERATE, body.clone()).await["meta_info"].clone();
    assert_eq!(meta["input_token_logprobs"], json!([[null, 97, "a"], [-3.0625, 98, "b"]]));
    assert_eq!(meta["input_top_logprobs"], json!([null, [[-2.03125, 65, "A"]]]));
    assert_eq!(meta["output_token_logprobs"], json!([[-2.78125, 89, "Y"]]));
    assert_eq!(meta["output_top_logprobs"], json!([[[-2.03125, 65, "A"]]]));
    let mut body = body;
    body["logprob_start_len"] = 1.into();
    body["top_logprobs_num"] = 0.into();
    body["return_text_in_logprobs"] = false.into();
    let meta = ask(&server, GENERATE, body.clone()).await["meta_info"].clone();
    assert_eq!(meta["input_token_logprobs"], json!([[-3.0625, 98, null]]));
    assert_eq!(meta.get("input_top_logprobs"), None);
    body["logprob_start_len"] = (-1).into();
    let meta = ask(&server, GENERATE, body.clone()).await["meta_info"].clone();
    assert_eq!((&meta["input_token_logprobs"], meta["output_token_logprobs"].is_array()), (&json!([]), true));
    // Without an answer it is about the prompt, unless it says otherwise.
    body["sampling_params"]["max_new_tokens"] = 0.into();
    for (from, n) in [(json!(null), 2), (json!(1), 1), (json!(-1), 0)] {
        body["logprob_start_len"] = from;
        let meta = ask(&server, GENERATE, body.clone()).await["meta_info"].clone();
        assert_eq!(meta["input_token_logprobs"].as_array().map(Vec::len), Some(n), "{body}");
    }
}

#[tokio::test]
async fn streams_are_cumulative() {
    let server = start().await;
    let body = json!({ "text": "é", "stream": true, "return_logprob": true });
    let reply = server.post_json(GENERATE, body).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).expect("JSON")).collect();
    let (last, others) = events.split_last().expect("events");
    let mut seen = "";
    for event in others {
        let text = event["text"].as_str().unwrap();
        assert!(text.starts_with(seen) && text.len() > seen.len(), "{seen} {text}");
        seen = text;
        assert_eq!((&event["meta_info"]["finish_reason"], event.get("index")), (&json!(null), None));
        assert_eq!(event["meta_info"]["prompt_tokens"], 2);
        let tokens = event["meta_info"]["output_token_logprobs"].as_array().map(Vec::len);
        assert_eq!(
            (tokens, &event["meta_info"]["completion_tokens"]),
            (Some(text.len()), &json!(text.len()))
        );
    }
    assert_eq!(last["text"], "You said: é");
    assert_eq!(last["meta_info"]["finish_reason"]["type"], "stop");
    assert_eq!(
        (&last["meta_info"]["completion_tokens"], &last["meta_info"]["cached_tokens"]),
        (&json!(12), &json!(1))
    );
    // Of several answers, each event says whose it is.
    let body = json!({ "text": ["a", "b"], "stream": true, "sampling_params": { "n": 2 } });
    let reply = server.post_json(GENERATE, body).await;
    let mut texts = vec![String::new(); 4];
    for event in reply.events().iter().filter(|e| *e != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        texts[event["index"].as_u64().unwrap() as usize] = event["text"].as_str().unwrap().to_owned();
    }
    assert_eq!(texts, ["You said: a", "(1) You said: a", "You said: b", "(1) You said: b"]);
    // A failure ends it.
    let reply = server.post_json(GENERATE, json!({ "text": "!fail midway", "stream": true })).await;
    let last: Value = serde_json::from_str(reply.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "server_error");
}

#[tokio::test]
async fn refused_of_sglang() {
    let server = start().await;
    for field in REFUSED_GENERATE {
        let mut body = json!({ "text": "a" });
        body[field.name] = json!("x");
        refused(&server, GENERATE, body, json!(field.name), field.advice).await;
    }
    for field in HARMLESS_GENERATE {
        let mut body = json!({ "text": "a" });
        body[field.name] = json!(5);
        refused(&server, GENERATE, body, json!(field.name), field.accepted).await;
    }
    let params = |name: &str, value: Value| {
        let mut body = json!({ "text": "a", "sampling_params": {} });
        body["sampling_params"][name] = value;
        body
    };
    for field in HARMLESS_SAMPLING {
        let path = json!(format!("sampling_params.{}", field.name));
        refused(&server, GENERATE, params(field.name, json!(5)), path, field.accepted).await;
    }
    #[rustfmt::skip]
    let cases = [
        (json!({}), "text", "missing"),
        (json!({ "text": "a", "input_ids": [1] }), "input_ids", "two prompts"),
        (json!({ "text": [] }), "text", "empty list"),
        (json!({ "text": 5 }), "text", "a string or a list of strings"),
        (json!({ "text": ["a", 5] }), "text[1]", "a string"),
        (json!({ "text": vec!["a"; 1025] }), "text", "at most 1024"),
        (json!({ "text": vec!["a"; 100], "sampling_params": { "n": 11 } }), "text", "1100 answers"),
        (json!({ "input_ids": [] }), "input_ids", "empty list"),
        (json!({ "input_ids": [[1], 2] }), "input_ids[1]", "a list of token ids"),
        (json!({ "input_ids": [[1], [-2]] }), "input_ids[1][0]", "a token id, not -2"),
        (json!({ "text": "a", "sampling_params": [{}] }), "sampling_params", "one object"),
        (json!({ "text": "a", "top_logprobs_num": 1 }), "top_logprobs_num", "needs `return_logprob`"),
        (json!({ "text": "a", "logprob_start_len": 0 }), "logprob_start_len", "needs `return_logprob`"),
        (json!({ "text": "a", "return_logprob": true, "stream": true, "logprob_start_len": 0 }), "logprob_start_len",
            "cannot be streamed"),
        (json!({ "text": "a", "frobnicate": 1 }), "frobnicate", "unknown field"),
        (params("frobnicate", json!(1)), "sampling_params.frobnicate", "unknown field"),
        (params("model", json!("scripted")), "sampling_params.model", "unknown field"),
        (params("temperature", json!(-1)), "sampling_params.temperature", "from 0 to 100"),
        (params("stop", json!([""])), "sampling_params.stop", "must not be empty"),
        (params("max_new_tokens", json!(-1)), "sampling_params.max_new_tokens", "from 0 to"),
        (params("json_schema", json!("[")), "sampling_params.json_schema", "a JSON schema"),
        (json!({ "text": "a", "sampling_params": { "regex": "a", "ebnf": "root ::= \"a\"" } }), "sampling_params.ebnf",
            "`sampling_params.regex` and `sampling_params.ebnf` both"),
    ];
    for (body, param, part) in cases {
        refused(&server, GENERATE, body, json!(param), part).await;
    }
    let reply = server.post_json(GENERATE, json!({ "text": "a", "model": "other" })).await;
    assert_eq!(reply.status, 404);
}
