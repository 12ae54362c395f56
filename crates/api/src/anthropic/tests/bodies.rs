//! What bodies mean, and which are refused.

use ingle_chat::{
    ChatInput, Content, Format, Message, Part, Principal, Request, Role, Task, ToolCall, ToolChoice,
};
use ingle_step::TokenId;
use serde_json::{Value, json};

use super::super::messages::parse_count;
use super::super::refused::{HARMLESS, REFUSED};
use super::{body, caller, count_body, read};

/// What the plain body means.
fn plain() -> Request {
    let input = ChatInput { messages: vec![Message::text(Role::User, "hi")], ..ChatInput::default() };
    let mut request = Request::new("msg_1", Principal::local(), Task::Chat(input));
    request.model = Some("m".into());
    request.max_tokens = Some(2048);
    request
}

fn chat(request: &mut Request) -> &mut ChatInput {
    match &mut request.task {
        Task::Chat(input) => input,
        Task::Completion { .. } => panic!("messages are a conversation"),
    }
}

#[track_caller]
fn check(more: Value, set: impl Fn(&mut Request)) {
    let mut expected = plain();
    set(&mut expected);
    let got = read(more.clone()).unwrap_or_else(|e| panic!("{more}: {e}"));
    assert_eq!(got.request, expected, "{more}");
}

#[track_caller]
fn check_messages(messages: Value, expected: Vec<Message>) {
    check(json!({ "messages": messages }), |r| {
        let input = chat(r);
        input.continue_final_message = expected.last().is_some_and(|m| m.role == Role::Assistant);
        input.messages.clone_from(&expected);
    });
}

#[track_caller]
fn check_refused(more: Value, param: &str, part: &str) {
    let error = read(more.clone()).map(|_| ()).expect_err(&more.to_string());
    assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
    assert!(error.message.contains(part), "{more}: {error}");
}

fn user(text: &str) -> Message {
    Message::text(Role::User, text)
}

fn assistant(text: &str) -> Message {
    Message::text(Role::Assistant, text)
}

fn parts(texts: &[&str]) -> Content {
    Content::Parts(texts.iter().map(|t| Part::Text((*t).to_owned())).collect())
}

fn calling(content: Content, calls: &[(&str, &str, Value)]) -> Message {
    let call = |(id, name, arguments): &(&str, &str, Value)| ToolCall {
        id: Some((*id).to_owned()),
        index: 0,
        name: (*name).to_owned(),
        arguments: arguments.clone(),
    };
    Message { content, tool_calls: calls.iter().map(call).collect(), ..assistant("") }
}

fn result(id: &str, name: &str, text: &str) -> Message {
    Message { name: Some(name.into()), tool_call_id: Some(id.into()), ..Message::text(Role::Tool, text) }
}

#[test]
fn fields_set_what_they_say() {
    check(json!({}), |_| {});
    check(json!({ "model": null }), |r| r.model = None);
    check(json!({ "max_tokens": 0 }), |r| r.max_tokens = Some(0));
    check(json!({ "temperature": 1, "top_p": 0.5, "top_k": 7 }), |r| {
        r.sampling.temperature = Some(1.0);
        r.sampling.top_p = Some(0.5);
        r.sampling.top_k = Some(7);
    });
    check(json!({ "stop_sequences": ["x", "\n\n"] }), |r| r.stop = vec!["x".into(), "\n\n".into()]);
    check(json!({ "seed": 5, "min_p": 0.5, "min_tokens": 3, "stop_token_ids": [4] }), |r| {
        r.sampling.seed = Some(5);
        r.sampling.min_p = Some(0.5);
        r.min_tokens = 3;
        r.stop_token_ids = vec![TokenId(4)];
    });
    check(json!({ "chat_template_kwargs": { "a": 1 } }), |r| {
        chat(r).template_vars.insert("a".into(), json!(1));
    });
    check(json!({ "metadata": { "user_id": "u" }, "stream": false }), |_| {});
    assert!(read(json!({ "stream": true })).expect("valid").stream);
}

