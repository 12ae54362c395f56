//! What an answer must look like that calls tools: each family's spelling as a [`Rule`].
//!
//! Arguments obey the tool's schema. Where a family writes them as tags, that holds for each parameter by itself:
//! texts are free up to the closing mark (or one of the schema's `enum`), other values are JSON by their schema; the
//! order is that of the schema, what it requires must come, and nothing else may.

use serde_json::{Map, Value, json};

use super::family::{
    DSML_V4, DSML_V32, Family, GEMMA_QUOTE, GLM_XML, MINIMAX_XML, QWEN_XML, SEED_XML, XmlShape,
};
use super::tools::{self, Types, quoted};
use crate::{Rule, ToolChoice};

/// How deep schemas are followed to a parameter's type.
const DEPTH_MAX: usize = 16;

/// Spellings that differ inside of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// GLM's argument tags stand on lines of their own.
    lines: bool,
    /// JSON without marks calls arguments `arguments`; otherwise, `parameters`.
    arguments: bool,
}

impl Style {
    pub fn detect(template: &str) -> Self {
        let lines =
            ["</arg_key>\n<arg_value>", "</arg_key>\\n<arg_value>", "</arg_key>\\n\"", "{{ k }}</arg_key>\n"];
        Self {
            lines: lines.iter().any(|needle| template.contains(needle)),
            arguments: template.contains("\"arguments\""),
        }
    }
}

/// What stands around calls.
struct Block {
    /// What begins a block wherever it stands.
    trigger: &'static str,
    /// What follows it, in front of the first call.
    open: &'static str,
    close: &'static str,
    more: More,
}

