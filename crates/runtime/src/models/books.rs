//! Who has how much of the memory, and who goes when others need it. Pure: time is an argument.
//!
//! Every model in memory, on its way there or on its way out has a [`Slot`]. Its bytes count from before it takes the
//! first of them until after it has given back the last, so the sum of all slots never exceeds the budget. Adapters that are
//! loaded later count with their model.
//!
//! ```text
//! reserve ──> loading ──> ready: idle <──> in use
//!                │                  │  retire
//!                └───> free <───────┴── leaving (its last requests finish)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ingle_chat::KeepAlive;

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId(u64);

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Loading,
    Ready,
    Leaving,
}

/// A model's place in memory.
#[derive(Clone, Debug)]
struct Slot {
    /// Set aside with it.
    bytes: u64,
    /// Bytes of adapters that are in memory. Those who hold them count them down, at any moment.
    adapters: Arc<AtomicU64>,
    /// How many bytes of adapters are among those that are set aside.
    adapters_included: u64,
    stage: Stage,
    is_pinned: bool,
    /// Requests that it answers.
    in_use: usize,
    /// When it became ready.
    ready_at: Duration,
    /// When it was last in use.
    used_at: Duration,
    keep_alive: KeepAlive,
    /// How long loading it took: what losing it costs.
    load_time: Duration,
}

/// What has to happen before so many bytes are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Fits,
    /// These idle models go.
    Evict(Vec<SlotId>),
    /// These models take no more requests, and go when those that they have are answered.
    Drain(Vec<SlotId>),
    /// Others are on their way out, or busy: ask again when something changes.
    Wait,
    /// It can never be: so many bytes are there for everyone but the pinned models.
    Never {
        /// Bytes for those that are not pinned.
        available: u64,
    },
}

/// The books.
#[derive(Debug)]
pub(super) struct Books {
    budget: u64,
    slots: BTreeMap<SlotId, Slot>,
    next: u64,
}

/// Loading costs at least so much: a division by nothing would make tiny models worth nothing.
const LOAD_TIME_MIN: Duration = Duration::from_millis(10);

impl Books {
    pub fn new(budget: u64) -> Self {
        Self { budget, slots: BTreeMap::new(), next: 0 }
    }

    /// Bytes that are taken, or about to be.
    pub fn used(&self) -> u64 {
        self.slots.values().map(Slot::held).sum()
    }

    pub fn bytes(&self, id: SlotId) -> u64 {
        self.slots.get(&id).map_or(0, Slot::held)
    }

    pub fn in_use(&self, id: SlotId) -> usize {
        self.slots.get(&id).map_or(0, |slot| slot.in_use)
    }

    /// What it takes to have `bytes` free. `replaced` is the model that the new one takes the place of, which stays as
    /// long as it can: it is nobody's victim here. Busy models are only closed to new requests if `may_drain`.
    pub fn plan(&self, bytes: u64, replaced: Option<SlotId>, may_drain: bool, now: Duration) -> Plan {
        let of = |f: &dyn Fn(&Slot) -> bool| -> u64 {
            self.slots.values().filter(|slot| f(slot)).map(Slot::held).sum()
        };
        let stays = of(&|slot| slot.is_pinned && slot.stage != Stage::Leaving);
        let own = replaced.and_then(|id| self.slots.get(&id)).filter(|slot| slot.is_pinned);
        let available = self.budget.saturating_sub(stays - own.map_or(0, Slot::held));
        if bytes > available {
            return Plan::Never { available };
        }
        if self.used().saturating_add(bytes) <= self.budget {
            return Plan::Fits;
        }
        // What is on its way out counts as gone, so that nobody has to go for it twice.
        let mut kept = self.used() - of(&|slot| slot.stage == Stage::Leaving);
        if kept.saturating_add(bytes) <= self.budget {
            return Plan::Wait;
        }
        let ready = |slot: &Slot| slot.stage == Stage::Ready && !slot.is_pinned;
        let others = self.slots.iter().filter(|(id, slot)| Some(**id) != replaced && ready(slot));
        let (mut idle, mut busy): (Vec<_>, Vec<_>) = others.partition(|(_, slot)| slot.in_use == 0);
        // Those first whose loss is cheapest by the time that nobody has asked for them.
        idle.sort_by(|a, b| b.1.boredom(now).total_cmp(&a.1.boredom(now)).then(a.0.cmp(b.0)));
        let mut victims = Vec::new();
        for (id, slot) in idle {
            if kept.saturating_add(bytes) <= self.budget {
                break;
            }
            kept -= slot.held();
            victims.push((*id, slot.held()));
        }
        let enough = |kept: u64| kept.saturating_add(bytes) <= self.budget;
        if enough(kept) {
            // A later one may have made an earlier one unnecessary.
            let mut needed = Vec::new();
            for (id, n) in victims {
                if enough(kept + n) {
                    kept += n;
                } else {
                    needed.push(id);
                }
            }
            return Plan::Evict(needed);
        }
        if may_drain {
            busy.sort_by_key(|(id, slot)| (slot.ready_at, **id));
            for (id, slot) in busy {
                if enough(kept) {
                    break;
                }
                kept -= slot.held();
                victims.push((*id, slot.held()));
            }
            if enough(kept) {
                return Plan::Drain(victims.into_iter().map(|(id, _)| id).collect());
            }
        }
        Plan::Wait
    }

