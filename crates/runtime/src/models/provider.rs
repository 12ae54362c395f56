//! All models together, as a provider.

use std::sync::Arc;
use std::time::Instant;

use ingle_chat::{
    AdapterInfo, AdapterName, AdapterWish, ChangeFuture, EmbedFuture, EmbedRequest, HoldFuture, KeepAlive,
    LoadAdapter, ModelChange, ModelEntry, ModelInfo, ModelState, Principal, Prompted, Provider,
    ProviderError, ProviderStatus, Request, StartFuture,
};
use ingle_step::TokenId;

use super::Models;
use super::held::{Held, Lease};
use super::loading::keep_alive;
use super::spec::Unloaded;
use super::state::{State, add_totals};

impl Models {
    /// A model that is loaded, for what does not wait.
    fn loaded(&self, model: Option<&str>) -> Result<Held, ProviderError> {
        let model = self.shared.index(model)?;
        let mut state = self.shared.lock();
        let spec = self.shared.spec(model);
        let name = &spec.name;
        let unavailable = || ProviderError::Unavailable(format!("`{name}` is not loaded"));
        let instance = state.models[model].current.clone().ok_or_else(unavailable)?;
        state.books.begin(instance.slot, None);
        drop(state);
        Ok(Held(Arc::new(Lease::new(Arc::clone(&self.shared), instance))))
    }

    fn entry(&self, state: &State, model: usize) -> ModelEntry {
        let spec = self.shared.spec(model);
        let entry = &state.models[model];
        let current = entry.current.as_ref();
        let condition = match (current, &entry.job, &entry.failed) {
            (Some(_), ..) => ModelState::Loaded,
            (None, Some(job), _) => ModelState::Loading(job.progress),
            (None, None, Some(failed)) => ModelState::Failed(failed.reason.clone()),
            (None, None, None) => ModelState::Unloaded,
        };
        let slots = [current.map(|i| i.slot), entry.job.as_ref().and_then(|job| job.slot)];
        let mut status = current.map(|i| i.engine.provider().status()).unwrap_or_default();
        status.waiting += entry.waiting;
        add_totals(&mut status, &entry.past, &ProviderStatus::default());
        ModelEntry {
            info: entry.info.clone(),
            state: condition,
            status,
            memory_bytes: slots.into_iter().flatten().map(|slot| state.books.bytes(slot)).sum(),
            expires_in: current.and_then(|i| state.books.stays(i.slot, self.shared.now())),
            is_pinned: spec.is_pinned,
            is_managed: true,
            in_use: current.map_or(0, |i| state.books.in_use(i.slot)),
            loads_total: entry.loads,
            unloads_total: entry.unloads,
            evictions_total: entry.evictions,
            failures_total: entry.failures,
        }
    }

    /// Begins a change; the load that has to end before it is done, if somebody wants to wait for it.
    fn begin(&self, model: usize, change: ModelChange) -> Result<Option<u64>, ProviderError> {
        let shared = &self.shared;
        let mut state = shared.lock();
        if state.is_closing {
            return Err(ProviderError::Unavailable("it is shutting down".into()));
        }
        state.bury_the_dead(shared, model);
        let now = shared.now();
        let entry = &mut state.models[model];
        match change {
            ModelChange::Unload => {
                if let Some(job) = &mut entry.job {
                    job.is_cancelled = true;
                }
                state.retire(model, Unloaded::Asked);
                drop(state);
                shared.changed.notify_all();
                Ok(None)
            }
            ModelChange::Load(wish) => {
                if let Some(instance) = &entry.current {
                    let slot = instance.slot;
                    state.books.keep(slot, keep_alive(shared, model, wish), now);
                    state.wake_before(shared, Instant::now());
                } else if let Some(job) = &mut entry.job {
                    (job.is_asked, job.is_cancelled) = (true, false);
                    job.keep_alive = wish.or(job.keep_alive);
                } else {
                    state.begin_load(model, true, wish);
                }
                Ok(None)
            }
            ModelChange::Reload if entry.job.is_none() => Ok(Some(state.begin_load(model, true, None))),
            ModelChange::Reload => {
                // What it reads may be older than what is to be read.
                let serial = state.serial();
                let job = state.models[model].job.as_mut().expect("a load is under way");
                (job.is_asked, job.is_cancelled) = (true, false);
                Ok(Some(*job.again.get_or_insert(serial)))
            }
        }
    }
}

