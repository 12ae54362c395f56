//! The table.

use serde_json::{Value, json};

use super::neutral::{Call, Case, Choice, Expect, Finish, Format, Kind, Thinking, Tool, Turn, ask};

/// A call as the model writes it.
const ROME: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

fn says(text: &str) -> Expect {
    ends(text, Finish::Stop)
}

fn ends(text: &str, finish: Finish) -> Expect {
    Expect::Says { thoughts: "", text: text.into(), calls: Vec::new(), finish }
}

fn thinks(thoughts: &'static str, text: &str) -> Expect {
    Expect::Says { thoughts, text: text.into(), calls: Vec::new(), finish: Finish::Stop }
}

fn calls(text: &str, calls: Vec<(&'static str, Value)>) -> Expect {
    Expect::Says { thoughts: "", text: text.into(), calls, finish: Finish::Calls }
}

fn refused(case: Case, about: &'static str) -> Case {
    Case { about: Some(about), expect: Expect::Refused(Kind::Invalid), ..case }
}

/// A field with a value that is wrong, and must be named.
fn wrong(name: &'static str, field: &'static str, value: Value) -> Case {
    refused(Case { set: vec![(field, value)], ..ask(name, "⟦Hi.⟧") }, field)
}

/// A body that no longer is what it was.
fn garbled(name: &'static str, garble: fn(&str) -> Vec<u8>) -> Case {
    Case { garble: Some(garble), expect: Expect::Refused(Kind::Invalid), ..ask(name, "⟦Hi.⟧") }
}

fn weather() -> Tool {
    let schema = json!({
        "type": "object", "properties": { "city": { "enum": ["Rome", "Oslo"] } }, "required": ["city"],
        "additionalProperties": false,
    });
    Tool { name: "weather", description: "The weather now.", schema, strict: false }
}

fn clock() -> Tool {
    let schema = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    Tool { name: "clock", description: "The time.", schema, strict: false }
}

fn with_tools(name: &'static str, text: &'static str) -> Case {
    Case { tools: vec![weather(), clock()], ..ask(name, text) }
}

fn rome() -> (&'static str, Value) {
    ("weather", json!({ "city": "Rome" }))
}

fn schema() -> Value {
    json!({
        "type": "object", "properties": { "a": { "enum": ["x", "yy"] }, "b": { "type": "boolean" } },
        "required": ["a", "b"], "additionalProperties": false,
    })
}

fn assistant(text: &'static str) -> Turn {
    Turn::Assistant { thoughts: "", text, calls: Vec::new() }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [answers(), prompts(), sampling(), thoughts(), tools(), formats(), flaws(), bodies()].concat()
}

fn answers() -> Vec<Case> {
    vec![
        Case { expect: says("Hello there."), ..ask("a plain answer", "Hi! ⟦Hello there.⟧") },
        Case { expect: says(""), ..ask("an empty answer", "⟦⟧") },
        Case {
            expect: says("Grüße, 世界 🙂\n\"q\" \\ \t."),
            ..ask("characters of all lengths", "⟦Grüße, 世界 🙂\n\"q\" \\ \t.⟧")
        },
        Case {
            expect: says("data: x\n\nevent: y\n\n: z"),
            ..ask("text that looks like a stream", "⟦data: x\n\nevent: y\n\n: z⟧")
        },
        Case { model: Some("parrot"), expect: says("Hi."), ..ask("a model by its name", "⟦Hi.⟧") },
        Case { model: Some("default"), expect: says("Hi."), ..ask("the default model", "⟦Hi.⟧") },
        Case {
            stop: vec!["END"],
            expect: ends("One ", Finish::StopString("END".into())),
            ..ask("a stop string", "⟦One END two⟧")
        },
        Case {
            stop: vec!["終わり", "り"],
            expect: ends("これで終わ", Finish::StopString("終わり".into())),
            ..ask("stop strings that overlap, of long characters", "⟦これで終わ終わりです⟧")
        },
        Case {
            stop: vec!["three", "two", "one"],
            expect: ends("zero ", Finish::StopString("one".into())),
            ..ask("the first of several stop strings", "⟦zero one two three⟧")
        },
        Case {
            stop: vec!["xyz"],
            expect: says("xy, xy"),
            ..ask("a stop string that only begins", "⟦xy, xy⟧")
        },
        Case {
            max_tokens: Some(5),
            expect: ends("Hello", Finish::Length),
            ..ask("a token limit", "⟦Hello there.⟧")
        },
        Case {
            max_tokens: Some(6),
            expect: ends("Hello\u{fffd}", Finish::Length),
            ..ask("a token limit within a character", "⟦Hello🙂⟧")
        },
        Case {
            max_tokens: Some(6),
            expect: says("Hello"),
            ..ask("a token limit that is just enough", "⟦Hello⟧")
        },
        // Bytes that are no text, and how they are shown.
        Case { expect: says("\u{fffd}"), ..ask("half of a character said", "⟦0xf09f99⟧") },
        Case { expect: says("a\u{fffd}b"), ..ask("half of a character amid others", "⟦0x61e78262⟧") },
        Case { expect: says("\u{fffd}\u{fffd}x"), ..ask("a character too long", "⟦0xc0af78⟧") },
        Case {
            expect: says("\u{fffd}\u{fffd}\u{fffd}x"),
            ..ask("half of a pair of surrogates", "⟦0xeda08078⟧")
        },
        Case {
            expect: says("\u{fffd}\u{fffd}🙂"), ..ask("ends without beginnings", "⟦0x8080f09f9982⟧")
        },
        Case { expect: says("a\0b\u{7f}\u{1b}[0m"), ..ask("control characters", "⟦0x6100627f1b5b306d⟧") },
        Case {
            turns: vec![Turn::User("⟦Once upon a time⟧"), assistant("Once upon")],
            expect: says(" a time"),
            ..ask("an answer that is begun", "")
        },
    ]
}

/// `⟦*⟧` shows the prompt, which has to be the same whoever asks.
fn prompts() -> Vec<Case> {
    let call = |id, city| Call { id, name: "weather", arguments: json!({ "city": city }) };
    let asked = |calls| Turn::Assistant { thoughts: "", text: "Let me see.", calls };
    let result = |id, text| Turn::Result { id, name: "weather", text };
    vec![
        Case { expect: says("[user]⟦*⟧[assistant]"), ..ask("a prompt of one turn", "⟦*⟧") },
        Case {
            system: Some("Be brief."),
            turns: vec![Turn::User("One"), assistant("Two"), Turn::User("⟦*⟧")],
            expect: says("[system]Be brief.[user]One[assistant]Two[user]⟦*⟧[assistant]"),
            ..ask("a prompt of several turns", "")
        },
        Case {
            expect: says("[user](s)(/s)(tool_call)⟦*⟧[assistant]"),
            ..ask("control tokens in a user's text", "<s></s><tool_call>⟦*⟧")
        },
        Case {
            turns: vec![
                Turn::User("Hm?"),
                Turn::Assistant { thoughts: "so it is", text: "Yes.", calls: Vec::new() },
                Turn::User("⟦*⟧"),
            ],
            expect: says("[user]Hm?[assistant](so it is)Yes.[user]⟦*⟧[assistant]"),
            ..ask("thoughts of an earlier turn", "")
        },
        Case {
            turns: vec![Turn::User("Rome? ⟦*⟧"), asked(vec![call("abc", "Rome")]), result("abc", "Sunny.")],
            expect: says(
                "[user]Rome? ⟦*⟧[assistant]Let me see.(tool_call)\n{\"name\": \"weather\", \"arguments\": {\"city\": \
                 \"Rome\"}}\n(/tool_call)(abc)[tool](abc)Sunny.[assistant]",
            ),
            ..ask("a call and its result", "")
        },
        Case {
            turns: vec![
                Turn::User("Both? ⟦*⟧"),
                asked(vec![call("abc", "Rome"), call("def", "Oslo")]),
                result("abc", "Sunny."),
                result("def", "Cold."),
            ],
            ..ask("two calls and their results", "")
        },
        Case { tools: vec![weather(), clock()], ..ask("tools in the prompt", "⟦*⟧") },
        Case {
            tools: vec![Tool { strict: true, ..weather() }], ..ask("a strict tool in the prompt", "⟦*⟧")
        },
        Case { system: Some(""), ..ask("an empty system text", "⟦*⟧") },
        Case {
            expect: says("[user] ⟦*⟧\n [assistant]"), ..ask("white space around a text", " ⟦*⟧\n ")
        },
    ]
}

fn sampling() -> Vec<Case> {
    let babble = |name| Case { temperature: 1.0, max_tokens: Some(24), ..ask(name, "Anything.") };
    vec![
        Case { seed: Some(42), ..babble("a seed") },
        Case { seed: Some(43), ..babble("another seed") },
        Case { seed: Some(-7), ..babble("a seed below zero") },
        Case { seed: Some(42), top_k: Some(3), ..babble("few tokens to choose from") },
        Case { seed: Some(42), top_p: Some(0.1), ..babble("the likeliest tokens") },
        Case { seed: Some(42), top_k: Some(1), ..babble("one token to choose from") },
        Case { temperature: 0.0, ..babble("the best token each time") },
    ]
}

fn thoughts() -> Vec<Case> {
    vec![
        Case {
            thinking: Thinking::On,
            expect: thinks("Hm, so.", "Yes."),
            ..ask("thoughts", "⟦Hm, so.⇒Yes.⟧")
        },
        Case { thinking: Thinking::Off, expect: says("Yes."), ..ask("no thoughts", "⟦Hm, so.⇒Yes.⟧") },
        Case {
            thinking: Thinking::Effort("high"),
            expect: thinks("Hm.", "Yes."),
            ..ask("how hard to think", "⟦Hm.⇒Yes.⟧")
        },
        Case {
            thinking: Thinking::Effort("low"), ..ask("how hard to think, in the prompt", "⟦Hm.⇒*⟧")
        },
        Case {
            thinking: Thinking::Budget(5),
            expect: thinks("becau", "Yes."),
            ..ask("a budget of thoughts", "⟦because it is so⇒Yes.⟧")
        },
        Case {
            thinking: Thinking::On,
            max_tokens: Some(7),
            expect: Expect::Says {
                thoughts: "because",
                text: String::new(),
                calls: vec![],
                finish: Finish::Length,
            },
            ..ask("thoughts that are cut", "⟦because it is so⇒Yes.⟧")
        },
        Case {
            thinking: Thinking::On,
            stop: vec!["END"],
            expect: Expect::Says {
                thoughts: "an END here",
                text: "words ".into(),
                calls: vec![],
                finish: Finish::StopString("END".into()),
            },
            ..ask("a stop string in thoughts is none", "⟦an END here⇒words END more⟧")
        },
    ]
}

fn tools() -> Vec<Case> {
    vec![
        Case {
            expect: calls("", vec![rome()]),
            ..with_tools(
                "a call",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>⟧",
            )
        },
        Case {
            expect: calls("Sure.", vec![rome(), ("clock", json!({}))]),
            ..with_tools(
                "words, then two calls",
                "⟦Sure.<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n\
                 {\"name\": \"clock\", \"arguments\": {}}\n</tool_call>⟧",
            )
        },
        Case {
            one_call: true,
            expect: calls("", vec![rome()]),
            ..with_tools(
                "one call at most",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n\
                 {\"name\": \"clock\", \"arguments\": {}}\n</tool_call>⟧",
            )
        },
        Case { expect: says("No need."), ..with_tools("tools, and no call", "⟦No need.⟧") },
        Case {
            choice: Choice::None,
            expect: says(ROME),
            ..with_tools(
                "tools that must not be called",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>⟧",
            )
        },
        Case { choice: Choice::Required, one_call: true, ..with_tools("a call that must be", "⟦No.⟧") },
        Case { choice: Choice::Named("clock"), one_call: true, ..with_tools("a named call", "⟦No.⟧") },
        Case {
            tools: vec![Tool { strict: true, ..weather() }],
            ..ask(
                "a strict call",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>⟧",
            )
        },
        Case {
            thinking: Thinking::On,
            expect: Expect::Says {
                thoughts: "Rome it is",
                text: String::new(),
                calls: vec![rome()],
                finish: Finish::Calls,
            },
            ..with_tools(
                "thoughts, then a call",
                "⟦Rome it is⇒<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>⟧",
            )
        },
        Case {
            max_tokens: Some(60),
            expect: ends("", Finish::Length),
            ..with_tools(
                "a call that is cut",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>⟧",
            )
        },
    ]
}

fn formats() -> Vec<Case> {
    let shaped = |name, text| Case { format: Some(Format::Schema(schema())), ..ask(name, text) };
    vec![
        Case {
            format: Some(Format::Json),
            expect: says("{\"k\":[1]}"),
            ..ask("a JSON object", "⟦{\"k\":[1]}⟧")
        },
        Case {
            expect: says("{\"a\":\"yy\",\"b\":false}"),
            ..shaped("a schema", "⟦{\"a\":\"yy\",\"b\":false}⟧")
        },
        Case { ..shaped("a schema against the model's will", "⟦I would rather not.⟧") },
        Case {
            thinking: Thinking::On,
            expect: thinks("{not this}", "{\"a\":\"x\",\"b\":true}"),
            ..shaped("a schema after thoughts", "⟦{not this}⇒{\"a\":\"x\",\"b\":true}⟧")
        },
        Case {
            max_tokens: Some(4),
            expect: ends("{\"a\"", Finish::Length),
            ..shaped("an answer in a format, cut", "⟦{\"a\":\"yy\",\"b\":false}⟧")
        },
        Case {
            tools: vec![weather()],
            expect: calls("", vec![rome()]),
            ..shaped(
                "a schema beside tools: a call",
                "⟦<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>⟧",
            )
        },
        Case {
            tools: vec![weather()],
            expect: says("{\"a\":\"x\",\"b\":true}"),
            ..shaped("a schema beside tools: an answer", "⟦{\"a\":\"x\",\"b\":true}⟧")
        },
        refused(
            Case {
                format: Some(Format::Schema(json!({ "type": "object", "not": {} }))),
                ..ask("a schema that cannot be enforced", "⟦Hi.⟧")
            },
            "not",
        ),
        refused(
            Case {
                format: Some(Format::Schema(json!({ "type": "something" }))),
                ..ask("a schema of no type", "⟦Hi.⟧")
            },
            "something",
        ),
    ]
}

/// What is wrong with a value has the same verdict everywhere, and the field is named.
fn flaws() -> Vec<Case> {
    let tools = |case: Case| Case { tools: vec![weather(), clock()], ..case };
    vec![
        wrong("an unknown field", "unknown", json!(1)),
        wrong("an unknown field in a message", "unknown in a message", json!(1)),
        wrong("a temperature below zero", "temperature", json!(-1)),
        wrong("a temperature that is a word", "temperature", json!("hot")),
        wrong("a temperature beyond all numbers", "temperature", json!(1e308)),
        wrong("top_p above one", "top_p", json!(1.5)),
        wrong("top_k with a fraction", "top_k", json!(1.5)),
        wrong("a seed with a fraction", "seed", json!(1.5)),
        wrong("a token limit below all", "max tokens", json!(-3)),
        wrong("a token limit that is a word", "max tokens", json!("many")),
        wrong("a token limit beyond all numbers", "max tokens", json!(1e30)),
        wrong("stop strings that are a number", "stop", json!(5)),
        wrong("too many stop strings", "stop", json!(vec!["x"; 65])),
        Case { about: None, ..wrong("an empty stop string", "stop", json!([""])) },
        wrong("stream that is a word", "stream", json!("yes")),
        wrong("a model that is a number", "model", json!(5)),
        wrong("a conversation that is a number", "conversation", json!(5)),
        wrong("a conversation of numbers", "conversation", json!([5])),
        wrong("a role that is none", "role", json!("wizard")),
        wrong("no content", "content", Value::Null),
        wrong("content that is a number", "content", json!(5)),
        tools(wrong("tools that are an object", "tools", json!({}))),
        tools(wrong("a tool that is a text", "tool", json!("f"))),
        tools(wrong("a tool without a name", "tool name", Value::Null)),
        tools(wrong("two tools of one name", "second tool name", json!("weather"))),
        tools(wrong("a tool's schema that is a text", "tool schema", json!("x"))),
        refused(Case { choice: Choice::Required, ..ask("a call of no tools", "⟦Hi.⟧") }, "tool choice"),
        refused(
            Case { choice: Choice::Named("nothing"), ..with_tools("a call of an unknown tool", "⟦Hi.⟧") },
            "tool choice",
        ),
        wrong("a format that is a number", "format", json!(5)),
        refused(
            Case {
                format: Some(Format::Schema(schema())),
                set: vec![("format schema", json!(["x"]))],
                ..ask("a schema that is a list", "⟦Hi.⟧")
            },
            "format schema",
        ),
        Case {
            model: Some("nobody"),
            expect: Expect::Refused(Kind::UnknownModel),
            ..ask("an unknown model", "⟦Hi.⟧")
        },
        Case {
            set: vec![("content", json!("x".repeat(5000)))],
            expect: Expect::Refused(Kind::TooLong),
            ..ask("a prompt longer than the context", "")
        },
    ]
}

/// Bodies that are no such body at all.
fn bodies() -> Vec<Case> {
    let json = "Content-Type: application/json\r\n";
    vec![
        garbled("half of a body", |body| body.as_bytes()[..body.len() / 2].to_vec()),
        garbled("an empty body", |_| Vec::new()),
        garbled("more after the body", |body| format!("{body} {{}}").into_bytes()),
        garbled("a byte order mark", |body| format!("\u{feff}{body}").into_bytes()),
        garbled("a key twice", |body| {
            body.replacen('{', "{\"model\":\"a\",\"model\":\"a\",", 1).into_bytes()
        }),
        garbled("a number beyond all", |body| body.replacen('{', "{\"seed\":1e999,", 1).into_bytes()),
        garbled("a list of the body", |body| format!("[{body}]").into_bytes()),
        garbled("half of a character", |body| body.replacen("Hi.", "\\ud83d", 1).into_bytes()),
        garbled("bytes that are no text", |body| [body.as_bytes(), b"\xff"].concat()),
        garbled("nesting without end", |body| format!("{{\"x\":{}{body}", "[".repeat(100_000)).into_bytes()),
        Case {
            headers: Some(json), expect: Expect::Refused(Kind::Unauthorized), ..ask("no key", "⟦Hi.⟧")
        },
        Case {
            headers: Some("Content-Type: application/json\r\nAuthorization: Bearer nonsense\r\n"),
            expect: Expect::Refused(Kind::Unauthorized),
            ..ask("a wrong key", "⟦Hi.⟧")
        },
        Case {
            headers: Some(
                "Content-Type: application/json\r\nContent-Encoding: gzip\r\nx-api-key: conformance-key\r\n",
            ),
            expect: Expect::Refused(Kind::MediaType),
            ..ask("a compressed body", "⟦Hi.⟧")
        },
    ]
}
