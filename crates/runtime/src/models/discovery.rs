//! Models that come and go: those that a finder knows, and no catalogue.
//!
//! A name is looked for when a request has it. What is found is added to the catalogue; what is found in another version
//! takes the place of the one that is there; what is not found any more takes no new requests. Either way whoever uses a
//! model goes on with it, and it leaves memory with the last of them.

use std::sync::Arc;
use std::time::Instant;

use ingle_chat::{ModelInfo, ProviderError};

use super::spec::{MODELS_MAX, ModelSpec, Unloaded};
use super::state::{Shared, State, inspected};
use crate::prepare::Prepared;

impl Shared {
    /// Looks for a model by a name, and takes in what has changed about it; its own name, if it is there.
    pub fn discover(self: &Arc<Self>, name: &str) -> Result<Option<String>, ProviderError> {
        let Some(finder) = &self.config.finder else { return Ok(None) };
        let is_named = |spec: &ModelSpec| spec.version.is_none() && spec.name == name;
        if self.all_specs().iter().any(|(_, spec)| is_named(spec)) {
            return Ok(None);
        }
        let found = finder.find(name);
        let Ok(Some(spec)) = found else {
            let tagged = format!("{name}:latest");
            self.forget(&|spec| spec.name == name || spec.name == tagged);
            return found.map(|_| None).map_err(ProviderError::Unusable);
        };
        let own = spec.name.clone();
        self.take_in(spec);
        Ok(Some(own))
    }

    /// Models that a finder lists and nobody has asked for. Those that it lists no longer are gone.
    pub fn undiscovered(self: &Arc<Self>) -> Vec<ModelInfo> {
        let Some(finder) = &self.config.finder else { return Vec::new() };
        let mut listed = finder.list();
        self.forget(&|spec| !listed.iter().any(|info| info.id == spec.name));
        let known = self.all_specs();
        listed.retain(|info| !known.iter().any(|(_, spec)| spec.name == info.id));
        listed
    }

    /// The models that are there, with their places.
    fn all_specs(self: &Arc<Self>) -> Vec<(usize, Arc<ModelSpec>)> {
        let state = self.lock();
        let there = (0..state.models.len()).filter(|model| !state.models[*model].is_gone);
        there.map(|model| (model, self.spec(model))).collect()
    }

    /// Makes sure that this version of a model is the one that requests get.
    fn take_in(self: &Arc<Self>, mut spec: ModelSpec) {
        let is_same = |other: &ModelSpec| other.name == spec.name && other.version == spec.version;
        if self.all_specs().iter().any(|(_, other)| is_same(other)) {
            return;
        }
        spec.options.name = Some(spec.name.clone());
        spec.options.n_threads = None;
        spec.is_optional = true;
        // Without the lock: it reads the file's header.
        let prepared = Prepared::new(&spec.source, &spec.options);
        let mut state = self.lock();
        let models = state.models.len();
        let places: Vec<usize> = (0..models).filter(|model| !state.models[*model].is_gone).collect();
        let others: Vec<(usize, Arc<ModelSpec>)> =
            places.into_iter().map(|model| (model, self.spec(model))).collect();
        // Another request may have been quicker; a catalogue's own model of that name stays.
        if others.iter().any(|(_, other)| {
            other.name == spec.name && (other.version == spec.version || other.version.is_none())
        }) {
            return;
        }
        for (model, _) in others.iter().filter(|(_, other)| other.name == spec.name) {
            leave(&mut state, *model);
        }
        if others.len() >= MODELS_MAX {
            return;
        }
        let looked_at = inspected(&spec, prepared, &state.books, &self.config, Instant::now());
        if let Ok((model, _)) = looked_at {
            self.put(&mut state, spec, model);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Takes no more requests for models of a finder that are gone.
    fn forget(self: &Arc<Self>, is_gone: &dyn Fn(&ModelSpec) -> bool) {
        let gone: Vec<usize> = self
            .all_specs()
            .iter()
            .filter(|(_, spec)| spec.version.is_some() && is_gone(spec))
            .map(|(model, _)| *model)
            .collect();
        if gone.is_empty() {
            return;
        }
        let mut state = self.lock();
        gone.into_iter().for_each(|model| leave(&mut state, model));
        drop(state);
        self.changed.notify_all();
    }
}

/// A model takes no more requests, under whatever name; it leaves memory with the last that it has.
fn leave(state: &mut State, model: usize) {
    let entry = &mut state.models[model];
    entry.is_gone = true;
    if let Some(job) = &mut entry.job {
        job.is_cancelled = true;
    }
    state.retire(model, Unloaded::Asked);
}
