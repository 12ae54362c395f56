//! Whose turn it is to compute: models share one pool, a step at a time, weighted and fair.
//!
//! A loop on the pool excludes other loops, but a step is hundreds of loops: without turns, two models' steps would
//! interleave loop by loop, each throwing the other's weights out of the caches, and a lock that whoever asks next may
//! take would leave the shares to chance. So whoever computes for longer than a loop joins the pool as a [`Member`]
//! and asks for its turn.
//!
//! Turns are handed out by start-time fair queueing (Goyal, Vin and Chen, 1996) over measured time: each member has a
//! virtual time, which its turns advance by their length divided by its weight, and the lowest that waits is next.
//! Whoever comes back after a pause starts at the present, so nobody saves up credit. A member whose turn ended and
//! which is still the lowest is waited for, as long as its turn took and within [`GRACE`]: between two steps a model
//! picks tokens, and without that two members that always want more would alternate whatever their weights.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the pool is kept, at least and at most, for a member that just had it and would be next. Long enough for the
/// work between two steps of a busy model, which grows with the step; lost once when it has no more to do.
const GRACE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(5);

/// The turns of a pool.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    /// Signalled when a turn ends.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<u64, Books>,
    next_id: u64,
    /// Whose turn it is.
    holder: Option<u64>,
    /// Who may come back until when.
    kept_for: Option<(u64, Instant)>,
    /// The virtual time at which the latest turn began, in nanoseconds of a member with weight 1.
    now: u64,
}

#[derive(Debug)]
struct Books {
    weight: u32,
    /// Its virtual time, in nanoseconds of a member with weight 1.
    time: u64,
    /// How many of its threads wait.
    waiting: u32,
}

/// One who takes turns on a pool. Dropping it leaves.
#[derive(Debug)]
pub struct Member {
    turns: Arc<Turns>,
    id: u64,
}

/// A turn; dropping it ends it.
#[derive(Debug)]
pub struct Turn<'a> {
    member: &'a Member,
    began: Instant,
}

impl Turns {
    pub(crate) fn join(self: &Arc<Self>, weight: u32) -> Member {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let books = Books { weight: weight.max(1), time: state.now, waiting: 0 };
        state.members.insert(id, books);
        drop(state);
        Member { turns: Arc::clone(self), id }
    }

    /// Nothing under this lock can be left half-changed, so a panic elsewhere does not matter.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn books(&mut self, id: u64) -> &mut Books {
        self.members.get_mut(&id).expect("a member is in the books until it is dropped")
    }

    /// Who of those that wait is next.
    fn lowest(&self) -> Option<u64> {
        let waiting = self.members.iter().filter(|(_, books)| books.waiting > 0);
        waiting.min_by_key(|(id, books)| (books.time, **id)).map(|(id, _)| *id)
    }

    fn arrive(&mut self, id: u64) {
        let now = self.now;
        let books = self.books(id);
        if books.waiting == 0 {
            books.time = books.time.max(now);
        }
        books.waiting += 1;
    }

    /// Takes the turn if it is there for `id`; otherwise, how long it is kept for somebody else, if that is why.
    fn try_take(&mut self, id: u64, at: Instant) -> Result<(), Option<Duration>> {
        if self.holder.is_some() {
            return Err(None);
        }
        if let Some((kept, until)) = self.kept_for
            && kept != id
            && until > at
        {
            return Err(Some(until - at));
        }
        let is_kept = self.kept_for.is_some_and(|(kept, until)| kept == id && until > at);
        if !is_kept && self.lowest() != Some(id) {
            return Err(None);
        }
        let books = self.books(id);
        books.waiting -= 1;
        self.now = books.time;
        (self.holder, self.kept_for) = (Some(id), None);
        Ok(())
    }

    fn end(&mut self, id: u64, took: Duration, at: Instant) {
        self.holder = None;
        let grace = took.clamp(*GRACE.start(), *GRACE.end());
        let books = self.books(id);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / u64::from(books.weight);
        books.time = books.time.saturating_add(took);
        let time = books.time;
        let next = self.lowest().map(|id| self.members[&id].time);
        if next.is_some_and(|next| time < next) {
            self.kept_for = Some((id, at + grace));
        }
    }
}