    /// Whether `bytes` would fit beside the model that they replace once all others have gone that may.
    pub fn could_fit_beside(&self, bytes: u64, replaced: Option<SlotId>) -> bool {
        let stays = |(id, slot): &(&SlotId, &Slot)| {
            slot.stage != Stage::Leaving && (slot.is_pinned || Some(**id) == replaced)
        };
        let stay: u64 = self.slots.iter().filter(stays).map(|(_, slot)| slot.held()).sum();
        stay.saturating_add(bytes) <= self.budget
    }

    /// Takes `bytes` for a model that is to be loaded.
    ///
    /// # Panics
    /// If [`plan`](Self::plan) has not said that they fit.
    pub fn reserve(&mut self, bytes: u64, is_pinned: bool, now: Duration) -> SlotId {
        let total = self.used().saturating_add(bytes);
        assert!(total <= self.budget, "{bytes} bytes more would make {total} of a budget of {}", self.budget);
        let id = SlotId(self.next);
        self.next += 1;
        let slot = Slot {
            bytes,
            adapters: Arc::default(),
            adapters_included: 0,
            stage: Stage::Loading,
            is_pinned,
            in_use: 0,
            ready_at: now,
            used_at: now,
            keep_alive: KeepAlive::Always,
            load_time: LOAD_TIME_MIN,
        };
        self.slots.insert(id, slot);
        id
    }

    /// Of the bytes that were set aside for a model so many are for adapters. Gives the count of those that are in memory.
    pub fn include_adapters(&mut self, id: SlotId, bytes: u64) -> Arc<AtomicU64> {
        let slot = self.slot(id);
        slot.adapters_included = bytes;
        Arc::clone(&slot.adapters)
    }