impl Provider for Models {
    fn start(&self, request: Request) -> StartFuture<'_> {
        Box::pin(async move {
            let model = self.shared.index(request.model.as_deref())?;
            let lease = self.shared.hold(model, None).await?;
            Held(lease).start(request).await
        })
    }

    fn embed(&self, request: EmbedRequest) -> EmbedFuture<'_> {
        Box::pin(async move {
            let model = self.shared.index(request.model.as_deref())?;
            let lease = self.shared.hold(model, None).await?;
            Held(lease).embed(request).await
        })
    }

    fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        self.loaded(request.model.as_deref())?.prompt(request)
    }

    fn tokenize(
        &self,
        model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        self.loaded(model)?.tokenize(model, text, add_special, parse_special)
    }

    fn token_bytes(&self, model: Option<&str>, tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.loaded(model)?.token_bytes(model, tokens)
    }

    fn flush_cache(&self, principal: &Principal) -> Result<(), ProviderError> {
        let state = self.shared.lock();
        let engines = state.models.iter().filter_map(|model| model.current.as_ref());
        let mut engines = engines.map(|instance| instance.engine.provider());
        engines.try_for_each(|engine| engine.flush_cache(principal))
    }

    fn adapters_of(
        &self,
        info: &ModelInfo,
        wished: Option<&[AdapterWish]>,
    ) -> Result<(Option<Vec<AdapterWish>>, String), ProviderError> {
        self.loaded(Some(&info.id))?.adapters_of(info, wished)
    }

    fn adapters(&self, model: Option<&str>) -> Result<Vec<AdapterInfo>, ProviderError> {
        self.loaded(model)?.adapters(model)
    }

    fn load_adapter(&self, wish: &LoadAdapter) -> Result<AdapterInfo, ProviderError> {
        self.loaded(wish.model.as_deref())?.load_adapter(wish)
    }

    fn unload_adapter(&self, model: Option<&str>, name: &AdapterName) -> Result<AdapterInfo, ProviderError> {
        let unloaded = self.loaded(model)?.unload_adapter(model, name);
        // Its memory is free, unless somebody uses it still: a model may wait for it.
        self.shared.changed.notify_all();
        unloaded
    }

    fn set_adapters(&self, model: Option<&str>, wishes: &[AdapterWish]) -> Result<(), ProviderError> {
        self.loaded(model)?.set_adapters(model, wishes)
    }

    /// All models, and behind them the adapters of those that are loaded.
    fn models(&self) -> Vec<ModelInfo> {
        let state = self.shared.lock();
        let models = state.models.iter().filter(|model| !model.is_gone).map(|model| model.info.clone());
        let loaded = state.models.iter().filter_map(|model| model.current.as_ref());
        let offered = loaded.flat_map(|instance| instance.engine.provider().models());
        models.chain(offered.filter(|info| info.parent.is_some())).collect()
    }

    /// Of all models together. It is ready once those are loaded, or have failed, that are to be there from the
    /// beginning.
    fn status(&self) -> ProviderStatus {
        let state = self.shared.lock();
        let mut all = ProviderStatus { ready: !state.is_closing, ..ProviderStatus::default() };
        let none = ProviderStatus::default();
        let (mut n_preloaded, mut progress, mut is_preloading) = (0, 0.0, false);
        for (index, model) in state.models.iter().enumerate() {
            let spec = self.shared.spec(index);
            if spec.is_preloaded {
                n_preloaded += 1;
                let waits = model.is_preloading;
                is_preloading |= waits;
                let job = model.job.as_ref().map_or(0.0, |job| job.progress);
                progress += if waits { job } else { 1.0 };
            }
            all.waiting += model.waiting;
            add_totals(&mut all, &model.past, &none);
            if let Some(instance) = &model.current {
                add(&mut all, &instance.engine.provider().status());
            }
        }
        all.memory_bytes = state.books.used();
        if is_preloading {
            all.ready = false;
            all.loading = Some(progress / n_preloaded as f32);
        }
        all
    }

    fn hold(&self, model: Option<&str>, keep_alive: Option<KeepAlive>) -> HoldFuture<'_> {
        let model = self.shared.index(model);
        Box::pin(async move {
            let lease = self.shared.hold(model?, keep_alive).await?;
            Ok(Some(Arc::new(Held(lease)) as Arc<dyn Provider>))
        })
    }

    fn entries(&self) -> Vec<ModelEntry> {
        let state = self.shared.lock();
        let there = (0..state.models.len()).filter(|model| !state.models[*model].is_gone);
        there.map(|model| self.entry(&state, model)).collect()
    }

    fn discover(&self, model: &str) -> Result<Option<String>, ProviderError> {
        self.shared.discover(model)
    }

    fn has_discovery(&self) -> bool {
        self.shared.config.finder.is_some()
    }

    fn undiscovered(&self) -> Vec<ModelInfo> {
        self.shared.undiscovered()
    }

    fn memory_budget(&self) -> Option<u64> {
        Some(self.shared.config.memory_budget)
    }

    /// Loading and unloading go on after this has returned; a reload has ended then.
    fn change<'a>(&'a self, model: &'a str, change: ModelChange) -> ChangeFuture<'a> {
        Box::pin(async move {
            let model = self.shared.index(Some(model))?;
            match self.begin(model, change)? {
                Some(serial) => self.shared.ended(model, serial).await,
                None => Ok(()),
            }
        })
    }
}

/// Adds what adds up.
fn add(all: &mut ProviderStatus, one: &ProviderStatus) {
    all.running += one.running;
    all.waiting += one.waiting;
    all.sequences_max += one.sequences_max;
    all.kv_blocks_used += one.kv_blocks_used;
    all.kv_blocks_cached += one.kv_blocks_cached;
    all.kv_blocks_total += one.kv_blocks_total;
    all.prefill_tokens_per_s += one.prefill_tokens_per_s;
    all.decode_tokens_per_s += one.decode_tokens_per_s;
    add_totals(all, one, &ProviderStatus::default());
}
