#!/usr/bin/env python3
"""Two tenants of one server: how long the quiet one waits for its first token alone, and beside one that floods.

    cargo build --release
    python3 bench/tenants.py            # about half an hour on two cores
    python3 bench/tenants.py --quick    # whether everything works, with small numbers
    python3 bench/tenants.py --model FILE

`ingle serve` with two keys; `ingle bench serve` is the client of both. The quiet tenant sends a twentieth of the tokens
that the server can do; the other one always has requests waiting, and so gives the rest. bench/README.md says what is
measured and how.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import machine
import program
import report
import servers
from driver import warm_page_cache
from program import ROOT, WORK, built_ingle, core_set, ingle_facts, positive, results_folder, say, unused
from serve_compare import SYNTHETIC, model_file
from sides import SideError, last_line

# What the quiet tenant is promised: so many times its wait on the idle machine, and one step.
TIMES_IDLE_MAX = 2
STEP_MS = 200
PERCENTILES = (50, 90, 95, 99)
QUIET, FLOOD = "quiet-tenant", "flooding-tenant"
# A flood that did not begin after this time never will.
RAMP_SECONDS_MAX = 600
# A request of the flood is at most this long, so that what it leaves at its end is ended with it.
STOP_SECONDS_MAX = 60


class Lengths:
    """`512`, `uniform:64-1024` or `lognormal:MEDIAN,SIGMA[,MAX]`, as `ingle bench serve` takes them."""

    def __init__(self, text):
        self.text = text
        kind, _, rest = text.partition(":")
        try:
            if kind == "uniform":
                low, high = (int(part) for part in rest.split("-"))
                self.mean, self.longest, shortest = (low + high) / 2, high, low
            elif kind == "lognormal":
                median, sigma, *most = (float(part) for part in rest.split(","))
                # As the client does: what is above ten medians is drawn again.
                self.mean, self.longest = median * math.exp(sigma * sigma / 2), int((most or [10 * median])[0])
                shortest = min(1, median, self.longest)
            else:
                self.mean = self.longest = shortest = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"`{text}`: 512, uniform:64-1024 or lognormal:MEDIAN,SIGMA[,MAX]") from None
        if not 1 <= shortest <= self.longest:
            raise argparse.ArgumentTypeError(f"`{text}`: at least 1, and not above the most")

    def __str__(self):
        return self.text


def share(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("between 0 and 1")
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog="Exit codes: 0 if the bound was kept, 3 if not, 1 if nothing was measured.")
    p.add_argument("--model", type=Path, metavar="FILE", help=f"serve this GGUF file [default: {SYNTHETIC}, made here]")
    p.add_argument("--requests", type=positive, default=100, metavar="N",
                   help="of the quiet tenant, in each round and phase [default: 100]")
    p.add_argument("--rounds", type=positive, default=1, metavar="N",
                   help="turns of idle and flooded; requests of all count as one [default: 1]")
    p.add_argument("--prompt-tokens", type=Lengths, default=Lengths("uniform:32-160"), metavar="LENGTH",
                   help="of the quiet tenant [default: uniform:32-160]")
    p.add_argument("--output-tokens", type=Lengths, default=Lengths("8"), metavar="LENGTH", help="[default: 8]")
    p.add_argument("--flood-prompt-tokens", type=Lengths, default=Lengths("uniform:256-2048"), metavar="LENGTH",
                   help="of the other one [default: uniform:256-2048]")
    p.add_argument("--flood-output-tokens", type=Lengths, default=Lengths("uniform:16-128"), metavar="LENGTH",
                   help="[default: uniform:16-128]")
    p.add_argument("--flood-clients", type=positive, metavar="N",
                   help="its requests at once [default: three for each place of --parallel]")
    p.add_argument("--share", type=share, default=0.05, metavar="S",
                   help="of the tokens that the server can do, what the quiet tenant asks for [default: 0.05]")
    p.add_argument("--rate", type=positive_float, metavar="R",
                   help="requests per second of the quiet tenant [default: by --share and what the flood gets alone]")
    p.add_argument("--capacity-seconds", type=positive_float, default=60, metavar="S",
                   help="how long that is measured [default: 60]")
    p.add_argument("--parallel", type=positive, default=8, metavar="N", help="answers at a time [default: 8]")
    p.add_argument("--threads", type=positive, default=os.cpu_count() or 1, metavar="N",
                   help="threads that compute [default: all cores]")
    p.add_argument("--cores", type=core_set, metavar="N,..",
                   help="pin the server to these [default: not pinned]")
    p.add_argument("--server-args", type=str.split, default=[], metavar="ARGS", help="further arguments of ingle serve")
    p.add_argument("--ingle", type=Path, default=ROOT / "target" / "release" / "ingle", metavar="FILE")
    p.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="where the model file goes")
    p.add_argument("--keep", action="store_true", help="keep the model file")
    p.add_argument("--out", type=Path, metavar="DIR",
                   help="where results go [default: bench/results; with --quick target/bench/quick]")
    p.add_argument("--quick", action="store_true", help="ten requests, a short capacity: does it work?")
    return p


class Client:
    """`ingle bench serve` in the name of one tenant, in a process of its own."""

    def __init__(self, args, url, key, prompt, output, *more):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        command = [args.ingle, "bench", "serve", "--url", url, "--api", "completions", "--api-key-env", "BENCH_KEY",
                   "--prompt-tokens", prompt, "--output-tokens", output, "--json", self.path / "report.json",
                   "--records", self.path / "records.jsonl", *more]
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                      env={**os.environ, "BENCH_KEY": key})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.child.stderr.close()
        self.folder.cleanup()

    def result(self):
        """Waits for the end: the report's only run, and its records."""
        _, said = self.child.communicate()
        if self.child.returncode not in (0, 3, 130):
            raise SideError(f"the load failed ({self.child.returncode}): {last_line(said)}")
        run = json.loads((self.path / "report.json").read_text())["runs"][0]
        records = [json.loads(line) for line in (self.path / "records.jsonl").read_text().splitlines()]
        return run, records

    def stopped(self):
        """Ends it as Ctrl-C does; what it measured until then."""
        self.child.send_signal(signal.SIGINT)
        try:
            self.child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise SideError("the flooding client does not end") from None
        return self.result()


