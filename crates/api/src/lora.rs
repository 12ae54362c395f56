//! The field `lora`, as llama-server has it: `[{"id": 0, "scale": 0.5}]`. Adapters that are not in the list are not added.

use ingle_chat::{AdapterName, AdapterWish};
use serde_json::Value;

use crate::RequestError;
use crate::fields::Fields;
use crate::openapi::schema::{Object, Schema, integer, list, number};

/// The longest list.
pub(crate) const ADAPTERS_MAX: usize = 256;
/// How strongly an adapter may be applied, either way.
const SCALE_MAX: f64 = 1000.0;

/// Takes `lora`.
pub(crate) fn take_lora(fields: &mut Fields) -> Result<Option<Vec<AdapterWish>>, RequestError> {
    let path = fields.path("lora");
    let list = fields.list("lora")?;
    list.map(|list| wishes(list, &path)).transpose()
}

/// Reads a list of adapters by their numbers; `path` says where it is, and is empty where it is the body.
pub(crate) fn wishes(list: Vec<Value>, path: &str) -> Result<Vec<AdapterWish>, RequestError> {
    if list.len() > ADAPTERS_MAX {
        let text = format!("{} adapters are listed; at most {ADAPTERS_MAX} are taken", list.len());
        return Err(if path.is_empty() { RequestError::body(text) } else { RequestError::field(path, text) });
    }
    let wish = |(i, value)| {
        let mut fields = Fields::nested(value, &format!("{path}[{i}]"))?;
        let id = fields.integer(&["id"], 0, i128::from(u32::MAX))?;
        let scale = fields.number(&["scale"], -SCALE_MAX, SCALE_MAX)?;
        let missing = |name: &str| fields.error(name, format!("`{}` is missing", fields.path(name)));
        let id = id.ok_or_else(|| missing("id"))? as u32;
        let scale = scale.ok_or_else(|| missing("scale"))?;
        fields.finish()?;
        Ok(AdapterWish { adapter: AdapterName::Number(id), scale })
    };
    list.into_iter().enumerate().map(wish).collect()
}

/// What such a list is.
pub(crate) fn schema() -> Schema {
    let one = Object::new()
        .must("id", integer(0, i128::from(u32::MAX)), "Its number in `/lora-adapters`.")
        .must("scale", number(-SCALE_MAX, SCALE_MAX), "How strongly; 1 is as it was trained.");
    list(one.schema()).entries(0, ADAPTERS_MAX)
}
