"""What this machine is, as far as figures depend on it."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

# Those that kernels choose by.
FLAGS = ["sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
         "avx512_vbmi", "avx512vbmi", "avx512_vbmi2", "avx512_bf16", "avx512_fp16", "avx512_bitalg", "amx_int8",
         "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"]


def text(path):
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def fields(path):
    """The first block of `key : value` lines."""
    found = {}
    for line in (text(path) or "").splitlines():
        if not line.strip():
            break
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    return found


def describe():
    cpu = fields("/proc/cpuinfo")
    memory = fields("/proc/meminfo")
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "vendor": cpu.get("vendor_id"), "family": cpu.get("cpu family"), "model": cpu.get("model"),
        "microarchitecture": zen(cpu), "flags": [flag for flag in FLAGS if flag in flags],
        "mhz": cpu.get("cpu MHz"), "caches": caches(), "hypervisor": "hypervisor" in flags,
        "cores": os.cpu_count(),
        "memory_bytes": kib(memory.get("MemTotal")),
        "kernel": f"{platform.system()} {platform.release()}",
        "huge_pages": chosen(text("/sys/kernel/mm/transparent_hugepage/enabled")),
        "governor": text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "autogroup": text("/proc/sys/kernel/sched_autogroup_enabled"),
        "python": platform.python_version(),
    }


def kib(value):
    return int(value.split()[0]) * 1024 if value else None


def chosen(choices):
    """The word in brackets of `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", choices or "")
    return found.group(1) if found else choices


def zen(cpu):
    """AMD's generation, which the name of a virtual machine's processor often hides."""
    if cpu.get("vendor_id") != "AuthenticAMD":
        return None
    family, model = int(cpu.get("cpu family", 0)), int(cpu.get("model", 0))
    if family == 25:
        return "Zen 4" if 0x10 <= model <= 0x1F or 0x60 <= model <= 0xAF else "Zen 3"
    return {23: "Zen or Zen 2", 26: "Zen 5"}.get(family)


def caches():
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (text(folder / name) for name in ("level", "type", "size"))
        if level and kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def in_words(machine):
    """One line: processor, cores, memory, system."""
    parts = [machine["cpu"]]
    if machine.get("microarchitecture"):
        parts[0] += f" ({machine['microarchitecture']})"
    parts.append(f"{machine['cores']} core{'s' * (machine['cores'] != 1)}")
    if machine.get("memory_bytes"):
        parts.append(f"{machine['memory_bytes'] / 2**30:.0f} GiB")
    return ", ".join(parts + [machine["kernel"]])


def slug(machine):
    """The machine as part of a file's name."""
    name = f"{machine['cpu']} {machine.get('microarchitecture') or ''}".lower()
    name = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b|\b\d+-core\b|@.*", " ", name).replace("zen ", "zen")
    return f"{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}-{machine['cores']}-core"


def available_bytes():
    """Memory that can be had without swapping."""
    value = fields("/proc/meminfo").get("MemAvailable")
    return kib(value)


def cores_in_use(seconds=0.3):
    """How many cores' worth of time others use now, and the hypervisor's other guests took."""
    def ticks():
        line = (text("/proc/stat") or "").splitlines()[:1]
        values = [int(v) for v in line[0].split()[1:9]] if line else []
        return (sum(values), values[3] + values[4]) if values else None

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    if not before or not after or after[0] == before[0]:
        return None
    total, idle = after[0] - before[0], after[1] - before[1]
    return (1 - idle / total) * os.cpu_count()


def memory_of(pid):
    """The largest resident size of a process so far, and the anonymous part of the present one, in bytes."""
    found = fields(f"/proc/{pid}/status")
    size = lambda key: kib(found.get(key))
    return size("VmHWM"), size("RssAnon")
