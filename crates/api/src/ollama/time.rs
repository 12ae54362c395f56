//! Times as this dialect writes them: RFC 3339 in UTC, with nanoseconds.

use std::time::Duration;

use ingle_chat::template::CivilTime;

/// A time since the epoch.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let CivilTime { year, month, day, hour, minute, second } = CivilTime::from_unix(seconds);
    let nanos = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, nanos: u32, expected: &str) {
        assert_eq!(rfc3339(Duration::new(seconds, nanos)), expected);
    }

    #[test]
    fn times() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(1_700_000_000, 5, "2023-11-14T22:13:20.000000005Z");
        check(1_709_210_096, 123_456_789, "2024-02-29T12:34:56.123456789Z");
    }
}
