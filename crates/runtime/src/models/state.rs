//! Which model is where, and who waits for it.
//!
//! Everything is under one lock, which is held for as long as it takes to look and to decide. What takes longer
//! (threads, engines that end, whoever listens) is an [`Errand`], done when the lock is given back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ingle_chat::{KeepAlive, ModelInfo, ProviderError, ProviderStatus};
use ingle_kernels::Pool;
use tokio::sync::Notify;

use super::books::{Books, Plan, SlotId};
use super::loading::{self, Problem};
use super::spec::{ModelEvent, ModelSpec, ModelsConfig, ModelsError, Unloaded};
use crate::load::{Engine, LoadError};
use crate::prepare::Prepared;

/// What everybody shares.
pub(super) struct Shared {
    pub config: ModelsConfig,
    pub pool: Arc<Pool>,
    /// As in [`State::models`]; written while the state is locked.
    specs: RwLock<Vec<Arc<ModelSpec>>>,
    began: Instant,
    state: Mutex<State>,
    /// Wakes threads: those of loads that wait for memory, and the one that looks at the clock.
    pub changed: Condvar,
    /// Wakes requests that wait for models.
    pub news: Notify,
}

/// What is under the lock.
pub(super) struct State {
    pub books: Books,
    /// As in [`Shared::specs`].
    pub models: Vec<Model>,
    /// Loads that have no memory yet, in the order in which they get it.
    pub queue: VecDeque<u64>,
    next_serial: u64,
    /// When requests give up, each with a number of its own.
    pub deadlines: BTreeSet<(Instant, u64)>,
    /// When the thread that looks at the clock looks next, if it sleeps until a time.
    wake_at: Option<Instant>,
    /// Loads and unloadings under way.
    pub n_under_way: usize,
    /// The most bytes that were ever taken.
    pub peak: u64,
    pub is_closing: bool,
    /// What models on their way out had counted when they left.
    retired: BTreeMap<SlotId, ProviderStatus>,
    errands: Vec<Errand>,
}

/// A model of the catalogue.
pub(super) struct Model {
    /// What requests call it.
    pub name: String,
    pub info: ModelInfo,
    /// It is no longer there for new requests; its place is kept for those that it has.
    pub is_gone: bool,
    pub current: Option<Arc<Instance>>,
    pub job: Option<Job>,
    pub failed: Option<Failed>,
    /// Requests that wait for it.
    pub waiting: usize,
    /// It is one of those that are loaded from the beginning, and is not yet.
    pub is_preloading: bool,
    /// What its instances counted that are gone.
    pub past: ProviderStatus,
    pub loads: u64,
    pub unloads: u64,
    pub evictions: u64,
    pub failures: u64,
}

/// A model in memory.
pub(super) struct Instance {
    pub slot: SlotId,
    pub model: usize,
    pub engine: Engine,
}

/// A load under way.
pub(super) struct Job {
    pub serial: u64,
    /// From 0 to 1.
    pub progress: f32,
    /// Somebody wants it who does not wait for it.
    pub is_asked: bool,
    /// It is to be done once more, under this number: the file may have changed since it was opened.
    pub again: Option<u64>,
    pub is_cancelled: bool,
    pub keep_alive: Option<KeepAlive>,
    pub slot: Option<SlotId>,
    pub asked_at: Instant,
}

/// How the latest load failed.
pub(super) struct Failed {
    pub serial: u64,
    pub error: ProviderError,
    /// Why, in words that name no file.
    pub reason: String,
    /// Until when nobody tries again unless told to.
    pub until: Instant,
}

/// What is done without the lock.
enum Errand {
    Tell(usize, ModelEvent),
    Leave(Arc<Instance>),
    Load { model: usize, serial: u64 },
}

/// The lock; errands are done when it is given back.
pub(super) struct Locked<'a> {
    shared: &'a Arc<Shared>,
    guard: Option<MutexGuard<'a, State>>,
}