def counters(server):
    """What the server says about itself in /metrics: values by name, those of all labels together."""
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {QUIET}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            lines = reply.read().decode().splitlines()
    except (urllib.error.URLError, OSError) as error:
        raise SideError(f"/metrics: {error}") from error
    values = {}
    for line in lines:
        if not line.startswith("#") and line:
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values


def computed(values):
    """Tokens that the server computed, for prompts and answers."""
    return values["ingle_prompt_tokens_total"] + values["ingle_generated_tokens_total"]


def flood(args, server, seed):
    """The tenant that always has requests waiting. Returns once it has."""
    client = Client(args, server.url, FLOOD, args.flood_prompt_tokens, args.flood_output_tokens,
                    "--concurrency", args.flood_clients, "--requests", 1_000_000, "--warmup", 0, "--seed", seed)
    try:
        deadline = time.monotonic() + RAMP_SECONDS_MAX
        while not counters(server).get("ingle_sequences_waiting"):
            if client.child.poll() is not None:
                client.result()
                raise SideError("the flood ended before it began")
            if time.monotonic() > deadline:
                raise SideError(f"no request of the flood waits after {RAMP_SECONDS_MAX} s: more --flood-clients?")
            time.sleep(0.1)
    except BaseException:
        client.__exit__()
        raise
    return client


def served(args, path):
    """A fresh server that knows both tenants."""
    keys = Path(args.scratch) / "keys"
    keys.write_text(f"{QUIET}\n{FLOOD}\n")
    command = servers.ingle(args.ingle, path, args.threads, args.parallel, args.n_ctx)
    return servers.Server("ingle", [*command, "--api-key-file", keys, *args.server_args], args.n_ctx, args.cores)


def capacity(args, path):
    """Tokens per second, prompts and answers together, with the flood alone."""
    with served(args, path) as server, flood(args, server, 1_000) as client:
        # The first steps are all prompts: the mixture comes when the first answers end.
        while not counters(server).get("ingle_requests_finished_total"):
            if client.child.poll() is not None:
                client.result()
                raise SideError("the flood ended too early")
            time.sleep(0.1)
        before, began = computed(counters(server)), time.monotonic()
        time.sleep(args.capacity_seconds)
        after, ended = computed(counters(server)), time.monotonic()
        client.stopped()
    return (after - before) / (ended - began)


