//! Thoughts, calls of tools and formats, over the scripted executor.

use ingle_chat::output::OutputFormat;
use ingle_chat::template::{ChatTemplate, TemplateOptions};
use ingle_chat::{
    ChatInput, FinishReason, Format, Message, ProviderError, ReasoningWish, Request, Role, Sampling, Task,
    ToolChoice,
};
use ingle_engine::{Engine, EngineConfig, Frontend};
use ingle_testkit::scripted::{ScriptedExecutor, recite};
use serde_json::{Value, json};

use crate::client::{Answer, EOS, N_VOCAB, ask, byte, bytes, completion, frontend};

/// A template of the family that writes calls as JSON between tags, and thoughts between others.
const TEMPLATE: &str = "{%- if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>\
For each call return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n\
{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>{% endif %}\
{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}\
{% for c in m.tool_calls or [] %}<tool_call>\n{{ c | tojson }}\n</tool_call>{% endfor %}{% endfor %}\
\u{7}{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}<think>{% endif %}";

/// An engine over a script, with the template.
fn engine(executor: ScriptedExecutor) -> Engine {
    let template = ChatTemplate::new(TEMPLATE, TemplateOptions::default()).expect("a valid template");
    let format = OutputFormat::detect(TEMPLATE);
    let frontend = Frontend { template: Some(template), format, ..frontend(1024) };
    Engine::start(Box::new(executor), frontend, EngineConfig::default()).expect("it starts")
}

fn large_executor() -> ScriptedExecutor {
    ScriptedExecutor::new(N_VOCAB, 1024, 8, 512)
}

/// The answer of a model that thinks and says `text`, unless a format forbids it.
fn say(text: &str, request: Request) -> Answer {
    let script = bytes(format!("<think>{text}").as_bytes());
    let engine = engine(large_executor().with_logits(recite(byte(7), script, EOS)));
    ask(&engine, request).expect("it is answered")
}

/// The answer of a model that says anything at all.
fn babble(request: Request) -> Answer {
    ask(&engine(large_executor()), request).expect("it is answered")
}

fn refused(request: Request) -> String {
    match ask(&engine(large_executor()), request) {
        Err(ProviderError::InvalidRequest { message, param }) => {
            format!("{}: {message}", param.unwrap_or_default())
        }
        other => panic!("it is not refused: {other:?}"),
    }
}

fn tool() -> Value {
    let parameters = json!({
        "type": "object", "properties": { "x": { "type": "integer", "minimum": 0, "maximum": 9 } },
        "required": ["x"], "additionalProperties": false,
    });
    json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": parameters } })
}

fn chat(change: impl FnOnce(&mut ChatInput)) -> Request {
    let mut input = ChatInput { messages: vec![Message::text(Role::User, "hi")], ..ChatInput::default() };
    change(&mut input);
    Request { max_tokens: Some(128), task: Task::Chat(input), ..completion("") }
}

const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";

fn with_tool(input: &mut ChatInput) {
    input.tools = vec![tool()];
}

#[test]
fn thoughts_words_and_calls_are_told_apart() {
    let answer = say(&format!("because</think>Sure.\n{CALL}"), chat(with_tool));
    assert_eq!((&*answer.reasoning, answer.text().trim_end()), ("because", "Sure."));
    assert_eq!(answer.calls.len(), 1);
    assert_eq!(answer.calls[0].0, "f");
    assert_eq!(serde_json::from_str::<Value>(&answer.calls[0].1).unwrap(), json!({ "x": 1 }));
    assert_eq!(answer.finished, [FinishReason::ToolCalls]);
}

#[test]
fn thoughts_stay_in_the_text_if_that_is_wished() {
    let answer = say("so</think>yes", chat(|input| input.reasoning.in_text = true));
    assert_eq!(answer.reasoning, "");
    assert!(answer.text().contains("so</think>yes"), "{}", answer.text());
}

#[test]
fn a_cut_thought_is_a_thought() {
    let answer = say("because it is so", Request { max_tokens: Some(7), ..chat(|_| ()) });
    assert_eq!((&*answer.reasoning, answer.text()), ("because", ""));
    assert_eq!(answer.finished, [FinishReason::Length]);
}

