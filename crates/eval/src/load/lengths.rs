//! How long prompts and answers are.

use std::str::FromStr;

use super::TOKENS_MAX;
use super::rng::Rng;

/// What the largest value of a log-normal distribution is of its median, where it is not said.
const TAIL: u32 = 10;

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// From the first to the second, both included, equally often.
    Uniform(u32, u32),
    /// Many short, few long: the logarithm is normal. Values above `max` are drawn again.
    LogNormal {
        /// Half are below.
        median: u32,
        /// Deviation of the natural logarithm.
        sigma: f64,
        /// None is above.
        max: u32,
    },
}

impl Lengths {
    /// A length; at least 1.
    pub(super) fn draw(self, rng: &mut Rng) -> u32 {
        match self {
            Self::Fixed(n) => n,
            Self::Uniform(from, to) => from + rng.below(u64::from(to - from) + 1) as u32,
            Self::LogNormal { median, sigma, max } => loop {
                // Half of the values are below the median, and so below `max`: this ends.
                let value = f64::from(median) * (sigma * rng.normal()).exp();
                if value <= f64::from(max) {
                    return (value.round() as u32).max(1);
                }
            },
        }
    }

    /// The smallest that may come, if the distribution has one that it was told.
    pub fn least(self) -> Option<u32> {
        match self {
            Self::Fixed(n) | Self::Uniform(n, _) => Some(n),
            Self::LogNormal { .. } => None,
        }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no length (known: 128, uniform:64-256, lognormal:MEDIAN,SIGMA[,MAX]; tokens from 1 to \
                 {TOKENS_MAX})"
            )
        };
        let tokens = |text: &str| match text.trim().parse() {
            Ok(n) if (1..=TOKENS_MAX).contains(&n) => Ok(n),
            _ => Err(wrong()),
        };
        match text.split_once(':') {
            None => tokens(text).map(Self::Fixed),
            Some(("fixed", n)) => tokens(n).map(Self::Fixed),
            Some(("uniform", range)) => {
                let (from, to) = range.split_once('-').ok_or_else(wrong)?;
                let (from, to) = (tokens(from)?, tokens(to)?);
                if from > to { Err(wrong()) } else { Ok(Self::Uniform(from, to)) }
            }
            Some(("lognormal", values)) => {
                let values: Vec<&str> = values.split(',').collect();
                let (&[median, sigma] | &[median, sigma, _]) = values.as_slice() else { return Err(wrong()) };
                let median = tokens(median)?;
                let sigma = sigma.trim().parse().ok().filter(|sigma| (0.0..=5.0).contains(sigma));
                let max = match values.get(2) {
                    Some(max) => tokens(max)?,
                    None => median.saturating_mul(TAIL).min(TOKENS_MAX),
                };
                match sigma {
                    Some(sigma) if max >= median => Ok(Self::LogNormal { median, sigma, max }),
                    _ => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Lengths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Uniform(from, to) => write!(f, "uniform:{from}-{to}"),
            Self::LogNormal { median, sigma, max } => write!(f, "lognormal:{median},{sigma},{max}"),
        }
    }
}
