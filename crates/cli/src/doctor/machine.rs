//! What computes: instruction sets, cores, memory, its speed, graphics cards, the clock.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingle_kernels::{Isa, Pool, limits};
use ingle_runtime::models::available_memory;

use super::{Finding, gib};

/// Below this much memory only the smallest models run.
const MEMORY_MIN: u64 = 2 << 30;
/// Below this much, none does that answers.
const MEMORY_LEAST: u64 = 256 << 20;
/// Below this speed answers come slower than people read, with all but small models.
const READ_GBS_MIN: f64 = 8.0;
/// 2026-01-01: a clock before it was never set.
const CLOCK_MIN_S: u64 = 1_767_225_600;
/// A century later.
const CLOCK_MAX_S: u64 = CLOCK_MIN_S + 100 * 365 * 86_400;

pub(super) fn findings() -> Vec<Finding> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(n_threads);
    let read = |path: &str| fs::read_to_string(path).ok();
    let mut findings = vec![
        instructions(
            pool.isa().name(),
            &Isa::available().map(Isa::name).collect::<Vec<_>>(),
            std::env::var("INGLE_KERNELS_ISA").ok().as_deref(),
        ),
        cores(
            n_threads,
            read("/proc/cpuinfo").as_deref().unwrap_or_default(),
            read("/sys/fs/cgroup/cpu.max").as_deref(),
        ),
        memory(read("/proc/meminfo").as_deref().unwrap_or_default(), available_memory()),
    ];
    findings.extend(read("/sys/kernel/mm/transparent_hugepage/enabled").as_deref().map(huge_pages));
    findings.push(speed(limits::read_gbs(&pool)));
    findings.push(graphics());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    findings.push(clock(
        now.as_secs(),
        std::env::var("TZ").ok().as_deref(),
        Path::new("/etc/localtime").exists(),
    ));
    findings
}

fn instructions(isa: &str, available: &[&str], asked: Option<&str>) -> Finding {
    let what = format!("kernels for {isa} are used; this processor has {}", available.join(", "));
    match (available.last(), asked) {
        (Some(&best), Some(asked)) if isa != best => Finding::warn(
            "instructions",
            format!("{what} (INGLE_KERNELS_ISA asks for {asked})"),
            format!("unset INGLE_KERNELS_ISA: kernels for {best} are faster"),
        ),
        _ if isa == "scalar" => {
            let advice = "without AVX2 everything is many times slower: use another machine, or one that shows its \
                          processor to the virtual machine";
            Finding::warn("instructions", what, advice)
        }
        _ => Finding::ok("instructions", what),
    }
}

