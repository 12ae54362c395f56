//! When sessions arrive in the open loop.

use std::str::FromStr;
use std::time::Duration;

use super::rng::Rng;

/// Bounds of the coefficient of variation.
const CV_RANGE: std::ops::RangeInclusive<f64> = 0.01..=20.0;
/// The largest burst.
const BURST_MAX: u64 = 100_000;
/// Sessions of a burst where it is not said.
const BURST_DEFAULT: u64 = 10;

/// How arrivals spread around their mean rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Independent of each other, as many users are: exponential gaps.
    Poisson,
    /// Equal gaps.
    Constant,
    /// So many at once, at equal gaps.
    Burst(u64),
    /// Gaps of a gamma distribution with this coefficient of variation: 1 is Poisson, more is burstier.
    Gamma(f64),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').map_or((text, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("poisson", None) => Ok(Self::Poisson),
            ("constant", None) => Ok(Self::Constant),
            ("burst", None) => Ok(Self::Burst(BURST_DEFAULT)),
            ("burst", Some(n)) => match n.parse() {
                Ok(n) if (1..=BURST_MAX).contains(&n) => Ok(Self::Burst(n)),
                _ => Err(format!("`{n}` sessions of a burst: give a number from 1 to {BURST_MAX}")),
            },
            ("gamma", Some(cv)) => match cv.parse() {
                Ok(cv) if CV_RANGE.contains(&cv) => Ok(Self::Gamma(cv)),
                _ => Err(format!("`{cv}` as coefficient of variation: give a number from 0.01 to 20")),
            },
            _ => Err(format!("`{text}` is no pattern (known: poisson, constant, burst:N, gamma:CV)")),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Constant => f.write_str("constant"),
            Self::Burst(n) => write!(f, "burst:{n}"),
            Self::Gamma(cv) => write!(f, "gamma:{cv}"),
        }
    }
}

/// The times of arrivals after the start, without end. `rate` is in sessions per second, above 0.
pub fn times(pattern: Pattern, rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut rng = Rng::new(seed, &[0xA11]);
    let mut at = 0.0f64;
    let mut n = 0u64;
    std::iter::from_fn(move || {
        match pattern {
            Pattern::Poisson => at += rng.exponential() / rate,
            Pattern::Constant => at = n as f64 / rate,
            Pattern::Burst(size) => at = (n / size * size) as f64 / rate,
            Pattern::Gamma(cv) => at += rng.gamma(1.0 / (cv * cv)) * cv * cv / rate,
        }
        n += 1;
        // Where a duration ends, so does the trace: some hundred billion years.
        Duration::try_from_secs_f64(at).ok()
    })
}
