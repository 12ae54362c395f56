//! What every dialect's list of tools has to keep to: how many there are, how large they are, and that names differ.

use serde_json::Value;

use crate::RequestError;
use crate::error::quoted;
use crate::fields::Fields;

/// The most tools of a request.
pub const TOOLS_MAX: usize = 1024;
/// How many bytes their definitions may take together.
pub const TOOLS_BYTES_MAX: usize = 1 << 20;

/// A tool, read.
#[derive(Debug)]
pub(crate) struct Tool<T = ()> {
    pub name: String,
    /// Where the name is in the body.
    pub name_path: String,
    /// The definition in OpenAI's shape, which is what templates and parsers know.
    pub definition: Value,
    /// What else the dialect keeps of it.
    pub more: T,
}

/// Takes `tools`; `read` reads one, at a path.
pub(crate) fn take_tools<T>(
    fields: &mut Fields,
    read: impl Fn(Value, &str) -> Result<Tool<T>, RequestError>,
) -> Result<Vec<Tool<T>>, RequestError> {
    let list = fields.list("tools")?.unwrap_or_default();
    if list.len() > TOOLS_MAX {
        let text = format!("`tools` has {} entries; at most {TOOLS_MAX} are taken", list.len());
        return Err(fields.error("tools", text));
    }
    let mut tools: Vec<Tool<T>> = Vec::with_capacity(list.len());
    let mut bytes = 0;
    for (i, value) in list.into_iter().enumerate() {
        let tool = read(value, &format!("tools[{i}]"))?;
        if tools.iter().any(|t| t.name == tool.name) {
            let text = format!(
                "`{}`: there are two tools called {}; rename one",
                tool.name_path,
                quoted(&tool.name)
            );
            return Err(RequestError::field(tool.name_path, text));
        }
        bytes += tool.definition.to_string().len();
        if bytes > TOOLS_BYTES_MAX {
            let text = format!("`tools` takes more than {TOOLS_BYTES_MAX} bytes; send fewer or shorter ones");
            return Err(fields.error("tools", text));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// Takes a function's name, of the characters that every format of calls can spell.
pub(crate) fn take_name(fields: &mut Fields, bytes_max: usize) -> Result<String, RequestError> {
    let path = fields.path("name");
    let name = fields.string("name")?.ok_or_else(|| fields.error("name", format!("`{path}` is missing")))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !(1..=bytes_max).contains(&name.len()) || !name.bytes().all(fits) {
        let text = format!(
            "`{path}` is {}; it must be 1 to {bytes_max} of the characters a-z, A-Z, 0-9, `_`, `.` and `-`",
            quoted(&name)
        );
        return Err(fields.error("name", text));
    }
    Ok(name)
}
