//! When to try again: back-off with jitter, unless the other side says when.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often and how fast a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Times that a request is sent at most.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub base: Duration,
    /// The longest pause of our own.
    pub max: Duration,
    /// The longest pause that another side may ask for; what asks for more is an error.
    pub asked_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(500),
            max: Duration::from_secs(30),
            asked_max: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// Sends once.
    pub const ONCE: Self =
        Self { attempts: 1, base: Duration::ZERO, max: Duration::ZERO, asked_max: Duration::ZERO };

    /// The pause after so many attempts (from 1): between half of the back-off and all of it, so that many who failed
    /// together do not come back together.
    pub fn pause(&self, attempts: u32) -> Duration {
        let full = self.base.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.max);
        // Each `RandomState` has other keys, so its hashes are as good as random numbers.
        let share = (RandomState::new().hash_one(attempts) % 1024) as u32;
        full / 2 + full / 2 * share / 1024
    }
}

/// How long a `Retry-After` asks to wait: seconds, or a date (RFC 9110, 10.2.3). `None` if it is neither.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(http_date(value)?.saturating_sub(now)))
}

/// Seconds since the epoch of an IMF-fixdate, as in `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month_name = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month_name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // A leap second is the sixtieth.
    let is_time = hour < 24 && minute < 60 && second <= 60;
    if words.next() != Some("GMT") || !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || !is_time {
        return None;
    }
    // Days of the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_ask_for() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 60);
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - (784_111_777 - 60))),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37 PST", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_800 - (784_111_777 - 60))),
            ("Sun, 06 Nov 1994 18446744073709551615:00:00 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:18446744073709551615 GMT", None),
        ] {
            assert_eq!(retry_after(value, now).map(|d| d.as_secs()), expected, "{value}");
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let backoff =
            Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1), ..Backoff::default() };
        for (attempts, full) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (60, 1000)] {
            for _ in 0..20 {
                let pause = backoff.pause(attempts).as_millis();
                assert!((full / 2..=full).contains(&pause), "{attempts}: {pause}");
            }
        }
    }
}
