//! Civil time from text.

use anyhow::{Result, bail};
use ingle_chat::template::CivilTime;

/// Reads `2025-03-14T15:09:26`.
pub fn parse(text: &str) -> Result<CivilTime> {
    let wrong = "must be a time such as 2025-03-14T15:09:26";
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() != 19 || !text.is_ascii() || separators.iter().any(|&(i, c)| bytes[i] != c) {
        bail!("`{text}` {wrong}");
    }
    let number = |from: usize, to: usize| -> Result<u32> {
        if !bytes[from..to].iter().all(u8::is_ascii_digit) {
            bail!("`{text}` {wrong}");
        }
        Ok(text[from..to].parse().expect("a few ASCII digits are a number"))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => bail!("`{text}` has no month {month}"),
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        bail!("`{text}` is no time that there is");
    }
    Ok(CivilTime {
        year: year as i32,
        month: month as u8,
        day: day as u8,
        hour: hour as u8,
        minute: minute as u8,
        second: second as u8,
    })
}

/// Now, in UTC.
pub fn now() -> CivilTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    CivilTime::from_unix(since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_that_there_are() {
        assert_eq!(parse("2025-03-14T15:09:26").unwrap().format("%F %T"), "2025-03-14 15:09:26");
        assert!(parse("2024-02-29T00:00:00").is_ok());
        for bad in [
            "",
            "2025-03-14",
            "2025-02-29T00:00:00",
            "2025-13-01T00:00:00",
            "2025-03-14T24:00:00",
            "2025-03-14 15:09:26",
            "2025-03-1xT15:09:26",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
