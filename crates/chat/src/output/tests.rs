//! Each family by small excerpts of its template and what its models write.

use serde_json::{Value, json};

use super::*;

/// The tools of every case.
fn tools() -> Vec<Value> {
    let tool = |name: &str, properties: Value, required: &[&str]| {
        let parameters = json!({"type": "object", "properties": properties, "required": required});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    vec![
        tool("time", json!({"city": {"type": "string"}}), &["city"]),
        tool(
            "add",
            json!({"a": {"type": "integer"}, "b": {"type": "number"}, "c": {"type": "object"}}),
            &["a"],
        ),
        tool("now", json!({}), &[]),
        tool("python", json!({"code": {"type": "string"}}), &["code"]),
    ]
}

/// Outputs as one line each, neighbours joined: `say: ..`, `think: ..`, `call NAME#ID: ..`.
fn show(outputs: Vec<Output>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut last = "";
    for output in outputs {
        let (kind, head, text) = match output {
            Output::Content(text) => ("say", "say: ".to_owned(), text),
            Output::Reasoning(text) => ("think", "think: ".to_owned(), text),
            Output::ToolCall { id, name, .. } => {
                last = "";
                (
                    "call",
                    format!("call {name}{}: ", id.map_or(String::new(), |id| format!("#{id}"))),
                    String::new(),
                )
            }
            Output::ToolArguments { json, .. } => ("call", String::new(), json),
        };
        match lines.last_mut() {
            Some(line) if last == kind => line.push_str(&text),
            _ => lines.push(head + &text),
        }
        last = kind;
    }
    lines.join("\n")
}

fn parse<'a>(
    format: &OutputFormat,
    prompt_end: &str,
    in_text: bool,
    pieces: impl Iterator<Item = Piece<'a>>,
) -> String {
    let tools = tools();
    let context = OutputContext { tools: &tools, prompt_end, reasoning_in_text: in_text };
    let mut parser = format.parser(&context);
    let mut out = Vec::new();
    pieces.for_each(|piece| parser.push(piece, &mut out));
    parser.finish(&mut out);
    show(out)
}

/// Parses a text whole, by characters, and cut in two everywhere: always the same.
fn parse_all_ways(format: &OutputFormat, prompt_end: &str, in_text: bool, text: &str) -> String {
    let whole = parse(format, prompt_end, in_text, std::iter::once(Piece::Text(text)));
    let chars = text.char_indices().map(|(at, c)| Piece::Text(&text[at..at + c.len_utf8()]));
    assert_eq!(parse(format, prompt_end, in_text, chars), whole, "{text:?} by characters");
    for (at, _) in text.char_indices() {
        let two = [Piece::Text(&text[..at]), Piece::Text(&text[at..])];
        assert_eq!(parse(format, prompt_end, in_text, two.into_iter()), whole, "{text:?} cut at {at}");
    }
    whole
}

fn check(template: &str, prompt_end: &str, text: &str, expected: &str) {
    let format = OutputFormat::detect(template);
    assert_eq!(parse_all_ways(&format, prompt_end, false, text), expected, "{:?}: {text:?}", format.family);
}

const HERMES: &str = "<tool_call>\n{\"name\": ..}\n</tool_call>";
const QWEN: &str = "<think> <tool_call>\n<function=f>\n<parameter=p>";
const GLM: &str = "<tool_call> <arg_key> <think>";
const LLAMA: &str = "<|start_header_id|> <|python_tag|> tool_calls";
const MISTRAL: &str = "[TOOL_CALLS] [ARGS] [THINK]";
const DEEPSEEK: &str = "<think> <｜tool▁calls▁begin｜>";
const DSML: &str = "'｜DSML｜' tool_calls> </think>";
const KIMI: &str = "<|tool_call_argument_begin|>";
const MINIMAX: &str = "<minimax:tool_call> </think>";
const LFM: &str = "<|tool_call_start|>";
const GEMMA: &str = "<|tool_call>call: <|channel>thought\\n";
const HARMONY: &str = "<|start|>assistant<|channel|>analysis<|message|>";