#[test]
fn system_comes_first() {
    let system = |text: &str| {
        let text = text.to_owned();
        move |r: &mut Request| chat(r).messages.insert(0, Message::text(Role::System, text.clone()))
    };
    check(json!({ "system": "Be brief." }), system("Be brief."));
    let blocks = json!([
        { "type": "text", "text": "Be", "cache_control": { "type": "ephemeral", "ttl": "1h" } },
        { "type": "text", "text": "brief.", "citations": null },
    ]);
    check(json!({ "system": blocks }), system("Be\nbrief."));
    check(json!({ "system": [] }), |_| {});
    check_messages(
        json!([{ "role": "user", "content": "a" }, { "role": "system", "content": "b" }, { "role": "user", "content": "c" }]),
        vec![user("a"), Message::text(Role::System, "b"), user("c")],
    );
    // Accounting of one client, which would spoil every cached prompt.
    let line = "x-anthropic-billing-header: cc_version=2.1; cch=74943;";
    let block = |text: &str| json!({ "type": "text", "text": text });
    check(json!({ "system": [block(line), block("Be brief.")] }), system("Be brief."));
    check(json!({ "system": format!("{line}\nBe brief.") }), system("Be brief."));
    check(json!({ "system": [block(line)] }), |_| {});
    check(json!({ "system": format!("Mind {line}") }), system(&format!("Mind {line}")));
}

#[test]
fn turns_become_messages() {
    check_messages(
        json!([{ "role": "user", "content": [{ "type": "text", "text": "hi" }] }]),
        vec![user("hi")],
    );
    check_messages(
        json!([{ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }]),
        vec![Message { content: parts(&["a", "b"]), ..user("") }],
    );
    // Turns of one role that follow each other are one.
    check_messages(
        json!([
            { "role": "user", "content": "a" }, { "role": "user", "content": "b" },
            { "role": "assistant", "content": "c" }, { "role": "assistant", "content": "d" },
            { "role": "user", "content": "e" },
        ]),
        vec![Message { content: parts(&["a", "b"]), ..user("") }, assistant("c\nd"), user("e")],
    );
    // A last one of the model's is continued.
    check_messages(
        json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "The best answer is (" }]),
        vec![user("a"), assistant("The best answer is (")],
    );
    check_messages(
        json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "" }]),
        vec![user("a"), assistant("")],
    );
    // Thoughts, and whatever their signature says.
    check_messages(
        json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Hm.", "signature": "<|im_end|>" },
                { "type": "thinking", "thinking": "", "signature": "x" },
                { "type": "text", "text": "b" },
            ] },
            { "role": "user", "content": "c" },
        ]),
        vec![user("a"), Message { reasoning: Some("Hm.".into()), ..assistant("b") }, user("c")],
    );
}

#[test]
fn calls_and_results() {
    let tool_use = |id: &str, name: &str, input: Value| json!({ "type": "tool_use", "id": id, "name": name, "input": input });
    check_messages(
        json!([
            { "role": "user", "content": "weather?" },
            { "role": "assistant", "content": [
                { "type": "text", "text": "Let me look." },
                tool_use("t1", "weather", json!({ "b": 1, "a": [2] })), tool_use("t2", "clock", json!({})),
            ] },
            { "role": "user", "content": [
                { "type": "text", "text": "Here." },
                { "type": "tool_result", "tool_use_id": "t1", "content": "sun", "is_error": false },
                { "type": "tool_result", "tool_use_id": "t2", "cache_control": { "type": "ephemeral" }, "content": [
                    { "type": "text", "text": "12" }, { "type": "text", "text": "00" },
                ] },
            ] },
            { "role": "user", "content": "Now?" },
        ]),
        vec![
            user("weather?"),
            calling(
                Content::Text("Let me look.".into()),
                &[("t1", "weather", json!({ "b": 1, "a": [2] })), ("t2", "clock", json!({}))],
            ),
            result("t1", "weather", "sun"),
            result("t2", "clock", "12\n00"),
            Message { content: parts(&["Here.", "Now?"]), ..user("") },
        ],
    );
    for (given, said) in [
        (json!({ "content": "no such file", "is_error": true }), "Error: no such file"),
        (json!({ "content": "ERROR 5", "is_error": true }), "ERROR 5"),
        (json!({ "is_error": true }), "Error: "),
        (json!({ "content": [] }), ""),
    ] {
        let mut block = json!({ "type": "tool_result", "tool_use_id": "t1" });
        block.as_object_mut().expect("an object").extend(given.as_object().expect("an object").clone());
        let mut call = tool_use("t1", "f", json!({}));
        call["caller"] = json!({ "type": "direct" });
        check_messages(
            json!([{ "role": "assistant", "content": [call] }, { "role": "user", "content": [block] }]),
            vec![calling(Content::None, &[("t1", "f", json!({}))]), result("t1", "f", said)],
        );
    }
}

