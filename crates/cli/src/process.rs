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
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(not(target_os = "linux"))]
pub fn age() -> Option<Duration> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn anon_bytes() -> Option<u64> {
    None
}
