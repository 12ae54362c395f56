#!/usr/bin/env python3
"""Ingle and llama-server under the same load: the same file, the same requests, turn by turn in the same minutes.

    cargo build --release
    python3 bench/serve_compare.py            # 8 and 16 clients, about 20 minutes on two cores
    python3 bench/serve_compare.py --quick    # whether everything works, with small numbers
    python3 bench/serve_compare.py --model FILE

`ingle bench serve` is the client of both. The first run builds llama-server from the source inside llama-cpp-python's
package, with gcc, and with clang if there is one. bench/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import program
import report
import servers
import venvs
from driver import warm_page_cache
from program import ROOT, WORK, built_ingle, core_set, ingle_facts, number_list, positive, results_folder, say, unused
from sides import SideError, last_line

# What is reported: key, heading, whether more is better.
FIGURES = [
    ("tokens_per_s", "output tokens/s", True), ("ttft_p50_ms", "TTFT P50, ms", False),
    ("ttft_p95_ms", "TTFT P95, ms", False),
    ("tpot_p50_ms", "time per token P50, ms", False), ("itl_p99_ms", "longest gaps (P99), ms", False),
    ("e2e_p50_ms", "end to end P50, ms", False), ("cached_share", "share of prompts that was cached", True),
]
SYNTHETIC = "llama-1b:Q4_K_M"


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, metavar="FILE", help=f"serve this GGUF file [default: {SYNTHETIC}, made here]")
    p.add_argument("--clients", type=number_list, default=[8, 16], metavar="N,..",
                   help="clients at once [default: 8,16]")
    p.add_argument("--prompt-tokens", type=positive, default=192, metavar="N", help="[default: 192]")
    p.add_argument("--shared-prefix", type=int, default=141, metavar="N", help="tokens that all share [default: 141]")
    p.add_argument("--output-tokens", type=positive, default=64, metavar="N", help="[default: 64]")
    p.add_argument("--per-client", type=positive, default=6, metavar="N", help="requests of each client [default: 6]")
    p.add_argument("--rounds", type=positive, default=3, metavar="N", help="turns of each side [default: 3]")
    p.add_argument("--threads", type=positive, default=os.cpu_count() or 1, metavar="N",
                   help="threads that compute [default: all cores]")
    p.add_argument("--cores", type=core_set, metavar="N,..",
                   help="pin both servers to these [default: not pinned]")
    p.add_argument("--memory-mib", type=positive, default=2048, metavar="N",
                   help="memory that a server may take; the report says who keeps it [default: 2048]")
    p.add_argument("--llama-server", action="append", default=[], metavar="NAME=PATH",
                   help="use this llama-server; build none (repeatable)")
    p.add_argument("--llama-args", type=str.split, default=[], metavar="ARGS", help="further arguments of llama-server")
    p.add_argument("--ingle", type=Path, default=ROOT / "target" / "release" / "ingle", metavar="FILE")
    p.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="where builds and model files go")
    p.add_argument("--keep", action="store_true", help="keep the model file")
    p.add_argument("--out", type=Path, metavar="DIR",
                   help="where results go [default: bench/results; with --quick target/bench/quick]")
    p.add_argument("--quick", action="store_true", help="two requests of each client, one round: does it work?")
    return p


def load(binary, url, args, clients, seed):
    """Drives a server; the report of `ingle bench serve`, and the client's own seconds of processor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [binary, "bench", "serve", "--url", url, "--api", "completions", "--concurrency", clients,
                   "--requests", clients * args.per_client, "--prompt-tokens", args.prompt_tokens,
                   "--shared-prefix", args.shared_prefix, "--output-tokens", args.output_tokens,
                   # Each slot sees the prefix once.
                   "--warmup", 2 * clients, "--seed", seed, "--json", path]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise SideError(f"the load failed ({done.returncode}): {last_line(done.stderr or done.stdout)}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return json.loads(path.read_text()), used


def figures(answer, args):
    """One round's figures from a report.

    What was not the work that was asked for is an error: it would be compared with other work."""
    run = answer["runs"][0]
    if run["requests"]["failed"] or run["partial"]:
        raise SideError(f"{run['requests']['failed']} requests failed: {run['errors']}")
    for what, wanted in (("output", args.output_tokens), ("prompt", args.prompt_tokens)):
        found = run["tokens"][what]
        if found["min"] != wanted or found["max"] != wanted:
            raise SideError(f"{what}s had {found['min']:.0f} to {found['max']:.0f} tokens, not {wanted}")
    if run["tokens"]["output_counted_by"] != "usage":
        raise SideError("the server does not say how many tokens its answers have")
    return {
        "tokens_per_s": run["throughput"]["output_tokens_per_s"], "ttft_p50_ms": run["ttft_ms"]["p50"],
        "ttft_p95_ms": run["ttft_ms"]["p95"], "tpot_p50_ms": run["tpot_ms"]["p50"],
        # A server that sends many tokens in one event has gaps of nothing, which are compared with none.
        "itl_p99_ms": run["itl_ms"]["p99"] or None, "e2e_p50_ms": run["e2e_ms"]["p50"], "seconds": run["duration_s"],
        "cached_share": (run["tokens"]["cached_total"] or 0) / run["tokens"]["prompt_total"] or None,
        "digest": run["answers"]["digest"],
    }


def measure(sides, args, clients, round_idx, row, note):
    """A turn of each side: a fresh server, warmed up, driven, ended."""
    # Who begins is another in each round.
    names = list(sides)
    for name in names[round_idx % len(names):] + names[:round_idx % len(names)]:
        try:
            with servers.Server(name, sides[name](clients), args.n_ctx, args.cores) as server:
                answer, client_s = load(args.ingle, server.url, args, clients, round_idx)
                peak, anonymous = server.memory()
            result = {**figures(answer, args), "peak_bytes": peak, "anonymous_bytes": anonymous,
                      "client_cpu_s": client_s}
            say(f"{clients} clients, round {round_idx + 1}, {name}: {result['tokens_per_s']:.1f} tokens/s, "
                f"TTFT {result['ttft_p50_ms']:.0f} ms")
        except SideError as error:
            result = None
            note(f"{name}, {clients} clients, round {round_idx + 1}: {error}")
        row["sides"].setdefault(name, []).append(result)


def summarize(result):
    """Adds what the tables show."""
    budget = result["memory_budget_bytes"]
    for row in result["rows"]:
        row["summary"] = [report.compare(row["sides"], key, more) for key, _, more in FIGURES]
        row["memory"] = {}
        for name, records in row["sides"].items():
            peaks = [r["peak_bytes"] for r in records if r and r["peak_bytes"]]
            if peaks:
                anonymous = statistics.median(r["anonymous_bytes"] for r in records if r and r["anonymous_bytes"])
                row["memory"][name] = {"peak_bytes": max(peaks), "anonymous_bytes": anonymous,
                                       "keeps_budget": max(peaks) <= budget}


def markdown(result):
    work, parts = result["work"], [f"# Ingle beside llama-server, {result['date']}\n"]
    if result["partial"]:
        parts.append("**Partial: the run was stopped before its end.**\n")
    parts.append(
        f"{machine.in_words(result['machine'])}. {result['file']}, {work['threads']} thread"
        f"{'s' * (work['threads'] != 1)}; {work['prompt_tokens']} prompt tokens, of which {work['shared_prefix']} are "
        f"shared, {work['output_tokens']} output tokens, streamed; "
        f"each client asks again when it has its answer. Medians over rounds in which the servers take turns; ratios "
        "are of pairs in the same round with the best of the others, above 1 where Ingle is better. How: "
        "`bench/README.md`.\n")
    lines = []
    for row in result["rows"]:
        for (_, heading, _), s in zip(FIGURES, row["summary"]):
            lines.append([row["clients"], heading, report.number(s["ingle"]), report.number(s["peer"]),
                          s["peer_name"] or "-", report.ratio(s), report.spread(s), s["n_rounds"]])
    parts.append(report.table(["clients", "what", "Ingle", "best of the others", "which", "ratio", "min to max",
                               "rounds"], lines))
    parts.append("## Memory\n")
    mib = lambda n: "-" if n is None else f"{n / 2**20:.0f}"
    lines = [[row["clients"], name, mib(m["peak_bytes"]), mib(m["anonymous_bytes"]),
              "yes" if m["keeps_budget"] else "no"] for row in result["rows"] for name, m in row["memory"].items()]
    parts.append(report.table(["clients", "server", "peak resident, MiB", "anonymous, MiB",
                               f"within {mib(result['memory_budget_bytes'])} MiB"], lines))
    parts.append("## Who\n")
    facts = result["ingle"]
    lines = [f"- **ingle**: {facts['version']}, commit {facts['commit'] or 'unknown'}; `{result['commands']['ingle']}`"]
    for name, peer in result["peers"].items():
        about = ", ".join(str(peer[key]) for key in ("package", "version", "compiler") if peer.get(key))
        lines.append(f"- **{name}**: llama-server, {about}; `{result['commands'][name]}`")
    parts.append("\n".join(lines) + "\n")
    busy = [r["client_cpu_s"] / r["seconds"] for row in result["rows"] for rs in row["sides"].values() for r in rs if r]
    if busy:
        parts.append(f"The client runs on the same machine and took {100 * statistics.median(busy):.1f} % of a core.\n")
    if result["notes"]:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in result["notes"]) + "\n")
    return "\n".join(parts)


