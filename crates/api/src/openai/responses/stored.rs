//! What is kept of a response, and the pages that show it.

use std::collections::HashSet;

use ingle_chat::{Content, Part, Role};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::json as text;
use super::input::{Item, What, item};
use super::output::tail;
use crate::RequestError;
use crate::error::quoted;

/// The most items on a page of a list, and how many there are if nothing is said.
const LIMIT_MAX: usize = 100;
const LIMIT_DEFAULT: usize = 20;

/// A stored response of a conversation that is continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTurn {
    /// What was new in its input, as [`super::ResponsesCall::stored_input`] made it.
    pub input: String,
    /// The reply.
    pub body: String,
}

/// The items as they are stored and listed. Those without an id, or with one that another has, get one of their own.
pub(super) fn stored_items(items: &[Item], response_id: &str) -> String {
    let mut ids = HashSet::new();
    let tail = tail(response_id);
    let shown = items.iter().enumerate().map(|(i, item)| {
        let given = item.id.as_deref().filter(|id| !id.is_empty() && ids.insert((*id).to_owned()));
        let prefix = match item.what {
            What::Message { .. } => "msg",
            What::Reasoning { .. } => "rs",
            What::Call { .. } => "fc",
            What::CallOutput { .. } => "fco",
        };
        let id = given.map_or_else(|| format!("{prefix}_{tail}_in{i}"), str::to_owned);
        shown(&id, item)
    });
    text(&shown.collect::<Vec<_>>())
}

fn shown(id: &str, item: &Item) -> Value {
    let parts = |kind: &str, content: &Content| match content {
        Content::None => json!([]),
        Content::Text(text) => json!([{ "type": kind, "text": text }]),
        Content::Parts(parts) => {
            parts.iter().map(|Part::Text(text)| json!({ "type": kind, "text": text })).collect()
        }
    };
    let listed = |kind: &str, texts: &[String]| -> Value {
        texts.iter().map(|text| json!({ "type": kind, "text": text })).collect()
    };
    match &item.what {
        What::Message { role, content } => {
            let content = if *role == Role::Assistant {
                let mut content = parts("output_text", content);
                for part in content.as_array_mut().into_iter().flatten() {
                    part["annotations"] = json!([]);
                }
                content
            } else {
                parts("input_text", content)
            };
            json!({ "id": id, "type": "message", "status": "completed", "role": role.name(), "content": content })
        }
        What::Reasoning { summary, content } => json!({
            "id": id, "type": "reasoning", "summary": listed("summary_text", summary),
            "content": listed("reasoning_text", content),
        }),
        What::Call { call_id, name, arguments, parsed } => {
            let status = if parsed.is_string() { "incomplete" } else { "completed" };
            json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": arguments,
            })
        }
        What::CallOutput { call_id, content } => {
            let output = match content {
                Content::Text(text) => json!(text),
                other => parts("input_text", other),
            };
            json!({
                "id": id, "type": "function_call_output", "status": "completed", "call_id": call_id, "output": output,
            })
        }
    }
}

/// Appends the items of a stored response.
pub(super) fn turn_items(turn: &StoredTurn, items: &mut Vec<Item>) -> Result<(), RequestError> {
    const PATH: &str = "previous_response_id";
    let unreadable =
        || RequestError::field(PATH, "the stored conversation cannot be read; send all of it as `input`");
    let mut append = |list: Value| -> Result<(), RequestError> {
        let Value::Array(list) = list else { return Err(unreadable()) };
        for value in list {
            items.push(item(value, PATH).map_err(|_| unreadable())?);
        }
        Ok(())
    };
    append(serde_json::from_str(&turn.input).map_err(|_| unreadable())?)?;
    let mut body: Value = serde_json::from_str(&turn.body).map_err(|_| unreadable())?;
    if is_unfinished(&body) {
        let text = "the response that this one continues is not complete yet; wait until it is";
        return Err(RequestError::field(PATH, text).with_code("response_not_complete"));
    }
    append(body.get_mut("output").map(Value::take).unwrap_or_default())
}

/// Which items of a response's input are shown, and in what order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    limit: usize,
    newest_first: bool,
    after: Option<String>,
}

impl ListOptions {
    /// From the names and values of a query.
    ///
    /// # Errors
    /// The name or value that is not known.
    pub fn parse<'a>(query: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, RequestError> {
        let mut options = Self { limit: LIMIT_DEFAULT, newest_first: true, after: None };
        for (name, value) in query {
            match (name, value) {
                ("limit", n) => {
                    let fits = |n: &usize| (1..=LIMIT_MAX).contains(n);
                    options.limit = n.parse().ok().filter(fits).ok_or_else(|| {
                        let text = format!("`limit` must be from 1 to {LIMIT_MAX}, not {}", quoted(n));
                        RequestError::field("limit", text)
                    })?;
                }
                ("order", "asc") => options.newest_first = false,
                ("order", "desc") => options.newest_first = true,
                ("order", other) => {
                    let text = format!("`order` is {}; it can be asc or desc", quoted(other));
                    return Err(RequestError::field("order", text));
                }
                ("after", id) => options.after = Some(id.to_owned()),
                // Everything that there is to be included is.
                ("include" | "include[]", _) => {}
                (other, _) => {
                    let text = format!("unknown parameter {}: remove it", quoted(other));
                    return Err(RequestError::field(crate::shown(other), text).with_code("unknown_field"));
                }
            }
        }
        Ok(options)
    }
}

/// A page of items.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseItemList")]
pub struct ItemList {
    object: &'static str,
    data: Vec<Value>,
    first_id: Option<Value>,
    last_id: Option<Value>,
    has_more: bool,
}

impl ItemList {
    /// As a reply body.
    pub fn into_json(self) -> String {
        text(&self)
    }
}

/// A page of a stored input; `None` if the text is no stored input.
///
/// # Errors
/// If `after` names no item.
pub fn input_items(stored: &str, options: &ListOptions) -> Option<Result<ItemList, RequestError>> {
    let mut items: Vec<Value> = serde_json::from_str(stored).ok()?;
    if options.newest_first {
        items.reverse();
    }
    if let Some(after) = &options.after {
        let Some(at) = items.iter().position(|item| item["id"] == after.as_str()) else {
            let text = format!("`after` is {}, which is no item of this input", quoted(after));
            return Some(Err(RequestError::field("after", text)));
        };
        items.drain(..=at);
    }
    let has_more = items.len() > options.limit;
    items.truncate(options.limit);
    let id = |item: &Value| item["id"].clone();
    let (first_id, last_id) = (items.first().map(id), items.last().map(id));
    Some(Ok(ItemList { object: "list", data: items, first_id, last_id, has_more }))
}

/// Whether a response in the background is still to come.
fn is_unfinished(body: &Value) -> bool {
    matches!(body["status"].as_str(), Some("queued" | "in_progress"))
}

/// Whether a stored response was made in the background.
pub fn is_background(stored: &str) -> bool {
    serde_json::from_str::<Value>(stored).is_ok_and(|body| body["background"] == true)
}

/// The body of a stored response whose answer will not come, because the server that made it is gone; `None` if it is
/// complete.
pub fn interrupted(stored: &str) -> Option<String> {
    let mut body: Value = serde_json::from_str(stored).ok().filter(is_unfinished)?;
    body["status"] = json!("failed");
    body["error"] = json!({
        "code": "server_error",
        "message": "the server stopped before the answer was complete; send the request again",
    });
    Some(body.to_string())
}

/// The reply to a deletion.
pub fn deleted(id: &str) -> String {
    json!({ "id": id, "object": "response", "deleted": true }).to_string()
}
