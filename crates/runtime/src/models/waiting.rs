//! Requests that wait for models, and loads that are waited for. Nobody blocks a thread for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_chat::{KeepAlive, ProviderError};

use super::held::Lease;
use super::spec::OnMissing;
use super::state::Shared;

/// When to come back who found too many waiting.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A request that waits for a model; dropping it ends that.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    model: usize,
    deadline: (Instant, u64),
    /// The load that it waits for.
    serial: u64,
}

impl Shared {
    /// Takes hold of a model, and waits for it if need be.
    pub async fn hold(
        self: &Arc<Self>,
        model: usize,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Arc<Lease>, ProviderError> {
        let mut waiting = None;
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            // From here on nothing is missed.
            news.as_mut().enable();
            if let Some(lease) = self.try_hold(model, keep_alive, &mut waiting)? {
                return Ok(lease);
            }
            news.await;
        }
    }

    fn try_hold<'a>(
        self: &'a Arc<Self>,
        model: usize,
        keep_alive: Option<KeepAlive>,
        waiting: &mut Option<Waiting<'a>>,
    ) -> Result<Option<Arc<Lease>>, ProviderError> {
        let spec = self.spec(model);
        let name = || &spec.name;
        let unavailable = |text: String| Err(ProviderError::Unavailable(text));
        let now = Instant::now();
        let mut state = self.lock();
        if state.is_closing {
            return unavailable("it is shutting down".into());
        }
        state.bury_the_dead(self, model);
        let entry = &state.models[model];
        if let Some(instance) = &entry.current {
            let instance = Arc::clone(instance);
            state.books.begin(instance.slot, keep_alive);
            drop(state);
            return Ok(Some(Arc::new(Lease::new(Arc::clone(self), instance))));
        }
        if let Some(failed) = &entry.failed {
            let is_ours = waiting.as_ref().is_some_and(|waiting| waiting.serial == failed.serial);
            if is_ours || (entry.job.is_none() && now < failed.until) {
                return Err(failed.error.clone());
            }
        }
        if let Some(waiting) = waiting {
            if waiting.deadline.0 <= now {
                let waited = self.config.wait_max.as_secs();
                return unavailable(format!("`{}` is still loading after {waited} s", name()));
            }
            if let Some(job) = &entry.job {
                waiting.serial = job.serial;
                return Ok(None);
            }
        }
        let on_missing = self.config.on_missing;
        if on_missing == OnMissing::Never && entry.job.is_none() {
            return unavailable(format!(
                "`{}` is not loaded, and requests do not load models here: an operator does, with /models/load",
                name()
            ));
        }
        if on_missing == OnMissing::Wait && waiting.is_none() {
            let n_waiting: usize = state.models.iter().map(|model| model.waiting).sum();
            if n_waiting >= self.config.waiting_max {
                return Err(ProviderError::Overloaded { waiting: n_waiting, retry_after: RETRY_AFTER });
            }
        }
        if entry.job.is_none() {
            state.begin_load(model, on_missing == OnMissing::Refuse, keep_alive);
        }
        let job = state.models[model].job.as_ref().expect("a load is under way");
        let (serial, progress) = (job.serial, job.progress);
        if on_missing != OnMissing::Wait {
            return unavailable(format!("`{}` is loading ({:.0} %)", name(), progress * 100.0));
        }
        if let Some(waiting) = waiting {
            waiting.serial = serial;
            return Ok(None);
        }
        state.models[model].waiting += 1;
        let deadline = (now + self.config.wait_max, state.serial());
        state.deadlines.insert(deadline);
        state.wake_before(self, deadline.0);
        drop(state);
        *waiting = Some(Waiting { shared: self, model, deadline, serial });
        Ok(None)
    }

    /// Waits until a load has ended.
    pub async fn ended(self: &Arc<Self>, model: usize, serial: u64) -> Result<(), ProviderError> {
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            {
                let state = self.lock();
                let entry = &state.models[model];
                match (&entry.job, &entry.failed) {
                    (_, Some(failed)) if failed.serial >= serial => return Err(failed.error.clone()),
                    (Some(job), _) if job.serial <= serial => {}
                    _ => return Ok(()),
                }
            }
            news.await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.models[self.model].waiting -= 1;
        state.deadlines.remove(&self.deadline);
        let is_last = state.models[self.model].waiting == 0;
        drop(state);
        if is_last {
            // A load that waits for memory looks whether anybody wants it.
            self.shared.changed.notify_all();
        }
    }
}
