//! Bodies that are read, bodies that are refused, conversations that items make.

use ingle_chat::{
    Content, Delta, Event, FinishReason, Format, Message, Part, Principal, ReasoningWish, Request, Role,
    Task, ToolCall, ToolChoice,
};
use serde_json::{Value, json};

use super::*;
use crate::openai::{Caller, Envelope};
use crate::{RequestError, StreamEncoder};

fn read(body: &Value) -> Result<ResponsesCall, RequestError> {
    let caller = Caller { id: "resp_0".into(), principal: Principal::local() };
    parse(body.to_string().as_bytes(), caller)
}

fn with(more: Value) -> Value {
    let mut body = json!({ "input": "hi" });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn request(body: &Value) -> Request {
    let call = read(body).unwrap_or_else(|e| panic!("{body}: {e}"));
    call.into_request(&[]).expect("no history").0
}

fn chat(request: &mut Request) -> &mut ingle_chat::ChatInput {
    match &mut request.task {
        Task::Chat(input) => input,
        Task::Completion { .. } => panic!("it is a conversation"),
    }
}

/// These fields change the request in this way and no other.
#[track_caller]
fn check(more: Value, set: impl Fn(&mut Request)) {
    let mut expected = request(&with(json!({})));
    set(&mut expected);
    assert_eq!(request(&with(more.clone())), expected, "{more}");
}

#[test]
fn fields_set_what_they_say() {
    let tool = |name: &str| json!({ "type": "function", "name": name });
    let shown = |name: &str| {
        json!({ "type": "function", "function": {
            "name": name, "parameters": { "type": "object", "properties": {} },
        } })
    };
    check(json!({ "model": "m" }), |r| r.model = Some("m".into()));
    check(json!({ "max_output_tokens": 7 }), |r| r.max_tokens = Some(7));
    check(json!({ "temperature": 0.5, "top_p": 0, "seed": 3, "top_k": 4, "min_p": 0.25 }), |r| {
        r.sampling.temperature = Some(0.5);
        r.sampling.top_p = Some(f32::MIN_POSITIVE);
        r.sampling.seed = Some(3);
        r.sampling.top_k = Some(4);
        r.sampling.min_p = Some(0.25);
    });
    check(json!({ "include": ["message.output_text.logprobs"] }), |r| r.logprobs = Some(0));
    check(json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 3 }), |r| {
        r.logprobs = Some(3)
    });
    check(json!({ "parallel_tool_calls": false }), |r| chat(r).one_tool_call = true);
    check(json!({ "tools": [tool("f")] }), |r| chat(r).tools = vec![shown("f")]);
    check(json!({ "tools": [tool("f")], "tool_choice": "none" }), |r| {
        chat(r).tools = vec![shown("f")];
        chat(r).tool_choice = ToolChoice::None;
    });
    check(json!({ "tools": [tool("f")], "tool_choice": "required" }), |r| {
        chat(r).tools = vec![shown("f")];
        chat(r).tool_choice = ToolChoice::Required;
    });
    check(json!({ "tools": [tool("f"), tool("g")], "tool_choice": tool("g") }), |r| {
        chat(r).tools = vec![shown("f"), shown("g")];
        chat(r).tool_choice = ToolChoice::Named("g".into());
    });
    let schema = json!({ "type": "object", "properties": { "x": { "type": "integer" } } });
    let strict = json!([{
        "type": "function", "name": "f", "description": "d", "parameters": schema, "strict": true,
    }]);
    check(json!({ "tools": strict }), |r| {
        chat(r).tools = vec![json!({ "type": "function", "function": {
            "name": "f", "description": "d", "parameters": schema, "strict": true,
        } })];
    });
    check(json!({ "text": { "format": { "type": "json_object" } } }), |r| {
        r.format = Some(Format::JsonObject)
    });
    let format = json!({ "type": "json_schema", "name": "n", "schema": schema, "strict": true });
    check(json!({ "text": { "format": format } }), |r| r.format = Some(Format::JsonSchema(schema.clone())));
    check(json!({ "reasoning": { "effort": "high", "summary": "auto" } }), |r| {
        chat(r).reasoning = ReasoningWish { effort: Some("high".into()), ..ReasoningWish::default() };
    });
    check(json!({ "reasoning": { "effort": "none" } }), |r| {
        chat(r).reasoning = ReasoningWish { enabled: Some(false), ..ReasoningWish::default() };
    });
    check(json!({ "chat_template_kwargs": { "x": 1 } }), |r| {
        chat(r).template_vars.insert("x".into(), json!(1));
    });
    check(json!({ "instructions": "Be brief." }), |r| {
        chat(r).messages.insert(0, Message::text(Role::System, "Be brief."));
    });
}

