//! Tools, and whether they are called.

use ingle_chat::ToolChoice;
use serde_json::{Map, Value, json};

use super::content::{missing, required, take_cache_control};
use crate::RequestError;
use crate::error::quoted;
use crate::fields::Fields;
use crate::tools::Tool;

/// The longest name of a tool in bytes.
pub(super) const TOOL_NAME_BYTES_MAX: usize = 128;

/// Tools in the shape that templates and parsers know, which is OpenAI's, and what is wanted of them.
#[derive(Debug, Default)]
pub(super) struct Tools {
    pub definitions: Vec<Value>,
    pub choice: ToolChoice,
    pub at_most_one_call: bool,
}

/// Takes `tools` and `tool_choice`.
pub(super) fn take_tools(fields: &mut Fields) -> Result<Tools, RequestError> {
    let tools = crate::tools::take_tools(fields, tool)?;
    let names: Vec<String> = tools.iter().map(|t| t.name.clone()).collect();
    let definitions = tools.into_iter().map(|t| t.definition).collect();
    let (choice, at_most_one_call) = match fields.take("tool_choice") {
        None => (ToolChoice::Auto, false),
        Some(value) => tool_choice(Fields::nested(value, "tool_choice")?, &names)?,
    };
    Ok(Tools { definitions, choice, at_most_one_call })
}

fn tool(value: Value, path: &str) -> Result<Tool, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let (name, definition) = take_tool(&mut fields)?;
    let name_path = fields.path("name");
    fields.finish()?;
    Ok(Tool { name, name_path, definition, more: () })
}

/// The name and the definition.
fn take_tool(fields: &mut Fields) -> Result<(String, Value), RequestError> {
    if let Some(kind) = fields.string("type")?.filter(|kind| kind != "custom") {
        let text = format!(
            "`{}` is {}: this server has no tools of its own; define it as a custom tool, with `name` and \
             `input_schema`, and run it on the client's side",
            fields.path("type"),
            quoted(&kind)
        );
        return Err(fields.error("type", text).with_code("unsupported_value"));
    }
    let name = required(fields, "name")?;
    let fit = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    if !(1..=TOOL_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fit) {
        let text = format!(
            "`{}` must be made of 1 to {TOOL_NAME_BYTES_MAX} letters, digits, `_` and `-`, not {}",
            fields.path("name"),
            quoted(&name)
        );
        return Err(fields.error("name", text));
    }
    let description = fields.string("description")?;
    let schema = fields.object("input_schema")?.ok_or_else(|| missing(fields, "input_schema"))?;
    if schema.get("type").is_some_and(|kind| kind != "object") {
        let text = format!("`{}.type` must be \"object\"", fields.path("input_schema"));
        return Err(fields.error("input_schema.type", text));
    }
    let strict = fields.bool("strict")?;
    take_cache_control(fields)?;
    // Arguments are always streamed as they are generated.
    fields.bool("eager_input_streaming")?;
    take_unsupported(fields)?;
    let mut function = Map::new();
    function.insert("name".into(), name.clone().into());
    if let Some(description) = description {
        function.insert("description".into(), description.into());
    }
    function.insert("parameters".into(), Value::Object(schema));
    if let Some(strict) = strict {
        function.insert("strict".into(), strict.into());
    }
    Ok((name, json!({ "type": "function", "function": function })))
}

/// Takes what a tool can have and this server cannot do, with values that ask for none of it.
fn take_unsupported(fields: &mut Fields) -> Result<(), RequestError> {
    let refuse = |fields: &Fields, name: &str, advice: &str| {
        let text = format!("`{}` is not supported: {advice}", fields.path(name));
        Err(fields.error(name, text).with_code("unsupported_field"))
    };
    if fields.bool("defer_loading")? == Some(true) {
        return refuse(fields, "defer_loading", "tools are not searched for; give those that may be called");
    }
    if fields.list("allowed_callers")?.is_some_and(|list| list.iter().any(|caller| caller != "direct")) {
        return refuse(fields, "allowed_callers", "only the model calls tools, which is \"direct\"");
    }
    if fields.list("input_examples")?.is_some_and(|list| !list.is_empty()) {
        return refuse(fields, "input_examples", "put the examples into the description");
    }
    Ok(())
}

fn tool_choice(mut fields: Fields, names: &[String]) -> Result<(ToolChoice, bool), RequestError> {
    let kind = required(&mut fields, "type")?;
    let at_most_one_call = match kind.as_str() {
        "none" => false,
        _ => fields.bool("disable_parallel_tool_use")?.unwrap_or(false),
    };
    let choice = match kind.as_str() {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" if names.is_empty() => {
            return Err(fields.error("type", "`tool_choice.type` is \"any\", but `tools` is empty"));
        }
        "any" => ToolChoice::Required,
        "tool" => {
            let name = required(&mut fields, "name")?;
            if !names.contains(&name) {
                let text = format!("`tool_choice.name` is {}, which is not in `tools`", quoted(&name));
                return Err(fields.error("name", text));
            }
            ToolChoice::Named(name)
        }
        other => {
            let text = format!("`tool_choice.type` is {}; it can be auto, any, tool or none", quoted(other));
            return Err(fields.error("type", text));
        }
    };
    fields.finish()?;
    Ok((choice, at_most_one_call))
}