fn cores(n_threads: usize, cpuinfo: &str, quota: Option<&str>) -> Finding {
    let n_logical = cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(n_threads);
    let mut what = format!("{} can run", counted(n_threads, "thread"));
    if let Some(n_physical) = physical_cores(cpuinfo).filter(|&n| n < n_logical) {
        let cores = counted(n_physical, "core");
        // Hybrid processors have cores of both kinds.
        what = match n_logical.is_multiple_of(n_physical) {
            true if n_physical == 1 => format!("{what}; {cores} with {n_logical} threads"),
            true => format!("{what}; {cores} with {} threads each", n_logical / n_physical),
            false => format!(
                "{what}; {cores} with {n_logical} threads in all, as some have one and others several"
            ),
        };
    }
    match quota.and_then(quota_of) {
        Some(quota) if quota + 0.01 < n_logical as f64 => {
            let of = counted(n_logical, "processor");
            let what = format!("{what}; the control group allows {quota:.1} of {of}");
            if quota.ceil() < n_threads as f64 {
                let advice = format!(
                    "give --threads {} so that threads do not wait for each other",
                    quota.floor().max(1.0)
                );
                return Finding::warn("cores", what, advice);
            }
            Finding::ok("cores", what)
        }
        _ => Finding::ok("cores", what),
    }
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Different pairs of package and core.
fn physical_cores(cpuinfo: &str) -> Option<usize> {
    let mut cores = BTreeSet::new();
    let mut package = "";
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "physical id" => package = value.trim(),
            "core id" => _ = cores.insert((package, value.trim())),
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Processors that `cpu.max` allows: `QUOTA PERIOD`, or `max PERIOD`.
fn quota_of(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

fn memory(meminfo: &str, available: Option<u64>) -> Finding {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let Some(available) = available else {
        let advice = "give --memory-budget in bytes, since a share of what is free is not known";
        return Finding::warn("memory", "the system does not say how much is free", advice);
    };
    let mut what = format!("{} free for models", gib(available));
    let free = field("MemAvailable");
    if let Some(total) = field("MemTotal") {
        what = format!("{what} of {}", gib(total));
    }
    if free.is_some_and(|free| available + (64 << 20) < free) {
        what = format!("{what}; a control group limits it ({} are free outside)", gib(free.unwrap_or(0)));
    }
    if available < MEMORY_LEAST {
        let advice = "no model fits: end what else runs, or raise the limit of the container";
        return Finding::fail("memory", what, advice);
    }
    if available < MEMORY_MIN {
        let advice = "only small models fit: end what else runs, or raise the limit of the container";
        return Finding::warn("memory", what, advice);
    }
    Finding::ok("memory", what)
}

fn huge_pages(enabled: &str) -> Finding {
    let chosen = enabled.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match chosen {
        Some("never") => Finding::warn(
            "huge pages",
            "transparent huge pages are off",
            "weights are read faster from huge pages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root",
        ),
        Some(mode) => Finding::ok("huge pages", format!("transparent huge pages: {mode}")),
        None => Finding::ok("huge pages", "the system does not say"),
    }
}

fn speed(read_gbs: f64) -> Finding {
    let tokens = read_gbs / 4.92;
    let what = format!(
        "memory is read at {read_gbs:.1} GB/s: at most {tokens:.1} tokens/s from an 8B model in Q4_K_M"
    );
    if read_gbs < READ_GBS_MIN {
        let advice =
            "that is slow: other programs may be using the memory, or only one of its channels is fitted";
        return Finding::warn("memory speed", what, advice);
    }
    Finding::ok("memory speed", what)
}

/// Graphics cards and their drivers, from what the kernel shows.
fn graphics() -> Finding {
    let mut cards = Vec::new();
    for entry in list("/sys/class/drm") {
        let is_card = entry
            .strip_prefix("card")
            .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty());
        let id = |name: &str| fs::read_to_string(format!("/sys/class/drm/{entry}/device/{name}")).ok();
        if let (true, Some(vendor)) = (is_card, id("vendor")) {
            cards.push(format!("{} {}", vendor_name(vendor.trim()), id("device").unwrap_or_default().trim()));
        }
    }
    for gpu in list("/proc/driver/nvidia/gpus") {
        let text =
            fs::read_to_string(format!("/proc/driver/nvidia/gpus/{gpu}/information")).unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"));
        cards.push(model.map_or("NVIDIA card".to_owned(), |model| model.trim().to_owned()));
    }
    let driver =
        fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| driver_version(&text));
    let libcuda = LIBRARY_FOLDERS.iter().find(|dir| Path::new(dir).join("libcuda.so.1").exists());
    let driver = match (driver, libcuda) {
        (Some(version), Some(dir)) => format!("; NVIDIA driver {version}, libcuda in {dir}"),
        (Some(version), None) => format!("; NVIDIA driver {version}, without libcuda"),
        (None, Some(dir)) => format!("; libcuda in {dir}, but no driver is loaded"),
        (None, None) => String::new(),
    };
    if cards.is_empty() && driver.is_empty() {
        return Finding::ok("graphics", "none; Ingle computes on the processor");
    }
    cards.sort();
    let cards = if cards.is_empty() { "no card".to_owned() } else { cards.join(", ") };
    Finding::ok("graphics", format!("{cards}{driver}; Ingle computes on the processor"))
}

const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
];