#[test]
fn fields_without_effect_are_accepted() {
    for more in [
        json!({ "metadata": { "a": "b" }, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k" }),
        json!({ "service_tier": "auto", "prompt_cache_retention": "24h", "client_metadata": { "a": 1 } }),
        json!({ "truncation": "disabled", "background": false, "max_tool_calls": 2, "n": 1 }),
        json!({ "include": ["reasoning.encrypted_content", "web_search_call.action.sources"] }),
        json!({ "text": { "format": { "type": "text" }, "verbosity": "medium" } }),
        json!({ "text": {}, "reasoning": {}, "tools": [], "tool_choice": "auto", "top_logprobs": 0 }),
        json!({ "reasoning": null, "text": null, "tools": null, "previous_response_id": null, "store": null }),
        json!({ "stream_options": { "include_obfuscation": false } }),
    ] {
        check(more, |_| {});
    }
    let call = read(&with(json!({ "store": false, "stream": true, "previous_response_id": "p" }))).unwrap();
    assert_eq!(
        (call.store, call.stream, call.previous_response_id.as_deref()),
        (Some(false), true, Some("p"))
    );
}

#[test]
fn the_background_is_no_place_for_streams() {
    let call = read(&with(json!({ "background": true }))).unwrap();
    assert!(call.background);
    check_refused(&with(json!({ "background": true, "stream": true })), "stream", "from time to time");
    check_refused(&with(json!({ "background": true, "store": false })), "background", "needs `store`");
}

#[test]
fn a_response_that_nobody_makes_any_more_has_failed() {
    let check = |status: &str, expected: bool| {
        let stored = json!({ "id": "r", "status": status, "background": true }).to_string();
        assert!(is_background(&stored));
        let body = interrupted(&stored).map(|body| serde_json::from_str::<Value>(&body).unwrap());
        assert_eq!(body.is_some(), expected, "{status}");
        let told =
            body.map(|body| (body["status"].clone(), body["error"]["code"].clone(), body["id"].clone()));
        assert!(told.is_none_or(|told| told == (json!("failed"), json!("server_error"), json!("r"))));
    };
    check("queued", true);
    check("in_progress", true);
    check("completed", false);
    check("cancelled", false);
}

#[track_caller]
fn check_refused(body: &Value, param: &str, part: &str) {
    let error = match read(body) {
        Err(error) => error,
        Ok(call) => call.into_request(&[]).expect_err(param),
    };
    assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
    assert!(error.message.contains(part), "{body}: {error}");
}

#[test]
fn fields_are_refused_by_name() {
    let tools = |tool: Value| json!([tool]);
    let function = |more: Value| {
        let mut tool = json!({ "type": "function", "name": "f" });
        tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([tool])
    };
    let format = |format: Value| json!({ "format": format });
    #[rustfmt::skip]
    let cases = [
        ("frobnicate", json!(1), "frobnicate", "unknown field"),
        ("conversation", json!("c"), "conversation", "`previous_response_id`"),
        ("prompt", json!({ "id": "p" }), "prompt", "not kept here"),
        ("background", json!("yes"), "background", "true or false"),
        ("truncation", json!("auto"), "truncation", "never cut"),
        ("service_tier", json!("flex"), "service_tier", "one tier"),
        ("n", json!(2), "n", "one answer"),
        ("max_tokens", json!(5), "max_tokens", "`max_output_tokens`"),
        ("max_output_tokens", json!(0), "max_output_tokens", "from 1 to"),
        ("response_format", json!({}), "response_format", "`text.format`"),
        ("metadata", json!({ "a": 1 }), "metadata", "must be strings"),
        ("metadata", json!({ "a": "x".repeat(513) }), "metadata", "512"),
        ("metadata", json!(["a"]), "metadata", "an object, not a list"),
        ("instructions", json!([]), "instructions", "a string, not a list"),
        ("top_logprobs", json!(2), "top_logprobs", "`message.output_text.logprobs` in `include`"),
        ("include", json!(["everything"]), "include[0]", "`everything`"),
        ("temperature", json!(-1), "temperature", "from 0 to 100"),
        ("stop", json!(""), "stop", "empty"),
        ("guided_json", json!({}), "guided_json", "unknown field"),
        ("tools", tools(json!({ "type": "web_search" })), "tools[0].type", "runs no tools itself"),
        ("tools", tools(json!({ "type": "mcp", "server_label": "x" })), "tools[0].type", "`mcp`"),
        ("tools", tools(json!({ "type": "custom", "name": "x" })), "tools[0].type", "`custom`"),
        ("tools", tools(json!({ "name": "x" })), "tools[0].type", "missing"),
        ("tools", tools(json!({ "type": "function" })), "tools[0].name", "missing"),
        ("tools", tools(json!({ "type": "function", "function": { "name": "f" } })), "tools[0].name", "missing"),
        ("tools", function(json!({ "name": "a b" })), "tools[0].name", "`a b`"),
        ("tools", function(json!({ "parameters": [] })), "tools[0].parameters", "an object"),
        ("tools", function(json!({ "defer_loading": true })), "tools[0].defer_loading", "not supported"),
        ("tools", function(json!({ "colour": 1 })), "tools[0].colour", "unknown field"),
        ("tools", json!([{ "type": "function", "name": "f" }, { "type": "function", "name": "f" }]), "tools[1].name", "two tools called"),
        ("tool_choice", json!("required"), "tool_choice", "there are no `tools`"),
        ("tool_choice", json!("always"), "tool_choice", "auto, none, required"),
        ("tool_choice", json!({ "type": "web_search" }), "tool_choice.type", "can be function"),
        ("tool_choice", json!({ "type": "function", "name": "f" }), "tool_choice", "there are no `tools`"),
        ("text", json!({ "verbosity": "low" }), "text.verbosity", "short or long"),
        ("text", json!({ "colour": 1 }), "text.colour", "unknown field"),
        ("text", format(json!({ "type": "grammar" })), "text.format.type", "json_schema"),
        ("text", format(json!({ "type": "json_schema", "schema": {} })), "text.format.name", "missing"),
        ("text", format(json!({ "type": "json_schema", "name": "a b", "schema": {} })), "text.format.name", "`a b`"),
        ("text", format(json!({ "type": "json_schema", "name": "a" })), "text.format.schema", "missing"),
        ("text", format(json!({ "type": "json_schema", "name": "a", "json_schema": {}, "schema": {} })), "text.format.json_schema", "unknown"),
        ("reasoning", json!({ "effort": "utmost" }), "reasoning.effort", "minimal"),
        ("reasoning", json!({ "summary": "detailed" }), "reasoning.summary", "not summarized"),
        ("reasoning", json!({ "mode": "pro" }), "reasoning.mode", "unknown field"),
        ("stream_options", json!({ "include_obfuscation": true }), "stream_options.include_obfuscation", "not supported"),
        ("chat_template_kwargs", json!({ "messages": [] }), "chat_template_kwargs.messages", "reserved"),
    ];
    for (name, value, param, part) in cases {
        check_refused(&with(json!({ name: value })), param, part);
    }
    check_refused(
        &with(
            json!({ "tools": [{ "type": "function", "name": "f" }], "tool_choice": { "type": "function", "name": "g" } }),
        ),
        "tool_choice.name",
        "`g`, which `tools` does not have",
    );
    check_refused(&json!({}), "input", "missing");
    for field in refused::REFUSED_RESPONSES {
        check_refused(&with(json!({ field.name: "x" })), field.name, field.advice);
    }
}

#[test]
fn items_are_refused_by_name() {
    let call = json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" });
    let part = |part: Value| json!({ "role": "user", "content": [part] });
    #[rustfmt::skip]
    let cases = [
        (json!({ "role": "user" }), "input[1].content", "missing"),
        (json!({ "content": "x" }), "input[1].role", "missing"),
        (json!({ "role": "tool", "content": "x" }), "input[1].role", "`tool`"),
        (json!({ "role": "user", "content": 5 }), "input[1].content", "a string or a list of parts"),
        (json!({ "role": "user", "content": "x", "colour": 1 }), "input[1].colour", "unknown field"),
        (json!({ "role": "user", "content": "x", "status": "lost" }), "input[1].status", "`lost`"),
        (json!({ "role": "assistant", "content": "x", "phase": "first" }), "input[1].phase", "`first`"),
        (part(json!({ "type": "input_image", "image_url": "x" })), "input[1].content[0].type", "`input_image`"),
        (part(json!({ "type": "input_file", "file_id": "x" })), "input[1].content[0].type", "only text"),
        (json!({ "role": "user", "content": [] }), "input[1].content", "an empty list"),
        (part(json!({ "type": "input_text" })), "input[1].content[0].text", "missing"),
        (part(json!({ "text": "x" })), "input[1].content[0].type", "missing"),
        (part(json!({ "type": "input_text", "text": "x", "y": 1 })), "input[1].content[0].y", "unknown field"),
        (json!({ "type": "item_reference", "id": "x" }), "input[1].type", "send the item itself"),
        (json!({ "type": "web_search_call", "id": "x" }), "input[1].type", "`web_search_call`"),
        (json!({ "type": "function_call", "name": "f", "arguments": "{}" }), "input[1].call_id", "missing"),
        (json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "[]" }), "input[1].arguments", "a JSON object"),
        (json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a" }), "input[1].arguments", "a JSON object"),
        (json!({ "type": "function_call_output", "call_id": "c" }), "input[1].output", "missing"),
        (json!({ "type": "function_call_output", "call_id": "d", "output": "x" }), "input[1].call_id", "no function_call before it has the id `d`"),
        (json!({ "type": "reasoning", "summary": [], "encrypted_content": "x" }), "input[1].encrypted_content", "another server"),
        (json!({ "type": "reasoning", "summary": ["x"] }), "input[1].summary[0]", "an object"),
        (json!("hi"), "input[1]", "an object, not a string"),
    ];
    for (item, param, part) in cases {
        check_refused(&json!({ "input": [call, item] }), param, part);
    }
    check_refused(&json!({ "input": [] }), "input", "empty");
    check_refused(&json!({ "input": 5 }), "input", "a list of items");
    let user = json!({ "role": "user", "content": "x" });
    check_refused(&json!({ "input": vec![user.clone(); ITEMS_MAX + 1] }), "input", "at most 16384");
    let many = vec![json!({ "type": "input_text", "text": "" }); 1025];
    check_refused(
        &json!({ "input": [{ "role": "user", "content": many }] }),
        "input[0].content",
        "at most 1024",
    );
}

fn assistant(reasoning: Option<&str>, content: Content, calls: &[(&str, &str, Value)]) -> Message {
    let call = |(id, name, arguments): &(&str, &str, Value)| ToolCall {
        id: Some((*id).to_owned()),
        index: 0,
        name: (*name).to_owned(),
        arguments: arguments.clone(),
    };
    Message {
        content,
        reasoning: reasoning.map(Into::into),
        tool_calls: calls.iter().map(call).collect(),
        ..Message::text(Role::Assistant, "")
    }
}

fn tool(id: &str, name: &str, text: &str) -> Message {
    Message { name: Some(name.into()), tool_call_id: Some(id.into()), ..Message::text(Role::Tool, text) }
}

#[test]
fn items_make_a_conversation() {
    let text = |text: &str| Content::Text(text.into());
    let parts = |texts: &[&str]| Content::Parts(texts.iter().map(|t| Part::Text((*t).into())).collect());
    let check = |items: Value, expected: &[Message]| {
        let mut request = request(&json!({ "input": items }));
        assert_eq!(chat(&mut request).messages, expected, "{items}");
    };
    let thought = |text: &str| {
        json!({ "type": "reasoning", "id": "r", "summary": [], "status": "completed",
        "content": [{ "type": "reasoning_text", "text": text }] })
    };
    let call = |id: &str| json!({ "type": "function_call", "call_id": id, "name": format!("f{id}"), "arguments": "{\"a\":1}" });
    let output = |id: &str| json!({ "type": "function_call_output", "call_id": id, "output": "done" });
    let said = |text: &str| {
        json!({ "type": "message", "id": "m", "status": "completed", "role": "assistant",
        "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }] })
    };
    let one = json!({ "a": 1 });

    check(json!("hi"), &[Message::text(Role::User, "hi")]);
    check(
        json!([{ "role": "developer", "content": "a" }, { "role": "system", "content": "b" },
               { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "c" }, { "type": "input_text", "text": "d" }] }]),
        &[
            Message::text(Role::Developer, "a"),
            Message::text(Role::System, "b"),
            Message { content: parts(&["c", "d"]), ..Message::text(Role::User, "") },
        ],
    );
    check(
        json!([
            thought("hm"),
            said("I'll look."),
            call("1"),
            call("2"),
            output("1"),
            output("2"),
            said("So.")
        ]),
        &[
            assistant(Some("hm"), text("I'll look."), &[("1", "f1", one.clone()), ("2", "f2", one.clone())]),
            tool("1", "f1", "done"),
            tool("2", "f2", "done"),
            assistant(None, text("So."), &[]),
        ],
    );
    check(
        json!([
            thought("a"),
            thought("b"),
            call("1"),
            output("1"),
            thought("c"),
            call("2"),
            said("x"),
            said("y")
        ]),
        &[
            assistant(Some("a\n\nb"), Content::None, &[("1", "f1", one.clone())]),
            tool("1", "f1", "done"),
            assistant(Some("c"), Content::None, &[("2", "f2", one)]),
            assistant(None, text("x"), &[]),
            assistant(None, text("y"), &[]),
        ],
    );
    check(
        json!([{ "type": "reasoning", "summary": [{ "type": "summary_text", "text": "in short" }] },
               { "role": "user", "content": "go on" }]),
        &[assistant(Some("in short"), text(""), &[]), Message::text(Role::User, "go on")],
    );
    check(
        json!([{ "type": "function_call", "call_id": "1", "name": "f", "arguments": "", "status": "completed" },
               { "type": "function_call", "call_id": "2", "name": "g", "arguments": "{\"a", "status": "incomplete" }]),
        &[assistant(None, Content::None, &[("1", "f", json!({})), ("2", "g", json!("{\"a"))])],
    );
}

fn envelope() -> Envelope {
    Envelope { id: "resp_0".into(), created: 1, model: "m".into(), fingerprint: "fp".into() }
}

fn deltas() -> Vec<Delta> {
    let events = [
        Event::Started { prompt_tokens: 1, seed: 1 },
        Event::Reasoning { text: "hm".into(), logprobs: Vec::new() },
        Event::Text { text: "one".into(), logprobs: Vec::new() },
        Event::Text { text: String::new(), logprobs: Vec::new() },
        Event::ToolCall { index: 0, id: None, name: "f".into() },
        Event::ToolArguments { index: 0, json: "{\"a\":".into() },
        Event::Finished(FinishReason::Length),
        Event::Done(ingle_chat::Usage::default()),
    ];
    events.into_iter().map(|event| Delta { choice: 0, event }).collect()
}

#[test]
fn an_answer_that_was_cut_short_can_be_continued() {
    let call = read(&with(json!({ "instructions": "old" }))).unwrap();
    let input = call.stored_input();
    let (_, echo) = call.into_request(&[]).unwrap();
    let mut reply = Reply::new(envelope(), echo, true);
    for delta in deltas() {
        reply.push(&delta);
    }
    let body = reply.finish().expect("it is complete");
    let response: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    let statuses: Vec<_> =
        response["output"].as_array().unwrap().iter().map(|i| i["status"].clone()).collect();
    assert_eq!(statuses, ["completed", "completed", "incomplete"]);
    let ids: Vec<_> = response["output"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
    assert_eq!(ids, ["rs_0_0", "msg_0_1", "fc_0_2"]);

    let next = read(&with(json!({ "instructions": "new", "previous_response_id": "resp_0" }))).unwrap();
    let (mut request, _) = next.into_request(&[StoredTurn { input, body }]).unwrap();
    let expected = [
        Message::text(Role::System, "new"),
        Message::text(Role::User, "hi"),
        assistant(Some("hm"), Content::Text("one".into()), &[("call_0_0", "f", json!("{\"a\":"))]),
        Message::text(Role::User, "hi"),
    ];
    assert_eq!(chat(&mut request).messages, expected);
    let broken = StoredTurn { input: "[]".into(), body: "{}".into() };
    let error = read(&with(json!({}))).unwrap().into_request(&[broken]).unwrap_err();
    assert!(error.message.contains("cannot be read"), "{error}");
}

#[test]
fn events_come_in_order() {
    let (_, echo) = read(&with(json!({}))).unwrap().into_request(&[]).unwrap();
    let mut encoder = ResponsesEncoder::new(Reply::new(envelope(), echo, false));
    let mut out = String::new();
    for delta in deltas() {
        encoder.push(0, &delta, &mut out);
    }
    encoder.finish(&mut out);
    let names: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("event: response.")).collect();
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "incomplete",
    ];
    assert_eq!(names, expected);
}
