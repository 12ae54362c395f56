//! The families: how each spells its calls, as tables that a few engines read.

/// How a family of models spells its thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thoughts {
    pub open: &'static str,
    pub close: &'static str,
    /// Whether thoughts may begin anywhere. Otherwise the mark counts only where an answer begins or after a call:
    /// elsewhere a model may well write about it.
    pub anywhere: bool,
}

pub(super) const THINK: Thoughts = Thoughts { open: "<think>", close: "</think>", anywhere: false };
pub(super) const THINKING: Thoughts = Thoughts { open: "<thinking>", close: "</thinking>", anywhere: false };
pub(super) const BRACKETS: Thoughts = Thoughts { open: "[THINK]", close: "[/THINK]", anywhere: true };
pub(super) const COMMAND: Thoughts =
    Thoughts { open: "<|START_THINKING|>", close: "<|END_THINKING|>", anywhere: true };
pub(super) const SEED: Thoughts = Thoughts { open: "<seed:think>", close: "</seed:think>", anywhere: false };
pub(super) const LONGCAT: Thoughts =
    Thoughts { open: "<longcat_think>", close: "</longcat_think>", anywhere: false };
pub(super) const INNER: Thoughts =
    Thoughts { open: "<|inner_prefix|>", close: "<|inner_suffix|>", anywhere: true };
pub(super) const CHANNEL: Thoughts =
    Thoughts { open: "<|channel>thought", close: "<channel|>", anywhere: true };
pub(super) const STEPS: Thoughts =
    Thoughts { open: "Here are my reasoning steps:", close: "[BEGIN FINAL RESPONSE]", anywhere: false };
pub(super) const HARMONY: Thoughts =
    Thoughts { open: "<|channel|>analysis<|message|>", close: "<|end|>", anywhere: true };

/// A family, by what it is known for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Family {
    /// Knows no calls. Where a call is forced, it is written as JSON, and read as such.
    #[default]
    Plain,
    /// Knows tools, but not by any spelling that is known here: JSON.
    Json,
    Hermes,
    QwenXml,
    Glm,
    Llama,
    Llama4,
    MistralList,
    MistralArgs,
    MistralCallId,
    DeepSeekR1,
    DeepSeekV31,
    DeepSeekV32,
    DeepSeekV4,
    Harmony,
    Kimi,
    MiniMaxM1,
    MiniMaxM2,
    Lfm2,
    Olmo3,
    Gemma4,
    FunctionGemma,
    SeedOss,
    CommandR7b,
    CommandRPlus,
    Functionary31,
    Functionary32,
    Firefunction,
    NemotronV2,
    Apertus,
    Apriel,
    GigaChat3,
    Granite3,
    Phi4,
    LongCat,
}

/// One way in which a family's calls begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub marks: &'static [&'static str],
    pub engine: Engine,
    /// The call counts only if there is a tool of its name: its mark is too common otherwise.
    pub known: bool,
    /// The mark counts only where an answer begins, or after a call.
    pub fresh: bool,
}

/// What reads a call after its first mark.
#[derive(Clone, Copy, Debug)]
pub(super) enum Engine {
    Json(&'static JsonShape),
    Named(&'static NamedShape),
    /// A list of JSON objects if it begins like one, or else a name.
    JsonOrNamed(&'static JsonShape, &'static NamedShape),
    Xml(&'static XmlShape),
    Loose(&'static LooseShape),
    /// What follows `<|python_tag|>`: JSON, one call, or a program.
    PythonTag,
}

/// Objects with a name and arguments: one, several, or a list of them.
#[derive(Debug)]
pub(super) struct JsonShape {
    pub ends: &'static [&'static str],
    /// The id stands behind the arguments, which therefore wait for it.
    pub id_last: bool,
    /// The only key is the function's name, its value the arguments.
    pub key_is_name: bool,
    /// There are no marks at all: only an object that looks like a call from its first key on is one.
    pub bare: bool,
}

/// A name, a mark, and one JSON object.
#[derive(Debug)]
pub(super) struct NamedShape {
    /// What begins each call.
    pub calls: &'static [&'static str],
    /// What begins a section of calls, inside of which `calls` may be missing.
    pub sections: &'static [&'static str],
    pub head: Head,
    /// What ends the head.
    pub separators: &'static [&'static str],
    pub ends: &'static [&'static str],
    pub section_ends: &'static [&'static str],
}

