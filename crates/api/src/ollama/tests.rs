use std::time::Duration;

use ingle_chat::{
    ChatInput, Content, Delta, Echo, Event, FinishReason, Format, Infill, KeepAlive, Message, ModelDetails,
    ModelEntry, ModelInfo, ModelState, Principal, Prompt, ReasoningWish, Request, Role, Task, TokenLogprob,
    ToolCall, Usage,
};
use ingle_step::TokenId;
use serde_json::{Value, json};

use super::models::{ShowCall, running, show, tags};
use super::refused::*;
use super::*;
use crate::StreamEncoder;
use crate::openai::ErrorObject;

use Route::{Chat, Generate};

fn caller() -> Caller {
    Caller { id: "ollama-0123456789abcdef".into(), principal: Principal::local() }
}

fn parse(route: Route, body: &Value) -> Result<Call, RequestError> {
    route.parse(body.to_string().as_bytes(), caller())
}

/// A body that is fine, with more fields.
fn body(route: Route, more: &Value) -> Value {
    let mut body = match route {
        Generate => json!({ "model": "m", "prompt": "hi" }),
        Chat => json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }),
    };
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn read(route: Route, more: Value) -> Call {
    parse(route, &body(route, &more)).unwrap_or_else(|e| panic!("{more}: {e}"))
}

fn input(call: &Call) -> &ChatInput {
    match &call.request.task {
        Task::Chat(input) => input,
        Task::Completion { .. } => panic!("a conversation"),
    }
}

/// The fields set what they should on both routes, and nothing else.
#[track_caller]
fn check(more: Value, set: impl Fn(&mut Call)) {
    for route in [Generate, Chat] {
        let (got, mut expected) = (read(route, more.clone()), read(route, json!({})));
        set(&mut expected);
        assert_eq!(got.request, expected.request, "{more}");
        let rest = |call: &Call| (call.stream, call.num_ctx, call.load_only);
        assert_eq!(rest(&got), rest(&expected), "{more}");
    }
}

#[track_caller]
fn check_option(more: Value, set: impl Fn(&mut Request)) {
    check(json!({ "options": more }), |call| set(&mut call.request));
}

/// Refused, with this field's path and words.
#[track_caller]
fn refuse(route: Route, more: Value, param: &str, part: &str) {
    let e = parse(route, &body(route, &more)).expect_err(&more.to_string());
    assert_eq!(e.param.as_deref(), Some(param), "{more}: {e}");
    assert!(e.message.contains(part), "{more}: {e}");
}

#[test]
fn fields_set_what_they_say() {
    check(json!({}), |_| {});
    assert!(read(Chat, json!({})).stream, "lines are the default");
    check(json!({ "stream": false }), |c| c.stream = false);
    check(json!({ "model": "x:latest" }), |c| c.request.model = Some("x:latest".into()));
    check(json!({ "model": "" }), |c| c.request.model = None);
    check(json!({ "format": "" }), |_| {});
    check(json!({ "format": "json" }), |c| c.request.format = Some(Format::JsonObject));
    let schema = json!({ "type": "object", "properties": { "b": {}, "a": {} } });
    check(json!({ "format": schema.clone() }), |c| {
        c.request.format = Some(Format::JsonSchema(schema.clone()));
    });
    check(json!({ "logprobs": true }), |c| c.request.logprobs = Some(0));
    check(json!({ "logprobs": true, "top_logprobs": 3 }), |c| c.request.logprobs = Some(3));
    let think = |enabled, effort: Option<&'static str>| {
        move |call: &mut Call| {
            let Task::Chat(input) = &mut call.request.task else { panic!("a conversation") };
            input.reasoning =
                ReasoningWish { enabled, effort: effort.map(Into::into), ..ReasoningWish::default() };
        }
    };
    check(json!({ "think": true }), think(Some(true), None));
    check(json!({ "think": false }), think(Some(false), None));
    for effort in ["low", "medium", "high", "max"] {
        check(json!({ "think": effort }), think(Some(true), Some(effort)));
    }
    // What clients send when nobody set it, and what changes no answer.
    check(
        json!({ "template": "", "context": [], "images": [], "options": {}, "truncate": true,
                "_debug_render_only": false, "think": null, "unknown_but_null": null }),
        |_| {},
    );
    check(json!({ "shift": true }), |c| c.request.sampling.context_shift = Some(true));
    check(json!({ "shift": false }), |c| c.request.sampling.context_shift = Some(false));
    for keep_alive in [
        json!(0),
        json!(-1),
        json!(300.5),
        json!("5m"),
        json!("-1"),
        json!("-1m"),
        json!("1h30m5.5s"),
        json!("0"),
    ] {
        check(json!({ "keep_alive": keep_alive }), |_| {});
    }
}

