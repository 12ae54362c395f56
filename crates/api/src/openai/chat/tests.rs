//! Fields of chat bodies and what becomes of them; pieces of answers and what becomes of those.

use ingle_chat::{
    ChatInput, Content, Delta, Event, FinishReason, Principal, ReasoningWish, Task, ToolChoice, Usage,
};
use serde_json::{Value, json};

use super::*;
use crate::StreamEncoder;
use crate::openai::Envelope;

fn read(more: &Value) -> Result<ChatCall, RequestError> {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let caller =
        Caller { id: "chatcmpl-0123456789abcdef0123456789abcdef".into(), principal: Principal::local() };
    parse(body.to_string().as_bytes(), caller)
}

#[track_caller]
fn input(more: &Value) -> ChatInput {
    match read(more).unwrap_or_else(|e| panic!("{more}: {e}")).request.task {
        Task::Chat(input) => input,
        other => panic!("{other:?}"),
    }
}

/// The field that a refusal names, and a part of its message.
#[track_caller]
fn check_refused(more: Value, param: &str, part: &str) {
    let error = read(&more).expect_err("not valid");
    assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
    assert!(error.message.contains(part), "{more}: {error}");
}

fn tool(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } })
}

#[test]
fn tools() {
    let full = json!({ "type": "function", "function": {
        "parameters": { "type": "object", "properties": { "a": { "type": "integer" } } },
        "name": "get.the_weather-1", "description": "It rains.", "strict": true, "return": { "type": "string" },
    } });
    let more =
        json!({ "tools": [full, { "function": { "name": "f", "description": null, "strict": null } }] });
    let input = input(&more);
    assert_eq!(input.tools[0].to_string(), full.to_string(), "in the client's order");
    let empty = json!({ "type": "function",
        "function": { "name": "f", "parameters": { "type": "object", "properties": {} } } });
    assert_eq!(input.tools[1], empty);
    assert_eq!((input.tool_choice, input.one_tool_call), (ToolChoice::Auto, false));
}

#[track_caller]
fn check_choice(choice: Value, expected: ToolChoice, names: &[&str]) {
    let input = input(&json!({ "tools": [tool("a"), tool("b"), tool("c")], "tool_choice": choice }));
    assert_eq!(input.tool_choice, expected, "{choice}");
    let left: Vec<&str> = input.tools.iter().map(|t| t["function"]["name"].as_str().expect("text")).collect();
    assert_eq!(left, names, "{choice}");
}

#[test]
fn tool_choices() {
    let all = ["a", "b", "c"];
    let one = |name: &str| json!({ "type": "function", "function": { "name": name } });
    check_choice(json!(null), ToolChoice::Auto, &all);
    check_choice(json!("auto"), ToolChoice::Auto, &all);
    check_choice(json!("none"), ToolChoice::None, &all);
    check_choice(json!("required"), ToolChoice::Required, &all);
    check_choice(one("b"), ToolChoice::Named("b".into()), &all);
    let allowed = |mode: &str| json!({ "type": "allowed_tools", "allowed_tools": { "mode": mode, "tools": [one("c"), one("a")] } });
    check_choice(allowed("auto"), ToolChoice::Auto, &["a", "c"]);
    check_choice(allowed("required"), ToolChoice::Required, &["a", "c"]);
    assert!(input(&json!({ "tools": [tool("a")], "parallel_tool_calls": false })).one_tool_call);
    for harmless in
        [json!({ "tools": [] }), json!({ "tool_choice": "none" }), json!({ "tool_choice": "auto" })]
    {
        assert_eq!(input(&harmless).tools, Vec::<Value>::new());
    }
}

