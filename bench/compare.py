#!/usr/bin/env python3
"""Ingle and llama.cpp on the same file, side by side.

Both load the same GGUF file and run alternately in the same minutes; each pair of runs gives a ratio, and the table
shows medians. llama.cpp is the one inside `llama-cpp-python` from PyPI, which is installed into a virtual environment
of its own (`target/bench-venv`) with native optimisation.

    cargo build --release
    python3 bench/compare.py                                   # a synthetic Llama-3.2-1B-shaped Q4_K_M file
    python3 bench/compare.py --model FILE --threads 2 --rounds 5
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "bench-venv"
INGLE = ROOT / "target" / "release" / "ingle"
PACKAGE = "llama-cpp-python==0.3.36"


def reexec_in_venv():
    """Continue in the virtual environment, made on first use (building llama.cpp takes minutes)."""
    if Path(sys.prefix) == VENV:
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.check_call([sys.executable, "-m", "venv", str(VENV)])
    env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON")
    subprocess.check_call([str(python), "-m", "pip", "install", "-q", PACKAGE], env=env)
    os.execv(python, [str(python), __file__, *sys.argv[1:]])


class LlamaCpp:
    """llama.cpp through its C interface: the same work that `ingle bench` measures."""

    def __init__(self, path, threads, n_ctx, n_seqs):
        import llama_cpp as lc

        self.lc = lc
        self.quiet = lc.llama_log_callback(lambda level, text, data: None)
        lc.llama_log_set(self.quiet, ctypes.c_void_p(0))
        lc.llama_backend_init()
        started = time.perf_counter()
        self.model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        params = lc.llama_context_default_params()
        params.n_ctx = n_ctx * n_seqs
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max = n_seqs
        self.context = lc.llama_init_from_model(self.model, params)
        self.load_s = time.perf_counter() - started
        self.memory = lc.llama_get_memory(self.context)
        self.n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.batch = lc.llama_batch_init(512, 0, n_seqs)

    def step(self, rows):
        """One decode call. Each row: token, position, sequence, whether logits are wanted."""
        for i, (token, position, seq, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = seq
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        if self.lc.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def token(self, seq, i):
        return (seq * 7919 + i * 104729 + 1) % self.n_vocab

    def prefill(self, n):
        self.lc.llama_memory_clear(self.memory, True)
        started = time.perf_counter()
        for start in range(0, n, 512):
            end = min(n, start + 512)
            self.step([(self.token(0, i), i, 0, i == n - 1) for i in range(start, end)])
        self.lc.llama_synchronize(self.context)
        return n / (time.perf_counter() - started)

    def decode(self, n, n_seqs):
        self.lc.llama_memory_clear(self.memory, True)
        self.step([(self.token(s, 0), 0, s, True) for s in range(n_seqs)])
        started = time.perf_counter()
        for i in range(1, n + 1):
            self.step([(self.token(s, i), i, s, True) for s in range(n_seqs)])
        self.lc.llama_synchronize(self.context)
        return n * n_seqs / (time.perf_counter() - started)


def ingle(path, threads, prompt, gen, seqs):
    """One measurement by `ingle bench`."""
    out = subprocess.check_output(
        [INGLE, "bench", "--model", path, "-t", str(threads), "-p", str(prompt), "-n", str(gen),
         "--batch", str(seqs), "-r", "1", "--json"], stderr=subprocess.DEVNULL)
    return json.loads(out)


def describe_machine():
    cpu = platform.processor()
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF file [default: a synthetic one of --shape]")
    parser.add_argument("--shape", default="llama-1b:Q4_K_M", help="synthetic model to make")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--batches", default="1,8", help="numbers of sequences that decode together")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    reexec_in_venv()

    path = args.model
    if path is None:
        path = ROOT / "target" / "bench" / f"{args.shape.replace(':', '-')}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.check_call([INGLE, "bench", "--synthetic", args.shape, "--save", str(path)])
    batches = [int(b) for b in args.batches.split(",")]
    peer = LlamaCpp(path, args.threads, max(args.prompt, args.gen + 2), max(batches))

    rows = {f"prefill {args.prompt}": ([], []), **{f"decode {args.gen} x {b}": ([], []) for b in batches}}
    probes = []
    for round_ in range(args.rounds):
        print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr)
        ours, theirs = rows[f"prefill {args.prompt}"]
        ours.append(ingle(path, args.threads, args.prompt, 0, 1)["prefill"]["tokens_per_s"])
        theirs.append(peer.prefill(args.prompt))
        for b in batches:
            ours, theirs = rows[f"decode {args.gen} x {b}"]
            report = ingle(path, args.threads, 0, args.gen, b)["decode"]
            ours.append(report["tokens_per_s"])
            probes.append(report["read_limit_gb_per_s"])
            theirs.append(peer.decode(args.gen, b))

    print(f"\n{path.name}, {args.threads} threads, {describe_machine()}; {PACKAGE}")
    print(f"memory reads {statistics.median(probes):.1f} GB/s (median of a probe beside each decode)\n")
    print("| what | Ingle, tokens/s | llama.cpp, tokens/s | ratio, median of pairs | min | max |")
    print("|---|---|---|---|---|---|")
    results = []
    for name, (ours, theirs) in rows.items():
        ratios = [a / b for a, b in zip(ours, theirs)]
        print(f"| {name} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | "
              f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
        results.append({"what": name, "ingle": ours, "llama_cpp": theirs, "ratio": statistics.median(ratios)})
    if args.out:
        args.out.write_text(json.dumps({
            "model": path.name, "threads": args.threads, "machine": describe_machine(), "peer": PACKAGE,
            "read_gb_per_s": probes, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