def quiet(args, server, rate, seed):
    """The quiet tenant's requests, at their times however long answers take."""
    before, began = computed(counters(server)), time.monotonic()
    with Client(args, server.url, QUIET, args.prompt_tokens, args.output_tokens, "--rate", rate, "--requests",
                args.requests, "--seed", seed) as client:
        run, records = client.result()
    seconds = time.monotonic() - began
    if run["requests"]["failed"] or run["partial"] or not records:
        raise SideError(f"{run['requests']['failed']} requests of the quiet tenant failed: {run['errors']}")
    tokens = sum(record["prompt_tokens"] + record["output_tokens"] for record in records)
    # From the time at which a request was to be sent: what kept it from being sent is part of the wait.
    waits = [record["first_ms"] - record["scheduled_ms"] for record in records]
    return {"ttft_ms": waits, "tokens": tokens, "seconds": seconds,
            "server_tokens": computed(counters(server)) - before}


def phase(args, path, rate, is_flooded, round_idx):
    """One turn, by a fresh server: nothing is cached, so both phases may send the same prompts."""
    with served(args, path) as server:
        if not is_flooded:
            return quiet(args, server, rate, round_idx)
        with flood(args, server, 1_001 + round_idx) as client:
            found = quiet(args, server, rate, round_idx)
            if client.child.poll() is not None:
                client.result()
                raise SideError("the flood ended before the quiet tenant did")
            run, _ = client.stopped()
        found["flood"] = {"answered": run["requests"]["answered"], "failed": run["requests"]["failed"],
                          "errors": run["errors"], "ttft_ms": run["ttft_ms"]}
        return found


