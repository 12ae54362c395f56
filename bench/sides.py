"""The engines that are compared, each behind the same few calls: Ingle, llama.cpp, ik_llama.cpp."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

# Nothing that is asked for takes longer, except by hanging.
ANSWER_SECONDS_MAX = 900


class SideError(Exception):
    """A side could not do what it was asked for."""


def last_line(text):
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def last_words(log):
    """The last line that a process has written to a file."""
    log.seek(0)
    return last_line(log.read().decode(errors="replace"))


class Process:
    """A child that answers lines of JSON by lines of JSON, and is stopped in between: who waits uses no processor."""

    def __init__(self, command, env=None):
        self.errors = tempfile.TemporaryFile()
        self.command = command
        try:
            # A process group of its own: the terminal's Ctrl-C is for the driver, and when the driver is killed, the
            # system ends the stopped members of a group that nobody is left to continue.
            self.child = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                env={**os.environ, **(env or {})}, preexec_fn=os.setpgrp)
        except OSError as error:
            self.errors.close()
            raise SideError(f"cannot start {command[0]}: {error}") from error
        self.buffer = b""

    def read(self):
        """The next line; an error in it becomes an exception."""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise SideError(f"no answer in {ANSWER_SECONDS_MAX} seconds")
            more = os.read(self.child.stdout.fileno(), 1 << 16)
            if not more:
                code = self.child.wait()
                why = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise SideError(f"the process ended ({why}): {self.last_words()}")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            raise SideError(f"no JSON: {line[:80]!r}") from None
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def request(self, request):
        self.resume()
        try:
            self.child.stdin.write(json.dumps(request).encode() + b"\n")
            self.child.stdin.flush()
        except OSError:
            pass  # It is gone; reading tells why.
        return self.read()

    def pause(self):
        if self.alive:
            self.child.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.alive:
            self.child.send_signal(signal.SIGCONT)

    @property
    def alive(self):
        return self.child.poll() is None

    def memory(self):
        """As `machine.memory_of` has it."""
        return machine.memory_of(self.child.pid)

    def last_words(self):
        return last_words(self.errors)

    def close(self):
        if self.alive:
            self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.errors):
            try:
                stream.close()
            except OSError:
                pass


class Side:
    """What the driver calls. `resident`: keeps its model between measurements."""

    resident = True
    # What can be measured with it.
    kinds = ("prefill", "decode", "load")

    def __init__(self, name):
        self.name = name
        self.process = None

    def open(self, file, block):
        """Makes ready for a block: loads the file if it is not, and warms up."""
        raise NotImplementedError

    def measure(self, row):
        """One measurement, paused before and after."""
        try:
            return self.process.request(row.request())
        finally:
            self.pause()

    def load(self, file, block, with_memory):
        """Loads in a process of its own: seconds to the logits of a first token; then memory after some work."""
        raise NotImplementedError

    def pause(self):
        if self.process:
            self.process.pause()

    def close(self):
        if self.process:
            self.process.close()
        self.process = None

    def warm_up(self, n_tokens):
        self.process.request({"measure": "prefill", "n_tokens": n_tokens})
        self.process.request({"measure": "decode", "n_tokens": 4})

    def first_token(self, process, started, with_memory):
        process.request({"measure": "prefill", "n_tokens": 1})
        result = {"seconds": time.perf_counter() - started}
        if with_memory:
            process.request({"measure": "prefill", "n_tokens": 512})
            process.request({"measure": "decode", "n_tokens": 8})
            peak, anonymous = process.memory()
            if peak is not None:
                result.update(peak_bytes=peak, anonymous_bytes=anonymous)
        return result


class Ingle(Side):
    """`ingle bench --stdin`; also the one who probes the machine's limits."""

    def __init__(self, binary):
        super().__init__("ingle")
        self.binary = binary

    def start(self, path, block):
        env = {"INGLE_KERNELS_ISA": block.isa} if block.isa else {}
        command = [self.binary, "bench", "--model", path, "-t", block.threads, "-p", block.n_ctx, "-n", 1,
                   "--batch", block.n_seqs, "--stdin"]
        return Process(command, env)

    def open(self, file, block):
        # K/V memory is laid out when it loads, so each block has a process of its own.
        self.close()
        self.process = self.start(file.path, block)
        self.description = self.process.read()
        self.warm_up(min(file.warm_tokens, block.n_ctx))
        self.pause()

    def limits(self):
        try:
            return self.process.request({"measure": "limits"})
        finally:
            self.pause()

    def load(self, file, block, with_memory):
        started = time.perf_counter()
        process = self.start(file.path, block)
        try:
            process.read()
            return self.first_token(process, started, with_memory)
        finally:
            process.close()


