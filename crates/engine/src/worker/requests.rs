//! Requests come and go: hops 5 and 10, what ends a request early, and what a tenant has cached.

use std::time::Instant;

use ingle_chat::ProviderError;

use super::tiers::Fetch;
use super::{Active, Worker};
use crate::engine::Arrival;
use crate::scheduler::{AddError, NewRequest, Overdue, RequestId};
use crate::work::Work;

/// Salts of adapters that are noted at a time, so that what is cached with them can be flushed.
const ADAPTED_SALTS_MAX: usize = 4096;

impl Worker {
    /// Hop 5, or a wait for what is on disk before it.
    pub(super) fn take_arrivals(&mut self) {
        while let Ok(arrival) = self.arrivals.try_recv() {
            let tenant = self.shared.tenant_id(&arrival.work.standing().tenant);
            let first = *self.tenants.0.get_or_insert(tenant);
            self.tenants.1 |= first != tenant;
            let request = self.request_of(&arrival);
            let compute_time = |n_prefill| self.shared.board().meter.estimate(n_prefill);
            let fetch = self.tiers.fetch(arrival, &request, &self.scheduler, compute_time);
            if let Fetch::Nothing(arrival) = fetch {
                self.add(arrival);
            }
        }
    }

    fn request_of(&mut self, arrival: &Arrival) -> NewRequest {
        let Arrival { work, at } = arrival;
        let tenant = self.shared.tenant_id(&work.standing().tenant);
        let (queue, total) = self.config.limits(work.standing());
        let from_start = at.saturating_duration_since(self.shared.began);
        NewRequest {
            queue_deadline: queue.map(|limit| from_start.saturating_add(limit)),
            deadline: total.map(|limit| from_start.saturating_add(limit)),
            ..work.new_request(tenant, self.salt(work))
        }
    }

    pub(super) fn add(&mut self, arrival: Arrival) {
        let request = self.request_of(&arrival);
        let tenant = request.tenant;
        let Arrival { mut work, at } = arrival;
        match self.scheduler.add(request) {
            Ok(id) => {
                work.start();
                self.active.insert(id, Active::new(work, at));
            }
            Err(error) => {
                let mut board = self.shared.board();
                let priority = work.standing().priority;
                board.queues.leave(priority, tenant, work.prompt().len());
                let error = match error {
                    AddError::TooLong { max_tokens, .. } => work.too_long(max_tokens),
                    full => board.overloaded(&full, priority, tenant),
                };
                work.fail(error);
                board.status.requests_aborted_total += 1;
                board.unfinished -= 1;
                self.shared.idle.notify_all();
            }
        }
    }

    /// Lets go of clients that have gone or lag too long, and goes on for those that have caught up.
    pub(super) fn look_after_clients(&mut self) {
        let now = Instant::now();
        self.end_overdue(now);
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            let stall = self.config.stall_timeout;
            if active.work.is_closed() {
                self.remove(id);
            } else if active.paused.is_some() && active.work.flush() {
                active.paused = None;
                self.scheduler.set_paused(id, false);
            } else if active.paused.is_some_and(|since| now.duration_since(since) > stall) {
                let message = format!("nobody has read the answer for {} s", stall.as_secs());
                self.fail(id, ProviderError::Unavailable(message));
            }
        }
    }

    /// Ends whose time is over, before anything more is computed for them.
    fn end_overdue(&mut self, now: Instant) {
        for (id, why) in self.scheduler.overdue(now.duration_since(self.shared.began)) {
            let Some(active) = self.active.get(&id) else { continue };
            let standing = active.work.standing();
            let mut board = self.shared.board();
            board.status.requests_overdue_total += 1;
            let error = match why {
                Overdue::Queued => {
                    let limit = self.config.limits(standing).0.unwrap_or_default();
                    board.too_late(standing.priority, self.shared.tenant_id(&standing.tenant), limit)
                }
                Overdue::Unfinished => {
                    let limit = self.config.limits(standing).1.unwrap_or_default();
                    ProviderError::DeadlineExceeded { limit }
                }
            };
            drop(board);
            self.fail(id, error);
        }
    }

    /// Hop 10, as far as it is ours: sends what there is, and pauses whoever does not take it.
    pub(super) fn deliver(&mut self) {
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            if active.work.flush() {
                if active.complete {
                    self.remove(id);
                }
            } else if active.paused.is_none() {
                active.paused = Some(Instant::now());
                self.scheduler.set_paused(id, true);
            }
        }
    }

    pub(super) fn fail(&mut self, id: RequestId, error: ProviderError) {
        if let Some(active) = self.remove(id) {
            active.work.fail(error);
        }
    }

    /// A request ends, complete or not.
    fn remove(&mut self, id: RequestId) -> Option<Active> {
        self.scheduler.abort(id);
        let active = self.active.remove(&id)?;
        let mut board = self.shared.board();
        if active.started.is_none() {
            let standing = active.work.standing();
            let tenant = self.shared.tenant_id(&standing.tenant);
            board.queues.leave(standing.priority, tenant, active.work.prompt().len());
        }
        if !active.complete {
            board.status.requests_aborted_total += 1;
        }
        board.unfinished -= 1;
        if board.unfinished == 0 {
            self.shared.idle.notify_all();
        }
        Some(active)
    }

    /// Flushes what tenants want flushed. After the arrivals: who arrives after a flush finds nothing.
    pub(super) fn flush(&mut self) {
        let tenants = std::mem::take(&mut self.shared.board().flushes);
        for tenant in tenants {
            self.scheduler.flush(self.shared.tenant_id(&tenant));
            self.tiers.flush(&tenant);
            let from = self.adapted_salts.range((tenant.clone(), 0)..);
            let salts: Vec<u64> = from.take_while(|(t, _)| *t == tenant).map(|(_, salt)| *salt).collect();
            salts.into_iter().for_each(|salt| self.scheduler.flush(salt));
        }
    }

    /// Who shares cached beginnings: requests of one tenant with equal adapters.
    fn salt(&mut self, work: &Work) -> u64 {
        if work.adapters().key.is_empty() {
            return self.shared.tenant_id(&work.standing().tenant);
        }
        if self.adapted_salts.len() >= ADAPTED_SALTS_MAX {
            // Scales are any numbers, so there can be any number of salts. Those that nobody uses now are forgotten, with
            // what is cached for them.
            for (_, salt) in std::mem::take(&mut self.adapted_salts) {
                self.scheduler.flush(salt);
            }
            let active = self.active.values().map(|active| &active.work);
            let adapted = active.filter(|work| !work.adapters().key.is_empty());
            self.adapted_salts = adapted.map(|work| self.adapted_salt(work)).collect();
        }
        let noted = self.adapted_salt(work);
        let salt = noted.1;
        self.adapted_salts.insert(noted);
        salt
    }

    fn adapted_salt(&self, work: &Work) -> (String, u64) {
        let tenant = &work.standing().tenant;
        (tenant.clone(), self.shared.salt_id((tenant, &work.adapters().key)))
    }
}