/// How another call follows.
enum More {
    /// In the same block, behind this.
    Inside(&'static str),
    /// In a block of its own, behind this.
    Behind(&'static str),
    /// Not at all.
    Never,
}

fn text(text: impl Into<String>) -> Rule {
    Rule::Text(text.into())
}

fn optional(rule: Rule) -> Rule {
    Rule::Repeat { rule: Box::new(rule), min: 0, max: Some(1) }
}

fn any_times(rule: Rule) -> Rule {
    Rule::Repeat { rule: Box::new(rule), min: 0, max: None }
}

fn one_of(mut rules: Vec<Rule>) -> Rule {
    if rules.len() == 1 { rules.remove(0) } else { Rule::Any(rules) }
}

/// See [`super::OutputFormat::tool_rule`].
pub(super) fn tool_rule(
    family: Family,
    style: Style,
    tools: &[Value],
    choice: &ToolChoice,
    at_most_one: bool,
) -> Option<Rule> {
    let named: Vec<&Value> = tools.iter().filter(|tool| tools::name(tool).is_some()).collect();
    let (called, forced, at_most_one) = match choice {
        ToolChoice::None => return None,
        ToolChoice::Auto if !named.iter().any(|tool| tools::strict(tool)) => return None,
        ToolChoice::Auto => (named, false, at_most_one),
        ToolChoice::Required => (named, true, at_most_one),
        ToolChoice::Named(name) => {
            (named.into_iter().filter(|tool| tools::name(tool) == Some(name)).take(1).collect(), true, true)
        }
    };
    if called.is_empty() {
        return None;
    }
    let calls = one_of(called.iter().map(|tool| call(family, style, tool)).collect());
    match family {
        Family::Harmony => return Some(harmony(calls, forced)),
        Family::Functionary32 => return Some(functionary(calls, forced, at_most_one)),
        _ => {}
    }
    let Some(block) = block(family) else { return Some(bare(family, calls, forced, at_most_one)) };
    let mut inner = vec![text(block.open), calls.clone()];
    if let More::Inside(between) = block.more
        && !at_most_one
    {
        inner.push(any_times(Rule::Sequence(vec![text(between), calls])));
    }
    inner.push(text(block.close));
    inner.retain(|rule| *rule != text(""));
    if !forced {
        let tags = vec![(block.trigger.to_owned(), Rule::Sequence(inner))];
        return Some(Rule::Tagged { tags, at_least_one: false, at_most_one });
    }
    inner.insert(0, text(block.trigger));
    let one = Rule::Sequence(inner);
    Some(match block.more {
        More::Behind(between) if !at_most_one => {
            let more = Rule::Sequence(vec![text(between), one.clone()]);
            Rule::Sequence(vec![one, any_times(more)])
        }
        _ => one,
    })
}

/// Calls without marks, which begin an answer or are none.
fn bare(family: Family, calls: Rule, forced: bool, at_most_one: bool) -> Rule {
    // Llama's templates know one call a turn.
    let one = at_most_one || family == Family::Llama;
    let more = any_times(Rule::Sequence(vec![text("\n"), calls.clone()]));
    let calls = if one { calls } else { Rule::Sequence(vec![calls, more]) };
    if forced {
        return calls;
    }
    let said = Rule::Sequence(vec![Rule::Regex("[^\\s{\\[]".into()), Rule::AnyText]);
    Rule::Any(vec![calls, said])
}

/// Harmony's thoughts and preambles are messages as all others, so the rule has them, too.
fn harmony(calls: Rule, forced: bool) -> Rule {
    let message = |header: &str, body: Rule| {
        Rule::Sequence(vec![optional(text("<|start|>assistant")), text(header), body])
    };
    let end = || Rule::Until("<|end|>".into());
    let mut last = vec![Rule::Sequence(vec![optional(text("<|start|>assistant")), calls])];
    if !forced {
        last.push(message("<|channel|>final<|message|>", Rule::AnyText));
    }
    Rule::Sequence(vec![
        optional(message("<|channel|>analysis<|message|>", end())),
        optional(message("<|channel|>commentary<|message|>", end())),
        one_of(last),
    ])
}

/// The prompt ends with the mark of the first recipient.
fn functionary(calls: Rule, forced: bool, at_most_one: bool) -> Rule {
    let next = Rule::Sequence(vec![text(">>>"), calls.clone()]);
    let called =
        if at_most_one { calls.clone() } else { Rule::Sequence(vec![calls.clone(), any_times(next)]) };
    let called = Rule::Sequence(vec![optional(text(">>>")), called]);
    if forced {
        return called;
    }
    let tags = vec![(">>>".to_owned(), calls)];
    let said = Rule::Tagged { tags, at_least_one: false, at_most_one };
    Rule::Any(vec![called, Rule::Sequence(vec![optional(text(">>>")), text("all\n"), said])])
}

/// What stands around a family's calls; `None` if nothing does.
fn block(family: Family) -> Option<Block> {
    let block = |trigger, open, close, more| Some(Block { trigger, open, close, more });
    match family {
        Family::Plain | Family::Json | Family::Llama | Family::Llama4 => None,
        Family::Harmony | Family::Functionary32 => None,
        Family::Hermes => block("<tool_call>", "\n", "\n</tool_call>", More::Behind("\n")),
        Family::QwenXml => block("<tool_call>", "\n", "</tool_call>", More::Behind("\n")),
        Family::Glm => block("<tool_call>", "", "</tool_call>", More::Behind("\n")),
        Family::MistralList => block("[TOOL_CALLS]", "[", "]", More::Inside(", ")),
        Family::MistralArgs | Family::MistralCallId => block("[TOOL_CALLS]", "", "", More::Behind("")),
        Family::DeepSeekR1 => block("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>", More::Inside("\n")),
        Family::DeepSeekV31 => block("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>", More::Inside("")),
        Family::DeepSeekV32 => {
            block("<｜DSML｜function_calls>", "\n", "</｜DSML｜function_calls>", More::Inside(""))
        }
        Family::DeepSeekV4 => block("<｜DSML｜tool_calls>", "\n", "</｜DSML｜tool_calls>", More::Inside("")),
        Family::Kimi => {
            block("<|tool_calls_section_begin|>", "", "<|tool_calls_section_end|>", More::Inside(""))
        }
        Family::MiniMaxM1 => block("<tool_calls>", "\n", "\n</tool_calls>", More::Inside("\n")),
        Family::MiniMaxM2 => block("<minimax:tool_call>", "\n", "</minimax:tool_call>", More::Inside("")),
        Family::Lfm2 => block("<|tool_call_start|>", "[", "]<|tool_call_end|>", More::Inside(", ")),
        Family::Olmo3 => block("<function_calls>", "\n", "\n</function_calls>", More::Inside("\n")),
        Family::Gemma4 => block("<|tool_call>", "", "<tool_call|>", More::Behind("")),
        Family::FunctionGemma => block("<start_function_call>", "", "<end_function_call>", More::Behind("")),
        Family::SeedOss => block("<seed:tool_call>", "\n", "</seed:tool_call>", More::Behind("\n")),
        Family::CommandR7b => {
            block("<|START_ACTION|>", "[\n    ", "\n]<|END_ACTION|>", More::Inside(",\n    "))
        }
        Family::CommandRPlus => block("Action:\n```json\n", "[\n    ", "\n]\n```", More::Inside(",\n    ")),
        Family::Functionary31 => block("<function=", "", "</function>", More::Behind("")),
        Family::Firefunction => block(" functools", "[", "]", More::Inside(", ")),
        Family::NemotronV2 => block("<TOOLCALL>", "[", "]</TOOLCALL>", More::Inside(", ")),
        Family::Apertus => block("<|tools_prefix|>", "[", "]<|tools_suffix|>", More::Inside(", ")),
        Family::Apriel => block("<tool_calls>", "[", "]</tool_calls>", More::Inside(", ")),
        Family::GigaChat3 => block("<|message_sep|>\n\nfunction call<|role_sep|>\n", "", "", More::Never),
        Family::Granite3 => block("<|tool_call|>", "[", "]", More::Inside(", ")),
        Family::Phi4 => block("<|tool_call|>", "[", "]<|/tool_call|>", More::Inside(", ")),
        Family::LongCat => block("<longcat_tool_call>", "\n", "\n</longcat_tool_call>", More::Behind("\n")),
    }
}

/// One call, as it stands inside of its block.
fn call(family: Family, style: Style, tool: &Value) -> Rule {
    let name = tools::name(tool).unwrap_or_default();
    let nothing = json!({"type": "object"});
    let schema = tools::parameters(tool).unwrap_or(&nothing);
    let around = |before: String, after: &str| {
        let mut rules = vec![text(before), Rule::Json(schema.clone())];
        rules.extend((!after.is_empty()).then(|| text(after)));
        Rule::Sequence(rules)
    };
    let keyed =
        |key: &str, arguments: &str| around(format!("{{\"{key}\": {}, \"{arguments}\": ", quoted(name)), "}");
    match family {
        Family::Plain | Family::Json if style.arguments => keyed("name", "arguments"),
        Family::Plain | Family::Json | Family::Llama | Family::Llama4 => keyed("name", "parameters"),
        Family::Hermes
        | Family::MiniMaxM1
        | Family::Firefunction
        | Family::NemotronV2
        | Family::Apriel
        | Family::GigaChat3
        | Family::Granite3
        | Family::Phi4
        | Family::LongCat => keyed("name", "arguments"),
        Family::CommandRPlus => keyed("tool_name", "parameters"),
        Family::CommandR7b => Rule::Sequence(vec![
            text("{\"tool_call_id\": \""),
            Rule::Regex("[0-9]{1,4}".into()),
            text(format!("\", \"tool_name\": {}, \"parameters\": ", quoted(name))),
            Rule::Json(schema.clone()),
            text("}"),
        ]),
        Family::Apertus => around(format!("{{{}: ", quoted(name)), "}"),
        Family::MistralList => Rule::Sequence(vec![
            text(format!("{{\"name\": {}, \"arguments\": ", quoted(name))),
            Rule::Json(schema.clone()),
            text(", \"id\": \""),
            Rule::Regex("[a-zA-Z0-9]{9}".into()),
            text("\"}"),
        ]),
        Family::MistralArgs => around(format!("{name}[ARGS]"), ""),
        Family::MistralCallId => Rule::Sequence(vec![
            text(format!("{name}[CALL_ID]")),
            Rule::Regex("[a-zA-Z0-9]{9}".into()),
            text("[ARGS]"),
            Rule::Json(schema.clone()),
        ]),
        Family::DeepSeekR1 => around(
            format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n"),
            "\n```<｜tool▁call▁end｜>",
        ),
        Family::DeepSeekV31 => {
            around(format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>"), "<｜tool▁call▁end｜>")
        }
        Family::Kimi => Rule::Sequence(vec![
            text(format!("<|tool_call_begin|>functions.{name}:")),
            Rule::Regex("[0-9]{1,4}".into()),
            text("<|tool_call_argument_begin|>"),
            Rule::Json(schema.clone()),
            text("<|tool_call_end|>"),
        ]),
        Family::Functionary31 => around(format!("{name}>"), ""),
        Family::Functionary32 => around(format!("{name}\n"), ""),
        Family::Harmony => Rule::Any(vec![
            around(format!(" to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>"), ""),
            around(format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"), ""),
        ]),
        Family::QwenXml => xml(&QWEN_XML, true, name, schema),
        Family::SeedOss => xml(&XmlShape { lines: false, ..SEED_XML }, true, name, schema),
        Family::MiniMaxM2 => xml(&MINIMAX_XML, true, name, schema),
        Family::DeepSeekV32 => xml(&DSML_V32, true, name, schema),
        Family::DeepSeekV4 => xml(&DSML_V4, true, name, schema),
        Family::Glm => xml(&GLM_XML, style.lines, name, schema),
        Family::Lfm2 | Family::Olmo3 => {
            let each = |key: &str, value: &Value| {
                Rule::Sequence(vec![text(format!("{key}=")), Rule::Json(with_definitions(value, schema))])
            };
            Rule::Sequence(vec![text(format!("{name}(")), listed(schema, ", ", each), text(")")])
        }
        Family::Gemma4 => gemma(GEMMA_QUOTE, name, schema),
        Family::FunctionGemma => gemma("<escape>", name, schema),
    }
}

fn properties(schema: &Value) -> Vec<(&String, &Value, bool)> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let required = |key: &str| {
        let list = schema.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|name| name.as_str() == Some(key)))
    };
    properties.iter().map(|(key, value)| (key, value, required(key))).collect()
}

/// A part of a schema that can stand alone.
fn with_definitions(part: &Value, root: &Value) -> Value {
    let Value::Object(part) = part else { return part.clone() };
    let mut whole: Map<String, Value> = part.clone();
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            whole.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    Value::Object(whole)
}

/// The texts that a schema names, if it names all of them.
fn choices(schema: &Value) -> Option<Rule> {
    let one = schema.get("const").map(std::slice::from_ref);
    let values = one.or_else(|| schema.get("enum").and_then(Value::as_array).map(Vec::as_slice))?;
    let texts = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
    (!texts.is_empty()).then(|| Rule::literal(texts))
}

/// A value in front of a mark, the mark included.
fn value(schema: &Value, root: &Value, close: &str) -> Rule {
    let types = Types::of(schema, root, DEPTH_MAX);
    if let Some(choices) = choices(schema) {
        return Rule::Sequence(vec![choices, text(close)]);
    }
    if types.may_be_text() {
        return Rule::Until(close.to_owned());
    }
    Rule::Sequence(vec![Rule::Json(with_definitions(schema, root)), text(close)])
}

/// A call as tags. `lines`: each stands on its own line.
fn xml(shape: &XmlShape, lines: bool, name: &str, schema: &Value) -> Rule {
    let line = if lines { "\n" } else { "" };
    let own_line = if shape.lines { "\n" } else { "" };
    let close = format!("{own_line}{}{line}", shape.parameter_end);
    let open = |key: &str| {
        let between = if shape.value.is_empty() { "" } else { line };
        format!("{}{key}{}{between}{}{own_line}", shape.parameter.0, shape.parameter.1, shape.value)
    };
    let parameter = |key: &str, part: &Value| {
        let one = |key: &str, rule| Rule::Sequence(vec![text(open(key)), rule]);
        if !shape.says_string {
            return one(key, value(part, schema, &close));
        }
        let types = Types::of(part, schema, DEPTH_MAX);
        let texts = || {
            let texts = choices(part).map_or_else(
                || Rule::Until(close.clone()),
                |choices| Rule::Sequence(vec![choices, text(close.clone())]),
            );
            one(&format!("{key}\" string=\"true"), texts)
        };
        let json = || {
            let json = Rule::Json(with_definitions(part, schema));
            one(&format!("{key}\" string=\"false"), Rule::Sequence(vec![json, text(close.clone())]))
        };
        if types == Types::STRING {
            texts()
        } else if types.may_be_text() {
            Rule::Any(vec![texts(), json()])
        } else {
            json()
        }
    };
    let mut rules = vec![text(format!("{}{name}{}{line}", shape.function.0, shape.function.1))];
    for (key, part, required) in properties(schema) {
        let rule = parameter(key, part);
        rules.push(if required { rule } else { optional(rule) });
    }
    // GLM's function ends where its block does.
    if !shape.block.1.is_empty() {
        rules.push(text(format!("{}{line}", shape.function_end)));
    }
    Rule::Sequence(rules)
}

/// Parameters with something between them: first those that must come.
fn listed(schema: &Value, between: &str, each: impl Fn(&str, &Value) -> Rule) -> Rule {
    let (required, others): (Vec<_>, Vec<_>) =
        properties(schema).into_iter().partition(|(_, _, required)| *required);
    let behind = |rule: Rule| Rule::Sequence(vec![text(between), rule]);
    let others: Vec<Rule> = others.iter().map(|(key, part, _)| each(key, part)).collect();
    let tail = |from: usize| others[from..].iter().map(|rule| optional(behind(rule.clone())));
    let mut rules = Vec::new();
    for (key, part, _) in &required {
        let rule = each(key, part);
        rules.push(if rules.is_empty() { rule } else { behind(rule) });
    }
    if !rules.is_empty() || others.is_empty() {
        rules.extend(tail(0));
        return Rule::Sequence(rules);
    }
    let begins = |first: usize| {
        Rule::Sequence(std::iter::once(others[first].clone()).chain(tail(first + 1)).collect())
    };
    optional(one_of((0..others.len()).map(begins).collect()))
}

fn gemma(quote: &str, name: &str, schema: &Value) -> Rule {
    let each = |key: &str, part: &Value| {
        let types = Types::of(part, schema, DEPTH_MAX);
        let texts = || {
            let texts = choices(part).map_or_else(
                || Rule::Until(quote.to_owned()),
                |choices| Rule::Sequence(vec![choices, text(quote)]),
            );
            Rule::Sequence(vec![text(format!("{key}:{quote}")), texts])
        };
        let json =
            || Rule::Sequence(vec![text(format!("{key}:")), Rule::Json(with_definitions(part, schema))]);
        if types == Types::STRING {
            texts()
        } else if types.may_be_text() {
            Rule::Any(vec![texts(), json()])
        } else {
            json()
        }
    };
    Rule::Sequence(vec![text(format!("call:{name}{{")), listed(schema, ",", each), text("}")])
}

#[cfg(test)]
mod tests {
    use super::super::detect;
    use super::super::{Output, OutputContext, OutputFormat, Piece};
    use super::*;

