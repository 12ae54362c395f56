//! The load generator: requests at a pace, and how long servers take to answer.
//!
//! A [`Plan`] says whom to call and with what: a [`trace::Trace`] makes sessions (conversations of one or more turns),
//! each a pure function of the seed and its number. [`prepare`] asks the server how its tokens count. [`run()`] sends
//! sessions for one [`Pace`], in a closed loop (so many clients, each waits for its answer) or an open one (arrivals at
//! times of their own, whatever the server does), and gives a [`Measured`]; [`report`] and [`chart`] show it.
//!
//! **Two clocks in the open loop.** A generator with bounds can be held up by the server that it measures: it sends
//! late, and a latency from the sending hides the wait (coordinated omission). So each request has the time at which it
//! was to start beside that at which it did, and both latencies are reported.
//!
//! **Memory** is bounded: [`REQUESTS_MAX`] requests of some hundred bytes each, exact; gaps between events in a
//! histogram of 56 thousand counters, exact to 0.05 %.

pub mod arrivals;
pub mod chart;
pub mod lengths;
pub mod report;
pub mod slo;
pub mod stats;
pub mod text;
pub mod trace;

mod call;
mod exchange;
mod http;
mod measured;
mod plan;
mod prepare;
mod rng;
mod run;

pub use call::{Failure, FailureKind};
pub use exchange::{Exchanged, exchange};
pub use http::{Connection, Dial, Target, TargetError, Tcp};
pub use measured::{Answers, Measured, Outcome, Record};
pub use plan::{Extent, Observer, Pace, Plan};
pub use prepare::{Counting, Prepared, prepare};
pub use run::{Stop, run};

/// The most requests of a run.
pub const REQUESTS_MAX: u64 = 1_000_000;
/// The most tokens that a prompt or an answer is asked for.
pub const TOKENS_MAX: u32 = 1 << 20;

/// A time such as `200ms`, `1.5s` or `2m`.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_time(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is no time such as 200ms, 1.5s or 2m");
    let unit = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (number, scale) = unit
        .into_iter()
        .find_map(|(name, scale)| Some((text.strip_suffix(name)?, scale)))
        .ok_or_else(wrong)?;
    let value: f64 = number.trim().parse().map_err(|_| wrong())?;
    // A year is more than anybody waits, and far from where durations overflow.
    if !(0.0..=31_536_000.0).contains(&(value * scale)) {
        return Err(wrong());
    }
    Ok(std::time::Duration::from_secs_f64(value * scale))
}
