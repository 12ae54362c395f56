//! `/v1/models`.

use ingle_chat::{ModelEntry, ModelState};
use schemars::JsonSchema;
use serde::Serialize;

/// The list of models.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// A model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The model's own name, where `id` is an alias.
    root: String,
    /// The context, where vLLM's clients look for it.
    max_model_len: usize,
    status: Status,
    meta: Meta,
}

/// Whether it is in memory, where llama-server's clients look for it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ModelStatus")]
struct Status {
    /// `loaded`, `loading` or `unloaded`.
    value: &'static str,
    /// Of loading, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    /// The latest attempt to load it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<bool>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Status {
    fn of(state: &ModelState) -> Self {
        let plain = Self { value: state.name(), progress: None, failed: None, error: None };
        match state {
            ModelState::Unloaded | ModelState::Loaded => plain,
            ModelState::Loading(progress) => Self { progress: Some(*progress), ..plain },
            ModelState::Failed(why) => {
                Self { value: "unloaded", failed: Some(true), error: Some(why.clone()), ..plain }
            }
        }
    }
}

/// The model's sizes, where llama-server's clients look for them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ModelMeta")]
struct Meta {
    n_ctx: usize,
    n_ctx_train: usize,
    n_vocab: usize,
    n_embd: usize,
    n_params: u64,
    size: u64,
    fingerprint: String,
}

impl Model {
    /// A model under a name that requests may use for it.
    pub fn new(name: &str, entry: &ModelEntry) -> Self {
        let info = &entry.info;
        Self {
            id: name.to_owned(),
            object: "model",
            created: info.created,
            owned_by: "ingle",
            root: info.id.clone(),
            max_model_len: info.n_ctx,
            status: Status::of(&entry.state),
            meta: Meta {
                n_ctx: info.n_ctx,
                n_ctx_train: info.n_ctx_train,
                n_vocab: info.n_vocab,
                n_embd: info.n_embd,
                n_params: info.n_params,
                size: info.size_bytes,
                fingerprint: info.fingerprint.clone(),
            },
        }
    }

    /// As a reply body.
    pub fn into_json(self) -> String {
        super::json(&self)
    }
}

impl ModelList {
    /// A list of models.
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list", data }
    }

    /// As a reply body.
    pub fn into_json(self) -> String {
        super::json(&self)
    }
}
