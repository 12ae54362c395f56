//! The tools of a chat body, and whether they are called.

use ingle_chat::ToolChoice;
use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};

/// The most tools.
pub const TOOLS_MAX: usize = 1024;
/// How many bytes their definitions may take together.
pub const TOOLS_BYTES_MAX: usize = 1 << 20;
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
    let definitions = fields.list("tools")?.unwrap_or_default();
    if definitions.len() > TOOLS_MAX {
        let text = format!("`tools` has {} entries; at most {TOOLS_MAX} are taken", definitions.len());
        return Err(fields.error("tools", text));
    }
    let mut names: Vec<String> = Vec::with_capacity(definitions.len());
    let mut list = Vec::with_capacity(definitions.len());
    let mut bytes = 0;
    for (i, definition) in definitions.into_iter().enumerate() {
        let path = format!("tools[{i}]");
        let (name, tool) = tool(definition, &path)?;
        if names.contains(&name) {
            let text = format!("there are two tools called `{name}`; names must differ");
            return Err(RequestError::field(format!("{path}.function.name"), text));
        }
        bytes += tool.to_string().len();
        if bytes > TOOLS_BYTES_MAX {
            let text = format!("`tools` takes more than {TOOLS_BYTES_MAX} bytes; send fewer or shorter ones");
            return Err(fields.error("tools", text));
        }
        names.push(name);
        list.push(tool);
    }
    let choice = take_choice(fields, &names, &mut list)?;
    let one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
    Ok(Tools { list, choice, one_call })
}

/// The name of a tool, and its definition with what was left out.
fn tool(value: Value, path: &str) -> Result<(String, Value), RequestError> {
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
    let name = take_name(&mut fields)?;
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
    Ok((name, json!({ "type": "function", "function": function })))
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

/// A function's name, of the characters that every format of calls can spell.
fn take_name(fields: &mut Fields) -> Result<String, RequestError> {
    let path = fields.path("name");
    let name = fields.string("name")?.ok_or_else(|| fields.error("name", format!("`{path}` is missing")))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fits) {
        let text = format!(
            "`{path}` is {}; it must be 1 to {NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, `_`, `.` and `-`",
            quoted(&name)
        );
        return Err(fields.error("name", text));
    }
    Ok(name)
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
    let name = take_name(&mut fields)?;
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
