//! Percentiles: of values that are all kept, and of ever so many in a histogram.

use std::time::Duration;

/// Counters of a histogram per power of two.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 10;

/// What a distribution is like. Percentiles are values that occurred: the smallest that is not below that share of all
/// (nearest rank).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many values there are; all else is 0 if none.
    pub n: u64,
    /// The mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// Half are not above.
    pub p50: f64,
    /// 90 of 100 are not above.
    pub p90: f64,
    /// 95 of 100 are not above.
    pub p95: f64,
    /// 99 of 100 are not above.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of these values; sorts them.
    pub fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len() as u64;
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else { return Self::default() };
        let at = |share: f64| values[rank(n, share) as usize];
        let mean = values.iter().sum::<f64>() / n as f64;
        Self { n, mean, min, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max }
    }
}

/// Where the value of this share stands among `n` sorted ones.
fn rank(n: u64, share: f64) -> u64 {
    // A share such as 0.95 is a little more or less than it says; 0.95 of 20 must be 19 all the same.
    ((share * n as f64 - 1e-9).ceil() as u64).clamp(1, n.max(1)) - 1
}

/// Durations in counters of a width of 1/1024 of what they count: percentiles are exact to 0.05 %, mean and extremes are
/// exact. 440 KiB, however many values there are.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    n: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let n_counters = (u64::from(u64::BITS - STEP_BITS) + 1) * STEPS;
        Self { counts: vec![0; n_counters as usize], n: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[counter(ns)] += 1;
        self.n += 1;
        self.sum += u128::from(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// In seconds.
    pub fn summary(&self) -> Summary {
        if self.n == 0 {
            return Summary::default();
        }
        let at = |share: f64| self.value_at(rank(self.n, share)) / 1e9;
        Summary {
            n: self.n,
            mean: self.sum as f64 / self.n as f64 / 1e9,
            min: self.min as f64 / 1e9,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: self.max as f64 / 1e9,
        }
    }

    /// Values in seconds, ascending, each with the share of all that is not above it.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let mut seen = 0;
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted
            .map(|(at, count)| {
                seen += count;
                (self.within(middle(at)) / 1e9, seen as f64 / self.n as f64)
            })
            .collect()
    }

    fn value_at(&self, rank: u64) -> f64 {
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > rank {
                return self.within(middle(at));
            }
        }
        self.max as f64
    }

    fn within(&self, ns: f64) -> f64 {
        ns.clamp(self.min as f64, self.max as f64)
    }
}

/// The first 1024 values have a counter each; then 1024 counters share each power of two.
fn counter(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

/// The middle of what a counter counts, in nanoseconds.
fn middle(at: usize) -> f64 {
    let at = at as u64;
    let shift = (at / STEPS).saturating_sub(1);
    let from = (at - shift * STEPS) << shift;
    from as f64 + ((1u64 << shift) - 1) as f64 / 2.0
}
