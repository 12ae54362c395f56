//! When requests must have begun and ended. The clock is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Overdue, RequestId, Scheduler};

/// The deadlines of those that are there, by time.
#[derive(Clone, Debug, Default)]
pub(super) struct Deadlines {
    of: BTreeMap<RequestId, [Option<Duration>; 2]>,
    order: BTreeSet<(Duration, RequestId)>,
}

const QUEUED: usize = 0;
const UNFINISHED: usize = 1;

impl Deadlines {
    pub fn add(&mut self, id: RequestId, queue: Option<Duration>, total: Option<Duration>) {
        let both = [queue, total];
        if both != [None; 2] {
            self.order.extend(both.iter().flatten().map(|&at| (at, id)));
            self.of.insert(id, both);
        }
    }

    /// It has begun in time.
    pub fn began(&mut self, id: RequestId) {
        if let Some([queue, total]) = self.of.get_mut(&id)
            && let Some(at) = queue.take()
            && *total != Some(at)
        {
            self.order.remove(&(at, id));
        }
    }

    /// It has ended.
    pub fn ended(&mut self, id: RequestId) {
        for at in self.of.remove(&id).into_iter().flatten().flatten() {
            self.order.remove(&(at, id));
        }
    }

    /// The requests whose time is over, each once.
    fn overdue(&self, now: Duration) -> Vec<(RequestId, Overdue)> {
        let due: BTreeSet<RequestId> =
            self.order.iter().take_while(|(at, _)| *at <= now).map(|&(_, id)| id).collect();
        let why = |id: RequestId| match self.of[&id] {
            at if at[UNFINISHED].is_some_and(|at| at <= now) => Overdue::Unfinished,
            at => {
                assert!(at[QUEUED].is_some_and(|at| at <= now), "a deadline of request {} is lost", id.0);
                Overdue::Queued
            }
        };
        due.into_iter().map(|id| (id, why(id))).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.order.is_empty()
    }
}

impl Scheduler {
    /// The requests whose time is over at `now`, on the clock of their deadlines: the caller tells them so and
    /// [aborts](Self::abort) them. Asked before each step, so that nobody computes for one of them.
    pub fn overdue(&self, now: Duration) -> Vec<(RequestId, Overdue)> {
        self.deadlines.overdue(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deadline_is_told_once() {
        let mut deadlines = Deadlines::default();
        let s = |n| Some(Duration::from_secs(n));
        let (a, b, c, d) = (RequestId(1), RequestId(2), RequestId(3), RequestId(4));
        deadlines.add(a, s(2), s(9));
        deadlines.add(b, s(3), s(3));
        deadlines.add(c, s(1), None);
        deadlines.add(d, None, None);
        let check = |deadlines: &Deadlines, now, expected: &[(RequestId, Overdue)]| {
            assert_eq!(deadlines.overdue(Duration::from_secs(now)), expected, "at {now} s");
        };
        check(&deadlines, 0, &[]);
        check(&deadlines, 1, &[(c, Overdue::Queued)]);
        deadlines.ended(c);
        deadlines.began(b);
        check(&deadlines, 2, &[(a, Overdue::Queued)]);
        deadlines.began(a);
        check(&deadlines, 3, &[(b, Overdue::Unfinished)]);
        deadlines.ended(b);
        check(&deadlines, 8, &[]);
        check(&deadlines, 9, &[(a, Overdue::Unfinished)]);
        deadlines.ended(a);
        deadlines.ended(d);
        assert!(deadlines.is_empty());
    }
}
