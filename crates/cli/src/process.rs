//! What the system says about this process.

use std::time::Duration;

/// Since the process started, as the system counts it: in steps of 10 ms. `None` where it does not say.
#[cfg(target_os = "linux")]
pub fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The 22nd field; the second is a name in brackets, which may hold anything.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse::<u64>().ok()?;
    let uptime: f64 =
        std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    // Linux tells programs of 100 ticks a second, whatever it counts itself.
    Duration::try_from_secs_f64(uptime - started as f64 / 100.0).ok()
}

/// Bytes of anonymous memory held: what is not backed by a file. `None` where the system does not say.
#[cfg(target_os = "linux")]
pub fn anon_bytes() -> Option<u64> {
    // The pages themselves, counted. `status` has a sum that each processor adds to now and then, which may be off by
    // megabytes where there are many of them.
    let counted = std::fs::read_to_string("/proc/self/smaps_rollup");
    kib(&counted.unwrap_or_default(), "Anonymous:")
        .or_else(|| kib(&std::fs::read_to_string("/proc/self/status").ok()?, "RssAnon:"))
}

/// The bytes behind `name` in a list of `name  n kB`.
#[cfg(target_os = "linux")]
fn kib(list: &str, name: &str) -> Option<u64> {
    let n = list.lines().find_map(|line| line.strip_prefix(name))?;
    Some(n.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(not(target_os = "linux"))]
pub fn age() -> Option<Duration> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn anon_bytes() -> Option<u64> {
    None
}
