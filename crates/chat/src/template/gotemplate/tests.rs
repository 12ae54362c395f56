use super::*;
use crate::{Message, Role};

fn options() -> TemplateOptions {
    TemplateOptions::default()
}

const NOW: CivilTime = CivilTime { year: 2024, month: 3, day: 1, hour: 1, minute: 2, second: 3 };

fn check(source: &str, vars: &Json, expected: Result<&str, &str>) {
    let Json::Object(vars) = vars else { panic!("variables are an object") };
    let rendered = GoTemplate::new(source).and_then(|t| t.render_vars(vars, &options(), NOW));
    match (rendered, expected) {
        (Ok((text, _)), Ok(expected)) => assert_eq!(text, expected, "{source}"),
        (Err(error), Err(expected)) => {
            assert!(error.to_string().contains(expected), "{source}: {error} without {expected}");
        }
        (rendered, expected) => panic!("{source}: {rendered:?}, not {expected:?}"),
    }
}

#[test]
fn faults_are_named_with_their_line() {
    let vars = serde_json::json!({"s": "x", "l": [1], "m": {}});
    for (source, expected) in [
        ("a\n{{ if }}x{{ end }}", "line 2: missing value for if"),
        ("{{ foo }}", "function \"foo\" not defined"),
        ("{{ $x }}", "undefined variable \"$x\""),
        ("{{ .A", "unclosed action"),
        ("{{ if .A }}", "ends inside"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ break }}", "outside {{range}}"),
        ("\n\n{{ .s.x }}", "line 3: can't evaluate field x in type string"),
        ("{{ .none.x }}", "nil pointer evaluating interface {}.x"),
        ("{{ index .l 4 }}", "out of range"),
        ("{{ template \"t\" }}", "not defined"),
        ("{{ define \"t\" }}{{ template \"t\" }}{{ end }}{{ template \"t\" }}", "nesting"),
        ("{{ range 100000000 }}{{ end }}", "work"),
        ("{{ slice \"é\" 1 }}", "half a character"),
        ("{{ printf \"%20000d\" 1 }}", "at most 10000"),
    ] {
        check(source, &vars, Err(expected));
    }
}

#[test]
fn yesterday_is_the_day_before() {
    check("{{ currentDate }} {{ yesterdayDate }}", &serde_json::json!({}), Ok("2024-03-01 2024-02-29"));
}

#[test]
fn addresses_of_memory_are_refused() {
    let template = GoTemplate::new("{{ .Messages }}").expect("a template");
    let input = ChatInput { messages: vec![Message::text(Role::User, "x")], ..ChatInput::default() };
    let error = template.render(&input, &options(), NOW).expect_err("an address");
    assert!(error.to_string().contains("address of memory"), "{error}");
}

#[test]
fn models_whose_templates_show_thoughts_think() {
    use crate::template::{ChatTemplate, Syntax};
    let check = |source: &str, thinks: bool, switch: bool, effort: bool| {
        let template = ChatTemplate::with_syntax(source, Syntax::Go, options()).expect("a template");
        let reads = |name: &str| template.reads(name);
        assert_eq!(template.thinks_unasked(), thinks, "{source}");
        assert_eq!((reads("enable_thinking"), reads("reasoning_effort")), (switch, effort), "{source}");
        assert!(!reads("thinking"), "a message's thoughts are no switch");
    };
    check(
        "{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}{{ if .Think }}{{ end }}",
        true,
        true,
        false,
    );
    check("{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}", false, false, false);
    check("{{ range .Messages }}{{ end }}{{ .ThinkLevel }}{{ if .IsThinkSet }}{{ end }}", false, true, true);
    check("{{ .Prompt }}", false, false, false);
}

#[test]
fn families_of_answers_are_told_from_go_too() {
    use crate::template::{ChatTemplate, Syntax};
    let check = |source: &str, tools: bool, thoughts: bool| {
        let template = ChatTemplate::with_syntax(source, Syntax::Go, options()).expect("a template");
        let format = template.output_format();
        assert_eq!((format.has_tools(), format.has_reasoning()), (tools, thoughts), "{source}");
    };
    check("{{ range .Messages }}{{ .Content }}{{ end }}", false, false);
    check(
        "{{ .Tools }}{{ range .Messages }}{{ range .ToolCalls }}[TOOL_CALLS]{{ end }}{{ end }}",
        true,
        false,
    );
    check("{{ json .Tools }}{{ range .Messages }}{{ range .ToolCalls }}{{ end }}{{ end }}", true, false);
    check("{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}", false, true);
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gotemplate/templates");
    for (name, tools, thoughts) in [
        ("llama3_tools", true, false),
        ("mistral_tools", true, false),
        ("hermes_think", true, true),
        ("channels", true, true),
        ("python_tools", true, false),
        ("chatml", false, false),
    ] {
        let source = std::fs::read_to_string(folder.join(format!("{name}.gotmpl"))).expect("a template");
        check(&source, tools, thoughts);
    }
}