#[test]
fn options_set_what_they_say() {
    check_option(json!({ "seed": 5 }), |r| r.sampling.seed = Some(5));
    check_option(json!({ "seed": -1 }), |_| {});
    check_option(json!({ "num_predict": 7 }), |r| r.max_tokens = Some(7));
    check_option(json!({ "num_predict": -1 }), |_| {});
    check_option(json!({ "num_predict": -2 }), |_| {});
    check_option(json!({ "top_k": 7 }), |r| r.sampling.top_k = Some(7));
    check_option(json!({ "top_p": 0.5 }), |r| r.sampling.top_p = Some(0.5));
    check_option(json!({ "min_p": 0.5 }), |r| r.sampling.min_p = Some(0.5));
    check_option(json!({ "typical_p": 0.5 }), |r| r.sampling.typical_p = Some(0.5));
    check_option(json!({ "repeat_last_n": -1 }), |r| r.sampling.repeat_last_n = Some(-1));
    check_option(json!({ "temperature": 0 }), |r| r.sampling.temperature = Some(0.0));
    check_option(json!({ "repeat_penalty": 1.5 }), |r| r.sampling.repeat_penalty = Some(1.5));
    check_option(json!({ "presence_penalty": 1.5 }), |r| r.sampling.presence_penalty = Some(1.5));
    check_option(json!({ "frequency_penalty": 1 }), |r| r.sampling.frequency_penalty = Some(1.0));
    check_option(json!({ "mirostat": 2 }), |r| r.sampling.mirostat = Some(2));
    check_option(json!({ "mirostat_tau": 4 }), |r| r.sampling.mirostat_tau = Some(4.0));
    check_option(json!({ "mirostat_eta": 0.5 }), |r| r.sampling.mirostat_eta = Some(0.5));
    check_option(json!({ "stop": ["a", "b"] }), |r| r.stop = vec!["a".into(), "b".into()]);
    check_option(json!({ "num_keep": 4 }), |r| r.sampling.n_keep = Some(4));
    check_option(json!({ "draft_num_predict": 4 }), |r| r.draft_max = Some(4));
    check_option(json!({ "draft_num_predict": -1 }), |_| {});
    // Further samplers, by the names that they have in the other dialects.
    check_option(json!({ "dry_multiplier": 0.5 }), |r| r.sampling.dry_multiplier = Some(0.5));
    check_option(
        json!({ "num_batch": 512, "num_gpu": -1, "main_gpu": 0, "num_thread": 8.0,
                "use_mmap": true, "use_mlock": false, "numa": false, "low_vram": true,
                "logits_all": true, "f16_kv": true, "vocab_only": false, "embedding_only": false,
                "penalize_newline": true, "tfs_z": 1 }),
        |_| {},
    );
    check(json!({ "options": { "num_ctx": 2048 } }), |c| c.num_ctx = Some(2048));
}

#[test]
fn contexts() {
    let call = read(Chat, json!({ "options": { "num_ctx": 4096 } }));
    assert_eq!(call.check_context(4096), Ok(()));
    let e = call.check_context(4095).expect_err("too long");
    assert_eq!(e.param.as_deref(), Some("options.num_ctx"));
    assert!(e.message.contains("is 4096, but the model runs with a context of 4095 tokens"), "{e}");
    assert_eq!(read(Chat, json!({})).check_context(1), Ok(()));
}

