//! `/tokenize`, `/detokenize`, `/apply-template`: what a model sees, without running it.

use ingle_chat::Request;
use ingle_step::TokenId;
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::openai::Caller;
use crate::openai::chat;
use crate::openai::sampling::{take_model, token_ids};
use crate::{RequestError, parse_object};

/// A body of `/tokenize`, read.
#[derive(Clone, Debug)]
pub struct TokenizeCall {
    /// Whose tokens.
    pub model: Option<String>,
    /// Of what.
    pub input: TokenizeInput,
    shape: Shape,
}

/// What is to become tokens.
#[derive(Clone, Debug)]
pub enum TokenizeInput {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// With what the model wants around a prompt.
        add_special: bool,
        /// The text may spell control tokens. Nothing is generated from them.
        parse_special: bool,
    },
    /// A conversation, as chat completions would run it.
    Chat(Box<Request>),
}

/// Whose shape the reply has.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// llama-server's.
    Tokens { with_pieces: bool },
    /// vLLM's.
    Counted { with_strings: bool },
}

/// Reads a body of `/tokenize`: llama-server's `content`, or vLLM's `prompt` or `messages`.
pub fn parse_tokenize(body: &[u8], caller: Caller) -> Result<TokenizeCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    match ["content", "prompt", "messages"].map(|name| fields.has(name)) {
        [true, false, false] => {
            let text = fields.string("content")?.unwrap_or_default();
            let add_special = fields.bool("add_special")?.unwrap_or(false);
            let parse_special = fields.bool("parse_special")?.unwrap_or(true);
            let with_pieces = fields.bool("with_pieces")?.unwrap_or(false);
            let model = take_model(&mut fields)?;
            fields.finish()?;
            let input = TokenizeInput::Text { text, add_special, parse_special };
            Ok(TokenizeCall { model, input, shape: Shape::Tokens { with_pieces } })
        }
        [false, true, false] => {
            let text = fields.string("prompt")?.unwrap_or_default();
            let add_special = fields.bool("add_special_tokens")?.unwrap_or(true);
            let with_strings = fields.bool("return_token_strs")?.unwrap_or(false);
            let model = take_model(&mut fields)?;
            fields.finish()?;
            // As completions read a prompt: what it says is content.
            let input = TokenizeInput::Text { text, add_special, parse_special: false };
            Ok(TokenizeCall { model, input, shape: Shape::Counted { with_strings } })
        }
        [false, false, true] => {
            if fields.bool("add_special_tokens")? == Some(true) {
                let text = "`add_special_tokens` cannot be true with `messages`: the template decides";
                return Err(fields.error("add_special_tokens", text).with_code("unsupported_value"));
            }
            let with_strings = fields.bool("return_token_strs")?.unwrap_or(false);
            let request = chat::read(fields, caller)?.request;
            let model = request.model.clone();
            let input = TokenizeInput::Chat(Box::new(request));
            Ok(TokenizeCall { model, input, shape: Shape::Counted { with_strings } })
        }
        [false, false, false] => {
            let text =
                "nothing to tokenize: give `content` (llama-server's shape), `prompt` or `messages` (vLLM's)";
            Err(RequestError::field("content", text))
        }
        [_, has_prompt, _] => {
            let text = "`content`, `prompt` and `messages` are different inputs; give one of them";
            Err(RequestError::field(if has_prompt { "prompt" } else { "messages" }, text))
        }
    }
}

impl TokenizeCall {
    /// Whether the reply shows what each token spells.
    pub fn needs_bytes(&self) -> bool {
        matches!(self.shape, Shape::Tokens { with_pieces: true } | Shape::Counted { with_strings: true })
    }

    /// The reply. `bytes` are the tokens' if they are needed, `n_ctx` is the model's context.
    pub fn reply(&self, tokens: &[TokenId], bytes: &[Vec<u8>], n_ctx: usize) -> String {
        let ids = || -> Vec<u32> { tokens.iter().map(|t| t.0).collect() };
        match self.shape {
            Shape::Tokens { with_pieces: false } => json!({ "tokens": ids() }),
            Shape::Tokens { with_pieces: true } => {
                // What is no text of its own comes as its bytes.
                let piece = |bytes: &Vec<u8>| match std::str::from_utf8(bytes) {
                    Ok(text) => Value::from(text),
                    Err(_) => Value::from(bytes.as_slice()),
                };
                let pieces = tokens.iter().zip(bytes).map(|(t, b)| json!({ "id": t.0, "piece": piece(b) }));
                json!({ "tokens": pieces.collect::<Vec<_>>() })
            }
            Shape::Counted { with_strings } => {
                let strings: Option<Vec<_>> =
                    with_strings.then(|| bytes.iter().map(|b| String::from_utf8_lossy(b)).collect());
                json!({
                    "count": tokens.len(), "max_model_len": n_ctx, "tokens": ids(), "token_strs": strings,
                })
            }
        }
        .to_string()
    }
}