#[test]
fn tools_in_the_shape_of_templates() {
    let schema = json!({ "type": "object", "properties": { "b": {}, "a": {} } });
    let given = json!([
        { "name": "f", "description": "Does.", "input_schema": schema, "cache_control": { "type": "ephemeral" } },
        { "type": "custom", "name": "g-2", "input_schema": {}, "strict": true, "defer_loading": false,
          "eager_input_streaming": true, "allowed_callers": ["direct"], "input_examples": [] },
    ]);
    let expected = json!([
        { "type": "function", "function": { "name": "f", "description": "Does.", "parameters": schema } },
        { "type": "function", "function": { "name": "g-2", "parameters": {}, "strict": true } },
    ]);
    let request = read(json!({ "tools": given })).expect("valid").request;
    let Task::Chat(input) = request.task else { panic!("a conversation") };
    assert_eq!(json!(input.tools).to_string(), expected.to_string(), "in this order");
    let choose = |choice: Value, wanted: ToolChoice, one: bool| {
        check(json!({ "tools": given, "tool_choice": choice }), |r| {
            let input = chat(r);
            input.tools = expected.as_array().expect("a list").clone();
            input.tool_choice = wanted.clone();
            input.one_tool_call = one;
        });
    };
    choose(json!(null), ToolChoice::Auto, false);
    choose(json!({ "type": "auto" }), ToolChoice::Auto, false);
    choose(json!({ "type": "auto", "disable_parallel_tool_use": true }), ToolChoice::Auto, true);
    choose(json!({ "type": "any", "disable_parallel_tool_use": false }), ToolChoice::Required, false);
    choose(json!({ "type": "tool", "name": "g-2" }), ToolChoice::Named("g-2".into()), false);
    choose(json!({ "type": "none" }), ToolChoice::None, false);
}

#[test]
fn thinking_and_output() {
    check(json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), |r| {
        chat(r).reasoning.enabled = Some(true);
        chat(r).reasoning.budget_tokens = Some(1024);
    });
    check(json!({ "thinking": { "type": "enabled" } }), |r| chat(r).reasoning.enabled = Some(true));
    check(json!({ "thinking": { "type": "disabled" } }), |r| chat(r).reasoning.enabled = Some(false));
    check(json!({ "thinking": { "type": "adaptive" } }), |_| {});
    let omitted = read(json!({ "thinking": { "type": "adaptive", "display": "omitted" } })).expect("valid");
    assert!(omitted.omit_thinking);
    let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let format = json!({ "type": "json_schema", "schema": schema });
    for more in [
        json!({ "output_config": { "format": format } }),
        json!({ "output_format": format }),
        json!({ "output_config": { "format": format, "effort": null }, "output_format": format }),
    ] {
        check(more, |r| r.format = Some(Format::JsonSchema(schema.clone())));
    }
    check(json!({ "output_config": { "effort": "high" } }), |r| {
        chat(r).reasoning.effort = Some("high".into());
    });
}

#[test]
fn old_thoughts_are_left_out_on_demand() {
    let said = |thinking: &str| json!([{ "type": "thinking", "thinking": thinking, "signature": "" }, { "type": "text", "text": "x" }]);
    let messages = json!([
        { "role": "assistant", "content": said("one") }, { "role": "user", "content": "a" },
        { "role": "assistant", "content": said("two") }, { "role": "user", "content": "b" },
    ]);
    for (keep, expected) in [
        (json!("all"), [Some("one"), Some("two")]),
        (json!({ "type": "all" }), [Some("one"), Some("two")]),
        (json!({ "type": "thinking_turns", "value": 2 }), [Some("one"), Some("two")]),
        (json!({ "type": "thinking_turns", "value": 1 }), [None, Some("two")]),
        (json!(null), [None, Some("two")]),
    ] {
        let edits = json!([{ "type": "clear_thinking_20251015", "keep": keep }]);
        let more = json!({ "messages": messages, "context_management": { "edits": edits } });
        let Task::Chat(input) = read(more).expect("valid").request.task else { panic!("a conversation") };
        let kept: Vec<_> = input.messages.iter().filter(|m| m.role == Role::Assistant).collect();
        assert_eq!(kept.iter().map(|m| m.reasoning.as_deref()).collect::<Vec<_>>(), expected, "{keep}");
    }
}

