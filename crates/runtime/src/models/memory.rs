//! How much memory there is: the machine's, or what the container may have of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that this process could take now, of the machine and of every control group that it is in; `None` where the
/// system does not say so. What caches of files take counts as free: the system gives it back.
pub fn available_memory() -> Option<u64> {
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(group_dirs).flatten().filter_map(|dir| left_in(&dir));
    Some(limits.fold(machine, u64::min))
}

/// `MemAvailable` in bytes.
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The folders of a line of `/proc/self/cgroup`, from the group up to the root: each may set a limit.
fn group_dirs(line: &str) -> Option<Vec<PathBuf>> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let root = match controllers {
        "" => Path::new("/sys/fs/cgroup").to_owned(),
        list if list.split(',').any(|c| c == "memory") => Path::new("/sys/fs/cgroup/memory").to_owned(),
        _ => return None,
    };
    let group = root.join(path.trim_start_matches('/'));
    // In a container the group's own path may not be there, but what is mounted at the root is it.
    Some(group.ancestors().take_while(|dir| dir.starts_with(&root)).map(Path::to_owned).collect())
}

/// What a group may still take, if it has a limit.
fn left_in(dir: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    Some(limit.saturating_sub(used.saturating_sub(reclaimable(&stat))))
}

/// Bytes of files' caches in a group that nobody uses.
fn reclaimable(stat: &str) -> u64 {
    let value = |key: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|n| n.trim().parse::<u64>().ok())
    };
    value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert_eq!(reclaimable("anon 5\ninactive_file 7\n"), 7);
        assert_eq!(reclaimable("inactive_file 7\ntotal_inactive_file 9\n"), 9);
        let dirs = |line| group_dirs(line).map(|dirs| dirs.iter().map(|d| d.display().to_string()).collect());
        let expected: Option<Vec<String>> =
            Some(vec!["/sys/fs/cgroup/a/b".into(), "/sys/fs/cgroup/a".into(), "/sys/fs/cgroup".into()]);
        assert_eq!(dirs("0::/a/b"), expected);
        assert_eq!(dirs("4:memory:/").map(|d: Vec<String>| d.len()), Some(1));
        assert_eq!(dirs("4:cpu,cpuacct:/x"), None);
        if cfg!(target_os = "linux") {
            assert!(available_memory().expect("Linux says it") > 0);
        }
    }
}
