//! What is told while a model is pulled or pushed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Digest;

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(5);

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step begins; in Ollama's words where there is such a step.
    Status(Cow<'static, str>),
    /// A file moves on.
    Progress {
        /// Its name for readers.
        file: String,
        /// Its digest, if it is known before.
        digest: Option<Digest>,
        /// Bytes that are there.
        done: u64,
        /// Bytes altogether.
        total: u64,
        /// Bytes per second over the last seconds.
        rate: f64,
        /// How long the rest will take at that rate.
        left: Option<Duration>,
    },
}

/// Who is told. It is called often, from wherever the work runs.
pub type Watch<'a> = &'a (dyn Fn(&Event) + Send + Sync);

/// Turns counts of bytes into rates.
#[derive(Debug)]
pub struct Meter {
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Begins with what is there already, which does not count as speed.
    pub fn new(now: Instant, done: u64) -> Self {
        Self { samples: VecDeque::from([(now, done)]) }
    }

    /// Bytes per second over the last seconds, and how long the rest takes, if that can be told.
    pub fn take(&mut self, now: Instant, done: u64, total: u64) -> (f64, Option<Duration>) {
        // A file that is begun again counts from there.
        if self.samples.back().is_some_and(|(_, last)| done < *last) {
            self.samples.clear();
        }
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
        let (since, from) = self.samples.front().copied().unwrap_or((now, done));
        let seconds = now.duration_since(since).as_secs_f64();
        let rate = if seconds > 0.0 { (done - from) as f64 / seconds } else { 0.0 };
        let left = (rate > 0.0)
            .then(|| Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(1e9)));
        (rate, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_look_back_five_seconds() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut meter = Meter::new(start, 1000);
        assert_eq!(meter.take(at(0), 1000, 10_000), (0.0, None));
        let (rate, left) = meter.take(at(1), 2000, 10_000);
        assert_eq!((rate, left), (1000.0, Some(Duration::from_secs(8))));
        // A stall shows within the window.
        for s in 2..20 {
            meter.take(at(s), 2000, 10_000);
        }
        assert_eq!(meter.take(at(20), 2000, 10_000), (0.0, None));
        let (rate, _) = meter.take(at(21), 8000, 10_000);
        assert!((1000.0..=1200.0).contains(&rate), "{rate}");
        // Begun again.
        meter.take(at(22), 0, 10_000);
        assert_eq!(meter.take(at(23), 500, 10_000).0, 500.0);
    }
}
