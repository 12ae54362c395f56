//! What models write.

use ingle_chat::output::{Output, OutputContext, OutputFormat, Phase, Piece};
use serde_json::{Value, json};

use crate::source::Source;

/// Excerpts of templates, one for each way to spell calls and thoughts, and an answer of each.
pub(crate) const FORMATS: &[(&str, &str)] = &[
    ("", "{\"name\": \"add\", \"arguments\": {\"a\": 1}}"),
    (
        "tool_calls",
        "{\"type\": \"function\", \"function\": {\"name\": \"add\", \"parameters\": {\"a\": [1, \"}\"]}}}",
    ),
    (
        "<tool_call> <think>",
        "<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"\\\"}\"}}\n</tool_call>\n<tool_call>[{\"arguments\": {}, \"id\": \"7\", \"name\": \"add\"}]</tool_call>",
    ),
    (
        "<tool_call> <function= <parameter= </think>",
        "hm\n</think>\n\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\né\n\n</parameter>\n</function>\n</tool_call>\n<function=add>\n</function>",
    ),
    (
        "<tool_call> <arg_key> <think>",
        "<think>hm</think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n</tool_call>\n<tool_call>add<arg_key>c</arg_key><arg_value>[1]</arg_value></tool_call>",
    ),
    (
        "<|start_header_id|> <|python_tag|> tool_calls",
        "{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"add\", \"parameters\": {}}<|python_tag|>web.call(q=\"a\")<|python_tag|>print(1)",
    ),
    (
        "<|header_start|> tools",
        "[add(a=1, b='x'), add()]<|python_end|>{\"name\": \"add\", \"parameters\": {}}",
    ),
    (
        "[TOOL_CALLS]",
        "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"add\", \"arguments\": {}}]",
    ),
    (
        "[TOOL_CALLS] [ARGS] [THINK]",
        "[THINK]hm[/THINK]a[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]add[CALL_ID]abc[ARGS]{}",
    ),
    (
        "tool▁calls▁begin ```json <think>",
        "hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "｜DSML｜ tool_calls> </think>",
        "hm</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"true\">x</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
    ),
    (
        "<|channel|> <|message|> analysis",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>",
    ),
    (
        "<|tool_call_argument_begin|>",
        "<think>hm</think><|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        "minimax:tool_call <think>",
        "hm\n</think>\n\n<minimax:tool_call>\n<invoke name=\"add\">\n<parameter name=\"a\">1</parameter>\n</invoke>\n<invoke name=\"add\">\n</invoke>\n</minimax:tool_call>",
    ),
    (
        "<|tool_call_start|> <think>",
        "<think>hm</think>a<|tool_call_start|>[add(a=1, b=\"x\\u00e9\\n\", c={\"k\": [True, None], 'l': (1.5,)}), add()]<|tool_call_end|>",
    ),
    ("<function_calls>", "<function_calls>\nadd(a='''x''')\nadd(b=\"\"\"y\"\"\")\n</function_calls>"),
    (
        "<|tool_call>call: <|channel>thought",
        "<|channel>thought\nhm\n<channel|>a<|tool_call>call:add{a:1,b:<|\"|>x<|\"|>,c:{k:[true,null],<|\"|>l<|\"|>:\"m\"}}<tool_call|>",
    ),
    (
        "<seed:tool_call>",
        "<seed:think>hm</seed:think><seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
    ),
    (
        "<|START_ACTION|> <|START_THINKING|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"add\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|><|START_RESPONSE|>a<|END_RESPONSE|>",
    ),
    (
        "Action: <|START_OF_TURN_TOKEN|> tool_name",
        "Action:\n```json\n[{\"tool_name\": \"add\", \"parameters\": {\"a\": 1}}]\n```",
    ),
    (
        "<function= </function> <|python_tag|>",
        "a<function=add>{\"a\": 1}</function><function=add></function><|python_tag|>x",
    ),
    (">>>all", "all\nHi.\n>>>add\n{\"a\": 1}\n>>>add\nx = 1\n>>>all\nBye"),
    (
        "functools[",
        " functools[{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"add\", \"arguments\": null}]",
    ),
    ("<TOOLCALL>", "<TOOLCALL>[{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}]</TOOLCALL>"),
    (
        "<|tools_prefix|> <|inner_prefix|>",
        "<|inner_prefix|>hm<|inner_suffix|><|tools_prefix|>[{\"add\": {\"a\": 1}}, {\"add\": {}, \"x\": null}]<|tools_suffix|>",
    ),
    (
        "<tool_calls> <thinking>",
        "<thinking>\nhm\n</thinking>\n<tool_calls>[{\"name\": \"add\", \"arguments\": {}, \"id\": 5}]</tool_calls>",
    ),
    (
        "function call<|role_sep|>",
        "a<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}",
    ),
    (
        "<|tool_call|> <|start_of_role|> <think>",
        "<think>hm</think><response>a</response><|tool_call|>[{\"name\": \"add\", \"arguments\": {}}]",
    ),
];

