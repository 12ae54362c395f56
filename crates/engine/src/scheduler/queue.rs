//! How much may wait. The handle of an engine counts with it at admission, and the scheduler for itself.

use std::collections::BTreeMap;

use ingle_chat::Priority;

use super::AddError;

/// Bounds of what waits for its first step, at each priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Requests.
    pub requests: usize,
    /// Their prompt tokens. One request alone may have more.
    pub tokens: usize,
    /// Requests of one tenant.
    pub tenant_requests: usize,
    /// Their prompt tokens. One request alone may have more.
    pub tenant_tokens: usize,
}

impl QueueBounds {
    /// Bounds for all together; one tenant may fill the queue.
    pub fn shared(requests: usize, tokens: usize) -> Self {
        Self { requests, tokens, tenant_requests: requests, tenant_tokens: tokens }
    }
}

/// Requests that wait for their first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub requests: usize,
    /// Their prompt tokens.
    pub tokens: usize,
}

impl Waiting {
    /// Whether one more request is too many. What is alone is never too long.
    fn is_full(self, n_prompt: usize, requests: usize, tokens: usize) -> bool {
        self.requests >= requests || (self.requests > 0 && self.tokens.saturating_add(n_prompt) > tokens)
    }

    fn add(&mut self, n_prompt: usize) {
        self.requests += 1;
        self.tokens += n_prompt;
    }

    fn remove(&mut self, n_prompt: usize) {
        self.requests -= 1;
        self.tokens -= n_prompt;
    }
}

#[derive(Clone, Debug, Default)]
struct Queue {
    all: Waiting,
    /// Only who has something waiting.
    tenants: BTreeMap<u64, Waiting>,
}

/// A queue for each priority, so that nobody is turned away for those who make way.
#[derive(Clone, Debug, Default)]
pub struct Queues([Queue; 2]);

impl Queues {
    /// Whether a request of a tenant with a prompt of `n_prompt` tokens may join. Who has nothing waiting may still come
    /// when others have filled the queue, up to a quarter more than its bounds: so one flood, or two, keep nobody out.
    ///
    /// # Errors
    /// If it may not.
    pub fn check(
        &self,
        bounds: &QueueBounds,
        priority: Priority,
        tenant: u64,
        n_prompt: usize,
    ) -> Result<(), AddError> {
        let own = self.of_tenant(priority, tenant);
        let more = |bound: usize| if own.requests == 0 { bound.saturating_add(bound / 4) } else { bound };
        let all = self.of(priority);
        if all.is_full(n_prompt, more(bounds.requests), more(bounds.tokens)) {
            return Err(AddError::Full { waiting: all.requests });
        }
        if own.is_full(n_prompt, bounds.tenant_requests, bounds.tenant_tokens) {
            return Err(AddError::TenantFull { waiting: own.requests });
        }
        Ok(())
    }

    /// A request joins.
    pub fn join(&mut self, priority: Priority, tenant: u64, n_prompt: usize) {
        let queue = &mut self.0[priority as usize];
        queue.all.add(n_prompt);
        queue.tenants.entry(tenant).or_default().add(n_prompt);
    }

    /// A request has its first step, or ends before it.
    pub fn leave(&mut self, priority: Priority, tenant: u64, n_prompt: usize) {
        let queue = &mut self.0[priority as usize];
        queue.all.remove(n_prompt);
        let own = queue.tenants.get_mut(&tenant).expect("who leaves has joined");
        own.remove(n_prompt);
        if own.requests == 0 {
            queue.tenants.remove(&tenant);
        }
    }

    /// What waits at a priority.
    pub fn of(&self, priority: Priority) -> Waiting {
        self.0[priority as usize].all
    }

    /// What one tenant has waiting at a priority.
    pub fn of_tenant(&self, priority: Priority, tenant: u64) -> Waiting {
        self.0[priority as usize].tenants.get(&tenant).copied().unwrap_or_default()
    }

    /// How many tenants have something waiting at a priority.
    pub fn n_tenants(&self, priority: Priority) -> usize {
        self.0[priority as usize].tenants.len()
    }

    /// What waits at all priorities.
    pub fn total(&self) -> Waiting {
        let [a, b] = [self.0[0].all, self.0[1].all];
        Waiting { requests: a.requests + b.requests, tokens: a.tokens + b.tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_fills_its_own_part() {
        let bounds = QueueBounds { requests: 8, tokens: 200, tenant_requests: 6, tenant_tokens: 60 };
        let mut queues = Queues::default();
        let check = |queues: &mut Queues, tenant, n_prompt, expected: Result<(), AddError>| {
            let checked = queues.check(&bounds, Priority::Normal, tenant, n_prompt);
            assert_eq!(checked, expected, "{n_prompt} tokens of tenant {tenant}");
            if checked.is_ok() {
                queues.join(Priority::Normal, tenant, n_prompt);
            }
        };
        check(&mut queues, 1, 70, Ok(())); // alone it may be longer than the bound
        check(&mut queues, 1, 1, Err(AddError::TenantFull { waiting: 1 }));
        for _ in 0..6 {
            check(&mut queues, 2, 5, Ok(()));
        }
        check(&mut queues, 2, 1, Err(AddError::TenantFull { waiting: 6 }));
        check(&mut queues, 3, 1, Ok(()));
        check(&mut queues, 3, 1, Err(AddError::Full { waiting: 8 }));
        check(&mut queues, 4, 1, Ok(())); // who has nothing there yet
        check(&mut queues, 5, 1, Ok(()));
        check(&mut queues, 6, 1, Err(AddError::Full { waiting: 10 }));
        queues.leave(Priority::Normal, 2, 5);
        check(&mut queues, 3, 1, Err(AddError::Full { waiting: 9 }));
        assert!(queues.check(&bounds, Priority::Background, 2, 5).is_ok());
    }
}