#[test]
fn fields_are_refused_by_name() {
    for route in [Generate, Chat] {
        let refuse = |more, param: &str, part: &str| refuse(route, more, param, part);
        refuse(json!({ "frobnicate": 1 }), "frobnicate", "unknown field `frobnicate`");
        refuse(json!({ "stream": "yes" }), "stream", "true or false, not a string");
        refuse(json!({ "model": 5 }), "model", "a string");
        refuse(json!({ "format": "yaml" }), "format", "\"json\" or a JSON schema");
        refuse(json!({ "format": 5 }), "format", "not a number");
        refuse(json!({ "think": "hard" }), "think", "low, medium, high, max");
        refuse(json!({ "think": 1 }), "think", "true, false");
        refuse(json!({ "shift": 1 }), "shift", "true or false");
        refuse(json!({ "truncate": 1 }), "truncate", "never cut");
        refuse(json!({ "_debug_render_only": true }), "_debug_render_only", "can be false");
        refuse(json!({ "top_logprobs": 3 }), "top_logprobs", "needs `logprobs`");
        refuse(json!({ "template": "{{ .Prompt }}" }), "template", "the operator sets it");
        refuse(json!({ "context": [1, 2] }), "context", "nothing is kept");
        refuse(json!({ "images": ["AAAA"] }), "images", "not available yet");
        refuse(json!({ "options": [] }), "options", "an object, not a list");
        for keep_alive in ["", "m", "5", "5x", "1.2.3s", "5m3", "--5m", "5 m", ".", "∞"] {
            let fine = keep_alive == "5";
            match parse(route, &body(route, &json!({ "keep_alive": keep_alive }))) {
                Ok(_) => assert!(fine, "{keep_alive}"),
                Err(e) => assert!(!fine && e.param.as_deref() == Some("keep_alive"), "{keep_alive}: {e}"),
            }
        }
        refuse(json!({ "keep_alive": true }), "keep_alive", "a number of seconds");
        for (option, value, part) in [
            ("frobnicate", json!(1), "unknown field `options.frobnicate`"),
            ("temperature", json!(-1), "`options.temperature` must be a number from 0 to 100, not -1"),
            ("num_predict", json!(0), "nothing"),
            ("num_predict", json!(-3), "from -2"),
            ("num_ctx", json!(0), "from 1"),
            ("num_thread", json!("8"), "a whole number"),
            ("tfs_z", json!(0.5), "not available"),
            ("f16_kv", json!(false), "the operator"),
            ("use_mmap", json!(1), "true or false"),
            ("rope_frequency_base", json!(1e6), "the operator"),
        ] {
            refuse(json!({ "options": { option: value } }), &format!("options.{option}"), part);
        }
    }
    refuse(Generate, json!({ "suffix": "x", "raw": true }), "suffix", "which `raw` leaves to you");
    refuse(Generate, json!({ "suffix": "x", "system": "x" }), "system", "`suffix` leaves out");
    refuse(Generate, json!({ "suffix": 5 }), "suffix", "a string");
    assert_eq!(read(Generate, json!({ "suffix": "" })).request, read(Generate, json!({})).request);
    refuse(Generate, json!({ "raw": true, "system": "x" }), "system", "`raw` leaves out");
    refuse(Generate, json!({ "raw": true, "think": true }), "think", "`raw` leaves out");
    refuse(Generate, json!({ "prompt": 5 }), "prompt", "a string");
    refuse(Chat, json!({ "messages": "hi" }), "messages", "a list, not a string");
}

#[test]
fn the_tables_hold() {
    let by_route = [(Generate, [REFUSED, REFUSED_GENERATE]), (Chat, [REFUSED, REFUSED_CHAT])];
    for (route, refused) in by_route {
        for field in refused.concat().iter().chain(EMPTY) {
            refuse(route, json!({ field.name: "x" }), field.name, field.advice);
        }
        for field in HARMLESS {
            refuse(route, json!({ field.name: "x" }), field.name, field.accepted);
        }
        let refuse_option = |name: &str, part: &str| {
            refuse(route, json!({ "options": { name: "x" } }), &format!("options.{name}"), part);
        };
        REFUSED_OPTIONS.iter().for_each(|f| refuse_option(f.name, f.advice));
        HARMLESS_OPTIONS.iter().for_each(|f| refuse_option(f.name, f.accepted));
    }
}