    /// Takes bytes for an adapter of a model that is there. Nobody goes for it.
    ///
    /// # Errors
    /// If they are not free; how many are.
    pub fn take_for_adapter(&mut self, id: SlotId, bytes: u64) -> Result<(), u64> {
        let free = self.budget.saturating_sub(self.used());
        let slot = self.slots.get(&id).ok_or(0_u64)?;
        // Others may give back meanwhile, and nobody else takes.
        let spare = slot.adapters_included.saturating_sub(slot.adapters.load(Relaxed));
        if bytes > free.saturating_add(spare) {
            return Err(free.saturating_add(spare));
        }
        slot.adapters.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// It is loaded.
    pub fn ready(&mut self, id: SlotId, keep_alive: KeepAlive, now: Duration) {
        let slot = self.slot(id);
        assert_eq!(slot.stage, Stage::Loading, "a model becomes ready once");
        let load_time = now.saturating_sub(slot.ready_at).max(LOAD_TIME_MIN);
        *slot =
            Slot { stage: Stage::Ready, ready_at: now, used_at: now, keep_alive, load_time, ..slot.clone() };
    }

    /// A request begins; what it says about staying holds from then on.
    pub fn begin(&mut self, id: SlotId, keep_alive: Option<KeepAlive>) {
        let slot = self.slot(id);
        assert_eq!(slot.stage, Stage::Ready, "only a model that is there answers");
        slot.in_use += 1;
        slot.keep_alive = keep_alive.unwrap_or(slot.keep_alive);
    }

    /// A request ends. True if it was the last of a model that is leaving.
    pub fn end(&mut self, id: SlotId, now: Duration) -> bool {
        let slot = self.slot(id);
        slot.in_use -= 1;
        slot.used_at = now;
        slot.in_use == 0 && slot.stage == Stage::Leaving
    }

    /// Sets how long it stays, from now on.
    pub fn keep(&mut self, id: SlotId, keep_alive: KeepAlive, now: Duration) {
        let slot = self.slot(id);
        (slot.keep_alive, slot.used_at) = (keep_alive, now);
    }

    /// It takes no more requests. True if it has none.
    pub fn retire(&mut self, id: SlotId) -> bool {
        let slot = self.slot(id);
        assert_eq!(slot.stage, Stage::Ready, "a model leaves once");
        slot.stage = Stage::Leaving;
        slot.in_use == 0
    }

    /// Its memory is given back.
    pub fn free(&mut self, id: SlotId) {
        let slot = self.slots.remove(&id).expect("memory is given back once");
        assert_eq!(slot.in_use, 0, "memory is given back when nobody uses it");
    }

    /// When nobody will have asked for it for as long as it is kept; `None` while somebody does, and for models that
    /// stay.
    pub fn expires_at(&self, id: SlotId) -> Option<Duration> {
        let slot = self.slots.get(&id)?;
        match slot.keep_alive {
            KeepAlive::For(time) if slot.is_idle() && !slot.is_pinned => {
                Some(slot.used_at.saturating_add(time))
            }
            _ => None,
        }
    }

    /// How long it stays from now on, if it is there and idle.
    pub fn stays(&self, id: SlotId, now: Duration) -> Option<KeepAlive> {
        let is_idle = self.slots.get(&id).is_some_and(Slot::is_idle);
        let left = |at: Duration| KeepAlive::For(at.saturating_sub(now));
        is_idle.then(|| self.expires_at(id).map_or(KeepAlive::Always, left))
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        self.slots.get_mut(&id).expect("a model in memory has a slot")
    }
}

impl Slot {
    /// Bytes that it has.
    fn held(&self) -> u64 {
        self.bytes + self.adapters.load(Relaxed).saturating_sub(self.adapters_included)
    }

    fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.in_use == 0
    }

