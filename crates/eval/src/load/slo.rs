//! Service level objectives: bounds that a request's latencies must keep.

use std::str::FromStr;
use std::time::Duration;

use super::measured::Record;
use super::parse_time;

/// A latency that can be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// From the intended start to the first output.
    Ttft,
    /// The longest gap between outputs.
    Itl,
    /// Time per token after the first, on average.
    Tpot,
    /// From the intended start to the end.
    E2e,
}

impl Objective {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Itl => "itl",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
        }
    }

    /// What the request took. A request without gaps has none that is too long.
    fn of(self, record: &Record) -> Option<Duration> {
        match self {
            Self::Ttft => record.first.map(|first| first.saturating_sub(record.scheduled)),
            Self::Itl => Some(record.longest_gap),
            Self::Tpot => Some(record.tpot().unwrap_or_default()),
            Self::E2e => Some(record.end.saturating_sub(record.scheduled)),
        }
    }
}

/// Bounds, all of which a request must keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slo(pub Vec<(Objective, Duration)>);

impl Slo {
    /// Whether each bound is kept, in order. A request without an answer keeps none.
    pub fn kept<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = bool> + 'a {
        self.0.iter().map(|&(objective, bound)| {
            record.outcome.is_ok() && objective.of(record).is_some_and(|value| value <= bound)
        })
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bounds: Vec<(Objective, Duration)> = Vec::new();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let known = [Objective::Ttft, Objective::Itl, Objective::Tpot, Objective::E2e];
            let objective = known.into_iter().find(|o| o.name() == name.trim()).ok_or_else(|| {
                format!("`{part}` is no objective (known: ttft=TIME, itl=TIME, tpot=TIME, e2e=TIME, parted by commas)")
            })?;
            if bounds.iter().any(|(other, _)| *other == objective) {
                return Err(format!("`{}` is bounded twice", objective.name()));
            }
            bounds.push((objective, parse_time(value.trim())?));
        }
        Ok(Self(bounds))
    }
}
