//! A load from its beginning to its end, and an unloading; each on a thread of its own.
//!
//! ```text
//! open, check header, tokenizer, template ── bad ──────────────────┐
//!   │ size known                                                   │ nothing has been touched
//! wait for memory ── can never fit, or not in time ────────────────┤
//!   │ bytes are set aside; idle models have gone for them          │
//! take memory, pack weights ── no memory, read error ──────────────┤ bytes are given back
//!   │                                                              │
//! smoke prompt ── fails ───────────────────────────────────────────┤
//!   │                                                              ▼
//! ready: takes the place of the old one, if there is one       failed: the old one stays, if there is one
//! ```

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ingle_chat::{KeepAlive, ProviderError};
use ingle_model::sizing::Needs;

use super::books::{Plan, SlotId};
use super::spec::{ModelEvent, ModelSpec, ModelsConfig, Unloaded, human};
use super::state::{Failed, Instance, Shared};
use crate::adapters::AdapterMemory;
use crate::load::{Engine, LoadError};
use crate::prepare::Prepared;

/// What a model is asked before it counts as ready.
const SMOKE_PROMPT: &str = "1";

/// Why a load ended without a model.
pub(super) enum Problem {
    /// The file, or something in it, cannot be used; or the system refuses memory.
    Load(LoadError),
    /// It can never fit.
    TooLarge {
        needs: Needs,
        budget: u64,
        /// What is there for models that are not pinned.
        available: u64,
    },
    /// There was no room in time.
    NoRoom { bytes: u64, used: u64, budget: u64 },
    /// It does not answer.
    Smoke(String),
    /// A bug.
    Panicked,
    /// The thread of the model that was there had ended.
    Died,
    /// Nobody wants it any more.
    Cancelled,
    /// The system has no thread for it.
    NoThread(std::io::Error),
}

impl fmt::Display for Problem {
    /// The whole reason, for logs; it may name files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::TooLarge { needs, budget, available } => {
                write!(
                    f,
                    "it needs {} ({} of weights, {} of keys and values, {} to compute in",
                    human(needs.total()),
                    human(needs.weights),
                    human(needs.kv),
                    human(needs.buffers)
                )?;
                for (bytes, what) in [
                    (needs.text, "its tokenizer and template"),
                    (needs.extras, "adapters"),
                    (needs.draft, "a draft model"),
                    (needs.swap, "sequences that make way"),
                ] {
                    if bytes > 0 {
                        write!(f, ", {} for {what}", human(bytes))?;
                    }
                }
                write!(f, "), the memory budget is {}", human(*budget))?;
                if available < budget {
                    write!(f, ", of which pinned models have {}", human(budget - available))?;
                }
                f.write_str(": it can never be loaded; give it a shorter context, or the server more memory")
            }
            Self::NoRoom { bytes, used, budget } => write!(
                f,
                "it needs {}, and {} of {} are taken by models in use; try again later",
                human(*bytes),
                human(*used),
                human(*budget)
            ),
            Self::Smoke(why) => write!(f, "it does not answer: {why}"),
            Self::Panicked => f.write_str("loading it panicked"),
            Self::Died => f.write_str("its thread had ended"),
            Self::Cancelled => f.write_str("it is no longer wanted"),
            Self::NoThread(error) => write!(f, "the system refuses a thread to load it with: {error}"),
        }
    }
}

impl Problem {
    /// The reason as requests are told: no path of this machine is in it.
    pub fn public(&self, spec: &ModelSpec) -> String {
        let text = self.to_string();
        let files = spec.source.files().iter();
        let text = files.fold(text, |text, path| text.replace(&*path.to_string_lossy(), "its file"));
        format!("model `{}`: {text}", spec.name)
    }

    /// What requests are told from now on.
    pub fn remembered(&self, spec: &ModelSpec, serial: u64, now: Instant, config: &ModelsConfig) -> Failed {
        let reason = self.public(spec);
        let error = match self {
            // Trying again would not help.
            Self::TooLarge { .. } => {
                ProviderError::InvalidRequest { message: reason.clone(), param: Some("model".into()) }
            }
            Self::Load(error) if !error.is_of_the_machine() => ProviderError::Unusable(reason.clone()),
            Self::Smoke(_) => ProviderError::Unusable(reason.clone()),
            Self::Load(_) | Self::NoRoom { .. } | Self::NoThread(_) => ProviderError::Busy(reason.clone()),
            Self::Panicked | Self::Died | Self::Cancelled => ProviderError::Unavailable(reason.clone()),
        };
        // What may be otherwise the next moment is tried again at once.
        let passes = matches!(self, Self::NoRoom { .. } | Self::Cancelled);
        let until = if passes { now } else { now + config.retry_after };
        Failed { serial, error, reason, until }
    }
}

