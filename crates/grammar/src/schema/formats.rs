//! Formats that the recognizer takes too lightly, as expressions of our own.

/// A year of which February has 29 days.
const LEAP_YEAR: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
const MONTH_AND_DAY: &str = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
                             |02-(?:0[1-9]|1[0-9]|2[0-8]))";
const CLOCK: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
const FRACTION: &str = "(?:\\.[0-9]+)?";

/// The expression that a whole string of this format matches, and the longest string; `None` where the recognizer's own
/// will do.
pub(super) fn own(format: &str) -> Option<(String, Option<u64>)> {
    let date = format!("(?:[0-9]{{4}}-{MONTH_AND_DAY}|{LEAP_YEAR}-02-29)");
    // There are leap seconds, in the last minute of a day in UTC.
    let time = format!("(?:{CLOCK}:[0-5][0-9]{FRACTION}(?:[zZ]|[+-]{CLOCK})|23:59:60{FRACTION}[zZ])");
    match format {
        "date" => Some((format!("^{date}$"), None)),
        "time" => Some((format!("^{time}$"), None)),
        "date-time" => Some((format!("^{date}[tT]{time}$"), None)),
        "hostname" => {
            let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
            Some((format!("^{label}(?:\\.{label})*$"), Some(253)))
        }
        _ => None,
    }
}