class LlamaCpp(Side):
    """llama.cpp in a virtual environment, driven by `peer.py`."""

    def __init__(self, name, python, script=Path(__file__).with_name("peer.py")):
        super().__init__(name)
        self.python, self.script = python, script
        self.loaded = None

    def start(self):
        process = Process([self.python, self.script])
        try:
            return process, process.read()
        except BaseException:
            process.close()
            raise

    def describe(self):
        """Versions and flags of this build."""
        process, description = self.start()
        process.close()
        return description

    def open(self, file, block):
        context = {"measure": "context", "n_ctx": block.n_ctx, "threads": block.threads}
        if self.process and self.process.alive and self.loaded == file.path:
            self.process.request(context)
            self.process.request({"measure": "decode", "n_tokens": 2})
        else:
            self.close()
            self.process, _ = self.start()
            self.process.request({"measure": "load", "model": str(file.path)})
            self.loaded = file.path
            self.process.request(context)
            self.warm_up(min(file.warm_tokens, block.n_ctx))
        self.pause()

    def load(self, file, block, with_memory):
        process, _ = self.start()
        try:
            # Python's own start and memory are not llama.cpp's.
            before = process.memory()
            started = time.perf_counter()
            process.request({"measure": "load", "model": str(file.path)})
            process.request({"measure": "context", "n_ctx": block.n_ctx, "threads": block.threads})
            result = self.first_token(process, started, with_memory)
            for key, own in zip(("peak_bytes", "anonymous_bytes"), before):
                if key in result:
                    result[key] -= own
            return result
        finally:
            process.close()


class IkLlamaCpp(Side):
    """ik_llama.cpp's own benchmark programs: a process per measurement, which loads and warms up by itself."""

    resident = False
    kinds = ("prefill", "decode")

    def __init__(self, folder, repack):
        super().__init__(f"ik -rtr {int(repack)}")
        self.folder, self.repack = Path(folder), repack
        self.file = self.block = None

    def open(self, file, block):
        self.file, self.block = file, block

    def measure(self, row):
        threads = ["-t", self.block.threads]
        if row.n_seqs > 1:
            command = [self.folder / "llama-batched-bench", "-m", self.file.path, *threads, "-tb", self.block.threads,
                       "-c", row.n_seqs * (row.n_tokens + 2) + 512, "-ub", 512, "-npp", 1, "-ntg", row.n_tokens,
                       "-npl", row.n_seqs, *(["-rtr"] if self.repack else [])]
            return {"tokens_per_s": batched_speed(self.run(command), row.n_seqs)}
        work = ["-p", row.n_tokens, "-n", 0]
        if row.kind == "decode":
            work = ["-p", 0, "-n", row.n_tokens]
            if row.depth:
                work = ["-p", 0, "-n", 0, "-gp", f"{row.depth},{row.n_tokens}"]
        command = [self.folder / "llama-bench", "-m", self.file.path, *threads, *work, "-r", 1,
                   "-rtr", int(self.repack), "-o", "json"]
        output = self.run(command)
        commit = re.search(r'"build_commit": "(\w+)"', output)
        return {"tokens_per_s": bench_speed(output), "build_commit": commit and commit.group(1)}

    def run(self, command):
        # Its programs leave log files where they run.
        with tempfile.TemporaryDirectory() as folder:
            command = [str(Path(part).resolve()) if isinstance(part, Path) else str(part) for part in command]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace",
                                      timeout=ANSWER_SECONDS_MAX)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SideError(str(error)) from error
        if done.returncode != 0:
            raise SideError(f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:300]}")
        return done.stdout + "\n" + done.stderr


def bench_speed(output):
    """Tokens per second from llama-bench's JSON. Warnings stand in the midst of it, so it cannot be parsed as such."""
    found = re.findall(r'"avg_ts": ([0-9.]+)', output)
    if not found:
        raise SideError("llama-bench gave no figure")
    return float(found[-1])


def batched_speed(output, n_seqs):
    """Tokens per second of generation from the table of llama-batched-bench."""
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[2] == str(n_seqs):
            return float(cells[7])
    raise SideError("llama-batched-bench gave no figure")


class Busy:
    """One other process that computes and never waits."""

    def __enter__(self):
        # A session of its own, as other people's programs have; it ends with the driver, however that ends.
        program = f"import os\nwhile os.getppid() == {os.getpid()}:\n for _ in range(1000000): pass"
        self.child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        time.sleep(0.2)
        return self

    def __exit__(self, *exception):
        self.child.kill()
        self.child.wait()