/// Starts the thread of a load.
pub(super) fn start(shared: &Arc<Shared>, model: usize, serial: u64) {
    let of_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("ingle-load".into());
    let started = thread.spawn(move || run(&of_thread, model, serial));
    if let Err(error) = started {
        end(shared, model, serial, Err(Problem::NoThread(error)));
    }
}

fn run(shared: &Arc<Shared>, model: usize, serial: u64) {
    let mut slot = None;
    let loaded = catch_unwind(AssertUnwindSafe(|| load(shared, model, serial, &mut slot)));
    let loaded = loaded.unwrap_or(Err(Problem::Panicked));
    if loaded.is_err()
        && let Some(slot) = slot
    {
        // The engine is gone by now, and its memory with it.
        shared.lock().books.free(slot);
    }
    let loaded = loaded.map(|engine| (engine, slot.expect("what is loaded has a slot")));
    end(shared, model, serial, loaded);
}

/// The load itself. What it takes of the books is in `slot`.
fn load(
    shared: &Arc<Shared>,
    model: usize,
    serial: u64,
    slot: &mut Option<SlotId>,
) -> Result<Engine, Problem> {
    let spec = &*shared.spec(model);
    let prepared = Prepared::new(&spec.source, &spec.options).map_err(Problem::Load)?;
    let own = make_room(shared, model, serial, prepared.needs)?;
    *slot = Some(own);
    let taken = shared.lock().books.include_adapters(own, prepared.needs.extras);
    let memory = SlotMemory { shared: Arc::downgrade(shared), slot: own, taken };
    shared.tell(model, &ModelEvent::Loading { bytes: prepared.needs.total() });
    let engine = prepared.start(Arc::clone(&shared.pool), Some(Arc::new(memory))).map_err(Problem::Load)?;
    let mut is_cancelled = false;
    engine
        .wait_until_loaded(&mut |done, total| {
            let mut state = shared.lock();
            let is_closing = state.is_closing;
            if let Some(job) = &mut state.models[model].job {
                job.progress = done as f32 / total.max(1) as f32;
                is_cancelled |= job.is_cancelled || is_closing;
            }
            if is_cancelled {
                engine.stop_loading();
            }
        })
        .map_err(|error| if is_cancelled { Problem::Cancelled } else { Problem::Load(error) })?;
    smoke(&engine).map_err(Problem::Smoke)?;
    for notice in engine.notices() {
        shared.tell(model, &ModelEvent::Noticed(notice.clone()));
    }
    Ok(engine)
}

/// What the adapters of a model in memory may take.
struct SlotMemory {
    /// Not held: it would hold the model, which holds this.
    shared: Weak<Shared>,
    slot: SlotId,
    taken: Arc<AtomicU64>,
}

impl AdapterMemory for SlotMemory {
    fn take(&self, bytes: u64) -> Result<(), (u64, u64)> {
        let Some(shared) = self.shared.upgrade() else { return Err((0, 0)) };
        let mut state = shared.lock();
        state.books.take_for_adapter(self.slot, bytes).map_err(|free| (free, shared.config.memory_budget))?;
        state.peak = state.peak.max(state.books.used());
        Ok(())
    }

    fn taken(&self) -> &Arc<AtomicU64> {
        &self.taken
    }
}

