//! Raw texts: what completions continue, and what becomes vectors.

use ingle_chat::Prompt;
use serde_json::Value;

use super::into_string;
use super::sampling::token_ids;
use crate::RequestError;
use crate::fields::{Fields, wrong_type};

/// Takes a string, a list of strings, a list of token ids, or a list of such lists: `n_max` texts at most.
pub(crate) fn take_prompts(
    fields: &mut Fields,
    name: &str,
    n_max: usize,
) -> Result<Option<Vec<Prompt>>, RequestError> {
    const WANTED: &str = "a string, a list of strings, a list of token ids, or a list of lists of token ids";
    let list = match fields.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(vec![Prompt::Text(text)])),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type(name, WANTED, &other)),
    };
    let too_many = || {
        let text = format!("`{name}` has {} entries; at most {n_max} are taken", list.len());
        RequestError::field(name, text)
    };
    let prompts = match list.first() {
        None => Err(RequestError::field(name, format!("`{name}` is an empty list: give at least one text"))),
        Some(Value::Number(_)) => Ok(vec![tokens(&list, name)?]),
        Some(Value::String(_) | Value::Array(_)) if list.len() > n_max => Err(too_many()),
        Some(Value::String(_)) => {
            let text = |(i, v)| into_string(v, &format!("{name}[{i}]")).map(Prompt::Text);
            list.into_iter().enumerate().map(text).collect()
        }
        Some(Value::Array(_)) => {
            let prompt = |(i, v): (usize, Value)| {
                let path = format!("{name}[{i}]");
                match v {
                    Value::Array(ids) => tokens(&ids, &path),
                    other => Err(wrong_type(&path, "a list of token ids", &other)),
                }
            };
            list.into_iter().enumerate().map(prompt).collect()
        }
        Some(other) => Err(wrong_type(name, WANTED, other)),
    };
    prompts.map(Some)
}

fn tokens(ids: &[Value], path: &str) -> Result<Prompt, RequestError> {
    token_ids(ids, path).map(Prompt::Tokens)
}
