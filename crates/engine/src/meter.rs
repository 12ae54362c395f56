//! Tokens per second over the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(5);
/// Counts within this time are added up: bounds the memory.
const BUCKET: Duration = Duration::from_millis(100);

/// Counts what was computed and when.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    /// Start, prompt tokens, new tokens.
    buckets: VecDeque<(Instant, usize, usize)>,
    n_prefill: u64,
    prefill_time: Duration,
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self { since: now, buckets: VecDeque::new(), n_prefill: 0, prefill_time: Duration::ZERO }
    }

    /// A step that began then and ends now computed so many prompt tokens and so many new ones.
    pub fn step(&mut self, began: Instant, now: Instant, n_prefill: usize, n_decode: usize) {
        match self.buckets.back_mut() {
            Some(bucket) if now.duration_since(bucket.0) < BUCKET => {
                bucket.1 += n_prefill;
                bucket.2 += n_decode;
            }
            _ => self.buckets.push_back((now, n_prefill, n_decode)),
        }
        while self.buckets.front().is_some_and(|b| now.duration_since(b.0) > WINDOW) {
            self.buckets.pop_front();
        }
        if n_prefill > n_decode {
            self.n_prefill += n_prefill as u64;
            self.prefill_time += now.duration_since(began);
        }
    }

    /// Prompt and new tokens per second over the last seconds, up to now.
    pub fn rates(&self, now: Instant) -> (f64, f64) {
        let recent = self.buckets.iter().filter(|b| now.duration_since(b.0) <= WINDOW);
        let (prefill, decode) = recent.fold((0, 0), |sum, b| (sum.0 + b.1, sum.1 + b.2));
        let seconds = now.duration_since(self.since).min(WINDOW).max(BUCKET).as_secs_f64();
        (prefill as f64 / seconds, decode as f64 / seconds)
    }

    /// How long this many prompt tokens will take, as steps that were mostly prompts have gone so far.
    pub fn estimate(&self, n_prefill: usize) -> Duration {
        let seconds = self.prefill_time.as_secs_f64() * n_prefill as f64 / self.n_prefill.max(1) as f64;
        Duration::from_secs_f64(seconds.min(3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_window_and_fade() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        for i in 0..100 {
            meter.step(at(i * 100), at(i * 100 + 100), 20, 2);
        }
        let (prefill, decode) = meter.rates(at(10_000));
        assert!((prefill - 200.0).abs() < 10.0 && (decode - 20.0).abs() < 1.0, "{prefill} {decode}");
        assert_eq!(meter.rates(at(20_000)), (0.0, 0.0));
        assert!(meter.buckets.len() <= 52);
        assert_eq!(meter.estimate(400), Duration::from_secs(2));
    }
}