#[test]
fn prompts() {
    let call = read(Generate, json!({ "system": "Be brief." }));
    let expected = [Message::text(Role::System, "Be brief."), Message::text(Role::User, "hi")];
    assert_eq!(input(&call).messages, expected);
    assert_eq!(input(&read(Generate, json!({ "system": "" }))).messages, expected[1..]);
    let raw = read(Generate, json!({ "raw": true, "think": false }));
    let expected = Task::Completion { prompt: Prompt::Marked("hi".into()), echo: Echo::No };
    assert_eq!(raw.request.task, expected);
    for (prompt, prefix) in [(json!("a("), "a("), (json!(""), "")] {
        let call = read(Generate, json!({ "prompt": prompt, "suffix": ")" }));
        let gap = Infill { prefix: prefix.into(), suffix: ")".into(), ..Infill::default() };
        let expected = Task::Completion { prompt: Prompt::Infill(gap), echo: Echo::No };
        assert_eq!((call.request.task, call.load_only), (expected, false));
    }
}

#[test]
fn without_prompt_only_load() {
    for more in [
        json!({ "prompt": "" }),
        json!({ "prompt": null, "raw": true }),
        json!({ "prompt": "", "system": "s" }),
    ] {
        assert!(read(Generate, more).load_only);
    }
    assert!(read(Chat, json!({ "messages": [] })).load_only);
    assert!(read(Chat, json!({ "messages": null, "keep_alive": -1 })).load_only);
    let keep_alive =
        |value: serde_json::Value| read(Generate, json!({ "prompt": "", "keep_alive": value })).keep_alive;
    for zero in [json!(0), json!("0s"), json!("0"), json!("-0")] {
        assert!(is_unload(keep_alive(zero.clone())), "{zero}");
    }
    for (value, seconds) in [(json!(1.5), 1.5), (json!("5m"), 300.0), (json!("1h1s"), 3601.0)] {
        let expected = KeepAlive::For(std::time::Duration::from_secs_f64(seconds));
        assert_eq!(keep_alive(value), Some(expected));
    }
    assert_eq!(keep_alive(json!("-1s")), Some(KeepAlive::Always));
    assert_eq!(keep_alive(json!(null)), None);
    assert!(!is_unload(None));
}

