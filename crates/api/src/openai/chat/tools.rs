//! The tools of a chat body, and whether they are called.

use ingle_chat::ToolChoice;
use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::tools::{TOOLS_MAX, Tool, take_name, take_tools as take_definitions};

/// The longest name of a function.
const NAME_BYTES_MAX: usize = 64;

/// What a body says about tools.
pub(super) struct Tools {
    /// Their definitions, as templates see them.
    pub list: Vec<Value>,
    /// Whether they are called.
    pub choice: ToolChoice,
    /// At most one call.
    pub one_call: bool,
}

/// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn take_tools(fields: &mut Fields) -> Result<Tools, RequestError> {
    let tools = take_definitions(fields, tool)?;
    let names: Vec<String> = tools.iter().map(|t| t.name.clone()).collect();
    let mut list = tools.into_iter().map(|t| t.definition).collect();
    let choice = take_choice(fields, &names, &mut list)?;
    let one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
    Ok(Tools { list, choice, one_call })
}

/// A tool, its definition with what was left out.
fn tool(value: Value, path: &str) -> Result<Tool, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    take_function_type(&mut fields)?;
    let function = fields.object("function")?;
    let mut function =
        function.ok_or_else(|| fields.error("function", format!("`{path}.function` is missing")))?;
    // Prompts are cached whether or not a client marks them.
    fields.object("cache_control")?;
    fields.finish()?;
    let path = format!("{path}.function");
    let mut fields = Fields::nested(Value::Object(function.clone()), &path)?;
    let (name, name_path) = (take_name(&mut fields, NAME_BYTES_MAX)?, fields.path("name"));
    fields.string("description")?;
    let has_parameters = fields.object("parameters")?.is_some();
    fields.bool("strict")?;
    // Some templates show what a function gives back.
    fields.object("return")?;
    fields.finish()?;
    // Fields stay in the client's order: templates print them as they came.
    function.retain(|_, v| !v.is_null());
    if !has_parameters {
        function.insert("parameters".into(), json!({ "type": "object", "properties": {} }));
    }
    let definition = json!({ "type": "function", "function": function });
    Ok(Tool { name, name_path, definition, more: () })
}

fn take_function_type(fields: &mut Fields) -> Result<(), RequestError> {
    match fields.string("type")? {
        Some(kind) if kind != "function" => {
            let text =
                format!("`{}` is {}; only \"function\" is supported", fields.path("type"), quoted(&kind));
            Err(fields.error("type", text).with_code("unsupported_value"))
        }
        _ => Ok(()),
    }
}

/// Takes `tool_choice`. What it does not allow leaves the list.
fn take_choice(
    fields: &mut Fields,
    names: &[String],
    list: &mut Vec<Value>,
) -> Result<ToolChoice, RequestError> {
    const WANTED: &str = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"function\": {\"name\": …}} or \
                          {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": …, \"tools\": […]}}";
    let choice = match fields.take("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            other => {
                let text = format!("`tool_choice` is {}; it can be {WANTED}", quoted(other));
                return Err(fields.error("tool_choice", text));
            }
        },
        Some(Value::Object(mut object)) => match object.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => {
                object.shift_remove("type");
                take_allowed(object, names, list)?
            }
            Some("function") => ToolChoice::Named(chosen(Value::Object(object), "tool_choice", names)?),
            _ => {
                let text = format!("`tool_choice.type` must be \"function\" or \"allowed_tools\": {WANTED}");
                return Err(RequestError::field("tool_choice.type", text));
            }
        },
        Some(other) => return Err(wrong_type("tool_choice", WANTED, &other)),
    };
    if names.is_empty() && !matches!(choice, ToolChoice::None | ToolChoice::Auto) {
        return Err(fields.error("tool_choice", "`tool_choice` asks for a call, but there are no `tools`"));
    }
    Ok(choice)
}

/// The name in `{"type": "function", "function": {"name": …}}`, which must be a tool's.
fn chosen(value: Value, path: &str, names: &[String]) -> Result<String, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    take_function_type(&mut fields)?;
    let function = fields.take("function");
    let function =
        function.ok_or_else(|| fields.error("function", format!("`{path}.function` is missing")))?;
    fields.finish()?;
    let mut fields = Fields::nested(function, &format!("{path}.function"))?;
    let name = take_name(&mut fields, NAME_BYTES_MAX)?;
    if !names.contains(&name) {
        let text = format!("`{}` is `{name}`, which is not in `tools`", fields.path("name"));
        return Err(fields.error("name", text));
    }
    fields.finish()?;
    Ok(name)
}

/// `allowed_tools`: the others might as well not be there.
fn take_allowed(
    object: Map<String, Value>,
    names: &[String],
    list: &mut Vec<Value>,
) -> Result<ToolChoice, RequestError> {
    let mut outer = Fields::nested(Value::Object(object), "tool_choice")?;
    let missing = |path: &str| RequestError::field(path, format!("`{path}` is missing"));
    let inner = outer.take("allowed_tools").ok_or_else(|| missing("tool_choice.allowed_tools"))?;
    outer.finish()?;
    let mut fields = Fields::nested(inner, "tool_choice.allowed_tools")?;
    let choice = match fields.string("mode")?.as_deref() {
        Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        _ => {
            let text = "`tool_choice.allowed_tools.mode` must be \"auto\" or \"required\"";
            return Err(fields.error("mode", text));
        }
    };
    let path = fields.path("tools");
    let allowed = fields.list("tools")?.filter(|l| !l.is_empty()).ok_or_else(|| missing(&path))?;
    if allowed.len() > TOOLS_MAX {
        let text = format!("`{path}` has {} entries; at most {TOOLS_MAX} are taken", allowed.len());
        return Err(RequestError::field(path, text));
    }
    let allowed: Vec<String> = allowed
        .into_iter()
        .enumerate()
        .map(|(i, v)| chosen(v, &format!("{path}[{i}]"), names))
        .collect::<Result<_, _>>()?;
    fields.finish()?;
    let mut stays = names.iter().map(|name| allowed.contains(name));
    list.retain(|_| stays.next().unwrap_or(false));
    Ok(choice)
}
