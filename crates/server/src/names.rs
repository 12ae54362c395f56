//! Which model a name means.

use ingle_chat::{ModelInfo, Provider, ProviderError};

use crate::config::ServerConfig;

/// Names that mean the default model, unless a model is really called so: what clients send that must send something.
const DEFAULT_NAMES: [&str; 2] = ["default", "local-model"];

/// A name without the tag that means none: Ollama's clients add it.
fn untagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// All names with their models: models first, then aliases.
pub(crate) fn listed(config: &ServerConfig, provider: &dyn Provider) -> Vec<(String, ModelInfo)> {
    let models = provider.models();
    let aliased = config.aliases.iter().filter_map(|alias| {
        let model = match &alias.model {
            None => models.first(),
            Some(id) => models.iter().find(|m| &m.id == id),
        };
        let taken = models.iter().any(|m| m.id == alias.name);
        model.filter(|_| !taken).map(|m| (alias.name.clone(), m.clone()))
    });
    let aliased: Vec<_> = aliased.collect();
    models.into_iter().map(|m| (m.id.clone(), m)).chain(aliased).collect()
}

/// The model for a name, with the name that the reply shows.
///
/// # Errors
/// If no model goes by it.
pub fn resolve(
    config: &ServerConfig,
    provider: &dyn Provider,
    wanted: Option<&str>,
) -> Result<(String, ModelInfo), ProviderError> {
    let mut all = listed(config, provider);
    if all.is_empty() {
        return Err(ProviderError::Unavailable("no model is loaded".into()));
    }
    let Some(wanted) = wanted else { return Ok(all.swap_remove(0)) };
    let exactly = all.iter().position(|(name, _)| name == wanted);
    let but_for_the_tag = || all.iter().position(|(name, _)| untagged(name) == untagged(wanted));
    // As Ollama and others write a variant of a model.
    let behind_its_model = || {
        let (model, adapter) = wanted.rsplit_once(':')?;
        let is_it =
            |(name, info): &(String, ModelInfo)| name == adapter && info.parent.as_deref() == Some(model);
        all.iter().position(is_it)
    };
    match exactly.or_else(but_for_the_tag).or_else(behind_its_model) {
        Some(i) => Ok(all.swap_remove(i)),
        None if DEFAULT_NAMES.contains(&untagged(wanted)) => Ok(all.swap_remove(0)),
        None => Err(ProviderError::UnknownModel {
            model: ingle_api::shown(wanted),
            available: all.into_iter().map(|(name, _)| name).collect(),
        }),
    }
}
