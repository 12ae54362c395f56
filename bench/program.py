"""What the programs here have in common: options, where results go, and how a run ends."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import venvs
from sides import SideError

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "bench"


def say(text):
    print(text, file=sys.stderr, flush=True)


def number_list(text):
    numbers = [int(part) for part in text.split(",")]
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError("numbers of at least 1, separated by commas")
    return numbers


def core_set(text):
    return {int(part) for part in text.split(",")}


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def built_ingle(path):
    """The program that is measured."""
    path = path.resolve()
    if not path.exists():
        raise SideError(f"{path} does not exist: run `cargo build --release`, or give it with --ingle FILE")
    return path


def ingle_facts(binary):
    def output(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    commit = output("git", "rev-parse", "--short=10", "HEAD")
    changed = output("git", "status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.toml", "Cargo.lock")
    return {"version": output(binary, "--version"), "commit": commit and commit + (" with changes" if changed else "")}


def results_folder(args):
    return args.out or (args.work / "quick" if args.quick else ROOT / "bench" / "results")


def unused(folder, stem):
    """The name itself, or with a number: results are never overwritten by another run."""
    taken = {path.stem for path in folder.glob(f"{stem}*.json")}
    return next(name for name in (stem, *(f"{stem}-{i}" for i in range(2, 1000))) if name not in taken)


def main(name, run, on_stop=lambda: None):
    """The exit code of `run`, 0 if it gives none. Ended in any way, it keeps what was measured."""
    def stop(*_):
        on_stop()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        return run() or 0
    except (SideError, venvs.VenvError) as error:
        say(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
