#!/usr/bin/env python3
"""Ingle and llama.cpp side by side: the same files, the same work, turn by turn in the same minutes.

    cargo build --release
    python3 bench/compare.py                  # the whole table, under 40 minutes on two cores
    python3 bench/compare.py --quick          # whether everything works, with small numbers
    python3 bench/compare.py --model FILE     # a model of your own

The first run builds llama-cpp-python from PyPI with gcc, and with clang if there is one. bench/README.md says what is
measured and how.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import chart
import machine
import program
import report
import venvs
from driver import Driver, stop_wanted
from plan import REFERENCE_TYPE, ROW_GROUPS, TYPES, plan
from program import ROOT, WORK, built_ingle, ingle_facts, number_list, positive, results_folder, say, unused
from sides import IkLlamaCpp, Ingle, LlamaCpp, SideError


def name_list(known):
    def parse(text):
        names = {name.lower(): name for name in known}
        unknown = [part for part in text.split(",") if part.lower() not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown (known: {', '.join(known)})")
        return [names[part.lower()] for part in text.split(",")]
    return parse


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = "; ".join(f"{name}: {what}" for name, what in ROW_GROUPS.items())
    cores = os.cpu_count() or 1
    p.add_argument("--model", type=Path, metavar="FILE", help="measure this GGUF file, not synthetic ones")
    p.add_argument("--types", type=name_list(TYPES), metavar="T,..",
                   help="types of the 1B shape [default: all that this Ingle knows]")
    p.add_argument("--threads", type=number_list, default=sorted({1, cores}), metavar="N,..",
                   help="numbers of threads; the largest has all rows [default: 1 and all cores]")
    p.add_argument("--rows", type=name_list(ROW_GROUPS), metavar="GROUP,..",
                   help=f"which rows [default: all]. {groups}")
    p.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds at most [default: 5]")
    p.add_argument("--minutes", type=positive, metavar="N",
                   help="time for all; blocks get fewer rounds to keep it [default: 38, with --long 60]")
    p.add_argument("--long", action="store_true", help="also prompts of 8192 tokens and decoding after 16384")
    p.add_argument("--quick", action="store_true", help="tiny numbers, two rounds: does it work?")
    p.add_argument("--peer-venv", action="append", default=[], metavar="NAME=PATH",
                   help="use this environment with llama-cpp-python; build none (repeatable)")
    p.add_argument("--avx2", action="store_true", help="also a row in which neither side uses AVX-512")
    p.add_argument("--avx2-venv", action="append", default=[], metavar="NAME=PATH",
                   help="use this environment for --avx2 (repeatable)")
    p.add_argument("--ik", type=Path, metavar="PATH",
                   help="folder with ik_llama.cpp's llama-bench and llama-batched-bench")
    p.add_argument("--ingle", type=Path, default=ROOT / "target" / "release" / "ingle", metavar="FILE",
                   help="the binary")
    p.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="where environments and model files go")
    p.add_argument("--keep", action="store_true", help="keep the model files")
    p.add_argument("--out", type=Path, metavar="DIR",
                   help="where results go [default: bench/results; with --quick target/bench/quick]")
    return p


def known_types(binary, types, note):
    """The types of which the binary can make a file: it is asked for one where none can be written."""
    def known(name):
        command = [binary, "bench", "--synthetic", f"llama-1b:{name}", "--save", os.devnull]
        return "unknown" not in subprocess.run(command, capture_output=True, text=True).stderr

    found = [name for name in types if known(name)]
    if len(found) < len(types):
        note(f"types that this Ingle does not know: {', '.join(name for name in types if name not in found)}")
    return found


def environments(args):
    """The peers' environments by name: given ones, or built ones."""
    native = venvs.given(args.peer_venv) or venvs.native(args.work, say)
    avx2 = venvs.given(args.avx2_venv) or (venvs.avx2(args.work, say) if args.avx2 else {})
    taken = set(native) & set(avx2)
    if taken:
        raise venvs.VenvError(f"the name `{taken.pop()}` is given twice")
    return native, avx2