#[test]
fn tools_that_must_not_be_called_are_not_shown() {
    let hidden = |input: &mut ChatInput| {
        with_tool(input);
        input.tool_choice = ToolChoice::None;
    };
    let answer = say(&format!("</think>{CALL}"), chat(hidden));
    assert_eq!((answer.text(), answer.calls.len()), (CALL, 0));
    assert_eq!(answer.started, say("", chat(|_| ())).started.map(|(n, _)| (n, answer.started.unwrap().1)));
}

#[test]
fn one_call_is_one_call() {
    let one = |input: &mut ChatInput| {
        with_tool(input);
        input.one_tool_call = true;
    };
    let both = format!("</think>{CALL}\n{CALL}");
    assert_eq!(say(&both, chat(with_tool)).calls.len(), 2);
    let answer = say(&both, chat(one));
    assert_eq!((answer.calls.len(), &answer.finished[..]), (1, &[FinishReason::ToolCalls][..]));
}

#[test]
fn stop_strings_are_looked_for_in_what_is_said() {
    let request = Request { stop: vec!["END".into()], ..chat(with_tool) };
    let answer = say("an END here</think>words END more", request.clone());
    assert_eq!((&*answer.reasoning, answer.text()), ("an END here", "words "));
    assert_eq!(answer.finished, [FinishReason::Stop { matched: Some("END".into()) }]);
    let answer = say(&format!("</think>E{CALL}"), request);
    assert_eq!(
        (answer.text(), answer.calls.len()),
        ("E", 1),
        "what might have been a stop string is not lost"
    );
}

#[test]
fn a_required_call_is_made() {
    for choice in [ToolChoice::Required, ToolChoice::Named("f".into())] {
        let answer = say(
            "hm</think>No.",
            chat(|input| {
                with_tool(input);
                input.tool_choice = choice;
                input.one_tool_call = true;
            }),
        );
        assert_eq!((answer.text(), &*answer.reasoning), ("", "hm"));
        let arguments: Value = serde_json::from_str(&answer.calls[0].1).expect("JSON");
        assert!(arguments["x"].is_i64() || arguments["x"].is_u64(), "{arguments}");
        assert_eq!(answer.finished, [FinishReason::ToolCalls]);
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "a": { "enum": ["x", "yy"] }, "b": { "type": "boolean" } },
        "required": ["a", "b"],
        "additionalProperties": false,
    })
}

#[test]
fn an_answer_obeys_after_its_thoughts() {
    let request = Request { format: Some(Format::JsonSchema(schema())), ..chat(|_| ()) };
    let answer = say("I would rather say nothing</think>nothing", request);
    assert_eq!(answer.reasoning, "I would rather say nothing");
    let value: Value = serde_json::from_str(answer.text()).expect("JSON");
    assert!(value["b"].is_boolean() && value["a"].is_string(), "{value}");
    assert_eq!(answer.finished, [FinishReason::Stop { matched: None }]);
}

/// Forced tokens come in one go, but one by one where each wants its log-probability: with the same meaning.
#[test]
fn a_jump_means_what_single_steps_mean() {
    let schema = json!({
        "type": "object", "properties": { "a_long_name": { "const": "a long value" } }, "required": ["a_long_name"],
        "additionalProperties": false,
    });
    let format = Some(Format::JsonSchema(schema));
    let required = |input: &mut ChatInput| {
        with_tool(input);
        input.tool_choice = ToolChoice::Required;
    };
    let budget = |input: &mut ChatInput| input.reasoning.budget_tokens = Some(3);
    for request in [
        Request { format: format.clone(), ..chat(|_| ()) },
        Request { format: format.clone(), n: 2, ..chat(budget) },
        Request { format, include_special: true, ..chat(|_| ()) },
        chat(required),
    ] {
        let text = "first a thought</think>and now something else";
        let jumped = say(text, request.clone());
        let walked = say(text, Request { logprobs: Some(0), ..request });
        let meaning = |answer: &Answer| {
            let usage = (answer.usage.completion_tokens, answer.usage.reasoning_tokens);
            (
                answer.texts.clone(),
                answer.reasoning.clone(),
                answer.calls.clone(),
                answer.finished.clone(),
                usage,
            )
        };
        assert_eq!(meaning(&jumped), meaning(&walked));
        assert!(!jumped.calls.is_empty() || jumped.text().contains("a long value"), "{jumped:?}");
    }
}