/// What stands before the separator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The name.
    Name,
    /// The name; perhaps `[CALL_ID]` and an id.
    NameAndId,
    /// `functions.NAME:INDEX`, which is the id too.
    Kimi,
    /// The name, or a word for the kind of tool, in which case a line with the name follows the separator.
    DeepSeek,
    /// A recipient: the name of a tool, or `all` for the user. What is no JSON is a program.
    Recipient,
}

/// Tags around a name and each argument.
#[derive(Debug)]
pub(super) struct XmlShape {
    /// What begins and ends a block of calls.
    pub block: (&'static str, &'static [&'static str]),
    /// What begins a call, and what ends its name. An empty beginning: the name follows the block's mark, and ends
    /// where its line does or a tag begins.
    pub function: (&'static str, &'static str),
    pub function_end: &'static str,
    /// What begins a parameter, and what ends its name.
    pub parameter: (&'static str, &'static str),
    /// What begins the value, if it is not what ends the name.
    pub value: &'static str,
    pub parameter_end: &'static str,
    /// Values stand on lines of their own.
    pub lines: bool,
    /// The name is followed by `" string="true` or `" string="false`, which says how to read the value.
    pub says_string: bool,
}

/// Calls in the syntax of a programming language.
#[derive(Debug)]
pub(super) struct LooseShape {
    pub ends: &'static [&'static str],
    pub dialect: Dialect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `[f(a=1), g()]`, or the calls alone on lines.
    Python,
    /// As [`Python`](Self::Python), without any mark.
    BarePython,
    /// `call:f{a:1}`, with this around texts.
    Gemma(&'static str),
}

/// All that is to know about a family.
#[derive(Debug)]
pub(super) struct Table {
    pub begins: Vec<Begin>,
    /// Marks that mean nothing by themselves.
    pub noise: &'static [&'static str],
    /// A call inside of thoughts is a call, and ends them.
    pub calls_in_thoughts: bool,
    /// Marks around what is said.
    pub wrap: Option<(&'static str, &'static str)>,
}

const fn begin(marks: &'static [&'static str], engine: Engine) -> Begin {
    Begin { marks, engine, known: false, fresh: false }
}

/// JSON objects up to one of these marks.
macro_rules! json {
    ($($end:literal),*) => {
        Engine::Json(&JsonShape { ends: &[$($end),*], ..TAGGED_JSON })
    };
}

fn table(begins: Vec<Begin>) -> Table {
    Table { begins, noise: &[], calls_in_thoughts: false, wrap: None }
}

/// JSON objects, wherever they end.
pub(super) const TAGGED_JSON: JsonShape =
    JsonShape { ends: &[], id_last: false, key_is_name: false, bare: false };
const BARE: JsonShape = JsonShape { bare: true, ..TAGGED_JSON };
const BARE_BEGIN: Begin = Begin { known: true, fresh: true, ..begin(&["{", "["], Engine::Json(&BARE)) };

pub(super) const QWEN_XML: XmlShape = XmlShape {
    block: ("<tool_call>", &["</tool_call>"]),
    function: ("<function=", ">"),
    function_end: "</function>",
    parameter: ("<parameter=", ">"),
    value: "",
    parameter_end: "</parameter>",
    lines: true,
    says_string: false,
};
pub(super) const SEED_XML: XmlShape =
    XmlShape { block: ("<seed:tool_call>", &["</seed:tool_call>"]), ..QWEN_XML };