#[test]
fn refused_tools() {
    let one = |tool: Value| json!({ "tools": [tool] });
    let function = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
    check_refused(one(json!(5)), "tools[0]", "an object");
    check_refused(one(json!({ "type": "custom" })), "tools[0].type", "`custom`; only \"function\"");
    check_refused(one(json!({ "type": "function" })), "tools[0].function", "missing");
    check_refused(function(json!({})), "tools[0].function.name", "missing");
    for name in ["", "a b", "é", &"x".repeat(65)] {
        check_refused(
            function(json!({ "name": name })),
            "tools[0].function.name",
            "1 to 64 of the characters",
        );
    }
    let parameters = json!({ "name": "f", "parameters": [] });
    check_refused(function(parameters), "tools[0].function.parameters", "an object, not a list");
    check_refused(function(json!({ "name": "f", "strict": 1 })), "tools[0].function.strict", "true or false");
    check_refused(function(json!({ "name": "f", "x": 1 })), "tools[0].function.x", "unknown field");
    check_refused(
        json!({ "tools": [tool("f"), tool("f")] }),
        "tools[1].function.name",
        "two tools called `f`",
    );
    let many: Vec<Value> = (0..=TOOLS_MAX).map(|i| tool(&format!("f{i}"))).collect();
    check_refused(json!({ "tools": many }), "tools", "at most 1024");
    let large =
        |name: &str| json!({ "function": { "name": name, "description": "x".repeat(TOOLS_BYTES_MAX / 2) } });
    check_refused(json!({ "tools": [large("a"), large("b")] }), "tools", "more than 1048576 bytes");

    let choice = |choice: Value| json!({ "tools": [tool("a")], "tool_choice": choice });
    check_refused(choice(json!("any")), "tool_choice", "`any`; it can be");
    check_refused(choice(json!(5)), "tool_choice", "not a number");
    check_refused(
        choice(json!({ "type": "custom" })),
        "tool_choice.type",
        "\"function\" or \"allowed_tools\"",
    );
    let absent = json!({ "type": "function", "function": { "name": "b" } });
    check_refused(choice(absent.clone()), "tool_choice.function.name", "`b`, which is not in `tools`");
    let allowed = |inner: Value| choice(json!({ "type": "allowed_tools", "allowed_tools": inner }));
    let path = "tool_choice.allowed_tools";
    check_refused(allowed(json!({ "mode": "x" })), &format!("{path}.mode"), "\"auto\" or \"required\"");
    check_refused(allowed(json!({ "mode": "auto", "tools": [] })), &format!("{path}.tools"), "missing");
    let inner = json!({ "mode": "auto", "tools": [absent] });
    check_refused(allowed(inner), &format!("{path}.tools[0].function.name"), "not in `tools`");
    check_refused(json!({ "tool_choice": "required" }), "tool_choice", "there are no `tools`");
    check_refused(json!({ "functions": [] }), "functions", "`tools`");
    check_refused(json!({ "function_call": "auto" }), "function_call", "`tool_choice`");
}

/// A wish, whether thoughts are hidden.
#[track_caller]
fn check_reasoning(more: Value, wish: ReasoningWish, is_hidden: bool) {
    assert_eq!(input(&more).reasoning, wish, "{more}");
    assert_eq!(read(&more).expect("valid").hides_reasoning, is_hidden, "{more}");
}

#[test]
fn reasoning() {
    let wish = ReasoningWish::default;
    let on = |on| ReasoningWish { enabled: Some(on), ..wish() };
    let effort = |word: &str| ReasoningWish { effort: Some(word.into()), ..wish() };
    let budget = |n| ReasoningWish { budget_tokens: n, ..wish() };
    let in_text = ReasoningWish { in_text: true, ..wish() };
    check_reasoning(json!({}), wish(), false);
    check_reasoning(json!({ "reasoning_effort": "none" }), on(false), false);
    for word in ["minimal", "low", "medium", "high", "xhigh", "max"] {
        check_reasoning(json!({ "reasoning_effort": word }), effort(word), false);
    }
    check_reasoning(json!({ "think": true }), on(true), false);
    check_reasoning(json!({ "think": "high" }), effort("high"), false);
    check_reasoning(json!({ "enable_thinking": false, "reasoning_effort": "none" }), on(false), false);
    check_reasoning(json!({ "thinking": { "type": "disabled" } }), on(false), false);
    let enabled = ReasoningWish { budget_tokens: Some(64), ..on(true) };
    check_reasoning(json!({ "thinking": { "type": "enabled", "budget_tokens": 64 } }), enabled, false);
    check_reasoning(json!({ "thinking_token_budget": 0 }), budget(Some(0)), false);
    check_reasoning(
        json!({ "thinking_budget_tokens": 9, "thinking_token_budget": 9 }),
        budget(Some(9)),
        false,
    );
    check_reasoning(json!({ "thinking_budget_tokens": -1 }), wish(), false);
    check_reasoning(json!({ "include_reasoning": false }), wish(), true);
    check_reasoning(json!({ "separate_reasoning": false }), in_text.clone(), false);
    check_reasoning(json!({ "reasoning_format": "none" }), in_text, false);
    check_reasoning(json!({ "reasoning_format": "auto", "separate_reasoning": true }), wish(), false);
    check_reasoning(json!({ "reasoning_format": "deepseek" }), wish(), false);
    let all = json!({ "reasoning": { "effort": "low", "enabled": true, "max_tokens": 5, "exclude": true } });
    let expected = ReasoningWish { budget_tokens: Some(5), enabled: Some(true), ..effort("low") };
    check_reasoning(all, expected, true);
    // The template's own variable stays one.
    let more = json!({ "chat_template_kwargs": { "enable_thinking": false } });
    assert_eq!(input(&more).template_vars["enable_thinking"], false);
    check_reasoning(more, wish(), false);
}