/// A body of `/detokenize`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeCall {
    /// Whose tokens.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<TokenId>,
}

/// Reads a body of `/detokenize`.
pub fn parse_detokenize(body: &[u8]) -> Result<DetokenizeCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let model = take_model(&mut fields)?;
    let list = fields.list("tokens")?;
    let list = list.ok_or_else(|| fields.error("tokens", "`tokens` is missing: give a list of token ids"))?;
    fields.finish()?;
    Ok(DetokenizeCall { model, tokens: token_ids(&list, "tokens")? })
}

impl DetokenizeCall {
    /// The reply: the text, where llama-server's clients look for it and where vLLM's do.
    pub fn reply(bytes: &[Vec<u8>]) -> String {
        let bytes = bytes.concat();
        let text = String::from_utf8_lossy(&bytes);
        json!({ "content": text, "prompt": text }).to_string()
    }
}

/// The reply of `/apply-template`: the text of a prompt, control tokens spelled out.
pub fn template_reply(prompt: &str) -> String {
    json!({ "prompt": prompt }).to_string()
}

#[cfg(test)]
mod tests {
    use ingle_chat::{Principal, Task};

    use super::*;

    fn parse(body: &Value) -> Result<TokenizeCall, RequestError> {
        let caller = Caller { id: "id".into(), principal: Principal::local() };
        parse_tokenize(body.to_string().as_bytes(), caller)
    }

    /// Text, `add_special`, `parse_special`, and the reply to two tokens, one of which is half a character.
    #[track_caller]
    fn check(body: Value, expected: (&str, bool, bool), reply: Value) {
        let call = parse(&body).expect("valid");
        let TokenizeInput::Text { text, add_special, parse_special } = &call.input else {
            panic!("{body}: {call:?}")
        };
        assert_eq!((text.as_str(), *add_special, *parse_special), expected, "{body}");
        let bytes = if call.needs_bytes() { vec![b"a".to_vec(), vec![0xC3]] } else { Vec::new() };
        let got: Value =
            serde_json::from_str(&call.reply(&[TokenId(5), TokenId(9)], &bytes, 64)).expect("JSON");
        assert_eq!(got, reply, "{body}");
    }

    #[test]
    fn both_shapes() {
        check(json!({ "content": "hi" }), ("hi", false, true), json!({ "tokens": [5, 9] }));
        check(
            json!({ "content": "hi", "add_special": true, "parse_special": false, "with_pieces": true }),
            ("hi", true, false),
            json!({ "tokens": [{ "id": 5, "piece": "a" }, { "id": 9, "piece": [0xC3] }] }),
        );
        check(
            json!({ "model": "m", "prompt": "hi" }),
            ("hi", true, false),
            json!({ "count": 2, "max_model_len": 64, "tokens": [5, 9], "token_strs": null }),
        );
        check(
            json!({ "prompt": "", "add_special_tokens": false, "return_token_strs": true }),
            ("", false, false),
            json!({ "count": 2, "max_model_len": 64, "tokens": [5, 9], "token_strs": ["a", "\u{fffd}"] }),
        );
        let messages = json!([{ "role": "user", "content": "hi" }]);
        let call = parse(&json!({ "model": "m", "messages": messages, "return_token_strs": false }));
        let call = call.expect("valid");
        assert_eq!(call.model.as_deref(), Some("m"));
        let TokenizeInput::Chat(request) = call.input else { panic!("{:?}", call.input) };
        assert!(matches!(request.task, Task::Chat(input) if input.messages.len() == 1));
    }

    #[test]
    fn refusals() {
        let messages = json!([{ "role": "user", "content": "hi" }]);
        for (body, param) in [
            (json!({}), "content"),
            (json!({ "content": "a", "prompt": "b" }), "prompt"),
            (json!({ "content": ["a"] }), "content"),
            (json!({ "content": "a", "add_special_tokens": true }), "add_special_tokens"),
            (json!({ "prompt": "a", "with_pieces": true }), "with_pieces"),
            (json!({ "messages": messages, "add_special_tokens": true }), "add_special_tokens"),
            (json!({ "messages": [] }), "messages"),
        ] {
            let error = parse(&body).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
        }
        for (body, param) in [
            (json!({}), "tokens"),
            (json!({ "tokens": [1, "a"] }), "tokens[1]"),
            (json!({ "tokens": [], "text": "" }), "text"),
        ] {
            let error = parse_detokenize(body.to_string().as_bytes()).expect_err("not valid");
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
        }
    }

    #[test]
    fn detokenized() {
        let call = parse_detokenize(br#"{"model":"m","tokens":[1,2]}"#).expect("valid");
        assert_eq!((call.model.as_deref(), call.tokens), (Some("m"), vec![TokenId(1), TokenId(2)]));
        assert_eq!(DetokenizeCall::reply(&[vec![0xC3], vec![0xA9]]), r#"{"content":"é","prompt":"é"}"#);
    }
}
