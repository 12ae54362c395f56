//! What a step costs by its rows, as measured while it goes.

/// Up to this many rows each number is measured by itself; beyond, ranges that grow.
const EXACT_MAX: usize = 32;
const N_BUCKETS: usize = EXACT_MAX + 24;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.2;
/// A measurement further off than this, either way, counts as this far: something else had the machine.
const OUTLIER: f64 = 2.0;
/// What a further row is taken to cost before any has been measured, as a share of a step of one.
const ROW_SHARE: f64 = 0.35;

/// Seconds of a step by its rows: averages that follow the machine and the growing context.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// By bucket; 0 where nothing was measured.
    seconds: [f64; N_BUCKETS],
}

impl Default for Costs {
    fn default() -> Self {
        Self { seconds: [0.0; N_BUCKETS] }
    }
}

impl Costs {
    /// A step of `n_rows` rows took so long.
    pub fn observe(&mut self, n_rows: usize, seconds: f64) {
        if n_rows == 0 || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let known = &mut self.seconds[bucket(n_rows)];
        if *known == 0.0 {
            *known = seconds;
        } else {
            let seconds = seconds.clamp(*known / OUTLIER, *known * OUTLIER);
            *known += WEIGHT * (seconds - *known);
        }
    }

    /// The most rows of a step that was measured; 0 before any.
    pub fn most_measured(&self) -> usize {
        (0..N_BUCKETS).rev().find(|&i| self.seconds[i] > 0.0).map_or(0, rows_of)
    }

    /// What a step of so many rows will take: measured, or on the line through its neighbours. More rows never take
    /// less. `None` before any measurement.
    pub fn of(&self, n_rows: usize) -> Option<f64> {
        let at = bucket(n_rows);
        let measured = |i: usize| Some((rows_of(i) as f64, self.seconds[i])).filter(|known| known.1 > 0.0);
        // What fewer rows took is the least.
        let below = (0..=at).filter_map(measured).reduce(|a, b| (b.0, a.1.max(b.1)));
        let above = (at + 1..N_BUCKETS).find_map(measured);
        let n = n_rows as f64;
        Some(match (below, above) {
            (None, None) => return None,
            (Some(below), _) if at < EXACT_MAX && below.0 == n => below.1,
            (Some(below), Some(above)) => {
                let slope = ((above.1 - below.1) / (above.0 - below.0)).max(0.0);
                below.1 + slope * (n - below.0).max(0.0)
            }
            (Some(below), None) => below.1 + self.slope() * (n - below.0).max(0.0),
            (None, Some(above)) => above.1 / (1.0 + ROW_SHARE * (above.0 - n) / n),
        })
    }

    /// What one more row costs beyond all that was measured: as between the fewest and the most rows there were.
    fn slope(&self) -> f64 {
        let known = || (0..N_BUCKETS).filter(|&i| self.seconds[i] > 0.0);
        let (Some(first), Some(last)) = (known().next(), known().next_back()) else { return 0.0 };
        let (a, b) = (rows_of(first) as f64, rows_of(last) as f64);
        if first == last {
            return ROW_SHARE * self.seconds[first] / a;
        }
        let slope = (self.seconds[last] - self.seconds[first]) / (b - a);
        // Nothing is free, whatever a noisy clock says.
        slope.max(0.02 * self.seconds[first] / a)
    }
}

/// 1 to 32 rows have one bucket each, then each doubling has four.
fn bucket(n_rows: usize) -> usize {
    let n = n_rows.max(1);
    if n <= EXACT_MAX {
        return n - 1;
    }
    let doublings = (n - 1).ilog2() as usize - EXACT_MAX.ilog2() as usize;
    let base = EXACT_MAX << doublings;
    (EXACT_MAX + 4 * doublings + (n - 1 - base) * 4 / base).min(N_BUCKETS - 1)
}

/// The rows that a bucket stands for: in the middle of a range.
fn rows_of(bucket: usize) -> usize {
    if bucket < EXACT_MAX {
        return bucket + 1;
    }
    let (doublings, quarter) = ((bucket - EXACT_MAX) / 4, (bucket - EXACT_MAX) % 4);
    let base = EXACT_MAX << doublings;
    base + base * (2 * quarter + 1) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_rows_in_order() {
        let all: Vec<usize> = (1..5000).map(bucket).collect();
        assert!(all.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1), "no gap and no step back");
        (0..N_BUCKETS).for_each(|i| assert_eq!(bucket(rows_of(i)), i));
    }

    fn check(measured: &[(usize, f64)], n_rows: usize, expected: f64) {
        let mut costs = Costs::default();
        measured.iter().for_each(|&(n, seconds)| costs.observe(n, seconds));
        let found = costs.of(n_rows).unwrap();
        assert!((found - expected).abs() < 1e-9, "{measured:?} at {n_rows}: {found}, not {expected}");
    }

    #[test]
    fn between_measurements_lies_a_line() {
        assert_eq!(Costs::default().of(1), None);
        check(&[(1, 1.0)], 1, 1.0);
        check(&[(1, 1.0)], 3, 1.7);
        check(&[(1, 1.0), (5, 2.0)], 3, 1.5);
        check(&[(1, 1.0), (5, 2.0)], 9, 3.0);
        check(&[(2, 1.0), (4, 0.9)], 4, 1.0);
        check(&[(1, 1.0), (4, 0.9)], 11, 1.0 + 0.02 * 7.0);
    }

    #[test]
    fn averages_follow_and_outliers_count_little() {
        let mut costs = Costs::default();
        costs.observe(1, 1.0);
        costs.observe(1, 100.0);
        assert!((costs.of(1).unwrap() - 1.2).abs() < 1e-9);
        (0..50).for_each(|_| costs.observe(1, 3.0));
        assert!((costs.of(1).unwrap() - 3.0).abs() < 0.01);
        costs.observe(1, f64::NAN);
        costs.observe(1, 0.0);
        assert!(costs.of(1).unwrap() > 2.9);
    }
}
