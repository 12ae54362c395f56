"""HTTP servers that are compared under load: `ingle serve`, and llama-server from the other peers' source."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import machine
import venvs
from sides import SideError, last_line, last_words

# Loading the largest file takes less, except by hanging.
READY_SECONDS_MAX = 300
# The user interface would be downloaded; TLS and tools are not measured. Libraries are found beside the program.
SERVER_FLAGS = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON", "-DLLAMA_BUILD_SERVER=ON",
                "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF",
                "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"]


def source(folder, say):
    """The folder of llama.cpp inside llama-cpp-python's source package, which is fetched once."""
    name = venvs.PACKAGE.replace("-", "_").replace("==", "-")
    found = Path(folder) / name / "vendor" / "llama.cpp"
    if (found / "CMakeLists.txt").exists():
        return found
    say(f"fetching the source of {venvs.PACKAGE}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python",
                   "--dest", scratch, venvs.PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode != 0 or not archives:
            raise venvs.VenvError(f"cannot fetch {venvs.PACKAGE}: {last_line(done.stderr)}")
        with tarfile.open(archives[0]) as archive:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(scratch, **safe)
        # Whole or not at all: a run that is ended here begins again.
        os.replace(Path(scratch) / name, Path(folder) / name)
    if not (found / "CMakeLists.txt").exists():
        raise venvs.VenvError(f"{venvs.PACKAGE} has no llama.cpp inside")
    return found


def build(folder, name, c, cxx, say):
    """Builds llama-server with one pair of compilers, unless it is there."""
    home = Path(folder).resolve() / f"llama-server-{name}"
    binary = home / "llama-server"
    if binary.exists():
        return binary
    code = source(folder, say)
    say(f"building llama-server with {c} (some minutes, once)")
    tree, log = Path(f"{home}.build"), Path(f"{home}.log")
    env = {**os.environ, "CC": c, "CXX": cxx}
    try:
        with open(log, "wb") as out:
            for command in (["cmake", "-S", code, "-B", tree, venvs.NATIVE, *SERVER_FLAGS],
                            ["cmake", "--build", tree, "--target", "llama-server", "-j", str(os.cpu_count() or 1)]):
                subprocess.run(command, env=env, stdout=out, stderr=subprocess.STDOUT, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise venvs.VenvError(f"building llama-server with {c} failed; {log} tells why") from None
    # Whole or not at all; what it was made of is not needed any more.
    os.replace(tree / "bin", home)
    shutil.rmtree(tree, ignore_errors=True)
    return binary


def built(folder, say):
    """One llama-server per compiler that is here."""
    if not shutil.which("cmake"):
        raise venvs.VenvError("cmake is not on PATH: install it, or give a built server with --llama-server NAME=PATH")
    found, failures = {}, []
    for name, (c, cxx) in venvs.compilers().items():
        try:
            found[name] = build(folder, name, c, cxx, say)
        except venvs.VenvError as error:
            failures.append(str(error))
            say(str(error))
    if not found:
        raise venvs.VenvError("; ".join(failures) or "neither gcc with g++ nor clang with clang++ is on PATH: install "
                              "one, or give a built server with --llama-server NAME=PATH")
    return found


def given(pairs):
    """`NAME=PATH` options as a dictionary of programs."""
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            raise venvs.VenvError(f"`{pair}` is not NAME=PATH")
        if name in found or name == "ingle":
            raise venvs.VenvError(f"the name `{name}` is taken")
        if not os.access(path, os.X_OK):
            raise venvs.VenvError(f"{path}: no program")
        found[name] = Path(path).resolve()
    return found


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """A server in a process of its own, for as long as a `with` goes on."""

    def __init__(self, name, command, n_ctx, cores=None):
        self.name, self.command, self.n_ctx, self.cores = name, [str(part) for part in command], n_ctx, cores

    def __enter__(self):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        pin = (lambda: os.sched_setaffinity(0, self.cores)) if self.cores else None
        try:
            self.child = subprocess.Popen([*self.command, "--port", str(self.port)], stdin=subprocess.DEVNULL,
                                          stdout=self.log, stderr=self.log, preexec_fn=pin,
                                          env={**os.environ, "INGLE_CONFIG": os.devnull, "INGLE_DATA_DIR": ""})
        except OSError as error:
            self.log.close()
            raise SideError(f"cannot start {self.command[0]}: {error}") from error
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise SideError(f"{self.name} ended with {self.child.returncode}: {self.last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise SideError(f"{self.name} is not ready after {READY_SECONDS_MAX} seconds")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def memory(self):
        """As `machine.memory_of` has it."""
        return machine.memory_of(self.child.pid)

    def last_words(self):
        return last_words(self.log)

    def __exit__(self, *exception):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.log.close()


def ingle(binary, model, threads, clients, n_ctx):
    """`ingle serve`: as many sequences as clients, and K/V memory for as many tokens as the other has. Prefixes are
    cached unless it is told otherwise."""
    return [binary, "serve", "--model", model, "--host", "127.0.0.1", "-t", threads, "--parallel", clients,
            "-c", n_ctx, "--kv-tokens", n_ctx * clients]


def llama_server(binary, model, threads, clients, n_ctx, more):
    """llama-server: a slot for each client, each of which keeps its last prompt and so the shared prefix; continuous
    batching and flash attention as it chooses by itself. `--cache-ram 0`: copies of slots in memory besides would help
    nobody here, and count against it."""
    return [binary, "-m", model, "--host", "127.0.0.1", "-t", threads, "-tb", threads, "-np", clients,
            "-c", n_ctx * clients, "--cache-ram", 0, "--no-webui", *more]
