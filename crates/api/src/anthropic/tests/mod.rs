//! Bodies and what they mean; pieces of answers and what is written of them.

mod answers;
mod bodies;

use ingle_chat::Principal;
use serde_json::{Value, json};

use super::messages::parse;
use super::*;
use crate::openai::Caller;

fn caller() -> Caller {
    Caller { id: "msg_1".into(), principal: Principal::local() }
}

/// A plain body with more fields, or others.
fn body(more: Value) -> Value {
    let mut body =
        json!({ "model": "m", "max_tokens": 2048, "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn read(more: Value) -> Result<MessagesCall, crate::RequestError> {
    parse(body(more).to_string().as_bytes(), caller())
}