/// What answers are made of, besides any text.
const WORDS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "\n",
    " ",
    "{\"name\": \"add\", \"arguments\": {\"a\": 1}}",
    "{\"name\": \"",
    "\", \"arguments\": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u00e9",
    ",",
    "(",
    ")",
    "=",
    ":",
    "add",
    "a",
    "1",
    "é",
    "<think>",
    "</think>",
    "<function=",
    "<parameter=",
    ">",
    "</parameter>",
    "</function>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "```json",
    "```",
    "\n\n<｜DSML｜tool_calls>",
    "<｜DSML｜invoke name=\"",
    "<｜DSML｜parameter name=\"",
    "\" string=\"false",
    "\">",
    "</｜DSML｜parameter>",
    "</｜DSML｜invoke>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "analysis",
    " to=functions.add",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "functions.add:0",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<minimax:tool_call>",
    "<invoke name=\"",
    "<parameter name=\"",
    "</invoke>",
    "<|tool_call_start|>",
    "<function_calls>",
    "add(a=",
    "'",
    "\"\"\"",
    "<|tool_call>call:",
    "<|\"|>",
    "<tool_call|>",
    "<|channel>thought",
    "<channel|>",
    "<seed:tool_call>",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    "Action:\n```json\n",
    "<|python_tag|>",
    ">>>",
    "all\n",
    "functools",
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<|tools_prefix|>",
    "<|tools_suffix|>",
    "<tool_calls>",
    "</tool_calls>",
    "<|message_sep|>\n\nfunction call<|role_sep|>\n",
    "<|tool_call|>",
    "<response>",
    "</response>",
    "null",
    "True",
];

/// Outputs joined: text by text, call by call.
fn joined(outputs: Vec<Output>) -> Vec<Output> {
    let mut whole: Vec<Output> = Vec::new();
    for output in outputs {
        match (whole.last_mut(), output) {
            (Some(Output::Content(last)), Output::Content(text))
            | (Some(Output::Reasoning(last)), Output::Reasoning(text)) => last.push_str(&text),
            (
                Some(Output::ToolArguments { index: a, json: last }),
                Output::ToolArguments { index: b, json },
            ) if *a == b => last.push_str(&json),
            (_, output) => whole.push(output),
        }
    }
    whole
}

/// Any text in any format, cut anywhere: always the same outputs; calls are numbered in order, and their arguments
/// follow them.
pub fn model_output(data: &[u8]) {
    let mut source = Source::new(data);
    let (template, answer) = source.pick(FORMATS);
    let format = OutputFormat::detect(template);
    let tools: Vec<Value> = if source.flag() {
        Vec::new()
    } else {
        let properties = json!({"a": {"type": ["integer", "string"]}, "b": {"type": "string"}, "c": {}});
        vec![json!({"function": {"name": "add", "parameters": {"properties": properties}}})]
    };
    let prompt_end = source.pick(&["", "<think>\n", "<think>", "<|start|>assistant", ">>>", "<seed:think>x"]);
    let context = OutputContext { tools: &tools, prompt_end, reasoning_in_text: source.flag() };
    let mut pieces: Vec<(String, bool)> = Vec::new();
    while !source.is_empty() {
        match source.byte() {
            0..=119 => {
                // A part of the answer; mostly to its end.
                let at = |byte: u8| answer.floor_char_boundary(answer.len() * usize::from(byte) / 256);
                let (from, to) = (at(source.byte() & 0x3F), at(source.byte() | 0x80));
                pieces.push((answer[from..to].to_owned(), false));
            }
            120..=199 => pieces.push((source.pick(WORDS).to_owned(), false)),
            200..=219 => pieces.push((source.pick(WORDS).to_owned(), true)),
            _ => pieces.push((source.text(), false)),
        }
    }
    let parse = |cut: usize| {
        let mut parser = format.parser(&context);
        let mut out = Vec::new();
        for (text, control) in &pieces {
            if *control {
                parser.push(Piece::Control(text), &mut out);
                continue;
            }
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let at = rest.char_indices().nth(cut).map_or(rest.len(), |(at, _)| at);
                parser.push(Piece::Text(&rest[..at]), &mut out);
                rest = &rest[at..];
            }
        }
        parser.finish(&mut out);
        assert!(matches!(parser.phase(), Phase::Content | Phase::Reasoning | Phase::Tool));
        joined(out)
    };
    let whole = parse(usize::MAX);
    for cut in 1..=3 {
        assert_eq!(parse(cut), whole, "pieces of {cut}");
    }
    let mut calls = 0;
    for output in &whole {
        match output {
            Output::ToolCall { index, .. } => {
                assert_eq!(*index, calls, "calls are numbered in order");
                calls += 1;
            }
            Output::ToolArguments { index, .. } => {
                assert_eq!(index + 1, calls, "arguments follow their call")
            }
            Output::Content(_) | Output::Reasoning(_) => {}
        }
    }
}