impl Shared {
    /// Looks at every model's file and starts the thread that looks at the clock.
    pub fn new(
        specs: Vec<ModelSpec>,
        config: ModelsConfig,
        pool: Arc<Pool>,
    ) -> Result<Arc<Self>, ModelsError> {
        let now = Instant::now();
        let books = Books::new(config.memory_budget);
        let mut specs = specs;
        for spec in &mut specs {
            spec.options.name = Some(spec.name.clone());
            // The pool is there already.
            spec.options.n_threads = None;
        }
        let (mut models, mut pinned) = (Vec::new(), 0_u64);
        for spec in &specs {
            let prepared = Prepared::new(&spec.source, &spec.options);
            let (model, bytes) = inspected(spec, prepared, &books, &config, now)?;
            pinned = pinned.saturating_add(if spec.is_pinned { bytes } else { 0 });
            models.push(model);
        }
        if pinned > config.memory_budget {
            return Err(ModelsError::Memory(format!(
                "the pinned models need {} together, the memory budget is {}: pin fewer, or raise --memory-budget",
                super::spec::human(pinned),
                super::spec::human(config.memory_budget)
            )));
        }
        let state = State {
            books,
            models,
            queue: VecDeque::new(),
            next_serial: 1,
            deadlines: BTreeSet::new(),
            wake_at: None,
            n_under_way: 0,
            peak: 0,
            is_closing: false,
            retired: BTreeMap::new(),
            errands: Vec::new(),
        };
        let shared = Arc::new(Self {
            config,
            pool,
            specs: RwLock::new(specs.into_iter().map(Arc::new).collect()),
            began: now,
            state: Mutex::new(state),
            changed: Condvar::new(),
            news: Notify::new(),
        });
        let clock = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ingle-models".into());
        thread.spawn(move || clock.watch_clock()).map_err(ModelsError::Thread)?;
        Ok(shared)
    }

    pub fn lock(self: &Arc<Self>) -> Locked<'_> {
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { shared: self, guard: Some(guard) }
    }

    /// The time as the books have it.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The model of a name; the first without one.
    pub fn index(self: &Arc<Self>, model: Option<&str>) -> Result<usize, ProviderError> {
        let Some(name) = model else { return Ok(0) };
        let by_name = self.lock().models.iter().position(|model| !model.is_gone && model.name == name);
        by_name.or_else(|| self.index_of_adapter(name)).ok_or_else(|| {
            let state = self.lock();
            let there = state.models.iter().filter(|model| !model.is_gone);
            let available = there.map(|model| model.name.clone()).collect();
            ProviderError::UnknownModel { model: name.to_owned(), available }
        })
    }

    /// What was said about a model.
    pub fn spec(&self, model: usize) -> Arc<ModelSpec> {
        Arc::clone(&self.specs.read().unwrap_or_else(PoisonError::into_inner)[model])
    }

    /// Adds a model, or puts it in the place of one that is gone with all that it had; which one it is. The state is
    /// locked.
    pub fn put(&self, state: &mut State, spec: ModelSpec, model: Model) {
        let mut specs = self.specs.write().unwrap_or_else(PoisonError::into_inner);
        let is_free = |model: &Model| {
            model.is_gone && model.current.is_none() && model.job.is_none() && model.waiting == 0
        };
        // What leaves memory is still known by its place.
        let free = state
            .models
            .iter()
            .position(is_free)
            .filter(|_| state.n_under_way == 0 && state.retired.is_empty());
        match free {
            Some(at) => {
                specs[at] = Arc::new(spec);
                state.models[at] = model;
            }
            None => {
                specs.push(Arc::new(spec));
                state.models.push(model);
            }
        }
    }

    /// The loaded model that has an adapter of this name.
    fn index_of_adapter(self: &Arc<Self>, name: &str) -> Option<usize> {
        let has = |instance: &Arc<Instance>| {
            instance.engine.provider().models().iter().any(|info| info.parent.is_some() && info.id == name)
        };
        self.lock().models.iter().position(|model| model.current.as_ref().is_some_and(has))
    }

    /// Starts to load what is to be there from the beginning.
    pub fn preload(self: &Arc<Self>) {
        let mut state = self.lock();
        for model in 0..state.models.len() {
            let spec = self.spec(model);
            if !spec.is_preloaded {
                continue;
            }
            let entry = &state.models[model];
            if entry.current.is_none() && entry.job.is_none() {
                state.models[model].is_preloading = true;
                state.begin_load(model, true, spec.keep_alive);
            }
        }
    }

    /// Lets models go that nobody has asked for, as if it were later by `ahead`, and wakes requests whose patience
    /// has ended. Returns when to look again.
    pub fn expire(self: &Arc<Self>, ahead: Duration) -> Option<Instant> {
        let mut state = self.lock();
        let (now, time) = (Instant::now(), self.now() + ahead);
        let mut next = None;
        for model in 0..state.models.len() {
            let Some(instance) = &state.models[model].current else { continue };
            match state.books.expires_at(instance.slot) {
                Some(at) if at <= time => state.retire(model, Unloaded::Expired),
                Some(at) => next = earlier(next, now + (at - time)),
                None => {}
            }
        }
        if state.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            self.news.notify_waiters();
            // They take themselves off the list.
            let later = state.deadlines.iter().map(|(at, _)| *at).find(|at| *at > now);
            return later.map_or(next, |at| earlier(next, at));
        }
        state.deadlines.first().map_or(next, |(at, _)| earlier(next, *at))
    }

    /// The life of the thread that looks at the clock.
    fn watch_clock(self: Arc<Self>) {
        loop {
            self.lock().wake_at = None;
            let next = self.expire(Duration::ZERO);
            let mut state = self.lock();
            if state.is_closing {
                return;
            }
            // Whoever has changed meanwhile what this depends on has said so.
            let due = earlier(next, state.wake_at.unwrap_or_else(|| Instant::now() + ONCE_A_DAY));
            state.wake_at = due;
            state.wait(&self.changed, due);
        }
    }

    /// Waits until nothing is under way.
    pub fn settle(self: &Arc<Self>) {
        let mut state = self.lock();
        while state.n_under_way > 0 {
            state.wait(&self.changed, None);
        }
    }

    pub fn memory(self: &Arc<Self>) -> (u64, u64) {
        let state = self.lock();
        (state.books.used(), state.peak)
    }

    /// Ends loads and lets all models go.
    pub fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.is_closing = true;
        for model in 0..state.models.len() {
            state.retire(model, Unloaded::Asked);
        }
        drop(state);
        self.changed.notify_all();
        self.news.notify_waiters();
    }

    pub fn tell(&self, model: usize, event: &ModelEvent) {
        if let Some(listener) = &self.config.listener {
            listener(&self.spec(model).name, event);
        }
    }
}