#[test]
fn formats_hold_whatever_is_sampled() {
    let check = |format: Format, holds: &dyn Fn(&str) -> bool| {
        for seed in 0..20 {
            let sampling = Sampling { temperature: Some(2.0), seed: Some(seed), ..Sampling::default() };
            let request = Request {
                sampling,
                format: Some(format.clone()),
                max_tokens: Some(400),
                n: 2,
                ..completion("x")
            };
            let answer = babble(request.clone());
            for (text, reason) in answer.texts.iter().zip(&answer.finished) {
                assert!(*reason == FinishReason::Length || holds(text), "{format:?}: {text:?}");
            }
            let again = babble(request);
            assert_eq!((&answer.texts, &answer.finished), (&again.texts, &again.finished), "{format:?}");
        }
    };
    check(Format::JsonSchema(schema()), &|text| serde_json::from_str::<Value>(text).is_ok());
    check(Format::Choice(vec!["yes".into(), "no".into()]), &|text| ["yes", "no"].contains(&text));
    check(Format::Regex("[a-c]{2,4}!".into()), &|text| {
        let body = text.strip_suffix('!').unwrap_or_default();
        (2..=4).contains(&body.len()) && body.bytes().all(|b| (b'a'..=b'c').contains(&b))
    });
    check(Format::Gbnf("root ::= \"<\" [0-9]+ \">\"".into()), &|text| {
        let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or_default();
        !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit())
    });
}

#[test]
fn a_format_and_tools_are_either_or() {
    let request = Request { format: Some(Format::JsonSchema(schema())), ..chat(with_tool) };
    let answer = say(&format!("</think>{CALL}"), request.clone());
    assert_eq!((answer.calls.len(), answer.text()), (1, ""));
    let answer = say("</think>{\"a\":", request);
    assert!(answer.calls.is_empty() && serde_json::from_str::<Value>(answer.text()).is_ok(), "{answer:?}");
}

#[test]
fn a_choice_beside_tools_is_taken_literally() {
    let texts = ["<a>", "b|c", "(d)"];
    for said in texts {
        let format = Format::Choice(texts.map(String::from).to_vec());
        let answer = say(&format!("</think>{said}"), Request { format: Some(format), ..chat(with_tool) });
        assert_eq!((answer.text(), answer.calls.len()), (said, 0));
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let check = |request: Request, expected: &str| {
        let message = refused(request);
        assert!(message.contains(expected), "{message}");
    };
    let format = |format| Request { format: Some(format), ..completion("x") };
    check(format(Format::JsonSchema(json!({ "type": "nothing" }))), "format: ");
    check(format(Format::Regex("(".into())), "format: ");
    check(Request { ignore_eos: true, ..format(Format::JsonObject) }, "ignore_eos: ");
    check(chat(|input| input.tool_choice = ToolChoice::Required), "tool_choice: ");
    let named = |input: &mut ChatInput| {
        with_tool(input);
        input.tool_choice = ToolChoice::Named("g".into());
    };
    check(chat(named), "there is no tool `g`; there are: f");
    let effort = ReasoningWish { effort: Some("high".into()), ..ReasoningWish::default() };
    check(chat(|input| input.reasoning = effort), "reasoning_effort: ");
}

#[test]
fn thinking_is_switched_by_the_template() {
    let with = |enabled| {
        let request = chat(|input| input.reasoning.enabled = Some(enabled));
        ask(&engine(large_executor()), request).expect("it is answered").started.expect("it started").0
    };
    assert_eq!(with(false) - with(true), "</think>".len() as u64);
}

#[test]
fn thoughts_end_with_their_budget() {
    let request = chat(|input| input.reasoning.budget_tokens = Some(5));
    let answer = say("because it is so", request);
    // The model is where its script is, after its thoughts were closed.
    assert_eq!((&*answer.reasoning, answer.text()), ("becau", "so"));
}
