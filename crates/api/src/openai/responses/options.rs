//! Tools, the format of the text, and wishes about thinking.

use ingle_chat::{Format, ReasoningWish, ToolChoice};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::openai::chat::EFFORTS;
use crate::openai::constraint::NamedSchema;
use crate::tools::{Tool, take_name};

/// The longest name of a function in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;

/// A function, as bodies and replies have it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseTool")]
pub(super) struct ToolField {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    strict: bool,
}

impl ToolField {
    /// In the nested shape that templates are written for.
    pub fn for_template(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), json!(self.name));
        if let Some(description) = &self.description {
            function.insert("description".into(), json!(description));
        }
        let no_parameters = || json!({ "type": "object", "properties": {} });
        let parameters = self.parameters.clone().map_or_else(no_parameters, Value::Object);
        function.insert("parameters".into(), parameters);
        if self.strict {
            function.insert("strict".into(), Value::Bool(true));
        }
        json!({ "type": "function", "function": function })
    }
}

/// `tool_choice`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ToolChoiceField {
    #[default]
    Auto,
    None,
    Required,
    Function(String),
}

impl ToolChoiceField {
    pub fn neutral(&self) -> ToolChoice {
        match self {
            Self::Auto => ToolChoice::Auto,
            Self::None => ToolChoice::None,
            Self::Required => ToolChoice::Required,
            Self::Function(name) => ToolChoice::Named(name.clone()),
        }
    }

    /// As replies repeat it.
    pub fn shown(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::None => "none".into(),
            Self::Required => "required".into(),
            Self::Function(name) => json!({ "type": "function", "name": name }),
        }
    }
}

/// Takes `tools` and `tool_choice`.
pub(super) fn take_tools(fields: &mut Fields) -> Result<(ToolChoiceField, Vec<ToolField>), RequestError> {
    let tools: Vec<ToolField> =
        crate::tools::take_tools(fields, tool)?.into_iter().map(|tool| tool.more).collect();
    let choice = take_tool_choice(fields, &tools)?;
    Ok((choice, tools))
}

fn tool(value: Value, path: &str) -> Result<Tool<ToolField>, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    match fields.string("type")?.as_deref() {
        Some("function") => {}
        Some(other) => {
            let text = format!(
                "`{path}.type` is {}: this server runs no tools itself; offer a tool of type \"function\" and run it \
                 on your side",
                quoted(other)
            );
            return Err(fields.error("type", text).with_code("unsupported_value"));
        }
        None => return Err(fields.error("type", format!("`{path}.type` is missing"))),
    }
    let (name, name_path) = (take_name(&mut fields, NAME_BYTES_MAX)?, fields.path("name"));
    let description = fields.string("description")?;
    let parameters = fields.object("parameters")?;
    let strict = fields.bool("strict")?.unwrap_or(false);
    for name in ["defer_loading", "async"] {
        if fields.bool(name)? == Some(true) {
            let text = format!("`{}` is not supported; remove it", fields.path(name));
            return Err(fields.error(name, text).with_code("unsupported_value"));
        }
    }
    fields.finish()?;
    let more = ToolField { kind: "function", name: name.clone(), description, parameters, strict };
    Ok(Tool { name, name_path, definition: more.for_template(), more })
}

fn take_tool_choice(fields: &mut Fields, tools: &[ToolField]) -> Result<ToolChoiceField, RequestError> {
    const NAME: &str = "tool_choice";
    let needs_tools = || RequestError::field(NAME, "`tool_choice` asks for a call, and there are no `tools`");
    match fields.take(NAME) {
        None => Ok(ToolChoiceField::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoiceField::Auto),
            "none" => Ok(ToolChoiceField::None),
            "required" if tools.is_empty() => Err(needs_tools()),
            "required" => Ok(ToolChoiceField::Required),
            other => Err(RequestError::field(
                NAME,
                format!("`tool_choice` is {}; it can be auto, none, required or a function", quoted(other)),
            )),
        },
        Some(value @ Value::Object(_)) => {
            let mut choice = Fields::nested(value, NAME)?;
            match choice.string("type")?.as_deref() {
                Some("function") => {}
                other => {
                    let text = format!(
                        "`tool_choice.type` is {}; it can be function",
                        other.map_or_else(|| "missing".into(), quoted)
                    );
                    return Err(choice.error("type", text).with_code("unsupported_value"));
                }
            }
            let missing = || RequestError::field("tool_choice.name", "`tool_choice.name` is missing");
            let name = choice.string("name")?.ok_or_else(missing)?;
            choice.finish()?;
            if tools.is_empty() {
                return Err(needs_tools());
            }
            if !tools.iter().any(|t| t.name == name) {
                let text = format!("`tool_choice.name` is {}, which `tools` does not have", quoted(&name));
                return Err(RequestError::field("tool_choice.name", text));
            }
            Ok(ToolChoiceField::Function(name))
        }
        Some(other) => Err(wrong_type(NAME, "a string or an object", &other)),
    }
}