#[test]
fn refused_by_name() {
    let say = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    let reply = |content: Value| json!({ "messages": [{ "role": "assistant", "content": content }, { "role": "user", "content": "x" }] });
    let tool = |more: Value| {
        let mut tool = json!({ "name": "f", "input_schema": { "type": "object" } });
        tool.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({ "tools": [tool] })
    };
    #[rustfmt::skip]
    let cases = [
        (json!({ "max_tokens": null }), "max_tokens", "is missing"),
        (json!({ "max_tokens": -1 }), "max_tokens", "from 0 to"),
        (json!({ "max_tokens": "5" }), "max_tokens", "a whole number, not a string"),
        (json!({ "frobnicate": 1 }), "frobnicate", "unknown field `frobnicate`"),
        (json!({ "temperature": 1.5 }), "temperature", "from 0 to 1, not 1.5"),
        (json!({ "top_p": 2 }), "top_p", "from 0 to 1"),
        (json!({ "stop_sequences": [""] }), "stop_sequences", "must not be empty"),
        (json!({ "stop_sequences": [5] }), "stop_sequences", "a list of strings"),
        (json!({ "stop_sequences": vec!["x"; 65] }), "stop_sequences", "`stop_sequences` has 65 entries"),
        (json!({ "stream": "yes" }), "stream", "true or false"),
        (json!({ "model": 5 }), "model", "a string"),
        (json!({ "metadata": { "user": "u" } }), "metadata.user", "unknown field"),
        (json!({ "service_tier": "priority" }), "service_tier", "standard_only"),
        (json!({ "speed": "fast" }), "speed", "standard"),
        (json!({ "mcp_servers": [{ "url": "x" }] }), "mcp_servers", "calls no other"),
        (json!({ "betas": "x" }), "betas", "a list of strings"),
        (json!({ "messages": null }), "messages", "is missing"),
        (json!({ "messages": [] }), "messages", "is empty"),
        (json!({ "messages": [{ "role": "system", "content": [] }] }), "messages", "says nothing"),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].role", "user, assistant or system"),
        (json!({ "messages": [{ "role": "user", "content": "x", "name": "n" }] }), "messages[0].name", "unknown field"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content", "is missing"),
        (json!({ "system": 5 }), "system", "a string or a list of text blocks"),
        (json!({ "system": [{ "type": "image" }] }), "system[0].type", "images are not available"),
        (say(json!([])), "messages[0].content", "an empty list"),
        (say(json!(5)), "messages[0].content", "a string or a list of blocks"),
        (say(json!(["x"])), "messages[0].content[0]", "an object, not a string"),
        (say(json!(vec![json!({ "type": "text", "text": "x" }); 1025])), "messages[0].content", "at most 1024"),
        (say(json!([{ "text": "x" }])), "messages[0].content[0].type", "is missing"),
        (say(json!([{ "type": "text" }])), "messages[0].content[0].text", "is missing"),
        (say(json!([{ "type": "text", "text": "x", "colour": 1 }])), "messages[0].content[0].colour", "unknown field"),
        (say(json!([{ "type": "text", "text": "x", "cache_control": 1 }])), "messages[0].content[0].cache_control", "an object"),
        (say(json!([{ "type": "text", "text": "x", "citations": [{}] }])), "messages[0].content[0].citations", "not supported"),
        (say(json!([{ "type": "image", "source": {} }])), "messages[0].content[0].type", "`image`: images are not"),
        (say(json!([{ "type": "document", "source": {} }])), "messages[0].content[0].type", "in a text block"),
        (say(json!([{ "type": "thinking", "thinking": "x" }])), "messages[0].content[0].type", "`thinking`"),
        (say(json!([{ "type": "tool_result", "tool_use_id": "t9", "content": "x" }])),
            "messages[0].content[0].tool_use_id", "`t9`, which no `tool_use` before it"),
        (say(json!([{ "type": "tool_result", "content": "x" }])), "messages[0].content[0].tool_use_id", "is missing"),
        (say(json!([{ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "image" }] }])),
            "messages[0].content[0].content[0].type", "images are not available"),
        (reply(json!([{ "type": "redacted_thinking", "data": "x" }])), "messages[0].content[0].type", "encrypted"),
        (reply(json!([{ "type": "server_tool_use", "id": "x" }])), "messages[0].content[0].type", "`server_tool_use`"),
        (reply(json!([{ "type": "tool_use", "id": "t", "name": "f" }])), "messages[0].content[0].input", "is missing"),
        (reply(json!([{ "type": "tool_use", "id": "t", "name": "f", "input": "{}" }])), "messages[0].content[0].input", "an object"),
        (reply(json!([{ "type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": { "type": "x" } }])),
            "messages[0].content[0].caller", "direct"),
        (json!({ "messages": [{ "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f", "input": {} }] }] }),
            "messages", "ends with a `tool_use`"),
        (tool(json!({ "type": "web_search_20250305" })), "tools[0].type", "no tools of its own"),
        (tool(json!({ "type": "bash_20250124" })), "tools[0].type", "`bash_20250124`"),
        (tool(json!({ "name": null })), "tools[0].name", "is missing"),
        (tool(json!({ "name": "a b" })), "tools[0].name", "letters, digits"),
        (tool(json!({ "name": "x".repeat(129) })), "tools[0].name", "1 to 128"),
        (tool(json!({ "input_schema": null })), "tools[0].input_schema", "is missing"),
        (tool(json!({ "input_schema": { "type": "string" } })), "tools[0].input_schema.type", "\"object\""),
        (tool(json!({ "defer_loading": true })), "tools[0].defer_loading", "not searched for"),
        (tool(json!({ "allowed_callers": ["code_execution_20250825"] })), "tools[0].allowed_callers", "direct"),
        (tool(json!({ "input_examples": [{}] })), "tools[0].input_examples", "into the description"),
        (tool(json!({ "colour": 1 })), "tools[0].colour", "unknown field"),
        (json!({ "tools": [{ "name": "f", "input_schema": {} }, { "name": "f", "input_schema": {} }] }), "tools[1].name", "two tools"),
        (json!({ "tools": vec![json!({}); 1025] }), "tools", "at most 1024"),
        (tool(json!({ "description": "x".repeat(1 << 20) })), "tools", "more than 1048576 bytes"),
        (json!({ "tool_choice": { "type": "any" } }), "tool_choice.type", "`tools` is empty"),
        (json!({ "tool_choice": { "type": "tool", "name": "f" } }), "tool_choice.name", "not in `tools`"),
        (json!({ "tool_choice": { "type": "tool" } }), "tool_choice.name", "is missing"),
        (json!({ "tool_choice": { "type": "some" } }), "tool_choice.type", "auto, any, tool or none"),
        (json!({ "tool_choice": { "type": "none", "disable_parallel_tool_use": true } }),
            "tool_choice.disable_parallel_tool_use", "unknown field"),
        (json!({ "tool_choice": "auto" }), "tool_choice", "an object"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 2048 } }), "thinking.budget_tokens", "2048"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 0 } }), "thinking.budget_tokens", "from 1"),
        (json!({ "thinking": { "type": "between_tools" } }), "thinking.type", "enabled, adaptive or disabled"),
        (json!({ "thinking": { "type": "disabled", "budget_tokens": 5 } }), "thinking.budget_tokens", "unknown field"),
        (json!({ "thinking": { "type": "adaptive", "display": "loud" } }), "thinking.display", "summarized or omitted"),
        (json!({ "output_config": { "effort": "utmost" } }), "output_config.effort", "low, medium, high"),
        (json!({ "output_config": { "format": { "type": "text" } } }), "output_config.format.type", "json_schema"),
        (json!({ "output_config": { "format": { "type": "json_schema" } } }), "output_config.format.schema", "missing"),
        (json!({ "output_config": { "format": { "type": "json_schema", "schema": {} } },
            "output_format": { "type": "json_schema", "schema": { "type": "object" } } }), "output_format", "differ"),
        (json!({ "context_management": { "edits": [{ "type": "clear_tool_uses_20250919" }] } }),
            "context_management.edits[0].type", "leave out yourself"),
        (json!({ "context_management": { "edits": [{ "type": "clear_thinking_20251015", "keep": { "type": "x" } }] } }),
            "context_management.edits[0].keep.type", "all or thinking_turns"),
        (json!({ "chat_template_kwargs": { "messages": [] } }), "chat_template_kwargs.messages", "reserved"),
    ];
    for (more, param, part) in cases {
        check_refused(more, param, part);
    }
    for field in REFUSED {
        check_refused(json!({ field.name: "x" }), field.name, field.advice);
    }
    for field in HARMLESS {
        check_refused(json!({ field.name: 5 }), field.name, field.accepted);
    }
    check(
        json!({
            "cache_control": { "type": "ephemeral" }, "service_tier": "auto", "speed": "standard", "betas": ["x"],
            "anthropic_version": "vertex-2023-10-16", "mcp_servers": [], "user_profile_id": "u", "container": null,
            "unknown_but_null": null,
        }),
        |_| {},
    );
}

#[test]
fn counts_need_no_limit() {
    let mut body = body(json!({ "system": "s", "max_tokens": null }));
    let request = parse_count(body.to_string().as_bytes(), caller()).expect("valid");
    assert_eq!(request.max_tokens, None);
    body["max_tokens"] = json!(5);
    assert_eq!(parse_count(body.to_string().as_bytes(), caller()), Ok(request));
    body["stream"] = json!(true);
    let error = parse_count(body.to_string().as_bytes(), caller()).expect_err("a count is no stream");
    assert_eq!(error.param.as_deref(), Some("stream"));
    assert_eq!(count_body(7), r#"{"input_tokens":7}"#);
}