def described(peers, paths):
    """What each build says about itself and what was written down when it was built."""
    return {peer.name: {**venvs.built_with(paths[peer.name]), **peer.describe()} for peer in peers}


def write(folder, stem, result):
    """The three result files. Called after each block, so that nothing measured is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    report.summarize(result["rows"])
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(report.markdown(result))
    threads = max((row["threads"] for row in result["rows"]), default=0)
    packages = {}
    for name, peer in result["peers"].items():
        packages.setdefault(peer["package"], []).append(name)
    peers = " and ".join(f"{package} ({', '.join(names)})" for package, names in packages.items())
    caption = [f"{machine.in_words(result['machine'])}; {threads} thread{'s' * (threads != 1)}; {result['date']}.",
               f"Beside {peers}; medians of runs that alternate in the same minutes."]
    if result["partial"]:
        caption.append("Partial: the run was stopped before its end.")
    picture = chart.svg(result["rows"], "Tokens per second on a CPU, Ingle and llama.cpp", caption)
    if picture:
        (folder / f"{stem}.svg").write_text(picture)


def run(args):
    binary = built_ingle(args.ingle)
    if args.model and not args.model.exists():
        raise SideError(f"{args.model} does not exist")
    if args.ik and not (args.ik / "llama-bench").exists():
        raise SideError(f"{args.ik}: no llama-bench here")
    rounds = min(args.rounds, 2) if args.quick else args.rounds
    minutes = args.minutes or (60 if args.long else 38)
    native, avx2 = environments(args)
    peers = [LlamaCpp(name, venvs.python_of(path)) for name, path in native.items()]
    avx2_peers = [LlamaCpp(name, venvs.python_of(path)) for name, path in avx2.items()]
    facts = described(peers + avx2_peers, {**native, **avx2})
    if args.ik:
        ik = [IkLlamaCpp(args.ik, repack) for repack in (False, True)]
        peers += ik
        facts.update({side.name: {"package": "ik_llama.cpp"} for side in ik})

    driver = Driver(Ingle(binary), peers, avx2_peers, rounds, args.work, args.keep, say)
    types = args.types or ([REFERENCE_TYPE, "Q8_0"] if args.quick else TYPES)
    files = plan([] if args.model else known_types(binary, types, driver.note), args.threads,
                 args.rows or list(ROW_GROUPS), long=args.long, quick=args.quick, avx2=bool(avx2), model=args.model)
    if not files:
        raise SideError("nothing is left to measure")
    result = {
        "format": 1, "partial": True, "date": datetime.date.today().isoformat(), "machine": machine.describe(),
        "ingle": ingle_facts(binary), "peers": facts, "arguments": sys.argv[1:], "rounds": rounds, "minutes": minutes,
        "notes": driver.notes, "rows": driver.rows,
    }
    folder = results_folder(args)
    stem = f"{result['date']}-{machine.slug(result['machine'])}" + (f"-{args.model.stem}" if args.model else "")
    stem = unused(folder, stem)
    try:
        driver.run(files, 60 * minutes, lambda: write(folder, stem, result))
        result["partial"] = False
        n_fewer = sum(row["summary"][0]["n_rounds"] < rounds for row in driver.rows)
        if n_fewer:
            driver.note(f"{n_fewer} of {len(driver.rows)} rows have fewer than {rounds} rounds, for time")
    except KeyboardInterrupt:
        say("stopped; what was measured so far is kept")
        raise
    finally:
        if driver.rows:
            write(folder, stem, result)
            say(f"results: {folder / stem}.json, .md, .svg")
    print(report.markdown(result))


def main():
    # The stopped processes are ended, too.
    return program.main("compare.py", lambda: run(parser().parse_args()), stop_wanted.set)


if __name__ == "__main__":
    sys.exit(main())