/// Takes `text`: what the answer must obey, and how the reply repeats it.
pub(super) fn take_format(fields: &mut Fields) -> Result<(Option<Format>, Value), RequestError> {
    let plain = || json!({ "type": "text" });
    let Some(value) = fields.take("text") else { return Ok((None, plain())) };
    let mut text = Fields::nested(value, "text")?;
    if text.string("verbosity")?.is_some_and(|v| v != "medium") {
        let advice = "`text.verbosity` is not supported but for \"medium\"; ask for short or long answers in the \
                      instructions";
        return Err(text.error("verbosity", advice).with_code("unsupported_value"));
    }
    let format = text.take("format");
    text.finish()?;
    let Some(format) = format else { return Ok((None, plain())) };
    const PATH: &str = "text.format";
    let mut format = Fields::nested(format, PATH)?;
    let kind = format.string("type")?;
    let kind = kind.ok_or_else(|| format.error("type", format!("`{PATH}.type` is missing")))?;
    let found = match kind.as_str() {
        "text" => (None, plain()),
        "json_object" => (Some(Format::JsonObject), json!({ "type": "json_object" })),
        "json_schema" => {
            let named = NamedSchema::take(&mut format)?;
            let missing = || format.error("name", format!("`{PATH}.name` is missing"));
            let NamedSchema { name, description, schema, strict } = named;
            let name = name.ok_or_else(missing)?;
            let shown = json!({
                "type": "json_schema", "name": name, "description": description, "schema": schema, "strict": strict,
            });
            (Some(Format::JsonSchema(schema)), shown)
        }
        other => {
            let text =
                format!("`{PATH}.type` is {}; it can be text, json_object or json_schema", quoted(other));
            return Err(format.error("type", text).with_code("unsupported_value"));
        }
    };
    format.finish()?;
    Ok(found)
}

/// `reasoning`, as bodies and replies have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseReasoning")]
pub(super) struct Reasoning {
    effort: Option<String>,
    summary: Option<String>,
}

impl Reasoning {
    pub fn wish(&self) -> ReasoningWish {
        match self.effort.as_deref() {
            Some("none") => ReasoningWish { enabled: Some(false), ..ReasoningWish::default() },
            effort => ReasoningWish { effort: effort.map(str::to_owned), ..ReasoningWish::default() },
        }
    }
}

/// Takes `reasoning`.
pub(super) fn take_reasoning(fields: &mut Fields) -> Result<Reasoning, RequestError> {
    let Some(value) = fields.take("reasoning") else { return Ok(Reasoning::default()) };
    let mut fields = Fields::nested(value, "reasoning")?;
    let effort = fields.string("effort")?;
    if let Some(effort) = effort.as_deref().filter(|e| !EFFORTS.contains(e)) {
        let text = format!("`reasoning.effort` is {}; it can be {}", quoted(effort), EFFORTS.join(", "));
        return Err(fields.error("effort", text));
    }
    let summary = fields.take_any(&["summary", "generate_summary"])?;
    if let Some((name, value)) = &summary
        && value != "auto"
    {
        let text = format!(
            "`{}` can only be \"auto\": thoughts are not summarized, they come as they are, as `reasoning_text`",
            fields.path(name)
        );
        return Err(fields.error(name, text).with_code("unsupported_value"));
    }
    fields.finish()?;
    Ok(Reasoning { effort, summary: summary.map(|_| "auto".to_owned()) })
}