#[test]
fn json_between_marks() {
    let check = |text: &str, expected: &str| check(HERMES, "", text, expected);
    let call = "<tool_call>\n{\"name\": \"time\", \"arguments\": {\"city\": \"Zürich\"}}\n</tool_call>";
    check(call, "call time: {\"city\": \"Zürich\"}");
    check(
        &format!("One.\n{call}\n{call}\n"),
        "say: One.\n\ncall time: {\"city\": \"Zürich\"}\ncall time: {\"city\": \"Zürich\"}",
    );
    check(&format!("{call}\nDone."), "call time: {\"city\": \"Zürich\"}\nsay: \nDone.");
    // Marks inside of strings are text, brackets too.
    check(
        r#"<tool_call>{"name": "time", "arguments": {"city": "</tool_call> } \" ]"}}</tool_call>"#,
        r#"call time: {"city": "</tool_call> } \" ]"}"#,
    );
    // Arguments in front, as text, missing, null; a name nobody knows; several objects, in a list.
    check(r#"<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>"#, r#"call add: {"a": 1}"#);
    check(r#"<tool_call>{"name": "add", "arguments": "{\"a\": 1}"}</tool_call>"#, r#"call add: {"a": 1}"#);
    check(r#"<tool_call>{"name": "now"}</tool_call>"#, "call now: {}");
    check(r#"<tool_call>{"name": "now", "arguments": null}</tool_call>"#, "call now: {}");
    check(r#"<tool_call>{"name": "nobody", "arguments": {}}</tool_call>"#, "call nobody: {}");
    check(
        r#"<tool_call>[{"name": "now", "arguments": {}}, {"id": "7", "name": "add", "arguments": {"a": [1, {}]}}]</tool_call>"#,
        "call now: {}\ncall add#7: {\"a\": [1, {}]}",
    );
    check(
        r#"<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>"#,
        "call now: {}",
    );
    // What is no call is text.
    check("a <tool_call> b", "say: a <tool_call> b");
    check("a <tool_cal", "say: a <tool_cal");
    check("<tool_call>{\"nom\": 1}</tool_call>", "say: <tool_call>{\"nom\": 1}</tool_call>");
    check("<tool_call>\n{\"name\": \"ti", "say: <tool_call>\n{\"name\": \"ti");
    check("<tool_call>{\"name\": 5}", "say: <tool_call>{\"name\": 5}");
    check(
        "<tool_call>{\"name\": \"now\", \"arguments\": 7}",
        "say: <tool_call>{\"name\": \"now\", \"arguments\": 7}",
    );
    // A cut answer keeps what is there.
    check(r#"<tool_call>{"name": "time", "arguments": {"city": "Z\u00f"#, r#"call time: {"city": "Z\u00f"#);
    check(" \n ", "say:  \n ");
    check("  indented", "say:   indented");
}

#[test]
fn tags_around_values() {
    let check = |text: &str, expected: &str| check(QWEN, "", text, expected);
    check(
        "<tool_call>\n<function=time>\n<parameter=city>\nNew\n\"York\"\n\n</parameter>\n</function>\n</tool_call>",
        r#"call time: {"city": "New\n\"York\"\n"}"#,
    );
    check(
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\nmany\n</parameter>\n\
         <parameter=c>\n{\"x\": [1]}\n</parameter>\n<parameter=d>\ntrue\n</parameter>\n</function>\n</tool_call>",
        r#"call add: {"a": 1, "b": "many", "c": {"x": [1]}, "d": true}"#,
    );
    check("<function=now>\n</function>\n</tool_call>\nBye", "call now: {}\nsay: \nBye");
    check("say <function=foo> and <function=now", "say: say <function=foo> and <function=now");
    check("<tool_call>\n<function=nobody>\n</function>\n</tool_call>", "call nobody: {}");
    check(r#"<tool_call>{"name": "now", "arguments": {}}</tool_call>"#, "call now: {}");
    // Tags that break off: closed, and the rest is said.
    check("<tool_call>\n<function=now>\nwhat\n</function>", "call now: {}\nsay: what\n</function>");
    check("<tool_call>\n<function=time>\n<parameter=city>\nZür</para", "call time: {\"city\": \"Zür</para");
    check("<tool_call>\n<function=add>\n<parameter=a>\n12", "call add: {\"a\": 12");
}

#[test]
fn tags_with_names_first() {
    let check = |text: &str, expected: &str| check(GLM, "", text, expected);
    check(
        "<think>hm\n</think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        "think: hm\n\ncall add: {\"a\": 1}",
    );
    check(
        "<tool_call>time<arg_key>city</arg_key><arg_value> a\n</arg_value></tool_call><tool_call>now</tool_call>",
        "call time: {\"city\": \" a\\n\"}\ncall now: {}",
    );
    check("a <tool_call> is a mark", "say: a <tool_call> is a mark");
}

#[test]
fn json_without_marks() {
    let check = |text: &str, expected: &str| check(LLAMA, "", text, expected);
    check(r#"{"name": "add", "parameters": {"a": 1}}"#, r#"call add: {"a": 1}"#);
    check(r#" {"type": "function", "name": "add", "parameters": {"a": 1}} "#, r#"call add: {"a": 1}"#);
    check(
        r#"{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}"#,
        "call now: {}\ncall now: {}",
    );
    check(r#"{"answer": 42}"#, r#"say: {"answer": 42}"#);
    check(r#"{"name": "Bob", "parameters": {}}"#, r#"say: {"name": "Bob", "parameters": {}}"#);
    check(r#"See: {"name": "now", "parameters": {}}"#, r#"say: See: {"name": "now", "parameters": {}}"#);
    check("[1, 2]", "say: [1, 2]");
    check(r#"<|python_tag|>{"name": "now", "parameters": {}}"#, "call now: {}");
    check(r#"<|python_tag|>web.call(query="a, b")"#, r#"call web: {"query": "a, b"}"#);
    check("<|python_tag|>print(\"hi\")\n", r#"call python: {"code": "print(\"hi\")\n"}"#);
}

#[test]
fn names_in_front_of_json() {
    check(
        MISTRAL,
        "",
        r#"[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[ARGS]{}"#,
        "call add: {\"a\": 1}\ncall now: {}",
    );
    check(
        MISTRAL,
        "",
        r#"[THINK]a [TOOL_CALLS] b[/THINK]Well.[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1}"#,
        "think: a [TOOL_CALLS] b\nsay: Well.\ncall add#abcdefghi: {\"a\": 1}",
    );
    check(
        MISTRAL,
        "",
        r#"[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]"#,
        "call add#abcdefghi: {\"a\": 1}",
    );
    check(
        DEEPSEEK,
        "<think>",
        "hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
         <｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "think: hm\ncall add: {\"a\": 1}\ncall now: {}",
    );
    check(
        DEEPSEEK,
        "",
        "<｜tool▁calls▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>ok",
        "call add: {\"a\": 1}\nsay: ok",
    );
    check(
        KIMI,
        "",
        "<think>a<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|>",
        "think: a\ncall add#functions.add:0: {\"a\": 1}",
    );
    check(
        "<function=x>{}</function>",
        "",
        "a <function=add>{\"a\": 1}</function> b",
        "say: a \ncall add: {\"a\": 1}\nsay:  b",
    );
    check(">>>all", ">>>", "all\nHi. >>> 1\n>>>add\n{\"a\": 1}", "say: Hi. >>> 1\n\ncall add: {\"a\": 1}");
    check(">>>all", ">>>", "python\nprint(1)", "call python: {\"code\": \"print(1)\"}");
}

#[test]
fn nothing_is_a_call_without_tools() {
    let parse = |template, prompt_end, text| {
        let context = OutputContext { tools: &[], prompt_end, reasoning_in_text: false };
        let mut parser = OutputFormat::detect(template).parser(&context);
        let mut out = Vec::new();
        parser.push(Piece::Text(text), &mut out);
        parser.finish(&mut out);
        show(out)
    };
    let call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    assert_eq!(parse(HERMES, "", call), format!("say: {call}"));
    assert_eq!(
        parse(LLAMA, "", "{\"name\": \"now\", \"parameters\": {}}"),
        "say: {\"name\": \"now\", \"parameters\": {}}"
    );
    assert_eq!(parse(">>>all", ">>>", "all\nHi."), "say: Hi.");
    assert_eq!(parse(">>>all", ">>>", "now\n{}"), "say: now\n{}");
}

#[test]
fn lists_of_json() {
    let list = r#"[{"name": "add", "arguments": {"a": 1}}, {"name": "now", "arguments": {}}]"#;
    let expected = "call add: {\"a\": 1}\ncall now: {}";
    check("<TOOLCALL>", "", &format!("<TOOLCALL>{list}</TOOLCALL>"), expected);
    check("functools[", "", &format!(" functools{list}"), expected);
    check("functools[", "", "use functools.cache", "say: use functools.cache");
    check(
        "<tool_calls> <thinking>",
        "<thinking>\n",
        &format!("a\n</thinking>\n<tool_calls>{list}</tool_calls>"),
        &format!("think: a\n{expected}"),
    );
    check(
        "<|tool_call|> <|start_of_role|> <think>",
        "",
        &format!("<think>a</think><response>b</response><|tool_call|>{list}"),
        &format!("think: a\nsay: b\n{expected}"),
    );
    check(
        "<|tools_prefix|>",
        "",
        r#"<|tools_prefix|>[{"add": {"a": 1}}, {"now": {}}]<|tools_suffix|>"#,
        expected,
    );
    check(
        "<|START_ACTION|> <|START_THINKING|>",
        "",
        "<|START_THINKING|>a<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"add\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|>",
        "think: a\ncall add#0: {\"a\": 1}",
    );
    check(
        "Action: <|START_OF_TURN_TOKEN|> tool_name",
        "",
        "Action:\n```json\n[\n  {\"tool_name\": \"add\", \"parameters\": {\"a\": 1}}\n]\n```",
        "call add: {\"a\": 1}",
    );
    check(
        "function call<|role_sep|>",
        "",
        "Sure.<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}",
        "say: Sure.\ncall add: {\"a\": 1}",
    );
    check(
        "<tool_calls> <beginning_of_sentence>",
        "",
        "<tool_calls>\n{\"name\": \"now\", \"arguments\": {}}\n{\"name\": \"now\", \"arguments\": {}}\n</tool_calls>",
        "call now: {}\ncall now: {}",
    );
}

#[test]
fn languages_of_calls() {
    check(
        LFM,
        "",
        r#"<|tool_call_start|>[add(a=1, b=-2.5, c={"x": True, 'y': (None, [])}), now()]<|tool_call_end|>ok"#,
        "call add: {\"a\": 1, \"b\": -2.5, \"c\": {\"x\": true, \"y\": [null, []]}}\ncall now: {}\nsay: ok",
    );
    check(
        LFM,
        "",
        r#"<|tool_call_start|>[time(city='it\'s "\u00e9\x41\ud83d\ude00\n\q" """')]<|tool_call_end|>"#,
        r#"call time: {"city": "it's \"éA😀\n\\q\" \"\"\""}"#,
    );
    check(LFM, "", "<|tool_call_start|>[time(city=\"\"\"a\n\"b\"\"\")]", r#"call time: {"city": "a\n\"b"}"#);
    check(LFM, "", "<|tool_call_start|>[time(city=Paris)]", r#"call time: {"city": "Paris"}"#);
    check(LFM, "", "<|tool_call_start|>[time(city=", r#"call time: {"city": "#);
    check(LFM, "", "<|tool_call_start|>[time(1)]", "say: <|tool_call_start|>[time(1)]");
    check(
        LFM,
        "",
        "<|tool_call_start|>[{\"name\": \"now\", \"arguments\": {}}]<|tool_call_end|>",
        "call now: {}",
    );
    check(LFM, "", "<|tool_call_start|>[add(a=[1, 2)]", "call add: {\"a\": [1, 2, null]}\nsay: )]");
    check(
        GEMMA,
        "",
        "<|channel>thought\nhm\n<channel|>Yes.<|tool_call>call:add{a:1,b:true,c:{x:<|\"|>a\"b<|\"|>,y:[1,null]}}<tool_call|>",
        "think: hm\nsay: Yes.\ncall add: {\"a\": 1, \"b\": true, \"c\": {\"x\": \"a\\\"b\", \"y\": [1, null]}}",
    );
    check(GEMMA, "", "<|tool_call>call:now{}<tool_call|><|tool_response>", "call now: {}");
    check(
        "<|header_start|> tools",
        "",
        "[time(city=\"a\"), now()]",
        "call time: {\"city\": \"a\"}\ncall now: {}",
    );
    check("<|header_start|> tools", "", "[link](url)", "say: [link](url)");
}

#[test]
fn tags_that_say_their_type() {
    check(
        DSML,
        "<think>",
        "hm</think>Well.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n\
         <｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n\
         <｜DSML｜parameter name=\"b\" string=\"true\">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"now\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "think: hm\nsay: Well.\ncall add: {\"a\": 1, \"b\": \"1\"}\ncall now: {}",
    );
    check(
        MINIMAX,
        "<think>\n",
        "hm\n</think>\n\n<minimax:tool_call>\n<invoke name=\"time\">\n<parameter name=\"city\">\nA</parameter>\n</invoke>\n</minimax:tool_call>",
        "think: hm\ncall time: {\"city\": \"\\nA\"}",
    );
    check(
        "<seed:tool_call>",
        "",
        "<seed:think>hm</seed:think><seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
        "think: hm\ncall add: {\"a\": 1}",
    );
}

#[test]
fn messages_with_channels() {
    let check = |text: &str, expected: &str| check(HARMONY, "<|start|>assistant", text, expected);
    check(
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>.<|return|>",
        "think: hm\nsay: Hi <b>.",
    );
    check(
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "say: Wait.\ncall add: {\"a\": 1}",
    );
    check(" to=functions.now<|channel|>commentary<|message|><|call|>", "call now: {}");
    check(" to=functions.now<|channel|>commentary<|message|>no json", "say: no json");
    check("<|channel|>commentary to=browser.open<|message|>x", "");
    check("total: 5", "say: total: 5");
    check("to", "say: to");
}

#[test]
fn thoughts() {
    let hermes = format!("{HERMES}<think>");
    check(&hermes, "", "<think>\na b\n\n</think>\n\nc", "think: a b\nsay: c");
    check(&hermes, "<think>\n", "a\n</think>\nc <think> d </think>", "think: a\nsay: c <think> d </think>");
    check(&hermes, "<think>\n", "</think>c", "say: c");
    check(&hermes, "<think>\n", "<think>\na</think>", "think: a");
    check(&hermes, "<think>\na", " b", "think:  b");
    check(&hermes, "<think>\n\n</think>\n\n", "c", "say: c");
    check(&hermes, "what is <think>?<|im_end|>\n<|im_start|>assistant\n", "c", "say: c");
    check(&hermes, "<think>", "a </thin", "think: a </thin");
    // A call inside of thoughts is one only if its tool is known.
    check(
        &hermes,
        "<think>",
        "a <tool_call>{\"name\": \"x\", \"arguments\": {}}</think>b",
        "think: a <tool_call>{\"name\": \"x\", \"arguments\": {}}\nsay: b",
    );
    check(
        &hermes,
        "<think>\n",
        "a\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
        "think: a\ncall now: {}",
    );
    // Thoughts in the text keep their marks.
    let format = OutputFormat::detect(&hermes);
    let in_text = |prompt, text| parse_all_ways(&format, prompt, true, text);
    assert_eq!(in_text("<think>\n", "a\n</think>\n\nb"), "say: <think>\na\n</think>\n\nb");
    assert_eq!(in_text("", "<think>\na\n</think>\n\nb"), "say: <think>\na\n</think>\n\nb");
    assert_eq!(in_text("<think>\na", " b</think>"), "say:  b</think>");
}

#[test]
fn control_tokens_are_marks_or_nothing() {
    let format = OutputFormat::detect(GEMMA);
    let pieces = [
        Piece::Control("<|channel>"),
        Piece::Text("thought\n"),
        Piece::Text("hm"),
        Piece::Control("<channel|>"),
        Piece::Text("a"),
        Piece::Control("<turn|>"),
        Piece::Control("<unknown>"),
        Piece::Text("b"),
        Piece::Control("<|tool_call>"),
        Piece::Text("call:time{city:"),
        Piece::Control("<|\"|>"),
        Piece::Text("x"),
        Piece::Control("<|\"|>"),
        Piece::Text("}"),
        Piece::Control("<tool_call|>"),
    ];
    let expected = "think: hm\nsay: ab\ncall time: {\"city\": \"x\"}";
    assert_eq!(parse(&format, "", false, pieces.into_iter()), expected);
    // Arguments that a mark breaks off end there.
    let format = OutputFormat::detect(KIMI);
    let pieces = [
        Piece::Text("<|tool_call_begin|>functions.now:0"),
        Piece::Control("<|tool_call_argument_begin|>"),
        Piece::Text("{\"a\": "),
        Piece::Control("<|tool_call_end|>"),
        Piece::Text("b"),
    ];
    assert_eq!(parse(&format, "", false, pieces.into_iter()), "call now#functions.now:0: {\"a\": \nsay: b");
}

#[test]
fn what_is_certain_goes_out_at_once() {
    let tools = tools();
    let context = OutputContext { tools: &tools, prompt_end: "", reasoning_in_text: false };
    let steps = |template: &str, pieces: &[(&str, &str)]| {
        let mut parser = OutputFormat::detect(template).parser(&context);
        for (piece, expected) in pieces {
            let mut out = Vec::new();
            parser.push(Piece::Text(piece), &mut out);
            assert_eq!(show(out), *expected, "{piece:?}");
        }
        parser.phase()
    };
    let phase = steps(
        HERMES,
        &[
            ("Hello", "say: Hello"),
            (" a < b", "say:  a < b"),
            (" <", "say:  "),
            ("b>", "say: <b>"),
            ("<tool_", ""),
            ("call>", ""),
            ("{\"name\": \"time\", ", ""),
            ("\"arguments\": ", ""),
            ("{\"ci", "call time: {\"ci"),
            ("ty\": \"", "ty\": \""),
        ],
    );
    assert_eq!(phase, Phase::Tool);
    steps(
        QWEN,
        &[
            ("<tool_call>\n<function=time>", "call time: "),
            ("\n<parameter=city>\n", "{\"city\": \""),
            ("New", "New"),
            (" York\n", " York"),
            ("x", "\\nx"),
            ("\n</parameter>", "\""),
            ("\n</function>", "}"),
        ],
    );
    assert_eq!(steps(MISTRAL, &[("[THINK]a", "think: a"), (" b", "think:  b")]), Phase::Reasoning);
    assert_eq!(steps(HARMONY, &[("<|channel|>final<|message|>", ""), ("a", "say: a")]), Phase::Content);
}

/// Long answers in small pieces take time in proportion to their length: the parser keeps little, and looks at each
/// byte a bounded number of times. Quadratic work would take minutes here.
#[test]
fn long_answers_are_linear() {
    const BYTES: usize = 1 << 20;
    let long = "x".repeat(BYTES);
    let open = "[".repeat(BYTES);
    let spaces = " ".repeat(BYTES);
    let marks = "<tool_call>".repeat(BYTES / 16);
    let nested = "<tool_call>{\"a\":\"".repeat(BYTES / 16);
    for (template, before, text, after) in [
        (HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": {\"city\": \"", &long, "\"}}</tool_call>"),
        (HERMES, "<tool_call>{\"arguments\": {\"city\": \"", &long, "\"}, \"name\": \"time\"}</tool_call>"),
        (HERMES, "<tool_call>{\"name\": \"time\", \"arguments\": ", &open, ""),
        (HERMES, "<tool_call>", &spaces, ""),
        (HERMES, "", &spaces, "x"),
        (HERMES, "", &marks, ""),
        (HERMES, "", &nested, ""),
        (QWEN, "<tool_call>\n<function=time>\n<parameter=city>\n", &long, "\n</parameter>"),
        (QWEN, "<tool_call>\n<function=add>\n<parameter=c>\n{\"", &long, "\": 1}\n</parameter>"),
        (QWEN, "<tool_call>\n<function=add>\n<parameter=d>\n", &spaces, "1\n</parameter>"),
        (LFM, "<|tool_call_start|>[time(city=\"", &long, "\")]"),
        (LFM, "<|tool_call_start|>[time(city=", &open, ")]"),
        (LFM, "<|tool_call_start|>[", &spaces, ")]"),
        (GEMMA, "<|tool_call>call:time{city:<|\"|>", &long, "<|\"|>}<tool_call|>"),
        (HARMONY, "<|channel|>commentary to=functions.time<|message|>{\"city\": \"", &long, "\"}"),
        (DEEPSEEK, "<think>", &spaces, "x"),
    ] {
        let format = OutputFormat::detect(template);
        let text = [before, text.as_str(), after].concat();
        let pieces = text.as_bytes().chunks(7).map(|c| Piece::Text(std::str::from_utf8(c).expect("ASCII")));
        let cut = parse(&format, "", false, pieces);
        assert!(cut == parse(&format, "", false, std::iter::once(Piece::Text(&text))), "{before:?}");
    }
}

/// Which family each template of real models shows. The templates lie outside the repository; without them this does
/// nothing.
#[test]
fn templates_show_their_family() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/templates");
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut lines = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "jinja") {
            let source = std::fs::read_to_string(&path).expect("a readable template");
            let format = OutputFormat::detect(&source);
            let thoughts = format.thoughts.map_or("-", |t| t.open);
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            lines.push(format!("{name}: {:?} {thoughts}", format.family));
        }
    }
    lines.sort();
    assert_eq!(lines, TEMPLATES, "{lines:#?}");
}

const TEMPLATES: &[&str] = &[
    "Apertus-8B-Instruct: Apertus <|inner_prefix|>",
    "CohereForAI-c4ai-command-r-plus-tool_use: CommandRPlus -",
    "GLM-4.6: Glm <think>",
    "HuggingFaceTB-SmolLM3-3B: Plain <think>",
    "Kimi-K2-Instruct: Kimi <think>",
    "Kimi-K2-Thinking: Kimi <think>",
    "LFM2-8B-A1B: Lfm2 -",
    "LFM2.5-8B-A1B: Lfm2 <think>",
    "LFM2.5-Instruct: Lfm2 <think>",
    "MiMo-VL: Hermes -",
    "MiniMax-M1: MiniMaxM1 -",
    "MiniMax-M2: MiniMaxM2 <think>",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: QwenXml <think>",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use: Hermes -",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use: Hermes -",
    "Qwen-QwQ-32B: Hermes <think>",
    "Qwen-Qwen2.5-7B-Instruct: Hermes -",
    "Qwen-Qwen3-0.6B: Hermes <think>",
    "Qwen3-Coder: QwenXml -",
    "Qwen3.5-4B: QwenXml <think>",
    "StepFun3.5-Flash: QwenXml <think>",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B: DeepSeekR1 <think>",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B: DeepSeekR1 <think>",
    "deepseek-ai-DeepSeek-V3.1: DeepSeekV31 <think>",
    "deepseek-ai-DeepSeek-V4-Flash-0731: DeepSeekV4 <think>",
    "deepseek-ai-DeepSeek-V4: DeepSeekV4 <think>",
    "fireworks-ai-llama-3-firefunction-v2: Firefunction -",
    "google-gemma-2-2b-it: Plain -",
    "google-gemma-4-31B-it: Gemma4 <|channel>thought",
    "ibm-granite-granite-3.3-2B-Instruct: Granite3 <think>",
    "ibm-granite-granite-4.0: Hermes -",
    "inclusionai-ling-3.0-flash: Glm <think>",
    "llama-cpp-deepseek-r1: DeepSeekR1 <think>",
    "llama-cpp-rwkv-world: Plain <think>",
    "meetkai-functionary-medium-v3.1: Functionary31 -",
    "meta-llama-Llama-3.1-8B-Instruct: Llama -",
    "meta-llama-Llama-3.2-3B-Instruct: Llama -",
    "meta-llama-Llama-3.3-70B-Instruct: Llama -",
    "microsoft-Phi-3.5-mini-instruct: Plain -",
    "mistralai-Ministral-3-14B-Reasoning-2512: MistralArgs [THINK]",
    "mistralai-Mistral-Nemo-Instruct-2407: MistralList -",
    "moonshotai-Kimi-K2: Kimi <think>",
    "openai-gpt-oss-120b: Harmony <|channel|>analysis<|message|>",
    "poolside-Laguna-S-2.1: Glm <think>",
    "poolside-Laguna-XS.2: Glm <think>",
    "unsloth-mistral-Devstral-Small-2507: MistralArgs -",
];