#[test]
fn refused_reasoning() {
    check_refused(
        json!({ "reasoning_effort": "huge" }),
        "reasoning_effort",
        "`huge`; it can be none, minimal",
    );
    check_refused(json!({ "think": 1 }), "think", "not a number");
    check_refused(json!({ "reasoning": { "summary": "auto" } }), "reasoning.summary", "unknown field");
    check_refused(json!({ "reasoning": "low" }), "reasoning", "an object");
    check_refused(json!({ "thinking": { "type": "maybe" } }), "thinking.type", "\"enabled\" or \"disabled\"");
    check_refused(json!({ "thinking_token_budget": -2 }), "thinking_token_budget", "from -1 to");
    check_refused(json!({ "reasoning_format": "raw" }), "reasoning_format", "none (thoughts stay");
    let both = json!({ "think": true, "reasoning_effort": "none" });
    check_refused(both, "think", "`reasoning_effort` and `think` contradict each other");
    let both = json!({ "think": false, "reasoning_effort": "low" });
    check_refused(both, "reasoning_effort", "`think` turns thinking off");
    let both = json!({ "think": false, "thinking_token_budget": 5 });
    check_refused(both, "thinking_token_budget", "says how much");
    let both = json!({ "thinking_budget_tokens": 5, "thinking_token_budget": 6 });
    check_refused(both, "thinking_budget_tokens", "contradict");
    let both = json!({ "include_reasoning": false, "separate_reasoning": false });
    check_refused(both, "separate_reasoning", "`include_reasoning` leaves thoughts out");
}

#[test]
fn assistant_messages() {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    for content in [json!(null), json!("")] {
        let assistant = json!({ "role": "assistant", "content": content, "tool_calls": [call],
            "reasoning": "hm", "reasoning_content": "hm", "refusal": null, "annotations": [],
            "provider_specific_fields": { "refusal": null } });
        let input = input(&json!({ "messages": [assistant] }));
        let message = &input.messages[0];
        assert_eq!((message.tool_calls.len(), message.reasoning.as_deref()), (1, Some("hm")));
        assert_eq!(message.content == Content::None, content.is_null());
    }
    let legacy =
        json!({ "messages": [{ "role": "assistant", "function_call": { "name": "f", "arguments": "" } }] });
    check_refused(legacy, "messages[0].function_call", "`tool_calls`");
}

#[test]
fn predictions() {
    let of = |content: Value| json!({ "prediction": { "type": "content", "content": content } });
    let prediction = |more: &Value| read(more).expect("valid").request.prediction;
    assert_eq!(prediction(&json!({})), None);
    assert_eq!(prediction(&of(json!("some text"))).as_deref(), Some("some text"));
    let parts = json!([{ "type": "text", "text": "some " }, { "type": "text", "text": "text" }]);
    assert_eq!(prediction(&of(parts)).as_deref(), Some("some text"));
    check_refused(json!({ "prediction": "text" }), "prediction", "an object");
    check_refused(json!({ "prediction": { "content": "x" } }), "prediction.type", "is missing");
    check_refused(json!({ "prediction": { "type": "x" } }), "prediction.type", "can only be content");
    check_refused(json!({ "prediction": { "type": "content" } }), "prediction.content", "is missing");
    check_refused(of(json!(3)), "prediction.content", "");
    let more = json!({ "prediction": { "type": "content", "content": "x", "n": 1 } });
    check_refused(more, "prediction.n", "");
}

fn envelope() -> Envelope {
    let id = "chatcmpl-0123456789abcdef0123456789abcdef".into();
    Envelope { id, created: 7, model: "m".into(), fingerprint: "fp".into() }
}

/// Thoughts, an answer and calls, two answers of them.
fn events() -> Vec<Delta> {
    let text = |text: &str| Event::Text { text: text.into(), logprobs: Vec::new() };
    let thought = |text: &str| Event::Reasoning { text: text.into(), logprobs: Vec::new() };
    let call = |index, id: Option<&str>| Event::ToolCall { index, id: id.map(Into::into), name: "f".into() };
    let arguments = |index, json: &str| Event::ToolArguments { index, json: json.into() };
    let of = |choice, event| Delta { choice, event };
    vec![
        of(0, Event::Started { prompt_tokens: 3, seed: 1 }),
        of(0, thought("h")),
        of(1, text("a")),
        of(0, thought("m")),
        of(0, call(0, Some("own"))),
        of(0, arguments(0, "")),
        of(0, arguments(0, "{\"a\":")),
        of(0, arguments(0, "1}")),
        of(0, call(1, None)),
        of(0, arguments(1, "{}")),
        of(0, Event::Finished(FinishReason::ToolCalls)),
        of(1, text("b")),
        of(1, Event::Finished(FinishReason::Stop { matched: None })),
        of(0, Event::Done(Usage { prompt_tokens: 3, completion_tokens: 9, ..Usage::default() })),
    ]
}