/// A model of the catalogue after a look at its file, and the bytes that it needs.
pub(super) fn inspected(
    spec: &ModelSpec,
    prepared: Result<Prepared, LoadError>,
    books: &Books,
    config: &ModelsConfig,
    now: Instant,
) -> Result<(Model, u64), ModelsError> {
    let nameless = || ModelInfo { id: spec.name.clone(), ..ModelInfo::default() };
    let (info, needs, problem) = match prepared {
        Ok(prepared) => {
            let needs = prepared.needs;
            let problem = match books.plan(needs.total(), None, false, Duration::ZERO) {
                Plan::Never { available } => {
                    Some(Problem::TooLarge { needs, budget: config.memory_budget, available })
                }
                _ => None,
            };
            (prepared.info, needs.total(), problem)
        }
        Err(error) => (nameless(), 0, Some(Problem::Load(error))),
    };
    let failed = match problem {
        None => None,
        Some(problem) if spec.is_optional => {
            if let Some(listener) = &config.listener {
                listener(&spec.name, &ModelEvent::Failed(problem.to_string()));
            }
            Some(problem.remembered(spec, 0, now, config))
        }
        Some(Problem::Load(error)) => {
            return Err(ModelsError::Model { name: spec.name.clone(), error: Box::new(error) });
        }
        Some(problem) => return Err(ModelsError::Memory(problem.public(spec))),
    };
    let model = Model {
        name: spec.name.clone(),
        info,
        is_gone: false,
        current: None,
        job: None,
        failed,
        waiting: 0,
        is_preloading: false,
        past: ProviderStatus::default(),
        loads: 0,
        unloads: 0,
        evictions: 0,
        failures: 0,
    };
    Ok((model, needs))
}

/// How long the thread sleeps that has nothing to look out for.
const ONCE_A_DAY: Duration = Duration::from_secs(86_400);

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

impl State {
    /// A number that no load has yet.
    pub fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Begins a load; which one.
    pub fn begin_load(&mut self, model: usize, is_asked: bool, keep_alive: Option<KeepAlive>) -> u64 {
        let serial = self.serial();
        self.begin_load_as(serial, model, is_asked, keep_alive);
        serial
    }

