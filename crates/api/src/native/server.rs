//! What a server says about itself: llama-server's `/props` and `/slots`, SGLang's `/get_model_info` and
//! `/get_server_info`. And the bodies of its `/flush_cache`, and of what loads and unloads models.

use ingle_chat::{KeepAlive, ModelInfo, ProviderStatus};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::ollama::common::take_keep_alive;
use crate::{RequestError, parse_object};

/// How many answers may be computed at a time, as far as it is known.
fn total_slots(status: &ProviderStatus) -> usize {
    status.sequences_max.max(status.running).max(1)
}

/// The reply of `/props`. `name` is what requests call the model: paths of files are nobody's business.
pub fn props(name: &str, info: &ModelInfo, status: &ProviderStatus, version: &str) -> String {
    json!({
        "default_generation_settings": {
            "n_ctx": info.n_ctx,
            // What no model's recommended settings change.
            "params": {
                "n_predict": -1, "max_tokens": -1, "n_probs": 0, "ignore_eos": false, "stream": false, "stop": [],
                "logit_bias": [], "grammar": "",
            },
        },
        "total_slots": total_slots(status),
        "model_alias": name,
        "model_path": name,
        "modalities": { "vision": false, "audio": false },
        "chat_template": info.details.template.as_deref().unwrap_or_default(),
        "chat_template_caps": {
            "supports_tools": info.details.has_tools, "supports_tool_calls": info.details.has_tools,
        },
        "build_info": format!("ingle-{version}"),
        "is_sleeping": false,
    })
    .to_string()
}

/// The reply of `/slots`: one entry per answer that may be computed at a time. They are places in a batch, not parts of
/// the KV cache: each has the whole context.
pub fn slots(info: &ModelInfo, status: &ProviderStatus) -> String {
    let slot = |id: usize| {
        let is_processing = id < status.running;
        let is_guessed_for = status.speculation.is_on;
        json!({ "id": id, "n_ctx": info.n_ctx, "speculative": is_guessed_for, "is_processing": is_processing })
    };
    Value::from((0..total_slots(status)).map(slot).collect::<Vec<_>>()).to_string()
}

/// Whether every place is taken.
pub fn is_full(status: &ProviderStatus) -> bool {
    status.running >= total_slots(status)
}

/// The reply of `/get_model_info`.
pub fn model_info(name: &str, info: &ModelInfo) -> String {
    json!({
        "model_path": name,
        "tokenizer_path": name,
        "is_generation": true,
        "preferred_sampling_params": null,
        "weight_version": info.fingerprint,
        "model_type": info.details.architecture,
        "has_image_understanding": false,
        "has_audio_understanding": false,
    })
    .to_string()
}

/// The reply of `/get_server_info`: what SGLang's clients look for of its settings and of its state.
pub fn server_info(name: &str, info: &ModelInfo, status: &ProviderStatus, version: &str) -> String {
    json!({
        "model_path": name,
        "tokenizer_path": name,
        "served_model_name": name,
        "context_length": info.n_ctx,
        "max_running_requests": total_slots(status),
        "version": version,
        "status": if status.ready { "ready" } else { "starting" },
        "internal_states": [{ "last_gen_throughput": status.decode_tokens_per_s }],
    })
    .to_string()
}

/// Checks a body of `/flush_cache`. It may be empty; `empty_cache` is about memory that this server does not have.
pub fn parse_flush(body: &[u8]) -> Result<(), RequestError> {
    if body.is_empty() {
        return Ok(());
    }
    let mut fields = Fields::new(parse_object(body)?);
    fields.bool("empty_cache")?;
    fields.finish()
}

/// A body of `/models/load`, `/models/unload` or `/models/reload`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeCall {
    /// Which model.
    pub model: String,
    /// How long it is to stay; only of one that is loaded.
    pub keep_alive: Option<KeepAlive>,
}

impl ChangeCall {
    /// Reads a body. `loads`: whether `keep_alive` has a place in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8], loads: bool) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        let model = fields.string("model")?.filter(|name| !name.is_empty());
        let model = model.ok_or_else(|| fields.error("model", "`model` is missing: name the model"))?;
        let keep_alive = if loads { take_keep_alive(&mut fields)? } else { None };
        fields.finish()?;
        Ok(Self { model, keep_alive })
    }

    /// The reply: it is decided, or done.
    pub fn reply() -> String {
        json!({ "success": true }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_changes() {
        let check = |body: &str, loads, expected: Result<(&str, Option<KeepAlive>), Option<&str>>| {
            let call = ChangeCall::parse(body.as_bytes(), loads);
            let call = call.as_ref().map(|call| (call.model.as_str(), call.keep_alive));
            assert_eq!(call.map_err(|e| e.param.as_deref()), expected, "{body}");
        };
        check(r#"{"model":"a"}"#, false, Ok(("a", None)));
        check(r#"{"model":"a","keep_alive":-1}"#, true, Ok(("a", Some(KeepAlive::Always))));
        check(r#"{"model":"a","keep_alive":-1}"#, false, Err(Some("keep_alive")));
        check(r#"{"model":"a","keep_alive":"soon"}"#, true, Err(Some("keep_alive")));
        check(r#"{"model":""}"#, true, Err(Some("model")));
        check("{}", false, Err(Some("model")));
        check(r#"{"model":"a","force":true}"#, false, Err(Some("force")));
    }

    #[test]
    fn bodies_of_flushes() {
        for (body, param) in [
            ("", None),
            ("{}", None),
            (r#"{"empty_cache":true}"#, None),
            (r#"{"empty_cache":false}"#, None),
            (r#"{"empty_cache":1}"#, Some("empty_cache")),
            (r#"{"timeout":1}"#, Some("timeout")),
        ] {
            let got = parse_flush(body.as_bytes()).err().and_then(|e| e.param);
            assert_eq!(got.as_deref(), param, "{body}");
        }
    }

    #[test]
    fn places() {
        let info = ModelInfo { n_ctx: 64, ..ModelInfo::default() };
        // Running, at most, expected places.
        for (running, sequences_max, total) in [(0, 0, 1), (2, 0, 2), (0, 4, 4), (4, 4, 4), (1, 4, 4)] {
            let status = ProviderStatus { running, sequences_max, ..ProviderStatus::default() };
            let list: Value = serde_json::from_str(&slots(&info, &status)).expect("JSON");
            let list = list.as_array().expect("a list");
            assert_eq!(list.len(), total);
            let busy = list.iter().filter(|s| s["is_processing"] == true).count();
            assert_eq!(busy, running);
            assert!(list.iter().all(|slot| slot["speculative"] == false));
            assert_eq!(is_full(&status), running == total);
            let props: Value = serde_json::from_str(&props("m", &info, &status, "1.2.3")).expect("JSON");
            assert_eq!(props["total_slots"], total);
            assert_eq!(props["default_generation_settings"]["n_ctx"], 64);
        }
        let mut status = ProviderStatus::default();
        status.speculation.is_on = true;
        assert!(slots(&info, &status).contains(r#""speculative":true"#));
    }
}