    /// A text that obeys a rule: of several, the one that `turn` points to.
    fn example(rule: &Rule, turn: &mut usize) -> String {
        let mut next = |n: usize| {
            *turn = turn.wrapping_mul(5).wrapping_add(3);
            (*turn / 7) % n
        };
        match rule {
            Rule::Text(text) => text.clone(),
            Rule::Json(schema) => json_example(schema).to_string(),
            Rule::Regex(regex) => match regex.as_str() {
                "[a-zA-Z0-9]{9}" => "abcDEF123".into(),
                "[0-9]{1,4}" => "0".into(),
                "[^\\s{\\[]" => "H".into(),
                // Literals: one of them, as it is.
                other => {
                    let all = other.strip_prefix('(').and_then(|o| o.strip_suffix(')')).unwrap_or(other);
                    all.split('|').next().unwrap_or_default().replace('\\', "")
                }
            },
            Rule::Until(end) => format!("a \"b\"\n{end}"),
            Rule::AnyText => "some text".into(),
            Rule::Tagged { tags, .. } => {
                let (tag, rule) = &tags[next(tags.len())];
                format!("some text{tag}{}", example(rule, turn))
            }
            Rule::Sequence(rules) => rules.iter().map(|rule| example(rule, turn)).collect(),
            Rule::Any(rules) => {
                let at = next(rules.len());
                example(&rules[at], turn)
            }
            Rule::Repeat { rule, min, max } => {
                let n = *min as usize + next(2).min(max.map_or(2, |max| (max - min) as usize));
                (0..n).map(|_| example(rule, turn)).collect()
            }
        }
    }

