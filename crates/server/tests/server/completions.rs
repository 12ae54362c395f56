//! `/v1/completions`.

use serde_json::{Value, json};

use crate::client::start;
use crate::fixtures::check;

const ROUTE: &str = "/v1/completions";

async fn post(body: Value) -> Value {
    let reply = start().await.post_json(ROUTE, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

async fn fixture(name: &str, body: Value) {
    let reply = start().await.post_json(ROUTE, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    check(name, &reply.body);
}

#[tokio::test]
async fn whole_and_streamed() {
    fixture("completion.json", json!({ "prompt": "hi", "max_tokens": 5 })).await;
    let body = json!({
        "prompt": "hi", "max_tokens": 2, "stream": true, "stream_options": { "include_usage": true }, "logprobs": 1,
    });
    fixture("completion.sse", body).await;
}

#[tokio::test]
async fn prompts_of_all_kinds() {
    let texts = async |prompt: Value, n: u32| {
        let reply = post(json!({ "prompt": prompt, "n": n, "max_tokens": 99 })).await;
        let choices = reply["choices"].as_array().unwrap();
        for (i, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], i);
        }
        let texts: Vec<String> = choices.iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect();
        (texts, reply["usage"]["prompt_tokens"].as_u64().unwrap())
    };
    assert_eq!(texts(json!("ab"), 1).await, (vec!["You said: ab".into()], 2));
    assert_eq!(texts(json!([97, 98]), 1).await, (vec!["You said: ab".into()], 2));
    assert_eq!(
        texts(json!([[97], [98, 99]]), 1).await,
        (vec!["You said: a".into(), "You said: bc".into()], 3)
    );
    let expected = ["You said: a", "(1) You said: a", "You said: bc", "(1) You said: bc"];
    assert_eq!(texts(json!(["a", "bc"]), 2).await, (expected.map(String::from).to_vec(), 3));
}

#[tokio::test]
async fn several_prompts_streamed() {
    let body = json!({ "prompt": ["a", "bc"], "n": 2, "stream": true, "max_tokens": 99 });
    let reply = start().await.post_json(ROUTE, body).await;
    let mut texts = vec![String::new(); 4];
    let mut finished = 0;
    let events = reply.events();
    for event in &events[..events.len() - 1] {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
        finished += usize::from(choice["finish_reason"] == "stop");
    }
    assert_eq!(texts, ["You said: a", "(1) You said: a", "You said: bc", "(1) You said: bc"]);
    assert_eq!((finished, events.last().unwrap().as_str()), (4, "[DONE]"));
}

#[tokio::test]
async fn legacy_logprobs() {
    let reply = post(json!({ "prompt": "é", "max_tokens": 12, "logprobs": 1 })).await;
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], "You said: é");
    let logprobs = &choice["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 12, "{list}");
    }
    assert_eq!(logprobs["tokens"][0], "Y");
    assert_eq!(logprobs["top_logprobs"][0], json!({ "A": -2.03125, "Y": -2.78125 }));
    assert_eq!(logprobs["token_logprobs"][0], -2.78125);
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]));
}

#[tokio::test]
async fn echo() {
    // What evaluations ask for: the prompt's log-probabilities and nothing new.
    let body = json!({ "prompt": "aé", "max_tokens": 0, "echo": true, "logprobs": 1 });
    let reply = post(body.clone()).await;
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], "aé");
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "\u{fffd}", "\u{fffd}"]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -6.09375, -5.28125]));
    assert_eq!(logprobs["top_logprobs"][0], json!(null));
    assert_eq!(choice.get("prompt_logprobs"), None, "only if it is asked for by name");
    // Every choice shows the prompt; streaming shows the same lists, piece by piece.
    let mut body = body;
    body["max_tokens"] = 1.into();
    body["n"] = 2.into();
    let whole = post(body.clone()).await;
    body["stream"] = true.into();
    let reply = start().await.post_json(ROUTE, body).await;
    let mut lists = [Vec::new(), Vec::new()];
    for event in reply.events().iter().filter(|e| *e != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        let tokens = choice["logprobs"]["token_logprobs"].as_array().cloned().unwrap_or_default();
        lists[choice["index"].as_u64().unwrap() as usize].extend(tokens);
    }
    for (i, list) in lists.into_iter().enumerate() {
        assert_eq!(list.len(), 4);
        assert_eq!(whole["choices"][i]["logprobs"]["token_logprobs"], Value::from(list));
    }
}

#[tokio::test]
async fn prompt_logprobs_by_name() {
    let reply = post(json!({ "prompt": ["ab", "c"], "max_tokens": 1, "prompt_logprobs": 0 })).await;
    let expected = json!([null, { "98": { "logprob": -3.0625, "rank": 99, "decoded_token": "b" } }]);
    assert_eq!(reply["choices"][0]["prompt_logprobs"], expected);
    assert_eq!(reply["choices"][1]["prompt_logprobs"], json!([null]));
    assert_eq!(reply["choices"][0]["logprobs"], json!(null));
}

#[tokio::test]
async fn default_length() {
    let reply = post(json!({ "prompt": "a long enough prompt" })).await;
    assert_eq!(reply["usage"]["completion_tokens"], 16);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn long_lists_of_prompts_wait_for_room() {
    let server = start().await;
    server.provider.room.store(3, std::sync::atomic::Ordering::SeqCst);
    let prompts: Vec<String> = (0..10).map(|i| format!("p{i}")).collect();
    for stream in [false, true] {
        let body = json!({ "prompt": prompts, "max_tokens": 20, "stream": stream });
        let reply = server.post_json("/v1/completions", body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        for prompt in &prompts {
            assert!(stream || reply.body.contains(&format!("You said: {prompt}")), "{}", reply.body);
        }
        assert!(!reply.body.contains("\"error\""), "{}", reply.body);
        assert!(!stream || reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
        server.idle().await;
    }
    // More than run together, with all the room there is.
    server.provider.room.store(0, std::sync::atomic::Ordering::SeqCst);
    let prompts: Vec<String> = (0..200).map(|i| format!("p{i}")).collect();
    let reply = server.post_json("/v1/completions", json!({ "prompt": prompts, "max_tokens": 20 })).await;
    let choices = reply.json()["choices"].as_array().expect("choices").clone();
    assert_eq!(choices.len(), 200);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(
            (choice["index"].as_u64(), choice["text"].as_str()),
            (Some(i as u64), Some(&*format!("You said: p{i}")))
        );
    }
    // No room for the first is no room.
    let busy = server.post_json("/v1/completions", json!({ "prompt": ["!overloaded", "x"] })).await;
    assert_eq!(busy.status, 429);
}