    /// Begins a load that has its number already.
    pub fn begin_load_as(
        &mut self,
        serial: u64,
        model: usize,
        is_asked: bool,
        keep_alive: Option<KeepAlive>,
    ) {
        let entry = &mut self.models[model];
        assert!(entry.job.is_none(), "a model is loaded once at a time");
        entry.job = Some(Job {
            serial,
            progress: 0.0,
            is_asked,
            again: None,
            is_cancelled: false,
            keep_alive,
            slot: None,
            asked_at: Instant::now(),
        });
        self.queue.push_back(serial);
        self.n_under_way += 1;
        self.errands.push(Errand::Load { model, serial });
    }

    /// A model takes no more requests; it leaves memory with the last that it has.
    pub fn retire(&mut self, model: usize, why: Unloaded) {
        let entry = &mut self.models[model];
        let Some(instance) = entry.current.take() else { return };
        entry.unloads += 1;
        entry.evictions += u64::from(why == Unloaded::Evicted);
        let status = instance.engine.provider().status();
        add_totals(&mut entry.past, &status, &ProviderStatus::default());
        self.retired.insert(instance.slot, status);
        self.errands.push(Errand::Tell(model, ModelEvent::Unloading(why)));
        if self.books.retire(instance.slot) {
            self.leave(instance);
        }
    }

    /// The last one who has it lets go of it.
    pub fn leave(&mut self, instance: Arc<Instance>) {
        self.n_under_way += 1;
        self.errands.push(Errand::Leave(instance));
    }

    /// The memory of a model that has left is given back; `last` is what it had counted then.
    pub fn gone(&mut self, slot: SlotId, model: usize, last: &ProviderStatus) {
        let counted = self.retired.remove(&slot).unwrap_or_default();
        add_totals(&mut self.models[model].past, last, &counted);
        self.books.free(slot);
        self.n_under_way -= 1;
        self.tell(model, ModelEvent::Unloaded);
    }

    /// A model whose thread has ended answers nobody: it goes, and comes back no sooner than after a failed load.
    pub fn bury_the_dead(&mut self, shared: &Shared, model: usize) {
        let is_dead = |instance: &Arc<Instance>| !instance.engine.is_running();
        if !self.models[model].current.as_ref().is_some_and(is_dead) {
            return;
        }
        self.retire(model, Unloaded::Died);
        let serial = self.serial();
        let failed = Problem::Died.remembered(&shared.spec(model), serial, Instant::now(), &shared.config);
        let entry = &mut self.models[model];
        entry.failures += 1;
        entry.failed = Some(failed);
    }

    /// Sees to it that the clock is looked at by then.
    pub fn wake_before(&mut self, shared: &Shared, at: Instant) {
        if self.wake_at.is_none_or(|wake_at| at < wake_at) {
            self.wake_at = Some(at);
            shared.changed.notify_all();
        }
    }

    pub fn has_errands(&self) -> bool {
        !self.errands.is_empty()
    }

    pub fn tell(&mut self, model: usize, event: ModelEvent) {
        self.errands.push(Errand::Tell(model, event));
    }

    /// The model whose memory this is.
    pub fn owner(&self, slot: SlotId) -> Option<usize> {
        self.models.iter().position(|model| model.current.as_ref().is_some_and(|i| i.slot == slot))
    }
}

/// Adds what was counted since `counted`.
pub(super) fn add_totals(all: &mut ProviderStatus, now: &ProviderStatus, counted: &ProviderStatus) {
    macro_rules! add {
        ($($total:ident),*) => { $(all.$total += now.$total.saturating_sub(counted.$total);)* };
    }
    add!(prompt_tokens_total, cached_tokens_total, generated_tokens_total);
    add!(requests_finished_total, requests_aborted_total, preemptions_total, steps_total);
}

impl Locked<'_> {
    /// Gives the lock back until something changes, or until then. There must be no errands.
    pub fn wait(&mut self, changed: &Condvar, until: Option<Instant>) {
        let guard = self.guard.take().expect("the lock is held");
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        let guard = match left {
            Some(left) => changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0,
            None => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        };
        self.guard = Some(guard);
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.guard.as_ref().expect("the lock is held")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.guard.as_mut().expect("the lock is held")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let errands = std::mem::take(&mut self.errands);
        self.guard = None;
        for errand in errands {
            match errand {
                Errand::Tell(model, event) => self.shared.tell(model, &event),
                Errand::Leave(instance) => loading::unload(self.shared, instance),
                Errand::Load { model, serial } => loading::start(self.shared, model, serial),
            }
        }
    }
}