fn streamed(call: &ChatCall) -> Vec<Value> {
    let mut encoder = ChatEncoder::new(envelope(), call);
    let mut out = String::new();
    events().iter().for_each(|delta| encoder.push(0, delta, &mut out));
    encoder.finish(&mut out);
    let data = out.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).filter(|d| *d != "[DONE]");
    data.map(|d| serde_json::from_str(d).expect("JSON")).collect()
}

#[test]
fn replies_with_calls() {
    let call = read(&json!({ "n": 2 })).expect("valid");
    let mut collector = ChatCollector::new(envelope(), &call);
    events().iter().for_each(|delta| collector.push(delta));
    let reply: Value = serde_json::from_str(&collector.finish().expect("complete")).expect("JSON");
    let made_up = "call_0123456789abcdef01234567_0_1";
    assert!(made_up.len() <= 40, "longer ids are refused elsewhere");
    let calls = json!([
        { "id": "own", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } },
        { "id": made_up, "type": "function", "function": { "name": "f", "arguments": "{}" } },
    ]);
    let message = json!({ "role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm",
        "reasoning": "hm", "tool_calls": calls });
    assert_eq!(reply["choices"][0]["message"], message);
    assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
    let message = json!({ "role": "assistant", "content": "ab", "refusal": null });
    assert_eq!(reply["choices"][1]["message"], message);
    assert_eq!(reply["timings"]["predicted_n"], 9);
    assert_eq!(reply["usage"]["completion_tokens_details"], json!({ "reasoning_tokens": 0 }));

    let deltas: Vec<(u64, Value)> = streamed(&call)
        .iter()
        .map(|chunk| &chunk["choices"][0])
        .map(|choice| (choice["index"].as_u64().expect("a number"), choice["delta"].clone()))
        .collect();
    let piece = |call: Value| json!({ "tool_calls": [call] });
    let begin = |index: u32, id: &str| {
        piece(
            json!({ "index": index, "id": id, "type": "function", "function": { "name": "f", "arguments": "" } }),
        )
    };
    let more = |index: u32, json: &str| piece(json!({ "index": index, "function": { "arguments": json } }));
    let expected = [
        (0, json!({ "role": "assistant", "content": null, "reasoning_content": "h", "reasoning": "h" })),
        (1, json!({ "role": "assistant", "content": "a" })),
        (0, json!({ "reasoning_content": "m", "reasoning": "m" })),
        (0, begin(0, "own")),
        (0, more(0, "{\"a\":")),
        (0, more(0, "1}")),
        (0, begin(1, made_up)),
        (0, more(1, "{}")),
        (0, json!({})),
        (1, json!({ "content": "b" })),
        (1, json!({})),
    ];
    assert_eq!(deltas, expected);
}

#[test]
fn the_last_chunk_has_the_timings() {
    for (options, has_usage) in [(json!(null), false), (json!({ "include_usage": true }), true)] {
        let call = read(&json!({ "n": 2, "stream": true, "stream_options": options })).expect("valid");
        let chunks = streamed(&call);
        let (last, others) = chunks.split_last().expect("chunks");
        assert_eq!(last["timings"]["predicted_n"], 9);
        assert_eq!(last["choices"].as_array().expect("a list").is_empty(), has_usage);
        assert_eq!(last["usage"]["completion_tokens"] == 9, has_usage);
        assert!(others.iter().all(|chunk| chunk.get("timings").is_none()));
    }
}

#[test]
fn hidden_thoughts() {
    let call = read(&json!({ "n": 2, "include_reasoning": false })).expect("valid");
    let mut collector = ChatCollector::new(envelope(), &call);
    events().iter().for_each(|delta| collector.push(delta));
    let shows = |text: &str| text.contains("\"reasoning\"") || text.contains("reasoning_content");
    assert!(!shows(&collector.finish().expect("complete")));
    let chunks = streamed(&call);
    assert!(chunks.iter().all(|chunk| !shows(&chunk.to_string())));
    assert_eq!(chunks[1]["choices"][0]["delta"]["role"], "assistant", "with the first piece that shows");
}
