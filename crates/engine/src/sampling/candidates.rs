//! The tokens that are still in the race. As long as nothing was cut they are the logits themselves; the first cut
//! that can be made without sorting (top-k, min-p, sigma) leaves a short list.

use std::cmp::Ordering;

use super::math::{exp, ln};

/// A token in the race.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
    /// Its probability among the candidates, where it was asked for.
    pub p: f64,
}

/// The most likely first, the lower id first among equals. No NaN gets here.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The largest logit; minus infinity if there is none. NaN counts for nothing.
pub(super) fn max_of(logits: &[f32]) -> f32 {
    // Independent lanes, so that the compiler uses vectors.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = logits.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// The most likely token, the lowest id among equals; 0 if nothing is possible.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let max = max_of(logits);
    logits.iter().position(|&x| x == max).unwrap_or(0) as u32
}

/// The candidates of one draw; the list is kept for the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// Whether the list stands for the race. Until then the logits do.
    listed: bool,
    sorted: bool,
}

impl Candidates {
    /// Starts a race of all tokens.
    pub fn begin(&mut self) {
        self.list.clear();
        self.listed = false;
        self.sorted = false;
    }

    /// The candidates, all of them if nothing was cut yet. Tokens that are forbidden or no number are not in it.
    pub fn list(&mut self, logits: &[f32]) -> &mut Vec<Candidate> {
        if !self.listed {
            self.cut_below(logits, f32::NEG_INFINITY);
        }
        &mut self.list
    }

    /// How many there are.
    pub fn len(&self, logits: &[f32]) -> usize {
        if self.listed { self.list.len() } else { logits.len() }
    }

    /// The largest logit.
    pub fn max(&self, logits: &[f32]) -> f32 {
        match (self.listed, self.sorted) {
            (true, true) => self.list.first().map_or(f32::NEG_INFINITY, |c| c.logit),
            (true, false) => self.list.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit)),
            _ => max_of(logits),
        }
    }

    /// Removes what lies below a logit; minus infinity removes only the impossible.
    pub fn cut_below(&mut self, logits: &[f32], least: f32) {
        if self.listed {
            self.list.retain(|c| c.logit >= least);
            return;
        }
        let possible = |l: f32| l >= least && l > f32::NEG_INFINITY;
        let candidates = logits.iter().zip(0u32..).filter(|(l, _)| possible(**l));
        self.list.extend(candidates.map(|(&logit, id)| Candidate { id, logit, p: 0.0 }));
        self.listed = true;
    }

    /// Keeps the `k` most likely, in order.
    pub fn keep_top(&mut self, logits: &[f32], k: usize) {
        if !self.listed {
            self.select_top(logits, k);
        }
        if !self.sorted && k < self.list.len() && k > 0 {
            self.list.select_nth_unstable_by(k - 1, by_logit);
        }
        self.list.truncate(k);
        self.sort();
    }

    /// One pass over all logits with a rising bar: what is above it is collected, and when there is much, cut to the
    /// best `k`, the last of which is the new bar.
    fn select_top(&mut self, logits: &[f32], k: usize) {
        const CHUNK: usize = 64;
        let room = (2 * k).max(1024);
        let mut bar = f32::NEG_INFINITY;
        for (chunk, start) in logits.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
            // Equal to the bar with a higher id is not better. NaN is above nothing.
            if chunk.iter().fold(0u32, |n, &l| n + u32::from(l > bar)) == 0 {
                continue;
            }
            for (&logit, id) in chunk.iter().zip(start..) {
                if logit > bar {
                    self.list.push(Candidate { id, logit, p: 0.0 });
                }
            }
            if self.list.len() >= room {
                self.list.select_nth_unstable_by(k - 1, by_logit);
                self.list.truncate(k);
                bar = self.list[k - 1].logit;
            }
        }
        self.listed = true;
    }

    /// Sorts, the most likely first.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.list.sort_unstable_by(by_logit);
            self.sorted = true;
        }
    }

    /// Sorts only as much as holds the mass `p`, at least `min_keep`, and drops the rest. Probabilities are given.
    pub fn keep_mass(&mut self, p: f64, min_keep: usize) {
        let mut begin = 0;
        let mut step = 256;
        let mut mass = 0.0;
        while begin < self.list.len() {
            // The next `step` in order, in front of the rest.
            let end = if self.sorted { self.list.len() } else { (begin + step).min(self.list.len()) };
            if !self.sorted {
                if end < self.list.len() {
                    self.list[begin..].select_nth_unstable_by(end - begin - 1, by_logit);
                }
                self.list[begin..end].sort_unstable_by(by_logit);
            }
            for i in begin..end {
                mass += self.list[i].p;
                if mass >= p && i + 1 >= min_keep {
                    self.list.truncate(i + 1);
                    self.sorted = true;
                    return;
                }
            }
            (begin, step) = (end, step * 4);
        }
        self.sorted = true;
    }

    /// Removes the first `n` of a sorted list.
    pub fn drop_first(&mut self, n: usize) {
        self.list.drain(..n);
    }

    /// Puts a list in an order of its own.
    pub fn reorder(&mut self, mut rank: impl FnMut(&Candidate) -> f64) {
        let mut keyed: Vec<(f64, Candidate)> = self.list.iter().map(|c| (rank(c), *c)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.list.clear();
        self.list.extend(keyed.into_iter().map(|k| k.1));
        self.sorted = false;
    }

    /// Changes logits one by one: `change` gets each candidate's id and logit.
    pub fn for_each(&mut self, logits: &mut [f32], mut change: impl FnMut(u32, &mut f32)) {
        if self.listed {
            self.list.iter_mut().for_each(|c| change(c.id, &mut c.logit));
            self.sorted = false;
        } else {
            logits.iter_mut().zip(0u32..).for_each(|(l, id)| change(id, l));
        }
    }

    /// Changes the logits of a few tokens, given by id: `change` gets what belongs to the id, and the logit.
    pub fn for_some<T: Copy>(
        &mut self,
        logits: &mut [f32],
        some: &std::collections::HashMap<u32, T>,
        mut change: impl FnMut(T, &mut f32),
    ) {
        if self.listed {
            for c in &mut self.list {
                if let Some(&what) = some.get(&c.id) {
                    change(what, &mut c.logit);
                }
            }
            self.sorted = false;
        } else {
            for (&id, &what) in some {
                if let Some(logit) = logits.get_mut(id as usize) {
                    change(what, logit);
                }
            }
        }
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.list.truncate(n);
    }

    /// Sets every candidate's probability: the softmax of their logits.
    pub fn softmax(&mut self, logits: &[f32]) -> &[Candidate] {
        let max = f64::from(self.max(logits));
        let list = self.list(logits);
        let mut sum = 0.0;
        for c in list.iter_mut() {
            let below = if f64::from(c.logit) == max { 0.0 } else { f64::from(c.logit) - max };
            c.p = exp(below);
            sum += c.p;
        }
        list.iter_mut().for_each(|c| c.p /= sum);
        list
    }

    /// The entropy of the probabilities, in nats.
    pub fn entropy(&self) -> f64 {
        self.list.iter().filter(|c| c.p > 0.0).map(|c| -c.p * ln(c.p)).sum()
    }
}