#[test]
fn conversations() {
    let call = read(
        Chat,
        json!({ "messages": [
            { "role": "system", "content": "Be brief.", "images": null, "tool_calls": [] },
            { "role": "user", "content": "What time?", "name": "ada" },
            // A reply, sent back as it came, and as a client sends it that keeps no ids.
            { "role": "assistant", "content": "", "thinking": "Ask.", "tool_calls": [
                { "id": "abc", "function": { "index": 0, "name": "now", "arguments": { "z": 1, "a": [2] } } },
                { "type": "function", "function": { "name": "where", "arguments": {} } },
                { "function": { "name": "now" } },
            ] },
            { "role": "tool", "content": "here", "tool_name": "where" },
            { "role": "tool", "content": "noon", "tool_call_id": "abc" },
            { "role": "tool", "content": "late" },
            { "role": "tool", "content": "lost", "tool_name": "unasked" },
            { "role": "assistant", "content": "It is" },
        ] }),
    );
    let input = input(&call);
    assert!(input.continue_final_message, "an answer that is begun goes on");
    let tool_call = |id: &str, name: &str, arguments| ToolCall {
        id: Some(id.into()),
        index: 0,
        name: name.into(),
        arguments,
    };
    let tool = |content: &str, id: Option<&str>, name: &str| Message {
        tool_call_id: id.map(Into::into),
        name: Some(name.into()),
        ..Message::text(Role::Tool, content)
    };
    let expected = [
        Message::text(Role::System, "Be brief."),
        Message { name: Some("ada".into()), ..Message::text(Role::User, "What time?") },
        Message {
            content: Content::Text(String::new()),
            reasoning: Some("Ask.".into()),
            tool_calls: vec![
                tool_call("abc", "now", json!({ "z": 1, "a": [2] })),
                tool_call("call00001", "where", json!({})),
                tool_call("call00002", "now", json!({})),
            ],
            ..Message::text(Role::Assistant, "")
        },
        tool("here", Some("call00001"), "where"),
        tool("noon", Some("abc"), "now"),
        tool("late", Some("call00002"), "now"),
        tool("lost", None, "unasked"),
        Message::text(Role::Assistant, "It is"),
    ];
    assert_eq!(input.messages, expected);
    let arguments = input.messages[2].tool_calls[0].arguments.to_string();
    assert_eq!(arguments, r#"{"z":1,"a":[2]}"#, "in the order in which they came");
    let called = json!([{ "role": "user", "content": "x" }, { "role": "assistant", "tool_calls": [
        { "function": { "name": "f", "arguments": {} } }] }]);
    let call = read(Chat, json!({ "messages": called }));
    let Task::Chat(input) = &call.request.task else { panic!("a conversation") };
    assert_eq!((&input.messages[1].content, input.continue_final_message), (&Content::None, false));
}

#[test]
fn messages_are_refused_by_name() {
    let one = |message: Value, param: &str, part: &str| {
        refuse(Chat, json!({ "messages": [message] }), &format!("messages[0]{param}"), part);
    };
    one(json!(5), "", "an object, not a number");
    one(json!({ "content": "x" }), ".role", "missing");
    one(json!({ "role": "wizard", "content": "x" }), ".role", "`wizard`");
    one(json!({ "role": "user" }), ".content", "missing");
    one(json!({ "role": "user", "content": [] }), ".content", "a string, not a list");
    one(json!({ "role": "user", "content": "x", "colour": 1 }), ".colour", "unknown field");
    one(json!({ "role": "user", "content": "x", "images": ["AAAA"] }), ".images", "not available yet");
    one(json!({ "role": "user", "content": "x", "thinking": "y" }), ".thinking", "only assistant messages");
    one(
        json!({ "role": "user", "content": "x", "tool_call_id": "y" }),
        ".tool_call_id",
        "only tool messages",
    );
    one(json!({ "role": "tool", "content": "x", "tool_name": "a", "name": "b" }), ".name", "differ");
    one(json!({ "role": "user", "content": "x", "tool_calls": [{}] }), ".tool_calls", "only assistant");
    let call = |call: Value, param: &str, part: &str| {
        one(json!({ "role": "assistant", "tool_calls": [call] }), &format!(".tool_calls[0]{param}"), part);
    };
    call(json!({}), ".function", "missing");
    call(json!({ "function": {} }), ".function.name", "missing");
    call(json!({ "type": "web", "function": { "name": "f" } }), ".type", "must be \"function\"");
    call(json!({ "function": { "name": "f", "arguments": "{}" } }), ".function.arguments", "an object");
    let many = vec![json!({ "role": "user", "content": "x" }); crate::openai::chat::MESSAGES_MAX + 1];
    refuse(Chat, json!({ "messages": many }), "messages", "at most 16384");
}

#[test]
fn tools() {
    let parameters =
        json!({ "type": "object", "required": ["b"], "properties": { "b": { "type": "string" } } });
    let tool = json!({ "type": "function",
        "function": { "name": "f", "description": "d", "parameters": parameters, "strict": true } });
    let call = read(Chat, json!({ "tools": [tool, { "function": { "name": "g" } }] }));
    let expected = [tool, json!({ "type": "function", "function": { "name": "g" } })];
    assert_eq!(input(&call).tools, expected);
    let one = |tool: Value, param: &str, part: &str| {
        refuse(Chat, json!({ "tools": [tool] }), &format!("tools[0]{param}"), part);
    };
    one(json!("f"), "", "an object");
    one(json!({ "type": "web_search" }), ".type", "must be \"function\"");
    one(json!({ "type": "function" }), ".function", "missing");
    one(json!({ "function": { "description": "d" } }), ".function.name", "missing");
    one(json!({ "function": { "name": "f", "parameters": [] } }), ".function.parameters", "an object");
    one(json!({ "function": { "name": "f", "colour": 1 } }), ".function.colour", "unknown field");
    refuse(Chat, json!({ "tools": vec![tool_named("f"); 1025] }), "tools", "at most 1024");
}

fn tool_named(name: &str) -> Value {
    json!({ "function": { "name": name } })
}

fn envelope() -> Envelope {
    Envelope { id: caller().id, model: "m:7b".into(), clock: || Duration::new(1_700_000_000, 7) }
}

const HEAD: &str = r#"{"model":"m:7b","created_at":"2023-11-14T22:13:20.000000007Z""#;

fn text(text: &str) -> Event {
    Event::Text { text: text.into(), logprobs: Vec::new() }
}

fn begin(index: u32, id: Option<&str>, name: &str) -> Event {
    Event::ToolCall { index, id: id.map(Into::into), name: name.into() }
}

fn arguments(index: u32, json: &str) -> Event {
    Event::ToolArguments { index, json: json.into() }
}

/// The pieces become these lines, and this one body; `HEAD` and the counts at the end go without saying.
#[track_caller]
fn check_reply(route: Route, events: &[Event], reason: FinishReason, lines: &[&str], whole: &str) {
    const METRICS: &str = concat!(
        r#""total_duration":6000000123,"load_duration":0,"prompt_eval_count":26,"#,
        r#""prompt_eval_duration":2000000000,"eval_count":9,"eval_duration":3000000000"#
    );
    let usage = Usage {
        prompt_tokens: 26,
        cached_tokens: 5,
        completion_tokens: 9,
        reasoning_tokens: 0,
        queued: Duration::new(1, 123),
        prefill: Duration::from_secs(2),
        decode: Duration::from_secs(3),
        ..Usage::default()
    };
    let events = events.iter().cloned().chain([Event::Finished(reason), Event::Done(usage)]);
    let (mut encoder, mut collector) = (Encoder::new(route, envelope()), Collector::new(route, envelope()));
    let mut out = String::new();
    for event in events {
        assert_eq!(collector.finish(), None, "an answer without end is none");
        let delta = Delta { choice: 0, event };
        encoder.push(0, &delta, &mut out);
        collector.push(&delta);
        if matches!(delta.event, Event::Finished(_)) {
            break;
        }
    }
    let done = Delta { choice: 0, event: Event::Done(usage) };
    encoder.push(0, &done, &mut out);
    collector.push(&done);
    encoder.finish(&mut out);
    let expected: String =
        lines.iter().map(|line| format!("{HEAD},{}}}\n", line.replace("METRICS", METRICS))).collect();
    assert_eq!(out, expected);
    assert_eq!(collector.finish(), Some(format!("{HEAD},{}}}", whole.replace("METRICS", METRICS))));
}

const STOP: FinishReason = FinishReason::Stop { matched: None };

#[test]
fn replies_of_generate() {
    let started = Event::Started { prompt_tokens: 26, seed: 7 };
    let thought = Event::Reasoning { text: "Hm.".into(), logprobs: Vec::new() };
    check_reply(
        Generate,
        &[started, thought, text("Hel"), text(""), text("lo\n")],
        STOP,
        &[
            r#""response":"","thinking":"Hm.","done":false"#,
            r#""response":"Hel","done":false"#,
            r#""response":"lo\n","done":false"#,
            r#""response":"","done":true,"done_reason":"stop",METRICS"#,
        ],
        r#""response":"Hello\n","thinking":"Hm.","done":true,"done_reason":"stop",METRICS"#,
    );
}

#[test]
fn replies_of_chat() {
    let thought = Event::Reasoning { text: "Hm.".into(), logprobs: Vec::new() };
    check_reply(
        Chat,
        &[thought, text("Hel"), text("lo")],
        FinishReason::Length,
        &[
            r#""message":{"role":"assistant","content":"","thinking":"Hm."},"done":false"#,
            r#""message":{"role":"assistant","content":"Hel"},"done":false"#,
            r#""message":{"role":"assistant","content":"lo"},"done":false"#,
            r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"length",METRICS"#,
        ],
        r#""message":{"role":"assistant","content":"Hello","thinking":"Hm."},"done":true,"done_reason":"length",METRICS"#,
    );
}

#[test]
fn calls_come_whole() {
    const F: &str = r#"{"id":"abc","function":{"index":0,"name":"f","arguments":{"z":1,"a":"x"}}}"#;
    const G: &str = r#"{"id":"call_01234567_1","function":{"index":1,"name":"g","arguments":{}}}"#;
    let line = |call: &str| {
        format!(r#""message":{{"role":"assistant","content":"","tool_calls":[{call}]}},"done":false"#)
    };
    check_reply(
        Chat,
        &[
            text("So:"),
            begin(0, Some("abc"), "f"),
            arguments(0, r#"{"z":1,"#),
            arguments(0, r#""a":"x"}"#),
            begin(1, None, "g"),
            arguments(1, ""),
        ],
        FinishReason::ToolCalls,
        &[
            r#""message":{"role":"assistant","content":"So:"},"done":false"#,
            &line(F),
            &line(G),
            r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",METRICS"#,
        ],
        &format!(
            r#""message":{{"role":"assistant","content":"So:","tool_calls":[{F},{G}]}},"done":true,"done_reason":"stop",METRICS"#
        ),
    );
    // Cut short: half of a call is none.
    check_reply(
        Chat,
        &[begin(0, Some("abc"), "f"), arguments(0, r#"{"z":"#)],
        FinishReason::Length,
        &[r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"length",METRICS"#],
        r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"length",METRICS"#,
    );
}

#[test]
fn log_probabilities() {
    let token = |bytes: &[u8], logprob: f32, top: &[(&[u8], f32)]| TokenLogprob {
        token: TokenId(1),
        bytes: bytes.to_vec(),
        logprob: Some(logprob),
        rank: 1,
        top: top.iter().map(|(bytes, logprob)| (TokenId(2), bytes.to_vec(), *logprob)).collect(),
    };
    let events = [
        Event::Text { text: String::new(), logprobs: vec![token(b"\xc3", -0.5, &[])] },
        Event::Text { text: "é".into(), logprobs: vec![token(b"\xa9", -1.0, &[(b"A", -0.25)])] },
    ];
    const FIRST: &str = r#"{"token":"�","logprob":-0.5,"bytes":[195]}"#;
    const SECOND: &str = r#"{"token":"�","logprob":-1.0,"bytes":[169],"top_logprobs":[{"token":"A","logprob":-0.25,"bytes":[65]}]}"#;
    check_reply(
        Chat,
        &events,
        STOP,
        &[
            &format!(r#""message":{{"role":"assistant","content":""}},"done":false,"logprobs":[{FIRST}]"#),
            &format!(r#""message":{{"role":"assistant","content":"é"}},"done":false,"logprobs":[{SECOND}]"#),
            r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",METRICS"#,
        ],
        &format!(
            r#""message":{{"role":"assistant","content":"é"}},"done":true,"done_reason":"stop","logprobs":[{FIRST},{SECOND}],METRICS"#
        ),
    );
    check_reply(
        Generate,
        &events[1..],
        STOP,
        &[
            &format!(r#""response":"é","done":false,"logprobs":[{SECOND}]"#),
            r#""response":"","done":true,"done_reason":"stop",METRICS"#,
        ],
        &format!(r#""response":"é","done":true,"done_reason":"stop",METRICS,"logprobs":[{SECOND}]"#),
    );
}

#[test]
fn loads_and_failures() {
    let envelope = envelope();
    assert_eq!(
        envelope.loaded(Generate),
        format!(r#"{HEAD},"response":"","done":true,"done_reason":"load"}}"#)
    );
    let message = r#""message":{"role":"assistant","content":""}"#;
    assert_eq!(envelope.loaded(Chat), format!(r#"{HEAD},{message},"done":true,"done_reason":"load"}}"#));
    let mut encoder = Encoder::new(Chat, envelope);
    let mut out = String::new();
    encoder.fail(&ErrorObject::loading(), &mut out);
    assert_eq!(out, "{\"error\":\"Loading model\"}\n");
    assert_eq!((encoder.content_type(), encoder.keep_alive()), ("application/x-ndjson", None));
}

#[test]
fn names() {
    for (name, expected) in [
        ("m", "m:latest"),
        ("m:7b", "m:7b"),
        ("org/m", "org/m:latest"),
        ("host:5000/m", "host:5000/m:latest"),
        ("hf.co/u/m:Q4_K_M", "hf.co/u/m:Q4_K_M"),
    ] {
        assert_eq!(tagged(name), expected);
    }
}

fn model() -> ModelInfo {
    let metadata = json!({
        "general.architecture": "llama", "general.license": "mit", "llama.context_length": 8192,
        "tokenizer.ggml.tokens": null, "tokenizer.ggml.eos_token_ids": [1, 2], "tokenizer.chat_template": "{{ x }}",
    });
    ModelInfo {
        id: "m".into(),
        created: 1_700_000_000,
        n_ctx: 4096,
        n_ctx_train: 8192,
        n_embd: 64,
        n_params: 1_235_814_432,
        size_bytes: 770_000_000,
        details: ModelDetails {
            architecture: "llama".into(),
            quantization: "Q4_K_M".into(),
            digest: "ab".repeat(32),
            template: Some("{{ x }}".into()),
            has_tools: true,
            has_reasoning: false,
            has_infill: true,
            metadata: metadata.as_object().expect("an object").clone(),
        },
        ..ModelInfo::default()
    }
}

#[test]
fn pages() {
    let details = concat!(
        r#"{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"1.2B","#,
        r#""quantization_level":"Q4_K_M","context_length":4096,"embedding_length":64}"#
    );
    let digest = "ab".repeat(32);
    let listed = |name: &str| {
        format!(
            r#"{{"name":"{name}","model":"{name}","modified_at":"2023-11-14T22:13:20.000000000Z","size":770000000,"digest":"{digest}","details":{details},"capabilities":["completion","tools","insert"]}}"#
        )
    };
    let all = [("m".to_owned(), model()), ("alias:x".to_owned(), model())];
    assert_eq!(tags(&[], &all), format!(r#"{{"models":[{},{}]}}"#, listed("m:latest"), listed("alias:x")));
    let expected = format!(
        r#"{{"models":[{{"name":"m:latest","model":"m:latest","size":770000000,"digest":"{digest}","details":{details},"expires_at":"2316-02-24T22:00:36.854775807Z","size_vram":0,"context_length":4096}}]}}"#
    );
    let stays = ModelEntry { info: model(), ..ModelEntry::default() };
    assert_eq!(running(std::slice::from_ref(&stays), Duration::ZERO), expected);
    let managed = |state, expires_in| ModelEntry {
        state,
        expires_in,
        is_managed: true,
        memory_bytes: 900,
        ..stays.clone()
    };
    let minute = Some(KeepAlive::For(Duration::from_secs(60)));
    let now = Duration::from_secs(1_700_000_000);
    let loaded = running(&[managed(ModelState::Loaded, minute)], now);
    assert!(loaded.contains(r#""size":900,"#), "its size in memory: {loaded}");
    assert!(loaded.contains(r#""expires_at":"2023-11-14T22:14:20.000000000Z""#), "{loaded}");
    for state in [ModelState::Unloaded, ModelState::Loading(0.5), ModelState::Failed("why".into())] {
        assert_eq!(running(&[managed(state, None)], now), r#"{"models":[]}"#);
    }
    let page = |ids: &str| {
        format!(
            r#"{{"license":"mit","modelfile":"FROM m:latest\nTEMPLATE \"\"\"{{{{ x }}}}\"\"\"\n","parameters":"num_ctx                        4096","template":"{{{{ x }}}}","details":{details},"model_info":{{"general.architecture":"llama","general.license":"mit","llama.context_length":4096,"tokenizer.ggml.tokens":null,"tokenizer.ggml.eos_token_ids":{ids},"general.parameter_count":1235814432}},"capabilities":["completion","tools","insert"],"modified_at":"2023-11-14T22:13:20.000000000Z"}}"#
        )
    };
    assert_eq!(show("m", &model(), None, false), page("null"));
    assert_eq!(show("m", &model(), None, true), page("[1,2]"));
    assert_eq!(models::version(), r#"{"version":"0.33.0"}"#);
}

#[test]
fn show_bodies() {
    let check = |body: Value, expected: Result<(&str, bool), &str>| match (
        ShowCall::parse(body.to_string().as_bytes()),
        expected,
    ) {
        (Ok(call), Ok((model, verbose))) => assert_eq!((call.model.as_str(), call.verbose), (model, verbose)),
        (Err(e), Err(part)) => assert!(e.message.contains(part), "{body}: {e}"),
        (got, _) => panic!("{body}: {got:?}"),
    };
    check(json!({ "model": "m" }), Ok(("m", false)));
    check(json!({ "name": "m", "model": "", "verbose": true }), Ok(("m", true)));
    check(json!({ "model": "m", "system": "", "template": "", "options": {} }), Ok(("m", false)));
    check(json!({}), Err("`model` is missing"));
    check(json!({ "model": "m", "system": "x" }), Err("`system` is not supported"));
    check(json!({ "model": "m", "options": { "a": 1 } }), Err("`options` is not supported"));
    check(json!({ "model": "m", "frobnicate": 1 }), Err("unknown field `frobnicate`"));
}

#[test]
fn sizes() {
    for (n, expected) in [
        (999, "999"),
        (260_000, "260K"),
        (22_713_216, "22.71M"),
        (137_000_000, "137M"),
        (1_235_814_432, "1.2B"),
        (8_030_261_248, "8.0B"),
        (70_000_000_000, "70B"),
    ] {
        assert_eq!(models::human_count(n), expected);
    }
}
