//! Which model a name means.

use std::sync::Arc;

use ingle_chat::{KeepAlive, ModelEntry, ModelInfo, ModelState, Provider, ProviderError, ProviderStatus};

use crate::App;
use crate::config::ServerConfig;
use crate::error::Failure;
use crate::phase::Phase;

/// Names that mean the default model, unless a model is really called so: what clients send that must send something.
const DEFAULT_NAMES: [&str; 2] = ["default", "local-model"];

/// A name without the tag that means none: Ollama's clients add it.
pub(crate) fn untagged(name: &str) -> &str {
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

/// The id of a model that may have come, or changed, since the last request; where models come and go.
pub(crate) async fn looked_for(
    provider: &Arc<dyn Provider>,
    wanted: Option<&str>,
) -> Result<Option<String>, ProviderError> {
    let Some(wanted) = wanted.filter(|_| provider.has_discovery()).map(str::to_owned) else {
        return Ok(None);
    };
    let provider = Arc::clone(provider);
    // It reads files.
    tokio::task::spawn_blocking(move || provider.discover(&wanted)).await.unwrap_or(Ok(None))
}

/// The model for a name, which may have come since, with the name that the reply shows; and its id if it was found by
/// looking.
pub(crate) async fn named(
    config: &ServerConfig,
    provider: &Arc<dyn Provider>,
    wanted: Option<&str>,
) -> Result<(String, ModelInfo, Option<String>), ProviderError> {
    let looked = looked_for(provider, wanted).await;
    let found = looked.as_ref().ok().cloned().flatten();
    match (resolve(config, &**provider, found.as_deref().or(wanted)), looked) {
        (Ok((name, info)), _) => Ok((name, info, found)),
        // It is here under that name, and broken.
        (Err(ProviderError::UnknownModel { .. }), Err(why)) => Err(why),
        (Err(error), _) => Err(with_all(provider, error).await),
    }
}

/// A refusal of an unknown name with all that there is, models that nobody has asked for included.
pub(crate) async fn with_all(provider: &Arc<dyn Provider>, error: ProviderError) -> ProviderError {
    let ProviderError::UnknownModel { model, mut available } = error else { return error };
    available.extend(undiscovered(provider).await.into_iter().map(|(name, _)| name));
    ProviderError::UnknownModel { model, available }
}

/// Models that nobody has asked for yet, as entries that are not loaded.
pub(crate) async fn undiscovered(provider: &Arc<dyn Provider>) -> Vec<(String, ModelEntry)> {
    if !provider.has_discovery() {
        return Vec::new();
    }
    let provider = Arc::clone(provider);
    let infos = tokio::task::spawn_blocking(move || provider.undiscovered()).await.unwrap_or_default();
    let entry = |info: ModelInfo| {
        let entry = ModelEntry {
            state: ModelState::Unloaded,
            status: ProviderStatus::default(),
            memory_bytes: 0,
            expires_in: None,
            is_pinned: false,
            is_managed: true,
            in_use: 0,
            loads_total: 0,
            unloads_total: 0,
            evictions_total: 0,
            failures_total: 0,
            info,
        };
        (entry.info.id.clone(), entry)
    };
    infos.into_iter().map(entry).collect()
}

/// A model that a request has hold of: it stays what it is until the last clone of its provider is dropped.
pub(crate) struct Chosen {
    /// Who answers for it.
    pub provider: Arc<dyn Provider>,
    /// The name that the reply shows.
    pub name: String,
    /// What it is.
    pub info: ModelInfo,
}

/// How often a model may be replaced while it is being loaded for one request.
const REPLACED_MAX: usize = 8;

/// Takes hold of the model for a name, which may have to be loaded first.
pub(crate) async fn choose(
    app: &App,
    provider: Arc<dyn Provider>,
    wanted: Option<&str>,
    keep_alive: Option<KeepAlive>,
) -> Result<Chosen, Failure> {
    let mut tries = 0;
    let (name, info, held) = loop {
        let (name, info, _) = named(&app.config, &provider, wanted).await?;
        let held = tokio::select! {
            held = provider.hold(Some(&info.id), keep_alive) => held,
            () = app.phases.reached(Phase::Ending) => return Err(Failure::ShuttingDown),
        };
        match held {
            Ok(held) => break (name, info, held),
            // The name was given to another model, or taken away, while this one was being loaded.
            Err(ProviderError::Unavailable(_)) if provider.has_discovery() && tries < REPLACED_MAX => {
                tries += 1
            }
            Err(error) => return Err(error.into()),
        }
    };
    Ok(match held {
        None => Chosen { provider, name, info },
        Some(held) => {
            let models = held.models();
            let same = models.iter().find(|model| model.id == info.id).or(models.first());
            let info = same.cloned().unwrap_or(info);
            Chosen { provider: held, name, info }
        }
    })
}

/// The model for a name with its state; looking loads nothing.
pub(crate) fn entry(
    config: &ServerConfig,
    provider: &dyn Provider,
    wanted: Option<&str>,
) -> Result<(String, ModelEntry), ProviderError> {
    let (name, info) = resolve(config, provider, wanted)?;
    let mut entries = provider.entries().into_iter();
    let gone = || ProviderError::UnknownModel { model: name.clone(), available: Vec::new() };
    // What an adapter is in is its model's.
    let of = info.parent.as_ref().unwrap_or(&info.id);
    let entry = entries.find(|entry| entry.info.id == *of).ok_or_else(gone)?;
    Ok((name, ModelEntry { info, ..entry }))
}

/// All names with their models' entries, as [`listed`].
pub(crate) fn listed_entries(config: &ServerConfig, provider: &dyn Provider) -> Vec<(String, ModelEntry)> {
    let entries = provider.entries();
    let of = |info: ModelInfo| {
        let entry =
            entries.iter().find(|entry| entry.info.id == *info.parent.as_ref().unwrap_or(&info.id))?;
        Some(ModelEntry { info, ..entry.clone() })
    };
    listed(config, provider).into_iter().filter_map(|(name, info)| Some((name, of(info)?))).collect()
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
    let but_for_capitals =
        || all.iter().position(|(name, _)| untagged(name).eq_ignore_ascii_case(untagged(wanted)));
    match exactly.or_else(but_for_the_tag).or_else(but_for_capitals).or_else(behind_its_model) {
        Some(i) => Ok(all.swap_remove(i)),
        None if DEFAULT_NAMES.contains(&untagged(wanted)) => Ok(all.swap_remove(0)),
        None => Err(ProviderError::UnknownModel {
            model: ingle_api::shown(wanted),
            available: all.into_iter().map(|(name, _)| name).collect(),
        }),
    }
}