pub(super) const MINIMAX_XML: XmlShape = XmlShape {
    block: ("<minimax:tool_call>", &["</minimax:tool_call>"]),
    function: ("<invoke name=\"", "\">"),
    function_end: "</invoke>",
    parameter: ("<parameter name=\"", "\">"),
    lines: false,
    ..QWEN_XML
};
pub(super) const DSML_V4: XmlShape = XmlShape {
    block: ("<｜DSML｜tool_calls>", &["</｜DSML｜tool_calls>"]),
    function: ("<｜DSML｜invoke name=\"", "\">"),
    function_end: "</｜DSML｜invoke>",
    parameter: ("<｜DSML｜parameter name=\"", "\">"),
    value: "",
    parameter_end: "</｜DSML｜parameter>",
    lines: false,
    says_string: true,
};
pub(super) const DSML_V32: XmlShape =
    XmlShape { block: ("<｜DSML｜function_calls>", &["</｜DSML｜function_calls>"]), ..DSML_V4 };
pub(super) const GLM_XML: XmlShape = XmlShape {
    block: ("<tool_call>", &[]),
    function: ("", ""),
    function_end: "</tool_call>",
    parameter: ("<arg_key>", "</arg_key>"),
    value: "<arg_value>",
    parameter_end: "</arg_value>",
    lines: false,
    says_string: false,
};

const MISTRAL_NAMED: NamedShape = NamedShape {
    calls: &["[TOOL_CALLS]"],
    sections: &[],
    head: Head::NameAndId,
    separators: &["[ARGS]"],
    ends: &[],
    section_ends: &[],
};
const DEEPSEEK_NAMED: NamedShape = NamedShape {
    calls: &["<｜tool▁call▁begin｜>", "<｜tool_call_begin｜>"],
    sections: &[
        "<｜tool▁calls▁begin｜>",
        "<｜tool_calls_begin｜>",
        "<｜tool calls begin｜>",
        "<｜tool▁calls｜>",
    ],
    head: Head::DeepSeek,
    separators: &["<｜tool▁sep｜>", "<｜tool_sep｜>"],
    ends: &["<｜tool▁call▁end｜>", "<｜tool_call_end｜>"],
    section_ends: &["<｜tool▁calls▁end｜>", "<｜tool_calls_end｜>"],
};
const KIMI_NAMED: NamedShape = NamedShape {
    calls: &["<|tool_call_begin|>"],
    sections: &["<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"],
    head: Head::Kimi,
    separators: &["<|tool_call_argument_begin|>"],
    ends: &["<|tool_call_end|>"],
    section_ends: &["<|tool_calls_section_end|>", "<|tool_call_section_end|>"],
};
const FUNCTION_TAG: NamedShape = NamedShape {
    calls: &["<function="],
    sections: &[],
    head: Head::Name,
    separators: &[">"],
    ends: &["</function>"],
    section_ends: &[],
};
pub(super) const RECIPIENT: NamedShape = NamedShape {
    calls: &[">>>"],
    sections: &[],
    head: Head::Recipient,
    separators: &["\n"],
    ends: &[],
    section_ends: &[],
};
pub(super) const PROGRAM: NamedShape = NamedShape { calls: &[], ..RECIPIENT };
pub(super) const BUILTIN: LooseShape = LooseShape { ends: &[], dialect: Dialect::Python };

const PYTHON_LFM: LooseShape = LooseShape { ends: &["<|tool_call_end|>"], dialect: Dialect::Python };
pub(super) const GEMMA_QUOTE: &str = "<|\"|>";