impl Member {
    /// Waits for this member's turn. A thread that has one must not ask for another.
    pub fn turn(&self) -> Turn<'_> {
        let mut state = self.turns.state();
        state.arrive(self.id);
        loop {
            state = match state.try_take(self.id, Instant::now()) {
                Ok(()) => return Turn { member: self, began: Instant::now() },
                Err(None) => self.turns.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Err(Some(kept)) => {
                    let waited = self.turns.ended.wait_timeout(state, kept);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.members.remove(&self.id);
        if state.kept_for.is_some_and(|(id, _)| id == self.id) {
            state.kept_for = None;
        }
        drop(state);
        self.turns.ended.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let at = Instant::now();
        let turns = &self.member.turns;
        turns.state().end(self.member.id, at - self.began, at);
        turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members who always want more, with the length of each one's turns: who got which share of the time.
    fn shares(members: &[(u32, u64)]) -> Vec<f64> {
        let turns = Arc::new(Turns::default());
        let joined: Vec<Member> = members.iter().map(|(weight, _)| turns.join(*weight)).collect();
        let (mut got, mut at) = (vec![0_u64; members.len()], Instant::now());
        let mut state = turns.state();
        joined.iter().for_each(|m| state.arrive(m.id));
        for _ in 0..10_000 {
            let taken = joined.iter().position(|m| state.try_take(m.id, at) == Ok(()));
            let i = taken.expect("someone is next");
            let took = Duration::from_micros(members[i].1);
            at += took;
            got[i] += members[i].1;
            state.end(joined[i].id, took, at);
            // It picks tokens, and is back within the grace.
            at += *GRACE.start() / 4;
            state.arrive(joined[i].id);
        }
        let total: u64 = got.iter().sum();
        got.into_iter().map(|n| n as f64 / total as f64).collect()
    }

    #[test]
    fn shares_follow_the_weights_whatever_the_turns_length() {
        let check = |members: &[(u32, u64)]| {
            let total: u32 = members.iter().map(|(weight, _)| weight).sum();
            for (share, (weight, _)) in shares(members).into_iter().zip(members) {
                let expected = f64::from(*weight) / f64::from(total);
                assert!((share - expected).abs() < 0.02, "{members:?}: {share} instead of {expected}");
            }
        };
        check(&[(1, 1000), (1, 1000)]);
        check(&[(1, 10_000), (1, 500)]);
        check(&[(3, 1000), (1, 1000)]);
        check(&[(1, 100), (2, 700), (5, 20_000)]);
    }

    /// Nobody saves up turns while it wants none.
    #[test]
    fn a_pause_earns_no_credit() {
        let turns = Arc::new(Turns::default());
        let (a, b) = (turns.join(1), turns.join(1));
        let mut state = turns.state();
        let (mut at, turn) = (Instant::now(), Duration::from_millis(10));
        for _ in 0..100 {
            state.arrive(a.id);
            state.try_take(a.id, at).expect("nobody else wants it");
            at += turn;
            state.end(a.id, turn, at);
        }
        state.arrive(a.id);
        state.arrive(b.id);
        let mut of_b = 0;
        for _ in 0..20 {
            let id = if state.try_take(b.id, at).is_ok() { b.id } else { a.id };
            if id == a.id {
                state.try_take(a.id, at).expect("one of them is next");
            } else {
                of_b += 1;
            }
            at += turn;
            state.end(id, turn, at);
            state.arrive(id);
        }
        drop(state);
        assert!((9..=11).contains(&of_b), "{of_b} of 20 turns");
    }

    /// With real threads and a real clock: turns exclude each other, and nobody starves.
    #[test]
    fn threads_take_turns() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
        let turns = Arc::new(Turns::default());
        let (inside, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let counts: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for count in &counts {
                let member = turns.join(1);
                let (inside, stop) = (&inside, &stop);
                scope.spawn(move || {
                    while !stop.load(SeqCst) {
                        let _turn = member.turn();
                        assert!(!inside.swap(true, SeqCst), "two have their turn at once");
                        std::thread::sleep(Duration::from_micros(200));
                        inside.store(false, SeqCst);
                        count.fetch_add(1, SeqCst);
                    }
                });
            }
            while counts.iter().any(|c| c.load(SeqCst) < 20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, SeqCst);
        });
    }
}