def percentile(values, percent):
    """The nearest rank: a value that occurred."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


def summary(turns):
    waits = [wait for turn in turns for wait in turn["ttft_ms"]]
    seconds = sum(turn["seconds"] for turn in turns)
    tokens, of_server = (sum(turn[key] for turn in turns) for key in ("tokens", "server_tokens"))
    return {"requests": len(waits), **{f"p{p}_ms": percentile(waits, p) for p in PERCENTILES}, "max_ms": max(waits),
            "server_tokens_per_s": of_server / seconds, "share": tokens / of_server if of_server else None}


def summarize(result):
    """Adds what the table shows, once each phase had a turn."""
    phases = result["phases"]
    if not all(phases.values()):
        return
    idle, flooded = (summary(phases[name]) for name in ("idle", "flooded"))
    bounds = {f"p{p}_ms": TIMES_IDLE_MAX * idle[f"p{p}_ms"] + STEP_MS for p in PERCENTILES}
    result["summary"] = {"idle": idle, "flooded": flooded, "bound": bounds,
                         "kept": {key: flooded[key] <= bound for key, bound in bounds.items()}}


def markdown(result):
    work, found = result["work"], result["summary"]
    parts = [f"# A quiet tenant beside a flood, {result['date']}\n"]
    if result["partial"]:
        parts.append("**Partial: the run was stopped before its end.**\n")
    idle, flooded, bound, kept = (found[key] for key in ("idle", "flooded", "bound", "kept"))
    parts.append(f"{machine.in_words(result['machine'])}; {work['threads']} threads; `{result['file']}`. Prompts of "
                 f"{work['prompt_tokens']} tokens and answers of {work['output_tokens']}, {result['rate']:.3g} per "
                 f"second (open loop); beside them prompts of {work['flood_prompt_tokens']} and answers of "
                 f"{work['flood_output_tokens']}, {work['flood_clients']} at once. How: `bench/README.md`.\n")
    ms = report.number
    line = lambda key: [ms(idle[key]), ms(flooded[key]), ms(bound[key]), "yes" if kept[key] else "no"]
    lines = [[f"P{p}", *line(f"p{p}_ms")] for p in PERCENTILES]
    lines.append(["longest", ms(idle["max_ms"]), ms(flooded["max_ms"]), "-", "-"])
    parts.append(report.table(["time to the first token", "idle, ms", "beside the flood, ms",
                               f"bound ({TIMES_IDLE_MAX} x idle + {STEP_MS}), ms", "kept"], lines))
    percent = lambda value: "-" if value is None else f"{100 * value:.1f} %"
    parts.append(report.table(["", "idle", "beside the flood"], [
        ["requests", idle["requests"], flooded["requests"]],
        ["tokens/s of the server", ms(idle["server_tokens_per_s"]), ms(flooded["server_tokens_per_s"])],
        ["of these the quiet tenant's", "-", percent(flooded["share"])]]))
    facts = result["ingle"]
    parts.append(f"{facts['version']}, commit {facts['commit'] or 'unknown'}; `{result['command']}`. The flood alone: "
                 f"{ms(result['capacity_tokens_per_s'])} tokens/s.\n")
    if result["notes"]:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in result["notes"]) + "\n")
    return "\n".join(parts)


def write(folder, stem, result):
    summarize(result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    if "summary" in result:
        (folder / f"{stem}.md").write_text(markdown(result))


def measure(args, path, result, save):
    """The rate, then idle and flooded in turn."""
    def note(text):
        result["notes"].append(text)
        say(f"note: {text}")

    per_request = args.prompt_tokens.mean + args.output_tokens.mean
    if not args.rate:
        say("measuring what the flood gets alone")
        result["capacity_tokens_per_s"] = capacity(args, path)
    result["rate"] = args.rate or args.share * result["capacity_tokens_per_s"] / per_request
    say(f"the quiet tenant sends {result['rate']:.3g} requests/s: {args.requests} take "
        f"{args.requests / result['rate']:.0f} s in each phase")
    for round_idx in range(args.rounds):
        # Who begins is another in each round.
        for name in (("idle", "flooded"), ("flooded", "idle"))[round_idx % 2]:
            turn = phase(args, path, result["rate"], name == "flooded", round_idx)
            result["phases"][name].append(turn)
            say(f"round {round_idx + 1}, {name}: P50 {percentile(turn['ttft_ms'], 50):.0f} ms, "
                f"P99 {percentile(turn['ttft_ms'], 99):.0f} ms")
            if turn.get("flood", {}).get("failed"):
                note(f"round {round_idx + 1}: {turn['flood']['failed']} requests of the flood failed: "
                     f"{turn['flood']['errors']}")
            save()
    if args.requests * args.rounds < 100:
        note("fewer than 100 requests: P99 is the longest of them")
    got = result["summary"]["flooded"]["share"]
    if not args.rate and got and abs(got - args.share) > 0.02:
        note(f"the quiet tenant sent {100 * got:.1f} % of the tokens, not {100 * args.share:.0f} %")


def run(args):
    args.ingle = built_ingle(args.ingle)
    if args.quick:
        args.requests, args.rounds, args.capacity_seconds = min(args.requests, 10), 1, min(args.capacity_seconds, 5)
    args.flood_clients = args.flood_clients or 3 * args.parallel
    if args.flood_clients <= args.parallel:
        raise SideError("--flood-clients must be above --parallel: the flood always has requests waiting")
    longest = max(args.prompt_tokens.longest + args.output_tokens.longest,
                  args.flood_prompt_tokens.longest + args.flood_output_tokens.longest)
    # Room for a block on either side.
    args.n_ctx = -(-(longest + 64) // 256) * 256
    path, is_made = model_file(args)
    lengths = ("prompt_tokens", "output_tokens", "flood_prompt_tokens", "flood_output_tokens")
    numbers = ("requests", "rounds", "flood_clients", "share", "parallel", "threads", "n_ctx")
    result = {
        "format": 1, "partial": True, "date": datetime.date.today().isoformat(), "machine": machine.describe(),
        "ingle": ingle_facts(args.ingle), "arguments": sys.argv[1:],
        "file": SYNTHETIC if is_made else path.name, "file_bytes": path.stat().st_size,
        "work": {**{key: str(getattr(args, key)) for key in lengths}, **{key: getattr(args, key) for key in numbers}},
        "capacity_tokens_per_s": None, "rate": None, "phases": {"idle": [], "flooded": []}, "notes": [],
    }
    folder = results_folder(args)
    stem = unused(folder, f"{result['date']}-{machine.slug(result['machine'])}-tenants")
    with tempfile.TemporaryDirectory() as args.scratch:
        shown = served(args, path).command
        result["command"] = " ".join(Path(part).name if os.sep in part else part for part in shown)
        try:
            warm_page_cache(path)
            measure(args, path, result, lambda: write(folder, stem, result))
            result["partial"] = False
        finally:
            if any(result["phases"].values()):
                write(folder, stem, result)
                say(f"results: {folder / stem}.json, .md")
            if is_made and not args.keep:
                path.unlink(missing_ok=True)
    print(markdown(result))
    return 0 if result["summary"]["kept"]["p99_ms"] else 3


def main():
    return program.main("tenants.py", lambda: run(parser().parse_args()))


if __name__ == "__main__":
    sys.exit(main())