impl Family {
    /// Its table.
    pub fn table(self) -> Table {
        match self {
            Self::Plain | Self::Json => table(vec![BARE_BEGIN]),
            Self::Hermes => Table {
                calls_in_thoughts: true,
                ..table(vec![begin(&["<tool_call>"], json!("</tool_call>"))])
            },
            Self::QwenXml => Table {
                calls_in_thoughts: true,
                ..table(vec![
                    begin(&["<tool_call>"], Engine::Xml(&QWEN_XML)),
                    Begin { known: true, ..begin(&["<function="], Engine::Xml(&QWEN_XML)) },
                ])
            },
            Self::Glm => Table {
                calls_in_thoughts: true,
                noise: &["<|role_end|>", "<|observation|>", "</assistant>"],
                ..table(vec![begin(&["<tool_call>"], Engine::Xml(&GLM_XML))])
            },
            Self::Llama => table(vec![BARE_BEGIN, begin(&["<|python_tag|>"], Engine::PythonTag)]),
            Self::Llama4 => {
                const PYTHON: LooseShape =
                    LooseShape { ends: &["<|python_end|>"], dialect: Dialect::BarePython };
                {
                    Table {
                        noise: &["<|python_start|>", "<|python_end|>", "<|eom|>"],
                        ..table(vec![
                            Begin { known: true, fresh: true, ..begin(&["["], Engine::Loose(&PYTHON)) },
                            Begin { known: true, fresh: true, ..begin(&["{"], Engine::Json(&BARE)) },
                        ])
                    }
                }
            }
            Self::MistralList | Self::MistralArgs | Self::MistralCallId => {
                const LIST: JsonShape = JsonShape { id_last: true, ..TAGGED_JSON };
                table(vec![begin(&["[TOOL_CALLS]"], Engine::JsonOrNamed(&LIST, &MISTRAL_NAMED))])
            }
            Self::DeepSeekR1 | Self::DeepSeekV31 => Table {
                calls_in_thoughts: true,
                ..table(vec![
                    begin(DEEPSEEK_NAMED.sections, Engine::Named(&DEEPSEEK_NAMED)),
                    begin(DEEPSEEK_NAMED.calls, Engine::Named(&DEEPSEEK_NAMED)),
                ])
            },
            Self::DeepSeekV32 => Table {
                calls_in_thoughts: true,
                ..table(vec![begin(
                    &["<｜DSML｜function_calls>", "\n\n<｜DSML｜function_calls>"],
                    Engine::Xml(&DSML_V32),
                )])
            },
            Self::DeepSeekV4 => Table {
                calls_in_thoughts: true,
                ..table(vec![begin(
                    &["<｜DSML｜tool_calls>", "\n\n<｜DSML｜tool_calls>"],
                    Engine::Xml(&DSML_V4),
                )])
            },
            Self::Harmony => table(vec![]),
            Self::Kimi => Table {
                calls_in_thoughts: true,
                ..table(vec![
                    begin(KIMI_NAMED.sections, Engine::Named(&KIMI_NAMED)),
                    begin(KIMI_NAMED.calls, Engine::Named(&KIMI_NAMED)),
                ])
            },
            Self::MiniMaxM1 => table(vec![begin(&["<tool_calls>"], json!("</tool_calls>"))]),
            Self::MiniMaxM2 => Table {
                calls_in_thoughts: true,
                ..table(vec![begin(&["<minimax:tool_call>"], Engine::Xml(&MINIMAX_XML))])
            },
            Self::Lfm2 => table(vec![begin(&["<|tool_call_start|>"], Engine::Loose(&PYTHON_LFM))]),
            Self::Olmo3 => {
                const PYTHON: LooseShape =
                    LooseShape { ends: &["</function_calls>"], dialect: Dialect::Python };
                table(vec![begin(&["<function_calls>"], Engine::Loose(&PYTHON))])
            }
            Self::Gemma4 => {
                const CALLS: LooseShape =
                    LooseShape { ends: &["<tool_call|>"], dialect: Dialect::Gemma(GEMMA_QUOTE) };
                {
                    Table {
                        noise: &["<|channel>", "<channel|>", "<|tool_response>", "<turn|>"],
                        ..table(vec![begin(&["<|tool_call>"], Engine::Loose(&CALLS))])
                    }
                }
            }
            Self::FunctionGemma => {
                const CALLS: LooseShape =
                    LooseShape { ends: &["<end_function_call>"], dialect: Dialect::Gemma("<escape>") };
                {
                    Table {
                        noise: &["<start_function_response>"],
                        ..table(vec![begin(&["<start_function_call>"], Engine::Loose(&CALLS))])
                    }
                }
            }
            Self::SeedOss => Table {
                calls_in_thoughts: true,
                ..table(vec![begin(&["<seed:tool_call>"], Engine::Xml(&SEED_XML))])
            },
            Self::CommandR7b => Table {
                noise: &["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"],
                ..table(vec![begin(&["<|START_ACTION|>"], json!("<|END_ACTION|>"))])
            },
            Self::CommandRPlus => Table {
                noise: &["<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"],
                ..table(vec![begin(
                    &["Action:\n```json\n", "Action: ```json\n", "Action:```json\n"],
                    json!("```"),
                )])
            },
            Self::Functionary31 => table(vec![
                Begin { known: true, ..begin(&["<function="], Engine::Named(&FUNCTION_TAG)) },
                begin(&["<|python_tag|>"], Engine::PythonTag),
            ]),
            Self::Functionary32 => {
                table(vec![Begin { known: true, ..begin(RECIPIENT.calls, Engine::Named(&RECIPIENT)) }])
            }
            Self::Firefunction => table(vec![begin(&[" functools", "functools"], json!())]),
            Self::NemotronV2 => table(vec![begin(&["<TOOLCALL>"], json!("</TOOLCALL>"))]),
            Self::Apertus => {
                const CALLS: JsonShape =
                    JsonShape { ends: &["<|tools_suffix|>"], key_is_name: true, ..TAGGED_JSON };
                table(vec![begin(&["<|tools_prefix|>"], Engine::Json(&CALLS))])
            }
            Self::Apriel => Table {
                noise: &["[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"],
                ..table(vec![begin(&["<tool_calls>"], json!("</tool_calls>"))])
            },
            Self::GigaChat3 => Table {
                noise: &["<|message_sep|>"],
                ..table(vec![begin(
                    &["<|message_sep|>\n\nfunction call<|role_sep|>", "function call<|role_sep|>"],
                    json!("<|message_sep|>"),
                )])
            },
            Self::Granite3 => Table {
                wrap: Some(("<response>", "</response>")),
                ..table(vec![
                    begin(&["<|tool_call|>"], json!()),
                    begin(&["<tool_call>"], json!("</tool_call>")),
                ])
            },
            Self::Phi4 => table(vec![begin(&["<|tool_call|>"], json!("<|/tool_call|>"))]),
            Self::LongCat => table(vec![begin(&["<longcat_tool_call>"], json!("</longcat_tool_call>"))]),
        }
    }
}

impl Begin {
    /// Every mark that its calls may hold.
    pub fn inner_marks(&self) -> Vec<&'static str> {
        let named = |s: &NamedShape| {
            [s.calls, s.sections, s.separators, s.ends, s.section_ends, &["[CALL_ID]"]].concat()
        };
        let inner = match self.engine {
            Engine::Json(shape) => shape.ends.to_vec(),
            Engine::Named(shape) => named(shape),
            Engine::JsonOrNamed(list, shape) => [list.ends, &named(shape)].concat(),
            Engine::Xml(s) => {
                let tags = [s.function_end, s.parameter.0, s.parameter.1, s.value, s.parameter_end];
                [&[s.block.0, s.function.0, s.function.1], s.block.1, &tags].concat()
            }
            Engine::Loose(shape) => match shape.dialect {
                Dialect::Gemma(quote) => [shape.ends, &[quote]].concat(),
                Dialect::Python | Dialect::BarePython => shape.ends.to_vec(),
            },
            Engine::PythonTag => Vec::new(),
        };
        [self.marks, &inner].concat()
    }
}