/// Whether it answers at all: a token, or a vector of models that give only those.
fn smoke(engine: &Engine) -> Result<(), String> {
    let answer = engine.generate(SMOKE_PROMPT).max_tokens(1).temperature(0.0).run();
    match answer {
        Ok(_) => Ok(()),
        Err(ProviderError::InvalidRequest { .. }) => {
            engine.embed([SMOKE_PROMPT]).run().map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until there are so many bytes for a model, and sets them aside.
fn make_room(shared: &Arc<Shared>, model: usize, serial: u64, needs: Needs) -> Result<SlotId, Problem> {
    let (bytes, budget) = (needs.total(), shared.config.memory_budget);
    let began = Instant::now();
    let deadline = began + shared.config.wait_max;
    let drain_at = began + shared.config.drain_after;
    let mut state = shared.lock();
    loop {
        if state.has_errands() {
            drop(state);
            state = shared.lock();
            continue;
        }
        let (now, at) = (shared.now(), Instant::now());
        let entry = &state.models[model];
        let job = entry.job.as_ref().filter(|job| job.serial == serial).expect("its load is under way");
        if job.is_cancelled || state.is_closing || (!job.is_asked && entry.waiting == 0) {
            return Err(Problem::Cancelled);
        }
        let replaced = entry.current.as_ref().map(|instance| instance.slot);
        let is_first = state.queue.front() == Some(&serial);
        let may_drain = at >= drain_at;
        let mut plan = state.books.plan(bytes, replaced, may_drain, now);
        if let Plan::Never { available } = plan {
            return Err(Problem::TooLarge { needs, budget, available });
        }
        if is_first
            && plan == Plan::Wait
            && replaced.is_some()
            && !state.books.could_fit_beside(bytes, replaced)
        {
            // Both do not fit, whoever else goes: the old one is drained first.
            state.retire(model, Unloaded::Replaced);
            continue;
        }
        if !is_first {
            plan = Plan::Wait;
        }
        match plan {
            Plan::Fits => {
                let slot = state.books.reserve(bytes, shared.spec(model).is_pinned, now);
                state.queue.pop_front();
                state.peak = state.peak.max(state.books.used());
                if let Some(job) = &mut state.models[model].job {
                    job.slot = Some(slot);
                }
                drop(state);
                // The next in the queue looks now.
                shared.changed.notify_all();
                return Ok(slot);
            }
            Plan::Evict(victims) | Plan::Drain(victims) => {
                for slot in victims {
                    let victim = state.owner(slot).expect("what is ready is some model's");
                    state.retire(victim, Unloaded::Evicted);
                }
            }
            Plan::Wait if at >= deadline => {
                return Err(Problem::NoRoom { bytes, used: state.books.used(), budget });
            }
            Plan::Wait | Plan::Never { .. } => {
                let until = if may_drain { deadline } else { drain_at.min(deadline) };
                state.wait(&shared.changed, Some(until));
            }
        }
    }
}

/// The books after a load, and the news.
fn end(shared: &Arc<Shared>, model: usize, serial: u64, loaded: Result<(Engine, SlotId), Problem>) {
    let spec = &*shared.spec(model);
    let (now, at) = (shared.now(), Instant::now());
    let mut state = shared.lock();
    state.queue.retain(|queued| *queued != serial);
    state.n_under_way -= 1;
    let job = state.models[model].job.take().expect("its load was under way");
    state.models[model].is_preloading = false;
    match loaded {
        Ok((engine, slot)) => {
            state.books.ready(slot, keep_alive(shared, model, job.keep_alive), now);
            let event = ModelEvent::Loaded {
                took: job.asked_at.elapsed(),
                fingerprint: engine.info().fingerprint.clone(),
            };
            let info = engine.info().clone();
            state.retire(model, Unloaded::Replaced);
            let entry = &mut state.models[model];
            entry.info = info;
            entry.failed = None;
            entry.loads += 1;
            entry.current = Some(Arc::new(Instance { slot, model, engine }));
            state.tell(model, event);
            let is_unwanted = state.is_closing || job.is_cancelled;
            if is_unwanted {
                state.retire(model, Unloaded::Asked);
            } else if let Some(at) = state.books.expires_at(slot) {
                let at = Instant::now() + at.saturating_sub(now);
                state.wake_before(shared, at);
            }
        }
        Err(problem) => {
            // Whoever waits for it to be done once more waits in vain if it was called off.
            let serial = job.again.filter(|_| job.is_cancelled).unwrap_or(serial);
            let failed = problem.remembered(spec, serial, at, &shared.config);
            let entry = &mut state.models[model];
            entry.failures += u64::from(!matches!(problem, Problem::Cancelled));
            entry.failed = Some(failed);
            state.tell(model, ModelEvent::Failed(problem.to_string()));
        }
    }
    if let Some(serial) = job.again
        && !job.is_cancelled
        && !state.is_closing
    {
        state.begin_load_as(serial, model, true, job.keep_alive);
    }
    drop(state);
    shared.changed.notify_all();
    shared.news.notify_waiters();
}

/// How long a model stays of which a request has said so much.
pub(super) fn keep_alive(shared: &Shared, model: usize, wish: Option<KeepAlive>) -> KeepAlive {
    wish.or(shared.spec(model).keep_alive).unwrap_or(shared.config.keep_alive)
}

/// A model that nobody uses any more, until its memory is given back.
struct Leaving {
    shared: Arc<Shared>,
    instance: Option<Arc<Instance>>,
}

/// Ends an engine and gives its memory back, on a thread of its own: the engine's has to end first.
pub(super) fn unload(shared: &Arc<Shared>, instance: Arc<Instance>) {
    let leaving = Leaving { shared: Arc::clone(shared), instance: Some(instance) };
    let thread = std::thread::Builder::new().name("ingle-unload".into());
    // Where there is no thread for it, dropping the closure does it here.
    let _ = thread.spawn(move || drop(leaving));
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(mut instance) = self.instance.take() else { return };
        let (slot, model) = (instance.slot, instance.model);
        // Whoever let go of it last is still about to: a matter of instructions.
        let instance = loop {
            match Arc::try_unwrap(instance) {
                Ok(instance) => break instance,
                Err(shared) => instance = shared,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let last = instance.engine.provider().status();
        drop(instance);
        self.shared.lock().gone(slot, model, &last);
        self.shared.changed.notify_all();
    }
}
