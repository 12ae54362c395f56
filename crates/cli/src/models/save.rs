//! A model of the store that begins where a conversation is: what `/save` makes.

use std::path::Path;

use anyhow::{Context, Result};
use ingle_store::modelfile::Recipe;
use ingle_store::{MediaType, Message, ModelName};
use serde_json::{Map, Value};

use super::create::Gathering;
use super::{Models, expanded};
use crate::settings::Settings;

/// What a model gets besides the files of the one that it is made from.
#[derive(Clone, Debug, Default)]
pub struct Saving {
    /// Its system message; an empty one is none.
    pub system: String,
    /// Parameters, before those of the other.
    pub params: Map<String, Value>,
    /// Messages that open each conversation, instead of those of the other.
    pub messages: Vec<Message>,
}

/// Makes a model from the one that settings name.
///
/// # Errors
/// If there is too much of something, or the store refuses.
pub fn save(settings: &Settings, name: &ModelName, saving: Saving) -> Result<()> {
    let models = Models::open(settings)?;
    // What is put into the store stays there until the model has its name.
    let store = models.store.session();
    let gathering = Gathering { folder: Path::new("."), models: &models, settings, store: &store };
    let Saving { system, params, messages } = saving;
    let mut recipe = Recipe { system: Some(system), params, messages, ..Recipe::default() };
    match settings.model_file() {
        None => gathering.shipped(&mut recipe)?,
        Some(path) => {
            let text = path.to_str().context("the model's path is no text")?;
            match expanded(text) {
                path if path.exists() && !models.has(text) => {
                    recipe.files = gathering.weights(&path, &mut |_| {})?
                }
                _ => gathering.base(text, &mut recipe)?,
            }
        }
    }
    if let Some(base) = &mut recipe.base {
        // They are part of the conversation, as far as they are still wanted.
        base.layers.retain(|layer| layer.media_type != MediaType::Messages);
    }
    recipe.make(&store, name, &mut |_| {})?;
    Ok(())
}