    /// Least recently used, weighed by what it costs to have it back: seconds without use for each second of loading.
    fn boredom(&self, now: Duration) -> f64 {
        now.saturating_sub(self.used_at).as_secs_f64() / self.load_time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Models that are ready: bytes, pinned, seconds of loading, when used last. All became ready in their order.
    fn books(budget: u64, models: &[(u64, bool, u64, u64)]) -> (Books, Vec<SlotId>) {
        let mut books = Books::new(budget);
        let load = |&(bytes, pinned, load_s, used): &(u64, bool, u64, u64)| {
            let id = books.reserve(bytes, pinned, s(0));
            books.ready(id, KeepAlive::Always, s(load_s));
            books.begin(id, None);
            books.end(id, s(used));
            id
        };
        let ids = models.iter().map(load).collect();
        (books, ids)
    }

    #[test]
    fn who_goes() {
        let check = |models: &[(u64, bool, u64, u64)], busy: &[usize], bytes, drain, expected: &str| {
            let (mut books, ids) = books(100, models);
            for i in busy {
                books.begin(ids[*i], None);
            }
            let name = |list: &[SlotId]| -> String {
                list.iter().map(|id| ids.iter().position(|i| i == id).expect("known").to_string()).collect()
            };
            let plan = match books.plan(bytes, None, drain, s(1000)) {
                Plan::Fits => "fits".into(),
                Plan::Wait => "wait".into(),
                Plan::Evict(list) => format!("evict {}", name(&list)),
                Plan::Drain(list) => format!("drain {}", name(&list)),
                Plan::Never { available } => format!("never {available}"),
            };
            assert_eq!(plan, expected, "{models:?}, busy {busy:?}, {bytes} bytes");
        };
        let three = [(30, false, 1, 500), (30, false, 1, 400), (30, false, 1, 600)];
        check(&three, &[], 10, false, "fits");
        check(&three, &[], 11, false, "evict 1");
        check(&three, &[], 60, false, "evict 10");
        check(&three, &[1], 11, false, "evict 0");
        check(&three, &[0, 1, 2], 11, false, "wait");
        check(&three, &[0, 1, 2], 11, true, "drain 0");
        check(&three, &[0, 1], 80, true, "drain 201");
        check(&three, &[], 101, true, "never 100");
        // Loading it again costs ten times as much, so it may be idle for ten times as long.
        check(&[(50, false, 10, 0), (50, false, 1, 800)], &[], 1, false, "evict 1");
        check(&[(50, false, 10, 0), (50, false, 1, 990)], &[], 1, false, "evict 0");
        // Pinned ones stay, idle as they are.
        check(&[(50, true, 1, 0), (50, false, 1, 999)], &[], 50, false, "evict 1");
        check(&[(50, true, 1, 0), (50, false, 1, 999)], &[], 51, true, "never 50");
        // One large one instead of a small one that would not do.
        check(&[(5, false, 1, 0), (60, false, 1, 100)], &[], 90, false, "evict 1");
    }

    #[test]
    fn what_leaves_counts_until_it_is_gone() {
        let (mut books, ids) = books(100, &[(60, false, 1, 1), (40, false, 1, 2)]);
        books.begin(ids[0], None);
        assert!(!books.retire(ids[0]), "a request is left");
        assert_eq!((books.plan(60, None, true, s(9)), books.used()), (Plan::Wait, 100));
        assert!(books.end(ids[0], s(9)), "that was the last one");
        assert_eq!(books.plan(60, None, true, s(9)), Plan::Wait, "its memory is not given back yet");
        books.free(ids[0]);
        assert_eq!(books.plan(60, None, true, s(9)), Plan::Fits);
    }

    /// Adapters first take what was set aside for them, then what nobody has.
    #[test]
    fn adapters_count_with_their_model() {
        let (mut books, ids) = books(100, &[(60, false, 1, 1), (20, false, 1, 2)]);
        let held = books.include_adapters(ids[0], 15);
        assert_eq!(books.take_for_adapter(ids[0], 10), Ok(()));
        assert_eq!(books.used(), 80, "it is among the bytes of the model");
        assert_eq!(books.take_for_adapter(ids[0], 26), Err(25));
        assert_eq!(books.take_for_adapter(ids[0], 25), Ok(()));
        assert_eq!((books.used(), books.bytes(ids[0])), (100, 80));
        assert_eq!(books.plan(20, None, false, s(9)), Plan::Evict(vec![ids[0]]));
        held.fetch_sub(30, Relaxed);
        assert_eq!((books.used(), books.plan(20, None, false, s(9))), (80, Plan::Fits));
        books.retire(ids[0]);
        books.free(ids[0]);
        assert_eq!((books.used(), books.take_for_adapter(ids[0], 0)), (20, Err(0)));
    }

    /// What is replaced stays as long as both fit.
    #[test]
    fn replacements() {
        let (books, ids) = books(100, &[(40, false, 1, 1), (30, false, 1, 2)]);
        assert_eq!(books.plan(30, Some(ids[0]), false, s(9)), Plan::Fits);
        assert_eq!(books.plan(60, Some(ids[0]), false, s(9)), Plan::Evict(vec![ids[1]]));
        assert_eq!(books.plan(70, Some(ids[0]), true, s(9)), Plan::Wait, "only without the old one");
        let (books, ids) = self::books(100, &[(60, true, 1, 1)]);
        assert_eq!(books.plan(70, Some(ids[0]), false, s(9)), Plan::Wait, "its own place is its own");
        assert_eq!(books.plan(70, None, false, s(9)), Plan::Never { available: 40 });
    }

    #[test]
    fn expiry_follows_the_latest_request() {
        let (mut books, ids) = books(100, &[(1, false, 1, 10), (1, true, 1, 10)]);
        let (a, pinned) = (ids[0], ids[1]);
        assert_eq!((books.expires_at(a), books.stays(a, s(11))), (None, Some(KeepAlive::Always)));
        books.begin(a, Some(KeepAlive::For(s(5))));
        assert_eq!((books.expires_at(a), books.stays(a, s(11))), (None, None), "it is busy");
        books.end(a, s(20));
        assert_eq!((books.expires_at(a), books.stays(a, s(22))), (Some(s(25)), Some(KeepAlive::For(s(3)))));
        books.begin(a, None);
        books.end(a, s(30));
        assert_eq!(books.expires_at(a), Some(s(35)), "what the latest wish said still holds");
        books.keep(a, KeepAlive::For(s(0)), s(31));
        assert_eq!(books.expires_at(a), Some(s(31)));
        books.keep(pinned, KeepAlive::For(s(0)), s(31));
        assert_eq!((books.expires_at(pinned), books.stays(pinned, s(32))), (None, Some(KeepAlive::Always)));
    }
}