def write(folder, stem, result):
    folder.mkdir(parents=True, exist_ok=True)
    summarize(result)
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(markdown(result))


def server_facts(binary):
    """What a llama-server says about itself."""
    done = subprocess.run([str(binary), "--version"], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    return {"version": next((line.strip() for line in lines if line.startswith("version")), None),
            "compiler": next((line.strip() for line in lines if line.startswith("built with")), None)}


def model_file(args):
    """The file to serve, and whether it is made here."""
    if args.model:
        if not args.model.exists():
            raise SideError(f"{args.model} does not exist")
        return args.model.resolve(), False
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "serve-1b.gguf"
    say(f"making {SYNTHETIC}")
    command = [str(args.ingle), "bench", "--synthetic", SYNTHETIC, "--save", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SideError(f"cannot make {SYNTHETIC}: {last_line(done.stderr)}")
    return path, True


def run(args):
    args.ingle = built_ingle(args.ingle)
    if not 0 <= args.shared_prefix < args.prompt_tokens:
        raise SideError("--shared-prefix must be below --prompt-tokens")
    if args.quick:
        args.per_client, args.rounds = min(args.per_client, 2), 1
    # Room for the template-less prompt, the answer, and a block on either side.
    args.n_ctx = -(-(args.prompt_tokens + args.output_tokens + 64) // 256) * 256
    binaries = servers.given(args.llama_server) or servers.built(args.work, say)
    path, is_made = model_file(args)
    notes, rows = [], []

    def note(text):
        notes.append(text)
        say(f"note: {text}")

    def ours(clients):
        return servers.ingle(args.ingle, path, args.threads, clients, args.n_ctx)

    def theirs(binary):
        return lambda clients: servers.llama_server(binary, path, args.threads, clients, args.n_ctx, args.llama_args)

    sides = {"ingle": ours, **{name: theirs(binary) for name, binary in binaries.items()}}
    in_words = lambda name: " ".join(str(getattr(part, "name", part)) for part in sides[name](args.clients[0]))
    result = {
        "format": 1, "partial": True, "date": datetime.date.today().isoformat(), "machine": machine.describe(),
        "ingle": ingle_facts(args.ingle),
        "peers": {name: {"package": venvs.PACKAGE if not args.llama_server else None, **server_facts(binary)}
                  for name, binary in binaries.items()},
        "commands": {name: in_words(name) for name in sides}, "arguments": sys.argv[1:],
        "file": SYNTHETIC if is_made else path.name, "file_bytes": path.stat().st_size,
        "memory_budget_bytes": args.memory_mib << 20,
        "work": {key: getattr(args, key) for key in ("prompt_tokens", "shared_prefix", "output_tokens", "per_client",
                                                     "rounds", "threads", "n_ctx")},
        "notes": notes, "rows": rows,
    }
    folder = results_folder(args)
    stem = unused(folder, f"{result['date']}-{machine.slug(result['machine'])}-serve")
    try:
        warm_page_cache(path)
        rows += [{"clients": clients, "sides": {}} for clients in args.clients]
        for round_idx in range(args.rounds):
            for row in rows:
                measure(sides, args, row["clients"], round_idx, row, note)
                write(folder, stem, result)
        result["partial"] = False
    finally:
        if any(any(records) for row in rows for records in row["sides"].values()):
            write(folder, stem, result)
            say(f"results: {folder / stem}.json, .md")
        if is_made and not args.keep:
            path.unlink(missing_ok=True)
    print(markdown(result))
    if not all(row["sides"].get("ingle") and any(row["sides"]["ingle"]) for row in rows):
        raise SideError("ingle gave no figure")


def main():
    return program.main("serve_compare.py", lambda: run(parser().parse_args()))


if __name__ == "__main__":
    sys.exit(main())
