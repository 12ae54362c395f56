//! How large a step may be so that it takes no longer than it should: learned from what steps took. Pure, as the
//! scheduler is: it is told the times.

use std::time::Duration;

use super::StepBudget;

/// What a step weighs in comparison with the one after it.
const DECAY: f64 = 0.95;
/// Tokens of a step about which nothing is known yet.
const TOKENS_FIRST: f64 = 32.0;
/// Steps are planned for this part of the time that they may take: the next one may be slower than those before.
const PART: f64 = 0.8;

/// A step's time as a line over its tokens, `fixed + each * n_tokens`: least squares, recent steps counting most.
#[derive(Clone, Debug)]
pub struct Pace {
    /// In seconds; infinite: steps may take as long as they take.
    target: f64,
    tokens_max: usize,
    /// Weighted sums: 1, tokens, seconds, tokens squared, tokens times seconds.
    sums: [f64; 5],
    /// What experience reaches to: no step is more than twice as large as one that was in time.
    reach: f64,
}

impl Pace {
    /// For steps of at most `tokens_max` tokens that take `step_time_max`; nothing: as long as they take.
    pub fn new(step_time_max: Duration, tokens_max: usize) -> Self {
        let target = if step_time_max.is_zero() { f64::INFINITY } else { PART * step_time_max.as_secs_f64() };
        Self { target, tokens_max, sums: [0.0; 5], reach: TOKENS_FIRST }
    }

    /// A step of so many tokens took so long.
    pub fn step(&mut self, n_tokens: usize, took: Duration) {
        let (x, y) = (n_tokens as f64, took.as_secs_f64());
        for (sum, value) in self.sums.iter_mut().zip([1.0, x, y, x * x, x * y]) {
            *sum = *sum * DECAY + value;
        }
        let (fixed, each) = self.line();
        // The rest of a hundredth is for clocks.
        if y > 1.01 * self.target.max(2.0 * fixed) {
            self.reach = self.reach.min((x * self.target / y).max(fixed / each).max(1.0));
        } else {
            self.reach = self.reach.max(2.0 * x).min(self.tokens_max as f64);
        }
    }

    /// How large the next step may be. It is never so small that most of its time is what any step costs: such a step may
    /// take longer than it should, up to twice that cost.
    pub fn budget(&self) -> StepBudget {
        if self.target.is_infinite() {
            return self.unbounded();
        }
        let (fixed, each) = self.line();
        let worth = fixed / each;
        let tokens = ((self.target - fixed) / each).max(worth).min(self.reach);
        StepBudget { tokens: (tokens as usize).clamp(1, self.tokens_max), fixed_cost: worth.round() as usize }
    }

    /// A step as large as the configuration lets it be, for who has the machine alone.
    pub fn unbounded(&self) -> StepBudget {
        StepBudget { tokens: self.tokens_max, fixed_cost: usize::MAX }
    }

    /// Seconds that any step takes, and those that each token adds; the latter is never 0.
    fn line(&self) -> (f64, f64) {
        let [n, x, y, xx, xy] = self.sums;
        let spread = n * xx - x * x;
        let mean = || (y / x).max(1e-9);
        if n == 0.0 {
            return (0.0, 1e-9);
        }
        if spread < 1e-3 * xx * n {
            return (0.0, mean()); // all alike: nothing tells the two apart
        }
        let each = (n * xy - x * y) / spread;
        let fixed = (y - each * x) / n;
        match (fixed > 0.0, each > 0.0) {
            (true, true) => (fixed, each.max(1e-9)),
            (false, _) => (0.0, mean()),
            // Tokens cost nothing beside what any step does: at most as much as they would if they were all.
            (true, false) => (y / n, mean() / 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs full steps on a device that takes `fixed + each * tokens` microseconds; gives the last step's size, what it
    /// took in milliseconds, and the most that any took.
    fn settle(fixed: f64, each: f64) -> (usize, u128, u128) {
        let mut pace = Pace::new(Duration::from_millis(200), 512);
        let (mut last, mut most) = ((0, 0), 0);
        for i in 0..200 {
            let StepBudget { tokens, .. } = pace.budget();
            let tokens = if i % 3 == 2 { tokens / 2 + 1 } else { tokens };
            let took = Duration::from_nanos(((fixed + each * tokens as f64) * 1000.0) as u64);
            pace.step(tokens, took);
            if i % 3 != 2 {
                last = (tokens, took.as_millis());
            }
            most = most.max(took.as_millis());
        }
        (last.0, last.1, most)
    }

    #[test]
    fn steps_are_as_large_as_their_time_allows() {
        let check = |fixed, each, expected: (usize, u128, u128)| {
            let (tokens, ms, most) = settle(fixed, each);
            let near = |a: u128, b: u128| a.abs_diff(b) <= b / 20 + 2;
            assert!(
                near(tokens as u128, expected.0 as u128) && near(ms, expected.1) && near(most, expected.2),
                "{fixed} + {each} n: {tokens} tokens in {ms} ms, at most {most} ms, in place of {expected:?}"
            );
        };
        check(1_000.0, 100.0, (512, 52, 52)); // a small model: as large as they may be
        check(10_000.0, 1_000.0, (150, 160, 160));
        check(27_000.0, 5_000.0, (26, 160, 187)); // before anything was known
        check(150_000.0, 10_000.0, (15, 300, 470)); // at least half of a step's time is for its tokens
    }

    #[test]
    fn what_a_step_costs_by_itself_is_told_in_tokens() {
        let mut pace = Pace::new(Duration::from_millis(200), 512);
        for n in [1, 8, 32, 20, 4] {
            pace.step(n, Duration::from_millis(20 + 2 * n as u64));
        }
        assert_eq!(pace.budget().fixed_cost, 10);
        assert_eq!(Pace::new(Duration::ZERO, 64).budget(), StepBudget { tokens: 64, fixed_cost: usize::MAX });
    }
}