    fn json_example(schema: &Value) -> Value {
        match schema["type"].as_str() {
            Some("object") => {
                let properties = schema["properties"].as_object().cloned().unwrap_or_default();
                properties.iter().map(|(key, schema)| (key.clone(), json_example(schema))).collect()
            }
            Some("integer" | "number") => json!(-12),
            Some("boolean") => json!(true),
            Some("array") => json!([1, {"x": null}]),
            _ => json!("a } \"b\" é"),
        }
    }

    fn tools(strict: bool) -> Vec<Value> {
        let properties = json!({
            "city": {"type": "string"},
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "integer"},
            "when": {"type": ["string", "null"]},
            "deep": {"type": "object", "properties": {"list": {"type": "array"}}},
        });
        let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}});
        vec![
            tool(
                "weather",
                json!({"type": "object", "properties": properties, "required": ["city", "deep"]}),
            ),
            tool("python", json!({"type": "object", "properties": {"code": {"type": "string"}}})),
            tool("now", json!({"type": "object", "properties": {}})),
        ]
    }

    fn calls(format: &OutputFormat, tools: &[Value], text: &str) -> (Vec<(String, String)>, String) {
        let prompt_end = match format.family {
            Family::Functionary32 => ">>>",
            Family::Harmony => "<|start|>assistant",
            _ => "",
        };
        let mut parser = format.parser(&OutputContext { tools, prompt_end, reasoning_in_text: false });
        let (mut out, mut calls, mut said) = (Vec::new(), Vec::new(), String::new());
        parser.push(Piece::Text(text), &mut out);
        parser.finish(&mut out);
        for output in out {
            match output {
                Output::ToolCall { name, .. } => calls.push((name, String::new())),
                Output::ToolArguments { index, json } => calls[index as usize].1.push_str(&json),
                Output::Content(text) => said.push_str(&text),
                Output::Reasoning(_) => {}
            }
        }
        (calls, said)
    }

    fn formats() -> Vec<OutputFormat> {
        let families = detect::families();
        let styles = [Style::default(), Style { lines: true, arguments: true }];
        let format = |family, style| OutputFormat { family, thoughts: None, style };
        families.into_iter().flat_map(|family| styles.map(|style| format(family, style))).collect()
    }

    /// What the rules force, the parsers read.
    #[test]
    fn every_family_reads_what_its_rule_writes() {
        let tools = tools(false);
        for format in formats() {
            for (choice, one) in [
                (ToolChoice::Required, false),
                (ToolChoice::Required, true),
                (ToolChoice::Named("weather".into()), false),
            ] {
                let rule = format.tool_rule(&tools, &choice, one).expect("a call is forced");
                for mut turn in 0..60 {
                    let text = example(&rule, &mut turn);
                    let (calls, said) = calls(&format, &tools, &text);
                    let what = format!("{:?} {text:?} {calls:?}", format.family);
                    assert!(!calls.is_empty(), "{what}");
                    assert!(said.is_empty() || format.family == Family::Harmony, "{said:?} {what}");
                    assert!(calls.len() == 1 || (!one && choice == ToolChoice::Required), "{what}");
                    for (name, arguments) in &calls {
                        let known = tools.iter().any(|tool| tools::name(tool) == Some(name));
                        let wanted = !matches!(&choice, ToolChoice::Named(wanted) if wanted != name);
                        assert!(known && wanted, "{what}");
                        let value: Value =
                            serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {what}"));
                        assert!(value.is_object(), "{what}");
                        if name == "weather" {
                            assert!(value["city"].is_string() && value["deep"].is_object(), "{what}");
                            assert!(value.get("days").is_none_or(Value::is_number), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_what_must_be_is_enforced() {
        let format = OutputFormat::detect("<tool_call>");
        assert_eq!(format.tool_rule(&tools(false), &ToolChoice::Auto, false), None);
        assert_eq!(format.tool_rule(&tools(true), &ToolChoice::None, false), None);
        assert_eq!(format.tool_rule(&[], &ToolChoice::Required, false), None);
        assert_eq!(format.tool_rule(&tools(true), &ToolChoice::Named("nobody".into()), false), None);
        let rule = format.tool_rule(&tools(true), &ToolChoice::Auto, true);
        assert!(
            matches!(rule, Some(Rule::Tagged { at_least_one: false, at_most_one: true, .. })),
            "{rule:?}"
        );
        for format in formats() {
            let tools = tools(true);
            let rule = format.tool_rule(&tools, &ToolChoice::Auto, false).expect("calls must be valid");
            for mut turn in 0..20 {
                let text = example(&rule, &mut turn);
                let (calls, said) = calls(&format, &tools, &text);
                assert!(!calls.is_empty() || !said.is_empty(), "{:?} {text:?}", format.family);
                for (_, arguments) in calls {
                    assert!(
                        serde_json::from_str::<Value>(&arguments).is_ok(),
                        "{:?} {text:?}",
                        format.family
                    );
                }
            }
        }
    }
}