#[test]
fn what_the_caller_says_stays_foreign() {
    let source = "<|a|>{{ range .Messages }}{{ .Role }}{{ slice (printf \"%s|%q\" .Content .Content) 1 }}{{ json . }}{{ end }}";
    let template = GoTemplate::new(source).expect("a template");
    let input = ChatInput { messages: vec![Message::text(Role::User, "abc")], ..ChatInput::default() };
    let (text, foreign) = template.render(&input, &options(), NOW).expect("a text");
    let outside: Vec<&str> = foreign.iter().map(|r| &text[r.0 as usize..r.1 as usize]).collect();
    assert_eq!(outside, ["bc", "abc", "abc"], "{text}");
}

#[test]
fn a_part_of_a_list_is_no_copy() {
    use super::value::ListType;
    let whole = Value::list(ListType::Any, (0..9).map(Value::Int).collect());
    let slice = |value: &Value, from: i64, to: i64| {
        let args = [value.clone(), Value::Int(from), Value::Int(to)];
        funcs::call(funcs::Func::Slice, &args, NOW, &Fuel::new(100)).expect("a part")
    };
    let part = slice(&slice(&whole, 2, 8), 1, 4);
    let (Value::List(whole), Value::List(part)) = (&whole, &part) else { panic!("lists") };
    assert!(std::ptr::eq(part.items(), &whole.items()[3..6]));
}

/// Each loop takes few steps, and each step goes over much: what is gone over is paid, too.
#[test]
fn what_functions_and_methods_go_over_is_paid() {
    let properties: Map<String, Json> =
        (0..1000).map(|i| (format!("p{i}"), serde_json::json!({"type": "string", "anyOf": []}))).collect();
    let choices: Vec<Json> = (0..1000).map(|_| serde_json::json!({"type": "string"})).collect();
    let tool = serde_json::json!({"type": "function", "function": {"name": "f", "parameters": {
        "properties": {"deep": {"properties": properties}, "either": {"anyOf": choices}},
    }}});
    let vars = serde_json::json!({"text": "x".repeat(100_000), "keys": {"k".repeat(100_000): 1}});
    let input = ChatInput {
        messages: vec![Message::text(Role::User, "x")],
        tools: vec![tool],
        template_vars: vars.as_object().expect("an object").clone(),
        ..ChatInput::default()
    };
    let each = "{{ range .Messages }}{{ end }}{{ range 20000 }}";
    let properties = "(index $.Tools 0).Function.Parameters.Properties";
    for body in [
        "slice $.text 1 | len".to_owned(),
        "json $.keys | len".to_owned(),
        "$.Tools.String | len".to_owned(),
        format!("(index {properties} \"deep\").Properties.ToMap | len"),
        format!("(index {properties} \"either\").ToTypeScriptType | len"),
        format!("toTypeScriptType (index {properties} \"either\") | len"),
    ] {
        let source = format!("{each}{{{{ $n := {body} }}}}{{{{ end }}}}");
        let once = source.replace("20000", "1");
        let render = |source: &str| {
            let template = GoTemplate::new(source).expect("a template");
            template.render(&input, &options(), NOW)
        };
        render(&once).expect("it is cheap once");
        let error = render(&source).expect_err(&body);
        assert!(matches!(error, TemplateError::Limit { what: "work", .. }), "{body}: {error}");
    }
}

#[test]
fn the_variables_of_each_exchange_are_paid() {
    let vars: Map<String, Json> = (0..1000).map(|i| (format!("v{i}"), Json::Null)).collect();
    let messages = |n: usize| -> Vec<Message> {
        let both = [Message::text(Role::User, "a"), Message::text(Role::Assistant, "b")];
        both.into_iter().cycle().take(2 * n).collect()
    };
    let template = GoTemplate::new("{{ .Prompt }}{{ .Response }}").expect("a template");
    let render = |n: usize| {
        let input = ChatInput { messages: messages(n), template_vars: vars.clone(), ..ChatInput::default() };
        template.render(&input, &options(), NOW)
    };
    render(10).expect("a few exchanges");
    let error = render(2000).expect_err("many exchanges with many variables each");
    assert!(matches!(error, TemplateError::Limit { what: "work", .. }), "{error}");
}