fn list(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn vendor_name(id: &str) -> String {
    match id {
        "0x10de" => "NVIDIA".into(),
        "0x1002" => "AMD".into(),
        "0x8086" => "Intel".into(),
        other => format!("vendor {other}"),
    }
}

/// The first word of `NVRM version: ...` that looks like a version.
fn driver_version(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

fn clock(now_s: u64, tz: Option<&str>, has_localtime: bool) -> Finding {
    if !(CLOCK_MIN_S..CLOCK_MAX_S).contains(&now_s) {
        let what = format!("the clock says {now_s} seconds since 1970, which cannot be");
        return Finding::fail("clock", what, "set it: certificates and keys are judged by it");
    }
    let zone = match tz {
        Some(tz) if !tz.is_empty() => format!("time zone {tz} (TZ)"),
        _ if has_localtime => "time zone of /etc/localtime".into(),
        _ => "no time zone is set: UTC".into(),
    };
    Finding::ok("clock", zone)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn cores_are_counted() {
        let cpuinfo =
            "processor : 0\nphysical id : 0\ncore id : 0\nprocessor : 1\nphysical id : 0\ncore id : 0\n";
        assert_eq!(physical_cores(cpuinfo), Some(1));
        let finding = cores(2, cpuinfo, Some("150000 100000\n"));
        assert_eq!(finding.status, Status::Ok, "{finding:?}");
        assert!(
            finding.what.contains("1 core with 2 threads") && finding.what.contains("1.5 of 2 processors"),
            "{finding:?}"
        );
        let cpu = |threads: &[usize]| {
            let cores = threads.iter().enumerate();
            let lines = cores.flat_map(|(core, &n)| {
                vec![format!("processor : 0\nphysical id : 0\ncore id : {core}\n"); n]
            });
            lines.collect::<String>()
        };
        for (threads, expected) in [
            (&[1][..], "1 thread can run"),
            (&[1, 1], "2 threads can run"),
            (&[2], "2 threads can run; 1 core with 2 threads"),
            (&[2, 2], "4 threads can run; 2 cores with 2 threads each"),
            (
                &[2, 2, 1, 1],
                "6 threads can run; 4 cores with 6 threads in all, as some have one and others several",
            ),
        ] {
            assert_eq!(cores(threads.iter().sum(), &cpu(threads), None).what, expected);
        }
        let finding = cores(1, &cpu(&[1]), Some("50000 100000"));
        assert_eq!(finding.what, "1 thread can run; the control group allows 0.5 of 1 processor");
        let finding = cores(4, cpuinfo, Some("200000 100000"));
        assert!(finding.advice.expect("advice").contains("--threads 2"));
        assert_eq!(cores(2, cpuinfo, Some("max 100000")).status, Status::Ok);
        assert_eq!(cores(2, "", None).status, Status::Ok);
        assert_eq!(quota_of("nonsense"), None);
        assert_eq!(quota_of("1 0"), None);
    }

    #[test]
    fn instructions_are_judged() {
        let check = |isa: &str, available: &[&str], asked: Option<&str>, status: Status, part: &str| {
            let finding = instructions(isa, available, asked);
            let text = format!("{} {}", finding.what, finding.advice.clone().unwrap_or_default());
            assert!(finding.status == status && text.contains(part), "{finding:?}");
        };
        check("avx512", &["scalar", "avx2", "avx512"], None, Status::Ok, "kernels for avx512");
        check("avx512", &["scalar", "avx2", "avx512"], Some("avx512"), Status::Ok, "kernels for avx512");
        check("avx2", &["scalar", "avx2", "avx512"], Some("avx2"), Status::Warn, "unset INGLE_KERNELS_ISA");
        // A virtual machine that hides its processor.
        check("scalar", &["scalar"], None, Status::Warn, "without AVX2");
        check("scalar", &["scalar"], Some("scalar"), Status::Warn, "without AVX2");
    }

    #[test]
    fn memory_is_judged() {
        let meminfo = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n";
        let check = |available: Option<u64>, status: Status, part: &str| {
            let finding = memory(meminfo, available);
            assert!(finding.status == status && finding.what.contains(part), "{finding:?}");
        };
        check(Some(8 << 30), Status::Ok, "8.0 GiB free for models of 16.0 GiB");
        check(Some(4 << 30), Status::Ok, "a control group limits it");
        check(Some(1 << 30), Status::Warn, "1.0 GiB");
        check(Some(1 << 20), Status::Fail, "0.0 GiB");
        check(None, Status::Warn, "does not say");
    }

    #[test]
    fn the_rest_is_read() {
        assert_eq!(huge_pages("always [madvise] never\n").status, Status::Ok);
        assert_eq!(huge_pages("always madvise [never]\n").status, Status::Warn);
        assert_eq!(huge_pages("").status, Status::Ok);
        assert_eq!(speed(4.0).status, Status::Warn);
        assert_eq!(speed(40.0).status, Status::Ok);
        assert_eq!(clock(0, None, true).status, Status::Fail);
        assert_eq!(clock(CLOCK_MIN_S + 1, Some("Europe/Berlin"), true).status, Status::Ok);
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:26 UTC 2025";
        assert_eq!(driver_version(text).as_deref(), Some("580.65.06"));
        assert_eq!(driver_version(""), None);
        assert_eq!(vendor_name("0x1af4"), "vendor 0x1af4");
    }
}
